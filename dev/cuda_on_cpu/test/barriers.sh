#!/bin/sh
# Leaves out one barrier or fence at a time, builds in check mode, runs: is each of them noticed?
#   dev/cuda_on_cpu/test/barriers.sh FILE.cu [g++ flags]
# The program must run without arguments, and end with 0 when it finds nothing wrong. ARGS="..." gives it some.
# Prints a line for each barrier, `noticed` or `MISSED`; exit code 1 if one was missed, or if the program as it is fails.
set -u
cc=$(dirname "$0")/../cudacpu-cc
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
export CUDACPU_BUILD="${CUDACPU_BUILD:-$dir/cache}" CUDACPU_TIMEOUT="${CUDACPU_TIMEOUT:-20}"
missed=0 n=1
"$cc" --check -o "$dir/program" "$@" || exit 1
# shellcheck disable=SC2086 # words
"$dir/program" ${ARGS:-} > "$dir/said" 2>&1 || { tail -n 8 "$dir/said"; echo "the program fails as it is"; exit 1; }
while :; do
    CUDACPU_DROP=$n "$cc" --check -o "$dir/program" "$@" 2> "$dir/which"
    code=$?
    [ $code != 3 ] || break # there are no more
    [ $code = 0 ] || { cat "$dir/which"; exit 1; }
    # shellcheck disable=SC2086 # words
    if "$dir/program" ${ARGS:-} > "$dir/said" 2>&1; then
        verdict=MISSED missed=$((missed + 1))
    else verdict=noticed; fi
    echo "$verdict  $(cat "$dir/which"): $(grep -m 1 -o 'race.*\|uninit.*\|deadlock.*\|divergent.*' "$dir/said" | cut -c 1-80)"
    n=$((n + 1))
done
echo "$((n - 1)) barriers, $missed missed"
[ $missed = 0 ]
