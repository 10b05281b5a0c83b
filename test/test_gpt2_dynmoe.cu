/*
The CUDA program against the C program, in one process: every kernel beside its C twin on several shapes, in fp32 and in bf16,
then whole training steps, the adaptive process, and checkpoints exchanged both ways.

    make test-cuda                    on a GPU
    make test-cuda CUDA_ON_CPU=1      the same source without one (docs/cuda_on_cpu.md)

Tolerances: cuda_compare.h.
*/
#define REFERENCE "../train_gpt2_dynmoe.c"
#include "cuda_reference.h"
#include "../train_gpt2_dynmoe.cu"
static GPT2 model;
#include "cuda_compare.h"

// ----------------------------------------------------------------------------------------------------------------------
// The flags

START_TEST(flags_of_both_programs_agree) { // apart from --dtype, --flash, --streams and --graph: the CUDA program's
    const char* argv[] = {"test"};
    flags_read(1, argv); // fills in the names
    ref::flags_read(1, argv);
    int j = 0, extra = 0;
    for (int i = 0; i < N_FLAGS; i++) {
        const Flag* f = &flag_table[i];
        const char* const own[] = {"dtype", "flash", "streams", "graph"};
        int is_own = 0;
        for (const char* o : own) { is_own |= strcmp(f->field, o) == 0; }
        if (is_own) { extra++; continue; }
        ck_assert_msg(j < (int)(sizeof ref::flag_table / sizeof ref::flag_table[0]), "%s: the C program has none", f->name);
        const ref::Flag* g = &ref::flag_table[j++];
        ck_assert_str_eq(f->field, g->field);
        ck_assert_str_eq(f->name, g->name);
        ck_assert_str_eq(f->type, g->type);
        ck_assert_str_eq(f->twin, g->twin);
        ck_assert_msg(strcmp(f->value, g->value) == 0, "%s: default %s, in the C program %s", f->name, f->value, g->value);
        ck_assert_msg(f->low == g->low && f->high == g->high, "%s: another range", f->name);
        ck_assert_msg(strcmp(f->help, g->help) == 0, "%s: %s\nin the C program: %s", f->name, f->help, g->help);
    }
    ck_assert_int_eq(extra, 4);
    ck_assert_int_eq(j, (int)(sizeof ref::flag_table / sizeof ref::flag_table[0]));
    PASS();
} END_TEST

// ----------------------------------------------------------------------------------------------------------------------
// The floor of a step: of GPT-2 124M at 64 x 1024 what was published (test/test_floors.sh compares with dev/floors.py)

START_TEST(floors) {
    Config c;
    char text[64];
    memset(&c, 0, sizeof c);
    c.T = 1024; c.Vp = 50304; c.L = 12; c.C = 768; c.H = 3072; c.E = 8;
    for (int l = 0; l < 12; l += 2) { c.moe[l] = 1; }
    double n = 322854960.0, expert = 768.0 * (2 * 3072 + 2) + 3072 + 1; // with its row of W and its G
    Floor f = step_floor(&c, n, 64, 2, 8), one = step_floor(&c, n, 64, 1, 8);
    ck_assert_msg(fabs(f.ms - 94.30) < 0.02 && fabs(one.ms - 79.19) < 0.02, "%.3f ms at k = 2, %.3f at 1", f.ms, one.ms);
    ck_assert_msg(fabs(1e-12 * f.flop - 63.41) < 0.05, "%.4g FLOP of the model", f.flop);
    double less = f.ms - step_floor(&c, n, 64, 2, 7).ms, want = 1e3 * 6 * 28 * expert / 4.3e12; // AdamW leaves a free slot alone
    ck_assert_msg(fabs(less - want) < 1e-6, "a free slot saves %.6f ms, want %.6f", less, want);
    ck_assert(peak_of("NVIDIA H100 80GB HBM3") == 989e12 && peak_of("NVIDIA H200") == 989e12);
    ck_assert(peak_of("NVIDIA H100 PCIe") == 0.0 && peak_of("NVIDIA H200 NVL") == 0.0 && peak_of("NVIDIA A100-SXM4-80GB") == 0.0);
    ck_assert(peak_of("CPU (emulation)") < 0.0);
    Floor half = {98.9e12, 150.0};
    ck_assert(fabs(floor_share(text, sizeof text, half, 200.0, 1, 989e12) - 0.5) < 1e-9);
    ck_assert_str_eq(text, " | 75.0% of floor, MFU 50.0%");
    ck_assert(floor_share(text, sizeof text, half, 200.0, 0, 989e12) == 0.0); // fp32
    ck_assert_str_eq(text, " | 494.5 TFLOP/s");
    ck_assert(floor_share(text, sizeof text, half, 200.0, 1, 0.0) == 0.0);
    ck_assert_str_eq(text, " | 494.5 TFLOP/s");
    ck_assert(floor_share(text, sizeof text, half, 200.0, 1, -1.0) == 0.0);
    ck_assert_str_eq(text, "");
    PASS();
} END_TEST

// ----------------------------------------------------------------------------------------------------------------------
// Layers

template <typename floatX> static void embedding(const char* dtype) {
    static const int shapes[][3] = {{2, 5, 8}, {3, 7, 33}, {1, 1, 3}, {2, 3, 300}}; // B, T, C: also more than a block has threads
    for (int s = 0; s < 4; s++) {
        int B = shapes[s][0], T = shapes[s][1], C = shapes[s][2], V = 6, N = B * T, tokens[32], order[32], first[33], seen[8];
        say(dtype, B, T, C);
        for (int i = 0; i < N; i++) { tokens[i] = (int)(random_u32(&rng) % 6); }
        size_t n = (size_t)N * C;
        float *wte = rounded<floatX>((size_t)V * C, 1), *wpe = rounded<floatX>((size_t)T * C, 1), *out = randoms(n, 1);
        float *d = rounded<floatX>(n, 1), *dwte = randoms((size_t)V * C, 1), *dwpe = randoms((size_t)T * C, 1);
        int* dev_tokens = up(tokens, (size_t)N);
        floatX* got = room<floatX>(n);
        embedding_forward(got, dev_tokens, upX<floatX>(wte, (size_t)V * C), upX<floatX>(wpe, (size_t)T * C), B, T, C);
        ref::embedding_forward(out, tokens, wte, wpe, B, T, C);
        near("out", got, out, n, 1);
        float *g = up(dwte, (size_t)V * C), *gp = up(dwpe, (size_t)T * C);
        int groups = tokens_group(order, first, seen, tokens, N, V);
        embedding_backward(g, gp, upX<floatX>(d, n), dev_tokens, up(order, (size_t)N), up(first, (size_t)groups + 1), groups, B, T,
                           C);
        ref::embedding_backward(dwte, dwpe, d, tokens, B, T, C);
        near("dwte", g, dwte, (size_t)V * C, N);
        near("dwpe", gp, dwpe, (size_t)T * C, B);
    }
}
BOTH_TYPES(embedding)

template <typename floatX> static void layernorm(const char* dtype) {
    static const int shapes[][2] = {{5, 8}, {300, 40}, {1, 100}, {1, 37}}; // N, C; the last one is a row of equal numbers
    for (int s = 0; s < 4; s++) {
        int N = shapes[s][0], C = shapes[s][1];
        size_t n = (size_t)N * C;
        say(dtype, N, C, 0);
        float *a = rounded<floatX>(n, 2), *b = rounded<floatX>(n, 1), *w = rounded<floatX>((size_t)C,
                                                                                           1), *bias = rounded<floatX>((size_t)C,
                                                                                                                       1);
        for (size_t i = 0; s == 3 && i < n; i++) { a[i] = 1.0f; b[i] = 0.5f; }
        float *x = randoms(n, 1), *out = randoms(n, 1), *mean = randoms((size_t)N, 1), *rstd = randoms((size_t)N, 1);
        floatX *gx = room<floatX>(n), *gout = room<floatX>(n), *gw = upX<floatX>(w, (size_t)C), *gb = upX<floatX>(bias, (size_t)C);
        float *gmean = room<float>((size_t)N), *grstd = room<float>((size_t)N), *scratch = room<float>(8 * (size_t)C);
        residual_layernorm_forward(gx, gout, gmean, grstd, upX<floatX>(a, n), upX<floatX>(b, n), gw, gb, N, C);
        ref::residual_forward(x, a, b, n);
        near("residual", gx, x, n, 1);
        round_to<floatX>(x, n); // as it is stored
        ref::layernorm_forward(out, mean, rstd, x, w, bias, N, C);
        near("out", gout, out, n, C);
        near("mean", gmean, mean, (size_t)N, C);
        near("rstd", grstd, rstd, (size_t)N, C);
        layernorm_forward(gout, gmean, grstd, upX<floatX>(x, n), gw, gb, N, C);
        near("alone", gout, out, n, C);
        float *d = rounded<floatX>(n, 1), *dx = rounded<floatX>(n, 1), *dw = randoms(2 * (size_t)C, 1);
        floatX* gdx = upX<floatX>(dx, n);
        float* gdw = up(dw, 2 * (size_t)C);
        layernorm_backward_add(gdx, gdw, gdw + C, upX<floatX>(d, n), upX<floatX>(x, n), gmean, grstd, gw, scratch, N, C);
        ref::layernorm_backward_add(dx, dw, dw + C, d, x, mean, rstd, w, N, C);
        near("dinp", gdx, dx, n, C);
        near("dweight, dbias", gdw, dw, 2 * (size_t)C, N);
    }
}
BOTH_TYPES(layernorm)

template <typename floatX> static void matmuls(const char* dtype) {
    static const int shapes[][3] = {{7, 16, 24}, {33, 12, 10}, {260, 8, 8}, {1, 3, 5}}; // N, C, OC: with and without epilogues
    for (int s = 0; s < 4; s++) {
        int N = shapes[s][0], C = shapes[s][1], OC = shapes[s][2];
        say(dtype, N, C, OC);
        size_t nc = (size_t)N * C, no = (size_t)N * OC, co = (size_t)C * OC;
        float *x = rounded<floatX>(nc, 1), *w = rounded<floatX>(co, 1), *b = rounded<floatX>((size_t)OC, 1), *out = randoms(no, 1);
        floatX *gx = upX<floatX>(x, nc), *gw = upX<floatX>(w, co), *gb = upX<floatX>(b, (size_t)OC), *got = room<floatX>(no);
        matmul_forward(got, gx, gw, gb, N, C, OC);
        ref::matmul_forward(out, x, w, b, N, C, OC);
        near("out", got, out, no, C);
        matmul_forward(got, gx, gw, (floatX*)NULL, N, C, OC);
        ref::matmul_forward(out, x, w, NULL, N, C, OC);
        near("without bias", got, out, no, C);
        float *d = rounded<floatX>(no, 1), *dx = randoms(nc, 1), *dw = randoms(co, 1), *db = randoms((size_t)OC, 1);
        float *gdw = up(dw, co), *gdb = up(db, (size_t)OC), *scratch = room<float>(4 * (size_t)OC);
        floatX* gdx = room<floatX>(nc);
        matmul_backward(gdx, gdw, gdb, upX<floatX>(d, no), gx, gw, scratch, N, C, OC);
        ref::matmul_backward(dx, dw, db, d, x, w, N, C, OC);
        near("dinp", gdx, dx, nc, OC);
        near("dweight", gdw, dw, co, N);
        near("dbias", gdb, db, (size_t)OC, N);
    }
}
BOTH_TYPES(matmuls)

template <typename floatX> static void plans_of_products(const char* dtype) {
    // one for all rows of a bucket; another for each other size, operation, type; and the oldest goes when there is no more room
    say(dtype, 0, 8, 16);
    const int rows[] = {1, 127, 128, 64, 129, 256, 257}, K = 8, N = 16, most = PLAN_ROWS * (MAX_PLANS + 2);
    float *x = rounded<floatX>((size_t)most * N, 1), *w = rounded<floatX>(N * 24, 1), *b = rounded<floatX>(24, 1);
    float* out = randoms((size_t)most * N, 1);
    floatX *gx = upX<floatX>(x, (size_t)most * N), *gw = upX<floatX>(w, N * 24), *gb = upX<floatX>(b, 24);
    floatX *got = room<floatX>((size_t)most * N), *aux = room<floatX>(300 * N);
    int before = plans_made;
    for (int i = 0; i < 7; i++) {
        ck_assert(matmul_epilogue(got, gx, gw, 1, rows[i], N, K, CUBLASLT_EPILOGUE_BIAS, gb, (floatX*)NULL));
        ref::matmul_forward(out, x, w, b, rows[i], K, N);
        near("out", got, out, (size_t)rows[i] * N, K);
    }
    ck_assert_int_eq(plans_made - before, 3);
    ck_assert(matmul_epilogue(got, gx, gw, 1, 9, K, N, CUBLASLT_EPILOGUE_BIAS, gb, (floatX*)NULL)); // N and K change places
    ck_assert(matmul_epilogue(got, gx, gw, 1, 9, N, N, CUBLASLT_EPILOGUE_BIAS, gb, (floatX*)NULL));
    ck_assert(matmul_epilogue(got, gx, gw, 1, 9, N, K, CUBLASLT_EPILOGUE_GELU_AUX_BIAS, gb, aux));
    ck_assert(matmul_epilogue(got, gx, gw, 0, 9, N, K, CUBLASLT_EPILOGUE_BIAS, gb, (floatX*)NULL));
    ck_assert_int_eq(plans_made - before, 7);
    ck_assert(matmul_epilogue(got, gx + 1, gw, 1, 9, N, K, CUBLASLT_EPILOGUE_BIAS, gb, (floatX*)NULL) == 0); // not at 16 bytes
    ck_assert(matmul_epilogue(got, gx, gw, 1, 9, N, K, CUBLASLT_EPILOGUE_BIAS, gb + 1, (floatX*)NULL) == 0);
    for (int M = 1; M <= most; M += PLAN_ROWS) {
        ck_assert(matmul_epilogue(got, gx, gw, 1, M, N, K, CUBLASLT_EPILOGUE_BIAS, gb, (floatX*)NULL));
    }
    ck_assert(plans_made - before > MAX_PLANS);
    before = plans_made;
    ck_assert(matmul_epilogue(got, gx, gw, 1, 128, N, K, CUBLASLT_EPILOGUE_BIAS, gb, (floatX*)NULL)); // it went
    ck_assert(matmul_epilogue(got, gx, gw, 1, most, N, K, CUBLASLT_EPILOGUE_BIAS, gb, (floatX*)NULL)); // it did not
    ck_assert_int_eq(plans_made - before, 1);
    ref::matmul_forward(out, x, w, b, most, K, N);
    near("the last", got, out, (size_t)most * N, K);
}
BOTH_TYPES(plans_of_products)

template <typename floatX> static void attention(const char* dtype) {
    static const int shapes[][4] = {{2, 5, 12, 3}, {1, 70, 16, 2}, {2, 1, 8, 1}, {1, 33, 8, 1}}; // B, T, C, NH
    for (int s = 0; s < 8; s++) {
        int B = shapes[s / 2][0], T = shapes[s / 2][1], C = shapes[s / 2][2], NH = shapes[s / 2][3], causal = s % 2;
        say(dtype, B, T, C);
        size_t n = (size_t)B * T * C, m = (size_t)B * NH * T * T;
        float *qkv = rounded<floatX>(3 * n, 1), *att = (float*)alloc_zeroed(m, sizeof(float), "a test");
        float *out = randoms(n, 1), *d = rounded<floatX>(n, 1);
        float *dqkv = randoms(3 * n, 1), *datt = randoms((size_t)B * NH * 64 * T, 1);
        floatX *gatt = room<floatX>(m), *gqkvr = room<floatX>(3 * n), *gout = room<floatX>(n), *scratch = room<floatX>(n);
        attention_forward(gout, gatt, gqkvr, scratch, upX<floatX>(qkv, 3 * n), B, T, C, NH, causal);
        ref::attention_forward(out, att, qkv, B, T, C, NH, causal);
        slack = sizeof(floatX) == 2 ? 3.0 / 256 : 2e-7; // scores and probabilities are stored as floatX in between
        near("att", gatt, att, m, C + T);
        near("out", gout, out, n, C + T);
        floatX *gdqkv = room<floatX>(3 * n), *gdatt = room<floatX>(m), *gdqkvr = room<floatX>(3 * n);
        attention_backward(gdqkv, gdatt, gdqkvr, scratch, upX<floatX>(d, n), gatt, gqkvr, B, T, C, NH);
        ref::attention_backward(dqkv, datt, d, att, qkv, B, T, C, NH, causal);
        slack *= 3;
        near("dqkv", gdqkv, dqkv, 3 * n, C + T);
        slack = 0.0;
    }
}
BOTH_TYPES(attention)

template <typename floatX> static void huge_scores(const char* dtype) { // exp(100) is more than a float holds
    int T = 5, C = 4;
    say(dtype, 1, T, C);
    float *qkv = rounded<floatX>(60, 1), *att = randoms(25, 0), *out = randoms(20, 1);
    for (int t = 0; t < T; t++) { // q k / sqrt(4) = 100 + t: exact in bf16 too
        for (int c = 0; c < C; c++) { qkv[t * 12 + c] = c == 0 ? 16.0f : 0.0f; }
        for (int c = 0; c < C; c++) { qkv[t * 12 + 4 + c] = c == 0 ? 12.5f + 0.125f * (float)t : 0.0f; }
    }
    floatX *gatt = room<floatX>(25), *gout = room<floatX>(20);
    attention_forward(gout, gatt, room<floatX>(60), room<floatX>(20), upX<floatX>(qkv, 60), 1, T, C, 1, 1);
    ref::attention_forward(out, att, qkv, 1, T, C, 1, 1);
    near("att", gatt, att, 25, T);
    slack = sizeof(floatX) == 2 ? 1.0 / 256 : 0.0; // probabilities are stored in between
    near("out", gout, out, 20, T);
}
BOTH_TYPES(huge_scores)

START_TEST(flash_attention) { // one tile and several, full ones and not; several heads and batches
    static const int lengths[] = {1, 7, 63, 64, 65, 128, 150};
    for (int i = 0; i < 14; i++) { flash_case(i % 3 + 1, lengths[i / 2], (i + 1) % 3 + 1, i % 2, 1.0f); }
    flash_case(1, 150, 1, 0, 5.0f); // scores of -80 to 80
    flash_case(1, 150, 1, 1, 5.0f);
    PASS();
} END_TEST

START_TEST(flash_batches) { // what else is in the batch does not change a bit, nor does the place in it
    int T = 70, C = 128, NH = 2;
    size_t n = (size_t)T * C, rows = (size_t)T * NH;
    float *qkv = rounded<bf16>(6 * n, 1), *d = rounded<bf16>(2 * n, 1), lse[2][280];
    bf16* out[2] = {room<bf16>(2 * n), room<bf16>(2 * n)};
    bf16* dqkv[2] = {room<bf16>(6 * n), room<bf16>(6 * n)};
    memcpy(qkv + 3 * n, qkv, 3 * n * sizeof(float));
    memcpy(d + n, d, n * sizeof(float));
    bf16 *gqkv = upX<bf16>(qkv, 6 * n), *gd = upX<bf16>(d, 2 * n);
    float *glse = room<float>(2 * rows), *delta = room<float>(2 * rows);
    for (int causal = 0; causal < 2; causal++) {
        for (int B = 1; B <= 2; B++) {
            flash_forward(out[B - 1], glse, gqkv, B, T, C, causal);
            flash_backward(dqkv[B - 1], delta, gd, out[B - 1], glse, gqkv, B, T, C, causal);
            to_host(lse[B - 1], glse, (size_t)B * rows * sizeof(float));
        }
        float *one = floats_of(out[0], n), *two = floats_of(out[1], 2 * n), *done = floats_of(dqkv[0], 3 * n);
        float* dtwo = floats_of(dqkv[1], 6 * n);
        for (int b = 0; b < 2; b++) {
            ck_assert(memcmp(one, two + b * n, n * sizeof(float)) == 0);
            ck_assert(memcmp(done, dtwo + b * 3 * n, 3 * n * sizeof(float)) == 0);
            ck_assert(memcmp(lse[0], lse[1] + b * rows, rows * sizeof(float)) == 0);
        }
        free(one); free(two); free(done); free(dtwo);
    }
    free(qkv); free(d);
    PASS();
} END_TEST

template <typename floatX> static void elementwise(const char* dtype) {
    size_t n = 777;
    say(dtype, (int)n, 0, 0);
    float *x = rounded<floatX>(n, 2), *y = rounded<floatX>(n, 1), *out = randoms(n, 1);
    floatX *gx = upX<floatX>(x, n), *gy = upX<floatX>(y, n), *got = room<floatX>(n);
    gelu_forward(got, gx, n);
    ref::gelu_forward(out, x, n);
    near("gelu", got, out, n, 1);
    gelu_backward(got, gy, gx, n);
    ref::gelu_backward(out, y, x, n);
    near("gelu backward", got, out, n, 1);
    residual_forward(got, gx, gy, n);
    ref::residual_forward(out, x, y, n);
    near("residual", got, out, n, 1);
}
BOTH_TYPES(elementwise)

template <typename floatX> static void classifier(const char* dtype) {
    static const int shapes[][3] = {{5, 11, 16}, {3, 300, 384}, {1, 1, 8}}; // N, V, Vp
    for (int s = 0; s < 3; s++) {
        int N = shapes[s][0], V = shapes[s][1], Vp = shapes[s][2], targets[8];
        say(dtype, N, V, Vp);
        size_t n = (size_t)N * Vp;
        float *z = rounded<floatX>(n, 3), *losses = randoms((size_t)N, 1), *lse = randoms((size_t)N,
                                                                                          1), *glosses = room<float>((size_t)N);
        for (size_t i = 0; s == 0 && i < n; i++) { z[i] += 100.0f; } // exp(100) is more than a float holds
        round_to<floatX>(z, n);
        floatX* gz = upX<floatX>(z, n);
        for (int i = 0; i < N; i++) { targets[i] = (int)(random_u32(&rng) % (uint32_t)V); }
        crossentropy(glosses, gz, up(targets, (size_t)N), N, V, Vp, 0);
        near("logits stay", gz, z, n, 1);
        slack = s == 0 ? 2 * 100 * FLT_EPSILON : 0.0; // the rounding of a sum of 100 and more
        ref::crossentropy_forward(losses, lse, z, targets, N, V, Vp);
        near("losses", glosses, losses, (size_t)N, V);
        crossentropy(glosses, gz, up(targets, (size_t)N), N, V, Vp, 1);
        ref::crossentropy_backward(z, lse, targets, 1.0f, N, V, Vp);
        near("dlogits", gz, z, n, V);
        slack = 0.0;
    }
}
BOTH_TYPES(classifier)

// ----------------------------------------------------------------------------------------------------------------------
// The DynMoE layer

// Experts on several streams, between work on queue 0 that writes what they read and reads what they write: the same bits as on one
// stream. On a GPU it is luck if a missing event shows; the emulation is asked for the orders in which it must (CUDACPU_STREAMS).
template <typename floatX> static void streams(const char* dtype) {
    static const int shapes[][2] = {{16, 24}, {15, 9}}; // C, H: with and without epilogues
    static const char* const orders[] = {"", "late", "early", "turns"};
    enum { N = 300, E = 7 };
    int open[N * E], k[N];
    float score[N * E] = {0}, weight[N * E];
    for (int i = 0; i < N; i++) { // expert 3 gets no row, 2 gets all
        k[i] = 0;
        for (int e = 0; e < E; e++) { k[i] += open[i * E + e] = e == 2 || (e != 3 && (i * 7 + e * 3) % 5 < 2); }
        for (int e = 0; e < E; e++) { weight[i * E + e] = (float)open[i * E + e] / (float)k[i]; }
    }
    for (int s = 0; s < 2; s++) {
        int C = shapes[s][0], H = shapes[s][1], *row_of = room<int>(N * E), *row_token = room<int>(N * E + E * ROW_PAD);
        size_t nc = (size_t)N * C, ec = (size_t)E * C, eh = (size_t)E * H, hc = eh * C, sums = 2 * hc + eh + ec;
        say(dtype, N, C, H);
        RouteStats host;
        size_t R = (size_t)dispatch(row_of, row_token, room<RouteStats>(1), &host, room<int>((N / BLOCK + 1) * E), up(open, N * E),
                                    up(k, N), up(score, N * E), N, E, N * E + E * ROW_PAD);
        floatX *x = upX<floatX>(rounded<floatX>(nc, 1), nc), *dy = upX<floatX>(rounded<floatX>(nc, 1), nc), *y = room<floatX>(nc);
        floatX* dx = room<floatX>(nc);
        floatX *fcw = upX<floatX>(rounded<floatX>(hc, 1), hc), *fcb = upX<floatX>(rounded<floatX>(eh, 1), eh);
        floatX *fcprojw = upX<floatX>(rounded<floatX>(hc, 1), hc), *fcprojb = upX<floatX>(rounded<floatX>(ec, 1), ec);
        floatX *rows = room<floatX>(R * (3 * C + 3 * H)), *out = rows + R * C, *dout = out + R * C, *pre = dout + R * C;
        floatX *act = pre + R * H, *dpre = act + R * H;
        float *gweight = up(weight, N * E), *grads = room<float>(sums), *dweight = room<float>(N * E);
        float* scratch = room<float>((size_t)(EXPERT_STREAMS * slabs_for(N)) * (C + H));
        floatX* host_y = (floatX*)alloc_zeroed(6 * nc, sizeof(floatX), "a test"); // (3, 2, N, C): wanted, got
        float* host_grads = (float*)alloc_zeroed(2 * sums, sizeof(float), "a test");
        for (int run = 0; run < 1 + 4 * 3; run++) { // the first run is what the others are compared with
            expert_queues = run == 0 ? 0 : 2 + run % 3;
            setenv("CUDACPU_STREAMS", orders[run == 0 ? 0 : (run - 1) / 3], 1);
            CUDA(cudaMemset(rows, 0xff, R * (3 * C + 3 * H) * sizeof(floatX))); // NaN
            CUDA(cudaMemset(grads, 0, sums * sizeof(float)));
            gather_forward(rows, x, row_token, (int)R, C);
            experts_forward(out, pre, act, rows, fcw, fcb, fcprojw, fcprojb, host.offset, host.count, E, C, H);
            combine_forward(y, (floatX*)NULL, out, row_of, gweight, N, C, E);
            combine_backward(dout, dweight, dy, out, row_of, gweight, N, C, E);
            experts_backward(dout, dpre, grads, grads + 2 * hc, grads + hc, grads + 2 * hc + eh, dout, rows, pre, act, fcw, fcprojw,
                             scratch, host.offset, host.count, E, C, H);
            gather_backward(dx, dout, row_of, N, C, E);
            int at = run > 0;
            to_host(host_y + at * nc, y, nc * sizeof(floatX));
            to_host(host_y + (2 + at) * nc, dx, nc * sizeof(floatX));
            to_host(host_grads + at * sums, grads, sums * sizeof(float));
            CUDA(cudaDeviceSynchronize());
            ck_assert_msg(isfinite(value(host_y[at * nc])) && value(host_y[at * nc]) != 0.0f, "%s: no output", where);
            int same = memcmp(host_y, host_y + at * nc, nc * sizeof(floatX)) == 0 &&
                       memcmp(host_y + 2 * nc, host_y + (2 + at) * nc, nc * sizeof(floatX)) == 0 &&
                       memcmp(host_grads, host_grads + at * sums, sums * sizeof(float)) == 0;
            ck_assert_msg(same, "%s: %d streams, %s: other bits", where, expert_queues, getenv("CUDACPU_STREAMS"));
            ck_assert(queue == queues);
        }
    }
    expert_queues = EXPERT_STREAMS;
    unsetenv("CUDACPU_STREAMS");
}
BOTH_TYPES(streams)

typedef struct { int N, C, E, H; float G; int all; const char* what; } MoeShape; // G for all experts; all: one mask bit each

static const MoeShape moe_shapes[] = {
    {37, 24, 5, 40, 0.05f, 1, "some"}, {300, 16, 8, 24, 0.0f, 1, "more than one block"}, {9, 8, 1, 8, -2.0f, 1,
        "one expert, always"},
    {9, 8, 1, 8, 2.0f, 1, "one expert, never"}, {20, 10, 3, 7, -2.0f, 1, "all open, odd sizes"}, {20, 12, 4, 8, 2.0f, 1,
        "k = 0 for all"},
    {33, 8, 4, 16, 0.0f, 0, "one active expert"}, {1, 13, 2, 5, 0.0f, 1, "one token"}, {6, 260, 2, 8, 0.0f, 1, "many channels"}};

template <typename floatX> static void moe_layer(const char* dtype) {
    // gate, dispatch, gather, experts, combine and everything back, for top-any and the softmax routers
    for (int s = 0; s < 9 * 6; s++) {
        const MoeShape* m = &moe_shapes[s / 6];
        int N = m->N, C = m->C, E = m->E, H = m->H, way = s % 6, softmax = way >= 3, normalised = way != 1, fallback = way == 2;
        int K = way == 3 ? 1 : way == 4 ? (E < 2 ? E : 2) : E, mask[8], renormalise = way == 4 && K > 1;
        float P = way == 5 ? 0.6f : INFINITY, G[8], tau = 2.0f;
        char text[200];
        snprintf(text, sizeof text, "%s, %s, way %d", dtype, m->what, way);
        where = text;
        for (int e = 0; e < E; e++) { mask[e] = m->all || e == 1; G[e] = m->G + 0.02f * (float)e; }
        size_t nc = (size_t)N * C, ne = (size_t)N * E, ec = (size_t)E * C, hc = (size_t)E * H * C, eh = (size_t)E * H;
        float *x = rounded<floatX>(nc, 1), *W = randoms(ec, 0.7f), *fcw = rounded<floatX>(hc, 0.3f), *fcb = rounded<floatX>(eh,
                                                                                                                            0.3f);
        float *fcprojw = rounded<floatX>(hc, 0.3f), *fcprojb = rounded<floatX>(ec, 0.3f), *dy = rounded<floatX>(nc, 1);
        // C
        int *open = (int*)alloc_zeroed(ne * 4, 4,
                                       "a test"), *row_of = open + ne, *row_token = row_of + ne, *k = row_token + ne, offset[9];
        float *score = randoms(ne, 1), *weight = randoms(ne, 1), *dgate = randoms(ne, 1), *xnorm = randoms((size_t)N, 1), wnorm[8];
        if (!softmax) {
            ref::gate_forward(open, k, score, xnorm, wnorm, x, W, G, mask, fallback, N, C, E);
            ref::mean_forward(weight, open, k, N, E);
        } else {
            ref::softmax_gate_forward(open, k, weight, score, x, W, mask, K, P, renormalise, N, C, E);
        }
        int R = ref::dispatch(row_of, row_token, offset, open, N, E), want_count[8], want_hist[9];
        float want_low[8], want_high[8];
        ref::route_stats(want_count, want_hist, want_low, want_high, open, k, score, N, E);
        size_t rc = (size_t)R * C, rh = (size_t)R * H;
        float *xr = randoms(rc, 1), *out = randoms(rc, 1), *pre = randoms(rh, 1), *act = randoms(rh, 1), *y = randoms(nc, 1);
        ref::gather_forward(xr, x, row_token, R, C);
        ref::experts_forward(out, pre, act, xr, fcw, fcb, fcprojw, fcprojb, offset, E, C, H);
        ref::combine_forward(y, out, row_of, weight, N, C, E);
        // CUDA
        int room_rows = N * E + E * ROW_PAD, *gopen = room<int>(ne), *gk = room<int>((size_t)N), *gmask = up(mask, (size_t)E);
        int *grow_of = room<int>(ne), *grow_token = room<int>((size_t)room_rows);
        int* block_count = room<int>((size_t)(N / BLOCK + 1) * E);
        float *gscore = room<float>(ne), *gweight = room<float>(ne), *gdgate = room<float>(ne), *gxnorm = room<float>((size_t)N);
        float *gwnorm = room<float>((size_t)E), *gW = up(W, ec), *gG = up(G, (size_t)E);
        floatX *gx = upX<floatX>(x, nc), *gfcw = upX<floatX>(fcw, hc), *gfcb = upX<floatX>(fcb,
                                                                                           eh), *gfcprojw = upX<floatX>(fcprojw,
                                                                                                                        hc);
        floatX *gfcprojb = upX<floatX>(fcprojb, ec), *gy = room<floatX>(nc);
        if (!softmax) {
            gate_forward(gopen, gk, gweight, gscore, gxnorm, gwnorm, gx, gW, gG, gmask, fallback, N, C, E);
        } else {
            softmax_gate_forward(gopen, gk, gweight, gscore, gx, gW, gmask, K, P, renormalise, N, C, E);
        }
        equal("open", gopen, open, ne);
        equal("k", gk, k, (size_t)N);
        near("score", gscore, score, ne, C);
        near("weight", gweight, weight, ne, C);
        RouteStats* stats = room<RouteStats>(1);
        RouteStats host;
        int padded = dispatch(grow_of, grow_token, stats, &host, block_count, gopen, gk, gscore, N, E, room_rows);
        for (int e = 0; e < E; e++) {
            ck_assert_int_eq(host.count[e], offset[e + 1] - offset[e]);
            ck_assert_int_eq(host.count[e], want_count[e]);
            ck_assert_int_eq(host.offset[e] % ROW_PAD, 0);
            ck_assert(fabsf(host.low[e] - want_low[e]) < 1e-5f && fabsf(host.high[e] - want_high[e]) < 1e-5f);
        }
        for (int j = 0; j <= E; j++) { ck_assert_int_eq(host.hist[j], want_hist[j]); }
        int *rows = (int*)alloc_zeroed(ne, 4, "a test"), *tokens = (int*)alloc_zeroed((size_t)room_rows, 4, "a test"), real = 0;
        to_host(rows, grow_of, ne * sizeof(int));
        to_host(tokens, grow_token, (size_t)room_rows * sizeof(int));
        for (int i = 0; i < N * E; i++) { // the same rows, each expert's moved to its padded place
            int e = i % E, want = row_of[i] < 0 ? -1 : row_of[i] - offset[e] + host.offset[e];
            if (rows[i] != want || (want >= 0 && tokens[want] != i / E)) { ck_abort_msg("%s: row_of[%d]: %d, want %d", where, i,
                                                                                        rows[i], want); }
        }
        for (int r = 0; r < padded; r++) { real += tokens[r] >= 0; }
        ck_assert_int_eq(real, R);
        size_t prc = (size_t)padded * C, prh = (size_t)padded * H;
        floatX *gxr = room<floatX>(prc), *gout = room<floatX>(prc), *gpre = room<floatX>(prh), *gact = room<floatX>(prh);
        gather_forward(gxr, gx, grow_token, padded, C);
        experts_forward(gout, gpre, gact, gxr, gfcw, gfcb, gfcprojw, gfcprojb, host.offset, host.count, E, C, H);
        combine_forward(gy, (floatX*)NULL, gout, grow_of, gweight, N, C, E);
        slack = sizeof(floatX) == 2 ? 6.0 / 256 : 3e-7; // pre, act and out are stored in between
        near("y", gy, y, nc, C + H);
        // back, C
        float *dout = randoms(rc, 1), *dpre = randoms(rh, 1), *dx = randoms(nc, 1), *dW = randoms(ec,
                                                                                                  0.1f), *dG = randoms((size_t)E,
                                                                                                                       0.1f);
        float *dfcw = randoms(hc, 0.1f), *dfcb = randoms(eh, 0.1f), *dfcprojw = randoms(hc, 0.1f), *dfcprojb = randoms(ec, 0.1f);
        float *gdW = up(dW, ec), *gdG = up(dG, (size_t)E), *gdfcw = up(dfcw, hc), *gdfcb = up(dfcb, eh), *gdfcprojw = up(dfcprojw,
                                                                                                                         hc);
        float *gdfcprojb = up(dfcprojb, ec), share[8], b, h;
        float* scratch = room<float>((size_t)(N / SLAB + 1) * (ec + eh + EXPERT_STREAMS * (size_t)(C + H)));
        double* sums = room<double>(2 * (size_t)E);
        PerExpert per;
        int n1 = N - host.hist[0], active = 0;
        for (int e = 0; e < E; e++) { active += mask[e]; }
        ref::combine_backward(dout, dgate, dy, out, row_of, weight, N, C, E);
        ref::experts_backward(dout, dpre, dfcw, dfcb, dfcprojw, dfcprojb, dout, xr, pre, act, fcw, fcprojw, offset, E, C, H);
        ref::gather_backward(dx, dout, row_of, N, C, E);
        // back, CUDA
        floatX *gdout = room<floatX>(prc), *gdpre = room<floatX>(prh), *gdx = room<floatX>(nc);
        combine_backward(gdout, gdgate, upX<floatX>(dy, nc), gout, grow_of, gweight, N, C, E);
        slack *= 3;
        near("dweight", gdgate, dgate, ne, C + H);
        experts_backward(gdout, gdpre, gdfcw, gdfcb, gdfcprojw, gdfcprojb, gdout, gxr, gpre, gact, gfcw, gfcprojw, scratch,
                         host.offset,
                         host.count, E, C, H);
        gather_backward(gdx, gdout, grow_of, N, C, E);
        near("dx, experts", gdx, dx, nc, C + H);
        near("dfcw", gdfcw, dfcw, hc, N);
        near("dfcb", gdfcb, dfcb, eh, N);
        near("dfcprojw", gdfcprojw, dfcprojw, hc, N);
        near("dfcprojb", gdfcprojb, dfcprojb, ec, N);
        if (!softmax) { // from here on from the same dweight
            to_device(gdgate, dgate, ne * sizeof(float));
            ref::mean_backward(dgate, open, k, normalised, N, E);
            ref::balance_loss(dgate, open, k, 0.7f, N, E);
            ref::efficiency_loss(dgate, open, k, 0.9f, N, E);
            for (int e = 0; e < E; e++) { per.of[e] = n1 > 0 ? (float)((double)host.used[e] / n1) : 0.0f; }
            gate_gradient_kernel<<<blocks_for((size_t)N, BLOCK), BLOCK>>>(gdgate, gopen, gk, per,
                                                                          n1 > 0 ? 0.7f * (float)E / (float)n1 : 0.0f,
                                                                          0.9f / ((float)N * (float)E), normalised, N, E);
            LAUNCHED();
            slack = 1e-6;
            near("dgate", gdgate, dgate, ne, E);
            to_device(gdgate, dgate, ne * sizeof(float));
            ref::gate_backward_add(dx, dW, dG, dgate, open, score, xnorm, wnorm, x, W, G, tau, N, C, E);
            gate_backward_add(gdx, gdW, gdG, gdgate, gopen, gscore, gxnorm, gwnorm, gx, gW, gG, tau, scratch, sums, N, C, E);
            near("dG", gdG, dG, (size_t)E, N);
        } else {
            to_device(gdgate, dgate, ne * sizeof(float));
            ref::softmax_losses(&b, &h, share, open, score, mask, way == 5 ? 1 : K < active ? K : active, N, E);
            memcpy(per.of, share, (size_t)E * sizeof(float));
            ref::softmax_gate_backward_add(dx, dW, dgate, open, weight, score, x, W, 0.8f, share, 0.6f, renormalise, N, C, E);
            softmax_gate_backward_add(gdx, gdW, gdgate, gopen, gweight, gscore, gx, gW, 0.8f, per, 0.6f, renormalise, scratch, N, C,
                                      E);
        }
        slack = sizeof(floatX) == 2 ? 16.0 / 256 : 3e-6;
        near("dx", gdx, dx, nc, C + H + E);
        slack = 3e-6; // W is float in both
        near("dW", gdW, dW, ec, C + N + E); // of the scores: sums over C
        slack = 0.0;
        free(open); free(rows); free(tokens);
    }
}
BOTH_TYPES(moe_layer)

template <typename floatX> static void gates_at_the_edge(const char* dtype) {
    // Tokens: a zero vector; cosine exactly at the threshold of expert 0; equally near to 1 and 2; nearest to 3, which is not
    // active. Cosines here are 0 or 1 exactly, so that both programs must come to the same decisions. Then logits above 100.
    const int N = 4, C = 4, E = 4, mask[4] = {1, 1, 1, 0};
    float x[16] = {0, 0, 0, 0, 2, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 8}, W[16] = {3, 0, 0, 0, 0, 5, 0, 0, 0, 5, 0, 0, 0, 0, 0, 7};
    float G[4] = {1.0f, 1.5f, 1.5f, -2.0f}, score[16], xnorm[4], wnorm[4], weight[16], dgate[16], dx[16], dW[16], dG[4];
    int open[16], k[4], *gopen = room<int>(16), *gk = room<int>(4), *gmask = up(mask, 4);
    floatX *gx = upX<floatX>(x, 16), *gdx = room<floatX>(16);
    float *gW = up(W, 16), *gG = up(G, 4), *gscore = room<float>(16), *gweight = room<float>(16), *gxnorm = room<float>(4);
    float *gwnorm = room<float>(4), *gdgate = room<float>(16), *gdW = room<float>(16), *gdG = room<float>(4);
    float *scratch = room<float>(16);
    double* sums = room<double>(8);
    for (int fallback = 0; fallback < 2; fallback++) {
        say(dtype, N, C, fallback);
        if (fallback) { x[1] = 0x1p-28f; gx = upX<floatX>(x, 16); } // token 0 has a cosine of 0.37 then, but no direction yet
        gate_forward(gopen, gk, gweight, gscore, gxnorm, gwnorm, gx, gW, gG, gmask, fallback, N, C, E);
        ref::gate_forward(open, k, score, xnorm, wnorm, x, W, G, mask, fallback, N, C, E);
        ref::mean_forward(weight, open, k, N, E);
        equal("open", gopen, open, 16);
        equal("k", gk, k, 4);
        near("cosine", gscore, score, 16, 1);
        near("weight", gweight, weight, 16, 1);
        for (int i = 0; i < 16; i++) { open[i] = mask[i % 4]; dgate[i] = 1.0f + (float)i; dx[i] = dW[i] = 0.5f; }
        for (int e = 0; e < 4; e++) { dG[e] = 0.5f; }
        to_device(gopen, open, sizeof open); // gradients of gates that are open, also of the zero vector
        to_device(gdgate, dgate, sizeof dgate);
        gdx = upX<floatX>(dx, 16); gdW = up(dW, 16); gdG = up(dG, 4);
        gate_backward_add(gdx, gdW, gdG, gdgate, gopen, gscore, gxnorm, gwnorm, gx, gW, gG, 2.0f, scratch, sums, N, C, E);
        ref::gate_backward_add(dx, dW, dG, dgate, open, score, xnorm, wnorm, x, W, G, 2.0f, N, C, E);
        near("dx", gdx, dx, 16, E);
        near("dW", gdW, dW, 16, N);
        near("dG", gdG, dG, 4, N);
    }
    for (int i = 0; i < 16; i++) { x[i] = i % 4 == 0 ? 10.0f : 0.0f; W[i] = i % 4 == 0 ? 10.0f + 0.1f * (float)(i / 4) : 0.0f; }
    softmax_gate_forward(gopen, gk, gweight, gscore, upX<floatX>(x, 16), up(W, 16), gmask, 2, INFINITY, 1, N, C, E);
    ref::softmax_gate_forward(open, k, weight, score, x, W, mask, 2, INFINITY, 1, N, C, E);
    equal("open, softmax", gopen, open, 16);
    equal("k, softmax", gk, k, 4);
    near("p", gscore, score, 16, 1);
    near("weight, softmax", gweight, weight, 16, 1);
}
BOTH_TYPES(gates_at_the_edge)

START_TEST(optimizer_and_rows) {
    size_t n = 700;
    say("adamw", 700, 0, 0);
    float *p = randoms(n, 1), *g = randoms(n, 1), *m = randoms(n, 0.1f), *v = randoms(n, 0.1f);
    for (size_t i = 0; i < n; i++) { v[i] *= v[i]; }
    float *gp = up(p, n), *gm = up(m, n), *gv = up(v, n);
    bf16* copy = room<bf16>(n);
    adamw_kernel<<<blocks_for(n, BLOCK), BLOCK>>>(gp, copy, up(g, n), gm, gv, n, 1e-2f, 0.9f, 0.99f, 1e-8f, 0.1f, 0.3f, 0.02f,
                                                  0.5f);
    LAUNCHED();
    ref::adamw(p, g, m, v, n, 1e-2f, 0.9f, 0.99f, 1e-8f, 0.1f, 0.3f, 0.02f, 0.5f);
    near("p", gp, p, n, 1);
    near("m", gm, m, n, 1);
    near("v", gv, v, n, 1);
    near("the copy for kernels", copy, p, n, 1);
    const int mask[5] = {1, 0, 1, 1, 1};
    float* W = randoms(5 * 40, 2);
    memset(W + 2 * 40, 0, 40 * sizeof(float)); // no direction: stays
    float* gW = up(W, 5 * 40);
    unit_rows_kernel<<<WARPS(5)>>>(gW, up(mask, 5), 40, 5);
    LAUNCHED();
    ref::unit_rows(W, mask, 40, 5);
    near("unit rows", gW, W, 5 * 40, 40);
    float *t = randoms(50 * 3, 1);
    double sums[3], want[3] = {0, 0, 0}, *scratch = room<double>(3);
    for (int i = 0; i < 150; i++) { t[i] = fabsf(t[i]); want[i % 3] += (double)t[i]; }
    token_sums(sums, up(t, 150), scratch, 50, 3, 0);
    for (int e = 0; e < 3; e++) { ck_assert(fabs(sums[e] - want[e]) < 1e-9); }
    int k[50];
    double sum[40], *gsum;
    float* x = randoms(50 * 40, 1);
    for (int i = 0; i < 50; i++) { k[i] = i % 3; }
    for (int c = 0; c < 40; c++) { sum[c] = 1.0 + c; }
    gsum = up(sum, 40);
    record_sum_kernel<<<2, WARP>>>(gsum, up(k, 50), up(x, 50 * 40), 50, 40);
    LAUNCHED();
    for (int i = 0; i < 50; i += 3) { for (int c = 0; c < 40; c++) { sum[c] += (double)x[i * 40 + c]; } }
    double got[40];
    to_host(got, gsum, sizeof got);
    for (int c = 0; c < 40; c++) { ck_assert_msg(got[c] == sum[c], "record_sum[%d]: %.17g, want %.17g", c, got[c], sum[c]); }
    PASS();
} END_TEST

// ----------------------------------------------------------------------------------------------------------------------
// Whole steps: the same run in both programs

static ref::GPT2 twin;
static Settings settings_cu;
static ref::Settings settings_c;
static unsigned char bytes[3000];

static int x[256], y[256];  // the first batch of bytes
static int flash_wish = 1;   // --flash, which the C program does not have

static void first_values(int is_bf16) { // of the twin, like those of a trained model
    uint64_t state = 5;
    ref::gpt2_init(&twin, settings_c.start_experts, 0, settings_c.threshold, &state);
    for (int i = 0; i < twin.n_tensors; i++) {
        const ref::Tensor* t = &twin.table[i];
        float* p = twin.params_memory + t->offset;
        if (t->first == ref::ORTHOGONAL) { continue; }
        size_t n = strcmp(t->name, "wte") == 0 ? (size_t)twin.config.V * twin.config.C : t->size;
        for (size_t j = 0; j < n; j++) {
            p[j] = (t->first == ref::ONES ? 1.0f : 0.0f) + (strstr(t->name, "gateG") ? 0.1f : 0.2f) * (float)random_normal(&rng);
        }
        if (is_bf16 && strstr(t->name, "gate") == NULL) { round_to<bf16>(p, t->size); }
    }
}

static void start_both(const char* line, int is_bf16) { // the same flags, the same first parameters
    const char* argv[64] = {"test"};
    static char words[600]; // the settings point into it
    int argc = 1;
    snprintf(words, sizeof words, "%s", line);
    for (char* word = strtok(words, " "); word != NULL; word = strtok(NULL, " ")) { argv[argc++] = word; }
    settings_cu = flags_read(argc, argv);
    settings_c = ref::flags_read(argc, argv);
    rng = 5 * 0x9E3779B97F4A7C15ull;
    int B = settings_c.batch, T = settings_c.context;
    for (int i = 0; i < 3000; i++) {
        bytes[i] = (unsigned char)(i < 1 || random_u32(&rng) % 8 == 0 ? random_u32(&rng) % 20 : (5u * bytes[i - 1] + 1) % 20);
    }
    for (int i = 0; i < B * T; i++) { x[i] = bytes[i]; y[i] = bytes[i + 1]; }
    ref::gpt2_build(&twin, ref::config_make(&settings_c, 20, NULL), B, T, 1);
    double closest = 0.0;
    for (int tries = 0; closest < MARGIN; tries++) {
        ck_assert_int_lt(tries, 500);
        first_values(is_bf16);
        closest = INFINITY;
        for (int l = 0; l < twin.config.L && closest >= MARGIN; l++) {
            if (!twin.config.moe[l]) { continue; }
            ref::gpt2_forward(&twin, x, y, B, T, 1);
            if (twin.config.router == ref::TOP_ANY) { thresholds_into_gaps(&twin, l); }
            ref::gpt2_forward(&twin, x, y, B, T, 1);
            closest = fmin(closest, margin(&twin, l));
        }
    }
    memset(&model, 0, sizeof model);
    model.bf16 = is_bf16;
    model.flash = flash_wish;
    gpt2_build(&model, config_make(&settings_cu, 20, NULL), settings_cu.batch, settings_cu.context, 1);
    copy_parameters(&twin);
    gpt2_to_device(&model);
}

static void free_both(void) { gpt2_free(&model); ref::gpt2_free(&twin); }

static const char* const step_flags[] = {
    "--layers 2 --heads 2 --channels 40 --context 12 --batch 3 --moe-layers none", // a tensor of more than 4096: see squares_kernel
    "--layers 3 --heads 2 --channels 16 --context 12 --batch 3 --moe-layers 0,2 --experts 5 --start-experts 3 --aux-diversity 0.3 "
    "--aux-simplicity 0.2 --aux-balance 0.4 --aux-efficiency 0.5",
    "--layers 2 --heads 1 --channels 12 --context 9 --batch 2 --moe-layers all --experts 4 --kgrad detached --gate-scale 3 "
    "--shared-experts 2 --expert-width 20",
    "--layers 2 --heads 2 --channels 16 --context 12 --batch 3 --moe-layers all --experts 4 --train-fallback 1 --aux-balance 0.4 "
    "--aux-efficiency 0.5",
    "--layers 2 --heads 2 --channels 16 --context 8 --batch 2 --moe-layers all --experts 4 --router top-k --topk 2",
    "--layers 2 --heads 2 --channels 16 --context 8 --batch 2 --moe-layers all --experts 4 --router top-p --topp 0.6 "
    "--aux-entropy 0.3",
    "--layers 2 --heads 2 --channels 16 --context 12 --batch 3 --moe-layers all --experts 3 --router dense --shared-experts 1"};

template <typename floatX> static void gates_again(const char* when) { // the C gate decides the same on what the CUDA gate read
    Device<floatX>* d = (Device<floatX>*)model.device;
    const ref::Config* c = &twin.config;
    int N = model.B * model.T, C = c->C, E = c->E, *open = (int*)alloc_zeroed((size_t)N * E, sizeof(int), "a test"), k[64];
    floatX* read = (floatX*)alloc_zeroed((size_t)N * C, sizeof(floatX), "a test");
    float *in = randoms((size_t)N * C, 1), *score = randoms((size_t)N * E, 1), *weight = randoms((size_t)N * E, 1), xnorm[64];
    float wnorm[MAX_EXPERTS];
    where = when;
    for (int l = 0; l < c->L; l++) {
        if (!c->moe[l]) { continue; }
        to_host(read, d->layer[l].ln2, (size_t)N * C * sizeof(floatX));
        for (int i = 0; i < N * C; i++) { in[i] = value(read[i]); }
        if (c->router == ref::TOP_ANY) {
            ref::gate_forward(open, k, score, xnorm, wnorm, in, twin.params.h[l].gatew, twin.params.h[l].gateG, twin.layer[l].mask,
                              c->train_fallback, N, C, E);
        } else {
            int K = router_K(&model.config);
            ref::softmax_gate_forward(open, k, weight, score, in, twin.params.h[l].gatew, twin.layer[l].mask, K,
                                      c->router == ref::TOP_P ? c->topp : INFINITY, c->router == ref::TOP_K && K > 1, N, C, E);
        }
        equal("open", d->layer[l].open, open, (size_t)N * E);
        equal("k", d->layer[l].k, k, (size_t)N);
        near("score", d->layer[l].score, score, (size_t)N * E, C);
    }
    free(open); free(read); free(in); free(score); free(weight);
}

static void one_step(int is_bf16) { // loss, auxiliary terms, decisions and every gradient of one step
    for (int f = 0; f < (int)(sizeof step_flags / sizeof step_flags[0]); f++) {
        start_both(step_flags[f], is_bf16);
        int B = settings_cu.batch, T = settings_cu.context;
        double loss = (double)gpt2_forward(&model, x, y, B, T, 1), want = (double)ref::gpt2_forward(&twin, x, y, B, T, 1);
        double bound = gradient_bound(is_bf16, B * T, model.config.L);
        double share = is_bf16 ? 1.0 / 512 : bound; // bf16: errors of tokens average out in sums
        ck_assert_msg(fabs(loss - want) <= share * want, "%s: loss %.7f, want %.7f", step_flags[f], loss, want);
        ck_assert_msg(fabs((double)model.aux - (double)twin.aux) <= share * fabs((double)twin.aux), "%s: aux %.7f, want %.7f",
                      step_flags[f], (double)model.aux, (double)twin.aux);
        if (is_bf16) { gates_again<bf16>(step_flags[f]); } else { gates_again<float>(step_flags[f]); }
        compare_layers(step_flags[f], &twin);
        gpt2_zero_grad(&model);
        gpt2_backward(&model, 0.5f);
        ref::gpt2_zero_grad(&twin);
        ref::gpt2_backward(&twin, 0.5f);
        double norm = gpt2_grad_norm(&model), want_norm = ref::gpt2_grad_norm(&twin);
        ck_assert_msg(fabs(norm - want_norm) <= (is_bf16 ? 1.0 / 128 : bound) * want_norm, "%s: norm %.6f, want %.6f",
                      step_flags[f], norm, want_norm);
        compare_gradients(step_flags[f], gpt2_grads(&model), &twin, bound);
        free_both();
    }
}
START_TEST(one_step_fp32) { one_step(0); PASS(); } END_TEST
START_TEST(one_step_bf16) { one_step(1); PASS(); } END_TEST

START_TEST(one_step_flash) { // with flash attention and without: against the C program, and against each other
    const char* line = "--layers 2 --heads 2 --channels 128 --context 70 --batch 2 --moe-layers 1 --experts 3 --router dense";
    float* grads[2];
    double losses[2];
    size_t bytes[2], n = 0, N = 140;
    for (int flash = 0; flash < 2; flash++) {
        flash_wish = flash;
        start_both(line, 1);
        for (int l = 0; l < 2; l++) { // scores of about 1: rounding them to bf16, as the other path does, then costs little
            for (int i = 0; i < 3 * 128 * 128; i++) { twin.params.h[l].qkvw[i] *= 0.5f; }
        }
        copy_parameters(&twin);
        gpt2_to_device(&model);
        ck_assert_int_eq(model.flash, flash);
        bytes[flash] = model.act_bytes;
        losses[flash] = (double)gpt2_forward(&model, x, y, 2, 70, 1);
        double want = (double)ref::gpt2_forward(&twin, x, y, 2, 70, 1), bound = gradient_bound(1, 140, 2);
        ck_assert_msg(fabs(losses[flash] - want) <= want / 512, "flash %d: loss %.7f, want %.7f", flash, losses[flash], want);
        compare_layers(flash ? "flash" : "no flash", &twin);
        gpt2_zero_grad(&model);
        gpt2_backward(&model, 1.0f);
        ref::gpt2_zero_grad(&twin);
        ref::gpt2_backward(&twin, 1.0f);
        compare_gradients(flash ? "flash" : "no flash", gpt2_grads(&model), &twin, bound);
        n = model.n_memory;
        grads[flash] = (float*)alloc_zeroed(n, sizeof(float), "a test");
        to_host(grads[flash], gpt2_grads(&model), n * sizeof(float));
        // the same memory serves a shorter text
        losses[flash] += want = (double)gpt2_forward(&model, x, y, 1, 13, 0);
        double shorter = (double)ref::gpt2_forward(&twin, x, y, 1, 13, 0);
        ck_assert_msg(fabs(want - shorter) <= shorter / 128, "flash %d: loss of 13 tokens %.7f, want %.7f", flash, want, shorter);
        free_both();
    }
    flash_wish = 1;
    double off = distance(grads[1], grads[0], n, 1.0);
    ck_assert_msg(off > 0.0 && off < 0.02, "gradients differ by %.3g", off); // not equal: another path
    ck_assert(fabs(losses[1] - losses[0]) < 0.01);
    // what flash does not keep: att of two layers, datt, dqkvr; what it keeps: lse of two layers, delta
    ck_assert_uint_eq(bytes[0] - bytes[1], (3 * N * 2 * 70 + 3 * N * 128) * sizeof(bf16) - 3 * N * 2 * sizeof(float));
    // heads of 32 and fp32 go through the matrices
    for (int i = 0; i < 2; i++) {
        start_both(i == 0 ? "--layers 1 --heads 4 --channels 128 --context 8 --batch 2 --moe-layers none"
                          : "--layers 1 --heads 1 --channels 64 --context 8 --batch 2 --moe-layers none", i == 0);
        ck_assert_int_eq(model.flash, 0);
        free_both();
    }
    free(grads[0]); free(grads[1]);
    PASS();
} END_TEST

static void events_of(FILE* log, char* said, size_t room) { // those of a log, in short: "4/0 remove 1 (0); "
    char line[4000], what[16];
    int step, layer, expert;
    long long count;
    rewind(log);
    *said = '\0';
    while (fgets(line, sizeof line, log) != NULL) {
        if (sscanf(line, "{\"type\":\"event\",\"step\":%d,\"layer\":%d,\"what\":\"%15[a-z]\",\"expert\":%d,\"count\":%lld", &step,
                   &layer, what, &expert, &count) == 5) {
            snprintf(said + strlen(said), room - strlen(said), "%d/%d %s %d (%lld); ", step, layer, what, expert, count);
        }
    }
}

START_TEST(ten_steps_with_adds_and_removes) {
    // Windows end at steps 4 and 9. Nobody can use expert 0 of layer 0 and expert 2 of layer 1 (G = 2): they go at step 4. Layer 0
    // has tokens without experts (G = 0.25): one comes, into the slot that was freed just now. Layer 1 has none (G = -1): none
    // comes. In layer 2 all experts are used and some tokens go without: slot 3, the lowest free one, is added. The new ones, with
    // G = 0, serve everybody, so the second window changes nothing. In brackets: tokens without experts in three steps of 36.
    start_both("--layers 3 --heads 2 --channels 16 --context 12 --batch 3 --moe-layers all --experts 5 --start-experts 3 "
               "--steps 12 --window 2 --period 5 --adapt-stop 1 --warmup 2 --lr 0.003", 0);
    float norm, want_norm;
    char events[1000], want_events[1000];
    for (int e = 0; e < 3; e++) {
        twin.params.h[0].gateG[e] = e == 0 ? 2.0f : 0.25f;
        twin.params.h[1].gateG[e] = e == 2 ? 2.0f : -1.0f;
        twin.params.h[2].gateG[e] = 0.1f;
    }
    copy_parameters(&twin);
    gpt2_to_device(&model);
    Shard shard = {bytes, 3000, 0, NULL};
    ref::Shard ref_shard = {bytes, 3000, 0, NULL};
    Data data = {&shard, 1, 1, "a text"};
    ref::Data ref_data = {&ref_shard, 1, 1, "a text"};
    Progress p = {0, 11, 22, INFINITY};
    ref::Progress q = {0, 11, 22, INFINITY};
    static Routing r[MAX_LAYERS];
    static ref::Routing rr[MAX_LAYERS];
    FILE *log = tmpfile(), *want_log = tmpfile();
    ck_assert(log != NULL && want_log != NULL);
    double bound = TIMES * sqrt(settings_c.batch * settings_c.context) * FLT_EPSILON;
    silent();
    for (int step = 0; step < 10; step++) {
        double loss = train_step(&model, &settings_cu, &data, &p, x, y, r, log, &norm);
        double want = ref::train_step(&twin, &settings_c, &ref_data, &q, x, y, rr, want_log, &want_norm);
        char when[20];
        snprintf(when, sizeof when, "step %d", step);
        ck_assert_msg(fabs(loss - want) <= bound * want, "%s: loss %.7f, want %.7f", when, loss, want);
        ck_assert_msg(fabsf(norm - want_norm) <= bound * want_norm, "%s: norm %.7f, want %.7f", when, (double)norm,
                      (double)want_norm);
        ck_assert(p.step == q.step && p.rng_data == q.rng_data);
        compare_layers(when, &twin);
        gpt2_to_host(&model);
        compare_records(&twin); // outside of windows they rest
    }
    events_of(log, events, sizeof events);
    events_of(want_log, want_events, sizeof want_events);
    ck_assert_str_eq(events, want_events);
    ck_assert_str_eq(events, "4/0 remove 0 (0); 4/0 add 0 (71); 4/1 remove 2 (0); 4/2 add 3 (19); ");
    fclose(log);
    fclose(want_log);
    for (int l = 0; l < 3; l++) {
        float G[MAX_EXPERTS];
        gpt2_thresholds(&model, l, G);
        for (int e = 0; e < 5; e++) { ck_assert(fabsf(G[e] - twin.params.h[l].gateG[e]) < 1e-5f); }
    }
    compare_adam(&twin, settings_c.lr, settings_c.beta2, 1e-8, 10);
    free_both();
    PASS();
} END_TEST

START_TEST(records_do_not_count_what_the_fallback_served) {
    start_both("--layers 2 --heads 2 --channels 16 --context 12 --batch 3 --moe-layers all --experts 4 --train-fallback 1", 0);
    model.recording = twin.recording = 1;
    gpt2_forward(&model, x, y, settings_cu.batch, settings_cu.context, 1);
    ref::gpt2_forward(&twin, x, y, settings_cu.batch, settings_cu.context, 1);
    gpt2_to_host(&model);
    ck_assert(twin.layer[0].record_unrouted > 0 && twin.layer[1].record_unrouted > 0);
    compare_records(&twin);
    free_both();
    PASS();
} END_TEST

START_TEST(checkpoints_are_exchanged_both_ways) {
    char path[100], again[100];
    snprintf(path, sizeof path, "%s/a.safetensors", folder);
    snprintf(again, sizeof again, "%s/b.safetensors", folder);
    start_both("--layers 2 --heads 2 --channels 16 --context 12 --batch 3 --moe-layers all --experts 5 --start-experts 3 "
               "--shared-experts 1", 0);
    for (size_t i = 0; i < twin.n_params; i++) { twin.m_memory[i] = (float)i; twin.v_memory[i] = 0.5f * (float)i; }
    twin.layer[1].record_count[2] = 77;
    twin.layer[1].record_sum[3] = 1.25;
    twin.layer[0].record_unrouted = 5;
    twin.recording = 1;
    ref::Progress q = {7, 123, 456, 2.5f};
    ref::checkpoint_save(&twin, &q, path);
    SafeFile f = safetensors_open(path);
    Progress p = {0, 0, 0, 0};
    ck_assert(config_make(&settings_cu, 20, &f).E == 5);
    checkpoint_load(&model, &f, &p);
    safetensors_close(&f);
    ck_assert(p.step == 7 && p.rng_data == 123 && p.rng_sample == 456 && p.best_val == 2.5f && model.recording == 1);
    gpt2_to_device(&model);
    memset(model.params_memory, 0, model.n_memory * sizeof(float)); // what is saved now comes from the device
    memset(model.m_memory, 0, model.n_memory * sizeof(float));
    memset(model.layer[1].record_sum, 0, 16 * sizeof(double));
    checkpoint_save(&model, &p, again);
    ref::SafeFile a = ref::safetensors_open(path), b = ref::safetensors_open(again);
    ck_assert_int_eq(a.n, b.n);
    for (int i = 0; i < a.n; i++) {
        const ref::SafeTensor* t = ref::safetensors_find(&b, a.tensors[i].name);
        ck_assert_msg(t != NULL && t->bytes == a.tensors[i].bytes && memcmp(t->data, a.tensors[i].data, t->bytes) == 0,
                      "%s differs",
                      a.tensors[i].name);
    }
    ref::Progress back = {0, 0, 0, 0};
    ref::checkpoint_load(&twin, &b, &back);
    ck_assert(back.step == 7 && twin.layer[1].record_count[2] == 77 && twin.layer[1].record_sum[3] == 1.25);
    free_both();
    PASS();
} END_TEST

START_TEST(graphs) { // five steps with captured attention: the same bits, also with batches of another size in between
    float *first = NULL, losses[2][5][2]; // with graphs or not, step, batch
    for (use_graphs = 0; use_graphs < 2; use_graphs++) {
        rng = 88172645463325252ull;
        start_both(step_flags[1], 0);
        int B = settings_cu.batch, T = settings_cu.context;
        for (int step = 0; step < 5; step++) {
            gpt2_forward(&model, x, y, B - 1, T, 0);
            losses[use_graphs][step][0] = gpt2_forward(&model, x, y, B - 1, T, 0);
            losses[use_graphs][step][1] = gpt2_forward(&model, x, y, B, T - 1, 0);
            gpt2_zero_grad(&model);
            gpt2_forward(&model, x, y, B, T, 1);
            gpt2_backward(&model, 1.0f);
            gpt2_update(&model, step, 0.01f, 0.9f, 0.99f, 1e-8f, 0.1f, 1.0f);
        }
        const Device<float>* d = (Device<float>*)model.device;
        for (int l = 0; l < model.config.L; l++) {
            ck_assert((d->layer[l].forward.exec != NULL) == use_graphs && (d->layer[l].backward.exec != NULL) == use_graphs);
        }
        gpt2_to_host(&model);
        size_t bytes = model.n_memory * sizeof(float);
        if (first == NULL) { first = (float*)alloc_zeroed(bytes, 1, "a test"); memcpy(first, model.params_memory, bytes); }
        ck_assert_msg(memcmp(first, model.params_memory, bytes) == 0, "other parameters with graphs");
        free_both();
    }
    ck_assert(memcmp(losses[0], losses[1], sizeof losses[0]) == 0);
    use_graphs = 0;
    free(first);
    PASS();
} END_TEST

START_TEST(evaluation_and_logits) {
    start_both(step_flags[1], 0);
    int B = settings_cu.batch, T = settings_cu.context;
    double loss = (double)gpt2_forward(&model, x, y, B, T, 0), want = (double)ref::gpt2_forward(&twin, x, y, B, T, 0);
    ck_assert_msg(fabs(loss - want) < 2e-5 * want, "loss %.7f, want %.7f", loss, want);
    compare_layers("evaluation", &twin);
    for (int row = 0; row < B * T; row += 7) {
        const float *got = gpt2_logits(&model, row), *logits = ref::gpt2_logits(&twin, row);
        for (int v = 0; v < 20; v++) { ck_assert_msg(fabsf(got[v] - logits[v]) < 1e-4f, "logit %d: %g, want %g", v, (double)got[v],
                                                     (double)logits[v]); }
    }
    free_both();
    PASS();
} END_TEST

// ----------------------------------------------------------------------------------------------------------------------

int main(void) {
    char name[300];
    int is_bf16;
    gpu_start(name, sizeof name, "auto", &is_bf16);
    ref::threads_set(1);
    printf("on %s\n", name);
    Suite* suite = suite_create("train_gpt2_dynmoe.cu");
    TEST(flags_of_both_programs_agree)
    TEST(floors)
    TEST_BOTH(embedding)
    TEST_BOTH(layernorm)
    TEST_BOTH(matmuls)
    TEST_BOTH(plans_of_products)
    TEST_BOTH(attention)
    TEST_BOTH(huge_scores)
    if (is_bf16) { TEST(flash_attention) }
    if (is_bf16) { TEST(flash_batches) }
    TEST_BOTH(elementwise)
    TEST_BOTH(classifier)
    TEST_BOTH(moe_layer)
    TEST_BOTH(streams)
    TEST_BOTH(gates_at_the_edge)
    TEST(optimizer_and_rows)
    TEST_BOTH(one_step)
    if (is_bf16) { TEST(one_step_flash) }
    TEST(evaluation_and_logits)
    TEST(graphs)
    TEST(records_do_not_count_what_the_fallback_served)
    TEST(checkpoints_are_exchanged_both_ways)
    TEST(ten_steps_with_adds_and_removes)
    return run_all(suite);
}
