/*
Which characters use how many experts? Prints a text, and what the model continues it with, in the colours of k.

    dev/colour MODEL TEXT [--layer L] [--generate N] [--temperature X] [--seed S] [--threads N] [--tokenizer vocab.bpe]

    $ dev/colour out_compare/top-any-1/model.safetensors 'let f=3;let a=7;' --generate 15 --layer 2 | cat
    k of layer 2, below each character; 6 experts are active; 0: none chosen, the fallback serves it
    let f=3;let a=7;say f->2
    2222212332221123323233121
    let b=
    422221
    mean k 2.097 over 31 tokens; the last 15 are the model's own

On a terminal each character has its colour, from pale (k = 0) to dark (all active experts), and what the model wrote is
underlined. Elsewhere, or with NO_COLOR set, the digit of k stands below the character (a is 10, b is 11, ... and + is 36 or more).
k is what the token chose: 0 means none, then the fallback serves it. Without --layer it is the mean over the DynMoE layers,
rounded. A newline has a k too: that of the blank behind its line. The continuation takes the most likely token each time unless
--temperature says otherwise. Every token is routed with the last T/2 tokens before it in view, or more; T is the context.

A character of several bytes (UTF-8) has the mean k of its bytes. A model of BPE tokens needs --tokenizer; TEXT then is a token
file (.bin) that data/tokenize made, a token has one colour, and its digit stands below its first character.

Build: make dev/colour
*/
#ifndef TESTING // test/test_tools.c has the program in it already, and a main of its own
#define TESTING
#define WITH_MAIN
#include "../train_gpt2_dynmoe.c"
#endif

enum { SHADES = 9 };
static const int shade_background[SHADES] = {230, 229, 222, 215, 208, 202, 160, 124, 88}; // of the 256 colours of a terminal
static const int shade_text[SHADES] = {16, 16, 16, 16, 16, 16, 231, 231, 231};            // black, later white

typedef struct { // the text as bytes: k is that of the byte's token; first: its token begins here; own: the model wrote it
    char* bytes;
    double* k;
    unsigned char *first, *own;
    size_t n;
} ColourText;

// ----------------------------------------------------------------------------
// What to print

static void colour_k(double* k, GPT2* model, const int* tokens, int n, int layer) {
    // k (n) = experts that each of tokens (n) chose in the layer, or the mean over all DynMoE layers (layer -1)
    int T = model->config.T, moe = 0;
    for (int l = 0; l < model->config.L; l++) { moe += layer < 0 ? model->config.moe[l] : l == layer; }
    for (int done = 0, end; done < n; done = end) { // windows of T tokens that overlap by half
        int start = done == 0 ? 0 : done - T / 2;
        end = n - start < T ? n : start + T;
        gpt2_forward(model, tokens + start, NULL, 1, end - start, 0);
        for (int i = done; i < end; i++) {
            k[i] = 0.0;
            for (int l = 0; l < model->config.L; l++) {
                if (layer < 0 ? model->config.moe[l] : l == layer) { k[i] += (double)model->layer[l].k[i - start] / moe; }
            }
        }
    }
}

static const char* colour_token(int token, int V, const Vocabulary* v, size_t* length) { // its bytes
    static char byte;
    *length = 1;
    byte = V == 256 ? (char)token : '?';
    if (V == 256 || token >= v->n) { return &byte; }
    *length = v->at[token + 1] - v->at[token];
    return v->bytes + v->at[token];
}

static ColourText colour_text(const int* tokens, const double* k, int n, int given, int V, const Vocabulary* v) {
    ColourText t;
    size_t length;
    memset(&t, 0, sizeof t);
    for (int i = 0; i < n; i++) { colour_token(tokens[i], V, v, &length); t.n += length; }
    t.bytes = (char*)alloc_zeroed(t.n, 1, "the text");
    t.k = (double*)alloc_zeroed(t.n, sizeof(double), "the text");
    t.first = (unsigned char*)alloc_zeroed(t.n, 1, "the text");
    t.own = (unsigned char*)alloc_zeroed(t.n, 1, "the text");
    t.n = 0;
    for (int i = 0; i < n; i++) {
        const char* bytes = colour_token(tokens[i], V, v, &length);
        for (size_t j = 0; j < length; j++, t.n++) {
            t.bytes[t.n] = bytes[j];
            t.k[t.n] = k[i];
            t.first[t.n] = j == 0;
            t.own[t.n] = i >= given;
        }
    }
    return t;
}

// ----------------------------------------------------------------------------
// Printing

static char colour_digit(int k) { return (char)(k < 10 ? '0' + k : k < 36 ? 'a' + k - 10 : '+'); }

static int colour_shade(int k, int all) { return all > 0 ? (2 * k * (SHADES - 1) + all) / (2 * all) : 0; } // rounded

static int colour_wanted(int terminal) { // NO_COLOR: see no-color.org
    const char *no = getenv("NO_COLOR"), *term = getenv("TERM");
    return terminal && (no == NULL || *no == '\0') && (term == NULL || strcmp(term, "dumb") != 0);
}

static size_t colour_utf8(const char* s, size_t n) { // bytes of the character that s (n) begins with; 0: none that can be printed
    unsigned char c = (unsigned char)s[0], d = n > 1 ? (unsigned char)s[1] : 0;
    size_t length = c >= 32 && c < 127 ? 1 : c >= 0xC2 && c <= 0xDF ? 2 : c >> 4 == 14 ? 3 : c >= 0xF0 && c <= 0xF4 ? 4 : 0;
    if (length > n || (c == 0xC2 && d < 0xA0) || (c == 0xE0 && d < 0xA0) || (c == 0xED && d > 0x9F) || (c == 0xF0 && d < 0x90) ||
        (c == 0xF4 && d > 0x8F)) { return 0; } // cut; C1 controls; too long; surrogates; beyond Unicode
    for (size_t i = 1; i < length; i++) { if ((unsigned char)s[i] >> 6 != 2) { return 0; } }
    return length;
}

static void colour_print(const ColourText* t, int all, int on) { // all: k of the darkest colour; on: colours, not digits
    char* below = (char*)alloc_zeroed(t->n + 1, 1, "the digits below a line");
    size_t width = 0, step;
    for (size_t i = 0; i < t->n; i += step) {
        step = colour_utf8(t->bytes + i, t->n - i);
        int shown = step > 0, newline = t->bytes[i] == '\n', first = 0, last;
        double sum = 0.0;
        step = shown ? step : 1;
        last = i + step == t->n;
        for (size_t j = i; j < i + step; j++) { sum += t->k[j]; first |= t->first[j]; }
        int k = (int)(sum / (double)step + 0.5), s = colour_shade(k, all);
        below[width++] = first ? colour_digit(k) : ' ';
        if (on) { printf("\033[%s48;5;%d;38;5;%dm", t->own[i] ? "4;" : "", shade_background[s], shade_text[s]); }
        if (shown) { fwrite(t->bytes + i, 1, step, stdout); }
        else if (on || !newline) { putchar(newline || t->bytes[i] == '\t' ? ' ' : '?'); }
        if (on) { printf("\033[0m"); }
        if (newline || last) {
            putchar('\n');
            if (!on) { printf("%.*s\n", (int)width, below); }
            width = 0;
        }
    }
    free(below);
}

static void colour_legend(const GPT2* model, int layer, int all, int on) {
    const Config* c = &model->config;
    if (layer >= 0) { printf("k of layer %d", layer); } else { printf("k, mean over layers"); }
    for (int l = 0; layer < 0 && l < c->L; l++) { if (c->moe[l]) { printf(" %d", l); } }
    printf(on ? ":" : ", below each character; %d experts are active", all);
    for (int k = 0, by = all / 16 + 1; on && k <= all; k += by) { // not more than 17 cells
        int s = colour_shade(k, all);
        printf(" \033[48;5;%d;38;5;%dm %d \033[0m", shade_background[s], shade_text[s], k);
    }
    if (on) { printf(" of %d active experts", all); }
    printf("%s\n", c->router == TOP_ANY ? "; 0: none chosen, the fallback serves it" : "");
}

// ----------------------------------------------------------------------------

static int colour_tokens(int** tokens, const Settings* s, const char* text, int V) {
    // out: the tokens of text, with room for --generate more; returns how many there are
    Data file = {NULL, 0, 2, text};
    require_usage(V == 256 || *s->tokenizer, "give --tokenizer vocab.bpe", "the model reads BPE tokens");
    require_usage(V == 256 || is_bin(text), "data/tokenize makes a token file (.bin) from text",
                  "TEXT %s: the model reads BPE tokens", text);
    require_usage(V != 256 || !*s->tokenizer, "leave --tokenizer out", "the model reads bytes");
    if (V != 256) { data_add(&file, text); }
    size_t n = V != 256 ? file.shard[0].n : strlen(text);
    require(n > 0 && n < 1000000, "give a text of up to a million tokens", "%s: %zu tokens", text, n);
    *tokens = (int*)alloc_zeroed(n + (size_t)s->generate, sizeof(int), "the text");
    for (size_t i = 0; i < n; i++) {
        const unsigned char* b = V != 256 ? file.shard[0].bytes + 2 * i : NULL;
        (*tokens)[i] = b != NULL ? b[0] | b[1] << 8 : (unsigned char)text[i];
        require((*tokens)[i] < V, "give tokens of the model's vocabulary", "%s: token %d at %zu", text, (*tokens)[i], i);
    }
    free(file.shard);
    return (int)n;
}

static int colour_run(int argc, char** argv, int on) {
    static const char* usage = "dev/colour MODEL TEXT [--layer L] [--generate N] [--temperature X] [--seed S] [--threads N] "
                               "[--tokenizer vocab.bpe]";
    static const char* const known[] = {"--layer", "--generate", "--temperature", "--seed", "--threads", "--tokenizer"};
    static GPT2 model;
    const char *path = NULL, *text = NULL, *layer_text = NULL;
    const char** flags = (const char**)alloc_zeroed((size_t)argc + 3, sizeof(char*), "flags");
    int n = 0, layer = -1, all = 0, *tokens, last = argc; // last: where the flags end; after -- comes a text that begins with -
    flags[n++] = argv[0];
    flags[n++] = "--generate=0";
    flags[n++] = "--temperature=0";
    for (int i = 1; i < argc; i++) {
        if (i < last && (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)) { printf("%s\n", usage); return 0; }
        if (i < last && strcmp(argv[i], "--") == 0) { last = i; continue; }
        if (i > last || argv[i][0] != '-') {
            require_usage(text == NULL, usage, "MODEL and one TEXT, not %s too (a text with blanks needs quotes)", argv[i]);
            if (path == NULL) { path = argv[i]; } else { text = argv[i]; }
            continue;
        }
        int found = -1;
        for (int k = 0; k < 6; k++) { if (strcmp(argv[i], known[k]) == 0) { found = k; } }
        require_usage(found >= 0, usage, "unknown flag %s (before a TEXT that begins with - write --)", argv[i]);
        require_usage(i + 1 < argc, usage, "%s needs a value", argv[i]);
        if (found == 0) { layer_text = argv[i + 1]; } else { flags[n++] = argv[i]; flags[n++] = argv[i + 1]; }
        i++;
    }
    require_usage(path != NULL && text != NULL, usage, "%s is missing", path == NULL ? "MODEL" : "TEXT");
    Settings s = flags_read(n, flags);
    uint64_t rng = random_stream((uint64_t)s.seed, 2); // samples as the trainer's --prompt does
    s.eval_only = 1; // the layers are those of the file
    threads_set(s.threads);
    SafeFile file = safetensors_open(path);
    Config config = config_make(&s, 256, &file);
    gpt2_build(&model, config, 1, config.T, 0);
    weights_load(&model, &file, 0, 0.0f, &rng);
    safetensors_close(&file);
    for (int l = 0, active; l < config.L; l++) {
        char name[16];
        snprintf(name, sizeof name, "%d", l);
        int wanted = layer_text != NULL ? strcmp(layer_text, name) == 0 : 1;
        if (!config.moe[l] || !wanted) { continue; }
        if (layer_text != NULL) { layer = l; }
        active = 0;
        for (int e = 0; e < config.E; e++) { active += model.layer[l].mask[e]; }
        all = active > all ? active : all;
    }
    char list[512];
    moe_layers_print(list, &config);
    require(*list, "give a model that was trained with --moe-layers", "%s: a dense model, no token chooses experts", path);
    require_usage(layer_text == NULL || layer >= 0, usage, "--layer %s: the DynMoE layers of %s are %s", layer_text, path, list);
    int given = colour_tokens(&tokens, &s, text, config.V), total = given + s.generate;
    size_t nothing[2] = {0, 0};
    Vocabulary v = {NULL, nothing, 0};
    if (*s.tokenizer) { v = vocabulary_open(s.tokenizer); }
    generate(&model, &s, tokens, given, total, &rng);
    double mean = 0.0, *k = (double*)alloc_zeroed((size_t)total, sizeof(double), "the text");
    colour_k(k, &model, tokens, total, layer);
    for (int i = 0; i < total; i++) { mean += k[i] / total; }
    ColourText t = colour_text(tokens, k, total, given, config.V, &v);
    colour_legend(&model, layer, all, on);
    colour_print(&t, all, on);
    printf("mean k %.3f over %d tokens", mean, total);
    if (s.generate > 0) { printf("; the last %d are the model's own%s", s.generate, on ? " (underlined)" : ""); }
    printf("\n");
    if (v.n > 0) { free(v.bytes); free(v.at); }
    free(tokens); free(k); free(flags); free(t.bytes); free(t.k); free(t.first); free(t.own);
    gpt2_free(&model);
    require(fflush(stdout) == 0 && !ferror(stdout), "is the disk full?", "cannot print the text");
    return 0;
}

#ifdef WITH_MAIN
int main(int argc, char** argv) { return colour_run(argc, argv, colour_wanted(isatty(STDOUT_FILENO))); }
#endif
