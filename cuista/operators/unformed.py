"""What stands where a problem has its matrix, if it measures by an operator of which no matrix is formed."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NoReturn

import numpy as np
from numpy.typing import DTypeLike

from cuista.checks import Array
from cuista.errors import InputError
from cuista.operators.base import Operator, Shape
from cuista.operators.composition import Composition
from cuista.operators.description import describe, description_sha256, external_of, from_description
from cuista.operators.external import External
from cuista.ops import ReferenceOps
from cuista.ops.joint import real_of


class MatrixNeededError(InputError, AttributeError):
    """An operator was used as a matrix. As an AttributeError, it lets one ask whether an attribute exists."""


class Unformed:
    """The matrix A (M, N) of an operator, which is not formed. It has a size and a dtype, and can be applied.

    Code that needs its entries meets InputError.

    Parameters
    ----------
    operator
        The operator, or one of SciPy or PyLops.

    Attributes
    ----------
    operator
        The operator with NumPy's arrays in double precision.
    description, arrays
        What it is made of, for files: see `cuista.operators.describe`.
    external
        The operator of SciPy or PyLops that it is, or is made of, which no file can hold; None if there is none.
    """

    ndim = 2

    def __init__(self, operator: Any) -> None:
        given = operator if isinstance(operator, Operator) else External(operator, dtype=np.float64)
        self.arrays: dict[str, Array] = {}
        self.description = describe(given, self.arrays)
        self.external = external_of(given)
        self._made: dict[tuple[ReferenceOps | None, np.dtype[Any]], Operator] = {}
        self.operator = self._on(None, np.float64)
        self.shape = self.operator.M, self.operator.N
        self.dtype = self.operator.dtype

    @property
    def measured_dtype(self) -> np.dtype[Any]:
        """The dtype of measurements, which may be complex where signals are real."""
        return self.operator.measured_dtype

    @cached_property
    def sha256(self) -> str:
        """The hash of the description."""
        return description_sha256(self.description)

    @property
    def title(self) -> str:
        """What the operator is called in messages, for example `fourier of wavelet`."""
        return _title(self.operator)

    def on(self, ops: ReferenceOps | None, dtype: DTypeLike) -> Operator:
        """The operator on an engine, in the precision of `dtype`. It maps signals (batch, N) to (batch, M)."""
        key = ops, real_of(dtype)
        if key not in self._made:
            self._made[key] = Flat(self._on(ops, key[1]))
        return self._made[key]

    def _on(self, ops: ReferenceOps | None, dtype: DTypeLike) -> Operator:
        return from_description(self.description, self.arrays, external=self.external, ops=ops, dtype=dtype)

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise MatrixNeededError("this needs a measurement matrix, and the problem's operator is not formed as one")

    __array__ = __array_ufunc__ = __len__ = __getitem__ = __neg__ = __abs__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __matmul__ = __rmatmul__ = _refuse

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        self._refuse()


class Flat(Operator):
    """An operator with signals (batch, N) and measurements (batch, M), whatever the shapes of the one that it is of."""

    def __init__(self, operator: Operator) -> None:
        super().__init__(operator.ops, operator.dtype)
        self.operator = operator

    @property
    def shape(self) -> tuple[Shape, Shape]:
        return (self.operator.M,), (self.operator.N,)

    @property
    def measured_dtype(self) -> np.dtype[Any]:
        return self.operator.measured_dtype

    @property
    def rows_norm_squared(self) -> float | None:
        return self.operator.rows_norm_squared

    @property
    def groups(self) -> Array | None:
        groups = self.operator.groups
        return None if groups is None else groups.reshape(-1)

    @property
    def norm_squared(self) -> float:
        return self.operator.norm_squared

    def apply(self, x: Array) -> Array:
        y: Array = self.operator.apply(x.reshape(-1, *self.operator.shape[1])).reshape(len(x), -1)
        return y

    def adjoint(self, y: Array) -> Array:
        x: Array = self.operator.adjoint(y.reshape(-1, *self.operator.shape[0])).reshape(len(y), -1)
        return x

    def solve_gram(self, r: Array, ridge: float = 0.0) -> Array:
        solution: Array = self.operator.solve_gram(r.reshape(-1, *self.operator.shape[0]), ridge).reshape(len(r), -1)
        return solution

    def gains(self, ridge: float = 0.0) -> Array:
        gains: Array = self.operator.gains(ridge).reshape(-1)
        return gains

    def gains_error(self, ridge: float = 0.0) -> float:
        return self.operator.gains_error(ridge)


def _title(operator: Operator) -> str:
    if isinstance(operator, External):
        return type(operator.operator).__name__
    if isinstance(operator, Composition):
        return f"{_title(operator.outer)} of {_title(operator.inner)}"
    inner = [part for value in operator.form.values() for part in (value if isinstance(value, list) else [value])]
    parts = ", ".join(_title(part) for part in inner if isinstance(part, Operator))
    return f"{operator.kind} ({parts})" if parts else operator.kind
