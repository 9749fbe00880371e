"""Checks of arrays that come from outside."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cuista.errors import InputError

Array = NDArray[Any]


def as_real(array: ArrayLike, name: str) -> Array:
    """The array as float64, unless it is float32 already.

    Raises
    ------
    InputError
        If it holds anything but real numbers.
    """
    array = np.asarray(array)
    if array.dtype.kind not in "fiub":
        raise InputError(f"{name} has dtype {array.dtype}; expected real numbers")
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)


def check_finite(array: Array, name: str) -> None:
    """Raise InputError if there is a NaN or an infinity in the array, saying where the first one is."""
    finite = np.isfinite(array)
    if not finite.all():
        where = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise InputError(f"{name} has {array.size - finite.sum()} NaN or infinite entries, the first at {where}")


def check_matrix(A: ArrayLike, name: str) -> Array:
    """The array itself, as `as_real`, if it is a finite matrix (M, N) without a zero column.

    Raises
    ------
    InputError
        If it is not; the message names the first offending entry or column.
    """
    A = as_real(A, name)
    if A.ndim != 2 or 0 in A.shape:
        raise InputError(f"{name} has shape {A.shape}; expected (M, N)")
    check_finite(A, name)
    zero = np.flatnonzero(~A.any(axis=0))
    if zero.size:
        raise InputError(
            f"column {zero[0]} of {name} is zero ({zero.size} of {A.shape[1]} are): nothing can be recovered for it; "
            "remove the zero columns"
        )
    return A


def check_rows(array: ArrayLike, length: int, name: str) -> Array:
    """The array itself, as `as_real`, if it is finite and (samples, length).

    Raises
    ------
    InputError
        If it is not; the message says so if it looks transposed.
    """
    array = as_real(array, name)
    if array.ndim != 2 or array.shape[1] != length:
        transposed = array.ndim == 2 and array.shape[0] == length
        hint = "; it looks transposed: samples are rows here" if transposed else ""
        raise InputError(f"{name} has shape {array.shape}; expected (samples, {length}){hint}")
    check_finite(array, name)
    return array


def check_filters(D: ArrayLike, name: str) -> Array:
    """The array as `as_real`, if it is finite filters (s₁, s₂, F), none of them zero; one filter may be (s₁, s₂).

    Raises
    ------
    InputError
        If it is not; the message names the first offending entry or filter.
    """
    D = as_real(D, name)
    D = D[:, :, None] if D.ndim == 2 else D
    if D.ndim != 3 or 0 in D.shape:
        raise InputError(f"{name} has shape {D.shape}; expected (s₁, s₂, F), filters in the last axis")
    check_finite(D, name)
    zero = np.flatnonzero(~D.any(axis=(0, 1)))
    if zero.size:
        raise InputError(
            f"filter {zero[0]} of {name} is zero ({zero.size} of {D.shape[2]} are): it stands for nothing; remove them"
        )
    return D
