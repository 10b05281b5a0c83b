#!/bin/sh
# Our CPU program beside PyTorch: time and memory of a training step of the same model, program after program, round by round.
#
#   dev/bench_peer.sh [--python PYTHON]        measures, writes OUT, prints the table; make bench-peer builds first
#   dev/bench_peer.sh --table FILE [--into README.md]   the table of a file OUT, also between the bench-peer markers of a file
#
# Programs: ours (dev/bench), the ceiling (dev/skeleton), PyTorch from the system (PYTHON) tuned, as it comes, and with the authors'
# one-hot dispatch, the newest PyTorch (PEER_PYTHON, or what dev/setup.sh --peer installed) without and with torch.compile. What
# is missing is left out and said. All: fp32, forward, backward, clipping at norm 1, AdamW; the same tokens, the same mean k.
#
# Settings by environment: CONFIGS="tiny small 124M", ROUNDS=5, K_tiny=1.86 K_small=1.74 K_124M=1.75, STEPS (else by configuration),
# THREADS (else all cores), OUT=docs/results/DATE-bench-peer.txt, PEER_PYTHON, DEFAULT_BLAS (a folder: the BLAS of a user who
# chose nothing, where this machine has another one), OURS=dev/bench, SKELETON=dev/skeleton, PEER=dev/peer_torch.py.
set -eu
cd "$(dirname "$0")/.."
CONFIGS=${CONFIGS:-tiny small 124M}
ROUNDS=${ROUNDS:-5}
K_tiny=${K_tiny:-1.86} K_small=${K_small:-1.74} K_124M=${K_124M:-1.75}
OUT=${OUT:-docs/results/$(date +%Y-%m-%d)-bench-peer.txt}
OURS=${OURS:-dev/bench} SKELETON=${SKELETON:-dev/skeleton} PEER=${PEER:-dev/peer_torch.py}
PEER_PYTHON=${PEER_PYTHON:-out_peer_venv/bin/python}
CORES=$(getconf _NPROCESSORS_ONLN)
THREADS=${THREADS:-$CORES}

fail() { # exit status, message, hint
    echo "dev/bench_peer.sh: $2" >&2
    echo "---> HINT: $3" >&2
    exit "$1"
}
whole() { case $2 in ''|*[!0-9]*|0*) fail 2 "$1=$2: a whole number, at least 1" "head -n 16 dev/bench_peer.sh" ;; esac; }

python=''
while [ $# -gt 0 ]; do
    case $1 in
        --table) shift; exec "$(command -v python3 || echo /usr/bin/python3)" dev/bench_peer_table.py "$@" ;;
        --python) [ $# -ge 2 ] || fail 2 "--python: which one?" "--python /usr/bin/python3"; python=$2; shift 2 ;;
        --help|-h) sed -n '2,16s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) fail 2 "unknown option: $1" "dev/bench_peer.sh --help" ;;
    esac
done
whole ROUNDS "$ROUNDS"
whole THREADS "$THREADS"
[ -z "${STEPS:-}" ] || whole STEPS "$STEPS"
for c in $CONFIGS; do
    case $c in tiny|small|124M) ;; *) fail 2 "CONFIGS: there is no configuration '$c'" "tiny, small, 124M" ;; esac
done
[ ! -e "$OUT" ] || fail 2 "$OUT is there already" "OUT=another file, or move it away"
pin=''
if [ "$THREADS" -ne "$CORES" ]; then # no program then sees more cores than it may use
    command -v taskset > /dev/null || fail 2 "THREADS=$THREADS needs taskset" "leave THREADS out: all $CORES cores"
    [ "$THREADS" -lt "$CORES" ] || fail 2 "THREADS=$THREADS: there are $CORES cores" "leave THREADS out"
    pin="taskset -c 0-$((THREADS - 1))"
fi

# ---- what is here ---------------------------------------------------------------------------------------------------

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
rows='' # names of what will be measured
torch_of() { "$1" -c 'import torch; print(torch.__version__)' 2> /dev/null; }

if [ -x "$OURS" ]; then rows=ours; else echo "left out: ours, there is no $OURS (make bench-peer builds it)"; fi
if [ -x "$SKELETON" ]; then rows="$rows skeleton"; else echo "left out: the skeleton, there is no $SKELETON"; fi
peers=''
for p in ${python:-python3 /usr/bin/python3}; do
    if version=$(torch_of "$p"); then
        python=$p peers="tuned default onehot"
        echo "PyTorch $version: $p"
        break
    fi
done
[ -n "$peers" ] || echo "left out: PyTorch of the system, no ${python:-python3} can import it"
if version=$(torch_of "$PEER_PYTHON"); then
    peers="$peers newest newest-compile"
    echo "PyTorch $version: $PEER_PYTHON"
else
    echo "left out: the newest PyTorch, $PEER_PYTHON cannot import it"
fi
[ -n "$peers" ] || fail 1 "no PyTorch to compare with" "dev/setup.sh --oracle or dev/setup.sh --peer"
rows="$rows $peers"

# The tuned environment: the OpenBLAS whose threads are OpenMP's, an allocator that keeps memory. PyTorch has many short parallel
# regions: its threads must not sleep between them, so what our Makefile says of GOMP_SPINCOUNT is taken away.
tuned="-u GOMP_SPINCOUNT OMP_NUM_THREADS=$THREADS"
for f in /usr/lib/*/libtcmalloc_minimal.so.4; do
    if [ -e "$f" ]; then tuned="$tuned LD_PRELOAD=$f"; else echo "no tcmalloc for PyTorch: apt-get install libtcmalloc-minimal4"; fi
done
newest_env=$tuned # brings its own BLAS
for f in /usr/lib/*/openblas-openmp; do [ ! -e "$f/libblas.so.3" ] || tuned="$tuned LD_LIBRARY_PATH=$f"; done
asitcomes="-u OMP_NUM_THREADS -u GOMP_SPINCOUNT -u LD_PRELOAD -u LD_LIBRARY_PATH -u OPENBLAS_CORETYPE"
asitcomes="$asitcomes${DEFAULT_BLAS:+ LD_LIBRARY_PATH=$DEFAULT_BLAS}"

# ---- rounds ---------------------------------------------------------------------------------------------------------

machine=$(sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo 2> /dev/null | head -n 1)
machine="${machine:-$(uname -m)}, $THREADS of $CORES cores"
commit=$(git describe --always --dirty --exclude='*' 2> /dev/null || echo unknown)
part="$OUT.tmp"
{
    echo "Training steps of our CPU program beside PyTorch: dev/bench_peer.sh, $(date +%Y-%m-%d), $machine, commit $commit."
    echo "CONFIGS=\"$CONFIGS\" ROUNDS=$ROUNDS STEPS=${STEPS:-by configuration}. Environment of tuned and onehot: $tuned; of newest:"
    echo "$newest_env; of default: env ${asitcomes%=*}${DEFAULT_BLAS:+=.../${DEFAULT_BLAS##*/}}"
    echo
    echo "{\"row\":\"machine\",\"machine\":\"$machine\",\"date\":\"$(date +%Y-%m-%d)\",\"commit\":\"$commit\",\"threads\":$THREADS}"
} > "$part" || fail 1 "cannot write $part" "OUT=a file in a folder that is there"

measure() { # row, configuration, k, steps, warm-up, round: one process; its line goes to the raw results
    flags="--config $2 --k $3"
    peer="$PEER $flags --exact --device cpu --dtype fp32 --threads $THREADS --steps $4 --warmup $5"
    case $1 in
        ours) command="$OURS --config $2 --router top-any --k $3 --steps $4 --json" ;;
        skeleton) command="$SKELETON $flags --steps $4 --threads $THREADS --json" ;;
        tuned) command="env $tuned $python $peer" ;;
        onehot) command="env $tuned $python $peer --dispatch onehot" ;;
        default) command="env $asitcomes $python ${peer% --threads *} --steps $4 --warmup $5 --optimizer torch" ;;
        newest) command="env $newest_env $PEER_PYTHON $peer" ;;
        newest-compile) command="env $newest_env $PEER_PYTHON $peer --compile blocks" ;;
    esac
    time=''
    if /usr/bin/time -f %M true 2> /dev/null; then time="/usr/bin/time -q -o $tmp/kb -f %M"; fi
    : > "$tmp/kb"
    # shellcheck disable=SC2086 # commands are several words
    if ! $pin $time $command > "$tmp/out" 2> "$tmp/err" || ! grep -q '^{.*"ms": *[0-9]' "$tmp/out"; then
        echo "left out from here on: $1, $2: $(grep -v '^ ' "$tmp/err" | head -n 1 | cut -c 1-200)"
        broken="$broken $1/$2 "
        return
    fi
    line="{\"row\":\"$1\",\"config\":\"$2\",\"round\":$6,\"max_kb\":$(grep '^[0-9]*$' "$tmp/kb" | grep . || echo null)"
    line="$line,\"run\":$(grep '^{' "$tmp/out" | tail -n 1)}"
    echo "$line" >> "$part"
    echo "$2, round $6, $1: $(sed -n 's/.*"ms": *\([0-9.]*\).*/\1 ms/p' "$tmp/out" | tail -n 1)"
}

broken=''
for c in $CONFIGS; do
    case $c in
        tiny) k=$K_tiny steps=100 warmup=10 ;;
        small) k=$K_small steps=10 warmup=2 ;;
        124M) k=$K_124M steps=4 warmup=1 ;;
    esac
    round=1
    while [ "$round" -le "$ROUNDS" ]; do
        for row in $rows; do
            case $broken in *" $row/$c "*) continue ;; esac
            measure "$row" "$c" "$k" "${STEPS:-$steps}" "$warmup" "$round"
        done
        round=$((round + 1))
    done
done
grep -q '"row":"\(tuned\|default\|onehot\|newest\)' "$part" || { rm -f "$part"; fail 1 "no PyTorch ran to its end" "see above"; }
mv "$part" "$OUT"
echo "raw results: $OUT"
echo
exec "$(command -v python3 || echo /usr/bin/python3)" dev/bench_peer_table.py "$OUT"
