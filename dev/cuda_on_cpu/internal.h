// What the parts of the runtime tell each other: cudacpu.cpp (threads), runtime.cpp (memory and the API), streams.cpp, blas.cpp,
// check.cpp.
#ifndef CUDACPU_INTERNAL_H
#define CUDACPU_INTERNAL_H
#include "cuda_runtime.h"
#include <functional>
#include <string>

#if defined(__SANITIZE_ADDRESS__)
#define CUDACPU_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define CUDACPU_ASAN 1
#endif
#endif
#ifdef CUDACPU_ASAN
extern "C" {
void __asan_poison_memory_region(const volatile void* p, size_t n);
void __asan_unpoison_memory_region(const volatile void* p, size_t n);
}
#else
#define __asan_poison_memory_region(p, n) ((void)0)
#define __asan_unpoison_memory_region(p, n) ((void)0)
#endif
#if __has_include(<valgrind/memcheck.h>)
#include <valgrind/memcheck.h>
#else
#define VALGRIND_STACK_REGISTER(low, high) 0
#define VALGRIND_MAKE_MEM_UNDEFINED(p, n) 0
#endif

namespace cudacpu {
enum { MAX_THREADS = 1024, WARP_LANES = 32, POISON = 0xff }; // bytes of 0xff: NaN in every float format, -1 as an integer
const size_t MAX_SHARED = 227 << 10;                        // that a block can have, as on an H100

// cudacpu.cpp
std::string text(const char* format, ...) __attribute__((format(printf, 1, 2))); // printf into a string
extern bool in_kernel;
extern const char* kernel_name;
extern uint64_t interval;         // +1 whenever a block begins or completes a barrier
extern bool moving_data;          // while one lane does the work of a collective for all
extern char *stack_low, *stack_high; // of the running thread
const void* launch_arguments(size_t* size);
uint32_t warp_syncs(int warp);    // how many __syncwarp this warp has completed in this block
std::string where();              // "kernel k, block (0,0,0), thread (3,0,0)"
std::string source_of(uintptr_t pc, bool runtime_too = false); // "function at file.cu:12, called from ..."
const char* setting(const char* name, const char* otherwise);  // of the environment

// runtime.cpp
cudaError_t remember(cudaError_t e); // for cudaGetLastError
void check_canaries(const char* kernel);
size_t largest_dynamic_shared();     // what a launch may ask for, in bytes
extern bool copies_under_way;        // some thread of this block has begun a cp.async
void drop_copies(int thread);        // it has returned
void touch_range(const void* p, size_t n, bool write, const char* what); // a library call reads or writes device memory

// streams.cpp
bool streams_at_once();              // whether what is asked of a stream runs at once
void in_stream(cudaStream_t stream, const std::function<void()>& work); // asks for it
void finish_all_streams();

// check.cpp: the access checker. Without it these do nothing.
#ifdef CUDACPU_CHECK
void* arena_alloc(size_t n);
void arena_free(void* p, size_t n);
void check_shared_region(char* p, size_t n);
void check_launch(const char* kernel);
void check_block();
void check_pause();                                       // the running thread stops, another goes on
void check_shared(char* p, size_t n, const char* name);   // a shared variable comes to life, uninitialised
void check_host_wrote(const void* p, size_t n);
void check_copied(const void* to, const void* from, size_t n);
void check_range(const void* p, size_t n, bool write, const char* what);
void check_access(const void* p, int n, bool write, void* pc); // by the running thread
#else
inline void check_shared_region(char*, size_t) {}
inline void check_launch(const char*) {}
inline void check_block() {}
inline void check_pause() {}
inline void check_shared(char*, size_t, const char*) {}
inline void check_host_wrote(const void*, size_t) {}
inline void check_copied(const void*, const void*, size_t) {}
inline void check_range(const void*, size_t, bool, const char*) {}
inline void check_access(const void*, int, bool, void*) {}
#endif
}
#endif
