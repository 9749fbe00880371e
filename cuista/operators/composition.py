"""Operators made from others: one after the other, stacked, or scaled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cuista.checks import Array
from cuista.errors import InputError
from cuista.operators.base import Operator, Shape
from cuista.operators.spectral import Circular, Spectral
from cuista.operators.wavelets import Wavelet
from cuista.ops.joint import real_of


class Composition(Operator):
    """A = B C: first the operator C, such as a basis, and then the operator B, such as a sampled transform.

    If C is orthonormal, G⁻¹ is that of B. A spectral operator after wavelets needs no inverse Fourier transform between
    the two, and the gains are the same for all coefficients of a subband.

    Parameters
    ----------
    outer, inner
        The operators B and C, on the same engine and with the same dtype.

    Raises
    ------
    InputError
        If they do not fit together.
    """

    kind = "composition"

    def __init__(self, outer: Operator, inner: Operator) -> None:
        if outer.shape[1] != inner.shape[0]:
            raise InputError(f"the inner operator gives {inner.shape[0]}, and the outer one takes {outer.shape[1]}")
        if outer.dtype != inner.measured_dtype:
            raise InputError(
                f"the inner operator gives {inner.measured_dtype}, and the outer one takes {outer.dtype}: give both "
                "the same dtype"
            )
        super().__init__(inner.ops, inner.dtype)
        self.outer, self.inner = outer, inner

    @property
    def form(self) -> dict[str, Any]:
        return {"outer": self.outer, "inner": self.inner}

    @property
    def shape(self) -> tuple[Shape, Shape]:
        return self.outer.shape[0], self.inner.shape[1]

    @property
    def measured_dtype(self) -> np.dtype[Any]:
        return self.outer.measured_dtype

    @property
    def rows_norm_squared(self) -> float | None:
        outer, inner = self.outer.rows_norm_squared, self._inner_energy
        return None if outer is None or inner is None else outer * inner

    @property
    def _inner_energy(self) -> float | None:
        """The c with C Cᴴ = c I. It is not known if C is linear over ℝ only: that holds for what C gives alone."""
        return self.inner.rows_norm_squared if self.inner.measured_dtype == self.inner.dtype else None

    @property
    def shift_invariant(self) -> bool:
        return self.outer.shift_invariant and isinstance(self.inner, Circular)

    @property
    def groups(self) -> Array | None:
        return self.inner.groups

    @property
    def alike(self) -> Array | None:
        # All coefficients of a subband belong to shifts of the same function.
        if self.outer.shift_invariant and isinstance(self.inner, Wavelet):
            return self.inner.groups
        return super().alike

    @property
    def norm_squared(self) -> float:
        c = self._inner_energy
        return super().norm_squared if c is None else c * self.outer.norm_squared

    def apply(self, x: Array) -> Array:
        if isinstance(self.outer, Spectral) and isinstance(self.inner, Wavelet):
            return self.outer.measure(self.inner.spectrum(x))
        return self.outer.apply(self.inner.apply(x))

    def adjoint(self, y: Array) -> Array:
        if isinstance(self.outer, Spectral) and isinstance(self.inner, Wavelet):
            return self.inner.coefficients(self.outer.spectrum(y))
        return self.inner.adjoint(self.outer.adjoint(y))

    def solve_gram(self, r: Array, ridge: float = 0.0) -> Array:
        """G⁻¹ r. With C Cᴴ = c I, A Aᴴ + λI = c (B Bᴴ + λ/c I)."""
        c = self._inner_energy
        if c is None:
            return super().solve_gram(r, ridge)
        return self.outer.solve_gram(r, ridge / c) / real_of(r.dtype).type(c)  # type: ignore[no-any-return]


class Stack(Operator):
    """Several operators that measure the same signals, A = [A₁; A₂; …]. Measurements follow one another, as (batch, M).

    Parameters
    ----------
    operators
        The operators, on the same engine, with the same dtype and signals of the same shape.

    Raises
    ------
    InputError
        If there are none, or they do not fit together.
    """

    kind = "stack"

    def __init__(self, operators: Sequence[Operator]) -> None:
        if not operators:
            raise InputError("a stack of operators is empty; expected one or more")
        first = operators[0]
        for operator in operators:
            if (operator.shape[1], operator.dtype) != (first.shape[1], first.dtype):
                raise InputError(
                    f"the operators of a stack take {operator.shape[1]} {operator.dtype} and {first.shape[1]} "
                    f"{first.dtype}; expected the same signals"
                )
        super().__init__(first.ops, first.dtype)
        self.operators = tuple(operators)
        self._ends = np.cumsum([0, *(operator.M for operator in operators)])

    @property
    def form(self) -> dict[str, Any]:
        return {"operators": list(self.operators)}

    @property
    def shape(self) -> tuple[Shape, Shape]:
        return (int(self._ends[-1]),), self.operators[0].shape[1]

    @property
    def measured_dtype(self) -> np.dtype[Any]:
        return np.result_type(*(operator.measured_dtype for operator in self.operators))

    @property
    def shift_invariant(self) -> bool:
        return all(operator.shift_invariant for operator in self.operators)

    @property
    def groups(self) -> Array | None:
        return self.operators[0].groups

    def apply(self, x: Array) -> Array:
        parts = [operator.apply(x).reshape(len(x), -1) for operator in self.operators]
        stacked: Array = self.ops.xp.concatenate(parts, axis=1)
        return stacked

    def adjoint(self, y: Array) -> Array:
        total: Any = 0
        for operator, first, end in zip(self.operators, self._ends[:-1], self._ends[1:], strict=True):
            part = y[:, first:end].reshape(-1, *operator.shape[0])
            if operator.measured_dtype != part.dtype:  # real, in a stack with complex measurements
                part = part.real
            total = total + operator.adjoint(part)
        found: Array = total
        return found


class Scaled(Operator):
    """An operator times a number, c A.

    Parameters
    ----------
    operator
        The operator A.
    factor
        The number c, not 0. It may be complex if signals are.

    Raises
    ------
    InputError
        If the factor is 0 or not finite, or complex where signals are real.
    """

    kind = "scaled"

    def __init__(self, operator: Operator, factor: complex) -> None:
        super().__init__(operator.ops, operator.dtype)
        with np.errstate(over="ignore"):
            square = np.square(np.abs(np.asarray(factor)).astype(real_of(self.dtype)))
        if not 0 < square < np.inf or (complex(factor).imag and self.dtype.kind != "c"):
            expected = "a complex number" if self.dtype.kind == "c" else "a real number"
            raise InputError(
                f"the factor of an operator is {factor}; expected {expected} whose square is neither 0 nor infinite in "
                f"{self.dtype}"
            )
        self.operator, self.factor = operator, complex(factor) if complex(factor).imag else float(factor.real)

    @property
    def form(self) -> dict[str, Any]:
        factor = self.factor
        return {"operator": self.operator, "factor": [factor.real, factor.imag] if factor.imag else factor}

    @property
    def shape(self) -> tuple[Shape, Shape]:
        return self.operator.shape

    @property
    def measured_dtype(self) -> np.dtype[Any]:
        return self.operator.measured_dtype

    @property
    def _energy(self) -> float:
        return abs(self.factor) ** 2

    @property
    def rows_norm_squared(self) -> float | None:
        c = self.operator.rows_norm_squared
        return None if c is None else c * self._energy

    @property
    def shift_invariant(self) -> bool:
        return self.operator.shift_invariant

    @property
    def groups(self) -> Array | None:
        return self.operator.groups

    @property
    def alike(self) -> Array | None:
        return self.operator.alike

    @property
    def norm_squared(self) -> float:
        return self._energy * self.operator.norm_squared

    def apply(self, x: Array) -> Array:
        y = self.operator.apply(x)
        return y * y.dtype.type(self.factor)  # type: ignore[no-any-return]

    def adjoint(self, y: Array) -> Array:
        x = self.operator.adjoint(y)
        return x * x.dtype.type(np.conj(self.factor))  # type: ignore[no-any-return]

    def solve_gram(self, r: Array, ridge: float = 0.0) -> Array:
        scale = real_of(r.dtype).type(self._energy)
        return self.operator.solve_gram(r, ridge / self._energy) / scale  # type: ignore[no-any-return]

    def gains(self, ridge: float = 0.0) -> Array:
        return self.operator.gains(ridge / self._energy)

    def gains_error(self, ridge: float = 0.0) -> float:
        return self.operator.gains_error(ridge / self._energy)
