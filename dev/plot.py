#!/usr/bin/env python3
"""
Pictures of training runs, from the logs that they leave.

    python3 dev/plot.py OUT [OUT2 ...] [--out DIR] [--truth FILE] [--csv]

OUT is the folder of a run: its log.jsonl is read, and routing.safetensors and untrained.safetensors if they are there
(docs/formats.md). Several runs come side by side, or into one axis. What is written into DIR, by default plots/ in OUT,
or compare/ in the first OUT of several:

    loss.png             training loss (faint) and validation; below, the events of the adaptive process
    k.png                mean number of experts per token, and the share of tokens without any, per layer
    experts.png          active experts per layer, and what was added and removed
    load.png             share of tokens that use each expert, over the steps
    hist.png             share of tokens by their number of experts: at the end, and over the steps
    specialisation.png   how much each language of the text uses each expert, beside the untrained gates (needs the truth)
    overview.png         all of it, a page for each run (overview-1.png and so on for several)
    step.csv, val.csv    with --csv: the records of all runs as tables

Training values are means over the steps since the record before. Where there are more than 500 records, lines and maps show
means of neighbours. Of a log that a resumed run appended to, what came after the point of resuming is taken from the new run.
The truth is FILE, or data/languages_val.truth if that is there; a run that was validated on another text goes without.
The same logs give the same bytes. Needs numpy and matplotlib (Debian: python3-matplotlib), nothing else.
"""
import argparse, csv, json, math, os, struct, sys
from types import SimpleNamespace

try:
    import numpy as np
    import matplotlib
    matplotlib.use("Agg")  # needs no screen
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator
except ImportError as e:
    sys.exit("error: %s\n---> HINT: on Debian: apt-get install python3-matplotlib, then /usr/bin/python3 dev/plot.py OUT" % e)

MOST_POINTS, MOST_LAYERS, MOST_K = 500, 8, 8  # of a line or a map; of a picture; in a histogram, where 8 is 8 and above
COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000"]  # Okabe and Ito, for all eyes
K_COLOURS = ["#D55E00", "#08306B", "#2171B5", "#6BAED6", "#C6DBEF", "#D9D9D9", "#A6A6A6", "#737373", "#404040"]  # k = 0, 1, ...
K_NAMES = ["%d" % k for k in range(MOST_K)] + ["%d+" % MOST_K]
DASHED = {"color": "0.45", "linewidth": 1.2, "linestyle": (0, (6, 2))}
MARKS = {"add": ("+", "expert added"), "remove": ("_", "expert removed"), "full": ("x", "needed one, pool full")}
USE = matplotlib.colormaps["viridis"].copy()
USE.set_bad("#dddddd")
USE_LABEL = "share of %s tokens that use the expert (%%); grey: none"

def fail(code, hint, message):
    print("error: %s\n---> HINT: %s" % (message, hint), file=sys.stderr)
    sys.exit(code)

def plain(name):
    # long names lose their middle; nothing that matplotlib takes for mathematics, or keeps out of legends
    name = os.fsencode(str(name)).decode("utf-8", "replace")
    name = name if len(name) <= 28 else name[:12] + "..." + name[-13:]
    return " " * name.startswith("_") + name.replace("$", r"\$")

# ----------------------------------------------------------------------------
# Reading a log

def parse(line):
    # -> type, step, and of step and val (numbers, ids of layers, (L, 4 + 2E) experts, k, none, load (E), hist (E + 1))
    r = json.loads(line)
    if r["type"] == "run":
        return "run", 0, {"parameters": format(int(r["parameters"]), ","), "commit": r["commit"], "machine": r["machine"],
                          "flags": r["flags"], "unit": "picture" if str(r.get("program")).startswith("train_vit") else
                                  "token" if str(r["flags"]["data"]).endswith(".bin") else "byte"}
    if r["type"] not in ("step", "val", "event"):
        return "other", 0, None
    if not 0 <= int(r["step"]) < 2 ** 31:
        raise ValueError
    if r["type"] == "event":
        return "event", int(r["step"]), (int(r["step"]), int(r["layer"]), str(r["what"]))
    numbers = {name: float(x) for name, x in r.items() if isinstance(x, (int, float)) and name != "step"}
    ids = tuple(int(l["layer"]) for l in r.get("layers", []))
    rows = [[l["experts"], l["k"], l["none"]] + l["load"] + l["hist"] for l in r.get("layers", [])]
    layers = np.array(rows or np.zeros((0, 4)), np.float32)  # ragged rows: a ValueError
    if layers.ndim != 2 or layers.shape[1] not in range(6 if rows else 4, 999, 2):
        raise ValueError
    if not (((layers >= 0) & (layers < 1e3)).all() and abs(numbers["loss"]) < 1e6):  # nan is in no range
        raise ValueError
    return r["type"], int(r["step"]), (numbers, ids, layers)

def read_run(folder, name):
    path, damaged, number, resumed, model = os.path.join(folder, "log.jsonl"), [], 0, False, None
    run = SimpleNamespace(name=name, folder=folder, step={}, val={}, events=set(), use={}, untrained={}, floor=None,
                          about={"parameters": "?", "commit": "?", "machine": "?", "unit": "byte"})
    try:
        f = open(path, "rb")
    except OSError as e:
        fail(1, "OUT is the folder of a run; make train writes out/", "%s: %s" % (path, e.strerror))
    with f:
        for number, line in enumerate(f, 1):
            try:
                kind, at, it = parse(line)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
                damaged.append(number)
                continue
            if kind == "run":
                run.about, resumed = it, True
            if kind in ("run", "other"):
                continue
            if resumed:  # what an earlier run logged from here on is not the past of this one
                run.step, run.val = [{s: x for s, x in table.items() if s <= at} for table in (run.step, run.val)]
                run.events, resumed = {e for e in run.events if e[0] < at}, False
            if kind == "event":
                run.events.add(it)
                continue
            model = model or (it[1], it[2].shape)
            if (it[1], it[2].shape) != model:
                fail(1, "one log, one model: give it a folder of its own", "%s: line %d has other layers" % (path, number))
            getattr(run, kind)[at] = it
    if damaged:
        what = "line %d, the last one, is" % number if damaged == [number] else "%d lines, first line %d, are" % (
            len(damaged), damaged[0])
        print("warning: %s: %s damaged and left out; was a run stopped while it wrote?" % (path, what), file=sys.stderr)
    if model is None:
        fail(1, "is it the log of a run? look at its first lines", "%s: it holds no step and no val record" % path)
    # arrays over the S step records: at (S), loss (S) in bits, experts, k, none (S, L), load (S, L, E), hist (S, L, MOST_K + 1)
    steps, vals = sorted(run.step.items()), sorted(run.val.items())
    run.at, run.val_at = np.array([s for s, _ in steps], int), np.array([s for s, _ in vals], int)
    run.loss, run.val_loss = [np.array([x[0]["loss"] for _, x in table]) / math.log(2) for table in (steps, vals)]
    run.last, run.E, run.model_ids = max([*run.at, *run.val_at]), model[1][1] // 2 - 2, model[0]
    run.ids = model[0] if steps else ()  # a dense run, or one without a step, has nothing to show of its layers
    if run.ids:
        a = np.stack([x[2] for _, x in steps])
        run.experts, run.k, run.none, run.load = a[..., 0], a[..., 1], 100 * a[..., 2], 100 * a[..., 3:3 + run.E]
        hist = 100 * np.concatenate([a[..., 3 + run.E:], np.zeros(a.shape[:2] + (MOST_K,), np.float32)], -1)
        run.hist = np.concatenate([hist[..., :MOST_K], hist[..., MOST_K:].sum(-1, keepdims=True)], -1)
    return run

# ----------------------------------------------------------------------------
# Reading tensors: the truth about a text, and who used which expert on it

DTYPES = {"F64": "<f8", "F32": "<f4", "I64": "<i8", "I32": "<i4", "U8": "|u1"}

def read_safetensors(path, form, hint):
    # -> tensors {name: array}, metadata {str: str}; the file is not trusted
    def unique(pairs):
        if len(dict(pairs)) < len(pairs):
            raise ValueError("two of one name")
        return dict(pairs)
    try:
        with open(path, "rb") as f:
            blob = f.read()
        size = 8 + struct.unpack("<Q", blob[:8])[0]
        header, tensors = json.loads(blob[8:size].decode("utf-8"), object_pairs_hook=unique), {}
        meta, end = header.pop("__metadata__", {}), size
        for name, t in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            begin, dtype, shape = end, np.dtype(DTYPES[t["dtype"]]), t["shape"]
            end = begin + math.prod(shape) * dtype.itemsize
            if min(shape, default=0) < 0 or t["data_offsets"] != [begin - size, end - size] or end > len(blob):
                raise ValueError("a gap, an overlap, a wrong shape")
            tensors[name] = np.frombuffer(blob, dtype, math.prod(shape), begin).reshape(shape)
        if end != len(blob):
            raise ValueError("not only tensors")
        if meta.get("format") != form:
            fail(1, hint, "%s: its format is \"%s\", not \"%s\"" % (path, meta.get("format", ""), form))
        return tensors, meta
    except OSError as e:
        fail(1, hint, "%s: %s" % (path, e.strerror))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, OverflowError, struct.error):
        fail(1, "delete it, or write it again: " + hint, "%s: not a whole safetensors file" % path)

def read_truth(path):
    hint = "make data, or data/languages --truth FILE"
    t, meta = read_safetensors(path, "dynmoe-truth 1", hint)
    text, domain, p, names = t.get("text"), t.get("domain"), t.get("p"), str(meta.get("domains", "")).split(",")
    if any(x is None or x.ndim != 1 or len(x) < 2 or len(x) != len(text) for x in (text, domain, p)) \
            or domain.max() >= len(names) or not ((p > 0) & (p <= 1)).all():
        fail(1, hint, "%s: text, domain and p do not fit together" % path)
    floor = float(-np.log2(p[1:]).mean())
    return SimpleNamespace(path=path, text=text, domain=domain, names=[plain(n) for n in names], floor=floor)

def read_use(path, truth, run):
    # -> {layer: (domains, E) percent of the domain's tokens that use the expert}, {} if there is none; sets run.floor, in bits
    if truth is None or not os.path.exists(path):
        return {}
    hint = "train_gpt2_dynmoe --dump-routing FILE"
    t, meta = read_safetensors(path, "dynmoe-routing 1", hint)
    token, ids = t.get("token", np.zeros(0)), tuple(int(l) for l in str(meta.get("moe_layers", "")).split(",") if l.isdigit())
    if token.ndim != 1 or not 0 < len(token) <= len(truth.text) or (token != truth.text[:len(token)]).any():
        print("%s: %s is left out, it is not about the text of %s" % (run.name, path, truth.path))
        return {}
    run.floor, use = truth.floor, {}
    if ids != run.model_ids:
        print("%s: %s is left out, it has not the layers of the log" % (run.name, path))
        return {}
    of = [truth.domain[:len(token)] == d for d in range(len(truth.names))]
    for l in ids:
        used = t.get("h.%d.open" % l, token)
        if used.shape != (len(token), run.E) or used.max() > 1:
            fail(1, hint, "%s: h.%d.open should hold 0 or 1 for %d tokens and %d experts" % (path, l, len(token), run.E))
        use[l] = np.array([100 * used[mine].mean(0) if mine.any() else 0.0 * used[0] for mine in of])
    return use

# ----------------------------------------------------------------------------
# What goes into one axis

def thin(at, values):
    # at (S), values (S, ...) -> edges (n + 1), means (n, ...) over the steps between them, n <= MOST_POINTS
    first = np.linspace(0, len(at), min(len(at), MOST_POINTS), endpoint=False).astype(int)
    weight = np.diff(at, prepend=0).clip(1).reshape((-1,) + (1,) * (values.ndim - 1))  # a record stands for so many steps
    means = np.add.reduceat(values * weight, first) / np.add.reduceat(weight, first)
    return np.append(0, at[np.append(first[1:], len(at)) - 1]), means

def look(i):
    # of the i-th run, or of the i-th layer
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": ("-", "--", ":", "-.")[i // len(COLOURS) % 4]}

def legend(ax, handles, title=None):
    # to the right of the axis, where it covers nothing
    ax.legend(handles=handles, title=title, loc="upper left", bbox_to_anchor=(1.02, 1), borderaxespad=0, frameon=False)

def keys(looks):
    # {label: look} -> what a legend shows
    return [Line2D([], [], linewidth=2, label=label, **style) for label, style in looks.items()]

def layer_keys(run):
    return keys({"layer %d" % l: style for l, style in run.look.items()})

def floor_keys(runs):
    return [Line2D([], [], label="floor of the text: %.3f" % f, **DASHED) for f in {run.floor for run in runs} - {None}]

def mark_keys(runs):
    seen = {e[2] for run in runs for e in run.events}
    return [Line2D([], [], color="black", linestyle="", marker=m, label=text) for what, (m, text) in MARKS.items() if what in seen]

def k_keys(top):
    return [Patch(color=K_COLOURS[k], label=K_NAMES[k]) for k in range(top, -1, -1)]

def finish(ax, last, ylabel, begin=0):
    ax.set_xlim(begin, max(1, last))
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.set_xlabel("step")
    ax.set_ylabel(ylabel)

def draw_loss(ax, runs, late):
    # late: only what comes after the first fifth, where differences are small
    last = max(run.last for run in runs)
    begin, seen = 0.2 * last if late else 0, [run.floor for run in runs if run.floor]
    for i, run in enumerate(runs):
        ax.plot(run.at, run.loss, alpha=0.4, linewidth=0.9, color=look(i)["color"])
        if len(run.val_at):
            ax.plot(run.val_at, run.val_loss, markersize=4, linewidth=2, clip_on=late, **look(i),
                    marker="o" if len(run.val_at) <= 40 else "")
        seen += [*run.loss[run.at >= begin], *run.val_loss[run.val_at >= begin]]
    for floor in {run.floor for run in runs} - {None}:
        ax.axhline(floor, **DASHED)
    low, high = min(seen), max(seen)
    edge = max(0.05 * (high - low), 0.01 * high)
    ax.set_ylim(low - edge, high + edge)
    if high > 3 * low > 0:
        ax.set_yscale("log")
        ax.set_ylim(low / 1.1, high * 1.1)
        ax.set_yticks([t for t in (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24) if low / 1.1 < t < high * 1.1])
        ax.yaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: "%g" % y))
    finish(ax, last, "loss (bits per %s)" % " or ".join(sorted({run.about["unit"] for run in runs})), begin)
    ax.set_title("from step %d on" % begin if late else "training (faint) and validation")

def draw_lines(ax, run, values, ylabel):
    # values (S, L); where runs share the y axis, the largest range counts
    edges, means = thin(run.at, values)
    for i, l in enumerate(run.ids):
        ax.plot(edges[1:], means[:, i], **run.look[l])
    ax.set_ylim(0, max(ax.get_ylim()[1], 1.05 * means.max()))
    finish(ax, run.last, ylabel)

def draw_experts(ax, run):
    for i, l in enumerate(run.ids):
        shift = 0.3 * (2 * i / (len(run.ids) - 1) - 1) if len(run.ids) > 1 else 0  # so that no line hides another
        ax.step(np.append(0, run.at), np.append(run.experts[:1, i], run.experts[:, i]) + shift, where="pre", **run.look[l])
        for what, (mark, _) in MARKS.items():  # at the height of the record after the event, in a white disc
            at = np.array(sorted({e[0] for e in run.events if e[1:] == (l, what)}), int)
            height = run.experts[np.searchsorted(run.at, at, "right").clip(0, len(run.at) - 1), i] + shift
            ax.plot(at, height, "o", color="white", markeredgecolor=run.look[l]["color"], markersize=10, zorder=3)
            ax.plot(at, height, mark, color=run.look[l]["color"], markersize=6, markeredgewidth=1.5, zorder=3)
    ax.axhline(run.E, **DASHED)
    ax.set_ylim(0, max(ax.get_ylim()[1], run.E + 0.8))
    ax.yaxis.set_major_locator(MaxNLocator(8, integer=True))
    finish(ax, run.last, "active experts\n(lines shifted apart; dashed: pool)")

def draw_load(ax, run, l):
    edges, load = thin(run.at, run.load[:, run.ids.index(l)])
    mesh = ax.pcolormesh(edges, np.arange(run.E + 1) - 0.5, np.ma.masked_equal(load, 0).T, cmap=USE, vmin=0, vmax=100)
    ax.yaxis.set_major_locator(MaxNLocator(min(8, run.E), integer=True))
    ax.grid(False)
    finish(ax, run.last, "layer %d: expert" % l)
    return mesh

def draw_hist(ax, run, top):
    share, width = run.hist[run.at > 0.9 * run.at[-1]].mean(0), 0.8 / len(run.ids)
    for i, l in enumerate(run.ids):
        ax.bar(np.arange(top + 1) - 0.4 + (i + 0.5) * width, share[i, :top + 1], width, color=run.look[l]["color"])
    ax.set_xticks(range(top + 1), K_NAMES[:top + 1])
    ax.set_xlabel("k, last tenth of the steps")
    ax.set_ylabel("share of tokens (%)")

def draw_stack(ax, run, l, top):
    edges, share = thin(run.at, run.hist[:, run.ids.index(l), :top + 1])
    ax.stackplot(edges, np.vstack([share[:1], share]).T, colors=K_COLOURS, linewidth=0)
    ax.set_ylim(0, 100)
    ax.grid(False)
    finish(ax, run.last, "layer %d: tokens (%%)" % l)

def experts_used(run, l):
    # by any token, after training or before it
    return [*np.nonzero(run.use[l].sum(0) + (run.untrained[l].sum(0) if run.untrained else 0))[0]] or [0]

def draw_use(ax, use, l, names, experts):
    share, some = use[l][:, experts], range(0, len(experts), 1 + len(experts) // 13)
    mesh = ax.imshow(np.ma.masked_equal(share, 0), cmap=USE, vmin=0, vmax=100, aspect="auto", interpolation="nearest")
    ax.set_xticks(some, [experts[i] for i in some])
    ax.set_yticks(range(len(names)), names)
    ax.grid(False)
    ax.set_xlabel("layer %d: expert" % l)
    for d, e in np.argwhere(share) if len(experts) <= 12 else ():
        ax.text(e, d, "%.0f" % share[d, e], ha="center", va="center", color="white" if share[d, e] < 60 else "black")
    return mesh

# ----------------------------------------------------------------------------
# The pictures

def page(rows, columns, width, height, **more):
    return plt.subplots(rows, columns, figsize=(width, height), squeeze=False, constrained_layout=True, **more)

def columns_of(runs, rows, height, **more):
    # a column for each run
    fig, axes = page(rows, len(runs), 1.6 + (6.5 if len(runs) == 1 else 4.4 * len(runs)), height, **more)
    for ax, run in zip(axes[0], runs):
        ax.set_title(run.name)
    for ax in axes.flat:
        ax.tick_params(labelleft=True)  # where the y axis is shared too
    return fig, axes

def some_layers(run):
    # of all runs together; of many a few, from first to last
    ids = list(run.look)
    return [ids[i] for i in sorted({round(i) for i in np.linspace(0, len(ids) - 1, MOST_LAYERS)})] if ids else []

def k_top(runs):
    # the largest k that more than 0.5 percent of the tokens of a record had
    return max([1] + [int(np.nonzero(run.hist > 0.5)[2].max(initial=1)) for run in runs])

def grid(axes, columns, layers, draw):
    # columns: of (run, ...), a row for each layer; returns what was drawn last
    for j, column in enumerate(columns):
        for ax, l in zip(axes[:, j], layers):
            if l in column[0].ids:
                drawn = draw(ax, *column, l)
            else:
                ax.axis("off")
    return drawn

def loss_picture(runs):
    wide, changing = 1 + any((run.at > 0).sum() > 1 for run in runs), [i for i, run in enumerate(runs) if run.events]
    strip = [0.35 + 0.25 * len(changing)] if changing else []  # a row for each run that has events
    fig, axes = page(1 + len(strip), wide, 3 + 5 * wide, 4.8 + 1.3 * sum(strip), gridspec_kw={"height_ratios": [4] + strip})
    for j in range(wide):
        draw_loss(axes[0, j], runs, j == 1)
        if not strip:
            continue
        for row, i in enumerate(changing):
            for (what, (mark, _)), up in zip(MARKS.items(), (0.25, -0.25, 0)):
                at = sorted({e[0] for e in runs[i].events if e[2] == what})
                axes[1, j].plot(at, [up - row] * len(at), mark, color=look(i)["color"], markeredgewidth=1.5)
        axes[1, j].set(ylim=(0.5 - len(changing), 0.5), yticks=[])
        axes[0, j].set_xlabel("")
        finish(axes[1, j], axes[0, j].get_xlim()[1], "events", axes[0, j].get_xlim()[0])
    legend(axes[0, -1], keys({run.name: look(i) for i, run in enumerate(runs)}) + floor_keys(runs) + mark_keys(runs))
    return fig

def k_picture(runs):
    fig, axes = columns_of(runs, 2, 6.4, sharey="row")
    for ax, run in zip(axes.T, runs):
        draw_lines(ax[0], run, run.k, "experts per token (mean k)")
        draw_lines(ax[1], run, run.none, "tokens without expert (%)")
    legend(axes[0, -1], layer_keys(runs[0]))
    return fig

def experts_picture(runs):
    fig, axes = columns_of(runs, 1, 4.4, sharey="row")
    for ax, run in zip(axes[0], runs):
        draw_experts(ax, run)
    legend(axes[0, -1], layer_keys(runs[0]) + mark_keys(runs))
    return fig

def load_picture(runs):
    layers = some_layers(runs[0])
    fig, axes = columns_of(runs, len(layers), 0.6 + len(layers) * max(1.8, 0.07 * max(run.E for run in runs)))
    mesh = grid(axes, [(run,) for run in runs], layers, draw_load)
    fig.colorbar(mesh, ax=axes, label=USE_LABEL % "all", aspect=12 * len(layers))
    return fig

def hist_picture(runs):
    top, layers = k_top(runs), some_layers(runs[0])
    fig, axes = columns_of(runs, 1 + len(layers), 3.2 + 2.1 * len(layers), sharey="row",
                           gridspec_kw={"height_ratios": [1.3] + [1] * len(layers)})
    for ax, run in zip(axes[0], runs):
        draw_hist(ax, run, top)
    grid(axes[1:], [(run,) for run in runs], layers, lambda ax, run, l: draw_stack(ax, run, l, top))
    legend(axes[0, -1], layer_keys(runs[0]))
    legend(axes[1, -1], k_keys(top), "k")
    return fig

def specialisation_picture(runs, names):
    columns = [(run, use) for run in runs for use in (run.use, run.untrained) if use]
    layers = [l for l in some_layers(runs[0]) if any(l in run.ids for run in runs)]
    widths = [1.2 + 0.42 * max(4, max(min(24, len(experts_used(run, l))) for l in run.use)) for run, _ in columns]
    fig, axes = page(len(layers), len(columns), 1.2 + sum(widths), 0.6 + len(layers) * (0.8 + 0.3 * len(names)),
                     gridspec_kw={"width_ratios": widths})
    for ax, (run, use) in zip(axes[0], columns):
        ax.set_title(run.name if use is run.use else run.name + ", untrained")
    mesh = grid(axes, columns, layers, lambda ax, run, use, l: draw_use(ax, use, l, names, experts_used(run, l)))
    fig.colorbar(mesh, ax=axes, label=USE_LABEL % "a language's", aspect=12 * len(layers))
    return fig

def overview_picture(run, names):
    layers = [l for l in some_layers(run) if l in run.ids]
    rows, columns = (2 + len(layers), 3) if layers else (1, 2)
    fig, axes = page(rows, columns, 5.4 * columns, 0.6 + 3.4 * min(rows, 2) + 2.5 * len(layers))
    best = "best validation %.4f bits per %s" % (run.val_loss.min(), run.about["unit"]) if len(run.val_loss) else "not validated"
    top1 = [x[0]["top1"] for x in run.val.values() if "top1" in x[0]]
    best += ", top-1 %.1f%%" % (100 * max(top1)) if top1 else ""
    fig.suptitle("%s: %d steps, %s, %s parameters, commit %s, %s" % (run.name, run.last, best, *map(plain, (
        run.about["parameters"], run.about["commit"], run.about["machine"]))))
    draw_loss(axes[0, 0], [run], False)
    draw_loss(axes[0, 1], [run], True)
    legend(axes[0, -1], floor_keys([run]) + layer_keys(run) * bool(layers) + mark_keys([run]))
    if layers:
        top, one = k_top([run]), [(run,)]
        draw_experts(axes[0, 2], run)
        draw_lines(axes[1, 0], run, run.k, "experts per token (mean k)")
        draw_lines(axes[1, 1], run, run.none, "tokens without expert (%)")
        draw_hist(axes[1, 2], run, top)
        mesh = grid(axes[2:, :1], one, layers, draw_load)
        grid(axes[2:, 1:2], one, layers, lambda ax, run, l: draw_stack(ax, run, l, top))
        legend(axes[1, 2], k_keys(top), "k, in the areas below")
        if run.use:
            grid(axes[2:, 2:], one, layers, lambda ax, run, l: draw_use(ax, run.use, l, names, experts_used(run, l)))
        for i, row in enumerate(axes[2:] if not run.use else (), 2):  # nothing to show: the areas get the room
            row[2].remove()
            row[1].set_subplotspec(row[1].get_gridspec()[i, 1:])
        fig.colorbar(mesh, ax=axes[-1, :2 + bool(run.use)], location="bottom", fraction=0.08, aspect=60,
                     label=USE_LABEL % ("all, or a language's," if run.use else "all"))
    return fig

# ----------------------------------------------------------------------------

def write_table(path, runs, kind):
    # a row for each record; of layer N: h.N.experts, h.N.k, h.N.none, h.N.load.0 ..., h.N.hist.0 ...
    def cells(run):
        each = ["experts", "k", "none"] + ["load.%d" % e for e in range(run.E)] + ["hist.%d" % k for k in range(run.E + 1)]
        names = ["h.%d.%s" % (l, n) for l in run.model_ids for n in each]
        for step, (numbers, _, layers) in sorted(getattr(run, kind).items()):
            yield {"run": run.folder, "step": step, **{n: "%.10g" % x for n, x in numbers.items()},
                   **{n: "%.7g" % x for n, x in zip(names, layers.ravel())}}
    with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as f:
        columns = dict.fromkeys(name for run in runs for row in cells(run) for name in row)
        table = csv.DictWriter(f, columns or ["run", "step"], lineterminator="\n")
        table.writeheader()
        for run in runs:
            table.writerows(cells(run))

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("folders", metavar="OUT", nargs="+", help="folder of a run")
    parser.add_argument("--out", metavar="DIR", help="where the pictures go")
    parser.add_argument("--truth", metavar="FILE", help="what data/languages --truth wrote about the validation text")
    parser.add_argument("--csv", action="store_true", help="write the records as tables too")
    parser.error = lambda message: fail(2, "python3 dev/plot.py --help", message)
    args = parser.parse_intermixed_args()
    sys.stdout.reconfigure(errors="backslashreplace")  # a folder may have any name
    folders = [os.path.normpath(f) for f in args.folders]
    short = [os.path.basename(os.path.abspath(f)) for f in folders]
    if len({os.path.realpath(f) for f in folders}) < len(folders):
        fail(2, "name each run once", "a folder is named twice")
    runs = [read_run(f, plain(s if short.count(s) == 1 else f)) for f, s in zip(folders, short)]
    usual = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "data", "languages_val.truth")
    truth = read_truth(args.truth or usual) if args.truth or os.path.exists(usual) else None
    ids = sorted({l for run in runs for l in run.ids})
    for run in runs:
        run.look = {l: look(i) for i, l in enumerate(ids)}
        run.use = read_use(os.path.join(run.folder, "routing.safetensors"), truth, run)
        run.untrained = read_use(os.path.join(run.folder, "untrained.safetensors"), truth, run) if run.use else {}
        if not run.ids:
            print("%s: only loss and overview, its log has no step of a DynMoE layer" % run.name)
        elif not run.use:
            print("%s: no specialisation, that needs routing.safetensors and the truth about its text" % run.name)
    if len(ids) > MOST_LAYERS:
        print("%d of %d layers are shown where each takes a row" % (MOST_LAYERS, len(ids)))

    moe, known, names = [run for run in runs if run.ids], [run for run in runs if run.use], truth.names if truth else []
    pictures = {"loss.png": (loss_picture, runs), "k.png": (k_picture, moe), "experts.png": (experts_picture, moe),
                "load.png": (load_picture, moe), "hist.png": (hist_picture, moe),
                "specialisation.png": (specialisation_picture, known, names)}
    for i, run in enumerate(runs, 1):
        pictures["overview-%d.png" % i if len(runs) > 1 else "overview.png"] = (overview_picture, run, names)
    folder = args.out or os.path.join(folders[0], "plots" if len(runs) == 1 else "compare")
    matplotlib.rcdefaults()  # the same pictures whatever someone's matplotlibrc says
    plt.rcParams.update({"figure.dpi": 100, "savefig.dpi": 100, "axes.titlesize": 11, "axes.grid": True, "grid.color": "#e4e4e4",
                         "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False})
    done = []
    try:
        os.makedirs(folder, exist_ok=True)
        for name, (draw, of, *more) in pictures.items():
            if of:
                fig = draw(of, *more)
                fig.savefig(os.path.join(folder, name), metadata={"Software": None})  # no version, no date: the same bytes
                plt.close(fig)
                done.append(name)
        older = [n for n in sorted(os.listdir(folder)) if n not in done and (n in pictures or n[:8] + n[-4:] == "overview.png")]
        if older:
            print("%s: of an earlier call, not of these runs: %s" % (folder, " ".join(older)))
        for kind in ("step", "val") if args.csv else ():
            write_table(os.path.join(folder, kind + ".csv"), runs, kind)
            done.append(kind + ".csv")
    except OSError as e:
        fail(1, "is there room, and permission? --out DIR writes elsewhere", "%s: %s" % (e.filename or folder, e.strerror))
    print("%s: %s" % (folder, " ".join(done)))

if __name__ == "__main__":  # dev/pictures.py reads runs with it too
    main()
