"""Measure what `recover` says of its answers: of signals of other laws, by intervals, and after steps of FISTA.

    pip install . && python benchmarks/quality.py [SEED]

ALISTA of 16 layers is trained by the fast recipe with all defaults for normal non-zeros with pnz 0.1, on a 125×250
matrix, without noise and at 30 and 20 dB. Then sets of signals are judged, of five laws and five sparsities: what is
said is right if it says that the set differs from the training exactly where it does.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np
from common import save
from own_signals import LAWS, M, N

import cuista
from cuista.counter import TEST, Key
from cuista.metrics import estimate_nmse_db
from cuista.solvers.improve import Refined, Refitted

PNZ, SETS, SIGNALS = 0.1, 4, 5000


def judged(model: cuista.Model, seed: int, size: int) -> dict[str, Any]:
    """Of how many sets what is said is right, and how many usual sets are said to differ."""
    right = 0
    cases = [(law, pnz, k) for law in LAWS for pnz in (0.05, 0.075, 0.1, 0.125, 0.15) for k in range(SETS)]
    for law, pnz, k in cases:
        x = LAWS[law](np.random.default_rng([seed, k, round(1000 * pnz)]), size, pnz).astype(np.float32)
        said = differs(model, model.problem.measure(x, Key(seed + 100 + k, TEST)))
        right += said == ((law, pnz) != ("normal", PNZ))
    alarms = sum(differs(model, model.problem.sample(size, seed=seed + 1000 + k)[1]) for k in range(60))
    return {"size": size, "sets": len(cases), "right": right, "false_alarms_in_60": alarms}


def differs(model: cuista.Model, y: Any) -> bool:
    quality = model.quality(y, model.recover(y))
    return bool(quality.differing) or quality.too_many


def covered(model: cuista.Model, seed: int) -> dict[str, dict[str, float]]:
    """The share of entries within their intervals, among all entries, and among those that are not zero."""
    x, y = model.problem.sample(SIGNALS, seed=seed + 1)
    answer, found = model.recover(y), {}
    for level in (0.5, 0.9, 0.95, 0.99):
        lower, upper = model.intervals(y, answer, level)
        inside = (lower <= x) & (x <= upper)
        shares = {"all": inside.mean(), "found": inside[answer != 0].mean(), "true": inside[x != 0].mean()}
        found[str(level)] = {name: round(float(share), 4) for name, share in shares.items()}
    return found


def improved(model: cuista.Model, seed: int) -> list[dict[str, Any]]:
    """The NMSE of the network's answers, and after 50 steps of FISTA or a fit by least squares."""
    found = []
    for law, pnz, snr in (
        ("normal", 0.1, None),
        ("normal", 0.15, None),
        ("student-3", 0.1, None),
        ("normal", 0.1, 15.0),
    ):
        problem = model.problem if snr is None else replace(model.problem, snr_db=snr)
        x = LAWS[law](np.random.default_rng([seed, 9]), 1000, pnz).astype(np.float32)
        y = problem.measure(x, Key(seed, TEST))
        answers = {"network": model, "refined": Refined(model, 50), "debiased": Refitted(model)}
        nmse = {name: round(estimate_nmse_db(by.recover(y), x), 2) for name, by in answers.items()}
        found.append({"law": law, "pnz": pnz, "snr_db": str(problem.snr_db), **nmse})
    return found


if __name__ == "__main__":
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else 301
    runs = []
    for snr in (float("inf"), 30.0, 20.0):
        A = cuista.random_matrix(M, N, seed=seed)
        model = cuista.train(cuista.Model.new(cuista.Problem(A, PNZ, snr, seed=seed)), seed=seed)
        sets = [judged(model, seed, size) for size in (1000, 100)]
        runs.append(
            {"snr_db": str(snr), "sets": sets, "covered": covered(model, seed), "nmse_db": improved(model, seed)}
        )
        print(runs[-1], file=sys.stderr)
    save("quality", {"work": f"fast recipe, all defaults, {M}x{N}, T = 16, seed {seed}", "runs": runs})
