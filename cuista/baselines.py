"""The classical solvers that the networks are measured against."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import DTypeLike

from cuista.checks import Array
from cuista.evaluation import report_on
from cuista.networks.base import scale_of
from cuista.problem import TUNING, Problem

Solver = Callable[[Array, float, int], Iterator[Array]]


class Lasso:
    """min_x ½‖y − A x‖² + λ‖x‖₁, solved by proximal gradient at the step size 1/(1.001‖A‖₂²), from x = 0.

    Both methods take measurements y (samples, M), λ, and the number of iterations; they yield the iterates
    x_1, x_2, … (samples, N).
    """

    def __init__(self, A: Array, dtype: DTypeLike = np.float32) -> None:
        self.step = np.asarray(1 / scale_of(A), dtype)
        self.A = np.ascontiguousarray(A, dtype)

    def ista(self, y: Array, lam: float, iterations: int) -> Iterator[Array]:
        """Iterative shrinkage thresholding: Daubechies, Defrise, De Mol, Comm. Pure Appl. Math. 2004."""
        x = np.zeros((y.shape[0], self.A.shape[1]), self.A.dtype)
        for _ in range(iterations):
            x = self._descend(x, y, lam)
            yield x

    def fista(self, y: Array, lam: float, iterations: int) -> Iterator[Array]:
        """ISTA with Nesterov's momentum: Beck, Teboulle, SIAM J. Imaging Sciences 2009."""
        x = ahead = np.zeros((y.shape[0], self.A.shape[1]), self.A.dtype)
        t = 1.0
        for _ in range(iterations):
            x_next = self._descend(ahead, y, lam)
            t_next = (1 + np.sqrt(1 + 4 * t * t)) / 2
            ahead = x_next + np.asarray((t - 1) / t_next, x.dtype) * (x_next - x)
            x, t = x_next, t_next
            yield x

    def _descend(self, x: Array, y: Array, lam: float) -> Array:
        z = x + self.step * ((y - x @ self.A.T) @ self.A)
        threshold = np.asarray(lam, x.dtype) * self.step
        return np.asarray(z - np.clip(z, -threshold, threshold))


def tune_lambda(problem: Problem, solver: Solver, iterations: int, *, samples: int = 500) -> float:
    """The λ of 24 log-spaced ones with the least NMSE after so many iterations.

    They go from 1e-4 to 1 times the median over signals of max |Aᵀy|, the λ beyond which the solution is 0. The signals
    are the problem's own, of a stream used for nothing else.
    """
    x, y = problem.sample(samples, stream=TUNING)
    largest = float(np.median(np.abs(y @ problem.A).max(axis=1)))

    def nmse(lam: float) -> float:
        return float(report_on(lambda batch: solver(batch, lam, iterations), x, y).nmse_db[-1])

    return min((float(lam) for lam in largest * np.geomspace(1e-4, 1, 24)), key=nmse)
