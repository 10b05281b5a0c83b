/*
The weighted sum of what a token's experts said, from slow to fast. Stands alone: nvcc -O3 -std=c++17 dev/cuda/combine.cu
Without a GPU: dev/cuda_on_cpu/cudacpu-cc -o combine dev/cuda/combine.cu && ./combine

    residual (N, C) bf16, out (R, C) bf16, row_of (N, E): row of (token, expert) or -1, weight (N, E) float           paper, eq. (6)
    y (N, C) bf16 = residual + sum over the token's experts of weight * out[row_of]
The bound. Read residual and write y (4NC bytes), read each row once (2RC), read row_of and weight (8NE). 2 FLOP for 2 bytes of out:
memory is the bound. Counted is R = NE / 3, a third of the experts open.
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

static bf16 *out, *residual, *dout, *dresidual, *dy;
static float *weight, *dweight, *dsum;
static int *row_of, *row_token, *drow_of, *drow_token, *drow_expert, R;
static double *want, *size; // (N, C): what is right; the sum of absolute values

void setup(const Shape* s) {
    size_t NE = (size_t)s->N * s->E, NC = (size_t)s->N * s->C;
    int* row_expert = (int*)host_room(NE * sizeof(int));
    row_of = (int*)host_room(NE * sizeof(int));
    row_token = (int*)host_room(NE * sizeof(int));
    R = 0;
    for (int e = 0; e < s->E; e++) {
        for (int i = 0; i < s->N; i++) {
            int o = chosen(s, e);
            row_of[(size_t)i * s->E + e] = o ? R : -1;
            if (o) { row_expert[R] = e; row_token[R++] = i; }
        }
    }
    weight = random_floats(NE);
    residual = random_bf16(NC);
    out = random_bf16((size_t)R * s->C);
    drow_of = (int*)to_device(row_of, NE * sizeof(int));
    drow_token = (int*)to_device(row_token, NE * sizeof(int));
    drow_expert = (int*)to_device(row_expert, NE * sizeof(int));
    dweight = (float*)to_device(weight, NE * sizeof(float));
    dresidual = (bf16*)to_device(residual, NC * sizeof(bf16));
    dout = (bf16*)to_device(out, (size_t)R * s->C * sizeof(bf16));
    dsum = (float*)device_room(NC * sizeof(float));
    dy = (bf16*)device_room(NC * sizeof(bf16));
}

void reference(const Shape* s) {
    want = (double*)host_room((size_t)s->N * s->C * sizeof(double));
    size = (double*)host_room((size_t)s->N * s->C * sizeof(double));
    for (size_t ic = 0; ic < (size_t)s->N * s->C; ic++) {
        size_t i = ic / s->C, c = ic % s->C;
        want[ic] = __bfloat162float(residual[ic]);
        size[ic] = fabs(want[ic]);
        for (int e = 0; e < s->E; e++) {
            int r = row_of[i * s->E + e];
            double a = r >= 0 ? (double)weight[i * s->E + e] * __bfloat162float(out[(size_t)r * s->C + c]) : 0.0;
            want[ic] += a;
            size[ic] += fabs(a);
        }
    }
}

void clear(const Shape* s) {
    poison(dy, (size_t)s->N * s->C * 2);
    poison(dsum, (size_t)s->N * s->C * 4);
}

void compare_all(const Shape* s, int rung) {
    (void)rung;
    bf16* y = (bf16*)host_room((size_t)s->N * s->C * 2);
    CUDA(cudaMemcpy(y, dy, (size_t)s->N * s->C * 2, cudaMemcpyDeviceToHost));
    for (size_t ic = 0; ic < (size_t)s->N * s->C; ic++) { // E products and sums in float, then one rounding to bf16
        double sums = (2.0 * s->E + 2.0) * EPS * size[ic];
        compare(__bfloat162float(y[ic]), want[ic], sums + (fabs(want[ic]) + sums) / 256.0 + 1e-30);
    }
}

// ---- rung 1: scatter by atomics ------------------------------------------------------------------------------------
// One thread for each number of out, the way the rows lie: it adds its product to its token's sum. Which row comes first is chance,
// so other runs give other bits. The sums are float in memory, read and written by every row, and a second kernel rounds them.

__global__ void begin1(float* sum, const bf16* residual, size_t n) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) { sum[i] = value(residual[i]); }
}

__global__ void scatter1(float* sum, const bf16* out, const float* weight, const int* row_token, const int* row_expert, size_t n,
                         int C, int E) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) { return; }
    size_t r = i / C, token = row_token[r];
    atomicAdd(&sum[token * C + i % C], weight[token * E + row_expert[r]] * value(out[i]));
}

__global__ void end1(bf16* y, const float* sum, size_t n) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) { y[i] = __float2bfloat16(sum[i]); }
}

void rung1(const Shape* s) {
    size_t n = (size_t)s->N * s->C, rows = (size_t)R * s->C;
    begin1<<<blocks_for(n, 256), 256>>>(dsum, dresidual, n);
    if (R > 0) { scatter1<<<blocks_for(rows, 256), 256>>>(dsum, dout, dweight, drow_token, drow_expert, rows, s->C, s->E); }
    end1<<<blocks_for(n, 256), 256>>>(dy, dsum, n);
}

double rows_of(const Shape* s) { return s->N * (double)s->E / 3.0; }
double bytes1(const Shape* s) { return 12.0 * s->N * s->C + (2.0 + 8.0 + 12.0) * rows_of(s) * s->C; }

// ---- rung 2: gather, one warp for each token -----------------------------------------------------------------------
// Lanes stride over C, each adds the token's rows in the order of the experts: no atomics, the same bits always, the sum stays in a
// register. But row_of and weight are asked for again for every channel, 8 bytes for each of E experts, open or not.

__global__ void gather2(bf16* y, const bf16* residual, const bf16* out, const int* row_of, const float* weight, int N, int C,
                        int E) {
    int i = warp_index();
    if (i >= N) { return; }
    for (int c = lane_index(); c < C; c += WARP) {
        float sum = 0.0f;
        for (int e = 0; e < E; e++) {
            int r = row_of[(size_t)i * E + e];
            if (r >= 0) { sum += weight[(size_t)i * E + e] * value(out[(size_t)r * C + c]); }
        }
        y[(size_t)i * C + c] = __float2bfloat16(value(residual[(size_t)i * C + c]) + sum);
    }
}

void rung2(const Shape* s) {
    gather2<<<blocks_for(s->N, 8), 256>>>(dy, dresidual, dout, drow_of, dweight, s->N, s->C, s->E);
}
// the lanes of a warp ask for the same row_of and weight: counted once for 32 channels
double bytes2(const Shape* s) { return 4.0 * s->N * s->C + 2.0 * rows_of(s) * s->C + 8.0 * s->N * s->E * blocks_for(s->C, WARP); }

// ---- rung 3: 16 bytes at a time, rows and weights in registers -----------------------------------------------------
// A lane has 8 neighbouring channels: one load of 16 bytes for each row. Lane e reads row and weight of expert e once, a vote tells
// which experts are open, and shuffles hand their rows to all lanes. Where C is not a multiple of 8, one channel at a time.

template <int W> struct Piece { bf16 of[W]; };
template <> struct alignas(16) Piece<8> { bf16 of[8]; };

template <int W>
__global__ void gather3(bf16* y, const bf16* residual, const bf16* out, const int* row_of, const float* weight, int N, int C,
                        int E) {
    int i = warp_index(), lane = lane_index();
    if (i >= N) { return; }
    int row[2];
    float w[2];
    unsigned open[2];
    for (int h = 0; h < 2; h++) { // experts lane and lane + 32
        int e = h * WARP + lane;
        row[h] = e < E ? row_of[(size_t)i * E + e] : -1;
        w[h] = e < E ? weight[(size_t)i * E + e] : 0.0f;
        open[h] = __ballot_sync(ALL, row[h] >= 0);
    }
    for (int begin = 0; begin < C; begin += W * WARP) { // all lanes stay, shuffles need them
        int c = begin + lane * W;
        float sum[W] = {};
        Piece<W> piece;
        for (int h = 0; h < 2; h++) {
            for (unsigned left = open[h]; left != 0; left &= left - 1) { // the lowest bit, then without it
                int from = __ffs(left) - 1, r = __shfl_sync(ALL, row[h], from);
                float by = __shfl_sync(ALL, w[h], from);
                if (c >= C) { continue; }
                piece = *(const Piece<W>*)(out + (size_t)r * C + c);
                for (int j = 0; j < W; j++) { sum[j] += by * value(piece.of[j]); }
            }
        }
        if (c >= C) { continue; }
        piece = *(const Piece<W>*)(residual + (size_t)i * C + c);
        for (int j = 0; j < W; j++) { piece.of[j] = __float2bfloat16(value(piece.of[j]) + sum[j]); }
        *(Piece<W>*)(y + (size_t)i * C + c) = piece;
    }
}

void rung3(const Shape* s) {
    int blocks = blocks_for(s->N, 8);
    if (s->C % 8 == 0) { gather3<8><<<blocks, 256>>>(dy, dresidual, dout, drow_of, dweight, s->N, s->C, s->E); }
    else { gather3<1><<<blocks, 256>>>(dy, dresidual, dout, drow_of, dweight, s->N, s->C, s->E); }
}

// ---- the ladder ----------------------------------------------------------------------------------------------------

double least_bytes(const Shape* s) { return 4.0 * s->N * s->C + 2.0 * rows_of(s) * s->C + 8.0 * s->N * s->E; }
double flops(const Shape* s) { return (2.0 * rows_of(s) + s->N) * s->C; }
static const Rung rungs[] = {
    {"scatter by atomics", rung1, bytes1},
    {"gather, one warp for each token", rung2, bytes2},
    {"16 bytes at a time, rows by vote and shuffle", rung3, least_bytes},
};
static const char* const limits = "E is at most 64";
int fits(const Shape* s) { return s->E <= 64; }
static const Shape timed_shape = {65536, 768, 8, 0, 0, SOME};
static const Shape shapes[] = {{50, 64, 8, 0, 0, SOME}, {37, 301, 5, 0, 0, SKEWED}, {1, 1, 1, 0, 0, ONE_FOR_ALL},
    {9, 520, 64, 0, 0, SOME}, {40, 24, 4, 0, 0, ONE_FOR_ALL}, {31, 8, 2, 0, 0, NONE}};

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
