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

static GPT2 model;
static SafeFile file;
static int compared[8192], failures, verbose = 1;

// ----------------------------------------------------------------------------------------------------------------------
// Comparing

static double element(const SafeTensor* t, size_t i) { // of any dtype that a fixture uses
    if (strcmp(t->dtype, "F64") == 0) { double x; memcpy(&x, t->data + 8 * i, 8); return x; }
    if (strcmp(t->dtype, "F32") == 0) { float x; memcpy(&x, t->data + 4 * i, 4); return (double)x; }
    if (strcmp(t->dtype, "I64") == 0) { int64_t x; memcpy(&x, t->data + 8 * i, 8); return (double)x; }
    if (strcmp(t->dtype, "I32") == 0) { int32_t x; memcpy(&x, t->data + 4 * i, 4); return (double)x; }
    return t->data[i];
}

static double tolerance(const char* kind, const char* name) { // metadata atol/NAME, rtol/NAME; 0 if there is none
    char key[160];
    snprintf(key, sizeof key, "%s/%s", kind, name);
    const char* value = safetensors_meta(&file, key);
    return value ? strtod(value, NULL) : 0.0;
}

static void report(const char* name, double worst, int bad, const char* detail) {
    if (bad) { failures++; }
    if (bad || verbose) { printf("  %-28s %10.4f  %s%s\n", name, worst, bad ? "FAIL " : "ok", bad ? detail : ""); }
}

// got (n) against tensor NAME: passes if |got - want| <= atol + rtol |want| everywhere. Worst ratio is printed.
static void compare(const char* name, const double* got, size_t n) {
    char key[160], detail[160] = "";
    double worst = 0.0, atol = tolerance("atol", name), rtol = tolerance("rtol", name);
    size_t want_n = 1;
    const SafeTensor* want = safetensors_find(&file, name);
    if (want == NULL) { return; } // a fixture may leave a tensor out; a whole group it may not (see the end of main)
    compared[want - file.tensors] = 1;
    for (int d = 0; d < want->ndim; d++) { want_n *= want->shape[d]; }
    snprintf(key, sizeof key, "tol/%s", name);
    const SafeTensor* tol = safetensors_find(&file, key);
    if (tol != NULL) { compared[tol - file.tensors] = 1; }
    if (want_n != n) { report(name, INFINITY, 1, "another size"); return; }
    for (size_t i = 0; i < n; i++) {
        double w = element(want, i), allowed = (tol ? element(tol, i) : atol) + rtol * fabs(w), error = fabs(got[i] - w);
        double ratio = error == 0.0 ? 0.0 : allowed > 0.0 ? error / allowed : INFINITY;
        if (!(ratio <= worst)) {
            worst = isnan(ratio) ? INFINITY : ratio;
            snprintf(detail, sizeof detail, "at %zu: got %.9g, want %.9g", i, got[i], w);
        }
    }
    report(name, worst, !(worst <= 1.0), detail);
}

static void compare_f(const char* name, const float* got, size_t n, double scale) {
    double* d = (double*)alloc_zeroed(n, sizeof(double), "a comparison");
    for (size_t i = 0; i < n; i++) { d[i] = scale * (double)got[i]; }
    compare(name, d, n);
    free(d);
}

// Where the two programs keep things. fetch: a copy on the host of n numbers that may lie on the device (never freed: it is small)
#ifdef USE_CUDA
#define DEVICE ((Device<float>*)model.device)
#define KEPT(l) (DEVICE->layer[l])
template <typename X> static const X* fetch(const X* p, size_t n) {
    X* host = (X*)alloc_zeroed(n, sizeof(X), "a copy");
    to_host(host, p, n * sizeof(X));
    return host;
}
static const float* all_logits(size_t n) { return fetch(DEVICE->logits, n); }
static const float* all_grads(void) { return fetch(DEVICE->grads, model.n_params); }
static void head_backward(GPT2* m, float scale) { head_backward(m, DEVICE, scale); }
static void feedforward_half_backward(GPT2* m, int l, int N, float scale) { feedforward_half_backward(m, DEVICE, l, N, scale); }
static void attention_half_backward(GPT2* m, int l, int B, int T) { attention_half_backward(m, DEVICE, l, B, T); }
static void last_backward(void) { embedding_step_backward(&model, DEVICE); }
static const float* moe_out(int l, int N) { // what the layer adds to the residual stream
    DeviceLayer<float>* a = &KEPT(l);
    int C = model.config.C;
    combine_forward(DEVICE->half, (float*)NULL, a->out, a->row_of, a->weight, N, C, model.config.E);
    if (model.config.S > 0) { residual_forward(DEVICE->half, DEVICE->half, a->sout, (size_t)N * C); }
    return fetch(DEVICE->half, (size_t)N * C);
}
static int rows_of(int l, int e) { return model.layer[l].count[e]; }
static double training_forward(const int* x, const int* y, int B, int T, int keep_logits) {
    model.keep_logits = keep_logits;
    return gpt2_forward(&model, x, y, B, T, 1);
}
#else
#define DEVICE (&model)
#define KEPT(l) (model.layer[l])
#define fetch(p, n) (p)
static const float* all_logits(size_t n) { (void)n; return model.logits; }
static const float* all_grads(void) { return model.grads_memory; }
static void last_backward(void) {
    embedding_backward(model.grads.wte, model.grads.wpe, model.dres, model.x, model.B, model.T, model.config.C);
}
static const float* moe_out(int l, int N) { // what the layer adds to the residual stream
    static float* out = NULL;
    Layer* a = &model.layer[l];
    int C = model.config.C;
    out = (float*)realloc(out, (size_t)N * (size_t)C * sizeof(float));
    combine_forward(out, a->out, a->row_of, a->weight, N, C, model.config.E);
    if (model.config.S > 0) { residual_forward(out, out, a->sout, (size_t)N * (size_t)C); }
    return out;
}
static int rows_of(int l, int e) { return model.layer[l].offset[e + 1] - model.layer[l].offset[e]; }
static double training_forward(const int* x, const int* y, int B, int T, int keep_logits) {
    (void)keep_logits; // they are always kept
    return gpt2_forward(&model, x, y, B, T, 1);
}
static void gpt2_to_device(GPT2* m) { (void)m; }
static void gpt2_to_host(GPT2* m) { (void)m; }
#endif

static void compare_i(const char* name, const int* got, size_t n) {
    double* d = (double*)alloc_zeroed(n, sizeof(double), "a comparison");
    for (size_t i = 0; i < n; i++) { d[i] = got[i]; }
    compare(name, d, n);
    free(d);
}

static const char* in(const char* group, const char* format, ...) { // "group/h.3.act"
    static char name[160];
    va_list args;
    int n = snprintf(name, sizeof name, "%s/", group);
    va_start(args, format);
    vsnprintf(name + n, sizeof name - (size_t)n, format, args);
    va_end(args);
    return name;
}

// ----------------------------------------------------------------------------------------------------------------------
// The groups

static const float* logits_V(void) { // logits without the padded columns, (N, V)
    static float* out = NULL;
    size_t N = (size_t)model.B * model.T, V = (size_t)model.config.V, Vp = (size_t)model.config.Vp;
    const float* logits = all_logits(N * Vp);
    out = (float*)realloc(out, N * V * sizeof(float));
    for (size_t i = 0; i < N; i++) { memcpy(out + i * V, logits + i * Vp, V * sizeof(float)); }
    return out;
}

static void read_param(const char* prefix, const char* name, float* out, size_t n, int needed) {
    const SafeTensor* t = safetensors_find(&file, in(prefix, "%s", name));
    if (t == NULL && !needed) { return; }
    if (t == NULL || t->bytes != 4 * n || strcmp(t->dtype, "F32") != 0) {
        die(NULL, "%s: %s/%s is missing or of another size", file.path, prefix, name);
    }
    memcpy(out, t->data, t->bytes);
}

static void load_start(void) { // parameters, masks and, where given, Adam moments
    for (int i = 0; i < model.n_tensors; i++) {
        const Tensor* t = &model.table[i];
        char key[64];
        read_param("param", t->name, model.params_memory + t->offset, t->size, 1);
        read_param("param_m", t->name, model.m_memory + t->offset, t->size, 0);
        read_param("param_v", t->name, model.v_memory + t->offset, t->size, 0);
        snprintf(key, sizeof key, "decay/%s", t->name);
        model.table[i].decay = meta_int(&file, key, 0, 1);
    }
    for (int l = 0; l < model.config.L; l++) {
        if (!model.config.moe[l]) { continue; }
        const SafeTensor* t = safetensors_find(&file, in("param", "h.%d.moe.mask", l));
        if (t == NULL || t->bytes != 4 * (size_t)model.config.E) { die(NULL, "%s: no mask of layer %d", file.path, l); }
        memcpy(model.layer[l].mask, t->data, t->bytes);
    }
    gpt2_to_device(&model);
}

static void compare_gates(const char* group, int l, size_t N) {
    compare_i(in(group, "h.%d.act", l), fetch(KEPT(l).open, N * (size_t)model.config.E), N * (size_t)model.config.E);
    compare_i(in(group, "h.%d.k", l), fetch(KEPT(l).k, N), N);
}

static void run_eval(const char* group, const int* x, const int* y, int B, int T) {
    size_t N = (size_t)B * T;
    double ce = gpt2_forward(&model, x, y, B, T, 0);
    compare(in(group, "ce"), &ce, 1);
    compare_f(in(group, "logits"), logits_V(), N * (size_t)model.config.V, 1.0);
    for (int l = 0; l < model.config.L; l++) { if (model.config.moe[l]) { compare_gates(group, l, N); } }
}

static float aux_list[N_AUX]; // metadata aux: a weight for each term, within what loss = ce + aux_weight * aux calls aux

static double aux_enabled(int l) { // before aux_weight
    double sum = 0.0;
    for (int i = 0; i < N_AUX; i++) { sum += (double)aux_list[i] * model.layer[l].aux[i]; }
    return sum;
}

static double aux_total(void) {
    double sum = 0.0;
    for (int l = 0; l < model.config.L; l++) { if (model.config.moe[l]) { sum += aux_enabled(l); } }
    return sum;
}

static void run_step0(const int* x, const int* y, int B, int T) { // groups exp and grad: one training step taken apart
    size_t N = (size_t)B * T, NC = N * (size_t)model.config.C;
    int E = model.config.E, top_any = model.config.router == TOP_ANY;
    double ce = training_forward(x, y, B, T, 1), aux = aux_total(), loss = ce + model.aux;
    compare("exp/ce", &ce, 1);
    compare("exp/aux", &aux, 1);
    compare("exp/loss", &loss, 1);
    compare_f("exp/logits", logits_V(), N * (size_t)model.config.V, 1.0);
    training_forward(x, y, B, T, 0);
    gpt2_zero_grad(&model);
    head_backward(&model, 1.0f);
    for (int l = model.config.L - 1; l >= 0; l--) {
        if (model.config.moe[l]) {
            double layer_aux = aux_enabled(l);
            compare_gates("exp", l, N);
            compare(in("exp", "h.%d.aux", l), &layer_aux, 1);
            compare_f(in("exp", "h.%d.s", l), fetch(KEPT(l).score, N * (size_t)E), N * (size_t)E,
                      top_any ? (double)model.config.tau : 1.0);
            if (!top_any) { compare_f(in("exp", "h.%d.w", l), fetch(KEPT(l).weight, N * (size_t)E), N * (size_t)E, 1.0); }
            compare_f(in("exp", "h.%d.moe_in", l), fetch(KEPT(l).ln2, NC), NC, 1.0);
            compare_f(in("exp", "h.%d.moe_out", l), moe_out(l, (int)N), NC, 1.0);
            compare_f(in("exp", "h.%d.dmoe_out", l), fetch(DEVICE->dres, NC), NC, 1.0);
        }
        feedforward_half_backward(&model, l, (int)N, 1.0f);
        if (model.config.moe[l]) { compare_f(in("exp", "h.%d.dmoe_in", l), fetch(DEVICE->dln, NC), NC, 1.0); }
        attention_half_backward(&model, l, B, T);
    }
    last_backward();
    const float* grads = all_grads();
    for (int i = 0; i < model.n_tensors; i++) {
        compare_f(in("grad", "%s", model.table[i].name), grads + model.table[i].offset, model.table[i].size, 1.0);
    }
}

static void compare_records(int l) {
    Layer* a = &model.layer[l];
    double count[MAX_EXPERTS];
    for (int e = 0; e < model.config.E; e++) { count[e] = (double)a->record_count[e]; }
    for (int e = 0; e < model.config.E; e++) { // RE is stored as F64 with a tolerance, but it must be exact
        const SafeTensor* t = safetensors_find(&file, in("exp", "h.%d.RE", l));
        if (t != NULL && count[e] != element(t, (size_t)e)) { report(in("exp", "h.%d.RE", l), INFINITY, 1, "not equal"); }
    }
    compare(in("exp", "h.%d.RE", l), count, (size_t)model.config.E);
    compare(in("exp", "h.%d.RS", l), a->record_sum, (size_t)model.config.C);
}

static void run_trajectory(const int* x, const int* y, int B, int T) { // groups traj, post, post_m, post_v
    int steps = meta_int(&file, "n_steps", 1, 10000), begin = meta_int(&file, "win_begin", -1, 10000),
        end = meta_int(&file, "win_end", -1, 10000);
    int L = model.config.L, E = model.config.E, removed[MAX_EXPERTS];
    size_t N = (size_t)B * T, S = (size_t)steps;
    float lr = strtof(meta_text(&file, "lr"), NULL), wd = strtof(meta_text(&file, "wd"), NULL),
          eps = strtof(meta_text(&file, "eps"), NULL);
    float beta1 = strtof(meta_text(&file, "beta1"), NULL), beta2 = strtof(meta_text(&file, "beta2"), NULL);
    double *loss = (double*)alloc_zeroed(3 * S, sizeof(double), "losses"), *ce = loss + S, *aux = ce + S;
    double* kmean = (double*)alloc_zeroed((size_t)L * S, sizeof(double), "k");
    int* count = (int*)alloc_zeroed((size_t)L * S * (size_t)(E + 1), sizeof(int), "counts");
    int* mask = (int*)alloc_zeroed((size_t)L * (S + 1) * (size_t)(E + 1), sizeof(int), "masks");
    for (int t = 0; t <= steps; t++) {
        for (int l = 0; l < L; l++) {
            for (int e = 0; e < E; e++) {
                mask[((size_t)l * (S + 1) + (size_t)t) * (size_t)E + (size_t)e] = model.layer[l].mask[e];
            }
        }
        if (t == steps) { break; }
        if (t == begin) { gpt2_clear_records(&model); model.recording = 1; }
        ce[t] = training_forward(x + (size_t)t * N, y + (size_t)t * N, B, T, 0);
        aux[t] = aux_total();
        loss[t] = ce[t] + model.aux;
        gpt2_zero_grad(&model);
        gpt2_backward(&model, 1.0f);
        gpt2_update(&model, t, lr, beta1, beta2, eps, wd, 1.0f);
        for (int l = 0; l < L; l++) {
            if (!model.config.moe[l]) { continue; }
            for (int e = 0; e < E; e++) {
                count[((size_t)l * S + (size_t)t) * (size_t)E + (size_t)e] = rows_of(l, e);
                kmean[(size_t)l * S + (size_t)t] += (double)rows_of(l, e) / (double)N;
            }
            if (t != end) { continue; }
            gpt2_to_host(&model);
            compare_records(l);
            if (model.config.router == TOP_ANY) { gpt2_adapt(&model, l, removed, 0); }
        }
        if (t == end) { model.recording = 0; }
    }
    gpt2_to_host(&model);
    compare("traj/loss", loss, S);
    compare("traj/ce", ce, S);
    compare("traj/aux", aux, S);
    for (int l = 0; l < L; l++) {
        if (!model.config.moe[l]) { continue; }
        compare(in("traj", "h.%d.kmean", l), kmean + (size_t)l * S, S);
        compare_i(in("traj", "h.%d.count", l), count + (size_t)l * S * (size_t)E, S * (size_t)E);
        compare_i(in("traj", "h.%d.mask", l), mask + (size_t)l * (S + 1) * (size_t)E, (S + 1) * (size_t)E);
        compare_i(in("post", "h.%d.moe.mask", l), model.layer[l].mask, (size_t)E);
    }
    for (int i = 0; i < model.n_tensors; i++) {
        const Tensor* t = &model.table[i];
        compare_f(in("post", "%s", t->name), model.params_memory + t->offset, t->size, 1.0);
        compare_f(in("post_m", "%s", t->name), model.m_memory + t->offset, t->size, 1.0);
        compare_f(in("post_v", "%s", t->name), model.v_memory + t->offset, t->size, 1.0);
    }
    free(loss); free(kmean); free(count); free(mask);
}

static Config fixture_config(void) {
    static const char* const no_flags[] = {"fixture"};
    Settings s = flags_read(1, no_flags);
    s.eval_only = 1; // the layers are as the file says
    Config c = config_make(&s, 0, &file);
    float scale = strtof(meta_text(&file, "aux_weight"), NULL);
    aux_list[ENTROPY] = 0.0f; // the fifth is optional
    int n = sscanf(meta_text(&file, "aux"), "%f,%f,%f,%f,%f", &aux_list[0], &aux_list[1], &aux_list[2], &aux_list[3], &aux_list[4]);
    require(n >= 4, NULL, "%s: metadata aux", file.path);
    for (int i = 0; i < N_AUX; i++) { c.aux_weight[i] = scale * aux_list[i]; }
    c.tau = strtof(meta_text(&file, "scale"), NULL);
    c.normalised = strcmp(meta_text(&file, "kgrad"), "normalised") == 0;
    return c;
}

static void run_safetensors(const char* path) {
    static const char* groups[] = {"eval/", "exp/", "grad/", "traj/", "post/", "post_m/", "post_v/", "posteval/"};
    file = safetensors_open(path);
    if (strncmp(meta_text(&file, "format"), "dynmoe-fixture 1", 16) != 0) {
        die("give a fixture, not a checkpoint", "%s: not a fixture", path);
    }
    if (file.n > (int)(sizeof compared / sizeof compared[0])) { die(NULL, "%s: too many tensors", path); }
    memset(compared, 0, sizeof compared);
    int B = meta_int(&file, "B", 1, 4096), n = 0;
    const SafeTensor *tx = safetensors_find(&file, "data/x"), *ty = safetensors_find(&file, "data/y");
    Config c = fixture_config();
    size_t need = 4 * (size_t)meta_int(&file, "n_steps", 1, 10000) * (size_t)B * (size_t)c.T;
    if (tx == NULL || ty == NULL || tx->bytes != need || ty->bytes != need) {
        die(NULL, "%s: data/x or data/y is missing or of another size", path);
    }
    int *x = (int*)alloc_zeroed(need, 1, "data"), *y = (int*)alloc_zeroed(need, 1, "data");
    memcpy(x, tx->data, need);
    memcpy(y, ty->data, need);
    for (size_t i = 0; i < need / 4; i++) {
        if (x[i] < 0 || x[i] >= c.V || y[i] < 0 || y[i] >= c.V) { die(NULL, "%s: a token outside the vocabulary", path); }
    }
    gpt2_build(&model, c, B, c.T, 1);
    load_start();
    run_eval("eval", x, y, B, c.T);
    run_step0(x, y, B, c.T);
    run_trajectory(x, y, B, c.T);
    run_eval("posteval", x, y, B, c.T);
    for (int g = 0; g < 8; g++) {
        int found = 0;
        for (int i = 0; i < file.n; i++) {
            if (strncmp(file.tensors[i].name, groups[g], strlen(groups[g])) != 0) { continue; }
            found++;
            if (!compared[i]) { report(file.tensors[i].name, INFINITY, 1, "not compared"); }
        }
        if (!found) { report(groups[g], INFINITY, 1, "no tensor of this group"); }
        n += found;
    }
    printf("%s: %d tensors compared, %d failed\n", path, n, failures);
    gpt2_free(&model);
    safetensors_close(&file);
    free(x); free(y);
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
