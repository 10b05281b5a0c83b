#!/bin/sh
# dev/pictures.py on a small run that is made here: every picture is there and is one, the same run gives the same bytes, bad
# input gets one clear line with a hint. Needs python3 with torch, numpy, matplotlib and Pillow: without them it says so and
# exits with 77, which is not "passed". Ends with `N passed, N failed`.
set -u
cd "$(dirname "$0")/.." || exit 1
for python in python3 /usr/bin/python3 ''; do
    if [ -n "$python" ] && "$python" -c 'import torch, numpy, matplotlib, PIL' 2> /dev/null; then break; fi
done
if [ -z "$python" ]; then
    echo "not run: python3 with torch, numpy, matplotlib and Pillow is missing: dev/setup.sh --oracle"
    exit 77
fi
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
passed=0 failed=0
. test/result.sh
export MPLCONFIGDIR="$tmp/config" # matplotlib keeps a list of fonts there
mkdir "$tmp/config"

train() { # folder and flags: a small model; its routing goes into the first run's folder
    folder=$1
    shift
    ./train_gpt2_dynmoe --data data/languages_train.txt --val data/languages_val.txt --out "$folder" --layers 2 --channels 32 \
        --heads 2 --moe-layers all --val-tokens 2048 --generate 0 --dump-routing "$tmp/run/routing.safetensors" --threads 1 "$@"
}
train "$tmp/run" --steps 40 --window 5 --period 15 --log-every 5 > "$tmp/seen" 2>&1
result "a small run" $?
"$python" -W error dev/pictures.py "$tmp/run" --into "$tmp/one" > "$tmp/seen" 2>&1
result "pictures of it" $?
for f in routing dispatch straight_through adaptive memory; do
    begin=$(head -c 8 "$tmp/one/$f.png" 2> /dev/null | od -An -tx1 | tr -d ' \n')
    end=$(tail -c 8 "$tmp/one/$f.png" 2> /dev/null | head -c 4)
    [ "$begin" = 89504e470d0a1a0a ] && [ "$end" = IEND ] && [ "$(wc -c < "$tmp/one/$f.png")" -gt 8000 ]
    result "$f.png: not a picture, or an empty one" $?
    grep -q "pictures/$f.png" docs/walkthrough.md docs/memory.md && [ -s "docs/pictures/$f.png" ]
    result "$f.png stands in the docs" $?
done
[ "$(find "$tmp/one" docs/pictures -type f ! -name view.png | wc -l)" -eq 10 ] # view.png is a screenshot
result "no other files" $?
printf 'figure.dpi: 30\naxes.facecolor: red\n' > "$tmp/matplotlibrc"
PYTHONHASHSEED=7 MATPLOTLIBRC=$tmp "$python" dev/pictures.py "$tmp/run" --into "$tmp/two" > "$tmp/seen" 2>&1 &&
    diff -r "$tmp/one" "$tmp/two" > "$tmp/seen" 2>&1
result "the same bytes again" $?

refuses() { # what it shows, text that the error must hold, then the command line
    what=$1 want=$2
    shift 2
    ! "$python" dev/pictures.py "$@" > "$tmp/seen" 2>&1 && grep -qF -e "$want" "$tmp/seen" && ! grep -q Traceback "$tmp/seen" &&
        grep -q '^---> HINT: ' "$tmp/seen"
    result "$what" $?
}
refuses "no run" "log.jsonl" "$tmp/nothing"
refuses "no folder" "required" --into "$tmp/three"
# routing of another model: what the oracle computes must not agree
train "$tmp/other" --steps 1 > "$tmp/seen" 2>&1
refuses "routing of another run" "route a token differently" "$tmp/run" --into "$tmp/three"
rm "$tmp/run/routing.safetensors"
refuses "no routing" "routing.safetensors" "$tmp/run" --into "$tmp/three"
echo junk > "$tmp/run/model.safetensors"
cp "$tmp/other/log.jsonl" "$tmp/run/"
refuses "no routing and no model" "safetensors" "$tmp/run" --into "$tmp/three"

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
