#!/bin/sh
# The formulas of docs/memory.md against the plans that the programs print, and the tables of that page against the formulas.
# Ends with `N passed, N failed`.
set -u
cd "$(dirname "$0")/.." || exit 1
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
passed=0 failed=0
. test/result.sh
if ! command -v python3 > /dev/null; then echo "no python3: not tested"; exit 0; fi

python3 dev/memory_table.py --check > "$tmp/seen" 2>&1
result "plans are what the formulas say" $?
tail -n 1 "$tmp/seen"

# the tables, as the page has them now
cp docs/memory.md "$tmp/page.md"
for name in memory-cpu memory-cuda memory-plans; do
    awk -v b="<!-- $name:begin -->" -v e="<!-- $name:end -->" '$0 == e { on = 0 } on; $0 == b { on = 1 }' docs/memory.md
    echo
done > "$tmp/page"
python3 dev/memory_table.py > "$tmp/tables" && diff "$tmp/page" "$tmp/tables" > "$tmp/seen" 2>&1
result "docs/memory.md has other tables; run: python3 dev/memory_table.py --into docs/memory.md" $?

# a wrong formula must be noticed: one number of the logits less
mkdir "$tmp/dev" && cp dev/markers.py "$tmp/dev/" && cp train_gpt2_dynmoe "$tmp/"
sed 's/"logits, later their gradient", "N Vp", "4"/"logits, later their gradient", "N V - 13000", "4"/' dev/memory_table.py \
    > "$tmp/dev/memory_table.py"
! cmp -s dev/memory_table.py "$tmp/dev/memory_table.py" && ! python3 "$tmp/dev/memory_table.py" --check > "$tmp/seen" 2>&1 &&
    grep -q '^default, C: activations: the program says 18.1, the formula 18.0$' "$tmp/seen"
result "a wrong formula is noticed" $?
python3 dev/memory_table.py --nonsense > "$tmp/seen" 2>&1
[ $? -eq 2 ] && grep -q HINT "$tmp/seen"
result "a flag that is none" $?

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
