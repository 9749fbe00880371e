"""Time the recovery of 100,000 samples by a trained ALISTA, by PyTorch, and by FISTA with the same NMSE.

    pip install . torch==2.13.0 && python benchmarks/recover.py

FISTA runs with the λ, among those tried, that reaches the NMSE of ALISTA's sixteen layers in the fewest iterations, and
for that many iterations. It is timed on fewer samples than PyTorch, beside cuista on the same samples.
"""

from __future__ import annotations

import statistics

import numpy as np
import torch
from common import ratio, save, side_by_side
from reference_torch import forward

import cuista
from cuista.solvers.classical import Fista

SAMPLES, FISTA_SAMPLES = 100_000, 512

problem = cuista.Problem(cuista.normalize_columns(cuista.random_matrix(250, 500)))
model = cuista.Model.new(problem, cuista.solve_exact(problem.A))
cuista.train(model, cuista.FastRecipe(max_steps=200))
x, y = problem.sample(SAMPLES)
truth = np.sum(np.square(x, dtype=np.float64))


def nmse_db(estimate: np.ndarray, samples: int = SAMPLES) -> float:
    error = np.sum(np.square(estimate - x[:samples], dtype=np.float64))
    return float(10 * np.log10(error / np.sum(np.square(x[:samples], dtype=np.float64))))


A, W = (torch.tensor(matrix, dtype=torch.float32) for matrix in (problem.A, model.weight.W))
alpha, theta = (
    torch.tensor(model.network.parameters[name], dtype=torch.float32) for name in ("step_size", "threshold")
)
y_torch = torch.from_numpy(y)


def torch_recover(batch: int) -> np.ndarray:
    with torch.inference_mode():
        parts = [
            forward(part, A, W, alpha, theta, model.network.support, model.network.unit)
            for part in y_torch.split(batch)
        ]
        return torch.cat(parts).numpy()


# PyTorch is timed at the batch size at which it is fastest.
trial = {
    batch: side_by_side({"": lambda b=batch: torch_recover(b)}, runs=1, warmup=0)[""][0] for batch in (256, 1024, 4096)
}
best_batch = min(trial, key=lambda batch: trial[batch])
assert abs(nmse_db(torch_recover(best_batch)) - nmse_db(model.recover(y))) < 0.5

goal = nmse_db(model.recover(y[:FISTA_SAMPLES]), FISTA_SAMPLES)
reached = []
for lam in (1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6):
    for iteration, estimate in enumerate(Fista(problem, 5000, lam=lam).iterates(y[:FISTA_SAMPLES]), start=1):
        if iteration % 20 == 0 and nmse_db(estimate, FISTA_SAMPLES) <= goal:
            reached.append((iteration, lam))
            break
iterations, lam = min(reached) if reached else (5000, 1e-5)


def fista() -> np.ndarray:
    return Fista(problem, iterations, lam=lam).recover(y[:FISTA_SAMPLES])


seconds = side_by_side(
    {"cuista": lambda: model.recover(y), "torch": lambda: torch_recover(best_batch)}, runs=5, warmup=1
)
beside = side_by_side({"cuista": lambda: model.recover(y[:FISTA_SAMPLES]), "fista": fista}, runs=3, warmup=1)
save(
    "recover",
    {
        "work": "recovery of 100,000 samples, 250x500, T = 16, float32, all threads",
        "engine": model.network.ops.engine,
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "torch_batch": best_batch,
        "nmse_db": nmse_db(model.recover(y)),
        "samples_per_second": SAMPLES / statistics.median(seconds["cuista"]),
        "torch_samples_per_second": SAMPLES / statistics.median(seconds["torch"]),
        "times_faster_than_torch": ratio(seconds["torch"], seconds["cuista"]),
        "fista_reached_alistas_nmse": bool(reached),
        "fista_nmse_db": nmse_db(fista(), FISTA_SAMPLES),
        "alista_nmse_db_on_the_same": goal,
        "fista_iterations": iterations,
        "fista_lambda": lam,
        "times_faster_than_fista": ratio(beside["fista"], beside["cuista"]),
    },
    by_width=True,
)
