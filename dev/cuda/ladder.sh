#!/bin/sh
# Builds and checks every rung of every ladder, dev/cuda/*.cu. On a GPU it also times them and writes the table of docs/cuda.md
# and docs/results/DATE-ladder-GPU.txt. Without one the CPU checks them (docs/cuda_on_cpu.md) and nothing is written.
#   dev/cuda/ladder.sh [NAME...]    all ladders, or these: routing permute expert_matmul combine gate_backward attention
#   dev/cuda/ladder.sh --check      the same by the emulation with every access checked (needs clang++)
#   dev/cuda/ladder.sh --table      writes the table with what is counted, bytes and FLOP; refused where figures were measured
# Settings by environment: CUDA_ON_CPU=1 also where there is a GPU, NVCC, COMMIT, REPORT (another file for the raw output).
# Exit status 1 if a rung is wrong.
set -eu
cd "$(dirname "$0")/../.."
names='routing permute expert_matmul combine gate_backward attention'
page=docs/cuda.md
out=dev/cuda/build.tmp
NVCC=${NVCC:-$(command -v nvcc || { [ ! -x /usr/local/cuda/bin/nvcc ] || echo /usr/local/cuda/bin/nvcc; })}
commit=${COMMIT:-$(git describe --always --dirty --exclude='*' 2> /dev/null || echo unknown)}
gpu=
[ "${CUDA_ON_CPU:-0}" = 1 ] || gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader 2> /dev/null | head -n 1) || gpu=
mode=run check=
case ${1:-} in
    --check) check=--check gpu=; shift ;;
    --table) mode=table gpu=; shift ;;
    -*) sed -n '2,8s/^# *//p' "$0" >&2; exit 2 ;;
esac
if [ -n "$gpu" ] && [ -z "$NVCC" ]; then
    echo "ladder.sh: a GPU, but no nvcc" >&2
    echo "---> HINT: install NVIDIA's CUDA toolkit, or CUDA_ON_CPU=1" >&2
    exit 1
fi
# shellcheck disable=SC2086 # names are several words
if [ $# = 0 ] || [ $mode = table ]; then set -- $names; fi
for name in "$@"; do
    case " $names " in *" $name "*) ;; *)
        echo "ladder.sh: there is no ladder $name" >&2
        echo "---> HINT: one of $names" >&2
        exit 2 ;;
    esac
done
mkdir -p $out

table() { # what the ladders printed -> rows of Markdown. Without times it says so
    awk 'BEGIN { print "| ladder | rung | asks for, MB | must move, MB | GFLOP | ms | GB/s | GFLOP/s | of the bound |"
                 print "|---|---|---|---|---|---|---|---|---|" }
        function flush() { for (r = 1; r <= n; r++) {
                printf "| %s | %s | %s | %s | %s | %s |\n", name, said[r], asks[r], least, flop,
                    time[r] != "" ? time[r] : "not measured yet | | |" }
            n = 0; split("", time) }
        /^==== / { flush(); name = $2 }
        /^bound: .* MB and / { least = $2; flop = $5 }
        /^rung [0-9]+: / { n++; text = $0; sub(/; asks for .*/, "", text); sub(/^rung [0-9]+: /, "", text)
            said[n] = n ". " text; asks[n] = $(NF - 1) }
        /^time [0-9]+: / { r = $2 + 0; gsub(/,/, ""); time[r] = $3 " | " $5 " | " $7 " | " $9 }
        END { flush() }' "$1"
}
write_table() { # file with Markdown -> the page, between its markers
    PYTHONPATH=dev python3 -c 'import sys; from markers import write_between
write_between(sys.argv[1], "ladder", open(sys.argv[2]).read())' "$page" "$1"
}

said=$out/said.txt
: > $said
bad=0
for name in "$@"; do
    echo "==== $name" >> $said
    if [ -n "$gpu" ]; then
        "$NVCC" -O3 -std=c++17 -arch=native -o "$out/$name" "dev/cuda/$name.cu" -lcublas
    else
        CUDACPU_BUILD=${CUDACPU_BUILD:-cudacpu.tmp} dev/cuda_on_cpu/cudacpu-cc ${check:+"$check"} -O2 -o "$out/$name" \
            "dev/cuda/$name.cu"
    fi
    status=0
    if [ $mode = table ]; then "$out/$name" --count >> $said; continue; fi
    "$out/$name" > "$out/$name.txt" 2>&1 || status=$?
    cat "$out/$name.txt" >> $said
    if [ $status != 0 ]; then bad=1; grep -v ': right, ' "$out/$name.txt" | head -n 40; echo "$name: WRONG (exit $status)"
    else echo "$name: $(grep -c ': right, ' "$out/$name.txt") checks right, $(tail -n 1 "$out/$name.txt")"; fi
done

if [ $mode = table ]; then
    if [ -f $page ] && grep -q '^Measured on ' $page; then
        echo "ladder.sh: $page has figures that were measured" >&2
        echo "---> HINT: dev/cuda/ladder.sh on a GPU writes them again" >&2
        exit 1
    fi
    { echo "Counted, not measured: no GPU has run these yet."; echo; table $said; } > $out/table.txt
    write_table $out/table.txt
    echo "wrote the counted table into $page"
elif [ -n "$gpu" ] && [ $bad = 0 ] && [ $# = 6 ]; then
    card=$(echo "$gpu" | tr -cs 'A-Za-z0-9\n' '-' | sed 's/^NVIDIA-//; s/-*$//')
    report=${REPORT:-docs/results/$(date -u +%Y-%m-%d)-ladder-$card.txt}
    { echo "Made by dev/cuda/ladder.sh, $(date -u '+%Y-%m-%d %H:%M'), commit $commit, on $gpu."; cat $said; } > "$report.tmp"
    mv "$report.tmp" "$report"
    { echo "Measured on $gpu, $(date -u +%Y-%m-%d), commit $commit, by dev/cuda/ladder.sh; all that was printed: $report"; echo
      table $said; } > $out/table.txt
    write_table $out/table.txt
    echo "wrote $report and the table of $page"
fi
exit $bad
