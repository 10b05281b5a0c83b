/*
Unit tests of dev/stats.c, dev/colour.c and dev/alarms.c: logs written here for every alarm and for its absence just below the
limit, models made here whose statistics are counted again from the definitions, and what colour prints, exactly.

    make test-unit                       builds this and runs it beside the other tests
    CK_RUN_CASE=alarms test/test_tools   one group: alarms, stats, colour

Each test runs in a process of its own, and each tool in a child of that, whose output is read. Check takes exit(0) in the middle
of a test for success, so a test passes only if it reaches its last line, PASS(), which exits with a code drawn at random when the
program starts. The first process runs no model: the threads of OpenMP do not survive a fork.
*/
#define TESTING
#include "../train_gpt2_dynmoe.c"
#include "../dev/alarms.c"
#include "../dev/colour.c"
#include "../dev/stats.c"
#include <check.h> // after the program: it has a macro fail()
#include <sys/wait.h>
#include "suite.h"

// ----------------------------------------------------------------------------
// Helpers

static char folder[] = "/tmp/test_tools_XXXXXX", log_path[64], model_path[64], text_path[64], json_path[64], bpe_path[64];
static char said[1 << 17]; // what the tool printed, errors too

static void setup(void) { // before each test, in its process
    threads_set(1);
    snprintf(log_path, sizeof log_path, "%s/log.jsonl", folder);
    snprintf(model_path, sizeof model_path, "%s/model.safetensors", folder);
    snprintf(text_path, sizeof text_path, "%s/text.txt", folder);
    snprintf(json_path, sizeof json_path, "%s/stats.json", folder);
    snprintf(bpe_path, sizeof bpe_path, "%s/text.bin", folder);
}

typedef int (*Tool)(int argc, char** argv);
static int colour_off(int argc, char** argv) { return colour_run(argc, argv, 0); }
static int colour_on(int argc, char** argv) { return colour_run(argc, argv, 1); }

static int run_tool(Tool tool, const char* words, const char* text) { // flags with blanks between, then a text; its exit code
    char line[1024], *argv[32];
    int argc = 0, status = 0;
    FILE* out = tmpfile();
    ck_assert(out != NULL);
    snprintf(line, sizeof line, "tool %s", words);
    for (char* word = strtok(line, " "); word != NULL; word = strtok(NULL, " ")) { argv[argc++] = word; }
    if (text != NULL) { argv[argc++] = (char*)(uintptr_t)text; }
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(fileno(out), 1);
        dup2(fileno(out), 2);
        int code = tool(argc, argv);
        fflush(NULL);
        _exit(code == 0 ? 100 : 101); // not what exit() in the middle gives
    }
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    rewind(out);
    said[fread(said, 1, sizeof said - 1, out)] = '\0';
    fclose(out);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) { ck_abort_msg("'%s' stopped with 0 before its end: %.300s", words, said); }
    return WIFEXITED(status) ? (WEXITSTATUS(status) == 100 ? 0 : WEXITSTATUS(status)) : -1;
}

static void must_say(const char* want) { if (strcmp(said, want) != 0) { ck_abort_msg("got:\n%s\nwant:\n%s", said, want); } }

static void must_hold(const char* words) { if (strstr(said, words) == NULL) { ck_abort_msg("no '%s' in:\n%s", words, said); } }

static void must_lack(const char* words) { if (strstr(said, words) != NULL) { ck_abort_msg("'%s' in:\n%s", words, said); } }

static void must_stop(int code, const char* about, Tool tool, const char* words, const char* text) {
    int got = run_tool(tool, words, text), lines = 0;
    for (const char* p = said; *p; p++) { lines += *p == '\n'; }
    const char *hint = strstr(said, "\n---> HINT: "), *where = strstr(said, about);
    if (got != code || strncmp(said, "error: ", 7) != 0 || lines != 2 || hint == NULL || where == NULL || where > hint) {
        ck_abort_msg("'%s': exit code %d, wanted %d and an error about '%s', got: %.500s", words, got, code, about, said);
    }
}

static void write_file(const char* path, const void* bytes, size_t n) {
    FILE* f = fopen(path, "wb");
    ck_assert(f != NULL && fwrite(bytes, 1, n, f) == n && fclose(f) == 0);
}

// ----------------------------------------------------------------------------
// alarms: a log is written line by line; a test changes what the layer does from one record to the next

static FILE* journal;
static struct { int experts, E; double k, none, G[8], low[8], high[8], load[8]; int fixed_k; } now;
static double now_loss;

static void healthy(void) { // 4 of 8 slots active; the loss falls by 0.01 each record
    memset(&now, 0, sizeof now);
    now.experts = 4;
    now.E = 8;
    now.k = 2.0;
    now.none = 0.01;
    now.fixed_k = -1;
    now_loss = 3.0;
    for (int e = 0; e < 8; e++) {
        now.load[e] = e < 4 ? 0.5 : 0.0;
        now.G[e] = 0.01 * e;
        now.low[e] = -0.3;
        now.high[e] = 0.3;
    }
}

static void write_list(const char* name, const double* x, int n) {
    fprintf(journal, ",\"%s\":[", name);
    for (int i = 0; i < n; i++) { fprintf(journal, i > 0 ? ",%.5f" : "%.5f", x[i]); }
    fprintf(journal, "]");
}

static void write_step(int step) {
    double hist[9] = {0};
    hist[now.fixed_k >= 0 ? now.fixed_k : 2] = now.fixed_k >= 0 ? 1.0 : 0.6;
    now_loss -= 0.01;
    fprintf(journal, "{\"type\":\"step\",\"step\":%d,\"loss\":%.6f,\"aux\":0.000000,\"layers\":[{\"layer\":0,", step, now_loss);
    fprintf(journal, "\"experts\":%d,\"k\":%.5f,\"none\":%.5f", now.experts, now.k, now.none);
    write_list("load", now.load, now.E);
    write_list("hist", hist, now.E + 1);
    write_list("G", now.G, now.E);
    write_list("low", now.low, now.E);
    write_list("high", now.high, now.E);
    fprintf(journal, "}]}\n");
}

static void write_steps(int from, int to) { for (int step = from; step <= to; step += 50) { write_step(step); } }

static void write_event(int step, const char* what, int expert) {
    fprintf(journal, "{\"type\":\"event\",\"step\":%d,\"layer\":0,\"what\":\"%s\",\"expert\":%d", step, what, expert);
    fprintf(journal, ",\"count\":9}\n");
}

static void write_run(const char* flags) { // beyond those of a fresh top-any run; of two values the first one is found
    fprintf(journal, "{\"type\":\"run\",\"version\":1,\"machine\":\"a \\\"CPU\\\" {[\",\"flags\":{%s", flags);
    fprintf(journal, "\"init\":\"\",\"resume\":\"\",\"router\":\"top-any\",\"start_experts\":\"4\",");
    fprintf(journal, "\"period\":\"300\",\"kgrad\":\"normalised\"}}\n");
}

static void log_begin(const char* flags) { // a healthy start: steps 1 to 200
    journal = fopen(log_path, "w");
    ck_assert(journal != NULL);
    healthy();
    if (flags != NULL) { write_run(flags); }
    write_step(1);
    write_steps(50, 200);
}

static void alarms_say(const char* want) { // ends the log
    ck_assert_int_eq(fclose(journal), 0);
    ck_assert_int_eq(run_tool(alarms_run, log_path, NULL), 0);
    must_say(want);
}

#define NO_ALARM(n, step) "no alarm in " n " records of training, up to step " step "\n"
#define TRY_ADAPT "; try a larger --adapt-stop, or a shorter --period\n"
#define TRY_BALANCE "; try a larger --aux-balance\n"
#define ONE_ALARM(n, step) "1 alarm in " n " records of training, up to step " step "\n"

START_TEST(a_healthy_run_has_no_alarm) {
    log_begin("");
    fprintf(journal, "{\"type\":\"val\",\"step\":200,\"loss\":1.5,\"bits\":2,\"layers\":[]}\n");
    write_steps(250, 1000);
    fprintf(journal, "{\"type\":\"end\",\"step\":1000,\"seconds\":2.00,\"best\":1.500000}\n");
    alarms_say(NO_ALARM("21", "1000"));
    PASS();
} END_TEST

START_TEST(dense_collapse) {
    log_begin("");
    now.k = 3.601;
    write_steps(250, 350);
    now.k = 2.0;
    write_steps(400, 500);
    alarms_say("layer 0, steps 201-350: dense collapse: mean k 3.60 of 4 active experts; "
               "try --aux-efficiency 0.001 (0.01 may close all gates)\n" ONE_ALARM("11", "500"));
    log_begin("\"kgrad\":\"detached\",");
    now.k = 3.9;
    write_steps(250, 1000);
    alarms_say("layer 0, steps 201-1000, to the end: dense collapse: mean k 3.90 of 4 active experts; try --kgrad normalised\n"
               ONE_ALARM("21", "1000"));
    log_begin("");
    now.k = 3.6; // the limit itself
    write_steps(250, 500);
    alarms_say(NO_ALARM("11", "500"));
    log_begin("");
    for (int step = 250; step <= 600; step += 50) { // never three in a row
        now.k = step % 150 == 0 ? 3.5 : 3.9;
        write_step(step);
    }
    alarms_say(NO_ALARM("13", "600"));
    PASS();
} END_TEST

START_TEST(alarms_that_come_again_are_one_line) {
    log_begin("");
    for (int step = 250; step <= 1200; step += 50) {
        now.none = step % 100 == 0 && step < 1200 ? 0.6 : 0.0;
        write_step(step);
    }
    alarms_say("layer 0, steps 251-1100 (9 times): empty collapse: 60.0% of the tokens have no expert; try --train-fallback 1\n"
               ONE_ALARM("25", "1200"));
    PASS();
} END_TEST

START_TEST(empty_collapse) {
    log_begin("\"aux_efficiency\":\"0.01\",");
    now.none = 0.501;
    write_step(250);
    now.none = 0.02;
    write_steps(300, 400);
    alarms_say("layer 0, steps 201-250: empty collapse: 50.1% of the tokens have no expert; "
               "try --aux-efficiency 0 --aux-balance 0\n" ONE_ALARM("9", "400"));
    log_begin("");
    now.none = 0.5;
    write_step(250);
    now.none = 0.02;
    write_steps(300, 400);
    alarms_say(NO_ALARM("9", "400"));
    PASS();
} END_TEST

START_TEST(a_dead_expert_is_named) {
    log_begin("");
    now.load[2] = 0.0;
    write_steps(250, 350);
    now.load[2] = 0.1;
    write_steps(400, 500);
    alarms_say("layer 0, steps 201-350: dead expert 2: no token used it" TRY_ADAPT
               ONE_ALARM("11", "500"));
    log_begin("\"period\":\"0\",");
    now.load[2] = now.load[3] = 0.0;
    write_steps(250, 350);
    alarms_say("layer 0, steps 201-350, to the end: dead expert 2 3: no token used it; try --period 300, which removes it\n"
               ONE_ALARM("8", "350"));
    log_begin("");
    now.load[2] = 0.0;
    write_steps(250, 300); // two records only
    now.load[2] = 0.00001; // one token of many
    write_steps(350, 500);
    alarms_say(NO_ALARM("11", "500"));
    PASS();
} END_TEST

START_TEST(an_expert_dead_from_the_first_step) { // slots 0 to 3 are active, and 2 is never used: the flags tell it from slot 4
    journal = fopen(log_path, "w");
    healthy();
    now.load[2] = 0.0;
    write_run("");
    write_step(1);
    write_steps(50, 300);
    alarms_say("layer 0, steps 2-300, to the end: dead expert 2: no token used it" TRY_ADAPT
               ONE_ALARM("7", "300"));
    PASS();
} END_TEST

START_TEST(free_slots_are_not_dead) { // slot 4 before it is added, and 1 after it was removed, have no load
    log_begin("");
    write_event(200, "add", 4);
    now.experts = 5;
    now.load[4] = 0.2;
    write_steps(250, 500);
    now.load[1] = 0.0;
    write_steps(550, 600); // two records
    write_event(600, "remove", 1);
    now.experts = 4;
    write_steps(650, 1000);
    alarms_say(NO_ALARM("21", "1000"));
    PASS();
} END_TEST

START_TEST(a_dead_expert_that_was_removed) {
    log_begin("");
    now.load[1] = 0.0;
    write_steps(250, 500);
    write_event(500, "remove", 1);
    write_event(500, "add", 1); // the lowest free slot is the one that was freed just now
    now.load[1] = 0.3;
    write_steps(550, 1000);
    alarms_say("layer 0, steps 201-500: dead expert 1: no token used it; the adaptive process removed it after step 500\n"
               ONE_ALARM("21", "1000"));
    PASS();
} END_TEST

START_TEST(a_new_expert_has_time) { // added in the middle of a record: that one does not count, three full ones do
    log_begin("");
    write_event(220, "add", 4);
    now.experts = 5;
    write_steps(250, 350);
    now.load[4] = 0.2;
    write_steps(400, 500);
    alarms_say(NO_ALARM("11", "500"));
    log_begin("");
    write_event(220, "add", 4);
    now.experts = 5;
    write_steps(250, 400);
    alarms_say("layer 0, steps 251-400, to the end: dead expert 4: no token used it" TRY_ADAPT
               ONE_ALARM("9", "400"));
    PASS();
} END_TEST

START_TEST(events_between_the_last_forward_and_its_record) { // step 249 ends with the add; the record of step 250 did not see it
    log_begin("");
    write_event(249, "add", 4);
    write_step(250);
    now.experts = 5;
    write_steps(300, 350);
    now.load[4] = 0.2;
    write_steps(400, 450);
    alarms_say(NO_ALARM("10", "450"));
    log_begin("");
    now.load[1] = 0.0; // 4 experts, and 1 is dead all the time
    write_event(249, "add", 4);
    write_step(250);
    now.experts = 5;
    now.load[4] = 0.2;
    write_steps(300, 350);
    alarms_say("layer 0, steps 201-350, to the end: dead expert 1: no token used it" TRY_ADAPT ONE_ALARM("8", "350"));
    log_begin("");
    write_event(249, "add", 4);
    write_step(250);
    now.experts = 5;
    write_steps(300, 400); // three full records
    alarms_say("layer 0, steps 251-400, to the end: dead expert 4: no token used it" TRY_ADAPT
               ONE_ALARM("9", "400"));
    PASS();
} END_TEST

START_TEST(always_on_expert) {
    log_begin("");
    now.load[0] = now.load[3] = 0.9901;
    write_steps(250, 350);
    now.load[0] = now.load[3] = 0.5;
    write_step(400);
    alarms_say("layer 0, steps 201-350: always-on expert 0 3: more than 99% of the tokens used it; "
               "try --shared-experts 1, or --aux-balance 0.001\n" ONE_ALARM("9", "400"));
    log_begin("");
    now.load[0] = 0.99;
    write_steps(250, 500);
    now.load[0] = 1.0;
    write_steps(550, 600);
    now.load[0] = 0.5;
    write_step(650);
    alarms_say(NO_ALARM("14", "650"));
    PASS();
} END_TEST

START_TEST(threshold_out_of_range) {
    log_begin("");
    now.G[1] = 0.3001;
    write_step(250);
    now.G[1] = 0.3; // the largest cosine itself: closed, but inside
    now.G[0] = -0.3;
    write_step(300);
    alarms_say("layer 0, steps 201-250: threshold out of range 1: G 0.3001, cosines -0.3000 to 0.3000, closed to all; "
               "try a smaller --lr\n" ONE_ALARM("7", "300"));
    log_begin("\"threshold\":\"-1\",");
    now.G[0] = -0.3001;
    now.G[6] = 2.0; // a free slot
    write_step(250);
    alarms_say("layer 0, steps 201-250, to the end: threshold out of range 0: G -0.3001, cosines -0.3000 to 0.3000, "
               "open to all; try --threshold 0\n" ONE_ALARM("6", "250"));
    PASS();
} END_TEST

START_TEST(tokens_without_an_expert_at_the_end) {
    log_begin("");
    now.none = 0.2;
    write_step(250);
    now.none = 0.05;
    write_step(300);
    alarms_say(NO_ALARM("7", "300"));
    log_begin("");
    now.none = 0.0501;
    write_step(250);
    alarms_say("layer 0, steps 201-250, to the end: tokens without expert: 5.0% of the tokens have no expert; "
               "try --train-fallback 1, or a larger --adapt-stop\n" ONE_ALARM("6", "250"));
    PASS();
} END_TEST

START_TEST(loss_that_does_not_fall) {
    log_begin("");
    for (int step = 250; step <= 1000; step += 50) { now_loss = 2.01; write_step(step); }
    alarms_say("steps 800-1000, to the end: loss not falling: mean 2.0000 nats over these records, 2.0000 over the 5 before; "
               "try a smaller --lr, or fewer --steps if it has learned all it can\n" ONE_ALARM("21", "1000"));
    log_begin("");
    for (int step = 250; step <= 1000; step += 50) { now_loss = 2.01 - 0.00001 * step; write_step(step); }
    alarms_say(NO_ALARM("21", "1000"));
    log_begin("");
    for (int step = 250; step <= 350; step += 50) { now_loss = 2.01; write_step(step); } // 7 records without that of step 1
    alarms_say(NO_ALARM("8", "350"));
    PASS();
} END_TEST

static void log_softmax(const char* flags) { // p of 8 experts, all active; top-2
    journal = fopen(log_path, "w");
    healthy();
    now.experts = 8;
    now.fixed_k = 2;
    for (int e = 0; e < 8; e++) {
        now.G[e] = 0.0;
        now.low[e] = 0.01;
        now.load[e] = 0.25;
    }
    write_run(flags);
}

START_TEST(softmax_routers_have_no_thresholds) {
    log_softmax("\"router\":\"top-k\",");
    write_steps(50, 300);
    alarms_say(NO_ALARM("6", "300"));
    log_softmax("\"router\":\"top-k\",");
    now.load[7] = 0.0;
    write_steps(50, 300);
    alarms_say("layer 0, steps 50-300, to the end: dead expert 7: no token used it" TRY_BALANCE ONE_ALARM("6", "300"));
    log_softmax("\"router\":\"top-k\",");
    now.load[0] = 1.0;
    now.fixed_k = 1;
    now.k = 1.0;
    write_steps(50, 300);
    alarms_say("layer 0, steps 50-300, to the end: always-on expert 0: more than 99% of the tokens used it" TRY_BALANCE
               ONE_ALARM("6", "300"));
    PASS();
} END_TEST

START_TEST(what_a_flag_orders_is_no_collapse) { // the dense mixture; top-p that needs all experts is one
    static const char* const routers[] = {"\"router\":\"dense\",", "\"router\":\"top-p\","};
    for (int i = 0; i < 2; i++) {
        log_softmax(routers[i]);
        now.fixed_k = 8;
        now.k = 8.0;
        for (int e = 0; e < 8; e++) { now.load[e] = 1.0; }
        write_steps(50, 300);
        ck_assert_int_eq(fclose(journal), 0);
        ck_assert_int_eq(run_tool(alarms_run, log_path, NULL), 0);
        if (i == 0) { must_say(NO_ALARM("6", "300")); continue; }
        must_hold("layer 0, steps 50-300, to the end: dense collapse: mean k 8.00 of 8 active experts; try a smaller --topp\n");
        must_hold("always-on expert 0 1 2 3 4 5 6 7:");
    }
    PASS();
} END_TEST

START_TEST(a_single_expert_is_no_collapse) { // --experts 1 --threshold -1: a dense layer in another dress
    journal = fopen(log_path, "w");
    healthy();
    now.E = now.experts = 1;
    now.k = now.load[0] = 1.0;
    now.G[0] = -1.0;
    write_run("\"start_experts\":\"1\",");
    write_steps(50, 500);
    alarms_say(NO_ALARM("10", "500"));
    PASS();
} END_TEST

START_TEST(a_dense_model_has_its_loss_only) {
    journal = fopen(log_path, "w");
    for (int step = 50; step <= 1000; step += 50) {
        fprintf(journal, "{\"type\":\"step\",\"step\":%d,\"loss\":2.5,\"layers\":[]}\n", step);
    }
    alarms_say("steps 800-1000, to the end: loss not falling: mean 2.5000 nats over these records, 2.5000 over the 5 before; "
               "try a smaller --lr, or fewer --steps if it has learned all it can\n" ONE_ALARM("20", "1000"));
    PASS();
} END_TEST

START_TEST(older_logs_without_scores) {
    journal = fopen(log_path, "w");
    for (int step = 50; step <= 200; step += 50) {
        fprintf(journal, "{\"type\":\"step\",\"step\":%d,\"loss\":2.5,\"layers\":[{\"layer\":2,\"experts\":2,\"k\":1.95,\"none\":0,"
                "\"load\":[0.5,0.5],\"hist\":[0,0.5,0.5]}]}\n", step);
    }
    alarms_say("layer 2, steps 50-200, to the end: dense collapse: mean k 1.95 of 2 active experts; "
               "try --aux-efficiency 0.001 (0.01 may close all gates)\n" ONE_ALARM("4", "200"));
    PASS();
} END_TEST

START_TEST(slots_of_a_run_that_began_elsewhere) { // resumed into a new folder: 5 experts, which ones only their load tells
    journal = fopen(log_path, "w");
    healthy();
    now.experts = 5;
    now.load[6] = 0.3;
    write_run("\"resume\":\"other/model.safetensors\",");
    write_steps(1050, 1300);
    now.load[6] = 0.0; // known by its load
    write_steps(1350, 1500);
    alarms_say("layer 0, steps 1301-1500, to the end: dead expert 6: no token used it; "
               "try a larger --adapt-stop, or a shorter --period\n" ONE_ALARM("10", "1500"));
    journal = fopen(log_path, "w");
    healthy();
    now.experts = 5;
    write_run("\"resume\":\"other/model.safetensors\",");
    write_steps(1050, 1300);
    alarms_say("layer 0, steps 1050-1300, to the end: dead expert: 5 active experts, 4 with tokens, free slots not known" TRY_ADAPT
               ONE_ALARM("6", "1300"));
    journal = fopen(log_path, "w");
    healthy();
    now.experts = 5;
    write_run("\"resume\":\"other/model.safetensors\",");
    write_steps(1050, 1300);
    write_event(1300, "remove", 7); // so it was 7
    now.experts = 4;
    write_steps(1350, 1400);
    alarms_say("layer 0, steps 1050-1300: dead expert 7: no token used it; the adaptive process removed it after step 1300\n"
               ONE_ALARM("8", "1400"));
    PASS();
} END_TEST

START_TEST(slots_that_later_events_tell) { // resumed elsewhere with 5 experts; 7 is added later, so it was free
    journal = fopen(log_path, "w");
    healthy();
    now.experts = 5;
    now.load[6] = 0.3;
    write_run("\"resume\":\"other/model.safetensors\",");
    write_step(1050);
    now.load[6] = 0.0;
    write_steps(1100, 1300);
    write_event(1300, "add", 7);
    now.experts = 6;
    now.load[6] = now.load[7] = 0.1;
    write_steps(1350, 1400);
    alarms_say("layer 0, steps 1051-1300: dead expert 6: no token used it" TRY_ADAPT ONE_ALARM("8", "1400"));
    PASS();
} END_TEST

START_TEST(an_event_that_was_lost) { // 4 comes, and goes without a word: 4 experts, 4 with load, so none is dead
    log_begin("");
    write_event(200, "add", 4);
    now.experts = 5;
    now.load[4] = 0.2;
    write_steps(250, 350);
    now.experts = 4;
    now.load[4] = 0.0;
    write_steps(400, 600);
    alarms_say(NO_ALARM("13", "600"));
    PASS();
} END_TEST

START_TEST(a_full_pool_leaves_no_doubt) { // started from another model, whose masks the log does not know; all 8 are active
    log_softmax("\"init\":\"other/model.safetensors\",");
    now.load[5] = 0.0;
    write_steps(50, 300);
    alarms_say("layer 0, steps 50-300, to the end: dead expert 5: no token used it" TRY_ADAPT ONE_ALARM("6", "300"));
    log_softmax("\"resume\":\"other/model.safetensors\","); // the last free slot is filled before the first record
    write_event(1020, "add", 7);
    now.load[5] = 0.0;
    write_steps(1050, 1300);
    alarms_say("layer 0, steps 1050-1300, to the end: dead expert 5: no token used it" TRY_ADAPT ONE_ALARM("6", "1300"));
    PASS();
} END_TEST

START_TEST(a_resumed_run_repeats_steps) {
    log_begin(""); // up to 200; saved there
    write_event(220, "add", 4);
    now.experts = 5;
    now.load[4] = 0.2;
    now.k = 4.9;
    write_steps(250, 350);
    now.k = 2.0;
    write_run("\"resume\":\"out/model.safetensors\",\"period\":\"0\","); // without the adaptive process: 4 is never added
    now.experts = 4;
    now.load[4] = 0.0;
    write_steps(250, 600);
    alarms_say(NO_ALARM("13", "600"));
    log_begin("");
    write_event(220, "add", 4);
    now.experts = 5;
    now.load[4] = 0.2;
    write_steps(250, 300); // saved there: it goes on with 5 experts, and 4 dies
    write_run("\"resume\":\"out/model.safetensors\",");
    now.load[4] = 0.0;
    write_steps(350, 500);
    alarms_say("layer 0, steps 301-500, to the end: dead expert 4: no token used it" TRY_ADAPT
               ONE_ALARM("11", "500"));
    PASS();
} END_TEST

START_TEST(torn_lines_are_left_out) {
    char want[400];
    log_begin("");
    fprintf(journal, "{\"type\":\"step\",\"step\":250,\"loss\":2.9,\"layers\":[{\"layer\":0,\"exp");
    snprintf(want, sizeof want, "note: %s: 1 of 7 lines torn, the first is line 7; what is not whole is left out\n"
             NO_ALARM("5", "200"), log_path);
    alarms_say(want);
    log_begin("");
    fprintf(journal, "{\"type\":\"step\",\"step\":250,\"loss\":2.9,\"lay"); // cut off by a crash, then resumed
    write_run("\"resume\":\"out/model.safetensors\",\"kgrad\":\"detached\",");
    now.k = 3.9;
    write_steps(250, 350);
    snprintf(want, sizeof want, "note: %s: 1 of 10 lines torn, the first is line 7; what is not whole is left out\n"
             "layer 0, steps 201-350, to the end: dense collapse: mean k 3.90 of 4 active experts; try --kgrad normalised\n"
             ONE_ALARM("8", "350"), log_path);
    alarms_say(want);
    PASS();
} END_TEST

START_TEST(unreadable_logs_are_refused) {
    must_stop(1, "No such file", alarms_run, "/nowhere/log.jsonl", NULL);
    must_stop(1, "not a regular file", alarms_run, folder, NULL);
    write_file(log_path, "", 0);
    must_stop(1, "the file is empty", alarms_run, log_path, NULL);
    write_file(log_path, "some text\n{}\n[]\n", 16);
    must_stop(1, "no record of a run in it", alarms_run, log_path, NULL);
    must_stop(2, "one log is needed", alarms_run, "", NULL);
    must_stop(2, "one log is needed", alarms_run, "a b", NULL);
    must_stop(2, "unknown flag --fix", alarms_run, "--fix", NULL);
    ck_assert_int_eq(run_tool(alarms_run, "--help", NULL), 0);
    must_say("dev/alarms OUT/log.jsonl\n");
    PASS();
} END_TEST

START_TEST(damaged_logs_end_in_an_orderly_way) { // some bytes changed, or cut: never a crash
    static char good[1 << 14], bad[1 << 14];
    uint64_t seed = 5;
    log_begin("");
    write_event(200, "add", 4);
    write_step(250);
    fclose(journal);
    journal = fopen(log_path, "r");
    size_t n = fread(good, 1, sizeof good, journal);
    fclose(journal);
    for (int i = 0; i < 400; i++) {
        size_t length = i % 2 == 0 ? n : random_u32(&seed) % n;
        memcpy(bad, good, n);
        for (int k = 0; k < i % 5; k++) { bad[random_u32(&seed) % n] = "0129-.,:{}[]\"\\ e\n\0x"[random_u32(&seed) % 19]; }
        write_file(log_path, bad, length);
        int code = run_tool(alarms_run, log_path, NULL);
        if (code != 0 && code != 1) { ck_abort_msg("variant %d: exit code %d, %s", i, code, said); }
    }
    static char deep[1 << 21];
    memset(deep, '[', sizeof deep);
    write_file(log_path, deep, sizeof deep);
    must_stop(1, "no record", alarms_run, log_path, NULL);
    PASS();
} END_TEST

// ----------------------------------------------------------------------------
// stats and colour: a small model with every kind of expert, in memory and as a checkpoint

static GPT2 m;
static Settings ms;
static uint64_t rng;

static void make_model(const char* flags, int V) { // layers 0 and 2 route; on top-any 0 is always on, 3 is dead, 4 a free slot
    char line[512], *argv[64];
    int argc = 0;
    const Progress p = {7, 1, 1, INFINITY};
    snprintf(line, sizeof line, "test --layers 3 --heads 2 --channels 16 --context 8 --experts 5 --expert-width 12 %s", flags);
    for (char* word = strtok(line, " "); word != NULL; word = strtok(NULL, " ")) { argv[argc++] = strdup(word); }
    ms = flags_read(argc, (const char* const*)argv);
    rng = 12345;
    gpt2_build(&m, config_make(&ms, V, NULL), 1, ms.context, 1);
    gpt2_init(&m, m.config.router == TOP_ANY ? ms.start_experts : 5, 0, 0.0f, &rng);
    for (int i = 0; i < m.n_tensors; i++) {
        const Tensor* t = &m.table[i];
        float* x = m.params_memory + t->offset;
        size_t n = x == m.params.wte ? (size_t)V * m.config.C : t->size; // rows V.. stay zero
        for (size_t j = 0; j < n; j++) {
            if (t->first == NORMAL || t->first == RESIDUAL || t->first == ZEROS) { x[j] = 0.3f * (float)random_normal(&rng); }
            if (t->first == ORTHOGONAL) { x[j] = 1.5f * x[j] + 0.05f * (float)random_normal(&rng); }
        }
    }
    for (int l = 0; l < 3 && m.config.router == TOP_ANY && m.config.E == 5; l++) {
        const float G[2][5] = {{-2.0f, 0.0f, 0.05f, 2.0f, -0.5f}, {2.0f, 0.43f, 0.05f, -0.3f, 0.0f}};
        if (m.config.moe[l]) { memcpy(m.params.h[l].gateG, G[l == 2], sizeof G[0]); }
    }
    checkpoint_save(&m, &p, model_path);
}

static void make_text(size_t n) { // letters at random
    static char text[4096];
    for (size_t i = 0; i < n; i++) { text[i] = (char)('a' + random_u32(&rng) % 26); }
    write_file(text_path, text, n);
}

static const char* read_json(void) { // a whole object, or the test fails
    static char text[1 << 17];
    FILE* f = fopen(json_path, "r");
    ck_assert(f != NULL);
    text[fread(text, 1, sizeof text - 1, f)] = '\0';
    fclose(f);
    const char* end = log_value_end(text, 0);
    if (*text != '{' || end == NULL || strcmp(end, "\n") != 0) { ck_abort_msg("no JSON: %s", text); }
    return text;
}

static const char* item_of(const char* list, int i) { // element i of a list, NULL if there are fewer
    const char* p = log_blanks(list + 1);
    for (; i > 0 && *p != ']'; i--) {
        p = log_blanks(log_value_end(p, 0));
        p = *p == ',' ? log_blanks(p + 1) : p;
    }
    return *p == ']' ? NULL : p;
}

static double number_in(const char* list, int i) {
    const char* p = list != NULL ? item_of(list, i) : NULL;
    if (p == NULL) { ck_abort_msg("no element %d in %.200s", i, list); }
    return strncmp(p, "null", 4) == 0 ? NAN : strtod(p, NULL);
}

static double value(const char* object, const char* key) {
    const char* p = log_find(object, key);
    if (p == NULL) { ck_abort_msg("no %s in %.200s", key, object); }
    return strncmp(p, "null", 4) == 0 ? NAN : strtod(p, NULL);
}

static double value_at(const char* object, const char* key, int i) {
    if (log_find(object, key) == NULL) { ck_abort_msg("no %s in %.200s", key, object); }
    return number_in(log_find(object, key), i);
}

static void near(const char* what, int i, double got, double want, double tolerance) { // NAN is near NAN
    if (!(fabs(got - want) <= tolerance) && !(isnan(got) && isnan(want))) {
        ck_abort_msg("%s[%d]: got %.9g, want %.9g", what, i, got, want);
    }
}

// What one layer did, counted from the definitions in double: from its input, the second LayerNorm, and its parameters
enum { ALL = 1024 };
static struct {
    int n, used[ALL][5], k[ALL];
    double c[ALL][5], output, residual;
} seen;

static double cosine_of(const float* a, const float* b) {
    double ab = 0.0, aa = 0.0, bb = 0.0;
    for (int c = 0; c < 16; c++) { ab += (double)a[c] * b[c]; aa += (double)a[c] * a[c]; bb += (double)b[c] * b[c]; }
    return ab / sqrt(aa * bb);
}

static void expert_add(double* y, const float* x, const Block* p, int e, double weight) { // y += weight * expert e of x
    int C = 16, H = 12;
    for (int h = 0; h < H; h++) {
        double pre = p->fcb[e * H + h];
        for (int c = 0; c < C; c++) { pre += (double)p->fcw[(e * H + h) * C + c] * x[c]; }
        double act = 0.5 * pre * (1.0 + tanh(sqrt(2.0 / 3.14159265358979323846) * (pre + 0.044715 * pre * pre * pre)));
        for (int c = 0; c < C; c++) { y[c] += weight * act * p->fcprojw[(e * C + c) * H + h]; }
    }
    for (int c = 0; c < C; c++) { y[c] += weight * p->fcprojb[e * C + c]; }
}

static void look(int l, const char* text, int windows) { // fills `seen` for windows of 8 tokens
    const Block* p = &m.params.h[l];
    int x[8];
    memset(&seen, 0, sizeof seen);
    for (int w = 0; w < windows; w++) {
        for (int t = 0; t < 8; t++) { x[t] = (unsigned char)text[8 * w + t]; }
        gpt2_forward(&m, x, NULL, 1, 8, 0);
        for (int t = 0; t < 8; t++) {
            const float *in = m.layer[l].ln2 + 16 * t, *mid = m.layer[l].mid + 16 * t;
            int best = -1, i = seen.n++, active[5];
            double y[16] = {0}, yy = 0.0, rr = 0.0;
            for (int e = 0; e < 5; e++) {
                active[e] = e != 4;
                seen.c[i][e] = cosine_of(in, p->gatew + 16 * e);
                ck_assert(fabs(seen.c[i][e] - p->gateG[e]) > 2e-6); // no decision hangs on rounding
                seen.used[i][e] = active[e] && seen.c[i][e] > p->gateG[e];
                seen.k[i] += seen.used[i][e];
                if (active[e] && (best < 0 || seen.c[i][e] > seen.c[i][best])) { best = e; }
            }
            if (seen.k[i] == 0) { seen.used[i][best] = 1; }
            for (int e = 0; e < 5; e++) {
                if (seen.used[i][e]) { expert_add(y, in, p, e, 1.0 / (seen.k[i] > 0 ? seen.k[i] : 1)); }
            }
            for (int c = 0; c < 16; c++) { yy += y[c] * y[c]; rr += (double)mid[c] * mid[c]; }
            seen.output += sqrt(yy);
            seen.residual += sqrt(rr);
        }
    }
}

static void check_layer(const char* json, int l) { // against `seen`
    const Block* p = &m.params.h[l];
    double n = seen.n, hist[6] = {0}, load[5] = {0}, chosen[5] = {0}, both[5][5] = {{0}}, k = 0, rows = 0, none = 0, near_all = 0;
    double entropy = 0.0, largest = 0.0;
    int sets = 0;
    for (int i = 0; i < seen.n; i++) {
        int alike = 0, before = 0;
        hist[seen.k[i]] += 1 / n;
        k += seen.k[i] / n;
        none += (seen.k[i] == 0) / n;
        for (int e = 0; e < 5; e++) {
            load[e] += seen.used[i][e] / n;
            rows += seen.used[i][e] / n;
            chosen[e] += (e != 4 && seen.c[i][e] > p->gateG[e]) / n;
            near_all += (e != 4 && fabs(seen.c[i][e] - p->gateG[e]) < 0.01) / n / 4;
            for (int f = 0; f < 5; f++) { both[e][f] += (seen.used[i][e] && seen.used[i][f]) / n; }
        }
        for (int j = 0; j < seen.n; j++) {
            int same = memcmp(seen.used[i], seen.used[j], sizeof seen.used[i]) == 0;
            alike += same;
            before += same && j < i;
        }
        sets += before == 0;
        entropy -= log2(alike / n) / n;
    }
    near("layer", 0, value(json, "layer"), l, 0);
    near("experts", 0, value(json, "experts"), 4, 0);
    near("k", l, value(json, "k"), rows, 1e-7);
    near("k_chosen", l, value(json, "k_chosen"), k, 1e-7);
    near("none", l, value(json, "none"), none, 1e-7);
    near("near_all", l, value(json, "near_all"), near_all, 1e-7);
    near("sets", l, value(json, "sets"), sets, 0);
    near("entropy", l, value(json, "entropy"), entropy, 1e-7);
    near("output", l, value(json, "output"), seen.output / n, 1e-4 * seen.output / n);
    near("residual", l, value(json, "residual"), seen.residual / n, 1e-5 * seen.residual / n);
    near("ratio", l, value(json, "ratio"), seen.output / seen.residual, 1e-4 * seen.output / seen.residual);
    for (int i = 0; i < 6; i++) { near("hist", i, value_at(json, "hist", i), hist[i], 1e-7); }
    int enough = (none > 0.05 || l == 0) && near_all > 0.01 && sets > 3;
    ck_assert_msg(enough, "layer %d: none %g, near %g, %d sets: too little to count", l, none, near_all, sets);
    for (int e = 0; e < 5; e++) {
        double mean = 0, var = 0, low = 2, high = -2, close = 0, length = 0, cosine = NAN;
        for (int i = 0; i < seen.n; i++) {
            mean += seen.c[i][e] / n;
            low = fmin(low, seen.c[i][e]);
            high = fmax(high, seen.c[i][e]);
            close += (fabs(seen.c[i][e] - p->gateG[e]) < 0.01) / n;
        }
        for (int i = 0; i < seen.n; i++) { var += (seen.c[i][e] - mean) * (seen.c[i][e] - mean) / n; }
        for (int c = 0; c < 16; c++) { length += (double)p->gatew[16 * e + c] * p->gatew[16 * e + c]; }
        for (int f = 0; f < 4 && e < 4; f++) {
            if (f != e) { cosine = fmax(isnan(cosine) ? 0.0 : cosine, fabs(cosine_of(p->gatew + 16 * e, p->gatew + 16 * f))); }
        }
        largest = fmax(largest, isnan(cosine) ? 0.0 : cosine);
        near("mask", e, value_at(json, "mask", e), e != 4, 0);
        near("load", e, value_at(json, "load", e), load[e], 1e-7);
        near("chosen", e, value_at(json, "chosen", e), chosen[e], 1e-7);
        near("W", e, value_at(json, "W", e), sqrt(length), 1e-5);
        near("W_cosine", e, value_at(json, "W_cosine", e), cosine, 1e-5);
        near("G", e, value_at(json, "G", e), p->gateG[e], 1e-6);
        near("mean", e, value_at(json, "mean", e), mean, 1e-5);
        near("std", e, value_at(json, "std", e), sqrt(var), 1e-5);
        near("low", e, value_at(json, "low", e), low, 1e-5);
        near("high", e, value_at(json, "high", e), high, 1e-5);
        near("G_distance", e, value_at(json, "G_distance", e), (p->gateG[e] - mean) / sqrt(var), 1e-3);
        near("near", e, value_at(json, "near", e), close, 1.01 / n); // 0.01 itself may be rounded to either side
        for (int f = 0; f < 5; f++) { near("both", 5 * e + f, number_in(item_of(log_find(json, "both"), e), f), both[e][f], 1e-7); }
    }
    near("W_largest_cosine", l, value(json, "W_largest_cosine"), largest, 1e-5);
}

static const char* file_text(void) { // of text_path
    static char text[5000];
    FILE* f = fopen(text_path, "r");
    ck_assert(f != NULL);
    text[fread(text, 1, sizeof text - 1, f)] = '\0';
    fclose(f);
    return text;
}

static void run_stats(const char* flags) {
    char words[512];
    snprintf(words, sizeof words, "%s --threads 1 --json %s %s", model_path, json_path, flags);
    int code = run_tool(stats_run, words, NULL);
    if (code != 0) { ck_abort_msg("exit code %d: %s", code, said); }
}

static char* with_path(const char* format, const char* path) {
    static char words[256];
    snprintf(words, sizeof words, format, path);
    return words;
}

START_TEST(stats_agree_with_a_recount) {
    make_model("--moe-layers 0,2 --start-experts 4", 256);
    make_text(700);
    run_stats(with_path("--val %s --tokens 0 --batch 5", text_path)); // 87 windows, so the last batch is not full
    must_hold("on 696 tokens of");
    must_hold("\nchecked: in each layer the loads add up to mean k after the fallback\n");
    const char *json = read_json(), *layers = log_find(json, "layers");
    ck_assert(log_is(json, "format", "dynmoe-stats 1") && log_is(json, "router", "top-any") && item_of(layers, 2) == NULL);
    near("tokens", 0, value(json, "tokens"), 696, 0);
    double k = 0.0;
    for (int i = 0; i < 2; i++) {
        const char* layer = item_of(layers, i);
        double sum = 0.0;
        look(2 * i, file_text(), 87);
        check_layer(layer, 2 * i);
        for (int e = 0; e < 5; e++) { sum += value_at(layer, "load", e); }
        near("sum of loads", i, sum, value(layer, "k"), 1e-7);
        k += value(layer, "k") / 2;
    }
    near("k", 0, value(json, "k"), k, 1e-7);
    ck_assert_ptr_nonnull(strstr(json, "\"dead\":[3],\"always\":[0],"));
    ck_assert_ptr_nonnull(strstr(json, "\"dead\":[0],\"always\":[],"));
    must_hold("dead experts, which no token chose: 3; always on, chosen by more than 99% of tokens: 0\n");
    must_hold("dead experts, which no token chose: 0; always on, chosen by more than 99% of tokens: none\n");
    // parameters of a token: all but wpe and the other experts of both layers, each of 12 x 16 + 12 + 16 x 12 + 16
    near("used", 0, value(json, "used"), (double)m.n_params - 8 * 16 - 2 * (5 - k) * 412, 0.01);
    PASS();
} END_TEST

START_TEST(stats_have_the_loss_of_the_trainer) {
    static Routing r[MAX_LAYERS];
    make_model("--moe-layers 0,2 --start-experts 4", 256);
    make_text(700);
    Data data = data_open(text_path);
    float loss = evaluate(&m, &data, 100, 1, 8, r, "");
    run_stats(with_path("--val %s --tokens 100 --batch 1", text_path));
    near("loss", 0, value(read_json(), "loss"), loss, 1e-6);
    near("tokens", 0, value(read_json(), "tokens"), 104, 0); // whole windows
    const char* layer = item_of(log_find(read_json(), "layers"), 1);
    for (int e = 0; e < 5; e++) {
        near("load", e, value_at(layer, "load", e), r[2].load[e] / 104, 1e-8);
        near("hist", e, value_at(layer, "hist", e), r[2].hist[e] / 104, 1e-8);
        near("low", e, value_at(layer, "low", e), r[2].low[e], 1e-7);
        near("high", e, value_at(layer, "high", e), r[2].high[e], 1e-7);
    }
    run_stats(with_path("--data %s", text_path)); // its last 10 percent: 70 bytes, 8 windows
    near("tokens", 0, value(read_json(), "tokens"), 64, 0);
    PASS();
} END_TEST

START_TEST(stats_of_a_softmax_router) {
    make_model("--moe-layers 0,2 --router top-k --topk 2", 256);
    make_text(200);
    run_stats(with_path("--val %s", text_path));
    must_hold("router top-k: the score is p; cosines, thresholds and a fallback do not exist\n");
    must_hold("layer 2: 5 of 5 experts active; mean k 2.0000\n");
    must_hold("loads add up to mean k\n");
    must_lack("threshold;");
    must_lack("cosine - G");
    const char* layer = item_of(log_find(read_json(), "layers"), 0);
    static const char* const absent[] = {"G", "near", "near_all", "G_distance", "k_chosen", "chosen"};
    for (int i = 0; i < 6; i++) { ck_assert(log_find(layer, absent[i]) == NULL); }
    static Routing r[MAX_LAYERS];
    double mean = 0.0;
    Data data = data_open(text_path);
    evaluate(&m, &data, 0, 1, 8, r, "");
    for (int e = 0; e < 5; e++) {
        near("low", e, value_at(layer, "low", e), r[0].low[e], 1e-6);
        mean += value_at(layer, "mean", e);
    }
    near("sum of p", 0, mean, 1.0, 1e-5);
    near("k", 0, value(layer, "k"), 2.0, 0);
    near("entropy", 0, value(layer, "entropy") <= log2(10), 1, 0); // at most 10 pairs
    PASS();
} END_TEST

START_TEST(stats_of_a_dense_model) {
    make_model("--moe-layers none", 256);
    make_text(200);
    run_stats(with_path("--val %s", text_path));
    must_hold("a dense model: it has no DynMoE layer, nothing is routed\n");
    must_lack("mean k");
    const char* json = read_json();
    ck_assert(item_of(log_find(json, "layers"), 0) == NULL && log_find(json, "router") == NULL);
    near("used", 0, value(json, "used"), (double)m.n_params - 8 * 16, 0);
    PASS();
} END_TEST

START_TEST(stats_of_one_active_expert) { // no other row of W, one set, nothing near: - in the table, null in JSON
    make_model("--moe-layers 0,2 --start-experts 4", 256);
    make_text(200);
    const Progress p = {7, 1, 1, INFINITY};
    for (int e = 1; e < 5; e++) { m.layer[0].mask[e] = 0; }
    checkpoint_save(&m, &p, model_path);
    run_stats(with_path("--val %s", text_path));
    const char* layer = item_of(log_find(read_json(), "layers"), 0);
    ck_assert(isnan(value(layer, "W_largest_cosine")) && isnan(value_at(layer, "W_cosine", 0)));
    near("sets", 0, value(layer, "sets"), 1, 0);
    near("entropy", 0, value(layer, "entropy"), 0, 0);
    must_hold("layer 0: 1 of 5 experts active; mean k 1.0000, after the fallback 1.0000; k = 0: 0.00%\n");
    must_lack("nan");
    must_lack("inf");
    PASS();
} END_TEST

START_TEST(stats_of_64_experts_fit_the_terminal) {
    make_model("--moe-layers 0 --channels 64 --experts 64 --start-experts 64", 256);
    make_text(200);
    run_stats(with_path("--val %s", text_path));
    must_hold("layer 0: 64 of 64 experts active");
    for (const char* line = strchr(said, '\n'); *++line != '\0'; line += strcspn(line, "\n")) { // the first has paths in it
        size_t length = strcspn(line, "\n");
        int path = strncmp(line, folder, strlen(folder)) == 0;
        if (length > 119 && !path) { ck_abort_msg("%zu columns: %.*s", length, (int)length, line); }
    }
    const char* layer = item_of(log_find(read_json(), "layers"), 0);
    double sum = 0.0;
    for (int e = 0; e < 64; e++) {
        sum += value_at(layer, "load", e);
        near("diagonal", e, number_in(item_of(log_find(layer, "both"), e), e), value_at(layer, "load", e), 1e-12);
    }
    near("sum of loads", 0, sum, value(layer, "k"), 1e-6);
    PASS();
} END_TEST

START_TEST(stats_refuse_what_does_not_fit) {
    char bin[1024 + 400] = {0};
    const int32_t header[3] = {20240520, 1, 200};
    make_model("--moe-layers 0,2 --start-experts 4", 256);
    make_text(200);
    memcpy(bin, header, sizeof header);
    write_file(bpe_path, bin, sizeof bin);
    must_stop(2, "MODEL is missing", stats_run, with_path("--val %s", text_path), NULL);
    must_stop(2, "--data FILE or --val FILE is missing", stats_run, model_path, NULL);
    must_stop(2, "unknown flag --steps", stats_run, "a --steps 3", NULL);
    must_stop(2, "--json needs a value", stats_run, "a --json", NULL);
    must_stop(2, "one MODEL, not a and b", stats_run, "a b", NULL);
    must_stop(1, "No such file", stats_run, with_path("/nowhere/model --val %s", text_path), NULL);
    must_stop(1, "no such file", stats_run, with_path("%s --val /nowhere/text", model_path), NULL);
    must_stop(1, "header", stats_run, with_path("/dev/../proc/self/exe --val %s", text_path), NULL);
    char words[256];
    snprintf(words, sizeof words, "%s --val %s", model_path, bpe_path);
    must_stop(1, "its vocabulary of 256 does not fit", stats_run, words, NULL);
    snprintf(words, sizeof words, "%s --val %s --threads 1 --json /nowhere/stats.json", model_path, text_path);
    ck_assert_int_eq(run_tool(stats_run, words, NULL), 1);
    must_hold("error: /nowhere/stats.json.tmp: No such file");
    const Progress p = {7, 1, 1, INFINITY};
    m.params.lnfw[0] = NAN;
    checkpoint_save(&m, &p, model_path);
    snprintf(words, sizeof words, "%s --val %s --threads 1", model_path, text_path);
    must_stop(1, "is NaN or Inf at place", stats_run, words, NULL);
    ck_assert_int_eq(run_tool(stats_run, "--help", NULL), 0);
    must_hold("dev/stats MODEL --data FILE");
    PASS();
} END_TEST

// ----------------------------------------------------------------------------
// colour

static void colour_model(int V) { // three active experts: in layer 0 every token chooses all, in layer 2 none
    const Progress p = {7, 1, 1, INFINITY};
    make_model("--moe-layers 0,2 --start-experts 3", V);
    for (int e = 0; e < 5; e++) {
        m.params.h[0].gateG[e] = -2.0f;
        m.params.h[2].gateG[e] = 2.0f;
    }
    checkpoint_save(&m, &p, model_path);
}

static void run_colour(Tool tool, const char* flags, const char* text) {
    char words[512];
    snprintf(words, sizeof words, "%s --threads 1 %s", model_path, flags);
    int code = run_tool(tool, words, text);
    if (code != 0) { ck_abort_msg("exit code %d: %s", code, said); }
}

START_TEST(digits_below_the_text) {
    colour_model(256);
    run_colour(colour_off, "--layer 0", "ab\tc\n\nlast");
    must_say("k of layer 0, below each character; 3 experts are active; 0: none chosen, the fallback serves it\n"
             "ab c\n33333\n\n3\nlast\n3333\nmean k 3.000 over 10 tokens\n");
    run_colour(colour_off, "--layer 2", "Tue+5=\n");
    must_say("k of layer 2, below each character; 3 experts are active; 0: none chosen, the fallback serves it\n"
             "Tue+5=\n0000000\nmean k 0.000 over 7 tokens\n");
    run_colour(colour_off, "", "Tue"); // the mean, 1.5, is rounded up
    must_say("k, mean over layers 0 2, below each character; 3 experts are active; 0: none chosen, the fallback serves it\n"
             "Tue\n222\nmean k 1.500 over 3 tokens\n");
    PASS();
} END_TEST

START_TEST(characters_of_several_bytes) {
    colour_model(256);
    run_colour(colour_off, "--layer 0", "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80.");
    must_hold("\n\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80.\n3333\n");
    // no characters: a control byte, a byte alone, cut short, too long, a surrogate, beyond the last, C1 controls
    static const char* const bad[] = {"\x1b[", "\xa9[", "\xe2\x82[", "\xc0\x80[", "\xe0\x80\x80[", "\xed\xa0\x80[",
                                      "\xf4\x90\x80\x80[", "\xc2\x80[", "\xf8[", "\x7f["};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char want[32];
        int n = (int)strlen(bad[i]) - 1;
        snprintf(want, sizeof want, "\n%.*s[\n%.*s3\n", n, "????", n, "3333");
        run_colour(colour_off, "--layer 0", bad[i]);
        must_hold(want);
        must_lack("\x1b");
    }
    run_colour(colour_off, "--layer 0", "\xe2\x82"); // cut by the end of the text
    must_hold("\n??\n33\n");
    PASS();
} END_TEST

START_TEST(colours_of_a_terminal) {
    colour_model(256);
    run_colour(colour_on, "--layer 0", "a\nb");
    must_say("k of layer 0: \033[48;5;230;38;5;16m 0 \033[0m \033[48;5;215;38;5;16m 1 \033[0m \033[48;5;202;38;5;16m 2 \033[0m "
             "\033[48;5;88;38;5;231m 3 \033[0m of 3 active experts; 0: none chosen, the fallback serves it\n"
             "\033[48;5;88;38;5;231ma\033[0m\033[48;5;88;38;5;231m \033[0m\n\033[48;5;88;38;5;231mb\033[0m\n"
             "mean k 3.000 over 3 tokens\n");
    run_colour(colour_on, "--layer 2 --generate 2", "a");
    must_hold("\033[48;5;230;38;5;16ma\033[0m\033[4;48;5;230;38;5;16m");
    must_hold("mean k 0.000 over 3 tokens; the last 2 are the model's own (underlined)\n");
    for (int all = 1; all <= 64; all++) { // pale to dark, the ends used
        ck_assert(colour_shade(0, all) == 0 && colour_shade(all, all) == SHADES - 1);
        for (int k = 1; k <= all; k++) { ck_assert(colour_shade(k, all) >= colour_shade(k - 1, all)); }
    }
    PASS();
} END_TEST

START_TEST(colours_only_where_they_are_wanted) {
    unsetenv("NO_COLOR");
    setenv("TERM", "xterm-256color", 1);
    ck_assert(colour_wanted(1) && !colour_wanted(0));
    setenv("NO_COLOR", "1", 1);
    ck_assert(!colour_wanted(1));
    setenv("NO_COLOR", "", 1); // no-color.org: empty means nothing
    ck_assert(colour_wanted(1));
    setenv("TERM", "dumb", 1);
    ck_assert(!colour_wanted(1));
    PASS();
} END_TEST

START_TEST(k_of_a_text_longer_than_the_context) { // windows of 8 that overlap by 4, against a forward for each token
    enum { N = 29 };
    int tokens[N];
    double k[N], mean[N];
    make_model("--moe-layers 0,2 --start-experts 4", 256);
    for (int i = 0; i < N; i++) { tokens[i] = 'a' + (int)(random_u32(&rng) % 26); }
    colour_k(k, &m, tokens, N, 2);
    colour_k(mean, &m, tokens, N, -1);
    for (int i = 0; i < N; i++) {
        int start = i < 8 ? 0 : (i - 8) / 4 * 4 + 4, end = start + 8 < N ? start + 8 : N;
        gpt2_forward(&m, tokens + start, NULL, 1, end - start, 0);
        near("k", i, k[i], m.layer[2].k[i - start], 0);
        near("mean", i, mean[i], 0.5 * (m.layer[0].k[i - start] + m.layer[2].k[i - start]), 1e-12);
    }
    make_model("--moe-layers 0,2 --start-experts 4 --context 1", 256); // a context of one token
    colour_k(k, &m, tokens, N, 2);
    gpt2_forward(&m, tokens + 5, NULL, 1, 1, 0);
    near("k", 5, k[5], m.layer[2].k[0], 0);
    PASS();
} END_TEST

START_TEST(digits_are_those_of_the_model) { // and the continuation is that of the trainer
    int tokens[40] = {'s', 'o', 'm', 'e'};
    double k[40];
    char digits[64] = "";
    make_model("--moe-layers 0,2 --start-experts 4 --temperature 0", 256);
    uint64_t sampling = 1;
    generate(&m, &ms, tokens, 4, 24, &sampling);
    colour_k(k, &m, tokens, 24, 2);
    run_colour(colour_off, "--layer 2 --generate 20", "some");
    char cold[1000];
    strcpy(cold, said);
    run_colour(colour_off, "--layer 2 --generate 20 --seed 5", "some");
    must_say(cold); // nothing is drawn
    must_hold("; the last 20 are the model's own\n");
    for (int i = 0, width = 0; i < 24; i++) { // an untrained model writes any bytes: compare line by line where they are ASCII
        digits[width++] = (char)('0' + (int)k[i]);
        digits[width] = '\0';
        if (tokens[i] > 126) { break; }
        if (tokens[i] == '\n' || i == 23) { strcat(digits, "\n"); must_hold(digits); width = 0; }
        if (i == 3) { must_hold(digits); }
    }
    ck_assert_int_eq(colour_digit(9), '9');
    ck_assert_int_eq(colour_digit(10), 'a');
    ck_assert_int_eq(colour_digit(35), 'z');
    ck_assert_int_eq(colour_digit(36), '+');
    run_colour(colour_off, "--layer 2 --generate 20 --temperature 3 --seed 1", "some");
    ck_assert_str_ne(cold, said);
    strcpy(cold, said);
    run_colour(colour_off, "--layer 2 --generate 20 --temperature 3 --seed 1", "some");
    must_say(cold); // the same seed, the same text
    run_colour(colour_off, "--layer 2 --generate 20 --temperature 3 --seed 2", "some");
    ck_assert_str_ne(cold, said);
    PASS();
} END_TEST

START_TEST(tokens_of_bpe) { // "hel" is one token, the second character two
    static unsigned char bin[1024 + 8];
    static const char merges[] = "#version: 0.2\nh e\nhe l\n";
    const int32_t header[3] = {20240520, 1, 4};
    const uint16_t tokens[4] = {257, 127, 102, 71};
    char flags[256];
    memcpy(bin, header, sizeof header);
    memcpy(bin + 1024, tokens, sizeof tokens);
    write_file(bpe_path, bin, sizeof bin);
    write_file(text_path, merges, sizeof merges - 1);
    colour_model(50257);
    snprintf(flags, sizeof flags, "--layer 0 --tokenizer %s", text_path);
    run_colour(colour_off, flags, bpe_path);
    must_hold("\nhel\xc3\xa9h\n3  33\nmean k 3.000 over 4 tokens\n");
    must_stop(2, "the model reads BPE tokens", colour_off, model_path, bpe_path);
    snprintf(flags, sizeof flags, "%s --tokenizer %s", model_path, text_path);
    must_stop(2, "TEXT hello: the model reads BPE tokens", colour_off, flags, "hello");
    PASS();
} END_TEST

START_TEST(colour_refuses_what_does_not_fit) {
    char flags[256];
    make_model("--moe-layers none", 256);
    must_stop(1, "a dense model, no token chooses experts", colour_off, model_path, "text");
    colour_model(256);
    snprintf(flags, sizeof flags, "%s --layer 1", model_path);
    must_stop(2, "--layer 1: the DynMoE layers of", colour_off, flags, "text");
    must_hold(" are 0,2\n");
    snprintf(flags, sizeof flags, "%s --layer 0x", model_path);
    must_stop(2, "--layer 0x: the DynMoE layers of", colour_off, flags, "text");
    snprintf(flags, sizeof flags, "%s --tokenizer x", model_path);
    must_stop(2, "the model reads bytes", colour_off, flags, "text");
    must_stop(1, "0 tokens", colour_off, model_path, "");
    must_stop(2, "TEXT is missing", colour_off, model_path, NULL);
    must_stop(2, "MODEL is missing", colour_off, "", NULL);
    must_stop(2, "MODEL and one TEXT, not c too", colour_off, "a b c", NULL);
    must_stop(2, "unknown flag --steps", colour_off, "--steps 3", NULL);
    must_stop(2, "--layer needs a value", colour_off, "a b --layer", NULL);
    must_stop(1, "No such file", colour_off, "/nowhere/model", "text");
    snprintf(flags, sizeof flags, "%s --threads 1 --layer 0 --", model_path);
    ck_assert_int_eq(run_tool(colour_off, flags, "-5"), 0); // a text that looks like a flag
    must_hold("\n-5\n33\n");
    PASS();
} END_TEST

// ----------------------------------------------------------------------------

int main(void) {
    suite_draw_code();
    if (mkdtemp(folder) == NULL) { printf("cannot make %s\n", folder); return 1; }
    Suite* suite = suite_create("tools");
    TCase* tc;
    #define GROUP(name) \
        tc = tcase_create(name); \
        tcase_set_timeout(tc, 60); \
        tcase_add_checked_fixture(tc, setup, NULL); \
        suite_add_tcase(suite, tc);
    #define TEST(name) tcase_add_exit_test(tc, name, pass_code);
    GROUP("alarms")
    TEST(a_healthy_run_has_no_alarm)
    TEST(dense_collapse)
    TEST(alarms_that_come_again_are_one_line)
    TEST(empty_collapse)
    TEST(a_dead_expert_is_named)
    TEST(an_expert_dead_from_the_first_step)
    TEST(free_slots_are_not_dead)
    TEST(a_dead_expert_that_was_removed)
    TEST(a_new_expert_has_time)
    TEST(events_between_the_last_forward_and_its_record)
    TEST(always_on_expert)
    TEST(threshold_out_of_range)
    TEST(tokens_without_an_expert_at_the_end)
    TEST(loss_that_does_not_fall)
    TEST(softmax_routers_have_no_thresholds)
    TEST(what_a_flag_orders_is_no_collapse)
    TEST(a_single_expert_is_no_collapse)
    TEST(a_dense_model_has_its_loss_only)
    TEST(older_logs_without_scores)
    TEST(slots_of_a_run_that_began_elsewhere)
    TEST(slots_that_later_events_tell)
    TEST(an_event_that_was_lost)
    TEST(a_full_pool_leaves_no_doubt)
    TEST(a_resumed_run_repeats_steps)
    TEST(torn_lines_are_left_out)
    TEST(unreadable_logs_are_refused)
    TEST(damaged_logs_end_in_an_orderly_way)
    GROUP("stats")
    TEST(stats_agree_with_a_recount)
    TEST(stats_have_the_loss_of_the_trainer)
    TEST(stats_of_a_softmax_router)
    TEST(stats_of_a_dense_model)
    TEST(stats_of_one_active_expert)
    TEST(stats_of_64_experts_fit_the_terminal)
    TEST(stats_refuse_what_does_not_fit)
    GROUP("colour")
    TEST(digits_below_the_text)
    TEST(characters_of_several_bytes)
    TEST(colours_of_a_terminal)
    TEST(colours_only_where_they_are_wanted)
    TEST(k_of_a_text_longer_than_the_context)
    TEST(digits_are_those_of_the_model)
    TEST(tokens_of_bpe)
    TEST(colour_refuses_what_does_not_fit)

    int run, failed = suite_run(suite, &run);
    setup();
    remove(log_path); remove(model_path); remove(text_path); remove(json_path); remove(bpe_path);
    if (rmdir(folder) != 0) { printf("something is left in %s\n", folder); failed++; }
    return suite_end(failed, run);
}
