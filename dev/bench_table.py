"""
The tables of dev/bench.

    python3 dev/bench_table.py FILE [--into README.md]

FILE holds what `dev/bench --json` wrote, a line of JSON for each case; other lines are skipped. Prints Markdown; with --into it
also replaces what stands between the bench markers of that page. The first table: the time of a step and where it goes. The
second: is time in proportion to the work? It sets two cases beside each other that differ only in k, or only in the batch.
"""
import json
import sys
from markers import die, write_between

PARTS = ["attention", "dense", "experts", "routing", "head", "elementwise", "optimizer"]


def read(path):
    cases = []
    try:
        with open(path) as f:
            for line in f:
                if line.startswith("{"):
                    r = json.loads(line)
                    if not r["ms"] > 0 or not r["tokens"] > 0 or not r["date"]:
                        raise ValueError("ms %r, tokens %r" % (r["ms"], r["tokens"]))
                    cases.append(r)
    except OSError as e:
        die("%s: %s" % (path, e.strerror), "dev/bench --json > %s" % path)
    except (ValueError, KeyError, TypeError) as e:
        die("%s: not what dev/bench --json writes (%s)" % (path, e), "dev/bench --json > %s" % path)
    if not cases:
        die("%s: nothing was measured" % path, "dev/bench --json > %s" % path)
    return cases


def cell(r, part):
    # milliseconds, and how many of 100 of them the products need alone
    ms, sgemm = r[part + "_ms"], r[part + "_sgemm_ms"]
    share = " (%.0f)" % (100 * sgemm / ms) if sgemm > 0 and part != "routing" else ""
    return "%.*f%s" % (2 if ms < 10 else 1 if ms < 100 else 0, ms, share)


def row(r):
    rate = ["-", "-"]
    if r["sgemm_ms"] > 0:   # with a BLAS that is recorded
        rate = ["%.0f" % (r["gflop"] / r["ms"] * 1e3), "%.0f %%" % (100 * r["sgemm_ms"] / r["ms"])]
    cells = [r["config"], r["router"], "%.2f" % r["k"], str(r["tokens"]), "%.4g" % r["ms"], "%.0f" % (1e3 * r["tokens"] / r["ms"])]
    return "| " + " | ".join(cells + rate + [cell(r, part) for part in PARTS]) + " |"


def pairs(cases):
    # cases that differ only in k (1 and 2), or only in the batch (twice)
    for a in cases:
        for b in cases:
            if a["config"] != b["config"] or a["router"] != b["router"] or a["router"] == "dense":
                continue
            if a["batch"] == b["batch"] and round(a["k"], 1) == 1.0 and round(b["k"], 1) == 2.0:
                yield "k = 2 over k = 1, %s, %d tokens" % (a["router"], a["tokens"]), a, b
            if 2 * a["batch"] == b["batch"] and round(a["k"], 1) == round(b["k"], 1):
                yield "twice the tokens, %s, k = %.1f" % (a["router"], a["k"]), a, b


def main():
    if len(sys.argv) not in (2, 4) or (len(sys.argv) == 4 and sys.argv[2] != "--into"):
        sys.stderr.write("bench_table.py: FILE, or FILE --into FILE\n---> HINT: python3 dev/bench_table.py out.txt\n")
        sys.exit(2)
    cases = read(sys.argv[1])
    lines = ["| model | router | k | tokens | ms a step | tokens/s | GFLOP/s | of sgemm | " + " | ".join(PARTS) + " |",
             "|" + "---|" * (8 + len(PARTS))]
    lines += [row(r) for r in cases]
    both = list(pairs(cases))
    if both:
        lines += ["", "| model | cases | FLOP | time | time over FLOP |", "|---|---|---|---|---|"]
        for what, a, b in both:
            flop, time = b["gflop"] / a["gflop"] if a["gflop"] else 0.0, b["ms"] / a["ms"]
            lines.append("| %s | %s | %s | x %.2f | %s |" % (a["config"], what, "x %.2f" % flop if flop else "-", time,
                                                         "%.2f" % (time / flop) if flop else "-"))
    r = cases[0]
    lines += ["", "%s, %s threads, %s, commit %s. GFLOP are those of the matrix products. Of sgemm: the"
              " time that the same products take alone, made again on the same memory, as a share of the step. The parts of it"
              " are in milliseconds, in brackets that share in percent." % (
                  r["cpu"], r["threads"], r["date"], r["commit"])]
    text = "\n".join(lines) + "\n"
    if len(sys.argv) == 4:
        write_between(sys.argv[3], "bench", text)
    print(text, end="")


main()
