// Do our headers and NVIDIA's agree? Compiles with both, or something has drifted: run.sh does it with ours, and with the real ones
// where there are any. Numbers of constants, signatures of functions, sizes and alignments of types; nothing is run.
#include <cublasLt.h>
#include <cublas_v2.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <type_traits>

#define IS(constant, number) static_assert((int)(constant) == (number), #constant)
IS(cudaSuccess, 0); IS(cudaErrorInvalidValue, 1); IS(cudaErrorMemoryAllocation, 2); IS(cudaErrorInvalidConfiguration, 9);
IS(cudaErrorInvalidMemcpyDirection, 21); IS(cudaErrorNoDevice, 100); IS(cudaErrorInvalidDevice, 101);
IS(cudaErrorInvalidResourceHandle, 400); IS(cudaErrorNotReady, 600); IS(cudaErrorIllegalAddress, 700);
IS(cudaErrorLaunchOutOfResources, 701); IS(cudaErrorLaunchFailure, 719); IS(cudaErrorNotSupported, 801); IS(cudaErrorUnknown, 999);
IS(cudaMemcpyHostToHost, 0); IS(cudaMemcpyHostToDevice, 1); IS(cudaMemcpyDeviceToHost, 2); IS(cudaMemcpyDeviceToDevice, 3);
IS(cudaMemcpyDefault, 4); IS(cudaFuncAttributeMaxDynamicSharedMemorySize, 8); IS(cudaFuncAttributePreferredSharedMemoryCarveout, 9);
IS(cudaDevAttrMaxThreadsPerBlock, 1); IS(cudaDevAttrMaxSharedMemoryPerBlock, 8); IS(cudaDevAttrMultiProcessorCount, 16);
IS(cudaDevAttrMaxThreadsPerMultiProcessor, 39); IS(cudaDevAttrComputeCapabilityMajor, 75);
IS(cudaDevAttrComputeCapabilityMinor, 76); IS(cudaDevAttrCooperativeLaunch, 95); IS(cudaDevAttrMaxSharedMemoryPerBlockOptin, 97);
IS(CUDA_R_32F, 0); IS(CUDA_R_64F, 1); IS(CUDA_R_16F, 2); IS(CUDA_R_8I, 3); IS(CUDA_R_32I, 10); IS(CUDA_R_16BF, 14);
IS(cudaStreamDefault, 0); IS(cudaStreamNonBlocking, 1); IS(cudaEventDefault, 0); IS(cudaEventBlockingSync, 1);
IS(cudaEventDisableTiming, 2); IS(cudaHostAllocDefault, 0); IS(cudaHostAllocPortable, 1); IS(cudaHostAllocMapped, 2);
IS(cudaHostAllocWriteCombined, 4);
IS(CUBLAS_STATUS_SUCCESS, 0); IS(CUBLAS_STATUS_NOT_INITIALIZED, 1); IS(CUBLAS_STATUS_ALLOC_FAILED, 3);
IS(CUBLAS_STATUS_INVALID_VALUE, 7); IS(CUBLAS_STATUS_ARCH_MISMATCH, 8); IS(CUBLAS_STATUS_EXECUTION_FAILED, 13);
IS(CUBLAS_STATUS_INTERNAL_ERROR, 14); IS(CUBLAS_STATUS_NOT_SUPPORTED, 15); IS(CUBLAS_OP_N, 0); IS(CUBLAS_OP_T, 1);
IS(CUBLAS_OP_C, 2); IS(CUBLAS_DEFAULT_MATH, 0); IS(CUBLAS_TENSOR_OP_MATH, 1); IS(CUBLAS_PEDANTIC_MATH, 2);
IS(CUBLAS_TF32_TENSOR_OP_MATH, 3); IS(CUBLAS_COMPUTE_32F, 68); IS(CUBLAS_COMPUTE_32F_PEDANTIC, 69);
IS(CUBLAS_COMPUTE_32F_FAST_16F, 74); IS(CUBLAS_COMPUTE_32F_FAST_16BF, 75); IS(CUBLAS_COMPUTE_32F_FAST_TF32, 77);
IS(CUBLAS_GEMM_DEFAULT, -1); IS(CUBLAS_GEMM_DEFAULT_TENSOR_OP, 99);
IS(CUBLASLT_EPILOGUE_DEFAULT, 1); IS(CUBLASLT_EPILOGUE_RELU, 2); IS(CUBLASLT_EPILOGUE_BIAS, 4); IS(CUBLASLT_EPILOGUE_RELU_BIAS, 6);
IS(CUBLASLT_EPILOGUE_GELU, 32); IS(CUBLASLT_EPILOGUE_GELU_BIAS, 36); IS(CUBLASLT_EPILOGUE_GELU_AUX, 160);
IS(CUBLASLT_EPILOGUE_GELU_AUX_BIAS, 164); IS(CUBLASLT_EPILOGUE_DGELU, 192); IS(CUBLASLT_EPILOGUE_DGELU_BGRAD, 208);
IS(CUBLASLT_EPILOGUE_BGRADA, 256); IS(CUBLASLT_EPILOGUE_BGRADB, 512);
IS(CUBLASLT_MATMUL_DESC_COMPUTE_TYPE, 0); IS(CUBLASLT_MATMUL_DESC_SCALE_TYPE, 1); IS(CUBLASLT_MATMUL_DESC_POINTER_MODE, 2);
IS(CUBLASLT_MATMUL_DESC_TRANSA, 3); IS(CUBLASLT_MATMUL_DESC_TRANSB, 4); IS(CUBLASLT_MATMUL_DESC_TRANSC, 5);
IS(CUBLASLT_MATMUL_DESC_EPILOGUE, 7); IS(CUBLASLT_MATMUL_DESC_BIAS_POINTER, 8); IS(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, 11);
IS(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, 12); IS(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE, 22);
IS(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, 26);
IS(CUBLASLT_MATRIX_LAYOUT_TYPE, 0); IS(CUBLASLT_MATRIX_LAYOUT_ORDER, 1); IS(CUBLASLT_MATRIX_LAYOUT_ROWS, 2);
IS(CUBLASLT_MATRIX_LAYOUT_COLS, 3); IS(CUBLASLT_MATRIX_LAYOUT_LD, 4); IS(CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, 5);
IS(CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, 6);
IS(CUBLASLT_MATMUL_PREF_SEARCH_MODE, 0); IS(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, 1);
IS(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, 3); IS(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, 5);
IS(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, 6); IS(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, 7);
IS(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, 8);

#define LAID_OUT(type, size, alignment) static_assert(sizeof(type) == (size) && alignof(type) == (alignment), #type)
LAID_OUT(char2, 2, 2); LAID_OUT(char4, 4, 4); LAID_OUT(uchar4, 4, 4); LAID_OUT(short2, 4, 4); LAID_OUT(ushort4, 8, 8);
LAID_OUT(int2, 8, 8); LAID_OUT(int3, 12, 4); LAID_OUT(int4, 16, 16); LAID_OUT(uint4, 16, 16); LAID_OUT(longlong2, 16, 16);
LAID_OUT(float1, 4, 4); LAID_OUT(float2, 8, 8); LAID_OUT(float3, 12, 4); LAID_OUT(float4, 16, 16); LAID_OUT(double2, 16, 16);
LAID_OUT(dim3, 12, 4); LAID_OUT(__nv_bfloat16, 2, 2); LAID_OUT(__nv_bfloat162, 4, 4); LAID_OUT(cublasLtMatmulAlgo_t, 64, 8);
LAID_OUT(cublasLtMatmulHeuristicResult_t, 96, 8);

#define FIELD_IS(field, type) static_assert(std::is_same<decltype(cudaDeviceProp::field), type>::value, #field)
FIELD_IS(name, char[256]); FIELD_IS(totalGlobalMem, size_t); FIELD_IS(sharedMemPerBlock, size_t);
FIELD_IS(sharedMemPerBlockOptin, size_t); FIELD_IS(sharedMemPerMultiprocessor, size_t); FIELD_IS(major, int); FIELD_IS(minor, int);
FIELD_IS(multiProcessorCount, int); FIELD_IS(maxThreadsPerMultiProcessor, int); FIELD_IS(l2CacheSize, int);
FIELD_IS(memoryBusWidth, int); FIELD_IS(warpSize, int); FIELD_IS(regsPerBlock, int); FIELD_IS(maxThreadsDim, int[3]);

#define TAKES(name, result, ...) result (*const check_##name)(__VA_ARGS__) = &name
#define CUDA_TAKES(name, ...) TAKES(name, cudaError_t, __VA_ARGS__)
#define BLAS_TAKES(name, ...) TAKES(name, cublasStatus_t, __VA_ARGS__)
typedef cudaStream_t S;
typedef cudaEvent_t V;
static_assert(sizeof(cudaStreamPerThread) == sizeof(S) && sizeof(cudaStreamLegacy) == sizeof(S), "streams by name");
TAKES(cudaGetErrorString, const char*, cudaError_t);
CUDA_TAKES(cudaGetLastError, void); CUDA_TAKES(cudaPeekAtLastError, void); CUDA_TAKES(cudaMalloc, void**, size_t);
CUDA_TAKES(cudaFree, void*); CUDA_TAKES(cudaMallocHost, void**, size_t); CUDA_TAKES(cudaHostAlloc, void**, size_t, unsigned);
CUDA_TAKES(cudaFreeHost, void*); CUDA_TAKES(cudaMallocAsync, void**, size_t, S); CUDA_TAKES(cudaFreeAsync, void*, S);
CUDA_TAKES(cudaMemGetInfo, size_t*, size_t*); CUDA_TAKES(cudaMemcpy, void*, const void*, size_t, cudaMemcpyKind);
CUDA_TAKES(cudaMemcpyAsync, void*, const void*, size_t, cudaMemcpyKind, S); CUDA_TAKES(cudaMemset, void*, int, size_t);
CUDA_TAKES(cudaMemcpy2D, void*, size_t, const void*, size_t, size_t, size_t, cudaMemcpyKind);
CUDA_TAKES(cudaMemsetAsync, void*, int, size_t, S); CUDA_TAKES(cudaGetDeviceCount, int*); CUDA_TAKES(cudaSetDevice, int);
CUDA_TAKES(cudaGetDevice, int*); CUDA_TAKES(cudaGetDeviceProperties, cudaDeviceProp*, int);
CUDA_TAKES(cudaDeviceGetAttribute, int*, cudaDeviceAttr, int); CUDA_TAKES(cudaDeviceSynchronize, void);
CUDA_TAKES(cudaDeviceReset, void); CUDA_TAKES(cudaDriverGetVersion, int*); CUDA_TAKES(cudaRuntimeGetVersion, int*);
CUDA_TAKES(cudaStreamCreate, S*); CUDA_TAKES(cudaStreamCreateWithFlags, S*, unsigned); CUDA_TAKES(cudaStreamDestroy, S);
CUDA_TAKES(cudaStreamSynchronize, S); CUDA_TAKES(cudaStreamQuery, S); CUDA_TAKES(cudaStreamWaitEvent, S, V, unsigned);
CUDA_TAKES(cudaEventCreate, V*); CUDA_TAKES(cudaEventCreateWithFlags, V*, unsigned); CUDA_TAKES(cudaEventDestroy, V);
CUDA_TAKES(cudaEventRecord, V, S); CUDA_TAKES(cudaEventSynchronize, V); CUDA_TAKES(cudaEventQuery, V);
CUDA_TAKES(cudaEventElapsedTime, float*, V, V); CUDA_TAKES(cudaStreamBeginCapture, S, cudaStreamCaptureMode);
CUDA_TAKES(cudaStreamEndCapture, S, cudaGraph_t*); CUDA_TAKES(cudaGraphLaunch, cudaGraphExec_t, S);
CUDA_TAKES(cudaGraphInstantiateWithFlags, cudaGraphExec_t*, cudaGraph_t, unsigned long long);
CUDA_TAKES(cudaGraphDestroy, cudaGraph_t); CUDA_TAKES(cudaGraphExecDestroy, cudaGraphExec_t);

typedef cublasHandle_t H;
typedef cublasOperation_t O;
typedef const void* P;
BLAS_TAKES(cublasCreate, H*); BLAS_TAKES(cublasDestroy, H); BLAS_TAKES(cublasSetStream, H, S);
BLAS_TAKES(cublasSetMathMode, H, cublasMath_t); BLAS_TAKES(cublasSetWorkspace, H, void*, size_t);
BLAS_TAKES(cublasGetVersion, H, int*);
TAKES(cublasGetStatusString, const char*, cublasStatus_t);
BLAS_TAKES(cublasSgemm, H, O, O, int, int, int, const float*, const float*, int, const float*, int, const float*, float*, int);
BLAS_TAKES(cublasSgemmStridedBatched, H, O, O, int, int, int, const float*, const float*, int, long long, const float*, int,
           long long, const float*, float*, int, long long, int);
BLAS_TAKES(cublasGemmEx, H, O, O, int, int, int, P, P, cudaDataType, int, P, cudaDataType, int, P, void*, cudaDataType, int,
           cublasComputeType_t, cublasGemmAlgo_t);
BLAS_TAKES(cublasGemmStridedBatchedEx, H, O, O, int, int, int, P, P, cudaDataType, int, long long, P, cudaDataType, int, long long,
           P, void*, cudaDataType, int, long long, int, cublasComputeType_t, cublasGemmAlgo_t);

typedef cublasLtHandle_t LH;
typedef cublasLtMatmulDesc_t D;
typedef cublasLtMatrixLayout_t L;
typedef cublasLtMatmulPreference_t W;
BLAS_TAKES(cublasLtCreate, LH*); BLAS_TAKES(cublasLtDestroy, LH); TAKES(cublasLtGetVersion, size_t, void);
BLAS_TAKES(cublasLtMatmulDescCreate, D*, cublasComputeType_t, cudaDataType_t); BLAS_TAKES(cublasLtMatmulDescDestroy, D);
BLAS_TAKES(cublasLtMatmulDescSetAttribute, D, cublasLtMatmulDescAttributes_t, P, size_t);
BLAS_TAKES(cublasLtMatrixLayoutCreate, L*, cudaDataType, uint64_t, uint64_t, int64_t); BLAS_TAKES(cublasLtMatrixLayoutDestroy, L);
BLAS_TAKES(cublasLtMatrixLayoutSetAttribute, L, cublasLtMatrixLayoutAttribute_t, P, size_t);
BLAS_TAKES(cublasLtMatmulPreferenceCreate, W*); BLAS_TAKES(cublasLtMatmulPreferenceDestroy, W);
BLAS_TAKES(cublasLtMatmulPreferenceSetAttribute, W, cublasLtMatmulPreferenceAttributes_t, P, size_t);
BLAS_TAKES(cublasLtMatmulAlgoGetHeuristic, LH, D, L, L, L, L, W, int, cublasLtMatmulHeuristicResult_t*, int*);
BLAS_TAKES(cublasLtMatmul, LH, D, P, P, L, P, L, P, P, L, void*, L, const cublasLtMatmulAlgo_t*, void*, size_t, S);
