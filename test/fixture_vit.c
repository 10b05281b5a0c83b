/*
Runs a ViT fixture through the C reference, test/vit_reference.h, or with USE_CUDA through train_vit_dynmoe.cu in fp32, and prints
a table: tensor, worst error over its tolerance, ok or FAIL. The groups, and how they are compared: fixture_compare.h; what a
fixture holds: docs/formats.md. Its targets are plain classes; that mixup and label smoothing are the right mixture of those is
checked beside them, in the lines `mixed`.

    make fixture-vit FIXTURE=test/fixtures_vit/residual.safetensors         with CUDA_ON_CPU=1 or CUDA=1 the CUDA program too
    test/fixture_vit [-q] FILE...                   exit code 1 if a value is off, a group is missing, a tensor was not compared
*/
#ifdef USE_CUDA
#define REFERENCE "vit_reference.h"
#include "cuda_reference.h"
#include "../train_vit_dynmoe.cu"
#else
#define TESTING
#include "vit_reference.h"
#endif

// ----------------------------------------------------------------------------------------------------------------------
// Where the two programs keep things: what fixture_compare.h asks for

static float* data_patches;         // (n_steps, B, P, K): batches of images, cut
static float smoothing;             // of the labels: 0 in a fixture
static int B;

#ifdef USE_CUDA
static Item* data_items;            // (n_steps, B)
static ViT model;
#define DEVICE ((Device<float>*)model.device)
#define KEPT(l) (DEVICE->layer[l])
template <typename X> static const X* fetch(const X* p, size_t n) { // never freed: it is small
    X* host = (X*)alloc_zeroed(n, sizeof(X), "a copy");
    to_host(host, p, n * sizeof(X));
    return host;
}
static size_t model_N(void) { return (size_t)B * (size_t)model.config.T; }
static void model_to_device(void) { vit_to_device(&model); }
static void model_to_host(void) { vit_to_host(&model); }
static double model_forward(int t, int training, int keep_logits) {
    size_t pixels = (size_t)B * model.config.planes * model.config.image * model.config.image;
    model.keep_logits = keep_logits;
    to_device(DEVICE->patches, data_patches + (size_t)t * pixels, pixels * sizeof(float));
    return (double)vit_forward(&model, NULL, data_items + (size_t)t * (size_t)B, smoothing, B, training);
}
static const float* model_logits(size_t* n) { *n = (size_t)B * (size_t)model.config.classes; return fetch(DEVICE->logits, *n); }
static int model_rows(int l, int e) { return model.layer[l].count[e]; }
static const float* model_moe_in(int l) { // what the gate of layer l read
    return fetch(model.config.residual ? KEPT(l).mid : KEPT(l).ln2, model_N() * (size_t)model.config.C);
}
static const float* model_moe_out(int l) {
    DeviceLayer<float>* a = &KEPT(l);
    int N = (int)model_N(), C = model.config.C;
    combine_forward(DEVICE->half, (float*)NULL, a->out, a->row_of, a->weight, N, C, model.config.E);
    if (model.config.S > 0) { residual_forward(DEVICE->half, DEVICE->half, a->sout, (size_t)N * C); }
    return fetch(DEVICE->half, (size_t)N * C);
}
#define GRADS model.n_memory        // numbers in the memory of gradients
static const float* model_grads(void) { return fetch(DEVICE->grads, GRADS); }
static void model_zero_grad(void) { vit_zero_grad(&model); }
static void model_backward(void) { vit_backward(&model, 1.0f); }
static void model_head_backward(void) { head_backward(&model, DEVICE, 1.0f); }
static void model_feedforward_backward(int l) { feedforward_half_backward(&model, DEVICE, l, (int)model_N(), 1.0f); }
static void model_attention_backward(int l) { attention_half_backward(&model, DEVICE, l, B, model.config.T); }
static void model_last_backward(void) { embedding_backward(&model, DEVICE); }
static void model_update(int t, float lr, float beta1, float beta2, float eps, float wd) {
    vit_update(&model, t, lr, beta1, beta2, eps, wd, 1.0f);
}
static void model_target(int b, int y, int y2, float lam) { // of image b in batch 0
    data_items[b].y[0] = y; data_items[b].y[1] = y2; data_items[b].lam = lam;
}
static void model_adapt(int l) { int removed[MAX_EXPERTS]; vit_adapt(&model, l, removed, 0); }
static void model_clear_records(void) { vit_clear_records(&model); }
static int meta_int_or(const SafeFile* f, const char* key, int low, int high, int absent) {
    return safetensors_meta(f, key) != NULL ? meta_int(f, key, low, high) : absent;
}
#else
static VitReference vit;
static Target* data_targets;        // (n_steps, B)
#define model (vit.trunk)
#define DEVICE (&model)
#define KEPT(l) (model.layer[l])
#define fetch(p, n) (p)
static size_t model_N(void) { return (size_t)B * (size_t)model.config.T; }
static void model_to_device(void) {}
static void model_to_host(void) {}
static double model_forward(int t, int training, int keep_logits) {
    size_t pixels = (size_t)vit.config.planes * (size_t)vit.config.image * (size_t)vit.config.image;
    (void)keep_logits; // they are always kept
    return vit_reference_forward(&vit, data_patches + (size_t)t * (size_t)B * pixels, data_targets + (size_t)t * (size_t)B,
                                 smoothing, B, training);
}
static const float* model_logits(size_t* n) { *n = (size_t)B * (size_t)vit.config.classes; return model.logits; }
static int model_rows(int l, int e) { return model.layer[l].offset[e + 1] - model.layer[l].offset[e]; }
static const float* model_moe_in(int l) { return vit.config.residual ? model.layer[l].mid : model.layer[l].ln2; }
static const float* model_moe_out(int l) {
    static float* out = NULL;
    Layer* a = &model.layer[l];
    size_t NC = model_N() * (size_t)model.config.C;
    out = (float*)realloc(out, NC * sizeof(float));
    combine_forward(out, a->out, a->row_of, a->weight, (int)model_N(), model.config.C, model.config.E);
    if (model.config.S > 0) { residual_forward(out, out, a->sout, NC); }
    return out;
}
#define GRADS model.n_params
static const float* model_grads(void) { return model.grads_memory; }
static void model_zero_grad(void) { gpt2_zero_grad(&model); }
static void model_backward(void) { vit_reference_backward(&vit, 1.0f); }
static void model_head_backward(void) { vit_head_backward(&vit, 1.0f); }
static void model_feedforward_backward(int l) { vit_feedforward_half_backward(&vit, l, 1.0f); }
static void model_attention_backward(int l) { vit_attention_half_backward(&vit, l); }
static void model_last_backward(void) { vit_embedding_backward(&vit); }
static void model_update(int t, float lr, float beta1, float beta2, float eps, float wd) {
    vit_reference_update(&vit, t, lr, beta1, beta2, eps, wd, 1.0f);
}
static void model_target(int b, int y, int y2, float lam) { // of image b in batch 0
    data_targets[b].y = y; data_targets[b].y2 = y2; data_targets[b].lam = lam;
}
static void model_adapt(int l) { int removed[MAX_EXPERTS]; vit_reference_adapt(&vit, l, removed, 0); }
static void model_clear_records(void) { vit_reference_clear_records(&vit); }
#endif

#include "fixture_compare.h"

static void fixture_sizes(Config* c) { // what both programs call the same
    c->L = meta_int(&file, "L", 1, MAX_LAYERS);     c->C = meta_int(&file, "C", 1, 65536);
    c->NH = meta_int(&file, "NH", 1, c->C);         c->E = meta_int(&file, "E", 0, MAX_EXPERTS);
    c->H = meta_int_or(&file, "H", 1, 262144, 4 * c->C);
    c->S = meta_int_or(&file, "shared", 0, 64, 0);
    c->topk = meta_int_or(&file, "topk", 1, MAX_EXPERTS, 1);
    c->topp = safetensors_meta(&file, "topp") ? meta_float(&file, "topp", 0, 1) : 0.0f;
    c->router = choice("router", safetensors_meta(&file, "router") ? meta_text(&file, "router") : "top-any", router_names, 4);
    int moe = config_moe_layers(c, meta_text(&file, "moe_layers"));
    require(c->C % c->NH == 0 && (moe > 0) == (c->E > 0), NULL, "%s: the metadata describes no model", file.path);
    fixture_losses(c);
}

static void build(size_t steps, const float* images, const int* classes) { // from images (steps, B, planes, image, image)
    static const char* const gate_inputs[] = {"ln2", "residual"};
    int image = meta_int(&file, "image", 1, 4096), planes = meta_int(&file, "channels", 1, 64);
    int patch = meta_int(&file, "patch", 1, image), residual = choice("gate_input", meta_text(&file, "gate_input"), gate_inputs, 2);
    size_t n = steps * (size_t)B, pixels = (size_t)planes * (size_t)image * (size_t)image;
    data_patches = (float*)alloc_zeroed(n * pixels, sizeof(float), "data");
#ifdef USE_CUDA
    Config c;
    memset(&c, 0, sizeof c);
    c.image = image; c.planes = planes; c.patch = patch; c.residual = residual; c.T = 1 + image / patch * (image / patch);
    c.classes = meta_int(&file, "classes", 1, 65536);
    fixture_sizes(&c);
    vit_build(&model, c, B, 1);
    ref::patches_forward(data_patches, images, (int)n, planes, image, patch);
    data_items = (Item*)alloc_zeroed(n, sizeof(Item), "data");
    for (size_t i = 0; i < n; i++) { data_items[i].y[0] = data_items[i].y[1] = classes[i]; data_items[i].lam = 1.0f; }
#else
    VitConfig c;
    memset(&c, 0, sizeof c);
    c.image = image; c.planes = planes; c.patch = patch; c.residual = residual;
    c.classes = meta_int(&file, "classes", 1, 65536);
    fixture_sizes(&c.c);
    vit_reference_build(&vit, c, B, 1);
    patches_forward(data_patches, images, (int)n, planes, image, patch);
    data_targets = (Target*)alloc_zeroed(n, sizeof(Target), "data");
    for (size_t i = 0; i < n; i++) { data_targets[i].y = data_targets[i].y2 = classes[i]; data_targets[i].lam = 1.0f; }
#endif
}

#ifdef USE_CUDA
static void destroy(void) { vit_free(&model); free(data_patches); free(data_items); }
#else
static void destroy(void) { vit_reference_free(&vit); free(data_patches); free(data_targets); }
#endif

// ----------------------------------------------------------------------------------------------------------------------

static double plain_or_mixed_step(double* grads, double weight) { // adds weight * gradient of batch 0; returns weight * loss
    double loss = model_forward(0, 1, 0);
    model_zero_grad();
    model_backward();
    const float* g = model_grads();
    for (size_t j = 0; j < GRADS; j++) { grads[j] += weight * (double)g[j]; }
    return weight * loss;
}

// Mixup and label smoothing are linear in the targets: with lam = m/4 and smoothing s, loss and gradients are (1 - s) times the
// mean of four steps with plain classes, m of them the first class and 4 - m the second, plus s times the mean over all classes.
static void run_mixed(const int* y, int classes) {
    double *want = (double*)alloc_zeroed(2 * GRADS, sizeof(double), "gradients"), *got = want + GRADS;
    double loss = 0.0, s = 0.125, largest = 0.0, worst = 0.0;
    for (int step = 0; step < 4 + classes; step++) {
        for (int b = 0; b < B; b++) {
            int plain = step >= 4 ? step - 4 : step < b % 5 ? y[b] : (y[b] + 1 + b) % classes;
            model_target(b, plain, plain, 1.0f);
        }
        loss += plain_or_mixed_step(want, step < 4 ? (1.0 - s) / 4.0 : s / classes);
    }
    for (int b = 0; b < B; b++) { model_target(b, y[b], (y[b] + 1 + b) % classes, (float)(b % 5) / 4.0f); }
    smoothing = (float)s;
    double error = fabs(plain_or_mixed_step(got, 1.0) - loss) / (2e-6 * fmax(loss, 1.0));
    for (size_t j = 0; j < GRADS; j++) { largest = fmax(largest, fabs(want[j])); }
    for (size_t j = 0; j < GRADS; j++) {
        double ratio = fabs(got[j] - want[j]) / (1e-5 * largest);
        if (!(ratio <= worst)) { worst = isnan(ratio) ? INFINITY : ratio; }
    }
    report("mixed/loss", error, !(error <= 1.0), "mixup or smoothing is off");
    report("mixed/grad", worst, !(worst <= 1.0), "mixup or smoothing is off");
    smoothing = 0.0f;
    for (int b = 0; b < B; b++) { model_target(b, y[b], y[b], 1.0f); }
    free(want);
}

static void run_vit(const char* path) {
    fixture_open(path, "vit");
    B = meta_int(&file, "B", 1, 4096);
    size_t steps = (size_t)meta_int(&file, "n_steps", 1, 10000), n = steps * (size_t)B;
    size_t image = (size_t)meta_int(&file, "image", 1, 4096);
    size_t pixels = n * (size_t)meta_int(&file, "channels", 1, 64) * image * image;
    float* images = (float*)alloc_zeroed(pixels, sizeof(float), "data");
    int* classes = (int*)alloc_zeroed(n, sizeof(int), "data");
    memcpy(images, fixture_data("data/x", "F32", 4 * pixels), 4 * pixels);
    memcpy(classes, fixture_data("data/y", "I32", 4 * n), 4 * n);
    for (size_t i = 0; i < n; i++) {
        if (classes[i] < 0 || classes[i] >= meta_int(&file, "classes", 1, 65536)) { die(NULL, "%s: no such class", path); }
    }
    build(steps, images, classes);
    load_start();
    run_mixed(classes, meta_int(&file, "classes", 1, 65536));
    run_groups();
    destroy();
    safetensors_close(&file);
    free(images); free(classes);
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
    if (argc < 2 + quiet) { die_usage("make fixture-vit FIXTURE=FILE", "usage: fixture_vit [-q] FILE..."); }
    for (int i = 1 + quiet; i < argc; i++) {
        failures = 0;
        run_vit(argv[i]);
        bad += failures > 0;
    }
    printf("%d passed, %d failed\n", argc - 1 - quiet - bad, bad);
    return bad > 0;
}
