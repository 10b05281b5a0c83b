#!/bin/sh
# Do the tests see bugs? Each test/wrong/NAME.sed puts one bug into train_gpt2_dynmoe.c, in one line, and its first line says
# in words what is wrong. A mutant is killed by the first fixture, unit test or check of the command line that fails.
#   dev/mutants.sh [NAME...]            all mutants, or those named; JOBS=2 at a time
#   dev/mutants.sh --cuda [NAME...]     those of train_gpt2_dynmoe.cu, test/wrong_cuda/NAME.sed, without a GPU: fixtures, test_cuda
#   dev/mutants.sh --cuda-sample        of these the first for each function
#   dev/mutants.sh --vit [NAME...]      those of train_vit_dynmoe.cu, test/wrong_vit/NAME.sed: of what it does not share
# First the unchanged program must pass, else everything would count as killed. Then a line for each mutant: what killed it,
# seconds. A mutant fails if it survives, changes no line or more than one, or does not compile. Ends with `N passed, N failed`.
# Fixtures come first: only what they let through is compiled with the unit tests, and what these let through meets test_cli.sh.
# A kernel without a mutant counts as failed, too (of the vision program: a kernel that the other one does not have).
set -u
cd "$(dirname "$0")/.." || exit 1
cpu_seconds=60 # of one process; bounds endless loops of fixtures and programs
unset MAKEFLAGS MFLAGS MAKELEVEL
slow_groups='^(layers|training)$' # of the unit tests: run last, because they take seconds
export GOMP_SPINCOUNT=1000 CK_TIMEOUT_MULTIPLIER=0.5 # unit tests have 60 seconds each

say() { # a line of the table: ok or FAILED, name, what happened, its start
    printf '%-6s %-42s %s (%d s)\n' "$1" "$2" "$3" $(($(date +%s) - $4))
    echo "$1" > result
}

compile() { sh -c "$(grep -e " -o $1 " "$dir/base/commands")" > compiler 2>&1; } # program

killed_by() { # runs the tests in this folder; prints what failed first, or nothing
    # shellcheck disable=SC3045 # every sh has ulimit -t
    ulimit -t $cpu_seconds
    if ! compile "$fixture"; then echo "NOT COMPILED: $fixture"; return; fi
    for f in $fixtures; do
        if ! OMP_THREAD_LIMIT=1 $fixture -q "$f" > said 2>&1; then echo "fixture: ${f##*/}"; return; fi
    done
    case $kind in
        c) killed_by_c ;;
        cuda) killed_by_cuda test/test_cuda test/test_gpt2_dynmoe.cu ;;
        vit) killed_by_cuda test/test_cuda_vit test/test_vit_dynmoe.cu ;;
    esac
}

killed_by_cuda() { # program, its source
    if ! compile "$1"; then echo "NOT COMPILED: $1"; return; fi
    cases=$(sed -n 's/^    TEST(\([a-z0-9_]*\))$/\1/p; s/^    if (is_bf16) { TEST(\([a-z0-9_]*\)) }$/\1/p
        s/^    TEST_BOTH(\([a-z0-9_]*\))$/\1_fp32 \1_bf16/p' "$2")
    for case in $cases; do
        if ! CK_RUN_CASE=$case "$1" > said 2>&1; then echo "unit: $case"; return; fi
    done
}

killed_by_c() {
    if ! compile test/test_gpt2_dynmoe; then echo "NOT COMPILED: test/test_gpt2_dynmoe"; return; fi
    groups=$(sed -n 's/.*= group(suite, "\([a-z]*\)").*/\1/p' test/test_gpt2_dynmoe.c)
    for group in $(echo "$groups" | grep -vE "$slow_groups"; echo "$groups" | grep -E "$slow_groups"); do
        if ! CK_RUN_CASE=$group test/test_gpt2_dynmoe > said 2>&1; then
            first=$(sed -n 's/^[^ ]*:[FE]:[^:]*:\([^:]*\):.*/\1/p' said | head -n 1)
            echo "unit: ${first:-test of the group $group}$(grep -q 'timeout expired' said && echo ', a timeout')"
            return
        fi
    done
    if ! compile train_gpt2_dynmoe; then echo "NOT COMPILED: train_gpt2_dynmoe"; return; fi
    if sh test/test_cli.sh > said 2>&1; then return; fi
    echo "cli: $(sed -n 's/^FAILED: \([^:]*\).*/\1/p' said | head -n 1 | cut -c 1-90)"
}

new_folder() { # one that sees the base's files; its own copy of the program's source comes from stdin
    mkdir -p "$1/test" && cd "$1" || exit 1
    ln -s "$dir"/base/test/* test/
    ln -s "$dir"/base/dev "$dir"/base/train_gpt2_dynmoe.c .
    rm -f "$source"
    cat > "$source"
}

one_mutant() { # name
    start=$(date +%s)
    script=$PWD/$wrong/$1.sed
    new_folder "$dir/$1" < "$dir/base/$source"
    if [ ! -f "$script" ]; then say FAILED "$1" "there is no $wrong/$1.sed" "$start"; return; fi
    if ! sed -n 1p "$script" | grep -q '^# ..*'; then
        say FAILED "$1" "its first line does not say what is wrong" "$start"
        return
    fi
    sed -f "$script" "$dir/base/$source" > "$source"
    changed=$(diff "$dir/base/$source" "$source" | grep '^[<>]' | cut -c 1 | tr -d '\n')
    if [ "$changed" != '<>' ]; then say FAILED "$1" "does not change exactly one line: ${changed:-none}" "$start"; return; fi
    by=$(killed_by)
    case $by in
        '') say FAILED "$1" "SURVIVED: $(sed -n '1s/^# //p' "$script")" "$start" ;;
        NOT*) say FAILED "$1" "$by" "$start"; head -n 5 compiler ;;
        *) say ok "$1" "$by" "$start" ;;
    esac
    cd "$dir" && find "$dir/$1" ! -name result ! -type d -exec rm -f {} +
}

kind_is() { # c, cuda, vit
    kind=$1
    fixtures='test/fixtures/*.safetensors test/fixtures/*.txt'
    case $kind in
        c) source=train_gpt2_dynmoe.c wrong=test/wrong fixture=test/fixture ;;
        cuda) source=train_gpt2_dynmoe.cu wrong=test/wrong_cuda fixture=test/fixture_cuda ;;
        vit) source=train_vit_dynmoe.cu wrong=test/wrong_vit fixture=test/fixture_vit_cuda
            fixtures='test/fixtures_vit/*.safetensors' ;;
    esac
}

function_of() { # the script of a CUDA mutant: the function that it is about
    sed -n '2s~^/^.*[ *]\([A-Za-z0-9_]*\)(/,.*~\1~p' "$1"
}

if [ "${1-}" = --one ]; then kind_is "$2"; dir=$3; one_mutant "$4"; exit 0; fi

kind_is c
case ${1-} in
    --cuda) kind_is cuda; shift ;;
    --vit) kind_is vit; shift ;;
    --cuda-sample)
        kind_is cuda
        # shellcheck disable=SC2046 # names
        set -- $(for f in "$wrong"/*.sed; do echo "$(function_of "$f") $f"; done | sort |
            awk '$1 != last { print $2; last = $1 }') ;;
esac

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM
begin=$(date +%s)
mkdir -p "$dir/base/test"
cp train_gpt2_dynmoe.c train_gpt2_dynmoe.cu train_vit_dynmoe.cu Makefile "$dir/base/"
cp -R test/*.c test/*.cu test/*.h test/test_cli.sh test/fixtures test/fixtures_vit test/gpt2 "$dir/base/test/"
mkdir -p "$dir/base/dev/cuda_on_cpu"
cp -R dev/cuda_on_cpu/*.* dev/cuda_on_cpu/cudacpu-cc dev/cuda_on_cpu/include "$dir/base/dev/cuda_on_cpu/"
# the commands of the Makefile, quicker: fixtures and CUDA at -O0, the rest at -O1, because fixtures run for less than compiling
# takes; no debug information; a bug may leave something unused, so warnings are allowed
if [ "$kind" = c ]; then
    (cd "$dir/base" && make -n test/fixture test/test_gpt2_dynmoe train_gpt2_dynmoe) | grep -e ' -o t' |
        sed '/ -o test\/fixture / s/ -O3 / -O0 /; s/ -O3 / -O1 /; s/ -g / /; s/ -Werror / /' > "$dir/base/commands"
else
    (cd "$dir/base" && make -n CUDA_ON_CPU=1 test/fixture_cuda test/test_cuda test/fixture_vit_cuda test/test_cuda_vit) |
        grep -e ' -o t' | sed 's/ -O2 / -O0 -g0 /' > "$dir/base/commands"
    export CUDACPU_BUILD="$dir/runtime" CUDACPU_TIMEOUT=20 # what the emulation builds of itself, once for all; of one kernel
fi

by=$(new_folder "$dir/control" < "$source" && killed_by)
if [ -n "$by" ]; then
    echo "FAILED control: the unchanged program fails: $by"
    cat "$dir/control/compiler" "$dir/control/said" 2> /dev/null | tail -n 20
    exit 1
fi
echo "ok     control: the unchanged program passes ($(($(date +%s) - begin)) s)"

if [ $# -eq 0 ]; then set -- "$wrong"/*.sed; fi
for name in "$@"; do basename "$name" .sed; done | xargs -n 1 -P "${JOBS:-2}" dev/mutants.sh --one "$kind" "$dir"
passed=$(cat "$dir"/*/result | grep -c ok)
failed=$(cat "$dir"/*/result | grep -c FAILED)
if [ "$kind" != c ]; then
    for f in "$wrong"/*.sed; do function_of "$f"; done > "$dir/functions"
    for kernel in $(grep -o '[A-Za-z0-9_]*_kernel(' "$source" | tr -d '(' | sort -u); do
        if [ "$kind" = vit ] && grep -q "[ *]$kernel(" train_gpt2_dynmoe.cu; then continue; fi
        if ! grep -q "^$kernel\$" "$dir/functions"; then
            echo "FAILED $kernel has no mutant in $wrong"
            failed=$((failed + 1))
        fi
    done
fi
echo "$(($(date +%s) - begin)) seconds"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -eq $# ]
