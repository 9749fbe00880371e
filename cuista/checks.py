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


def in_double(array: Array) -> Array:
    """The array in double precision, itself if it is already."""
    return array.astype(np.result_type(array, np.float64), copy=False)


def check_real(dtype: np.dtype[Any], name: str) -> None:
    """Raise InputError unless the dtype of an array is one of real numbers."""
    if dtype.kind == "c":
        raise InputError(f"{name} must be real; found {dtype}")
    if dtype.kind not in "fiub":
        raise InputError(f"{name} has dtype {dtype}; expected real numbers")


def as_numbers(array: ArrayLike, name: str) -> Array:
    """Convert an array to float64, or to complex128 if it is complex; float32 and complex64 stay as they are.

    Raises
    ------
    InputError
        If the array holds anything but numbers.
    """
    array = np.asarray(array)
    check_numbers(array.dtype, name)
    if array.dtype in (np.float32, np.float64, np.complex64, np.complex128):
        return array
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)


def check_numbers(dtype: np.dtype[Any], name: str) -> None:
    """Raise InputError unless the dtype of an array is one of real or complex numbers."""
    if dtype.kind not in "fiubc":
        raise InputError(f"{name} has dtype {dtype}; expected real or complex numbers")


def check_finite(array: Array, name: str) -> None:
    """Raise InputError if the array has a NaN or an infinity; the message says where the first one is."""
    finite = np.isfinite(array)
    if not finite.all():
        first, count = tuple(int(i) for i in np.argwhere(~finite)[0]), array.size - finite.sum()
        raise InputError(f"{name} has {count} NaN or infinite entries, the first at {first}; expected finite numbers")


def is_extreme(magnitude: Array, largest: float = LARGEST) -> Array:
    """Whether magnitudes other than 0 are larger than `largest` or smaller than its inverse.

    The magnitude of a complex number is its modulus. By default, numbers are extreme whose squares are lost in single
    precision. Measurements are scaled before they are squared, so that only those are extreme that are lost themselves
    (`LARGEST_MEASUREMENT`).
    """
    magnitude = np.asarray(magnitude)
    magnitude = (np.abs(magnitude) if magnitude.dtype.kind == "c" else magnitude).astype(np.float64)
    return np.asarray((magnitude != 0) & ~((magnitude >= 1 / largest) & (magnitude <= largest)))


def extreme(magnitude: float, largest: float = LARGEST) -> str:
    """The end of a message about an extreme magnitude."""
    return f"{magnitude:.3g} in magnitude; expected {1 / largest:g} to {largest:g}. Change its unit"


def check_matrix(A: ArrayLike, name: str) -> Array:
    """Check that an array is a matrix (M, N) of finite numbers without a zero column.

    It may be complex, and is returned as `as_numbers` does. Where it must be real, `as_real` comes first.

    Raises
    ------
    InputError
        If it is anything else, or of extreme magnitude; the message names the first offending entry or column.
    """
    A = as_numbers(A, name)
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
    shape: tuple[int, ...],
    length: int,
    name: str,
    *,
    columns: bool = False,
    signals: int | None = None,
    snapshots: int = 1,
    parts: bool = False,
) -> int:
    """Check that an array of this shape has samples of this length, and return their number.

    The shape is (samples, length), or (length,) for one sample. With several snapshots L it is (samples, L, length), or
    (L, length) for one sample.

    Parameters
    ----------
    columns
        Whether the samples are columns, so that the shapes are the other way round: (length, L, samples), as MATLAB has
        them. A vector is one sample in any case.
    signals
        The length of the signals that are recovered from the samples, with which it may be confused.
    snapshots
        The number of snapshots L that each sample has.
    parts
        Whether real numbers are found where complex ones are expected, which may be stored as pairs of their parts.

    Raises
    ------
    InputError
        If it has another shape; the message says how to go on if that looks like another layout.
    """
    one = (length,) if snapshots == 1 else (snapshots, length)
    found = _samples_in(shape[::-1] if columns else shape, one)
    if found is not None:
        return found
    is_other = _samples_in(shape if columns else shape[::-1], one) is not None
    hint, option = "", "columns" if is_other and not columns else ""
    if parts and shape[-1:] == (2 * length,):
        hint = "; if neighbouring columns are real and imaginary parts, ask for complex pairs"
        option = "complex_pairs"
    elif is_other:
        seem = "rows, so do not ask for columns" if columns else "columns"
        hint = f"; it looks transposed: its samples seem to be {seem}"
    elif signals is not None and shape[0 if columns else -1 :][:1] == (signals,):
        hint = f"; {signals} is the length of the signals: if these are measurements, the matrix looks transposed"
    elif snapshots > 1:
        hint = _hint_of_snapshots(shape[::-1] if columns else shape, length, snapshots, columns)
    elif len(shape) == 1 and shape[0] and shape[0] % length == 0:
        hint = f"; if it holds {shape[0] // length} samples one after the other, reshape it to (-1, {length})"
    elif len(shape) > 2 and shape[-1] == length:
        hint = f"; reshape it to (-1, {length})"
    each = ", ".join(map(str, one[::-1] if columns else one))
    axes = f"({each}, samples)" if columns else f"(samples, {each})"
    single = f"({each})" if len(one) > 1 else f"({each},)"
    message = f"{name} has shape {shape}; expected {axes}, or {single} for one sample{hint}"
    raise InputError(message, option=option or ())


def _samples_in(shape: tuple[int, ...], one: tuple[int, ...]) -> int | None:
    """How many samples of the shape `one` an array of this shape has; None if it has another shape."""
    if shape == one:
        return 1
    return shape[0] if len(shape) == len(one) + 1 and shape[1:] == one else None


def _hint_of_snapshots(shape: tuple[int, ...], length: int, snapshots: int, columns: bool) -> str:
    """What to do with an array that does not have this number of snapshots; the samples are its first axis."""
    if shape[-1:] != (length,) or len(shape) > 3:
        return ""
    if len(shape) == 2 and shape[0] and shape[0] % snapshots == 0 and not columns:
        many = f"if it holds {shape[0] // snapshots} samples with their snapshots one after the other"
        return f"; {many}, reshape it to (-1, {snapshots}, {length})"
    found = shape[-2] if len(shape) > 1 else 1
    return f"; {snapshots} snapshots of each sample are expected, and it has {found}"


def check_rows(
    array: ArrayLike, length: int, name: str, largest: float = LARGEST_MEASUREMENT, *, snapshots: int = 1
) -> Array:
    """Check that an array holds samples (samples, length), or one of shape (length,), with finite entries.

    With several snapshots L, it holds samples (samples, L, length), or one of shape (L, length). It may be complex;
    where it must be real, `as_real` comes first. Measurements may not be larger than `largest` in magnitude, nor
    smaller than its inverse unless they are 0.

    Returns
    -------
    Array
        The samples (samples, length) or (samples, L, length), of the dtype that `as_numbers` gives.

    Raises
    ------
    InputError
        If it is anything else, or of a magnitude beyond `largest` or its inverse; the message says so if the array
        looks transposed.
    """
    array = as_numbers(array, name)
    check_layout(array.shape, length, name, snapshots=snapshots)
    return check_samples(array.reshape(-1, *((snapshots,) if snapshots > 1 else ()), length), name, largest)


def check_samples(samples: Array, name: str, largest: float = LARGEST_MEASUREMENT, first: int = 0) -> Array:
    """Return samples (samples, length) or (samples, L, length) if `check_rows` accepts their numbers.

    `first` is the number of the first sample.
    """
    for where in np.argwhere(~np.isfinite(samples))[:1]:
        within = f" of snapshot {where[1]}" if len(where) > 2 else ""
        place = f"entry {where[-1]}{within} of sample {first + where[0]}"
        raise InputError(f"{name}: {place} is {samples[tuple(where)]}; expected finite numbers")
    peaks = np.abs(samples).max(axis=tuple(range(1, samples.ndim)), initial=0)
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
