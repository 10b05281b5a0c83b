/*
Sets the routing of a trained ViT against the truth about its pictures: do patches on an edge use other experts, or more of them?

    dev/edges TRUTH ROUTING [UNTRAINED]

TRUTH comes from data/shapes --truth (per patch: 0 background, 1 edge, 2 inside of the shape), ROUTING from --dump-routing of
train_vit_dynmoe with those pictures as --val. For each DynMoE layer: how many experts each kind of patch uses, how much more the
edge uses than the background of the same picture (mean over pictures and its standard error), and how often each kind uses each
expert; a token that chose none has the one of the fallback. About the right number of experts there is no truth; compare several
seeds. And colours differ: a gate that was never trained uses other experts on edges too, so the routing of a model of 0 steps,
UNTRAINED, belongs beside it.

Build: make dev/edges
*/
#define TESTING // the trainer without its main: its reader of safetensors files is used here
#include "../train_gpt2_dynmoe.c"

enum { KINDS = 4 };
static const char* const kinds[KINDS] = {"background", "edge", "inside", "CLS token"};

static const unsigned char* column(const SafeFile* f, const char* name, const char* dtype, size_t rows) { // a tensor's bytes
    const SafeTensor* t = safetensors_find(f, name);
    require(t && strcmp(t->dtype, dtype) == 0 && t->ndim >= 1 && t->shape[0] == rows, "make it again with --dump-routing",
            "%s: no tensor %s of %zu rows of %s", f->path, name, rows, dtype);
    return t->data;
}

static void report_layer(const SafeFile* f, int layer, const unsigned char* truth, size_t pictures, size_t T) {
    char name[64];
    size_t n = pictures * T;
    double patches[KINDS] = {0}, sum[KINDS] = {0}, used[KINDS][MAX_EXPERTS] = {{0}}, more = 0.0, squares = 0.0, both = 0.0;
    snprintf(name, sizeof name, "h.%d.open", layer);
    const unsigned char* open = column(f, name, "U8", n);
    const SafeTensor* t = safetensors_find(f, name);
    require(t->ndim == 2 && t->shape[1] >= 1 && t->shape[1] <= MAX_EXPERTS, "make it again with --dump-routing",
            "%s: %s is not (tokens, experts)", f->path, name);
    size_t E = t->shape[1];
    for (size_t i = 0; i < pictures; i++) {
        double own[KINDS] = {0}, own_n[KINDS] = {0};
        for (size_t p = 0; p < T; p++) {
            int kind = p == 0 ? 3 : truth[i * (T - 1) + p - 1];
            own_n[kind]++;
            for (size_t e = 0; e < E; e++) { // who is at work, the one of the fallback too
                own[kind] += open[(i * T + p) * E + e];
                used[kind][e] += open[(i * T + p) * E + e];
            }
        }
        for (int q = 0; q < KINDS; q++) { sum[q] += own[q]; patches[q] += own_n[q]; }
        if (own_n[0] == 0.0 || own_n[1] == 0.0) { continue; }
        double d = own[1] / own_n[1] - own[0] / own_n[0];
        more += d;
        squares += d * d;
        both++;
    }
    printf("\nlayer %d     |  share experts | percent of the patches that use expert\n           |                |", layer);
    for (size_t e = 0; e < E; e++) { printf(" %4zu", e); }
    printf("\n");
    for (int q = 0; q < KINDS; q++) {
        if (patches[q] == 0.0) { continue; }
        printf("%-10s | %5.1f%%  %6.3f |", kinds[q], 100.0 * patches[q] / (double)n, sum[q] / patches[q]);
        for (size_t e = 0; e < E; e++) { printf(" %4.0f", 100.0 * used[q][e] / patches[q]); }
        printf("\n");
    }
    if (both < 2.0) { return; }
    double mean = more / both, error = sqrt(fmax(squares / both - mean * mean, 0.0) / (both - 1.0));
    printf("edge - background within a picture: %+.3f +- %.3f experts\n", mean, error);
}

static void report(const char* path, const unsigned char* truth, size_t bytes, const char* truth_path) { // one routing file
    static Config c;
    SafeFile f = safetensors_open(path);
    const char *format = safetensors_meta(&f, "format"), *model = safetensors_meta(&f, "model");
    require(format && model && strcmp(format, "dynmoe-routing 1") == 0 && strcmp(model, "vit") == 0,
            "give what train_vit_dynmoe --dump-routing wrote", "%s: not the routing of a ViT", path);
    size_t T = (size_t)meta_int(&f, "T", 2, 65026), per = T - 1;
    const SafeTensor *label = safetensors_find(&f, "label"), *predicted = safetensors_find(&f, "predicted");
    require(label && predicted && label->ndim == 1 && predicted->bytes == label->bytes && strcmp(label->dtype, "I32") == 0 &&
            label->bytes > 0, "make it again with --dump-routing", "%s: no labels", path);
    size_t n = label->bytes / 4, right = 0;
    require(bytes % per == 0 && n <= bytes / per, "give the truth about these pictures: data/shapes --truth",
            "%s: %zu bytes are not %zu pictures of %zu patches", truth_path, bytes, n, per);
    for (size_t i = 0; i < n; i++) { right += memcmp(label->data + 4 * i, predicted->data + 4 * i, 4) == 0; }
    printf("%s against %s: %zu pictures of %zu patches, %.1f%% in the right class\n", path, truth_path, n, per,
           100.0 * (double)right / (double)n);
    c.L = MAX_LAYERS;
    config_moe_layers(&c, meta_text(&f, "moe_layers"));
    for (int l = 0; l < c.L; l++) { if (c.moe[l]) { report_layer(&f, l, truth, n, T); } }
    safetensors_close(&f);
}

int main(int argc, char** argv) {
    static const char* usage = "dev/edges TRUTH ROUTING [UNTRAINED]: files of data/shapes --truth and of train_vit_dynmoe "
                               "--dump-routing";
    if (argc == 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) { printf("%s\n", usage); return 0; }
    require_usage(argc >= 3 && argc <= 4 && argv[1][0] != '-', usage, "two or three files are needed");
    size_t bytes;
    unsigned char* truth = map_file(argv[1], &bytes);
    for (size_t i = 0; i < bytes; i++) {
        require(truth[i] < 3, "give a file of data/shapes --truth", "%s: a %d at place %zu", argv[1], truth[i], i);
    }
    report(argv[2], truth, bytes, argv[1]);
    if (argc == 4) {
        printf("\nthe same gates before any training, to compare with:\n");
        report(argv[3], truth, bytes, argv[1]);
    }
    munmap(truth, bytes);
    if (fflush(stdout) != 0 || ferror(stdout)) { die("is the disk full?", "cannot print the report"); }
    return 0;
}
