/*
Runs a fixture through train_gpt2_dynmoe.c and prints a table: tensor, worst error over its tolerance, ok or FAIL.

    make fixture FIXTURE=test/fixtures/normalised.safetensors
    make fixture-cuda FIXTURE=...         the same through train_gpt2_dynmoe.cu, in fp32 (CUDA_ON_CPU=1: without a GPU)

A fixture holds a small model, data, and what a float64 oracle (dev/dynmoe.py) computed: evaluation, one training step
with every gradient, several AdamW steps with an add and a remove, the state afterwards (docs/formats.md). A .txt file is
one gate layer with all its gradients. Exit code 1 if a value is off, a group is missing, or a tensor was not compared.
Integers (gates, k, masks, counts) have no tolerance and must be equal.
*/
#define TESTING
#ifdef USE_CUDA
#include "../train_gpt2_dynmoe.cu"
#else
#include "../train_gpt2_dynmoe.c"
#endif

// ----------------------------------------------------------------------------------------------------------------------
// Where the two programs keep things: what fixture_compare.h asks for

static GPT2 model;
static int *data_x, *data_y, B; // (n_steps, B, T) each

static size_t model_N(void) { return (size_t)B * (size_t)model.config.T; }
static void model_zero_grad(void) { gpt2_zero_grad(&model); }
static void model_backward(void) { gpt2_backward(&model, 1.0f); }
static void model_update(int t, float lr, float beta1, float beta2, float eps, float wd) {
    gpt2_update(&model, t, lr, beta1, beta2, eps, wd, 1.0f);
}
static void model_adapt(int l) { int removed[MAX_EXPERTS]; gpt2_adapt(&model, l, removed, 0); }
static void model_clear_records(void) { gpt2_clear_records(&model); }
static double batch_forward(int t, int training) {
    return gpt2_forward(&model, data_x + (size_t)t * model_N(), data_y + (size_t)t * model_N(), B, model.config.T, training);
}

#ifdef USE_CUDA
#define DEVICE ((Device<float>*)model.device)
#define KEPT(l) (DEVICE->layer[l])
template <typename X> static const X* fetch(const X* p, size_t n) { // never freed: it is small
    X* host = (X*)alloc_zeroed(n, sizeof(X), "a copy");
    to_host(host, p, n * sizeof(X));
    return host;
}
static void model_to_device(void) { gpt2_to_device(&model); }
static void model_to_host(void) { gpt2_to_host(&model); }
static double model_forward(int t, int training, int keep_logits) {
    model.keep_logits = keep_logits;
    return batch_forward(t, training);
}
static const float* padded_logits(size_t n) { return fetch(DEVICE->logits, n); }
static const float* model_grads(void) { return fetch(DEVICE->grads, model.n_memory); }
static int model_rows(int l, int e) { return model.layer[l].count[e]; }
static const float* model_moe_out(int l) {
    DeviceLayer<float>* a = &KEPT(l);
    int N = (int)model_N(), C = model.config.C;
    combine_forward(DEVICE->half, (float*)NULL, a->out, a->row_of, a->weight, N, C, model.config.E);
    if (model.config.S > 0) { residual_forward(DEVICE->half, DEVICE->half, a->sout, (size_t)N * C); }
    return fetch(DEVICE->half, (size_t)N * C);
}
static void model_head_backward(void) { head_backward(&model, DEVICE, 1.0f); }
static void model_feedforward_backward(int l) { feedforward_half_backward(&model, DEVICE, l, (int)model_N(), 1.0f); }
static void model_attention_backward(int l) { attention_half_backward(&model, DEVICE, l, B, model.config.T); }
static void model_last_backward(void) { embedding_step_backward(&model, DEVICE); }
#else
#define DEVICE (&model)
#define KEPT(l) (model.layer[l])
#define fetch(p, n) (p)
static void model_to_device(void) {}
static void model_to_host(void) {}
static double model_forward(int t, int training, int keep_logits) {
    (void)keep_logits; // they are always kept
    return batch_forward(t, training);
}
static const float* padded_logits(size_t n) { (void)n; return model.logits; }
static const float* model_grads(void) { return model.grads_memory; }
static int model_rows(int l, int e) { return model.layer[l].offset[e + 1] - model.layer[l].offset[e]; }
static const float* model_moe_out(int l) {
    static float* out = NULL;
    Layer* a = &model.layer[l];
    int N = (int)model_N(), C = model.config.C;
    out = (float*)realloc(out, (size_t)N * (size_t)C * sizeof(float));
    combine_forward(out, a->out, a->row_of, a->weight, N, C, model.config.E);
    if (model.config.S > 0) { residual_forward(out, out, a->sout, (size_t)N * (size_t)C); }
    return out;
}
static void model_head_backward(void) { head_backward(&model, 1.0f); }
static void model_feedforward_backward(int l) { feedforward_half_backward(&model, l, (int)model_N(), 1.0f); }
static void model_attention_backward(int l) { attention_half_backward(&model, l, B, model.config.T); }
static void model_last_backward(void) {
    embedding_backward(model.grads.wte, model.grads.wpe, model.dres, model.x, model.B, model.T, model.config.C);
}
#endif
static const float* model_moe_in(int l) { return fetch(KEPT(l).ln2, model_N() * (size_t)model.config.C); }

static const float* model_logits(size_t* n) { // without the padded columns, (N, V)
    static float* out = NULL;
    size_t N = model_N(), V = (size_t)model.config.V, Vp = (size_t)model.config.Vp;
    const float* logits = padded_logits(N * Vp);
    out = (float*)realloc(out, N * V * sizeof(float));
    for (size_t i = 0; i < N; i++) { memcpy(out + i * V, logits + i * Vp, V * sizeof(float)); }
    *n = N * V;
    return out;
}

#include "fixture_compare.h"

// ----------------------------------------------------------------------------------------------------------------------
// A model

static Config fixture_config(void) {
    static const char* const no_flags[] = {"fixture"};
    Settings s = flags_read(1, no_flags);
    s.eval_only = 1; // the layers are as the file says
    Config c = config_make(&s, 0, &file);
    fixture_losses(&c);
    return c;
}

static void run_safetensors(const char* path) {
    fixture_open(path, "gpt2");
    B = meta_int(&file, "B", 1, 4096);
    Config c = fixture_config();
    size_t n = (size_t)meta_int(&file, "n_steps", 1, 10000) * (size_t)B * (size_t)c.T;
    data_x = (int*)alloc_zeroed(n, sizeof(int), "data");
    data_y = (int*)alloc_zeroed(n, sizeof(int), "data");
    memcpy(data_x, fixture_data("data/x", "I32", 4 * n), 4 * n);
    memcpy(data_y, fixture_data("data/y", "I32", 4 * n), 4 * n);
    for (size_t i = 0; i < n; i++) {
        if (data_x[i] < 0 || data_x[i] >= c.V || data_y[i] < 0 || data_y[i] >= c.V) {
            die(NULL, "%s: a token outside the vocabulary", path);
        }
    }
    gpt2_build(&model, c, B, c.T, 1);
    run_groups();
    gpt2_free(&model);
    safetensors_close(&file);
    free(data_x); free(data_y);
}

// ----------------------------------------------------------------------------------------------------------------------
// A gate in plain text: one layer of DynMoE, loss 0.5 |y|^2 + <r, y> + 0.3 diversity + 0.2 mean |W| of the whole pool
// + 0.5 load balance + 0.7 efficiency, tau = 1; all gradients, for both conventions of k

typedef struct { char name[32]; int n; double* v; } Array;
static Array arrays[64];
static int n_arrays;

static const Array* array(const char* name, int n) {
    for (int i = 0; i < n_arrays; i++) {
        if (strcmp(arrays[i].name, name) == 0 && (n < 0 || arrays[i].n == n)) { return &arrays[i]; }
    }
    die(NULL, "gate file: no array %s of %d values", name, n);
}

static float* floats(const char* name, int n) { // for the program; n > 0
    const Array* a = array(name, n);
    float* f = (float*)alloc_zeroed((size_t)(unsigned)n, sizeof(float), name);
    for (int i = 0; i < a->n; i++) { f[i] = (float)a->v[i]; }
    return f;
}

static void compare_text(const char* name, const float* got, int n) { // relative to the largest value of the array
    const Array* a = array(name, n);
    double largest = 0.0, worst = 0.0;
    for (int i = 0; i < n; i++) {
        double error = fabs(got[i] - a->v[i]);
        largest = fmax(largest, fabs(a->v[i]));
        worst = error > worst || isnan(error) ? error : worst;
    }
    worst /= 5e-6 * fmax(largest, 1e-3);
    report(name, worst, !(worst <= 1.0), "off");
}

#ifdef USE_CUDA
template <typename X> static X* up(const X* host, size_t n) { // a copy on the device
    X* d = (X*)device_alloc(n, sizeof(X), "a gate");
    to_device(d, host, n * sizeof(X));
    return d;
}

static void run_gate(int S, int D, int E, int H) {
    size_t W1 = (size_t)E * H * D, SD = (size_t)S * D, SE = (size_t)S * E, ED = (size_t)E * D, EH = (size_t)E * H;
    float *hx = floats("x", (int)SD), *hW = floats("W", (int)ED), *mask_f = floats("mask", E), *r = floats("r", (int)SD);
    float wnorm[MAX_EXPERTS];
    float *x = up(hx, SD), *W = up(hW, ED), *G = up(floats("G", E), (size_t)E), *w1 = up(floats("w1", (int)W1), W1);
    float *b1 = up(floats("b1", (int)EH), EH), *w2 = up(floats("w2", (int)W1), W1), *b2 = up(floats("b2", (int)ED), ED);
    int mask[MAX_EXPERTS], whole[MAX_EXPERTS], room = S * E + E * ROW_PAD;
    for (int e = 0; e < E; e++) { mask[e] = mask_f[e] > 0.5f; whole[e] = 1; wnorm[e] = norm_of(hW + (size_t)e * D, D); }
    #define FLOATS(count) (float*)device_alloc((count), sizeof(float), "a gate")
    #define INTS(count) (int*)device_alloc((count), sizeof(int), "a gate")
    int *open = INTS(SE), *k = INTS((size_t)S), *row_of = INTS(SE), *row_token = INTS((size_t)room), *gmask = up(mask, (size_t)E);
    int* block_count = INTS((size_t)(S / BLOCK + 1) * E);
    float *cosine = FLOATS(SE), *weight = FLOATS(SE), *dgate = FLOATS(SE), *xnorm = FLOATS((size_t)S), *gwnorm = FLOATS((size_t)E);
    float *y = FLOATS(SD), *as_float = (float*)alloc_zeroed(SE, sizeof(float), "a gate");
    float* dy = (float*)alloc_zeroed(SD, sizeof(float), "a gate");
    RouteStats *stats = (RouteStats*)device_alloc(1, sizeof(RouteStats), "a gate"), host;
    for (int fallback = 1; fallback >= 0; fallback--) {
        gate_forward(open, k, weight, cosine, xnorm, gwnorm, x, W, G, gmask, fallback, S, D, E);
        const int* o = fetch(open, SE);
        for (size_t i = 0; i < SE; i++) { as_float[i] = (float)o[i]; }
        compare_text(fallback ? "gate_eval" : "gate", as_float, (int)SE);
    }
    compare_text("cos", fetch(cosine, SE), (int)SE);
    const int* host_k = fetch(k, (size_t)S);
    for (int i = 0; i < S; i++) { as_float[i] = (float)host_k[i]; }
    compare_text("k", as_float, S);
    size_t R = (size_t)dispatch(row_of, row_token, stats, &host, block_count, open, k, cosine, S, E, room);
    float *xr = FLOATS(R * D), *out = FLOATS(R * D), *pre = FLOATS(R * H), *act = FLOATS(R * H), *dout = FLOATS(R * D);
    float* dpre = FLOATS(R * H);
    gather_forward(xr, x, row_token, (int)R, D);
    experts_forward(out, pre, act, xr, w1, b1, w2, b2, host.offset, host.count, E, D, H);
    combine_forward(y, (float*)NULL, out, row_of, weight, S, D, E);
    const float* hy = fetch(y, SD);
    compare_text("y", hy, (int)SD);
    double task = 0.0, balance = 0.0, sums[MAX_EXPERTS];
    for (size_t i = 0; i < SD; i++) { task += 0.5 * hy[i] * hy[i] + r[i] * hy[i]; dy[i] = hy[i] + r[i]; }
    PerExpert ce;
    int n1 = S - host.hist[0], rows = 0;
    token_sums(sums, weight, (double*)device_alloc((size_t)E, sizeof(double), "a gate"), S, E, 0);
    for (int e = 0; e < E; e++) {
        ce.of[e] = (float)host.used[e] / (float)n1;
        balance += (double)E * sums[e] / n1 * (double)ce.of[e];
        rows += host.count[e];
    }
    float diversity = diversity_loss(NULL, hW, wnorm, mask, 0, D, E), simplicity = simplicity_loss(NULL, hW, wnorm, whole, 0, D, E);
    float loss = (float)(task + 0.3 * diversity + 0.2 * simplicity + 0.5 * balance + 0.7 * rows / ((double)S * E));
    for (int normalised = 0; normalised < 2; normalised++) {
        const char* kind = normalised ? "norm" : "detach";
        char name[32];
        float *dx = FLOATS(SD), *dW = FLOATS(ED), *dG = FLOATS((size_t)E), *dw1 = FLOATS(W1), *db1 = FLOATS(EH), *dw2 = FLOATS(W1);
        float *db2 = FLOATS(ED), *scratch = FLOATS((size_t)(S / SLAB + 1) * (ED > EH ? ED : EH)), *rest;
        rest = (float*)alloc_zeroed(ED, sizeof(float), "a gate");
        combine_backward(dout, dgate, up(dy, SD), out, row_of, weight, S, D, E);
        experts_backward(dout, dpre, dw1, db1, dw2, db2, dout, xr, pre, act, w1, w2, scratch, host.offset, host.count, E, D, H);
        gather_backward(dx, dout, row_of, S, D, E);
        gate_gradient_kernel<<<blocks_for((size_t)S, BLOCK), BLOCK>>>(dgate, open, k, ce, 0.5f * (float)E / (float)n1,
                                                                      0.7f / ((float)S * (float)E), normalised, S, E);
        LAUNCHED();
        gate_backward_add(dx, dW, dG, dgate, open, cosine, xnorm, gwnorm, x, W, G, 1.0f, scratch,
                          (double*)device_alloc(2 * (size_t)E, sizeof(double), "a gate"), S, D, E);
        to_host(rest, dW, ED * sizeof(float));
        diversity_loss(rest, hW, wnorm, mask, 0.3f, D, E);
        simplicity_loss(rest, hW, wnorm, whole, 0.2f, D, E);
        #define C(what, got, n) snprintf(name, sizeof name, "%s_%s", what, kind); compare_text(name, got, (int)(n))
        C("loss", &loss, 1);
        C("dx", fetch(dx, SD), SD);     C("dW", rest, ED);              C("dG", fetch(dG, (size_t)E), E);
        C("dw1", fetch(dw1, W1), W1);   C("db1", fetch(db1, EH), EH);   C("dw2", fetch(dw2, W1), W1);   C("db2", fetch(db2, ED),
                                                                                                          ED);
    }
}
#else
static void run_gate(int S, int D, int E, int H) {
    int W1 = E * H * D;
    float *x = floats("x", S * D), *W = floats("W", E * D), *G = floats("G", E), *w1 = floats("w1", W1), *b1 = floats("b1", E * H);
    float *w2 = floats("w2", W1), *b2 = floats("b2", E * D), *mask_f = floats("mask", E), *r = floats("r", S * D);
    int mask[MAX_EXPERTS], whole[MAX_EXPERTS], offset[MAX_EXPERTS + 1];
    float xnorm[4096], wnorm[MAX_EXPERTS];
    size_t rows = (size_t)S * (size_t)E;
    #define FLOATS(count) (float*)alloc_zeroed((count), sizeof(float), "a gate")
    #define INTS(count) (int*)alloc_zeroed((count), sizeof(int), "a gate")
    int *open = INTS(rows), *k = INTS((size_t)S), *row_of = INTS(rows), *row_token = INTS(rows);
    float *cosine = FLOATS(rows), *dgate = FLOATS(rows), *weight = FLOATS(rows), *xr = FLOATS(rows * D),
          *pre = FLOATS(rows * H), *act = FLOATS(rows * H), *out = FLOATS(rows * D), *y = FLOATS((size_t)S * D);
    float *dy = FLOATS((size_t)S * D), *dout = FLOATS(rows * D), *dpre = FLOATS(rows * H), *as_float = FLOATS(rows);
    for (int e = 0; e < E; e++) { mask[e] = mask_f[e] > 0.5f; whole[e] = 1; }
    gate_forward(open, k, cosine, xnorm, wnorm, x, W, G, mask, 1, S, D, E);
    for (size_t i = 0; i < rows; i++) { as_float[i] = (float)open[i]; }
    compare_text("gate_eval", as_float, S * E);
    gate_forward(open, k, cosine, xnorm, wnorm, x, W, G, mask, 0, S, D, E);
    for (size_t i = 0; i < rows; i++) { as_float[i] = (float)open[i]; }
    compare_text("gate", as_float, S * E);
    compare_text("cos", cosine, S * E);
    for (int i = 0; i < S; i++) { as_float[i] = (float)k[i]; }
    compare_text("k", as_float, S);
    int R = dispatch(row_of, row_token, offset, open, S, E);
    gather_forward(xr, x, row_token, R, D);
    experts_forward(out, pre, act, xr, w1, b1, w2, b2, offset, E, D, H);
    mean_forward(weight, open, k, S, E);
    combine_forward(y, out, row_of, weight, S, D, E);
    compare_text("y", y, S * D);
    double task = 0.0;
    for (int i = 0; i < S * D; i++) { task += 0.5 * y[i] * y[i] + r[i] * y[i]; dy[i] = y[i] + r[i]; }
    float diversity = diversity_loss(NULL, W, wnorm, mask, 0, D, E), simplicity = simplicity_loss(NULL, W, wnorm, whole, 0, D, E);
    float balance = balance_loss(NULL, open, k, 0, S, E), efficiency = efficiency_loss(NULL, open, k, 0, S, E);
    float loss = (float)(task + 0.3 * diversity + 0.2 * simplicity + 0.5 * balance + 0.7 * efficiency);
    for (int normalised = 0; normalised < 2; normalised++) {
        const char* kind = normalised ? "norm" : "detach";
        char name[32];
        float *dx = FLOATS((size_t)S * D), *dW = FLOATS((size_t)E * D), *dG = FLOATS((size_t)E), *dw1 = FLOATS((size_t)W1),
              *db1 = FLOATS((size_t)E * H), *dw2 = FLOATS((size_t)W1), *db2 = FLOATS((size_t)E * D);
        combine_backward(dout, dgate, dy, out, row_of, weight, S, D, E);
        mean_backward(dgate, open, k, normalised, S, E);
        experts_backward(dout, dpre, dw1, db1, dw2, db2, dout, xr, pre, act, w1, w2, offset, E, D, H);
        gather_backward(dx, dout, row_of, S, D, E);
        balance_loss(dgate, open, k, 0.5f, S, E);
        efficiency_loss(dgate, open, k, 0.7f, S, E);
        gate_backward_add(dx, dW, dG, dgate, open, cosine, xnorm, wnorm, x, W, G, 1.0f, S, D, E);
        diversity_loss(dW, W, wnorm, mask, 0.3f, D, E);
        simplicity_loss(dW, W, wnorm, whole, 0.2f, D, E);
        #define C(what, got, n) snprintf(name, sizeof name, "%s_%s", what, kind); compare_text(name, got, n)
        C("loss", &loss, 1);
        C("dx", dx, S * D);     C("dW", dW, E * D);     C("dG", dG, E);
        C("dw1", dw1, W1);      C("db1", db1, E * H);   C("dw2", dw2, W1);  C("db2", db2, E * D);
        free(dx); free(dW); free(dG); free(dw1); free(db1); free(dw2); free(db2);
    }
}
#endif

static void run_text(const char* path) {
    FILE* f = fopen(path, "r");
    int S, D, E, H;
    if (f == NULL) { die("check the path", "%s: %s", path, strerror(errno)); }
    if (fscanf(f, "S %d D %d E %d H %d", &S, &D, &E, &H) != 4 || S < 1 || D < 1 || E < 1 || H < 1 || S > 4096 || D > 4096 ||
        E > MAX_EXPERTS || H > 4096) {
        die("give a gate file or a .safetensors fixture", "%s: no line S D E H", path);
    }
    for (n_arrays = 0; n_arrays < 64 && fscanf(f, "%31s %d", arrays[n_arrays].name, &arrays[n_arrays].n) == 2; n_arrays++) {
        Array* a = &arrays[n_arrays];
        if (a->n < 1 || a->n > 1 << 24) { die(NULL, "%s: %s of %d values", path, a->name, a->n); }
        a->v = (double*)alloc_zeroed((size_t)a->n, sizeof(double), a->name);
        for (int i = 0; i < a->n; i++) {
            if (fscanf(f, "%lf", &a->v[i]) != 1) { die("the file is cut", "%s: %s ends after %d values", path, a->name, i); }
        }
    }
    fclose(f);
    run_gate(S, D, E, H);
    printf("%s: %d arrays, %d failed\n", path, n_arrays, failures);
}

int main(int argc, char** argv) {
    int bad = 0, quiet = argc > 1 && strcmp(argv[1], "-q") == 0;
    verbose = !quiet;
#ifdef USE_CUDA
    char gpu[300];
    int is_bf16;
    gpu_start(gpu, sizeof gpu, "fp32", &is_bf16);
#else
    threads_set(0);
#endif
    if (argc < 2 + quiet) { die_usage("make fixture FIXTURE=FILE", "usage: fixture [-q] FILE..."); }
    for (int i = 1 + quiet; i < argc; i++) {
        size_t n = strlen(argv[i]);
        failures = 0;
        if (n > 4 && strcmp(argv[i] + n - 4, ".txt") == 0) { run_text(argv[i]); } else { run_safetensors(argv[i]); }
        bad += failures > 0;
    }
    printf("%d passed, %d failed\n", argc - 1 - quiet - bad, bad);
    return bad > 0;
}
