/*
Offsets beyond 2 and 4 GB: the data reader of train_gpt2_dynmoe.c at the end of a token file of 5 GiB, and at places of made-up
shards. The file is sparse and the shards are memory that nobody touches: neither takes disk or memory, all of it milliseconds.

    make test-unit                builds this and runs it beside the other tests
    TMPDIR=/scratch test/test_big where the sparse file lies; it is removed again

The command line reaches the last tenth of such a file (test/test_robust.sh does), not its last token: hence this program.
Ends with `N passed, N failed`; what could not be tried here is said, and is no pass.
*/
#define TESTING
#include "../train_gpt2_dynmoe.c"
#include <sys/wait.h>

static int passed, failed;
static char path[600], said[600]; // the sparse file; what a child said

static void check(int good, const char* what) {
    if (good) { passed++; } else { failed++; printf("FAILED: %s\n", what); }
}

enum { T = 8 };
static int x[T], y[T];

static int reads(const Data* d, size_t place, int stride, int first) { // first, first + 1, ... and the target
    data_read(d, place, stride, x, y, T, 50257);
    for (int t = 0; t < T; t++) { if (x[t] != first + t || y[t] != first + t + 1) { return 0; } }
    return 1;
}

static int refuses(const Data* d, size_t place, int stride, const char* want) { // data_read stops with code 1 and says so
    int pipes[2], status = 0;
    fflush(stdout);
    if (pipe(pipes) != 0) { return 0; }
    pid_t pid = fork();
    if (pid == 0) {
        dup2(pipes[1], STDERR_FILENO);
        data_read(d, place, stride, x, y, T, 50257);
        _exit(0);
    }
    close(pipes[1]);
    FILE* f = fdopen(pipes[0], "r");
    said[fread(said, 1, sizeof said - 1, f)] = '\0'; // until the child is gone
    fclose(f);
    waitpid(pid, &status, 0);
    if (strstr(said, want) == NULL) { printf("    it said: %s", said); }
    return WIFEXITED(status) && WEXITSTATUS(status) == 1 && strstr(said, want) != NULL;
}

static void put(int fd, size_t at, int first, int n) { // n tokens first, first + 1, ... into the file, from token `at` on
    for (int i = 0; i < n; i++) {
        unsigned char b[2] = {(unsigned char)(first + i), (unsigned char)((first + i) >> 8)};
        if (pwrite(fd, b, 2, (off_t)(1024 + 2 * (at + (size_t)i))) != 2) { check(0, "pwrite"); }
    }
}

static void a_file_of_5_gib(void) {
    const size_t n = (((size_t)5 << 30) - 1024) / 2, two31 = (size_t)1 << 31; // tokens: more than an int holds, twice that in bytes
    int32_t header[256] = {20240520, 1, 0};
    uint32_t count = (uint32_t)n;
    struct stat st;
    memcpy(&header[2], &count, 4);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || ftruncate(fd, (off_t)5 << 30) != 0) {
        printf("not tested: no file of 5 GiB in %s: %s\n", path, strerror(errno));
        return;
    }
    check(pwrite(fd, header, sizeof header, 0) == (ssize_t)sizeof header, "the header is written");
    put(fd, two31 - T / 2, 100, T + 1);           // across 2^31 tokens, which is 2^32 bytes
    put(fd, (two31 - 1024) / 2 - T / 2, 200, T + 1); // across 2^31 bytes
    put(fd, n - T - 1, 300, T + 1);               // the last window
    if (fsync(fd) == 0 && fstat(fd, &st) == 0 && (double)st.st_blocks * 512.0 > 1e8) {
        printf("not tested: the files of %s are not sparse\n", path);
        close(fd);
        return;
    }

    Data d = data_open(path), single = d; // both point to one shard
    unlink(path); // gone when this process is, however it ends
    check(d.n == 1 && d.width == 2 && d.shard[0].n == n, "the header's count is read without a sign");
    check(data_places(&d, T, 1) == n - T, "places at stride 1");
    check(data_places(&d, T, T) == (n - 1) / T, "places at stride T");
    check(reads(&d, two31 - T / 2, 1, 100), "a window across 2^31 tokens");
    check(reads(&d, (two31 - 1024) / 2 - T / 2, 1, 200), "a window across 2^31 bytes");
    check(reads(&d, n - T - 1, 1, 300), "the last window");
    size_t late = (n - T - 1) % 5; // so many tokens before it begins the last window of stride 5
    data_read(&d, data_places(&d, T, 5) - 1, 5, x, y, T, 50257);
    check(y[T - 1] == 300 + T - (int)late && x[late] == 300, "the last window of stride 5");

    size_t held = n / 10;
    Data val = data_split(&single);
    check(single.shard[0].n == n - held && val.shard[0].n == held, "the last tenth is validation");
    check(reads(&val, held - T - 1, 1, 300), "the last window of the last tenth");
    check(val.shard[0].bytes + 2 * val.shard[0].n == d.shard[0].bytes + 2 * n, "both end where the file ends");
    d.shard[0].n = n;

    put(fd, n - 1, 50257, 1); // the file is mapped: the reader sees it
    char want[80];
    snprintf(want, sizeof want, "token 50257 at %zu, the vocabulary has 50257", n - 1);
    check(refuses(&d, n - T - 1, 1, want), "a token above the vocabulary at the very end is named with its place");
    put(fd, n - 1, 300 + T, 1);
    check(reads(&d, n - T - 1, 1, 300), "and without it the same window is read");
    free(d.shard); free(val.shard);
    close(fd);
}

static void made_up_shards(void) { // bytes, three shards: 5e9, 3e9 and T + 1 of them
    const size_t n[3] = {5000000000u, 3000000000u, T + 1}, total = n[0] + n[1] + n[2];
    void* map = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) {
        printf("not tested: no address space of 8 GB: %s\n", strerror(errno));
        return;
    }
    unsigned char* bytes = (unsigned char*)map;
    Shard shard[3];
    Data d;
    memset(shard, 0, sizeof shard);
    memset(&d, 0, sizeof d);
    size_t at = 0;
    for (int i = 0; i < 3; at += n[i++]) {
        unsigned char* last = bytes + at + n[i] - T - 1; // its last window
        shard[i].bytes = bytes + at;
        shard[i].n = n[i];
        for (int t = 0; t <= T; t++) { last[t] = (unsigned char)(10 * (i + 1) + t); }
    }
    d.shard = shard; d.n = 3; d.width = 1; d.path = "made up";
    check(shard_places(&shard[0], T, 1) == n[0] - T && shard_places(&shard[0], T, 64) == (n[0] - 1 - T) / 64 + 1, "places of 5e9");
    check(data_places(&d, T, 1) == n[0] - T + n[1] - T + 1, "places of all three");
    check(reads(&d, n[0] - T - 1, 1, 10), "the last window of the first shard");
    check(reads(&d, n[0] - T + n[1] - T - 1, 1, 20), "the last window of the second");
    check(reads(&d, n[0] - T + n[1] - T, 1, 30), "the third, whose place is beyond 2^32");
    size_t by64 = shard_places(&shard[0], T, 64) + shard_places(&shard[1], T, 64);
    check(reads(&d, by64, 64, 30), "the third, by stride 64");
    munmap(map, total);
}

static void batches_begin_anywhere(void) { // 4.3e9 zeros and, as 4300 shards that are all the same million of bytes, 4.3e9 ones
    enum { MANY = 4300, MILLION = 1000000 };
    const size_t zeros = (size_t)MANY * MILLION;
    void* map = mmap(NULL, zeros, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) {
        printf("not tested: no address space of 4.3 GB: %s\n", strerror(errno));
        return;
    }
    unsigned char* ones = (unsigned char*)malloc(MILLION);
    Shard* shard = (Shard*)calloc(1 + MANY, sizeof(Shard));
    Data d;
    uint64_t rng = 1;
    int seen = 0;
    memset(&d, 0, sizeof d);
    memset(ones, 1, MILLION);
    for (int i = 0; i <= MANY; i++) {
        shard[i].bytes = i == 0 ? (unsigned char*)map : ones;
        shard[i].n = i == 0 ? zeros : MILLION;
    }
    d.shard = shard; d.n = 1 + MANY; d.width = 1; d.path = "made up";
    for (int i = 0; i < 2000; i++) {
        data_batch(&d, &rng, x, y, 1, T, 256);
        seen += x[0];
    }
    check(seen > 880 && seen < 1120, "half of all batches begin among the ones, beyond 2^32"); // one standard deviation: 22
    free(ones); free(shard);
    munmap(map, zeros);
}

static void forget_file(void) { unlink(path); }

int main(void) {
    const char* folder = getenv("TMPDIR") != NULL ? getenv("TMPDIR") : "/tmp";
    snprintf(path, sizeof path, "%.500s/test_big_%ld.bin", folder, (long)getpid());
    atexit(forget_file); // data_open may stop the program
    a_file_of_5_gib();
    made_up_shards();
    batches_begin_anywhere();
    printf("%d passed, %d failed\n", passed, failed);
    return failed > 0;
}
