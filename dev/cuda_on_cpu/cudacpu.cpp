/*
Runs CUDA kernels on one CPU thread.

A CUDA thread is a fiber: a stack of its own and a few saved registers. But a fiber is needed only while a thread waits. One fiber
runs thread 0 of a block to its end, then thread 1, and so on, as a plain loop; only when a thread waits at a barrier or for the
other lanes of its warp is its fiber set aside and another one taken. A kernel that never waits runs on a single fiber, all blocks.

Which thread goes on is free: every choice is an execution that a GPU may do as well. Three orders can be asked for (CUDACPU_ORDER):
    forward    lowest thread first, blocks upwards; after a warp primitive the same warp goes on, its stacks are in the cache
    reverse    highest thread first, blocks downwards
    random     any, by CUDACPU_SEED
A program without races gives the same bits in all of them.

Blocks run one after the other, each from its first thread to its last. Kernels that wait for another block do not work.
*/
#include "internal.h"
#include <map>
#include <signal.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>
#include <vector>

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

// ----------------------------------------------------------------------------------------------------------------------
// Switching stacks

// Saves the registers that a function has to preserve on this stack, its place in *save, and goes on with the stack at `to`.
extern "C" void cudacpu_switch(void** save, void* to);
#ifdef __APPLE__
#define SYMBOL(name) "_" name
#else
#define SYMBOL(name) name
#endif
#if defined(__x86_64__)
asm(".text\n.globl " SYMBOL("cudacpu_switch") "\n" SYMBOL("cudacpu_switch") ":\n"
    "push %rbp\n push %rbx\n push %r12\n push %r13\n push %r14\n push %r15\n"
    "mov %rsp, (%rdi)\n mov %rsi, %rsp\n"
    "pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbx\n pop %rbp\n ret\n");
static void* first_stack(char* top, void (*entry)(void)) { // as if entry had called cudacpu_switch before its first instruction
    void** sp = (void**)((uintptr_t)top & ~(uintptr_t)15);
    *--sp = NULL; // where entry would return to
    *--sp = (void*)entry;
    for (int i = 0; i < 6; i++) { *--sp = NULL; }
    return sp;
}
#elif defined(__aarch64__)
asm(".text\n.globl " SYMBOL("cudacpu_switch") "\n" SYMBOL("cudacpu_switch") ":\n"
    "sub sp, sp, #160\n"
    "stp x19, x20, [sp, #0]\n stp x21, x22, [sp, #16]\n stp x23, x24, [sp, #32]\n stp x25, x26, [sp, #48]\n"
    "stp x27, x28, [sp, #64]\n stp x29, x30, [sp, #80]\n"
    "stp d8, d9, [sp, #96]\n stp d10, d11, [sp, #112]\n stp d12, d13, [sp, #128]\n stp d14, d15, [sp, #144]\n"
    "mov x9, sp\n str x9, [x0]\n mov sp, x1\n"
    "ldp x19, x20, [sp, #0]\n ldp x21, x22, [sp, #16]\n ldp x23, x24, [sp, #32]\n ldp x25, x26, [sp, #48]\n"
    "ldp x27, x28, [sp, #64]\n ldp x29, x30, [sp, #80]\n"
    "ldp d8, d9, [sp, #96]\n ldp d10, d11, [sp, #112]\n ldp d12, d13, [sp, #128]\n ldp d14, d15, [sp, #144]\n"
    "add sp, sp, #160\n ret\n");
static void* first_stack(char* top, void (*entry)(void)) {
    void** sp = (void**)((uintptr_t)top & ~(uintptr_t)15) - 20;
    memset(sp, 0, 160);
    sp[11] = (void*)entry; // x30, where ret goes
    return sp;
}
#else
#error "switching stacks is written for x86-64 and aarch64 only"
#endif
#ifdef CUDACPU_ASAN // it keeps track of stacks and must be told
extern "C" {
void __sanitizer_start_switch_fiber(void** fake, const void* bottom, size_t size);
void __sanitizer_finish_switch_fiber(void* fake, const void** bottom, size_t* size);
}
#endif

namespace cudacpu {
// ----------------------------------------------------------------------------------------------------------------------
// State. Names that dev/cuda_on_cpu/cudacpu.gdb reads: threads, n_threads, current, kernel_name.

struct Fiber {
    void* sp;    // while it is set aside
    char* stack; // its lowest byte
    size_t size;
    int thread;  // that it shall start
    void* fake;  // for AddressSanitizer
};
enum { NOT_STARTED, READY, AT_BARRIER, AT_WARP, DONE };
struct Thread {
    int state;
    Fiber* fiber;          // that it runs on, or waits on
    void* payload;         // for the collective at which it waits
    const char *what, *file; // where it waits
    int line, predicate;
};
// Lanes meet by their mask, so groups of a warp can be under way at the same time. The slot is that of the lane that came first.
struct Meeting {
    uint32_t mask, arrived;
    const char* what;
    collective_work work;
};
struct Warp {
    uint32_t alive, busy; // lanes that have not returned; slots at which somebody waits
    uint32_t syncs;
    Meeting slots[WARP_LANES];
};
enum { FORWARD, REVERSE, RANDOM };

bool in_kernel, moving_data;
int current = -1;
const char* kernel_name = "";
uint64_t interval = 1;
char *stack_low, *stack_high;

static Thread threads[MAX_THREADS];
static Warp warps[MAX_THREADS / WARP_LANES];
static int n_threads, n_alive, n_arrived; // of the running block; at its barrier
static barrier_kind at_barrier;
static int barrier_result;
static int ready[MAX_THREADS], ready_first, n_ready;    // a ring: threads that can go on
static int waiting[MAX_THREADS], n_waiting, n_started; // threads not started; forward and reverse only count

static Fiber host_fiber;
static Fiber* fiber = &host_fiber; // the running one
static std::vector<Fiber*>& idle = *new std::vector<Fiber*>;       // never destroyed: exit() may be called by a kernel
static std::vector<Fiber*>& all_fibers = *new std::vector<Fiber*>;

static kernel_function kernel;
static const void* arguments;
static size_t arguments_size, dynamic_size;
totals done;
static uint64_t block_number, n_blocks;
static std::vector<uint32_t>& block_order = *new std::vector<uint32_t>;
static int order = FORWARD;
static uint64_t random_state = 1;
static size_t stack_bytes;
static bool poison = true;
static volatile long ticks, launch_ticks; // of the watchdog
static double timeout;

const void* launch_arguments(size_t* size) { *size = arguments_size; return arguments; }
uint32_t warp_syncs(int warp) { return warps[warp].syncs; }
unsigned lanes_alive() { return warps[current / WARP_LANES].alive; }

static uint64_t random_number() {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

// ----------------------------------------------------------------------------------------------------------------------
// Messages

extern "C" __attribute__((noinline)) void cudacpu_error() { asm volatile(""); } // a place for a debugger to stop at

const char* setting(const char* name, const char* otherwise) {
    const char* value = getenv(name);
    return value != NULL && *value != '\0' ? value : otherwise;
}

std::string text(const char* format, ...) {
    char buffer[2048];
    va_list args;
    va_start(args, format);
    vsnprintf(buffer, sizeof buffer, format, args);
    va_end(args);
    return buffer;
}

std::string where() {
    if (!in_kernel) { return "host code"; }
    return text("kernel %s, block (%u,%u,%u), thread (%u,%u,%u)", kernel_name, blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x,
                threadIdx.y, threadIdx.z);
}

// Asks addr2line, which also knows inlined calls: two lines each, function and file:line. Programs are linked with -no-pie.
std::string source_of(uintptr_t pc, bool runtime_too) {
    std::string command = text("addr2line -e /proc/%d/exe -f -C -i 0x%zx 2>/dev/null", (int)getpid(), (size_t)pc - 1), result;
    FILE* pipe = popen(command.c_str(), "r");
    char name[1024], place[1024];
    for (int n = 0; pipe != NULL && n < 3 && fgets(name, sizeof name, pipe) && fgets(place, sizeof place, pipe);) {
        bool lambda = strstr(name, "{lambda") != NULL; // clang's name of the one that cudacpu-pp puts around a kernel; g++'s:
        bool launch = lambda || strncmp(name, "operator()<", 11) == 0;
        name[lambda || !launch ? strcspn(name, "(\n") : 0] = '\0';
        place[strcspn(place, " \n")] = '\0';
        bool ours = strstr(place, "cuda_on_cpu/") != NULL && strstr(place, "/test/") == NULL;
        if (strstr(place, "??") != NULL || (ours && !runtime_too)) { continue; }
        const char* base = strrchr(place, '/');
        result += result.empty() ? "" : launch ? ", launched" : ", called from ";
        if (launch && *name != '\0') { result += " by "; }
        result += name + (strncmp(name, "auto ", 5) == 0 || strncmp(name, "void ", 5) == 0 ? 5 : 0); // of templates
        result += std::string(" at ") + (base != NULL ? base + 1 : place);
        n++;
    }
    if (pipe != NULL) { pclose(pipe); }
    return result;
}

void failure(const char* format, ...) {
    char message[2048];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    fflush(stdout);
    fprintf(stderr, "\n==cudacpu== error: %s\n==cudacpu==   in %s\n", message, where().c_str());
    cudacpu_error();
    abort();
}

// What the threads of the block do: "32 threads wait at __syncthreads, a.cu:12 (the first: thread 0)"
static void print_threads() {
    std::map<std::string, std::pair<int, int>> groups;
    for (int t = 0; t < n_threads; t++) {
        const Thread& at = threads[t];
        std::string what = at.state == DONE ? "have returned from the kernel" : at.state == NOT_STARTED ? "have not started"
            : t == current || at.state == READY ? "are running" : text("wait at %s, %s:%d", at.what, at.file, at.line);
        auto& group = groups[what];
        if (group.first++ == 0) { group.second = t; }
    }
    for (auto& g : groups) {
        fprintf(stderr, "==cudacpu==   %d threads %s (the first: thread %d)\n", g.second.first, g.first.c_str(), g.second.second);
    }
}

static void deadlock() {
    fflush(stdout);
    fprintf(stderr, "\n==cudacpu== error: deadlock: no thread of the block can go on\n==cudacpu==   kernel %s, block (%u,%u,%u)\n",
            kernel_name, blockIdx.x, blockIdx.y, blockIdx.z);
    print_threads();
    cudacpu_error();
    abort();
}

static uintptr_t pc_of(void* context) {
#if defined(__linux__) && defined(__x86_64__)
    return (uintptr_t)((ucontext_t*)context)->uc_mcontext.gregs[REG_RIP] + 1;
#elif defined(__linux__) && defined(__aarch64__)
    return (uintptr_t)((ucontext_t*)context)->uc_mcontext.pc + 1;
#else
    return context == NULL;
#endif
}

static void fatal_signal(const char* what, void* context) { // the process ends here, so this may use what handlers should not
    std::string source = source_of(pc_of(context));
    fflush(stdout);
    fprintf(stderr, "\n==cudacpu== error: %s\n==cudacpu==   in %s\n", what, where().c_str());
    if (!source.empty()) { fprintf(stderr, "==cudacpu==   at %s\n", source.c_str()); }
}

static void on_fault(int number, siginfo_t* info, void* context) {
    char* p = (char*)info->si_addr;
    signal(number, SIG_DFL);
    std::string what = number == SIGFPE ? "integer division by zero"
        : p == NULL && info->si_code > 0x7f ? "misaligned access, or an address that cannot be" : text("no memory at %p", (void*)p);
    if (in_kernel && (number == SIGSEGV || number == SIGBUS) && p < stack_low + 4096 && p >= stack_low - 65536) {
        what = "the stack of a CUDA thread is full; CUDACPU_STACK=bytes makes it larger";
    }
    fatal_signal(what.c_str(), context);
    cudacpu_error();
}

// Ten times per timeout, measured in CPU time, so that a busy machine does no harm.
static void on_tick(int, siginfo_t*, void* context) {
    ticks++;
    if (!in_kernel || ticks - launch_ticks <= 10) { return; }
    fatal_signal(text("the kernel has been running for %g s of CPU time (CUDACPU_TIMEOUT)", timeout).c_str(), context);
    print_threads();
    cudacpu_error();
    abort();
}

static void start_watchdog() {
    timeout = atof(setting("CUDACPU_TIMEOUT", "120"));
    if (timeout <= 0.0) { return; }
    struct sigaction action = {};
    action.sa_sigaction = on_tick;
    action.sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK;
    sigaction(SIGPROF, &action, NULL);
    long us = (long)(timeout * 1e5) + 1;
    struct itimerval every = {{us / 1000000, us % 1000000}, {us / 1000000, us % 1000000}};
    setitimer(ITIMER_PROF, &every, NULL);
}

static void catch_faults() { // on a stack of their own, because the thread's may be what is full
    static char room[256 << 10];
    stack_t own = {};
    own.ss_sp = room;
    own.ss_size = sizeof room;
    sigaltstack(&own, NULL);
#ifndef CUDACPU_ASAN // which says more
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    for (int number : {SIGSEGV, SIGBUS, SIGFPE}) { sigaction(number, &action, NULL); }
#else
    (void)on_fault;
#endif
}

__attribute__((constructor)) static void read_settings() {
    std::string wish = setting("CUDACPU_ORDER", "forward");
    order = wish == "reverse" ? REVERSE : wish == "random" ? RANDOM : FORWARD;
    if (order == FORWARD && wish != "forward") { failure("CUDACPU_ORDER=%s is none of forward, reverse, random", wish.c_str()); }
    random_state = strtoull(setting("CUDACPU_SEED", "1"), NULL, 10) * 0x9E3779B97F4A7C15ull | 1;
    poison = atoi(setting("CUDACPU_POISON", "1")) != 0;
#ifdef CUDACPU_ASAN
    const char* room = "262144"; // its frames are larger
#else
    const char* room = "65536";
#endif
    stack_bytes = (strtoull(setting("CUDACPU_STACK", room), NULL, 10) + 4095) / 4096 * 4096;
    catch_faults();
}

// ----------------------------------------------------------------------------------------------------------------------
// Fibers

static void run_fiber();

static void switch_to(Fiber* next) {
    Fiber* me = fiber;
    fiber = next;
    stack_low = next->stack;
    stack_high = next->stack + next->size;
#ifdef CUDACPU_ASAN
    const void* bottom;
    size_t size;
    __sanitizer_start_switch_fiber(&me->fake, next->stack, next->size);
#endif
    cudacpu_switch(&me->sp, next->sp);
#ifdef CUDACPU_ASAN
    __sanitizer_finish_switch_fiber(me->fake, &bottom, &size);
#endif
}

static void fiber_entry() {
#ifdef CUDACPU_ASAN
    const void* bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(NULL, &bottom, &size);
    if (host_fiber.stack == NULL) { host_fiber.stack = (char*)bottom; host_fiber.size = size; }
#endif
    run_fiber();
}

static Fiber* take_fiber() {
    if (!idle.empty()) {
        Fiber* f = idle.back();
        idle.pop_back();
        return f;
    }
    const size_t page = 16384; // the largest page of the machines this runs on
    Fiber* f = new Fiber();
    all_fibers.push_back(f);
    f->size = stack_bytes;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    char* memory = (char*)mmap(NULL, page + f->size, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (memory == MAP_FAILED) { failure("no memory for the stack of a CUDA thread"); }
    mprotect(memory, page, PROT_NONE); // a stack that overflows ends here
    f->stack = memory + page;
    (void)VALGRIND_STACK_REGISTER(f->stack, f->stack + f->size);
    size_t shift = all_fibers.size() * 192 % 4096; // or the tops of all stacks share a few lines of the cache
    f->sp = first_stack(f->stack + f->size - shift, fiber_entry);
    return f;
}

// ----------------------------------------------------------------------------------------------------------------------
// Which thread goes on

static void set_thread(int t) {
    unsigned x = blockDim.x, y = blockDim.y, n = (unsigned)t;
    current = t;
    if (y == 1 && blockDim.z == 1) { threadIdx = {n, 0, 0}; } else { threadIdx = {n % x, n / x % y, n / (x * y)}; }
}

static void push_last(int t) {
    threads[t].state = READY;
    ready[(ready_first + n_ready++) % MAX_THREADS] = t;
}

static void push_first(int t) {
    threads[t].state = READY;
    ready_first = (ready_first + MAX_THREADS - 1) % MAX_THREADS;
    ready[ready_first] = t;
    n_ready++;
}

// The thread that goes on, or -1. Threads that can go on come before threads that have not started, except at random and when
// a thread yields: what it waits for may be done by one that has not started.
static int pick(bool new_first = false) {
    int unstarted = n_waiting - n_started;
    if (order == RANDOM) {
        int n = n_ready + n_waiting, i = n > 0 ? (int)(random_number() % (uint64_t)n) : 0;
        if (n == 0) { return -1; }
        int* from = i < n_ready ? &ready[(ready_first + i) % MAX_THREADS] : &waiting[i - n_ready];
        int t = *from;
        *from = i < n_ready ? ready[(ready_first + --n_ready) % MAX_THREADS] : waiting[--n_waiting];
        return t;
    }
    if (n_ready > 0 && !(new_first && unstarted > 0)) {
        n_ready--;
        if (order == REVERSE) { return ready[(ready_first + n_ready) % MAX_THREADS]; }
        int t = ready[ready_first];
        ready_first = (ready_first + 1) % MAX_THREADS;
        return t;
    }
    if (unstarted == 0) { return -1; }
    n_started++;
    return order == REVERSE ? unstarted - 1 : n_started - 1;
}

// The running thread waits. Others run until somebody makes it READY and pick() takes it.
static void wait_here(bool new_first = false) {
    int me = current;
    check_pause();
    threads[me].fiber = fiber;
    int t = pick(new_first);
    if (t < 0) { deadlock(); }
    if (t == me) { return; }
    if (threads[t].state == NOT_STARTED) {
        Fiber* f = take_fiber();
        f->thread = t;
        switch_to(f);
    } else { switch_to(threads[t].fiber); }
    set_thread(me);
}

void yield() {
    if (n_ready == 0 && n_waiting == (order == RANDOM ? 0 : n_started)) { return; } // nobody else
    if (order == REVERSE) { push_first(current); } else { push_last(current); } // behind all others
    wait_here(true);
}

// ----------------------------------------------------------------------------------------------------------------------
// Barriers. All threads that have not returned must arrive, and at the same line.

static void release_barrier() {
    int first = -1, count = 0, n = 0;
    for (int t = 0; t < n_threads; t++) {
        if (threads[t].state != AT_BARRIER) { continue; }
        const Thread &a = threads[first < 0 ? t : first], &b = threads[t];
        if (a.line != b.line || (a.file != b.file && strcmp(a.file, b.file) != 0)) {
            failure("divergent barrier: thread %d waits at %s:%d but thread %d waits at %s:%d", first, a.file, a.line, t, b.file,
                    b.line);
        }
        if (first < 0) { first = t; }
        count += b.predicate;
        n++;
        if (t != current) { push_last(t); }
    }
    barrier_result = at_barrier == BARRIER_AND ? count == n : at_barrier == BARRIER_OR ? count > 0 : count;
    n_arrived = 0;
    interval++;
}

int barrier(int predicate, barrier_kind kind, const char* file, int line) {
    if (!in_kernel) { failure("__syncthreads() outside of a kernel, %s:%d", file, line); }
    Thread& me = threads[current];
    me.state = AT_BARRIER;
    me.what = "__syncthreads";
    me.file = file;
    me.line = line;
    me.predicate = predicate != 0;
    at_barrier = kind;
    if (++n_arrived == n_alive) {
        release_barrier();
        me.state = READY;
    } else { wait_here(); }
    return barrier_result;
}

void grid_barrier(const char* file, int line) {
    if (n_blocks > 1) { failure("grid.sync() with more than one block is not emulated, %s:%d", file, line); }
    barrier(0, BARRIER, file, line);
}

// ----------------------------------------------------------------------------------------------------------------------
// Warp collectives

static void finish_meeting(int warp, int slot) {
    Meeting& m = warps[warp].slots[slot];
    void* payloads[WARP_LANES];
    int base = warp * WARP_LANES;
    uint32_t lanes = m.arrived;
    static const bool shuffles_order = atoi(setting("CUDACPU_SHUFFLES_ORDER", "0")) != 0;
    for (int i = 0; i < WARP_LANES; i++) { payloads[i] = lanes >> i & 1 ? threads[base + i].payload : NULL; }
    if (m.work == NULL || shuffles_order) { warps[warp].syncs++; } // __syncwarp orders memory, a shuffle does not
    warps[warp].busy &= ~(1u << slot);
    if (m.work != NULL) {
        moving_data = true;
        m.work(payloads, lanes);
        moving_data = false;
    }
    for (int i = WARP_LANES - 1; i >= 0; i--) { // forward: this warp goes on first, in order
        int t = base + (order == FORWARD ? i : WARP_LANES - 1 - i);
        if ((lanes >> (t - base) & 1) == 0 || t == current) { continue; }
        if (order == FORWARD) { push_first(t); } else { push_last(t); }
    }
}

[[noreturn]] static void divergent_warp(const char* what, uint32_t mask, const char* file, int line, int lane,
                                        uint32_t other_mask) {
    const Thread& t = threads[current / WARP_LANES * WARP_LANES + lane];
    failure("divergent warp: lane %d is at %s (%s:%d) with mask 0x%08x but lane %d is at %s (%s:%d) with mask 0x%08x",
            current % WARP_LANES, what, file, line, mask, lane, t.what, t.file, t.line, other_mask);
}

// The slot at which the lanes of the mask meet. Other masks may be under way, too: lanes that wait for each other are an error.
static int meeting_slot(Warp& w, uint32_t mask, const char* what, collective_work work, const char* file, int line) {
    int me = current % WARP_LANES, slot = -1;
    if ((mask >> me & 1) == 0) { failure("%s (%s:%d): the calling lane %d is not in the mask 0x%08x", what, file, line, me, mask); }
    for (uint32_t k = w.busy; k != 0; k &= k - 1) {
        const Meeting& m = w.slots[__builtin_ctz(k)];
        bool same = m.mask == mask, each_other = (m.mask >> me & 1) != 0 && (m.arrived & mask) != 0;
        if (same ? m.work != work || (m.what != what && strcmp(m.what, what) != 0) : each_other) {
            divergent_warp(what, mask, file, line, __builtin_ctz(same ? m.arrived : m.arrived & mask), m.mask);
        }
        if (same) { slot = __builtin_ctz(k); }
    }
    if (slot >= 0) { return slot; }
    w.slots[me] = {mask, 0, what, work};
    w.busy |= 1u << me;
    return me;
}

void collective(uint32_t mask, const char* what, void* payload, collective_work work, const char* file, int line) {
    if (!in_kernel) { failure("%s outside of a kernel, %s:%d", what, file, line); }
    int warp = current / WARP_LANES;
    Warp& w = warps[warp];
    Thread& me = threads[current];
    int slot = meeting_slot(w, mask, what, work, file, line);
    Meeting& m = w.slots[slot];
    m.arrived |= 1u << current % WARP_LANES;
    me.payload = payload;
    me.state = AT_WARP;
    me.what = what;
    me.file = file;
    me.line = line;
    if (m.arrived == (mask & w.alive)) {
        finish_meeting(warp, slot);
        me.state = READY;
    } else { wait_here(); }
}

void shuffle_work(void** payloads, uint32_t arrived) {
    for (int i = 0; i < WARP_LANES; i++) {
        if ((arrived >> i & 1) == 0) { continue; }
        shuffle_payload* p = (shuffle_payload*)payloads[i];
        bool there = p->from >= 0 && p->from < WARP_LANES && (arrived >> p->from & 1) != 0;
        if (there) { memcpy(p->out, ((shuffle_payload*)payloads[p->from])->in, p->size); }
        else { memset(p->out, POISON, p->size); } // a lane that is not there: undefined on the device
    }
}

void vote_work(void** payloads, uint32_t arrived) {
    uint32_t votes = 0;
    for (int i = 0; i < WARP_LANES; i++) {
        if (arrived >> i & 1) { votes |= (uint32_t)((vote_payload*)payloads[i])->predicate << i; }
    }
    for (int i = 0; i < WARP_LANES; i++) { if (arrived >> i & 1) { ((vote_payload*)payloads[i])->result = votes; } }
}

// ----------------------------------------------------------------------------------------------------------------------
// Shared memory. A variable gets its place when a launch first reaches its declaration, with a red zone behind it. Dynamic shared
// memory ends where the address space does. Everything is poisoned for every block.

enum { STATIC_ROOM = 1 << 20, DYNAMIC_ROOM = 256 << 10, RED_ZONE = 128, GUARD = 16384 };
static char *shared_memory, *dynamic_end;
static size_t shared_used;
static std::vector<shared_variable*>& shared_variables = *new std::vector<shared_variable*>;

static void make_shared_memory() {
    size_t n = STATIC_ROOM + DYNAMIC_ROOM + GUARD;
    shared_memory = (char*)mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (shared_memory == MAP_FAILED) { failure("no memory for __shared__ variables"); }
    dynamic_end = shared_memory + STATIC_ROOM + DYNAMIC_ROOM;
    mprotect(dynamic_end, GUARD, PROT_NONE);
    check_shared_region(shared_memory, n);
}

static size_t room_of(size_t size) { return (size + RED_ZONE - 1) / RED_ZONE * RED_ZONE + RED_ZONE; }

static void fresh(char* p, size_t n, const char* name) {
    if (poison) { memset(p, POISON, n); }
    (void)VALGRIND_MAKE_MEM_UNDEFINED(p, n);
    check_shared(p, n, name);
}

void* shared_at(shared_variable* v) {
    if (v->launch == done.launches) { return shared_memory + v->offset; }
    if (!in_kernel) { failure("__shared__ %s used outside of a kernel", v->name); }
    v->launch = done.launches;
    v->offset = shared_used;
    shared_used += room_of(v->size);
    shared_variables.push_back(v);
    size_t total = dynamic_size;
    for (auto u : shared_variables) { total += u->size; }
    if (total > MAX_SHARED || shared_used > STATIC_ROOM) { failure("%zu bytes of shared memory in one block", total); }
    char* p = shared_memory + v->offset;
    __asan_unpoison_memory_region(p, v->size);
    fresh(p, v->size, v->name);
#ifndef CUDACPU_ASAN
    memset(p + v->size, POISON, room_of(v->size) - v->size);
#endif
    return p;
}

void* dynamic_shared() { return dynamic_end - (dynamic_size + 15) / 16 * 16; }

static void check_red_zones() { // AddressSanitizer and the checker see the access itself
#if !defined(CUDACPU_ASAN) && !defined(CUDACPU_CHECK)
    for (auto v : shared_variables) {
        unsigned char* zone = (unsigned char*)shared_memory + v->offset + v->size;
        for (size_t i = 0, n = room_of(v->size) - v->size; i < n; i++) {
            if (zone[i] == POISON) { continue; }
            failure("a thread of this block wrote past the end of __shared__ %s (%zu bytes)", v->name, v->size);
        }
    }
#endif
}

// ----------------------------------------------------------------------------------------------------------------------
// Blocks and launches

static void begin_block() {
    uint64_t b = order == FORWARD ? block_number : order == REVERSE ? n_blocks - 1 - block_number : block_order[block_number];
    uint64_t x = gridDim.x, y = gridDim.y;
    blockIdx = {(unsigned)(b % x), (unsigned)(b / x % y), (unsigned)(b / (x * y))};
    interval++;
    n_alive = n_threads;
    n_arrived = n_ready = ready_first = n_started = 0;
    n_waiting = n_threads;
    for (int t = 0; t < n_threads; t++) {
        threads[t].state = NOT_STARTED;
        waiting[t] = t;
    }
    for (int w = 0; w * WARP_LANES < n_threads; w++) {
        int lanes = n_threads - w * WARP_LANES;
        warps[w].alive = lanes >= WARP_LANES ? 0xffffffffu : (1u << lanes) - 1;
        warps[w].busy = warps[w].syncs = 0;
    }
    check_block();
    for (auto v : shared_variables) { fresh(shared_memory + v->offset, v->size, v->name); }
    if (dynamic_size > 0) { fresh((char*)dynamic_shared(), dynamic_size, "dynamic shared memory"); }
}

// The running thread has returned: whoever waited only for it can go on.
static void thread_returned() {
    int t = current, warp = t / WARP_LANES;
    Warp& w = warps[warp];
    check_pause();
    if (copies_under_way) { drop_copies(t); }
    threads[t].state = DONE;
    n_alive--;
    w.alive &= ~(1u << t % WARP_LANES);
    current = -1;
    for (uint32_t k = w.busy; k != 0; k &= k - 1) {
        const Meeting& m = w.slots[__builtin_ctz(k)];
        if (m.arrived == (m.mask & w.alive)) { finish_meeting(warp, __builtin_ctz(k)); }
    }
    if (n_arrived > 0 && n_arrived == n_alive) { release_barrier(); }
}

// The life of a fiber: run a thread to its end, then the next one that has not started, or make room for one that can go on.
static void run_fiber() {
    for (;;) {
        int t = fiber->thread;
        set_thread(t);
        threads[t].fiber = fiber;
        threads[t].state = READY;
        kernel(arguments);
        thread_returned();
        if (n_alive == 0) {
            check_red_zones();
            if (++block_number == n_blocks) {
                idle.push_back(fiber);
                switch_to(&host_fiber);
                continue; // another launch
            }
            begin_block();
        }
        t = pick();
        if (t < 0) { deadlock(); }
        if (threads[t].state == NOT_STARTED) { fiber->thread = t; continue; }
        idle.push_back(fiber);
        switch_to(threads[t].fiber);
    }
}

static void shuffle_blocks() {
    block_order.resize(n_blocks);
    for (uint64_t i = 0; i < n_blocks; i++) { block_order[i] = (uint32_t)i; }
    for (uint64_t i = n_blocks; i > 1; i--) { std::swap(block_order[i - 1], block_order[random_number() % i]); }
}

static cudaError_t launch_error(const launch& l) { // what a device would refuse
    uint64_t size = (uint64_t)l.block.x * l.block.y * l.block.z;
    if (size == 0 || size > MAX_THREADS || l.block.z > 64) { return cudaErrorInvalidConfiguration; }
    if (l.grid.x == 0 || l.grid.x > 0x7fffffff || l.grid.y == 0 || l.grid.y > 65535 || l.grid.z == 0 || l.grid.z > 65535) {
        return cudaErrorInvalidConfiguration;
    }
    return l.smem > largest_dynamic_shared() ? cudaErrorInvalidValue : cudaSuccess;
}

static void run_now(const launch& l, kernel_function f, const void* args, size_t size) {
    if (shared_memory == NULL) { make_shared_memory(); start_watchdog(); }
    kernel_name = l.name;
    kernel = f;
    arguments = args;
    arguments_size = size;
    dynamic_size = l.smem;
    gridDim = l.grid;
    blockDim = l.block;
    n_blocks = (uint64_t)l.grid.x * l.grid.y * l.grid.z;
    n_threads = (int)(l.block.x * l.block.y * l.block.z);
    done.launches++;
    block_number = shared_used = 0;
    shared_variables.clear();
    __asan_poison_memory_region(shared_memory, STATIC_ROOM + DYNAMIC_ROOM);
    if (l.smem > 0) { __asan_unpoison_memory_region(dynamic_shared(), l.smem); }
    if (order == RANDOM) { shuffle_blocks(); }
    check_launch(l.name);
    launch_ticks = ticks;
    in_kernel = true;
    begin_block();
    Fiber* first = take_fiber();
    first->thread = pick();
    switch_to(first);
    in_kernel = false;
    current = -1;
    check_canaries(l.name);
}

void launch::go(kernel_function f, const void* args, size_t size) {
    if (in_kernel) { failure("a kernel launches the kernel %s, which is not emulated", name); }
    cudaError_t e = launch_error(*this);
    if (e != cudaSuccess) {
        fprintf(stderr, "==cudacpu== %s:%d: %s<<<(%u,%u,%u), (%u,%u,%u), %zu>>>: %s\n", file, line, name, grid.x, grid.y, grid.z,
                block.x, block.y, block.z, smem, cudaGetErrorString(e));
        remember(e);
        return;
    }
    if (streams_at_once()) { run_now(*this, f, args, size); return; }
    std::string copy((const char*)args, size); // arguments of kernels are plain data
    launch self = *this;
    in_stream(stream, [=] { run_now(self, f, copy.data(), size); });
}
} // namespace cudacpu
