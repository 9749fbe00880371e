"""What the fast recipe reaches at each noise level on a fresh 250×500 matrix, pnz 0.1, 16 layers.

    pip install . && python benchmarks/recipes.py [SEED …]

Everything is at its default: with noise the weight's ridge is found first (`choose_ridge`). NMSE is of 20,000 fresh
signals. Training time is relative to that without noise.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
from common import save

import cuista

runs: list[dict[str, Any]] = []
for seed in map(int, sys.argv[1:] or ["101", "102"]):
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
        x, y = problem.sample(20_000)
        runs.append(
            {
                "seed": seed,
                "snr_db": None if snr == np.inf else snr,
                "ridge": weight.report.ridge,
                "nmse_db": round(float(cuista.evaluate(model, x, y).nmse_db[-1]), 2),
                "validation_nmse_db": round(model.training["validation_nmse_db"], 2),
                "training_steps": model.training["steps"],
                "training_time": round(trained / unit, 2),
                "ridge_search_time": round((searched - start) / unit, 2),
            }
        )
        print(runs[-1], file=sys.stderr)
save(
    "recipes",
    {"work": "fast recipe, all defaults, 250x500, pnz 0.1, T = 16, NMSE on 20,000 fresh signals", "runs": runs},
)
