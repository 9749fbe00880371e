"""Checks of what comes from outside: arrays, which error messages call by the given `name`, and optional libraries."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cuista.errors import InputError, MissingLibraryError

Array = NDArray[Any]
# The largest magnitude of numbers to compute with, and of measurements; the smallest ones are their inverses.
LARGEST, LARGEST_MEASUREMENT = 1e15, 1e33
# What is said of complex numbers.
COMPLEX = (
    "complex numbers are not supported by this version; complex measurements are planned. Do not stack real and "
    "imaginary parts instead: that is another problem, in which each of the two is shrunk on its own"
)


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
    check_real(array.dtype, name)
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)


def check_real(dtype: np.dtype[Any], name: str) -> None:
    """Raise InputError unless the dtype of an array is one of real numbers."""
    if dtype.kind == "c":
        raise InputError(f"{name} has dtype {dtype}, and {COMPLEX}")
    if dtype.kind not in "fiub":
        raise InputError(f"{name} has dtype {dtype}; expected real numbers")


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


def check_layout(
    shape: tuple[int, ...], length: int, name: str, *, columns: bool = False, signals: int | None = None
) -> int:
    """Check that an array of this shape has samples of this length, and return their number.

    Parameters
    ----------
    columns
        Whether the samples are columns. A vector is one sample in any case.
    signals
        The length of the signals that are recovered from the samples, with which it may be confused.

    Raises
    ------
    InputError
        If it has another shape; the message says how to go on if that looks like another layout.
    """
    if shape == (length,) or (len(shape) == 2 and shape[0 if columns else 1] == length):
        return 1 if len(shape) == 1 else shape[1 if columns else 0]
    is_other = len(shape) == 2 and shape[1 if columns else 0] == length
    hint = ""
    if is_other:
        seem = "rows, so do not ask for columns" if columns else "columns"
        hint = f"; it looks transposed: its samples seem to be {seem}"
    elif signals is not None and shape[0 if columns else -1 :][:1] == (signals,):
        hint = f"; {signals} is the length of the signals: if these are measurements, the matrix looks transposed"
    elif len(shape) == 1 and shape[0] and shape[0] % length == 0:
        hint = f"; if it holds {shape[0] // length} samples one after the other, reshape it to (-1, {length})"
    elif len(shape) > 2 and shape[-1] == length:
        hint = f"; reshape it to (-1, {length})"
    axes = f"({length}, samples)" if columns else f"(samples, {length})"
    message = f"{name} has shape {shape}; expected {axes}, or ({length},) for one sample{hint}"
    raise InputError(message, option="columns" if is_other and not columns else ())


def check_rows(array: ArrayLike, length: int, name: str, largest: float = LARGEST_MEASUREMENT) -> Array:
    """Check that an array holds samples (samples, length), or one of shape (length,), with finite entries.

    Measurements may not be larger than `largest` in magnitude, nor smaller than its inverse unless they are 0.

    Returns
    -------
    Array
        The samples (samples, length), of the dtype that `as_real` gives.

    Raises
    ------
    InputError
        If it is anything else, or of a magnitude beyond `largest` or its inverse; the message says so if the array
        looks transposed.
    """
    array = as_real(array, name)
    check_layout(array.shape, length, name)
    return check_samples(array.reshape(-1, length), name, largest)


def check_samples(samples: Array, name: str, largest: float = LARGEST_MEASUREMENT, first: int = 0) -> Array:
    """Return samples (samples, length) if `check_rows` accepts their numbers; `first` is the number of the first."""
    for sample, entry in np.argwhere(~np.isfinite(samples))[:1]:
        raise InputError(
            f"{name}: entry {entry} of sample {first + sample} is {samples[sample, entry]}; expected finite numbers"
        )
    peaks = np.abs(samples).max(axis=1, initial=0)
    for sample in np.flatnonzero(is_extreme(peaks, largest))[:1]:
        raise InputError(f"{name}: the largest entry of sample {first + sample} is {extreme(peaks[sample], largest)}")
    return samples


def in_columns(shape: tuple[int, ...], length: int, columns: bool) -> bool:
    """Whether the samples in a file are columns: as the user said, or because there is one column, as in MATLAB."""
    return columns or shape == (length, 1)


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
