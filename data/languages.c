/*
Writes the default data set: text in six little languages, mixed line by line, together with the truth about every byte.

  sums    37+26=63                       two numbers from 10 to 49 and their sum
  days    Tue+4=Sat                      weekday arithmetic
  nest    ([]{()})                       brackets that match: three kinds, at most 6 deep
  code    let a=4;let c=7;say c->7       two or three variables, and the value of one of them
  prose   the two old cats see a bird.   noun and verb agree in number
  echo    >bacd|dcab                     four to eight letters, then the same letters backwards

They share letters and digits, so one byte seldom tells the language, but the first byte of a line always does. What no
natural text offers is known here for each byte:

  domain  the language of its line
  kind    free: chosen by a draw; form: fixed by its place in the line; answer: fixed too, but only for who works it out
  p       its exact probability, given the line so far

-log2 p averaged over a stretch is its FLOOR in bits per byte: the expected loss of a reader who knows all the rules.
No model gets below it, but for luck that shrinks as the text grows: one that does has seen the future or this text.
With equal weights it is, over an endless text: sums 1.4699, days 0.7977, nest 1.6159, code 0.6582, prose 0.4649,
echo 1.3611; all together 0.8796, of which the choice of the language is log2(6) bits a line.
Lines are drawn one by one and know nothing of each other. There is no truth about how many experts a byte should use.

How p is known. Each language is a short program that spells a line from left to right. next_byte() runs it over the
line so far: the choices made there are read back, and the first one still open gives the weight of every possible next
byte. The writer draws one by these weights. All draws are of whole numbers: a seed gives the same bytes everywhere.

Build: gcc -O3 data/languages.c -o data/languages -lm
Run:   data/languages                       (what to train on: 2 MiB of seed 1 in data/languages_train.txt)
       data/languages --seed 2 --bytes 131072 --out data/languages_val.txt --truth data/languages_val.truth
*/
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FREE, FORM, ANSWER, KINDS };
enum { DOMAINS = 6 };
static const char* domain_names[DOMAINS] = {"sums", "days", "nest", "code", "prose", "echo"};

__attribute__((noreturn, format(printf, 3, 4))) static void die(int status, const char* hint, const char* fmt, ...) {
    // status: 2 if the command line is wrong, 1 for the rest
    va_list args;
    va_start(args, fmt);
    fprintf(stderr, "error: ");
    vfprintf(stderr, fmt, args);
    fprintf(stderr, "\n---> HINT: %s\n", hint);
    va_end(args);
    exit(status);
}

// ----------------------------------------------------------------------------
// Three ways to spell. Each reads its part of the line if it is there, and settles the next byte if it is not.

typedef struct {
    const char* line; // (n) the line so far
    int n;
    int at;           // how much of the line has been read back
    int settled;      // the next byte is known: the rest of the program has nothing to say
    int kind;         // of the next byte
    int w[256];       // byte b comes next with probability w[b] / total ...
    int total;        // ... which is 0 if the line so far is none of this language
    int alternatives; // how many bytes have a weight
} Next;

static void may_follow(Next* x, char b, int weight) {
    int* w = &x->w[(unsigned char)b];
    x->alternatives += *w == 0 && weight > 0;
    x->total += weight;
    *w += weight;
}

static void settle(Next* x, int kind) {
    x->kind = x->alternatives > 1 ? FREE : kind;
    x->settled = 1;
}

static void fixed(Next* x, const char* text, int kind) {
    // these bytes and no others
    for (; *text != '\0' && !x->settled; text++) {
        if (x->at < x->n && x->line[x->at] == *text) { x->at++; continue; }
        if (x->at == x->n) { may_follow(x, *text, 1); }
        settle(x, kind);
    }
}

static int letter(Next* x, const char* alts, const int* weights) {
    // one of the bytes of alts, drawn by weights (NULL: all alike); returns which, 0 while that is open
    if (x->settled) { return 0; }
    if (x->at < x->n) {
        const char* found = strchr(alts, x->line[x->at++]);
        if (found != NULL && *found != '\0') { return (int)(found - alts); }
    } else {
        for (int i = 0; alts[i] != '\0'; i++) { may_follow(x, alts[i], weights == NULL ? 1 : weights[i]); }
    }
    settle(x, FORM);
    return 0;
}

static int word(Next* x, const char* alts) {
    // one of the words of "cat|dog|bird", all alike (list a word twice to double its chance); none begins another
    // Returns which, 0 while that is open. Inside a word, each byte weighs as many words as still go on with it.
    if (x->settled) { return 0; }
    int left = x->n - x->at;
    for (int i = 0; ; i++) {
        int length = (int)strcspn(alts, "|"), seen = length < left ? length : left;
        if (memcmp(alts, x->line + x->at, (size_t)seen) == 0) {
            if (seen == length) { x->at += length; return i; }
            may_follow(x, alts[seen], 1);
        }
        if (alts[length] == '\0') { break; }
        alts += length + 1;
    }
    settle(x, FORM);
    return 0;
}

// ----------------------------------------------------------------------------
// The six languages

static void sums(Next* x) {
    char sum[16];
    int a = 10 * (1 + letter(x, "1234", NULL));
    a += letter(x, "0123456789", NULL);
    fixed(x, "+", FORM);
    int b = 10 * (1 + letter(x, "1234", NULL));
    b += letter(x, "0123456789", NULL);
    fixed(x, "=", FORM);
    snprintf(sum, sizeof(sum), "%d", a + b);
    fixed(x, sum, ANSWER);
    fixed(x, "\n", FORM);
}

static void days(Next* x) {
    static const char* names[7] = {"Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"};
    int day = word(x, "Mon|Tue|Wed|Thu|Fri|Sat|Sun");
    fixed(x, "+", FORM);
    int later = 1 + letter(x, "123456", NULL);
    fixed(x, "=", FORM);
    fixed(x, names[(day + later) % 7], ANSWER);
    fixed(x, "\n", FORM);
}

static void nest(Next* x) {
    // close with probability 27/60 = 0.45, else open one of three; from 6 deep or 25 long only the way back is left
    static const int weights[4] = {11, 11, 11, 27};
    char alts[5] = "([{", must_close[7] = ""; // must_close is a stack of closing brackets
    int depth = 0;
    for (int length = 0; !x->settled && (length == 0 || depth > 0); length++) {
        int way_back = depth == 6 || length >= 25, which = 3;
        alts[3] = depth > 0 ? must_close[depth - 1] : '\0';
        if (way_back) { fixed(x, alts + 3, ANSWER); } else { which = letter(x, alts, weights); }
        if (which < 3) { must_close[depth++] = ")]}"[which]; } else { depth--; }
    }
    fixed(x, "\n", ANSWER); // the place does not tell it: one has to know that no bracket is open
}

static void code(Next* x) {
    char names[7] = "abcdef", value[2] = "", used[4] = "", values[4] = "";
    for (int lets = 0; lets < 3; lets++) {
        if (lets == 2 && letter(x, "ls", NULL) == 1) { break; } // after two, the third or "say": one byte tells
        fixed(x, lets == 2 ? "et " : "let ", FORM);
        char* name = names + letter(x, names, NULL);
        used[lets] = *name;
        memmove(name, name + 1, strlen(name)); // each name once
        fixed(x, "=", FORM);
        values[lets] = "0123456789"[letter(x, "0123456789", NULL)];
        fixed(x, ";", FORM);
    }
    fixed(x, strlen(used) == 2 ? "ay " : "say ", FORM);
    value[0] = values[letter(x, used, NULL)];
    fixed(x, "->", FORM);
    fixed(x, value, ANSWER);
    fixed(x, "\n", FORM);
}

static void prose(Next* x) {
    const char* nouns = "cat|dog|bird|king|robot|fish";
    int many = word(x, "the one |the two |every |every ") == 1;
    word(x, "old |small |red |quiet |happy ");
    int fish = word(x, nouns) == 5;
    if (many) { fixed(x, fish ? "es" : "s", ANSWER); fixed(x, " ", FORM); } else { fixed(x, " ", ANSWER); }
    word(x, "chase|see|like|find|follow");
    if (many) { fixed(x, " ", ANSWER); } else { fixed(x, "s", ANSWER); fixed(x, " ", FORM); }
    word(x, "the |a |every ");
    word(x, nouns);
    fixed(x, ".\n", FORM);
}

static void echo(Next* x) {
    char back[9] = "";
    int n = 0, weights[7];
    for (fixed(x, ">", FORM); n < 8 && !x->settled; n++) {
        // the bar ends the letters so that each length from 4 to 8 is as likely as the others: 1 / (9 - n) for now
        for (int i = 0; i < 6; i++) { weights[i] = n < 4 ? 1 : 8 - n; }
        weights[6] = n < 4 ? 0 : 6;
        int which = letter(x, n < 4 ? "abcdef" : "abcdef|", weights);
        if (which == 6) { break; }
        back[7 - n] = "abcdef"[which];
    }
    if (n == 8) { fixed(x, "|", FORM); }
    fixed(x, back + 8 - n, ANSWER);
    fixed(x, "\n", ANSWER);
}

static void next_byte(Next* x, int domain, const char* line, int n) {
    // out: the weight of every byte that may follow line (n) in this language, and its kind; the newline is the last
    static void (*const languages[DOMAINS])(Next*) = {sums, days, nest, code, prose, echo};
    memset(x, 0, sizeof(*x));
    x->line = line;
    x->n = n;
    languages[domain](x);
}

// ----------------------------------------------------------------------------
// The writer

typedef struct {
    size_t bytes;
    double* p;     // (bytes), and the others follow in the same memory, as they do in the file
    unsigned char* text, *domain, *kind; // (bytes) each
} Corpus;

static uint32_t draw(uint64_t* state, uint32_t n) {
    // a whole number below n, each exactly as likely: xorshift64*, and numbers of the last, broken round are thrown away
    uint32_t r, rounds = UINT32_MAX / n * n;
    do {
        *state ^= *state >> 12;
        *state ^= *state << 25;
        *state ^= *state >> 27;
        r = (uint32_t)(*state * 0x2545F4914F6CDD1DULL >> 32);
    } while (r >= rounds);
    return r % n;
}

static int draw_by_weight(uint64_t* state, const int* weights, int total) {
    int i = 0;
    for (int r = (int)draw(state, (uint32_t)total); r >= weights[i]; i++) { r -= weights[i]; }
    return i;
}

static Corpus generate(size_t bytes, uint64_t seed, const int* weights) {
    // weights (DOMAINS): a line is of language d with probability weights[d] / their sum; free(.p) when done
    Corpus c = {bytes, (double*)malloc(bytes * (sizeof(double) + 3)), NULL, NULL, NULL};
    if (c.p == NULL) { die(1, "ask for fewer --bytes", "out of memory"); }
    c.text = (unsigned char*)(c.p + bytes);
    c.domain = c.text + bytes;
    c.kind = c.domain + bytes;
    uint64_t state = (seed + 0x9E3779B97F4A7C15ULL) * 0xBF58476D1CE4E5B9ULL; // close seeds, distant states
    state ^= state >> 31;
    if (state == 0) { state = 1; } // the one state that xorshift never leaves
    int sum = 0, domain = 0;
    for (int d = 0; d < DOMAINS; d++) { sum += weights[d]; }
    size_t start = 0;
    for (size_t i = 0; i < bytes; i++) {
        if (i == 0 || c.text[i - 1] == '\n') { start = i; domain = draw_by_weight(&state, weights, sum); }
        Next x;
        next_byte(&x, domain, (const char*)c.text + start, (int)(i - start));
        int b = draw_by_weight(&state, x.w, x.total);
        double ways = x.w[b], of = x.total;
        if (i == start) { ways *= weights[domain]; of *= sum; } // the first byte tells the language too
        c.text[i] = (unsigned char)b;
        c.domain[i] = (unsigned char)domain;
        c.p[i] = ways / of; // one division of whole numbers: the closest double there is
        c.kind[i] = (unsigned char)(ways < of ? FREE : x.kind);
    }
    return c;
}

static void print_summary(const Corpus* c) {
    printf("language     bytes   share   floor    free   form  answer   (floor in bits per byte)\n");
    for (int d = 0; d <= DOMAINS; d++) { // the last row: all languages
        size_t n = 0, kinds[KINDS] = {0, 0, 0};
        double bits = 0.0;
        for (size_t i = 0; i < c->bytes; i++) {
            if (d < DOMAINS && c->domain[i] != d) { continue; }
            n++;
            kinds[c->kind[i]]++;
            bits -= log2(c->p[i]);
        }
        if (n == 0) { continue; }
        double percent = 100.0 / (double)n;
        printf("%-7s %10zu  %5.1f%%  %6.4f  %5.1f%% %5.1f%%  %5.1f%%\n", d < DOMAINS ? domain_names[d] : "all", n,
               100.0 * (double)n / (double)c->bytes, bits / (double)n, percent * (double)kinds[FREE],
               percent * (double)kinds[FORM], percent * (double)kinds[ANSWER]);
    }
}

// ----------------------------------------------------------------------------
// Files

typedef struct { const void* data; size_t bytes; } Part;

static void write_file(const char* path, const Part* parts, int n) {
    // all parts or no file: written under another name, brought to the disk, then renamed
    char* temp = (char*)malloc(strlen(path) + 5);
    if (temp == NULL) { die(1, "free some memory", "out of memory"); }
    sprintf(temp, "%s.tmp", path);
    FILE* f = fopen(temp, "wb");
    if (f == NULL) { die(1, "does the folder exist, and may you write there?", "cannot write %s: %s", temp, strerror(errno)); }
    int ok = 1;
    for (int i = 0; i < n && ok; i++) { ok = fwrite(parts[i].data, 1, parts[i].bytes, f) == parts[i].bytes; }
    ok = ok && fflush(f) == 0 && fsync(fileno(f)) == 0;
    int why = errno;
    if (fclose(f) != 0 && ok) { ok = 0; why = errno; }
    if (ok && rename(temp, path) != 0) { ok = 0; why = errno; }
    if (!ok) {
        remove(temp);
        die(1, "is the disk full, or is this a folder?", "cannot write %s: %s", path, strerror(why));
    }
    free(temp);
}

static void write_truth(const char* path, const Corpus* c, uint64_t seed) {
    // safetensors: the header's length, the header, the data; p comes first so that it is aligned
    char header[1024], length[8] = ""; // length is little-endian
    size_t b = c->bytes;
    int n = snprintf(header, sizeof(header),
        "{\"__metadata__\":{\"format\":\"dynmoe-truth 1\",\"domains\":\"sums,days,nest,code,prose,echo\","
        "\"kinds\":\"free,form,answer\",\"seed\":\"%llu\",\"bytes\":\"%zu\"},"
        "\"p\":{\"dtype\":\"F64\",\"shape\":[%zu],\"data_offsets\":[0,%zu]},"
        "\"text\":{\"dtype\":\"U8\",\"shape\":[%zu],\"data_offsets\":[%zu,%zu]},"
        "\"domain\":{\"dtype\":\"U8\",\"shape\":[%zu],\"data_offsets\":[%zu,%zu]},"
        "\"kind\":{\"dtype\":\"U8\",\"shape\":[%zu],\"data_offsets\":[%zu,%zu]}}",
        (unsigned long long)seed, b, b, 8 * b, b, 8 * b, 9 * b, b, 9 * b, 10 * b, b, 10 * b, 11 * b);
    while (n % 8 != 0) { header[n++] = ' '; }
    length[0] = (char)(n & 255);
    length[1] = (char)(n >> 8);
    Part parts[3] = {{length, 8}, {header, (size_t)n}, {c->p, 11 * b}};
    write_file(path, parts, 3);
}

// ----------------------------------------------------------------------------
// Command line

typedef struct {
    size_t bytes;
    uint64_t seed;
    int weights[DOMAINS];
    const char *out, *truth; // truth: NULL for none
} Config;

typedef struct { const char *name, *twin, *arg, *help; } Option;
static const Option options[] = {
    {"--bytes",   "-b", "N",           "how much to write, 1 to 1073741824; the last line is cut there (2097152)"},
    {"--seed",    "-s", "N",           "another seed, another text (1)"},
    {"--weights", "-w", "a,b,c,d,e,f", "lines of sums, days, nest, code, prose, echo: 0 to 1000000 parts (1,1,1,1,1,1)"},
    {"--out",     "-o", "FILE",        "where the text goes (data/languages_train.txt)"},
    {"--truth",   "-t", "FILE",        "where domain, kind and p of every byte go, a safetensors file (nowhere)"},
    {"--help",    "-h", "",            "this list"},
};
enum { OPTIONS = sizeof(options) / sizeof(options[0]) };
static const char* see_help = "data/languages --help lists the options";

static uint64_t whole_number(const char* name, const char* text, uint64_t low, uint64_t high) {
    char* end = NULL;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end != '\0' || errno != 0 || v < low || v > high) {
        die(2, see_help, "%s takes whole numbers from %llu to %llu, not \"%s\"", name, (unsigned long long)low,
            (unsigned long long)high, text);
    }
    return v;
}

static void parse_weights(int* w, const char* text) {
    int end = 0, sum = 0, n = sscanf(text, "%7d,%7d,%7d,%7d,%7d,%7d%n", w, w + 1, w + 2, w + 3, w + 4, w + 5, &end);
    if (n != DOMAINS || text[end] != '\0') { die(2, see_help, "--weights takes six whole numbers, as in 1,1,1,1,1,1"); }
    for (int d = 0; d < DOMAINS; d++) {
        if (w[d] < 0 || w[d] > 1000000) { die(2, see_help, "--weights must lie between 0 and 1000000, not %d", w[d]); }
        sum += w[d];
    }
    if (sum == 0) { die(2, see_help, "--weights: one of the six must be above 0"); }
}

static Config parse_options(int argc, char** argv) {
    Config c = {2097152, 1, {1, 1, 1, 1, 1, 1}, "data/languages_train.txt", NULL};
    for (int i = 1; i < argc; i++) {
        int o = 0;
        while (o < OPTIONS && strcmp(argv[i], options[o].name) != 0 && strcmp(argv[i], options[o].twin) != 0) { o++; }
        if (o == OPTIONS) { die(2, see_help, "unknown option %s", argv[i]); }
        const char* name = options[o].name;
        if (*options[o].arg != '\0' && ++i == argc) { die(2, see_help, "%s needs a value: %s", name, options[o].arg); }
        switch (options[o].twin[1]) {
            case 'b': c.bytes = (size_t)whole_number(name, argv[i], 1, 1 << 30); break;
            case 's': c.seed = whole_number(name, argv[i], 0, UINT64_MAX); break;
            case 'w': parse_weights(c.weights, argv[i]); break;
            case 'o': c.out = argv[i]; break;
            case 't': c.truth = argv[i]; break;
            default:
                printf("data/languages: text in six little languages, and the truth about every byte\n");
                for (o = 0; o < OPTIONS; o++) {
                    printf("  %-9s %s %-12s %s\n", options[o].name, options[o].twin, options[o].arg, options[o].help);
                }
                exit(0);
        }
    }
    if (c.truth != NULL && strcmp(c.out, c.truth) == 0) { die(2, see_help, "--out and --truth name the same file"); }
    return c;
}

#ifndef TESTING
int main(int argc, char** argv) {
    Config config = parse_options(argc, argv);
    Corpus c = generate(config.bytes, config.seed, config.weights);
    Part text = {c.text, c.bytes};
    write_file(config.out, &text, 1);
    printf("%s: %zu bytes, seed %llu\n", config.out, c.bytes, (unsigned long long)config.seed);
    if (config.truth != NULL) {
        write_truth(config.truth, &c, config.seed);
        printf("%s: domain, kind and probability of each\n", config.truth);
    }
    print_summary(&c);
    free(c.p);
    if (ferror(stdout) || fflush(stdout) != 0) { die(1, "is the disk full?", "cannot print the summary"); }
    return 0;
}
#endif
