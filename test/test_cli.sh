#!/bin/sh
# The command line as users meet it: bad input gets one clear line with a hint and exit code 1 or 2, nothing half-written
# stays behind, runs repeat bit for bit, a checkpoint goes on, generates and validates. Ends with `N passed, N failed`.
set -u
cd "$(dirname "$0")/.."
program=$PWD/train_gpt2_dynmoe
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
passed=0 failed=0

ok() { passed=$((passed + 1)); }
bad() { failed=$((failed + 1)); echo "FAILED: $1"; shift; for f in "$@"; do sed 's/^/    /' "$f" | tail -n 5; done; }

refuses() { # exit code, text that the error must hold, then the command line
    code=$1 want=$2
    shift 2
    "$program" "$@" > stdout 2> stderr
    got=$?
    if [ $got -eq "$code" ] && [ "$(grep -c '^error: ' stderr)" -eq 1 ] && [ "$(grep -c '^---> HINT: ' stderr)" -eq 1 ] \
        && [ "$(wc -l < stderr)" -eq 2 ] && grep -qF -e "$want" stderr; then ok
    else bad "$* (exit $got, wanted $code and \"$want\")" stderr; fi
}

succeeds() { # what it shows, then the command line
    what=$1
    shift
    if "$program" "$@" > stdout 2> stderr; then ok; else bad "$what: $*" stdout stderr; fi
}

check() { # what it shows, then a command that must succeed
    what=$1
    shift
    if "$@" > check.out 2>&1; then ok; else bad "$what: $*" check.out; fi
}

i=0
while [ $i -lt 200 ]; do echo "line $i of some text, which is long enough to train on"; i=$((i + 1)); done > text.txt
tiny="--layers 2 --heads 2 --channels 16 --context 16 --batch 2 --experts 4 --start-experts 2"
tiny="$tiny --threads 1 --val-tokens 64 --generate 0"

# the command line itself
refuses 2 "--data FILE is missing"
refuses 2 "unknown flag --nonsense" --nonsense 1
refuses 2 "unknown flag stray" stray
refuses 2 "unknown flag --step" --step=3
refuses 2 "--steps needs a value" --steps
refuses 2 "--steps 3x: expected a whole number" --steps 3x
refuses 2 "--steps 1.5: expected a whole number" --steps 1.5
refuses 2 "--steps -1: expected" --steps -1
refuses 2 "--steps : expected" --steps=
refuses 2 "--batch 0: expected" --batch 0
refuses 2 "--layers 129: expected" --layers 129
refuses 2 "--experts 65: expected" --experts 65
refuses 2 "--lr nan: expected" --lr nan
refuses 2 "--lr inf: expected" --lr inf
refuses 2 "--beta1 1: expected" --beta1 1
refuses 2 "--gate-scale 0: expected" --gate-scale 0
refuses 2 "--log-every 0: expected" --log-every 0
refuses 2 "--preset mine: expected default, paper or authors" --data text.txt --preset mine
refuses 2 "--kgrad both: expected detached or normalised" --data text.txt --kgrad both
refuses 2 "--expert-init zero: expected" --data text.txt --expert-init zero
refuses 2 "do not divide" --data text.txt --channels 10 --heads 3
refuses 2 "20 experts, 16 channels" --data text.txt --channels 16 --heads 2 --experts 20
refuses 2 "above --experts" --data text.txt --experts 4 --start-experts 5
refuses 2 "--moe-layers 0,9: not a list" --data text.txt --moe-layers 0,9
refuses 2 "--moe-layers 1,: not a list" --data text.txt --moe-layers 1,
refuses 2 "--moe-layers some: not a list" --data text.txt --moe-layers some
refuses 2 "--window 150: must be less than half" --data text.txt --window 150 --period 300
refuses 2 "need --init FILE" --eval-only --data text.txt
refuses 2 "need --init FILE" --prompt hello
succeeds "--help" --help
check "--help lists --train-fallback" grep -q -e '--train-fallback' stdout

# data
refuses 1 "nowhere.txt: no such file" --data nowhere.txt
refuses 1 "not a regular file" --data .
: > empty.txt
refuses 1 "empty.txt: the file is empty" --data empty.txt
printf 'short' > short.txt
refuses 1 "no room for 16 tokens" --data short.txt $tiny
refuses 1 "no room for 16 tokens" --data text.txt --val short.txt $tiny
head -c 2000 text.txt > wrong.bin
refuses 1 "not an llm.c token file" --data wrong.bin
# 20240520, version 1, then the number of tokens, little-endian
{ printf '\210\330\064\001\001\000\000\000\144\000\000\000'; head -c 1012 /dev/zero; head -c 200 /dev/zero; } > good.bin
head -c 1200 good.bin > cut.bin
refuses 1 "the header says 100 tokens, the file has room for 88" --data cut.bin $tiny
{ head -c 1024 good.bin; i=0; while [ $i -lt 100 ]; do printf '\377\377'; i=$((i + 1)); done; } > high.bin
refuses 1 "token 65535 at" --data high.bin $tiny --steps 1 --context 8
refuses 2 "--val text.txt: not of the kind of --data" --data good.bin --val text.txt $tiny
succeeds "a .bin file trains" --data good.bin $tiny --steps 1 --out bin --channels 8 --layers 1 --context 8

# a run, twice; its files
succeeds "a run" --data text.txt $tiny --steps 12 --window 3 --period 8 --out run --seed 5
mv run/model.safetensors first.safetensors
check "no temporary file stays" test ! -e run/model.safetensors.tmp
check "the log opens with the run" grep -q '^{"type":"run","version":1,' run/log.jsonl
check "the log closes with the end" sh -c 'tail -n 1 run/log.jsonl | grep -q "^{\"type\":\"end\",\"step\":12,"'
check "every record of the log is one object" sh -c '! grep -qv "^{.*}$" run/log.jsonl'
check "no nan and no inf in the log" sh -c '! grep -qiE "[:,\[](-?nan|-?inf)" run/log.jsonl'
succeeds "the same run" --data text.txt $tiny --steps 12 --window 3 --period 8 --out run --seed 5
check "the same bits" cmp first.safetensors run/model.safetensors
succeeds "another seed" --data text.txt $tiny --steps 12 --window 3 --period 8 --out run --seed 6
check "other bits" sh -c '! cmp -s first.safetensors run/model.safetensors'
bits='/validation loss/ { sub(/.*validation loss /, ""); n++; d = $1 / log(2) - $3; bad += d > 2e-4 || d < -2e-4 }
    END { exit n == 0 || bad > 0 }'
check "bits are nats over ln 2" awk "$bits" stdout
succeeds "one batch only" --data text.txt $tiny --steps 400 --overfit 1 --lr 0.01 --out fit --layers 2 --channels 32
check "--overfit 1 comes near zero" awk '/"type":"step"/ { split($0, a, "\"loss\":"); loss = a[2] + 0 }
    END { exit !(loss > 0 && loss < 0.05) }' fit/log.jsonl

# fewer threads than were asked for: BLAS must not wait for those that never come (waiting takes CPU time, so ulimit ends it)
check "OMP_THREAD_LIMIT below --threads" sh -c 'ulimit -t 30; OMP_THREAD_LIMIT=1 exec "$0" --data text.txt --steps 2 --threads 2 \
    --val-tokens 512 --generate 0 --out limit' "$program"

# from a checkpoint
succeeds "generate" --init first.safetensors --prompt line --generate 20 --temperature 0
check "the prompt comes first" grep -q '^line' stdout
cp stdout greedy
succeeds "generate again" --init first.safetensors --prompt line --generate 20 --temperature 0
check "greedy repeats" cmp greedy stdout
succeeds "--eval-only" --init first.safetensors --eval-only --data text.txt --threads 1
check "it prints the validation loss" grep -q 'validation loss [0-9.]* nats' stdout
check "bits are nats over ln 2 there too" awk "$bits" stdout
succeeds "--dump-routing" --init first.safetensors --eval-only --data text.txt --dump-routing routing.safetensors
check "the dump is there" test -s routing.safetensors
succeeds "--dump-routing and --val-tokens" --init first.safetensors --eval-only --data text.txt --dump-routing all --val-tokens 16
check "the dump is of the whole text" cmp routing.safetensors all
refuses 1 "its vocabulary of 256 does not fit" --init first.safetensors --eval-only --data good.bin
refuses 1 "nowhere.safetensors" --init nowhere.safetensors --prompt a
refuses 1 "text.txt: header:" --init text.txt --prompt a
size=$(wc -c < first.safetensors)
for n in 4 8 100 $((size / 2)) $((size - 1)); do
    head -c "$n" first.safetensors > cut.safetensors
    refuses 1 "cut.safetensors: " --init cut.safetensors --prompt a
done
{ cat first.safetensors; printf 'x'; } > long.safetensors
refuses 1 "long.safetensors: bytes after the last tensor" --init long.safetensors --prompt a
refuses 1 "no metadata" --init routing.safetensors --prompt a

# what a model is stands in its file: a flag that says otherwise is refused, not ignored; one that says the same is welcome
while read -r flag value has; do
    refuses 2 "$flag $value: first.safetensors has $has" --init first.safetensors --prompt a $flag "$value"
    refuses 2 "$flag $value: first.safetensors has $has" --resume first.safetensors $flag "$value"
    succeeds "$flag as the file says" --init first.safetensors --prompt a --generate 1 $flag "$has"
done << END
--layers 3 2
--heads 4 2
--channels 64 16
--context 32 16
--depth 2 0
--experts 5 4
--expert-width 32 64
--shared-experts 1 0
--router top-k top-any
--topk 3 2
--topp 0.5 0.4
--gate-scale 2 1
END

# resuming: that it equals a run without a stop, bit for bit, is tested in test_gpt2_dynmoe.c
succeeds "continues with the flags of the run" --resume first.safetensors --steps 14
check "it says where it is" grep -q '14/14' stdout
check "it does not begin again" sh -c '! grep -q " 1/14" stdout'
check "and adds to the log" test "$(grep -c '"type":"run"' run/log.jsonl)" -eq 2

# nowhere to write
refuses 1 "text.txt" --data text.txt $tiny --steps 1 --out text.txt/inside
cp first.safetensors run/model.safetensors
(trap '' XFSZ; ulimit -f 16; "$program" --data text.txt $tiny --steps 2 --out run > stdout 2> stderr)
got=$?
if [ $got -eq 1 ] && grep -q '^error: .*model.safetensors: cannot write' stderr; then ok
else bad "a full disk (exit $got)" stderr; fi
check "a full disk leaves the old checkpoint" cmp first.safetensors run/model.safetensors
check "and no temporary file" test ! -e run/model.safetensors.tmp
succeeds "a plan" --data text.txt $tiny --out plan --dry-run
check "it says the time, and nothing is written" sh -c 'grep -q "^time " stdout && test ! -e plan'
succeeds "top-k" --data text.txt $tiny --router top-k --steps 1 --out topk
check "softmax routers use the whole pool" grep -q '"experts":4' topk/log.jsonl

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
