#!/usr/bin/env python3
"""
floors.py: how fast could one step be? A floor from counts, and how close a run came to it.

Each component of a step has a number of FLOP and a number of bytes that must pass through memory at least once. It takes no
less than the larger of FLOP / (matrix products per second) and bytes / (bandwidth); the sum over components is the floor.

    python3 dev/floors.py --B 64 --T 1024 --C 768 --L 12 --NH 12 --V 50257 --E 8 --moe-layers every2 --k 2
    python3 dev/floors.py --image 224 --patch 16 --classes 1000 --B 256 --C 384 --L 12 --NH 6 --E 8 --moe-layers every2 --k 2
    python3 dev/floors.py --log out/log.jsonl      a run of ours: percent of the floor and MFU at its measured k

The two constants are what one H200 does: 788 TFLOP/s in a large bf16 product of cuBLAS, 4.3 TB/s when it copies, reads and
writes together. --flops and --bandwidth set those of another card, --nominal the peak that MFU is a share of. Counted is bf16:
2 bytes for activations and weights, logits in place, attention that keeps no (T, T) matrix. Not counted, so that the floor
stays one: reading the weights, the last LayerNorm, launches, synchronisation, validation. The time of a component is linear
in k where it depends on k, so the mean k over layers is all that is needed.

Letters: B sequences (or images), T tokens in each, N = B*T, C channels, L layers, V vocabulary, E experts in the pool, H hidden
width of an expert, k routed experts of a token, S shared experts. unit = N*C*2 bytes: one bf16 activation of all tokens.
"""
import argparse
import json
import sys
from types import SimpleNamespace


class Parser(argparse.ArgumentParser):
    def error(self, message):
        sys.stderr.write("floors.py: %s\n---> HINT: python3 dev/floors.py --help\n" % message)
        sys.exit(2)


def die(message, hint):
    sys.stderr.write("floors.py: %s\n---> HINT: %s\n" % (message, hint))
    sys.exit(1)


# ----------------------------------------------------------------------------
# counts

def padded(V):
    return (V + 127) // 128 * 128


def parameters(m, active):
    """All parameters if `active` experts of each pool count: active = E gives what the program prints."""
    C, H, E = m.C, m.H, m.E
    norms, attention, dense = 4 * C, 4 * C * C + 4 * C, 8 * C * C + 5 * C
    expert, shared = 2 * H * C + H + C, (2 * m.S * H * C + m.S * H + C if m.S else 0)
    n = m.L * (norms + attention) + (m.L - m.moe) * dense + m.moe * (active * (expert + C + 1) + shared)
    n += 2 * C + m.T * C                                                    # last LayerNorm, positions
    if m.own_norms:                                                         # each expert has one, instead of the layer
        n += m.moe * (active - 1) * 2 * C
    if m.vit:
        return n + m.patch_size * C + C + C + m.classes * C + m.classes     # patches, class token, head
    return n + padded(m.V) * C


def components(m, k, active):
    """-> rows (name, how often, FLOP forward, FLOP backward, bytes forward, bytes backward), all of one occurrence"""
    N, C, E = m.B * m.T, m.C, m.E
    unit = 2.0 * N * C
    rows = []

    def add(name, times, flop=0.0, flop_back=None, byte=0.0, byte_back=0.0):
        # a product costs twice as much backward: once for its input's gradient, once for its weight's
        if times:
            rows.append((name, times, flop, 2 * flop if flop_back is None else flop_back, byte, byte_back))

    def ffn(name, times, width, share):
        # share: rows per token. Forward: read x, write the sum before GELU and GELU of it; read that, write out.
        # Backward: dgelu (read dout and the sum, write), dx, and two weight gradients that read both their factors.
        h = width / C
        add(name, times, 4.0 * N * C * width * share, None, (2 + 3 * h) * unit * share, (4 + 5 * h) * unit * share)

    add("QKV product", m.L, 6.0 * N * C * C, None, 4 * unit, 8 * unit)
    # two products over T keys, half of them in the future if causal; backward recomputes one: 5 products instead of 2.
    # Bytes: q, k, v, out; backward q, k, v, out, twice dout, and dq, dk, dv.
    attention = 4.0 * N * m.T * C * (1.0 if m.vit else 0.5)
    add("attention", m.L, attention, 2.5 * attention, 4 * unit, 9 * unit)
    add("attention projection", m.L, 2.0 * N * C * C, None, 2 * unit, 4 * unit)
    ffn("dense feed-forward", m.L - m.moe, 4 * C, 1.0)
    # two for each layer, with the residual sum: read two, write sum and norm; backward read three, write one
    add("LayerNorm and residual", m.L, 0.0, None, 8 * unit, 8 * unit)
    # the gate reads x once, writes scores and the table of rows; backward reads and writes dx, reads x and scores
    add("gate and routing", m.moe, 2.0 * N * C * E, None, unit + 8.0 * N * E, 3 * unit + 4.0 * N * E)
    ffn("experts, k = %.3g" % k, m.moe, m.H, k)
    if m.S:
        ffn("shared experts", m.moe, m.S * m.H, 1.0)
    # gather the rows (read k, write k), combine (read k, residual and sum); backward: dout and out to rows, gather dx
    # (a token's second row may find x and dout in the cache: then up to k - 1 units less move, docs/cuda.md)
    add("permute and combine", m.moe, 0.0, None, (3 * k + 2) * unit, (4 * k + 1) * unit)
    if m.vit:
        patch = 2.0 * m.B * (m.T - 1) * C * m.patch_size
        add("patch embedding", 1, patch, patch, unit, unit)                 # images get no gradient
        add("classifier", 1, 2.0 * m.B * C * m.classes)
    else:
        Vp = padded(m.V)
        logits = 2.0 * N * Vp
        add("head product", 1, 2.0 * N * C * Vp, None, logits + unit, 2 * logits + 2 * unit)
        add("softmax and loss", 1, 0.0, None, 2 * logits, 0.0)              # leaves the gradient where logits were
        add("embedding", 1, 0.0, None, 2 * unit, 2 * unit)
    # AdamW: master copy, m and v read and written (24), gradient read, bf16 copy written (4); then zero and norm (4). Gradients
    # of 2 bytes: those of our programs are float, which moves 6 bytes more.
    # Slots without an expert are left alone; their gradients are zeroed with the rest.
    add("AdamW, 28 B/parameter", 1, byte_back=28.0 * parameters(m, active) / m.accum)
    add("gradients: zero and norm", 1, byte_back=4.0 * parameters(m, E) / m.accum)
    return rows


def floor_of(m, k, active, rates):
    """-> milliseconds of one batch (forward, backward and 1/accum of an update), its FLOP, FLOP of the model, and the rows"""
    rows, ms, flop, model = [], 0.0, 0.0, 0.0
    for name, times, f, fb, b, bb in components(m, k, active):
        forward, backward = [1e3 * times * max(x / rates.flops, y / rates.bandwidth) for x, y in ((f, b), (fb, bb))]
        rows.append((name, times, times * f, times * fb, times * b, times * bb, forward, backward))
        ms += forward + backward
        flop += times * (f + fb)
        model += times * 3 * f if name == "attention" else times * (f + fb)   # recomputing is no work of the model
    return ms, flop, model, rows


# ----------------------------------------------------------------------------
# a run: what our program logs (docs/formats.md)

def moe_count(text, L):
    """every2, all, none, a number of layers, or a list with a comma: how many DynMoE layers"""
    named = {"every2": (L + 1) // 2, "auto": (L + 1) // 2, "all": L, "none": 0, "": 0}
    try:
        n = named[text] if text in named else len(set(int(t) for t in text.split(",") if t)) if "," in text else int(text)
    except ValueError:
        n = -1
    return n if 0 <= n <= L else None


def read_log(path):
    # -> the last run record and the step records after it; of two records of a step the later one counts
    run, steps = None, {}
    try:
        with open(path) as f:
            for number, line in enumerate(f, 1):
                try:
                    r = json.loads(line)
                    kind = r["type"]
                except (ValueError, KeyError, TypeError):
                    die("%s:%d: not a record" % (path, number), "docs/formats.md says what a log holds")
                if kind == "run":
                    run, steps = r, {}
                elif kind == "step":
                    steps[r["step"]] = r
    except (OSError, UnicodeDecodeError) as e:
        die("%s: %s" % (path, getattr(e, "strerror", None) or "not a text file"), "a run writes OUT/log.jsonl")
    if run is None or not steps:
        die("%s: no run, or no step of it" % path, "train at least one step")
    return run, [steps[s] for s in sorted(steps)]


def median(values):
    v = sorted(values)
    return (v[(len(v) - 1) // 2] + v[len(v) // 2]) / 2


def from_log(path, skip):
    # -> model, k, active experts, ms of a step, and what to say about the run
    run, steps = read_log(path)
    used = [r for r in steps if r["step"] > skip] or steps[1:] or steps     # the first ones warm caches up
    try:
        flags, layers = run["flags"], steps[0]["layers"]
        integer = lambda name: int(flags[name])
        vit = "vit" in run["program"]
        m = SimpleNamespace(vit=vit, B=integer("batch"), C=integer("channels"), L=integer("layers"), NH=integer("heads"),
                            accum=integer("accum"), S=int(flags.get("shared_experts", 0)) if layers else 0, moe=len(layers),
                            E=len(layers[0]["load"]) if layers else 0)
        m.H = int(flags.get("expert_width", 0)) or 4 * m.C
        m.own_norms = flags.get("gate_input") == "residual"
        if vit:
            m.T, m.patch_size, m.classes = run["tokens"], run["planes"] * integer("patch") ** 2, run["classes"]
            found = parameters(m, m.E) == run["parameters"]
        else:
            m.T = integer("context")
            found = any(set_V(m, V) == run["parameters"] for V in (256, 50257))
        if not found:
            die("%s: its flags do not give %d parameters" % (path, run["parameters"]),
                "was it made by --init? give the sizes by flags instead of --log")
        k = sum(r["k"] for r in used) / len(used) if layers else 0.0
        active = sum(sum(l["experts"] for l in r["layers"]) / len(r["layers"]) for r in used) / len(used) if layers else 0.0
        ms = median([r["ms"] for r in used])
        about = "%s, commit %s, %s, %s; %d records up to step %d" % (run["program"], run["commit"], run["machine"],
                                                                   run.get("dtype", "fp32"), len(used), used[-1]["step"])
    except (KeyError, ValueError, TypeError, IndexError) as e:
        die("%s: its records lack %s" % (path, e), "docs/formats.md says what a log holds")
    if run.get("dtype") != "bf16":
        about += "\nthe run was in %s, the floor is that of bf16" % run.get("dtype", "fp32")
    return m, k, active, ms, about


def set_V(m, V):
    m.V = V
    return parameters(m, m.E)


# ----------------------------------------------------------------------------
# print

def print_table(rows):
    head = ("component", "x", "GFLOP fwd", "GFLOP bwd", "GB fwd", "GB bwd", "ms fwd", "ms bwd")
    print("%-26s %3s %10s %10s %8s %8s %9s %9s" % head)
    for name, times, f, fb, b, bb, forward, backward in rows:
        print("%-26s %3d %10.1f %10.1f %8.3f %8.3f %9.4f %9.4f" % (name, times, f / 1e9, fb / 1e9, b / 1e9, bb / 1e9, forward,
                                                                  backward))


def main():
    p = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    number = lambda name, default, text, kind=int: p.add_argument(name, type=kind, default=default, help=text)
    number("--B", 64, "sequences or images in a batch (64)")
    number("--T", 1024, "tokens in a sequence (1024); of a ViT the image and the patch decide")
    number("--C", 768, "channels (768)")
    number("--L", 12, "layers (12)")
    number("--NH", 12, "heads (12); does not change the floor")
    number("--V", 50257, "vocabulary (50257), padded to 128")
    number("--E", 8, "experts in a pool (8)")
    number("--active", None, "experts that the optimizer updates (all)", float)
    number("--k", 2.0, "routed experts of a token, mean (2)", float)
    number("--expert-width", 0, "hidden width of an expert (0: 4C)")
    number("--shared", 0, "shared experts (0)")
    number("--moe-layers", "every2", "every2, all, none, how many, or a list with commas (every2)", str)
    number("--accum", 1, "batches of a step (1)")
    number("--image", 0, "a ViT: width of the image")
    number("--patch", 16, "a ViT: width of a patch (16)")
    number("--image-channels", 3, "a ViT: channels of the image (3)")
    number("--classes", 1000, "a ViT: classes (1000)")
    number("--flops", 788.0, "TFLOP/s of matrix products, measured (788: H200, bf16)", float)
    number("--bandwidth", 4.3, "TB/s of a copy, read and written, measured (4.3: H200)", float)
    number("--nominal", 989.0, "TFLOP/s that MFU is a share of (989)", float)
    number("--log", None, "log.jsonl of a run: its sizes, k and speed", str)
    number("--skip", 10, "with --log: steps that do not count yet (10)")
    number("--ms", 0.0, "a measured step in ms: prints its percent of the floor", float)
    a = p.parse_args()
    if min(a.B, a.T, a.C, a.L, a.NH, a.V, a.accum, a.patch, a.classes, a.image_channels) < 1 or min(
            a.E, a.expert_width, a.shared, a.skip, a.image) < 0 or not (0 <= a.k <= max(a.E, 1) and a.ms >= 0):
        p.error("a size is out of range: sizes are at least 1, k is at most E")
    if not min(a.flops, a.bandwidth, a.nominal) > 0:
        p.error("--flops, --bandwidth and --nominal are rates, more than 0")
    if a.active is not None and not 0 <= a.active <= a.E:
        p.error("--active %g: of a pool of %d" % (a.active, a.E))
    rates = SimpleNamespace(flops=1e12 * a.flops, bandwidth=1e12 * a.bandwidth, nominal=1e12 * a.nominal)

    if a.log:
        m, k, active, ms, about = from_log(a.log, a.skip)
        print(about)
    else:
        moe = moe_count(a.moe_layers, a.L)
        if moe is None:
            p.error("--moe-layers %s: every2, all, none, a number up to --L, or a list with commas" % a.moe_layers)
        if a.image and (a.image % a.patch or a.image < a.patch):
            p.error("--image %d: not a multiple of --patch %d" % (a.image, a.patch))
        if moe and a.E < 1:
            p.error("--E 0: DynMoE layers need a pool, or say --moe-layers none")
        m = SimpleNamespace(vit=a.image > 0, B=a.B, T=a.T, C=a.C, L=a.L, NH=a.NH, V=a.V, E=a.E if moe else 0, moe=moe,
                            H=a.expert_width or 4 * a.C, S=a.shared if moe else 0, accum=a.accum, classes=a.classes,
                            own_norms=False, patch_size=a.image_channels * a.patch ** 2)
        if m.vit:
            m.T = 1 + (a.image // a.patch) ** 2
        k, active, ms = a.k if moe else 0.0, m.E if a.active is None else a.active, a.ms

    floor, flop, model, rows = floor_of(m, k, active, rates)
    N, what, each = m.B * m.T, "img/s" if m.vit else "tok/s", m.B if m.vit else m.B * m.T
    print("%s: %d x %d tokens, %d channels, %d layers, %d of them DynMoE%s; %.3f million parameters" % (
        "ViT" if m.vit else "GPT-2", m.B, m.T, m.C, m.L, m.moe, ", pool of %d, k = %.4g" % (m.E, k) if m.moe else "",
        1e-6 * parameters(m, m.E)))
    print_table(rows)
    step = floor * m.accum
    print("a step: %.4g TFLOP (of the model: %.4g, %.4g MFLOP/token); products alone %.4g ms at %g TFLOP/s" % (
        m.accum * flop / 1e12, m.accum * model / 1e12, model / N / 1e6, 1e3 * m.accum * flop / rates.flops, a.flops))
    print("floor: %.3f ms; MFU there: %.1f%% of %g" % (step, 100 * model / (1e-3 * floor) / rates.nominal, a.nominal))
    if ms > 0:
        print("measured: %.3f ms, %.0f %s: %.1f%% of floor, MFU %.1f%% of %g" % (
            ms, m.accum * each / ms * 1e3, what, 100 * step / ms, 100 * m.accum * model / (1e-3 * ms) / rates.nominal, a.nominal))
    else:
        for percent in (60, 70, 75):
            t = 100 * step / percent
            print("%d%% of floor: %.2f ms, %.0f %s, MFU %.1f%%" % (percent, t, m.accum * each / t * 1e3, what,
                                                                  100 * m.accum * model / (1e-3 * t) / rates.nominal))


if __name__ == "__main__":
    main()
