/*
How fast is a training step, where does its time go, and how fast could it be?

    dev/bench [--config tiny,small,124M] [--router dense,top-k,top-any] [--k 1,2] [--batch B] [--steps N] [--threads N] [--json]

A step is what train_gpt2_dynmoe does in one: zero gradients, forward, backward, gradient norm, AdamW, unit rows; of the program
itself, which is included here. Printed are the median step and, for that step, the parts. Two tricks do it, neither of which
changes a line of the program:

1. This file is compiled with -finstrument-functions: the compiler calls __cyg_profile_func_enter and _exit around each
   function. A function that stands in part_table switches the clock to its part until it returns; all others count for
   whoever called them. That costs some microseconds a step. exp_fast and a few other small ones are left out.
2. cblas_sgemm goes through bench_sgemm, which can write down every call. That gives the FLOPs of the products (all other
   arithmetic is not counted). Then the same calls are made again, the same thread on the same memory, and nothing else:
   the rate that sgemm reaches on these shapes. A step's GFLOP/s over that rate is the column "of sgemm".

The learning rate is 0, so that each step does the same work. top-any: thresholds are set so that each expert gets k N / E tokens
of the batch, top-k: K = k, where the gate of random weights decides the loads; all experts of the pool are active.
Letters as in train_gpt2_dynmoe.c. Build and run: make bench. Trick 2 needs OpenBLAS; without it these columns show -.
Compiled with clang, a function of the table that was inlined counts for whoever called it.
*/
#define TESTING
#if defined(USE_BLAS) && !defined(USE_ACCELERATE)
#define RECORD
#define cblas_sgemm bench_sgemm // the program's calls, and the declaration of cblas.h
#endif
#include "../train_gpt2_dynmoe.c"
#undef cblas_sgemm

#define NO_CLOCK __attribute__((no_instrument_function)) // for the functions of this file

// ----------------------------------------------------------------------------------------------------------------------
// The parts of a step

enum { OTHER, ATTENTION, DENSE_PART, EXPERTS, ROUTING, HEAD, ELEMENTWISE, OPTIMIZER, N_PARTS };
static const char* const part_names[] = {"other", "attention", "dense", "experts", "routing", "head", "elementwise", "optimizer"};

typedef struct { const void* function; int part; } PartOf;
static const PartOf part_table[] = {
    {(void*)attention_half_forward, ATTENTION},     {(void*)attention_half_backward, ATTENTION}, // with their two products
    {(void*)feedforward_half_forward, DENSE_PART},  {(void*)feedforward_half_backward, DENSE_PART},
    {(void*)moe_forward, ROUTING},                  {(void*)moe_backward, ROUTING},         // gate, dispatch, gather, combine
    {(void*)experts_forward, EXPERTS},              {(void*)experts_backward, EXPERTS},     // in a dense layer: dense
    {(void*)gpt2_forward, HEAD},                    {(void*)head_backward, HEAD},           // the product, cross-entropy
    {(void*)embedding_forward, ELEMENTWISE},        {(void*)embedding_backward, ELEMENTWISE},
    {(void*)layernorm_forward, ELEMENTWISE},        {(void*)layernorm_backward_add, ELEMENTWISE},
    {(void*)residual_forward, ELEMENTWISE},         {(void*)gpt2_zero_grad, OPTIMIZER},
    {(void*)gpt2_grad_norm, OPTIMIZER},             {(void*)gpt2_update, OPTIMIZER},        {(void*)gpt2_unit_rows, OPTIMIZER},
};

static double part_seconds[N_PARTS], part_since;
static int part_now = OTHER, part_stack[256], part_depth;

NO_CLOCK static void part_switch(int part) { // charges the time since the last switch
    double now = seconds_now();
    part_seconds[part_now] += now - part_since;
    part_since = now;
    part_now = part;
}

NO_CLOCK static int in_parallel(void) { // the clock is the main thread's
#ifdef _OPENMP
    return omp_in_parallel();
#else
    return 0;
#endif
}

NO_CLOCK static int part_of(const void* function) { // -1: of whoever called it
    for (size_t i = 0; i < sizeof part_table / sizeof part_table[0]; i++) {
        if (part_table[i].function == function) { return part_table[i].part; }
    }
    return -1;
}

NO_CLOCK void __cyg_profile_func_enter(void* function, void* caller) {
    (void)caller;
    if (in_parallel()) { return; }
    int part = part_of(function);
    if (part < 0) { return; }
    if (part == EXPERTS && part_now == DENSE_PART) { part = DENSE_PART; }
    require(part_depth < 256, "a bug: please report it", "dev/bench: functions of %d parts inside each other", part_depth);
    part_stack[part_depth++] = part_now;
    part_switch(part);
}

NO_CLOCK void __cyg_profile_func_exit(void* function, void* caller) {
    (void)caller;
    if (!in_parallel() && part_of(function) >= 0) { part_switch(part_stack[--part_depth]); }
}

// ----------------------------------------------------------------------------------------------------------------------
// The products of a step

#ifdef RECORD
#define ORDER enum CBLAS_ORDER
#define TRANSPOSE enum CBLAS_TRANSPOSE
void cblas_sgemm(ORDER order, TRANSPOSE ta, TRANSPOSE tb, blasint M, blasint N, blasint K, float alpha, const float* a, blasint lda,
                 const float* b, blasint ldb, float beta, float* out, blasint ldo);

typedef struct {
    ORDER order;
    TRANSPOSE ta, tb;
    int M, N, K, lda, ldb, ldo, part;
    float alpha, beta;
    const float *a, *b;
    float* out;
} Product;
typedef struct { Product* p; size_t n, room; double flop[N_PARTS]; } Products;
static Products* products;          // one for each thread
static int products_recording;

NO_CLOCK static int thread_number(void) { // in the outer of two parallel regions
#ifdef _OPENMP
    return omp_get_level() > 0 ? omp_get_ancestor_thread_num(1) : 0;
#else
    return 0;
#endif
}

NO_CLOCK void bench_sgemm(ORDER order, TRANSPOSE ta, TRANSPOSE tb, const blasint M, const blasint N, const blasint K,
                          const float alpha, const float* a, const blasint lda, const float* b, const blasint ldb, const float beta,
                          float* out, const blasint ldo) {
    cblas_sgemm(order, ta, tb, M, N, K, alpha, a, lda, b, ldb, beta, out, ldo);
    if (!products_recording) { return; }
    Products* q = &products[thread_number()];
    if (q->n == q->room) {
        q->room = q->room * 2 + 1024;
        q->p = (Product*)realloc(q->p, q->room * sizeof(Product));
        require(q->p, "lower --batch", "no memory for a list of %zu products", q->room);
    }
    Product one = {order, ta, tb, (int)M, (int)N, (int)K, (int)lda, (int)ldb, (int)ldo, part_now, alpha, beta, a, b, out};
    q->p[q->n++] = one;
    q->flop[part_now] += 2.0 * (double)M * (double)N * (double)K;
}

NO_CLOCK static double products_replay(int part) { // seconds for the recorded products of a part (-1: all), by their threads
    double start = seconds_now();
    #pragma omp parallel
    {
        const Products* q = &products[thread_number()];
        for (size_t i = 0; i < q->n; i++) {
            const Product* p = &q->p[i];
            if (part >= 0 && p->part != part) { continue; }
            cblas_sgemm(p->order, p->ta, p->tb, p->M, p->N, p->K, p->alpha, p->a, p->lda, p->b, p->ldb, p->beta, p->out, p->ldo);
        }
    }
    return seconds_now() - start;
}
#endif

// ----------------------------------------------------------------------------------------------------------------------
// One case: a configuration, a router, k

typedef struct { const char* name; int L, NH, C, T, V, B; } Size;
static const Size sizes[] = {
    {"tiny", 4, 4, 128, 64, 256, 8}, {"small", 6, 6, 384, 256, 256, 4}, {"124M", 12, 12, 768, 256, 50257, 2}
};
enum { N_SIZES = 3, E_POOL = 8 };

typedef struct {
    const char *size, *router;
    int batch, steps;
    double k, ms, part_ms[N_PARTS], flop, part_flop[N_PARTS], sgemm_ms, part_sgemm_ms[N_PARTS], peak_mb; // k: experts of a token
} Result;

NO_CLOCK static int compare_down(const void* a, const void* b) {
    float x = *(const float*)a, y = *(const float*)b;
    return (x < y) - (x > y);
}

NO_CLOCK static void thresholds_set(GPT2* model, int l, int N, double k) {
    // of layer l after a forward: G_e between two cosines, so that k N / E tokens are above it
    Layer* a = &model->layer[l];
    int E = model->config.E;
    float* column = (float*)alloc_zeroed((size_t)N + 1, sizeof(float), "cosines");
    for (int e = 0; e < E; e++) {
        int above = (int)((double)(e + 1) * k * N / E + 0.5) - (int)((double)e * k * N / E + 0.5); // so that they add up
        for (int i = 0; i < N; i++) { column[i] = a->score[(size_t)i * E + e]; }
        qsort(column, (size_t)N, sizeof(float), compare_down);
        model->params.h[l].gateG[e] = above == 0 ? 2.0f : above == N ? -2.0f : 0.5f * (column[above - 1] + column[above]);
    }
    free(column);
}

NO_CLOCK static void step_once(GPT2* model, const int* x, const int* y, int B, int T) { // as train_step, without data and log
    gpt2_zero_grad(model);
    gpt2_forward(model, x, y, B, T, 1);
    gpt2_backward(model, 1.0f);
    float norm = (float)gpt2_grad_norm(model);
    gpt2_update(model, 0, 0.0f, 0.9f, 0.99f, 1e-8f, 0.1f, norm > 1.0f ? 1.0f / norm : 1.0f);
    if (model->config.router == TOP_ANY) { gpt2_unit_rows(model); }
}

NO_CLOCK static int compare_steps(const void* a, const void* b) { // by their first number
    double x = *(const double*)a, y = *(const double*)b;
    return (x > y) - (x < y);
}

NO_CLOCK static Result measure(const Size* size, const char* router, double k, int B, int steps) {
    static GPT2 model;
    Result r = {size->name, router, B, steps, 0.0, 0.0, {0}, 0.0, {0}, 0.0, {0}, 0.0};
    int dense = strcmp(router, "dense") == 0, N = B * size->T, moe = 0;
    char text[8][32];
    snprintf(text[0], 32, "--layers=%d", size->L);      snprintf(text[1], 32, "--heads=%d", size->NH);
    snprintf(text[2], 32, "--channels=%d", size->C);    snprintf(text[3], 32, "--context=%d", size->T);
    snprintf(text[4], 32, "--experts=%d", E_POOL);      snprintf(text[5], 32, "--moe-layers=%s", dense ? "none" : "every2");
    snprintf(text[6], 32, "--router=%s", dense ? "top-any" : router); snprintf(text[7], 32, "--topk=%d", (int)k);
    const char* argv[9] = {"dev/bench", text[0], text[1], text[2], text[3], text[4], text[5], text[6], text[7]};
    Settings s = flags_read(9, argv);
    Config config = config_make(&s, size->V, NULL);
    uint64_t rng = random_stream(1, 0);
    gpt2_build(&model, config, B, size->T, 1);
    gpt2_init(&model, E_POOL, 0, 0.0f, &rng);
    int* x = (int*)alloc_zeroed((size_t)N * 2, sizeof(int), "tokens");
    for (int i = 0; i < 2 * N; i++) { x[i] = (int)(random_u32(&rng) % (uint32_t)size->V); }
    for (int l = 0; l < config.L; l++) {
        moe += config.moe[l];
        if (config.moe[l] && config.router == TOP_ANY) {
            gpt2_forward(&model, x, x + N, B, size->T, 1);
            thresholds_set(&model, l, N, k);
        }
    }
    for (int i = 0; i < 2; i++) { step_once(&model, x, x + N, B, size->T); } // rows are reserved, caches warm
    double (*step)[1 + N_PARTS] = (double (*)[1 + N_PARTS])alloc_zeroed((size_t)steps, sizeof *step, "times");
    for (int i = 0; i < steps; i++) {
        memset(part_seconds, 0, sizeof part_seconds);
        double start = part_since = seconds_now();
        step_once(&model, x, x + N, B, size->T);
        part_switch(OTHER);
        step[i][0] = part_since - start;
        memcpy(&step[i][1], part_seconds, sizeof part_seconds);
    }
    qsort(step, (size_t)steps, sizeof *step, compare_steps);
    r.ms = 1e3 * step[steps / 2][0];
    for (int p = 0; p < N_PARTS; p++) { r.part_ms[p] = 1e3 * step[steps / 2][1 + p]; }
    for (int l = 0; l < config.L; l++) { r.k += config.moe[l] ? (double)model.layer[l].R / N / moe : 0.0; }
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
#ifdef __APPLE__
    r.peak_mb = 1e-6 * (double)usage.ru_maxrss;
#else
    r.peak_mb = 1e-3 * (double)usage.ru_maxrss;
#endif
#ifdef RECORD
    int threads = threads_count();
    products = (Products*)alloc_zeroed((size_t)threads, sizeof(Products), "a list of products");
    products_recording = 1;
    step_once(&model, x, x + N, B, size->T);
    products_recording = 0;
    for (int t = 0; t < threads; t++) {
        for (int p = 0; p < N_PARTS; p++) { r.part_flop[p] += products[t].flop[p]; r.flop += products[t].flop[p]; }
    }
    int replays = steps < 3 ? 3 : steps;
    double* seconds = (double*)alloc_zeroed((size_t)replays, sizeof(double), "times");
    for (int p = -1; p < N_PARTS; p++) {
        if (p >= 0 && r.part_flop[p] == 0.0) { continue; }
        products_replay(p);
        for (int i = 0; i < replays; i++) { seconds[i] = products_replay(p); }
        qsort(seconds, (size_t)replays, sizeof(double), compare_steps);
        *(p < 0 ? &r.sgemm_ms : &r.part_sgemm_ms[p]) = 1e3 * seconds[replays / 2];
    }
    free(seconds);
    for (int t = 0; t < threads; t++) { free(products[t].p); }
    free(products);
#endif
    free(step);
    free(x);
    gpt2_free(&model);
    return r;
}

// ----------------------------------------------------------------------------------------------------------------------
// Printing

NO_CLOCK static void print_json(const Result* r, int T, const char* cpu) {
    char date[16];
    time_t now = time(NULL);
    strftime(date, sizeof date, "%Y-%m-%d", gmtime(&now));
    printf("{\"what\":\"ours\",\"config\":\"%s\",\"router\":\"%s\",\"k\":%.4f,\"batch\":%d,\"tokens\":%d,\"steps\":%d,\"ms\":%.3f,"
           "\"gflop\":%.4f,\"sgemm_ms\":%.3f,\"peak_mb\":%.1f,\"threads\":%d,\"date\":\"%s\",\"commit\":\"%s\",\"cpu\":\"%s\"",
           r->size, r->router, r->k, r->batch, r->batch * T, r->steps, r->ms, 1e-9 * r->flop, r->sgemm_ms, r->peak_mb,
           threads_count(), date, COMMIT, cpu);
    for (int p = 0; p < N_PARTS; p++) {
        const char* name = part_names[p];
        printf(",\"%s_ms\":%.3f,\"%s_gflop\":%.4f,\"%s_sgemm_ms\":%.3f", name, r->part_ms[p], name, 1e-9 * r->part_flop[p], name,
               r->part_sgemm_ms[p]);
    }
    printf("}\n");
}

NO_CLOCK static void print_row(const Result* r, int T) {
    printf("%-6s %-8s %5.2f %6d %9.2f %9.0f", r->size, r->router, r->k, r->batch * T, r->ms, 1e3 * r->batch * T / r->ms);
    if (r->sgemm_ms > 0.0) {
        printf(" %8.1f %7.1f %7.0f %%", 1e-6 * r->flop / r->ms, 1e-6 * r->flop / r->sgemm_ms, 1e2 * r->sgemm_ms / r->ms);
    } else { printf(" %8s %7s %9s", "-", "-", "-"); }
    for (int p = 1; p < N_PARTS; p++) { printf(" %11.2f", r->part_ms[p]); }
    printf("\n");
}

NO_CLOCK static int in_list(const char* list, const char* name) {
    size_t n = strlen(name);
    for (const char* p = list; *p; p += strcspn(p, ","), p += *p == ',') {
        if (strcspn(p, ",") == n && strncmp(p, name, n) == 0) { return 1; }
    }
    return 0;
}

NO_CLOCK static double number(const char* flag, const char* value, double low, double high, char** rest) {
    char* end;
    double x = strtod(value, &end);
    require_usage(end != value && (*end == '\0' || (rest && *end == ',')) && x >= low && x <= high, "dev/bench --help",
                  "%s %s: expected a number from %g to %g", flag, value, low, high);
    if (rest) { *rest = end + (*end == ','); }
    return x;
}

NO_CLOCK static void names_check(const char* flag, const char* list, const char* const* names, int n, const char* hint) {
    char name[32];
    require_usage(*list, hint, "%s is empty", flag);
    for (const char* p = list; *p; p += strcspn(p, ","), p += *p == ',') {
        int known = 0;
        snprintf(name, sizeof name, "%.*s", (int)strcspn(p, ","), p);
        for (int i = 0; i < n; i++) { known |= strcmp(name, names[i]) == 0; }
        require_usage(known, hint, "%s: no such name: %s", flag, name);
    }
}

NO_CLOCK int main(int argc, char** argv) {
    static const char* const size_names[] = {"tiny", "small", "124M"};
    static const char* const routers[] = {"dense", "top-k", "top-any"};
    const char *configs = "tiny,small,124M", *wanted = "dense,top-k,top-any", *ks = "1,2";
    int steps = 0, batch = 0, threads = 0, json = 0;
    char cpu[256];
    for (int i = 1; i < argc; i++) {
        const char* flag = argv[i];
        if (strcmp(flag, "--json") == 0) { json = 1; continue; }
        if (strcmp(flag, "--help") == 0) {
            printf("dev/bench [--config tiny,small,124M] [--router dense,top-k,top-any] [--k 1,2] [--batch B] [--steps N]\n"
                   "          [--threads N] [--json]\n"
                   "times the training step of train_gpt2_dynmoe; what the columns are stands at the top of dev/bench.c\n");
            return 0;
        }
        int known = strcmp(flag, "--config") == 0 || strcmp(flag, "--router") == 0 || strcmp(flag, "--k") == 0 ||
                    strcmp(flag, "--steps") == 0 || strcmp(flag, "--batch") == 0 || strcmp(flag, "--threads") == 0;
        require_usage(known, "dev/bench --help", "unknown flag %s", flag);
        require_usage(i + 1 < argc, "dev/bench --help", "%s needs a value", flag);
        const char* value = argv[++i];
        if (strcmp(flag, "--config") == 0) { configs = value; }
        else if (strcmp(flag, "--router") == 0) { wanted = value; }
        else if (strcmp(flag, "--k") == 0) { ks = value; }
        else if (strcmp(flag, "--steps") == 0) { steps = (int)number(flag, value, 1, 100000, NULL); }
        else if (strcmp(flag, "--batch") == 0) { batch = (int)number(flag, value, 1, 4096, NULL); }
        else { threads = (int)number(flag, value, 0, 1024, NULL); }
    }
    names_check("--config", configs, size_names, N_SIZES, "tiny, small, 124M, or several with commas between");
    names_check("--router", wanted, routers, 3, "dense, top-k, top-any, or several with commas between");
    require_usage(*ks, "dev/bench --help", "--k is empty");
    threads_set(threads);
    machine_name(cpu, sizeof cpu);
    if (!json) {
        printf("train_gpt2_dynmoe, commit %s, on %s, %d threads, matrices by %s\n", COMMIT, cpu, threads_count(), BLAS_NAME);
        printf("%-6s %-8s %5s %6s %9s %9s %8s %7s %9s", "model", "router", "k", "tokens", "ms/step", "tokens/s", "GFLOP/s", "sgemm",
               "of sgemm");
        for (int p = 1; p < N_PARTS; p++) { printf(" %11s", part_names[p]); }
        printf("\n");
    }
    for (int i = 0; i < N_SIZES; i++) {
        if (!in_list(configs, sizes[i].name)) { continue; }
        for (int j = 0; j < 3; j++) {
            char* rest = NULL;
            for (const char* p = ks; in_list(wanted, routers[j]) && *p && (j > 0 || p == ks); p = rest) { // dense: once
                double k = number("--k", p, 0, E_POOL, &rest);
                if (j == 1 && (k != floor(k) || k < 1)) { continue; } // top-k takes whole numbers
                int n = steps > 0 ? steps : i == 0 ? 101 : i == 1 ? 11 : 3;
                Result r = measure(&sizes[i], routers[j], k, batch > 0 ? batch : sizes[i].B, n);
                if (json) { print_json(&r, sizes[i].T, cpu); } else { print_row(&r, sizes[i].T); }
                fflush(stdout);
            }
        }
    }
    return 0;
}
