"""Checks of what comes from outside: arrays, which error messages call by the given `name`, and optional libraries."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cuista.errors import InputError, MissingLibraryError

Array = NDArray[Any]
# The largest magnitude of numbers to compute with, and of measurements; the smallest ones are their inverses.
LARGEST, LARGEST_MEASUREMENT = 1e15, 1e30


def library(module: str, extra: str, use: str) -> Any:
    """Import a module of an optional library.

    Raises
    ------
    MissingLibraryError
        If it is not installed. The message begins with its `use`, and names the extra that installs it.
    """
    try:
        return import_module(module)
    except ImportError:
        raise MissingLibraryError(f"{use}, which is not installed: pip install 'cuista[{extra}]'") from None


def as_real(array: ArrayLike, name: str) -> Array:
    """Convert an array of real numbers to float64; arrays of float32 stay as they are.

    Raises
    ------
    InputError
        If the array holds anything but real numbers.
    """
    array = np.asarray(array)
    if array.dtype.kind not in "fiub":
        raise InputError(f"{name} has dtype {array.dtype}; expected real numbers")
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)


def check_finite(array: Array, name: str) -> None:
    """Raise InputError if the array has a NaN or an infinity; the message says where the first one is."""
    finite = np.isfinite(array)
    if not finite.all():
        first, count = tuple(int(i) for i in np.argwhere(~finite)[0]), array.size - finite.sum()
        raise InputError(f"{name} has {count} NaN or infinite entries, the first at {first}; expected finite numbers")


def is_extreme(magnitude: Array, largest: float = LARGEST) -> Array:
    """Whether magnitudes other than 0 are larger than `largest` or smaller than its inverse.

    By default, numbers are extreme whose squares are lost in single precision. Measurements are scaled before they are
    squared, so that only those are extreme that are lost themselves (`LARGEST_MEASUREMENT`).
    """
    magnitude = np.asarray(magnitude, np.float64)
    return np.asarray((magnitude != 0) & ~((magnitude >= 1 / largest) & (magnitude <= largest)))


def extreme(magnitude: float, largest: float = LARGEST) -> str:
    """The end of a message about an extreme magnitude."""
    return f"{magnitude:.3g} in magnitude; expected {1 / largest:g} to {largest:g}. Change its unit"


def check_matrix(A: ArrayLike, name: str) -> Array:
    """Check that an array is a matrix (M, N) of finite numbers without a zero column, and return it as `as_real` does.

    Raises
    ------
    InputError
        If it is anything else, or of extreme magnitude; the message names the first offending entry or column.
    """
    A = as_real(A, name)
    if A.ndim != 2 or 0 in A.shape:
        raise InputError(f"{name} has shape {A.shape}; expected (M, N)")
    check_finite(A, name)
    largest = np.abs(A).max()
    if is_extreme(largest):
        raise InputError(f"the largest entry of {name} is {extreme(largest)}")
    zero = np.flatnonzero(~A.any(axis=0))
    if zero.size:
        raise InputError(
            f"column {zero[0]} of {name} is zero (the matrix has {zero.size} zero columns); a zero column measures "
            "nothing of its entry of the signal, so that nothing can be recovered: remove the zero columns"
        )
    return A


def check_rows(array: ArrayLike, length: int, name: str) -> Array:
    """Check that an array has the shape (samples, length) and finite entries, and return it as `as_real` does.

    Raises
    ------
    InputError
        If it is anything else, or of extreme magnitude; the message says so if the array looks transposed.
    """
    array = as_real(array, name)
    if array.ndim != 2 or array.shape[1] != length:
        transposed = array.ndim == 2 and array.shape[0] == length
        hint = "; it looks transposed: samples must be rows" if transposed else ""
        raise InputError(f"{name} has shape {array.shape}; expected (samples, {length}){hint}")
    check_finite(array, name)
    peaks = np.abs(array).max(axis=1, initial=0)
    for row in np.flatnonzero(is_extreme(peaks, LARGEST_MEASUREMENT)):
        raise InputError(f"the largest entry of row {row} of {name} is {extreme(peaks[row], LARGEST_MEASUREMENT)}")
    return array


def check_filters(D: ArrayLike, name: str) -> Array:
    """Check that an array holds finite, non-zero filters (s₁, s₂, F), and return it as `as_real` does.

    A single filter may have the shape (s₁, s₂).

    Raises
    ------
    InputError
        If it is anything else; the message names the first offending entry or filter.
    """
    D = as_real(D, name)
    D = D[:, :, None] if D.ndim == 2 else D
    if D.ndim != 3 or 0 in D.shape:
        raise InputError(f"{name} has shape {D.shape}; expected (s₁, s₂, F), with the filters in the last axis")
    check_finite(D, name)
    zero = np.flatnonzero(~D.any(axis=(0, 1)))
    if zero.size:
        raise InputError(
            f"filter {zero[0]} of {name} is zero (there are {zero.size} zero filters); a zero filter adds nothing to a "
            "picture: remove the zero filters"
        )
    return D
