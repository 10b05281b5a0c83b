"""
The table of dev/ablation.sh, in Markdown.

    python3 dev/ablation_table.py OUT ROWS [--into docs/dynmoe.md]

OUT holds one folder per run, NAME-DATA-SEED, each with a log.jsonl (docs/formats.md); ROWS is text, one row a line: a name,
then flags. A run counts when its log has an "end" record. Loss: the last validation, nats per byte; k and the share of
tokens with k = 0: training steps of the last tenth of the run, because validation gives such tokens an expert.
With --into the table replaces what stands between the ablation markers of that file.
"""
import json, os, sys
from markers import write_between


def read_run(path):
    # -> dict of one finished run, or None
    try:
        with open(path) as f:
            records = [json.loads(line) for line in f]
    except (OSError, ValueError):
        return None
    of = lambda kind: [r for r in records if r["type"] == kind]
    if not of("end"):
        return None
    steps = of("step")
    late = [r["layers"] for r in steps if r["step"] > 0.9 * steps[-1]["step"]]
    layers = range(len(late[0]))
    return {"run": of("run")[0], "steps": steps[-1]["step"], "loss": of("val")[-1]["loss"],
            "k": [sum(r[l]["k"] for r in late) / len(late) for l in layers],
            "none": [sum(r[l]["none"] for r in late) / len(late) for l in layers],
            "experts": [late[-1][l]["experts"] for l in layers],
            "changes": len([r for r in of("event") if r["what"] != "full"])}


def per_layer(runs, key, text):
    # mean over runs, layer by layer: "1.06, 3.07"
    return ", ".join(text % (sum(r[key][l] for r in runs) / len(runs)) for l in range(len(runs[0][key])))


def main():
    if len(sys.argv) not in (3, 5):
        sys.exit(__doc__)
    out, lines = sys.argv[1], []
    everything = []
    for data, title in (("languages", "six languages"), ("text", "real text")):
        lines += ["", "| " + title + " | loss, mean (lowest to highest) | k per layer | k = 0, per layer | experts at the end"
                  " | events | seeds |",
                  "|---|---|---|---|---|---|---|"]
        for row in sys.argv[2].strip().splitlines():
            name, _, flags = row.partition(" ")
            folders = [d for d in sorted(os.listdir(out)) if d.rsplit("-", 2)[0:2] == [name, data]]
            runs = [r for r in (read_run(os.path.join(out, d, "log.jsonl")) for d in folders) if r]
            everything += runs
            if not runs:
                lines.append("| %s | not done | | | | | 0 |" % name)
                continue
            losses = [r["loss"] for r in runs]
            for r in runs:
                r["percent"] = [100 * x for x in r["none"]]
            lines.append("| %s%s | %.4f (%.4f to %.4f) | %s | %s | %s | %.1f | %d |" % (
                name, " `%s`" % flags if flags else "", sum(losses) / len(losses), min(losses), max(losses),
                per_layer(runs, "k", "%.2f"), per_layer(runs, "percent", "%.1f%%"), per_layer(runs, "experts", "%.1f"),
                sum(r["changes"] for r in runs) / len(runs), len(runs)))
    if everything:
        run = everything[0]["run"]
        lines += ["", "%d runs of %d steps, %s, %s thread(s) each, %s." % (len(everything), everything[0]["steps"], run["machine"],
                                                                          run["threads"], run["blas"])]
    table = "\n".join(lines).strip() + "\n"
    print(table)
    if len(sys.argv) == 5:
        write_between(sys.argv[4], "ablation", table)


main()
