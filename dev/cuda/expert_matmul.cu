/*
The matrix product of every expert with its rows, from slow to fast. Stands alone: nvcc -O3 -std=c++17 expert_matmul.cu -lcublas
Without a GPU: dev/cuda_on_cpu/cudacpu-cc -o expert_matmul dev/cuda/expert_matmul.cu && ./expert_matmul

    xr (R, C) bf16: rows grouped by expert, expert e has count[e] of them from offset[e] on (a multiple of 128); W (E, H, C) bf16
    out (R, H) bf16: out[r] = W_e xr[r], the first product of an expert's feed-forward network
The bound. 2RHC FLOP. Read xr (2RC bytes) and W (2EHC), write out (2RH). With R = 21845 rows of C = 768 for each of 8 experts and
H = 3072 these are 600 FLOP for each byte: math is the bound. Counted is R = NE / 3, a third of the experts open.
*/
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <cublas_v2.h>
#ifdef __CUDACPU__
#include <cudacpu_ptx.h> // PTX instructions without a GPU
#endif
typedef __nv_bfloat16 bf16;
#define WARP 32
#define ALL 0xffffffffu // all lanes of a warp

// ---- tools: the same text in every ladder (make check-style compares it) -------------------------------------------

#define CUDA(call) do { cudaError_t e_ = (call); if (e_ != cudaSuccess) { \
    fprintf(stderr, "%s:%d: CUDA: %s\n---> HINT: %s\n", __FILE__, __LINE__, cudaGetErrorString(e_), \
    "a GPU and its driver; without one build as the first lines of this file say"); exit(1); } } while (0)

// letters as in train_gpt2_dynmoe.cu; kind: how experts are chosen; T 0 where there are no sequences
typedef struct { int N, C, E, H, T, kind; } Shape;
enum { SOME, SKEWED, ONE_FOR_ALL, NONE }; // a third of the experts; the first ones more often, the last one never; only expert 0
typedef struct { const char* name; void (*launch)(const Shape*); double (*bytes)(const Shape*); } Rung; // bytes it asks for

static void* kept[64];
static int is_device[64], keeps;
void* keep(void* p, int device) {
    if (p == NULL || keeps == 64) { fprintf(stderr, "no memory\n---> HINT: smaller --N\n"); exit(1); }
    kept[keeps] = p;
    is_device[keeps++] = device;
    return p;
}
void* host_room(size_t bytes) { return keep(calloc(bytes + 1, 1), 0); }
void* device_room(size_t bytes) { void* p; CUDA(cudaMalloc(&p, bytes + 1)); return keep(p, 1); }
void* to_device(const void* host, size_t bytes) {
    void* p = device_room(bytes);
    CUDA(cudaMemcpy(p, host, bytes, cudaMemcpyHostToDevice));
    return p;
}
void poison(void* p, size_t bytes) { CUDA(cudaMemset(p, 0xff, bytes)); } // a number that was not written is then NaN
void release(void) {
    while (keeps > 0) { keeps--; if (is_device[keeps]) { CUDA(cudaFree(kept[keeps])); } else { free(kept[keeps]); } }
}

static unsigned long long random_state;
float uniform(void) { // -1 to 1, the same on every machine
    random_state = random_state * 6364136223846793005ull + 1442695040888963407ull;
    return (float)(random_state >> 40) / (float)(1 << 23) - 1.0f;
}
float rounded(float x) { return __bfloat162float(__float2bfloat16(x)); }
float* random_floats(size_t n) {
    float* p = (float*)host_room(n * sizeof(float));
    for (size_t i = 0; i < n; i++) { p[i] = uniform(); }
    return p;
}
bf16* random_bf16(size_t n) {
    bf16* p = (bf16*)host_room(n * sizeof(bf16));
    for (size_t i = 0; i < n; i++) { p[i] = __float2bfloat16(uniform()); }
    return p;
}
int chosen(const Shape* s, int e) { // whether a token uses expert e
    float u = uniform();
    if (s->kind == SKEWED) { return u < 1.0f - 2.0f * (e + 1.0f) / s->E; }
    return s->kind == SOME ? u < -0.333f : s->kind == ONE_FOR_ALL && e == 0;
}

int blocks_for(size_t n, int block) { return (int)((n + block - 1) / block); }
#define EPS 5.9604645e-8 // 2^-24: a float is rounded by at most this part of it; n sums of floats by at most n times that of the
                         // sum of absolute values. A bf16 has 8 bits: rounded by at most 2^-8
static double worst; // largest error over what is allowed, of the comparisons since it was set to 0
void compare(double got, double want, double allowed) {
    double d = fabs(got - want) / allowed;
    if (!(d <= worst)) { worst = d >= 0.0 ? d : INFINITY; } // NaN too
}

__device__ inline float value(bf16 x) { return __bfloat162float(x); }
__device__ inline int lane_index(void) { return threadIdx.x % WARP; }
__device__ inline int warp_index(void) { return (int)((blockIdx.x * blockDim.x + threadIdx.x) / WARP); }
__device__ inline float warp_sum(float x) { // all lanes get the sum, added up in the same order in all of them
    for (int o = WARP / 2; o > 0; o /= 2) { x += __shfl_xor_sync(ALL, x, o); }
    return x;
}

// ---- the reference, in double, and the inputs ----------------------------------------------------------------------

#define PAD 128
static bf16 *x, *W, *dx, *dW, *dout;
static int *count, *offset, *doffset, *dcount; // (E), (E + 1)
static double *want, *size;                    // (R, H): what is right; the sum of absolute values

void setup(const Shape* s) {
    int R = 0;
    count = (int*)host_room(s->E * sizeof(int));
    offset = (int*)host_room((s->E + 1) * sizeof(int));
    for (int e = 0; e < s->E; e++) {
        for (int i = 0; i < s->N; i++) { count[e] += chosen(s, e); }
        offset[e] = R;
        R += (count[e] + PAD - 1) / PAD * PAD;
    }
    offset[s->E] = R;
    x = random_bf16((size_t)R * s->C);
    W = random_bf16((size_t)s->E * s->H * s->C);
    dx = (bf16*)to_device(x, (size_t)R * s->C * sizeof(bf16));
    dW = (bf16*)to_device(W, (size_t)s->E * s->H * s->C * sizeof(bf16));
    dout = (bf16*)device_room((size_t)R * s->H * sizeof(bf16));
    doffset = (int*)to_device(offset, (s->E + 1) * sizeof(int));
    dcount = (int*)to_device(count, s->E * sizeof(int));
}

void reference(const Shape* s) {
    size_t n = (size_t)offset[s->E] * s->H;
    want = (double*)host_room(n * sizeof(double));
    size = (double*)host_room(n * sizeof(double));
    for (int e = 0; e < s->E; e++) {
        for (int r = offset[e]; r < offset[e] + count[e]; r++) {
            for (int h = 0; h < s->H; h++) {
                for (int c = 0; c < s->C; c++) {
                    double a = (double)__bfloat162float(x[(size_t)r * s->C + c]) *
                        __bfloat162float(W[((size_t)e * s->H + h) * s->C + c]);
                    want[(size_t)r * s->H + h] += a;
                    size[(size_t)r * s->H + h] += fabs(a);
                }
            }
        }
    }
}

void clear(const Shape* s) { poison(dout, (size_t)offset[s->E] * s->H * 2); }

void compare_all(const Shape* s, int rung) { // padding rows are nobody's: not compared
    (void)rung;
    size_t n = (size_t)offset[s->E] * s->H;
    bf16* out = (bf16*)host_room(n * 2);
    CUDA(cudaMemcpy(out, dout, n * 2, cudaMemcpyDeviceToHost));
    for (int e = 0; e < s->E; e++) {
        for (size_t i = (size_t)offset[e] * s->H; i < (size_t)(offset[e] + count[e]) * s->H; i++) {
            double sums = s->C * EPS * size[i]; // products of two bf16 are exact in float
            compare(__bfloat162float(out[i]), want[i], sums + (fabs(want[i]) + sums) / 256.0 + 1e-30);
        }
    }
}

typedef void (*Product)(bf16* out, const bf16* x, const bf16* W, int rows, int C, int H);

void each_expert(const Shape* s, Product product) { // one call for each expert that has rows
    for (int e = 0; e < s->E; e++) {
        if (count[e] == 0) { continue; }
        product(dout + (size_t)offset[e] * s->H, dx + (size_t)offset[e] * s->C, dW + (size_t)e * s->H * s->C, count[e], s->C, s->H);
    }
}

double rows_of(const Shape* s) { return s->N * (double)s->E / 3.0; }
double bytes_of_tiles(const Shape* s, double rows, double columns) { // each tile of out reads its rows of x and of W
    return 2.0 * rows_of(s) * s->H * s->C * (1.0 / rows + 1.0 / columns) + 2.0 * rows_of(s) * s->H;
}

// ---- rung 1: one thread for each number of out ---------------------------------------------------------------------
// Blocks of 16 x 16. For each product a thread asks for 2 bytes of x and 2 of W: 2 FLOP for 4 bytes, where the GPU wants 180 for
// one.

__global__ void naive1(bf16* out, const bf16* x, const bf16* W, int rows, int C, int H) {
    int r = blockIdx.y * 16 + threadIdx.y, h = blockIdx.x * 16 + threadIdx.x;
    float sum = 0.0f;
    if (r >= rows || h >= H) { return; }
    for (int c = 0; c < C; c++) { sum += value(x[(size_t)r * C + c]) * value(W[(size_t)h * C + c]); }
    out[(size_t)r * H + h] = __float2bfloat16(sum);
}
void product1(bf16* out, const bf16* x, const bf16* W, int rows, int C, int H) {
    naive1<<<dim3(blocks_for(H, 16), blocks_for(rows, 16)), dim3(16, 16)>>>(out, x, W, rows, C, H);
}
void rung1(const Shape* s) { each_expert(s, product1); }
double bytes1(const Shape* s) { return bytes_of_tiles(s, 1.0, 1.0); }

// ---- rung 2: tiles in shared memory --------------------------------------------------------------------------------
// A block still has 16 x 16 numbers of out, a thread one. 16 columns of its rows of x and of W come to shared memory, each thread
// brings one number of both; then all use them 16 times. Memory is asked for 16 times less, but each product still takes two loads
// from shared memory. Behind the edges stand zeros. A row of a tile has 17 numbers, so that 16 lanes meet 16 banks.

__global__ void tiles2(bf16* out, const bf16* x, const bf16* W, int rows, int C, int H) {
    __shared__ float x_here[16][17], W_here[16][17];
    int r = blockIdx.y * 16 + threadIdx.y, h0 = blockIdx.x * 16, h = h0 + threadIdx.x;
    float sum = 0.0f;
    for (int begin = 0; begin < C; begin += 16) {
        int c = begin + threadIdx.x, hw = h0 + threadIdx.y;
        x_here[threadIdx.y][threadIdx.x] = r < rows && c < C ? value(x[(size_t)r * C + c]) : 0.0f;
        W_here[threadIdx.y][threadIdx.x] = hw < H && c < C ? value(W[(size_t)hw * C + c]) : 0.0f;
        __syncthreads(); // the tiles are there
        for (int j = 0; j < 16; j++) { sum += x_here[threadIdx.y][j] * W_here[threadIdx.x][j]; }
        __syncthreads(); // nobody reads them any more
    }
    if (r < rows && h < H) { out[(size_t)r * H + h] = __float2bfloat16(sum); }
}
void product2(bf16* out, const bf16* x, const bf16* W, int rows, int C, int H) {
    tiles2<<<dim3(blocks_for(H, 16), blocks_for(rows, 16)), dim3(16, 16)>>>(out, x, W, rows, C, H);
}
void rung2(const Shape* s) { each_expert(s, product2); }
double bytes2(const Shape* s) { return bytes_of_tiles(s, 16.0, 16.0); }

// ---- rung 3: tiles in registers ------------------------------------------------------------------------------------
// A block has 64 x 64 numbers of out, each of its 256 threads 4 x 4: rows ty, ty + 16, .. and columns tx, tx + 16, .. For 16
// products a thread loads 4 + 4 numbers from shared memory instead of 32.

__global__ void registers3(bf16* out, const bf16* x, const bf16* W, int rows, int C, int H) {
    __shared__ float x_here[64][17], W_here[64][17];
    int tx = threadIdx.x % 16, ty = threadIdx.x / 16, r0 = blockIdx.y * 64, h0 = blockIdx.x * 64;
    float sum[4][4] = {};
    for (int begin = 0; begin < C; begin += 16) {
        for (int n = threadIdx.x; n < 64 * 16; n += 256) {
            int i = n / 16, c = begin + n % 16;
            x_here[i][n % 16] = r0 + i < rows && c < C ? value(x[(size_t)(r0 + i) * C + c]) : 0.0f;
            W_here[i][n % 16] = h0 + i < H && c < C ? value(W[(size_t)(h0 + i) * C + c]) : 0.0f;
        }
        __syncthreads(); // the tiles are there
        for (int j = 0; j < 16; j++) {
            float a[4], b[4];
            for (int i = 0; i < 4; i++) { a[i] = x_here[ty + 16 * i][j]; b[i] = W_here[tx + 16 * i][j]; }
            for (int i = 0; i < 4; i++) { for (int k = 0; k < 4; k++) { sum[i][k] += a[i] * b[k]; } }
        }
        __syncthreads(); // nobody reads them any more
    }
    for (int i = 0; i < 4; i++) {
        for (int k = 0; k < 4; k++) {
            int r = r0 + ty + 16 * i, h = h0 + tx + 16 * k;
            if (r < rows && h < H) { out[(size_t)r * H + h] = __float2bfloat16(sum[i][k]); }
        }
    }
}
void product3(bf16* out, const bf16* x, const bf16* W, int rows, int C, int H) {
    registers3<<<dim3(blocks_for(H, 64), blocks_for(rows, 64)), 256>>>(out, x, W, rows, C, H);
}
void rung3(const Shape* s) { each_expert(s, product3); }
double bytes3(const Shape* s) { return bytes_of_tiles(s, 64.0, 64.0); }

// ---- rung 4: tensor cores ------------------------------------------------------------------------------------------
// mma.sync.m16n8k16: the 32 lanes of a warp together multiply A (16, 16) by B (16, 8) in one instruction, 4096 FLOP. A block has
// 64 x 64 numbers of out and 4 warps; a warp has 16 rows of them, 8 products side by side. What a lane holds of A, B and D, with
// g = lane / 4, t = lane % 4; a register of A or B has two numbers, the second in its upper half:
//     a[0] row g, columns 2t, 2t + 1      a[1] row g + 8, the same columns      a[2] row g, columns 2t + 8, 2t + 9
//     a[3] row g + 8, these columns       b[0] column g, rows 2t, 2t + 1        b[1] column g, rows 2t + 8, 2t + 9
//     d[0], d[1] row g, columns 2t, 2t + 1      d[2], d[3] row g + 8, the same columns
// B's column is a row of W: two neighbours in memory are the two numbers of a register. Tiles stay bf16; their rows have 40
// numbers, 80 bytes, so that the 32 loads of a warp meet 32 banks.

#define K 32        // columns of x and W in a tile
#define ROW (K + 8)

__device__ inline void mma_m16n8k16(float d[4], const unsigned a[4], const unsigned b[2]) { // d += a b
#ifdef __CUDACPU__
    cudacpu::mma_m16n8k16_bf16(d, a, b, d);
#else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

__device__ inline unsigned pair(const bf16* p) { return *(const unsigned*)p; } // two numbers in a register

__device__ inline void tile_product(bf16* out, const bf16* x, const bf16* W, int r0, int h0, int rows, int C, int H) {
    // out: 64 rows from r0 on, 64 columns from h0 on; by a block of 128 threads
    __shared__ alignas(16) bf16 x_here[64][ROW], W_here[64][ROW];
    int warp = threadIdx.x / WARP, g = lane_index() / 4, t = lane_index() % 4;
    float sum[8][4] = {};
    for (int begin = 0; begin < C; begin += K) {
        for (int n = threadIdx.x; n < 64 * K / 8; n += 128) { // pieces of 8 numbers, 16 bytes; C is a multiple of 8
            int i = n / (K / 8), j = n % (K / 8) * 8, c = begin + j;
            int4 zero = make_int4(0, 0, 0, 0);
            *(int4*)&x_here[i][j] = r0 + i < rows && c < C ? *(const int4*)(x + (size_t)(r0 + i) * C + c) : zero;
            *(int4*)&W_here[i][j] = h0 + i < H && c < C ? *(const int4*)(W + (size_t)(h0 + i) * C + c) : zero;
        }
        __syncthreads(); // the tiles are there
        for (int k = 0; k < K; k += 16) {
            const bf16 *a0 = &x_here[warp * 16 + g][k + 2 * t], *a1 = &x_here[warp * 16 + g + 8][k + 2 * t];
            unsigned a[4] = {pair(a0), pair(a1), pair(a0 + 8), pair(a1 + 8)};
            for (int n = 0; n < 8; n++) {
                const bf16* b0 = &W_here[n * 8 + g][k + 2 * t];
                unsigned b[2] = {pair(b0), pair(b0 + 8)};
                mma_m16n8k16(sum[n], a, b);
            }
        }
        __syncthreads(); // nobody reads them any more
    }
    for (int n = 0; n < 8; n++) {
        for (int i = 0; i < 4; i++) {
            int r = r0 + warp * 16 + g + i / 2 * 8, h = h0 + n * 8 + 2 * t + i % 2;
            if (r < rows && h < H) { out[(size_t)r * H + h] = __float2bfloat16(sum[n][i]); }
        }
    }
}

__global__ void tensor4(bf16* out, const bf16* x, const bf16* W, int rows, int C, int H) {
    tile_product(out, x, W, blockIdx.y * 64, blockIdx.x * 64, rows, C, H);
}
void product4(bf16* out, const bf16* x, const bf16* W, int rows, int C, int H) {
    tensor4<<<dim3(blocks_for(H, 64), blocks_for(rows, 64)), 128>>>(out, x, W, rows, C, H);
}
void rung4(const Shape* s) { each_expert(s, product4); }

// ---- rung 5: one launch for all experts ----------------------------------------------------------------------------
// A launch for each expert leaves multiprocessors idle at the end of each, and asks the host to know the counts. Experts begin at
// multiples of 128 rows, so a tile of 64 rows belongs to one expert: the block looks up which. Tiles without rows return at once.

__global__ void grouped5(bf16* out, const bf16* x, const bf16* W, const int* offset, const int* count, int C, int H, int E) {
    int r0 = blockIdx.y * 64, e = 0;
    while (e + 1 < E && r0 >= offset[e + 1]) { e++; }
    int first = offset[e], mine = r0 - first;
    if (mine >= count[e]) { return; } // the whole block
    tile_product(out + (size_t)first * H, x + (size_t)first * C, W + (size_t)e * H * C, mine, blockIdx.x * 64, count[e], C, H);
}
void rung5(const Shape* s) {
    if (offset[s->E] == 0) { return; }
    grouped5<<<dim3(blocks_for(s->H, 64), offset[s->E] / 64), 128>>>(dout, dx, dW, doffset, dcount, s->C, s->H, s->E);
}

// ---- rung 6: cuBLAS, a call for each expert: the yardstick ---------------------------------------------------------
// It thinks in columns: our out (rows, H) is its (H, rows), so W and x change places.

static cublasHandle_t cublas;
void product6(bf16* out, const bf16* x, const bf16* W, int rows, int C, int H) {
    float one = 1.0f, zero = 0.0f;
    if (cublas == NULL && cublasCreate(&cublas) != CUBLAS_STATUS_SUCCESS) { fprintf(stderr, "no cuBLAS\n"); exit(1); }
    if (cublasGemmEx(cublas, CUBLAS_OP_T, CUBLAS_OP_N, H, rows, C, &one, W, CUDA_R_16BF, C, x, CUDA_R_16BF, C, &zero, out,
                     CUDA_R_16BF, H, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT) != CUBLAS_STATUS_SUCCESS) {
        fprintf(stderr, "cuBLAS does not multiply %d x %d x %d\n", rows, H, C);
        exit(1);
    }
}
void rung6(const Shape* s) { each_expert(s, product6); }

// ---- the ladder ----------------------------------------------------------------------------------------------------

double least_bytes(const Shape* s) { return 2.0 * rows_of(s) * (s->C + s->H) + 2.0 * s->E * s->H * s->C; }
double flops(const Shape* s) { return 2.0 * rows_of(s) * s->H * s->C; }
static const Rung rungs[] = {
    {"one thread for each number", rung1, bytes1},
    {"tiles of 16 x 16 in shared memory", rung2, bytes2},
    {"tiles of 64 x 64, 4 x 4 in registers", rung3, bytes3},
    {"tensor cores, tiles of 64 x 64", rung4, bytes3},
    {"one launch for all experts", rung5, bytes3},
    {"cuBLAS, a call for each expert (its bytes are not known: the least)", rung6, least_bytes},
};
static const char* const limits = "C is a multiple of 8";
int fits(const Shape* s) { return s->C % 8 == 0; }
static const Shape timed_shape = {65536, 768, 8, 3072, 0, SOME};
static const Shape shapes[] = {{150, 64, 3, 64, 0, SOME}, {140, 40, 4, 70, 0, SKEWED}, {1, 8, 1, 1, 0, ONE_FOR_ALL},
    {130, 16, 3, 24, 0, ONE_FOR_ALL}, {31, 8, 2, 8, 0, NONE}};

// ---- checking, timing, main: the same text in every ladder ---------------------------------------------------------

int check(const Rung* r, int rung, const Shape* s) { // 1 if it is wrong
    random_state = 1;
    setup(s);
    reference(s);
    worst = 0.0;
    clear(s);
    r->launch(s);
    CUDA(cudaGetLastError());
    CUDA(cudaDeviceSynchronize());
    compare_all(s, rung);
    int bad = !(worst <= 1.0);
    printf("  N %d C %d E %d H %d T %d, tokens to experts %s: %s, error %.3g of what is allowed\n", s->N, s->C, s->E, s->H, s->T,
           s->kind == SOME ? "by chance" : s->kind == SKEWED ? "skewed" : s->kind == NONE ? "none" : "all to one",
           bad ? "WRONG" : "right", worst);
    release();
    return bad;
}

#ifndef __CUDACPU__
int by_size(const void* a, const void* b) { return (*(const float*)a > *(const float*)b) - (*(const float*)a < *(const float*)b); }

float median_ms(const Rung* r, const Shape* s) { // of 21 runs, each with nothing of its data left in the L2 cache
    enum { RUNS = 21, WARM = 3, FLUSH = 256 << 20 };
    float ms[RUNS];
    void* other = device_room(FLUSH);
    cudaEvent_t begin, end;
    CUDA(cudaEventCreate(&begin));
    CUDA(cudaEventCreate(&end));
    for (int i = -WARM; i < RUNS; i++) {
        CUDA(cudaMemset(other, i & 255, FLUSH));
        CUDA(cudaEventRecord(begin));
        r->launch(s);
        CUDA(cudaEventRecord(end));
        CUDA(cudaEventSynchronize(end));
        if (i >= 0) { CUDA(cudaEventElapsedTime(&ms[i], begin, end)); }
    }
    CUDA(cudaGetLastError());
    qsort(ms, RUNS, sizeof(float), by_size);
    CUDA(cudaEventDestroy(begin));
    CUDA(cudaEventDestroy(end));
    return ms[RUNS / 2];
}
#endif

int main(int argc, char** argv) {
    Shape s = timed_shape;
    double gb_s = 4300.0, tflop_s = 788.0; // what one H200 does, as in dev/floors.py
    int only = 0, count = 0, bad = 0, rungs_n = (int)(sizeof rungs / sizeof rungs[0]);
    struct { const char* flag; int* to; } sizes[] = {{"--N", &s.N}, {"--C", &s.C}, {"--E", &s.E}, {"--H", &s.H}, {"--T", &s.T}};
    for (int i = 1; i < argc; i++) {
        int known = 1;
        double number = i + 1 < argc ? atof(argv[i + 1]) : 0.0;
        if (atoi(argv[i]) > 0 && atoi(argv[i]) <= rungs_n) { only = atoi(argv[i]); continue; }
        if (strcmp(argv[i], "--count") == 0) { count = 1; continue; }
        if (strcmp(argv[i], "--bandwidth") == 0) { gb_s = number; } else if (strcmp(argv[i], "--flops") == 0) { tflop_s = number; }
        else { known = 0; }
        for (size_t j = 0; j < sizeof sizes / sizeof sizes[0]; j++) {
            if (strcmp(argv[i], sizes[j].flag) == 0) { *sizes[j].to = (int)number; known = 1; }
        }
        if (!known || number <= 0.0 || !fits(&s)) {
            fprintf(stderr, "%s: bad argument %s\n---> HINT: %s [RUNG 1..%d] [--count] [--N n] [--C n] [--E n] [--H n] [--T n]"
                    " [--bandwidth GB/s] [--flops TFLOP/s]; %s\n", argv[0], argv[i], argv[0], rungs_n, limits);
            return 2;
        }
        i++;
    }
    double least = least_bytes(&s), flop = flops(&s), bound = fmax(least / gb_s / 1e6, flop / tflop_s / 1e9); // ms
    printf("bound: %.4g MB and %.4g GFLOP at N %d C %d E %d H %d T %d\n", least / 1e6, flop / 1e9, s.N, s.C, s.E, s.H, s.T);
    for (int r = 1; r <= rungs_n; r++) {
        if (only != 0 && r != only) { continue; }
        printf("rung %d: %s; asks for %.4g MB\n", r, rungs[r - 1].name, rungs[r - 1].bytes(&s) / 1e6);
        for (size_t j = 0; !count && j < sizeof shapes / sizeof shapes[0]; j++) { bad += check(&rungs[r - 1], r, &shapes[j]); }
    }
    if (count) { return 0; }
    if (bad > 0) { printf("%d checks are WRONG\n", bad); return 1; }
#ifdef __CUDACPU__
    (void)bound;
    printf("all right; not timed: no GPU\n");
#else
    random_state = 1;
    setup(&s);
    clear(&s);
    printf("bound: %.4f ms at %g GB/s and %g TFLOP/s\n", bound, gb_s, tflop_s);
    for (int r = 1; r <= rungs_n; r++) {
        if (only != 0 && r != only) { continue; }
        float ms = median_ms(&rungs[r - 1], &s);
        printf("time %d: %.4f ms, %.1f GB/s, %.1f GFLOP/s, %.2f%% of the bound\n", r, ms, least / ms / 1e6, flop / ms / 1e6,
               100.0 * bound / ms);
    }
    release();
#endif
    return 0;
}
