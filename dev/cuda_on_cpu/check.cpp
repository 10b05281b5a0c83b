/*
The access checker: bounds, uninitialised memory, races.

User code is compiled by clang with -fsanitize=thread. Before each access of memory that others may see, the compiler then calls
__tsan_read4(p), __tsan_write4(p) and so on. We do not link its library: those functions are here.

For every 2 bytes of device and shared memory a Cell remembers who wrote and who read it last: the thread, the instruction, and the
interval. Intervals are numbered through: a new one begins with every block and with every completed barrier of a block. So two
accesses in the same interval are of the same block with no barrier in between. Then two threads, one of them writing, are a race,
    unless both are of one warp and a __syncwarp lies between (a shuffle does not order memory; CUDACPU_SHUFFLES_ORDER=1: it does)
    or both are atomic.
Accesses of different blocks of a launch are a race, unless ordered as in `the last block adds up`: the earlier access came before
an atomic of its block, this block has done an atomic since, and a __threadfence() has run.

What it cannot see: whether partial masks of __syncwarp were right; single bytes beside each other count as one place; orders of
blocks by anything else than one atomic.
*/
#include "internal.h"
#include <algorithm>
#include <execinfo.h>
#include <map>
#include <set>
#include <stdarg.h>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

extern char __executable_start, _end; // of the program's own static data

namespace cudacpu {
// ----------------------------------------------------------------------------------------------------------------------
// Shadow memory

struct Cell {
    uint32_t write_interval, read_interval;
    uint32_t write_pc, read_pc; // return addresses: the program is linked to low addresses (-no-pie)
    uint16_t writer, reader;    // thread of the block
    uint8_t write_syncs, read_syncs; // __syncwarps of its warp until then
    uint8_t flags, bytes;            // which of the two bytes were written
};
enum { ALLOCATED = 1, INITIALISED = 2, ATOMIC = 4, READ_BY_WARP = 8, READ_BY_MANY = 16 }; // more than one reader
const size_t GAP = 256; // between blocks of device memory
static size_t arena_size;
static char *arena, *shared;
static Cell *arena_cells, *shared_cells;
static size_t arena_used = GAP, shared_size;
static std::map<size_t, size_t>& living = *new std::map<size_t, size_t>; // offset in the arena -> size
static std::map<size_t, size_t>& freed = *new std::map<size_t, size_t>;  // for messages
static std::multimap<size_t, size_t>& reusable = *new std::multimap<size_t, size_t>; // room -> offset
static std::map<char*, std::pair<size_t, const char*>>& variables = *new std::map<char*, std::pair<size_t, const char*>>;

// The launch
struct Release { uint32_t block_start, interval; int thread; }; // a block's last atomic on device memory
static std::vector<Release>& releases = *new std::vector<Release>;
static uint32_t launch_start, block_start;
static bool block_did_atomic, fence_ran;
struct Traffic { uint64_t launches, read, written, read_once, written_once, shared_read, shared_written; };
static std::map<std::string, Traffic>& traffic = *new std::map<std::string, Traffic>;
static Traffic* counted;
static bool counting;

static void* reserve(size_t n) {
    void* p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) { perror("cudacpu: mmap"); _exit(1); }
    return p;
}

__attribute__((constructor)) static void set_up() {
    arena_size = (size_t)atol(setting("CUDACPU_CHECK_MB", "2048")) << 20;
    arena = (char*)reserve(arena_size);
    arena_cells = (Cell*)reserve(arena_size / 2 * sizeof(Cell));
    counting = atoi(setting("CUDACPU_COUNT", "0")) != 0;
}

static bool in_arena(const void* p) { return (size_t)((char*)p - arena) < arena_size; }
static bool in_shared(const void* p) { return (size_t)((char*)p - shared) < shared_size; }
static Cell* cell_of(const void* p) {
    return in_arena(p) ? arena_cells + ((char*)p - arena) / 2 : shared_cells + ((char*)p - shared) / 2;
}

// ----------------------------------------------------------------------------------------------------------------------
// Reports: each pair of places in the source once; exit code 86

static int reports;
static std::set<std::pair<uintptr_t, uintptr_t>>& reported = *new std::set<std::pair<uintptr_t, uintptr_t>>;

static bool is_new(uintptr_t a, uintptr_t b) {
    static const int most = atoi(setting("CUDACPU_REPORTS", "20"));
    if (!reported.insert({a, b}).second) { return false; }
    if (++reports == most + 1) { fprintf(stderr, "==cudacpu== there are more (CUDACPU_REPORTS=%d)\n", most); }
    return reports <= most;
}

__attribute__((format(printf, 3, 4))) static void report(uint32_t pc, uint32_t other, const char* format, ...) {
    char message[1024];
    va_list args;
    if (!is_new(pc, other)) { return; }
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    fflush(stdout);
    fprintf(stderr, "==cudacpu== %s\n==cudacpu==   at %s\n", message, source_of(pc).c_str());
    if (other != 0) { fprintf(stderr, "==cudacpu==   the other access: %s\n", source_of(other).c_str()); }
    fprintf(stderr, "==cudacpu==   in %s\n", where().c_str());
}

// A library call was wrong: show who called it.
__attribute__((format(printf, 3, 4))) static void report_call(const char* what, int kind, const char* format, ...) {
    char message[1024];
    void* frames[32];
    va_list args;
    if (!is_new((uintptr_t)what, (uintptr_t)kind)) { return; }
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    fflush(stdout);
    fprintf(stderr, "==cudacpu== %s: %s\n", what, message);
    int n = backtrace(frames, 32), shown = 0;
    for (int i = 0; i < n && shown < 3; i++) {
        std::string source = source_of((uintptr_t)frames[i]);
        if (!source.empty()) { fprintf(stderr, "==cudacpu==   called by %s\n", source.c_str()); shown++; }
    }
}

__attribute__((destructor)) static void finish() {
    if (counting) {
        fprintf(stderr, "==cudacpu== bytes that kernels moved: asked of device memory and, in brackets, of different places\n");
        fprintf(stderr, "%-36s %8s %12s %12s %12s %12s %12s %12s\n", "kernel", "launches", "read", "(different)", "written",
                "(different)", "shared read", "written");
        for (auto& t : traffic) {
            const Traffic& x = t.second;
            fprintf(stderr, "%-36s %8zu", t.first.c_str(), (size_t)x.launches);
            for (uint64_t v : {x.read, x.read_once, x.written, x.written_once, x.shared_read, x.shared_written}) {
                fprintf(stderr, " %12zu", (size_t)v);
            }
            fprintf(stderr, "\n");
        }
    }
    if (reports == 0) { return; }
    fflush(stdout);
    fprintf(stderr, "==cudacpu== %d different errors\n", reports);
    _exit(86);
}

// ----------------------------------------------------------------------------------------------------------------------
// What an address is

static std::string name_in_arena(const char* p) {
    size_t at = (size_t)(p - arena);
    auto dead = freed.upper_bound(at), alive = living.upper_bound(at);
    if (dead != freed.begin()) {
        --dead;
        if (at < dead->first + dead->second) {
            return text("byte %zu of a %zu-byte block that cudaFree has freed", at - dead->first, dead->second);
        }
    }
    if (alive == living.begin()) { return text("device address %p", (const void*)p); }
    --alive;
    size_t byte = at - alive->first, size = alive->second;
    if (byte < size) { return text("byte %zu of the %zu-byte block at %p", byte, size, (void*)(arena + alive->first)); }
    return text("%zu bytes past the end of the %zu-byte block at %p", byte - size, size, (void*)(arena + alive->first));
}

static std::string name_of(const void* address) {
    char* p = (char*)address;
    if (in_arena(p)) { return name_in_arena(p); }
    auto v = variables.upper_bound(p);
    if (!in_shared(p) || v == variables.begin()) { return text("address %p", address); }
    --v;
    size_t byte = (size_t)(p - v->first), size = v->second.first;
    if (byte < size) { return text("byte %zu of __shared__ %s", byte, v->second.second); }
    return text("%zu bytes past the end of __shared__ %s (%zu bytes)", byte - size, v->second.second, size);
}

// ----------------------------------------------------------------------------------------------------------------------
// Memory comes and goes

static void set_cells(Cell* c, size_t bytes, uint8_t flags) {
    for (size_t i = 0; i < (bytes + 1) / 2; i++) { c[i] = Cell{0, 0, 0, 0, 0, 0, 0, 0, flags, 0}; }
}

void* arena_alloc(size_t n) {
    size_t room = (n + 255) / 256 * 256 + GAP, at;
    auto old = reusable.size() > 64 ? reusable.find(room) : reusable.end(); // freed memory rests a while, to catch its users
    if (old != reusable.end()) {
        at = old->second;
        reusable.erase(old);
    } else {
        if (room > arena_size - arena_used) {
            fprintf(stderr, "==cudacpu== check mode has %zu MB of device memory: CUDACPU_CHECK_MB\n", arena_size >> 20);
            return NULL;
        }
        at = arena_used;
        arena_used += room;
    }
    freed.erase(at);
    living[at] = n;
    set_cells(arena_cells + at / 2, n, ALLOCATED);
    return arena + at;
}

void arena_free(void* p, size_t n) {
    size_t at = (size_t)((char*)p - arena);
    set_cells(arena_cells + at / 2, n, 0);
    living.erase(at);
    freed[at] = n;
    reusable.insert({(n + 255) / 256 * 256 + GAP, at});
}

void check_shared_region(char* p, size_t n) {
    shared = p;
    shared_size = n;
    shared_cells = (Cell*)reserve(n / 2 * sizeof(Cell));
}

void check_shared(char* p, size_t n, const char* name) {
    variables[p] = {n, name};
    set_cells(cell_of(p), n, ALLOCATED);
}

void check_host_wrote(const void* p, size_t n) {
    if (!in_arena(p)) { return; }
    Cell* c = cell_of(p);
    for (size_t i = 0; i < ((uintptr_t)p % 2 + n + 1) / 2; i++) { c[i].flags |= INITIALISED; }
}

void check_copied(const void* to, const void* from, size_t n) { // uninitialised stays so
    Cell *a = cell_of(to), *b = cell_of(from);
    for (size_t i = 0; i < (n + 1) / 2; i++) { a[i].flags = (uint8_t)((a[i].flags & ~INITIALISED) | (b[i].flags & INITIALISED)); }
}

void check_launch(const char* kernel) {
    for (auto& v : variables) { set_cells(cell_of(v.first), v.second.first, 0); }
    variables.clear();
    releases.clear();
    launch_start = (uint32_t)interval + 1;
    fence_ran = false;
    std::string name(kernel, strcspn(kernel, "<"));
    counted = counting ? &traffic[name] : NULL;
    if (counting) { counted->launches++; }
}

void check_block() {
    block_start = (uint32_t)interval;
    block_did_atomic = false;
    releases.push_back({block_start, 0, -1});
}

void check_range(const void* p, size_t n, bool write, const char* what) { // by a library call
    if (n == 0) { return; }
    if (!in_arena(p)) { report_call(what, 1, "%p is not device memory", p); return; }
    Cell* c = cell_of(p);
    for (size_t i = 0; i < ((uintptr_t)p % 2 + n + 1) / 2; i++) {
        const char* at = arena + ((char*)p - arena) / 2 * 2 + i * 2;
        if ((c[i].flags & ALLOCATED) == 0) { report_call(what, 2, "out of bounds: %s", name_of(at).c_str()); return; }
        if (!write && (c[i].flags & INITIALISED) == 0) { report_call(what, 3, "uninitialised: %s", name_of(at).c_str()); return; }
        if (write) { c[i].flags |= INITIALISED; }
    }
}

// ----------------------------------------------------------------------------------------------------------------------
// One access

struct Access {
    char* p;
    int n;
    bool read, write, atomic; // an atomic operation reads and writes; volatile accesses count as atomic
    uint32_t pc;
};

// Lanes of one warp that write the same place with one instruction: allowed, but only the same value makes sense. The other value
// can be compared only after the write, that is at the next access or switch.
static struct { char* p; int n; uint32_t pc; int first, second; char old[16]; } doubtful;

static void settle_doubt() {
    char* p = doubtful.p;
    doubtful.p = NULL;
    if (memcmp(p, doubtful.old, (size_t)doubtful.n) == 0) { return; }
    report(doubtful.pc, doubtful.pc, "race: lanes %d and %d of a warp write different values to %s", doubtful.first % WARP_LANES,
           doubtful.second % WARP_LANES, name_of(p).c_str());
}
void check_pause() {
    if (doubtful.p != NULL) { settle_doubt(); }
}

// Was what a thread did in that interval before its block's last atomic, and was there a fence?
static bool released(uint32_t when, int thread) {
    auto r = std::upper_bound(releases.begin(), releases.end(), when,
                              [](uint32_t v, const Release& x) { return v < x.block_start; });
    if (r == releases.begin() || !block_did_atomic || !fence_ran) { return false; }
    --r;
    return when < r->interval || (when == r->interval && thread == r->thread);
}

static bool of_another_block(uint32_t when) { return when >= launch_start && when < block_start; }

static void against_writer(const Cell& c, const Access& a, int me, uint8_t syncs, uint8_t bytes, bool global) {
    bool both_atomic = a.atomic && (c.flags & ATOMIC) != 0, same_warp = c.writer / WARP_LANES == me / WARP_LANES;
    if (c.write_interval == (uint32_t)interval) {
        if (c.writer == me || both_atomic || (c.bytes & bytes) == 0 || (same_warp && c.write_syncs != syncs)) { return; }
        if (same_warp && a.write && !a.atomic && c.write_pc == a.pc && a.n <= 16) {
            doubtful.p = a.p;
            doubtful.n = a.n;
            doubtful.pc = a.pc;
            doubtful.first = c.writer;
            doubtful.second = me;
            memcpy(doubtful.old, a.p, (size_t)a.n);
            return;
        }
        report(a.pc, c.write_pc, "race: thread %d %s %s, which thread %d wrote without a barrier in between", me,
               a.write ? "writes" : "reads", name_of(a.p).c_str(), c.writer);
    } else if (global && of_another_block(c.write_interval) && !both_atomic && !released(c.write_interval, c.writer)) {
        const char* why = !block_did_atomic ? "" : !fence_ran ? " (ordered by an atomic, but without a __threadfence())"
            : " (not before that block's atomic: is a __syncthreads() missing there?)";
        report(a.pc, c.write_pc, "race between blocks: %s %s, which another block of this launch wrote%s",
               a.write ? "writes" : "reads", name_of(a.p).c_str(), why);
    }
}

static void against_readers(const Cell& c, const Access& a, int me, uint8_t syncs, bool global) {
    bool same_warp = c.reader / WARP_LANES == me / WARP_LANES, synced = same_warp && c.read_syncs != syncs;
    if (c.read_interval == (uint32_t)interval) {
        bool fine = (c.flags & READ_BY_MANY) != 0 ? false : (c.flags & READ_BY_WARP) != 0 ? synced : c.reader == me || synced;
        if (fine) { return; }
        report(a.pc, c.read_pc, "race: thread %d writes %s, which thread %d%s read without a barrier in between", me,
               name_of(a.p).c_str(), c.reader, (c.flags & (READ_BY_MANY | READ_BY_WARP)) != 0 ? " and others" : "");
    } else if (global && !a.atomic && of_another_block(c.read_interval) && !released(c.read_interval, c.reader)) {
        report(a.pc, c.read_pc, "race between blocks: writes %s, which another block of this launch read", name_of(a.p).c_str());
    }
}

static void note_write(Cell& c, const Access& a, int me, uint8_t syncs, uint8_t bytes) {
    c.bytes = c.write_interval == (uint32_t)interval && c.writer == me ? c.bytes | bytes : bytes;
    c.write_interval = (uint32_t)interval;
    c.writer = (uint16_t)me;
    c.write_syncs = syncs;
    c.write_pc = a.pc;
    c.flags = (uint8_t)((c.flags & ~ATOMIC) | INITIALISED | (a.atomic ? ATOMIC : 0));
}

static void note_read(Cell& c, const Access& a, int me, uint8_t syncs) {
    if (c.read_interval != (uint32_t)interval) {
        c.read_interval = (uint32_t)interval;
        c.reader = (uint16_t)me;
        c.read_pc = a.pc;
        c.flags &= (uint8_t)~(READ_BY_WARP | READ_BY_MANY);
    } else if (c.reader / WARP_LANES != me / WARP_LANES) { c.flags |= READ_BY_MANY; }
    else if (c.reader != me) { c.flags |= READ_BY_WARP; }
    if (c.reader / WARP_LANES == me / WARP_LANES) { c.read_syncs = syncs; }
}

static void count(const Access& a, const Cell* c, int cells, bool global) {
    Traffic& t = *counted;
    uint64_t once_read = 0, once_written = 0;
    (a.write ? (global ? t.written : t.shared_written) : (global ? t.read : t.shared_read)) += (uint64_t)a.n;
    if (a.read && a.write) { (global ? t.read : t.shared_read) += (uint64_t)a.n; }
    for (int i = 0; global && i < cells; i++) {
        once_read += a.read && c[i].read_interval < launch_start && !(a.write && c[i].write_interval >= launch_start);
        once_written += a.write && c[i].write_interval < launch_start;
    }
    t.read_once += 2 * once_read;
    t.written_once += 2 * once_written;
}

static void elsewhere(const Access& a) { // neither device nor shared memory, nor this thread's stack
    size_t size;
    const char* args = (const char*)launch_arguments(&size);
    if (a.p >= &__executable_start && a.p < &_end) { return; } // __device__ and __constant__ variables, literals
    if (a.p >= args && a.p < args + size) { return; }
    report(a.pc, 0, "kernel %s %d bytes at %p, which is host memory or another thread's local memory",
           a.write ? "writes" : "reads", a.n, (void*)a.p);
}

static void on_access(const Access& a) {
    if (doubtful.p != NULL) { settle_doubt(); }
    if ((a.p >= stack_low && a.p < stack_high) || moving_data) { return; }
    bool global = in_arena(a.p);
    if (!in_kernel) {
        if (global) { report(a.pc, 0, "host code %s device memory: %s", a.write ? "writes" : "reads", name_of(a.p).c_str()); }
        return;
    }
    if (!global && !in_shared(a.p)) { elsewhere(a); return; }
    int me = current, cells = (int)((uintptr_t)a.p % 2 + (uintptr_t)a.n + 1) / 2;
    uint8_t syncs = (uint8_t)warp_syncs(me / WARP_LANES), bytes = a.n == 1 ? (uint8_t)(1 << (uintptr_t)a.p % 2) : 3;
    Cell* c = cell_of(a.p);
    if (counting) { count(a, c, cells, global); }
    for (int i = 0; i < cells; i++, c++) {
        if ((c->flags & ALLOCATED) == 0) {
            report(a.pc, 0, "out of bounds: %d-byte %s, %s", a.n, a.write ? "write" : "read", name_of(a.p).c_str());
            return;
        }
        if (a.read && (c->flags & INITIALISED) == 0) {
            report(a.pc, 0, "uninitialised: %d-byte read of %s", a.n, name_of(a.p).c_str());
            c->flags |= INITIALISED;
        }
        against_writer(*c, a, me, syncs, bytes, global);
        if (a.write) {
            against_readers(*c, a, me, syncs, global);
            note_write(*c, a, me, syncs, bytes);
        }
        if (a.read && !a.atomic) { note_read(*c, a, me, syncs); }
    }
}

static void aligned(const Access& a) {
    if ((uintptr_t)a.p % (size_t)a.n != 0 && (in_arena(a.p) || in_shared(a.p))) {
        report(a.pc, 0, "misaligned %d-byte %s at %p", a.n, a.write ? "write" : "read", (void*)a.p);
    }
    on_access(a);
}

static uint32_t low(void* pc) { return (uint32_t)(uintptr_t)pc; }
void check_access(const void* p, int n, bool write, void* pc) { on_access({(char*)p, n, !write, write, false, low(pc)}); }
void note_atomic(const void* p, size_t size) {
    if (in_kernel && in_arena(p)) {
        block_did_atomic = true;
        releases.back().interval = (uint32_t)interval;
        releases.back().thread = current;
    }
    on_access({(char*)p, (int)size, true, true, true, low(__builtin_return_address(0))});
}
void note_fence() { fence_ran = true; }
} // namespace cudacpu
using namespace cudacpu;

// ----------------------------------------------------------------------------------------------------------------------
// What the compiler calls

#define PC low(__builtin_return_address(0))
#define ACCESSES(n)                                                                                          \
    void __tsan_read##n(void* p) { aligned({(char*)p, n, true, false, false, PC}); }                          \
    void __tsan_write##n(void* p) { aligned({(char*)p, n, false, true, false, PC}); }                         \
    void __tsan_volatile_read##n(void* p) { aligned({(char*)p, n, true, false, true, PC}); }                  \
    void __tsan_volatile_write##n(void* p) { aligned({(char*)p, n, false, true, true, PC}); }                 \
    void __tsan_unaligned_read##n(void* p) { on_access({(char*)p, n, true, false, false, PC}); }              \
    void __tsan_unaligned_write##n(void* p) { on_access({(char*)p, n, false, true, false, PC}); }             \
    void __tsan_unaligned_volatile_read##n(void* p) { on_access({(char*)p, n, true, false, true, PC}); }      \
    void __tsan_unaligned_volatile_write##n(void* p) { on_access({(char*)p, n, false, true, true, PC}); }
extern "C" {
ACCESSES(1) ACCESSES(2) ACCESSES(4) ACCESSES(8) ACCESSES(16)
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_read_range(void* p, size_t n) { on_access({(char*)p, (int)n, true, false, false, PC}); }
void __tsan_write_range(void* p, size_t n) { on_access({(char*)p, (int)n, false, true, false, PC}); }

// objcopy makes the user's calls of memcpy, memmove, memset, and those that the compiler puts in for structs, end here
void* cudacpu_memmove(void* to, const void* from, size_t n) {
    if (n > 0) {
        on_access({(char*)from, (int)n, true, false, false, PC});
        on_access({(char*)to, (int)n, false, true, false, PC});
    }
    return memmove(to, from, n);
}
void* cudacpu_memcpy(void* to, const void* from, size_t n) {
    if (n > 0) {
        on_access({(char*)from, (int)n, true, false, false, PC});
        on_access({(char*)to, (int)n, false, true, false, PC});
    }
    return memmove(to, from, n);
}
void* cudacpu_memset(void* p, int value, size_t n) {
    if (n > 0) { on_access({(char*)p, (int)n, false, true, false, PC}); }
    return memset(p, value, n);
}
}
