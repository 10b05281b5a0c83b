/*
Runs one launcher of a CUDA program on made-up data, so that the traffic of its kernels can be counted: dev/kernels.py compares the
counts with the formulas of docs/cuda.md. Built in the emulation's check mode by `make kernels`; -DVIT for the vision program.

    CUDACPU_COUNT=1 dev/kernels_gpt2 CASE bf16|fp32       prints the sizes, then (standard error) what each kernel moved

Sizes are odd on purpose: a slab, a block and a tile more than full; some tokens use no expert, some all.
*/
#include <cudacpu_ptx.h>
static unsigned long long mma_lanes; // calls of mma_m16n8k16 by a lane
namespace cudacpu {
static void counted_mma(float d[4], const uint32_t a[4], const uint32_t b[2], const float c[4]) {
    mma_lanes++;
    mma_m16n8k16_bf16(d, a, b, c);
}
}
#define mma_m16n8k16_bf16 counted_mma
#define TESTING
#ifdef VIT
#include "../train_vit_dynmoe.cu"
#else
#include "../train_gpt2_dynmoe.cu"
#endif

enum { B = 3, T = 100, N = B * T, C = 128, NH = 2, V = 300, Vp = 384, E = 3, P = 5000 };
static uint64_t rng = 1;

template <typename X> X* random_data(size_t n) { // n numbers in [-1, 1) on the device
    float* h = (float*)alloc_zeroed(n, sizeof(float), "numbers");
    X* x = (X*)alloc_zeroed(n, sizeof(X), "numbers");
    X* d = (X*)device_alloc(n, sizeof(X), "numbers");
    for (size_t i = 0; i < n; i++) { store(x + i, h[i] = 2.0f * random_f32(&rng) - 1.0f); }
    to_device(d, x, n * sizeof(X));
    free(h); free(x);
    return d;
}

template <typename X> X* zeros(size_t n) { return (X*)device_alloc(n, sizeof(X), "zeros"); }

int* int_data(size_t n, int below) {
    int *h = (int*)alloc_zeroed(n, sizeof(int), "numbers"), *d = zeros<int>(n);
    for (size_t i = 0; i < n; i++) { h[i] = below > 0 ? (int)(random_u32(&rng) % (uint32_t)below) : -below; }
    to_device(d, h, n * sizeof(int));
    free(h);
    return d;
}

template <typename X> struct Routed { // a batch of tokens behind its gate
    X* x;
    float *W, *G, *weight, *score, *xnorm, *wnorm;
    int *open, *k, *row_of, *row_token, *block_count, R, rows, N1;
    RouteStats *stats, host;
};

template <typename X> Routed<X> route(void) {
    Routed<X> r;
    float G[E] = {-0.05f, 0.0f, 0.08f};
    r.x = random_data<X>(N * C); r.W = random_data<float>(E * C); r.G = zeros<float>(E);
    to_device(r.G, G, sizeof G);
    r.weight = zeros<float>(N * E); r.score = zeros<float>(N * E); r.xnorm = zeros<float>(N); r.wnorm = zeros<float>(E);
    r.open = zeros<int>(N * E); r.k = zeros<int>(N); r.row_of = zeros<int>(N * E); r.row_token = zeros<int>(N * E + E * ROW_PAD);
    r.block_count = zeros<int>(N); r.stats = zeros<RouteStats>(1);
    gate_forward(r.open, r.k, r.weight, r.score, r.xnorm, r.wnorm, r.x, r.W, r.G, int_data(E, -1), 0, N, C, E);
    r.R = dispatch(r.row_of, r.row_token, r.stats, &r.host, r.block_count, r.open, r.k, r.score, N, E, N * E + E * ROW_PAD);
    r.rows = 0;
    for (int e = 0; e < E; e++) { r.rows += r.host.count[e]; }
    r.N1 = N - r.host.hist[0];
    printf("R %d\nrows %d\nN1 %d\nN0 %d\n", r.R, r.rows, r.N1, N - r.N1);
    return r;
}

#define CASE(text) (strcmp(name, text) == 0)
template <typename X> int layers(const char* name) {
    size_t n = (size_t)N * C, att = (size_t)B * NH * T * T;
    X *x = random_data<X>(3 * n), *y = random_data<X>(3 * n), *z = random_data<X>(3 * n), *w = random_data<X>(C * C);
    float *g = zeros<float>(4 * C * C), *s = zeros<float>(8 * C * E), *mean = random_data<float>(N), *rstd = random_data<float>(N);
    if CASE("copy_rows") { matmul_forward(y, x, w, w, N, C, 12); }
    else if CASE("column_sums") { column_sums_add(g, x, s, N, C); }
    else if CASE("layernorm") { layernorm_forward(y, mean, rstd, x, w, w + C, N, C); }
    else if CASE("residual_layernorm") { residual_layernorm_forward(z, y, mean, rstd, x, x + n, w, w + C, N, C); }
    else if CASE("layernorm_backward") { layernorm_backward_add(y, g, g + C, x, z, mean, rstd, w, s, N, C); }
    else if CASE("attention") { attention_forward(y, random_data<X>(att), z, random_data<X>(n), x, B, T, C, NH, 1); }
    else if CASE("attention_backward") {
        attention_backward(y, random_data<X>(att), z, random_data<X>(n), x, random_data<X>(att), random_data<X>(3 * n), B, T, C,
                           NH);
    }
    else if CASE("gelu") { gelu_forward(y, x, n); }
    else if CASE("gelu_backward") { gelu_backward(y, x, z, n); }
    else if CASE("residual") { residual_forward(y, x, z, n); }
    else { return 0; }
    return 1;
}

int flash(const char* name) { // bf16 alone
    bf16 *qkv = random_data<bf16>(3 * N * C), *out = random_data<bf16>(N * C), *dqkv = zeros<bf16>(3 * N * C);
    float *lse = random_data<float>(N * NH), *delta = zeros<float>(N * NH);
    if CASE("flash") { flash_forward(out, lse, qkv, B, T, C, 1); }
    else if CASE("flash_backward") { flash_backward(dqkv, delta, random_data<bf16>(N * C), out, lse, qkv, B, T, C, 1); }
    else { return 0; }
    return 1;
}

template <typename X> int routing(const char* name) {
    Routed<X> r = route<X>();
    size_t room = (size_t)(r.R > N ? r.R : N) * C;
    X *out = random_data<X>(room), *y = zeros<X>(room), *z = random_data<X>(room);
    float *d = random_data<float>(N * E), *dW = zeros<float>(E * C), *dG = zeros<float>(E), *s = zeros<float>(8 * C * E);
    double* sums = zeros<double>(2 * MAX_EXPERTS);
    PerExpert share = {{0.3f, 0.3f, 0.4f}};
    if CASE("gate") { return 1; } // with dispatch it has just run
    else if CASE("softmax_gate") {
        softmax_gate_forward(r.open, r.k, r.weight, r.score, r.x, r.W, int_data(E, -1), 2, INFINITY, 1, N, C, E);
    }
    else if CASE("token_sums") { double h[E]; token_sums(h, r.weight, sums, N, E, 0); }
    else if CASE("gather") { gather_forward(y, r.x, r.row_token, r.R, C); }
    else if CASE("combine") { combine_forward(y, z, out, r.row_of, r.weight, N, C, E); }
    else if CASE("gather_backward") { gather_backward(y, out, r.row_of, N, C, E); }
    else if CASE("combine_backward") { combine_backward(y, d, z, out, r.row_of, r.weight, N, C, E); }
    else if CASE("gate_gradient") {
        gate_gradient_kernel<<<blocks_for(N, BLOCK), BLOCK>>>(d, r.open, r.k, share, 1.0f, 1.0f, 1, N, E);
        LAUNCHED();
    }
    else if CASE("gate_backward") {
        gate_backward_add(y, dW, dG, d, r.open, r.score, r.xnorm, r.wnorm, r.x, r.W, r.G, 1.0f, s, sums, N, C, E);
    }
    else if CASE("softmax_gate_backward") {
        softmax_gate_backward_add(y, dW, d, r.open, r.weight, r.weight, r.x, r.W, 1.0f, share, 1.0f, 1, s, N, C, E);
    }
    else if CASE("record_sum") {
        record_sum_kernel<<<blocks_for(C, WARP), WARP>>>(zeros<double>(C), r.k, r.x, N, C);
        LAUNCHED();
    }
    else { return 0; }
    return 1;
}

template <typename X> int model_wide(const char* name) {
    float *p = random_data<float>(P), *g = random_data<float>(P), *m = random_data<float>(P), *v = random_data<float>(P);
    if CASE("convert") { convert_kernel<<<blocks_for(P, BLOCK), BLOCK>>>(zeros<X>(P), p, P); }
    else if CASE("squares") { squares_kernel<<<2, BLOCK>>>(zeros<double>(2), g, P); }
    else if CASE("adamw") {
        adamw_kernel<<<blocks_for(P, BLOCK), BLOCK>>>(p, zeros<X>(P), g, m, v, P, 0.1f, 0.9f, 0.9f, 1e-8f, 0.1f, 1.0f, 1.0f, 1.0f);
    }
    else if CASE("unit_rows") { unit_rows_kernel<<<WARPS(E)>>>(p, int_data(E, -1), C, E); }
#ifdef VIT
    else if CASE("ema") { ema_kernel<<<blocks_for(P, BLOCK), BLOCK>>>(p, g, P, 0.9f); }
    else if CASE("swap") { swap_kernel<<<blocks_for(P, BLOCK), BLOCK>>>(p, g, P); }
#endif
    else { return 0; }
    LAUNCHED();
    return 1;
}

#ifdef VIT
enum { SIZE = 12, PLANES = 3, PATCH = 4, CLASSES = 10 };
template <typename X> int own(const char* name) {
    size_t n = (size_t)N * C, pixels = (size_t)B * PLANES * SIZE * SIZE;
    X *x = random_data<X>(n), *y = zeros<X>(n);
    float *g = zeros<float>(T * C + C), *losses = zeros<float>(B);
    Item items[B], *device_items = zeros<Item>(B);
    Norm norm;
    memset(items, 0, sizeof items);
    memset(&norm, 0, sizeof norm);
    for (int i = 0; i < 3; i++) { norm.std[i] = 1.0f; }
    for (int b = 0; b < B; b++) { // each picture as it is
        View* v = &items[b].view[0];
        v->picture = b;
        v->brightness = v->contrast = v->saturation = items[b].lam = 1.0f;
    }
    to_device(device_items, items, sizeof items);
    if CASE("patches") { patches_forward(y, zeros<unsigned char>(pixels), device_items, norm, B, SIZE, PLANES, PATCH); }
    else if CASE("tokens") { tokens_forward(y, x, random_data<X>(C), random_data<X>(T * C), B, T, C); }
    else if CASE("tokens_backward") { tokens_backward(y, g + T * C, g, x, B, T, C); }
    else if CASE("cls") { cls_forward(y, x, B, T, C); }
    else if CASE("cls_backward") { cls_backward(y, x, B, T, C); }
    else if CASE("classifier") { classifier(losses, x, device_items, 0.1f, B, CLASSES, 1); }
    else if CASE("head_bias") { head_bias_kernel<<<WARPS(CLASSES)>>>(g, x, 1.0f, B, CLASSES); LAUNCHED(); }
    else { return 0; }
    printf("pixels %zu\nclasses %d\n", pixels, CLASSES);
    return 1;
}
#else
template <typename X> int own(const char* name) {
    int *tokens = int_data(N, V), h[N], order[N], first[N + 1], seen[V + 1];
    float *dwte = zeros<float>(Vp * C), *dwpe = zeros<float>(T * C);
    X *wte = random_data<X>(Vp * C), *wpe = random_data<X>(T * C), *y = random_data<X>(N * C);
    to_host(h, tokens, sizeof h);
    int D = tokens_group(order, first, seen, h, N, V), *device_order = zeros<int>(N), *device_first = zeros<int>(N + 1);
    to_device(device_order, order, sizeof order);
    to_device(device_first, first, sizeof first);
    printf("D %d\n", D);
    if CASE("embedding") { embedding_forward(y, tokens, wte, wpe, B, T, C); }
    else if CASE("embedding_backward") { embedding_backward(dwte, dwpe, y, tokens, device_order, device_first, D, B, T, C); }
    else if CASE("crossentropy") { crossentropy(zeros<float>(N), random_data<X>(N * Vp), tokens, N, V, Vp, 1); }
    else { return 0; }
    return 1;
}
#endif

template <typename X> int any(const char* name) {
    return layers<X>(name) || (sizeof(X) == 2 && flash(name)) || routing<X>(name) || model_wide<X>(name) || own<X>(name);
}

int main(int argc, char** argv) {
    require_usage(argc == 3, "kernels CASE bf16|fp32", "which launcher?");
    queues_make();
    int found = strcmp(argv[2], "bf16") == 0 ? any<bf16>(argv[1]) : any<float>(argv[1]);
    require_usage(found, "see dev/kernels.cu", "there is no case %s", argv[1]);
    CUDA(cudaDeviceSynchronize());
    printf("B %d\nT %d\nN %d\nC %d\nNH %d\nV %d\nVp %d\nE %d\nP %d\nOC 12\nmma %llu\n", B, T, N, C, NH, V, Vp, E, P,
           mma_lanes / WARP);
    return 0;
}
