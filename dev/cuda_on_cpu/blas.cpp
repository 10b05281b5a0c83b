// cuBLAS and cublasLt. Everything ends in gemm(): inputs become float, one product, alpha and beta, rounded once when stored.
// The product is OpenBLAS where it was found (CUDACPU_OPENBLAS), else three loops.
#include "cublasLt.h"
#include "internal.h"
#include <algorithm>
#include <map>
#include <vector>
#ifdef CUDACPU_OPENBLAS
#include <cblas.h>
#include <dlfcn.h>
#endif
using namespace cudacpu;

// ----------------------------------------------------------------------------------------------------------------------
// One product

struct Matrix { // column-major, with `trans` used as its transpose
    const void* p;
    cudaDataType type;
    int64_t ld;
    bool trans;
};

static size_t size_of(cudaDataType type) { return type == CUDA_R_32F ? 4 : type == CUDA_R_16BF ? 2 : 0; } // 0: not supported
static float load(const void* p, size_t i, cudaDataType type) {
    return type == CUDA_R_32F ? ((const float*)p)[i] : (float)((const __nv_bfloat16*)p)[i];
}
static void store(void* p, size_t i, cudaDataType type, float v) {
    if (type == CUDA_R_32F) { ((float*)p)[i] = v; } else { ((__nv_bfloat16*)p)[i] = v; }
}
static const char* offset(const void* p, int64_t elements, cudaDataType type) {
    return (const char*)p + elements * (int64_t)size_of(type);
}

static void touch(const void* p, cudaDataType type, int rows, int columns, int64_t ld, bool write, const char* what) {
    for (int j = 0; j < columns; j++) { touch_range(offset(p, j * ld, type), (size_t)rows * size_of(type), write, what); }
}

// op(x) as a dense matrix of floats with `rows` rows, column-major
static void unpack(std::vector<float>& to, Matrix x, int rows, int columns) {
    to.resize((size_t)rows * columns);
    for (int j = 0; j < columns; j++) {
        for (int i = 0; i < rows; i++) {
            to[(size_t)j * rows + i] = load(x.p, x.trans ? (size_t)(i * x.ld + j) : (size_t)(j * x.ld + i), x.type);
        }
    }
}

#ifdef CUDACPU_OPENBLAS
// OpenBLAS with OpenMP starts all threads even for small products, and they spin between the calls: a third of a small model's
// time. One thread then. dlsym, because the program may be linked without OpenMP.
static void sgemm(bool ta, bool tb, int m, int n, int k, const float* a, int lda, const float* b, int ldb, float* out) {
    static auto most = (int (*)(void))dlsym(RTLD_DEFAULT, "omp_get_max_threads");
    static auto set = (void (*)(int))dlsym(RTLD_DEFAULT, "omp_set_num_threads");
    bool small = (double)m * n * k < 1e8 && most != NULL && set != NULL;
    int threads = small ? most() : 0;
    if (small) { set(1); }
    cblas_sgemm(CblasColMajor, ta ? CblasTrans : CblasNoTrans, tb ? CblasTrans : CblasNoTrans, m, n, k, 1.0f, a, lda, b, ldb, 0.0f,
                out, m);
    if (small) { set(threads); }
}
#endif

static void product(std::vector<float>& out, Matrix A, Matrix B, int m, int n, int k) { // out (m, n) = op(A) op(B)
    static std::vector<float> a, b;
    out.assign((size_t)m * n, 0.0f);
    if (m == 0 || n == 0 || k == 0) { return; }
#ifdef CUDACPU_OPENBLAS
    if (A.type == CUDA_R_32F && B.type == CUDA_R_32F) {
        sgemm(A.trans, B.trans, m, n, k, (const float*)A.p, (int)A.ld, (const float*)B.p, (int)B.ld, out.data());
        return;
    }
#endif
    unpack(a, A, m, k);
    unpack(b, B, k, n);
#ifdef CUDACPU_OPENBLAS
    sgemm(false, false, m, n, k, a.data(), m, b.data(), k, out.data());
#else
    for (int j = 0; j < n; j++) {
        float* column = &out[(size_t)j * m];
        for (int p = 0; p < k; p++) {
            float scale = b[(size_t)j * k + p];
            const float* x = &a[(size_t)p * m];
            for (int i = 0; i < m; i++) { column[i] += x[i] * scale; }
        }
    }
#endif
}

static bool valid(cublasOperation_t op) { return op == CUBLAS_OP_N || op == CUBLAS_OP_T || op == CUBLAS_OP_C; }

static cublasStatus_t check_arguments(int m, int n, int k, Matrix A, Matrix B, Matrix C) { // what cuBLAS refuses
    if (m < 0 || n < 0 || k < 0) { return CUBLAS_STATUS_INVALID_VALUE; }
    if (A.ld < std::max(1, A.trans ? k : m) || B.ld < std::max(1, B.trans ? n : k) || C.ld < std::max(1, m)) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    if (size_of(A.type) == 0 || size_of(B.type) == 0 || size_of(C.type) == 0) { return CUBLAS_STATUS_NOT_SUPPORTED; }
    return CUBLAS_STATUS_SUCCESS;
}

// out (m, n) = alpha op(A) op(B) + beta C, not yet stored
static void gemm(std::vector<float>& out, int m, int n, int k, float alpha, Matrix A, Matrix B, float beta, Matrix C) {
    touch(A.p, A.type, A.trans ? k : m, A.trans ? m : k, A.ld, false, "cuBLAS, A");
    touch(B.p, B.type, B.trans ? n : k, B.trans ? k : n, B.ld, false, "cuBLAS, B");
    if (beta != 0.0f) { touch(C.p, C.type, m, n, C.ld, false, "cuBLAS, C"); }
    product(out, A, B, m, n, k);
    for (int j = 0; j < n; j++) {
        for (int i = 0; i < m; i++) {
            float& v = out[(size_t)j * m + i];
            v = alpha * v + (beta != 0.0f ? beta * load(C.p, (size_t)(j * C.ld + i), C.type) : 0.0f);
        }
    }
}

static void store_all(const std::vector<float>& v, void* D, cudaDataType type, int m, int n, int64_t ld, const char* what) {
    touch(D, type, m, n, ld, true, what);
    for (int j = 0; j < n; j++) {
        for (int i = 0; i < m; i++) { store(D, (size_t)(j * ld + i), type, v[(size_t)j * m + i]); }
    }
}

// ----------------------------------------------------------------------------------------------------------------------
// cuBLAS

struct cublasContext { cudaStream_t stream; };
cublasStatus_t cublasCreate(cublasHandle_t* handle) { *handle = new cublasContext{NULL}; return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasDestroy(cublasHandle_t handle) { delete handle; return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasSetStream(cublasHandle_t handle, cudaStream_t s) { handle->stream = s; return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasSetMathMode(cublasHandle_t, cublasMath_t) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasSetWorkspace(cublasHandle_t, void*, size_t) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasGetVersion(cublasHandle_t, int* version) { *version = CUDART_VERSION * 10; return CUBLAS_STATUS_SUCCESS; }
const char* cublasGetStatusString(cublasStatus_t status) {
    switch (status) {
        case CUBLAS_STATUS_SUCCESS: return "the operation completed successfully";
        case CUBLAS_STATUS_NOT_INITIALIZED: return "the library was not initialized";
        case CUBLAS_STATUS_INVALID_VALUE: return "an unsupported value or parameter was passed to the function";
        case CUBLAS_STATUS_NOT_SUPPORTED: return "the requested functionality is not supported";
        default: return "an error";
    }
}

cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
                                          const void* alpha, const void* A, cudaDataType type_a, int lda, long long stride_a,
                                          const void* B, cudaDataType type_b, int ldb, long long stride_b, const void* beta,
                                          void* C, cudaDataType type_c, int ldc, long long stride_c, int batches,
                                          cublasComputeType_t, cublasGemmAlgo_t) {
    static std::vector<float> out;
    if (handle == NULL) { return CUBLAS_STATUS_NOT_INITIALIZED; }
    if (!valid(ta) || !valid(tb) || batches < 0) { return CUBLAS_STATUS_INVALID_VALUE; }
    float times = *(const float*)alpha, plus = *(const float*)beta;
    Matrix a = {A, type_a, lda, ta != CUBLAS_OP_N}, bb = {B, type_b, ldb, tb != CUBLAS_OP_N}, c = {C, type_c, ldc, false};
    cublasStatus_t status = check_arguments(m, n, k, a, bb, c);
    if (status != CUBLAS_STATUS_SUCCESS) { return status; }
    in_stream(handle->stream, [=] {
        for (int i = 0; i < batches; i++) {
            Matrix ai = a, bi = bb, ci = c;
            ai.p = offset(A, i * stride_a, type_a);
            bi.p = offset(B, i * stride_b, type_b);
            ci.p = offset(C, i * stride_c, type_c);
            gemm(out, m, n, k, times, ai, bi, plus, ci);
            store_all(out, (void*)(uintptr_t)ci.p, type_c, m, n, ldc, "cuBLAS, C");
        }
    });
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
                            const void* alpha, const void* A, cudaDataType type_a, int lda, const void* B, cudaDataType type_b,
                            int ldb, const void* beta, void* C, cudaDataType type_c, int ldc, cublasComputeType_t compute,
                            cublasGemmAlgo_t algo) {
    return cublasGemmStridedBatchedEx(handle, ta, tb, m, n, k, alpha, A, type_a, lda, 0, B, type_b, ldb, 0, beta, C, type_c, ldc, 0,
                                      1, compute, algo);
}

cublasStatus_t cublasSgemm(cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
                           const float* alpha, const float* A, int lda, const float* B, int ldb, const float* beta, float* C,
                           int ldc) {
    return cublasSgemmStridedBatched(handle, ta, tb, m, n, k, alpha, A, lda, 0, B, ldb, 0, beta, C, ldc, 0, 1);
}

cublasStatus_t cublasSgemmStridedBatched(cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
                                         const float* alpha, const float* A, int lda, long long stride_a, const float* B, int ldb,
                                         long long stride_b, const float* beta, float* C, int ldc, long long stride_c,
                                         int batches) {
    return cublasGemmStridedBatchedEx(handle, ta, tb, m, n, k, alpha, A, CUDA_R_32F, lda, stride_a, B, CUDA_R_32F, ldb, stride_b,
                                      beta, C, CUDA_R_32F, ldc, stride_c, batches, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
}

// ----------------------------------------------------------------------------------------------------------------------
// cublasLt

struct cudacpu_matmul {
    cublasOperation_t ta, tb;
    int epilogue;
    void *bias, *aux;
    int64_t aux_ld;
    int bias_type, aux_type; // -1: that of D
};
struct cudacpu_layout { cudaDataType type; uint64_t rows, cols; int64_t ld; int batches; int64_t stride; };
struct cudacpu_preference { int unused; };
enum { DO_RELU = 2, DO_BIAS = 4, DO_BIAS_GRADIENT = 16, DO_GELU = 32, DO_DGELU = 64, WITH_AUX = 128 }; // bits of the epilogues

static int a_handle;
cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
    *handle = (cublasLtHandle_t)(void*)&a_handle;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t) { return CUBLAS_STATUS_SUCCESS; }
size_t cublasLtGetVersion(void) { return CUDART_VERSION * 10; }
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* desc, cublasComputeType_t, cudaDataType_t) {
    *desc = new cudacpu_matmul{CUBLAS_OP_N, CUBLAS_OP_N, CUBLASLT_EPILOGUE_DEFAULT, NULL, NULL, 0, -1, -1};
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) { delete desc; return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t which, const void* value,
                                              size_t size) {
    struct { void* to; size_t size; } field = {NULL, 0};
    switch (which) {
        case CUBLASLT_MATMUL_DESC_TRANSA: field = {&desc->ta, 4}; break;
        case CUBLASLT_MATMUL_DESC_TRANSB: field = {&desc->tb, 4}; break;
        case CUBLASLT_MATMUL_DESC_EPILOGUE: field = {&desc->epilogue, 4}; break;
        case CUBLASLT_MATMUL_DESC_BIAS_POINTER: field = {&desc->bias, 8}; break;
        case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER: field = {&desc->aux, 8}; break;
        case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD: field = {&desc->aux_ld, 8}; break;
        case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE: field = {&desc->aux_type, 4}; break;
        case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE: field = {&desc->bias_type, 4}; break;
        default: return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    if (size != field.size) { return CUBLAS_STATUS_INVALID_VALUE; } // often a pointer's size where an int's was meant
    memcpy(field.to, value, size);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type, uint64_t rows, uint64_t cols,
                                          int64_t ld) {
    *layout = new cudacpu_layout{type, rows, cols, ld, 1, 0};
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) { delete layout; return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout, cublasLtMatrixLayoutAttribute_t which,
                                                const void* value, size_t size) {
    if (which == CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT && size == 4) { memcpy(&layout->batches, value, 4); }
    else if (which == CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET && size == 8) { memcpy(&layout->stride, value, 8); }
    else if (which == CUBLASLT_MATRIX_LAYOUT_LD && size == 8) { memcpy(&layout->ld, value, 8); }
    else if (which == CUBLASLT_MATRIX_LAYOUT_ROWS && size == 8) { memcpy(&layout->rows, value, 8); }
    else if (which == CUBLASLT_MATRIX_LAYOUT_COLS && size == 8) { memcpy(&layout->cols, value, 8); }
    else { return CUBLAS_STATUS_NOT_SUPPORTED; }
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
    *preference = new cudacpu_preference{0};
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p) { delete p; return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t, cublasLtMatmulPreferenceAttributes_t, const void*,
                                                    size_t) { return CUBLAS_STATUS_SUCCESS; }
// What an algorithm is chosen for, as the caller may keep it: it fits other products only if they have fewer columns
static cublasLtMatmulAlgo_t chosen_for(const cudacpu_matmul* d, const cudacpu_layout* a, const cudacpu_layout* out) {
    uint64_t k = d->ta != CUBLAS_OP_N ? a->rows : a->cols;
    return {{out->cols, out->rows, k, (uint64_t)d->ta, (uint64_t)d->tb, (uint64_t)d->epilogue, (uint64_t)a->type,
             (uint64_t)out->type}};
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t layout_a,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t layout_d,
                                              cublasLtMatmulPreference_t, int wanted, cublasLtMatmulHeuristicResult_t results[],
                                              int* found) {
    if (wanted < 1) { return CUBLAS_STATUS_INVALID_VALUE; }
    memset(&results[0], 0, sizeof results[0]);
    results[0].algo = chosen_for(desc, layout_a, layout_d);
    *found = 1;
    return CUBLAS_STATUS_SUCCESS;
}

// GELU with tanh, as cuBLAS has it, and its derivative
static const float GELU_SCALE = 0.7978845608f, GELU_CUBE = 0.044715f;
static float gelu(float x) { return 0.5f * x * (1.0f + tanhf(GELU_SCALE * (x + GELU_CUBE * x * x * x))); }
static float gelu_derivative(float x) {
    float t = tanhf(GELU_SCALE * (x + GELU_CUBE * x * x * x));
    return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * GELU_SCALE * (1.0f + 3.0f * GELU_CUBE * x * x);
}

static cudaDataType type_or(int type, cudaDataType otherwise) { return type < 0 ? otherwise : (cudaDataType)type; }

// bias (count) = sums over k of op(A) (m, k), one for each row, or of op(B) (k, n), one for each column
static void sum_over_k(void* bias, cudaDataType type, Matrix x, int count, int k, bool of_b) {
    touch_range(bias, (size_t)count * size_of(type), true, "cublasLt, bias gradient");
    for (int i = 0; i < count; i++) {
        float sum = 0.0f;
        for (int p = 0; p < k; p++) {
            int64_t row = of_b ? p : i, column = of_b ? i : p;
            sum += load(x.p, (size_t)(x.trans ? row * x.ld + column : column * x.ld + row), x.type);
        }
        store(bias, (size_t)i, type, sum);
    }
}

// What happens to the product v (m, n) before it is stored
static void epilogue(std::vector<float>& v, const cudacpu_matmul* d, int m, int n, cudaDataType type) {
    cudaDataType bias_type = type_or(d->bias_type, type), aux_type = type_or(d->aux_type, type);
    bool derivative = (d->epilogue & DO_DGELU) != 0, keep = (d->epilogue & WITH_AUX) != 0 && !derivative;
    // no preference tells cublasLt how a bias is aligned, and its kernels may read 16 bytes at a time
    if ((d->epilogue & DO_BIAS) && (uintptr_t)d->bias % 16 != 0) {
        failure("cublasLt: the bias at %p is not aligned to 16 bytes", d->bias);
    }
    if (d->epilogue & DO_BIAS) { touch_range(d->bias, (size_t)m * size_of(bias_type), false, "cublasLt, bias"); }
    if (d->epilogue & WITH_AUX) { touch(d->aux, aux_type, m, n, d->aux_ld, keep, "cublasLt, aux"); }
    for (int j = 0; j < n; j++) {
        for (int i = 0; i < m; i++) {
            float& x = v[(size_t)j * m + i];
            size_t at = (size_t)(j * d->aux_ld + i);
            if (d->epilogue & DO_BIAS) { x += load(d->bias, (size_t)i, bias_type); }
            if (keep) { store(d->aux, at, aux_type, x); }
            if (d->epilogue & DO_RELU) { x = x > 0.0f ? x : 0.0f; }
            if (d->epilogue & DO_GELU) { x = gelu(x); }
            if (derivative) { x *= gelu_derivative(load(d->aux, at, aux_type)); }
        }
    }
    if ((d->epilogue & DO_BIAS_GRADIENT) == 0) { return; }
    touch_range(d->bias, (size_t)m * size_of(bias_type), true, "cublasLt, bias gradient");
    for (int i = 0; i < m; i++) {
        float sum = 0.0f;
        for (int j = 0; j < n; j++) { sum += v[(size_t)j * m + i]; }
        store(d->bias, (size_t)i, bias_type, sum);
    }
}

struct LtProduct { // the caller may change or destroy its descriptions after the call
    cudacpu_matmul op;
    cudacpu_layout a, b, c, d;
    const void *A, *B, *C;
    void* D;
    float alpha, beta;
    int m() const { return (int)d.rows; }
    int n() const { return (int)d.cols; }
    int k() const { return (int)(op.ta != CUBLAS_OP_N ? a.rows : a.cols); }
    Matrix matrix(const void* p, const cudacpu_layout& l, bool trans, int batch) const {
        return {offset(p, batch * l.stride, l.type), l.type, l.ld, trans};
    }
    Matrix left(int batch) const { return matrix(A, a, op.ta != CUBLAS_OP_N, batch); }
    Matrix right(int batch) const { return matrix(B, b, op.tb != CUBLAS_OP_N, batch); }
};

static cublasStatus_t check_product(const LtProduct& p) {
    bool ta = p.op.ta != CUBLAS_OP_N, tb = p.op.tb != CUBLAS_OP_N;
    bool fit = (ta ? p.a.cols : p.a.rows) == p.d.rows && (tb ? p.b.cols : p.b.rows) == (uint64_t)p.k()
        && (tb ? p.b.rows : p.b.cols) == p.d.cols && p.c.rows == p.d.rows && p.c.cols == p.d.cols && p.d.ld >= p.m();
    bool needs_bias = (p.op.epilogue & (DO_BIAS | DO_BIAS_GRADIENT | CUBLASLT_EPILOGUE_BGRADA | CUBLASLT_EPILOGUE_BGRADB)) != 0;
    bool needs_aux = (p.op.epilogue & WITH_AUX) != 0;
    if (!fit || (needs_bias && p.op.bias == NULL) || (needs_aux && (p.op.aux == NULL || p.op.aux_ld < p.m())) ||
        size_of(p.d.type) == 0) { return CUBLAS_STATUS_INVALID_VALUE; }
    return check_arguments(p.m(), p.n(), p.k(), p.left(0), p.right(0), p.matrix(p.C, p.c, false, 0));
}

static void do_product(const LtProduct& p) {
    static std::vector<float> out;
    cudaDataType bias_type = type_or(p.op.bias_type, p.d.type);
    for (int batch = 0; batch < p.d.batches; batch++) {
        Matrix a = p.left(batch), b = p.right(batch);
        gemm(out, p.m(), p.n(), p.k(), p.alpha, a, b, p.beta, p.matrix(p.C, p.c, false, batch));
        if (p.op.epilogue & CUBLASLT_EPILOGUE_BGRADA) { sum_over_k(p.op.bias, bias_type, a, p.m(), p.k(), false); }
        if (p.op.epilogue & CUBLASLT_EPILOGUE_BGRADB) { sum_over_k(p.op.bias, bias_type, b, p.n(), p.k(), true); }
        epilogue(out, &p.op, p.m(), p.n(), p.d.type);
        void* D = (void*)(uintptr_t)offset(p.D, batch * p.d.stride, p.d.type);
        store_all(out, D, p.d.type, p.m(), p.n(), p.d.ld, "cublasLt, D");
    }
}

// A product may keep what it likes in the workspace while it runs. So two streams must not have the same; this is stricter than
// cublasLt, which does not mind if events keep them apart, and is asked only together with CUDACPU_STREAMS.
static void check_workspace(void* workspace, cudaStream_t stream) {
    static std::map<void*, cudaStream_t> owners;
    if (workspace == NULL || streams_at_once()) { return; }
    auto mine = owners.insert({workspace, stream}).first;
    if (mine->second != stream) { failure("cublasLt: two streams have the workspace at %p", workspace); }
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t d, const void* alpha, const void* A,
                              cublasLtMatrixLayout_t la, const void* B, cublasLtMatrixLayout_t lb, const void* beta, const void* C,
                              cublasLtMatrixLayout_t lc, void* D, cublasLtMatrixLayout_t ld, const cublasLtMatmulAlgo_t* algo,
                              void* workspace, size_t, cudaStream_t stream) {
    if (handle == NULL) { return CUBLAS_STATUS_NOT_INITIALIZED; }
    cublasLtMatmulAlgo_t fits = chosen_for(d, la, ld);
    if (algo != NULL && (memcmp(algo->data + 1, fits.data + 1, sizeof fits - 8) != 0 || algo->data[0] < fits.data[0])) {
        failure("cublasLt: the algorithm was chosen for another product");
    }
    LtProduct p = {*d, *la, *lb, *lc, *ld, A, B, C, D, *(const float*)alpha, *(const float*)beta};
    cublasStatus_t status = check_product(p);
    if (status != CUBLAS_STATUS_SUCCESS) { return status; }
    check_workspace(workspace, stream);
    in_stream(stream, [=] { do_product(p); });
    return CUBLAS_STATUS_SUCCESS;
}
