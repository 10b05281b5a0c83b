"""
The table and the picture of dev/compare.sh.

    python3 dev/compare_table.py OUT ROWS [--into docs/dynmoe.md]

Prints Markdown and then a line for every run; with --into the Markdown replaces what stands between the compare markers of that
file. Writes OUT/compare.png if matplotlib is there.

OUT holds one folder per run, NAME-SEED, and OUT/speed/NAME-ROUND with the speed at trained routing. ROWS is text, one row a
line: a name, then flags. Validation loss in nats per token, at three equal budgets:
    steps   the end of the run
    time    the seconds that the fastest row needs for all its steps; others stop where their curve is then
    FLOP    the same with the FLOP of the cheapest row; forward and backward, experts by the k that was counted in training
The learning-rate schedule is that of the whole run: a row that stops early stops at a high learning rate, which is unfair to
the slower rows. The mean over seeds, in brackets the lowest and the highest.
"""
import json, os, sys
from markers import write_between


def read_log(path):
    # -> records of a finished run, or None
    try:
        with open(path) as f:
            records = [json.loads(line) for line in f]
    except (OSError, ValueError):
        return None
    return records if any(r["type"] == "end" for r in records) else None


def mean(values):
    return sum(values) / len(values)


def median(values):
    v = sorted(values)
    return (v[(len(v) - 1) // 2] + v[len(v) // 2]) / 2


def curve_of(records):
    # -> validation as [(step, loss, FLOP so far)], the mean k of the last tenth
    run = [r for r in records if r["type"] == "run"][0]
    tokens = int(run["flags"]["batch"]) * int(run["flags"]["context"]) * int(run["flags"]["accum"])
    flop0, flop_k = run["flop"]
    curve, flop, at = [], 0.0, 0
    for r in records:
        if r["type"] == "step":     # k: the mean over the steps since the last record
            flop += 3.0 * (flop0 + flop_k * r["k"]) * tokens * (r["step"] - at)
            at = r["step"]
        elif r["type"] == "val" and r["step"] == at:
            curve.append((r["step"], r["loss"], flop))
    steps = [r for r in records if r["type"] == "step"]
    late = [r["k"] for r in steps if r["step"] > 0.9 * steps[-1]["step"]]
    return curve, mean(late), run


def loss_at(curve, budget, axis):
    # the loss where axis (0: step, 2: FLOP) reaches the budget, on straight lines between validations
    for (a, b) in zip(curve, curve[1:]):
        if b[axis] >= budget:
            return a[1] + (b[1] - a[1]) * max(0.0, budget - a[axis]) / (b[axis] - a[axis])
    return curve[-1][1]


def run_line(name, records):
    # one run for docs/results: loss, and per DynMoE layer k, experts at the end, events
    layers = [r for r in records if r["type"] == "step"][-1]["layers"]
    signs = {"add": "+", "remove": "-", "full": "="}
    events = ["%d:%s%d@%d" % (r["layer"], signs[r["what"]], r["expert"], r["step"]) for r in records if r["type"] == "event"]
    return "%-10s loss %.6f  k %s  experts %s  events %s" % (
        name, [r for r in records if r["type"] == "val"][-1]["loss"], " ".join("%.2f" % l["k"] for l in layers),
        " ".join("%d" % l["experts"] for l in layers), " ".join(events) or "-")


def spread(values):
    return "%.4f (%.4f to %.4f)" % (mean(values), min(values), max(values))


def main():
    if len(sys.argv) not in (3, 5):
        sys.exit(__doc__)
    out, rows, every, lines = sys.argv[1], {}, [], []
    for line in sys.argv[2].strip().splitlines():
        name, _, flags = line.partition(" ")
        folders = sorted(d for d in os.listdir(out) if d.rsplit("-", 1)[0] == name and d.rsplit("-", 1)[1].isdigit())
        runs = [(d, read_log(os.path.join(out, d, "log.jsonl"))) for d in folders]
        every += [run_line(d, r) for d, r in runs if r]
        logs = [r for _, r in runs if r]
        if logs:
            rows[name] = {"flags": flags, "curves": [curve_of(r) for r in logs], "ms": []}
    for d in sorted(os.listdir(os.path.join(out, "speed"))) if os.path.isdir(os.path.join(out, "speed")) else []:
        records = read_log(os.path.join(out, "speed", d, "log.jsonl"))
        if records and d.rsplit("-", 1)[0] in rows:
            rows[d.rsplit("-", 1)[0]]["ms"].append([r["ms"] for r in records if r["type"] == "step"][-1])
    if not rows:
        sys.exit("error: %s: no finished run\n---> HINT: dev/compare.sh makes them" % out)
    timed = all(r["ms"] for r in rows.values())
    for r in rows.values():
        r["steps"] = r["curves"][0][0][-1][0]
        r["flop"] = mean([c[-1][2] for c, _, _ in r["curves"]])
        r["seconds"] = 1e-3 * median(r["ms"]) * r["steps"] if timed else 0.0
    least_flop, least_time = min(r["flop"] for r in rows.values()), min(r["seconds"] for r in rows.values())

    lines.append("| router | equal steps | equal time | equal FLOP | mean k | parameters used, million | tok/s | seeds |")
    lines.append("|---|---|---|---|---|---|---|---|")
    for name, r in rows.items():
        k, run = mean([k for _, k, _ in r["curves"]]), r["curves"][0][2]
        tokens = int(run["flags"]["batch"]) * int(run["flags"]["context"])
        used = 1e-6 * (run["used"][0] + run["used"][1] * k)
        budget = least_time / (1e-3 * median(r["ms"])) if timed else 0
        lines.append("| %s `%s` | %s | %s | %s | %.2f | %.3f | %s | %d |" % (
            name, r["flags"], spread([c[-1][1] for c, _, _ in r["curves"]]),
            spread([loss_at(c, budget, 0) for c, _, _ in r["curves"]]) if timed else "not timed",
            spread([loss_at(c, least_flop, 2) for c, _, _ in r["curves"]]), k, used,
            "%.0f" % (1000 * tokens / median(r["ms"])) if r["ms"] else "not timed", len(r["curves"])))
    run = next(iter(rows.values()))["curves"][0][2]
    lines.append("\n%d runs of %d steps, %s, commit %s. Parameters used by a token, of %.3f million at most. tok/s: median of %d"
                 " rounds, all cores." % (sum(len(r["curves"]) for r in rows.values()), next(iter(rows.values()))["steps"],
                                          run["machine"], run["commit"],
                                          1e-6 * max(r["curves"][0][2]["parameters"] for r in rows.values()),
                                          max(len(r["ms"]) for r in rows.values())))
    fixed = [r for n, r in rows.items() if n.startswith("top-") and n[4:].isdigit()]
    if fixed and "top-any" in rows:
        claim = {}
        for budget in ["steps", "FLOP"] + ["time"] * timed:
            def at(r):
                if budget == "steps":
                    return [c[-1][1] for c, _, _ in r["curves"]]
                if budget == "FLOP":
                    return [loss_at(c, least_flop, 2) for c, _, _ in r["curves"]]
                return [loss_at(c, least_time / (1e-3 * median(r["ms"])), 0) for c, _, _ in r["curves"]]
            ours, theirs = at(rows["top-any"]), [mean(seed) for seed in zip(*[at(r) for r in fixed])]
            lower = sum(a < b for a, b in zip(ours, theirs))
            claim[budget] = "%.4f against %.4f, lower with %d of %d seeds" % (mean(ours), mean(theirs), lower, len(theirs))
        lines.append("\nThe paper's claim, top-any at least as good as the mean over the fixed top-k settings, in this run:")
        for budget, words in claim.items():
            lines.append("- at equal %s: %s" % (budget, words))
    table = "\n".join(lines) + "\n"
    print(table + "\n" + "\n".join(every))
    if len(sys.argv) == 5:
        write_between(sys.argv[4], "compare", table)
    try:
        import matplotlib
    except ImportError:
        print("\nno picture: matplotlib is missing (dev/setup.sh --oracle)")
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    colours = ["#000000", "#56b4e9", "#0072b2", "#009e73", "#e69f00", "#d55e00"]    # seen apart by colour-blind eyes too
    axes = [("steps", lambda r, p: p[0]), ("seconds, all cores", lambda r, p: 1e-3 * median(r["ms"]) * p[0]),
            ("TFLOP, forward and backward", lambda r, p: 1e-12 * p[2])]
    figure, panels = plt.subplots(1, 3, figsize=(15, 4.6), sharey=True)
    for panel, (label, x) in zip(panels, axes):
        for (name, r), colour in zip(rows.items(), colours):
            if label.startswith("seconds") and not timed:
                continue
            for i, (curve, _, _) in enumerate(r["curves"]):
                points = [p for p in curve if p[0] >= r["steps"] / 10]
                panel.plot([x(r, p) for p in points], [p[1] for p in points], color=colour, alpha=0.75, lw=1.3,
                           label=name if i == 0 else None)
        panel.set_xlabel(label)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("validation loss, nats per byte")
    panels[0].legend(frameon=False)
    figure.suptitle("The same model and data, six routers, three seeds each")
    figure.tight_layout()
    figure.savefig(os.path.join(out, "compare.png"), dpi=100, metadata={"Software": None})
    print("\npicture: %s" % os.path.join(out, "compare.png"))


main()
