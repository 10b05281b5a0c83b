/*
The harness of the fuzzers, before the program is included: what it gets in place of the system's, and how inputs are made.
test/fuzz.c says how all of it works; fuzz_model.h and fuzz_run.h follow the program.
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

enum { MEMORY, STREAM, DEVICE };
static struct { void* p; size_t size; int kind; char** text; } taken[8192]; // text: where a stream to memory leaves its bytes
static void (*give_device)(void*);           // frees memory of a GPU, if the program has one
static int n_taken, memory_is_short;        // short: beyond the bound the program gets NULL, as on a small machine; else it fails
static size_t memory_taken, memory_bound;

static void* take(void* p, int kind, size_t size, char** text) {
    if (n_taken == 8192) { abort(); }
    taken[n_taken].p = p; taken[n_taken].kind = kind; taken[n_taken].size = size; taken[n_taken++].text = text;
    memory_taken += kind != STREAM ? size : 0;
    return p;
}

static int give(const void* p, int kind) { // takes it off the list; was it there?
    for (int i = n_taken - 1; i >= 0; i--) {
        if (taken[i].p != p || taken[i].kind != kind) { continue; }
        memory_taken -= kind != STREAM ? taken[i].size : 0;
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
    for (; n_taken > 0; n_taken--) {
        void* p = taken[n_taken - 1].p;
        if (taken[n_taken - 1].kind == DEVICE) { give_device(p); } else { free(p); }
    }
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
