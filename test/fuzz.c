/*
Feeds damaged files and command lines to every reader of train_gpt2_dynmoe.c, or with -DTOKENIZE to those of data/tokenize.c,
under AddressSanitizer and UBSan. test/fuzz_vit.cu does the same to train_vit_dynmoe.cu; the harness is in fuzz_system.h and
fuzz_run.h, and in fuzz_model.h what programs that train have in common.

    test/fuzz SEED COUNT            COUNT inputs made from SEED, the same ones everywhere; ends with: N passed, N failed
    test/fuzz --file READER FILE    one input again: a failure leaves its input in a file and says how to come back to it
    test/fuzz --corpus DIR          writes a few good inputs for each reader, for the search that is guided by coverage:
    clang -g -O1 -DLIBFUZZER -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -Wno-unknown-pragmas \
        test/fuzz.c -o fuzz -lm && ./fuzz DIR

A reader must come back with something sane and say nothing, or refuse: exit with code 1 or 2 after one line `error: ...` and
one `---> HINT: ...`, free of control characters. Anything else fails: a crash, a sanitizer's report, 20 seconds, more memory
than the size of the input explains, something lost. So does a reader that accepts or refuses less than one input in a hundred:
then the inputs do not get deep, or it does not look.

How: the program's exit() is a longjmp, its stderr a buffer, and a map of a file a copy in memory, where the sanitizer sees its
end. The memory and streams it takes are listed, to be counted and given back after each input. A child process runs a thousand
inputs, so that the parent outlives what crashes.
*/
#include "fuzz_system.h"
#ifdef TOKENIZE
#include "../data/tokenize.c"
#else
#include "../train_gpt2_dynmoe.c"
#endif

static void put_tokens(size_t n, size_t V) { // llm.c's .bin
    int32_t header[256] = {20240520, 1, (int32_t)n};
    put(header, sizeof header);
    for (size_t i = 0; i < n; i++) {
        uint16_t token = (uint16_t)(one_in(200) ? number() : pick(V));
        put(&token, 2);
    }
    hot = 16;
}

#ifndef TOKENIZE
enum { OWN = 4, PUBLISHED = 2, SEEDS = 7 }; // good files: four of our own, two of GPT-2's layout, one of other tensors
static const char* const values[] = {"", "nan", "inf", "-1", "1e9", "0,1", "all", "none", "0", "1", "2", "3", "4", "16",
    "top-k", "top-p", "dense", "top-any", "128", "\x1b[31m\n", "65536", "0.5", "default", "paper", "authors", "normalised",
    "detached", "copies"};
static const char* const good_flags[] = {"--router=top-k", "--router=top-p", "--router=dense", "--preset=paper", "--preset=authors",
    "--resume=@/0", "--resume=@/1", "--moe-layers=0,2", "--moe-layers=none", "--kgrad=detached", "--help", "-e", "--depth=3"};
#include "fuzz_model.h"

static GPT2 model, dense;

static void tiny_model(GPT2* m, const char* flags) {
    Settings s = settings(flags);
    Config c = config_make(&s, 5, NULL);
    uint64_t rng = 7;
    c.Vp = 6;
    gpt2_build(m, c, s.batch, c.T, 1);
    gpt2_init(m, s.start_experts, 0, 0.0f, &rng);
}

static SafeFile published(const char* path, const char* prefix) { // GPT-2's layout, C = 4, T = 3, V = 5, two layers
    static const struct { const char* name; size_t shape[2]; } list[] = {
        {"ln_1.weight", {4, 0}}, {"ln_1.bias", {4, 0}}, {"attn.c_attn.weight", {4, 12}}, {"attn.c_attn.bias", {12, 0}},
        {"attn.c_proj.weight", {4, 4}}, {"attn.c_proj.bias", {4, 0}}, {"ln_2.weight", {4, 0}}, {"ln_2.bias", {4, 0}},
        {"mlp.c_fc.weight", {4, 16}}, {"mlp.c_fc.bias", {16, 0}}, {"mlp.c_proj.weight", {16, 4}}, {"mlp.c_proj.bias", {4, 0}},
        {"wte.weight", {5, 4}}, {"wpe.weight", {3, 4}}, {"ln_f.weight", {4, 0}}, {"ln_f.bias", {4, 0}}};
    SafeTensor t[28];
    for (int i = 0; i < 28; i++) {
        int k = i < 24 ? i % 12 : i - 12;
        char name[64] = "";
        if (i < 24) { snprintf(name, sizeof name, "h.%d.", i / 12); }
        strcat(name, list[k].name);
        t[i] = safe_tensor(prefix, name, "F32", list[k].shape[1] > 0 ? 2 : 1, list[k].shape, pool);
    }
    safetensors_save(path, t, 28, "\"format\":\"pt\"");
    return safetensors_open(path);
}

static void setup(void) {
    static const char* const own[OWN] = {
        "--layers 2 --moe-layers none --heads 2 --channels 4 --context 3 --batch 2",
        "--layers 2 --moe-layers 0 --experts 2 --start-experts 1 --heads 1 --channels 4 --context 3 --batch 2 --expert-width 16",
        "--layers 1 --moe-layers all --experts 3 --router top-k --topk 1 --shared-experts 2 --heads 4 --channels 4 --context 2",
        "--layers 2 --moe-layers 1 --experts 2 --start-experts 2 --heads 2 --channels 4 --context 3 --batch 1"};
    static const char* files[] = {"p/t_0.bin", "p/t_1.bin", "p/a.txt", "p/s*r.txt"};
    const Progress p = {3, 11, 22, 1.5f};
    threads_set(1); // threads do not survive a fork, and tiny matrices need none
    fill_pool();
    for (int i = 0; i < SEEDS; i++) {
        static char path[SEEDS][80]; // the seeds point to it
        snprintf(path[i], sizeof path[i], "%s/%d", folder, i);
        if (i >= OWN && i < OWN + PUBLISHED) { seeds[i] = published(path[i], i == OWN ? "" : "transformer."); continue; }
        if (i < OWN) { tiny_model(&model, own[i]); checkpoint_save(&model, &p, path[i]); gpt2_free(&model); }
        else { save_others(path[i]); }
        seeds[i] = safetensors_open(path[i]);
    }
    tiny_model(&dense, own[0]);
    mkdir(in_folder("p"), 0700); // for patterns: files of both kinds, sound and not
    mkdir(in_folder("p/dir"), 0700);
    put_tokens(6, 5);
    for (int i = 0; i < 4; i++) { file_of(in_folder(files[i]), input, input_size); }
    file_of(in_folder("p/cut.bin"), input, input_size - 1);
    file_of(in_folder("p/empty"), "", 0);
}

// ----------------------------------------------------------------------------------------------------------------------
// Models

static void plan(const Config* c, int B, int training) { // sizes may be anything: from here on memory is short
    double cells = (double)B * c->T * c->NH * c->T * c->L; // the largest part of the activations
    gpt2_plan(&model, *c, B, c->T, training);
    must((double)model.act_bytes >= 4.0 * cells, "activations of %zu bytes, attention alone has %g", model.act_bytes, 4.0 * cells);
    must(c->C % c->NH == 0 && c->E <= c->C && c->L >= 1 && c->L <= MAX_LAYERS && c->E <= MAX_EXPERTS && c->V <= c->Vp,
         "%d channels, %d heads, %d experts, %d layers, vocabulary %d of %d", c->C, c->NH, c->E, c->L, c->V, c->Vp);
    memory_is_short = 1;
}

static void try_model(const Config* c, int training) { // is it sane, does it run? Its results may be NaN, like what is in a file
    int T = c->T < 3 ? c->T : 3, x[3] = {0, c->V - 1, c->V / 2};
    must(isfinite(c->tau) && c->tau > 0.0f, "tau is %g", (double)c->tau);
    must(c->topp >= 0.0f && c->topp <= 1.0f, "P of top-p is %g", (double)c->topp);
    for (int i = 0; i < c->L * c->E; i++) {
        int mask = model.layer[i / c->E].mask[i % c->E];
        must(mask == 0 || mask == 1, "layer %d has a mask of %d", i / c->E, mask);
    }
    if (model.n_params > 100000 || *wrong) { return; } // slow
    gpt2_forward(&model, x, x, 1, T, training);
    if (training) { gpt2_backward(&model, 1.0f); }
}

static void read_model(const char* flags, int training) { // as main does with --init
    uint64_t rng = 5;
    Settings s = settings(flags);
    s.heads = 2; // of published files; as a flag it would have to agree with the others
    SafeFile f = open_file();
    Config c = config_make(&s, 5, &f);
    plan(&c, 1, training);
    gpt2_build(&model, c, 1, c.T, training);
    weights_load(&model, &f, c.router == TOP_ANY ? s.start_experts : c.E, s.threshold, &rng);
    safetensors_close(&f);
    try_model(&c, training);
    gpt2_free(&model);
    must(n_taken == 0, "%d things are lost", n_taken);
}

static void put_weights(void) { put_file(0, OWN + PUBLISHED, 0); }
static void read_weights(void) { read_model("--eval-only", 0); }

static void put_upcycling(void) { int n = pick(3) > 0; put_file(n ? 0 : OWN, n ? 1 : PUBLISHED, 0); } // dense files
static void read_upcycling(void) { read_model("--moe-layers all --experts 2 --start-experts 1", 1); }

static void put_checkpoint(void) { put_file(0, OWN, 1); }
static void read_checkpoint(void) { // as main does with --resume
    const char* argv[] = {"fuzz", "--resume", in_folder("input")};
    Settings s = flags_read(3, argv);
    SafeFile f = open_file();
    Config c = config_make(&s, 5, &f);
    Progress p;
    plan(&c, s.batch, 1);
    gpt2_build(&model, c, s.batch, c.T, 1);
    checkpoint_load(&model, &f, &p);
    safetensors_close(&f);
    must(p.step >= 0 && p.rng_data != 0 && p.rng_sample != 0 && !isnan(p.best_val), "step %d, best %g", p.step, (double)p.best_val);
    must(model.recording == 0 || model.recording == 1, "recording is %d", model.recording);
    try_model(&c, 1);
    gpt2_free(&model);
}

static void put_prompt(void) { put_tokens(pick(9), 5); }
static void read_prompt(void) { // a token file, to be continued by a model of five tokens
    Settings s = settings("--generate 2");
    uint64_t rng = 3;
    continue_text(&dense, &s, in_folder("input.bin"), &rng, NULL);
}

// ----------------------------------------------------------------------------------------------------------------------
// Data, vocabulary, flags

static void read_data(const char* path, int V) { // as training and validation do
    int x[4], y[4];
    Data d = data_open(path), val = data_split(&d);
    for (int stride = 1; stride <= 4; stride += 3) {
        size_t places = data_places(&d, 4, stride);
        for (size_t i = 0; i < places; i += i < 50 || i + 9 > places ? 1 : 7) {
            data_read(&d, i, stride, x, y, 4, V);
            for (int t = 0; t < 4; t++) { must(x[t] >= 0 && x[t] < V && y[t] >= 0 && y[t] < V, "tokens %d and %d", x[t], y[t]); }
        }
    }
    if (shard_places(val.shard, 4, 4) > 0) { data_read(&val, shard_places(val.shard, 4, 4) - 1, 4, x, y, 4, V); }
}

static void put_bin(void) { put_tokens(pick(60), 300); }
static void read_bin(void) { read_data(in_folder("input.bin"), 300); }

static void put_bytes(void) { for (size_t i = pick(plain || pick(4) ? 100 : 8); i > 0; i--) { put(pool + pick(sizeof pool), 1); } }
static void read_bytes(void) { read_data(in_folder("input"), 256); }

static void put_pattern(void) {
    static const char* const patterns[] = {"t_*.bin", "*.txt", "[as]*", "t_0.bin", "dir", "s*r.txt", "missing", "t_[0-9].bin",
        "\\*", "*.bin", "a.txt", "*", "cut.bin", "{a,b}.txt", "??t_?.bin", "empty", "[!s]?txt"};
    put_text("%s", patterns[pick(plain ? 4 : 17)]);
}
static void read_pattern(void) {
    char path[400];
    for (size_t i = 0; i < input_size; i++) { if (input[i] == '/') { input[i] = '|'; } } // it must stay in our folder
    snprintf(path, sizeof path, "%s/p/%.200s", folder, (const char*)input);
    read_data(path, 65536);
}

static void put_vocabulary(void) {
    static const char* const letters[] = {"a", "t", "\xc4\xa0", "\xc3\xa9", "\xc5\x83", "~", "#", "\xc4\x80", "\xc5\x80", "\xe2"};
    put_text("#version: 0.2\n");
    if (one_in(300)) { for (size_t i = 65270 + pick(20); i > 0; i--) { put(" \n", 2); } } // as many as it can hold, or more
    for (size_t i = pick(30); i > 0; i--) {
        size_t first = pick(3), last = first + 2 + pick(3);
        for (size_t k = 0; k < last; k++) { put_text("%s", k == first ? " " : letters[one_in(200) ? 9 : pick(8)]); }
        put("\n", 1);
    }
}
static void read_vocabulary(void) {
    Vocabulary v = vocabulary_open(in_folder("input"));
    must(v.n >= 257 && v.n <= 65536 && v.at[0] == 0, "%d tokens", v.n);
    for (int i = 0; i < v.n; i++) { must(v.at[i] <= v.at[i + 1] && (i > 255 || v.at[i + 1] == (size_t)i + 1), "token %d", i); }
    for (int i = 0; i <= v.n; i += v.n < 300 || i + 9 > v.n ? 1 : 7) { print_tokens(&i, 1, 50257, &v); } // one beyond, too
    free(v.bytes);
    free(v.at);
    must(n_taken == 0, "%d things are lost", n_taken);
}

static void read_flags(void) { // as main does without --init, up to the plan of the run
    const char* argv[128];
    int argc = read_words(argv, 128);
    Settings s = flags_read(argc, argv);
    check_settings(&s);
    Config c = config_make(&s, 256, NULL);
    Shard shard = {pool, sizeof pool, 0, NULL};
    Data d = {&shard, 1, 1, "pool"};
    plan(&c, s.batch, 1);
    double need = print_plan(&model, &s, &d, &d, "a CPU", 1);
    must(isfinite(need) && need > 0.0, "the plan needs %g bytes", need);
}

static const Reader readers[] = {
    {"safetensors", put_safetensors, read_safetensors, "input", 3, 1, 1},
    {"weights", put_weights, read_weights, "input", 6, 1, 1},
    {"upcycling", put_upcycling, read_upcycling, "input", 6, 1, 1},
    {"checkpoint", put_checkpoint, read_checkpoint, "input", 6, 1, 1},
    {"prompt", put_prompt, read_prompt, "input.bin", 3, 0, 1},
    {"bin", put_bin, read_bin, "input.bin", 3, 0, 1},
    {"text", put_bytes, read_bytes, "input", 3, 0, 1},
    {"pattern", put_pattern, read_pattern, NULL, 3, 0, 1},
    {"vocabulary", put_vocabulary, read_vocabulary, "input", 2, 0, 1},
    {"flags", put_flags, read_flags, NULL, 6, 0, 1}};
#endif
#ifdef TOKENIZE
// ----------------------------------------------------------------------------------------------------------------------
// data/tokenize.c

static Bpe* small; // a vocabulary of a few merges

static void setup(void) {
    static const char merges[] = "#version: 0.2\na b\nab ab\nt h\nth e\n\xc4\xa0 the\na a\naa aa\n"
                                 "\xc4\x8a \xc4\x8a\n' s\n\xc3\xa9 a\n";
    small = bpe_open(file_of(in_folder("small"), merges, sizeof merges - 1));
}

static void check_round(const Bpe* b, const unsigned char* s, size_t n) { // text to tokens to the same text, in all ways
    for (int how = 0; how < DOCUMENTS; how++) {
        size_t m, back_n;
        uint16_t* tokens = encode(b, s, n, how, &m);
        for (size_t i = 0; i < m; i++) { must(tokens[i] <= b->eot, "token %d of %d", tokens[i], b->eot); }
        unsigned char* text = decode(b, tokens, m, how, &back_n);
        must(back_n == n && memcmp(text, s, n) == 0, "%zu bytes became %zu tokens, and these %zu other bytes", n, m, back_n);
        free(text);
        free(tokens);
    }
}

static void put_bpe(void) { // each line is two tokens that were made before, mostly
    char tokens[20][80] = {"a", "b", "c", "\xc4\xa0", "\xc3\xa9"};
    size_t n = 5;
    put_text("#version: 0.2\n");
    for (size_t i = pick(plain ? 3 : 12); i > 0; i--) {
        const char *x = tokens[pick(n)], *y = tokens[pick(n)];
        if (strlen(x) + strlen(y) >= 80) { continue; }
        put_text("%s %s\n", x, y);
        memmove(tokens[n], x, strlen(x));
        memmove(tokens[n++] + strlen(x), y, strlen(y) + 1);
    }
}
static void read_bpe(void) {
    static const unsigned char text[] = "abc abca the aaaaaaaaaa bc\n\n\n x \xc3\xa9\xc3 aabbccaabb aaa";
    Bpe* b = bpe_open(in_folder("input"));
    must(b->eot == 256 + b->merges && b->merges >= 0 && b->eot < 65536, "%d merges", b->merges);
    for (int t = 0; t <= b->eot; t++) { must(b->start[t] < b->start[t + 1], "token %d is empty", t); }
    check_round(b, text, sizeof text - 1);
    bpe_close(b);
    must(n_taken == 0, "%d things are lost", n_taken);
}

static void put_bin(void) { put_tokens(pick(60), 266); }
static void read_bin(void) {
    size_t m, n;
    uint16_t* tokens = read_tokens(small, in_folder("input"), &m);
    for (size_t i = 0; i < m; i++) { must(tokens[i] <= small->eot, "token %d of %d", tokens[i], small->eot); }
    for (int how = 0; how < DOCUMENTS; how++) { free(decode(small, tokens, m, how, &n)); }
    free(tokens);
    must(n_taken == 0, "%d things are lost", n_taken);
}

static void put_text_parts(void) {
    static const char* const parts[] = {"a", "ab", "aaaa", "the", " the", " ", "\n", "\n\n", "'s", "'ll", "7", "\xc3\xa9", "!?",
        "\xe2\x82\xac", "<|endoftext|>", "<|end", "\xf0\x9f\x98\x80", "\xc3", "\xed\xa0\x80", "\xe3\x80\x80"};
    size_t one = pick(20), always = pick(4) == 0;
    for (size_t i = pick(pick(8) ? 30 : 600); i > 0; i--) { put_text("%s", parts[always ? one : pick(20)]); }
}
static void read_text(void) { // the two ways to merge must agree
    uint16_t a[SHORT], b[SHORT];
    size_t n = input_size < (size_t)SHORT ? input_size : (size_t)SHORT, k = n > 0 ? merge_short(small, input, n, a) : 0;
    unsigned char* exact = (unsigned char*)malloc(input_size + 1) + 1; // the sanitizer sees its end
    memcpy(exact, input, input_size);
    must(k == (n > 0 ? merge_long(small, input, n, b) : 0) && memcmp(a, b, 2 * k) == 0, "merge_short and merge_long differ");
    check_round(small, exact, input_size);
    free(exact - 1);
    must(n_taken == 0, "%d things are lost", n_taken);
}

static void put_options(void) {
    static const char* const words[] = {"encode", "e", "decode", "tokenizer", "--vocab", "-v", "--in", "--out", "--val", "--split",
        "--documents", "a", "b", "c", "-", "7", "0", "2147483648", "99999999999999999999", "-1", "lines", "marker", "nothing", "-h",
        "x\ny"};
    static const char good[] = "\0--vocab\0a\0--in\0b\0--out\0c", split[] = "--val\0d\0--split\0" "9";
    put_text("%s", words[pick(plain ? 2 : 4)]);
    put(good, sizeof good);
    if (pick(3) == 0) { put(split, sizeof split); }
    for (size_t i = one_in(2) ? pick(4) : 0; i > 0; i--) { const char* w = words[pick(25)]; put(w, strlen(w) + 1); }
}
static void read_options(void) {
    const char* argv[32];
    int argc = read_words(argv, 32);
    Config c = parse_options(argc, (char**)(uintptr_t)argv);
    must(c.command == 'E' || c.command == 'D' || c.command == 'T', "command %d", c.command);
    must(c.value[VOCAB] != NULL && c.value[OUT] != NULL && c.documents >= 0 && c.documents < DOCUMENTS, "something is missing");
}

static const Reader readers[] = {{"bpe", put_bpe, read_bpe, "input", 2, 0, 1}, {"bin", put_bin, read_bin, "input", 3, 0, 1},
    {"text", put_text_parts, read_text, NULL, 2, 0, 0}, {"options", put_options, read_options, NULL, 6, 0, 1}};
#endif
#include "fuzz_run.h"
