#!/bin/sh
# The leaderboard of assignment 6: validation bits per byte after so many seconds of the run's own clock.
#   dev/leaderboard.sh [--seconds 300] NAME=FOLDER...     a FOLDER has log.jsonl of a run, and perhaps source.diff
# Prints one line for each entry, the best first. An entry that breaks a rule is refused, with file and line, exit code 1. The
# rules: one run from its beginning to its end, neither resumed nor begun with a trained model; its numbers fit together: bits
# and losses, steps and their times; it took no more than the allowed seconds; all entries name the same machine, data and
# validation; a commit that ends in -dirty (changed source), or is unknown, comes with source.diff. This finds mistakes and
# careless edits. A careful forger is found by running the entry again.
set -eu
limit=300 bad=0
stop() { # exit code, what is wrong, what to do
    echo "leaderboard: $2" >&2
    echo "---> HINT: $3" >&2
    exit "$1"
}
if [ "${1-}" = --seconds ]; then limit=${2-}; [ $# -lt 2 ] || shift; shift; fi
case $limit in '' | *[!0-9]*) stop 2 "--seconds '$limit' is not a number" "--seconds 300 allows five minutes" ;; esac
[ $# -gt 0 ] || stop 2 "no entry" "dev/leaderboard.sh dense=out/a6/dense best=out/a6/best: a name and a run's folder each"
lines=$(mktemp)
trap 'rm -f "$lines"' EXIT

refused() { # name, what is wrong and, behind a tab, what to do
    echo "leaderboard: refused $1: $(echo "$2" | cut -f 1)" >&2
    echo "---> HINT: $(echo "$2" | cut -f 2)" >&2
    bad=1
}
entry() { # folder: its line, with tabs; or what is wrong, exit code 1
    diff=
    if grep -qs "^diff --git " "$1/source.diff"; then diff=$(cksum < "$1/source.diff" | cut -d ' ' -f 1); fi
    awk -v limit="$limit" -v diff="$diff" '
        function refuse(what, hint) {
            if (!refused) { print FILENAME ":" FNR ": " what "\t" (hint != "" ? hint : "hand in the log as the program wrote it") }
            refused = 1
            exit 1
        }
        function value(key, pattern,   s) { # of "key":value
            if (!match($0, "\"" key "\":" pattern)) { refuse("no " key) }
            s = substr($0, RSTART, RLENGTH)
            sub(/^[^:]*:"?/, "", s); sub(/"$/, "", s)
            return s
        }
        function text(key) { return value(key, "\"[^\"]*\"") }
        function number(key) { return value(key, "-?[0-9][0-9.e+-]*") + 0 }
        refused { exit 1 }
        !/^\{"type":"[a-z]+",".*\}$/ { refuse("not a record of a log") }
        ended { refuse("a record behind the end", "an entry is one run: a new --out folder for each") }
        /^\{"type":"run"/ {
            if (FNR != 1) { refuse("a second run in one log", "an entry is one run, not resumed") }
            if (text("resume") != "") { refuse("the run was resumed", "an entry is one run from its beginning to its end") }
            if (text("init") != "") { refuse("the run began with the model " text("init"), "an entry begins at random") }
            commit = text("commit"); router = text("router"); planned = text("steps") + 0
            same = text("machine") ", --data " text("data") ", --val " text("val") ", --val-tokens " text("val_tokens")
            next
        }
        FNR == 1 { refuse("does not begin with a run record") }
        /^\{"type":"step"/ {
            step = number("step"); ms = number("ms")
            if (step <= last) { refuse("step " step " comes after step " last) }
            if (ms <= 0) { refuse("a step takes " ms " ms") }
            spent += ms / 1000 * (step - last); last = step # ms is the mean since the record before
        }
        /^\{"type":"val"/ {
            at = number("step"); loss = number("loss"); bits = number("bits")
            if (at < last) { refuse("validated at step " at " after step " last) }
            if (bits <= 0 || loss / log(2) - bits > 1e-4 || bits - loss / log(2) > 1e-4) {
                refuse("a loss of " loss " nats is not " bits " bits")
            }
            if (best == "" || loss < best) { best = loss }
        }
        /^\{"type":"stop"/ { refuse("the run was stopped", "choose --steps so that it ends by itself in time") }
        /^\{"type":"end"/ {
            ended = 1; seconds = number("seconds"); steps = number("step"); said = number("best")
        }
        END {
            if (refused) { exit 1 }
            if (!FNR) { refuse("an empty log") }
            if (!ended) { refuse("the run has not ended", "wait for it, or choose --steps so that it ends in time") }
            if (steps != planned || last != steps) { refuse("steps end at " last ", the run at " steps ", planned were " planned) }
            if (at != steps || bits == 0) { refuse("no validation after the last step") }
            if (said != best) { refuse("the best loss is " said " at the end, " best " above") }
            if (seconds > limit) { refuse(seconds " seconds, allowed are " limit, "fewer --steps") }
            if (spent > seconds * 1.02 + 0.1) { refuse("its steps take " spent " seconds, the run says " seconds) }
            if (commit ~ /-dirty$|^unknown$/ && diff == "") {
                refuse("changed source (commit " commit ") without source.diff", "git diff > source.diff, into the folder")
            }
            printf "%.4f\t%.1f\t%d\t%s\t%s\t%s\t%s\n", bits, seconds, steps, router, commit, diff == "" ? "-" : diff, same
        }' "$1/log.jsonl"
}
for one in "$@"; do
    name=${one%%=*} folder=${one#*=}
    case $one in
        [!=]*=?*) ;;
        *) stop 2 "'$one' is not NAME=FOLDER" "an entry is a name and a run's folder: best=out/a6/best" ;;
    esac
    if [ ! -f "$folder/log.jsonl" ]; then
        refused "$name" "$folder/log.jsonl is missing$(printf '\t')FOLDER is what --out of the run named"
    elif line=$(entry "$folder"); then
        printf '%s\t%s\n' "$line" "$name" >> "$lines"
    else
        refused "$name" "$line"
    fi
done
[ -s "$lines" ] || exit 1
if [ "$(cut -f 7 "$lines" | sort -u | wc -l)" -gt 1 ]; then
    stop 1 "the entries differ in machine, data or validation: $(cut -f 7,8 "$lines" | awk -F '\t' '{ print $2 ": " $1 }' |
        paste -s -d ';' - | sed 's/;/; /g')" "entries of one leaderboard run on one machine, on the same text"
fi
echo "$(head -n 1 "$lines" | cut -f 7); at most $limit seconds"
printf 'bits\tseconds\tsteps\trouter\tcommit\tdiff\tname\n'
sort -n "$lines" | cut -f 1-6,8
exit $bad
