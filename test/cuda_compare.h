// What the tests of the CUDA programs share. Include it after the program: cuda_reference.h, the program, then this.
// Inputs are rounded to floatX first, so both sides compute from the same numbers. A sum of K products may differ by
// TIMES sqrt(K) eps of the largest value, eps = 2^-23: the order of the sum is different. Where the result is stored as bf16 its
// own rounding, 2^-8 of the value, comes on top. Decisions (open, k, rows, masks, counts) must be equal.
#include <check.h> // after the programs: it has a macro fail()

#define TIMES 8.0
static uint64_t rng;
static char folder[] = "/tmp/test_dynmoe_cu_XXXXXX"; // made by run_all, for files

// All tests run in this process, because a CUDA context does not survive a fork. So exit(0) in the middle of one would end the
// program and look like success: main sets a trap for it (see there), and a test passes only if it reaches its last line, PASS().
static int passed, in_a_test, out = -1; // out: a copy of stdout while a test is silent
#define PASS() (passed = 1)

static void silent(void) { // until the end of the test
    fflush(stdout);
    out = dup(1);
    int nowhere = open("/dev/null", O_WRONLY);
    ck_assert(out >= 0 && nowhere >= 0 && dup2(nowhere, 1) == 1);
    close(nowhere);
}

static void before(void) {
    passed = 0;
    in_a_test = 1;
    rng = 88172645463325252ull; // the same numbers whatever ran before
}

static void after(void) {
    in_a_test = 0;
    fflush(stdout);
    if (out >= 0) { dup2(out, 1); close(out); out = -1; }
    ck_assert_msg(passed, "the test did not reach its end");
}

static void trap(void) { // at exit
    if (in_a_test) {
        fprintf(stderr, "FAILED %s: it ended the program\n", tcase_name());
        _exit(1);
    }
}

// ----------------------------------------------------------------------------------------------------------------------
// Helpers

static float* randoms(size_t n, float scale) {
    float* p = (float*)alloc_zeroed(n, sizeof(float), "a test");
    for (size_t i = 0; i < n; i++) { p[i] = scale * (float)random_normal(&rng); }
    return p;
}

template <typename floatX> static void round_to(float* p, size_t n) { // what floatX can hold
    for (size_t i = 0; i < n; i++) { floatX x; store(&x, p[i]); p[i] = value(x); }
}

template <typename floatX> static float* rounded(size_t n, float scale) { // random, and what floatX can hold
    float* p = randoms(n, scale);
    round_to<floatX>(p, n);
    return p;
}

template <typename X> static X* up(const X* host, size_t n) { // a copy on the device
    X* d = (X*)device_alloc(n, sizeof(X), "a test");
    to_device(d, host, n * sizeof(X));
    return d;
}

template <typename floatX> static floatX* upX(const float* host, size_t n) { // the same as floatX
    floatX *h = (floatX*)alloc_zeroed(n, sizeof(floatX), "a test"), *d;
    for (size_t i = 0; i < n; i++) { store(h + i, host[i]); }
    d = up(h, n);
    free(h);
    return d;
}

template <typename X> static X* room(size_t n) { return (X*)device_alloc(n, sizeof(X), "a test"); }

static const char* where = "";      // dtype and shape, for messages
static double slack;                // set by a test: what else may differ, as a share of the largest

template <typename X> static void near(const char* name, const X* device, const float* want, size_t n, double K) {
    // device (n) against want (n), each within TIMES sqrt(K) eps of the largest; with X = bf16 its rounding on top
    X* got = (X*)alloc_zeroed(n, sizeof(X), "a test");
    double largest = 1e-30, rounding = sizeof(X) == 2 ? 1.0 / 256 : 0.0;
    to_host(got, device, n * sizeof(X));
    for (size_t i = 0; i < n; i++) { largest = fmax(largest, fabs((double)want[i])); }
    for (size_t i = 0; i < n; i++) {
        double error = fabs((double)value(got[i]) - (double)want[i]);
        double allowed = (TIMES * sqrt(K) * FLT_EPSILON + slack) * largest + rounding * fabs((double)want[i]);
        if (!(error <= allowed)) {
            ck_abort_msg("%s: %s[%zu]: got %.9g, want %.9g, allowed %.2g", where, name, i, (double)value(got[i]), (double)want[i],
                         allowed);
        }
    }
    free(got);
}

static void equal(const char* name, const int* device, const int* want, size_t n) {
    int* got = (int*)alloc_zeroed(n, sizeof(int), "a test");
    to_host(got, device, n * sizeof(int));
    for (size_t i = 0; i < n; i++) {
        if (got[i] != want[i]) { ck_abort_msg("%s: %s[%zu]: got %d, want %d", where, name, i, got[i], want[i]); }
    }
    free(got);
}

static void say(const char* dtype, int a, int b, int c) {
    static char text[100];
    snprintf(text, sizeof text, "%s, shape %d %d %d", dtype, a, b, c);
    where = text;
}

#define BOTH_TYPES(name) \
    START_TEST(name##_fp32) { slack = 0.0; name<float>("fp32"); PASS(); } END_TEST \
    START_TEST(name##_bf16) { slack = 0.0; name<bf16>("bf16"); PASS(); } END_TEST

// ----------------------------------------------------------------------------------------------------------------------
// Whole models: `model` is the program's, twin the reference's

static int ascending(const void* a, const void* b) {
    float u = *(const float*)a, v = *(const float*)b;
    return (u > v) - (u < v);
}

static void thresholds_into_gaps(ref::GPT2* twin, int l) {
    // each G into the middle of the widest gap between the middle half of its cosines
    int N = twin->B * twin->T, E = twin->config.E;
    float c[256];
    ck_assert_int_le(N, 256);
    for (int e = 0; e < E; e++) {
        int widest = N / 4;
        for (int i = 0; i < N; i++) { c[i] = twin->layer[l].score[i * E + e]; }
        qsort(c, (size_t)N, sizeof(float), ascending);
        for (int i = N / 4; i < 3 * N / 4; i++) { if (c[i + 1] - c[i] > c[widest + 1] - c[widest]) { widest = i; } }
        twin->params.h[l].gateG[e] = 0.5f * (c[widest] + c[widest + 1]);
    }
}

// Rounding to bf16 moves cosines and logarithms of probabilities by about 0.01. So that both programs take the same decisions,
// first values are drawn until no decision of the C program is this close.
#define MARGIN 0.02

static double margin(const ref::GPT2* twin, int l) { // how far its closest decision is from falling otherwise
    const ref::Layer* a = &twin->layer[l];
    int N = twin->B * twin->T, E = twin->config.E, router = twin->config.router;
    double closest = INFINITY;
    for (int i = 0; i < N; i++) {
        const float* s = a->score + i * E;
        double last = INFINITY, next = 0.0, taken = 0.0;
        for (int e = 0; e < E; e++) {
            int open = a->open[i * E + e];
            if (router == ref::TOP_ANY && a->mask[e]) {
                closest = fmin(closest, fabs((double)s[e] - (double)twin->params.h[l].gateG[e]));
            }
            if (open) { last = fmin(last, (double)s[e]); taken += (double)s[e]; } else { next = fmax(next, (double)s[e]); }
        }
        if (router == ref::TOP_K || router == ref::TOP_P) { closest = fmin(closest, log(last / fmax(next, 1e-30))); }
        if (router == ref::TOP_P) { // one more or one less
            double P = (double)twin->config.topp;
            closest = fmin(closest, fmin(fabs(log(taken / P)), fabs(log(fmax(taken - last, 1e-30) / P))));
        }
    }
    return closest;
}

static void compare_layers(const char* when, const ref::GPT2* twin) { // decisions must be equal
    for (int l = 0; l < model.config.L; l++) {
        const Layer* mine = &model.layer[l];
        const ref::Layer* want = &twin->layer[l];
        ck_assert_msg(!model.config.moe[l] || memcmp(mine->hist, want->hist, (size_t)(model.config.E + 1) * sizeof(int)) == 0,
                      "%s, layer %d: other numbers of tokens by k", when, l);
        for (int e = 0; model.config.moe[l] && e < model.config.E; e++) {
            float low = fabsf(mine->low[e] - want->low[e]), high = fabsf(mine->high[e] - want->high[e]);
            ck_assert_msg(low < (float)MARGIN && high < (float)MARGIN, "%s, layer %d, expert %d: scores %g to %g; the C program: "
                          "%g to %g", when, l, e, (double)mine->low[e], (double)mine->high[e], (double)want->low[e],
                          (double)want->high[e]);
            if (model.layer[l].count[e] != twin->layer[l].count[e] || model.layer[l].mask[e] != twin->layer[l].mask[e]) {
                ck_abort_msg("%s, layer %d, expert %d: %d tokens, mask %d; the C program: %d, %d", when, l, e,
                             model.layer[l].count[e],
                             model.layer[l].mask[e], twin->layer[l].count[e], twin->layer[l].mask[e]);
            }
        }
    }
}

// How far a gradient may be from the C program's, as |error| / |gradient| of a whole tensor (Euclidean lengths).
// fp32: both sum up to N = B*T products in another order.
// bf16: every tensor that is stored on the way is rounded, an independent error of at most 2^-8 of each number, about u = 2^-9 on
// average. On the way from a weight of the first layer to the loss and back lie at most 24 such tensors for each layer: res, ln,
// qkv, scores, probabilities, atty, its projection, mid, ln2, pre, act, out, and the gradients of all these. Independent errors
// add up like sqrt(24 L); the factor 4 is for gradients that are small differences of larger numbers (those of the gate and of the
// first layer's norms are two to three times as far off as the rest). That gives 0.031 for two layers, 0.038 for three.
// From 16 other first values the worst tensor was off by 0.012 to 0.028. It must be less than 0.05: each tensor is tried with an
// error of 5 percent, which has to be found.
static double gradient_bound(int is_bf16, int N, int L) {
    return is_bf16 ? 4.0 * sqrt(24.0 * L) / 512 / sqrt(3.0) : TIMES * sqrt(N) * FLT_EPSILON;
}

static double distance(const float* a, const float* b, size_t n, double times) { // |times a - b| / |b|, 0 if both are 0
    double squares = 0.0, wrong = 0.0;
    for (size_t i = 0; i < n; i++) {
        double error = times * (double)a[i] - (double)b[i];
        squares += (double)b[i] * (double)b[i];
        wrong += error * error;
    }
    return wrong > 0.0 ? sqrt(wrong / squares) : 0.0;
}

// ----------------------------------------------------------------------------------------------------------------------
// Flash attention against the C program's, and against the (T, T) matrices of the same program

// How far it may be from the C program's, as |error| / |tensor|. Inputs are the same numbers of bf16. A rounding to bf16 is off by
// at most 2^-8 of the number, its root mean square is 0.83 u with u = 2^-9. Two roundings lie on the way to out and to dv, of the
// probabilities and of the result; for dq and dk they are of ds and of the result: sqrt(2) u.
// Delta is made from the rounded out, so ds = p (dp - delta) has an absolute error too, which does not shrink when dp and delta are
// nearly equal: p u times the root of the sum of squares of dout out. It goes into dq as its sum over keys, and into dk as that
// over queries: spread (2), below. With T = 1 dq and dk are nothing else.
#define FLASH_BOUND (1.41421356 / 512)

static void spread_of_delta(double spread[2], const float* qkv, const float* att, const float* dout, const float* o, int B, int T,
                            int C, int NH) {
    spread[0] = spread[1] = 0.0;
    for (int row = 0; row < B * NH * T; row++) {
        int b = row / T / NH, h = row / T % NH, i = row % T;
        const float *d = dout + ((size_t)b * T + i) * C + h * 64, *x = o + ((size_t)b * T + i) * C + h * 64;
        double error = 0.0, mean[64] = {0.0}, length = 0.0, p2 = 0.0;
        for (int c = 0; c < 64; c++) { error += pow((double)d[c] * (double)x[c] / 512, 2.0); }
        for (int j = 0; j < T; j++) {
            double p = (double)att[(size_t)row * T + j];
            for (int c = 0; c < 64; c++) { mean[c] += p * (double)qkv[((size_t)b * T + j) * 3 * C + C + h * 64 + c]; }
            p2 += p * p;
        }
        for (int c = 0; c < 64; c++) {
            spread[0] += error * mean[c] * mean[c] / 64;
            length += pow((double)qkv[((size_t)b * T + i) * 3 * C + h * 64 + c], 2.0);
        }
        spread[1] += error * p2 * length / 64;
    }
}

static double difference(const float* a, const float* b, size_t rows, size_t stride, size_t from, size_t C, double times) {
    double sum = 0.0; // of C columns of rows: |times a - b|
    for (size_t i = 0; i < rows * C; i++) {
        size_t at = i / C * stride + from + i % C;
        sum += pow(times * (double)a[at] - (double)b[at], 2.0);
    }
    return sqrt(sum);
}

static void flash_near(const char* name, const float* got, const float* want, size_t rows, size_t stride, size_t from, size_t C,
                       double bound, double spread) { // and an error of one percent would be seen
    double size = difference(got, want, rows, stride, from, C, 0.0), allowed = hypot(bound * size, spread);
    double off = difference(got, want, rows, stride, from, C, 1.0);
    double more = difference(got, want, rows, stride, from, C, 1.01);
    ck_assert_msg(off <= allowed, "%s: %s: off by %.3g, allowed %.3g, its length %.3g", where, name, off, allowed, size);
    ck_assert_msg(more > allowed || spread > 0.005 * size, "%s: %s: one percent more would not be seen", where, name);
}

static float* floats_of(const bf16* device, size_t n) {
    bf16* h = (bf16*)alloc_zeroed(n, sizeof(bf16), "a test");
    float* f = (float*)alloc_zeroed(n, sizeof(float), "a test");
    to_host(h, device, n * sizeof(bf16));
    for (size_t i = 0; i < n; i++) { f[i] = value(h[i]); }
    free(h);
    return f;
}

static void flash_case(int B, int T, int NH, int causal, float size) { // q and k of this size: scores are about its square
    static char text[100];
    int C = 64 * NH;
    size_t N = (size_t)B * T, n = N * C, m = N * NH * T;
    snprintf(text, sizeof text, "flash, B %d, T %d, NH %d, %s, size %g", B, T, NH, causal ? "causal" : "full", (double)size);
    where = text;
    float *qkv = randoms(3 * n, 1), *d = rounded<bf16>(n, 1), *out = randoms(n, 1), *dqkv = randoms(3 * n, 1);
    float *att = (float*)alloc_zeroed(m, sizeof(float), "a test"), *datt = randoms(N * NH * 64, 1), *lse = randoms(N * NH, 1);
    for (size_t i = 0; i < 3 * n; i++) { if (i % (3 * C) < 2 * (size_t)C) { qkv[i] *= size; } }
    round_to<bf16>(qkv, 3 * n);
    bf16 *gqkv = upX<bf16>(qkv, 3 * n), *gd = upX<bf16>(d, n), *gout = room<bf16>(n), *gdqkv = room<bf16>(3 * n);
    float *glse = room<float>(N * NH), *delta = room<float>(N * NH);
    flash_forward(gout, glse, gqkv, B, T, C, causal);
    flash_backward(gdqkv, delta, gd, gout, glse, gqkv, B, T, C, causal);
    ref::attention_forward(out, att, qkv, B, T, C, NH, causal);
    ref::attention_backward(dqkv, datt, d, att, qkv, B, T, C, NH, causal);
    float *got = floats_of(gout, n), *dgot = floats_of(gdqkv, 3 * n);
    double spread[2];
    spread_of_delta(spread, qkv, att, d, out, B, T, C, NH);
    flash_near("out", got, out, N, (size_t)C, 0, (size_t)C, FLASH_BOUND, 0.0);
    flash_near("dv", dgot, dqkv, N, 3 * (size_t)C, 2 * (size_t)C, (size_t)C, FLASH_BOUND, 0.0);
    flash_near("dq", dgot, dqkv, N, 3 * (size_t)C, 0, (size_t)C, FLASH_BOUND, sqrt(spread[0]));
    flash_near("dk", dgot, dqkv, N, 3 * (size_t)C, (size_t)C, (size_t)C, FLASH_BOUND, sqrt(spread[1]));
    to_host(lse, glse, N * NH * sizeof(float));
    for (size_t r = 0; r < N * NH; r++) { // the score of the first key and its probability tell the lse
        double score = 0.0;
        const float *q = qkv + (r / T / NH * T + r % T) * 3 * C + r / T % NH * 64, *k = q - r % T * 3 * C;
        size_t j = 0;
        for (size_t i = 0; i < (size_t)T; i++) { if (att[r * T + i] > att[r * T + j]) { j = i; } } // or rather of the likeliest
        for (int c = 0; c < 64; c++) { score += (double)q[c] * (double)k[j * 3 * C + C + c] / 8.0; }
        double want = score - log((double)att[r * T + j]);
        ck_assert_msg(fabs((double)lse[r] - want) < 1e-5 * (1.0 + fabs(score)), "%s: lse[%zu]: %.8g, want %.8g", where, r,
                      (double)lse[r], want);
    }
    // The other path rounds scores, probabilities, the gradients of both, and the result. The error of exp(s) is s u, and where
    // most of the probability is, s s is about 2 if scores have deviation 1: six errors of u, with two of flash eight, and a little
    // more: sqrt(10) u. For dq and dk comes the spread of both paths.
    if (size == 1.0f) {
        bf16 *gatt = room<bf16>(m), *qkvr = room<bf16>(3 * n), *scratch = room<bf16>(n), *other = room<bf16>(n);
        bf16* dother = room<bf16>(3 * n);
        attention_forward(other, gatt, qkvr, scratch, gqkv, B, T, C, NH, causal);
        attention_backward(dother, room<bf16>(m), room<bf16>(3 * n), scratch, gd, gatt, qkvr, B, T, C, NH);
        float *o = floats_of(other, n), *dq = floats_of(dother, 3 * n);
        flash_near("out, both paths", got, o, N, (size_t)C, 0, (size_t)C, sqrt(5.0) * FLASH_BOUND, 0.0);
        for (int i = 0; i < 3; i++) {
            static const char* const names[] = {"dq, both paths", "dk, both paths", "dv, both paths"};
            flash_near(names[i], dgot, dq, N, 3 * (size_t)C, (size_t)i * C, (size_t)C, sqrt(5.0) * FLASH_BOUND,
                       i < 2 ? 2.0 * sqrt(spread[i]) : 0.0);
        }
        free(o); free(dq);
    }
    free(qkv); free(d); free(out); free(dqkv); free(att); free(datt); free(lse); free(got); free(dgot);
}

static const ref::Tensor* tensor_of(const ref::GPT2* twin, const char* name) { // the twin's order of tensors may be another
    for (int i = 0; i < twin->n_tensors; i++) { if (strcmp(twin->table[i].name, name) == 0) { return &twin->table[i]; } }
    ck_abort_msg("the reference has no tensor %s", name);
    return NULL;
}

static void copy_parameters(const ref::GPT2* twin) { // of the twin, and its masks, to the program's host memory
    ck_assert(model.n_params == twin->n_params && model.n_tensors == twin->n_tensors);
    for (int i = 0; i < model.n_tensors; i++) {
        const Tensor* t = &model.table[i];
        const ref::Tensor* a = tensor_of(twin, t->name);
        ck_assert_msg(a->size == t->size && a->slots == t->slots && a->decay == t->decay, "%s: another shape, or decay", t->name);
        memcpy(model.params_memory + t->offset, twin->params_memory + a->offset, t->size * sizeof(float));
    }
    for (int l = 0; l < model.config.L; l++) { memcpy(model.layer[l].mask, twin->layer[l].mask, sizeof model.layer[l].mask); }
}

static void compare_gradients(const char* when, const float* device, const ref::GPT2* twin, double bound) {
    // every tensor within the bound, and an error of 5 percent would be seen
    float* grads = (float*)alloc_zeroed(model.n_memory, sizeof(float), "a test");
    to_host(grads, device, model.n_memory * sizeof(float));
    for (int i = 0; i < model.n_tensors; i++) {
        const Tensor* t = &model.table[i];
        const float *got = grads + t->offset, *right = twin->grads_memory + tensor_of(twin, t->name)->offset;
        double off = distance(got, right, t->size, 1.0), is_zero = distance(right, right, t->size, 0.0) == 0.0;
        double more = distance(got, right, t->size, 1.05), less = distance(got, right, t->size, 0.95);
        ck_assert_msg(off <= bound, "%s: gradient of %s: off by %.3g, allowed %.3g", when, t->name, off, bound);
        ck_assert_msg(is_zero || (more > bound && less > bound), "%s: an error of 5 percent in %s would not be seen", when,
                      t->name);
    }
    free(grads);
}

static void compare_adam(const ref::GPT2* twin, float lr, float beta2, double eps, int steps) {
    // Parameters and moments after so many steps of at most lr.
    // A gradient may be off by g = TIMES sqrt(N steps) eps times the tensor's largest (as above; the parameters that it is taken at
    // differ too, more with each step; its size is taken from v, largest = max sqrt(vhat)), so m by g and v by 2 g sqrt(v) + g^2.
    // AdamW divides by sqrt(vhat): a parameter moves by lr m / sqrt(vhat), off by lr g / sqrt(vhat). Where the gradient is all
    // rounding (the biases of keys: softmax does not see them) even the sign is open, 2 lr for each step. What never had a gradient
    // may differ by the rounding of p alone; moments are 0.
    double correction = 1.0 - pow((double)beta2, steps);
    for (int i = 0; i < model.n_tensors; i++) {
        const Tensor* t = &model.table[i];
        size_t o = tensor_of(twin, t->name)->offset;
        const float *ps = twin->params_memory + o, *ms = twin->m_memory + o, *vs = twin->v_memory + o;
        const float *got_p = model.params_memory + t->offset, *got_m = model.m_memory + t->offset;
        const float* got_v = model.v_memory + t->offset;
        // a new row of W is the direction of R_S, which is off like a gradient; its length is 1
        double largest = 0.0, row = t->first == ORTHOGONAL ? TIMES * sqrt(model.B * model.T) * FLT_EPSILON : 0.0;
        for (size_t j = 0; j < t->size; j++) { largest = fmax(largest, sqrt((double)vs[j] / correction)); }
        for (size_t j = 0; j < t->size; j++) {
            double p = (double)ps[j], m = (double)ms[j], v = (double)vs[j];
            double g = m == 0.0 && v == 0.0 ? 0.0 : TIMES * sqrt(model.B * model.T * steps) * FLT_EPSILON * largest;
            double share = fmin(2.0, g / (sqrt(v / correction) + eps));
            double off_p = fabs((double)got_p[j] - p), off_m = fabs((double)got_m[j] - m);
            double off_v = fabs((double)got_v[j] - v), of_p = steps * (lr * share + FLT_EPSILON * fabs(p)) + row;
            ck_assert_msg(off_p <= of_p, "%s[%zu]: %.9g, want %.9g, allowed %.2g", t->name, j, (double)got_p[j], p, of_p);
            ck_assert_msg(off_m <= g, "m of %s[%zu]: %.9g, want %.9g", t->name, j, (double)got_m[j], m);
            ck_assert_msg(off_v <= 2 * g * sqrt(v) + g * g, "v of %s[%zu]: %.9g, want %.9g", t->name, j, (double)got_v[j], v);
        }
    }
}

static void compare_records(const ref::GPT2* twin) { // of the last window
    for (int l = 0; l < model.config.L; l++) {
        const Layer* a = &model.layer[l];
        const ref::Layer* b = &twin->layer[l];
        double largest = 0.0;
        ck_assert_msg(a->record_unrouted == b->record_unrouted, "layer %d: unrouted", l);
        for (int e = 0; e < model.config.E; e++) { ck_assert_msg(a->record_count[e] == b->record_count[e], "layer %d, count", l); }
        for (int c = 0; c < model.config.C; c++) { largest = fmax(largest, fabs(b->record_sum[c])); }
        for (int c = 0; c < model.config.C; c++) { // sums of double: what differs is the x that they add
            ck_assert_msg(fabs(a->record_sum[c] - b->record_sum[c]) <= TIMES * sqrt(model.B * model.T) * FLT_EPSILON * largest,
                          "layer %d, record_sum[%d]: %.9g, want %.9g", l, c, a->record_sum[c], b->record_sum[c]);
        }
    }
}

// ----------------------------------------------------------------------------------------------------------------------

static void add(Suite* suite, const char* name, const TTest* test) { // as a case of its own: CK_RUN_CASE=name runs it alone
    TCase* tc = tcase_create(name);
    tcase_add_checked_fixture(tc, before, after);
    tcase_add_test(tc, test);
    suite_add_tcase(suite, tc);
}


static int run_all(Suite* suite) { // what main returns
    SRunner* sr = srunner_create(suite);
    if (mkdtemp(folder) == NULL) { perror(folder); return 1; }
    srunner_set_fork_status(sr, CK_NOFORK);
    atexit(trap);
    srunner_run_all(sr, CK_NORMAL);
    int failed = srunner_ntests_failed(sr), run = srunner_ntests_run(sr);
    srunner_free(sr);
    for (int i = 0; i < 2; i++) {
        char path[100];
        snprintf(path, sizeof path, "%s/%c.safetensors", folder, "ab"[i]);
        unlink(path);
    }
    rmdir(folder);
    printf("%d passed, %d failed\n", run - failed, failed);
    return failed > 0 || run == 0;
}

#define TEST(name) add(suite, #name, name);
#define TEST_BOTH(name) TEST(name##_fp32) if (is_bf16) { TEST(name##_bf16) }
