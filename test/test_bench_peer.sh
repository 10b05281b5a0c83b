#!/bin/sh
# dev/bench_peer.sh, tables, dev/skeleton: with stand-ins for our program, the skeleton and both PyTorch, which take the times
# that a file says; missing and broken peers; bad options; FLOP of dev/skeleton and dev/bench by another count. Ends with
# `N passed, N failed`.
# shellcheck disable=SC2016 # dollars in single quotes are meant: scripts
set -u
cd "$(dirname "$0")/.." || exit 1
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
passed=0 failed=0
if ! command -v python3 > /dev/null; then echo "no python3: not tested"; exit 0; fi

. test/result.sh

# A stand-in says its next time from a file of its own and notes how it was called. Its first word of output is no JSON.
mkdir "$tmp/times"
stand_in() { # file, name of the list of times, more of the JSON
    cat > "$tmp/$1" <<END
#!/bin/sh
[ "\$1" != -c ] || { echo "2.0-$1"; exit 0; }
name=$2
case "\$*" in *onehot*) name=onehot ;; *compile*) name=compile ;; *"--optimizer torch"*) name=default ;; esac
echo "\$name: \$* [\${OMP_NUM_THREADS:-}]" >> $tmp/calls
ms=\$(head -n 1 $tmp/times/\$name) && sed -i.old 1d $tmp/times/\$name && echo words && echo '{"ms": '\$ms'$3}'
[ -n "\$ms" ] || { echo "\$name is broken on purpose" >&2; exit 1; }
END
    chmod +x "$tmp/$1"
}
stand_in ours ours ', "k": 1.5, "sgemm_ms": 5'
stand_in skeleton skeleton ', "k": 1.5, "gflop": 3.25'
stand_in python tuned ', "k": 1.5, "torch": "1.13.0", "blas": "some/libblas", "peak_mb": 5, "B": 8, "T": 64, "C": 128, "L": 4'
stand_in newest newest ', "k": 1.5, "torch": "2.15.0+cpu"'

bench() { # runs with the stand-ins; settings come before, as words of the environment
    rm -f "$tmp/calls"
    OURS=${OURS:-$tmp/ours} SKELETON=${SKELETON:-$tmp/skeleton} PEER_PYTHON=${PEER_PYTHON:-$tmp/newest} OUT=${OUT:-$tmp/raw} \
        dev/bench_peer.sh --python "$tmp/python" > "$tmp/seen" 2>&1
}
will_take() { printf '%s\n' "$2" | tr ' ' '\n' > "$tmp/times/$1"; } # name, milliseconds in order
all_take() {
    will_take ours "10 20 10"; will_take skeleton "8 8 8"; will_take tuned "20 30 40"; will_take default "50 50 50"
    will_take onehot "70 70 70"; will_take newest "32 32 32"; will_take compile "25 26 24"
}
has() { grep -qxF -e "$1" "$tmp/seen"; result "the line: $1" $?; }

# Ratios are taken round by round: tuned 2, 1.5 and 4 times ours. The ratio of its medians would be 3.
all_take
CONFIGS=tiny ROUNDS=3 STEPS=7 K_tiny=1.5 bench
result "three rounds" $?
has "tiny: 8 sequences of 64 tokens, C 128, 4 layers, 3.25 GFLOP a step"
sed 's/ [0-9?]* |$/ MB |/' "$tmp/seen" > "$tmp/cut" && mv "$tmp/cut" "$tmp/seen"
has "| train_gpt2_dynmoe.c | 10 | 1 | 1.50 | MB |"
has "| our products alone, made again | 5 | 0.50 | | |"
has "| the same products alone, the ceiling (dev/skeleton.c) | 8 | 0.80 (0.40 to 0.80) | 1.50 | MB |"
has "| PyTorch 1.13.0, tuned | 30 | 2.00 (1.50 to 4.00) | 1.50 | MB |"
has "| PyTorch 1.13.0, as it comes | 50 | 5.00 (2.50 to 5.00) | 1.50 | MB |"
has "| PyTorch 1.13.0, tuned, the authors' one-hot dispatch | 70 | 7.00 (3.50 to 7.00) | 1.50 | MB |"
has "| PyTorch 2.15.0, SDPA, torch.compile | 25 | 2.40 (1.30 to 2.50) | 1.50 | MB |"
! grep -qF "SDPA | 32" "$tmp/seen"
result "of the newest only the faster way" $?
grep -q 'Median of 3 rounds.*BLAS of PyTorch: some/libblas' "$tmp/seen"
result "the line under the table" $?
# round by round, and how each was called: same configuration, k, steps; threads and an optimizer of its own only where it is tuned
[ "$(cut -d : -f 1 "$tmp/calls" | tr '\n' ' ')" = "$(printf "%sours skeleton tuned default onehot newest compile " "" "" "")" ]
result "one after the other, round by round" $?
cp "$tmp/calls" "$tmp/seen"
[ "$(grep -c -e '--config tiny.*--k 1.5.*--steps 7' "$tmp/calls")" -eq 21 ]
result "the same configuration, k and steps for all" $?
n=$(getconf _NPROCESSORS_ONLN)
[ "$(grep -c "^tuned.*--exact.*fp32 --threads $n.*\[$n\]$" "$tmp/calls")" -eq 3 ] &&
    [ "$(grep -c '^default.*--optimizer torch \[\]$' "$tmp/calls")" -eq 3 ] && ! grep -q '^default.*--threads' "$tmp/calls"
result "tuned is given threads, default is not" $?

# memory: what /usr/bin/time saw, else what the program said of itself
sed 's/"max_kb":[0-9]*/"max_kb":null/; s/"max_kb":null,"run":{"ms": 20,/"max_kb":4000,"run":{"ms": 20,/' "$tmp/raw" > "$tmp/raw2"
dev/bench_peer.sh --table "$tmp/raw2" > "$tmp/seen" 2>&1
has "| PyTorch 1.13.0, tuned | 30 | 2.00 (1.50 to 4.00) | 1.50 | 5 |"
has "| train_gpt2_dynmoe.c | 10 | 1 | 1.50 | ? |"

# --into: what stands between the markers is replaced, the rest stays
printf 'before\n<!-- bench-peer:begin -->\nold\n<!-- bench-peer:end -->\nafter\n' > "$tmp/page"
dev/bench_peer.sh --table "$tmp/raw" --into "$tmp/page" > "$tmp/seen" 2>&1
result "--into" $?
{ printf 'before\n<!-- bench-peer:begin -->\n'; cat "$tmp/seen"; printf '<!-- bench-peer:end -->\nafter\n'; } | cmp -s - "$tmp/page"
result "the table between the markers" $?

# missing and broken ones: a line each, and the others go on
all_take
OURS=$tmp/none SKELETON=$tmp/none PEER_PYTHON=$tmp/none CONFIGS=small ROUNDS=1 OUT=$tmp/raw3 bench
result "without ours, skeleton and newest" $?
[ "$(grep -c '^left out: ' "$tmp/seen")" -eq 3 ] && grep -q '^| PyTorch 1.13.0, tuned | 20 | - | 1.50 |' "$tmp/seen"
result "a line for each that is missing, no ratio" $?
all_take
: > "$tmp/times/compile"
CONFIGS="tiny" ROUNDS=2 OUT=$tmp/raw4 bench
result "a peer that fails" $?
[ "$(grep -c '^left out from here on: newest-compile, tiny: compile is broken on purpose' "$tmp/seen")" -eq 1 ] &&
    grep -q '^| PyTorch 2.15.0, SDPA | 32 | 2.40 (1.60 to 3.20)' "$tmp/seen"
result "is left out, said once, and the other way is shown" $?

refused() { # exit status, text on stderr; then a command
    code=$1 want=$2
    shift 2
    "$@" > /dev/null 2> "$tmp/seen"
    got=$?
    [ $got -eq "$code" ] && [ "$(wc -l < "$tmp/seen")" -eq 2 ] && grep -qF -e "$want" "$tmp/seen" &&
        grep -q -e '---> HINT' "$tmp/seen"
    result "$* is refused (exit $got)" $?
}
printf '#!/bin/sh\nexit 1\n' > "$tmp/no_torch" && chmod +x "$tmp/no_torch"
refused 1 "no PyTorch to compare" env PEER_PYTHON="$tmp/none" OUT="$tmp/raw5" dev/bench_peer.sh --python "$tmp/no_torch"
will_take tuned ""; will_take default ""; will_take onehot ""
refused 1 "no PyTorch ran" env OURS="$tmp/ours" SKELETON="$tmp/skeleton" PEER_PYTHON="$tmp/none" CONFIGS=tiny ROUNDS=1 \
    OUT="$tmp/raw5" dev/bench_peer.sh --python "$tmp/python"
[ ! -e "$tmp/raw5" ]
result "and no results are left" $?
refused 2 "unknown option: --fast" dev/bench_peer.sh --fast
refused 2 "there is no configuration 'large'" env CONFIGS="tiny large" dev/bench_peer.sh
refused 2 "ROUNDS=0" env ROUNDS=0 dev/bench_peer.sh
refused 2 "STEPS=ten" env STEPS=ten dev/bench_peer.sh
refused 2 "THREADS=999" env THREADS=999 OUT="$tmp/raw5" dev/bench_peer.sh
refused 2 "is there already" env OUT="$tmp/raw" dev/bench_peer.sh
refused 1 "no_such" dev/bench_peer.sh --table no_such
refused 1 "nothing was measured" dev/bench_peer.sh --table "$tmp/page"
refused 1 "not a file of" sh -c 'echo "{\"row\":1" > "$0/bad"; dev/bench_peer.sh --table "$0/bad"' "$tmp"
refused 1 "has no markers" sh -c 'dev/bench_peer.sh --table "$0/raw" --into "$0/raw2" > "$0/table"' "$tmp"
refused 2 "FILE --into FILE" dev/bench_peer.sh --table "$tmp/raw" --in

# The tables of dev/bench: made-up cases of 100 ms, with 10 GFLOP that sgemm alone does in 80 ms
case_line() { # router, k, batch, ms, GFLOP, sgemm ms
    printf '{"config":"tiny","router":"%s","k":%s,"batch":%s,"tokens":%s,"ms":%s,"gflop":%s,"sgemm_ms":%s,"threads":2,' \
        "$1" "$2" "$3" $(($3 * 64)) "$4" "$5" "$6"
    printf '"date":"2000-01-02","commit":"abc","cpu":"A CPU"'
    for part in attention dense experts routing head elementwise optimizer; do
        printf ',"%s_ms":20,"%s_sgemm_ms":%s' $part $part "$([ $part = experts ] && echo 15 || echo 0)"
    done
    echo '}'
}
{ echo "some words"; case_line top-any 1.001 8 100 10 80; case_line top-any 1.999 8 150 15 125; case_line top-any 1.001 16 180 20 90
  case_line top-k 2 8 150 0 0; } > "$tmp/cases"
python3 dev/bench_table.py "$tmp/cases" > "$tmp/seen" 2>&1
result "dev/bench_table.py" $?
has "| tiny | top-any | 1.00 | 512 | 100 | 5120 | 100 | 80 % | 20 | 20 | 20 (75) | 20 | 20 | 20 | 20 |"
has "| tiny | top-k | 2.00 | 512 | 150 | 3413 | - | - | 20 | 20 | 20 (75) | 20 | 20 | 20 | 20 |"
has "| tiny | k = 2 over k = 1, top-any, 512 tokens | x 1.50 | x 1.50 | 1.00 |"
has "| tiny | twice the tokens, top-any, k = 1.0 | x 2.00 | x 1.80 | 0.90 |"
[ "$(grep -c '^| tiny | \(k =\|twice\)' "$tmp/seen")" -eq 2 ] && grep -q '^A CPU, 2 threads, 2000-01-02, commit abc\.' "$tmp/seen"
result "two pairs and where they come from" $?
printf 'before\n<!-- bench:begin -->\nold\n<!-- bench:end -->\nafter\n' > "$tmp/page"
python3 dev/bench_table.py "$tmp/cases" --into "$tmp/page" > "$tmp/seen" 2>&1
{ printf 'before\n<!-- bench:begin -->\n'; cat "$tmp/seen"; printf '<!-- bench:end -->\nafter\n'; } | cmp -s - "$tmp/page"
result "the table between the markers of a page" $?
refused 1 "nothing was measured" python3 dev/bench_table.py "$tmp/page"
refused 1 "not what dev/bench --json writes" python3 dev/bench_table.py "$tmp/raw"
refused 2 "FILE --into FILE" python3 dev/bench_table.py "$tmp/cases" --into

# The skeleton: a step at tiny, and its FLOP counted from the sizes. N = 512, C = 128, T = 64, 4 layers, two of them DynMoE,
# E = 8, R = 2 N; forward: qkv and projection 8 N C C, attention 4 N T C (one block of 64 queries: no half is left out),
# feed-forward 16 C C for each row, gate 2 N C E, head 2 N C V; three times for the step.
if dev/skeleton --config tiny --k 2 --steps 1 --json > "$tmp/seen" 2>&1; then
    awk '{ N = 512; C = 128; T = 64; want = 3 * (4 * (8*N*C*C + 4*N*T*C) + 2 * 16*N*C*C + 2 * (16*2*N*C*C + 2*N*C*8) + 2*N*C*256)
        match($0, /"gflop":[0-9.]*/); got = 1e9 * substr($0, RSTART + 8, RLENGTH - 8)
        exit !(got > 0.99 * want && got < 1.01 * want) }' "$tmp/seen"
    result "the skeleton's FLOP are those of the sizes" $?
    grep -q '^{"what":"skeleton","config":"tiny","k":2,"ms":[0-9.]*[1-9]' "$tmp/seen"
    result "the skeleton's line" $?
    dev/skeleton --config tiny --k 2 --steps 1 > "$tmp/seen"
    awk '/a step/ { all = $5 } / ms .*%$/ { sum += $2; n++ }
        END { exit !(n == 4 && sum > 0.98 * all && sum < 1.02 * all) }' "$tmp/seen"
    result "its parts are the whole" $?
else
    grep -q 'without a BLAS' "$tmp/seen"
    result "the skeleton says why it does not run" $?
fi
# dev/bench: the same FLOP, as it saw them go through sgemm; k as asked; its parts are the whole
if [ -x dev/bench ]; then
    dev/bench --config tiny --router top-any --k 2 --steps 1 --json > "$tmp/seen" 2>&1
    result "dev/bench" $?
    tr -d '{}"' < "$tmp/seen" | tr ',' '\n' | awk -F : '{ v[$1] = $2 } END { N = 512; C = 128; T = 64
        want = 3 * (4 * (8*N*C*C + 4*N*T*C) + 2 * 16*N*C*C + 2 * (16*2*N*C*C + 2*N*C*8) + 2*N*C*256)
        flop = 1e9 * v["gflop"]
        sum = v["other_ms"] + v["attention_ms"] + v["dense_ms"] + v["experts_ms"]
        sum += v["routing_ms"] + v["head_ms"] + v["elementwise_ms"] + v["optimizer_ms"]
        exit !(v["k"] == 2 && (flop == 0 || (flop > 0.99 * want && flop < 1.01 * want)) && v["ms"] > 0 && sum > 0.99 * v["ms"] &&
            sum < 1.01 * v["ms"]) }'
    result "its k, its FLOP and its parts" $?
    refused 2 "no such name: large" dev/bench --config large
    refused 2 "--k 9" dev/bench --config tiny --k 9
    refused 2 "unknown flag --fast" dev/bench --fast
else echo "dev/bench: not tested, it is not built"; fi

refused 2 "--config 'large'" dev/skeleton --config large
refused 2 "--k '9'" dev/skeleton --config tiny --k 9
refused 2 "--steps '0'" dev/skeleton --config tiny --steps 0
refused 2 "which --config" dev/skeleton

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
