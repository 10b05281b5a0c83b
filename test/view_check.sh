#!/bin/sh
# The page that dev/view writes, in headless Chromium: it loads with a silent console and without a network, shows what the logs
# hold, and clicks, keys and the slider change it (test/view_check.py says what is compared with what). Needs Debian's chromium,
# chromium-driver and python3: without them it says so and exits with 77, which is not "passed".
#   sh test/view_check.sh [SHOTS]    SHOTS: a folder for screenshots. Ends with `N passed, N failed`.
set -eu
export LC_ALL=C
for tool in python3 chromedriver chromium; do
    if ! command -v $tool > /dev/null; then echo "not run: $tool is missing; dev/setup.sh --view installs it"; exit 77; fi
done
shots=''
if [ $# -gt 0 ]; then mkdir -p "$1"; shots=$(cd "$1" && pwd); fi
cd "$(dirname "$0")/.."
root=$PWD dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
quietly() { "$@" > output.txt 2>&1 || { tail -n 20 output.txt; echo "FAILED: $*"; exit 1; }; }

# a text run whose pool changes, and a dense one beside it; the sample again as a text, routed by the training program
quietly "$root/data/languages" --seed 1 --bytes 60000 --out train.txt
quietly "$root/data/languages" --seed 2 --bytes 8192 --out val.txt --truth text.truth
small="--data train.txt --val val.txt --layers 4 --channels 32 --heads 2 --context 32 --batch 4 --steps 150 --log-every 3"
small="$small --val-every 50 --val-tokens 2048 --warmup 10 --threads 1"
# shellcheck disable=SC2086 # a list of flags
{
quietly "$root/train_gpt2_dynmoe" $small --window 8 --period 20 --generate 100 --dump-routing text/routing.safetensors --out text
quietly "$root/train_gpt2_dynmoe" $small --moe-layers none --generate 0 --out dense
}
{ echo; awk '/"type":"sample"/ { sub(/.*"tokens":\[/, ""); sub(/\].*/, ""); n = split($0, t, ",")
    for (i = 1; i <= n && i <= 32; i++) printf "%c", t[i] + 0 }' text/log.jsonl; } > sample.txt
quietly "$root/train_gpt2_dynmoe" --init text/model.safetensors --eval-only --data sample.txt --val sample.txt --threads 1 \
    --dump-routing sample.safetensors
awk '/"type":"sample"/ { sub(/.*"tokens":\[/, ""); sub(/\].*/, ""); n = split($0, t, ",")
    for (i = n - 31; i <= n; i++) printf "%c", t[i] + 0; print "" }' text/log.jsonl > end.txt
quietly "$root/train_gpt2_dynmoe" --init text/model.safetensors --eval-only --data end.txt --val end.txt --threads 1 \
    --dump-routing end.safetensors
quietly "$root/dev/stats" text/model.safetensors --val sample.txt --threads 1 --json stats.json
quietly "$root/dev/view" text dense --truth text.truth

# pictures, where the vision program is there (make test-view builds it for the CPU)
if [ -x "$root/train_vit_dynmoe" ]; then
    mkdir pictures
    quietly "$root/data/shapes" --seed 1 --n 200 --out shapes.bin
    quietly "$root/data/shapes" --seed 2 --n 40 --out pictures/pictures.bin --truth pictures.truth
    quietly "$root/train_vit_dynmoe" --data shapes.bin --val pictures/pictures.bin --out pictures --steps 6 --batch 8 --layers 2 \
        --channels 32 --heads 2 --log-every 1 --dump-routing pictures/routing.safetensors
    quietly "$root/dev/view" pictures --truth pictures.truth
else
    echo "NOT TESTED: pictures, as there is no train_vit_dynmoe"
fi

# 50,000 records in the form of the real ones, with a spike and events
mkdir long hostile
awk '/"type":"run"/ { print } /"type":"step"/ && !at { at = index($0, "\"aux\""); rest = substr($0, at) }
    END { for (s = 1; s <= 50000; s++) {
        printf "{\"type\":\"step\",\"step\":%d,\"loss\":%.6f,%s\n", s, s == 31234 ? 99 : 1 + 4 / s + (s * 7919 % 1000) / 5000, rest
        if (s % 150) continue
        printf "{\"type\":\"event\",\"step\":%d,\"layer\":0,\"what\":\"full\",\"expert\":-1,\"count\":%d}\n", s, s % 97 } }' \
    text/log.jsonl > long/log.jsonl
quietly "$root/dev/view" long

# a log that would like to be a program
sed 's|"machine":"[^"]*"|"machine":"</script><script>window.broken = 1</script><img src=x onerror=window.broken=2> \\u003c!--"|' \
    text/log.jsonl > hostile/log.jsonl
quietly "$root/dev/view" hostile

python3 "$root/test/view_check.py" "$dir" ${shots:+"$shots"}
