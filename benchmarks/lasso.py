"""The Lasso by cuista, scikit-learn, celer and cvxpy on 50 random problems: objectives and times.

    pip install . scikit-learn celer cvxpy && python benchmarks/lasso.py

The problems are of five kinds, ten of each: Gaussian columns, Gaussian columns with norms from 10⁻⁶ to 10⁶, correlated
columns, Gaussian bumps that are nearly alike, and columns in pairs with a common mean, more rows than columns. λ is
0.1, 0.01 or 0.001 of the λ from which on the solution is 0. The figures for each kind and method are the largest excess
of the objective over the least one found by any method, relative to it, and the median time of a problem in ms, with
one thread. A library that has not converged by its limit of iterations is counted as it ended.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable

import celer
import cvxpy
import numpy as np
from common import save
from sklearn.linear_model import Lasso as SklearnLasso

from cuista import Problem
from cuista.parallel import one_blas_thread
from cuista.solvers.classical import Fista, Lasso

KINDS = ("gaussian", "badly scaled", "correlated", "bumps", "pairs")
Matrix = np.ndarray


def matrix(kind: str, rng: np.random.Generator) -> Matrix:
    if kind == "bumps":
        centres, places = np.linspace(0, 1, 200), np.linspace(0, 1, 100)[:, None]
        return np.exp(-0.5 * ((places - centres) / rng.uniform(0.01, 0.03)) ** 2)
    A = rng.standard_normal((100, 200))
    if kind == "badly scaled":
        return A * 10 ** rng.uniform(-6, 6, 200)
    if kind == "correlated":
        for column in range(1, 200):
            A[:, column] = 0.95 * A[:, column - 1] + np.sqrt(1 - 0.95**2) * A[:, column]
    if kind == "pairs":
        half = rng.standard_normal((200, 60)) + 2
        return np.hstack([half, half + 1e-3 * rng.standard_normal(half.shape)])
    return A


def by_cvxpy(A: Matrix, y: Matrix, lam: float) -> Matrix:
    x = cvxpy.Variable(A.shape[1])
    cvxpy.Problem(cvxpy.Minimize(0.5 * cvxpy.sum_squares(y - A @ x) + lam * cvxpy.norm1(x))).solve("CLARABEL")
    return np.zeros(A.shape[1]) if x.value is None else x.value


METHODS: dict[str, Callable[[Matrix, Matrix, float], Matrix]] = {
    "cuista lasso": lambda A, y, lam: Lasso(Problem(A), lam=lam).recover(y[None])[0],
    "cuista fista": lambda A, y, lam: Fista(Problem(A), lam=lam).recover(y[None])[0],
    "scikit-learn": lambda A, y, lam: (
        SklearnLasso(lam / len(y), fit_intercept=False, tol=1e-10, max_iter=100_000, precompute=True)
        .fit(np.asfortranarray(A), y)
        .coef_
    ),
    "celer": lambda A, y, lam: (
        celer.Lasso(lam / len(y), fit_intercept=False, tol=1e-10, max_iter=20, max_epochs=2_000)
        .fit(np.asfortranarray(A), y)
        .coef_
    ),
    "cvxpy": by_cvxpy,
}


def main() -> None:
    warnings.simplefilter("ignore")
    found = {}
    for kind in KINDS:
        objectives, seconds = np.empty((10, len(METHODS))), np.empty((10, len(METHODS)))
        for number in range(10):
            rng = np.random.default_rng([KINDS.index(kind), number])
            A = matrix(kind, rng)
            x = rng.standard_normal(A.shape[1]) * (rng.random(A.shape[1]) < 0.05) / np.linalg.norm(A, axis=0)
            y = A @ x
            y += 0.01 * y.std() * rng.standard_normal(len(y))
            lam = float(np.abs(y @ A).max() * (0.1, 0.01, 0.001)[number % 3])
            for place, method in enumerate(METHODS.values()):
                start = time.perf_counter()
                with one_blas_thread():
                    solution = method(A, y, lam)
                seconds[number, place] = time.perf_counter() - start
                objectives[number, place] = 0.5 * np.sum((y - A @ solution) ** 2) + lam * np.abs(solution).sum()
        excess = (objectives / objectives.min(axis=1, keepdims=True) - 1).max(axis=0)
        found[kind] = {
            name: {"largest_excess": float(worst), "median_ms": float(1e3 * ms)}
            for name, worst, ms in zip(METHODS, excess, np.median(seconds, axis=0), strict=True)
        }
        for name, figures in found[kind].items():
            print(f"{kind:13} {name:13} {figures['largest_excess']:9.1e} {figures['median_ms']:9.1f} ms", flush=True)
    versions = {"celer": celer.__version__, "cvxpy": cvxpy.__version__}
    save("lasso", {"work": "50 problems, 100x200 and 200x120, float64, one thread", **versions, "kinds": found})


main()
