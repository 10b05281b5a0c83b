#!/bin/sh
# dev/floors.py: cases counted by hand, the table that was published for the shapes we aim at, the parameters and FLOP that our
# program itself states, logs whole and broken. Ends with `N passed, N failed`.
set -u
cd "$(dirname "$0")/.." || exit 1
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
passed=0 failed=0
if ! command -v python3 > /dev/null; then echo "no python3: not tested"; exit 0; fi

floors() { python3 dev/floors.py "$@"; }

result() { # what it shows, 0 if it passed
    if [ "$2" -eq 0 ]; then passed=$((passed + 1)); return; fi
    failed=$((failed + 1))
    echo "FAILED: $1"
    sed 's/^/    /' "$tmp/seen" | tail -n 6
}

near() { # what it shows, the number wanted, relative tolerance, a sed expression that finds the number; then flags
    what=$1 want=$2 within=$3 find=$4
    shift 4
    floors "$@" > "$tmp/seen" 2>&1
    got=$(sed -n "$find" "$tmp/seen")
    awk -v a="$got" -v b="$want" -v r="$within" 'BEGIN { d = a - b; if (d < 0) d = -d; exit !(a != "" && d <= r * b) }'
    result "$what: got ${got:-nothing}, wanted $want" $?
}
FLOOR='s/^floor: \([0-9.]*\) ms.*/\1/p'

# Counted by hand. One thousand FLOP or bytes a second make a millisecond of each; the other rate is out of the way.
flop="--flops 1e-9 --bandwidth 1e12"
bytes="--flops 1e12 --bandwidth 1e-9"
dense="--B 1 --T 2 --C 4 --L 1 --NH 1 --V 100 --moe-layers none"
moe="--B 1 --T 2 --C 4 --L 1 --NH 1 --V 100 --moe-layers 1 --E 2 --k 1.5 --expert-width 8"
vit="--image 4 --patch 2 --image-channels 1 --classes 3 --B 2 --C 4 --L 1 --NH 1 --moe-layers none"
# shellcheck disable=SC2086 # flags are several words
{
    # forward: qkv 192, attention 32, projection 64, feed-forward 512, head (128 columns) 2048; three times, attention 3.5
    near "dense, FLOP" 8560 1e-9 "$FLOOR" $dense $flop
    # unit 16 bytes: 12 + 13 + 6 + 38 + 16 of them; head 528 + 1056, softmax 1024, embedding 64; 772 parameters x 32
    near "dense, bytes" 28736 1e-9 "$FLOOR" $dense $bytes
    # qkv 192, projection 64, head 2048, gate 32, experts 384; three times, and attention 112
    near "DynMoE, FLOP" 8272 1e-9 "$FLOOR" $moe $flop
    # units 47, experts (8 + 14) 1.5, permute 6.5 + 7; gate 48 + 64; 1584 + 1024 + 64; 786 parameters x 32
    near "DynMoE, bytes" 29432 1e-9 "$FLOOR" $moe $bytes
    # one expert of two (81 parameters with its row and threshold) is not there: 28 bytes of each less
    near "a slot without expert" 27164 1e-9 "$FLOOR" $moe $bytes --active 1
    # a shared expert of width 8: 4 x 2 x 4 x 8 FLOP three times
    near "shared expert, FLOP" 9040 1e-9 "$FLOOR" $moe $flop --shared 1
    # two batches a step: everything twice but the 25152 bytes of the update
    near "two batches a step" 33712 1e-9 "$FLOOR" $moe $bytes --accum 2
    # 5 tokens, nothing in the future: qkv 960, projection 320, feed-forward 2560, class 48 three times; attention 800 x 3.5;
    # patches 256 twice
    near "ViT, FLOP" 14976 1e-9 "$FLOOR" $vit $flop
    # unit 80 bytes: 85 of them, patches 2; parameters: 244 + 8 + 20 + 16 + 4 + 4 + 15, 32 bytes each
    near "ViT, bytes" 16912 1e-9 "$FLOOR" $vit $bytes
    # the larger of the two counts: at 1 FLOP a byte the feed-forward takes 512 forward against 14 x 16 bytes
    near "each component takes its larger time" 1024 1e-9 's/^dense feed-forward .* \([0-9.]*\)$/\1/p' $dense --flops 1e-9 \
        --bandwidth 1e-9
    # attention done again in the backward is no work of the model: 8448 + 3 x 32
    near "FLOP of the model" 8544 1e-3 's/^measured: .* MFU \([0-9.]*\)% of 1e-12$/\1/p' $dense $flop --ms 100000 --nominal 1e-12
    near "percent of the floor" 50 1e-9 's/^measured: .*: \([0-9.]*\)% of floor.*/\1/p' $dense $flop --ms 17120
}

# The published table: GPT-2 124M and the vision models, ms on an H200
for row in "79.19 --k 1" "86.74 --k 1.5" "94.30 --k 2" "101.85 --k 2.5" "75.74 --moe-layers none"; do
    # shellcheck disable=SC2086
    near "GPT-2 ${row#* }" "${row%% *}" 0.001 "$FLOOR" ${row#* }
done
near "MFU at the floor" 68.0 0.001 's/^floor: .* MFU there: \([0-9.]*\)%.*/\1/p' --k 2
small="--image 224 --patch 16 --B 256 --C 384 --NH 6"
cifar="--image 32 --patch 4 --classes 10 --B 512"
for row in "11.53 $small --moe-layers none" "14.21 $small --k 1.5" "15.75 $small --k 2" \
    "3.08 $cifar --C 192 --L 9 --moe-layers 4" "5.91 $cifar --C 384 --L 7 --moe-layers 3"; do
    # shellcheck disable=SC2086
    near "ViT ${row#* }" "${row%% *}" 0.002 "$FLOOR" ${row#* }
done
# a row of its components: fwd and bwd
near "experts forward" 9.42 0.001 's/^experts, k = 2 .* \([0-9][0-9.]*\)  *[0-9.][0-9.]*$/\1/p' --k 2
near "attention backward" 3.92 0.002 's/^attention  .* \([0-9.]*\)$/\1/p' --k 2
near "LayerNorm forward" 2.25 0.002 's/^LayerNorm .* \([0-9][0-9.]*\)  *[0-9.][0-9.]*$/\1/p' --k 2

# What our program says of itself: a run of every kind of layer, found by its number of parameters
i=0
while [ $i -lt 200 ]; do echo "line $i of some text, which is long enough to train on"; i=$((i + 1)); done > "$tmp/text.txt"
run() { # name, flags
    name=$1
    shift
    ./train_gpt2_dynmoe --data "$tmp/text.txt" --threads 1 --layers 3 --heads 2 --channels 64 --context 16 --batch 2 --steps 4 \
        --log-every 1 --val-tokens 32 --generate 0 --out "$tmp/$name" "$@" > "$tmp/seen" 2>&1
}
number() { grep -o "\"$2\":[^,]*" "$tmp/$1/log.jsonl" | head -n 1 | sed 's/.*://'; }
if [ -x ./train_gpt2_dynmoe ]; then
    for flags in "dense --moe-layers none" "any --moe-layers 0,2 --experts 5 --accum 2" \
        "shared --moe-layers all --shared-experts 2 --expert-width 24" "top --router top-k --topk 2"; do
        name=${flags%% *}
        # shellcheck disable=SC2086
        run "$name" ${flags#* }
        result "the run $name" $?
        wanted=$(awk -v n="$(number "$name" parameters)" 'BEGIN { printf "%.3f", n / 1e6 }')
        near "parameters, $name" "$wanted" 0 's/^GPT-2: .*; \([0-9.]*\) million parameters$/\1/p' --log "$tmp/$name/log.jsonl"
        # model FLOP of a token: three times the forward that the program states, but for what it counts for biases and norms
        flop=$(grep -o '"flop":\[[^]]*' "$tmp/$name/log.jsonl" | tr -d '[' | sed 's/.*://')
        k=$(sed -n 's/.*pool of [0-9]*, k = \([0-9.]*\);.*/\1/p' "$tmp/seen")
        wanted=$(awk -v a="${flop%,*}" -v b="${flop#*,}" -v k="${k:-0}" 'BEGIN { print 3e-6 * (a + b * k) }')
        near "FLOP of a token, $name" "$wanted" 0.03 's/.*of the model: .*, \([0-9.]*\) MFLOP.*/\1/p' --log "$tmp/$name/log.jsonl"
    done
    # the mean over the records that count: with --skip 2 those of steps 3 and 4
    k=$(grep '"type":"step"' "$tmp/any/log.jsonl" | tail -n 2 | sed 's/.*"lr":[^,]*,"k":\([0-9.]*\).*/\1/' |
        awk '{ s += $1 } END { print s / 2 }')
    near "k is that of the log" "$k" 0.001 's/.*, k = \([0-9.]*\);.*/\1/p' --log "$tmp/any/log.jsonl" --skip 2
fi

# The CUDA programs count for themselves. Of the shapes we aim at, what a dry run says (one sequence, eight pictures: it measures
# a matrix product, too), at several k; of a run, its record: FLOP of the model, ms.
plan='s/^floor .* at least \([0-9.]*\) ms.*, at k = 1, \([0-9.]*\) at 2, \([0-9.]*\) at \([0-9]*\)$/1 \1 2 \2 \4 \3/p'
planned() { # program, what it is, flags of floors.py; flags of the program: the same floors
    program=$1 name=$2 shape=$3
    shift 3
    "$program" --dry-run "$@" > "$tmp/plan" 2>&1
    # shellcheck disable=SC2046 # numbers
    set -- $(sed -n "$plan" "$tmp/plan")
    if [ $# -ne 6 ]; then cp "$tmp/plan" "$tmp/seen"; result "$name: its plan" 1; return; fi
    while [ $# -gt 0 ]; do
        # shellcheck disable=SC2086 # flags are several words
        near "$name, its plan at k = $1" "$2" 0.001 "$FLOOR" $shape --k "$1"
        shift 2
    done
}
counted() { # program, what it is; flags: the record of its first step
    program=$1 name=$2
    shift 2
    "$program" "$@" --steps 1 --out "$tmp/counted" > "$tmp/seen" 2>&1
    result "$name: it runs" $?
    ! grep -q 'of floor\|MFU\|TFLOP' "$tmp/seen" && ! grep -q '"mfu"' "$tmp/counted/log.jsonl"
    result "$name: nothing measured on a CPU is called a share" $?
    number() { sed -n "s/^{\"type\":\"step\".*\"$1\":\([^,]*\),.*/\1/p" "$tmp/counted/log.jsonl"; }
    near "$name, floor_ms, as ns" "$(awk -v ms="$(number floor_ms)" 'BEGIN { print 1e6 * ms }')" 0.001 "$FLOOR" \
        --log "$tmp/counted/log.jsonl" --flops 788e-6 --bandwidth 4.3e-6
    near "$name, flop" "$(awk -v f="$(number flop)" 'BEGIN { print f / 1e12 }')" 0.001 \
        's/^a step: .*of the model: \([^,]*\),.*/\1/p' --log "$tmp/counted/log.jsonl"
}
runs_here() { # program, flags: built, and not for a GPU that is not here
    [ -x "$1" ] || return 1
    "$@" --dry-run > "$tmp/plan" 2>&1
    ! grep -q '^error: no GPU' "$tmp/plan"
}
bytes() { # how many, numbers of header: random bytes below 196, so that two of them are a token
    python3 -c 'import random, struct, sys
random.seed(1)
n, head = int(sys.argv[1]), [int(a) for a in sys.argv[2:]]
sys.stdout.buffer.write(struct.pack("<%di" % len(head), *head) + bytes(random.randrange(10) for i in range(n)))' "$@"
}
if runs_here ./train_gpt2_dynmoe_cu --data "$tmp/text.txt"; then
    # shellcheck disable=SC2046 # numbers
    bytes 60000 20240520 1 30000 $(seq 253 | sed 's/.*/0/') > "$tmp/tokens.bin"
    gpt="--data $tmp/tokens.bin --batch 1 --context 1024 --channels 768 --layers 12 --heads 12 --dtype bf16"
    # shellcheck disable=SC2086
    {
        planned ./train_gpt2_dynmoe_cu "GPT-2 124M" "--B 1" $gpt
        planned ./train_gpt2_dynmoe_cu "GPT-2 124M, more" "--B 1 --accum 3 --E 3 --shared 2 --expert-width 512" $gpt --accum 3 \
            --experts 3 --start-experts 3 --shared-experts 2 --expert-width 512
        tiny="--data $tmp/text.txt --layers 3 --heads 2 --channels 64 --context 16 --batch 2 --val-tokens 32 --generate 0"
        counted ./train_gpt2_dynmoe_cu "a run" $tiny --moe-layers 0,2 --experts 5 --start-experts 3
        counted ./train_gpt2_dynmoe_cu "a dense run" $tiny --moe-layers none --accum 2 --dtype fp32
        counted ./train_gpt2_dynmoe_cu "a run with shared experts" $tiny --moe-layers all --shared-experts 2 --expert-width 24
    }
else echo "the floor that train_gpt2_dynmoe_cu prints: not tested, it is not built for this machine"; fi
bytes 38600 > "$tmp/8.bin" # 200 pictures
if runs_here ./train_vit_dynmoe --data "$tmp/8.bin" --layout cifar10 --image 8 --patch 2; then
    bytes 3010580 > "$tmp/224.bin" # 20
    # shellcheck disable=SC2086
    {
        planned ./train_vit_dynmoe "ViT-S/16" "--image 224 --patch 16 --classes 10 --B 8 --C 384 --NH 6" --data "$tmp/224.bin" \
            --layout cifar10 --image 224 --patch 16 --channels 384 --layers 12 --heads 6 --batch 8 --dtype bf16
        tiny="--data $tmp/8.bin --layout cifar10 --image 8 --layers 3 --channels 16 --heads 2 --patch 2 --batch 4 --val-pictures 4"
        counted ./train_vit_dynmoe "a ViT" $tiny --experts 3 --start-experts 2 --accum 2
        counted ./train_vit_dynmoe "a ViT with own norms" $tiny --experts 4 --start-experts 2 --gate-input residual
    }
else echo "the floor that train_vit_dynmoe prints: not tested, it is not built for this machine"; fi

# A log as a run writes it, with times that are known: records 20 to 40 count, of the second 30 the later one
flags='"batch":"64","context":"1024","channels":"768","layers":"12","heads":"12","accum":"1"'
layer='{"layer":0,"experts":8,"load":[0,0,0,0,0,0,0,0]}'
step() { # step, k, ms
    printf '{"type":"step","step":%s,"k":%s,"ms":%s,"layers":[%s,%s,%s,%s,%s,%s]}\n' "$1" "$2" "$3" "$layer" "$layer" "$layer" \
        "$layer" "$layer" "$layer"
}
{
    printf '{"type":"run","program":"p.cu","commit":"c","dtype":"bf16","machine":"m","parameters":322854960,'
    printf '"flags":{%s}}\n' "$flags"
    step 1 4 900; step 10 4 900; step 20 1.5 120; step 30 9 999
    echo '{"type":"val","step":30,"loss":1}'
    step 30 2.5 180; step 40 2 150
} > "$tmp/log"
near "percent of the floor from a log" 62.9 1e-9 's/^measured: 150.000 ms.*: \([0-9.]*\)% of floor.*/\1/p' --log "$tmp/log"
# and of a ViT: image 32, patch 4, three planes; its floor is the one of the same sizes as flags
flags='"batch":"512","channels":"192","layers":"9","heads":"3","accum":"1","patch":"4"'
for kind in "ln2 12318762" "residual 12329514"; do
    {
        printf '{"type":"run","program":"v_vit.cu","commit":"c","dtype":"bf16","machine":"m","image":32,"planes":3,"classes":10,'
        printf '"tokens":65,"parameters":%s,"flags":{"gate_input":"%s",%s}}\n' "${kind#* }" "${kind% *}" "$flags"
        printf '{"type":"step","step":20,"k":2,"ms":6.152,"layers":[%s,%s,%s,%s]}\n' "$layer" "$layer" "$layer" "$layer"
    } > "$tmp/vit"
    near "percent of the floor from a ViT's log" 50 0.002 's/^measured: 6.152 ms.*: \([0-9.]*\)% of floor.*/\1/p' --log "$tmp/vit"
done
near "MFU from a log" 42.8 1e-9 's/^measured: .*MFU \([0-9.]*\)% of 989/\1/p' --log "$tmp/log"

refuses() { # exit code, text; flags
    code=$1 want=$2
    shift 2
    floors "$@" > "$tmp/out" 2> "$tmp/seen"
    got=$?
    [ $got -eq "$code" ] && [ "$(wc -l < "$tmp/seen")" -eq 2 ] && grep -qF -e "$want" "$tmp/seen" &&
        grep -q -e '---> HINT' "$tmp/seen"
    result "$* is refused (exit $got)" $?
}
refuses 2 "size is out of range" --B 0
refuses 2 "size is out of range" --k 9
refuses 2 "--moe-layers many" --moe-layers many
refuses 2 "--moe-layers 13" --moe-layers 13
refuses 2 "--image 30" --image 30 --patch 16
refuses 2 "rates" --flops 0
refuses 2 "unrecognized" --nonsense
refuses 1 "No such file" --log "$tmp/none"
echo 'not json' > "$tmp/bad"
refuses 1 "bad:1: not a record" --log "$tmp/bad"
head -n 1 "$tmp/log" > "$tmp/bad"
refuses 1 "no step" --log "$tmp/bad"
sed 's/322854960/322854961/' "$tmp/log" > "$tmp/bad"
refuses 1 "do not give 322854961 parameters" --log "$tmp/bad"
sed 's/"batch":"64",//' "$tmp/log" > "$tmp/bad"
refuses 1 "lack 'batch'" --log "$tmp/bad"

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
