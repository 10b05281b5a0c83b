/*
The gate of a DynMoE layer, from slow to fast. Stands alone: nvcc -O3 -std=c++17 dev/cuda/routing.cu -o routing && ./routing
Without a GPU: dev/cuda_on_cpu/cudacpu-cc -o routing dev/cuda/routing.cu && ./routing

    x (N, C) bf16, W (E, C) float, G (E) float                                                                paper, eq. (3) to (6)
    cosine (N, E) = <x_i, W_e> / (|x_i| |W_e|);  open (N, E) = cosine > G_e;  k (N) = number of open;  weight (N, E) = open / k

Compared with what the program asks besides: no fallback expert, all experts of the pool are active.
The bound. Read x once (2NC bytes) and W once (4EC), write cosine, open, weight (12NE) and k (4N). FLOP: 2NCE + 2NC. With E = 8
these are 18 FLOP for 2 bytes of x: a GPU that does 788 TFLOP/s at 4.3 TB/s does 183 FLOP for each byte, so memory is the bound.
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

static bf16 *x, *dx;
static float *W, *dW, *G, *dG, *dcosine, *dweight, *dxnorm, *dwnorm; // d..: on the device
static double* cosine;                                              // what is right
static int *dopen, *dk;

void setup(const Shape* s) {
    size_t NC = (size_t)s->N * s->C, EC = (size_t)s->E * s->C, NE = (size_t)s->N * s->E;
    x = random_bf16(NC);
    W = random_floats(EC);
    G = random_floats(s->E);
    for (int e = 0; e < s->E; e++) { // thresholds that make the kind of the shape: cosines are between -1 and 1
        G[e] = s->kind == NONE ? 2.0f : s->kind == ONE_FOR_ALL ? (e == 0 ? -2.0f : 2.0f) :
            s->kind == SKEWED ? (e - s->E / 2) / (4.0f * s->E) : G[e] / sqrtf((float)s->C);
    }
    dx = (bf16*)to_device(x, NC * sizeof(bf16));
    dW = (float*)to_device(W, EC * sizeof(float));
    dG = (float*)to_device(G, s->E * sizeof(float));
    dcosine = (float*)device_room(NE * sizeof(float));
    dweight = (float*)device_room(NE * sizeof(float));
    dopen = (int*)device_room(NE * sizeof(int));
    dk = (int*)device_room(s->N * sizeof(int));
    dxnorm = (float*)device_room(s->N * sizeof(float));
    dwnorm = (float*)device_room(s->E * sizeof(float));
}

void reference(const Shape* s) {
    cosine = (double*)host_room((size_t)s->N * s->E * sizeof(double));
    for (int i = 0; i < s->N; i++) {
        for (int e = 0; e < s->E; e++) {
            double dot = 0.0, xx = 0.0, ww = 0.0;
            for (int c = 0; c < s->C; c++) {
                double a = __bfloat162float(x[(size_t)i * s->C + c]), w = W[(size_t)e * s->C + c];
                dot += a * w;
                xx += a * a;
                ww += w * w;
            }
            cosine[(size_t)i * s->E + e] = dot / sqrt(xx * ww);
        }
    }
}

void clear(const Shape* s) {
    size_t NE = (size_t)s->N * s->E * 4;
    poison(dcosine, NE); poison(dweight, NE); poison(dopen, NE); poison(dk, s->N * 4);
    poison(dxnorm, s->N * 4); poison(dwnorm, s->E * 4);
}

void compare_all(const Shape* s, int rung) {
    (void)rung;
    size_t NE = (size_t)s->N * s->E;
    float *c = (float*)host_room(NE * 4), *w = (float*)host_room(NE * 4);
    int *o = (int*)host_room(NE * 4), *k = (int*)host_room(s->N * 4);
    CUDA(cudaMemcpy(c, dcosine, NE * 4, cudaMemcpyDeviceToHost));
    CUDA(cudaMemcpy(w, dweight, NE * 4, cudaMemcpyDeviceToHost));
    CUDA(cudaMemcpy(o, dopen, NE * 4, cudaMemcpyDeviceToHost));
    CUDA(cudaMemcpy(k, dk, s->N * 4, cudaMemcpyDeviceToHost));
    // C products and sums each in the dot product and in two norms; by Cauchy-Schwarz the absolute values sum up to |x| |W|
    double allowed = (2.0 * s->C + 8.0) * EPS;
    for (int i = 0; i < s->N; i++) {
        int opened = 0;
        for (int e = 0; e < s->E; e++) {
            size_t ie = (size_t)i * s->E + e;
            compare(c[ie], cosine[ie], allowed);
            compare(o[ie], c[ie] > G[e], 1e-9); // exact, by its own cosine
            if (fabs(cosine[ie] - G[e]) > allowed) { compare(o[ie], cosine[ie] > G[e], 1e-9); }
            opened += o[ie] == 1;
        }
        compare(k[i], opened, 1e-9);
        for (int e = 0; e < s->E; e++) {
            size_t ie = (size_t)i * s->E + e;
            compare(w[ie], o[ie] == 1 ? 1.0 / opened : 0.0, 2.0 * EPS);
        }
    }
}

// ---- rung 1: one thread for each (token, expert) -------------------------------------------------------------------
// A thread walks over C alone: the 32 lanes of a warp, which load together, read 32 / E different rows 2C bytes apart, a
// piece of 32 bytes of memory for 2 that are used; each x is asked for E + 1 times. Norms have kernels of their own, a thread for
// each row.

template <typename A>
__global__ void norms1(float* norms, const A* rows, int n, int C) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    float sum = 0.0f;
    if (i >= n) { return; }
    for (int c = 0; c < C; c++) { float a = (float)rows[(size_t)i * C + c]; sum += a * a; }
    norms[i] = sqrtf(sum);
}

__global__ void scores1(float* cosine, const float* xnorm, const float* wnorm, const bf16* x, const float* W, int N, int C, int E) {
    size_t ie = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (ie >= (size_t)N * E) { return; }
    int i = (int)(ie / E), e = (int)(ie % E);
    float dot = 0.0f;
    for (int c = 0; c < C; c++) { dot += value(x[(size_t)i * C + c]) * W[(size_t)e * C + c]; }
    cosine[ie] = dot / (xnorm[i] * wnorm[e]);
}

__global__ void choose1(int* open, int* k, float* weight, const float* cosine, const float* G, int N, int E) { // thread: a token
    int i = blockIdx.x * blockDim.x + threadIdx.x, n = 0;
    if (i >= N) { return; }
    for (int e = 0; e < E; e++) { n += open[(size_t)i * E + e] = cosine[(size_t)i * E + e] > G[e]; }
    for (int e = 0; e < E; e++) { weight[(size_t)i * E + e] = (float)open[(size_t)i * E + e] / (float)(n > 0 ? n : 1); }
    k[i] = n;
}

void rung1(const Shape* s) {
    norms1<<<blocks_for(s->N, 256), 256>>>(dxnorm, dx, s->N, s->C);
    norms1<<<blocks_for(s->E, 256), 256>>>(dwnorm, dW, s->E, s->C);
    scores1<<<blocks_for((size_t)s->N * s->E, 256), 256>>>(dcosine, dxnorm, dwnorm, dx, dW, s->N, s->C, s->E);
    choose1<<<blocks_for(s->N, 256), 256>>>(dopen, dk, dweight, dcosine, dG, s->N, s->E);
}

double outputs(const Shape* s) { return 12.0 * s->N * s->E + 4.0 * s->N; }
// 2 bytes of x and 4 of W for each product, x once more for its norm; cosine read again, norms
double bytes1(const Shape* s) {
    return 6.0 * s->N * s->C * s->E + 2.0 * s->N * s->C + 4.0 * s->E * s->C + outputs(s) + 16.0 * s->N * s->E;
}

// ---- rung 2: one warp for each token -------------------------------------------------------------------------------
// Lanes stride over C: neighbours read neighbours, a load of a warp is 64 bytes in one piece (coalesced). The E + 1 passes over x
// after the first find it in the L1 cache. Still four kernels, and 4 bytes of W from the cache for each product.

template <typename A>
__global__ void norms2(float* norms, const A* rows, int n, int C) {
    int i = warp_index();
    float sum = 0.0f;
    if (i >= n) { return; }
    for (int c = lane_index(); c < C; c += WARP) { float a = (float)rows[(size_t)i * C + c]; sum += a * a; }
    sum = warp_sum(sum);
    if (lane_index() == 0) { norms[i] = sqrtf(sum); }
}

__global__ void scores2(float* cosine, const float* xnorm, const float* wnorm, const bf16* x, const float* W, int N, int C, int E) {
    int i = warp_index();
    if (i >= N) { return; }
    for (int e = 0; e < E; e++) {
        float dot = 0.0f;
        for (int c = lane_index(); c < C; c += WARP) { dot += value(x[(size_t)i * C + c]) * W[(size_t)e * C + c]; }
        dot = warp_sum(dot);
        if (lane_index() == 0) { cosine[(size_t)i * E + e] = dot / (xnorm[i] * wnorm[e]); }
    }
}

void rung2(const Shape* s) {
    norms2<<<blocks_for(s->N, 8), 256>>>(dxnorm, dx, s->N, s->C);
    norms2<<<blocks_for(s->E, 8), 256>>>(dwnorm, dW, s->E, s->C);
    scores2<<<blocks_for(s->N, 8), 256>>>(dcosine, dxnorm, dwnorm, dx, dW, s->N, s->C, s->E);
    choose1<<<blocks_for(s->N, 256), 256>>>(dopen, dk, dweight, dcosine, dG, s->N, s->E);
}

// ---- rung 3: all experts in one pass over x, the norm in the same pass, W in shared memory -------------------------
// A warp still has a token, but keeps 8 sums in registers: each x is loaded once for 8 experts and for |x|. The 8 warps of a block
// share CHUNK channels of 8 rows of W, loaded once for all of them. Two barriers for each chunk: all loaded; all done with it.

#define CHUNK 256
#define GROUP 8 // experts at once

__device__ inline void dots(float sum[GROUP], float* squares, float W_here[GROUP][CHUNK], const bf16* x, const float* W, int i,
                            int first, int N, int C, int E) {
    // sum (GROUP): this lane's part of <x_i, W_e> for e = first and on; squares: of |x_i|^2. All threads of the block take part
    *squares = 0.0f;
    for (int j = 0; j < GROUP; j++) { sum[j] = 0.0f; }
    for (int begin = 0; begin < C; begin += CHUNK) {
        __syncthreads(); // nobody reads the chunk before
        for (int n = threadIdx.x; n < GROUP * CHUNK; n += blockDim.x) {
            int e = first + n / CHUNK, c = begin + n % CHUNK;
            W_here[n / CHUNK][n % CHUNK] = e < E && c < C ? W[(size_t)e * C + c] : 0.0f;
        }
        __syncthreads(); // the chunk is there
        for (int c = begin + lane_index(); i < N && c < C && c < begin + CHUNK; c += WARP) {
            float a = value(x[(size_t)i * C + c]);
            *squares += a * a;
            for (int j = 0; j < GROUP; j++) { sum[j] += a * W_here[j][c - begin]; }
        }
    }
}

__global__ void scores3(float* cosine, const float* wnorm, const bf16* x, const float* W, int N, int C, int E) {
    __shared__ float W_here[GROUP][CHUNK];
    int i = warp_index();
    float sum[GROUP], squares;
    for (int first = 0; first < E; first += GROUP) {
        dots(sum, &squares, W_here, x, W, i, first, N, C, E);
        float norm = sqrtf(warp_sum(squares));
        for (int j = 0; j < GROUP; j++) {
            float dot = warp_sum(sum[j]);
            if (lane_index() == 0 && i < N && first + j < E) {
                cosine[(size_t)i * E + first + j] = dot / (norm * wnorm[first + j]);
            }
        }
    }
}

void rung3(const Shape* s) {
    norms2<<<blocks_for(s->E, 8), 256>>>(dwnorm, dW, s->E, s->C);
    scores3<<<blocks_for(s->N, 8), 256>>>(dcosine, dwnorm, dx, dW, s->N, s->C, s->E);
    choose1<<<blocks_for(s->N, 256), 256>>>(dopen, dk, dweight, dcosine, dG, s->N, s->E);
}

// once for each group of 8 experts: x, and for each block of 8 tokens W
double bytes_of_dots(const Shape* s) {
    return blocks_for(s->E, GROUP) * (2.0 * s->N * s->C) + blocks_for(s->N, 8) * 4.0 * s->E * s->C + 4.0 * s->E * s->C;
}
double bytes3(const Shape* s) { return bytes_of_dots(s) + outputs(s) + 16.0 * s->N * s->E; }

// ---- rung 4: the choice in the same kernel, by a vote --------------------------------------------------------------
// Lane e keeps the cosine of expert e. __ballot_sync asks all lanes "open?" and gives the 32 answers as bits of a number; its bits
// counted are k. cosine is not read again, and 32 lanes write neighbours. All fits in one kernel behind the norms of W.

__global__ void gate4(float* cosine, int* open, int* k, float* weight, const float* wnorm, const float* G, const bf16* x,
                      const float* W, int N, int C, int E) {
    __shared__ float W_here[GROUP][CHUNK];
    int i = warp_index(), lane = lane_index(), n = 0;
    float sum[GROUP], squares, mine[2] = {0.0f, 0.0f}; // cosines of experts lane and lane + 32
    for (int first = 0; first < E; first += GROUP) {
        dots(sum, &squares, W_here, x, W, i, first, N, C, E);
        float norm = sqrtf(warp_sum(squares));
        for (int j = 0; j < GROUP; j++) {
            float dot = warp_sum(sum[j]);
            if (lane == (first + j) % WARP && first + j < E) { mine[(first + j) / WARP] = dot / (norm * wnorm[first + j]); }
        }
    }
    unsigned votes[2];
    for (int h = 0; h < 2; h++) {
        int e = h * WARP + lane;
        votes[h] = __ballot_sync(ALL, e < E && mine[h] > G[e < E ? e : 0]);
        n += __popc(votes[h]);
    }
    if (i >= N) { return; }
    for (int h = 0; h < 2; h++) {
        int e = h * WARP + lane, is_open = votes[h] >> lane & 1;
        if (e >= E) { continue; }
        cosine[(size_t)i * E + e] = mine[h];
        open[(size_t)i * E + e] = is_open;
        weight[(size_t)i * E + e] = (float)is_open / (float)(n > 0 ? n : 1);
    }
    if (lane == 0) { k[i] = n; }
}

void rung4(const Shape* s) {
    norms2<<<blocks_for(s->E, 8), 256>>>(dwnorm, dW, s->E, s->C);
    gate4<<<blocks_for(s->N, 8), 256>>>(dcosine, dopen, dk, dweight, dwnorm, dG, dx, dW, s->N, s->C, s->E);
}
double bytes4(const Shape* s) { return bytes_of_dots(s) + outputs(s); }

// ---- the ladder ----------------------------------------------------------------------------------------------------

static const Rung rungs[] = {
    {"one thread for each token and expert", rung1, bytes1},
    {"one warp for each token", rung2, bytes1},
    {"8 experts in one pass, norm fused, W in shared memory", rung3, bytes3},
    {"the choice fused, by a vote", rung4, bytes4},
};
double least_bytes(const Shape* s) { return 2.0 * s->N * s->C + 4.0 * s->E * s->C + outputs(s); }
double flops(const Shape* s) { return 2.0 * s->N * s->C * (s->E + 1.0); }
static const char* const limits = "E is at most 64";
int fits(const Shape* s) { return s->E <= 64; }
static const Shape timed_shape = {65536, 768, 8, 0, 0, SOME};
static const Shape shapes[] = {{64, 64, 8, 0, 0, SOME}, {37, 301, 5, 0, 0, SOME}, {1, 1, 1, 0, 0, SOME}, 
    {33, 256, 40, 0, 0, SKEWED}, {19, 40, 64, 0, 0, SOME}, {20, 48, 3, 0, 0, NONE}, {20, 48, 9, 0, 0, ONE_FOR_ALL}};

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
