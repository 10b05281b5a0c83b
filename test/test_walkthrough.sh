#!/bin/sh
# The examples in docs/walkthrough.md are what dev/walk prints, all of them, and dev/walk refuses what it should. Ends with
# `N passed, N failed`.
set -u
cd "$(dirname "$0")/.." || exit 1
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
passed=0 failed=0
. test/result.sh

dev/walk --list > "$tmp/names"
[ "$(wc -l < "$tmp/names")" -eq 12 ]
result "twelve examples have a name" $?
while read -r name; do
    awk -v b="<!-- walk-$name:begin -->" -v e="<!-- walk-$name:end -->" '$0 == e { on = 0 } on && !/^```$/; $0 == b { on = 1 }' \
        docs/walkthrough.md > "$tmp/page"
    dev/walk "$name" > "$tmp/walk"
    [ -s "$tmp/walk" ] && diff "$tmp/page" "$tmp/walk" > "$tmp/seen" 2>&1
    result "docs/walkthrough.md has another $name; run: make docs-examples" $?
done < "$tmp/names"
grep -o 'walk-[a-z]*:begin' docs/walkthrough.md | sed 's/walk-//; s/:begin//' | sort > "$tmp/page"
sort "$tmp/names" | diff "$tmp/page" - > "$tmp/seen" 2>&1
result "every example stands in the page once" $?
printf '%s\n' 'offset (E + 1)           0   2   2   4' 'row_token (R)            0   1   0   1' > "$tmp/want"
dev/walk rows 101,101 | sed -n '/^offset/,/^row_token/p' | diff - "$tmp/want" > "$tmp/seen" 2>&1
result "rows of chosen experts" $?
for bad in 12 10,1 '' ','; do
    dev/walk rows "$bad" > "$tmp/seen" 2>&1
    [ $? -eq 2 ] && [ "$(grep -c '^---> HINT: ' "$tmp/seen")" -eq 1 ]
    result "rows '$bad' is refused" $?
done
dev/walk nonsense > "$tmp/seen" 2>&1
[ $? -eq 2 ]
result "an unknown name is refused" $?

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
