#!/bin/sh
# The default model on real text, and the same model without experts: the raw output of both, for docs/results.
#   dev/real_text.sh TEXT [STEPS]           TEXT: any file, for example Tiny Shakespeare; STEPS default 4000
set -eu
cd "$(dirname "$0")/.."
TEXT=${1:?usage: dev/real_text.sh TEXT [STEPS]}
STEPS=${2:-4000}
file=docs/results/$(date +%Y-%m-%d)-$(basename "$TEXT" .txt).txt
make -s train_gpt2_dynmoe > /dev/null
{
    echo "$(basename "$TEXT"), $(wc -c < "$TEXT") bytes, read as bytes; the last 10 percent is validation."
    echo "$(date +%Y-%m-%d), commit $(git describe --always --dirty), $(uname -sm), $(getconf _NPROCESSORS_ONLN) cores."
    echo "Made by dev/real_text.sh. k, experts and none of the progress lines are those of training."
    for moe in every2 none; do
        echo
        echo "==== --moe-layers $moe"
        ./train_gpt2_dynmoe --data "$TEXT" --out "out_text_$moe" --steps "$STEPS" --moe-layers "$moe" --val-tokens 0 --log-every 200
    done
} > "$file.tmp"
sed "s|$TEXT|$(basename "$TEXT")|g" "$file.tmp" > "$file" # no folders of this machine
rm "$file.tmp"
echo "wrote $file"
