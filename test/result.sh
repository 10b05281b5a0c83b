# shellcheck shell=sh disable=SC2154 # sourced by tests that write what they see to $tmp/seen and start with passed=0 failed=0
result() { # what it shows, 0 if it passed
    if [ "$2" -eq 0 ]; then passed=$((passed + 1)); return; fi
    failed=$((failed + 1))
    echo "FAILED: $1"
    tail -n 12 "$tmp/seen" | sed 's/^/    /'
}
