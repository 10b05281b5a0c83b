/*
Sets the routing of a trained model against the truth about its text: which experts serve which language?

    dev/specialisation TRUTH ROUTING [UNTRAINED]

TRUTH comes from data/languages --truth (per byte: language, kind, exact probability), ROUTING from the trainer's
--dump-routing on the same text, UNTRAINED likewise from a model of 0 steps. It prints three things:

1. The loss of each language beside its floor, both in bits per byte. The floor, the mean of -log2 p, is the loss of a
   reader who knows all the rules and the line from its start. A model sees its window only, which may open in the middle
   of a line, so the same is said again for the bytes whose line began inside the window, with the newline before it.
   Lines know nothing of each other, so both halves have the same law: the mean of loss - floor is not below 0, but for
   noise. Its standard error is that of independent numbers, and rightly so: given the past, each difference has a mean
   of 0 or more. More than 4 of them below 0 is a leak (or the text was trained on), and is said loudly.
2. Per DynMoE layer, how much of the language the gate's decision carries beyond the byte that is read anyway:

       I(S; D | X) / H(D | X)     S: the set of experts in use, D: the language of the current byte, X: the current byte
       I(S; D | X) = sum over x, s, d of  n(x,s,d) / n * log2( n(x,s,d) n(x) / (n(x,s) n(x,d)) )
       H(D | X)    = sum over x, d of  n(x,d) / n * log2( n(x) / n(x,d) )

   Counts in place of probabilities make I too large, by about (cells(x,s,d) - cells(x,s) - cells(x,d) + cells(x)) /
   (2 n ln 2) bits, cells being those that are not empty (Miller and Madow). A gate with many sets can look informed by
   that alone. So the same number stands beside it with the languages shuffled among the tokens of the same byte.
3. Per layer, how often each language uses each expert, and how many experts by language and by kind of the next byte.
   About the number of experts there is no truth: nobody knows how many a byte should use. Compare several seeds.

Build: make dev/specialisation
*/
#ifndef TESTING
#define TESTING // the trainer without its main: its reader of safetensors files is used here
#define WITH_MAIN
#endif
#include "../train_gpt2_dynmoe.c"

enum { MAX_DOMAINS = 16, KINDS = 3, COLUMNS = 16 };
#define ERRORS_ALLOWED 4.0 // standard errors below the floor
#define MIN_BYTES 100      // fewer say nothing about their standard error

typedef struct {
    size_t n;
    int domains;
    char names[MAX_DOMAINS + 1][16];      // the last is "all"
    unsigned char *byte, *domain, *kind;  // (n) each
    double* p;                            // (n)
} TruthFile;

typedef struct {
    int id, E;                            // it is h.id of the model
    unsigned char* open;                  // (n, E) 1: the token uses this expert
    int32_t* k;                           // (n) how many it chose, before the fallback
    uint64_t* set;                        // (n) open as bits
} GateRows;

typedef struct {
    size_t n;
    int T, gates;
    float* loss;                          // (n) nats, of predicting token i + 1
    GateRows gate[MAX_LAYERS];
} RoutingFile;

// ----------------------------------------------------------------------------
// Reading

static void* file_column(const SafeFile* f, const char* name, const char* dtype, size_t n, size_t* width) {
    // a copy (the file's data need not be aligned) of a tensor (n), or (n, width) if width is asked for; to be freed
    const SafeTensor* t = safetensors_find(f, name);
    if (t == NULL) { die("give TRUTH, then ROUTING", "%s: there is no tensor %s in it", f->path, name); }
    if (strcmp(t->dtype, dtype) != 0 || t->ndim != (width != NULL ? 2 : 1) || t->shape[0] != n) {
        die("make the file again", "%s: %s should be %s with %zu rows", f->path, name, dtype, n);
    }
    if (width != NULL) { *width = t->shape[1]; }
    void* copy = alloc_zeroed(t->bytes, 1, name);
    if (t->bytes > 0) { memcpy(copy, t->data, t->bytes); }
    return copy;
}

static void expect_format(const SafeFile* f, const char* want, const char* made_by) {
    const char* format = safetensors_meta(f, "format");
    if (format == NULL || strcmp(format, want) != 0) {
        die(made_by, "%s: its format is \"%s\", not \"%s\"", f->path, format == NULL ? "" : format, want);
    }
}

static size_t rows_of(const SafeFile* f, const char* name) {
    const SafeTensor* t = safetensors_find(f, name);
    int fine = t != NULL && t->ndim == 1 && t->shape[0] >= 2;
    if (!fine) { die("make the file again", "%s: %s is missing or too short", f->path, name); }
    return t->shape[0];
}

static TruthFile truth_read(const char* path) {
    TruthFile t;
    memset(&t, 0, sizeof(t));
    SafeFile f = safetensors_open(path);
    expect_format(&f, "dynmoe-truth 1", "the first file is what data/languages --truth writes");
    t.n = rows_of(&f, "text");
    t.byte = (unsigned char*)file_column(&f, "text", "U8", t.n, NULL);
    t.domain = (unsigned char*)file_column(&f, "domain", "U8", t.n, NULL);
    t.kind = (unsigned char*)file_column(&f, "kind", "U8", t.n, NULL);
    t.p = (double*)file_column(&f, "p", "F64", t.n, NULL);
    const char* names = safetensors_meta(&f, "domains");
    while (names != NULL && *names != '\0' && t.domains < MAX_DOMAINS) {
        int length = (int)strcspn(names, ",");
        snprintf(t.names[t.domains++], sizeof(t.names[0]), "%.*s", length < 8 ? length : 8, names);
        names += length + (names[length] == ',');
    }
    strcpy(t.names[t.domains], "all");
    for (size_t i = 0; i < t.n; i++) {
        if (t.domain[i] >= t.domains || t.kind[i] >= KINDS || !(t.p[i] > 0.0 && t.p[i] <= 1.0)) {
            die("make the file again", "%s: byte %zu has an impossible domain, kind or p", path, i);
        }
    }
    safetensors_close(&f);
    return t;
}

static void gate_read(GateRows* g, const SafeFile* f, size_t n) {
    // in: g->id
    char name[32];
    size_t E;
    snprintf(name, sizeof(name), "h.%d.k", g->id);
    g->k = (int32_t*)file_column(f, name, "I32", n, NULL);
    snprintf(name, sizeof(name), "h.%d.open", g->id);
    g->open = (unsigned char*)file_column(f, name, "U8", n, &E);
    if (E < 1 || E > 64) { die("make the file again", "%s: %s has %zu experts, not 1 to 64", f->path, name, E); }
    g->E = (int)E;
    g->set = (uint64_t*)alloc_zeroed(n, sizeof(uint64_t), "sets of experts");
    for (size_t i = 0; i < n; i++) {
        int used = 0, wrong = 0, k = g->k[i];
        for (size_t e = 0; e < E; e++) {
            wrong |= g->open[i * E + e] > 1;
            used += g->open[i * E + e];
            g->set[i] |= (uint64_t)g->open[i * E + e] << e;
        }
        if (wrong || k < 0 || (k > 0 ? used != k : used > 1)) { // k = 0: the fallback's one, or a layer without experts
            die("make the file again", "%s: %s: token %zu uses %d experts and chose %d", f->path, name, i, used, k);
        }
    }
}

static RoutingFile dump_read(const char* path, const TruthFile* t) {
    RoutingFile d;
    memset(&d, 0, sizeof(d));
    SafeFile f = safetensors_open(path);
    expect_format(&f, "dynmoe-routing 1", "the second and third file are what train_gpt2_dynmoe --dump-routing writes");
    d.n = rows_of(&f, "token");
    int32_t* token = (int32_t*)file_column(&f, "token", "I32", d.n, NULL);
    d.loss = (float*)file_column(&f, "loss", "F32", d.n, NULL);
    const char* T = safetensors_meta(&f, "T");
    d.T = T == NULL ? 0 : atoi(T);
    if (d.T < 1) { die("make the file again", "%s: T, the length of its windows, is missing", path); }
    for (size_t i = 0; i < d.n; i++) {
        if (i >= t->n || token[i] != t->byte[i]) {
            die("give --val the text that was written with the truth", "%s: from token %zu on it is another text", path, i);
        }
        if (!isfinite(d.loss[i])) { die("did the training diverge?", "%s: the loss of token %zu is no number", path, i); }
    }
    const char* list = safetensors_meta(&f, "moe_layers");
    while (list != NULL && *list != '\0' && d.gates < MAX_LAYERS) {
        d.gate[d.gates].id = atoi(list);
        gate_read(&d.gate[d.gates++], &f, d.n);
        list += strcspn(list, ",");
        list += *list == ',';
    }
    free(token);
    safetensors_close(&f);
    return d;
}

static void truth_free(TruthFile* t) {
    free(t->byte);
    free(t->domain);
    free(t->kind);
    free(t->p);
}

static void dump_free(RoutingFile* d) {
    free(d->loss);
    for (int l = 0; l < d->gates; l++) {
        free(d->gate[l].open);
        free(d->gate[l].k);
        free(d->gate[l].set);
    }
}

// ----------------------------------------------------------------------------
// 1. Loss and floor

typedef struct { double n, loss, floor, squares; } BitsSum; // sums over bytes; squares of loss - floor

static void add_bits(BitsSum* b, double loss, double floor_is) {
    b->n++;
    b->loss += loss;
    b->floor += floor_is;
    b->squares += (loss - floor_is) * (loss - floor_is);
}

static double gap_of(const BitsSum* b, double* error) {
    // returns the mean of loss - floor; out: its standard error
    double gap = (b->loss - b->floor) / b->n, variance = b->squares / b->n - gap * gap;
    *error = variance > 0 ? sqrt(variance / b->n) : 0.0;
    return gap;
}

static void losses(BitsSum* all, BitsSum* seen, const TruthFile* t, const RoutingFile* d) {
    // out: all and seen (domains + 1), the last the total; seen: the line began inside the window, newline before included
    size_t start = 0; // of the line that byte j is in
    for (size_t j = 1; j <= d->n && j < t->n; j++) {
        size_t i = j - 1, window = i / (size_t)d->T * (size_t)d->T;
        if (t->byte[i] == '\n') { start = j; }
        double bits = d->loss[i] / log(2.0), floor_is = -log2(t->p[j]);
        add_bits(&all[t->domain[j]], bits, floor_is);
        add_bits(&all[t->domains], bits, floor_is);
        if (start <= window) { continue; }
        add_bits(&seen[t->domain[j]], bits, floor_is);
        add_bits(&seen[t->domains], bits, floor_is);
    }
}

static int warn_below_floor(const char* name, const char* where, const BitsSum* b) {
    double error = 0.0, gap = b->n > 0 ? gap_of(b, &error) : 0.0;
    if (b->n < MIN_BYTES || gap >= -ERRORS_ALLOWED * error - 1e-5) { return 0; } // 1e-5: what float rounds away
    printf("*** WARNING: %s is %.4f bits per byte BELOW its floor %s, standard error %.4f.\n", name, -gap, where, error);
    printf("*** No model can do that unless it sees what it should predict, or was trained on this very text.\n");
    return 1;
}

static void print_bits(const BitsSum* b, double total) {
    double error = 0.0, gap = b->n > 0 ? gap_of(b, &error) : 0.0;
    if (b->n == 0) { printf(" |      -       -       -        -        -"); return; }
    printf(" | %5.1f%% %7.4f %7.4f %8.4f %8.4f", 100.0 * b->n / total, b->loss / b->n, b->floor / b->n, gap, error);
}

static int print_losses(const TruthFile* t, const RoutingFile* d) {
    // returns the number of warnings
    BitsSum all[MAX_DOMAINS + 1], seen[MAX_DOMAINS + 1];
    memset(all, 0, sizeof(all));
    memset(seen, 0, sizeof(seen));
    losses(all, seen, t, d);
    int D = t->domains, warnings = 0;
    printf("1. Loss and floor in bits per byte: of predicting each byte of the language\n\n");
    printf("%-8s | %-40s | bytes whose line began inside the window\n", "", "all bytes");
    printf("language |  share    loss   floor      gap  +-error |  share    loss   floor      gap  +-error\n");
    for (int l = 0; l <= D; l++) {
        printf("%-8s", t->names[l]);
        print_bits(&all[l], all[D].n);
        print_bits(&seen[l], all[D].n);
        printf("\n");
    }
    printf("\nThe floor knows each line from its start; a window of %d bytes may open inside one. On the right\n", d->T);
    printf("the model sees all that the floor knows. More than %g errors below the floor would be a leak.\n", ERRORS_ALLOWED);
    for (int l = 0; l <= D; l++) {
        warnings += warn_below_floor(t->names[l], "(all bytes)", &all[l]);
        warnings += warn_below_floor(t->names[l], "(line began inside the window)", &seen[l]);
    }
    return warnings;
}

// ----------------------------------------------------------------------------
// 2. What the gates know

typedef struct { uint64_t s; unsigned char x, d; } SeenCell;

static int compare_seen(const void* a, const void* b) {
    const SeenCell *p = (const SeenCell*)a, *q = (const SeenCell*)b;
    if (p->x != q->x) { return p->x < q->x ? -1 : 1; }
    if (p->s != q->s) { return p->s < q->s ? -1 : 1; }
    return (p->d > q->d) - (p->d < q->d);
}

static double information(double* entropy, const uint64_t* s, const unsigned char* d, const unsigned char* x, size_t n) {
    // in: s, d, x (n). Returns I(S; D | X) in bits by the formula above; out: H(D | X) in bits
    static double n_x[256], n_xd[256][256];
    SeenCell* all = (SeenCell*)alloc_zeroed(n, sizeof(SeenCell), "counting");
    double sum = 0.0;
    memset(n_x, 0, sizeof(n_x));
    memset(n_xd, 0, sizeof(n_xd));
    for (size_t i = 0; i < n; i++) {
        all[i].s = s[i];
        all[i].x = x[i];
        all[i].d = d[i];
        n_x[x[i]]++;
        n_xd[x[i]][d[i]]++;
    }
    qsort(all, n, sizeof(SeenCell), compare_seen);
    for (size_t a = 0, b; a < n; a = b) { // a..b: same x and s
        for (b = a; b < n && all[b].x == all[a].x && all[b].s == all[a].s; b++) { }
        for (size_t i = a, j; i < b; i = j) { // i..j: same d too
            for (j = i; j < b && all[j].d == all[i].d; j++) { }
            double xsd = (double)(j - i), xs = (double)(b - a);
            sum += xsd * log2(xsd * n_x[all[a].x] / (xs * n_xd[all[a].x][all[i].d]));
        }
    }
    *entropy = 0.0;
    for (int i = 0; i < 256; i++) {
        for (int j = 0; j < 256; j++) { if (n_xd[i][j] > 0) { *entropy += n_xd[i][j] / (double)n * log2(n_x[i] / n_xd[i][j]); } }
    }
    free(all);
    return n > 0 ? sum / (double)n : 0.0;
}

static void shuffle_within(unsigned char* d, const unsigned char* x, size_t n, uint64_t seed) {
    // d (n) is shuffled among the places with the same x (n): every n(x,d) stays as it is
    size_t* place = (size_t*)alloc_zeroed(n, sizeof(size_t), "shuffling");
    for (int byte = 0; byte < 256; byte++) {
        size_t m = 0;
        for (size_t i = 0; i < n; i++) { if (x[i] == byte) { place[m++] = i; } }
        for (; m > 1; m--) {
            size_t a = place[m - 1], b = place[random_u32(&seed) % m]; // m is small beside 2^32
            unsigned char swap = d[a];
            d[a] = d[b];
            d[b] = swap;
        }
    }
    free(place);
}

static double carried(double* chance, double* entropy, const GateRows* g, const TruthFile* t, size_t n) {
    // returns I(S; D | X) / H(D | X); out: the same with shuffled languages, mean of four; H(D | X) in bits
    unsigned char* shuffled = (unsigned char*)alloc_zeroed(n, 1, "shuffling");
    double shared = information(entropy, g->set, t->domain, t->byte, n), H, sum = 0.0;
    memcpy(shuffled, t->domain, n);
    for (uint64_t seed = 1; seed <= 4; seed++) {
        shuffle_within(shuffled, t->byte, n, seed);
        sum += information(&H, g->set, shuffled, t->byte, n) / 4.0;
    }
    free(shuffled);
    *chance = *entropy > 0 ? sum / *entropy : 0.0;
    return *entropy > 0 ? shared / *entropy : 0.0;
}

static void print_carried(const TruthFile* t, const RoutingFile* d, const RoutingFile* untrained) {
    // untrained: NULL if there is none
    double share, chance, H = 0.0;
    char right[32] = "";
    printf("\n2. How much of the language the gates carry: I(S; D | X) / H(D | X), by counting\n\n");
    printf("      | this model      |%s\n", untrained != NULL ? " untrained" : "");
    printf("layer |  share  chance  |%s\n", untrained != NULL ? "  share  chance" : "");
    for (int l = 0; l < d->gates; l++) {
        if (untrained != NULL) {
            share = carried(&chance, &H, &untrained->gate[l], t, untrained->n);
            snprintf(right, sizeof(right), "  %5.3f  %6.3f", share, chance);
        }
        share = carried(&chance, &H, &d->gate[l], t, d->n);
        printf("%5d |  %5.3f  %6.3f  |%s\n", d->gate[l].id, share, chance, right);
    }
    printf("\nS: the set of experts that a token uses (after the fallback), D: its language, X: its byte.\n");
    printf("1.000: the set tells all that the byte leaves open, here H(D | X) = %.3f bits. Counting makes\n", H);
    printf("I too large by about (cells(x,s,d) - cells(x,s) - cells(x,d) + cells(x)) / (2 n ln 2) bits; chance\n");
    printf("has the languages shuffled among the tokens of the same byte: a gate that knows only the byte.\n");
}

// ----------------------------------------------------------------------------
// 3. Which language uses which expert, and how many

static void print_experts(const TruthFile* t, const RoutingFile* d, const GateRows* g) {
    double count[MAX_DOMAINS] = {0}, uses[MAX_DOMAINS][64] = {{0}};
    int used[64], n_used = 0;
    for (size_t i = 0; i < d->n; i++) {
        count[t->domain[i]]++;
        for (int e = 0; e < g->E; e++) { uses[t->domain[i]][e] += g->open[i * (size_t)g->E + (size_t)e]; }
    }
    for (int e = 0; e < g->E; e++) {
        double any = 0;
        for (int l = 0; l < t->domains; l++) { any += uses[l][e]; }
        if (any > 0) { used[n_used++] = e; }
    }
    printf("\nlayer %d: percent of the language's tokens that use the expert (any use: %d of %d experts)\n", g->id, n_used, g->E);
    for (int from = 0; from < n_used; from += COLUMNS) {
        int to = from + COLUMNS < n_used ? from + COLUMNS : n_used;
        printf("%-8s", "expert");
        for (int c = from; c < to; c++) { printf("%5d", used[c]); }
        printf("\n");
        for (int l = 0; l < t->domains; l++) {
            printf("%-8s", t->names[l]);
            for (int c = from; c < to; c++) {
                if (count[l] > 0) { printf("%5.0f", 100.0 * uses[l][used[c]] / count[l]); } else { printf("    -"); }
            }
            printf("\n");
        }
    }
}

static void print_k(const TruthFile* t, const RoutingFile* d, const GateRows* g) {
    double n[MAX_DOMAINS + 1][KINDS + 1] = {{0}}, k[MAX_DOMAINS + 1][KINDS + 1] = {{0}}; // the last of each: all
    double none[MAX_DOMAINS + 1] = {0};
    for (size_t i = 0; i < d->n; i++) {
        for (int both = 0; both < 2; both++) { // the language and the total
            int l = both ? t->domains : t->domain[i];
            n[l][KINDS]++;
            k[l][KINDS] += g->k[i];
            none[l] += g->k[i] == 0;
            if (i + 1 == t->n) { continue; } // no next byte, no kind
            n[l][t->kind[i + 1]]++;
            k[l][t->kind[i + 1]] += g->k[i];
        }
    }
    printf("\nlayer %d: mean k; by kind of the byte that comes next; k = 0 (then the fallback takes one expert)\n", g->id);
    printf("%-8s %7s %7s %7s %7s %8s\n", "language", "all", "free", "form", "answer", "k = 0");
    for (int l = 0; l <= t->domains; l++) {
        if (n[l][KINDS] == 0) { continue; }
        printf("%-8s %7.3f", t->names[l], k[l][KINDS] / n[l][KINDS]);
        for (int kind = 0; kind < KINDS; kind++) {
            if (n[l][kind] > 0) { printf(" %7.3f", k[l][kind] / n[l][kind]); } else { printf("       -"); }
        }
        printf(" %7.1f%%\n", 100.0 * none[l] / n[l][KINDS]);
    }
}

// ----------------------------------------------------------------------------

static int specialisation_report(const char* truth_path, const char* routing_path, const char* untrained_path) {
    // untrained_path: NULL for none. Returns the number of warnings
    TruthFile t = truth_read(truth_path);
    RoutingFile d = dump_read(routing_path, &t), untrained;
    if (untrained_path != NULL) {
        untrained = dump_read(untrained_path, &t);
        int same = untrained.gates == d.gates;
        for (int l = 0; same && l < d.gates; l++) { same = untrained.gate[l].id == d.gate[l].id; }
        if (!same) { die("dump both with the same flags", "%s has other DynMoE layers than %s", untrained_path, routing_path); }
    }
    printf("%s against %s: %zu of %zu bytes\n\n", routing_path, truth_path, d.n, t.n);
    int warnings = print_losses(&t, &d);
    if (d.gates > 0) {
        print_carried(&t, &d, untrained_path != NULL ? &untrained : NULL);
        printf("\n3. Who uses which expert, by the language of the current byte. For k, the number of experts that a\n");
        printf("token chose, no truth exists: nobody knows how many it should be. Compare several seeds.\n");
    }
    for (int l = 0; l < d.gates; l++) {
        print_experts(&t, &d, &d.gate[l]);
        print_k(&t, &d, &d.gate[l]);
    }
    if (untrained_path != NULL) { dump_free(&untrained); }
    dump_free(&d);
    truth_free(&t);
    if (fflush(stdout) != 0 || ferror(stdout)) { die("is the disk full?", "cannot print the report"); }
    return warnings;
}

#ifdef WITH_MAIN
int main(int argc, char** argv) {
    static const char* usage = "dev/specialisation TRUTH ROUTING [UNTRAINED]: files of data/languages --truth and of "
                               "train_gpt2_dynmoe --dump-routing";
    if (argc == 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        printf("%s\n", usage);
        return 0;
    }
    if (argc < 3 || argc > 4 || argv[1][0] == '-') { die_usage(usage, "two or three files are needed"); }
    specialisation_report(argv[1], argv[2], argc == 4 ? argv[3] : NULL);
    return 0;
}
#endif
