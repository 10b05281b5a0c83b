/*
Attention forward, from slow to fast. Stands alone: nvcc -O3 -std=c++17 dev/cuda/attention.cu -o attention && ./attention
Without a GPU: dev/cuda_on_cpu/cudacpu-cc -o attention dev/cuda/attention.cu && ./attention

    q, k, v (heads, T, 64) bf16, heads = N / T * C / 64; a token sees itself and those before it
    out (heads, T, 64) bf16 = softmax(q k^T / 8) v
The bound. 4 * 64 FLOP for each pair of tokens that see each other, T (T + 1) / 2 in each head. Read q, k, v, write out: 8NC bytes.
At T = 1024 that is 256 FLOP for each byte: a GPU that does 183 for each byte of memory is bound by math, if scores stay inside.
*/
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>
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

#define HS 64 // numbers of a head
static bf16 *q, *k, *v, *dq, *dk, *dv, *dout;
static float* datt; // (heads, T, T) of rung 1
static double *want, *size;
int heads(const Shape* s) { return s->N / s->T * (s->C / HS); }

void setup(const Shape* s) {
    size_t n = (size_t)heads(s) * s->T * HS;
    q = random_bf16(n);
    k = random_bf16(n);
    v = random_bf16(n);
    for (size_t i = 0; i < n; i++) { q[i] = __float2bfloat16(4.0f * __bfloat162float(q[i])); } // so that softmax has to choose
    dq = (bf16*)to_device(q, n * 2);
    dk = (bf16*)to_device(k, n * 2);
    dv = (bf16*)to_device(v, n * 2);
    dout = (bf16*)device_room(n * 2);
    datt = (float*)device_room((size_t)heads(s) * s->T * s->T * 4);
}

void reference(const Shape* s) {
    size_t n = (size_t)heads(s) * s->T * HS;
    double* p = (double*)host_room(s->T * 8);
    want = (double*)host_room(n * 8);
    size = (double*)host_room(n * 8);
    for (int r = 0; r < heads(s) * s->T; r++) {
        int t = r % s->T, first = r - t;
        double max = -INFINITY, sum = 0.0;
        for (int j = 0; j <= t; j++) {
            p[j] = 0.0;
            for (int c = 0; c < HS; c++) {
                p[j] += (double)__bfloat162float(q[(size_t)r * HS + c]) * __bfloat162float(k[(size_t)(first + j) * HS + c]) / 8.0;
            }
            max = fmax(max, p[j]);
        }
        for (int j = 0; j <= t; j++) { sum += p[j] = exp(p[j] - max); }
        for (int j = 0; j <= t; j++) {
            for (int c = 0; c < HS; c++) {
                double a = p[j] / sum * __bfloat162float(v[(size_t)(first + j) * HS + c]);
                want[(size_t)r * HS + c] += a;
                size[(size_t)r * HS + c] += fabs(a);
            }
        }
    }
}

void clear(const Shape* s) {
    poison(dout, (size_t)heads(s) * s->T * HS * 2);
    poison(datt, (size_t)heads(s) * s->T * s->T * 4);
}

void compare_all(const Shape* s, int rung) {
    size_t n = (size_t)heads(s) * s->T * HS;
    bf16* out = (bf16*)host_room(n * 2);
    CUDA(cudaMemcpy(out, dout, n * 2, cudaMemcpyDeviceToHost));
    // |q| < 4, |k| < 1: a score is a sum of 64 terms below 4 / 8, so its error is below 64 * 64 * 0.5 EPS, which exp() passes
    // on; T terms are summed up. Rung 3 rounds each p to bf16 for the tensor cores, 2^-8 of its size; out is rounded once
    double part = (2.0 * 64 * 64 * 0.5 + 2.0 * s->T + 16.0) * EPS + (rung == 3 ? 1.0 / 256.0 : 0.0);
    for (size_t i = 0; i < n; i++) {
        double sums = part * size[i];
        compare(__bfloat162float(out[i]), want[i], sums + (fabs(want[i]) + sums) / 256.0 + 1e-30);
    }
}

// ---- rung 1: three kernels, with the (T, T) matrix in memory -------------------------------------------------------
// Scores: one thread for each (query, key). Softmax: one warp for each row, lanes stride over keys. Sum: one thread for each
// number of out. The matrix is written, read, written and read: 4 T bytes for a query each time, where a head has 128.

__global__ void scores1(float* att, const bf16* q, const bf16* k, size_t n, int T) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) { return; }
    size_t row = i / T, first = row / T * T;
    int key = (int)(i % T);
    float sum = 0.0f;
    if (key > (int)(row % T)) { return; } // the future is left as it is: nobody reads it
    for (int c = 0; c < HS; c++) { sum += value(q[row * HS + c]) * value(k[(first + key) * HS + c]); }
    att[i] = sum / 8.0f;
}

__global__ void softmax1(float* att, int rows, int T) {
    int r = warp_index();
    if (r >= rows) { return; }
    float *a = att + (size_t)r * T, max = -INFINITY, sum = 0.0f;
    for (int j = lane_index(); j <= r % T; j += WARP) { max = fmaxf(max, a[j]); }
    for (int o = WARP / 2; o > 0; o /= 2) { max = fmaxf(max, __shfl_xor_sync(ALL, max, o)); }
    for (int j = lane_index(); j <= r % T; j += WARP) { sum += a[j] = expf(a[j] - max); }
    sum = warp_sum(sum);
    for (int j = lane_index(); j <= r % T; j += WARP) { a[j] /= sum; }
}

__global__ void sum1(bf16* out, const float* att, const bf16* v, size_t n, int T) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) { return; }
    size_t row = i / HS, first = row / T * T;
    float sum = 0.0f;
    for (int j = 0; j <= (int)(row % T); j++) { sum += att[row * T + j] * value(v[(first + j) * HS + i % HS]); }
    out[i] = __float2bfloat16(sum);
}

void rung1(const Shape* s) {
    int rows = heads(s) * s->T;
    scores1<<<blocks_for((size_t)rows * s->T, 256), 256>>>(datt, dq, dk, (size_t)rows * s->T, s->T);
    softmax1<<<blocks_for(rows, 8), 256>>>(datt, rows, s->T);
    sum1<<<blocks_for((size_t)rows * HS, 256), 256>>>(dout, datt, dv, (size_t)rows * HS, s->T);
}
double pairs(const Shape* s) { return heads(s) * (s->T * (s->T + 1.0) / 2.0); }
// 256 bytes of q and k for each score; the matrix written, read twice, written twice; p and v for each product of the sum
double bytes1(const Shape* s) { return pairs(s) * (256.0 + 24.0 + 6.0 * HS) + 2.0 * s->N * s->C; }

// ---- rung 2: scores stay inside, softmax as it goes ----------------------------------------------------------------
// One warp for each query, 8 of them in a block that share 32 keys and values in shared memory; lane j makes the score of key j. Of
// the softmax so far a warp keeps the largest score m, the sum l of exp(score - m), and its sum of v, two channels in each lane. A
// larger m shrinks what was added up: l exp(m - m'). Nothing but q, k, v and out passes through memory; still no tensor cores.
// A row of K_here has 66 numbers, 33 banks, so that 32 lanes which read 32 rows meet 32 banks.

__global__ void online2(bf16* out, const bf16* q, const bf16* k, const bf16* v, int T) {
    __shared__ bf16 q_here[8][HS], K_here[32][HS + 2], V_here[32][HS];
    int blocks = (T + 7) / 8, warp = threadIdx.x / WARP, lane = lane_index();
    int query = blockIdx.x % blocks * 8 + warp, last = min(T - 1, (int)(blockIdx.x % blocks) * 8 + 7); // of this block
    size_t first = (size_t)(blockIdx.x / blocks) * T;
    float m = -INFINITY, l = 0.0f, o[2] = {0.0f, 0.0f};
    for (int c = lane; c < HS; c += WARP) { q_here[warp][c] = q[(first + min(query, T - 1)) * HS + c]; }
    for (int begin = 0; begin <= last; begin += 32) {
        __syncthreads(); // nobody reads the keys before
        for (int n = threadIdx.x; n < 32 * HS; n += blockDim.x) {
            int key = min(begin + n / HS, T - 1);
            K_here[n / HS][n % HS] = k[(first + key) * HS + n % HS];
            V_here[n / HS][n % HS] = v[(first + key) * HS + n % HS];
        }
        __syncthreads(); // the keys are there, and q
        float score = -INFINITY;
        if (begin + lane <= query) {
            score = 0.0f;
            for (int c = 0; c < HS; c++) { score += value(q_here[warp][c]) * value(K_here[lane][c]); }
            score /= 8.0f;
        }
        float top = score;
        for (int d = WARP / 2; d > 0; d /= 2) { top = fmaxf(top, __shfl_xor_sync(ALL, top, d)); }
        if (top == -INFINITY) { continue; } // all of these keys are in the future: the same for the whole warp
        top = fmaxf(top, m);
        float p = expf(score - top), shrink = expf(m - top);
        m = top;
        l = l * shrink + warp_sum(p);
        o[0] *= shrink;
        o[1] *= shrink;
        for (int j = 0; j < 32; j++) {
            float pj = __shfl_sync(ALL, p, j);
            o[0] += pj * value(V_here[j][lane]);
            o[1] += pj * value(V_here[j][lane + 32]);
        }
    }
    for (int h = 0; h < 2 && query < T; h++) { out[(first + query) * HS + lane + 32 * h] = __float2bfloat16(o[h] / l); }
}
void rung2(const Shape* s) { online2<<<heads(s) * blocks_for(s->T, 8), 256>>>(dout, dq, dk, dv, s->T); }
double bytes2(const Shape* s) { return pairs(s) * 256.0 / 8.0 + 4.0 * s->N * s->C; } // k and v for each 8 queries

// ---- rung 3: tensor cores ------------------------------------------------------------------------------------------
// One block for 64 queries of a head, one warp for 16; tiles of 64 keys pass by. A product of mma.sync.m16n8k16 has, with g = lane
// / 4 and t = lane % 4, in each lane: of A rows g, g + 8, columns 2t, 2t + 1, 2t + 8, 2t + 9; of B column g, rows 2t, 2t + 1, 2t +
// 8, 2t + 9; of D rows g, g + 8, columns 2t, 2t + 1. So two D of scores, rounded to bf16, are the A of the product with v, without
// a move. V is stored transposed, so that the two rows of B that share a register are neighbours. The program adds: tiles that are
// fetched while others are used (cp.async), ldmatrix, and the log of the sums for the backward pass.

__device__ inline void mma_m16n8k16(float d[4], const unsigned a[4], const unsigned b[2]) { // d += a b
#ifdef __CUDACPU__
    cudacpu::mma_m16n8k16_bf16(d, a, b, d);
#else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}
__device__ inline unsigned pair(const bf16* p) { return *(const unsigned*)p; } // two numbers in a register
__device__ inline unsigned pack(float low, float high) {
    __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
    unsigned bits;
    memcpy(&bits, &both, sizeof bits);
    return bits;
}

__global__ void flash3(bf16* out, const bf16* q, const bf16* k, const bf16* v, int T) {
    __shared__ alignas(16) bf16 K[64][HS + 8], Vt[HS][64 + 8]; // Vt[c][key]
    int blocks = (T + 63) / 64, block = blockIdx.x % blocks, g = lane_index() / 4, t = lane_index() % 4;
    int rows[2] = {block * 64 + (int)threadIdx.x / WARP * 16 + g, block * 64 + (int)threadIdx.x / WARP * 16 + g + 8};
    size_t first = (size_t)(blockIdx.x / blocks) * T;
    float m[2] = {-INFINITY, -INFINITY}, l[2] = {0.0f, 0.0f}, o[8][4] = {};
    unsigned a[4][4]; // 16 queries as four A
    for (int i = 0; i < 16; i++) {
        const bf16* row = q + (first + min(rows[i % 2], T - 1)) * HS;
        a[i / 4][i % 4] = pair(row + i / 4 * 16 + i % 4 / 2 * 8 + 2 * t);
    }
    for (int begin = 0; begin <= block * 64; begin += 64) {
        float s[8][4] = {};
        __syncthreads(); // nobody reads the tiles before
        for (int n = threadIdx.x; n < 64 * HS; n += blockDim.x) {
            size_t at = (first + min(begin + n / HS, T - 1)) * HS + n % HS;
            K[n / HS][n % HS] = k[at];
            Vt[n % HS][n / HS] = v[at];
        }
        __syncthreads(); // the tiles are there
        for (int n = 0; n < 8; n++) {
            for (int c = 0; c < 4; c++) {
                unsigned b[2] = {pair(&K[n * 8 + g][c * 16 + 2 * t]), pair(&K[n * 8 + g][c * 16 + 2 * t + 8])};
                mma_m16n8k16(s[n], a[c], b);
            }
        }
        for (int n = 0; n < 32; n++) { // scale, and hide the future
            int key = begin + n / 4 * 8 + 2 * t + n % 2;
            s[n / 4][n % 4] = key <= rows[n % 4 / 2] ? s[n / 4][n % 4] / 8.0f : -INFINITY;
        }
        for (int i = 0; i < 2; i++) { // rows g and g + 8, which 4 lanes share; each sees key `begin` at least, so m is a number
            float top = m[i], sum = 0.0f;
            for (int n = 0; n < 8; n++) { top = fmaxf(top, fmaxf(s[n][2 * i], s[n][2 * i + 1])); }
            top = fmaxf(top, __shfl_xor_sync(ALL, top, 1));
            top = fmaxf(top, __shfl_xor_sync(ALL, top, 2));
            float shrink = expf(m[i] - top);
            m[i] = top;
            for (int n = 0; n < 8; n++) {
                for (int j = 2 * i; j < 2 * i + 2; j++) { sum += s[n][j] = expf(s[n][j] - top); o[n][j] *= shrink; }
            }
            l[i] = l[i] * shrink + sum; // of this lane's keys
        }
        for (int c = 0; c < 4; c++) { // o (16, 64) += p (16, 16 of 64 keys) v
            unsigned p[4] = {pack(s[2 * c][0], s[2 * c][1]), pack(s[2 * c][2], s[2 * c][3]), pack(s[2 * c + 1][0], s[2 * c + 1][1]),
                             pack(s[2 * c + 1][2], s[2 * c + 1][3])};
            for (int n = 0; n < 8; n++) {
                unsigned b[2] = {pair(&Vt[n * 8 + g][c * 16 + 2 * t]), pair(&Vt[n * 8 + g][c * 16 + 2 * t + 8])};
                mma_m16n8k16(o[n], p, b);
            }
        }
    }
    for (int i = 0; i < 2; i++) {
        l[i] += __shfl_xor_sync(ALL, l[i], 1);
        l[i] += __shfl_xor_sync(ALL, l[i], 2);
        for (int n = 0; n < 16 && rows[i] < T; n++) {
            out[(first + rows[i]) * HS + n / 2 * 8 + 2 * t + n % 2] = __float2bfloat16(o[n / 2][2 * i + n % 2] / l[i]);
        }
    }
}
void rung3(const Shape* s) { flash3<<<heads(s) * blocks_for(s->T, 64), 128>>>(dout, dq, dk, dv, s->T); }
double bytes3(const Shape* s) { return pairs(s) * 256.0 / 64.0 + 4.0 * s->N * s->C; } // k and v for each 64 queries

// ---- the ladder ----------------------------------------------------------------------------------------------------

double least_bytes(const Shape* s) { return 8.0 * s->N * s->C; }
double flops(const Shape* s) { return pairs(s) * 4.0 * HS; }
static const Rung rungs[] = {
    {"three kernels, the (T, T) matrix in memory", rung1, bytes1},
    {"scores stay inside, one warp for each query", rung2, bytes2},
    {"tensor cores, 64 queries by 64 keys", rung3, bytes3},
};
static const char* const limits = "C is a multiple of 64, N of T";
int fits(const Shape* s) { return s->C % HS == 0 && s->T > 0 && s->N % s->T == 0; }
static const Shape timed_shape = {16384, 768, 0, 0, 1024, SOME};
static const Shape shapes[] = {{64, 128, 0, 0, 64, SOME}, {100, 64, 0, 0, 100, SOME}, {66, 64, 0, 0, 33, SOME},
    {1, 64, 0, 0, 1, SOME}, {130, 64, 0, 0, 130, SOME}};

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
