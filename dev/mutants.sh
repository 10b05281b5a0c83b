#!/bin/sh
# Do the tests see bugs? Each test/wrong/NAME.sed puts one bug into train_gpt2_dynmoe.c, in one line, and its first line says
# in words what is wrong. A mutant is killed by the first fixture, unit test or check of the command line that fails.
#   dev/mutants.sh [NAME...]    all mutants, or those named; JOBS=2 at a time
# First the unchanged program must pass, else everything would count as killed. Then a line for each mutant: what killed it,
# seconds. A mutant fails if it survives, changes no line or more than one, or does not compile. Ends with `N passed, N failed`.
# Fixtures come first: only what they let through is compiled with the unit tests, and what these let through meets test_cli.sh.
set -u
cd "$(dirname "$0")/.." || exit 1
source=train_gpt2_dynmoe.c
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
    if ! compile test/fixture; then echo "NOT COMPILED: test/fixture"; return; fi
    for f in test/fixtures/*.safetensors test/fixtures/*.txt; do
        if ! OMP_THREAD_LIMIT=1 test/fixture -q "$f" > said 2>&1; then echo "fixture: ${f##*/}"; return; fi
    done
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
    cat > $source
}

one_mutant() { # name
    start=$(date +%s)
    script=$PWD/test/wrong/$1.sed
    new_folder "$dir/$1" < "$dir/base/$source"
    if [ ! -f "$script" ]; then say FAILED "$1" "there is no test/wrong/$1.sed" "$start"; return; fi
    if ! sed -n 1p "$script" | grep -q '^# ..*'; then
        say FAILED "$1" "its first line does not say what is wrong" "$start"
        return
    fi
    sed -f "$script" "$dir/base/$source" > $source
    changed=$(diff "$dir/base/$source" $source | grep '^[<>]' | cut -c 1 | tr -d '\n')
    if [ "$changed" != '<>' ]; then say FAILED "$1" "does not change exactly one line: ${changed:-none}" "$start"; return; fi
    by=$(killed_by)
    case $by in
        '') say FAILED "$1" "SURVIVED: $(sed -n '1s/^# //p' "$script")" "$start" ;;
        NOT*) say FAILED "$1" "$by" "$start"; head -n 5 compiler ;;
        *) say ok "$1" "$by" "$start" ;;
    esac
    cd "$dir" && find "$dir/$1" ! -name result ! -type d -exec rm -f {} +
}

if [ "${1-}" = --one ]; then dir=$2; one_mutant "$3"; exit 0; fi

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM
begin=$(date +%s)
mkdir -p "$dir/base/test"
cp $source Makefile "$dir/base/"
cp -R test/fixture.c test/test_gpt2_dynmoe.c test/suite.h test/test_cli.sh test/fixtures test/gpt2 "$dir/base/test/"
# the commands of the Makefile, quicker: fixtures at -O0, the rest at -O1, because fixtures run for less than compiling takes;
# no debug information; a bug may leave something unused, so warnings are allowed
(cd "$dir/base" && make -n test/fixture test/test_gpt2_dynmoe train_gpt2_dynmoe) | grep -e ' -o t' |
    sed '/ -o test\/fixture / s/ -O3 / -O0 /; s/ -O3 / -O1 /; s/ -g / /; s/ -Werror / /' > "$dir/base/commands"

by=$(new_folder "$dir/control" < $source && killed_by)
if [ -n "$by" ]; then
    echo "FAILED control: the unchanged program fails: $by"
    cat "$dir/control/compiler" "$dir/control/said" 2> /dev/null | tail -n 20
    exit 1
fi
echo "ok     control: the unchanged program passes ($(($(date +%s) - begin)) s)"

if [ $# -eq 0 ]; then set -- test/wrong/*.sed; fi
for name in "$@"; do basename "$name" .sed; done | xargs -n 1 -P "${JOBS:-2}" dev/mutants.sh --one "$dir"
passed=$(cat "$dir"/*/result | grep -c ok)
failed=$(cat "$dir"/*/result | grep -c FAILED)
echo "$(($(date +%s) - begin)) seconds"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -eq $# ]
