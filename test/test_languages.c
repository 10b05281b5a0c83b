/*
Unit tests of data/languages.c.

A second, slow description of the six languages lives here: line_probability() takes a finished line apart and says how
likely it is, 0 if anything in it is wrong (a sum, a bracket, a weekday, ...). The generator's probabilities are held
against it for every line of a language where these can be counted out, and for every line of a generated text.

Build: gcc test/test_languages.c -o test/test_languages $(pkg-config --cflags --libs check) -lm
Each test runs in a process of its own. Check takes exit(0) in the middle of a test for success, so a test passes only if
it reaches its last line, PASS(), which exits with a code drawn at random when the program starts.
*/
#include <check.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#define TESTING
#include "../data/languages.c"
#include "suite.h"

enum { SUMS, DAYS, NEST, CODE, PROSE, ECHOES };
static const int alike[DOMAINS] = {1, 1, 1, 1, 1, 1};

// ----------------------------------------------------------------------------
// The second description

static int day_number(const char* s) {
    static const char* week = "MonTueWedThuFriSatSun";
    char name[4] = {s[0], s[1], s[2], '\0'};
    const char* at = strstr(week, name);
    return at == NULL ? -1 : (int)(at - week) / 3;
}

static int is_one_of(const char* s, const char* const* list, int n) {
    // returns the place in the list, or -1
    for (int i = 0; i < n; i++) { if (strcmp(s, list[i]) == 0) { return i; } }
    return -1;
}

static double sums_probability(const char* line) {
    int a, b, c, end = 0;
    if (sscanf(line, "%2d+%2d=%2d%n", &a, &b, &c, &end) != 3 || end != (int)strlen(line) || end != 8) { return 0; }
    return a >= 10 && a < 50 && b >= 10 && b < 50 && a + b == c ? 1.0 / 1600 : 0;
}

static double days_probability(const char* line) {
    if (strlen(line) != 9 || line[3] != '+' || line[5] != '=' || line[4] < '1' || line[4] > '6') { return 0; }
    int from = day_number(line), to = day_number(line + 6);
    return from >= 0 && to == (from + line[4] - '0') % 7 ? 1.0 / 42 : 0;
}

static double nest_probability(const char* line) {
    // brackets cancel in pairs from the inside out; the draws are priced on the way
    char stack[64];
    int depth = 0, n = (int)strlen(line);
    double p = 1;
    for (int i = 0; i < n; i++) {
        int opens = strchr("([{", line[i]) != NULL;
        if (i > 0 && depth == 0) { return 0; }
        if (i == 0) { p /= 3; } else if (depth < 6 && i < 25) { p *= opens ? 11.0 / 60 : 0.45; } else if (opens) { return 0; }
        if (opens) { stack[depth++] = line[i]; continue; }
        if (depth == 0) { return 0; }
        char o = stack[--depth];
        if (!((o == '(' && line[i] == ')') || (o == '[' && line[i] == ']') || (o == '{' && line[i] == '}'))) { return 0; }
    }
    return depth == 0 && n > 0 ? p : 0;
}

static double code_probability(const char* line) {
    char name[3], value[3], said, is;
    int k = 0, end = 0;
    for (; k < 3 && sscanf(line, "let %c=%c;", &name[k], &value[k]) == 2; k++) {
        if (strlen(line) < 8 || name[k] < 'a' || name[k] > 'f' || value[k] < '0' || value[k] > '9') { return 0; }
        for (int j = 0; j < k; j++) { if (name[j] == name[k]) { return 0; } }
        line += 8;
    }
    if (k < 2 || sscanf(line, "say %c->%c%n", &said, &is, &end) != 2 || line[end] != '\0') { return 0; }
    for (int j = 0; j < k; j++) {
        if (name[j] == said) { return value[j] != is ? 0 : (k == 2 ? 0.5 / (6 * 5 * 100 * 2) : 0.5 / (6 * 5 * 4 * 1000 * 3)); }
    }
    return 0;
}

static double prose_probability(const char* line) {
    static const char* const one[] = {"cat", "dog", "bird", "king", "robot", "fish"};
    static const char* const more[] = {"cats", "dogs", "birds", "kings", "robots", "fishes"};
    static const char* const does[] = {"chases", "sees", "likes", "finds", "follows"};
    static const char* const all_do[] = {"chase", "see", "like", "find", "follow"};
    static const char* const adj[] = {"old", "small", "red", "quiet", "happy"};
    static const char* const art[] = {"the", "a", "every"};
    char w[8][16], again[256];
    int n = sscanf(line, "%15s %15s %15s %15s %15s %15s %15s", w[0], w[1], w[2], w[3], w[4], w[5], w[6]);
    int the = strcmp(w[0], "the") == 0, many = the && strcmp(w[1], "two") == 0;
    if (n != 6 + the || (!the && strcmp(w[0], "every") != 0) || (the && !many && strcmp(w[1], "one") != 0)) { return 0; }
    char (*v)[16] = w + the; // v[1] adjective, noun, verb, article, v[5] noun and full stop
    snprintf(again, sizeof(again), "%s%s %s %s %s %s %s", the ? "the " : "", v[0], v[1], v[2], v[3], v[4], v[5]);
    size_t last = strlen(v[5]) - 1;
    if (strcmp(again, line) != 0 || v[5][last] != '.') { return 0; }
    v[5][last] = '\0';
    if (is_one_of(v[1], adj, 5) < 0 || is_one_of(v[2], many ? more : one, 6) < 0 || is_one_of(v[3], many ? all_do : does, 5) < 0
        || is_one_of(v[4], art, 3) < 0 || is_one_of(v[5], one, 6) < 0) { return 0; }
    return (the ? 0.25 : 0.5) / (5 * 6 * 5 * 3 * 6);
}

static double echo_probability(const char* line) {
    const char* bar = strchr(line, '|');
    if (line[0] != '>' || bar == NULL) { return 0; }
    int n = (int)(bar - line) - 1;
    if (n < 4 || n > 8 || (int)strlen(bar + 1) != n) { return 0; }
    for (int i = 0; i < n; i++) { if (line[1 + i] < 'a' || line[1 + i] > 'f' || line[1 + i] != bar[n - i]) { return 0; } }
    return 0.2 / pow(6, n);
}

static double line_probability(int domain, const char* line) {
    // line: without its newline
    static double (*const f[DOMAINS])(const char*) = {sums_probability, days_probability, nest_probability, code_probability,
                                                      prose_probability, echo_probability};
    return f[domain](line);
}

static int is_answer(int domain, const char* line, int i) {
    // must byte i of this line (with its newline) be worked out from what stands before it?
    int n = (int)strlen(line);
    const char* bar = strchr(line, '|');
    if (domain == SUMS) { return i == 6 || i == 7; }
    if (domain == DAYS) { return i >= 6 && i <= 8; }
    if (domain == CODE) { return i == n - 2; }
    if (domain == ECHOES) { return line + i > bar; }
    if (domain == NEST) {
        int depth = 0;
        for (int j = 0; j < i; j++) { depth += strchr("([{", line[j]) != NULL ? 1 : -1; }
        return i > 0 && (depth == 0 || depth == 6 || i >= 25);
    }
    int at = 0, many = strncmp(line, "the two ", 8) == 0; // prose: the byte or bytes after the stem of noun and verb
    for (int space = 0; space < (line[0] == 't' ? 3 : 2); at++) { space += line[at] == ' '; }
    int noun = at + (int)strcspn(line + at, " ");
    int verb = noun + 1 + (int)strcspn(line + noun + 1, " ");
    if (!many) { return i == noun || i == verb - 1; }
    int fishes = strncmp(line + at, "fish", 4) == 0;
    return i == noun - 1 || (fishes && i == noun - 2) || i == verb;
}

// ----------------------------------------------------------------------------
// The languages

static int weight(const Next* x, char b) { return x->w[(unsigned char)b]; }

typedef struct { double lines, mass, cut, bits, bytes; } Tally;

static void walk(Tally* t, int domain, char* line, int n, int longest, double p, double copies, double bits) {
    // every line that begins with line (n), of probability p each. Of six or more letters or digits that weigh the same
    // only the first and the last are followed, as `copies` lines each: the languages treat them all alike.
    Next x;
    next_byte(&x, domain, line, n);
    ck_assert_int_gt(x.total, 0);
    int sum = 0, same = 0, nth = 0, first = weight(&x, 'a') > 0 ? 'a' : '0';
    for (int b = 0; b < 256; b++) { sum += x.w[b]; same += x.w[b] > 0 && x.w[b] == x.w[first]; }
    ck_assert_int_eq(sum, x.total);
    if (n >= longest) { t->cut += p * copies; return; }
    int fold = (domain == ECHOES || domain == CODE) && same >= 6;
    for (int b = 0; b < 256; b++) {
        if (x.w[b] == 0) { continue; }
        double q = (double)x.w[b] / x.total, times = copies;
        if (fold && b != '|') {
            ck_assert_int_eq(x.w[b], x.w[first]);
            if (++nth != 1 && nth != same) { continue; }
            times *= same / 2.0;
        }
        line[n] = (char)b;
        if (b != '\n') { walk(t, domain, line, n + 1, longest, p * q, times, bits - log2(q)); continue; }
        line[n] = '\0';
        double want = line_probability(domain, line);
        ck_assert_msg(fabs(p * q - want) <= 1e-12 * want, "%s: p %g, should be %g", line, p * q, want);
        t->lines += times;
        t->mass += times * p;
        t->bits += times * p * bits;
        t->bytes += times * p * (n + 1);
    }
}

static Tally count_out(int domain, int longest) {
    Tally t = {0, 0, 0, 0, 0};
    char line[128];
    walk(&t, domain, line, 0, longest, 1.0, 1.0, 0.0);
    ck_assert_double_eq_tol(t.mass + t.cut, 1.0, 1e-11);
    return t;
}

START_TEST(every_line_of_sums) {
    Tally t = count_out(SUMS, 99);
    ck_assert_double_eq(t.lines, 1600);
    ck_assert_double_eq_tol(t.bits, log2(1600), 1e-9);
    ck_assert_double_eq_tol(t.bytes, 9, 1e-9);
    PASS();
} END_TEST

START_TEST(every_line_of_days) {
    Tally t = count_out(DAYS, 99);
    ck_assert_double_eq(t.lines, 42);
    ck_assert_double_eq_tol(t.bits, log2(7) + log2(6), 1e-9);
    ck_assert_double_eq_tol(t.bytes, 10, 1e-9);
    PASS();
} END_TEST

START_TEST(every_line_of_code) {
    Tally t = count_out(CODE, 99);
    ck_assert_double_eq(t.lines, 6 * 5 * 100 * 2 + 6 * 5 * 4 * 1000 * 3);
    ck_assert_double_eq_tol(t.bits, log2(3000) + 1 + 0.5 * log2(2) + 0.5 * log2(40 * 3), 1e-9);
    ck_assert_double_eq_tol(t.bytes, 29, 1e-9); // 25 or 33
    PASS();
} END_TEST

START_TEST(every_line_of_prose) {
    Tally t = count_out(PROSE, 99);
    ck_assert_double_eq(t.lines, 3 * 5 * 6 * 5 * 3 * 6);
    ck_assert_double_eq_tol(t.bits, 1.5 + log2(5 * 6 * 5 * 3 * 6), 1e-9);
    PASS();
} END_TEST

START_TEST(every_line_of_echo) {
    Tally t = count_out(ECHOES, 99);
    ck_assert_double_eq(t.lines, 1296 + 7776 + 46656 + 279936 + 1679616);
    ck_assert_double_eq_tol(t.bits, 6 * log2(6) + log2(5), 1e-9);
    ck_assert_double_eq_tol(t.bytes, 15, 1e-9);
    PASS();
} END_TEST

START_TEST(every_short_line_of_nest) {
    Tally t = count_out(NEST, 9); // up to 4 pairs; the rest of the mass sits in the lines that were cut
    ck_assert_double_eq(t.lines, 3 + 9 + 2 * 27 + 5 * 81); // a first bracket around shorter lines: Catalan numbers
    ck_assert_double_gt(t.cut, 0.1);
    PASS();
} END_TEST

static void nest_by_depth(double* bits, double* bytes, int depth, int n) {
    // expected bits and bytes from here to the end of the line, summed over all ways up and down
    double up[2], down[2], log3 = log2(3);
    if (depth == 0) { *bits = 0; *bytes = 1; return; }
    if (depth == 6 || n >= 25) { *bits = 0; *bytes = depth + 1; if (n >= 25) { return; } }
    nest_by_depth(&down[0], &down[1], depth - 1, n + 1);
    if (depth == 6) { *bits = down[0]; *bytes = 1 + down[1]; return; }
    nest_by_depth(&up[0], &up[1], depth + 1, n + 1);
    *bits = 0.45 * (down[0] - log2(0.45)) + 0.55 * (up[0] - log2(0.55) + log3);
    *bytes = 1 + 0.45 * down[1] + 0.55 * up[1];
}

START_TEST(nest_turns_back) {
    Next x;
    next_byte(&x, NEST, "([{([{", 6); // 6 deep
    ck_assert_int_eq(weight(&x, '}'), x.total);
    ck_assert_int_eq(x.kind, ANSWER);
    next_byte(&x, NEST, "([{([{}", 7);
    ck_assert_int_eq(weight(&x, ']') * 60, x.total * 27);
    ck_assert_int_eq(weight(&x, '(') * 60, x.total * 11);
    ck_assert_int_eq(x.kind, FREE);
    next_byte(&x, NEST, "{()()()()()()()()()()()()", 25); // 25 long
    ck_assert_int_eq(weight(&x, '}'), x.total);
    next_byte(&x, NEST, "{()()()()()()()()()()()(", 24);
    ck_assert_int_gt(weight(&x, '['), 0);
    PASS();
} END_TEST

START_TEST(first_byte_tells_the_language) {
    Next x[DOMAINS];
    int owners[256] = {0};
    for (int d = 0; d < DOMAINS; d++) {
        next_byte(&x[d], d, "", 0);
        for (int b = 0; b < 256; b++) { owners[b] += x[d].w[b] > 0; }
    }
    for (int b = 0; b < 256; b++) { ck_assert_int_le(owners[b], 1); }
    PASS();
} END_TEST

START_TEST(foreign_lines_have_no_next_byte) {
    static const char* wrong[DOMAINS] = {"37+26=64", "Tue+4=Sun", "([)", "let a=4;let a", "the two old cats sees", ">bacd|dcaa"};
    for (int d = 0; d < DOMAINS; d++) {
        Next x;
        for (int e = 0; e < DOMAINS; e++) {
            next_byte(&x, d, wrong[e], (int)strlen(wrong[e]));
            ck_assert_msg(x.total == 0, "language %d accepts %s", d, wrong[e]);
        }
        next_byte(&x, d, wrong[d], (int)strlen(wrong[d]) - 3); // without its fault it goes on
        ck_assert_int_gt(x.total, 0);
    }
    PASS();
} END_TEST

START_TEST(any_bytes_are_survived) {
    // lines of the languages with one byte changed or put twice: never an access outside (run with -fsanitize=address)
    Corpus c = generate(20000, 5, alike);
    uint64_t state = 7;
    for (int i = 0; i < 40000; i++) {
        char line[64];
        int n = 1 + (int)draw(&state, 60);
        memcpy(line, c.text + draw(&state, 20000 - 64), (size_t)n);
        line[draw(&state, (uint32_t)n)] = (char)draw(&state, 256);
        Next x;
        next_byte(&x, i % DOMAINS, line, n);
        ck_assert_int_ge(x.total, 0);
    }
    free(c.p);
    PASS();
} END_TEST

// ----------------------------------------------------------------------------
// The writer

START_TEST(every_byte_of_a_text) {
    Corpus c = generate(400000, 3, alike);
    char line[128];
    size_t start = 0;
    for (size_t i = 0; i < c.bytes; i++) {
        ck_assert_int_eq(c.domain[i], c.domain[start]);
        ck_assert_msg(c.p[i] > 0 && c.p[i] <= 1 && (c.p[i] < 1) == (c.kind[i] == FREE), "byte %zu: p %g", i, c.p[i]);
        if (c.text[i] != '\n') { continue; }
        int n = (int)(i + 1 - start), d = c.domain[start];
        double p = 1.0;
        memcpy(line, c.text + start, (size_t)n);
        line[n] = '\0';
        for (int j = 0; j < n; j++) {
            p *= c.p[start + (size_t)j];
            ck_assert_msg((c.kind[start + (size_t)j] == ANSWER) == is_answer(d, line, j), "byte %d of %s", j, line);
        }
        line[n - 1] = '\0';
        double want = line_probability(d, line) / 6;
        ck_assert_msg(want > 0 && fabs(p - want) < 1e-12 * want, "%s: p %g, should be %g", line, p, want);
        start = i + 1;
    }
    free(c.p);
    PASS();
} END_TEST

START_TEST(floors_are_the_entropies) {
    // bits per line: the choice of the language, and what the language draws, over whole lines
    static const double written[DOMAINS] = {1.4699, 0.7977, 1.6159, 0.6582, 0.4649, 1.3611}; // in the head
    double bits[DOMAINS], bytes[DOMAINS], got_bits[DOMAINS] = {0}, got_bytes[DOMAINS] = {0}, lines[DOMAINS] = {0};
    double all_bits = 0, all_bytes = 0;
    for (int d = 0; d < DOMAINS; d++) {
        if (d == NEST) { nest_by_depth(&bits[d], &bytes[d], 1, 1); bits[d] += log2(3); bytes[d] += 1; continue; }
        Tally t = count_out(d, 99);
        bits[d] = t.bits;
        bytes[d] = t.bytes;
    }
    Corpus c = generate(1048576, 11, alike);
    while (c.text[c.bytes - 1] != '\n') { c.bytes--; }
    for (size_t i = 0; i < c.bytes; i++) {
        got_bits[c.domain[i]] -= log2(c.p[i]);
        got_bytes[c.domain[i]]++;
        lines[c.domain[i]] += c.text[i] == '\n';
    }
    for (int d = 0; d < DOMAINS; d++) {
        // the standard deviation of a line's bits and bytes is below 9 in all languages; 5 standard errors
        double floor_is = (bits[d] + log2(6)) / bytes[d], noise = 5 * 9 / sqrt(lines[d]);
        int constant = d == SUMS || d == DAYS;
        ck_assert_double_eq_tol(got_bits[d] / lines[d], bits[d] + log2(6), constant ? 1e-9 : noise);
        ck_assert_double_eq_tol(got_bytes[d] / lines[d], bytes[d], constant ? 1e-9 : noise);
        ck_assert_double_eq_tol(got_bits[d] / got_bytes[d], floor_is, constant ? 1e-9 : 0.01 * floor_is);
        ck_assert_double_eq_tol(floor_is, written[d], 5.1e-5);
        all_bits += bits[d] + log2(6);
        all_bytes += bytes[d];
    }
    ck_assert_double_eq_tol(all_bits / all_bytes, 0.8796, 5.1e-5);
    free(c.p);
    PASS();
} END_TEST

START_TEST(draws_follow_p) {
    // what came, against what p expected: chi-square over 42 days, and over the second half of a bracket
    int weights[DOMAINS] = {0, 1, 1, 0, 0, 0};
    double seen[42] = {0}, n = 0, chi = 0, closes = 0, could = 0, spread = 0;
    Corpus c = generate(1000000, 4, weights);
    for (size_t i = 0; i + 10 < c.bytes; i++) {
        int line_starts = i == 0 || c.text[i - 1] == '\n';
        if (c.domain[i] == DAYS && line_starts) {
            seen[6 * day_number((const char*)c.text + i) + c.text[i + 4] - '1']++;
            n++;
        }
        if (c.domain[i] == NEST && c.kind[i] == FREE && !line_starts) {
            closes += strchr(")]}", c.text[i]) != NULL;
            could++;
        }
    }
    for (int i = 0; i < 42; i++) { chi += (seen[i] - n / 42) * (seen[i] - n / 42) / (n / 42); }
    ck_assert_double_gt(n, 20000);
    ck_assert_msg(chi > 15 && chi < 90, "chi-square of 41 degrees of freedom: %g", chi);
    spread = sqrt(could * 0.45 * 0.55);
    ck_assert_msg(fabs(closes - 0.45 * could) < 4 * spread, "%g of %g close", closes, could);
    free(c.p);
    PASS();
} END_TEST

START_TEST(weights_are_kept) {
    int weights[DOMAINS] = {1, 2, 0, 3, 0, 14};
    double lines[DOMAINS] = {0}, n = 0;
    Corpus c = generate(500000, 9, weights);
    for (size_t i = 0; i < c.bytes; i++) {
        if (i > 0 && c.text[i - 1] != '\n') { continue; }
        int d = c.domain[i];
        lines[d]++;
        n++;
        if (d == ECHOES) { ck_assert_double_eq(c.p[i], 14.0 / 20); }
        if (d == SUMS) { ck_assert_double_eq(c.p[i], 1.0 / 80); }
    }
    for (int d = 0; d < DOMAINS; d++) {
        double q = weights[d] / 20.0;
        ck_assert_msg(fabs(lines[d] - n * q) <= 4 * sqrt(n * q * (1 - q)), "language %d: %g lines of %g", d, lines[d], n);
    }
    free(c.p);
    PASS();
} END_TEST

START_TEST(one_language_alone) {
    for (int d = 0; d < DOMAINS; d++) {
        int weights[DOMAINS] = {0};
        weights[d] = 1000000;
        Corpus c = generate(3000, 1, weights);
        for (size_t i = 0; i < c.bytes; i++) { ck_assert_int_eq(c.domain[i], d); }
        if (d == CODE || d == ECHOES) { ck_assert(c.p[0] == 1.0 && c.kind[0] == FORM); } // "l" and ">" are no choice now
        if (d == DAYS) { ck_assert_double_eq(c.p[0], c.text[0] == 'T' || c.text[0] == 'S' ? 2.0 / 7 : 1.0 / 7); }
        free(c.p);
    }
    PASS();
} END_TEST

static void expect_hash(const void* data, size_t n, uint64_t want, const char* what) {
    // FNV-1a, 64 bits
    uint64_t h = 14695981039346656037ULL;
    for (size_t i = 0; i < n; i++) { h = (h ^ ((const unsigned char*)data)[i]) * 1099511628211ULL; }
    ck_assert_msg(h == want, "%s: hash 0x%016llx, should be 0x%016llx", what, (unsigned long long)h, (unsigned long long)want);
}

START_TEST(same_bytes_on_every_machine) {
    Corpus a = generate(65536, 1, alike), b = generate(65536, 2, alike), longer = generate(70001, 1, alike);
    expect_hash(a.text, a.bytes, 0x1ec196269184e626ULL, "text");
    expect_hash(a.domain, a.bytes, 0xe483bab41d00f35dULL, "domain");
    expect_hash(a.kind, a.bytes, 0xf964bc798a594925ULL, "kind");
    expect_hash(a.p, 8 * a.bytes, 0x4ae75110a8cac2aeULL, "p");
    ck_assert_int_eq(memcmp(a.text, longer.text, a.bytes), 0); // a longer text begins the same
    ck_assert_int_ne(memcmp(a.text, b.text, 64), 0);
    free(a.p);
    free(b.p);
    free(longer.p);
    PASS();
} END_TEST

START_TEST(draw_is_even) {
    uint64_t state = 1;
    int low = 0, n = 100000;
    for (int i = 0; i < 1000; i++) { ck_assert_uint_eq(draw(&state, 1), 0); }
    for (int i = 0; i < n; i++) {
        uint32_t r = draw(&state, 3u << 30); // a plain remainder would give the lowest third twice the chance
        ck_assert_uint_lt(r, 3u << 30);
        low += r < 1u << 30;
    }
    ck_assert_msg(abs(low - n / 3) < 4 * 150, "%d of %d", low, n);
    PASS();
} END_TEST

// ----------------------------------------------------------------------------
// Files and command line

static char folder[32]; // of this test, gone at its end

static void make_folder(void) {
    strcpy(folder, "/tmp/dynmoe_XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
}

static const char* in_folder(const char* name) {
    static char paths[4][64];
    static int next = 0;
    char* path = paths[next++ % 4];
    snprintf(path, sizeof(paths[0]), "%s/%s", folder, name);
    return path;
}

static size_t read_file(char* out, size_t room, const char* path) {
    FILE* f = fopen(path, "rb");
    ck_assert_msg(f != NULL, "cannot open %s", path);
    size_t n = fread(out, 1, room - 1, f);
    out[n] = '\0';
    fclose(f);
    return n;
}

START_TEST(truth_file_holds_the_truth) {
    make_folder();
    size_t sizes[3] = {1, 77, 5000}; // odd sizes too
    for (int i = 0; i < 3; i++) {
        Corpus c = generate(sizes[i], 12, alike);
        write_truth(in_folder("t"), &c, 12);
        static char file[100000];
        char want[200];
        size_t n = read_file(file, sizeof(file), in_folder("t"));
        size_t header = (unsigned char)file[0] + 256 * (size_t)(unsigned char)file[1];
        ck_assert_int_eq(memcmp(file + 2, "\0\0\0\0\0\0", 6), 0);
        ck_assert_uint_eq(header % 8, 0);
        ck_assert_uint_eq(n, 8 + header + 11 * sizes[i]);
        const char* at = file + 8 + header;
        ck_assert_int_eq(memcmp(at, c.p, 8 * sizes[i]), 0);
        ck_assert_int_eq(memcmp(at + 8 * sizes[i], c.text, sizes[i]), 0);
        ck_assert_int_eq(memcmp(at + 9 * sizes[i], c.domain, sizes[i]), 0);
        ck_assert_int_eq(memcmp(at + 10 * sizes[i], c.kind, sizes[i]), 0);
        file[8 + header] = '\0';
        snprintf(want, sizeof(want), "\"kind\":{\"dtype\":\"U8\",\"shape\":[%zu],\"data_offsets\":[%zu,%zu]}}", sizes[i],
                 10 * sizes[i], 11 * sizes[i]);
        ck_assert_ptr_nonnull(strstr(file + 8, want));
        ck_assert_ptr_nonnull(strstr(file + 8, "\"format\":\"dynmoe-truth 1\""));
        ck_assert_ptr_nonnull(strstr(file + 8, "\"seed\":\"12\""));
        ck_assert_int_ne(access(in_folder("t.tmp"), F_OK), 0);
        free(c.p);
    }
    remove(in_folder("t"));
    ck_assert_int_eq(rmdir(folder), 0); // nothing else was left
    PASS();
} END_TEST

static const char* command; // words with blanks between them
static Config parsed;
static void parse_command(void) {
    static char copy[256];
    char* argv[16];
    int argc = 0;
    snprintf(copy, sizeof(copy), "languages %s", command);
    for (char* w = strtok(copy, " "); w != NULL; w = strtok(NULL, " ")) { argv[argc++] = w; }
    argv[argc] = NULL;
    parsed = parse_options(argc, argv);
}

START_TEST(options_are_read) {
    command = "";
    parse_command();
    ck_assert_uint_eq(parsed.bytes, 2097152);
    ck_assert_uint_eq(parsed.seed, 1);
    ck_assert_str_eq(parsed.out, "data/languages_train.txt");
    ck_assert_ptr_null(parsed.truth);
    command = "--bytes 10 -s 18446744073709551615 --weights 1,0,1000000,3,4,5 -o a --truth b";
    parse_command();
    ck_assert_uint_eq(parsed.bytes, 10);
    ck_assert_uint_eq(parsed.seed, UINT64_MAX);
    ck_assert_int_eq(parsed.weights[2], 1000000);
    ck_assert_int_eq(parsed.weights[5], 5);
    ck_assert_str_eq(parsed.out, "a");
    ck_assert_str_eq(parsed.truth, "b");
    PASS();
} END_TEST

START_TEST(help_names_every_option) {
    char said[4096];
    command = "--help";
    ck_assert_int_eq(exit_status(said, sizeof(said), parse_command), 0);
    for (int o = 0; o < OPTIONS; o++) {
        ck_assert_ptr_nonnull(strstr(said, options[o].name));
        ck_assert_ptr_nonnull(strstr(said, options[o].help));
    }
    PASS();
} END_TEST

static void expect_error(int status, void (*f)(void), const char* what) {
    char said[4096];
    int got = exit_status(said, sizeof(said), f), newlines = 0;
    for (char* s = said; *s != '\0'; s++) { newlines += *s == '\n'; }
    ck_assert_msg(got == status, "%s: exit status %d, should be %d", what, got, status);
    ck_assert_msg(strncmp(said, "error: ", 7) == 0 && strstr(said, "\n---> HINT: ") != NULL && newlines == 2, "%s: %s", what, said);
}

START_TEST(wrong_options_are_refused) {
    static const char* wrong[] = {"--byte 5", "5", "-x 1", "--out", "--out same --truth same",
        "--bytes", "--bytes 0", "--bytes -1", "--bytes 5x", "--bytes 1073741825", "--bytes 1e3",
        "--seed 18446744073709551616", "--seed +1", "--weights 1,1,1,1,1", "--weights 1,1,1,1,1,1,1",
        "--weights 0,0,0,0,0,0", "--weights 1,1,1,1,1,-1", "--weights 1,1,1,1,1,1000001",
        "--weights 99999999,1,1,1,1,1", "--weights a,1,1,1,1,1", "--weights 1,1,1,1,1,1 x"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        command = wrong[i];
        expect_error(2, parse_command, wrong[i]);
    }
    PASS();
} END_TEST

static void write_some(void) {
    static char text[100000];
    Part part = {text, sizeof(text)};
    write_file(in_folder("text"), &part, 1);
}

static void write_too_much(void) {
    struct rlimit small = {50000, 50000};
    signal(SIGXFSZ, SIG_IGN); // or the limit would kill
    setrlimit(RLIMIT_FSIZE, &small);
    write_some();
}

static Corpus summed;
static void print_it(void) { print_summary(&summed); }

START_TEST(summary_adds_up) {
    // six bytes of 0.5, 0.25, ... in two languages
    double p[6] = {0.5, 1, 1, 0.25, 0.125, 1};
    unsigned char domain[6] = {2, 2, 2, 2, 5, 5}, kind[6] = {FREE, FORM, ANSWER, FREE, FREE, ANSWER};
    char said[4096];
    summed.bytes = 6;
    summed.p = p;
    summed.domain = domain;
    summed.kind = kind;
    ck_assert_int_eq(exit_status(said, sizeof(said), print_it), 99);
    ck_assert_ptr_nonnull(strstr(said, "\nnest             4   66.7%  0.7500   50.0%  25.0%   25.0%\n"));
    ck_assert_ptr_nonnull(strstr(said, "\necho             2   33.3%  1.5000   50.0%   0.0%   50.0%\n"));
    ck_assert_ptr_nonnull(strstr(said, "\nall              6  100.0%  1.0000   50.0%  16.7%   33.3%\n"));
    ck_assert_ptr_null(strstr(said, "sums"));
    PASS();
} END_TEST

START_TEST(failed_writes_leave_nothing) {
    char old[16];
    make_folder();
    Part part = {"old", 3};
    write_file(in_folder("text"), &part, 1);
    expect_error(1, write_too_much, "full disk");
    ck_assert_uint_eq(read_file(old, sizeof(old), in_folder("text")), 3); // the file that was there stays
    ck_assert_int_ne(access(in_folder("text.tmp"), F_OK), 0);
    remove(in_folder("text"));
    mkdir(in_folder("text"), 0700);
    expect_error(1, write_some, "a folder in the way");
    ck_assert_int_ne(access(in_folder("text.tmp"), F_OK), 0);
    rmdir(in_folder("text"));
    ck_assert_int_eq(rmdir(folder), 0);
    expect_error(1, write_some, "no such folder");
    PASS();
} END_TEST

// ----------------------------------------------------------------------------

int main(void) {
    suite_draw_code();
    Suite* s = suite_create("languages");
    TCase* tc = tcase_create("languages");
    tcase_set_timeout(tc, 60);
    suite_add_tcase(s, tc);
    tcase_add_exit_test(tc, every_line_of_sums, pass_code);
    tcase_add_exit_test(tc, every_line_of_days, pass_code);
    tcase_add_exit_test(tc, every_line_of_code, pass_code);
    tcase_add_exit_test(tc, every_line_of_prose, pass_code);
    tcase_add_exit_test(tc, every_line_of_echo, pass_code);
    tcase_add_exit_test(tc, every_short_line_of_nest, pass_code);
    tcase_add_exit_test(tc, nest_turns_back, pass_code);
    tcase_add_exit_test(tc, first_byte_tells_the_language, pass_code);
    tcase_add_exit_test(tc, foreign_lines_have_no_next_byte, pass_code);
    tcase_add_exit_test(tc, any_bytes_are_survived, pass_code);
    tcase_add_exit_test(tc, every_byte_of_a_text, pass_code);
    tcase_add_exit_test(tc, floors_are_the_entropies, pass_code);
    tcase_add_exit_test(tc, draws_follow_p, pass_code);
    tcase_add_exit_test(tc, weights_are_kept, pass_code);
    tcase_add_exit_test(tc, one_language_alone, pass_code);
    tcase_add_exit_test(tc, same_bytes_on_every_machine, pass_code);
    tcase_add_exit_test(tc, draw_is_even, pass_code);
    tcase_add_exit_test(tc, truth_file_holds_the_truth, pass_code);
    tcase_add_exit_test(tc, options_are_read, pass_code);
    tcase_add_exit_test(tc, help_names_every_option, pass_code);
    tcase_add_exit_test(tc, wrong_options_are_refused, pass_code);
    tcase_add_exit_test(tc, summary_adds_up, pass_code);
    tcase_add_exit_test(tc, failed_writes_leave_nothing, pass_code);

    int run, failed = suite_run(s, &run);
    return suite_end(failed, run);
}
