"""
The tables of dev/bench_peer.sh.

    python3 dev/bench_peer_table.py FILE [--into README.md]

FILE is what dev/bench_peer.sh wrote: text, and a line of JSON for each process. Prints Markdown, a table for each configuration;
with --into it also replaces what stands between the bench-peer markers of that file. ms: the median over rounds of a process's
median step. Times ours: in each round, ms of this program over ms of ours; the median of that over rounds, in brackets the lowest
and the highest. Memory: the most that any round took. Of the newest PyTorch the faster of the two ways is shown.
"""
import json
import sys
from markers import die, write_between

NAMES = [("ours", "train_gpt2_dynmoe.c"), ("skeleton", "the same products alone, the ceiling (dev/skeleton.c)"),
         ("tuned", "PyTorch %s, tuned"), ("default", "PyTorch %s, as it comes"),
         ("onehot", "PyTorch %s, tuned, the authors' one-hot dispatch"), ("newest", "PyTorch %s, SDPA"),
         ("newest-compile", "PyTorch %s, SDPA, torch.compile")]


def median(values):
    v = sorted(values)
    return (v[(len(v) - 1) // 2] + v[len(v) // 2]) / 2


def read(path):
    # -> the line about the machine, {configuration: {row: {round: line}}}, in the order of the file
    machine, runs = None, {}
    try:
        with open(path) as f:
            for line in f:
                if line.startswith("{"):
                    r = json.loads(line)
                    if r["row"] == "machine":
                        machine = r
                    else:
                        if not r["run"]["ms"] > 0:
                            raise ValueError("ms %r" % r["run"]["ms"])
                        runs.setdefault(r["config"], {}).setdefault(r["row"], {})[r["round"]] = r
    except OSError as e:
        die("%s: %s" % (path, e.strerror), "dev/bench_peer.sh writes such a file")
    except (ValueError, KeyError, TypeError) as e:
        die("%s: not a file of dev/bench_peer.sh (%s)" % (path, e), "dev/bench_peer.sh writes such a file")
    if not machine or not runs:
        die("%s: nothing was measured" % path, "dev/bench_peer.sh writes such a file")
    return machine, runs


def ms_of(rounds):
    return median([r["run"]["ms"] for r in rounds.values()])


def megabytes(rounds):
    # from outside of the process where that was measured, else what it said of itself
    sizes = [r["max_kb"] / 1e3 if r.get("max_kb") else r["run"].get("peak_mb") for r in rounds.values()]
    return "%.0f" % max(sizes) if all(sizes) else "?"


def times(rounds, ours):
    both = [rounds[n]["run"]["ms"] / ours[n]["run"]["ms"] for n in rounds if n in ours]
    return "%.2f (%.2f to %.2f)" % (median(both), min(both), max(both)) if both else "-"


def table(config, rows):
    any_run = next(iter(rows["tuned" if "tuned" in rows else next(iter(rows))].values()))["run"]
    if "newest" in rows and "newest-compile" in rows:   # the faster one
        rows = dict(rows)
        del rows["newest" if ms_of(rows["newest-compile"]) < ms_of(rows["newest"]) else "newest-compile"]
    ceiling = next(iter(rows["skeleton"].values()))["run"].get("gflop") if "skeleton" in rows else None
    head = "%s: %s%s" % (config, "%d sequences of %d tokens, C %d, %d layers" % tuple(any_run[n] for n in "BTCL")
                         if all(n in any_run for n in "BTCL") else "as named", ", %.3g GFLOP a step" % ceiling if ceiling else "")
    lines = [head, "", "| program | ms a step | times ours | mean k | peak memory, MB |", "|---|---|---|---|---|"]
    for row, name in NAMES:
        if row in rows:
            run = next(iter(rows[row].values()))["run"]
            lines.append("| %s | %.4g | %s | %s | %s |" % (
                name % run.get("torch", "?").split("+")[0] if "%s" in name else name, ms_of(rows[row]),
                "1" if row == "ours" else times(rows[row], rows.get("ours", {})), "%.2f" % run["k"] if "k" in run else "?",
                megabytes(rows[row])))
        if row == "ours" and row in rows and all(r["run"].get("sgemm_ms") for r in rows[row].values()):
            alone = median([r["run"]["sgemm_ms"] for r in rows[row].values()])
            lines.append("| our products alone, made again | %.4g | %.2f | | |" % (
                alone, median([r["run"]["sgemm_ms"] / r["run"]["ms"] for r in rows[row].values()])))
    return lines + [""]


def main():
    if len(sys.argv) not in (2, 4) or (len(sys.argv) == 4 and sys.argv[2] != "--into"):
        sys.stderr.write("bench_peer_table.py: FILE, or FILE --into FILE\n---> HINT: dev/bench_peer.sh --help\n")
        sys.exit(2)
    machine, runs = read(sys.argv[1])
    lines = []
    for config, rows in runs.items():
        lines += table(config, rows)
    most = max(len(r) for rows in runs.values() for r in rows.values())
    blas = sorted({r["run"]["blas"] for rows in runs.values() for v in rows.values() for r in v.values() if r["run"].get("blas")})
    lines.append("%s, %s, commit %s. Median of %d round%s, one process of each program a round, in brackets the lowest and the"
                 " highest round; %d threads, fp32.%s" % (
                     machine["machine"], machine["date"], machine["commit"], most, "s" * (most > 1), machine["threads"],
                     " BLAS of PyTorch: %s." % ", ".join(blas) if blas else ""))
    text = "\n".join(lines) + "\n"
    if len(sys.argv) == 4:
        write_between(sys.argv[3], "bench-peer", text)
    print(text, end="")


main()
