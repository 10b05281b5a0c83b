#!/bin/sh
# The leaderboard of assignment 6: validation bits per byte after so many seconds of the run's own clock.
#   dev/leaderboard.sh [--seconds 300] NAME=FOLDER...     a FOLDER has log.jsonl of a run, and perhaps source.diff
# Prints one line for each entry, the best first. An entry that breaks a rule is refused with one line, exit code 1. The rules:
# one run from its beginning to its end, not resumed; steps ascend and their times add up to no more than the run's seconds;
# all entries name the same machine; a commit that ends in -dirty (changed source), or is unknown, comes with source.diff. This
# finds mistakes and careless edits. A careful forger is found by running the entry again.
set -eu
limit=300 bad=0
if [ "${1-}" = --seconds ]; then limit=${2-}; shift 2; fi
case $limit in '' | *[!0-9]*) echo "leaderboard: --seconds $limit is not a number" >&2; exit 2 ;; esac
[ $# -gt 0 ] || { sed -n '2,3s/^# *//p' "$0" >&2; exit 2; }
lines=$(mktemp)
trap 'rm -f "$lines"' EXIT

entry() { # name, folder: its line, with tabs; or what is wrong, exit code 1
    diff=
    if [ -s "$2/source.diff" ]; then diff=$(cksum < "$2/source.diff" | cut -d ' ' -f 1); fi
    awk -v name="$1" -v limit="$limit" -v diff="$diff" '
        function refuse(what) { if (!refused) { print FILENAME ":" FNR ": " what; refused = 1; exit 1 } }
        function text(key,   s) { # "key":"value"
            if (!match($0, "\"" key "\":\"[^\"]*\"")) { refuse("no " key) }
            s = substr($0, RSTART, RLENGTH); sub(/^[^:]*:"/, "", s); sub(/"$/, "", s); return s
        }
        function number(key,   s) {
            if (!match($0, "\"" key "\":-?[0-9][0-9.e+-]*")) { refuse("no " key) }
            s = substr($0, RSTART, RLENGTH); sub(/^[^:]*:/, "", s); return s + 0
        }
        !/^\{"type":"[a-z]+".*\}$/ { refuse("not a record of a log") }
        ended { refuse("a record behind the end: an entry is one run") }
        /^\{"type":"run"/ {
            if (FNR != 1) { refuse("a second run: an entry is one run, not resumed") }
            if ($0 ~ /"resume":"[^"]/) { refuse("the run was resumed") }
            commit = text("commit"); machine = text("machine"); router = text("router")
            next
        }
        FNR == 1 { refuse("does not begin with a run record") }
        /^\{"type":"step"/ {
            step = number("step"); ms = number("ms")
            if (step <= last) { refuse("step " step " comes after step " last) }
            if (ms <= 0) { refuse("a step takes " ms " ms") }
            spent += ms / 1000 * (step - last); last = step
        }
        /^\{"type":"val"/ { at = number("step"); loss = number("loss"); bits = number("bits")
            if (at < last) { refuse("validated at step " at " after step " last) }
            if (bits <= 0 || loss / log(2) / bits < 0.999 || loss / log(2) / bits > 1.001) { refuse("loss and bits do not agree") }
        }
        /^\{"type":"stop"/ { refuse("the run was stopped: an entry ends by itself") }
        /^\{"type":"end"/ { ended = 1; seconds = number("seconds"); steps = number("step") }
        END {
            if (refused) { exit 1 }
            if (!ended) { refuse("the run has not ended") }
            if (bits == 0 || at != steps) { refuse("no validation after the last step") }
            if (last != steps) { refuse("steps end at " last ", the run at " steps) }
            if (seconds > limit) { refuse(seconds " seconds, allowed are " limit) }
            if (spent > seconds * 1.02 + 0.1) { refuse("its steps take " spent " seconds, the run says " seconds) }
            if (commit ~ /-dirty$|^unknown$/ && diff == "") { refuse("changed source (commit " commit ") without source.diff") }
            printf "%.4f\t%.1f\t%d\t%s\t%s\t%s\t%s\t%s\n", bits, seconds, steps, router, name, commit,
                diff == "" ? "-" : diff, machine
        }' "$2/log.jsonl"
}
for one in "$@"; do
    name=${one%%=*} folder=${one#*=}
    if [ ! -f "$folder/log.jsonl" ]; then echo "refused $name: $folder/log.jsonl is missing"; bad=1; continue; fi
    if line=$(entry "$name" "$folder"); then echo "$line" >> "$lines"; else echo "refused $name: $line"; bad=1; fi
done
[ -s "$lines" ] || exit 1
if [ "$(cut -f 8 "$lines" | sort -u | wc -l)" -gt 1 ]; then
    echo "refused: the entries are of several machines:"
    cut -f 8 "$lines" | sort -u
    exit 1
fi
echo "machine: $(head -n 1 "$lines" | cut -f 8); at most $limit seconds"
echo "bits seconds steps router name commit diff" | tr ' ' '\t'
sort -n "$lines" | cut -f 1-7
exit $bad
