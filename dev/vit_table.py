#!/usr/bin/env python3
"""
The table of dev/vit_compare.sh: accuracy after equal epochs and after equal seconds of training, for each kind of run.

    python3 dev/vit_table.py OUT            OUT/RUN-SEED/log.jsonl

Seconds are those of training steps alone. Equal seconds: the last validation of each run that was over by the time at which the
fastest run had ended; runs validate at their own steps, so that is a little to the disadvantage of the slower ones.
"""
import json, os, sys

def fail(message, hint):
    print("error: %s\n---> HINT: %s" % (message, hint), file=sys.stderr)
    sys.exit(1)

def read(path):
    """-> [(seconds of training, record)] of one log; of a step that was done twice the last record counts."""
    steps, vals, rest = {}, {}, {}
    with open(path) as f:
        for n, line in enumerate(f, 1):
            try:
                r = json.loads(line)
                kind = r["type"]
            except (ValueError, KeyError, TypeError):
                fail("%s:%d: not a record" % (path, n), "is it a log of train_vit_dynmoe?")
            if kind == "step":
                steps[r["step"]] = r
            elif kind == "val":
                vals[r["step"]] = r
            elif kind in ("run", "end"):
                rest[kind] = r
    seconds, last, at = 0.0, 0, {0: 0.0}
    for step in sorted(steps):
        seconds += 1e-3 * steps[step]["ms"] * (step - last)
        last = step
        at[step] = seconds
    when = lambda step: at[max(s for s in at if s <= step)]
    return dict(steps=steps, vals=[(when(s), vals[s]) for s in sorted(vals)], run=rest.get("run"), end=rest.get("end"),
                seconds=seconds)

def main():
    if len(sys.argv) != 2:
        print("usage: vit_table.py OUT", file=sys.stderr)
        sys.exit(2)
    out, logs = sys.argv[1], {}
    for name in sorted(os.listdir(out)) if os.path.isdir(out) else []:
        path = os.path.join(out, name, "log.jsonl")
        if "-" in name and os.path.isfile(path):
            log = read(path)
            if log["vals"] and log["steps"]:
                logs[name] = log
    if not logs:
        fail("%s: no runs" % out, "dev/vit_compare.sh makes them")
    ended = [log for log in logs.values() if log["end"]] or list(logs.values())
    short = min(log["seconds"] for log in ended)
    for made_by in sorted({"%s, commit %s, %s; %s" % (r.get("machine", "?"), r.get("commit", "?"), r.get("dtype", "?"),
                                                      r.get("flags", {}).get("data", "?"))
                           for r in (log["run"] or {} for log in logs.values())}):
        print(made_by)
    print("run        | runs  steps | top-1 at the end         | top-1 after %6.0f s      | seconds  pictures/s | mean k | experts"
          % short)
    order = ["dense", "top-1", "top-2", "top-any"]
    kinds = sorted({n.rsplit("-", 1)[0] for n in logs}, key=lambda k: (order.index(k) if k in order else 9, k))
    for kind in kinds:
        mine = [log for n, log in logs.items() if n.rsplit("-", 1)[0] == kind]
        end = [100.0 * log["vals"][-1][1]["top1"] for log in mine]
        equal = [100.0 * [v for t, v in log["vals"] if t <= short * 1.0001][-1]["top1"] for log in mine]
        spread = lambda xs: "%6.2f (%6.2f to %6.2f)" % (sum(xs) / len(xs), min(xs), max(xs))
        last = [log["steps"][max(log["steps"])] for log in mine]
        experts = ["/".join(str(l["experts"]) for l in r["layers"]) or "-" for r in last]
        rates = [sum(r["img_s"] for r in log["steps"].values()) / len(log["steps"]) for log in mine]
        print("%-10s | %4d %6d | %s | %s | %7.1f %11.0f | %6.2f | %s" % (
            kind, len(mine), max(max(log["steps"]) for log in mine), spread(end), spread(equal),
            sum(log["seconds"] for log in mine) / len(mine), sum(rates) / len(rates),
            sum(r["k"] for r in last) / len(last), " ".join(experts)))
        if any(log["end"] is None for log in mine):
            print("           | not all of these runs have ended")

if __name__ == "__main__":
    main()
