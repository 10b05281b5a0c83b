/*
Feeds damaged pictures, models and command lines to every reader of train_vit_dynmoe.cu, in the way of test/fuzz.c, which says how
it works and what counts as a failure. It needs no GPU:

    dev/cuda_on_cpu/cudacpu-cc --asan -Itest -o test/fuzz_vit test/fuzz_vit.cu && test/fuzz_vit 1 10000

Memory of the GPU is counted with that of the host. A model that is accepted runs a forward, and a backward where it is trained.
*/
#include <sys/file.h>
#include <cublasLt.h>
#include <cublas_v2.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include "fuzz_system.h"

static cudaError_t fuzz_cuda_malloc(void** p, size_t n) {
    if (too_much(n, 1)) { *p = NULL; return cudaErrorMemoryAllocation; }
    cudaError_t error = cudaMalloc(p, n);
    take(*p, DEVICE, n, NULL);
    return error;
}

static cudaError_t fuzz_cuda_free(void* p) { give(p, DEVICE); return cudaFree(p); }
static void device_give(void* p) { cudaFree(p); }
#define cudaMalloc fuzz_cuda_malloc
#define cudaFree fuzz_cuda_free
#include "../train_vit_dynmoe.cu"

// two models with one DynMoE layer or more, one of two layers without, one of gray pictures; other tensors
enum { OWN = 4, SEEDS = 5 };
static const char* const values[] = {"", "nan", "inf", "-1", "1e9", "0,1", "all", "none", "0", "1", "2", "3", "4", "8",
    "top-k", "top-p", "dense", "top-any", "128", "\x1b[31m\n", "65536", "0.5", "default", "paper", "authors", "normalised",
    "detached", "copies", "vit", "ln2", "residual", "0.5,0.5,0.5", "0.5,nan,0.5", "0.1,0.2", "cifar10", "idx", "fp32", "auto"};
static const char* const good_flags[] = {"--router=top-k", "--router=top-p", "--router=dense", "--preset=paper", "--preset=authors",
    "--resume=@/0", "--resume=@/1", "--moe-layers=0,2", "--moe-layers=none", "--kgrad=detached", "--help", "-e", "--depth=3",
    "--gate-input=residual", "--patch=8", "--dtype=fp32"};
#include "fuzz_model.h"

static ViT model;
static unsigned char some_pixels[3 * 64];

static Pictures some_pictures(int size, int planes) { // one black one: what config_make takes from a set
    Pictures p;
    memset(&p, 0, sizeof p);
    p.n = 1; p.size = size; p.planes = planes; p.classes = 3;
    p.bytes = some_pixels; p.label = p.domain = some_pixels;
    p.path = "some";
    return p;
}

static void setup(void) {
    static const char* const own[OWN] = {
        "--layers 2 --moe-layers none --heads 2 --channels 4 --patch 4 --batch 2",
        "--layers 2 --moe-layers 0 -E 2 --start-experts 1 --heads 1 --channels 4 --patch 2 --batch 2 --expert-width 16 --ema .5",
        "--layers 1 --moe-layers all --experts 3 --router top-k --topk 1 --shared-experts 2 --heads 4 --channels 4 --patch 4",
        "--layers 2 --moe-layers 1 --experts 2 --start-experts 2 --heads 2 --channels 4 --patch 2 --batch 1 --gate-input residual"};
    static const char* files[] = {"p/d_0.bin", "p/d_1.bin", "p/s*r.bin", "p/t10k-images-idx3-ubyte"};
    static const char idx[] = "\0\0\10\3\0\0\0\2\0\0\0\2\0\0\0\2abcdefgh", labels[] = "\0\0\10\1\0\0\0\2\1\2";
    const Progress p = {3, 11, 1.5f};
    char gpu[300];
    give_device = device_give;
    gpu_start(gpu, sizeof gpu, "fp32", &model.bf16);
    fill_pool();
    for (int i = 0; i < SEEDS; i++) {
        static char path[SEEDS][80]; // the seeds point to it
        snprintf(path[i], sizeof path[i], "%s/%d", folder, i);
        if (i < OWN) {
            Settings s = settings(own[i]);
            Pictures set = some_pictures(4, i == 3 ? 1 : 3);
            Config c = config_make(&s, &set, NULL);
            uint64_t rng = 7;
            model.with_ema = s.ema > 0.0f;
            vit_build(&model, c, s.batch, 1);
            vit_init(&model, s.start_experts, 0, 0.0f, &rng);
            vit_to_device(&model);
            checkpoint_save(&model, &p, path[i]);
            vit_free(&model);
        } else { save_others(path[i]); }
        seeds[i] = safetensors_open(path[i]);
    }
    mkdir(in_folder("p"), 0700); // for patterns: records of 1 + 12 bytes, IDX, and what is neither
    mkdir(in_folder("p/dir"), 0700);
    for (int i = 0; i < 4; i++) { file_of(in_folder(files[i]), i < 3 ? (const void*)pool : idx, i < 3 ? 26 : sizeof idx - 1); }
    file_of(in_folder("p/t10k-labels-idx1-ubyte"), labels, sizeof labels - 1);
    file_of(in_folder("p/cut.bin"), pool, 25);
    file_of(in_folder("p/empty"), "", 0);
}

// ----------------------------------------------------------------------------------------------------------------------
// Models

static void plan(const Config* c, int B, int training) { // sizes may be anything: from here on memory is short
    double cells = (double)B * c->T * c->NH * c->T * c->L; // the largest part of the activations
    vit_plan(&model, *c, B, training);
    must((double)model.act_bytes >= 4.0 * cells, "activations of %zu bytes, attention alone has %g", model.act_bytes, 4.0 * cells);
    must(c->C % c->NH == 0 && c->E <= c->C && c->L >= 1 && c->L <= MAX_LAYERS && c->E <= MAX_EXPERTS && c->image % c->patch == 0 &&
         c->T == 1 + c->image / c->patch * (c->image / c->patch) && c->planes >= 1 && c->planes <= MAX_PLANES && c->classes >= 1,
         "%d channels, %d heads, %d experts, %d layers, %d patches, planes %d", c->C, c->NH, c->E, c->L, c->T, c->planes);
    for (int i = 0; i < c->planes; i++) {
        must(c->norm.mean[i] >= 0.0f && c->norm.mean[i] <= 1.0f && c->norm.std[i] >= 1e-6f && c->norm.std[i] <= 1.0f,
             "plane %d: mean %g, deviation %g", i, (double)c->norm.mean[i], (double)c->norm.std[i]);
    }
    memory_is_short = 1;
}

static void try_model(const Config* c, int training) { // is it sane, does it run? Its results may be NaN, like what is in a file
    static unsigned char pixels[3 * 64 * 64];
    void* device;
    Item item;
    must(isfinite(c->tau) && c->tau > 0.0f, "tau is %g", (double)c->tau);
    must(c->topp >= 0.0f && c->topp <= 1.0f, "P of top-p is %g", (double)c->topp);
    for (int i = 0; i < c->L * c->E; i++) {
        int mask = model.layer[i / c->E].mask[i % c->E];
        must(mask == 0 || mask == 1, "layer %d has a mask of %d", i / c->E, mask);
    }
    if (model.n_params > 10000 || c->image > 64 || c->L > 4 || *wrong) { return; } // slow
    size_t bytes = (size_t)c->planes * c->image * c->image;
    device = device_alloc(bytes, 1, "a picture");
    to_device(device, pixels, bytes);
    item.view[0] = item.view[1] = view_plain(0);
    item.y[0] = item.y[1] = c->classes - 1;
    item.lam = 1.0f;
    vit_to_device(&model);
    vit_forward(&model, (const unsigned char*)device, &item, 0.1f, 1, training);
    if (training) { vit_backward(&model, 1.0f); } else { vit_logits(&model); }
    CUDA(cudaFree(device));
}

static void read_model(const char* flags, int training) { // as main does with --init
    uint64_t rng = 5;
    Settings s = settings(flags);
    Pictures set = some_pictures(4, 3);
    SafeFile f = open_file();
    Config c = config_make(&s, &set, &f);
    model.with_ema = 0;
    plan(&c, 1, training);
    vit_build(&model, c, 1, training);
    weights_load(&model, &f, c.router == TOP_ANY ? s.start_experts : c.E, s.threshold, !training, &rng);
    safetensors_close(&f);
    try_model(&c, training);
    vit_free(&model);
    must(n_taken == 0, "%d things are lost", n_taken);
}

static void put_weights(void) { put_file(0, OWN, pick(3) == 0); }
static void read_weights(void) { read_model("--eval-only", 0); }

static void put_upcycling(void) { put_file(0, 1, 0); } // the dense one
static void read_upcycling(void) { read_model("--moe-layers all --experts 2 --start-experts 1", 1); }

static void put_checkpoint(void) { put_file(0, OWN, 1); }
static void read_checkpoint(void) { // as main does with --resume
    const char* argv[] = {"fuzz", "--resume", in_folder("input")};
    Settings s = flags_read(3, argv);
    Pictures set = some_pictures(4, 3);
    SafeFile f = open_file();
    Config c = config_make(&s, &set, &f);
    Progress p;
    model.with_ema = s.ema > 0.0f;
    plan(&c, s.batch, 1);
    vit_build(&model, c, s.batch, 1);
    checkpoint_load(&model, &f, &p);
    safetensors_close(&f);
    must(p.step >= 0 && p.rng_data != 0 && !isnan(p.best_val), "step %d, best %g", p.step, (double)p.best_val);
    must(model.recording == 0 || model.recording == 1, "recording is %d", model.recording);
    try_model(&c, 1);
    vit_free(&model);
}

// ----------------------------------------------------------------------------------------------------------------------
// Pictures

static void check_pictures(const Pictures* p) {
    Norm norm;
    must(p->n > 0 && p->n <= p->room && p->size >= 1 && p->size <= 1024 && (p->planes == 1 || p->planes == 3),
         "%zu pictures of %d x %d", p->n, p->planes, p->size);
    if (*wrong) { return; }
    for (size_t i = 0; i < p->n; i++) {
        must(p->label[i] < p->classes && p->classes <= 256, "class %d of %d", p->label[i], p->classes);
        must(p->domains == 0 || p->domain[i] < p->domains, "domain %d of %d", p->domain[i], p->domains);
    }
    pictures_norm(p, &norm); // reads every byte
    for (int i = 0; i < p->planes; i++) {
        must(norm.mean[i] >= 0.0f && norm.mean[i] <= 1.0f && norm.std[i] > 0.003f && norm.std[i] <= 1.0f, "mean %g, deviation %g",
             (double)norm.mean[i], (double)norm.std[i]);
    }
}

static void read_set(const char* flags, const char* path) { // as training does
    char line[256];
    Pictures set, val;
    snprintf(line, sizeof line, "--data %s %s", path, flags);
    Settings s = settings(line);
    data_read(&s, &set, &val);
    check_pictures(&set);
    check_pictures(&val);
    must(val.classes <= set.classes && val.size == set.size && val.planes == set.planes, "the sets do not fit");
    if (s.hold_out >= 0) {
        for (size_t i = 0; i < set.n; i++) { must(set.domain[i] != s.hold_out, "picture %zu is of domain %d", i, s.hold_out); }
        for (size_t i = 0; i < val.n; i++) { must(val.domain[i] == s.hold_out, "picture %zu is not held out", i); }
    }
    pictures_free(&set);
    pictures_free(&val);
    must(n_taken == 0, "%d things are lost", n_taken);
}

static void put_records(size_t label_bytes, size_t area) {
    for (size_t i = 11 + pick(30); i > 0; i--) {
        for (size_t k = 0; k < label_bytes; k++) {
            unsigned char c = (unsigned char)(one_in(100) ? pick(256) : pick(3));
            put(&c, 1);
        }
        put(pool + pick(sizeof pool - area), area);
    }
    if (one_in(5)) { put(pool, pick(area)); }
    hot = 40;
}

static void put_cifar(void) { size_t two = pick(2); put_records(1 + two, 12); } // 2 x 2 pixels
static void read_cifar(void) { read_set("--image 2", in_folder("input")); }

static void put_domains(void) { put_records(2, 12); }
static void read_domains(void) { // which one is held out, and from what: by the last byte
    char flags[200];
    int last = input_size > 0 ? input[input_size - 1] : 0;
    const char* path = in_folder("input");
    snprintf(flags, sizeof flags, "--layout cifar100 --image 2 --hold-out %d %s%s", last % 5 - 1, last > 127 ? "--val=" : "",
             last > 127 ? path : "");
    read_set(flags, path);
}

static void put_number(uint32_t x) {
    unsigned char b[4] = {(unsigned char)(x >> 24), (unsigned char)(x >> 16), (unsigned char)(x >> 8), (unsigned char)x};
    put(b, 4);
}
static uint32_t but_for(uint32_t x) { return one_in(12) ? pick(2) ? (uint32_t)number() : x + 1 : x; }
static void put_idx(void) { // two bytes: how many bytes the pictures have; the pictures; the labels
    uint32_t n = (uint32_t)(pick(plain || pick(8) ? 40 : 2) + 10), side = (uint32_t)(1 + pick(6));
    uint16_t split = (uint16_t)(16 + n * side * side);
    put(&split, 2);
    put_number(but_for(2051)); put_number(but_for(n)); put_number(but_for(side)); put_number(but_for(side));
    put(pool + pick(1000), n * side * side);
    put_number(but_for(2049)); put_number(but_for(n));
    put(pool + pick(1000), n - (one_in(10) ? pick(n) : 0) + (one_in(10) ? pick(n) : 0));
    hot = 18;
}
static void read_idx(void) {
    size_t n = input_size < 2 ? 0 : (size_t)(input[0] + 256 * input[1]);
    n = n < input_size - 2 || input_size < 2 ? n : input_size - 2;
    file_of(in_folder("images-idx3"), input + 2, n);
    file_of(in_folder("labels-idx1"), input + 2 + n, input_size < 2 ? 0 : input_size - 2 - n);
    read_set("", in_folder("images-idx3"));
}

static void put_ppm(void) { // 4 x 4
    static const char* const blanks[] = {" ", "\n", "\t", "\r\n", " # words\n", "\n#\n#\n  "};
    int planes = pick(3) ? 3 : 1, numbers[3] = {4, 4, 255};
    put_text("P%d", one_in(15) ? (int)pick(8) : planes == 3 ? 6 : 5);
    for (int i = 0; i < 3; i++) { put_text("%s%d", blanks[pick(6)], one_in(20) ? (int)pick(70000) : numbers[i]); }
    put_text("%s", one_in(20) ? blanks[pick(6)] : "\n");
    hot = input_size;
    put(pool + pick(1000), (size_t)(16 * planes) - (size_t)one_in(20) + (size_t)one_in(20));
}
static void read_ppm(void) {
    int planes = input_size > 1 && input[1] == '5' ? 1 : 3;
    Pictures p = pictures_ppm(in_folder("input"), 4, planes);
    check_pictures(&p);
    must(p.n == 1 && p.size == 4 && p.planes == planes && p.classes == 1, "%zu pictures of %d planes", p.n, p.planes);
    for (int i = 0; i < 16 * planes && !*wrong; i++) {
        must(p.bytes[i] == input[input_size - (size_t)(16 * planes) + (size_t)(i % 16 * planes + i / 16)], "pixel %d", i);
    }
    pictures_free(&p);
    must(n_taken == 0, "%d things are lost", n_taken);
}

static void put_names(void) {
    static const char* const words[] = {"plane", "bird", "", "a name that goes on and on and on and on and on and on and on",
        "\r", "class 3 horse", "class 1", "domain 0 art", "\xc3\xa9t\xc3\xa9", "class 0 ", "domain "};
    if (pick(2)) { put_text("domain 0 photo\n"); }
    for (size_t i = pick(plain ? 5 : 12); i > 0; i--) { put_text("%s%s", words[pick(11)], one_in(9) ? "" : "\n"); }
}
static void read_names(void) {
    for (size_t room = 24; room <= 64; room += 40) {
        char* name = (char*)malloc(room); // the sanitizer sees its end
        for (int class_ = 0; class_ < 300; class_ += class_ < 15 ? 1 : 97) {
            class_name(name, room, in_folder("input"), class_);
            must(*name != '\0' && strlen(name) < room, "class %d has a name of %zu bytes", class_, strlen(name));
            for (const char* p = name; *p; p++) { must(*p >= ' ' && *p < 127, "class %d has byte %d", class_, *p); }
        }
        free(name);
    }
    must(n_taken == 0, "%d things are lost", n_taken);
}

static void put_pattern(void) {
    static const char* const patterns[] = {"d_*.bin", "d_0.bin", "s*r.bin", "t10k-images*", "[ds]*.bin", "dir", "missing", "*",
        "d_[0-9].bin", "*.bin", "cut.bin", "t10k*", "empty", "[!s]?0.bin", "\\*", "t10k-labels-idx1-ubyte"};
    put_text("%s", patterns[pick(plain ? 4 : 16)]);
}
static void read_pattern(void) {
    char path[400];
    for (size_t i = 0; i < input_size; i++) { if (input[i] == '/') { input[i] = '|'; } } // it must stay in our folder
    snprintf(path, sizeof path, "%s/p/%.200s", folder, (const char*)input);
    Pictures p = pictures_open(path, "auto", 2);
    check_pictures(&p);
    must(p.size == 2 && p.n >= 2 && p.n <= 6, "%zu pictures of side %d", p.n, p.size);
    pictures_free(&p);
}

static void put_lists(void) { // of numbers or layers, as they stand in metadata
    static const char* const words[] = {"0.5", "0", "1", "1e-6", "nan", "inf", "-0.1", "1.1", "1e-7", "", " 0.5", "0x1p-3", "3",
        "12"};
    int layers = pick(2) > 0;
    put_text(layers ? "L" : pick(2) ? "m" : "s");
    for (size_t i = 0, n = one_in(6) ? pick(6) : layers ? 1 + pick(4) : 3; i < n; i++) {
        put_text("%s%s", i > 0 ? "," : "", layers && !one_in(8) ? words[1 + pick(2)] : words[pick(plain || pick(4) ? 3 : 14)]);
    }
}
static void read_lists(void) {
    char meta[1][2][512] = {{"list", ""}};
    SafeFile f;
    float least = *input == 's' ? 1e-6f : 0.0f;
    Config c;
    snprintf(meta[0][1], sizeof meta[0][1], "%s", input_size > 0 ? (const char*)input + 1 : "");
    memset(&c, 0, sizeof c);
    memset(&f, 0, sizeof f);
    f.path = "a file";
    f.meta = meta;
    f.n_meta = 1;
    c.L = 4;
    if (*input == 'L') {
        int n = config_moe_layers(&c, meta_text(&f, "list"));
        must(n >= 0 && n <= c.L && n == c.moe[0] + c.moe[1] + c.moe[2] + c.moe[3], "%d layers", n);
        return;
    }
    meta_floats(&f, "list", c.norm.mean, 3, least);
    for (int i = 0; i < 3; i++) {
        float x = c.norm.mean[i];
        must(x >= least && x <= 1.0f, "number %d is %g", i, (double)x);
    }
}

static void read_flags(void) { // as main does without --init, up to the plan of the run
    const char* argv[128];
    int argc = read_words(argv, 128);
    Settings s = flags_read(argc, argv);
    check_settings(&s);
    Pictures set = some_pictures(8, 3);
    Config c = config_make(&s, &set, NULL);
    model.with_ema = s.ema > 0.0f;
    plan(&c, s.batch, 1);
    double need = print_plan(&model, &s, &set, &set, "a CPU", 1);
    must(isfinite(need) && need > 0.0, "the plan needs %g bytes", need);
}

static const Reader readers[] = {
    {"safetensors", put_safetensors, read_safetensors, "input", 3, 1, 1},
    {"weights", put_weights, read_weights, "input", 6, 1, 1},
    {"upcycling", put_upcycling, read_upcycling, "input", 6, 1, 1},
    {"checkpoint", put_checkpoint, read_checkpoint, "input", 6, 1, 1},
    {"cifar", put_cifar, read_cifar, "input", 3, 0, 1},
    {"domains", put_domains, read_domains, "input", 3, 0, 1},
    {"idx", put_idx, read_idx, NULL, 3, 0, 1},
    {"ppm", put_ppm, read_ppm, "input", 3, 0, 1},
    {"names", put_names, read_names, "input", 2, 0, 0},
    {"pattern", put_pattern, read_pattern, NULL, 3, 0, 1},
    {"lists", put_lists, read_lists, NULL, 6, 0, 1},
    {"flags", put_flags, read_flags, NULL, 6, 0, 1}};
#include "fuzz_run.h"
