"""The analytic weight of a convolutional dictionary: min_w Σ_{l,m} ‖d_l ⋆ w_m‖² subject to ⟨w_m, d_m⟩ = 1.

With a stride q, only the entries of d_l ⋆ w_m count whose shifts are multiples of q, as no others are in the maps.

Liu, Chen, Wang, Yin, ICLR 2019, section 3.2. Every w_m has the size s₁×s₂ of its filter. By the paper's theorem 3,
circular convolutions of period 2s − 1 or more give the same result. The problem separates by filter and has a closed
form, which `solve_conv` computes. `solve_conv_pgd` is the paper's own method, projected gradient descent.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import ClassVar

import numpy as np

from cuista import storage
from cuista.checks import Array, check_filters
from cuista.data.dictionary import Convention, Dictionary, default_convention, is_bare, rotate
from cuista.errors import FileError, InputError, NumericalError
from cuista.operators.convolution import check_stride, scaled
from cuista.parallel import one_blas_thread
from cuista.summary import Described, counted
from cuista.weights.dense import TOLERANCE


@dataclass(frozen=True)
class ConvWeightReport:
    """How a convolutional weight was obtained, and how good it is.

    Attributes
    ----------
    method
        How the weight was obtained: `exact`, `pgd` or `imported`.
    ridge
        The λ of a noise-aware weight; 0 for the paper's weight.
    objective
        Σ_{l,m} ‖d_l ⋆ w_m‖², summed over all shifts, or over those that are multiples of the stride. (A sum over the
        unnormalised Fourier coefficients of period n is n² times as large.)
    constraint_residual
        max_m |⟨w_m, d_m⟩ − 1|.
    seconds
        The time that the solution took, without the time for this report.
    note
        Why an iteration stopped; empty if there is nothing to say.
    """

    method: str
    ridge: float
    objective: float
    constraint_residual: float
    seconds: float
    note: str = ""


@dataclass(frozen=True, repr=False)
class ConvWeight(Described, storage.Portable):
    """An analytic weight W (s₁, s₂, F), with the same orientation as its dictionary D. A file holds both.

    It is made for maps with a `stride`, which networks with this weight have.
    """

    kind: ClassVar[str] = "cuista-conv-weight"

    W: Array
    dictionary: Dictionary
    report: ConvWeightReport
    stride: int = 1

    def facts(self) -> dict[str, str]:
        rows, columns = self.dictionary.shape
        size = f"{counted(self.dictionary.filters, 'filter')} of {rows}×{columns}"
        how = {"method": self.report.method, "ridge": f"ridge {self.report.ridge:g}"}
        return {"size": size, "stride": "" if self.stride == 1 else f"stride {self.stride}", **how}

    @classmethod
    def from_array(cls, W: Array, dictionary: Dictionary, *, stride: int = 1) -> ConvWeight:
        """Take a weight that was computed elsewhere, after a check that it fits the dictionary.

        Raises
        ------
        InputError
            If the shapes differ, if an ⟨w_m, d_m⟩ differs from 1 by more than 0.01, or if the stride is out of range.
        """
        W, D = check_filters(W, "the weight").astype(np.float64), dictionary.D
        check_stride(stride, dictionary.shape)
        if W.shape != D.shape:
            raise InputError(f"the weight has shape {W.shape}; expected {D.shape}, the shape of the dictionary")
        report = describe(W, D, stride, method="imported")
        if not report.constraint_residual <= TOLERANCE:
            turned = describe(rotate(W), D, stride, method="imported").constraint_residual <= TOLERANCE
            advice = "It does if it is rotated: give the other convention" if turned else "Compute a weight for it"
            raise InputError(
                f"the weight does not belong to this dictionary: ⟨w, d⟩ differs from 1 by up to "
                f"{report.constraint_residual:.3g}, and {TOLERANCE} is allowed. {advice}",
                option="convention" if turned else (),
            )
        return cls(W, dictionary, report, stride)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write a `cuista-conv-weight` file."""
        storage.write(path, self.to_record(), overwrite=overwrite)

    def to_record(self) -> storage.Record:
        record = storage.Record(self.kind, attributes=asdict(self.report))
        self.store(record)
        return record

    def store(self, record: storage.Record) -> None:
        """Add the weight and its dictionary to a file's record, without the report."""
        record.arrays["W"] = self.W
        record.attributes["stride"] = self.stride
        self.dictionary.store(record)

    @classmethod
    def from_record(cls, record: storage.Record, path: str | os.PathLike[str]) -> ConvWeight:
        """The weight and its dictionary in the record of a `cuista-conv-weight` file; error messages name `path`."""
        own = Dictionary.from_record(record, path)
        with storage.complete(path):
            report = ConvWeightReport(**{name: record.attributes[name] for name in ConvWeightReport.__annotations__})
            return cls.stored(record, own, report, path)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        dictionary: Dictionary | None = None,
        *,
        convention: Convention | None = None,
        key: str | None = None,
    ) -> ConvWeight:
        """Read a weight from a `cuista-conv-weight` file, or from a bare array.

        Parameters
        ----------
        path
            A `cuista-conv-weight` file, or an array in a file that `load_array` reads.
        dictionary
            The dictionary that the weight must belong to. A bare array needs it; if it is None for one of cuista's
            files, the dictionary in the file is taken.
        convention
            The operation that a bare array was made for: convolution by default, as in the original code.
        key
            The name of the array in a file that holds several; `W` by default.

        Raises
        ------
        FileError
            If the file cannot be read or is damaged.
        InputError
            If the weight does not belong to the dictionary, a bare array comes without a dictionary, or `convention` or
            `key` is given for one of cuista's own files.
        """
        if is_bare(path, convention, key):
            if dictionary is None:
                raise InputError(f"{path} is a bare array: give its dictionary too, or a weight file")
            W = storage.load_array(path, "W", key=key)
            is_rotated = (convention or default_convention(path, weight=True)) == "convolution"
            return cls.from_array(rotate(W) if is_rotated else W, dictionary)
        found = cls.from_record(storage.read(path, cls.kind), path)
        if dictionary is not None and found.dictionary.sha256 != dictionary.sha256:
            raise InputError(f"{path} is the weight of another dictionary: compute a weight for this one")
        return found

    @classmethod
    def stored(
        cls, record: storage.Record, dictionary: Dictionary, report: ConvWeightReport, path: str | os.PathLike[str]
    ) -> ConvWeight:
        """The weight in a file's record, after a check; error messages name `path`. Old files have a stride of 1."""
        W, D, stride = record.arrays["W"], dictionary.D, int(record.attributes.get("stride", 1))
        if not 1 <= stride <= min(dictionary.shape):
            raise FileError(f"{path} is damaged: its weight has the stride {stride}, which its dictionary cannot have")
        if W.shape != D.shape or not (np.abs(np.einsum("ijm,ijm->m", W, D) - 1) <= TOLERANCE).all():
            raise FileError(f"{path} is damaged: its weight is none of its dictionary, of which each ⟨w, d⟩ must be 1")
        return cls(W, dictionary, report, stride)


def solve_conv(
    dictionary: Dictionary, *, ridge: float = 0.0, stride: int = 1, period: tuple[int, int] | None = None
) -> ConvWeight:
    """Solve the weight of a dictionary by the closed form w_m = H⁻¹d_m / (d_mᵀH⁻¹d_m).

    Σ_l ‖d_l ⋆ w‖² = wᵀH w with H[(i,j),(k,l)] = R[i − k, j − l], where R is the sum of the filters' autocorrelations. H
    has s₁s₂ rows, whatever the size of the pictures. The Lagrangian of min w_mᵀH w_m subject to ⟨w_m, d_m⟩ = 1 gives
    H w_m ∝ d_m. H is positive definite, because a product of polynomials is 0 only if one of its factors is. A ridge
    λ > 0 adds λ‖w_m‖² to the objective, because w multiplies the noise too.

    With a stride q, H sums the products of the filters at shifts that are multiples of q only: with S_ab d the filter
    shifted by (a, b) and cut to the window, H = Σ_l Σ_{a,b ∈ qℤ} (S_ab d_l)(S_ab d_l)ᵀ.

    The solution is computed for the filters s D, whose entries are about 1, with the ridge s²λ. Their weight is W/s. So
    neither huge nor tiny filters overflow.

    Parameters
    ----------
    dictionary
        The dictionary; its filters may have any norms.
    ridge
        The ridge λ ≥ 0.
    stride
        The stride of the maps, from 1 to the size of the filters.
    period
        The period of the circular convolutions; 2s − 1 in each direction if None. A longer period gives the same
        weight, and a shorter one that of another problem. It must be None with a stride of more than 1.

    Raises
    ------
    InputError
        If λ is negative or not finite, if the stride is out of range, or if a period is shorter than the filters, or
        given with a stride.
    NumericalError
        If H is singular, exactly (which takes a shorter period) or numerically, or if an entry of W is beyond float64.
    """
    D, exponent = scaled(dictionary.D)
    rows, columns, _ = D.shape
    check_stride(stride, dictionary.shape)
    if not 0 <= ridge < np.inf:
        raise InputError(f"ridge is {ridge}; expected a finite number of 0 or more", option="ridge")
    if period is not None and stride > 1:
        raise InputError("a period of the convolutions is for a stride of 1: leave it out", option="period")
    if period is not None and (period[0] < rows or period[1] < columns):
        raise InputError(f"the period is {period}; expected at least {D.shape[:2]}, the size of the filters")
    from scipy.linalg.lapack import dposv

    start = time.perf_counter()
    H = gram(D, stride, period)
    with np.errstate(over="ignore"):
        H.flat[:: len(H) + 1] += np.ldexp(ridge, -2 * exponent)
    d = D.reshape(len(H), -1)
    with one_blas_thread():
        _, solution, failed = dposv(H, d)
    if failed:
        raise NumericalError(
            "the filters do not determine an analytic weight: the matrix of their autocorrelations is singular. Give a "
            "ridge, for example 1e-6",
            option="ridge",
        )
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        W = np.ascontiguousarray(solution / np.einsum("qm,qm->m", d, solution)).reshape(D.shape)
        W = np.ldexp(W, -exponent)
    if not np.isfinite(W).all():
        largest = np.abs(dictionary.D).max(axis=(0, 1))
        raise NumericalError(
            "the analytic weight has entries beyond the range of float64: the largest entries of the filters are from "
            f"{largest.min():.3g} to {largest.max():.3g}, and the ridge is {ridge:g}. Scale the filters to unit norm, "
            "or give another ridge",
            option=("normalize", "ridge"),
        )
    seconds = time.perf_counter() - start
    report = replace(describe(W, dictionary.D, stride, method="exact"), ridge=float(ridge), seconds=seconds)
    return ConvWeight(W, dictionary, report, stride)


def solve_conv_pgd(
    dictionary: Dictionary, *, steps: int = 500, progress: Callable[[int, int, float], None] | None = None
) -> ConvWeight:
    """Solve the weight of a dictionary by the paper's iteration in the Fourier domain, for comparison.

    The iteration starts at w = d. Each step computes w ← w − 0.002·Σ_l d_l ⋆ (d_l ⋆ w), cut to the filters' support,
    and projects the result on the constraint, w_m ← w_m + (1 − ⟨w_m, d_m⟩) d_m. The convolutions are circular, of
    period 2s − 1. The objective approaches that of the closed form from above.

    Parameters
    ----------
    dictionary
        The dictionary. The projection needs filters of unit norm.
    steps
        The number of steps; there is no earlier stop.
    progress
        Called with (step, steps, objective) at every step.

    Raises
    ------
    InputError
        If a filter does not have unit norm.
    NumericalError
        If the iteration diverges, which happens when Σ_l |d̂_l|² exceeds 1000 at some frequency.
    """
    D = dictionary.D
    with np.errstate(over="ignore"):
        norms = np.linalg.norm(D, axis=(0, 1))
    if not np.allclose(norms, 1, rtol=1e-5):
        raise InputError(
            f"the filters have norms from {norms.min():.4g} to {norms.max():.4g}; projected gradient needs norms of 1. "
            "Normalise the filters, or solve exactly, which takes any norms",
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
                f"projected gradient diverged at step {step}: Σ|d̂|² reaches {power.max():.4g}, and the step size of "
                "0.002 needs at most 1000. Solve exactly",
                option="method",
            )
        if progress:
            progress(step, steps, objective)
        gradient = np.fft.ifft2(power * transformed, axes=(0, 1)).real[:rows, :columns]
        W = W - 0.002 * gradient
        W = W + (1 - np.einsum("ijm,ijm->m", W, D)) * D
    seconds = time.perf_counter() - start
    report = replace(describe(W, D, 1, method="pgd"), seconds=seconds, note=f"stopped after {steps} steps")
    return ConvWeight(W, dictionary, report)


def describe(W: Array, D: Array, stride: int, *, method: str) -> ConvWeightReport:
    """Describe a weight W (s₁, s₂, F) of the filters D. The ridge and the time are left at 0."""
    D, exponent = scaled(D)
    with np.errstate(over="ignore"):
        W = np.ldexp(W, exponent)
    w = W.reshape(-1, W.shape[2])
    objective = float(np.vdot(w, gram(D, stride) @ w))
    residual = float(np.abs(np.einsum("ijm,ijm->m", W, D) - 1).max())
    return ConvWeightReport(method, 0.0, objective, residual, 0.0)


def mean_eigenvalue(dictionary: Dictionary, stride: int = 1) -> float:
    """The mean eigenvalue of H, as a unit for ridges; Σ‖d_m‖² for a stride of 1."""
    D = dictionary.D
    return float(np.square(D).sum() if stride == 1 else np.diagonal(gram(D, stride)).mean())


def gram(D: Array, stride: int = 1, period: tuple[int, int] | None = None) -> Array:
    """The matrix H (s₁s₂, s₁s₂) of the quadratic form wᵀH w = Σ_l ‖d_l ⋆ w‖², over shifts that are multiples of q.

    The convolutions are circular; without a period, it is long enough for all shifts to differ.
    """
    rows, columns, filters = D.shape
    d = D.reshape(-1, filters)
    if stride > 1:
        products, H = (d @ d.T).reshape(rows, columns, rows, columns), np.zeros((rows, columns, rows, columns))
        for a, b in product(*(range(-((size - 1) // stride) * stride, size, stride) for size in (rows, columns))):
            kept = slice(max(a, 0), rows + min(a, 0)), slice(max(b, 0), columns + min(b, 0))
            moved = slice(max(-a, 0), rows + min(-a, 0)), slice(max(-b, 0), columns + min(-b, 0))
            H[kept * 2] += products[moved * 2]
        return H.reshape(rows * columns, -1)
    period = period or (2 * rows - 1, 2 * columns - 1)
    i, j = (index.ravel() for index in np.indices((rows, columns)))
    lag = np.subtract.outer(i, i) % period[0] * period[1] + np.subtract.outer(j, j) % period[1]
    # R sums the products of all pairs of pixels at each lag. For filters this short, that is faster than an FFT.
    R = np.bincount(lag.ravel(), (d @ d.T).ravel())
    return np.asarray(R[lag])
