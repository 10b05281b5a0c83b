/*
Text to the tokens of GPT-2 and back: byte pair encoding from vocab.bpe alone, the file that OpenAI published.

The text is cut into PIECES: a word with the blank before it, a number, some punctuation, a run of blanks. Each begins as
one token per byte. As long as two neighbours are a line of vocab.bpe, the two of the earliest such line become one token.
That line's number is the RANK of the merge, and the token it makes is 256 + rank. Tokens 0 to 255 are the bytes, in an
order of their own. The last token, after all merges, is <|endoftext|> (50256). No text makes it: it marks documents.

The pieces are those of GPT-2's pattern, where p{L} are Unicode's letters, p{N} its numbers, s its blanks:
  's|'t|'re|'ve|'m|'ll|'d| ?p{L}+| ?p{N}+| ?[^s p{L} p{N}]+|s+(?!S)|s+
Any bytes will do: what is not UTF-8 counts as punctuation, byte by byte. Decoding gives back exactly what was encoded.

Caveats: the whole text is in memory; the machine must be little-endian like the files. Letters are those of the Unicode
version named at the table, so other programs may cut differently beside characters that are new. llm.c's script also makes
a token of <|endoftext|> that the text spells; here that is --documents marker, as decoding could not tell the two apart.

Build: gcc -O3 data/tokenize.c -o data/tokenize
Run:   data/tokenize encode --vocab vocab.bpe --in TEXT --out FILE.bin        (FILE.bin is what llm.c trains on)
       data/tokenize encode --vocab vocab.bpe --in tinyshakespeare.txt --out train.bin --split 32768 --val val.bin
       data/tokenize decode --vocab vocab.bpe --in FILE.bin --out TEXT
       data/tokenize tokenizer --vocab vocab.bpe --out gpt2_tokenizer.bin     (what llm.c decodes with)
*/
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

__attribute__((noreturn, format(printf, 3, 4))) static void die(int status, const char* hint, const char* fmt, ...) {
    // status: 2 if the command line is wrong, 1 for the rest
    va_list args;
    char line[2048]; // no control characters to the terminal
    va_start(args, fmt);
    vsnprintf(line, sizeof(line), fmt, args);
    va_end(args);
    for (char* p = line; *p; p++) { if ((unsigned char)*p < 32 || *p == 127) { *p = '?'; } }
    fprintf(stderr, "error: %s\n---> HINT: %s\n", line, hint);
    exit(status);
}

static void* grow(void* memory, size_t n, size_t size) {
    // room for n things of that size, what is there is kept; NULL: new memory
    void* p = n > SIZE_MAX / size ? NULL : realloc(memory, n * size > 0 ? n * size : 1);
    if (p == NULL) { die(1, "split the text into smaller files", "out of memory: %zu times %zu bytes", n, size); }
    return p;
}

// ----------------------------------------------------------------------------
// Files: all or nothing. The name - is standard input or output.

typedef struct { const void* data; size_t bytes; } Part;

static int is_stream(const char* path) { return strcmp(path, "-") == 0; }

static void write_file(const char* path, const Part* parts, int n) {
    // all parts or no file: written under another name, brought to the disk, then renamed. A pipe or a device must not be
    // renamed over: it is written to as it stands
    struct stat st;
    int direct = is_stream(path) || (stat(path, &st) == 0 && !S_ISREG(st.st_mode));
    char* temp = (char*)grow(NULL, strlen(path) + 5, 1);
    sprintf(temp, "%s%s", path, direct ? "" : ".tmp");
    FILE* f = is_stream(path) ? stdout : fopen(temp, "wb");
    if (f == NULL) { die(1, "is there such a folder, and may you write there?", "cannot write %s: %s", temp, strerror(errno)); }
    int ok = 1;
    for (int i = 0; i < n && ok; i++) { ok = fwrite(parts[i].data, 1, parts[i].bytes, f) == parts[i].bytes; }
    ok = ok && fflush(f) == 0 && (direct || fsync(fileno(f)) == 0);
    int why = errno;
    if (f != stdout && fclose(f) != 0 && ok) { ok = 0; why = errno; }
    if (ok && !direct && rename(temp, path) != 0) { ok = 0; why = errno; }
    if (!ok) {
        if (!direct) { remove(temp); }
        die(1, "is the disk full?", "cannot write %s: %s", path, strerror(why));
    }
    free(temp);
}

static unsigned char* read_all(const char* path, size_t* n, const char* hint) {
    // returns the bytes (n) of a file of any kind; free() when done
    FILE* f = is_stream(path) ? stdin : fopen(path, "rb");
    if (f == NULL) { die(1, hint, "cannot read %s: %s", path, strerror(errno)); }
    struct stat st;
    size_t room = fstat(fileno(f), &st) == 0 && S_ISREG(st.st_mode) ? (size_t)st.st_size + 1 : 65536, got;
    unsigned char* data = (unsigned char*)grow(NULL, room, 1);
    for (*n = 0; (got = fread(data + *n, 1, room - *n, f)) > 0;) {
        *n += got;
        if (*n == room) { data = (unsigned char*)grow(data, room *= 2, 1); }
    }
    if (ferror(f)) { die(1, hint, "cannot read %s: %s", path, strerror(errno)); }
    if (f != stdin) { fclose(f); }
    return data;
}

// ----------------------------------------------------------------------------
// Pieces: GPT-2's pattern by hand

// Runs of code points from 0 on: so many are none, so many are, so many are none, ...
// BEGIN unicode_ranges.py (Unicode 15.1.0)
static const uint16_t letters[] = { // 136726 code points in 660 runs
    65,26,6,26,47,1,10,1,4,1,5,23,1,31,1,458,4,12,14,5,7,1,1,1,129,5,1,2,2,4,1,1,6,1,1,3,1,1,1,20,1,83,1,139,8,166,1,38,2,1,6,41,71,
    27,4,4,45,43,35,2,1,99,1,1,15,2,7,2,10,3,2,1,16,1,1,30,29,89,11,1,24,33,9,2,4,1,5,22,4,1,9,1,3,1,23,25,7,11,5,24,1,6,17,42,58,
    54,3,1,18,1,7,10,15,16,4,8,2,2,2,22,1,7,1,1,3,4,3,1,16,1,13,2,1,3,14,2,10,1,8,6,4,2,2,22,1,7,1,2,1,2,1,2,31,4,1,1,19,3,16,9,1,3,
    1,22,1,7,1,2,1,5,3,1,18,1,15,2,23,1,11,8,2,2,2,22,1,7,1,2,1,5,3,1,30,2,1,3,15,1,17,1,1,6,3,3,1,4,3,2,1,1,1,2,3,2,3,3,3,12,22,1,
    52,8,1,3,1,23,1,16,3,1,26,3,2,1,2,2,30,1,4,8,1,3,1,23,1,10,1,5,3,1,31,2,1,2,15,2,17,9,1,3,1,41,2,1,16,1,5,3,8,3,24,6,5,18,3,24,
    1,9,1,1,2,7,58,48,1,2,12,7,58,2,1,1,1,5,1,24,1,1,1,10,1,2,9,1,2,5,1,1,21,4,32,1,63,8,1,36,27,5,115,43,20,1,16,6,4,4,3,1,3,2,7,3,
    4,13,12,1,17,38,1,1,5,1,2,43,1,333,1,4,2,7,1,1,1,4,2,41,1,4,2,33,1,4,2,7,1,1,1,4,2,15,1,57,1,4,2,67,37,16,16,86,2,6,3,620,2,17,
    1,26,5,75,6,8,7,18,13,19,14,18,14,13,1,3,15,52,35,1,4,1,67,89,7,5,2,34,1,1,5,70,10,31,49,30,2,5,11,44,4,26,54,23,9,53,82,1,93,
    47,17,8,54,30,13,2,10,44,26,36,41,3,10,36,2,9,7,43,2,3,41,4,1,6,1,2,3,1,5,192,64,278,2,6,2,38,2,6,2,8,1,1,1,1,1,1,1,31,2,53,1,7,
    1,1,3,3,1,7,3,4,2,6,4,13,5,3,1,7,116,1,13,1,16,13,101,1,4,1,2,10,1,1,3,5,6,1,1,1,1,1,1,4,1,11,2,4,5,5,4,1,52,2,2683,229,6,4,3,2,
    12,38,1,1,5,1,2,56,7,1,16,23,9,7,1,7,1,7,1,7,1,7,1,7,1,7,1,7,80,1,469,2,42,5,5,2,4,86,6,3,1,90,1,4,5,43,1,94,17,32,48,16,512,
    6592,64,22157,67,46,2,269,3,16,10,2,20,47,16,31,2,70,49,9,2,103,2,64,5,2,1,1,1,5,24,16,1,3,1,4,1,23,29,52,14,50,62,6,3,1,1,2,11,
    28,10,23,25,29,7,47,28,1,16,5,1,10,10,5,1,41,23,3,1,8,20,23,3,1,3,50,1,1,3,2,2,5,2,1,1,1,24,3,2,11,7,3,12,6,2,6,2,6,9,7,1,7,1,
    43,1,14,6,115,29,11172,12,23,4,49,8452,366,2,106,38,7,12,5,5,1,1,10,1,13,1,5,1,1,1,2,1,2,1,108,33,363,18,64,2,54,40,12,116,5,1,
    135,36,26,6,26,11,89,3,6,2,6,2,6,2,3,35,12,1,26,1,19,1,2,1,15,2,14,34,123,389,29,3,49,47,32,13,20,1,8,6,38,10,30,2,36,4,8,48,
    158,18,36,4,36,4,40,8,52,12,11,1,15,1,7,1,2,1,11,1,15,1,7,1,2,67,311,9,22,10,8,24,6,1,42,1,9,69,6,2,1,1,44,1,2,3,1,2,23,10,23,9,
    31,65,19,1,2,10,22,10,26,70,56,6,2,64,1,15,4,1,3,1,29,42,29,3,29,35,8,1,28,27,54,10,22,10,19,13,18,110,73,55,51,13,51,13,36,348,
    42,6,2,78,29,10,1,8,22,42,18,46,21,27,23,12,53,57,2,2,1,13,45,32,25,26,36,29,1,2,1,8,35,3,1,12,48,14,4,21,1,1,1,35,18,1,25,19,2,
    63,7,1,1,1,4,1,15,1,10,7,47,38,8,2,2,2,22,1,7,1,2,1,5,3,1,18,1,12,5,158,53,18,4,20,3,30,48,20,2,1,1,184,47,41,4,36,48,20,1,59,
    43,13,1,71,27,37,7,185,44,116,64,31,8,2,1,2,8,1,2,1,24,15,1,1,1,94,8,2,39,16,1,1,1,28,1,10,40,7,1,21,1,11,46,19,1,18,73,263,9,1,
    37,17,1,49,30,112,7,1,2,1,38,21,1,25,6,1,2,1,32,14,1,327,19,15,1,1,13,1,34,124,1,79,922,230,196,2636,97,15,1072,17,6,4025,583,
    8633,569,7,31,17,79,17,30,18,48,16,4,31,21,5,19,688,64,128,75,5,1,66,13,64,2,1,1,28,6136,8,1238,42,9,8935,4,1,7,1,2,1,291,15,1,
    29,3,2,1,14,4,8,396,2308,107,5,13,3,9,7,10,5990,85,1,71,1,2,2,1,2,2,2,4,1,12,1,1,1,7,1,65,1,4,2,8,1,7,1,28,1,4,1,5,1,1,3,7,1,
    340,2,25,1,25,1,31,1,25,1,31,1,25,1,31,1,25,1,31,1,25,1,8,1844,31,6,6,261,62,146,45,10,7,16,1,321,30,18,44,484,28,756,7,1,4,1,2,
    1,15,1,197,59,68,7,1,1204,4,1,27,1,2,1,1,2,1,1,10,1,4,1,1,1,1,6,1,4,1,1,1,1,1,1,3,1,2,1,1,2,1,1,1,1,1,1,1,1,1,1,2,1,1,2,4,1,7,1,
    4,1,4,1,1,1,10,1,17,5,3,1,5,1,17,4420,42720,32,4154,6,222,2,5762,14,7473,15,622,2466,542,1506,4939,5,4192};
static const uint16_t numbers[] = { // 1831 code points in 137 runs
    48,10,120,2,5,1,2,3,1441,10,134,10,198,10,412,10,118,10,4,6,108,10,118,10,118,10,2,6,110,13,115,10,8,7,103,10,104,7,7,19,109,10,
    96,10,118,10,70,20,268,10,70,10,719,20,881,3,239,10,6,10,22,10,300,10,128,11,165,10,6,10,182,10,86,10,134,10,6,10,1046,1,3,6,6,
    10,198,51,2,5,726,60,78,22,630,30,1385,1,777,1,25,9,14,3,343,4,138,10,30,8,1,15,32,10,39,15,29536,10,188,10,320,6,154,10,38,10,
    198,10,22,10,86,10,406,10,21270,10,493,45,12,57,17,2,341,27,36,4,29,1,8,1,134,5,202,10,942,8,25,7,39,9,75,5,22,6,160,2,2,16,2,
    46,64,9,52,2,30,3,75,5,104,8,24,8,41,7,330,6,48,10,294,31,158,10,42,4,112,7,134,30,128,10,60,10,144,10,7,20,251,10,342,10,118,
    10,374,10,102,10,102,12,420,19,93,10,758,29,227,10,70,10,422,10,102,21,1067,111,17905,10,86,10,134,10,1,7,798,23,25641,20,12,20,
    108,25,1109,50,2368,10,422,10,502,10,973,9,128,10,791,59,1,3,1,4,76,45,1,15,962,13,2787,10};
static const uint16_t blanks[] = { // 25 code points in 10 runs
    9,5,18,1,100,1,26,1,5599,1,2431,11,29,2,5,1,47,1,4000,1};
// END unicode_ranges.py

enum { OTHER, LETTER, NUMBER, BLANK }; // kinds of characters
enum { CODE_POINTS = 0x110000, NOT_UTF8 = 0xFFFD }; // U+FFFD is of the kind OTHER

static void mark_runs(unsigned char* kinds, const uint16_t* runs, size_t n, int kind) {
    // kinds (CODE_POINTS), runs (n)
    size_t code = 0;
    for (size_t i = 0; i < n; i += 2) {
        code += runs[i];
        memset(kinds + code, kind, runs[i + 1]);
        code += runs[i + 1];
    }
}

static size_t next_char(const unsigned char* s, size_t n, uint32_t* c) {
    // the first character of s (n > 0): returns its length. Overlong forms, surrogates, stray bytes: NOT_UTF8, length 1
    static const uint32_t lowest[5] = {0, 0, 0x80, 0x800, 0x10000};
    *c = s[0];
    if (s[0] < 0x80) { return 1; }
    size_t length = s[0] < 0xC0 ? 1 : s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : s[0] < 0xF8 ? 4 : 1;
    uint32_t code = s[0] & (0x7Fu >> length);
    size_t i = 1;
    for (; i < length && i < n && (s[i] & 0xC0) == 0x80; i++) { code = code << 6 | (s[i] & 0x3Fu); }
    int ok = length > 1 && i == length && code >= lowest[length] && code < CODE_POINTS && (code < 0xD800 || code > 0xDFFF);
    *c = ok ? code : (uint32_t)NOT_UTF8;
    return ok ? length : 1;
}

static size_t next_piece(const unsigned char* kinds, const unsigned char* s, size_t n) {
    // one match of the pattern at the start of s (n > 0): returns its length
    uint32_t c;
    if (s[0] == '\'' && n > 1) {
        if (memchr("stmd", s[1], 4) != NULL) { return 2; }
        if (n > 2 && (s[1] == 'l' ? s[2] == 'l' : (s[1] == 'r' || s[1] == 'v') && s[2] == 'e')) { return 3; }
    }
    size_t at = 0, last = 0, length = next_char(s, n, &c);
    if (s[0] == ' ' && n > 1) { // it belongs to what follows, whatever that is
        next_char(s + 1, n - 1, &c);
        at = 1;
    }
    int kind = kinds[c];
    for (; at < n; at += length) {
        length = next_char(s + at, n - at, &c);
        if (kinds[c] != kind) { break; }
        last = at;
    }
    // s+(?!S): blanks in front of something else leave their last one to it, if there are two or more
    return kind == BLANK && at < n && last > 0 ? last : at;
}

// ----------------------------------------------------------------------------
// Merges: the vocabulary, and two functions that do the same. Most pieces are short; a long one must not take quadratic time.

enum { MAX_TOKENS = 65536, SLOTS = 1 << 17, NONE = 65535, SHORT = 512 };

typedef struct {
    int merges;                   // merge r makes token 256 + r ...
    uint16_t left[MAX_TOKENS], right[MAX_TOKENS]; // (merges) ... of these two
    int eot;                      // 256 + merges, <|endoftext|>: the last token
    unsigned char* text;          // the bytes of all tokens: token t has those ...
    size_t start[MAX_TOKENS + 1]; // ... from start[t] to start[t + 1]
    uint16_t of_byte[256];        // the token of each byte
    uint64_t pairs[SLOTS];        // hash table of the merges: left, right, 0, rank + 1 in 16 bits each; 0: free
    unsigned char kinds[CODE_POINTS];
} Bpe;

static size_t token_length(const Bpe* b, int t) { return b->start[t + 1] - b->start[t]; }

static size_t find_pair(const Bpe* b, int left, int right) {
    // where in the table the merge of these two stands, or would stand
    uint64_t key = (uint64_t)left << 16 | (uint64_t)right;
    size_t i = (uint32_t)key * 0x9E3779B1u >> 15;
    while (b->pairs[i] != 0 && b->pairs[i] >> 32 != key) { i = (i + 1) & (SLOTS - 1); }
    return i;
}

static uint16_t rank_of(const Bpe* b, int left, int right) { // NONE if they do not merge
    return (uint16_t)(b->pairs[find_pair(b, left, right)] - 1);
}

static size_t merge_short(const Bpe* b, const unsigned char* s, size_t n, uint16_t* out) {
    // s (n), 0 < n <= SHORT -> tokens out (n); returns how many are left. Looks for the lowest rank again after each merge.
    uint16_t rank[SHORT]; // of token i and the next one
    for (size_t i = 0; i < n; i++) { out[i] = b->of_byte[s[i]]; }
    for (size_t i = 0; i + 1 < n; i++) { rank[i] = rank_of(b, out[i], out[i + 1]); }
    while (n > 1) {
        size_t at = 0;
        for (size_t i = 1; i + 1 < n; i++) { if (rank[i] < rank[at]) { at = i; } }
        if (rank[at] == NONE) { break; }
        out[at] = (uint16_t)(256 + rank[at]);
        n--;
        memmove(out + at + 1, out + at + 2, (n - at - 1) * sizeof(*out));
        memmove(rank + at, rank + at + 1, (n - at - 1) * sizeof(*rank));
        if (at > 0) { rank[at - 1] = rank_of(b, out[at - 1], out[at]); }
        if (at + 1 < n) { rank[at] = rank_of(b, out[at], out[at + 1]); }
    }
    return n;
}

typedef struct { uint32_t before, after; } Link; // of a list that closes to a ring

static void unlink_pair(Link* links, uint32_t i) {
    links[links[i].before].after = links[i].after;
    links[links[i].after].before = links[i].before;
    links[i].before = links[i].after = i;
}

static void link_pair(Link* links, int rank, uint32_t i) {
    // to the end of the list of that rank
    if (rank == NONE) { return; }
    uint32_t last = links[rank].before;
    links[i].before = last;
    links[i].after = (uint32_t)rank;
    links[last].after = links[rank].before = i;
}

static size_t merge_long(const Bpe* b, const unsigned char* s, size_t n, uint16_t* out) {
    // s (n > 0) -> tokens out (n); returns how many are left, in linear time. For each rank there is a list of the places
    // where its two tokens meet. Two tokens meet when the later one is made, and then their own merge is still to come: it
    // has a line further down. So one walk through the lists, from the lowest rank up, does it all; and as each list is
    // filled during the walk through one other, from left to right, its first place is always the leftmost.
    // Meanwhile a token that covers bytes i to j of s stands in both out[i] and out[j], so that neighbours find each other.
    uint32_t first = (uint32_t)b->merges; // links[rank] is the head of a list, links[first + i] belongs to byte i
    if (n > UINT32_MAX - first) { die(1, "put a blank somewhere", "%zu bytes without a boundary are too many", n); }
    Link* links = (Link*)grow(NULL, first + n, sizeof(Link));
    for (size_t i = 0; i < first + n; i++) { links[i].before = links[i].after = (uint32_t)i; } // alone
    for (size_t i = 0; i < n; i++) { out[i] = b->of_byte[s[i]]; }
    for (size_t i = 0; i + 1 < n; i++) { link_pair(links, rank_of(b, out[i], out[i + 1]), first + (uint32_t)i); }
    for (uint32_t rank = 0; rank < first; rank++) {
        uint16_t t = (uint16_t)(256 + rank);
        size_t left_bytes = token_length(b, b->left[rank]), bytes = token_length(b, t);
        while (links[rank].after != rank) {
            size_t i = links[rank].after - first, next = i + bytes;
            unlink_pair(links, first + (uint32_t)i);
            unlink_pair(links, first + (uint32_t)(i + left_bytes));
            out[i] = out[next - 1] = t;
            if (i > 0) {
                size_t before = i - token_length(b, out[i - 1]);
                unlink_pair(links, first + (uint32_t)before);
                link_pair(links, rank_of(b, out[before], t), first + (uint32_t)before);
            }
            if (next < n) { link_pair(links, rank_of(b, t, out[next]), first + (uint32_t)i); }
        }
    }
    size_t m = 0;
    for (size_t i = 0; i < n; i += token_length(b, out[m++])) { out[m] = out[i]; }
    free(links);
    return m;
}

static size_t merge(const Bpe* b, const unsigned char* s, size_t n, uint16_t* out) {
    return n <= SHORT ? merge_short(b, s, n, out) : merge_long(b, s, n, out);
}

// ----------------------------------------------------------------------------
// vocab.bpe: a line of version, then one merge a line, its two tokens with a blank between them

static const char* get_vocab = "the file as it should be: "
    "curl -O https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/vocab.bpe";

static void add_bytes(Bpe* b, int* byte_of) {
    // Tokens 0 to 255. vocab.bpe writes a byte as one character: printable ones of Latin-1 stand for themselves and come
    // first, the others are the characters from 256 on. out: byte_of (324) a character, -1 for none
    int t = 0;
    for (int c = 0; c < 324; c++) { byte_of[c] = -1; }
    for (int printable = 1; printable >= 0; printable--) {
        for (int c = 0; c < 256; c++) {
            if (printable != ((c > 32 && c < 127) || (c > 160 && c != 173))) { continue; }
            byte_of[printable ? c : 256 + t - 188] = c; // 188 are printable
            b->of_byte[c] = (uint16_t)t;
            b->text[t] = (unsigned char)c;
            t++;
            b->start[t] = (size_t)t;
        }
    }
}

static int whole_token(const Bpe* b, const unsigned char* s, size_t n, uint16_t* room) {
    // the token that these bytes become, or NONE if they become more than one
    return merge(b, s, n, room) == 1 ? (int)room[0] : (int)NONE;
}

static const char* add_merge(Bpe* b, const int* byte_of, const unsigned char* line, size_t n, uint16_t* room) {
    // line (n) has no end. Returns what is wrong with it, or NULL. Training makes tokens only out of what its earlier
    // merges make of a text, so three things must hold: each of the two parts becomes one token by the merges so far, and
    // both together become this new one.
    if (b->merges + 257 == MAX_TOKENS) { return "this is one merge more than 16 bits can count"; }
    int t = 256 + b->merges;
    unsigned char* token = b->text + b->start[t]; // behind all others
    size_t length = 0, left = 0, bytes = 1;
    for (size_t i = 0; i < n; i += bytes) {
        uint32_t c;
        bytes = next_char(line + i, n - i, &c);
        if (c == ' ' && length > 0 && left == 0) { left = length; continue; }
        if (c >= 324 || byte_of[c] < 0) { return "a character that stands for no byte"; }
        token[length++] = (unsigned char)byte_of[c];
    }
    if (left == 0 || left == length) { return "not two tokens with one blank between them"; }
    int x = whole_token(b, token, left, room), y = whole_token(b, token + left, length - left, room);
    if (x == NONE || y == NONE) { return "the lines above do not make both of its tokens"; }
    b->left[b->merges] = (uint16_t)x;
    b->right[b->merges] = (uint16_t)y;
    b->start[t + 1] = b->start[t] + length;
    size_t place = find_pair(b, x, y);
    int twice = b->pairs[place] != 0;
    b->pairs[place] = ((uint64_t)x << 16 | (uint64_t)y) << 32 | (uint64_t)++b->merges;
    return !twice && whole_token(b, token, length, room) == t ? NULL : "the lines above make other tokens of these bytes";
}

static Bpe* bpe_open(const char* path) {
    static const char eot_text[] = "<|endoftext|>";
    size_t n;
    unsigned char* file = read_all(path, &n, get_vocab);
    Bpe* b = (Bpe*)calloc(1, sizeof(Bpe));
    uint16_t* room = (uint16_t*)grow(NULL, n, sizeof(uint16_t));
    if (b == NULL) { die(1, "free some memory", "out of memory"); }
    b->text = (unsigned char*)grow(NULL, n + 256 + sizeof(eot_text), 1); // a merge has fewer bytes than its line
    int byte_of[324], line = 0;
    add_bytes(b, byte_of);
    for (const unsigned char* at = file, *end; line == 0 || at < file + n; at = end + 1) {
        end = (const unsigned char*)memchr(at, '\n', (size_t)(file + n - at));
        const char* wrong = line++ > 0 || (n >= 8 && memcmp(file, "#version", 8) == 0) ? NULL : "does not begin with #version";
        if (wrong == NULL && end == NULL) { wrong = "the file is cut off in this line"; }
        if (wrong == NULL && line > 1) { wrong = add_merge(b, byte_of, at, (size_t)(end - at), room); }
        if (wrong != NULL) { die(1, get_vocab, "%s, line %d: %s", path, line, wrong); }
    }
    b->eot = 256 + b->merges;
    b->start[b->eot + 1] = b->start[b->eot] + strlen(eot_text);
    memcpy(b->text + b->start[b->eot], eot_text, strlen(eot_text));
    mark_runs(b->kinds, letters, sizeof(letters) / sizeof(letters[0]), LETTER);
    mark_runs(b->kinds, numbers, sizeof(numbers) / sizeof(numbers[0]), NUMBER);
    mark_runs(b->kinds, blanks, sizeof(blanks) / sizeof(blanks[0]), BLANK);
    free(room);
    free(file);
    return b;
}

static void bpe_close(Bpe* b) {
    free(b->text);
    free(b);
}

// ----------------------------------------------------------------------------
// Text to tokens and back

enum { LINES, MARKER, PLAIN, DOCUMENTS };
static const char* document_names[DOCUMENTS] = {"lines", "marker", "none"};

static size_t find_bytes(const unsigned char* s, size_t n, const char* what, size_t k) {
    // where the k bytes of what first stand in s (n); n: nowhere
    const unsigned char* at = s;
    while (k <= (size_t)(s + n - at) && (at = (const unsigned char*)memchr(at, what[0], (size_t)(s + n - at) - k + 1)) != NULL) {
        if (memcmp(at, what, k) == 0) { return (size_t)(at - s); }
        at++;
    }
    return n;
}

static uint16_t* encode(const Bpe* b, const unsigned char* s, size_t n, int documents, size_t* m) {
    // s (n) -> returns tokens (m); free() when done. Each document is cut into pieces as if it stood alone.
    const char* mark = documents == LINES ? "\n\n" : (const char*)b->text + b->start[b->eot];
    size_t k = documents == LINES ? 2 : token_length(b, b->eot), piece;
    uint16_t* out = (uint16_t*)grow(NULL, n + n / 2 + 1, sizeof(uint16_t)); // lines: two bytes may bring a token more
    *m = 0;
    if (documents == LINES) { out[(*m)++] = (uint16_t)b->eot; }
    for (size_t i = 0; i < n;) {
        size_t end = documents == PLAIN ? n : i + find_bytes(s + i, n - i, mark, k);
        int marked = end < n;
        if (marked && documents == LINES) { end += k; } // the blank line still belongs to the document
        for (; i < end; i += piece) {
            piece = next_piece(b->kinds, s + i, end - i);
            *m += merge(b, s + i, piece, out + *m);
        }
        if (marked) { out[(*m)++] = (uint16_t)b->eot; }
        if (marked && documents == MARKER) { i += k; }
    }
    return out;
}

static unsigned char* decode(const Bpe* b, const uint16_t* tokens, size_t m, int documents, size_t* n) {
    // tokens (m), each <= eot -> returns bytes (n); free() when done. <|endoftext|> is no text, but for MARKER
    *n = 0;
    for (size_t i = 0; i < m; i++) { *n += tokens[i] < b->eot || documents == MARKER ? token_length(b, tokens[i]) : 0; }
    unsigned char* out = (unsigned char*)grow(NULL, *n, 1), *at = out;
    for (size_t i = 0; i < m; i++) {
        if (tokens[i] == b->eot && documents != MARKER) { continue; }
        memcpy(at, b->text + b->start[tokens[i]], token_length(b, tokens[i]));
        at += token_length(b, tokens[i]);
    }
    return out;
}

// ----------------------------------------------------------------------------
// llm.c's files

static void write_tokens(const char* path, const uint16_t* tokens, size_t m) {
    int32_t header[256] = {20240520, 1, 0};
    if (m > INT32_MAX) { die(1, "split the text into smaller files", "%s: %zu tokens are more than its header can tell", path, m); }
    header[2] = (int32_t)m;
    Part parts[2] = {{header, sizeof(header)}, {tokens, m * sizeof(*tokens)}};
    write_file(path, parts, 2);
}

static uint16_t* read_tokens(const Bpe* b, const char* path, size_t* m) {
    // returns tokens (m), all of this vocabulary; free() when done
    static const char* again = "data/tokenize encode writes such files; make it again";
    int32_t header[256];
    size_t n;
    unsigned char* file = read_all(path, &n, again);
    if (n < sizeof(header)) { die(1, again, "%s: %zu bytes, and the header alone has 1024", path, n); }
    memcpy(header, file, sizeof(header));
    if (header[0] != 20240520 || header[1] != 1) {
        die(1, again, "%s: begins with %d, %d; llm.c's files of GPT-2's tokens with 20240520, 1", path, header[0], header[1]);
    }
    *m = (n - sizeof(header)) / 2;
    if (header[2] < 0 || n != sizeof(header) + 2 * (size_t)header[2]) {
        die(1, again, "%s: the header tells of %d tokens, after it are %zu bytes", path, header[2], n - sizeof(header));
    }
    memmove(file, file + sizeof(header), 2 * *m);
    uint16_t* tokens = (uint16_t*)file;
    for (size_t i = 0; i < *m; i++) {
        if (tokens[i] <= b->eot) { continue; }
        die(1, "was it made with another vocab.bpe?", "%s, token %zu at byte %zu: %d, and the last of this vocabulary is %d",
            path, i, sizeof(header) + 2 * i, tokens[i], b->eot);
    }
    return tokens;
}

static size_t write_tokenizer(const char* path, const Bpe* b) {
    // version 2: the header, then each token's length in one byte and its bytes; returns the size of the file
    uint32_t header[256] = {20240328, 2, (uint32_t)b->eot + 1, (uint32_t)b->eot};
    unsigned char* out = (unsigned char*)grow(NULL, b->start[b->eot + 1] + (size_t)b->eot + 1, 1), *at = out;
    for (int t = 0; t <= b->eot; t++) {
        size_t n = token_length(b, t);
        if (n > 255) { die(1, "llm.c cannot use this vocabulary", "%s: token %d has %zu bytes, more than 255", path, t, n); }
        *at++ = (unsigned char)n;
        memcpy(at, b->text + b->start[t], n);
        at += n;
    }
    Part parts[2] = {{header, sizeof(header)}, {out, (size_t)(at - out)}};
    write_file(path, parts, 2);
    free(out);
    return parts[0].bytes + parts[1].bytes;
}

// ----------------------------------------------------------------------------
// Command line

enum { VOCAB, IN, OUT, VAL, SPLIT, HOW, HELP, OPTIONS }; // the files are the first four
typedef struct { const char *name, *twin, *arg, *commands, *help; } Option;
static const Option options[OPTIONS] = {
    {"--vocab",     "-v", "FILE", "EDT", "vocab.bpe, as OpenAI published it for GPT-2"},
    {"--in",        "-i", "FILE", "ED",  "what to read; - is standard input"},
    {"--out",       "-o", "FILE", "EDT", "what to write; - is standard output"},
    {"--val",       "-l", "FILE", "e",   "another file to write, for the first tokens ..."},
    {"--split",     "-s", "N",    "e",   "... so many of them, 1 to 2147483647"},
    {"--documents", "-d", "HOW",  "ed",  "how <|endoftext|> divides the text: lines, marker, none (lines)"},
    {"--help",      "-h", "",     "",    "this list"},
};
static const char* see_help = "data/tokenize --help lists commands and options";

typedef struct {
    char command;               // E, D or T
    const char* value[OPTIONS]; // NULL: not given
    size_t split;
    int documents;
} Config;

static void print_help(void) {
    printf("data/tokenize: text to the tokens of GPT-2 and back\n"
           "  encode     (e)        text to llm.c's .bin\n"
           "  decode     (d)        llm.c's .bin to text\n"
           "  tokenizer  (t)        vocab.bpe to llm.c's gpt2_tokenizer.bin\n"
           "Options after the command; for which ones, capital where it must be given:\n");
    for (int o = 0; o < OPTIONS; o++) {
        const Option* p = &options[o];
        printf("  %-11s %s %-4s  %-3s %s\n", p->name, p->twin, p->arg, p->commands, p->help);
    }
    printf("lines:  encode at the start and after each blank line, like llm.c's Tiny Shakespeare; decode leaves it out\n"
           "marker: where the text says <|endoftext|>, both ways\n"
           "none:   encode nowhere; decode leaves it out\n");
}

static void check_options(Config* c) {
    const char* const* value = c->value;
    for (int o = 0; o < OPTIONS; o++) {
        if (value[o] == NULL && strchr(options[o].commands, c->command) != NULL) {
            die(2, see_help, "%s %s is missing", options[o].name, options[o].arg);
        }
    }
    for (int i = 0; i < 4; i++) {
        for (int j = 0; j < i; j++) {
            if (value[i] == NULL || value[j] == NULL || strcmp(value[i], value[j]) != 0) { continue; }
            if (is_stream(value[i]) && (i >= OUT) != (j >= OUT)) { continue; } // one is for reading, one for writing
            die(2, see_help, "%s and %s name the same file", options[j].name, options[i].name);
        }
    }
    if ((value[VAL] == NULL) != (value[SPLIT] == NULL)) { die(2, see_help, "--val and --split need each other"); }
    if (value[SPLIT] != NULL) {
        char* end = NULL;
        c->split = (size_t)strtoul(value[SPLIT], &end, 10); // too large for it: ULONG_MAX
        if (value[SPLIT][0] < '0' || value[SPLIT][0] > '9' || *end != '\0' || c->split < 1 || c->split > INT32_MAX) {
            die(2, see_help, "--split takes whole numbers from 1 to 2147483647, not \"%s\"", value[SPLIT]);
        }
    }
    while (value[HOW] != NULL && strcmp(value[HOW], document_names[c->documents]) != 0) {
        if (++c->documents == DOCUMENTS) { die(2, see_help, "--documents is lines, marker or none, not \"%s\"", value[HOW]); }
    }
}

static Config parse_options(int argc, char** argv) {
    static const char* commands[3] = {"encode", "decode", "tokenizer"};
    Config c;
    memset(&c, 0, sizeof(c));
    for (int i = 1; i < argc; i++) {
        int o = 0;
        while (o < OPTIONS && strcmp(argv[i], options[o].name) != 0 && strcmp(argv[i], options[o].twin) != 0) { o++; }
        if (o == HELP) { print_help(); exit(0); }
        if (i == 1) {
            for (int k = 0; k < 3; k++) { if (strcmp(argv[1], commands[k]) == 0) { c.command = "EDT"[k]; } }
            if (c.command == 0) { die(2, see_help, "the first word is encode, decode or tokenizer, not %s", argv[1]); }
            continue;
        }
        if (o == OPTIONS) { die(2, see_help, "unknown option %s", argv[i]); }
        const char* of = options[o].commands;
        if (strchr(of, c.command) == NULL && strchr(of, c.command - 'A' + 'a') == NULL) {
            die(2, see_help, "%s is not for %s", options[o].name, argv[1]);
        }
        if (++i == argc) { die(2, see_help, "%s needs a value: %s", options[o].name, options[o].arg); }
        c.value[o] = argv[i];
    }
    if (c.command == 0) { die(2, see_help, "what to do? encode, decode or tokenizer"); }
    check_options(&c);
    return c;
}

static void run_encode(const Bpe* b, const Config* c, FILE* say) {
    const char* out = c->value[OUT], *val = c->value[VAL];
    size_t n, m;
    unsigned char* text = read_all(c->value[IN], &n, "give a text with --in, or - to read standard input");
    clock_t start = clock();
    uint16_t* tokens = encode(b, text, n, c->documents, &m);
    double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
    if (c->split > m) { die(1, "ask for a smaller --split", "--split %zu: the text has only %zu tokens", c->split, m); }
    if (val != NULL) {
        write_tokens(val, tokens, c->split);
        fprintf(say, "%s: the first %zu tokens\n", val, c->split);
    }
    write_tokens(out, tokens + c->split, m - c->split);
    fprintf(say, "%s: %zu tokens\n", out, m - c->split);
    fprintf(say, "%zu bytes are %zu tokens of %d, %.2f bytes a token; %.1f MB/s\n", n, m, b->eot + 1,
            m > 0 ? (double)n / (double)m : 0.0, seconds > 0 ? (double)n / 1e6 / seconds : 0.0);
    if (c->documents != MARKER && find_bytes(text, n, (const char*)b->text + b->start[b->eot], token_length(b, b->eot)) < n) {
        fprintf(say, "the text spells <|endoftext|>: --documents marker would make it token %d\n", b->eot);
    }
    free(tokens);
    free(text);
}

static void run_decode(const Bpe* b, const Config* c, FILE* say) {
    size_t n, m;
    uint16_t* tokens = read_tokens(b, c->value[IN], &m);
    unsigned char* text = decode(b, tokens, m, c->documents, &n);
    Part part = {text, n};
    write_file(c->value[OUT], &part, 1);
    fprintf(say, "%s: %zu bytes of %zu tokens\n", c->value[OUT], n, m);
    free(text);
    free(tokens);
}

static void tokenize(int argc, char** argv) {
    Config c = parse_options(argc, argv);
    const char* out = c.value[OUT], *val = c.value[VAL];
    FILE* say = is_stream(out) || (val != NULL && is_stream(val)) ? stderr : stdout;
    Bpe* b = bpe_open(c.value[VOCAB]);
    if (c.command == 'E') { run_encode(b, &c, say); }
    if (c.command == 'D') { run_decode(b, &c, say); }
    if (c.command == 'T') { fprintf(say, "%s: %d tokens, %zu bytes\n", out, b->eot + 1, write_tokenizer(out, b)); }
    bpe_close(b);
    if (ferror(stdout) || fflush(stdout) != 0) { die(1, "is the disk full?", "cannot print the summary"); }
}

#ifndef TESTING
int main(int argc, char** argv) {
    tokenize(argc, argv);
    return 0;
}
#endif
