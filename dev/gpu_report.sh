#!/bin/sh
# Everything that wants a GPU, in parts of less than nine minutes each: tests, checkers, speed against the floor (dev/floors.py),
# PyTorch beside it (dev/peer_torch.py). Writes docs/results/DATE-GPU.txt with machine and commit.
#   dev/gpu_report.sh               all parts that are not done yet, then the report
#   dev/gpu_report.sh PART...       these, done or not, then the report
#   dev/gpu_report.sh --list        the parts
# Resumable: GPU_OUT (out_gpu) keeps the output of each part. A part counts as done if it ended well at this commit on this GPU.
# Exit status 1 if a part failed. Settings by environment, for smaller machines: BATCH=64 (halved until it fits)
# LAYERS=12 HEADS=12 CHANNELS=768 CONTEXT=1024 STEPS=30 EXPERTS=8 VIT_BATCH=256 PEER_SECONDS=130 PART_SECONDS=530, CUDA_ON_CPU=0,
# PYTHON, COMMIT (where there is no git), REPORT (another file for the report). Pictures are where CIFAR=data/cifar10 and
# PACS=data/pacs say (the files data_batch_1.bin .. and test_batch.bin; PACS_train.bin and PACS_val.bin of dev/images.py).
set -eu
self=$(cd "$(dirname "$0")" && pwd)/$(basename "$0")
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/cuda/bin # nvcc and compute-sanitizer are often only there
PARTS='machine build tests fixtures memcheck racecheck ladder micro dense top-any k1.5 k2 k2.5 top2 top2-one-stream top2-graph
flash memory vit train
cifar10-dense cifar10-top-1 cifar10-top-2 cifar10-top-any pacs peer-check peer peer-compile peer-pure peer-k peer-onehot'
OUT=${GPU_OUT:-out_gpu}
BATCH=${BATCH:-64} LAYERS=${LAYERS:-12} HEADS=${HEADS:-12} CHANNELS=${CHANNELS:-768} CONTEXT=${CONTEXT:-1024} STEPS=${STEPS:-30}
EXPERTS=${EXPERTS:-8} VIT_BATCH=${VIT_BATCH:-256} PEER_SECONDS=${PEER_SECONDS:-130} PART_SECONDS=${PART_SECONDS:-530}
CUDA_ON_CPU=${CUDA_ON_CPU:-0} CIFAR=${CIFAR:-data/cifar10} PACS=${PACS:-data/pacs} CIFAR_EPOCHS=${CIFAR_EPOCHS:-150}
commit=${COMMIT:-$(git describe --always --dirty --exclude='*' 2> /dev/null || echo unknown)}

say() { echo "gpu_report.sh: $1" >&2; echo "---> HINT: $2" >&2; }
build() { make CUDA_ON_CPU="$CUDA_ON_CPU" COMMIT="$commit" "$@"; }
shortly() { # a command whose output matters only at its end, or if it fails
    if "$@" > "$OUT/said.tmp" 2>&1; then tail -n "${LINES_KEPT:-3}" "$OUT/said.tmp"; else tail -n 30 "$OUT/said.tmp"; return 1; fi
}

# ---- the machine, and whether the program is right on it --------------------------------------------------------------

part_machine() {
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit --format=csv
    nvcc --version | tail -n 2
    uname -srm
    grep -m 1 'model name' /proc/cpuinfo 2> /dev/null || true
    if ! py=$(torch_python); then echo "no PyTorch that can use this GPU"; return; fi
    "$py" -c 'import torch; print("torch", torch.__version__, "CUDA", torch.version.cuda, "cuDNN", torch.backends.cudnn.version())'
}

part_build() {
    shortly build train_gpt2_dynmoe_cu
    [ ! -f train_vit_dynmoe.cu ] || shortly build train_vit_dynmoe
    LINES_KEPT=8 shortly build ptxas
}

part_tests() { LINES_KEPT=12 shortly build test-cuda; }

part_ladder() { LINES_KEPT=20 shortly build ladder; } # times each rung, writes the table of docs/cuda.md

part_fixtures() { LINES_KEPT=40 shortly build fixture-cuda; }

# Every test of a kernel by itself under a checker, as CK_RUN_CASE names it: what hangs or fails is then known by name.
checker() { # memcheck or racecheck
    if ! command -v compute-sanitizer > /dev/null; then echo "NOT CHECKED: no compute-sanitizer here"; return; fi
    bad=0 n=0
    for program in gpt2:test_cuda vit:test_cuda_vit; do
        source=test/test_${program%:*}_dynmoe.cu program=test/${program#*:}
        [ -f "$source" ] || continue
        shortly build "$program"
        for kernel in $(sed -n 's/^ *TEST_BOTH(\([a-z_0-9]*\)).*/\1_fp32 \1_bf16/p' "$source") \
            $(sed -n 's/^.* TEST(\(optimizer_and_rows\|averages\|flash_[a-z]*\)).*/\1/p' "$source"); do
            n=$((n + 1))
            if CK_RUN_CASE=$kernel timeout 100 compute-sanitizer --tool "$1" --error-exitcode 9 "$program" > "$OUT/$1.tmp" 2>&1 &&
                grep -q '^1 passed, 0 failed' "$OUT/$1.tmp"; then echo "$1 $program $kernel: clean"
            else bad=$((bad + 1)); echo "$1 $program $kernel: FAILED"; tail -n 15 "$OUT/$1.tmp"; fi
        done
    done
    echo "$1: $n tests, $bad failed"
    [ "$bad" = 0 ] && [ "$n" -gt 0 ]
}
part_memcheck() { checker memcheck; }
part_racecheck() { checker racecheck; }

# ---- speed of our program ----------------------------------------------------------------------------------------------

no_room() { grep -q 'no GPU memory\|MB of memory\|out of memory' "$1"; }

tokens() { # without a download: every two letters of the default text make a token below 50257, behind llm.c's header
    [ ! -f "$OUT/tokens.bin" ] || return 0
    build data > /dev/null
    python3 -c 'import struct, sys
text = open("data/languages_train.txt", "rb").read(1 << 21)
text = text[:len(text) & ~1]
sys.stdout.buffer.write(struct.pack("<256i", 20240520, 1, len(text) // 2, *[0] * 253) + text)' > "$OUT/tokens.tmp"
    mv "$OUT/tokens.tmp" "$OUT/tokens.bin"
}

# The learning rate is 0 and the pool stays as it is, so that routing is the same in every step. The checkpoint is not kept.
gpt2() { # batch, then flags of the program; the output is in $OUT/run.txt
    batch=$1
    shift
    rm -rf "$OUT/run"
    status=0
    ./train_gpt2_dynmoe_cu --data "$OUT/tokens.bin" --layers "$LAYERS" --heads "$HEADS" --channels "$CHANNELS" \
        --context "$CONTEXT" --batch "$batch" --experts "$EXPERTS" --start-experts "$EXPERTS" --moe-layers every2 \
        --lr 0 --period 0 --steps "$STEPS" --log-every 5 --val-every 0 --val-tokens "$CONTEXT" --generate 0 \
        --out "$OUT/run" "$@" > "$OUT/run.txt" 2>&1 || status=$?
    rm -f "$OUT/run/model.safetensors"
    return "$status"
}

speed() { # flags of the program: the largest batch that fits, its speed, its percent of the floor
    tokens
    b=$BATCH
    until gpt2 "$b" "$@"; do
        if ! no_room "$OUT/run.txt" || [ "$b" -le 1 ]; then tail -n 20 "$OUT/run.txt"; return 1; fi
        echo "batch $b does not fit"
        b=$((b / 2))
    done
    echo "$* --batch $b"
    grep -v '^$\|^ *a sample\|saved after' "$OUT/run.txt" | cut -c 1-160
    python3 dev/floors.py --log "$OUT/run/log.jsonl"
}

# At the start the cosines of C channels are spread around 0 with deviation 1/sqrt(C), so the threshold at which k of E experts
# open follows from the normal distribution. Tokens have something in common, though: where k misses by more than 0.1, once more,
# with the threshold moved by the difference. What k really was stands in the log, and the floor is that of the log's k.
threshold() { # k wanted; the threshold that was tried, and the k that it gave
    python3 -c 'import sys
from statistics import NormalDist
want, g, k, E, C = [float(a) for a in sys.argv[1:]]
z = lambda k: NormalDist().inv_cdf(1 - min(max(k / E, 1e-3), 1 - 1e-3))
print("%.6f" % (g + (z(want) - z(k)) / C ** 0.5))' "$1" "${2:-0}" "${3:-$(awk "BEGIN { print $EXPERTS / 2 }")}" \
        "$EXPERTS" "$CHANNELS"
}

at_k() {
    g=$(threshold "$1")
    speed --router top-any --threshold "$g" > "$OUT/speed.tmp" || { cat "$OUT/speed.tmp"; return 1; }
    k=$(sed -n 's/^GPT-2: .*, k = \([0-9.]*\);.*/\1/p' "$OUT/speed.tmp")
    if awk "BEGIN { d = $k - $1; exit !(d > 0.1 || d < -0.1) }"; then
        echo "wanted k $1: threshold $g gives $k"
        speed --router top-any --threshold "$(threshold "$1" "$g" "$k")"
    else cat "$OUT/speed.tmp"; fi
}

part_dense() { speed --moe-layers none; }
part_top_any() { speed --router top-any; }
part_k1_5() { at_k 1.5; }
part_k2() { at_k 2; }
part_k2_5() { at_k 2.5; }
part_top2() { speed --router top-k --topk 2; } # with four streams and no graphs; the next two to compare with it
part_top2_one_stream() { speed --router top-k --topk 2 --streams 1; }
part_top2_graph() { speed --router top-k --topk 2 --graph 1; }

part_flash() { # flash attention beside the (T, T) matrices, which take more memory: perhaps at a smaller batch
    for flash in 1 0; do
        speed --router top-k --topk 2 --flash $flash > "$OUT/flash$flash.tmp" || { cat "$OUT/flash$flash.tmp"; return 1; }
        cat "$OUT/flash$flash.tmp"
    done
    for flash in 1 0; do sed -n "s/^measured: /--flash $flash: /p" "$OUT/flash$flash.tmp"; done
}

part_memory() { # linear in tokens: twice the batch takes at most 2.2 times as much, and each further sequence the same
    tokens
    most=
    for b in $((BATCH / 8)) $((BATCH / 4)) $((BATCH / 2)); do
        [ "$b" -ge 1 ] || { echo "BATCH=$BATCH is too small for three batches"; return 1; }
        (while :; do nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits -i 0; sleep 0.3; done) > "$OUT/used.tmp" &
        watcher=$!
        ok=0
        gpt2 "$b" --router top-k --topk 2 || ok=1
        kill "$watcher" 2> /dev/null || true
        wait "$watcher" 2> /dev/null || true
        [ "$ok" = 0 ] || { tail -n 5 "$OUT/run.txt"; return 1; }
        used=$(sort -n "$OUT/used.tmp" | tail -n 1)
        echo "batch $b: $used MiB of the GPU's memory at most"
        most="$most $used"
    done
    echo "$most" | awk '{ more = ($3 - $2) / ($2 > $1 ? $2 - $1 : 1)
        printf "twice the batch: x %.2f, x %.2f", $2 / $1, $3 / $2
        printf "; the second step is %.2f times the first (2: linear, 4: quadratic)\n", more
        exit !($1 > 0 && $2 <= 2.2 * $1 && $3 <= 2.2 * $2 && more < 2.6) }'
}

pictures() { # side, how many: noise with a class of ten, in CIFAR-10's layout
    python3 -c "import os, sys
for i in range($2): sys.stdout.buffer.write(bytes([i % 10]) + os.urandom(3 * $1 * $1))" > "$OUT/pictures.tmp"
    mv "$OUT/pictures.tmp" "$OUT/pictures$1.bin"
}

vit() { # side, batch, then flags
    side=$1 batch=$2
    shift 2
    rm -rf "$OUT/run"
    echo "$* --image $side --batch $batch"
    if ! ./train_vit_dynmoe --data "$OUT/pictures$side.bin" --layout cifar10 --image "$side" --batch "$batch" --experts "$EXPERTS" \
        --start-experts "$EXPERTS" --lr 0 --period 0 --steps "$STEPS" --log-every 5 --val-every 0 --val-pictures 16 \
        --out "$OUT/run" "$@" > "$OUT/run.txt" 2>&1; then tail -n 20 "$OUT/run.txt"; return 1; fi
    rm -f "$OUT/run/model.safetensors"
    python3 dev/floors.py --log "$OUT/run/log.jsonl"
}

part_vit() {
    if [ ! -f train_vit_dynmoe.cu ]; then echo "no vision program yet"; return; fi
    [ -x train_vit_dynmoe ] || shortly build train_vit_dynmoe
    pictures 224 $((VIT_BATCH * 2 + 40))
    for flags in "--moe-layers none" "--router top-k --topk 2"; do
        # shellcheck disable=SC2086 # flags are several words
        vit 224 "$VIT_BATCH" --patch 16 --layers 12 --heads 6 --channels 384 $flags
    done
    pictures 32 $((VIT_BATCH * 4 + 40))
    for switches in "" "--streams 1" "--graph 1"; do # a small model: launches decide
        # shellcheck disable=SC2086 # flags are several words
        vit 32 $((VIT_BATCH * 2)) --patch 4 --layers 9 --heads 3 --channels 192 --moe-layers 0,2,4,6 --router top-k --topk 2 \
            $switches
    done
}

# Accuracy on real pictures: a ViT of 8 layers and 256 channels, 8.4 million parameters in use at k = 2. A part that runs out of
# time goes on from its last checkpoint when it is called again.
cifar() { # dense, top-1, top-2, top-any; then further flags of the program
    run=$1
    shift
    if [ ! -f "$CIFAR/test_batch.bin" ]; then echo "NOT RUN: no $CIFAR/test_batch.bin (data/download.sh cifar10)"; return; fi
    [ -x train_vit_dynmoe ] || shortly build train_vit_dynmoe
    echo "the pictures: $(cksum < "$CIFAR/test_batch.bin") test_batch.bin"
    LINES_KEPT=40 shortly env RUNS="$run" COMMIT="$commit" dev/vit_compare.sh "$OUT/cifar10-$commit" \
        "$CIFAR/data_batch_*.bin" "$CIFAR/test_batch.bin" \
        --epochs "$CIFAR_EPOCHS" --batch 512 --layers 8 --heads 4 --channels 256 --patch 4 --jitter 0.2 --mixup 0.2 --ema 0.999 \
        --warmup 500 --val-every 500 --log-every 100 --aux-balance 0.01 "$@"
}
part_cifar10_dense() { cifar dense; }
part_cifar10_top_1() { cifar top-1; }
part_cifar10_top_2() { cifar top-2; }
part_cifar10_top_any() { cifar top-any --period 1500 --window 300; }

part_pacs() { # each domain held out once: trained on the other three, from scratch
    if [ ! -f "${PACS}_val.bin" ]; then echo "NOT RUN: no ${PACS}_val.bin (dev/images.py FOLDER $PACS)"; return; fi
    [ -x train_vit_dynmoe ] || shortly build train_vit_dynmoe
    for domain in 0 1 2 3; do
        echo "without domain $domain:"
        LINES_KEPT=6 shortly env COMMIT="$commit" dev/vit_compare.sh "$OUT/pacs-$domain-$commit" "${PACS}_train.bin" \
            "${PACS}_val.bin" --layout cifar100 --hold-out "$domain" \
            --epochs 60 --batch 256 --layers 6 --heads 4 --channels 256 --patch 4 --jitter 0.2 --mixup 0.2 --warmup 100 \
            --val-every 200 --log-every 50
    done
}

part_train() { # the default run on this GPU, beside the C program's first steps
    shortly build all data train_gpt2_dynmoe_cu
    LINES_KEPT=8 shortly sh test/train_both.sh
    LINES_KEPT=60 shortly build train CUDA=1 OUT="$OUT/train"
}

# ---- PyTorch on the same machine ---------------------------------------------------------------------------------------

torch_python() { # a Python whose PyTorch can use the GPU
    for p in ${PYTHON:-python3 /usr/bin/python3}; do
        "$p" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2> /dev/null && echo "$p" && return
    done
    return 1
}

peer() { # flags of dev/peer_torch.py: the largest batch that fits, its speed, percent of the same floor; 0 if it ran
    b=$BATCH
    while :; do
        status=0
        timeout -k 5 "$PEER_SECONDS" "$py" dev/peer_torch.py --device cuda --dtype bf16 --B "$b" --T "$CONTEXT" --C "$CHANNELS" \
            --L "$LAYERS" --NH "$HEADS" --E "$EXPERTS" "$@" > "$OUT/peer.tmp" 2> "$OUT/peer_error.tmp" || status=$?
        if [ "$status" = 0 ] || [ "$b" -le 1 ] || ! no_room "$OUT/peer_error.tmp"; then break; fi
        b=$((b / 2))
    done
    echo "$* --B $b"
    if [ "$status" != 0 ]; then
        echo "did not run (exit $status; 124: longer than $PEER_SECONDS s):" \
            "$(grep -v '^---> HINT' "$OUT/peer_error.tmp" | tail -n 1 | cut -c 1-400)"
        return 1
    fi
    tail -n 1 "$OUT/peer.tmp" | tee -a "$OUT/peer.jsonl"
    tail -n 1 "$OUT/peer.tmp" | python3 -c 'import json, sys
r = json.loads(sys.stdin.read())
print(" ".join("--%s %s" % (n, r[n]) for n in "B T C L NH V E k ms".split()), "--moe-layers %d" % r["moe"])' > "$OUT/peer_flags.tmp"
    # shellcheck disable=SC2046 # flags are several words
    python3 dev/floors.py $(cat "$OUT/peer_flags.tmp") | grep '^measured'
}

peers() { # sets of flags, one an argument: a set that does not run is said and left out, but one must run
    if ! py=$(torch_python); then echo "NOT MEASURED: no PyTorch that can use this GPU"; return; fi
    ran=0
    for flags in "$@"; do
        # shellcheck disable=SC2086 # flags are several words
        if peer $flags; then ran=$((ran + 1)); fi
    done
    echo "$ran of $# ran"
    [ "$ran" -gt 0 ]
}

part_micro() {
    if ! py=$(torch_python); then echo "NOT MEASURED: no PyTorch that can use this GPU"; return; fi
    "$py" dev/peer_torch.py --micro --B "$BATCH" --T "$CONTEXT" --C "$CHANNELS" --NH "$HEADS" --E "$EXPERTS"
}
part_peer_check() {
    if ! py=$(torch_python); then echo "NOT MEASURED: no PyTorch that can use this GPU"; return; fi
    LINES_KEPT=80 shortly "$py" dev/peer_torch.py --check test/fixtures/*.safetensors --device cuda
}
part_peer() { peers "--k 2 --dispatch index" "--k 2 --dispatch grouped_mm" "--k 2 --dispatch grouped_mm --combine gather" \
    "--moe-layers none"; }
part_peer_compile() { peers "--k 2 --dispatch grouped_mm --compile blocks" "--k 2 --dispatch grouped_mm --compile whole" \
    "--k 2 --dispatch index --compile blocks" "--moe-layers none --compile blocks"; }
part_peer_pure() { peers "--k 2 --dispatch grouped_mm --pure --compile blocks" \
    "--k 2 --dispatch grouped_mm --pure --compile whole" "--k 2 --dispatch grouped_mm --pure --compile blocks --zipf 0.7" \
    "--moe-layers none --pure --compile blocks"; }
part_peer_k() { # the fastest at k = 2 so far, at the other k
    touch "$OUT/peer.jsonl"
    best=$(python3 -c 'import json, sys
rows = [json.loads(line) for line in open(sys.argv[1])]
rows = [r for r in rows if r["moe"] and r["fixed"] and 1.9 < r["k"] < 2.1 and not r["zipf"]]
r = max(rows, key=lambda r: r["tok_s"], default=dict(dispatch="index", combine="index_add", compile="no", pure=0))
print("--dispatch %(dispatch)s --combine %(combine)s --compile %(compile)s" % r, "--pure" * r["pure"])' \
        "$OUT/peer.jsonl")
    peers "--k 1.5 $best" "--k 2 $best" "--k 2.5 $best"
}
part_peer_onehot() { peers "--k 2 --dispatch onehot"; }

# ---- run what is wanted, then write the report --------------------------------------------------------------------------

if [ "${1:-}" = --inside ]; then # one part, in a process of its own: set -e holds there, and it can be given a time
    "part_$(echo "$2" | tr '.-' '__')"
    exit
fi
if [ "${1:-}" = --list ]; then echo "$PARTS" | tr '\n' ' '; echo; exit; fi
for part in "$@"; do
    case " $(echo "$PARTS" | tr '\n' ' ') " in
        *" $part "*) ;;
        *) say "there is no part $part" "dev/gpu_report.sh --list"; exit 2 ;;
    esac
done
if ! gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader 2> /dev/null | head -n 1) || [ -z "$gpu" ]; then
    say "no nvidia-smi, or no GPU" "make test-cuda CUDA_ON_CPU=1 runs without one"
    exit 1
fi
mkdir -p "$OUT" docs/results
state="commit $commit, $gpu"
named=$*
bad=0
for part in ${named:-$PARTS}; do
    file="$OUT/$part.txt"
    if [ -z "$named" ] && [ -f "$file" ] && head -n 1 "$file" | grep -qF ", $state"; then echo "$part: done, $file"; continue; fi
    echo "==== $part"
    began=$(date +%s)
    echo "==== $part, $(date -u '+%Y-%m-%d %H:%M'), $state" > "$file.tmp"
    rm -f "$file" "$OUT/$part.failed"
    status=0
    timeout -k 10 "$PART_SECONDS" sh "$self" --inside "$part" >> "$file.tmp" 2>&1 || status=$?
    echo "($(($(date +%s) - began)) s)" >> "$file.tmp"
    if [ $status = 0 ]; then mv "$file.tmp" "$file"
    else
        bad=1
        echo "$part FAILED (exit $status; 124: longer than $PART_SECONDS s)" | tee -a "$file.tmp"
        mv "$file.tmp" "$OUT/$part.failed"
        file="$OUT/$part.failed"
    fi
    tail -n +2 "$file"
done

report=${REPORT:-docs/results/$(date -u +%Y-%m-%d)-$(echo "$gpu" | tr -cs 'A-Za-z0-9\n' '-' | sed 's/^NVIDIA-//; s/-*$//').txt}
{
    echo "Made by dev/gpu_report.sh, commit $commit, on $gpu."
    for part in $PARTS; do
        echo
        if [ -f "$OUT/$part.txt" ]; then cat "$OUT/$part.txt"
        elif [ -f "$OUT/$part.failed" ]; then cat "$OUT/$part.failed"
        else echo "==== $part: not done"; fi
    done
} > "$report.tmp"
mv "$report.tmp" "$report"
echo "wrote $report"
exit $bad
