/*
Unit tests of dev/specialisation.c: the information against values worked out by hand, the loss tables and the alarm for
a leak on small texts, the whole report on files written here, and one clear error for each thing wrong with a file.

Build: gcc test/test_specialisation.c -o test/test_specialisation $(pkg-config --cflags --libs check) -lm
Each test runs in a process of its own. Check takes exit(0) in the middle of a test for success, so a test passes only if
it reaches its last line, PASS(), which exits with a code drawn at random when the program starts.
*/
#define TESTING
#include "../dev/specialisation.c"
#include <check.h> // after the program: it has a macro fail(), the program a function
#include <sys/wait.h>
#include "suite.h"

// ----------------------------------------------------------------------------
// Information

enum { MANY = 20000 };
static uint64_t s[MANY];
static unsigned char d[MANY], x[MANY];

START_TEST(a_gate_that_is_the_language) {
    double H;
    for (int i = 0; i < 1200; i++) {
        x[i] = (unsigned char)(i % 2);
        d[i] = (unsigned char)(i / 2 % 3);
        s[i] = 1ULL << d[i];
    }
    double I = information(&H, s, d, x, 1200);
    ck_assert_double_eq_tol(H, log2(3), 1e-12);
    ck_assert_double_eq_tol(I, H, 1e-12);
    PASS();
} END_TEST

START_TEST(a_gate_that_never_changes) {
    double H;
    for (int i = 0; i < 1000; i++) { x[i] = (unsigned char)(i % 7); d[i] = (unsigned char)(i % 5); s[i] = 9; }
    ck_assert_double_eq_tol(information(&H, s, d, x, 1000), 0.0, 1e-12);
    ck_assert_double_gt(H, 2.3); // nearly log2(5)
    PASS();
} END_TEST

START_TEST(four_cells_by_hand) {
    // p(s,d) = 3/8 on the diagonal, 1/8 beside it: I = 1 - h(1/4)
    static const int cell[8][2] = {{0, 0}, {0, 0}, {0, 0}, {1, 1}, {1, 1}, {1, 1}, {0, 1}, {1, 0}};
    double H;
    for (int i = 0; i < 8; i++) { s[i] = (uint64_t)cell[i][0]; d[i] = (unsigned char)cell[i][1]; x[i] = 'a'; }
    double I = information(&H, s, d, x, 8);
    ck_assert_double_eq_tol(H, 1.0, 1e-12);
    ck_assert_double_eq_tol(I, 1.0 + 0.25 * log2(0.25) + 0.75 * log2(0.75), 1e-12);
    PASS();
} END_TEST

START_TEST(what_the_byte_tells_does_not_count) {
    // s tells the byte and the byte tells much of the language, but given the byte nothing is added
    double H;
    for (int i = 0; i < 900; i++) {
        x[i] = (unsigned char)(i % 3);
        d[i] = (unsigned char)(2 * x[i] + i / 3 % 2);
        s[i] = 1ULL << x[i];
    }
    ck_assert_double_eq_tol(information(&H, s, d, x, 900), 0.0, 1e-12);
    ck_assert_double_eq_tol(H, 1.0, 1e-12);
    PASS();
} END_TEST

START_TEST(what_only_both_tell_counts) {
    // d = s xor x: s alone says nothing of d, with x it says all
    double H;
    for (int i = 0; i < 800; i++) {
        x[i] = (unsigned char)(i & 1);
        s[i] = (uint64_t)(i >> 1 & 1);
        d[i] = (unsigned char)(s[i] ^ x[i]);
    }
    ck_assert_double_eq_tol(information(&H, s, d, x, 800), 1.0, 1e-12);
    ck_assert_double_eq_tol(H, 1.0, 1e-12);
    PASS();
} END_TEST

START_TEST(bytes_weigh_by_how_often_they_come) {
    // byte 0, three quarters of all: one language; byte 1: two, told by the set
    double H;
    for (int i = 0; i < 400; i++) {
        x[i] = i % 4 == 3;
        d[i] = x[i] ? (unsigned char)(i / 4 % 2) : 0;
        s[i] = d[i];
    }
    double I = information(&H, s, d, x, 400);
    ck_assert_double_eq_tol(H, 0.25, 1e-12);
    ck_assert_double_eq_tol(I, 0.25, 1e-12);
    PASS();
} END_TEST

START_TEST(all_64_experts_count) {
    double H;
    for (int i = 0; i < 640; i++) { x[i] = 0; d[i] = (unsigned char)(i % 64 / 4); s[i] = 1ULL << (i % 64); }
    ck_assert_double_eq_tol(information(&H, s, d, x, 640), 4.0, 1e-12);
    PASS();
} END_TEST

static void draw_independent(void) {
    // 64 sets, 6 languages, 10 bytes, none knows the others
    uint64_t seed = 77;
    for (int i = 0; i < MANY; i++) {
        s[i] = random_u32(&seed) % 64;
        d[i] = (unsigned char)(random_u32(&seed) % 6);
        x[i] = (unsigned char)(random_u32(&seed) % 10);
    }
}

START_TEST(counting_is_biased_as_the_caption_says) {
    double H, bias = (10 * 64 * 6 - 10 * 64 - 10 * 6 + 10) / (2 * MANY * log(2.0)); // all cells are filled
    draw_independent();
    double I = information(&H, s, d, x, MANY);
    ck_assert_double_eq_tol(I, bias, 0.1 * bias);
    PASS();
} END_TEST

START_TEST(chance_is_what_a_gate_without_knowledge_scores) {
    static unsigned char byte[MANY];
    double chance, H, share;
    TruthFile t;
    GateRows g;
    draw_independent();
    memset(&t, 0, sizeof(t));
    memset(&g, 0, sizeof(g));
    for (int i = 0; i < MANY; i++) { byte[i] = x[i]; }
    t.byte = byte;
    t.domain = d;
    g.set = s;
    share = carried(&chance, &H, &g, &t, MANY);
    ck_assert_double_eq_tol(share, chance, 0.1 * chance);
    ck_assert_double_gt(chance, 0.03);
    for (int i = 0; i < MANY; i++) { s[i] = s[i] % 8 + 64ULL * d[i]; } // now it knows
    share = carried(&chance, &H, &g, &t, MANY);
    ck_assert_double_eq_tol(share, 1.0, 1e-9);
    ck_assert_double_lt(chance, 0.1);
    for (int i = 0; i < MANY; i++) { d[i] = 3; } // one language: nothing to know, and no division by 0
    ck_assert_double_eq(carried(&chance, &H, &g, &t, MANY), 0.0);
    ck_assert_double_eq(chance, 0.0);
    PASS();
} END_TEST

START_TEST(shuffling_keeps_each_byte_its_languages) {
    static unsigned char again[MANY], before[MANY];
    static int counts[10][6];
    int moved = 0;
    draw_independent();
    memcpy(before, d, MANY);
    memcpy(again, d, MANY);
    shuffle_within(d, x, MANY, 5);
    shuffle_within(again, x, MANY, 5);
    ck_assert_int_eq(memcmp(d, again, MANY), 0); // same seed, same order
    for (int i = 0; i < MANY; i++) {
        counts[x[i]][d[i]]++;
        counts[x[i]][before[i]]--;
        moved += d[i] != before[i];
    }
    for (int i = 0; i < 60; i++) { ck_assert_int_eq(counts[i / 6][i % 6], 0); }
    ck_assert_int_gt(moved, MANY * 3 / 4); // 5 of 6
    PASS();
} END_TEST

// ----------------------------------------------------------------------------
// Losses

START_TEST(losses_land_where_they_belong) {
    // windows of 4: "ab\nc" "d\nef"; loss i is that of byte i + 1
    char text[] = "ab\ncd\nef\n";
    unsigned char domain[] = {0, 0, 0, 1, 1, 1, 0, 0, 0};
    double p[] = {0.5, 0.25, 1, 0.5, 0.125, 1, 0.5, 0.25, 1};
    float loss[8];
    TruthFile t;
    RoutingFile dump;
    BitsSum all[3], seen[3];
    memset(&t, 0, sizeof(t));
    memset(&dump, 0, sizeof(dump));
    memset(all, 0, sizeof(all));
    memset(seen, 0, sizeof(seen));
    for (int i = 0; i < 8; i++) { loss[i] = (float)((i + 1) * log(2.0)); } // 1, 2, 3 ... bits
    t.n = 9;
    t.domains = 2;
    t.byte = (unsigned char*)text;
    t.domain = domain;
    t.p = p;
    dump.n = 8;
    dump.T = 4;
    dump.loss = loss;
    losses(all, seen, &t, &dump);
    ck_assert_double_eq(all[0].n, 5);   // b newline e f newline
    ck_assert_double_eq_tol(all[0].loss, 1 + 2 + 6 + 7 + 8, 1e-5);
    ck_assert_double_eq_tol(all[0].floor, 2 + 0 + 1 + 2 + 0, 1e-12);
    ck_assert_double_eq(all[1].n, 3);   // c d newline
    ck_assert_double_eq_tol(all[1].loss, 3 + 4 + 5, 1e-5);
    ck_assert_double_eq(all[2].n, 8);
    ck_assert_double_eq_tol(all[2].squares, 1 + 4 + 4 + 1 + 25 + 25 + 25 + 64, 1e-3);
    // c: the newline is in the window; d is predicted from "ab\nc" too; its newline from "d" alone; then e f newline
    ck_assert_double_eq(seen[1].n, 2);
    ck_assert_double_eq_tol(seen[1].loss, 3 + 4, 1e-5);
    ck_assert_double_eq(seen[0].n, 3);
    ck_assert_double_eq_tol(seen[0].loss, 6 + 7 + 8, 1e-5);
    ck_assert_double_eq(seen[2].n, 5);
    PASS();
} END_TEST

START_TEST(standard_error_by_hand) {
    BitsSum b = {0, 0, 0, 0};
    double error;
    add_bits(&b, 3, 1); // gaps 2, 0, 2, 0
    add_bits(&b, 1, 1);
    add_bits(&b, 4, 2);
    add_bits(&b, 0, 0);
    ck_assert_double_eq_tol(gap_of(&b, &error), 1.0, 1e-12);
    ck_assert_double_eq_tol(error, 0.5, 1e-12); // a deviation of 1 over the square root of 4
    PASS();
} END_TEST

START_TEST(alarm_below_the_floor) {
    BitsSum far = {0, 0, 0, 0}, near = {0, 0, 0, 0}, few = {0, 0, 0, 0}, exact = {0, 0, 0, 0};
    for (int i = 0; i < 10000; i++) {
        double noise = i % 2 ? 1 : -1; // standard error 0.01
        add_bits(&far, 1 + noise - 0.045, 1);
        add_bits(&near, 1 + noise - 0.035, 1);
        add_bits(&exact, 1 - 1e-7, 1);
        if (i < MIN_BYTES - 1) { add_bits(&few, 0, 1); }
    }
    ck_assert_ptr_nonnull(freopen("/dev/null", "w", stdout)); // the alarm is meant, nobody should be alarmed
    ck_assert_int_eq(warn_below_floor("far", "here", &far), 1);
    ck_assert_int_eq(warn_below_floor("near", "here", &near), 0);
    ck_assert_int_eq(warn_below_floor("exact", "here", &exact), 0);
    ck_assert_int_eq(warn_below_floor("few", "here", &few), 0);
    PASS();
} END_TEST

// ----------------------------------------------------------------------------
// Files and the whole report

enum { LENGTH = 600, E = 20 };
static char folder[32], truth_path[64], routing_path[64], untrained_path[64]; // of this test, gone at its end

// What the files hold. A test changes one thing, then writes them.
static struct {
    unsigned char text[LENGTH], domain[LENGTH], kind[LENGTH], open[LENGTH * E];
    double p[LENGTH];
    int32_t token[LENGTH], k[LENGTH];
    float loss[LENGTH];
    size_t rows, width;
    const char *truth_meta, *routing_meta, *dtype;
} file;

static void good_files(void) {
    // lines "ab\n" of language 0 on expert 0, "cd\n" of language 1 on experts 1 and 18; each 12th token chooses none
    memset(&file, 0, sizeof(file));
    for (int i = 0; i < LENGTH; i++) {
        int language = i / 3 % 2;
        file.text[i] = (unsigned char)(i % 3 == 2 ? '\n' : 'a' + 2 * language + i % 3);
        file.domain[i] = (unsigned char)language;
        file.kind[i] = (unsigned char)(i % 3);
        file.p[i] = i % 3 == 0 ? 0.5 : 1.0;
        file.token[i] = file.text[i];
        file.k[i] = i % 12 == 0 ? 0 : 1 + language;
        file.open[i * E + language] = 1;
        file.open[i * E + 18] = (unsigned char)language;
        file.loss[i] = (float)-log(i % 3 == 2 ? 0.5 : 1.0); // what comes next: exactly on the floor
    }
    file.rows = LENGTH;
    file.width = E;
    file.dtype = "I32";
    file.truth_meta = "\"format\":\"dynmoe-truth 1\",\"domains\":\"first,second,absent\",\"kinds\":\"free,form,answer\"";
    file.routing_meta = "\"format\":\"dynmoe-routing 1\",\"T\":\"50\",\"moe_layers\":\"3\"";
}

static void write_files(void) {
    size_t all = LENGTH, shape[2] = {file.rows, file.width};
    SafeTensor truth[4], routing[4];
    truth[0] = safe_tensor("", "p", "F64", 1, &all, file.p);
    truth[1] = safe_tensor("", "text", "U8", 1, &all, file.text);
    truth[2] = safe_tensor("", "domain", "U8", 1, &all, file.domain);
    truth[3] = safe_tensor("", "kind", "U8", 1, &all, file.kind);
    routing[0] = safe_tensor("", "h.3.open", "U8", 2, shape, file.open);
    routing[1] = safe_tensor("", "token", "I32", 1, shape, file.token);
    routing[2] = safe_tensor("", "loss", "F32", 1, shape, file.loss);
    routing[3] = safe_tensor("", "h.3.k", file.dtype, 1, shape, file.k);
    if (*folder == '\0') {
        strcpy(folder, "/tmp/dynmoe_XXXXXX");
        ck_assert_ptr_nonnull(mkdtemp(folder));
    }
    snprintf(truth_path, sizeof(truth_path), "%s/truth", folder);
    snprintf(routing_path, sizeof(routing_path), "%s/routing", folder);
    snprintf(untrained_path, sizeof(untrained_path), "%s/untrained", folder);
    safetensors_save(truth_path, truth, 4, file.truth_meta);
    safetensors_save(routing_path, routing, 4, file.routing_meta);
}

static void remove_files(void) {
    remove(truth_path);
    remove(routing_path);
    remove(untrained_path);
    ck_assert_int_eq(rmdir(folder), 0);
}

static int run_report(char* said, size_t room, const char* truth, const char* routing, const char* untrained) {
    // runs it in a child; out: what it said on both streams. Returns its exit status: 100 + warnings if it came to its end
    FILE* out = tmpfile();
    ck_assert_ptr_nonnull(out);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(fileno(out), 1);
        dup2(fileno(out), 2);
        _exit(100 + specialisation_report(truth, routing, untrained));
    }
    int status = 0;
    waitpid(pid, &status, 0);
    rewind(out);
    said[fread(said, 1, room - 1, out)] = '\0';
    fclose(out);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static char said[20000];
#define EXPECT_LINE(line) ck_assert_msg(strstr(said, "\n" line "\n") != NULL, "no line \"%s\" in:\n%s", line, said)

START_TEST(report_of_a_model_on_the_floor) {
    good_files();
    write_files();
    ck_assert_int_eq(run_report(said, sizeof(said), truth_path, routing_path, NULL), 100);
    EXPECT_LINE("first    |  49.9%  0.3311  0.3311   0.0000   0.0000 |  48.6%  0.3402  0.3402   0.0000   0.0000");
    EXPECT_LINE("absent   |      -       -       -        -        - |      -       -       -        -        -");
    ck_assert_ptr_nonnull(strstr(said, "\n    3 |  1.000   0.00")); // only the newline leaves the language open
    ck_assert_ptr_nonnull(strstr(said, "H(D | X) = 0.333 bits"));
    ck_assert_ptr_null(strstr(said, "WARNING"));
    ck_assert_ptr_null(strstr(said, "untrained"));
    remove_files();
    PASS();
} END_TEST

START_TEST(report_of_experts_and_k) {
    good_files();
    file.rows = LENGTH - 1; // fewer than the truth has
    write_files();
    ck_assert_int_eq(run_report(said, sizeof(said), truth_path, routing_path, NULL), 100);
    EXPECT_LINE("layer 3: percent of the language's tokens that use the expert (any use: 3 of 20 experts)");
    EXPECT_LINE("expert      0    1   18");
    EXPECT_LINE("first     100    0    0");
    EXPECT_LINE("second      0  100  100");
    EXPECT_LINE("absent      -    -    -");
    EXPECT_LINE("language     all    free    form  answer    k = 0");
    EXPECT_LINE("first      0.833   1.000   0.500   1.000    16.7%");
    EXPECT_LINE("second     2.000   2.000   2.000   2.000     0.0%");
    ck_assert_ptr_nonnull(strstr(said, "599 of 600 bytes"));
    remove_files();
    PASS();
} END_TEST

START_TEST(report_beside_an_untrained_one) {
    good_files();
    for (int i = 0; i < LENGTH; i++) { // one expert, the same for all
        memset(&file.open[i * E], 0, E);
        file.open[i * E + 7] = 1;
        file.k[i] = 1;
    }
    write_files();
    ck_assert_int_eq(rename(routing_path, untrained_path), 0);
    good_files();
    write_files();
    ck_assert_int_eq(run_report(said, sizeof(said), truth_path, routing_path, untrained_path), 100);
    ck_assert_ptr_nonnull(strstr(said, "untrained"));
    ck_assert_ptr_nonnull(strstr(said, "\n    3 |  1.000   0.00"));
    ck_assert_ptr_nonnull(strstr(said, "  |  0.000   0.000\n"));
    remove_files();
    PASS();
} END_TEST

START_TEST(report_of_64_experts) {
    good_files();
    memset(file.open, 0, sizeof(file.open));
    file.rows = 150;
    file.width = 64;
    for (int i = 0; i < 150; i++) { // expert 31 or 63: which one is all there is to know
        file.k[i] = 1;
        file.open[i * 64 + (file.domain[i] ? 63 : 31)] = 1;
    }
    write_files();
    ck_assert_int_eq(run_report(said, sizeof(said), truth_path, routing_path, NULL), 100);
    ck_assert_ptr_nonnull(strstr(said, "\n    3 |  1.000 "));
    EXPECT_LINE("expert     31   63");
    remove_files();
    PASS();
} END_TEST

START_TEST(report_fits_the_terminal) {
    good_files();
    for (int i = 0; i < LENGTH; i++) { // 20 experts: two blocks of columns
        memset(&file.open[i * E], 1, E);
        file.k[i] = E;
    }
    write_files();
    ck_assert_int_eq(run_report(said, sizeof(said), truth_path, routing_path, routing_path), 100);
    EXPECT_LINE("expert     16   17   18   19");
    EXPECT_LINE("first     100  100  100  100");
    for (char* line = strchr(said, '\n'); *line != '\0'; line++) { // the first line has paths in it
        size_t length = strcspn(line + 1, "\n");
        ck_assert_msg(length <= 100, "%zu columns: %.*s", length, (int)length, line + 1);
        line += length;
    }
    remove_files();
    PASS();
} END_TEST

START_TEST(report_cries_when_the_mask_leaks) {
    good_files();
    for (int i = 0; i < LENGTH; i++) { file.loss[i] = i % 3 == 2 ? 0.3f : 0.0f; } // where 0.693 is the floor
    write_files();
    ck_assert_int_eq(run_report(said, sizeof(said), truth_path, routing_path, NULL), 106); // two languages, all, twice
    ck_assert_ptr_nonnull(strstr(said, "*** WARNING: all is 0.1884 bits per byte BELOW its floor"));
    ck_assert_ptr_nonnull(strstr(said, "*** WARNING: second is"));
    remove_files();
    PASS();
} END_TEST

START_TEST(report_without_gates) {
    good_files();
    file.routing_meta = "\"format\":\"dynmoe-routing 1\",\"T\":\"50\",\"moe_layers\":\"\"";
    write_files();
    ck_assert_int_eq(run_report(said, sizeof(said), truth_path, routing_path, NULL), 100);
    ck_assert_ptr_nonnull(strstr(said, "1. Loss"));
    ck_assert_ptr_null(strstr(said, "layer"));
    remove_files();
    PASS();
} END_TEST

static void expect_error(const char* about, const char* truth, const char* routing, const char* untrained) {
    int status = run_report(said, sizeof(said), truth, routing, untrained), newlines = 0;
    for (char* c = said; *c != '\0'; c++) { newlines += *c == '\n'; }
    ck_assert_msg(status == 1, "%s: exit status %d", about, status);
    int clear = strncmp(said, "error: ", 7) == 0 && newlines == 2 && strstr(said, "\n---> HINT: ") != NULL;
    ck_assert_msg(clear && strstr(said, about) != NULL, "expected an error about \"%s\", not: %s", about, said);
}

#define EXPECT_WRONG(about, change) do { \
    good_files(); \
    change; \
    write_files(); \
    expect_error(about, truth_path, routing_path, NULL); \
} while (0)

START_TEST(wrong_files_are_refused) {
    EXPECT_WRONG("from token 7 on", file.token[7] = 'x');
    EXPECT_WRONG("from token 0 on", file.token[0] += 256);
    EXPECT_WRONG("loss of token 5", file.loss[5] = NAN);
    EXPECT_WRONG("token 4 uses 2 experts and chose 1", file.k[4] = 1);
    EXPECT_WRONG("token 12 uses 2 experts and chose 0", file.open[12 * E + 5] = 1);
    EXPECT_WRONG("token 2 uses 1 experts and chose -1", file.k[2] = -1);
    EXPECT_WRONG("token 1 uses", file.open[1 * E] = 2; file.k[1] = 2);
    EXPECT_WRONG("h.3.k", file.dtype = "F32");
    EXPECT_WRONG("no tensor h.2.k", file.routing_meta = "\"format\":\"dynmoe-routing 1\",\"T\":\"50\",\"moe_layers\":\"3,2\"");
    EXPECT_WRONG("T, the length", file.routing_meta = "\"format\":\"dynmoe-routing 1\",\"moe_layers\":\"3\"");
    EXPECT_WRONG("its format is", file.routing_meta = "\"format\":\"dynmoe-routing 2\",\"T\":\"50\",\"moe_layers\":\"3\"");
    EXPECT_WRONG("has 65 experts", file.rows = LENGTH / 5; file.width = 65);
    remove_files();
    PASS();
} END_TEST

START_TEST(wrong_truths_are_refused) {
    EXPECT_WRONG("byte 9 has", file.domain[9] = 3);
    EXPECT_WRONG("byte 8 has", file.kind[8] = 3);
    EXPECT_WRONG("byte 7 has", file.p[7] = 0.0);
    EXPECT_WRONG("byte 6 has", file.p[6] = 1.5);
    EXPECT_WRONG("byte 5 has", file.p[5] = NAN);
    EXPECT_WRONG("byte 0 has", file.truth_meta = "\"format\":\"dynmoe-truth 1\"");
    EXPECT_WRONG("its format is \"\"", file.truth_meta = "");
    good_files();
    write_files();
    expect_error("its format is \"dynmoe-routing 1\"", routing_path, truth_path, NULL); // the wrong way round
    remove_files();
    PASS();
} END_TEST

START_TEST(files_that_do_not_go_together_are_refused) {
    good_files();
    write_files();
    ck_assert_int_eq(rename(routing_path, untrained_path), 0);
    good_files();
    file.routing_meta = "\"format\":\"dynmoe-routing 1\",\"T\":\"50\",\"moe_layers\":\"\"";
    write_files();
    expect_error("other DynMoE layers", truth_path, routing_path, untrained_path);
    remove_files();
    PASS();
} END_TEST

// ----------------------------------------------------------------------------

int main(void) {
    suite_draw_code();
    Suite* suite = suite_create("specialisation");
    TCase* tc = tcase_create("specialisation");
    tcase_set_timeout(tc, 60);
    suite_add_tcase(suite, tc);
    tcase_add_exit_test(tc, a_gate_that_is_the_language, pass_code);
    tcase_add_exit_test(tc, a_gate_that_never_changes, pass_code);
    tcase_add_exit_test(tc, four_cells_by_hand, pass_code);
    tcase_add_exit_test(tc, what_the_byte_tells_does_not_count, pass_code);
    tcase_add_exit_test(tc, what_only_both_tell_counts, pass_code);
    tcase_add_exit_test(tc, bytes_weigh_by_how_often_they_come, pass_code);
    tcase_add_exit_test(tc, all_64_experts_count, pass_code);
    tcase_add_exit_test(tc, counting_is_biased_as_the_caption_says, pass_code);
    tcase_add_exit_test(tc, chance_is_what_a_gate_without_knowledge_scores, pass_code);
    tcase_add_exit_test(tc, shuffling_keeps_each_byte_its_languages, pass_code);
    tcase_add_exit_test(tc, losses_land_where_they_belong, pass_code);
    tcase_add_exit_test(tc, standard_error_by_hand, pass_code);
    tcase_add_exit_test(tc, alarm_below_the_floor, pass_code);
    tcase_add_exit_test(tc, report_of_a_model_on_the_floor, pass_code);
    tcase_add_exit_test(tc, report_of_experts_and_k, pass_code);
    tcase_add_exit_test(tc, report_beside_an_untrained_one, pass_code);
    tcase_add_exit_test(tc, report_of_64_experts, pass_code);
    tcase_add_exit_test(tc, report_fits_the_terminal, pass_code);
    tcase_add_exit_test(tc, report_cries_when_the_mask_leaks, pass_code);
    tcase_add_exit_test(tc, report_without_gates, pass_code);
    tcase_add_exit_test(tc, wrong_files_are_refused, pass_code);
    tcase_add_exit_test(tc, wrong_truths_are_refused, pass_code);
    tcase_add_exit_test(tc, files_that_do_not_go_together_are_refused, pass_code);

    int run, failed = suite_run(suite, &run);
    return suite_end(failed, run);
}
