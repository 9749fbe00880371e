"""The classical solvers that networks are compared with, under one interface."""

from __future__ import annotations

import copy
import threading
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from cuista.checks import Array, check_rows, library
from cuista.counter import TUNING
from cuista.data.problem import Problem
from cuista.errors import InputError, NumericalError
from cuista.metrics import report_on
from cuista.networks.base import in_units
from cuista.networks.lamp import Lamp
from cuista.operators import Dense
from cuista.ops import CpuOps, ReferenceOps
from cuista.quality import Quality, statistics
from cuista.solvers.proximal import proximal_gradient
from cuista.solvers.tuning import TRIED, lambdas, tune


class Solver(ABC):
    """A method that recovers the signals of a problem without training.

    Parameters
    ----------
    problem
        The problem. Its matrix defines the method, and λ is tuned on its signals.
    iterations
        The number of iterations; for OMP, the largest number of entries that it chooses.
    lam
        The parameter λ, or the one that the method has in its place. If None, `tune` finds it when it is first needed.
    ops
        The engine; the CPU engine if None.
    dtype
        The precision of the computation.

    Raises
    ------
    InputError
        If `iterations` or `lam` is out of range.
    """

    name: ClassVar[str]
    has_lam: ClassVar[bool] = True
    has_iterates: ClassVar[bool] = True

    def __init__(
        self,
        problem: Problem,
        iterations: int = 16,
        *,
        lam: float | None = None,
        ops: ReferenceOps | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        if iterations < 1:
            raise InputError(f"the number of iterations is {iterations}; expected 1 or more", option="iterations")
        if lam is not None and not 0 < lam < np.inf:
            raise InputError(f"λ is {lam}; expected a finite number more than 0", option="lam")
        if lam is not None and not self.has_lam:
            raise InputError(f"{self.name} has no λ: leave it out", option="lam")
        self.problem, self.iterations, self.lam = problem, iterations, lam
        self.ops, self.dtype = ops or CpuOps(), np.dtype(dtype)
        # A λ that is tuned suits measurements of the problem's own norm; one that is given is for y as it is.
        self.unit = problem.unit if self.has_lam and lam is None else 0.0

    def iterates(self, y: Array) -> Iterator[Array]:
        """The iterates x_1, x_2, … (batch, N) for measurements y (batch, M), as arrays of the engine.

        With a tuned λ, each sample is scaled to the norm that the problem predicts, and its result scaled back.
        """
        return (self.problem.to_given(x, self.ops) for x in self._iterates(y))

    def _iterates(self, y: Array) -> Iterator[Array]:
        """The iterates as codes of `problem.A`."""
        if not self.unit:
            return self.steps(y)
        scaled, factors = in_units(self.ops.xp, self.ops.asarray(y, self.dtype), self.unit)
        return (x * factors for x in self.steps(scaled))

    @abstractmethod
    def steps(self, y: Array) -> Iterator[Array]:
        """The iterates for measurements y (batch, M) for which λ is meant."""

    def candidates(self, y: Array) -> list[float]:
        """The values of λ to try on measurements y (samples, M)."""
        return lambdas(self.problem.A, y)

    def tune(self, samples: int = 500) -> float:
        """Set λ to the candidate whose last iterate has the least NMSE, and return it.

        The NMSE is measured on `samples` signals of the problem, drawn from a stream that is used for nothing else.

        Raises
        ------
        NumericalError
            If the method diverges for every candidate.
        """
        x, y = self.problem.standard.sample(samples, stream=TUNING, dtype=self.dtype)

        def nmse(lam: float) -> float:
            trial = copy.copy(self)  # so that no other thread meets a λ that is only tried
            trial.lam = lam
            try:
                return float(report_on(trial._iterates, x, y, self.ops).nmse_db[-1])
            except NumericalError:
                return np.inf

        values = self.candidates(y)
        best, least = tune(nmse, values)
        if not least < 1:
            raise NumericalError(
                f"{self.name} diverges on this problem: the best of {len(values)} values of λ gives an NMSE of "
                f"{least:.3g} dB. Choose another method"
            )
        self.lam = best
        return best

    def tuned(self) -> float:
        """Return λ; if it is not known yet, `tune` finds it."""
        return self.tune() if self.lam is None else self.lam

    def recover(self, y: ArrayLike) -> Array:
        """Recover the sparse codes (samples, N) of measurements y (samples, M): the last iterate, computed in batches.

        Raises
        ------
        InputError
            If y has another shape, or a NaN or infinite entry.
        NumericalError
            If the method diverges.
        """
        y = check_rows(y, self.problem.M, "y")
        if self.has_lam:
            self.tuned()

        return self.ops.apply(lambda y: deque(self.iterates(y), maxlen=1).pop(), y, self.problem.N, self.dtype)

    def quality(self, y: ArrayLike, x: ArrayLike) -> Quality:
        """How good the codes x (samples, N) of measurements y (samples, M) are, without the truth."""
        y, x = check_rows(y, self.problem.M, "y"), check_rows(x, self.problem.N, "x")
        return Quality(statistics(self.problem, y, x, self.ops))


class Ista(Solver):
    """Iterative shrinkage-thresholding: Daubechies, Defrise, De Mol, Comm. Pure Appl. Math. 2004."""

    name = "ista"
    momentum = False

    def __init__(self, problem: Problem, iterations: int = 16, **options: Any) -> None:
        super().__init__(problem, iterations, **options)
        self.operator = Dense(problem.A, ops=self.ops, dtype=self.dtype)

    def steps(self, y: Array) -> Iterator[Array]:
        y = self.ops.asarray(y, self.dtype)
        return (x for x, _ in proximal_gradient(self.operator, y, self.tuned(), self.iterations, self.momentum))


class Fista(Ista):
    """ISTA with Nesterov's momentum: Beck, Teboulle, SIAM J. Imaging Sciences 2009."""

    name = "fista"
    momentum = True


class Amp(Solver):
    """Approximate message passing: LAMP with B = Aᵀ and one λ, in units of the error's standard deviation.

    Donoho, Maleki, Montanari, PNAS 2009. The method is meant for matrices that resemble Gaussian ones with columns of
    unit norm, and may diverge for others.
    """

    name = "amp"

    def __init__(self, problem: Problem, iterations: int = 16, **options: Any) -> None:
        super().__init__(problem, iterations, **options)
        parameters = {"weight": problem.A.T[None], "threshold": np.ones(iterations)}
        operator = Dense(problem.A, ops=self.ops, dtype=self.dtype)
        self.network = Lamp(operator, problem.A, layers=iterations, parameters=parameters)

    def candidates(self, y: Array) -> list[float]:
        values: list[float] = np.geomspace(0.3, 4, TRIED).tolist()
        return values

    def steps(self, y: Array) -> Iterator[Array]:
        network = copy.copy(self.network)  # other threads may compute with another λ
        network.parameters = {**network.parameters, "threshold": np.full(self.iterations, self.tuned())}
        xp, y = self.ops.xp, self.ops.asarray(y, self.dtype)
        bound = 1e8 * float(xp.abs(y).max())
        for x in network.iterates(y):
            if float(xp.abs(x).max()) > bound:
                raise NumericalError(f"amp diverges with λ = {self.lam:.4g}: give another λ, or choose another method")
            yield x


# Warnings can only be silenced for the whole process, by one thread at a time.
_SILENCE = threading.RLock()


class _ScikitLearn(Solver):
    """A method of scikit-learn, computed on the CPU and in one thread.

    It has to be one thread because its warnings can only be silenced for the whole process.
    """

    has_iterates = False

    def __init__(self, problem: Problem, iterations: int = 16, **options: Any) -> None:
        super().__init__(problem, iterations, **{**options, "ops": ReferenceOps()})
        self.linear_model = library("sklearn.linear_model", "sklearn", f"{self.name} needs scikit-learn")

    def steps(self, y: Array) -> Iterator[Array]:
        with _SILENCE, warnings.catch_warnings():
            # The warnings say that the iterations did not suffice, or that no entry was left to choose.
            warnings.simplefilter("ignore")
            found = self.solution(np.asarray(y, np.float64))
        yield found.astype(self.dtype)

    @abstractmethod
    def solution(self, y: Array) -> Array:
        """The sparse codes (batch, N) of measurements y (batch, M)."""


class Omp(_ScikitLearn):
    """Orthogonal matching pursuit: Pati, Rezaiifar, Krishnaprasad, Asilomar 1993.

    It chooses entries until the norm of the residual is down to that of the problem's noise, or to 10⁻⁶ of the norm of
    the measurements.
    """

    name = "omp"
    has_lam = False

    def solution(self, y: Array) -> Array:
        A, pursue = self.problem.A, self.linear_model.orthogonal_mp_gram
        gram, correlations, energy = A.T @ A, y @ A, np.square(y).sum(axis=1)
        noise = 10 ** (-self.problem.snr_db / 10)
        enough = max(noise / (1 + noise), 1e-12)
        x = np.zeros(correlations.shape)
        for i in np.flatnonzero(energy):
            x[i] = pursue(gram, correlations[i], tol=enough * energy[i], norms_squared=energy[i : i + 1])
            if np.count_nonzero(x[i]) > self.iterations:
                x[i] = pursue(gram, correlations[i], n_nonzero_coefs=self.iterations)
        return x


class Lasso(_ScikitLearn):
    """The problem that ISTA solves, solved by coordinate descent; `iterations` is an upper limit."""

    name = "lasso"

    def solution(self, y: Array) -> Array:
        # scikit-learn's objective is the one of `Ista` divided by M.
        lasso = self.linear_model.Lasso(
            alpha=self.tuned() / self.problem.M, fit_intercept=False, precompute=True, max_iter=self.iterations
        )
        coefficients = lasso.fit(np.asfortranarray(self.problem.A), y.T).coef_
        return np.reshape(coefficients, (y.shape[0], self.problem.N))


SOLVERS: dict[str, type[Solver]] = {solver.name: solver for solver in (Ista, Fista, Amp, Omp, Lasso)}
