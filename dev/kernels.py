#!/usr/bin/env python3
"""
What every kernel of the CUDA programs reads, writes and computes: formulas, for the tables of docs/cuda.md.

    python3 dev/kernels.py [--into docs/cuda.md]     prints the tables, or writes them between the markers of that page
    python3 dev/kernels.py --verify docs/cuda.md     do the tables of the page say what the formulas say?
    python3 dev/kernels.py --count PROGRAM [--vit]   runs PROGRAM (dev/kernels.cu, built by `make kernels`) for every case, and
                                                     compares the bytes that the emulation counted with the formulas: exactly

Bytes are those of different places: what has to come from memory and go back to it if nothing is fetched twice. What a kernel
reads of its own writing is not counted (`own`, needed to compare; below 0: clang tells check mode nothing of a read whose place
is written right behind it, as in x += y). FLOP: each + - * / and each exp, log, sqrt, max is one, counted by reading; those of the
tensor cores in flash attention the emulation counts. s: bytes of a floatX.
"""
import os
import re
import subprocess
import sys
from types import SimpleNamespace
from floors import components, parameters
from markers import die, write_between

# section, then rows: kernel, case of dev/kernels.cu, threads and data, reads, writes, FLOP, what bounds it, own, names for this row
WARP_ROW, WARP_TOKEN = "one warp per row, lanes stride over C", "one warp per token, lanes stride over C"
EACH = "one thread per number"
SUMS = "block of (32, 8) threads: 32 columns of a slab of 256 rows; 8 rows at a time"
KERNELS = [
    ("matmul", [
        ("copy_rows_kernel", "copy_rows", EACH + " of out; only where cublasLt adds no bias", "s OC", "s N OC", "0", "bytes", "0",
         {"OC": "C"}),
        ("column_sums_kernel", "column_sums", SUMS, "s N C", "4 slabs C", "N C", "bytes", "0", {}),
        ("add_slabs_kernel", "column_sums", EACH + " of out, its slabs one after the other", "4 slabs C + 4 C", "4 C", "slabs C",
         "latency", "-4 C", {}),
    ]),
    ("layers", [
        ("embedding_forward_kernel", "embedding", EACH + " of out", "4 N + s D C + s T C", "s N C", "N C", "bytes", "0", {}),
        ("embedding_backward_wte_kernel", "embedding_backward",
         "one block per different token, threads stride over C; its positions in order", "4 N + 8 D + 4 + 4 D C + s N C",
         "4 D C", "N C", "bytes", "0", {}),
        ("embedding_backward_wpe_kernel", "embedding_backward", EACH + " of dwpe, the batch in order", "4 T C + s N C", "4 T C",
         "N C", "bytes", "0", {}),
        ("layernorm_forward_kernel", "residual_layernorm", WARP_ROW + "; with the residual sum", "2 s N C + 2 s C",
         "2 s N C + 8 N", "9 N C", "bytes", "s N C", {}),
        ("layernorm_forward_kernel", "layernorm", WARP_ROW + "; without", "s N C + 2 s C", "s N C + 8 N", "8 N C", "bytes", "0",
         {}),
        ("layernorm_backward_kernel", "layernorm_backward", WARP_ROW, "3 s N C + s C + 8 N", "s N C", "14 N C", "bytes", "0", {}),
        ("layernorm_backward_weights_kernel", "layernorm_backward", SUMS, "2 s N C + 8 N", "8 slabs C", "5 N C", "bytes", "0", {}),
        ("gelu_forward_kernel", "gelu", EACH + "; only where cublasLt has no epilogue", "s n", "s n", "9 n", "bytes", "0", {}),
        ("gelu_backward_kernel", "gelu_backward", EACH + "; likewise", "2 s n", "s n", "18 n", "bytes", "0", {}),
        ("residual_forward_kernel", "residual", EACH + "; only with shared experts", "2 s N C", "s N C", "N C", "bytes", "0", {}),
        ("crossentropy_kernel", "crossentropy", "one block per token, threads stride over V; asks three times for a row",
         "s N V + 4 N", "s N Vp + 4 N", "7 N V", "bytes", "0", {}),
    ]),
    ("attention", [
        ("permute_kernel", "attention", EACH + " of q", "3 s N C", "3 s N C", "0", "bytes", "0", {}),
        ("unpermute_kernel", "attention", EACH + " of inp", "s N C", "s N C", "0", "bytes", "0", {}),
        ("permute_out_kernel", "attention_backward", EACH + " of out", "s N C", "s N C", "0", "bytes", "0", {}),
        ("softmax_forward_kernel", "attention", "one warp per row of a (T, T) matrix, lanes stride over T", "s B NH valid",
         "s B NH T T", "7 B NH valid", "bytes", "0", {}),
        ("softmax_backward_kernel", "attention_backward", "one warp per row, lanes stride over T", "2 s B NH T T", "s B NH T T",
         "4 B NH T T", "bytes", "0", {}),
        ("flash_forward_kernel", "flash", "block of 4 warps: 64 queries of a head, 16 a warp; tiles of 64 keys pass by", "3 s N C",
         "s N C + 4 N NH", "4 tile tiles B NH", "products", "0", {}),
        ("flash_delta_kernel", "flash_backward", "one warp per token and head, 2 numbers a lane", "2 s N C", "4 N NH", "2 N C",
         "bytes", "0", {}),
        ("flash_dkdv_kernel", "flash_backward", "block of 4 warps: 64 keys of a head, 16 a warp; tiles of 64 queries pass by",
         "4 s N C + 8 N NH", "2 s N C", "8 tile tiles B NH", "products", "0", {}),
        ("flash_dq_kernel", "flash_backward", "block of 4 warps: 64 queries of a head, 16 a warp; tiles of 64 keys pass by",
         "4 s N C + 8 N NH", "s N C", "6 tile tiles B NH", "products", "0", {}),
    ]),
    ("moe", [
        ("row_norms_kernel", "gate", "one warp per expert, lanes stride over C", "4 E C", "4 E", "2 E C", "latency", "0", {}),
        ("gate_forward_kernel", "gate", WARP_TOKEN + "; then E dot products", "s N C + 4 E C + 12 E", "12 N E + 8 N",
         "2 N C + 2 N C E", "bytes", "4 N E", {}),
        ("softmax_gate_forward_kernel", "softmax_gate", WARP_TOKEN + "; lane 0 chooses", "s N C + 4 E C + 4 E", "12 N E + 4 N",
         "2 N C E", "bytes", "8 N E", {}),
        ("token_sums_kernel", "token_sums", "one block per expert, threads stride over tokens", "4 N E", "8 E", "N E", "latency",
         "0", {}),
        ("route_stats_kernel", "gate", "one block per expert, and one for each k from 0 to E; threads stride over tokens",
         "8 N E + 4 N", "16 E + 4 E + 4", "0", "latency", "0", {}),
        ("dispatch_count_kernel", "gate", "one thread per token, E votes of the block", "4 N E", "4 blocks E", "0", "bytes", "0",
         {}),
        ("dispatch_scan_kernel", "gate", "one block, one thread per expert", "4 blocks E", "4 blocks E + 4 E + 4", "0", "latency",
         "-4 blocks E", {}),
        ("dispatch_fill_kernel", "gate", "one thread per token, E ballots of each warp", "4 N E + 4 blocks E",
         "4 N E + 4 rows", "0", "bytes", "0", {}),
        ("fill_kernel", "gate", EACH, "0", "4 N E + 512 E", "0", "bytes", "0", {}),
        ("gather_forward_kernel", "gather", WARP_ROW, "4 R + s N1 C", "s R C", "0", "bytes", "0", {}),
        ("combine_forward_kernel", "combine", WARP_TOKEN + "; its rows in order of experts", "s N C + s rows C + 4 N E + 4 rows",
         "s N C", "2 rows C + N C", "bytes", "0", {}),
        ("combine_forward_kernel", "gather_backward", "the same as `gather_backward`: no residual, weights 1", "s rows C + 4 N E",
         "s N C", "2 rows C", "bytes", "0", {}),
        ("combine_backward_kernel", "combine_backward", WARP_TOKEN + ", once for each of its rows",
         "s N1 C + s rows C + 8 N E", "s rows C + 4 N E", "3 rows C", "bytes", "0", {}),
        ("gate_gradient_kernel", "gate_gradient", "one thread per token", "8 N E + 4 N", "4 N E", "3 N E + 7 rows", "bytes",
         "-4 N E", {}),
        ("gate_backward_scores_kernel", "gate_backward", "one block per expert, threads stride over tokens",
         "4 N E + 8 rows + 4 N1 + 4 E", "4 N E + 16 E", "14 rows", "latency", "0", {}),
        ("gate_backward_W_kernel", "gate_backward", "one block per slab of 256 tokens and expert, threads stride over C",
         "4 N E + s N1 C", "4 slabs E C", "2 rows C", "bytes", "0", {}),
        ("gate_backward_G_kernel", "gate_backward", "one block per expert, threads stride over C", "8 E C + 28 E", "4 E C + 4 E",
         "3 E C", "latency", "-4 E C + -4 E", {}),
        ("gate_backward_x_kernel", "gate_backward", WARP_TOKEN, "2 s N C + 8 N E + 4 N + 4 E + 4 E C", "s N C",
         "2 N C + 2 rows C + 4 N E", "bytes", "0", {}),
        ("softmax_gate_scores_kernel", "softmax_gate_backward", "one thread per token", "16 N E", "4 N E", "12 N E + 3 rows",
         "bytes", "-4 N E", {}),
    ]),
    ("model", [
        ("convert_kernel", "convert", EACH, "4 P", "s P", "0", "bytes", "0", {}),
        ("record_sum_kernel", "record_sum", "one thread per channel, all tokens one after the other", "4 N + s N0 C + 8 C", "8 C",
         "N0 C", "latency", "0", {}),
        ("squares_kernel", "squares", "at most 256 blocks, threads stride over the tensor", "4 P", "16", "2 P", "bytes", "0", {}),
        ("adamw_kernel", "adamw", EACH, "16 P", "12 P + s P", "17 P", "bytes", "-8 P", {}),
        ("unit_rows_kernel", "unit_rows", "one warp per expert, lanes stride over C", "4 E C + 4 E", "4 E C", "3 E C", "latency",
         "0", {}),
    ]),
    ("vit", [
        ("patches_kernel", "patches", EACH + " of out, which finds its pixel", "pixels + 32 B", "s pixels", "11 pixels", "bytes",
         "0", {}),
        ("tokens_forward_kernel", "tokens", EACH + " of out", "s Np C + s C + s T C", "s N C", "N C", "bytes", "0", {}),
        ("tokens_backward_kernel", "tokens_backward", EACH + " of dwpe, the batch in order", "s N C + 4 T C + 4 C", "4 T C + 4 C",
         "N C", "bytes", "-4 T C + -4 C", {}),
        ("patch_rows_kernel", "tokens_backward", EACH + " of rows", "s Np C", "s Np C", "0", "bytes", "0", {}),
        ("cls_forward_kernel", "cls", EACH + " of out", "s B C", "s B C", "0", "latency", "0", {}),
        ("cls_backward_kernel", "cls_backward", EACH + " of dinp", "s B C", "s N C", "0", "bytes", "0", {}),
        ("classifier_kernel", "classifier", "one warp per picture, lanes stride over classes", "s B classes + 12 B",
         "s B classes + 4 B", "15 B classes", "latency", "0", {}),
        ("head_bias_kernel", "head_bias", "one warp per class, lanes stride over pictures", "s B classes + 4 classes", "4 classes",
         "B classes", "latency", "-4 classes", {}),
        ("ema_kernel", "ema", EACH, "8 P", "4 P", "3 P", "bytes", "-4 P", {}),
        ("swap_kernel", "swap", EACH, "8 P", "8 P", "0", "bytes", "-8 P", {}),
    ]),
]

# products of cuBLAS and cublasLt: launcher, what, reads, writes, FLOP; s = 2
PRODUCTS = [
    ("matmul_forward", "q, k, v, with bias", "s N C + 3 s C C", "3 s N C", "6 N C C"),
    ("matmul_forward", "projection behind attention, with bias", "s N C + s C C", "s N C", "2 N C C"),
    ("feedforward_forward", "experts, first product, with bias and GELU; two outputs", "s rows C + s E H C", "2 s rows H",
     "2 rows C H"),
    ("feedforward_forward", "experts, second product, with bias", "s rows H + s E H C", "s rows C", "2 rows C H"),
    ("feedforward_backward", "experts, gradient of the sum before GELU", "s rows C + s E H C + s rows H", "s rows H",
     "2 rows C H"),
    ("matmul_backward", "experts, gradient of the second weights (float)", "s rows C + s rows H + 4 E H C", "4 E H C",
     "2 rows C H"),
    ("matmul_backward", "experts, gradient of the rows", "s rows H + s E H C", "s rows C", "2 rows C H"),
    ("matmul_forward", "head: logits", "s N C + s Vp C", "s N Vp", "2 N C Vp"),
]

FLOPS, BANDWIDTH = 788e12, 4.3e12 # of one H200, see dev/floors.py
GPT2 = SimpleNamespace(vit=False, B=64, T=1024, C=768, L=12, NH=12, V=50257, E=8, moe=6, H=3072, S=0, accum=1, own_norms=False)


def derived(v):
    # v: the letters; adds what follows from them
    v["N"], v["Np"] = v["B"] * v["T"], v["B"] * (v["T"] - 1)
    v["slabs"] = v["blocks"] = -(-v["N"] // 256)
    nb = -(-v["T"] // 64)
    v.update(tiles=nb * (nb + 1) // 2, tile=64 ** 3, valid=v["T"] * (v["T"] + 1) // 2, n=v["N"] * v["C"])
    return v


def large(vit):
    # the size for which the tables are evaluated: GPT-2 124M with 6 DynMoE layers, k = 2 for every token; or ViT-S/16
    if vit:
        v = dict(s=2, B=256, T=197, C=384, NH=6, classes=1000, P=39_000_000, pixels=256 * 3 * 224 * 224)
        m = SimpleNamespace(**dict(vars(GPT2), vit=True, B=256, T=197, C=384, NH=6, H=1536, patch_size=768, classes=1000))
        v["P"] = int(parameters(m, m.E))
        return derived(v)
    v = derived(dict(s=2, B=64, T=1024, C=768, NH=12, V=50257, Vp=50304, E=8, H=3072, D=50257, N0=0))
    v.update(N1=v["N"], rows=2 * v["N"], R=2 * v["N"], P=int(parameters(GPT2, GPT2.E)))
    v["n"] = v["rows"] * v["H"]
    return v


def value(text, v):
    total = 0
    for term in text.split(" + "):
        product = 1
        for factor in term.split():
            product *= int(factor) if factor.lstrip("-").isdigit() else v[factor]
        total += product
    return total


def short(x):
    return "0" if x == 0 else "%.3g" % x if x < 1000 else "%.0f" % x


def line_of(name, source):
    # where a function is defined
    with open(source) as f:
        for number, text in enumerate(f, 1):
            if re.search(r"[ *]%s\(" % name, text) and not text.rstrip().endswith(";") and not text.startswith(" "):
                return number
    die("%s has no %s" % (source, name), "mend dev/kernels.py")


def link(name, source):
    return "`%s:%d %s`" % (source, line_of(name, source), name)


def table(section, rows):
    vit = section == "vit"
    source, v = "train_vit_dynmoe.cu" if vit else "train_gpt2_dynmoe.cu", large(vit)
    lines = ["| kernel | threads and data | reads, bytes | writes, bytes | FLOP | MB | GFLOP | FLOP per byte | bound by |",
             "|---|---|---|---|---|---|---|---|---|"]
    for kernel, _, how, reads, writes, flop, bound, _, names in rows:
        w = dict(v, **{a: v[b] for a, b in names.items()})
        bytes_, flops = value(reads, w) + value(writes, w), value(flop, w)
        if (flops / bytes_ > FLOPS / BANDWIDTH) != (bound == "products"):
            die("%s: %.3g FLOP per byte, and bound by %s?" % (kernel, flops / bytes_, bound), "mend dev/kernels.py")
        lines.append("| %s | %s | %s | %s | %s | %s | %s | %s | %s |" % (
            link(kernel, source), how, reads, writes, flop, short(bytes_ / 1e6), short(flops / 1e9), short(flops / bytes_), bound))
    return "\n".join(lines) + "\n"


def products():
    v = large(False)
    lines = ["| launcher | product | reads, bytes | writes, bytes | FLOP | MB | GFLOP | FLOP per byte | bound by |",
             "|---|---|---|---|---|---|---|---|---|"]
    for name, what, reads, writes, flop in PRODUCTS:
        bytes_, flops = value(reads, v) + value(writes, v), value(flop, v)
        lines.append("| %s | %s | %s | %s | %s | %s | %s | %s | %s |" % (
            link(name, "train_gpt2_dynmoe.cu"), what, reads, writes, flop, short(bytes_ / 1e6), short(flops / 1e9),
            short(flops / bytes_), "products" if flops / bytes_ > FLOPS / BANDWIDTH else "bytes"))
    return "\n".join(lines) + "\n"


def floors_table():
    # a component of dev/floors.py beside what the kernels of this file move for it, in units of one bf16 (N, C), one occurrence
    v = large(False)
    unit = 2.0 * v["N"] * v["C"]
    kernels = {(k, case): value(r, v) + value(w, v) for _, rows in KERNELS for k, case, _, r, w, _, _, _, _ in rows if _ != "vit"
               and all(x in v or x.isdigit() for x in re.findall(r"\w+", r + " " + w))}
    of = lambda *names: sum(kernels[name] for name in names)
    slabs = of(("add_slabs_kernel", "column_sums"))
    gate = [("row_norms_kernel", "gate"), ("gate_forward_kernel", "gate"), ("fill_kernel", "gate"), ("route_stats_kernel", "gate"),
            ("dispatch_count_kernel", "gate"), ("dispatch_scan_kernel", "gate"), ("dispatch_fill_kernel", "gate")]
    gate_back = [("gate_gradient_kernel", "gate_gradient")] + [("gate_backward_%s_kernel" % x, "gate_backward") for x in
                                                               ("scores", "W", "G", "x")]
    ours = {
        "attention": (of(("flash_forward_kernel", "flash")),
                      of(*[("flash_%s_kernel" % x, "flash_backward") for x in ("delta", "dkdv", "dq")])),
        "LayerNorm and residual": (2 * of(("layernorm_forward_kernel", "residual_layernorm")),
                                   2 * (of(("layernorm_backward_kernel", "layernorm_backward"),
                                           ("layernorm_backward_weights_kernel", "layernorm_backward")) + 2 * slabs)),
        "gate and routing": (of(*gate), of(*gate_back) + v["E"] * slabs),
        "permute and combine": (of(("gather_forward_kernel", "gather"), ("combine_forward_kernel", "combine")),
                                of(("combine_backward_kernel", "combine_backward"), ("combine_forward_kernel", "gather_backward"))),
        "softmax and loss": (of(("crossentropy_kernel", "crossentropy")), 0),
        "AdamW, 28 B/parameter": (0, of(("adamw_kernel", "adamw"))),
        "gradients: zero and norm": (0, 4.0 * v["P"] + of(("squares_kernel", "squares"))),
    }
    lines = ["| component | floor, forward | kernels | floor, backward | kernels |", "|---|---|---|---|---|"]
    for name, _, _, _, byte, back in components(GPT2, 2.0, GPT2.E):
        if name in ours:
            cells = [byte / unit, ours[name][0] / unit, back / unit, ours[name][1] / unit]
            lines.append("| %s | %s |" % (name, " | ".join("%.2f" % x if x else "" for x in cells)))
    return "\n".join(lines) + "\n"


def tables():
    return [("kernels " + section, table(section, rows)) for section, rows in KERNELS] + [
        ("kernels products", products()), ("kernels floors", floors_table())]


def verify(page):
    try:
        with open(page) as f:
            text = re.sub(r":[0-9]+ ", ": ", f.read())
    except OSError as e:
        die("%s: %s" % (page, e.strerror), "docs/cuda.md")
    for name, rows in tables():
        if "<!-- %s:begin -->\n%s<!-- %s:end -->" % (name, re.sub(r":[0-9]+ ", ": ", rows), name) not in text:
            die("%s: table %s is not what the formulas say" % (page, name), "python3 dev/kernels.py --into %s" % page)
    print("%s: %d tables say what the formulas of dev/kernels.py say" % (page, len(tables())))


def run(program, case, dtype):
    # -> sizes that the program printed, traffic by kernel: launches, different bytes read and written
    try:
        r = subprocess.run([program, case, dtype], stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True,
                           env=dict(os.environ, CUDACPU_COUNT="1", CUDACPU_CHECK_MB="192"))
    except OSError as e:
        die("%s: %s" % (program, e.strerror), "make kernels")
    sizes = {a: int(b) for a, b in re.findall(r"^(\w+) (\d+)$", r.stdout, re.M)}
    moved = {a.split("::")[-1]: [int(x) for x in b.split()] for a, b in re.findall(r"^(\S+_kernel)\s+([\d ]+)$", r.stderr, re.M)}
    if r.returncode or "N" not in sizes:
        die("%s %s %s: exit code %d\n%s" % (program, case, dtype, r.returncode, r.stderr[:600]), "make kernels")
    return sizes, moved


def count(program, vit):
    compared, wrong, seen = 0, 0, {}
    for section, rows in KERNELS:
        if vit and section != "vit" or not vit and section == "vit":
            continue
        for kernel, case, _, reads, writes, flop, _, own, _ in rows:
            for dtype in ("bf16",) if case.startswith("flash") else ("bf16", "fp32"):
                if (case, dtype) not in seen:
                    seen[case, dtype] = run(program, case, dtype)
                sizes, moved = seen[case, dtype]
                v = derived(dict(sizes, s=2 if dtype == "bf16" else 4))
                if kernel not in moved:
                    die("%s %s: %s did not run" % (case, dtype, kernel), "mend dev/kernels.cu")
                launches, _, read, _, written = moved[kernel][:5]
                want = launches * (value(reads, v) + value(own, v)), launches * value(writes, v)
                compared += 1
                if (read, written) != want:
                    wrong += 1
                    print("%s %s %s: read %d, the formula says %d; written %d, formula %d" % (kernel, case, dtype, read, want[0],
                                                                                             written, want[1]))
    for case in [] if vit else ("flash", "flash_backward"): # FLOP: a product of tensor cores is 2 x 16 x 8 x 16
        sizes = seen[case, "bf16"][0]
        v = derived(dict(sizes, s=2))
        want = sum(value(r[5], v) for _, rows in KERNELS for r in rows if r[1] == case and "tile" in r[5])
        compared += 1
        if 4096 * sizes["mma"] != want:
            wrong += 1
            print("%s: %d FLOP of tensor cores, the formula says %d" % (case, 4096 * sizes["mma"], want))
    print("%s: %d counts compared with their formulas, %d differ" % (program, compared, wrong))
    sys.exit(wrong > 0)


def main():
    a = sys.argv[1:]
    os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
    if not a:
        for name, rows in tables():
            print("%s\n%s" % (name, rows))
    elif a[0] == "--into" and len(a) == 2:
        for name, rows in tables():
            write_between(a[1], name, rows)
    elif a[0] == "--verify" and len(a) == 2:
        verify(a[1])
    elif a[0] == "--count" and (len(a) == 2 or a[2:] == ["--vit"]):
        count(a[1], len(a) > 2)
    else:
        sys.stderr.write("kernels.py: what is wanted?\n---> HINT: its first lines say what it takes\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
