#!/bin/sh
# Everything that wants a GPU, in parts of a few minutes each; the output goes to docs/results/DATE-GPU.txt with machine and commit.
#   dev/gpu_report.sh               all parts that are not done yet today
#   dev/gpu_report.sh PART...       of: machine build tests sanitize speed
# Resumable: a part whose output is complete is not done again; remove its file in out_gpu/ to repeat it.
set -eu
cd "$(dirname "$0")/.."
if ! command -v nvidia-smi > /dev/null; then
    echo "error: no nvidia-smi, so no GPU" >&2
    echo "---> HINT: make test-cuda CUDA_ON_CPU=1 runs without one" >&2
    exit 1
fi
OUT=out_gpu
mkdir -p "$OUT"

part_machine() {
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit --format=csv
    nvcc --version | tail -n 2
    echo "$(date -u +%Y-%m-%d), commit $(git describe --always --dirty --exclude='*'), $(uname -sm)"
}

part_build() { # registers, spills and local memory of every kernel: there should be no spill
    make CUDA_ON_CPU=0 train_gpt2_dynmoe_cu test/test_cuda test/fixture_cuda
    nvcc -O3 -std=c++17 -arch=native -Xptxas -v -c -o "$OUT/ptxas.o" train_gpt2_dynmoe.cu 2> "$OUT/ptxas.txt"
    echo "kernels: $(grep -c 'bytes spill stores' "$OUT/ptxas.txt")"
    grep 'spill stores' "$OUT/ptxas.txt" | grep -v ' 0 bytes spill stores' || echo "no spills"
}

part_tests() { make CUDA_ON_CPU=0 test-cuda; }

part_sanitize() {
    for tool in memcheck racecheck; do
        echo "compute-sanitizer --tool $tool"
        timeout 500 compute-sanitizer --tool "$tool" --error-exitcode 9 test/test_cuda 2>&1 | tail -n 5
    done
}

part_speed() { # GPT-2 124M with 6 of 12 layers DynMoE, E = 8, context 1024: dense and three numbers of experts
    make data
    # tokens below 50257 without a download: every two letters of the default text, behind llm.c's header
    { printf '\210\330\064\001\001\000\000\000\000\000\020\000'; head -c 1012 /dev/zero
      head -c 2097152 data/languages_train.txt; } > "$OUT/tokens.bin"
    for flags in "--moe-layers none" "--router top-k --topk 1" "--router top-k --topk 2" "--router top-any"; do
        for batch in 64 32 16; do # the largest that fits
            echo "==== $flags --batch $batch"
            # shellcheck disable=SC2086 # flags are several words
            if ./train_gpt2_dynmoe_cu --data "$OUT/tokens.bin" --layers 12 --heads 12 --channels 768 --context 1024 \
                --batch "$batch" $flags --steps 30 --log-every 10 --val-every 0 --val-tokens 1024 --generate 0 \
                --out "$OUT/run"; then break; fi
        done
    done
    make train CUDA=1 OUT="$OUT/train"
}

bad=0
for part in ${*:-machine build tests sanitize speed}; do
    file="$OUT/$part.txt"
    if [ -f "$file" ]; then echo "$part: done, $file"; continue; fi
    echo "==== $part"
    if "part_$part" > "$file.tmp" 2>&1; then mv "$file.tmp" "$file"
    else bad=1; echo "$part failed:"; tail -n 5 "$file.tmp"; fi
    [ ! -f "$file" ] || cat "$file"
done
report=docs/results/$(date -u +%Y-%m-%d)-GPU.txt
for part in machine build tests sanitize speed; do
    if [ -f "$OUT/$part.txt" ]; then printf '==== %s\n' "$part"; cat "$OUT/$part.txt"; fi
done > "$report.tmp"
mv "$report.tmp" "$report"
echo "wrote $report"
exit $bad
