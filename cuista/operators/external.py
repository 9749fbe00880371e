"""Any `scipy.sparse.linalg.LinearOperator`, and so any operator of PyLops."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from cuista.checks import Array
from cuista.counter import MATRIX, PROBES, Key
from cuista.errors import InputError
from cuista.operators.base import Operator, Shape, dot_test
from cuista.ops import ReferenceOps
from cuista.ops.joint import real_of

# How far the adjoint may be from one, relative to ‖A x‖ ‖y‖, and what operators do that are the same.
TOLERANCE = 1e-4
# By how many random signals it is recognised what an operator does.
PROBED = 4


class External(Operator):
    """A `scipy.sparse.linalg.LinearOperator`, whose `matmat` and `rmatmat` are A and Aᴴ, on signals (batch, N).

    Parameters
    ----------
    operator
        The operator of SciPy or PyLops. It computes on the CPU. With another engine, arrays are copied to it and back.
    ops, dtype
        As in `Operator`. If the operator is complex, so is the dtype, in the same precision. Measurements may be
        complex where signals are real, as with a real Fourier transform.

    Raises
    ------
    InputError
        If it is no such operator, has no adjoint, its adjoint is not one, or results have the wrong shape, a NaN or
        nothing but zeros.
    """

    kind = "external"

    def __init__(self, operator: Any, *, ops: ReferenceOps | None = None, dtype: DTypeLike = np.float32) -> None:
        if any(not hasattr(operator, name) for name in ("shape", "dtype", "matmat", "rmatmat")):
            raise InputError(f"{operator!r} is not a linear operator: it needs shape, dtype, matmat and rmatmat")
        self.operator = operator
        (M, N), own = operator.shape, np.result_type(operator.dtype or np.float64, np.float32)
        self._shape = (int(M),), (int(N),)
        # An operator that is linear over ℝ only says what it is by the types of its results.
        try:
            with np.errstate(all="ignore"):
                measured = np.asarray(operator.matmat(np.ones((N, 2), own)))
                signals = np.asarray(operator.rmatmat(np.ones((M, 2), measured.dtype)))
        except (NotImplementedError, TypeError) as error:
            raise InputError(
                f"the linear operator has no adjoint, or cannot be applied to several columns ({error}): give it "
                "matvec and rmatvec, or matmat and rmatmat"
            ) from None
        except ValueError as error:  # SciPy's, if a result of matvec or rmatvec has the wrong length, or the user's
            raise InputError(
                f"the linear operator of shape {M}×{N} cannot be applied: {error}. Its matvec must return {M} numbers, "
                f"and its rmatvec {N}"
            ) from error
        for shape, found, name in (((M, 2), measured, "matmat"), ((N, 2), signals, "rmatmat")):
            if found.shape != shape:
                raise InputError(
                    f"{name} of the linear operator of shape {M}×{N} turns two columns into an array of shape "
                    f"{found.shape}; expected {shape}"
                )
        self._own = own if signals.dtype.kind == "c" else real_of(own)
        super().__init__(ops, np.result_type(dtype, np.complex64) if signals.dtype.kind == "c" else dtype)
        self._measured = np.result_type(self.dtype, np.complex64) if measured.dtype.kind == "c" else self.dtype
        with np.errstate(all="ignore"):
            difference = dot_test(self)
        if not np.isfinite(difference):
            raise InputError(
                "the linear operator, or its adjoint, turns random numbers into zeros, or into numbers that are not "
                "finite; expected one that measures something"
            )
        if not difference <= TOLERANCE:
            raise InputError(
                f"the adjoint of the linear operator is not its adjoint: ⟨A x, y⟩ and ⟨x, Aᴴ y⟩ differ by a share of "
                f"{difference:.1e}; correct its rmatvec or rmatmat"
            )

    @property
    def shape(self) -> tuple[Shape, Shape]:
        return self._shape

    @property
    def measured_dtype(self) -> np.dtype[Any]:
        return self._measured

    def apply(self, x: Array) -> Array:
        columns = self.ops.to_numpy(x).T.astype(self._own)
        return self.ops.asarray(np.asarray(self.operator.matmat(columns)).T, self._measured)

    def adjoint(self, y: Array) -> Array:
        columns = self.ops.to_numpy(y).T.astype(np.result_type(self._own, self._measured))
        return self.ops.asarray(np.asarray(self.operator.rmatmat(columns)).T, self.dtype)

    @property
    def form(self) -> dict[str, Any]:
        return {"shape": [self.M, self.N], "action": self.action}

    @property
    def action(self) -> list[float]:
        """What the operator does to a few signals, by which it is recognised: ⟨b, A z⟩ for random vectors of signs.

        The real and imaginary parts follow one another, with six digits, so that they are the same on other machines.
        """
        draw = self.ops.random_words(Key(0, MATRIX), PROBES)
        b, z = (1.0 - 2.0 * (draw(PROBED * n).reshape(PROBED, n) >> np.uint64(63)) for n in self.operator.shape)
        images = np.asarray(self.operator.matmat(z.T.astype(self._own))).T
        products = (b * images).sum(axis=1).astype(np.complex128)
        return [float(f"{part:.5e}") for product in products for part in (product.real, product.imag)]

    def does(self, action: list[float]) -> bool:
        """Whether this is what the operator does, up to rounding errors."""
        expected, found = np.asarray(action, np.float64), np.asarray(self.action)
        return expected.shape == found.shape and bool(
            np.abs(expected - found).max() <= TOLERANCE * np.abs(expected).max()
        )
