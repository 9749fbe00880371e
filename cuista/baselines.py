"""The classical solvers that the networks are measured against: ISTA and FISTA for min ½‖y − A x‖² + λ‖x‖₁."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np

from cuista.checks import Array
from cuista.evaluation import report_on
from cuista.problem import TUNING, Problem

Solver = Callable[[Array, Array, float], Iterator[Array]]


def ista(A: Array, y: Array, lam: float) -> Iterator[Array]:
    """Iterative shrinkage thresholding: x ← S_{λ/L}(x + Aᵀ(y − A x)/L), L = 1.001‖A‖₂², from x = 0, without end.

    Daubechies, Defrise, De Mol, 2004. A is (M, N), y (samples, M); yields (samples, N).
    """
    step, correlation, gram = _prepare(A, y)
    x = np.zeros_like(correlation)
    while True:
        x = _shrink(x + step * (correlation - x @ gram), lam * step)
        yield x


def fista(A: Array, y: Array, lam: float) -> Iterator[Array]:
    """ISTA with Nesterov's momentum: Beck, Teboulle, SIAM J. Imaging Sciences 2009. As `ista`."""
    step, correlation, gram = _prepare(A, y)
    x = ahead = np.zeros_like(correlation)
    t = 1.0
    while True:
        x_next = _shrink(ahead + step * (correlation - ahead @ gram), lam * step)
        t_next = (1 + np.sqrt(1 + 4 * t * t)) / 2
        ahead = x_next + np.asarray((t - 1) / t_next, x.dtype) * (x_next - x)
        x, t = x_next, t_next
        yield x


def tune_lambda(problem: Problem, solver: Solver, iterations: int, *, samples: int = 500) -> float:
    """The λ of 24 log-spaced ones, from 1e-4 to 1, with the least NMSE after so many iterations.

    The signals it is tuned on are the problem's own of a stream used for nothing else.
    """
    x, y = problem.sample(samples, stream=TUNING)
    A = problem.A.astype(x.dtype)

    def nmse(lam: float) -> float:
        report = report_on(lambda batch: islice(solver(A, batch, lam), iterations), x, y)
        return float(report.nmse_db[-1])

    return min((float(lam) for lam in np.geomspace(1e-4, 1, 24)), key=nmse)


def _prepare(A: Array, y: Array) -> tuple[Array, Array, Array]:
    step = np.asarray(1 / (1.001 * np.linalg.norm(A, ord=2) ** 2), y.dtype)
    A = A.astype(y.dtype, copy=False)
    return step, y @ A, A.T @ A


def _shrink(z: Array, threshold: Array | float) -> Array:
    return np.asarray(z - np.clip(z, -threshold, threshold))
