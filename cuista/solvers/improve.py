"""Improving an answer afterwards: by least squares on the support that was found, or by steps of FISTA from it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from cuista.checks import Array, in_double
from cuista.data.problem import Problem, column_norms
from cuista.ops import engine
from cuista.parallel import one_blas_thread
from cuista.quality import ROWS, Quality, statistics
from cuista.solvers.classical import Fista


def refit(problem: Problem, y: ArrayLike, x: ArrayLike) -> tuple[Array, Array]:
    """Fit the non-zero entries of codes to the measurements by least squares, min ‖y − A x‖₂ over the same support.

    The support consists of entries, all numbers of which are fitted if one of them is not 0. For a problem without
    negative entries it is min ‖y − A x‖₂ over x ≥ 0 (Lawson, Hanson 1974), which may set entries to 0. It removes the
    bias of thresholding, which makes entries too small. Where a support is right, it is the best estimate that there
    is; where entries are missing, the others are fitted to theirs.

    Parameters
    ----------
    problem
        The problem, whose matrix is A.
    y, x
        Measurements (samples, M), and codes (samples, N) of the user's matrix; (samples, L, M) and (samples, L, N) with
        L snapshots.

    Returns
    -------
    x : (samples, N) or (samples, L, N)
        The codes, in the precision of those given.
    done : (samples,)
        Which of them were fitted. Those whose support does not determine its entries stay as they are: it has more than
        M entries, or columns that depend on each other.
    """
    from scipy.linalg import lstsq
    from scipy.optimize import nnls

    y, x, G = problem.checked(y, problem.M, "y"), problem.checked(x, problem.N, "x", np.inf), problem.group
    problem.need_matrix("fitting the non-zeros again")
    norms = column_norms(problem.A)
    given = norms * problem.norms  # the norms of the user's columns
    A, done = problem.A / norms, np.ones(len(x), bool)
    found = x.astype(np.result_type(x.dtype, np.complex64) if problem.is_complex else x.dtype)
    with one_blas_thread():
        for i, (target, row) in enumerate(zip(in_double(y), x, strict=True)):
            present = row.reshape(-1, problem.N // G, G).any(axis=(0, 2))
            support = np.flatnonzero(np.repeat(present, G))
            scale = np.abs(target).max(initial=0)
            if not support.size or not scale:
                continue
            fitted = (target / scale).T  # (M,) or (M, L)
            how: dict[str, Any] = {"cond": max(problem.M, support.size) * np.finfo(float).eps, "check_finite": False}
            entries, _, rank, _ = lstsq(A[:, support], fitted, lapack_driver="gelsy", **how)
            done[i] = rank == support.size
            if problem.positive and done[i] and entries.min() < 0:
                entries, _ = nnls(A[:, support], fitted)
            if done[i]:
                found[i][..., support] = entries.T * (scale / given[support])
    return found, done


class Improved(ABC):
    """A model or solver whose answers are improved afterwards."""

    def __init__(self, recoverer: Any) -> None:
        self.recoverer, self.problem = recoverer, recoverer.problem
        self.rows = getattr(recoverer, "rows", ROWS)
        self._own: Array = np.zeros((0, self.problem.N))
        self._more: dict[str, Array] = {}

    @abstractmethod
    def improve(self, y: Array, x: Array) -> tuple[Array, dict[str, Array]]:
        """Better codes than x of measurements y, in the shape of x, and what else is known of each sample."""

    def recover(self, y: Array) -> Array:
        """The improved codes (samples, N) of measurements y (samples, M); with L snapshots, (samples, L, …) each."""
        self._own = self.recoverer.recover(y)
        found, self._more = self.improve(y, self._own)
        return found

    def quality(self, y: Array, x: Array) -> Quality:
        """How good the codes x are that `recover` has just returned. Its own answer tells whether a sample is usual."""
        own: Quality = self.recoverer.quality(y, self._own)
        judged = own.statistics if own.judged is None else own.judged
        found = statistics(self.problem, y, x, engine("cpu"))
        more = {name: values for name, values in own.more.items() if name != "gap"}  # that of the codes before
        return replace(own, statistics=found, judged=judged, more={**more, **self._more})


class Refitted(Improved):
    """A model or solver whose answers are fitted again by `refit`."""

    def improve(self, y: Array, x: Array) -> tuple[Array, dict[str, Array]]:
        found, done = refit(self.problem, y, x)
        return found, {"refitted": done}


class Refined(Improved):
    """A model whose answers are improved by steps of FISTA: see `LassoSolver.refine`."""

    def __init__(self, recoverer: Any, steps: int) -> None:
        super().__init__(recoverer)
        self.solver = Fista(recoverer.problem, steps, ops=recoverer.network.ops, dtype=np.float64)

    def improve(self, y: Array, x: Array) -> tuple[Array, dict[str, Array]]:
        solution = self.solver.refine(y, x)
        return solution.x.astype(x.dtype), {"gap": solution.gap}
