#!/bin/sh
# data/download.sh against a small server of our own (test/serve.c) on this machine: whole, gone on with, cut short, corrupt,
# from the second mirror, unpacked; and that every failure is one clear line and leaves nothing under the name of the file.
# All of it with curl and with wget. No network is used. Ends with `N passed, N failed`.
set -u
cd "$(dirname "$0")/.." || exit 1
dir=$(mktemp -d) || exit 1
passed=0 failed=0 servers='' served=0 tool=none

# shellcheck disable=SC2086
stop() { { kill $servers; wait $servers; } 2> /dev/null; servers=''; }
trap 'stop; rm -rf "$dir"' EXIT
trap 'exit 1' INT TERM HUP

# What this machine or its user has set up for the web must not matter.
unset http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY XDG_CONFIG_HOME CURL_HOME DATA_MIRROR DATA_SUMS
export no_proxy='*' HOME="$dir" WGETRC="$dir/wgetrc"
: > "$WGETRC"

if ! ${CC:-cc} test/serve.c -o "$dir/serve"; then
    echo "FAILED: ${CC:-cc} does not compile test/serve.c"
    echo "0 passed, 1 failed"
    exit 1
fi
mkdir "$dir/data"
cp data/download.sh "$dir/data/" || exit 1
cd "$dir" || exit 1
mkfifo port || exit 1

# Folders of programs, with curl, with wget, and with neither: so it is decided which one the script finds.
shell=$(command -v sh)
for t in curl wget none; do
    mkdir bin.$t
    for p in awk basename cat cut df dirname grep gzip md5sum mkdir mktemp mv openssl rm sed sha256sum shasum tail tar tr wc $t; do
        if path=$(command -v "$p"); then ln -s "$path" "bin.$t/$p"; fi
    done
done

ok() { passed=$((passed + 1)); }
bad() { failed=$((failed + 1)); echo "FAILED ($tool): $1"; shift; for f in "$@"; do sed 's/^/    /' "$f" | tail -n 5; done; }

download() { PATH=$dir/bin.$tool "$shell" data/download.sh "$@" > stdout 2> stderr; }

succeeds() { # what it shows, then the arguments
    what=$1
    shift
    if download "$@" && [ ! -s stderr ]; then ok; else bad "$what: $*" stdout stderr; fi
}

said() { # after a run: exit code it had and should have, texts that the error and the hint must hold
    if [ "$1" -eq "$2" ] && [ "$(wc -l < stderr)" -eq 2 ] && grep '^data/download.sh: ' stderr | grep -qF -e "$3" \
        && grep '^---> HINT: ' stderr | grep -qF -e "$4"; then ok
    else bad "$5 (exit $1, wanted $2, \"$3\" and \"$4\")" stderr; fi
}

refuses() { # exit code, texts that the error and the hint must hold, then the arguments
    code=$1 want=$2 hint=$3
    shift 3
    download "$@"
    said $? "$code" "$want" "$hint" "$*"
}

check() { # what it shows, then a command that must succeed
    what=$1
    shift
    if "$@" > check.out 2>&1; then ok; else bad "$what: $*" check.out; fi
}

serve() { # folder, options of serve: sets url and log, and makes this server the mirror
    folder=$1 log=log.$((served += 1))
    shift
    ./serve "$@" "$folder" "$log" > port &
    servers="$servers $!"
    port=$(cat < port) # up to the end, so that no server is left that still holds this pipe
    url=http://127.0.0.1:$port/
    export DATA_MIRROR="$url"
}

asked() { # what it shows, log, then all lines that must be in it
    what=$1 of=$2
    shift 2
    printf '%s\n' "$@" > want
    if cmp -s want "$of"; then ok; else bad "$what: the server was asked for" "$of"; fi
}

empty() { rm -rf data/tiny* data/gpt2 data/mnist data/cifar*; }
nothing_left() { check "nothing is left of it" test -z "$(find data -mindepth 1 -type f ! -name download.sh)"; }

same_cifar10() { for f in raw/cifar-10-batches-bin/*; do check "unpacked" cmp "$f" "data/cifar10/${f##*/}"; done; }

digest() { # sha256 of a file
    if command -v sha256sum > /dev/null; then sha256sum "$1"
    elif command -v shasum > /dev/null; then shasum -a 256 "$1"
    else openssl dgst -sha256 -r "$1"; fi | cut -c 1-64
}
sums_of() { for f in "$@"; do echo "$(digest "$f") $(($(wc -c < "$f"))) ${f##*/}"; done; } # lines for DATA_SUMS

# ---- files to serve, by the names of the real ones ----------------------------------------------------------------------

text=data/tinyshakespeare.txt
mkdir files other raw raw/cifar-10-batches-bin nothing
awk 'BEGIN { for (i = 0; i < 3000; i++) print "line " i " of a text: " i * i % 9973 }' > files/input.txt
size=$(($(wc -c < files/input.txt)))
awk 'BEGIN { for (i = 0; i < 1115394; i++) printf "x" }' > other/input.txt # as long as the real one
cp files/input.txt files/vocab.bpe
echo weights > files/model.safetensors
images='train-images-idx3-ubyte train-labels-idx1-ubyte t10k-images-idx3-ubyte t10k-labels-idx1-ubyte'
for f in $images; do
    { echo "$f"; head -c 100000 /dev/zero; } > "raw/$f"
    gzip -c "raw/$f" > "files/$f.gz"
done
for f in data_batch_1 data_batch_2 data_batch_3 data_batch_4 data_batch_5 test_batch; do
    { echo "$f"; head -c 30000 /dev/zero; } > raw/cifar-10-batches-bin/$f.bin
done
tar -cf - -C raw cifar-10-batches-bin | gzip -c > files/cifar-10-binary.tar.gz
mkdir raw/cifar-100-binary
for f in train.bin test.bin fine_label_names.txt coarse_label_names.txt; do echo "100 $f" > raw/cifar-100-binary/$f; done
tar -cf - -C raw cifar-100-binary | gzip -c > files/cifar-100-binary.tar.gz
sums_of files/* > sums

# ---- what needs neither curl nor wget -----------------------------------------------------------------------------------

refuses 2 "unknown name: imagenet" "one of tinyshakespeare" imagenet
refuses 2 "unknown name: imagenet" "one of tinyshakespeare" tinyshakespeare imagenet
refuses 2 "unknown option: --force" "--help" --force
refuses 2 "which one?" "one of tinyshakespeare"
refuses 1 "neither curl nor wget is here" "apt-get install curl" tinyshakespeare
nothing_left
succeeds "--help" --help
check "it names the environment" grep -q 'DATA_SUMS=FILE' stdout
check "and the way in for other pictures" grep -q 'PACS.*dev/images.py' stdout
succeeds "--list" --list
for name in tinyshakespeare tinystories tinystories-train gpt2 cifar10 cifar100 mnist fashion-mnist; do
    check "it has $name with size, terms and source" grep -Eq "^$name: [0-9.]+ [kMG]B, terms: .+, see https?://" stdout
done
line='^    data/[^ ]+ from [^ ]+, [0-9]+ bytes, sha256 [0-9a-f]{64}$'
check "15 files, each with a sha256" test "$(grep -Ec "$line" stdout)" -eq 15
check "each from two places" test "$(grep -Ec '^        https?://' stdout)" -eq 30
DATA_SUMS=nowhere refuses 1 "DATA_SUMS: nowhere: no such file" "--help" tinyshakespeare
for line in "abc 12 input.txt" "- 12x input.txt" "$(printf %064d 0 | tr 0 g) 12 input.txt" "$(printf %063d 0) 12 input.txt"; do
    echo "$line" > wrong
    DATA_SUMS=wrong refuses 1 "'$line' is not SUM BYTES FILE" "--help" tinyshakespeare
done
cp files/input.txt $text
DATA_SUMS=sums succeeds "a file that is there" tinyshakespeare
check "is said to be there" grep -q '^tinyshakespeare is there, and sound: nothing to do$' stdout

# ---- with curl, then with wget -------------------------------------------------------------------------------------------

export DATA_SUMS=sums
untested=''
for tool in curl wget; do
    if [ ! -x bin.$tool/$tool ]; then
        untested="$untested, $tool (not on this machine: dev/setup.sh)"
        continue
    fi
    if [ $tool = wget ] && ! wget --version 2>&1 | grep -q 'GNU Wget'; then # others have other exit codes and messages
        untested="$untested, wget (that of this machine is not GNU's)"
        continue
    fi

    # a whole file, and what is there already
    empty
    serve files
    succeeds "a whole file" tinyshakespeare
    check "the same bytes" cmp files/input.txt $text
    check "no part is left" test ! -e $text.part
    head -n 1 stdout > line
    check "its size is said first" grep -q '^tinyshakespeare: [0-9.]* kB to download, terms: public domain$' line
    tail -n 1 stdout > line
    check "and at the end what it is good for" grep -q '^next: ./train_gpt2_dynmoe --data data/tinyshakespeare.txt$' line
    succeeds "once more" tinyshakespeare
    check "it is there" grep -q '^tinyshakespeare is there, and sound: nothing to do$' stdout
    asked "once" "$log" "GET /input.txt 200 0 $size"
    echo damage >> $text
    succeeds "a damaged file" tinyshakespeare
    check "is said to be replaced" grep -q '^data/tinyshakespeare.txt is there, but not known to be sound' stdout
    check "and is" cmp files/input.txt $text
    rm $text
    succeeds "two names" tinyshakespeare gpt2
    check "the text" cmp files/input.txt $text
    check "two files in a folder" cmp files/vocab.bpe data/gpt2/vocab.bpe
    check "of which this is the other" cmp files/model.safetensors data/gpt2/model.safetensors

    # a partial file
    empty
    serve files
    head -c 40000 files/input.txt > $text.part
    succeeds "a partial file" tinyshakespeare
    asked "only the rest" "$log" "GET /input.txt 206 40000 $((size - 40000))"
    check "the same bytes" cmp files/input.txt $text
    empty
    serve files
    cp files/input.txt $text.part
    succeeds "a whole part" tinyshakespeare
    check "needs no request" test ! -s "$log"
    check "the same bytes" cmp files/input.txt $text
    empty
    serve files
    head -c 40000 /dev/zero > $text.part
    succeeds "a part of something else" tinyshakespeare
    asked "the rest, then the whole" "$log" "GET /input.txt 206 40000 $((size - 40000))" "GET /input.txt 200 0 $size"
    check "the same bytes" cmp files/input.txt $text
    empty
    serve files
    { cat files/input.txt; echo more; } > $text.part
    succeeds "a part that is too long" tinyshakespeare
    asked "the whole" "$log" "GET /input.txt 200 0 $size"
    empty
    serve files --no-range
    head -c 40000 files/input.txt > $text.part
    succeeds "a partial file, and a server that knows no Range" tinyshakespeare
    check "the same bytes" cmp files/input.txt $text

    # cut short
    empty
    serve files --cut 30000
    refuses 1 "input.txt: cut short by 127.0.0.1" "run it again: it goes on from there" tinyshakespeare
    check "no file has its name" test ! -e $text
    check "what came is kept" test "$(wc -c < $text.part)" -eq 30000
    serve files
    succeeds "run again" tinyshakespeare
    asked "the rest" "$log" "GET /input.txt 206 30000 $((size - 30000))"
    check "the same bytes" cmp files/input.txt $text
    empty
    serve files --cut 0
    refuses 1 "no answer from 127.0.0.1" "no network" tinyshakespeare
    nothing_left

    # corrupt, or another file
    empty
    serve files --flip 70000
    refuses 1 "input.txt: corrupt as it came from 127.0.0.1" "run it again" tinyshakespeare
    nothing_left
    echo old > $text
    refuses 1 "corrupt as it came" "DATA_MIRROR=URL" tinyshakespeare
    check "an older file stays" grep -qx old $text
    check "and no part of the new one" test ! -e $text.part
    empty
    serve files
    for n in $((size + 1)) $((size - 1)); do
        sed "s/ $size input/ $n input/" sums > other.sums
        DATA_SUMS=other.sums refuses 1 "$size bytes instead of $n" "run it again" tinyshakespeare
        nothing_left
    done
    serve other
    DATA_SUMS='' refuses 1 "instead of 86c4e6aa9db7c042ec79" "run it again" tinyshakespeare
    nothing_left
    serve files
    echo "- $size input.txt" > other.sums
    DATA_SUMS=other.sums succeeds "the size alone" tinyshakespeare
    if command -v openssl > /dev/null; then
        md5=$(openssl dgst -md5 -r files/input.txt | cut -c 1-32)
        empty
        echo "$md5 $size input.txt" > other.sums
        DATA_SUMS=other.sums succeeds "md5" tinyshakespeare
        empty
        echo "$(printf %032d 0) $size input.txt" > other.sums
        DATA_SUMS=other.sums refuses 1 "md5 $md5 instead of 0000" "run it again" tinyshakespeare
        nothing_left
    fi

    # no answer, or no such file; the second mirror
    empty
    serve files
    up=$url up_log=$log
    serve nothing
    lacks=$url
    serve files --flip 70000
    corrupts=$url
    serve files --cut 30000
    cuts=$url
    serve files --deaf
    down=$url
    refuses 1 "input.txt: no answer from 127.0.0.1" "no network: make data makes the built-in set" tinyshakespeare
    nothing_left
    head -c 40000 files/input.txt > $text.part
    refuses 1 "input.txt: no answer from 127.0.0.1" "no network" tinyshakespeare
    check "a partial file stays" test "$(wc -c < $text.part)" -eq 40000
    export DATA_MIRROR="$down $up"
    succeeds "the first is down" tinyshakespeare
    asked "the second has it" "$up_log" "GET /input.txt 206 40000 $((size - 40000))"
    check "the same bytes" cmp files/input.txt $text
    for first in "$lacks" "$corrupts" "$cuts" "$down $lacks $corrupts $cuts"; do
        empty
        export DATA_MIRROR="$first $up"
        succeeds "the last mirror has it" tinyshakespeare
        check "the same bytes" cmp files/input.txt $text
    done
    check "it goes on with what another mirror left" grep -q " 206 30000 $((size - 30000))" "$up_log"
    empty
    export DATA_MIRROR="$lacks"
    refuses 1 "HTTP error 404 from 127.0.0.1" "it may have moved, see https://github.com/karpathy/char-rnn" tinyshakespeare
    nothing_left
    export DATA_MIRROR="$down $lacks $down"
    refuses 1 "HTTP error 404" "moved" tinyshakespeare
    export DATA_MIRROR="$cuts $down $lacks"
    refuses 1 "cut short by" "run it again" tinyshakespeare

    # archives
    stop
    empty
    serve files
    succeeds "four .gz" mnist
    for f in $images; do check "unpacked" cmp "raw/$f" "data/mnist/$f"; done
    check "their number is said" grep -q '^mnist: .* to download in 4 files' stdout
    check "nothing else is left" test "$(find data/mnist -type f | wc -l)" -eq 5
    serve files
    succeeds "once more" mnist
    check "they are there" grep -q '^mnist is there, and sound: nothing to do$' stdout
    check "no request" test ! -s "$log"
    echo damage > data/mnist/t10k-labels-idx1-ubyte
    rm data/mnist/train-labels-idx1-ubyte
    succeeds "one damaged, one gone" mnist
    check "two requests" test "$(cut -d ' ' -f 2 "$log" | tr '\n' ' ')" = "/train-labels-idx1-ubyte.gz /t10k-labels-idx1-ubyte.gz "
    for f in $images; do check "unpacked" cmp "raw/$f" "data/mnist/$f"; done
    mkdir data/cifar10
    echo mine > data/cifar10/notes.txt
    succeeds "a .tar.gz" cifar10
    same_cifar10
    check "what was in its folder stays" grep -qx mine data/cifar10/notes.txt
    succeeds "another .tar.gz" cifar100
    for f in raw/cifar-100-binary/*; do check "unpacked" cmp "$f" "data/cifar100/${f##*/}"; done
    check "the first one is still there" test -f data/cifar10/test_batch.bin
    check "nothing else is left" test "$(find data -name '*.tmp' -o -name '*.part' -o -name 'cifar-10*-b*' | wc -l)" -eq 0
    serve files
    succeeds "once more" cifar10
    check "no request" test ! -s "$log"
    echo damage > data/cifar10/test_batch.bin
    succeeds "one damaged" cifar10
    same_cifar10
    serve files --flip 100
    empty
    refuses 1 "cifar-10-binary.tar.gz: corrupt" "run it again" cifar10
    nothing_left
    refuses 1 "train-images-idx3-ubyte.gz: corrupt" "run it again" mnist
    nothing_left
    rm -rf damaged
    mkdir damaged
    for f in cifar-10-binary.tar.gz train-images-idx3-ubyte.gz; do
        head -c $(($(wc -c < files/$f) - 20)) files/$f > damaged/$f
    done
    sums_of damaged/* > other.sums
    serve damaged
    empty
    DATA_SUMS=other.sums refuses 1 "no archive that gzip can read" "run it again" cifar10
    nothing_left
    DATA_SUMS=other.sums refuses 1 "no archive that gzip can read" "run it again" mnist
    nothing_left

    # nowhere to write
    serve files
    empty
    echo "a file" > data/mnist
    refuses 1 "cannot write data/mnist/train-images-idx3-ubyte.gz.part" "ls -ld" mnist
    empty
    mkdir $text.part
    refuses 1 "cannot write data/tinyshakespeare.txt.part" "ls -ld" tinyshakespeare
    rmdir $text.part
    mkdir $text
    refuses 1 "cannot make data/tinyshakespeare.txt: what has that name is no file" "move it away" tinyshakespeare
    rmdir $text
    echo mine > data/cifar10
    refuses 1 "cannot make data/cifar10: what has that name is no folder" "move it away" cifar10
    check "it stays" grep -qx mine data/cifar10
    empty
    if [ "$(id -u)" -ne 0 ]; then
        chmod 555 data
        refuses 1 "cannot write data/tinyshakespeare.txt.part" "may you write there" tinyshakespeare
        chmod 755 data
    fi
    rm bin.$tool/df
    printf '#!%s\necho Filesystem blocks used available\necho /dev/x 9 9 9\n' "$shell" > bin.$tool/df
    chmod +x bin.$tool/df
    refuses 1 "the disk is full: input.txt needs" "make room" tinyshakespeare
    nothing_left
    echo "exit 1" > bin.$tool/df
    succeeds "a df that knows nothing" tinyshakespeare
    for name in tinyshakespeare mnist cifar10; do # 8 KB is less than what they load or unpack
        empty
        (trap '' XFSZ; ulimit -f 16; download $name)
        said $? 1 "cannot" "is the disk full?" "$name on a full disk"
        check "no file has its name" test -z "$(find data -name tinyshakespeare.txt -o -name '*-ubyte' -o -name '*.bin')"
        check "nothing is half unpacked" test -z "$(find data -name '*.tmp' -o -name '*.sums')"
    done
done

if [ "$(id -u)" -eq 0 ]; then untested="$untested, a folder without the right to write (root may write everywhere)"; fi
if [ -n "$untested" ]; then echo "NOT TESTED: ${untested#, }"; fi
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
