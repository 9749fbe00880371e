"""Measure the NMSE under perturbation of robust ALISTA, the exact encoder, augmented decoders and FISTA.

    pip install '.[plot]' && python benchmarks/robust.py

There are two nominal matrices of 250×500, with pnz 0.1 and no noise. All options have their defaults; σ goes up to 0.02
in training. The test uses 1000 signals, and 10 perturbed matrices for each level of σ.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
from common import RESULTS, save

import cuista
from cuista.evaluation.figures import plot
from cuista.evaluation.robustness import Robustness

SIGMAS = (0.0, 0.005, 0.01, 0.015, 0.02, 0.0225, 0.025)
# The seeds of the nominal matrices, on which nothing was tuned.
SEEDS = (501, 502)


def timed(model, recipe=None, task=None):  # type: ignore[no-untyped-def]
    """Train a model, and return it with the time in seconds that training took."""
    start = time.perf_counter()
    cuista.train(model, recipe, task=task)
    return model, time.perf_counter() - start


figures: dict[str, object] = {"work": "NMSE in dB by sigma, means over 10 matrices of 250x500, pnz 0.1, 1000 signals"}
for seed in SEEDS:
    A = cuista.normalize_columns(cuista.random_matrix(250, 500, seed=seed))
    problem = cuista.Problem(A, seed=seed)
    weight = cuista.solve_exact(A)
    seconds = {}
    alista, seconds["alista"] = timed(cuista.Model.new(problem, weight))
    tilista, seconds["tilista"] = timed(cuista.Model.new(problem, weight, "tilista"))
    cpss, seconds["lista-cpss"] = timed(cuista.Model.new(problem, weight, "lista-cpss", untied=True))
    encoder, seconds["encoder"] = timed(cuista.EncoderModel.new(problem))
    recipe = cuista.RobustRecipe()
    learned, seconds["robust, learned encoder"] = timed(cuista.RobustModel.new(alista, encoder), recipe)
    exact, seconds["robust, exact encoder"] = timed(cuista.RobustModel.new(alista), recipe)
    models = {"ALISTA, as trained": alista, "learned encoder": learned, "exact encoder": exact}
    for name, model in (("ALISTA", alista), ("TiLISTA", tilista), ("LISTA-CPSS", cpss)):
        net, untied = model.network.name, model.network.untied
        parameters = {key: value.copy() for key, value in model.network.parameters.items()}
        augmented = cuista.Model.new(problem, weight, net, untied=untied, parameters=parameters)
        models[f"augmented {name}"], seconds[f"augmented {net}"] = timed(augmented, recipe, cuista.Robust())
    perturbed = cuista.PerturbedSet.new(problem, SIGMAS, count=10, samples=1000, seed=seed)
    results = tuple(cuista.evaluate_robustness(perturbed, models))
    exact_seconds = next(result.seconds_per_matrix for result in results if result.method == "exact encoder")
    figures[f"seed {seed}"] = {
        "sigmas": list(SIGMAS),
        "training_time, ALISTA = 1": {name: round(value / seconds["alista"], 2) for name, value in seconds.items()},
        **{
            result.method: {
                "nmse_db": [round(float(value), 2) for value in result.mean_db],
                "iterations": result.iterations,
                "time_per_matrix, exact = 1": round(result.seconds_per_matrix / exact_seconds, 2)
                if np.isfinite(result.seconds_per_matrix)
                else None,
            }
            for result in results
        },
    }
    save("robust", figures)
    if seed == SEEDS[0]:
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "report.h5"
            Robustness(perturbed.sigmas, results, {}).save(report)
            plot([report], RESULTS / "robust.png", overwrite=True)
