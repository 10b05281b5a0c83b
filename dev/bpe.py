#!/usr/bin/env python3
"""
bpe.py: GPT-2's tokens in plain Python, the oracle of data/tokenize.c. Slow and simple; standard library only.

  python3 dev/bpe.py fixture [DIR]               write small.bpe, torture.txt, torture.bin into DIR (test/bpe)
  python3 dev/bpe.py encode VOCAB TEXT FILE.bin  what data/tokenize encode --documents none should write

Text is Unicode here, and bytes that are not UTF-8 are lone surrogates (surrogateescape): neither letter, number nor blank.
The pattern is tried alternative by alternative, as it is written. Merges go as in OpenAI's encoder.py: find the pair of
neighbours with the lowest rank, join it wherever it stands, from left to right, and look again.
The fixture's vocabulary is trained on generated text. Its characters are in Unicode since long: any Python will do.
"""
import os
import random
import struct
import sys
import unicodedata
from collections import Counter

# ----------------------------------------------------------------------------
# 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+

def kind(c):
    if c in "\t\n\v\f\r\x85" or unicodedata.category(c)[0] == "Z":
        return "blank"
    return {"L": "letter", "N": "number"}.get(unicodedata.category(c)[0], "other")

def match(s, i):
    """The end of the match that starts at i."""
    for word in ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d"):
        if s.startswith(word, i):
            return i + len(word)
    for wanted in ("letter", "number", "other"):
        start = i + 1 if s[i] == " " else i
        end = start
        while end < len(s) and kind(s[end]) == wanted:
            end += 1
        if end > start:
            return end
    longest = i
    while longest < len(s) and kind(s[longest]) == "blank":
        longest += 1
    for end in range(longest, i, -1): # as many as possible, but something that is no blank must not follow
        if end == len(s) or kind(s[end]) == "blank":
            return end
    return longest

def pieces(s):
    i = 0
    while i < len(s):
        end = match(s, i)
        yield s[i:end].encode("utf-8", "surrogateescape")
        i = end

# ----------------------------------------------------------------------------
# merges: pairs of byte strings

def join(word, pair):
    """[b"a", b"b", b"c"], (b"a", b"b") -> [b"ab", b"c"]"""
    out, i = [], 0
    while i < len(word):
        if tuple(word[i:i + 2]) == pair:
            out.append(word[i] + word[i + 1])
            i += 2
        else:
            out.append(word[i])
            i += 1
    return out

def apply_merges(piece, ranks):
    word = [bytes([b]) for b in piece]
    while len(word) > 1:
        pair = min(zip(word, word[1:]), key=lambda p: ranks.get(p, len(ranks)))
        if pair not in ranks:
            break
        word = join(word, pair)
    return word

def train(text, n):
    """-> n merges: each joins the most frequent pair of neighbours; of several, the first in the order of bytes"""
    words = Counter(pieces(text))
    words = [([bytes([b]) for b in w], count) for w, count in sorted(words.items())]
    merges = []
    while len(merges) < n:
        seen = Counter()
        for word, count in words:
            for pair in zip(word, word[1:]):
                seen[pair] += count
        merges.append(min(seen, key=lambda p: (-seen[p], p)))
        words = [(join(word, merges[-1]), count) for word, count in words]
    return merges

# ----------------------------------------------------------------------------
# files

def alphabet():
    """-> the 256 bytes in the order of their tokens, {byte: character of vocab.bpe}"""
    printable = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or b >= 174]
    others = [b for b in range(256) if b not in printable]
    names = {b: chr(b) for b in printable}
    names.update((b, chr(256 + i)) for i, b in enumerate(others))
    return [bytes([b]) for b in printable + others], names

def write_vocab(path, merges):
    names = alphabet()[1]
    with open(path, "w", encoding="utf-8", newline="\n") as f:
        f.write("#version: 0.2\n")
        for pair in merges:
            f.write(" ".join("".join(names[b] for b in part) for part in pair) + "\n")

def read_vocab(path):
    """-> {pair: rank}, {token's bytes: its number}"""
    order, names = alphabet()
    byte_of = {c: b for b, c in names.items()}
    with open(path, encoding="utf-8", newline="\n") as f:
        lines = f.read().split("\n")[1:-1]
    merges = [tuple(bytes(byte_of[c] for c in part) for part in line.split(" ")) for line in lines]
    tokens = order + [a + b for a, b in merges]
    return {pair: i for i, pair in enumerate(merges)}, {token: i for i, token in enumerate(tokens)}

def encode(vocab, text, out):
    ranks, numbers = read_vocab(vocab)
    with open(text, "rb") as f:
        s = f.read().decode("utf-8", "surrogateescape")
    known = {} # text repeats itself
    tokens = []
    for piece in pieces(s):
        if piece not in known:
            known[piece] = [numbers[t] for t in apply_merges(piece, ranks)]
        tokens += known[piece]
    with open(out, "wb") as f:
        f.write(struct.pack("<256i", 20240520, 1, len(tokens), *[0] * 253))
        f.write(struct.pack("<%dH" % len(tokens), *tokens))
    print("%s: %d tokens" % (out, len(tokens)))

# ----------------------------------------------------------------------------
# the fixture

ATOMS = [ # what can go wrong where two of them meet
    "'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'RE", "'l", "'r", "'v", "'", "''", "\u2019s",
    " ", "  ", "   ", "\n", "\t", "\r\n", " \n", "\n ", "\x0b\x0c", "\x85", "\u00a0", "\u2003", "\u3000", "\u2028",
    "\u200b", "\x1c",
    "a", "the", "The", "don", "I", "we", "xyz", "aaaa", "\u00e9", "na\u00efve", "stra\u00dfe", "\u0130", "\u00aa", "e\u0301",
    "\u03b1\u03b2\u03b3", "\u043c\u0438\u0440", "\u05e9\u05dc\u05d5\u05dd", "\u0645\u0631\u062d\u0628\u0627",
    "\u0928\u092e\u0938\u094d",
    "\u4e2d\u6587", "\u65e5\u672c\u8a9e", "\ud55c\uad6d\uc5b4", "\U00020000", "\U0001d518",
    "0", "7", "2024", "3.14", "1,000", "\u00b2", "\u00bd", "\u2167", "\u0663", "\u4e00",
    ".", "...", "!?", "--", "#", "$", "_", "(", ")", "\"", "<|endoftext|>", "=====", "\u20ac", "\u2014", "\U0001f600",
    "\u2764\ufe0f",
    "\U0001f468\u200d\U0001f469", "\x00", "\x7f", "\ufeff", "\ufffd", "\ue000", "\U0010ffff"]
NOT_UTF8 = [b"\xff", b"\x80", b"\xc0\x80", b"\xe2\x82", b"\xed\xa0\x80", b"\xf0\x9f\x98", b"\xf4\x90\x80\x80", b"\xf8\x88", b"\xc3"]

class Draws:
    """Only random() is the same in every Python."""
    def __init__(self, seed):
        self.random = random.Random(seed).random
    def below(self, n):
        return int(self.random() * n)
    def one_of(self, things):
        return things[self.below(len(things))]

def generated_text(n):
    """n words; the first of a list of made-up ones are the frequent ones"""
    draws = Draws(1)
    syllables = [c + v for c in "bdfghklmnprstw" for v in ("a", "e", "i", "o", "u", "an", "er", "\u00e9", "ou")]
    words = ["".join(draws.one_of(syllables) for _ in range(1 + draws.below(3))) for _ in range(400)]
    words += [a for a in ATOMS if kind(a[0]) != "blank"]
    out = []
    for _ in range(n):
        word = words[int(len(words) * draws.random() ** 2)]
        out.append(word.capitalize() if draws.below(8) == 0 else word)
        number = " %d " % draws.below(1000)
        out.append(draws.one_of([" "] * 12 + [", ", ". ", "\n", "\n\n", "  ", "    ", "'s ", "'ll ", " = ", number]))
    return "".join(out)

def torture_text(n):
    """bytes: a run without any blank, then n atoms in disorder, some bytes that are not UTF-8, blanks at the end"""
    draws = Draws(2)
    out = [b"\x00", ("a" * 601 + "=" * 600 + "aaabab" * 70 + "\u4e2d" * 100).encode()]
    for _ in range(n):
        atom = draws.one_of(ATOMS).encode()
        out.append(draws.one_of(NOT_UTF8) if draws.below(25) == 0 else atom * (1 + 2 * (draws.below(12) == 0)))
    out.append("".join(draws.one_of("ab") for _ in range(700)).encode())
    return b"".join(out) + generated_text(300).encode() + b" \n  "

def fixture(folder):
    os.makedirs(folder, exist_ok=True)
    vocab, text = os.path.join(folder, "small.bpe"), os.path.join(folder, "torture.txt")
    write_vocab(vocab, train(generated_text(6000) + "a" * 64 + "ab" * 40 + "\n" * 9, 700))
    with open(text, "wb") as f:
        f.write(torture_text(2500))
    encode(vocab, text, os.path.join(folder, "torture.bin"))

def main(args):
    if args[:1] == ["fixture"] and len(args) <= 2:
        fixture(args[1] if len(args) == 2 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "test", "bpe"))
    elif args[:1] == ["encode"] and len(args) == 4:
        encode(*args[1:])
    else:
        sys.exit(__doc__)

if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except OSError as e:
        sys.exit("error: %s: %s\n---> HINT: is the path right?" % (e.filename, e.strerror))
    except (KeyError, ValueError) as e:
        sys.exit("error: no vocab.bpe: %s\n---> HINT: data/tokenize says which line of it is wrong" % e)
