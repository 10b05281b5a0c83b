/*
What all graders of assignments share: running, scoring, comparing, random inputs. A grader (grade_a1.c ..) includes this file
first, then the student's program, SRC, and then says what each question must do:

    GRADE(hand_values) { ...; GRADE_PASS(); }
    int main(int argc, char** argv) {
        grade_begin(argc, argv);
        grade_test("a1.q1", hand_values);
        return grade_end();
    }

Points come from the table aN.txt. A question is scored all or nothing, each test runs in a process of its own: a crash or an
endless loop costs one question only. Check takes exit(0) in the middle of a test for success, so a test passes only if it
reaches GRADE_PASS(), which exits with a code drawn at random when the grader starts. This is no sandbox: whoever wants to cheat
can, and a person who reads the code sees it.
*/
#ifndef GRADE_H
#define GRADE_H
#include <check.h>
#include <fcntl.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef _OPENMP
#include <omp.h>
#endif
#ifndef VARIANT
#define VARIANT 0 // which small change of the reference this course asks for; 0: none
#endif
#ifndef GRADE_SECONDS
#define GRADE_SECONDS 4 // for one test; a GPU needs more, because each process makes its own context
#endif

#define GRADE_QUESTIONS 32
#define GRADE_TODO 64 // the exit code of an unfilled hole
#define GRADE_RACE 86 // of check mode of the folder cuda_on_cpu
#define GRADE_EDGE 12345.0f // stands behind every output array: who writes there writes out of bounds
#define GRADE_PI 3.14159265358979323846
#define GRADE_JUNK 777.0f   // what outputs hold before the call

typedef struct { char id[24]; int points, tests, passed; TCase* tcase; char why[400]; const char* not_measured; } GradeQuestion;

static struct {
    GradeQuestion q[GRADE_QUESTIONS];
    int n, json, show, pass_code;
    uint64_t seed, rng;
    Suite* suite;
} grade;

// ---- writing tests -----------------------------------------------------------------------------------------------------

#define GRADE(name) static void grade_body_##name(void); \
    START_TEST(grade_t_##name) { grade_body_##name(); } END_TEST \
    static void grade_body_##name(void)
#ifdef CUDACPU_CHECK
#define GRADE_PASS() exit(grade.pass_code) // check mode makes it 86 if it has reported something
#else
#define GRADE_PASS() _exit(grade.pass_code)
#endif
#define GRADE_REQUIRE(ok, ...) do { if (!(ok)) { ck_abort_msg(__VA_ARGS__); } } while (0)

static inline uint32_t grade_u32(void) { // splitmix64: our own, because the student's file may be wrong in its random numbers
    uint64_t z = (grade.rng += 0x9E3779B97F4A7C15ull);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return (uint32_t)((z ^ (z >> 31)) >> 32);
}
static inline double grade_uniform(double low, double high) { return low + (high - low) * (grade_u32() / 4294967296.0); }
static inline int grade_int(int low, int high) { return low + (int)(grade_u32() % (uint32_t)(high - low + 1)); } // both included
static inline float grade_normal(void) { // nearly: a sum of uniform numbers, within +-6
    double sum = -6.0;
    for (int i = 0; i < 12; i++) { sum += grade_uniform(0.0, 1.0); }
    return (float)sum;
}

static inline void* grade_memory(size_t bytes) { // never freed: a test's process is short
    void* p = calloc(bytes > 0 ? bytes : 1, 1);
    GRADE_REQUIRE(p != NULL, "the grader has no memory");
    return p;
}
static inline float* grade_random(size_t n, double size) { // n normal numbers
    float* p = (float*)grade_memory(n * sizeof(float));
    for (size_t i = 0; i < n; i++) { p[i] = (float)size * grade_normal(); }
    return p;
}
static inline double* grade_doubles(size_t n) { return (double*)grade_memory(n * sizeof(double)); }
static inline float* grade_out(size_t n) { // room for n results, junk in it, and the edge
    float* p = (float*)grade_memory((n + 1) * sizeof(float));
    for (size_t i = 0; i < n; i++) { p[i] = GRADE_JUNK; }
    p[n] = GRADE_EDGE;
    return p;
}
static inline float* grade_copy(const float* from, size_t n) { // the same room with values in it: for sums that a function adds to
    float* p = grade_out(n);
    memcpy(p, from, n * sizeof(float));
    return p;
}
static inline int* grade_out_int(size_t n) {
    int* p = (int*)grade_memory((n + 1) * sizeof(int));
    for (size_t i = 0; i < n; i++) { p[i] = (int)GRADE_JUNK; }
    p[n] = (int)GRADE_EDGE;
    return p;
}

// got comes from grade_out or grade_copy; tolerance is relative to the largest expected value
static inline void grade_floats(const char* what, const float* got, const double* want, size_t n, double tolerance) {
    double largest = 0.0;
    for (size_t i = 0; i < n; i++) { largest = fabs(want[i]) > largest ? fabs(want[i]) : largest; }
    for (size_t i = 0; i < n; i++) {
        GRADE_REQUIRE(fabs((double)got[i] - want[i]) <= tolerance * largest, "%s[%zu] is %.7g, expected %.7g", what, i,
                      (double)got[i], want[i]);
    }
    GRADE_REQUIRE(got[n] == GRADE_EDGE, "%s: written behind its end", what);
}
static inline void grade_ints(const char* what, const int* got, const int* want, size_t n) {
    for (size_t i = 0; i < n; i++) { GRADE_REQUIRE(got[i] == want[i], "%s[%zu] is %d, expected %d", what, i, got[i], want[i]); }
    GRADE_REQUIRE(got[n] == (int)GRADE_EDGE, "%s: written behind its end", what);
}
static inline void grade_float(const char* what, double got, double want, double tolerance) {
    GRADE_REQUIRE(fabs(got - want) <= tolerance * fabs(want), "%s is %.7g, expected %.7g", what, got, want);
}

// ---- running and scoring -----------------------------------------------------------------------------------------------

static inline void grade_stop(const char* what, const char* where, const char* hint) {
    fprintf(stderr, "grade: %s: %s\n---> HINT: %s\n", what, where, hint);
    exit(2);
}

static inline void grade_table(const char* path) { // questions and points
    char line[400];
    FILE* f = fopen(path, "r");
    if (f == NULL) { grade_stop("cannot read the table", path, "make grade runs this program with its table"); }
    while (fgets(line, sizeof line, f)) {
        GradeQuestion* q = &grade.q[grade.n];
        if (line[0] != 'a' || strstr(line, ".q") == NULL) { continue; }
        if (grade.n == GRADE_QUESTIONS || sscanf(line, "%23s %*s %d", q->id, &q->points) != 2 || q->points < 1) {
            grade_stop("not `question function points`", line, "mend the table");
        }
        grade.n++;
    }
    fclose(f);
}

static inline void grade_begin(int argc, char** argv) { // [--json] [--show] [--seed N] TABLE
    FILE* f = fopen("/dev/urandom", "rb");
    const char* path = "";
    unsigned char random = (unsigned char)getpid();
    if (f != NULL) { if (fread(&random, 1, 1, f) != 1) { random ^= 1; } fclose(f); }
    grade.pass_code = 100 + random % 27; // none of the codes that anything here exits with
    grade.seed = 1;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0) { grade.json = 1; }
        else if (strcmp(argv[i], "--show") == 0) { grade.show = 1; }
        else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc) {
            char* end;
            grade.seed = strtoull(argv[++i], &end, 10);
            if (*argv[i] < '0' || *argv[i] > '9' || *end != '\0') { grade_stop("not a seed", argv[i], "SEED is a whole number"); }
        } else { path = argv[i]; }
    }
    grade_table(path);
    grade.suite = suite_create("assignment");
    // what could leave tests out, or change how they run
    unsetenv("CK_RUN_SUITE"); unsetenv("CK_RUN_CASE"); unsetenv("CK_INCLUDE_TAGS"); unsetenv("CK_EXCLUDE_TAGS");
    unsetenv("CK_FORK");
}

static inline void grade_child(void) { // first thing in the process of a test: what the student prints does not mix with the score
    int to = open("/dev/null", O_WRONLY);
    dup2(grade.show ? 2 : to, 1);
    if (!grade.show) { dup2(to, 2); }
    grade.rng = grade.seed * 0xD1342543DE82EF95ull + 1;
#ifdef _OPENMP
    omp_set_num_threads(2);
#endif
}

static inline void grade_add(const char* id, const TTest* test) {
    GradeQuestion* q = NULL;
    for (int i = 0; i < grade.n; i++) { if (strcmp(grade.q[i].id, id) == 0) { q = &grade.q[i]; } }
    if (q == NULL) { grade_stop("the table has no such question", id, "table and grader belong together"); }
    if (q->tcase == NULL) {
        q->tcase = tcase_create(q->id);
        tcase_set_timeout(q->tcase, GRADE_SECONDS);
        tcase_add_checked_fixture(q->tcase, grade_child, NULL);
        suite_add_tcase(grade.suite, q->tcase);
    }
    tcase_add_exit_test(q->tcase, test, grade.pass_code);
    q->tests++;
}
#define grade_test(id, name) grade_add(id, grade_t_##name)

// a question that cannot be scored on this machine: its points count neither as got nor as possible here
static inline void grade_not_measured(const char* id, const char* why) {
    for (int i = 0; i < grade.n; i++) { if (strcmp(grade.q[i].id, id) == 0) { grade.q[i].not_measured = why; } }
}

static inline const char* grade_said(const char* message) { // Check's message, or what an exit code of ours means
    char todo[40], race[40];
    snprintf(todo, sizeof todo, "exit with return value %d", GRADE_TODO);
    snprintf(race, sizeof race, "exit with return value %d", GRADE_RACE);
    return strstr(message, todo) != NULL ? "not written yet" :
        strstr(message, race) != NULL ? "a race or a bad access: make grade SHOW=1 shows file and line" : message;
}

static inline void grade_json_text(const char* s) {
    putchar('"');
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c == '"' || c == '\\') { putchar('\\'); putchar(c); } else if (c < 32 || c > 126) { printf("\\u%04x", c); }
        else { putchar(c); }
    }
    putchar('"');
}

#ifdef __NVCC__
static inline void grade_gpu(void) { // asked in a process of its own: one that has spoken to a GPU cannot fork others that do
    int n = 0, status = 1;
    pid_t child = fork();
    if (child == 0) { _exit(cudaGetDeviceCount(&n) != cudaSuccess || n < 1); }
    if (child < 0 || waitpid(child, &status, 0) < 0 || status != 0) {
        grade_stop("no GPU found", "this grader was built with CUDA=1", "make grade, without CUDA=1, runs kernels on the CPU");
    }
}
#endif

static inline int grade_end(void) { // runs all, prints the table or Gradescope's results.json; returns main's exit code
    int got = 0, total = 0, not_measured = 0;
#ifdef __NVCC__
    grade_gpu();
#endif
    for (int i = 0; i < grade.n; i++) {
        if (grade.q[i].not_measured != NULL) { not_measured += grade.q[i].points; continue; }
        total += grade.q[i].points;
        if (grade.q[i].tests == 0) { grade_stop("no test for", grade.q[i].id, "table and grader belong together"); }
    }
    fflush(stdout);
    SRunner* runner = srunner_create(grade.suite);
    srunner_set_fork_status(runner, CK_FORK);
    srunner_run_all(runner, CK_SILENT);
    TestResult** results = srunner_results(runner);
    for (int r = 0; r < srunner_ntests_run(runner); r++) {
        GradeQuestion* q = grade.q;
        while (strcmp(q->id, tr_tcname(results[r])) != 0) { q++; }
        if (tr_rtype(results[r]) == CK_PASS) { q->passed++; continue; }
        if (q->why[0] != '\0') { continue; }
        snprintf(q->why, sizeof q->why, "%s", grade_said(tr_msg(results[r])));
    }
    if (grade.json) { printf("{\"tests\": ["); }
    for (int i = 0; i < grade.n; i++) {
        GradeQuestion* q = &grade.q[i];
        int points = q->passed == q->tests ? q->points : 0;
        if (q->not_measured != NULL) {
            if (!grade.json) { printf("%-7s %d points: not measured: %s\n", q->id, q->points, q->not_measured); continue; }
            printf("%s\n  {\"name\": ", i > 0 ? "," : "");
            grade_json_text(q->id);
            printf(", \"score\": 0, \"max_score\": 0, \"output\": \"not measured: %s\"}", q->not_measured);
            continue;
        }
        got += points;
        if (!grade.json) {
            char tests[24], score[24];
            snprintf(tests, sizeof tests, "%d/%d", q->passed, q->tests);
            snprintf(score, sizeof score, "%d/%d", points, q->points);
            printf("%-7s %5s tests %6s points  %s\n", q->id, tests, score, q->why);
            continue;
        }
        printf("%s\n  {\"name\": ", i > 0 ? "," : "");
        grade_json_text(q->id);
        printf(", \"score\": %d, \"max_score\": %d, \"status\": \"%s\", \"output\": ", points, q->points,
               points > 0 ? "passed" : "failed");
        grade_json_text(q->why[0] != '\0' ? q->why : "all tests passed");
        printf("}");
    }
    if (grade.json) { printf("\n ],\n \"score\": %d}\n", got); } else {
        if (not_measured > 0) { printf("not measured here: %d points of %d\n", not_measured, total + not_measured); }
#ifdef CUDACPU_CHECK
        if (got < total) { printf("make grade SHOW=1 says more: races and bad accesses with file and line\n"); }
#elif defined(__CUDACPU__)
        printf("races and bad accesses were not looked for: that takes clang++, and RACES=1\n");
#endif
        printf("SCORE %d/%d\n", got, total);
    }
    free(results);
    srunner_free(runner);
    return got == total ? 0 : 1;
}
#endif
