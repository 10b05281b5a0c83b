// What the Check programs here share: a trap, and the last line. Include it after the program under test and <check.h>.
//
// Check takes exit(0) in the middle of a test for success, so each test is added with tcase_add_exit_test and passes only if it
// reaches its last line, PASS(), which exits with a code drawn at random when the program starts.

static int pass_code;
#define PASS() exit(pass_code)

static void suite_draw_code(void) { // first thing in main
    srand((unsigned)time(NULL));
    pass_code = 100 + rand() % 27; // none of the codes that anything here exits with
}

static int suite_run(Suite* suite, int* run) { // every test in a process of its own; run: how many; returns how many failed
    SRunner* sr = srunner_create(suite);
    srunner_set_fork_status(sr, CK_FORK);
    srunner_run_all(sr, CK_NORMAL);
    int failed = srunner_ntests_failed(sr);
    *run = srunner_ntests_run(sr);
    srunner_free(sr);
    return failed;
}

static int suite_end(int failed, int run) { // last thing in main: what it returns
    printf("%d passed, %d failed\n", run - failed, failed);
    return failed == 0 ? 0 : 1;
}

static int exit_status(char* said, size_t room, void (*f)(void)) {
    // runs f in a child; out: its exit status and what it said on both streams
    FILE* out = tmpfile();
    ck_assert_ptr_nonnull(out);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(fileno(out), 1);
        dup2(fileno(out), 2);
        f();
        fflush(stdout);
        _exit(99); // came back
    }
    int status = 0;
    waitpid(pid, &status, 0);
    rewind(out);
    said[fread(said, 1, room - 1, out)] = '\0';
    fclose(out);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}
