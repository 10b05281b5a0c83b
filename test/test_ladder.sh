#!/bin/sh
# dev/cuda/ladder.sh in a made-up project, with stand-ins for nvidia-smi, nvcc and cudacpu-cc: what it writes with a GPU, what
# without, and that a wrong rung is reported. Ends with `N passed, N failed`.
# shellcheck disable=SC2016 # dollars in single quotes are meant: scripts
set -u
cd "$(dirname "$0")/.." || exit 1
root=$PWD
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
passed=0 failed=0
if ! command -v python3 > /dev/null; then echo "no python3: not tested"; exit 0; fi

. test/result.sh

mkdir -p "$tmp/bin" "$tmp/project/dev/cuda" "$tmp/project/dev/cuda_on_cpu" "$tmp/project/docs/results"
cp "$root/dev/cuda/ladder.sh" "$tmp/project/dev/cuda/"
cp "$root/dev/markers.py" "$tmp/project/dev/"
cd "$tmp/project" || exit 1
printf '# A page\n<!-- ladder:begin -->\n<!-- ladder:end -->\n' > docs/cuda.md
# both compilers make a script that says what a ladder says; the ladder named in broken is wrong
cat > "$tmp/bin/nvcc" <<END
#!/bin/sh
while [ "\$1" != -o ]; do shift; done
cat > "\$2" <<'LADDER'
#!/bin/sh
name=\$(basename "\$0")
echo "bound: 107.2 MB and 0.906 GFLOP at N 65536 C 768"
echo "rung 1: slow; asks for 2532 MB"
[ "\${1:-}" != --count ] || exit 0
if [ "\$name" = "\$(cat $tmp/broken)" ]; then echo "  N 1: WRONG, error 2"; echo "1 checks are WRONG"; exit 1; fi
echo "  N 1: right, error 0.1 of what is allowed"
echo "bound: 0.0250 ms at 4300 GB/s and 788 TFLOP/s"
echo "time 1: 0.1234 ms, 868.7 GB/s, 7.3 GFLOP/s, 20.26% of the bound"
LADDER
chmod +x "\$2"
END
printf '#!/bin/sh\n[ ! -f %s ] || exit 1\necho "NVIDIA Pretend 9000"\n' "$tmp/no_gpu" > "$tmp/bin/nvidia-smi"
chmod +x "$tmp/bin/nvcc" "$tmp/bin/nvidia-smi"
cp "$tmp/bin/nvcc" dev/cuda_on_cpu/cudacpu-cc
echo none > "$tmp/broken"

ladder() { # exit code wanted, then arguments
    want=$1
    shift
    PATH="$tmp/bin:$PATH" COMMIT=abc1234 dev/cuda/ladder.sh "$@" > "$tmp/seen" 2>&1
    got=$?
    [ $got -eq "$want" ] || { echo "exit $got, wanted $want" >> "$tmp/seen"; return 1; }
}
has() { # what it shows, file, pattern
    grep -q -e "$3" "$2"
    result "$1: $3 in $2" $?
}
file=docs/results/$(date -u +%Y-%m-%d)-ladder-Pretend-9000.txt

touch "$tmp/no_gpu"
ladder 0
result "without a GPU" $?
[ "$(wc -l < docs/cuda.md)" -eq 3 ] && [ "$(find docs/results -type f | wc -l)" -eq 0 ]
result "without a GPU nothing is written" $?
ladder 0 --table
result "the counted table" $?
has "the counted table" docs/cuda.md '^| routing | 1. slow | 2532 | 107.2 | 0.906 | not measured yet | | | |$'
echo combine > "$tmp/broken"
ladder 1
result "a wrong rung without a GPU" $?
has "a wrong rung" "$tmp/seen" '^combine: WRONG (exit 1)'
has "the others go on" "$tmp/seen" '^attention: 1 checks right'
rm "$tmp/no_gpu"
ladder 1
result "a wrong rung on a GPU" $?
[ ! -f "$file" ] && grep -q 'not measured yet' docs/cuda.md
result "nothing is written for wrong rungs" $?
echo none > "$tmp/broken"
ladder 0 routing
result "one ladder" $?
[ ! -f "$file" ]
result "one ladder writes nothing" $?
ladder 0
result "on a GPU" $?
has "the raw output" "$file" 'commit abc1234, on NVIDIA Pretend 9000'
has "the raw output" "$file" '^time 1: 0.1234 ms'
has "the table" docs/cuda.md '^Measured on NVIDIA Pretend 9000, .*, commit abc1234'
has "the table" docs/cuda.md '^| attention | 1. slow | 2532 | 107.2 | 0.906 | 0.1234 | 868.7 | 7.3 | 20.26% |$'
touch "$tmp/no_gpu"
ladder 1 --table
result "figures that were measured stay" $?
ladder 2 nonsense
result "an unknown ladder" $?

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
