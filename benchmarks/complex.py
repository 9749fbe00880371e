"""Measure the NMSE that the fast recipe reaches for complex numbers and for several snapshots of each signal.

    pip install . && python benchmarks/complex.py [CASE …]

Networks have 16 layers, the matrix is 250×500, pnz is 0.1, and all options have their defaults. With noise, the
weight's ridge is found first (`choose_ridge`). The NMSE is measured on six sets of 10,000 fresh signals. Without a
CASE, all are measured. The file keeps the results of the cases that are not.
"""

from __future__ import annotations

import json
import statistics
import sys
from typing import Any

import numpy as np
from common import RESULTS, save

import cuista

SEED = 201
# Whether numbers are complex, the SNR in dB, and the number of snapshots.
CASES: dict[str, tuple[bool, float, int]] = {
    "real": (False, np.inf, 1),
    "complex": (True, np.inf, 1),
    "real-4": (False, np.inf, 4),
    "complex-4": (True, np.inf, 4),
    "complex-40": (True, 40.0, 1),
    "complex-30": (True, 30.0, 1),
    "complex-20": (True, 20.0, 1),
}


def measured(is_complex: bool, snr: float, snapshots: int) -> dict[str, Any]:
    """Train a network and test it."""
    A = cuista.normalize_columns(cuista.random_matrix(250, 500, seed=SEED, dtype=complex if is_complex else float))
    problem = cuista.Problem(A, snr_db=snr, snapshots=snapshots, seed=SEED)
    weight = cuista.solve_exact(problem.A) if snr == np.inf else cuista.choose_ridge(problem)
    model = cuista.train(cuista.Model.new(problem, weight))
    sets = [float(cuista.evaluate(model, *problem.sample(10_000, step=step)).nmse_db[-1]) for step in range(6)]
    return {
        "complex": is_complex,
        "snapshots": snapshots,
        "snr_db": None if snr == np.inf else snr,
        "ridge": weight.report.ridge,
        "nmse_db_median": round(statistics.median(sets), 2),
        "nmse_db_worst": round(max(sets), 2),
        "validation_nmse_db": round(model.training["validation_nmse_db"], 2),
        "training_steps": model.training["steps"],
    }


if __name__ == "__main__":
    for case in sys.argv[1:] or CASES:
        run = measured(*CASES[case])
        print(case, run, file=sys.stderr, flush=True)
        file = RESULTS / "complex.json"
        earlier = json.loads(file.read_text())["runs"] if file.exists() else {}
        save(
            "complex",
            {
                "work": f"fast recipe, all defaults, 250x500, pnz 0.1, T = 16, seed {SEED}, NMSE on 6 sets of 10,000",
                "runs": {name: run if name == case else earlier[name] for name in CASES if name in {*earlier, case}},
            },
        )
