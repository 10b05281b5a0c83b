// Grades assignment 3, the adaptive process. What should happen is simulated here once more; a model of 3 layers, two of them
// with experts, shows that nothing else moves, and that a run which was saved and loaded goes on with the same bits. See grade.h.
#include "grade.h"
#define TESTING
#include SRC

enum { V_RARE = 1, V_HIGHEST = 2, V_UNIT = 3 }; // test/variants/a3.*.sed

// ---- a3.q1 ---------------------------------------------------------------------------------------------------------------

GRADE(record_random) { // two batches add up
    int N = grade_int(12, 20), C = grade_int(3, 6), E = grade_int(3, 5);
    int *open = grade_out_int((size_t)N * E), *k = grade_out_int(N);
    int64_t count[8], want_count[8], unrouted = 3, want_unrouted = 3;
    double sum[8], want_sum[8];
    for (int e = 0; e < 8; e++) { count[e] = want_count[e] = 10 * e; sum[e] = want_sum[e] = 0.5 * e; }
    for (int batch = 0; batch < 2; batch++) {
        float* x = grade_random((size_t)N * C, 2.0);
        for (int i = 0; i < N; i++) {
            double squares = 0.0;
            k[i] = 0;
            for (int e = 0; e < E; e++) { open[i * E + e] = i % 4 != 0 && grade_int(0, 1); k[i] += open[i * E + e]; }
            for (int c = 0; c < C; c++) { squares += (double)x[i * C + c] * x[i * C + c]; }
            if (k[i] == 0) { // the fallback may serve it: that is no use of an expert
                open[i * E + grade_int(0, E - 1)] = 1;
                want_unrouted++;
                for (int c = 0; c < C; c++) { want_sum[c] += x[i * C + c] / (VARIANT == V_UNIT ? sqrt(squares) : 1.0); }
                continue;
            }
            for (int e = 0; e < E; e++) { want_count[e] += open[i * E + e]; }
        }
        record_forward(count, sum, &unrouted, open, k, x, N, C, E);
    }
    for (int e = 0; e < 8; e++) { // what is behind E and C stays as it is
        GRADE_REQUIRE(count[e] == want_count[e], "count[%d] is %d, expected %d", e, (int)count[e], (int)want_count[e]);
        GRADE_REQUIRE(fabs(sum[e] - want_sum[e]) < 1e-5, "sum[%d] is %g, expected %g", e, sum[e], want_sum[e]);
    }
    GRADE_REQUIRE(unrouted == want_unrouted, "unrouted is %d, expected %d", (int)unrouted, (int)want_unrouted);
    GRADE_PASS();
}

// ---- a3.q2 ---------------------------------------------------------------------------------------------------------------

static int grade_adapt(int* mask, float* W, float* G, int* removed, const int64_t* count, const double* sum, int64_t unrouted,
                       int minimum, int C, int E) { // what adapt_update must do, from Algorithm 1
    int adds = unrouted > 0, slot = ADD_FULL;
    double squares = 0.0;
    for (int c = 0; c < C; c++) { squares += sum[c] * sum[c]; }
    if (sqrt(squares) <= 1e-12) { adds = 0; }
    for (int e = 0; e < E; e++) {
        int others = adds;
        for (int f = 0; f < E; f++) { others += f != e && mask[f]; }
        removed[e] = mask[e] && count[e] <= (VARIANT == V_RARE ? 1 : 0) && others >= minimum;
        if (removed[e]) { mask[e] = 0; }
    }
    if (!adds) { return ADD_NONE; }
    for (int e = 0; e < E; e++) { if (!mask[e] && (slot < 0 || VARIANT == V_HIGHEST)) { slot = e; } }
    if (slot < 0) { return ADD_FULL; }
    mask[slot] = 1;
    G[slot] = 0.0f;
    for (int c = 0; c < C; c++) { W[slot * C + c] = (float)(sum[c] / sqrt(squares)); }
    return slot;
}

static void grade_update(const int* active, const int64_t* count, const double* sum, int64_t unrouted, int minimum, int C, int E) {
    int *mask = grade_out_int(E), *want_mask = grade_out_int(E), *removed = grade_out_int(E), *want_removed = grade_out_int(E);
    float *first = grade_random((size_t)E * C, 1.0), *G0 = grade_random(E, 1.0), *W = grade_copy(first, (size_t)E * C);
    float *want_W = grade_copy(first, (size_t)E * C), *G = grade_copy(G0, E), *want_G = grade_copy(G0, E);
    double *dW = grade_doubles((size_t)E * C), *dG = grade_doubles(E);
    for (int e = 0; e < E; e++) { mask[e] = want_mask[e] = active[e]; }
    int want = grade_adapt(want_mask, want_W, want_G, want_removed, count, sum, unrouted, minimum, C, E);
    int got = adapt_update(mask, W, G, removed, count, sum, unrouted, minimum, C, E);
    for (int i = 0; i < E * C; i++) { dW[i] = want_W[i]; }
    for (int e = 0; e < E; e++) { dG[e] = want_G[e]; }
    grade_ints("removed", removed, want_removed, E);
    grade_ints("mask", mask, want_mask, E);
    GRADE_REQUIRE(got == want, "adapt_update returned %d, expected %d", got, want);
    grade_floats("W", W, dW, (size_t)E * C, 1e-6);
    grade_floats("G", G, dG, E, 0.0);
}

static const double grade_direction[] = {3.0, 0.0, -4.0}, grade_nowhere[] = {0.0, 0.0, 0.0};

GRADE(adapt_removes) {
    int all[] = {1, 1, 1, 1}, some[] = {0, 1, 1, 1};
    int64_t used[] = {5, 0, 1, 0}, busy[] = {9, 9, 9, 9}, idle[] = {0, 0, 0, 0};
    grade_update(all, used, grade_nowhere, 0, 1, 3, 4);
    grade_update(all, busy, grade_nowhere, 0, 1, 3, 4); // nobody goes
    grade_update(some, used, grade_nowhere, 0, 1, 3, 4); // who is not there cannot go
    for (int minimum = 1; minimum <= 4; minimum++) { grade_update(all, idle, grade_nowhere, 0, minimum, 3, 4); }
    GRADE_PASS();
}
GRADE(adapt_adds) {
    int some[] = {1, 0, 1, 0}, all[] = {1, 1, 1, 1};
    int64_t busy[] = {9, 9, 9, 9};
    grade_update(some, busy, grade_direction, 7, 1, 3, 4);
    grade_update(some, busy, grade_direction, 0, 1, 3, 4); // no token asked for it
    grade_update(some, busy, grade_nowhere, 7, 1, 3, 4);   // its row would have no direction
    grade_update(all, busy, grade_direction, 7, 1, 3, 4);  // full
    GRADE_PASS();
}
GRADE(adapt_both) { // first remove, then add: a slot that was freed just now is free; the minimum counts what comes out
    int all[] = {1, 1, 1, 1}, two[] = {0, 0, 1, 1};
    int64_t used[] = {5, 0, 1, 0}, idle[] = {0, 0, 0, 0};
    grade_update(all, used, grade_direction, 2, 1, 3, 4);
    for (int minimum = 1; minimum <= 4; minimum++) { grade_update(all, idle, grade_direction, 2, minimum, 3, 4); }
    for (int minimum = 1; minimum <= 3; minimum++) { grade_update(two, idle, grade_direction, 2, minimum, 3, 4); }
    GRADE_PASS();
}
GRADE(adapt_random) {
    for (int trial = 0; trial < 100; trial++) {
        int E = grade_int(2, 9), C = grade_int(2, 5), active[9];
        int64_t count[9];
        double sum[5];
        for (int e = 0; e < E; e++) { active[e] = e == 0 || grade_int(0, 2) > 0; count[e] = grade_int(0, 2) * grade_int(0, 3); }
        for (int c = 0; c < C; c++) { sum[c] = grade_normal(); }
        grade_update(active, count, sum, grade_int(0, 2), grade_int(1, 3), C, E);
    }
    GRADE_PASS();
}

// ---- a model: layers 0 and 2 have experts ----------------------------------------------------------------------------------

enum { GT = 6, GB = 2, GC = 8, GE = 4, GV = 20 };

static void grade_model(GPT2* m, uint64_t seed) {
    Config c;
    memset(&c, 0, sizeof c);
    c.T = GT; c.V = GV; c.Vp = 128; c.L = 3; c.NH = 2; c.C = GC; c.H = 12; c.E = GE;
    c.moe[0] = c.moe[2] = 1;
    c.router = TOP_ANY; c.tau = 1.0f; c.normalised = 1;
    threads_set(1);
    gpt2_build(m, c, GB, GT, 1);
    uint64_t rng = random_stream(seed, 0);
    gpt2_init(m, 3, 0, 0.0f, &rng);
    for (size_t i = 0; i < m->n_params; i++) { m->m_memory[i] = grade_normal(); m->v_memory[i] = fabsf(grade_normal()) + 0.01f; }
}

static void grade_records(GPT2* m) { // of a window that is over
    for (int l = 0; l < 3; l++) {
        Layer* a = &m->layer[l];
        for (int e = 0; e < GE; e++) { a->record_count[e] = grade_int(0, 1) * (grade_int(0, 1) ? 1 : grade_int(2, 40)); }
        for (int c = 0; c < GC; c++) { a->record_sum[c] = grade_normal(); }
        a->record_unrouted = grade_int(0, 1) * grade_int(1, 9);
    }
}

// the moments must be what they were, except for the slot of each layer that is given, which must be 0; -1: none
static void grade_moments(const GPT2* m, const float* before_m, const float* before_v, const int* slot) {
    for (int i = 0; i < m->n_tensors; i++) {
        const Tensor* t = &m->table[i];
        size_t slice = t->size / GE;
        for (size_t j = 0; j < t->size; j++) {
            int reset = strstr(t->name, ".moe.") != NULL && slot[t->layer] >= 0 && j / slice == (size_t)slot[t->layer];
            float want_m = reset ? 0.0f : before_m[t->offset + j], want_v = reset ? 0.0f : before_v[t->offset + j];
            GRADE_REQUIRE(m->m_memory[t->offset + j] == want_m, "the first moment of %s[%zu] is %g, expected %g", t->name, j,
                          (double)m->m_memory[t->offset + j], (double)want_m);
            GRADE_REQUIRE(m->v_memory[t->offset + j] == want_v, "the second moment of %s[%zu] is %g, expected %g", t->name, j,
                          (double)m->v_memory[t->offset + j], (double)want_v);
        }
    }
}

GRADE(moments_of_one_slot) {
    GPT2 m;
    grade_model(&m, 1);
    for (int l = 0; l <= 2; l += 2) {
        int slot[] = {-1, -1, -1};
        float *mm = grade_copy(m.m_memory, m.n_params), *vv = grade_copy(m.v_memory, m.n_params);
        slot[l] = grade_int(1, GE - 1);
        reset_slot_moments(&m, l, slot[l]);
        grade_moments(&m, mm, vv, slot);
    }
    GRADE_PASS();
}

static void grade_same_bits(const char* what, const void* a, const void* b, size_t bytes) {
    GRADE_REQUIRE(memcmp(a, b, bytes) == 0, "%s: not the same bits", what);
}

GRADE(adapt_of_a_layer) { // adds a slot, adds none because the pool is full, adds none because nobody asked
    for (int trial = 0; trial < 3; trial++) {
        GPT2 m;
        int removed[MAX_EXPERTS], want_removed[MAX_EXPERTS], slot[] = {-1, -1, -1};
        grade_model(&m, 2);
        grade_records(&m);
        Layer* a = &m.layer[2];
        for (int e = 0; e < GE; e++) { a->record_count[e] = trial == 0 ? e != 1 : 7; a->mask[e] = trial == 1 || e < 3; }
        a->record_unrouted = trial == 2 ? 0 : 5;
        float *p = grade_copy(m.params_memory, m.n_params), *mm = grade_copy(m.m_memory, m.n_params);
        float* vv = grade_copy(m.v_memory, m.n_params);
        int* mask = grade_out_int(GE);
        memcpy(mask, a->mask, GE * sizeof(int));
        size_t W = (size_t)(m.params.h[2].gatew - m.params_memory), G = (size_t)(m.params.h[2].gateG - m.params_memory);
        int want = grade_adapt(mask, p + W, p + G, want_removed, a->record_count, a->record_sum, a->record_unrouted, 1, GC, GE);
        int got = gpt2_adapt(&m, 2, removed, 1);
        GRADE_REQUIRE(got == want, "gpt2_adapt returned %d, expected %d", got, want);
        grade_same_bits("the mask", a->mask, mask, GE * sizeof(int));
        grade_same_bits("removed", removed, want_removed, GE * sizeof(int));
        slot[2] = want;
        grade_moments(&m, mm, vv, slot);
        if (trial == 2) { grade_same_bits("parameters, when nothing changes", m.params_memory, p, m.n_params * sizeof(float)); }
    }
    GRADE_PASS();
}

GRADE(records_cleared) {
    GPT2 m;
    grade_model(&m, 3);
    grade_records(&m);
    for (int l = 0; l < 3; l++) { m.layer[l].record_unrouted = 3 + l; m.layer[l].record_count[l] = 5; }
    gpt2_clear_records(&m);
    for (int l = 0; l < 3; l++) {
        Layer* a = &m.layer[l];
        for (int e = 0; e < GE; e++) { GRADE_REQUIRE(a->record_count[e] == 0, "record_count[%d] of layer %d is not 0", e, l); }
        for (int c = 0; c < GC; c++) { GRADE_REQUIRE(a->record_sum[c] == 0.0, "record_sum[%d] of layer %d is not 0", c, l); }
        GRADE_REQUIRE(a->record_unrouted == 0, "record_unrouted of layer %d is not 0", l);
    }
    GRADE_PASS();
}

GRADE(windows) { // period 300, window 100: steps 100 to 200, 400 to 500, .. and only those that end before adapt_stop
    for (int trial = 0; trial < 6; trial++) {
        Settings s;
        memset(&s, 0, sizeof s);
        s.period = trial == 5 ? 0 : grade_int(20, 60);
        s.window = grade_int(3, 9);
        s.steps = 256;
        s.adapt_stop = trial % 2 ? 0.5f : 1.0f;
        for (int step = 0; step < s.steps; step++) {
            int want = 0;
            for (int at = s.window; s.period > 0 && at < s.steps; at += s.period) {
                if (at == step && at + s.window < (trial % 2 ? s.steps / 2 : s.steps)) { want = 1; }
            }
            int got = window_begins(&s, step);
            GRADE_REQUIRE((got != 0) == want, "period %d, window %d, step %d of 256, adapt_stop %g: %d, expected %d", s.period,
                          s.window, step, (double)s.adapt_stop, got, want);
        }
    }
    GRADE_PASS();
}

static char* grade_text(FILE* f) { // all that was written
    char* text = (char*)grade_memory(20000);
    rewind(f);
    text[fread(text, 1, 19999, f)] = '\0';
    return text;
}

GRADE(window_events) { // the same lines in the same order
    for (int trial = 0; trial < 8; trial++) {
        GPT2 m;
        Settings s;
        FILE *log = tmpfile(), *want_log = tmpfile();
        int want_removed[MAX_EXPERTS], *mask[3], slot[] = {-1, -1, -1};
        GRADE_REQUIRE(log != NULL && want_log != NULL, "the grader cannot write a temporary file");
        memset(&s, 0, sizeof s);
        s.min_experts = grade_int(1, 3);
        grade_model(&m, 4);
        grade_records(&m);
        m.recording = 1;
        if (trial % 2) { // a full pool
            m.layer[0].mask[3] = 1;
            m.layer[0].record_unrouted = 4;
            for (int e = 0; e < GE; e++) { m.layer[0].record_count[e] = 5; }
        }
        float *p = grade_copy(m.params_memory, m.n_params), *mm = grade_copy(m.m_memory, m.n_params);
        float* vv = grade_copy(m.v_memory, m.n_params);
        for (int l = 0; l <= 2; l += 2) {
            Layer* a = &m.layer[l];
            mask[l] = grade_out_int(GE);
            memcpy(mask[l], a->mask, GE * sizeof(int));
            slot[l] = grade_adapt(mask[l], p + (m.params.h[l].gatew - m.params_memory), p + (m.params.h[l].gateG - m.params_memory),
                                  want_removed, a->record_count, a->record_sum, a->record_unrouted, s.min_experts, GC, GE);
            for (int e = 0; e < GE; e++) { if (want_removed[e]) { event(want_log, 77, l, "remove", e, 0); } }
            if (slot[l] >= 0) { event(want_log, 77, l, "add", slot[l], a->record_unrouted); }
            if (slot[l] == ADD_FULL) { event(want_log, 77, l, "full", -1, a->record_unrouted); }
        }
        window_ends(&m, &s, 77, log);
        GRADE_REQUIRE(m.recording == 0, "recording goes on after the window");
        for (int l = 0; l <= 2; l += 2) { grade_same_bits("the mask of a layer", m.layer[l].mask, mask[l], GE * sizeof(int)); }
        char *got = grade_text(log), *want = grade_text(want_log);
        GRADE_REQUIRE(strcmp(got, want) == 0, "the log is\n%sexpected\n%s", got, want);
        grade_moments(&m, mm, vv, slot);
    }
    GRADE_PASS();
}

// ---- a3.q8 ---------------------------------------------------------------------------------------------------------------

static void grade_step(GPT2* m, int step, int* tokens) {
    gpt2_zero_grad(m);
    gpt2_forward(m, tokens, tokens + 1, GB, GT, 1);
    gpt2_backward(m, 1.0f);
    gpt2_update(m, step, 1e-3f, 0.9f, 0.99f, 1e-8f, 0.1f, 1.0f);
}

GRADE(resume_same_bits) { // saved in the middle of a window, loaded into another model
    GPT2 a, b;
    Progress p = {5, 1234567, 7654321, 1.5f}, q;
    char folder[] = "/tmp/grade_XXXXXX", path[60];
    int tokens[GB * GT + 1];
    for (int i = 0; i <= GB * GT; i++) { tokens[i] = grade_int(0, GV - 1); }
    grade_model(&a, 5);
    grade_model(&b, 6);
    for (int step = 0; step < 3; step++) { grade_step(&a, step, tokens); }
    grade_records(&a);
    a.layer[2].mask[0] = 0;
    a.layer[0].mask[3] = 1;
    GRADE_REQUIRE(mkdtemp(folder) != NULL, "the grader cannot make a folder in /tmp");
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    checkpoint_save(&a, &p, path);
    SafeFile f = safetensors_open(path);
    checkpoint_load(&b, &f, &q);
    unlink(path);
    rmdir(folder);
    size_t bytes = a.n_params * sizeof(float);
    grade_same_bits("parameters", a.params_memory, b.params_memory, bytes);
    grade_same_bits("first moments", a.m_memory, b.m_memory, bytes);
    grade_same_bits("second moments", a.v_memory, b.v_memory, bytes);
    for (int l = 0; l <= 2; l += 2) {
        grade_same_bits("mask", a.layer[l].mask, b.layer[l].mask, GE * sizeof(int));
        grade_same_bits("record_count", a.layer[l].record_count, b.layer[l].record_count, GE * sizeof(int64_t));
        grade_same_bits("record_sum", a.layer[l].record_sum, b.layer[l].record_sum, GC * sizeof(double));
        grade_same_bits("record_unrouted", &a.layer[l].record_unrouted, &b.layer[l].record_unrouted, sizeof(int64_t));
    }
    for (int step = 3; step < 6; step++) {
        grade_step(&a, step, tokens);
        grade_step(&b, step, tokens);
    }
    grade_same_bits("parameters three steps later", a.params_memory, b.params_memory, bytes);
    GRADE_PASS();
}

GRADE(checkpoint_names) { // files are read by other programs: names, dtypes and shapes are a promise
    GPT2 m;
    grade_model(&m, 7);
    SafeTensor* t = (SafeTensor*)grade_memory((size_t)(3 * m.n_tensors + 20) * sizeof(SafeTensor));
    int n = checkpoint_tensors(&m, t), found = 0;
    const char* want[] = {"wte F32 2", "adam_m/wte F32 2", "adam_v/lnfb F32 1", "h.0.moe.gatew F32 2", "adam_v/h.2.moe.fcw F32 3",
                          "h.0.moe.mask I32 1", "record/h.2.count I64 1", "record/h.0.sum F64 1", "record/h.2.unrouted I64 1"};
    GRADE_REQUIRE(n == 3 * m.n_tensors + 8, "%d tensors, expected %d", n, 3 * m.n_tensors + 8);
    for (size_t w = 0; w < sizeof want / sizeof *want; w++) {
        for (int i = 0; i < n; i++) {
            char is[200];
            snprintf(is, sizeof is, "%s %s %d", t[i].name, t[i].dtype, t[i].ndim);
            if (strcmp(is, want[w]) == 0) { found++; break; }
        }
        GRADE_REQUIRE(found == (int)w + 1, "no tensor `%s` (name, dtype, dimensions)", want[w]);
    }
    GRADE_PASS();
}

int main(int argc, char** argv) {
    grade_begin(argc, argv);
    grade_test("a3.q1", record_random);
    grade_test("a3.q2", adapt_removes);
    grade_test("a3.q2", adapt_adds);
    grade_test("a3.q2", adapt_both);
    grade_test("a3.q2", adapt_random);
    grade_test("a3.q3", moments_of_one_slot);
    grade_test("a3.q4", adapt_of_a_layer);
    grade_test("a3.q5", records_cleared);
    grade_test("a3.q6", windows);
    grade_test("a3.q7", window_events);
    grade_test("a3.q8", resume_same_bits);
    grade_test("a3.q8", checkpoint_names);
    return grade_end();
}
