#!/bin/sh
# The vision program's layers beside each other: dense, top-1, top-2 and top-any from the same seeds on the same pictures.
#   dev/vit_compare.sh OUT DATA VAL [flags of train_vit_dynmoe]         runs what is not there yet, then prints the table
#   SEEDS="1 2 3" RUNS="dense top-any" dev/vit_compare.sh ...           other seeds (default 1), some runs only
#   dev/vit_compare.sh --table OUT                                      the table alone
# A run that was cut off goes on from its last checkpoint when the command is given again.
set -eu
cd "$(dirname "$0")/.."
table() { python3 dev/vit_table.py "$1"; }
if [ "${1-}" = --table ] && [ $# -eq 2 ]; then table "$2"; exit; fi
if [ $# -lt 3 ]; then sed -n '2,6s/^# *//p' "$0" >&2; exit 2; fi
out=$1 data=$2 val=$3
shift 3
mkdir -p "$out"
commit=${COMMIT:-$(git describe --always --dirty --exclude='*' 2> /dev/null || echo unknown)}
for seed in ${SEEDS:-1}; do
    for run in ${RUNS:-dense top-1 top-2 top-any}; do
        case $run in
            dense) how='--moe-layers none' ;;
            top-1) how='--router top-k --topk 1' ;;
            top-2) how='--router top-k --topk 2' ;;
            top-any) how='' ;;
            *) echo "error: no run called $run" >&2; echo "---> HINT: dense, top-1, top-2, top-any" >&2; exit 2 ;;
        esac
        here=$out/$run-$seed
        mkdir -p "$here"
        echo "$commit $data $val $how $*" > "$here/now.tmp"
        if [ -f "$here/flags" ] && ! cmp -s "$here/now.tmp" "$here/flags"; then
            echo "error: $here holds a run of another commit, other pictures or flags" >&2
            echo "---> HINT: choose another OUT" >&2
            exit 1
        fi
        mv "$here/now.tmp" "$here/flags"
        if [ -f "$here/done" ]; then continue; fi
        resume=
        if [ -f "$here/model.safetensors" ]; then resume="--resume $here/model.safetensors"; fi
        echo "== $here"
        # shellcheck disable=SC2086 # words
        ./train_vit_dynmoe $resume --data "$data" --val "$val" --out "$here" --seed "$seed" $how --save-every 500 "$@"
        touch "$here/done"
    done
done
table "$out"
