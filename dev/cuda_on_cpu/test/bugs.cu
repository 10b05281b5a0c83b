/*
Planted bugs, one for each number: ./bugs N. run.sh says which mode must find it, and with which words.
Exit codes: 3 a CUDA call returned an error; 4 NaN in the output; 0 nothing noticed by the program itself.
*/
#include <cublasLt.h>
#include <cuda_runtime.h>
#include <stdio.h>
#include <stdlib.h>
#define N 64

__global__ void out_of_bounds_global(float* x) { x[blockIdx.x * blockDim.x + threadIdx.x] = 1.0f; } // no guard for the last block

__global__ void out_of_bounds_shared(float* o) {
    __shared__ float s[N];
    s[threadIdx.x + 1] = 1.0f;
    __syncthreads();
    o[threadIdx.x] = s[threadIdx.x > 0 ? threadIdx.x : 1];
}

__global__ void out_of_bounds_dynamic(float* o) { // launched with half of the memory it needs
    extern __shared__ float d[];
    d[threadIdx.x] = 1.0f;
    __syncthreads();
    o[threadIdx.x] = d[threadIdx.x];
}

__global__ void missing_barrier(float* o) {
    __shared__ float s[N];
    s[threadIdx.x] = (float)threadIdx.x;
    o[threadIdx.x] = s[N - 1 - threadIdx.x];
}

__global__ void divergent_barrier(float* o) {
    if (threadIdx.x < 32) {
        __syncthreads();
        o[threadIdx.x] = 1.0f;
    } else {
        o[threadIdx.x] = 2.0f;
        __syncthreads();
    }
}

__global__ void deadlock(float* o) {
    if (threadIdx.x % 32 < 16) { o[threadIdx.x] = __shfl_sync(0xffffffffu, 1.0f, 0); } else { __syncthreads(); }
}

__global__ void uninitialised_shared(float* o) {
    __shared__ float s[N];
    if (threadIdx.x < 32) { s[threadIdx.x] = 0.0f; }
    __syncthreads();
    o[threadIdx.x] = s[threadIdx.x];
}

__global__ void copy(float* o, const float* x) { o[threadIdx.x] = x[threadIdx.x]; } // of uninitialised, freed or host memory

__global__ void misaligned(float* o, const float* x) { *(float4*)o = *(const float4*)(x + 1); }

__global__ void race_between_blocks(float* o) { // needs an atomicAdd
    if (threadIdx.x == 0) { o[0] += 1.0f; }
}

__global__ void lane_not_in_mask(float* o) {
    if (threadIdx.x < 16) { o[threadIdx.x] = __shfl_down_sync(0x00ff00ffu, 1.0f, 1); }
}

__global__ void divide_by_zero(int* o, int zero) { o[threadIdx.x] = 7 / zero; }

__global__ void deep_stack(float* o) {
    volatile float a[20000];
    a[threadIdx.x] = 1.0f;
    o[threadIdx.x] = a[threadIdx.x];
}

__global__ void endless(float* o, int n) {
    for (unsigned i = 0; i + 1 > (unsigned)n; i++) { o[i % N] += 1.0f; } // meant: i + 1 < n
}

__global__ void divergent_warp(float* o) {
    unsigned b = 0;
    if (threadIdx.x % 2 == 0) { b = __ballot_sync(0xffffffffu, 1); } else { b = (unsigned)__any_sync(0xffffffffu, 1); }
    o[threadIdx.x] = (float)b;
}

__global__ void missing_fence(float* o, float* partial, unsigned* count) { // the last block adds up
    __shared__ int last;
    if (threadIdx.x == 0) {
        partial[blockIdx.x] = 1.0f;
        last = atomicAdd(count, 1u) == gridDim.x - 1;
    }
    __syncthreads();
    if (last && threadIdx.x == 0) {
        float sum = 0.0f;
        for (unsigned b = 0; b < gridDim.x; b++) { sum += partial[b]; }
        o[0] = sum;
    }
}

__global__ void race_in_warp(float* o) { // lanes of one warp do not run in step
    __shared__ float s[32];
    s[threadIdx.x] = (float)threadIdx.x;
    o[threadIdx.x] = s[31 - threadIdx.x];
}

__global__ void different_values(float* o) { o[0] = (float)threadIdx.x; } // which lane wins?

__global__ void reuse_without_barrier(float* o) { // the barrier at the end of the loop is missing
    __shared__ float s[N];
    float sum = 0.0f;
    for (int i = 0; i < 2; i++) {
        s[threadIdx.x] = (float)i;
        __syncthreads();
        sum += s[(threadIdx.x + 32) % N];
    }
    o[threadIdx.x] = sum;
}

static void bias_not_aligned(float* o, const float* x) { // 8 x 1 = (8 x 8) (8 x 1), a bias that begins at 4 bytes
    float one = 1.0f, zero = 0.0f;
    const float* bias = x + 1;
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t op;
    cublasLtMatrixLayout_t square, column;
    cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    cublasLtCreate(&handle);
    cublasLtMatmulDescCreate(&op, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    cublasLtMatmulDescSetAttribute(op, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue);
    cublasLtMatmulDescSetAttribute(op, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias);
    cublasLtMatrixLayoutCreate(&square, CUDA_R_32F, 8, 8, 8);
    cublasLtMatrixLayoutCreate(&column, CUDA_R_32F, 8, 1, 8);
    cublasLtMatmul(handle, op, &one, x, square, x, column, &zero, o, column, o, column, NULL, NULL, 0, 0);
}

__global__ void fill(float* o, float value) { o[threadIdx.x] = value; }

// x is written on one stream and read on another; the events of the right program: record behind the write, wait before the read
static void other_stream(float* o, float* x, int fork, int join) {
    cudaStream_t side;
    cudaEvent_t forked, joined;
    cudaStreamCreateWithFlags(&side, cudaStreamNonBlocking);
    cudaEventCreate(&forked);
    cudaEventCreate(&joined);
    fill<<<1, N>>>(x, 1.0f);
    if (fork) { cudaEventRecord(forked, 0); cudaStreamWaitEvent(side, forked, 0); }
    copy<<<1, N, 0, side>>>(x + N, x);
    if (join) { cudaEventRecord(joined, side); cudaStreamWaitEvent(0, joined, 0); }
    copy<<<1, N>>>(o, x + N);
    cudaEventDestroy(forked);
    cudaEventDestroy(joined);
}

static void shared_scratch(float* o, float* x, int own) { // both streams write to scratch what they then read
    cudaStream_t side[2];
    cudaEvent_t done;
    cudaMemset(x, 0, 2 * N * sizeof(float));
    cudaEventCreate(&done);
    for (int i = 0; i < 2; i++) {
        float* scratch = x + (own ? i * N : 0);
        cudaStreamCreateWithFlags(&side[i], cudaStreamNonBlocking);
        fill<<<1, N / 2, 0, side[i]>>>(scratch, i == 0 ? 1.0f : NAN);
        copy<<<1, N / 2, 0, side[i]>>>(i == 0 ? o : o + N / 2, scratch);
        if (i == 1) { fill<<<1, N / 2, 0, side[i]>>>(o + N / 2, 1.0f); }
    }
    for (int i = 0; i < 2; i++) { cudaEventRecord(done, side[i]); cudaStreamWaitEvent(0, done, 0); }
    cudaEventDestroy(done);
}

static void same_workspace(float* o, const float* x) { // two streams give cublasLt the same memory to work in
    float one = 1.0f, zero = 0.0f;
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t op;
    cublasLtMatrixLayout_t square, column;
    cudaStream_t side;
    cublasLtCreate(&handle);
    cudaStreamCreateWithFlags(&side, cudaStreamNonBlocking);
    cublasLtMatmulDescCreate(&op, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    cublasLtMatrixLayoutCreate(&square, CUDA_R_32F, 8, 8, 8);
    cublasLtMatrixLayoutCreate(&column, CUDA_R_32F, 8, 1, 8);
    for (int i = 0; i < 2; i++) {
        cublasLtMatmul(handle, op, &one, x, square, x, column, &zero, o + 8 * i, column, o + 8 * i, column, NULL, o + 16, 64,
                       i == 0 ? 0 : side);
    }
}

static void run(int bug, float* o, float* x, float* host) {
    float* leak;
    switch (bug) {
        case 1: out_of_bounds_global<<<2, N>>>(o); break;
        case 2: out_of_bounds_shared<<<1, N>>>(o); break;
        case 3: out_of_bounds_dynamic<<<1, N, N / 2 * sizeof(float)>>>(o); break;
        case 4: missing_barrier<<<1, N>>>(o); break;
        case 5: divergent_barrier<<<1, N>>>(o); break;
        case 6: deadlock<<<1, N>>>(o); break;
        case 7: uninitialised_shared<<<1, N>>>(o); break;
        case 8: copy<<<1, N>>>(o, x); break; // x was never written
        case 9: copy<<<1, N>>>(o, host); break;
        case 10: misaligned<<<1, 1>>>(o, x); break;
        case 11: race_between_blocks<<<4, 32>>>(o); break;
        case 12: lane_not_in_mask<<<1, 32>>>(o); break;
        case 13: o[0] = 1.0f; break; // by the host
        case 14: divide_by_zero<<<1, 1>>>((int*)o, 0); break;
        case 15: deep_stack<<<1, N>>>(o); break;
        case 16: cudaMemcpy(host, o, (N + 1) * sizeof(float), cudaMemcpyDeviceToHost); break;
        case 17: copy<<<1, 2048>>>(o, x); break;
        case 18: cudaFree(x); copy<<<1, N>>>(o, x); break;
        case 19: cudaMalloc(&leak, 100); leak = NULL; break;
        case 20: endless<<<1, 1>>>(o, 0); break;
        case 21: divergent_warp<<<1, 32>>>(o); break;
        case 22: missing_fence<<<4, 32>>>(o, x + 1, (unsigned*)x); break;
        case 23: race_in_warp<<<1, 32>>>(o); break;
        case 24: different_values<<<1, 32>>>(o); break;
        case 25: reuse_without_barrier<<<1, N>>>(o); break;
        case 26: cudaMemcpy(host, o, N * sizeof(float), cudaMemcpyHostToDevice); break; // the wrong direction
        case 27: copy<<<1, N, 100 << 10>>>(o, x); break; // more shared memory than cudaFuncSetAttribute has allowed
        case 28: bias_not_aligned(o, x); break;
        case 29: other_stream(o, x, 1, 0); break;
        case 30: other_stream(o, x, 0, 1); break;
        case 31: same_workspace(o, x); break;
        case 32: shared_scratch(o, x, 0); break;
        case 33: other_stream(o, x, 1, 1); shared_scratch(o, x, 1); break; // no bug
    }
}

int main(int argc, char** argv) {
    int bug = argc > 1 ? atoi(argv[1]) : 0;
    float *o, *x, *host = (float*)calloc(2 * N, sizeof(float));
    cudaMalloc(&o, N * sizeof(float));
    cudaMalloc(&x, 2 * N * sizeof(float));
    cudaMemset(o, 0, N * sizeof(float));
    if (bug != 8 && bug != 29 && bug != 30 && bug != 33) { cudaMemset(x, 0, 2 * N * sizeof(float)); }
    run(bug, o, x, host);
    cudaError_t e = cudaGetLastError();
    if (e != cudaSuccess) { printf("CUDA error: %s\n", cudaGetErrorString(e)); }
    cudaMemcpy(host, o, N * sizeof(float), cudaMemcpyDeviceToHost);
    int nan = 0;
    for (int i = 0; i < N; i++) { nan += host[i] != host[i]; }
    if (nan > 0) { printf("%d NaN in the output\n", nan); }
    free(host);
    cudaFree(o);
    if (bug != 18) { cudaFree(x); }
    return e != cudaSuccess ? 3 : nan > 0 ? 4 : 0;
}
