/*
Unit tests of data/tokenize.c.

Whole texts are held against dev/bpe.py, a slow program of its own in Python: it trained test/bpe/small.bpe and made
test/bpe/torture.bin of test/bpe/torture.txt. The rest are cases worked out by hand, and properties.

Build: gcc test/test_tokenize.c -o test/test_tokenize $(pkg-config --cflags --libs check), to be run from the project's folder
Each test runs in a process of its own. Check takes exit(0) in the middle of a test for success, so a test passes only if
it reaches its last line, PASS(), which exits with a code drawn at random when the program starts.
*/
#include <check.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#define TESTING
#include "../data/tokenize.c"
#include "suite.h"

#define MUST(what, ...) do { if (!(what)) { ck_abort_msg(__VA_ARGS__); } } while (0) // in loops: an assertion is a write to a pipe

#define SMALL "test/bpe/small.bpe"
static const unsigned char* bytes_of(const char* s) { return (const unsigned char*)s; }

static uint32_t draw(uint32_t n) {
    // a number below n, the same ones in every run of a test
    static uint64_t state = 88172645463325252ULL;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)((state >> 32) % n);
}

// ----------------------------------------------------------------------------
// Files of a test, and children whose words and exit status are looked at

static char folder[32]; // gone at the end of the test

static void make_folder(void) {
    strcpy(folder, "/tmp/dynmoe_XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
}

static const char* in_folder(const char* name) {
    static char paths[8][64];
    static int next = 0;
    char* path = paths[next++ % 8];
    snprintf(path, sizeof(paths[0]), "%s/%s", folder, name);
    return path;
}

static void put_file(const char* name, const void* data, size_t n) {
    // not by write_file, which waits for the disk
    FILE* f = fopen(in_folder(name), "wb");
    ck_assert_msg(f != NULL && fwrite(data, 1, n, f) == n && fclose(f) == 0, "cannot write %s", name);
}

static unsigned char* get_file(const char* name, size_t* n) { return read_all(in_folder(name), n, "a test wants it"); }

static void expect_file(const char* name, const void* data, size_t n) {
    size_t got;
    unsigned char* file = get_file(name, &got);
    ck_assert_msg(got == n && memcmp(file, data, n) == 0, "%s is not as it should be: %zu bytes of %zu", name, got, n);
    free(file);
}

static void empty_folder(const char* names) {
    // removes these files, words with blanks between them; nothing else may be there
    char copy[256];
    snprintf(copy, sizeof(copy), "%s", names);
    for (char* w = strtok(copy, " "); w != NULL; w = strtok(NULL, " ")) { ck_assert_int_eq(remove(in_folder(w)), 0); }
    ck_assert_msg(rmdir(folder) == 0, "more is left in the folder than %s", names);
}

static Bpe* vocabulary(const char* merges) {
    // of lines like "a b\n"
    char text[4096];
    int n = snprintf(text, sizeof(text), "#version: 0.2\n%s", merges);
    make_folder();
    put_file("vocab", text, (size_t)n);
    Bpe* b = bpe_open(in_folder("vocab"));
    empty_folder("vocab");
    return b;
}

static char said[8192]; // by the child, on both streams
static int status_of(void (*f)(void)) {
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
    said[fread(said, 1, sizeof(said) - 1, out)] = '\0';
    fclose(out);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

static void expect_error(int status, void (*f)(void), const char* words) {
    // one line of error with these words in it, one line of hint
    int got = status_of(f), newlines = 0;
    for (char* s = said; *s != '\0'; s++) { newlines += *s == '\n'; }
    ck_assert_msg(got == status, "%s: exit status %d, should be %d: %s", words, got, status, said);
    ck_assert_msg(strncmp(said, "error: ", 7) == 0 && strstr(said, "\n---> HINT: ") != NULL && newlines == 2, "%s", said);
    ck_assert_msg(strstr(said, words) != NULL, "%s: %s", words, said);
}

static char command[512]; // words with blanks between them; a word that begins with / and no other / is in the folder
static void run_command(void) {
    static char copy[600];
    char* argv[24];
    int argc = 0;
    snprintf(copy, sizeof(copy), "tokenize %s", command);
    for (char* w = strtok(copy, " "); w != NULL; w = strtok(NULL, " ")) {
        argv[argc++] = w[0] == '/' && strchr(w + 1, '/') == NULL ? strdup(in_folder(w + 1)) : w;
    }
    argv[argc] = NULL;
    tokenize(argc, argv);
}

static void run(const char* words) {
    snprintf(command, sizeof(command), "%s", words);
    ck_assert_msg(status_of(run_command) == 99, "%s: %s", words, said);
}

static void expect_refusal(int status, const char* words, const char* error) {
    snprintf(command, sizeof(command), "%s", words);
    expect_error(status, run_command, error);
}

// ----------------------------------------------------------------------------
// Pieces

static unsigned char* all_kinds(void) {
    Bpe* b = bpe_open(SMALL);
    return b->kinds;
}

START_TEST(kinds_of_characters) {
    static const struct { uint32_t c; int kind; } known[] = {
        {'a', LETTER}, {'Z', LETTER}, {'@', OTHER}, {'[', OTHER}, {'`', OTHER}, {'{', OTHER}, {'0', NUMBER}, {'9', NUMBER},
        {'/', OTHER}, {':', OTHER}, {'_', OTHER}, {0, OTHER}, {8, OTHER}, {9, BLANK}, {13, BLANK}, {14, OTHER}, {0x1C, OTHER},
        {0x1F, OTHER}, {' ', BLANK}, {0x7F, OTHER}, {0x84, OTHER}, {0x85, BLANK}, {0x86, OTHER}, {0xA0, BLANK},
        {0xAA, LETTER}, {0xAD, OTHER}, {0xB2, NUMBER}, {0xBD, NUMBER}, {0xD7, OTHER}, {0xE9, LETTER}, {0x130, LETTER},
        {0x2C5, OTHER}, {0x301, OTHER}, {0x3B1, LETTER}, {0x43C, LETTER}, {0x5D0, LETTER}, {0x663, NUMBER}, {0x94D, OTHER},
        {0x1680, BLANK}, {0x180E, OTHER}, {0x2000, BLANK}, {0x200A, BLANK}, {0x200B, OTHER}, {0x2028, BLANK}, {0x2029, BLANK},
        {0x202A, OTHER}, {0x202F, BLANK}, {0x205F, BLANK}, {0x2060, OTHER}, {0x2167, NUMBER}, {0x20AC, OTHER}, {0x3000, BLANK},
        {0x3001, OTHER}, {0x3007, NUMBER}, {0x4DFF, OTHER}, {0x4E00, LETTER}, {0x9FEF, LETTER}, {0xABFF, OTHER}, {0xAC00, LETTER},
        {0xD7A3, LETTER}, {0xD7A4, OTHER}, {0xD800, OTHER}, {0xE000, OTHER}, {0xFEFF, OTHER}, {0xFF21, LETTER}, {0xFF10, NUMBER},
        {0xFFFD, OTHER}, {0x1D518, LETTER}, {0x1D7CE, NUMBER}, {0x1F600, OTHER}, {0x1FFFF, OTHER}, {0x20000, LETTER},
        {0x2A6D6, LETTER}, {0xE0001, OTHER}, {0x10FFFF, OTHER}};
    unsigned char* kinds = all_kinds();
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        ck_assert_msg(kinds[known[i].c] == known[i].kind, "U+%04X is of kind %d", known[i].c, kinds[known[i].c]);
    }
    size_t count[4] = {0, 0, 0, 0};
    for (int c = 0; c < CODE_POINTS; c++) { count[kinds[c]]++; }
    ck_assert_uint_eq(count[BLANK], 25);
    ck_assert_uint_ge(count[LETTER], 125643); // of Unicode 12.1; later versions have more, none has fewer
    ck_assert_uint_ge(count[NUMBER], 1754);
    PASS();
} END_TEST

START_TEST(only_well_formed_utf8_is_read) {
    // every code point comes back; whatever is cut, overlong, a surrogate or too large is one byte
    for (uint32_t c = 0; c < CODE_POINTS; c++) {
        unsigned char s[4];
        uint32_t got;
        size_t n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
        for (size_t i = 0; i < n; i++) { s[i] = (unsigned char)(0x80 | ((c >> 6 * (n - 1 - i)) & 0x3F)); }
        s[0] = (unsigned char)(n == 1 ? c : (0xF00 >> n & 0xFF) | c >> 6 * (n - 1));
        size_t length = next_char(s, n, &got);
        int surrogate = c >= 0xD800 && c < 0xE000;
        MUST(length == (surrogate ? 1 : n), "U+%04X: %zu bytes", c, length);
        MUST(got == (surrogate ? (uint32_t)NOT_UTF8 : c), "U+%04X is read as U+%04X", c, got);
        if (n == 1) { continue; }
        MUST(next_char(s, n - 1, &got) == 1 && got == NOT_UTF8, "U+%04X without its last byte is U+%04X", c, got);
        s[n - 1] ^= 0x40;
        MUST(next_char(s, n, &got) == 1 && got == NOT_UTF8, "U+%04X with another last byte is U+%04X", c, got);
    }
    static const char* wrong[] = {"\x80zzz", "\xBFzzz", "\xC0\x80zz", "\xC1\xBFzz", "\xE0\x80\x80z", "\xE0\x9F\xBFz",
        "\xED\xA0\x80z", "\xED\xBF\xBFz", "\xF0\x80\x80\x80", "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80",
        "\xF8\x88\x80\x80", "\xF9\x80\x80\x80", "\xFC\x84\x80\x80", "\xFFzzz", "\xA2\x80zz", "\xBF\xBFzz"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        uint32_t c;
        ck_assert_msg(next_char(bytes_of(wrong[i]), 4, &c) == 1 && c == NOT_UTF8, "wrong[%zu] is U+%04X", i, c);
    }
    PASS();
} END_TEST

static void expect_pieces(const unsigned char* kinds, const char* want) {
    // want: the text, with | between its pieces
    char text[256], got[512];
    size_t n = 0, k = 0;
    for (const char* s = want; *s != '\0'; s++) { if (*s != '|') { text[n++] = *s; } }
    for (size_t i = 0, piece; i < n; i += piece) {
        piece = next_piece(kinds, bytes_of(text) + i, n - i);
        if (i > 0) { got[k++] = '|'; }
        memcpy(got + k, text + i, piece);
        k += piece;
    }
    got[k] = '\0';
    ck_assert_msg(strcmp(got, want) == 0, "<%s> is cut into <%s>", want, got);
}

static void expect_all_pieces(const char* const* cases, size_t n) {
    unsigned char* kinds = all_kinds();
    for (size_t i = 0; i < n; i++) { expect_pieces(kinds, cases[i]); }
}
#define PIECES(cases) expect_all_pieces(cases, sizeof(cases) / sizeof(cases[0]))

START_TEST(pieces_of_words_and_numbers) {
    static const char* cases[] = {"", "a", " ", "Hello| world|!", " Hello", "HelloWorld|123|abc", "abc|123| 4|.|5", "x|2|y",
        "a| -|b", "a|-|b", " 12| a|3", "FOO|_|bar", "a|,| b", "(|a|)", "!!!|a", " !?|x", "A| (|b| +| c|);", "$|5|.|00", "3|.|14",
        "1|,|000", "#=<>", "http|://|a|.|b|/|c|?|d|=|1"};
    PIECES(cases);
    PASS();
} END_TEST

START_TEST(pieces_of_contractions) {
    static const char* cases[] = {"it|'s", "don|'t", "we|'re", "I|'ve", "I|'m", "we|'ll", "I|'d", "'s|'t|'re|'ve|'m|'ll|'d", "1|'s",
        "'s|a", "'t|is", "'re|al", "'ve|ry", "'m|y", "'ll|ama", "'d|o", "'s|1", "'s|!", // they end there, whatever follows
        "IT|'|S", "DON|'|T", "'|Re", "'|rE", "'|LL", "'|lL", "'|a", "'|r", "'|v", "'|l", "'|la", "'|le", "'|rl", "'|vl", "'|e",
        "'|1", "''|s", "'''|s", "!'|s", " '|s", "a| '|ll", "'| s", "\n|'s", " | '|s", "'", "a|'", "it|\xE2\x80\x99|s"};
    PIECES(cases);
    unsigned char* kinds = all_kinds();
    ck_assert_uint_eq(next_piece(kinds, bytes_of("'\0!"), 3), 3); // a zero is no letter of a contraction
    ck_assert_uint_eq(next_piece(kinds, bytes_of("'s"), 1), 1);   // nor is what lies behind the end
    ck_assert_uint_eq(next_piece(kinds, bytes_of("'re"), 2), 1);
    ck_assert_uint_eq(next_piece(kinds, bytes_of(" a"), 1), 1);
    PASS();
} END_TEST

START_TEST(pieces_of_blanks) {
    // a run leaves its last blank to what follows; only the blank U+0020 then joins it
    static const char* cases[] = {"a| | b", "a|  | b", "a|   | b", " | a", "a|  ", "   ", "\n\n", "a| \n", "a|\n", "a|\n|b",
        "a|\n|\n|b", "a|\n\n|\n|b", "a|\n| b", "a| |\n|b", "a| \n| b", "a|\t|\t|b", "a|\r|\n|b", "a|\r\n\r|\n|b", " | 1", " | !",
        " | '|a", "\t| a", "a|\x0B|\x0C|b", "a| |\t|1", "a|\xC2\xA0|b", " |\xC2\xA0|b", "\xC2\xA0| b", "a|\xC2\x85|b",
        "a| |\xE3\x80\x80|b", "\xE3\x80\x80|\xE3\x80\x80|\xE4\xB8\xAD", "a|\xE2\x80\xA8|\xE2\x80\xA9|b", "a|\xE2\x80\x8B|b",
        " \xE2\x80\x8B|b", "a|\x1C|b", " \x1C|b", "a|  |\n|1"};
    PIECES(cases);
    PASS();
} END_TEST

START_TEST(pieces_of_other_scripts) {
    static const char* cases[] = {"caf\xC3\xA9| ol\xC3\xA9|!", "\xC3\x89t\xC3\xA9", "stra\xC3\x9F" "e", "e|\xCC\x81|a",
        "x|\xC2\xB2|y", "\xC2\xBD|a", "\xC2\xBD" "1", "a|\xE2\x85\xA7|b", "\xD9\xA3" "7", "\xD0\xBC\xD0\xB8\xD1\x80| \xD0\xBC",
        "\xE4\xB8\xAD\xE6\x96\x87|\xE3\x80\x82|\xE6\x97\xA5", " \xE4\xB8\xAD", "a\xE4\xB8\xAD" "b", "\xE3\x80\x87|\xE4\xB8\x80",
        "\xE0\xA4\xA8\xE0\xA4\xAE\xE0\xA4\xB8|\xE0\xA5\x8D|\xE0\xA4\xA4", "\xED\x95\x9C\xEA\xB5\xAD", "\xF0\xA0\x80\x80" "a",
        "\xF0\x9D\x94\x98" "b", "\xF0\x9D\x9F\x8E" "1", "a|\xF0\x9F\x98\x80|b", "\xF0\x9F\x98\x80\xF0\x9F\x98\x80",
        " \xE2\x9D\xA4\xEF\xB8\x8F", "\xF0\x9F\x91\xA8\xE2\x80\x8D\xF0\x9F\x91\xA9|x", "\xE2\x82\xAC|5", "\xEF\xBB\xBF|a"};
    PIECES(cases);
    PASS();
} END_TEST

START_TEST(pieces_of_what_is_no_utf8) {
    static const char* cases[] = {"a|\xFF|b", "\xFF\xFE", " \xFF|a", "\xFF!", "\xC3|a", "a|\xC3", "\xE2\x82|a", "a|\xE2\x82",
        "\xE2\x82|1", "\xC0\xA0|a", "\xED\xA0\x80|a", "\xF0\x9F\x98|a", "\xF4\x90\x80\x80|a", "\xC3|\xC3\xA9", "\x80\x80| a"};
    PIECES(cases);
    PASS();
} END_TEST

// ----------------------------------------------------------------------------
// Merges

static const char* spell(const Bpe* b, const uint16_t* tokens, size_t m) {
    // tokens with blanks between them; a blank is _, a newline ~, <|endoftext|> #
    static char out[2048];
    size_t k = 0;
    for (size_t i = 0; i < m; i++) {
        if (i > 0) { out[k++] = ' '; }
        if (tokens[i] == b->eot) { out[k++] = '#'; continue; }
        for (size_t j = b->start[tokens[i]]; j < b->start[tokens[i] + 1]; j++) {
            out[k++] = (char)(b->text[j] == ' ' ? '_' : b->text[j] == '\n' ? '~' : b->text[j]);
        }
    }
    out[k] = '\0';
    return out;
}

static void expect_merges(const Bpe* b, const char* want) {
    // want: tokens with blanks between them; both functions must find them in the letters alone
    char text[128];
    uint16_t out[128];
    size_t n = 0;
    for (const char* s = want; *s != '\0'; s++) { if (*s != ' ') { text[n++] = *s; } }
    const char* got = spell(b, out, merge_short(b, bytes_of(text), n, out));
    ck_assert_msg(strcmp(got, want) == 0, "short: <%s> and not <%s>", got, want);
    got = spell(b, out, merge_long(b, bytes_of(text), n, out));
    ck_assert_msg(strcmp(got, want) == 0, "long: <%s> and not <%s>", got, want);
}

START_TEST(merges_by_hand) {
    static const struct { const char* merges; const char* want[6]; } cases[] = {
        {"", {"a", "a b c", "! !"}},
        {"a a\naa aa\n", {"aa", "aa a", "aaaa", "aaaa a", "aaaa aa a", "b aaaa aaaa aa a b"}},
        {"b c\na b\n", {"a bc", "ab", "ab ab", "ab bc", "ab a bc", "bc bc a"}}, // the earlier line first
        {"a b\nb c\n", {"ab c", "bc", "ab bc", "c ab c", "ab b", "bc ab"}},
        {"a b\nab c\nabc d\n", {"abcd", "abc abcd", "ab abc", "a a abcd", "ab ab d", "b c d"}},
        {"c d\na b\nab cd\n", {"abcd", "ab c", "b cd", "abcd abcd", "abcd cd", "a cd"}},
        {"b a\na a\n", {"ba aa", "aa a b", "aa ba a", "ba a", "aa aa ba", "ba ba aa a"}},
        {"a a\nb a\n", {"b aa a", "b aa", "ba", "aa b aa", "ba ba", "ba b aa"}},
        {"a b\nab ab\nb ab\n", {"abab", "abab ab", "bab", "b abab", "abab b", "ab a"}},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        Bpe* b = vocabulary(cases[i].merges);
        for (int j = 0; j < 6 && cases[i].want[j] != NULL; j++) { expect_merges(b, cases[i].want[j]); }
        bpe_close(b);
    }
    PASS();
} END_TEST

static size_t merge_by_lines(const Bpe* b, const unsigned char* s, size_t n, uint16_t* out) {
    // the third way, and the simplest: one line of the vocabulary after the other, wherever its pair stands
    for (size_t i = 0; i < n; i++) { out[i] = b->of_byte[s[i]]; }
    for (int r = 0; r < b->merges; r++) {
        size_t m = 0;
        for (size_t i = 0; i < n; m++) {
            int meets = i + 1 < n && out[i] == b->left[r] && out[i + 1] == b->right[r];
            out[m] = meets ? (uint16_t)(256 + r) : out[i];
            i += meets ? 2 : 1;
        }
        n = m;
    }
    return n;
}

static void expect_same(const Bpe* b, const unsigned char* s, size_t n) {
    static uint16_t want[8192], out[8192];
    size_t m = merge_by_lines(b, s, n, want);
    ck_assert_uint_eq(merge_long(b, s, n, out), m);
    ck_assert_int_eq(memcmp(out, want, m * sizeof(*out)), 0);
    if (n > SHORT) { return; }
    ck_assert_uint_eq(merge_short(b, s, n, out), m);
    ck_assert_int_eq(memcmp(out, want, m * sizeof(*out)), 0);
}

START_TEST(three_ways_to_merge) {
    static const char* merges[] = {"a a\n", "a a\naa aa\naaaa aaaa\naa a\n", "a b\nb a\nab a\nab ab\n",
        "b b\na bb\nbb a\nabb abb\nbb bb\n", "a b\na a\naa ab\nab ab\naaab aaab\nc a\nca ab\nca ca\n"};
    unsigned char s[8192];
    for (int v = 0; v < 5; v++) {
        Bpe* b = vocabulary(merges[v]);
        for (size_t n = 1; n < 1500; n += n < 40 ? 1 : 97) {
            for (uint32_t alphabet = 1; alphabet <= 4; alphabet++) {
                for (size_t i = 0; i < n; i++) { s[i] = (unsigned char)(i == 0 || draw(9) == 0 ? 'a' + draw(alphabet) : s[i - 1]); }
                expect_same(b, s, n);
                for (size_t i = 0; i < n; i++) { s[i] = (unsigned char)('a' + draw(alphabet)); }
                expect_same(b, s, n);
            }
        }
        bpe_close(b);
    }
    Bpe* b = bpe_open(SMALL);
    for (int times = 0; times < 40; times++) { // tokens glued together
        size_t n = 0;
        while (n < (size_t)times * 100 + 1) {
            int t = (int)draw((uint32_t)b->eot);
            memcpy(s + n, b->text + b->start[t], token_length(b, t));
            n += token_length(b, t);
        }
        expect_same(b, s, n);
        expect_same(b, s, n < (size_t)SHORT ? n : (size_t)SHORT);
    }
    bpe_close(b);
    PASS();
} END_TEST

START_TEST(long_pieces_take_linear_time) {
    // 4 MB without a boundary: quadratic time would be days
    size_t n = 4000000, m;
    Bpe* b = vocabulary("a a\naa aa\nb c\nbc bc\n");
    unsigned char* s = (unsigned char*)grow(NULL, n, 1);
    memset(s, 'a', n);
    uint16_t* out = encode(b, s, n, PLAIN, &m);
    ck_assert_uint_eq(m, n / 4);
    for (size_t i = 0; i < m; i++) { MUST(out[i] == 257, "token %zu is %d", i, out[i]); }
    free(out);
    for (size_t i = 0; i < n; i++) { s[i] = (unsigned char)"bc"[i % 2]; }
    free(encode(b, s, n, PLAIN, &m));
    ck_assert_uint_eq(m, n / 4);
    memset(s, ' ', n);
    s[n - 1] = 'x';
    free(encode(b, s, n, PLAIN, &m));
    ck_assert_uint_eq(m, n);
    memset(s, '\n', n);
    free(encode(b, s, n, LINES, &m));
    ck_assert_uint_eq(m, 1 + n + n / 2); // all the room that encode takes
    memset(s, '<', n);
    free(encode(b, s, n, MARKER, &m));
    ck_assert_uint_eq(m, n);
    free(s);
    bpe_close(b);
    PASS();
} END_TEST

static Bpe* opened;
static void merge_too_much(void) { merge_long(opened, NULL, 5000000000u, NULL); }
static void grow_too_much(void) { grow(NULL, SIZE_MAX / 2, 3); }

START_TEST(too_much_is_refused) {
    opened = bpe_open(SMALL);
    expect_error(1, merge_too_much, "5000000000 bytes without a boundary");
    expect_error(1, grow_too_much, "out of memory");
    PASS();
} END_TEST

// ----------------------------------------------------------------------------
// Vocabularies

START_TEST(bytes_have_their_places) {
    Bpe* b = bpe_open(SMALL);
    static const int known[][2] = {{'!', 0}, {'a', 64}, {'~', 93}, {0xA1, 94}, {0xAC, 105}, {0xAE, 106}, {0xFF, 187}, {0, 188},
        {'\n', 198}, {' ', 220}, {0x7F, 221}, {0xA0, 254}, {0xAD, 255}};
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) { ck_assert_int_eq(b->of_byte[known[i][0]], known[i][1]); }
    for (int c = 0; c < 256; c++) {
        int t = b->of_byte[c];
        ck_assert_uint_eq(token_length(b, t), 1);
        ck_assert_int_eq(b->text[b->start[t]], c);
    }
    ck_assert_int_eq(b->merges, 700);
    ck_assert_int_eq(b->eot, 956);
    ck_assert_uint_eq(token_length(b, b->eot), 13);
    ck_assert_int_eq(memcmp(b->text + b->start[b->eot], "<|endoftext|>", 13), 0);
    for (int t = 256; t < b->eot; t++) { // each token is its two parts, and its own bytes lead to it
        int x = b->left[t - 256], y = b->right[t - 256];
        uint16_t out[128];
        ck_assert(x < t && y < t && token_length(b, x) + token_length(b, y) == token_length(b, t));
        ck_assert_int_eq(memcmp(b->text + b->start[t], b->text + b->start[x], token_length(b, x)), 0);
        ck_assert_uint_eq(merge_short(b, b->text + b->start[t], token_length(b, t), out), 1);
        ck_assert_int_eq(out[0], t);
    }
    Bpe* last = vocabulary("\xC5\x83 \xC4\xA0\n"); // the bytes 0xAD and 0x20
    ck_assert_int_eq(last->left[0], 255);
    ck_assert_int_eq(last->right[0], 220);
    PASS();
} END_TEST

static void open_vocab(void) { bpe_open(in_folder("vocab")); }

START_TEST(damaged_vocabularies_are_refused) {
    static const struct { const char *text, *words; } cases[] = {
        {"", "line 1: does not begin with #version"}, {"a b\n", "line 1: does not begin"}, {"#versio", "line 1: does not begin"},
        {"{\"!\": 0, \"\\\"\": 1}", "line 1: does not begin"}, {"#version: 0.2", "line 1: the file is cut off"},
        {"#version\na b\nc d", "line 3: the file is cut off"}, {"#version\na b\nc", "line 3: the file is cut off"},
        {"#version\nab\n", "line 2: not two tokens"}, {"#version\n\n", "line 2: not two tokens"},
        {"#version\na b\na \n", "line 3: not two tokens"}, {"#version\n a b\n", "line 2: a character that stands for no byte"},
        {"#version\na  b\n", "line 2: a char"}, {"#version\na b \n", "line 2: a char"}, {"#version\na b c\n", "line 2: a char"},
        {"#version\r\na b\r\n", "line 2: a char"}, {"#version\na\t b\n", "line 2: a char"},
        {"#version\n\xFF b\n", "line 2: a char"},
        {"#version\n\xC5\x84 b\n", "line 2: a char"}, {"#version\n\xC2\xA0 b\n", "line 2: a char"},
        {"#version\n\xC5 b\n", "line 2: a char"}, {"#version\n\xE2\x82\xAC b\n", "line 2: a char"},
        {"#version\n<p> b\n", "line 2: the lines above do not make both"}, {"#version\nab c\n", "line 2: the lines above do not"},
        {"#version\na b\nab cd\n", "line 3: the lines above do not"},
        {"#version\na b\nc d\nabc d\n", "line 4: the lines above do not"},
        {"#version\nab c\na b\n", "line 2: the lines above do not"}, {"#version\na b\na b\n", "line 3: the lines above make other"},
        {"#version\na b\nb c\nab c\na bc\n", "line 5: the lines above make other"},
        {"#version\nb c\na b\nab c\n", "line 4: the lines above make other"}};
    make_folder();
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        put_file("vocab", cases[i].text, strlen(cases[i].text));
        expect_error(1, open_vocab, cases[i].words);
        ck_assert_msg(strstr(said, "/vocab, line ") != NULL && strstr(said, "vocab.bpe\n") != NULL, "%s", said);
    }
    put_file("vocab", "#version\na\0b c\n", 15);
    expect_error(1, open_vocab, "line 2: a character");
    size_t n; // the fixture, cut anywhere but at the end of a line
    unsigned char* file = read_all(SMALL, &n, "");
    for (size_t k = 0; k < n; k += 1 + draw(200)) {
        if (k > 0 && file[k - 1] == '\n') { continue; }
        put_file("vocab", file, k);
        expect_error(1, open_vocab, k < 8 ? "line 1: does not" : "the file is cut off");
    }
    for (int i = 0; i < 60; i++) { // one byte of it is another: it may be a vocabulary still, but nothing breaks
        size_t at = draw((uint32_t)n);
        unsigned char was = file[at];
        file[at] = (unsigned char)draw(256);
        put_file("vocab", file, n);
        int status = status_of(open_vocab);
        ck_assert_msg(status == 1 || status == 99, "byte %zu, now %d: exit status %d: %s", at, file[at], status, said);
        file[at] = was;
    }
    empty_folder("vocab");
    expect_error(1, open_vocab, "cannot read");
    PASS();
} END_TEST

START_TEST(vocabularies_have_a_largest_size) {
    // all pairs of bytes are 65,536; with 256 bytes and <|endoftext|> only 65,279 of them can be numbered
    make_folder();
    char* text = (char*)grow(NULL, 65280 * 6 + 16, 1);
    size_t n = (size_t)sprintf(text, "#version\n"), before = 0;
    for (int i = 0; i < 65280; i++) {
        before = n;
        for (int part = 0; part < 2; part++) {
            int c = part == 0 ? i / 256 : i % 256;
            if (c <= 32) { c += 256; } else if (c >= 127 && c <= 160) { c += 256 + 33 - 127; } else if (c == 173) { c = 323; }
            if (c < 128) { text[n++] = (char)c; } else { text[n++] = (char)(0xC0 | c >> 6); text[n++] = (char)(0x80 | (c & 63)); }
            text[n++] = part == 0 ? ' ' : '\n';
        }
    }
    put_file("vocab", text, n);
    expect_error(1, open_vocab, "line 65281: this is one merge more");
    put_file("vocab", text, before);
    Bpe* b = bpe_open(in_folder("vocab"));
    ck_assert_int_eq(b->eot, 65535);
    unsigned char all[1000];
    for (int i = 0; i < 1000; i++) { all[i] = (unsigned char)draw(256); }
    size_t m, k;
    uint16_t* tokens = encode(b, all, sizeof(all), LINES, &m);
    unsigned char* back = decode(b, tokens, m, LINES, &k);
    ck_assert(tokens[0] == 65535 && k == sizeof(all) && memcmp(back, all, k) == 0);
    expect_same(b, all, 100);
    empty_folder("vocab");
    PASS();
} END_TEST

// ----------------------------------------------------------------------------
// Texts

START_TEST(agrees_with_the_oracle) {
    size_t n, m, bytes;
    Bpe* b = bpe_open(SMALL);
    unsigned char* text = read_all("test/bpe/torture.txt", &n, ""), *file = read_all("test/bpe/torture.bin", &bytes, "");
    uint16_t* tokens = encode(b, text, n, PLAIN, &m), *want = (uint16_t*)(file + 1024);
    ck_assert_uint_gt(m, 5000);
    for (size_t i = 0; i < m && i < (bytes - 1024) / 2; i++) {
        MUST(tokens[i] == want[i], "token %zu is %d, should be %d", i, tokens[i], want[i]);
    }
    ck_assert_uint_eq(bytes, 1024 + 2 * m);
    PASS();
} END_TEST

START_TEST(documents_are_marked) {
    static const struct { int documents; const char *text, *want; } cases[] = {
        {LINES, "", "#"}, {LINES, "ab", "# a b"}, {LINES, "a\n\nb", "# a ~~ # b"}, {LINES, "a\n\n\nb", "# a ~~ # ~ b"},
        {LINES, "a\n\n\n\nb", "# a ~~ # ~~ # b"}, {LINES, "a\n\n", "# a ~~ #"}, {LINES, "\n\n", "# ~~ #"},
        {LINES, "\na\n", "# ~ a ~"}, {LINES, "a\n \nb", "# a ~ _ ~ b"}, {LINES, "a\n\n b", "# a ~~ # _ b"},
        {LINES, "<|endoftext|>", "# < | e n d o f t e x t | >"}, {LINES, "a  \n\nb", "# a _ _ ~~ # b"},
        {PLAIN, "", ""}, {PLAIN, "a\n\nb", "a ~ ~ b"}, {PLAIN, "a\n\n", "a ~~"},
        {PLAIN, "<|endoftext|>", "< | e n d o f t e x t | >"}, {MARKER, "", ""}, {MARKER, "<|endoftext|>", "#"},
        {MARKER, "a<|endoftext|>b", "a # b"}, {MARKER, "<|endoftext|><|endoftext|>", "# #"}, {MARKER, "<<|endoftext|>>", "< # >"},
        {MARKER, "<|endoftext|", "< | e n d o f t e x t |"}, {MARKER, "\n\n<|endoftext|>b", "~~ # b"}, {MARKER, "\n\n b", "~~ _ b"},
        {MARKER, "\n\nb", "~ ~ b"}, {MARKER, "a <|endoftext|>\n", "a _ # ~"},
        {MARKER, "<|endofte<|endoftext|>", "< | e n d o f t e #"}};
    Bpe* b = vocabulary("\xC4\x8A \xC4\x8A\n"); // two newlines are one token if they are one piece
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const char* s = cases[i].text;
        size_t m, n;
        uint16_t* tokens = encode(b, bytes_of(s), strlen(s), cases[i].documents, &m);
        const char* got = spell(b, tokens, m);
        ck_assert_msg(strcmp(got, cases[i].want) == 0, "%s %s: <%s>", document_names[cases[i].documents], s, got);
        unsigned char* text = decode(b, tokens, m, cases[i].documents, &n);
        ck_assert_msg(n == strlen(s) && memcmp(text, s, n) == 0, "%s comes back as %.*s", s, (int)n, (char*)text);
        free(text);
        free(tokens);
    }
    PASS();
} END_TEST

START_TEST(any_bytes_come_back) {
    static const char* parts[] = {"<|endoftext|>", "\n\n", "  ", " the", "'s", "<|endof", "\xE4\xB8\xAD", "aaaa"};
    unsigned char s[700];
    Bpe* b = bpe_open(SMALL);
    for (int times = 0; times < 3000; times++) {
        size_t n = 0, length = 1 + draw(600), m, k;
        uint32_t odds = draw(4), span = draw(2) ? 256 : 64;
        int documents = times % DOCUMENTS;
        while (n < length) {
            const char* part = parts[draw(8)];
            if (draw(4) >= odds) { s[n++] = (unsigned char)draw(span); continue; }
            memcpy(s + n, part, strlen(part));
            n += strlen(part);
        }
        uint16_t* tokens = encode(b, s, n, documents, &m);
        unsigned char* back = decode(b, tokens, m, documents, &k);
        MUST(k == n && memcmp(back, s, n) == 0, "text %d comes back as another", times);
        int most = documents == PLAIN ? b->eot - 1 : b->eot;
        for (size_t i = 0; i < m; i++) { MUST(tokens[i] <= most, "text %d has token %d", times, tokens[i]); }
        free(back);
        free(tokens);
    }
    PASS();
} END_TEST

// ----------------------------------------------------------------------------
// Files and command line

START_TEST(files_are_those_of_llm_c) {
    size_t n, bytes;
    make_folder();
    unsigned char* text = read_all("test/bpe/torture.txt", &n, ""), *want = read_all("test/bpe/torture.bin", &bytes, "");
    run("encode --vocab " SMALL " --in test/bpe/torture.txt --out /a.bin --documents none");
    expect_file("a.bin", want, bytes);
    ck_assert_ptr_nonnull(strstr(said, "/a.bin: 9136 tokens\n13852 bytes are 9136 tokens of 957, 1.52 bytes a token; "));
    ck_assert_ptr_nonnull(strstr(said, "spells <|endoftext|>"));
    run("decode --vocab " SMALL " --in /a.bin --out /a.txt");
    expect_file("a.txt", text, n);
    ck_assert_ptr_nonnull(strstr(said, "/a.txt: 13852 bytes of 9136 tokens\n"));
    run("encode -v " SMALL " -i test/bpe/torture.txt -o /b.bin -d marker");
    ck_assert_ptr_null(strstr(said, "spells"));
    run("decode -v " SMALL " -i /b.bin -o /b.txt -d marker");
    expect_file("b.txt", text, n);
    run("encode -v " SMALL " -i test/bpe/torture.txt -o /c.bin"); // lines
    run("decode -v " SMALL " -i /c.bin -o /c.txt");
    expect_file("c.txt", text, n);
    unsigned char* c = get_file("c.bin", &bytes);
    ck_assert_int_eq(c[1024] + 256 * c[1025], 956);
    int32_t header[256] = {20240520, 1, (int32_t)(bytes - 1024) / 2};
    ck_assert_int_eq(memcmp(c, header, 1024), 0);
    put_file("empty", "", 0);
    run("encode -v " SMALL " -i /empty -o /d.bin -d none");
    header[2] = 0;
    expect_file("d.bin", header, 1024);
    run("decode -v " SMALL " -i /d.bin -o /d.txt");
    expect_file("d.txt", "", 0);
    empty_folder("a.bin a.txt b.bin b.txt c.bin c.txt d.bin d.txt empty");
    PASS();
} END_TEST

START_TEST(split_takes_the_first_tokens) {
    size_t bytes;
    make_folder();
    unsigned char* all = read_all("test/bpe/torture.bin", &bytes, "");
    run("encode -v " SMALL " -i test/bpe/torture.txt -o /train.bin -d none --split 1000 --val /val.bin");
    ck_assert_ptr_nonnull(strstr(said, "/val.bin: the first 1000 tokens\n"));
    int32_t header[256] = {20240520, 1, 1000};
    memcpy(all, header, 1024);
    expect_file("val.bin", all, 1024 + 2000);
    header[2] = 9136 - 1000;
    memcpy(all + 2000, header, 1024); // over tokens that are in the other file
    expect_file("train.bin", all + 2000, bytes - 2000);
    run("encode -v " SMALL " -i test/bpe/torture.txt -o /train.bin -d none -s 9136 -l /val.bin");
    header[2] = 0;
    expect_file("train.bin", header, 1024);
    empty_folder("train.bin val.bin");
    make_folder();
    expect_refusal(1, "encode -v " SMALL " -i test/bpe/torture.txt -o /train.bin -d none -s 9137 -l /val.bin", "only 9136 tokens");
    empty_folder(""); // nothing was written
    PASS();
} END_TEST

START_TEST(tokenizer_is_that_of_llm_c) {
    size_t n, at = 1024;
    make_folder();
    run("tokenizer --vocab " SMALL " --out /t.bin");
    Bpe* b = bpe_open(SMALL);
    unsigned char* file = get_file("t.bin", &n);
    int32_t header[256] = {20240328, 2, 957, 956};
    ck_assert_int_eq(memcmp(file, header, 1024), 0);
    for (int t = 0; t <= 956; t++) {
        size_t length = file[at++];
        ck_assert_uint_eq(length, token_length(b, t));
        ck_assert_int_eq(memcmp(file + at, b->text + b->start[t], length), 0);
        at += length;
    }
    ck_assert_uint_eq(at, n);
    char vocab[2048], *end = vocab + sprintf(vocab, "#version\n");
    for (int half = 1; half <= 128; half *= 2) { // tokens of 2, 4, ..., 256 letters
        for (int i = 0; i <= 2 * half; i++) { *end++ = i == half ? ' ' : 'a'; }
        *end++ = '\n';
        put_file("vocab", vocab, (size_t)(end - vocab));
        if (half < 128) { run("tokenizer -v /vocab -o /t.bin"); }
    }
    expect_refusal(1, "tokenizer -v /vocab -o /t.bin", "/t.bin: token 263 has 256 bytes");
    empty_folder("t.bin vocab");
    PASS();
} END_TEST

START_TEST(damaged_tokens_are_refused) {
    static const struct { int32_t magic, version, count; size_t bytes; uint16_t second; const char* words; } cases[] = {
        {20240520, 1, 2, 0, 0, "/in: 0 bytes"}, {20240520, 1, 2, 1023, 0, "/in: 1023 bytes"},
        {20240521, 1, 2, 1028, 0, "/in: begins with 20240521, 1"}, {20240801, 7, 2, 1028, 0, "/in: begins with 20240801, 7"},
        {20240520, 2, 2, 1028, 0, "/in: begins with 20240520, 2"}, {20240520, 1, 3, 1028, 0, "of 3 tokens, after it are 4 bytes"},
        {20240520, 1, 1, 1028, 0, "/in: the header tells of 1 tokens"}, {20240520, 1, 2, 1027, 0, "after it are 3 bytes"},
        {20240520, 1, 2, 1029, 0, "after it are 5 bytes"}, {20240520, 1, -1, 1022, 0, "/in: 1022 bytes"},
        {20240520, 1, -2, 1028, 0, "of -2 tokens"}, {20240520, 1, INT32_MAX, 1028, 0, "of 2147483647 tokens"},
        {20240520, 1, INT32_MIN, 1024, 0, "of -2147483648 tokens"},
        {20240520, 1, 2, 1028, 957, "/in, token 1 at byte 1026: 957, and the last of this vocabulary is 956"},
        {20240520, 1, 2, 1028, 65535, "/in, token 1 at byte 1026: 65535"}};
    make_folder();
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int32_t file[258] = {cases[i].magic, cases[i].version, cases[i].count};
        memcpy((char*)file + 1026, &cases[i].second, 2);
        put_file("in", file, cases[i].bytes);
        expect_refusal(1, "decode -v " SMALL " -i /in -o /out", cases[i].words);
    }
    expect_refusal(1, "decode -v " SMALL " -i /none -o /out", "cannot read");
    expect_refusal(1, "encode -v " SMALL " -i /none -o /out", "/none: No such file");
    expect_refusal(1, "encode -v /none -i /in -o /out", "/none: No such file");
    expect_refusal(1, "encode -v " SMALL " -i test/bpe -o /out", "cannot read test/bpe: Is a directory");
    empty_folder("in");
    PASS();
} END_TEST

static void run_filter(void) {
    // standard input and output are files of the folder
    if (freopen(in_folder("in"), "rb", stdin) == NULL || freopen(in_folder("out"), "wb", stdout) == NULL) { _exit(98); }
    run_command();
}

START_TEST(streams_are_read_and_written) {
    size_t n, bytes;
    make_folder();
    unsigned char* text = read_all("test/bpe/torture.txt", &n, ""), *want = read_all("test/bpe/torture.bin", &bytes, "");
    put_file("in", text, n);
    snprintf(command, sizeof(command), "encode -v " SMALL " -i - -o - -d none");
    ck_assert_int_eq(status_of(run_filter), 99);
    expect_file("out", want, bytes);
    ck_assert_ptr_nonnull(strstr(said, "-: 9136 tokens\n")); // on standard error
    put_file("in", want, bytes);
    snprintf(command, sizeof(command), "decode -v " SMALL " -i - -o -");
    ck_assert_int_eq(status_of(run_filter), 99);
    expect_file("out", text, n);
    // a pipe with a name is written to, and stays a pipe
    ck_assert_int_eq(mkfifo(in_folder("pipe"), 0600), 0);
    FILE* reader = fopen(in_folder("pipe"), "r+b");
    struct stat st;
    run("encode -v " SMALL " -i test/bpe/torture.txt -o /pipe -d none");
    ck_assert(stat(in_folder("pipe"), &st) == 0 && S_ISFIFO(st.st_mode));
    unsigned char* got = (unsigned char*)grow(NULL, bytes, 1);
    ck_assert_uint_eq(fread(got, 1, bytes, reader), bytes);
    ck_assert_int_eq(memcmp(got, want, bytes), 0);
    fclose(reader);
    // and read, more than fits into it at once
    pid_t pid = fork();
    if (pid == 0) {
        FILE* writer = fopen(in_folder("pipe"), "wb");
        for (int i = 0; i < 300000; i++) { fputc(i % 251, writer); }
        fclose(writer);
        _exit(0);
    }
    got = read_all(in_folder("pipe"), &n, "");
    waitpid(pid, NULL, 0);
    ck_assert_uint_eq(n, 300000);
    for (size_t i = 0; i < n; i++) { MUST(got[i] == i % 251, "byte %zu is %d", i, got[i]); }
    empty_folder("in out pipe");
    PASS();
} END_TEST

static void write_too_much(void) {
    struct rlimit small = {5000, 5000};
    signal(SIGXFSZ, SIG_IGN); // or the limit would kill
    setrlimit(RLIMIT_FSIZE, &small);
    run_command();
}

START_TEST(failed_writes_leave_nothing) {
    make_folder();
    put_file("out", "old", 3);
    snprintf(command, sizeof(command), "encode -v " SMALL " -i test/bpe/torture.txt -o /out");
    expect_error(1, write_too_much, "cannot write");
    expect_file("out", "old", 3);
    empty_folder("out");
    expect_error(1, run_command, "cannot write"); // no such folder
    make_folder();
    mkdir(in_folder("out"), 0700);
    expect_error(1, run_command, "/out: Is a directory");
    empty_folder("out");
    PASS();
} END_TEST

START_TEST(help_names_every_option) {
    static const char* ways[] = {"--help", "-h", "encode --help", "decode -v x -h", "tokenizer -h"};
    for (int i = 0; i < 5; i++) {
        snprintf(command, sizeof(command), "%s", ways[i]);
        ck_assert_int_eq(status_of(run_command), 0);
        for (int o = 0; o < OPTIONS; o++) {
            ck_assert_ptr_nonnull(strstr(said, options[o].name));
            ck_assert_ptr_nonnull(strstr(said, options[o].help));
        }
    }
    PASS();
} END_TEST

START_TEST(wrong_options_are_refused) {
    static const char* wrong[][2] = {
        {"", "what to do?"}, {"recode", "not recode"}, {"--vocab v", "not --vocab"}, {"e", "not e"}, {"Encode", "not Encode"},
        {"encode --voc v", "unknown option --voc"}, {"encode v", "unknown option v"}, {"encode encode", "unknown option encode"},
        {"encode", "--vocab FILE is missing"}, {"encode -v v -i i", "--out FILE is missing"},
        {"encode -v v -o o", "--in FILE is missing"},
        {"decode -i i -o o", "--vocab FILE is missing"}, {"decode -v v -o o", "--in FILE is missing"},
        {"tokenizer -v v", "--out FILE is missing"}, {"encode -v", "--vocab needs a value: FILE"},
        {"tokenizer -v v -o o -i i", "--in is not for tokenizer"}, {"decode -v v -i i -o o -s 5", "--split is not for decode"},
        {"decode -l v", "--val is not for decode"}, {"tokenizer -d lines", "--documents is not for tokenizer"},
        {"encode -v v -i i -o o -s 5", "--val and --split need"}, {"encode -v v -i i -o o -l l", "--val and --split need"},
        {"encode -v v -i i -o o -l l -s 0", "--split takes whole numbers"}, {"encode -v v -i i -o o -l l -s -1", "not \"-1\""},
        {"encode -v v -i i -o o -l l -s 2147483648", "not \"2147483648\""}, {"encode -v v -i i -o o -l l -s 5x", "not \"5x\""},
        {"encode -v v -i i -o o -l l -s 99999999999999999999999", "--split takes"},
        {"encode -v v -i i -o o -l l -s +5", "--split takes"}, {"encode -v v -i i -o o -d line", "not \"line\""},
        {"decode -v v -i i -o o -d Lines", "not \"Lines\""}, {"encode -v v -i i -o i", "--in and --out name the same file"},
        {"encode -v v -i v -o o", "--vocab and --in name"}, {"encode -v v -i i -o o -l o -s 5", "--out and --val name"},
        {"encode -v v -i i -o o -l i -s 5", "--in and --val name"}, {"tokenizer -v v -o v", "--vocab and --out name"},
        {"encode -v - -i - -o o", "--vocab and --in name"}, {"encode -v v -i i -o - -l - -s 5", "--out and --val name"}};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) { expect_refusal(2, wrong[i][0], wrong[i][1]); }
    PASS();
} END_TEST

// ----------------------------------------------------------------------------

int main(void) {
    suite_draw_code();
    Suite* s = suite_create("tokenize");
    TCase* tc = tcase_create("tokenize");
    tcase_set_timeout(tc, 60);
    suite_add_tcase(s, tc);
    tcase_add_exit_test(tc, kinds_of_characters, pass_code);
    tcase_add_exit_test(tc, only_well_formed_utf8_is_read, pass_code);
    tcase_add_exit_test(tc, pieces_of_words_and_numbers, pass_code);
    tcase_add_exit_test(tc, pieces_of_contractions, pass_code);
    tcase_add_exit_test(tc, pieces_of_blanks, pass_code);
    tcase_add_exit_test(tc, pieces_of_other_scripts, pass_code);
    tcase_add_exit_test(tc, pieces_of_what_is_no_utf8, pass_code);
    tcase_add_exit_test(tc, merges_by_hand, pass_code);
    tcase_add_exit_test(tc, three_ways_to_merge, pass_code);
    tcase_add_exit_test(tc, long_pieces_take_linear_time, pass_code);
    tcase_add_exit_test(tc, too_much_is_refused, pass_code);
    tcase_add_exit_test(tc, bytes_have_their_places, pass_code);
    tcase_add_exit_test(tc, damaged_vocabularies_are_refused, pass_code);
    tcase_add_exit_test(tc, vocabularies_have_a_largest_size, pass_code);
    tcase_add_exit_test(tc, agrees_with_the_oracle, pass_code);
    tcase_add_exit_test(tc, documents_are_marked, pass_code);
    tcase_add_exit_test(tc, any_bytes_come_back, pass_code);
    tcase_add_exit_test(tc, files_are_those_of_llm_c, pass_code);
    tcase_add_exit_test(tc, split_takes_the_first_tokens, pass_code);
    tcase_add_exit_test(tc, tokenizer_is_that_of_llm_c, pass_code);
    tcase_add_exit_test(tc, damaged_tokens_are_refused, pass_code);
    tcase_add_exit_test(tc, streams_are_read_and_written, pass_code);
    tcase_add_exit_test(tc, failed_writes_leave_nothing, pass_code);
    tcase_add_exit_test(tc, help_names_every_option, pass_code);
    tcase_add_exit_test(tc, wrong_options_are_refused, pass_code);

    int run, failed = suite_run(s, &run);
    return suite_end(failed, run);
}
