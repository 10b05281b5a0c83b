#!/usr/bin/env python3
"""
The pictures of docs/walkthrough.md and docs/memory.md, from a run and from the programs' own functions. Nothing in them is made up.

    python3 dev/pictures.py OUT [--into docs/pictures]

OUT is the folder of a run of `make train`: log.jsonl, model.safetensors and routing.safetensors are read (docs/formats.md).

    routing.png           a piece of the validation text: who uses which expert, and each token's cosine beside the threshold
    dispatch.png          a line of that text: tokens become rows grouped by expert, and rows become tokens again
    straight_through.png  one gate: its step forward, what backward takes for its derivative; the two conventions for k
    adaptive.png          the run over its steps: active experts, events, k, tokens without expert
    memory.png            where the bytes go, for the plans of docs/memory.md

Cosines come from the oracle (dev/dynmoe.py), decisions from the program, and they have to agree. dispatch and gate_* are called
by dev/walk. Needs `make all`, and torch, numpy, matplotlib and Pillow (dev/setup.sh --oracle). The same run gives the same bytes.
"""
import argparse, os, subprocess, sys
from types import SimpleNamespace
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import plot  # readers of logs and tensors, and the look of the pictures
from plot import COLOURS, fail, np, plt
import dynmoe
import memory_table
import torch
from PIL import Image
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

HOME = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DARK, LIGHT = "#0072B2", "#e8e8e8"
EXPERT_COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#999999", "#000000"]
SHOW = {"\n": "\u23ce", " ": "\u2423"}


def walk(*words):
    # what dev/walk prints, as lists of words
    try:
        return [line.split() for line in subprocess.run([os.path.join(HOME, "dev", "walk"), *words], stdout=subprocess.PIPE,
                                                        check=True, universal_newlines=True).stdout.splitlines()]
    except (OSError, subprocess.CalledProcessError) as e:
        fail(1, "make all", "dev/walk: %s" % e)


def numbers(lines, name):
    # the rows under a name that dev/walk printed: of the line that starts with it and of those without a name
    at = next(i for i, line in enumerate(lines) if line[0] == name)
    rows = [[float(x) for x in lines[at] if x.lstrip("-").replace(".", "").isdigit()]]
    for line in lines[at + 1:]:
        if not line[0].lstrip("-").isdigit():
            break
        rows.append([float(x) for x in line])
    return rows


def read(folder):
    # -> the run; of its last DynMoE layer, over the first window of the validation text: text, cosine, open, k, G, active experts
    run = plot.read_run(folder, os.path.basename(folder))
    if not run.ids:
        fail(1, "make train", "%s: no DynMoE layer in the log" % folder)
    t, meta = plot.read_safetensors(os.path.join(folder, "routing.safetensors"), "dynmoe-routing 1", "make train")
    T, layer = int(meta["T"]), int(meta["moe_layers"].split(",")[-1])
    try:
        P, mask, cfg, _ = dynmoe.load_checkpoint(SimpleNamespace(ckpt=os.path.join(folder, "model.safetensors")), "gpt2")
    except (dynmoe.UserError, OSError) as e:
        fail(1, "make train", "model.safetensors: %s" % (e,))
    tokens = t["token"][:T]
    o = dynmoe.evaluate_tokens(P, mask, cfg, tokens.tolist()).layers[layer]
    used, k = t["h.%d.open" % layer][:T], t["h.%d.k" % layer][:T]
    if (o.act.numpy() != used).any():
        fail(1, "is OUT/model.safetensors of the same run?", "the oracle and the program route a token differently")
    active = np.nonzero(mask[layer].numpy())[0]
    piece = SimpleNamespace(text=bytes(tokens.tolist()).decode("latin-1"), layer=layer, cosine=o.s.numpy() / cfg.scale, open=used,
                            k=k, G=P["h.%d.moe.gateG" % layer].numpy(), active=active, tokens=tokens)
    return run, piece


def domains(piece):
    # runs of one language in the piece -> (first, last, name); needs the truth of the default text
    path = os.path.join(HOME, "data", "languages_val.truth")
    if not os.path.exists(path):
        return []
    truth = plot.read_truth(path)
    if (truth.text[:len(piece.tokens)] != piece.tokens).any():
        return []
    d, runs, first = truth.domain[:len(piece.tokens)], [], 0
    for i in range(1, len(d) + 1):
        if i == len(d) or d[i] != d[first]:
            runs.append((first, i - 1, truth.names[d[first]]))
            first = i
    return runs


def routing_picture(piece):
    n, E = len(piece.text), len(piece.active)
    fig, (top, low) = plt.subplots(2, 1, figsize=(12.5, 7.6), constrained_layout=True, gridspec_kw={"height_ratios": [1, 1.35]})
    for row, e in enumerate(piece.active):
        for i in range(n):
            top.add_patch(Rectangle((i - 0.46, row - 0.42), 0.92, 0.84, color=DARK if piece.open[i, e] else LIGHT))
            if piece.open[i, e] and piece.k[i] == 0:
                top.plot(i, row, "^", color="white", markersize=6)
    top.set(xlim=(-0.7, n - 0.3), ylim=(E - 0.4, -0.6), yticks=range(E), yticklabels=["expert %d" % e for e in piece.active])
    top.set_xticks(range(n))
    top.set_xticklabels([SHOW.get(c, c) for c in piece.text], fontfamily="monospace", fontsize=12)
    top.tick_params(axis="both", length=0)
    top.grid(False)
    for side in top.spines.values():
        side.set_visible(False)
    for first, last, name in domains(piece):
        top.plot([first - 0.4, last + 0.4], [E - 0.4 + 0.95] * 2, color="black", linewidth=1.5, clip_on=False)
        top.text((first + last) / 2, E - 0.4 + 1.05, name if last - first > 1 else "", ha="center", va="top", fontsize=10)
    top.set_title("layer %d, evaluation: which experts each byte of the text uses" % piece.layer, fontsize=12)
    keys = [Patch(color=DARK, label="used"), Patch(color=LIGHT, label="not used")]
    if (piece.k == 0).any():
        keys.append(Line2D([], [], marker="^", linestyle="", color="white", markerfacecolor="white", markeredgecolor=DARK,
                           label="no gate was open: the nearest one"))
    top.legend(handles=keys, loc="lower left", bbox_to_anchor=(0, 1.0), ncol=3, frameon=False, fontsize=10.5, borderaxespad=0.2)
    for row, e in enumerate(piece.active):
        for i in range(n):
            up, is_open = 0.3 * ((i * 7 % 11) / 5 - 1), piece.cosine[i, e] > piece.G[e]
            low.plot(piece.cosine[i, e], row + up, "o", markersize=5.5, markeredgewidth=1, color=DARK if is_open else "white",
                     markeredgecolor=DARK if is_open else "0.45")
        low.plot([piece.G[e]] * 2, [row - 0.43, row + 0.43], color="black", linewidth=3, solid_capstyle="butt")
    low.set(ylim=(E - 0.4, -0.6), yticks=range(E), yticklabels=["expert %d" % e for e in piece.active])
    low.set_xlabel("cosine of the token's x and the expert's row of W", fontsize=11)
    low.set_title("the same bytes: cosine of each against the expert's threshold", fontsize=12)
    low.legend(handles=[Line2D([], [], color="black", linewidth=3, label="threshold G"),
                        Line2D([], [], marker="o", linestyle="", color=DARK, label="above: open"),
                        Line2D([], [], marker="o", linestyle="", color="white", markeredgecolor="0.45", label="below: closed")],
               loc="upper left", bbox_to_anchor=(1.005, 1), frameon=False, fontsize=10.5, borderaxespad=0)
    return fig


def a_line(piece):
    # the first line of 6 to 12 bytes
    at = 0
    for line in piece.text.split("\n"):
        if 6 <= len(line) <= 12 and at + len(line) < len(piece.text):
            return at, at + len(line)
        at += len(line) + 1
    return 0, min(9, len(piece.text))


def dispatch_picture(piece):
    first, last = a_line(piece)
    bits = ",".join("".join(str(b) for b in row[piece.active]) for row in piece.open[first:last])
    lines = walk("rows", bits)
    offset, token = [int(x) for x in numbers(lines, "offset")[0]], [int(x) for x in numbers(lines, "row_token")[0]]
    N, R, text = last - first, offset[-1], piece.text[first:last]
    fig, ax = plt.subplots(figsize=(11.5, 7.4), constrained_layout=True)
    inside = {"ha": "center", "va": "center", "family": "monospace", "fontsize": 12}
    token_y, row_y = lambda i: (i + 0.5) * R / N, lambda r: r + 0.5
    expert_of = [e for e in range(len(piece.active)) for _ in range(offset[e], offset[e + 1])]
    for r, i in enumerate(token):
        colour = EXPERT_COLOURS[expert_of[r] % 8]
        ax.plot([0.55, 3.4], [token_y(i), row_y(r)], color=colour, linewidth=1.6)
        ax.plot([4.6, 7.45], [row_y(r), token_y(i)], color=colour, linewidth=1.6)
        ax.add_patch(Rectangle((3.4, r + 0.06), 1.2, 0.88, facecolor="white", edgecolor=colour, linewidth=2))
        ax.text(4, row_y(r), "%2d   %s" % (r, SHOW.get(text[i], text[i])), **inside)
    for e, name in enumerate(piece.active):
        if offset[e] == offset[e + 1]:
            continue
        colour = EXPERT_COLOURS[e % 8]
        ax.plot([3.22] * 2, [offset[e] + 0.1, offset[e + 1] - 0.1], color=colour, linewidth=5, solid_capstyle="butt")
        ax.text(4.75, (offset[e] + offset[e + 1]) / 2, "expert %d" % name, va="center", fontsize=11, color="black",
                bbox={"facecolor": "white", "edgecolor": colour, "boxstyle": "round,pad=0.2"})
        ax.text(2.6, offset[e] + 0.02, "offset %d" % offset[e], va="center", ha="center", fontsize=10,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
    for i in range(N):
        ax.add_patch(Rectangle((-0.35, token_y(i) - 0.42), 0.9, 0.84, facecolor="white", edgecolor="black"))
        ax.text(0.1, token_y(i), "%d  %s" % (i, SHOW.get(text[i], text[i])), **inside)
        ax.add_patch(Rectangle((7.45, token_y(i) - 0.42), 0.9, 0.84, facecolor="white", edgecolor="black"))
        ax.text(7.9, token_y(i), "%d  %s" % (i, SHOW.get(text[i], text[i])), **inside)
    for x, title in ((0.1, "x (N, C): N = %d tokens" % N), (4, "xr (R, C): R = %d rows,\nrow and token, by expert" % R),
                     (7.9, "y (N, C): mean of\na token's rows")):
        ax.text(x, -0.35, title, ha="center", va="bottom", fontsize=12)
    ax.text(1.9, R + 0.55, "dispatch, gather", ha="center", fontsize=12, style="italic")
    ax.text(6.1, R + 0.55, "combine", ha="center", fontsize=12, style="italic")
    ax.set(xlim=(-0.9, 8.9), ylim=(R + 0.9, -1.6))
    ax.axis("off")
    return fig


def gate_picture():
    a = np.array([[float(x) for x in line] for line in walk("curve")])
    example = walk("mean")
    fig, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4.4), constrained_layout=True)
    shut, is_open = a[a[:, 1] == 0], a[a[:, 1] == 1]
    edge = (shut[-1, 0] + is_open[0, 0]) / 2
    for half in (shut, is_open):
        left.plot(half[:, 0], half[:, 1], color=DARK, linewidth=3)
    left.set(xlabel="cosine", ylim=(-0.08, 1.25))
    left.set_title("forward: the gate, G = 0.2", fontsize=12)
    for (t, tau), style in zip(enumerate((1, 4, 10)), ("-", "--", ":")):
        middle.plot(is_open[:, 0], is_open[:, 2 + t], style, color=COLOURS[(0, 4, 6)[t]], linewidth=2.4, label="tau = %d" % tau)
        middle.plot(shut[:, 0], shut[:, 2 + t], "-", color="black", linewidth=2.4)
    middle.set(xlabel="cosine")
    middle.set_title("backward: dL/dcosine for dL/dgate = 1", fontsize=12)
    middle.legend(frameon=False, fontsize=11, loc="upper left")
    middle.text(-0.97, 0.1, "closed: nothing passes", fontsize=10.5)
    for ax in (left, middle):
        ax.axvline(edge, color="0.45", linestyle=(0, (6, 2)), linewidth=1.2)
        ax.set_xlim(-1, 1)
        ax.set_xticks([-1, -0.5, 0, 0.5, 1])
    rows = [np.array(numbers([l for l in example if l[0].startswith("dL/d") and want in l], "dL/d" + name)[0])
            for want, name in (("<dy,", "weight"), ("detached", "gate,"), ("normalised", "gate,"))]
    for i, (values, label, colour, hatch) in enumerate(zip(rows, ("dL/dweight", "dL/dgate, k detached", "dL/dgate, k normalised"),
                                                           ("0.75", "#56B4E9", "#0072B2"), ("", "//", ""))):
        right.bar(np.arange(4) + 0.27 * (i - 1), values, 0.25, color=colour, hatch=hatch, edgecolor="black", label=label)
    right.axhline(0, color="black", linewidth=1)
    right.set_xticks(range(4))
    right.set_xticklabels(["gate 0\nopen", "gate 1\nopen", "gate 2\nclosed", "gate 3\nopen"], fontsize=10.5)
    right.set_ylim(-1.0, 0.75)
    right.set_title("one token, k = 3: what its gates are told", fontsize=12)
    right.legend(frameon=False, fontsize=10.5, loc="upper right")
    return fig


def adaptive_picture(run):
    run.look = {l: plot.look(4 * i) if i < 2 else plot.look(i) for i, l in enumerate(run.ids)}
    for i, l in enumerate(run.ids):
        run.look[l]["linestyle"] = ("-", "--", ":", "-.")[i % 4]
    flags = run.about["flags"]
    fig, axes = plt.subplots(3, 1, figsize=(12, 8.2), sharex=True, constrained_layout=True,
                             gridspec_kw={"height_ratios": [1.3, 1, 1]})
    plot.draw_experts(axes[0], run)
    plot.draw_lines(axes[1], run, run.k, "k: experts per token")
    plot.draw_lines(axes[2], run, run.none, "tokens without expert (%)")
    window, period, stop = int(flags["window"]), int(flags["period"]), float(flags["adapt_stop"]) * int(flags["steps"])
    for ax in axes:
        for begin in range(window, run.last, period) if period else ():
            if begin + window < stop:
                ax.axvspan(begin, begin + window, color="0.9", zorder=0, linewidth=0)
    axes[0].set_ylabel("active experts\n(lines shifted apart; dashed: pool)")
    axes[0].set_xlabel("")
    axes[1].set_xlabel("")
    plot.legend(axes[0], plot.layer_keys(run) + plot.mark_keys([run]) + [Patch(color="0.9", label="records are kept")])
    return fig


def memory_picture():
    shown = [(name, memory_table.megabytes(program, flags, 2)) for name, program, flags in memory_table.SHOWN]
    names = {"parameters": "parameters", "gradients": "gradients", "Adam": "Adam's m and v", "attention": "attention (T, T)",
             "kept": "activations kept", "gate": "gate and dispatch", "logits": "logits", "scratch": "scratch of backward",
             "rows": "routed rows, k = 2"}
    colours = ["#0072B2", "#56B4E9", "#BBDDF2", "#D55E00", "#E69F00", "#000000", "#CC79A7", "#AAAAAA", "#009E73"]
    hatches = ["", "", "", "//", "", "", "\\\\", "", ".."]
    fig, ax = plt.subplots(figsize=(12, 5.4), constrained_layout=True)
    for row, (name, kinds) in enumerate(shown):
        total, left = sum(kinds.values()), 0.0
        for kind, colour, hatch in zip(memory_table.KINDS, colours, hatches):
            share = 100 * kinds[kind] / total
            ax.barh(row, share, left=left, color=colour, hatch=hatch, edgecolor="white", linewidth=0.8, height=0.72)
            left += share
        ax.text(101, row, "%s MB" % format(int(round(total)), ","), va="center", fontsize=11)
    ax.set_yticks(range(len(shown)))
    ax.set_yticklabels([name for name, _ in shown], fontsize=11)
    ax.set(ylim=(len(shown) - 0.5, -0.5), xlim=(0, 112), xticks=range(0, 101, 20))
    ax.set_xlabel("share of the plan (%); batch 8, k = 2", fontsize=11)
    ax.grid(False)
    plot.legend(ax, [Patch(facecolor=c, hatch=h, edgecolor="white", label=names[kind])
                     for kind, c, h in zip(memory_table.KINDS, colours, hatches)])
    return fig


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("folder", metavar="OUT", help="folder of a run of make train")
    parser.add_argument("--into", metavar="DIR", default=os.path.join(HOME, "docs", "pictures"), help="where the pictures go")
    parser.error = lambda message: fail(2, "python3 dev/pictures.py --help", message)
    args = parser.parse_args()
    torch.set_num_threads(1)  # the same bits everywhere
    run, piece = read(os.path.normpath(args.folder))
    plt.rcdefaults()
    plt.rcParams.update({"figure.dpi": 100, "savefig.dpi": 100, "font.size": 11, "axes.grid": True, "grid.color": "#e4e4e4",
                         "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False, "legend.fontsize": 11})
    pictures = {"routing.png": lambda: routing_picture(piece), "dispatch.png": lambda: dispatch_picture(piece),
                "straight_through.png": gate_picture, "adaptive.png": lambda: adaptive_picture(run), "memory.png": memory_picture}
    try:
        os.makedirs(args.into, exist_ok=True)
        for name, draw in pictures.items():
            fig, path = draw(), os.path.join(args.into, name)
            fig.canvas.draw()
            image = Image.fromarray(np.asarray(fig.canvas.buffer_rgba())).convert("RGB").quantize(64)  # a third of the bytes
            image.save(path + ".tmp", format="PNG", optimize=True)
            plt.close(fig)
            os.replace(path + ".tmp", path)
    except OSError as e:
        fail(1, "is there room, and permission? --into DIR writes elsewhere", "%s: %s" % (e.filename or args.into, e.strerror))
    print("%s: %s" % (args.into, " ".join(pictures)))


if __name__ == "__main__":
    main()
