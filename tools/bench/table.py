"""table.py FILE: medians over the rounds in FILE (drive.py's JSON lines), and their ratios to the C limit."""
import collections
import json
import statistics
import sys

rows = collections.defaultdict(list)
for line in open(sys.argv[1]):
    r = json.loads(line)
    rows[r["n"], "cmgr" if r["peer"] == "custom" else r["peer"]].append(r)


def median(key, field):
    values = [r[field] for r in rows.get(key, []) if field in r]
    return statistics.median(values) if values else None


columns = [  # title, field, digits, whether the C limit has it
    ("boot s", "boot_s", 3, True),
    ("boot CPU s", "boot_cpu_s", 3, True),
    ("restart ms", "restart_ms_median", 2, False),
    ("stop s", "stop_components_s", 3, False),
    ("stop all s", "stop_all_s", 3, False),
    ("PSS KiB", "sup_pss_kib", 0, False),
    ("KiB/comp", "pss_kib_per_comp", 2, False),
    ("threads", "sup_threads", 0, False),
    ("idle ms/s", "idle_cpu_ms_per_s", 2, False),
]
for n in sorted({n for n, _ in rows}):
    rounds = max(len(v) for (m, _), v in rows.items() if m == n)
    print(f"\nN = {n}, medians of {rounds} interleaved rounds; x: times the C limit\n")
    titles = ["peer"]
    for title, _, _, limit in columns:
        titles += [title, "x"] if limit else [title]
    table = [titles]
    for m, peer in rows:
        if m != n:
            continue
        cells = [peer]
        for _, field, digits, limit in columns:
            v = median((n, peer), field)
            cells.append("-" if v is None else f"{v:.{digits}f}")
            if limit:
                base = median((n, "c-limit"), field)
                cells.append(f"{v / base:.1f}" if v is not None and base else "-")
        table.append(cells)
    widths = [max(len(r[i]) for r in table) for i in range(len(titles))]
    for r in table:
        print("  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(r, widths))).rstrip())

counts = sorted({n for n, p in rows if p == "cmgr"})
if len(counts) > 1:
    a, b = counts[0], counts[-1]
    pss = [median((n, "cmgr"), "sup_pss_kib") for n in (a, b)]
    if None not in pss:
        print(f"\ncmgr: {(pss[1] - pss[0]) / (b - a):.2f} KiB of manager memory for each component from N={a} to N={b}")
