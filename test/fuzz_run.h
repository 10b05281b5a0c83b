// The harness of the fuzzers, after the program and the list of readers. test/fuzz.c says how all of it works.

#define N_READERS ((int)(sizeof readers / sizeof readers[0]))

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

#ifdef __cplusplus
extern "C"
#endif
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
typedef struct { int at, failed, count[N_READERS][3]; } Tally;
static Tally* tally; // shared with the children

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
    tally = (Tally*)share(sizeof *tally);
    start();
    int bad = argc == 4 && strcmp(argv[1], "--file") == 0 ? again(argv[2], argv[3]) :
              argc == 3 && strcmp(argv[1], "--corpus") == 0 ? corpus(argv[2]) :
              argc == 3 && atoi(argv[2]) > 0 ? fuzz(strtoull(argv[1], NULL, 10), atoi(argv[2])) : 3;
    if (bad == 3) { fprintf(out, "error: wrong command line\n---> HINT: SEED COUNT, see the top of test/fuzz.c\n"); }
    end();
    fclose(out);
    return bad;
}
#endif
