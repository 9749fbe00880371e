"""The operator of a measurement matrix."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from cuista.checks import Array, check_matrix, in_double
from cuista.errors import NumericalError
from cuista.operators.base import Operator, Shape
from cuista.ops import ReferenceOps
from cuista.ops.joint import dtype_for
from cuista.ops.reference import NOT_POSITIVE


class Dense(Operator):
    """A measurement matrix A (M, N), which maps signals (batch, N) to measurements (batch, M).

    Parameters
    ----------
    A
        The matrix, kept in float64 or complex128.
    ops, dtype
        As in `Operator`. If A is complex, then `dtype` is made complex, too, in the same precision.

    Raises
    ------
    InputError
        If A is not a finite matrix, or has a zero column.
    """

    kind = "dense"

    def __init__(self, A: ArrayLike, *, ops: ReferenceOps | None = None, dtype: DTypeLike = np.float32) -> None:
        self.A: Array = in_double(check_matrix(A, "the matrix"))
        super().__init__(ops, dtype_for(self.A, dtype))
        self._inverses: dict[float, Array] = {}

    @property
    def form(self) -> dict[str, Any]:
        return {"A": self.A}

    @property
    def shape(self) -> tuple[Shape, Shape]:
        return self.A.shape[:1], self.A.shape[1:]

    @cached_property
    def norm_squared(self) -> float:
        adjoint = self.A.conj().T
        gram = self.A @ adjoint if self.M <= self.N else adjoint @ self.A
        return float(np.linalg.eigvalsh(gram)[-1])

    # Copies for the engine. Each is contiguous, because that makes products with it faster.

    @cached_property
    def _conjugate(self) -> Array:
        return self.ops.asarray(self.A.conj(), self.dtype)

    @cached_property
    def _transposed(self) -> Array:
        return self.ops.asarray(self.A.T, self.dtype)

    @cached_property
    def _adjoint(self) -> Array:
        return self.ops.asarray(self.A.conj().T, self.dtype) if self.dtype.kind == "c" else self._transposed

    @cached_property
    def packed_gram(self) -> Array:
        """−AᵀA of a real matrix, as `ReferenceOps.proximal_iterations` takes it."""
        return self.ops.pack(self.ops.asarray(-(self.A.T @ self.A), self.dtype))

    def apply(self, x: Array) -> Array:
        """A x (batch, M). A sparse x makes the product faster."""
        return self.ops.sparse_matmul(x, self._transposed)

    def adjoint(self, y: Array) -> Array:
        return self.ops.matmul(y, self._conjugate)

    def adjoint_where(self, y: Array, where: Array) -> Array:
        """`adjoint` in the entries where `where`, (batch, N) int8, is not 0; the others are right, too, or 0."""
        return self.ops.matmul_where(y, self._conjugate, self._adjoint, where)

    def solve_gram(self, r: Array, ridge: float = 0.0) -> Array:
        """G⁻¹ r, where G = A Aᴴ + λI, in double precision. G⁻¹ is kept for each λ, from a Cholesky factorisation.

        Raises
        ------
        NumericalError
            If G is singular.
        """
        if ridge not in self._inverses:
            self._inverses[ridge] = self.ops.asarray(inverse_of(self.A @ self.A.conj().T, ridge).T, self.A.dtype)
        solution = self.ops.matmul(self.ops.asarray(r, self.A.dtype), self._inverses[ridge])
        return self.ops.asarray(solution, self.dtype)

    def gains(self, ridge: float = 0.0) -> Array:
        """The gain h_i = a_iᴴG⁻¹a_i of each entry, exactly."""
        if ridge not in self._gains:
            self._gains[ridge] = self._gains_of(np.arange(self.N), ridge)
        return self._gains[ridge]

    def gains_error(self, ridge: float = 0.0) -> float:
        return 0.0


def inverse_of(gram: Array, ridge: float) -> Array:
    """(A Aᴴ + λI)⁻¹. Raises NumericalError if that is singular."""
    from scipy.linalg import LinAlgError, cho_factor, cho_solve

    unit = np.eye(len(gram))
    try:
        inverse: Array = cho_solve(cho_factor(gram + ridge * unit), unit)
    except LinAlgError as error:
        raise NumericalError(NOT_POSITIVE) from error
    return inverse
