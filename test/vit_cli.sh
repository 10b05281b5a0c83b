#!/bin/sh
# train_vit_dynmoe as users meet it: wrong flags and broken pictures or models get one clear line with a hint, nothing half-written
# stays behind; all layouts, routers and kinds of prediction run; runs repeat bit for bit, and go on after a stop, a signal or a
# kill as if nothing had been. Tiny models, half a minute on the CPU:  make CUDA_ON_CPU=1 train_vit_dynmoe && test/vit_cli.sh
#   BINARY=file test/vit_cli.sh      another build of the program
# What cannot be tried here is said. Ends with `N passed, N failed`.
# shellcheck disable=SC2086,SC2116,SC2016,SC2059 # flags are split on purpose, and joined by echo; awk; printf of bytes
set -u
export LC_ALL=C
cd "$(dirname "$0")/.." || exit 1
. test/stop_at.sh
repo=$PWD
program=${BINARY:-$repo/train_vit_dynmoe}
dir=$(mktemp -d) || exit 1
running=''
trap '[ -z "$running" ] || kill -9 $running 2> /dev/null; rm -rf "$dir"' EXIT
trap 'exit 130' INT TERM
for python in python3 /usr/bin/python3 ''; do
    if [ -n "$python" ] && "$python" -c 'import zlib' 2> /dev/null; then break; fi
done
cd "$dir" || exit 1
passed=0 failed=0

ok() { passed=$((passed + 1)); }
bad() { failed=$((failed + 1)); echo "FAILED: $1"; shift; for f in "$@"; do sed 's/^/    /' "$f" | cut -c 1-160 | tail -n 5; done; }
not_tested() { echo "not tested: $1"; }
check() { # what it shows, then a command that must succeed
    what=$1
    shift
    if "$@" > check.out 2>&1; then ok; else bad "$what: $*" check.out; fi
}
has() { grep -qF -e "$1" "$2"; }

stops() { # what, exit code, text of the error: the program ended so, with one error and one hint in stdout, stderr, $got
    if [ $got -eq $2 ] && [ "$(grep -c '^error: ' stderr)" -eq 1 ] && [ "$(grep -c '^---> HINT: ' stderr)" -eq 1 ] \
        && [ "$(wc -l < stderr)" -eq 2 ] && has "$3" stderr; then ok
    else bad "$1 (exit $got, wanted $2 and \"$3\")" stderr; fi
}
run() { "$program" "$@" > stdout 2> stderr; got=$?; }
refuses() { # exit code, text that the error must hold, then the command line
    code=$1 want=$2
    shift 2
    run "$@"
    stops "$*" $code "$want"
}
succeeds() { # what it shows, then the command line
    what=$1
    shift
    run "$@"
    if [ $got -eq 0 ] && [ ! -s stderr ]; then ok; else bad "$what: $* (exit $got)" stdout stderr; fi
}
appears() { # text, file, seconds, and a process: waits until the file has the text; fails if the time or the process ends first
    i=0
    until grep -qF "$1" "$2" 2> /dev/null; do
        [ $i -lt $((50 * $3)) ] && kill -0 $4 2> /dev/null || return 1
        sleep 0.02
        i=$((i + 1))
    done
}

# a checkpoint: 8 bytes length of the header, the header, tensors. place: where one begins
header_size() { od -An -t u8 -N 8 "$1" | tr -d ' '; }
header() { tail -c +9 "$1" | head -c "$(header_size "$1")"; }
tensors() { tail -c +$(($(header_size "$1") + 9)) "$1"; }
meta() { header "$1" | sed -n "s/.*\"$2\":\"\\([^\"]*\\)\".*/\\1/p"; }
place() { header "$1" | sed -n "s|.*\"$2\":{[^}]*\"data_offsets\":\\[\\([0-9]*\\),.*|\\1|p"; }
with_header() { # file, sed command that keeps the length, new file
    { head -c 8 "$1"; header "$1" | sed "$2"; tensors "$1"; } > "$3"
    if cmp -s "$1" "$3" || [ "$(wc -c < "$1")" -ne "$(wc -c < "$3")" ]; then
        bad "this test: '$2' changes nothing, or the length"
    fi
}
bare_header() { header "$1" | sed 's/"flag.resume":"[^"]*"//; s/"flag.save_every":"[^"]*"//; s/ *$//'; }
same_run() { # two checkpoints: equal bit for bit, but that one of them says --resume, or how often it saves
    for f in "$1" "$2"; do bare_header "$f" | tr ',' '\n'; done > both
    tensors "$1" > first
    tensors "$2" | cmp first - && [ "$(bare_header "$1")" = "$(bare_header "$2")" ]
}

# Pictures: awk writes \ooo for each byte, printf makes bytes of them. Pixels are random, but the left half of class 1 is dark.
records() { # how many, side, classes, domains (0: no byte for it), seed
    printf "$(awk -v n=$1 -v side=$2 -v classes=$3 -v domains=$4 -v seed=$5 'BEGIN {
        srand(seed)
        for (i = 0; i < n; i++) {
            class = int(classes * rand())
            if (domains > 0) { printf "\\%03o", i % domains }
            printf "\\%03o", class
            for (k = 0; k < 3 * side * side; k++) {
                printf "\\%03o", int(256 * rand()) / (class == 1 && k % side < side / 2 ? 8 : 1)
            }
        } }')"
}
numbers() { # each as four bytes, big-endian
    for x in "$@"; do
        printf "$(printf '\\%03o\\%03o\\%03o\\%03o' $((x >> 24)) $((x >> 16 & 255)) $((x >> 8 & 255)) $((x & 255)))"
    done
}
idx() { # how many, side, name: NAME-images-idx3-ubyte and NAME-labels-idx1-ubyte
    { numbers 2051 $1 $2 $2; head -c $(($1 * $2 * $2)) pixels; } > "$3-images-idx3-ubyte"
    { numbers 2049 $1; awk -v n=$1 'BEGIN { for (i = 0; i < n; i++) printf "%c", 48 + i % 4 }' | tr '0123' '\0\1\2\3'; } \
        > "$3-labels-idx1-ubyte"
}
records 40 8 4 0 1 > c10.bin    # CIFAR-10's layout, 8 x 8 pixels: 193 bytes each
records 40 8 4 3 2 > c100.bin   # CIFAR-100's: 194
tiny="--image 8 --layers 3 --channels 16 --heads 2 --patch 2 --batch 4 --experts 3 --start-experts 2 --dtype fp32 --log-every 1"
short="$tiny --layers 1 --patch 4 --steps 2"

# ---- the command line itself -------------------------------------------------------------------------------------------

refuses 2 "--data FILE is missing"
refuses 2 "unknown flag --nonsense" --nonsense 1
refuses 2 "unknown flag stray" stray
refuses 2 "unknown flag --step" --step=3
refuses 2 "unknown flag --context" --context 3
refuses 2 "--steps needs a value" --steps
refuses 2 "--steps 3x: expected a whole number" --steps 3x
refuses 2 "--steps 1.5: expected a whole number" --steps 1.5
refuses 2 "--lr nan: expected" --lr nan
refuses 2 "--smoothing 1: expected a number from 0 to 0.9" --smoothing 1
refuses 2 "--preset mine: expected default, paper or authors" --data c10.bin --preset mine
refuses 2 "--router top: expected top-any, top-k, top-p or dense" --data c10.bin --router top
refuses 2 "--gate-input ln1: expected ln2 or residual" --data c10.bin $tiny --gate-input ln1
refuses 2 "--layout cifar: expected auto, cifar10, cifar100 or idx" --data c10.bin --layout cifar
refuses 2 "--dtype fp16: expected auto, fp32 or bf16" --data c10.bin $tiny --dtype fp16
refuses 2 "--kgrad both: expected" --data c10.bin $tiny --kgrad both
refuses 2 "--expert-init zero: expected" --data c10.bin $tiny --expert-init zero
refuses 2 "16 channels do not divide into 3 heads" --data c10.bin $tiny --heads 3
refuses 2 "pictures of 8 x 8 do not divide into patches of 3" --data c10.bin $tiny --patch 3
refuses 2 "pictures of 8 x 8 do not divide into patches of 16" --data c10.bin $tiny --patch 16
refuses 2 "20 experts, 16 channels" --data c10.bin $tiny --experts 20
refuses 2 "above --experts 3" --data c10.bin $tiny --start-experts 4
refuses 2 "above --experts 3" --data c10.bin $tiny --min-experts 4
refuses 2 "--topk 4: there are 3 experts" --data c10.bin $tiny --router top-k --topk 4
refuses 2 "--moe-layers 0,3: not a list of layers below 3" --data c10.bin $tiny --moe-layers 0,3
refuses 2 "--moe-layers 1,: not a list" --data c10.bin $tiny --moe-layers 1,
refuses 2 "--moe-layers some: not a list" --data c10.bin $tiny --moe-layers some
refuses 2 "--window 150: must be less than half" --data c10.bin --window 150 --period 300
refuses 2 "--shared-experts: with --gate-input residual" --data c10.bin $tiny --gate-input residual --shared-experts 1
refuses 2 "--shared-experts: with --gate-input residual" --data c10.bin $tiny --preset authors --shared-experts 1
refuses 2 "--router top-k has no efficiency loss" --data c10.bin $tiny --router top-k --aux-efficiency 1
refuses 2 "--router top-any has no entropy loss" --data c10.bin $tiny --aux-entropy 1
refuses 2 "need --init FILE" --eval-only --data c10.bin
refuses 2 "need --init FILE" --predict c10.bin
refuses 2 "--epochs 1e+06: more than 2000000000 steps" --data 'c1*.bin' --image 1 --layout cifar10 --epochs 1e6 --batch 1

# --help and the parser: the same flags, in the ranges of the source
succeeds "--help" --help
sed -n 's/^  \(--[a-z0-9-]*\)  *\([A-Z]*\)  *\(-[a-z0-9A-Z]*\)  .*/\1 \3/p' stdout > help.list
sed -n 's/^    X(\(text\|int\|float\|flag\), *\([a-z_0-9]*\), *"\(-[A-Za-z0-9]*\)", .*/--\2 \3/p' "$repo/train_vit_dynmoe.cu" |
    tr '_' '-' > source.list
check "--help lists the flags of the source" cmp help.list source.list
check "it lists more than 60" test "$(wc -l < help.list)" -gt 60
check "no two flags share a name or a twin" test -z "$(tr ' ' '\n' < help.list | sort | uniq -d)"
succeeds "-h is --help" -h
grep -E '^    X\((int|float), *[a-z_0-9]+, *"-' "$repo/train_vit_dynmoe.cu" | sed 's/^    X(//; s/"[^"]*") *\\*$//; s/[",]/ /g' |
    awk '{ gsub(/_/, "-", $2); printf "--%s %s %.10g %.10g %.10g\n", $2, $3, $5 - 1, 2 * $6 + 1, $6 }' > ranges
wrong=0
while read -r name twin low high top; do # by name, by twin, as name=value; the highest is taken: a bad flag behind it is met
    for line in "$name $low" "$twin $high" "$name=$high"; do
        "$program" $line > range.out 2> range.err
        if [ $? -ne 2 ] || ! grep -q "^error: $name .*: expected a" range.err; then wrong=$((wrong + 1)); echo "$line is taken"; fi
    done
    for line in "$name=$top" "$twin $top"; do
        "$program" $line --stray > range.out 2> range.err
        if [ $? -ne 2 ] || ! has 'unknown flag --stray' range.err; then wrong=$((wrong + 1)); head -n 1 range.err; fi
    done
done < ranges
check "more than 45 numbers, each within its range only" test $wrong -eq 0 -a "$(wc -l < ranges)" -gt 45
values="--data c10.bin --val c10.bin --layout cifar10 --image 8 --names names.txt --out run --preset authors --layers 2 --heads 1
    --channels 16 --patch 4 --moe-layers all --gate-input ln2 --experts 5 --start-experts 3 --expert-init copies --expert-width 24
    --shared-experts 1 --router top-any --topk 3 --topp 0.7 --threshold 0.25 --kgrad detached --gate-scale 2 --unit-norm 0
    --train-fallback 1 --aux-diversity 0.5 --aux-simplicity 0.25 --aux-balance 0.125 --aux-efficiency 0.75 --aux-entropy 0
    --window 7 --period 21 --adapt-stop 0.5 --min-experts 2 --steps 2 --batch 3 --accum 2 --crop 2 --flip 0 --jitter 0.3
    --mixup 0.4 --smoothing 0.05 --ema 0.9 --lr 0.002 --lr-end 0.3 --warmup 9 --weight-decay 0.2 --beta1 0.8 --beta2 0.9
    --clip 0.5 --seed 77 --log-every 3 --val-every 4 --val-pictures 9 --save-every 5 --overfit 1 --dump-routing all.safetensors
    --dtype fp32 --predict-first 3 --predict-count 2 --hold-out -1 --depth 0 --epochs 0"
succeeds "many flags by name" $values
grep -o '"flags":.*' run/log.jsonl > by_name
check "they are in the log" awk -v values="$values" 'BEGIN { RS = "^$" } { n = split(values, v, " ")
    for (i = 1; i < n; i += 2) { f = substr(v[i], 3); gsub(/-/, "_", f); s = "\"" f "\":\"" v[i + 1] "\""
        if (!index($0, s)) { print s " is missing"; wrong = 1 } } exit wrong }' by_name
twins=$(echo $values)
while read -r name twin; do twins=$(echo " $twins" | sed "s/ $name / $twin /"); done < help.list
check "all of them have twins" sh -c "! echo '$twins' | grep -q -e ' --'"
rm -rf run
succeeds "the same by twin" $twins
grep -o '"flags":.*' run/log.jsonl > by_twin
check "they mean the same" cmp by_name by_twin

# ---- pictures ----------------------------------------------------------------------------------------------------------

refuses 1 "nowhere.bin: no such file" --data nowhere.bin
refuses 1 "no*.bin: no such file" --data 'no*.bin'
refuses 1 ".: not a regular file" --data .
: > empty.bin
refuses 1 "empty.bin: the file is empty" --data empty.bin $tiny
head -c 7719 c10.bin > cut.bin
refuses 1 "cut.bin: 7719 bytes are not a whole number of records of 2 + 192 bytes" --data cut.bin $tiny
refuses 1 "cut.bin: 7719 bytes are not a whole number of records of 1 + 192 bytes" --data cut.bin $tiny --layout cifar10
refuses 1 "c10.bin: 7720 bytes are not a whole number of records of 2 + 192 bytes" --data c10.bin $tiny --layout cifar100
check "the hint names --image" has '--image' stderr
refuses 1 "records of 2 + 3072 bytes" --data c10.bin
head -c 9446402 /dev/zero > either.bin # 3073 * 3074
refuses 1 "either.bin: its size fits both layouts of CIFAR" --data either.bin
check "the hint names --layout" has '--layout cifar10 or cifar100' stderr
succeeds "with --layout it is read" --data either.bin --layout cifar100 --dry-run --layers 1 --heads 1 --channels 8 --patch 16
check "as 3073 pictures, a tenth of them for validation" has '2765 pictures of 3 x 32 x 32, 1 classes; validation: 308' stdout
rm either.bin
records 9 8 4 0 3 > nine.bin
refuses 1 "nine.bin: none left to validate with" --data nine.bin $tiny
succeeds "nine and --val" --data nine.bin --val c10.bin $short --out nine
records 4 4 4 0 3 > four.bin
head -c 7720 c10.bin > part_0.bin
cp nine.bin part_1.bin
succeeds "a pattern" --data 'part_*.bin' $tiny --dry-run
check "it is 49 pictures" has 'part_*.bin: 44 pictures of 3 x 8 x 8, 4 classes; validation: 5' stdout

records 4 28 4 0 4 > pixels
idx 12 28 t
idx 12 8 small
check "this test: 12 pictures of 28 x 28" test "$(wc -c < t-images-idx3-ubyte)" -eq 9424 -a "$(wc -c < t-labels-idx1-ubyte)" -eq 20
refuses 1 "t-labels-idx1-ubyte: an IDX file of labels" --data t-labels-idx1-ubyte
refuses 1 "c10.bin: not an IDX file of pictures" --data c10.bin --layout idx
cp t-labels-idx1-ubyte x-labels-idx1-ubyte
broken() { # stdin: the pictures
    cat > x-images-idx3-ubyte
    refuses 1 "$1" --data x-images-idx3-ubyte $tiny --image 0 --layout idx
}
body() { tail -c +17 t-images-idx3-ubyte; }
{ numbers 2052 12 28 28; body; } | broken "not an IDX file of pictures"
printf '\0\0' | broken "not an IDX file of pictures"
numbers 2051 12 | broken "shorter than its header"
{ numbers 2051 13 28 28; body; } | broken "the header says 13 pictures of 28 x 28, the file has 9424 bytes"
{ numbers 2051 11 28 28; body; } | broken "the header says 11 pictures of 28 x 28, the file has 9424 bytes"
{ numbers 2051 4294967295 28 28; body; } | broken "the header says 4294967295 pictures"
{ numbers 2051 12 14 56; body; } | broken "pictures of 14 x 56"
{ numbers 2051 12 0 0; body; } | broken "pictures of 0 x 0"
{ numbers 2051 0 28 28; } > x-images-idx3-ubyte
numbers 2049 0 > x-labels-idx1-ubyte
refuses 1 "x-images-idx3-ubyte: no pictures" --data x-images-idx3-ubyte
cp t-images-idx3-ubyte x-images-idx3-ubyte
{ numbers 2049 13; tail -c +9 t-labels-idx1-ubyte; printf '\0'; } > x-labels-idx1-ubyte
refuses 1 "x-labels-idx1-ubyte: labels for 13 pictures in 21 bytes, x-images-idx3-ubyte has 12" --data x-images-idx3-ubyte
head -c 19 t-labels-idx1-ubyte > x-labels-idx1-ubyte
refuses 1 "labels for 12 pictures in 19 bytes" --data x-images-idx3-ubyte
head -c 7 t-labels-idx1-ubyte > x-labels-idx1-ubyte
refuses 1 "x-labels-idx1-ubyte: not a file of labels" --data x-images-idx3-ubyte
cp t-images-idx3-ubyte x-labels-idx1-ubyte
refuses 1 "x-labels-idx1-ubyte: not a file of labels" --data x-images-idx3-ubyte
rm x-labels-idx1-ubyte
refuses 1 "x-labels-idx1-ubyte: No such file" --data x-images-idx3-ubyte
mv x-images-idx3-ubyte pictures.idx
refuses 1 "no \`images\` in the name" --data pictures.idx
printf '\037\213\010\0some bytes' > t-images-idx3-ubyte.gz
refuses 1 "t-images-idx3-ubyte.gz: compressed by gzip" --data t-images-idx3-ubyte.gz
check "the hint says how to unpack it" has 'gunzip' stderr
refuses 1 "t-images-idx3-ubyte: pictures of 1 x 28 x 28, those before were 1 x 8 x 8" --data '[st]*-images-idx3-ubyte' \
    --layout idx
refuses 1 "--val small-images-idx3-ubyte: pictures of 1 x 8 x 8, --data has 1 x 28 x 28" --data t-images-idx3-ubyte \
    --val small-images-idx3-ubyte
refuses 1 "--val c10.bin: pictures of 3 x 8 x 8, --data has 1 x 8 x 8" --data small-images-idx3-ubyte --val c10.bin --image 8
mkdir -p images/idx3
cp t-images-idx3-ubyte t-labels-idx1-ubyte images/idx3
succeeds "folders called images and idx3" --data images/idx3/t-images-idx3-ubyte --dry-run $short --image 28 --patch 7

refuses 2 "--hold-out 0: the pictures have 0 domains" --data c10.bin $tiny --hold-out 0
refuses 2 "--hold-out 3: the pictures have 3 domains" --data c100.bin $tiny --hold-out 3
records 8 8 4 2 5 > two_domains.bin
refuses 2 "--hold-out 2: the pictures have 2 domains" --data c100.bin --val two_domains.bin $tiny --hold-out 2
records 8 8 4 1 5 > one_domain.bin
refuses 1 "one_domain.bin: none left to train on" --data one_domain.bin $tiny --hold-out 0

# ---- a run, twice; its files -------------------------------------------------------------------------------------------

first="--data c10.bin $tiny --steps 12 --window 2 --period 5 --lr 0.01 --warmup 0 --seed 5"
succeeds "a run" $first --out run
mv run/model.safetensors first.safetensors
check "no temporary file stays" test -z "$(find . -name '*.tmp')"
check "the log opens with the run" grep -q '^{"type":"run","version":1,"program":"train_vit_dynmoe.cu"' run/log.jsonl
check "the log closes with the end" sh -c 'tail -n 1 run/log.jsonl | grep -q "^{\"type\":\"end\",\"step\":12,"'
check "every record of the log is one object" sh -c '! grep -qv "^{.*}$" run/log.jsonl'
check "no nan and no inf in the log" sh -c '! grep -qiE "[:,\[](-?nan|-?inf)" run/log.jsonl'
check "the log has all steps and two validations" test "$(grep -c '"type":"step"' run/log.jsonl)" -eq 12 -a \
    "$(grep -c '"type":"val"' run/log.jsonl)" -eq 2
check "a fourth of tokens or more moves between experts: the run is not trivial" awk '/"type":"val","step":12/ {
    exit !(match($0, /"k":[0-9.]+/) && substr($0, RSTART + 4, RLENGTH - 4) > 0.2) }' run/log.jsonl
succeeds "the same run" $first --out run
check "the same bits" cmp first.safetensors run/model.safetensors
check "no time in it" sh -c '! head -c 20000 first.safetensors | grep -aoE "\"(flag\.)?[a-z_.]*(time|date|second)[a-z_.]*\""'
succeeds "another seed" $first --out run --seed 6
check "other bits" sh -c '! cmp -s first.safetensors run/model.safetensors'
succeeds "bf16" $first --out bf --dtype bf16
cp bf/model.safetensors bf.safetensors
succeeds "bf16 again" $first --out bf --dtype bf16
check "bf16: the same bits" cmp bf.safetensors bf/model.safetensors
tensors bf.safetensors > first
for flags in "--streams 1" "--streams 3" "--graph 1"; do
    succeeds "bf16, $flags" $first --out bf --dtype bf16 $flags
    tensors bf/model.safetensors | cmp - first > check.out 2>&1
    check "bf16, $flags: the same bits" [ $? -eq 0 ]
done
refuses 2 "--streams 0: expected a whole number from 1 to 4" --streams 0
refuses 2 "--graph 2: expected a whole number from 0 to 1" --graph 2
check "bf16 is not fp32" sh -c '! cmp -s bf.safetensors first.safetensors'
succeeds "one batch only" --data c10.bin $short --steps 80 --overfit 1 --lr 0.01 --warmup 0 --smoothing 0 --out fit
check "--overfit 1 comes near zero" awk '/"type":"step"/ { split($0, a, "\"loss\":"); loss = a[2] + 0; if (!n++) start = loss }
    END { print start, loss; exit !(start > 1 && loss > 0 && loss < 0.05) }' fit/log.jsonl

# ---- good paths --------------------------------------------------------------------------------------------------------

log_has() { grep -qE -e "$1" "$2/log.jsonl"; }
succeeds "domains" --data c100.bin --val c100.bin $short --batch 7 --out domains --dump-routing d.safetensors
check "accuracies of the three domains are printed" \
    grep -qE '^step 2: validation top-1 .*; domains 0: [0-9.]+%, 1: [0-9.]+%, 2: [0-9.]+%$' stdout
check "and in the log" log_has '"type":"val","step":2,.*"domains":\[[0-9.]*,[0-9.]*,[0-9.]*\]' domains
tail -n 20 stdout | sed -n 's/^step 2: .*domains 0: \(.*\)%, 1: \(.*\)%, 2: \(.*\)%$/\1 \2 \3/p' > want
check "the same ones" awk 'FNR == NR { for (i = 1; i < 4; i++) d[i] = $i; next } /"type":"val","step":2/ {
    split($0, a, /"domains":\[/); split(a[2], b, ",")
    for (i = 1; i < 4; i++) { x = 100 * b[i] - d[i]; wrong += x > 0.1 || x < -0.1 } }
    END { exit wrong > 0 || d[1] + d[2] + d[3] == 0 }' want domains/log.jsonl
column() { tensors d.safetensors | tail -c +$(($(place d.safetensors $1) + 1)) | head -c 160 | od -An -v -t d4 -w4; }
column label > label
column predicted > predicted
check "they are those of the classes in --dump-routing: picture i is of domain i mod 3" awk 'FILENAME == "want" {
        for (i = 0; i < 3; i++) d[i] = $(i + 1); next }
    FILENAME == "label" { y[FNR] = $1; next } { right[(FNR - 1) % 3] += $1 == y[FNR]; n[(FNR - 1) % 3]++; all++ }
    END { for (i = 0; i < 3; i++) { x = 100 * right[i] / n[i] - d[i]; wrong += x > 0.06 || x < -0.06 } exit wrong > 0 || all != 40 }
    ' want label predicted
succeeds "--hold-out" --data c100.bin $short --hold-out 1 --out held
check "a third is held out" has 'c100.bin: 27 pictures of 3 x 8 x 8, 4 classes; validation: 13' stdout
check "only its accuracy is printed" grep -qE '^step 2: validation top-1 [0-9.]+%, .* nats; domains 1: [0-9.]+%$' stdout
succeeds "--hold-out and --val" --data c100.bin --val c100.bin $short --hold-out 2 --out held
check "--val keeps only that domain" has 'c100.bin: 27 pictures of 3 x 8 x 8, 4 classes; validation: 13 of c100.bin' stdout
refuses 1 "t-images-idx3-ubyte: pictures of 28 x 28, not 8" --data t-images-idx3-ubyte $short --patch 7 --out gray
succeeds "IDX" --data t-images-idx3-ubyte $short --image 0 --patch 7 --out gray
check "28 x 28, gray" has '11 pictures of 1 x 28 x 28' stdout
check "patches of 7: 17 tokens" has '17 tokens' stdout
for flags in "--router top-any" "--router top-k --topk 2" "--router top-p" "--router dense" "--gate-input residual" \
    "--preset authors" "--preset paper" "--shared-experts 2" "--moe-layers none" "--moe-layers all --expert-width 8" \
    "--mixup 0.5 --jitter 0.4 --smoothing 0.2 --ema 0.9 --crop 2" "--train-fallback 1 --expert-init copies --kgrad detached" \
    "--accum 3 --clip 0 --val-pictures 2" "--start-experts 0 --threshold 0.9"; do
    rm -rf path
    succeeds "$flags" --data c10.bin $tiny --steps 2 $flags --out path
    check "$flags: its loss is a number" awk '/"type":"step","step":2/ { split($0, a, /"loss":/); n = a[2] + 0 }
        END { exit !(n > 0.3 && n < 5) }' path/log.jsonl
done
rm -rf path
succeeds "--epochs" --data c10.bin $short --epochs 0.5 --out path
check "half an epoch of 36 pictures by 4: 5 steps" log_has '"type":"end","step":5,' path
succeeds "a plan" --data c10.bin $tiny --out plan --dry-run
check "it says the time, and nothing is written" sh -c 'grep -q "^time " stdout && test ! -e plan'
succeeds "no steps" --data c10.bin $short --steps 0 --out zero
succeeds "--depth" --data c10.bin --image 8 --dtype fp32 --depth 1 --steps 1 --out zero
check "it is one layer of 64 channels" has '1 heads, 64 channels' stdout

# ---- from a model ------------------------------------------------------------------------------------------------------

init="--init first.safetensors --dtype fp32"
succeeds "--eval-only" $init --eval-only --data c10.bin --image 8 --val c10.bin --dump-routing all.safetensors
check "it prints the validation" grep -q '^validation: top-1 [0-9.]*%, top-5 [0-9.]*%, loss [0-9.]* nats$' stdout
cp stdout evaluated
succeeds "--eval-only by twos" $init --eval-only --data c10.bin --image 8 --val c10.bin --batch 7 --dump-routing seven.safetensors
check "the same by other batches" cmp evaluated stdout
check "the same routing" sh -c 'tail -c 8000 all.safetensors > a; tail -c 8000 seven.safetensors | cmp a -'
for dtype in fp32 bf16; do
    succeeds "the last validation of a run, again" --data c10.bin $short --steps 9 --ema 0.8 --out again --dtype $dtype \
        --dump-routing trained.safetensors
    sed -n 's/^step 9: validation //p' stdout > want
    "$program" --init again/model.safetensors --eval-only --data c10.bin --image 8 --dtype $dtype --dump-routing now.safetensors \
        2>&1 | sed -n 's/^validation: //p' > got
    check "--eval-only takes the averages that were validated" cmp want got
    check "and so does the routing at the end of a run" cmp trained.safetensors now.safetensors
done
succeeds "upcycling" --data c10.bin $short --moe-layers none --out dense
succeeds "upcycling" --init dense/model.safetensors --data c10.bin $short --out up
check "a dense layer became experts" test "$(meta up/model.safetensors moe_layers)" = 0
refuses 2 "layer 2 of first.safetensors has experts" $init --data c10.bin --image 8 --moe-layers 0
refuses 1 "first.safetensors has 4 of 3 x 8 x 8" $init --data small-images-idx3-ubyte
records 30 8 9 0 6 > nine_classes.bin
refuses 1 "nine_classes.bin: 9 classes of 3 x 8 x 8 pictures; first.safetensors has 4" $init --data nine_classes.bin --image 8
# what a model is stands in its file: a flag that says otherwise is refused, not ignored; one that says the same is welcome
while read -r flag value has; do
    refuses 2 "$flag $value: first.safetensors has $has" $init --predict c10.bin $flag "$value"
    refuses 2 "$flag $value: first.safetensors has $has" --resume first.safetensors $flag "$value"
    succeeds "$flag as the file says" $init --data c10.bin --image 8 --eval-only $flag "$has"
done << END
--layers 2 3
--heads 4 2
--channels 64 16
--patch 4 2
--depth 2 0
--experts 5 3
--expert-width 32 64
--shared-experts 1 0
--router top-k top-any
--topk 3 2
--topp 0.5 0.4
--gate-scale 2 1
--gate-input residual ln2
END
refuses 1 "nowhere.safetensors: No such file" --init nowhere.safetensors --predict c10.bin
refuses 1 "c10.bin: header:" --init c10.bin --predict c10.bin
refuses 1 "all.safetensors: no metadata L" --init all.safetensors --predict c10.bin
size=$(wc -c < first.safetensors)
for n in 4 8 100 $((size / 2)) $((size - 1)); do
    head -c "$n" first.safetensors > cut.safetensors
    refuses 1 "cut.safetensors: " --init cut.safetensors --predict c10.bin
done
{ cat first.safetensors; printf 'x'; } > long.safetensors
refuses 1 "long.safetensors: bytes after the last tensor" --init long.safetensors --predict c10.bin
gpt='{"__metadata__":{"format":"pt"},"wte.weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
{ printf "$(printf '\\%03o' ${#gpt})\0\0\0\0\0\0\0%s\0\0\0\0" "$gpt"; } > gpt2.safetensors
refuses 1 "gpt2.safetensors: no metadata model" --init gpt2.safetensors --data c10.bin $short
check "the hint says what to give" has 'give a checkpoint' stderr
gpt2=$repo/train_gpt2_dynmoe
if [ -x "$gpt2" ] && "$gpt2" --data "$repo/train_vit_dynmoe.cu" --layers 1 --heads 1 --channels 8 \
    --context 8 --batch 1 --steps 1 --threads 1 --val-tokens 8 --generate 0 --out gpt > stdout 2>&1; then
    refuses 1 "gpt/model.safetensors: " --init gpt/model.safetensors --data c10.bin $short
else not_tested "--init of a checkpoint of train_gpt2_dynmoe: it is not built"; fi
mean=$(meta first.safetensors mean)
for lie in "nan,0.5,0.5" "-0.5,0.5,0." "1.5,0.5,0." "0.5;0.5,0." "0.5,0.5" "0.5,inf" "0.5,0.5,x" "0.5,0.5,inf"; do # filled up
    while [ ${#lie} -lt ${#mean} ]; do case $lie in *[0-9.]) lie=${lie}0 ;; *) lie=0$lie ;; esac; done
    with_header first.safetensors "s/\"mean\":\"$mean\"/\"mean\":\"$lie\"/" lie.safetensors
    refuses 1 "metadata mean is not 3 numbers from 0 to 1" --init lie.safetensors --predict c10.bin
done
std=$(meta first.safetensors std)
zeros=$(printf '%s' "$std" | tr '1-9' '0')
with_header first.safetensors "s/\"std\":\"$std\"/\"std\":\"$zeros\"/" lie.safetensors
refuses 1 "metadata std is not 3 numbers from 1e-06 to 1" --init lie.safetensors --predict c10.bin
for edit in 's/"model":"vit"/"model":"gpt"/' 's/"L":"3"/"L":"9"/' 's/"L":"3"/"L":"0"/' 's/"C":"16"/"C":"99"/' \
    's/"NH":"2"/"NH":"0"/' 's/"NH":"2"/"NH":"3"/' 's/"image":"8"/"image":"9"/' 's/"image":"8"/"image":"4"/' \
    's/"channels":"3"/"channels":"9"/' 's/"channels":"3"/"channels":"1"/' 's/"patch":"2"/"patch":"0"/' \
    's/"patch":"2"/"patch":"4"/' 's/"patch":"2"/"patch":"x"/' 's/"classes":"4"/"classes":"5"/' 's/"classes":"4"/"classes":"0"/' \
    's/"E":"3"/"E":"4"/' 's/"gate_input":"ln2"/"gate_input":"ln3"/' 's/"router":"top-any"/"router":"top-all"/' \
    's/"moe_layers":"0,2"/"moe_layers":"0,1"/' 's/"moe_layers":"0,2"/"moe_layers":"0,9"/' 's/"step":"12"/"step":"-1"/' \
    's/"rng_data":"[0-9]/"rng_data":"x/' 's/"recording":"[01]"/"recording":"7"/' 's/"flag.batch":"4"/"flag.batch":"0"/' \
    's/"best_val":"[0-9]/"best_val":"x/' 's/"h.1.fcw":{"dtype":"F32"/"h.1.fcw":{"dtype":"I32"/' 's/"h.1.fcb"/"h.1.fcx"/' \
    's/"__metadata__"/"__metadatax_"/' 's/"moe_layers":"0,2"/"moe_layers":"0;2"/'; do
    with_header first.safetensors "$edit" lie.safetensors
    run --resume lie.safetensors --data c10.bin --steps 14
    if { [ $got -eq 1 ] || [ $got -eq 2 ]; } && [ "$(grep -c '^error: ' stderr)" -eq 1 ] &&
        [ "$(grep -c '^---> HINT: ' stderr)" -eq 1 ] && [ "$(wc -l < stderr)" -eq 2 ]; then ok
    else bad "a header that lies, $edit (exit $got)" stdout stderr; fi
done

# ---- predictions -------------------------------------------------------------------------------------------------------

predict="$init --out seen --predict"
succeeds "--predict" $predict c10.bin --predict-count 40
cp stdout predicted
check "40 pictures" test "$(grep -c '^c10.bin, picture' predicted)" -eq 40
check "classes are sorted, percents sum up" awk '/^c10.bin, picture/ { n = split($0, a, /class [0-9]+ |%/); sum = 0; last = 101
    for (i = 2; i < n; i += 2) { sum += a[i]; wrong += a[i] + 0 > last; last = a[i] + 0; }
    wrong += sum < 99.7 || sum > 100.3 } END { exit wrong > 0 }' predicted
check "true classes are those of the file" sh -c 'sed -n "s/.*; it is class //p" predicted > a
    od -An -v -t u1 -w193 c10.bin | awk "{ print \$1 }" | cmp a -'
top1=$(sed -n 's/^validation: top-1 \([0-9.]*\)%.*/\1/p' evaluated)
check "as many right ones as --eval-only counts" awk -v top1="$top1" '/^c10.bin, picture/ { n++; split($0, a, "class ")
    right += a[2] + 0 == a[length(a)] + 0 } END { x = 100 * right / n; exit !(x - top1 < 0.01 && top1 - x < 0.01) }' predicted

# the picture as letters and the k of every patch beside it: 4 lines of 2 + 8 + 2 * (2 + 8) columns, against --dump-routing
for l in 0 2; do
    tensors all.safetensors | tail -c +$(($(place all.safetensors h.$l.k) + 1)) | head -c 2720 | od -An -v -t d4 -w68
done > k.list
# (the maps count the experts at work: for k = 0 the one that the fallback takes)
check "the k maps have the right geometry and show what --dump-routing says" awk '
    FNR == NR { for (t = 2; t <= NF; t++) k[NR - 1, t - 2] = $t > 0 ? $t : 1; next }
    /^c10.bin, picture/ { split($3, a, ":"); picture = a[1] + 0; row = -1; next }
    /^  layer/ { row = 0; next }
    row >= 0 && row < 4 {
        if (length($0) != 30) { print FNR ": " length($0) " columns"; wrong++ }
        for (l = 0; l < 2; l++) { for (c = 0; c < 8; c++) {
            is = substr($0, 13 + 10 * l + c, 1); want = k[40 * l + picture, 4 * row + int(c / 2)]; seen[is]++
            if (is "" != want "") { print FNR ": " is " instead of " want; wrong++ } } }
        if (substr($0, 11, 2) substr($0, 21, 2) != "    ") { print FNR ": no gaps"; wrong++ }
        row++; lines++ }
    END { n = 0; for (s in seen) n++; print n, lines, wrong; exit !(n > 1 && lines == 160 && wrong == 0) }' k.list predicted
check "the means are those of the maps" awk '/^  layer/ { mean[n++] = $3; next } n == 2 && length($0) == 30 && !/^  seen/ {
    for (l = 0; l < 2; l++) { for (c = 0; c < 4; c++) sum[l] += substr($0, 13 + 10 * l + 2 * c, 1) / 16 } row++ }
    row == 4 { for (l = 0; l < 2; l++) { d = sum[l] - mean[l]; wrong += d > 0.006 || d < -0.006; sum[l] = 0 } all++; n = row = 0 }
    END { print all, wrong; exit !(all == 40 && wrong == 0) }' predicted
check "a PNG for each picture" test "$(find seen -name 'predict_*.png' | wc -l)" -eq 40 -a -z "$(find seen -name '*.tmp')"
cat > png.py <<'PYTHON'
import struct, sys, zlib
path, out, number, side, patch, layers, E = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:8])
b = open("%s/predict_%d.png" % (out, number), "rb").read()
assert b[:8] == b"\x89PNG\r\n\x1a\n", "signature"
at, chunks = 8, []
while at < len(b):
    n, kind = struct.unpack(">I4s", b[at:at + 8])
    assert struct.unpack(">I", b[at + 8 + n:at + 12 + n])[0] == zlib.crc32(b[at + 4:at + 8 + n]) & 0xffffffff, "CRC of %r" % kind
    chunks.append((kind, b[at + 8:at + 8 + n]))
    at += 12 + n
assert [k for k, _ in chunks] == [b"IHDR", b"IDAT", b"IEND"] and at == len(b), "chunks"
w, h, *rest = struct.unpack(">IIBBBBB", chunks[0][1])
panel = 256 // side * side
assert (w, h, rest) == (panel + layers * (panel + 8), panel, [8, 2, 0, 0, 0]), "size %d x %d, %r" % (w, h, rest)
rows = zlib.decompress(chunks[1][1]) # checks Adler-32, too
assert len(rows) == h * (1 + 3 * w), "as many bytes as pixels"
record = 1 + 3 * side * side
pixels = open(path, "rb").read()[number * record + 1:(number + 1) * record]
maps, mine = [], False # k by row and column of patches, from standard output
for line in open("predicted"):
    if line.startswith("%s, picture " % path):
        mine = line.startswith("%s, picture %d:" % (path, number))
    elif mine and not line.startswith("  layer") and "/predict_" not in line:
        maps.append(line.rstrip("\n"))
stops = [(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)]
def heat(k):
    x = min(4.0 * k / E, 4.0)
    i = min(int(x), 3)
    return [int(stops[i][c] + (x - i) * (stops[i + 1][c] - stops[i][c])) for c in range(3)]
seen, scale = set(), panel // side
for y in range(h):
    assert rows[y * (1 + 3 * w)] == 0, "filter"
    for x in range(w):
        got = list(rows[y * (1 + 3 * w) + 1 + 3 * x:][:3])
        q, px = divmod(x, panel + 8)
        if px >= panel:
            assert got == [255] * 3, "a gap between panels"
            continue
        r, c = y // scale, px // scale
        want = [pixels[plane * side * side + r * side + c] for plane in range(3)]
        if q > 0:
            k = int(maps[r // 2][2 + side + (q - 1) * (2 + side) + 2 + c])
            seen.add(k)
            want = [(a + 3 * m) // 4 for a, m in zip(want, heat(k))]
        assert got == want, "pixel %d, %d is %r, not %r" % (x, y, got, want)
print(seen)
PYTHON
if [ -n "$python" ]; then
    for n in 0 7 39; do check "PNG $n: CRCs, zlib, every pixel" "$python" png.py c10.bin seen $n 8 2 2 3; done
else not_tested "PNGs by python3's zlib: no python3"; fi

succeeds "--predict-first" $predict c10.bin --predict-first 38 --predict-count 9
check "the last two" sh -c 'tail -n 16 predicted > a; cmp a stdout'
refuses 2 "--predict-first 40: c10.bin has 40 pictures" $predict c10.bin --predict-first 40
succeeds "--predict of domains" $predict c100.bin --predict-count 2
refuses 1 "small-images-idx3-ubyte: pictures of 1 x 8 x 8, the model reads 3 x 8 x 8" $predict small-images-idx3-ubyte
refuses 1 "cut.bin: 7719 bytes are not a whole number" $predict cut.bin
printf 'none\nplane\r\nbird of prey\n' > names.txt
succeeds "--names" $predict c10.bin --names names.txt --predict-count 40
sed 's/class 0/none/g; s/class 1/plane/g; s/class 2/bird of prey/g' predicted > want
check "names in the places of numbers" cmp want stdout
printf 'domain 0 art\ndomain 1 photo\nclass 0 none\nclass 1 plane\nclass 2 bird of prey\n' > names.txt
succeeds "--names of dev/images.py" $predict c10.bin --names names.txt --predict-count 40
check "the same" cmp want stdout
refuses 1 "nowhere.txt: No such file" $predict c10.bin --names nowhere.txt

# picture 3 as PPM: the planes go into one another
ppm() { od -An -v -t u1 -w193 c10.bin | awk -v n="$1" 'NR == n + 1 { for (i = 0; i < 64; i++)
    for (c = 0; c < 3; c++) printf "\\%03o", $(2 + 64 * c + i) }'; }
pixels=$(ppm 3)
printf "P6\n# a comment\n 8 #another\n8\n255\n$pixels" > three.ppm
succeeds "PPM" $predict three.ppm
awk '/picture 3:/ { p = 1; sub(/.*picture 3/, ""); sub(/;.*/, "") } /picture 4:/ { p = 0 } p && !/predict_/' predicted > want
awk '{ sub(/.*picture 0/, "") } !/predict_/' stdout > got
check "the same as from the records" cmp want got
cp seen/predict_0.png ppm.png
check "the same PNG" cmp ppm.png seen/predict_3.png
white='\377\377\377\377\377\377\377\377\377\377\377\377' black='\0\0\0\0\0\0\0\0\0\0\0\0'
{ printf 'P6 8 8 255\n'; for i in 0 1 2 3 4 5 6 7; do printf "$white$black"; done; } > half.ppm
succeeds "a half white, half black picture" $predict half.ppm
check "white is left" test "$(grep -c '^  @@@@      [0-3]' stdout)" -eq 4
refused_ppm() { cat > wrong.ppm; refuses 1 "$1" $predict wrong.ppm; } # text of the error; stdin: the file
printf 'P3\n8 8\n255\n1 2 3 4 5 6 7 8 9' | refused_ppm "not a binary PPM or PGM"
printf 'GIF89a and what follows' | refused_ppm "not a binary PPM or PGM"
printf 'P6 8 8 255' | refused_ppm "not a binary PPM or PGM"
: | refused_ppm "the file is empty"
printf "P6 9 8 255\n$pixels" | refused_ppm "9 x 8, 3 planes, up to 255; the model reads 8 x 8"
printf "P6 4 16 255\n$pixels" | refused_ppm "4 x 16"
printf "P6 8 8 15\n$pixels" | refused_ppm "up to 15"
printf "P6 8 8 65535\n$pixels" | refused_ppm "up to 65535"
printf "P6 999999999999 8 255\n$pixels" | refused_ppm "wrong.ppm: "
printf "P6 8 8 255\n$pixels" | head -c 202 | refused_ppm "not as many pixels as its header says"
printf "P6 8 8 255\n${pixels}x" | refused_ppm "not as many pixels as its header says"
printf 'P6 8 8 # 255 and so on' | refused_ppm "8 x 8, 3 planes, up to 0"
printf 'P5 8 8 255\n%064d' 0 | refused_ppm "8 x 8, 1 planes"
gray="--init gray/model.safetensors --dtype fp32 --out seen --predict"
succeeds "--predict of IDX" $gray t-images-idx3-ubyte --predict-first 2 --predict-count 1
check "14 lines of 28 letters and 28 numbers" test "$(awk 'length($0) == 60 && /  [0-3]*$/' stdout | wc -l)" -eq 14
awk '{ sub(/.*picture 2/, ""); sub(/;.*/, "") } !/predict_/' stdout > want
{ printf 'P5\n28 28\n255\n'; tail -c +1585 t-images-idx3-ubyte | head -c 784; } > two.pgm
succeeds "PGM" $gray two.pgm
awk '{ sub(/.*picture 0/, "") ; sub(/;.*/, "") } !/predict_/' stdout > got
check "the same as from IDX" cmp want got

# ---- going on ----------------------------------------------------------------------------------------------------------

succeeds "continues with the flags of the run" --resume first.safetensors --steps 14 --out on
check "it says where it is" grep -q '14/14' stdout
check "it does not begin again" sh -c '! grep -q " 1/14" stdout'

resumes() { # what, steps to stop at, flags
    kind=$1 at=$2
    shift 2
    rm -rf run full
    succeeds "$kind" "$@"
    mv run full
    for k in $at; do
        stop_at $k at.safetensors "$@"
        if [ "$(meta at.safetensors step 2> /dev/null)" != $k ]; then bad "$kind: no checkpoint of step $k" stop.out; continue; fi
        succeeds "$kind: --resume at step $k" --resume at.safetensors
        check "$kind: stopped at step $k, the same bits at the end" same_run full/model.safetensors run/model.safetensors
    done
}
# 18 of 20 pictures by 4: the second epoch begins within step 5. Recorded are steps 1 and 2, experts come and go after step 2.
head -c 3860 c10.bin > twenty.bin
base="--data twenty.bin $short --steps 6 --out run --lr 0.01 --warmup 0 --window 1 --period 4 --adapt-stop 1 --seed 3"
rich="$base --ema 0.9 --mixup 0.4 --jitter 0.3 --threshold 0.4"
resumes "fp32, everything on" "1 2 3 4 5" $rich
check "this test: experts come or go after step 2" has '"type":"event","step":2' full/log.jsonl
resumes "bf16, everything on" "2 3 5" $rich --dtype bf16
resumes "two batches a step" "3" $rich --accum 2
resumes "top-k" "3" $base --router top-k
resumes "top-p" "5" $base --router top-p
resumes "dense router" "3" $base --router dense
resumes "own LayerNorms" "3" $rich --preset authors
resumes "shared experts" "3" $base --shared-experts 2
resumes "no experts" "3" $base --moe-layers none
resumes "one batch only" "3" $rich --overfit 1
stop_at 2 at.safetensors $rich
check "this test: step 2 records" test "$(meta at.safetensors recording)" = 1
refuses 1 "--ema: the run of first.safetensors kept no averages" --resume first.safetensors --steps 14 --ema 0.5

# SIGTERM and SIGINT
rm -rf run full
long="$rich --steps 150"
succeeds "a run that nobody stops" $long
mv run full
interrupted() { # signal, exit code, step to wait for, command line: stops there, saves, says so
    signal=$1 code=$2 from=$3
    shift 3
    "$program" "$@" > stdout 2> stderr &
    pid=$! running=$!
    appears "\"type\":\"step\",\"step\":$from," run/log.jsonl 60 $pid ||
        bad "SIG$signal: the run ended before step $from" stdout stderr
    kill -s $signal $pid
    wait $pid
    got=$? running=''
    stopped=$(tail -n 1 run/log.jsonl | sed -n 's/^{"type":"stop","step":\([0-9]*\)}$/\1/p')
    check "SIG$signal: exit code $code" test $got -eq $code
    check "SIG$signal: the log ends with a stop record" test "${stopped:-0}" -ge $from
    check "SIG$signal: one line says where it stopped and that it saved" \
        test "$(grep -E 'saved.*resume' stdout | grep -c "step ${stopped:-none}:* ")" -eq 1
    check "SIG$signal: the checkpoint is of that step" test "$(meta run/model.safetensors step)" = "$stopped"
    check "SIG$signal: no error, no temporary file" test ! -s stderr -a ! -e run/model.safetensors.tmp
}
interrupted TERM 143 20 $long
interrupted INT 130 60 --resume run/model.safetensors
succeeds "the rest" --resume run/model.safetensors
check "stopped twice, the same bits at the end" same_run full/model.safetensors run/model.safetensors

# kill -9 while it saves after every step; a model of 3 MB, so that kills fall into the writing
rm -rf run
heavy="--data twenty.bin $short --channels 128 --expert-width 1024 --steps 100000 --save-every 1 --log-every 1 --out run"
kills=0 broken=0 left=0 step=0 backwards=0
for pause in 0.31 0.12 0.27 0.08 0.22 0.35 0.17 0.29; do
    set -- $heavy
    if [ -e run/model.safetensors ]; then set -- --resume run/model.safetensors; fi
    "$program" "$@" > kill.out 2> kill.err &
    pid=$! running=$!
    appears '"type":"step"' run/log.jsonl 20 $pid
    sleep $pause
    kill -9 $pid 2> /dev/null
    wait $pid 2> /dev/null
    [ $? -ne 137 ] || kills=$((kills + 1))
    running=''
    if [ -e run/model.safetensors.tmp ]; then left=$((left + 1)); fi
    if [ ! -e run/model.safetensors ]; then continue; fi
    "$program" --init run/model.safetensors --predict twenty.bin --predict-count 1 --dtype fp32 --out seen > load.out 2>&1 ||
        { broken=$((broken + 1)); cat load.out; }
    now=$(meta run/model.safetensors step)
    [ "$now" -ge $step ] || backwards=$((backwards + 1))
    step=$now
done
check "killed 8 times ($left times within a save), each checkpoint is whole" test $kills -eq 8 -a $broken -eq 0
check "they go forward" test $backwards -eq 0 -a $step -gt 2
printf '{"type":"step","st' >> run/log.jsonl
succeeds "with half a record at its end the log goes on" --resume run/model.safetensors --steps $((step + 1))
check "and each line of it is one record" awk '!/^{"type":.*}$/ || gsub(/{"type":/, "") != 1 { exit 1 }' run/log.jsonl

# two runs into one folder
rm -rf run
"$program" $base --steps 100000 > one.out 2>&1 &
pid=$! running=$!
appears '"type":"step","step":2,' run/log.jsonl 60 $pid || bad "it did not begin" one.out
refuses 1 "another run is writing to this folder" $base --seed 4
kill $pid
wait $pid
check "the first one is not harmed" test $? -eq 143 -a "$(meta run/model.safetensors flag.seed)" = 3
running=''

# ---- nowhere to write --------------------------------------------------------------------------------------------------

refuses 1 "c10.bin/inside: cannot make the folder" --data c10.bin $short --out c10.bin/inside
refuses 1 "c10.bin/inside: cannot make the folder" $init --predict c10.bin --out c10.bin/inside
rm -rf run
mkdir run
cp first.safetensors run/model.safetensors
(trap '' XFSZ; ulimit -f 16; "$program" --resume run/model.safetensors --steps 13 > stdout 2> stderr)
got=$?
stops "a checkpoint beyond the limit of a file's size" 1 'run/model.safetensors: cannot write: '
check "it leaves the old checkpoint" cmp first.safetensors run/model.safetensors
check "and no temporary file" test ! -e run/model.safetensors.tmp
(ulimit -f 16; "$program" $init --predict c10.bin --out run > stdout 2> stderr) 2> /dev/null
got=$?
stops "a PNG beyond the limit" 1 'run/predict_0.png: cannot write: '
check "no half PNG" test -z "$(find run -name '*.png*')"
if [ -c /dev/full ]; then
    rm run/log.jsonl
    ln -s /dev/full run/log.jsonl
    refuses 1 'log.jsonl: No space left' --resume run/model.safetensors --steps 13
    check "the checkpoint before is intact" cmp first.safetensors run/model.safetensors
    rm run/log.jsonl
else not_tested "a log on a full disk: no /dev/full"; fi
as='' # root may write anywhere: then the program runs as nobody
if [ "$(id -u)" -eq 0 ]; then as="setpriv --reuid=65534 --regid=65534 --clear-groups"; fi
chmod 755 "$dir"
chmod 555 run
if [ -n "$as" ] && ! $as "$program" --help > /dev/null 2>&1; then not_tested "read-only folders: root, and cannot become nobody"
elif $as touch run/x 2> /dev/null; then not_tested "read-only folders: this user may write everywhere"
else
    $as "$program" --resume run/model.safetensors --steps 13 > stdout 2> stderr
    got=$?
    stops "a read-only folder" 1 'log.jsonl: Permission denied'
    $as "$program" $init --predict c10.bin --out run > stdout 2> stderr
    got=$?
    stops "a read-only folder for PNGs" 1 'predict_0.png.tmp: Permission denied'
    cp first.safetensors secret.safetensors
    chmod 000 secret.safetensors
    $as "$program" --init secret.safetensors --predict c10.bin > stdout 2> stderr
    got=$?
    stops "a model that may not be read" 1 'secret.safetensors: Permission denied'
fi
chmod 755 run

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
