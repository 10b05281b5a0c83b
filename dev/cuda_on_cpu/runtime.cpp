// Memory and the runtime API: what the host calls; and the bodies of the PTX wrappers.
// Device memory is ordinary memory, filled with 0xff (NaN) when it is allocated and when it is freed, between canaries that are
// looked at after every launch. With AddressSanitizer malloc does that better, in check mode the checker does.
#include "cudacpu_ptx.h"
#include "internal.h"
#include <map>
#include <unistd.h>
#include <vector>

namespace cudacpu {
static cudaError_t last_error = cudaSuccess;
static std::map<char*, size_t>& blocks = *new std::map<char*, size_t>; // what cudaMalloc gave: address, size
static std::map<char*, void*>& allocated_by = *new std::map<char*, void*>;
static size_t allocated;
static size_t dynamic_limit = 48 << 10; // until cudaFuncSetAttribute raises it
const size_t CANARY = 256;              // bytes before and behind each block; keeps blocks aligned to 256

cudaError_t remember(cudaError_t e) {
    if (e != cudaSuccess) { last_error = e; }
    return e;
}
size_t largest_dynamic_shared() { return dynamic_limit; }

static size_t device_memory() { // of the device that we claim to be
    return (size_t)atol(setting("CUDACPU_MEMORY_MB", "81920")) << 20;
}

__attribute__((destructor)) static void print_leaks() {
    if (blocks.empty() || atoi(setting("CUDACPU_LEAKS", "0")) == 0) { return; }
    fflush(stdout);
    for (auto& b : blocks) {
        fprintf(stderr, "==cudacpu== never freed: %zu bytes, allocated by %s\n", b.second,
                source_of((uintptr_t)allocated_by[b.first]).c_str());
    }
    _exit(86);
}

#if defined(CUDACPU_CHECK)
static void* get_memory(size_t n) { return arena_alloc(n); }
static void give_back(void* p, size_t n) { arena_free(p, n); }
void check_canaries(const char*) {}
#elif defined(CUDACPU_ASAN)
static void* get_memory(size_t n) {
    void* p = NULL;
    return posix_memalign(&p, CANARY, n) == 0 ? p : NULL;
}
static void give_back(void* p, size_t) { free(p); }
void check_canaries(const char*) {}
#else
static void* get_memory(size_t n) {
    void* p = NULL;
    if (posix_memalign(&p, CANARY, n + 2 * CANARY) != 0) { return NULL; }
    memset(p, POISON, CANARY);
    memset((char*)p + CANARY + n, POISON, CANARY);
    return (char*)p + CANARY;
}
static void give_back(void* p, size_t) { free((char*)p - CANARY); }

static bool intact(const char* canary) {
    uint64_t words[CANARY / 8], all = ~(uint64_t)0;
    memcpy(words, canary, CANARY);
    for (uint64_t w : words) { all &= w; }
    return all == ~(uint64_t)0;
}
void check_canaries(const char* kernel) {
    for (auto& b : blocks) {
        if (!intact(b.first - CANARY)) {
            failure("kernel %s wrote before the %zu-byte block at %p", kernel, b.second, (void*)b.first);
        }
        if (!intact(b.first + b.second)) {
            failure("kernel %s wrote past the end of the %zu-byte block at %p", kernel, b.second, (void*)b.first);
        }
    }
}
#endif

// Is p in a block of device memory, and if so, do n bytes from there on fit?
static bool on_device(const void* p, size_t n, bool* fits) {
    auto b = blocks.upper_bound((char*)p);
    if (b == blocks.begin()) { return false; }
    --b;
    if ((char*)p >= b->first + b->second) { return false; }
    *fits = (char*)p + n <= b->first + b->second;
    return true;
}

void touch_range(const void* p, size_t n, bool write, const char* what) {
    bool fits = true;
#ifdef CUDACPU_CHECK
    (void)fits;
#else
    if (n > 0 && !on_device(p, n, &fits)) { failure("%s: %p is not in device memory", what, p); }
    if (!fits) { failure("%s: %zu bytes at %p go past the end of their block", what, n, p); }
#endif
    check_range(p, n, write, what);
}

cudaError_t set_attribute(const void*, cudaFuncAttribute which, int value) { // for all kernels alike
    if (which != cudaFuncAttributeMaxDynamicSharedMemorySize) { return cudaSuccess; }
    if (value < 0 || (size_t)value > MAX_SHARED) { return remember(cudaErrorInvalidValue); }
    if ((size_t)value > dynamic_limit) { dynamic_limit = (size_t)value; }
    return cudaSuccess;
}

cudaError_t get_attributes(cudaFuncAttributes* a) {
    memset(a, 0, sizeof *a);
    a->maxThreadsPerBlock = MAX_THREADS;
    a->maxDynamicSharedSizeBytes = (int)dynamic_limit;
    return cudaSuccess;
}

cudaError_t occupancy(int* count, int block, size_t smem) {
    if (block < 1 || block > MAX_THREADS || smem > MAX_SHARED) { return remember(cudaErrorInvalidValue); }
    int by_threads = 2048 / block, by_memory = smem > 0 ? (int)(MAX_SHARED / smem) : 32;
    *count = by_threads < by_memory ? by_threads : by_memory;
    return cudaSuccess;
}

} // namespace cudacpu
using namespace cudacpu;

// ----------------------------------------------------------------------------------------------------------------------
// Errors

static const struct { cudaError_t error; const char *name, *text; } error_texts[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
    {cudaErrorInvalidMemcpyDirection, "cudaErrorInvalidMemcpyDirection", "invalid copy direction for memcpy"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported", "operation not permitted when stream is capturing"},
};
const char* cudaGetErrorString(cudaError_t e) {
    for (auto& t : error_texts) { if (t.error == e) { return t.text; } }
    return "unrecognized error code";
}
const char* cudaGetErrorName(cudaError_t e) {
    for (auto& t : error_texts) { if (t.error == e) { return t.name; } }
    return "unrecognized error code";
}
cudaError_t cudaPeekAtLastError(void) { return last_error; }
cudaError_t cudaGetLastError(void) {
    cudaError_t e = last_error;
    last_error = cudaSuccess;
    return e;
}

// ----------------------------------------------------------------------------------------------------------------------
// Memory

cudaError_t cudaMalloc(void** p, size_t n) {
    *p = NULL;
    if (n == 0) { return cudaSuccess; }
    if (n > device_memory() || allocated > device_memory() - n) { return remember(cudaErrorMemoryAllocation); }
    char* block = (char*)get_memory(n);
    if (block == NULL) { return remember(cudaErrorMemoryAllocation); }
    if (atoi(setting("CUDACPU_POISON", "1")) != 0) { memset(block, POISON, n); }
    (void)VALGRIND_MAKE_MEM_UNDEFINED(block, n);
    blocks[block] = n;
    allocated_by[block] = __builtin_return_address(0);
    allocated += n;
    *p = block;
    return cudaSuccess;
}

cudaError_t cudaFree(void* p) {
    if (p == NULL) { return cudaSuccess; }
    finish_all_streams();
    auto b = blocks.find((char*)p);
    if (b == blocks.end()) { return remember(cudaErrorInvalidValue); }
    memset(p, POISON, b->second);
    allocated -= b->second;
    give_back(p, b->second);
    blocks.erase(b);
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void** p, size_t n) {
    *p = malloc(n > 0 ? n : 1);
    return *p != NULL ? cudaSuccess : remember(cudaErrorMemoryAllocation);
}
cudaError_t cudaHostAlloc(void** p, size_t n, unsigned) { return cudaMallocHost(p, n); }
cudaError_t cudaFreeHost(void* p) { free(p); return cudaSuccess; }
cudaError_t cudaMallocAsync(void** p, size_t n, cudaStream_t) { return cudaMalloc(p, n); }
cudaError_t cudaFreeAsync(void* p, cudaStream_t) { return cudaFree(p); }
cudaError_t cudaMemGetInfo(size_t* available, size_t* total) {
    *total = device_memory();
    *available = *total - allocated;
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t n, cudaMemcpyKind kind, cudaStream_t stream) {
    if (n == 0) { return cudaSuccess; }
    bool to_fits = true, from_fits = true;
    bool to_device = on_device(to, n, &to_fits), from_device = on_device(from, n, &from_fits);
    if (!to_fits || !from_fits) {
        fprintf(stderr, "==cudacpu== cudaMemcpy of %zu bytes goes past the end of the %s\n", n, to_fits ? "source" : "destination");
        return remember(cudaErrorInvalidValue);
    }
    bool wants_to = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    bool wants_from = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if (kind != cudaMemcpyDefault && (to_device != wants_to || from_device != wants_from)) {
        fprintf(stderr, "==cudacpu== cudaMemcpy: the kind of copy says %s to %s, the pointers are %s to %s\n",
                wants_from ? "device" : "host", wants_to ? "device" : "host", from_device ? "device" : "host",
                to_device ? "device" : "host");
        return remember(cudaErrorInvalidValue);
    }
    if (to_device && from_device) {
        in_stream(stream, [=] {
            memmove(to, from, n);
            check_copied(to, from, n);
        });
        return cudaSuccess;
    }
    finish_stream(stream); // memory of the host that is not pinned is copied before the call returns
    memmove(to, from, n);
    if (to_device) { check_host_wrote(to, n); }
    return cudaSuccess;
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t n, cudaMemcpyKind kind) { return cudaMemcpyAsync(to, from, n, kind, 0); }
cudaError_t cudaMemcpy2D(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width, size_t height,
                         cudaMemcpyKind kind) {
    for (size_t i = 0; i < height; i++) {
        cudaError_t e = cudaMemcpy((char*)to + i * to_pitch, (const char*)from + i * from_pitch, width, kind);
        if (e != cudaSuccess) { return e; }
    }
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* p, int value, size_t n, cudaStream_t stream) {
    bool fits = true;
    if (n > 0 && (!on_device(p, n, &fits) || !fits)) {
        fprintf(stderr, "==cudacpu== cudaMemset of %zu bytes: %s\n", n, fits ? "not device memory" : "goes past the end");
        return remember(cudaErrorInvalidValue);
    }
    in_stream(stream, [=] {
        if (n > 0) { memset(p, value, n); }
        check_host_wrote(p, n);
    });
    return cudaSuccess;
}
cudaError_t cudaMemset(void* p, int value, size_t n) { return cudaMemsetAsync(p, value, n, 0); }

// ----------------------------------------------------------------------------------------------------------------------
// The device

cudaError_t cudaGetDeviceCount(int* n) { *n = 1; return cudaSuccess; }
cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : remember(cudaErrorInvalidDevice); }
cudaError_t cudaGetDevice(int* device) { *device = 0; return cudaSuccess; }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int device) { // an H100 with 2 multiprocessors, so that grids stay small
    if (device != 0) { return remember(cudaErrorInvalidDevice); }
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "CPU (emulation)");
    p->totalGlobalMem = device_memory();
    p->sharedMemPerBlock = 48 << 10;
    p->sharedMemPerBlockOptin = MAX_SHARED;
    p->sharedMemPerMultiprocessor = MAX_SHARED + 1024;
    p->totalConstMem = 64 << 10;
    p->regsPerBlock = p->regsPerMultiprocessor = 65536;
    p->warpSize = WARP_LANES;
    p->maxThreadsPerBlock = p->maxThreadsDim[0] = p->maxThreadsDim[1] = MAX_THREADS;
    p->maxThreadsDim[2] = 64;
    p->maxGridSize[0] = 0x7fffffff;
    p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->major = 9;
    p->multiProcessorCount = atoi(setting("CUDACPU_SMS", "2"));
    p->maxThreadsPerMultiProcessor = 2048;
    p->maxBlocksPerMultiProcessor = 32;
    p->l2CacheSize = 50 << 20;
    p->memoryBusWidth = 5120;
    p->cooperativeLaunch = p->unifiedAddressing = 1;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int device) {
    cudaDeviceProp p;
    cudaError_t e = cudaGetDeviceProperties(&p, device);
    if (e != cudaSuccess) { return e; }
    switch (which) {
        case cudaDevAttrMaxThreadsPerBlock: *value = p.maxThreadsPerBlock; break;
        case cudaDevAttrMaxSharedMemoryPerBlock: *value = (int)p.sharedMemPerBlock; break;
        case cudaDevAttrMultiProcessorCount: *value = p.multiProcessorCount; break;
        case cudaDevAttrMaxThreadsPerMultiProcessor: *value = p.maxThreadsPerMultiProcessor; break;
        case cudaDevAttrComputeCapabilityMajor: *value = p.major; break;
        case cudaDevAttrComputeCapabilityMinor: *value = p.minor; break;
        case cudaDevAttrCooperativeLaunch: *value = p.cooperativeLaunch; break;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = (int)p.sharedMemPerBlockOptin; break;
        default: return remember(cudaErrorInvalidValue);
    }
    return cudaSuccess;
}
cudaError_t cudaDeviceReset(void) { return cudaSuccess; }
cudaError_t cudaDriverGetVersion(int* version) { *version = CUDART_VERSION; return cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int* version) { *version = CUDART_VERSION; return cudaSuccess; }
cudaError_t cudaProfilerStart(void) { return cudaSuccess; }
cudaError_t cudaProfilerStop(void) { return cudaSuccess; }

// ----------------------------------------------------------------------------------------------------------------------
// The bodies of the PTX wrappers: with group = lane / 4 and t = lane % 4, as the PTX ISA numbers the fragments

namespace cudacpu {
static float half_of(uint32_t r, int high) { return __uint_as_float(high ? r & 0xffff0000u : r << 16); }

void mma_work(void** payloads, uint32_t arrived) {
    float a[16][16], b[16][8];
    if (arrived != 0xffffffffu) { failure("mma.sync by a part of a warp"); }
    done.mma++;
    for (int lane = 0; lane < WARP_LANES; lane++) {
        const mma_payload* p = (mma_payload*)payloads[lane];
        int group = lane / 4, pair = lane % 4 * 2;
        for (int h = 0; h < 2; h++) {
            for (int i = 0; i < 4; i++) { a[group + i % 2 * 8][pair + i / 2 * 8 + h] = half_of(p->a[i], h); }
            for (int i = 0; i < 2; i++) { b[pair + i * 8 + h][group] = half_of(p->b[i], h); }
        }
    }
    for (int lane = 0; lane < WARP_LANES; lane++) {
        const mma_payload* p = (mma_payload*)payloads[lane];
        for (int i = 0; i < 4; i++) {
            int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
            float sum = p->c[i];
            for (int k = 0; k < 16; k++) { sum += a[row][k] * b[k][column]; }
            p->d[i] = sum;
        }
    }
}

void ldmatrix_work(void** payloads, uint32_t arrived) {
    uint32_t out[WARP_LANES][4];
    const ldmatrix_payload* first = (ldmatrix_payload*)payloads[0];
    if (arrived != 0xffffffffu) { failure("ldmatrix by a part of a warp"); }
    for (int lane = 0; lane < WARP_LANES; lane++) {
        for (int i = 0; i < first->n; i++) { // matrix i: its 8 rows are those of lanes 8 i and on
            uint16_t pair[2];
            for (int h = 0; h < 2; h++) {
                int row = lane / 4, column = lane % 4 * 2 + h;
                if (first->transposed) { std::swap(row, column); }
                memcpy(&pair[h], (const char*)((ldmatrix_payload*)payloads[i * 8 + row])->row + 2 * column, 2);
            }
            out[lane][i] = pair[0] | (uint32_t)pair[1] << 16;
        }
    }
    for (int lane = 0; lane < WARP_LANES; lane++) {
        memcpy(((ldmatrix_payload*)payloads[lane])->r, out[lane], 4 * (size_t)first->n);
    }
}
void ldmatrix_check(const void* row, int n) {
    if (lane() >= 8 * n) { return; } // whose row is not used
    if ((uintptr_t)row % 16 != 0) { failure("ldmatrix: the row at %p is not aligned to 16 bytes", row); }
    check_access(row, 16, false, __builtin_return_address(0));
}

struct Copy { char* to; const char* from; int bytes, group; };
static std::vector<Copy> copies[MAX_THREADS]; // under way, of each thread of the block
static int groups[MAX_THREADS];
bool copies_under_way;
void cp_async(void* shared, const void* global, int bytes) {
    if (((uintptr_t)shared | (uintptr_t)global) % (size_t)bytes != 0) { failure("misaligned cp.async of %d bytes", bytes); }
    copies_under_way = true;
    copies[current].push_back({(char*)shared, (const char*)global, bytes, groups[current]});
}
void cp_async_commit() { groups[current]++; }
void cp_async_wait(int groups_under_way) {
    auto& mine = copies[current];
    size_t left = 0;
    for (auto& c : mine) {
        if (c.group >= groups[current] - groups_under_way) { mine[left++] = c; continue; }
        check_access(c.from, c.bytes, false, __builtin_return_address(0));
        check_access(c.to, c.bytes, true, __builtin_return_address(0));
        memcpy(c.to, c.from, (size_t)c.bytes);
    }
    mine.resize(left);
}
void drop_copies(int thread) {
    copies[thread].clear();
    groups[thread] = 0;
}
} // namespace cudacpu
