#!/bin/sh
# What must hold when things go wrong: runs that are stopped, killed, out of disk, memory or range. Nine parts, about a minute:
#   test/test_robust.sh               all parts
#   test/test_robust.sh resume kill   some of: resume signal kill disk big threads nan defects memory
#   BINARY=file test/test_robust.sh  another build of the program
# What cannot be tried on a machine is said, and counts as skipped, not as passed. Ends with `N passed, N failed, N skipped`.
# shellcheck disable=SC2086,SC2046,SC2048,SC2016,SC2059,SC3045 # flags are split on purpose; awk; printf of bytes; ulimit -v
set -u
cd "$(dirname "$0")/.." || exit 1
. test/stop_at.sh
repo=$PWD
program=${BINARY:-$repo/train_gpt2_dynmoe}
dir=$(mktemp -d)
running=''
trap '[ -z "$running" ] || kill -9 $running 2> /dev/null; rm -rf "$dir"' EXIT
trap 'exit 130' INT TERM
cd "$dir" || exit 1
passed=0 failed=0 skipped=0
export GOMP_SPINCOUNT="${GOMP_SPINCOUNT:-1000}" # threads that wait do not burn the cores which the others need

ok() { passed=$((passed + 1)); }
bad() { failed=$((failed + 1)); echo "FAILED: $1"; shift; for f in "$@"; do sed 's/^/    /' "$f" | cut -c 1-160 | tail -n 5; done; }
not_tested() { skipped=$((skipped + 1)); echo "not tested: $1"; }
check() { # what it shows, then a command that must succeed
    what=$1
    shift
    if "$@" > check.out 2>&1; then ok; else bad "$what: $*" check.out; fi
}
has() { grep -qF -e "$1" "$2"; }
hasnt() { ! grep -qF -e "$1" "$2"; }

stops() { # what, exit code, text of the error: the program ended so, with one error and one hint in stdout, stderr, $got
    if [ $got -eq $2 ] && [ "$(grep -c '^error: ' stderr)" -eq 1 ] && [ "$(grep -c '^---> HINT: ' stderr)" -eq 1 ] \
        && [ "$(wc -l < stderr)" -eq 2 ] && grep -qE -e "$3" stderr; then ok
    else bad "$1 (exit $got, wanted $2 and \"$3\")" stderr; fi
}
run() { "$program" "$@" > stdout 2> stderr; got=$?; }
fails() { # what, exit code, text of the error, then the command line
    about=$1 code=$2 error=$3
    shift 3
    run "$@"
    stops "$about" $code "$error"
}
succeeds() { # what, then the command line
    what=$1
    shift
    run "$@"
    if [ $got -eq 0 ]; then ok; else bad "$what: $* (exit $got)" stdout stderr; fi
}
within() { # seconds, then a command: its exit code, or 124 if it is not done by then
    limit=$1
    shift
    "$@" &
    pid=$! i=0 running=$pid
    while kill -0 $pid 2> /dev/null && [ $i -lt $((20 * limit)) ]; do sleep 0.05; i=$((i + 1)); done
    if [ $i -ge $((20 * limit)) ] && kill -9 $pid 2> /dev/null; then wait $pid 2> /dev/null; running=''; return 124; fi
    running=''
    wait $pid
}
appears() { # text, file, seconds, and a process: waits until the file has the text; fails if the time or the process ends first
    i=0
    until grep -qF "$1" "$2" 2> /dev/null; do
        [ $i -lt $((50 * $3)) ] && kill -0 $4 2> /dev/null || return 1
        sleep 0.02
        i=$((i + 1))
    done
}
loads() { "$program" --init "$1" --prompt a --generate 1 > load.out 2>&1; }

# a checkpoint: 8 bytes length of the header, the header, tensors. place: where one begins. put: bytes over its n-th float.
header_size() { od -An -t u8 -N 8 "$1" | tr -d ' '; }
header() { tail -c +9 "$1" | head -c "$(header_size "$1")"; }
tensors() { tail -c +$(($(header_size "$1") + 9)) "$1"; }
meta() { header "$1" | sed -n "s/.*\"$2\":\"\\([^\"]*\\)\".*/\\1/p"; }
place() { header "$1" | sed -n "s|.*\"$2\":{[^}]*\"data_offsets\":\\[\\([0-9]*\\),.*|\\1|p"; }
put() { # file, tensor, n, bytes as printf takes them
    printf "$4" | dd of="$1" bs=1 seek=$((8 + $(header_size "$1") + $(place "$1" $2) + 4 * $3)) conv=notrunc 2> /dev/null
}
with_header() { # file, sed command that keeps the length, new file
    { head -c 8 "$1"; header "$1" | sed "$2"; tensors "$1"; } > "$3"
    if cmp -s "$1" "$3" || [ $(wc -c < "$1") -ne $(wc -c < "$3") ]; then bad "this test: '$2' changes nothing, or the length"; fi
}
finite() { # a checkpoint has no NaN and no Inf among its floats, which come first
    tensors "$1" | head -c "$(place "$1" h.0.moe.mask)" | od -An -v -t f4 | grep -qiE 'nan|inf' && return 1
    return 0
}
log_finite() { [ ! -e "$1" ] || ! grep -qiE '[:,[](-?nan|-?inf)' "$1"; } # none at all is fine
log_whole() { # each line is one record: torn ones that a later run wrote on hold two
    awk '!/^\{"type":.*\}$/ || gsub(/\{"type":/, "") != 1 { print FNR ": " $0; wrong = 1 } END { exit wrong }' "$1"
}
same_run() { # two checkpoints: equal bit for bit, but that one of them says --resume
    cmp -s "$1" "$2" && return 0
    for f in "$1" "$2"; do header "$f" | sed 's/"flag.resume":"[^"]*"//; s/ *$//' | tr ',' '\n'; done > both
    tensors "$1" > first
    tensors "$2" | cmp first - && [ "$(header "$1" | sed 's/"flag.resume":"[^"]*"//; s/ *$//')" = \
        "$(header "$2" | sed 's/"flag.resume":"[^"]*"//; s/ *$//')" ]
}
said_after() { # log, step: what its last run said after that step, without the clock's part
    awk -v k="$2" '
        /^{"type":"run"/ { n = 0; next }
        { match($0, /"step":[0-9]+/); s = substr($0, RSTART + 7, RLENGTH - 7) + 0 }
        /^{"type":"event"/ ? s >= k : s > k { line[n++] = $0 }
        END { for (i = 0; i < n; i++) print line[i] }' "$1" | sed 's/"tok_s":[^,]*,"ms":[^,]*,//; s/"seconds":[^,]*,//'
}

i=0
while [ $i -lt 200 ]; do echo "line $i of some text, which is long enough to train on"; i=$((i + 1)); done > text.txt
tiny="--data text.txt --layers 2 --heads 2 --channels 16 --context 16 --batch 2 --experts 4 --start-experts 2 --threads 1"
tiny="$tiny --val-tokens 64 --generate 0 --out run"
run $tiny --steps 30 --window 5 --period 20 --log-every 1
if [ $got -ne 0 ]; then bad "a run of 30 steps" stdout stderr; fi
mv run/model.safetensors trained.safetensors

# ---- a run that stops and goes on equals one that never stopped, bit for bit --------------------------------------------

resumes() { # what, steps to stop at, flags
    kind=$1 steps=$2
    shift 2
    for k in $steps; do
        rm -rf run full
        run "$@" --save-every $k
        mv run full
        stop_at $k at.safetensors "$@"
        if [ "$(meta at.safetensors step 2> /dev/null)" != $k ]; then bad "$kind: no checkpoint of step $k" stop.out; continue; fi
        if cmp -s at.safetensors full/model.safetensors; then bad "$kind: step $k is no other than the last"; fi
        run --resume at.safetensors
        if [ $got -ne 0 ]; then bad "$kind: --resume at step $k" stderr; continue; fi
        check "$kind: stopped at step $k, the same bits at the end" same_run full/model.safetensors run/model.safetensors
        said_after full/log.jsonl $k > want.log
        said_after run/log.jsonl $k > got.log
        check "$kind: stopped at step $k, the same log from there" cmp want.log got.log
    done
}
adds() { sed -n 's/^{"type":"event","step":\([0-9]*\),.*"what":"add".*/\1/p' "$1" | sort -nu | tr '\n' ' '; }

part_resume() {
    base="$tiny --steps 100 --log-every 1 --val-every 30 --moe-layers all --experts 8"
    adaptive="--window 10 --period 25 --adapt-stop 1 --threshold 0.6 --lr 0.01"
    for seed in 1 2 3 4 5 6 7 8; do # until experts come after step 20 and after step 45, on any machine
        run $base $adaptive --seed $seed
        case " $(adds run/log.jsonl)" in *" 20 45 "*) break ;; esac
    done
    check "experts come at steps 20 and 45 (seed $seed)" test "$(adds run/log.jsonl | cut -c 1-6)" = "20 45 "
    # recorded are steps 10 to 20, 35 to 45, ...: before, on the first, inside, before the event, after it, the same later
    resumes "top-any" "1 10 11 15 20 21 33 40 45 46 50 99" $base $adaptive --seed $seed
    for k in 10 11 20 21; do
        stop_at $k at.safetensors $base $adaptive --seed $seed
        want=0
        if [ $k = 11 ] || [ $k = 20 ]; then want=1; fi
        check "step $k records: $want" test "$(meta at.safetensors recording)" = $want
    done
    resumes "--accum 2" "20 21 41" $base $adaptive --seed $seed --accum 2
    resumes "top-k" "37" $base --router top-k
    resumes "top-k with the adaptive process" "16 21" $base --router top-k $adaptive --min-experts 2
    resumes "top-p" "38" $base --router top-p
    resumes "dense router" "39" $base --router dense
    resumes "shared experts" "20 44" $base $adaptive --seed $seed --shared-experts 2
    resumes "no experts" "43" $base --moe-layers none
    resumes "the authors' preset" "20 45" $base --preset authors $adaptive --seed $seed --train-fallback 1
    resumes "one batch only, the best validation long past" "75" $base --overfit 1 --lr 0.01 --steps 150
    check "it is long past" awk '/^{"type":"val"/ { sub(/.*"loss":/, ""); v[n++] = $0 + 0 }
        END { exit !(v[2] < v[n - 1] - 0.1) }' full/log.jsonl
    resumes "two threads" "40" $base $adaptive --seed $seed --threads 2
}

# ---- signals -----------------------------------------------------------------------------------------------------------

interrupted() { # signal, exit code, step to wait for, command line: stops there, saves, says so
    signal=$1 code=$2 from=$3
    shift 3
    "$program" "$@" > stdout 2> stderr &
    pid=$! running=$!
    appears "\"type\":\"step\",\"step\":$from," run/log.jsonl 60 $pid ||
        bad "SIG$signal: the run ended before step $from" stdout stderr
    kill -s $signal $pid
    wait $pid
    got=$?
    running=''
    stopped=$(tail -n 1 run/log.jsonl | sed -n 's/^{"type":"stop","step":\([0-9]*\)}$/\1/p')
    check "SIG$signal: exit code $code" test $got -eq $code
    check "SIG$signal: the log ends with a stop record" test "${stopped:-0}" -ge $from
    check "SIG$signal: one line says where it stopped and that it saved" \
        test "$(grep -E '(saved.*resume|resume.*saved)' stdout | grep -c "step ${stopped:-none}:* ")" -eq 1
    check "SIG$signal: the checkpoint is of that step" test "$(meta run/model.safetensors step)" = "$stopped"
    check "SIG$signal: no error" test ! -s stderr
    check "SIG$signal: no temporary file" test ! -e run/model.safetensors.tmp
}
part_signal() {
    flags="$tiny --steps 6000 --log-every 100 --val-every 700 --window 100 --period 300"
    succeeds "a run that nobody stops" $flags
    rm -rf full
    mv run full
    interrupted INT 130 1000 $flags
    interrupted TERM 143 3000 --resume run/model.safetensors
    succeeds "the rest" --resume run/model.safetensors
    check "stopped twice, the same bits at the end" same_run full/model.safetensors run/model.safetensors
    check "the log has two stops" test "$(grep -c '"type":"stop"' run/log.jsonl)" -eq 2
    check "each line of the log is one record" log_whole run/log.jsonl
    # tok/s was wrong after a resume in llm.c. However busy the machine is: the speeds of a resumed run must explain its time.
    check "tok/s after --resume is what the clock says, within 3 times" awk '
        function number(name) { match($0, "\"" name "\":[0-9.]+"); name = substr($0, RSTART, RLENGTH)
            sub(/.*:/, "", name); return name + 0 }
        /^{"type":"run"/ { spent = 0 }
        /^{"type":"stop"/ { last = number("step") }
        /^{"type":"step"/ { off = number("tok_s") * number("ms") / 32000; if (off < 0.99 || off > 1.01) wrong = 1
            spent += 32 * (number("step") - last) / number("tok_s"); last = number("step") }
        /^{"type":"end"/ { took = number("seconds") }
        END { print spent, took, wrong; exit !(spent < took + 0.01 && 3 * spent > took && !wrong) }' run/log.jsonl

    # while it validates: 2 MB take seconds. The first signal waits for the end of that, the second does not.
    i=0
    cp text.txt long.txt
    while [ $i -lt 8 ]; do cat long.txt long.txt > longer.txt; mv longer.txt long.txt; i=$((i + 1)); done
    rm -rf run
    "$program" --resume trained.safetensors --steps 50 --val-every 40 --val long.txt --val-tokens 0 > stdout 2> stderr &
    pid=$! running=$!
    appears '"type":"step","step":40,' run/log.jsonl 60 $pid || bad "it never came to step 40" stdout stderr
    kill -s INT $pid
    sleep 0.3
    check "one SIGINT while it validates: it is still there" kill -0 $pid
    kill -s INT $pid
    i=0
    while kill -0 $pid 2> /dev/null && [ $i -lt 20 ]; do sleep 0.05; i=$((i + 1)); done
    check "two SIGINT: it ends within a second" test $i -lt 20
    wait $pid
    check "two SIGINT: exit code 130" test $? -eq 130
    running=''
    check "two SIGINT: it was still validating" hasnt '"type":"val"' run/log.jsonl

    # a signal while the last validation runs: either it stopped early and says so, or the run is complete
    rm -rf run
    "$program" --resume trained.safetensors --steps 35 --val-every 0 --val long.txt --val-tokens 400000 > stdout 2> stderr &
    pid=$! running=$!
    appears '"type":"step","step":35,' run/log.jsonl 60 $pid || bad "it never came to step 35" stdout stderr
    kill -s TERM $pid
    wait $pid
    got=$? last=$(tail -n 1 run/log.jsonl | sed 's/^{"type":"\([a-z]*\)".*/\1/')
    running=''
    check "SIGTERM in the last validation: 'end' goes with 0, 'stop' with 143 (exit $got, '$last')" \
        sh -c "[ $got-$last = 0-end ] || [ $got-$last = 143-stop ]"
    check "SIGTERM in the last validation: the checkpoint is there" test "$(meta run/model.safetensors step)" = 35
}

# ---- killed 200 times while it saves after every step -------------------------------------------------------------------

part_kill() {
    # a model of 3 MB, so that many kills fall into the writing of a checkpoint
    flags="--data text.txt --layers 1 --heads 2 --channels 64 --context 16 --batch 1 --threads 1 --val-tokens 64 --generate 0"
    flags="$flags --out run --steps 250 --save-every 1 --log-every 1 --window 10 --period 25"
    rm -rf run full
    succeeds "a run that nobody kills" $flags
    mv run full
    awk 'BEGIN { srand(20); for (i = 0; i < 200; i++) printf "%.3f\n", 0.005 + 0.055 * rand() }' > pauses
    kills=0 ends=0 whole=0 broken=0 left=0 backwards=0 others=0 step=0 differ=0
    while read -r pause; do
        set -- $flags
        if [ -e run/model.safetensors ]; then set -- --resume run/model.safetensors; fi
        "$program" "$@" > kill.out 2> kill.err &
        pid=$! running=$!
        sleep "$pause"
        kill -9 $pid 2> /dev/null
        wait $pid 2> /dev/null
        got=$? running=''
        if [ $got -eq 0 ]; then # it came to the end first: begin again
            ends=$((ends + 1)) step=0
            same_run full/model.safetensors run/model.safetensors > /dev/null || differ=$((differ + 1))
            rm -rf run
            continue
        fi
        if [ $got -eq 137 ]; then kills=$((kills + 1)); else others=$((others + 1)); cp kill.err other.err; fi
        if [ -e run/model.safetensors.tmp ]; then left=$((left + 1)); fi
        if [ -e run/model.safetensors ]; then
            if ! loads run/model.safetensors; then broken=$((broken + 1)); cp load.out broken.out; rm -rf run; continue; fi
            whole=$((whole + 1))
            now=$(meta run/model.safetensors step)
            if [ "$now" -lt $step ]; then backwards=$((backwards + 1)); fi
            step=$now
        fi
    done < pauses
    touch broken.out other.err
    echo "$kills kills: $whole times a checkpoint, $left times a temporary file left behind; $ends runs came to their end"
    if [ $broken -eq 0 ]; then ok; else bad "$broken of $((whole + broken)) checkpoints were broken" broken.out; fi
    if [ $others -eq 0 ]; then ok; else bad "$others runs ended by themselves, but not well" other.err; fi
    check "no checkpoint is older than the one before" test $backwards -eq 0
    check "most were killed, and most kills met a checkpoint" test $kills -ge 150 -a $whole -ge 100
    check "some kills fell into a save" test $left -ge 5
    printf 'half' > run/model.safetensors.tmp # what a kill left: nothing reads it, the next save writes over it
    rm -rf again
    cp -r run again
    rm again/model.safetensors.tmp
    run --init run/model.safetensors --prompt a --temperature 0
    mv stdout beside
    run --init again/model.safetensors --prompt a --temperature 0
    check "a file left behind is not read" cmp beside stdout
    succeeds "after all kills it comes to the end" --resume run/model.safetensors
    same_run full/model.safetensors run/model.safetensors > /dev/null || differ=$((differ + 1))
    check "killed $kills times, the same bits at the end" test $differ -eq 0
    check "a file left behind is written over, then renamed" test ! -e run/model.safetensors.tmp
    check "each line of the log is one record" log_whole run/log.jsonl

    # two runs into one folder, a likely mistake as --out has a default: none may break the other's files
    rm -rf run
    "$program" $flags > one.out 2> one.err &
    pid=$! running=$! i=0 broken=0
    appears '"type":"step","step":3,' run/log.jsonl 60 $pid
    "$program" $flags --steps 60 --channels 48 > two.out 2> two.err
    two=$?
    while [ $i -lt 20 ]; do
        if [ -e run/model.safetensors ]; then loads run/model.safetensors || { broken=$((broken + 1)); cp load.out broken.out; }; fi
        i=$((i + 1))
    done
    wait $pid
    one=$? running=''
    if [ $broken -eq 0 ]; then ok; else bad "two runs into one folder: $broken checkpoints were broken" broken.out; fi
    check "two runs into one folder: the first is not harmed (exit $one)" same_run full/model.safetensors run/model.safetensors
    if [ $two -eq 1 ] && [ "$(grep -c '^error: .*run' two.err)" -eq 1 ]; then ok
    else bad "two runs into one folder: the second is refused (exit $two)" one.err two.err; fi
}

# ---- no room, no right -------------------------------------------------------------------------------------------------

intact() { # what: the checkpoint from before is as it was, and loads
    check "$1: the checkpoint before is intact" cmp before.safetensors run/model.safetensors
    check "$1: it loads" loads run/model.safetensors
    check "$1: no temporary file" test ! -e run/model.safetensors.tmp
}
fresh() { rm -rf run; mkdir run; cp trained.safetensors run/model.safetensors; cp trained.safetensors before.safetensors; }
part_disk() {
    go_on="--resume run/model.safetensors --steps 1000 --log-every 100"
    fresh
    (trap '' XFSZ; ulimit -f 64; "$program" $go_on > stdout 2> stderr)
    got=$?
    stops "a checkpoint beyond the limit of a file's size" 1 'model.safetensors: cannot write: '
    intact "a checkpoint beyond the limit of a file's size"
    fresh
    (ulimit -f 64; "$program" $go_on > stdout 2> stderr) 2> /dev/null
    got=$?
    stops "the same where the signal SIGXFSZ is not ignored" 1 'model.safetensors: cannot write: '
    intact "the same where the signal SIGXFSZ is not ignored"

    fresh # 600 blocks of 512 bytes: more than a checkpoint, less than the log
    (trap '' XFSZ; ulimit -f 600; "$program" $go_on --log-every 1 --save-every 40 > stdout 2> stderr)
    got=$?
    stops "a log beyond the limit" 1 'log.jsonl: '
    check "a log beyond the limit: the last checkpoint loads" loads run/model.safetensors
    check "a log beyond the limit: a checkpoint was saved" test "$(meta run/model.safetensors step)" -gt 30
    succeeds "with room again it goes on" --resume run/model.safetensors --log-every 100
    check "and each line of the log is one record" log_whole run/log.jsonl

    # records of this model are longer than the buffer of a stream: kill -9 can tear them
    rm -rf run
    large="$tiny --layers 12 --moe-layers all --experts 16 --log-every 1 --steps 2000"
    i=0 torn=0
    while [ $i -lt 30 ] && [ $torn -eq 0 ]; do
        "$program" $large --save-every 20 > stdout 2> stderr &
        pid=$! running=$!
        sleep 0.3$i
        kill -9 $pid
        wait $pid 2> /dev/null
        running=''
        if [ -n "$(tail -c 1 run/log.jsonl)" ] && [ -e run/model.safetensors ]; then torn=1; fi
        i=$((i + 1))
    done
    if [ $torn -eq 1 ]; then
        run --resume run/model.safetensors --steps $(($(meta run/model.safetensors step) + 3))
        check "after a kill that tore a record and --resume each line is one record" log_whole run/log.jsonl
    else not_tested "a log record torn by kill -9: none was, in $i kills"; fi

    if [ -c /dev/full ]; then
        fresh
        ln -s /dev/full run/log.jsonl
        fails "a log on a full disk" 1 'log.jsonl: No space left' $go_on
        intact "a log on a full disk"
    else not_tested "a log on a full disk: no /dev/full"; fi

    # a disk of 1 MB that is really full; as root, in a mount namespace of its own, which ends with the shell
    fresh
    if unshare -m sh -c 'mount -t tmpfs -o size=1m none run' 2> /dev/null; then
        unshare -m sh -c 'mount -t tmpfs -o size=1m none run && cp before.safetensors run/model.safetensors &&
            head -c 700000 /dev/zero > run/filler && { "$@" > stdout 2> stderr; echo $? > code
            cmp before.safetensors run/model.safetensors && "$1" --init run/model.safetensors --prompt a > /dev/null &&
            test ! -e run/model.safetensors.tmp && rm run/filler && "$@" > rest 2>&1; echo $? > after
            cp run/log.jsonl full.log; }' sh "$program" $go_on --save-every 50
        got=$(cat code)
        stops "a full disk" 1 'model.safetensors: cannot write: No space left'
        check "a full disk: the checkpoint before is intact; with room again it goes on" test "$(cat after)" = 0
        if [ "$(cat after)" != 0 ]; then tail -n 3 rest; fi
        check "a full disk: each line of the log is one record" log_whole full.log
        # filled up byte by byte, so that the log is what fails, in the middle of a record
        unshare -m sh -c 'mount -t tmpfs -o size=1m none run && cp before.safetensors run/model.safetensors &&
            { "$@" > stdout 2> stderr; echo $? > code
            "$1" --init run/model.safetensors --prompt a > /dev/null; echo $? > after; }' \
            sh "$program" --resume run/model.safetensors --steps 20000 --val-every 0 --log-every 1
        got=$(cat code)
        stops "a disk that the log fills" 1 'log.jsonl: No space left'
        check "a disk that the log fills: the checkpoint loads" test "$(cat after)" = 0
    else not_tested "a disk that is really full: needs root and unshare -m"; fi

    # root may write anywhere: then the program runs as nobody, in a folder of root
    as=''
    if [ "$(id -u)" -eq 0 ]; then as="setpriv --reuid=65534 --regid=65534 --clear-groups"; fi
    chmod 755 "$dir"
    fresh
    chmod 555 run
    if [ -n "$as" ] && ! $as "$program" --help > /dev/null 2>&1; then not_tested "read-only folders: root, and cannot become nobody"
    elif $as touch run/x 2> /dev/null; then not_tested "read-only folders: this user may write everywhere"
    else
        $as "$program" $go_on > stdout 2> stderr
        got=$?
        stops "a read-only folder" 1 'log.jsonl: Permission denied'
        intact "a read-only folder"
        $as "$program" $tiny --steps 1 --out run/inside > stdout 2> stderr
        got=$?
        stops "a folder in a read-only folder" 1 'run/inside: cannot make the folder: Permission denied'
        chmod 755 run
        : > run/log.jsonl
        chmod 666 run/log.jsonl
        chmod 555 run
        $as "$program" $go_on > stdout 2> stderr
        got=$?
        stops "a read-only folder with a log that is not" 1 'model.safetensors.tmp: Permission denied'
        intact "a read-only folder with a log that is not"
        chmod 755 run
        cp trained.safetensors secret.safetensors
        chmod 000 secret.safetensors
        $as "$program" --init secret.safetensors --prompt a > stdout 2> stderr
        got=$?
        stops "a model that may not be read" 1 'secret.safetensors: Permission denied'
        chmod 644 secret.safetensors
    fi
    chmod 755 run
}

# ---- 5 GB of tokens: the last tenth is validation and begins beyond 4.8 GB (test/test_big.c reads the very end) ---------

part_big() {
    # 20240520, version 1, 2684354048 tokens; their 2415918644th begins the last tenth
    printf '\210\330\064\001\001\000\000\000\000\376\377\237' > big.bin
    dd if=/dev/zero of=big.bin bs=1 count=0 seek=5368709120 2> /dev/null
    if [ "$(wc -c < big.bin)" -ne 5368709120 ] || [ "$(du -k big.bin | cut -f 1)" -gt 10000 ]; then
        not_tested "a .bin of 5 GB: no sparse files here"
        rm -f big.bin
        return
    fi
    small="--layers 1 --heads 1 --channels 8 --context 8 --batch 1 --experts 2 --start-experts 1 --threads 1 --generate 0 --out big"
    { printf '\210\330\064\001\001\000\000\000\144\000\000\000'; head -c 1212 /dev/zero; } > good.bin
    succeeds "5 GB of tokens train" --data big.bin $small --steps 2 --val-tokens 64
    check "all of them are seen" has 'big.bin: 2415.919 million tokens; validation: 268.435 million' stdout
    at=2415918650 # in the first window of the last tenth
    printf '\377\377' | dd of=big.bin bs=1 seek=$((1024 + 2 * at)) conv=notrunc 2> /dev/null
    small="$small --steps 2 --val-tokens 64"
    fails "a token above the vocabulary beyond 4.8 GB" 1 "big.bin: token 65535 at $at," --data big.bin $small
    succeeds "it is not in what is read of it as --val" --data good.bin --val big.bin $small
    rm -f big.bin
}

# ---- threads -----------------------------------------------------------------------------------------------------------

part_threads() {
    flags="--data text.txt --layers 2 --heads 4 --channels 64 --context 32 --batch 4 --val-tokens 256 --generate 0 --out run"
    for n in 1 2 4; do
        for again in a b; do
            rm -rf run
            succeeds "$n threads" $flags --threads $n --steps 30 --log-every 1 --lr 0.003 --warmup 5
            mv run/model.safetensors $n$again.safetensors
            sed -n 's/.*"type":"step".*"loss":\([0-9.]*\),.*/\1/p' run/log.jsonl > $n.losses
        done
        check "$n threads: the same bits again" cmp ${n}a.safetensors ${n}b.safetensors
        check "$n threads: 30 losses" test "$(wc -l < $n.losses)" -eq 30
    done
    # Rounding differs, and once in a while a token's gate sits so near its threshold that it opens for one of them only.
    check "losses of 1, 2 and 4 threads agree within 0.001 nats" sh -c 'paste 1.losses 2.losses 4.losses | awk "
        { for (i = 2; i <= 3; i++) { d = \$i - \$1; d = d < 0 ? -d : d; if (d > most) most = d } }
        END { print most; exit most > 0.001 }"'
}

# ---- numbers that are none ---------------------------------------------------------------------------------------------

nan='\000\000\370\177' inf='\000\000\200\377' # NaN as a float and as the upper half of a double
part_nan() {
    # tensor, number of the float, what the error must name: a NaN from the start of a run, or before one goes on
    for t in wte:40:wte wpe:5:'wpe|layer 0' lnfw:3:'lnf' h.0.ln1w:2:'layer 0|h\.0\.' h.0.qkvw:99:'layer 0|h\.0\.' \
        h.0.moe.gatew:3:'h\.0\.' h.0.moe.gateG:0:'h\.0\.' h.0.moe.fcw:7:'h\.0\.|layer [01]' h.0.moe.fcprojb:1:'h\.0\.|layer [01]' \
        h.1.attprojw:9:'layer 1|h\.1\.' h.1.fcprojw:8:'layer 1|h\.1\.' \
        adam_m/wte:1:wte adam_v/h.1.fcw:4:'h\.1\.' record/h.0.sum:1:'record/h\.0\.sum'; do
        name=${t%%:*} rest=${t#*:}
        index=${rest%%:*} want=${rest#*:}
        fresh
        cp trained.safetensors spoilt.safetensors
        put spoilt.safetensors $name $index $nan
        fails "a NaN in $name, then --resume" 1 "($want)" --resume spoilt.safetensors --steps 60 --save-every 1 --log-every 1
        check "a NaN in $name: no checkpoint with it is saved" cmp -s before.safetensors run/model.safetensors
        check "a NaN in $name: none in the log" log_finite run/log.jsonl
        case $name in *dam_*|record*) continue ;; esac # of these only --resume reads something
        fresh
        fails "a NaN in $name, then --init" 1 "($want)" $tiny --init spoilt.safetensors --steps 5 --save-every 1 --log-every 1
        check "a NaN in $name, --init: no checkpoint with it is saved" cmp -s before.safetensors run/model.safetensors
        check "a NaN in $name, --init: none in the log" log_finite run/log.jsonl
    done
    cp trained.safetensors spoilt.safetensors
    put spoilt.safetensors h.0.qkvw 0 $inf
    fails "--eval-only of a model with an Inf" 1 'spoilt|layer 0|h\.0\.' --init spoilt.safetensors --eval-only --data text.txt
    fails "--prompt to a model with an Inf" 1 'spoilt|layer 0|h\.0\.' --init spoilt.safetensors --prompt a

    for flags in "--lr 10 --weight-decay 10" "--lr 3 --weight-decay 10 --clip 0" "--lr 10 --weight-decay 10 --moe-layers none" \
        "--lr 10 --weight-decay 10 --router top-k"; do
        rm -rf run
        fails "$flags explodes" 1 'step [0-9]+: the (gradient of [a-z0-9.]+|loss) is not finite' $tiny $flags --warmup 0 \
            --lr-end 1 --steps 400 --save-every 1 --val-every 1 --log-every 1
        check "$flags: the last checkpoint loads" loads run/model.safetensors
        case $flags in *none) ;; *) check "$flags: it has no NaN and no Inf" finite run/model.safetensors ;; esac
        check "$flags: none in the log" log_finite run/log.jsonl
    done
}

# ---- what llm.c got wrong, and other mistakes --------------------------------------------------------------------------

part_defects() {
    rm -rf run
    succeeds "--val-every 0 and --save-every 0" $tiny --steps 5 --val-every 0 --save-every 0
    check "--val-every 0: two validations, at the start and the end" test "$(grep -c '"type":"val"' run/log.jsonl)" -eq 2
    succeeds "--warmup 0 --clip 0 --lr-end 0 --steps 1" $tiny --steps 1 --warmup 0 --clip 0 --lr-end 0 --adapt-stop 0

    # --help and the parser: the same flags. The list in the source, the list in the help, and what the parser takes.
    run --help
    sed -n 's/^  \(--[a-z0-9-]*\)  *\([A-Z]*\)  *\(-[a-z0-9A-Z]*\)  .*/\1 \3/p' stdout > help.list
    sed -n 's/^    X(\(text\|int\|float\|flag\), *\([a-z_0-9]*\), *"\(-[A-Za-z0-9]*\)", .*/--\2 \3/p' "$repo/train_gpt2_dynmoe.c" |
        tr '_' '-' > source.list
    check "--help lists the flags of the source" cmp help.list source.list
    check "it lists more than 50" test "$(wc -l < help.list)" -gt 50
    check "no two flags share a name or a twin" test -z "$(tr ' ' '\n' < help.list | sort | uniq -d)"
    check "-h is --help and no twin" hasnt ' -h ' help.list
    wrong=0
    while read -r name twin; do # each with a good value, then a bad --steps: only that may be refused
        default=$(sed -n "s/^  $name  *[A-Z]*  *-[a-zA-Z0-9]*  *\\([^ ]*\\)  .*/\\1/p" stdout)
        case $name in
            --data|--val) value=text.txt ;;
            --init|--resume) value=trained.safetensors ;;
            --eval-only|--dry-run) value='' ;;
            --dump-routing|--tokenizer|--prompt|--out) value=x ;;
            *) value=$default ;;
        esac
        for flag in $name $twin ${value:+$name=$value}; do
            case $flag in *=*) v='' ;; *) v=$value ;; esac
            "$program" --data text.txt $flag $v --steps x > flag.out 2> flag.err
            if [ $? -ne 2 ] || ! grep -q '^error: --steps x: expected' flag.err; then
                wrong=$((wrong + 1))
                echo "$flag $v: $(head -n 1 flag.err)"
            fi
            "$program" --data text.txt ${flag%%=*}q 1 > flag.out 2> flag.err
            if [ $? -ne 2 ] || ! grep -q '^error: unknown flag' flag.err; then
                wrong=$((wrong + 1))
                echo "${flag%%=*}q is taken"
            fi
        done
    done < help.list
    check "every flag of --help is taken, by name, by twin and as name=value" test $wrong -eq 0
    # and each takes effect: the run's record has every value that was given, by name or by twin
    values="--data text.txt --val text.txt --out run --init trained.safetensors --preset authors --depth 0 --layers 2 --heads 2
        --channels 16 --context 16 --moe-layers all --experts 5 --start-experts 3 --expert-init copies --expert-width 24
        --shared-experts 1 --router top-any --topk 3 --topp 0.7 --threshold 0.25 --kgrad detached --gate-scale 2 --unit-norm 0
        --train-fallback 1 --aux-diversity 0.5 --aux-simplicity 0.25 --aux-balance 0.125 --aux-efficiency 0.75 --aux-entropy 0
        --window 7 --period 21 --adapt-stop 0.5 --min-experts 2 --steps 2 --batch 3 --accum 2 --lr 0.002 --lr-end 0.3 --warmup 9
        --weight-decay 0.2 --beta1 0.8 --beta2 0.9 --clip 0.5 --seed 77 --threads 1 --log-every 3 --val-every 4 --val-tokens 32
        --save-every 5 --overfit 1 --dump-routing routing.safetensors --tokenizer= --generate 2 --temperature 0.5 --top-k-sample 6"
    values=$(echo $values | sed 's/--init trained.safetensors //; s/ --tokenizer=//') # --init would set the sizes
    rm -rf run
    succeeds "many flags by name" $values
    grep -o '"flags":.*' run/log.jsonl > by_name
    check "they are in the log" awk -v values="$values" 'BEGIN { RS = "^$" } { n = split(values, v, " ")
        for (i = 1; i < n; i += 2) { f = substr(v[i], 3); gsub(/-/, "_", f); s = "\"" f "\":\"" v[i + 1] "\""
            if (!index($0, s)) { print s " is missing"; wrong = 1 } } exit wrong }' by_name
    twins=$values
    while read -r name twin; do twins=$(echo " $twins" | sed "s/ $name / $twin /"); done < help.list
    check "all of them have twins" sh -c "! echo '$twins' | grep -q -e ' --'"
    rm -rf run
    succeeds "the same by twin" $twins
    grep -o '"flags":.*' run/log.jsonl > by_twin
    check "they mean the same" cmp by_name by_twin

    # the first token of a sample
    run --init trained.safetensors --prompt line --generate 0
    check "a prompt of bytes comes back as it is" test "$(cat stdout)" = line
    small="--data good.bin --layers 1 --heads 1 --channels 8 --context 8 --batch 1 --experts 2 --start-experts 1 --threads 1"
    small="$small --out bpe"
    { printf '\210\330\064\001\001\000\000\000\144\000\000\000'; head -c 1212 /dev/zero; } > good.bin
    { printf '\210\330\064\001\001\000\000\000\004\000\000\000'; head -c 1012 /dev/zero
        printf '\047\000\070\000\000\001\000\000'; } > start.bin
    printf '#version: 0.2\nH i\n' > vocab.bpe # 39 is H, 56 is Y, 256 is Hi, 0 is !
    succeeds "BPE tokens, no tokenizer" $small --steps 1 --generate 6
    check "the sample is seven numbers, the first one starts a text" awk '
        after { exit !(NF == 7 && $1 == 50256 && !/[^0-9 ]/); } /^a sample of/ { after = 1 }' stdout
    succeeds "BPE tokens, no tokenizer, a prompt" --init bpe/model.safetensors --prompt start.bin --generate 0
    check "it comes back as numbers" test "$(sed 's/ *$//' stdout)" = "39 56 256 0"
    succeeds "BPE tokens, a tokenizer, a prompt" --init bpe/model.safetensors --prompt start.bin --generate 0 --tokenizer vocab.bpe
    check "it comes back as text" test "$(cat stdout)" = "HYHi!"
    succeeds "the same once more" --init bpe/model.safetensors --prompt start.bin --generate 9 --tokenizer vocab.bpe --temperature 0
    mv stdout first
    run --init bpe/model.safetensors --prompt start.bin --generate 9 --tokenizer vocab.bpe --temperature 0
    check "greedy repeats" cmp first stdout
    check "and begins with the prompt" test "$(head -c 5 stdout)" = "HYHi!"
    rm -rf run
    fails "a tokenizer that is not there is refused" 1 'nowhere.bpe' $tiny --steps 2 --generate 5 --tokenizer nowhere.bpe
    check "before training, not after it" test ! -e run

    # Sampling from huge logits. All rows of wte equal and lnfb = 1: each logit is 16 * 10^4, and e to that is Inf. Only with the
    # maximum subtracted are the 256 bytes equally likely; with a naive softmax comes always the first one.
    cp trained.safetensors huge.safetensors
    a=$(($(header_size huge.safetensors) + 8 + $(place huge.safetensors wte)))
    awk 'BEGIN { for (i = 0; i < 4096; i++) printf "\\000\\100\\034\\106" }' > floats # 10^4, 4096 times: V * C
    { head -c $a trained.safetensors; printf "$(cat floats)"; tail -c +$((a + 4 * 4096 + 1)) trained.safetensors
        } > huge.safetensors
    for i in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do put huge.safetensors lnfb $i '\000\000\200\077'; done
    check "this test: the length stays" test $(wc -c < huge.safetensors) -eq $(wc -c < trained.safetensors)
    succeeds "sampling from huge logits" --init huge.safetensors --prompt a --generate 200 --temperature 1
    check "all bytes are equally likely" test "$(tail -c +2 stdout | od -An -v -t u1 | tr -s ' ' '\n' | sort -u | wc -l)" -gt 60

    # a finished run, continued into another folder: it must not claim to have saved there
    rm -rf run
    succeeds "--resume of a finished run" --resume trained.safetensors
    if has 'saved' stdout; then check "it says saved, so there is a checkpoint" test -e run/model.safetensors; else ok; fi

    # mistakes: one error, one hint, exit code 1 or 2; never an abort (134), a crash (139) or silence
    head -c 1000 text.txt > short.txt
    printf '\000\000\000\000\000\000\000\000{}' > zero.safetensors
    printf '\377\377\377\377\377\377\377\177{}' > far.safetensors
    printf '\002\000\000\000\000\000\000\000{}' > none.safetensors
    { head -c 12 good.bin; head -c 100 /dev/zero; } > stump.bin
    mkdir -p folder/model.safetensors mixed
    cp good.bin mixed/a.bin
    cp text.txt mixed/b.txt
    long=$(awk 'BEGIN { for (i = 0; i < 600; i++) printf "x" }')
    while IFS= read -r line; do
        eval "set -- $line"
        within 20 "$program" "$@" > stdout 2> stderr
        got=$?
        if { [ $got -eq 1 ] || [ $got -eq 2 ]; } && [ "$(grep -c '^error: ' stderr)" -eq 1 ] &&
            [ "$(grep -c '^---> HINT: ' stderr)" -eq 1 ] && [ "$(wc -l < stderr)" -eq 2 ]; then ok
        else bad "a mistake: $line (exit $got)" stderr; fi
    done <<END
--data ''
--data text.txt ''
--data text.txt --
--data text.txt -
--data text.txt --=3
--data text.txt -x=3
--data text.txt --eval-only=2 --init trained.safetensors
--data text.txt --depth 65
--data text.txt --depth 64 --batch 65536
--data text.txt --layers 128 --channels 65536 --heads 1024
--data text.txt --batch 65536 --context 65536
--data text.txt --dry-run --batch 65536 --context 65536
--data text.txt --context 5000
--data text.txt --val short.txt --context 2000
--data text.txt --out $long
--data $long
--data text.txt --out text.txt
--data text.txt --out /dev/null
--data 'mixed/*'
--data 'mixed/*.nothing'
--data stump.bin
--data mixed
--data text.txt --val mixed/a.bin
--data text.txt --init mixed
--data text.txt --init /dev/null
--data text.txt --init zero.safetensors
--data text.txt --init far.safetensors
--data text.txt --init none.safetensors
--data text.txt --resume none.safetensors
--data text.txt --resume nowhere.safetensors
--data text.txt --router top-q
--data text.txt --router top-k --topk 9
--data text.txt --router top-any --aux-entropy 1
--data text.txt --moe-layers -1
--data text.txt --moe-layers 99999999999999999999
--data text.txt --moe-layers 0,,1
--data text.txt --heads 3
--data text.txt --steps 1e99
--data text.txt --steps 0x
--data text.txt --lr -0.1
--data text.txt --seed 2147483648
--data text.txt --layers 2 --channels 16 --heads 2 --context 16 --steps 1 --generate 0 --out folder
--init trained.safetensors --prompt $long
--init trained.safetensors --eval-only
--init trained.safetensors --eval-only --data mixed/a.bin
--init trained.safetensors --eval-only --data text.txt --dump-routing nowhere/routing.safetensors
--init bpe/model.safetensors --prompt text
--init bpe/model.safetensors --prompt stump.bin
--init bpe/model.safetensors --prompt start.bin --tokenizer text.txt
--init trained.safetensors --prompt a --generate 1000001
END
    # a checkpoint whose header lies about the model
    for edit in 's/"E":"4"/"E":"9"/' 's/"L":"2"/"L":"9"/' 's/"L":"2"/"L":"0"/' 's/"C":"16"/"C":"99"/' 's/"NH":"2"/"NH":"0"/' \
        's/"NH":"2"/"NH":"3"/' 's/"T":"16"/"T":"-1"/' 's/"V":"256"/"V":"999"/' 's/"step":"30"/"step":"-1"/' \
        's/"router":"top-any"/"router":"top-all"/' 's/"moe_layers":"0"/"moe_layers":"7"/' 's/"rng_data":"[0-9]/"rng_data":"x/' \
        's/"recording":"0"/"recording":"7"/' 's/"flag.batch":"2"/"flag.batch":"0"/' 's/"flag.lr":"0.001"/"flag.lr":"xxxxx"/' \
        's/"h.1.fcw":{"dtype":"F32"/"h.1.fcw":{"dtype":"I32"/' 's/"h.1.fcb"/"h.1.fcx"/' 's/"topk":"2"/"topk":"0"/' \
        's/"shape":\[16,16\]/"shape":[8,32 ]/' 's/"__metadata__"/"__metadatax_"/'; do
        with_header trained.safetensors "$edit" lie.safetensors
        within 20 "$program" --resume lie.safetensors --steps 40 > stdout 2> stderr
        got=$?
        if { [ $got -eq 1 ] || [ $got -eq 2 ]; } && [ "$(grep -c '^error: ' stderr)" -eq 1 ] &&
            [ "$(grep -c '^---> HINT: ' stderr)" -eq 1 ] && [ "$(wc -l < stderr)" -eq 2 ]; then ok
        else bad "a header that lies, $edit (exit $got)" stdout stderr; fi
    done
    # one wrong byte anywhere in the header: refused or, where it means nothing, read; never a crash
    n=$(header_size trained.safetensors) crashes=0
    awk -v n=$n 'BEGIN { srand(3)
        for (i = 0; i < 100; i++) printf "%d \\%03o\n", i < 8 ? i : 8 + int(n * rand()), 32 + int(95 * rand()) }' > flips
    while read -r at byte; do
        cp trained.safetensors flip.safetensors
        printf "$byte" | dd of=flip.safetensors bs=1 seek=$at conv=notrunc 2> /dev/null
        within 20 "$program" --init flip.safetensors --prompt a --generate 1 > stdout 2> stderr
        got=$?
        if [ $got -gt 2 ]; then crashes=$((crashes + 1)); echo "byte $at = $byte: exit $got"; fi
    done < flips
    check "no wrong byte in a header crashes the program" test $crashes -eq 0
}

# ---- the plan, and too little memory -----------------------------------------------------------------------------------

part_memory() {
    rm -rf run empty
    mkdir empty
    (cd empty && "$program" $(echo $tiny | sed 's|text.txt|../text.txt|') --dry-run > ../plan.out 2> ../stderr)
    check "--dry-run" test $? -eq 0
    check "--dry-run writes nothing" test -z "$(ls -A empty)"
    check "--dry-run tells memory and time" sh -c 'grep -q "^memory .* MB" plan.out && grep -q "^time .* s " plan.out'
    succeeds "--dry-run of --resume" --resume trained.safetensors --steps 90 --dry-run
    check "--dry-run of --resume writes nothing" test ! -e run

    # OpenBLAS alone takes 260 MB of addresses for two threads, and waits forever for what it does not get: hence `within`
    if ! (ulimit -v 1000000) 2> /dev/null; then not_tested "too little memory: no ulimit -v here"; return; fi
    large="--data text.txt --layers 8 --channels 512 --heads 8 --context 256 --batch 16 --threads 1 --val-tokens 64"
    large="$large --generate 0 --out run"
    (ulimit -v 1000000; within 30 "$program" $large --steps 2 > stdout 2> stderr)
    got=$?
    stops "a plan above ulimit -v" 1 'needs [0-9.]+ MB of memory, [0-9.]+ MB are there'
    check "the hint names flags to lower" grep -qE 'lower --batch.*--channels' stderr
    check "it is refused before anything is written" test ! -e run
    check "the plan was told" grep -q '^memory ' stdout
    (ulimit -v 1000000; within 30 "$program" $large --dry-run > stdout 2> stderr)
    got=$?
    stops "--dry-run of it" 1 'needs [0-9.]+ MB of memory, [0-9.]+ MB are there'
    check "--dry-run of it writes nothing" test ! -e run
    # what the plan lets pass must run, or end with one line: at no limit may it hang or crash
    middle="--data text.txt --batch 64 --context 128 --threads 2 --val-tokens 64 --generate 0 --out run --steps 1"
    for kilobytes in 450000 550000 700000 850000 1000000; do
        rm -rf run
        (ulimit -v $kilobytes; within 30 "$program" $middle > stdout 2> stderr)
        got=$?
        if [ $got -eq 0 ]; then ok; else stops "a run under ulimit -v $kilobytes" 1 'memory'; fi
    done
    (ulimit -v 450000; within 30 "$program" $middle --dry-run > stdout 2> stderr)
    got=$?
    stops "--dry-run under ulimit -v 450000" 1 'memory'
    fails "--dry-run of what no machine has" 1 'needs [0-9]{6,12}\.[0-9] MB of memory' --data text.txt --dry-run --batch 65536 \
        --context 65536
}

# ---- all of it ---------------------------------------------------------------------------------------------------------

for part in ${*:-resume signal kill disk big threads nan defects memory}; do
    started=$(date +%s) before=$failed
    case $part in resume|signal|kill|disk|big|threads|nan|defects|memory) part_$part ;; *) echo "no part $part" >&2; exit 2 ;; esac
    echo "$part: $(($(date +%s) - started)) s$([ $failed -eq $before ] || echo ", $((failed - before)) failed")"
done
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
