/*
From the gate's decisions to rows grouped by expert, from slow to fast. Stands alone: nvcc -O3 -std=c++17 dev/cuda/permute.cu
Without a GPU: dev/cuda_on_cpu/cudacpu-cc -o permute dev/cuda/permute.cu && ./permute

    open (N, E), 0 or 1; x (N, C) bf16.  row_of (N, E): the row of (token, expert) or -1;  row_token (R): its token, -1 for padding;
    offset (E + 1): where an expert's rows begin, each at a multiple of 128;  xr (R, C) = x[row_token], 0 for padding.
Within an expert rows stand in the order of tokens: the same in every run, so that sums over rows are the same bits.
The bound. Read open and write row_of (8NE bytes), write row_token (4R), read x once for each token (2NC), write xr (2RC). No FLOP
that count: memory is the bound. Counted is R = NE / 3, a third of the experts open, without padding.
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

// ---- the reference, and the inputs ---------------------------------------------------------------------------------

#define PAD 128
static bf16 *x, *dx, *dxr;
static int *open, *row_of, *row_token, *offset; // offset (E + 1)
static int *dopen, *drow_of, *drow_token, *doffset, *dcount, *dblock_count, room; // room: rows there is memory for

void setup(const Shape* s) {
    size_t NE = (size_t)s->N * s->E;
    room = (int)NE + s->E * PAD;
    open = (int*)host_room(NE * sizeof(int));
    for (size_t i = 0; i < NE; i++) { open[i] = chosen(s, (int)(i % s->E)); }
    x = random_bf16((size_t)s->N * s->C);
    dx = (bf16*)to_device(x, (size_t)s->N * s->C * sizeof(bf16));
    dopen = (int*)to_device(open, NE * sizeof(int));
    drow_of = (int*)device_room(NE * sizeof(int));
    drow_token = (int*)device_room(room * sizeof(int));
    doffset = (int*)device_room((s->E + 1) * sizeof(int));
    dcount = (int*)device_room(s->E * sizeof(int));
    dblock_count = (int*)device_room((size_t)blocks_for(s->N, 256) * s->E * sizeof(int));
    dxr = (bf16*)device_room((size_t)room * s->C * sizeof(bf16));
}

void reference(const Shape* s) {
    int R = 0;
    row_of = (int*)host_room((size_t)s->N * s->E * sizeof(int));
    row_token = (int*)host_room(room * sizeof(int));
    offset = (int*)host_room((s->E + 1) * sizeof(int));
    for (int r = 0; r < room; r++) { row_token[r] = -1; }
    for (int e = 0; e < s->E; e++) {
        offset[e] = R;
        for (int i = 0; i < s->N; i++) {
            int o = open[(size_t)i * s->E + e];
            row_of[(size_t)i * s->E + e] = o ? R : -1;
            if (o) { row_token[R++] = i; }
        }
        R = (R + PAD - 1) / PAD * PAD;
    }
    offset[s->E] = R;
}

void clear(const Shape* s) {
    poison(drow_of, (size_t)s->N * s->E * 4); poison(drow_token, room * 4); poison(doffset, (s->E + 1) * 4);
    poison(dxr, (size_t)room * s->C * 2);
}

void compare_all(const Shape* s, int rung) { // everything here is exact
    size_t NE = (size_t)s->N * s->E, RC = (size_t)offset[s->E] * s->C;
    int *o = (int*)host_room((s->E + 1) * 4), *of = (int*)host_room(NE * 4), *token = (int*)host_room(room * 4);
    int moved = 0, rows = 0;
    bf16* xr = (bf16*)host_room(RC * 2);
    CUDA(cudaMemcpy(o, doffset, (s->E + 1) * 4, cudaMemcpyDeviceToHost));
    CUDA(cudaMemcpy(of, drow_of, NE * 4, cudaMemcpyDeviceToHost));
    CUDA(cudaMemcpy(token, drow_token, room * 4, cudaMemcpyDeviceToHost));
    CUDA(cudaMemcpy(xr, dxr, RC * 2, cudaMemcpyDeviceToHost));
    for (int e = 0; e <= s->E; e++) { compare(o[e], offset[e], 0.5); }
    for (int i = 0; i < s->N; i++) {
        for (int e = 0; e < s->E; e++) {
            int got = of[(size_t)i * s->E + e], want = row_of[(size_t)i * s->E + e];
            if (rung > 1 || want < 0) { compare(got, want, 0.5); continue; }
            rows++; // atomics: some row of the expert, which names this token
            moved += got != want;
            compare(got >= offset[e] && got < offset[e + 1] && token[got] == i, 1.0, 0.5);
        }
    }
    for (int r = 0; r < offset[s->E]; r++) {
        if (rung > 1) { compare(token[r], row_token[r], 0.5); }
        for (int c = 0; c < s->C; c++) {
            float want = token[r] >= 0 && token[r] < s->N ? __bfloat162float(x[(size_t)token[r] * s->C + c]) : 0.0f;
            compare(__bfloat162float(xr[(size_t)r * s->C + c]), want, 1e-9);
        }
    }
    if (rung == 1) { printf("  by atomics %d of %d rows are not in the order of tokens\n", moved, rows); }
}

__global__ void fill(int* out, int number, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) { out[i] = number; }
}

__global__ void scan_counts(int* offset, const int* count, int E) { // one thread
    int row = 0;
    for (int e = 0; e < E; e++) { offset[e] = row; row += (count[e] + PAD - 1) / PAD * PAD; }
    offset[E] = row;
}

// ---- rung 1: one thread for each (token, expert), places by atomics ------------------------------------------------
// atomicAdd gives every open pair a place of its own, in the order in which threads happen to run: another run gives other rows,
// and every later sum over rows other bits. That is why the program does not do it. All N / 3 adds of an expert meet at one
// address. The copy: a thread has a row, so that lanes read and write 2C bytes apart.

__global__ void count1(int* count, const int* open, int N, int E) {
    size_t ie = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (ie < (size_t)N * E && open[ie]) { atomicAdd(&count[ie % E], 1); }
}

__global__ void place1(int* row_of, int* row_token, int* count, const int* offset, const int* open, int N, int E) {
    size_t ie = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (ie >= (size_t)N * E) { return; }
    int row = open[ie] ? offset[ie % E] + atomicAdd(&count[ie % E], 1) : -1;
    row_of[ie] = row;
    if (row >= 0) { row_token[row] = (int)(ie / E); }
}

__global__ void gather1(bf16* xr, const bf16* x, const int* row_token, const int* R, int C) {
    int r = blockIdx.x * blockDim.x + threadIdx.x;
    if (r >= *R) { return; }
    for (int c = 0; c < C; c++) {
        xr[(size_t)r * C + c] = row_token[r] >= 0 ? x[(size_t)row_token[r] * C + c] : __float2bfloat16(0.0f);
    }
}

void rung1(const Shape* s) {
    int NE = s->N * s->E;
    fill<<<blocks_for(room, 256), 256>>>(drow_token, -1, room);
    fill<<<blocks_for(s->E, 256), 256>>>(dcount, 0, s->E);
    count1<<<blocks_for(NE, 256), 256>>>(dcount, dopen, s->N, s->E);
    scan_counts<<<1, 1>>>(doffset, dcount, s->E);
    fill<<<blocks_for(s->E, 256), 256>>>(dcount, 0, s->E);
    place1<<<blocks_for(NE, 256), 256>>>(drow_of, drow_token, dcount, doffset, dopen, s->N, s->E);
    gather1<<<blocks_for(room, 256), 256>>>(dxr, dx, drow_token, doffset + s->E, s->C);
}

double rows_of(const Shape* s) { return s->N * (double)s->E / 3.0; }
double bytes1(const Shape* s) { // open twice, an atomic of 4 bytes twice for each row; x for each row instead of each token
    return 12.0 * s->N * s->E + 8.0 * rows_of(s) + 4.0 * (s->N + PAD) * s->E + (4.0 + 4.0 * s->C) * rows_of(s);
}

// ---- rung 2: one thread for each expert ----------------------------------------------------------------------------
// It walks over the tokens and counts on: the order is that of tokens, in every run. But E threads work, the others of the GPU
// wait, and each load depends on nothing that could hide its way to memory. The copy: a warp has a row, lanes stride over C.

__global__ void count2(int* count, const int* open, int N, int E) {
    int e = threadIdx.x, n = 0;
    for (int i = 0; e < E && i < N; i++) { n += open[(size_t)i * E + e]; }
    if (e < E) { count[e] = n; }
}

__global__ void place2(int* row_of, int* row_token, const int* offset, const int* open, int N, int E) {
    int e = threadIdx.x;
    if (e >= E) { return; }
    int row = offset[e];
    for (int i = 0; i < N; i++) {
        int o = open[(size_t)i * E + e];
        row_of[(size_t)i * E + e] = o ? row : -1;
        if (o) { row_token[row++] = i; }
    }
}

__global__ void gather2(bf16* xr, const bf16* x, const int* row_token, const int* R, int C) {
    int r = warp_index();
    if (r >= *R) { return; }
    int i = row_token[r];
    for (int c = lane_index(); c < C; c += WARP) { xr[(size_t)r * C + c] = i >= 0 ? x[(size_t)i * C + c] : __float2bfloat16(0.0f); }
}

void rung2(const Shape* s) {
    fill<<<blocks_for(room, 256), 256>>>(drow_token, -1, room);
    count2<<<1, 64>>>(dcount, dopen, s->N, s->E);
    scan_counts<<<1, 1>>>(doffset, dcount, s->E);
    place2<<<1, 64>>>(drow_of, drow_token, doffset, dopen, s->N, s->E);
    gather2<<<blocks_for(room, 8), 256>>>(dxr, dx, drow_token, doffset + s->E, s->C);
}
double bytes2(const Shape* s) { return 12.0 * s->N * s->E + 4.0 * (s->N + PAD) * s->E + (8.0 + 4.0 * s->C) * rows_of(s); }

// ---- rung 3: count, scan, place ------------------------------------------------------------------------------------
// One thread for each token. Its row: where its expert begins, plus the rows of earlier blocks, of earlier warps, of earlier lanes.
// __syncthreads_count and __ballot_sync count without atomics, so the order is that of tokens whatever runs first.

__global__ void count3(int* block_count, const int* open, int N, int E) { // block_count (blocks, E)
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    for (int e = 0; e < E; e++) {
        int n = __syncthreads_count(i < N && open[(size_t)i * E + e]);
        if (threadIdx.x == 0) { block_count[(size_t)blockIdx.x * E + e] = n; }
    }
}

__global__ void scan3(int* block_count, int* count, int blocks, int E) { // one thread for each expert: sums of earlier blocks
    int e = threadIdx.x, sum = 0;
    for (int b = 0; e < E && b < blocks; b++) {
        int n = block_count[(size_t)b * E + e];
        block_count[(size_t)b * E + e] = sum;
        sum += n;
    }
    if (e < E) { count[e] = sum; }
}

__global__ void place3(int* row_of, int* row_token, const int* block_count, const int* offset, const int* open, int N, int E) {
    __shared__ int warp_count[8];
    int i = blockIdx.x * blockDim.x + threadIdx.x, warp = threadIdx.x / WARP;
    for (int e = 0; e < E; e++) {
        int mine = i < N && open[(size_t)i * E + e];
        unsigned all = __ballot_sync(ALL, mine);
        if (lane_index() == 0) { warp_count[warp] = __popc(all); }
        __syncthreads();
        int row = offset[e] + block_count[(size_t)blockIdx.x * E + e] + __popc(all & ((1u << lane_index()) - 1));
        for (int w = 0; w < warp; w++) { row += warp_count[w]; }
        if (i < N) { row_of[(size_t)i * E + e] = mine ? row : -1; }
        if (mine) { row_token[row] = i; }
        __syncthreads(); // before warp_count is written again
    }
}

void place_rows(const Shape* s) {
    int blocks = blocks_for(s->N, 256);
    fill<<<blocks_for(room, 256), 256>>>(drow_token, -1, room);
    count3<<<blocks, 256>>>(dblock_count, dopen, s->N, s->E);
    scan3<<<1, 64>>>(dblock_count, dcount, blocks, s->E);
    scan_counts<<<1, 1>>>(doffset, dcount, s->E);
    place3<<<blocks, 256>>>(drow_of, drow_token, dblock_count, doffset, dopen, s->N, s->E);
}

void rung3(const Shape* s) {
    place_rows(s);
    gather2<<<blocks_for(room, 8), 256>>>(dxr, dx, drow_token, doffset + s->E, s->C);
}
double bytes3(const Shape* s) { return bytes2(s) + 16.0 * blocks_for(s->N, 256) * s->E; }

// ---- rung 4: the copy in pieces of 16 bytes ------------------------------------------------------------------------
// A lane moves 8 numbers with one load and one store: an eighth of the instructions, and more bytes under way at once. Only where
// C is a multiple of 8, so that every row begins at a multiple of 16 bytes.

__global__ void gather4(int4* xr, const int4* x, const int* row_token, const int* R, int C8) {
    int r = warp_index();
    if (r >= *R) { return; }
    int i = row_token[r];
    for (int c = lane_index(); c < C8; c += WARP) {
        xr[(size_t)r * C8 + c] = i >= 0 ? x[(size_t)i * C8 + c] : make_int4(0, 0, 0, 0);
    }
}

void rung4(const Shape* s) {
    place_rows(s);
    if (s->C % 8 == 0) {
        gather4<<<blocks_for(room, 8), 256>>>((int4*)dxr, (const int4*)dx, drow_token, doffset + s->E, s->C / 8);
    } else { gather2<<<blocks_for(room, 8), 256>>>(dxr, dx, drow_token, doffset + s->E, s->C); }
}

// ---- the ladder ----------------------------------------------------------------------------------------------------

static const Rung rungs[] = {
    {"places by atomics, one thread for each row", rung1, bytes1},
    {"one thread for each expert, one warp for each row", rung2, bytes2},
    {"count, scan, place", rung3, bytes3},
    {"rows in pieces of 16 bytes", rung4, bytes3},
};
double least_bytes(const Shape* s) { return 8.0 * s->N * s->E + 2.0 * s->N * s->C + (4.0 + 2.0 * s->C) * rows_of(s); }
double flops(const Shape* s) { (void)s; return 0.0; }
static const char* const limits = "E is at most 64";
int fits(const Shape* s) { return s->E <= 64; }
static const Shape timed_shape = {65536, 768, 8, 0, 0, SOME};
static const Shape shapes[] = {{300, 16, 8, 0, 0, SOME}, {257, 5, 3, 0, 0, SKEWED}, {1, 1, 1, 0, 0, ONE_FOR_ALL},
    {600, 3, 4, 0, 0, ONE_FOR_ALL}, {40, 8, 64, 0, 0, SKEWED}, {31, 8, 2, 0, 0, NONE}};

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
