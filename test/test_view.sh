#!/bin/sh
# dev/view without a browser: what it reads from logs that grew, broke, resumed or are long, that nothing in them can leave the
# script element, and one clear line for bad input. What the page does with it: make test-view. Ends with `N passed, N failed`.
# shellcheck disable=SC1091,SC2016,SC2086 # dollars in single quotes and lists of flags are meant
set -u
export LC_ALL=C
cd "$(dirname "$0")/.." || exit 1
root=$PWD view=$PWD/dev/view
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp" || exit 1
passed=0 failed=0
. "$root/test/result.sh"

refuses() { # exit code, text that the error must hold, then the command line
    code=$1 want=$2
    shift 2
    "$view" "$@" > stdout 2> seen
    got=$?
    [ $got -eq "$code" ] && [ "$(grep -c '^error: ' seen)" -eq 1 ] && [ "$(grep -c '^---> HINT: ' seen)" -eq 1 ] &&
        [ "$(wc -l < seen)" -eq 2 ] && grep -qF -e "$want" seen
    result "$* (exit $got, wanted $code and \"$want\")" $?
}

check() { # what it shows, then a command that must succeed
    what=$1
    shift
    "$@" > seen 2>&1
    result "$what: $*" $?
}

shows() { check "$1" "$view" "$2"; cp seen said; } # what it shows, folder; said: what dev/view printed
data() { awk '/id="data">/ { on = 1 } on { print } on && /<\/script>/ { exit }' "$1/view.html"; } # what it put into the page
rows() { check "$1: $3 rows like $2" test "$(data "$1" | grep -c "$2")" -eq "$3"; }
has() { data "$1" > page.txt; check "$1: $2" grep -qF -e "$2" page.txt; }
lacks() { data "$1" > page.txt; check "$1: no $2" sh -c '! grep -qF -e "$1" page.txt' - "$2"; }

start() {
    printf '{"type":"run","version":1,"program":"p.c","commit":"abc1234","parameters":12345,"machine":"a machine",'
    printf '"flags":{"batch":"2","accum":"1","context":"16","router":"top-any"}}\n'
}
records() { # from, to, every, loss at each: steps of two layers with a pool of 4
    awk -v from="$1" -v to="$2" -v every="$3" -v loss="$4" 'BEGIN { for (s = from; s <= to; s += every) {
        l = "\"k\":1.25,\"none\":0.1,\"load\":[0.5,0.25,0,0.125],\"hist\":[0.1,0.6,0.25,0.05,0]"
        printf "{\"type\":\"step\",\"step\":%d,\"loss\":%.4f,\"norm\":1.5,\"lr\":0.001,\"tok_s\":2000,\"ms\":20,", s, loss
        printf "\"layers\":[{\"layer\":0,\"experts\":3,%s},{\"layer\":2,\"experts\":%d,%s}]}\n", l, s == 31000 ? 4 : 3, l } }'
}

# a run as it should be
mkdir good
{ start; records 10 200 10 1.5
  records 100 100 1 1.25 | sed 's/"step"/"val"/; s/"norm"/"bits":1.8,"norm"/'
  echo '{"type":"event","step":100,"layer":2,"what":"add","expert":3,"count":50}'
  echo '{"type":"end","step":200,"seconds":4,"best":1.25}'; } > good/log.jsonl
shows "a whole log" good
check "it says what it wrote" grep -q '^good/view.html: 1 run, [0-9]* kB; open it in a browser$' said
check "and what would make the rest" grep -q '^good: No sample: there is no good/model.safetensors. Training writes it' said
check "of the domains too" grep -q '^good: No domains: there is no good/routing.safetensors. Training with --dump-routing' said
check "nothing is left in its place" sh -c '! grep -q @DATA@ good/view.html && test "$(tail -n 1 good/view.html)" = "</html>"'
check "no temporary file stays" test ! -e good/view.html.tmp
layers='\[3,3\],\[1.25,1.25\],\[0.1,0.1\],\[\[500,250,0,125\],\[500,250,0,125\]\],\[\[100,600,250,50,0\]'
rows good "^\\[[0-9]*,[0-9.]*,1.5,1.5,0.001,2000,$layers" 20
has good '[200,4,1.5,'
has good '"val":[[100,1.25,1.8,null]]'
has good '"events":[[100,2,3,50,"add"]]'
has good '"per_step":32,"layers":[0,2],"E":4,"note":""'
cp good/view.html first.html
shows "again" good
check "the same bytes" cmp good/view.html first.html
check "elsewhere" "$view" good --to other.html
check "that is the same page" cmp other.html first.html
mkdir two && cp good/log.jsonl two/
check "two runs" "$view" good two/ --to both.html
check "each has its name" sh -c 'grep -q "{\"name\":\"good\"" both.html && grep -q "{\"name\":\"two\"" both.html'

# logs that grew, stopped, broke
mkdir grown
{ cat good/log.jsonl; printf '{"type":"step","step":210,"lo'; } > grown/log.jsonl
shows "a log that is being written" grown
check "it says so" grep -q '^grown: the last line of grown/log.jsonl is not whole' said
has grown 'is training still writing it?'
rows grown '^\[[0-9]*,[0-9.]*,1.5,' 20
{ start
  for broken in '{"type":' '[1]' '{"type":"step"}' '{"type":"step","step":-1,"loss":1}' '{"type":"val","step":1,"loss":nan}' \
    '{"type":"step","step":1,"loss":1,"layers":[{"layer":0}]}' '{"type":"step","step":1,"loss":1,"layers":7}' 'x'; do
    printf '%s\n' "$broken"; done
  records 10 50 10 1; printf '{"type":"step","step":60,"loss":1,"lay'; start | sed 's/abc1234/def5678/'
  records 60 70 10 1; records 80 80 10 1 | sed 's/0,0.125\]/0,0.125,0.5]/'; } > grown/log.jsonl
shows "damaged lines" grown
check "they are counted" grep -q '^grown: 10 of 18 lines of grown/log.jsonl are damaged, the first is line 2' said
rows grown '^\[[0-9]*,[0-9.]*,1,' 7
has grown '"commit":"def5678"'
{ start; records 10 200 10 1.5; echo '{"type":"event","step":150,"layer":2,"what":"add","expert":3,"count":50}'
  echo '{"type":"event","step":90,"layer":0,"what":"remove","expert":1,"count":0}'
  start; echo '{"type":"event","step":103,"layer":0,"what":"full","expert":-1,"count":9}'
  records 105 150 5 0.5; } > grown/log.jsonl
shows "a resumed run" grown
rows grown '^\[[0-9]*,[0-9.]*,1.5,' 10
rows grown '^\[[0-9]*,[0-9.]*,0.5,' 10
has grown '"events":[[90,0,1,0,"remove"],[103,0,-1,9,"full"]]'
has grown '[150,3,0.5,'
{ start; records 10 30 10 1.5; records 30 30 10 2.5; } > grown/log.jsonl
shows "a step that is there twice" grown
rows grown '^\[30,' 1
has grown '[30,0.6,2.5,'

# a long log: spikes, changes and events survive, and the page stays small
mkdir long
{ start; records 1 50000 1 2; } | awk '
    /"step":31234,/ { sub(/"loss":2.0000/, "\"loss\":99") }
    /"step":41234,/ { sub(/"loss":2.0000/, "\"loss\":0.25") }
    { print }
    /"type":"step"/ && ++n % 100 == 0 {
        print "{\"type\":\"event\",\"step\":" n ",\"layer\":0,\"what\":\"full\",\"expert\":-1,\"count\":7}" }
    ' > long/log.jsonl
shows "50,000 records" long
check "the page is below 1 MB" test "$(wc -c < long/view.html)" -lt 1000000
data long > page.txt
check "its spike is there" grep -q '^\[31234,[0-9.]*,99,' page.txt
check "and the lowest loss" grep -q '^\[41234,[0-9.]*,0.25,' page.txt
check "and a change of a single record" grep -q '^\[31000,.*,\[3,4\],\[1.25' page.txt
check "with the way back" grep -q '^\[31001,.*,\[3,3\],\[1.25' page.txt
check "the first and the last" sh -c 'grep -q "^\[1,0.02,2," page.txt && grep -q "^\[50000,1000,2," page.txt'
check "all events" test "$(grep -o '"full"' page.txt | wc -l)" -eq 500
check "not more records than a screen has room for" test "$(grep -c '^\[[0-9]' page.txt)" -lt 2100

pool=0.25,0.25,0.25,0.25,0.25,0.25,0.25,0.25
pool=$pool,$pool,$pool,$pool,$pool,$pool,$pool,$pool
{ start; records 1 3000 1 2 | sed "s/0.5,0.25,0,0.125/$pool/g"; } > long/log.jsonl
shows "a large pool" long
data long > page.txt
loads=$(grep -c '\],\[\[250,' page.txt)
check "loads at fewer steps ($loads)" test "$loads" -gt 400 -a "$loads" -lt 930 # 258 numbers each
check "at the last one too" sh -c 'grep "^\[3000," page.txt | grep -q "\],\[\[250,"'

# nothing in the data can end the script element, or be HTML
mkdir 'a<b>&"c'
{ printf '{"type":"run","commit":"\342\200\250]]>\\\\","machine":"%s","flags":{}}\n' '</script><!-- \u003c \" \u00e4 \uzz'
  records 10 20 10 1
  echo '{"type":"event","step":10,"layer":0,"what":"</script>","expert":1,"count":1}'; } > 'a<b>&"c/log.jsonl'
shows "a log with HTML in it" 'a<b>&"c'
data 'a<b>&"c' > page.txt
ends() { grep -oi '</script' "$1" | wc -l; }
check "the script elements are those of the page" test "$(ends 'a<b>&"c/view.html')" -eq "$(ends "$root/dev/view.html")"
check "no < in the data" test "$(grep -o '<' page.txt | wc -l)" -eq 2 # of the element itself
check "no byte outside of ASCII" sh -c '! grep -q "[^ -~]" page.txt'
check "the name of the folder" grep -qF '"name":"a\u003cb\u003e\u0026\u0022c"' page.txt
check "what the log says" grep -qF '"commit":"\u00e2\u0080\u00a8]]\u003e\\"' page.txt
check "with its own escapes" grep -qF '"machine":"\u003c/script\u003e\u003c!-- \u003c \" \u00e4 \u005cuzz"' page.txt

# a trained model: its sample, and its routing against the truth
check "data" "$root/data/languages" --seed 3 --bytes 6000 --out val.txt --truth val.truth
tiny="--layers 2 --channels 16 --heads 2 --context 16 --batch 2 --experts 4 --start-experts 3 --moe-layers every2 --threads 1"
check "a training" "$root/train_gpt2_dynmoe" --data val.txt --val val.txt $tiny --steps 5 --log-every 1 --val-tokens 64 \
    --generate 40 --out run --dump-routing run/routing.safetensors
check "its page" "$view" run --truth val.truth --threads 1
data run > page.txt
tokens=$(sed -n 's/.*"sample".*"tokens":\[\(.*\)\]}/\1/p' run/log.jsonl)
check "the sample, and the newline before it" grep -qF "\"tokens\":[10,$tokens]" page.txt
routed=$(sed -n 's/.*"open":"\([01]*\)".*/\1/p' page.txt)
check "41 tokens in one layer" test ${#routed} -eq $((41 * 4))
check "specialisation" "$root/dev/specialisation" val.truth run/routing.safetensors
cp seen table.txt
check "each language uses the experts that dev/specialisation says" awk '
    FNR == NR && /^layer 0: percent/ { on = 1; next }
    FNR == NR && on && $1 == "expert" { for (i = 2; i <= NF; i++) expert[i] = $i; next }
    FNR == NR && on && NF < 2 { on = 0 }
    FNR == NR { if (on) { name[++n] = $1; for (i = 2; i <= NF; i++) want[n, expert[i]] = $i }; next }
    /"cells":/ { sub(/.*"cells":\[\[/, ""); rows = split($0, row, /\],\[/)
        for (r = 1; r <= n; r++) { E = split(row[r], cell, /[],]/); for (e = 0; e < 4; e++) {
            d = cell[e + 1] / 10 - want[r, e]; if (d > 0.56 || d < -0.56) bad = 1; sum += cell[e + 1] } } }
    END { exit bad || n != 6 || rows != 6 || sum < 6000 }' table.txt page.txt
check "another text" "$root/data/languages" --seed 4 --bytes 6000 --out other.txt --truth other.truth
check "the truth about another text" "$view" run --truth other.truth; cp seen said
check "is said to be one" grep -q '^run: No domains: other.truth is not about the data of run/routing.safetensors' said
head -c 500 run/model.safetensors > good/model.safetensors
refuses 1 "good/model.safetensors: header" good
rm good/model.safetensors
head -c 500 run/routing.safetensors > cut.safetensors
refuses 1 "cut.safetensors: header" good --routing cut.safetensors
refuses 1 "its format is not" good --routing val.truth

# mistakes
refuses 2 "the folder of a run is missing"
refuses 2 "unknown flag --nonsense" good --nonsense 1
refuses 2 "--to needs a value" good --to
refuses 2 "--routing is for one run" good two --routing x
refuses 1 "nowhere/log.jsonl: No such file" nowhere
refuses 1 "no/such/page.html.tmp: No such file" good --to no/such/page.html
mkdir empty && : > empty/log.jsonl
refuses 1 "empty/log.jsonl: the file is empty" empty
echo '{"type":"run"}' > empty/log.jsonl
refuses 1 "no whole record of a step" empty
refuses 1 "truth.none: No such file" run --truth truth.none
check "help" "$view" --help

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
