/*
Feeds damaged files and command lines to every reader of train_gpt2_dynmoe.c, or with -DTOKENIZE to those of data/tokenize.c,
under AddressSanitizer and UBSan.

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
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <float.h>
#include <glob.h>
#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

// ----------------------------------------------------------------------------------------------------------------------
// What the program gets in place of the system's

static jmp_buf back;                        // to run(), from exit()
static int exit_code;
static FILE* stderr_stream;                 // writes to said
static char said[8192], wrong[400];         // what the program said; the first thing that is wrong with it, or ""

__attribute__((format(printf, 2, 3))) static void must(int ok, const char* fmt, ...) {
    va_list args;
    va_start(args, fmt);
    if (!ok && *wrong == '\0') { vsnprintf(wrong, sizeof wrong, fmt, args); }
    va_end(args);
}

enum { MEMORY, STREAM };
static struct { void* p; size_t size; int kind; char** text; } taken[1024]; // text: where a stream to memory leaves its bytes
static int n_taken, memory_is_short;        // short: beyond the bound the program gets NULL, as on a small machine; else it fails
static size_t memory_taken, memory_bound;

static void* take(void* p, int kind, size_t size, char** text) {
    if (n_taken == 1024) { abort(); }
    taken[n_taken].p = p; taken[n_taken].kind = kind; taken[n_taken].size = size; taken[n_taken++].text = text;
    memory_taken += kind == MEMORY ? size : 0;
    return p;
}

static int give(const void* p, int kind) { // takes it off the list; was it there?
    for (int i = n_taken - 1; i >= 0; i--) {
        if (taken[i].p != p || taken[i].kind != kind) { continue; }
        memory_taken -= kind == MEMORY ? taken[i].size : 0;
        taken[i] = taken[--n_taken];
        return 1;
    }
    return 0;
}

static int too_much(size_t n, size_t size) {
    double bytes = (double)n * (double)size; // a product of integers may wrap
    if (bytes + (double)memory_taken <= (double)memory_bound) { return 0; }
    must(memory_is_short, "asks for %g bytes, having %zu; the bound is %zu", bytes, memory_taken, memory_bound);
    return 1;
}

static void* fuzz_calloc(size_t n, size_t size) {
    return too_much(n, size) ? NULL : take(calloc(n, size), MEMORY, n * size, NULL);
}

static void* fuzz_realloc(void* p, size_t size) {
    give(p, MEMORY);
    return too_much(size, 1) ? NULL : take(realloc(p, size), MEMORY, size, NULL);
}

static void fuzz_free(void* p) { give(p, MEMORY); free(p); }

static void* fuzz_map(size_t size, int fd) {
    void* p = take(malloc(size), MEMORY, 0, NULL); // of no size: what the program takes for it is counted
    return read(fd, p, size) == (ssize_t)size ? p : MAP_FAILED;
}

static int fuzz_fclose(FILE* f) { // the bytes of a stream to memory are the program's then
    int i = n_taken - 1, bad = fclose(f);
    while (i >= 0 && (taken[i].p != f || taken[i].kind != STREAM)) { i--; }
    if (i >= 0) { taken[i].p = *taken[i].text; taken[i].kind = MEMORY; }
    return bad;
}

static void give_all(void) { // before the longjmp: a stream writes to the program's stack when it is closed
    for (int i = 0; i < n_taken; i++) { if (taken[i].kind == STREAM) { fuzz_fclose((FILE*)taken[i].p); } }
    for (; n_taken > 0; n_taken--) { free(taken[n_taken - 1].p); }
    memory_taken = 0;
}

__attribute__((noreturn)) static void fuzz_exit(int code) {
    exit_code = code;
    give_all();
    longjmp(back, 1);
}

// ----------------------------------------------------------------------------------------------------------------------
// Making inputs. All that is random comes from one state, which is set anew for each input.

#define ROOM 262144
static unsigned char input[ROOM + 1];       // the input, and a 0 behind it
static size_t input_size, hot;              // three changes out of four hit the first hot bytes
static uint64_t state;
static int plain;                           // 1: good inputs only, for the corpus
static char folder[64];                     // of this process

static size_t pick(size_t n) { // 0 .. n - 1
    state ^= state >> 12; state ^= state << 25; state ^= state >> 27;
    return (size_t)((state * 0x2545F4914F6CDD1Dull) >> 33) % (n > 0 ? n : 1);
}

static int one_in(size_t n) { return pick(n) == 0 && !plain; } // something bad

static void put(const void* bytes, size_t n) {
    n = n < ROOM - input_size ? n : ROOM - input_size;
    memcpy(input + input_size, bytes, n);
    input_size += n;
}

__attribute__((format(printf, 1, 2))) static void put_text(const char* fmt, ...) {
    char text[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    put(text, strlen(text));
}

static void splice(size_t at, size_t gone, const void* bytes, size_t n) { // bytes (n < 1024) in place of what was there
    unsigned char copy[1024];
    if (at + gone > input_size || input_size - gone + n > ROOM) { return; }
    memcpy(copy, bytes, n);
    memmove(input + at + n, input + at + gone, input_size - at - gone);
    memcpy(input + at, copy, n);
    input_size += n - gone;
}

static uint64_t number(void) { // around a power of two, or small, or negative
    uint64_t x = (uint64_t)1 << pick(64);
    return pick(3) == 0 ? pick(40) : pick(4) == 0 ? 0 - x : x + pick(3) - 1;
}

static void change_bytes(void) { // one random change
    static const char marks[] = "\"{}[],:\\ \n\t\r019-+.eEaunx#\x1b\x7f\x80\xc4\xff", *numbers[] = {"", "-1", "1e9", "0x7f", "nan",
        "99999999999999999999", "18446744073709551615", "18446744073709551616", "4294967296", "inf", "00", "1.5"};
    char text[1024];
    size_t at = pick(pick(4) > 0 && hot < input_size ? hot : input_size + 1), left = input_size - at, digits = 0;
    size_t n = 1 + pick(pick(3) == 0 ? 200 : 8), m = n < left ? n : left;
    uint64_t x = number();
    switch (pick(9)) {
    case 0: if (left > 0) { input[at] ^= (unsigned char)(1 << pick(8)); } break;
    case 1: splice(at, left > 0, &marks[pick(sizeof marks)], 1); break; // the 0 at its end too
    case 2: splice(at, 0, &marks[pick(sizeof marks)], 1); break;
    case 3: splice(at, m, "", 0); break;
    case 4: splice(pick(input_size + 1), 0, input + at, m); break;
    case 5: // another number in place of the next one
        for (; left > 0 && !isdigit(input[at]); left--) { at++; }
        while (digits < left && isdigit(input[at + digits])) { digits++; }
        if (pick(4) == 0) { snprintf(text, sizeof text, "%s", numbers[pick(12)]); } else { snprintf(text, 32, "%" PRIu64, x); }
        splice(at, digits, text, strlen(text));
        break;
    case 6: if (pick(4) == 0) { input_size = pick(2) ? at : at % 16; } break;
    case 7: splice(at, 0, memset(text, "a0 \\"[pick(4)], 700), 100 + pick(600)); break;
    default: if (left >= 8) { memcpy(input + at / 4 * 4, &x, (size_t)4 << pick(2)); } // little-endian, as most machines
    }
}

static const char* in_folder(const char* name) {
    static char paths[8][128];
    static int turn;
    char* path = paths[turn = (turn + 1) % 8];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

static const char* file_of(const char* path, const void* bytes, size_t n) { // not cut to 0 first: disks are slow with that
    int fd = open(path, O_WRONLY | O_CREAT, 0666);
    if (fd < 0 || write(fd, bytes, n) != (ssize_t)n || ftruncate(fd, (off_t)n) != 0 || close(fd) != 0) { perror(path); abort(); }
    return path;
}

static void put_tokens(size_t n, size_t V) { // llm.c's .bin
    int32_t header[256] = {20240520, 1, (int32_t)n};
    put(header, sizeof header);
    for (size_t i = 0; i < n; i++) {
        uint16_t token = (uint16_t)(one_in(200) ? number() : pick(V));
        put(&token, 2);
    }
    hot = 16;
}

static int read_words(const char** argv, int room) { // input as a command line; @ is our folder, as it has another name each time
    static char text[8192];
    size_t n = 0;
    int argc = 1;
    argv[0] = "fuzz";
    for (size_t i = 0; i < input_size && argc < room && n + sizeof folder + 2 < sizeof text; i++) {
        if (i == 0 || input[i - 1] == '\0') { argv[argc++] = text + n; }
        int all = input[i] == '@';
        n += (size_t)snprintf(text + n, sizeof text - n, "%.*s", all ? 64 : 1, all ? folder : (char*)input + i);
        if (input[i] == '\0') { text[n++] = '\0'; }
    }
    return argc;
}

typedef struct {
    const char* name;
    void (*base)(void), (*read)(void);      // base puts a good input, mostly
    const char* file;                       // where the input goes in the folder before read; NULL: nowhere
    size_t calm;                            // one input in so many gets changes of its bytes
    int header, refuses;                    // its first 8 bytes count the bytes of a header; it can refuse
} Reader;

static void *share(size_t n) { return mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0); }

#define TESTING
#undef stderr
#define stderr stderr_stream
#define exit fuzz_exit
#define calloc fuzz_calloc
#define realloc fuzz_realloc
#define free fuzz_free
#define fclose fuzz_fclose
#define open_memstream(text, size) ((FILE*)take(open_memstream(text, size), STREAM, 0, text))
#define mmap(at, size, prot, how, fd, offset) fuzz_map(size, fd)
#define munmap(p, size) fuzz_free(p)
#define fsync(fd) ((void)(fd), 0) // slow, and nothing here has to last
#ifdef TOKENIZE
#include "../data/tokenize.c"
#else
#include "../train_gpt2_dynmoe.c"

// ----------------------------------------------------------------------------------------------------------------------
// Files of tensors

enum { OWN = 4, PUBLISHED = 2, SEEDS = 7, MOST = 160 };
static SafeFile seeds[SEEDS];               // good files: four of our own, two of GPT-2's layout, one of other tensors
static struct { SafeTensor t[MOST]; size_t shift[MOST]; char meta[MOST][2][512]; int n, n_meta; } draft; // of a file
static unsigned char pool[65536];           // data that hurts
static GPT2 model, dense;

static Settings settings(const char* line) { // the flags in a line, with blanks between
    static char text[256];
    const char* argv[32] = {"fuzz"};
    int argc = 1;
    snprintf(text, sizeof text, "%s", line);
    for (char* word = strtok(text, " "); word != NULL; word = strtok(NULL, " ")) { argv[argc++] = word; }
    return flags_read(argc, argv);
}

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
    static const char* dtypes[] = {"F32", "U8", "BF16", "I64", "F16", "F64"};
    static const char* files[] = {"p/t_0.bin", "p/t_1.bin", "p/a.txt", "p/s*r.txt"};
    static const size_t shapes[6][3] = {{2, 3, 0}, {0, 7, 0}, {1, 0, 0}, {5, 0, 0}, {2, 2, 2}, {0, 0, 0}};
    static const int dims[6] = {2, 2, 0, 1, 3, 1};
    static const float bad[] = {NAN, INFINITY, -INFINITY, 0.0f, 1.0f, -1.0f, FLT_MAX, 1e-40f};
    const Progress p = {3, 11, 22, 1.5f};
    SafeTensor t[6];
    threads_set(1); // threads do not survive a fork, and tiny matrices need none
    for (size_t i = 0; i < sizeof pool / 4; i++) {
        uint32_t word = (uint32_t)(pick(4) ? 0x3c000000 + pick(0x02000000) : number());
        memcpy(pool + 4 * i, pick(8) ? (const void*)&word : &bad[pick(8)], 4);
    }
    for (int i = 0; i < 6; i++) { t[i] = safe_tensor("tensor of ", dtypes[i], dtypes[i], dims[i], shapes[i], pool); }
    for (int i = 0; i < SEEDS; i++) {
        static char path[SEEDS][80]; // the seeds point to it
        snprintf(path[i], sizeof path[i], "%s/%d", folder, i);
        if (i >= OWN && i < OWN + PUBLISHED) { seeds[i] = published(path[i], i == OWN ? "" : "transformer."); continue; }
        if (i < OWN) { tiny_model(&model, own[i]); checkpoint_save(&model, &p, path[i]); gpt2_free(&model); }
        else { safetensors_save(path[i], t, 6, "\"a\":\"b\",\"c\":\"\""); }
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

static const char* const values[] = {"", "nan", "inf", "-1", "1e9", "0,1", "all", "none", "0", "1", "2", "3", "4", "16",
    "top-k", "top-p", "dense", "top-any", "128", "\x1b[31m\n", "65536", "0.5", "default", "paper", "authors", "normalised",
    "detached", "copies"};
static const char* value(void) { return values[pick(sizeof values / sizeof values[0])]; }

static void change_draft(void) { // one random change of a tensor or of the metadata; offsets still fit, but for one case
    static const char* dtypes[] = {"F64", "I64", "F32", "I32", "BF16", "F16", "U8", "F8", ""};
    size_t x = pick((size_t)draft.n), y = pick((size_t)draft.n), m = pick(pick(2) && draft.n_meta > 20 ? 20 : (size_t)draft.n_meta);
    SafeTensor *a = &draft.t[x], *b = &draft.t[y], was = *a;
    if (draft.n == 0 || draft.n_meta == 0) { return; }
    switch (pick(16)) {
    case 0: *a = draft.t[--draft.n]; break;
    case 1: if (draft.n < MOST) { draft.t[draft.n++] = *a; } break;
    case 2: memcpy(a->name, b->name, sizeof a->name); break;
    case 3: a->name[pick(strlen(a->name) + 1)] = (char)pick(256); break;
    case 4: strcpy(a->dtype, dtypes[pick(9)]); break;
    case 5: a->shape[pick(a->ndim > 0 ? (size_t)a->ndim : 8)] = (size_t)number(); break;
    case 6: a->ndim = (int)pick(9); break;
    case 7: case 8: // one dimension more, in front
        memmove(a->shape + 1, a->shape, 7 * sizeof(size_t));
        a->shape[0] = 1 + pick(2);
        a->ndim += a->ndim < 8;
        break;
    case 9: *a = *b; *b = was; break;               // as good as before
    case 10: memcpy(was.name, b->name, sizeof was.name); *b = was; break;
    case 11: // other data; rather of the few that are no weights
        for (int i = 0; i < 9 && strcmp(a->dtype, "F32") == 0; i++) { a = &draft.t[pick((size_t)draft.n)]; }
        a->data = pool + 4 * pick(sizeof pool / 8);
        break;
    case 12: draft.shift[x] = pick(2) ? (size_t)number() : 0 - a->bytes - 4 * pick(3); break;
    case 13: memcpy(draft.meta[m], draft.meta[--draft.n_meta], sizeof draft.meta[m]); break;
    case 14: snprintf(draft.meta[m][1], 512, "%" PRIu64, number()); break;
    default: snprintf(draft.meta[m][1], 512, "%s", value());
    }
    for (int i = 0; i < draft.n; i++) { // their bytes now, which may wrap
        SafeTensor* t = &draft.t[i];
        size_t bytes = dtype_size(t->dtype) > 0 ? dtype_size(t->dtype) : 4;
        for (int d = 0; d < t->ndim; d++) { bytes *= t->shape[d]; }
        if (bytes > t->bytes && (t->data < pool || t->data >= pool + sizeof pool)) { t->data = pool; }
        t->bytes = bytes < sizeof pool / 2 ? bytes : sizeof pool / 2;
    }
}

static void put_draft(void) {
    size_t at = 0;
    FILE* h = fmemopen(input + 8, ROOM / 2, "w");
    fprintf(h, "{\"__metadata__\":{");
    for (int i = 0; i < draft.n_meta; i++) {
        fputs(i > 0 ? "," : "", h);
        json_print(h, draft.meta[i][0]);
        fputc(':', h);
        json_print(h, draft.meta[i][1]);
    }
    for (int i = 0; i < draft.n; i++) {
        const SafeTensor* t = &draft.t[i];
        fputs(i == 0 ? "}," : ",", h);
        json_print(h, t->name);
        fprintf(h, ":{\"dtype\":\"%s\",\"shape\":[", t->dtype);
        for (int d = 0; d < t->ndim; d++) { fprintf(h, d > 0 ? ",%zu" : "%zu", t->shape[d]); }
        fprintf(h, "],\"data_offsets\":[%zu,%zu]}", at + draft.shift[i], at + t->bytes + draft.shift[i]);
        at += t->bytes;
    }
    fputc('}', h);
    uint64_t header = (uint64_t)ftell(h);
    fclose(h);
    memcpy(input, &header, 8);
    hot = input_size = 8 + (size_t)header;
    for (int i = 0; i < draft.n; i++) { put(draft.t[i].data, draft.t[i].bytes); }
}

static void put_file(int first, int n, int all) { // one of these seeds with some changes; all: with moments and records
    const SafeFile* f = &seeds[first + (int)pick((size_t)n)];
    draft.n = 0;
    for (int i = 0; i < f->n; i++) { if (all || strchr(f->tensors[i].name, '/') == NULL) { draft.t[draft.n++] = f->tensors[i]; } }
    memcpy(draft.meta, f->meta, (size_t)f->n_meta * sizeof *f->meta);
    draft.n_meta = f->n_meta;
    memset(draft.shift, 0, sizeof draft.shift);
    for (size_t i = plain ? 0 : pick(4); i > 0; i--) { change_draft(); }
    put_draft();
}

static SafeFile open_file(void) { // and checks what safetensors_open let pass
    SafeFile f = safetensors_open(in_folder("input"));
    for (int i = 0; i < f.n; i++) {
        const SafeTensor* t = &f.tensors[i];
        double bytes = (double)dtype_size(t->dtype);
        for (int d = 0; d < t->ndim; d++) { bytes *= (double)t->shape[d]; }
        must(bytes == (double)t->bytes, "tensor %s: %zu bytes, by its shape %.17g", t->name, t->bytes, bytes);
        must(t->data >= f.map && t->bytes <= f.map_size - (size_t)(t->data - f.map), "tensor %s is not in the file", t->name);
        must(safetensors_find(&f, t->name) == t, "tensor %s is there twice", t->name);
        must(i == 0 || t->data == t[-1].data + t[-1].bytes, "tensor %s overlaps", t->name);
    }
    const SafeTensor* last = &f.tensors[f.n > 0 ? f.n - 1 : 0];
    must(f.n == 0 || last->data + last->bytes == f.map + f.map_size, "something is behind the last tensor");
    return f;
}

static void put_safetensors(void) { put_file(0, SEEDS, 1); }
static void read_safetensors(void) {
    SafeFile f = open_file();
    safetensors_close(&f);
    must(n_taken == 0, "%d things are lost", n_taken);
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
static void read_weights(void) { read_model("--eval-only --heads 2", 0); }

static void put_upcycling(void) { int n = pick(3) > 0; put_file(n ? 0 : OWN, n ? 1 : PUBLISHED, 0); } // dense files
static void read_upcycling(void) { read_model("--moe-layers all --experts 2 --start-experts 1 --heads 2", 1); }

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

static void put_flag(size_t mood) { // mood: 0 any good value, 1 the highest of numbers, 2 the lowest
    static const char *bad[] = {"", "nan", "inf", "-1", "1e999", "0x10", " 5", "1e3", "--", "1.5", "1e-310", "\x1b[m", "a\nb"},
        *words[] = {"--router=top-k", "--router=top-p", "--router=dense", "--preset=paper", "--preset=authors", "--resume=@/0",
                    "--resume=@/1", "--moe-layers=0,2", "--moe-layers=none", "--kgrad=detached", "--help", "-e", "--depth=3"};
    const Flag* f = &flag_table[pick(N_FLAGS)];
    while (mood > 0 && *f->type != 'i') { f = &flag_table[pick(N_FLAGS)]; }
    int whole = strcmp(f->type, "float") != 0, joined = pick(2) > 0;
    if (mood == 0 && pick(4) == 0) { put_text("%s", words[pick(13)]); put("", 1); return; }
    put_text("%s%s", joined ? f->name : f->twin, joined ? "=" : "");
    if (!joined) { put("", 1); }
    if (!joined && !strcmp(f->type, "flag")) { return; }
    double x = f->low + (mood == 1 ? 1.0 : mood == 2 ? 0.0 : (double)pick(1001) / 1000.0) * (f->high - f->low);
    if (whole && mood == 0) { x = pick(2) ? fmin(f->high, f->low + (double)pick(9)) : floor(x); }
    if (one_in(40)) { x += pick(2) ? f->high + 1.0 : -1.0 - f->high; }
    if (one_in(40)) { put_text("%s", bad[pick(13)]); }
    else if (*f->type == 't') { put_text("%s", value()); }
    else { put_text(whole ? "%.0f" : "%.9g", x); }
    put("", 1);
}
static void put_flags(void) {
    size_t mood = pick(5);
    for (size_t i = pick(mood == 1 ? 30 : 5); i > 0; i--) { put_flag(mood); }
}
static void read_flags(void) { // as main does without --init, up to the plan of the run
    const char* argv[128];
    int argc = read_words(argv, 128);
    Settings s = flags_read(argc, argv);
    for (int i = 0; i < N_FLAGS; i++) {
        const Flag* f = &flag_table[i];
        const void* at = (const char*)&s + f->place;
        if (*f->type == 't') { must(strlen(*(const text*)at) <= 500, "%s is too long", f->name); continue; }
        double x = strcmp(f->type, "float") == 0 ? (double)*(const float*)at : *(const int*)at;
        must(x >= f->low - 1e-6 && x <= f->high * (1.0 + 1e-6), "%s is %g", f->name, x);
    }
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
#define N_READERS ((int)(sizeof readers / sizeof readers[0]))

// ----------------------------------------------------------------------------------------------------------------------
// Running them

enum { ACCEPTED, REFUSED, FAILED };

static int run(const Reader* r) { // one of the three; wrong says why it FAILED
    memset(said, 0, sizeof said);
    *wrong = '\0';
    rewind(stderr_stream);
    exit_code = -1;
    memory_is_short = 0;
    memory_bound = ((size_t)1 << 23) + 64 * input_size;
    input[input_size] = '\0';
    if (r->file != NULL) { file_of(in_folder(r->file), input, input_size); }
    int first = dup(0), lines = 0, control = 0; // first: what the program leaves open has this number or a higher one
    close(first);
    if (setjmp(back) == 0) { r->read(); give_all(); }
    for (int fd = first; close(fd) == 0; fd++) { }
    fflush(stderr_stream);
    const char* hint = strstr(said, "\n---> HINT: ");
    for (const char* p = said; *p; p++) { lines += *p == '\n'; control |= ((unsigned char)*p < 32 && *p != '\n') || *p == 127; }
    if (exit_code <= 0) { must(*said == '\0', "it accepts, and says: %.300s", said); return *wrong ? FAILED : ACCEPTED; }
    must(exit_code <= 2, "exit code %d", exit_code);
    must(strncmp(said, "error: ", 7) == 0 && hint != NULL && lines == 2 && said[strlen(said) - 1] == '\n' && !control,
         "a message that is not two lines, or has control characters: %.300s", said);
    return *wrong ? FAILED : REFUSED;
}

static void change(const Reader* r) { // one random change
    uint64_t header, before = input_size;
    change_bytes();
    memcpy(&header, input, 8);
    header += input_size - before;
    if (pick(8) == 0) { header = number(); }
    if (r->header && input_size >= 8 && pick(4) > 0) { memcpy(input, &header, 8); } // mostly as if it were in the header
}

const char* __asan_default_options(void) { return "detect_leaks=0:exitcode=99:quarantine_size_mb=16:allocator_may_return_null=1"; }

static void start(void) {
    const char* at = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%.40s/fuzz_XXXXXX", at != NULL ? at : "/tmp");
    stderr_stream = fmemopen(said, sizeof said, "w");
    if (mkdtemp(folder) == NULL || stderr_stream == NULL || freopen("/dev/null", "w", stdout) == NULL) { perror(folder); abort(); }
    memory_bound = (size_t)1 << 30;
    state = 88172645463325252ull;
    plain = 1;
    if (setjmp(back) != 0) { fflush(stderr_stream); dprintf(2, "a good file is refused: %s", said); abort(); }
    setup();
    plain = n_taken = 0; // what is taken stays
    memory_taken = 0;
}

static void end(void) { // removes the folder
    for (int i = 0; i < 2; i++) {
        glob_t g;
        int bad = glob(in_folder(i == 0 ? "p/*" : "*"), 0, NULL, &g);
        for (size_t k = 0; !bad && k < g.gl_pathc; k++) { remove(g.gl_pathv[k]); }
        globfree(&g);
    }
    rmdir(folder);
}

#ifdef LIBFUZZER
int LLVMFuzzerTestOneInput(const unsigned char* data, size_t size) { // the first byte says which reader
    if (*folder == '\0') { start(); atexit(end); }
    if (size == 0 || size > ROOM) { return 0; }
    const Reader* r = &readers[data[0] % N_READERS];
    input_size = 0;
    put(data + 1, size - 1);
    if (run(r) == FAILED) { dprintf(2, "FAILED %s: %s\n", r->name, wrong); abort(); }
    return 0;
}

size_t LLVMFuzzerMutate(unsigned char* data, size_t size, size_t max);
size_t LLVMFuzzerCustomMutator(unsigned char* data, size_t size, size_t max, unsigned seed) { // its own changes, or one of ours
    if (seed % 2 || size < 9) { return LLVMFuzzerMutate(data, size, max); }
    const Reader* r = &readers[data[0] % N_READERS];
    state = (seed + 1) * 0x9E3779B97F4A7C15ull;
    input_size = 0;
    put(data + 1, size - 1);
    hot = r->header && input[0] + 256u * input[1] < input_size ? input[0] + 256u * input[1] : input_size;
    change(r);
    input_size = input_size < max - 1 ? input_size : max - 1;
    memcpy(data + 1, input, input_size);
    return input_size + 1;
}
#else
static FILE* out; // our standard output; the program's goes nowhere
static struct { int at, failed, count[N_READERS][3]; } *tally; // shared with the children

static void make(const Reader* r, uint64_t seed, int i) {
    state = (seed + 1) * 0x9E3779B97F4A7C15ull ^ (uint64_t)(i + 1) * 0xD1B54A32D192ED03ull;
    for (int k = 0; k < 8; k++) { pick(1); }
    input_size = hot = 0;
    r->base();
    hot = hot > 0 ? hot : input_size;
    for (size_t k = one_in(r->calm) ? 1 + pick(3) : 0; k > 0; k--) { change(r); }
}

static void failed(const Reader* r, int i) { // says so, and keeps the input
    char path[64];
    for (char* p = wrong; *p; p++) { if ((unsigned char)*p < 32 || *p == 127) { *p = '?'; } }
    tally->count[r - readers][FAILED]++;
    if (++tally->failed > 20) { return; }
    snprintf(path, sizeof path, "fuzz_%s_%d.tmp", r->name, i);
    fprintf(out, "FAILED %s: %s\n    to run it again: --file %s %s\n", r->name, wrong, r->name, file_of(path, input, input_size));
    fflush(out);
}

static void run_some(uint64_t seed, int count) { // from tally->at on, a thousand at most
    for (int n = 0; n < 1000 && tally->at < count; n++, tally->at++) {
        const Reader* r = &readers[tally->at % N_READERS];
        make(r, seed, tally->at);
        alarm(20);
        int what = run(r);
        alarm(0);
        if (what == FAILED) { failed(r, tally->at); } else { tally->count[r - readers][what]++; }
    }
}

static int fuzz(uint64_t seed, int count) {
    int status;
    while (tally->at < count && tally->failed < 1000) {
        fflush(NULL);
        pid_t child = fork();
        if (child == 0) { run_some(seed, count); _exit(0); }
        if (child < 0 || waitpid(child, &status, 0) != child) { perror("fork"); return 1; }
        if (WIFEXITED(status) && WEXITSTATUS(status) == 0) { continue; }
        const Reader* r = &readers[tally->at % N_READERS];
        make(r, seed, tally->at);
        if (WIFEXITED(status)) { snprintf(wrong, sizeof wrong, "stopped by a sanitizer: see its report"); }
        else { snprintf(wrong, sizeof wrong, WTERMSIG(status) == SIGALRM ? "hangs" : "signal %d", WTERMSIG(status)); }
        failed(r, tally->at++);
    }
    fprintf(out, "reader       inputs accepted refused failed\n");
    for (int i = 0; i < N_READERS; i++) {
        const int* n = tally->count[i];
        double all = n[ACCEPTED] + n[REFUSED] + n[FAILED] + 1e-9, accepted = n[ACCEPTED] / all, refused = n[REFUSED] / all;
        int few = accepted < 0.01 || (refused < 0.01 && readers[i].refuses);
        fprintf(out, "%-12s %6.0f %7.0f%% %6.0f%% %6d%s\n", readers[i].name, all, 100.0 * accepted, 100.0 * refused, n[FAILED],
                few ? "  FAILED: less than 1% accepted or refused" : "");
        tally->failed += few;
    }
    fprintf(out, "%d passed, %d failed\n", tally->at - tally->failed, tally->failed);
    return tally->failed > 0;
}

static int again(const char* name, const char* path) {
    static const char* const words[] = {"accepted", "refused", "FAILED"};
    FILE* f = fopen(path, "rb");
    for (int i = 0; i < N_READERS; i++) {
        if (strcmp(readers[i].name, name) != 0 || f == NULL) { continue; }
        input_size = fread(input, 1, ROOM, f);
        fclose(f);
        int what = run(&readers[i]);
        fprintf(out, "%s%s%s\n%s", words[what], *wrong ? ": " : "", wrong, said);
        return what == FAILED;
    }
    fprintf(out, "error: no reader %s, or no file %s\n---> HINT: readers:", name, path);
    for (int i = 0; i < N_READERS; i++) { fprintf(out, " %s", readers[i].name); }
    fprintf(out, "\n");
    return 2;
}

static int corpus(const char* to) {
    char path[256];
    plain = 1;
    mkdir(to, 0777);
    for (int i = 0; i < 6 * N_READERS; i++) {
        make(&readers[i % N_READERS], 1, i);
        memmove(input + 1, input, input_size);
        input[0] = (unsigned char)(i % N_READERS);
        snprintf(path, sizeof path, "%s/%s_%d", to, readers[i % N_READERS].name, i / N_READERS);
        file_of(path, input, input_size + 1);
    }
    return 0;
}

int main(int argc, char** argv) {
    out = fdopen(dup(1), "w");
    tally = share(sizeof *tally);
    start();
    int bad = argc == 4 && strcmp(argv[1], "--file") == 0 ? again(argv[2], argv[3]) :
              argc == 3 && strcmp(argv[1], "--corpus") == 0 ? corpus(argv[2]) :
              argc == 3 && atoi(argv[2]) > 0 ? fuzz(strtoull(argv[1], NULL, 10), atoi(argv[2])) : 3;
    if (bad == 3) { fprintf(out, "error: wrong command line\n---> HINT: test/fuzz SEED COUNT, see the top of test/fuzz.c\n"); }
    end();
    fclose(out);
    return bad;
}
#endif
