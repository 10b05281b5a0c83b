/*
Unit tests of data/shapes.c.

A second description of the shapes lives here, in floating point and by other means (angles, corners, unions): every point of
every shape is held against it, and so is the truth about every patch. What the styles promise is then read off the pixels.

Build: gcc test/test_shapes.c -o test/test_shapes $(pkg-config --cflags --libs check) -lm
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
#include "../data/shapes.c"
#include "suite.h"

// as ck_assert_msg, which tells its parent at every call that it came there: too slow for loops over pixels
#define EXPECT(condition, ...) do { if (!(condition)) { ck_abort_msg(__VA_ARGS__); } } while (0)

static double clip(double x, double low, double high) { return x < low ? low : x > high ? high : x; }

// ----------------------------------------------------------------------------
// Draws

START_TEST(pcg_is_the_published_one) {
    // what pcg32-demo prints: seed 42, stream 54
    static const uint32_t want[6] = {0xa15c02b7, 0x7b47f409, 0xba1d3330, 0x83d2f293, 0xbfa4784b, 0xcbed606e};
    uint64_t state = pcg_seed(42);
    for (int i = 0; i < 6; i++) { ck_assert_uint_eq(pcg(&state), want[i]); }
    PASS();
} END_TEST

START_TEST(between_is_even) {
    uint64_t state = pcg_seed(1);
    double seen[7] = {0}, chi = 0, n = 70000;
    int low = 0;
    for (int i = 0; i < 70000; i++) {
        int r = between(&state, -3, 3);
        EXPECT(r >= -3 && r <= 3, "%d", r);
        seen[r + 3]++;
    }
    for (int i = 0; i < 7; i++) { chi += (seen[i] - n / 7) * (seen[i] - n / 7) / (n / 7); }
    ck_assert_msg(chi > 0.3 && chi < 25, "chi-square of 6 degrees of freedom: %g", chi);
    for (int i = 0; i < 100000; i++) { // a plain remainder would find 56 percent in the lower half of this range
        low += between(&state, -800000000, 799999999) < 0;
        EXPECT(between(&state, 5, 5) == 5, "not 5");
    }
    ck_assert_msg(abs(low - 50000) < 4 * 158, "%d of 100000", low);
    PASS();
} END_TEST

START_TEST(turns_are_angles) {
    for (int t = -ONE; t <= ONE; t++) {
        int c, s;
        turn(t, &c, &s);
        double angle = 2 * atan((double)t / ONE);
        EXPECT(fabs(c - ONE * cos(angle)) <= 1 && fabs(s - ONE * sin(angle)) <= 1, "t %d: %d %d", t, c, s);
    }
    PASS();
} END_TEST

START_TEST(hues_are_the_colour_wheel) {
    uint64_t state = pcg_seed(3);
    int dominant[3] = {0, 0, 0};
    for (int i = 0; i < 5000; i++) {
        uint64_t copy = state;
        int colour[3];
        double h = between(&copy, 0, 1535) / 256.0;
        hue(&state, 154, 230, colour);
        for (int j = 0; j < 3; j++) {
            double f = fmod((5 - 2 * j) + h, 6), want = 230 - 230 * (154.0 / 256) * clip(fmin(f, 4 - f), 0, 1);
            EXPECT(fabs(colour[j] - want) <= 1, "hue %g: %d, should be %g", h, colour[j], want);
            dominant[j] += colour[j] == 230;
        }
    }
    for (int j = 0; j < 3; j++) { ck_assert_msg(dominant[j] > 1500 && dominant[j] < 1900, "%d", dominant[j]); } // a third each
    PASS();
} END_TEST

// ----------------------------------------------------------------------------
// The second description of the shapes: is (x, y) inside, in units where the picture reaches from -1 to 1?

static int in_polygon(const double (*corner)[2], int n, double x, double y) {
    int in = 0;
    for (int i = 0, j = n - 1; i < n; j = i++) {
        double x0 = corner[j][0], y0 = corner[j][1], x1 = corner[i][0], y1 = corner[i][1];
        if ((y0 > y) != (y1 > y) && x < x0 + (y - y0) / (y1 - y0) * (x1 - x0)) { in = !in; }
    }
    return in;
}

static int is_inside(int shape, double x, double y) {
    double r = hypot(x, y), pi = acos(-1.0), corner[10][2];
    if (shape == DISC) { return r < 0.8; }
    if (shape == SQUARE) { return fabs(x) < 0.68 && fabs(y) < 0.68; }
    if (shape == RING) { return r > 0.38 && r < 0.82; }
    if (shape == CROSS) { return (fabs(x) < 0.25 && fabs(y) < 0.8) || (fabs(y) < 0.25 && fabs(x) < 0.8); }
    if (shape == MOON) { return r < 0.82 && hypot(x - 0.38, y + 0.1) > 0.62; }
    if (shape == TRIANGLE) {
        double half = (0.42 + 0.55 / 2) / 0.866;
        double c[3][2] = {{0, -0.84}, {half, 0.55}, {-half, 0.55}};
        return in_polygon(c, 3, x, y);
    }
    if (shape == STAR) { // ten corners: where (0.42 (q - 0.95) + 0.9 |p| = -0.02) meets the axis of a point, and between two
        double outer = 0.95 - 0.02 / 0.42, inner = (0.42 * 0.95 - 0.02) / (0.42 * cos(pi / 5) + 0.9 * sin(pi / 5));
        for (int i = 0; i < 10; i++) {
            corner[i][0] = (i % 2 ? inner : outer) * sin(i * pi / 5);
            corner[i][1] = -(i % 2 ? inner : outer) * cos(i * pi / 5);
        }
        return in_polygon(corner, 10, x, y);
    }
    double p = fabs(x) / 1.4, q = (0.75 - y) / 1.4; // HEART
    return (q > p && p + q < 1) || hypot(p - 0.25, q - 0.75) < sqrt(2) / 4;
}

START_TEST(shapes_are_the_shapes) {
    for (int shape = 0; shape < SHAPES; shape++) {
        int in = 0, near = 0, farthest = 0;
        for (int i = 0; i < 500 * 500; i++) {
            int x = 17 * (i % 500 - 250), y = 17 * (i / 500 - 250), d = distance(shape, x, y); // up to 1.04
            in += d < 0;
            if (abs(d) < 6) { near++; continue; } // whole numbers blur the boundary by about a thousandth
            EXPECT((d < 0) == is_inside(shape, x / 4096.0, y / 4096.0), "shape %d at (%d, %d): %d", shape, x, y, d);
            if (d < 0) { farthest = larger(farthest, length(x, y)); }
        }
        ck_assert_msg(near < 2000 && in > 250 * 250 * 2 / 5, "shape %d: %d near, %d inside", shape, near, in);
        ck_assert_msg(farthest > 3000 && farthest < 4096, "shape %d reaches to %d", shape, farthest);
    }
    PASS();
} END_TEST

START_TEST(distances_are_distances) {
    // from one point to its neighbour 100 away it changes by about 100 at most, and near the boundary, seldom by less than 60:
    // else an outline would be thick here and thin there
    for (int shape = 0; shape < SHAPES; shape++) {
        int seen = 0, flat = 0;
        for (int i = 0; i < 90 * 90; i++) {
            int x = 100 * (i % 90 - 45), y = 100 * (i / 90 - 45), d = distance(shape, x, y);
            int dx = distance(shape, x + 100, y) - d, dy = distance(shape, x, y + 100) - d;
            EXPECT(abs(dx) <= 105 && abs(dy) <= 105, "shape %d at (%d, %d): %d %d", shape, x, y, dx, dy);
            if (abs(d) < 300) { seen++; flat += hypot(dx, dy) < 60; }
        }
        ck_assert_msg(seen > 400 && flat * 12 < seen, "shape %d: %d of %d", shape, flat, seen);
    }
    PASS();
} END_TEST

// ----------------------------------------------------------------------------
// What is drawn, and the truth about it

typedef struct {
    uint64_t state;
    int style, shape;
    Figure figure;
    Paint paint;
    unsigned char record[RECORD], truth[PATCHES];
} Drawn;

static void draw_one(Drawn* d, int style, int shape) {
    // the next picture of d->state, with what it was drawn from
    d->style = style;
    d->shape = shape;
    uint64_t copy = d->state;
    d->figure = figure_draw(&copy, d->shape);
    d->paint = paint_draw(&copy, d->style);
    picture(&d->state, d->style, d->shape, d->record, d->truth);
}

static void draw_next(Drawn* d) { // as generate() does
    int style = between(&d->state, 0, STYLES - 1), shape = between(&d->state, 0, SHAPES - 1);
    draw_one(d, style, shape);
}

static int pixel(const Drawn* d, int channel, int x, int y) { return d->record[2 + channel * PIXELS + y * SIDE + x]; }

START_TEST(truth_is_where_the_figure_is) {
    // the 64 samples of each patch by the second description, moved there by floating point
    Drawn d;
    Pictures p = generate(600, 21);
    d.state = pcg_seed(21);
    int kinds[KINDS] = {0, 0, 0}, unsure = 0;
    for (size_t n = 0; n < p.n; n++) {
        draw_next(&d);
        ck_assert_int_eq(memcmp(p.records + n * RECORD, d.record, RECORD), 0);
        ck_assert_int_eq(memcmp(p.truth + n * PATCHES, d.truth, PATCHES), 0);
        ck_assert(d.record[0] == d.style && d.record[1] == d.shape);
        const Figure* g = &d.figure;
        double angle = atan2(g->sine, g->cosine), size = g->size / 4096.0;
        ck_assert(fabs(angle) < 0.4003 && size > 0.6 && size < 0.8002 && abs(g->x) < 615 && abs(g->y) < 615);
        for (int i = 0; i < PATCHES; i++) {
            int low = 0, high = 0; // covered for sure, and perhaps
            for (int s = 0; s < 64; s++) {
                double x = (i % 8 * 8 + s % 8 + 0.5) / 32 - 1 - g->x / 4096.0;
                double y = (i / 8 * 8 + s / 8 + 0.5) / 32 - 1 - g->y / 4096.0;
                double u = (x * cos(angle) + y * sin(angle)) / size, v = (y * cos(angle) - x * sin(angle)) / size;
                int in = is_inside(d.shape, u, v), near = 0;
                for (int e = 0; e < 4; e++) {
                    near |= is_inside(d.shape, u + (e % 2 ? 0.003 : -0.003), v + (e / 2 ? 0.003 : -0.003)) != in;
                }
                low += in && !near;
                high += in || near;
            }
            int kind = d.truth[i], lowest = low < 2 ? BACKGROUND : low > 62 ? INSIDE : EDGE;
            int highest = high < 2 ? BACKGROUND : high > 62 ? INSIDE : EDGE;
            EXPECT(kind >= lowest && kind <= highest, "picture %zu, patch %d: %d, %d to %d samples", n, i, kind, low, high);
            unsure += lowest != highest;
            kinds[kind]++;
        }
    }
    ck_assert_msg(unsure < 600 * PATCHES / 50, "%d", unsure);
    ck_assert_int_gt(kinds[BACKGROUND], 600 * PATCHES / 2);
    ck_assert_int_gt(kinds[EDGE], 600 * PATCHES / 5);
    ck_assert_int_gt(kinds[INSIDE], 600 * PATCHES / 20);
    free(p.records);
    PASS();
} END_TEST

START_TEST(ink_and_toy_outline_the_edge_patches) {
    // read off the pixels: what an outline crosses is dark, what has the colour of the ground is not inside
    Drawn d;
    d.state = pcg_seed(5);
    int dark_outside = 0, patches = 0;
    for (int n = 0; n < 400; n++) {
        draw_one(&d, n % 2 ? INK : TOY, n / 2 % SHAPES);
        for (int i = 0; i < PATCHES; i++) {
            int darkest = 255, lightest = 0, ground = 0, fill = 0;
            for (int k = 0; k < 16; k++) {
                int most = 0, is_ground = 1, is_fill = 1;
                for (int c = 0; c < 3; c++) {
                    int v = pixel(&d, c, i % 8 * 4 + k % 4, i / 8 * 4 + k / 4);
                    EXPECT(d.style != INK || v == pixel(&d, 0, i % 8 * 4 + k % 4, i / 8 * 4 + k / 4), "picture %d is no gray", n);
                    most = larger(most, v);
                    is_ground &= v == pixel(&d, c, 0, 0);
                    is_fill &= v == d.paint.fill[c];
                }
                darkest = smaller(darkest, most);
                lightest = larger(lightest, most);
                ground += is_ground;
                fill += is_fill;
            }
            if (d.truth[i] == EDGE) { EXPECT(darkest < 120, "picture %d, patch %d: %d", n, i, darkest); }
            if (d.style == INK && d.truth[i] != EDGE) { EXPECT(lightest >= 200, "picture %d, patch %d: %d", n, i, lightest); }
            if (d.style == TOY && d.truth[i] == BACKGROUND) { EXPECT(fill == 0, "picture %d, patch %d: coloured in", n, i); }
            if (d.style == TOY && d.truth[i] == INSIDE) { EXPECT(ground == 0, "picture %d, patch %d: has ground", n, i); }
            patches += d.truth[i] == BACKGROUND;
            dark_outside += d.truth[i] == BACKGROUND && darkest < 120;
        }
        for (int c = 0; c < 3 && d.style == INK; c++) { ck_assert_int_ge(pixel(&d, c, 0, 0), 245); }
    }
    ck_assert_msg(patches > 10000 && dark_outside * 5 < patches, "%d of %d", dark_outside, patches); // only its brim
    PASS();
} END_TEST

START_TEST(cloth_is_striped_on_plain_ground) {
    Drawn d;
    d.state = pcg_seed(6);
    double sum = 0, squares = 0, n = 0;
    int mixed = 0, insides = 0;
    for (int k = 0; k < 400; k++) {
        draw_one(&d, CLOTH, k % SHAPES);
        int light = 0, dark = 0;
        for (int i = 0; i < PIXELS; i++) {
            int kind = d.truth[i / SIDE / 4 * 8 + i % SIDE / 4];
            for (int c = 0; c < 3; c++) {
                int v = pixel(&d, c, i % SIDE, i / SIDE), a = d.paint.fill[c], b = d.paint.other[c];
                if (kind == BACKGROUND && larger(i % SIDE, i / SIDE) < 4) { // the corner, far from any figure
                    double e = v - d.paint.ground[c];
                    sum += e;
                    squares += e * e;
                    n++;
                }
                if (kind == INSIDE) { // at most one sample in 64 is ground
                    EXPECT(v >= smaller(a, b) - 60 && v <= larger(a, b) + 60, "picture %d, pixel %d: %d", k, i, v);
                    light += v == a && a != b;
                    dark += v == b && a != b;
                }
            }
        }
        insides += light + dark > 100;
        mixed += light > 10 && dark > 10;
    }
    double mean = sum / n, deviation = sqrt(squares / n - mean * mean);
    // 147.8 / 13, and what stands behind the point is cut off
    ck_assert_msg(n > 10000 && fabs(mean + 0.4) < 0.5 && fabs(deviation - 11.4) < 0.5, "%g: %g +- %g", n, mean, deviation);
    ck_assert_msg(insides > 150 && mixed * 10 > insides * 9, "%d of %d", mixed, insides); // both colours are there
    PASS();
} END_TEST

START_TEST(photo_has_light_and_shadow) {
    // five points of a disc and around it, in units of its own: dark side, bright side, middle, shadow, and where none falls
    static const double at[5][2] = {{0.4, 0.4}, {-0.4, -0.4}, {0, 0}, {0.576, 0.69}, {-0.6, -0.75}};
    Drawn d;
    d.state = pcg_seed(7);
    double off[5] = {0}, light[5] = {0}, n = 0;
    for (int k = 0; k < 400; k++) {
        draw_one(&d, PHOTO, DISC);
        const Figure* g = &d.figure;
        for (int i = 0; i < 5; i++) {
            double u = at[i][0], v = at[i][1], s = g->size / 4096.0, c = g->cosine / 4096.0, sine = g->sine / 4096.0;
            double x = g->x / 4096.0 + s * (u * c - v * sine), y = g->y / 4096.0 + s * (u * sine + v * c), t = (y + 1) / 2;
            for (int j = 0; j < 3; j++) {
                double want = i < 3 ? d.paint.fill[j] * clip(0.75 - 0.35 * u - 0.45 * v, 0.25, 1.15)
                                    : (d.paint.ground[j] * (1 - t) + d.paint.low[j] * t) * (i == 3 ? 0.55 : 1);
                int got = pixel(&d, j, (int)floor((x + 1) * 16), (int)floor((y + 1) * 16));
                off[i] += got - want;
                light[i] += got;
            }
        }
        n += 3;
    }
    ck_assert_msg(n > 900, "%g", n);
    for (int i = 0; i < 5; i++) { // some of the pixels reach over a border: 4 grays on the average
        ck_assert_msg(fabs(off[i] / n) < 4, "point %d: %g off, of %g", i, off[i] / n, light[i] / n);
    }
    ck_assert(light[0] < 0.5 * light[1] && light[3] < 0.7 * light[4]);
    PASS();
} END_TEST

START_TEST(all_kinds_are_drawn_alike) {
    Pictures p = generate(6400, 8);
    double seen[STYLES * SHAPES] = {0}, chi = 0;
    for (size_t i = 0; i < p.n; i++) {
        EXPECT(p.records[i * RECORD] < STYLES && p.records[i * RECORD + 1] < SHAPES, "picture %zu", i);
        seen[p.records[i * RECORD] * SHAPES + p.records[i * RECORD + 1]]++;
        int kinds[KINDS] = {0, 0, 0};
        for (int j = 0; j < PATCHES; j++) { kinds[p.truth[i * PATCHES + (size_t)j]]++; }
        EXPECT(kinds[BACKGROUND] >= 20 && kinds[EDGE] + kinds[INSIDE] >= 8, "picture %zu: %d background", i, kinds[BACKGROUND]);
    }
    for (int i = 0; i < STYLES * SHAPES; i++) { chi += (seen[i] - 200) * (seen[i] - 200) / 200; }
    ck_assert_msg(chi > 10 && chi < 65, "chi-square of 31 degrees of freedom: %g", chi);
    free(p.records);
    PASS();
} END_TEST

static double nearest_mean(const Pictures* train, const Pictures* test, int label, int labels) {
    // share of test whose byte `label` is that of the nearest mean picture of train
    static double mean[SHAPES][RECORD], n[SHAPES];
    memset(mean, 0, sizeof(mean));
    memset(n, 0, sizeof(n));
    for (size_t i = 0; i < train->n; i++) {
        const unsigned char* r = train->records + i * RECORD;
        n[r[label]]++;
        for (int j = 2; j < RECORD; j++) { mean[r[label]][j] += r[j]; }
    }
    for (int k = 0; k < labels; k++) { for (int j = 2; j < RECORD; j++) { mean[k][j] /= n[k]; } }
    double right = 0;
    for (size_t i = 0; i < test->n; i++) {
        const unsigned char* r = test->records + i * RECORD;
        double least = 1e300;
        int best = 0;
        for (int k = 0; k < labels; k++) {
            double far = 0;
            for (int j = 2; j < RECORD; j++) { far += (r[j] - mean[k][j]) * (r[j] - mean[k][j]); }
            if (far < least) { least = far; best = k; }
        }
        right += best == r[label];
    }
    return right / (double)test->n;
}

START_TEST(pixels_alone_do_not_tell_the_shape) {
    // by the nearest mean picture: shapes above chance (1/8) but far from what a model learns (85 percent), but the styles
    Pictures train = generate(4000, 31), test = generate(1000, 32);
    double shapes = nearest_mean(&train, &test, 1, SHAPES), styles = nearest_mean(&train, &test, 0, STYLES);
    ck_assert_msg(shapes > 0.15 && shapes < 0.45, "shapes: %g", shapes);
    ck_assert_msg(styles > 0.9, "styles: %g", styles);
    free(train.records);
    free(test.records);
    PASS();
} END_TEST

static void expect_hash(const void* data, size_t n, uint64_t want, const char* what) {
    // FNV-1a, 64 bits
    uint64_t h = 14695981039346656037ULL;
    for (size_t i = 0; i < n; i++) { h = (h ^ ((const unsigned char*)data)[i]) * 1099511628211ULL; }
    ck_assert_msg(h == want, "%s: hash 0x%016llx, should be 0x%016llx", what, (unsigned long long)h, (unsigned long long)want);
}

START_TEST(same_bytes_on_every_machine) {
    Pictures a = generate(256, 1), b = generate(256, 2), more = generate(300, 1);
    expect_hash(a.records, 256 * RECORD, 0x7258e2295d1f7c58ULL, "records");
    expect_hash(a.truth, 256 * PATCHES, 0x966a3d09cc9187c0ULL, "truth");
    ck_assert_int_eq(memcmp(a.records, more.records, 256 * RECORD), 0); // more pictures begin with the same ones
    ck_assert_int_eq(memcmp(a.truth, more.truth, 256 * PATCHES), 0);
    int equal = 0;
    for (size_t i = 0; i < 256; i++) { equal += memcmp(a.records + i * RECORD + 2, b.records + i * RECORD + 2, RECORD - 2) == 0; }
    ck_assert_int_eq(equal, 0);
    free(a.records);
    free(b.records);
    free(more.records);
    PASS();
} END_TEST

START_TEST(sheet_shows_the_pictures) {
    unsigned char* sheet = draw_sheet(4), record[RECORD], truth[PATCHES];
    uint64_t state = pcg_seed(4);
    for (int style = 0; style < STYLES; style++) {
        for (int k = 0; k < 16; k++) {
            picture(&state, style, k / 2, record, truth);
            for (int i = 0; i < 96 * 96; i++) {
                int x = i % 96, y = i / 96;
                const unsigned char* at = sheet + 3 * ((style * 96 + y) * 1536 + k * 96 + x);
                for (int c = 0; c < 3; c++) { EXPECT(at[c] == record[2 + c * 1024 + y / 3 * 32 + x / 3], "row %d, %d", style, k); }
            }
        }
    }
    free(sheet);
    PASS();
} END_TEST

// ----------------------------------------------------------------------------
// Files and command line

static char folder[32]; // of this test, gone at its end

static const char* in_folder(const char* name) {
    static char paths[4][64];
    static int next = 0;
    char* path = paths[next++ % 4];
    snprintf(path, sizeof(paths[0]), "%s/%s", folder, name);
    return path;
}

static const char* command; // words with blanks between them
static Config parsed;
static void parse_command(void) {
    static char copy[256];
    char* argv[16];
    int argc = 0;
    snprintf(copy, sizeof(copy), "shapes %s", command);
    for (char* w = strtok(copy, " "); w != NULL; w = strtok(NULL, " ")) { argv[argc++] = w; }
    argv[argc] = NULL;
    parsed = parse_options(argc, argv);
}

START_TEST(options_are_read) {
    command = "";
    parse_command();
    ck_assert(parsed.n == 20000 && parsed.seed == 1 && parsed.truth == NULL && parsed.sheet == NULL);
    ck_assert_str_eq(parsed.out, "data/shapes_train.bin");
    command = "--n 10 -s 18446744073709551615 -o a --truth b --sheet c";
    parse_command();
    ck_assert(parsed.n == 10 && parsed.seed == UINT64_MAX);
    ck_assert_str_eq(parsed.out, "a");
    ck_assert_str_eq(parsed.truth, "b");
    ck_assert_str_eq(parsed.sheet, "c");
    command = "--sheet c";
    parse_command();
    ck_assert_ptr_null(parsed.out); // looking at examples must not replace what one trains on
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
    static const char* wrong[] = {"--number 5", "5", "-x 1", "--out", "--n", "--n 0", "--n -1", "--n 5x", "--n 1000001", "--n 1e3",
        "--seed 18446744073709551616", "--seed +1", "--out same --truth same", "--out same --sheet same",
        "--truth data/shapes_train.bin", "--sheet s --truth s"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        command = wrong[i];
        expect_error(2, parse_command, wrong[i]);
    }
    PASS();
} END_TEST

static Pictures summed;
static void print_it(void) { print_summary(&summed); }

START_TEST(summary_adds_up) {
    // three pictures: all background, all edge, half edge and half inside
    static unsigned char records[3 * RECORD], truth[3 * PATCHES];
    char said[4096];
    summed.n = 3;
    summed.records = records;
    summed.truth = truth;
    records[0] = records[RECORD] = INK;
    records[2 * RECORD] = CLOTH;
    memset(truth + PATCHES, EDGE, 2 * PATCHES);
    memset(truth + 2 * PATCHES, INSIDE, PATCHES / 2);
    ck_assert_int_eq(exit_status(said, sizeof(said), print_it), 99);
    ck_assert_ptr_nonnull(strstr(said, "\nink           2        50.0%   50.0%    0.0%\n"));
    ck_assert_ptr_nonnull(strstr(said, "\ncloth         1         0.0%   50.0%   50.0%\n"));
    ck_assert_ptr_nonnull(strstr(said, "\nall           3        33.3%   50.0%   16.7%\n"));
    ck_assert_ptr_null(strstr(said, "toy"));
    PASS();
} END_TEST

static void write_some(void) {
    static char text[100000];
    Part part = {text, sizeof(text)};
    write_file(in_folder("file"), &part, 1);
}

static void write_too_much(void) {
    struct rlimit small = {50000, 50000};
    signal(SIGXFSZ, SIG_IGN); // or the limit would kill
    setrlimit(RLIMIT_FSIZE, &small);
    write_some();
}

START_TEST(failed_writes_leave_nothing) {
    char old[16];
    strcpy(folder, "/tmp/dynmoe_XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    Part part = {"old", 3};
    write_file(in_folder("file"), &part, 1);
    expect_error(1, write_too_much, "full disk");
    FILE* f = fopen(in_folder("file"), "rb");
    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fread(old, 1, sizeof(old), f), 3); // the file that was there stays
    fclose(f);
    ck_assert_int_ne(access(in_folder("file.tmp"), F_OK), 0);
    remove(in_folder("file"));
    mkdir(in_folder("file"), 0700);
    expect_error(1, write_some, "a folder in the way");
    ck_assert_int_ne(access(in_folder("file.tmp"), F_OK), 0);
    rmdir(in_folder("file"));
    ck_assert_int_eq(rmdir(folder), 0);
    expect_error(1, write_some, "no such folder");
    PASS();
} END_TEST

// ----------------------------------------------------------------------------

int main(void) {
    suite_draw_code();
    Suite* s = suite_create("shapes");
    TCase* tc = tcase_create("shapes");
    tcase_set_timeout(tc, 60);
    suite_add_tcase(s, tc);
    tcase_add_exit_test(tc, pcg_is_the_published_one, pass_code);
    tcase_add_exit_test(tc, between_is_even, pass_code);
    tcase_add_exit_test(tc, turns_are_angles, pass_code);
    tcase_add_exit_test(tc, hues_are_the_colour_wheel, pass_code);
    tcase_add_exit_test(tc, shapes_are_the_shapes, pass_code);
    tcase_add_exit_test(tc, distances_are_distances, pass_code);
    tcase_add_exit_test(tc, truth_is_where_the_figure_is, pass_code);
    tcase_add_exit_test(tc, ink_and_toy_outline_the_edge_patches, pass_code);
    tcase_add_exit_test(tc, cloth_is_striped_on_plain_ground, pass_code);
    tcase_add_exit_test(tc, photo_has_light_and_shadow, pass_code);
    tcase_add_exit_test(tc, all_kinds_are_drawn_alike, pass_code);
    tcase_add_exit_test(tc, pixels_alone_do_not_tell_the_shape, pass_code);
    tcase_add_exit_test(tc, same_bytes_on_every_machine, pass_code);
    tcase_add_exit_test(tc, sheet_shows_the_pictures, pass_code);
    tcase_add_exit_test(tc, options_are_read, pass_code);
    tcase_add_exit_test(tc, help_names_every_option, pass_code);
    tcase_add_exit_test(tc, wrong_options_are_refused, pass_code);
    tcase_add_exit_test(tc, summary_adds_up, pass_code);
    tcase_add_exit_test(tc, failed_writes_leave_nothing, pass_code);

    int run, failed = suite_run(s, &run);
    return suite_end(failed, run);
}
