"""What files of arrays hold, by name, and the choice of one array among several."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cuista.checks import Array
from cuista.errors import FileError, InputError
from cuista.storage.files import is_outsized

# The name of an array in a format without names.
UNNAMED = "array"
# How many names a message lists.
NAMES = 12


@dataclass(frozen=True)
class Entry:
    """What a file holds under one name: an array of numbers, or something else.

    Parameters
    ----------
    read
        Reads the array.
    shape
        The shape of the array.
    what
        What the entry is, in words, if it is not an array of numbers. `read` is not called then.
    advice
        How to get an array of numbers out of such an entry.
    sliced
        Opens the array for reading by slices, if the format allows that.
    dtype
        The dtype of the array; None if only `read` can tell.
    is_part
        Whether the entry belongs to another one, as the indices of a sparse matrix do. Only `key` selects such entries.
    """

    read: Callable[[], Any]
    shape: tuple[int, ...] = ()
    what: str = ""
    advice: str = ""
    sliced: Callable[[], Any] | None = None
    dtype: Any = None
    is_part: bool = False

    @classmethod
    def other(cls, what: str, advice: str = "") -> Entry:
        """An entry that is not an array of numbers; `advice` says how to get one."""
        return cls(lambda: None, (), what, advice)


def kind_of(dtype: Any) -> tuple[str, str]:
    """What values of a dtype are, in words, if they are not numbers, and advice."""
    if dtype.kind in "fiubc":
        return "", ""
    if dtype.names is not None:
        return f"a table with the columns {', '.join(dtype.names)}", "Save its numbers as an array"
    if dtype.hasobject:
        return "pickled Python objects", "cuista never loads them, because they could run any code: save plain arrays"
    return {"S": "text", "U": "text", "M": "dates", "m": "times"}.get(dtype.kind, f"of dtype {dtype}"), ""


def chosen(path: str | os.PathLike[str], entries: Mapping[str, Entry], names: tuple[str, ...], key: str | None) -> str:
    """The name of the requested array among the entries of a file: `key`, or the first of `names`, or the only array.

    Raises
    ------
    FileError
        If there is no such array, or more than one that could be meant; the message lists what there is.
    InputError
        If the entry of that name is not an array of numbers; the message says what it is.
    """
    wanted = (key.strip("/"),) if key else names
    arrays = arrays_of(entries)
    found = next((name for held in (arrays, entries) for name in wanted if name in held), None)
    if found is None and key is None:
        # A number beside a matrix, such as a sampling rate, is not what is looked for.
        several = arrays if len(arrays) == 1 else {name for name, held in arrays.items() if math.prod(held.shape) != 1}
        several = several or {name for name, held in entries.items() if not held.is_part}
        found = next(iter(several)) if len(several) == 1 else None
    if found is None:
        expected = " or ".join(map(repr, wanted)) or "a single array"
        advice = ". Choose one of them, or rename it" if arrays else ""
        raise FileError(f"{path} holds {listed(entries)}; expected {expected}{advice}", option="key" if arrays else ())
    entry = entries[found]
    if entry.what:
        advice = entry.advice and f". {entry.advice}"
        raise InputError(f"{named(path, found)} is {entry.what}; expected an array of numbers{advice}")
    return found


def arrays_of(entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """The entries that are arrays of numbers of their own."""
    return {name: entry for name, entry in entries.items() if not entry.what and not entry.is_part}


def named(path: str | os.PathLike[str], name: str) -> str:
    """What messages call an array."""
    return f"{path}" if name == UNNAMED else f"{name} in {path}"


def listed(entries: Mapping[str, Entry]) -> str:
    """The names of entries with their shapes and whether they are complex, or with what else they are, for messages."""
    all_of = [
        f"{name} ({entry.what})" if entry.what else f"{name} {entry.shape}{_complex(entry.dtype)}"
        for name, entry in entries.items()
        if not entry.is_part
    ]
    more = [f"{len(all_of) - NAMES} more"] if len(all_of) > NAMES + 1 else []
    return ", ".join([*all_of[: NAMES if more else None], *more]) or "no arrays"


def _complex(dtype: Any) -> str:
    return " complex" if dtype is not None and np.dtype(dtype).kind == "c" else ""


def dense(path: str | os.PathLike[str], name: str, matrix: Any) -> Array:
    """A sparse matrix of SciPy, from a file, as the dense one that it is.

    Raises
    ------
    FileError
        If it would be too large to try.
    ValueError
        If its indices are not ones of its rows and columns.
    """
    size = math.prod(map(int, matrix.shape)) * matrix.dtype.itemsize
    if is_outsized(size, os.path.getsize(path)):
        raise FileError(
            f"{path}: the sparse matrix {name!r} of shape {matrix.shape} is used as a dense one and would take {size} "
            "bytes, so that the file looks as if it was made to fill the memory; if it is right, save it dense"
        )
    if hasattr(matrix, "check_format"):
        matrix.check_format(full_check=True)
    array: Array = matrix.toarray()
    return array
