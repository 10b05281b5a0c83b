/*
The CUDA execution model for one CPU thread: what a kernel sees. Qualifiers, vector types, threadIdx, barriers, warp primitives,
atomics, mathematics. The host's side, the runtime API, is cuda_runtime.h, which includes this file.

The functions that do something stand in ../cudacpu.cpp. A file and line in a message come from default arguments,
__builtin_FILE() and __builtin_LINE(), which the compiler fills in at each call.
*/
#ifndef CUDACPU_H
#define CUDACPU_H
#include <assert.h>
#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tuple>
#include <type_traits>
#include <utility>

#define __CUDACPU__ 1 // for the few places that need another body here: wrappers of inline PTX
#define CUDART_VERSION 13000

// ----------------------------------------------------------------------------------------------------------------------
// Qualifiers mean nothing here. __shared__ and <<<>>> have been rewritten by cudacpu-pp.

#define __global__
#define __device__
#define __host__
#define __constant__
#define __managed__
#define __grid_constant__
#define __noinline__ // empty, because the C++ library writes __attribute__((__noinline__))
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

// In check mode the compiler reports every memory access of user code; helpers of ours that are compiled with it are left out.
#ifdef CUDACPU_CHECK
#define CUDACPU_UNCHECKED __attribute__((no_sanitize("thread"), noinline))
#else
#define CUDACPU_UNCHECKED
#endif
#define CUDACPU_SITE const char *site_file = __builtin_FILE(), int site_line = __builtin_LINE()
#define CUDACPU_HERE site_file, site_line
#define CUDACPU_SAME(T) typename std::common_type<T>::type // a T that is not deduced from this argument

// ----------------------------------------------------------------------------------------------------------------------
// Vector types: alignments are those of the device, where a float4 is loaded with one instruction

#define CUDACPU_VECTOR(T, name, align2, align4)                                                     \
    struct alignas(sizeof(T)) name##1 { T x; };                                                     \
    struct alignas(align2) name##2 { T x, y; };                                                     \
    struct name##3 { T x, y, z; };                                                                  \
    struct alignas(align4) name##4 { T x, y, z, w; };                                               \
    static inline name##1 make_##name##1(T x) { return {x}; }                                       \
    static inline name##2 make_##name##2(T x, T y) { return {x, y}; }                               \
    static inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }                       \
    static inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
CUDACPU_VECTOR(signed char, char, 2, 4)
CUDACPU_VECTOR(unsigned char, uchar, 2, 4)
CUDACPU_VECTOR(short, short, 4, 8)
CUDACPU_VECTOR(unsigned short, ushort, 4, 8)
CUDACPU_VECTOR(int, int, 8, 16)
CUDACPU_VECTOR(unsigned int, uint, 8, 16)
CUDACPU_VECTOR(long, long, 16, 16)
CUDACPU_VECTOR(unsigned long, ulong, 16, 16)
CUDACPU_VECTOR(long long, longlong, 16, 16)
CUDACPU_VECTOR(unsigned long long, ulonglong, 16, 16)
CUDACPU_VECTOR(float, float, 8, 16)
CUDACPU_VECTOR(double, double, 16, 16)

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned vx = 1, unsigned vy = 1, unsigned vz = 1) : x(vx), y(vy), z(vz) {}
    constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
    constexpr operator uint3() const { return {x, y, z}; }
};
extern uint3 threadIdx, blockIdx; // set by the scheduler whenever another thread goes on: a debugger can print them
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;
typedef struct cudacpu_stream* cudaStream_t;

// ----------------------------------------------------------------------------------------------------------------------
// What kernels and headers ask of the scheduler

namespace cudacpu {
// one message with kernel, block and thread, then abort()
[[noreturn]] void failure(const char* format, ...) __attribute__((format(printf, 1, 2)));

struct shared_variable { // one for each __shared__ declaration (and each instance of a template)
    size_t size;
    const char* name;
    size_t offset;   // its place in the block's shared memory, given when a launch first reaches the declaration
    uint64_t launch; // the launch that did so
};
void* shared_at(shared_variable* v);
void* dynamic_shared();

typedef void (*kernel_function)(const void* arguments);
struct launch { // <<<grid, block, smem, stream>>>
    const char* name;
    dim3 grid, block;
    size_t smem;
    cudaStream_t stream;
    const char* file;
    int line;
    launch(const char* n, dim3 g, dim3 b, size_t bytes = 0, cudaStream_t s = 0, CUDACPU_SITE)
        : name(n), grid(g), block(b), smem(bytes), stream(s), file(site_file), line(site_line) {}
    void go(kernel_function f, const void* arguments, size_t size);
    template <class F, class T, size_t... I>
    static void call(const F& f, const T& t, std::index_sequence<I...>) { f(std::get<I>(t)...); } // copies, for each thread
    template <class F, class... A> void run(F f, A... a) {
        struct pack { F f; std::tuple<A...> a; } p = {f, std::tuple<A...>(a...)};
        go([](const void* q) { call(((const pack*)q)->f, ((const pack*)q)->a, std::index_sequence_for<A...>{}); }, &p, sizeof p);
    }
};

extern int current; // the running thread of the block, x fastest as on the device; -1 on the host
inline int thread_in_block() { return current; }
inline int lane() { return thread_in_block() & 31; }
struct totals { uint64_t launches, mma; }; // since the program began: kernels that ran; products on tensor cores, one for a warp
extern totals done;
enum barrier_kind { BARRIER, BARRIER_COUNT, BARRIER_AND, BARRIER_OR };
int barrier(int predicate, barrier_kind kind, CUDACPU_SITE);
void grid_barrier(CUDACPU_SITE);
void yield(); // lets other threads of the block run
unsigned lanes_alive();

// Waits until all lanes of the mask (that have not returned) are at it. The last of them runs `work` for all: payloads[i] is
// what lane i gave, arrived says which are there. Shuffles, ballots, reductions, wmma, mma.sync and ldmatrix are all this.
typedef void (*collective_work)(void** payloads, uint32_t arrived);
void collective(uint32_t mask, const char* what, void* payload, collective_work work, CUDACPU_SITE);

struct shuffle_payload { const void* in; void* out; int from; unsigned size; };
void shuffle_work(void** payloads, uint32_t arrived);
template <class T> inline T shuffle(uint32_t mask, T v, int from, const char* what, const char* site_file, int site_line) {
    static_assert(std::is_trivially_copyable<T>::value, "only plain data can be shuffled");
    T result = v;
    shuffle_payload p = {&v, &result, from, sizeof(T)};
    collective(mask, what, &p, shuffle_work, CUDACPU_HERE);
    return result;
}

struct vote_payload { int predicate; uint32_t result; };
void vote_work(void** payloads, uint32_t arrived);
inline uint32_t vote(uint32_t mask, int predicate, const char* what, const char* site_file, int site_line) {
    vote_payload p = {predicate != 0, 0};
    collective(mask, what, &p, vote_work, CUDACPU_HERE);
    return p.result;
}

struct reduce_payload { const void* in; void* out; };
template <class T, class Op> struct reducer {
    CUDACPU_UNCHECKED static void work(void** payloads, uint32_t arrived) { // pairwise, like the shuffles it stands for
        T values[32];
        int n = 0;
        for (int i = 0; i < 32; i++) { if (arrived >> i & 1) { values[n++] = *(const T*)((reduce_payload*)payloads[i])->in; } }
        for (int step = 1; step < n; step *= 2) {
            for (int i = 0; i + step < n; i += 2 * step) { values[i] = Op()(values[i], values[i + step]); }
        }
        for (int i = 0; i < 32; i++) { if (arrived >> i & 1) { *(T*)((reduce_payload*)payloads[i])->out = values[0]; } }
    }
};
template <class Op, class T> inline T reduce(uint32_t mask, T v, const char* what, const char* site_file, int site_line) {
    T result = v;
    reduce_payload p = {&v, &result};
    collective(mask, what, &p, reducer<T, Op>::work, CUDACPU_HERE);
    return result;
}
struct op_add { template <class T> T operator()(T a, T b) const { return a + b; } };
struct op_min { template <class T> T operator()(T a, T b) const { return b < a ? b : a; } };
struct op_max { template <class T> T operator()(T a, T b) const { return a < b ? b : a; } };
struct op_and { template <class T> T operator()(T a, T b) const { return a & b; } };
struct op_or { template <class T> T operator()(T a, T b) const { return a | b; } };
struct op_xor { template <class T> T operator()(T a, T b) const { return a ^ b; } };

// Atomics: only one CUDA thread runs at a time, so reading and writing is enough.
#ifdef CUDACPU_CHECK
void note_atomic(const void* p, size_t size);
void note_fence();
#else
inline void note_atomic(const void*, size_t) {}
inline void note_fence() {}
#endif
template <class T, class F> CUDACPU_UNCHECKED inline T replace(T* p, F f) {
    T old = *p;
    *p = f(old);
    return old;
}
template <class T, class F> inline T atomic(T* p, F f) {
    note_atomic(p, sizeof(T));
    return replace(p, f);
}

// Copies of bytes as another type, in a way that the compiler sees through.
template <class To, class From> CUDACPU_UNCHECKED inline To bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "sizes differ");
    To to;
    __builtin_memcpy(&to, &from, sizeof to);
    return to;
}
} // namespace cudacpu

// ----------------------------------------------------------------------------------------------------------------------
// Barriers and warp primitives

inline void __syncthreads(CUDACPU_SITE) { cudacpu::barrier(0, cudacpu::BARRIER, CUDACPU_HERE); }
inline int __syncthreads_count(int p, CUDACPU_SITE) { return cudacpu::barrier(p, cudacpu::BARRIER_COUNT, CUDACPU_HERE); }
inline int __syncthreads_and(int p, CUDACPU_SITE) { return cudacpu::barrier(p, cudacpu::BARRIER_AND, CUDACPU_HERE); }
inline int __syncthreads_or(int p, CUDACPU_SITE) { return cudacpu::barrier(p, cudacpu::BARRIER_OR, CUDACPU_HERE); }
inline void __syncwarp(unsigned mask = 0xffffffffu, CUDACPU_SITE) {
    cudacpu::collective(mask, "__syncwarp", NULL, NULL, CUDACPU_HERE);
}

// width splits the warp into groups; a lane outside of its group reads itself
template <class T> inline T __shfl_sync(unsigned mask, T v, int from, int width = 32, CUDACPU_SITE) {
    int base = cudacpu::lane() & ~(width - 1);
    return cudacpu::shuffle(mask, v, base + (from & (width - 1)), "__shfl_sync", CUDACPU_HERE);
}
template <class T> inline T __shfl_xor_sync(unsigned mask, T v, int with, int width = 32, CUDACPU_SITE) {
    int me = cudacpu::lane(), from = me ^ with;
    if (from >= (me & ~(width - 1)) + width) { from = me; }
    return cudacpu::shuffle(mask, v, from, "__shfl_xor_sync", CUDACPU_HERE);
}
template <class T> inline T __shfl_up_sync(unsigned mask, T v, unsigned delta, int width = 32, CUDACPU_SITE) {
    int me = cudacpu::lane(), from = me - (int)delta;
    if (from < (me & ~(width - 1))) { from = me; }
    return cudacpu::shuffle(mask, v, from, "__shfl_up_sync", CUDACPU_HERE);
}
template <class T> inline T __shfl_down_sync(unsigned mask, T v, unsigned delta, int width = 32, CUDACPU_SITE) {
    int me = cudacpu::lane(), from = me + (int)delta;
    if (from >= (me & ~(width - 1)) + width) { from = me; }
    return cudacpu::shuffle(mask, v, from, "__shfl_down_sync", CUDACPU_HERE);
}
inline unsigned __ballot_sync(unsigned mask, int p, CUDACPU_SITE) { return cudacpu::vote(mask, p, "__ballot_sync", CUDACPU_HERE); }
inline int __any_sync(unsigned mask, int p, CUDACPU_SITE) { return cudacpu::vote(mask, p, "__any_sync", CUDACPU_HERE) != 0; }
inline int __all_sync(unsigned mask, int p, CUDACPU_SITE) { return cudacpu::vote(mask, !p, "__all_sync", CUDACPU_HERE) == 0; }
inline unsigned __activemask() { return cudacpu::lanes_alive(); }

#define CUDACPU_REDUCE(op)                                                                                  \
    template <class T> inline T __reduce_##op##_sync(unsigned mask, T v, CUDACPU_SITE) {                    \
        return cudacpu::reduce<cudacpu::op_##op>(mask, v, "__reduce_" #op "_sync", CUDACPU_HERE);           \
    }
CUDACPU_REDUCE(add) CUDACPU_REDUCE(min) CUDACPU_REDUCE(max) CUDACPU_REDUCE(and) CUDACPU_REDUCE(or) CUDACPU_REDUCE(xor)

inline void __threadfence() { cudacpu::note_fence(); }
inline void __threadfence_system() { cudacpu::note_fence(); }
inline void __threadfence_block() {}
inline void __nanosleep(unsigned) { cudacpu::yield(); }
inline void __trap() { cudacpu::failure("__trap()"); }
long long clock64(); // nanoseconds, not cycles

// ----------------------------------------------------------------------------------------------------------------------
// Atomics: each returns the old value. o is the old, v the given one.

#define CUDACPU_ATOMIC(name, result)                                                                                            \
    template <class T> inline T name(T* p, CUDACPU_SAME(T) v) { return cudacpu::atomic(p, [=](T o) -> T { return result; }); } \
    template <class T> inline T name##_block(T* p, CUDACPU_SAME(T) v) { return name(p, v); }                                   \
    template <class T> inline T name##_system(T* p, CUDACPU_SAME(T) v) { return name(p, v); }
CUDACPU_ATOMIC(atomicAdd, o + v)
CUDACPU_ATOMIC(atomicSub, o - v)
CUDACPU_ATOMIC(atomicExch, (void(o), v))
CUDACPU_ATOMIC(atomicMin, v < o ? v : o)
CUDACPU_ATOMIC(atomicMax, o < v ? v : o)
CUDACPU_ATOMIC(atomicAnd, o & v)
CUDACPU_ATOMIC(atomicOr, o | v)
CUDACPU_ATOMIC(atomicXor, o ^ v)
CUDACPU_ATOMIC(atomicInc, o >= v ? 0 : o + 1)
CUDACPU_ATOMIC(atomicDec, o == 0 || o > v ? v : o - 1)
template <class T> inline T atomicCAS(T* p, CUDACPU_SAME(T) expected, CUDACPU_SAME(T) v) {
    return cudacpu::atomic(p, [=](T o) -> T { return o == expected ? v : o; });
}

// ----------------------------------------------------------------------------------------------------------------------
// Loads and stores with cache hints, bits, mathematics. The fast versions (__expf) are the exact ones here.

#define CUDACPU_LOAD(name) template <class T> inline T name(const T* p) { return *p; }
#define CUDACPU_STORE(name) template <class T> inline void name(T* p, CUDACPU_SAME(T) v) { *p = v; }
CUDACPU_LOAD(__ldg) CUDACPU_LOAD(__ldcs) CUDACPU_LOAD(__ldca) CUDACPU_LOAD(__ldcg) CUDACPU_LOAD(__ldlu) CUDACPU_LOAD(__ldcv)
CUDACPU_STORE(__stcs) CUDACPU_STORE(__stcg) CUDACPU_STORE(__stwb) CUDACPU_STORE(__stwt)

inline int __float_as_int(float f) { return cudacpu::bits<int>(f); }
inline unsigned __float_as_uint(float f) { return cudacpu::bits<unsigned>(f); }
inline float __int_as_float(int i) { return cudacpu::bits<float>(i); }
inline float __uint_as_float(unsigned i) { return cudacpu::bits<float>(i); }
inline long long __double_as_longlong(double d) { return cudacpu::bits<long long>(d); }
inline double __longlong_as_double(long long i) { return cudacpu::bits<double>(i); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x != 0 ? __builtin_clz((unsigned)x) : 32; }
inline int __clzll(long long x) { return x != 0 ? __builtin_clzll((unsigned long long)x) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((unsigned long long)a * b >> 32); }
inline unsigned __brev(unsigned x) {
    unsigned r = 0;
    for (int i = 0; i < 32; i++) { r |= (x >> i & 1) << (31 - i); }
    return r;
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned n) {
    return (unsigned)((((unsigned long long)high << 32 | low) << (n & 31)) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned n) {
    return (unsigned)(((unsigned long long)high << 32 | low) >> (n & 31));
}

inline int __float2int_rn(float f) { return (int)rintf(f); }
inline int __float2int_rz(float f) { return (int)f; }
inline int __float2int_rd(float f) { return (int)floorf(f); }
inline int __float2int_ru(float f) { return (int)ceilf(f); }
inline unsigned __float2uint_rn(float f) { return (unsigned)rintf(f); }
inline float __int2float_rn(int i) { return (float)i; }
inline float __uint2float_rn(unsigned i) { return (float)i; }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float rcbrtf(float x) { return 1.0f / cbrtf(x); }
inline float __expf(float x) { return expf(x); }
inline float __exp10f(float x) { return powf(10.0f, x); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __tanhf(float x) { return tanhf(x); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline void __sincosf(float x, float* s, float* c) { *s = sinf(x); *c = cosf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __frsqrt_rn(float x) { return 1.0f / sqrtf(x); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; } // NaN gives 0
inline size_t __cvta_generic_to_shared(const void* p) { return (size_t)p; }

#define CUDACPU_TWO_NUMBERS class A, class B, \
    class C = typename std::enable_if<std::is_arithmetic<A>::value && std::is_arithmetic<B>::value, std::common_type<A, B>>::type
template <CUDACPU_TWO_NUMBERS> constexpr typename C::type max(A a, B b) {
    return (typename C::type)a < (typename C::type)b ? (typename C::type)b : (typename C::type)a;
}
template <CUDACPU_TWO_NUMBERS> constexpr typename C::type min(A a, B b) {
    return (typename C::type)b < (typename C::type)a ? (typename C::type)b : (typename C::type)a;
}
#endif
