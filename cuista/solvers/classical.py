"""The classical solvers that networks are compared with, under one interface.

Signals may be complex, have several snapshots, or consist of groups of neighbours. The magnitudes of their entries
(`cuista.ops.joint`) then take the place of absolute values, and ‖x‖₁ is the sum of the magnitudes. Inside, an iterate
has the rows (batch·L, N), with the L snapshots of a sample one after the other.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from cuista.checks import Array, in_double
from cuista.counter import TUNING
from cuista.data.problem import Problem, column_norms
from cuista.errors import InputError, NumericalError
from cuista.metrics import estimate_nmse_db
from cuista.operators import Dense, Operator
from cuista.ops import ReferenceOps, engine
from cuista.ops.joint import ALONE, squares
from cuista.parallel import one_blas_thread
from cuista.quality import Quality, statistics
from cuista.solvers.active_set import ActiveSet, Support, duality_gap
from cuista.solvers.newton import polish
from cuista.solvers.proximal import proximal_gradient
from cuista.solvers.tuning import TRIED, lambdas, lambdas_of, tune_unimodal
from cuista.storage import sha256

# The relative duality gap at which the Lasso counts as solved: the objective is at most this share above its minimum.
GAP = 1e-7
# How far the norm of a residual may be from that of the noise, relative to the latter.
MISFIT = 1e-6
# Where nothing is said of noise, OMP ends at this share of the norm of the measurements.
RESIDUAL = 1e-6
# The relative change of an iterate at which AMP counts as converged.
CHANGE = 1e-7
# After how many iterations it is seen whether to end.
CHECK_EVERY = 25
# The number of signals on which λ is tuned: by a fixed number of iterations, and by solutions at the end.
TUNING_SIGNALS, PATHS = 100, 30
# For entries that are not single real numbers, after how many iterations of FISTA `polish` is tried first, and the most
# iterations, also while λ is tuned.
FIRST = 250
MOST_ITERATIONS, MOST_WHILE_TUNING = 32_000, 1_000
# The most values of 24 that `tune_unimodal` tries.
TUNINGS = 10
# λ of a sample whose norm is 1 is not larger than this, so that it is finite in single precision.
_LARGEST_LAM = 1e30


class Solution(NamedTuple):
    """What a solver found for some measurements.

    Attributes
    ----------
    x
        The sparse codes (samples, N), or (samples, L, N) with L snapshots, for the user's matrix.
    residual
        ‖y − A x‖ / ‖y‖ of each sample (samples,), over all of its snapshots; 0 where y = 0.
    gap
        The duality gap of each sample (samples,), relative to its objective, which is at most this share above its
        minimum. NaN for AMP and OMP, which minimise no such objective.
    converged
        Whether the solver ended on its tolerance (samples,).
    """

    x: Array
    residual: Array
    gap: Array
    converged: Array


class Solver(ABC):
    """A method that recovers the signals of a problem without training.

    Whatever the norms of the columns of the user's matrix are, it computes with columns of unit norm, on measurements
    that are scaled to norm 1, and its codes are for the user's matrix and measurements. One factor scales all snapshots
    of a sample.

    Parameters
    ----------
    problem
        The problem, or a matrix alone. Its matrix defines the method, and λ is tuned on its signals. Codes are complex
        if the matrix is, and the problem says which of their numbers are one entry.
    iterations
        The number of iterations; for OMP, the largest number of entries that it chooses; for the Lasso, the largest
        number of changes of the support. If None, the method goes on until it has converged.
    lam
        The parameter λ, or the one that the method has in its place. A number is for the measurements and the matrix
        as the user gave them: the objective is ½‖y − A x‖² + λ‖x‖₁. A text such as "5%" is a share of each sample's
        largest magnitude in Aᴴy, from which on x = 0. If None, `tune` finds λ when it is first needed, for codes of
        `problem.A` and measurements of the norm that the problem predicts, to which each sample is scaled.
    noise_level
        The standard deviation σ of the noise in an entry of y, √(E|ε|²) if it is complex. Then ‖x‖₁ is minimised
        subject to ‖y − A x‖₂ ≤ σ√M, or σ√(L M) with L snapshots, and OMP ends there.
    positive
        Whether x ≥ 0 is required; if None, the problem says.
    ops
        The engine; the CPU engine if None.
    dtype
        The precision of the computation. If None, it is single precision for a given number of iterations, and double
        precision otherwise.

    Attributes
    ----------
    solution
        What `recover` found last, or None.

    Raises
    ------
    InputError
        If a value is out of range, if λ and the noise level are both given, or if x ≥ 0 is required of entries that are
        no single real numbers.
    """

    name: ClassVar[str]
    has_lam: ClassVar[bool] = True
    has_iterates: ClassVar[bool] = True
    # The number of samples that suit a call of `recover`, after which progress may be shown.
    rows: int = 256
    # Whether solutions have a duality gap.
    has_gap: ClassVar[bool] = False
    # Whether it needs the entries of a matrix, so that it does not work with an operator.
    needs_matrix: ClassVar[bool] = False

    def __init__(
        self,
        problem: Problem,
        iterations: int | None = None,
        *,
        lam: float | str | None = None,
        noise_level: float | None = None,
        positive: bool | None = None,
        ops: ReferenceOps | None = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        if iterations is not None and iterations < 1:
            raise InputError(f"the number of iterations is {iterations}; expected 1 or more", option="iterations")
        if lam is not None and not self.has_lam:
            raise InputError(f"{self.name} has no λ: leave it out", option="lam")
        if lam is not None and noise_level is not None:
            raise InputError(
                "λ and a noise level are both given, and either one decides the other: leave one out",
                option=("lam", "noise_level"),
            )
        if noise_level is not None and not 0 < noise_level < np.inf:
            raise InputError(
                f"the noise level is {noise_level}; expected a finite number more than 0", option="noise_level"
            )
        self.is_share = isinstance(lam, str)
        self.lam = share(lam) if isinstance(lam, str) else lam
        if self.lam is not None and not 0 < self.lam < np.inf:
            raise InputError(f"λ is {lam}; expected a finite number more than 0", option="lam")
        problem = problem if isinstance(problem, Problem) else Problem(problem)
        if self.needs_matrix and not problem.has_matrix:
            raise InputError(
                f"{self.name} needs a measurement matrix, and the problem's operator is not formed as one: use fista, "
                "ista or amp",
                option="method",
            )
        self.problem, self.iterations, self.noise_level = problem, iterations, noise_level
        self.positive, self.joint = problem.positive if positive is None else positive, problem.joint
        # Whether entries are single real numbers.
        self.is_plain = self.joint == ALONE and not problem.is_complex
        # Whether the method of `Lasso` finds exact solutions.
        self.is_exact = self.is_plain and problem.has_matrix
        if self.positive and not self.is_plain:
            raise InputError(
                "only entries that are single real numbers have a sign: leave positive out", option="positive"
            )
        self.ops, self.rows = ops or engine("cpu"), problem.few(type(self).rows)
        self.dtype = np.dtype(dtype or (np.float64 if iterations is None else np.float32))
        self.tunes = self.has_lam and lam is None and noise_level is None
        self._scale_columns()
        self.solution: Solution | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} for {self.problem.M}×{self.problem.N}>"

    def _scale_columns(self) -> None:
        """Make the operator with which the method computes, and its dtype, which is complex if the matrix is."""
        problem = self.problem
        if not problem.has_matrix:  # the columns keep their norms
            self.norms = self.given_norms = np.ones(())
            self.operator: Operator = problem.operator(self.ops, self.dtype)
            self.dtype = self.operator.dtype
            return
        # What the columns of `problem.A`, and those of the user's matrix, are divided by: their norms.
        norms = 1.0 if problem.normalized else column_norms(problem.A)
        self.norms, self.given_norms = np.asarray(norms), np.asarray(norms * np.asarray(problem.norms))
        self.operator = Dense(problem.A / norms, ops=self.ops, dtype=self.dtype)
        self.dtype = self.operator.dtype

    def _columns(self) -> Array:
        """The columns of the operator's matrix, (N, M)."""
        assert isinstance(self.operator, Dense)
        return np.ascontiguousarray(self.operator.A.T)

    def iterates(self, y: Array) -> Iterator[Array]:
        """The iterates x_1, x_2, … (batch, N) for measurements y (batch, M), as arrays of the engine.

        With L snapshots, they are (batch, L, N) and (batch, L, M). Without a number of iterations, the solution is the
        only iterate.
        """
        return self._iterates(y, self.given_norms)

    def _iterates(self, y: Array, norms: Array) -> Iterator[Array]:
        """The iterates as codes of a matrix whose columns have these norms."""
        scaled, factors = self._scaled(y)
        return (self._rescaled(x, factors, norms) for x in self.steps(scaled, factors))

    def _scaled(self, y: Array) -> tuple[Array, Array]:
        """The rows (batch·L, M) of measurements scaled to norm 1, and the factors (batch, 1) they were divided by."""
        M = self.problem.M
        y = self.ops.asarray(y, self.operator.measured_dtype).reshape(-1, self.joint.snapshots * M)
        scaled, factors = self.ops.in_units(y, 1.0)
        return scaled.reshape(-1, M), factors

    def _rescaled(self, x: Array, factors: Array, norms: Array) -> Array:
        """The inverse of `_scaled` for codes (batch·L, N), which become (batch, N) or (batch, L, N)."""
        factors = self.joint.repeat(self.ops.xp, factors)
        with np.errstate(over="ignore"):
            rescaled: Array = (x * factors / self.ops.asarray(norms, np.float64)).astype(self.dtype)
        return rescaled if self.joint.snapshots == 1 else rescaled.reshape(-1, self.joint.snapshots, self.problem.N)

    @property
    @abstractmethod
    def unfinished(self) -> str:
        """What is true of samples that have not converged, as the end of a sentence about them."""

    @abstractmethod
    def steps(self, y: Array, factors: Array) -> Iterator[Array]:
        """The iterates for measurements (batch·L, M) that were divided by factors (batch, 1) to give them norm 1."""

    @abstractmethod
    def end(self, y: Array, factors: Array) -> tuple[Array, Array, Array]:
        """The codes at the end for the same measurements, their gaps (batch,), and whether they have converged.

        The codes are an array of the engine, and the others are in host memory.
        """

    def solve(self, y: ArrayLike) -> Solution:
        """Recover the sparse codes of measurements y (samples, M), in batches, and say how good they are.

        With L snapshots, y is (samples, L, M).

        Raises
        ------
        InputError
            If y has another shape, a NaN or infinite entry, or complex ones although the matrix is real.
        NumericalError
            If the method diverges.
        """
        self.tuned()
        return self._solution(y, lambda part, scaled, factors: self.end(scaled, factors))

    def _solution(self, y: ArrayLike, end: Callable[[slice, Array, Array], tuple[Array, Array, Array]]) -> Solution:
        """What `end` finds for parts of measurements y, scaled to norm 1; it is called as `Solver.end`."""
        y, ops, xp = self.problem.checked(y, self.problem.M, "y"), self.ops, self.ops.xp
        codes, (residuals, gaps) = np.empty((*y.shape[:-1], self.problem.N), self.dtype), np.empty((2, len(y)))
        found = Solution(codes, residuals, gaps, np.empty(len(y), bool))

        def on(part: slice) -> None:
            with ops.computing():
                scaled, factors = self._scaled(y[part])
                x, gap, converged = end(part, scaled, factors)
                residual = xp.sqrt(self._energies(scaled - self.operator.apply(x)))
                codes[part] = ops.to_numpy(self._rescaled(x, factors, self.given_norms))
            residuals[part], gaps[part], found.converged[part] = ops.to_numpy(residual), gap, converged

        with one_blas_thread():
            ops.in_batches((len(y), math.prod(codes.shape[1:])), on, self._batch)
        return found

    @property
    def _batch(self) -> int | None:
        """The number of samples at a time; None for as many as suit the engine."""
        return None if self.problem.has_matrix else self.problem.few(64)

    def _energies(self, r: Array) -> Array:
        """‖r‖² of the samples (batch,) that rows (batch·L, P) belong to."""
        energies: Array = self.joint.samples(squares(self.ops.xp, r)).sum(axis=1)
        return energies

    def _row_numbers(self, samples: Array) -> Array:
        """The numbers of the rows of samples with these numbers."""
        L = self.joint.snapshots
        return np.asarray((samples[:, None] * L + np.arange(L)).reshape(-1))

    def _rows_of(self, array: Array, samples: Array) -> Array:
        """The rows of samples with these numbers, from the rows (batch·L, P) of all, an array of the engine."""
        numbers = self.ops.asarray(self._row_numbers(samples), np.int64)
        rows: Array = self.ops.xp.take(array, numbers, axis=0)
        return rows

    def recover(self, y: ArrayLike) -> Array:
        """Recover the sparse codes (samples, N) of measurements y (samples, M) by `solve`, and keep its `solution`.

        With L snapshots, they are (samples, L, N) and (samples, L, M). For one sample (M,) or (L, M), the result is
        (N,) or (L, N).
        """
        self.solution = found = self.solve(y)
        return found.x[0] if np.ndim(y) < found.x.ndim else found.x

    def quality(self, y: ArrayLike, x: ArrayLike) -> Quality:
        """How good the codes x (samples, N) of measurements y (samples, M) are, without the truth."""
        y, x = self.problem.checked(y, self.problem.M, "y"), self.problem.checked(x, self.problem.N, "x", np.inf)
        return Quality(statistics(self.problem, y, x, self.ops))

    def candidates(self, y: Array) -> list[float]:
        """The values of λ to try on measurements y (samples, M)."""
        if self.problem.has_matrix:
            return lambdas(self.problem.A, y, joint=self.joint)
        rows = self.ops.asarray(y.reshape(-1, self.problem.M), self.operator.measured_dtype)
        return lambdas_of(self.ops.to_numpy(self.operator.adjoint(rows)), self.joint)

    def tune(self, progress: Callable[[int, int], None] | None = None) -> float:
        """Set λ to the candidate whose last iterate has the least NMSE, and return it.

        The NMSE is measured on signals of the problem, drawn from a stream that is used for nothing else. It falls up
        to the best candidate and rises beyond it, so that the search goes from coarse to fine.

        Parameters
        ----------
        progress
            Called with the number of candidates tried, and with that of all that may be.

        Raises
        ------
        NumericalError
            If the method diverges for every candidate.
        """
        self.lam, self.is_share = None, False
        if not self.tunes:
            self.tunes = True
            self._scale_columns()
        with one_blas_thread():
            best, least = self._tune(progress or (lambda done, total: None))
        if not least < 1:
            raise NumericalError(
                f"{self.name} diverges on this problem: the best of {TRIED} values of λ gives an NMSE of "
                f"{least:.3g} dB. Choose another method"
            )
        self.lam = best
        return best

    def _tune(self, progress: Callable[[int, int], None]) -> tuple[float, float]:
        """The best λ, and its NMSE in dB."""
        samples = self.problem.few(TUNING_SIGNALS if self.iterations else PATHS)
        x, y = self.problem.standard.sample(samples, stream=TUNING, dtype=self.dtype)
        tried: dict[float, float] = {}

        def nmse(lam: float) -> float:
            trial = copy.copy(self)  # so that no other thread meets a λ that is only tried
            trial.lam = lam

            def last(part: Array) -> Array:
                return deque(trial._iterates(part, self.norms), maxlen=1).pop().reshape(len(part), -1)

            try:
                found = self.ops.apply(last, y, math.prod(x.shape[1:]), self.dtype, self._batch)
                tried[lam] = estimate_nmse_db(found.reshape(x.shape), x)
            except NumericalError:
                tried[lam] = np.inf
            progress(len(tried), TUNINGS)
            return tried[lam]

        # From the largest on, because among values for which AMP diverges a smaller one is no better.
        best = tune_unimodal(nmse, self.candidates(y)[::-1])
        return best, tried[best]

    @property
    def tuned_for(self) -> dict[str, Any]:
        """Everything that a tuned λ depends on."""
        problem = self.problem
        exact = isinstance(self, LassoSolver) and (self.iterations is None or not self.has_iterates)
        return {
            "matrix": problem.sha256,
            "pnz": problem.pnz if isinstance(problem.pnz, float) else sha256(problem.pnz),
            "snr_db": problem.snr_db,
            "magnitude": problem.law,
            "seed": problem.seed,
            "positive": self.positive,
            "method": "lasso" if exact else self.name,
            "iterations": None if exact else self.iterations,
            **({} if self.joint == ALONE else {"joint": list(self.joint)}),
        }

    def tuned(self) -> float | None:
        """Return λ, which `tune` finds if it is needed and not known yet; None for a method or a task without one."""
        return self.tune() if self.tunes and self.lam is None else self.lam


class LassoSolver(Solver):
    """A method for the Lasso, min_x ½‖y − A x‖² + λ‖x‖₁, or for basis pursuit denoising.

    The latter is min ‖x‖₁ subject to ‖y − A x‖₂ ≤ σ√M. It has the solution of the Lasso for one λ, which is found by
    the residual's norm: that rises with λ, and for real numbers its square is linear in λ² as long as the support
    stays. For groups of neighbours, the Lasso is the group Lasso: Yuan, Lin, J. R. Stat. Soc. B 2006.
    """

    has_gap = True

    @property
    def unfinished(self) -> str:
        gap = f"a relative duality gap above {GAP:g}"
        misfit = "a residual other than σ√M, as when even least squares leaves more, or "
        return gap if self.noise_level is None else misfit + gap

    def _scale_columns(self) -> None:
        super()._scale_columns()
        own = self.norms if self.tunes else self.given_norms  # of the matrix for whose codes λ is
        if self.joint.group > 1 and own.ndim:
            # The columns of a group are divided by one number, so that the magnitude of its entry keeps its meaning.
            means = np.sqrt(np.square(own).reshape(-1, self.joint.group).mean(axis=1))
            factors = np.repeat(means, self.joint.group) / own
            self.norms, self.given_norms = self.norms * factors, self.given_norms * factors
            self.operator = Dense(self.problem.A / self.norms, ops=self.ops, dtype=self.dtype)

    @abstractmethod
    def minimize(
        self, y: Array, lam: Array, start: Array | None = None, most: int | None = None
    ) -> tuple[Array, Array, Array]:
        """The codes (batch·L, N) for λ (batch, N/G or 1) in the operator's columns, A x (batch·L, M), and the gaps.

        The codes and A x are arrays of the engine, and the gaps (batch,) are in host memory. `most` is the largest
        number of iterations for entries that are not single real numbers, MOST_ITERATIONS if None.
        """

    def steps(self, y: Array, factors: Array) -> Iterator[Array]:
        yield self.end(y, factors)[0]

    def end(self, y: Array, factors: Array) -> tuple[Array, Array, Array]:
        if self.noise_level is not None:
            return self._denoise(y, factors, self.noise_level)
        x, _, gap = self.minimize(y, self._lams(y, factors))
        return x, gap, gap <= GAP

    def refine(self, y: ArrayLike, x: ArrayLike) -> Solution:
        """Improve codes x (samples, N) of measurements y (samples, M) by the adaptive Lasso, starting from them.

        With codes of unit columns, it is min_z ½‖y − A z‖² + Σ λ_i |z_i| with λ_i = λ (λ / (|x_i| + λ))², where λ is
        ‖Aᴴ(y − A x)‖_∞, what the codes leave: if they are right, that is what the noise alone leaves. Entries that are
        large in x are hardly shrunk, and the others can still enter or leave. Zou, J. Am. Stat. Assoc. 2006; Candès,
        Wakin, Boyd, J. Fourier Anal. Appl. 2008.

        The errors are those of `solve`.
        """
        problem, joint, ops, xp = self.problem, self.joint, self.ops, self.ops.xp
        codes = in_double(problem.checked(x, problem.N, "x", np.inf)) * self.given_norms
        double = np.result_type(self.dtype, np.float64)

        def end(part: slice, scaled: Array, factors: Array) -> tuple[Array, Array, Array]:
            rows = ops.asarray(codes[part], double).reshape(-1, problem.N)
            start = (rows / joint.repeat(xp, factors)).astype(self.dtype)
            correlations = self.operator.adjoint(scaled - self.operator.apply(start))
            lam = xp.maximum(joint.magnitudes(xp, correlations).max(axis=1, keepdims=True), np.finfo(np.float32).eps)
            weights = xp.square(lam / (joint.magnitudes(xp, start) + lam))
            found, _, gap = self.minimize(scaled, lam * weights, start)
            return found, gap, gap <= GAP

        return self._solution(y, end)

    @property
    def _weights(self) -> Array:
        """What λ is multiplied by for each entry in the operator's columns: a number, or (N/G,)."""
        return self.ops.asarray(1 / self._per_entry(self.norms if self.tunes else self.given_norms), np.float64)

    def _per_entry(self, norms: Array) -> Array:
        """Of numbers for columns, which are the same in a group, one for each entry (N/G,); a single one as it is."""
        return norms[:: self.joint.group] if norms.ndim else norms

    def _least_for_zero(self, y: Array) -> Array:
        """The least λ (batch, 1) for which x = 0, for the user's matrix."""
        xp, correlations = self.ops.xp, self.operator.adjoint(y).astype(np.result_type(self.dtype, np.float64))
        magnitudes = correlations if self.positive else self.joint.magnitudes(xp, correlations)
        least: Array = xp.maximum((magnitudes / self._weights).max(axis=1, keepdims=True), np.finfo(float).tiny)
        return least

    def _lams(self, y: Array, factors: Array) -> Array:
        """λ for each sample and entry (batch, N/G or 1)."""
        lam: Any = self.tuned()
        if self.tunes:  # for samples of the problem's norm, not of norm 1
            lam = self.ops.xp.full(factors.shape, lam / self.problem.unit)
        elif self.is_share:
            lam = lam * self._least_for_zero(y)
        else:
            lam = lam / factors.astype(np.float64)
        lams: Array = self.ops.xp.minimum(lam * self._weights, _LARGEST_LAM)
        return lams

    def _tune(self, progress: Callable[[int, int], None]) -> tuple[float, float]:
        if self.has_iterates and self.iterations is not None:
            return super()._tune(progress)
        # The solutions for falling λ, each from the one before it, as far as the NMSE does not rise again.
        x, y = self.problem.standard.sample(self.problem.few(PATHS), stream=TUNING, dtype=np.float64)
        path = self._exact_path(y) if self.is_exact else self._path(y)
        best, least = 0.0, np.inf
        for number, lam in enumerate(self.candidates(y)[::-1], 1):
            nmse = estimate_nmse_db(path(lam / self.problem.unit / self._per_entry(self.norms)), x)
            progress(number, TRIED)
            if nmse < least:
                best, least = lam, nmse
            elif nmse > least + 1:
                break
        return best, least

    def _exact_path(self, y: Array) -> Callable[[Array], Array]:
        """A function from λ, a number or (N,), to the exact solutions for measurements y; λ must fall."""
        scaled, factors = ReferenceOps().in_units(y, 1.0)
        columns = self._columns()
        paths = [ActiveSet(columns, row, self.positive) for row in scaled]
        return lambda lam: np.array([path.solve(lam) for path in paths]) * factors / self.norms

    def _path(self, y: Array) -> Callable[[Array], Array]:
        """The same with solutions by `minimize`, for λ that is a number or (N/G,)."""
        ops, (scaled, factors), x = self.ops, self._scaled(y), None

        def solutions(lam: Array) -> Array:
            nonlocal x
            lams = ops.asarray(np.broadcast_to(lam, (len(y), lam.size)), np.float64)
            with ops.computing():
                x = self.minimize(scaled, lams, x, MOST_WHILE_TUNING)[0]
                return ops.to_numpy(self._rescaled(x, factors, self.norms))

        return solutions

    def _unreachable(self, y: Array) -> Array:
        """The norms (batch,) of what any A x leaves of measurements, as far as a matrix with more rows than columns."""
        if self.problem.M <= self.problem.N or not self.problem.has_matrix:
            return np.zeros(len(y) // self.joint.snapshots)
        Q = np.linalg.qr(self._columns().T)[0]
        return np.asarray(np.linalg.norm(self.joint.samples(y - y @ Q.conj() @ Q.T), axis=1))

    def _denoise(self, y: Array, factors: Array, noise_level: float) -> tuple[Array, Array, Array]:
        """Basis pursuit denoising: λ² by false position, where the end that stays counts half (the Illinois rule)."""
        ops, xp, samples = self.ops, self.ops.xp, len(factors)
        x, gap = np.zeros((len(y), self.problem.N), self.dtype), np.zeros(samples)
        M = self.joint.snapshots * self.problem.M
        target = noise_level * math.sqrt(M) / ops.to_numpy(factors)[:, 0].astype(np.float64)
        top = ops.to_numpy(self._least_for_zero(y))[:, 0] ** 2
        energy = ops.to_numpy(self._energies(y)).astype(np.float64)  # 1, or 0
        low, high, f_low, f_high = np.zeros(samples), top, -np.square(target), energy - np.square(target)
        last = np.zeros(samples)
        found = f_high <= 0
        # Where there are more measurements than entries, their part outside the columns' span is always left.
        beyond = ~found & (self._unreachable(in_double(ops.to_numpy(y))) > (1 + MISFIT) * target)
        low, high = np.where(beyond, 1e-12 * top, low), np.where(beyond, 1e-12 * top, high)
        rows = np.flatnonzero(~found)
        while len(rows):
            square = (low * f_high - high * f_low)[rows] / (f_high - f_low)[rows]
            lam = xp.minimum(ops.asarray(np.sqrt(square)[:, None], np.float64) * self._weights, _LARGEST_LAM)
            part, places = self._rows_of(y, rows), self._row_numbers(rows)
            codes, image, gap[rows] = self.minimize(part, lam, ops.asarray(x[places], self.dtype))
            x[places] = ops.to_numpy(codes)
            error = ops.to_numpy(self._energies(part - image)).astype(np.float64)
            f, side = error - np.square(target[rows]), np.sign(error - np.square(target[rows]))
            for ends, values, at in ((high, f_high, 1), (low, f_low, -1)):
                here = rows[side == at]
                ends[here], values[here] = square[side == at], f[side == at]
            for values, at in ((f_low, 1), (f_high, -1)):
                values[rows[(side == at) & (last[rows] == at)]] /= 2
            last[rows] = side
            found[rows] = np.abs(np.sqrt(error) - target[rows]) <= MISFIT * target[rows]
            rows = rows[
                ~(found | beyond)[rows] & (square > 1e-16 * top[rows]) & (high[rows] - low[rows] > 1e-14 * high[rows])
            ]
        return ops.asarray(x, self.dtype), gap, found & (gap <= GAP)


class Ista(LassoSolver):
    """Iterative shrinkage-thresholding: Daubechies, Defrise, De Mol, Comm. Pure Appl. Math. 2004.

    Without a number of iterations, it goes on until the gap is small. Samples that are not there after 1,000
    iterations, as where columns are nearly alike, are completed by the method of `Lasso`. For entries that are not
    single real numbers, it takes FISTA's steps, and after 250, 500, 1,000, … 32,000 of them those of `polish`. With an
    operator, it takes FISTA's steps alone.
    """

    name = "ista"
    momentum = False
    most = 1_000

    def steps(self, y: Array, factors: Array) -> Iterator[Array]:
        if self.iterations is None or self.noise_level is not None:
            return super().steps(y, factors)
        return (x for x, _ in self._iterations(y, self._lams(y, factors), self.iterations))

    def _iterations(
        self, y: Array, lam: Array, iterations: int, start: tuple[Array, Array] | None = None, every: int = 1
    ) -> Iterator[tuple[Array, Array]]:
        momentum = self.momentum or (self.iterations is None and not self.is_exact)
        restart = momentum and self.iterations is None
        how: dict[str, Any] = {"positive": self.positive, "restart": restart, "start": start, "joint": self.joint}
        return proximal_gradient(self.operator, y, lam, iterations, momentum, **how, every=every)

    def _gap(self, x: Array, image: Array, y: Array, lam: Array) -> Array:
        r = y - image
        gap = duality_gap(self.ops.xp, x, r, self.operator.adjoint(r), lam, self.positive, self.joint)
        return self.ops.to_numpy(gap)

    def minimize(
        self, y: Array, lam: Array, start: Array | None = None, most: int | None = None
    ) -> tuple[Array, Array, Array]:
        ops, xp = self.ops, self.ops.xp
        x = xp.zeros((len(y), self.problem.N), self.dtype) if start is None else start
        image = self.operator.apply(x)
        if self.iterations is not None:
            begin = None if start is None else (x, image)
            for x, image in self._iterations(y, lam, self.iterations, begin, CHECK_EVERY):  # noqa: B007
                pass
            return x, image, self._gap(x, image, y, lam)
        rows, left = np.arange(len(lam)), self.most if self.is_exact else FIRST
        total, limit = left, most or MOST_ITERATIONS
        done: list[tuple[Array, ...]] = []
        gap = np.full(len(lam), np.inf)

        def leave(going: Array) -> None:
            """Let samples leave that do not go on."""
            nonlocal rows, y, lam, x, image, gap
            ended, stay = np.flatnonzero(~going), np.flatnonzero(going)
            done.append((rows[ended], *(self._rows_of(array, ended) for array in (x, image)), gap[ended]))
            rows, gap, lam = rows[stay], gap[stay], xp.take(lam, ops.asarray(stay, np.int64), axis=0)
            y, x, image = (self._rows_of(array, stay) for array in (y, x, image))

        while len(rows):
            # Samples that have converged leave when they are as many as the others, which lose their momentum by it.
            begin = x, image
            for x, image in self._iterations(y, lam, left, begin, CHECK_EVERY):
                left = max(left - CHECK_EVERY, 0)
                gap = self._gap(x, image, y, lam)
                if 2 * np.count_nonzero(gap > GAP) <= len(rows) or not left:
                    break
            leave(gap > GAP)
            if len(rows) and not left:
                if self.problem.has_matrix:
                    x, image, gap = self._completed(y, lam, x)
                left, total = total, 2 * total
                leave((gap > GAP) & (total <= limit) & (not self.is_exact))
        place = np.argsort(np.concatenate([numbers for numbers, *_ in done]))
        _, codes, images, gaps = zip(*done, strict=True)
        x, image = (self._rows_of(xp.concatenate(parts), place) for parts in (codes, images))
        return x, image, np.concatenate(gaps)[place]

    def _completed(self, y: Array, lam: Array, x: Array) -> tuple[Array, Array, Array]:
        """Samples that have not converged, brought nearer to the minimum by another method, as `minimize` returns them.

        For single real numbers, they are at the minimum.
        """
        ops, double = self.ops, np.result_type(self.dtype, np.float64)
        targets, starts = (ops.to_numpy(array).astype(double) for array in (y, x))
        lams = ops.to_numpy(lam)
        if self.is_exact:
            exact = Lasso(self.problem, positive=self.positive, lam=1.0)
            found, image, gap = exact.minimize(targets, lams, starts)
            return ops.asarray(found, self.dtype), ops.asarray(image, self.dtype), gap
        lams = np.broadcast_to(lams, (len(lams), self.problem.N // self.joint.group))
        columns, L = self._columns(), self.joint.snapshots
        samples = zip(lams, *(array.reshape(len(lams), L, -1) for array in (targets, starts)), strict=True)
        polished = [polish(columns, row, each, start, self.joint) for each, row, start in samples]
        x = ops.asarray(np.concatenate(polished), self.dtype)
        image = self.operator.apply(x)
        return x, image, self._gap(x, image, y, lam)


class Fista(Ista):
    """ISTA with Nesterov's momentum: Beck, Teboulle, SIAM J. Imaging Sciences 2009.

    Without a number of iterations, its momentum restarts: see `proximal_gradient`.
    """

    name = "fista"
    momentum = True


class Lasso(LassoSolver):
    """The exact solution of the Lasso by an active-set method, on the CPU, one sample after the other.

    Entries must be single real numbers: for others, solutions are not piecewise linear in λ. FISTA ends at the same
    minimum.
    """

    name = "lasso"
    needs_matrix = True
    has_iterates = False
    rows = 32

    def __init__(self, problem: Problem, iterations: int | None = None, **options: Any) -> None:
        super().__init__(problem, iterations, **{"dtype": np.float64, **options, "ops": ReferenceOps()})
        if not self.is_plain:
            what = "the matrix is complex" if self.problem.is_complex else f"entries of {math.prod(self.joint)} numbers"
            raise InputError(
                f"lasso is for entries that are single real numbers, and here {what}: use fista, which converges to "
                "the same minimum",
                option="method",
            )
        self.columns = self._columns()

    def minimize(
        self, y: Array, lam: Array, start: Array | None = None, most: int | None = None
    ) -> tuple[Array, Array, Array]:
        y, most = y.astype(np.float64), self.iterations or 50 * sum(self.problem.A.shape)
        lam = np.broadcast_to(lam, (len(y), lam.shape[1]))
        begin = [None] * len(y) if start is None else start.astype(np.float64)
        x = np.empty((len(y), self.problem.N))
        for i, (row, values, first) in enumerate(zip(y, lam, begin, strict=True)):
            x[i] = ActiveSet(self.columns, row, self.positive, first).solve(values, most)
        image = x @ self.columns
        return x, image, duality_gap(np, x, y - image, (y - image) @ self.columns.T, lam, self.positive)


class Amp(Solver):
    """Approximate message passing with one λ, in units of the error's standard deviation.

    v     ← y − A x + B v
    x     ← η(x + Aᴴv; λ ‖v‖₂ / √M)

    where B is the sum of the derivatives of η divided by M (`_onsager`), which for single real numbers is the number of
    non-zeros divided by M. Donoho, Maleki, Montanari, PNAS 2009; for complex numbers Maleki, Anitori, Yang, Baraniuk,
    IEEE Trans. Information Theory 2013. With L snapshots, ‖v‖₂ / √(L M) estimates the standard deviation. The method is
    meant for matrices that resemble Gaussian ones, and may diverge for others.
    """

    name = "amp"
    # The number of iterations after which it ends without having converged.
    most = 300

    def __init__(self, problem: Problem, iterations: int | None = None, **options: Any) -> None:
        super().__init__(problem, iterations, **options)
        if self.is_share:
            raise InputError("λ of amp is a number of standard deviations; expected no percentage", option="lam")
        if self.noise_level is not None:
            raise InputError("amp estimates the noise level by itself: leave it out", option="noise_level")

    @property
    def unfinished(self) -> str:
        return f"an iterate that still changed by more than {CHANGE:g} of its norm"

    def candidates(self, y: Array) -> list[float]:
        # The magnitude of an entry of d numbers, if it is noise alone, is about √d standard deviations.
        values: list[float] = (math.sqrt(math.prod(self.joint)) * np.geomspace(0.3, 4, TRIED)).tolist()
        return values

    def steps(self, y: Array, factors: Array) -> Iterator[Array]:
        if self.iterations is None:
            return iter([self.end(y, factors)[0]])
        return (x for x, _ in self._iterations(y, self.iterations))

    def _iterations(self, y: Array, iterations: int) -> Iterator[tuple[Array, Array]]:
        """The iterates, each with its relative change (batch,)."""
        lam: Any = self.tuned()
        xp, joint, M = self.ops.xp, self.joint, self.problem.M
        x = xp.zeros((len(y), self.problem.N), self.dtype)
        v = y
        for _ in range(iterations):
            before, noise = x, xp.sqrt(self._energies(v)[:, None] / (joint.snapshots * M))
            x, image = self.operator.proximal_step(before, v, 1.0, lam * noise, self.positive, joint)
            if not float(xp.abs(x).max()) <= 1e8:
                raise NumericalError(f"amp diverges with λ = {lam:.4g}: give another λ, or choose another method")
            v = y - image + self._onsager(x, v, lam * noise)
            size = self._energies(x)
            change = self._energies(x - before) / xp.maximum(size, np.finfo(size.dtype).tiny)
            yield x, np.sqrt(self.ops.to_numpy(change))

    def _onsager(self, x: Array, v: Array, theta: Array) -> Array:
        """The Onsager term B v (batch·L, M), where x (batch·L, N) is what thresholding by θ (batch, 1) has left.

        B is (1/M) Σ_i ∂x_i/∂z_i over all columns of A: a number, or with L snapshots a matrix (L, L), because each
        snapshot of x_i depends on all snapshots of z_i. An entry that is not zero is (1 − θ/m) z, of magnitude m − θ
        and direction e. Since dm = Re⟨e, dz⟩, its derivative is (1 − θ/m) I + (θ/m) e eᵀ. If z is complex, only the
        part of Re⟨e, dz⟩ that is linear in dz, ½ eᴴdz, counts, since the other, linear in its conjugate, has no mean
        over the phases of A: so (1 − θ/m) I + (θ/2m) e eᴴ. The trace of either is the divergence of an entry of d real
        numbers, d − (d − 1) θ/m, halved for complex ones.
        """
        xp, joint, M = self.ops.xp, self.joint, self.problem.M
        if self.is_plain:
            return (x != 0).sum(axis=1, keepdims=True).astype(self.dtype) / M * v  # type: ignore[no-any-return]
        m = joint.magnitudes(xp, x) + theta
        share = xp.where(m > theta, theta / xp.maximum(m, np.finfo(m.dtype).tiny), 1)  # θ/m, and 1 where x = 0
        e = joint.split(joint.directions(xp, x))
        along = (0.5 if self.problem.is_complex else 1.0) * share
        B = xp.einsum("blig,bkig->blk", along[:, None, :, None] * e, e.conj())
        B += joint.group * (1 - share).sum(axis=1)[:, None, None] * xp.eye(joint.snapshots, dtype=B.dtype)
        corrected: Array = xp.matmul(B / M, v.reshape(-1, joint.snapshots, M)).reshape(v.shape)
        return corrected.astype(self.dtype)

    def end(self, y: Array, factors: Array) -> tuple[Array, Array, Array]:
        for x, change in self._iterations(y, self.iterations or self.most):  # noqa: B007
            if self.iterations is None and np.all(change <= CHANGE):
                break
        return x, np.full(len(factors), np.nan), change <= CHANGE


class Omp(Solver):
    """Orthogonal matching pursuit: Pati, Rezaiifar, Krishnaprasad, Asilomar 1993; on the CPU, sample by sample.

    It chooses the entry whose column resembles the residual most, and fits all chosen ones by least squares, until the
    norm of the residual is down to that of the noise: σ√M if a noise level is given, otherwise as the problem's SNR
    says, or 10⁻⁶ of the norm of the measurements. With positive entries, only columns with a positive correlation are
    chosen, and the fit is by non-negative least squares.

    With several snapshots it is simultaneous: Tropp, Gilbert, Strauss, Signal Processing 2006. An entry is chosen by
    the magnitude of its correlations with all snapshots, where they take the sum of absolute values, and all columns of
    a group are chosen together.
    """

    name = "omp"
    needs_matrix = True
    has_lam = False
    has_iterates = False
    rows = 32

    def __init__(self, problem: Problem, iterations: int | None = None, **options: Any) -> None:
        super().__init__(problem, iterations, **{"dtype": np.float64, **options, "ops": ReferenceOps()})
        self.columns = self._columns()
        self.conjugate = self.columns.conj()

    @property
    def unfinished(self) -> str:
        return "a residual above that of the noise, or above 1e-6 ‖y‖ without noise"

    def steps(self, y: Array, factors: Array) -> Iterator[Array]:
        yield self.end(y, factors)[0]

    def end(self, y: Array, factors: Array) -> tuple[Array, Array, Array]:
        rows = in_double(self.joint.samples(y))
        noise = 10 ** (-self.problem.snr_db / 20)  # relative to the standard deviation of A x, as the SNR is
        spread = math.sqrt(rows.shape[1]) * rows.std(axis=1)
        enough = np.maximum(spread * noise / math.hypot(1, noise), RESIDUAL)
        if self.noise_level is not None:
            enough = self.noise_level * math.sqrt(rows.shape[1]) / factors[:, 0].astype(np.float64)
        L, M, N = self.joint.snapshots, self.problem.M, self.problem.N
        x, converged = np.zeros((len(rows), L, N), self.columns.dtype), np.empty(len(rows), dtype=bool)
        for i, (row, least) in enumerate(zip(rows, enough, strict=True)):
            codes, left = self._pursue(row if L == 1 else row.reshape(L, M).T, float(least))
            x[i], converged[i] = codes.T, left <= least
        return x.reshape(-1, N), np.full(len(rows), np.nan), converged

    def _pursue(self, y: Array, enough: float) -> tuple[Array, float]:
        """The codes (N,) or (N, L) of one sample's measurements (M,) or (M, L), and the norm of their residual."""
        support, r, x = Support(self.columns, y), y, np.zeros((self.problem.N, *y.shape[1:]), self.columns.dtype)
        G, tried, entries = self.joint.group, list[int](), 0
        while entries < (self.iterations or self.problem.M) and np.linalg.norm(r) > enough:
            correlations = self.conjugate @ r
            alike = correlations if self.positive else self._magnitudes(correlations)
            alike[tried] = 0
            best = int(np.argmax(alike))
            if not alike[best] > 4 * np.finfo(float).eps:
                break
            tried.append(best)
            if not sum([support.add(column) for column in range(best * G, best * G + G)]):
                continue  # it depends on the chosen ones, so that it would change nothing
            entries += 1
            if self.positive:
                part = self.columns[support.chosen]
                x[support.chosen] = ActiveSet(part, y, True, x[support.chosen]).solve(0.0, 50 * len(part))
                r = y - x[support.chosen] @ part
            else:
                r = support.residual()
        if not self.positive:
            x[support.chosen] = support.solve(support.projections)
        return x, float(np.linalg.norm(r))

    def _magnitudes(self, correlations: Array) -> Array:
        """The magnitudes (N/G,) of entries of several numbers, (N,) or (N, L)."""
        if self.joint == ALONE:
            return np.abs(correlations)
        return np.asarray(np.linalg.norm(correlations.reshape(self.problem.N // self.joint.group, -1), axis=1))


SOLVERS: dict[str, type[Solver]] = {solver.name: solver for solver in (Ista, Fista, Amp, Omp, Lasso)}


def share(text: str) -> float:
    """The share that a percentage such as "5%" means.

    Raises
    ------
    InputError
        If the text is not a percentage greater than 0.
    """
    try:
        found = float(text.removesuffix("%")) / 100 if text.endswith("%") else math.nan
    except ValueError:
        found = math.nan
    if not 0 < found < math.inf:
        raise InputError(f"λ is {text!r}; expected a number or a percentage, such as 0.1 or 5%", option="lam")
    return found
