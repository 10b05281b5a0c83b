// Grades assignment 5, speed: each rung alone against a loop in double, on other shapes than those of the program; on a GPU
// also the time of the grouped kernel against a naive kernel and cuBLAS, both of this file. See grade.h.
#ifdef __NVCC__ // __CUDACPU__ is not known before the first header of CUDA
#define GRADE_SECONDS 120
#endif
#include "grade.h"
#undef fail // of check.h
#include <cublas_v2.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>
// What makes the host wait, or leaves the default stream, is counted: rung 5 may do neither. CUDA's headers have some of these
// names as macros, too.
static int grade_waits;
#define COUNTED(name) template <class... A> cudaError_t grade_##name(A... a) { grade_waits++; return name(a...); }
COUNTED(cudaMemcpy) COUNTED(cudaMemcpyAsync) COUNTED(cudaDeviceSynchronize) COUNTED(cudaStreamSynchronize)
COUNTED(cudaEventSynchronize) COUNTED(cudaStreamCreate) COUNTED(cudaStreamCreateWithFlags)
#undef cudaMemcpy
#undef cudaMemcpyAsync
#undef cudaDeviceSynchronize
#undef cudaStreamSynchronize
#undef cudaEventSynchronize
#undef cudaStreamCreate
#undef cudaStreamCreateWithFlags
#define cudaMemcpy grade_cudaMemcpy
#define cudaMemcpyAsync grade_cudaMemcpyAsync
#define cudaDeviceSynchronize grade_cudaDeviceSynchronize
#define cudaStreamSynchronize grade_cudaStreamSynchronize
#define cudaEventSynchronize grade_cudaEventSynchronize
#define cudaStreamCreate grade_cudaStreamCreate
#define cudaStreamCreateWithFlags grade_cudaStreamCreateWithFlags
#define main ladder_main
#include SRC
#undef main

#define FASTER 3.0   // a5.q5: times as fast as naive
#define TENSOR 12.0  // a5.q6: the same
#define SMALL 1.0    // a5.q7: time of cuBLAS, called for each of many small experts, over that of one launch
#define LARGE 0.1    // a5.q8: the same for few large experts

#ifdef CUDACPU_CHECK
#define EDGE 0 // check mode sees an access behind the end by itself
#else
#define EDGE 256
#endif

static void need(cudaError_t e) { GRADE_REQUIRE(e == cudaSuccess, "CUDA: %s", cudaGetErrorString(e)); }

static const Shape grade_shapes[] = {{70, 24, 4, 40, 0, SOME}, {150, 72, 2, 130, 0, ONE_FOR_ALL}, {129, 8, 5, 7, 0, SKEWED},
    {1, 32, 3, 65, 0, ONE_FOR_ALL}, {200, 40, 1, 17, 0, ONE_FOR_ALL}, {128, 24, 1, 40, 0, ONE_FOR_ALL}, {20, 16, 3, 16, 0, NONE}};

static void right(void (*rung)(const Shape*), int grouped, int tensor_cores) { // grouped: one launch, counts known to the device
    for (size_t j = 0; j < sizeof grade_shapes / sizeof grade_shapes[0]; j++) {
        Shape s = grade_shapes[j];
        random_state = grade.seed * 977 + j;
        setup(&s); // of the program: xr, W, count, offset on both sides
        int R = offset[s.E], C = s.C, H = s.H, rows_of_expert[64];
        for (int e = 0; e < s.E; e++) { rows_of_expert[e] = count[e]; if (grouped) { count[e] = 0; } }
        for (int e = 0; e < s.E; e++) { // NaN in the padding of xr
            size_t end = (size_t)(offset[e] + rows_of_expert[e]) * C, next = (size_t)offset[e + 1] * C;
            if (next > end) { need(cudaMemset(dx + end, 0xff, (next - end) * sizeof(bf16))); }
        }
        size_t n = (size_t)R * H;
        unsigned char edge[EDGE + 1];
        need(cudaMalloc(&dout, n * sizeof(bf16) + EDGE + 1));
        if (EDGE) { need(cudaMemset(dout, 0xff, n * sizeof(bf16) + EDGE)); } // NaN
        grade_waits = 0;
#ifdef __CUDACPU__
        cudacpu::totals before = cudacpu::done;
#endif
        rung(&s);
        need(cudaGetLastError());
        GRADE_REQUIRE(!grouped || grade_waits == 0, "the host waits or copies, or makes a stream: %d calls", grade_waits);
#ifdef __CUDACPU__
        int launches = (int)(cudacpu::done.launches - before.launches), mma = (int)(cudacpu::done.mma - before.mma), least = 0;
        GRADE_REQUIRE(!grouped || launches == (R > 0), "%d launches for all experts", launches);
        for (int e = 0; e < s.E; e++) { least += (rows_of_expert[e] + 15) / 16 * ((H + 7) / 8) * ((C + 15) / 16); }
        GRADE_REQUIRE(!tensor_cores || mma >= least, "%d products on tensor cores, at least %d are needed", mma, least);
#else
        (void)tensor_cores;
#endif
        need(cudaDeviceSynchronize());
        bf16* got = (bf16*)grade_memory(n * sizeof(bf16) + 1);
        for (int e = 0; e < s.E; e++) {
            size_t begin = (size_t)offset[e] * H, bytes = (size_t)rows_of_expert[e] * H * sizeof(bf16);
            if (bytes > 0) { need(cudaMemcpy(got + begin, dout + begin, bytes, cudaMemcpyDeviceToHost)); }
            for (int i = offset[e]; i < offset[e] + rows_of_expert[e]; i++) {
                for (int h = 0; h < H; h++) {
                    double want = 0.0, size = 0.0, is = (double)__bfloat162float(got[(size_t)i * H + h]);
                    for (int c = 0; c < C; c++) {
                        double a = __bfloat162float(x[(size_t)i * C + c]); // value is for the device
                        a *= __bfloat162float(W[((size_t)e * H + h) * C + c]);
                        want += a;
                        size += fabs(a);
                    }
                    GRADE_REQUIRE(fabs(is - want) <= fabs(want) / 256 + C * 6e-8 * size,
                                  "C %d, H %d, expert %d, row %d of %d: out[%d] is %g, "
                                  "expected %g", C, H, e, i - offset[e], rows_of_expert[e], h, is, want);
                }
            }
        }
        need(cudaMemcpy(edge, (char*)dout + n * sizeof(bf16), EDGE, cudaMemcpyDeviceToHost));
        for (int i = 0; i < EDGE; i++) { GRADE_REQUIRE(edge[i] == 0xff, "out: written behind its end"); }
    }
    GRADE_PASS();
}

GRADE(tiles) { right(rung2, 0, 0); }
GRADE(registers) { right(rung3, 0, 0); }
GRADE(tensor) { right(rung4, 0, 1); }
GRADE(grouped) { right(rung5, 1, 1); }

#ifndef __CUDACPU__
__global__ void grade_naive(bf16* out, const bf16* xr, const bf16* weights, int rows, int C, int H) {
    int r = blockIdx.y * 16 + threadIdx.y, h = blockIdx.x * 16 + threadIdx.x;
    float sum = 0.0f;
    if (r >= rows || h >= H) { return; }
    for (int c = 0; c < C; c++) { sum += __bfloat162float(xr[(size_t)r * C + c]) * __bfloat162float(weights[(size_t)h * C + c]); }
    out[(size_t)r * H + h] = __float2bfloat16(sum);
}
static int grade_rows[64];
static cublasHandle_t grade_cublas;
static void grade_each(const Shape* s, int how) { // 0: naive, 1: cuBLAS, for each expert with rows
    const float one = 1.0f, zero = 0.0f;
    for (int e = 0; e < s->E; e++) {
        int n = grade_rows[e], C = s->C, H = s->H;
        bf16 *o = dout + (size_t)offset[e] * H, *a = dx + (size_t)offset[e] * C, *w = dW + (size_t)e * H * C;
        if (n == 0) { continue; }
        if (how == 0) { grade_naive<<<dim3((H + 15) / 16, (n + 15) / 16), dim3(16, 16)>>>(o, a, w, n, C, H); continue; }
        GRADE_REQUIRE(cublasGemmEx(grade_cublas, CUBLAS_OP_T, CUBLAS_OP_N, H, n, C, &one, w, CUDA_R_16BF, C, a, CUDA_R_16BF, C,
                                   &zero, o, CUDA_R_16BF, H, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT) == CUBLAS_STATUS_SUCCESS,
                      "cuBLAS failed");
    }
}
static void grade_run(const Shape* s, int what) { if (what == 2) { rung5(s); } else { grade_each(s, what); } }

static void times(double* naive, double* library, double* mine, Shape s) { // medians, ms
    enum { RUNS = 11, WARM = 3 };
    static float ms[3][RUNS];
    double* to[3] = {naive, library, mine};
    size_t flush = (size_t)256 << 20, n;
    void* other;
    cudaEvent_t begin, end;
    random_state = grade.seed;
    setup(&s);
    for (int e = 0; e < s.E; e++) { grade_rows[e] = count[e]; }
    n = (size_t)offset[s.E] * s.H;
    need(cudaMalloc(&other, flush));
    need(cudaEventCreate(&begin));
    need(cudaEventCreate(&end));
    GRADE_REQUIRE(cublasCreate(&grade_cublas) == CUBLAS_STATUS_SUCCESS, "no cuBLAS");
    GRADE_REQUIRE(cublasSetStream(grade_cublas, cudaStreamPerThread) == CUBLAS_STATUS_SUCCESS, "no cuBLAS");
    bf16* result[3];
    for (int i = -WARM; i < RUNS; i++) {
        for (int what = 0; what < 3; what++) { // in turn: a slow moment of the machine meets all three
            need(cudaMemset(other, i & 255, flush));
            need(cudaEventRecord(begin, cudaStreamPerThread));
            grade_run(&s, what);
            need(cudaEventRecord(end, cudaStreamPerThread));
            need(cudaEventSynchronize(end));
            if (i >= 0) { need(cudaEventElapsedTime(&ms[what][i], begin, end)); }
        }
    }
    for (int what = 0; what < 3; what++) {
        qsort(ms[what], RUNS, sizeof(float), by_size);
        *to[what] = ms[what][RUNS / 2];
        need(cudaMemset(dout, 0xff, n * sizeof(bf16)));
        grade_run(&s, what);
        need(cudaDeviceSynchronize());
        result[what] = (bf16*)grade_memory(n * sizeof(bf16));
        need(cudaMemcpy(result[what], dout, n * sizeof(bf16), cudaMemcpyDeviceToHost));
    }
    for (int e = 0; e < s.E; e++) { // two roundings to bf16, and sums of C products of numbers below 1
        for (size_t i = (size_t)offset[e] * s.H; i < (size_t)(offset[e] + grade_rows[e]) * s.H; i++) {
            double a = __bfloat162float(result[1][i]), b = __bfloat162float(result[2][i]);
            GRADE_REQUIRE(fabs(a - b) <= fabs(a) / 64 + 1e-3, "at the timed shape out[%zu] is %g, cuBLAS says %g", i, b, a);
        }
    }
}

static void faster(int what, double least) { // what: 0 naive, 1 cuBLAS at the large shape, 2 cuBLAS at the small one
    Shape large = {16384, 768, 8, 3072, 0, SOME}, small = {1024, 256, 32, 512, 0, SOME};
    double naive, library, mine;
    times(&naive, &library, &mine, what == 2 ? small : large);
    double ratio = (what == 0 ? naive : library) / mine;
    GRADE_REQUIRE(ratio >= least, "yours %.3f ms, %s %.3f ms: %.2f times, at least %.2f is asked for", mine,
                  what == 0 ? "naive" : "cuBLAS", what == 0 ? naive : library, ratio, least);
    GRADE_PASS();
}
GRADE(faster_than_naive) { faster(0, FASTER); }
GRADE(with_tensor_cores) { faster(0, TENSOR); }
GRADE(small_experts) { faster(2, SMALL); }
GRADE(large_experts) { faster(1, LARGE); }
#endif

int main(int argc, char** argv) {
    grade_begin(argc, argv);
    grade_test("a5.q1", tiles);
    grade_test("a5.q2", registers);
    grade_test("a5.q3", tensor);
    grade_test("a5.q4", grouped);
#ifdef __CUDACPU__
    const char* measured[] = {"a5.q5", "a5.q6", "a5.q7", "a5.q8"};
    for (int i = 0; i < 4; i++) { grade_not_measured(measured[i], "no GPU"); }
#else
    grade_test("a5.q5", faster_than_naive);
    grade_test("a5.q6", with_tensor_cores);
    grade_test("a5.q7", small_experts);
    grade_test("a5.q8", large_experts);
#endif
    return grade_end();
}
