"""Measure the NMSE that the fast recipe reaches at several noise levels on fresh 250×500 matrices.

    pip install . && python benchmarks/recipes.py [SEED …]

Networks have 16 layers, pnz is 0.1, and all options have their defaults. With noise, the weight's ridge is found first
(`choose_ridge`). The NMSE is measured on twelve sets of 10,000 fresh signals. Times are relative to the training time
without noise.
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

import numpy as np
from common import save

import cuista

runs: list[dict[str, Any]] = []
for seed in map(int, sys.argv[1:] or ["201", "202"]):
    A = cuista.normalize_columns(cuista.random_matrix(250, 500, seed=seed))
    unit = None
    for snr in (float("inf"), 40.0, 30.0, 20.0):
        problem = cuista.Problem(A, snr_db=snr, seed=seed)
        start = time.perf_counter()
        weight = cuista.solve_exact(A) if snr == np.inf else cuista.choose_ridge(problem)
        searched = time.perf_counter()
        model = cuista.train(cuista.Model.new(problem, weight))
        trained = time.perf_counter() - searched
        unit = unit or trained
        sets = [float(cuista.evaluate(model, *problem.sample(10_000, step=step)).nmse_db[-1]) for step in range(12)]
        runs.append(
            {
                "seed": seed,
                "snr_db": None if snr == np.inf else snr,
                "ridge": weight.report.ridge,
                "nmse_db_median": round(statistics.median(sets), 2),
                "nmse_db_worst": round(max(sets), 2),
                "validation_nmse_db": round(model.training["validation_nmse_db"], 2),
                "training_steps": model.training["steps"],
                "training_time": round(trained / unit, 2),
                "ridge_search_time": round((searched - start) / unit, 2),
            }
        )
        print(runs[-1], file=sys.stderr)
save(
    "recipes",
    {
        "work": "fast recipe, all defaults, 250x500, pnz 0.1, T = 16, NMSE on 12 sets of 10,000 fresh signals",
        "runs": runs,
    },
)
