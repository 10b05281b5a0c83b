/*
A vision transformer (ViT) whose feed-forward layers can be DynMoE layers, trained on one NVIDIA GPU.

DynMoE (Guo, Cheng, Tang, Tu, Lin: "Dynamic Mixture of Experts", ICLR 2025, arXiv 2405.14297): every patch of a picture picks its
own number of experts. Read train_gpt2_dynmoe.c first: it is the reference of the layer. What this file shares with
train_gpt2_dynmoe.cu is the same text, GPT2 read as ViT (make check-style compares it). What differs: pictures become tokens
(augmentation, patches, CLS token, learned positions), attention looks both ways, a classifier reads the CLS token, and the gate
may read the residual stream, each expert then with a LayerNorm of its own, as in the authors' ImageNet example.

    make train_vit_dynmoe                            builds for the GPU that is here
    ./train_vit_dynmoe --data FILE --out DIR         trains; --dtype bf16 (default where the GPU has it) or fp32
    make train-vit CUDA_ON_CPU=1                     runs this source without a GPU (docs/cuda_on_cpu.md)

The letters; (M..) is an equation of docs/math.md:
    B pictures in a batch, T = 1 + patches tokens of a picture, N = B*T tokens, C channels, K numbers in a patch,
    L layers, NH heads, HS = C/NH, H hidden width of an expert, E experts in the pool (active or not), S shared experts,
    R routed rows: one row for each pair (token, expert that it uses); here each expert's rows start at a multiple of 128.
floatX is what weights and activations are stored in: float or __nv_bfloat16. Always float: the gate (W, G, scores), sums in all
kernels and matrix products, gradients of parameters, Adam's moments, and the master copy of the parameters that AdamW updates.

Same seed, same GPU, same dtype: the same bits. No float atomics; every sum has a fixed order. Another GPU or another cuBLAS
rounds differently.

Caveats: one GPU (what ranks would have to sum passes through one function, comm_sum), which holds all pictures; attention keeps
its (T, T) matrices in fp32, and where heads do not have 64 channels (T is mostly odd, which leaves cuBLAS slower kernels in bf16);
contrast turns about 0.5, not about the mean of the picture.
*/
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <float.h>
#include <glob.h>
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <cublasLt.h>
#include <cublas_v2.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#ifdef __CUDACPU__
#include <cudacpu_ptx.h> // PTX instructions without a GPU
#endif
#ifndef COMMIT
#define COMMIT "unknown"
#endif
#define MAX_LAYERS 128
#define MAX_EXPERTS 64
#define CAUSAL 0 // a patch sees all the others

// ----------------------------------------------------------------------------------------------------------------------
// Tools: errors, memory, random numbers

// one clear line, what to do about it, the end: exit code 2 for a wrong command line, 1 for the rest
__attribute__((noreturn, format(printf, 3, 4))) void stop(int code, const char* hint, const char* fmt, ...) {
    va_list args;
    char line[2048]; // names and values may come from a damaged file: no control characters to the terminal
    va_start(args, fmt);
    vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    for (char* p = line; *p; p++) { if ((unsigned char)*p < 32 || *p == 127) { *p = '?'; } }
    fflush(stdout);
    fprintf(stderr, "error: %s\n---> HINT: %s\n", line, hint != NULL ? hint : "--help lists all flags");
    exit(code);
}
#define die(...) stop(1, __VA_ARGS__)
#define die_usage(...) stop(2, __VA_ARGS__)
#define require(ok, ...) do { if (!(ok)) { die(__VA_ARGS__); } } while (0) // else: hint, format, ...
#define require_usage(ok, ...) do { if (!(ok)) { die_usage(__VA_ARGS__); } } while (0)

void* alloc_zeroed(size_t n, size_t size, const char* what) { // n items of the given size, or one clear line
    void* p = calloc(n ? n : 1, size);
    require(p, "lower --batch, --channels or --experts", "no memory for %s (%.1f MB)", what, 1e-6 * (double)n * size);
    return p;
}

// xorshift64*: the state is one 64-bit number, never 0, so that it fits into a checkpoint
uint32_t random_u32(uint64_t* state) {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return (uint32_t)((*state * 0x2545F4914F6CDD1Dull) >> 32);
}

float random_f32(uint64_t* state) { return (float)(random_u32(state) >> 8) / 16777216.0f; } // in [0, 1)

double random_normal(uint64_t* state) { // Box-Muller
    double u = (random_u32(state) + 1.0) / 4294967296.0, v = random_u32(state) / 4294967296.0;
    return sqrt(-2.0 * log(u)) * cos(2.0 * 3.14159265358979323846 * v);
}

// one seed for everything: independent streams for the weights (0), augmentation (1) and the order of the pictures (3)
uint64_t random_stream(uint64_t seed, uint64_t stream) {
    uint64_t state = (seed * 4 + stream + 1) * 0x9E3779B97F4A7C15ull;
    for (int i = 0; i < 8; i++) { random_u32(&state); }
    return state;
}

double seconds_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

// ----------------------------------------------------------------------------------------------------------------------
// CUDA tools: checks, memory on the device, sums within a warp and a block, the two types behind floatX

void cuda_check(cudaError_t error, const char* file, int line) {
    require(error == cudaSuccess, "look at nvidia-smi; with too little memory lower --batch", "%s:%d: CUDA: %s", file,
            line, cudaGetErrorString(error));
}
#define CUDA(call) cuda_check(call, __FILE__, __LINE__)
#define LAUNCHED() cuda_check(cudaGetLastError(), __FILE__, __LINE__) // after each <<<>>>

void cublas_check(cublasStatus_t status, const char* file, int line) {
    require(status == CUBLAS_STATUS_SUCCESS, "is the GPU's memory full?", "%s:%d: cuBLAS: status %d", file, line, (int)status);
}
#define CUBLAS(call) cublas_check(call, __FILE__, __LINE__)

// What may run beside other work needs a stream, a handle of cuBLAS and memory for cuBLAS of its own: a queue. Everything runs on
// queue 0, but the experts of a layer, which are small and independent, are dealt out to queues 1 to expert_queues. Each expert is
// computed by the same calls whatever its queue: the bits do not depend on their number.
#define EXPERT_STREAMS 4
#define WORKSPACE_BYTES ((size_t)32 << 20)
typedef struct { cudaStream_t stream; cublasHandle_t cublas; void* workspace; cudaEvent_t event; } Queue;
static Queue queues[1 + EXPERT_STREAMS], *queue = queues; // made by gpu_start; the one on which work is started now
static int expert_queues = EXPERT_STREAMS;  // by --streams; 0: experts stay on queue 0, one after the other
static cublasLtHandle_t cublaslt;           // knows no stream: it is told with each call
#define WARP 32
#define BLOCK 256                   // threads of a block where nothing else is said: 8 warps

void* device_alloc(size_t n, size_t size, const char* what) { // n items of the given size, all zero, or one clear line
    void* p = NULL;
    cudaError_t error = cudaMalloc(&p, n * size > 0 ? n * size : 1);
    require(error == cudaSuccess, "lower --batch, --channels or --experts", "no GPU memory for %s (%.1f MB): %s", what,
            1e-6 * (double)n * (double)size, cudaGetErrorString(error));
    CUDA(cudaMemset(p, 0, n * size));
    return p;
}

void to_device(void* d, const void* h, size_t bytes) { CUDA(cudaMemcpy(d, h, bytes, cudaMemcpyHostToDevice)); }
void to_host(void* h, const void* d, size_t bytes) { CUDA(cudaMemcpy(h, d, bytes, cudaMemcpyDeviceToHost)); }

int blocks_for(size_t n, int per_block) { return (int)((n + (size_t)per_block - 1) / (size_t)per_block); } // to cover n

void queues_make(void) {
    // Queue 0 has the thread's default stream. That is where launches without a stream go, too: nvcc -default-stream per-thread.
    // The others wait for nobody but by the events of queues_fork and queues_join.
    for (int i = 0; i <= EXPERT_STREAMS; i++) {
        Queue* q = &queues[i];
        if (i == 0) { q->stream = cudaStreamPerThread; }
        else { CUDA(cudaStreamCreateWithFlags(&q->stream, cudaStreamNonBlocking)); }
        CUDA(cudaEventCreateWithFlags(&q->event, cudaEventDisableTiming));
        q->workspace = device_alloc(WORKSPACE_BYTES, 1, "cuBLAS");
        CUBLAS(cublasCreate(&q->cublas));
        CUBLAS(cublasSetStream(q->cublas, q->stream));
        CUBLAS(cublasSetWorkspace(q->cublas, q->workspace, WORKSPACE_BYTES)); // after the stream, which sets it back
    }
    CUBLAS(cublasLtCreate(&cublaslt));
}

void queues_fork(void) { // what is started on the other queues from now on waits for what was started on queue 0 before
    CUDA(cudaEventRecord(queues[0].event, queues[0].stream));
    for (int i = 1; i <= expert_queues; i++) { CUDA(cudaStreamWaitEvent(queues[i].stream, queues[0].event, 0)); }
}

void queues_join(void) { // back to queue 0; what is started there from now on waits for all queues
    queue = queues;
    for (int i = 1; i <= expert_queues; i++) {
        CUDA(cudaEventRecord(queues[i].event, queues[i].stream));
        CUDA(cudaStreamWaitEvent(queues[0].stream, queues[i].event, 0));
    }
}

typedef __nv_bfloat16 bf16;
__host__ __device__ inline float value(float x) { return x; }
__host__ __device__ inline float value(bf16 x) { return __bfloat162float(x); }
__host__ __device__ inline void store(float* p, float x) { *p = x; }
__host__ __device__ inline void store(bf16* p, float x) { *p = __float2bfloat16(x); }
inline cudaDataType_t type_of(const float*) { return CUDA_R_32F; }
inline cudaDataType_t type_of(const bf16*) { return CUDA_R_16BF; }

__device__ inline float warp_sum(float x) { // all lanes get the sum, added in the same order each time
    for (int o = WARP / 2; o > 0; o /= 2) { x += __shfl_xor_sync(0xffffffffu, x, o); }
    return x;
}

__device__ inline float warp_max(float x) {
    for (int o = WARP / 2; o > 0; o /= 2) { x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, o)); }
    return x;
}

__device__ inline double block_sum(double x) { // of a block of BLOCK threads; all threads get it
    __shared__ double sums[BLOCK];
    __syncthreads(); // of an earlier call
    sums[threadIdx.x] = x;
    for (unsigned half = BLOCK / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) { sums[threadIdx.x] += sums[threadIdx.x + half]; }
    }
    __syncthreads();
    return sums[0];
}

__device__ inline float block_max(float x) {
    __shared__ float maxima[BLOCK];
    __syncthreads();
    maxima[threadIdx.x] = x;
    for (unsigned half = BLOCK / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) { maxima[threadIdx.x] = fmaxf(maxima[threadIdx.x], maxima[threadIdx.x + half]); }
    }
    __syncthreads();
    return maxima[0];
}

// The row (or token, or whatever a warp works on) of this thread's warp, and its lane
__device__ inline int warp_index(void) { return (int)((blockIdx.x * blockDim.x + threadIdx.x) / WARP); }
__device__ inline int lane_index(void) { return (int)(threadIdx.x % WARP); }
#define WARPS(n) blocks_for((size_t)(n) * WARP, BLOCK), BLOCK // launch configuration: one warp for each of n

// ----------------------------------------------------------------------------------------------------------------------
// Matrix multiplication by cuBLAS. It thinks in columns: our row-major out (M, N) is its (N, M), so a and b change places.

template <typename A, typename Out>
void matmul(Out* out, const A* a, int ta, const A* b, int tb, int M, int N, int K, float alpha, float beta) {
    // out (M, N) = alpha op(a) op(b) + beta out; op(a) is (M, K): a, or with ta the transpose of a (K, M); op(b) (K, N) likewise
    if (M == 0 || N == 0) { return; }
    CUBLAS(cublasGemmEx(queue->cublas, tb ? CUBLAS_OP_T : CUBLAS_OP_N, ta ? CUBLAS_OP_T : CUBLAS_OP_N, N, M, K, &alpha, b,
                        type_of(b), tb ? K : N, a, type_of(a), ta ? M : K, &beta, out, type_of(out), N, CUBLAS_COMPUTE_32F,
                        CUBLAS_GEMM_DEFAULT));
}

template <typename floatX>
void matmul_batched(floatX* out, const floatX* a, int ta, const floatX* b, int tb, int M, int N, int K, float alpha, int batches) {
    // the same for matrices that lie behind each other, beta = 0
    float beta = 0.0f;
    CUBLAS(cublasGemmStridedBatchedEx(queue->cublas, tb ? CUBLAS_OP_T : CUBLAS_OP_N, ta ? CUBLAS_OP_T : CUBLAS_OP_N, N, M, K,
                                      &alpha, b, type_of(b), tb ? K : N, (long long)K * N, a, type_of(a), ta ? M : K,
                                      (long long)M * K, &beta, out, type_of(out), N, (long long)M * N, batches,
                                      CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
}

// What cublasLt has to be told of a product with an epilogue, and the algorithm that it chose. Kept, so that the host need not ask
// again for each product of each expert. Rows come in all numbers, so it is asked for the next multiple of PLAN_ROWS: what it
// chooses depends on nothing that happened before.
#define MAX_PLANS 256
#define PLAN_ROWS 128
enum { PLAN_M, PLAN_N, PLAN_K, PLAN_TB, PLAN_EPILOGUE, PLAN_TYPE, PLAN_KEY };
typedef struct {
    int key[PLAN_KEY], found;       // found 0: there is no algorithm
    cublasLtMatmulDesc_t op;
    cublasLtMatrixLayout_t A, B, D;
    cublasLtMatmulAlgo_t algo;
} Plan;
static Plan plans[MAX_PLANS];
static int plans_made; // the n-th stands in plans[n % MAX_PLANS]: a new one takes the place of the oldest

void plan_free(Plan* p) {
    cublasLtMatrixLayoutDestroy(p->A); cublasLtMatrixLayoutDestroy(p->B); cublasLtMatrixLayoutDestroy(p->D);
    cublasLtMatmulDescDestroy(p->op);
}

void plan_pointers(Plan* p, const void* bias, void* aux) { // where the epilogue's vector and matrix are
    if (bias != NULL) { CUBLAS(cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias)); }
    if (aux != NULL) { CUBLAS(cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &aux, sizeof aux)); }
}

void plan_make(Plan* p, const int* key, const void* bias, void* aux) {
    int M = key[PLAN_M], N = key[PLAN_N], K = key[PLAN_K], tb = key[PLAN_TB];
    cudaDataType_t type = (cudaDataType_t)key[PLAN_TYPE];
    cublasOperation_t trans = tb ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasLtEpilogue_t epilogue = (cublasLtEpilogue_t)key[PLAN_EPILOGUE];
    cublasLtMatmulPreference_t wish;
    cublasLtMatmulHeuristicResult_t best;
    int64_t aux_ld = N;
    uint64_t workspace = WORKSPACE_BYTES;
    uint32_t bytes = 16; // what all matrices are aligned to
    int found = 0;
    memcpy(p->key, key, sizeof p->key);
    CUBLAS(cublasLtMatmulDescCreate(&p->op, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    CUBLAS(cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_TRANSA, &trans, sizeof trans));
    CUBLAS(cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue));
    CUBLAS(cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &aux_ld, sizeof aux_ld));
    plan_pointers(p, bias, aux);
    CUBLAS(cublasLtMatrixLayoutCreate(&p->A, type, (uint64_t)(tb ? K : N), (uint64_t)(tb ? N : K), tb ? K : N));
    CUBLAS(cublasLtMatrixLayoutCreate(&p->B, type, (uint64_t)K, (uint64_t)M, K));
    CUBLAS(cublasLtMatrixLayoutCreate(&p->D, type, (uint64_t)N, (uint64_t)M, N));
    CUBLAS(cublasLtMatmulPreferenceCreate(&wish));
    CUBLAS(cublasLtMatmulPreferenceSetAttribute(wish, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace));
    CUBLAS(cublasLtMatmulPreferenceSetAttribute(wish, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &bytes, sizeof bytes));
    CUBLAS(cublasLtMatmulPreferenceSetAttribute(wish, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &bytes, sizeof bytes));
    CUBLAS(cublasLtMatmulPreferenceSetAttribute(wish, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &bytes, sizeof bytes));
    CUBLAS(cublasLtMatmulPreferenceSetAttribute(wish, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &bytes, sizeof bytes));
    cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(cublaslt, p->op, p->A, p->B, p->D, p->D, wish, 1, &best, &found);
    p->found = status == CUBLAS_STATUS_SUCCESS && found > 0;
    if (p->found) { p->algo = best.algo; }
    cublasLtMatmulPreferenceDestroy(wish);
}

Plan* plan_for(const int* key, const void* bias, void* aux) { // the one that is kept, or a new one
    for (int i = 0; i < plans_made && i < MAX_PLANS; i++) {
        if (memcmp(plans[i].key, key, sizeof plans[i].key) == 0) { return &plans[i]; }
    }
    Plan* p = &plans[plans_made % MAX_PLANS];
    if (plans_made >= MAX_PLANS) { plan_free(p); }
    plans_made++;
    plan_make(p, key, bias, aux);
    return p;
}

int aligned(const void* p) { return (uintptr_t)p % 16 == 0; } // NULL too

template <typename floatX>
int matmul_epilogue(floatX* out, const floatX* a, const floatX* b, int tb, int M, int N, int K, cublasLtEpilogue_t epilogue,
                    const floatX* bias, floatX* aux) {
    // out (M, N) = epilogue(a op(b)): BIAS adds bias (N); GELU_AUX_BIAS keeps the sum in aux (M, N) and takes gelu; DGELU
    // multiplies by gelu'(aux). Returns 0, without having done it, where cublasLt has no algorithm for these sizes.
    float alpha = 1.0f, beta = 0.0f;
    uint64_t columns = (uint64_t)M;
    if (M == 0 || N % 8 != 0 || K % 8 != 0) { return M == 0; } // its epilogues want rows of 16 bytes, and all that begins at 16
    if (!aligned(out) || !aligned(a) || !aligned(b) || !aligned(bias) || !aligned(aux)) { return 0; }
    const int key[PLAN_KEY] = {blocks_for((size_t)M, PLAN_ROWS) * PLAN_ROWS, N, K, tb, (int)epilogue, (int)type_of(out)};
    Plan* p = plan_for(key, bias, aux);
    if (!p->found) { return 0; }
    plan_pointers(p, bias, aux);
    CUBLAS(cublasLtMatrixLayoutSetAttribute(p->B, CUBLASLT_MATRIX_LAYOUT_COLS, &columns, sizeof columns));
    CUBLAS(cublasLtMatrixLayoutSetAttribute(p->D, CUBLASLT_MATRIX_LAYOUT_COLS, &columns, sizeof columns));
    cublasStatus_t status = cublasLtMatmul(cublaslt, p->op, &alpha, b, p->A, a, p->B, &beta, out, p->D, out, p->D, &p->algo,
                                           queue->workspace, WORKSPACE_BYTES, queue->stream);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED) { return 0; } // of this M
    CUBLAS(status);
    return 1;
}

template <typename floatX>
__global__ void copy_rows_kernel(floatX* out, const floatX* bias, size_t n, int OC) { // one thread for each number of out
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) { out[i] = bias[i % OC]; }
}

template <typename floatX>
void matmul_forward(floatX* out, const floatX* inp, const floatX* weight, const floatX* bias, int N, int C, int OC) {
    // inp (N, C), weight (OC, C), bias (OC) or NULL -> out (N, OC) = inp weight^T + bias
    if (N == 0) { return; }
    if (bias != NULL && matmul_epilogue(out, inp, weight, 1, N, OC, C, CUBLASLT_EPILOGUE_BIAS, bias, (floatX*)NULL)) { return; }
    if (bias != NULL) {
        copy_rows_kernel<<<blocks_for((size_t)N * OC, BLOCK), BLOCK, 0, queue->stream>>>(out, bias, (size_t)N * OC, OC);
        LAUNCHED();
    }
    matmul(out, inp, 0, weight, 1, N, OC, C, 1.0f, bias != NULL ? 1.0f : 0.0f); // (M1)
}

// Sums over rows, for gradients of vectors, in two steps and always in the same order: first each slab of SLAB rows, then those.
#define SLAB 256
int slabs_for(int N) { return blocks_for((size_t)N, SLAB); }

template <typename floatX>
__global__ void column_sums_kernel(float* partial, const floatX* x, int N, int C) {
    // x (N, C) -> partial (slabs, C). One block of (32, 8) threads for 32 columns and a slab; 8 rows at a time
    __shared__ float sums[8][WARP];
    int c = blockIdx.x * WARP + threadIdx.x, end = min(N, (int)(blockIdx.y + 1) * SLAB);
    float sum = 0.0f;
    for (int i = blockIdx.y * SLAB + threadIdx.y; c < C && i < end; i += 8) { sum += value(x[(size_t)i * C + c]); }
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || c >= C) { return; }
    for (int k = 1; k < 8; k++) { sum += sums[k][threadIdx.x]; }
    partial[(size_t)blockIdx.y * C + c] = sum;
}

__global__ void add_slabs_kernel(float* out, const float* partial, int slabs, int n) { // out (n) += sum of partial (slabs, n)
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    float sum = 0.0f;
    if (i >= n) { return; }
    for (int s = 0; s < slabs; s++) { sum += partial[(size_t)s * n + i]; }
    out[i] += sum;
}

void add_slabs(float* out, const float* partial, int slabs, int n) {
    add_slabs_kernel<<<blocks_for((size_t)n, BLOCK), BLOCK, 0, queue->stream>>>(out, partial, slabs, n);
    LAUNCHED();
}

template <typename floatX>
void column_sums_add(float* out, const floatX* x, float* scratch, int N, int C) { // out (C) += sum over the rows of x (N, C)
    if (N == 0) { return; }
    column_sums_kernel<<<dim3(blocks_for((size_t)C, WARP), slabs_for(N)), dim3(WARP, 8), 0, queue->stream>>>(scratch, x, N, C);
    LAUNCHED();
    add_slabs(out, scratch, slabs_for(N), C);
}

template <typename floatX>
void matmul_backward(floatX* dinp, float* dweight, float* dbias, const floatX* dout, const floatX* inp, const floatX* weight,
                     float* scratch, int N, int C, int OC) {
    // forward: out = inp weight^T + bias
    // dout (N, OC) -> dinp (N, C) overwritten; dweight (OC, C), dbias (OC) or NULL added
    if (N == 0) { return; }
    if (dinp != NULL) { matmul(dinp, dout, 0, weight, 0, N, C, OC, 1.0f, 0.0f); } // (M2)
    matmul(dweight, dout, 1, inp, 0, OC, C, N, 1.0f, 1.0f); // (M3)
    if (dbias != NULL) { column_sums_add(dbias, dout, scratch, N, OC); } // (M4)
}

// ----------------------------------------------------------------------------------------------------------------------
// From pictures to tokens: augmentation, patches, the CLS token, positions

#define MAX_PLANES 3                // planes of a picture: red, green, blue, or one of gray

typedef struct {                    // how one picture is looked at
    int picture;                    // its number in the set
    int dx, dy, flip;               // moved by pixels, black comes in from outside; flip: mirrored left to right
    float brightness, contrast, saturation; // factors, 1: as it is
} View;

typedef struct {                    // one item of a batch. Mixup (Zhang et al. 2018): lam of one picture and 1 - lam of another
    View view[2];
    int y[2];                       // their classes
    float lam;                      // 1: the first alone
} Item;

typedef struct { float mean[MAX_PLANES], std[MAX_PLANES]; } Norm; // of each plane over the training pictures, in 0 to 1

__device__ inline float clamp01(float x) { return fminf(fmaxf(x, 0.0f), 1.0f); }

__device__ inline float jitter(float x, const View* v) { return clamp01((clamp01(x * v->brightness) - 0.5f) * v->contrast + 0.5f); }

__device__ inline float of_plane(const float* x, int plane) { // x[plane], without an index, which would put x into memory
    return plane == 0 ? x[0] : plane == 1 ? x[1] : x[2];
}

__device__ inline float view_pixel(const unsigned char* pictures, const View* v, Norm norm, int plane, int row, int col, int size,
                                   int planes) {
    // one number of the picture as the model sees it: moved, mirrored, brightness, contrast about 0.5, saturation, normalised
    int r = row + v->dy, c = (v->flip ? size - 1 - col : col) + v->dx;
    const unsigned char* p = pictures + (size_t)v->picture * planes * size * size + (size_t)r * size + c;
    int inside = r >= 0 && r < size && c >= 0 && c < size, area = size * size;
    float x = jitter(inside ? p[plane * area] / 255.0f : 0.0f, v);
    if (planes == 3 && v->saturation != 1.0f) {
        float gray = 0.299f * jitter(inside ? p[0] / 255.0f : 0.0f, v) + 0.587f * jitter(inside ? p[area] / 255.0f : 0.0f, v) +
                     0.114f * jitter(inside ? p[2 * area] / 255.0f : 0.0f, v);
        x = clamp01(gray + v->saturation * (x - gray));
    }
    return (x - of_plane(norm.mean, plane)) / of_plane(norm.std, plane);
}

template <typename floatX>
__global__ void patches_kernel(floatX* out, const unsigned char* pictures, const Item* items, Norm norm, size_t n, int size,
                               int planes, int patch) {
    // one thread for each number of out
    size_t j = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (j >= n) { return; }
    int K = planes * patch * patch, side = size / patch, k = (int)(j % K), p = (int)(j / K % (side * side));
    const Item* item = items + j / K / (side * side);
    int plane = k / (patch * patch), row = p / side * patch + k / patch % patch, col = p % side * patch + k % patch;
    float x = view_pixel(pictures, &item->view[0], norm, plane, row, col, size, planes);
    if (item->lam < 1.0f) {
        x = item->lam * x + (1.0f - item->lam) * view_pixel(pictures, &item->view[1], norm, plane, row, col, size, planes);
    }
    store(out + j, x);
}

template <typename floatX>
void patches_forward(floatX* out, const unsigned char* pictures, const Item* items, Norm norm, int B, int size, int planes,
                     int patch) {
    // pictures (any, planes, size, size), items (B) -> out (B, patches, planes * patch * patch): patches row by row, and within a
    // patch plane, row, column. Augmentation rides on this pass, so it costs the training nothing.
    size_t n = (size_t)B * planes * size * size;
    patches_kernel<<<blocks_for(n, BLOCK), BLOCK>>>(out, pictures, items, norm, n, size, planes, patch);
    LAUNCHED();
}

template <typename floatX>
__global__ void tokens_forward_kernel(floatX* out, const floatX* embedded, const floatX* cls, const floatX* wpe, size_t n, int T,
                                      int C) {
    // one thread for each number of out
    size_t j = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (j >= n) { return; }
    size_t c = j % C, t = j / C % T, b = j / C / T;
    float x = t == 0 ? value(cls[c]) : value(embedded[(b * (T - 1) + t - 1) * C + c]);
    store(out + j, x + value(wpe[t * C + c]));
}

template <typename floatX>
void tokens_forward(floatX* out, const floatX* embedded, const floatX* cls, const floatX* wpe, int B, int T, int C) {
    // embedded (B, T - 1, C), cls (C), wpe (T, C) -> out (B, T, C): the CLS token, then the patches, plus positions
    size_t n = (size_t)B * T * C;
    tokens_forward_kernel<<<blocks_for(n, BLOCK), BLOCK>>>(out, embedded, cls, wpe, n, T, C);
    LAUNCHED();
}

template <typename floatX>
__global__ void tokens_backward_kernel(float* dcls, float* dwpe, const floatX* dout, int B, int T, int C) {
    // one thread for each number of dwpe
    int j = blockIdx.x * blockDim.x + threadIdx.x;
    float sum = 0.0f;
    if (j >= T * C) { return; }
    for (int b = 0; b < B; b++) { sum += value(dout[(size_t)b * T * C + j]); }
    dwpe[j] += sum;
    if (j < C) { dcls[j] += sum; }
}

template <typename floatX>
__global__ void patch_rows_kernel(floatX* rows, const floatX* inp, size_t n, int T, int C) {
    // inp (B, T, C) -> rows (B, T - 1, C): without the CLS token. One thread for each number of rows
    size_t j = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (j < n) { rows[j] = inp[j + (j / C / (T - 1) + 1) * C]; }
}

template <typename floatX>
void tokens_backward(floatX* dembedded, float* dcls, float* dwpe, const floatX* dout, int B, int T, int C) {
    // forward: out = (cls, embedded) + wpe. dout (B, T, C) -> dembedded (B, T - 1, C) overwritten; dcls (C), dwpe (T, C) added
    size_t n = (size_t)B * (T - 1) * C;
    tokens_backward_kernel<<<blocks_for((size_t)T * C, BLOCK), BLOCK>>>(dcls, dwpe, dout, B, T, C);
    LAUNCHED();
    patch_rows_kernel<<<blocks_for(n, BLOCK), BLOCK>>>(dembedded, dout, n, T, C);
    LAUNCHED();
}

template <typename floatX>
__global__ void cls_forward_kernel(floatX* out, const floatX* inp, int n, int T, int C) { // one thread for each number of out
    int j = blockIdx.x * blockDim.x + threadIdx.x;
    if (j < n) { out[j] = inp[(size_t)(j / C) * T * C + j % C]; }
}

template <typename floatX>
void cls_forward(floatX* out, const floatX* inp, int B, int T, int C) { // inp (B, T, C) -> out (B, C): the CLS tokens
    cls_forward_kernel<<<blocks_for((size_t)B * C, BLOCK), BLOCK>>>(out, inp, B * C, T, C);
    LAUNCHED();
}

template <typename floatX>
__global__ void cls_backward_kernel(floatX* dinp, const floatX* dout, size_t n, int T, int C) { // one thread for each of dinp
    size_t j = (size_t)blockIdx.x * blockDim.x + threadIdx.x, t = j / C % T;
    if (j >= n) { return; }
    store(dinp + j, t == 0 ? value(dout[j / C / T * C + j % C]) : 0.0f);
}

template <typename floatX>
void cls_backward(floatX* dinp, const floatX* dout, int B, int T, int C) { // dout (B, C) -> dinp (B, T, C), 0 for the patches
    size_t n = (size_t)B * T * C;
    cls_backward_kernel<<<blocks_for(n, BLOCK), BLOCK>>>(dinp, dout, n, T, C);
    LAUNCHED();
}

template <typename floatX>
__global__ void classifier_kernel(float* losses, floatX* logits, const Item* items, float smoothing, int B, int classes,
                                  int gradient) {
    // One warp for each picture. With gradient the logits become softmax - target.
    int b = warp_index(), lane = lane_index();
    if (b >= B) { return; }
    floatX* z = logits + (size_t)b * classes;
    int y0 = items[b].y[0], y1 = items[b].y[1];
    float lam = items[b].lam, max = -FLT_MAX, sum = 0.0f, dot = 0.0f;
    for (int v = lane; v < classes; v += WARP) { max = fmaxf(max, value(z[v])); }
    max = warp_max(max);
    for (int v = lane; v < classes; v += WARP) { sum += expf(value(z[v]) - max); }
    float lse = max + logf(warp_sum(sum));
    for (int v = lane; v < classes; v += WARP) {
        float target = (1.0f - smoothing) * (lam * (v == y0) + (1.0f - lam) * (v == y1)) + smoothing / (float)classes;
        dot += target * (lse - value(z[v]));
        if (gradient) { store(z + v, expf(value(z[v]) - lse) - target); }
    }
    dot = warp_sum(dot);
    if (lane == 0) { losses[b] = dot; }
}

template <typename floatX>
void classifier(float* losses, floatX* logits, const Item* items, float smoothing, int B, int classes, int gradient) {
    // losses (B) = - sum over classes of target * log softmax(logits); logits (B, classes) in place. The target: lam of class y[0],
    // the rest of y[1], of it the part smoothing spread over all classes (Szegedy et al. 2016)
    classifier_kernel<<<WARPS(B)>>>(losses, logits, items, smoothing, B, classes, gradient);
    LAUNCHED();
}

template <typename floatX>
__global__ void head_bias_kernel(float* dbias, const floatX* dlogits, float scale, int B, int classes) { // one warp for each class
    int v = warp_index(), lane = lane_index();
    float sum = 0.0f;
    if (v >= classes) { return; }
    for (int b = lane; b < B; b += WARP) { sum += value(dlogits[(size_t)b * classes + v]); }
    sum = warp_sum(sum);
    if (lane == 0) { dbias[v] += scale * sum; }
}

// ----------------------------------------------------------------------------------------------------------------------
// The other layers of a transformer

template <typename floatX>
__global__ void layernorm_forward_kernel(floatX* sum_out, floatX* out, float* mean, float* rstd, const floatX* a, const floatX* b,
                                         const floatX* weight, const floatX* bias, int N, int C) {
    // One warp for each row, lanes stride over C. With b the input is a + b, and goes to sum_out.
    int i = warp_index(), lane = lane_index();
    if (i >= N) { return; }
    size_t row = (size_t)i * C;
    float sum = 0.0f, var = 0.0f;
    for (int c = lane; c < C; c += WARP) {
        float x = value(a[row + c]);
        if (b != NULL) {
            store(sum_out + row + c, x + value(b[row + c]));
            x = value(sum_out[row + c]); // as the others will read it
        }
        sum += x;
    }
    const floatX* x = b != NULL ? sum_out : a;
    float m = warp_sum(sum) / (float)C; // (M7)
    for (int c = lane; c < C; c += WARP) { float d = value(x[row + c]) - m; var += d * d; }
    float r = 1.0f / sqrtf(warp_sum(var) / (float)C + 1e-5f); // (M8)
    for (int c = lane; c < C; c += WARP) {
        store(out + row + c, (value(x[row + c]) - m) * r * value(weight[c]) + value(bias[c])); // (M9)
    }
    if (lane == 0) { mean[i] = m; rstd[i] = r; }
}

template <typename floatX>
void layernorm_forward(floatX* out, float* mean, float* rstd, const floatX* inp, const floatX* weight, const floatX* bias, int N,
                       int C) {
    // inp (N, C) -> out (N, C) = (inp - mean) * rstd * weight + bias; mean, rstd (N) are kept for backward
    layernorm_forward_kernel<<<WARPS(N)>>>((floatX*)NULL, out, mean, rstd, inp, (const floatX*)NULL, weight, bias, N, C);
    LAUNCHED();
}

template <typename floatX>
void residual_layernorm_forward(floatX* sum, floatX* out, float* mean, float* rstd, const floatX* a, const floatX* b,
                                const floatX* weight, const floatX* bias, int N, int C) {
    // residual_forward and layernorm_forward in one pass: sum (N, C) = a + b; out = its LayerNorm
    layernorm_forward_kernel<<<WARPS(N)>>>(sum, out, mean, rstd, a, b, weight, bias, N, C);
    LAUNCHED();
}

template <typename floatX>
__global__ void layernorm_backward_kernel(floatX* dinp, const floatX* dout, const floatX* inp, const float* mean, const float* rstd,
                                          const floatX* weight, int N, int C) {
    // one warp for each row
    int i = warp_index(), lane = lane_index();
    if (i >= N) { return; }
    size_t row = (size_t)i * C;
    float a = 0.0f, b = 0.0f, m = mean[i], r = rstd[i]; // a, b: means of dnorm and of dnorm * norm (M11)
    for (int c = lane; c < C; c += WARP) {
        float dnorm = value(dout[row + c]) * value(weight[c]);
        a += dnorm;
        b += dnorm * (value(inp[row + c]) - m) * r;
    }
    a = warp_sum(a) / (float)C;
    b = warp_sum(b) / (float)C;
    for (int c = lane; c < C; c += WARP) {
        float d = (value(dout[row + c]) * value(weight[c]) - a - (value(inp[row + c]) - m) * r * b) * r; // (M12)
        store(dinp + row + c, value(dinp[row + c]) + d);
    }
}

template <typename floatX>
__global__ void layernorm_backward_weights_kernel(float* partial, const floatX* dout, const floatX* inp, const float* mean,
                                                  const float* rstd, int N, int C) {
    // partial (2, slabs, C): sums of dout * norm, then of dout. One block of (32, 8) threads for 32 columns and a slab
    __shared__ float sums[2][8][WARP];
    int c = blockIdx.x * WARP + threadIdx.x, end = min(N, (int)(blockIdx.y + 1) * SLAB);
    float w = 0.0f, b = 0.0f;
    for (int i = blockIdx.y * SLAB + threadIdx.y; c < C && i < end; i += 8) {
        float d = value(dout[(size_t)i * C + c]);
        w += d * (value(inp[(size_t)i * C + c]) - mean[i]) * rstd[i]; // (M10)
        b += d;
    }
    sums[0][threadIdx.y][threadIdx.x] = w;
    sums[1][threadIdx.y][threadIdx.x] = b;
    __syncthreads();
    if (threadIdx.y > 0 || c >= C) { return; }
    for (int k = 1; k < 8; k++) { w += sums[0][k][threadIdx.x]; b += sums[1][k][threadIdx.x]; }
    partial[(size_t)blockIdx.y * C + c] = w;
    partial[(size_t)(gridDim.y + blockIdx.y) * C + c] = b;
}

template <typename floatX>
void layernorm_backward_add(floatX* dinp, float* dweight, float* dbias, const floatX* dout, const floatX* inp, const float* mean,
                            const float* rstd, const floatX* weight, float* scratch, int N, int C) {
    // forward: norm = (inp - mean) * rstd; out = norm * weight + bias
    // dout (N, C) -> added to dinp (N, C), which already holds the gradient of the residual path
    layernorm_backward_weights_kernel<<<dim3(blocks_for((size_t)C, WARP), slabs_for(N)), dim3(WARP, 8)>>>(scratch, dout, inp, mean,
                                                                                                          rstd, N, C);
    LAUNCHED();
    add_slabs(dweight, scratch, slabs_for(N), C);
    add_slabs(dbias, scratch + (size_t)slabs_for(N) * C, slabs_for(N), C);
    layernorm_backward_kernel<<<WARPS(N)>>>(dinp, dout, inp, mean, rstd, weight, N, C);
    LAUNCHED();
}

// Attention on materialised matrices: q, k, v as (B, NH, T, HS) each, so that a head is one matrix for cuBLAS

template <typename floatX>
__global__ void permute_kernel(floatX* q, floatX* k, floatX* v, const floatX* qkv, size_t n, int T, int C, int HS) {
    // qkv (B, T, 3C) -> q, k, v (B, NH, T, HS). One thread for each number of q
    size_t j = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (j >= n) { return; }
    size_t i = j % HS, t = j / HS % T, h = j / HS / T % (C / HS), b = j / HS / T / (C / HS);
    const floatX* from = qkv + (b * T + t) * 3 * C + h * HS + i;
    q[j] = from[0];
    k[j] = from[C];
    v[j] = from[2 * C];
}

template <typename floatX>
__global__ void unpermute_kernel(floatX* out, const floatX* inp, size_t n, int T, int C, int HS, int stride) {
    // inp (B, NH, T, HS) -> out (B, T, C), rows stride apart; one thread for each number
    size_t j = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (j >= n) { return; }
    size_t i = j % HS, t = j / HS % T, h = j / HS / T % (C / HS), b = j / HS / T / (C / HS);
    out[(b * T + t) * stride + h * HS + i] = inp[j];
}

template <typename floatX>
__global__ void permute_out_kernel(floatX* out, const floatX* inp, size_t n, int T, int C,
                                   int HS) { // the reverse, without a stride
    size_t j = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (j >= n) { return; }
    size_t i = j % HS, t = j / HS % T, h = j / HS / T % (C / HS), b = j / HS / T / (C / HS);
    out[j] = inp[(b * T + t) * C + h * HS + i];
}

template <typename floatX>
__global__ void softmax_forward_kernel(floatX* att, int rows, int T, int causal) { // in place; one warp for each row
    int r = warp_index(), lane = lane_index();
    if (r >= rows) { return; }
    floatX* row = att + (size_t)r * T;
    int valid = causal ? r % T + 1 : T;
    float max = -FLT_MAX, sum = 0.0f;
    for (int j = lane; j < valid; j += WARP) { max = fmaxf(max, value(row[j])); }
    max = warp_max(max);
    for (int j = lane; j < valid; j += WARP) { sum += expf(value(row[j]) - max); }
    sum = warp_sum(sum);
    for (int j = lane; j < T; j += WARP) { store(row + j, j < valid ? expf(value(row[j]) - max) / sum : 0.0f); } // (M13)
}

template <typename floatX>
__global__ void softmax_backward_kernel(floatX* datt, const floatX* att, int rows, int T) { // datt in place; one warp for each row
    int r = warp_index(), lane = lane_index();
    if (r >= rows) { return; }
    floatX* d = datt + (size_t)r * T;
    const floatX* a = att + (size_t)r * T;
    float sum = 0.0f;
    for (int j = lane; j < T; j += WARP) { sum += value(a[j]) * value(d[j]); }
    sum = warp_sum(sum);
    for (int j = lane; j < T; j += WARP) { store(d + j, value(a[j]) * (value(d[j]) - sum)); } // (M14)
}

template <typename floatX>
void attention_forward(floatX* out, floatX* att, floatX* qkvr, floatX* scratch, const floatX* qkv, int B, int T, int C, int NH,
                       int causal) {
    // qkv (B, T, 3C) -> qkvr: q, k, v (3, B, NH, T, HS), att (B, NH, T, T) = softmax(q k^T / sqrt(HS)), both kept for backward;
    // out (B, T, C) = att v; scratch (B, T, C)
    int HS = C / NH;
    size_t n = (size_t)B * T * C;
    floatX *q = qkvr, *k = q + n, *v = k + n;
    permute_kernel<<<blocks_for(n, BLOCK), BLOCK>>>(q, k, v, qkv, n, T, C, HS);
    LAUNCHED();
    matmul_batched(att, q, 0, k, 1, T, T, HS, 1.0f / sqrtf((float)HS), B * NH); // (M15)
    softmax_forward_kernel<<<WARPS((size_t)B * NH * T)>>>(att, B * NH * T, T, causal);
    LAUNCHED();
    matmul_batched(scratch, att, 0, v, 0, T, HS, T, 1.0f, B * NH); // (M16)
    unpermute_kernel<<<blocks_for(n, BLOCK), BLOCK>>>(out, scratch, n, T, C, HS, C);
    LAUNCHED();
}

template <typename floatX>
void attention_backward(floatX* dqkv, floatX* datt, floatX* dqkvr, floatX* scratch, const floatX* dout, const floatX* att,
                        const floatX* qkvr, int B, int T, int C, int NH) {
    // forward: att = softmax(q k^T / sqrt(HS)); out = att v
    // dout (B, T, C) -> dqkv (B, T, 3C) overwritten; datt (B, NH, T, T), dqkvr (3, B, NH, T, HS), scratch (B, T, C) are scratch
    int HS = C / NH;
    size_t n = (size_t)B * T * C;
    float scale = 1.0f / sqrtf((float)HS);
    const floatX *q = qkvr, *k = q + n, *v = k + n;
    permute_out_kernel<<<blocks_for(n, BLOCK), BLOCK>>>(scratch, dout, n, T, C, HS);
    LAUNCHED();
    matmul_batched(dqkvr + 2 * n, att, 1, scratch, 0, T, HS, T, 1.0f, B * NH);    // dv = att^T dout (M17)
    matmul_batched(datt, scratch, 0, v, 1, T, T, HS, 1.0f, B * NH);               // datt = dout v^T (M18)
    softmax_backward_kernel<<<WARPS((size_t)B * NH * T)>>>(datt, att, B * NH * T, T);
    LAUNCHED();
    matmul_batched(dqkvr, datt, 0, k, 0, T, HS, T, scale, B * NH);                // dq = datt k (M19)
    matmul_batched(dqkvr + n, datt, 1, q, 0, T, HS, T, scale, B * NH);            // dk = datt^T q (M20)
    for (int i = 0; i < 3; i++) {
        unpermute_kernel<<<blocks_for(n, BLOCK), BLOCK>>>(dqkv + i * C, dqkvr + i * n, n, T, C, HS, 3 * C);
        LAUNCHED();
    }
}

// Flash attention (Dao et al., arXiv 2205.14135, 2307.08691): the same in bf16, for heads of 64, without the (T, T) matrices.
// Scores are made tile by tile, 64 queries by 64 keys, and stay in registers. Of a softmax that comes in tiles each row keeps its
// largest score so far, m, and the sum of exp(score - m), l. When a tile raises m to m', what was added up before shrinks:
//     l = l exp(m - m') + sum of exp(s - m');   o = o exp(m - m') + exp(s - m') v;   at the end out = o / l, lse = m + log(l)
// lse (B, NH, T) is all that backward needs: p = exp(s - lse). With delta = sum over the head of dout * out, which equals the sum
// of p * dp over a row of softmax_backward_kernel:
//     dv = p^T dout;   dp = dout v^T;   ds = p (dp - delta);   dq = ds k / sqrt(HS);   dk = ds^T q / sqrt(HS)
// Sums over queries and sums over keys have a kernel each, and each makes the scores again: 7 products instead of 5, but every sum
// stands in one thread, in a fixed order.
//
// A product of tensor cores, mma.sync.m16n8k16, takes the 32 lanes of a warp: D (16, 8) += A (16, 16) B (16, 8), D in float.
// With g = lane / 4 and t = lane % 4 a lane holds, two numbers of bf16 in a register,
//     of A: row g, columns 2t, 2t + 1; row g + 8, the same; row g, columns 2t + 8, 2t + 9; row g + 8, the same
//     of B: rows 2t, 2t + 1, column g; rows 2t + 8, 2t + 9, column g
//     of D: row g, columns 2t, 2t + 1; row g + 8, the same (float): two D side by side, rounded, are the A of a next product
// Every warp has 16 rows of its block; the 4 lanes with the same g share a row. B comes from tiles in shared memory by ldmatrix,
// which hands out 8 x 8 numbers as B wants them if a column of B is a row of the tile; with .trans, if a row of B is one.
//
// FLOP for a head: forward 4 T T HS, backward 14 T T HS, half of it where a token sees only what is before it. Bytes: forward reads
// qkv and writes out, 8 HS for a token; k and v come once more, mostly from the L2 cache, for each other block of 64 queries.

#define TILE 64                 // queries of a block, keys of a step, numbers of a head
#define TILE_ROW (TILE + 8)     // a row in shared memory: 144 bytes, so that the 8 rows of an ldmatrix lie in different banks
#define FLASH_BLOCK 128         // threads: 4 warps of 16 rows
#define LOG2E 1.4426950409f

// PTX instructions, and what stands for them where the CPU plays the GPU. A GPU before 8.0 has none: gpu_start refuses bf16.
#ifdef __CUDACPU__
__device__ inline void mma_m16n8k16(float d[4], const uint32_t a[4], const uint32_t b[2]) { // d += a b
    cudacpu::mma_m16n8k16_bf16(d, a, b, d);
}
__device__ inline void ldmatrix_x4(uint32_t r[4], const bf16* row) { cudacpu::ldmatrix(r, row, 4, false); }
__device__ inline void ldmatrix_x4_trans(uint32_t r[4], const bf16* row) { cudacpu::ldmatrix(r, row, 4, true); }
__device__ inline void cp_async16(void* shared, const void* global) { cudacpu::cp_async(shared, global, 16); }
__device__ inline void cp_async4(void* shared, const void* global) { cudacpu::cp_async(shared, global, 4); }
__device__ inline void cp_async_wait(void) { cudacpu::cp_async_commit(); cudacpu::cp_async_wait(0); }
__device__ inline float exp2_fast(float x) { return exp2f(x); }
#else
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
#define PTX(...) asm volatile(__VA_ARGS__)
#else
#define PTX(...) __trap()
#endif
__device__ inline uint32_t shared_address(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }
__device__ inline void mma_m16n8k16(float d[4], const uint32_t a[4], const uint32_t b[2]) { // d += a b
    PTX("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ inline void ldmatrix_x4(uint32_t r[4], const bf16* row) { // four of 8 x 8: lanes 0 to 7 name the rows of the first, ..
    PTX("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
        : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}
__device__ inline void ldmatrix_x4_trans(uint32_t r[4], const bf16* row) { // each of them transposed
    PTX("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
        : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}
__device__ inline void cp_async16(void* shared, const void* global) { // 16 bytes, while the threads go on
    PTX("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(shared_address(shared)), "l"(global) : "memory");
}
__device__ inline void cp_async4(void* shared, const void* global) {
    PTX("cp.async.ca.shared.global [%0], [%1], 4;" :: "r"(shared_address(shared)), "l"(global) : "memory");
}
__device__ inline void cp_async_wait(void) { PTX("cp.async.wait_all;" ::: "memory"); } // for all that this thread began
__device__ inline float exp2_fast(float x) { // 2^x, one instruction
    float y;
    PTX("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
#endif

__device__ inline uint32_t pack(float low, float high) { // two numbers of bf16 in a register
    __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
    uint32_t bits;
    memcpy(&bits, &both, sizeof bits);
    return bits;
}

__device__ inline float quad_sum(float x) { // over the 4 lanes that share a row
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

__device__ inline float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

// Rows of 3C numbers (qkv) or C (out): where head number i = b * NH + h begins
__device__ inline size_t head_at(int i, int T, int C, int stride) {
    return (size_t)(i / (C / TILE)) * T * stride + (size_t)(i % (C / TILE)) * TILE;
}

template <bool causal> __device__ inline bool sees(int query, int key, int T) {
    return query < T && key < T && (!causal || key <= query);
}

// T may be any number: rows behind the last are read as the last, and do not count
__device__ inline void tile_fetch(bf16 (*tile)[TILE_ROW], const bf16* from, int first, int stride, int T) {
    // begins to copy rows first .. first + 63; each thread 4 pieces of 16 bytes
    #pragma unroll 1 // unrolled, loops like this one would keep addresses in registers, and fewer blocks would find room
    for (int i = threadIdx.x; i < TILE * TILE / 8; i += FLASH_BLOCK) {
        int row = i / (TILE / 8), col = i % (TILE / 8) * 8;
        cp_async16(&tile[row][col], from + (size_t)min(first + row, T - 1) * stride + col);
    }
}

__device__ inline void rows_fetch(uint32_t a[4][4], const bf16* from, int first, int stride, int T) {
    // a: rows first .. first + 15 as four A of 16 x 16, straight from memory
    for (int i = 0; i < 16; i++) {
        int row = first + lane_index() / 4 + i % 2 * 8, col = i / 4 * 16 + i % 4 / 2 * 8 + lane_index() % 4 * 2;
        a[i / 4][i % 4] = *(const uint32_t*)(from + (size_t)min(row, T - 1) * stride + col);
    }
}

__device__ inline void rows_store(bf16* to, const float d[8][4], const float scale[2], int first, int stride, int T) {
    // d: 16 x 64, rows g and g + 8 times their scale -> rows first .. first + 15
    for (int i = 0; i < 2; i++) {
        int row = first + lane_index() / 4 + i * 8;
        for (int n = 0; n < 8 && row < T; n++) {
            uint32_t* at = (uint32_t*)(to + (size_t)row * stride + n * 8 + lane_index() % 4 * 2);
            *at = pack(d[n][2 * i] * scale[i], d[n][2 * i + 1] * scale[i]);
        }
    }
}

__device__ inline void add_scores(float s[2][4], const uint32_t a[4][4], const bf16 (*rows)[TILE_ROW]) {
    // s (16, 16) += a (16, 64) times 16 rows of a tile, transposed: a row of the tile is a column of B
    int lane = lane_index();
    for (int k = 0; k < 4; k++) {
        uint32_t b[4];
        ldmatrix_x4(b, &rows[lane % 8 + lane / 16 * 8][k * 16 + lane / 8 % 2 * 8]);
        mma_m16n8k16(s[0], a[k], b);
        mma_m16n8k16(s[1], a[k], b + 2);
    }
}

__device__ inline void add_rows(float o[8][4], const float p[2][4], const bf16 (*rows)[TILE_ROW]) {
    // o (16, 64) += p (16, 16), rounded to bf16, times 16 rows of a tile: a row of the tile is a row of B
    int lane = lane_index();
    uint32_t a[4] = {pack(p[0][0], p[0][1]), pack(p[0][2], p[0][3]), pack(p[1][0], p[1][1]), pack(p[1][2], p[1][3])}, b[4];
    for (int n = 0; n < 8; n += 2) {
        ldmatrix_x4_trans(b, &rows[lane % 16][n * 8 + lane / 16 * 8]);
        mma_m16n8k16(o[n], a, b);
        mma_m16n8k16(o[n + 1], a, b + 2);
    }
}

template <bool causal>
__global__ void flash_forward_kernel(bf16* out, float* lse, const bf16* qkv, int T, int C) {
    // One block for 64 queries of a head, one warp for 16; tiles of 64 keys pass by, the next one is under way while one is used.
    // Blocks of a head follow each other, so that they find its k and v in the L2 cache; those with most keys come first.
    __shared__ alignas(16) bf16 K[2][TILE][TILE_ROW], V[2][TILE][TILE_ROW];
    int blocks = (T + TILE - 1) / TILE, head = blockIdx.x / blocks, block = blocks - 1 - (int)blockIdx.x % blocks;
    int tiles = causal ? block + 1 : blocks, first = block * TILE + threadIdx.x / WARP * 16, lane = lane_index();
    const bf16 *q = qkv + head_at(head, T, C, 3 * C), *k = q + C, *v = k + C;
    float scale = 0.125f * LOG2E, m[2] = {-FLT_MAX, -FLT_MAX}, l[2] = {0.0f, 0.0f}, o[8][4] = {}; // 1/sqrt(64); rows g and g + 8
    uint32_t a[4][4];
    tile_fetch(K[0], k, 0, 3 * C, T);
    tile_fetch(V[0], v, 0, 3 * C, T);
    rows_fetch(a, q, first, 3 * C, T);
    for (int j = 0; j < tiles; j++) {
        float s[8][4] = {};
        cp_async_wait();
        __syncthreads(); // tile j is there for all, and nobody reads tile j - 1 any more
        if (j + 1 < tiles) {
            tile_fetch(K[(j + 1) % 2], k, (j + 1) * TILE, 3 * C, T);
            tile_fetch(V[(j + 1) % 2], v, (j + 1) * TILE, 3 * C, T);
        }
        for (int n = 0; n < 8; n += 2) { add_scores(s + n, a, K[j % 2] + n * 8); } // (M15)
        for (int i = 0; j == tiles - 1 && i < 32; i++) { // only the last tile has keys that a query does not see
            int query = first + lane / 4 + i % 4 / 2 * 8, key = j * TILE + i / 4 * 8 + lane % 4 * 2 + i % 2;
            if (!sees<causal>(query, key, T)) { s[i / 4][i % 4] = -FLT_MAX; }
        }
        for (int i = 0; i < 2; i++) {
            float top = m[i];
            for (int n = 0; n < 8; n++) { top = fmaxf(top, fmaxf(s[n][2 * i], s[n][2 * i + 1])); }
            top = quad_max(top);
            float shrink = exp2_fast((m[i] - top) * scale), sum = 0.0f;
            m[i] = top;
            for (int n = 0; n < 8; n++) {
                s[n][2 * i] = exp2_fast(s[n][2 * i] * scale - top * scale);
                s[n][2 * i + 1] = exp2_fast(s[n][2 * i + 1] * scale - top * scale);
                sum += s[n][2 * i] + s[n][2 * i + 1];
                o[n][2 * i] *= shrink;
                o[n][2 * i + 1] *= shrink;
            }
            l[i] = l[i] * shrink + sum;
        }
        for (int n = 0; n < 8; n += 2) { add_rows(o, s + n, V[j % 2] + n * 8); } // (M13) (M16)
    }
    for (int i = 0; i < 2; i++) {
        int row = first + lane / 4 + i * 8;
        l[i] = quad_sum(l[i]);
        if (lane % 4 == 0 && row < T) { lse[(size_t)head * T + row] = 0.125f * m[i] + logf(l[i]); }
        l[i] = 1.0f / l[i];
    }
    rows_store(out + head_at(head, T, C, C), o, l, first, C, T);
}

void flash_forward(bf16* out, float* lse, const bf16* qkv, int B, int T, int C, int causal) {
    // qkv (B, T, 3C), C = NH * 64 -> out (B, T, C) = softmax(q k^T / 8) v; lse (B, NH, T): log of the sum of exp(q k^T / 8)
    int blocks = B * (C / TILE) * blocks_for((size_t)T, TILE);
    if (causal) { flash_forward_kernel<true><<<blocks, FLASH_BLOCK>>>(out, lse, qkv, T, C); }
    else { flash_forward_kernel<false><<<blocks, FLASH_BLOCK>>>(out, lse, qkv, T, C); }
    LAUNCHED();
}

__global__ void flash_delta_kernel(float* delta, const bf16* dout, const bf16* out, int rows, int T, int NH) {
    // delta (B, NH, T) = sums of dout * out over heads; one warp for each of the rows = B T NH. Reads 256 bytes, writes 4
    int r = warp_index(), t = r / NH % T, head = r / NH / T * NH + r % NH;
    if (r >= rows) { return; }
    size_t i = (size_t)r * TILE + 2 * lane_index();
    float sum = warp_sum(value(dout[i]) * value(out[i]) + value(dout[i + 1]) * value(out[i + 1]));
    if (lane_index() == 0) { delta[(size_t)head * T + t] = sum; }
}

template <bool causal>
__global__ void flash_dkdv_kernel(bf16* dqkv, const bf16* dout, const float* lse, const float* delta, const bf16* qkv, int T,
                                  int C) {
    // One block for 64 keys of a head, one warp for 16; q, dout, lse and delta of 64 queries pass by. Everything is transposed:
    // rows are keys, columns queries. In steps of 16 queries, so that scores take few registers.
    __shared__ alignas(16) bf16 Q[2][TILE][TILE_ROW], D[2][TILE][TILE_ROW];
    __shared__ float L[2][TILE], Delta[2][TILE];
    int blocks = (T + TILE - 1) / TILE, head = blockIdx.x / blocks, block = blockIdx.x % blocks, begin = causal ? block : 0;
    int first = block * TILE + threadIdx.x / WARP * 16, lane = lane_index();
    const bf16 *q = qkv + head_at(head, T, C, 3 * C), *d = dout + head_at(head, T, C, C);
    float dk[8][4] = {}, dv[8][4] = {};
    uint32_t k[4][4], v[4][4];
    auto fetch = [&](int j) { // begins to copy tile j
        int row = threadIdx.x % TILE, query = min(j * TILE + row, T - 1);
        tile_fetch(Q[j % 2], q, j * TILE, 3 * C, T);
        tile_fetch(D[j % 2], d, j * TILE, C, T);
        if (threadIdx.x < TILE) { cp_async4(&L[j % 2][row], lse + (size_t)head * T + query); }
        else { cp_async4(&Delta[j % 2][row], delta + (size_t)head * T + query); }
    };
    fetch(begin);
    rows_fetch(k, q + C, first, 3 * C, T);
    rows_fetch(v, q + 2 * C, first, 3 * C, T);
    for (int j = begin; j < blocks; j++) {
        cp_async_wait();
        __syncthreads(); // tile j is there for all, and nobody reads tile j - 1 any more
        if (j + 1 < blocks) { fetch(j + 1); }
        #pragma unroll 1
        for (int n = 0; n < TILE; n += 16) {
            float p[2][4] = {}, ds[2][4] = {};
            add_scores(p, k, Q[j % 2] + n);
            add_scores(ds, v, D[j % 2] + n); // dp (M18)
            for (int i = 0; (j == begin || j == blocks - 1) && i < 8; i++) { // the other tiles see and are seen
                int key = first + lane / 4 + i % 4 / 2 * 8, query = j * TILE + n + i / 4 * 8 + lane % 4 * 2 + i % 2;
                if (!sees<causal>(query, key, T)) { p[i / 4][i % 4] = -FLT_MAX; }
            }
            for (int i = 0; i < 8; i++) {
                int col = n + i / 4 * 8 + lane % 4 * 2 + i % 2;
                p[i / 4][i % 4] = exp2_fast(p[i / 4][i % 4] * (0.125f * LOG2E) - L[j % 2][col] * LOG2E);
                ds[i / 4][i % 4] = p[i / 4][i % 4] * (ds[i / 4][i % 4] - Delta[j % 2][col]); // (M14)
            }
            add_rows(dv, p, D[j % 2] + n); // (M17)
            add_rows(dk, ds, Q[j % 2] + n); // (M20)
        }
    }
    const float scale[2] = {0.125f, 0.125f}, one[2] = {1.0f, 1.0f};
    bf16* to = dqkv + head_at(head, T, C, 3 * C);
    rows_store(to + C, dk, scale, first, 3 * C, T);
    rows_store(to + 2 * C, dv, one, first, 3 * C, T);
}

template <bool causal>
__global__ void flash_dq_kernel(bf16* dqkv, const bf16* dout, const float* lse, const float* delta, const bf16* qkv, int T,
                                int C) {
    // one block for 64 queries of a head, one warp for 16; tiles of 64 keys pass by as in flash_forward_kernel, in steps of 16
    __shared__ alignas(16) bf16 K[2][TILE][TILE_ROW], V[2][TILE][TILE_ROW];
    int blocks = (T + TILE - 1) / TILE, head = blockIdx.x / blocks, block = blocks - 1 - (int)blockIdx.x % blocks;
    int tiles = causal ? block + 1 : blocks, first = block * TILE + threadIdx.x / WARP * 16, lane = lane_index();
    const bf16 *q = qkv + head_at(head, T, C, 3 * C), *k = q + C, *v = k + C;
    float dq[8][4] = {}, L[2], Delta[2];
    uint32_t a[4][4], d[4][4];
    tile_fetch(K[0], k, 0, 3 * C, T);
    tile_fetch(V[0], v, 0, 3 * C, T);
    rows_fetch(a, q, first, 3 * C, T);
    rows_fetch(d, dout + head_at(head, T, C, C), first, C, T);
    for (int i = 0; i < 2; i++) {
        size_t row = (size_t)head * T + min(first + lane / 4 + i * 8, T - 1);
        L[i] = lse[row] * LOG2E;
        Delta[i] = delta[row];
    }
    for (int j = 0; j < tiles; j++) {
        cp_async_wait();
        __syncthreads(); // tile j is there for all, and nobody reads tile j - 1 any more
        if (j + 1 < tiles) {
            tile_fetch(K[(j + 1) % 2], k, (j + 1) * TILE, 3 * C, T);
            tile_fetch(V[(j + 1) % 2], v, (j + 1) * TILE, 3 * C, T);
        }
        #pragma unroll 1
        for (int n = 0; n < TILE; n += 16) {
            float s[2][4] = {}, ds[2][4] = {};
            add_scores(s, a, K[j % 2] + n);
            add_scores(ds, d, V[j % 2] + n); // dp (M18)
            for (int i = 0; j == tiles - 1 && i < 8; i++) {
                int query = first + lane / 4 + i % 4 / 2 * 8, key = j * TILE + n + i / 4 * 8 + lane % 4 * 2 + i % 2;
                if (!sees<causal>(query, key, T)) { s[i / 4][i % 4] = -FLT_MAX; }
            }
            for (int i = 0; i < 8; i++) {
                float p = exp2_fast(s[i / 4][i % 4] * (0.125f * LOG2E) - L[i % 4 / 2]);
                ds[i / 4][i % 4] = p * (ds[i / 4][i % 4] - Delta[i % 4 / 2]); // (M14)
            }
            add_rows(dq, ds, K[j % 2] + n); // (M19)
        }
    }
    const float scale[2] = {0.125f, 0.125f};
    rows_store(dqkv + head_at(head, T, C, 3 * C), dq, scale, first, 3 * C, T);
}

void flash_backward(bf16* dqkv, float* delta, const bf16* dout, const bf16* out, const float* lse, const bf16* qkv, int B, int T,
                    int C, int causal) {
    // forward: out = softmax(q k^T / 8) v
    // dout (B, T, C) -> dqkv (B, T, 3C) overwritten; delta (B, NH, T) is scratch
    int rows = B * T * (C / TILE), blocks = B * (C / TILE) * blocks_for((size_t)T, TILE);
    flash_delta_kernel<<<WARPS(rows)>>>(delta, dout, out, rows, T, C / TILE);
    LAUNCHED();
    if (causal) {
        flash_dkdv_kernel<true><<<blocks, FLASH_BLOCK>>>(dqkv, dout, lse, delta, qkv, T, C);
        flash_dq_kernel<true><<<blocks, FLASH_BLOCK>>>(dqkv, dout, lse, delta, qkv, T, C);
    } else {
        flash_dkdv_kernel<false><<<blocks, FLASH_BLOCK>>>(dqkv, dout, lse, delta, qkv, T, C);
        flash_dq_kernel<false><<<blocks, FLASH_BLOCK>>>(dqkv, dout, lse, delta, qkv, T, C);
    }
    LAUNCHED();
}

__device__ inline float gelu_u(float x) { return 1.5957691216f * (x + 0.044715f * x * x * x); } // 2 sqrt(2/pi) (x + ..) (M21)

template <typename floatX>
__global__ void gelu_forward_kernel(floatX* out, const floatX* inp, size_t n) { // one thread for each number
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) { store(out + i, value(inp[i]) / (1.0f + expf(-gelu_u(value(inp[i]))))); } // (M22)
}

template <typename floatX>
void gelu_forward(floatX* out, const floatX* inp, size_t n) { // GPT-2's tanh form
    if (n == 0) { return; }
    gelu_forward_kernel<<<blocks_for(n, BLOCK), BLOCK, 0, queue->stream>>>(out, inp, n);
    LAUNCHED();
}

template <typename floatX>
__global__ void gelu_backward_kernel(floatX* dinp, const floatX* dout, const floatX* inp, size_t n) { // one thread for each number
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) { return; }
    float x = value(inp[i]), s = 1.0f / (1.0f + expf(-gelu_u(x)));
    float du = 1.5957691216f * (1.0f + 3.0f * 0.044715f * x * x);
    store(dinp + i, value(dout[i]) * (s + x * s * (1.0f - s) * du)); // (M23)
}

template <typename floatX>
void gelu_backward(floatX* dinp, const floatX* dout, const floatX* inp, size_t n) { // dinp may be dout
    if (n == 0) { return; }
    gelu_backward_kernel<<<blocks_for(n, BLOCK), BLOCK, 0, queue->stream>>>(dinp, dout, inp, n);
    LAUNCHED();
}

template <typename floatX>
__global__ void residual_forward_kernel(floatX* out, const floatX* a, const floatX* b, size_t n) { // one thread for each number
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) { store(out + i, value(a[i]) + value(b[i])); } // (M24)
}

template <typename floatX>
void residual_forward(floatX* out, const floatX* a, const floatX* b, size_t n) {
    residual_forward_kernel<<<blocks_for(n, BLOCK), BLOCK>>>(out, a, b, n);
    LAUNCHED();
}

// ----------------------------------------------------------------------------------------------------------------------
// The DynMoE layer, as in the C program: router -> dispatch -> experts -> combine. Everything about routing is float and int.
// Two tables, made on the device, drive every kernel behind them: row_of (N, E) and row_token (R).

#define NORM_EPS 1e-8f // the least length to divide by: 0 has cosine 0. A row of x or W not longer than this gets no gradient
#define ROW_PAD 128    // each expert's rows start at a multiple of this

float norm_of(const float* x, int n) { // |x|, on the host
    float sum = 0.0f;
    for (int i = 0; i < n; i++) { sum += x[i] * x[i]; }
    return sqrtf(sum);
}

__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

__global__ void row_norms_kernel(float* norms, const float* W, int E, int C) { // norms (E) = |W_e|; one warp for each row
    int e = warp_index(), lane = lane_index();
    float sum = 0.0f;
    if (e >= E) { return; }
    for (int c = lane; c < C; c += WARP) { sum += W[(size_t)e * C + c] * W[(size_t)e * C + c]; }
    sum = warp_sum(sum);
    if (lane == 0) { norms[e] = sqrtf(sum); }
}

template <typename floatX>
__device__ float row_dot(const floatX* x, const float* w, int C) { // <x, w> of length C by a warp; all lanes get it
    float sum = 0.0f;
    for (int c = lane_index(); c < C; c += WARP) { sum += value(x[c]) * w[c]; }
    return warp_sum(sum);
}

template <typename floatX>
__global__ void gate_forward_kernel(int* open, int* k, float* weight, float* cosine, float* xnorm, const float* wnorm,
                                    const floatX* x, const float* W, const float* G, const int* mask, int fallback, int N, int C,
                                    int E) {
    // one warp for each token: N*C numbers of x are read once from memory, then E times from the cache
    int i = warp_index(), lane = lane_index();
    if (i >= N) { return; }
    const floatX* row = x + (size_t)i * C;
    float squares = 0.0f;
    for (int c = lane; c < C; c += WARP) { squares += value(row[c]) * value(row[c]); }
    float norm = sqrtf(warp_sum(squares));
    int best = -1, opened = 0;
    float best_cosine = 0.0f;
    for (int e = 0; e < E; e++) { // every lane comes to the same decisions
        float c = row_dot(row, W + (size_t)e * C, C) / (fmaxf(norm, NORM_EPS) * fmaxf(wnorm[e], NORM_EPS)); // (M29)
        int is_open = mask[e] && c > G[e]; // (M30)
        opened += is_open; // (M31)
        if (mask[e] && (best < 0 || c > best_cosine)) { best = e; best_cosine = c; }
        if (lane == 0) { cosine[(size_t)i * E + e] = c; open[(size_t)i * E + e] = is_open; }
    }
    if (lane != 0) { return; }
    xnorm[i] = norm;
    k[i] = opened;
    if (opened == 0 && fallback && best >= 0) { open[(size_t)i * E + best] = 1; } // (M32), then (M33)
    for (int e = 0; e < E; e++) { weight[(size_t)i * E + e] = (float)open[(size_t)i * E + e] / (float)(opened > 0 ? opened : 1); }
}

template <typename floatX>
void gate_forward(int* open, int* k, float* weight, float* cosine, float* xnorm, float* wnorm, const floatX* x, const float* W,
                  const float* G, const int* mask, int fallback, int N, int C, int E) {
    // gate_forward and mean_forward of the C program                                                          eq. (3) to (6)
    row_norms_kernel<<<WARPS(E)>>>(wnorm, W, E, C);
    LAUNCHED();
    gate_forward_kernel<<<WARPS(N)>>>(open, k, weight, cosine, xnorm, wnorm, x, W, G, mask, fallback, N, C, E);
    LAUNCHED();
}

// The softmax routers: see the C program for what they choose and what they weigh
enum { TOP_ANY, TOP_K, TOP_P, DENSE };
static const char* const router_names[] = {"top-any", "top-k", "top-p", "dense"};

template <typename floatX>
__global__ void softmax_gate_forward_kernel(int* open, int* k, float* weight, float* prob, const floatX* x, const float* W,
                                            const int* mask, int K, float P, int renormalise, int N, int C, int E) {
    // one warp for each token; its first lane chooses, E is small
    int i = warp_index(), lane = lane_index();
    if (i >= N) { return; }
    float *p = prob + (size_t)i * E, *w = weight + (size_t)i * E, max = -FLT_MAX, sum = 0.0f, taken = 0.0f;
    int *o = open + (size_t)i * E, n = 0;
    for (int e = 0; e < E; e++) {
        float z = row_dot(x + (size_t)i * C, W + (size_t)e * C, C);
        max = mask[e] && z > max ? z : max;
        if (lane == 0) { p[e] = z; }
    }
    if (lane != 0) { return; }
    for (int e = 0; e < E; e++) { p[e] = mask[e] ? expf(p[e] - max) : 0.0f; sum += p[e]; } // (M67)
    for (int e = 0; e < E; e++) { p[e] /= sum > 0.0f ? sum : 1.0f; w[e] = 0.0f; o[e] = 0; }
    for (; n < K && (n == 0 || taken < P); n++) { // (M68)
        int best = -1;
        for (int e = 0; e < E; e++) { if (mask[e] && !o[e] && (best < 0 || p[e] > p[best])) { best = e; } }
        if (best < 0) { break; }
        o[best] = 1;
        w[best] = p[best];
        taken += p[best];
    }
    k[i] = n;
    for (int e = 0; renormalise && e < E; e++) { w[e] /= taken > 0.0f ? taken : 1.0f; } // (M69)
}

template <typename floatX>
void softmax_gate_forward(int* open, int* k, float* weight, float* prob, const floatX* x, const float* W, const int* mask, int K,
                          float P, int renormalise, int N, int C, int E) {
    softmax_gate_forward_kernel<<<WARPS(N)>>>(open, k, weight, prob, x, W, mask, K, P, renormalise, N, C, E);
    LAUNCHED();
}

__global__ void token_sums_kernel(double* out, const float* a, int N, int E, int entropy) {
    // out (E): sum over tokens of a (N, E), or of -a log a. One block for each expert.
    double sum = 0.0;
    for (int i = threadIdx.x; i < N; i += BLOCK) {
        float p = a[(size_t)i * E + blockIdx.x];
        sum += entropy ? (p > 0.0f ? -(double)p * log((double)p) : 0.0) : (double)p; // (M72)
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) { out[blockIdx.x] = sum; }
}

void token_sums(double* out, const float* a, double* scratch, int N, int E, int entropy) { // out (E) on the host
    token_sums_kernel<<<E, BLOCK>>>(scratch, a, N, E, entropy);
    LAUNCHED();
    to_host(out, scratch, (size_t)E * sizeof(double));
}

typedef struct { // made on the device, read by the host
    int count[MAX_EXPERTS], used[MAX_EXPERTS]; // tokens that use e; those of them with k > 0, which the fallback did not serve
    int hist[MAX_EXPERTS + 1], offset[MAX_EXPERTS + 1]; // tokens by k; first row of each expert
    float low[MAX_EXPERTS], high[MAX_EXPERTS];          // smallest and largest score
} RouteStats;

__global__ void route_stats_kernel(RouteStats* s, const int* open, const int* k, const float* score, int N, int E) {
    // block e < E: count, low, high of expert e. Block E + j: hist[j].
    int b = blockIdx.x;
    double n = 0.0, used = 0.0;
    float low = FLT_MAX, high = -FLT_MAX;
    for (int i = threadIdx.x; i < N; i += BLOCK) {
        if (b >= E) { n += k[i] == b - E; continue; }
        float x = score[(size_t)i * E + b];
        n += open[(size_t)i * E + b];
        used += open[(size_t)i * E + b] && k[i] > 0;
        low = fminf(low, x);
        high = fmaxf(high, x);
    }
    n = block_sum(n); // whole numbers below 2^53: exact
    used = block_sum(used);
    low = -block_max(-low);
    high = block_max(high);
    if (threadIdx.x != 0) { return; }
    if (b >= E) { s->hist[b - E] = (int)n; return; }
    s->count[b] = (int)n;
    s->used[b] = (int)used;
    s->low[b] = low;
    s->high[b] = high;
}

__global__ void dispatch_count_kernel(int* block_count, const int* open, int N, int E) {
    // block_count (blocks, E): how many of this block's tokens, one for each thread, use e
    int i = blockIdx.x * BLOCK + threadIdx.x;
    for (int e = 0; e < E; e++) {
        int n = __syncthreads_count(i < N && open[(size_t)i * E + e]);
        if (threadIdx.x == 0) { block_count[(size_t)blockIdx.x * E + e] = n; }
    }
}

__global__ void dispatch_scan_kernel(int* block_count, RouteStats* s, int blocks, int E) {
    // One block, one thread for each expert: block_count becomes the row at which the block's rows of e begin; offset (E + 1)
    __shared__ int total[MAX_EXPERTS], start[MAX_EXPERTS];
    int e = threadIdx.x, sum = 0;
    for (int b = 0; e < E && b < blocks; b++) {
        int n = block_count[(size_t)b * E + e];
        block_count[(size_t)b * E + e] = sum;
        sum += n;
    }
    if (e < E) { total[e] = sum; }
    __syncthreads();
    if (e == 0) {
        int row = 0;
        for (int j = 0; j < E; j++) {
            start[j] = s->offset[j] = row;
            row += (total[j] + ROW_PAD - 1) / ROW_PAD * ROW_PAD;
        }
        s->offset[E] = row;
    }
    __syncthreads();
    for (int b = 0; e < E && b < blocks; b++) { block_count[(size_t)b * E + e] += start[e]; }
}

__global__ void dispatch_fill_kernel(int* row_of, int* row_token, const int* block_count, const int* open, int N, int E) {
    // One thread for each token. Its row: where the block begins, plus the open tokens of earlier warps, plus those of earlier
    // lanes. So rows stand in token order, whatever order the threads run in.
    __shared__ int warp_count[BLOCK / WARP];
    int i = blockIdx.x * BLOCK + threadIdx.x, warp = threadIdx.x / WARP;
    for (int e = 0; e < E; e++) {
        int mine = i < N && open[(size_t)i * E + e];
        unsigned all = __ballot_sync(0xffffffffu, mine);
        if (lane_index() == 0) { warp_count[warp] = __popc(all); }
        __syncthreads();
        int row = block_count[(size_t)blockIdx.x * E + e] + __popc(all & ((1u << lane_index()) - 1));
        for (int w = 0; w < warp; w++) { row += warp_count[w]; }
        if (i < N) { row_of[(size_t)i * E + e] = mine ? row : -1; } // (M34)
        if (mine) { row_token[row] = i; }
        __syncthreads(); // before warp_count is written again
    }
}

__global__ void fill_kernel(int* out, int x, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) { out[i] = x; }
}

int dispatch(int* row_of, int* row_token, RouteStats* stats, RouteStats* host, int* block_count, const int* open, const int* k,
             const float* score, int N, int E, int room) {
    // open (N, E) -> rows grouped by expert, in token order within an expert, each group padded to a multiple of ROW_PAD
    // row_of (N, E) = row or -1; row_token (room) = token, -1 for padding; host: counts, offsets and what route_stats counts
    // returns R with its padding. The only thing that the host has to wait for in a forward: it needs the sizes.
    int blocks = blocks_for((size_t)N, BLOCK);
    fill_kernel<<<blocks_for((size_t)room, BLOCK), BLOCK>>>(row_token, -1, room);
    LAUNCHED();
    route_stats_kernel<<<2 * E + 1, BLOCK>>>(stats, open, k, score, N, E);
    LAUNCHED();
    dispatch_count_kernel<<<blocks, BLOCK>>>(block_count, open, N, E);
    LAUNCHED();
    dispatch_scan_kernel<<<1, MAX_EXPERTS>>>(block_count, stats, blocks, E);
    LAUNCHED();
    dispatch_fill_kernel<<<blocks, BLOCK>>>(row_of, row_token, block_count, open, N, E);
    LAUNCHED();
    to_host(host, stats, sizeof *host);
    return host->offset[E];
}

template <typename floatX>
__global__ void gather_forward_kernel(floatX* xr, const floatX* x, const int* row_token, int R, int C) { // one warp for each row
    int r = warp_index();
    if (r >= R) { return; }
    int i = row_token[r];
    for (int c = lane_index(); c < C; c += WARP) { // padding rows become 0
        if (i >= 0) { xr[(size_t)r * C + c] = x[(size_t)i * C + c]; } else { store(xr + (size_t)r * C + c, 0.0f); } // (M35)
    }
}

template <typename floatX>
void gather_forward(floatX* xr, const floatX* x, const int* row_token, int R, int C) {
    // xr (R, C): row r is token row_token[r] of x (N, C)
    if (R == 0) { return; }
    gather_forward_kernel<<<WARPS(R)>>>(xr, x, row_token, R, C);
    LAUNCHED();
}

template <typename floatX>
void feedforward_forward(floatX* out, floatX* pre, floatX* act, const floatX* x, const floatX* fcw, const floatX* fcb,
                         const floatX* fcprojw, const floatX* fcprojb, int n, int C, int H) {
    // out (n, C) = gelu(x fcw^T + fcb) fcprojw^T + fcprojb; pre, act (n, H) are kept for backward
    if (!matmul_epilogue(act, x, fcw, 1, n, H, C, CUBLASLT_EPILOGUE_GELU_AUX_BIAS, fcb, pre)) {
        matmul_forward(pre, x, fcw, fcb, n, C, H); // (M40)
        gelu_forward(act, pre, (size_t)n * H); // (M41)
    }
    matmul_forward(out, act, fcprojw, fcprojb, n, H, C); // (M42)
}

template <typename floatX>
void feedforward_backward(floatX* dx, floatX* dpre, float* dfcw, float* dfcb, float* dfcprojw, float* dfcprojb, const floatX* dout,
                          const floatX* x, const floatX* pre, const floatX* act, const floatX* fcw, const floatX* fcprojw,
                          float* scratch, int n, int C, int H) {
    // dout (n, C) -> dx (n, C), which may be dout; dpre (n, H) is scratch; gradients of the weights added
    matmul_backward((floatX*)NULL, dfcprojw, dfcprojb, dout, act, fcprojw, scratch, n, H, C);
    if (!matmul_epilogue(dpre, dout, fcprojw, 0, n, H, C, CUBLASLT_EPILOGUE_DGELU, (const floatX*)NULL, (floatX*)pre)) {
        matmul(dpre, dout, 0, fcprojw, 0, n, H, C, 1.0f, 0.0f); // (M43)
        gelu_backward(dpre, dpre, pre, (size_t)n * H); // (M44)
    }
    matmul_backward(dx, dfcw, dfcb, dpre, x, fcw, scratch, n, C, H); // (M45)
}

Queue* expert_queue(int n) { return &queues[expert_queues > 0 ? 1 + n % expert_queues : 0]; } // of the n-th expert that has rows

template <typename floatX>
void experts_forward(floatX* out, floatX* pre, floatX* act, const floatX* xr, const floatX* fcw, const floatX* fcb,
                     const floatX* fcprojw, const floatX* fcprojb, const int* offset, const int* count, int E, int C, int H) {
    // expert e works on count[e] rows from offset[e] on: xr (R, C), fcw (E, H, C), fcb (E, H), fcprojw (E, C, H), fcprojb (E, C)
    queues_fork(); // xr is written on queue 0
    for (int e = 0, n = 0; e < E; e++) {
        size_t r = (size_t)offset[e], HC = (size_t)H * C;
        if (count[e] == 0) { continue; }
        queue = expert_queue(n++);
        feedforward_forward(out + r * C, pre + r * H, act + r * H, xr + r * C, fcw + e * HC, fcb + (size_t)e * H, fcprojw + e * HC,
                            fcprojb + (size_t)e * C, count[e], C, H);
    }
    queues_join();
}

template <typename floatX>
void experts_backward(floatX* dxr, floatX* dpre, float* dfcw, float* dfcb, float* dfcprojw, float* dfcprojb, const floatX* dout,
                      const floatX* xr, const floatX* pre, const floatX* act, const floatX* fcw, const floatX* fcprojw,
                      float* scratch, const int* offset, const int* count, int E, int C, int H) {
    // dout (R, C) -> dxr (R, C), which may be dout; dpre (R, H) is scratch; weight gradients added. scratch is that of column sums:
    // for each queue the slabs of the expert with the most rows
    int most = 0;
    for (int e = 0; e < E; e++) { most = count[e] > most ? count[e] : most; }
    size_t sums = (size_t)slabs_for(most) * (C > H ? C : H);
    queues_fork(); // dout is written on queue 0
    for (int e = 0, n = 0; e < E; e++) {
        size_t r = (size_t)offset[e], HC = (size_t)H * C;
        if (count[e] == 0) { continue; }
        queue = expert_queue(n++);
        float* own = scratch + (queue > queues ? queue - queues - 1 : 0) * sums;
        feedforward_backward(dxr + r * C, dpre + r * H, dfcw + e * HC, dfcb + (size_t)e * H, dfcprojw + e * HC,
                             dfcprojb + (size_t)e * C, dout + r * C, xr + r * C, pre + r * H, act + r * H, fcw + e * HC,
                             fcprojw + e * HC, own, count[e], C, H);
    }
    queues_join();
}

template <typename floatX>
__global__ void combine_forward_kernel(floatX* y, const floatX* residual, const floatX* out, const int* row_of, const float* weight,
                                       int N, int C, int E) {
    // One warp for each token, lanes stride over C. It gathers the token's rows: no atomics, the order is that of the experts.
    int i = warp_index();
    if (i >= N) { return; }
    for (int c = lane_index(); c < C; c += WARP) {
        float sum = 0.0f;
        for (int e = 0; e < E; e++) {
            int r = row_of[(size_t)i * E + e];
            if (r >= 0) { sum += (weight != NULL ? weight[(size_t)i * E + e] : 1.0f) * value(out[(size_t)r * C + c]); } // (M37)
        }
        store(y + (size_t)i * C + c, residual != NULL ? value(residual[(size_t)i * C + c]) + sum : sum);
    }
}

template <typename floatX>
void combine_forward(floatX* y, const floatX* residual, const floatX* out, const int* row_of, const float* weight, int N, int C,
                     int E) {
    // y (N, C) = residual (N, C; NULL: 0) + sum over the token's rows of out (R, C), times weight (N, E; NULL: 1)       eq. (6)
    combine_forward_kernel<<<WARPS(N)>>>(y, residual, out, row_of, weight, N, C, E);
    LAUNCHED();
}

template <typename floatX>
void gather_backward(floatX* dx, const floatX* dxr, const int* row_of, int N, int C, int E) {
    // forward: xr[row_of[i, e]] = x[i]. dxr (R, C) -> dx (N, C) = sum over the token's rows, 0 for a token without rows
    combine_forward(dx, (const floatX*)NULL, dxr, row_of, (const float*)NULL, N, C, E); // (M36)
}

template <typename floatX>
__global__ void combine_backward_kernel(floatX* dout, float* dweight, const floatX* dy, const floatX* out, const int* row_of,
                                        const float* weight, int N, int C, int E) {
    // one warp for each token
    int i = warp_index(), lane = lane_index();
    if (i >= N) { return; }
    for (int e = 0; e < E; e++) {
        int r = row_of[(size_t)i * E + e];
        float dot = 0.0f, w = weight[(size_t)i * E + e];
        for (int c = lane; r >= 0 && c < C; c += WARP) {
            float d = value(dy[(size_t)i * C + c]);
            dot += d * value(out[(size_t)r * C + c]);
            store(dout + (size_t)r * C + c, w * d); // (M38)
        }
        dot = warp_sum(dot);
        if (lane == 0) { dweight[(size_t)i * E + e] = dot; } // (M39)
    }
}

template <typename floatX>
void combine_backward(floatX* dout, float* dweight, const floatX* dy, const floatX* out, const int* row_of, const float* weight,
                      int N, int C, int E) {
    // forward: y = sum_e weight_e out_e
    // dy (N, C) -> dout (R, C) = weight dy on every row; dweight (N, E) = <dy, out_e>, 0 for closed gates
    combine_backward_kernel<<<WARPS(N)>>>(dout, dweight, dy, out, row_of, weight, N, C, E);
    LAUNCHED();
}

// With the gate on the residual stream each expert owns a LayerNorm: it works on LN_e(x)

template <typename floatX>
void experts_layernorm_forward(floatX* xr, float* mean, float* rstd, const floatX* raw, const floatX* lnw, const floatX* lnb,
                               const int* offset, const int* count, int E, int C) {
    // raw (R, C): rows of x -> xr (R, C) by lnw, lnb (E, C); mean, rstd (R) are kept for backward
    for (int e = 0; e < E; e++) {
        size_t r = (size_t)offset[e];
        if (count[e] == 0) { continue; }
        layernorm_forward(xr + r * C, mean + r, rstd + r, raw + r * C, lnw + (size_t)e * C, lnb + (size_t)e * C, count[e], C);
    }
}

template <typename floatX>
void experts_layernorm_backward_add(floatX* draw, float* dlnw, float* dlnb, const floatX* dxr, const floatX* raw, const float* mean,
                                    const float* rstd, const floatX* lnw, float* scratch, const int* offset, const int* count,
                                    int E, int C) {
    // dxr (R, C) -> draw (R, C), dlnw, dlnb (E, C) added
    for (int e = 0; e < E; e++) {
        size_t r = (size_t)offset[e], eC = (size_t)e * C;
        if (count[e] == 0) { continue; }
        layernorm_backward_add(draw + r * C, dlnw + eC, dlnb + eC, dxr + r * C, raw + r * C, mean + r, rstd + r, lnw + eC, scratch,
                               count[e], C);
    }
}

typedef struct { float of[MAX_EXPERTS]; } PerExpert; // a kernel argument: one number for each expert

__global__ void gate_gradient_kernel(float* dgate, const int* open, const int* k, PerExpert ce, float balance, float efficiency,
                                     int normalised, int N, int E) {
    // One thread for each token: dL/dweight -> dL/dgate (mean_backward), plus the gradients of balance_loss and efficiency_loss.
    // ce: share of the routed tokens that use e; balance: its weight * E / (number of routed tokens)
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= N) { return; }
    float *d = dgate + (size_t)i * E, share = 1.0f / (float)(k[i] > 0 ? k[i] : 1), mean = 0.0f, mean_ce = 0.0f;
    const int* o = open + (size_t)i * E;
    for (int e = 0; e < E; e++) {
        d[e] *= share; // (M46)
        mean += share * d[e];
        mean_ce += o[e] ? share * ce.of[e] : 0.0f;
    }
    for (int e = 0; e < E; e++) {
        if (!o[e]) { continue; }
        if (normalised) { d[e] -= mean; } // (M47)
        if (k[i] > 0) { d[e] += balance * share * (ce.of[e] - mean_ce) + efficiency; } // (M64) (M66)
    }
}

__global__ void gate_backward_scores_kernel(float* dgate, double* sums, const int* open, const float* cosine, const float* xnorm,
                                            const float* wnorm, float tau, int N, int E) {
    // One block for each expert, its threads stride over tokens. dgate (N, E) becomes dL/dcosine / (|x| |W_e|), 0 for closed gates;
    // sums (2, E): of dL/dgate, which moves G, and of dL/dcosine * cosine. Straight-through: sign has derivative 1.
    int e = blockIdx.x;
    double sum_da = 0.0, sum_dc_c = 0.0;
    for (int i = threadIdx.x; i < N; i += BLOCK) {
        size_t ie = (size_t)i * E + e;
        if (!open[ie]) { dgate[ie] = 0.0f; continue; } // (M48)
        float p = sigmoid(tau * cosine[ie]), dc = tau * dgate[ie] * p * (1.0f - p); // (M49)
        int directions = xnorm[i] > NORM_EPS && wnorm[e] > NORM_EPS; // a zero vector has none: no gradient, no NaN
        sum_da += (double)dgate[ie];
        sum_dc_c += directions ? (double)(dc * cosine[ie]) : 0.0;
        dgate[ie] = directions ? dc / (xnorm[i] * wnorm[e]) : 0.0f; // (M51)
    }
    sum_da = block_sum(sum_da);
    sum_dc_c = block_sum(sum_dc_c);
    if (threadIdx.x == 0) { sums[e] = sum_da; sums[E + e] = sum_dc_c; }
}

template <typename floatX>
__global__ void gate_backward_W_kernel(float* partial, const float* dscore, const floatX* x, int N, int C, int E) {
    // partial (slabs, E, C) = sum over a slab's tokens of dscore (N, E) x (N, C). One block for each slab and expert
    int begin = blockIdx.x * SLAB, end = min(N, begin + SLAB), e = blockIdx.y;
    for (int c = threadIdx.x; c < C; c += blockDim.x) {
        float sum = 0.0f;
        for (int i = begin; i < end; i++) {
            float d = dscore[(size_t)i * E + e];
            if (d != 0.0f) { sum += d * value(x[(size_t)i * C + c]); } // (M52) (M75)
        }
        partial[((size_t)blockIdx.x * E + e) * C + c] = sum;
    }
}

__global__ void gate_backward_G_kernel(float* dW, float* dG, const double* sums, const float* W, const float* wnorm, const float* G,
                                       float tau, int C, int E) {
    // one block for each expert: the part of dW along W_e, and dG
    int e = blockIdx.x;
    float q = sigmoid(tau * G[e]), along = (float)sums[E + e];
    if (threadIdx.x == 0) { dG[e] -= tau * q * (1.0f - q) * (float)sums[e]; } // (M50)
    if (wnorm[e] <= NORM_EPS) { return; }
    for (int c = threadIdx.x; c < C; c += blockDim.x) {
        dW[(size_t)e * C + c] -= along * W[(size_t)e * C + c] / (wnorm[e] * wnorm[e]); // (M53)
    }
}

template <typename floatX>
__global__ void gate_backward_x_kernel(floatX* dx, const float* dscore, const float* cosine, const float* xnorm, const float* wnorm,
                                       const floatX* x, const float* W, int N, int C, int E) {
    // One warp for each token: dx += sum_e dscore_e W_e, and with cosines minus the part along x
    int i = warp_index();
    if (i >= N) { return; }
    const float* d = dscore + (size_t)i * E;
    float along = 0.0f; // sum of dL/dcosine * cosine over the token's experts, over |x|^2
    for (int e = 0; cosine != NULL && xnorm[i] > NORM_EPS &&
         e < E; e++) { along += d[e] * wnorm[e] / xnorm[i] * cosine[(size_t)i * E + e]; }
    for (int c = lane_index(); c < C; c += WARP) {
        float sum = value(dx[(size_t)i * C + c]) - along * value(x[(size_t)i * C + c]); // (M55)
        for (int e = 0; e < E; e++) { sum += d[e] != 0.0f ? d[e] * W[(size_t)e * C + c] : 0.0f; } // (M54) (M76)
        store(dx + (size_t)i * C + c, sum);
    }
}

template <typename floatX>
void gate_backward_add(floatX* dx, float* dW, float* dG, float* dgate, const int* open, const float* cosine, const float* xnorm,
                       const float* wnorm, const floatX* x, const float* W, const float* G, float tau, float* scratch, double* sums,
                       int N, int C, int E) {
    // dgate (N, E) = dL/dgate -> added to dx (N, C), dW (E, C), dG (E); dgate becomes scratch. See the C program.
    gate_backward_scores_kernel<<<E, BLOCK>>>(dgate, sums, open, cosine, xnorm, wnorm, tau, N, E);
    LAUNCHED();
    gate_backward_W_kernel<<<dim3(slabs_for(N), E), BLOCK>>>(scratch, dgate, x, N, C, E);
    LAUNCHED();
    add_slabs(dW, scratch, slabs_for(N), E * C);
    gate_backward_G_kernel<<<E, BLOCK>>>(dW, dG, sums, W, wnorm, G, tau, C, E);
    LAUNCHED();
    gate_backward_x_kernel<<<WARPS(N)>>>(dx, dgate, cosine, xnorm, wnorm, x, W, N, C, E);
    LAUNCHED();
}

__global__ void softmax_gate_scores_kernel(float* dweight, const int* open, const float* weight, const float* prob, PerExpert share,
                                           float balance, float entropy, int renormalise, int N, int E) {
    // One thread for each token: dL/dweight -> dL/dlogit. balance and entropy: their weights over N
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= N) { return; }
    const float *p = prob + (size_t)i * E, *w = weight + (size_t)i * E;
    const int* o = open + (size_t)i * E;
    float *d = dweight + (size_t)i * E, taken = 0.0f, along = 0.0f, sum = 0.0f;
    for (int e = 0; e < E; e++) { taken += o[e] ? p[e] : 0.0f; along += w[e] * d[e]; }
    for (int e = 0; e < E; e++) {
        if (!o[e]) { d[e] = 0.0f; } else if (renormalise) { d[e] = (d[e] - along) / taken; } // (M70)
        d[e] += balance * share.of[e] - (p[e] > 0.0f ? entropy * (logf(p[e]) + 1.0f) : 0.0f); // (M73)
        sum += p[e] * d[e];
    }
    for (int e = 0; e < E; e++) { d[e] = p[e] * (d[e] - sum); } // (M74)
}

template <typename floatX>
void softmax_gate_backward_add(floatX* dx, float* dW, float* dweight, const int* open, const float* weight, const float* prob,
                               const floatX* x, const float* W, float balance, PerExpert share, float entropy, int renormalise,
                               float* scratch, int N, int C, int E) {
    softmax_gate_scores_kernel<<<blocks_for((size_t)N, BLOCK), BLOCK>>>(dweight, open, weight, prob, share, balance / (float)N,
                                                                        entropy / (float)N, renormalise, N, E);
    LAUNCHED();
    gate_backward_W_kernel<<<dim3(slabs_for(N), E), BLOCK>>>(scratch, dweight, x, N, C, E);
    LAUNCHED();
    add_slabs(dW, scratch, slabs_for(N), E * C);
    gate_backward_x_kernel<<<WARPS(N)>>>(dx, dweight, (const float*)NULL, (const float*)NULL, (const float*)NULL, x, W, N, C, E);
    LAUNCHED();
}

// The two auxiliary terms that see only W, on the host. eq. (7). Each returns its value and, unless dW is NULL, adds weight *
// its gradient.

float diversity_loss(float* dW, const float* W, const float* wnorm, const int* mask, float weight, int C, int E) {
    // A_ij = <v_i, v_j> for active i != j, v = W/|W| (the diagonal, <v, v> - 1, is 0). F = sqrt(sum_ij A_ij^2), not squared:
    // dv_i = (2/F) sum_j A_ij v_j, dW_i = (dv_i - v_i <v_i, dv_i>) / |W_i|: of length 2 together, however small F; 0 at F = 0
    double A[MAX_EXPERTS * MAX_EXPERTS], along[MAX_EXPERTS], sum = 0.0;
    for (int i = 0; i < E; i++) {
        along[i] = 0.0;
        for (int j = 0; j < E; j++) {
            int both = i != j && mask[i] && mask[j] && wnorm[i] > NORM_EPS && wnorm[j] > NORM_EPS;
            double dot = 0.0;
            for (int c = 0; both && c < C; c++) { dot += (double)W[(size_t)i * C + c] * W[(size_t)j * C + c]; }
            A[i * E + j] = both ? dot / ((double)wnorm[i] * wnorm[j]) : 0.0; // (M57)
            along[i] += A[i * E + j] * A[i * E + j];
        }
        sum += along[i];
    }
    double F = sqrt(sum); // (M58)
    for (int i = 0; dW != NULL && F > 0.0 && i < E; i++) {
        for (int c = 0; along[i] > 0.0 && c < C; c++) {
            double dv = -along[i] * W[(size_t)i * C + c] / wnorm[i]; // minus the part along v_i
            for (int j = 0; j < E; j++) { if (A[i * E + j] != 0.0) { dv += A[i * E + j] * W[(size_t)j * C + c] / wnorm[j]; } }
            dW[(size_t)i * C + c] += (float)(weight * 2.0 / F * dv / wnorm[i]); // (M59)
        }
    }
    return (float)F;
}

float simplicity_loss(float* dW, const float* W, const float* wnorm, const int* mask, float weight, int C, int E) {
    // mean |W_e| over the active rows; dW_e = v_e / their number. The cosine does not see it: it cannot change routing.
    float sum = 0.0f, active = 0.0f;
    for (int e = 0; e < E; e++) { sum += mask[e] ? wnorm[e] : 0.0f; active += (float)mask[e]; }
    for (int e = 0; dW != NULL && e < E; e++) {
        for (int c = 0; mask[e] && wnorm[e] > NORM_EPS && c < C; c++) {
            dW[(size_t)e * C + c] += weight / active * W[(size_t)e * C + c] / wnorm[e]; // (M61)
        }
    }
    return active > 0.0f ? sum / active : 0.0f; // (M60)
}

// ----------------------------------------------------------------------------------------------------------------------
// The adaptive process (Algorithm 1): experts that nobody used in a window go, one comes if some token found none

enum { ADD_NONE = -1, ADD_FULL = -2 }; // what adapt_update returns when it adds nothing: no need, or no free slot

int adapt_update(int* mask, float* W, float* G, int* removed, const int64_t* count, const double* sum, int64_t unrouted,
                 int min_experts, int C, int E) {
    // mask (E), W (E, C), G (E) are changed; removed (E) becomes 1 for experts that went; returns the slot added, or ADD_*
    // Remove first, then add at most one: the lowest free slot, which may be one that was freed just now. The minimum counts
    // the state after both. A removed slot keeps its weights. The caller resets the Adam moments of an added slot.
    double length = 0.0;
    int active = 0, slot = ADD_FULL;
    for (int c = 0; c < C; c++) { length += sum[c] * sum[c]; }
    length = sqrt(length);
    int want = unrouted > 0 && length > 1e-12; // the new row of W is R_S/|R_S|: it needs a direction (M88)
    for (int e = 0; e < E; e++) { active += mask[e]; removed[e] = 0; }
    for (int e = 0; e < E; e++) {
        if (mask[e] && count[e] == 0 && active - 1 + want >= min_experts) { // (M89)
            mask[e] = 0;
            removed[e] = 1;
            active--;
        }
    }
    if (!want) { return ADD_NONE; }
    for (int e = E - 1; e >= 0; e--) { if (!mask[e]) { slot = e; } }
    if (slot >= 0) {
        mask[slot] = 1; // (M90)
        G[slot] = 0.0f;
        for (int c = 0; c < C; c++) { W[(size_t)slot * C + c] = (float)(sum[c] / length); } // (M91)
    }
    return slot;
}

// ----------------------------------------------------------------------------------------------------------------------
// The model: configuration, parameters (one table), activations, forward, backward, update

enum { DIVERSITY, SIMPLICITY, BALANCE, EFFICIENCY, ENTROPY, N_AUX }; // the auxiliary terms

typedef struct {
    int image, planes, patch, classes; // of a picture: side and planes; side of a patch; what there is to tell apart
    int residual;                   // 1: the gate reads the residual stream, and each expert has a LayerNorm; 0: both read ln2
    Norm norm;
    int T, L, NH, C, H, E;          // see the legend at the top; H is the width of an expert, dense layers have 4C
    int S;                          // shared experts, which serve every token: together one layer of width S*H
    int moe[MAX_LAYERS];            // 1: layer l is a DynMoE layer
    int router, topk;               // TOP_ANY ..; K of top-k
    float topp, tau;                // P of top-p; temperature of the top-any gate: scales gradients, changes no decision
    int normalised, train_fallback; // of top-any: convention for k in backward; top-1 fallback in training too
    float aux_weight[N_AUX];
} Config;

// first values: 0, 1, normal(0.02), the same over sqrt(2L), orthonormal rows, --threshold
enum { ZEROS, ONES, NORMAL, RESIDUAL, ORTHOGONAL, THRESHOLD };

// The one list of parameters: field, name in files, shape (0: no such dimension), first value, weight decay
#define MODEL_TENSORS(X) \
    X(patchw,   "patchw",       C, K, 0,        NORMAL,     1) \
    X(patchb,   "patchb",       C, 0, 0,        ZEROS,      0) \
    X(cls,      "cls",          C, 0, 0,        NORMAL,     0) \
    X(wpe,      "wpe",          T, C, 0,        NORMAL,     0) \
    X(lnfw,     "lnfw",         C, 0, 0,        ONES,       0) \
    X(lnfb,     "lnfb",         C, 0, 0,        ZEROS,      0) \
    X(headw,    "headw",        classes, C, 0,  NORMAL,     1) \
    X(headb,    "headb",        classes, 0, 0,  ZEROS,      0)
#define BLOCK_TENSORS(X) \
    X(ln1w,     "ln1w",         C, 0, 0,        ONES,       0) \
    X(ln1b,     "ln1b",         C, 0, 0,        ZEROS,      0) \
    X(qkvw,     "qkvw",         3 * C, C, 0,    NORMAL,     1) \
    X(qkvb,     "qkvb",         3 * C, 0, 0,    ZEROS,      0) \
    X(attprojw, "attprojw",     C, C, 0,        RESIDUAL,   1) \
    X(attprojb, "attprojb",     C, 0, 0,        ZEROS,      0)
#define LN2_TENSORS(X) \
    X(ln2w,     "ln2w",         C, 0, 0,        ONES,       0) \
    X(ln2b,     "ln2b",         C, 0, 0,        ZEROS,      0)
#define DENSE_TENSORS(X) \
    X(fcw,      "fcw",          4 * C, C, 0,    NORMAL,     1) \
    X(fcb,      "fcb",          4 * C, 0, 0,    ZEROS,      0) \
    X(fcprojw,  "fcprojw",      C, 4 * C, 0,    RESIDUAL,   1) \
    X(fcprojb,  "fcprojb",      C, 0, 0,        ZEROS,      0)
#define MOE_TENSORS(X) \
    X(gatew,    "moe.gatew",    E, C, 0,        ORTHOGONAL, 0) \
    X(gateG,    "moe.gateG",    E, 0, 0,        THRESHOLD,  0) \
    X(fcw,      "moe.fcw",      E, H, C,        NORMAL,     1) \
    X(fcb,      "moe.fcb",      E, H, 0,        ZEROS,      0) \
    X(fcprojw,  "moe.fcprojw",  E, C, H,        RESIDUAL,   1) \
    X(fcprojb,  "moe.fcprojb",  E, C, 0,        ZEROS,      0)
#define SHARED_TENSORS(X) \
    X(sfcw,     "shared.fcw",   S * H, C, 0,    NORMAL,     1) \
    X(sfcb,     "shared.fcb",   S * H, 0, 0,    ZEROS,      0) \
    X(sfcprojw, "shared.fcprojw", C, S * H, 0,  RESIDUAL,   1) \
    X(sfcprojb, "shared.fcprojb", C, 0, 0,      ZEROS,      0)
#define EXPERT_NORM_TENSORS(X) \
    X(lnw,      "moe.lnw",      E, C, 0,        ONES,       0) \
    X(lnb,      "moe.lnb",      E, C, 0,        ZEROS,      0)
#define MAX_TENSORS (8 + 18 * MAX_LAYERS)

// the lists of layer l of a configuration c
#define LAYER_TENSORS(X, c) \
    BLOCK_TENSORS(X) \
    if (!(c)->moe[l] || !(c)->residual) { LN2_TENSORS(X) } \
    if (!(c)->moe[l]) { DENSE_TENSORS(X) } else { MOE_TENSORS(X) } \
    if ((c)->moe[l] && (c)->residual) { EXPERT_NORM_TENSORS(X) } \
    if ((c)->moe[l] && (c)->S > 0) { SHARED_TENSORS(X) }

// pointers to what the lists above name: for weights as they are used (floatX), for gradients and for the master copy (float)
template <typename X> struct Block {
    X *ln1w, *ln1b, *qkvw, *qkvb, *attprojw, *attprojb, *ln2w, *ln2b, *gatew, *gateG, *fcw, *fcb, *fcprojw, *fcprojb, *lnw, *lnb;
    X *sfcw, *sfcb, *sfcprojw, *sfcprojb;
};
template <typename X> struct Parameters { X *patchw, *patchb, *cls, *wpe, *lnfw, *lnfb, *headw, *headb; Block<X> h[MAX_LAYERS]; };

typedef struct {                    // one row of the table that is made from the lists
    char name[40];
    int ndim, first, decay, layer;  // layer -1: of the whole model
    int moe, slots;                 // moe: of a DynMoE layer, then slots = E, one slice per expert; else slots = 1
    size_t shape[3], size, offset;  // offset in floats, the same in the memories of parameters, gradients, m and v
} Tensor;

// What lies on the device: type, field, how many. Of a layer, kept from forward for backward; a dense layer has no gate.
// With flash attention there are no (T, T) matrices, and qkvr is qkv as it is, (B, T, 3C).
#define LAYER_MEMORY(X) \
    X(floatX, res, N * C)   X(floatX, ln1, N * C)       X(float, mean1, N)  X(float, rstd1, N)  X(floatX, qkvr, 3 * N * C) \
    X(floatX, att, N * NH * T * !flash) X(float, lse, N * NH * flash) X(floatX, atty, N * C) X(floatX, mid, N * C) \
    X(floatX, ln2, N * C)   X(float, mean2, N)          X(float, rstd2, N)
#define DENSE_MEMORY(X) \
    X(floatX, pre, N * 4 * C) X(floatX, act, N * 4 * C)
#define GATE_MEMORY(X) \
    X(float, score, N * E)  X(float, weight, N * E)     X(float, dgate, N * E) X(float, xnorm, N)   X(float, wnorm, E) \
    X(int, open, N * E)     X(int, k, N)                X(int, row_of, N * E) X(int, row_token, N * E + E * ROW_PAD) \
    X(int, mask, E)         X(double, record_sum, C)    X(RouteStats, stats, 1) \
    X(floatX, spre, N * S * H) X(floatX, sact, N * S * H) X(floatX, sout, N * C * (S > 0))
// Of the whole model. The second list is scratch of backward (sums: for sums over slabs); qkv and half of the first of both
#define MODEL_MEMORY(X) \
    X(Item, items, B)       X(floatX, patches, B * K * (T - 1)) X(floatX, res, N * C) X(floatX, lnf, N * C) \
    X(float, meanf, N)      X(float, rstdf, N)          X(floatX, clsf, B * C) X(floatX, logits, B * classes) \
    X(float, losses, B)     X(floatX, qkv, N * 3 * C)   X(floatX, half, N * C) X(int, block_count, (N / BLOCK + 1) * E) \
    X(double, expert_sums, 2 * E + 64) X(double, squares, NORM_BLOCKS)
#define BACKWARD_MEMORY(X) \
    X(floatX, dres, N * C)  X(floatX, dln, N * C)       X(floatX, datty, N * C) X(floatX, dclsf, B * C) \
    X(floatX, datt, N * NH * T * !flash) X(floatX, dqkvr, 3 * N * C * !flash) X(float, delta, N * NH * flash) \
    X(float, sums, (N / SLAB + 1) * widest)
#define NORM_BLOCKS 256

typedef struct { int calls; cudaGraphExec_t exec; } Replay; // work that is always the same, see replay
static int use_graphs;                                      // --graph

#define FIELD(type, field, count) type* field;
template <typename floatX> struct DeviceLayer {
    LAYER_MEMORY(FIELD)
    DENSE_MEMORY(FIELD)
    GATE_MEMORY(FIELD)
    Replay forward, backward;       // of the attention half
    floatX *rows, *xr, *out;        // memory of the routed rows: xr (R, C), out (R, C), pre (R, H), act (R, H)
    floatX* raw;                    // behind them for expert LayerNorms: raw (R, C); mean and rstd (R) of their rows
    float *row_stats, *row_mean, *row_rstd;
    size_t rows_size, row_stats_size;
};

template <typename floatX> struct Device {
    float *master, *grads, *m, *v, *ema; // (n_memory) each; the last four NULL without training, ema without --ema
    floatX* params;                 // (n_memory): the weights that kernels use; the master itself if floatX is float
    Parameters<floatX> p;
    Parameters<float> master_p, g;
    DeviceLayer<floatX> layer[MAX_LAYERS];
    MODEL_MEMORY(FIELD)
    BACKWARD_MEMORY(FIELD)
    floatX* drow;                   // gradients of the rows of one layer, grown when R does
    size_t drow_size;
};

typedef struct {                    // what the host knows of a layer
    int offset[MAX_EXPERTS + 1], R; // see dispatch
    float aux[N_AUX];               // values of the auxiliary terms
    int count[MAX_EXPERTS], used[MAX_EXPERTS], hist[MAX_EXPERTS + 1]; // see RouteStats
    float low[MAX_EXPERTS], high[MAX_EXPERTS];
    PerExpert share;                // see softmax_losses of the C program; for top-any the share of routed tokens
    int mask[MAX_EXPERTS], unrouted; // m of the paper; tokens with k = 0 in the last forward
    int64_t record_count[MAX_EXPERTS], record_unrouted;
    double* record_sum;             // (C); with the two above: R_E, their number, R_S of the adaptive process
} Layer;

typedef struct {
    Config config;
    Tensor table[MAX_TENSORS];
    int n_tensors, bf16, training;  // bf16: floatX is __nv_bfloat16
    int flash;                      // attention without (T, T) matrices; a wish before vit_plan, then whether it is so
    int with_ema;                   // an exponential moving average of the parameters is kept; validation uses it
    size_t n_params, n_memory;      // numbers; with the gaps between tensors
    float *params_memory, *m_memory, *v_memory, *ema_memory; // (n_memory) on the host: what files are read into and written from
    void* device;                   // Device<float> or Device<bf16>
    Layer layer[MAX_LAYERS];
    float *losses, *logits;         // on the host: (B) of the last forward; (B, classes), see vit_logits
    size_t act_bytes;
    int max_B, B, T, step;          // allocated for; of the last forward; the training step, for messages
    const Item* items;              // of the last forward
    int recording;                  // training forwards add to the records
    int keep_logits;                // for tests: a training forward leaves logits, not their gradient; no backward then
    float ce, aux;                  // of the last forward: mean cross-entropy; weighted sum of auxiliary terms
} ViT;

void add_tensor(ViT* model, int layer, const char* name, int a, int b, int c, int first, int decay) { // one row of the table
    Tensor* t = &model->table[model->n_tensors++];
    if (layer >= 0) { snprintf(t->name, sizeof t->name, "h.%d.%s", layer, name); }
    else { snprintf(t->name, sizeof t->name, "%s", name); }
    t->ndim = c > 0 ? 3 : b > 0 ? 2 : 1;
    t->shape[0] = (size_t)a; t->shape[1] = (size_t)b; t->shape[2] = (size_t)c;
    t->size = (size_t)a * (b > 0 ? (size_t)b : 1) * (c > 0 ? (size_t)c : 1);
    t->first = first; t->decay = decay; t->layer = layer;
    t->moe = strncmp(name, "moe.", 4) == 0;
    t->slots = t->moe ? model->config.E : 1;
    t->offset = model->n_memory;
    model->n_params += t->size;
    model->n_memory += (t->size + 63) / 64 * 64; // cuBLAS wants weights and biases at multiples of 16 bytes, and is fast at 128
}

void parameters_layout(ViT* model) { // fills the table from the lists above
    const Config* c = &model->config;
    int T = c->T, C = c->C, H = c->H, E = c->E, S = c->S, K = c->planes * c->patch * c->patch, classes = c->classes;
    model->n_tensors = 0;
    model->n_params = model->n_memory = 0;
    #define X(f, name, a, b, c, first, decay) add_tensor(model, -1, name, a, b, c, first, decay);
    MODEL_TENSORS(X)
    #undef X
    #define X(f, name, a, b, c, first, decay) add_tensor(model, l, name, a, b, c, first, decay);
    for (int l = 0; l < c->L; l++) { LAYER_TENSORS(X, c) }
    #undef X
}

template <typename X>
void parameters_point(Parameters<X>* p, X* memory, const ViT* model) { // in the order of the table
    const Tensor* t = model->table;
    #define X(f, name, a, b, c, first, decay) p->f = memory + (t++)->offset;
    MODEL_TENSORS(X)
    #undef X
    #define X(f, name, a, b, c, first, decay) p->h[l].f = memory + (t++)->offset;
    for (int l = 0; l < model->config.L; l++) { LAYER_TENSORS(X, &model->config) }
    #undef X
}

template <typename floatX>
size_t activations_alloc(Device<floatX>* d, const Config* c, size_t B, int training, int flash) {
    // allocates every activation by itself (what writes past its end is then caught by a memory checker); with d = NULL only
    // counts. Returns the bytes.
    static Device<floatX> nobody;
    Device<floatX>* real = d;
    size_t bytes = 0, T = (size_t)c->T, N = B * T, C = (size_t)c->C, E = (size_t)c->E, NH = (size_t)c->NH, S = (size_t)c->S;
    size_t K = (size_t)c->planes * c->patch * c->patch, classes = (size_t)c->classes;
    size_t H = (size_t)c->H, widest = 4 * C; // columns that are summed over tokens: of a layer, of an expert, of all W
    widest = (S + 1) * H > widest ? (S + 1) * H : widest;
    widest = E * C > widest ? E * C : widest;
    widest = E > 0 && EXPERT_STREAMS * H > widest ? EXPERT_STREAMS * H : widest;
    widest = E > 0 && EXPERT_STREAMS * C > widest ? EXPERT_STREAMS * C : widest;
    if (d == NULL) { d = &nobody; }
    #define X(type, field, count) bytes += (count) * sizeof(type); \
        if (real != NULL) { a->field = (type*)device_alloc((count), sizeof(type), "activations"); } \
        require(bytes <= SIZE_MAX / 8, "lower --batch, --channels or --layers", "more activations than this machine can address");
    for (int l = 0; l < c->L; l++) {
        DeviceLayer<floatX>* a = &d->layer[l];
        LAYER_MEMORY(X)
        if (c->moe[l]) { GATE_MEMORY(X) } else { DENSE_MEMORY(X) }
    }
    Device<floatX>* a = d;
    MODEL_MEMORY(X)
    if (training) { BACKWARD_MEMORY(X) }
    #undef X
    return bytes;
}

void vit_plan(ViT* model, Config config, int B, int training) {
    // lays out without allocating: the table, n_params, n_memory, act_bytes. model->bf16, with_ema and flash are kept
    int is_bf16 = model->bf16, with_ema = model->with_ema, flash = model->flash;
    memset(model, 0, sizeof *model);
    model->bf16 = is_bf16;
    model->with_ema = with_ema && training;
    model->config = config;
    model->flash = flash && is_bf16 && config.C == TILE * config.NH; // what its kernels are made for
    model->training = training;
    model->max_B = B;
    parameters_layout(model);
    model->act_bytes = is_bf16 ? activations_alloc((Device<bf16>*)NULL, &config, (size_t)B, training, model->flash)
                               : activations_alloc((Device<float>*)NULL, &config, (size_t)B, training, model->flash);
}

template <typename floatX>
void device_build(ViT* model) {
    Device<floatX>* d = (Device<floatX>*)alloc_zeroed(1, sizeof(Device<floatX>), "the model");
    size_t n = model->n_memory;
    model->device = d;
    d->master = (float*)device_alloc(n, sizeof(float), "parameters");
    d->params = sizeof(floatX) == sizeof(float) ? (floatX*)d->master : (floatX*)device_alloc(n, sizeof(floatX), "parameters");
    if (model->training) {
        d->grads = (float*)device_alloc(n, sizeof(float), "gradients");
        d->m = (float*)device_alloc(n, sizeof(float), "Adam's first moments");
        d->v = (float*)device_alloc(n, sizeof(float), "Adam's second moments");
        d->ema = model->with_ema ? (float*)device_alloc(n, sizeof(float), "the averaged parameters") : NULL;
    }
    parameters_point(&d->p, d->params, model);
    parameters_point(&d->master_p, d->master, model);
    parameters_point(&d->g, d->grads, model);
    activations_alloc(d, &model->config, (size_t)model->max_B, model->training, model->flash);
}

void vit_build(ViT* model, Config config, int B, int training) {
    // allocates, all zero, no expert active, on the device and its mirror on the host; see vit_to_device
    vit_plan(model, config, B, training);
    size_t n = model->n_memory;
    model->params_memory = (float*)alloc_zeroed(n, sizeof(float), "parameters");
    model->m_memory = (float*)alloc_zeroed(training ? n : 0, sizeof(float), "Adam's first moments");
    model->v_memory = (float*)alloc_zeroed(training ? n : 0, sizeof(float), "Adam's second moments");
    model->ema_memory = (float*)alloc_zeroed(model->with_ema ? n : 0, sizeof(float), "the averaged parameters");
    model->losses = (float*)alloc_zeroed((size_t)B * (1 + (size_t)config.classes), sizeof(float), "losses");
    model->logits = model->losses + B;
    for (int l = 0; l < config.L; l++) {
        model->layer[l].record_sum = (double*)alloc_zeroed((size_t)config.C, sizeof(double), "records");
    }
    if (model->bf16) { device_build<bf16>(model); } else { device_build<float>(model); }
}

template <typename floatX>
void device_free(ViT* model) {
    Device<floatX>* d = (Device<floatX>*)model->device;
    const Config* c = &model->config;
    #define X(type, field, count) cudaFree(a->field);
    for (int l = 0; l < c->L; l++) {
        DeviceLayer<floatX>* a = &d->layer[l];
        LAYER_MEMORY(X)
        if (c->moe[l]) { GATE_MEMORY(X) } else { DENSE_MEMORY(X) }
        if (a->forward.exec != NULL) { cudaGraphExecDestroy(a->forward.exec); }
        if (a->backward.exec != NULL) { cudaGraphExecDestroy(a->backward.exec); }
        cudaFree(a->rows); cudaFree(a->row_stats);
    }
    Device<floatX>* a = d;
    MODEL_MEMORY(X)
    if (model->training) { BACKWARD_MEMORY(X) }
    #undef X
    if ((void*)d->params != (void*)d->master) { cudaFree(d->params); }
    cudaFree(d->master); cudaFree(d->grads); cudaFree(d->m); cudaFree(d->v); cudaFree(d->ema); cudaFree(d->drow);
    free(d);
}

void vit_free(ViT* model) {
    if (model->bf16) { device_free<bf16>(model); } else { device_free<float>(model); }
    for (int l = 0; l < model->config.L; l++) { free(model->layer[l].record_sum); }
    free(model->params_memory); free(model->m_memory); free(model->v_memory); free(model->ema_memory); free(model->losses);
    memset(model, 0, sizeof *model);
}

template <typename floatX>
__global__ void convert_kernel(floatX* out, const float* inp, size_t n) { // one thread for each number
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) { store(out + i, inp[i]); }
}

template <typename floatX>
void device_copy(ViT* model, int to_gpu) { // between the host's memories and the device's
    Device<floatX>* d = (Device<floatX>*)model->device;
    size_t bytes = model->n_memory * sizeof(float);
    float *host[] = {model->params_memory, model->m_memory, model->v_memory, model->ema_memory};
    float* device[] = {d->master, d->m, d->v, d->ema};
    for (int i = 0; i < (model->training ? 3 + model->with_ema : 1); i++) {
        if (to_gpu) { to_device(device[i], host[i], bytes); } else { to_host(host[i], device[i], bytes); }
    }
    for (int l = 0; l < model->config.L; l++) {
        Layer* a = &model->layer[l];
        size_t sums = (size_t)model->config.C * sizeof(double);
        if (!model->config.moe[l]) { continue; }
        if (to_gpu) { to_device(d->layer[l].record_sum, a->record_sum, sums); } else { to_host(a->record_sum,
                                                                                               d->layer[l].record_sum, sums); }
        if (to_gpu) { to_device(d->layer[l].mask, a->mask, (size_t)model->config.E * sizeof(int)); }
    }
    if (!to_gpu || sizeof(floatX) == sizeof(float)) { return; }
    convert_kernel<<<blocks_for(model->n_memory, BLOCK), BLOCK>>>(d->params, d->master, model->n_memory);
    LAUNCHED();
}

// After vit_init or after a file was read, and before one is written
void vit_to_device(ViT* model) { if (model->bf16) { device_copy<bf16>(model, 1); } else { device_copy<float>(model, 1); } }
void vit_to_host(ViT* model) { if (model->bf16) { device_copy<bf16>(model, 0); } else { device_copy<float>(model, 0); } }

template <typename floatX>
floatX* reserve(floatX** memory, size_t* size, size_t n, const char* what) { // room for n numbers; contents are not kept
    if (n > *size) {
        if (*memory != NULL) { CUDA(cudaFree(*memory)); }
        *size = n + n / 8 + 64; // a little more, so that it grows rarely
        *memory = (floatX*)device_alloc(*size, sizeof(floatX), what);
    }
    return *memory;
}

template <typename floatX>
void rows_reserve(DeviceLayer<floatX>* a, int R, int C, int H, int residual) {
    // points xr (R, C), out (R, C), pre (R, H), act (R, H) and, for expert LayerNorms, raw (R, C), mean and rstd (R) into memory
    a->xr = reserve(&a->rows, &a->rows_size, (size_t)R * ((2 + residual) * (size_t)C + 2 * (size_t)H), "the rows of a layer");
    a->out = a->xr + (size_t)R * C;
    a->pre = a->out + (size_t)R * C;
    a->act = a->pre + (size_t)R * H;
    a->raw = a->act + (size_t)R * H;
    if (!residual) { return; }
    a->row_mean = reserve(&a->row_stats, &a->row_stats_size, 2 * (size_t)R, "the rows of a layer");
    a->row_rstd = a->row_mean + R;
}

// What several GPUs would have to add up passes through here: gradients before they are used, records at the end of a window,
// losses. With one GPU there is nothing to do.
template <typename X>
void comm_sum(X* data, size_t n) { (void)data; (void)n; }

void orthogonal_rows(float* W, int E, int C, uint64_t* rng) {
    // W (E, C), E <= C: orthonormal rows, by Gram-Schmidt in double, twice because once leaves rounding errors behind
    double* w = (double*)alloc_zeroed((size_t)E * C, sizeof(double), "orthogonal rows");
    for (int i = 0; i < E * C; i++) { w[i] = random_normal(rng); }
    for (int pass = 0; pass < 2; pass++) {
        for (int e = 0; e < E; e++) {
            double norm = 0.0;
            for (int j = 0; j < e; j++) {
                double dot = 0.0;
                for (int c = 0; c < C; c++) { dot += w[e * C + c] * w[j * C + c]; }
                for (int c = 0; c < C; c++) { w[e * C + c] -= dot * w[j * C + c]; } // (M92)
            }
            for (int c = 0; c < C; c++) { norm += w[e * C + c] * w[e * C + c]; }
            for (int c = 0; c < C; c++) { w[e * C + c] /= sqrt(norm); } // (M93)
        }
    }
    for (int i = 0; i < E * C; i++) { W[i] = (float)w[i]; }
    free(w);
}

void tensor_init(ViT* model, const Tensor* t, int copies, float threshold, uint64_t* rng) {
    // first values of one tensor. With copies all experts of a layer start equal, else each has its own random weights.
    const Config* c = &model->config;
    float* p = model->params_memory + t->offset;
    size_t drawn = copies ? t->size / t->slots : t->size;
    float std = t->first == RESIDUAL ? 0.02f / sqrtf(2.0f * (float)c->L) : 0.02f;
    if (t->first == ORTHOGONAL) { orthogonal_rows(p, c->E, c->C, rng); return; }
    for (size_t j = 0; j < drawn; j++) {
        p[j] = t->first == ZEROS ? 0.0f : t->first == ONES ? 1.0f : t->first == THRESHOLD ? threshold :
               std * (float)random_normal(rng);
    }
    for (size_t j = drawn; t->slots > 1 && j < t->size; j++) { p[j] = p[j - drawn]; }
}

void vit_init(ViT* model, int start_experts, int copies, float threshold, uint64_t* rng) {
    // GPT-2's first values, which suit a ViT too; in DynMoE layers orthonormal W, G = threshold, and start_experts active experts
    for (int i = 0; i < model->n_tensors; i++) { tensor_init(model, &model->table[i], copies, threshold, rng); }
    for (int l = 0; l < model->config.L; l++) {
        for (int e = 0; e < model->config.E; e++) { model->layer[l].mask[e] = e < start_experts; }
    }
}

int router_K(const Config* c) { return c->router == TOP_K ? c->topk : c->E; } // experts that a softmax router takes at most

template <typename floatX>
void route_losses(ViT* model, Device<floatX>* d, int l, int N) {
    // values of the auxiliary terms that have a weight, from what the host knows and sums over tokens
    const Config* c = &model->config;
    Layer* a = &model->layer[l];
    DeviceLayer<floatX>* g = &d->layer[l];
    int C = c->C, E = c->E, active = 0, n1 = N - a->unrouted, per = c->router == TOP_P ? 1 : router_K(c);
    double sums[MAX_EXPERTS], rows = 0.0;
    for (int e = 0; e < E; e++) { active += a->mask[e]; }
    for (int k = 0; k <= E; k++) { rows += (double)k * a->hist[k]; }
    if (per > active && c->router != TOP_P) { per = active; }
    memset(a->aux, 0, sizeof a->aux);
    a->aux[EFFICIENCY] = (float)(rows / ((double)N * E)); // (M65)
    for (int e = 0; e < E; e++) { // top-any: ce_e, of the routed tokens; softmax: E_a / n * the part of the tokens that use e
        a->share.of[e] = c->router == TOP_ANY ? (n1 > 0 ? (float)((double)a->used[e] / n1) : 0.0f) // (M62) (M71)
                                              : (float)((double)active / per * a->count[e] / N);
    }
    if (c->aux_weight[BALANCE] != 0.0f) {
        double sum = 0.0;
        token_sums(sums, c->router == TOP_ANY ? g->weight : g->score, d->expert_sums, N, E, 0);
        for (int e = 0; e < E; e++) { // of the weights, those that the fallback gave do not count: 1 for each token that it served
            double mean = c->router != TOP_ANY ? sums[e] / N : n1 > 0 ? (sums[e] - (a->count[e] - a->used[e])) / n1 : 0.0;
            sum += mean * (double)a->share.of[e];
        }
        a->aux[BALANCE] = (float)(c->router == TOP_ANY ? E * sum : sum); // (M63)
    }
    if (c->aux_weight[ENTROPY] != 0.0f) {
        token_sums(sums, g->score, d->expert_sums, N, E, 1);
        for (int e = 0; e < E; e++) { a->aux[ENTROPY] += (float)(sums[e] / N); }
    }
    if (c->aux_weight[DIVERSITY] == 0.0f && c->aux_weight[SIMPLICITY] == 0.0f) { return; }
    float *W = (float*)alloc_zeroed((size_t)E * C, sizeof(float), "a gate"), wnorm[MAX_EXPERTS];
    to_host(W, d->master_p.h[l].gatew, (size_t)E * C * sizeof(float));
    for (int e = 0; e < E; e++) { wnorm[e] = norm_of(W + (size_t)e * C, C); }
    a->aux[DIVERSITY] = diversity_loss(NULL, W, wnorm, a->mask, 0.0f, C, E);
    a->aux[SIMPLICITY] = simplicity_loss(NULL, W, wnorm, a->mask, 0.0f, C, E);
    free(W);
}

template <typename floatX>
void row_losses_backward(ViT* model, Device<floatX>* d, int l, float aux_scale) {
    // gradients of diversity and simplicity, which see only the E rows of W: computed on the host, added on the device
    const Config* c = &model->config;
    const Layer* a = &model->layer[l];
    size_t n = (size_t)c->E * c->C;
    if (c->aux_weight[DIVERSITY] == 0.0f && c->aux_weight[SIMPLICITY] == 0.0f) { return; }
    float *W = (float*)alloc_zeroed(2 * n, sizeof(float), "a gate"), *dW = W + n, wnorm[MAX_EXPERTS];
    to_host(W, d->master_p.h[l].gatew, n * sizeof(float));
    for (int e = 0; e < c->E; e++) { wnorm[e] = norm_of(W + (size_t)e * c->C, c->C); }
    if (c->aux_weight[DIVERSITY] != 0.0f) {
        diversity_loss(dW, W, wnorm, a->mask, aux_scale * c->aux_weight[DIVERSITY], c->C, c->E);
    }
    if (c->aux_weight[SIMPLICITY] != 0.0f) {
        simplicity_loss(dW, W, wnorm, a->mask, aux_scale * c->aux_weight[SIMPLICITY], c->C, c->E);
    }
    to_device(d->sums, dW, n * sizeof(float));
    add_slabs(d->g.h[l].gatew, d->sums, 1, (int)n);
    free(W);
}

template <typename floatX>
__global__ void record_sum_kernel(double* sum, const int* k, const floatX* x, int N, int C) {
    // sum (C) += the raw x of tokens with k = 0, in token order. One thread for each channel
    int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= C) { return; }
    double s = sum[c];
    for (int i = 0; i < N; i++) { if (k[i] == 0) { s += (double)value(x[(size_t)i * C + c]); } } // (M87)
    sum[c] = s;
}

// x (N, C) -> y (N, C) = residual + one DynMoE layer
template <typename floatX>
void moe_forward(ViT* model, Device<floatX>* d, int l, floatX* y, const floatX* residual, const floatX* x, int N, int training) {
    const Config* c = &model->config;
    const Block<floatX>* p = &d->p.h[l];
    Layer* a = &model->layer[l];
    DeviceLayer<floatX>* g = &d->layer[l];
    int C = c->C, E = c->E, K = router_K(c);
    RouteStats stats;
    if (c->router == TOP_ANY) {
        gate_forward(g->open, g->k, g->weight, g->score, g->xnorm, g->wnorm, x, d->master_p.h[l].gatew, d->master_p.h[l].gateG,
                     g->mask, !training || c->train_fallback, N, C, E);
    } else {
        softmax_gate_forward(g->open, g->k, g->weight, g->score, x, d->master_p.h[l].gatew, g->mask, K,
                             c->router == TOP_P ? c->topp : INFINITY, c->router == TOP_K && K > 1, N, C, E);
    }
    a->R = dispatch(g->row_of, g->row_token, g->stats, &stats, d->block_count, g->open, g->k, g->score, N, E, N * E + E * ROW_PAD);
    memcpy(a->count, stats.count, sizeof a->count);
    memcpy(a->used, stats.used, sizeof a->used);
    memcpy(a->hist, stats.hist, sizeof a->hist);
    memcpy(a->low, stats.low, sizeof a->low);
    memcpy(a->high, stats.high, sizeof a->high);
    memcpy(a->offset, stats.offset, sizeof a->offset);
    a->unrouted = stats.hist[0];
    rows_reserve(g, a->R, C, c->H, c->residual);
    gather_forward(c->residual ? g->raw : g->xr, x, g->row_token, a->R, C);
    if (c->residual) {
        experts_layernorm_forward(g->xr, g->row_mean, g->row_rstd, g->raw, p->lnw, p->lnb, a->offset, a->count, E, C);
    }
    experts_forward(g->out, g->pre, g->act, g->xr, p->fcw, p->fcb, p->fcprojw, p->fcprojb, a->offset, a->count, E, C, c->H);
    combine_forward(y, residual, g->out, g->row_of, g->weight, N, C, E);
    if (c->S > 0) { // shared experts: one feed-forward layer beside the routed ones
        feedforward_forward(g->sout, g->spre, g->sact, x, p->sfcw, p->sfcb, p->sfcprojw, p->sfcprojb, N, C, c->S * c->H);
        residual_forward(y, y, g->sout, (size_t)N * C); // (M77)
    }
    if (!training) { return; }
    route_losses(model, d, l, N);
    for (int i = 0; i < N_AUX; i++) { model->aux += c->aux_weight[i] * a->aux[i]; } // (M56)
    if (!model->recording) { return; }
    for (int e = 0; e < E; e++) { a->record_count[e] += a->used[e]; } // (M86)
    a->record_unrouted += a->unrouted;
    record_sum_kernel<<<blocks_for((size_t)C, WARP), WARP>>>(g->record_sum, g->k, x, N, C);
    LAUNCHED();
}

// dy (N, C) -> dx (N, C) overwritten; gradients of the experts, of W and of G added. aux_scale: weight of this micro-batch
template <typename floatX>
void moe_backward(ViT* model, Device<floatX>* d, int l, floatX* dx, const floatX* dy, const floatX* x, int N, float aux_scale) {
    const Config* c = &model->config;
    const Block<floatX>* p = &d->p.h[l];
    const Block<float>*q = &d->master_p.h[l], *dp = &d->g.h[l];
    const Layer* a = &model->layer[l];
    DeviceLayer<floatX>* g = &d->layer[l];
    int C = c->C, E = c->E, SH = c->S * c->H, n1 = N - a->unrouted;
    size_t rows = (size_t)a->R * ((1 + c->residual) * C + c->H), shared_rows = SH > 0 ? (size_t)N * (C + SH) : 0;
    floatX* drow = reserve(&d->drow, &d->drow_size, rows > shared_rows ? rows : shared_rows, "row gradients");
    floatX* draw = drow + (size_t)a->R * (C + c->H); // of the rows before the expert LayerNorms
    combine_backward(drow, g->dgate, dy, g->out, g->row_of, g->weight, N, C, E);
    experts_backward(drow, drow + (size_t)a->R * C, dp->fcw, dp->fcb, dp->fcprojw, dp->fcprojb, drow, g->xr, g->pre, g->act, p->fcw,
                     p->fcprojw, d->sums, a->offset, a->count, E, C, c->H);
    if (c->residual) {
        CUDA(cudaMemset(draw, 0, (size_t)a->R * C * sizeof(floatX)));
        experts_layernorm_backward_add(draw, dp->lnw, dp->lnb, drow, g->raw, g->row_mean, g->row_rstd, p->lnw, d->sums, a->offset,
                                       a->count, E, C);
    }
    gather_backward(dx, c->residual ? draw : drow, g->row_of, N, C, E);
    if (c->router == TOP_ANY) {
        float balance = n1 > 0 ? aux_scale * c->aux_weight[BALANCE] * (float)E / (float)n1 : 0.0f;
        gate_gradient_kernel<<<blocks_for((size_t)N, BLOCK), BLOCK>>>(g->dgate, g->open, g->k, a->share, balance,
            aux_scale * c->aux_weight[EFFICIENCY] / ((float)N * (float)E), c->normalised, N, E);
        LAUNCHED();
        gate_backward_add(dx, dp->gatew, dp->gateG, g->dgate, g->open, g->score, g->xnorm, g->wnorm, x, q->gatew, q->gateG, c->tau,
                          d->sums, d->expert_sums, N, C, E);
    } else {
        softmax_gate_backward_add(dx, dp->gatew, g->dgate, g->open, g->weight, g->score, x, q->gatew,
                                  aux_scale * c->aux_weight[BALANCE], a->share, aux_scale * c->aux_weight[ENTROPY],
                                  c->router == TOP_K && c->topk > 1, d->sums, N, C, E);
    }
    row_losses_backward(model, d, l, aux_scale);
    if (SH > 0) {
        feedforward_backward(drow, drow + (size_t)N * C, dp->sfcw, dp->sfcb, dp->sfcprojw, dp->sfcprojb, dy, x, g->spre, g->sact,
                             p->sfcw, p->sfcprojw, d->sums, N, C, SH);
        residual_forward(dx, dx, drow, (size_t)N * C); // (M78)
    }
}

template <typename floatX>
void attention_half_forward(ViT* model, Device<floatX>* d, int l, int B, int T) { // ln1 -> mid and ln2
    const Block<floatX>* p = &d->p.h[l];
    DeviceLayer<floatX>* a = &d->layer[l];
    int N = B * T, C = model->config.C;
    floatX* qkv = model->flash ? a->qkvr : d->qkv;
    matmul_forward(qkv, a->ln1, p->qkvw, p->qkvb, N, C, 3 * C);
    if (model->flash) { flash_forward((bf16*)a->atty, a->lse, (const bf16*)qkv, B, T, C, CAUSAL); } // then floatX is bf16
    else { attention_forward(a->atty, a->att, a->qkvr, d->half, qkv, B, T, C, model->config.NH, CAUSAL); }
    matmul_forward(d->half, a->atty, p->attprojw, p->attprojb, N, C, C);
    if (model->config.moe[l] && model->config.residual) { residual_forward(a->mid, d->half, a->res, (size_t)N * C); return; }
    residual_layernorm_forward(a->mid, a->ln2, a->mean2, a->rstd2, d->half, a->res, p->ln2w, p->ln2b, N, C);
}

template <typename floatX>
void attention_half_backward(ViT* model, Device<floatX>* d, int l, int B, int T) { // dres: of mid -> of res, in place
    const Block<floatX>* p = &d->p.h[l];
    const Block<float>* g = &d->g.h[l];
    DeviceLayer<floatX>* a = &d->layer[l];
    int N = B * T, C = model->config.C;
    matmul_backward(d->datty, g->attprojw, g->attprojb, d->dres, a->atty, p->attprojw, d->sums, N, C, C);
    if (model->flash) {
        flash_backward((bf16*)d->qkv, d->delta, (const bf16*)d->datty, (const bf16*)a->atty, a->lse, (const bf16*)a->qkvr, B, T, C,
                       CAUSAL);
    } else { attention_backward(d->qkv, d->datt, d->dqkvr, d->half, d->datty, a->att, a->qkvr, B, T, C, model->config.NH); }
    matmul_backward(d->dln, g->qkvw, g->qkvb, d->qkv, a->ln1, p->qkvw, d->sums, N, C, 3 * C);
    layernorm_backward_add(d->dres, g->ln1w, g->ln1b, d->dln, a->res, a->mean1, a->rstd1, p->ln1w, d->sums, N, C);
}

template <typename floatX>
void replay(Replay* r, void (*half)(ViT*, Device<floatX>*, int, int, int), ViT* model, Device<floatX>* d, int l, int B, int T) {
    // Calls half. What that launches is the same in each step: it has no argument that changes, and never waits for the GPU. So
    // with --graph it is captured once, and then started by one call. Not the first time, when cuBLAS loads its kernels, and
    // not for batches of another size.
    if (!use_graphs || B != model->max_B || T != model->config.T || r->calls++ == 0) { half(model, d, l, B, T); return; }
    if (r->exec == NULL) {
        cudaGraph_t graph;
        CUDA(cudaStreamBeginCapture(queues[0].stream, cudaStreamCaptureModeThreadLocal));
        half(model, d, l, B, T);
        CUDA(cudaStreamEndCapture(queues[0].stream, &graph));
        CUDA(cudaGraphInstantiateWithFlags(&r->exec, graph, 0));
        CUDA(cudaGraphDestroy(graph));
    }
    CUDA(cudaGraphLaunch(r->exec, queues[0].stream));
}

template <typename floatX>
void feedforward_half_forward(ViT* model, Device<floatX>* d, int l, int N, int training) {
    // mid and ln2 -> the next layer's res and ln1, or behind the last layer res and lnf
    const Block<floatX>* p = &d->p.h[l];
    DeviceLayer<floatX>* a = &d->layer[l];
    int C = model->config.C, last = l + 1 == model->config.L;
    DeviceLayer<floatX>* next = &d->layer[last ? l : l + 1];
    floatX *res = last ? d->res : next->res, *ln = last ? d->lnf : next->ln1;
    float *mean = last ? d->meanf : next->mean1, *rstd = last ? d->rstdf : next->rstd1;
    const floatX *w = last ? d->p.lnfw : d->p.h[l + 1].ln1w, *b = last ? d->p.lnfb : d->p.h[l + 1].ln1b;
    if (model->config.moe[l]) {
        moe_forward(model, d, l, res, a->mid, model->config.residual ? a->mid : a->ln2, N, training);
        layernorm_forward(ln, mean, rstd, res, w, b, N, C);
    } else {
        feedforward_forward(d->half, a->pre, a->act, a->ln2, p->fcw, p->fcb, p->fcprojw, p->fcprojb, N, C, 4 * C);
        residual_layernorm_forward(res, ln, mean, rstd, d->half, a->mid, w, b, N, C);
    }
}

template <typename floatX>
void feedforward_half_backward(ViT* model, Device<floatX>* d, int l, int N, float aux_scale) {
    // dres: gradient of the next layer's res -> gradient of mid, in place; leaves that of the layer's input (ln2, or mid) in dln
    const Block<floatX>* p = &d->p.h[l];
    const Block<float>* g = &d->g.h[l];
    DeviceLayer<floatX>* a = &d->layer[l];
    int C = model->config.C;
    if (model->config.moe[l] && model->config.residual) {
        moe_backward(model, d, l, d->dln, d->dres, a->mid, N, aux_scale);
        residual_forward(d->dres, d->dres, d->dln, (size_t)N * C);
        return;
    }
    if (model->config.moe[l]) {
        moe_backward(model, d, l, d->dln, d->dres, a->ln2, N, aux_scale);
    } else {
        floatX* dpre = reserve(&d->drow, &d->drow_size, (size_t)N * 4 * C, "row gradients");
        feedforward_backward(d->dln, dpre, g->fcw, g->fcb, g->fcprojw, g->fcprojb, d->dres, a->ln2, a->pre, a->act, p->fcw,
                             p->fcprojw, d->sums, N, C, 4 * C);
    }
    layernorm_backward_add(d->dres, g->ln2w, g->ln2b, d->dln, a->mid, a->mean2, a->rstd2, p->ln2w, d->sums, N, C);
}

template <typename floatX>
float device_forward(ViT* model, const unsigned char* pictures, const Item* items, float smoothing, int B, int training) {
    Device<floatX>* d = (Device<floatX>*)model->device;
    const Config* c = &model->config;
    int T = c->T, N = B * T, C = c->C, K = c->planes * c->patch * c->patch;
    to_device(d->items, items, (size_t)B * sizeof(Item));
    if (pictures != NULL) { patches_forward(d->patches, pictures, d->items, c->norm, B, c->image, c->planes, c->patch); }
    matmul_forward(d->half, d->patches, d->p.patchw, d->p.patchb, B * (T - 1), K, C);
    tokens_forward(d->layer[0].res, d->half, d->p.cls, d->p.wpe, B, T, C);
    layernorm_forward(d->layer[0].ln1, d->layer[0].mean1, d->layer[0].rstd1, d->layer[0].res, d->p.h[0].ln1w, d->p.h[0].ln1b, N, C);
    for (int l = 0; l < c->L; l++) {
        replay(&d->layer[l].forward, attention_half_forward<floatX>, model, d, l, B, T);
        feedforward_half_forward(model, d, l, N, training);
    }
    cls_forward(d->clsf, d->lnf, B, T, C);
    matmul_forward(d->logits, d->clsf, d->p.headw, d->p.headb, B, C, c->classes);
    classifier(d->losses, d->logits, d->items, smoothing, B, c->classes, training && !model->keep_logits);
    to_host(model->losses, d->losses, (size_t)B * sizeof(float));
    double sum = 0.0;
    for (int b = 0; b < B; b++) { sum += model->losses[b]; }
    comm_sum(&sum, 1);
    return (float)(sum / B);
}

float vit_forward(ViT* model, const unsigned char* pictures, const Item* items, float smoothing, int B, int training) {
    // pictures (any, planes, image, image) on the device, items (B) on the host -> logits (B, classes) and losses; returns the
    // mean loss in nats. training: k = 0 means residual only, auxiliary terms and records; the logits become their gradient at
    // once. Else evaluation: top-1 fallback, nothing recorded. pictures NULL: the patches are in their place already (tests).
    require(B <= model->max_B, "a bug: please report it", "forward of %d pictures, memory is for %d", B, model->max_B);
    model->B = B; model->T = model->config.T; model->items = items; model->aux = 0.0f;
    model->ce = model->bf16 ? device_forward<bf16>(model, pictures, items, smoothing, B, training)
                            : device_forward<float>(model, pictures, items, smoothing, B, training);
    return model->ce;
}

template <typename floatX>
void head_backward(ViT* model, Device<floatX>* d, float scale) { // logits, which hold their gradient -> dres
    int B = model->B, T = model->T, N = B * T, C = model->config.C, classes = model->config.classes;
    matmul(d->dclsf, d->logits, 0, d->p.headw, 0, B, C, classes, scale / (float)B, 0.0f);
    matmul(d->g.headw, d->logits, 1, d->clsf, 0, classes, C, B, scale / (float)B, 1.0f);
    head_bias_kernel<<<WARPS(classes)>>>(d->g.headb, d->logits, scale / (float)B, B, classes);
    LAUNCHED();
    cls_backward(d->dln, d->dclsf, B, T, C);
    CUDA(cudaMemset(d->dres, 0, (size_t)N * C * sizeof(floatX)));
    layernorm_backward_add(d->dres, d->g.lnfw, d->g.lnfb, d->dln, d->res, d->meanf, d->rstdf, d->p.lnfw, d->sums, N, C);
}

template <typename floatX>
void embedding_backward(ViT* model, Device<floatX>* d) { // dres -> gradients of positions, CLS token and patch embedding
    const Config* c = &model->config;
    tokens_backward(d->dln, d->g.cls, d->g.wpe, d->dres, model->B, model->T, c->C);
    matmul_backward((floatX*)NULL, d->g.patchw, d->g.patchb, d->dln, d->patches, d->p.patchw, d->sums, model->B * (model->T - 1),
                    c->planes * c->patch * c->patch, c->C);
}

template <typename floatX>
void device_backward(ViT* model, float scale) {
    Device<floatX>* d = (Device<floatX>*)model->device;
    head_backward(model, d, scale);
    for (int l = model->config.L - 1; l >= 0; l--) {
        feedforward_half_backward(model, d, l, model->B * model->T, scale);
        replay(&d->layer[l].backward, attention_half_backward<floatX>, model, d, l, model->B, model->T);
    }
    embedding_backward(model, d);
}

void vit_backward(ViT* model, float scale) {
    // adds scale * gradient of (mean loss + auxiliary terms) of the last training forward to grads; call once per forward
    if (model->bf16) { device_backward<bf16>(model, scale); } else { device_backward<float>(model, scale); }
}

template <typename floatX> float* device_grads(ViT* model) { return ((Device<floatX>*)model->device)->grads; }
float* vit_grads(ViT* model) { return model->bf16 ? device_grads<bf16>(model) : device_grads<float>(model); } // on the device

void vit_zero_grad(ViT* model) { CUDA(cudaMemset(vit_grads(model), 0, model->n_memory * sizeof(float))); }

__global__ void squares_kernel(double* partial, const float* g, size_t n) { // partial (NORM_BLOCKS): one for each block
    double sum = 0.0;
    for (size_t i = (size_t)blockIdx.x * BLOCK + threadIdx.x; i < n; i += (size_t)gridDim.x * BLOCK) { sum += (double)g[i] * g[i]; }
    sum = block_sum(sum);
    if (threadIdx.x == 0) { partial[blockIdx.x] = sum; }
}

template <typename floatX>
double device_grad_norm(ViT* model) {
    Device<floatX>* d = (Device<floatX>*)model->device;
    double total = 0.0, partial[NORM_BLOCKS];
    comm_sum(d->grads, model->n_memory);
    for (int i = 0; i < model->n_tensors; i++) {
        const Tensor* t = &model->table[i];
        double sum = 0.0;
        int blocks = blocks_for(t->size, 16 * BLOCK) < NORM_BLOCKS ? blocks_for(t->size, 16 * BLOCK) : NORM_BLOCKS;
        squares_kernel<<<blocks, BLOCK>>>(d->squares, d->grads + t->offset, t->size);
        LAUNCHED();
        to_host(partial, d->squares, (size_t)blocks * sizeof(double));
        for (int b = 0; b < blocks; b++) { sum += partial[b]; }
        require(isfinite(sum), "lower --lr; the last checkpoint is whole", "step %d: the gradient of %s is not finite", model->step,
                t->name);
        total += sum;
    }
    return sqrt(total); // (M79)
}

double vit_grad_norm(ViT* model) { // sqrt of the sum of squares of all gradients
    return model->bf16 ? device_grad_norm<bf16>(model) : device_grad_norm<float>(model);
}

template <typename floatX>
void device_stop_not_finite(ViT* model) {
    Device<floatX>* d = (Device<floatX>*)model->device;
    int C = model->config.C, L = model->config.L;
    size_t N = (size_t)model->B * model->T;
    floatX* host = (floatX*)alloc_zeroed(N * 3 * C, sizeof(floatX), "a look at activations");
    for (int l = 0; l <= L; l++) {
        DeviceLayer<floatX>* a = &d->layer[l < L ? l : 0];
        const floatX* x[] = {a->res, a->ln1, a->qkvr, a->atty, a->mid, a->ln2, d->res, d->lnf};
        static const char* const names[] = {"res", "ln1", "qkv", "atty", "mid", "ln2", "res", "lnf"};
        for (int i = l < L ? 0 : 6; i < (l < L ? 6 : 8); i++) {
            size_t n = N * (i == 2 ? 3 * C : C);
            to_host(host, x[i], n * sizeof(floatX));
            for (size_t j = 0; j < n; j++) {
                require(isfinite(value(host[j])), "lower --lr; the last checkpoint is whole",
                        "step %d: the loss is not finite; first in %s of %s %d", model->step, names[i],
                        l == L ? "what follows layer" : "layer", l == L ? l - 1 : l);
            }
        }
    }
    die("lower --lr; the last checkpoint is whole", "step %d: the loss is not finite", model->step);
}

void vit_stop_not_finite(ViT* model) { // stops, naming the first tensor in which NaN or Inf stands
    if (model->bf16) { device_stop_not_finite<bf16>(model); } else { device_stop_not_finite<float>(model); }
}

template <typename floatX>
__global__ void adamw_kernel(float* p, floatX* param, const float* g, float* m, float* v, size_t n, float lr, float beta1,
                             float beta2, float eps, float decay, float correction1, float correction2, float scale) {
    // one thread for each number; reads and writes p, m, v once: 28 bytes each with g, and 2 for a copy in bf16
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) { return; }
    float gi = scale * g[i];
    float mi = m[i] = beta1 * m[i] + (1.0f - beta1) * gi; // (M81)
    float vi = v[i] = beta2 * v[i] + (1.0f - beta2) * gi * gi; // (M82)
    float x = p[i];
    x -= lr * ((mi / correction1) / (sqrtf(vi / correction2) + eps) + decay * x); // (M84)
    p[i] = x;
    store(param + i, x); // the copy that kernels use; p itself if floatX is float
}

template <typename floatX>
void device_update(ViT* model, int step, float lr, float beta1, float beta2, float eps, float weight_decay, float scale) {
    Device<floatX>* d = (Device<floatX>*)model->device;
    float correction1 = (float)(1.0 - pow(beta1, step + 1)), correction2 = (float)(1.0 - pow(beta2, step + 1)); // (M83)
    for (int i = 0; i < model->n_tensors; i++) {
        const Tensor* t = &model->table[i];
        size_t n = t->size / t->slots;
        for (int e = 0; e < t->slots; e++) {
            size_t o = t->offset + e * n;
            if (t->moe && !model->layer[t->layer].mask[e]) { continue; }
            adamw_kernel<<<blocks_for(n, BLOCK), BLOCK>>>(d->master + o, d->params + o, d->grads + o, d->m + o, d->v + o, n, lr,
                                                          beta1, beta2, eps, t->decay ? weight_decay : 0.0f, correction1,
                                                          correction2, scale);
            LAUNCHED();
        }
    }
}

void vit_update(ViT* model, int step, float lr, float beta1, float beta2, float eps, float weight_decay, float scale) {
    // one AdamW step of every parameter; step counts from 0. The slots of inactive experts are left alone, moments too;
    // an active expert without rows is stepped like the rest, with gradient 0.
    if (model->bf16) { device_update<bf16>(model, step, lr, beta1, beta2, eps, weight_decay, scale); }
    else { device_update<float>(model, step, lr, beta1, beta2, eps, weight_decay, scale); }
}

__global__ void ema_kernel(float* ema, const float* p, size_t n, float decay) { // one thread for each number
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) { ema[i] = decay * ema[i] + (1.0f - decay) * p[i]; }
}

__global__ void swap_kernel(float* a, float* b, size_t n) { // one thread for each number
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) { return; }
    float x = a[i];
    a[i] = b[i];
    b[i] = x;
}

template <typename floatX>
void device_ema(ViT* model, float decay, int swap) {
    Device<floatX>* d = (Device<floatX>*)model->device;
    size_t n = model->n_memory;
    int blocks = blocks_for(n, BLOCK);
    if (swap) { swap_kernel<<<blocks, BLOCK>>>(d->master, d->ema, n); }
    else { ema_kernel<<<blocks, BLOCK>>>(d->ema, d->master, n, decay); }
    LAUNCHED();
    if (!swap || sizeof(floatX) == sizeof(float)) { return; }
    convert_kernel<<<blocks, BLOCK>>>(d->params, d->master, n);
    LAUNCHED();
}

void vit_ema_update(ViT* model, float decay, int step) {
    // after a step: ema = decay ema + (1 - decay) parameters. The decay grows from 0 in the first steps, so that the first values
    // are soon forgotten: min(decay, (1 + step) / (10 + step))
    float warm = (1.0f + (float)step) / (10.0f + (float)step);
    decay = warm < decay ? warm : decay;
    if (model->bf16) { device_ema<bf16>(model, decay, 0); } else { device_ema<float>(model, decay, 0); }
}

void vit_ema_swap(ViT* model) { // before and after a validation: the averages in the place of the parameters, and back
    if (!model->with_ema) { return; }
    if (model->bf16) { device_ema<bf16>(model, 0.0f, 1); } else { device_ema<float>(model, 0.0f, 1); }
}

__global__ void unit_rows_kernel(float* W, const int* mask, int C, int E) { // one warp for each row: back to length 1
    int e = warp_index(), lane = lane_index();
    if (e >= E || !mask[e]) { return; }
    float sum = 0.0f;
    for (int c = lane; c < C; c += WARP) { sum += W[(size_t)e * C + c] * W[(size_t)e * C + c]; }
    float norm = sqrtf(warp_sum(sum));
    for (int c = lane; norm > NORM_EPS && c < C; c += WARP) { W[(size_t)e * C + c] /= norm; } // (M85)
}

template <typename floatX>
void device_unit_rows(ViT* model) {
    Device<floatX>* d = (Device<floatX>*)model->device;
    for (int l = 0; l < model->config.L; l++) {
        if (!model->config.moe[l]) { continue; }
        unit_rows_kernel<<<WARPS(model->config.E)>>>(d->master_p.h[l].gatew, d->layer[l].mask, model->config.C, model->config.E);
        LAUNCHED();
    }
}

void vit_unit_rows(ViT* model) { // the active rows of every W back to length 1
    if (model->bf16) { device_unit_rows<bf16>(model); } else { device_unit_rows<float>(model); }
}

template <typename floatX>
void device_gate(ViT* model, int l, int to_gpu) { // W, G, mask and record_sum of a layer between host and device
    Device<floatX>* d = (Device<floatX>*)model->device;
    Layer* a = &model->layer[l];
    size_t E = (size_t)model->config.E, C = (size_t)model->config.C;
    float* W = model->params_memory + (d->master_p.h[l].gatew - d->master); // their place in the mirror
    float* G = model->params_memory + (d->master_p.h[l].gateG - d->master);
    if (to_gpu) {
        to_device(d->master_p.h[l].gatew, W, E * C * sizeof(float));
        to_device(d->master_p.h[l].gateG, G, E * sizeof(float));
        to_device(d->layer[l].mask, a->mask, E * sizeof(int));
        return;
    }
    to_host(W, d->master_p.h[l].gatew, E * C * sizeof(float));
    to_host(G, d->master_p.h[l].gateG, E * sizeof(float));
    to_host(a->record_sum, d->layer[l].record_sum, C * sizeof(double));
}

void gate_copy(ViT* model, int l, int to_gpu) {
    if (model->bf16) { device_gate<bf16>(model, l, to_gpu); } else { device_gate<float>(model, l, to_gpu); }
}

void vit_thresholds(ViT* model, int l, float* G) { // G (E) of a layer
    size_t E = (size_t)model->config.E;
    for (int i = 0; i < model->n_tensors; i++) {
        const Tensor* t = &model->table[i];
        if (t->layer != l || t->first != THRESHOLD) { continue; }
        to_host(G, (model->bf16 ? ((Device<bf16>*)model->device)->master : ((Device<float>*)model->device)->master) + t->offset,
                E * sizeof(float));
    }
}

void reset_slot_moments(ViT* model, int l, int slot) {
    // Adam's m and v of one expert of layer l: its row of W, its G and its weights. Their averages begin anew at what they are
    float* m = model->bf16 ? ((Device<bf16>*)model->device)->m : ((Device<float>*)model->device)->m;
    float* v = model->bf16 ? ((Device<bf16>*)model->device)->v : ((Device<float>*)model->device)->v;
    float* p = model->bf16 ? ((Device<bf16>*)model->device)->master : ((Device<float>*)model->device)->master;
    float* ema = model->bf16 ? ((Device<bf16>*)model->device)->ema : ((Device<float>*)model->device)->ema;
    for (int i = 0; i < model->n_tensors; i++) {
        const Tensor* t = &model->table[i];
        size_t n = t->size / t->slots;
        if (t->layer != l || !t->moe) { continue; }
        CUDA(cudaMemset(m + t->offset + slot * n, 0, n * sizeof(float)));
        CUDA(cudaMemset(v + t->offset + slot * n, 0, n * sizeof(float)));
        if (ema == NULL) { continue; }
        CUDA(cudaMemcpy(ema + t->offset + slot * n, p + t->offset + slot * n, n * sizeof(float), cudaMemcpyDeviceToDevice));
    }
}

int vit_adapt(ViT* model, int l, int* removed, int min_experts) {
    // the end of a recording window for layer l: see adapt_update for what it returns. It is rare and small: the host does it.
    Layer* a = &model->layer[l];
    gate_copy(model, l, 0);
    comm_sum(a->record_count, MAX_EXPERTS);
    comm_sum(a->record_sum, (size_t)model->config.C);
    comm_sum(&a->record_unrouted, 1);
    float *W = NULL, *G = NULL;
    for (int i = 0; i < model->n_tensors; i++) {
        if (model->table[i].layer == l &&
            model->table[i].first == ORTHOGONAL) { W = model->params_memory + model->table[i].offset; }
        if (model->table[i].layer == l && model->table[i].first == THRESHOLD) { G = model->params_memory + model->table[i].offset; }
    }
    int slot = adapt_update(a->mask, W, G, removed, a->record_count, a->record_sum, a->record_unrouted, min_experts,
                            model->config.C, model->config.E);
    gate_copy(model, l, 1);
    if (slot >= 0) { reset_slot_moments(model, l, slot); }
    return slot;
}

template <typename floatX>
void device_clear_records(ViT* model, int l) {
    CUDA(cudaMemset(((Device<floatX>*)model->device)->layer[l].record_sum, 0, (size_t)model->config.C * sizeof(double)));
}

void vit_clear_records(ViT* model) {
    for (int l = 0; l < model->config.L; l++) {
        Layer* a = &model->layer[l];
        memset(a->record_count, 0, sizeof a->record_count);
        memset(a->record_sum, 0, (size_t)model->config.C * sizeof(double));
        a->record_unrouted = 0;
        if (!model->config.moe[l]) { continue; }
        if (model->bf16) { device_clear_records<bf16>(model, l); } else { device_clear_records<float>(model, l); }
    }
}

template <typename floatX>
void device_logits(ViT* model) {
    size_t n = (size_t)model->B * model->config.classes;
    floatX* host = (floatX*)alloc_zeroed(n, sizeof(floatX), "logits");
    to_host(host, ((Device<floatX>*)model->device)->logits, n * sizeof(floatX));
    for (size_t i = 0; i < n; i++) { model->logits[i] = value(host[i]); }
    free(host);
}

const float* vit_logits(ViT* model) { // logits (B, classes) of the last forward, which was an evaluation, on the host
    if (model->bf16) { device_logits<bf16>(model); } else { device_logits<float>(model); }
    return model->logits;
}

// ======================================================================================================================
// Here the algorithm ends: what you came to read is above. Below are files, flags, data, what is shown, the training loop.

// ----------------------------------------------------------------------------------------------------------------------
// Files of tensors: safetensors. 8 bytes little-endian length of the header, the header in JSON, then the data. The reader
// trusts nothing; a file appears complete or not at all.

typedef struct {
    char name[128], dtype[8];
    int ndim;
    size_t shape[8], bytes;
    const unsigned char* data;
} SafeTensor;

typedef struct {
    const char* path;
    int n, n_meta;
    SafeTensor* tensors;        // (n), in the order of their data
    char (*meta)[2][512];       // (n_meta) key, value
    unsigned char* map;
    size_t map_size;
} SafeFile;

typedef struct { const char *p, *end, *path; } Json;

__attribute__((noreturn)) void json_bad(const Json* j, const char* what) {
    die("the file is damaged or no safetensors file: copy or save it again", "%s: header: %s, %td bytes before its end", j->path,
        what, j->end - j->p);
}

char json_peek(Json* j) { // the next character that is not a blank, 0 at the end
    while (j->p < j->end && (*j->p == ' ' || *j->p == '\n' || *j->p == '\r' || *j->p == '\t')) { j->p++; }
    return j->p < j->end ? *j->p : 0;
}

void json_need(const Json* j, int ok, const char* what) { if (!ok) { json_bad(j, what); } }

void json_expect(Json* j, char c) {
    char what[] = "expected ' '";
    what[10] = c;
    json_need(j, json_peek(j) == c, what);
    j->p++;
}

int json_more(Json* j, char close, int first) { // is there another item before close? eats the comma or close
    if (json_peek(j) == close) { j->p++; return 0; }
    if (!first) { json_expect(j, ','); }
    return 1;
}

void json_string(Json* j, char* out, size_t room) {
    size_t n = 0;
    json_expect(j, '"');
    for (; j->p < j->end && *j->p != '"'; j->p++) {
        char c = *j->p;
        json_need(j, (unsigned char)c >= 32, "control character in a string");
        if (c == '\\') {
            static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
            const char* at = ++j->p < j->end && *j->p ? strchr(from, *j->p) : NULL;
            unsigned code = 0;
            for (int i = 1; at == NULL && i < 5; i++) { // \u00XX is a byte, as json_print writes it
                json_need(j, j->end - j->p >= 5 && *j->p == 'u' && isxdigit((unsigned char)j->p[i]), "unknown escape in a string");
                code = code * 16 + (unsigned)(isdigit((unsigned char)j->p[i]) ? j->p[i] - '0' : (j->p[i] | 32) - 'a' + 10);
            }
            c = at != NULL ? to[at - from] : code < 256 ? (char)code : '?';
            j->p += at != NULL ? 0 : 4;
        }
        json_need(j, n + 1 < room, "string too long");
        out[n++] = c;
    }
    out[n] = '\0';
    json_expect(j, '"');
}

int json_sizes(Json* j, size_t* out, int room) { // [1, 2, ...] of at most room numbers; returns how many
    int n = 0;
    json_expect(j, '[');
    for (; json_more(j, ']', n == 0); n++) {
        json_need(j, n < room, "too many numbers");
        json_need(j, isdigit((unsigned char)json_peek(j)), "expected a number");
        for (out[n] = 0; j->p < j->end && isdigit((unsigned char)*j->p); j->p++) {
            json_need(j, out[n] <= (SIZE_MAX - 9) / 10, "number too large");
            out[n] = out[n] * 10 + (size_t)(*j->p - '0');
        }
    }
    return n;
}

size_t dtype_size(const char* dtype) { // in bytes, 0 for what we do not know
    static const char* names[] = {"F64", "I64", "F32", "I32", "BF16", "F16", "U8"};
    static const size_t sizes[] = {8, 8, 4, 4, 2, 2, 1};
    for (int i = 0; i < 7; i++) { if (strcmp(dtype, names[i]) == 0) { return sizes[i]; } }
    return 0;
}

void json_tensor(Json* j, SafeTensor* t, const unsigned char* data, size_t data_size) {
    // {"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}, in any order
    size_t offsets[2] = {0, 0};
    int n_dtype = 0, n_shape = 0, n_offsets = 0;
    char key[16];
    json_expect(j, '{');
    for (int first = 1; json_more(j, '}', first); first = 0) {
        json_string(j, key, sizeof key);
        json_expect(j, ':');
        if (strcmp(key, "dtype") == 0 && n_dtype++ == 0) { json_string(j, t->dtype, sizeof t->dtype); }
        else if (strcmp(key, "shape") == 0 && n_shape++ == 0) { t->ndim = json_sizes(j, t->shape, 8); }
        else if (strcmp(key, "data_offsets") == 0 && n_offsets++ == 0) {
            json_need(j, json_sizes(j, offsets, 2) == 2, "not two data_offsets");
        } else {
            json_bad(j, "an unknown or repeated key in a tensor");
        }
    }
    json_need(j, n_dtype + n_shape + n_offsets == 3, "a tensor needs dtype, shape and data_offsets");
    t->bytes = dtype_size(t->dtype);
    json_need(j, t->bytes > 0, "unknown dtype");
    for (int i = 0; i < t->ndim; i++) {
        json_need(j, t->shape[i] == 0 || t->bytes <= SIZE_MAX / t->shape[i], "shape too large");
        t->bytes *= t->shape[i];
    }
    json_need(j, offsets[0] <= offsets[1] && offsets[1] <= data_size, "data_offsets outside the file");
    json_need(j, offsets[1] - offsets[0] == t->bytes, "data_offsets do not fit dtype and shape");
    t->data = data + offsets[0];
}

int compare_data(const void* a, const void* b) { // by place; an empty tensor before the one that starts where it stands
    const SafeTensor *x = (const SafeTensor*)a, *y = (const SafeTensor*)b;
    return x->data != y->data ? (x->data > y->data) - (x->data < y->data) : (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

void safetensors_close(SafeFile* f) { munmap(f->map, f->map_size); free(f->tensors); free(f->meta); }

const SafeTensor* safetensors_find(const SafeFile* f, const char* name) { // NULL if it is not there
    for (int i = 0; i < f->n; i++) { if (strcmp(f->tensors[i].name, name) == 0) { return &f->tensors[i]; } }
    return NULL;
}

const char* safetensors_meta(const SafeFile* f, const char* key) { // NULL if it is not there
    for (int i = 0; i < f->n_meta; i++) { if (strcmp(f->meta[i][0], key) == 0) { return f->meta[i][1]; } }
    return NULL;
}

unsigned char* map_file(const char* path, size_t* size) { // the bytes of a file, mapped read-only
    struct stat st;
    int fd = open(path, O_RDONLY | O_NONBLOCK); // a pipe without a writer must not hang
    require(fd >= 0 && fstat(fd, &st) == 0, "check the path", "%s: %s", path, strerror(errno));
    require(S_ISREG(st.st_mode), "give another file", "%s: not a regular file", path);
    require(st.st_size > 0, "give another file", "%s: the file is empty", path);
    void* map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    require(map != MAP_FAILED, "close other programs, or copy the file to a local disk", "%s: cannot map the file: %s", path,
            strerror(errno));
    close(fd);
    *size = (size_t)st.st_size;
    return (unsigned char*)map;
}

SafeFile safetensors_open(const char* path) {
    // maps and checks a safetensors file; exits with one line that names the file and what is wrong
    SafeFile f = {path, 0, 0, NULL, NULL, NULL, 0};
    uint64_t header = 0;
    char key[128];
    f.map = map_file(path, &f.map_size);
    for (int i = 7; i >= 0 && f.map_size >= 8; i--) { header = header << 8 | f.map[i]; }
    Json j = {(const char*)f.map + 8, (const char*)f.map + 8, path};
    json_need(&j, f.map_size >= 8 && header <= f.map_size - 8, "its length goes beyond the end of the file");
    j.end += header;
    const unsigned char* data = f.map + 8 + header;
    size_t room = header / 40 + 1 < 8192 ? header / 40 + 1 : 8192,
           meta_room = header / 6 + 1 < 1024 ? header / 6 + 1 : 1024; // no entry is shorter
    f.tensors = (SafeTensor*)alloc_zeroed(room, sizeof(SafeTensor), "the header of a file");
    f.meta = (char (*)[2][512])alloc_zeroed(meta_room, sizeof *f.meta, "the header of a file");
    json_expect(&j, '{');
    for (int first = 1; json_more(&j, '}', first); first = 0) {
        json_string(&j, key, sizeof key);
        json_expect(&j, ':');
        if (strcmp(key, "__metadata__") != 0) {
            json_need(&j, (size_t)f.n < room && safetensors_find(&f, key) == NULL,
                      f.n == 8192 ? "more than 8192 tensors" : "two tensors of one name");
            memcpy(f.tensors[f.n].name, key, sizeof key);
            json_tensor(&j, &f.tensors[f.n++], data, f.map_size - 8 - header);
            continue;
        }
        json_need(&j, f.n_meta == 0, "__metadata__ twice");
        json_expect(&j, '{');
        for (; json_more(&j, '}', f.n_meta == 0); f.n_meta++) {
            json_need(&j, (size_t)f.n_meta < meta_room, "too many metadata");
            json_string(&j, f.meta[f.n_meta][0], sizeof f.meta[0][0]);
            json_expect(&j, ':');
            json_string(&j, f.meta[f.n_meta][1], sizeof f.meta[0][1]);
        }
    }
    json_need(&j, json_peek(&j) == 0 && j.p == j.end, "something after the last }");
    qsort(f.tensors, (size_t)f.n, sizeof(SafeTensor), compare_data);
    for (int i = 0; i < f.n; i++) {
        require(f.tensors[i].data == data, "the file is damaged: copy or save it again", "%s: %s: its data overlap or leave a gap",
                path, f.tensors[i].name);
        data += f.tensors[i].bytes;
    }
    require(data == f.map + f.map_size, "the file is damaged: copy or save it again", "%s: bytes after the last tensor", path);
    return f;
}

SafeTensor safe_tensor(const char* prefix, const char* name, const char* dtype, int ndim, const size_t* shape, const void* data) {
    SafeTensor t;
    memset(&t, 0, sizeof t);
    snprintf(t.name, sizeof t.name, "%s%s", prefix, name);
    snprintf(t.dtype, sizeof t.dtype, "%s", dtype);
    t.ndim = ndim;
    t.bytes = dtype_size(dtype);
    for (int i = 0; i < ndim; i++) { t.shape[i] = shape[i]; t.bytes *= shape[i]; }
    t.data = (const unsigned char*)data;
    return t;
}

void json_print(FILE* out, const char* s) { // a JSON string; bytes outside ASCII as \u00XX
    fputc('"', out);
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        fprintf(out, c == '"' || c == '\\' ? "\\%c" : c < 32 || c > 126 ? "\\u%04x" : "%c", c);
    }
    fputc('"', out);
}

FILE* file_begin(char* temporary, const char* path) { // opens PATH.tmp for writing; temporary holds 1024
    snprintf(temporary, 1024, "%s.tmp", path);
    FILE* f = fopen(temporary, "wb");
    require(f, "choose another folder", "%s: %s", temporary, strerror(errno));
    return f;
}

void file_end(FILE* f, const char* temporary, const char* path) { // fsync, then rename: the file appears whole, or not at all
    int bad = ferror(f) || fflush(f) != 0 || fsync(fileno(f)) != 0, why = errno;
    if (fclose(f) == 0 && !bad && rename(temporary, path) == 0) { return; }
    why = bad ? why : errno;
    unlink(temporary);
    die("free some space or choose another folder; what was there before is untouched", "%s: cannot write: %s", path,
        strerror(why));
}

void safetensors_save(const char* path, const SafeTensor* tensors, int n, const char* meta) {
    // writes n tensors and the metadata, a list of JSON pairs `"key":"value",...`
    char temporary[1024], *header = NULL;
    size_t length = 0, offset = 0;
    FILE* h = open_memstream(&header, &length);
    fprintf(h, "{\"__metadata__\":{%s}", meta);
    for (int i = 0; i < n; i++) {
        fprintf(h, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[", tensors[i].name, tensors[i].dtype);
        for (int d = 0; d < tensors[i].ndim; d++) { fprintf(h, d > 0 ? ",%zu" : "%zu", tensors[i].shape[d]); }
        fprintf(h, "],\"data_offsets\":[%zu,%zu]}", offset, offset + tensors[i].bytes);
        offset += tensors[i].bytes;
    }
    fprintf(h, "}");
    fflush(h);
    while (length % 8 != 0) { fputc(' ', h); fflush(h); } // so that the data are aligned
    fclose(h);
    FILE* f = file_begin(temporary, path);
    for (int i = 0; i < 8; i++) { fputc((int)((uint64_t)length >> (8 * i) & 255), f); }
    fwrite(header, 1, length, f);
    for (int i = 0; i < n; i++) { if (tensors[i].bytes > 0) { fwrite(tensors[i].data, 1, tensors[i].bytes, f); } }
    file_end(f, temporary, path);
    free(header);
}

// ----------------------------------------------------------------------------------------------------------------------
// Flags. One list: the field and flag (train_fallback is --train-fallback), its short twin, default, range, meaning.
// --help is printed from it, the command line is parsed by it, checkpoints and logs carry all of it.

typedef int flag;           // takes no value
typedef const char* text;
#define FLAGS(X) \
    X(text,  data,           "-i",  "",           0, 0,    "pictures to train on: CIFAR's binary layouts, or IDX (MNIST)") \
    X(text,  val,            "-j",  "",           0, 0,    "validation pictures (default: every tenth of --data)") \
    X(text,  layout,         "-ly", "auto",       0, 0,    "of --data: cifar10 (class), cifar100 (domain, class), idx, auto") \
    X(int,   image,          "-im", "0",          0, 1024, "side of a picture in pixels (0: 32, or what an IDX file says)") \
    X(int,   hold_out,       "-ho", "-1",         -1, 255, "train without this domain, and validate on it alone (-1: none)") \
    X(text,  names,          "-nm", "",           0, 0,    "names of the classes for --predict, one a line or `class N NAME`") \
    X(text,  out,            "-o",  "out_vit",    0, 0,    "folder for log.jsonl and model.safetensors") \
    X(text,  init,           "-f",  "",           0, 0,    "start from this checkpoint; dense layers can be upcycled") \
    X(text,  resume,         "-r",  "",           0, 0,    "continue this checkpoint's run: its flags, unless given again") \
    X(text,  preset,         "-P",  "default",    0, 0,    "default, paper (its losses, free rows), authors (their code)") \
    X(int,   depth,          "-d",  "0",          0, 64,   "one dial D: D layers and heads, 64 D channels, lr") \
    X(int,   layers,         "-L",  "4",          1, 128,  "layers") \
    X(int,   heads,          "-H",  "4",          1, 1024, "attention heads") \
    X(int,   channels,       "-C",  "128",        1, 65536, "channels") \
    X(int,   patch,          "-pa", "4",          1, 1024, "side of a patch in pixels") \
    X(text,  moe_layers,     "-ml", "auto",       0, 0,    "every2, all, none, a list like 0,2,5; auto: as --init, or every2") \
    X(text,  gate_input,     "-gi", "ln2",        0, 0,    "what gate and experts read: ln2, or residual (own LayerNorms)") \
    X(int,   experts,        "-E",  "8",          1, 64,   "experts in the pool of a layer") \
    X(int,   start_experts,  "-Es", "4",          0, 64,   "experts that are active at the start (of other routers: all)") \
    X(text,  expert_init,    "-Ei", "random",     0, 0,    "random, or copies: all experts of a layer start equal") \
    X(int,   expert_width,   "-Eh", "0",          0, 262144, "hidden width of an expert (0: four times the channels)") \
    X(int,   shared_experts, "-S",  "0",          0, 64,   "experts that serve every token, beside the routed ones") \
    X(text,  router,         "-R",  "top-any",    0, 0,    "top-any (DynMoE), or softmax routers: top-k, top-p, dense") \
    X(int,   topk,           "-K",  "2",          1, 64,   "top-k: experts for every token") \
    X(float, topp,           "-pp", "0.4",        0, 1,    "top-p: experts until their probability adds up to this") \
    X(float, threshold,      "-G",  "0",          -2, 2,   "first G of every expert; -1 opens all for every token") \
    X(text,  kgrad,          "-k",  "normalised", 0, 0,    "gradient of 1/k: normalised or detached") \
    X(float, gate_scale,     "-gs", "1",          1e-6, 1e6,  "temperature tau: scales gate gradients, changes no decision") \
    X(int,   unit_norm,      "-un", "1",          0, 1,    "1: rows of W go back to length 1 after each step") \
    X(int,   train_fallback, "-tf", "0",          0, 1,    "1: in training too a token without experts gets the nearest one") \
    X(float, aux_diversity,  "-a1", "0",          0, 1e6,  "weight of the diversity loss") \
    X(float, aux_simplicity, "-a2", "0",          0, 1e6,  "weight of the simplicity loss") \
    X(float, aux_balance,    "-a3", "0",          0, 1e6,  "weight of the load-balance loss") \
    X(float, aux_efficiency, "-a4", "0",          0, 1e6,  "weight of the efficiency loss (top-any)") \
    X(float, aux_entropy,    "-a5", "0",          0, 1e6,  "weight of the entropy loss (softmax routers)") \
    X(int,   window,         "-aw", "100",        1, 1000000, "adaptive process: steps in which it records") \
    X(int,   period,         "-ap", "300",        0, 1000000, "and the period at which that repeats (0: never)") \
    X(float, adapt_stop,     "-as", "0.8",        0, 1,    "fraction of the run after which experts stay") \
    X(int,   min_experts,    "-am", "1",          0, 64,   "experts that a layer keeps at least") \
    X(int,   steps,          "-x",  "2000",       0, 2000000000, "training steps") \
    X(float, epochs,         "-ep", "0",          0, 1e6,  "passes over the pictures, instead of --steps (0: as --steps)") \
    X(int,   batch,          "-b",  "64",         1, 65536, "pictures in a batch") \
    X(int,   accum,          "-g",  "1",          1, 65536, "batches whose gradients make one step") \
    X(int,   crop,           "-cr", "4",          0, 1024, "augmentation: pixels by which a picture is moved at most") \
    X(int,   flip,           "-fl", "1",          0, 1,    "augmentation: 1: half of the pictures are mirrored (0 for digits)") \
    X(float, jitter,         "-ji", "0",          0, 1,    "augmentation: brightness, contrast, saturation by 1 +- this") \
    X(float, mixup,          "-mx", "0",          0, 1,    "augmentation: mixup by Beta(this, this) (0: none)") \
    X(float, smoothing,      "-sm", "0.1",        0, 0.9,  "label smoothing") \
    X(float, ema,            "-em", "0",          0, 0.99999, "validate a moving average of the weights, of this decay (0: none)") \
    X(float, lr,             "-l",  "0.001",      0, 10,   "largest learning rate") \
    X(float, lr_end,         "-le", "0.01",       0, 1,    "last learning rate, as a fraction of --lr") \
    X(int,   warmup,         "-w",  "100",        0, 1000000000, "steps of linear warm-up; a cosine follows") \
    X(float, weight_decay,   "-wd", "0.05",       0, 10,   "AdamW's decay, on matrices; never on W, G, biases, norms, positions") \
    X(float, beta1,          "-b1", "0.9",        0, 0.9999, "AdamW's beta 1") \
    X(float, beta2,          "-b2", "0.99",       0, 0.999999, "AdamW's beta 2") \
    X(float, clip,           "-c",  "1",          0, 1e9,  "largest gradient norm (0: no clipping)") \
    X(int,   seed,           "-s",  "1337",       0, 2147483647, "seed of weights, order and augmentation") \
    X(int,   log_every,      "-v",  "50",         1, 1000000000, "steps between progress lines (means over those steps)") \
    X(int,   val_every,      "-ve", "500",        0, 1000000000, "steps between validations (0: at the end only)") \
    X(int,   val_pictures,   "-vt", "0",          0, 2147483647, "validation pictures (0: all)") \
    X(int,   save_every,     "-se", "0",          0, 1000000000, "steps between checkpoints (0: at the end only)") \
    X(int,   overfit,        "-of", "0",          0, 1,    "1: train on one batch only; with --smoothing 0 its loss goes to 0") \
    X(flag,  eval_only,      "-e",  "0",          0, 1,    "validate the --init model and stop") \
    X(text,  dump_routing,   "-dr", "",           0, 0,    "write class and experts of every validation patch to this file") \
    X(flag,  dry_run,        "-dy", "0",          0, 1,    "print size, memory, cost and time of the run, and stop") \
    X(int,   streams,        "-ns", "4",          1, 4,    "streams that share the experts of a layer; changes no bit") \
    X(int,   graph,          "-gr", "0",          0, 1,    "1: start the attention of each layer as a CUDA graph; changes no bit") \
    X(text,  dtype,          "-dt", "auto",       0, 0,    "of weights and activations: bf16, fp32; auto: bf16 if the GPU has it") \
    X(int,   flash,          "-fa", "1",          0, 1,    "1: flash attention (bf16, heads of 64); 0: through (T, T) matrices") \
    X(text,  predict,        "-p",  "",           0, 0,    "say what is in the pictures of this file (as --data, or .ppm), stop") \
    X(int,   predict_first,  "-pf", "0",          0, 2147483647, "number of the first picture of --predict") \
    X(int,   predict_count,  "-pn", "4",          1, 1000000, "how many pictures of --predict")

typedef struct {
    #define X(type, field, twin, value, low, high, help) type field;
    FLAGS(X)
    #undef X
} Settings;

typedef struct {
    const char *field, *type, *twin, *value;
    double low, high;
    const char* help;
    size_t place;
    char name[32];
    const char* now;
    int given; // on the command line
} Flag;

Flag flag_table[] = { // name and now, the value as text, are filled by flags_read
    #define X(type, field, twin, value, low, high, help) \
        {#field, #type, twin, value, low, high, help, offsetof(Settings, field), "", value, 0},
    FLAGS(X)
    #undef X
};
#define N_FLAGS ((int)(sizeof flag_table / sizeof flag_table[0]))

void flag_set(Settings* s, Flag* f, const char* value) {
    char* end;
    void* place = (char*)s + f->place;
    f->now = value;
    f->given = 1;
    require_usage(strlen(value) <= 500, NULL, "%s: more than 500 characters", f->name);
    if (strcmp(f->type, "text") == 0) { *(text*)place = value; return; }
    errno = 0;
    double x = strtod(value, &end);
    int whole = strcmp(f->type, "float") != 0;
    require_usage(end != value && *end == '\0' && errno == 0 && x >= f->low && x <= f->high && (!whole || x == floor(x)), NULL,
                  "%s %s: expected a %s from %.10g to %.10g", f->name, value, whole ? "whole number" : "number", f->low, f->high);
    if (whole) { *(int*)place = (int)x; } else { *(float*)place = (float)x; }
}

void flags_help(void) {
    printf("train_vit_dynmoe: trains a vision transformer with DynMoE layers on a GPU\n\n");
    printf("  ./train_vit_dynmoe --data FILE [flags]\n\n");
    for (int i = 0; i < N_FLAGS; i++) {
        const Flag* f = &flag_table[i];
        const char* kind = *f->type == 't' ? "TEXT" : *f->type == 'i' ? "N" : strcmp(f->type, "float") == 0 ? "X" : "";
        printf("  %-17s %-4s %-4s %-10s  %s\n", f->name, kind, f->twin, strcmp(f->type, "flag") == 0 ? "" : f->value, f->help);
    }
}

void flags_parse(Settings* s, int argc, const char* const* argv, int only_first) {
    // --name value or --name=value. only_first: just the flags that set others, so that every other flag wins over them.
    for (int i = 1; i < argc; i++) {
        const char *equals = strncmp(argv[i], "--", 2) == 0 ? strchr(argv[i], '=') : NULL, *value = equals ? equals + 1 : "1";
        size_t n = equals ? (size_t)(equals - argv[i]) : strlen(argv[i]);
        Flag* f = NULL;
        for (int k = 0; k < N_FLAGS; k++) {
            Flag* g = &flag_table[k];
            if ((strlen(g->name) == n && strncmp(g->name, argv[i], n) == 0) || strcmp(g->twin, argv[i]) == 0) { f = g; }
        }
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) { flags_help(); exit(0); }
        require_usage(f, NULL, "unknown flag %s", argv[i]);
        if (equals == NULL && strcmp(f->type, "flag") != 0) {
            require_usage(++i < argc, NULL, "%s needs a value", f->name);
            value = argv[i];
        }
        int sets_others = !strcmp(f->field, "preset") || !strcmp(f->field, "router") || !strcmp(f->field, "depth") ||
                          !strcmp(f->field, "resume");
        if (!only_first || sets_others) { flag_set(s, f, value); }
    }
}

int choice(const char* name, const char* value, const char* const* names, int n) { // which of the names value is
    char all[128] = "";
    for (int i = 0; i < n; i++) {
        if (strcmp(value, names[i]) == 0) { return i; }
        snprintf(all + strlen(all), sizeof all - strlen(all), "%s%s", i == 0 ? "" : i < n - 1 ? ", " : " or ", names[i]);
    }
    die_usage(NULL, "%s %s: expected %s", name, value, all);
}

Settings flags_read(int argc, const char* const* argv) {
    // defaults, then the flags of a resumed run, or --preset, --router and --depth; then the command line as it stands
    static const char* const paper[] = {"", "--aux-diversity=0.01", "--aux-simplicity=0.01", "--unit-norm=0"};
    static const char* const authors[] = {"", "--kgrad=detached", "--aux-balance=0.01", "--aux-efficiency=0.01",
                                          "--expert-init=copies", "--gate-input=residual"};
    static const char* const softmax[] = {"", "--unit-norm=0", "--period=0", "--aux-balance=0.01", "--aux-efficiency=0",
                                          "--aux-entropy=0.0001"};
    static SafeFile file; // stays open: flags of a resumed run point into it
    Settings s;
    static char dial[4][32];
    char key[64];
    const char* const dial_argv[5] = {"", dial[0], dial[1], dial[2], dial[3]};
    for (int i = 0; i < N_FLAGS; i++) {
        snprintf(flag_table[i].name, sizeof flag_table[i].name, "--%s", flag_table[i].field);
        for (char* p = flag_table[i].name; *p; p++) { if (*p == '_') { *p = '-'; } }
        flag_set(&s, &flag_table[i], flag_table[i].value);
    }
    flags_parse(&s, argc, argv, 1);
    if (*s.resume) {
        file = safetensors_open(s.resume);
        for (int i = 0; i < N_FLAGS; i++) {
            snprintf(key, sizeof key, "flag.%s", flag_table[i].field);
            const char* value = safetensors_meta(&file, key);
            if (value != NULL && strcmp(flag_table[i].field, "resume") != 0) { flag_set(&s, &flag_table[i], value); }
        }
    } else {
        static const char* const presets[] = {"default", "paper", "authors"};
        int preset = choice("--preset", s.preset, presets, 3), router = choice("--router", s.router, router_names, 4);
        if (preset >= 1) { flags_parse(&s, 4, paper, 0); }
        if (preset == 2) { flags_parse(&s, 6, authors, 0); }
        if (router != TOP_ANY) { flags_parse(&s, router == TOP_P ? 6 : 5, softmax, 0); }
        if (s.depth > 0) { // the learning rate falls with the root of the width; the default, 128 channels, has 0.001
            snprintf(dial[0], 32, "--layers=%d", s.depth);
            snprintf(dial[1], 32, "--heads=%d", s.depth);
            snprintf(dial[2], 32, "--channels=%d", 64 * s.depth);
            snprintf(dial[3], 32, "--lr=%.4g", 1e-3 * sqrt(2.0 / s.depth));
            flags_parse(&s, 5, dial_argv, 0);
        }
    }
    for (int i = 0; i < N_FLAGS; i++) { flag_table[i].given = 0; }
    flags_parse(&s, argc, argv, 0);
    for (int i = 1; i < argc && *s.resume; i++) { // --steps of today wins over --epochs of the run that goes on
        if (strncmp(argv[i], "--epochs", 8) == 0 || strcmp(argv[i], "-ep") == 0) { return s; }
    }
    for (int i = 1; i < argc && *s.resume; i++) {
        if (strncmp(argv[i], "--steps", 7) != 0 && strcmp(argv[i], "-x") != 0) { continue; }
        for (int k = 0; k < N_FLAGS; k++) { if (strcmp(flag_table[k].field, "epochs") == 0) { flag_set(&s, &flag_table[k], "0"); } }
    }
    return s;
}

// ----------------------------------------------------------------------------------------------------------------------
// Pictures: CIFAR-10's binary layout (class, planes), CIFAR-100's (domain, class, planes), IDX (MNIST). docs/formats.md

typedef struct {
    size_t n, room;
    int size, planes, classes, domains; // domains: 0 if the layout has none
    unsigned char* bytes;               // (n, planes, size, size)
    unsigned char* device;              // the same on the GPU
    unsigned char *label, *domain;      // (n) each
    const char* path;
} Pictures;

enum { AUTO, CIFAR10, CIFAR100, IDX };

void pictures_add(Pictures* p, const unsigned char* bytes, int label, int domain) { // one picture
    size_t area = (size_t)p->planes * p->size * p->size;
    if (p->n == p->room) {
        p->room = 2 * p->room + 1; // no more than that: a picture can have 3 MB
        p->bytes = (unsigned char*)realloc(p->bytes, p->room * area);
        p->label = (unsigned char*)realloc(p->label, p->room);
        p->domain = (unsigned char*)realloc(p->domain, p->room);
        require(p->bytes && p->label && p->domain, "give fewer pictures", "no memory for %zu pictures", p->room);
    }
    memcpy(p->bytes + p->n * area, bytes, area);
    p->label[p->n] = (unsigned char)label;
    p->domain[p->n++] = (unsigned char)domain;
    if (label >= p->classes) { p->classes = label + 1; }
    if (domain >= p->domains) { p->domains = domain + 1; }
}

void pictures_shape(Pictures* p, int size, int planes, const char* path) { // all files of a set agree on it
    require(p->size == 0 || (p->size == size && p->planes == planes), "give files of one kind",
            "%s: pictures of %d x %d x %d, those before were %d x %d x %d", path, planes, size, size, p->planes, p->size, p->size);
    p->size = size;
    p->planes = planes;
}

uint32_t big_endian(const unsigned char* p) { return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3]; }

void pictures_idx(Pictures* p, const char* path, const unsigned char* file, size_t size, int image) {
    // file: what train-images-idx3-ubyte holds; the classes stand in a file of the same name with labels-idx1
    char other[1024];
    const char *slash = strrchr(path, '/'), *found = strstr(slash ? slash : path, "images"); // a folder may be called so, too
    size_t label_bytes;
    require(size >= 16, "the file is cut: copy it again", "%s: shorter than its header", path);
    uint32_t n = big_endian(file + 4), rows = big_endian(file + 8), columns = big_endian(file + 12);
    require(rows == columns && rows >= 1 && rows <= 1024, "pictures must be squares of up to 1024 pixels",
            "%s: pictures of %u x %u", path, rows, columns);
    require(image == 0 || (int)rows == image, "leave --image out", "%s: pictures of %u x %u, not %d", path, rows, columns, image);
    require(size - 16 == (size_t)n * rows * columns, "the file is cut or damaged: copy it again",
            "%s: the header says %u pictures of %u x %u, the file has %zu bytes", path, n, rows, columns, size);
    require(found && strlen(path) < sizeof other, "keep the names of the original files",
            "%s: no `images` in the name, so the file of its labels cannot be found", path);
    snprintf(other, sizeof other, "%.*slabels%s", (int)(found - path), path, found + 6);
    char* idx3 = strstr(other + (found - path), "idx3");
    if (idx3 != NULL) { idx3[3] = '1'; }
    unsigned char* labels = map_file(other, &label_bytes);
    require(label_bytes >= 8 && big_endian(labels) == 2049, "give the IDX file of the labels", "%s: not a file of labels", other);
    require(big_endian(labels + 4) == n && label_bytes == 8 + (size_t)n, "the files do not belong together, or one is cut",
            "%s: labels for %u pictures in %zu bytes, %s has %u", other, big_endian(labels + 4), label_bytes, path, n);
    pictures_shape(p, (int)rows, 1, path);
    for (size_t i = 0; i < n; i++) { pictures_add(p, file + 16 + i * rows * columns, labels[8 + i], -1); }
    munmap(labels, label_bytes);
}

void pictures_file(Pictures* p, const char* path, int layout, int image) {
    // adds what one file holds. In CIFAR's layouts nothing says how large a picture is or whether a domain comes first: --image
    // does, and the size of the file, which must be a whole number of records
    int side = image > 0 ? image : 32;
    size_t size, area = 3 * (size_t)side * side;
    unsigned char* file = map_file(path, &size);
    uint32_t magic = size >= 4 ? big_endian(file) : 0;
    int records = layout == CIFAR10 || layout == CIFAR100; // any bytes may stand at their beginning
    require(records || magic >> 8 != 0x1f8b08, "unpack it: gunzip", "%s: compressed by gzip", path);
    require(records || magic != 2049, "give the file of the pictures: the labels are found beside it", "%s: an IDX file of labels",
            path);
    if (layout == IDX || (layout == AUTO && magic == 2051)) {
        require(magic == 2051, "give the IDX file of the pictures, unpacked", "%s: not an IDX file of pictures", path);
        pictures_idx(p, path, file, size, image);
    } else {
        int one = size > 0 && size % (area + 1) == 0, two = size > 0 && size % (area + 2) == 0;
        require(!one || !two || layout != AUTO, "say --layout cifar10 or cifar100", "%s: its size fits both layouts of CIFAR",
                path);
        int skip = layout == CIFAR10 || (layout == AUTO && one) ? 1 : 2;
        require(skip == 1 ? one : two, "is the file whole? --image says how large its pictures are; dev/images.py makes such files",
                "%s: %zu bytes are not a whole number of records of %zu + %zu bytes", path, size, (size_t)skip, area);
        pictures_shape(p, side, 3, path);
        for (unsigned char* r = file; r < file + size; r += area + (size_t)skip) {
            pictures_add(p, r + skip, r[skip - 1], skip == 2 ? r[0] : -1);
        }
    }
    munmap(file, size);
}

Pictures pictures_open(const char* pattern, const char* layout_name, int image) { // a file, or a pattern: 'cifar10/data_*.bin'
    static const char* const layouts[] = {"auto", "cifar10", "cifar100", "idx"};
    Pictures p;
    glob_t g;
    int layout = choice("--layout", layout_name, layouts, 4), single = access(pattern, F_OK) == 0;
    memset(&g, 0, sizeof g);
    memset(&p, 0, sizeof p);
    p.path = pattern;
    require(single || glob(pattern, 0, NULL, &g) == 0, "check the path; make data-vit writes the default, data/shapes_train.bin",
            "%s: no such file", pattern);
    if (single) { pictures_file(&p, pattern, layout, image); }
    for (size_t i = 0; i < g.gl_pathc; i++) { pictures_file(&p, g.gl_pathv[i], layout, image); }
    globfree(&g);
    require(p.n > 0, "give pictures", "%s: no pictures", pattern);
    return p;
}

void pictures_take(Pictures* p, Pictures* out, int from_split, int domain, int keep_domain) {
    // moves pictures to out (NULL: drops them): with from_split one of each ten (at another place each time: classes may go
    // round); else those that are of the domain (keep_domain: that
    // are not); the others close ranks
    size_t area = (size_t)p->planes * p->size * p->size, kept = 0;
    for (size_t i = 0; i < p->n; i++) {
        int goes = from_split ? (i + i / 10 * 7) % 10 == 9 : (p->domain[i] == domain) != keep_domain;
        if (goes && out != NULL) { pictures_add(out, p->bytes + i * area, p->label[i], p->domains > 0 ? p->domain[i] : -1); }
        if (goes) { continue; }
        memmove(p->bytes + kept * area, p->bytes + i * area, area);
        p->label[kept] = p->label[i];
        p->domain[kept++] = p->domain[i];
    }
    p->n = kept;
}

void pictures_norm(const Pictures* p, Norm* norm) { // mean and standard deviation of each plane, in 0 to 1
    size_t area = (size_t)p->size * p->size;
    for (int plane = 0; plane < p->planes; plane++) {
        uint64_t sum = 0, squares = 0; // whole numbers: exact, up to 2^48 pixels
        for (size_t i = 0; i < p->n; i++) {
            const unsigned char* x = p->bytes + (i * p->planes + plane) * area;
            for (size_t j = 0; j < area; j++) { sum += x[j]; squares += (uint64_t)x[j] * x[j]; }
        }
        double n = (double)p->n * (double)area, mean = (double)sum / n, variance = (double)squares / n - mean * mean;
        norm->mean[plane] = (float)(mean / 255.0);
        norm->std[plane] = variance > 1.0 ? (float)(sqrt(variance) / 255.0) : 1.0f / 255.0f; // all of one colour: nothing to scale
    }
}

void pictures_to_device(Pictures* p) { // all of them: 50,000 of CIFAR are 154 MB
    size_t bytes = p->n * p->planes * p->size * p->size;
    p->device = (unsigned char*)device_alloc(bytes, 1, "pictures");
    to_device(p->device, p->bytes, bytes);
}

void pictures_free(Pictures* p) {
    CUDA(cudaFree(p->device));
    free(p->bytes); free(p->label); free(p->domain);
}

// Batches. The order of the pictures in an epoch depends on seed and epoch alone, so a resumed run needs no more than its step.

void epoch_order(int* order, size_t n, int seed, uint64_t epoch) { // order (n): a permutation (Fisher-Yates)
    uint64_t rng = random_stream((uint64_t)seed + ((epoch + 1) << 32), 3);
    for (size_t i = 0; i < n; i++) { order[i] = (int)i; }
    for (size_t i = n; i > 1; i--) {
        size_t j = (size_t)(((uint64_t)random_u32(&rng) * i) >> 32);
        int t = order[i - 1];
        order[i - 1] = order[j];
        order[j] = t;
    }
}

float random_beta(uint64_t* rng, float a) { // Beta(a, a), 0 < a <= 1 (Joehnk 1964)
    for (;;) {
        double u = pow((random_u32(rng) + 0.5) / 4294967296.0, 1.0 / a), v = pow((random_u32(rng) + 0.5) / 4294967296.0, 1.0 / a);
        if (u + v <= 1.0 && u + v > 0.0) { return (float)(u / (u + v)); }
    }
}

View view_plain(int picture) {
    View v = {picture, 0, 0, 0, 1.0f, 1.0f, 1.0f};
    return v;
}

View view_random(int picture, const Settings* s, uint64_t* rng) {
    View v = view_plain(picture);
    float* factors[] = {&v.brightness, &v.contrast, &v.saturation};
    v.dx = (int)(random_u32(rng) % (unsigned)(2 * s->crop + 1)) - s->crop;
    v.dy = (int)(random_u32(rng) % (unsigned)(2 * s->crop + 1)) - s->crop;
    v.flip = s->flip && random_u32(rng) % 2;
    for (int i = 0; i < 3; i++) { *factors[i] = 1.0f + s->jitter * (2.0f * random_f32(rng) - 1.0f); }
    return v;
}

void training_batch(Item* items, const Pictures* set, const Settings* s, uint64_t first, uint64_t* rng) {
    // items (batch): the first-th picture of the run and those after it, augmented. Mixup is with the batch in reverse order
    static int* order = NULL;
    static uint64_t epoch = UINT64_MAX;
    static size_t n = 0;
    int B = s->batch;
    for (int b = 0; b < B; b++) {
        uint64_t at = first + (uint64_t)b;
        if (order == NULL || n != set->n || epoch != at / set->n) {
            if (n != set->n) { free(order); order = (int*)alloc_zeroed(set->n, sizeof(int), "the order of pictures"); }
            n = set->n;
            epoch = at / n;
            epoch_order(order, n, s->seed, epoch);
        }
        items[b].view[0] = view_random(order[at % n], s, rng);
        items[b].y[0] = set->label[order[at % n]];
    }
    for (int b = 0; b < B; b++) {
        items[b].lam = s->mixup > 0.0f ? random_beta(rng, s->mixup) : 1.0f;
        items[b].view[1] = items[B - 1 - b].view[0];
        items[b].y[1] = items[B - 1 - b].y[0];
    }
}

void plain_batch(Item* items, const Pictures* set, size_t first, int B) { // items (B): pictures as they are
    for (int b = 0; b < B; b++) {
        items[b].view[0] = items[b].view[1] = view_plain((int)first + b);
        items[b].y[0] = items[b].y[1] = set->label[first + (size_t)b];
        items[b].lam = 1.0f;
    }
}

// ----------------------------------------------------------------------------------------------------------------------
// The configuration: from flags and pictures, or from a model file

int config_moe_layers(Config* c, const char* list) { // every2, all, none, or 0,2,5; returns how many
    int n = 0, every2 = !strcmp(list, "every2") || !strcmp(list, "auto"), all = !strcmp(list, "all");
    int named = every2 || all || !strcmp(list, "none") || *list == '\0';
    for (int l = 0; l < c->L; l++) { c->moe[l] = all || (every2 && l % 2 == 0); }
    for (const char* p = list; !named; p++) {
        char* end;
        long l = strtol(p, &end, 10);
        require_usage(isdigit((unsigned char)*p) && (*end == ',' || *end == '\0') && l < c->L,
                      "every2, all, none, or numbers below --layers with commas between",
                      "--moe-layers %s: not a list of layers below %d", list, c->L);
        c->moe[l] = 1;
        named = *end == '\0';
        p = end;
    }
    for (int l = 0; l < c->L; l++) { n += c->moe[l]; }
    return n;
}

const char* meta_text(const SafeFile* f, const char* key) {
    const char* value = safetensors_meta(f, key);
    require(value, "give a checkpoint that this program saved", "%s: no metadata %s", f->path, key);
    return value;
}

double meta_number(const SafeFile* f, const char* key, double low, double high, int whole) {
    char* end;
    const char* value = meta_text(f, key);
    double x = strtod(value, &end);
    require(end != value && *end == '\0' && x >= low && x <= high && (!whole || x == floor(x)), "the file is damaged",
            "%s: metadata %s is %s, expected %.10g to %.10g", f->path, key, value, low, high);
    return x;
}

int meta_int(const SafeFile* f, const char* key, int low, int high) { return (int)meta_number(f, key, low, high, 1); }
float meta_float(const SafeFile* f, const char* key, double low, double high) { return (float)meta_number(f, key, low, high, 0); }

void meta_floats(const SafeFile* f, const char* key, float* out, int n, float least) { // "0.5,0.5,0.5"
    const char* p = meta_text(f, key);
    for (int i = 0; i < n; i++) {
        char* end;
        out[i] = strtof(p, &end);
        require(end != p && *end == (i + 1 < n ? ',' : '\0') && out[i] >= least && out[i] <= 1.0f, "the file is damaged",
                "%s: metadata %s is not %d numbers from %g to 1", f->path, key, n, (double)least);
        p = end + 1;
    }
}

void flag_agrees(const SafeFile* f, const char* field, double is, const char* text) {
    // a flag on the command line must say what the model file f, if there is one, is made of: text, or with NULL a number
    char number[32];
    snprintf(number, sizeof number, "%.7g", is);
    for (int i = 0; i < N_FLAGS; i++) {
        const Flag* g = &flag_table[i];
        int same = text ? !strcmp(g->now, text) : (float)strtod(g->now, NULL) == (float)is;
        require_usage(f == NULL || !g->given || same || strcmp(g->field, field) != 0, "leave the flag out: the file says it",
                      "%s %s: %s has %s", g->name, g->now, f->path, text ? text : number);
    }
}

Config config_make(const Settings* s, const Pictures* set, const SafeFile* f) {
    // the sizes from the flags and the pictures, or from a model file f; what a file does not say from the flags. A layer that is
    // dense in f and DynMoE by the flags will be upcycled, see weights_load.
    static const char *const kgrads[] = {"detached", "normalised"}, *const gate_inputs[] = {"ln2", "residual"};
    Config c, file;
    int moe = 0;
    memset(&c, 0, sizeof c);
    require(f == NULL || strcmp(meta_text(f, "model"), "vit") == 0, "give a checkpoint of train_vit_dynmoe", "%s: not a ViT",
            f->path);
    c.L       = f ? meta_int(f, "L", 1, MAX_LAYERS) : s->layers;
    c.C       = f ? meta_int(f, "C", 1, 65536) : s->channels;
    c.NH      = f ? meta_int(f, "NH", 1, 1024) : s->heads;
    c.image   = f ? meta_int(f, "image", 1, 1024) : set->size;
    c.planes  = f ? meta_int(f, "channels", 1, MAX_PLANES) : set->planes;
    c.patch   = f ? meta_int(f, "patch", 1, 1024) : s->patch;
    c.classes = f ? meta_int(f, "classes", 1, 65536) : set->classes;
    if (f != NULL) {
        moe = config_moe_layers(&c, meta_text(f, "moe_layers"));
        meta_floats(f, "mean", c.norm.mean, c.planes, 0.0f);
        meta_floats(f, "std", c.norm.std, c.planes, 1e-6f);
    } else { pictures_norm(set, &c.norm); }
    require_usage(c.image % c.patch == 0, "the side of a picture must be a multiple of --patch",
                  "pictures of %d x %d do not divide into patches of %d", c.image, c.image, c.patch);
    require_usage(c.image / c.patch <= 255, "choose a larger --patch", "%d patches a side are too many", c.image / c.patch);
    c.T = 1 + c.image / c.patch * (c.image / c.patch);
    file = c;
    const SafeFile* m = moe > 0 ? f : NULL; // the file of the DynMoE layers, if it has any
    const char* router = m == NULL ? s->router : meta_text(m, "router");
    c.E = m ? meta_int(m, "E", 1, MAX_EXPERTS) : s->experts;
    c.H = m ? meta_int(m, "H", 1, 262144) : s->expert_width > 0 ? s->expert_width : 4 * c.C;
    c.S = m ? meta_int(m, "shared", 0, 64) : s->shared_experts;
    c.topk = m ? meta_int(m, "topk", 1, MAX_EXPERTS) : s->topk;
    c.tau = m ? meta_float(m, "scale", 9.9e-7, 1.01e6) : s->gate_scale;
    c.topp = m ? meta_float(m, "topp", 0, 1) : s->topp;
    c.residual = choice("--gate-input", m ? meta_text(m, "gate_input") : s->gate_input, gate_inputs, 2);
    c.router = choice("--router", router, router_names, 4);
    c.normalised = choice("--kgrad", s->kgrad, kgrads, 2);
    c.train_fallback = s->train_fallback;
    const float weights[N_AUX] = {s->aux_diversity, s->aux_simplicity, s->aux_balance, s->aux_efficiency, s->aux_entropy};
    memcpy(c.aux_weight, weights, sizeof weights);
    if (f == NULL || strcmp(s->moe_layers, "auto") != 0 || (m == NULL && !s->eval_only && !*s->predict)) {
        moe = config_moe_layers(&c, s->moe_layers);
    }
    for (int l = 0; l < c.L; l++) {
        require_usage(!file.moe[l] || c.moe[l], "leave --moe-layers out", "--moe-layers %s: layer %d of %s has experts",
                      s->moe_layers, l, f->path);
    }
    flag_agrees(f, "layers", c.L, NULL);    flag_agrees(f, "heads", c.NH, NULL);       flag_agrees(f, "channels", c.C, NULL);
    flag_agrees(f, "patch", c.patch, NULL);  flag_agrees(f, "depth", c.C == 64 * c.L ? c.L : 0, NULL);
    flag_agrees(m, "experts", c.E, NULL);   flag_agrees(m, "expert_width", s->expert_width > 0 ? c.H : 0, NULL);
    flag_agrees(m, "router", 0, router);    flag_agrees(m, "shared_experts", c.S, NULL);
    flag_agrees(m, "gate_input", 0, gate_inputs[c.residual]);
    flag_agrees(m, "topk", c.topk, NULL);   flag_agrees(m, "topp", c.topp, NULL);      flag_agrees(m, "gate_scale", c.tau, NULL);
    require_usage(c.C % c.NH == 0, "channels must be a multiple of heads", "%d channels do not divide into %d heads", c.C, c.NH);
    require_usage(moe == 0 || c.E <= c.C, "orthonormal rows of W need experts <= channels", "%d experts, %d channels", c.E, c.C);
    require_usage(m || moe == 0 || c.router != TOP_ANY || (s->start_experts <= c.E && s->min_experts <= c.E), NULL,
                  "--start-experts or --min-experts is above --experts %d", c.E);
    require_usage(c.router != TOP_K || c.topk <= c.E, NULL, "--topk %d: there are %d experts", c.topk, c.E);
    require_usage(f != NULL || s->crop <= c.image, "give the pixels by which a picture may move",
                  "--crop %d: pictures have %d pixels a side", s->crop, c.image);
    require_usage(!c.residual || c.S == 0, "use --gate-input ln2", "--shared-experts: with --gate-input residual there is no "
                  "LayerNorm that they could read");
    require_usage(c.aux_weight[c.router == TOP_ANY ? ENTROPY : EFFICIENCY] == 0.0f, "leave its --aux flag out",
                  "--router %s has no %s loss", router, c.router == TOP_ANY ? "entropy" : "efficiency");
    if (moe == 0) { c.E = c.S = c.residual = 0; } // a plain ViT
    return c;
}

// ----------------------------------------------------------------------------------------------------------------------
// Checkpoints: parameters, masks, and what an exact continuation needs: moments, records, random states, flags

typedef struct {        // where a run is
    int step;           // steps done
    uint64_t rng_data;  // of augmentation
    float best_val;     // nats
} Progress;

int checkpoint_tensors(ViT* model, SafeTensor* t) {
    // lists what a checkpoint holds, as pointers into the model; saving writes them, loading fills them. Returns how many.
    static const char* prefix[] = {"", "adam_m/", "adam_v/", "ema/"};
    float* memory[] = {model->params_memory, model->m_memory, model->v_memory, model->ema_memory};
    size_t one = 1, E = (size_t)model->config.E, C = (size_t)model->config.C;
    int n = 0;
    char name[64];
    for (int k = 0; k < 3 + model->with_ema; k++) {
        for (int i = 0; i < model->n_tensors; i++) {
            const Tensor* a = &model->table[i];
            t[n++] = safe_tensor(prefix[k], a->name, "F32", a->ndim, a->shape, memory[k] + a->offset);
        }
    }
    for (int l = 0; l < model->config.L; l++) {
        Layer* a = &model->layer[l];
        if (!model->config.moe[l]) { continue; }
        snprintf(name, sizeof name, "h.%d.moe.mask", l);        t[n++] = safe_tensor("", name, "I32", 1, &E, a->mask);
        snprintf(name, sizeof name, "record/h.%d.count", l);    t[n++] = safe_tensor("", name, "I64", 1, &E, a->record_count);
        snprintf(name, sizeof name, "record/h.%d.sum", l);      t[n++] = safe_tensor("", name, "F64", 1, &C, a->record_sum);
        snprintf(name, sizeof name, "record/h.%d.unrouted", l); t[n++] = safe_tensor("", name, "I64", 1, &one, &a->record_unrouted);
    }
    return n;
}

void moe_layers_print(char* out, const Config* c) { // "0,2,5"; out holds 512
    char* p = out;
    *out = '\0';
    for (int l = 0; l < c->L; l++) { if (c->moe[l]) { p += sprintf(p, p > out ? ",%d" : "%d", l); } }
}

void checkpoint_save(ViT* model, const Progress* p, const char* path) {
    const Config* c = &model->config;
    SafeTensor* t = (SafeTensor*)alloc_zeroed((size_t)(4 * model->n_tensors + 4 * c->L), sizeof(SafeTensor), "a checkpoint");
    char list[512], *meta;
    size_t length;
    FILE* f = open_memstream(&meta, &length);
    vit_to_host(model);
    moe_layers_print(list, c);
    fprintf(f, "\"format\":\"dynmoe-checkpoint 1\",\"model\":\"vit\",\"L\":\"%d\",\"NH\":\"%d\",\"C\":\"%d\",", c->L, c->NH, c->C);
    fprintf(f, "\"image\":\"%d\",\"channels\":\"%d\",\"patch\":\"%d\",\"classes\":\"%d\",", c->image, c->planes, c->patch,
            c->classes);
    for (int i = 0; i < 2; i++) {
        fprintf(f, i == 0 ? "\"mean\":\"" : "\"std\":\"");
        for (int k = 0; k < c->planes; k++) {
            fprintf(f, k > 0 ? ",%.9g" : "%.9g", (double)(i == 0 ? c->norm.mean[k] : c->norm.std[k]));
        }
        fprintf(f, "\",");
    }
    fprintf(f, "\"gate_input\":\"%s\",\"E\":\"%d\",\"scale\":\"%.9g\",", c->residual ? "residual" : "ln2", c->E, (double)c->tau);
    fprintf(f, "\"router\":\"%s\",\"topk\":\"%d\",\"topp\":\"%.9g\",\"shared\":\"%d\",\"H\":\"%d\",", router_names[c->router],
            c->topk, (double)c->topp, c->S, c->H);
    fprintf(f, "\"moe_layers\":\"%s\",\"step\":\"%d\",\"best_val\":\"%.9g\",", list, p->step, (double)p->best_val);
    fprintf(f, "\"rng_data\":\"%" PRIu64 "\",", p->rng_data);
    fprintf(f, "\"recording\":\"%d\"", model->recording);
    for (int i = 0; i < N_FLAGS; i++) {
        fprintf(f, ",\"flag.%s\":", flag_table[i].field);
        json_print(f, flag_table[i].now);
    }
    fclose(f);
    safetensors_save(path, t, checkpoint_tensors(model, t), meta);
    free(meta);
    free(t);
}

void check_masks(const ViT* model, const SafeFile* f) {
    for (int l = 0; l < model->config.L; l++) {
        for (int e = 0; e < model->config.E; e++) {
            require(model->layer[l].mask[e] >> 1 == 0, "the file is damaged", "%s: the mask of layer %d is not 0 or 1", f->path, l);
        }
    }
}

void check_finite(const SafeFile* f, const SafeTensor* t) { // a NaN or Inf would spread through the model
    int wide = strcmp(t->dtype, "F64") == 0;
    for (size_t i = 0; (wide || strcmp(t->dtype, "F32") == 0) && i < t->bytes / (wide ? 8 : 4); i++) {
        double d = 0.0;
        float x = 0.0f;
        if (wide) { memcpy(&d, t->data + 8 * i, 8); } else { memcpy(&x, t->data + 4 * i, 4); }
        require(isfinite(wide ? d : x), "take an older checkpoint, or start again with a lower --lr",
                "%s: tensor %s is NaN or Inf at place %zu", f->path, t->name, i);
    }
}

void checkpoint_load(ViT* model, const SafeFile* f, Progress* p) {
    // all that an exact continuation needs
    SafeTensor* t =
        (SafeTensor*)alloc_zeroed((size_t)(4 * model->n_tensors + 4 * model->config.L), sizeof(SafeTensor), "a checkpoint");
    int n = checkpoint_tensors(model, t);
    for (int i = 0; i < n; i++) {
        const SafeTensor* found = safetensors_find(f, t[i].name);
        require(found, "give a checkpoint that this program saved", "%s: no tensor %s", f->path, t[i].name);
        require(strcmp(found->dtype, t[i].dtype) == 0 && found->ndim == t[i].ndim &&
                memcmp(found->shape, t[i].shape, (size_t)t[i].ndim * sizeof(size_t)) == 0, "the file does not fit its own metadata",
                "%s: tensor %s has another dtype or shape than the model", f->path, t[i].name);
        check_finite(f, found);
        memcpy((void*)(uintptr_t)t[i].data, found->data, t[i].bytes);
    }
    check_masks(model, f);
    free(t);
    model->recording = meta_int(f, "recording", 0, 1);
    p->step = meta_int(f, "step", 0, 2000000000);
    p->rng_data = strtoull(meta_text(f, "rng_data"), NULL, 10);
    p->best_val = meta_float(f, "best_val", 0, INFINITY);
    require(p->rng_data != 0, "the file is damaged", "%s: a random state is 0 or missing", f->path);
}

void weights_load(ViT* model, const SafeFile* f, int start_experts, float threshold, int averages, uint64_t* rng) {
    // parameters and masks; with averages those of --ema where f has them. Sparse upcycling: a DynMoE layer that is dense in f gets
    // a copy of that layer in every expert, and the first values of W, G and the mask.
    const Config* c = &model->config;
    char name[64];
    for (int i = 0; i < model->n_tensors; i++) {
        const Tensor* t = &model->table[i];
        const char* moe = strstr(t->name, "moe.");
        float* p = model->params_memory + t->offset;
        int copies = 1, one = 0; // one: the file has the slice of one expert
        snprintf(name, sizeof name, "ema/%s", t->name);
        const SafeTensor* found = averages ? safetensors_find(f, name) : NULL;
        if (found == NULL) { found = safetensors_find(f, t->name); }
        if (found == NULL && moe != NULL) {
            int norm = strncmp(moe, "moe.ln", 6) == 0; // of an expert: the layer's ln2
            snprintf(name, sizeof name, norm ? "h.%d.ln2%s" : "h.%d.%s", t->layer, moe + (norm ? 6 : 4));
            found = safetensors_find(f, name);
            copies = t->slots;
            one = 1;
            if (strncmp(moe, "moe.gate", 8) == 0) { tensor_init(model, t, 0, threshold, rng); continue; }
        }
        require(found, "give a model of these layers, or another --moe-layers", "%s: no tensor %s", f->path, t->name);
        require(strcmp(found->dtype, "F32") == 0 && found->ndim == t->ndim - one &&
                memcmp(found->shape, t->shape + one, (size_t)found->ndim * sizeof(size_t)) == 0,
                "give float32 weights that fit the model", "%s: tensor %s has another dtype or shape than the model", f->path,
                found->name);
        check_finite(f, found);
        for (size_t e = 0; e < (size_t)copies; e++) { memcpy(p + e * (found->bytes / 4), found->data, found->bytes); }
    }
    for (int l = 0; l < c->L; l++) {
        snprintf(name, sizeof name, "h.%d.moe.mask", l);
        const SafeTensor* mask = safetensors_find(f, name);
        require(mask == NULL || (strcmp(mask->dtype, "I32") == 0 && mask->bytes == 4 * (size_t)c->E),
                "the file does not fit its own metadata", "%s: tensor %s has another dtype or shape than the model", f->path, name);
        for (int e = 0; e < c->E; e++) { model->layer[l].mask[e] = e < start_experts; }
        if (c->moe[l] && mask != NULL) { memcpy(model->layer[l].mask, mask->data, mask->bytes); }
    }
    check_masks(model, f);
}

// ----------------------------------------------------------------------------------------------------------------------
// Watching: who uses which expert, on the terminal and in log.jsonl

typedef struct {
    double tokens, rows, none, load[MAX_EXPERTS], hist[MAX_EXPERTS + 1];
    float low[MAX_EXPERTS], high[MAX_EXPERTS];
    int experts;
} Routing; // one layer; hist: tokens by k; low, high: smallest and largest score of each expert

void routing_add(Routing* r, const ViT* model) { // r (L): adds what the last forward did
    for (int l = 0; l < model->config.L; l++) {
        const Layer* a = &model->layer[l];
        if (!model->config.moe[l]) { continue; }
        r[l].tokens += model->B * model->T;
        r[l].none += a->unrouted;
        r[l].experts = 0;
        for (int e = 0; e < model->config.E; e++) {
            int first = r[l].tokens == model->B * model->T;
            r[l].load[e] += a->count[e];
            r[l].rows += a->count[e];
            r[l].experts += a->mask[e];
            r[l].low[e] = first ? a->low[e] : fminf(r[l].low[e], a->low[e]);
            r[l].high[e] = first ? a->high[e] : fmaxf(r[l].high[e], a->high[e]);
        }
        for (int k = 0; k <= model->config.E; k++) { r[l].hist[k] += a->hist[k]; }
    }
}

const char* shade(double share) { // a cell of the heat map, two columns wide; blocks on a UTF-8 terminal
    static const char* cells[2][5] = {{"  ", "..", "::", "++", "##"},
        {"  ", "\xe2\x96\x91\xe2\x96\x91", "\xe2\x96\x92\xe2\x96\x92", "\xe2\x96\x93\xe2\x96\x93", "\xe2\x96\x88\xe2\x96\x88"}};
    const char* names[] = {"LC_ALL", "LC_CTYPE", "LANG"}; // the first that is set decides
    const char* locale = "";
    for (int i = 0; i < 3 && !*locale; i++) { if (getenv(names[i]) != NULL) { locale = getenv(names[i]); } }
    int utf8 = isatty(STDOUT_FILENO) && (strstr(locale, "UTF-8") || strstr(locale, "utf8"));
    return cells[utf8][share <= 0.0 ? 0 : share < 0.25 ? 1 : share < 0.5 ? 2 : share < 0.75 ? 3 : 4];
}

void heat_map(const ViT* model, const Routing* r) {
    // rows: DynMoE layers. Left: share of tokens that use each expert, -- for free slots. Right: share of tokens by k.
    int E = model->config.E;
    printf("  share of tokens: %s below 25%%  %s below 50%%  %s below 75%%  %s above  -- free slot\n  expert  |", shade(.1),
           shade(.3), shade(.6), shade(1));
    for (int e = 0; e < E; e++) { printf("%2d", e); }
    printf("| mean k | k =");
    for (int k = 0; k <= E; k++) { printf("%2d", k); }
    printf("\n");
    for (int l = 0; l < model->config.L; l++) {
        if (!model->config.moe[l]) { continue; }
        printf("  layer%3d|", l);
        for (int e = 0; e < E; e++) { printf("%s", model->layer[l].mask[e] ? shade(r[l].load[e] / r[l].tokens) : "--"); }
        printf("| %5.2f  |    ", r[l].rows / r[l].tokens);
        for (int k = 0; k <= E; k++) { printf("%s", shade(r[l].hist[k] / r[l].tokens)); }
        printf("|\n");
    }
}

FILE* log_open(const char* folder, int append) {
    char path[1024];
    require(mkdir(folder, 0777) == 0 || errno == EEXIST, "choose another --out", "%s: cannot make the folder: %s", folder,
            strerror(errno));
    snprintf(path, sizeof path, "%s/log.jsonl", folder);
    FILE* f = fopen(path, "a+");
    require(f, "choose another --out", "%s: %s", path, strerror(errno));
    require(flock(fileno(f), LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK, "wait for its end, or choose another --out",
            "%s: another run is writing to this folder", path);
    long end = append && fseek(f, 0, SEEK_END) == 0 ? ftell(f) : 0; // append: cut off half a record, which a kill left behind
    while (end > 0 && fseek(f, end - 1, SEEK_SET) == 0 && fgetc(f) != '\n') { end--; }
    if (ftruncate(fileno(f), end) != 0 || fseek(f, 0, SEEK_END) != 0) { clearerr(f); } // a device, for example
    return f;
}

void log_end(FILE* log) { // closes one record; a full disk is said at once
    fprintf(log, "}\n");
    require(fflush(log) == 0 && !ferror(log), "free some space, then --resume the last checkpoint", "log.jsonl: %s",
            strerror(errno));
}

void log_list(FILE* log, const char* name, int n, const double* d, double over, const float* f) { // d / over, or f
    fprintf(log, ",\"%s\":[", name);
    for (int i = 0; i < n; i++) { fprintf(log, "%s%.5f", i ? "," : "", d != NULL ? d[i] / over : (double)f[i]); }
    fprintf(log, "]");
}

void log_routing(FILE* log, ViT* model, const Routing* r) { // one object per DynMoE layer
    const char* comma = "";
    float G[MAX_EXPERTS];
    int E = model->config.E;
    fprintf(log, ",\"layers\":[");
    for (int l = 0; l < model->config.L; l++) {
        if (!model->config.moe[l]) { continue; }
        fprintf(log, "%s{\"layer\":%d,\"experts\":%d,\"k\":%.5f,\"none\":%.5f", comma, l, r[l].experts, r[l].rows / r[l].tokens,
                r[l].none / r[l].tokens);
        log_list(log, "load", E, r[l].load, r[l].tokens, NULL);
        log_list(log, "hist", E + 1, r[l].hist, r[l].tokens, NULL);
        vit_thresholds(model, l, G);
        log_list(log, "G", E, NULL, 1.0, G);
        log_list(log, "low", E, NULL, 1.0, r[l].low);
        log_list(log, "high", E, NULL, 1.0, r[l].high);
        fprintf(log, "}");
        comma = ",";
    }
    fprintf(log, "]");
}

// ----------------------------------------------------------------------------------------------------------------------
// How fast could a step be? Its parts, counted. dev/floors.py counts the same and says how each number comes about.

#define FLOOR_FLOPS 788e12 // FLOP that one H200 does in a second: a large bf16 product of cuBLAS, measured
#define FLOOR_BYTES 4.3e12 // bytes that it reads and writes in a second when it copies, measured
static double gpu_peak;    // of this GPU, see peak_of

typedef struct { double flop, ms; } Floor; // of a step: FLOP of the model, as MFU counts them; least time on an H200, in bf16

Floor step_floor(const Config* c, double parameters, double n, double k, double active) {
    // of n pictures and one update, if a token uses k routed experts and a layer has so many active ones (means over layers).
    // unit: one bf16 activation of all tokens. A part's products backward are `back` times those forward
    double N = n * c->T, C = c->C, E = c->E, S = c->S, h = c->H / C, unit = 2.0 * N * C, K = c->planes * c->patch * c->patch;
    double L = c->L, moe = 0.0;
    for (int l = 0; l < c->L; l++) { moe += c->moe[l]; }
    double updated = parameters - moe * (E - active) * ((2.0 * c->H + 2.0 + 2.0 * c->residual) * C + c->H + 1.0);
    const struct { double times, flop, back, bytes, bytes_back; } part[] = {
        {L,        6.0 * N * C * C,         2.0, 4 * unit,               8 * unit},               // q, k, v
        {L,        4.0 * N * c->T * C,      2.5, 4 * unit,               9 * unit},               // attention: both ways
        {L,        2.0 * N * C * C,         2.0, 2 * unit,               4 * unit},               // its projection
        {L - moe,  16.0 * N * C * C,      2.0, 14 * unit,              24 * unit},              // dense feed-forward
        {L,        0.0,                     0.0, 8 * unit,               8 * unit},               // LayerNorms with residual sums
        {moe,      2.0 * N * C * E,         2.0, unit + 8 * N * E,       3 * unit + 4 * N * E},   // gate, routing
        {moe,      4.0 * N * C * c->H * k,  2.0, (2 + 3 * h) * k * unit, (4 + 5 * h) * k * unit}, // experts, on k rows a token
        {moe * (S > 0), 4.0 * N * C * c->H * S, 2.0, (2 + 3 * h * S) * unit, (4 + 5 * h * S) * unit}, // shared experts
        {moe,      0.0,                     0.0, (3 * k + 2) * unit,     (4 * k + 1) * unit},     // gather, combine
        {1,        2.0 * (N - n) * C * K,   1.0, unit,                   unit},                   // patches; pictures get no dx
        {1,        2.0 * n * C * c->classes, 2.0, 0.0,                   0.0},                    // classifier
        {1,        0.0,                     0.0, 0.0,                    28.0 * updated},         // AdamW: p, m, v, gradient, copy
        {1,        0.0,                     0.0, 0.0,                    4.0 * parameters}};      // gradients: zero and norm
    Floor f = {0.0, 0.0};
    for (size_t i = 0; i < sizeof part / sizeof part[0]; i++) { // the larger of its two times; recomputing is no work of the model
        double forward = fmax(part[i].flop / FLOOR_FLOPS, part[i].bytes / FLOOR_BYTES);
        double backward = fmax(part[i].flop * part[i].back / FLOOR_FLOPS, part[i].bytes_back / FLOOR_BYTES);
        f.flop += part[i].times * part[i].flop * (1.0 + fmin(part[i].back, 2.0));
        f.ms += 1e3 * part[i].times * (forward + backward);
    }
    return f;
}

double peak_of(const char* name) { // dense bf16 FLOP/s of a GPU by its name, as published; 0: not known; -1: it is none
    int sxm = strstr(name, "PCIe") == NULL && strstr(name, "NVL") == NULL; // the others are slower
    if (strstr(name, "emulation") != NULL) { return -1.0; }
    return sxm && (strstr(name, "H100") != NULL || strstr(name, "H200") != NULL) ? 989e12 : 0.0;
}

double floor_share(char* out, size_t room, Floor f, double ms, int is_bf16, double peak) {
    // what the progress line says of a step of that many ms; returns MFU, or 0 where there is none: nothing measured on a GPU,
    // no known peak, or fp32, whose products cuBLAS does without tensor cores
    int known = is_bf16 && peak > 0.0;
    double flops = f.flop / (1e-3 * ms);
    *out = '\0';
    if (known) { snprintf(out, room, " | %.1f%% of floor, MFU %.1f%%", 100.0 * f.ms / ms, 100.0 * flops / peak); }
    else if (peak >= 0.0) { snprintf(out, room, " | %.1f TFLOP/s", 1e-12 * flops); }
    return known ? flops / peak : 0.0;
}

// ----------------------------------------------------------------------------------------------------------------------
// Validation, prediction, training

typedef struct {
    int32_t *label, *predicted, *k;
    float* loss;
    unsigned char* open;
    size_t n, T;
} Dump; // (n) (n) (L, n, T) (n) (L, n, T, E): every picture's and every token's fate

template <typename floatX>
void device_dump(Dump* d, ViT* model, size_t at) {
    size_t N = (size_t)model->B * model->T, E = (size_t)model->config.E;
    int* open = (int*)alloc_zeroed(N * E, sizeof(int), "a dump");
    for (size_t l = 0; l < (size_t)model->config.L; l++) {
        DeviceLayer<floatX>* a = &((Device<floatX>*)model->device)->layer[l];
        size_t row = (l * d->n + at) * d->T;
        if (!model->config.moe[l]) { continue; }
        to_host(d->k + row, a->k, N * sizeof(int));
        to_host(open, a->open, N * E * sizeof(int));
        for (size_t i = 0; i < N * E; i++) { d->open[row * E + i] = (unsigned char)open[i]; }
    }
    free(open);
}

Dump dump_make(const ViT* model, size_t n) { // for n pictures
    size_t rows = (size_t)model->config.L * n * (size_t)model->config.T;
    Dump d = {(int32_t*)alloc_zeroed(n, 4, "a dump"), (int32_t*)alloc_zeroed(n, 4, "a dump"),
              (int32_t*)alloc_zeroed(rows, 4, "a dump"), (float*)alloc_zeroed(n, 4, "a dump"),
              (unsigned char*)alloc_zeroed(rows * (size_t)model->config.E, 1, "a dump"), n, (size_t)model->config.T};
    return d;
}

void dump_free(Dump* d) { free(d->label); free(d->predicted); free(d->k); free(d->loss); free(d->open); }

void dump_batch(Dump* d, ViT* model, size_t at, const int* predicted) { // copies what the last forward did to pictures at ..
    for (int b = 0; b < model->B; b++) { d->label[at + b] = model->items[b].y[0]; d->predicted[at + b] = predicted[b]; }
    memcpy(d->loss + at, model->losses, (size_t)model->B * sizeof(float));
    if (model->bf16) { device_dump<bf16>(d, model, at); } else { device_dump<float>(d, model, at); }
}

void dump_save(const Dump* d, const ViT* model, const char* path) {
    SafeTensor t[3 + 2 * MAX_LAYERS];
    size_t n = d->n, shape[2] = {d->n * d->T, (size_t)model->config.E};
    char name[32], meta[700], list[512];
    int m = 0;
    t[m++] = safe_tensor("", "label", "I32", 1, &n, d->label);
    t[m++] = safe_tensor("", "predicted", "I32", 1, &n, d->predicted);
    t[m++] = safe_tensor("", "loss", "F32", 1, &n, d->loss);
    for (size_t l = 0; l < (size_t)model->config.L; l++) {
        if (!model->config.moe[l]) { continue; }
        snprintf(name, sizeof name, "h.%zu.open", l);
        t[m++] = safe_tensor("", name, "U8", 2, shape, d->open + l * shape[0] * shape[1]);
        snprintf(name, sizeof name, "h.%zu.k", l);
        t[m++] = safe_tensor("", name, "I32", 1, shape, d->k + l * shape[0]);
    }
    moe_layers_print(list, &model->config);
    snprintf(meta, sizeof meta, "\"format\":\"dynmoe-routing 1\",\"model\":\"vit\",\"T\":\"%d\",\"moe_layers\":\"%s\"",
             model->config.T, list);
    safetensors_save(path, t, m, meta);
}

typedef struct { float p; int class_; } Choice;

int compare_choices(const void* a, const void* b) { // most likely first; equal ones in order of their class
    const Choice *x = (const Choice*)a, *y = (const Choice*)b;
    return x->p != y->p ? (x->p < y->p) - (x->p > y->p) : x->class_ - y->class_;
}

void choices_sort(Choice* c, const float* logits, int classes) { // c (classes): probabilities, the most likely class first
    float sum = 0.0f;
    for (int v = 0; v < classes; v++) { c[v].p = logits[v]; c[v].class_ = v; }
    qsort(c, (size_t)classes, sizeof(Choice), compare_choices);
    float max = c[0].p; // subtracted so that exp cannot overflow
    for (int v = 0; v < classes; v++) { sum += c[v].p = expf(c[v].p - max); }
    for (int v = 0; v < classes; v++) { c[v].p /= sum; }
}

typedef struct { double loss, top1, top5, domain_top1[256], domain_n[256]; } Score; // means over pictures; by domain sums

Score evaluate(ViT* model, const Pictures* set, size_t max_pictures, int B, Routing* r, const char* dump_path) {
    // of the first max_pictures (0: all), in evaluation mode, without augmentation and smoothing; fills r (L)
    // dump_path: a file for every patch's experts, or ""
    size_t n = max_pictures > 0 && max_pictures < set->n ? max_pictures : set->n;
    int classes = model->config.classes;
    Score score;
    Dump dump = dump_make(model, *dump_path ? n : 0);
    Item* items = (Item*)alloc_zeroed((size_t)B, sizeof(Item), "a batch");
    int* predicted = (int*)alloc_zeroed((size_t)B, sizeof(int), "a batch");
    memset(r, 0, sizeof(Routing) * (size_t)model->config.L);
    memset(&score, 0, sizeof score);
    for (size_t at = 0; at < n; at += (size_t)B) {
        int b = n - at < (size_t)B ? (int)(n - at) : B;
        plain_batch(items, set, at, b);
        float loss = vit_forward(model, set->device, items, 0.0f, b, 0);
        if (!isfinite(loss)) { vit_stop_not_finite(model); }
        score.loss += (double)loss * b;
        const float* logits = vit_logits(model);
        for (int i = 0; i < b; i++) {
            const float* z = logits + (size_t)i * classes;
            int y = items[i].y[0], better = 0, best = 0; // better: classes before y
            for (int v = 0; v < classes; v++) {
                better += z[v] > z[y] || (z[v] == z[y] && v < y);
                best = z[v] > z[best] ? v : best;
            }
            predicted[i] = best;
            score.top1 += better == 0;
            score.top5 += better < 5;
            score.domain_top1[set->domain[at + i]] += better == 0;
            score.domain_n[set->domain[at + i]] += 1.0;
        }
        routing_add(r, model);
        if (dump.n > 0) { dump_batch(&dump, model, at, predicted); }
    }
    if (dump.n > 0) { dump_save(&dump, model, dump_path); }
    dump_free(&dump); free(items); free(predicted);
    score.loss /= (double)n; score.top1 /= (double)n; score.top5 /= (double)n;
    return score;
}

// Prediction: classes in words, and a map of how many experts each patch used, on the terminal and as PNG

void png_chunk(FILE* f, const char* type, const unsigned char* data, size_t n) { // length, type, data, CRC-32 of the two
    unsigned char head[8] = {(unsigned char)(n >> 24), (unsigned char)(n >> 16), (unsigned char)(n >> 8), (unsigned char)n};
    uint32_t crc = 0xFFFFFFFFu;
    memcpy(head + 4, type, 4);
    for (size_t i = 0; i < n + 4; i++) {
        crc ^= i < 4 ? head[4 + i] : data[i - 4];
        for (int bit = 0; bit < 8; bit++) { crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0); }
    }
    crc = ~crc;
    unsigned char tail[4] = {(unsigned char)(crc >> 24), (unsigned char)(crc >> 16), (unsigned char)(crc >> 8), (unsigned char)crc};
    fwrite(head, 1, 8, f); fwrite(data, 1, n, f); fwrite(tail, 1, 4, f);
}

void png_save(const char* path, const unsigned char* rgb, int width, int height) {
    // rgb (height, width, 3). Stored, not compressed: a block of up to 65535 bytes for each row of pixels
    size_t row = 1 + 3 * (size_t)width, n = 2 + (row + 5) * (size_t)height + 4;
    unsigned char *z = (unsigned char*)alloc_zeroed(n, 1, "a picture"), *p = z, header[13] = {0};
    uint32_t a = 1, b = 0; // Adler-32
    char temporary[1024];
    *p++ = 0x78; *p++ = 1;
    for (int y = 0; y < height; y++) {
        unsigned char block[6] = {y == height - 1, (unsigned char)row, (unsigned char)(row >> 8), (unsigned char)~row,
                                  (unsigned char)(~row >> 8), 0}; // the last: a row without a filter
        memcpy(p, block, 6);
        memcpy(p + 6, rgb + 3 * (size_t)width * y, 3 * (size_t)width);
        for (size_t i = 5; i < 5 + row; i++) { a = (a + p[i]) % 65521; b = (b + a) % 65521; }
        p += 5 + row;
    }
    for (int i = 0; i < 4; i++) { *p++ = (unsigned char)((b << 16 | a) >> (24 - 8 * i)); }
    for (int i = 0; i < 4; i++) {
        header[i] = (unsigned char)((unsigned)width >> (24 - 8 * i));
        header[4 + i] = (unsigned char)((unsigned)height >> (24 - 8 * i));
    }
    header[8] = 8; header[9] = 2; // 8 bits, RGB
    FILE* f = file_begin(temporary, path);
    fwrite("\x89PNG\r\n\x1a\n", 1, 8, f);
    png_chunk(f, "IHDR", header, 13);
    png_chunk(f, "IDAT", z, n);
    png_chunk(f, "IEND", header, 0);
    file_end(f, temporary, path);
    free(z);
}

void heat_colour(unsigned char* rgb, double share) { // 0 black, through purple and orange, 1 light yellow
    static const double stops[5][3] = {{0, 0, 4}, {87, 16, 110}, {188, 55, 84}, {249, 142, 9}, {252, 255, 164}};
    double x = 4.0 * (share < 0.0 ? 0.0 : share > 1.0 ? 1.0 : share);
    int i = x < 3.999 ? (int)x : 3;
    for (int c = 0; c < 3; c++) { rgb[c] = (unsigned char)(stops[i][c] + (x - i) * (stops[i + 1][c] - stops[i][c])); }
}

void picture_rgb(unsigned char* rgb, const Pictures* set, size_t i, int row, int col) { // one pixel of picture i; gray ones too
    size_t area = (size_t)set->size * set->size, at = i * set->planes * area + (size_t)row * set->size + col;
    for (int c = 0; c < 3; c++) { rgb[c] = set->bytes[at + (set->planes == 3 ? c * area : 0)]; }
}

void predict_terminal(const ViT* model, const Pictures* set, size_t i, const Dump* d, size_t at) {
    // the picture, two rows of pixels to a line (of a large one a pixel in several), and beside it for each DynMoE layer the k of
    // the patch at every place. In colour on a terminal, else brightness as a letter
    int size = set->size, side = size / model->config.patch, colour = isatty(STDOUT_FILENO);
    int step = (size + 63) / 64; // 64 columns are enough
    for (int row = 0; row < size; row += 2 * step) {
        printf("  ");
        for (int col = 0; col < size; col += step) {
            unsigned char up[3], low[3];
            picture_rgb(up, set, i, row, col);
            picture_rgb(low, set, i, row + step < size ? row + step : row, col);
            if (colour) {
                printf("\x1b[38;2;%d;%d;%dm\x1b[48;2;%d;%d;%dm\xe2\x96\x80", up[0], up[1], up[2], low[0], low[1], low[2]);
            } else { putchar(" .:-=+*#%@"[(up[0] + up[1] + up[2] + low[0] + low[1] + low[2]) * 10 / 1531]); }
        }
        if (colour) { printf("\x1b[0m"); }
        for (int l = 0; l < model->config.L; l++) {
            if (!model->config.moe[l]) { continue; }
            printf("  ");
            for (int col = 0; col < size; col += step) {
                int patch = row / model->config.patch * side + col / model->config.patch;
                int k = d->k[(l * d->n + at) * d->T + 1 + patch];
                unsigned char rgb[3];
                heat_colour(rgb, (double)k / model->config.E);
                if (colour) { printf("\x1b[48;2;%d;%d;%dm", rgb[0], rgb[1], rgb[2]); }
                putchar(k < 10 ? '0' + k : k < 36 ? 'a' + k - 10 : '+');
            }
            if (colour) { printf("\x1b[0m"); }
        }
        printf("\n");
    }
}

void predict_png(const ViT* model, const Pictures* set, size_t i, const Dump* d, size_t at, const char* path) {
    // the same as panels of at least 256 pixels side by side: the picture, then for each DynMoE layer its k map over the picture
    int size = set->size, scale = size < 256 ? (256 + size - 1) / size : 1, panel = size * scale, panels = 1, gap = 8;
    int layer[1 + MAX_LAYERS] = {-1}, side = size / model->config.patch;
    for (int l = 0; l < model->config.L; l++) { if (model->config.moe[l]) { layer[panels++] = l; } }
    if (panels > 13) { panels = 13; } // wider than any screen
    int width = panels * panel + (panels - 1) * gap;
    unsigned char *rgb = (unsigned char*)alloc_zeroed(3 * (size_t)width * panel, 1, "a picture"), heat[3];
    memset(rgb, 255, 3 * (size_t)width * panel);
    for (int q = 0; q < panels; q++) {
        for (int y = 0; y < panel; y++) {
            for (int x = 0; x < panel; x++) {
                unsigned char* out = rgb + 3 * ((size_t)y * width + q * (panel + gap) + x);
                picture_rgb(out, set, i, y / scale, x / scale);
                if (q == 0) { continue; }
                int patch = y / scale / model->config.patch * side + x / scale / model->config.patch;
                heat_colour(heat, (double)d->k[(layer[q] * d->n + at) * d->T + 1 + patch] / model->config.E);
                for (int c = 0; c < 3; c++) { out[c] = (unsigned char)((out[c] + 3 * heat[c]) / 4); }
            }
        }
    }
    png_save(path, rgb, width, panel);
    free(rgb);
}

Pictures pictures_ppm(const char* path, int size, int planes) { // one picture: binary PPM (P6) or PGM (P5) of the model's size
    size_t bytes, area = (size_t)size * size;
    unsigned char *file = map_file(path, &bytes), *body = file, *planar;
    int numbers[3] = {0, 0, 0}, colours = bytes > 2 && file[1] == '6' ? 3 : 1;
    Pictures p;
    memset(&p, 0, sizeof p);
    require(bytes > 11 && file[0] == 'P' && (file[1] == '5' || file[1] == '6'), "convert it: dev/images.py PICTURE NAME",
            "%s: not a binary PPM or PGM", path);
    body += 2;
    for (int i = 0; i < 3; i++) { // width, height, largest value; comments run to the end of their line
        while (body < file + bytes && (isspace(*body) || *body == '#')) {
            if (*body == '#') { while (body < file + bytes && *body != '\n') { body++; } } else { body++; }
        }
        while (body < file + bytes && isdigit(*body) && numbers[i] < 100000) { numbers[i] = 10 * numbers[i] + *body++ - '0'; }
    }
    body++; // the one blank before the pixels
    require(numbers[0] == size && numbers[1] == size && numbers[2] == 255 && colours == planes,
            "convert it: dev/images.py PICTURE NAME --size N",
            "%s: %d x %d, %d planes, up to %d; the model reads %d x %d, %d planes, up to 255", path, numbers[0], numbers[1],
            colours, numbers[2], size, size, planes);
    require(body + area * planes == file + bytes, "the file is cut: make it again", "%s: not as many pixels as its header says",
            path);
    planar = (unsigned char*)alloc_zeroed(area * planes, 1, "a picture");
    for (size_t i = 0; i < area * planes; i++) { planar[i % planes * area + i / planes] = body[i]; }
    pictures_shape(&p, size, planes, path);
    pictures_add(&p, planar, 0, -1);
    p.path = path;
    free(planar);
    munmap(file, bytes);
    return p;
}

void class_name(char* out, size_t room, const char* path, int class_) {
    // from the file of --names: line class_, or the line `class NUMBER NAME` where the first one is `domain ...` (dev/images.py);
    // or the number
    char mark[24];
    size_t bytes = 0, at = 0, n = 0, length = (size_t)snprintf(mark, sizeof mark, "class %d ", class_);
    snprintf(out, room, "class %d", class_);
    if (!*path) { return; }
    unsigned char* file = map_file(path, &bytes);
    int marked = bytes > 7 && memcmp(file, "domain ", 7) == 0;
    for (int line = 0; at < bytes; at++) {
        int starts = at == 0 || file[at - 1] == '\n';
        if (starts && (marked ? bytes - at > length && memcmp(file + at, mark, length) == 0 : line == class_)) { break; }
        line += file[at] == '\n';
    }
    at += marked && at < bytes ? length : 0;
    while (at + n < bytes && file[at + n] >= ' ' && file[at + n] < 127 && n + 1 < room) { n++; }
    if (n > 0) { snprintf(out, room, "%.*s", (int)n, (const char*)file + at); }
    munmap(file, bytes);
}

void predict(ViT* model, const Settings* s) { // prints what is in the pictures of --predict and who worked on them; PNGs into --out
    const Config* c = &model->config;
    size_t length = strlen(s->predict);
    int ppm = length > 4 && (!strcmp(s->predict + length - 4, ".ppm") || !strcmp(s->predict + length - 4, ".pgm"));
    Pictures set = ppm ? pictures_ppm(s->predict, c->image, c->planes) : pictures_open(s->predict, s->layout, c->image);
    Choice* choices = (Choice*)alloc_zeroed((size_t)c->classes, sizeof(Choice), "classes");
    char name[64], path[1200];
    size_t first = (size_t)s->predict_first;
    require(set.size == c->image && set.planes == c->planes, "give pictures like those it was trained on",
            "%s: pictures of %d x %d x %d, the model reads %d x %d x %d", s->predict, set.planes, set.size, set.size, c->planes,
            c->image, c->image);
    require_usage(first < set.n, NULL, "--predict-first %zu: %s has %zu pictures", first, s->predict, set.n);
    require(mkdir(s->out, 0777) == 0 || errno == EEXIST, "choose another --out", "%s: cannot make the folder: %s", s->out,
            strerror(errno));
    class_name(name, sizeof name, s->names, 0); // a bad file stops here
    pictures_to_device(&set);
    for (size_t i = first; i < set.n && i < first + (size_t)s->predict_count; i++) {
        Item item;
        Dump d = dump_make(model, 1);
        plain_batch(&item, &set, i, 1);
        if (item.y[0] >= c->classes) { item.y[0] = item.y[1] = 0; } // a class the model does not know: only its loss is unknown
        vit_forward(model, set.device, &item, 0.0f, 1, 0);
        choices_sort(choices, vit_logits(model), c->classes);
        dump_batch(&d, model, 0, &choices[0].class_);
        for (size_t t = 0; t < d.T * (size_t)c->L; t++) { // what is shown is the experts at work, the one of the fallback too
            d.k[t] = 0;
            for (int e = 0; e < c->E; e++) { d.k[t] += d.open[t * (size_t)c->E + e]; }
        }
        printf("%s, picture %zu:", s->predict, i);
        for (int v = 0; v < 5 && v < c->classes; v++) {
            class_name(name, sizeof name, s->names, choices[v].class_);
            printf("%s %s %.1f%%", v > 0 ? "," : "", name, 100.0 * (double)choices[v].p);
        }
        class_name(name, sizeof name, s->names, set.label[i]);
        printf(ppm ? "\n" : "; it is %s\n", name);
        for (int l = 0; l < c->L; l++) {
            if (!c->moe[l]) { continue; }
            double mean = 0.0, used[MAX_EXPERTS] = {0};
            for (size_t t = 1; t < d.T; t++) {
                mean += d.k[l * d.T + t] / (double)(d.T - 1);
                for (int e = 0; e < c->E; e++) { used[e] += d.open[(l * d.T + t) * (size_t)c->E + e] / (double)(d.T - 1); }
            }
            printf("  layer %d: %.2f experts for a patch;", l, mean);
            for (int e = 0; e < c->E; e++) { if (used[e] > 0.0) { printf(" %d: %.0f%%", e, 100.0 * used[e]); } }
            printf("; CLS token: %d\n", d.k[l * d.T]);
        }
        predict_terminal(model, &set, i, &d, 0);
        snprintf(path, sizeof path, "%s/predict_%zu.png", s->out, i);
        predict_png(model, &set, i, &d, 0, path);
        printf("  %s: the picture and these maps\n", path);
        dump_free(&d);
    }
    free(choices);
    pictures_free(&set);
}

float learning_rate(const Settings* s, int step) { // linear warm-up, then a cosine to lr_end * lr at the last step
    if (step < s->warmup) { return s->lr * (float)(step + 1) / (float)s->warmup; }
    float done = s->steps - 1 > s->warmup ? (float)(step - s->warmup) / (float)(s->steps - 1 - s->warmup) : 1.0f;
    return s->lr * (s->lr_end + (1.0f - s->lr_end) * 0.5f * (1.0f + cosf(3.14159265f * (done < 1.0f ? done : 1.0f))));
}

int window_begins(const Settings* s, int step) { // before the forward of this step; only if its end comes before adapt_stop
    return s->period > 0 && step % s->period == s->window && (float)(step + s->window) < s->adapt_stop * (float)s->steps;
}

void event(FILE* log, int step, int layer, const char* what, int expert, int64_t count) { // one line on both
    printf("step %d layer %d: %s expert %d (%" PRId64 " tokens %s)\n", step, layer, what, expert, count,
           strcmp(what, "remove") ? "had chosen none" : "had chosen it");
    fprintf(log, "{\"type\":\"event\",\"step\":%d,\"layer\":%d,\"what\":\"%s\",\"expert\":%d,\"count\":%" PRId64, step, layer, what,
            expert, count);
    log_end(log);
}

void window_ends(ViT* model, const Settings* s, int step, FILE* log) { // updates every layer, says what changed
    int removed[MAX_EXPERTS];
    model->recording = 0;
    for (int l = 0; l < model->config.L; l++) {
        if (!model->config.moe[l]) { continue; }
        int slot = vit_adapt(model, l, removed, s->min_experts);
        for (int e = 0; e < model->config.E; e++) { if (removed[e]) { event(log, step, l, "remove", e, 0); } }
        if (slot != ADD_NONE) {
            event(log, step, l, slot >= 0 ? "add" : "full", slot >= 0 ? slot : -1, model->layer[l].record_unrouted);
        }
    }
}

double train_step(ViT* model, const Settings* s, const Pictures* set, Progress* p, Item* items, Routing* r, FILE* log,
                  float* norm) {
    // one optimizer step on accum batches; returns its mean loss (nats) and the gradient norm before clipping; adds to r (L)
    double loss = 0.0;
    model->step = p->step;
    if (window_begins(s, p->step)) {
        vit_clear_records(model);
        model->recording = 1;
    }
    vit_zero_grad(model);
    for (int m = 0; m < s->accum; m++) {
        uint64_t first = random_stream((uint64_t)s->seed, 1); // --overfit: always the first batch, in a resumed run too
        uint64_t at = s->overfit ? 0 : ((uint64_t)p->step * (uint64_t)s->accum + (uint64_t)m) * (uint64_t)s->batch;
        training_batch(items, set, s, at, s->overfit ? &first : &p->rng_data);
        loss += vit_forward(model, set->device, items, s->smoothing, s->batch, 1) / s->accum;
        if (!isfinite(loss)) { vit_stop_not_finite(model); }
        vit_backward(model, 1.0f / (float)s->accum);
        routing_add(r, model);
    }
    *norm = (float)vit_grad_norm(model);
    float clip = s->clip > 0.0f && *norm > s->clip ? s->clip / *norm : 1.0f; // (M80)
    vit_update(model, p->step, learning_rate(s, p->step), s->beta1, s->beta2, 1e-8f, s->weight_decay, clip);
    if (s->unit_norm) { vit_unit_rows(model); }
    if (model->with_ema) { vit_ema_update(model, s->ema, p->step); }
    if (model->recording && s->period > 0 && p->step % s->period == 2 * s->window) { window_ends(model, s, p->step, log); }
    p->step++;
    return loss;
}

void print_score(const Score* score, const Pictures* set) { // the rest of a line on validation
    printf("top-1 %.2f%%, top-5 %.2f%%, loss %.4f nats", 100.0 * score->top1, 100.0 * score->top5, score->loss);
    const char* before = "; domains";
    for (int i = 0; i < set->domains && set->domains > 1; i++) {
        if (score->domain_n[i] == 0.0) { continue; } // of --hold-out only one is left
        printf("%s %d: %.1f%%", before, i, 100.0 * score->domain_top1[i] / score->domain_n[i]);
        before = ",";
    }
    printf("\n");
}

void validate(ViT* model, const Settings* s, const Pictures* val, Progress* p, Routing* r, FILE* log, int show_map) {
    model->step = p->step;
    vit_ema_swap(model);
    Score score = evaluate(model, val, (size_t)s->val_pictures, s->batch, r, "");
    if (score.loss < p->best_val) { p->best_val = (float)score.loss; }
    printf("step %d: validation ", p->step);
    print_score(&score, val);
    if (model->config.E > 0 && show_map) { heat_map(model, r); }
    fprintf(log, "{\"type\":\"val\",\"step\":%d,\"loss\":%.6f,\"top1\":%.6f,\"top5\":%.6f", p->step, score.loss, score.top1,
            score.top5);
    if (val->domains > 1) {
        for (int i = 0; i < val->domains; i++) { score.domain_top1[i] /= score.domain_n[i] > 0.0 ? score.domain_n[i] : 1.0; }
        log_list(log, "domains", val->domains, score.domain_top1, 1.0, NULL);
    }
    log_routing(log, model, r);
    log_end(log);
    vit_ema_swap(model); // only now: the thresholds in the record are those of the model that was validated
}

void progress_line(ViT* model, const Settings* s, const Progress* p, const Routing* r, double loss, float norm,
                   double seconds, int steps, FILE* log) {
    // loss, routing and speed: means over the steps since the last line
    double k = 0.0, none = 0.0, active = 0.0, ms = 1000.0 * seconds / steps, eta = (s->steps - p->step) * seconds / steps;
    double pictures = (double)steps * s->accum * s->batch / seconds; // a second
    int moe = 0;
    char experts[64] = "", share[64];
    for (int l = 0; l < model->config.L; l++) {
        if (!model->config.moe[l]) { continue; }
        k += r[l].rows / r[l].tokens;
        none += r[l].none / r[l].tokens;
        active += r[l].experts;
        if (moe++ < 12) { snprintf(experts + strlen(experts), 4, " %d", r[l].experts); }
    }
    printf("step %5d/%d | loss %.3f | norm %.2f | lr %.1e", p->step, s->steps, loss, norm, learning_rate(s, p->step - 1));
    if (moe > 0) { printf(" | k %.2f | experts%s | none %.1f%%", k / moe, experts, 100.0 * none / moe); }
    Floor f = step_floor(&model->config, (double)model->n_params, (double)s->accum * s->batch, moe ? k / moe : 0.0,
                         moe ? active / moe : 0.0);
    double mfu = floor_share(share, sizeof share, f, ms, model->bf16, gpu_peak);
    printf(" | %.0f pictures/s%s | eta %dm%02ds\n", pictures, share, (int)eta / 60, (int)eta % 60);
    fflush(stdout);
    fprintf(log, "{\"type\":\"step\",\"step\":%d,\"loss\":%.6f,\"aux\":%.6f,\"norm\":%.5f,\"lr\":%.6g,\"k\":%.4f,\"img_s\":%.1f,"
            "\"tok_s\":%.1f,\"ms\":%.3f", p->step, loss, model->aux, norm, learning_rate(s, p->step - 1), moe ? k / moe : 0.0,
            pictures, pictures * model->config.T, ms);
    fprintf(log, ",\"flop\":%.6g,\"floor_ms\":%.6g", f.flop, f.ms);
    if (mfu > 0.0) { fprintf(log, ",\"mfu\":%.4f", mfu); }
    log_routing(log, model, r);
    log_end(log);
}

static volatile sig_atomic_t stop_signal = 0; // SIGINT or SIGTERM, once it came; a second one ends the program at once
void on_signal(int number) {
    stop_signal = number;
    signal(number, SIG_DFL);
}

void train(ViT* model, const Settings* s, const Pictures* set, const Pictures* val, Progress* p, FILE* log) {
    // trains up to s->steps, or until SIGINT (^C) or SIGTERM comes: then it saves, says so and returns
    size_t L = (size_t)model->config.L;
    int since = 0, terminal = isatty(STDOUT_FILENO), first = p->step;
    Item* items = (Item*)alloc_zeroed((size_t)s->batch, sizeof(Item), "a batch");
    Routing* r = (Routing*)alloc_zeroed(2 * L, sizeof(Routing), "statistics"); // r: of training, r + L: of validation
    char path[1024];
    double loss = 0.0, start = seconds_now(), from;
    float norm = 0.0f;
    snprintf(path, sizeof path, "%s/model.safetensors", s->out);
    if (p->step == 0) { validate(model, s, val, p, r + L, log, terminal || s->steps == 0); }
    from = seconds_now();
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    while (p->step < s->steps && !stop_signal) {
        loss += train_step(model, s, set, p, items, r, log, &norm);
        since++;
        int done = p->step == s->steps;
        if (done || p->step == 1 || p->step % s->log_every == 0) {
            progress_line(model, s, p, r, loss / since, norm, seconds_now() - from, since, log);
            memset(r, 0, L * sizeof(Routing));
            loss = since = 0;
            from = seconds_now();
        }
        double pause = seconds_now();
        if (done || (s->val_every > 0 && p->step % s->val_every == 0)) { validate(model, s, val, p, r + L, log, terminal || done); }
        if (done || (s->save_every > 0 && p->step % s->save_every == 0)) { checkpoint_save(model, p, path); }
        from += seconds_now() - pause; // validating and saving does not count as training
    }
    if (p->step < s->steps) {
        checkpoint_save(model, p, path);
        printf("step %d: %s by a signal; %s: saved, --resume it to go on\n", p->step,
               stop_signal == SIGINT ? "interrupted" : "terminated", path);
        fprintf(log, "{\"type\":\"stop\",\"step\":%d", p->step);
        log_end(log);
        free(items); free(r);
        return;
    }
    fprintf(log, "{\"type\":\"end\",\"step\":%d,\"seconds\":%.2f,\"best\":%.6f", p->step, seconds_now() - start, p->best_val);
    log_end(log);
    if (p->step > first) { printf("%s: saved after %d steps, %.1f seconds\n", path, p->step, seconds_now() - start); }
    free(items); free(r);
}

void gpu_start(char* name, size_t room, const char* dtype, int* is_bf16) {
    // takes the first GPU, starts cuBLAS; name: what it is. bf16 needs compute capability 8.0
    static const char* const dtypes[] = {"auto", "fp32", "bf16"};
    int n = 0, asked = choice("--dtype", dtype, dtypes, 3);
    cudaDeviceProp gpu;
    cudaError_t error = cudaGetDeviceCount(&n);
    require(error == cudaSuccess && n > 0, "CUDA_ON_CPU=1 builds this program for the CPU",
            "no GPU: %s", error == cudaSuccess ? "no device" : cudaGetErrorString(error));
    CUDA(cudaSetDevice(0));
    CUDA(cudaGetDeviceProperties(&gpu, 0));
    require(asked != 2 || gpu.major >= 8, "use --dtype fp32", "--dtype bf16: %s has compute capability %d.%d", gpu.name, gpu.major,
            gpu.minor);
    *is_bf16 = asked == 2 || (asked == 0 && gpu.major >= 8);
    gpu_peak = peak_of(gpu.name);
    snprintf(name, room, "%s (compute capability %d.%d, %d SMs)", gpu.name, gpu.major, gpu.minor, gpu.multiProcessorCount);
    queues_make();
}

double memory_available(void) { // bytes free on the GPU
    size_t free_bytes = 0, total = 0;
    CUDA(cudaMemGetInfo(&free_bytes, &total));
    return (double)free_bytes;
}

double matmul_speed(int is_bf16, int N, int C) { // FLOP/s of the feed-forward product (N, C) x (C, 4C), after ten calls to warm up
    void* memory = device_alloc((size_t)C * (5 * (size_t)N + 4 * (size_t)C), sizeof(float), "a measurement");
    cudaEvent_t begin, end;
    float ms = 0.0f;
    CUDA(cudaEventCreate(&begin));
    CUDA(cudaEventCreate(&end));
    for (int i = 0; i < 30; i++) {
        float* a = (float*)memory;
        bf16* b = (bf16*)memory;
        if (i == 10) { CUDA(cudaEventRecord(begin)); }
        if (is_bf16) { matmul(b, b + (size_t)4 * N * C, 0, b + (size_t)5 * N * C, 1, N, 4 * C, C, 1.0f, 0.0f); }
        else { matmul(a, a + (size_t)4 * N * C, 0, a + (size_t)5 * N * C, 1, N, 4 * C, C, 1.0f, 0.0f); }
    }
    CUDA(cudaEventRecord(end));
    CUDA(cudaEventSynchronize(end));
    CUDA(cudaEventElapsedTime(&ms, begin, end));
    CUDA(cudaFree(memory));
    return 20.0 * 8.0 * N * C * C / (1e-3 * (ms > 0.0f ? ms : 1e-3));
}

typedef struct { double parameters, flop, rows; } Cost; // of a token; of a forward of a picture; bytes of all routed rows

Cost cost_at(const ViT* model, double k, double N, int training) { // if every token uses k routed experts in every DynMoE layer
    const Config* c = &model->config;
    double moe = 0.0, head = (double)c->classes * (c->C + 1);
    double expert = 2.0 * c->H * c->C + c->H + (1.0 + 2.0 * c->residual) * c->C;
    for (int l = 0; l < c->L; l++) { moe += c->moe[l]; }
    // every token uses all but positions, CLS token, head and the other experts; attention has two products over T keys
    double parameters = (double)model->n_params - (double)(c->T + 1) * c->C - head - moe * (c->E - k) * expert;
    Cost cost = {parameters + head, c->T * (2.0 * parameters + 4.0 * c->L * c->T * c->C) + 2.0 * head,
                 (model->bf16 ? 2.25 : 4.5) * k * N * ((1.0 + 0.5 * c->residual) * c->C + c->H) *
                 (2.0 * moe + (training && moe > 0.0 ? 1.0 : 0.0))};
    return cost;
}

double print_plan(const ViT* model, const Settings* s, const Pictures* set, const Pictures* val, const char* gpu, int training) {
    // what will be done and what it takes; returns the bytes of memory that it needs at least
    const Config* c = &model->config;
    double N = (double)s->batch * c->T, pictures = (double)(set->n + val->n) * c->planes * c->image * c->image;
    int moe = 0, k3 = c->E > 2 ? c->E : 3;
    for (int l = 0; l < c->L; l++) { moe += c->moe[l]; }
    Cost k1 = cost_at(model, 1, N, training), k2 = cost_at(model, 2, N, training), all = cost_at(model, k3, N, training);
    double n = (double)model->n_params, sequences = (double)s->accum * s->batch;
    double M = 1e-6, held = (training ? 16.0 : 4.0) * (double)model->n_memory, kept = (double)model->act_bytes;
    if (model->bf16) { held += 2.0 * (double)model->n_memory; } // the copy that kernels use
    if (model->with_ema) { held += 4.0 * (double)model->n_memory; }
    printf("train_vit_dynmoe, commit %s, on %s, %s%s, cuBLAS %zu\n", COMMIT, gpu, model->bf16 ? "bf16" : "fp32",
           model->flash ? ", flash attention" : "", cublasLtGetVersion());
    printf("data     %s: %zu pictures of %d x %d x %d, %d classes; validation: %zu of %s\n", set->path, set->n, c->planes, c->image,
           c->image, c->classes, val->n, *s->val ? s->val : "its own");
    printf("model    %d layers", c->L);
    if (moe > 0) { printf(" (%d DynMoE, %s, pool of %d experts", moe, router_names[c->router], c->E); }
    if (c->S > 0) { printf(", %d shared", c->S); }
    if (c->residual) { printf(", own LayerNorms"); }
    printf("%s, %d heads, %d channels, patches of %d: %d tokens\n", moe > 0 ? ")" : "", c->NH, c->C, c->patch, c->T);
    printf("size     %.3f million parameters", M * (double)model->n_params);
    if (moe > 0) {
        printf("; a token uses %.3f at k = 1, %.3f at 2, %.3f at %d", M * k1.parameters, M * k2.parameters, M * all.parameters, k3);
    }
    printf("\nforward  %.1f MFLOP for a picture", M * k1.flop);
    if (moe > 0) { printf(" at k = 1, %.1f at 2, %.1f at %d", M * k2.flop, M * all.flop, k3); }
    Floor f1 = step_floor(c, n, sequences, moe ? 1 : 0, c->E), f2 = step_floor(c, n, sequences, 2, c->E);
    printf("; backward twice that\nfloor    at least %.3f ms a step on an H200, in bf16", f1.ms);
    if (moe > 0) { printf(", at k = 1, %.3f at 2, %.3f at %d", f2.ms, step_floor(c, n, sequences, k3, c->E).ms, k3); }
    printf("\nmemory   %s %.1f MB; activations %.1f MB; pictures %.1f MB",
           training ? "parameters, gradients, moments" : "parameters", M * held, M * kept, M * pictures);
    if (moe > 0) { printf("; routed rows %.1f MB at k = 1, %.1f at 2, %.1f at %d", M * k1.rows, M * k2.rows, M * all.rows, k3); }
    printf("\nrun      %d steps of %d x %d pictures, %.1f epochs, seed %d; log: %s/log.jsonl\n", s->steps, s->accum, s->batch,
           (double)s->steps * s->accum * s->batch / (double)set->n, s->seed, s->out);
    return held + kept + k1.rows + pictures;
}

void print_time(const ViT* model, const Settings* s) { // of a dry run
    double N = (double)s->batch * model->config.T, k = model->config.router == TOP_K ? model->config.topk : 2.0;
    double flop = 3.0 * cost_at(model, k, 0, 1).flop * s->steps * s->accum * s->batch, speed;
    speed = matmul_speed(model->bf16, N < 8192.0 ? (int)N : 8192, model->config.C);
    printf("time     at least %.0f s at k = %.0f: %.3g FLOP at %.1f GFLOP/s, measured on this machine's matrix product just now\n",
           flop / speed, k, flop, 1e-9 * speed);
}

void log_run(FILE* log, const ViT* model, const char* gpu) { // the first record: everything that the run depends on
    fprintf(log, "{\"type\":\"run\",\"version\":1,\"program\":\"train_vit_dynmoe.cu\",\"commit\":\"%s\",", COMMIT);
    fprintf(log, "\"dtype\":\"%s\",\"flash\":%d,", model->bf16 ? "bf16" : "fp32", model->flash);
    Cost k0 = cost_at(model, 0, 0, 1), k1 = cost_at(model, 1, 0, 1); // both are linear in k
    fprintf(log, "\"image\":%d,\"planes\":%d,\"classes\":%d,\"tokens\":%d,", model->config.image, model->config.planes,
            model->config.classes, model->config.T);
    fprintf(log, "\"cublas\":%zu,\"parameters\":%zu,\"used\":[%.0f,%.0f],\"flop\":[%.0f,%.0f],\"machine\":", cublasLtGetVersion(),
            model->n_params, k0.parameters, k1.parameters - k0.parameters, k0.flop, k1.flop - k0.flop);
    json_print(log, gpu);
    fprintf(log, ",\"flags\":{");
    for (int i = 0; i < N_FLAGS; i++) {
        fprintf(log, "%s\"%s\":", i ? "," : "", flag_table[i].field);
        json_print(log, flag_table[i].now);
    }
    fprintf(log, "}");
    log_end(log);
}

void data_read(const Settings* s, Pictures* set, Pictures* val) { // training and validation pictures by the flags
    *set = pictures_open(s->data, s->layout, s->image);
    memset(val, 0, sizeof *val);
    if (*s->val) { *val = pictures_open(s->val, s->layout, s->image); }
    else { pictures_shape(val, set->size, set->planes, set->path); }
    require(val->size == set->size && val->planes == set->planes, "give pictures of one size",
            "--val %s: pictures of %d x %d x %d, --data has %d x %d x %d", s->val, val->planes, val->size, val->size, set->planes,
            set->size, set->size);
    if (s->hold_out >= 0) {
        require_usage(set->domains > s->hold_out && (!*s->val || val->domains > s->hold_out),
                      "dev/images.py makes sets with domains", "--hold-out %d: the pictures have %d domains", s->hold_out,
                      *s->val && val->domains < set->domains ? val->domains : set->domains);
        pictures_take(set, *s->val ? NULL : val, 0, s->hold_out, 0);
        if (*s->val) { pictures_take(val, NULL, 0, s->hold_out, 1); }
    } else if (!*s->val) { pictures_take(set, val, 1, 0, 0); }
    require(set->n > 0 && val->n > 0, "give more pictures", "%s: none left to %s", s->data,
            set->n > 0 ? "validate with" : "train on");
    if (val->classes > set->classes) { set->classes = val->classes; }
}

#ifndef TESTING
int main(int argc, char** argv) {
    static ViT model; // static: its table is large for a stack
    static const char* const inits[] = {"random", "copies"};
    Settings s = flags_read(argc, (const char* const*)argv);
    const char* from = *s.resume ? s.resume : s.init;
    int training = !*s.predict && !s.eval_only, copies = choice("--expert-init", s.expert_init, inits, 2);
    uint64_t rng = random_stream((uint64_t)s.seed, 0);
    Progress p = {0, random_stream((uint64_t)s.seed, 1), INFINITY};
    Pictures set, val;
    SafeFile file;
    char gpu[300];
    signal(SIGXFSZ, SIG_IGN); // a limit of file sizes is an error of write() then, like a full disk
    require_usage(s.period == 0 || 2 * s.window < s.period, "a period is rest, recording, rest",
                  "--window %d: must be less than half of --period %d", s.window, s.period);
    require_usage(training || *from, "train first: make train-vit", "--eval-only and --predict need --init FILE");
    memset(&set, 0, sizeof set);
    memset(&val, 0, sizeof val);
    require_usage(!s.dry_run || !*s.predict, "leave one of them out", "--dry-run does nothing with --predict");
    if (*from) { file = safetensors_open(from); }
    if (*from && s.image == 0 && safetensors_meta(&file, "image") != NULL) { s.image = meta_int(&file, "image", 1, 1024); }
    if (!*s.predict) {
        require_usage(*s.data, "make data-vit writes the default pictures, data/shapes_train.bin", "--data FILE is missing");
        data_read(&s, &set, &val);
        if (s.epochs > 0.0f) {
            double steps = ceil((double)s.epochs * (double)set.n / ((double)s.batch * s.accum));
            require_usage(steps <= 2e9, NULL, "--epochs %g: more than 2000000000 steps", (double)s.epochs);
            s.steps = (int)steps;
        }
    }
    Config config = config_make(&s, &set, *from ? &file : NULL);
    int start_experts = config.router == TOP_ANY ? s.start_experts : config.E; // softmax routers use the whole pool
    require(*s.predict || (set.size == config.image && set.planes == config.planes && set.classes <= config.classes),
            "give pictures like those it was trained on", "%s: %d classes of %d x %d x %d pictures; %s has %d of %d x %d x %d",
            s.data, set.classes, set.planes, set.size, set.size, from, config.classes, config.planes, config.image, config.image);
    gpu_start(gpu, sizeof gpu, s.dtype, &model.bf16);
    expert_queues = s.streams > 1 ? s.streams : 0;
    use_graphs = s.graph;
    model.flash = s.flash;
    model.with_ema = s.ema > 0.0f;
    vit_plan(&model, config, *s.predict ? 1 : s.batch, training);
    if (training || s.dry_run) {
        double need = print_plan(&model, &s, &set, &val, gpu, training), have = memory_available();
        require(have == 0.0 || need <= have, "lower --batch, --layers, --channels or --experts",
                "the run needs %.1f MB of memory, %.1f MB are there", 1e-6 * need, 1e-6 * have);
        if (s.dry_run) { print_time(&model, &s); return 0; }
        printf("\n");
    }
    vit_build(&model, config, *s.predict ? 1 : s.batch, training);
    if (!*from) { vit_init(&model, start_experts, copies, s.threshold, &rng); }
    else if (*s.resume && training) {
        require(!model.with_ema || safetensors_find(&file, "ema/patchw"), "leave --ema out, or begin anew with --init",
                "--ema: the run of %s kept no averages", from);
        checkpoint_load(&model, &file, &p);
    } else { weights_load(&model, &file, start_experts, s.threshold, !training, &rng); }
    if (!*s.resume && model.with_ema) { memcpy(model.ema_memory, model.params_memory, model.n_memory * sizeof(float)); }
    if (*from) { safetensors_close(&file); }
    vit_to_device(&model);
    if (*s.predict) { predict(&model, &s); vit_free(&model); return 0; }
    pictures_to_device(&set);
    pictures_to_device(&val);
    if (training) {
        FILE* log = log_open(s.out, *s.resume != '\0');
        log_run(log, &model, gpu);
        train(&model, &s, &set, &val, &p, log);
        fclose(log);
        if (p.step < s.steps) { return 128 + stop_signal; } // a signal that came too late changes nothing
        vit_ema_swap(&model);
    }
    if (s.eval_only || *s.dump_routing) {
        static Routing r[MAX_LAYERS];
        Score score = evaluate(&model, &val, (size_t)s.val_pictures, s.batch, r, s.dump_routing);
        printf("validation: ");
        print_score(&score, &val);
        if (s.eval_only && config.E > 0) { heat_map(&model, r); }
    }
    pictures_free(&set);
    pictures_free(&val);
    vit_free(&model);
    return 0;
}
#endif
