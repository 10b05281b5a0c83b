#!/bin/sh
# dev/plot.py on small logs that are made up here: every picture is there and is one, tables hold what the log holds, bad input
# gets one clear line with a hint. Needs python3 with numpy and matplotlib: without them it says so and exits with 77, which
# is not "passed". Ends with `N passed, N failed`.
# shellcheck disable=SC2016,SC2059,SC2086 # dollars in single quotes, escapes for printf and lists of names are meant
set -u
export LC_ALL=C
cd "$(dirname "$0")/.." || exit 1
for python in python3 /usr/bin/python3 ''; do
    if [ -n "$python" ] && "$python" -c 'import numpy, matplotlib' 2> /dev/null; then break; fi
done
if [ -z "$python" ]; then
    echo "not run: python3 with numpy and matplotlib is missing; on Debian: apt-get install python3-matplotlib"
    exit 77
fi
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/dev" && cp dev/plot.py "$dir/dev/" && cd "$dir" || exit 1 # a copy: no truth lies in ../data unless a test puts it there
passed=0 failed=0
export MPLCONFIGDIR="$dir/config" # matplotlib keeps a list of fonts there
mkdir config

ok() { passed=$((passed + 1)); }
bad() { failed=$((failed + 1)); echo "FAILED: $1"; shift; for f in "$@"; do sed 's/^/    /' "$f" | tail -n 5; done; }

refuses() { # exit code, text that the error must hold, then the command line
    code=$1 want=$2
    shift 2
    "$python" dev/plot.py "$@" > stdout 2> stderr
    got=$?
    if [ $got -eq "$code" ] && [ "$(grep -c '^error: ' stderr)" -eq 1 ] && [ "$(grep -c '^---> HINT: ' stderr)" -eq 1 ] \
        && [ "$(wc -l < stderr)" -eq 2 ] && grep -qF -e "$want" stderr; then ok
    else bad "$* (exit $got, wanted $code and \"$want\")" stderr; fi
}

succeeds() { # what it shows, then the command line; nothing may come on stderr
    what=$1
    shift
    if "$python" -W error dev/plot.py "$@" > stdout 2> stderr && [ ! -s stderr ]; then ok; else bad "$what: $*" stdout stderr; fi
}

check() { # what it shows, then a command that must succeed
    what=$1
    shift
    if "$@" > check.out 2>&1; then ok; else bad "$what: $*" check.out; fi
}

pictures() { # folder, then the names that it should hold, and no other picture
    folder=$1
    shift
    for f in "$@"; do
        begin=$(head -c 8 "$folder/$f" 2> /dev/null | od -An -tx1 | tr -d ' \n')
        end=$(tail -c 8 "$folder/$f" 2> /dev/null | head -c 4)
        if [ "$begin" = 89504e470d0a1a0a ] && [ "$end" = IEND ] && [ "$(wc -c < "$folder/$f")" -gt 6000 ]; then ok
        else bad "$folder/$f: not a picture, or an empty one"; fi
    done
    check "no other pictures" test "$(find "$folder" -name '*.png' | wc -l)" -eq $#
}

cell() { # file, column, line after the header, expected
    check "$1: $2 of row $3 is $4" awk -F , -v name="$2" -v row="$3" -v want="$4" '
        NR == 1 { for (i = 1; i <= NF; i++) if ($i == name) c = i }
        NR == row + 1 { print $c; found = c && $c == want }
        END { exit !found }' "$1"
}

rows() { check "$1 has $2 rows" test "$(wc -l < "$1")" -eq $(($2 + 1)); }

# from, to, every, loss, layers ("0 2"; "" is a dense model): step and val records and a few events of a pool of 4
records() {
    awk -v from="$1" -v to="$2" -v every="$3" -v loss="$4" -v layers="$5" 'BEGIN {
        n = split(layers, id, " ")
        for (s = from; s <= to; s += every) {
            l = ""
            for (i = 1; i <= n; i++)
                l = l sprintf("%s{\"layer\":%d,\"experts\":%d,\"k\":1.25000,\"none\":0.10000,\"load\":[0.50000,0.%d0000,0.25000," \
                    "%s],\"hist\":[0.10000,0.60000,0.25000,0.05000,0.00000]}", i > 1 ? "," : "", id[i], s > 100 ? 4 : 3, \
                    s % 10, s > 100 ? "0.10000" : "0.00000")
            printf("{\"type\":\"step\",\"step\":%d,\"loss\":%.6f,\"aux\":0.000000,\"norm\":1.50000,\"lr\":0.001,\"k\":1.2500," \
                "\"tok_s\":20000.0,\"ms\":25.000,\"layers\":[%s]}\n", s, loss + 3 / s, l)
            if (s % (5 * every) == 0)
                printf("{\"type\":\"val\",\"step\":%d,\"loss\":%.6f,\"bits\":%.6f,\"layers\":[%s]}\n", s, loss + 3.5 / s, \
                    (loss + 3.5 / s) / log(2), l)
            if (s == 100 && n)
                printf("{\"type\":\"event\",\"step\":100,\"layer\":%d,\"what\":\"add\",\"expert\":3,\"count\":50}\n" \
                    "{\"type\":\"event\",\"step\":100,\"layer\":%d,\"what\":\"full\",\"expert\":-1,\"count\":9}\n", id[1], id[n])
        } }'
}

start() { # the record that opens a log
    printf '{"type":"run","version":1,"program":"train_gpt2_dynmoe.c","commit":"abc1234","threads":2,"blas":"none",'
    printf '"parameters":12345,"machine":"some $CPU$ of _ours_","flags":{"data":"text.txt"}}\n'
}

mkdir one other dense
{ start; records 10 200 10 1 "0 2"; echo '{"type":"sample","step":200,"temperature":0.8,"tokens":[1,2]}'
  echo '{"type":"end","step":200,"seconds":1.00,"best":1.017500}'; } > one/log.jsonl
{ start; records 5 400 5 1.1 "0 1 3"; } > other/log.jsonl
{ start; records 10 300 10 1.2 ""; } > dense/log.jsonl

# one run
all="loss.png k.png experts.png load.png hist.png"
succeeds "one run" one
pictures one/plots $all overview.png
check "it says what is missing" grep -q '^one: no specialisation' stdout
check "it says what it wrote" grep -q '^one/plots: loss.png k.png experts.png load.png hist.png overview.png$' stdout
printf 'figure.dpi: 30\naxes.facecolor: red\n' > matplotlibrc
PYTHONHASHSEED=7 MATPLOTLIBRC=$dir succeeds "the same again, in another folder" --out again one
for f in one/plots/*.png; do check "the same bytes: $f" cmp "$f" "again/${f##*/}"; done
rm matplotlibrc

# tables
succeeds "tables" one other dense --csv --out tables
rows tables/step.csv 130
rows tables/val.csv 26
cell tables/step.csv run 1 one
cell tables/step.csv step 2 20
cell tables/step.csv loss 2 1.15
cell tables/step.csv h.0.load.1 2 0
cell tables/step.csv h.2.hist.1 1 0.6
cell tables/step.csv h.2.experts 11 4
cell tables/step.csv run 21 other
cell tables/step.csv h.2.experts 21 ''
cell tables/step.csv h.3.k 21 1.25
cell tables/step.csv h.0.k 130 ''
cell tables/val.csv step 4 200
cell tables/val.csv bits 4 1.467942
cell tables/val.csv bits 26 1.748065

# several runs
pictures tables $all overview-1.png overview-2.png overview-3.png
check "a run without experts is said to be one" grep -q '^dense: only loss and overview' stdout
succeeds "the folder of several" one other
check "it is beside the first run" test -s one/compare/overview-2.png
succeeds "a dense run" dense
pictures dense/plots loss.png overview.png
cp one/plots/k.png dense/plots/
succeeds "a dense run beside an older picture" dense
check "it is said to be older" grep -q '^dense/plots: of an earlier call, not of these runs: k.png$' stdout
mkdir 'a$b$' _hidden deep deep/one
cp one/log.jsonl 'a$b$/' && cp one/log.jsonl _hidden/ && cp one/log.jsonl deep/one/
succeeds "strange names, and one twice" 'a$b$' _hidden one deep/one --out names
check "all four are there" test -s names/overview-4.png

# logs that grew, stopped or are long
mkdir resumed long short
{ start; records 10 200 10 1 "0 2"; start; records 105 150 5 0.5 "0 2"; } > resumed/log.jsonl
succeeds "a resumed run" resumed --csv
rows resumed/plots/step.csv 20
cell resumed/plots/step.csv loss 10 1.03
cell resumed/plots/step.csv loss 12 0.527273
cell resumed/plots/step.csv step 20 150
{ cat one/log.jsonl; records 10 10 10 7 "0 2"; } > resumed/log.jsonl
succeeds "a step that is there twice" resumed --csv
cell resumed/plots/step.csv loss 1 7.3
cp one/log.jsonl short/
printf '{"type":"step","step":210,"lo' >> short/log.jsonl
"$python" dev/plot.py short --csv > stdout 2> stderr
check "a damaged last line is no error" test -s short/plots/overview.png
check "one warning about it" sh -c 'test $(wc -l < stderr) -eq 1 &&
    grep -q "^warning: short/log.jsonl: line 30, the last one, is damaged" stderr'
rows short/plots/step.csv 20
{ start; for broken in '{' '[1]' '{"type":"step"}' '{"type":"step","step":-1,"loss":1}' '{"type":"val","step":1,"loss":NaN}' \
    '{"type":"step","step":1,"loss":1,"layers":[{"layer":0}]}' '{"type":"step","step":1,"loss":1,"layers":7}' '\377'; do
    printf "$broken\n"; done; records 10 50 10 1 "0 2"; } > short/log.jsonl
"$python" dev/plot.py short --csv > stdout 2> stderr
check "one warning about damaged lines" sh -c 'test $(wc -l < stderr) -eq 1 && grep -q "8 lines, first line 2, are" stderr'
rows short/plots/step.csv 5
{ start; records 1 50000 1 1 "0 2"; } > long/log.jsonl
succeeds "50,000 records" long
pictures long/plots $all overview.png
echo '{"type":"val","step":0,"loss":5.5,"layers":[]}' > long/log.jsonl
succeeds "a run of no steps" long --out nothing
pictures nothing loss.png overview.png
{ start; records 10 40 10 1 "0 2"; } > long/log.jsonl
succeeds "a run that was not validated yet" long --out early
pictures early $all overview.png
{ start; records 1 1 1 1 "0 2"; } > long/log.jsonl
succeeds "a single record" long --out first

# the truth about a text of 8 bytes in 2 languages, and who used which expert on it
bytes() { for b in "$@"; do printf "\\$(printf %o "$b")"; done; }
repeat() { i=0; while [ $i -lt "$1" ]; do bytes $2; i=$((i + 1)); done; }
safetensors() { # header; the data come on stdin
    bytes $((${#1} % 256)) $((${#1} / 256)) 0 0 0 0 0 0
    printf '%s' "$1"
    cat
}
tensor() { printf ',"%s":{"dtype":"%s","shape":[%s],"data_offsets":[%s]}' "$@"; }
truth_of() { # text
    header='{"__metadata__":{"format":"dynmoe-truth 1","domains":"sums,days"}'
    header=$header$(tensor text U8 8 0,8 domain U8 8 8,16 kind U8 8 16,24 p F64 8 24,88)'}'
    { printf '%s' "$1"; bytes 0 0 0 0 1 1 1 1; repeat 8 0; repeat 8 "0 0 0 0 0 0 224 63"; } | safetensors "$header"
}
routing_of() { # layers, uses of a token of layer 0
    header='{"__metadata__":{"format":"dynmoe-routing 1","T":"8","moe_layers":"'$1'"}'
    header=$header$(tensor token I32 8 0,32 h.0.open U8 8,4 32,64 h.2.open U8 8,4 64,96)'}'
    { for b in 97 98 97 98 97 98 97 98; do bytes $b 0 0 0; done; repeat 8 "$2"; repeat 8 "0 1 0 0"; } | safetensors "$header"
}
truth_of abababab > truth
truth_of abababac > another
routing_of 0,2 "1 0 1 0" > one/routing.safetensors
succeeds "without the truth" one --out unknown
check "no specialisation" test ! -e unknown/specialisation.png
succeeds "with the truth" one dense --truth truth --out known
pictures known $all specialisation.png overview-1.png overview-2.png
cp known/specialisation.png trained.png
routing_of 0,2 "0 0 0 1" > one/untrained.safetensors
mkdir data && cp truth data/languages_val.truth
succeeds "with the truth in its usual place, and before training" one dense --out known
check "another picture" sh -c '! cmp -s known/specialisation.png trained.png'
succeeds "the truth about another text" one --truth another --out elsewhere
check "it says so" grep -q '^one: one/routing.safetensors is left out, it is not about the text of another' stdout
check "and has no picture" test ! -e elsewhere/specialisation.png
routing_of 0 "1 0 1 0" > one/untrained.safetensors
succeeds "untrained with other layers" one --out known
check "it says that too" grep -q '^one: one/untrained.safetensors is left out, it has not the layers' stdout
rm one/untrained.safetensors
routing_of 0,2 "1 0 2 0" > one/routing.safetensors
refuses 1 "h.0.open should hold 0 or 1" one
routing_of 0,2 "1 0 1 0" > whole
for n in 0 7 20 200 $(($(wc -c < whole) - 1)); do
    head -c "$n" whole > one/routing.safetensors
    refuses 1 "one/routing.safetensors: not a whole safetensors file" one
done
{ cat whole; printf x; } > one/routing.safetensors
refuses 1 "not a whole safetensors file" one
sed 's/"h.2.open"/"h.0.open"/' whole > one/routing.safetensors
refuses 1 "not a whole safetensors file" one
sed 's/\[32,64\]/[31,63]/' whole > one/routing.safetensors
refuses 1 "not a whole safetensors file" one
rm one/routing.safetensors
refuses 1 "its format is \"dynmoe-routing 1\"" one --truth whole
refuses 1 "nowhere: No such file" one --truth nowhere

# mistakes
refuses 2 "arguments are required: OUT"
refuses 2 "unrecognized arguments: --nonsense" one --nonsense
refuses 2 "expected one argument" one --out
refuses 2 "a folder is named twice" one ./one
refuses 1 "nowhere/log.jsonl: No such file" nowhere
refuses 1 "one/log.jsonl/log.jsonl: Not a directory" one/log.jsonl
refuses 1 "inside: Not a directory" one --out truth/inside
mkdir empty mixed empty/log.jsonl
refuses 1 "empty/log.jsonl: Is a directory" empty
rmdir empty/log.jsonl
: > empty/log.jsonl
refuses 1 "empty/log.jsonl: it holds no step and no val record" empty
{ start; records 10 50 10 1 "0 2"; records 60 70 10 1 "0 1"; } > mixed/log.jsonl
refuses 1 "mixed/log.jsonl: line 8 has other layers" one mixed
mkdir hidden hidden/matplotlib
echo 'raise ImportError("No module named matplotlib")' > hidden/matplotlib/__init__.py
PYTHONPATH=$dir/hidden refuses 1 "No module named matplotlib" one
succeeds "--help" --help
check "it names the pictures" grep -q 'specialisation.png' stdout

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
