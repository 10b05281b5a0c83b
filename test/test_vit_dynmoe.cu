/*
The vision program against its C reference (test/vit_reference.h), in one process: every kernel that train_gpt2_dynmoe.cu does not
have beside its C twin, in fp32 and in bf16 (those of --ema: in fp32, by hand), then whole training steps, the adaptive process,
checkpoints, batches. The kernels that both programs have are the same text (dev/twins.txt) and are compared in
test_gpt2_dynmoe.cu.

    make test-cuda                    on a GPU
    make test-cuda CUDA_ON_CPU=1      the same source without one (docs/cuda_on_cpu.md)
*/
#define REFERENCE "vit_reference.h"
#include "cuda_reference.h"
#include "../train_vit_dynmoe.cu"
static ViT model;
#include "cuda_compare.h"

static ref::VitReference twin;
static Settings settings;

// ----------------------------------------------------------------------------------------------------------------------
// Pictures to tokens, and the head

static float plain_pixel(const unsigned char* picture, const View* v, int plane, int row, int col, int size, int planes) {
    // what view_pixel promises, step by step, before the normalisation
    double x[3];
    int r = row + v->dy, c = v->flip ? size - 1 - col + v->dx : col + v->dx;
    for (int k = 0; k < planes; k++) {
        double p = r < 0 || c < 0 || r >= size || c >= size ? 0.0 : picture[(k * size + r) * size + c] / 255.0;
        p = fmin(1.0, p * (double)v->brightness);
        x[k] = fmin(1.0, fmax(0.0, (p - 0.5) * (double)v->contrast + 0.5));
    }
    if (planes == 1) { return (float)x[0]; }
    double gray = 0.299 * x[0] + 0.587 * x[1] + 0.114 * x[2];
    return (float)fmin(1.0, fmax(0.0, gray + (double)v->saturation * (x[plane] - gray)));
}

template <typename floatX> static void patches(const char* dtype) {
    static const int shapes[][4] = {{3, 8, 3, 4}, {2, 9, 1, 3}, {1, 12, 2, 12}, {5, 6, 3, 2}}; // B, size, planes, patch
    for (int s = 0; s < 4; s++) {
        int B = shapes[s][0], size = shapes[s][1], planes = shapes[s][2], patch = shapes[s][3];
        size_t area = (size_t)planes * size * size, n = (size_t)B * area;
        unsigned char* bytes = (unsigned char*)alloc_zeroed(7 * area, 1, "a test");
        float *images = randoms(n, 1), *want = randoms(n, 1);
        Item items[5];
        Norm norm = {{0.5f, 0.4f, 0.3f}, {0.2f, 0.3f, 0.25f}};
        say(dtype, B, size, planes);
        for (size_t i = 0; i < 7 * area; i++) { bytes[i] = (unsigned char)random_u32(&rng); }
        for (int b = 0; b < B; b++) {
            for (int i = 0; i < 2; i++) {
                View v = {(int)(random_u32(&rng) % 7), (int)(random_u32(&rng) % 7) - 3, (int)(random_u32(&rng) % 7) - 3,
                          (int)(random_u32(&rng) % 2), 0.5f + random_f32(&rng), 0.5f + random_f32(&rng), 0.5f + random_f32(&rng)};
                items[b].view[i] = b == 0 ? view_plain(6) : v;
            }
            items[b].lam = b == 0 ? 1.0f : random_f32(&rng);
            for (int plane = 0, j = 0; plane < planes; plane++) {
                for (int row = 0; row < size; row++) {
                    for (int col = 0; col < size; col++, j++) {
                        double x[2];
                        for (int i = 0; i < 2; i++) {
                            const View* v = &items[b].view[i];
                            x[i] = ((double)plain_pixel(bytes + v->picture * area, v, plane, row, col, size, planes) -
                                    (double)norm.mean[plane]) / (double)norm.std[plane];
                        }
                        images[b * area + j] = (float)((double)items[b].lam * x[0] + (1.0 - (double)items[b].lam) * x[1]);
                    }
                }
            }
        }
        ref::patches_forward(want, images, B, planes, size, patch);
        floatX* got = room<floatX>(n);
        patches_forward(got, up(bytes, 7 * area), up(items, (size_t)B), norm, B, size, planes, patch);
        near("patches", got, want, n, 4);
        free(bytes); free(images); free(want);
    }
}
BOTH_TYPES(patches)

template <typename floatX> static void tokens_and_head(const char* dtype) {
    static const int shapes[][4] = {{3, 5, 8, 10}, {2, 17, 33, 3}, {1, 2, 3, 1}, {40, 3, 7, 70}}; // B, T, C, classes
    for (int s = 0; s < 4; s++) {
        int B = shapes[s][0], T = shapes[s][1], C = shapes[s][2], classes = shapes[s][3];
        size_t n = (size_t)B * T * C, m = (size_t)B * (T - 1) * C, bc = (size_t)B * C, bz = (size_t)B * classes;
        say(dtype, B, T, C);
        float *embedded = rounded<floatX>(m, 1), *cls = rounded<floatX>((size_t)C, 1), *wpe = rounded<floatX>((size_t)T * C, 1);
        float *out = randoms(n, 1), *d = rounded<floatX>(n, 1), *dembedded = randoms(m, 1), *dcls = randoms((size_t)C, 1);
        float* dwpe = randoms((size_t)T * C, 1);
        floatX *gout = room<floatX>(n), *gdembedded = room<floatX>(m), *gd = upX<floatX>(d, n), *gcls = room<floatX>(bc);
        float *gdcls = up(dcls, (size_t)C), *gdwpe = up(dwpe, (size_t)T * C);
        tokens_forward(gout, upX<floatX>(embedded, m), upX<floatX>(cls, (size_t)C), upX<floatX>(wpe, (size_t)T * C), B, T, C);
        ref::tokens_forward(out, embedded, cls, wpe, B, T, C);
        near("tokens", gout, out, n, 1);
        tokens_backward(gdembedded, gdcls, gdwpe, gd, B, T, C);
        ref::tokens_backward(dembedded, dcls, dwpe, d, B, T, C);
        near("dembedded", gdembedded, dembedded, m, 1);
        near("dcls", gdcls, dcls, (size_t)C, B);
        near("dwpe", gdwpe, dwpe, (size_t)T * C, B);
        cls_forward(gcls, gd, B, T, C); // the rows 0, T, 2T ..
        float *rows = randoms(bc, 1), *back = (float*)alloc_zeroed(n, sizeof(float), "a test");
        for (int b = 0; b < B; b++) { memcpy(rows + b * C, d + (size_t)b * T * C, (size_t)C * sizeof(float)); }
        near("CLS tokens", gcls, rows, bc, 1);
        for (int b = 0; b < B; b++) { memcpy(back + (size_t)b * T * C, rows + b * C, (size_t)C * sizeof(float)); }
        cls_backward(gd, gcls, B, T, C); // over what was there
        near("dinp", gd, back, n, 1);
        // the classifier
        float *z = rounded<floatX>(bz, 3), *losses = randoms((size_t)B, 1), *lse = randoms((size_t)B, 1), *dz = randoms(bz, 1);
        float *glosses = room<float>((size_t)B), *db = randoms((size_t)classes, 1), *gdb;
        ref::Target target[40];
        Item items[40];
        for (size_t i = 0; s == 0 && i < bz; i++) { z[i] += 100.0f; } // exp(100) is more than a float holds
        round_to<floatX>(z, bz);
        for (int b = 0; b < B; b++) {
            target[b].y = items[b].y[0] = (int)(random_u32(&rng) % (uint32_t)classes);
            target[b].y2 = items[b].y[1] = b % 3 == 0 ? target[b].y : (int)(random_u32(&rng) % (uint32_t)classes);
            target[b].lam = items[b].lam = b % 2 ? random_f32(&rng) : 1.0f;
        }
        for (int smooth = 0; smooth < 2; smooth++) {
            float smoothing = smooth ? 0.3f : 0.0f;
            floatX* gz = upX<floatX>(z, bz);
            ref::soft_crossentropy_forward(losses, lse, z, target, smoothing, B, classes);
            ref::soft_crossentropy_backward(dz, z, lse, target, smoothing, 1.0f, B, classes);
            classifier(glosses, gz, up(items, (size_t)B), smoothing, B, classes, 0);
            near("logits stay", gz, z, bz, 1);
            slack = s == 0 ? 100.0 * FLT_EPSILON : 0.0; // logits of 100 lose that much when the sum is taken away
            near("losses", glosses, losses, (size_t)B, classes + 10);
            classifier(glosses, gz, up(items, (size_t)B), smoothing, B, classes, 1);
            near("dlogits", gz, dz, bz, classes + 10);
            slack = 0.0;
            round_to<floatX>(dz, bz);
            gdb = up(db, (size_t)classes);
            head_bias_kernel<<<WARPS(classes)>>>(gdb, upX<floatX>(dz, bz), 0.25f, B, classes);
            LAUNCHED();
            float* want = randoms((size_t)classes, 1);
            memcpy(want, db, (size_t)classes * sizeof(float));
            for (size_t i = 0; i < bz; i++) { want[i % (size_t)classes] += 0.25f * dz[i]; }
            near("dheadb", gdb, want, (size_t)classes, B);
        }
    }
}
BOTH_TYPES(tokens_and_head)

template <typename floatX> static void expert_norms(const char* dtype) { // an expert without rows; one with more than a slab
    int count[4] = {5, 0, 300, 1}, offset[5], C = 24, E = 4;
    offset[0] = 0;
    for (int e = 0; e < E; e++) { offset[e + 1] = offset[e] + count[e]; }
    size_t n = (size_t)offset[E] * C, ec = (size_t)E * C, R = (size_t)offset[E];
    say(dtype, E, (int)R, C);
    float *raw = rounded<floatX>(n, 2), *w = rounded<floatX>(ec, 1), *b = rounded<floatX>(ec, 1), *out = randoms(n, 1);
    float *mean = randoms(R, 1), *rstd = randoms(R, 1), *d = rounded<floatX>(n, 1), *draw = randoms(n, 1), *dw = randoms(ec, 1);
    float *db = randoms(ec, 1), *gmean = room<float>(R), *grstd = room<float>(R), *gdw = up(dw, ec), *gdb = up(db, ec);
    floatX *graw = upX<floatX>(raw, n), *gw = upX<floatX>(w, ec), *gout = room<floatX>(n), *gdraw = room<floatX>(n);
    experts_layernorm_forward(gout, gmean, grstd, graw, gw, upX<floatX>(b, ec), offset, count, E, C);
    ref::expert_norms_forward(out, mean, rstd, raw, w, b, offset, E, C);
    near("out", gout, out, n, C);
    near("mean", gmean, mean, R, C);
    experts_layernorm_backward_add(gdraw, gdw, gdb, upX<floatX>(d, n), graw, gmean, grstd, gw, room<float>(4 * (size_t)C), offset,
                                   count, E, C);
    ref::expert_norms_backward(draw, dw, db, d, raw, mean, rstd, w, offset, E, C);
    near("drows", gdraw, draw, n, C);
    near("dlnw", gdw, dw, ec, 300);
    near("dlnb", gdb, db, ec, 300);
}
BOTH_TYPES(expert_norms)

// ----------------------------------------------------------------------------------------------------------------------
// Whole steps

static Pictures set;        // random pictures with some order in them
static Item items[16];
static ref::Target target[16];
static float* images;       // (B, P, K) of the batch, as the reference reads them
static int flash_wish = 1;  // --flash

static void set_make(int n, int size, int planes, int classes) {
    memset(&set, 0, sizeof set);
    set.path = "pictures of a test";
    set.size = size;
    set.planes = planes;
    size_t area = (size_t)planes * size * size;
    unsigned char* picture = (unsigned char*)alloc_zeroed(area, 1, "a test");
    for (int i = 0; i < n; i++) {
        int y = (int)(random_u32(&rng) % (uint32_t)classes);
        for (size_t j = 0; j < area; j++) { picture[j] = (unsigned char)(random_u32(&rng) % 128 + (unsigned)(y * 100 / classes)); }
        pictures_add(&set, picture, y, -1);
    }
    set.classes = classes;
    pictures_to_device(&set);
    free(picture);
}

static void batch_for_both(int is_bf16) { // items, target and images from the program's own augmentation, which is compared above
    int B = settings.batch, K = model.config.planes * model.config.patch * model.config.patch, P = model.config.T - 1;
    size_t n = (size_t)B * P * K;
    free(images);
    images = (float*)alloc_zeroed(n, sizeof(float), "a test");
    float* d = room<float>(n);
    patches_forward(d, set.device, up(items, (size_t)B), model.config.norm, B, set.size, set.planes, model.config.patch);
    to_host(images, d, n * sizeof(float));
    if (is_bf16) { round_to<bf16>(images, n); }
    for (int b = 0; b < B; b++) {
        target[b].y = items[b].y[0];
        target[b].y2 = items[b].y[1];
        target[b].lam = items[b].lam;
    }
}

static void first_values(int is_bf16) { // of the twin, like those of a trained model
    ref::GPT2* t = &twin.trunk;
    uint64_t state = 5;
    ref::gpt2_init(t, settings.start_experts, 0, settings.threshold, &state);
    for (int i = 0; i < t->n_tensors; i++) {
        const ref::Tensor* a = &t->table[i];
        float* p = t->params_memory + a->offset;
        if (a->first == ref::ORTHOGONAL) { continue; }
        for (size_t j = 0; j < a->size; j++) {
            p[j] = (a->first == ref::ONES ? 1.0f : 0.0f) + (strstr(a->name, "gateG") ? 0.1f : 0.2f) * (float)random_normal(&rng);
        }
        if (is_bf16 && strstr(a->name, "gate") == NULL) { round_to<bf16>(p, a->size); }
    }
}

static void copy_to_model(void) { copy_parameters(&twin.trunk); vit_to_device(&model); }

static float twin_forward(int training) {
    return ref::vit_reference_forward(&twin, images, target, training ? settings.smoothing : 0.0f, settings.batch, training);
}

static void start_both(const char* line, int size, int planes, int is_bf16) { // the same flags, the same first parameters
    const char* argv[64] = {"test"};
    static char words[600]; // the settings point into it
    int argc = 1;
    snprintf(words, sizeof words, "%s", line);
    for (char* word = strtok(words, " "); word != NULL; word = strtok(NULL, " ")) { argv[argc++] = word; }
    settings = flags_read(argc, argv);
    rng = 7 * 0x9E3779B97F4A7C15ull; // the same numbers whatever ran before
    set_make(23, size, planes, 6);
    memset(&model, 0, sizeof model);
    model.bf16 = is_bf16;
    model.flash = flash_wish;
    vit_build(&model, config_make(&settings, &set, NULL), settings.batch, 1);
    const Config* c = &model.config;
    ref::VitConfig v;
    memset(&v, 0, sizeof v);
    v.image = c->image; v.planes = c->planes; v.patch = c->patch; v.classes = c->classes; v.residual = c->residual;
    v.c.L = c->L; v.c.C = c->C; v.c.NH = c->NH; v.c.E = c->E; v.c.H = c->H; v.c.S = c->S; v.c.router = c->router;
    v.c.topk = c->topk; v.c.topp = c->topp; v.c.tau = c->tau; v.c.normalised = c->normalised;
    v.c.train_fallback = c->train_fallback;
    memcpy(v.c.moe, c->moe, sizeof c->moe);
    memcpy(v.c.aux_weight, c->aux_weight, sizeof c->aux_weight);
    ref::vit_reference_build(&twin, v, settings.batch, 1);
    uint64_t state = 3;
    training_batch(items, &set, &settings, 0, &state);
    batch_for_both(is_bf16);
    double closest = 0.0;
    for (int tries = 0; closest < MARGIN; tries++) {
        ck_assert_int_lt(tries, 500);
        first_values(is_bf16);
        closest = INFINITY;
        for (int l = 0; l < c->L && closest >= MARGIN; l++) {
            if (!c->moe[l]) { continue; }
            twin_forward(1);
            if (c->router == TOP_ANY) { thresholds_into_gaps(&twin.trunk, l); }
            twin_forward(1);
            closest = fmin(closest, margin(&twin.trunk, l));
        }
    }
    copy_to_model();
}

static void free_both(void) { vit_free(&model); ref::vit_reference_free(&twin); pictures_free(&set); }

static const char* const step_flags[] = {
    "--layers 2 --heads 2 --channels 40 --patch 4 --batch 3 --moe-layers none",
    "--layers 3 --heads 2 --channels 16 --patch 4 --batch 3 --moe-layers 0,2 --experts 5 --start-experts 3 --aux-diversity 0.3 "
    "--aux-simplicity 0.2 --aux-balance 0.4 --aux-efficiency 0.5 --mixup 0.5",
    "--layers 2 --heads 2 --channels 16 --patch 4 --batch 3 --moe-layers all --experts 4 --kgrad detached --gate-scale 3 "
    "--gate-input residual --aux-balance 0.4 --aux-efficiency 0.5 --smoothing 0.2",
    "--layers 2 --heads 1 --channels 12 --patch 6 --batch 4 --moe-layers 1 --experts 4 --gate-input residual --expert-width 20 "
    "--train-fallback 1 --smoothing 0",
    "--layers 2 --heads 2 --channels 16 --patch 4 --batch 2 --moe-layers all --experts 4 --router top-k --topk 2 "
    "--shared-experts 2",
    "--layers 2 --heads 2 --channels 16 --patch 4 --batch 2 --moe-layers all --experts 4 --router top-p --topp 0.6 "
    "--aux-entropy 0.3 --gate-input residual --jitter 0.4",
    "--layers 2 --heads 2 --channels 16 --patch 4 --batch 3 --moe-layers all --experts 3 --router dense --shared-experts 1"};

static void one_step(int is_bf16) { // loss, auxiliary terms, decisions and every gradient of one step
    for (int f = 0; f < (int)(sizeof step_flags / sizeof step_flags[0]); f++) {
        start_both(step_flags[f], 12, f == 3 ? 1 : 3, is_bf16);
        double loss = (double)vit_forward(&model, set.device, items, settings.smoothing, settings.batch, 1);
        double want = (double)twin_forward(1), bound = gradient_bound(is_bf16, model.B * model.T, model.config.L);
        double share = is_bf16 ? 1.0 / 256 : bound; // bf16: errors of tokens average out in sums
        ck_assert_msg(fabs(loss - want) <= share * want, "%s: loss %.7f, want %.7f", step_flags[f], loss, want);
        ck_assert_msg(fabs((double)model.aux - (double)twin.trunk.aux) <= share * fabs((double)twin.trunk.aux),
                      "%s: aux %.7f, %.7f", step_flags[f], (double)model.aux, (double)twin.trunk.aux);
        compare_layers(step_flags[f], &twin.trunk);
        vit_zero_grad(&model);
        vit_backward(&model, 0.5f);
        ref::gpt2_zero_grad(&twin.trunk);
        ref::vit_reference_backward(&twin, 0.5f);
        double norm = vit_grad_norm(&model), want_norm = ref::gpt2_grad_norm(&twin.trunk);
        ck_assert_msg(fabs(norm - want_norm) <= (is_bf16 ? 1.0 / 64 : bound) * want_norm, "%s: norm %.6f, want %.6f", step_flags[f],
                      norm, want_norm);
        compare_gradients(step_flags[f], vit_grads(&model), &twin.trunk, bound);
        loss = (double)vit_forward(&model, set.device, items, 0.0f, settings.batch, 0); // evaluation: fallback, logits are kept
        want = (double)twin_forward(0);
        ck_assert_msg(fabs(loss - want) <= share * want, "%s: evaluation %.7f, want %.7f", step_flags[f], loss, want);
        compare_layers(step_flags[f], &twin.trunk);
        double off = distance(vit_logits(&model), twin.trunk.logits, (size_t)settings.batch * 6, 1.0);
        ck_assert_msg(off <= bound, "%s: logits off by %.3g", step_flags[f], off);
        free_both();
    }
}
START_TEST(one_step_in_fp32) { one_step(0); PASS(); } END_TEST
START_TEST(one_step_in_bf16) { one_step(1); PASS(); } END_TEST

START_TEST(flash_attention) { // every patch sees all the others: T of pictures of 224 in patches of 16, and of 32 in patches of 4
    flash_case(1, 197, 2, 0, 1.0f);
    flash_case(3, 65, 1, 0, 1.0f);
    PASS();
} END_TEST

START_TEST(one_step_flash) { // with flash attention and without: against the C reference, and against each other
    float* grads[2];
    size_t n = 0, bytes[2], N = 164; // 2 pictures of 81 patches
    for (int flash = 0; flash < 2; flash++) {
        flash_wish = flash;
        start_both("--layers 2 --heads 2 --channels 128 --patch 1 --batch 2 --moe-layers 1 --experts 3 --router dense", 9, 3, 1);
        for (int l = 0; l < 2; l++) { // scores of about 1: rounding them to bf16, as the other path does, then costs little
            for (int i = 0; i < 3 * 128 * 128; i++) { twin.trunk.params.h[l].qkvw[i] *= 0.5f; }
        }
        copy_to_model();
        ck_assert(model.flash == flash && model.config.T == 82);
        double loss = (double)vit_forward(&model, set.device, items, settings.smoothing, 2, 1), want = (double)twin_forward(1);
        ck_assert_msg(fabs(loss - want) <= want / 256, "flash %d: loss %.7f, want %.7f", flash, loss, want);
        vit_zero_grad(&model);
        vit_backward(&model, 1.0f);
        ref::gpt2_zero_grad(&twin.trunk);
        ref::vit_reference_backward(&twin, 1.0f);
        compare_gradients(flash ? "flash" : "no flash", vit_grads(&model), &twin.trunk, gradient_bound(1, (int)N, 2));
        n = model.n_memory;
        bytes[flash] = model.act_bytes;
        grads[flash] = (float*)alloc_zeroed(n, sizeof(float), "a test");
        to_host(grads[flash], vit_grads(&model), n * sizeof(float));
        free_both();
    }
    flash_wish = 1;
    double off = distance(grads[1], grads[0], n, 1.0);
    ck_assert_msg(off > 0.0 && off < 0.02, "gradients differ by %.3g", off); // not equal: another path
    // what flash does not keep: att of two layers, datt, dqkvr; what it keeps: lse of two layers, delta
    ck_assert_uint_eq(bytes[0] - bytes[1], (3 * N * 2 * 82 + 3 * N * 128) * sizeof(bf16) - 3 * N * 2 * sizeof(float));
    start_both("--layers 1 --heads 4 --channels 128 --patch 4 --batch 2 --moe-layers none", 12, 3, 1);
    ck_assert_int_eq(model.flash, 0); // heads of 32 go through the matrices
    free_both();
    free(grads[0]); free(grads[1]);
    PASS();
} END_TEST

static void ten_steps(const char* line, const char* want_changes) {
    // records over two windows, an expert that nobody can use, tokens that find none: the same changes, and the same numbers
    int removed[MAX_EXPERTS], want_removed[MAX_EXPERTS];
    char changes[400] = "";
    start_both(line, 12, 3, 0);
    twin.trunk.params.h[0].gateG[0] = 2.0f; // nobody's
    for (int e = 1; e < 3; e++) { twin.trunk.params.h[0].gateG[e] = 0.2f; }
    copy_to_model();
    // eps is far above the rounding of gradients. With 1e-8 a new expert, whose v is 0, takes first steps of the size of lr along
    // gradients that are rounding, another one in each program, and both go their own ways.
    uint64_t state = 3;
    double bound = TIMES * sqrt(settings.batch * model.config.T) * FLT_EPSILON, eps = 1e-4;
    for (int step = 0; step < 10; step++) {
        training_batch(items, &set, &settings, (uint64_t)step * (uint64_t)settings.batch, &state);
        batch_for_both(0);
        if (step % 5 == 1) {
            vit_clear_records(&model);
            ref::vit_reference_clear_records(&twin);
            model.recording = twin.trunk.recording = 1;
        }
        double loss = (double)vit_forward(&model, set.device, items, settings.smoothing, settings.batch, 1);
        double want = (double)twin_forward(1);
        ck_assert_msg(fabs(loss - want) <= bound * want, "step %d: loss %.7f, want %.7f", step, loss, want);
        compare_layers("in a step", &twin.trunk);
        vit_zero_grad(&model);
        vit_backward(&model, 1.0f);
        ref::gpt2_zero_grad(&twin.trunk);
        ref::vit_reference_backward(&twin, 1.0f);
        vit_update(&model, step, 0.002f, 0.9f, 0.99f, (float)eps, 0.1f, 1.0f);
        ref::vit_reference_update(&twin, step, 0.002f, 0.9f, 0.99f, (float)eps, 0.1f, 1.0f);
        if (step % 5 != 4) { continue; }
        model.recording = twin.trunk.recording = 0;
        for (int l = 0; l < model.config.L; l++) {
            if (!model.config.moe[l]) { continue; }
            vit_to_host(&model);
            compare_records(&twin.trunk);
            int slot = vit_adapt(&model, l, removed, 1), want_slot = ref::vit_reference_adapt(&twin, l, want_removed, 1);
            ck_assert_int_eq(slot, want_slot);
            for (int e = 0; e < model.config.E; e++) {
                ck_assert_int_eq(removed[e], want_removed[e]);
                if (removed[e]) { snprintf(changes + strlen(changes), 40, "%d/%d -%d ", step, l, e); }
            }
            if (slot >= 0) { snprintf(changes + strlen(changes), 40, "%d/%d +%d ", step, l, slot); }
        }
    }
    ck_assert_str_eq(changes, want_changes);
    vit_to_host(&model);
    compare_adam(&twin.trunk, 0.002f, 0.99f, eps, 10);
    free_both();
}
START_TEST(ten_steps_on_ln2) {
    ten_steps("--layers 2 --heads 2 --channels 16 --patch 4 --batch 4 --moe-layers 0 --experts 5 --start-experts 3",
              "4/0 -0 4/0 +0 9/0 +3 ");
    PASS();
} END_TEST
START_TEST(ten_steps_on_the_residual_stream) {
    ten_steps("--layers 2 --heads 2 --channels 16 --patch 4 --batch 4 --moe-layers 0 --experts 5 --start-experts 3 "
              "--gate-input residual", "4/0 -0 4/0 +0 9/0 +3 ");
    PASS();
} END_TEST

// ----------------------------------------------------------------------------------------------------------------------
// Batches, averages, checkpoints

START_TEST(batches_do_not_depend_on_the_past) { // what a resumed run draws; and every picture comes once in an epoch
    int seen[23] = {0}, kept[100][2], shifts[9] = {0}, flips = 0, plain = 0;
    double sum = 0.0;
    const char* argv[] = {"test", "--batch", "4", "--crop", "4", "--mixup", "0.5", "--jitter", "0.4"};
    float low[3] = {9, 9, 9}, high[3] = {0};
    settings = flags_read(9, argv);
    set_make(23, 4, 1, 5);
    uint64_t a = 9, b = 9;
    for (int step = 0; step < 23; step++) { // 92 pictures: four epochs
        training_batch(items, &set, &settings, (uint64_t)step * 4, &a);
        for (int i = 0; i < 4; i++) {
            const View* v = &items[i].view[0];
            seen[v->picture]++;
            kept[step * 4 + i][0] = v->picture;
            kept[step * 4 + i][1] = v->dx * 100 + v->dy;
            ck_assert(abs(v->dx) <= 4 && abs(v->dy) <= 4 && items[i].lam >= 0.0f && items[i].lam <= 1.0f);
            ck_assert_int_eq(items[i].y[0], set.label[v->picture]);
            ck_assert_int_eq(items[i].y[1], set.label[items[i].view[1].picture]);
            ck_assert(memcmp(&items[i].view[1], &items[3 - i].view[0], sizeof(View)) == 0);
            shifts[v->dx + 4]++;
            flips += v->flip;
            const float factors[3] = {v->brightness, v->contrast, v->saturation};
            for (int f = 0; f < 3; f++) { low[f] = fminf(low[f], factors[f]); high[f] = fmaxf(high[f], factors[f]); }
            plain += items[i].lam > 0.2f && items[i].lam < 0.8f;
            sum += (double)items[i].lam;
        }
        for (int i = 0; i < 23 && (step + 1) * 4 % 23 == 0; i++) { ck_assert_int_eq(seen[i], (step + 1) * 4 / 23); }
    }
    for (int i = 0; i < 9; i++) { ck_assert_msg(shifts[i] > 0 && shifts[i] < 25, "shift %d: %d of 92", i - 4, shifts[i]); }
    // of 92: half are mirrored, and of Beta(0.5, 0.5) 41 percent are in the middle (of a uniform lam 60: 55); 2 deviations are 10
    ck_assert_msg(flips > 36 && flips < 56 && plain > 28 && plain < 48, "%d mirrored, %d in the middle", flips, plain);
    ck_assert_msg(fabs(sum / 92.0 - 0.5) < 0.08, "mean of lam %.3f", sum / 92.0); // 2 deviations are 0.07
    for (int f = 0; f < 3; f++) { ck_assert(low[f] >= 0.6f && low[f] < 0.67f && high[f] <= 1.4f && high[f] > 1.33f); }
    int same_order = 1;
    for (int i = 0; i < 23; i++) { same_order &= kept[i][0] == kept[23 + i][0]; }
    ck_assert(!same_order);
    for (int step = 0; step < 12; step++) { training_batch(items, &set, &settings, 4000, &b); } // somewhere else, the same state
    b = 9;
    for (int step = 0; step < 3; step++) {
        training_batch(items, &set, &settings, (uint64_t)step * 4, &b);
        for (int i = 0; i < 4; i++) {
            ck_assert_int_eq(items[i].view[0].picture, kept[step * 4 + i][0]);
            ck_assert_int_eq(items[i].view[0].dx * 100 + items[i].view[0].dy, kept[step * 4 + i][1]);
        }
    }
    pictures_free(&set);
    PASS();
} END_TEST

START_TEST(sets_of_pictures) { // mean and deviation of each plane; every tenth goes; a domain is held out
    Pictures p, out;
    Norm norm;
    memset(&p, 0, sizeof p);
    memset(&out, 0, sizeof out);
    pictures_shape(&p, 2, 3, "here");
    pictures_shape(&out, 2, 3, "there");
    for (int i = 0; i < 20; i++) {
        unsigned char picture[12];
        for (int j = 0; j < 12; j++) { picture[j] = (unsigned char)(j < 4 ? i * 10 : j < 8 ? (j % 2 ? 255 : 0) : 7); }
        pictures_add(&p, picture, i % 4, i % 3);
    }
    ck_assert(p.n == 20 && p.classes == 4 && p.domains == 3);
    pictures_norm(&p, &norm);
    double deviation = 10.0 * sqrt((20.0 * 20.0 - 1.0) / 12.0) / 255.0; // of 0, 10, .. 190
    ck_assert(fabs((double)norm.mean[0] - 95.0 / 255.0) < 1e-6 && fabs((double)norm.std[0] - deviation) < 1e-6);
    ck_assert(fabs((double)norm.mean[1] - 0.5) < 1e-6 && fabs((double)norm.std[1] - 0.5) < 1e-6);
    ck_assert(fabs((double)norm.mean[2] - 7.0 / 255.0) < 1e-6 && fabs((double)norm.std[2] - 1.0 / 255.0) < 1e-8); // one colour
    pictures_take(&p, &out, 1, 0, 0);
    ck_assert(p.n == 18 && out.n == 2 && out.bytes[0] == 90 && out.bytes[12] == 120 && out.label[0] == 1 && out.domain[1] == 0);
    ck_assert(p.bytes[9 * 12] == 100 && p.label[9] == 2 && p.domain[9] == 1); // the tenth left, the eleventh took its place
    pictures_take(&p, &out, 0, 2, 0);
    ck_assert(p.n == 12 && out.n == 8 && out.domains == 3);
    for (size_t i = 0; i < p.n; i++) { ck_assert(p.domain[i] != 2 && p.bytes[i * 12] / 10 % 3 != 2); }
    for (size_t i = 2; i < out.n; i++) { ck_assert(out.domain[i] == 2 && out.bytes[i * 12] / 10 % 3 == 2); }
    pictures_take(&out, NULL, 0, 2, 1); // keeps that domain alone
    ck_assert(out.n == 6);
    pictures_free(&p);
    pictures_free(&out);
    PASS();
} END_TEST

START_TEST(averages) { // after three steps, by hand; a swap is undone by the next; a new expert begins at what it is
    start_both("--layers 1 --heads 1 --channels 8 --patch 6 --batch 2 --moe-layers all --experts 3 --start-experts 2", 12, 1, 0);
    vit_free(&model);
    memset(&model, 0, sizeof model);
    model.with_ema = 1;
    vit_build(&model, config_make(&settings, &set, NULL), 2, 1);
    Device<float>* d = (Device<float>*)model.device;
    double want = 2.0;
    for (size_t i = 0; i < model.n_memory; i++) { model.params_memory[i] = model.ema_memory[i] = 2.0f; }
    vit_to_device(&model);
    for (int step = 0; step < 3; step++) {
        float p = (float)step;
        for (size_t i = 0; i < model.n_memory; i++) { model.params_memory[i] = p; }
        to_device(d->master, model.params_memory, model.n_memory * sizeof(float));
        vit_ema_update(&model, 0.25f, step);
        double decay = fmin(0.25, (1.0 + step) / (10.0 + step)); // 0.1, 0.1818, 0.25
        want = decay * want + (1.0 - decay) * step;
    }
    vit_ema_swap(&model);
    vit_to_host(&model);
    for (size_t i = 0; i < model.n_memory; i++) {
        ck_assert(fabs((double)model.params_memory[i] - want) < 1e-6 && model.ema_memory[i] == 2.0f);
    }
    vit_ema_swap(&model);
    reset_slot_moments(&model, 0, 1);
    vit_to_host(&model);
    for (int i = 0; i < model.n_tensors; i++) {
        const Tensor* t = &model.table[i];
        for (size_t j = 0; j < t->size; j++) {
            int new_one = t->moe && j / (t->size / (size_t)t->slots) == 1;
            ck_assert(model.params_memory[t->offset + j] == 2.0f);
            ck_assert(fabs((double)model.ema_memory[t->offset + j] - (new_one ? 2.0 : want)) < 1e-6);
        }
    }
    free_both();
    PASS();
} END_TEST

START_TEST(checkpoints) { // what is saved comes from the device, and comes back to the bit
    char path[100];
    snprintf(path, sizeof path, "%s/a.safetensors", folder);
    start_both("--layers 2 --heads 2 --channels 16 --patch 4 --batch 3 --moe-layers all --experts 5 --start-experts 3 "
               "--gate-input residual", 12, 3, 0);
    Config config = model.config;
    vit_free(&model);
    memset(&model, 0, sizeof model);
    model.with_ema = 1;
    vit_build(&model, config, 3, 1);
    size_t n = model.n_memory, last = model.table[model.n_tensors - 1].offset; // of the last tensor
    for (size_t i = 0; i < n; i++) {
        model.params_memory[i] = 1.0f + (float)i; model.m_memory[i] = 2.0f + (float)i; model.v_memory[i] = 3.0f + (float)i;
        model.ema_memory[i] = 4.0f + (float)i;
    }
    model.layer[1].record_count[2] = 77;
    model.layer[1].record_sum[3] = 1.25;
    model.layer[0].record_unrouted = 5;
    model.layer[0].mask[4] = 1;
    model.recording = 1;
    vit_to_device(&model);
    float* host[] = {model.params_memory, model.m_memory, model.v_memory, model.ema_memory};
    for (int k = 0; k < 4; k++) { memset(host[k], 0, n * sizeof(float)); }
    Progress p = {7, 123, 2.5f}, q = {0, 0, 0.0f};
    checkpoint_save(&model, &p, path);
    SafeFile f = safetensors_open(path);
    Config again = config_make(&settings, &set, &f);
    ck_assert(again.image == 12 && again.planes == 3 && again.patch == 4 && again.classes == 6 && again.residual == 1 &&
              again.E == 5 && again.T == 10 && memcmp(again.moe, config.moe, sizeof config.moe) == 0);
    ck_assert(memcmp(&again.norm, &config.norm, sizeof config.norm) == 0);
    vit_free(&model);
    memset(&model, 0, sizeof model);
    model.with_ema = 1;
    vit_build(&model, again, 3, 1);
    checkpoint_load(&model, &f, &q);
    ck_assert(q.step == 7 && q.rng_data == 123 && q.best_val == 2.5f && model.recording == 1);
    ck_assert(model.layer[1].record_count[2] == 77 && model.layer[1].record_sum[3] == 1.25 && model.layer[0].record_unrouted == 5 &&
              model.layer[0].mask[4] == 1);
    for (int k = 0; k < model.n_tensors; k++) {
        const Tensor* t = &model.table[k];
        for (size_t i = t->offset; i < t->offset + t->size; i++) {
            ck_assert(model.params_memory[i] == 1.0f + (float)i && model.m_memory[i] == 2.0f + (float)i &&
                      model.v_memory[i] == 3.0f + (float)i && model.ema_memory[i] == 4.0f + (float)i);
        }
    }
    uint64_t state = 1;
    weights_load(&model, &f, 3, 0.0f, 1, &state); // a model to look at: the averages
    ck_assert(model.params_memory[0] == 4.0f && model.params_memory[last] == 4.0f + (float)last);
    safetensors_close(&f);
    free_both();
    PASS();
} END_TEST

START_TEST(upcycling) { // a dense model with experts instead: each starts as its layer, LayerNorm included; the loss stays
    char path[100];
    snprintf(path, sizeof path, "%s/b.safetensors", folder);
    start_both("--layers 2 --heads 2 --channels 16 --patch 4 --batch 3 --moe-layers none", 12, 3, 0);
    double want = (double)vit_forward(&model, set.device, items, 0.0f, 3, 0);
    Progress p = {1, 1, 1.0f};
    checkpoint_save(&model, &p, path);
    for (int residual = 0; residual < 2; residual++) {
        const char* argv[] = {"test", "--moe-layers=all", "--batch=3", residual ? "--gate-input=residual" : "--gate-input=ln2"};
        settings = flags_read(4, argv);
        SafeFile f = safetensors_open(path);
        Config c = config_make(&settings, &set, &f);
        ck_assert(c.moe[0] && c.moe[1] && c.residual == residual && c.C == 16);
        vit_free(&model);
        vit_build(&model, c, 3, 1);
        uint64_t state = 1;
        weights_load(&model, &f, 3, 0.0f, 0, &state);
        vit_to_device(&model);
        double loss = (double)vit_forward(&model, set.device, items, 0.0f, 3, 0);
        ck_assert_msg(fabs(loss - want) < 1e-5 * want, "residual %d: loss %.7f, of the dense model %.7f", residual, loss, want);
        safetensors_close(&f);
    }
    free_both();
    PASS();
} END_TEST

START_TEST(train_steps) { // micro-batches add up, clipping shortens, rows of W go back to length 1, as train_step promises
    static const char* const more[] = {"--moe-layers none --clip 0 --batch 8", "--moe-layers none --clip 0 --batch 2 --accum 4",
                                       "--moe-layers none --clip 0.001 --batch 8", "--moe-layers all --experts 4 --batch 2"};
    float norm[4], *first = NULL;
    for (int f = 0; f < 4; f++) {
        char line[300];
        snprintf(line, sizeof line, "--layers 2 --heads 2 --channels 16 --patch 4 --crop 0 --flip 0 --warmup 0 --lr 0.1 %s",
                 more[f]);
        start_both(line, 12, 3, 0);
        Routing r[2];
        memset(r, 0, sizeof r);
        Progress p = {0, 5, INFINITY};
        double loss = train_step(&model, &settings, &set, &p, items, r, NULL, &norm[f]);
        vit_to_host(&model);
        size_t n = model.n_memory;
        ck_assert(p.step == 1 && isfinite(loss));
        if (f == 0) { first = (float*)alloc_zeroed(n, sizeof(float), "a test"); memcpy(first, model.m_memory, n * sizeof(float)); }
        if (f == 1 || f == 2) { // m = (1 - beta1) * gradient
            double off = distance(model.m_memory, first, n, f == 1 ? 1.0 : (double)norm[0] / 0.001);
            ck_assert_msg(fabs((double)norm[f] / (double)norm[0] - 1.0) < 1e-4 && off < 1e-4, "%s: norm %g, %g; off by %g", more[f],
                          (double)norm[f], (double)norm[0], off);
        }
        for (int i = 0; f == 3 && i < model.n_tensors; i++) {
            const Tensor* t = &model.table[i];
            for (int e = 0; t->first == ORTHOGONAL && e < 4; e++) {
                ck_assert(fabs((double)norm_of(model.params_memory + t->offset + 16 * e, 16) - 1.0) < 1e-5);
            }
        }
        free_both();
    }
    free(first);
    PASS();
} END_TEST

START_TEST(scores) { // evaluate against logits by hand: loss without smoothing, top-1, top-5, domains; the last batch is not full
    static Routing r[MAX_LAYERS];
    double loss = 0.0, top1 = 0.0, top5 = 0.0, domain[2] = {0};
    start_both("--layers 2 --heads 2 --channels 16 --patch 4 --batch 2 --moe-layers none --smoothing 0.5", 12, 3, 0);
    for (size_t i = 0; i < set.n; i++) { set.domain[i] = i % 2; }
    for (size_t i = 0; i < set.n; i++) {
        Choice choice[6];
        plain_batch(items, &set, i, 1);
        vit_forward(&model, set.device, items, 0.0f, 1, 0);
        choices_sort(choice, vit_logits(&model), 6);
        for (int v = 0; v < 6; v++) {
            if (choice[v].class_ != set.label[i]) { continue; }
            loss -= log((double)choice[v].p);
            top1 += v == 0;
            top5 += v < 5;
            domain[i % 2] += v == 0;
        }
    }
    Score score = evaluate(&model, &set, 0, 2, r, "");
    ck_assert(set.n == 23 && top1 > 0.0 && top5 < 23.0 && domain[0] != domain[1]); // else this test shows nothing
    ck_assert_msg(fabs(score.loss - loss / 23.0) < 1e-5 * loss, "loss %g, want %g", score.loss, loss / 23.0);
    ck_assert(fabs(score.top1 - top1 / 23.0) < 1e-9 && fabs(score.top5 - top5 / 23.0) < 1e-9);
    ck_assert(score.domain_top1[0] == domain[0] && score.domain_top1[1] == domain[1] && score.domain_n[0] == 12.0);
    free_both();
    PASS();
} END_TEST

START_TEST(floors) { // of a step of ViT-S/16 with 256 pictures, as published; test/test_floors.sh compares with dev/floors.py
    Config c;
    memset(&c, 0, sizeof c);
    c.T = 197; c.L = 12; c.C = 384; c.H = 1536; c.E = 8; c.planes = 3; c.patch = 16; c.classes = 1000;
    for (int l = 0; l < 12; l += 2) { c.moe[l] = 1; }
    double own = 2 * 384, expert = 384.0 * (2 * 1536 + 2) + 1536 + 1, n = 71693224.0; // LayerNorm; with its row of W and its G
    Floor f = step_floor(&c, n, 256, 2, 8), one = step_floor(&c, n, 256, 1.5, 8);
    ck_assert_msg(fabs(f.ms - 15.757) < 0.005 && fabs(one.ms - 14.21) < 0.01, "%.3f ms at k = 2, %.3f at 1.5", f.ms, one.ms);
    ck_assert_msg(fabs(1e-12 * f.flop - 9.182) < 0.01, "%.4g FLOP of the model", f.flop);
    c.residual = 1;
    double less = step_floor(&c, n, 256, 2, 8).ms - step_floor(&c, n, 256, 2, 7).ms, want = 1e3 * 6 * 28 * (expert + own) / 4.3e12;
    ck_assert_msg(fabs(less - want) < 1e-6, "a free slot saves %.6f ms, want %.6f", less, want);
    PASS();
} END_TEST

int main(void) {
    char name[300];
    int is_bf16;
    gpu_start(name, sizeof name, "auto", &is_bf16);
    ref::threads_set(1);
    printf("on %s\n", name);
    Suite* suite = suite_create("train_vit_dynmoe.cu");
    TEST_BOTH(patches)
    TEST_BOTH(tokens_and_head)
    TEST_BOTH(expert_norms)
    TEST(one_step_in_fp32)
    if (is_bf16) { TEST(one_step_in_bf16) }
    if (is_bf16) { TEST(flash_attention) }
    if (is_bf16) { TEST(one_step_flash) }
    TEST(ten_steps_on_ln2)
    TEST(ten_steps_on_the_residual_stream)
    TEST(batches_do_not_depend_on_the_past)
    TEST(sets_of_pictures)
    TEST(averages)
    TEST(checkpoints)
    TEST(upcycling)
    TEST(train_steps)
    TEST(scores)
    TEST(floors)
    return run_all(suite);
}
