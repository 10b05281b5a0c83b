// Grades assignment 1, the forward pass. What is expected is computed here a second time, in double, one pair (token, expert)
// at a time, from the paper's equations. See grade.h.
#include "grade.h"
#define TESTING
#include SRC

enum { V_DOT = 1, V_MARGIN = 2, V_TIES = 3, V_ROOT = 4, V_ORDER = 5 }; // test/variants/a1.*.sed

static double grade_length(const float* x, int n) {
    double sum = 0.0;
    for (int i = 0; i < n; i++) { sum += (double)x[i] * x[i]; }
    return sqrt(sum);
}

static double grade_score(const float* x, const float* w, int C) { // eq. (3)
    double dot = 0.0, lx = grade_length(x, C), lw = grade_length(w, C);
    for (int c = 0; c < C; c++) { dot += (double)x[c] * w[c]; }
    if (VARIANT == V_DOT) { return dot; }
    return dot / fmax(lx, 1e-8) / fmax(lw, 1e-8); // NORM_EPS
}

// one gate on given inputs against the definition; asks for the scores too unless outputs only matter
static void grade_gate_check(const float* x, const float* W, const float* G, const int* mask, int fallback, int N, int C, int E) {
    int *open = grade_out_int((size_t)N * E), *k = grade_out_int(N), *want_open = grade_out_int((size_t)N * E);
    int *want_k = grade_out_int(N), unrouted = 0;
    float *cosine = grade_out((size_t)N * E), *xnorm = grade_out(N), *wnorm = grade_out(E);
    double *s = grade_doubles((size_t)N * E), *lx = grade_doubles(N), *lw = grade_doubles(E);
    for (int e = 0; e < E; e++) { lw[e] = grade_length(W + e * C, C); }
    for (int i = 0; i < N; i++) {
        int nearest = -1;
        lx[i] = grade_length(x + i * C, C);
        want_k[i] = 0;
        for (int e = 0; e < E; e++) {
            double* si = s + i * E;
            si[e] = grade_score(x + i * C, W + e * C, C);
            int above = VARIANT == V_TIES ? si[e] >= (double)G[e] - 1e-7 : si[e] > (double)G[e] + 1e-7;
            want_open[i * E + e] = mask[e] != 0 && above;
            want_k[i] += want_open[i * E + e];
            double best = VARIANT == V_MARGIN ? si[e] - (double)G[e] : si[e];
            double so_far = nearest < 0 ? 0.0 : VARIANT == V_MARGIN ? si[nearest] - (double)G[nearest] : si[nearest];
            if (mask[e] && (nearest < 0 || best > so_far)) { nearest = e; }
        }
        unrouted += want_k[i] == 0;
        if (want_k[i] == 0 && fallback && nearest >= 0) { want_open[i * E + nearest] = 1; }
    }
    int got = gate_forward(open, k, cosine, xnorm, wnorm, x, W, G, mask, fallback, N, C, E);
    grade_floats("xnorm", xnorm, lx, N, 1e-5);
    grade_floats("wnorm", wnorm, lw, E, 1e-5);
    grade_floats("cosine", cosine, s, (size_t)N * E, 1e-5);
    grade_ints("open", open, want_open, (size_t)N * E);
    grade_ints("k", k, want_k, N);
    GRADE_REQUIRE(got == unrouted, "gate_forward returned %d, but %d tokens chose none", got, unrouted);
}

GRADE(gate_hand) { // vectors whose cosines are exact: 0.6, 0.8, 1, 0
    float x[] = {3, 4, 0, 2}, W[] = {1, 0, 0, 5}, G[] = {0.5f, 0.9f};
    int mask[] = {1, 1};
    grade_gate_check(x, W, G, mask, 0, 2, 2, 2);
    GRADE_PASS();
}

GRADE(gate_ties) { // at the threshold
    float x[] = {2, 0, 0, 3}, W[] = {1, 0, 0, 1}, G[] = {1.0f, 1.0f}, zero[] = {0.0f, 0.0f};
    int mask[] = {1, 1};
    if (VARIANT == V_DOT) { G[0] = 2.0f; G[1] = 3.0f; }
    grade_gate_check(x, W, G, mask, 0, 2, 2, 2);
    grade_gate_check(x, W, zero, mask, 0, 2, 2, 2);
    GRADE_PASS();
}

static void grade_gate_on_random(float threshold, int fallback) { // no score too near to a threshold: rounding
    int N = grade_int(20, 30), C = grade_int(9, 17), E = grade_int(4, 7);
    float *x = grade_random((size_t)N * C, 2.0), *W = grade_random((size_t)E * C, 0.3), *G = grade_random(E, 0.1);
    int* mask = grade_out_int(E);
    for (int e = 0; e < E; e++) { mask[e] = e % 3 != 1; G[e] += threshold; }
    for (int e = 0, i = 0; e < E; e++) {
        for (i = 0; i < N; i++) { if (fabs(grade_score(x + i * C, W + e * C, C) - G[e]) < 1e-4) { G[e] += 1e-3f; i = -1; } }
    }
    grade_gate_check(x, W, G, mask, fallback, N, C, E);
}
GRADE(gate_some_open) { grade_gate_on_random(0.1f, 0); GRADE_PASS(); }
GRADE(gate_few_open) { grade_gate_on_random(VARIANT == V_DOT ? 3.0f : 0.5f, 0); GRADE_PASS(); }
GRADE(gate_fallback) { grade_gate_on_random(VARIANT == V_DOT ? 3.0f : 0.5f, 1); GRADE_PASS(); }
GRADE(gate_all_open) { grade_gate_on_random(-100.0f, 1); GRADE_PASS(); } // the inactive ones stay closed

GRADE(gate_fallback_rule) { // expert 0 is nearest, but its threshold is far; 1 is almost open; 2 is inactive, 3 equals 0
    float x[] = {1, 0, 0, 1}, W[] = {8, 6, 6, 8, 1, 0, 8, 6}, G[] = {300.0f, 100.0f, 100.0f, 300.0f};
    int mask[] = {1, 1, 0, 1}, nobody[] = {0, 0, 0, 0};
    grade_gate_check(x, W, G, mask, 1, 1, 2, 4);
    grade_gate_check(x, W, G, mask, 0, 1, 2, 4);
    grade_gate_check(x, W, G, nobody, 1, 2, 2, 4);
    GRADE_PASS();
}

GRADE(gate_zero_vector) { // has no direction: score 0, no NaN
    float x[] = {0, 0, 1, 1}, W[] = {1, 0, 0, 0}, G[] = {-0.5f, 0.5f};
    int mask[] = {1, 1};
    grade_gate_check(x, W, G, mask, 0, 2, 2, 2);
    GRADE_PASS();
}

GRADE(gate_short_vectors) { // each length by itself is raised to NORM_EPS, not their product, which is below it for the first pair
    float x[] = {6e-7f, 8e-7f, 3e-9f, 4e-9f, 0, 1}, W[] = {3e-4f, 4e-4f, 4, 3, 2e-9f, 0}, G[] = {0.9f, 0.3f, 0.05f};
    int mask[] = {1, 1, 1};
    grade_gate_check(x, W, G, mask, 0, 3, 2, 3);
    GRADE_PASS();
}

static double grade_share_of(int open, int k) { // eq. (6)
    if (!open) { return 0.0; }
    return k == 0 ? 1.0 : VARIANT == V_ROOT ? 1.0 / sqrt(k) : 1.0 / k;
}

GRADE(mean_random) {
    int N = grade_int(20, 30), E = grade_int(3, 6), *open = grade_out_int((size_t)N * E), *k = grade_out_int(N);
    float* weight = grade_out((size_t)N * E);
    double* want = grade_doubles((size_t)N * E);
    for (int i = 0; i < N; i++) {
        k[i] = 0;
        for (int e = 0; e < E; e++) { open[i * E + e] = i % 5 != 0 && grade_int(0, 1); k[i] += open[i * E + e]; }
        if (i % 10 == 0) { open[i * E + grade_int(0, E - 1)] = 1; } // by the fallback: k stays 0
    }
    for (int i = 0; i < N * E; i++) { want[i] = grade_share_of(open[i], k[i / E]); }
    mean_forward(weight, open, k, N, E);
    grade_floats("weight", weight, want, (size_t)N * E, 1e-6);
    GRADE_PASS();
}

// rows by counting: the row of (i, e) is the number of pairs that come before it
static int grade_row_by_counting(const int* open, int i, int e, int N, int E) {
    int before = 0;
    for (int f = 0; f < E; f++) {
        for (int j = 0; j < N; j++) {
            int earlier = f < e || (f == e && (VARIANT == V_ORDER ? j > i : j < i));
            before += open[j * E + f] != 0 && earlier;
        }
    }
    return before;
}

static void grade_dispatch_check(const int* open, int N, int E) {
    int NE = N * E, R = 0, *row_of = grade_out_int(NE), *row_token = grade_out_int(NE), *offset = grade_out_int(E + 1);
    int *want_row = grade_out_int(NE), *want_token = grade_out_int(NE), *want_offset = grade_out_int(E + 1);
    for (int e = 0; e < E; e++) {
        want_offset[e] = R;
        for (int i = 0; i < N; i++) {
            int row = open[i * E + e] ? grade_row_by_counting(open, i, e, N, E) : -1;
            want_row[i * E + e] = row;
            if (row >= 0) { want_token[row] = i; R++; }
        }
    }
    want_offset[E] = R;
    int got = dispatch(row_of, row_token, offset, open, N, E);
    GRADE_REQUIRE(got == R, "dispatch returned %d rows, expected %d", got, R);
    grade_ints("row_of", row_of, want_row, NE);
    grade_ints("row_token", row_token, want_token, NE); // behind R: what stood there before
    grade_ints("offset", offset, want_offset, E + 1);
}

GRADE(dispatch_hand) { // expert 1 has nobody
    int open[] = {1, 0, 1,  0, 0, 0,  1, 0, 0,  0, 0, 1};
    grade_dispatch_check(open, 4, 3);
    GRADE_PASS();
}
GRADE(dispatch_random) {
    int N = grade_int(30, 40), E = grade_int(4, 7), *open = grade_out_int((size_t)N * E);
    for (int i = 0; i < N * E; i++) { open[i] = grade_int(0, 2) == 0; }
    grade_dispatch_check(open, N, E);
    GRADE_PASS();
}
GRADE(dispatch_extremes) { // nobody, and one expert with all tokens
    int *none = (int*)grade_memory(30 * sizeof(int)), one[30];
    for (int i = 0; i < 30; i++) { one[i] = i % 3 == 2; }
    grade_dispatch_check(none, 10, 3);
    grade_dispatch_check(one, 10, 3);
    GRADE_PASS();
}

GRADE(gather_random) {
    int N = grade_int(6, 9), C = grade_int(3, 7), R = grade_int(10, 20), *row_token = grade_out_int(R);
    float *x = grade_random((size_t)N * C, 1.0), *xr = grade_out((size_t)R * C);
    double* want = grade_doubles((size_t)R * C);
    for (int r = 0; r < R; r++) {
        row_token[r] = grade_int(0, N - 1);
        for (int c = 0; c < C; c++) { want[r * C + c] = x[row_token[r] * C + c]; }
    }
    gather_forward(xr, x, row_token, R, C);
    grade_floats("xr", xr, want, (size_t)R * C, 0.0);
    gather_forward(NULL, x, NULL, 0, C); // no rows: nothing is touched
    GRADE_PASS();
}

static double grade_gelu_by_tanh(double x) { return 0.5 * x * (1.0 + tanh(sqrt(2.0 / GRADE_PI) * (x + 0.044715 * x * x * x))); }

GRADE(gelu_values) {
    int n = 201;
    float *x = grade_out(n), *y = grade_out(n);
    double* want = grade_doubles(n);
    for (int i = 0; i < n; i++) { x[i] = (float)(0.08 * (i - 100)); want[i] = grade_gelu_by_tanh(x[i]); }
    gelu_forward(y, x, n);
    grade_floats("gelu", y, want, n, 1e-6);
    grade_float("gelu(-3)", y[62], grade_gelu_by_tanh(x[62]), 1e-4); // small values, too
    x[0] = -90.0f; x[1] = 90.0f;
    gelu_forward(y, x, n);
    GRADE_REQUIRE(fabsf(y[0]) < 1e-20f && y[1] == 90.0f, "gelu(-90) is %g and gelu(90) is %g", (double)y[0], (double)y[1]);
    GRADE_PASS();
}

// every expert n[e] rows, each row alone, in double
static void grade_experts_check(const int* n, int E, int C, int H) {
    int *offset = grade_out_int(E + 1), R = 0;
    for (int e = 0; e < E; e++) { offset[e] = R; R += n[e]; }
    offset[E] = R;
    float *xr = grade_random((size_t)R * C, 1.0), *w1 = grade_random((size_t)E * H * C, 0.4);
    float* b1 = grade_random((size_t)E * H, 0.3);
    float *w2 = grade_random((size_t)E * C * H, 0.3), *b2 = grade_random((size_t)E * C, 0.5), *out = grade_out((size_t)R * C);
    float *pre = grade_out((size_t)R * H), *act = grade_out((size_t)R * H);
    double *want = grade_doubles((size_t)R * C), *want_pre = grade_doubles((size_t)R * H), *want_act = grade_doubles((size_t)R * H);
    for (int e = 0; e < E; e++) {
        for (int r = offset[e]; r < offset[e + 1]; r++) {
            for (int h = 0; h < H; h++) {
                double sum = b1[e * H + h];
                for (int c = 0; c < C; c++) { sum += (double)w1[(e * H + h) * C + c] * xr[r * C + c]; }
                want_pre[r * H + h] = sum;
                want_act[r * H + h] = grade_gelu_by_tanh(sum);
            }
            for (int c = 0; c < C; c++) {
                double sum = b2[e * C + c];
                for (int h = 0; h < H; h++) { sum += (double)w2[(e * C + c) * H + h] * want_act[r * H + h]; }
                want[r * C + c] = sum;
            }
        }
    }
    experts_forward(out, pre, act, xr, w1, b1, w2, b2, offset, E, C, H);
    grade_floats("pre", pre, want_pre, (size_t)R * H, 1e-5);
    grade_floats("act", act, want_act, (size_t)R * H, 1e-5);
    grade_floats("out", out, want, (size_t)R * C, 1e-5);
}

GRADE(experts_uneven) { // one expert has most rows, one has none
    int n[] = {1, 0, 17, 3};
    grade_experts_check(n, 4, grade_int(3, 6), grade_int(7, 12));
    GRADE_PASS();
}
GRADE(experts_even) { // alike: the reference gives whole experts to threads
    int n[] = {6, 5, 6, 6};
    grade_experts_check(n, 4, grade_int(3, 6), grade_int(7, 12));
    GRADE_PASS();
}
GRADE(experts_one) {
    int n[] = {9};
    grade_experts_check(n, 1, 5, 20);
    GRADE_PASS();
}

static void grade_combine_check(int with_weight) { // rows in any order: the function may not rely on dispatch's
    int N = grade_int(8, 12), C = grade_int(3, 7), E = grade_int(3, 5), R = 0, *row_of = grade_out_int((size_t)N * E);
    for (int i = 0; i < N * E; i++) { row_of[i] = i / E != 3 && grade_int(0, 1) ? R++ : -1; } // token 3 has no rows
    for (int i = 0; i < N * E; i++) { if (row_of[i] >= 0) { row_of[i] = R - 1 - row_of[i]; } }
    float *out = grade_random((size_t)R * C, 1.0), *weight = grade_random((size_t)N * E, 1.0), *y = grade_out((size_t)N * C);
    double* want = grade_doubles((size_t)N * C);
    for (int i = 0; i < N; i++) {
        for (int c = 0; c < C; c++) {
            for (int e = 0; e < E; e++) {
                int r = row_of[i * E + e];
                if (r >= 0) { want[i * C + c] += (with_weight ? (double)weight[i * E + e] : 1.0) * out[r * C + c]; }
            }
        }
    }
    combine_forward(y, out, row_of, with_weight ? weight : NULL, N, C, E);
    grade_floats("y", y, want, (size_t)N * C, 1e-5);
}
GRADE(combine_weighted) { grade_combine_check(1); GRADE_PASS(); }
GRADE(combine_plain) { grade_combine_check(0); GRADE_PASS(); }

int main(int argc, char** argv) {
    grade_begin(argc, argv);
    grade_test("a1.q1", gate_hand);
    grade_test("a1.q1", gate_ties);
    grade_test("a1.q1", gate_some_open);
    grade_test("a1.q1", gate_few_open);
    grade_test("a1.q1", gate_fallback);
    grade_test("a1.q1", gate_all_open);
    grade_test("a1.q1", gate_fallback_rule);
    grade_test("a1.q1", gate_zero_vector);
    grade_test("a1.q1", gate_short_vectors);
    grade_test("a1.q2", mean_random);
    grade_test("a1.q3", dispatch_hand);
    grade_test("a1.q3", dispatch_random);
    grade_test("a1.q3", dispatch_extremes);
    grade_test("a1.q4", gather_random);
    grade_test("a1.q5", gelu_values);
    grade_test("a1.q6", experts_uneven);
    grade_test("a1.q6", experts_even);
    grade_test("a1.q6", experts_one);
    grade_test("a1.q7", combine_weighted);
    grade_test("a1.q7", combine_plain);
    return grade_end();
}
