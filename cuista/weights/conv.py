"""The analytic weight of a convolutional dictionary: min_w Σ_{l,m} ‖d_l ⋆ w_m‖² subject to ⟨w_m, d_m⟩ = 1.

Liu, Chen, Wang, Yin, ICLR 2019, section 3.2. Every w_m has the support of its filter, s₁×s₂. By the paper's theorem 3
nothing changes if the convolutions are circular ones of period 2s − 1 or more. The problem separates by filter and has
a closed form, `solve_conv`. The paper's own projected gradient is `solve_conv_pgd`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np

from cuista import storage
from cuista.checks import Array, check_filters
from cuista.data.dictionary import Convention, Dictionary, default_convention, rotate
from cuista.errors import FileError, InputError, NumericalError
from cuista.operators.convolution import scaled


@dataclass(frozen=True)
class ConvWeightReport:
    """What is known of a convolutional weight.

    Attributes
    ----------
    method
        `exact`, `pgd` or `imported`.
    ridge
        The λ of the noise-aware weight; 0 is the paper's.
    objective
        Σ_{l,m} ‖d_l ⋆ w_m‖², summed over all shifts. (Summed over the unnormalised Fourier coefficients of period n
        it would be n² times that.)
    constraint_residual
        max_m |⟨w_m, d_m⟩ − 1|.
    seconds
        Time of the solution, this report not counted.
    note
        Why an iteration stopped. Empty if there is nothing to say.
    """

    method: str
    ridge: float
    objective: float
    constraint_residual: float
    seconds: float
    note: str = ""


@dataclass(frozen=True)
class ConvWeight:
    """An analytic weight W (s₁, s₂, F) of a dictionary D, oriented as D is; its file carries both."""

    W: Array
    dictionary: Dictionary
    report: ConvWeightReport

    @classmethod
    def from_array(cls, W: Array, dictionary: Dictionary) -> ConvWeight:
        """A weight computed elsewhere, checked against its dictionary.

        Raises
        ------
        InputError
            If the shapes differ or ⟨w_m, d_m⟩ is not 1 within 1e-2.
        """
        W, D = check_filters(W, "the weight").astype(np.float64), dictionary.D
        if W.shape != D.shape:
            raise InputError(f"the weight has shape {W.shape}, and the dictionary {D.shape}; expected the same")
        report = describe(W, D, method="imported")
        if not report.constraint_residual <= 1e-2:
            raise InputError(
                "the weight is not one of this dictionary: "
                f"⟨w, d⟩ differs from 1 by up to {report.constraint_residual:.3g}. "
                "Solve it for this dictionary"
            )
        return cls(W, dictionary, report)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write a `cuista-conv-weight` file."""
        record = storage.Record("cuista-conv-weight", {"W": self.W}, asdict(self.report))
        self.dictionary.store(record)
        storage.write(path, record, overwrite=overwrite)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        dictionary: Dictionary | None = None,
        *,
        convention: Convention | None = None,
        key: str | None = None,
    ) -> ConvWeight:
        """Read a weight from a `cuista-conv-weight` file, or for a dictionary from a bare array (key `W`).

        Parameters
        ----------
        path
            The file.
        dictionary
            Whose weight it must be; that in the file if None.
        convention, key
            Of a bare array, as those of `Dictionary.load`.

        Raises
        ------
        InputError
            If it is not a weight of this dictionary, a bare array comes without one, or something is asked of a file of
            ours.
        """
        if not storage.is_cuista(path):
            if dictionary is None:
                raise InputError(f"{path} is a bare array: give its dictionary too, or a weight of cuista solve-w")
            W = storage.load_array(path, "W", key=key)
            turned = (convention or default_convention(path)) == "convolution"
            return cls.from_array(rotate(W) if turned else W, dictionary)
        if convention or key:
            raise InputError(f"{path} is one of cuista's files: leave these out", option=("key", "convention"))
        record = storage.read(path, "cuista-conv-weight")
        own = Dictionary.from_record(record, path)
        if dictionary is not None and own.sha256 != dictionary.sha256:
            raise InputError(f"{path} is the weight of another dictionary: solve one for this")
        try:
            report = ConvWeightReport(**{name: record.attributes[name] for name in ConvWeightReport.__annotations__})
            return cls.stored(record, own, report, path)
        except KeyError as error:
            raise FileError(f"{path} is damaged: {error.args[0]!r} is missing") from error

    @classmethod
    def stored(
        cls, record: storage.Record, dictionary: Dictionary, report: ConvWeightReport, path: str | os.PathLike[str]
    ) -> ConvWeight:
        """The weight in a file's record, checked; `path` is for the error message."""
        W = record.arrays["W"]
        if W.shape != dictionary.D.shape or not np.isfinite(W).all():
            raise FileError(f"{path} is damaged: its weight has shape {W.shape}, or NaN or infinite entries")
        return cls(W, dictionary, report)


def solve_conv(dictionary: Dictionary, *, ridge: float = 0.0, period: tuple[int, int] | None = None) -> ConvWeight:
    """The closed form w_m = H⁻¹d_m / (d_mᵀH⁻¹d_m).

    Σ_l ‖d_l ⋆ w‖² is wᵀH w with H[(i,j),(k,l)] = R[i − k, j − l], R being the sum of the filters' autocorrelations:
    a matrix of s₁s₂ rows, whatever the size of the pictures. The Lagrangian of min w_mᵀH w_m subject to
    ⟨w_m, d_m⟩ = 1 gives H w_m ∝ d_m. H is positive definite, for a product of polynomials is 0 only if a factor is.
    A ridge λ > 0 adds λ‖w_m‖² to the objective: w multiplies the noise too.

    It is solved for filters scaled to entries about 1, s D with the ridge s²λ, whose weight is W/s: so neither huge
    nor tiny filters overflow.

    Parameters
    ----------
    dictionary
        Of any filter norms.
    ridge
        λ ≥ 0.
    period
        Of the circular convolutions, 2s − 1 in each direction if None. Any longer gives the same; a shorter one is
        another problem.

    Raises
    ------
    InputError
        If λ is negative or not finite, or a period is shorter than the filters.
    NumericalError
        If H is singular, as it may be with a shorter period, or numerically so; or if W has an entry beyond float64.
    """
    D, exponent = scaled(dictionary.D)
    rows, columns, _ = D.shape
    period = period or (2 * rows - 1, 2 * columns - 1)
    if not 0 <= ridge < np.inf:
        raise InputError(f"ridge is {ridge}; expected a number of 0 or more")
    if period[0] < rows or period[1] < columns:
        raise InputError(f"the period is {period}; expected at least the filters' size {D.shape[:2]}")
    from scipy.linalg.lapack import dposv

    start = time.perf_counter()
    H = _gram(D, period)
    with np.errstate(over="ignore"):
        H.flat[:: len(H) + 1] += np.ldexp(ridge, -2 * exponent)
    d = D.reshape(len(H), -1)
    _, solution, failed = dposv(H, d)
    if failed:
        raise NumericalError(
            "the filters do not determine an analytic weight: the matrix of their autocorrelations is singular. "
            "Give a ridge, 1e-6 say",
            option="ridge",
        )
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        W = np.ascontiguousarray(solution / np.einsum("qm,qm->m", d, solution)).reshape(D.shape)
        W = np.ldexp(W, -exponent)
    if not np.isfinite(W).all():
        largest = np.abs(dictionary.D).max(axis=(0, 1))
        raise NumericalError(
            f"the analytic weight has entries beyond the range of numbers: the filters' largest entries are from "
            f"{largest.min():.3g} to {largest.max():.3g}, and the ridge is {ridge:g}. Scale the filters to unit norm, "
            "or give another ridge",
            option=("normalize", "ridge"),
        )
    seconds = time.perf_counter() - start
    report = replace(describe(W, dictionary.D, method="exact"), ridge=float(ridge), seconds=seconds)
    return ConvWeight(W, dictionary, report)


def solve_conv_pgd(
    dictionary: Dictionary, *, steps: int = 500, progress: Callable[[int, int, float], None] | None = None
) -> ConvWeight:
    """The paper's iteration in the Fourier domain, for comparison; it approaches the closed form from above.

    From w = d, each step is w ← w − 0.002·Σ_l d_l ⋆ (d_l ⋆ w), cut to the filters' support, and then the projection
    w_m ← w_m + (1 − ⟨w_m, d_m⟩) d_m on the constraint, with circular convolutions of period 2s − 1.

    Parameters
    ----------
    dictionary
        With filters of unit norm, which the projection needs.
    steps
        How many.
    progress
        Called with (step, steps, objective) at every step.

    Raises
    ------
    InputError
        If the filters have not unit norm.
    NumericalError
        If the iteration diverges, as it does when Σ_l |d̂_l|² exceeds 1000 at a frequency.
    """
    D = dictionary.D
    with np.errstate(over="ignore"):
        norms = np.linalg.norm(D, axis=(0, 1))
    if not np.allclose(norms, 1, rtol=1e-5):
        raise InputError(
            f"the filters have norms from {norms.min():.4g} to {norms.max():.4g}, and projected gradient needs 1: "
            "solve exactly, which takes any, or normalise them",
            option="method",
        )
    rows, columns, _ = D.shape
    period = (2 * rows - 1, 2 * columns - 1)
    start = time.perf_counter()
    power = np.square(np.abs(np.fft.fft2(D, period, axes=(0, 1)))).sum(axis=2, keepdims=True)
    W, first = D, np.inf
    for step in range(1, steps + 1):
        transformed = np.fft.fft2(W, period, axes=(0, 1))
        objective = float((power * np.square(np.abs(transformed))).sum()) / (period[0] * period[1])
        first = min(first, objective)
        if not objective <= 10 * first:
            raise NumericalError(
                f"projected gradient diverged at step {step}: Σ|d̂|² is up to {power.max():.4g}, "
                "and its step size of 0.002 needs at most 1000. Solve exactly",
                option="method",
            )
        if progress:
            progress(step, steps, objective)
        gradient = np.fft.ifft2(power * transformed, axes=(0, 1)).real[:rows, :columns]
        W = W - 0.002 * gradient
        W = W + (1 - np.einsum("ijm,ijm->m", W, D)) * D
    seconds = time.perf_counter() - start
    report = replace(describe(W, D, method="pgd"), seconds=seconds, note=f"stopped after {steps} steps")
    return ConvWeight(W, dictionary, report)


def describe(W: Array, D: Array, *, method: str) -> ConvWeightReport:
    """The report on a weight W (s₁, s₂, F) of D."""
    D, exponent = scaled(D)
    with np.errstate(over="ignore"):
        W = np.ldexp(W, exponent)
    rows, columns, filters = D.shape
    w = W.reshape(-1, filters)
    objective = float(np.vdot(w, _gram(D, (2 * rows - 1, 2 * columns - 1)) @ w))
    residual = float(np.abs(np.einsum("ijm,ijm->m", W, D) - 1).max())
    return ConvWeightReport(method, 0.0, objective, residual, 0.0)


def _gram(D: Array, period: tuple[int, int]) -> Array:
    """H (s₁s₂, s₁s₂): the quadratic form wᵀH w = Σ_l ‖d_l ⋆ w‖² of circular convolutions."""
    rows, columns, filters = D.shape
    i, j = (index.ravel() for index in np.indices((rows, columns)))
    lag = np.subtract.outer(i, i) % period[0] * period[1] + np.subtract.outer(j, j) % period[1]
    d = D.reshape(-1, filters)
    # The sums of the products of all pixels so far apart. For such short filters this is faster than an FFT.
    R = np.bincount(lag.ravel(), (d @ d.T).ravel())
    return np.asarray(R[lag])
