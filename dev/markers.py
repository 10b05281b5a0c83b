"""
Tables that a script writes into a page: what stands between two lines of the page,

    <!-- NAME:begin -->
    <!-- NAME:end -->

is replaced, the rest stays. The new page appears complete or not at all. Scripts import this. Alone it writes what it reads into a
page, as a block of plain text: dev/walk gate | python3 dev/markers.py PAGE NAME
"""
import os
import sys


def die(message, hint):
    sys.stderr.write("%s: %s\n---> HINT: %s\n" % (os.path.basename(sys.argv[0]), message, hint))
    sys.exit(1)


def write_between(path, name, text):
    # text: whole lines of ASCII
    begin, end = "<!-- %s:begin -->\n" % name, "<!-- %s:end -->\n" % name
    try:
        with open(path) as f:
            old = f.read()
        if begin not in old or end not in old.split(begin, 1)[1]:
            die("%s has no markers" % path, "two lines: %s and %s" % (begin.strip(), end.strip()))
        after = old.split(begin, 1)[1]
        with open(path + ".tmp", "w") as f:
            f.write(old[:old.index(begin) + len(begin)] + text + after[after.index(end):])
            f.flush()
            os.fsync(f.fileno())
        os.replace(path + ".tmp", path)
    except OSError as e:
        die("%s: %s" % (path, e.strerror), "a text file with the markers, which may be written")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.stderr.write("markers.py: PAGE and NAME\n---> HINT: make docs-examples shows how\n")
        sys.exit(2)
    write_between(sys.argv[1], sys.argv[2], "```\n" + sys.stdin.read() + "```\n")
