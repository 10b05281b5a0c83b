/*
How a trained model routes a text: per DynMoE layer the numbers that say whether its gate works, as a table and as JSON.

    dev/stats MODEL --data FILE [--val FILE] [--tokens N] [--batch N] [--threads N] [--json FILE]

    $ dev/stats out_compare/top-any-1/model.safetensors --val data/languages_val.txt --json stats.json
    out_compare/top-any-1/model.safetensors on 65536 tokens of data/languages_val.txt
    loss 0.8076 nats, 1.1651 bits per byte
    2.680 million parameters, a token uses 1.111 million (at mean k 2.0753), 2.29 MFLOP forward
    router top-any

    layer 0: 6 of 8 experts active; mean k 2.0811, after the fallback 2.0811; k = 0: 0.00%

      k                 0     1     2     3     4     5     6
      % of tokens     0.0  28.6  43.7  19.1   8.2   0.4   0.0

                      |     row of W     |    cosine, over all tokens       | threshold; off = (G - mean) / std
      expert     load |     |W| max|cos| |    mean     std     low    high |       G     off    near  chosen
           0    54.9% |   1.000   0.492  |   0.019   0.215  -0.397   0.602  |  -0.071   -0.42    6.4%   54.9%
           1    61.8% |   1.000   0.526  |   0.001   0.172  -0.324   0.518  |  -0.089   -0.52    3.9%   61.8%
           2    69.7% |   1.000   0.526  |   0.035   0.165  -0.298   0.462  |  -0.088   -0.74    3.6%   69.7%
           3    12.6% |   1.000   0.191  |  -0.058   0.099  -0.333   0.548  |   0.038    0.96    2.4%   12.6%
           4     8.0% |   1.000   0.183  |  -0.047   0.153  -0.330   0.675  |   0.145    1.26    0.3%    8.0%
           5     1.1% |   1.000   0.191  |  -0.163   0.132  -0.500   0.584  |   0.175    2.57    0.3%    1.1%

      % using both      0     1     2     3     4     5
           0         54.9  24.8  31.5   4.1   7.3   0.7
           1         24.8  61.8  46.2  11.4   7.9   0.9
           2         31.5  46.2  69.7  11.7   5.8   1.1
           3          4.1  11.4  11.7  12.6   0.0   0.9
           4          7.3   7.9   5.8   0.0   8.0   0.0
           5          0.7   0.9   1.1   0.9   0.0   1.1

      dead experts, which no token chose: none; always on, chosen by more than 99% of tokens: none
      largest |cosine| between rows of W: 0.526, of experts 1 and 2
      near the threshold, |cosine - G| < 0.01: 2.81% of decisions
      mean |output| 5.1142 over mean |residual| 1.4963: 3.4180
      different sets of experts: 32, entropy 3.416 bits
    ...
    checked: in each layer the loads add up to mean k after the fallback
    stats.json: the same as JSON

The text is the one that the trainer validates on (--val, or the last 10 percent of --data), in evaluation mode and in the same
windows, so the loss is the one that the trainer says. --tokens 0 takes all of it. What is counted, over all tokens:

    k           experts that a token chose, before the fallback; after it every token has at least one
    load        share of tokens that use the expert (after the fallback): they add up to mean k
    max|cos|    largest |cosine| of the expert's row of W with that of another active expert
    off, chosen where G lies among the expert's cosines: so far from their mean; so many tokens above it (before the fallback)
    near        share of decisions with |cosine - G| < 0.01: a small step of training turns them over
    |output|    length of what the layer adds (shared experts too), |residual| of what it is added to; means over tokens
    sets        how many different sets of experts the tokens use (after the fallback), and their entropy
    a token uses all parameters but the other experts and wpe (at mean k after the fallback, as the trainer counts)

The JSON has the same numbers unrounded, and free slots too; in it shares are fractions, and null is what does not exist. Names are
those of log.jsonl where it has them. Softmax routers: the score is p, k is the same before and after, G does not exist.

Build: make dev/stats
*/
#ifndef TESTING // test/test_tools.c has the program in it already, and a main of its own
#define TESTING
#define WITH_MAIN
#include "../train_gpt2_dynmoe.c"
#endif

enum { STATS_COLUMNS = 16 };    // of a matrix, side by side
#define STATS_NEAR 0.01         // a cosine this close to G is near it
#define STATS_ALWAYS 0.99       // an expert that more tokens than this choose is always on

typedef struct { // one DynMoE layer: sums over tokens, and after stats_finish what their names say
    int id, E, active, mask[MAX_EXPERTS], pair[2];  // pair: the experts of the largest |cosine| between rows of W
    size_t n, sets;                                 // tokens; different sets of experts
    double k, rows, none, near_all, output, residual, entropy, largest; // k before, rows after the fallback
    double hist[MAX_EXPERTS + 1], load[MAX_EXPERTS], chosen[MAX_EXPERTS], both[MAX_EXPERTS][MAX_EXPERTS];
    double mean[MAX_EXPERTS], std[MAX_EXPERTS], low[MAX_EXPERTS], high[MAX_EXPERTS], near_G[MAX_EXPERTS]; // of the scores
    double wnorm[MAX_EXPERTS], wcos[MAX_EXPERTS], G[MAX_EXPERTS], distance[MAX_EXPERTS]; // distance: (G - mean) / std
    uint64_t* set;                                  // (n) the experts of each token as bits
} LayerStats;

typedef struct {
    double loss, k;                                 // nats; mean over layers of the experts that a token uses
    size_t tokens;
    int layers;
    LayerStats layer[MAX_LAYERS];
} Stats;

// ----------------------------------------------------------------------------
// Counting

static void stats_token(LayerStats* s, const GPT2* model, int l, size_t i) { // adds token i of the last forward
    const Layer* a = &model->layer[l];
    size_t E = (size_t)s->E, C = (size_t)model->config.C;
    const float *mid = a->mid + i * C, *next = (l + 1 < model->config.L ? model->layer[l + 1].res : model->res) + i * C;
    double output = 0.0, residual = 0.0;
    uint64_t set = 0;
    for (size_t e = 0; e < E; e++) {
        double score = a->score[i * E + e];
        int open = a->open[i * E + e];
        set |= (uint64_t)open << e;
        s->load[e] += open;
        s->chosen[e] += open && a->k[i] > 0;
        s->mean[e] += score;
        s->std[e] += score * score;
        s->low[e] = s->n == 0 || score < s->low[e] ? score : s->low[e];
        s->high[e] = s->n == 0 || score > s->high[e] ? score : s->high[e];
        s->near_G[e] += fabs(score - s->G[e]) < STATS_NEAR;
        for (size_t f = 0; open && f < E; f++) { s->both[e][f] += a->open[i * E + f]; }
    }
    for (size_t c = 0; c < C; c++) {
        double y = (double)next[c] - mid[c]; // the layer adds it to the residual stream
        output += y * y;
        residual += (double)mid[c] * mid[c];
    }
    s->output += sqrt(output);
    s->residual += sqrt(residual);
    s->k += a->k[i];
    s->none += a->k[i] == 0;
    s->hist[a->k[i]]++;
    s->set[s->n++] = set;
}

static int stats_compare(const void* a, const void* b) {
    uint64_t x = *(const uint64_t*)a, y = *(const uint64_t*)b;
    return (x > y) - (x < y);
}

static void stats_rows(LayerStats* s, const float* W, int C) { // lengths and cosines of the rows of W (E, C)
    s->largest = NAN;
    for (int i = 0; i < s->E; i++) {
        s->wnorm[i] = norm_of(W + (size_t)i * C, C);
        s->wcos[i] = NAN;
        for (int j = 0; j < s->E; j++) {
            double dot = 0.0;
            if (i == j || !s->mask[i] || !s->mask[j]) { continue; }
            for (int c = 0; c < C; c++) { dot += (double)W[(size_t)i * C + c] * W[(size_t)j * C + c]; }
            double cosine = fabs(dot) / (fmax(s->wnorm[i], NORM_EPS) * fmax(norm_of(W + (size_t)j * C, C), NORM_EPS));
            if (!(s->wcos[i] >= cosine)) { s->wcos[i] = cosine; }
            if (!(s->largest >= cosine)) { s->largest = cosine; s->pair[0] = i; s->pair[1] = j; }
        }
    }
}

static void stats_finish(LayerStats* s) { // sums become means
    double n = (double)s->n, load = 0.0;
    for (int e = 0; e <= s->E; e++) { s->hist[e] /= n; }
    for (int e = 0; e < s->E; e++) {
        s->active += s->mask[e];
        s->load[e] /= n;
        s->chosen[e] /= n;
        s->mean[e] /= n;
        s->std[e] = sqrt(fmax(s->std[e] / n - s->mean[e] * s->mean[e], 0.0));
        s->distance[e] = s->std[e] > 0.0 ? (s->G[e] - s->mean[e]) / s->std[e] : NAN;
        s->near_G[e] /= n;
        s->near_all += s->mask[e] ? s->near_G[e] : 0.0;
        load += s->load[e];
        for (int f = 0; f < s->E; f++) { s->both[e][f] /= n; }
    }
    s->near_all /= s->active > 0 ? s->active : 1;
    s->k /= n;
    s->rows /= n;
    s->none /= n;
    s->output /= n;
    s->residual /= n;
    require(fabs(load - s->rows) < 1e-9 * (1.0 + load), "a bug: please report it",
            "layer %d: the loads add up to %.9g, mean k is %.9g", s->id, load, s->rows);
    qsort(s->set, s->n, sizeof(uint64_t), stats_compare);
    for (size_t a = 0, b; a < s->n; a = b, s->sets++) { // a..b: the same set
        for (b = a; b < s->n && s->set[b] == s->set[a]; b++) { }
        s->entropy -= (double)(b - a) / n * log2((double)(b - a) / n);
    }
}

static void stats_collect(Stats* s, GPT2* model, const Data* data, size_t max_tokens, int B) {
    // the first max_tokens (0: all) in windows of T tokens side by side, B at a time: what evaluate() reads
    const Config* c = &model->config;
    int T = c->T, *x = (int*)alloc_zeroed((size_t)B * T * 2, sizeof(int), "a batch"), *y = x + (size_t)B * T;
    size_t windows = data_places(data, T, T);
    if (max_tokens > 0 && windows > (max_tokens + T - 1) / T) { windows = (max_tokens + T - 1) / T; }
    memset(s, 0, sizeof *s);
    for (int l = 0; l < c->L; l++) {
        if (!c->moe[l]) { continue; }
        LayerStats* layer = &s->layer[s->layers++];
        layer->id = l;
        layer->E = c->E;
        memcpy(layer->mask, model->layer[l].mask, sizeof layer->mask);
        for (int e = 0; e < c->E; e++) { layer->G[e] = model->params.h[l].gateG[e]; }
        stats_rows(layer, model->params.h[l].gatew, c->C);
        layer->set = (uint64_t*)alloc_zeroed(windows * T, sizeof(uint64_t), "the sets of experts (lower --tokens)");
    }
    for (size_t w = 0; w < windows; w += (size_t)B) {
        int b = windows - w < (size_t)B ? (int)(windows - w) : B;
        for (int i = 0; i < b; i++) { data_read(data, w + (size_t)i, T, x + (size_t)i * T, y + (size_t)i * T, T, c->V); }
        s->loss += (double)gpt2_forward(model, x, y, b, T, 0) * b * T;
        s->tokens += (size_t)b * T;
        for (int l = 0; l < s->layers; l++) {
            for (size_t i = 0; i < (size_t)b * T; i++) { stats_token(&s->layer[l], model, s->layer[l].id, i); }
            s->layer[l].rows += model->layer[s->layer[l].id].R;
        }
    }
    s->loss /= (double)s->tokens;
    for (int l = 0; l < s->layers; l++) {
        stats_finish(&s->layer[l]);
        s->k += s->layer[l].rows / s->layers;
    }
    free(x);
}

// ----------------------------------------------------------------------------
// The table

static int stats_is(const LayerStats* s, int e, int dead) { // is the expert dead, or else always on?
    return s->mask[e] && (dead ? s->chosen[e] == 0.0 : s->chosen[e] > STATS_ALWAYS);
}

static void stats_print_list(const char* name, const LayerStats* s, int dead) {
    int n = 0;
    printf("%s", name);
    for (int e = 0; e < s->E; e++) { if (stats_is(s, e, dead)) { printf(" %d", e); n++; } }
    printf("%s", n == 0 ? " none" : "");
}

static void stats_print_hist(const LayerStats* s) {
    for (int from = 0; from <= s->active; from += STATS_COLUMNS) {
        int to = from + STATS_COLUMNS <= s->active ? from + STATS_COLUMNS : s->active + 1;
        printf("\n  k            ");
        for (int k = from; k < to; k++) { printf("%6d", k); }
        printf("\n  %% of tokens  ");
        for (int k = from; k < to; k++) { printf("%6.1f", 100.0 * s->hist[k]); }
        printf("\n");
    }
}

static void stats_print_cell(const char* format, double x) { // - for what does not exist
    if (isfinite(x)) { printf(format, x); } else { printf("%8s", "-"); }
}

static void stats_print_experts(const LayerStats* s, int top_any) {
    printf("\n                  |     row of W     |    %s%s\n", top_any ? "cosine, over all tokens" : "p, over all tokens",
           top_any ? "       | threshold; off = (G - mean) / std" : "");
    printf("  expert     load |     |W| max|cos| |    mean     std     low    high%s\n",
           top_any ? " |       G     off    near  chosen" : "");
    for (int e = 0; e < s->E; e++) {
        if (!s->mask[e]) { continue; }
        printf("  %6d  %6.1f%% |%8.3f", e, 100.0 * s->load[e], s->wnorm[e]);
        stats_print_cell("%8.3f", s->wcos[e]);
        printf("  |%8.3f%8.3f%8.3f%8.3f", s->mean[e], s->std[e], s->low[e], s->high[e]);
        if (top_any) {
            printf("  |%8.3f", s->G[e]);
            stats_print_cell("%8.2f", s->distance[e]);
            printf(" %6.1f%% %6.1f%%", 100.0 * s->near_G[e], 100.0 * s->chosen[e]);
        }
        printf("\n");
    }
}

static void stats_print_both(const LayerStats* s) {
    int active[MAX_EXPERTS], n = 0;
    for (int e = 0; e < s->E; e++) { if (s->mask[e]) { active[n++] = e; } }
    for (int from = 0; from < n; from += STATS_COLUMNS) {
        int to = from + STATS_COLUMNS < n ? from + STATS_COLUMNS : n;
        printf("\n  %% using both ");
        for (int j = from; j < to; j++) { printf("%6d", active[j]); }
        printf("\n");
        for (int i = 0; i < n; i++) {
            printf("  %6d       ", active[i]);
            for (int j = from; j < to; j++) { printf("%6.1f", 100.0 * s->both[active[i]][active[j]]); }
            printf("\n");
        }
    }
}

static void stats_print_layer(const LayerStats* s, int top_any) {
    printf("\nlayer %d: %d of %d experts active; mean k %.4f", s->id, s->active, s->E, s->k);
    if (top_any) { printf(", after the fallback %.4f; k = 0: %.2f%%", s->rows, 100.0 * s->none); }
    printf("\n");
    stats_print_hist(s);
    stats_print_experts(s, top_any);
    stats_print_both(s);
    stats_print_list("\n  dead experts, which no token chose:", s, 1);
    stats_print_list("; always on, chosen by more than 99% of tokens:", s, 0);
    if (isfinite(s->largest)) {
        printf("\n  largest |cosine| between rows of W: %.3f, of experts %d and %d", s->largest, s->pair[0], s->pair[1]);
    }
    if (top_any) { printf("\n  near the threshold, |cosine - G| < %g: %.2f%% of decisions", STATS_NEAR, 100.0 * s->near_all); }
    printf("\n  mean |output| %.4f over mean |residual| %.4f: %.4f", s->output, s->residual, s->output / s->residual);
    printf("\n  different sets of experts: %zu, entropy %.3f bits\n", s->sets, s->entropy + 0.0); // + 0: no -0
}

static void stats_print(const Stats* s, const GPT2* model, const char* path, const char* text_path, const char* unit) {
    const Config* c = &model->config;
    Cost cost = cost_at(model, s->k, 0.0, 0);
    printf("%s on %zu tokens of %s\n", path, s->tokens, text_path);
    printf("loss %.4f nats, %.4f bits per %s\n", s->loss, s->loss / log1p(1.0), unit);
    printf("%.3f million parameters, a token uses %.3f million", 1e-6 * (double)model->n_params, 1e-6 * cost.parameters);
    if (s->layers > 0) { printf(" (at mean k %.4f)", s->k); }
    printf(", %.2f MFLOP forward\n", 1e-6 * cost.flop);
    if (s->layers == 0) { printf("a dense model: it has no DynMoE layer, nothing is routed\n"); return; }
    printf("router %s", router_names[c->router]);
    printf("%s\n", c->router == TOP_ANY ? "" : ": the score is p; cosines, thresholds and a fallback do not exist");
    for (int l = 0; l < s->layers; l++) { stats_print_layer(&s->layer[l], c->router == TOP_ANY); }
    printf("\nchecked: in each layer the loads add up to mean k%s\n", c->router == TOP_ANY ? " after the fallback" : "");
}

// ----------------------------------------------------------------------------
// The JSON

static void stats_number(FILE* f, double x) { if (isfinite(x)) { fprintf(f, "%.9g", x); } else { fprintf(f, "null"); } }

static void stats_field(FILE* f, const char* name, double x) { // never the first of an object
    fprintf(f, ",\"%s\":", name);
    stats_number(f, x);
}

static void stats_list(FILE* f, const char* name, const double* x, int n) {
    fprintf(f, ",\"%s\":[", name);
    for (int i = 0; i < n; i++) { fprintf(f, i > 0 ? "," : ""); stats_number(f, x[i]); }
    fprintf(f, "]");
}

static void stats_who(FILE* f, const char* name, const LayerStats* s, int dead) {
    const char* comma = "";
    fprintf(f, ",\"%s\":[", name);
    for (int e = 0; e < s->E; e++) { if (stats_is(s, e, dead)) { fprintf(f, "%s%d", comma, e); comma = ","; } }
    fprintf(f, "]");
}

static void stats_json_layer(FILE* f, const LayerStats* s, int top_any) {
    int E = s->E;
    fprintf(f, "{\"layer\":%d,\"experts\":%d,\"mask\":[", s->id, s->active);
    for (int e = 0; e < E; e++) { fprintf(f, e > 0 ? ",%d" : "%d", s->mask[e]); }
    fprintf(f, "]");
    stats_field(f, "k", s->rows);
    if (top_any) { stats_field(f, "k_chosen", s->k); }
    stats_field(f, "none", s->none);
    stats_list(f, "hist", s->hist, E + 1);
    stats_list(f, "load", s->load, E);
    if (top_any) { stats_list(f, "chosen", s->chosen, E); }
    stats_who(f, "dead", s, 1);
    stats_who(f, "always", s, 0);
    for (int e = 0; e < E; e++) { // a matrix: a list of lists
        fprintf(f, e == 0 ? ",\"both\":[[" : "],[");
        for (int i = 0; i < E; i++) { fprintf(f, i > 0 ? "," : ""); stats_number(f, s->both[e][i]); }
    }
    fprintf(f, "]]");
    stats_list(f, "W", s->wnorm, E);
    stats_list(f, "W_cosine", s->wcos, E);
    stats_field(f, "W_largest_cosine", s->largest);
    if (top_any) { stats_list(f, "G", s->G, E); }
    stats_list(f, "mean", s->mean, E);
    stats_list(f, "std", s->std, E);
    stats_list(f, "low", s->low, E);
    stats_list(f, "high", s->high, E);
    if (top_any) {
        stats_list(f, "G_distance", s->distance, E);
        stats_list(f, "near", s->near_G, E);
        stats_field(f, "near_all", s->near_all);
    }
    stats_field(f, "output", s->output);
    stats_field(f, "residual", s->residual);
    stats_field(f, "ratio", s->output / s->residual);
    fprintf(f, ",\"sets\":%zu", s->sets);
    stats_field(f, "entropy", s->entropy + 0.0);
    fprintf(f, "}");
}

static void stats_json(const Stats* s, const GPT2* model, const char* path, const char* text_path, const char* json_path) {
    char temporary[1024];
    Cost cost = cost_at(model, s->k, 0.0, 0);
    FILE* f = file_begin(temporary, json_path);
    fprintf(f, "{\"format\":\"dynmoe-stats 1\",\"model\":");
    json_print(f, path);
    fprintf(f, ",\"text\":");
    json_print(f, text_path);
    fprintf(f, ",\"tokens\":%zu", s->tokens);
    stats_field(f, "loss", s->loss);
    stats_field(f, "bits", s->loss / log1p(1.0));
    fprintf(f, ",\"parameters\":%zu", model->n_params);
    stats_field(f, "used", cost.parameters);
    stats_field(f, "flop", cost.flop);
    if (s->layers > 0) { fprintf(f, ",\"router\":\"%s\"", router_names[model->config.router]); stats_field(f, "k", s->k); }
    fprintf(f, ",\"layers\":[");
    for (int l = 0; l < s->layers; l++) {
        fprintf(f, l > 0 ? "," : "");
        stats_json_layer(f, &s->layer[l], model->config.router == TOP_ANY);
    }
    fprintf(f, "]}\n");
    file_end(f, temporary, json_path);
    printf("%s: the same as JSON\n", json_path);
}

// ----------------------------------------------------------------------------

static int stats_run(int argc, char** argv) {
    static const char* usage = "dev/stats MODEL --data FILE [--val FILE] [--tokens N] [--batch N] [--threads N] [--json FILE]";
    static const char* const known[][2] = {{"--data", "--data"}, {"--val", "--val"}, {"--tokens", "--val-tokens"},
                                           {"--batch", "--batch"}, {"--threads", "--threads"}}; // ours, the trainer's
    static GPT2 model;
    static Stats stats;
    const char *path = NULL, *json_path = NULL, **flags = (const char**)alloc_zeroed((size_t)argc + 1, sizeof(char*), "flags");
    int n = 1;
    uint64_t rng = 1;
    flags[0] = argv[0];
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) { printf("%s\n", usage); return 0; }
        if (argv[i][0] != '-') {
            require_usage(path == NULL, usage, "one MODEL, not %s and %s", path, argv[i]);
            path = argv[i];
            continue;
        }
        const char *name = strcmp(argv[i], "--json") == 0 ? "" : NULL, *value = i + 1 < argc ? argv[i + 1] : NULL;
        for (int k = 0; k < 5; k++) { if (strcmp(argv[i], known[k][0]) == 0) { name = known[k][1]; } }
        require_usage(name, usage, "unknown flag %s", argv[i]);
        require_usage(value, usage, "%s needs a value", argv[i]);
        if (*name == '\0') { json_path = value; } else { flags[n++] = name; flags[n++] = value; }
        i++;
    }
    require_usage(path, usage, "MODEL is missing");
    Settings s = flags_read(n, flags);
    require_usage(*s.data || *s.val, usage, "--data FILE or --val FILE is missing");
    s.eval_only = 1; // the layers are those of the file
    threads_set(s.threads);
    Data data = data_open(*s.val ? s.val : s.data), text = *s.val ? data : data_split(&data);
    SafeFile file = safetensors_open(path);
    Config config = config_make(&s, 256, &file);
    require((config.V == 256) == (text.width == 1), "give text of the kind it was trained on",
            "%s: its vocabulary of %d does not fit %s", path, config.V, text.path);
    gpt2_build(&model, config, s.batch, config.T, 0);
    weights_load(&model, &file, 0, 0.0f, &rng);
    safetensors_close(&file);
    stats_collect(&stats, &model, &text, (size_t)s.val_tokens, s.batch);
    require(isfinite(stats.loss), "did the training diverge? its log.jsonl says more", "%s: the loss is no number", path);
    stats_print(&stats, &model, path, *s.val ? s.val : s.data, text.width == 1 ? "byte" : "token");
    if (json_path != NULL) { stats_json(&stats, &model, path, *s.val ? s.val : s.data, json_path); }
    for (int l = 0; l < stats.layers; l++) { free(stats.layer[l].set); }
    free(flags);
    gpt2_free(&model);
    require(fflush(stdout) == 0 && !ferror(stdout), "is the disk full?", "cannot print the report");
    return 0;
}

#ifdef WITH_MAIN
int main(int argc, char** argv) { return stats_run(argc, argv); }
#endif
