"""The analytic weight of a measurement matrix: min_W ‖WᴴA‖²_F subject to w_iᴴa_i = 1 for every column.

Liu, Chen, Wang, Yin, ICLR 2019, equation (16). The problem separates by column and has a closed form, which
`solve_exact` computes. `solve_pgd` is the paper's own method, projected gradient descent. It converges to the same
point.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import numpy as np

from cuista import storage
from cuista.checks import Array, as_numbers, check_finite, check_matrix, in_double
from cuista.errors import FileError, InputError, NumericalError
from cuista.ops.cpu import product
from cuista.ops.joint import squares
from cuista.parallel import SMALL_PRODUCT, in_batches, one_blas_thread
from cuista.ranks import ranks
from cuista.summary import Described, size_of

# The number of columns that are worked on at a time, so that no N×N matrix is ever formed.
BLOCK = 256
# How far w_iᴴa_i may be from 1 in a weight from elsewhere.
TOLERANCE = 0.01
# With a larger condition number of G = A Aᴴ + λI, solving with G loses more than half of the digits.
MAX_GRAM_CONDITION = 1e8


@dataclass(frozen=True)
class WeightReport:
    """How a weight was obtained, and how good it is.

    Attributes
    ----------
    method
        How the weight was obtained: `exact`, `pgd` or `imported`; `operator` if it is not formed.
    ridge
        The λ of a noise-aware weight; 0 for the paper's weight.
    objective
        Σ_{i≠j} (w_iᴴa_j)².
    coherence
        The mutual coherence of W and A, max_{i≠j} |w_iᴴa_j|.
    matrix_coherence
        The mutual coherence of A with itself, its columns scaled to unit norm.
    constraint_residual
        max_i |w_iᴴa_i − 1|.
    seconds
        The time that the solution took, without the time for this report.
    note
        What the user should know, such as how a singular matrix was handled or why an iteration stopped; empty if there
        is nothing to say.
    """

    method: str
    ridge: float
    objective: float
    coherence: float
    matrix_coherence: float
    constraint_residual: float
    seconds: float
    note: str = ""


@dataclass(frozen=True, repr=False)
class Weight(Described, storage.Portable):
    """An analytic weight W (M, N) of the matrix whose hash is `matrix_sha256`.

    That of an operator is not formed, and W is None: WᴴA and the like are applied by the operator, with the ridge of
    the report.
    """

    kind: ClassVar[str] = "cuista-weight"

    W: Any
    matrix_sha256: str
    report: WeightReport

    def facts(self) -> dict[str, str]:
        report = self.report
        if self.W is None:
            return {"method": "not formed", "ridge": f"ridge {report.ridge:g}"}
        return {
            "size": size_of(self.W),
            "method": report.method,
            "ridge": f"ridge {report.ridge:g}",
            "coherence": f"coherence with the matrix {report.coherence:.3f}",
            "coherence of the matrix": f"of the matrix with itself {report.matrix_coherence:.3f}",
            "matrix": f"for the matrix {self.matrix_sha256[:12]}…",
        }

    @classmethod
    def of_operator(cls, sha256: str, ridge: float = 0.0) -> Weight:
        """The weight of the operator with this hash, which is not formed."""
        unknown = float("nan")
        return cls(None, sha256, WeightReport("operator", ridge, unknown, unknown, unknown, 0.0, 0.0))

    @classmethod
    def from_array(cls, W: Array, A: Array, method: str = "imported") -> Weight:
        """Take a weight that was computed elsewhere, after a check that it fits the matrix A.

        Raises
        ------
        InputError
            If the shapes differ, or if a w_iᴴa_i differs from 1 by more than 0.01: then W belongs to another matrix.
        """
        W = as_numbers(W, "the weight")
        if W.shape != A.shape:
            hint = "; it looks transposed" if W.shape == A.shape[::-1] else ""
            raise InputError(f"the weight has shape {W.shape}; expected {A.shape}, the shape of the matrix{hint}")
        check_finite(W, "the weight")
        report = describe(W, A, method=method)
        if not report.constraint_residual <= TOLERANCE:
            raise InputError(
                f"the weight does not belong to this matrix: w_iᴴa_i differs from 1 by up to "
                f"{report.constraint_residual:.3g}, and {TOLERANCE} is allowed. Compute a weight for this matrix"
            )
        return cls(in_double(W), storage.sha256(A), report)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write a `cuista-weight` file."""
        storage.write(path, self.to_record(), overwrite=overwrite)

    def to_record(self) -> storage.Record:
        attributes = {**asdict(self.report), "matrix_sha256": self.matrix_sha256}
        return storage.Record(self.kind, {"W": self.W}, attributes)

    @classmethod
    def from_record(cls, record: storage.Record, path: str | os.PathLike[str]) -> Weight:
        """The weight in the record of a `cuista-weight` file; error messages name `path`."""
        with storage.complete(path):
            report = WeightReport(**{name: record.attributes[name] for name in WeightReport.__annotations__})
            return cls(record.arrays["W"], record.attributes["matrix_sha256"], report)

    @classmethod
    def load(cls, path: str | os.PathLike[str], A: Array) -> Weight:
        """Read a weight of A from a `cuista-weight` file, or from the array `W` of a file that `load_array` reads.

        Raises
        ------
        FileError
            If the file cannot be read or is damaged.
        InputError
            If the weight does not belong to A.
        """
        if storage.is_cuista(path):
            record = storage.read(path, cls.kind)
            if record.attributes.get("matrix_sha256") != storage.sha256(A):
                raise InputError(f"{path} is the weight of another matrix: compute a weight for this one")
            return cls.stored(record, A, cls.from_record(record, path).report, path)
        return cls.from_array(storage.load_array(path, "W"), A)

    @classmethod
    def stored(cls, record: storage.Record, A: Array, report: WeightReport, path: str | os.PathLike[str]) -> Weight:
        """The weight of A in a file's record, after a check; error messages name `path`."""
        W = record.arrays["W"]
        if W.shape != A.shape or not (np.abs(_gains(W, A) - 1) <= TOLERANCE).all():
            raise FileError(f"{path} is damaged: its weight is none of its matrix, of which each w_iᴴa_i must be 1")
        return cls(W, storage.sha256(A), report)


def solve_exact(A: Array, *, ridge: float = 0.0) -> Weight:
    """Solve the weight of a matrix by the closed form w_i = G⁻¹a_i / (a_iᴴG⁻¹a_i), where G = A Aᴴ + λI.

    The Lagrangian of min w_iᴴG w_i subject to w_iᴴa_i = 1 gives G w_i ∝ a_i. λ = 0 gives the paper's weight. A ridge
    λ > 0 minimises ‖WᴴA‖²_F + λ‖W‖²_F instead, because W multiplies the measurement noise too. If G is singular or
    badly conditioned (dependent rows, M > N), a singular value decomposition of A gives the solution of least norm, and
    the report's note says so. The memory needed is proportional to M·N + M².

    Parameters
    ----------
    A
        The matrix (M, N); its columns may have any norms.
    ridge
        The ridge λ ≥ 0.

    Raises
    ------
    InputError
        If A is not a finite matrix or has a zero column, or if λ is negative or not finite.
    NumericalError
        If a column is so small beside the others that no digit of its weight is certain.
    """
    A = in_double(check_matrix(A, "the matrix"))
    if not 0 <= ridge < np.inf:
        raise InputError(f"ridge is {ridge}; expected a finite number of 0 or more", option="ridge")
    import scipy.linalg  # noqa: F401  (imported here so that the time of the import is not counted)

    start = time.perf_counter()
    with one_blas_thread():
        W, note = _solve_cholesky(A, ridge) if ridge or A.shape[0] <= A.shape[1] else None, ""
        if W is None:
            W, note = _solve_svd(A, ridge)
    with np.errstate(divide="ignore", invalid="ignore"):
        W /= _gains(A, W).real
    if not np.isfinite(W).all():
        raise NumericalError(
            "the matrix is too badly scaled for an analytic weight: some columns are so small that they are lost when "
            "the others are rounded. Normalise the columns",
            option="normalize",
        )
    seconds = time.perf_counter() - start
    report = replace(describe(W, A, method="exact"), ridge=float(ridge), seconds=seconds, note=note)
    return Weight(W, storage.sha256(A), report)


@one_blas_thread()
def solve_pgd(A: Array, *, max_steps: int = 1000, progress: Callable[[int, int, float], None] | None = None) -> Weight:
    """Solve the weight of a matrix by the paper's iteration, projected gradient descent.

    Each step computes W ← W − 0.1·A(AᴴW − I) and projects the result on the constraints, W ← W + A·diag(1 − diag(AᴴW)).
    The iteration starts at W = A. It stops after `max_steps`, or when the objective Σ_{i≠j}(w_iᴴa_j)² changes by at
    most 1e-12 of itself, and then returns the iterate before the last, as the original does. A(AᴴW − I) is computed as
    (A Aᴴ)W − A, and the objective as ⟨W, (A Aᴴ)W⟩ − Σ_i (w_iᴴa_i)², so that no N×N matrix is formed.

    Parameters
    ----------
    A
        The matrix (M, N). The projection needs columns of unit norm.
    max_steps
        The largest number of steps.
    progress
        Called with (step, max_steps, objective) at every step.

    Raises
    ------
    InputError
        If A is not a finite matrix, or if a column does not have unit norm.
    NumericalError
        If the iteration diverges, which happens when λmax(A Aᴴ) > 20.
    """
    A = in_double(check_matrix(A, "the matrix"))
    norms = np.linalg.norm(A, axis=0)
    if not np.allclose(norms, 1, rtol=1e-5):
        raise InputError(
            f"the columns of the matrix have norms from {norms.min():.4g} to {norms.max():.4g}; projected gradient "
            "needs norms of 1. Normalise the columns, or solve exactly, which takes any norms",
            option="method",
        )
    start = time.perf_counter()
    G, W = product(A, A.conj().T), A.copy()
    GW = product(G, W)
    objective = first = _off_diagonal(W, GW, A)
    note = f"stopped at its cap of {max_steps} steps without having converged: the exact method gives the limit"
    for step in range(1, max_steps + 1):
        W_next = W - 0.1 * (GW - A)
        W_next += A * (1 - _gains(A, W_next))
        GW = product(G, W_next)
        objective_next = _off_diagonal(W_next, GW, A)
        if not objective_next <= 10 * first + 1:
            largest = float(np.linalg.eigvalsh(G)[-1])
            raise NumericalError(
                f"projected gradient diverged at step {step}: λmax(AAᵀ) is {largest:.4g}, and the step size of 0.1 "
                "needs at most 20. Solve exactly",
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


@one_blas_thread()
def describe(W: Array, A: Array, *, method: str) -> WeightReport:
    """Describe a weight W (M, N) of A (M, N), block by block of columns. The ridge and the time are left at 0."""
    unit = A / np.linalg.norm(A, axis=0)
    N = A.shape[1]

    def on_block(number: int) -> tuple[float, float, float]:
        first = BLOCK * number
        block = slice(first, min(first + BLOCK, N))
        diagonal = (np.arange(block.start, block.stop), np.arange(block.stop - block.start))
        products = product(W.conj().T, A[:, block])
        products[diagonal] = 0
        objective, coherence = _energy(products), _largest(products)
        products = product(unit.conj().T[first:], unit[:, block])  # AᴴA is Hermitian: no second look at rows above
        products[:, : products.shape[1]][np.diag_indices(products.shape[1])] = 0
        return objective, coherence, _largest(products)

    found = ranks().gathered(-(-N // BLOCK), lambda blocks: list(map(on_block, blocks)))
    objectives, coherences, of_matrix = zip(*found, strict=True)
    residual = float(np.abs(_gains(W, A) - 1).max())
    numbers = float(sum(objectives)), float(max(coherences)), float(max(of_matrix))
    return WeightReport(method, 0.0, *numbers, residual, 0.0)


def _solve_cholesky(A: Array, ridge: float) -> Array | None:
    """Compute G⁻¹A by one Cholesky factorisation. Returns None if G is not safely positive definite."""
    from scipy.linalg import get_lapack_funcs

    lapack: Any = get_lapack_funcs(["pocon", "potrf", "potrs"], (A,))
    pocon, potrf, potrs = lapack
    G = product(A, A.conj().T)
    G.flat[:: G.shape[0] + 1] += ridge
    norm = float(np.abs(G).sum(axis=0).max())
    factor, failed = potrf(G, lower=1)
    if failed or pocon(factor, norm, uplo="L")[0] * MAX_GRAM_CONDITION < 1:
        return None
    N, solution = A.shape[1], np.empty_like(A)
    size = BLOCK if 2.0 * A.size * A.shape[0] >= SMALL_PRODUCT else N

    def solve(part: slice) -> Array:
        solution[:, part] = potrs(factor, A[:, part], lower=1)[0]
        return solution[:, part]

    def on_blocks(blocks: range) -> list[Array]:
        first, last = size * blocks.start, min(size * blocks.stop, N)
        return in_batches(max(last - first, 0), lambda part: solve(slice(first + part.start, first + part.stop)), size)

    for number, columns in enumerate(ranks().gathered(-(-N // size), on_blocks)):  # those of other ranks, too
        solution[:, size * number : size * (number + 1)] = columns
    return solution


def _solve_svd(A: Array, ridge: float) -> tuple[Array, str]:
    """The solution of least norm, G⁺A = U diag(s / (s² + λ)) Vᴴ, and a note for the user."""
    U, s, Vt = np.linalg.svd(A, full_matrices=False)
    kept = s > s[0] * max(A.shape) * np.finfo(np.float64).eps
    rank = int(kept.sum())
    gain = s[kept] / (s[kept] ** 2 + ridge)
    W = (U[:, kept] * gain) @ Vt[kept]
    M, N = A.shape
    condition = f"condition number {s[0] / s[rank - 1]:.3g}"
    if M > N:
        fault = f"the matrix is tall, {M}×{N}"
    elif rank < M:
        fault = f"{M - rank} of the matrix's {M} rows depend on the others"
    else:
        fault = "the matrix is ill-conditioned"
    return W, f"{fault} (rank {rank}, {condition}), so the solution of least norm was taken"


def _gains(W: Array, A: Array) -> Array:
    """w_iᴴa_i for every column."""
    return np.asarray(np.einsum("mn,mn->n", W.conj(), A))


def _energy(products: Array) -> float:
    """Σ|p|²."""
    return float(np.einsum("mn,mn->", products.conj(), products).real)


def _largest(products: Array) -> float:
    """The largest absolute value, found without an array of all absolute values of real numbers."""
    if products.dtype.kind == "c":
        return float(np.sqrt(squares(np, products).max()))
    return float(max(products.max(), -products.min()))


def _off_diagonal(W: Array, GW: Array, A: Array) -> float:
    """The objective Σ_{i≠j} |w_iᴴa_j|², from W and G W."""
    diagonal = _gains(W, A)
    return float(np.einsum("mn,mn->", W.conj(), GW).real - squares(np, diagonal).sum())
