#!/usr/bin/env python3
"""
unicode_ranges.py: which code points are letters, numbers and blanks, as GPT-2's pattern sees them (\\p{L}, \\p{N}, \\s).

  python3 dev/unicode_ranges.py            print the table
  python3 dev/unicode_ranges.py --write    put it into data/tokenize.c, between the markers

The source is Python's unicodedata: a newer Python knows more letters. Only the standard library is used.
Each list counts code points from 0 on: so many that are none, so many that are, so many that are none, ...
"""
import os
import sys
import unicodedata

BEGIN, END = "// BEGIN unicode_ranges.py", "// END unicode_ranges.py"
SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data", "tokenize.c")
COLUMNS = 132

def is_blank(c):
    """Unicode's White_Space: the separators, and six control characters."""
    return unicodedata.category(c)[0] == "Z" or c in "\t\n\v\f\r\x85"

def runs(belongs):
    """-> [none, some, none, some, ...], the lengths of the runs"""
    lengths, some = [0], False
    for code in range(0x110000):
        if belongs(chr(code)) != some:
            lengths.append(0)
            some = not some
        lengths[-1] += 1
    return lengths if some else lengths[:-1]

def block():
    lines = ["%s (Unicode %s)" % (BEGIN, unicodedata.unidata_version)]
    for name, belongs in (("letters", lambda c: unicodedata.category(c)[0] == "L"),
                          ("numbers", lambda c: unicodedata.category(c)[0] == "N"), ("blanks", is_blank)):
        lengths = runs(belongs)
        if max(lengths) > 65535:
            sys.exit("error: a run of %s is too long for 16 bits\n---> HINT: make the tables uint32_t" % name)
        line = "static const uint16_t %s[] = { // %d code points in %d runs" % (name, sum(lengths[1::2]), len(lengths) // 2)
        for word in ["%d," % n for n in lengths[:-1]] + ["%d};" % lengths[-1]]:
            if line.startswith("static") or len(line) + len(word) > COLUMNS:
                lines.append(line)
                line = "    "
            line += word
        lines.append(line)
    return "\n".join(lines + [END]) + "\n"

def write():
    with open(SOURCE, encoding="ascii") as f:
        text = f.read()
    begin, end = text.find(BEGIN), text.find(END)
    if begin < 0 or end < begin:
        sys.exit("error: data/tokenize.c lacks the markers\n---> HINT: put back two lines: %s and %s" % (BEGIN, END))
    new = text[:begin] + block() + text[end + len(END) + 1:]
    with open(SOURCE + ".tmp", "w", encoding="ascii") as f:
        f.write(new)
    os.replace(SOURCE + ".tmp", SOURCE)
    print("data/tokenize.c: Unicode %s, %s" % (unicodedata.unidata_version, "as it was" if new == text else "changed"))

if sys.argv[1:] == ["--write"]:
    write()
elif not sys.argv[1:]:
    sys.stdout.write(block())
else:
    sys.exit(__doc__)
