#!/usr/bin/env python3
"""
Where each byte goes: formulas, and the plans that the programs print, compared.

    python3 dev/memory_table.py                        prints the tables of docs/memory.md
    python3 dev/memory_table.py --into docs/memory.md  and writes them between the markers of that page
    python3 dev/memory_table.py --check                compares formulas with what --dry-run prints; exit 1 if a number differs
    python3 dev/memory_table.py --measure              trains for a moment: the plan beside the memory that was really taken

A formula stands here once, as text in the project's letters: it is printed into the page, and it is what is computed. Besides the
legend of train_gpt2_dynmoe.c: M DynMoE layers, D dense ones, F 1 with flash attention, P parameters, Pg the same with every tensor
rounded up to 64 numbers, N2 = N / 256 + 1 whole blocks, X the widest row that is summed. Needs the programs, built; no packages.
"""
import json, os, re, subprocess, sys, tempfile
from markers import die, write_between

C_PROGRAM, CUDA_PROGRAM = "./train_gpt2_dynmoe", "./train_gpt2_dynmoe_cu"
PARAMETERS = ("Vp C + T C + 2 C + L (4 C C + 8 C) + D (8 C C + 5 C) + M E (2 H C + H + 2 C + 1)"
              " + M (2 S H C + S H + C (S > 0))")
KINDS = ["parameters", "gradients", "Adam", "attention", "kept", "gate", "logits", "scratch", "rows"]

# kind, names in the program, how many numbers, bytes of each: w is 2 in bf16 and 4 in fp32
CPU = [
    ("parameters", "params_memory", "P", "4"),
    ("gradients", "grads_memory", "P", "4"),
    ("Adam", "m_memory, v_memory", "2 P", "4"),
    ("attention", "att", "L N NH T", "4"),
    ("kept", "res, ln1, qkv (3 C wide), atty, mid, ln2", "8 L N C", "4"),
    ("kept", "mean1, rstd1, mean2, rstd2", "4 L N", "4"),
    ("kept", "pre, act of dense layers", "8 D N C", "4"),
    ("kept", "spre, sact, sout: shared experts", "M N (2 S H + C (S > 0))", "4"),
    ("kept", "of the model: res, lnf; meanf, rstdf, losses, lse", "2 N C + 4 N", "4"),
    ("gate", "score, weight, dgate, open, row_of, row_token; xnorm, k", "M (6 N E + 2 N)", "4"),
    ("logits", "logits, later their gradient", "N Vp", "4"),
    ("scratch", "dres, dln, datty, dqkv (3 C wide)", "6 N C", "4"),
    ("scratch", "datt: 64 queries of each head", "B NH 64 T", "4"),
    ("rows", "xr, out, pre, act of each DynMoE layer", "1.125 M R (2 C + 2 H)", "4"),
    ("rows", "drow, one for all layers", "1.125 R (C + H) (M > 0)", "4"),
]
CUDA = [
    ("parameters", "master", "Pg", "4"),
    ("parameters", "params, what kernels use; only in bf16", "Pg (w < 4)", "2"),
    ("gradients", "grads", "Pg", "4"),
    ("Adam", "m, v", "2 Pg", "4"),
    ("attention", "att; of flash attention nothing", "L N NH T (1 - F)", "w"),
    ("attention", "lse, of flash attention", "L N NH F", "4"),
    ("kept", "res, ln1, qkvr (3 C wide), atty, mid, ln2", "8 L N C", "w"),
    ("kept", "mean1, rstd1, mean2, rstd2", "4 L N", "4"),
    ("kept", "pre, act of dense layers", "8 D N C", "w"),
    ("kept", "spre, sact, sout: shared experts", "M N (2 S H + C (S > 0))", "w"),
    ("kept", "of the model: res, lnf", "2 N C", "w"),
    ("kept", "x, y; meanf, rstdf, losses", "5 N", "4"),
    ("gate", "score, weight, dgate, open, row_of; xnorm, k", "M (5 N E + 2 N)", "4"),
    ("gate", "row_token: room to round each expert up to 128 rows", "M (N E + 128 E)", "4"),
    ("gate", "wnorm, mask; stats; record_sum (8 bytes each)", "M (2 E + 386 + 2 C)", "4"),
    ("logits", "logits, later their gradient", "N Vp", "w"),
    ("scratch", "qkv (3 C wide), half", "4 N C", "w"),
    ("scratch", "dres, dln, datty", "3 N C", "w"),
    ("scratch", "datt, dqkvr (3 C wide); of flash attention nothing", "(1 - F) (N NH T + 3 N C)", "w"),
    ("scratch", "delta, of flash attention", "N NH F", "4"),
    ("scratch", "order, first; block_count; sums", "2 N + 1 + N2 E + N2 X", "4"),
    ("scratch", "expert_sums, squares", "2 E + 64 + 256", "8"),
    ("rows", "xr, out, pre, act of each DynMoE layer", "1.125 M R (2 C + 2 H)", "w"),
    ("rows", "drow, one for all layers", "1.125 R (C + H) (M > 0)", "w"),
]

DEFAULT, GPT2 = {}, {"layers": 12, "heads": 12, "channels": 768, "context": 1024, "bpe": 1}
# name, program, flags; the first ones are shown, all are compared
SHOWN = [
    ("default, C", C_PROGRAM, DEFAULT),
    ("default, CUDA fp32", CUDA_PROGRAM, dict(DEFAULT, dtype="fp32")),
    ("default, CUDA bf16", CUDA_PROGRAM, dict(DEFAULT, dtype="bf16")),
    ("124M shape, C", C_PROGRAM, GPT2),
    ("124M shape, CUDA fp32", CUDA_PROGRAM, dict(GPT2, dtype="fp32")),
    ("124M shape, CUDA bf16, --flash 0", CUDA_PROGRAM, dict(GPT2, dtype="bf16", flash=0)),
    ("124M shape, CUDA bf16, --flash 1", CUDA_PROGRAM, dict(GPT2, dtype="bf16", flash=1)),
]
ODD = {"layers": 3, "heads": 3, "channels": 48, "context": 20, "batch": 3, "experts": 5, "expert-width": 96, "shared-experts": 2,
       "moe-layers": "0,1"}
MORE = [(name + ", " + program, program, flags) for program in (C_PROGRAM, CUDA_PROGRAM) for name, flags in (
    ("odd", ODD), ("no experts", {"moe-layers": "none", "batch": 5}),
    ("top-k in all layers", {"router": "top-k", "moe-layers": "all", "experts": 3, "start-experts": 2, "channels": 64,
                             "heads": 1}))]


def number(formula, letters):
    # "2 N C + N" with the letters' values
    return eval(re.sub(r"(?<=[\w)]) (?=[\w(])", "*", formula), {"__builtins__": {}}, letters)


def letters_of(program, flags):
    s = dict({"layers": 4, "heads": 4, "channels": 128, "context": 64, "batch": 8, "experts": 8, "expert-width": 0,
              "shared-experts": 0, "moe-layers": "every2", "dtype": "bf16", "flash": 1, "bpe": 0}, **flags)
    V = 50257 if s["bpe"] else 256
    L, C, B, T, NH = s["layers"], s["channels"], s["batch"], s["context"], s["heads"]
    which = s["moe-layers"]
    M = {"every2": (L + 1) // 2, "all": L, "none": 0}.get(which, len(which.split(",")))
    E, S = (s["experts"], s["shared-experts"]) if M else (0, 0)
    H, N, w = s["expert-width"] or 4 * C, B * T, 2 if program == CUDA_PROGRAM and s["dtype"] == "bf16" else 4
    F = int(w == 2 and s["flash"] and C == 64 * NH)
    X = max([4 * C, (S + 1) * H, E * C] + ([4 * H, 4 * C] if E else []))
    a = dict(B=B, T=T, N=N, C=C, V=V, Vp=(V + 127) // 128 * 128, L=L, NH=NH, H=H, E=E, S=S, M=M, D=L - M, w=w, F=F,
             N2=N // 256 + 1, X=X)
    up = lambda n: (n + 63) // 64 * 64
    block = [C, C, 3 * C * C, 3 * C, C * C, C, C, C]
    dense, moe = [4 * C * C, 4 * C, 4 * C * C, C], [E * C, E, E * H * C, E * H, E * H * C, E * C]
    shared = [S * H * C, S * H, S * H * C, C] if S else []
    sizes = [a["Vp"] * C, T * C, C, C] + L * block + (L - M) * dense + M * (moe + shared)
    a["P"], a["Pg"] = number(PARAMETERS, a), sum(up(n) for n in sizes)
    assert a["P"] == sum(sizes)  # the formula and the list of tensors: a mistake of this script
    return a


def table_of(program):
    return CPU if program == C_PROGRAM else CUDA


def megabytes(program, flags, k):
    # {kind: MB} with R = k N routed rows in every DynMoE layer
    a = letters_of(program, flags)
    a["R"] = k * a["N"]
    sums = dict.fromkeys(KINDS, 0.0)
    for kind, _, formula, width in table_of(program):
        sums[kind] += 1e-6 * number(formula, a) * number(width, a)
    return sums


def command(program, flags, folder):
    # the program's command line; a few bytes of data in the folder
    name = os.path.join(folder, "data.bin" if flags.get("bpe") else "data.txt")
    with open(name, "wb") as f:
        head = [20240520, 1, 3000] + [0] * 253
        shard = b"".join(i.to_bytes(4, "little") for i in head) + bytes(6000)
        f.write(shard if flags.get("bpe") else b"any text at all\n" * 200)
    words = [program, "--data", name, "--out", os.path.join(folder, "out")]
    for flag, x in flags.items():
        words += ["--" + flag, str(x)] if flag != "bpe" else []
    return words


def plan(program, flags):
    # what --dry-run prints -> (million parameters, MB held, MB of activations, [MB of rows at k = 1, 2, E]), as text
    with tempfile.TemporaryDirectory() as folder:
        # a terminal makes the plan come line by line: nobody waits for the measurement of speed that follows it
        ours, theirs = os.openpty()
        p = subprocess.Popen(command(program, flags, folder) + ["--dry-run"], stdout=theirs, stderr=subprocess.PIPE)
        os.close(theirs)
        text = ""
        while "\nrun " not in text:
            try:
                some = os.read(ours, 4096)
            except OSError:  # the end of a terminal, on Linux
                some = b""
            if not some:
                break
            text += some.decode("utf-8", "replace").replace("\r", "")
        p.kill()
        said = p.communicate()[1].decode("utf-8", "replace")
        os.close(ours)
    size = re.search(r"^size +([\d.]+) million parameters", text, re.M)
    memory = re.search(r"^memory +[^\d]*([\d.]+) MB; activations ([\d.]+) MB(?:; routed rows ([\d.]+) MB at k = 1, ([\d.]+) at 2, "
                       r"([\d.]+) at (\d+))?$", text, re.M)
    if not size or not memory:
        die("%s printed no plan: %s" % (program, said.split("\n")[0] or "nothing"), "make all, and make CUDA_ON_CPU=1 %s" %
            CUDA_PROGRAM[2:])
    return [size.group(1), memory.group(1), memory.group(2)] + [memory.group(i) for i in (3, 4, 5) if memory.group(i)]


def expected(program, flags):
    a, one = letters_of(program, flags), megabytes(program, flags, 1)
    held = one["parameters"] + one["gradients"] + one["Adam"]
    numbers = ["%.3f" % (1e-6 * a["P"]), "%.1f" % held, "%.1f" % (sum(one.values()) - held - one["rows"])]
    if a["M"]:
        numbers += ["%.1f" % megabytes(program, flags, k)["rows"] for k in (1, 2, a["E"])]
    return numbers


def compare(plans):
    # prints where a plan differs; returns how many were compared and how many differ
    names, wrong, n = ["million parameters", "parameters, gradients, moments", "activations", "rows at k = 1", "rows at k = 2",
                       "rows at k = E"], 0, 0
    for name, program, flags in plans:
        if not os.access(program, os.X_OK):
            if program == C_PROGRAM:
                die("%s is not built" % program, "make all")
            continue
        n += 1
        got, want = plan(program, flags), expected(program, flags)
        for what, g, w in zip(names, got, want):
            if g != w:
                print("%s: %s: the program says %s, the formula %s" % (name, what, g, w))
        wrong += got != want
    return n, wrong


def formulas(program, flags):
    # the formulas of a program as a table, with what they come to in one plan
    a = letters_of(program, flags)
    a["R"] = 2 * a["N"]
    lines = ["| kind | what | numbers | bytes each | MB |", "|---|---|---|---|---|"]
    for kind, what, formula, width in table_of(program):
        mb = 1e-6 * number(formula, a) * number(width, a)
        lines.append("| %s | %s | %s | %s | %.2f |" % (kind, what, formula, width, mb))
    return lines


def plans_table():
    columns = [megabytes(program, flags, 2) for _, program, flags in SHOWN]
    lines = ["| MB | " + " | ".join(name for name, _, _ in SHOWN) + " |", "|---" * (1 + len(SHOWN)) + "|"]
    for kind in KINDS:
        lines.append("| %s | " % kind + " | ".join("%.1f" % c[kind] for c in columns) + " |")
    return lines + ["| all | " + " | ".join("%.1f" % sum(c.values()) for c in columns) + " |"]


def measure():
    # short runs of the C program: MB planned at the k of the run, and the most that the process held at a time. Untouched: m and v
    # of slots that were never active, and the eighth that rows have to grow
    lines = ["| run | steps | mean k | plan, MB | of it untouched | peak, MB | peak beside what was touched |",
             "|---|---|---|---|---|---|---|"]
    shapes = [("default", DEFAULT, 50), ("default, pool of 32, 4 active", {"experts": 32}, 50),
              ("default, batch 64", {"batch": 64}, 10),
              ("--depth 6", {"layers": 6, "heads": 6, "channels": 384, "context": 256}, 5)]
    for name, flags, steps in shapes:
        with tempfile.TemporaryDirectory() as folder:
            words = command(C_PROGRAM, flags, folder)
            words[2] = "data/languages_train.txt"
            words += ["--steps", str(steps), "--generate", "0", "--val-tokens", "4096", "--log-every", "1"]
            p = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            said = p.stderr.read().decode("utf-8", "replace")
            _, status, usage = os.wait4(p.pid, 0)
            if status:
                die("%s failed: %s" % (" ".join(words), said.split("\n")[0]), "make all data")
            with open(os.path.join(folder, "out", "log.jsonl")) as f:
                steps_seen = [r for r in map(json.loads, f) if r["type"] == "step"]
            ks, a = [r["k"] for r in steps_seen], letters_of(C_PROGRAM, flags)
        k = max(ks)  # rows only grow
        peak = usage.ru_maxrss * (1e-6 if sys.platform == "darwin" else 1.024e-3)
        kinds, slots = megabytes(C_PROGRAM, flags, k), sum(a["E"] - l["experts"] for l in steps_seen[-1]["layers"])
        planned, untouched = sum(kinds.values()), 1e-6 * number("8 (2 H C + H + C)", a) * slots + kinds["rows"] / 9
        lines.append("| %s | %d | %.2f | %.1f | %.1f | %.1f | %+.1f |" % (name, steps, sum(ks) / len(ks), planned, untouched, peak,
                                                                     peak - planned + untouched))
    return lines


def main():
    args = sys.argv[1:]
    os.chdir(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    if args == ["--check"]:
        n, wrong = compare(SHOWN + MORE)
        cuda = "" if os.access(CUDA_PROGRAM, os.X_OK) else " (NOT COMPARED: %s, which is not built)" % CUDA_PROGRAM
        print("%d plans compared with the formulas, %d differ%s" % (n, wrong, cuda))
        sys.exit(1 if wrong else 0)
    if args not in ([], ["--measure"]) and (len(args) != 2 or args[0] not in ("--into", "--measure-into")):
        sys.stderr.write("memory_table.py: no such flags\n---> HINT: --into FILE, --check, --measure or --measure-into FILE\n")
        sys.exit(2)
    tables = {"memory-measured": measure()} if args and args[0].startswith("--measure") else {
        "memory-cpu": formulas(C_PROGRAM, DEFAULT), "memory-cuda": formulas(CUDA_PROGRAM, dict(GPT2, dtype="bf16")),
        "memory-plans": plans_table()}
    if tables.get("memory-plans") and len(args) == 2:  # what goes into a page was compared
        n, wrong = compare(SHOWN)
        if wrong or n < len(SHOWN):
            die("%d plans compared, %d differ" % (n, wrong), "build both programs; mend the formulas")
    for name, lines in tables.items():
        text = "\n".join(lines) + "\n"
        if len(args) == 2:
            write_between(args[1], name, text)
        print(text)


if __name__ == "__main__":
    main()
