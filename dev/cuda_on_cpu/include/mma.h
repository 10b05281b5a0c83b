// nvcuda::wmma. Which element of a fragment lies in which lane is not specified by CUDA; here element e of lane l is number
// l * num_elements + e of the matrix, row by row. Every operation is a warp collective; the last lane to arrive multiplies for all.
#ifndef CUDACPU_MMA_H
#define CUDACPU_MMA_H
#include "cuda_bf16.h"
namespace nvcuda {
namespace wmma {
struct matrix_a {};
struct matrix_b {};
struct accumulator {};
struct row_major {};
struct col_major {};
enum layout_t { mem_row_major, mem_col_major };

template <class Use, int M, int N, int K, class T, class Layout = void> struct fragment {
    static constexpr int rows = std::is_same<Use, matrix_b>::value ? K : M, columns = std::is_same<Use, matrix_a>::value ? K : N;
    static constexpr int num_elements = rows * columns / 32;
    T x[num_elements];
};
template <class F, class V> inline void fill_fragment(F& f, V v) {
    for (int e = 0; e < F::num_elements; e++) { f.x[e] = v; }
}

// The place in memory of this lane's element e
template <class F> inline size_t place(int e, unsigned ld, bool by_rows) {
    size_t i = (size_t)(cudacpu::lane() * F::num_elements + e), row = i / F::columns, column = i % F::columns;
    return by_rows ? row * ld + column : column * ld + row;
}
template <class F, class E> inline void load_elements(F& f, const E* p, unsigned ld, bool by_rows, const char* site_file,
                                                      int site_line) {
    cudacpu::collective(0xffffffffu, "load_matrix_sync", NULL, NULL, CUDACPU_HERE);
    for (int e = 0; e < F::num_elements; e++) { f.x[e] = p[place<F>(e, ld, by_rows)]; }
}
template <class Use, int M, int N, int K, class T, class Layout, class E>
inline void load_matrix_sync(fragment<Use, M, N, K, T, Layout>& f, const E* p, unsigned ld, CUDACPU_SITE) {
    load_elements(f, p, ld, std::is_same<Layout, row_major>::value, CUDACPU_HERE);
}
template <int M, int N, int K, class T, class E>
inline void load_matrix_sync(fragment<accumulator, M, N, K, T>& f, const E* p, unsigned ld, layout_t layout, CUDACPU_SITE) {
    load_elements(f, p, ld, layout == mem_row_major, CUDACPU_HERE);
}
template <int M, int N, int K, class T, class E>
inline void store_matrix_sync(E* p, const fragment<accumulator, M, N, K, T>& f, unsigned ld, layout_t layout, CUDACPU_SITE) {
    typedef fragment<accumulator, M, N, K, T> F;
    cudacpu::collective(0xffffffffu, "store_matrix_sync", NULL, NULL, CUDACPU_HERE);
    for (int e = 0; e < F::num_elements; e++) { p[place<F>(e, ld, layout == mem_row_major)] = f.x[e]; }
}

template <class D, class A, class B, class C> struct mma_fragments {
    D* d;
    const A* a;
    const B* b;
    const C* c;
    CUDACPU_UNCHECKED static void work(void** payloads, uint32_t arrived) {
        const int M = D::rows, N = D::columns, K = A::columns;
        float a[M * K], b[K * N];
        if (arrived != 0xffffffffu) { cudacpu::failure("mma_sync by a part of a warp"); }
        cudacpu::done.mma++;
        for (int l = 0; l < 32; l++) {
            const mma_fragments* p = (mma_fragments*)payloads[l];
            for (int e = 0; e < A::num_elements; e++) { a[l * A::num_elements + e] = (float)p->a->x[e]; }
            for (int e = 0; e < B::num_elements; e++) { b[l * B::num_elements + e] = (float)p->b->x[e]; }
        }
        for (int i = 0; i < M * N; i++) {
            const mma_fragments* p = (mma_fragments*)payloads[i / D::num_elements];
            float sum = (float)p->c->x[i % D::num_elements];
            for (int k = 0; k < K; k++) { sum += a[i / N * K + k] * b[k * N + i % N]; }
            p->d->x[i % D::num_elements] = sum;
        }
    }
};
template <class D, class A, class B, class C> inline void mma_sync(D& d, const A& a, const B& b, const C& c, CUDACPU_SITE) {
    typedef mma_fragments<D, A, B, C> Fragments;
    Fragments p = {&d, &a, &b, &c};
    cudacpu::collective(0xffffffffu, "mma_sync", &p, Fragments::work, CUDACPU_HERE);
}
} // namespace wmma
} // namespace nvcuda
#endif
