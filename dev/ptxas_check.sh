#!/bin/sh
# Compiles the CUDA programs for sm_80 and sm_90 and shows what every kernel takes: registers, shared memory, spills, stack.
# A kernel that spills registers or keeps an array in local memory reads and writes memory behind our back: that fails, unless
# it is named below with a reason. Needs nvcc, no GPU. `make ptxas` calls it with the flags of the build.
#   dev/ptxas_check.sh [--mix] [FILE.cu...]    default: all CUDA programs of the project
# --mix also shows what each kernel is made of: instructions of its PTX, counted in the text, so a loop's body counts as often as
# the compiler unrolled it. Global loads and stores by their width; ldmatrix counts as shared; exp is ex2.
# Settings by environment: NVCC=nvcc, FLAGS="-O3 -std=c++17", ARCHS="80 90". Exit status 1 if a kernel spills or does not compile.
set -eu

# name of a kernel (no template, no arguments), then why its spills or stack are right
allowed() {
    cat <<'ALLOWED'
ALLOWED
}

NVCC=${NVCC:-$(command -v nvcc || { [ ! -x /usr/local/cuda/bin/nvcc ] || echo /usr/local/cuda/bin/nvcc; })}
FLAGS=${FLAGS:--O3 -std=c++17}
ARCHS=${ARCHS:-80 90}
mix=0
if [ "${1:-}" = --mix ]; then mix=1; shift; fi
if [ $# = 0 ]; then
    cd "$(dirname "$0")/.."
    for f in train_gpt2_dynmoe.cu train_vit_dynmoe.cu; do [ ! -f "$f" ] || set -- "$@" "$f"; done
fi
if [ -z "$NVCC" ]; then
    echo "ptxas: NOT CHECKED, no nvcc here"
    exit 0
fi
for f in "$@"; do
    [ -f "$f" ] || { echo "ptxas_check.sh: $f: no such file" >&2; echo "---> HINT: dev/ptxas_check.sh FILE.cu" >&2; exit 1; }
done
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
demangle=$(command -v cu++filt || command -v c++filt || echo cat)
allowed > "$tmp/allowed"

status=0
for f in "$@"; do
    for arch in $ARCHS; do
        # shellcheck disable=SC2086 # flags are several words
        if ! "$NVCC" $FLAGS -gencode "arch=compute_$arch,code=sm_$arch" -Xptxas -v -c -o "$tmp/out.o" "$f" > "$tmp/said" 2>&1; then
            echo "$f: does not compile for sm_$arch"
            grep -v '^ptxas info' "$tmp/said" | tail -n 20
            status=1
            continue
        fi
        # one line for each function: name, registers, shared, spill stores, spill loads, stack. Functions that were not
        # inlined have properties of their own and no line `Used`.
        awk '
            function flush() { if (name != "") print name, reg, smem, stores, loads, stack; name = "" }
            /Function properties for/ { flush(); name = $NF; reg = "-"; smem = stores = loads = stack = 0 }
            /bytes stack frame/ { stack = $1; stores = $5; loads = $9 }
            /Used [0-9]+ registers/ {
                for (i = 2; i <= NF; i++) {
                    if ($i ~ /^registers/) reg = $(i - 1)
                    if ($i ~ /^smem/) smem = $(i - 2)
                } }
            END { flush() }' "$tmp/said" > "$tmp/raw"
        cut -d ' ' -f 1 "$tmp/raw" | "$demangle" | sed 's/ (.*//; s/^void //' > "$tmp/names"
        cut -d ' ' -f 2- "$tmp/raw" | paste -d '|' "$tmp/names" - > "$tmp/table"
        printf '==== %s, sm_%s\n%-56s %9s %7s %14s %6s\n' "$f" "$arch" kernel registers shared 'spill st/ld' stack
        LC_ALL=C sort "$tmp/table" | awk -F '|' -v allowed="$tmp/allowed" -v where="$f, sm_$arch" '
            BEGIN { while ((getline line < allowed) > 0) { name = line; sub(/ .*/, "", name); sub(/^[^ ]* */, "", line)
                    why[name] = line } }
            { split($2, n, " "); name = $1; short = name
              # the arguments go, a template argument stays: it tells float from bf16
              sub(/\(.*/, "", name); sub(/[<(].*/, "", short)
              note = ""
              if (n[3] > 0 || n[4] > 0 || n[5] > 0) {
                  if (short in why) note = "  allowed: " why[short]
                  else { note = "  <-- spills or has a stack"; bad++ } }
              printf "%-56s %9s %7d %6d /%6d %6d%s\n", name, n[1], n[2], n[3], n[4], n[5], note
              if (n[1] + 0 > most) most = n[1] + 0 }
            END { printf "%s: %d functions, at most %d registers, %d that spill or have a stack\n", where, NR, most, bad + 0
                  exit bad > 0 || NR == 0 }' || status=1
    done
    [ $mix = 1 ] || continue
    # shellcheck disable=SC2086 # flags are several words
    if ! "$NVCC" $FLAGS "-arch=compute_$arch" -ptx -o "$tmp/out.ptx" "$f" > "$tmp/said" 2>&1; then status=1; continue; fi
    awk '
        /^\.(visible )?(entry|func)|^\.weak|^\.visible/ && /\(/ { name = $0; sub(/\($/, "", name); sub(/.*[ \t]/, "", name)
            split("", n) }
        { op = $1 ~ /^@/ ? $2 : $1; sub(/;$/, "", op) }
        op ~ /^mma\./ { n["mma"]++ }
        op ~ /^(fma|mad)\..*f32/ { n["fma"]++ }
        op ~ /^ex2\./ { n["exp"]++ }
        op ~ /\.f64$/ && op ~ /^(add|mul|fma|sub|div)/ { n["f64"]++ }
        op ~ /^(ld|st)\.global/ {
            bytes = op; sub(/.*[a-z]/, "", bytes); bytes /= 8
            if (op ~ /\.v2\./) bytes *= 2
            if (op ~ /\.v4\./) bytes *= 4
            n[substr(op, 1, 2) (bytes <= 2 ? 2 : bytes <= 4 ? 4 : bytes <= 8 ? 8 : 16)]++ }
        op ~ /^(ld|st)\.shared/ || op ~ /^ldmatrix/ { n["shared"]++ }
        op ~ /^(ld|st)\.local/ { n["local"]++ }
        op ~ /^shfl/ { n["shfl"]++ }
        op ~ /^(bar|barrier)\./ { n["bar"]++ }
        /^}/ && name != "" {
            k = split("mma fma exp f64 ld2 ld4 ld8 ld16 st2 st4 st8 st16 shared shfl bar local", col, " ")
            line = name
            for (i = 1; i <= k; i++) line = line " " n[col[i]] + 0
            print line; name = "" }' "$tmp/out.ptx" > "$tmp/raw"
    cut -d ' ' -f 1 "$tmp/raw" | "$demangle" | sed 's/ (.*//; s/^void //; s/(.*//' > "$tmp/names"
    cut -d ' ' -f 2- "$tmp/raw" | paste -d '|' "$tmp/names" - > "$tmp/table"
    printf '==== %s, PTX for sm_%s, instructions in the text\n%-52s' "$f" "$arch" kernel
    printf '%5s' mma fma exp f64 'ld 2' 4 8 16 'st 2' 4 8 16 smem shfl bar
    printf '\n'
    LC_ALL=C sort "$tmp/table" | awk -F '|' -v where="$f" '
        { split($2, n, " "); printf "%-52s", $1
          for (i = 1; i <= 15; i++) printf "%5d", n[i]
          printf "%s\n", (n[16] > 0 ? "  <-- local memory" : ""); if ($1 ~ /flash_(forward|dkdv|dq)/ && !n[1]) none++ }
        END { if (NR == 0 || none) { print where ": a flash kernel without mma, or no kernel at all"; exit 1 } }' || status=1
done
if [ $status = 0 ]; then echo "ptxas: no spill and no stack frame that is not allowed"; else
    echo "ptxas_check.sh: a kernel spills, has an array in local memory, or does not compile" >&2
    echo "---> HINT: constant indices keep an array in registers; or name the kernel in dev/ptxas_check.sh and say why" >&2
fi
exit $status
