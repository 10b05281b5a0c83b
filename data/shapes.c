/*
Writes the default pictures: eight shapes in four styles, 32 x 32, together with the truth about every patch.

  classes  disc square triangle star ring cross heart moon
  domains  photo   a shaded figure and its shadow on a grainy ground that changes from top to bottom
           ink     a dark outline on white paper
           toy     flat colours and a thick black outline
           cloth   no outline: a striped figure on a plain grainy ground (stripes on stripes are too hard for a small model)

A record is one of CIFAR-100's binary layout: a byte for the domain, a byte for the class, then 1024 bytes each of red, green
and blue, row by row from the top. The truth file has 64 bytes a picture, one for each patch of 4 x 4 pixels, row by row:

  0  background   1  edge: the boundary of the figure crosses the patch   2  inside

The boundary is that of the shape: an outline reaches about a pixel to either side of it. A patch counts as crossed when 2 to
62 of its 64 samples (2 x 2 in a pixel) are covered. There is no truth about how many experts a patch should use.

All is computed with whole numbers: lengths, sines and colours alike, in 4096ths. The one exception is sqrt() of a whole number
below 2^31, which IEEE 754 rounds correctly; what lies behind its point is thrown away, and that is exact. So a seed gives the
same bytes with every compiler, flag and machine. Pictures are drawn one by one: more of them begin with the same ones.

Build: gcc -O3 data/shapes.c -o data/shapes -lm
Run:   data/shapes                         (what to train on: 20000 pictures of seed 1 in data/shapes_train.bin)
       data/shapes --seed 2 --n 2000 --out data/shapes_val.bin --truth data/shapes_val.truth
       data/shapes --sheet sheet.ppm       (examples to look at, and nothing else)
*/
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { DISC, SQUARE, TRIANGLE, STAR, RING, CROSS, HEART, MOON, SHAPES };
enum { PHOTO, INK, TOY, CLOTH, STYLES };
enum { BACKGROUND, EDGE, INSIDE, KINDS };
enum { SIDE = 32, PIXELS = SIDE * SIDE, RECORD = 2 + 3 * PIXELS, PATCHES = 64 };
enum { ONE = 4096 }; // the picture reaches from -ONE to ONE, x to the right, y down
static const char* style_names[STYLES] = {"photo", "ink", "toy", "cloth"};

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
// Draws. Each stands in a statement of its own: C leaves open in which order it evaluates arguments and initialisers.

static uint32_t pcg(uint64_t* state) {
    // PCG32 (O'Neill 2014), XSH-RR, stream 54
    uint64_t old = *state;
    *state = old * 6364136223846793005ULL + 109;
    uint32_t mixed = (uint32_t)(((old >> 18) ^ old) >> 27), by = (uint32_t)(old >> 59);
    return (mixed >> by) | (mixed << ((32 - by) & 31));
}

static uint64_t pcg_seed(uint64_t seed) {
    uint64_t state = 109 + seed; // what the published pcg32_srandom(seed, 54) comes to
    pcg(&state);
    return state;
}

static int between(uint64_t* state, int low, int high) {
    // a whole number from low to high, each exactly as likely: numbers of the last, broken round are thrown away
    uint32_t r, n = (uint32_t)(high - low) + 1, rounds = UINT32_MAX / n * n;
    do { r = pcg(state); } while (r >= rounds);
    return low + (int)(r % n);
}

static void turn(int t, int* cosine, int* sine) {
    // of the angle 2 atan(t / ONE), without calling any of these: for |t| <= ONE the angle is nearly proportional to t
    int64_t one = ONE, square = (int64_t)t * t;
    *cosine = (int)(one * (one * one - square) / (one * one + square));
    *sine = (int)(2 * one * one * t / (one * one + square));
}

static void hue(uint64_t* state, int saturation, int value, int* colour) {
    // any hue; saturation in 256ths; colour (3), each at most value
    int h = between(state, 0, 1535);
    for (int i = 0; i < 3; i++) {
        int f = (h + (5 - 2 * i) * 256) % 1536, m = f < 1024 - f ? f : 1024 - f; // the six sides of the colour wheel
        m = m < 0 ? 0 : m > 256 ? 256 : m;
        colour[i] = value - value * saturation * m / 65536;
    }
}

// ----------------------------------------------------------------------------
// Shapes

static int larger(int a, int b) { return a > b ? a : b; }
static int smaller(int a, int b) { return a < b ? a : b; }
static int length(int x, int y) { return (int)sqrt((double)(x * x + y * y)); }

static int distance(int shape, int x, int y) {
    // about how far (x, y) is from the boundary, negative inside; the shapes reach to about 0.8 ONE
    int u = abs(x), v = abs(y), r = length(x, y), d, p, q;
    switch (shape) {
        case DISC: return r - 3277;
        case SQUARE: return larger(u, v) - 2785;
        case TRIANGLE: return larger(y - 2253, (3547 * u - 2048 * y) / ONE - 1720);
        case STAR: // two mirrors, 36 degrees to the right and the left of the upper point, fold all five points into that one
            p = u;
            q = -y;
            d = (3314 * p - 2408 * q) / ONE;
            if (d > 0) { p -= 2 * d * 3314 / ONE; q += 2 * d * 2408 / ONE; }
            d = (-3314 * p - 2408 * q) / ONE;
            if (d > 0) { p += 2 * d * 3314 / ONE; q += 2 * d * 2408 / ONE; }
            return (1720 * (q - 3891) + 3686 * abs(p)) / ONE + 82;
        case RING: return abs(r - 2458) - 901;
        case CROSS: return smaller(larger(u - 1024, v - 3277), larger(v - 1024, u - 3277));
        case HEART: // a square that stands on its corner (p, q) = (0, 0), with half discs on its two upper sides
            p = u * 5 / 7;
            q = (3072 - y) * 5 / 7;
            d = larger(p + q, 0) / 2;
            if (p + q > ONE) { d = length(p - 1024, q - 3072) - 1448; }
            else { d = smaller(length(p, q - ONE), length(p - d, q - d)) * (p > q ? 1 : -1); }
            return d * 7 / 5;
        default: return larger(r - 3359, 2540 - length(x - 1556, y + 410)); // MOON: a disc without another disc
    }
}

typedef struct { int shape, x, y, size, cosine, sine; } Figure; // where it stands; size ONE would fill the picture

static Figure figure_draw(uint64_t* state, int shape) {
    Figure g;
    g.shape = shape;
    turn(between(state, -830, 830), &g.cosine, &g.sine); // up to 23 degrees
    g.size = between(state, 2458, 3277);
    g.x = between(state, -614, 614);
    g.y = between(state, -614, 614);
    return g;
}

static void figure_place(const Figure* g, int x, int y, int* u, int* v) {
    // out: (u, v), the point (x, y) of the picture as distance() wants it
    *u = ((x - g->x) * g->cosine + (y - g->y) * g->sine) / g->size;
    *v = ((y - g->y) * g->cosine - (x - g->x) * g->sine) / g->size;
}

// ----------------------------------------------------------------------------
// Styles

typedef struct {
    int style;
    int ground[3], low[3]; // red, green, blue of 0 to 255; PHOTO: the ground changes from one to the other
    int fill[3], other[3]; // of the figure; CLOTH: its stripes
    int ink, line;         // of the outline: gray value, half its width
    int cosine, sine, width, phase; // CLOTH: stripes
    int grain;             // the noise of a pixel has a standard deviation of 148 / grain; 0: none
} Paint;

static Paint paint_draw(uint64_t* state, int style) {
    Paint p;
    memset(&p, 0, sizeof(p));
    p.style = style;
    if (style == PHOTO) {
        hue(state, 90, 191, p.ground);
        hue(state, 90, 115, p.low);
        hue(state, 179, 230, p.fill);
        p.grain = 29;
    } else if (style == INK) {
        p.ground[0] = p.ground[1] = p.ground[2] = between(state, 245, 255);
        p.ink = between(state, 0, 63);
        p.line = 205;
    } else if (style == TOY) {
        hue(state, 128, 242, p.ground);
        hue(state, 218, 230, p.fill);
        p.ink = 13;
        p.line = 307;
    } else {
        hue(state, 154, 230, p.fill);
        hue(state, 154, 115, p.other);
        hue(state, 64, 166, p.ground);
        turn(between(state, -ONE, ONE), &p.cosine, &p.sine);
        p.width = between(state, 804, 1287); // 6 to 10 pixels for a light and a dark one
        p.phase = between(state, 0, 2 * p.width - 1);
        p.grain = 13;
    }
    return p;
}

static int sample(const Paint* p, const Figure* g, int x, int y, int* sum) {
    // adds the colour at (x, y) of the picture to sum (3); returns 1 if the figure covers it, else 0
    int u, v;
    figure_place(g, x, y, &u, &v);
    int d = distance(g->shape, u, v) * g->size / ONE, inside = d < 0;
    int light = smaller(larger(3072 - (1434 * u + 1843 * v) / ONE, 1024), 4710); // from above, from the left
    int shadow = p->style == PHOTO && !inside && distance(g->shape, u - 614, v - 737) < 0;
    int along = (x * p->cosine + y * p->sine) / ONE + 2 * ONE + p->phase; // above 0
    for (int i = 0; i < 3; i++) {
        int c = p->ground[i];
        if (p->style == PHOTO) {
            c = inside ? p->fill[i] * light / ONE : (c * (ONE - y) + p->low[i] * (ONE + y)) / (2 * ONE);
            if (shadow) { c = c * 11 / 20; }
        } else if (abs(d) < p->line) {
            c = p->ink;
        } else if (inside && p->style != INK) {
            c = p->style == CLOTH && along / p->width % 2 == 1 ? p->other[i] : p->fill[i];
        }
        sum[i] += c;
    }
    return inside;
}

static void picture(uint64_t* state, int style, int shape, unsigned char* record, unsigned char* truth) {
    // out: record (RECORD), truth (PATCHES)
    Figure g = figure_draw(state, shape);
    Paint p = paint_draw(state, style);
    int covered[PATCHES] = {0};
    record[0] = (unsigned char)style;
    record[1] = (unsigned char)shape;
    for (int i = 0; i < PIXELS; i++) {
        int sum[3] = {0, 0, 0}, inside = 0, x = i % SIDE, y = i / SIDE;
        for (int s = 0; s < 4; s++) { // the middles of four quarters of the pixel
            inside += sample(&p, &g, (4 * x + 2 * (s % 2) + 1) * 64 - ONE, (4 * y + 2 * (s / 2) + 1) * 64 - ONE, sum);
        }
        covered[y / 4 * 8 + x / 4] += inside;
        for (int c = 0; c < 3; c++) {
            if (p.grain != 0) { // the sum of four bytes is nearly normal; cloth has no grain on its figure
                uint32_t r = pcg(state);
                int noise = (int)((r & 255) + (r >> 8 & 255) + (r >> 16 & 255) + (r >> 24)) - 510;
                sum[c] += noise * (style == PHOTO ? 4 : 4 - inside) / p.grain;
            }
            record[2 + c * PIXELS + i] = (unsigned char)smaller(larger(sum[c] / 4, 0), 255);
        }
    }
    for (int i = 0; i < PATCHES; i++) { truth[i] = covered[i] < 2 ? BACKGROUND : covered[i] > 62 ? INSIDE : EDGE; }
}

// ----------------------------------------------------------------------------
// The set, and the sheet

typedef struct {
    size_t n;
    unsigned char* records; // (n, RECORD)
    unsigned char* truth;   // (n, PATCHES), in the same memory
} Pictures;

static Pictures generate(size_t n, uint64_t seed) {
    // free(.records) when done
    Pictures p = {n, (unsigned char*)malloc(n * (RECORD + PATCHES)), NULL};
    if (p.records == NULL) { die(1, "ask for fewer pictures: --n", "out of memory"); }
    p.truth = p.records + n * RECORD;
    uint64_t state = pcg_seed(seed);
    for (size_t i = 0; i < n; i++) {
        int style = between(&state, 0, STYLES - 1), shape = between(&state, 0, SHAPES - 1);
        picture(&state, style, shape, p.records + i * RECORD, p.truth + i * PATCHES);
    }
    return p;
}

static void print_summary(const Pictures* p) {
    printf("style  pictures   background    edge  inside   (patches)\n");
    for (int d = 0; d <= STYLES; d++) { // the last row: all styles
        size_t n = 0, kinds[KINDS] = {0, 0, 0};
        for (size_t i = 0; i < p->n; i++) {
            if (d < STYLES && p->records[i * RECORD] != d) { continue; }
            n++;
            for (int j = 0; j < PATCHES; j++) { kinds[p->truth[i * PATCHES + (size_t)j]]++; }
        }
        if (n == 0) { continue; }
        double percent = 100.0 / (double)(n * PATCHES);
        printf("%-6s %8zu       %5.1f%%  %5.1f%%  %5.1f%%\n", d < STYLES ? style_names[d] : "all", n,
               percent * (double)kinds[BACKGROUND], percent * (double)kinds[EDGE], percent * (double)kinds[INSIDE]);
    }
}

enum { ACROSS = 2 * SHAPES, ZOOM = 3 };

static unsigned char* draw_sheet(uint64_t seed) {
    // a row for each style, two pictures of each shape, a pixel becomes ZOOM x ZOOM; red, green, blue, free() when done
    unsigned char record[RECORD], truth[PATCHES];
    int width = ACROSS * SIDE * ZOOM, height = STYLES * SIDE * ZOOM;
    unsigned char* out = (unsigned char*)malloc((size_t)(width * height * 3));
    if (out == NULL) { die(1, "free some memory", "out of memory"); }
    uint64_t state = pcg_seed(seed);
    for (int k = 0; k < STYLES * ACROSS; k++) {
        picture(&state, k / ACROSS, k % ACROSS / 2, record, truth);
        int left = k % ACROSS * SIDE * ZOOM, top = k / ACROSS * SIDE * ZOOM;
        for (int i = 0; i < 3 * PIXELS * ZOOM * ZOOM; i++) {
            int c = i % 3, x = i / 3 % (SIDE * ZOOM), y = i / (3 * SIDE * ZOOM);
            out[((top + y) * width + left + x) * 3 + c] = record[2 + c * PIXELS + y / ZOOM * SIDE + x / ZOOM];
        }
    }
    return out;
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

// ----------------------------------------------------------------------------
// Command line

typedef struct {
    size_t n;
    uint64_t seed;
    const char *out, *truth, *sheet; // NULL for none
} Config;

typedef struct { const char *name, *twin, *arg, *help; } Option;
static const Option options[] = {
    {"--n",     "-n", "N",    "how many pictures, 1 to 1000000 (20000)"},
    {"--seed",  "-s", "N",    "another seed, other pictures (1)"},
    {"--out",   "-o", "FILE", "where they go (data/shapes_train.bin; with --sheet: nowhere)"},
    {"--truth", "-t", "FILE", "where the kind of every patch goes, 64 bytes a picture (nowhere)"},
    {"--sheet", "-p", "FILE", "where a sheet of examples goes, a PPM picture (nowhere)"},
    {"--help",  "-h", "",     "this list"},
};
enum { OPTIONS = sizeof(options) / sizeof(options[0]) };
static const char* see_help = "data/shapes --help lists the options";

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

static int same(const char* a, const char* b) { return a != NULL && b != NULL && strcmp(a, b) == 0; }

static Config parse_options(int argc, char** argv) {
    Config c = {20000, 1, NULL, NULL, NULL};
    for (int i = 1; i < argc; i++) {
        int o = 0;
        while (o < OPTIONS && strcmp(argv[i], options[o].name) != 0 && strcmp(argv[i], options[o].twin) != 0) { o++; }
        if (o == OPTIONS) { die(2, see_help, "unknown option %s", argv[i]); }
        const char* name = options[o].name;
        if (*options[o].arg != '\0' && ++i == argc) { die(2, see_help, "%s needs a value: %s", name, options[o].arg); }
        switch (options[o].twin[1]) {
            case 'n': c.n = (size_t)whole_number(name, argv[i], 1, 1000000); break;
            case 's': c.seed = whole_number(name, argv[i], 0, UINT64_MAX); break;
            case 'o': c.out = argv[i]; break;
            case 't': c.truth = argv[i]; break;
            case 'p': c.sheet = argv[i]; break;
            default:
                printf("data/shapes: eight shapes in four styles, and the truth about every patch\n");
                for (o = 0; o < OPTIONS; o++) {
                    printf("  %-7s %s %-4s %s\n", options[o].name, options[o].twin, options[o].arg, options[o].help);
                }
                exit(0);
        }
    }
    if (c.out == NULL && c.sheet == NULL) { c.out = "data/shapes_train.bin"; }
    if (same(c.out, c.truth) || same(c.out, c.sheet) || same(c.truth, c.sheet)) {
        die(2, see_help, "two of --out, --truth and --sheet name the same file");
    }
    return c;
}

#ifndef TESTING
int main(int argc, char** argv) {
    Config config = parse_options(argc, argv);
    if (config.sheet != NULL) {
        unsigned char* sheet = draw_sheet(config.seed);
        char header[32];
        int width = ACROSS * SIDE * ZOOM, height = STYLES * SIDE * ZOOM;
        int n = snprintf(header, sizeof(header), "P6\n%d %d\n255\n", width, height);
        Part parts[2] = {{header, (size_t)n}, {sheet, (size_t)(width * height * 3)}};
        write_file(config.sheet, parts, 2);
        printf("%s: %d x %d, a row for each style, seed %llu\n", config.sheet, width, height, (unsigned long long)config.seed);
        free(sheet);
    }
    if (config.out != NULL || config.truth != NULL) {
        Pictures p = generate(config.n, config.seed);
        Part records = {p.records, p.n * RECORD}, truth = {p.truth, p.n * PATCHES};
        if (config.out != NULL) {
            write_file(config.out, &records, 1);
            printf("%s: %zu pictures, seed %llu\n", config.out, p.n, (unsigned long long)config.seed);
        }
        if (config.truth != NULL) {
            write_file(config.truth, &truth, 1);
            printf("%s: the kind of each of their patches\n", config.truth);
        }
        print_summary(&p);
        free(p.records);
    }
    if (ferror(stdout) || fflush(stdout) != 0) { die(1, "is the disk full?", "cannot print the summary"); }
    return 0;
}
#endif
