#!/bin/sh
# dev/gpu_report.sh and dev/ptxas_check.sh without a GPU: in a made-up project, with stand-ins for nvidia-smi, nvcc, make and
# compute-sanitizer, and the C program as the CUDA program. Ends with `N passed, N failed`.
# shellcheck disable=SC2016 # dollars in single quotes are meant: scripts
set -u
cd "$(dirname "$0")/.." || exit 1
root=$PWD
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
passed=0 failed=0
if ! command -v python3 > /dev/null; then echo "no python3: not tested"; exit 0; fi

. test/result.sh

stand_in() { # name, text of the script
    printf '#!/bin/sh\n%s\n' "$2" > "$tmp/bin/$1"
    chmod +x "$tmp/bin/$1"
}

mkdir -p "$tmp/bin" "$tmp/project/dev" "$tmp/project/data" "$tmp/project/test" "$tmp/project/docs"
cp "$root/dev/gpu_report.sh" "$root/dev/floors.py" "$root/dev/ptxas_check.sh" "$tmp/project/dev/"
cd "$tmp/project" || exit 1
stand_in nvidia-smi 'case "$*" in *name,driver*) echo "name, driver"; echo "NVIDIA Pretend 9000 SXM, 1" ;;
    *query-gpu=name*) echo "NVIDIA Pretend 9000 SXM" ;; *memory.used*) cat '"$tmp"'/used ;; *) exit 1 ;; esac'
stand_in nvcc 'echo "release 13.0"; echo "build x"'
stand_in make 'echo "make $*" >> '"$tmp"'/made; case "$*" in *"$(cat '"$tmp"'/broken)"*) echo "broken on purpose"; exit 2 ;; esac'
stand_in compute-sanitizer 'echo "$CK_RUN_CASE" >> '"$tmp"'/cases
[ "$CK_RUN_CASE" != "$(cat '"$tmp"'/broken)" ] || exit 9; echo "1 passed, 0 failed"'
stand_in no_python 'exit 1'
echo nothing-is > "$tmp/broken"
echo 100 > "$tmp/used"
printf '    TEST(flags)\n    TEST_BOTH(attention)\n    TEST(optimizer_and_rows)\n' > test/test_gpt2_dynmoe.cu
i=0
while [ $i -lt 3000 ]; do echo "line $i of some text, which is long enough to train on"; i=$((i + 1)); done \
    > data/languages_train.txt
# the CUDA program: the C program, out of memory above a batch of 2, which notes what it used; it has no --flash
cat > train_gpt2_dynmoe_cu <<END
#!/bin/sh
prev=
for a in "\$@"; do [ "\$prev" != --batch ] || batch=\$a; prev=\$a; done
if [ "\$batch" -gt "\$(cat $tmp/fits)" ]; then
    echo "error: no GPU memory for rows" >&2
    exit 1
fi
awk -v b="\$batch" -f $tmp/use.awk > $tmp/used
n=\$#
while [ \$n -gt 0 ]; do # what the C program does not have
    case \$1 in
        --streams | --graph | --flash) echo "\$1 \$2" >> $tmp/switches; shift 2; n=\$((n - 2)) ;;
        *) set -- "\$@" "\$1"; shift; n=\$((n - 1)) ;;
    esac
done
exec $root/train_gpt2_dynmoe --threads 1 "\$@"
END
chmod +x train_gpt2_dynmoe_cu
echo 'BEGIN { print 1000 + 100 * b }' > "$tmp/use.awk"
echo 2 > "$tmp/fits"

report() { # exit code wanted, then parts
    want=$1
    shift
    PATH="$tmp/bin:$PATH" PYTHON=no_python COMMIT=${commit:-abc1234} BATCH=${batch:-8} LAYERS=2 HEADS=2 CHANNELS=64 CONTEXT=16 \
        STEPS=11 EXPERTS=4 PART_SECONDS="${seconds:-100}" sh dev/gpu_report.sh "$@" > "$tmp/seen" 2>&1
    got=$?
    [ $got -eq "$want" ] || { echo "exit $got, wanted $want" >> "$tmp/seen"; return 1; }
}
has() { # what it shows, file, pattern
    grep -q -e "$3" "$2"
    result "$1: $3 in $2" $?
}
file="docs/results/$(date -u +%Y-%m-%d)-Pretend-9000-SXM.txt"

# no GPU
PATH=/usr/bin:/bin sh dev/gpu_report.sh > "$tmp/seen" 2>&1
[ $? -eq 1 ] && [ "$(wc -l < "$tmp/seen")" -eq 2 ] && [ ! -d out_gpu ]
result "without a GPU: one line, a hint, nothing written" $?
report 2 nonsense
result "an unknown part" $?
has "an unknown part" "$tmp/seen" "there is no part nonsense"

# parts that pass
report 0 machine build tests fixtures
result "parts that pass" $?
has "the report names commit and GPU" "$file" "commit abc1234, on NVIDIA Pretend 9000 SXM"
has "the report" "$file" "^==== machine, .*, commit abc1234, NVIDIA Pretend 9000 SXM"
has "what was not done is said" "$file" "^==== k2: not done"
has "the build" "$tmp/made" "ptxas"

# speed: the batch is halved until it fits; k is what was asked for, and the floor that of the log
if [ -x "$root/train_gpt2_dynmoe" ]; then
    report 0 dense k1.5 k2 top2 flash
    result "speed" $?
    has "the batch is halved" out_gpu/k2.txt "batch 4 does not fit"
    has "percent of the floor" out_gpu/k2.txt "^measured: .*% of floor, MFU"
    has "dense" out_gpu/dense.txt "0 of them DynMoE;"
    has "top-k is exact" out_gpu/top2.txt "pool of 4, k = 2;"
    report 0 top2-one-stream top2-graph
    [ "$(grep -v flash "$tmp/switches" | sort -u | tr '\n' ',')" = "--graph 1,--streams 1," ]
    result "the same on one stream, and with graphs" $?
    has "on one stream" out_gpu/top2-one-stream.txt "^measured: .*% of floor, MFU"
    has "with flash attention" out_gpu/flash.txt "^--flash 1: .*% of floor"
    has "and without" out_gpu/flash.txt "^--flash 0: .*% of floor"
    for k in 1.5 2; do
        sed -n 's/.*pool of 4, k = \([0-9.]*\);.*/\1/p' out_gpu/k$k.txt |
            awk -v k=$k '{ d = $1 - k; n++ } END { exit !(n == 1 && d < 0.15 && d > -0.15) }'
        result "k is near $k" $?
    done
    [ ! -f out_gpu/run/model.safetensors ]
    result "no checkpoint is kept" $?
    # done parts are left alone, unless named or of another commit
    before=$(cksum < out_gpu/k2.txt)
    echo 0 > "$tmp/fits"
    report 1
    has "a part that is done is not done again" "$tmp/seen" "^k2: done"
    has "others are" "$tmp/seen" "^==== top-any"
    has "a failed part is said" "$tmp/seen" "^top-any FAILED (exit 1"
    has "and stands in the report" "$file" "^top-any FAILED"
    [ "$before" = "$(cksum < out_gpu/k2.txt)" ] && [ ! -f out_gpu/top-any.txt ]
    result "state of done and failed parts" $?
    report 1 k2
    result "a named part is done again" $?
    echo 99 > "$tmp/fits"
    report 0 k2 top-any
    result "and passes once it can" $?
    [ ! -f out_gpu/top-any.failed ]
    result "its failure is forgotten" $?
    commit=def5678 report 1 # dense, of another commit, is done again
    has "another commit does all again" "$tmp/seen" "^==== dense"
    batch=32 report 0 memory
    result "memory that is linear in tokens" $?
    echo 'BEGIN { print 1000 + 100 * b * b }' > "$tmp/use.awk"
    batch=32 report 1 memory
    result "memory that is quadratic" $?
    has "memory that is quadratic" out_gpu/memory.failed "times the first"
fi

# what fails makes the part and the script fail
echo test-cuda > "$tmp/broken"
report 1 tests
result "a failing make" $?
has "a failing make" out_gpu/tests.failed "broken on purpose"
echo attention_bf16 > "$tmp/broken"
report 1 memcheck
result "a failing checker" $?
has "a failing checker" out_gpu/memcheck.failed "memcheck test/test_cuda attention_bf16: FAILED"
echo nothing-is > "$tmp/broken"
report 0 racecheck
result "a clean checker" $?
has "every kernel is checked" out_gpu/racecheck.txt "^racecheck: 3 tests, 0 failed"
report 0 peer micro
result "no PyTorch" $?
has "no PyTorch" out_gpu/peer.txt "NOT MEASURED: no PyTorch"
stand_in make 'sleep 20'
seconds=1 report 1 fixtures
result "a part that takes too long" $?
has "a part that takes too long" out_gpu/fixtures.failed "FAILED (exit 124"

# dev/ptxas_check.sh reads what ptxas says: a clean kernel, a stack, a spill, an error
stand_in nvcc 'for k in _Z4finePf _Z3badPf; do
echo "ptxas info    : Compiling entry function '"'"'$k'"'"' for '"'"'sm_90'"'"'" >&2
echo "ptxas info    : Function properties for $k" >&2
case $k in *bad*) cat '"$tmp"'/properties >&2 ;;
*) echo "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" >&2 ;; esac
echo "ptxas info    : Used 40 registers, used 1 barriers, 2048 bytes smem, 400 bytes cmem[0]" >&2
done; exit $(cat '"$tmp"'/status)'
echo > a.cu
for row in "0 0 0 0 0" "1 160 0 0 0" "1 0 8 0 0" "1 0 0 8 0" "1 0 0 0 2"; do
    # shellcheck disable=SC2086
    set -- $row
    echo "    $2 bytes stack frame, $3 bytes spill stores, $4 bytes spill loads" > "$tmp/properties"
    echo "$5" > "$tmp/status"
    NVCC="$tmp/bin/nvcc" sh dev/ptxas_check.sh a.cu > "$tmp/seen" 2>&1
    [ $? -eq "$1" ]
    result "ptxas_check: stack $2, spills $3 and $4, nvcc exits $5" $?
    [ "$5" != 0 ] || has "ptxas_check" "$tmp/seen" "^fine  *40  *2048  *0 / *0  *0$"
done

# --mix counts instructions in the PTX: widths of loads, mma; a flash kernel without mma is an error
cat > "$tmp/ptx" <<'END'
.visible .entry _Z20flash_forward_kernelPf(
	.param .u64 p
)
{
	ld.global.v4.f32 {%f1, %f2, %f3, %f4}, [%rd1];
	@%p1 ld.global.u16 %rs1, [%rd1];
	ld.global.nc.f64 %fd1, [%rd1];
	fma.rn.f32 %f5, %f1, %f2, %f3;
	mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f1}, {%r1}, {%r2}, {%f1};
	bar.sync 	0;
	st.global.v2.f32 [%rd1], {%f1, %f2};
	ret;
}
.visible .entry _Z4finePf(
)
{
	ex2.approx.ftz.f32 %f1, %f2;
	st.local.f32 [%rd1], %f1;
}
END
stand_in nvcc 'echo "ptxas info    : Function properties for _Z4finePf" >&2
while [ $# -gt 1 ]; do case $1 in -ptx) cp '"$tmp"'/ptx "$3" ;; esac; shift; done
echo "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" >&2
echo "ptxas info    : Used 40 registers, used 1 barriers" >&2'
ARCHS=90 NVCC="$tmp/bin/nvcc" sh dev/ptxas_check.sh --mix a.cu > "$tmp/seen" 2>&1
result "ptxas_check --mix" $?
has "mix" "$tmp/seen" "^flash_forward_kernel  *1  *1  *0  *0  *1  *0  *1  *1  *0  *0  *1  *0  *0  *0  *1$"
has "mix" "$tmp/seen" "^fine  *0  *0  *1  *0 .* <-- local memory$"
sed -i.old '/mma.sync/d' "$tmp/ptx"
ARCHS=90 NVCC="$tmp/bin/nvcc" sh dev/ptxas_check.sh --mix a.cu > "$tmp/seen" 2>&1
[ $? -eq 1 ] && grep -q 'a flash kernel without mma' "$tmp/seen"
result "a flash kernel without mma" $?

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
