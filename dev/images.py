#!/usr/bin/env python3
"""
Makes a data set of pictures from folders of pictures: PACS, Tiny ImageNet, or one's own photographs.

    python3 dev/images.py FOLDER NAME [--size 32] [--val 0.2] [--seed 1]
    python3 dev/images.py PICTURE NAME [--size 32]                          one picture: NAME.ppm, for --predict

FOLDER holds DOMAIN/CLASS/*.jpg, or CLASS/*.jpg, which is one domain with the name of FOLDER. Written are

    NAME_train.bin, NAME_val.bin    records: a byte for the domain, a byte for the class, SIZE x SIZE red, green and blue bytes
    NAME.classes.txt                lines `domain NUMBER NAME` and `class NUMBER NAME`

With --size 32 that is CIFAR-100's binary layout. The files have no header: who reads them must be told the size (--image SIZE).

Pictures (jpg, jpeg, png, bmp, gif, webp, ppm, tif, tiff) are turned upright as their EXIF data says, put on white where they
are transparent, cut to the largest square in the middle, and shrunk or enlarged to SIZE with an antialiasing filter.
A file that cannot be read gets one line and is left out; other files and names that begin with a dot are left alone.

Domains and classes are numbered in the order of their names (as bytes). A share --val of each class in each domain is
validation. Which pictures these are, and the order in which both files hold theirs, is drawn by a checksum of --seed and path:
the same folder gives the same split and order anywhere, and the same bytes with the same version of Pillow.
Needs Pillow (Debian: python3-pil), nothing else.
"""
import argparse, hashlib, os, sys, warnings

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".tif", ".tiff")

def fail(code, hint, message):
    print("error: %s\n---> HINT: %s" % (message, hint), file=sys.stderr)
    sys.exit(code)

try:
    from PIL import Image, ImageOps
except ImportError as e:
    fail(1, "on Debian: apt-get install python3-pil, then /usr/bin/python3 dev/images.py; elsewhere: pip install pillow", e)

# ----------------------------------------------------------------------------
# What is there

def entries(folder):
    """Names in a folder, as bytes, in order."""
    try:
        return sorted(n for n in os.listdir(folder) if not n.startswith(b"."))
    except OSError as e:
        fail(1, "is it the folder that holds DOMAIN/CLASS/*.jpg or CLASS/*.jpg?",
             "cannot read %s: %s" % (shown(folder), e.strerror))

def shown(path):
    return os.fsdecode(path).encode("ascii", "backslashreplace").decode()

def is_picture(path):
    return os.fsdecode(path).lower().endswith(ENDINGS) and os.path.isfile(path)

def pictures_in(folder):
    return [n for n in entries(folder) if is_picture(os.path.join(folder, n))]

def find(root):
    """[(domain, class, path below root)] of names, and whether there are domains."""
    found = {1: [], 2: []} # by the number of folders between root and picture
    for a in entries(root):
        if os.path.isdir(os.path.join(root, a)):
            found[1] += [(None, a, os.path.join(a, n)) for n in pictures_in(os.path.join(root, a))]
            for b in entries(os.path.join(root, a)):
                if os.path.isdir(os.path.join(root, a, b)):
                    found[2] += [(a, b, os.path.join(a, b, n)) for n in pictures_in(os.path.join(root, a, b))]
    if found[1] and found[2]:
        fail(1, "move one of them away", "%s is both: %s lies in CLASS/, %s in DOMAIN/CLASS/"
             % (shown(root), shown(found[1][0][2]), shown(found[2][0][2])))
    if not found[1] and not found[2]:
        fail(1, "it should hold DOMAIN/CLASS/*.jpg or CLASS/*.jpg", "no pictures in the folders of %s" % shown(root))
    if found[2]:
        return found[2]
    name = os.path.basename(os.path.realpath(root)) or b"all"
    return [(name, c, path) for _, c, path in found[1]]

def numbered(names, what):
    names = sorted(set(names))
    if len(names) > 256:
        fail(1, "a byte holds its number: use fewer folders", "%d %s, at most 256" % (len(names), what))
    for n in names:
        if b"\n" in n or b"\r" in n:
            fail(1, "rename that folder", "the name of a folder has a line break: %s" % ascii(os.fsdecode(n)))
    return {n: i for i, n in enumerate(names)}

def split(found, share, seed):
    """Two lists: training and validation. One order for all, drawn by a checksum that no version of Python changes."""
    ordered = sorted(found, key=lambda f: hashlib.sha256(b"%d/" % seed + f[2]).digest())
    groups = {}
    for f in ordered:
        groups.setdefault(f[:2], []).append(f)
    val = set()
    for group in groups.values():
        val.update(f[2] for f in group[:int(len(group) * share + 0.5)])
    return [f for f in ordered if f[2] not in val], [f for f in ordered if f[2] in val]

# ----------------------------------------------------------------------------
# Pictures and files

def planes(path, size):
    """size x size bytes each of red, green, blue."""
    with Image.open(path) as im:
        im = ImageOps.exif_transpose(im)
        if im.mode.startswith("I"): # 16 bits: Pillow would cut them off at 255
            im = im.convert("I").point(lambda v: v / 257).convert("L")
        if im.mode in ("RGBA", "LA", "PA") or "transparency" in im.info:
            im = im.convert("RGBA")
            im = Image.alpha_composite(Image.new("RGBA", im.size, "white"), im)
        im = im.convert("RGB")
        side = min(im.size)
        left, top = (im.width - side) // 2, (im.height - side) // 2
        im = im.crop((left, top, left + side, top + side)) # resize(box=) would let in what lies beside the box
        im = im.resize((size, size), Image.BICUBIC)
        return b"".join(channel.tobytes() for channel in im.split())

class Output:
    """Files that get their names all together, when all of them are complete and on the disk."""
    def __init__(self):
        self.paths = []
    def write(self, path, parts):
        try:
            self.paths.append(path)
            with open(path + ".tmp", "wb") as f:
                for part in parts:
                    f.write(part)
                f.flush()
                os.fsync(f.fileno())
        except OSError as e:
            self.give_up(path, e)
    def keep(self):
        for path in self.paths:
            try:
                os.replace(path + ".tmp", path)
            except OSError as e:
                self.give_up(path, e)
    def clear(self):
        for path in self.paths:
            if os.path.isfile(path + ".tmp"):
                os.remove(path + ".tmp")
    def give_up(self, path, e):
        self.clear()
        fail(1, "is the disk full, does the folder exist, and may you write there?",
             "cannot write %s: %s" % (shown(path), e.strerror))

def records(root, found, size, domains, classes, counts):
    for domain, label, path in found:
        try:
            pixels = planes(os.path.join(root, path), size)
        except Exception as e: # a decoder meets anything in a broken file
            counts["broken"] += 1
            print("left out %s: %s" % (shown(path), " ".join(str(e).split()) or type(e).__name__), file=sys.stderr)
            continue
        counts["made"] += 1
        if counts["made"] % 10000 == 0:
            print("  %d pictures" % counts["made"], flush=True)
        yield bytes([domains[domain], classes[label]]) + pixels

def one_picture(path, name, size):
    """A binary PPM: red, green and blue of a pixel side by side."""
    try:
        pixels = planes(path, size)
    except Exception as e:
        fail(1, "is it a picture?", "cannot read %s: %s" % (shown(path), " ".join(str(e).split()) or type(e).__name__))
    area = size * size
    output = Output()
    output.write(name, [b"P6\n%d %d\n255\n" % (size, size), bytes(pixels[k * area + i] for i in range(area) for k in range(3))])
    output.keep()
    print("%s: %d x %d pixels" % (shown(name), size, size))

def main():
    class Parser(argparse.ArgumentParser):
        def error(self, message):
            fail(2, "dev/images.py --help lists the options", message)
    parser = Parser(prog="dev/images.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER", help="holds DOMAIN/CLASS/*.jpg or CLASS/*.jpg")
    parser.add_argument("name", metavar="NAME", help="what the files written begin with, for example data/pacs")
    parser.add_argument("--size", type=int, choices=(32, 64, 96, 224), default=32, help="pixels of a side (32)")
    parser.add_argument("--val", type=float, default=0.2, metavar="X", help="share of validation, 0 to 0.9 (0.2); 0: no such file")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="another split, another order (1)")
    a = parser.parse_args()
    if not 0 <= a.val <= 0.9:
        parser.error("--val takes 0 to 0.9, not %s" % a.val)
    if os.path.basename(a.name) == "":
        parser.error("NAME must not end in /: the files are called NAME_train.bin and so on")
    warnings.simplefilter("ignore") # Pillow's, about odd EXIF data: the pictures are read all the same
    root = os.fsencode(a.folder)
    if os.path.isfile(root):
        return one_picture(root, a.name if a.name.endswith(".ppm") else a.name + ".ppm", a.size)
    found = find(root)
    domains = numbered((f[0] for f in found), "domains")
    classes = numbered((f[1] for f in found), "classes")
    output, lines, broken = Output(), [], 0
    try:
        for part, members in zip(("train", "val"), split(found, a.val, a.seed)):
            if part == "val" and not members:
                continue
            counts = {"made": 0, "broken": 0}
            path = "%s_%s.bin" % (a.name, part)
            output.write(path, records(root, members, a.size, domains, classes, counts))
            broken += counts["broken"]
            if counts["made"] == 0:
                output.clear()
                fail(1, "the lines above say why" if broken else "use a smaller --val", "no picture for %s" % shown(path))
            lines.append("%s: %d pictures of %d bytes" % (shown(path), counts["made"], 2 + 3 * a.size * a.size))
        names = [b"%s %d %s\n" % (what, number, n) for what, table in ((b"domain", domains), (b"class", classes))
                 for n, number in table.items()]
        output.write(a.name + ".classes.txt", names)
        output.keep()
    except KeyboardInterrupt:
        output.clear()
        sys.exit(130)
    print("\n".join(lines))
    print("%s.classes.txt: names of %d domains and %d classes" % (shown(a.name), len(domains), len(classes)))
    if broken:
        print("%d files could not be read and were left out" % broken)

if __name__ == "__main__":
    main()
