// What is known about CUDA, checked: each line of output is ok or FAILED, and the exit code says whether all were ok.
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
#include <cublasLt.h>
#include <cublas_v2.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
namespace cg = cooperative_groups;

static int failures;
static void check(bool ok, const char* what) {
    failures += !ok;
    printf("%-7s %s\n", ok ? "ok" : "FAILED", what);
}
template <class T> static T* device(const T* host, int n) { // a copy on the device
    T* p;
    cudaMalloc(&p, n * sizeof(T));
    if (host != NULL) { cudaMemcpy(p, host, n * sizeof(T), cudaMemcpyHostToDevice); } else { cudaMemset(p, 0, n * sizeof(T)); }
    return p;
}
template <class T> static void fetch(T* host, T* p, int n) { // and back
    cudaMemcpy(host, p, n * sizeof(T), cudaMemcpyDeviceToHost);
    cudaFree(p);
}

// ----------------------------------------------------------------------------------------------------------------------
// Kernels

__device__ float warp_sum(float v) {
    for (int o = 16; o > 0; o /= 2) { v += __shfl_xor_sync(0xffffffffu, v, o); }
    return v;
}
template <int BLOCK> __global__ void block_sum(const float* x, float* out, int n) {
    __shared__ float sums[32];
    float v = 0.0f;
    for (int i = threadIdx.x; i < n; i += BLOCK) { v += x[i]; }
    v = warp_sum(v);
    if (threadIdx.x % 32 == 0) { sums[threadIdx.x / 32] = v; }
    __syncthreads();
    if (threadIdx.x >= 32) { return; } // whoever has returned is not waited for
    v = warp_sum(threadIdx.x < BLOCK / 32 ? sums[threadIdx.x] : 0.0f);
    if (threadIdx.x == 0) { *out = v; }
}
__global__ void reverse(int* d, int n) {
    extern __shared__ int all[];
    all[threadIdx.x] = d[threadIdx.x];
    __syncthreads();
    d[threadIdx.x] = all[n - 1 - threadIdx.x];
}
__global__ void indices(int* out) { // (2, 3, 2) threads in (2, 2) blocks
    int t = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z), b = blockIdx.x + gridDim.x * blockIdx.y;
    out[b * 12 + t] = b * 100 + t;
}
__global__ void shuffles(int* out) {
    int l = threadIdx.x;
    out[l] = __shfl_up_sync(~0u, l, 1);
    out[32 + l] = __shfl_down_sync(~0u, l, 1);
    out[64 + l] = __shfl_sync(~0u, l, 3, 8);
    out[96 + l] = (int)__ballot_sync(~0u, l % 3 == 0);
    out[128 + l] = __any_sync(~0u, l == 5) * 10 + __all_sync(~0u, l < 31);
    out[160 + l] = l < 16 ? __shfl_xor_sync(0x0000ffffu, l, 1) : __shfl_xor_sync(0xffff0000u, l, 2); // two groups at a time
    out[192 + l] = __reduce_max_sync(~0u, l * 7 % 32);
    out[224 + l] = __shfl_xor_sync(~0u, l, 9, 8); // beyond its group: itself, or a lower group
}
__global__ void votes(int* out) {
    int even = __syncthreads_count(threadIdx.x % 2 == 0);
    out[threadIdx.x] = even * 10 + __syncthreads_or(threadIdx.x == 7);
}
__global__ void tiles(float* out) {
    auto block = cg::this_thread_block();
    auto tile = cg::tiled_partition<8>(block);
    out[block.thread_rank()] = cg::reduce(tile, (float)block.thread_rank(), cg::plus<float>());
}
__device__ int counter;
__constant__ int limit;
__global__ void atomics(int* out, float* sum, unsigned* ring) {
    int mine = atomicAdd(&counter, 1);
    if (mine < limit) { atomicMax(&out[0], mine); }
    atomicAdd(sum, 0.5f);
    atomicInc(ring, 2u);
    atomicCAS(&out[1], 0, 42);
    atomicOr((unsigned*)&out[2], 1u << (threadIdx.x % 8));
}
__global__ void spin(volatile int* flag, int* out) { // waits for a thread of its own block
    if (threadIdx.x == 0) {
        while (*flag == 0) { __nanosleep(20); }
        *out = 1;
    } else if (threadIdx.x == blockDim.x - 1) { *flag = 1; }
}
struct Two { int a; float b; };
__global__ void by_value(Two t, const int* nothing, float* out) { out[0] = nothing == NULL ? (float)t.a + t.b : -1.0f; }
template <typename T> __global__ void scale(T* x, float by, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) { x[i] = (T)((float)x[i] * by); }
}
#define LAUNCH(kernel, grid, block, ...) kernel<<<grid, block>>>(__VA_ARGS__)

// ----------------------------------------------------------------------------------------------------------------------
// Checks

static void check_kernels() {
    float x[1000], sum;
    int d[64], ids[48], s[256], right = 1;
    for (int i = 0; i < 1000; i++) { x[i] = (float)i; }
    float *dx = device(x, 1000), *dsum = device((float*)NULL, 1);
    block_sum<256><<<1, 256>>>(dx, dsum, 1000);
    cudaMemcpy(&sum, dsum, sizeof sum, cudaMemcpyDeviceToHost);
    check(sum == 499500.0f, "shuffles and shared memory add up a block, with threads that have returned");
    LAUNCH(scale, dim3(8), 128, dx, 2.0f, 1000);
    block_sum<1024><<<dim3(1), dim3(1024)>>>(dx, dsum, 1000);
    cudaFree(dx);
    fetch(&sum, dsum, 1);
    check(sum == 999000.0f, "launches within macros, of templates, with deduced arguments");
    for (int i = 0; i < 64; i++) { d[i] = i; }
    int* dd = device(d, 64);
    reverse<<<1, 64, 64 * sizeof(int)>>>(dd, 64);
    fetch(d, dd, 64);
    for (int i = 0; i < 64; i++) { right &= d[i] == 63 - i; }
    check(right, "dynamic shared memory");
    int* di = device((int*)NULL, 48);
    indices<<<dim3(2, 2), dim3(2, 3, 2)>>>(di);
    fetch(ids, di, 48);
    for (int i = 0; i < 48; i++) { right &= ids[i] == i / 12 * 100 + i % 12; }
    check(right, "threadIdx and blockIdx in three dimensions");
    int* ds = device((int*)NULL, 256);
    shuffles<<<1, 32>>>(ds);
    fetch(s, ds, 256);
    check(s[0] == 0 && s[31] == 30 && s[32] == 1 && s[63] == 31 && s[64 + 9] == 11, "__shfl_up, __shfl_down, __shfl with a width");
    check((unsigned)s[96] == 0x49249249u && s[128] == 10, "__ballot, __any, __all");
    check(s[160] == 1 && s[160 + 16] == 18 && s[192] == 31, "two masks of a warp at a time, __reduce_max");
    check(s[224] == 0 && s[224 + 9] == 0, "__shfl_xor beyond its group");
    ds = device((int*)NULL, 64);
    votes<<<1, 64>>>(ds);
    fetch(s, ds, 64);
    check(s[0] == 321 && s[63] == 321, "__syncthreads_count, __syncthreads_or");
    float *dt = device((float*)NULL, 64), t[64];
    tiles<<<1, 64>>>(dt);
    fetch(t, dt, 64);
    check(t[0] == 28.0f && t[63] == 476.0f, "cooperative groups: tiles and reduce");
}

static void check_atomics() {
    int out[3], ten = 10, count;
    unsigned ring;
    float sum;
    cudaMemcpyToSymbol(limit, &ten, sizeof ten);
    int* d = device((int*)NULL, 3);
    float* ds = device((float*)NULL, 1);
    unsigned* dr = device((unsigned*)NULL, 1);
    atomics<<<4, 32>>>(d, ds, dr);
    cudaMemcpyFromSymbol(&count, counter, sizeof count);
    fetch(out, d, 3);
    fetch(&sum, ds, 1);
    fetch(&ring, dr, 1);
    check(count == 128 && out[0] == 9 && out[1] == 42 && out[2] == 255 && sum == 64.0f && ring == 128 % 3, "atomics");
    d = device((int*)NULL, 2);
    spin<<<1, 64>>>(d, d + 1);
    fetch(out, d, 2);
    check(out[1] == 1, "a thread that waits for another one of its block, with __nanosleep");
    float* df = device((float*)NULL, 1);
    by_value<<<1, 1>>>(Two{2, 0.5f}, NULL, df);
    fetch(&sum, df, 1);
    check(sum == 2.5f, "structs by value, NULL as an argument");
}

static void check_bf16() {
    check((float)__float2bfloat16_rn(1.00390625f) == 1.0f, "bf16 rounds halves to even");
    check((float)__float2bfloat16_rn(1.01171875f) == 1.015625f, "bf16 rounds halves to even, upwards");
    check(__bfloat16_as_ushort(__float2bfloat16(-2.0f)) == 0xc000, "bits of bf16");
    check(__bfloat162float(__hadd(__float2bfloat16(256.0f), __float2bfloat16(1.0f))) == 256.0f, "bf16 sums are rounded");
    check(isnan(__bfloat162float(__float2bfloat16(NAN))) && isinf(__bfloat162float(__float2bfloat16(3.4e38f))), "NaN and infinity");
    __nv_bfloat162 two = __floats2bfloat162_rn(1.5f, -3.0f);
    check(__low2float(two) == 1.5f && __bfloat1622float2(__hmul2(two, two)).y == 9.0f, "__nv_bfloat162");
}

static void check_runtime() {
    float *p, h[4] = {1, 2, 3, 4}, ms = -1.0f;
    cudaEvent_t start, end;
    cudaStream_t stream;
    size_t available, total;
    cudaMalloc(&p, 16);
    scale<<<1, 2048>>>(p, 1.0f, 4);
    check(cudaGetLastError() == cudaErrorInvalidConfiguration && cudaGetLastError() == cudaSuccess, "at most 1024 threads");
    scale<<<0, 32>>>(p, 1.0f, 4);
    check(cudaGetLastError() == cudaErrorInvalidConfiguration, "a grid of no blocks");
    scale<<<1, 32, 64 << 10>>>(p, 1.0f, 4);
    check(cudaGetLastError() == cudaErrorInvalidValue, "more than 48 KB of shared memory must be asked for");
    cudaFuncSetAttribute(scale<float>, cudaFuncAttributeMaxDynamicSharedMemorySize, 64 << 10);
    check(cudaGetLastError() == cudaSuccess, "asking for it");
    cudaStreamCreate(&stream);
    cudaEventCreate(&start);
    cudaEventCreate(&end);
    cudaMemcpyAsync(p, h, 16, cudaMemcpyHostToDevice, stream);
    cudaEventRecord(start, stream);
    scale<<<1, 32, 64 << 10, stream>>>(p, 3.0f, 4);
    cudaEventRecord(end, stream);
    cudaEventSynchronize(end);
    cudaEventElapsedTime(&ms, start, end);
    cudaMemcpyAsync(h, p, 16, cudaMemcpyDeviceToHost, stream);
    cudaStreamSynchronize(stream);
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    float factor = 2.0f;
    check(cudaStreamBeginCapture(0, cudaStreamCaptureModeGlobal) != cudaSuccess, "the default stream cannot be captured");
    cudaGetLastError();
    cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
    scale<<<1, 32, 0, stream>>>(p, factor, 4);
    cudaStreamEndCapture(stream, &graph);
    cudaGraphInstantiateWithFlags(&exec, graph, 0);
    cudaGraphDestroy(graph);
    factor = 100.0f;
    for (int i = 0; i < 3; i++) { cudaGraphLaunch(exec, stream); } // p was not scaled when that was captured
    cudaMemcpyAsync(h + 2, p + 2, 4, cudaMemcpyDeviceToHost, stream);
    cudaStreamSynchronize(stream);
    cudaGraphExecDestroy(exec);
    check(cudaGetLastError() == cudaSuccess && h[2] == 9.0f * 8.0f, "a captured graph");
    cudaEventDestroy(start);
    cudaEventDestroy(end);
    cudaStreamDestroy(stream);
    cudaFree(NULL);
    check(cudaGetLastError() == cudaSuccess && h[3] == 12.0f && ms >= 0.0f, "streams, events, asynchronous copies");
    check(cudaMemcpy(p, h, 20, cudaMemcpyHostToDevice) == cudaErrorInvalidValue, "a copy past the end is refused");
    cudaFree(p);
    check(cudaMalloc(&p, (size_t)1 << 50) == cudaErrorMemoryAllocation && p == NULL, "out of memory");
    cudaGetLastError();
    cudaMemGetInfo(&available, &total);
    check(available <= total && total > 0 && cudaSetDevice(1) == cudaErrorInvalidDevice, "one device, with memory");
    check(strcmp(cudaGetErrorString(cudaErrorMemoryAllocation), "out of memory") == 0, "error strings");
}

// the same products by loops, column-major: out (m, n) = op(a) op(b)
static float dot(const float* a, bool ta, int lda, const float* b, bool tb, int ldb, int i, int j, int k) {
    float sum = 0.0f;
    for (int p = 0; p < k; p++) { sum += (ta ? a[i * lda + p] : a[p * lda + i]) * (tb ? b[p * ldb + j] : b[j * ldb + p]); }
    return sum;
}

static void check_cublas() {
    const int M = 5, N = 3, K = 4, B = 2;
    float a[M * K * B], b[K * N * B], c[M * N * B], old[M * N * B], alpha = 2.0f, beta = 0.5f;
    cublasHandle_t handle;
    for (int i = 0; i < M * K * B; i++) { a[i] = (float)(i * 7 % 11 - 5); }
    for (int i = 0; i < K * N * B; i++) { b[i] = (float)(i * 5 % 7 - 3); }
    for (int i = 0; i < M * N * B; i++) { old[i] = (float)(i % 4); }
    cublasCreate(&handle);
    for (int t = 0; t < 4; t++) {
        bool ta = t % 2 != 0, tb = t / 2 != 0, right = true;
        int lda = ta ? K : M, ldb = tb ? N : K;
        float *da = device(a, M * K * B), *db = device(b, K * N * B), *dc = device(old, M * N * B);
        cublasSgemmStridedBatched(handle, ta ? CUBLAS_OP_T : CUBLAS_OP_N, tb ? CUBLAS_OP_T : CUBLAS_OP_N, M, N, K, &alpha, da, lda,
                                  M * K, db, ldb, K * N, &beta, dc, M, M * N, B);
        fetch(c, dc, M * N * B);
        cudaFree(da);
        cudaFree(db);
        for (int i = 0; i < M * N * B; i++) {
            int batch = i / (M * N), row = i % M, column = i / M % N;
            float want = alpha * dot(a + batch * M * K, ta, lda, b + batch * K * N, tb, ldb, row, column, K) + beta * old[i];
            right &= c[i] == want;
        }
        check(right, t == 0 ? "cublasSgemmStridedBatched NN" : t == 1 ? "TN" : t == 2 ? "NT" : "TT");
    }
    float* da = device(a, M * K);
    cublasStatus_t status = cublasSgemm(handle, CUBLAS_OP_N, CUBLAS_OP_N, M, 1, K, &alpha, da, M - 1, da, K, &beta, da, M);
    check(status == CUBLAS_STATUS_INVALID_VALUE, "a leading dimension that is too small is refused");
    cudaFree(da);
    cublasDestroy(handle);
}

static float gelu(float x) { return 0.5f * x * (1.0f + tanhf(0.7978845608f * (x + 0.044715f * x * x * x))); }

template <class T> static void check_epilogues(cudaDataType type, float tolerance, const char* name) {
    const int M = 8, N = 4, K = 8; // D (M, N) = A (M, K) B (K, N)
    T a[M * K], b[K * N], bias[M], aux[M * N], d[M * N];
    float fa[M * K], fb[K * N], alpha = 1.0f, beta = 0.0f, worst = 0.0f;
    for (int i = 0; i < M * K; i++) { a[i] = (T)(fa[i] = (float)(i * 7 % 11 - 5) / 8.0f); }
    for (int i = 0; i < K * N; i++) { b[i] = (T)(fb[i] = (float)(i * 5 % 7 - 3) / 4.0f); }
    for (int i = 0; i < M; i++) { bias[i] = (T)((float)i / 4.0f); }
    const cublasLtEpilogue_t kinds[] = {CUBLASLT_EPILOGUE_DEFAULT, CUBLASLT_EPILOGUE_BIAS, CUBLASLT_EPILOGUE_GELU_BIAS,
        CUBLASLT_EPILOGUE_GELU_AUX_BIAS, CUBLASLT_EPILOGUE_DGELU, CUBLASLT_EPILOGUE_DGELU_BGRAD, CUBLASLT_EPILOGUE_BGRADA,
        CUBLASLT_EPILOGUE_BGRADB};
    cublasLtHandle_t handle;
    cublasLtCreate(&handle);
    for (cublasLtEpilogue_t e : kinds) {
        T *da = device(a, M * K), *db = device(b, K * N), *dbias = device(bias, M), *dd = device((T*)NULL, M * N);
        T* daux = device((T*)NULL, M * N);
        int64_t aux_ld = M;
        cublasLtMatmulDesc_t op;
        cublasLtMatrixLayout_t la, lb, ld;
        cublasLtMatmulDescCreate(&op, CUBLAS_COMPUTE_32F, CUDA_R_32F);
        cublasLtMatmulDescSetAttribute(op, CUBLASLT_MATMUL_DESC_EPILOGUE, &e, sizeof e);
        cublasLtMatmulDescSetAttribute(op, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &dbias, sizeof dbias);
        cublasLtMatmulDescSetAttribute(op, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &daux, sizeof daux);
        cublasLtMatmulDescSetAttribute(op, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &aux_ld, sizeof aux_ld);
        cublasLtMatrixLayoutCreate(&la, type, M, K, M);
        cublasLtMatrixLayoutCreate(&lb, type, K, N, K);
        cublasLtMatrixLayoutCreate(&ld, type, M, N, M);
        cublasStatus_t status = cublasLtMatmul(handle, op, &alpha, da, la, db, lb, &beta, dd, ld, dd, ld, NULL, NULL, 0, 0);
        T got_bias[M];
        fetch(d, dd, M * N);
        fetch(aux, daux, M * N);
        fetch(got_bias, dbias, M);
        cudaFree(da);
        cudaFree(db);
        cublasLtMatrixLayoutDestroy(la);
        cublasLtMatrixLayoutDestroy(lb);
        cublasLtMatrixLayoutDestroy(ld);
        cublasLtMatmulDescDestroy(op);
        float rows[M] = {}, sums_a[M] = {}, sums_b[N] = {};
        for (int i = 0; i < M * N; i++) {
            float x = dot(fa, false, M, fb, false, K, i % M, i / M, K), want = x;
            if (e == CUBLASLT_EPILOGUE_BIAS || e == CUBLASLT_EPILOGUE_GELU_BIAS || e == CUBLASLT_EPILOGUE_GELU_AUX_BIAS) {
                want = x + (float)(i % M) / 4.0f;
            }
            if (e == CUBLASLT_EPILOGUE_GELU_AUX_BIAS) { worst = fmaxf(worst, fabsf((float)aux[i] - want)); }
            if (e == CUBLASLT_EPILOGUE_GELU_BIAS || e == CUBLASLT_EPILOGUE_GELU_AUX_BIAS) { want = gelu(want); }
            if (e == CUBLASLT_EPILOGUE_DGELU || e == CUBLASLT_EPILOGUE_DGELU_BGRAD) { want = 0.5f * x; } // gelu'(0) = 1/2
            worst = fmaxf(worst, fabsf((float)d[i] - want));
            rows[i % M] += want;
        }
        for (int i = 0; i < M * K; i++) { sums_a[i % M] += fa[i]; }
        for (int i = 0; i < K * N; i++) { sums_b[i / K] += fb[i]; }
        for (int i = 0; i < M; i++) {
            float want = e == CUBLASLT_EPILOGUE_DGELU_BGRAD ? rows[i] : e == CUBLASLT_EPILOGUE_BGRADA ? sums_a[i]
                : e == CUBLASLT_EPILOGUE_BGRADB && i < N ? sums_b[i] : (float)i / 4.0f;
            worst = fmaxf(worst, fabsf((float)got_bias[i] - want));
        }
        if (status != CUBLAS_STATUS_SUCCESS) { worst = INFINITY; }
    }
    cublasLtDestroy(handle);
    check(worst <= tolerance, name);
}

int main() {
    check_kernels();
    check_atomics();
    check_bf16();
    check_runtime();
    check_cublas();
    check_epilogues<float>(CUDA_R_32F, 1e-5f, "epilogues of cublasLt, fp32");
    check_epilogues<__nv_bfloat16>(CUDA_R_16BF, 0.05f, "epilogues of cublasLt, bf16");
    printf("%d failures\n", failures);
    return failures > 0;
}
