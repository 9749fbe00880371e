"""The operator of a measurement matrix."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from cuista.checks import Array, check_matrix, in_double
from cuista.operators.base import Operator, Shape
from cuista.ops import ReferenceOps
from cuista.ops.joint import dtype_for


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

    def __init__(self, A: ArrayLike, *, ops: ReferenceOps | None = None, dtype: DTypeLike = np.float32) -> None:
        self.A: Array = in_double(check_matrix(A, "the matrix"))
        super().__init__(ops, dtype_for(self.A, dtype))
        self.M, self.N = self.A.shape

    @property
    def shape(self) -> tuple[Shape, Shape]:
        return (self.M,), (self.N,)

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
    def _gram(self) -> Array:
        return self.ops.asarray(self.A @ self.A.conj().T, self.A.dtype)

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
        """G⁻¹ r, where G = A Aᴴ + λI, by a Cholesky factorisation in double precision.

        Raises
        ------
        NumericalError
            If G is singular and the engine can tell.
        """
        G = self._gram + ridge * self.ops.xp.eye(self.M)
        solution = self.ops.solve_positive(G[None], self.ops.asarray(r, G.dtype).T[None])
        return self.ops.asarray(solution[0].T, self.dtype)
