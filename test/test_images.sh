#!/bin/sh
# Pictures as users make them: dev/images.py turns folders into records whose every byte is known here, splits them in the same
# way each time, and meets broken files, wrong folders and a full disk with one clear line; so does data/shapes, whose files are
# looked at from outside. Needs python3 with Pillow for the first part: without it that part is NOT TESTED. Ends with
# `N passed, N failed`.
# shellcheck disable=SC2086 # lists of options are meant to be split
set -u
export LC_ALL=C
cd "$(dirname "$0")/.." || exit 1
root=$PWD
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
for python in python3 /usr/bin/python3 ''; do
    if [ -n "$python" ] && "$python" -c 'import PIL' 2> /dev/null; then break; fi
done
cd "$dir" || exit 1
passed=0 failed=0

ok() { passed=$((passed + 1)); }
bad() { failed=$((failed + 1)); echo "FAILED: $1"; shift; for f in "$@"; do sed 's/^/    /' "$f" | tail -n 5; done; }

refused() { # exit code it had and should have, text that the error must hold, what it was
    if [ "$1" -eq "$2" ] && [ "$(grep -c '^error: ' stderr)" -eq 1 ] && [ "$(grep -c '^---> HINT: ' stderr)" -eq 1 ] \
        && [ "$(tail -n 2 stderr | grep -c -e '^error: ' -e '^---> HINT: ')" -eq 2 ] && grep -qF -e "$3" stderr; then ok
    else bad "$4 (exit $1, wanted $2 and \"$3\")" stderr; fi
}
refuses() { # exit code, text that the error must hold, then the command line
    code=$1 want=$2
    shift 2
    "$@" > stdout 2> stderr
    refused $? "$code" "$want" "$*"
}
succeeds() { # what it shows, then the command line; nothing may come on stderr
    what=$1
    shift
    if "$@" > stdout 2> stderr && [ ! -s stderr ]; then ok; else bad "$what: $*" stdout stderr; fi
}
check() { # what it shows, then a command that must succeed
    what=$1
    shift
    if "$@" > check.out 2>&1; then ok; else bad "$what: $*" check.out; fi
}
size_is() { check "$1 has $2 bytes" test "$(($(wc -c < "$1")))" -eq "$2"; }
files_are() { # folder, then the names of all that should lie in it
    ls "$1" > have
    shift
    if [ $# -gt 0 ]; then printf '%s\n' "$@"; fi > want
    check "what is written" cmp have want
}

# ---- data/shapes -----------------------------------------------------------------------------------------------------------

shapes=$root/data/shapes
mkdir out
succeeds "pictures and truth" "$shapes" --n 10 --out out/a.bin --truth out/a.truth
files_are out a.bin a.truth
size_is out/a.bin 30740
size_is out/a.truth 640
check "the summary counts them" grep -Eq '^all +10 +[0-9.]+% +[0-9.]+% +[0-9.]+%$' stdout
succeeds "a sheet alone" "$shapes" --sheet out/s.ppm
files_are out a.bin a.truth s.ppm
size_is out/s.ppm $((16 + 1536 * 384 * 3))
check "it is a PPM" test "$(head -n 2 out/s.ppm | tr '\n' ' ')" = "P6 1536 384 "
refuses 2 "unknown option --m" "$shapes" --m 3
refuses 2 "--n takes whole numbers from 1 to 1000000" "$shapes" --n 0
refuses 1 "cannot write nowhere/a.bin.tmp: No such file" "$shapes" --n 10 --out nowhere/a.bin
(trap '' XFSZ; ulimit -f 16; exec "$shapes" --n 10 --seed 2 --out out/a.bin) > stdout 2> stderr
refused $? 1 "cannot write out/a.bin" "a full disk"
size_is out/a.bin 30740
files_are out a.bin a.truth s.ppm
if [ -w /dev/full ]; then
    "$shapes" --n 10 --out out/a.bin > /dev/full 2> stderr
    refused $? 1 "cannot print" "nowhere to print"
fi

# ---- dev/images.py -----------------------------------------------------------------------------------------------------------

if [ -z "$python" ]; then
    echo "NOT TESTED: dev/images.py (python3 with Pillow is not on this machine: dev/setup.sh --oracle)"
    echo "$passed passed, $failed failed"
    [ $failed -eq 0 ]
    exit
fi
export PYTHONDONTWRITEBYTECODE=1
images() { "$python" -W error "$root/dev/images.py" "$@"; }

cat > make.py <<'END'
import os
from PIL import Image
def save(path, im, **more):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    im.save(path, **more)
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
def thirds(w, h):
    im = Image.new("RGB", (3 * w, h), RED)
    im.paste(GREEN, (w, 0, 2 * w, h))
    im.paste(BLUE, (2 * w, 0, 3 * w, h))
    return im
# one of each kind: what becomes of it is known
save("odd/kind/wide.png", thirds(50, 50))                          # the middle: all green
save("odd/kind/tall.png", thirds(50, 50).rotate(90, expand=True))
board = Image.new("L", (64, 64))
board.putdata([255 * ((x + y) % 2) for y in range(64) for x in range(64)])
save("odd/kind/board.png", board)                                  # one pixel of four is not enough: gray, not black or white
save("odd/kind/clear.png", Image.new("RGBA", (40, 40), (255, 0, 0, 0)))   # transparent: white
save("odd/kind/palette.gif", Image.new("P", (40, 40), 0), transparency=0)
deep = Image.new("I", (40, 40), 128 * 257)
save("odd/kind/deep.png", deep)                                    # 16 bits: 128 of 255
side = Image.new("RGB", (40, 40), RED)
side.paste(BLUE, (0, 20, 40, 40))
exif = Image.Exif()
exif[0x0112] = 6                                                   # to be turned by 90 degrees clockwise: blue left, red right
save("odd/kind/turned.png", side, exif=exif)
top = Image.new("RGB", (32, 32), (10, 20, 30))
top.putpixel((3, 1), (200, 100, 50))
save("odd/kind/exact.bmp", top)                                    # 32 x 32 already: every pixel as it is
# two domains, three classes, a colour of its own for each picture
for d, domain in enumerate(("photo", "art painting")):
    for c, label in enumerate(("dog", "cat", "Elk")):
        for i in range(10 + 5 * c):
            save("set/%s/%s/%d.png" % (domain, label, i), Image.new("RGB", (9, 7), (d * 100 + 7, c * 50 + 3, i * 3)))
END
cat > read.py <<'END'
import sys
from collections import Counter
def need(ok, what):
    if not ok:
        sys.exit(what)
def records(path, side=32):
    data, n = open(path, "rb").read(), 2 + 3 * side * side
    need(len(data) % n == 0 and data, "%s: %d bytes" % (path, len(data)))
    return [data[i:i + n] for i in range(0, len(data), n)]
def flat(r, size=32):
    """The colour of a picture of one colour."""
    planes = [r[2 + i * size * size:2 + (i + 1) * size * size] for i in range(3)]
    need(all(len(set(p)) == 1 for p in planes), "not of one colour")
    return tuple(p[0] for p in planes)
def odd(path):
    got = {}
    for r in records(path):
        need(r[0] == 0 and r[1] == 0, "labels")
        p = [r[2 + 1024 * i:2 + 1024 * (i + 1)] for i in range(3)]
        if p[0][32 + 3] == 200:
            want = [bytearray([v] * 1024) for v in (10, 20, 30)]
            for i, v in enumerate((200, 100, 50)):
                want[i][32 + 3] = v
            need(all(bytes(a) == b for a, b in zip(want, p)), "exact.bmp: not every pixel as it is")
            got["exact"] = 1
        elif p[0] != p[2] and p[0][0] != p[0][31]:
            need(p[2][0] == p[2][992] == 255 and p[0][31] == p[0][1023] == 255, "turned.png: not blue left, red right")
            got["turned"] = 1
        elif len(set(p[0])) > 1:
            need(p[0] == p[1] == p[2] and all(90 < v < 165 for v in p[0]), "board.png: not gray all over")
            got["board"] = 1
        else:
            got[flat(r)] = got.get(flat(r), 0) + 1
    want = {"exact": 1, "turned": 1, "board": 1, (0, 255, 0): 2, (255, 255, 255): 2, (128, 128, 128): 1}
    need(got == want, "pictures: %s" % got)
def whole(train, val, share):
    """set/: every picture once, labels by the order of the names, the share of each class in each domain."""
    parts = [[(r[0], r[1]) + flat(r) for r in records(f)] if f != "-" else [] for f in (train, val)]
    order = {7: 1, 107: 0}, {3: 2, 53: 1, 103: 0} # of red and green: "art painting" < "photo", "Elk" < "cat" < "dog"
    want = {(order[0][100 * d + 7], order[1][50 * c + 3], 100 * d + 7, 50 * c + 3, 3 * i)
            for d in range(2) for c in range(3) for i in range(10 + 5 * c)}
    need(len(parts[0] + parts[1]) == len(want) == 90 and set(parts[0] + parts[1]) == want, "not every picture once")
    counts = Counter(p[:2] for p in parts[1])
    for d in range(2):
        for c, n in enumerate((20, 15, 10)):
            need(counts[(d, c)] == int(n * float(share) + 0.5), "class %d: %d of %d" % (c, counts[(d, c)], n))
    need(len({p[:2] for p in parts[0][:12]}) > 2, "not shuffled")
def size(path, side):
    need(sorted({flat(r, int(side)) for r in records(path, int(side))})[0] == (7, 3, 0), "a picture of another size")
globals()[sys.argv[1]](*sys.argv[2:])
END
"$python" make.py || bad "the pictures for this test could not be made"
mkdir made

succeeds "one domain" images odd made/odd --val 0
files_are made odd.classes.txt odd_train.bin
check "pictures of all kinds" "$python" read.py odd made/odd_train.bin
printf 'domain 0 odd\nclass 0 kind\n' > want
check "names" cmp want made/odd.classes.txt
rm made/*
succeeds "two domains" images set made/set
files_are made set.classes.txt set_train.bin set_val.bin
check "all of them, a fifth for validation" "$python" read.py whole made/set_train.bin made/set_val.bin 0.2
printf 'domain 0 art painting\ndomain 1 photo\nclass 0 Elk\nclass 1 cat\nclass 2 dog\n' > want
check "names" cmp want made/set.classes.txt
check "it says how many" grep -qx 'made/set_val.bin: 18 pictures of 3074 bytes' stdout
succeeds "once more, from elsewhere" images "$dir/set/" made/again
check "the same pictures" cmp made/set_train.bin made/again_train.bin
check "the same split" cmp made/set_val.bin made/again_val.bin
succeeds "another seed" images set made/other --seed 2 --val 0.5
check "all of them, half for validation" "$python" read.py whole made/other_train.bin made/other_val.bin 0.5
succeeds "seed 2 with the first share" images set made/other --seed 2
if cmp -s made/set_val.bin made/other_val.bin; then bad "two seeds, one split"; else ok; fi
succeeds "no validation" images set made/all --val 0
check "all of them" "$python" read.py whole made/all_train.bin - 0
check "no such file" test ! -e made/all_val.bin
for side in 64 96 224; do
    succeeds "size $side" images set made/size --size $side
    check "every picture has that size" "$python" read.py size made/size_train.bin $side
    size_is made/size_val.bin $((18 * (2 + 3 * side * side)))
done

# broken files: a line each, and the others are made
cp -r set part
echo "no picture" > part/photo/dog/0.png
head -c 45 set/photo/cat/0.png > part/photo/cat/0.png
: > part/photo/cat/1.jpg
echo "not looked at" > part/photo/cat/notes.txt
echo "nor this" > part/photo/cat/.hidden.png
if images part made/part > stdout 2> stderr; then ok; else bad "broken files" stderr; fi
check "a line for each" test "$(grep -c '^left out photo/[dc][oa][gt]/[01]\.[pj][np]g: ' stderr)" -eq 3
check "and nothing else" test "$(wc -l < stderr)" -eq 3
check "their number" grep -qx '3 files could not be read and were left out' stdout
check "the others" test $(($(wc -c < made/part_train.bin) + $(wc -c < made/part_val.bin))) -eq $((88 * 3074))
rm made/*
mkdir -p broken/a
echo x > broken/a/1.png
refuses 1 "no picture for made/broken_train.bin" images broken made/broken

# wrong folders, options, places
refuses 1 "cannot read nowhere: No such file" images nowhere made/a
refuses 1 "no pictures in the folders of broken/a" images broken/a made/a
mkdir empty
refuses 1 "no pictures in the folders of empty" images empty made/a
cp -r set mixed
cp set/photo/cat/0.png mixed/photo/
refuses 1 "mixed is both: photo/0.png lies in CLASS/, art painting/Elk/0.png in DOMAIN/CLASS/" images mixed made/a
mkdir many
i=0
while [ $i -lt 257 ]; do mkdir many/$i; ln set/photo/cat/0.png many/$i/; i=$((i + 1)); done
refuses 1 "257 classes, at most 256" images many made/a
refuses 2 "--size" images set made/a --size 33
refuses 2 "--val takes 0 to 0.9" images set made/a --val 1
refuses 2 "--val takes 0 to 0.9" images set made/a --val nan
refuses 2 "NAME" images set
refuses 2 "NAME must not end in /" images set made/
refuses 1 "cannot write nowhere/a_train.bin: No such file" images set nowhere/a
files_are made
succeeds "before the disk is full" images set made/set
cp made/set_train.bin old
(trap '' XFSZ; ulimit -f 256; images set made/set --seed 3) > stdout 2> stderr
refused $? 1 "cannot write made/set_train.bin: File too large" "a full disk"
check "the old file stays" cmp old made/set_train.bin
files_are made set.classes.txt set_train.bin set_val.bin
mkdir made/in_train.bin
refuses 1 "cannot write made/in_train.bin: Is a directory" images set made/in
files_are made in_train.bin set.classes.txt set_train.bin set_val.bin
mkdir hides # Pillow
echo 'raise ImportError("No module named PIL")' > hides/PIL.py
PYTHONPATH=hides refuses 1 "No module named PIL" images set made/a
check "how to get it" grep -q 'apt-get install python3-pil' stderr
succeeds "--help" images --help
check "it tells the layout" grep -q 'a byte for the domain, a byte for the class' stdout

# what data/shapes draws is a picture for others too
check "the sheet" "$python" -c 'from PIL import Image; im = Image.open("out/s.ppm"); im.load(); assert im.size == (1536, 384)'

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
