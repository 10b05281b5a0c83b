#!/bin/sh
# Fetches text, pictures and weights that others published, and checks every byte. Nothing here needs it: `make data` makes a
# set without a network. A file is loaded into NAME.part, which a second run goes on with; it gets its name only when its size
# and its checksum are right. Needs curl or wget, and sha256sum, shasum or openssl.
set -eu
export LC_ALL=C
unset CDPATH

usage() {
    cat <<'END'
usage: data/download.sh NAME... | --list | --help
  NAME      tinyshakespeare, tinystories, tinystories-train, gpt2, cifar10, cifar100, mnist, fashion-mnist
  --list    what each of them is: size, terms, files, checksums, where to and where from
  --help    this text
PACS, Tiny ImageNet and other folders of pictures: fetch them by hand, then dev/images.py makes a data set of them.
Environment:
  DATA_MIRROR=URL    fetch the files as URL/FILE, with FILE as --list names it; several URLs with blanks between are tried in
                     order. Checksums stay in force. mnist and fashion-mnist name their files alike: a folder for each.
  DATA_SUMS=FILE     for a mirror of your own with files of your own: lines `SUM BYTES FILE`, which replace what this script
                     knows of these files. SUM is a sha256, an md5, or - for none. To make one, in the folder of the mirror:
                     for f in *; do echo "$(sha256sum "$f" | cut -c 1-64) $(wc -c < "$f") $f"; done > /tmp/sums
END
}

fail() { # message, hint, exit status (1)
    echo "data/download.sh: $1" >&2
    echo "---> HINT: $2" >&2
    exit "${3:-1}"
}

# ---- what there is -----------------------------------------------------------------------------------------------------

names='tinyshakespeare tinystories tinystories-train gpt2 cifar10 cifar100 mnist fashion-mnist'

# about NAME: sets terms, page and next (a command that uses it), then calls `file` for each of its files:
#   file FILE BYTES SUM PLACE URL...
# FILE is what a mirror calls it, PLACE where it goes below data/. A .gz is unpacked; a .tar.gz becomes the folder PLACE.
# The sums of input.txt and vocab.bpe are of files that we held and hashed. The others are unverified here: they are what two
# or more public projects give, beside the md5 of the authors where those publish one (CIFAR, Fashion-MNIST). No URL could
# be tried from where this was written.
about() {
    next=''
    stories='datasets/roneneldan/TinyStories/resolve/f54c09fd23315a6f9c86f9dc80f725de7d8f9c64'
    openai='openai-community/gpt2/resolve/607a30d783dfa663caf39e06633721c8d4cfcd7e'
    case $1 in
        tinyshakespeare)
            terms='public domain' page=https://github.com/karpathy/char-rnn
            next='./train_gpt2_dynmoe --data data/tinyshakespeare.txt'
            file input.txt 1115394 86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed tinyshakespeare.txt \
                https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt \
                https://cdn.jsdelivr.net/gh/karpathy/char-rnn@master/data/tinyshakespeare/input.txt ;;
        tinystories)
            terms='CDLA-Sharing-1.0' page=https://huggingface.co/datasets/roneneldan/TinyStories
            next='./train_gpt2_dynmoe --data data/tinystories_valid.txt'
            file TinyStoriesV2-GPT4-valid.txt 22502601 \
                6874bae9a4c1a4e7edcf0e53b86c17817e9cf881fc75ff2368da457b80c0585d tinystories_valid.txt \
                https://huggingface.co/$stories/TinyStoriesV2-GPT4-valid.txt \
                https://hf-mirror.com/$stories/TinyStoriesV2-GPT4-valid.txt ;;
        tinystories-train)
            terms='CDLA-Sharing-1.0' page=https://huggingface.co/datasets/roneneldan/TinyStories
            next='./train_gpt2_dynmoe --data data/tinystories_train.txt'
            file TinyStoriesV2-GPT4-train.txt 2227753162 \
                6418d412de72888f52b5142c761ac21a582f7d1166f0bfbdb5f03ccfdec90443 tinystories_train.txt \
                https://huggingface.co/$stories/TinyStoriesV2-GPT4-train.txt \
                https://hf-mirror.com/$stories/TinyStoriesV2-GPT4-train.txt ;;
        gpt2)
            terms='MIT, says the model card; modified MIT, says OpenAI' page=https://github.com/openai/gpt-2
            next='data/tokenize makes a FILE.bin from text, with --vocab data/gpt2/vocab.bpe; then ./train_gpt2_dynmoe --init
      data/gpt2/model.safetensors --tokenizer data/gpt2/vocab.bpe --data FILE.bin'
            file vocab.bpe 456318 1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5 gpt2/vocab.bpe \
                https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/vocab.bpe \
                https://huggingface.co/$openai/merges.txt
            file model.safetensors 548105171 \
                248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707 gpt2/model.safetensors \
                https://huggingface.co/$openai/model.safetensors \
                https://hf-mirror.com/$openai/model.safetensors ;;
        cifar10)
            terms='none stated; by custom for research' page=https://www.cs.toronto.edu/~kriz/cifar.html
            next="./train_vit_dynmoe --data 'data/cifar10/data_batch_*.bin' --val data/cifar10/test_batch.bin"
            file cifar-10-binary.tar.gz 170052171 \
                c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd cifar10 \
                https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz \
                https://storage.googleapis.com/mirror.tensorflow.org/www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz ;;
        cifar100)
            terms='none stated; by custom for research' page=https://www.cs.toronto.edu/~kriz/cifar.html
            file cifar-100-binary.tar.gz 168513733 \
                58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec cifar100 \
                https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz \
                https://mindspore-website.obs.cn-north-4.myhuaweicloud.com/notebook/datasets/cifar-100-binary.tar.gz ;;
        mnist)
            terms='CC BY-SA 3.0' page=http://yann.lecun.com/exdb/mnist/
            idx 'https://ossci-datasets.s3.amazonaws.com/mnist https://storage.googleapis.com/cvdf-datasets/mnist' \
                9912422 440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609 \
                28881 3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c \
                1648877 8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6 \
                4542 f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6 ;;
        fashion-mnist)
            terms='MIT' page=https://github.com/zalandoresearch/fashion-mnist
            idx 'https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion
                http://fashion-mnist.s3-website.eu-central-1.amazonaws.com' \
                26421880 3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84 \
                29515 a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845 \
                4422102 346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073 \
                5148 67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5 ;;
    esac
}

idx() { # folders, then bytes and sum of each of the four files that MNIST and its likes are
    folders=$1
    shift
    for f in train-images-idx3-ubyte train-labels-idx1-ubyte t10k-images-idx3-ubyte t10k-labels-idx1-ubyte; do
        urls=''
        for folder in $folders; do urls="$urls $folder/$f.gz"; done
        # shellcheck disable=SC2086
        file $f.gz "$1" "$2" "$name/$f" $urls
        shift 2
    done
}

file() { # FILE BYTES SUM PLACE URL...: calls $each URL..., with file, bytes, sum, place and part set
    file=$1 bytes=$2 sum=$3 place=$4
    shift 4
    case $file in
        *.tar.gz) part=$place.tar.gz.part ;;
        *.gz) part=$place.gz.part ;;
        *) part=$place.part ;;
    esac
    if [ -n "${DATA_SUMS:-}" ]; then
        own=$(awk -v file="$file" '$3 == file { print $1, $2; exit }' "$DATA_SUMS")
        if [ -n "$own" ]; then sum=${own% *} bytes=${own#* }; fi
        case ${#sum}:$sum:$bytes in
            *:*:*[!0-9]*|[36]*:*[!0-9a-f]*:*) own=bad ;;
            1:-:*|32:*|64:*) ;;
            *) own=bad ;;
        esac
        if [ "$own" = bad ]; then fail "DATA_SUMS: '$sum $bytes $file' is not SUM BYTES FILE" "--help says what it holds"; fi
    fi
    if [ -n "${DATA_MIRROR:-}" ]; then
        set --
        for mirror in $DATA_MIRROR; do set -- "$@" "${mirror%/}/$file"; done
    fi
    $each "$@"
}

# ---- sizes and checksums -----------------------------------------------------------------------------------------------

human() { # bytes
    awk -v n="$1" 'BEGIN {
        split("bytes kB MB GB", unit); i = 1
        while (n >= 1000 && i < 4) { n /= 1000; i++ }
        printf i == 1 ? "%d %s" : "%.1f %s", n, unit[i] }'
}

size_of() { # file; 0 if there is none
    if [ -f "$1" ]; then echo $(($(wc -c < "$1"))); else echo 0; fi
}

kind() { case ${#sum} in 64) echo sha256 ;; 32) echo md5 ;; *) echo 'size only' ;; esac; }

digest() { # sha256 or md5, file: prints its checksum
    for how in "$1sum" "shasum -a 256" "openssl dgst -$1 -r"; do
        if ! command -v "${how%% *}" > /dev/null || [ "$1 $how" = "md5 shasum -a 256" ]; then continue; fi
        line=$($how "$2") || return 1
        echo "${line%% *}"
        return 0
    done
    fail "nothing here computes $1: no $1sum, shasum, openssl" "install coreutils or openssl"
}

right() { # file: has it the size and the sum that it should have?
    [ "$(size_of "$1")" -eq "$bytes" ] || return 1
    if [ "$sum" = - ]; then return 0; fi
    got=$(digest "$(kind)" "$1") || exit 1
    [ "$got" = "$sum" ]
}

# The file SUMS remembers what came out of an archive, so that a later run can tell whether it is still sound. Its lines:
#   ARCHIVE SUM-OF-ARCHIVE SHA256 FILE
sums_of() { case $file in *.tar.gz) echo "$place/SUMS" ;; *) echo "$(dirname "$place")/SUMS" ;; esac; }

sound() { # is what this file becomes there, as it should be?
    case $file in *.gz) ;; *) right "$place"; return ;; esac
    sums=$(sums_of)
    [ -f "$sums" ] || return 1
    awk -v file="$file" -v sum="$sum" '$1 == file && $2 == sum { print $3, $4 }' "$sums" > "$tmp/sums"
    [ -s "$tmp/sums" ] || return 1
    while read -r want f; do
        f=$(dirname "$sums")/$f
        [ -f "$f" ] || return 1
        got=$(digest sha256 "$f") || exit 1
        [ "$got" = "$want" ] || return 1
    done < "$tmp/sums"
}

# ---- what may be done with each file: add, show, plan, get -------------------------------------------------------------

add() { total=$((total + bytes)); }

show() { # URL...
    echo "    data/$place from $file, $bytes bytes, $(kind)$(if [ "$sum" != - ]; then echo " $sum"; fi)"
    for url in "$@"; do echo "        $url"; done
}

plan() { # finds out what is still to come: todo, count, total
    if sound; then return 0; fi
    if [ -f "$place" ]; then echo "data/$place is there, but not known to be sound: it will be replaced"; fi
    todo="$todo $place " count=$((count + 1)) have=$(size_of "$part")
    if [ "$have" -gt "$bytes" ]; then have=0; fi
    total=$((total + bytes - have))
}

get() { # URL...
    case $todo in *" $place "*) ;; *) return 0 ;; esac
    folder=$(dirname "$place")
    if ! mkdir -p "$folder" 2> /dev/null || ! (: >> "$part") 2> /dev/null; then
        fail "cannot write data/$part" "may you write there, and is nothing in the way? ls -ld data data/$folder data/$part"
    fi
    case $file in
        *.tar.gz) [ ! -f "$place" ] ;;
        *) [ ! -d "$place" ] ;;
    esac || fail "cannot make data/$place: what has that name is no $(if [ -d "$place" ]; then echo file; else echo folder; fi)" \
        "move it away: mv data/$place data/$place.old"
    missing=$((bytes - $(size_of "$part")))
    free=$(df -Pk "$folder" 2> /dev/null | awk 'NR == 2 { print $4 }')
    case $free in ''|*[!0-9]*) free=$missing ;; esac # an answer that nobody understands: then writing will show it
    if [ "$free" -lt $((missing / 1024)) ]; then
        [ -s "$part" ] || rm -f "$part"
        fail "the disk is full: $file needs $(human $missing), and $(human $((free * 1024))) are free" "make room: df -h data"
    fi
    fetch "$@"
    unpack
    echo "made data/$place"
}

# ---- loading -----------------------------------------------------------------------------------------------------------

# From one mirror after the other; the next goes on with what the last one left. If none has it: the error that says most.
fetch() { # URL...
    worst=0 silent=''
    for url in "$@"; do
        host=${url#*://} host=${host%%/*}
        if fetch_from_host; then return 0; fi
    done
    [ -s "$part" ] || rm -f "$part"
    if [ "$worst" -eq 0 ]; then fail "$file: no answer from ${silent#, }" "no network: make data makes the built-in set"; fi
    fail "$file: $error" "$advice"
}

blame() { # how much it says, message, hint
    if [ "$1" -gt "$worst" ]; then worst=$1 error=$2 advice=$3; fi
}

# 0: $part is the whole file. A second round is for what could not be gone on with, and begins with nothing.
fetch_from_host() {
    elsewhere='run it again, or name another place: DATA_MIRROR=URL'
    for _ in 1 2; do
        have=$(size_of "$part")
        code=0
        if [ "$have" -lt "$bytes" ]; then load; fi
        now=$(size_of "$part")
        if [ $code -eq 0 ] && right "$part"; then return 0; fi
        case $tool-$code in
            *-0) # all of it came, and it is wrong
                rm -f "$part"
                if [ "$have" -eq 0 ]; then
                    if [ "$now" -ne "$bytes" ]; then got="$now bytes instead of $bytes"; else got="$(kind) $got instead of $sum"; fi
                    blame 5 "corrupt as it came from $host, and removed: $got" "$elsewhere"
                    return 1
                fi
                echo "  $file: what was there of it does not fit: starting over" ;;
            curl-33) # that server knows no Range, so nothing can be gone on with
                rm -f "$part" ;;
            curl-23|wget-3)
                fail "cannot write data/$part" "is the disk full? df -h data; what came is kept for the next run" ;;
            *)
                if [ "$now" -gt "$have" ]; then
                    blame 4 "cut short by $host: $now of $bytes bytes are here" "run it again: it goes on from there"
                else
                    no_bytes
                fi
                return 1 ;;
        esac
    done
    return 1
}

no_bytes() {
    said=$(grep . "$tmp/log" | tail -n 1 || true)
    case $tool-$code in
        curl-22|wget-8)
            status=$(echo "$said" | sed -n 's/.*[Ee][Rr][Rr][Oo][Rr]:* \([45][0-9][0-9]\).*/ \1/p')
            blame 3 "HTTP error$status from $host" "it may have moved, see $page; or $elsewhere" ;;
        curl-35|curl-51|curl-60|curl-77|wget-5)
            blame 2 "no secure connection to $host" "install ca-certificates, and look at the clock of this machine" ;;
        curl-5|curl-6|curl-7|curl-18|curl-28|curl-52|curl-56|wget-4) silent="$silent, $host" ;;
        *) blame 1 "$tool cannot get it from $host (exit $code) $said" "no network? make data makes the built-in set" ;;
    esac
}

load() { # $url into $part, going on where that ends. code: 0, or what curl or wget makes of it
    echo "  $file: $(if [ "$have" -gt 0 ]; then echo "$(human "$have") are here, "; fi)$(human $((bytes - have))) from $host"
    if [ $tool = curl ]; then
        set -- curl -fL -C - --connect-timeout 20 --speed-limit 1 --speed-time 60 -o "$part" "$url"
        if [ -t 2 ]; then set -- "$@" -'#'; else set -- "$@" -sS; fi
    else
        set -- wget -c -t 1 -O "$part" "$url"
        knows=$(wget --help 2>&1 || true) # small ones, as busybox has, know less
        case $knows in *-T*) set -- "$@" -T 60 ;; esac
        case $knows-$(test -t 2 && echo terminal) in
            *--show-progress*-terminal) set -- "$@" -q --show-progress ;;
            *-terminal) ;;
            *) set -- "$@" -nv ;;
        esac
    fi
    : > "$tmp/log"
    if [ -t 2 ]; then "$@" || code=$?; else "$@" 2> "$tmp/log" || code=$?; fi
}

# ---- unpacking ---------------------------------------------------------------------------------------------------------

unpack() { # $part becomes $place, and is whole when it gets that name
    new=$place.tmp
    rm -rf "$new"
    if ! case $file in
        *.tar.gz) unpack_tar ;;
        *.gz) unpack_gz ;;
        *) mv -f "$part" "$place" ;;
    esac 2> "$tmp/log"; then
        rm -rf "$new"
        case $file in *.gz)
            if ! gzip -t "$part" 2> /dev/null; then
                rm -f "$part"
                fail "$file: no archive that gzip can read, and removed" "$elsewhere"
            fi ;;
        esac
        fail "cannot make data/$place: $(tail -n 1 "$tmp/log")" "is the disk full? df -h data; what came is kept for the next run"
    fi
    rm -rf "$new" "$part"
}

unpack_gz() {
    gzip -dc "$part" > "$new" || return 1
    { if [ -f "$(sums_of)" ]; then awk -v file="$file" '$1 != file' "$(sums_of)"; fi
        echo "$file $sum $(digest sha256 "$new") $(basename "$place")"; } > "$new.sums" || return 1
    mv -f "$new" "$place" && mv -f "$new.sums" "$(sums_of)"
}

unpack_tar() { # all of it lies in one folder, whose files go to $place one by one: what else is there is left alone
    mkdir "$new" && tar -xzof "$part" -C "$new" && mkdir -p "$place" || return 1
    for f in "$new"/*/*; do
        if [ ! -f "$f" ]; then continue; fi
        echo "$file $sum $(digest sha256 "$f") $(basename "$f")" >> "$new/SUMS" || return 1
        mv -f "$f" "$place/" || return 1
    done
    mv -f "$new/SUMS" "$place/"
}

# ---- the command line ---------------------------------------------------------------------------------------------------

list=no
for arg in "$@"; do
    case $arg in
        --help|-h) usage; exit 0 ;;
        --list) list=yes ;;
        -*) fail "unknown option: $arg" "data/download.sh --help lists them" 2 ;;
        *) case " $names " in *" $arg "*) ;; *) fail "unknown name: $arg" "one of $names; --list says what they are" 2 ;; esac ;;
    esac
done
if [ $# -eq 0 ]; then fail "which one?" "one of $names; --list says what they are" 2; fi
if [ -n "${DATA_SUMS:-}" ]; then
    if [ ! -f "$DATA_SUMS" ]; then fail "DATA_SUMS: $DATA_SUMS: no such file" "--help says what it holds"; fi
    case $DATA_SUMS in /*) ;; *) DATA_SUMS=$PWD/$DATA_SUMS ;; esac
fi
cd "$(dirname "$0")"

if [ $list = yes ]; then
    for name in $names; do
        total=0 each=add
        about "$name"
        echo "$name: $(human $total), terms: $terms, see $page"
        each=show
        about "$name"
    done
    echo "Size and checksum are compared after every download. We held and hashed input.txt and vocab.bpe; the other checksums"
    echo "are those that public projects give, unverified here. Unpacked, the CIFARs are 184 MB each, and each of the MNISTs 55 MB."
    exit 0
fi

tool=none new=''
for t in wget curl; do if command -v $t > /dev/null; then tool=$t; fi; done
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"; if [ -n "$new" ]; then rm -rf "$new" "$new.sums"; fi' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

for name in "$@"; do
    todo='' count=0 total=0 each=plan
    about "$name"
    if [ $count -eq 0 ]; then
        echo "$name is there, and sound: nothing to do"
        continue
    fi
    if [ $tool = none ]; then fail "neither curl nor wget is here" "Debian and Ubuntu: apt-get install curl ca-certificates"; fi
    echo "$name: $(human $total) to download$(if [ $count -gt 1 ]; then echo " in $count files"; fi), terms: $terms"
    each='get'
    about "$name"
    if [ -n "$next" ]; then echo "next: $next"; fi
done
