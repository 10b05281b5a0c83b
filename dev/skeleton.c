/*
How fast could a training step be? The ceiling for train_gpt2_dynmoe.c on this machine: on made-up data the same products of
matrices, causal attention, element passes and AdamW, arranged for speed alone.

    dev/skeleton --config small --k 1.74            milliseconds of a step, and where they go
    dev/skeleton --config small --k 1.74 --sgemm    what sgemm reaches on the same products, each alone, over and over

It is no model: routing is a table (k * N / E rows for every expert), losses are not looked at, the step has one batch. What makes
it fast: one parallel region for the whole step; biases and residuals are laid where a product adds to them, not added by a
pass of their own; GELU works on a thread's own part of a product while it is in the cache; a thread takes whole experts;
huge pages. Cutting every product by its rows, or every one by its columns, made no difference beyond the noise.
*/
#define TESTING
#include "../train_gpt2_dynmoe.c"

enum { GEMM, ATTENTION, ELEMENTWISE, OPTIMIZER, PARTS };
static const char* const part_names[PARTS] = {"GEMM", "attention", "elementwise", "optimizer"};

typedef struct { const char* name; int L, NH, C, T, V, B; double k; } Shape;
static const Shape shapes[] = {{"tiny", 4, 4, 128, 64, 256, 8, 1.86}, {"small", 6, 6, 384, 256, 256, 4, 1.74},
                               {"124M", 12, 12, 768, 256, 50257, 2, 1.75}};
#define EXPERTS 8
#define BLOCK 64 // queries of attention at a time

typedef struct { int each, ta, tb, M, N, K; double times; } Product; // each: every thread has one of its own

typedef struct {                    // weights and their gradients, the same struct twice; n experts (1: a dense layer)
    float *ln1w, *ln1b, *qkvw, *qkvb, *projw, *projb, *ln2w, *ln2b, *gatew, *fcw, *fcb, *fcprojw, *fcprojb;
} Weights;
typedef struct {                    // R rows: N in a dense layer
    float *res, *ln1, *stat1, *qkv, *att, *atty, *mid, *ln2, *stat2, *pre, *act, *xr, *out, *score;
    int moe, R, *row_token, *first_row, *rows_of; // rows_of: the rows of token n stand at first_row[n] .. first_row[n + 1]
} Acts;

static struct {
    int L, NH, C, T, V, Vp, B, N, E, threads, counting;
    size_t n_params;
    float *params, *grads, *m, *v, *wte, *dwte, *wpe, *dwpe, *lnfw, *dlnfw;
    Weights w[MAX_LAYERS], d[MAX_LAYERS];
    Acts a[MAX_LAYERS];
    float *res, *lnf, *statf, *logits, *dres, *dln, *dqkv, *datty, *datt, *dout, *dact, *dxr, *partial;
    int* tokens;
    double part[PARTS], clock, norm[256];
    Product products[512];
    int n_products;
} s;

// ----------------------------------------------------------------------------------------------------------------------
// tools; tid: this thread. Everything below runs in all threads at once.

static void* room(size_t n, float scale) { // n floats, on huge pages where the system has them; scale: made-up contents
    size_t bytes = (n * sizeof(float) + (2u << 20)) >> 21 << 21, huge = (size_t)2 << 20;
    void* p = NULL;
    require(posix_memalign(&p, huge, bytes) == 0, "a smaller --config", "no memory for %zu bytes", bytes);
#ifdef MADV_HUGEPAGE
    madvise(p, bytes, MADV_HUGEPAGE);
#endif
    float* x = (float*)p;
    uint32_t state = 1;
    for (size_t i = 0; i < bytes / sizeof(float); i++) {
        state = state * 1664525u + 1013904223u;
        x[i] = scale * ((float)(state >> 8) / 8388608.0f - 1.0f);
    }
    return p;
}

static void done(int tid, int part) { // all threads have come here; the time since the last call goes to this part
    #pragma omp barrier
    if (tid == 0) {
        double now = seconds_now();
        s.part[part] += now - s.clock;
        s.clock = now;
    }
}

static void cut(int n, int tid, int align, int* begin, int* end) { // this thread's part of n
    int width = ((n + s.threads - 1) / s.threads + align - 1) / align * align;
    *begin = tid * width < n ? tid * width : n;
    *end = *begin + width < n ? *begin + width : n;
}

static void count(int each, int ta, int tb, int M, int N, int K) {
    #pragma omp critical
    {
        int i = 0;
        Product p = {each, ta, tb, M, N, K, 0.0};
        while (i < s.n_products && memcmp(&s.products[i], &p, offsetof(Product, times)) != 0) { i++; }
        require(i < 512, "a bug: please report it", "too many kinds of products");
        if (i == s.n_products) { s.products[s.n_products++] = p; }
        s.products[i].times += 1.0;
    }
}

static void sgemm_alone(float* out, int ldo, const float* a, int lda, int ta, const float* b, int ldb, int tb, int M, int N, int K,
                        float alpha, float beta) {
    if (M == 0 || N == 0) { return; }
    if (s.counting) { count(1, ta, tb, M, N, K); return; }
#if defined(USE_BLAS) || defined(USE_ACCELERATE)
    cblas_sgemm(CblasRowMajor, ta ? CblasTrans : CblasNoTrans, tb ? CblasTrans : CblasNoTrans, M, N, K, alpha, a, lda, b, ldb, beta,
                out, ldo);
#else
    (void)ldo; (void)lda; (void)ldb; (void)alpha; (void)beta; (void)out; (void)a; (void)b;
#endif
}

// The part of out (M, N) that this thread computes: rows, or columns where there are more of them. bias (N) or NULL and
// residual (M, N) or NULL are laid there first, or it is added to what is there (beta 1).
typedef struct { int row0, row1, col0, col1; } Part;
static Part product(int tid, float* out, const float* a, int ta, const float* b, int tb, int M, int N, int K, const float* bias,
                    const float* residual) {
    Part p = {0, M, 0, N};
    if (M >= N) { cut(M, tid, 16, &p.row0, &p.row1); } else { cut(N, tid, 16, &p.col0, &p.col1); }
    int rows = p.row1 - p.row0, cols = p.col1 - p.col0, lda = ta ? M : K, ldb = tb ? K : N;
    if (rows == 0 || cols == 0) { return p; }
    if (s.counting) {
        if (tid == 0) { count(0, ta, tb, M, N, K); }
        return p;
    }
    for (int i = p.row0; bias != NULL && i < p.row1; i++) {
        float* o = out + (size_t)i * N;
        const float* r = residual + (residual != NULL ? (size_t)i * N : 0);
        if (residual == NULL) { memcpy(o + p.col0, bias + p.col0, (size_t)cols * sizeof(float)); }
        else { for (int j = p.col0; j < p.col1; j++) { o[j] = bias[j] + r[j]; } }
    }
    sgemm_alone(out + (size_t)p.row0 * N + p.col0, N, ta ? a + p.row0 : a + (size_t)p.row0 * lda, lda, ta,
                tb ? b + (size_t)p.col0 * ldb : b + p.col0, ldb, tb, rows, cols, K, 1.0f, bias != NULL ? 1.0f : 0.0f);
    return p;
}

static inline float exp_short(float x) { // good to 1e-5, and vectorises; as in exp_fast of the program
    x = x < -80.0f ? -80.0f : x > 80.0f ? 80.0f : x;
    float shifted = x * 1.44269504f + 12582912.0f, r = x - (shifted - 12582912.0f) * 0.69314718f;
    float p = 1.0f + r * (1.0f + r * (0.5f + r * (0.16666667f + r * 0.04166667f)));
    uint32_t bits, low;
    memcpy(&bits, &p, sizeof bits);
    memcpy(&low, &shifted, sizeof low);
    bits += low << 23;
    memcpy(&p, &bits, sizeof bits);
    return p;
}

static void gelu(float* out, const float* x, Part p, int width) {
    for (int i = p.row0; i < p.row1; i++) {
        for (int j = p.col0; j < p.col1; j++) {
            float v = x[(size_t)i * width + j];
            out[(size_t)i * width + j] = v / (1.0f + exp_short(-1.5957691f * (v + 0.044715f * v * v * v)));
        }
    }
}

static void gelu_undo(float* d, const float* x, float* dbias, Part p, int width) { // in place; dbias: sums of columns, or NULL
    for (int i = p.row0; i < p.row1; i++) {
        float* row = d + (size_t)i * width;
        const float* xrow = x + (size_t)i * width;
        for (int j = p.col0; j < p.col1; j++) {
            float v = xrow[j], e = 1.0f / (1.0f + exp_short(-1.5957691f * (v + 0.044715f * v * v * v)));
            row[j] *= e + v * e * (1.0f - e) * (1.5957691f + 0.21406f * v * v);
        }
        for (int j = p.col0; dbias != NULL && j < p.col1; j++) { dbias[j] += row[j]; }
    }
}

static void columns(int tid, float* sum, const float* x, int rows, int width) { // sum (width) = columns of x, each by its thread
    int begin, end;
    cut(width, tid, 16, &begin, &end);
    memset(sum + begin, 0, (size_t)(end - begin) * sizeof(float));
    for (int i = 0; i < rows; i++) { for (int j = begin; j < end; j++) { sum[j] += x[(size_t)i * width + j]; } }
}

static void product_undo(int tid, float* dinp, float* dweight, float* dbias, const float* dout, const float* inp,
                         const float* weight, int C, int OC) { // dout (N, OC), inp (N, C), weight (OC, C)
    product(tid, dinp, dout, 0, weight, 0, s.N, C, OC, NULL, NULL);
    product(tid, dweight, dout, 1, inp, 0, OC, C, s.N, NULL, NULL);
    columns(tid, dbias, dout, s.N, OC);
    done(tid, GEMM);
}

static void layernorm(int tid, float* out, float* stat, const float* inp, const float* w, const float* b) {
    int begin, end, C = s.C;
    cut(s.N, tid, 1, &begin, &end);
    for (int i = begin; i < end; i++) {
        const float* x = inp + (size_t)i * C;
        float sum = 0.0f, square = 0.0f;
        #pragma omp simd reduction(+:sum, square)
        for (int c = 0; c < C; c++) { sum += x[c]; square += x[c] * x[c]; }
        float mean = sum / (float)C, rstd = 1.0f / sqrtf(square / (float)C - mean * mean + 1e-5f);
        for (int c = 0; c < C; c++) { out[(size_t)i * C + c] = (x[c] - mean) * rstd * w[c] + b[c]; }
        stat[2 * i] = mean; stat[2 * i + 1] = rstd;
    }
}

static void layernorm_undo(int tid, float* dinp, const float* d, const float* inp, const float* stat, const float* w, float* dw,
                           float* db, int add) { // dw and db are summed for each thread first, in one pass with dinp
    int begin, end, C = s.C;
    float* pw = s.partial + (size_t)tid * 2 * C, *pb = pw + C;
    memset(pw, 0, 2 * (size_t)C * sizeof(float));
    cut(s.N, tid, 1, &begin, &end);
    for (int i = begin; i < end; i++) {
        const float *x = inp + (size_t)i * C, *g = d + (size_t)i * C;
        float mean = stat[2 * i], rstd = stat[2 * i + 1], a = 0.0f, b = 0.0f, *o = dinp + (size_t)i * C;
        #pragma omp simd reduction(+:a, b)
        for (int c = 0; c < C; c++) {
            float norm = (x[c] - mean) * rstd, dn = g[c] * w[c];
            a += dn; b += dn * norm;
            pw[c] += g[c] * norm; pb[c] += g[c];
        }
        a /= (float)C; b /= (float)C;
        for (int c = 0; c < C; c++) {
            float now = (g[c] * w[c] - a - (x[c] - mean) * rstd * b) * rstd;
            o[c] = add ? o[c] + now : now;
        }
    }
    done(tid, ELEMENTWISE);
    cut(C, tid, 16, &begin, &end);
    for (int c = begin; c < end; c++) {
        dw[c] = db[c] = 0.0f;
        for (int t = 0; t < s.threads; t++) { dw[c] += s.partial[2 * t * C + c]; db[c] += s.partial[(2 * t + 1) * C + c]; }
    }
}

// ----------------------------------------------------------------------------------------------------------------------
// layers

static void attention(int tid, Acts* a) {
    int C = s.C, T = s.T, HS = C / s.NH;
    for (int bh = tid; bh < s.B * s.NH; bh += s.threads) {
        const float* q = a->qkv + (size_t)(bh / s.NH) * T * 3 * C + bh % s.NH * HS, *k = q + C, *v = k + C;
        for (int t0 = 0; t0 < T; t0 += BLOCK) {
            int rows = T - t0 < BLOCK ? T - t0 : BLOCK, width = t0 + rows;
            float* att = a->att + ((size_t)bh * T + t0) * T;
            sgemm_alone(att, T, q + (size_t)t0 * 3 * C, 3 * C, 0, k, 3 * C, 1, rows, width, HS, 1.0f / sqrtf((float)HS), 0.0f);
            for (int i = 0; i < rows; i++) {
                float sum = 0.0f, *row = att + (size_t)i * T;
                int valid = t0 + i + 1;
                #pragma omp simd reduction(+:sum)
                for (int j = 0; j < valid; j++) { row[j] = exp_short(row[j]); sum += row[j]; }
                sum = 1.0f / sum;
                for (int j = 0; j < valid; j++) { row[j] *= sum; }
                for (int j = valid; j < width; j++) { row[j] = 0.0f; }
            }
            sgemm_alone(a->atty + ((size_t)(bh / s.NH) * T + t0) * C + bh % s.NH * HS, C, att, T, 0, v, 3 * C, 0, rows, HS, width,
                        1.0f, 0.0f);
        }
    }
}

static void attention_undo(int tid, Acts* a) {
    int C = s.C, T = s.T, HS = C / s.NH, last = (T - 1) / BLOCK * BLOCK;
    float* da = s.datt + (size_t)tid * BLOCK * T, scale = 1.0f / sqrtf((float)HS);
    for (int bh = tid; bh < s.B * s.NH; bh += s.threads) {
        size_t head = (size_t)(bh / s.NH) * T * 3 * C + bh % s.NH * HS;
        const float *q = a->qkv + head, *k = q + C, *v = k + C;
        float *dq = s.dqkv + head, *dk = dq + C, *dv = dk + C;
        for (int t0 = last; t0 >= 0; t0 -= BLOCK) {
            int rows = T - t0 < BLOCK ? T - t0 : BLOCK, width = t0 + rows;
            const float* att = a->att + ((size_t)bh * T + t0) * T;
            const float* d = s.datty + ((size_t)(bh / s.NH) * T + t0) * C + bh % s.NH * HS;
            float beta = t0 == last ? 0.0f : 1.0f;
            sgemm_alone(dv, 3 * C, att, T, 1, d, C, 0, width, HS, rows, 1.0f, beta);
            sgemm_alone(da, T, d, C, 0, v, 3 * C, 1, rows, width, HS, 1.0f, 0.0f);
            for (int i = 0; i < rows; i++) {
                float sum = 0.0f, *g = da + (size_t)i * T;
                const float* p = att + (size_t)i * T;
                #pragma omp simd reduction(+:sum)
                for (int j = 0; j < width; j++) { sum += p[j] * g[j]; }
                for (int j = 0; j < width; j++) { g[j] = p[j] * (g[j] - sum); }
            }
            sgemm_alone(dq + (size_t)t0 * 3 * C, 3 * C, da, T, 0, k, 3 * C, 0, rows, HS, width, scale, 0.0f);
            sgemm_alone(dk, 3 * C, da, T, 1, q + (size_t)t0 * 3 * C, 3 * C, 0, width, HS, rows, scale, beta);
        }
    }
}

// The experts of this thread, one after the other, from gathered rows to their output, without waiting for others
static void experts(int tid, Weights* w, Acts* a) {
    int C = s.C, H = 4 * C, begin, end;
    for (int e = tid; e < s.E; e += s.threads) {
        int r0 = (int)((int64_t)a->R * e / s.E), n = (int)((int64_t)a->R * (e + 1) / s.E) - r0;
        float *xr = a->xr + (size_t)r0 * C, *pre = a->pre + (size_t)r0 * H, *act = a->act + (size_t)r0 * H;
        float *out = a->out + (size_t)r0 * C, *b1 = w->fcb + (size_t)e * H, *b2 = w->fcprojb + (size_t)e * C;
        for (int i = 0; i < n; i++) {
            memcpy(xr + (size_t)i * C, a->ln2 + (size_t)a->row_token[r0 + i] * C, (size_t)C * sizeof(float));
            memcpy(pre + (size_t)i * H, b1, (size_t)H * sizeof(float));
            memcpy(out + (size_t)i * C, b2, (size_t)C * sizeof(float));
        }
        sgemm_alone(pre, H, xr, C, 0, w->fcw + (size_t)e * H * C, C, 1, n, H, C, 1.0f, 1.0f);
        gelu(act, pre, (Part){0, n, 0, H}, H);
        sgemm_alone(out, C, act, H, 0, w->fcprojw + (size_t)e * H * C, H, 1, n, C, H, 1.0f, 1.0f);
    }
    cut(s.N, tid, 1, &begin, &end); // the gate: scores of this thread's tokens
    sgemm_alone(a->score + (size_t)begin * s.E, s.E, a->ln2 + (size_t)begin * C, C, 0, w->gatew, C, 1, end - begin, s.E, C, 1.0f,
                0.0f);
}

static void combine(int tid, float* next, Acts* a) {
    int C = s.C, begin, end;
    cut(s.N, tid, 1, &begin, &end);
    for (int i = begin; i < end; i++) {
        float *o = next + (size_t)i * C, weight = 1.0f / (float)(a->first_row[i + 1] - a->first_row[i] + 1);
        memcpy(o, a->mid + (size_t)i * C, (size_t)C * sizeof(float));
        for (int r = a->first_row[i]; r < a->first_row[i + 1]; r++) {
            const float* y = a->out + (size_t)a->rows_of[r] * C;
            for (int c = 0; c < C; c++) { o[c] += weight * y[c]; }
        }
    }
}

static void experts_undo(int tid, Weights* w, Weights* d, Acts* a) {
    int C = s.C, H = 4 * C, begin, end;
    for (int e = tid; e < s.E; e += s.threads) {
        int r0 = (int)((int64_t)a->R * e / s.E), n = (int)((int64_t)a->R * (e + 1) / s.E) - r0;
        float *dout = s.dout + (size_t)r0 * C, *dact = s.dact + (size_t)r0 * H, *b2 = d->fcprojb + (size_t)e * C;
        size_t at = (size_t)e * H * C;
        memset(b2, 0, (size_t)C * sizeof(float));
        memset(d->fcb + (size_t)e * H, 0, (size_t)H * sizeof(float));
        for (int i = 0; i < n; i++) { // rows of the gradient by weight, and the gradient of the weight
            const float *g = s.dres + (size_t)a->row_token[r0 + i] * C, *y = a->out + (size_t)(r0 + i) * C;
            float *o = dout + (size_t)i * C, dot = 0.0f;
            #pragma omp simd reduction(+:dot)
            for (int c = 0; c < C; c++) { o[c] = 0.5f * g[c]; b2[c] += o[c]; dot += g[c] * y[c]; }
            a->score[(size_t)a->row_token[r0 + i] * s.E + e] = dot;
        }
        sgemm_alone(dact, H, dout, C, 0, w->fcprojw + at, H, 0, n, H, C, 1.0f, 0.0f);
        sgemm_alone(d->fcprojw + at, H, dout, C, 1, a->act + (size_t)r0 * H, H, 0, C, H, n, 1.0f, 0.0f);
        gelu_undo(dact, a->pre + (size_t)r0 * H, d->fcb + (size_t)e * H, (Part){0, n, 0, H}, H);
        sgemm_alone(s.dxr + (size_t)r0 * C, C, dact, H, 0, w->fcw + at, C, 0, n, C, H, 1.0f, 0.0f);
        sgemm_alone(d->fcw + at, C, dact, H, 1, a->xr + (size_t)r0 * C, C, 0, H, C, n, 1.0f, 0.0f);
    }
    done(tid, GEMM);
    cut(s.N, tid, 1, &begin, &end);
    for (int i = begin; i < end; i++) {
        float* o = s.dln + (size_t)i * C;
        memset(o, 0, (size_t)C * sizeof(float));
        for (int r = a->first_row[i]; r < a->first_row[i + 1]; r++) {
            const float* y = s.dxr + (size_t)a->rows_of[r] * C;
            for (int c = 0; c < C; c++) { o[c] += y[c]; }
        }
    }
    sgemm_alone(s.dln + (size_t)begin * C, C, a->score + (size_t)begin * s.E, s.E, 0, w->gatew, C, 0, end - begin, C, s.E, 1.0f,
                1.0f);
    product(tid, d->gatew, a->score, 1, a->ln2, 0, s.E, C, s.N, NULL, NULL);
    done(tid, ELEMENTWISE);
}

static void layer(int tid, int l, float* next) {
    Weights* w = &s.w[l];
    Acts* a = &s.a[l];
    int N = s.N, C = s.C;
    layernorm(tid, a->ln1, a->stat1, a->res, w->ln1w, w->ln1b);
    done(tid, ELEMENTWISE);
    product(tid, a->qkv, a->ln1, 0, w->qkvw, 1, N, 3 * C, C, w->qkvb, NULL);
    done(tid, GEMM);
    attention(tid, a);
    done(tid, ATTENTION);
    product(tid, a->mid, a->atty, 0, w->projw, 1, N, C, C, w->projb, a->res);
    done(tid, GEMM);
    layernorm(tid, a->ln2, a->stat2, a->mid, w->ln2w, w->ln2b);
    done(tid, ELEMENTWISE);
    if (a->moe) {
        experts(tid, w, a);
        done(tid, GEMM);
        combine(tid, next, a);
        done(tid, ELEMENTWISE);
    } else {
        Part p = product(tid, a->pre, a->ln2, 0, w->fcw, 1, N, 4 * C, C, w->fcb, NULL);
        gelu(a->act, a->pre, p, 4 * C);
        done(tid, GEMM);
        product(tid, next, a->act, 0, w->fcprojw, 1, N, C, 4 * C, w->fcprojb, a->mid);
        done(tid, GEMM);
    }
}

static void layer_undo(int tid, int l) { // dres: gradient of the residual stream, in place
    Weights *w = &s.w[l], *d = &s.d[l];
    Acts* a = &s.a[l];
    int N = s.N, C = s.C;
    if (a->moe) {
        experts_undo(tid, w, d, a);
    } else {
        Part p = product(tid, s.dact, s.dres, 0, w->fcprojw, 0, N, 4 * C, C, NULL, NULL);
        gelu_undo(s.dact, a->pre, NULL, p, 4 * C);
        product(tid, d->fcprojw, s.dres, 1, a->act, 0, C, 4 * C, N, NULL, NULL);
        columns(tid, d->fcprojb, s.dres, N, C);
        done(tid, GEMM);
        product_undo(tid, s.dln, d->fcw, d->fcb, s.dact, a->ln2, w->fcw, C, 4 * C);
    }
    layernorm_undo(tid, s.dres, s.dln, a->mid, a->stat2, w->ln2w, d->ln2w, d->ln2b, 1);
    done(tid, ELEMENTWISE);
    product_undo(tid, s.datty, d->projw, d->projb, s.dres, a->atty, w->projw, C, C);
    attention_undo(tid, a);
    done(tid, ATTENTION);
    product_undo(tid, s.dln, d->qkvw, d->qkvb, s.dqkv, a->ln1, w->qkvw, C, 3 * C);
    layernorm_undo(tid, s.dres, s.dln, a->res, a->stat1, w->ln1w, d->ln1w, d->ln1b, 1);
    done(tid, ELEMENTWISE);
}

static void head_and_back(int tid) { // logits, softmax and its gradient in place, then both gradients of the head
    int begin, end, N = s.N, C = s.C, Vp = s.Vp;
    layernorm(tid, s.lnf, s.statf, s.res, s.lnfw, s.lnfw + C);
    done(tid, ELEMENTWISE);
    product(tid, s.logits, s.lnf, 0, s.wte, 1, N, Vp, C, NULL, NULL);
    done(tid, GEMM);
    cut(N, tid, 1, &begin, &end);
    for (int i = begin; i < end; i++) {
        float *z = s.logits + (size_t)i * Vp, sum = 0.0f;
        #pragma omp simd reduction(+:sum)
        for (int v = 0; v < s.V; v++) { z[v] = exp_short(z[v]); sum += z[v]; }
        sum = 1.0f / (sum * (float)N);
        for (int v = 0; v < s.V; v++) { z[v] *= sum; }
        memset(z + s.V, 0, (size_t)(Vp - s.V) * sizeof(float));
        z[s.tokens[i]] -= 1.0f / (float)N;
    }
    done(tid, ELEMENTWISE);
    product(tid, s.dln, s.logits, 0, s.wte, 0, N, C, Vp, NULL, NULL);
    product(tid, s.dwte, s.logits, 1, s.lnf, 0, Vp, C, N, NULL, NULL);
    done(tid, GEMM);
    layernorm_undo(tid, s.dres, s.dln, s.res, s.statf, s.lnfw, s.dlnfw, s.dlnfw + C, 0);
    done(tid, ELEMENTWISE);
}

static void update(int tid) { // the norm of all gradients, then AdamW in one pass
    size_t width = (s.n_params / s.threads + 16) / 16 * 16, begin = tid * width, end = begin + width;
    double all = 0.0;
    if (end > s.n_params) { end = s.n_params; }
    for (size_t i = begin; i < end; i += 4096) {
        float sum = 0.0f;
        size_t to = i + 4096 < end ? i + 4096 : end;
        #pragma omp simd reduction(+:sum)
        for (size_t j = i; j < to; j++) { sum += s.grads[j] * s.grads[j]; }
        all += sum;
    }
    s.norm[tid] = all;
    done(tid, OPTIMIZER);
    all = 0.0;
    for (int t = 0; t < s.threads; t++) { all += s.norm[t]; }
    float scale = all > 1.0 ? (float)(1.0 / sqrt(all)) : 1.0f;
    float *p = s.params, *g = s.grads, *m = s.m, *v = s.v;
    for (size_t i = begin; i < end; i++) {
        float gi = scale * g[i];
        m[i] = 0.9f * m[i] + 0.1f * gi;
        v[i] = 0.99f * v[i] + 0.01f * gi * gi;
        p[i] -= 1e-6f * (m[i] / (sqrtf(v[i]) + 1e-8f) + 0.1f * p[i]);
    }
    done(tid, OPTIMIZER);
}

static void step(int tid) {
    int begin, end, C = s.C;
    if (tid == 0) { s.clock = seconds_now(); }
    cut(s.N, tid, 1, &begin, &end);
    for (int i = begin; i < end; i++) {
        for (int c = 0; c < C; c++) { s.a[0].res[(size_t)i * C + c] = s.wte[(size_t)s.tokens[i] * C + c] + s.wpe[i % s.T * C + c]; }
    }
    done(tid, ELEMENTWISE);
    for (int l = 0; l < s.L; l++) { layer(tid, l, l + 1 < s.L ? s.a[l + 1].res : s.res); }
    head_and_back(tid);
    for (int l = s.L - 1; l >= 0; l--) { layer_undo(tid, l); }
    cut(C, tid, 16, &begin, &end);
    for (int t = 0; t < s.T; t++) { memset(s.dwpe + (size_t)t * C + begin, 0, (size_t)(end - begin) * sizeof(float)); }
    for (int i = 0; i < s.N; i++) {
        for (int c = begin; c < end; c++) {
            s.dwte[(size_t)s.tokens[i] * C + c] += s.dres[(size_t)i * C + c];
            s.dwpe[i % s.T * C + c] += s.dres[(size_t)i * C + c];
        }
    }
    done(tid, ELEMENTWISE);
    if (!s.counting) { update(tid); }
}

// ----------------------------------------------------------------------------------------------------------------------

static void parameters(int real) { // points into the two memories, or only counts
    size_t n = 0, C = s.C;
    #define P(w, d, count) do { if (real) { w = s.params + n; d = s.grads + n; } n += ((size_t)(count) + 15) / 16 * 16; } while (0)
    P(s.wte, s.dwte, s.Vp * C); P(s.wpe, s.dwpe, s.T * C); P(s.lnfw, s.dlnfw, 2 * C);
    for (int l = 0; l < s.L; l++) {
        Weights *w = &s.w[l], *d = &s.d[l];
        size_t E = s.a[l].moe ? s.E : 1;
        P(w->ln1w, d->ln1w, C); P(w->ln1b, d->ln1b, C); P(w->ln2w, d->ln2w, C); P(w->ln2b, d->ln2b, C);
        P(w->qkvw, d->qkvw, 3 * C * C); P(w->qkvb, d->qkvb, 3 * C); P(w->projw, d->projw, C * C); P(w->projb, d->projb, C);
        P(w->gatew, d->gatew, s.a[l].moe * E * C);
        P(w->fcw, d->fcw, E * 4 * C * C); P(w->fcb, d->fcb, E * 4 * C);
        P(w->fcprojw, d->fcprojw, E * 4 * C * C); P(w->fcprojb, d->fcprojb, E * C);
    }
    #undef P
    s.n_params = n;
}

static void route(Acts* a, int R) { // R rows over E experts, a token's rows in different experts
    a->row_token = (int*)alloc_zeroed((size_t)R + 1, sizeof(int), "routing");
    a->rows_of = (int*)alloc_zeroed((size_t)R + 1, sizeof(int), "routing");
    a->first_row = (int*)alloc_zeroed((size_t)s.N + 2, sizeof(int), "routing");
    for (int r = 0; r < R; r++) { a->row_token[r] = r % s.N; a->first_row[r % s.N + 1]++; }
    for (int i = 0; i < s.N; i++) { a->first_row[i + 1] += a->first_row[i]; }
    for (int r = 0; r < R; r++) { a->rows_of[a->first_row[r % s.N] + r / s.N] = r; }
}

static void build(double k) {
    size_t N = s.N, C = s.C, R = (size_t)(k * s.N + 0.5), rows = R > N ? R : N;
    for (int l = 0; l < s.L; l++) { s.a[l].moe = l % 2 == 0; s.a[l].R = l % 2 == 0 ? (int)R : s.N; }
    parameters(0);
    s.params = (float*)room(s.n_params, 0.02f); s.grads = (float*)room(s.n_params, 0.0f);
    s.m = (float*)room(s.n_params, 0.0f); s.v = (float*)room(s.n_params, 0.0f);
    parameters(1);
    #define F(count) (float*)room(count, 0.0f)
    for (int l = 0; l < s.L; l++) {
        Acts* a = &s.a[l];
        for (size_t c = 0; c < C; c++) { s.w[l].ln1w[c] = s.w[l].ln2w[c] = s.lnfw[c] = 1.0f; }
        a->res = F(N * C); a->ln1 = F(N * C); a->stat1 = F(2 * N); a->qkv = F(3 * N * C); a->att = F(N * s.NH * s.T);
        a->atty = F(N * C); a->mid = F(N * C); a->ln2 = F(N * C); a->stat2 = F(2 * N);
        a->pre = F(4 * C * a->R); a->act = F(4 * C * a->R);
        if (a->moe) { a->xr = F(C * R); a->out = F(C * R); a->score = F(N * s.E); route(a, (int)R); }
    }
    s.res = F(N * C); s.lnf = F(N * C); s.statf = F(2 * N); s.logits = F(N * s.Vp); s.dres = F(N * C); s.dln = F(N * C);
    s.dqkv = F(3 * N * C); s.datty = F(N * C); s.datt = F((size_t)s.threads * BLOCK * s.T);
    s.dout = F(rows * C); s.dact = F(rows * 4 * C); s.dxr = F(rows * C); s.partial = F((size_t)s.threads * 2 * C);
    #undef F
    s.tokens = (int*)alloc_zeroed(N, sizeof(int), "tokens");
    for (int i = 0; i < s.N; i++) { s.tokens[i] = (int)(random_stream(1, (uint64_t)i) % (uint64_t)s.V); }
}

static void run(void) {
    #pragma omp parallel num_threads(s.threads)
    {
#ifdef _OPENMP
        step(omp_get_thread_num());
#else
        step(0);
#endif
    }
}

static double median(double* x, int n) {
    for (int i = 1; i < n; i++) {
        for (int j = i; j > 0 && x[j] < x[j - 1]; j--) { double t = x[j]; x[j] = x[j - 1]; x[j - 1] = t; }
    }
    return 0.5 * (x[(n - 1) / 2] + x[n / 2]);
}

static double product_seconds(const Product* p) { // of one product, again and again on the same matrices: the best of 8 tries
    size_t a = (size_t)p->M * p->K, b = (size_t)p->N * p->K, o = (size_t)p->M * p->N;
    float* memory = (float*)room((a + b + o) * (p->each ? s.threads : 1), 0.1f);
    double best = 1e9;
    for (int try = 0; try < 8; try++) {
        double start = seconds_now(), flop = 2.0 * p->M * p->N * p->K;
        int repeat = 1 + (int)(1e9 / flop);
        #pragma omp parallel num_threads(s.threads)
        {
            int tid = 0;
#ifdef _OPENMP
            tid = omp_get_thread_num();
#endif
            float* x = memory + (p->each ? (a + b + o) * tid : 0);
            for (int i = 0; i < repeat; i++) {
                if (p->each) {
                    sgemm_alone(x + a + b, p->N, x, p->ta ? p->M : p->K, p->ta, x + a, p->tb ? p->K : p->N, p->tb, p->M, p->N, p->K,
                                1.0f, 0.0f);
                } else {
                    product(tid, x + a + b, x, p->ta, x + a, p->tb, p->M, p->N, p->K, NULL, NULL);
                }
            }
        }
        double time = (seconds_now() - start) / repeat / (p->each ? s.threads : 1);
        if (time < best) { best = time; }
    }
    free(memory);
    return best;
}

int main(int argc, char** argv) {
    static const char* usage = "dev/skeleton --config tiny|small|124M [--k experts per token] [--steps n] [--threads n] [--sgemm] "
                               "[--json]";
    const Shape* shape = NULL;
    int steps = 0, threads = 0, sgemm_only = 0, json = 0;
    double k = -1.0;
    for (int i = 1; i < argc; i++) {
        const char* value = i + 1 < argc ? argv[i + 1] : "";
        char* end = (char*)"";
        if (strcmp(argv[i], "--help") == 0) { printf("%s\n", usage); return 0; }
        if (strcmp(argv[i], "--sgemm") == 0) { sgemm_only = 1; continue; }
        if (strcmp(argv[i], "--json") == 0) { json = 1; continue; }
        if (strcmp(argv[i], "--config") == 0) {
            for (int j = 0; j < 3; j++) { if (strcmp(value, shapes[j].name) == 0) { shape = &shapes[j]; } }
            require_usage(shape != NULL, usage, "--config '%s': there is no such one", value);
        } else if (strcmp(argv[i], "--k") == 0) {
            k = strtod(value, &end);
            require_usage(*value && !*end && k > 0.0 && k <= EXPERTS, usage, "--k '%s': more than 0, at most %d", value, EXPERTS);
        } else if (strcmp(argv[i], "--steps") == 0) {
            steps = (int)strtol(value, &end, 10);
            require_usage(*value && !*end && steps > 0 && steps <= 1000, usage, "--steps '%s': 1 to 1000", value);
        } else if (strcmp(argv[i], "--threads") == 0) {
            threads = (int)strtol(value, &end, 10);
            require_usage(*value && !*end && threads > 0 && threads <= 256, usage, "--threads '%s': 1 to 256", value);
        } else { die_usage(usage, "%s: there is no such option", argv[i]); }
        i++;
    }
    require_usage(shape != NULL, usage, "which --config?");
#if !defined(USE_BLAS) && !defined(USE_ACCELERATE)
    die("dev/setup.sh installs OpenBLAS", "a ceiling without a BLAS says nothing");
#endif
    threads_set(threads);
    s.threads = threads_count() > 256 ? 256 : threads_count();
    s.L = shape->L; s.NH = shape->NH; s.C = shape->C; s.T = shape->T; s.V = shape->V; s.B = shape->B; s.E = EXPERTS;
    s.N = s.B * s.T; s.Vp = (s.V + 127) / 128 * 128;
    if (k < 0.0) { k = shape->k; }
    if (steps == 0) { steps = s.V > 1000 ? 5 : s.C > 128 ? 20 : 100; }
    build(k);
    s.counting = 1;
    run();
    s.counting = 0;
    double flop = 0.0, alone = 0.0, times[1000], ms[PARTS];
    for (int i = 0; i < s.n_products; i++) {
        const Product* p = &s.products[i];
        flop += 2.0 * p->M * p->N * p->K * p->times;
        if (sgemm_only) { alone += p->times * product_seconds(p); }
    }
    if (sgemm_only) {
        printf(json ? "{\"what\":\"sgemm\",\"config\":\"%s\",\"k\":%g,\"ms\":%.3f,\"gflop\":%.4f,\"gflops\":%.1f,\"threads\":%d}\n"
               : "sgemm alone, %s, k %g: %.2f ms for %.3f GFLOP: %.1f GFLOP/s, %d threads\n", shape->name, k, 1e3 * alone,
               1e-9 * flop, 1e-9 * flop / alone, s.threads);
        return 0;
    }
    for (int i = 0; i < (steps > 2 ? 2 : 1); i++) { run(); } // warm-up
    memset(s.part, 0, sizeof s.part);
    for (int i = 0; i < steps; i++) {
        double start = seconds_now();
        run();
        times[i] = 1e3 * (seconds_now() - start);
    }
    double all = median(times, steps), sum = 0.0;
    for (int i = 0; i < PARTS; i++) { sum += s.part[i]; }
    for (int i = 0; i < PARTS; i++) { ms[i] = all * s.part[i] / sum; }
    if (json) {
        printf("{\"what\":\"skeleton\",\"config\":\"%s\",\"k\":%g,\"ms\":%.3f,\"gflop\":%.4f,\"gflops\":%.1f", shape->name, k, all,
               1e-9 * flop, 1e-6 * flop / all);
        for (int i = 0; i < PARTS; i++) { printf(",\"%s\":%.3f", part_names[i], ms[i]); }
        printf(",\"threads\":%d,\"steps\":%d}\n", s.threads, steps);
    } else {
        printf("skeleton, %s, k %g: %.2f ms a step, %.3f GFLOP, %.1f GFLOP/s, %d threads\n", shape->name, k, all, 1e-9 * flop,
               1e-6 * flop / all, s.threads);
        for (int i = 0; i < PARTS; i++) { printf("    %-12s %9.2f ms  %5.1f%%\n", part_names[i], ms[i], 100.0 * ms[i] / all); }
    }
    return 0;
}
