#!/bin/sh
# The paper's claim, in one program: is top-any at least as good as the mean over fixed top-k settings?
# Trains dense, top-1, top-2, top-4, top-p and top-any from the same seeds on the same data, measures the speed of each at
# its trained routing, side by side, and prints the table. Resumable: what is done is not done again.
#
#   dev/compare.sh                       everything; then the table and, with matplotlib, a picture
#   dev/compare.sh --table [--into FILE] the table of what is done so far (python3), also between the markers of FILE
#
# Settings by environment: DATA="flags that name the data", STEPS=2000, SEEDS="1 2 3", JOBS=2 (runs at a time, one thread
# each), OUT=out_compare, PROGRAM=./train_gpt2_dynmoe, ROUNDS=5 (of the speed measurement).
set -eu
cd "$(dirname "$0")/.."
DATA=${DATA:---data data/languages_train.txt --val data/languages_val.txt}
STEPS=${STEPS:-2000}
SEEDS=${SEEDS:-1 2 3}
JOBS=${JOBS:-2}
OUT=${OUT:-out_compare}
PROGRAM=${PROGRAM:-./train_gpt2_dynmoe}
ROUNDS=${ROUNDS:-5}

# name, flags. The softmax routers use the whole pool of 8 from the start, top-any starts with 4 of 8.
rows() {
    cat <<'ROWS'
dense --router dense --experts 1
top-1 --router top-k --topk 1
top-2 --router top-k --topk 2
top-4 --router top-k --topk 4
top-p --router top-p
top-any --router top-any
ROWS
}

table() { # with a Python that can draw, if there is one
    for p in python3 /usr/bin/python3; do "$p" -c 'import matplotlib' 2> /dev/null && break; done
    "$p" dev/compare_table.py "$OUT" "$(rows)" "$@"
    exit
}
if [ "${1:-}" = "--table" ]; then shift; table "$@"; fi
[ -x "$PROGRAM" ] || { echo "error: $PROGRAM is missing" >&2; echo "---> HINT: make all data" >&2; exit 1; }
mkdir -p "$OUT"

# 1. the runs: what they learn does not depend on how busy the machine is
for seed in $SEEDS; do
    rows | while read -r name flags; do
        dir="$OUT/$name-$seed"
        if grep -q '"type":"end"' "$dir/log.jsonl" 2> /dev/null; then continue; fi
        echo "mkdir -p $dir; $PROGRAM $DATA --out $dir --steps $STEPS --seed $seed --threads 1 --generate 0 --val-every 100" \
            "$flags > $dir/stdout.txt 2>&1"
    done
done | tr '\n' '\0' | xargs -0 -P "$JOBS" -n 1 sh -c 'echo "$1"; eval "$1"' sh

# 2. the speed, at trained routing, all cores: 100 more steps of each, one after the other, several rounds
round=1
while [ "$round" -le "$ROUNDS" ]; do
    rows | while read -r name flags; do
        dir="$OUT/speed/$name-$round"
        model=$(echo "$SEEDS" | cut -d ' ' -f 1)
        if grep -q '"type":"end"' "$dir/log.jsonl" 2> /dev/null; then continue; fi
        mkdir -p "$dir"
        echo "speed, round $round: $name"
        "$PROGRAM" --resume "$OUT/$name-$model/model.safetensors" --out "$dir" --steps $((STEPS + 100)) --threads 0 \
            --val-every 0 --val-tokens 512 --log-every 100 > "$dir/stdout.txt" 2>&1
    done
    round=$((round + 1))
done
table
