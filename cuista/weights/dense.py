"""The analytic weight of a measurement matrix: min_W ‖WᵀA‖²_F subject to w_iᵀa_i = 1 for every column.

Liu, Chen, Wang, Yin, ICLR 2019, equation (16). The problem separates by column and has a closed form, `solve_exact`.
The paper's own projected gradient is `solve_pgd`; it converges to the same point.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np

from cuista import storage
from cuista.checks import Array, as_real, check_finite, check_matrix
from cuista.errors import FileError, InputError, NumericalError

# Columns at a time, so that no N×N matrix is ever formed.
BLOCK = 256
# Beyond this condition number of A Aᵀ (or A Aᵀ + λI) a solution with it has lost half its digits.
MAX_GRAM_CONDITION = 1e8


@dataclass(frozen=True)
class WeightReport:
    """What is known of a weight.

    Attributes
    ----------
    method
        `exact`, `pgd` or `imported`.
    ridge
        The λ of the noise-aware weight; 0 is the paper's.
    objective
        Σ_{i≠j} (w_iᵀa_j)².
    coherence
        Mutual coherence max_{i≠j} |w_iᵀa_j|.
    matrix_coherence
        The same of A with itself, its columns taken at unit norm.
    constraint_residual
        max_i |w_iᵀa_i − 1|.
    seconds
        Time of the solution, this report not counted.
    note
        What the user should know: how a singular matrix was handled, why an iteration stopped. Empty if nothing.
    """

    method: str
    ridge: float
    objective: float
    coherence: float
    matrix_coherence: float
    constraint_residual: float
    seconds: float
    note: str = ""


@dataclass(frozen=True)
class Weight:
    """An analytic weight W (M, N) of the matrix with hash `matrix_sha256`."""

    W: Array
    matrix_sha256: str
    report: WeightReport

    @classmethod
    def from_array(cls, W: Array, A: Array, method: str = "imported") -> Weight:
        """A weight computed elsewhere, checked against its matrix.

        Raises
        ------
        InputError
            If the shapes differ or w_iᵀa_i is not 1 within 1e-2: then W belongs to another matrix.
        """
        W = as_real(W, "the weight")
        if W.shape != A.shape:
            hint = "; it looks transposed" if W.shape == A.shape[::-1] else ""
            raise InputError(f"the weight has shape {W.shape}, and the matrix {A.shape}; expected the same{hint}")
        check_finite(W, "the weight")
        report = describe(W, A, method=method)
        if report.constraint_residual > 1e-2:
            raise InputError(
                "the weight is not one of this matrix: "
                f"w_iᵀa_i differs from 1 by up to {report.constraint_residual:.3g}. "
                "Solve it for this matrix with cuista solve-w"
            )
        return cls(W.astype(np.float64), storage.sha256(A), report)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write a `cuista-weight` file."""
        attributes = {**asdict(self.report), "matrix_sha256": self.matrix_sha256}
        storage.write(path, storage.Record("cuista-weight", {"W": self.W}, attributes), overwrite=overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str], A: Array) -> Weight:
        """Read the weight of A from a `cuista-weight` file, or from a bare array (.npy, .npz, .mat, .h5; key `W`).

        Raises
        ------
        InputError
            If it is not a weight of A.
        """
        if storage.is_cuista(path):
            record = storage.read(path, "cuista-weight")
            if record.attributes.get("matrix_sha256") != storage.sha256(A):
                raise InputError(
                    f"{path} is the weight of another matrix: solve one for this matrix with cuista solve-w"
                )
            names = WeightReport.__dataclass_fields__
            try:
                report = WeightReport(**{name: record.attributes[name] for name in names})
                return cls(record.arrays["W"], record.attributes["matrix_sha256"], report)
            except KeyError as error:
                raise FileError(f"{path} is damaged: {error.args[0]!r} is missing") from error
        return cls.from_array(storage.load_array(path, "W"), A)


def solve_exact(A: Array, *, ridge: float = 0.0) -> Weight:
    """The closed form w_i = G⁻¹a_i / (a_iᵀG⁻¹a_i) with G = A Aᵀ + λI.

    The Lagrangian of min w_iᵀG w_i subject to w_iᵀa_i = 1 gives G w_i ∝ a_i. λ = 0 is the paper's weight; a ridge
    λ > 0 minimises ‖WᵀA‖²_F + λ‖W‖²_F, for W multiplies the measurement noise too. Where G is singular or badly
    conditioned (dependent rows, M > N), a singular value decomposition of A gives the solution of least norm, and
    the report's note says so. Memory is proportional to M·N + M².

    Parameters
    ----------
    A
        (M, N), of any column norms.
    ridge
        λ ≥ 0.

    Raises
    ------
    InputError
        If A is no finite matrix or has a zero column, or λ is negative or not finite.
    NumericalError
        If a column is so small beside the others that no digit of its weight is sure.
    """
    A = check_matrix(A, "the matrix").astype(np.float64)
    if not 0 <= ridge < np.inf:
        raise InputError(f"ridge is {ridge}; expected a number of 0 or more")
    import scipy.linalg  # noqa: F401  (so that its import is not counted)

    start = time.perf_counter()
    W = None
    note = ""
    if ridge or A.shape[0] <= A.shape[1]:
        W = _solve_cholesky(A, ridge)
    if W is None:
        W, note = _solve_svd(A, ridge)
    with np.errstate(divide="ignore", invalid="ignore"):
        W /= np.einsum("mn,mn->n", A, W)
    if not np.isfinite(W).all():
        raise NumericalError(
            "the matrix is too badly scaled for an analytic weight: "
            "some columns are lost in the rounding of the others. "
            "Normalise its columns",
            option="normalize",
        )
    seconds = time.perf_counter() - start
    report = replace(describe(W, A, method="exact"), ridge=float(ridge), seconds=seconds, note=note)
    return Weight(W, storage.sha256(A), report)


def solve_pgd(
    A: Array,
    *,
    max_steps: int = 1000,
    progress: Callable[[int, int, float], None] | None = None,
) -> Weight:
    """The paper's iteration: a gradient step W ← W − 0.1·A(AᵀW − I), then a projection on the constraints.

    It starts at W = A and stops when the objective Σ_{i≠j}(w_iᵀa_j)² changes by less than 1e-12 of itself,
    returning the iterate before, or after `max_steps`. A(AᵀW − I) is computed as (A Aᵀ)W − A, and the objective as
    ⟨W, (A Aᵀ)W⟩ − Σ_i (w_iᵀa_i)², so that no N×N matrix is formed.

    Parameters
    ----------
    A
        (M, N) with columns of unit norm, which the projection W + A·diag(1 − diag(AᵀW)) needs.
    progress
        Called with (step, max_steps, objective) at every step.

    Raises
    ------
    InputError
        If A is no finite matrix or its columns have not unit norm.
    NumericalError
        If the iteration diverges, as it does when λmax(A Aᵀ) > 20.
    """
    A = check_matrix(A, "the matrix").astype(np.float64)
    norms = np.linalg.norm(A, axis=0)
    if not np.allclose(norms, 1, rtol=1e-5):
        raise InputError(
            f"the columns of the matrix have norms from {norms.min():.4g} to {norms.max():.4g}, "
            "and projected gradient needs 1: solve exactly, which takes any, or normalise them",
            option="method",
        )
    start = time.perf_counter()
    G = _product(A, A.T)
    W = A.copy()
    GW = _product(G, W)
    objective = first = _off_diagonal(W, GW, A)
    note = f"stopped at its cap of {max_steps} steps, not converged: the exact method gives the limit"
    for step in range(1, max_steps + 1):
        W_next = W - 0.1 * (GW - A)
        W_next += A * (1 - np.einsum("mn,mn->n", A, W_next))
        GW = _product(G, W_next)
        objective_next = _off_diagonal(W_next, GW, A)
        if not objective_next <= 10 * first + 1:
            largest = float(np.linalg.eigvalsh(G)[-1])
            raise NumericalError(
                f"projected gradient diverged at step {step}: λmax(AAᵀ) is {largest:.4g}, "
                "and its step size of 0.1 needs at most 20. Solve exactly",
                option="method",
            )
        if progress:
            progress(step, max_steps, objective_next)
        if abs(objective - objective_next) <= 1e-12 * objective:
            note = f"converged after {step} steps"
            break
        W, objective = W_next, objective_next
    seconds = time.perf_counter() - start
    report = replace(describe(W, A, method="pgd"), seconds=seconds, note=note)
    return Weight(W, storage.sha256(A), report)


def describe(W: Array, A: Array, *, method: str) -> WeightReport:
    """The report on a weight W (M, N) of A (M, N), computed by blocks of columns."""
    objective, coherence, matrix_coherence = 0.0, 0.0, 0.0
    unit = A / np.linalg.norm(A, axis=0)
    N = A.shape[1]
    for first in range(0, N, BLOCK):
        block = slice(first, min(first + BLOCK, N))
        diagonal = (np.arange(block.start, block.stop), np.arange(block.stop - block.start))
        product = _product(W.T, A[:, block])
        product[diagonal] = 0
        objective += float(np.einsum("mn,mn->", product, product))
        coherence = max(coherence, _largest(product))
        product = _product(unit.T[first:], unit[:, block])  # the rest of AᵀA is this one's transpose
        product[:, : product.shape[1]][np.diag_indices(product.shape[1])] = 0
        matrix_coherence = max(matrix_coherence, _largest(product))
    return WeightReport(
        method=method,
        ridge=0.0,
        objective=objective,
        coherence=coherence,
        matrix_coherence=matrix_coherence,
        constraint_residual=float(np.abs(np.einsum("mn,mn->n", W, A) - 1).max()),
        seconds=0.0,
    )


def _solve_cholesky(A: Array, ridge: float) -> Array | None:
    """G⁻¹A by one Cholesky factorisation, or None if G is not safely positive definite."""
    from scipy.linalg.lapack import dpocon, dpotrf, dpotrs

    G = _product(A, A.T)
    G.flat[:: G.shape[0] + 1] += ridge
    norm = float(np.abs(G).sum(axis=0).max())
    factor, failed = dpotrf(G, lower=1)
    if failed or dpocon(factor, norm, uplo="L")[0] * MAX_GRAM_CONDITION < 1:
        return None
    solution, _ = dpotrs(factor, A, lower=1)
    return np.ascontiguousarray(solution)


def _product(a: Array, b: Array) -> Array:
    """The product a b of float64 matrices.

    By SciPy's BLAS, as SciPy's LAPACK does the rest here: NumPy has a BLAS of its own, and for a while after each
    product the threads of one are in the way of the other's, which made the closed form ten times slower.
    """
    from scipy.linalg.blas import dgemm

    # (a b)ᵀ = bᵀ aᵀ, where mᵀ is m read in the other order if m lies in rows.
    (left, transpose_left), (right, transpose_right) = ((m.T, 0) if m.flags.c_contiguous else (m, 1) for m in (b, a))
    return np.asarray(dgemm(1.0, left, right, trans_a=transpose_left, trans_b=transpose_right).T)


def _solve_svd(A: Array, ridge: float) -> tuple[Array, str]:
    """G⁺A = U diag(s / (s² + λ)) Vᵀ, the solution of least norm, and what to tell the user."""
    U, s, Vt = np.linalg.svd(A, full_matrices=False)
    kept = s > s[0] * max(A.shape) * np.finfo(np.float64).eps
    rank = int(kept.sum())
    gain = s[kept] / (s[kept] ** 2 + ridge)
    W = (U[:, kept] * gain) @ Vt[kept]
    M, N = A.shape
    condition = f"condition number {s[0] / s[rank - 1]:.3g}"
    if M > N:
        shape = f"the matrix is tall ({M}×{N})"
    elif rank < M:
        shape = f"{M - rank} of its {M} rows depend on the others"
    else:
        shape = "the matrix is ill-conditioned"
    return W, f"{shape}, rank {rank}, {condition}: took the solution of least norm"


def _largest(product: Array) -> float:
    """The largest absolute value, without an array of them all."""
    return float(max(product.max(), -product.min()))


def _off_diagonal(W: Array, GW: Array, A: Array) -> float:
    diagonal = np.einsum("mn,mn->n", W, A)
    return float(np.einsum("mn,mn->", W, GW) - np.einsum("n,n->", diagonal, diagonal))
