"""The operator of a measurement matrix."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from cuista.checks import Array, check_matrix
from cuista.operators.base import Operator, Shape
from cuista.ops import ReferenceOps


class Dense(Operator):
    """A measurement matrix A (M, N), which maps signals (batch, N) to measurements (batch, M).

    Parameters
    ----------
    A
        The matrix, kept in float64.
    ops, dtype
        As in `Operator`.

    Raises
    ------
    InputError
        If A is not a finite matrix, or has a zero column.
    """

    def __init__(self, A: ArrayLike, *, ops: ReferenceOps | None = None, dtype: DTypeLike = np.float32) -> None:
        super().__init__(ops, dtype)
        self.A: Array = check_matrix(A, "the matrix").astype(np.float64, copy=False)
        self.M, self.N = self.A.shape

    @property
    def shape(self) -> tuple[Shape, Shape]:
        return (self.M,), (self.N,)

    @cached_property
    def norm_squared(self) -> float:
        gram = self.A @ self.A.T if self.M <= self.N else self.A.T @ self.A
        return float(np.linalg.eigvalsh(gram)[-1])

    # Copies for the engine. Each is contiguous, because that makes products with it faster.

    @cached_property
    def _matrix(self) -> Array:
        return self.ops.asarray(self.A, self.dtype)

    @cached_property
    def _transposed(self) -> Array:
        return self.ops.asarray(self.A.T, self.dtype)

    @cached_property
    def _gram(self) -> Array:
        return self.ops.asarray(self.A @ self.A.T, np.float64)

    def apply(self, x: Array) -> Array:
        """A x (batch, M). A sparse x makes the product faster."""
        return self.ops.sparse_matmul(x, self._transposed)

    def adjoint(self, y: Array) -> Array:
        return self.ops.matmul(y, self._matrix)

    def adjoint_where(self, y: Array, where: Array) -> Array:
        """`adjoint` in the entries where `where`, (batch, N) int8, is not 0; the others are right, too, or 0."""
        return self.ops.matmul_where(y, self._matrix, self._transposed, where)

    def solve_gram(self, r: Array, ridge: float = 0.0) -> Array:
        """G⁻¹ r, where G = A Aᵀ + λI, by a Cholesky factorisation in float64.

        Raises
        ------
        NumericalError
            If G is singular and the engine can tell.
        """
        G = self._gram + ridge * self.ops.xp.eye(self.M)
        solution = self.ops.solve_positive(G[None], self.ops.asarray(r, np.float64).T[None])
        return self.ops.asarray(solution[0].T, self.dtype)
