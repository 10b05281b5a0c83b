#!/bin/sh
# Which settings of DynMoE make a good default? One change at a time from a start, on two texts, three seeds each.
# Resumable: a run whose log has its "end" record is not done again. Runs are ordered by seed, so a partial result is fair.
#
#   dev/ablation.sh                      all runs, two at a time with one thread each; then the table
#   dev/ablation.sh --table              the table of what is done so far (python3)
#
# Settings by environment: TEXT=file (real text, default data/tinyshakespeare.txt), STEPS=4000, SEEDS="1 2 3", JOBS=2,
# OUT=out_ablation, PROGRAM=./train_gpt2_dynmoe.
set -eu
cd "$(dirname "$0")/.."
TEXT=${TEXT:-data/tinyshakespeare.txt}
STEPS=${STEPS:-4000}
SEEDS=${SEEDS:-1 2 3}
JOBS=${JOBS:-2}
OUT=${OUT:-out_ablation}
PROGRAM=${PROGRAM:-./train_gpt2_dynmoe}

# the starting point, faithful to the paper but for unit rows of W; then one change at a time: name, flags
START="--kgrad normalised --unit-norm 1 --gate-scale 1 --aux-diversity 0.01 --aux-simplicity 0.01"
rows() {
    cat <<'ROWS'
start
detached --kgrad detached
no-aux --aux-diversity 0 --aux-simplicity 0
four-aux --aux-balance 0.01 --aux-efficiency 0.01
free-norm --unit-norm 0
scale-10 --gate-scale 10
fallback --train-fallback 1
ROWS
}

if [ "${1:-}" = "--table" ]; then
    exec python3 dev/ablation_table.py "$OUT" "$(rows)"
fi
for f in "$TEXT" data/languages_train.txt data/languages_val.txt "$PROGRAM"; do
    if [ ! -e "$f" ]; then
        echo "error: $f is missing" >&2
        echo "---> HINT: make data train_gpt2_dynmoe, and TEXT=a file of about 1 MB of text" >&2
        exit 1
    fi
done
mkdir -p "$OUT"
for seed in $SEEDS; do
    for data in languages text; do
        rows | while read -r name flags; do
            dir="$OUT/$name-$data-$seed"
            if grep -q '"type":"end"' "$dir/log.jsonl" 2>/dev/null; then continue; fi
            files="--data data/languages_train.txt --val data/languages_val.txt"
            if [ "$data" = text ]; then files="--data $TEXT"; fi
            log="--threads 1 --generate 0 --val-every 1000 --val-tokens 0"
            echo "mkdir -p $dir; $PROGRAM $files --out $dir --steps $STEPS --seed $seed $log $START $flags" \
                "> $dir/stdout.txt 2>&1 && rm $dir/model.safetensors"
        done
    done
done | tr '\n' '\0' | xargs -0 -P "$JOBS" -n 1 sh -c 'echo "$1"; eval "$1"' sh
python3 dev/ablation_table.py "$OUT" "$(rows)"
