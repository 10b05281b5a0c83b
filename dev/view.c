/*
Writes a page to look at a run with: one file that any browser opens by double click, without a network.

    dev/view OUT [OUT2 ...] [--to FILE] [--truth FILE] [--routing FILE] [--tokenizer vocab.bpe] [--threads N]

    $ dev/view out
    out/view.html: 1 run, 94 kB; open it in a browser

OUT is the folder of a run; the page goes to OUT/view.html of the first. It shows, of each run: loss; experts per layer with the
events of the adaptive process; who has how much load at each step; how each token of the last sample is routed, cosines against
thresholds; which language uses which expert; of a ViT the patches of pictures with their experts. What is read:

    OUT/log.jsonl               must be there. A resumed run repeats steps: the last record of a step counts. Damaged lines, like
                                the last one of a run that is writing it, are left out, and the page says so.
    OUT/model.safetensors       routes the sample again here: token i by the forward over the last T tokens up to it, which is
                                what the trainer went on from when it drew token i + 1. In one thread, as small products gain
                                nothing from more; --threads 0 takes all cores, for a large model
    OUT/routing.safetensors     of --dump-routing, or --routing FILE: which expert each token or patch of the validation data has
    data/languages_val.truth    or --truth FILE; of a ViT data/shapes_val.truth and the pictures that its --val named
What is not there, or not about these data, leaves out its part of the page, which then says what would make it.

A screen has no room for 50,000 records. Of more than 2,000, each of 1,000 stretches keeps its record of lowest loss and that of
highest, so that no spike is lost, and a record stays wherever the number of experts changes. All events stay. Nothing is averaged:
what the page draws are records.

The page is dev/view.html; this program puts the data in place of its one @DATA@. In the data's strings all that could end the
script element that holds them is written as \uXXXX, byte by byte.

Build: make dev/view
*/
#define TESTING // the trainer without its main: its model and its reader of safetensors files are used here
#include "../train_gpt2_dynmoe.c"
#pragma GCC diagnostic ignored "-Wunused-function"
#include "alarms.c" // its reader of records, which a torn line does not stop; not its alarms

enum { VIEW_GONE, VIEW_RUN, VIEW_STEP, VIEW_VAL, VIEW_EVENT, VIEW_SAMPLE, VIEW_END };  // types of records
enum { VIEW_RECORDS = 2000, VIEW_PICTURES = 24, VIEW_ROWS = 16 };                       // most that the page gets
#define VIEW_NUMBERS 240000     // of load and hist, all runs together
#define VIEW_CELLS 400000       // of a sample: tokens * layers * experts
#define VIEW_FLOP 5e11          // that the windows of a sample may take; else only its first T tokens are shown
#define VIEW_BYTES 600000       // of pictures
#define VIEW_PLACE "@DATA@"

typedef struct {
    int type, step, keep, load;         // keep: goes into the page, load: with its loads
    double loss, seconds;               // seconds of training up to it
    uint32_t experts;                   // changes when a layer's number of experts does
    const char* line;
} ViewLine;

typedef struct {
    const char* folder;
    char log[1024], name[512];
    ViewLine* r;
    int n, room, lines, damaged, first_damaged, last_damaged;
    const char *about, *flags;          // the last run record and its flags, or "{}"
    int layers, id[MAX_LAYERS], E;      // of its records; layers -1: none seen yet
} ViewRun;

// ----------------------------------------------------------------------------
// JSON that cannot leave its script element

static void view_byte(FILE* f, unsigned char c) {
    fprintf(f, c < 32 || c > 126 || strchr("\"\\<>&'", c) != NULL ? "\\u%04x" : "%c", c);
}

static void view_text(FILE* f, const char* bytes, size_t n) { // the page puts bytes outside of ASCII together again
    fputc('"', f);
    for (size_t i = 0; i < n; i++) { view_byte(f, (unsigned char)bytes[i]); }
    fputc('"', f);
}

static void view_copy(FILE* f, const char* object, const char* key) { // a string of the log, whose escapes may be any
    const char* p = log_find(object, key);
    fputc('"', f);
    for (p += p != NULL; p != NULL && *p != '"' && *p != '\0'; p++) {
        size_t hex = p[0] == '\\' && p[1] == 'u' ? strspn(p + 2, "0123456789abcdefABCDEF") : 0;
        if (hex >= 4) { fprintf(f, "%.6s", p); p += 5; }
        else if (*p == '\\' && p[1] != '\0' && strchr("\"\\/bfnrt", p[1]) != NULL) { fprintf(f, "%.2s", p++); }
        else { view_byte(f, (unsigned char)*p); }
    }
    fputc('"', f);
}

static void view_number(FILE* f, double x) { if (isfinite(x)) { fprintf(f, "%.6g", x); } else { fprintf(f, "null"); } }

__attribute__((format(printf, 3, 4)))
static void view_why(FILE* f, const ViewRun* run, const char* fmt, ...) { // in place of a part of the page, and on the terminal
    char line[2048];
    va_list args;
    va_start(args, fmt);
    vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    view_text(f, line, strlen(line));
    printf("%s: ", run->name);
    for (char* p = line; *p; p++) { putchar((unsigned char)*p < 32 || *p == 127 ? '?' : *p); }
    printf("\n");
}

// ----------------------------------------------------------------------------
// The log: which records count, and which of them the page gets

static const char* view_next_layer(const char* p) { // from one object of `layers` to the next; NULL behind the last
    p = log_blanks(log_value_end(p, 0));
    p = *p == ',' ? log_blanks(p + 1) : p;
    return *p == '{' ? p : NULL;
}

static const char* view_first_layer(const char* line) { // NULL: no list; or what view_next_layer begins with, or ]
    const char* p = log_find(line, "layers");
    return p != NULL && *p == '[' ? log_blanks(p + 1) : NULL;
}

static int view_layers(ViewRun* run, ViewLine* r) { // has the record the layers and the pool that the first one had?
    const char* p = view_first_layer(r->line);
    int id[MAX_LAYERS] = {0}, E = 0, n = 0;
    float load[MAX_EXPERTS];
    if (p == NULL) { return 0; }
    for (p = *p == '{' ? p : NULL; p != NULL; p = view_next_layer(p), n++) {
        int experts = log_whole(p, "experts", 0, MAX_EXPERTS), pool = log_numbers(p, "load", load, MAX_EXPERTS);
        if (n == MAX_LAYERS || experts < 0 || pool == 0 || (n > 0 && pool != E)) { return 0; }
        id[n] = log_whole(p, "layer", 0, MAX_LAYERS - 1);
        E = pool;
        r->experts = r->experts * 65599u + (uint32_t)experts;
        if (id[n] < 0) { return 0; }
    }
    if (run->layers < 0) {
        run->layers = n;
        run->E = E;
        memcpy(run->id, id, sizeof id);
    }
    return n == run->layers && E == run->E && memcmp(id, run->id, sizeof id) == 0;
}

static void view_forget(ViewRun* run, const ViewLine* r) { // a resumed run came to this step again: what it repeats is gone
    int last = run->n - 1, start = run->n;
    while (last >= 0 && run->r[last].type != VIEW_STEP) { last--; }
    if (last < 0 || run->r[last].step < r->step) { return; }
    while (start > 0 && run->r[start - 1].type != VIEW_RUN) { start--; } // where the run that repeats begins
    for (int i = 0; i < run->n; i++) {
        ViewLine* old = &run->r[i];
        int old_step = old->step + (old->type == VIEW_EVENT); // an event of step s came before the record of s + 1 steps
        if (old->type != VIEW_RUN && old_step >= r->step && (i < start || old->type == VIEW_STEP)) { old->type = VIEW_GONE; }
    }
}

static int view_record(ViewRun* run, const char* line, size_t length) { // returns whether it is a whole record
    static const char* const names[] = {"", "run", "step", "val", "event", "sample", "end"};
    const char* end = log_value_end(line, 0);
    ViewLine r = {0, 0, 0, 0, 0.0, 0.0, 0, line};
    if (*line != '{' || end == NULL || log_blanks(end) != line + length || log_find(line, "type") == NULL) { return 0; }
    r.step = log_whole(line, "step", 0, 2000000000);
    for (int t = VIEW_RUN; t <= VIEW_END; t++) { if (log_is(line, "type", names[t])) { r.type = t; } }
    if (r.type == VIEW_GONE) { return 1; }                                  // of a later version
    if (r.type != VIEW_RUN && r.step < 0) { return 0; }
    if (r.type == VIEW_STEP || r.type == VIEW_VAL) {
        r.loss = log_number(line, "loss", NAN);
        r.seconds = fmax(0.0, log_number(line, "ms", 0.0)) / 1000.0;        // of a step, until view_keep adds them up
        if (!isfinite(r.loss) || !isfinite(r.seconds) || !view_layers(run, &r)) { return 0; }
    }
    if (r.type == VIEW_EVENT && (log_whole(line, "layer", 0, MAX_LAYERS - 1) < 0 ||
                                 log_whole(line, "expert", -1, MAX_EXPERTS - 1) < -1)) { return 0; }
    if (r.type == VIEW_STEP) { view_forget(run, &r); }
    for (int i = run->n - 1; r.type == VIEW_VAL && i >= 0 && run->r[i].step >= r.step; i--) { // the same validation again
        if (run->r[i].type == VIEW_VAL && run->r[i].step == r.step) { run->r[i].type = VIEW_GONE; }
    }
    if (r.type == VIEW_RUN) {
        run->about = line;
        run->flags = log_find(line, "flags");
        run->flags = run->flags != NULL ? run->flags : "{}";
    }
    if (run->n == run->room) {
        run->room = 2 * run->room + 64;
        run->r = (ViewLine*)realloc(run->r, (size_t)run->room * sizeof(ViewLine));
        require(run->r, "free some memory", "no memory for %s", run->log);
    }
    run->r[run->n++] = r;
    return 1;
}

static void view_read(ViewRun* run) { // the log of run->folder; its text stays in memory, where the lines point to
    size_t size;
    snprintf(run->log, sizeof run->log, "%s/log.jsonl", run->folder);
    unsigned char* map = map_file(run->log, &size);
    char* text = (char*)alloc_zeroed(size + 1, 1, "the log");
    memcpy(text, map, size);
    munmap(map, size);
    run->about = run->flags = "{}";
    run->layers = -1;
    for (char *line = text, *end; line < text + size; line = end + 1) {
        end = (char*)memchr(line, '\n', (size_t)(text + size - line));
        end = end != NULL ? end : text + size;
        *end = '\0';
        run->lines++;
        int whole = view_record(run, line, (size_t)(end - line));
        if (whole) { continue; }
        run->first_damaged = run->damaged++ == 0 ? run->lines : run->first_damaged;
        run->last_damaged = run->lines;
        for (char* p = line; !whole && strlen(line) == (size_t)(end - line) && (p = strstr(p + 1, "{\"type\":")) != NULL;) {
            whole = view_record(run, p, (size_t)(end - p)); // what a resumed run wrote behind a torn half, in the same line
        }
    }
    int useful = 0;
    for (int i = 0; i < run->n; i++) { useful += run->r[i].type == VIEW_STEP || run->r[i].type == VIEW_VAL; }
    require(useful > 0, "is it the folder of a run (--out)? wait until training has written its first record",
            "%s: no whole record of a step or a validation in it", run->log);
}

static void view_keep(ViewRun* run, int type, int most, int loads) {
    // marks what goes into the page: up to about `most` records of the type, of which about `loads` keep their loads
    int n = 0, at = 0, kept = 0, before = -1, *which = (int*)alloc_zeroed((size_t)run->n, sizeof(int), "the log");
    double seconds = 0.0;
    for (int i = 0; i < run->n; i++) { if (run->r[i].type == type) { which[n++] = i; } }
    for (int i = 0, step = 0; i < n; step = run->r[which[i++]].step) {
        ViewLine *r = &run->r[which[i]], *old = before >= 0 ? &run->r[before] : r;
        r->seconds = seconds += r->seconds * (r->step - step);
        r->keep = n <= most || i == 0 || i == n - 1 || old->experts != r->experts;
        before = which[i];
    }
    for (int b = 0; n > most && b < most / 2; b++) {
        int end = (int)((double)n * (b + 1) / (most / 2)), low = at, high = at;
        for (; at < end; at++) {
            low = run->r[which[at]].loss < run->r[which[low]].loss ? at : low;
            high = run->r[which[at]].loss > run->r[which[high]].loss ? at : high;
        }
        run->r[which[low]].keep = run->r[which[high]].keep = 1;
    }
    for (int i = 0; i < n; i++) { kept += run->r[which[i]].keep; }
    int every = loads > 0 ? (kept + loads - 1) / loads : 1;
    for (int i = 0, k = 0; i < n; i++) {
        if (run->r[which[i]].keep) { run->r[which[i]].load = k % every == 0 || k == kept - 1; k++; }
    }
    free(which);
}

// ----------------------------------------------------------------------------
// Curves, experts, load

static void view_thousandths(FILE* f, const char* layer, const char* key, int n) { // a list of shares
    float x[MAX_EXPERTS + 1] = {0};
    log_numbers(layer, key, x, n);
    for (int i = 0; i < n; i++) { fprintf(f, "%s%.0f", i > 0 ? "," : "[", (double)fminf(fmaxf(x[i], 0.0f), 1.0f) * 1000.0); }
    fprintf(f, "]");
}

static void view_list(FILE* f, const char* line, const char* key) { // this number of each layer
    const char *p = view_first_layer(line), *comma = "";
    fprintf(f, ",[");
    for (p = *p == '{' ? p : NULL; p != NULL; p = view_next_layer(p), comma = ",") {
        fprintf(f, "%s", comma);
        view_number(f, log_number(p, key, NAN));
    }
    fprintf(f, "]");
}

static void view_steps(FILE* f, const ViewRun* run) { // [step, seconds, loss, norm, lr, speed, experts, k, none, load, hist]
    const char* comma = "";
    fprintf(f, ",\n\"steps\":[");
    for (int i = 0; i < run->n; i++) {
        const ViewLine* r = &run->r[i];
        if (r->type != VIEW_STEP || !r->keep) { continue; }
        const double x[] = {r->seconds, r->loss, log_number(r->line, "norm", NAN), log_number(r->line, "lr", NAN),
                            log_number(r->line, "tok_s", log_number(r->line, "img_s", NAN))};
        fprintf(f, "%s\n[%d", comma, r->step);
        for (int j = 0; j < 5; j++) { fputc(',', f); view_number(f, x[j]); }
        view_list(f, r->line, "experts");
        view_list(f, r->line, "k");
        view_list(f, r->line, "none");
        for (int list = 0; list < 2 && r->load; list++) {
            const char *p = view_first_layer(r->line), *between = ",[";
            if (*p != '{') { fprintf(f, ",["); }
            for (p = *p == '{' ? p : NULL; p != NULL; p = view_next_layer(p), between = ",") {
                fprintf(f, "%s", between);
                view_thousandths(f, p, list == 0 ? "load" : "hist", run->E + list);
            }
            fprintf(f, "]");
        }
        fprintf(f, "]");
        comma = ",";
    }
    fprintf(f, "]");
}

static void view_others(FILE* f, const ViewRun* run) { // val: [step, loss, bits, top1]; events: [step, layer, what, expert, count]
    for (int type = VIEW_VAL; type <= VIEW_EVENT; type++) {
        const char* comma = "";
        fprintf(f, type == VIEW_VAL ? ",\n\"val\":[" : ",\n\"events\":[");
        for (int i = 0; i < run->n; i++) {
            const ViewLine* r = &run->r[i];
            if (r->type != type || (type == VIEW_VAL && !r->keep)) { continue; }
            const char* const keys[2][3] = {{"loss", "bits", "top1"}, {"layer", "expert", "count"}};
            fprintf(f, "%s[%d", comma, r->step);
            for (int k = 0; k < 3; k++) { fputc(',', f); view_number(f, log_number(r->line, keys[type - VIEW_VAL][k], NAN)); }
            if (type == VIEW_EVENT) { fputc(',', f); view_copy(f, r->line, "what"); }
            fprintf(f, "]");
            comma = ",";
        }
        fprintf(f, "]");
    }
}

static void view_about(FILE* f, const ViewRun* run) { // what the run record says, and what is wrong with the log
    static const char* const texts[] = {"program", "commit", "machine", "blas", "dtype"};
    double per = 1.0;
    int vit = log_find(run->flags, "image") != NULL; // a flag of the vision program
    fprintf(f, "{\"name\":");
    view_text(f, run->name, strlen(run->name));
    for (int i = 0; i < 5; i++) {
        fprintf(f, ",\"%s\":", texts[i]);
        view_copy(f, run->about, texts[i]);
    }
    fprintf(f, ",\"router\":");
    view_copy(f, run->flags, "router");
    fprintf(f, ",\"parameters\":");
    view_number(f, log_number(run->about, "parameters", NAN));
    static const char* const sizes[] = {"batch", "accum", "context"};
    for (int i = 0; i < 3 - vit; i++) { per *= log_number(run->flags, sizes[i], NAN); }
    fprintf(f, ",\"vit\":%d,\"per_step\":", vit);
    view_number(f, per);
    fprintf(f, ",\"layers\":[");
    for (int l = 0; l < run->layers; l++) { fprintf(f, l > 0 ? ",%d" : "%d", run->id[l]); }
    fprintf(f, "],\"E\":%d,\"note\":", run->E);
    if (run->damaged == 0) { fprintf(f, "\"\""); return; }
    if (run->damaged == 1 && run->last_damaged == run->lines) {
        view_why(f, run, "the last line of %s is not whole and is left out: is training still writing it?", run->log);
        return;
    }
    view_why(f, run, "%d of %d lines of %s are damaged, the first is line %d; what is not whole is left out", run->damaged,
             run->lines, run->log, run->first_damaged);
}

// ----------------------------------------------------------------------------
// The last sample, token by token

typedef struct { int n, shown, step, *token; } ViewSample; // n tokens, the first is the prompt

static ViewSample view_sample_read(const ViewRun* run, int V) { // n 0: none
    ViewSample s = {0, 0, 0, NULL};
    const char* line = NULL;
    for (int i = 0; i < run->n; i++) { if (run->r[i].type == VIEW_SAMPLE) { line = run->r[i].line; s.step = run->r[i].step; } }
    int room = line != NULL ? (int)strlen(line) / 2 : 0;
    float* x = (float*)alloc_zeroed((size_t)room + 1, sizeof(float), "a sample");
    s.n = line != NULL ? log_numbers(line, "tokens", x, room) : 0;
    s.token = (int*)alloc_zeroed((size_t)s.n + 1, sizeof(int), "a sample");
    s.token[0] = V == 256 ? '\n' : V - 1; // what the trainer's samples go on from, see its continue_text
    for (int i = 0; i < s.n; i++) {
        s.token[i + 1] = (int)x[i];
        if (!(x[i] >= 0.0f && x[i] < (float)V)) { s.n = 0; }
    }
    s.n += s.n > 0;
    free(x);
    return s;
}

static void view_route(float* score, unsigned char* open, int* k, GPT2* model, const ViewSample* s) {
    // score, open (n, layers, E), k (n, layers) of the tokens that are shown
    int T = model->config.T, E = model->config.E;
    for (int i = 0, at = 0, to; i < s->shown; i = to) { // the first T tokens in one forward, then one forward for each
        to = i == 0 && s->shown > T ? T : i == 0 ? s->shown : i + 1;
        int start = to - T > 0 ? to - T : 0;
        gpt2_forward(model, s->token + start, NULL, 1, to - start, 0);
        for (int j = i; j < to; j++) {
            for (int l = 0; l < model->config.L; l++) {
                const Layer* a = &model->layer[l];
                if (!model->config.moe[l]) { continue; }
                k[at] = a->k[j - start];
                for (int e = 0; e < E; e++) {
                    score[at * E + e] = a->score[(j - start) * E + e];
                    open[at * E + e] = (unsigned char)a->open[(j - start) * E + e];
                }
                at++;
            }
        }
    }
}

static void view_sample_print(FILE* f, GPT2* model, const ViewSample* s, const Vocabulary* v, int model_step) {
    const Config* c = &model->config;
    int layers = 0, n = s->shown, E = c->E, m = 0;
    for (int l = 0; l < c->L; l++) { layers += c->moe[l]; }
    float* score = (float*)alloc_zeroed((size_t)n * layers * E, sizeof(float), "the sample");
    unsigned char* open = (unsigned char*)alloc_zeroed((size_t)n * layers * E, 1, "the sample");
    int* k = (int*)alloc_zeroed((size_t)n * layers, sizeof(int), "the sample");
    view_route(score, open, k, model, s);
    fprintf(f, "{\"step\":%d,\"model_step\":%d,\"of\":%d,\"T\":%d,\"router\":\"%s\",\n\"tokens\":[", s->step, model_step, s->n,
            c->T, router_names[c->router]);
    for (int i = 0; i < n; i++) { fprintf(f, i > 0 ? ",%d" : "%d", s->token[i]); }
    fprintf(f, "],\n\"texts\":[");
    for (int i = 0; i < n && (c->V == 256 || v->n > 0); i++) { // without a vocabulary the page shows numbers
        const char byte = (char)s->token[i], *p = c->V == 256 || s->token[i] >= v->n ? &byte : v->bytes + v->at[s->token[i]];
        if (i > 0) { fputc(',', f); }
        view_text(f, p, c->V == 256 ? 1 : s->token[i] < v->n ? v->at[s->token[i] + 1] - v->at[s->token[i]] : 0);
    }
    fprintf(f, "],\"layers\":[");
    for (int l = 0; l < c->L; l++) { // open: a 0 or 1 for each token and expert
        if (!c->moe[l]) { continue; }
        fprintf(f, "%s{\"layer\":%d", m > 0 ? ",\n" : "\n", l);
        for (int e = 0; e < E; e++) { fprintf(f, e > 0 ? ",%d" : ",\"mask\":[%d", model->layer[l].mask[e]); }
        for (int e = 0; e < E; e++) { fprintf(f, e > 0 ? ",%.4f" : "],\"G\":[%.4f", (double)model->params.h[l].gateG[e]); }
        for (int i = 0; i < n; i++) { fprintf(f, i > 0 ? ",%d" : "],\"k\":[%d", k[i * layers + m]); }
        fprintf(f, "],\"open\":\"");
        for (int i = 0; i < n * E; i++) { fputc('0' + open[(i / E * layers + m) * E + i % E], f); }
        fprintf(f, "\",\"score\":[");
        for (int i = 0; i < n * E; i++) {
            fprintf(f, i > 0 ? ",%.4f" : "%.4f", (double)score[(i / E * layers + m) * E + i % E]);
        }
        fprintf(f, "]}");
        m++;
    }
    fprintf(f, "]}");
    free(score); free(open); free(k);
}

static void view_sample(FILE* f, const ViewRun* run, const Settings* flags, const char* tokenizer) {
    static GPT2 model;
    char path[1024], own[1024] = "";
    size_t nothing[2] = {0, 0};
    Vocabulary v = {NULL, nothing, 0};
    uint64_t rng = 1;
    snprintf(path, sizeof path, "%s/model.safetensors", run->folder);
    if (run->layers <= 0) { view_why(f, run, "No sample: in a dense model no token chooses experts."); return; }
    if (access(path, R_OK) != 0) {
        view_why(f, run, "No sample: there is no %s. Training writes it at its end, or with --save-every.", path);
        return;
    }
    SafeFile file = safetensors_open(path);
    const char* kind = safetensors_meta(&file, "model");
    if (kind != NULL && strcmp(kind, "vit") == 0) { fprintf(f, "null"); safetensors_close(&file); return; }
    Config c = config_make(flags, 256, &file);
    ViewSample s = view_sample_read(run, c.V);
    int step = meta_int_or(&file, "step", 0, 2000000000, 0), layers = 0;
    for (int l = 0; l < c.L; l++) { layers += c.moe[l]; }
    if (s.n == 0 || layers == 0) {
        view_why(f, run, layers == 0 ? "No sample: %s has no DynMoE layer." : "No sample: the log has none that fits %s. Training "
                 "draws one at its end, of --generate N tokens.", path);
    } else {
        gpt2_build(&model, c, 1, c.T, 0);
        weights_load(&model, &file, 0, 0.0f, &rng);
        if (c.V != 256 && *tokenizer == '\0') { // the run's own, if it is still there
            const char *p = log_find(run->flags, "tokenizer"), *end = p != NULL ? log_string_end(p) : NULL;
            if (end != NULL && end - p - 2 < (int)sizeof own) { snprintf(own, sizeof own, "%.*s", (int)(end - p - 2), p + 1); }
            tokenizer = access(own, R_OK) == 0 ? own : "";
        }
        if (c.V != 256 && *tokenizer) { v = vocabulary_open(tokenizer); }
        s.shown = s.n * layers * c.E <= VIEW_CELLS ? s.n : VIEW_CELLS / (layers * c.E);
        if (s.shown > c.T && (double)(s.shown - c.T) * c.T * cost_at(&model, 2, 0, 0).flop > VIEW_FLOP) { s.shown = c.T; }
        view_sample_print(f, &model, &s, &v, step);
        if (v.n > 0) { free(v.bytes); free(v.at); }
        gpt2_free(&model);
    }
    free(s.token);
    safetensors_close(&file);
}

// ----------------------------------------------------------------------------
// Which kind of token uses which expert, where the truth about the data is there

static const unsigned char* view_column(const SafeFile* f, const char* name, const char* dtype, size_t rows, size_t* n) {
    // the bytes of a tensor; rows 0: any number. out: n, its first side, or of two sides the second
    const SafeTensor* t = safetensors_find(f, name);
    require(t && strcmp(t->dtype, dtype) == 0 && t->ndim >= 1 && t->ndim <= 2 && t->shape[0] > 0 && (!rows || t->shape[0] == rows),
            "make it again", "%s: no tensor %s of %s, or not of %zu rows", f->path, name, dtype, rows);
    *n = t->shape[t->ndim - 1];
    return t->data;
}

static const unsigned char* view_open(const SafeFile* f, int layer, size_t rows, size_t* E) { // (rows, E) 1: uses the expert
    char name[32];
    snprintf(name, sizeof name, "h.%d.open", layer);
    const unsigned char* open = view_column(f, name, "U8", rows, E);
    require(*E >= 1 && *E <= MAX_EXPERTS, "make it again with --dump-routing", "%s: %s has %zu experts", f->path, name, *E);
    return open;
}

static void view_matrix_print(FILE* f, const SafeFile* routing, const unsigned char* row, size_t n, const char* names, int rows,
                              const char* about) {
    // row (n): the kind of each token; names: of the kinds, with commas between. Cells: thousandths of a kind's tokens
    static Config c;
    double count[VIEW_ROWS] = {0};
    const char* comma = "";
    for (size_t i = 0; i < n; i++) { count[row[i]]++; }
    fprintf(f, "{\"about\":");
    view_text(f, about, strlen(about));
    fprintf(f, ",\"names\":");
    view_text(f, names, strlen(names));
    for (int r = 0; r < rows; r++) { fprintf(f, r > 0 ? ",%.0f" : ",\"count\":[%.0f", count[r]); }
    fprintf(f, "],\"layers\":[");
    memset(&c, 0, sizeof c);
    c.L = MAX_LAYERS;
    config_moe_layers(&c, meta_text(routing, "moe_layers"));
    for (int l = 0; l < c.L; l++) {
        if (!c.moe[l]) { continue; }
        size_t E;
        double used[VIEW_ROWS][MAX_EXPERTS] = {{0}};
        const unsigned char* open = view_open(routing, l, n, &E);
        for (size_t i = 0; i < n; i++) { for (size_t e = 0; e < E; e++) { used[row[i]][e] += open[i * E + e] == 1; } }
        fprintf(f, "%s{\"layer\":%d,\"cells\":[", comma, l);
        for (int r = 0; r < rows; r++) {
            for (size_t e = 0; e < E; e++) {
                fprintf(f, "%s%.0f", e > 0 ? "," : r > 0 ? ",[" : "[", count[r] > 0 ? 1000.0 * used[r][e] / count[r] : 0.0);
            }
            fprintf(f, "]");
        }
        fprintf(f, "]}");
        comma = ",";
    }
    fprintf(f, "]}");
}

static void view_matrix(FILE* f, const ViewRun* run, const SafeFile* routing, int vit, const char* truth) {
    static const char* const usual[] = {"data/languages_val.truth", "data/shapes_val.truth"};
    const char *path = *truth ? truth : usual[vit], *names = "background,edge,inside,CLS token";
    size_t n, bytes;
    char about[1200];
    int rows = 4, fits = 1;
    if (*truth == '\0' && access(path, R_OK) != 0) {
        view_why(f, run, "No domains: there is no %s, the truth about the default data. make %s writes it; --truth FILE names "
                 "another.", path, vit ? "data-vit" : "data");
        return;
    }
    snprintf(about, sizeof about, "%s against %s", routing->path, path);
    if (vit) {
        unsigned char* kind = map_file(path, &bytes);
        size_t T = (size_t)meta_int(routing, "T", 2, 65026);
        view_column(routing, "label", "I32", 0, &n);
        for (size_t i = 0; i < bytes; i++) { fits &= kind[i] < 3; }
        fits &= bytes % (T - 1) == 0 && n <= bytes / (T - 1);
        unsigned char* row = (unsigned char*)alloc_zeroed(n * T, 1, "the truth");
        for (size_t i = 0; fits && i < n * T; i++) { row[i] = i % T == 0 ? 3 : kind[i / T * (T - 1) + i % T - 1]; }
        if (fits) { view_matrix_print(f, routing, row, n * T, names, rows, about); }
        free(row);
        munmap(kind, bytes);
    } else {
        size_t all, same;
        SafeFile file = safetensors_open(path);
        const unsigned char *token = view_column(routing, "token", "I32", 0, &n), *text = view_column(&file, "text", "U8", 0, &all);
        const unsigned char* domain = view_column(&file, "domain", "U8", all, &same);
        names = meta_text(&file, "domains");
        rows = 1;
        for (const char* p = names; *p; p++) { rows += *p == ','; }
        fits = n <= all && rows <= VIEW_ROWS;
        for (size_t i = 0; fits && i < n; i++) {
            int32_t t;
            memcpy(&t, token + 4 * i, 4);
            fits = t == text[i] && domain[i] < rows;
        }
        if (fits) { view_matrix_print(f, routing, domain, n, names, rows, about); }
        safetensors_close(&file);
    }
    if (!fits) { view_why(f, run, "No domains: %s is not about the data of %s. --truth FILE names another.", path, routing->path); }
}

// ----------------------------------------------------------------------------
// Pictures of a ViT, with the experts of their patches

static void view_pictures_print(FILE* f, const SafeFile* routing, const unsigned char* record, size_t skip, int side, size_t n) {
    static Config c;
    size_t T = (size_t)meta_int(routing, "T", 2, 65026), area = 3 * (size_t)side * (size_t)side, all, E;
    size_t shown = VIEW_BYTES / area < VIEW_PICTURES ? VIEW_BYTES / area + 1 : VIEW_PICTURES;
    static const char* const names[] = {"label", "predicted"};
    const char* comma = "";
    shown = shown < n ? shown : n;
    fprintf(f, "{\"side\":%d,\"T\":%zu,\"of\":%zu,\"planes\":[", side, T, n);
    for (size_t i = 0; i < shown; i++) { // red, green, blue as hexadecimal digits
        fprintf(f, i > 0 ? ",\"" : "\"");
        for (size_t b = 0; b < area; b++) { fprintf(f, "%02x", record[i * (area + skip) + skip + b]); }
        fprintf(f, "\"");
    }
    for (int t = 0; t < 2; t++) {
        const unsigned char* data = view_column(routing, names[t], "I32", n, &all);
        fprintf(f, "],\n\"%s\":[", names[t]);
        for (size_t i = 0; i < shown; i++) { int32_t x; memcpy(&x, data + 4 * i, 4); fprintf(f, i > 0 ? ",%d" : "%d", x); }
    }
    fprintf(f, "],\"layers\":[");
    memset(&c, 0, sizeof c);
    c.L = MAX_LAYERS;
    config_moe_layers(&c, meta_text(routing, "moe_layers"));
    for (int l = 0; l < c.L; l++) {
        if (!c.moe[l]) { continue; }
        const unsigned char* open = view_open(routing, l, n * T, &E);
        fprintf(f, "%s{\"layer\":%d,\"E\":%zu,\"open\":\"", comma, l, E);
        for (size_t i = 0; i < shown * T * E; i++) { fputc('0' + (open[i] == 1), f); }
        fprintf(f, "\"}");
        comma = ",";
    }
    fprintf(f, "]}");
}

static void view_pictures(FILE* f, const ViewRun* run, const SafeFile* routing) {
    const char *p = log_find(run->flags, "val"), *end = p != NULL ? log_string_end(p) : NULL;
    char path[1024] = "";
    size_t bytes = 0, n, skip = 0;
    double image = log_number(run->flags, "image", 0.0);
    int side = image >= 1.0 && image <= 1024.0 ? (int)image : 32;
    size_t area = 3 * (size_t)side * (size_t)side;
    const unsigned char* label = view_column(routing, "label", "I32", 0, &n);
    if (end != NULL && end - p - 2 < (int)sizeof path) { snprintf(path, sizeof path, "%.*s", (int)(end - p - 2), p + 1); }
    if (access(path, R_OK) != 0) {
        view_why(f, run, "No pictures: there is no file \"%s\", the --val of the run, seen from here.", path);
        return;
    }
    unsigned char* file = map_file(path, &bytes);
    for (size_t s = 1; s <= 2; s++) { // one or two bytes of label: the one with which the classes are those of the routing
        int same = bytes % (area + s) == 0 && bytes / (area + s) >= n;
        for (size_t i = 0; same && i < n; i++) {
            int32_t x;
            memcpy(&x, label + 4 * i, 4);
            same = x == file[i * (area + s) + s - 1];
        }
        skip = same ? s : skip;
    }
    if (skip > 0) { view_pictures_print(f, routing, file, skip, side, n); }
    else {
        view_why(f, run, "No pictures: those of %s are not those of %s, or not in CIFAR's layout (docs/formats.md).", path,
                 routing->path);
    }
    munmap(file, bytes);
}

static void view_data(FILE* f, const ViewRun* run, const char* routing_path, const char* truth) { // matrix and pictures
    char path[1024];
    snprintf(path, sizeof path, "%s/routing.safetensors", run->folder);
    if (*routing_path) { snprintf(path, sizeof path, "%s", routing_path); }
    fprintf(f, ",\n\"matrix\":");
    if (run->layers <= 0) { fprintf(f, "null,\"pictures\":null"); return; }
    if (access(path, R_OK) != 0) {
        view_why(f, run, "No domains%s: there is no %s. Training with --dump-routing %s writes it, as make train does.",
                 log_find(run->flags, "image") != NULL ? " and pictures" : "", path, path);
        fprintf(f, ",\"pictures\":null");
        return;
    }
    SafeFile routing = safetensors_open(path);
    const char *format = safetensors_meta(&routing, "format"), *model = safetensors_meta(&routing, "model");
    require(format && strcmp(format, "dynmoe-routing 1") == 0, "give what --dump-routing wrote",
            "%s: its format is not \"dynmoe-routing 1\"", path);
    int vit = model != NULL && strcmp(model, "vit") == 0;
    view_matrix(f, run, &routing, vit, truth);
    fprintf(f, ",\n\"pictures\":");
    if (vit) { view_pictures(f, run, &routing); } else { fprintf(f, "null"); }
    safetensors_close(&routing);
}

// ----------------------------------------------------------------------------

static void view_names(ViewRun* run, int n) { // the last part of the folder's name, or all of it where two are the same
    for (int i = 0; i < n; i++) {
        size_t length = strlen(run[i].folder);
        while (length > 1 && run[i].folder[length - 1] == '/') { length--; }
        size_t from = length;
        while (from > 0 && run[i].folder[from - 1] != '/') { from--; }
        snprintf(run[i].name, sizeof run[i].name, "%.*s", (int)(length - from), run[i].folder + from);
        for (int j = 0; j < i; j++) {
            if (strcmp(run[i].name, run[j].name) == 0) { snprintf(run[i].name, sizeof run[i].name, "%s", run[i].folder); }
        }
    }
}

static size_t view_write(const char* page_path, const char* to, const char* data, size_t length) { // returns the size of the page
    size_t size, place = sizeof VIEW_PLACE - 1;
    char temporary[1024];
    unsigned char *page = map_file(page_path, &size), *at = NULL;
    for (size_t i = 0; i + place <= size && at == NULL; i++) { if (memcmp(page + i, VIEW_PLACE, place) == 0) { at = page + i; } }
    require(at, "take dev/view.html of this program's sources", "%s: no %s in it", page_path, VIEW_PLACE);
    FILE* f = file_begin(temporary, to);
    fwrite(page, 1, (size_t)(at - page), f);
    fwrite(data, 1, length, f);
    fwrite(at + place, 1, (size_t)(page + size - at) - place, f);
    file_end(f, temporary, to);
    munmap(page, size);
    return size - place + length;
}

int main(int argc, char** argv) {
    static const char* usage = "dev/view OUT [OUT2 ...] [--to FILE] [--truth FILE] [--routing FILE] [--tokenizer vocab.bpe] "
                               "[--threads N]";
    static const char* const known[] = {"--to", "--truth", "--routing", "--tokenizer", "--threads"};
    const char *value[5] = {"", "", "", "", "1"}, *flags[4] = {argv[0], "--threads", "1", NULL};
    ViewRun* run = (ViewRun*)alloc_zeroed((size_t)argc, sizeof(ViewRun), "runs");
    char to[1024], page[1024], *data = NULL;
    size_t length = 0;
    int n = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) { printf("%s\n", usage); return 0; }
        if (argv[i][0] != '-') { run[n++].folder = argv[i]; continue; }
        int found = -1;
        for (int k = 0; k < 5; k++) { if (strcmp(argv[i], known[k]) == 0) { found = k; } }
        require_usage(found >= 0, usage, "unknown flag %s", argv[i]);
        require_usage(i + 1 < argc, usage, "%s needs a value", argv[i]);
        value[found] = argv[++i];
    }
    require_usage(n > 0, usage, "the folder of a run is missing");
    require_usage(n == 1 || !*value[2], usage, "--routing is for one run, and there are %d", n);
    require_usage(snprintf(to, sizeof to, "%s/view.html", run[0].folder) < 1000 && strlen(value[0]) < 1000, usage,
                  "the name of a file is too long");
    snprintf(page, sizeof page, "%s.html", argv[0]); // the page's own source lies beside this program
    flags[2] = value[4];
    Settings s = flags_read(3, flags);
    s.eval_only = 1; // the layers are those of the file
    threads_set(s.threads);
    view_names(run, n);
    FILE* f = open_memstream(&data, &length);
    fprintf(f, "{\"version\":1,\"runs\":[\n");
    for (int i = 0; i < n; i++) {
        view_read(&run[i]);
        int layers = run[i].layers > 0 ? run[i].layers : 1, numbers = layers * (2 * run[i].E + 1);
        view_keep(&run[i], VIEW_STEP, layers > 16 ? 16 * VIEW_RECORDS / layers : VIEW_RECORDS, VIEW_NUMBERS / n / numbers + 1);
        view_keep(&run[i], VIEW_VAL, VIEW_RECORDS, 0);
        if (i > 0) { fprintf(f, ",\n"); }
        view_about(f, &run[i]);
        view_steps(f, &run[i]);
        view_others(f, &run[i]);
        fprintf(f, ",\n\"sample\":");
        view_sample(f, &run[i], &s, value[3]);
        view_data(f, &run[i], value[2], value[1]);
        fprintf(f, "}");
    }
    fprintf(f, "]}\n");
    require(fclose(f) == 0, "free some memory", "no memory for the page");
    size_t size = view_write(page, *value[0] ? value[0] : to, data, length);
    printf("%s: %d run%s, %zu kB; open it in a browser\n", *value[0] ? value[0] : to, n, n > 1 ? "s" : "", size / 1000);
    require(fflush(stdout) == 0 && !ferror(stdout), "is the disk full?", "cannot print what was written");
    return 0;
}
