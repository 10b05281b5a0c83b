/*
Did the routing of a run stay healthy? Reads its log and prints one line for each thing that went wrong, and a flag to try.

    dev/alarms OUT/log.jsonl

    $ ./train_gpt2_dynmoe --data data/languages_train.txt --layers 2 --channels 64 --context 32 --log-every 20 --window 50 \
          --period 150 --steps 300 --warmup 1 --lr 0.05 --threads 1 --out out_bad
    $ dev/alarms out_bad/log.jsonl
    layer 0, steps 21-40: threshold out of range 2: G 0.1629, cosines -0.7741 to -0.4825, closed to all; try a smaller --lr
    layer 0, steps 21-40: threshold out of range 3: G -0.2374, cosines 0.0263 to 0.5533, open to all; try a smaller --lr
    layer 0, steps 21-100: dead expert 0: no token used it; the adaptive process removed it after step 100
    ...
    5 alarms in 16 records of training, up to step 300

Looked at are the records of training (`step`), not of validation, where the fallback hides what happens, and not that of step 1.
Alarms, of a layer or of an active expert:

    dense collapse           mean k above 90% of the active experts, three records in a row
    empty collapse           more than half of the tokens have no expert
    dead expert              no token uses it, three records in a row
    always-on expert         more than 99% of the tokens use it, three records in a row
    threshold out of range   G is outside of the expert's cosines since the record before: it is closed, or open, to every token
    tokens without expert    more than 5% of them, in the last record
    loss not falling         its mean over the last quarter of the records is not below that over the quarter before

The log does not say which slots of the pool are active, only how many. So this program follows them, because a free slot has no
load either and is not dead. A run starts with the first --start-experts slots; `event` records add and remove; a slot with load
is active, and one whose first event is an add was free. If what is known does not fit the number (a run that continues from
another folder, a lost record), no expert is called dead by name, only their number: "free slots not known". A resumed run repeats
steps: the last record of a step counts. Several stretches of one alarm are one line, "(2 times)", from the first to the last.

Alarms are advice: the exit code is 0 with and without them, 1 if the file cannot be read, 2 for a wrong command line.

Build: make dev/alarms
*/
#ifndef TESTING // test/test_tools.c has the program in it already, and a main of its own
#define TESTING
#define WITH_MAIN
#include "../train_gpt2_dynmoe.c"
#endif

enum { ALARM_DENSE, ALARM_EMPTY, ALARM_DEAD, ALARM_ALL, ALARM_RANGE, ALARM_NONE, ALARM_LOSS }; // kinds, as listed above
enum { LOG_GONE, LOG_RUN, LOG_STEP, LOG_EVENT };        // types of records that are kept; gone: its step was repeated
enum { SLOT_UNKNOWN, SLOT_ACTIVE, SLOT_FREE };
static const int alarm_logs[] = {3, 1, 3, 3, 1, 1, 1};  // records in a row that make one
#define ALARM_DENSE_SHARE 0.9
#define ALARM_EMPTY_SHARE 0.5
#define ALARM_ALL_SHARE 0.99
#define ALARM_NONE_SHARE 0.05
#define ALARM_MIN_LOSSES 8                              // fewer records say nothing about the loss
#define UNNAMED MAX_EXPERTS                             // in place of an expert: some expert, the log does not say which

typedef struct { // one object of `layers`; scores: G, low and high are there; one_k: all tokens have the same k
    int layer, experts, E, scores, one_k;
    double k, none;
    float *load, *G, *low, *high; // (E) each, one allocation
} LayerLog;

typedef struct {
    int type, step, n;      // n layers
    double loss;
    LayerLog* layer;
    int where, expert, add; // an event: its layer, its expert, 1 for add and 0 for remove
    char* line;             // a run: the record itself
} LogRecord;

typedef struct {
    const char* path;
    LogRecord* r;
    int n, steps, lines, damaged, first_damaged; // records kept; step records that count; of the file
    const char* flags;      // of the last run record, an object; or "{}"
} Log;

typedef struct { // of one kind, layer and expert: steps from..to, not always if times > 1; removed: the step of that, or -1
    int kind, layer, expert, from, to, times, at_end, removed;
    char value[96];         // in the last record of it
} Alarm;
typedef struct { Alarm* a; int n; } Alarms;

// ----------------------------------------------------------------------------
// JSON, of which a log may hold a torn half: nothing here stops the program. Texts end with 0.

static const char* log_blanks(const char* p) { return p + strspn(p, " \t\r\n"); }

static const char* log_string_end(const char* p) { // behind the string that begins at p, or NULL
    if (*p++ != '"') { return NULL; }
    while (*p != '"' && *p != '\0') { p += *p == '\\' && p[1] != '\0' ? 2 : 1; }
    return *p == '"' ? p + 1 : NULL;
}

static const char* log_value_end(const char* p, int depth) { // behind the value that begins at p, or NULL if there is no whole one
    char close = *p == '{' ? '}' : ']';
    if (*p == '"') { return log_string_end(p); }
    if (*p != '{' && *p != '[') {
        size_t n = strspn(p, "+-.0123456789abcdefghijklmnopqrstuvwxyzEIN"); // numbers, true, false, null, nan
        return n > 0 ? p + n : NULL;
    }
    for (int first = 1; depth < 8; first = 0) {
        p = log_blanks(p + 1); // after { or [ or a comma
        if (first && *p == close) { return p + 1; }
        if (close == '}') {
            if ((p = log_string_end(p)) == NULL || *(p = log_blanks(p)) != ':') { return NULL; }
            p = log_blanks(p + 1);
        }
        if ((p = log_value_end(p, depth + 1)) == NULL) { return NULL; }
        p = log_blanks(p);
        if (*p == close) { return p + 1; }
        if (*p != ',') { return NULL; }
    }
    return NULL;
}

static const char* log_find(const char* object, const char* key) { // the value of key in a whole object, or NULL
    size_t n = strlen(key);
    if (object == NULL || *object != '{') { return NULL; }
    for (const char* p = log_blanks(object + 1); *p == '"'; p = log_blanks(p + 1)) {
        const char *name = p + 1, *end = log_string_end(p);
        p = log_blanks(log_blanks(end) + 1);
        if ((size_t)(end - name) == n + 1 && strncmp(name, key, n) == 0) { return p; }
        p = log_blanks(log_value_end(p, 0));
        if (*p != ',') { return NULL; }
    }
    return NULL;
}

static int log_is(const char* object, const char* key, const char* text) { // is it this text?
    const char* p = log_find(object, key);
    size_t n = strlen(text);
    return p != NULL && *p == '"' && strncmp(p + 1, text, n) == 0 && p[n + 1] == '"';
}

static double log_number(const char* object, const char* key, double absent) { // a number, or a text that holds one, as flags do
    const char* p = log_find(object, key);
    char* end;
    if (p == NULL) { return absent; }
    p += *p == '"';
    double x = strtod(p, &end);
    return end != p ? x : absent;
}

static int log_whole(const char* object, const char* key, int low, int high) { // a whole number in the range, or INT32_MIN
    double x = log_number(object, key, -1e18);
    return x >= low && x <= high && x == floor(x) ? (int)x : INT32_MIN;
}

static int log_numbers(const char* object, const char* key, float* out, int room) { // how many, 0 if it is no list of numbers
    const char* p = log_find(object, key);
    int n = 0;
    if (p == NULL || *p != '[') { return 0; }
    for (p = log_blanks(p + 1); *p != ']'; n++) {
        char* end;
        float x = strtof(p, &end);
        if (end == p || n == room) { return 0; }
        out[n] = x;
        p = log_blanks(end);
        p = *p == ',' ? log_blanks(p + 1) : p;
    }
    return n;
}

// ----------------------------------------------------------------------------
// Reading the log

static int log_layer(LayerLog* a, const char* object) { // returns whether it has what we need
    float list[4][MAX_EXPERTS + 1], hist[MAX_EXPERTS + 1];
    static const char* const names[] = {"load", "G", "low", "high"};
    a->layer = log_whole(object, "layer", 0, MAX_LAYERS - 1);
    a->experts = log_whole(object, "experts", 0, MAX_EXPERTS);
    a->k = log_number(object, "k", NAN);
    a->none = log_number(object, "none", NAN);
    a->E = log_numbers(object, "load", list[0], MAX_EXPERTS);
    a->scores = 1;
    for (int i = 1; i < 4; i++) { a->scores &= log_numbers(object, names[i], list[i], MAX_EXPERTS) == a->E; }
    int n = log_numbers(object, "hist", hist, MAX_EXPERTS + 1);
    for (int i = 0; i < n; i++) { a->one_k |= hist[i] > 0.99999f; }
    if (a->layer < 0 || a->experts < 0 || a->E == 0 || !isfinite(a->k) || !isfinite(a->none)) { return 0; }
    a->load = (float*)alloc_zeroed(4 * (size_t)a->E, sizeof(float), "the log");
    a->G = a->load + a->E;
    a->low = a->G + a->E;
    a->high = a->low + a->E;
    for (int i = 0; i < (a->scores ? 4 : 1); i++) { memcpy(a->load + i * a->E, list[i], (size_t)a->E * sizeof(float)); }
    return 1;
}

static int log_record(LogRecord* r, const char* line, size_t length) { // 0: no whole record; 1: one to keep; 2: another one
    const char *end = log_value_end(line, 0), *layers;
    memset(r, 0, sizeof *r);
    if (*line != '{' || end == NULL || log_blanks(end) != line + length || log_find(line, "type") == NULL) { return 0; }
    r->step = log_whole(line, "step", 0, 2000000000);
    if (log_is(line, "type", "run")) {
        r->type = LOG_RUN;
        r->line = (char*)alloc_zeroed(length + 1, 1, "the log");
        memcpy(r->line, line, length);
        return 1;
    }
    if (log_is(line, "type", "event")) {
        r->type = LOG_EVENT;
        r->where = log_whole(line, "layer", 0, MAX_LAYERS - 1);
        r->expert = log_whole(line, "expert", -1, MAX_EXPERTS - 1);
        r->add = log_is(line, "what", "add");
        if (r->step < 0 || r->where < 0 || r->expert < -1) { return 0; }
        return r->expert >= 0 && (r->add || log_is(line, "what", "remove")) ? 1 : 2; // not of a full pool
    }
    if (!log_is(line, "type", "step")) { return 2; }
    r->type = LOG_STEP;
    r->loss = log_number(line, "loss", NAN);
    layers = log_find(line, "layers");
    if (r->step < 0 || layers == NULL || *layers != '[') { return 0; }
    r->layer = (LayerLog*)alloc_zeroed(MAX_LAYERS, sizeof(LayerLog), "the log");
    for (const char* p = log_blanks(layers + 1); *p == '{' && r->n < MAX_LAYERS; p = log_blanks(p + 1)) {
        if (!log_layer(&r->layer[r->n], p)) { return 0; }
        r->n++;
        p = log_blanks(log_value_end(p, 0));
        if (*p != ',') { break; }
    }
    r->layer = (LayerLog*)realloc(r->layer, (size_t)(r->n + 1) * sizeof(LayerLog));
    return 1;
}

static Log log_read(const char* path) {
    Log log = {path, NULL, 0, 0, 0, 0, 0, "{}"};
    size_t size, room = 0;
    int whole = 0;
    unsigned char* map = map_file(path, &size);
    char* line = (char*)alloc_zeroed(size + 1, 1, "the log");
    for (size_t at = 0, length; at < size; at += length + 1) {
        const unsigned char* newline = (const unsigned char*)memchr(map + at, '\n', size - at);
        length = newline != NULL ? (size_t)(newline - map) - at : size - at;
        memcpy(line, map + at, length);
        line[length] = '\0';
        if ((size_t)log.n == room) {
            room = 2 * room + 64;
            log.r = (LogRecord*)realloc(log.r, room * sizeof(LogRecord));
            require(log.r, "free some memory", "no memory for %s", path);
        }
        log.lines++;
        int kept = log_record(&log.r[log.n], line, length);
        if (kept == 0) { // torn; what a resumed run wrote behind it, in the same line, counts
            log.first_damaged = log.damaged++ == 0 ? log.lines : log.first_damaged;
            const char* p = line;
            while (kept == 0 && strlen(line) == length && (p = strstr(p + 1, "{\"type\":")) != NULL) {
                kept = log_record(&log.r[log.n], p, length - (size_t)(p - line));
            }
        }
        whole += kept > 0;
        log.n += kept == 1;
    }
    free(line);
    munmap(map, size);
    require(whole > 0, "give OUT/log.jsonl, the log of a run", "%s: no record of a run in it", path);
    for (int i = 0, step = -1; i < log.n; i++) { // what was repeated goes
        if (log.r[i].type == LOG_RUN) { log.flags = log_find(log.r[i].line, "flags"); log.flags = log.flags ? log.flags : "{}"; }
        if (log.r[i].type != LOG_STEP) { continue; }
        for (int j = i - 1; j >= 0 && log.r[i].step <= step; j--) {
            if (log.r[j].type == LOG_STEP && log.r[j].step >= log.r[i].step) { log.r[j].type = LOG_GONE; log.steps--; }
            if (log.r[j].type == LOG_STEP) { break; }
        }
        step = log.r[i].step;
        log.steps++;
    }
    return log;
}

// ----------------------------------------------------------------------------
// Which slots are active?

static const LayerLog* log_layer_of(const LogRecord* r, int layer) {
    for (int i = 0; i < r->n; i++) { if (r->layer[i].layer == layer) { return &r->layer[i]; } }
    return NULL;
}

static int slots_count(const int* slot, int E, int what) {
    int n = 0;
    for (int e = 0; e < E; e++) { n += slot[e] == what; }
    return n;
}

static void slots_start(int* slot, const Log* log, int run, int layer) {
    // slot (MAX_EXPERTS): at the end of the run before -> at the start of the run whose record is at `run` (-1: none is there)
    // Surest first: the run's own events and loads, then how many there must be, then what a fresh run starts with, or the end of
    // the run before.
    int known[MAX_EXPERTS] = {0}, must = -1, E = 0;
    const char* flags = run < 0 ? NULL : log_find(log->r[run].line, "flags");
    int fresh = flags != NULL && log_is(flags, "resume", "") && log_is(flags, "init", "");
    for (int i = run + 1; i < log->n && log->r[i].type != LOG_RUN; i++) {
        const LogRecord* r = &log->r[i];
        const LayerLog* a = r->type == LOG_EVENT ? NULL : log_layer_of(r, layer);
        if (r->type == LOG_EVENT && r->where == layer && known[r->expert] == SLOT_UNKNOWN) {
            known[r->expert] = r->add ? SLOT_FREE : SLOT_ACTIVE;
        }
        if (a == NULL) { continue; }
        for (int e = 0; e < a->E; e++) { if (a->load[e] > 0.0f && known[e] == SLOT_UNKNOWN) { known[e] = SLOT_ACTIVE; } }
        if (must >= 0) { continue; }
        must = a->experts; // of the first record; it knows of events before its last step
        E = a->E;
        for (int j = run + 1; j < i; j++) {
            const LogRecord* event = &log->r[j];
            int counts = event->type == LOG_EVENT && event->where == layer && event->step + 1 < r->step;
            must -= !counts ? 0 : event->add ? 1 : -1;
        }
    }
    int start = log_is(flags, "router", "top-any") ? (int)log_number(flags, "start_experts", 0.0) : E;
    int all = slots_count(known, E, SLOT_ACTIVE) + slots_count(known, E, SLOT_UNKNOWN) == must;
    for (int e = 0; e < E; e++) {
        int guess = all ? SLOT_ACTIVE : !fresh ? slot[e] : e < start ? SLOT_ACTIVE : SLOT_FREE;
        slot[e] = known[e] != SLOT_UNKNOWN ? known[e] : guess;
    }
}

// ----------------------------------------------------------------------------
// Finding alarms

typedef struct { int from, to, logs; char value[96]; } Streak;
typedef struct { // what is known of one layer while the records pass by
    const Log* log;
    Alarms* alarms;
    int layer, before, seen;                                // step of the record before; records so far, without that of step 1
    int slot[MAX_EXPERTS], fresh[MAX_EXPERTS];              // fresh: added after the record before
    Streak streak[ALARM_LOSS][MAX_EXPERTS + 1];             // by kind and expert; 0 for the whole layer
} Watch;

static void alarm_add(Alarms* all, const Alarm* a) { // one more, or the same again
    for (int i = 0; i < all->n; i++) {
        Alarm* b = &all->a[i];
        if (a->kind != b->kind || a->layer != b->layer || a->expert != b->expert) { continue; }
        int from = b->from, times = b->times + 1;
        *b = *a;
        b->from = from;
        b->times = times;
        return;
    }
    all->a = (Alarm*)realloc(all->a, (size_t)(all->n + 1) * sizeof(Alarm));
    require(all->a, "free some memory", "no memory for %d alarms", all->n + 1);
    all->a[all->n++] = *a;
}

static void streak_end(Watch* w, int kind, int expert, int at_end, int removed) { // removed: step of that, or -1
    Streak* s = &w->streak[kind][expert];
    if (s->logs >= alarm_logs[kind]) {
        Alarm a = {kind, w->layer, expert, s->from, s->to, 1, at_end, removed, ""};
        memcpy(a.value, s->value, sizeof a.value);
        alarm_add(w->alarms, &a);
    }
    s->logs = 0;
}

__attribute__((format(printf, 6, 7)))
static void streak_add(Watch* w, int kind, int expert, int holds, int step, const char* value, ...) {
    Streak* s = &w->streak[kind][expert];
    va_list args;
    if (!holds) { streak_end(w, kind, expert, 0, -1); return; }
    if (s->logs++ == 0) { s->from = w->before > 0 || step <= 1 ? w->before + 1 : step; } // a log may begin anywhere
    s->to = step;
    va_start(args, value);
    vsnprintf(s->value, sizeof s->value, value, args);
    va_end(args);
}

static void watch_experts(Watch* w, const LayerLog* a, int step, int thresholds, int all_by_flag) {
    int used = 0, sure = slots_count(w->slot, a->E, SLOT_ACTIVE) == a->experts, changed = 0;
    for (int e = 0; e < a->E; e++) { used += a->load[e] > 0.0f; changed |= w->fresh[e]; }
    for (int e = 0; e < a->E; e++) {
        int active = w->slot[e] == SLOT_ACTIVE && !w->fresh[e], closed = a->G[e] > a->high[e];
        streak_add(w, ALARM_DEAD, e, sure && active && a->load[e] <= 0.0f, step, "no token used it");
        streak_add(w, ALARM_ALL, e, active && a->load[e] > (float)ALARM_ALL_SHARE && a->experts > 1 && !all_by_flag, step,
                   "more than %g%% of the tokens used it", 100.0 * ALARM_ALL_SHARE);
        streak_add(w, ALARM_RANGE, e, active && thresholds && a->E > 1 && (closed || a->G[e] < a->low[e]), step,
                   "G %.4f, cosines %.4f to %.4f, %s to all", a->G[e], a->low[e], a->high[e],
                   closed ? "closed" : "open");
    }
    streak_add(w, ALARM_DEAD, UNNAMED, !sure && !changed && a->experts > used, step,
               "%d active experts, %d with tokens, free slots not known", a->experts, used);
}

static void watch_record(Watch* w, const LogRecord* r) { // a step record
    const LayerLog* a = log_layer_of(r, w->layer);
    if (a != NULL && r->step > 1) { // step 1: one batch, before anything was learned
        const char* flags = w->log->flags;
        int cosines = 0; // p of a softmax router is never negative, and its G stays 0
        for (int e = 0; e < a->E; e++) { cosines |= a->scores && (a->low[e] < 0.0f || a->G[e] != 0.0f); }
        int by_flag = !cosines && a->one_k && !log_is(flags, "router", "top-p") && !log_is(flags, "router", "top-any");
        w->seen++;
        streak_add(w, ALARM_DENSE, 0, a->k > ALARM_DENSE_SHARE * a->experts && a->E > 1 && !by_flag, r->step,
                   "mean k %.2f of %d active experts", a->k, a->experts);
        streak_add(w, ALARM_EMPTY, 0, a->none > ALARM_EMPTY_SHARE, r->step, "%.1f%% of the tokens have no expert",
                   100.0 * a->none);
        watch_experts(w, a, r->step, cosines, by_flag && a->k > a->experts - 0.001);
        w->streak[ALARM_NONE][0].logs = 0; // only the last record matters
        streak_add(w, ALARM_NONE, 0, w->seen >= 3 && a->none > ALARM_NONE_SHARE && a->none <= ALARM_EMPTY_SHARE, r->step,
                   "%.1f%% of the tokens have no expert", 100.0 * a->none);
    }
    memset(w->fresh, 0, sizeof w->fresh);
    w->before = r->step;
}

static void watch_event(Watch* w, const LogRecord* r) {
    int e = r->expert, removed = r->add ? -1 : r->step;
    if (!r->add) { for (int kind = ALARM_DEAD; kind <= ALARM_RANGE; kind++) { streak_end(w, kind, e, 0, removed); } }
    w->slot[e] = r->add ? SLOT_ACTIVE : SLOT_FREE;
    w->fresh[e] = r->add && r->step + 1 > w->before;
}

static void watch_layer(Alarms* alarms, const Log* log, int layer) {
    // An event of step s (steps count from 0) comes after the forward of that step; the record of step n, of n steps, was made
    // with what the forward of step n - 1 saw.
    static Watch w;
    int done = 0; // events before this record are done
    memset(&w, 0, sizeof w);
    w.log = log;
    w.alarms = alarms;
    w.layer = layer;
    if (log->r[0].type != LOG_RUN) { slots_start(w.slot, log, -1, layer); }
    for (int i = 0; i < log->n; i++) {
        const LogRecord* r = &log->r[i];
        if (r->type != LOG_RUN && r->type != LOG_STEP) { continue; }
        for (; done < i; done++) {
            const LogRecord* event = &log->r[done];
            if (event->type != LOG_EVENT || event->where != layer) { continue; }
            if (r->type == LOG_STEP && event->step + 1 >= r->step) { break; }
            watch_event(&w, event);
        }
        if (r->type == LOG_RUN) { slots_start(w.slot, log, i, layer); } else { watch_record(&w, r); }
    }
    for (int kind = 0; kind < ALARM_LOSS; kind++) { for (int e = 0; e <= MAX_EXPERTS; e++) { streak_end(&w, kind, e, 1, -1); } }
}

static void watch_loss(Alarms* alarms, const Log* log) {
    int n = 0, quarter, last = 0, from = 0;
    double sum[2] = {0.0, 0.0}; // of the last quarter of the records, of the quarter before
    for (int i = 0; i < log->n; i++) { n += log->r[i].type == LOG_STEP && log->r[i].step > 1; }
    quarter = n / 4;
    if (n < ALARM_MIN_LOSSES) { return; }
    for (int i = log->n - 1, seen = 0; i >= 0 && seen < 2 * quarter; i--) {
        if (log->r[i].type != LOG_STEP || log->r[i].step <= 1) { continue; }
        last = seen == 0 ? log->r[i].step : last;
        from = seen < quarter ? log->r[i].step : from;
        sum[seen++ / quarter] += log->r[i].loss / quarter;
    }
    if (sum[0] < sum[1]) { return; }
    Alarm a = {ALARM_LOSS, -1, 0, from, last, 1, 1, -1, ""};
    snprintf(a.value, sizeof a.value, "mean %.4f nats over these records, %.4f over the %d before", sum[0], sum[1], quarter);
    alarm_add(alarms, &a);
}

// ----------------------------------------------------------------------------
// Printing

static const char* alarm_advice(const Alarm* a, const char* flags) { // of an alarm that nothing has cured
    int softmax = log_find(flags, "router") != NULL && !log_is(flags, "router", "top-any");
    int closing = log_number(flags, "aux_efficiency", 0.0) > 0.0 || log_number(flags, "aux_balance", 0.0) > 0.0;
    int detached = log_is(flags, "kgrad", "detached"), adapts = log_number(flags, "period", 300.0) > 0.0;
    switch (a->kind) {
    case ALARM_DENSE:
        return softmax ? "a smaller --topp" : detached ? "--kgrad normalised" : "--aux-efficiency 0.001 (0.01 may close all gates)";
    case ALARM_EMPTY:
        return closing ? "--aux-efficiency 0 --aux-balance 0" : detached ? "--kgrad normalised" : adapts ? "--train-fallback 1" :
               "--period 300";
    case ALARM_DEAD:
        return softmax ? "a larger --aux-balance" : adapts ? "a larger --adapt-stop, or a shorter --period" :
               "--period 300, which removes it";
    case ALARM_ALL:
        return softmax ? "a larger --aux-balance" : "--shared-experts 1, or --aux-balance 0.001";
    case ALARM_RANGE:
        return log_number(flags, "threshold", 0.0) != 0.0 ? "--threshold 0" : log_number(flags, "unit_norm", 1.0) == 0.0 ?
               "--unit-norm 1" : "a smaller --lr";
    case ALARM_NONE:
        return closing ? "--aux-efficiency 0 --aux-balance 0" : log_number(flags, "train_fallback", 0.0) == 0.0 ?
               "--train-fallback 1, or a larger --adapt-stop" : "a larger --adapt-stop";
    default:
        return "a smaller --lr, or fewer --steps if it has learned all it can";
    }
}

static int alarm_same(const Alarm* a, const Alarm* b) { // experts of one line
    return a->kind == b->kind && (a->kind == ALARM_DEAD || a->kind == ALARM_ALL) && a->layer == b->layer && a->from == b->from &&
           a->to == b->to && a->times == b->times && a->removed == b->removed && a->expert != UNNAMED && b->expert != UNNAMED;
}

static int alarms_print(const Alarms* all, const Log* log) { // returns the number of lines
    static const char* const names[] = {"dense collapse", "empty collapse", "dead expert", "always-on expert",
                                        "threshold out of range", "tokens without expert", "loss not falling"};
    int lines = 0;
    for (int i = 0; i < all->n; i++) {
        const Alarm* a = &all->a[i];
        int printed = 0;
        for (int j = 0; j < i; j++) { printed |= alarm_same(&all->a[j], a); }
        if (printed) { continue; }
        if (a->layer >= 0) { printf("layer %d, ", a->layer); }
        printf("steps %d-%d", a->from, a->to);
        if (a->times > 1) { printf(" (%d times)", a->times); }
        printf("%s: %s", a->at_end ? ", to the end" : "", names[a->kind]);
        for (int j = i; j < all->n && a->kind >= ALARM_DEAD && a->kind <= ALARM_RANGE && a->expert != UNNAMED; j++) {
            if (j == i || alarm_same(&all->a[j], a)) { printf(" %d", all->a[j].expert); }
        }
        printf(": %s; ", a->value);
        if (a->removed >= 0) { printf("the adaptive process removed it after step %d\n", a->removed); }
        else { printf("try %s\n", alarm_advice(a, log->flags)); }
        lines++;
    }
    return lines;
}

static int alarms_run(int argc, char** argv) {
    static const char* usage = "dev/alarms OUT/log.jsonl";
    if (argc == 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) { printf("%s\n", usage); return 0; }
    require_usage(argc == 2 && argv[1][0] != '-', usage, argc == 2 ? "unknown flag %s" : "one log is needed", argv[argc - 1]);
    Log log = log_read(argv[1]);
    Alarms alarms = {NULL, 0};
    int present[MAX_LAYERS] = {0}, last = 0;
    for (int i = 0; i < log.n; i++) {
        for (int l = 0; l < log.r[i].n; l++) { present[log.r[i].layer[l].layer] = 1; }
        last = log.r[i].type == LOG_STEP ? log.r[i].step : last;
    }
    if (log.damaged > 0) {
        printf("note: %s: %d of %d lines torn, the first is line %d; what is not whole is left out\n", log.path, log.damaged,
               log.lines, log.first_damaged);
    }
    for (int l = 0; l < MAX_LAYERS; l++) { if (present[l]) { watch_layer(&alarms, &log, l); } }
    watch_loss(&alarms, &log);
    int lines = alarms_print(&alarms, &log);
    if (lines > 0) { printf("%d alarm%s in %d records", lines, lines > 1 ? "s" : "", log.steps); }
    else { printf("no alarm in %d records", log.steps); }
    printf(" of training, up to step %d\n", last);
    for (int i = 0; i < log.n; i++) {
        for (int l = 0; l < log.r[i].n; l++) { free(log.r[i].layer[l].load); }
        free(log.r[i].layer);
        free(log.r[i].line);
    }
    free(log.r);
    free(alarms.a);
    require(fflush(stdout) == 0 && !ferror(stdout), "is the disk full?", "cannot print the alarms");
    return 0;
}

#ifdef WITH_MAIN
int main(int argc, char** argv) { return alarms_run(argc, argv); }
#endif
