/*
What the fixture runners share: how tensors are compared, and the groups of a fixture, which are alike in every model. A runner
includes its program, says in a few lines where the program keeps things, then includes this:

    model                           a struct with config, table, n_tensors, memories, layer (mask, aux, records), recording, aux
    DEVICE, KEPT(l), fetch(p, n)    where dres and dln lie, and open, k, score, weight of layer l; fetch: n of them on the host
    model_to_device(), model_to_host()              parameters, moments and records go there and come back
    model_forward(t, training, keep_logits)         batch t -> mean cross-entropy. With keep_logits no backward follows
    model_N(), model_logits(&n), model_rows(l, e)   tokens of a batch; of the last forward: n logits, rows of expert e in layer l
    model_moe_in(l), model_moe_out(l)               what the gate of layer l read, what the layer added to the residual stream
    model_zero_grad(), model_backward(), model_update(t, lr, beta1, beta2, eps, wd), model_grads()
    model_head_backward(), model_feedforward_backward(l), model_attention_backward(l), model_last_backward(): backward in pieces
    model_adapt(l), model_clear_records()
*/
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
    if (want == NULL) { return; } // a fixture may leave a tensor out; a whole group it may not (see run_groups)
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
    model_to_device();
}

static void compare_gates(const char* group, int l) {
    size_t N = model_N();
    compare_i(in(group, "h.%d.act", l), fetch(KEPT(l).open, N * (size_t)model.config.E), N * (size_t)model.config.E);
    compare_i(in(group, "h.%d.k", l), fetch(KEPT(l).k, N), N);
}

static void compare_logits(const char* group) {
    size_t n;
    const float* logits = model_logits(&n);
    compare_f(in(group, "logits"), logits, n, 1.0);
}

static void run_eval(const char* group) {
    double ce = model_forward(0, 0, 0);
    compare(in(group, "ce"), &ce, 1);
    compare_logits(group);
    for (int l = 0; l < model.config.L; l++) { if (model.config.moe[l]) { compare_gates(group, l); } }
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

static void run_step0(void) { // groups exp and grad: one training step taken apart
    size_t N = model_N(), NC = N * (size_t)model.config.C;
    int E = model.config.E, top_any = model.config.router == TOP_ANY;
    double ce = model_forward(0, 1, 1), aux = aux_total(), loss = ce + model.aux;
    compare("exp/ce", &ce, 1);
    compare("exp/aux", &aux, 1);
    compare("exp/loss", &loss, 1);
    compare_logits("exp");
    model_forward(0, 1, 0);
    model_zero_grad();
    model_head_backward();
    for (int l = model.config.L - 1; l >= 0; l--) {
        if (model.config.moe[l]) {
            double layer_aux = aux_enabled(l);
            compare_gates("exp", l);
            compare(in("exp", "h.%d.aux", l), &layer_aux, 1);
            compare_f(in("exp", "h.%d.s", l), fetch(KEPT(l).score, N * (size_t)E), N * (size_t)E,
                      top_any ? (double)model.config.tau : 1.0);
            if (!top_any) { compare_f(in("exp", "h.%d.w", l), fetch(KEPT(l).weight, N * (size_t)E), N * (size_t)E, 1.0); }
            compare_f(in("exp", "h.%d.moe_in", l), model_moe_in(l), NC, 1.0);
            compare_f(in("exp", "h.%d.moe_out", l), model_moe_out(l), NC, 1.0);
            compare_f(in("exp", "h.%d.dmoe_out", l), fetch(DEVICE->dres, NC), NC, 1.0);
        }
        model_feedforward_backward(l);
        if (model.config.moe[l]) { compare_f(in("exp", "h.%d.dmoe_in", l), fetch(DEVICE->dln, NC), NC, 1.0); }
        model_attention_backward(l);
    }
    model_last_backward();
    const float* grads = model_grads();
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

static void run_trajectory(void) { // groups traj, post, post_m, post_v
    int steps = meta_int(&file, "n_steps", 1, 10000), begin = meta_int(&file, "win_begin", -1, 10000),
        end = meta_int(&file, "win_end", -1, 10000);
    int L = model.config.L, E = model.config.E;
    size_t N = model_N(), S = (size_t)steps;
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
        if (t == begin) { model_clear_records(); model.recording = 1; }
        ce[t] = model_forward(t, 1, 0);
        aux[t] = aux_total();
        loss[t] = ce[t] + model.aux;
        model_zero_grad();
        model_backward();
        model_update(t, lr, beta1, beta2, eps, wd);
        for (int l = 0; l < L; l++) {
            if (!model.config.moe[l]) { continue; }
            for (int e = 0; e < E; e++) {
                count[((size_t)l * S + (size_t)t) * (size_t)E + (size_t)e] = model_rows(l, e);
                kmean[(size_t)l * S + (size_t)t] += (double)model_rows(l, e) / (double)N;
            }
            if (t != end) { continue; }
            model_to_host();
            compare_records(l);
            if (model.config.router == TOP_ANY) { model_adapt(l); }
        }
        if (t == end) { model.recording = 0; }
    }
    model_to_host();
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

static void fixture_losses(Config* c) { // what the metadata say about auxiliary terms, the temperature and the gradient of 1/k
    float scale = strtof(meta_text(&file, "aux_weight"), NULL);
    aux_list[ENTROPY] = 0.0f; // the fifth is optional
    int n = sscanf(meta_text(&file, "aux"), "%f,%f,%f,%f,%f", &aux_list[0], &aux_list[1], &aux_list[2], &aux_list[3], &aux_list[4]);
    require(n >= 4, NULL, "%s: metadata aux", file.path);
    for (int i = 0; i < N_AUX; i++) { c->aux_weight[i] = scale * aux_list[i]; }
    c->tau = strtof(meta_text(&file, "scale"), NULL);
    c->normalised = strcmp(meta_text(&file, "kgrad"), "normalised") == 0;
}

static void fixture_open(const char* path, const char* kind) { // kind: gpt2 or vit
    file = safetensors_open(path);
    const char* its = safetensors_meta(&file, "model") ? safetensors_meta(&file, "model") : "gpt2";
    if (strncmp(meta_text(&file, "format"), "dynmoe-fixture 1", 16) != 0) {
        die("give a fixture, not a checkpoint", "%s: not a fixture", path);
    }
    if (strcmp(its, kind) != 0) {
        die("make fixture is for GPT-2, make fixture-vit for ViT", "%s: its model is %s, not %s", path, its, kind);
    }
    if (file.n > (int)(sizeof compared / sizeof compared[0])) { die(NULL, "%s: too many tensors", path); }
    memset(compared, 0, sizeof compared);
}

static const unsigned char* fixture_data(const char* name, const char* dtype, size_t bytes) {
    const SafeTensor* t = safetensors_find(&file, name);
    if (t == NULL || t->bytes != bytes || strcmp(t->dtype, dtype) != 0) {
        die(NULL, "%s: %s is missing or of another size", file.path, name);
    }
    return t->data;
}

static void run_groups(void) { // all groups; then, was every tensor of them compared?
    static const char* groups[] = {"eval/", "exp/", "grad/", "traj/", "post/", "post_m/", "post_v/", "posteval/"};
    int n = 0;
    load_start();
    run_eval("eval");
    run_step0();
    run_trajectory();
    run_eval("posteval");
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
    printf("%s: %d tensors compared, %d failed\n", file.path, n, failures);
}
