// Grades assignment 4, kernels: each alone, in fp32 and bf16, against slow loops in double, on shapes with empty experts, with one
// expert that takes all, with C that is no multiple of 32, and with one token. Runs without a GPU, with clang++ in check mode, and
// on a GPU. See grade.h.
#ifdef __NVCC__ // __CUDACPU__ is not known before the first header of CUDA
#define GRADE_SECONDS 60
#endif
#include "grade.h"
#undef fail // of check.h
#define TESTING
#include SRC

enum { V_CLOSED = 1, V_LAST = 2, V_EMPTY = 3 }; // test/variants/a4.*.sed

// ---- memory on the device: what is not written is NaN (or -1), and what stands behind its end must stay -------------------

#ifdef CUDACPU_CHECK
#define EDGE 0 // check mode sees an access behind the end by itself
#else
#define EDGE 1
#endif
#define EDGE_BYTE 0x5a

template <typename X> static X* device(const X* from, size_t n) { // a copy of from (n), or n that hold 0xff
    X* p;
    CUDA(cudaMalloc(&p, (n + EDGE) * sizeof(X) + (n + EDGE == 0)));
    if (from != NULL) { to_device(p, from, n * sizeof(X)); }
    else if (EDGE && n > 0) { CUDA(cudaMemset(p, 0xff, n * sizeof(X))); } // check mode knows what was never written
    if (EDGE) { CUDA(cudaMemset(p + n, EDGE_BYTE, sizeof(X))); }
    return p;
}
template <typename X> static X* host(const char* what, const X* from, size_t n) {
    X* p = (X*)grade_memory((n + 1) * sizeof(X));
    to_host(p, from, (n + EDGE) * sizeof(X));
    for (size_t i = 0; EDGE && i < sizeof(X); i++) {
        GRADE_REQUIRE(((unsigned char*)(p + n))[i] == EDGE_BYTE, "%s: written behind its end", what);
    }
    return p;
}
static void finished(void) {
    cudaError_t e = cudaGetLastError();
    if (e == cudaSuccess) { e = cudaDeviceSynchronize(); }
    GRADE_REQUIRE(e == cudaSuccess, "the kernel ended with: %s", cudaGetErrorString(e));
}

template <typename X> static float* random_x(X** on_device, size_t n) { // what X can hold, both sides the same
    float* p = grade_random(n, 1.0);
    X* x = (X*)grade_memory(n * sizeof(X));
    for (size_t i = 0; i < n; i++) { store(x + i, p[i]); p[i] = value(x[i]); }
    *on_device = device(x, n);
    return p;
}

template <typename X> static void near(const char* what, const X* on_device, const double* want, size_t n) {
    X* got = host(what, on_device, n);
    double largest = 0.0, rounding = sizeof(X) == 2 ? 1.0 / 256 : 2e-6;
    for (size_t i = 0; i < n; i++) { largest = fmax(largest, fabs(want[i])); }
    for (size_t i = 0; i < n; i++) {
        GRADE_REQUIRE(fabs((double)value(got[i]) - want[i]) <= rounding * fabs(want[i]) + 2e-6 * largest,
                      "%s[%zu] is %.7g, expected %.7g", what, i, (double)value(got[i]), want[i]);
    }
}
static void same(const char* what, const int* on_device, const int* want, size_t n) {
    int* got = host(what, on_device, n);
    for (size_t i = 0; i < n; i++) { GRADE_REQUIRE(got[i] == want[i], "%s[%zu] is %d, expected %d", what, i, got[i], want[i]); }
}

// ---- shapes ----------------------------------------------------------------------------------------------------------------

typedef struct { int N, C, E, kind; } Shape;
// by chance; all experts; by chance but never expert 0; only the last expert; none; none, because none is active
enum { SOME, ALL, EMPTY, ONE, NONE, INACTIVE };
static const Shape shapes[] = {
    {37, 40, 4, SOME}, {1, 33, 3, SOME}, {300, 7, 5, EMPTY},
    {531, 5, 3, ONE}, {260, 64, 2, ALL}, {45, 1, 8, NONE}, {1, 32, 1, ALL}, {66, 6, MAX_EXPERTS, SOME}, {40, 9, 4, INACTIVE}};
static const int n_shapes = sizeof shapes / sizeof shapes[0];

static int* choose(const Shape* s) { // open (N, E)
    int* open = (int*)grade_memory((size_t)s->N * s->E * sizeof(int));
    for (int i = 0; i < s->N; i++) {
        for (int e = 0; e < s->E; e++) {
            open[i * s->E + e] = s->kind == ALL || (s->kind == SOME && grade_int(0, 1)) ||
                (s->kind == EMPTY && e > 0 && grade_int(0, 1)) || (s->kind == ONE && e == s->E - 1);
        }
    }
    return open;
}

typedef struct { int *row_of, *row_token, *block_begin, *block_count, *offset, R, blocks; } Rows;
static Rows arrange(const int* open, const Shape* s) { // what counting, scanning and filling must come to
    int N = s->N, E = s->E, blocks = (N + BLOCK - 1) / BLOCK;
    Rows r = {NULL, NULL, NULL, NULL, NULL, 0, blocks};
    r.row_of = (int*)grade_memory((size_t)N * E * sizeof(int));
    r.row_token = (int*)grade_memory(((size_t)N + 128) * E * sizeof(int));
    r.block_begin = (int*)grade_memory((size_t)blocks * E * sizeof(int));
    r.block_count = (int*)grade_memory((size_t)blocks * E * sizeof(int));
    r.offset = (int*)grade_memory((size_t)(E + 1) * sizeof(int));
    for (int e = 0; e < E; e++) {
        int row = r.R;
        r.offset[e] = row;
        for (int i = 0; i < N; i++) {
            if (i % BLOCK == 0) { r.block_begin[i / BLOCK * E + e] = row; }
            r.block_count[i / BLOCK * E + e] += open[i * E + e];
            r.row_of[i * E + e] = -1;
            if (open[i * E + e]) { r.row_token[row] = i; r.row_of[i * E + e] = row++; }
        }
        int end = r.R;
        while (end < row) { end += 128; }
        if (VARIANT == V_EMPTY && end == r.R) { end += 128; }
        while (row < end) { r.row_token[row++] = -1; }
        r.R = end;
    }
    r.offset[E] = r.R;
    return r;
}

// ---- a4.q1 ---------------------------------------------------------------------------------------------------------------

template <typename X> static void gate(const Shape* s, int fallback) {
    int N = s->N, C = s->C, E = s->E, mask[MAX_EXPERTS], *open, *k;
    float W[MAX_EXPERTS * 64], G[MAX_EXPERTS], wnorm[MAX_EXPERTS];
    X* dx;
    float* x = random_x(&dx, (size_t)N * C);
    for (int c = 0; c < C && N > 1; c++) { x[c] = 0.0f; } // token 0 has no direction
    if (N > 1) { CUDA(cudaMemset(dx, 0, (size_t)C * sizeof(X))); }
    for (int e = 0; e < E; e++) {
        for (int c = 0; c < C; c++) { W[e * C + c] = e == 2 ? W[C + c] : grade_normal(); } // 1 and 2 agree
        int all = s->kind == ALL || (s->kind == ONE && e == E - 1), none = s->kind == NONE || (s->kind == ONE && !all);
        G[e] = all ? -2.0f : none ? 2.0f : (float)grade_uniform(-0.2, 0.4);
        mask[e] = s->kind == EMPTY ? e != 0 : s->kind != INACTIVE && (s->kind == ALL || grade_int(0, 3) > 0);
    }
    for (int c = 0; c < C && E > 3; c++) { // vectors of length 2^-28: each length by itself is raised to NORM_EPS
        x[C + c] = W[3 * C + c] = c == 0 ? 0x1p-28f : 0.0f;
        X tiny;
        store(&tiny, x[C + c]);
        to_device(dx + C + c, &tiny, sizeof tiny);
    }
    if (E > 2) { G[2] = 0.0f; } // the token without a direction has cosine 0: at its threshold
    for (int e = 0; e < E; e++) {
        double squares = 0.0;
        for (int c = 0; c < C; c++) { squares += (double)W[e * C + c] * W[e * C + c]; }
        wnorm[e] = (float)sqrt(squares);
    }
    size_t n = (size_t)N * E;
    int *dopen = device((int*)NULL, n), *dk = device((int*)NULL, N), *got = NULL;
    float *dweight = device((float*)NULL, n), *dcosine = device((float*)NULL, n), *dxnorm = device((float*)NULL, N);
    gate_forward_kernel<<<WARPS(N)>>>(dopen, dk, dweight, dcosine, dxnorm, device(wnorm, E), dx, device(W, (size_t)E * C),
                                      device(G, E), device(mask, E), fallback, N, C, E);
    finished();
    double *cosine = grade_doubles(n), *weight = grade_doubles(n), *norm = grade_doubles(N);
    open = (int*)grade_memory(n * sizeof(int));
    k = (int*)grade_memory((size_t)N * sizeof(int));
    got = host("open", dopen, n);
    float* c32 = host("cosine", dcosine, n);
    for (int i = 0; i < N; i++) {
        double squares = 0.0;
        int best = -1, near_edge = 0;
        for (int c = 0; c < C; c++) { squares += (double)x[i * C + c] * x[i * C + c]; }
        norm[i] = sqrt(squares);
        for (int e = 0; e < E; e++) {
            double dot = 0.0;
            for (int c = 0; c < C; c++) { dot += (double)x[i * C + c] * W[e * C + c]; }
            cosine[i * E + e] = dot / (fmax(norm[i], 1e-8) * fmax((double)wnorm[e], 1e-8));
        }
        for (int e = 0; e < E; e++) { // decisions by the kernel's own cosine: they are exact. Rounding decides nothing
            float c = c32[i * E + e];
            open[i * E + e] = mask[e] && (VARIANT == V_CLOSED ? c >= G[e] : c > G[e]);
            k[i] += open[i * E + e];
            if (mask[e] && (best < 0 || c > c32[i * E + best] || (VARIANT == V_LAST && c == c32[i * E + best]))) { best = e; }
            near_edge |= c != c;
        }
        GRADE_REQUIRE(!near_edge, "cosine of token %d is NaN", i);
        if (k[i] == 0 && fallback && best >= 0) { open[i * E + best] = 1; }
        for (int e = 0; e < E; e++) { weight[i * E + e] = (double)open[i * E + e] / (k[i] > 0 ? k[i] : 1); }
    }
    near("cosine", dcosine, cosine, n);
    for (size_t i = 0; i < n; i++) { GRADE_REQUIRE(got[i] == open[i], "open[%zu] is %d, expected %d", i, got[i], open[i]); }
    same("k", dk, k, N);
    near("weight", dweight, weight, n);
    near("xnorm", dxnorm, norm, N);
    float* xnorm = host("xnorm", dxnorm, N);
    for (int i = 0; i < N; i++) { GRADE_REQUIRE(norm[i] > 0.0 || xnorm[i] == 0.0f, "xnorm[%d] is %g, expected 0", i, xnorm[i]); }
}
GRADE(gate_fp32) { for (int s = 0; s < n_shapes; s++) { gate<float>(&shapes[s], s % 2); } GRADE_PASS(); }
GRADE(gate_fallback) { for (int s = 0; s < n_shapes; s++) { gate<float>(&shapes[s], 1 - s % 2); } GRADE_PASS(); }
GRADE(gate_bf16) { for (int s = 0; s < n_shapes; s++) { gate<bf16>(&shapes[s], 1); } GRADE_PASS(); }

// ---- a4.q2 to q4 -----------------------------------------------------------------------------------------------------------

GRADE(count_all) {
    for (int s = 0; s < n_shapes; s++) {
        int N = shapes[s].N, E = shapes[s].E, *open = choose(&shapes[s]);
        Rows r = arrange(open, &shapes[s]);
        int* count = device((int*)NULL, (size_t)r.blocks * E);
        dispatch_count_kernel<<<r.blocks, BLOCK>>>(count, device(open, (size_t)N * E), N, E);
        finished();
        same("block_count", count, r.block_count, (size_t)r.blocks * E);
    }
    GRADE_PASS();
}

GRADE(scan_all) {
    for (int s = 0; s < n_shapes; s++) {
        int E = shapes[s].E, *open = choose(&shapes[s]);
        Rows r = arrange(open, &shapes[s]);
        int* count = device(r.block_count, (size_t)r.blocks * E);
        RouteStats *before = (RouteStats*)grade_memory(sizeof(RouteStats)), *got = (RouteStats*)grade_memory(sizeof(RouteStats));
        memset(before, 0x5a, sizeof *before);
        RouteStats* stats = device(before, 1);
        dispatch_scan_kernel<<<1, MAX_EXPERTS>>>(count, stats, r.blocks, E);
        finished();
        same("block_count", count, r.block_begin, (size_t)r.blocks * E);
        to_host(got, stats, sizeof *got);
        for (int e = 0; e <= E; e++) {
            GRADE_REQUIRE(got->offset[e] == r.offset[e], "offset[%d] is %d, expected %d", e, got->offset[e], r.offset[e]);
            got->offset[e] = before->offset[e];
        }
        GRADE_REQUIRE(memcmp(got, before, sizeof *got) == 0, "something of s beside offset[0 .. %d] was written", E);
    }
    GRADE_PASS();
}

GRADE(fill_all) {
    for (int s = 0; s < n_shapes; s++) {
        int N = shapes[s].N, E = shapes[s].E, *open = choose(&shapes[s]);
        Rows r = arrange(open, &shapes[s]);
        int* minus = (int*)grade_memory((size_t)r.R * sizeof(int));
        for (int i = 0; i < r.R; i++) { minus[i] = -1; } // as dispatch leaves it for this kernel
        int* junk = (int*)grade_memory((size_t)N * E * sizeof(int)); // not the -1 of unwritten memory: -1 must be written
        for (int i = 0; i < N * E; i++) { junk[i] = 12345; }
        int *row_of = device(junk, (size_t)N * E), *row_token = device(minus, r.R);
        dispatch_fill_kernel<<<r.blocks, BLOCK>>>(row_of, row_token, device(r.block_begin, (size_t)r.blocks * E),
                                                  device(open, (size_t)N * E), N, E);
        finished();
        same("row_of", row_of, r.row_of, (size_t)N * E);
        same("row_token", row_token, r.row_token, r.R);
    }
    GRADE_PASS();
}

// ---- a4.q5 to q7 -----------------------------------------------------------------------------------------------------------

template <typename X> static void gather(const Shape* s) {
    int C = s->C, *open = choose(s);
    Rows r = arrange(open, s);
    int R = r.R - 3; // some warps of the last block have no row
    if (R < 0) { return; }
    X *dx, *xr = device((X*)NULL, (size_t)R * C);
    float* x = random_x(&dx, (size_t)s->N * C);
    double* want = grade_doubles((size_t)R * C);
    gather_forward_kernel<<<WARPS(R)>>>(xr, dx, device(r.row_token, R), R, C);
    finished();
    for (int i = 0; i < R; i++) {
        for (int c = 0; c < C; c++) { want[(size_t)i * C + c] = r.row_token[i] >= 0 ? x[r.row_token[i] * C + c] : 0.0; }
    }
    near("xr", xr, want, (size_t)R * C);
}
GRADE(gather_fp32) { for (int s = 0; s < n_shapes; s++) { gather<float>(&shapes[s]); } GRADE_PASS(); }
GRADE(gather_bf16) { for (int s = 0; s < n_shapes; s++) { gather<bf16>(&shapes[s]); } GRADE_PASS(); }

template <typename X> static void combine(const Shape* s, int way) { // way 0: without weights, 1: without residual, 2: with both
    int N = s->N, C = s->C, E = s->E, *open = choose(s);
    Rows r = arrange(open, s);
    X *dout, *dres, *y = device((X*)NULL, (size_t)N * C);
    float *out = random_x(&dout, (size_t)r.R * C), *res = random_x(&dres, (size_t)N * C);
    float* weight = grade_random((size_t)N * E, 1.0);
    double* want = grade_doubles((size_t)N * C);
    combine_forward_kernel<<<WARPS(N)>>>(y, way != 1 ? dres : (const X*)NULL, dout, device(r.row_of, (size_t)N * E),
                                         way != 0 ? device(weight, (size_t)N * E) : (const float*)NULL, N, C, E);
    finished();
    for (int i = 0; i < N; i++) {
        for (int c = 0; c < C; c++) {
            double sum = way != 1 ? res[i * C + c] : 0.0;
            for (int e = 0; e < E; e++) {
                int row = r.row_of[i * E + e];
                if (row >= 0) { sum += (way != 0 ? weight[i * E + e] : 1.0) * out[(size_t)row * C + c]; }
            }
            want[i * C + c] = sum;
        }
    }
    near("y", y, want, (size_t)N * C);
}
GRADE(combine_fp32) { for (int s = 0; s < 3 * n_shapes; s++) { combine<float>(&shapes[s / 3], s % 3); } GRADE_PASS(); }
GRADE(combine_bf16) { for (int s = 0; s < 3 * n_shapes; s++) { combine<bf16>(&shapes[s / 3], s % 3); } GRADE_PASS(); }

// 2^27 + 1 is 2^27 in float: only the sum in the order of experts is 1
template <typename X> static void combine_in_order(void) {
    const float terms[3] = {0x1p27f, -0x1p27f, 1.0f};
    Shape s = {1, 2, 3, ALL};
    Rows r = arrange(choose(&s), &s);
    X* out = (X*)grade_memory((size_t)r.R * s.C * sizeof(X));
    for (int e = 0; e < s.E; e++) {
        for (int c = 0; c < s.C; c++) { out[(size_t)r.row_of[e] * s.C + c] = (X)terms[e]; }
    }
    X* y = device((X*)NULL, s.C);
    const double want[2] = {1.0, 1.0};
    combine_forward_kernel<<<WARPS(1)>>>(y, (const X*)NULL, device(out, (size_t)r.R * s.C), device(r.row_of, s.E),
                                         (const float*)NULL, 1, s.C, s.E);
    finished();
    near("y", y, want, s.C);
}
GRADE(combine_order) { combine_in_order<float>(); combine_in_order<bf16>(); GRADE_PASS(); }

template <typename X> static void back(const Shape* s) {
    int N = s->N, C = s->C, E = s->E, *open = choose(s);
    Rows r = arrange(open, s);
    X *dout_in, *ddy, *first;
    float *out = random_x(&dout_in, (size_t)r.R * C), *dy = random_x(&ddy, (size_t)N * C);
    float* weight = grade_random((size_t)N * E, 1.0);
    float* before = random_x(&first, (size_t)r.R * C); // padding rows must stay as they are
    float* dweight = device((float*)NULL, (size_t)N * E);
    double *want = grade_doubles((size_t)r.R * C), *want_weight = grade_doubles((size_t)N * E);
    for (size_t i = 0; i < (size_t)r.R * C; i++) { want[i] = before[i]; }
    combine_backward_kernel<<<WARPS(N)>>>(first, dweight, ddy, dout_in, device(r.row_of, (size_t)N * E),
                                          device(weight, (size_t)N * E), N, C, E);
    finished();
    for (int i = 0; i < N * E; i++) {
        int row = r.row_of[i];
        for (int c = 0; row >= 0 && c < C; c++) {
            want[(size_t)row * C + c] = (double)weight[i] * dy[i / E * C + c];
            want_weight[i] += (double)dy[i / E * C + c] * out[(size_t)row * C + c];
        }
    }
    near("dout", first, want, (size_t)r.R * C);
    near("dweight", dweight, want_weight, (size_t)N * E);
}
GRADE(back_fp32) { for (int s = 0; s < n_shapes; s++) { back<float>(&shapes[s]); } GRADE_PASS(); }
GRADE(back_bf16) { for (int s = 0; s < n_shapes; s++) { back<bf16>(&shapes[s]); } GRADE_PASS(); }

int main(int argc, char** argv) {
    grade_begin(argc, argv);
    grade_test("a4.q1", gate_fp32);
    grade_test("a4.q1", gate_fallback);
    grade_test("a4.q1", gate_bf16);
    grade_test("a4.q2", count_all);
    grade_test("a4.q3", scan_all);
    grade_test("a4.q4", fill_all);
    grade_test("a4.q5", gather_fp32);
    grade_test("a4.q5", gather_bf16);
    grade_test("a4.q6", combine_fp32);
    grade_test("a4.q6", combine_bf16);
    grade_test("a4.q6", combine_order);
    grade_test("a4.q7", back_fp32);
    grade_test("a4.q7", back_bf16);
    return grade_end();
}
