/*
Gradients of the gate, from slow to fast. Stands alone: nvcc -O3 -std=c++17 dev/cuda/gate_backward.cu -o gate_backward
Without a GPU: dev/cuda_on_cpu/cudacpu-cc -o gate_backward dev/cuda/gate_backward.cu && ./gate_backward

    cosine (N, E) = <x_i, W_e> / (|x_i| |W_e|); d (N, E) = dL/dcosine, 0 where the gate is closed; x (N, C) bf16, W (E, C) float
    dx_i = sum over e of d (W_e / |W_e| - cosine x_i / |x_i|) / |x_i|            (N, C) float here, so that all rungs can add to it
    dW_e = sum over i of d (x_i / |x_i| - cosine W_e / |W_e|) / |W_e|            (E, C)
    dG_e = -sum over i of d, a stand-in for the sum of the straight-through gradients that moves the threshold            (E)
The bound. Read x once (2NC bytes), W (4EC), d and cosine (8NE), |x| (4N); write dx (4NC) and dW (4EC). 4NCE + 4NC FLOP, 6 for each
byte with E = 8: memory is the bound. A third of the gates is open; closed ones are counted as if they were open.
*/
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>
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

static bf16 *x, *dev_x;
static float *W, *cosine, *d, *xnorm, *wnorm; // on the host; dev_..: on the device
static float *dev_W, *dev_cosine, *dev_d, *dev_xnorm, *dev_wnorm, *dev_dx, *dev_dW, *dev_dG, *partial;
static double *dx, *dx_size, *dW, *dW_size, *dG, *dG_size; // what is right; the sums of absolute values

void setup(const Shape* s) {
    size_t NC = (size_t)s->N * s->C, EC = (size_t)s->E * s->C, NE = (size_t)s->N * s->E;
    x = random_bf16(NC);
    W = random_floats(EC);
    cosine = random_floats(NE); // any numbers do: the formula is linear in them
    d = random_floats(NE);
    xnorm = (float*)host_room(s->N * sizeof(float));
    wnorm = (float*)host_room(s->E * sizeof(float));
    for (size_t i = 0; i < NE; i++) { if (!chosen(s, (int)(i % s->E))) { d[i] = 0.0f; } }
    for (size_t i = 0; i < NC; i++) { float a = __bfloat162float(x[i]); xnorm[i / s->C] += a * a; }
    for (size_t i = 0; i < EC; i++) { wnorm[i / s->C] += W[i] * W[i]; }
    for (int i = 0; i < s->N; i++) { xnorm[i] = sqrtf(xnorm[i]); }
    for (int e = 0; e < s->E; e++) { wnorm[e] = sqrtf(wnorm[e]); }
    dev_x = (bf16*)to_device(x, NC * sizeof(bf16));
    dev_W = (float*)to_device(W, EC * 4);
    dev_cosine = (float*)to_device(cosine, NE * 4);
    dev_d = (float*)to_device(d, NE * 4);
    dev_xnorm = (float*)to_device(xnorm, s->N * 4);
    dev_wnorm = (float*)to_device(wnorm, s->E * 4);
    dev_dx = (float*)device_room(NC * 4);
    dev_dW = (float*)device_room(EC * 4);
    dev_dG = (float*)device_room(s->E * 4);
    partial = (float*)device_room((size_t)blocks_for(s->N, 64) * s->E * (s->C + 1) * 4); // of rungs 3 and 4
}

void reference(const Shape* s) {
    size_t NC = (size_t)s->N * s->C, EC = (size_t)s->E * s->C;
    dx = (double*)host_room(NC * 8); dx_size = (double*)host_room(NC * 8);
    dW = (double*)host_room(EC * 8); dW_size = (double*)host_room(EC * 8);
    dG = (double*)host_room(s->E * 8); dG_size = (double*)host_room(s->E * 8);
    for (int i = 0; i < s->N; i++) {
        for (int e = 0; e < s->E; e++) {
            double g = d[(size_t)i * s->E + e], cos = cosine[(size_t)i * s->E + e], nx = xnorm[i], nw = wnorm[e];
            dG[e] -= g;
            dG_size[e] += fabs(g);
            for (int c = 0; c < s->C; c++) {
                double a = __bfloat162float(x[(size_t)i * s->C + c]), w = W[(size_t)e * s->C + c];
                dx[(size_t)i * s->C + c] += g * (w / nw - cos * a / nx) / nx;
                dW[(size_t)e * s->C + c] += g * (a / nx - cos * w / nw) / nw;
                dx_size[(size_t)i * s->C + c] += fabs(g * w / nw / nx) + fabs(g * cos * a / nx / nx);
                dW_size[(size_t)e * s->C + c] += fabs(g * a / nx / nw) + fabs(g * cos * w / nw / nw);
            }
        }
    }
}

void clear(const Shape* s) {
    poison(dev_dx, (size_t)s->N * s->C * 4); poison(dev_dW, (size_t)s->E * s->C * 4); poison(dev_dG, s->E * 4);
}

void compare_all(const Shape* s, int rung) {
    (void)rung;
    size_t NC = (size_t)s->N * s->C, EC = (size_t)s->E * s->C;
    float *a = (float*)host_room(NC * 4), *b = (float*)host_room(EC * 4), *c = (float*)host_room(s->E * 4);
    CUDA(cudaMemcpy(a, dev_dx, NC * 4, cudaMemcpyDeviceToHost));
    CUDA(cudaMemcpy(b, dev_dW, EC * 4, cudaMemcpyDeviceToHost));
    CUDA(cudaMemcpy(c, dev_dG, s->E * 4, cudaMemcpyDeviceToHost));
    // sums of 2E and of 2N terms, each term of at most 6 roundings
    for (size_t i = 0; i < NC; i++) { compare(a[i], dx[i], (2 * s->E + 6) * EPS * dx_size[i] + 1e-30); }
    for (size_t i = 0; i < EC; i++) { compare(b[i], dW[i], (2 * s->N + 6) * EPS * dW_size[i] + 1e-30); }
    for (int e = 0; e < s->E; e++) { compare(c[e], dG[e], (s->N + 1) * EPS * dG_size[e] + 1e-30); }
}

// ---- rung 1: one thread for each (token, expert), sums by atomics --------------------------------------------------
// It adds to dx, dW and dG: 2C + 1 atomics for an open gate, N / 3 of them for each number of dW. The order is chance, so the last
// bits of dW differ from run to run, and training runs part.

__global__ void all1(float* dx, float* dW, float* dG, const float* d, const float* cosine, const float* xnorm, const float* wnorm,
                     const bf16* x, const float* W, int N, int C, int E) {
    size_t ie = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (ie >= (size_t)N * E || d[ie] == 0.0f) { return; }
    size_t i = ie / E, e = ie % E;
    float score = d[ie] / (xnorm[i] * wnorm[e]), along_x = d[ie] * cosine[ie] / (xnorm[i] * xnorm[i]);
    float along_w = d[ie] * cosine[ie] / (wnorm[e] * wnorm[e]);
    for (int c = 0; c < C; c++) {
        float a = value(x[i * C + c]), w = W[e * C + c];
        atomicAdd(&dx[i * C + c], score * w - along_x * a);
        atomicAdd(&dW[e * C + c], score * a - along_w * w);
    }
    atomicAdd(&dG[e], -d[ie]);
}

void rung1(const Shape* s) {
    CUDA(cudaMemsetAsync(dev_dx, 0, (size_t)s->N * s->C * 4));
    CUDA(cudaMemsetAsync(dev_dW, 0, (size_t)s->E * s->C * 4));
    CUDA(cudaMemsetAsync(dev_dG, 0, s->E * 4));
    all1<<<blocks_for((size_t)s->N * s->E, 256), 256>>>(dev_dx, dev_dW, dev_dG, dev_d, dev_cosine, dev_xnorm, dev_wnorm, dev_x,
                                                        dev_W,
                                                        s->N, s->C, s->E);
}
double NCE(const Shape* s) { return (double)s->N * s->C * s->E; }
double bytes1(const Shape* s) { return 22.0 * NCE(s) + 4.0 * (s->N + s->E) * (double)s->C + 24.0 * s->N * s->E; }

// ---- rung 2: whoever owns a number adds it up ----------------------------------------------------------------------
// dx: one warp for each token, lanes stride over C, experts in order. dW: one thread for each (e, c) walks over all tokens. No
// atomics, the same bits always. But dW has only E C threads, each with N loads one after the other.

__global__ void dx2(float* dx, const float* d, const float* cosine, const float* xnorm, const float* wnorm, const bf16* x,
                    const float* W, int N, int C, int E) {
    int i = warp_index();
    if (i >= N) { return; }
    float along = 0.0f;
    for (int e = 0; e < E; e++) { along += d[(size_t)i * E + e] * cosine[(size_t)i * E + e]; }
    along /= xnorm[i] * xnorm[i];
    for (int c = lane_index(); c < C; c += WARP) {
        float sum = -along * value(x[(size_t)i * C + c]);
        for (int e = 0; e < E; e++) {
            float g = d[(size_t)i * E + e];
            if (g != 0.0f) { sum += g / (xnorm[i] * wnorm[e]) * W[(size_t)e * C + c]; }
        }
        dx[(size_t)i * C + c] = sum;
    }
}

__global__ void dW2(float* dW, float* dG, const float* d, const float* cosine, const float* xnorm, const float* wnorm,
                    const bf16* x,
                    const float* W, int N, int C, int E) {
    int e = blockIdx.y, c = blockIdx.x * blockDim.x + threadIdx.x;
    float sum = 0.0f, along = 0.0f, all = 0.0f;
    for (int i = 0; c < C && i < N; i++) {
        float g = d[(size_t)i * E + e];
        if (g == 0.0f) { continue; }
        sum += g / xnorm[i] * value(x[(size_t)i * C + c]);
        along += g * cosine[(size_t)i * E + e];
        all += g;
    }
    if (c < C) { dW[(size_t)e * C + c] = (sum - along * W[(size_t)e * C + c] / wnorm[e]) / wnorm[e]; }
    if (c == 0) { dG[e] = -all; }
}

void backward_x(const Shape* s) {
    dx2<<<blocks_for(s->N, 8), 256>>>(dev_dx, dev_d, dev_cosine, dev_xnorm, dev_wnorm, dev_x, dev_W, s->N, s->C, s->E);
}
void rung2(const Shape* s) {
    backward_x(s);
    dW2<<<dim3(blocks_for(s->C, 64), s->E), 64>>>(dev_dW, dev_dG, dev_d, dev_cosine, dev_xnorm, dev_wnorm, dev_x, dev_W, s->N, s->C,
                                                  s->E);
}
double bytes_dx(const Shape* s) { return 6.0 * s->N * s->C + 4.0 * NCE(s) + 8.0 * s->N * s->E; }
double bytes2(const Shape* s) { return bytes_dx(s) + 2.0 * NCE(s) + 12.0 * s->N * s->E * blocks_for(s->C, WARP); }

// ---- rung 3: dW in two stages --------------------------------------------------------------------------------------
// The tokens are cut into slabs of 64. First one block for each (slab, expert) adds up its part, then one thread for each (e, c)
// the parts, in order: the same bits always, and N / 64 times as many threads. x is asked for by every expert.

#define SLAB 64

__global__ void slabs3(float* partial, const float* d, const float* cosine, const float* xnorm, const bf16* x, int N, int C,
                       int E) {
    // partial (slabs, E, C + 1): the sums, and behind them that of d * cosine
    int e = blockIdx.y, begin = blockIdx.x * SLAB, end = min(N, begin + SLAB);
    float* out = partial + ((size_t)blockIdx.x * E + e) * (C + 1);
    for (int c = threadIdx.x; c <= C; c += blockDim.x) {
        float sum = 0.0f;
        for (int i = begin; i < end; i++) {
            float g = d[(size_t)i * E + e];
            if (g != 0.0f) { sum += c < C ? g / xnorm[i] * value(x[(size_t)i * C + c]) : g * cosine[(size_t)i * E + e]; }
        }
        out[c] = sum;
    }
}

__global__ void along3(float* along, const float* partial, int slabs, int C, int E) { // along (E): one thread for each expert
    int e = threadIdx.x;
    float sum = 0.0f;
    for (int b = 0; e < E && b < slabs; b++) { sum += partial[((size_t)b * E + e) * (C + 1) + C]; }
    if (e < E) { along[e] = sum; }
}

__global__ void finish3(float* dW, const float* along, const float* partial, const float* wnorm, const float* W, int slabs, int C,
                        int E) {
    int e = blockIdx.y, c = blockIdx.x * blockDim.x + threadIdx.x;
    float sum = 0.0f;
    if (c >= C) { return; }
    for (int b = 0; b < slabs; b++) { sum += partial[((size_t)b * E + e) * (C + 1) + c]; }
    dW[(size_t)e * C + c] = (sum - along[e] * W[(size_t)e * C + c] / wnorm[e]) / wnorm[e];
}

__global__ void dG3(float* dG, const float* d, int N, int E) { // one block for each expert; warps stride over tokens
    __shared__ float part[8];
    float sum = 0.0f;
    for (int i = threadIdx.x; i < N; i += blockDim.x) { sum += d[(size_t)i * E + blockIdx.x]; }
    sum = warp_sum(sum);
    if (lane_index() == 0) { part[threadIdx.x / WARP] = sum; }
    __syncthreads();
    if (threadIdx.x > 0) { return; }
    for (int w = 1; w < 8; w++) { sum += part[w]; }
    dG[blockIdx.x] = -sum;
}

void finish(const Shape* s) { // along stands in dG until dG3 writes it
    int slabs = blocks_for(s->N, SLAB);
    along3<<<1, 64>>>(dev_dG, partial, slabs, s->C, s->E);
    finish3<<<dim3(blocks_for(s->C, 64), s->E), 64>>>(dev_dW, dev_dG, partial, dev_wnorm, dev_W, slabs, s->C, s->E);
    dG3<<<s->E, 256>>>(dev_dG, dev_d, s->N, s->E);
}
void rung3(const Shape* s) {
    backward_x(s);
    slabs3<<<dim3(blocks_for(s->N, SLAB), s->E), 256>>>(partial, dev_d, dev_cosine, dev_xnorm, dev_x, s->N, s->C, s->E);
    finish(s);
}
double bytes_parts(const Shape* s) { return 8.0 * blocks_for(s->N, SLAB) * s->E * (s->C + 1.0) + 12.0 * s->N * s->E; }
double bytes3(const Shape* s) { return bytes_dx(s) + bytes_parts(s) + 2.0 * NCE(s) + 8.0 * s->N * s->E * blocks_for(s->C, WARP); }

// ---- rung 4: a slab for 8 experts at once --------------------------------------------------------------------------
// A block has a slab and 8 sums for each of its channels: x is read once for 8 experts. Their numbers of the slab, 64 x 8, wait in
// shared memory, already divided by |x|.

#define GROUP 8

__global__ void slabs4(float* partial, const float* d, const float* cosine, const float* xnorm, const bf16* x, int N, int C,
                       int E) {
    __shared__ float score[SLAB][GROUP], along[SLAB][GROUP];
    int begin = blockIdx.x * SLAB, rows = min(N - begin, SLAB), first = blockIdx.y * GROUP;
    for (int n = threadIdx.x; n < SLAB * GROUP; n += blockDim.x) {
        int i = n / GROUP, e = first + n % GROUP;
        int there = i < rows && e < E;
        float g = there ? d[(size_t)(begin + i) * E + e] : 0.0f;
        score[i][n % GROUP] = there ? g / xnorm[begin + i] : 0.0f;
        along[i][n % GROUP] = there ? g * cosine[(size_t)(begin + i) * E + e] : 0.0f;
    }
    __syncthreads();
    for (int c = threadIdx.x; c <= C; c += blockDim.x) {
        float sum[GROUP] = {};
        for (int i = 0; i < rows; i++) {
            float a = c < C ? value(x[(size_t)(begin + i) * C + c]) : 0.0f;
            for (int j = 0; j < GROUP; j++) { sum[j] += c < C ? score[i][j] * a : along[i][j]; }
        }
        for (int j = 0; j < GROUP; j++) {
            if (first + j < E) { partial[((size_t)blockIdx.x * E + first + j) * (C + 1) + c] = sum[j]; }
        }
    }
}
void rung4(const Shape* s) {
    backward_x(s);
    slabs4<<<dim3(blocks_for(s->N, SLAB), blocks_for(s->E, GROUP)), 256>>>(partial, dev_d, dev_cosine, dev_xnorm, dev_x, s->N, s->C,
                                                                           s->E);
    finish(s);
}
double bytes4(const Shape* s) {
    return bytes_dx(s) + bytes_parts(s) + 2.0 * s->N * (double)s->C * blocks_for(s->E, GROUP);
}

// ---- the ladder ----------------------------------------------------------------------------------------------------

double least_bytes(const Shape* s) { return 6.0 * s->N * s->C + 8.0 * s->E * s->C + 8.0 * s->N * s->E + 4.0 * s->N; }
double flops(const Shape* s) { return 4.0 * NCE(s) + 4.0 * s->N * s->C; }
static const Rung rungs[] = {
    {"one thread for each token and expert, atomics", rung1, bytes1},
    {"each number added up by its owner", rung2, bytes2},
    {"dW in two stages", rung3, bytes3},
    {"8 experts at once", rung4, bytes4},
};
static const char* const limits = "E is at most 64";
int fits(const Shape* s) { return s->E <= 64; }
static const Shape timed_shape = {65536, 768, 8, 0, 0, SOME};
static const Shape shapes[] = {{130, 64, 8, 0, 0, SOME}, {65, 77, 5, 0, 0, SKEWED}, {1, 1, 1, 0, 0, ONE_FOR_ALL},
    {9, 40, 64, 0, 0, SOME}, {70, 24, 9, 0, 0, ONE_FOR_ALL}, {31, 8, 2, 0, 0, NONE}};

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
