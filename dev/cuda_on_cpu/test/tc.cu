// Tensor cores: nvcuda::wmma, and mma.sync with ldmatrix and cp.async behind wrappers. C (M, N) = A (M, K) B (N, K)^T, bf16 in,
// float out, against loops in double. nvcc -arch=sm_80 compiles this file, too.
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <math.h>
#include <mma.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
typedef __nv_bfloat16 bf16;

// Each PTX instruction has one wrapper, with a body for nvcc and one for the CPU.
#ifdef __CUDACPU__
#include <cudacpu_ptx.h>
__device__ inline void mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2]) { cudacpu::mma_m16n8k16_bf16(d, a, b, d); }
__device__ inline void load_x4(uint32_t r[4], const void* p) { cudacpu::ldmatrix(r, p, 4, false); }
__device__ inline void load_x2(uint32_t r[2], const void* p) { cudacpu::ldmatrix(r, p, 2, false); }
__device__ inline void load_x2_transposed(uint32_t r[2], const void* p) { cudacpu::ldmatrix(r, p, 2, true); }
__device__ inline void copy_async(void* s, const void* g) { cudacpu::cp_async(s, g, 16); }
__device__ inline void copies_commit() { cudacpu::cp_async_commit(); }
template <int N> __device__ inline void copies_wait() { cudacpu::cp_async_wait(N); }
#else
__device__ inline uint32_t shared_address(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }
__device__ inline void mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ inline void load_x4(uint32_t r[4], const void* p) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(p)));
}
__device__ inline void load_x2(uint32_t r[2], const void* p) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];\n" : "=r"(r[0]), "=r"(r[1]) : "r"(shared_address(p)));
}
__device__ inline void load_x2_transposed(uint32_t r[2], const void* p) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];\n"
                 : "=r"(r[0]), "=r"(r[1]) : "r"(shared_address(p)));
}
__device__ inline void copy_async(void* s, const void* g) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(shared_address(s)), "l"(g));
}
__device__ inline void copies_commit() { asm volatile("cp.async.commit_group;\n"); }
template <int N> __device__ inline void copies_wait() { asm volatile("cp.async.wait_group %0;\n" ::"n"(N)); }
#endif

__global__ void gemm_wmma(float* C, const bf16* A, const bf16* B, int N, int K) { // one warp for one tile of 16 x 16
    using namespace nvcuda::wmma;
    fragment<matrix_a, 16, 16, 16, bf16, row_major> a;
    fragment<matrix_b, 16, 16, 16, bf16, col_major> b;
    fragment<accumulator, 16, 16, 16, float> c;
    int m = blockIdx.y * 16, n = blockIdx.x * 16;
    fill_fragment(c, 0.0f);
    for (int k = 0; k < K; k += 16) {
        load_matrix_sync(a, A + m * K + k, K);
        load_matrix_sync(b, B + n * K + k, K);
        mma_sync(c, a, b, c);
    }
    store_matrix_sync(C + m * N + n, c, N, mem_row_major);
}

// 128 threads, a tile of 64 x 64, two buffers filled with cp.async. TRANSPOSED: B is given as (K, N).
enum { TILE = 64, DEPTH = 32, ROW = DEPTH + 8, COLUMN = TILE + 8 };
template <bool TRANSPOSED> __global__ void gemm_mma(float* C, const bf16* A, const bf16* B, int N, int K) {
    __shared__ alignas(16) bf16 sa[2][TILE][ROW], sb[2][TILE * ROW];
    int tid = threadIdx.x, warp = tid / 32, lane = tid % 32, m0 = blockIdx.y * TILE, n0 = blockIdx.x * TILE;
    float sum[8][4] = {};
    auto fill = [&](int buffer, int k0) {
        for (int i = tid; i < TILE * DEPTH / 8; i += 128) {
            int r = i / (DEPTH / 8), c = i % (DEPTH / 8) * 8, k = i / (TILE / 8), n = i % (TILE / 8) * 8;
            copy_async(&sa[buffer][r][c], A + (m0 + r) * K + k0 + c);
            if (TRANSPOSED) { copy_async(&sb[buffer][k * COLUMN + n], B + (k0 + k) * N + n0 + n); }
            else { copy_async(&sb[buffer][r * ROW + c], B + (n0 + r) * K + k0 + c); }
        }
        copies_commit();
    };
    fill(0, 0);
    for (int k0 = 0, at = 0; k0 < K; k0 += DEPTH, at ^= 1) {
        if (k0 + DEPTH < K) {
            fill(at ^ 1, k0 + DEPTH);
            copies_wait<1>();
        } else { copies_wait<0>(); }
        __syncthreads();
        for (int k = 0; k < DEPTH; k += 16) {
            uint32_t a[4], b[2];
            load_x4(a, &sa[at][warp * 16 + lane % 16][k + lane / 16 * 8]);
            for (int j = 0; j < 8; j++) {
                if (TRANSPOSED) { load_x2_transposed(b, &sb[at][(k + lane % 16) * COLUMN + j * 8]); }
                else { load_x2(b, &sb[at][(j * 8 + lane % 8) * ROW + k + lane / 8 % 2 * 8]); }
                mma_bf16(sum[j], a, b);
            }
        }
        __syncthreads();
    }
    for (int j = 0; j < 8; j++) {
        for (int i = 0; i < 4; i++) {
            C[(m0 + warp * 16 + lane / 4 + i / 2 * 8) * N + n0 + j * 8 + lane % 4 * 2 + i % 2] = sum[j][i];
        }
    }
}

int main() {
    const int M = 128, N = 64, K = 96;
    static bf16 a[M * K], b[N * K], bt[K * N];
    static float c[M * N];
    bf16 *da, *db, *dbt;
    float* dc;
    int failed = 0;
    for (int i = 0; i < M * K; i++) { a[i] = (bf16)((float)(i * 7919 % 201 - 100) / 100.0f); }
    for (int i = 0; i < N * K; i++) { b[i] = bt[i % K * N + i / K] = (bf16)((float)(i * 104729 % 199 - 99) / 100.0f); }
    cudaMalloc(&da, sizeof a);
    cudaMalloc(&db, sizeof b);
    cudaMalloc(&dbt, sizeof bt);
    cudaMalloc(&dc, sizeof c);
    cudaMemcpy(da, a, sizeof a, cudaMemcpyHostToDevice);
    cudaMemcpy(db, b, sizeof b, cudaMemcpyHostToDevice);
    cudaMemcpy(dbt, bt, sizeof bt, cudaMemcpyHostToDevice);
    for (int v = 0; v < 3; v++) {
        if (v == 0) { gemm_wmma<<<dim3(N / 16, M / 16), 32>>>(dc, da, db, N, K); }
        if (v == 1) { gemm_mma<false><<<dim3(N / TILE, M / TILE), 128>>>(dc, da, db, N, K); }
        if (v == 2) { gemm_mma<true><<<dim3(N / TILE, M / TILE), 128>>>(dc, da, dbt, N, K); }
        failed += cudaGetLastError() != cudaSuccess;
        cudaMemcpy(c, dc, sizeof c, cudaMemcpyDeviceToHost);
        double worst = 0.0;
        for (int i = 0; i < M * N; i++) {
            double sum = 0.0;
            for (int k = 0; k < K; k++) { sum += (double)(float)a[i / N * K + k] * (double)(float)b[i % N * K + k]; }
            worst = fabs(sum - c[i]) <= worst ? worst : fabs(sum - c[i]);
        }
        printf("%s: largest difference %.2e\n", v == 0 ? "wmma" : v == 1 ? "mma.sync" : "mma.sync, ldmatrix.trans", worst);
        failed += !(worst < 1e-5);
    }
    cudaFree(da);
    cudaFree(db);
    cudaFree(dbt);
    cudaFree(dc);
    return failed > 0;
}
