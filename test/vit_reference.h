/*
A ViT whose feed-forward layers are DynMoE layers, in plain C and for tests only: the layers of train_gpt2_dynmoe.c put together in
another way, so that train_vit_dynmoe.cu has a twin to be compared with. test/fixture_vit.c compares this one with the oracle.

    image (planes, image, image) -> patches (P, K), K = planes * patch * patch -> P tokens behind one CLS token -> L blocks, where
    every token sees every other -> class from the CLS token

    VitReference model;                                     static or on the heap: its tables are large for a stack
    vit_reference_build(&model, config, max_B, training);   then fill model.trunk.params_memory (gpt2_init draws first values)
    vit_reference_forward(&model, patches, target, smoothing, B, training);
    gpt2_zero_grad(&model.trunk);
    vit_reference_backward(&model, 1.0f);
    vit_reference_update(&model, step, lr, beta1, beta2, eps, weight_decay, scale);

The trunk is a GPT2 of the C program with another table of tensors: table, memories, layers, masks and records are where they are
there, and gpt2_zero_grad, gpt2_grad_norm, gpt2_init work on it. Letters as there; T = 1 + P tokens in an image.
With residual the gate of a DynMoE layer reads the residual stream itself, and each expert has a LayerNorm of its own; dense layers
have ln2 as ever. In C++ it may stand in a namespace: system headers come first then, as for the C program.
*/
#ifndef VIT_REFERENCE_H
#define VIT_REFERENCE_H
#ifndef QUERY_BLOCK // a name that only the C program has
#define TESTING
#include "../train_gpt2_dynmoe.c"
#endif

typedef struct {
    int image, planes, patch, classes;  // side of the image, its planes, side of a patch; classes
    int residual;                       // 1: the gate reads the residual stream, see above
    Config c;                           // T, V and Vp are set by vit_reference_build
} VitConfig;

typedef struct { int y, y2; float lam; } Target; // class, second class of mixup, weight of the first

// The one list of what a ViT adds to the blocks of the C program: field, name in files, shape, first value, weight decay
#define REFERENCE_TENSORS(X) \
    X(patchw,   "patchw",       C, K, 0,        NORMAL,     1) \
    X(patchb,   "patchb",       C, 0, 0,        ZEROS,      0) \
    X(cls,      "cls",          C, 0, 0,        NORMAL,     0) \
    X(wpe,      "wpe",          T, C, 0,        NORMAL,     0) \
    X(lnfw,     "lnfw",         C, 0, 0,        ONES,       0) \
    X(lnfb,     "lnfb",         C, 0, 0,        ZEROS,      0) \
    X(headw,    "headw",        classes, C, 0,  NORMAL,     1) \
    X(headb,    "headb",        classes, 0, 0,  ZEROS,      0)
#define REFERENCE_NORM_TENSORS(X) \
    X(lnw,      "moe.lnw",      E, C, 0,        ONES,       0) \
    X(lnb,      "moe.lnb",      E, C, 0,        ZEROS,      0)

typedef struct { // what the trunk's Parameters have no field for
    float *patchw, *patchb, *cls, *wpe, *lnfw, *lnfb, *headw, *headb, *lnw[MAX_LAYERS], *lnb[MAX_LAYERS];
} VitParameters;

typedef struct {                        // of a DynMoE layer with residual: its rows before the LayerNorm of their expert
    float *memory, *rows, *mean, *rstd; // rows (R, C), mean (R), rstd (R)
    size_t size;
} ExpertNorm;

typedef struct {
    VitConfig config;
    GPT2 trunk;                         // its logits are (B, classes), losses and lse (B): there is room for N
    VitParameters params, grads;
    ExpertNorm norm[MAX_LAYERS];
    const float* patches;               // of the last forward, like the next two
    const Target* target;
    float smoothing;
} VitReference;

// ----------------------------------------------------------------------------------------------------------------------
// The layers that a GPT-2 does not have

void patches_forward(float* patches, const float* images, int B, int planes, int image, int patch) {
    // images (B, planes, image, image) -> patches (B, P, planes, patch, patch): row by row
    int side = image / patch;
    for (int b = 0; b < B; b++) {
        for (int p = 0; p < side * side; p++) {
            for (int i = 0; i < planes * patch; i++) { // a row of the patch in one of its planes
                int row = i / patch * image + p / side * patch + i % patch, column = p % side * patch;
                memcpy(patches, images + ((size_t)b * planes * image + row) * image + column, (size_t)patch * sizeof(float));
                patches += patch;
            }
        }
    }
}

void tokens_forward(float* out, const float* projected, const float* cls, const float* wpe, int B, int T, int C) {
    // projected (B, T-1, C), cls (C), wpe (T, C) -> out (B, T, C): cls, then the patches, each plus its position
    for (int i = 0; i < B * T; i++) {
        int b = i / T, t = i % T;
        const float* x = t == 0 ? cls : projected + ((size_t)b * (T - 1) + t - 1) * C;
        for (int c = 0; c < C; c++) { out[(size_t)i * C + c] = x[c] + wpe[(size_t)t * C + c]; }
    }
}

void tokens_backward(float* dprojected, float* dcls, float* dwpe, const float* dout, int B, int T, int C) {
    // forward: out = cls or projected, plus wpe. dprojected (B, T-1, C) overwritten; dcls, dwpe added
    for (int i = 0; i < B * T; i++) {
        int b = i / T, t = i % T;
        const float* d = dout + (size_t)i * C;
        for (int c = 0; c < C; c++) {
            dwpe[(size_t)t * C + c] += d[c];
            if (t == 0) { dcls[c] += d[c]; } else { dprojected[((size_t)b * (T - 1) + t - 1) * C + c] = d[c]; }
        }
    }
}

float target_share(const Target* t, float smoothing, int c, int classes) {
    // what class c should get: (1 - smoothing) (lam onehot(y) + (1 - lam) onehot(y2)) + smoothing / classes
    float mixed = (c == t->y ? t->lam : 0.0f) + (c == t->y2 ? 1.0f - t->lam : 0.0f);
    return (1.0f - smoothing) * mixed + smoothing / (float)classes;
}

void soft_crossentropy_forward(float* losses, float* lse, const float* logits, const Target* target, float smoothing, int B,
                               int classes) {
    // logits (B, classes), target (B) -> losses (B) = -sum_c share_c log softmax(logits)_c; lse (B) is kept for backward
    for (int b = 0; b < B; b++) {
        const float* z = logits + (size_t)b * classes;
        float max = -FLT_MAX, sum = 0.0f;
        for (int c = 0; c < classes; c++) { max = fmaxf(max, z[c]); }
        for (int c = 0; c < classes; c++) { sum += expf(z[c] - max); }
        lse[b] = max + logf(sum);
        losses[b] = 0.0f;
        for (int c = 0; c < classes; c++) { losses[b] += target_share(&target[b], smoothing, c, classes) * (lse[b] - z[c]); }
    }
}

void soft_crossentropy_backward(float* dlogits, const float* logits, const float* lse, const Target* target, float smoothing,
                                float scale, int B, int classes) {
    // forward: loss = sum_c share_c (lse - z_c), and the shares add up to 1. dlogits (B, classes) overwritten
    for (int i = 0; i < B * classes; i++) {
        int b = i / classes;
        dlogits[i] = scale * (expf(logits[i] - lse[b]) - target_share(&target[b], smoothing, i % classes, classes));
    }
}

void expert_norms_forward(float* out, float* mean, float* rstd, const float* rows, const float* lnw, const float* lnb,
                          const int* offset, int E, int C) {
    // rows (R, C), grouped by expert, lnw, lnb (E, C) -> out (R, C), each row by the LayerNorm of its expert
    for (int e = 0; e < E; e++) {
        size_t r = (size_t)offset[e];
        layernorm_forward(out + r * C, mean + r, rstd + r, rows + r * C, lnw + (size_t)e * C, lnb + (size_t)e * C,
                          offset[e + 1] - offset[e], C);
    }
}

void expert_norms_backward(float* drows, float* dlnw, float* dlnb, const float* dout, const float* rows, const float* mean,
                           const float* rstd, const float* lnw, const int* offset, int E, int C) {
    // forward: out = LayerNorm of the row's expert. dout (R, C) -> drows (R, C) overwritten; dlnw, dlnb (E, C) added
    memset(drows, 0, (size_t)offset[E] * C * sizeof(float));
    for (int e = 0; e < E; e++) {
        size_t r = (size_t)offset[e], w = (size_t)e * C;
        layernorm_backward_add(drows + r * C, dlnw + w, dlnb + w, dout + r * C, rows + r * C, mean + r, rstd + r, lnw + w,
                               offset[e + 1] - offset[e], C);
    }
}

// ----------------------------------------------------------------------------------------------------------------------
// The model

void vit_reference_layout(VitReference* v) {
    // fills the trunk's table, as parameters_layout does for a GPT-2
    GPT2* model = &v->trunk;
    const Config* c = &model->config;
    int T = c->T, C = c->C, H = c->H, E = c->E, S = c->S, K = v->config.planes * v->config.patch * v->config.patch;
    int classes = v->config.classes;
    model->n_tensors = 0; model->n_params = 0;
    #define X(f, name, a, b, c, first, decay) add_tensor(model, &v->params.f, &v->grads.f, -1, name, a, b, c, first, decay);
    REFERENCE_TENSORS(X)
    #undef X
    for (int l = 0; l < c->L; l++) {
        int own = v->config.residual && c->moe[l]; // each expert has its own LayerNorm: no ln2
        #define X(f, name, a, b, c, first, decay) \
            if (!own || strncmp(name, "ln2", 3) != 0) { \
                add_tensor(model, &model->params.h[l].f, &model->grads.h[l].f, l, name, a, b, c, first, decay); \
            }
        BLOCK_TENSORS(X)
        if (c->moe[l]) { MOE_TENSORS(X) } else { DENSE_TENSORS(X) }
        if (c->moe[l] && S > 0) { SHARED_TENSORS(X) }
        #undef X
        #define X(f, name, a, b, c, first, decay) \
            add_tensor(model, &v->params.f[l], &v->grads.f[l], l, name, a, b, c, first, decay);
        if (own) { REFERENCE_NORM_TENSORS(X) }
        #undef X
    }
}

void vit_reference_build(VitReference* v, VitConfig config, int max_B, int training) {
    // allocates, all zero, no expert active, for up to max_B images; see gpt2_build
    GPT2* model = &v->trunk;
    require(config.patch > 0 && config.image % config.patch == 0, "give a patch size that divides the image",
            "patches of %d do not tile an image of %d", config.patch, config.image);
    require(!config.residual || config.c.S == 0, "leave the shared experts out",
            "shared experts have no LayerNorm of their own: not with the residual stream as the gate's input");
    require(config.c.L < MAX_LAYERS, "give fewer layers", "the table has room for %d layers", MAX_LAYERS - 1);
    config.c.T = 1 + config.image / config.patch * (config.image / config.patch);
    config.c.V = config.c.Vp = config.classes;
    memset(v, 0, sizeof *v);
    v->config = config;
    model->config = config.c;
    model->max_B = max_B; model->max_T = config.c.T;
    vit_reference_layout(v); // without memory: the sizes
    model->act_bytes = activations_layout(model, (size_t)max_B, (size_t)config.c.T, training) * sizeof(float);
    model->params_memory = (float*)alloc_zeroed(model->n_params, sizeof(float), "parameters");
    if (training) {
        model->grads_memory = (float*)alloc_zeroed(model->n_params, sizeof(float), "gradients");
        model->m_memory = (float*)alloc_zeroed(model->n_params, sizeof(float), "Adam's first moments");
        model->v_memory = (float*)alloc_zeroed(model->n_params, sizeof(float), "Adam's second moments");
    }
    vit_reference_layout(v); // now there is memory to point into
    model->act_memory = (float*)alloc_zeroed(model->act_bytes, 1, "activations");
    activations_layout(model, (size_t)max_B, (size_t)config.c.T, training);
    for (int l = 0; l < config.c.L; l++) {
        model->layer[l].record_sum = (double*)alloc_zeroed((size_t)config.c.C, sizeof(double), "records");
    }
}

void vit_reference_free(VitReference* v) {
    for (int l = 0; l < v->config.c.L; l++) { free(v->norm[l].memory); }
    gpt2_free(&v->trunk);
    memset(v, 0, sizeof *v);
}

// One half of a block, res -> mid: as in the C program, but every token sees every other (causal = 0)

void vit_attention_half_forward(VitReference* v, int l, int B) {
    GPT2* model = &v->trunk;
    const Block* p = &model->params.h[l];
    Layer* a = &model->layer[l];
    int T = model->config.T, N = B * T, C = model->config.C;
    layernorm_forward(a->ln1, a->mean1, a->rstd1, a->res, p->ln1w, p->ln1b, N, C);
    matmul_forward(a->qkv, a->ln1, p->qkvw, p->qkvb, N, C, 3 * C);
    attention_forward(a->atty, a->att, a->qkv, B, T, C, model->config.NH, 0);
    matmul_forward(a->mid, a->atty, p->attprojw, p->attprojb, N, C, C);
    residual_forward(a->mid, a->mid, a->res, (size_t)N * C);
}

void vit_attention_half_backward(VitReference* v, int l) {
    // dres: gradient of mid -> gradient of res, in place
    GPT2* model = &v->trunk;
    const Block* p = &model->params.h[l];
    Block* d = &model->grads.h[l];
    Layer* a = &model->layer[l];
    int B = model->B, T = model->config.T, N = B * T, C = model->config.C;
    matmul_backward(model->datty, d->attprojw, d->attprojb, model->dres, a->atty, p->attprojw, N, C, C);
    attention_backward(model->dqkv, model->datt, model->datty, a->att, a->qkv, B, T, C, model->config.NH, 0);
    matmul_backward(model->dln, d->qkvw, d->qkvb, model->dqkv, a->ln1, p->qkvw, N, C, 3 * C);
    layernorm_backward_add(model->dres, d->ln1w, d->ln1b, model->dln, a->res, a->mean1, a->rstd1, p->ln1w, N, C);
}

// The other half, mid -> next layer's res. In a DynMoE layer with residual it is moe_forward with x = mid itself and a LayerNorm in
// each expert; elsewhere it is the C program's.

void vit_feedforward_half_forward(VitReference* v, int l, int N, int training) {
    GPT2* model = &v->trunk;
    const Config* c = &model->config;
    const Block* p = &model->params.h[l];
    Layer* a = &model->layer[l];
    ExpertNorm* n = &v->norm[l];
    int C = c->C, E = c->E;
    float *x = a->mid, *next = l + 1 < c->L ? model->layer[l + 1].res : model->res;
    if (!v->config.residual || !c->moe[l]) { feedforward_half_forward(model, l, N, training); return; }
    route_forward(c, p, a, x, N, training);
    route_stats(a->count, a->hist, a->low, a->high, a->open, a->k, a->score, N, E);
    a->R = dispatch(a->row_of, a->row_token, a->offset, a->open, N, E);
    rows_reserve(a, a->R, C, c->H);
    n->rows = reserve(&n->memory, &n->size, (size_t)a->R * ((size_t)C + 2), "the rows of a layer");
    n->mean = n->rows + (size_t)a->R * C;
    n->rstd = n->mean + a->R;
    gather_forward(n->rows, x, a->row_token, a->R, C);
    expert_norms_forward(a->xr, n->mean, n->rstd, n->rows, v->params.lnw[l], v->params.lnb[l], a->offset, E, C);
    experts_forward(a->out, a->pre, a->act, a->xr, p->fcw, p->fcb, p->fcprojw, p->fcprojb, a->offset, E, C, c->H);
    combine_forward(next, a->out, a->row_of, a->weight, N, C, E);
    residual_forward(next, next, x, (size_t)N * C);
    for (int i = 0; training && i < N_AUX; i++) { model->aux += c->aux_weight[i] * a->aux[i]; }
    if (training && model->recording) {
        record_forward(a->record_count, a->record_sum, &a->record_unrouted, a->open, a->k, x, N, C, E);
    }
}

void vit_feedforward_half_backward(VitReference* v, int l, float scale) {
    // dres: gradient of the next layer's res -> gradient of mid, in place. dln: the part of it that comes through the DynMoE
    // layer's gate and experts, or without residual the gradient of ln2
    GPT2* model = &v->trunk;
    const Config* c = &model->config;
    const Block* p = &model->params.h[l];
    Block* d = &model->grads.h[l];
    Layer* a = &model->layer[l];
    ExpertNorm* n = &v->norm[l];
    int N = model->B * c->T, C = c->C, E = c->E;
    size_t RC = (size_t)a->R * C;
    if (!v->config.residual || !c->moe[l]) { feedforward_half_backward(model, l, N, scale); return; }
    float* dxr = reserve(&model->drow, &model->drow_size, 2 * RC + (size_t)a->R * c->H, "row gradients"); // (R, C)
    float *drows = dxr + RC, *dpre = drows + RC; // (R, C), (R, H)
    combine_backward(dxr, a->dgate, model->dres, a->out, a->row_of, a->weight, N, C, E);
    experts_backward(dxr, dpre, d->fcw, d->fcb, d->fcprojw, d->fcprojb, dxr, a->xr, a->pre, a->act, p->fcw, p->fcprojw,
                     a->offset, E, C, c->H);
    expert_norms_backward(drows, v->grads.lnw[l], v->grads.lnb[l], dxr, n->rows, n->mean, n->rstd, v->params.lnw[l], a->offset,
                          E, C);
    gather_backward(model->dln, drows, a->row_of, N, C, E);
    route_backward_add(c, p, d, a, model->dln, a->mid, N, scale);
    residual_forward(model->dres, model->dres, model->dln, (size_t)N * C);
}

float vit_reference_forward(VitReference* v, const float* patches, const Target* target, float smoothing, int B, int training) {
    // patches (B, P, K), target (B) or NULL -> logits (B, classes), and with targets losses (B); returns their mean, or 0
    // training and evaluation differ as in gpt2_forward; patches and target have to stay until backward
    GPT2* model = &v->trunk;
    int T = model->config.T, C = model->config.C, K = v->config.planes * v->config.patch * v->config.patch;
    int classes = v->config.classes;
    require(B <= model->max_B, "a bug: please report it", "forward of %d images, memory is for %d", B, model->max_B);
    v->patches = patches; v->target = target; v->smoothing = smoothing;
    model->B = B; model->T = T; model->aux = 0.0f;
    float* projected = model->res; // scratch until the last block writes there
    matmul_forward(projected, patches, v->params.patchw, v->params.patchb, B * (T - 1), K, C);
    tokens_forward(model->layer[0].res, projected, v->params.cls, v->params.wpe, B, T, C);
    for (int l = 0; l < model->config.L; l++) {
        vit_attention_half_forward(v, l, B);
        vit_feedforward_half_forward(v, l, B * T, training);
    }
    layernorm_forward(model->lnf, model->meanf, model->rstdf, model->res, v->params.lnfw, v->params.lnfb, B * T, C);
    for (int b = 0; b < B; b++) { memcpy(model->logits + b * classes, v->params.headb, (size_t)classes * sizeof(float)); }
    sgemm(model->logits, classes, model->lnf, T * C, 0, v->params.headw, C, 1, B, classes, C, 1.0f, 1.0f); // every T-th row: CLS
    if (target == NULL) { return 0.0f; }
    soft_crossentropy_forward(model->losses, model->lse, model->logits, target, smoothing, B, classes);
    double sum = 0.0;
    for (int b = 0; b < B; b++) { sum += model->losses[b]; }
    model->ce = (float)(sum / B);
    return model->ce;
}

void vit_head_backward(VitReference* v, float scale) { // logits -> dres
    GPT2* model = &v->trunk;
    int B = model->B, T = model->config.T, C = model->config.C, classes = v->config.classes;
    float* dlogits = model->logits + B * classes; // the memory has N rows
    soft_crossentropy_backward(dlogits, model->logits, model->lse, v->target, v->smoothing, scale / (float)B, B, classes);
    for (int i = 0; i < B * classes; i++) { v->grads.headb[i % classes] += dlogits[i]; }
    sgemm(v->grads.headw, C, dlogits, classes, 1, model->lnf, T * C, 0, classes, C, B, 1.0f, 1.0f);
    memset(model->dln, 0, (size_t)B * T * C * sizeof(float)); // of the CLS tokens only is there a gradient
    sgemm(model->dln, T * C, dlogits, classes, 0, v->params.headw, C, 0, B, C, classes, 1.0f, 0.0f);
    memset(model->dres, 0, (size_t)B * T * C * sizeof(float));
    layernorm_backward_add(model->dres, v->grads.lnfw, v->grads.lnfb, model->dln, model->res, model->meanf, model->rstdf,
                           v->params.lnfw, B * T, C);
}

void vit_embedding_backward(VitReference* v) { // dres -> gradients of patchw, patchb, cls, wpe
    GPT2* model = &v->trunk;
    int B = model->B, T = model->config.T, C = model->config.C, K = v->config.planes * v->config.patch * v->config.patch;
    float *dprojected = model->dln, *dpatches; // scratch; nobody wants the gradient of the pixels
    dpatches = reserve(&model->drow, &model->drow_size, (size_t)B * (T - 1) * K, "the gradient of the patches");
    tokens_backward(dprojected, v->grads.cls, v->grads.wpe, model->dres, B, T, C);
    matmul_backward(dpatches, v->grads.patchw, v->grads.patchb, dprojected, v->patches, v->params.patchw, B * (T - 1), K, C);
}

void vit_reference_backward(VitReference* v, float scale) {
    // adds scale * gradient of (mean loss + auxiliary terms) of the last training forward to the gradients
    vit_head_backward(v, scale);
    for (int l = v->config.c.L - 1; l >= 0; l--) {
        vit_feedforward_half_backward(v, l, scale);
        vit_attention_half_backward(v, l);
    }
    vit_embedding_backward(v);
}

// The rest is the C program's: it goes by the table, in which lnw and lnb are slots of their expert like its weights.

void vit_reference_update(VitReference* v, int step, float lr, float beta1, float beta2, float eps, float decay, float scale) {
    gpt2_update(&v->trunk, step, lr, beta1, beta2, eps, decay, scale);
}
int vit_reference_adapt(VitReference* v, int l, int* removed, int min_experts) {
    return gpt2_adapt(&v->trunk, l, removed, min_experts);
}
void vit_reference_clear_records(VitReference* v) { gpt2_clear_records(&v->trunk); }

#undef REFERENCE_TENSORS
#undef REFERENCE_NORM_TENSORS
#endif
