/*
A GPT-2 whose feed-forward layers are DynMoE layers, trained on the CPU: the whole algorithm in one file.

DynMoE (Guo, Cheng, Tang, Tu, Lin: "Dynamic Mixture of Experts", ICLR 2025, arXiv 2405.14297): every token picks its own
number of experts, and experts are added and removed while training runs. This file is the reference that everything else
here is checked against. It reads from top to bottom: tools, layers (x_forward beside x_backward), the DynMoE layer, the
adaptive process, the model, files, data, flags, training. Equation numbers are the paper's.

    make train                                   trains the default model and shows what the experts learned
    ./train_gpt2_dynmoe --data FILE --out DIR    trains on any text (bytes) or on llm.c token shards (.bin)
    ./train_gpt2_dynmoe --help                   all flags

The letters, here and in every file of this project:
    B sequences in a batch, T tokens in a sequence, N = B*T tokens, C channels, V vocabulary, Vp = V padded to 128,
    L layers, NH heads, HS = C/NH, H hidden width of a feed-forward layer, E experts in the pool (active or not),
    R routed rows: one row for each pair (token, expert that it uses), sum of k over the tokens.
All matrices are row-major; a linear layer is y = x W^T + b with W stored (out, in). Everything is fp32.
Gradients of parameters are added to what is there; gradients of activations are overwritten unless the name says add.

Same seed, same machine, same number of threads: the same bits. Another BLAS, CPU or thread count changes rounding.

Caveats: the CPU only (train_gpt2_dynmoe.cu is for GPUs); attention keeps its (T, T) matrices; no dropout; text
is read as bytes. The gate's straight-through gradient is a heuristic, not the gradient of the loss: see gate_backward.
*/
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <float.h>
#include <glob.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef USE_BLAS
#ifdef USE_ACCELERATE
#include <Accelerate/Accelerate.h>
#else
#include <cblas.h>
#endif
#endif
#ifndef BLAS_NAME
#define BLAS_NAME "plain loops (slow: install OpenBLAS, then make clean)"
#endif
#ifndef COMMIT
#define COMMIT "unknown"
#endif
#define MAX_LAYERS 128
#define MAX_EXPERTS 64

// ----------------------------------------------------------------------------------------------------------------------
// Tools: errors, memory, random numbers

__attribute__((noreturn)) void fail(int code, const char* hint, const char* fmt, va_list args) {
    fflush(stdout);
    fprintf(stderr, "error: ");
    vfprintf(stderr, fmt, args);
    fprintf(stderr, "\n");
    if (hint != NULL) { fprintf(stderr, "---> HINT: %s\n", hint); }
    exit(code);
}

// one clear line, what to do, exit code 1
__attribute__((noreturn, format(printf, 2, 3))) void die(const char* hint, const char* fmt, ...) {
    va_list args;
    va_start(args, fmt);
    fail(1, hint, fmt, args);
}

// the same for a wrong command line, exit code 2
__attribute__((noreturn, format(printf, 2, 3))) void die_usage(const char* hint, const char* fmt, ...) {
    va_list args;
    va_start(args, fmt);
    fail(2, hint, fmt, args);
}

// zeroed memory for n items of the given size, or one clear line
void* alloc_zeroed(size_t n, size_t size, const char* what) {
    void* p = calloc(n ? n : 1, size);
    if (p == NULL) {
        die("lower --batch, --context, --channels or --experts", "no memory for %s (%.1f MB)", what, 1e-6 * (double)n * (double)size);
    }
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

// one seed for everything: independent streams for the weights (0), the batches (1) and the samples (2)
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

int threads_count(void) {
#ifdef _OPENMP
    return omp_in_parallel() ? 1 : omp_get_max_threads();
#else
    return 1;
#endif
}

// The one place that sets threads: matmul() below cuts its work into slices, one serial sgemm each, so BLAS gets 1 thread
// and OpenMP all of them. (Two thread pools, one of BLAS and one of OpenMP, fight each other for the cores.)
void threads_set(int n) {
#if defined(USE_BLAS) && defined(OPENBLAS_VERSION)
    openblas_set_num_threads(1);
#endif
#ifdef _OPENMP
    omp_set_num_threads(n > 0 ? n : omp_get_num_procs());
#endif
    (void)n;
}

// ----------------------------------------------------------------------------------------------------------------------
// Matrix multiplication. Everything else in this file is cheap beside it.

// out (M, N; rows ldo apart) = alpha * op(a) op(b) + beta * out, in one thread
// op(a) is (M, K): a itself, or with ta the transpose of a (K, M). op(b) is (K, N): b, or with tb the transpose of b (N, K).
void sgemm(float* out, int ldo, const float* a, int lda, int ta, const float* b, int ldb, int tb,
           int M, int N, int K, float alpha, float beta) {
    if (M == 0 || N == 0) { return; }
#ifdef USE_BLAS
    cblas_sgemm(CblasRowMajor, ta ? CblasTrans : CblasNoTrans, tb ? CblasTrans : CblasNoTrans, M, N, K, alpha, a, lda, b, ldb, beta, out, ldo);
#else
    for (int i = 0; i < M; i++) {
        float* o = out + (size_t)i * ldo;
        for (int j = 0; j < N; j++) { o[j] = beta == 0.0f ? 0.0f : beta * o[j]; }
        for (int j = 0; tb && j < N; j++) {     // rows of a times rows of b: dot products
            float sum = 0.0f;
            for (int p = 0; p < K; p++) { sum += (ta ? a[(size_t)p * lda + i] : a[(size_t)i * lda + p]) * b[(size_t)j * ldb + p]; }
            o[j] += alpha * sum;
        }
        for (int p = 0; !tb && p < K; p++) {    // a number of a times a row of b, added to a row of out
            float x = alpha * (ta ? a[(size_t)p * lda + i] : a[(size_t)i * lda + p]);
            for (int j = 0; j < N; j++) { o[j] += x * b[(size_t)p * ldb + j]; }
        }
    }
#endif
}

// out (M, N) = op(a) op(b) + beta * out on all cores: the larger side of out is cut into one slice per thread
void matmul(float* out, const float* a, int ta, const float* b, int tb, int M, int N, int K, float beta) {
    int lda = ta ? M : K, ldb = tb ? K : N, side = M >= N ? M : N;
    int slices = (double)M * N * K < 30000.0 ? 1 : threads_count();
    int width = (side / slices + 15) / 16 * 16; // whole vectors
    if (slices == 1) { width = side; }
    #pragma omp parallel for schedule(static) if (slices > 1)
    for (int s = 0; s < slices; s++) {
        int begin = s * width < side ? s * width : side, end = s == slices - 1 || begin + width > side ? side : begin + width;
        if (M >= N) {
            sgemm(out + (size_t)begin * N, N, ta ? a + begin : a + (size_t)begin * K, lda, ta, b, ldb, tb, end - begin, N, K, 1.0f, beta);
        } else {
            sgemm(out + begin, N, a, lda, ta, tb ? b + (size_t)begin * K : b + begin, ldb, tb, M, end - begin, K, 1.0f, beta);
        }
    }
}

void matmul_forward(float* out, const float* inp, const float* weight, const float* bias, int N, int C, int OC) {
    // inp (N, C), weight (OC, C), bias (OC) or NULL -> out (N, OC) = inp weight^T + bias
    if (bias != NULL) {
        #pragma omp parallel for schedule(static)
        for (int i = 0; i < N; i++) { memcpy(out + (size_t)i * OC, bias, (size_t)OC * sizeof(float)); }
    }
    matmul(out, inp, 0, weight, 1, N, OC, C, bias != NULL ? 1.0f : 0.0f);
}

void matmul_backward(float* dinp, float* dweight, float* dbias, const float* dout, const float* inp, const float* weight,
                     int N, int C, int OC) {
    // forward: out = inp weight^T + bias
    // dout (N, OC) -> dinp (N, C) overwritten; dweight (OC, C), dbias (OC) or NULL added
    matmul(dinp, dout, 0, weight, 0, N, C, OC, 0.0f);
    matmul(dweight, dout, 1, inp, 0, OC, C, N, 1.0f);
    if (dbias == NULL) { return; }
    #pragma omp parallel for schedule(static)
    for (int o0 = 0; o0 < OC; o0 += 64) { // a thread owns 64 columns and adds rows in order: same bits for any thread count
        for (int i = 0; i < N; i++) {
            for (int o = o0; o < OC && o < o0 + 64; o++) { dbias[o] += dout[(size_t)i * OC + o]; }
        }
    }
}

// ----------------------------------------------------------------------------------------------------------------------
// The other layers of a GPT-2

// e^x for loops that have to vectorise, which expf of libm prevents. x = n ln 2 + r, e^x = 2^n e^r, e^r by a polynomial.
// Relative error < 1e-7 for |x| < 87 (a test measures it); below -87 it stays at e^-87, above 88 at e^88.
static inline float exp_fast(float x) {
    x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    float shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number, kept in the low bits
    float n = shifted - 12582912.0f;
    float r = x - n * 0.693359375f + n * 2.12194440e-4f; // ln 2 in two parts: the first product is exact
    float p = 0.5f + r * (1.6666665e-1f + r * (4.1665796e-2f + r * (8.3334519e-3f + r * (1.3981999e-3f + r * 1.9875692e-4f))));
    p = 1.0f + r + r * r * p;
    int32_t bits;
    memcpy(&bits, &p, sizeof bits);
    bits += (int32_t)n * (1 << 23);                 // times 2^n
    memcpy(&p, &bits, sizeof bits);
    return p;
}

void embedding_forward(float* out, const int* tokens, const float* wte, const float* wpe, int B, int T, int C) {
    // tokens (B, T), wte (Vp, C), wpe (T, C) -> out (B, T, C) = wte[token] + wpe[t]
    #pragma omp parallel for schedule(static)
    for (int i = 0; i < B * T; i++) {
        const float* e = wte + (size_t)tokens[i] * C;
        const float* p = wpe + (size_t)(i % T) * C;
        for (int c = 0; c < C; c++) { out[(size_t)i * C + c] = e[c] + p[c]; }
    }
}

void embedding_backward(float* dwte, float* dwpe, const float* dout, const int* tokens, int B, int T, int C) {
    // forward: out = wte[token] + wpe[t]. One thread: several tokens may hit the same row.
    for (int i = 0; i < B * T; i++) {
        float* de = dwte + (size_t)tokens[i] * C;
        float* dp = dwpe + (size_t)(i % T) * C;
        const float* d = dout + (size_t)i * C;
        for (int c = 0; c < C; c++) { de[c] += d[c]; dp[c] += d[c]; }
    }
}

void layernorm_forward(float* out, float* mean, float* rstd, const float* inp, const float* weight, const float* bias, int N, int C) {
    // inp (N, C) -> out (N, C) = (inp - mean) * rstd * weight + bias; mean, rstd (N) are kept for backward
    #pragma omp parallel for schedule(static)
    for (int i = 0; i < N; i++) {
        const float* x = inp + (size_t)i * C;
        float* o = out + (size_t)i * C;
        float sum = 0.0f, var = 0.0f;
        #pragma omp simd reduction(+:sum)
        for (int c = 0; c < C; c++) { sum += x[c]; }
        float m = sum / (float)C;
        #pragma omp simd reduction(+:var)
        for (int c = 0; c < C; c++) { var += (x[c] - m) * (x[c] - m); }
        float r = 1.0f / sqrtf(var / (float)C + 1e-5f);
        for (int c = 0; c < C; c++) { o[c] = (x[c] - m) * r * weight[c] + bias[c]; }
        mean[i] = m;
        rstd[i] = r;
    }
}

void layernorm_backward_add(float* dinp, float* dweight, float* dbias, const float* dout, const float* inp, const float* mean,
                            const float* rstd, const float* weight, int N, int C) {
    // forward: norm = (inp - mean) * rstd; out = norm * weight + bias
    // dout (N, C) -> added to dinp (N, C), which already holds the gradient of the residual path
    #pragma omp parallel for schedule(static)
    for (int i = 0; i < N; i++) {
        const float* x = inp + (size_t)i * C;
        const float* d = dout + (size_t)i * C;
        float* dx = dinp + (size_t)i * C;
        float a = 0.0f, b = 0.0f; // means of dnorm and of dnorm * norm: what the mean and the variance take away
        #pragma omp simd reduction(+:a, b)
        for (int c = 0; c < C; c++) {
            float dnorm = d[c] * weight[c];
            a += dnorm;
            b += dnorm * (x[c] - mean[i]) * rstd[i];
        }
        a /= (float)C;
        b /= (float)C;
        for (int c = 0; c < C; c++) { dx[c] += (d[c] * weight[c] - a - (x[c] - mean[i]) * rstd[i] * b) * rstd[i]; }
    }
    #pragma omp parallel for schedule(static)
    for (int c0 = 0; c0 < C; c0 += 64) {
        for (int i = 0; i < N; i++) {
            for (int c = c0; c < C && c < c0 + 64; c++) {
                float d = dout[(size_t)i * C + c];
                dweight[c] += d * (inp[(size_t)i * C + c] - mean[i]) * rstd[i];
                dbias[c] += d;
            }
        }
    }
}

#define QUERY_BLOCK 64 // attention works on 64 queries at a time, so that most of the upper, masked half is never computed

void softmax_row(float* row, int valid, int width) {
    // row[0..valid) -> softmax; the masked rest up to width becomes 0
    float max = -FLT_MAX, sum = 0.0f;
    for (int j = 0; j < valid; j++) { max = row[j] > max ? row[j] : max; } // subtracted so that exp cannot overflow
    #pragma omp simd reduction(+:sum)
    for (int j = 0; j < valid; j++) {
        row[j] = exp_fast(row[j] - max);
        sum += row[j];
    }
    for (int j = 0; j < width; j++) { row[j] = j < valid ? row[j] / sum : 0.0f; }
}

void attention_forward(float* out, float* att, const float* qkv, int B, int T, int C, int NH, int causal) {
    // qkv (B, T, 3C): q, k, v side by side, NH heads of HS = C/NH channels in each
    // att (B, NH, T, T) = softmax(q k^T / sqrt(HS)), kept for backward; out (B, T, C) = att v
    int HS = C / NH;
    #pragma omp parallel for collapse(2) schedule(static)
    for (int b = 0; b < B; b++) {
        for (int h = 0; h < NH; h++) {
            const float* q = qkv + (size_t)b * T * 3 * C + h * HS;
            const float* k = q + C;
            const float* v = k + C;
            for (int t0 = 0; t0 < T; t0 += QUERY_BLOCK) {
                int rows = T - t0 < QUERY_BLOCK ? T - t0 : QUERY_BLOCK, width = causal ? t0 + rows : T;
                float* a = att + (((size_t)b * NH + h) * T + t0) * T;
                sgemm(a, T, q + (size_t)t0 * 3 * C, 3 * C, 0, k, 3 * C, 1, rows, width, HS, 1.0f / sqrtf((float)HS), 0.0f);
                for (int i = 0; i < rows; i++) { softmax_row(a + (size_t)i * T, causal ? t0 + i + 1 : T, width); }
                sgemm(out + ((size_t)b * T + t0) * C + h * HS, C, a, T, 0, v, 3 * C, 0, rows, HS, width, 1.0f, 0.0f);
            }
        }
    }
}

void attention_backward(float* dqkv, float* datt, const float* dout, const float* att, const float* qkv, int B, int T, int C, int NH, int causal) {
    // forward: att = softmax(q k^T / sqrt(HS)); out = att v
    // dout (B, T, C) -> dqkv (B, T, 3C) overwritten; datt (B, NH, QUERY_BLOCK, T) is scratch
    int HS = C / NH, last = (T - 1) / QUERY_BLOCK * QUERY_BLOCK;
    #pragma omp parallel for collapse(2) schedule(static)
    for (int b = 0; b < B; b++) {
        for (int h = 0; h < NH; h++) {
            size_t head = (size_t)b * T * 3 * C + h * HS;
            const float *q = qkv + head, *k = q + C, *v = k + C;
            float *dq = dqkv + head, *dk = dq + C, *dv = dk + C;
            float* da = datt + ((size_t)b * NH + h) * QUERY_BLOCK * T;
            for (int t0 = last; t0 >= 0; t0 -= QUERY_BLOCK) { // from the end: its keys are all keys, so the first write is complete
                int rows = T - t0 < QUERY_BLOCK ? T - t0 : QUERY_BLOCK, width = causal ? t0 + rows : T;
                const float* a = att + (((size_t)b * NH + h) * T + t0) * T;
                const float* d = dout + ((size_t)b * T + t0) * C + h * HS;
                float beta = t0 == last ? 0.0f : 1.0f, scale = 1.0f / sqrtf((float)HS);
                sgemm(dv, 3 * C, a, T, 1, d, C, 0, width, HS, rows, 1.0f, beta);                      // dv += att^T dout
                sgemm(da, T, d, C, 0, v, 3 * C, 1, rows, width, HS, 1.0f, 0.0f);                      // datt = dout v^T
                for (int i = 0; i < rows; i++) {                                                      // through the softmax
                    float sum = 0.0f;
                    #pragma omp simd reduction(+:sum)
                    for (int j = 0; j < width; j++) { sum += a[(size_t)i * T + j] * da[(size_t)i * T + j]; }
                    for (int j = 0; j < width; j++) { da[(size_t)i * T + j] = a[(size_t)i * T + j] * (da[(size_t)i * T + j] - sum); }
                }
                sgemm(dq + (size_t)t0 * 3 * C, 3 * C, da, T, 0, k, 3 * C, 0, rows, HS, width, scale, 0.0f);
                sgemm(dk, 3 * C, da, T, 1, q + (size_t)t0 * 3 * C, 3 * C, 0, width, HS, rows, scale, beta);
            }
        }
    }
}

#define GELU_U(x) (1.5957691216f * ((x) + 0.044715f * (x) * (x) * (x))) // 2 sqrt(2/pi) (x + 0.044715 x^3)

void gelu_forward(float* out, const float* inp, size_t n) {
    // 0.5 x (1 + tanh(u/2)) = x / (1 + e^-u), u = GELU_U(x): GPT-2's tanh form
    #pragma omp parallel for simd schedule(static)
    for (size_t i = 0; i < n; i++) { out[i] = inp[i] / (1.0f + exp_fast(-GELU_U(inp[i]))); }
}

void gelu_backward(float* dinp, const float* dout, const float* inp, size_t n) {
    // forward: out = x s(u), s(u) = 1 / (1 + e^-u). dinp may be dout.
    #pragma omp parallel for simd schedule(static)
    for (size_t i = 0; i < n; i++) {
        float x = inp[i], s = 1.0f / (1.0f + exp_fast(-GELU_U(x)));
        float du = 1.5957691216f * (1.0f + 3.0f * 0.044715f * x * x);
        dinp[i] = dout[i] * (s + x * s * (1.0f - s) * du);
    }
}

void residual_forward(float* out, const float* a, const float* b, size_t n) {
    // its backward needs no function: the gradient of out is the gradient of a and of b
    #pragma omp parallel for simd schedule(static)
    for (size_t i = 0; i < n; i++) { out[i] = a[i] + b[i]; }
}

void crossentropy_forward(float* losses, float* lse, const float* logits, const int* targets, int N, int V, int Vp) {
    // logits (N, Vp), targets (N) -> losses (N) = -log softmax(logits)[target] in nats, over the first V columns
    // lse (N) = log sum exp(logits), kept for backward
    #pragma omp parallel for schedule(static)
    for (int i = 0; i < N; i++) {
        const float* z = logits + (size_t)i * Vp;
        float max = -FLT_MAX, sum = 0.0f;
        for (int v = 0; v < V; v++) { max = z[v] > max ? z[v] : max; }
        #pragma omp simd reduction(+:sum)
        for (int v = 0; v < V; v++) { sum += exp_fast(z[v] - max); }
        lse[i] = max + logf(sum);
        losses[i] = lse[i] - z[targets[i]];
    }
}

void crossentropy_backward(float* logits, const float* lse, const int* targets, float scale, int N, int V, int Vp) {
    // forward: loss = lse - logits[target]. In place: logits (N, Vp) become scale * their gradient; padded columns get none
    #pragma omp parallel for schedule(static)
    for (int i = 0; i < N; i++) {
        float* z = logits + (size_t)i * Vp;
        for (int v = 0; v < V; v++) { z[v] = scale * exp_fast(z[v] - lse[i]); }
        for (int v = V; v < Vp; v++) { z[v] = 0.0f; }
        z[targets[i]] -= scale;
    }
}

// ----------------------------------------------------------------------------------------------------------------------
// The DynMoE layer. Input x (N, C) is the ln2 output; it goes to the gate and to the experts.
//   gate       which experts does each token use?         cosine, open, k
//   dispatch   one row for each (token, open expert)       row_of, row_token, offset
//   experts    a GPT-2 feed-forward layer on each row      xr -> pre -> act -> out
//   combine    mean over the rows of each token            y
// Symbols of the paper: W (E, C) gate matrix, G (E) thresholds, m (E) mask of the pool (1 = active), tau temperature.

#define NORM_EPS 1e-8f // a row of x or W shorter than this has no direction: cosine 0, no gradient

static inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

float norm_of(const float* x, int n) { // |x|
    float sum = 0.0f;
    #pragma omp simd reduction(+:sum)
    for (int i = 0; i < n; i++) { sum += x[i] * x[i]; }
    return sqrtf(sum);
}

int gate_forward(int* open, int* k, float* cosine, float* xnorm, float* wnorm, const float* x, const float* W, const float* G,
                 const int* mask, int fallback, int N, int C, int E) {
    // x (N, C), W (E, C), G (E), mask (E) ->
    //   cosine (N, E) = <x, W_e> / (|x| |W_e|), of inactive experts too; xnorm (N), wnorm (E)             eq. (3)
    //   open (N, E) = 1 where an active expert's cosine is above its threshold. The paper compares sigmoid(tau cosine) with
    //       sigmoid(tau G); sigmoid and tau > 0 keep the order, so no decision depends on them              eq. (4), (5)
    //   k (N) = number of open experts; returns how many tokens have k = 0
    // With fallback (evaluation) a token with k = 0 opens the active expert of largest cosine; its k stays 0.
    int unrouted = 0;
    matmul(cosine, x, 0, W, 1, N, E, C, 0.0f);
    for (int e = 0; e < E; e++) { wnorm[e] = norm_of(W + (size_t)e * C, C); }
    #pragma omp parallel for schedule(static) reduction(+:unrouted)
    for (int i = 0; i < N; i++) {
        int best = -1;
        xnorm[i] = norm_of(x + (size_t)i * C, C);
        k[i] = 0;
        for (int e = 0; e < E; e++) {
            size_t ie = (size_t)i * E + e;
            cosine[ie] /= fmaxf(xnorm[i], NORM_EPS) * fmaxf(wnorm[e], NORM_EPS);
            open[ie] = mask[e] && cosine[ie] > G[e];
            k[i] += open[ie];
            if (mask[e] && (best < 0 || cosine[ie] > cosine[(size_t)i * E + best])) { best = e; }
        }
        if (k[i] == 0) {
            unrouted++;
            if (fallback && best >= 0) { open[(size_t)i * E + best] = 1; }
        }
    }
    return unrouted;
}

void gate_backward_add(float* dx, float* dW, float* dG, float* dgate, const int* open, const float* cosine, const float* xnorm,
                       const float* wnorm, const float* x, const float* W, const float* G, float tau, int N, int C, int E) {
    // forward: p = sigmoid(tau cosine); q = sigmoid(tau G); a = p - q; gate = sign(relu(a))
    // dgate (N, E) = dL/dgate, 0 for closed gates -> added to dx (N, C), dW (E, C), dG (E). dgate is used as scratch.
    // Straight-through: the derivative of sign is taken as 1; relu passes open gates only, so a closed gate learns nothing.
    for (int e = 0; e < E; e++) {
        float q = sigmoid(tau * G[e]);
        double sum_da = 0.0, sum_dc_c = 0.0;
        for (int i = 0; i < N; i++) {
            size_t ie = (size_t)i * E + e;
            if (!open[ie]) { dgate[ie] = 0.0f; continue; }
            float p = sigmoid(tau * cosine[ie]);
            float dc = tau * dgate[ie] * p * (1.0f - p);                  // dL/dcosine
            sum_da += dgate[ie];
            sum_dc_c += dc * cosine[ie];
            int directions = xnorm[i] > NORM_EPS && wnorm[e] > NORM_EPS;  // a zero vector has none: no gradient, no NaN
            dgate[ie] = directions ? dc / (xnorm[i] * wnorm[e]) : 0.0f;
        }
        dG[e] -= tau * q * (1.0f - q) * (float)sum_da;
        if (wnorm[e] <= NORM_EPS) { continue; }
        for (int c = 0; c < C; c++) { dW[(size_t)e * C + c] -= (float)sum_dc_c * W[(size_t)e * C + c] / (wnorm[e] * wnorm[e]); }
    }
    // d cosine / dW_e = (u - cosine v) / |W_e| and d cosine / dx = (v - cosine u) / |x| with unit vectors u = x/|x|, v = W_e/|W_e|
    matmul(dW, dgate, 1, x, 0, E, C, N, 1.0f);
    matmul(dx, dgate, 0, W, 0, N, C, E, 1.0f);
    #pragma omp parallel for schedule(static)
    for (int i = 0; i < N; i++) {
        if (xnorm[i] <= NORM_EPS) { continue; }
        float sum = 0.0f; // sum of dL/dcosine * cosine over the token's experts, over |x|^2
        for (int e = 0; e < E; e++) { sum += dgate[(size_t)i * E + e] * wnorm[e] / xnorm[i] * cosine[(size_t)i * E + e]; }
        for (int c = 0; c < C; c++) { dx[(size_t)i * C + c] -= sum * x[(size_t)i * C + c]; }
    }
}

int dispatch(int* row_of, int* row_token, int* offset, const int* open, int N, int E) {
    // open (N, E) -> rows grouped by expert, in token order within an expert: a permutation, no atomics, no padding
    // row_of (N, E) = row or -1, row_token (at most N*E) = token of the row, offset (E + 1) = first row of each expert
    // returns R, the number of rows
    int R = 0;
    for (int e = 0; e < E; e++) {
        offset[e] = R;
        for (int i = 0; i < N; i++) {
            row_of[(size_t)i * E + e] = -1;
            if (open[(size_t)i * E + e]) {
                row_token[R] = i;
                row_of[(size_t)i * E + e] = R++;
            }
        }
    }
    offset[E] = R;
    return R;
}

void gather_forward(float* xr, const float* x, const int* row_token, int R, int C) {
    // xr (R, C): row r is token row_token[r] of x (N, C)
    #pragma omp parallel for schedule(static)
    for (int r = 0; r < R; r++) { memcpy(xr + (size_t)r * C, x + (size_t)row_token[r] * C, (size_t)C * sizeof(float)); }
}

void gather_backward(float* dx, const float* dxr, const int* row_of, int N, int C, int E) {
    // forward: xr[row_of[i, e]] = x[i]. dxr (R, C) -> dx (N, C) = sum over the token's rows, 0 for a token without rows
    #pragma omp parallel for schedule(static)
    for (int i = 0; i < N; i++) {
        float* d = dx + (size_t)i * C;
        memset(d, 0, (size_t)C * sizeof(float));
        for (int e = 0; e < E; e++) {
            int r = row_of[(size_t)i * E + e];
            for (int c = 0; r >= 0 && c < C; c++) { d[c] += dxr[(size_t)r * C + c]; }
        }
    }
}

void experts_forward(float* out, float* pre, float* act, const float* xr, const float* fcw, const float* fcb, const float* fcprojw,
                     const float* fcprojb, const int* offset, int E, int C, int H) {
    // out (R, C) = gelu(xr fcw_e^T + fcb_e) fcprojw_e^T + fcprojb_e on the rows of expert e: offset[e] .. offset[e + 1]
    // xr (R, C), fcw (E, H, C), fcb (E, H), fcprojw (E, C, H), fcprojb (E, C); pre, act (R, H) are kept for backward
    // A dense feed-forward layer is one expert with all N rows. An expert without rows costs nothing.
    for (int e = 0; e < E; e++) {
        size_t r = (size_t)offset[e], HC = (size_t)H * C;
        int n = offset[e + 1] - offset[e];
        if (n == 0) { continue; }
        matmul_forward(pre + r * H, xr + r * C, fcw + e * HC, fcb + (size_t)e * H, n, C, H);
        gelu_forward(act + r * H, pre + r * H, (size_t)n * H);
        matmul_forward(out + r * C, act + r * H, fcprojw + e * HC, fcprojb + (size_t)e * C, n, H, C);
    }
}

void experts_backward(float* dxr, float* dpre, float* dfcw, float* dfcb, float* dfcprojw, float* dfcprojb, const float* dout, const float* xr,
                      const float* pre, const float* act, const float* fcw, const float* fcprojw, const int* offset, int E, int C, int H) {
    // forward: pre = xr fcw^T + fcb; act = gelu(pre); out = act fcprojw^T + fcprojb, expert by expert
    // dout (R, C) -> dxr (R, C), which may be dout; dpre (R, H) is scratch; weight gradients added
    for (int e = 0; e < E; e++) {
        size_t r = (size_t)offset[e], HC = (size_t)H * C;
        int n = offset[e + 1] - offset[e];
        if (n == 0) { continue; }
        matmul_backward(dpre + r * H, dfcprojw + e * HC, dfcprojb + (size_t)e * C, dout + r * C, act + r * H, fcprojw + e * HC, n, H, C);
        gelu_backward(dpre + r * H, dpre + r * H, pre + r * H, (size_t)n * H);
        matmul_backward(dxr + r * C, dfcw + e * HC, dfcb + (size_t)e * H, dpre + r * H, xr + r * C, fcw + e * HC, n, C, H);
    }
}

void combine_forward(float* y, const float* out, const int* row_of, const int* k, int N, int C, int E) {
    // y (N, C) = (1/k) sum of the token's rows of out (R, C): every chosen expert has the same weight             eq. (6)
    // k = 0 without fallback: no rows, y = 0, the token keeps its residual only. With fallback: one row, weight 1.
    #pragma omp parallel for schedule(static)
    for (int i = 0; i < N; i++) {
        float* o = y + (size_t)i * C;
        float weight = 1.0f / (float)(k[i] > 0 ? k[i] : 1);
        memset(o, 0, (size_t)C * sizeof(float));
        for (int e = 0; e < E; e++) {
            int r = row_of[(size_t)i * E + e];
            for (int c = 0; r >= 0 && c < C; c++) { o[c] += weight * out[(size_t)r * C + c]; }
        }
    }
}

void combine_backward(float* dout, float* dgate, const float* dy, const float* out, const int* row_of, const int* k,
                      int normalised, int N, int C, int E) {
    // forward: y = sum_e gate_e out_e / k, gate_e in {0, 1}
    // dy (N, C) -> dout (R, C) = dy / k on every row; dgate (N, E) = dL/dgate for open gates, 0 for closed ones:
    //   k detached   (the authors' code of today):        dgate_e = <dy, out_e> / k
    //   k normalised (k = sum of gates, differentiable):  the same minus its mean over the token's open gates
    #pragma omp parallel for schedule(static)
    for (int i = 0; i < N; i++) {
        const float* d = dy + (size_t)i * C;
        float weight = 1.0f / (float)(k[i] > 0 ? k[i] : 1), mean = 0.0f;
        for (int e = 0; e < E; e++) {
            int r = row_of[(size_t)i * E + e];
            float dot = 0.0f;
            #pragma omp simd reduction(+:dot)
            for (int c = 0; c < (r >= 0 ? C : 0); c++) {
                dout[(size_t)r * C + c] = weight * d[c];
                dot += weight * d[c] * out[(size_t)r * C + c];
            }
            dgate[(size_t)i * E + e] = dot;
            mean += weight * dot;
        }
        for (int e = 0; normalised && e < E; e++) {
            if (row_of[(size_t)i * E + e] >= 0) { dgate[(size_t)i * E + e] -= mean; }
        }
    }
}

// The four auxiliary terms (eq. (7) is the first two; the authors' repository of today has all four). Each has a weight.

float diversity_forward(float* A, const float* W, const float* wnorm, const int* mask, int C, int E) {
    // A (E, E) = <v_i, v_j> for i != j active, else 0, with v = W/|W|; returns its Frobenius norm (not squared)
    // (the diagonal <v, v> - 1 is 0 for every active row that has a direction)
    double sum = 0.0;
    for (int i = 0; i < E; i++) {
        for (int j = 0; j < E; j++) {
            double dot = 0.0;
            int both = i != j && mask[i] && mask[j] && wnorm[i] > NORM_EPS && wnorm[j] > NORM_EPS;
            for (int c = 0; both && c < C; c++) { dot += (double)W[(size_t)i * C + c] * W[(size_t)j * C + c]; }
            A[i * E + j] = both ? (float)(dot / ((double)wnorm[i] * wnorm[j])) : 0.0f;
            sum += (double)A[i * E + j] * A[i * E + j];
        }
    }
    return (float)sqrt(sum);
}

void diversity_backward(float* dW, const float* A, float F, const float* W, const float* wnorm, const int* mask, float weight, int C, int E) {
    // forward: F = sqrt(sum_ij A_ij^2). dv_i = (2/F) sum_j A_ij v_j; dW_i = weight (dv_i - v_i <v_i, dv_i>) / |W_i|, where
    // <v_i, dv_i> = (2/F) sum_j A_ij^2. Not squared, so the gradient is of length 2/|W| however small F is; 0 at F = 0.
    for (int i = 0; i < E && F > 0.0f; i++) {
        double along = 0.0;
        if (!mask[i] || wnorm[i] <= NORM_EPS) { continue; }
        for (int j = 0; j < E; j++) { along += (double)A[i * E + j] * A[i * E + j]; }
        for (int c = 0; c < C; c++) {
            double dv = -along * W[(size_t)i * C + c] / wnorm[i];
            for (int j = 0; j < E; j++) {
                if (A[i * E + j] != 0.0f) { dv += (double)A[i * E + j] * W[(size_t)j * C + c] / wnorm[j]; }
            }
            dW[(size_t)i * C + c] += (float)(weight * 2.0 / F * dv / wnorm[i]);
        }
    }
}

float simplicity_forward(const float* wnorm, const int* mask, int E) {
    // mean |W_e| over the active rows
    float sum = 0.0f;
    int active = 0;
    for (int e = 0; e < E; e++) { if (mask[e]) { sum += wnorm[e]; active++; } }
    return active > 0 ? sum / (float)active : 0.0f;
}

void simplicity_backward(float* dW, const float* W, const float* wnorm, const int* mask, float weight, int C, int E) {
    // forward: mean |W_e|. dW_e = weight v_e / number of active rows
    int active = 0;
    for (int e = 0; e < E; e++) { active += mask[e]; }
    for (int e = 0; e < E; e++) {
        if (!mask[e] || wnorm[e] <= NORM_EPS) { continue; }
        for (int c = 0; c < C; c++) { dW[(size_t)e * C + c] += weight / (float)active * W[(size_t)e * C + c] / wnorm[e]; }
    }
}

float balance_forward(double* share, const int* open, const int* k, int N, int E) {
    // over the N1 tokens with k > 0: ce_e = mean open, me_e = mean open/k; returns E sum_e me_e ce_e, E the pool's size
    // share (E + 1) keeps ce and N1 for backward
    double me[MAX_EXPERTS] = {0}, n1 = 0.0, sum = 0.0;
    for (int e = 0; e <= E; e++) { share[e] = 0.0; }
    for (int i = 0; i < N; i++) {
        if (k[i] == 0) { continue; }
        n1++;
        for (int e = 0; e < E; e++) {
            share[e] += open[(size_t)i * E + e];
            me[e] += (double)open[(size_t)i * E + e] / k[i];
        }
    }
    share[E] = n1;
    if (n1 == 0.0) { return 0.0f; }
    for (int e = 0; e < E; e++) {
        share[e] /= n1;
        sum += me[e] / n1 * share[e];
    }
    return (float)(E * sum);
}

void balance_backward_add(float* dgate, const double* share, const int* open, const int* k, float weight, int N, int E) {
    // forward: E sum_e me_e ce_e, ce detached. dgate_e += weight E / (N1 k) (ce_e - mean of ce over the token's open gates)
    for (int i = 0; i < N; i++) {
        double mean = 0.0;
        if (k[i] == 0) { continue; }
        for (int e = 0; e < E; e++) { mean += open[(size_t)i * E + e] * share[e] / k[i]; }
        for (int e = 0; e < E; e++) {
            if (open[(size_t)i * E + e]) { dgate[(size_t)i * E + e] += (float)(weight * E / (share[E] * k[i]) * (share[e] - mean)); }
        }
    }
}

float efficiency_forward(const int* k, int N, int E) {
    // sum of gates / (N E) = mean k / E
    double sum = 0.0;
    for (int i = 0; i < N; i++) { sum += k[i]; }
    return (float)(sum / ((double)N * E));
}

void efficiency_backward_add(float* dgate, const int* open, const int* k, float weight, int N, int E) {
    // forward: sum of gates / (N E): the same push to close on every open gate
    for (int i = 0; i < N; i++) {
        for (int e = 0; e < E; e++) {
            if (k[i] > 0 && open[(size_t)i * E + e]) { dgate[(size_t)i * E + e] += weight / ((float)N * (float)E); }
        }
    }
}

// ----------------------------------------------------------------------------------------------------------------------
// The adaptive process (Algorithm 1): experts that nobody used in a window go, one comes if some token found none

void record_forward(int64_t* count, double* sum, int64_t* unrouted, const int* open, const int* k, const float* x, int N, int C, int E) {
    // count (E) += tokens per expert (R_E); sum (C) += the raw x of tokens with k = 0 (R_S); unrouted += their number
    for (int i = 0; i < N; i++) {
        if (k[i] == 0) {
            *unrouted += 1;
            for (int c = 0; c < C; c++) { sum[c] += x[(size_t)i * C + c]; }
        }
        for (int e = 0; k[i] > 0 && e < E; e++) { count[e] += open[(size_t)i * E + e]; }
    }
}

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
    int want = unrouted > 0 && length > 1e-12; // the new row of W is R_S/|R_S|: it needs a direction
    for (int e = 0; e < E; e++) { active += mask[e]; removed[e] = 0; }
    for (int e = 0; e < E; e++) {
        if (mask[e] && count[e] == 0 && active - 1 + want >= min_experts) {
            mask[e] = 0;
            removed[e] = 1;
            active--;
        }
    }
    if (!want) { return ADD_NONE; }
    for (int e = E - 1; e >= 0; e--) { if (!mask[e]) { slot = e; } }
    if (slot >= 0) {
        mask[slot] = 1;
        G[slot] = 0.0f;
        for (int c = 0; c < C; c++) { W[(size_t)slot * C + c] = (float)(sum[c] / length); }
    }
    return slot;
}

// ----------------------------------------------------------------------------------------------------------------------
// The model: configuration, parameters (one table), activations, forward, backward, update

typedef struct {
    int T, V, Vp, L, NH, C, H, E;   // see the legend at the top; H = 4C
    int moe[MAX_LAYERS];            // 1: layer l is a DynMoE layer
    float tau;                      // temperature of the gate: scales gradients, changes no decision
    int normalised, train_fallback; // convention for k in backward; top-1 fallback in training too
    float aux_weight[4];            // diversity, simplicity, load balance, efficiency
} Config;

typedef struct {
    float *ln1w, *ln1b, *qkvw, *qkvb, *attprojw, *attprojb, *ln2w, *ln2b;
    float *gatew, *gateG;                   // DynMoE layers only: W (E, C), G (E)
    float *fcw, *fcb, *fcprojw, *fcprojb;   // with a leading E in DynMoE layers
} Block;

typedef struct {
    float *wte, *wpe, *lnfw, *lnfb;
    Block h[MAX_LAYERS];
} Parameters;

enum { ZEROS, ONES, NORMAL, RESIDUAL, ORTHOGONAL }; // first values: normal(0.02), the same over sqrt(2L), orthonormal rows

// The one list of parameters: field, name in files, shape (0: no such dimension), first value, weight decay
#define MODEL_TENSORS(X) \
    X(wte,      "wte",          Vp, C, 0,       NORMAL,     1) \
    X(wpe,      "wpe",          T, C, 0,        NORMAL,     1) \
    X(lnfw,     "lnfw",         C, 0, 0,        ONES,       0) \
    X(lnfb,     "lnfb",         C, 0, 0,        ZEROS,      0)
#define BLOCK_TENSORS(X) \
    X(ln1w,     "ln1w",         C, 0, 0,        ONES,       0) \
    X(ln1b,     "ln1b",         C, 0, 0,        ZEROS,      0) \
    X(qkvw,     "qkvw",         3 * C, C, 0,    NORMAL,     1) \
    X(qkvb,     "qkvb",         3 * C, 0, 0,    ZEROS,      0) \
    X(attprojw, "attprojw",     C, C, 0,        RESIDUAL,   1) \
    X(attprojb, "attprojb",     C, 0, 0,        ZEROS,      0) \
    X(ln2w,     "ln2w",         C, 0, 0,        ONES,       0) \
    X(ln2b,     "ln2b",         C, 0, 0,        ZEROS,      0)
#define DENSE_TENSORS(X) \
    X(fcw,      "fcw",          H, C, 0,        NORMAL,     1) \
    X(fcb,      "fcb",          H, 0, 0,        ZEROS,      0) \
    X(fcprojw,  "fcprojw",      C, H, 0,        RESIDUAL,   1) \
    X(fcprojb,  "fcprojb",      C, 0, 0,        ZEROS,      0)
#define MOE_TENSORS(X) \
    X(gatew,    "moe.gatew",    E, C, 0,        ORTHOGONAL, 0) \
    X(gateG,    "moe.gateG",    E, 0, 0,        ZEROS,      0) \
    X(fcw,      "moe.fcw",      E, H, C,        NORMAL,     1) \
    X(fcb,      "moe.fcb",      E, H, 0,        ZEROS,      0) \
    X(fcprojw,  "moe.fcprojw",  E, C, H,        RESIDUAL,   1) \
    X(fcprojb,  "moe.fcprojb",  E, C, 0,        ZEROS,      0)
#define MAX_TENSORS (4 + 14 * MAX_LAYERS)

typedef struct {
    char name[40];
    int ndim, first, decay, layer, moe; // layer -1: of the whole model; moe: of a DynMoE layer
    int slots;                      // moe: E, one slice per expert; else 1
    size_t shape[3], size, offset;  // offset in floats into the memory of parameters, gradients, m and v alike
} Tensor;

// What a layer keeps from forward for backward. A dense layer uses pre and act only; inside, its rows are its tokens.
typedef struct {
    float *res, *ln1, *mean1, *rstd1, *qkv, *att, *atty, *mid, *ln2, *mean2, *rstd2; // shapes: activations_layout
    float *cosine, *dgate, *xnorm;      // (N, E) (N, E) (N)
    int *open, *k, *row_of, *row_token; // (N, E) (N) (N, E) (N*E)
    float *xr, *pre, *act, *out;        // (R, C) (R, H) (R, H) (R, C), grown when R does
    size_t row_capacity;
    int offset[MAX_EXPERTS + 1], R;
    float wnorm[MAX_EXPERTS], A[MAX_EXPERTS * MAX_EXPERTS], aux[4];
    double share[MAX_EXPERTS + 1];
    int mask[MAX_EXPERTS], unrouted;    // m of the paper; tokens with k = 0 in the last forward
    int64_t record_count[MAX_EXPERTS], record_unrouted; // the records of the adaptive process
    double* record_sum;                 // (C)
} Layer;

typedef struct {
    Config config;
    Tensor table[MAX_TENSORS];
    int n_tensors;
    size_t n_params;
    Parameters params, grads;           // pointers into the first two of the four memories, which have the same layout
    float *params_memory, *grads_memory, *m_memory, *v_memory; // (n_params) each; the last three are NULL without training
    Layer layer[MAX_LAYERS];
    float *act_memory;                  // everything of fixed size that a forward leaves, and scratch
    float *res, *lnf, *meanf, *rstdf, *logits, *losses, *lse;       // (N, C) (N, C) (N) (N) (N, Vp) (N) (N)
    float *dres, *dln, *dqkv, *datty, *datt;                        // (N, C) (N, C) (N, 3C) (N, C) (B, NH, 64, T)
    float *drow_c, *drow_h;             // (R, C) (R, H): scratch for the rows of one layer, as large as the largest needs
    size_t drow_capacity, act_bytes, row_bytes;
    int max_B, max_T, B, T;             // allocated for; of the last forward
    const int *x, *y;                   // tokens and targets of the last forward
    int recording;                      // training forwards add to the records
    float ce, aux;                      // of the last forward: mean cross-entropy; weighted sum of auxiliary terms
} GPT2;

void add_tensor(GPT2* model, float** param, float** grad, int layer, const char* name, int a, int b, int c, int first, int decay) {
    // appends one row to the table and points param and grad into the memories, where there are any
    Tensor* t = &model->table[model->n_tensors++];
    if (layer >= 0) { snprintf(t->name, sizeof t->name, "h.%d.%s", layer, name); } else { snprintf(t->name, sizeof t->name, "%s", name); }
    t->ndim = c > 0 ? 3 : b > 0 ? 2 : 1;
    t->shape[0] = (size_t)a;
    t->shape[1] = (size_t)b;
    t->shape[2] = (size_t)c;
    t->size = (size_t)a * (b > 0 ? (size_t)b : 1) * (c > 0 ? (size_t)c : 1);
    t->first = first;
    t->decay = decay;
    t->layer = layer;
    t->moe = strncmp(name, "moe.", 4) == 0;
    t->slots = t->moe ? model->config.E : 1;
    t->offset = model->n_params;
    model->n_params += t->size;
    *param = model->params_memory != NULL ? model->params_memory + t->offset : NULL;
    *grad = model->grads_memory != NULL ? model->grads_memory + t->offset : NULL;
}

void parameters_layout(GPT2* model) {
    // fills the table from the list above
    int T = model->config.T, Vp = model->config.Vp, C = model->config.C, H = model->config.H, E = model->config.E;
    model->n_tensors = 0;
    model->n_params = 0;
    #define X(f, name, a, b, c, first, decay) add_tensor(model, &model->params.f, &model->grads.f, -1, name, a, b, c, first, decay);
    MODEL_TENSORS(X)
    #undef X
    #define X(f, name, a, b, c, first, decay) add_tensor(model, &model->params.h[l].f, &model->grads.h[l].f, l, name, a, b, c, first, decay);
    for (int l = 0; l < model->config.L; l++) {
        BLOCK_TENSORS(X)
        if (model->config.moe[l]) { MOE_TENSORS(X) } else { DENSE_TENSORS(X) }
    }
    #undef X
}

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
                for (int c = 0; c < C; c++) { w[e * C + c] -= dot * w[j * C + c]; }
            }
            for (int c = 0; c < C; c++) { norm += w[e * C + c] * w[e * C + c]; }
            for (int c = 0; c < C; c++) { w[e * C + c] /= sqrt(norm); }
        }
    }
    for (int i = 0; i < E * C; i++) { W[i] = (float)w[i]; }
    free(w);
}

void gpt2_build(GPT2* model, Config config, int training) {
    // allocates parameters (and with training: gradients and Adam moments), all zero, no expert active
    memset(model, 0, sizeof *model);
    model->config = config;
    parameters_layout(model); // for n_params
    model->params_memory = (float*)alloc_zeroed(model->n_params, sizeof(float), "parameters");
    if (training) {
        model->grads_memory = (float*)alloc_zeroed(model->n_params, sizeof(float), "gradients");
        model->m_memory = (float*)alloc_zeroed(model->n_params, sizeof(float), "Adam's first moments");
        model->v_memory = (float*)alloc_zeroed(model->n_params, sizeof(float), "Adam's second moments");
    }
    parameters_layout(model); // again, now with memory to point into
    for (int l = 0; l < config.L; l++) { model->layer[l].record_sum = (double*)alloc_zeroed((size_t)config.C, sizeof(double), "records"); }
}

void gpt2_init(GPT2* model, int start_experts, int copies, uint64_t* rng) {
    // GPT-2's first values; in DynMoE layers orthonormal W, G = 0 and start_experts active ones. With copies all experts of a
    // layer start equal (as in the authors' code), else each has its own random weights.
    const Config* c = &model->config;
    for (int i = 0; i < model->n_tensors; i++) {
        const Tensor* t = &model->table[i];
        float* p = model->params_memory + t->offset;
        size_t drawn = copies ? t->size / t->slots : t->size;
        float std = t->first == RESIDUAL ? 0.02f / sqrtf(2.0f * (float)c->L) : 0.02f;
        if (t->first == ORTHOGONAL) { orthogonal_rows(p, c->E, c->C, rng); continue; }
        if (p == model->params.wte) { drawn = (size_t)c->V * c->C; } // rows V.. stay zero
        for (size_t j = 0; j < drawn; j++) { p[j] = t->first == ZEROS ? 0.0f : t->first == ONES ? 1.0f : std * (float)random_normal(rng); }
        for (size_t j = drawn; t->slots > 1 && j < t->size; j++) { p[j] = p[j - drawn]; }
    }
    for (int l = 0; l < c->L; l++) {
        for (int e = 0; e < c->E; e++) { model->layer[l].mask[e] = e < start_experts; }
    }
}

size_t activations_layout(GPT2* model, int B, int T, int training) {
    // points every activation of fixed size into act_memory; returns how many floats that takes (call once without memory)
    size_t n = 0, N = (size_t)B * T, C = (size_t)model->config.C, E = (size_t)model->config.E;
    #define ROOM(pointer, type, count) do { pointer = (type*)(model->act_memory + (model->act_memory ? n : 0)); n += (count); } while (0)
    for (int l = 0; l < model->config.L; l++) {
        Layer* a = &model->layer[l];
        ROOM(a->res, float, N * C);     ROOM(a->ln1, float, N * C);     ROOM(a->mean1, float, N);   ROOM(a->rstd1, float, N);
        ROOM(a->qkv, float, N * 3 * C); ROOM(a->att, float, N * (size_t)model->config.NH * T);      ROOM(a->atty, float, N * C);
        ROOM(a->mid, float, N * C);     ROOM(a->ln2, float, N * C);     ROOM(a->mean2, float, N);   ROOM(a->rstd2, float, N);
        if (!model->config.moe[l]) { continue; }
        ROOM(a->cosine, float, N * E);  ROOM(a->dgate, float, N * E);   ROOM(a->xnorm, float, N);
        ROOM(a->open, int, N * E);      ROOM(a->k, int, N);             ROOM(a->row_of, int, N * E); ROOM(a->row_token, int, N * E);
    }
    ROOM(model->res, float, N * C);     ROOM(model->lnf, float, N * C); ROOM(model->meanf, float, N); ROOM(model->rstdf, float, N);
    ROOM(model->logits, float, N * (size_t)model->config.Vp);           ROOM(model->losses, float, N); ROOM(model->lse, float, N);
    if (training) {
        ROOM(model->dres, float, N * C);     ROOM(model->dln, float, N * C);    ROOM(model->dqkv, float, N * 3 * C);
        ROOM(model->datty, float, N * C);    ROOM(model->datt, float, (size_t)B * model->config.NH * QUERY_BLOCK * T);
    }
    #undef ROOM
    return n;
}

void gpt2_alloc_activations(GPT2* model, int B, int T, int training) {
    // one allocation for what has a fixed size; rows are added by rows_reserve when their number is known
    model->max_B = B;
    model->max_T = T;
    model->act_bytes = activations_layout(model, B, T, training) * sizeof(float);
    model->act_memory = (float*)alloc_zeroed(model->act_bytes / sizeof(float), sizeof(float), "activations");
    activations_layout(model, B, T, training);
}

void rows_reserve(GPT2* model, Layer* a, size_t R) {
    // room for R rows in a layer, and in the scratch that its backward needs; contents are not kept
    size_t C = (size_t)model->config.C, H = (size_t)model->config.H, room = R + R / 8 + 16; // a little more, so that it grows rarely
    if (R > a->row_capacity) {
        free(a->xr);
        a->xr = (float*)alloc_zeroed(room * (2 * C + 2 * H), sizeof(float), "the rows of a layer");
        a->out = a->xr + room * C;
        a->pre = a->out + room * C;
        a->act = a->pre + room * H;
        model->row_bytes += (room - a->row_capacity) * (2 * C + 2 * H) * sizeof(float);
        a->row_capacity = room;
    }
    if (model->grads_memory != NULL && R > model->drow_capacity) {
        free(model->drow_c);
        model->drow_c = (float*)alloc_zeroed(room * (C + H), sizeof(float), "the row gradients of a layer");
        model->drow_h = model->drow_c + room * C;
        model->row_bytes += (room - model->drow_capacity) * (C + H) * sizeof(float);
        model->drow_capacity = room;
    }
}

void gpt2_free(GPT2* model) {
    for (int l = 0; l < model->config.L; l++) {
        free(model->layer[l].xr);
        free(model->layer[l].record_sum);
    }
    free(model->params_memory); free(model->grads_memory); free(model->m_memory); free(model->v_memory);
    free(model->act_memory); free(model->drow_c);
    memset(model, 0, sizeof *model);
}

// x (N, C) -> y (N, C), one DynMoE layer
void moe_forward(GPT2* model, int l, float* y, const float* x, int N, int training) {
    const Config* c = &model->config;
    const Block* p = &model->params.h[l];
    Layer* a = &model->layer[l];
    int C = c->C, E = c->E, fallback = !training || c->train_fallback;
    a->unrouted = gate_forward(a->open, a->k, a->cosine, a->xnorm, a->wnorm, x, p->gatew, p->gateG, a->mask, fallback, N, C, E);
    a->R = dispatch(a->row_of, a->row_token, a->offset, a->open, N, E);
    rows_reserve(model, a, (size_t)a->R);
    gather_forward(a->xr, x, a->row_token, a->R, C);
    experts_forward(a->out, a->pre, a->act, a->xr, p->fcw, p->fcb, p->fcprojw, p->fcprojb, a->offset, E, C, c->H);
    combine_forward(y, a->out, a->row_of, a->k, N, C, E);
    if (!training) { return; }
    a->aux[0] = diversity_forward(a->A, p->gatew, a->wnorm, a->mask, C, E);
    a->aux[1] = simplicity_forward(a->wnorm, a->mask, E);
    a->aux[2] = balance_forward(a->share, a->open, a->k, N, E);
    a->aux[3] = efficiency_forward(a->k, N, E);
    for (int i = 0; i < 4; i++) { model->aux += c->aux_weight[i] * a->aux[i]; }
    if (model->recording) { record_forward(a->record_count, a->record_sum, &a->record_unrouted, a->open, a->k, x, N, C, E); }
}

// dy (N, C) -> dx (N, C) overwritten; gradients of the experts, of W and of G added. aux_scale: weight of this micro-batch
void moe_backward(GPT2* model, int l, float* dx, const float* dy, const float* x, int N, float aux_scale) {
    const Config* c = &model->config;
    const Block* p = &model->params.h[l];
    Block* d = &model->grads.h[l];
    Layer* a = &model->layer[l];
    int C = c->C, E = c->E;
    float weight[4];
    for (int i = 0; i < 4; i++) { weight[i] = aux_scale * c->aux_weight[i]; }
    combine_backward(model->drow_c, a->dgate, dy, a->out, a->row_of, a->k, c->normalised, N, C, E);
    experts_backward(model->drow_c, model->drow_h, d->fcw, d->fcb, d->fcprojw, d->fcprojb, model->drow_c, a->xr, a->pre, a->act,
                     p->fcw, p->fcprojw, a->offset, E, C, c->H);
    gather_backward(dx, model->drow_c, a->row_of, N, C, E);
    if (weight[2] != 0.0f) { balance_backward_add(a->dgate, a->share, a->open, a->k, weight[2], N, E); }
    if (weight[3] != 0.0f) { efficiency_backward_add(a->dgate, a->open, a->k, weight[3], N, E); }
    gate_backward_add(dx, d->gatew, d->gateG, a->dgate, a->open, a->cosine, a->xnorm, a->wnorm, x, p->gatew, p->gateG, c->tau, N, C, E);
    if (weight[0] != 0.0f) { diversity_backward(d->gatew, a->A, a->aux[0], p->gatew, a->wnorm, a->mask, weight[0], C, E); }
    if (weight[1] != 0.0f) { simplicity_backward(d->gatew, p->gatew, a->wnorm, a->mask, weight[1], C, E); }
}

// One block is two halves: res -> mid (attention) -> next layer's res (feed-forward)

void attention_half_forward(GPT2* model, int l, int B, int T) {
    const Block* p = &model->params.h[l];
    Layer* a = &model->layer[l];
    int N = B * T, C = model->config.C;
    layernorm_forward(a->ln1, a->mean1, a->rstd1, a->res, p->ln1w, p->ln1b, N, C);
    matmul_forward(a->qkv, a->ln1, p->qkvw, p->qkvb, N, C, 3 * C);
    attention_forward(a->atty, a->att, a->qkv, B, T, C, model->config.NH, 1);
    matmul_forward(a->mid, a->atty, p->attprojw, p->attprojb, N, C, C);
    residual_forward(a->mid, a->mid, a->res, (size_t)N * C);
}

void attention_half_backward(GPT2* model, int l, int B, int T) {
    // dres: gradient of mid -> gradient of res, in place
    const Block* p = &model->params.h[l];
    Block* d = &model->grads.h[l];
    Layer* a = &model->layer[l];
    int N = B * T, C = model->config.C;
    matmul_backward(model->datty, d->attprojw, d->attprojb, model->dres, a->atty, p->attprojw, N, C, C);
    attention_backward(model->dqkv, model->datt, model->datty, a->att, a->qkv, B, T, C, model->config.NH, 1);
    matmul_backward(model->dln, d->qkvw, d->qkvb, model->dqkv, a->ln1, p->qkvw, N, C, 3 * C);
    layernorm_backward_add(model->dres, d->ln1w, d->ln1b, model->dln, a->res, a->mean1, a->rstd1, p->ln1w, N, C);
}

void feedforward_half_forward(GPT2* model, int l, int N, int training) {
    const Block* p = &model->params.h[l];
    Layer* a = &model->layer[l];
    int C = model->config.C;
    float* next = l + 1 < model->config.L ? model->layer[l + 1].res : model->res;
    layernorm_forward(a->ln2, a->mean2, a->rstd2, a->mid, p->ln2w, p->ln2b, N, C);
    if (model->config.moe[l]) {
        moe_forward(model, l, next, a->ln2, N, training);
    } else {
        a->offset[1] = a->R = N; // dense: one expert with every token as a row
        rows_reserve(model, a, (size_t)N);
        experts_forward(next, a->pre, a->act, a->ln2, p->fcw, p->fcb, p->fcprojw, p->fcprojb, a->offset, 1, C, model->config.H);
    }
    residual_forward(next, next, a->mid, (size_t)N * C);
}

void feedforward_half_backward(GPT2* model, int l, int N, float aux_scale) {
    // dres: gradient of the next layer's res -> gradient of mid, in place; leaves the gradient of ln2 in dln
    const Block* p = &model->params.h[l];
    Block* d = &model->grads.h[l];
    Layer* a = &model->layer[l];
    int C = model->config.C;
    if (model->config.moe[l]) {
        moe_backward(model, l, model->dln, model->dres, a->ln2, N, aux_scale);
    } else {
        experts_backward(model->dln, model->drow_h, d->fcw, d->fcb, d->fcprojw, d->fcprojb, model->dres, a->ln2, a->pre, a->act,
                         p->fcw, p->fcprojw, a->offset, 1, C, model->config.H);
    }
    layernorm_backward_add(model->dres, d->ln2w, d->ln2b, model->dln, a->mid, a->mean2, a->rstd2, p->ln2w, N, C);
}

float gpt2_forward(GPT2* model, const int* x, const int* y, int B, int T, int training) {
    // tokens x (B, T), targets y (B, T) or NULL -> logits, and with targets losses; returns the mean loss in nats, or 0
    // training: k = 0 means residual only, auxiliary terms and records. Else evaluation: top-1 fallback, nothing recorded.
    int N = B * T, C = model->config.C;
    if (B > model->max_B || T > model->max_T) { die("a bug: please report it", "forward of %d x %d, memory is for %d x %d", B, T, model->max_B, model->max_T); }
    model->B = B; model->T = T; model->x = x; model->y = y; model->aux = 0.0f;
    embedding_forward(model->layer[0].res, x, model->params.wte, model->params.wpe, B, T, C);
    for (int l = 0; l < model->config.L; l++) {
        attention_half_forward(model, l, B, T);
        feedforward_half_forward(model, l, N, training);
    }
    layernorm_forward(model->lnf, model->meanf, model->rstdf, model->res, model->params.lnfw, model->params.lnfb, N, C);
    matmul_forward(model->logits, model->lnf, model->params.wte, NULL, N, C, model->config.Vp); // the head is wte again
    if (y == NULL) { return 0.0f; }
    crossentropy_forward(model->losses, model->lse, model->logits, y, N, model->config.V, model->config.Vp);
    double sum = 0.0;
    for (int i = 0; i < N; i++) { sum += model->losses[i]; }
    model->ce = (float)(sum / N);
    return model->ce;
}

void head_backward(GPT2* model, float scale) {
    // logits -> dlogits in place -> dres
    int N = model->B * model->T, C = model->config.C;
    crossentropy_backward(model->logits, model->lse, model->y, scale / (float)N, N, model->config.V, model->config.Vp);
    matmul_backward(model->dln, model->grads.wte, NULL, model->logits, model->lnf, model->params.wte, N, C, model->config.Vp);
    memset(model->dres, 0, (size_t)N * C * sizeof(float));
    layernorm_backward_add(model->dres, model->grads.lnfw, model->grads.lnfb, model->dln, model->res, model->meanf, model->rstdf,
                           model->params.lnfw, N, C);
}

void gpt2_backward(GPT2* model, float scale) {
    // adds scale * gradient of (mean loss + auxiliary terms) of the last training forward to grads; call once per forward
    head_backward(model, scale);
    for (int l = model->config.L - 1; l >= 0; l--) {
        feedforward_half_backward(model, l, model->B * model->T, scale);
        attention_half_backward(model, l, model->B, model->T);
    }
    embedding_backward(model->grads.wte, model->grads.wpe, model->dres, model->x, model->B, model->T, model->config.C);
}

void gpt2_zero_grad(GPT2* model) { memset(model->grads_memory, 0, model->n_params * sizeof(float)); }

double gpt2_grad_norm(const GPT2* model) {
    // sqrt of the sum of squares of all gradients; one sum per tensor, added in order: same bits for any thread count
    double total = 0.0, sums[MAX_TENSORS];
    #pragma omp parallel for schedule(dynamic)
    for (int i = 0; i < model->n_tensors; i++) {
        const float* g = model->grads_memory + model->table[i].offset;
        double sum = 0.0;
        #pragma omp simd reduction(+:sum)
        for (size_t j = 0; j < model->table[i].size; j++) { sum += (double)g[j] * g[j]; }
        sums[i] = sum;
    }
    for (int i = 0; i < model->n_tensors; i++) {
        if (!isfinite(sums[i])) { die("lower --lr, or look at the last lines of log.jsonl", "the gradient of %s is not finite", model->table[i].name); }
        total += sums[i];
    }
    return sqrt(total);
}

void adamw(float* p, const float* g, float* m, float* v, size_t n, float lr, float beta1, float beta2, float eps, float decay,
           float correction1, float correction2, float scale) {
    // m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2; p -= lr (mhat / (sqrt(vhat) + eps) + decay p), g scaled first (clipping)
    #pragma omp parallel for simd schedule(static)
    for (size_t i = 0; i < n; i++) {
        float gi = scale * g[i];
        m[i] = beta1 * m[i] + (1.0f - beta1) * gi;
        v[i] = beta2 * v[i] + (1.0f - beta2) * gi * gi;
        p[i] -= lr * ((m[i] / correction1) / (sqrtf(v[i] / correction2) + eps) + decay * p[i]);
    }
}

void gpt2_update(GPT2* model, int step, float lr, float beta1, float beta2, float eps, float weight_decay, float scale) {
    // one AdamW step of every parameter; step counts from 0. The slots of inactive experts are left alone, moments too;
    // an active expert without rows is stepped like the rest, with gradient 0.
    float correction1 = (float)(1.0 - pow(beta1, step + 1)), correction2 = (float)(1.0 - pow(beta2, step + 1));
    for (int i = 0; i < model->n_tensors; i++) {
        const Tensor* t = &model->table[i];
        size_t n = t->size / t->slots;
        for (int e = 0; e < t->slots; e++) {
            size_t o = t->offset + e * n;
            if (t->moe && !model->layer[t->layer].mask[e]) { continue; }
            adamw(model->params_memory + o, model->grads_memory + o, model->m_memory + o, model->v_memory + o, n, lr, beta1, beta2, eps,
                  t->decay ? weight_decay : 0.0f, correction1, correction2, scale);
        }
    }
}

void unit_rows(float* W, const int* mask, int C, int E) {
    // the active rows of W (E, C) back to length 1: the function stays, and the gate's step size stays what lr says
    for (int e = 0; e < E; e++) {
        float norm = norm_of(W + (size_t)e * C, C);
        if (!mask[e] || norm <= NORM_EPS) { continue; }
        for (int c = 0; c < C; c++) { W[(size_t)e * C + c] /= norm; }
    }
}

void reset_slot_moments(GPT2* model, int l, int slot) {
    // Adam's m and v of one expert of layer l: its row of W, its G and its weights
    for (int i = 0; i < model->n_tensors; i++) {
        const Tensor* t = &model->table[i];
        size_t n = t->size / t->slots;
        if (t->layer != l || !t->moe) { continue; }
        memset(model->m_memory + t->offset + slot * n, 0, n * sizeof(float));
        memset(model->v_memory + t->offset + slot * n, 0, n * sizeof(float));
    }
}

int gpt2_adapt(GPT2* model, int l, int* removed, int min_experts) {
    // the end of a recording window for layer l: see adapt_update for what it returns
    Layer* a = &model->layer[l];
    int slot = adapt_update(a->mask, model->params.h[l].gatew, model->params.h[l].gateG, removed, a->record_count, a->record_sum,
                            a->record_unrouted, min_experts, model->config.C, model->config.E);
    if (slot >= 0) { reset_slot_moments(model, l, slot); }
    return slot;
}

void gpt2_clear_records(GPT2* model) {
    for (int l = 0; l < model->config.L; l++) {
        Layer* a = &model->layer[l];
        memset(a->record_count, 0, sizeof a->record_count);
        memset(a->record_sum, 0, (size_t)model->config.C * sizeof(double));
        a->record_unrouted = 0;
    }
}

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
    die("the file is damaged or no safetensors file: copy or save it again", "%s: header: %s, %td bytes before its end", j->path, what, j->end - j->p);
}

char json_peek(Json* j) { // the next character that is not a blank, 0 at the end
    while (j->p < j->end && (*j->p == ' ' || *j->p == '\n' || *j->p == '\r' || *j->p == '\t')) { j->p++; }
    return j->p < j->end ? *j->p : 0;
}

void json_expect(Json* j, char c) {
    char what[] = "expected ' '";
    what[10] = c;
    if (json_peek(j) != c) { json_bad(j, what); }
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
        if ((unsigned char)c < 32) { json_bad(j, "control character in a string"); }
        if (c == '\\') {
            static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
            const char* at = ++j->p < j->end && *j->p ? strchr(from, *j->p) : NULL;
            unsigned code = '?';
            if (at == NULL && (j->end - j->p < 5 || sscanf(j->p, "u%4x", &code) != 1)) { json_bad(j, "unknown escape in a string"); }
            c = at != NULL ? to[at - from] : code < 256 ? (char)code : '?'; // \u00XX is a byte, as json_print writes it
            j->p += at != NULL ? 0 : 4;
        }
        if (n + 1 >= room) { json_bad(j, "string too long"); }
        out[n++] = c;
    }
    out[n] = '\0';
    json_expect(j, '"');
}

size_t json_size(Json* j) {
    size_t n = 0;
    if (!isdigit((unsigned char)json_peek(j))) { json_bad(j, "expected a number"); }
    for (; j->p < j->end && isdigit((unsigned char)*j->p); j->p++) {
        if (n > (SIZE_MAX - 9) / 10) { json_bad(j, "number too large"); }
        n = n * 10 + (size_t)(*j->p - '0');
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
    // {"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}
    size_t offsets[2] = {0, 0}, n = 0;
    int seen = 0;
    char key[16];
    json_expect(j, '{');
    for (int first = 1; json_more(j, '}', first); first = 0) {
        json_string(j, key, sizeof key);
        json_expect(j, ':');
        if (strcmp(key, "dtype") == 0) {
            json_string(j, t->dtype, sizeof t->dtype);
            seen += 1;
        } else if (strcmp(key, "shape") == 0) {
            json_expect(j, '[');
            for (t->ndim = 0; json_more(j, ']', t->ndim == 0); t->ndim++) {
                if (t->ndim == 8) { json_bad(j, "more than 8 dimensions"); }
                t->shape[t->ndim] = json_size(j);
            }
            seen += 10;
        } else if (strcmp(key, "data_offsets") == 0) {
            json_expect(j, '[');
            offsets[0] = json_size(j);
            json_expect(j, ',');
            offsets[1] = json_size(j);
            json_expect(j, ']');
            seen += 100;
        } else {
            json_bad(j, "unknown key in a tensor");
        }
    }
    if (seen != 111) { json_bad(j, "a tensor needs dtype, shape and data_offsets, once each"); }
    n = dtype_size(t->dtype);
    if (n == 0) { json_bad(j, "unknown dtype"); }
    for (int i = 0; i < t->ndim; i++) {
        if (t->shape[i] != 0 && n > SIZE_MAX / t->shape[i]) { json_bad(j, "shape too large"); }
        n *= t->shape[i];
    }
    if (offsets[0] > offsets[1] || offsets[1] > data_size) { json_bad(j, "data_offsets outside the file"); }
    if (offsets[1] - offsets[0] != n) { json_bad(j, "data_offsets do not fit dtype and shape"); }
    t->bytes = n;
    t->data = data + offsets[0];
}

int compare_names(const void* a, const void* b) { return strcmp(((const SafeTensor*)a)->name, ((const SafeTensor*)b)->name); }

int compare_data(const void* a, const void* b) { // by place; an empty tensor before the one that starts where it stands
    const SafeTensor *x = (const SafeTensor*)a, *y = (const SafeTensor*)b;
    return x->data != y->data ? (x->data > y->data) - (x->data < y->data) : (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

const unsigned char* map_file(const char* path, size_t* size) {
    // the bytes of a file, mapped read-only; one clear line for everything that can be wrong with a path
    struct stat st;
    int fd = open(path, O_RDONLY);
    if (fd < 0 || fstat(fd, &st) != 0) { die("check the path", "%s: %s", path, strerror(errno)); }
    if (!S_ISREG(st.st_mode)) { die("give a file", "%s: not a regular file", path); }
    if (st.st_size == 0) { die("fetch or make it again", "%s: the file is empty", path); }
    void* map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (map == MAP_FAILED) { die(NULL, "%s: cannot map the file: %s", path, strerror(errno)); }
    close(fd);
    *size = (size_t)st.st_size;
    return (const unsigned char*)map;
}

SafeFile safetensors_open(const char* path) {
    // maps and checks a safetensors file; exits with one line that names the file and what is wrong
    SafeFile f = {path, 0, 0, NULL, NULL, NULL, 0};
    uint64_t header = 0;
    char key[128];
    f.map = (unsigned char*)(uintptr_t)map_file(path, &f.map_size);
    for (int i = 7; i >= 0 && f.map_size >= 8; i--) { header = header << 8 | f.map[i]; }
    Json j = {(const char*)f.map + 8, (const char*)f.map + 8, path};
    if (f.map_size < 8 || header > f.map_size - 8) { json_bad(&j, "its length goes beyond the end of the file"); }
    j.end += header;
    const unsigned char* data = f.map + 8 + header;
    size_t room = header / 40 + 1, data_size = f.map_size - 8 - header; // the shortest entry takes more than 40 bytes
    f.tensors = (SafeTensor*)alloc_zeroed(room, sizeof(SafeTensor), "the header of a file");
    f.meta = (char (*)[2][512])alloc_zeroed(header / 6 < 1024 ? header / 6 + 1 : 1024, sizeof *f.meta, "the header of a file");
    json_expect(&j, '{');
    for (int first = 1; json_more(&j, '}', first); first = 0) {
        json_string(&j, key, sizeof key);
        json_expect(&j, ':');
        if (strcmp(key, "__metadata__") != 0) {
            if ((size_t)f.n == room) { json_bad(&j, "too many tensors"); }
            memcpy(f.tensors[f.n].name, key, sizeof key);
            json_tensor(&j, &f.tensors[f.n++], data, data_size);
            continue;
        }
        if (f.n_meta > 0) { json_bad(&j, "__metadata__ twice"); }
        json_expect(&j, '{');
        for (; json_more(&j, '}', f.n_meta == 0); f.n_meta++) {
            if (f.n_meta == 1024) { json_bad(&j, "more than 1024 metadata"); }
            json_string(&j, f.meta[f.n_meta][0], sizeof f.meta[0][0]);
            json_expect(&j, ':');
            json_string(&j, f.meta[f.n_meta][1], sizeof f.meta[0][1]);
        }
    }
    if (json_peek(&j) != 0) { json_bad(&j, "something after the last }"); }
    qsort(f.tensors, (size_t)f.n, sizeof(SafeTensor), compare_names);
    for (int i = 1; i < f.n; i++) {
        if (strcmp(f.tensors[i - 1].name, f.tensors[i].name) == 0) { die(NULL, "%s: %s: two tensors of this name", path, f.tensors[i].name); }
    }
    qsort(f.tensors, (size_t)f.n, sizeof(SafeTensor), compare_data);
    for (int i = 0; i < f.n; i++) {
        if (f.tensors[i].data != data) { die(NULL, "%s: %s: its data overlap or leave a gap", path, f.tensors[i].name); }
        data += f.tensors[i].bytes;
    }
    if (data != f.map + f.map_size) { die("the file is damaged: copy or save it again", "%s: bytes after the last tensor", path); }
    return f;
}

void safetensors_close(SafeFile* f) {
    munmap(f->map, f->map_size);
    free(f->tensors);
    free(f->meta);
}

const SafeTensor* safetensors_find(const SafeFile* f, const char* name) { // NULL if it is not there
    for (int i = 0; i < f->n; i++) { if (strcmp(f->tensors[i].name, name) == 0) { return &f->tensors[i]; } }
    return NULL;
}

const char* safetensors_meta(const SafeFile* f, const char* key) { // NULL if it is not there
    for (int i = 0; i < f->n_meta; i++) { if (strcmp(f->meta[i][0], key) == 0) { return f->meta[i][1]; } }
    return NULL;
}

void json_print(FILE* out, const char* s, size_t n) { // a JSON string; bytes outside ASCII as \u00XX
    fputc('"', out);
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c == '"' || c == '\\') { fprintf(out, "\\%c", c); } else if (c < 32 || c > 126) { fprintf(out, "\\u%04x", c); } else { fputc(c, out); }
    }
    fputc('"', out);
}

void safetensors_save(const char* path, const SafeTensor* tensors, int n, const char* meta) {
    // writes n tensors and the metadata, a list of JSON pairs `"key":"value",...`; temporary file, fsync, rename
    char temporary[4096], *header = NULL;
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
    snprintf(temporary, sizeof temporary, "%s.tmp", path);
    FILE* f = fopen(temporary, "wb");
    if (f == NULL) { die("check --out", "%s: %s", temporary, strerror(errno)); }
    for (int i = 0; i < 8; i++) { fputc((int)((uint64_t)length >> (8 * i) & 255), f); }
    fwrite(header, 1, length, f);
    for (int i = 0; i < n; i++) { if (tensors[i].bytes > 0) { fwrite(tensors[i].data, 1, tensors[i].bytes, f); } }
    int bad = ferror(f) || fflush(f) != 0 || fsync(fileno(f)) != 0, why = errno;
    if (fclose(f) != 0 || bad || rename(temporary, path) != 0) {
        why = bad ? why : errno;
        unlink(temporary);
        die("free some space or choose another --out; what was there before is untouched", "%s: cannot write: %s", path, strerror(why));
    }
    free(header);
}

SafeTensor safe_tensor(const char* prefix, const char* name, const char* dtype, int ndim, const size_t* shape, const void* data) {
    SafeTensor t;
    memset(&t, 0, sizeof t);
    snprintf(t.name, sizeof t.name, "%s%s", prefix, name);
    snprintf(t.dtype, sizeof t.dtype, "%s", dtype);
    t.ndim = ndim;
    t.bytes = dtype_size(dtype);
    for (int i = 0; i < ndim; i++) {
        t.shape[i] = shape[i];
        t.bytes *= shape[i];
    }
    t.data = (const unsigned char*)data;
    return t;
}

// ----------------------------------------------------------------------------------------------------------------------
// Flags. One list: the field and flag (train_fallback is --train-fallback), its short twin, default, range, meaning.
// --help is printed from it, the command line is parsed by it, checkpoints and logs carry all of it.

typedef int flag;           // takes no value
typedef const char* text;
#define FLAGS(X) \
    X(text,  data,           "-i",  "",           0, 0,        "training text: any file as bytes, or llm.c .bin shards (a pattern means shards)") \
    X(text,  val,            "-j",  "",           0, 0,        "validation text (default: the last 10 percent of --data)") \
    X(text,  out,            "-o",  "out",        0, 0,        "folder for log.jsonl and model.safetensors") \
    X(text,  init,           "-f",  "",           0, 0,        "start from this checkpoint's model") \
    X(text,  resume,         "-r",  "",           0, 0,        "continue this checkpoint's run: its flags, unless given again") \
    X(text,  preset,         "-P",  "paper",      0, 0,        "paper, or authors: their repository of today") \
    X(int,   depth,          "-d",  "0",          0, 64,       "one dial D: D layers, D heads, 64 D channels, context 64 (256 above D = 4), lr") \
    X(int,   layers,         "-L",  "4",          1, 128,      "layers") \
    X(int,   heads,          "-H",  "4",          1, 1024,     "attention heads") \
    X(int,   channels,       "-C",  "128",        1, 65536,    "channels") \
    X(int,   context,        "-t",  "64",         1, 65536,    "tokens in a sequence") \
    X(text,  moe_layers,     "-ml", "every2",     0, 0,        "DynMoE layers: every2, all, none, or a list like 0,2,5") \
    X(int,   experts,        "-E",  "8",          1, 64,       "experts in the pool of a layer") \
    X(int,   start_experts,  "-Es", "4",          0, 64,       "experts that are active at the start") \
    X(text,  expert_init,    "-Ei", "random",     0, 0,        "random, or copies: all experts of a layer start equal") \
    X(text,  kgrad,          "-k",  "normalised", 0, 0,        "gradient of 1/k: normalised or detached") \
    X(float, gate_scale,     "-gs", "1",          1e-6, 1e6,   "temperature tau of the gate: scales its gradients, changes no decision") \
    X(int,   unit_norm,      "-un", "1",          0, 1,        "1: rows of W go back to length 1 after each step") \
    X(int,   train_fallback, "-tf", "0",          0, 1,        "1: in training too a token without experts gets the nearest one") \
    X(float, aux_diversity,  "-a1", "0.01",       0, 1e6,      "weight of the diversity loss") \
    X(float, aux_simplicity, "-a2", "0.01",       0, 1e6,      "weight of the simplicity loss") \
    X(float, aux_balance,    "-a3", "0",          0, 1e6,      "weight of the load-balance loss") \
    X(float, aux_efficiency, "-a4", "0",          0, 1e6,      "weight of the efficiency loss") \
    X(int,   window,         "-aw", "100",        1, 1000000,  "adaptive process: steps in which it records") \
    X(int,   period,         "-ap", "300",        0, 1000000,  "and the period at which that repeats (0: never)") \
    X(float, adapt_stop,     "-as", "0.8",        0, 1,        "fraction of the run after which experts stay") \
    X(int,   min_experts,    "-am", "1",          0, 64,       "experts that a layer keeps at least") \
    X(int,   steps,          "-x",  "4000",       0, 2000000000, "training steps") \
    X(int,   batch,          "-b",  "8",          1, 65536,    "sequences in a batch") \
    X(int,   accum,          "-g",  "1",          1, 65536,    "batches whose gradients make one step") \
    X(float, lr,             "-l",  "0.001",      0, 10,       "largest learning rate") \
    X(float, lr_end,         "-le", "0.1",        0, 1,        "last learning rate, as a fraction of --lr") \
    X(int,   warmup,         "-w",  "100",        0, 1000000000, "steps of linear warm-up; a cosine follows") \
    X(float, weight_decay,   "-wd", "0.1",        0, 10,       "AdamW's decay, on matrices only; never on W, G, biases, norms") \
    X(float, beta1,          "-b1", "0.9",        0, 0.9999,   "AdamW's beta 1") \
    X(float, beta2,          "-b2", "0.99",       0, 0.999999, "AdamW's beta 2") \
    X(float, clip,           "-c",  "1",          0, 1e9,      "largest gradient norm (0: no clipping)") \
    X(int,   seed,           "-s",  "1337",       0, 2147483647, "seed of weights, batches and samples") \
    X(int,   threads,        "-n",  "0",          0, 1024,     "threads (0: one per core)") \
    X(int,   log_every,      "-v",  "50",         1, 1000000000, "steps between progress lines (means over those steps)") \
    X(int,   val_every,      "-ve", "500",        0, 1000000000, "steps between validations (0: at the end only)") \
    X(int,   val_tokens,     "-vt", "65536",      0, 2147483647, "validation tokens (0: all)") \
    X(int,   save_every,     "-se", "0",          0, 1000000000, "steps between checkpoints (0: at the end only)") \
    X(int,   overfit,        "-of", "0",          0, 1,        "1: train on one batch only; its loss must go to nearly 0") \
    X(flag,  eval_only,      "-e",  "0",          0, 1,        "validate the --init model and stop") \
    X(text,  dump_routing,   "-dr", "",           0, 0,        "write loss and experts of every validation token to this file") \
    X(text,  prompt,         "-p",  "",           0, 0,        "continue this text with the --init model and stop") \
    X(int,   generate,       "-gn", "256",        0, 1000000,  "tokens to generate, after training too") \
    X(float, temperature,    "-gt", "0.8",        0, 100,      "sampling temperature (0: always the most likely token)") \
    X(int,   top_k_sample,   "-gk", "0",          0, 1000000,  "sample among this many most likely tokens (0: all)") \
    X(text,  dump_logits,    "-dl", "",           0, 0,        "with --prompt: write the prompt's logits to this file")

typedef struct {
    #define X(type, field, twin, value, low, high, help) type field;
    FLAGS(X)
    #undef X
} Settings;

typedef struct { const char *field, *type, *twin, *value; double low, high; const char* help; size_t place; } Flag;

const Flag flag_table[] = {
    #define X(type, field, twin, value, low, high, help) {#field, #type, twin, value, low, high, help, offsetof(Settings, field)},
    FLAGS(X)
    #undef X
};
#define N_FLAGS ((int)(sizeof flag_table / sizeof flag_table[0]))

void flag_name(char* name, const Flag* f) { // train_fallback -> --train-fallback
    snprintf(name, 32, "--%s", f->field);
    for (char* p = name; *p; p++) { if (*p == '_') { *p = '-'; } }
}

void flag_set(Settings* s, const Flag* f, const char* value) {
    char name[32], *end;
    void* place = (char*)s + f->place;
    flag_name(name, f);
    if (strcmp(f->type, "text") == 0) {
        if (strlen(value) > 500) { die_usage(NULL, "%s: more than 500 characters", name); }
        *(text*)place = value;
        return;
    }
    errno = 0;
    double x = strtod(value, &end);
    int whole = strcmp(f->type, "float") != 0;
    if (end == value || *end != '\0' || errno != 0 || !(x >= f->low && x <= f->high) || (whole && x != floor(x))) {
        die_usage("--help lists flags and defaults", "%s %s: expected a %s from %g to %g", name, value, whole ? "whole number" : "number", f->low, f->high);
    }
    if (whole) { *(int*)place = (int)x; } else { *(float*)place = (float)x; }
}

void flag_print(char* out, size_t room, const Settings* s, const Flag* f) { // the value as text
    const void* place = (const char*)s + f->place;
    if (strcmp(f->type, "text") == 0) { snprintf(out, room, "%s", *(const text*)place); }
    else if (strcmp(f->type, "float") == 0) { snprintf(out, room, "%.9g", (double)*(const float*)place); }
    else { snprintf(out, room, "%d", *(const int*)place); }
}

const Flag* flag_find(const char* name, size_t n) { // by long name or twin; NULL if there is no such flag
    char full[32];
    for (int i = 0; i < N_FLAGS; i++) {
        flag_name(full, &flag_table[i]);
        if ((strlen(full) == n && strncmp(full, name, n) == 0) || (strlen(flag_table[i].twin) == n && strncmp(flag_table[i].twin, name, n) == 0)) {
            return &flag_table[i];
        }
    }
    return NULL;
}

void flags_help(void) {
    char name[64];
    printf("train_gpt2_dynmoe: trains a GPT-2 with DynMoE layers on the CPU\n\n  ./train_gpt2_dynmoe --data FILE [flags]\n\n");
    for (int i = 0; i < N_FLAGS; i++) {
        const Flag* f = &flag_table[i];
        flag_name(name, f);
        if (strcmp(f->type, "flag") != 0) { snprintf(name + strlen(name), 16, " %s", strcmp(f->type, "text") == 0 ? "TEXT" : strcmp(f->type, "int") == 0 ? "N" : "X"); }
        printf("  %-21s %-4s %-11s %s\n", name, f->twin, strcmp(f->type, "flag") == 0 ? "" : f->value, f->help);
    }
}

void flags_apply(Settings* s, const char* list) { // "name=value name=value ..."
    static char memory[1024]; // text values point into it
    snprintf(memory, sizeof memory, "%s", list);
    for (char* word = strtok(memory, " "); word != NULL; word = strtok(NULL, " ")) {
        char* equals = strchr(word, '=');
        *equals = '\0';
        for (int i = 0; i < N_FLAGS; i++) { if (strcmp(flag_table[i].field, word) == 0) { flag_set(s, &flag_table[i], equals + 1); } }
    }
}

void flags_parse(Settings* s, int argc, char** argv, int only_first) {
    // --name value or --name=value. only_first: just the flags that set others, so that every other flag wins over them.
    for (int i = 1; i < argc; i++) {
        const char* equals = strncmp(argv[i], "--", 2) == 0 ? strchr(argv[i], '=') : NULL;
        const Flag* f = flag_find(argv[i], equals ? (size_t)(equals - argv[i]) : strlen(argv[i]));
        const char* value = equals ? equals + 1 : "1";
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) { flags_help(); exit(0); }
        if (f == NULL) { die_usage("--help lists all flags", "unknown flag %s", argv[i]); }
        if (equals == NULL && strcmp(f->type, "flag") != 0) {
            if (++i == argc) { die_usage("--help lists all flags", "%s needs a value", argv[i - 1]); }
            value = argv[i];
        }
        if (!only_first || !strcmp(f->field, "preset") || !strcmp(f->field, "depth") || !strcmp(f->field, "resume")) { flag_set(s, f, value); }
    }
}

Settings flags_read(int argc, char** argv) {
    // defaults, then the flags of a resumed run, then --preset and --depth, then the command line as it stands
    Settings s;
    char list[256], key[64];
    for (int i = 0; i < N_FLAGS; i++) { flag_set(&s, &flag_table[i], flag_table[i].value); }
    flags_parse(&s, argc, argv, 1);
    if (*s.resume) {
        static SafeFile f; // stays open: text values point into it
        f = safetensors_open(s.resume);
        for (int i = 0; i < N_FLAGS; i++) {
            snprintf(key, sizeof key, "flag.%s", flag_table[i].field);
            if (safetensors_meta(&f, key) != NULL && strcmp(flag_table[i].field, "resume") != 0) { flag_set(&s, &flag_table[i], safetensors_meta(&f, key)); }
        }
        flags_parse(&s, argc, argv, 1);
    } else if (strcmp(s.preset, "authors") == 0) {
        flags_apply(&s, "kgrad=detached unit_norm=0 aux_balance=0.01 aux_efficiency=0.01 expert_init=copies");
    } else if (strcmp(s.preset, "paper") != 0) {
        die_usage("paper or authors", "--preset %s: no such preset", s.preset);
    }
    if (s.depth > 0 && !*s.resume) {
        snprintf(list, sizeof list, "layers=%d heads=%d channels=%d context=%d lr=%g", s.depth, s.depth, 64 * s.depth, s.depth > 4 ? 256 : 64,
                 1e-3 * sqrt(2.0 / s.depth)); // the width of the default, 128 channels, has lr 1e-3
        flags_apply(&s, list);
    }
    flags_parse(&s, argc, argv, 0);
    return s;
}

void config_check(const Config* c) { // sizes from flags or from a file, before anything is allocated
    if (c->L < 1 || c->L > MAX_LAYERS || c->T < 1 || c->C < 1 || c->C > 65536 || c->NH < 1 || c->V < 1 || c->Vp < c->V || c->E < 0 || c->E > MAX_EXPERTS) {
        die(NULL, "impossible sizes: layers %d, context %d, channels %d, heads %d, vocabulary %d of %d, experts %d", c->L, c->T, c->C, c->NH, c->V, c->Vp, c->E);
    }
    if (c->C % c->NH != 0) { die_usage("channels must be a multiple of heads", "--channels %d with --heads %d: does not divide", c->C, c->NH); }
    if (c->E > c->C) { die_usage("orthonormal rows of W need experts <= channels", "--experts %d with --channels %d", c->E, c->C); }
}

void moe_layers_parse(Config* c, const char* list) { // every2, all, none, or 0,2,5
    for (int l = 0; l < MAX_LAYERS; l++) { c->moe[l] = l < c->L && (!strcmp(list, "all") || (!strcmp(list, "every2") && l % 2 == 0)); }
    if (!strcmp(list, "all") || !strcmp(list, "every2") || !strcmp(list, "none") || *list == '\0') { return; }
    for (const char* p = list; ; p++) {
        char* end;
        long l = strtol(p, &end, 10);
        if (end == p || (*end != ',' && *end != '\0') || l < 0 || l >= c->L) {
            die_usage("every2, all, none, or numbers below --layers with commas between", "--moe-layers %s: not a list of layers below %d", list, c->L);
        }
        c->moe[l] = 1;
        if (*end == '\0') { return; }
        p = end;
    }
}

int either(const char* name, const char* value, const char* no, const char* yes) { // 0 for no, 1 for yes
    if (strcmp(value, no) != 0 && strcmp(value, yes) != 0) { die_usage("--help lists all flags", "%s %s: expected %s or %s", name, value, no, yes); }
    return strcmp(value, yes) == 0;
}

void config_routing(Config* c, const Settings* s) { // the flags that are not sizes
    c->tau = s->gate_scale;
    c->normalised = either("--kgrad", s->kgrad, "detached", "normalised");
    c->train_fallback = s->train_fallback;
    c->aux_weight[0] = s->aux_diversity;
    c->aux_weight[1] = s->aux_simplicity;
    c->aux_weight[2] = s->aux_balance;
    c->aux_weight[3] = s->aux_efficiency;
}

Config config_from_flags(const Settings* s, int V) {
    Config c;
    memset(&c, 0, sizeof c);
    c.T = s->context; c.L = s->layers; c.NH = s->heads; c.C = s->channels; c.H = 4 * s->channels; c.E = s->experts;
    c.V = V;
    c.Vp = (V + 127) / 128 * 128;
    moe_layers_parse(&c, s->moe_layers);
    config_routing(&c, s);
    config_check(&c);
    if (s->start_experts > s->experts || s->min_experts > s->experts) { die_usage(NULL, "--start-experts and --min-experts cannot be above --experts %d", s->experts); }
    return c;
}

// ----------------------------------------------------------------------------------------------------------------------
// Checkpoints: parameters, masks, and what an exact continuation needs: moments, records, random states, flags

typedef struct {        // where a run is
    int step;           // steps done
    uint64_t rng_data, rng_sample;
    float best_val;     // nats
} Progress;

void checkpoint_save(const GPT2* model, const Settings* s, const Progress* p, const char* path) {
    const Config* c = &model->config;
    static const char* prefix[] = {"", "adam_m/", "adam_v/"};
    const float* memory[] = {model->params_memory, model->m_memory, model->v_memory};
    SafeTensor* t = (SafeTensor*)alloc_zeroed((size_t)(3 * model->n_tensors + 4 * c->L), sizeof(SafeTensor), "a checkpoint");
    size_t one = 1, E = (size_t)c->E, C = (size_t)c->C, length;
    int n = 0;
    char name[64], value[512], *meta;
    FILE* f = open_memstream(&meta, &length);
    for (int k = 0; k < 3; k++) {
        for (int i = 0; i < model->n_tensors; i++) {
            const Tensor* a = &model->table[i];
            t[n++] = safe_tensor(prefix[k], a->name, "F32", a->ndim, a->shape, memory[k] + a->offset);
        }
    }
    fprintf(f, "\"format\":\"dynmoe-checkpoint 1\",\"model\":\"gpt2\",\"L\":\"%d\",\"NH\":\"%d\",\"C\":\"%d\",\"T\":\"%d\",\"V\":\"%d\",\"Vp\":\"%d\",\"E\":\"%d\","
            "\"scale\":\"%.9g\",\"step\":\"%d\",\"rng_data\":\"%" PRIu64 "\",\"rng_sample\":\"%" PRIu64 "\",\"best_val\":\"%.9g\",\"recording\":\"%d\",\"moe_layers\":\"",
            c->L, c->NH, c->C, c->T, c->V, c->Vp, c->E, (double)c->tau, p->step, p->rng_data, p->rng_sample, (double)p->best_val, model->recording);
    for (int l = 0, first = 1; l < c->L; l++) {
        const Layer* a = &model->layer[l];
        if (!c->moe[l]) { continue; }
        fprintf(f, first ? "%d" : ",%d", l);
        first = 0;
        snprintf(name, sizeof name, "h.%d.moe.mask", l);        t[n++] = safe_tensor("", name, "I32", 1, &E, a->mask);
        snprintf(name, sizeof name, "record/h.%d.count", l);    t[n++] = safe_tensor("", name, "I64", 1, &E, a->record_count);
        snprintf(name, sizeof name, "record/h.%d.sum", l);      t[n++] = safe_tensor("", name, "F64", 1, &C, a->record_sum);
        snprintf(name, sizeof name, "record/h.%d.unrouted", l); t[n++] = safe_tensor("", name, "I64", 1, &one, &a->record_unrouted);
    }
    fprintf(f, "\"");
    for (int i = 0; i < N_FLAGS; i++) {
        flag_print(value, sizeof value, s, &flag_table[i]);
        fprintf(f, ",\"flag.%s\":", flag_table[i].field);
        json_print(f, value, strlen(value));
    }
    fclose(f);
    safetensors_save(path, t, n, meta);
    free(meta);
    free(t);
}

const char* meta_text(const SafeFile* f, const char* key) {
    const char* value = safetensors_meta(f, key);
    if (value == NULL) { die("give a checkpoint that this program saved", "%s: no metadata %s", f->path, key); }
    return value;
}

int meta_int(const SafeFile* f, const char* key, int low, int high) {
    char* end;
    long x = strtol(meta_text(f, key), &end, 10);
    if (*end != '\0' || x < low || x > high) { die("the file is damaged", "%s: metadata %s is %s, expected %d to %d", f->path, key, meta_text(f, key), low, high); }
    return (int)x;
}

Config config_from_file(const SafeFile* f) { // the sizes; the rest is config_routing's
    Config c;
    memset(&c, 0, sizeof c);
    c.L = meta_int(f, "L", 1, MAX_LAYERS);
    c.T = meta_int(f, "T", 1, 1 << 20);
    c.NH = meta_int(f, "NH", 1, 65536);
    c.C = meta_int(f, "C", 1, 65536);
    c.H = 4 * c.C;
    c.V = meta_int(f, "V", 1, 1 << 24);
    c.Vp = meta_int(f, "Vp", c.V, (1 << 24) + 128);
    c.E = meta_int(f, "E", 0, MAX_EXPERTS);
    moe_layers_parse(&c, meta_text(f, "moe_layers"));
    config_check(&c);
    return c;
}

void load_tensor(const SafeFile* f, const char* prefix, const char* name, const char* dtype, size_t bytes, int ndim, const size_t* shape, void* out) {
    char full[128];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    const SafeTensor* t = safetensors_find(f, full);
    if (t == NULL) { die("give a checkpoint that this program saved", "%s: no tensor %s", f->path, full); }
    int same = strcmp(t->dtype, dtype) == 0 && t->ndim == ndim && t->bytes == bytes;
    for (int i = 0; same && i < ndim; i++) { same = t->shape[i] == shape[i]; }
    if (!same) { die("the file does not fit its own metadata", "%s: tensor %s has another dtype or shape than the model", f->path, full); }
    memcpy(out, t->data, bytes);
}

void checkpoint_load(GPT2* model, const SafeFile* f, Progress* p) {
    // parameters and masks; with p not NULL also all that an exact continuation needs
    const Config* c = &model->config;
    size_t one = 1, E = (size_t)c->E, C = (size_t)c->C;
    char name[64];
    for (int i = 0; i < model->n_tensors; i++) {
        const Tensor* t = &model->table[i];
        load_tensor(f, "", t->name, "F32", t->size * 4, t->ndim, t->shape, model->params_memory + t->offset);
        if (p == NULL) { continue; }
        load_tensor(f, "adam_m/", t->name, "F32", t->size * 4, t->ndim, t->shape, model->m_memory + t->offset);
        load_tensor(f, "adam_v/", t->name, "F32", t->size * 4, t->ndim, t->shape, model->v_memory + t->offset);
    }
    for (int l = 0; l < c->L; l++) {
        Layer* a = &model->layer[l];
        if (!c->moe[l]) { continue; }
        snprintf(name, sizeof name, "h.%d.moe.mask", l);
        load_tensor(f, "", name, "I32", E * 4, 1, &E, a->mask);
        for (int e = 0; e < c->E; e++) { if (a->mask[e] != 0 && a->mask[e] != 1) { die("the file is damaged", "%s: %s is not 0 or 1", f->path, name); } }
        if (p == NULL) { continue; }
        snprintf(name, sizeof name, "h.%d.count", l);    load_tensor(f, "record/", name, "I64", E * 8, 1, &E, a->record_count);
        snprintf(name, sizeof name, "h.%d.sum", l);      load_tensor(f, "record/", name, "F64", C * 8, 1, &C, a->record_sum);
        snprintf(name, sizeof name, "h.%d.unrouted", l); load_tensor(f, "record/", name, "I64", 8, 1, &one, &a->record_unrouted);
    }
    if (p == NULL) { return; }
    model->recording = meta_int(f, "recording", 0, 1);
    p->step = meta_int(f, "step", 0, 2000000000);
    p->rng_data = strtoull(meta_text(f, "rng_data"), NULL, 10);
    p->rng_sample = strtoull(meta_text(f, "rng_sample"), NULL, 10);
    p->best_val = strtof(meta_text(f, "best_val"), NULL);
    if (p->rng_data == 0 || p->rng_sample == 0) { die("the file is damaged", "%s: a random state of 0", f->path); }
}

// ----------------------------------------------------------------------------------------------------------------------
// Data: text as bytes (V = 256), or llm.c's token shards (.bin: 256 int32 of header, then uint16 tokens; V = 50257)

typedef struct { const unsigned char* bytes; size_t n; } Shard;         // n tokens
typedef struct { Shard* shard; int n, width; const char* path; } Data;  // width: bytes per token, 1 or 2

int data_token(const Data* d, const Shard* s, size_t i) { return d->width == 1 ? s->bytes[i] : s->bytes[2 * i] | s->bytes[2 * i + 1] << 8; }

int is_bin(const char* path) { size_t n = strlen(path); return n > 4 && strcmp(path + n - 4, ".bin") == 0; }

void data_add(Data* d, const char* path) { // maps one file, checks its header
    size_t size;
    Shard s = {map_file(path, &size), size};
    if (is_bin(path)) {
        int32_t header[3] = {0, 0, 0};
        if (size >= 1024) { memcpy(header, s.bytes, sizeof header); }
        if (header[0] != 20240520 || header[1] != 1) { die("make token files with llm.c's data scripts", "%s: not an llm.c token file of version 1", path); }
        if (header[2] < 0 || size != 1024 + 2 * (size_t)header[2]) {
            die("the file is cut or damaged: copy it again", "%s: the header says %d tokens, the file has room for %zu", path, header[2], (size - 1024) / 2);
        }
        s.bytes += 1024;
        s.n = (size_t)header[2];
    }
    d->shard = (Shard*)realloc(d->shard, (size_t)(d->n + 1) * sizeof(Shard));
    d->shard[d->n++] = s;
}

Data data_open(const char* pattern) {
    Data d = {NULL, 0, is_bin(pattern) ? 2 : 1, pattern};
    glob_t g;
    if (access(pattern, F_OK) == 0) { data_add(&d, pattern); return d; }
    if (glob(pattern, 0, NULL, &g) != 0) { die("check the path; data/languages makes the default text (make data)", "%s: no such file", pattern); }
    for (size_t i = 0; i < g.gl_pathc; i++) { data_add(&d, g.gl_pathv[i]); }
    globfree(&g);
    return d;
}

Data data_split(Data* train) { // takes the last 10 percent of the last file away from train
    Data val = {(Shard*)alloc_zeroed(1, sizeof(Shard), "data"), 1, train->width, train->path};
    Shard* last = &train->shard[train->n - 1];
    size_t keep = last->n - last->n / 10;
    val.shard[0].bytes = last->bytes + keep * (size_t)train->width;
    val.shard[0].n = last->n - keep;
    last->n = keep;
    return val;
}

size_t data_windows(const Data* d, int T) { // how many windows of T tokens and their targets, side by side
    size_t n = 0;
    for (int i = 0; i < d->n; i++) { n += d->shard[i].n > 0 ? (d->shard[i].n - 1) / (size_t)T : 0; }
    return n;
}

void data_read(const Data* d, const Shard* s, size_t at, int* x, int* y, int T, int V) { // x (T) tokens from at, y (T) the next ones
    for (int t = 0; t <= T; t++) {
        int token = data_token(d, s, at + (size_t)t);
        if (token >= V) { die("give data of the model's vocabulary", "%s: token %d at %zu, the vocabulary has %d", d->path, token, at + (size_t)t, V); }
        if (t < T) { x[t] = token; }
        if (t > 0) { y[t - 1] = token; }
    }
}

void data_window(const Data* d, size_t window, int* x, int* y, int T, int V) { // window number w of all shards
    const Shard* s = d->shard;
    for (; window >= (s->n > 0 ? (s->n - 1) / (size_t)T : 0); s++) { window -= s->n > 0 ? (s->n - 1) / (size_t)T : 0; }
    data_read(d, s, window * (size_t)T, x, y, T, V);
}

void data_random(const Data* d, uint64_t* rng, int* x, int* y, int B, int T, int V) { // B windows that start anywhere
    size_t places = 0;
    for (int i = 0; i < d->n; i++) { places += d->shard[i].n > (size_t)T ? d->shard[i].n - (size_t)T : 0; }
    if (places == 0) { die("give more text or lower --context", "%s: no room for %d tokens and a target", d->path, T); }
    for (int b = 0; b < B; b++) {
        const Shard* s = d->shard;
        uint64_t high = random_u32(rng), at = (high << 32 | random_u32(rng)) % places;
        for (; at >= (s->n > (size_t)T ? s->n - (size_t)T : 0); s++) { at -= s->n > (size_t)T ? s->n - (size_t)T : 0; }
        data_read(d, s, at, x + (size_t)b * T, y + (size_t)b * T, T, V);
    }
}

// ----------------------------------------------------------------------------------------------------------------------
// Watching: who uses which expert, on the terminal and in log.jsonl

typedef struct { double tokens, rows, none, load[MAX_EXPERTS], hist[MAX_EXPERTS + 1]; } Routing; // one layer; hist: tokens by k

void routing_add(Routing* r, const Layer* a, int N, int E) {
    r->tokens += N;
    r->rows += a->R;
    r->none += a->unrouted;
    for (int e = 0; e < E; e++) { r->load[e] += a->offset[e + 1] - a->offset[e]; }
    for (int i = 0; i < N; i++) { r->hist[a->k[i]]++; }
}

int experts_active(const Layer* a, int E) {
    int n = 0;
    for (int e = 0; e < E; e++) { n += a->mask[e]; }
    return n;
}

const char* shade(double share) { // a cell of the heat map, 0 to 1; two characters wide
    static const char* blocks[] = {"  ", "\xe2\x96\x91\xe2\x96\x91", "\xe2\x96\x92\xe2\x96\x92", "\xe2\x96\x93\xe2\x96\x93", "\xe2\x96\x88\xe2\x96\x88"};
    static const char* ascii[] = {"  ", "..", "::", "++", "##"};
    const char* where[] = {getenv("LC_ALL"), getenv("LC_CTYPE"), getenv("LANG")};
    int utf8 = 0, level = share <= 0.0 ? 0 : share < 0.25 ? 1 : share < 0.5 ? 2 : share < 0.75 ? 3 : 4;
    for (int i = 0, set = 0; i < 3 && !set; i++) { // the first of the three that is set decides
        set = where[i] != NULL && *where[i];
        utf8 = set && (strstr(where[i], "UTF-8") || strstr(where[i], "utf8"));
    }
    return isatty(STDOUT_FILENO) && utf8 ? blocks[level] : ascii[level];
}

void heat_map(const GPT2* model, const Routing* r) {
    // rows: DynMoE layers. Left: share of tokens that use each expert, -- for free slots. Right: share of tokens with k = 0, 1, ...
    int E = model->config.E;
    printf("%*s\n", 10 + 2 * E + 22 + 2 * E, "");
    printf("  expert  |");
    for (int e = 0; e < E; e++) { printf("%-2d", e); }
    printf("| mean k |k=");
    for (int k = 0; k <= E; k++) { printf("%-2d", k); }
    printf("|  shades: %s<25%% %s<50%% %s<75%% %s\n", shade(.1), shade(.3), shade(.6), shade(1));
    for (int l = 0; l < model->config.L; l++) {
        if (!model->config.moe[l]) { continue; }
        printf("  layer%3d|", l);
        for (int e = 0; e < E; e++) { printf("%s", model->layer[l].mask[e] ? shade(r[l].load[e] / r[l].tokens) : "--"); }
        printf("|  %5.2f |  ", r[l].rows / r[l].tokens);
        for (int k = 0; k <= E; k++) { printf("%s", shade(r[l].hist[k] / r[l].tokens)); }
        printf("|\n");
    }
}

FILE* log_open(const char* folder, int append) {
    char path[1024];
    if (mkdir(folder, 0777) != 0 && errno != EEXIST) { die("choose another --out", "%s: cannot make the folder: %s", folder, strerror(errno)); }
    snprintf(path, sizeof path, "%s/log.jsonl", folder);
    FILE* f = fopen(path, append ? "a" : "w");
    if (f == NULL) { die("choose another --out", "%s: %s", path, strerror(errno)); }
    return f;
}

void log_end(FILE* log) { // closes one record; a full disk is said at once
    fprintf(log, "}\n");
    if (fflush(log) != 0) { die("free some space, then --resume", "log.jsonl: %s", strerror(errno)); }
}

void log_routing(FILE* log, const GPT2* model, const Routing* r) { // one object per DynMoE layer
    int E = model->config.E;
    fprintf(log, ",\"layers\":[");
    for (int l = 0, first = 1; l < model->config.L; l++) {
        if (!model->config.moe[l]) { continue; }
        fprintf(log, "%s{\"layer\":%d,\"experts\":%d,\"k\":%.5f,\"none\":%.5f,\"load\":[", first ? "" : ",", l, experts_active(&model->layer[l], E),
                r[l].rows / r[l].tokens, r[l].none / r[l].tokens);
        for (int e = 0; e < E; e++) { fprintf(log, "%s%.5f", e ? "," : "", r[l].load[e] / r[l].tokens); }
        fprintf(log, "],\"hist\":[");
        for (int k = 0; k <= E; k++) { fprintf(log, "%s%.5f", k ? "," : "", r[l].hist[k] / r[l].tokens); }
        fprintf(log, "]}");
        first = 0;
    }
    fprintf(log, "]");
}

// ----------------------------------------------------------------------------------------------------------------------
// Validation, sampling, training

float evaluate(GPT2* model, const Data* d, size_t max_tokens, int B, int T, Routing* r, const char* dump) {
    // mean loss (nats) over the first max_tokens (0: all) in windows of T tokens, in evaluation mode; r (L) is filled
    // dump: a file for every token's loss and experts, or NULL
    const Config* c = &model->config;
    size_t windows = data_windows(d, T), n = 0, E = (size_t)c->E;
    if (max_tokens > 0 && windows > (max_tokens + T - 1) / T) { windows = (max_tokens + T - 1) / T; }
    if (windows == 0) { die("give more text, or --val FILE", "%s: validation has no room for %d tokens and a target", d->path, T); }
    int* x = (int*)alloc_zeroed((windows + B) * T, sizeof(int), "validation tokens");
    int* y = (int*)alloc_zeroed((size_t)B * T, sizeof(int), "validation targets");
    float* losses = (float*)alloc_zeroed(windows * T, sizeof(float), "validation losses");
    unsigned char* open = (unsigned char*)alloc_zeroed(dump ? c->L * windows * T * E : 0, 1, "routing");
    int32_t* k = (int32_t*)alloc_zeroed(dump ? c->L * windows * T : 0, sizeof(int32_t), "routing");
    double sum = 0.0;
    memset(r, 0, sizeof(Routing) * (size_t)c->L);
    for (size_t w = 0; w < windows; w += (size_t)B) {
        int b = windows - w < (size_t)B ? (int)(windows - w) : B;
        for (int i = 0; i < b; i++) { data_window(d, w + i, x + (w + i) * T, y + (size_t)i * T, T, c->V); }
        gpt2_forward(model, x + w * T, y, b, T, 0);
        memcpy(losses + n, model->losses, (size_t)b * T * sizeof(float));
        for (int l = 0; l < c->L; l++) {
            const Layer* a = &model->layer[l];
            if (!c->moe[l]) { continue; }
            routing_add(&r[l], a, b * T, c->E);
            for (size_t i = 0; dump && i < (size_t)b * T * E; i++) { open[(l * windows * T + n) * E + i] = (unsigned char)a->open[i]; }
            if (dump) { memcpy(k + l * windows * T + n, a->k, (size_t)b * T * sizeof(int)); }
        }
        n += (size_t)b * T;
    }
    for (size_t i = 0; i < n; i++) { sum += losses[i]; }
    if (dump) {
        SafeTensor t[2 + 2 * MAX_LAYERS];
        size_t shape[2] = {n, E};
        char name[64], meta[512], list[300] = "";
        int m = 2;
        t[0] = safe_tensor("", "token", "I32", 1, shape, x);
        t[1] = safe_tensor("", "loss", "F32", 1, shape, losses);
        for (int l = 0; l < c->L; l++) {
            if (!c->moe[l]) { continue; }
            snprintf(list + strlen(list), sizeof list - strlen(list), "%s%d", *list ? "," : "", l);
            snprintf(name, sizeof name, "h.%d.open", l); t[m++] = safe_tensor("", name, "U8", 2, shape, open + l * windows * T * E);
            snprintf(name, sizeof name, "h.%d.k", l);    t[m++] = safe_tensor("", name, "I32", 1, shape, k + l * windows * T);
        }
        snprintf(meta, sizeof meta, "\"format\":\"dynmoe-routing 1\",\"T\":\"%d\",\"moe_layers\":\"%s\"", T, list);
        safetensors_save(dump, t, m, meta);
    }
    free(x); free(y); free(losses); free(open); free(k);
    return (float)(sum / (double)n);
}

typedef struct { float p; int token; } Choice;

int compare_choices(const void* a, const void* b) { // most likely first; equal ones in order of their token
    const Choice *x = (const Choice*)a, *y = (const Choice*)b;
    return x->p != y->p ? (x->p < y->p) - (x->p > y->p) : x->token - y->token;
}

int sample_token(const float* logits, int V, float temperature, int top_k, uint64_t* rng) {
    // logits (V) -> a token drawn from softmax(logits / temperature) over the top_k largest (0: all)
    Choice* c = (Choice*)alloc_zeroed((size_t)V, sizeof(Choice), "sampling");
    int n = temperature == 0.0f ? 1 : top_k > 0 && top_k < V ? top_k : V, token;
    float sum = 0.0f, at;
    for (int v = 0; v < V; v++) { c[v].p = logits[v]; c[v].token = v; }
    qsort(c, (size_t)V, sizeof(Choice), compare_choices);
    float max = c[0].p; // subtracted so that exp cannot overflow
    for (int i = 0; i < n; i++) { sum += c[i].p = n == 1 ? 1.0f : expf((c[i].p - max) / temperature); }
    at = random_f32(rng) * sum;
    token = c[n - 1].token; // if rounding leaves at above every sum
    for (int i = 0; i < n; i++) { at -= c[i].p; if (at < 0.0f) { token = c[i].token; break; } }
    free(c);
    return token;
}

void generate(GPT2* model, int* tokens, int n, int total, float temperature, int top_k, uint64_t* rng) {
    // tokens (total): the first n are given (n > 0), the rest is filled in, one forward each over the last T tokens
    for (; n < total; n++) {
        int t = n < model->config.T ? n : model->config.T;
        gpt2_forward(model, tokens + n - t, NULL, 1, t, 0);
        tokens[n] = sample_token(model->logits + (size_t)(t - 1) * model->config.Vp, model->config.V, temperature, top_k, rng);
    }
}

void print_tokens(const int* tokens, int n, int V) { // bytes as text (control characters as '?'), BPE tokens as numbers
    for (int i = 0; i < n; i++) {
        int c = tokens[i];
        if (V != 256) { printf("%d ", c); } else { putchar(c == '\n' || c == '\t' || (c >= 32 && c != 127) ? c : '?'); }
    }
    printf("\n");
}

float learning_rate(const Settings* s, int step) { // linear warm-up, then a cosine to lr_end * lr at the last step
    if (step < s->warmup) { return s->lr * (float)(step + 1) / (float)s->warmup; }
    float done = s->steps - 1 > s->warmup ? (float)(step - s->warmup) / (float)(s->steps - 1 - s->warmup) : 1.0f;
    return s->lr * (s->lr_end + (1.0f - s->lr_end) * 0.5f * (1.0f + cosf(3.14159265f * (done < 1.0f ? done : 1.0f))));
}

int window_begins(const Settings* s, int step) { // before the forward of this step; only if its end comes before adapt_stop
    return s->period > 0 && step % s->period == s->window && (float)(step + s->window) < s->adapt_stop * (float)s->steps;
}

void adapt_all(GPT2* model, const Settings* s, int step, FILE* log) { // the end of a window: update every layer, say what changed
    int removed[MAX_EXPERTS];
    for (int l = 0; l < model->config.L; l++) {
        Layer* a = &model->layer[l];
        if (!model->config.moe[l]) { continue; }
        int slot = gpt2_adapt(model, l, removed, s->min_experts);
        for (int e = 0; e < model->config.E; e++) {
            if (!removed[e]) { continue; }
            printf("step %d layer %d: - expert %d (chosen by nobody for %d steps)\n", step, l, e, s->window + 1);
            fprintf(log, "{\"type\":\"event\",\"step\":%d,\"layer\":%d,\"what\":\"remove\",\"expert\":%d,\"count\":0", step, l, e);
            log_end(log);
        }
        if (slot == ADD_NONE) { continue; }
        if (slot >= 0) { printf("step %d layer %d: + expert %d (%" PRId64 " tokens had chosen none)\n", step, l, slot, a->record_unrouted); }
        else { printf("step %d layer %d: the pool is full (%" PRId64 " tokens had chosen none)\n", step, l, a->record_unrouted); }
        fprintf(log, "{\"type\":\"event\",\"step\":%d,\"layer\":%d,\"what\":\"%s\",\"expert\":%d,\"count\":%" PRId64, step, l, slot >= 0 ? "add" : "full",
                slot >= 0 ? slot : -1, a->record_unrouted);
        log_end(log);
    }
}

double train_step(GPT2* model, const Settings* s, const Data* data, Progress* p, int* x, int* y, Routing* r, FILE* log, float* norm) {
    // one optimizer step on accum batches of the given data; returns its mean loss (nats); r (L) may be NULL
    double loss = 0.0;
    if (window_begins(s, p->step)) {
        gpt2_clear_records(model);
        model->recording = 1;
    }
    gpt2_zero_grad(model);
    for (int m = 0; m < s->accum; m++) {
        if (!s->overfit || p->step + m == 0) { data_random(data, &p->rng_data, x, y, s->batch, s->context, model->config.V); }
        loss += gpt2_forward(model, x, y, s->batch, s->context, 1) / s->accum;
        if (!isfinite(loss)) { die("lower --lr, or look at the last lines of log.jsonl", "step %d: the loss is not finite", p->step); }
        gpt2_backward(model, 1.0f / (float)s->accum);
        for (int l = 0; r != NULL && l < model->config.L; l++) { if (model->config.moe[l]) { routing_add(&r[l], &model->layer[l], s->batch * s->context, model->config.E); } }
    }
    *norm = (float)gpt2_grad_norm(model);
    gpt2_update(model, p->step, learning_rate(s, p->step), s->beta1, s->beta2, 1e-8f, s->weight_decay, s->clip > 0 && *norm > s->clip ? s->clip / *norm : 1.0f);
    for (int l = 0; s->unit_norm && l < model->config.L; l++) {
        if (model->config.moe[l]) { unit_rows(model->params.h[l].gatew, model->layer[l].mask, model->config.C, model->config.E); }
    }
    if (model->recording && p->step % s->period == 2 * s->window) {
        adapt_all(model, s, p->step, log);
        model->recording = 0;
    }
    p->step++;
    return loss;
}

void validate(GPT2* model, const Settings* s, const Data* val, Progress* p, Routing* r, FILE* log, int last) {
    float loss = evaluate(model, val, (size_t)s->val_tokens, s->batch, s->context, r, NULL);
    if (loss < p->best_val) { p->best_val = loss; }
    printf("step %d: validation loss %.4f nats, %.4f bits per %s\n", p->step, loss, loss / log1p(1.0), val->width == 1 ? "byte" : "token");
    if (model->config.E > 0 && (last || isatty(STDOUT_FILENO))) { heat_map(model, r); }
    fprintf(log, "{\"type\":\"val\",\"step\":%d,\"loss\":%.6f,\"bits\":%.6f", p->step, loss, loss / log1p(1.0));
    log_routing(log, model, r);
    log_end(log);
}

void progress_line(const GPT2* model, const Settings* s, const Progress* p, const Routing* r, double loss, float norm, double seconds, int steps, FILE* log) {
    double k = 0.0, none = 0.0, speed = (double)steps * s->accum * s->batch * s->context / seconds, eta = (s->steps - p->step) * seconds / steps;
    int moe = 0;
    char experts[128] = "";
    for (int l = 0; l < model->config.L; l++) {
        if (!model->config.moe[l]) { continue; }
        k += r[l].rows / r[l].tokens;
        none += r[l].none / r[l].tokens;
        if (moe++ < 12) { snprintf(experts + strlen(experts), 8, " %d", experts_active(&model->layer[l], model->config.E)); }
    }
    printf("step %5d/%d | loss %.3f | norm %.2f | lr %.1e", p->step, s->steps, loss, norm, learning_rate(s, p->step - 1));
    if (moe > 0) { printf(" | k %.2f | experts%s | none %.1f%%", k / moe, experts, 100.0 * none / moe); }
    printf(" | %.1fk tok/s | eta %dm%02ds\n", speed / 1000.0, (int)eta / 60, (int)eta % 60);
    fflush(stdout);
    fprintf(log, "{\"type\":\"step\",\"step\":%d,\"loss\":%.6f,\"aux\":%.6f,\"norm\":%.5f,\"lr\":%.6g,\"k\":%.4f,\"tok_s\":%.1f,\"ms\":%.3f", p->step, loss,
            model->aux, norm, learning_rate(s, p->step - 1), moe ? k / moe : 0.0, speed, 1000.0 * seconds / steps);
    log_routing(log, model, r);
    log_end(log);
}

void train(GPT2* model, const Settings* s, const Data* data, const Data* val, Progress* p, FILE* log) {
    size_t N = (size_t)s->batch * s->context, L = (size_t)model->config.L;
    int *x = (int*)alloc_zeroed(N, sizeof(int), "a batch"), *y = (int*)alloc_zeroed(N, sizeof(int), "a batch"), since = 0;
    Routing* r = (Routing*)alloc_zeroed(2 * L, sizeof(Routing), "statistics"); // r: of training, r + L: of validation
    char path[1024];
    double loss = 0.0, start = seconds_now(), from = start;
    float norm = 0.0f;
    snprintf(path, sizeof path, "%s/model.safetensors", s->out);
    if (p->step == 0) { validate(model, s, val, p, r + L, log, s->steps == 0); from = seconds_now(); }
    while (p->step < s->steps) {
        loss += train_step(model, s, data, p, x, y, r, log, &norm);
        since++;
        int done = p->step == s->steps;
        if (done || p->step == 1 || p->step % s->log_every == 0) {
            progress_line(model, s, p, r, loss / since, norm, seconds_now() - from, since, log);
            memset(r, 0, L * sizeof(Routing));
            loss = since = 0;
            from = seconds_now();
        }
        if (done || (s->val_every > 0 && p->step % s->val_every == 0)) { validate(model, s, val, p, r + L, log, done); from = seconds_now(); }
        if (done || (s->save_every > 0 && p->step % s->save_every == 0)) { checkpoint_save(model, s, p, path); }
    }
    fprintf(log, "{\"type\":\"end\",\"step\":%d,\"seconds\":%.2f,\"best\":%.6f", p->step, seconds_now() - start, p->best_val);
    log_end(log);
    if (s->steps > 0) { printf("%s: saved after %d steps, %.1f seconds\n", path, p->step, seconds_now() - start); }
    free(x); free(y); free(r);
}

void machine_name(char* out, size_t room) { // "AMD EPYC", as the system tells it
    char line[512];
    FILE* f = fopen("/proc/cpuinfo", "r");
    snprintf(out, room, "unknown CPU");
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        char* colon = strncmp(line, "model name", 10) == 0 ? strchr(line, ':') : NULL;
        if (colon == NULL) { continue; }
        line[strcspn(line, "\n")] = '\0';
        snprintf(out, room, "%s", colon + 2);
        break;
    }
    if (f != NULL) { fclose(f); }
}

void start_block(const GPT2* model, const Settings* s, const Data* data, const Data* val, FILE* log) {
    const Config* c = &model->config;
    char cpu[256], value[512];
    double expert = 2.0 * c->H * c->C + c->H + c->C, inactive = 0.0, attention = 0.0;
    int moe = 0;
    for (int l = 0; l < c->L; l++) { moe += c->moe[l]; inactive += c->moe[l] * c->E * expert; attention += 4.0 * c->T * c->C / 2; }
    double body = (double)model->n_params - inactive - (double)c->T * c->C; // used by every token, in matrices; wte counts once, as the head
    machine_name(cpu, sizeof cpu);
    printf("train_gpt2_dynmoe, commit %s, on %s, %d threads, matrices by %s\n", COMMIT, cpu, threads_count(), BLAS_NAME);
    printf("data      %s: %.3f million tokens; validation %.3f million tokens%s%s\n", data->path, 1e-6 * data->shard[0].n * data->n, 1e-6 * val->shard[0].n,
           *s->val ? " of " : ", its last part", *s->val ? s->val : "");
    printf("model     %d layers (%d DynMoE, pool of %d experts), %d heads, %d channels, context %d, vocabulary %d\n", c->L, moe, c->E, c->NH, c->C, c->T, c->V);
    printf("size      %.3f million parameters; a token uses %.3f million at k = 1, %.3f at k = 2: %.2f and %.2f MFLOP forward\n", 1e-6 * model->n_params,
           1e-6 * (body + moe * expert), 1e-6 * (body + 2 * moe * expert), 1e-6 * (2 * (body + moe * expert) + attention), 1e-6 * (2 * (body + 2 * moe * expert) + attention));
    printf("memory    parameters, gradients, moments %.1f MB; activations %.1f MB; rows of experts: %.3f MB for each mean k and layer\n",
           16e-6 * (double)model->n_params, 1e-6 * (double)model->act_bytes, 8e-6 * (c->C + c->H) * s->batch * s->context);
    printf("run       %d steps of %d x %d x %d tokens, seed %d; log in %s/log.jsonl\n\n", s->steps, s->accum, s->batch, s->context, s->seed, s->out);
    fprintf(log, "{\"type\":\"run\",\"version\":1,\"program\":\"train_gpt2_dynmoe.c\",\"commit\":\"%s\",\"machine\":", COMMIT);
    json_print(log, cpu, strlen(cpu));
    fprintf(log, ",\"threads\":%d,\"blas\":\"%s\",\"parameters\":%zu,\"flags\":{", threads_count(), BLAS_NAME, model->n_params);
    for (int i = 0; i < N_FLAGS; i++) {
        flag_print(value, sizeof value, s, &flag_table[i]);
        fprintf(log, "%s\"%s\":", i ? "," : "", flag_table[i].field);
        json_print(log, value, strlen(value));
    }
    fprintf(log, "}");
    log_end(log);
}

void continue_prompt(GPT2* model, const Settings* s) { // --prompt: prints the text and its continuation
    int n = (int)strlen(s->prompt), T = model->config.T, total = n + s->generate;
    size_t Vp = (size_t)model->config.Vp, V = (size_t)model->config.V;
    uint64_t rng = random_stream((uint64_t)s->seed, 2);
    if (V != 256) { die("prompts for models of BPE tokens are not here yet", "--prompt: the model does not read bytes"); }
    if (n == 0) { die_usage(NULL, "--prompt: give at least one character"); }
    int* tokens = (int*)alloc_zeroed((size_t)total, sizeof(int), "the text");
    for (int i = 0; i < n; i++) { tokens[i] = (unsigned char)s->prompt[i]; }
    if (*s->dump_logits) { // of the prompt's last T tokens, without the padded columns
        int t = n < T ? n : T;
        size_t shape[2] = {(size_t)t, V};
        gpt2_forward(model, tokens + n - t, NULL, 1, t, 0);
        for (int i = 0; i < t; i++) { memmove(model->logits + (size_t)i * V, model->logits + (size_t)i * Vp, V * sizeof(float)); }
        SafeTensor logits = safe_tensor("", "logits", "F32", 2, shape, model->logits);
        safetensors_save(s->dump_logits, &logits, 1, "\"format\":\"dynmoe-logits 1\"");
    }
    generate(model, tokens, n, total, s->temperature, s->top_k_sample, &rng);
    print_tokens(tokens, total, (int)V);
    free(tokens);
}

#ifndef TESTING
int main(int argc, char** argv) {
    static GPT2 model; // static: its table is large for a stack
    Settings s = flags_read(argc, argv);
    const char* from = *s.resume ? s.resume : s.init;
    int needs_data = !*s.prompt, training = needs_data && !s.eval_only;
    Progress p = {0, random_stream((uint64_t)s.seed, 1), random_stream((uint64_t)s.seed, 2), INFINITY};
    SafeFile file;
    Data data, val;
    Config config;
    threads_set(s.threads);
    if (argc == 1) { flags_help(); return 2; }
    if (s.period > 0 && 2 * s.window >= s.period) { die_usage("a period has a rest, a window of recording, a rest", "--window %d: must be less than half of --period %d", s.window, s.period); }
    if ((s.eval_only || *s.prompt) && !*from) { die_usage("train first: make train", "--eval-only and --prompt need --init FILE"); }
    if (needs_data) {
        if (!*s.data) { die_usage("any text file; make data makes the default one", "--data FILE is missing"); }
        data = data_open(s.data);
        val = *s.val ? data_open(s.val) : data_split(&data);
        if (val.width != data.width) { die_usage(NULL, "--val %s: one of --data and --val is a .bin, the other is not", s.val); }
    }
    if (*from) {
        file = safetensors_open(from);
        config = config_from_file(&file);
        config_routing(&config, &s);
        config.tau = strtof(meta_text(&file, "scale"), NULL);
        s.context = config.T;
        if (needs_data && config.V != (data.width == 1 ? 256 : 50257)) { die("give data of the kind it was trained on", "%s: its vocabulary of %d does not fit %s", from, config.V, s.data); }
    } else {
        config = config_from_flags(&s, data.width == 1 ? 256 : 50257);
    }
    gpt2_build(&model, config, training);
    if (*from) {
        checkpoint_load(&model, &file, *s.resume ? &p : NULL);
        if (!*s.resume) { safetensors_close(&file); }
    } else {
        uint64_t rng = random_stream((uint64_t)s.seed, 0);
        gpt2_init(&model, s.start_experts, either("--expert-init", s.expert_init, "random", "copies"), &rng);
    }
    gpt2_alloc_activations(&model, needs_data ? s.batch : 1, s.context, training);
    if (*s.prompt) { continue_prompt(&model, &s); return 0; }
    if (training) {
        FILE* log = log_open(s.out, *s.resume != '\0');
        start_block(&model, &s, &data, &val, log);
        train(&model, &s, &data, &val, &p, log);
        if (s.generate > 0 && s.steps > 0) {
            int* tokens = (int*)alloc_zeroed((size_t)s.generate + 1, sizeof(int), "a sample");
            tokens[0] = data.width == 1 ? '\n' : 50256;
            generate(&model, tokens, 1, s.generate + 1, s.temperature, s.top_k_sample, &p.rng_sample);
            printf("a sample of %d tokens at temperature %g:\n", s.generate, (double)s.temperature);
            print_tokens(tokens + 1, s.generate, config.V);
            free(tokens);
        }
        fclose(log);
    }
    if (s.eval_only || *s.dump_routing) { // the whole validation text
        static Routing r[MAX_LAYERS];
        float loss = evaluate(&model, &val, s.eval_only ? (size_t)s.val_tokens : 0, s.batch, s.context, r, *s.dump_routing ? s.dump_routing : NULL);
        printf("validation loss %.4f nats, %.4f bits per %s, over %.0f tokens\n", loss, loss / log1p(1.0), val.width == 1 ? "byte" : "token",
               (double)data_windows(&val, s.context) * s.context);
        if (s.eval_only && config.E > 0) { heat_map(&model, r); }
    }
    gpt2_free(&model);
    return 0;
}
#endif
