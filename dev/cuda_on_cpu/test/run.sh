#!/bin/sh
# Tests the emulation of CUDA on the CPU.   dev/cuda_on_cpu/test/run.sh [--quick]
# Prints a line for each case, `ok` or `FAILED`, and at the end `N passed, N failed`. What cannot run here (no clang++, no CUDA
# headers, no nvcc, no gdb) is a line `skipped`, and counts as failed where CI=true. Builds into out.tmp beside this script.
# shellcheck disable=SC2046,SC2086,SC2034,SC2154,SC2181 # words are meant to be split; variables are used through eval
set -u
cd "$(dirname "$0")" || exit 1
quick=no
[ "${1:-}" != --quick ] || quick=yes
out=out.tmp
cc=../cudacpu-cc
mkdir -p $out
export CUDACPU_BUILD=$out/cache
passed=0 failed=0
unset CUDACPU_STREAMS CUDACPU_ORDER CUDACPU_SEED CUDACPU_COUNT CUDACPU_LEAKS CUDACPU_POISON CUDACPU_STACK
export OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1

ok() { passed=$((passed + 1)); echo "ok      $1"; }
bad() { # case, file with what was said
    failed=$((failed + 1))
    echo "FAILED  $1"
    [ -z "${2:-}" ] || tail -n 8 "$2" | sed 's/^/        /'
}
skip() { if [ "${CI:-}" = true ]; then bad "$1: skipped, and CI is set"; else echo "skipped $1"; fi; }
have() { command -v "$1" > /dev/null 2>&1; }
verdict() { # case, pattern: what was said must match
    if grep -q -e "$2" $out/said; then ok "$1"; else bad "$1" $out/said; fi
}
runs() { # case, command: it must succeed
    name=$1
    shift
    if "$@" > $out/said 2>&1; then ok "$name"; else bad "$name" $out/said; fi
}
build() { # program, mode, flags: $out/program-mode
    program=$1 mode=$2
    shift 2
    $cc $([ "$mode" = plain ] || echo "--$mode") -o "$out/$program-$mode" "$program.cu" "$@" > "$out/$program-$mode.log" 2>&1 ||
        bad "building $program, mode $mode" "$out/$program-$mode.log"
}

modes='plain asan'
if have clang++; then modes="$modes check"; else skip "check mode: there is no clang++ (dev/setup.sh installs it)"; fi
if [ $quick = yes ]; then modes=$(echo "$modes" | sed 's/asan //'); fi

# ---- builds, two at a time; the first of a mode builds the runtime ----------------------------------------------------

start=$(date +%s)
for mode in $modes; do build bugs "$mode"; done
for mode in $modes; do
    build smoke "$mode" -Wall -Wextra -Werror &
    build layers "$mode" -Wall -Wextra -Werror &
    wait
    [ $quick = yes ] || { build tc "$mode" & }
    build speed plain
    wait
done
echo "        (building took $(($(date +%s) - start)) s)"

# ---- the rewriter -----------------------------------------------------------------------------------------------------

cat > $out/line.cu << 'END'
#include <cuda_runtime.h>
__global__ void k(int* p, int n) {
    __shared__ int a[3][4], b;
    a[0][0] = b = n; p[0] = a[0][0];
}
int main() {
    int* p; cudaMalloc(&p, 4);
    k <<< dim3(1),
          1 >>>
      (p,
       2);
    static_assert(__LINE__ == 12, "");
    return undeclared;
}
END
$cc -o $out/line $out/line.cu > $out/said 2>&1
verdict "errors are reported at their line" 'line.cu:13:.*undeclared'
cat > $out/line.cu << 'END'
#include <cuda_bf16.h>
__global__ void k(int* p, int n) {
    __shared__ __align__(16) __nv_bfloat16 a[3][4], b[8]; __align__(8) __shared__ int c[2];
    __shared__
        __align__(16) int d[4]; static_assert(__LINE__ == 5, ""); undeclared1;
    a[2][3] = b[7] = n; c[1] = d[3] = n; p[0] = (float)a[2][3] + (float)b[7] + c[1] + d[3] + undeclared2;
}
int main() { static_assert(sizeof(int) == 4, ""); }
END
$cc -o $out/line $out/line.cu > $out/said 2>&1
verdict "__align__ brings linemarkers: the line behind it is right" 'line.cu:5:.*undeclared1'
verdict "and the next line, too" 'line.cu:6:.*undeclared2'
sed 's/undeclared1;//; s/ + undeclared2//' $out/line.cu > $out/align.cu
runs "__shared__ __align__(16) with two names" $cc -Wall -Wextra -Werror -o $out/align $out/align.cu
printf '#include <cuda_runtime.h>\nint main() {\n    <<<1, 1>>>(2);\n}\n' > $out/line.cu
$cc -o $out/line $out/line.cu > $out/said 2>&1
verdict "nonsense is refused" 'line.cu:3: error: cudacpu-pp'

# ---- what is known about CUDA; our headers against NVIDIA's -------------------------------------------------------------

for order in forward reverse random; do runs "smoke, $order" env CUDACPU_ORDER=$order $out/smoke-plain; done
for streams in late early turns; do runs "smoke, streams $streams" env CUDACPU_STREAMS=$streams $out/smoke-plain; done
for mode in $modes; do [ "$mode" = plain ] || runs "smoke, $mode" "$out/smoke-$mode"; done
runs "api with our headers" ${CXX:-g++} -std=c++17 -fsyntax-only -x c++ -I../include api.cu
cuda=''
for d in "${CUDA_HOME:-/usr/local/cuda}" /usr/local/cuda /usr; do
    [ -n "$cuda" ] || [ ! -f "$d/include/cublasLt.h" ] || cuda=$d/include
done
if [ -n "$cuda" ]; then runs "api with NVIDIA's headers" ${CXX:-g++} -std=c++17 -fsyntax-only -x c++ "-I$cuda" api.cu
else skip "api with NVIDIA's headers: there are none"; fi

# ---- layers: the same bits in all orders; no report; every missing barrier is noticed ---------------------------------

first=''
for order in forward reverse random/1 random/2; do
    CUDACPU_ORDER=${order%/*} CUDACPU_SEED=${order#*/} $out/layers-plain > $out/said 2>&1 || bad "layers, $order" $out/said
    hash=$(grep '^hash' $out/said)
    first=${first:-$hash}
    verdict "layers, $order: $first" "^${first:-no hash}\$"
done
case $modes in *asan*) runs "layers, asan" $out/layers-asan ;; esac
case $modes in *check*)
    runs "layers, check: no report" env CUDACPU_COUNT=1 $out/layers-check
    verdict "bytes counted: 70 x 48 floats in and out" 'transpose_kernel  *1\(  *13440\)\{6\}'
    step=1
    [ $quick = no ] || step=5
    for n in $(seq 1 $step "$($out/layers-plain 0)"); do
        $out/layers-check "$n" > $out/said 2>&1
        if [ $? = 86 ]; then ok "layers without barrier $n: $(grep -m 1 -o 'race.*\|uninit.*' $out/said | cut -c 1-60)"
        else bad "layers without barrier $n" $out/said; fi
    done ;;
esac

# ---- planted bugs: N|plain|asan|check|what: the words that the mode must say; - not seen by this mode -----------------

while IFS='|' read -r n plain asan check what; do
    [ $quick = no ] || case $n in 1|4|5|8|11|13|29|30|32) ;; *) continue ;; esac
    case $n in 29|31) streams=late ;; 30) streams=early ;; 32) streams=turns ;; *) streams= ;; esac
    for mode in $modes; do
        eval "words=\$$mode"
        [ "$words" != - ] || continue
        CUDACPU_LEAKS=$((n == 19)) CUDACPU_STREAMS=$streams CUDACPU_TIMEOUT=1 timeout 60 $out/bugs-$mode $n > $out/said 2>&1
        if [ $? = 0 ]; then bad "bug $n, $mode: $what" $out/said; else verdict "bug $n, $mode: $what" "$words"; fi
    done
done << 'END'
1|past the end of the 256-byte block|heap-buffer-overflow|out of bounds: 4-byte write, 0 bytes past|out of bounds, global
2|past the end of __shared__ s|out of bounds|past the end of __shared__ s|out of bounds, shared
3|no memory at|SEGV|past the end of __shared__ dynamic|out of bounds, dynamic shared
4|NaN in the output|NaN in the output|race: thread|missing barrier
5|divergent barrier: thread 0 waits at .*bugs.cu:35 .*bugs.cu:39|divergent barrier|divergent barrier|divergent barrier
6|deadlock|deadlock|deadlock|deadlock
7|NaN in the output|NaN in the output|uninitialised: .*__shared__ s|uninitialised, shared
8|NaN in the output|NaN in the output|uninitialised: 4-byte read of byte 0|uninitialised, global
9|-|-|host memory|host pointer in a kernel
10|misaligned access|misaligned address|-|misaligned float4
11|-|-|race between blocks|race between blocks
12|lane 8 is not in the mask|lane 8 is not in the mask|lane 8 is not in the mask|lane not in the mask
13|-|-|host code writes device memory|host writes device memory
14|integer division by zero|division by zero|integer division by zero|division by zero
15|stack of a CUDA thread is full|-|stack of a CUDA thread is full|stack overflow
16|goes past the end|goes past the end|goes past the end|cudaMemcpy past the end
17|invalid configuration|invalid configuration|invalid configuration|too many threads
18|NaN in the output|heap-use-after-free|cudaFree has freed|use after cudaFree
19|never freed: 100 bytes, allocated by run at bugs.cu:|never freed|never freed|leak
20|kernel endless, block (0,0,0), thread (0,0,0)|kernel endless|kernel endless|endless kernel
21|divergent warp: lane 1 is at __any_sync|divergent warp|divergent warp|different primitives in a warp
22|-|-|without a __threadfence|missing fence
23|NaN in the output|NaN in the output|race: thread|lanes in step assumed
24|-|-|write different values|lanes write different values
25|-|-|race: thread 31 reads|shared memory used again too early
26|kind of copy says host to device|kind of copy says|kind of copy says|cudaMemcpy in the wrong direction
27|invalid argument|invalid argument|invalid argument|too much shared memory
28|bias at .* is not aligned|bias at .* is not aligned|bias at .* is not aligned|a bias that cublasLt may not read
29|NaN in the output|NaN in the output|uninitialised: 4-byte read|a stream is not waited for
30|NaN in the output|NaN in the output|uninitialised: 4-byte read|a stream does not wait
31|two streams have the workspace|two streams have|two streams have|a workspace of two streams
32|NaN in the output|NaN in the output|NaN in the output|two streams share scratch memory
END
for streams in '' late early turns; do
    runs "streams that wait for each other, ${streams:-at once}" env CUDACPU_STREAMS=$streams $out/bugs-plain 33
done
for bug in 29 30 32; do runs "bug $bug does not show in the order of the calls" $out/bugs-plain $bug; done

# ---- the rest ---------------------------------------------------------------------------------------------------------

runs "speed: a barrier within 1000 ns" $out/speed-plain 1000
sed 's/^/        /' $out/said
if [ $quick = no ]; then
    for mode in $modes; do runs "tensor cores, $mode" "$out/tc-$mode"; done
    for order in reverse random; do runs "tensor cores, $order" env CUDACPU_ORDER=$order $out/tc-plain; done
    sed 's/copies_wait<1>();/copies_wait<2>();/' tc.cu > $out/tc_early.cu # waits for too little: reads what is not there yet
    case $modes in *check*)
        $cc --check -o $out/tc_early $out/tc_early.cu && $out/tc_early > $out/said 2>&1
        verdict "cp.async, read too early" 'uninitialised: 16-byte read of byte .* of __shared__ sa' ;;
    esac
    CUDACPU_BLAS=none CUDACPU_BUILD=$out/cache_no_blas $cc -o $out/smoke_no_blas smoke.cu > $out/said 2>&1
    runs "smoke, our own loops instead of OpenBLAS" $out/smoke_no_blas
    # a C program in a namespace, with OpenMP and BLAS, as the tests of the .cu programs have it
    sed -n '/^#include <[a-z/]*\.h>/p' ../../../train_gpt2_dynmoe.c | grep -v 'omp.h\|Accelerate\|cblas' > $out/ref.cu
    cat >> $out/ref.cu << 'END'
#include <omp.h>
#include <cuda_runtime.h>
#define TESTING
namespace ref {
#include "train_gpt2_dynmoe.c"
}
__global__ void k(float* o) { o[threadIdx.x] = (float)threadIdx.x; }
int main() {
    float *d, h[3], x[2] = {1, 2}, w[4] = {1, 2, 3, 4}, y[2];
    cudaMalloc(&d, sizeof h);
    k<<<1, 3>>>(d);
    cudaMemcpy(h, d, sizeof h, cudaMemcpyDeviceToHost);
    ref::matmul_forward(y, x, w, NULL, 1, 2, 2);
    return !(h[2] == 2 && y[0] == 5 && y[1] == 11);
}
END
    for mode in $modes; do
        $cc $([ "$mode" = plain ] || echo "--$mode") -o $out/ref-$mode $out/ref.cu -I../../.. -fopenmp > $out/said 2>&1
        runs "a C program in a namespace, with OpenMP, $mode" env ASAN_OPTIONS=detect_leaks=0 $out/ref-$mode
    done
    if have gdb; then
        gdb -nx -batch -ex 'source ../cudacpu.gdb' -ex 'break cudacpu_error' -ex 'run 6' -ex cuthreads -ex 'cubt 3' \
            $out/bugs-plain > $out/said 2>&1
        verdict "gdb: cuthreads" 'threads *16..31 *at __syncthreads, .*bugs.cu:'
        verdict "gdb: cubt" '#.* deadlock .*bugs.cu:'
    else skip "gdb: it is not there"; fi
    nvcc=$(command -v nvcc || ls /usr/local/cuda/bin/nvcc 2> /dev/null)
    if [ -n "$nvcc" ]; then
        for f in tc layers; do runs "nvcc compiles $f.cu" "$nvcc" -arch=sm_80 -std=c++17 -c -o $out/nvcc.o $f.cu; done
    else skip "nvcc: it is not there"; fi
fi
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
