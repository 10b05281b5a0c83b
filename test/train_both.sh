#!/bin/sh
# The default run in both programs, 20 steps in fp32: losses within 1e-4 of each other, validation within 0.02 nat; and in bf16
# within 0.05. make test-long calls it with the CUDA program built for the CPU. Ends with `N passed, N failed`.
set -u
cd "$(dirname "$0")/.." || exit 1
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
passed=0 failed=0
flags="--data data/languages_train.txt --val data/languages_val.txt --steps 20 --log-every 1 --val-tokens 1024 --generate 0"
# shellcheck disable=SC2086 # flags are several words
for run in "c ./train_gpt2_dynmoe" "fp32 ./train_gpt2_dynmoe_cu --dtype fp32" "bf16 ./train_gpt2_dynmoe_cu --dtype bf16"; do
    ${run#* } $flags --out "$tmp/${run%% *}" > "$tmp/said" 2>&1 || { cat "$tmp/said"; failed=$((failed + 1)); }
done

compare() { # which run, record type, bound
    for who in c "$1"; do
        grep "\"type\":\"$2\"" "$tmp/$who/log.jsonl" | sed 's/.*"step":\([0-9]*\),"loss":\([0-9.]*\).*/\1 \2/' > "$tmp/$who.$2"
    done
    worst=$(paste -d ' ' "$tmp/c.$2" "$tmp/$1.$2" | awk '
        { if ($1 != $3) bad = 1; d = $2 - $4; if (d < 0) d = -d; if (d > w) w = d }
        END { print (bad || NR == 0 ? 99 : w + 0) }')
    echo "$1, $2: $(wc -l < "$tmp/c.$2" | tr -d ' ') records, largest difference $worst, allowed $3"
    if awk "BEGIN { exit !($worst <= $3) }"; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "FAILED"; fi
}
compare fp32 step 1e-4
compare fp32 val 0.02
compare bf16 step 0.05
compare bf16 val 0.05
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
