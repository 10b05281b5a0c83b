// Grades assignment 2, the backward pass. Expected gradients are finite differences, in double, of a slow forward written here:
// nothing is derived. Where the derivative does not exist (sign, relu) the straight-through rule says which smooth function has the
// wanted gradient, and that one is differentiated. See grade.h.
#include "grade.h"
#define TESTING
#include SRC

enum { V_SIGMOID = 1, V_SQUARE = 2, V_ROOT = 3 }; // test/variants/a2.*.sed

// Arguments that a test differentiates by, as doubles.
typedef struct { double *x, *W, *G, *w1, *b1, *w2, *b2, *g; } GradeArguments;

static double* grade_widened(const float* x, size_t n) {
    double* d = grade_doubles(n);
    for (size_t i = 0; i < n; i++) { d[i] = x[i]; }
    return d;
}

static void grade_differences(double* out, double* arguments, size_t n, double (*f)(void)) { // out (n) = df / d arguments
    for (size_t i = 0; i < n; i++) {
        double was = arguments[i], h = 1e-5;
        arguments[i] = was + h;
        double above = f();
        arguments[i] = was - h;
        double below = f();
        arguments[i] = was;
        out[i] = (above - below) / (2.0 * h);
    }
}

static double* grade_sum(const float* before, const double* gradient, size_t n) { // what a function that adds must leave
    double* sum = grade_doubles(n);
    for (size_t i = 0; i < n; i++) { sum[i] = before[i] + gradient[i]; }
    return sum;
}

static struct { // what is fixed while arguments change
    GradeArguments a; // these change
    int N, C, E, H, R;
    const int *open, *k, *mask, *offset, *row_of;
    const float* d; // the gradient that comes in
    double tau, *ce;
    int normalised;
} gr;

static double grade_gelu(double x) { return 0.5 * x * (1.0 + tanh(sqrt(2.0 / GRADE_PI) * (x + 0.044715 * x * x * x))); }

// ---- a2.q1, a2.q2 ------------------------------------------------------------------------------------------------------

GRADE(gelu_differences) {
    int n = 161;
    float *x = grade_out(n), *dout = grade_random(n, 1.0), *got = grade_out(n), *same = grade_copy(dout, n);
    double* want = grade_doubles(n);
    for (int i = 0; i < n; i++) {
        x[i] = (float)(0.1 * (i - 80));
        want[i] = dout[i] * (grade_gelu(x[i] + 1e-5) - grade_gelu(x[i] - 1e-5)) / 2e-5;
    }
    gelu_backward(got, dout, x, n);
    grade_floats("dinp", got, want, n, 1e-5);
    gelu_backward(same, same, x, n);
    grade_floats("dinp, when it is dout", same, want, n, 1e-5);
    GRADE_PASS();
}

static double grade_experts_f(void) { // <dout, out>
    double sum = 0.0, act[64];
    int C = gr.C, H = gr.H;
    for (int e = 0; e < gr.E; e++) {
        for (int r = gr.offset[e]; r < gr.offset[e + 1]; r++) {
            for (int h = 0; h < H; h++) {
                double pre = gr.a.b1[e * H + h];
                for (int c = 0; c < C; c++) { pre += gr.a.w1[(e * H + h) * C + c] * gr.a.x[r * C + c]; }
                act[h] = grade_gelu(pre);
            }
            for (int c = 0; c < C; c++) {
                double out = gr.a.b2[e * C + c];
                for (int h = 0; h < H; h++) { out += gr.a.w2[(e * C + c) * H + h] * act[h]; }
                sum += gr.d[r * C + c] * out;
            }
        }
    }
    return sum;
}

static void grade_experts(const int* n, int E, int C, int H, int in_place) {
    int *offset = grade_out_int(E + 1), R = 0;
    for (int e = 0; e < E; e++) { offset[e] = R; R += n[e]; }
    offset[E] = R;
    size_t RC = (size_t)R * C, RH = (size_t)R * H, HC = (size_t)E * H * C, EH = (size_t)E * H, EC = (size_t)E * C;
    float *x = grade_random(RC, 1.0), *w1 = grade_random(HC, 0.4), *b1 = grade_random(EH, 0.3), *w2 = grade_random(HC, 0.3);
    float *b2 = grade_random(EC, 0.5), *dout = grade_random(RC, 1.0), *pre = grade_out(RH), *act = grade_out(RH);
    float *before1 = grade_random(HC, 1.0), *before2 = grade_random(HC, 1.0), *beforeb1 = grade_random(EH, 1.0);
    float *beforeb2 = grade_random(EC, 1.0);
    for (int e = 0; e < E; e++) { // what forward kept
        for (int r = offset[e]; r < offset[e + 1]; r++) {
            for (int h = 0; h < H; h++) {
                double sum = b1[e * H + h];
                for (int c = 0; c < C; c++) { sum += (double)w1[(e * H + h) * C + c] * x[r * C + c]; }
                pre[r * H + h] = (float)sum;
                act[r * H + h] = (float)grade_gelu(sum);
            }
        }
    }
    gr.E = E; gr.C = C; gr.H = H; gr.offset = offset; gr.d = dout;
    gr.a.x = grade_widened(x, RC); gr.a.w1 = grade_widened(w1, HC); gr.a.b1 = grade_widened(b1, EH);
    gr.a.w2 = grade_widened(w2, HC); gr.a.b2 = grade_widened(b2, EC);
    double *dx = grade_doubles(RC), *d1 = grade_doubles(HC), *db1 = grade_doubles(EH);
    double *d2 = grade_doubles(HC), *db2 = grade_doubles(EC);
    grade_differences(dx, gr.a.x, RC, grade_experts_f);
    grade_differences(d1, gr.a.w1, HC, grade_experts_f);
    grade_differences(db1, gr.a.b1, EH, grade_experts_f);
    grade_differences(d2, gr.a.w2, HC, grade_experts_f);
    grade_differences(db2, gr.a.b2, EC, grade_experts_f);
    float *dfcw = grade_copy(before1, HC), *dfcb = grade_copy(beforeb1, EH), *dprojw = grade_copy(before2, HC);
    float *dprojb = grade_copy(beforeb2, EC), *d = grade_copy(dout, RC), *dxr = in_place ? d : grade_out(RC), *dpre = grade_out(RH);
    experts_backward(dxr, dpre, dfcw, dfcb, dprojw, dprojb, d, x, pre, act, w1, w2, offset, E, C, H);
    grade_floats("dxr", dxr, dx, RC, 1e-5);
    grade_floats("dfcw", dfcw, grade_sum(before1, d1, HC), HC, 1e-5);
    grade_floats("dfcb", dfcb, grade_sum(beforeb1, db1, EH), EH, 1e-5);
    grade_floats("dfcprojw", dprojw, grade_sum(before2, d2, HC), HC, 1e-5);
    grade_floats("dfcprojb", dprojb, grade_sum(beforeb2, db2, EC), EC, 1e-5);
}
GRADE(experts_uneven) { int n[] = {1, 0, 9, 2}; grade_experts(n, 4, grade_int(3, 5), grade_int(4, 7), 0); GRADE_PASS(); }
GRADE(experts_even) { int n[] = {3, 4, 3}; grade_experts(n, 3, grade_int(3, 5), grade_int(4, 7), 0); GRADE_PASS(); }
GRADE(experts_in_place) { int n[] = {2, 6}; grade_experts(n, 2, grade_int(3, 5), grade_int(4, 7), 1); GRADE_PASS(); }

// ---- a2.q3, a2.q4 ------------------------------------------------------------------------------------------------------

static int* grade_rows(int* R, int N, int E) { // row_of (N, E) in no particular order; token 2 has no rows
    int* row_of = grade_out_int((size_t)N * E);
    *R = 0;
    for (int i = 0; i < N * E; i++) { row_of[i] = i / E != 2 && grade_int(0, 2) > 0 ? (*R)++ : -1; }
    for (int i = 0; i < N * E; i++) { if (row_of[i] >= 0) { row_of[i] = *R - 1 - row_of[i]; } }
    return row_of;
}

static double grade_combine_f(void) { // <dy, y>
    double sum = 0.0;
    for (int i = 0; i < gr.N * gr.E; i++) {
        for (int c = 0; gr.row_of[i] >= 0 && c < gr.C; c++) {
            sum += gr.d[i / gr.E * gr.C + c] * gr.a.W[i] * gr.a.x[gr.row_of[i] * gr.C + c];
        }
    }
    return sum;
}

GRADE(combine_differences) {
    int N = grade_int(6, 9), C = grade_int(3, 19), E = grade_int(3, 5), R, *row_of = grade_rows(&R, N, E);
    size_t RC = (size_t)R * C, NE = (size_t)N * E;
    float *out = grade_random(RC, 1.0), *weight = grade_random(NE, 1.0), *dy = grade_random((size_t)N * C, 1.0);
    float *dout = grade_out(RC), *dweight = grade_out(NE);
    double *want_out = grade_doubles(RC), *want_weight = grade_doubles(NE);
    gr.N = N; gr.C = C; gr.E = E; gr.row_of = row_of; gr.d = dy;
    gr.a.x = grade_widened(out, RC); gr.a.W = grade_widened(weight, NE);
    grade_differences(want_out, gr.a.x, RC, grade_combine_f);
    grade_differences(want_weight, gr.a.W, NE, grade_combine_f);
    combine_backward(dout, dweight, dy, out, row_of, weight, N, C, E);
    grade_floats("dout", dout, want_out, RC, 1e-5);
    grade_floats("dweight", dweight, want_weight, NE, 1e-5);
    GRADE_PASS();
}

static double grade_gather_f(void) { // <dxr, xr>
    double sum = 0.0;
    for (int i = 0; i < gr.N * gr.E; i++) {
        for (int c = 0; gr.row_of[i] >= 0 && c < gr.C; c++) { sum += gr.d[gr.row_of[i] * gr.C + c] * gr.a.x[i / gr.E * gr.C + c]; }
    }
    return sum;
}

GRADE(gather_differences) {
    int N = grade_int(6, 9), C = grade_int(3, 7), E = grade_int(3, 5), R, *row_of = grade_rows(&R, N, E);
    size_t NC = (size_t)N * C;
    float *x = grade_random(NC, 1.0), *dxr = grade_random((size_t)R * C, 1.0), *dx = grade_out(NC);
    double* want = grade_doubles(NC);
    gr.N = N; gr.C = C; gr.E = E; gr.row_of = row_of; gr.d = dxr; gr.a.x = grade_widened(x, NC);
    grade_differences(want, gr.a.x, NC, grade_gather_f);
    gather_backward(dx, dxr, row_of, N, C, E);
    grade_floats("dx", dx, want, NC, 1e-5);
    GRADE_PASS();
}

// ---- a2.q5: gates are numbers that happen to be 0 or 1 -------------------------------------------------------------------

static void grade_open(int** open, int** k, int N, int E) { // tokens 0 and 1 chose none, 1 is served by the fallback; 2 has all
    *open = grade_out_int((size_t)N * E);
    *k = grade_out_int(N);
    for (int i = 0; i < N; i++) {
        (*k)[i] = 0;
        for (int e = 0; e < E; e++) {
            (*open)[i * E + e] = i == 2 || (i > 2 && grade_int(0, 1));
            (*k)[i] += (*open)[i * E + e];
        }
    }
    (*open)[E + grade_int(0, E - 1)] = 1;
}

static double grade_mean_f(void) { // <dweight, weight>; detached: k is what it was
    double sum = 0.0;
    for (int i = 0; i < gr.N; i++) {
        double gates = 0.0, k = gr.k[i] > 0 ? gr.k[i] : 1.0;
        for (int e = 0; e < gr.E; e++) { gates += gr.open[i * gr.E + e] ? gr.a.g[i * gr.E + e] : 0.0; }
        if (gr.normalised && gates > 0.0) { k = gates; }
        if (VARIANT == V_ROOT) { k = sqrt(k); }
        for (int e = 0; e < gr.E; e++) {
            if (gr.open[i * gr.E + e]) { sum += gr.d[i * gr.E + e] * gr.a.g[i * gr.E + e] / k; }
        }
    }
    return sum;
}

static void grade_mean(int normalised) {
    int N = grade_int(7, 12), E = grade_int(3, 6), *open, *k;
    size_t NE = (size_t)N * E;
    grade_open(&open, &k, N, E);
    float *d = grade_random(NE, 1.0), *got;
    double* want = grade_doubles(NE);
    gr.a.g = grade_doubles(NE);
    for (size_t i = 0; i < NE; i++) { gr.a.g[i] = open[i]; d[i] = open[i] ? d[i] : 0.0f; }
    gr.N = N; gr.E = E; gr.open = open; gr.k = k; gr.d = d; gr.normalised = normalised;
    grade_differences(want, gr.a.g, NE, grade_mean_f);
    got = grade_copy(d, NE);
    mean_backward(got, open, k, normalised, N, E);
    grade_floats(normalised ? "dgate, k normalised" : "dgate, k detached", got, want, NE, 1e-5);
}
GRADE(mean_detached) { grade_mean(0); GRADE_PASS(); }
GRADE(mean_normalised) { grade_mean(1); GRADE_PASS(); }

// ---- a2.q6: straight-through. gate = sign(relu(p - q)); the gradient asked for is that of p - q where the gate is open -------

static double grade_length(const double* x, int n) {
    double sum = 0.0;
    for (int i = 0; i < n; i++) { sum += x[i] * x[i]; }
    return sqrt(sum);
}
static double grade_cosine(const double* x, const double* w, int C) {
    double dot = 0.0, lx = grade_length(x, C), lw = grade_length(w, C);
    for (int c = 0; c < C; c++) { dot += x[c] * w[c]; }
    return lx < 1e-4 || lw < 1e-4 ? 0.0 : dot / (lx * lw); // a zero vector has no direction, however it is nudged
}
static double grade_squash(double z) { return VARIANT == V_SIGMOID ? z : 1.0 / (1.0 + exp(-z)); }

static double grade_gate_f(void) {
    double sum = 0.0;
    for (int i = 0; i < gr.N; i++) {
        for (int e = 0; e < gr.E; e++) {
            double p = grade_squash(gr.tau * grade_cosine(gr.a.x + i * gr.C, gr.a.W + e * gr.C, gr.C));
            double q = grade_squash(gr.tau * gr.a.G[e]);
            if (gr.open[i * gr.E + e]) { sum += gr.d[i * gr.E + e] * (p - q); }
        }
    }
    return sum;
}

static void grade_gate(double tau, int zeros) {
    int N = grade_int(8, 12), C = grade_int(4, 9), E = grade_int(3, 5), *open = grade_out_int((size_t)N * E);
    size_t NC = (size_t)N * C, NE = (size_t)N * E, EC = (size_t)E * C;
    float *x = grade_random(NC, 1.5), *W = grade_random(EC, 0.6), *G = grade_random(E, 0.4), *d = grade_random(NE, 1.0);
    float *cosine = grade_out(NE), *xnorm = grade_out(N), *wnorm = grade_out(E);
    float *bx = grade_random(NC, 1.0), *bW = grade_random(EC, 1.0), *bG = grade_random(E, 1.0);
    for (int c = 0; zeros && c < C; c++) { x[3 * C + c] = W[C + c] = 0.0f; }
    if (zeros == 2) { x[3 * C] = 4e-9f; x[3 * C + 1] = 3e-9f; W[C] = -3e-9f; W[C + 1] = 4e-9f; } // as good as 0
    gr.N = N; gr.C = C; gr.E = E; gr.open = open; gr.d = d; gr.tau = tau;
    gr.a.x = grade_widened(x, NC); gr.a.W = grade_widened(W, EC); gr.a.G = grade_widened(G, E);
    for (int i = 0; i < N; i++) { xnorm[i] = (float)grade_length(gr.a.x + i * C, C); }
    for (int e = 0; e < E; e++) { wnorm[e] = (float)grade_length(gr.a.W + e * C, C); }
    for (int i = 0; i < N * E; i++) {
        const float *xi = x + i / E * C, *We = W + i % E * C; // as gate_forward has it: short vectors too have some cosine
        double dot = 0.0;
        for (int c = 0; c < C; c++) { dot += (double)xi[c] * We[c]; }
        cosine[i] = (float)(dot / fmax(xnorm[i / E], 1e-8) / fmax(wnorm[i % E], 1e-8));
        open[i] = i / E > 0 && grade_int(0, 2) > 0; // token 0 has none. Any pattern will do: the rule is about open gates
    }
    double *dx = grade_doubles(NC), *dW = grade_doubles(EC), *dG = grade_doubles(E);
    grade_differences(dx, gr.a.x, NC, grade_gate_f);
    grade_differences(dW, gr.a.W, EC, grade_gate_f);
    grade_differences(dG, gr.a.G, E, grade_gate_f);
    float *gx = grade_copy(bx, NC), *gW = grade_copy(bW, EC), *gG = grade_copy(bG, E), *dgate = grade_copy(d, NE);
    for (size_t i = 0; i < NE; i++) { if (!open[i]) { dgate[i] = 3.0f; } } // a careless caller: closed gates learn nothing
    gate_backward_add(gx, gW, gG, dgate, open, cosine, xnorm, wnorm, x, W, G, (float)tau, N, C, E);
    grade_floats("dG", gG, grade_sum(bG, dG, E), E, 2e-5);
    grade_floats("dW", gW, grade_sum(bW, dW, EC), EC, 2e-5);
    grade_floats("dx", gx, grade_sum(bx, dx, NC), NC, 2e-5);
}
GRADE(gate_tau_1) { grade_gate(1.0, 0); GRADE_PASS(); }
GRADE(gate_tau_4) { grade_gate(4.0, 0); GRADE_PASS(); }
GRADE(gate_zero_vectors) { grade_gate(2.0, 1); GRADE_PASS(); }
GRADE(gate_short_vectors) { grade_gate(2.0, 2); GRADE_PASS(); }

// ---- a2.q7 .. a2.q10: auxiliary losses -----------------------------------------------------------------------------------

static double grade_diversity_f(void) {
    double sum = 0.0;
    for (int i = 0; i < gr.E; i++) {
        for (int j = 0; j < gr.E; j++) {
            double a = i != j && gr.mask[i] && gr.mask[j] ? grade_cosine(gr.a.W + i * gr.C, gr.a.W + j * gr.C, gr.C) : 0.0;
            sum += a * a;
        }
    }
    return VARIANT == V_SQUARE ? sum : sqrt(sum);
}

static double grade_simplicity_f(void) {
    double sum = 0.0, active = 0.0;
    for (int e = 0; e < gr.E; e++) { if (gr.mask[e]) { active++; sum += grade_length(gr.a.W + e * gr.C, gr.C); } }
    return sum / active;
}

typedef float (*GradeLossOfW)(float*, const float*, const float*, const int*, float, int, int);
static void grade_of_W(GradeLossOfW loss, double (*f)(void), int zero) {
    int C = grade_int(5, 9), E = grade_int(4, 6), *mask = grade_out_int(E);
    size_t EC = (size_t)E * C;
    float *W = grade_random(EC, 1.0), *before = grade_random(EC, 1.0), *got = grade_copy(before, EC), *wnorm = grade_out(E);
    double* want = grade_doubles(EC);
    for (int e = 0; e < E; e++) { mask[e] = e != 1; }
    for (int c = 0; zero && c < C; c++) { W[c] = 0.0f; } // an active row without a direction: no gradient, no NaN
    gr.C = C; gr.E = E; gr.mask = mask; gr.a.W = grade_widened(W, EC);
    for (int e = 0; e < E; e++) { wnorm[e] = (float)grade_length(gr.a.W + e * C, C); }
    grade_differences(want, gr.a.W, EC, f);
    for (size_t i = 0; i < EC; i++) { want[i] = before[i] + 0.7 * (zero && i < (size_t)C ? 0.0 : want[i]); }
    grade_float("the loss, without a gradient", loss(NULL, W, wnorm, mask, 0.7f, C, E), f(), 1e-5);
    grade_float("the loss", loss(got, W, wnorm, mask, 0.7f, C, E), f(), 1e-5);
    grade_floats("dW", got, want, EC, 1e-5);
}
GRADE(diversity_differences) { grade_of_W(diversity_loss, grade_diversity_f, 0); GRADE_PASS(); }
GRADE(diversity_zero_row) { grade_of_W(diversity_loss, grade_diversity_f, 1); GRADE_PASS(); }
GRADE(diversity_of_orthogonal_rows) { // the root has no derivative at 0: nothing is added
    float W[] = {2, 0, 0, 0, 0.5f, 0, 0, 0, 3}, wnorm[] = {2, 0.5f, 3}, *got = grade_copy(W, 9);
    int mask[] = {1, 1, 1};
    float loss = diversity_loss(got, W, wnorm, mask, 1.0f, 3, 3);
    GRADE_REQUIRE(loss == 0.0f, "the loss is %g, expected 0", (double)loss);
    grade_floats("dW", got, grade_widened(W, 9), 9, 0.0);
    GRADE_PASS();
}
GRADE(simplicity_differences) { grade_of_W(simplicity_loss, grade_simplicity_f, 0); GRADE_PASS(); }
GRADE(simplicity_nobody) { // no active row: 0, and no gradient
    float W[6] = {3, 4, 0, 1, 2, 2}, wnorm[2] = {5, 3}, dW[6] = {7, 7, 7, 7, 7, 7};
    int mask[2] = {0, 0};
    float got = simplicity_loss(dW, W, wnorm, mask, 2.0f, 3, 2);
    GRADE_REQUIRE(got == 0.0f, "without active rows the loss is %g", (double)got);
    for (int i = 0; i < 6; i++) { GRADE_REQUIRE(dW[i] == 7.0f, "dW[%d] changes by %g", i, (double)dW[i] - 7.0); }
    GRADE_REQUIRE(simplicity_loss(NULL, W, wnorm, mask, 2.0f, 3, 2) == 0.0f, "without active rows the loss is not 0 for dW NULL");
    GRADE_PASS();
}
GRADE(simplicity_zero_row) { grade_of_W(simplicity_loss, grade_simplicity_f, 1); GRADE_PASS(); }

static double grade_balance_f(void) { // ce is detached: it stays what the gates made it
    double sum = 0.0, n1 = 0.0;
    for (int i = 0; i < gr.N; i++) { n1 += gr.k[i] > 0; }
    for (int i = 0; i < gr.N; i++) {
        double k = 0.0;
        for (int e = 0; gr.k[i] > 0 && e < gr.E; e++) { k += gr.open[i * gr.E + e] ? gr.a.g[i * gr.E + e] : 0.0; }
        for (int e = 0; gr.k[i] > 0 && e < gr.E; e++) {
            if (gr.open[i * gr.E + e]) { sum += gr.a.g[i * gr.E + e] / k / n1 * gr.ce[e]; }
        }
    }
    return gr.E * sum;
}

static double grade_efficiency_f(void) { // the fallback's gate is not one that a token chose
    double sum = 0.0;
    for (int i = 0; i < gr.N * gr.E; i++) { sum += gr.k[i / gr.E] > 0 && gr.open[i] ? gr.a.g[i] : 0.0; }
    return sum / ((double)gr.N * gr.E);
}

static void grade_of_gates(float (*loss)(float*, const int*, const int*, float, int, int), double (*f)(void)) {
    int N = grade_int(8, 14), E = grade_int(3, 6), *open, *k;
    size_t NE = (size_t)N * E;
    grade_open(&open, &k, N, E);
    float *before = grade_random(NE, 1.0), *got = grade_copy(before, NE);
    double *want = grade_doubles(NE), n1 = 0.0;
    gr.N = N; gr.E = E; gr.open = open; gr.k = k; gr.a.g = grade_doubles(NE); gr.ce = grade_doubles(E);
    for (int i = 0; i < N; i++) {
        n1 += k[i] > 0;
        for (int e = 0; e < E; e++) { gr.a.g[i * E + e] = open[i * E + e]; gr.ce[e] += k[i] > 0 ? open[i * E + e] : 0; }
    }
    for (int e = 0; e < E; e++) { gr.ce[e] /= n1; }
    grade_differences(want, gr.a.g, NE, f);
    for (size_t i = 0; i < NE; i++) { want[i] = before[i] + 0.7 * want[i]; }
    grade_float("the loss, without a gradient", loss(NULL, open, k, 0.7f, N, E), f(), 1e-5);
    grade_float("the loss", loss(got, open, k, 0.7f, N, E), f(), 1e-5);
    grade_floats("dgate", got, want, NE, 1e-5);
}
GRADE(balance_differences) { grade_of_gates(balance_loss, grade_balance_f); GRADE_PASS(); }
GRADE(balance_nobody) { // no token chose any expert: 0, and no NaN
    int open[] = {0, 1, 0, 0}, k[] = {0, 0};
    float before[] = {1, 2, 3, 4}, *got = grade_copy(before, 4), loss = balance_loss(got, open, k, 1.0f, 2, 2);
    GRADE_REQUIRE(loss == 0.0f, "the loss is %g, expected 0", (double)loss);
    grade_floats("dgate", got, grade_widened(before, 4), 4, 0.0);
    GRADE_PASS();
}
GRADE(efficiency_differences) { grade_of_gates(efficiency_loss, grade_efficiency_f); GRADE_PASS(); }

int main(int argc, char** argv) {
    grade_begin(argc, argv);
    grade_test("a2.q1", gelu_differences);
    grade_test("a2.q2", experts_uneven);
    grade_test("a2.q2", experts_even);
    grade_test("a2.q2", experts_in_place);
    grade_test("a2.q3", combine_differences);
    grade_test("a2.q4", gather_differences);
    grade_test("a2.q5", mean_detached);
    grade_test("a2.q5", mean_normalised);
    grade_test("a2.q6", gate_tau_1);
    grade_test("a2.q6", gate_tau_4);
    grade_test("a2.q6", gate_zero_vectors);
    grade_test("a2.q6", gate_short_vectors);
    grade_test("a2.q7", diversity_differences);
    grade_test("a2.q7", diversity_zero_row);
    grade_test("a2.q7", diversity_of_orthogonal_rows);
    grade_test("a2.q8", simplicity_differences);
    grade_test("a2.q8", simplicity_zero_row);
    grade_test("a2.q8", simplicity_nobody);
    grade_test("a2.q9", balance_differences);
    grade_test("a2.q9", balance_nobody);
    grade_test("a2.q10", efficiency_differences);
    return grade_end();
}
