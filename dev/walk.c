/*
The little examples of docs/walkthrough.md: the functions of train_gpt2_dynmoe.c called on a handful of numbers.

    dev/walk             all examples, each under its name
    dev/walk NAME        one of them
    dev/walk --list      the names
    dev/walk rows BITS   what dispatch makes of tokens that somebody else chose: for each token its experts, 0 or 1: 101,010

`make docs-examples` writes what they print into the page, and a test compares the two. Change a number here and run it again.
*/
#define TESTING
#include "../train_gpt2_dynmoe.c"

static void row(const char* name, const float* x, int n) { // a name and n numbers; no minus in front of 0.000
    printf("%-22s", name);
    for (int i = 0; i < n; i++) { printf(" %7.3f", fabsf(x[i]) < 0.0005f ? 0.0 : (double)x[i]); }
    printf("\n");
}

static void matrix(const char* name, const float* x, int rows, int columns) {
    for (int i = 0; i < rows; i++) { row(i == 0 ? name : "", x + i * columns, columns); }
}

static void whole(const char* name, const int* x, int n) { // integers
    printf("%-22s", name);
    for (int i = 0; i < n; i++) { printf(" %3d", x[i]); }
    printf("\n");
}

static void whole_matrix(const char* name, const int* x, int rows, int columns) {
    for (int i = 0; i < rows; i++) { whole(i == 0 ? name : "", x + i * columns, columns); }
}

static void product(void) {
    const float inp[] = {1, 2, 3, 4, 5, 6}, weight[] = {1, 0, -1, 2, 1, 0}, bias[] = {10, 20}, dout[] = {1, 0, 0, 1};
    float out[4], dinp[6], dweight[6] = {0}, dbias[2] = {0};
    matmul_forward(out, inp, weight, bias, 2, 3, 2);
    matmul_backward(dinp, dweight, dbias, dout, inp, weight, 2, 3, 2);
    matrix("inp (N 2, C 3)", inp, 2, 3);
    matrix("weight (OC 2, C 3)", weight, 2, 3);
    matrix("out (N 2, OC 2)", out, 2, 2);
    matrix("dout (N 2, OC 2)", dout, 2, 2);
    matrix("dinp = dout weight", dinp, 2, 3);
    matrix("dweight = dout^T inp", dweight, 2, 3);
}

static void norm(void) {
    const float inp[] = {1, 2, 3, 6}, weight[] = {1, 1, 1, 1}, bias[] = {0, 0, 0, 0}, dout[] = {1, 0, 0, 0};
    float out[4], mean, rstd, dinp[4] = {0}, dweight[4] = {0}, dbias[4] = {0}, along = 0.0f, sum = 0.0f;
    layernorm_forward(out, &mean, &rstd, inp, weight, bias, 1, 4);
    layernorm_backward_add(dinp, dweight, dbias, dout, inp, &mean, &rstd, weight, 1, 4);
    for (int c = 0; c < 4; c++) { sum += dinp[c]; along += dinp[c] * out[c]; }
    row("inp", inp, 4);
    row("mean", &mean, 1);
    row("1 / deviation", &rstd, 1);
    row("out", out, 4);
    row("dout", dout, 4);
    row("dinp", dinp, 4);
    row("sum of dinp", &sum, 1);
    row("<dinp, out>", &along, 1);
}

static void attention(void) { // one head of two channels, three tokens: q = k = v
    const float x[3][2] = {{2, 0}, {0, 2}, {2, 2}};
    float qkv[18], att[9], out[6];
    for (int t = 0; t < 3; t++) { for (int c = 0; c < 6; c++) { qkv[6 * t + c] = x[t][c % 2]; } }
    attention_forward(out, att, qkv, 1, 3, 2, 1, 1);
    matrix("q = k = v (T 3, HS 2)", &x[0][0], 3, 2);
    matrix("att (T 3, T 3)", att, 3, 3);
    matrix("out = att v", out, 3, 2);
}

static void entropy(void) { // a vocabulary of 4, padded to 6
    float logits[] = {2, 1, 0, 0, 9, 9}, loss, lse;
    const int target = 1;
    crossentropy_forward(&loss, &lse, logits, &target, 1, 4, 6);
    row("logits", logits, 6);
    row("lse", &lse, 1);
    row("loss of token 1, nats", &loss, 1);
    crossentropy_backward(logits, &lse, &target, 1.0f, 1, 4, 6);
    row("gradient", logits, 6);
}

// Four tokens and four experts in two channels. Expert 3 is a free slot: not active.
enum { WN = 4, WC = 2, WE = 4 };
static const float WX[] = {3, 0, 2, 2, -1, 0.2f, 0, -2}, WW[] = {1, 0, 0.6f, 0.8f, 0, 1, -1, 0}, WG[] = {0.5f, 0.8f, 0.9f, 0};
static const int Wmask[] = {1, 1, 1, 0};
static int wopen[16], wk[4];
static float wcosine[16], wxnorm[4], wwnorm[4];

static int route(int fallback) {
    return gate_forward(wopen, wk, wcosine, wxnorm, wwnorm, WX, WW, WG, Wmask, fallback, WN, WC, WE);
}

static void gate(void) {
    int unrouted = route(0);
    matrix("x (N 4, C 2)", WX, WN, WC);
    matrix("W (E 4, C 2)", WW, WE, WC);
    row("G (E)", WG, WE);
    whole("mask (E)", Wmask, WE);
    matrix("cosine (N, E)", wcosine, WN, WE);
    whole_matrix("open (N, E)", wopen, WN, WE);
    whole("k (N)", wk, WN);
    whole("tokens with k = 0", &unrouted, 1);
    route(1);
    whole_matrix("open, with fallback", wopen, WN, WE);
    whole("k, with fallback", wk, WN);
}

static void rows_of(const int* open, int N, int E) {
    int* row_of = (int*)alloc_zeroed((size_t)N * E, sizeof(int), "rows");
    int* row_token = (int*)alloc_zeroed((size_t)N * E, sizeof(int), "rows");
    int offset[MAX_EXPERTS + 1], R = dispatch(row_of, row_token, offset, open, N, E);
    whole_matrix("open (N, E)", open, N, E);
    whole("offset (E + 1)", offset, E + 1);
    whole("row_token (R)", row_token, R);
    whole_matrix("row_of (N, E)", row_of, N, E);
    free(row_of);
    free(row_token);
}

static void rows(void) {
    route(0);
    rows_of(wopen, WN, WE);
}

static void mean(void) { // what one token says about three open gates out of four, in both conventions for k
    const int open[] = {1, 1, 0, 1}, k = 3;
    const float dweight[] = {-0.9f, 0.3f, 0, 0.3f};
    float weight[4], detached[4], normalised[4];
    mean_forward(weight, open, &k, 1, 4);
    memcpy(detached, dweight, sizeof detached);
    memcpy(normalised, dweight, sizeof normalised);
    mean_backward(detached, open, &k, 0, 1, 4);
    mean_backward(normalised, open, &k, 1, 1, 4);
    whole("open", open, 4);
    row("weight", weight, 4);
    row("dL/dweight = <dy, out>", dweight, 4);
    row("dL/dgate, detached", detached, 4);
    row("dL/dgate, normalised", normalised, 4);
}

static void through(void) { // dL/dgate = -1 everywhere (every expert helps) through the gate of the example above
    float dgate[16], dx[8] = {0}, dW[8] = {0}, dG[4] = {0};
    route(0);
    for (int i = 0; i < WN * WE; i++) { dgate[i] = -1.0f; }
    gate_backward_add(dx, dW, dG, dgate, wopen, wcosine, wxnorm, wwnorm, WX, WW, WG, 1.0f, WN, WC, WE);
    whole_matrix("open (N, E)", wopen, WN, WE);
    row("dG (E)", dG, WE);
    matrix("dW (E 4, C 2)", dW, WE, WC);
    matrix("dx (N 4, C 2)", dx, WN, WC);
}

static void softmaxes(void) { // the same tokens by the routers that the paper's is compared with
    static const struct { const char* name; int K, renormalise; float P; } routers[] = {
        {"top-k, K = 1", 1, 0, INFINITY}, {"top-k, K = 2", 2, 1, INFINITY}, {"top-p, P = 0.6", WE, 0, 0.6f}};
    float weight[16], prob[16];
    for (int r = 0; r < 3; r++) {
        softmax_gate_forward(wopen, wk, weight, prob, WX, WW, Wmask, routers[r].K, routers[r].P, routers[r].renormalise, WN, WC,
                             WE);
        if (r == 0) { matrix("p (N, E)", prob, WN, WE); }
        matrix(routers[r].name, weight, WN, WE);
        whole("k", wk, WN);
    }
}

static void losses(void) { // of the gate example
    float value[4];
    route(0);
    value[0] = diversity_loss(NULL, WW, wwnorm, Wmask, 0.0f, WC, WE);
    value[1] = simplicity_loss(NULL, WW, wwnorm, Wmask, 0.0f, WC, WE);
    value[2] = balance_loss(NULL, wopen, wk, 0.0f, WN, WE);
    value[3] = efficiency_loss(NULL, wopen, wk, 0.0f, WN, WE);
    row("diversity", value, 1);
    row("simplicity", value + 1, 1);
    row("balance", value + 2, 1);
    row("efficiency", value + 3, 1);
}

static void window(void) { // the gate example as a recording window of one batch, then with one token less
    for (int n = WN; n >= WN - 2; n -= 2) {
        int64_t count[WE] = {0}, unrouted = 0;
        int mask[WE], removed[WE], used[WE], none;
        float W[WE * WC], G[WE];
        double sum[WC] = {0};
        memcpy(mask, Wmask, sizeof mask);
        memcpy(W, WW, sizeof W);
        memcpy(G, WG, sizeof G);
        route(0);
        record_forward(count, sum, &unrouted, wopen, wk, WX, n, WC, WE);
        for (int e = 0; e < WE; e++) { used[e] = (int)count[e]; }
        none = (int)unrouted;
        int slot = adapt_update(mask, W, G, removed, count, sum, unrouted, 1, WC, WE);
        printf("of the first %d tokens\n", n);
        whole("  R_E (E)", used, WE);
        whole("  tokens with k = 0", &none, 1);
        whole("  removed (E)", removed, WE);
        whole("  slot added (-1: none)", &slot, 1);
        whole("  mask afterwards (E)", mask, WE);
        if (slot >= 0) {
            row("  its row of W", W + slot * WC, WC);
            row("  its G", G + slot, 1);
        }
    }
}

static void step(void) { // the first and the second step of one parameter, for a gradient of 0.001 and then for one of 1000
    static const float gradients[] = {0.001f, 1000.0f};
    for (int i = 0; i < 2; i++) {
        float p = 1.0f, m = 0.0f, v = 0.0f, at[3] = {p};
        for (int s = 0; s < 2; s++) {
            adamw(&p, gradients + i, &m, &v, 1, 0.1f, 0.9f, 0.99f, 1e-8f, 0.0f, (float)(1.0 - pow(0.9, s + 1)),
                  (float)(1.0 - pow(0.99, s + 1)), 1.0f);
            at[s + 1] = p;
        }
        row(i == 0 ? "gradient 0.001" : "gradient 1000", at, 3);
    }
}

static void curve(void) { // for dev/pictures.py: unit x at each cosine of W, G = 0.2: gate, and dL/dcosine for dL/dgate = 1, by tau
    const float W[] = {1, 0}, G = 0.2f, taus[] = {1, 4, 10};
    const int mask = 1;
    for (int i = -100; i <= 100; i++) {
        float c = 0.01f * (float)i, x[] = {c, sqrtf(fmaxf(0.0f, 1.0f - c * c))}, cosine, xnorm, wnorm;
        int open, k;
        gate_forward(&open, &k, &cosine, &xnorm, &wnorm, x, W, &G, &mask, 0, 1, 2, 1);
        printf("%.4f %d", (double)cosine, open);
        for (int t = 0; t < 3; t++) {
            float dgate = 1.0f, dx[2] = {0}, dW[2] = {0}, dG = 0.0f;
            gate_backward_add(dx, dW, &dG, &dgate, &open, &cosine, &xnorm, &wnorm, x, W, &G, taus[t], 1, 2, 1);
            printf(" %.5f", (double)dgate); // |x| = |W| = 1: what is left in dgate is dL/dcosine
        }
        printf("\n");
    }
}

static const struct { const char* name; void (*print)(void); int page; } examples[] = {
    {"product", product, 1}, {"norm", norm, 1}, {"attention", attention, 1}, {"entropy", entropy, 1}, {"gate", gate, 1},
    {"rows", rows, 1}, {"mean", mean, 1}, {"through", through, 1}, {"softmaxes", softmaxes, 1}, {"losses", losses, 1},
    {"window", window, 1}, {"step", step, 1}, {"curve", curve, 0}};
enum { N_EXAMPLES = sizeof examples / sizeof examples[0] };

static void rows_of_bits(const char* bits) { // "101,010": tokens with commas between
    int open[64 * MAX_EXPERTS], N = 1, E = (int)strcspn(bits, ","), n = 0;
    for (const char* p = bits; *p; p++) {
        require_usage(*p == ',' || (*p >= '0' && *p <= '1' && E <= MAX_EXPERTS && n < 64 * E), "for example 101,010",
                      "%s: not 0 and 1, or above 64 tokens", bits);
        if (*p == ',') { N++; } else { open[n++] = *p - '0'; }
    }
    require_usage(E >= 1 && E <= MAX_EXPERTS && n == N * E, "for example 101,010", "%s: tokens of different lengths", bits);
    rows_of(open, N, E);
}

int main(int argc, char** argv) {
    threads_set(1);
    if (argc == 3 && strcmp(argv[1], "rows") == 0) { rows_of_bits(argv[2]); return 0; }
    require_usage(argc <= 2, "dev/walk, dev/walk NAME, dev/walk --list", "too many words");
    int list = argc == 2 && strcmp(argv[1], "--list") == 0, found = 0;
    for (int i = 0; i < N_EXAMPLES; i++) {
        int named = argc == 2 && strcmp(argv[1], examples[i].name) == 0;
        if (list && examples[i].page) { printf("%s\n", examples[i].name); }
        if (argc == 1 && examples[i].page) { printf("%s%s:\n", i ? "\n" : "", examples[i].name); }
        if (named || (argc == 1 && examples[i].page)) { examples[i].print(); }
        found |= named || list || argc == 1;
    }
    require_usage(found, "dev/walk --list", "%s: no such example", argv[1]);
    return 0;
}
