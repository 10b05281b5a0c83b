# gdb helpers: source dev/cuda_on_cpu/cudacpu.gdb, then
#   cuthreads   where every thread of the running block is
#   cubt N      the backtrace of thread N (x86-64)
# threadIdx, blockIdx and so on are variables: break file.cu:362 if blockIdx.x == 2 && threadIdx.x == 33
python
import gdb

STATES = ["not started", "ready", "at __syncthreads", "at a warp primitive", "done"]
REGISTERS = ["r15", "r14", "r13", "r12", "rbx", "rbp", "rip"]  # as cudacpu_switch leaves them on the stack


def value(name):
    return gdb.parse_and_eval("cudacpu::" + name)


class CuThreads(gdb.Command):
    """Where every thread of the running CUDA block is"""

    def __init__(self):
        super().__init__("cuthreads", gdb.COMMAND_USER)

    def invoke(self, arg, tty):
        running, threads, groups = int(value("current")), value("threads"), []
        block = ",".join(str(gdb.parse_and_eval("blockIdx." + c)) for c in "xyz")
        print("kernel %s, block (%s), thread %d runs" % (value("kernel_name").string(), block, running))
        for t in range(int(value("n_threads"))):
            state = int(threads[t]["state"])
            text = "running" if t == running else STATES[state]
            if state in (2, 3) and t != running:
                text += ", %s:%d" % (threads[t]["file"].string(), int(threads[t]["line"]))
            if groups and groups[-1][2] == text:
                groups[-1][1] = t
            else:
                groups.append([t, t, text])
        for first, last, text in groups:
            print("  threads %4d..%-4d %s" % (first, last, text))


class CuBacktrace(gdb.Command):
    """cubt N: the backtrace of CUDA thread N of the running block"""

    def __init__(self):
        super().__init__("cubt", gdb.COMMAND_USER)

    def invoke(self, arg, tty):
        thread = int(arg)
        if thread == int(value("current")):
            gdb.execute("bt")
            return
        if int(value("threads[%d].state" % thread)) not in (1, 2, 3):
            print("thread %d has no stack: it has not started, or is done" % thread)
            return
        gdb.execute("frame 0", to_string=True)
        saved = {r: int(gdb.parse_and_eval("(unsigned long)$" + r)) for r in REGISTERS + ["rsp"]}
        sp = int(value("threads[%d].fiber" % thread)["sp"])
        try:
            for i, r in enumerate(REGISTERS):
                gdb.execute("set $%s = *(unsigned long*)%d" % (r, sp + 8 * i))
            gdb.execute("set $rsp = %d" % (sp + 8 * len(REGISTERS)))
            gdb.execute("bt")
        finally:
            for r, v in saved.items():
                gdb.execute("set $%s = %d" % (r, v))
            gdb.execute("frame 0", to_string=True)


CuThreads()
CuBacktrace()
end
