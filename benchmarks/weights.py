"""Time the analytic weight: the closed form and projected gradient at 250×500, and the closed form at other sizes.

    pip install . && python benchmarks/weights.py

The times do not include the report on the weight. Peak memory is measured in a process of its own.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
from common import ratio, save

from cuista import normalize_columns, random_matrix, solve_exact, solve_pgd

PEAK = """
import numpy as np
from cuista import solve_exact

def peak():  # MiB; unlike getrusage's, not inherited from the parent process
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024

A = np.load({path!r})
solve_exact(np.eye(2))
before = peak()
solve_exact(A)
print(peak(), before)
"""

A = normalize_columns(random_matrix(250, 500))
own: dict[str, list[float]] = {"exact": [], "pgd": []}
for _ in range(9):
    exact, pgd = solve_exact(A).report, solve_pgd(A).report
    own["exact"].append(exact.seconds)
    own["pgd"].append(pgd.seconds)
assert exact.objective <= pgd.objective

growth = []
for M, N in ((125, 250), (250, 500), (500, 1000), (1000, 2000), (2000, 4000)):
    A = normalize_columns(random_matrix(M, N))
    times = []
    totals = []
    for _ in range(7):
        start = time.perf_counter()
        times.append(solve_exact(A).report.seconds)
        totals.append(time.perf_counter() - start)
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        np.save(file.name, A)
        code = PEAK.format(path=file.name)
        peak = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    after, before = map(float, peak.stdout.split())
    growth.append(
        {
            "M": M,
            "N": N,
            "solve_relative_to_250x500": statistics.median(times),
            "report_over_solve": statistics.median(totals) / statistics.median(times) - 1,
            "peak_MiB_beyond_the_matrix": after - before,
            "one_MxN_MiB": M * N * 8 / 2**20,
        }
    )
unit = growth[1]["solve_relative_to_250x500"]
for row in growth:
    row["solve_relative_to_250x500"] /= unit
save(
    "weights",
    {
        "work": "analytic weight of a 250x500 Gaussian matrix, float64",
        "times_faster": ratio(own["pgd"], own["exact"]),
        "pgd_ended": pgd.note,
        "objective_exact": exact.objective,
        "objective_pgd": pgd.objective,
        "growth": growth,
    },
)
