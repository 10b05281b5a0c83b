#!/bin/sh
# Memory errors and leaks by valgrind: training, saving, resuming, validating, sampling and mistakes, with a tiny model.
#   test/valgrind.sh                  builds a portable copy of the program (valgrind knows no AVX-512), takes about a minute
#   BINARY=file test/valgrind.sh     a program that is built with NATIVE=0
# Not part of `make test`. What libraries keep at the end (OpenBLAS's buffers, OpenMP's threads) is reachable and no leak. main
# leaves one thing to the end of the process, the lists of its data files; they are named below. Any other block that nothing
# points to, and any error, fails.
# Ends with `N passed, N failed, N skipped`.
# shellcheck disable=SC2086 # lists of flags are meant to be split
set -u
cd "$(dirname "$0")/.." || exit 1
repo=$PWD
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
trap 'exit 130' INT TERM
passed=0 failed=0
if ! command -v valgrind > /dev/null; then
    echo "not tested: valgrind is not there (Debian: apt-get install valgrind)"
    echo "0 passed, 0 failed, 1 skipped"
    exit 0
fi
program=${BINARY:-$dir/train_gpt2_dynmoe}
if [ -z "${BINARY:-}" ]; then
    cp "$repo/Makefile" "$repo/train_gpt2_dynmoe.c" "$dir"
    make -s -C "$dir" NATIVE=0 train_gpt2_dynmoe > "$dir/make" 2>&1 || { cat "$dir/make"; exit 1; }
fi
cd "$dir" || exit 1
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

for f in data_open data_split; do
    printf '{\n   main keeps its data\n   Memcheck:Leak\n   match-leak-kinds: definite\n   ...\n   fun:%s\n   fun:main\n}\n' $f
done > main.supp

under() { # what, wanted exit code, command line
    what=$1 want=$2
    shift 2
    valgrind --quiet --error-exitcode=99 --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite \
        --suppressions=main.supp --log-file=report "$program" "$@" > stdout 2> stderr
    got=$?
    if [ $got -eq $want ] && [ ! -s report ]; then passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED: $what: $* (exit $got, wanted $want)"
        sed 's/^/    /' report | head -n 20
        tail -n 3 stderr
    fi
}

i=0
while [ $i -lt 60 ]; do echo "line $i of some text, which is long enough to train on"; i=$((i + 1)); done > text.txt
tiny="--layers 2 --heads 2 --channels 16 --context 8 --batch 2 --experts 4 --start-experts 2 --threads 1 --val-tokens 32"
tiny="$tiny --generate 12 --out run"
adaptive="--window 1 --period 3 --adapt-stop 1"

# all four routers, the adaptive process (its first window ends at step 2), every kind of file
under "3 steps and a sample" 0 --data text.txt $tiny --steps 3 --save-every 1 --log-every 1 $adaptive
cp run/model.safetensors trained.safetensors
under "--resume" 0 --resume trained.safetensors --steps 5 --accum 2 --top-k-sample 5
under "--steps 0" 0 --data text.txt $tiny --steps 0
under "--prompt" 0 --init trained.safetensors --prompt "a line" --generate 12
under "--prompt, greedy" 0 --init trained.safetensors --prompt "a line" --generate 12 --temperature 0
under "--eval-only" 0 --init trained.safetensors --eval-only --data text.txt --threads 1 --dump-routing routing.safetensors
under "--dry-run" 0 --data text.txt $tiny --dry-run
for router in top-k top-p dense; do
    under "$router" 0 --data text.txt $tiny --steps 2 --router $router --aux-balance 0.1 --shared-experts 1
done
under "the authors' preset" 0 --data text.txt $tiny --steps 2 --preset authors --aux-diversity 0.1 --aux-simplicity 0.1
under "no experts" 0 --data text.txt $tiny --steps 2 --moe-layers none --out dense
under "upcycling" 0 --init dense/model.safetensors --data text.txt $tiny --steps 2 --moe-layers all
{ printf '\210\330\064\001\001\000\000\000\144\000\000\000'; head -c 1212 /dev/zero; } > good.bin
{ printf '\210\330\064\001\001\000\000\000\002\000\000\000'; head -c 1012 /dev/zero; printf '\047\000\000\001'; } > start.bin
printf '#version: 0.2\nH i\n' > vocab.bpe
small="--layers 1 --heads 1 --channels 4 --context 4 --batch 1 --experts 2 --start-experts 1 --threads 1 --val-tokens 8 --out bpe"
under "BPE tokens" 0 --data good.bin $small --steps 1 --generate 2
under "BPE tokens, a prompt and a tokenizer" 0 --init bpe/model.safetensors --prompt start.bin --generate 2 --tokenizer vocab.bpe

# mistakes: exit() in the middle leaves what is in use, which is reachable
under "--help" 0 --help
under "an unknown flag" 2 --nonsense 1
under "a missing file" 1 --data nowhere.txt
head -c 5000 trained.safetensors > cut.safetensors
under "a cut checkpoint" 1 --init cut.safetensors --prompt a
printf '\377\377\377\377\377\377\377\177{}' > far.safetensors
under "a header beyond the file" 1 --init far.safetensors --prompt a
under "a token above the vocabulary" 1 --init trained.safetensors --eval-only --data good.bin

echo "$passed passed, $failed failed, 0 skipped"
[ $failed -eq 0 ]
