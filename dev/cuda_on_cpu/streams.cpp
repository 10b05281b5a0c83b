// Streams and events. As a rule everything runs when the host asks for it, in that order, which is one of the orders that a GPU may
// choose. CUDACPU_STREAMS asks for others, so that a missing event or memory that two streams share shows as a wrong result:
//     late     what is asked of a stream runs only when the host, or the default stream, has to wait for it: a missing join shows
//     early    what is asked of a stream runs at once, unless an event holds it back, and what is asked of the default stream only
//              when somebody has to wait for it: a missing fork shows
//     turns    like late, but when somebody waits for one stream all go on, one piece of work each in turn: shared memory shows
// Streams without cudaStreamNonBlocking wait for the default stream, and it for them: they are the default stream here.
#include "internal.h"
#include <deque>
#include <map>
#include <vector>
#include <time.h>

struct cudacpu_event {
    double at;             // milliseconds
    cudaStream_t stream;   // on which it was last recorded
    uint64_t asked, done;  // how often it was recorded, by the host; how many of those the stream has come to
};

namespace cudacpu {
struct Task {
    std::function<void()> work;
    cudacpu_event* event; // or: wait until event->done >= count, of that stream
    uint64_t count;
    cudaStream_t of;
};
typedef std::deque<Task> Queue;
static std::map<cudaStream_t, Queue>& queues = *new std::map<cudaStream_t, Queue>;
struct Captured { std::vector<Task> tasks; cudaStream_t stream; };
static Captured* capturing; // NULL: nothing is captured
enum { AT_ONCE, LATE, EARLY, TURNS };

static int mode() { // may change while the program runs: tests set it
    const char* wish = setting("CUDACPU_STREAMS", "");
    if (*wish == '\0') { return AT_ONCE; }
    int how = strcmp(wish, "late") == 0 ? LATE : strcmp(wish, "early") == 0 ? EARLY : strcmp(wish, "turns") == 0 ? TURNS : AT_ONCE;
    if (how == AT_ONCE) { failure("CUDACPU_STREAMS=%s is none of late, early, turns", wish); }
    return how;
}

static double milliseconds() {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static cudaStream_t queue_of(cudaStream_t stream) { return (intptr_t)stream % 16 == 8 ? stream : NULL; } // see cudaStreamCreate

static bool run_first(cudaStream_t stream, bool whatever_it_takes);

static void finish_event(cudacpu_event* e, uint64_t count, cudaStream_t of) {
    while (e->done < count && run_first(of, true)) {
        for (auto& q : queues) { if (mode() == TURNS && q.first != NULL && q.first != of) { run_first(q.first, false); } }
    }
}

// Runs what stands first in a stream; false if there is nothing, or it waits and nobody asks for whatever it takes.
static bool run_first(cudaStream_t stream, bool whatever_it_takes) {
    Queue& q = queues[stream];
    if (q.empty()) { return false; }
    Task task = q.front();
    if (task.event != NULL && task.event->done < task.count) {
        if (!whatever_it_takes) { return false; }
        finish_event(task.event, task.count, task.of);
    }
    q.pop_front();
    if (task.event == NULL) { task.work(); }
    return true;
}

static void run_early() { // all streams but the default one, as far as events let them
    for (bool any = true; any;) {
        any = false;
        for (auto& q : queues) { while (q.first != NULL && run_first(q.first, false)) { any = true; } }
    }
}

void finish_stream(cudaStream_t stream) { // the host waits for it
    if (capturing != NULL) { failure("the host waits for a stream, or frees memory, while a graph is captured"); }
    while (run_first(queue_of(stream), true)) { if (mode() == EARLY) { run_early(); } }
}
void finish_all_streams() {
    finish_stream(NULL);
    for (auto& q : queues) { finish_stream(q.first); }
}

static void ask(cudaStream_t stream, const Task& task) {
    int how = mode();
    if (capturing != NULL) { // it is not done now, but whenever the graph is launched; its arguments are those of now
        if (task.event != NULL || queue_of(stream) != capturing->stream) { failure("a graph of several streams is not emulated"); }
        capturing->tasks.push_back(task);
        return;
    }
    queues[queue_of(stream)].push_back(task);
    if (how == AT_ONCE) { finish_all_streams(); }
    if (how == LATE || how == TURNS) { finish_stream(NULL); }
    if (how == EARLY) { run_early(); }
}

bool streams_at_once() {
    for (auto& q : queues) { if (!q.second.empty()) { return false; } }
    return mode() == AT_ONCE && capturing == NULL;
}
void in_stream(cudaStream_t stream, const std::function<void()>& work) {
    if (streams_at_once()) { work(); } else { ask(stream, {work, NULL, 0, NULL}); }
}
} // namespace cudacpu
using namespace cudacpu;

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) { // 16 n: waits for the default stream; 16 n + 8: not
    static intptr_t count;
    *stream = (cudaStream_t)(++count * 16 + (flags == cudaStreamNonBlocking ? 8 : 0));
    return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, cudaStreamDefault); }
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; } // what was asked of it still runs
cudaError_t cudaStreamSynchronize(cudaStream_t stream) { finish_stream(stream); return cudaPeekAtLastError(); }
cudaError_t cudaStreamQuery(cudaStream_t stream) { return cudaStreamSynchronize(stream); }
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t e, unsigned) { // an event that nobody recorded holds nobody back
    ask(stream, {nullptr, e, e->asked, e->stream});
    return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize(void) { finish_all_streams(); return cudaPeekAtLastError(); }

cudaError_t cudaEventCreate(cudaEvent_t* e) { *e = new cudacpu_event{0.0, NULL, 0, 0}; return cudaSuccess; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* e, unsigned) { return cudaEventCreate(e); }
cudaError_t cudaEventDestroy(cudaEvent_t e) {
    static std::deque<cudaEvent_t>& kept = *new std::deque<cudaEvent_t>; // streams may still know them
    if (streams_at_once()) { delete e; } else { kept.push_back(e); }
    return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t stream) {
    uint64_t count = ++e->asked;
    e->stream = queue_of(stream);
    in_stream(stream, [=] { e->at = milliseconds(); e->done = count; });
    return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t e) { finish_event(e, e->asked, e->stream); return cudaPeekAtLastError(); }
cudaError_t cudaEventQuery(cudaEvent_t e) { return cudaEventSynchronize(e); }
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t start, cudaEvent_t end) {
    if (start->asked == 0 || end->asked == 0) { return remember(cudaErrorInvalidResourceHandle); }
    cudaEventSynchronize(start);
    cudaEventSynchronize(end);
    *ms = (float)(end->at - start->at);
    return cudaSuccess;
}
long long clock64() { return (long long)(milliseconds() * 1e6); }

// Graphs: what is asked of one stream between begin and end, without events
struct cudacpu_graph : Captured {};
struct cudacpu_graph_exec : Captured {};
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
    if (stream == NULL || stream == cudaStreamLegacy || capturing != NULL) { return remember(cudaErrorStreamCaptureUnsupported); }
    capturing = new cudacpu_graph();
    capturing->stream = queue_of(stream);
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* graph) {
    if (capturing == NULL) { return remember(cudaErrorInvalidValue); }
    *graph = (cudacpu_graph*)capturing;
    capturing = NULL;
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
    *exec = new cudacpu_graph_exec();
    (*exec)->tasks = graph->tasks;
    return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
    for (auto& task : exec->tasks) { ask(stream, task); }
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) { delete graph; return cudaSuccess; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) { delete exec; return cudaSuccess; }
