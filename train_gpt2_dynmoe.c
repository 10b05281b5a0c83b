/*
A GPT-2 whose feed-forward layers are DynMoE layers, trained on the CPU: the whole algorithm in one file.

DynMoE (Guo, Cheng, Tang, Tu, Lin: "Dynamic Mixture of Experts", ICLR 2025, arXiv 2405.14297): every token picks its own
number of experts, and experts are added and removed while training runs. This file is the reference that everything else
here is checked against. It reads from top to bottom: tools, layers (x_forward beside x_backward), the DynMoE layer, the
adaptive process, the model; there, halfway, the algorithm ends. What follows makes it a program that people can use: files,
flags, checkpoints, data, training. eq. (n) is an equation of the paper, (M..) one of docs/math.md.

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
is read as bytes. The gate's straight-through gradient is a heuristic, not the gradient of the loss: see gate_backward_add.
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
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef USE_ACCELERATE
#include <Accelerate/Accelerate.h>
#elif defined(USE_BLAS)
#include <cblas.h>
#undef I // complex.h takes this name, and comes with cblas.h
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
    require(p, "lower --batch, --context, --channels or --experts", "no memory for %s (%.1f MB)", what, 1e-6 * (double)n * size);
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
    int want = n > 0 ? n : omp_get_num_procs(), limit = omp_get_thread_limit(); // OMP_THREAD_LIMIT: above it OpenBLAS hangs
    omp_set_num_threads(want < limit ? want : limit);
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
    cblas_sgemm(CblasRowMajor, ta ? CblasTrans : CblasNoTrans, tb ? CblasTrans : CblasNoTrans, M, N, K, alpha, a, lda, b, ldb, beta,
                out, ldo);
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

// A product is cut into slices of its larger side, one for each thread. What a thread does is one function, so that several
// products that do not need each other run in one parallel region: starting one costs as much as a small product.

int slices_for(int M, int N, int K) { return (double)M * N * K < 30000.0 ? 1 : threads_count(); }

int slice_begin(int s, int slices, int side) { // of slice s, in whole vectors; its end is where s + 1 begins
    int width = (side / slices + 15) / 16 * 16;
    return s == slices || s * width > side ? side : s * width;
}

// out (M, N) = op(a) op(b) + beta * out, or with bias (N) op(a) op(b) + bias: slice s of it, in one thread
void matmul_slice(float* out, const float* a, int ta, const float* b, int tb, const float* bias, int M, int N, int K, float beta,
                  int s, int slices) {
    size_t rows = M >= N, begin = (size_t)slice_begin(s, slices, rows ? M : N), i = rows ? begin : 0, j = rows ? 0 : begin; // first
    int width = slice_begin(s + 1, slices, rows ? M : N) - (int)begin, m = rows ? width : M, n = rows ? N : width;
    float* o = out + i * N + j;
    for (int r = 0; bias != NULL && r < m; r++) { memcpy(o + (size_t)r * N, bias + j, (size_t)n * sizeof(float)); }
    sgemm(o, N, a + (ta ? i : i * K), ta ? M : K, ta, b + (tb ? j * K : j), tb ? K : N, tb, m, n, K, 1.0f,
          bias != NULL ? 1.0f : beta);
}

// all slices, on all cores
void matmul_bias(float* out, const float* a, int ta, const float* b, int tb, const float* bias, int M, int N, int K, float beta) {
    int slices = slices_for(M, N, K);
    #pragma omp parallel for schedule(static) if (slices > 1)
    for (int s = 0; s < slices; s++) { matmul_slice(out, a, ta, b, tb, bias, M, N, K, beta, s, slices); }
}

void matmul(float* out, const float* a, int ta, const float* b, int tb, int M, int N, int K, float beta) {
    // out (M, N) = op(a) op(b) + beta * out. op(a) (M, K) is a or, with ta 1, its transpose; op(b) (K, N) likewise. A beta of 0
    // does not read out.
    matmul_bias(out, a, ta, b, tb, NULL, M, N, K, beta);
}

void matmul_forward(float* out, const float* inp, const float* weight, const float* bias, int N, int C, int OC) {
    // inp (N, C), weight (OC, C), bias (OC) or NULL -> out (N, OC) = inp weight^T + bias
    matmul_bias(out, inp, 0, weight, 1, bias, N, OC, C, 0.0f); // (M1)
}

void matmul_backward(float* dinp, float* dweight, float* dbias, const float* dout, const float* inp, const float* weight,
                     int N, int C, int OC) {
    // forward: out = inp weight^T + bias
    // dout (N, OC) -> dinp (N, C) overwritten; dweight (OC, C), dbias (OC) or NULL added
    int slices = slices_for(N, C, OC);
    #pragma omp parallel for schedule(static) if (slices > 1)
    for (int s = 0; s < slices; s++) {
        matmul_slice(dinp, dout, 0, weight, 0, NULL, N, C, OC, 0.0f, s, slices); // (M2)
        matmul_slice(dweight, dout, 1, inp, 0, NULL, OC, C, N, 1.0f, s, slices); // (M3)
        for (int o0 = 64 * s; dbias != NULL && o0 < OC; o0 += 64 * slices) {
            int width = OC - o0 < 64 ? OC - o0 : 64; // rows are added in order: same bits for any number of threads
            for (int i = 0; i < N; i++) {
                for (int o = 0; o < width; o++) { dbias[o0 + o] += dout[(size_t)i * OC + o0 + o]; } // (M4)
            }
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
    uint32_t bits, low;
    memcpy(&bits, &p, sizeof bits);
    memcpy(&low, &shifted, sizeof low);
    bits += low << 23;                              // times 2^n; a NaN stays one
    memcpy(&p, &bits, sizeof bits);
    return p;
}

void embedding_forward(float* out, const int* tokens, const float* wte, const float* wpe, int B, int T, int C) {
    // tokens (B, T), wte (Vp, C), wpe (T, C) -> out (B, T, C) = wte[token] + wpe[t]
    #pragma omp parallel for schedule(static)
    for (int i = 0; i < B * T; i++) {
        const float* e = wte + (size_t)tokens[i] * C;
        const float* p = wpe + (size_t)(i % T) * C;
        for (int c = 0; c < C; c++) { out[(size_t)i * C + c] = e[c] + p[c]; } // (M5)
    }
}

void embedding_backward(float* dwte, float* dwpe, const float* dout, const int* tokens, int B, int T, int C) {
    // forward: out = wte[token] + wpe[t]. One thread: several tokens may hit the same row.
    for (int i = 0; i < B * T; i++) {
        float* de = dwte + (size_t)tokens[i] * C;
        float* dp = dwpe + (size_t)(i % T) * C;
        const float* d = dout + (size_t)i * C;
        for (int c = 0; c < C; c++) { de[c] += d[c]; dp[c] += d[c]; } // (M6)
    }
}

void layernorm_forward(float* out, float* mean, float* rstd, const float* inp, const float* weight, const float* bias,
                       int N, int C) {
    // inp (N, C) -> out (N, C) = (inp - mean) * rstd * weight + bias; mean, rstd (N) are kept for backward
    #pragma omp parallel for schedule(static)
    for (int i = 0; i < N; i++) {
        const float* x = inp + (size_t)i * C;
        float* o = out + (size_t)i * C;
        float sum = 0.0f, var = 0.0f;
        #pragma omp simd reduction(+:sum)
        for (int c = 0; c < C; c++) { sum += x[c]; }
        float m = sum / (float)C; // (M7)
        #pragma omp simd reduction(+:var)
        for (int c = 0; c < C; c++) { var += (x[c] - m) * (x[c] - m); }
        float r = 1.0f / sqrtf(var / (float)C + 1e-5f); // (M8)
        for (int c = 0; c < C; c++) { o[c] = (x[c] - m) * r * weight[c] + bias[c]; } // (M9)
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
        float a = 0.0f, b = 0.0f; // means of dnorm and of dnorm * norm: what the mean and the variance take away (M11)
        #pragma omp simd reduction(+:a, b)
        for (int c = 0; c < C; c++) {
            float dnorm = d[c] * weight[c];
            a += dnorm;
            b += dnorm * (x[c] - mean[i]) * rstd[i];
        }
        a /= (float)C;
        b /= (float)C;
        for (int c = 0; c < C; c++) { dx[c] += (d[c] * weight[c] - a - (x[c] - mean[i]) * rstd[i] * b) * rstd[i]; } // (M12)
    }
    #pragma omp parallel for schedule(static)
    for (int c0 = 0; c0 < C; c0 += 64) {
        for (int i = 0; i < N; i++) {
            for (int c = c0; c < C && c < c0 + 64; c++) {
                float d = dout[(size_t)i * C + c];
                dweight[c] += d * (inp[(size_t)i * C + c] - mean[i]) * rstd[i]; // (M10)
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
    for (int j = 0; j < width; j++) { row[j] = j < valid ? row[j] / sum : 0.0f; } // (M13)
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
                sgemm(a, T, q + (size_t)t0 * 3 * C, 3 * C, 0, k, 3 * C, 1, rows, width, HS, 1.0f / sqrtf((float)HS), 0.0f); // (M15)
                for (int i = 0; i < rows; i++) { softmax_row(a + (size_t)i * T, causal ? t0 + i + 1 : T, width); }
                sgemm(out + ((size_t)b * T + t0) * C + h * HS, C, a, T, 0, v, 3 * C, 0, rows, HS, width, 1.0f, 0.0f); // (M16)
            }
        }
    }
}

void attention_backward(float* dqkv, float* datt, const float* dout, const float* att, const float* qkv, int B, int T, int C,
                        int NH, int causal) {
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
                sgemm(dv, 3 * C, a, T, 1, d, C, 0, width, HS, rows, 1.0f, beta);                      // dv += att^T dout (M17)
                sgemm(da, T, d, C, 0, v, 3 * C, 1, rows, width, HS, 1.0f, 0.0f);                      // datt = dout v^T (M18)
                for (int i = 0; i < rows; i++) {                                                      // through the softmax
                    float sum = 0.0f;
                    #pragma omp simd reduction(+:sum)
                    for (int j = 0; j < width; j++) { sum += a[(size_t)i * T + j] * da[(size_t)i * T + j]; }
                    for (int j = 0; j < width; j++) {
                        da[(size_t)i * T + j] = a[(size_t)i * T + j] * (da[(size_t)i * T + j] - sum); // (M14)
                    }
                }
                sgemm(dq + (size_t)t0 * 3 * C, 3 * C, da, T, 0, k, 3 * C, 0, rows, HS, width, scale, 0.0f); // (M19)
                sgemm(dk, 3 * C, da, T, 1, q + (size_t)t0 * 3 * C, 3 * C, 0, width, HS, rows, scale, beta); // (M20)
            }
        }
    }
}

#define GELU_U(x) (1.5957691216f * ((x) + 0.044715f * (x) * (x) * (x))) // 2 sqrt(2/pi) (x + 0.044715 x^3) (M21)

void gelu_forward(float* out, const float* inp, size_t n) {
    // 0.5 x (1 + tanh(u/2)) = x / (1 + e^-u), u = GELU_U(x): GPT-2's tanh form
    #pragma omp parallel for simd schedule(static)
    for (size_t i = 0; i < n; i++) { out[i] = inp[i] / (1.0f + exp_fast(-GELU_U(inp[i]))); } // (M22)
}

void gelu_backward(float* dinp, const float* dout, const float* inp, size_t n) {
    // forward: out = x s(u), s(u) = 1 / (1 + e^-u). dinp may be dout.
    #pragma omp parallel for simd schedule(static)
    for (size_t i = 0; i < n; i++) {
        float x = inp[i], s = 1.0f / (1.0f + exp_fast(-GELU_U(x)));
        float du = 1.5957691216f * (1.0f + 3.0f * 0.044715f * x * x);
        dinp[i] = dout[i] * (s + x * s * (1.0f - s) * du); // (M23)
    }
}

void residual_forward(float* out, const float* a, const float* b, size_t n) {
    // its backward needs no function: the gradient of out is the gradient of a and of b
    #pragma omp parallel for simd schedule(static)
    for (size_t i = 0; i < n; i++) { out[i] = a[i] + b[i]; } // (M24)
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
        lse[i] = max + logf(sum); // (M25)
        losses[i] = lse[i] - z[targets[i]]; // (M26)
    }
}

void crossentropy_backward(float* logits, const float* lse, const int* targets, float scale, int N, int V, int Vp) {
    // forward: loss = lse - logits[target]. In place: logits (N, Vp) become scale * their gradient; padded columns get none
    #pragma omp parallel for schedule(static)
    for (int i = 0; i < N; i++) {
        float* z = logits + (size_t)i * Vp;
        for (int v = 0; v < V; v++) { z[v] = scale * exp_fast(z[v] - lse[i]); } // (M28)
        for (int v = V; v < Vp; v++) { z[v] = 0.0f; }
        z[targets[i]] -= scale;
    }
}

// ----------------------------------------------------------------------------------------------------------------------
// The DynMoE layer. Input x (N, C) is the ln2 output; it goes to the gate and to the experts.
//   router     which experts does each token use?         score, open, k, weight
//   dispatch   one row for each (token, open expert)       row_of, row_token, offset
//   experts    a GPT-2 feed-forward layer on each row      xr -> pre -> act -> out
//   combine    weighted sum over the rows of each token    y
// Symbols of the paper: W (E, C) gate matrix, G (E) thresholds, m (E) mask of the pool (1 = active), tau temperature.
// The paper's router, top-any, comes first. The softmax routers that it is compared with share all but gate_*.

#define NORM_EPS 1e-8f // the least length to divide by: 0 has cosine 0. A row of x or W not longer than this gets no gradient

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
            cosine[ie] /= fmaxf(xnorm[i], NORM_EPS) * fmaxf(wnorm[e], NORM_EPS); // (M29)
            open[ie] = mask[e] && cosine[ie] > G[e]; // (M30)
            k[i] += open[ie]; // (M31)
            if (mask[e] && (best < 0 || cosine[ie] > cosine[(size_t)i * E + best])) { best = e; }
        }
        if (k[i] == 0) {
            unrouted++;
            if (fallback && best >= 0) { open[(size_t)i * E + best] = 1; } // (M32)
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
            if (!open[ie]) { dgate[ie] = 0.0f; continue; } // (M48)
            float p = sigmoid(tau * cosine[ie]);
            float dc = tau * dgate[ie] * p * (1.0f - p);                  // dL/dcosine (M49)
            int directions = xnorm[i] > NORM_EPS && wnorm[e] > NORM_EPS;  // a zero vector has none: no gradient, no NaN
            sum_da += dgate[ie];
            sum_dc_c += directions ? dc * cosine[ie] : 0.0f;
            dgate[ie] = directions ? dc / (xnorm[i] * wnorm[e]) : 0.0f; // (M51)
        }
        dG[e] -= tau * q * (1.0f - q) * (float)sum_da; // (M50)
        if (wnorm[e] <= NORM_EPS) { continue; } // (M53) follows
        for (int c = 0; c < C; c++) { dW[(size_t)e * C + c] -= (float)sum_dc_c * W[(size_t)e * C + c] / (wnorm[e] * wnorm[e]); }
    }
    // d cosine / dW_e = (u - cosine v) / |W_e| and d cosine / dx = (v - cosine u) / |x| with unit vectors u = x/|x|, v = W_e/|W_e|
    matmul(dW, dgate, 1, x, 0, E, C, N, 1.0f); // (M52)
    matmul(dx, dgate, 0, W, 0, N, C, E, 1.0f); // (M54)
    #pragma omp parallel for schedule(static)
    for (int i = 0; i < N; i++) {
        if (xnorm[i] <= NORM_EPS) { continue; }
        float sum = 0.0f; // sum of dL/dcosine * cosine over the token's experts, over |x|^2
        for (int e = 0; e < E; e++) { sum += dgate[(size_t)i * E + e] * wnorm[e] / xnorm[i] * cosine[(size_t)i * E + e]; }
        for (int c = 0; c < C; c++) { dx[(size_t)i * C + c] -= sum * x[(size_t)i * C + c]; } // (M55)
    }
}

void mean_forward(float* weight, const int* open, const int* k, int N, int E) {
    // open (N, E), k (N) -> weight (N, E) = open / k: every chosen expert counts the same                         eq. (6)
    // A token that only the fallback serves has k = 0 and one open expert, of weight 1.
    for (int i = 0; i < N * E; i++) { weight[i] = (float)open[i] / (float)(k[i / E] > 0 ? k[i / E] : 1); } // (M33)
}

void mean_backward(float* dgate, const int* open, const int* k, int normalised, int N, int E) {
    // forward: weight_e = gate_e / k. In place: dgate (N, E) comes as dL/dweight, 0 for closed gates, and becomes dL/dgate:
    //   k detached   (the authors' code of today):        dgate_e = dweight_e / k
    //   k normalised (k = sum of gates, differentiable):  the same minus its mean over the token's open gates
    for (int i = 0; i < N; i++) {
        float* d = dgate + (size_t)i * E;
        float share = 1.0f / (float)(k[i] > 0 ? k[i] : 1), mean = 0.0f;
        for (int e = 0; e < E; e++) { d[e] *= share; mean += share * d[e]; } // (M46)
        for (int e = 0; normalised && e < E; e++) { d[e] -= open[(size_t)i * E + e] ? mean : 0.0f; } // (M47)
    }
}

// The softmax routers: p = softmax(W x) over the active experts, an order of the experts by p, and the first k of them.
//   top-k   k = K for every token; weight p / (sum of the chosen p), for K = 1 p itself       Switch, GShard
//   top-p   the fewest whose p add up to at least P; weight p                                 Huang et al. 2024
//   dense   all; weight p: the classical mixture. One expert: a plain feed-forward layer
enum { TOP_ANY, TOP_K, TOP_P, DENSE };
static const char* const router_names[] = {"top-any", "top-k", "top-p", "dense"};

void softmax_gate_forward(int* open, int* k, float* weight, float* prob, const float* x, const float* W, const int* mask,
                          int K, float P, int renormalise, int N, int C, int E) {
    // x (N, C), W (E, C), mask (E) -> prob (N, E), 0 for inactive experts; open (N, E), k (N), weight (N, E), 0 for closed ones
    // A token takes experts in descending order of p (of equals the lower number) until it has K, or their p add up to P.
    matmul(prob, x, 0, W, 1, N, E, C, 0.0f);
    #pragma omp parallel for schedule(static)
    for (int i = 0; i < N; i++) {
        float *p = prob + (size_t)i * E, *w = weight + (size_t)i * E, max = -FLT_MAX, sum = 0.0f, taken = 0.0f;
        for (int e = 0; e < E; e++) { max = mask[e] && p[e] > max ? p[e] : max; }
        for (int e = 0; e < E; e++) { p[e] = mask[e] ? expf(p[e] - max) : 0.0f; sum += p[e]; } // (M67)
        for (int e = 0; e < E; e++) { p[e] /= sum > 0.0f ? sum : 1.0f; w[e] = 0.0f; open[(size_t)i * E + e] = 0; }
        for (k[i] = 0; k[i] < K && (k[i] == 0 || taken < P); k[i]++) { // (M68)
            int best = -1;
            for (int e = 0; e < E; e++) {
                if (mask[e] && !open[(size_t)i * E + e] && (best < 0 || p[e] > p[best])) { best = e; }
            }
            if (best < 0) { break; }
            open[(size_t)i * E + best] = 1;
            w[best] = p[best];
            taken += p[best];
        }
        for (int e = 0; renormalise && e < E; e++) { w[e] /= taken > 0.0f ? taken : 1.0f; } // (M69)
    }
}

void softmax_gate_backward_add(float* dx, float* dW, float* dweight, const int* open, const float* weight, const float* prob,
                               const float* x, const float* W, float balance, const float* share, float entropy, int renormalise,
                               int N, int C, int E) {
    // forward: p = softmax(x W^T); weight = p, or with renormalise p / taken, over the chosen. dweight (N, E) becomes scratch.
    // balance * (sum_e share_e mean p_e) and entropy * (mean of -sum_e p_e log p_e) are added to the loss; see softmax_losses
    #pragma omp parallel for schedule(static)
    for (int i = 0; i < N; i++) {
        const float *p = prob + (size_t)i * E, *w = weight + (size_t)i * E;
        float *d = dweight + (size_t)i * E, taken = 0.0f, along = 0.0f, sum = 0.0f;
        for (int e = 0; e < E; e++) {
            taken += open[(size_t)i * E + e] ? p[e] : 0.0f;
            along += w[e] * d[e];
        }
        for (int e = 0; e < E; e++) {       // dL/dweight -> dL/dp
            if (!open[(size_t)i * E + e]) { d[e] = 0.0f; } else if (renormalise) { d[e] = (d[e] - along) / taken; } // (M70)
            d[e] += balance * share[e] / (float)N - (p[e] > 0.0f ? entropy / (float)N * (logf(p[e]) + 1.0f) : 0.0f); // (M73)
            sum += p[e] * d[e];
        }
        for (int e = 0; e < E; e++) { d[e] = p[e] * (d[e] - sum); } // through the softmax (M74)
    }
    matmul(dW, dweight, 1, x, 0, E, C, N, 1.0f); // (M75)
    matmul(dx, dweight, 0, W, 0, N, C, E, 1.0f); // (M76)
}

void route_stats(int* count, int* hist, float* low, float* high, const int* open, const int* k, const float* score, int N, int E) {
    // for those who watch: count (E) tokens that use e; hist (E + 1) tokens by k; low, high (E): smallest and largest score
    memset(count, 0, (size_t)E * sizeof(int));
    memset(hist, 0, (size_t)(E + 1) * sizeof(int));
    for (int e = 0; e < E; e++) { low[e] = FLT_MAX; high[e] = -FLT_MAX; }
    for (int i = 0; i < N; i++) {
        hist[k[i]]++;
        for (int e = 0; e < E; e++) {
            count[e] += open[(size_t)i * E + e];
            low[e] = fminf(low[e], score[(size_t)i * E + e]);
            high[e] = fmaxf(high[e], score[(size_t)i * E + e]);
        }
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
                row_of[(size_t)i * E + e] = R++; // (M34)
            }
        }
    }
    offset[E] = R;
    return R;
}

void gather_forward(float* xr, const float* x, const int* row_token, int R, int C) {
    // xr (R, C): row r is token row_token[r] of x (N, C)
    #pragma omp parallel for schedule(static)
    for (int r = 0; r < R; r++) { memcpy(xr + (size_t)r * C, x + (size_t)row_token[r] * C, (size_t)C * sizeof(float)); } // (M35)
}

int thread_each(const int* offset, int E) {
    // Does a thread take whole experts, or do all threads share each one? Products of few rows are better not cut, and need not
    // wait for each other. But an expert that has more than a thread's share of the rows would keep the others waiting.
    int largest = 0;
    for (int e = 0; e < E; e++) { largest = offset[e + 1] - offset[e] > largest ? offset[e + 1] - offset[e] : largest; }
    return threads_count() > 1 && (double)largest * threads_count() <= offset[E]; // inside of a parallel region: 1 thread
}

void experts_forward(float* out, float* pre, float* act, const float* xr, const float* fcw, const float* fcb, const float* fcprojw,
                     const float* fcprojb, const int* offset, int E, int C, int H) {
    // out (R, C) = gelu(xr fcw_e^T + fcb_e) fcprojw_e^T + fcprojb_e on the rows of expert e: offset[e] .. offset[e + 1]
    // xr (R, C), fcw (E, H, C), fcb (E, H), fcprojw (E, C, H), fcprojb (E, C); pre, act (R, H) are kept for backward
    // A dense feed-forward layer is one expert with all N rows. An expert without rows costs nothing.
    size_t HC = (size_t)H * C;
    if (thread_each(offset, E)) {
        #pragma omp parallel for schedule(dynamic)
        for (int e = 0; e < E; e++) {
            experts_forward(out, pre, act, xr, fcw + e * HC, fcb + (size_t)e * H, fcprojw + e * HC, fcprojb + (size_t)e * C,
                            offset + e, 1, C, H);
        }
        return;
    }
    for (int e = 0; e < E; e++) {
        size_t r = (size_t)offset[e];
        int n = offset[e + 1] - offset[e];
        if (n == 0) { continue; }
        matmul_forward(pre + r * H, xr + r * C, fcw + e * HC, fcb + (size_t)e * H, n, C, H); // (M40)
        gelu_forward(act + r * H, pre + r * H, (size_t)n * H); // (M41)
        matmul_forward(out + r * C, act + r * H, fcprojw + e * HC, fcprojb + (size_t)e * C, n, H, C); // (M42)
    }
}

void experts_backward(float* dxr, float* dpre, float* dfcw, float* dfcb, float* dfcprojw, float* dfcprojb, const float* dout,
                      const float* xr, const float* pre, const float* act, const float* fcw, const float* fcprojw,
                      const int* offset, int E, int C, int H) {
    // forward: pre = xr fcw^T + fcb; act = gelu(pre); out = act fcprojw^T + fcprojb, expert by expert
    // dout (R, C) -> dxr (R, C), which may be dout; dpre (R, H) is scratch; weight gradients added
    size_t HC = (size_t)H * C;
    if (thread_each(offset, E)) {
        #pragma omp parallel for schedule(dynamic)
        for (int e = 0; e < E; e++) {
            experts_backward(dxr, dpre, dfcw + e * HC, dfcb + (size_t)e * H, dfcprojw + e * HC, dfcprojb + (size_t)e * C,
                             dout, xr, pre, act, fcw + e * HC, fcprojw + e * HC, offset + e, 1, C, H);
        }
        return;
    }
    for (int e = 0; e < E; e++) {
        size_t r = (size_t)offset[e];
        int n = offset[e + 1] - offset[e];
        if (n == 0) { continue; }
        matmul_backward(dpre + r * H, dfcprojw + e * HC, dfcprojb + (size_t)e * C, dout + r * C, act + r * H, fcprojw + e * HC, n,
                        H, C); // (M43)
        gelu_backward(dpre + r * H, dpre + r * H, pre + r * H, (size_t)n * H); // (M44)
        matmul_backward(dxr + r * C, dfcw + e * HC, dfcb + (size_t)e * H, dpre + r * H, xr + r * C, fcw + e * HC, n, C, H); // (M45)
    }
}

void combine_forward(float* y, const float* out, const int* row_of, const float* weight, int N, int C, int E) {
    // y (N, C) = sum over the token's rows of out (R, C), times weight (N, E); NULL: plain sums                    eq. (6)
    // A token without rows (k = 0, no fallback) gets y = 0: it keeps its residual only.
    #pragma omp parallel for schedule(static)
    for (int i = 0; i < N; i++) {
        memset(y + (size_t)i * C, 0, (size_t)C * sizeof(float));
        for (int e = 0; e < E; e++) {
            int r = row_of[(size_t)i * E + e];
            float w = weight != NULL ? weight[(size_t)i * E + e] : 1.0f;
            for (int c = 0; r >= 0 && c < C; c++) { y[(size_t)i * C + c] += w * out[(size_t)r * C + c]; } // (M37)
        }
    }
}

void gather_backward(float* dx, const float* dxr, const int* row_of, int N, int C, int E) {
    // forward: xr[row_of[i, e]] = x[i]. dxr (R, C) -> dx (N, C) = sum over the token's rows, 0 for a token without rows
    combine_forward(dx, dxr, row_of, NULL, N, C, E); // (M36)
}

void combine_backward(float* dout, float* dweight, const float* dy, const float* out, const int* row_of, const float* weight,
                      int N, int C, int E) {
    // forward: y = sum_e weight_e out_e
    // dy (N, C) -> dout (R, C) = weight dy on every row; dweight (N, E) = <dy, out_e>, 0 for closed gates
    #pragma omp parallel for schedule(static)
    for (int i = 0; i < N; i++) {
        const float* d = dy + (size_t)i * C;
        for (int e = 0; e < E; e++) {
            int r = row_of[(size_t)i * E + e];
            float dot = 0.0f, w = weight[(size_t)i * E + e];
            #pragma omp simd reduction(+:dot)
            for (int c = 0; c < (r >= 0 ? C : 0); c++) {
                dout[(size_t)r * C + c] = w * d[c]; // (M38)
                dot += d[c] * out[(size_t)r * C + c];
            }
            dweight[(size_t)i * E + e] = dot; // (M39)
        }
    }
}

// The auxiliary terms. eq. (7) is the first two; the authors' repository of today has four. Each returns its value and, unless
// the pointer is NULL, adds weight * its gradient.

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

float balance_loss(float* dgate, const int* open, const int* k, float weight, int N, int E) {
    // over the N1 tokens with k > 0: ce_e = mean open (detached), me_e = mean open/k; E sum_e me_e ce_e, E the pool's size
    // dgate_e = E / (N1 k) (ce_e - mean of ce over the token's open gates): zero for k = 1, sums to zero over a token
    double me[MAX_EXPERTS] = {0}, ce[MAX_EXPERTS] = {0}, n1 = 0.0, sum = 0.0;
    for (int i = 0; i < N; i++) {
        for (int e = 0; k[i] > 0 && e < E; e++) {
            ce[e] += open[(size_t)i * E + e];
            me[e] += (double)open[(size_t)i * E + e] / k[i];
        }
        n1 += k[i] > 0;
    }
    for (int e = 0; n1 > 0.0 && e < E; e++) { ce[e] /= n1; sum += me[e] / n1 * ce[e]; } // (M62)
    for (int i = 0; dgate != NULL && i < N; i++) {
        double mean = 0.0;
        for (int e = 0; k[i] > 0 && e < E; e++) { mean += open[(size_t)i * E + e] * ce[e] / k[i]; } // (M64)
        for (int e = 0; k[i] > 0 && e < E; e++) {
            if (open[(size_t)i * E + e]) { dgate[(size_t)i * E + e] += (float)(weight * E / (n1 * k[i]) * (ce[e] - mean)); }
        }
    }
    return (float)(E * sum); // (M63)
}

float efficiency_loss(float* dgate, const int* open, const int* k, float weight, int N, int E) {
    // sum of gates / (N E) = mean k / E: the same push to close on every open gate
    double sum = 0.0;
    for (int i = 0; i < N; i++) {
        sum += k[i];
        for (int e = 0; dgate != NULL && k[i] > 0 && e < E; e++) {
            dgate[(size_t)i * E + e] += open[(size_t)i * E + e] ? weight / ((float)N * (float)E) : 0.0f; // (M66)
        }
    }
    return (float)(sum / ((double)N * E)); // (M65)
}

void softmax_losses(float* balance, float* entropy, float* share, const int* open, const float* prob, const int* mask, int per,
                    int N, int E) {
    // of the softmax routers. share (E) = E_a / n * the part of the tokens that use e, a constant; E_a active experts, n = per
    // balance = sum_e share_e mean p_e (GShard's and Switch's for K = n = 1); entropy = mean over tokens of -sum_e p_e log p_e
    double active = 0.0, b = 0.0, h = 0.0;
    for (int e = 0; e < E; e++) { active += mask[e]; }
    for (int e = 0; e < E; e++) {
        double used = 0.0, mean = 0.0;
        for (int i = 0; i < N; i++) {
            float p = prob[(size_t)i * E + e];
            used += open[(size_t)i * E + e];
            mean += p;
            h -= p > 0.0f ? p * log(p) : 0.0; // (M72)
        }
        share[e] = (float)(active / per * used / N);
        b += share[e] * mean / N; // (M71)
    }
    *balance = (float)b;
    *entropy = (float)(h / N);
}

// ----------------------------------------------------------------------------------------------------------------------
// The adaptive process (Algorithm 1): experts that nobody used in a window go, one comes if some token found none

void record_forward(int64_t* count, double* sum, int64_t* unrouted, const int* open, const int* k, const float* x, int N, int C,
                    int E) {
    // count (E) += tokens per expert (R_E); sum (C) += the raw x of tokens with k = 0 (R_S); unrouted += their number
    for (int i = 0; i < N; i++) {
        if (k[i] == 0) {
            *unrouted += 1;
            for (int c = 0; c < C; c++) { sum[c] += x[(size_t)i * C + c]; } // (M87)
        }
        for (int e = 0; k[i] > 0 && e < E; e++) { count[e] += open[(size_t)i * E + e]; } // (M86)
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
    int T, V, Vp, L, NH, C, H, E;   // see the legend at the top; H is the width of an expert, dense layers have 4C
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
#define MAX_TENSORS (4 + 18 * MAX_LAYERS)

// pointers to what the lists above name, for parameters or for their gradients
typedef struct {
    float *ln1w, *ln1b, *qkvw, *qkvb, *attprojw, *attprojb, *ln2w, *ln2b, *gatew, *gateG, *fcw, *fcb, *fcprojw, *fcprojb;
    float *sfcw, *sfcb, *sfcprojw, *sfcprojb;
} Block;
typedef struct { float *wte, *wpe, *lnfw, *lnfb; Block h[MAX_LAYERS]; } Parameters;

typedef struct {                    // one row of the table that is made from the lists
    char name[40];
    int ndim, first, decay, layer;  // layer -1: of the whole model
    int moe, slots;                 // moe: of a DynMoE layer, then slots = E, one slice per expert; else slots = 1
    size_t shape[3], size, offset;  // offset in floats, the same in the memories of parameters, gradients, m and v
} Tensor;

// What a layer keeps from forward for backward: type, field, how many. A dense layer has no gate, a DynMoE layer keeps pre and
// act (and xr and out) for the routed rows, see rows_reserve.
#define LAYER_MEMORY(X) \
    X(float, res, N * C)    X(float, ln1, N * C)        X(float, mean1, N)  X(float, rstd1, N)  X(float, qkv, N * 3 * C) \
    X(float, att, N * NH * T) X(float, atty, N * C)     X(float, mid, N * C) X(float, ln2, N * C) X(float, mean2, N) \
    X(float, rstd2, N)
#define DENSE_MEMORY(X) \
    X(float, pre, N * 4 * C) X(float, act, N * 4 * C)
#define GATE_MEMORY(X) \
    X(float, score, N * E)  X(float, weight, N * E)     X(float, dgate, N * E) X(float, xnorm, N) \
    X(int, open, N * E)     X(int, k, N)                X(int, row_of, N * E) X(int, row_token, N * E) \
    X(float, spre, N * S * H) X(float, sact, N * S * H) X(float, sout, N * C * (S > 0))
// The same for the whole model; the second list is scratch for backward
#define MODEL_MEMORY(X) \
    X(float, res, N * C)    X(float, lnf, N * C)        X(float, meanf, N)  X(float, rstdf, N) \
    X(float, logits, N * Vp) X(float, losses, N)        X(float, lse, N)
#define BACKWARD_MEMORY(X) \
    X(float, dres, N * C)   X(float, dln, N * C)        X(float, dqkv, N * 3 * C) X(float, datty, N * C) \
    X(float, datt, B * NH * QUERY_BLOCK * T)

#define FIELD(type, field, count) type* field;
typedef struct {
    LAYER_MEMORY(FIELD)
    DENSE_MEMORY(FIELD)
    GATE_MEMORY(FIELD)                  // score: cosine of top-any, p of the softmax routers
    float *rows, *xr, *out;             // memory of the routed rows: xr (R, C), out (R, C), pre (R, H), act (R, H)
    size_t rows_size;                   // in floats
    int offset[MAX_EXPERTS + 1], R;     // see dispatch
    float wnorm[MAX_EXPERTS], share[MAX_EXPERTS]; // |W_e|; see softmax_losses
    float aux[N_AUX];                   // values of the auxiliary terms
    int count[MAX_EXPERTS], hist[MAX_EXPERTS + 1]; // see route_stats
    float low[MAX_EXPERTS], high[MAX_EXPERTS];
    int mask[MAX_EXPERTS], unrouted;    // m of the paper; tokens with k = 0 in the last forward
    int64_t record_count[MAX_EXPERTS], record_unrouted;
    double* record_sum;                 // (C); with the two above: R_E, their number, R_S of the adaptive process
} Layer;

typedef struct {
    Config config;
    Tensor table[MAX_TENSORS];
    int n_tensors;
    size_t n_params;
    Parameters params, grads;           // pointers into the first two of the four memories
    float *params_memory, *grads_memory, *m_memory, *v_memory; // (n_params) each; the last three are NULL without training
    Layer layer[MAX_LAYERS];
    MODEL_MEMORY(FIELD)
    BACKWARD_MEMORY(FIELD)
    float *act_memory, *drow;           // all of fixed size; scratch: gradients of the rows of one layer, grown when R does
    size_t drow_size, act_bytes;
    int max_B, max_T, B, T, step;       // allocated for; of the last forward; the training step, for messages
    const int *x, *y;                   // tokens and targets of the last forward
    int recording;                      // training forwards add to the records
    float ce, aux;                      // of the last forward: mean cross-entropy; weighted sum of auxiliary terms
} GPT2;

void add_tensor(GPT2* model, float** param, float** grad, int layer, const char* name, int a, int b, int c, int first, int decay) {
    // appends one row to the table and points param and grad into the memories, where there are any
    Tensor* t = &model->table[model->n_tensors++];
    if (layer >= 0) { snprintf(t->name, sizeof t->name, "h.%d.%s", layer, name); }
    else { snprintf(t->name, sizeof t->name, "%s", name); }
    t->ndim = c > 0 ? 3 : b > 0 ? 2 : 1;
    t->shape[0] = (size_t)a; t->shape[1] = (size_t)b; t->shape[2] = (size_t)c;
    t->size = (size_t)a * (b > 0 ? (size_t)b : 1) * (c > 0 ? (size_t)c : 1);
    t->first = first; t->decay = decay; t->layer = layer;
    t->moe = strncmp(name, "moe.", 4) == 0; t->slots = t->moe ? model->config.E : 1;
    t->offset = model->n_params;
    model->n_params += t->size;
    *param = model->params_memory != NULL ? model->params_memory + t->offset : NULL;
    *grad = model->grads_memory != NULL ? model->grads_memory + t->offset : NULL;
}

void parameters_layout(GPT2* model) {
    // fills the table from the lists above
    int T = model->config.T, Vp = model->config.Vp, C = model->config.C, H = model->config.H, E = model->config.E;
    int S = model->config.S;
    model->n_tensors = 0; model->n_params = 0;
    #define X(f, name, a, b, c, first, decay) add_tensor(model, &model->params.f, &model->grads.f, -1, name, a, b, c, first, decay);
    MODEL_TENSORS(X)
    #undef X
    #define X(f, name, a, b, c, first, decay) \
        add_tensor(model, &model->params.h[l].f, &model->grads.h[l].f, l, name, a, b, c, first, decay);
    for (int l = 0; l < model->config.L; l++) {
        BLOCK_TENSORS(X)
        if (model->config.moe[l]) { MOE_TENSORS(X) } else { DENSE_TENSORS(X) }
        if (model->config.moe[l] && S > 0) { SHARED_TENSORS(X) }
    }
    #undef X
}

size_t activations_layout(GPT2* model, size_t B, size_t T, int training) {
    // points every activation of fixed size into act_memory; returns how many floats that takes (called first without memory)
    size_t n = 0, N = B * T, C = (size_t)model->config.C, E = (size_t)model->config.E;
    size_t NH = (size_t)model->config.NH, Vp = (size_t)model->config.Vp, S = (size_t)model->config.S, H = (size_t)model->config.H;
    #define X(type, field, count) a->field = (type*)(model->act_memory != NULL ? model->act_memory + n : NULL); n += (count); \
        require(n <= SIZE_MAX / 8, "lower --batch, --context or --layers", "more activations than this machine can address");
    for (int l = 0; l < model->config.L; l++) {
        Layer* a = &model->layer[l];
        LAYER_MEMORY(X)
        if (model->config.moe[l]) { GATE_MEMORY(X) } else { DENSE_MEMORY(X) }
    }
    GPT2* a = model;
    MODEL_MEMORY(X)
    if (training) { BACKWARD_MEMORY(X) }
    #undef X
    return n;
}

void gpt2_plan(GPT2* model, Config config, int B, int T, int training) {
    // lays out without allocating: the table, n_params, act_bytes
    memset(model, 0, sizeof *model);
    model->config = config;
    model->max_B = B; model->max_T = T;
    parameters_layout(model);
    model->act_bytes = activations_layout(model, (size_t)B, (size_t)T, training) * sizeof(float);
}

void gpt2_build(GPT2* model, Config config, int B, int T, int training) {
    // allocates, all zero, no expert active: parameters, activations for up to B sequences of up to T tokens, and with
    // training gradients and Adam's moments. One allocation per kind of memory; rows_reserve adds the rows of experts.
    gpt2_plan(model, config, B, T, training);
    model->params_memory = (float*)alloc_zeroed(model->n_params, sizeof(float), "parameters");
    if (training) {
        model->grads_memory = (float*)alloc_zeroed(model->n_params, sizeof(float), "gradients");
        model->m_memory = (float*)alloc_zeroed(model->n_params, sizeof(float), "Adam's first moments");
        model->v_memory = (float*)alloc_zeroed(model->n_params, sizeof(float), "Adam's second moments");
    }
    parameters_layout(model); // again: now there is memory to point into
    model->act_memory = (float*)alloc_zeroed(model->act_bytes, 1, "activations");
    activations_layout(model, (size_t)B, (size_t)T, training);
    for (int l = 0; l < config.L; l++) {
        model->layer[l].record_sum = (double*)alloc_zeroed((size_t)config.C, sizeof(double), "records");
    }
}

float* reserve(float** memory, size_t* size, size_t n, const char* what) { // room for n floats; contents are not kept
    if (n > *size || *memory == NULL) {
        free(*memory);
        *size = n + n / 8 + 64; // a little more, so that it grows rarely
        *memory = (float*)alloc_zeroed(*size, sizeof(float), what);
    }
    return *memory;
}

void rows_reserve(Layer* a, int R, int C, int H) { // points xr (R, C), out (R, C), pre (R, H), act (R, H) into memory
    a->xr = reserve(&a->rows, &a->rows_size, (size_t)R * (2 * (size_t)C + 2 * (size_t)H), "the rows of a layer");
    a->out = a->xr + (size_t)R * C;
    a->pre = a->out + (size_t)R * C;
    a->act = a->pre + (size_t)R * H;
}

void gpt2_free(GPT2* model) {
    for (int l = 0; l < model->config.L; l++) { free(model->layer[l].rows); free(model->layer[l].record_sum); }
    free(model->params_memory); free(model->grads_memory); free(model->m_memory); free(model->v_memory); free(model->act_memory);
    free(model->drow); memset(model, 0, sizeof *model);
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
                for (int c = 0; c < C; c++) { w[e * C + c] -= dot * w[j * C + c]; } // (M92)
            }
            for (int c = 0; c < C; c++) { norm += w[e * C + c] * w[e * C + c]; }
            for (int c = 0; c < C; c++) { w[e * C + c] /= sqrt(norm); } // (M93)
        }
    }
    for (int i = 0; i < E * C; i++) { W[i] = (float)w[i]; }
    free(w);
}

void tensor_init(GPT2* model, const Tensor* t, int copies, float threshold, uint64_t* rng) {
    // first values of one tensor. With copies all experts of a layer start equal, else each has its own random weights.
    const Config* c = &model->config;
    float* p = model->params_memory + t->offset;
    size_t drawn = copies ? t->size / t->slots : t->size;
    float std = t->first == RESIDUAL ? 0.02f / sqrtf(2.0f * (float)c->L) : 0.02f;
    if (t->first == ORTHOGONAL) { orthogonal_rows(p, c->E, c->C, rng); return; }
    if (strcmp(t->name, "wte") == 0) { drawn = (size_t)c->V * c->C; } // rows V.. stay zero
    for (size_t j = 0; j < drawn; j++) {
        p[j] = t->first == ZEROS ? 0.0f : t->first == ONES ? 1.0f : t->first == THRESHOLD ? threshold :
               std * (float)random_normal(rng);
    }
    for (size_t j = drawn; t->slots > 1 && j < t->size; j++) { p[j] = p[j - drawn]; }
}

void gpt2_init(GPT2* model, int start_experts, int copies, float threshold, uint64_t* rng) {
    // GPT-2's first values; in DynMoE layers orthonormal W, G = threshold, and start_experts active experts
    for (int i = 0; i < model->n_tensors; i++) { tensor_init(model, &model->table[i], copies, threshold, rng); }
    for (int l = 0; l < model->config.L; l++) {
        for (int e = 0; e < model->config.E; e++) { model->layer[l].mask[e] = e < start_experts; }
    }
}

int router_K(const Config* c) { return c->router == TOP_K ? c->topk : c->E; } // experts that a softmax router takes at most

// x (N, C) -> open, k, weight of the layer by its router, and in training the values of the auxiliary terms
void route_forward(const Config* c, const Block* p, Layer* a, const float* x, int N, int training) {
    int C = c->C, E = c->E, K = router_K(c), active = 0;
    if (c->router == TOP_ANY) {
        int fallback = !training || c->train_fallback;
        a->unrouted = gate_forward(a->open, a->k, a->score, a->xnorm, a->wnorm, x, p->gatew, p->gateG, a->mask, fallback, N, C, E);
        mean_forward(a->weight, a->open, a->k, N, E);
    } else {
        softmax_gate_forward(a->open, a->k, a->weight, a->score, x, p->gatew, a->mask, K, c->router == TOP_P ? c->topp : INFINITY,
                             c->router == TOP_K && K > 1, N, C, E);
        for (int e = 0; e < E; e++) { active += a->mask[e]; a->wnorm[e] = norm_of(p->gatew + (size_t)e * C, C); }
        a->unrouted = 0;
    }
    if (!training) { return; }
    a->aux[DIVERSITY] = diversity_loss(NULL, p->gatew, a->wnorm, a->mask, 0.0f, C, E);
    a->aux[SIMPLICITY] = simplicity_loss(NULL, p->gatew, a->wnorm, a->mask, 0.0f, C, E);
    a->aux[EFFICIENCY] = efficiency_loss(NULL, a->open, a->k, 0.0f, N, E);
    if (c->router == TOP_ANY) {
        a->aux[BALANCE] = balance_loss(NULL, a->open, a->k, 0.0f, N, E);
    } else {
        softmax_losses(&a->aux[BALANCE], &a->aux[ENTROPY], a->share, a->open, a->score, a->mask,
                       c->router == TOP_P ? 1 : K < active ? K : active, N, E);
    }
}

// a->dgate = dL/dweight (N, E) -> added to dx (N, C) and to the gradients d of W and G
void route_backward_add(const Config* c, const Block* p, Block* d, Layer* a, float* dx, const float* x, int N, float aux_scale) {
    int C = c->C, E = c->E;
    float weight[N_AUX];
    for (int i = 0; i < N_AUX; i++) { weight[i] = aux_scale * c->aux_weight[i]; }
    if (c->router == TOP_ANY) {
        mean_backward(a->dgate, a->open, a->k, c->normalised, N, E);
        if (weight[BALANCE] != 0.0f) { balance_loss(a->dgate, a->open, a->k, weight[BALANCE], N, E); }
        if (weight[EFFICIENCY] != 0.0f) { efficiency_loss(a->dgate, a->open, a->k, weight[EFFICIENCY], N, E); }
        gate_backward_add(dx, d->gatew, d->gateG, a->dgate, a->open, a->score, a->xnorm, a->wnorm, x, p->gatew, p->gateG, c->tau, N,
                          C, E);
    } else {
        softmax_gate_backward_add(dx, d->gatew, a->dgate, a->open, a->weight, a->score, x, p->gatew, weight[BALANCE], a->share,
                                  weight[ENTROPY], c->router == TOP_K && c->topk > 1, N, C, E);
    }
    if (weight[DIVERSITY] != 0.0f) { diversity_loss(d->gatew, p->gatew, a->wnorm, a->mask, weight[DIVERSITY], C, E); }
    if (weight[SIMPLICITY] != 0.0f) { simplicity_loss(d->gatew, p->gatew, a->wnorm, a->mask, weight[SIMPLICITY], C, E); }
}

// x (N, C) -> y (N, C), one DynMoE layer
void moe_forward(GPT2* model, int l, float* y, const float* x, int N, int training) {
    const Config* c = &model->config;
    const Block* p = &model->params.h[l];
    Layer* a = &model->layer[l];
    int C = c->C, E = c->E, all[2] = {0, N};
    route_forward(c, p, a, x, N, training);
    route_stats(a->count, a->hist, a->low, a->high, a->open, a->k, a->score, N, E);
    a->R = dispatch(a->row_of, a->row_token, a->offset, a->open, N, E);
    rows_reserve(a, a->R, C, c->H);
    gather_forward(a->xr, x, a->row_token, a->R, C);
    experts_forward(a->out, a->pre, a->act, a->xr, p->fcw, p->fcb, p->fcprojw, p->fcprojb, a->offset, E, C, c->H);
    combine_forward(y, a->out, a->row_of, a->weight, N, C, E);
    if (c->S > 0) { // shared experts: one feed-forward layer beside the routed ones
        experts_forward(a->sout, a->spre, a->sact, x, p->sfcw, p->sfcb, p->sfcprojw, p->sfcprojb, all, 1, C, c->S * c->H);
        residual_forward(y, y, a->sout, (size_t)N * C); // (M77)
    }
    for (int i = 0; training && i < N_AUX; i++) { model->aux += c->aux_weight[i] * a->aux[i]; } // (M56)
    if (training && model->recording) {
        record_forward(a->record_count, a->record_sum, &a->record_unrouted, a->open, a->k, x, N, C, E);
    }
}

// dy (N, C) -> dx (N, C) overwritten; gradients of the experts, of W and of G added. aux_scale: weight of this micro-batch
void moe_backward(GPT2* model, int l, float* dx, const float* dy, const float* x, int N, float aux_scale) {
    const Config* c = &model->config;
    const Block* p = &model->params.h[l];
    Block* d = &model->grads.h[l];
    Layer* a = &model->layer[l];
    int C = c->C, E = c->E, SH = c->S * c->H, all[2] = {0, N};
    size_t rows = (size_t)a->R * (C + c->H), shared_rows = SH > 0 ? (size_t)N * (C + SH) : 0;
    float* drow = reserve(&model->drow, &model->drow_size, rows > shared_rows ? rows : shared_rows, "row gradients");
    float* drow_h = drow + (size_t)a->R * C; // (R, H) behind (R, C)
    combine_backward(drow, a->dgate, dy, a->out, a->row_of, a->weight, N, C, E);
    experts_backward(drow, drow_h, d->fcw, d->fcb, d->fcprojw, d->fcprojb, drow, a->xr, a->pre, a->act, p->fcw, p->fcprojw,
                     a->offset, E, C, c->H);
    gather_backward(dx, drow, a->row_of, N, C, E);
    route_backward_add(c, p, d, a, dx, x, N, aux_scale);
    if (SH > 0) {
        experts_backward(drow, drow + (size_t)N * C, d->sfcw, d->sfcb, d->sfcprojw, d->sfcprojb, dy, x, a->spre, a->sact, p->sfcw,
                         p->sfcprojw, all, 1, C, SH);
        residual_forward(dx, dx, drow, (size_t)N * C); // (M78)
    }
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
        experts_forward(next, a->pre, a->act, a->ln2, p->fcw, p->fcb, p->fcprojw, p->fcprojb, a->offset, 1, C, 4 * C);
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
        float* dpre = reserve(&model->drow, &model->drow_size, (size_t)N * 4 * C, "row gradients");
        experts_backward(model->dln, dpre, d->fcw, d->fcb, d->fcprojw, d->fcprojb, model->dres, a->ln2, a->pre, a->act, p->fcw,
                         p->fcprojw, a->offset, 1, C, 4 * C);
    }
    layernorm_backward_add(model->dres, d->ln2w, d->ln2b, model->dln, a->mid, a->mean2, a->rstd2, p->ln2w, N, C);
}

float gpt2_forward(GPT2* model, const int* x, const int* y, int B, int T, int training) {
    // tokens x (B, T), targets y (B, T) or NULL -> logits, and with targets losses; returns the mean loss in nats, or 0
    // training: k = 0 means residual only, auxiliary terms and records. Else evaluation: top-1 fallback, nothing recorded.
    int N = B * T, C = model->config.C;
    require(B <= model->max_B && T <= model->max_T, "a bug: please report it", "forward of %d x %d, memory is for %d x %d", B, T,
            model->max_B, model->max_T);
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
    model->ce = (float)(sum / N); // (M27)
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

double gpt2_grad_norm(GPT2* model) {
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
        require(isfinite(sums[i]), "lower --lr; the last checkpoint is whole", "step %d: the gradient of %s is not finite",
                model->step, model->table[i].name);
        total += sums[i];
    }
    return sqrt(total); // (M79)
}

void gpt2_stop_not_finite(GPT2* model) {
    // after a forward whose loss is NaN or Inf: stops, naming the first tensor in which one stands
    for (int l = 0; l <= model->config.L; l++) {
        const Layer* a = &model->layer[l < model->config.L ? l : 0];
        const float* x[] = {a->res, a->ln1, a->qkv, a->atty, a->mid, a->ln2, model->res, model->lnf, model->logits};
        static const char* const names[] = {"res", "ln1", "qkv", "atty", "mid", "ln2", "res", "lnf", "logits"};
        int C = model->config.C, width[] = {C, C, 3 * C, C, C, C, C, C, model->config.Vp}, after = l == model->config.L;
        for (int i = after ? 6 : 0; i < (after ? 9 : 6); i++) {
            for (size_t j = 0; j < (size_t)model->B * model->T * width[i]; j++) {
                require(isfinite(x[i][j]), "lower --lr; the last checkpoint is whole",
                        "step %d: the loss is not finite; first in %s of %s %d", model->step, names[i],
                        after ? "what follows layer" : "layer", after ? l - 1 : l);
            }
        }
    }
    die("lower --lr; the last checkpoint is whole", "step %d: the loss is not finite", model->step);
}

void adamw(float* p, const float* g, float* m, float* v, size_t n, float lr, float beta1, float beta2, float eps, float decay,
           float correction1, float correction2, float scale) {
    // m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2; p -= lr (mhat / (sqrt(vhat) + eps) + decay p), g scaled first (clipping)
    // Inside a parallel region the threads share the loop, and none waits at its end.
    #pragma omp for simd schedule(static) nowait
    for (size_t i = 0; i < n; i++) {
        float gi = scale * g[i];
        m[i] = beta1 * m[i] + (1.0f - beta1) * gi; // (M81)
        v[i] = beta2 * v[i] + (1.0f - beta2) * gi * gi; // (M82)
        p[i] -= lr * ((m[i] / correction1) / (sqrtf(v[i] / correction2) + eps) + decay * p[i]); // (M84)
    }
}

void gpt2_update(GPT2* model, int step, float lr, float beta1, float beta2, float eps, float weight_decay, float scale) {
    // one AdamW step of every parameter; step counts from 0. The slots of inactive experts are left alone, moments too;
    // an active expert without rows is stepped like the rest, with gradient 0.
    float correction1 = (float)(1.0 - pow(beta1, step + 1)), correction2 = (float)(1.0 - pow(beta2, step + 1)); // (M83)
    #pragma omp parallel
    for (int i = 0; i < model->n_tensors; i++) {
        const Tensor* t = &model->table[i];
        size_t n = t->size / t->slots;
        for (int e = 0; e < t->slots; e++) {
            size_t o = t->offset + e * n;
            if (t->moe && !model->layer[t->layer].mask[e]) { continue; }
            adamw(model->params_memory + o, model->grads_memory + o, model->m_memory + o, model->v_memory + o, n, lr, beta1, beta2,
                  eps, t->decay ? weight_decay : 0.0f, correction1, correction2, scale);
        }
    }
}

void unit_rows(float* W, const int* mask, int C, int E) {
    // the active rows of W (E, C) back to length 1: the function stays, and the gate's step size stays what lr says
    for (int e = 0; e < E; e++) {
        float norm = norm_of(W + (size_t)e * C, C);
        if (!mask[e] || norm <= NORM_EPS) { continue; }
        for (int c = 0; c < C; c++) { W[(size_t)e * C + c] /= norm; } // (M85)
    }
}

void gpt2_unit_rows(GPT2* model) { // in every DynMoE layer
    for (int l = 0; l < model->config.L; l++) {
        if (model->config.moe[l]) { unit_rows(model->params.h[l].gatew, model->layer[l].mask, model->config.C, model->config.E); }
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
    X(text,  data,           "-i",  "",           0, 0,    "text to train on: any file as bytes, or llm.c .bin shards") \
    X(text,  val,            "-j",  "",           0, 0,    "validation text (default: the last 10 percent of --data)") \
    X(text,  out,            "-o",  "out",        0, 0,    "folder for log.jsonl and model.safetensors") \
    X(text,  init,           "-f",  "",           0, 0,    "start from this model: a checkpoint, or GPT-2 as published") \
    X(text,  resume,         "-r",  "",           0, 0,    "continue this checkpoint's run: its flags, unless given again") \
    X(text,  preset,         "-P",  "default",    0, 0,    "default, paper (its losses, free rows), authors (their code)") \
    X(int,   depth,          "-d",  "0",          0, 64,   "one dial D: D layers and heads, 64 D channels, context, lr") \
    X(int,   layers,         "-L",  "4",          1, 128,  "layers") \
    X(int,   heads,          "-H",  "4",          1, 1024, "attention heads") \
    X(int,   channels,       "-C",  "128",        1, 65536, "channels") \
    X(int,   context,        "-t",  "64",         1, 65536, "tokens in a sequence") \
    X(text,  moe_layers,     "-ml", "auto",       0, 0,    "every2, all, none, a list like 0,2,5; auto: as --init, or every2") \
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
    X(int,   steps,          "-x",  "4000",       0, 2000000000, "training steps") \
    X(int,   batch,          "-b",  "8",          1, 65536, "sequences in a batch") \
    X(int,   accum,          "-g",  "1",          1, 65536, "batches whose gradients make one step") \
    X(float, lr,             "-l",  "0.001",      0, 10,   "largest learning rate") \
    X(float, lr_end,         "-le", "0.1",        0, 1,    "last learning rate, as a fraction of --lr") \
    X(int,   warmup,         "-w",  "100",        0, 1000000000, "steps of linear warm-up; a cosine follows") \
    X(float, weight_decay,   "-wd", "0.1",        0, 10,   "AdamW's decay, on matrices only; never on W, G, biases, norms") \
    X(float, beta1,          "-b1", "0.9",        0, 0.9999, "AdamW's beta 1") \
    X(float, beta2,          "-b2", "0.99",       0, 0.999999, "AdamW's beta 2") \
    X(float, clip,           "-c",  "1",          0, 1e9,  "largest gradient norm (0: no clipping)") \
    X(int,   seed,           "-s",  "1337",       0, 2147483647, "seed of weights, batches and samples") \
    X(int,   threads,        "-n",  "0",          0, 1024, "threads (0: one per core)") \
    X(int,   log_every,      "-v",  "50",         1, 1000000000, "steps between progress lines (means over those steps)") \
    X(int,   val_every,      "-ve", "500",        0, 1000000000, "steps between validations (0: at the end only)") \
    X(int,   val_tokens,     "-vt", "65536",      0, 2147483647, "validation tokens (0: all)") \
    X(int,   save_every,     "-se", "0",          0, 1000000000, "steps between checkpoints (0: at the end only)") \
    X(int,   overfit,        "-of", "0",          0, 1,    "1: train on one batch only; its loss must go to nearly 0") \
    X(flag,  eval_only,      "-e",  "0",          0, 1,    "validate the --init model and stop") \
    X(text,  dump_routing,   "-dr", "",           0, 0,    "write loss and experts of every validation token to this file") \
    X(flag,  dry_run,        "-dy", "0",          0, 1,    "print size, memory, cost and time of the run, and stop") \
    X(text,  tokenizer,      "-tk", "",           0, 0,    "GPT-2's vocab.bpe: prints BPE tokens as text") \
    X(text,  prompt,         "-p",  "",           0, 0,    "continue this text, or a token file (.bin), and stop") \
    X(int,   generate,       "-gn", "256",        0, 1000000, "tokens to generate, after training too") \
    X(float, temperature,    "-gt", "0.8",        0, 100,  "sampling temperature (0: always the most likely token)") \
    X(int,   top_k_sample,   "-gk", "0",          0, 1000000, "sample among this many most likely tokens (0: all)")

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
    printf("train_gpt2_dynmoe: trains a GPT-2 with DynMoE layers on the CPU\n\n  ./train_gpt2_dynmoe --data FILE [flags]\n\n");
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
                                          "--expert-init=copies"};
    static const char* const softmax[] = {"", "--unit-norm=0", "--period=0", "--aux-balance=0.01", "--aux-efficiency=0",
                                          "--aux-entropy=0.0001"};
    static SafeFile file; // stays open: flags of a resumed run point into it
    Settings s;
    static char dial[5][32]; char key[64];
    const char* const dial_argv[6] = {"", dial[0], dial[1], dial[2], dial[3], dial[4]};
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
        if (preset == 2) { flags_parse(&s, 5, authors, 0); }
        if (router != TOP_ANY) { flags_parse(&s, router == TOP_P ? 6 : 5, softmax, 0); }
        if (s.depth > 0) { // the learning rate falls with the root of the width; the default, 128 channels, has 0.001
            snprintf(dial[0], 32, "--layers=%d", s.depth);
            snprintf(dial[1], 32, "--heads=%d", s.depth);
            snprintf(dial[2], 32, "--channels=%d", 64 * s.depth);
            snprintf(dial[3], 32, "--context=%d", s.depth > 4 ? 256 : 64);
            snprintf(dial[4], 32, "--lr=%.4g", 1e-3 * sqrt(2.0 / s.depth));
            flags_parse(&s, 6, dial_argv, 0);
        }
    }
    for (int i = 0; i < N_FLAGS; i++) { flag_table[i].given = 0; }
    flags_parse(&s, argc, argv, 0);
    return s;
}

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

int meta_int_or(const SafeFile* f, const char* key, int low, int high, int absent) {
    return safetensors_meta(f, key) != NULL ? meta_int(f, key, low, high) : absent;
}

const char* published_prefix(const SafeFile* f) { // "" or "transformer." before GPT-2's published names, NULL: not such a file
    return safetensors_find(f, "wte.weight") ? "" : safetensors_find(f, "transformer.wte.weight") ? "transformer." : NULL;
}

const SafeTensor* published_find(const SafeFile* f, const char* name, int ndim) { // with this many dimensions, or NULL
    char full[160];
    snprintf(full, sizeof full, "%s%s", published_prefix(f), name);
    const SafeTensor* t = safetensors_find(f, full);
    require(t == NULL || t->ndim == ndim, "copy the file again", "%s: %s has %d dimensions, not %d", f->path, full, t->ndim, ndim);
    return t;
}

void config_published(Config* c, const SafeFile* f, int heads) { // sizes of GPT-2's published file; its heads have 64 channels
    const SafeTensor *wte = published_find(f, "wte.weight", 2), *wpe = published_find(f, "wpe.weight", 2);
    char name[64];
    require(wpe && wte->shape[0] <= 1 << 24 && wte->shape[1] <= 65536 && wpe->shape[0] <= 65536, "copy the file again",
            "%s: no wpe.weight, or sizes beyond any GPT-2", f->path);
    c->V = (int)wte->shape[0];
    c->C = (int)wte->shape[1];
    c->T = (int)wpe->shape[0];
    c->Vp = (c->V + 127) / 128 * 128;
    c->NH = c->C % 64 == 0 ? c->C / 64 : heads;
    for (c->L = 0; c->L < MAX_LAYERS; c->L++) {
        snprintf(name, sizeof name, "h.%d.ln_1.weight", c->L);
        if (published_find(f, name, 1) == NULL) { break; }
    }
    require(c->L > 0 && c->T > 0 && c->C > 0 && c->V > 0, "copy the file again", "%s: no layers, or a size of 0", f->path);
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

Config config_make(const Settings* s, int V, const SafeFile* f) {
    // the sizes from the flags and the vocabulary V, or from a model file f; what a file does not say from the flags. A layer
    // that is dense in f and DynMoE by the flags will be upcycled, see weights_load.
    static const char* const kgrads[] = {"detached", "normalised"};
    Config c, file;
    int published = f != NULL && published_prefix(f) != NULL, moe = 0;
    memset(&c, 0, sizeof c);
    if (published) { config_published(&c, f, s->heads); }
    else {
        c.L  = f ? meta_int(f, "L", 1, MAX_LAYERS) : s->layers;
        c.T  = f ? meta_int(f, "T", 1, 65536) : s->context;
        c.C  = f ? meta_int(f, "C", 1, 65536) : s->channels;
        c.NH = f ? meta_int(f, "NH", 1, 1024) : s->heads;
        c.V  = f ? meta_int(f, "V", 1, 1 << 24) : V;
        c.Vp = f ? meta_int(f, "Vp", c.V, (1 << 24) + 128) : (V + 127) / 128 * 128;
        if (f != NULL) { moe = config_moe_layers(&c, meta_text(f, "moe_layers")); }
    }
    file = c;
    const SafeFile* m = moe > 0 ? f : NULL; // the file of the DynMoE layers, if it has any
    const char* router = m == NULL ? s->router : safetensors_meta(m, "router") ? meta_text(m, "router") : "top-any";
    c.E = m ? meta_int(m, "E", 1, MAX_EXPERTS) : s->experts;
    c.H = m ? meta_int_or(m, "H", 1, 262144, 4 * c.C) : s->expert_width > 0 ? s->expert_width : 4 * c.C;
    c.S = m ? meta_int_or(m, "shared", 0, 64, 0) : s->shared_experts;
    c.topk = m ? meta_int_or(m, "topk", 1, MAX_EXPERTS, 1) : s->topk;
    c.tau = m ? meta_float(m, "scale", 9.9e-7, 1.01e6) : s->gate_scale;
    c.topp = m && safetensors_meta(m, "topp") ? meta_float(m, "topp", 0, 1) : s->topp;
    c.router = choice("--router", router, router_names, 4);
    c.normalised = choice("--kgrad", s->kgrad, kgrads, 2);
    c.train_fallback = s->train_fallback;
    const float weights[N_AUX] = {s->aux_diversity, s->aux_simplicity, s->aux_balance, s->aux_efficiency, s->aux_entropy};
    memcpy(c.aux_weight, weights, sizeof weights);
    if (f == NULL || strcmp(s->moe_layers, "auto") != 0 || (m == NULL && !s->eval_only && !*s->prompt)) {
        moe = config_moe_layers(&c, s->moe_layers);
    }
    for (int l = 0; l < c.L; l++) {
        require_usage(!file.moe[l] || c.moe[l], "leave --moe-layers out", "--moe-layers %s: layer %d of %s has experts",
                      s->moe_layers, l, f->path);
    }
    flag_agrees(f, "layers", c.L, NULL);    flag_agrees(f, "heads", c.NH, NULL);       flag_agrees(f, "channels", c.C, NULL);
    flag_agrees(f, "context", c.T, NULL);   flag_agrees(f, "depth", c.C == 64 * c.L ? c.L : 0, NULL);
    flag_agrees(m, "experts", c.E, NULL);   flag_agrees(m, "expert_width", s->expert_width > 0 ? c.H : 0, NULL);
    flag_agrees(m, "router", 0, router);    flag_agrees(m, "shared_experts", c.S, NULL);
    flag_agrees(m, "topk", c.topk, NULL);   flag_agrees(m, "topp", c.topp, NULL);      flag_agrees(m, "gate_scale", c.tau, NULL);
    require_usage(c.C % c.NH == 0, "channels must be a multiple of heads", "%d channels do not divide into %d heads", c.C, c.NH);
    require_usage(moe == 0 || c.E <= c.C, "orthonormal rows of W need experts <= channels", "%d experts, %d channels", c.E, c.C);
    require_usage(m || moe == 0 || c.router != TOP_ANY || (s->start_experts <= c.E && s->min_experts <= c.E), NULL,
                  "--start-experts or --min-experts is above --experts %d", c.E);
    require_usage(c.router != TOP_K || c.topk <= c.E, NULL, "--topk %d: there are %d experts", c.topk, c.E);
    require_usage(c.aux_weight[c.router == TOP_ANY ? ENTROPY : EFFICIENCY] == 0.0f, "leave its --aux flag out",
                  "--router %s has no %s loss", router, c.router == TOP_ANY ? "entropy" : "efficiency");
    if (moe == 0) { c.E = c.S = 0; } // a plain GPT-2
    return c;
}

// ----------------------------------------------------------------------------------------------------------------------
// Checkpoints: parameters, masks, and what an exact continuation needs: moments, records, random states, flags

typedef struct {        // where a run is
    int step;           // steps done
    uint64_t rng_data, rng_sample;
    float best_val;     // nats
} Progress;

int checkpoint_tensors(GPT2* model, SafeTensor* t) {
    // lists what a checkpoint holds, as pointers into the model; saving writes them, loading fills them. Returns how many.
    static const char* prefix[] = {"", "adam_m/", "adam_v/"};
    float* memory[] = {model->params_memory, model->m_memory, model->v_memory};
    size_t one = 1, E = (size_t)model->config.E, C = (size_t)model->config.C;
    int n = 0;
    char name[64];
    for (int k = 0; k < 3; k++) {
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

void checkpoint_save(GPT2* model, const Progress* p, const char* path) {
    const Config* c = &model->config;
    SafeTensor* t = (SafeTensor*)alloc_zeroed((size_t)(3 * model->n_tensors + 4 * c->L), sizeof(SafeTensor), "a checkpoint");
    char list[512], *meta;
    size_t length;
    FILE* f = open_memstream(&meta, &length);
    moe_layers_print(list, c);
    fprintf(f, "\"format\":\"dynmoe-checkpoint 1\",\"model\":\"gpt2\",\"L\":\"%d\",\"NH\":\"%d\",\"C\":\"%d\",", c->L, c->NH, c->C);
    fprintf(f, "\"T\":\"%d\",\"V\":\"%d\",\"Vp\":\"%d\",\"E\":\"%d\",\"scale\":\"%.9g\",", c->T, c->V, c->Vp, c->E, (double)c->tau);
    fprintf(f, "\"router\":\"%s\",\"topk\":\"%d\",\"topp\":\"%.9g\",\"shared\":\"%d\",\"H\":\"%d\",", router_names[c->router],
            c->topk, (double)c->topp, c->S, c->H);
    fprintf(f, "\"moe_layers\":\"%s\",\"step\":\"%d\",\"best_val\":\"%.9g\",", list, p->step, (double)p->best_val);
    fprintf(f, "\"rng_data\":\"%" PRIu64 "\",\"rng_sample\":\"%" PRIu64 "\",", p->rng_data, p->rng_sample);
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

void check_masks(const GPT2* model, const SafeFile* f) {
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

void checkpoint_load(GPT2* model, const SafeFile* f, Progress* p) {
    // all that an exact continuation needs
    SafeTensor* t =
        (SafeTensor*)alloc_zeroed((size_t)(3 * model->n_tensors + 4 * model->config.L), sizeof(SafeTensor), "a checkpoint");
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
    p->rng_sample = strtoull(meta_text(f, "rng_sample"), NULL, 10);
    p->best_val = meta_float(f, "best_val", 0, INFINITY);
    require(p->rng_data != 0 && p->rng_sample != 0, "the file is damaged", "%s: a random state is 0 or missing", f->path);
}

const SafeTensor* weights_find(const SafeFile* f, const char* name, int* transposed) {
    // what f has under our name "h.3.qkvw", or under GPT-2's published one, whose linear weights are stored (in, out); or NULL
    static const char* const names[][2] = {
        {"wte", "wte.weight"}, {"wpe", "wpe.weight"}, {"lnfw", "ln_f.weight"}, {"lnfb", "ln_f.bias"}, {"ln1w", "ln_1.weight"},
        {"ln1b", "ln_1.bias"}, {"qkvw", "attn.c_attn.weight"}, {"qkvb", "attn.c_attn.bias"}, {"attprojw", "attn.c_proj.weight"},
        {"attprojb", "attn.c_proj.bias"}, {"ln2w", "ln_2.weight"}, {"ln2b", "ln_2.bias"}, {"fcw", "mlp.c_fc.weight"},
        {"fcb", "mlp.c_fc.bias"}, {"fcprojw", "mlp.c_proj.weight"}, {"fcprojb", "mlp.c_proj.bias"}};
    int layer = 0; // characters of "h.3."
    char full[160];
    *transposed = 0;
    if (published_prefix(f) == NULL) { return safetensors_find(f, name); }
    sscanf(name, "h.%*d.%n", &layer);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(name + layer, names[i][0]) != 0) { continue; }
        *transposed = strstr(names[i][1], ".c_") != NULL && strstr(names[i][1], ".weight") != NULL;
        snprintf(full, sizeof full, "%s%.*s%s", published_prefix(f), layer, name, names[i][1]);
        return safetensors_find(f, full);
    }
    return NULL;
}

void weights_load(GPT2* model, const SafeFile* f, int start_experts, float threshold, uint64_t* rng) {
    // parameters and masks from our own file or GPT-2's published one. Sparse upcycling: a DynMoE layer that is dense in f gets
    // a copy of that layer in every expert, and the first values of W, G and the mask.
    const Config* c = &model->config;
    char name[64];
    for (int i = 0; i < model->n_tensors; i++) {
        const Tensor* t = &model->table[i];
        const char* moe = strstr(t->name, "moe.");
        float* p = model->params_memory + t->offset;
        int transposed, copies = 1, one = 0; // one: the file has the slice of one expert
        const SafeTensor* found = weights_find(f, t->name, &transposed);
        if (found == NULL && moe != NULL) {
            snprintf(name, sizeof name, "h.%d.%s", t->layer, moe + 4);
            found = weights_find(f, name, &transposed);
            copies = t->slots;
            one = 1;
            if (strncmp(moe, "moe.gate", 8) == 0) { tensor_init(model, t, 0, threshold, rng); continue; }
        }
        require(found, "give a model of these layers, or another --moe-layers", "%s: no tensor %s", f->path, t->name);
        size_t a = t->shape[one], b = one + 1 < t->ndim ? t->shape[one + 1] : 1, want[3] = {a, b, t->shape[2]};
        if (transposed) { want[0] = b; want[1] = a; }
        if (strcmp(t->name, "wte") == 0 && published_prefix(f) != NULL) { want[0] = a = (size_t)c->V; } // rows V.. stay zero
        require(strcmp(found->dtype, "F32") == 0 && found->ndim == t->ndim - one &&
                memcmp(found->shape, want, (size_t)found->ndim * sizeof(size_t)) == 0, "give float32 weights that fit the model",
                "%s: tensor %s has another dtype or shape than the model", f->path, found->name);
        check_finite(f, found);
        for (size_t e = 0; e < (size_t)copies; e++) {
            if (!transposed) { memcpy(p + e * (found->bytes / 4), found->data, found->bytes); continue; }
            for (size_t j = 0; j < a * b; j++) { memcpy(p + e * a * b + j, found->data + 4 * (j % b * a + j / b), 4); }
        }
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
// Data: text as bytes (V = 256), or llm.c's token shards (.bin: 256 int32 of header, then uint16 tokens; V = 50257)

typedef struct { const unsigned char* bytes; size_t n, before; const char* path; } Shard; // n tokens, the first of PATH left out
typedef struct { Shard* shard; int n, width; const char* path; } Data;  // width: bytes per token, 1 or 2

int is_bin(const char* path) { size_t n = strlen(path); return n > 4 && strcmp(path + n - 4, ".bin") == 0; }

void data_add(Data* d, const char* path) { // maps one file, checks its header
    size_t size;
    Shard s = {map_file(path, &size), 0, 0, strdup(path)};
    s.n = size;
    if (is_bin(path)) {
        int32_t header[3] = {0, 0, 0};
        if (size >= 1024) { memcpy(header, s.bytes, sizeof header); }
        uint32_t tokens = (uint32_t)header[2];
        require(header[0] == 20240520 && header[1] == 1, "make token files with data/tokenize or llm.c's scripts",
                "%s: not an llm.c token file of version 1", path);
        require(size == 1024 + 2 * (size_t)tokens, "the file is cut or damaged: copy it again",
                "%s: the header says %u tokens, the file has room for %zu", path, tokens, (size - 1024) / 2);
        s.bytes += 1024;
        s.n = tokens;
    }
    d->shard = (Shard*)realloc(d->shard, (size_t)(d->n + 1) * sizeof(Shard));
    d->shard[d->n++] = s;
}

Data data_open(const char* pattern) { // a file, or a pattern like 'shards/train_*.bin', all of one kind
    Data d = {NULL, 0, 1, pattern};
    glob_t g;
    memset(&g, 0, sizeof g);
    int single = access(pattern, F_OK) == 0; // a file may have * in its name
    require(single || glob(pattern, 0, NULL, &g) == 0,
            "check the path; make data writes the default text, data/languages_train.txt", "%s: no such file", pattern);
    d.width = is_bin(single ? pattern : g.gl_pathv[0]) ? 2 : 1;
    for (size_t i = 0; i < (single ? 1 : g.gl_pathc); i++) {
        const char* path = single ? pattern : g.gl_pathv[i];
        require(is_bin(path) == (d.width == 2), "give all files as .bin, or none", "%s: not of the kind of the first file of %s",
                path, pattern);
        data_add(&d, path);
    }
    globfree(&g);
    return d;
}

Data data_split(Data* train) { // takes the last 10 percent of the last file away from train
    Data val = {(Shard*)alloc_zeroed(1, sizeof(Shard), "data"), 1, train->width, train->path};
    Shard* last = &train->shard[train->n - 1];
    val.shard[0].n = last->n / 10;
    last->n -= val.shard[0].n;
    val.shard[0].bytes = last->bytes + last->n * (size_t)train->width;
    val.shard[0].before = last->n;
    val.shard[0].path = last->path;
    return val;
}

size_t shard_places(const Shard* s, int T, int stride) { // where T tokens and a target fit: at 0, stride, 2 stride, ...
    return s->n > (size_t)T ? (s->n - 1 - (size_t)T) / (size_t)stride + 1 : 0;
}

size_t data_places(const Data* d, int T, int stride) { // the same over all shards; at least one, or one clear line
    size_t n = 0;
    for (int i = 0; i < d->n; i++) { n += shard_places(&d->shard[i], T, stride); }
    require(n > 0, "give more text, lower --context, or name a --val file", "%s: no room for %d tokens and a target", d->path, T);
    return n;
}

void data_read(const Data* d, size_t place, int stride, int* x, int* y, int T, int V) { // x (T) from that place on, y (T) one later
    const Shard* s = d->shard;
    for (; place >= shard_places(s, T, stride); s++) { place -= shard_places(s, T, stride); }
    for (int t = 0; t <= T; t++) {
        size_t i = place * (size_t)stride + (size_t)t;
        int token = d->width == 1 ? s->bytes[i] : s->bytes[2 * i] | s->bytes[2 * i + 1] << 8;
        require(token < V, "give data of the model's vocabulary", "%s: token %d at %zu, the vocabulary has %d",
                s->path ? s->path : d->path, token, s->before + i, V);
        if (t < T) { x[t] = token; }
        if (t > 0) { y[t - 1] = token; }
    }
}

void data_batch(const Data* d, uint64_t* rng, int* x, int* y, int B, int T, int V) { // B windows that start anywhere
    size_t places = data_places(d, T, 1);
    for (int b = 0; b < B; b++) {
        uint64_t high = random_u32(rng);
        data_read(d, (high << 32 | random_u32(rng)) % places, 1, x + (size_t)b * T, y + (size_t)b * T, T, V);
    }
}

// GPT-2's vocabulary, to print tokens as text: ids 0 to 255 are bytes, 256 + i is what line i of vocab.bpe merges, then comes
// the end of a text. (data/tokenize makes tokens from text.)
typedef struct { char* bytes; size_t* at; int n; } Vocabulary; // token i: bytes[at[i]] up to bytes[at[i + 1]]

int letter_byte(const unsigned char** p, const unsigned char* end) {
    // vocab.bpe writes every byte as one letter: printable ones as themselves (Latin-1), the i-th other as U+0100 + i
    int c = *(*p)++;
    if (c >= 0x80) { c = (c & 0xE0) == 0xC0 && *p < end && **p >> 6 == 2 ? (c & 31) << 6 | (*(*p)++ & 63) : 999; }
    if (c < 256) { return c; }
    c -= 256;
    return c < 33 ? c : c == 33 ? 127 : c < 67 ? 94 + c : c == 67 ? 173 : -1;
}

Vocabulary vocabulary_open(const char* path) {
    size_t size, length;
    Vocabulary v = {NULL, (size_t*)alloc_zeroed(65538, sizeof(size_t), "a vocabulary"), 0};
    const unsigned char *file = map_file(path, &size), *p = file, *end = file + size;
    FILE* out = open_memstream(&v.bytes, &length);
    for (int pass = 0; pass < 2; pass++) {
        for (int b = 0; b < 256; b++) { // printable bytes first
            if ((pass == 0) == ((b > 32 && b < 127) || (b > 160 && b != 173))) { fputc(b, out); v.n++; v.at[v.n] = (size_t)v.n; }
        }
    }
    for (int line = 1; p < end; line++, p++) {
        int blanks = 0, bad = 0;
        if (line == 1 && *p == '#') { while (p < end && *p != '\n') { p++; } continue; }
        while (p < end && *p != '\n') {
            int byte = *p == ' ' ? (blanks++, p++, -2) : letter_byte(&p, end);
            bad |= byte == -1;
            if (byte >= 0) { fputc(byte, out); }
        }
        require(!bad && blanks == 1 && v.n < 65535, "give GPT-2's vocab.bpe", "%s:%d: not two words of bytes", path, line);
        fflush(out);
        v.at[++v.n] = length;
    }
    fputs("\n", out); // the end of a text
    fclose(out);
    v.at[++v.n] = length;
    munmap((void*)(uintptr_t)file, size);
    return v;
}

// ----------------------------------------------------------------------------------------------------------------------
// Watching: who uses which expert, on the terminal and in log.jsonl

void gpt2_thresholds(GPT2* model, int l, float* G) { // G (E) of a layer
    memcpy(G, model->params.h[l].gateG, (size_t)model->config.E * sizeof(float));
}

const float* gpt2_logits(GPT2* model, int row) { // logits (Vp) of one token of the last forward
    return model->logits + (size_t)row * model->config.Vp;
}

typedef struct {
    double tokens, rows, none, load[MAX_EXPERTS], hist[MAX_EXPERTS + 1];
    float low[MAX_EXPERTS], high[MAX_EXPERTS];
    int experts;
} Routing; // one layer; hist: tokens by k; low, high: smallest and largest score of each expert

void routing_add(Routing* r, const GPT2* model) { // r (L): adds what the last forward did
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

void heat_map(const GPT2* model, const Routing* r) {
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

void log_routing(FILE* log, GPT2* model, const Routing* r) { // one object per DynMoE layer
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
        gpt2_thresholds(model, l, G);
        log_list(log, "G", E, NULL, 1.0, G);
        log_list(log, "low", E, NULL, 1.0, r[l].low);
        log_list(log, "high", E, NULL, 1.0, r[l].high);
        fprintf(log, "}");
        comma = ",";
    }
    fprintf(log, "]");
}

// ----------------------------------------------------------------------------------------------------------------------
// Validation, sampling, training

typedef struct {
    int32_t *token, *k;
    float* loss;
    unsigned char* open;
    size_t n;
} Dump; // (n) (L, n) (n) (L, n, E): every token's fate

void dump_batch(Dump* d, const GPT2* model, size_t at) { // copies what the last forward did to tokens at ..
    size_t N = (size_t)model->B * model->T, E = (size_t)model->config.E;
    memcpy(d->token + at, model->x, N * sizeof(int32_t));
    memcpy(d->loss + at, model->losses, N * sizeof(float));
    for (size_t l = 0; l < (size_t)model->config.L; l++) {
        if (!model->config.moe[l]) { continue; }
        memcpy(d->k + l * d->n + at, model->layer[l].k, N * sizeof(int32_t));
        for (size_t i = 0; i < N * E; i++) { d->open[(l * d->n + at) * E + i] = (unsigned char)model->layer[l].open[i]; }
    }
}

void dump_save(const Dump* d, const GPT2* model, const char* path) {
    SafeTensor t[2 + 2 * MAX_LAYERS];
    size_t shape[2] = {d->n, (size_t)model->config.E};
    char name[32], meta[700], list[512];
    int m = 0;
    t[m++] = safe_tensor("", "token", "I32", 1, shape, d->token);
    t[m++] = safe_tensor("", "loss", "F32", 1, shape, d->loss);
    for (size_t l = 0; l < (size_t)model->config.L; l++) {
        if (!model->config.moe[l]) { continue; }
        snprintf(name, sizeof name, "h.%zu.open", l);
        t[m++] = safe_tensor("", name, "U8", 2, shape, d->open + l * d->n * shape[1]);
        snprintf(name, sizeof name, "h.%zu.k", l);
        t[m++] = safe_tensor("", name, "I32", 1, shape, d->k + l * d->n);
    }
    moe_layers_print(list, &model->config);
    snprintf(meta, sizeof meta, "\"format\":\"dynmoe-routing 1\",\"T\":\"%d\",\"moe_layers\":\"%s\"", model->T, list);
    safetensors_save(path, t, m, meta);
}

float evaluate(GPT2* model, const Data* data, size_t max_tokens, int B, int T, Routing* r, const char* dump_path) {
    // mean loss (nats) of the first max_tokens (0: all) in windows of T tokens side by side, in evaluation mode; fills r (L)
    // dump_path: a file for every token's loss and experts, or ""
    size_t windows = data_places(data, T, T), L = (size_t)model->config.L, E = (size_t)model->config.E;
    if (max_tokens > 0 && windows > (max_tokens + T - 1) / T) { windows = (max_tokens + T - 1) / T; }
    size_t n = *dump_path ? windows * T : 0;
    Dump dump = {(int32_t*)alloc_zeroed(n, 4, "a dump"), (int32_t*)alloc_zeroed(L * n, 4, "a dump"),
                 (float*)alloc_zeroed(n, 4, "a dump"), (unsigned char*)alloc_zeroed(L * n * E, 1, "a dump"), n};
    int *x = (int*)alloc_zeroed((size_t)B * T * 2, sizeof(int), "a batch"), *y = x + (size_t)B * T;
    double sum = 0.0;
    memset(r, 0, sizeof(Routing) * L);
    for (size_t w = 0; w < windows; w += (size_t)B) {
        int b = windows - w < (size_t)B ? (int)(windows - w) : B;
        for (int i = 0; i < b; i++) { data_read(data, w + (size_t)i, T, x + (size_t)i * T, y + (size_t)i * T, T, model->config.V); }
        float loss = gpt2_forward(model, x, y, b, T, 0);
        if (!isfinite(loss)) { gpt2_stop_not_finite(model); }
        sum += (double)loss * b * T;
        routing_add(r, model);
        if (n > 0) { dump_batch(&dump, model, w * T); }
    }
    if (n > 0) { dump_save(&dump, model, dump_path); }
    free(dump.token); free(dump.k); free(dump.loss); free(dump.open); free(x);
    return (float)(sum / ((double)windows * T));
}

typedef struct { float p; int token; } Choice;

int compare_choices(const void* a, const void* b) { // most likely first; equal ones in order of their token
    const Choice *x = (const Choice*)a, *y = (const Choice*)b;
    return x->p != y->p ? (x->p < y->p) - (x->p > y->p) : x->token - y->token;
}

int sample_token(const float* logits, int V, float temperature, int top_k, uint64_t* rng) {
    // logits (V) -> a token drawn from softmax(logits / temperature) over the top_k largest (0: all); temperature 0: the largest
    Choice* c = (Choice*)alloc_zeroed((size_t)V, sizeof(Choice), "sampling");
    int n = temperature == 0.0f ? 1 : top_k > 0 && top_k < V ? top_k : V, i = 0;
    float sum = 0.0f;
    for (int v = 0; v < V; v++) { c[v].p = logits[v]; c[v].token = v; }
    qsort(c, (size_t)V, sizeof(Choice), compare_choices);
    float max = c[0].p; // subtracted so that exp cannot overflow
    for (int v = 0; v < n; v++) { sum += c[v].p = n == 1 ? 1.0f : expf((c[v].p - max) / temperature); }
    float at = random_f32(rng) * sum;
    while (i < n - 1 && (at -= c[i].p) >= 0.0f) { i++; }
    int token = c[i].token;
    free(c);
    return token;
}

void generate(GPT2* model, const Settings* s, int* tokens, int n, int total, uint64_t* rng) {
    // tokens (total): the first n > 0 are given, the rest is filled in, one forward each over the last T tokens
    for (; n < total; n++) {
        int t = n < model->config.T ? n : model->config.T;
        gpt2_forward(model, tokens + n - t, NULL, 1, t, 0);
        tokens[n] = sample_token(gpt2_logits(model, t - 1), model->config.V, s->temperature, s->top_k_sample, rng);
    }
}

void print_tokens(const int* tokens, int n, int V, const Vocabulary* v) {
    // bytes as text (control characters as ?), BPE tokens as text by the vocabulary v, or without one (v->n = 0) as numbers
    for (int i = 0; i < n; i++) {
        const char byte = (char)tokens[i], *p = V == 256 ? &byte : tokens[i] < v->n ? v->bytes + v->at[tokens[i]] : NULL;
        size_t length = V == 256 ? 1 : tokens[i] < v->n ? v->at[tokens[i] + 1] - v->at[tokens[i]] : 0;
        if (length == 0) { printf("%d ", tokens[i]); }
        for (; length > 0; p++, length--) {
            putchar(*p == '\n' || *p == '\t' || ((unsigned char)*p >= 32 && *p != 127) ? *p : '?');
        }
    }
    printf("\n");
}

void continue_text(GPT2* model, const Settings* s, const char* prompt, uint64_t* rng, FILE* log) {
    // prints the prompt (text, or the name of a token file) and what follows; a sample after training goes into the log too
    static size_t nothing[2] = {0, 0};
    Vocabulary v = {NULL, nothing, 0};
    Data file = {NULL, 0, 2, prompt};
    int bpe = model->config.V != 256;
    if (bpe && is_bin(prompt)) { data_add(&file, prompt); }
    size_t given = file.n > 0 ? file.shard[0].n : bpe ? 1 : strlen(prompt);
    require(given > 0 && given < 1000000, "give a prompt of up to a million tokens", "%s: %zu tokens", prompt, given);
    int n = (int)given, total = n + s->generate;
    int* tokens = (int*)alloc_zeroed((size_t)total, sizeof(int), "the text");
    for (int i = 0; i < n; i++) {
        const unsigned char* b = file.n > 0 ? file.shard[0].bytes + 2 * (size_t)i : NULL;
        tokens[i] = b != NULL ? b[0] | b[1] << 8 : bpe ? model->config.V - 1 : (unsigned char)prompt[i]; // V - 1 starts a text
        require(tokens[i] < model->config.V, "give tokens of the model's vocabulary", "%s: token %d at %d", prompt, tokens[i], i);
    }
    if (*s->tokenizer) { v = vocabulary_open(s->tokenizer); }
    generate(model, s, tokens, n, total, rng);
    print_tokens(tokens, total, model->config.V, &v);
    if (v.n > 0) { free(v.bytes); free(v.at); }
    if (file.n > 0) { free((void*)(uintptr_t)file.shard[0].path); free(file.shard); }
    if (log != NULL) {
        fprintf(log, "{\"type\":\"sample\",\"step\":%d,\"temperature\":%g,\"tokens\":[", s->steps, (double)s->temperature);
        for (int i = n; i < total; i++) { fprintf(log, "%s%d", i > n ? "," : "", tokens[i]); }
        fprintf(log, "]");
        log_end(log);
    }
    free(tokens);
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

void window_ends(GPT2* model, const Settings* s, int step, FILE* log) { // updates every layer, says what changed
    int removed[MAX_EXPERTS];
    model->recording = 0;
    for (int l = 0; l < model->config.L; l++) {
        if (!model->config.moe[l]) { continue; }
        int slot = gpt2_adapt(model, l, removed, s->min_experts);
        for (int e = 0; e < model->config.E; e++) { if (removed[e]) { event(log, step, l, "remove", e, 0); } }
        if (slot != ADD_NONE) {
            event(log, step, l, slot >= 0 ? "add" : "full", slot >= 0 ? slot : -1, model->layer[l].record_unrouted);
        }
    }
}

double train_step(GPT2* model, const Settings* s, const Data* data, Progress* p, int* x, int* y, Routing* r, FILE* log,
                  float* norm) {
    // one optimizer step on accum batches; returns its mean loss (nats) and the gradient norm before clipping; adds to r (L)
    double loss = 0.0;
    model->step = p->step;
    if (window_begins(s, p->step)) {
        gpt2_clear_records(model);
        model->recording = 1;
    }
    gpt2_zero_grad(model);
    for (int m = 0; m < s->accum; m++) {
        uint64_t first = random_stream((uint64_t)s->seed, 1); // --overfit: always the first batch, in a resumed run too
        data_batch(data, s->overfit ? &first : &p->rng_data, x, y, s->batch, s->context, model->config.V);
        loss += gpt2_forward(model, x, y, s->batch, s->context, 1) / s->accum;
        if (!isfinite(loss)) { gpt2_stop_not_finite(model); }
        gpt2_backward(model, 1.0f / (float)s->accum);
        routing_add(r, model);
    }
    *norm = (float)gpt2_grad_norm(model);
    float clip = s->clip > 0.0f && *norm > s->clip ? s->clip / *norm : 1.0f; // (M80)
    gpt2_update(model, p->step, learning_rate(s, p->step), s->beta1, s->beta2, 1e-8f, s->weight_decay, clip);
    if (s->unit_norm) { gpt2_unit_rows(model); }
    if (model->recording && s->period > 0 && p->step % s->period == 2 * s->window) { window_ends(model, s, p->step, log); }
    p->step++;
    return loss;
}

void validate(GPT2* model, const Settings* s, const Data* val, Progress* p, Routing* r, FILE* log, int show_map) {
    model->step = p->step;
    float loss = evaluate(model, val, (size_t)s->val_tokens, s->batch, s->context, r, "");
    if (loss < p->best_val) { p->best_val = loss; }
    printf("step %d: validation loss %.4f nats, %.4f bits per %s\n", p->step, loss, loss / log1p(1.0),
           val->width == 1 ? "byte" : "token");
    if (model->config.E > 0 && show_map) { heat_map(model, r); }
    fprintf(log, "{\"type\":\"val\",\"step\":%d,\"loss\":%.6f,\"bits\":%.6f", p->step, loss, loss / log1p(1.0));
    log_routing(log, model, r);
    log_end(log);
}

void progress_line(GPT2* model, const Settings* s, const Progress* p, const Routing* r, double loss, float norm,
                   double seconds, int steps, FILE* log) {
    // loss, routing and speed: means over the steps since the last line
    double k = 0.0, none = 0.0, speed = (double)steps * s->accum * s->batch * s->context / seconds,
           eta = (s->steps - p->step) * seconds / steps;
    int moe = 0;
    char experts[64] = "";
    for (int l = 0; l < model->config.L; l++) {
        if (!model->config.moe[l]) { continue; }
        k += r[l].rows / r[l].tokens;
        none += r[l].none / r[l].tokens;
        if (moe++ < 12) { snprintf(experts + strlen(experts), 4, " %d", r[l].experts); }
    }
    printf("step %5d/%d | loss %.3f | norm %.2f | lr %.1e", p->step, s->steps, loss, norm, learning_rate(s, p->step - 1));
    if (moe > 0) { printf(" | k %.2f | experts%s | none %.1f%%", k / moe, experts, 100.0 * none / moe); }
    printf(" | %.1fk tok/s | eta %dm%02ds\n", speed / 1000.0, (int)eta / 60, (int)eta % 60);
    fflush(stdout);
    fprintf(
        log,
        "{\"type\":\"step\",\"step\":%d,\"loss\":%.6f,\"aux\":%.6f,\"norm\":%.5f,\"lr\":%.6g,\"k\":%.4f,\"tok_s\":%.1f,\"ms\":%.3f",
        p->step, loss, model->aux, norm, learning_rate(s, p->step - 1), moe ? k / moe : 0.0, speed, 1000.0 * seconds / steps);
    log_routing(log, model, r);
    log_end(log);
}

static volatile sig_atomic_t stop_signal = 0; // SIGINT or SIGTERM, once it came; a second one ends the program at once
void on_signal(int number) {
    stop_signal = number;
    signal(number, SIG_DFL);
}

void train(GPT2* model, const Settings* s, const Data* data, const Data* val, Progress* p, FILE* log) {
    // trains up to s->steps, or until SIGINT (^C) or SIGTERM comes: then it saves, says so and returns
    size_t N = (size_t)s->batch * s->context, L = (size_t)model->config.L;
    int *x = (int*)alloc_zeroed(2 * N, sizeof(int), "a batch"), *y = x + N, since = 0, terminal = isatty(STDOUT_FILENO);
    Routing* r = (Routing*)alloc_zeroed(2 * L, sizeof(Routing), "statistics"); // r: of training, r + L: of validation
    char path[1024];
    double loss = 0.0, start = seconds_now(), from;
    float norm = 0.0f;
    int first = p->step;
    snprintf(path, sizeof path, "%s/model.safetensors", s->out);
    if (p->step == 0) { validate(model, s, val, p, r + L, log, terminal || s->steps == 0); }
    from = seconds_now();
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    while (p->step < s->steps && !stop_signal) {
        loss += train_step(model, s, data, p, x, y, r, log, &norm);
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
        free(x); free(r);
        return;
    }
    if (s->generate > 0 && s->steps > 0) {
        printf("a sample of %d tokens at temperature %g:\n", s->generate, (double)s->temperature);
        continue_text(model, s, "\n", &p->rng_sample, log);
    }
    fprintf(log, "{\"type\":\"end\",\"step\":%d,\"seconds\":%.2f,\"best\":%.6f", p->step, seconds_now() - start, p->best_val);
    log_end(log);
    if (p->step > first) { printf("%s: saved after %d steps, %.1f seconds\n", path, p->step, seconds_now() - start); }
    free(x); free(r);
}

void machine_name(char* out, size_t room) { // "AMD EPYC", as the system tells it
    char line[512];
    FILE* f = fopen("/proc/cpuinfo", "r");
    snprintf(out, room, "an unknown CPU");
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        if (strncmp(line, "model name", 10) != 0 || strchr(line, ':') == NULL) { continue; }
        line[strcspn(line, "\n")] = '\0';
        snprintf(out, room, "%s", strchr(line, ':') + 2);
        break;
    }
    if (f != NULL) { fclose(f); }
}

double memory_available(void) { // bytes that this process may still take; 0: the system does not say
    char line[256];
    double kilobytes = 0.0;
    struct rlimit limit;
    FILE* f = fopen("/proc/meminfo", "r");
    while (f != NULL && fgets(line, sizeof line, f) != NULL) { sscanf(line, "MemAvailable: %lf kB", &kilobytes); }
    if (f != NULL) { fclose(f); }
    double bytes = 1024.0 * kilobytes, pages = 0.0;
    f = fopen("/proc/self/statm", "r"); // a limit counts what is in use, and OpenBLAS waits forever for its 128 MB a thread
    if (f != NULL && fscanf(f, "%lf", &pages) == 1) { pages *= (double)sysconf(_SC_PAGESIZE); }
    if (f != NULL) { fclose(f); }
    pages += 134.3e6 * threads_count();
    int limited = getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY;
    double left = limited && (double)limit.rlim_cur > pages ? (double)limit.rlim_cur - pages : 1.0;
    return limited && (bytes == 0.0 || left < bytes) ? left : bytes;
}

double matmul_speed(int N, int C) { // FLOP/s of the feed-forward product (N, C) x (C, 4C): the fastest call in a fifth of a second
    float* a = (float*)alloc_zeroed((size_t)C * (5 * (size_t)N + 4 * (size_t)C), sizeof(float), "a measurement");
    double start = seconds_now(), best = INFINITY;
    for (double begin = start, end; begin - start < 0.2; begin = end) {
        matmul_forward(a, a + (size_t)4 * N * C, a + (size_t)5 * N * C, NULL, N, C, 4 * C);
        end = seconds_now();
        best = end - begin < best ? end - begin : best;
    }
    free(a);
    return 8.0 * N * C * C / best;
}

typedef struct { double parameters, flop, rows; } Cost; // of a token: parameters used, FLOP of a forward; bytes of all routed rows

Cost cost_at(const GPT2* model, double k, double N, int training) { // if every token uses k routed experts in every DynMoE layer
    const Config* c = &model->config;
    double moe = 0.0, expert = 2.0 * c->H * c->C + c->H + c->C;
    for (int l = 0; l < c->L; l++) { moe += c->moe[l]; }
    // every token uses all but the other experts and wpe, once each (wte as the head); attention has two products over T/2 keys
    double parameters = (double)model->n_params - (double)c->T * c->C - moe * (c->E - k) * expert;
    Cost cost = {parameters, 2.0 * parameters + 2.0 * c->L * c->T * c->C,
                 4.5 * k * N * (c->C + c->H) * (2.0 * moe + (training && moe > 0.0 ? 1.0 : 0.0))}; // with the room to grow
    return cost;
}

double print_plan(const GPT2* model, const Settings* s, const Data* data, const Data* val, const char* cpu, int training) {
    // what will be done and what it takes; returns the bytes of memory that it needs at least
    const Config* c = &model->config;
    double tokens = 0.0, val_tokens = 0.0, N = (double)s->batch * c->T;
    int moe = 0, k3 = c->E > 2 ? c->E : 3;
    for (int l = 0; l < c->L; l++) { moe += c->moe[l]; }
    for (int i = 0; i < data->n; i++) { tokens += (double)data->shard[i].n; }
    for (int i = 0; i < val->n; i++) { val_tokens += (double)val->shard[i].n; }
    Cost k1 = cost_at(model, 1, N, training), k2 = cost_at(model, 2, N, training), all = cost_at(model, k3, N, training);
    double M = 1e-6, held = (training ? 16.0 : 4.0) * (double)model->n_params, kept = (double)model->act_bytes;
    printf("train_gpt2_dynmoe, commit %s, on %s, %d threads, matrices by %s\n", COMMIT, cpu, threads_count(), BLAS_NAME);
    printf("data     %s: %.3f million tokens; validation: %.3f million of %s\n", data->path, M * tokens, M * val_tokens,
           *s->val ? s->val : "its end");
    printf("model    %d layers", c->L);
    if (moe > 0) { printf(" (%d DynMoE, %s, pool of %d experts", moe, router_names[c->router], c->E); }
    if (c->S > 0) { printf(", %d shared", c->S); }
    printf("%s, %d heads, %d channels, context %d, vocabulary %d\n", moe > 0 ? ")" : "", c->NH, c->C, c->T, c->V);
    printf("size     %.3f million parameters", M * (double)model->n_params);
    if (moe > 0) {
        printf("; a token uses %.3f at k = 1, %.3f at 2, %.3f at %d", M * k1.parameters, M * k2.parameters, M * all.parameters, k3);
    }
    printf("\nforward  %.2f MFLOP for a token", M * k1.flop);
    if (moe > 0) { printf(" at k = 1, %.2f at 2, %.2f at %d", M * k2.flop, M * all.flop, k3); }
    printf("; backward twice that\nmemory   %s %.1f MB; activations %.1f MB",
           training ? "parameters, gradients, moments" : "parameters", M * held, M * kept);
    if (moe > 0) { printf("; routed rows %.1f MB at k = 1, %.1f at 2, %.1f at %d", M * k1.rows, M * k2.rows, M * all.rows, k3); }
    printf("\nrun      %d steps of %d x %d x %d tokens, seed %d; log: %s/log.jsonl\n", s->steps, s->accum, s->batch, c->T, s->seed,
           s->out);
    return held + kept + k1.rows;
}

void print_time(const GPT2* model, const Settings* s) { // of a dry run
    double N = (double)s->batch * model->config.T, k = model->config.router == TOP_K ? model->config.topk : 2.0;
    double flop = 3.0 * cost_at(model, k, 0, 1).flop * s->steps * s->accum * N;
    double speed = matmul_speed(N < 8192.0 ? (int)N : 8192, model->config.C);
    printf("time     at least %.0f s at k = %.0f: %.3g FLOP at %.1f GFLOP/s, measured on this machine's matrix product just now\n",
           flop / speed, k, flop, 1e-9 * speed);
}

void log_run(FILE* log, const GPT2* model, const char* cpu) { // the first record: everything that the run depends on
    fprintf(log, "{\"type\":\"run\",\"version\":1,\"program\":\"train_gpt2_dynmoe.c\",\"commit\":\"%s\",\"threads\":%d,", COMMIT,
            threads_count());
    Cost k0 = cost_at(model, 0, 0, 1), k1 = cost_at(model, 1, 0, 1); // both are linear in k
    fprintf(log, "\"blas\":\"%s\",\"parameters\":%zu,\"used\":[%.0f,%.0f],\"flop\":[%.0f,%.0f],\"machine\":", BLAS_NAME,
            model->n_params, k0.parameters, k1.parameters - k0.parameters, k0.flop, k1.flop - k0.flop);
    json_print(log, cpu);
    fprintf(log, ",\"flags\":{");
    for (int i = 0; i < N_FLAGS; i++) {
        fprintf(log, "%s\"%s\":", i ? "," : "", flag_table[i].field);
        json_print(log, flag_table[i].now);
    }
    fprintf(log, "}");
    log_end(log);
}

#ifndef TESTING
int main(int argc, char** argv) {
    static GPT2 model; // static: its table is large for a stack
    static const char* const inits[] = {"random", "copies"};
    Settings s = flags_read(argc, (const char* const*)argv);
    const char* from = *s.resume ? s.resume : s.init;
    int training = !*s.prompt && !s.eval_only, V = 256, copies = choice("--expert-init", s.expert_init, inits, 2);
    uint64_t rng = random_stream((uint64_t)s.seed, 0);
    Progress p = {0, random_stream((uint64_t)s.seed, 1), random_stream((uint64_t)s.seed, 2), INFINITY};
    Data data = {NULL, 0, 1, ""}, val = data;
    SafeFile file; char cpu[256];
    signal(SIGXFSZ, SIG_IGN); // a limit of file sizes is an error of write() then, like a full disk
    threads_set(s.threads);
    machine_name(cpu, sizeof cpu);
    require_usage(s.period == 0 || 2 * s.window < s.period, "a period is rest, recording, rest",
                  "--window %d: must be less than half of --period %d", s.window, s.period);
    require_usage(training || *from, "train first: make train", "--eval-only and --prompt need --init FILE");
    if (!*s.prompt) {
        require_usage(*s.data, "any text file; make data writes the default one, data/languages_train.txt",
                      "--data FILE is missing");
        data = data_open(s.data);
        val = *s.val ? data_open(s.val) : data_split(&data);
        require_usage(val.width == data.width, "give both as text or both as .bin", "--val %s: not of the kind of --data", s.val);
        V = data.width == 1 ? 256 : 50257;
    }
    if (*from) { file = safetensors_open(from); }
    Config config = config_make(&s, V, *from ? &file : NULL);
    int start_experts = config.router == TOP_ANY ? s.start_experts : config.E; // softmax routers use the whole pool
    require(*s.prompt || config.V == V, "give data of the kind it was trained on", "%s: its vocabulary of %d does not fit %s",
            from, config.V, s.data);
    require_usage(!*s.prompt || config.V == 256 || is_bin(s.prompt), "data/tokenize makes a token file (.bin) from text",
                  "--prompt %s: the model reads BPE tokens", s.prompt);
    s.context = config.T;
    gpt2_plan(&model, config, *s.prompt ? 1 : s.batch, config.T, training);
    if (training || s.dry_run) {
        double need = print_plan(&model, &s, &data, &val, cpu, training), have = memory_available();
        require(have == 0.0 || need <= have, "lower --batch, --context, --layers, --channels or --experts",
                "the run needs %.1f MB of memory, %.1f MB are there", 1e-6 * need, 1e-6 * have);
        if (s.dry_run) { print_time(&model, &s); return 0; }
        printf("\n");
    }
    if (*s.tokenizer) { Vocabulary v = vocabulary_open(s.tokenizer); free(v.bytes); free(v.at); } // bad ones stop here
    gpt2_build(&model, config, *s.prompt ? 1 : s.batch, config.T, training);
    if (!*from) { gpt2_init(&model, start_experts, copies, s.threshold, &rng); }
    else if (*s.resume && training) { checkpoint_load(&model, &file, &p); }
    else { weights_load(&model, &file, start_experts, s.threshold, &rng); }
    if (*from) { safetensors_close(&file); }
    if (*s.prompt) { continue_text(&model, &s, s.prompt, &p.rng_sample, NULL); }
    if (training) {
        FILE* log = log_open(s.out, *s.resume != '\0');
        log_run(log, &model, cpu);
        train(&model, &s, &data, &val, &p, log);
        fclose(log);
        if (p.step < s.steps) { return 128 + stop_signal; } // a signal that came too late changes nothing
    }
    if (!*s.prompt && (s.eval_only || *s.dump_routing)) {
        static Routing r[MAX_LAYERS];
        float loss = evaluate(&model, &val, *s.dump_routing ? 0 : (size_t)s.val_tokens, s.batch, s.context, r, s.dump_routing);
        printf("validation loss %.4f nats, %.4f bits per %s%s\n", loss, loss / log1p(1.0), val.width == 1 ? "byte" : "token",
               *s.dump_routing ? ", of the whole text" : "");
        if (s.eval_only && config.E > 0) { heat_map(&model, r); }
    }
    gpt2_free(&model);
    return 0;
}
#endif
