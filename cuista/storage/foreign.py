"""Arrays in the HDF5 files of other software: h5py, MATLAB 7.3, Octave, Julia and pandas.

HDF5 does not say in which order a program stores the axes of an array. MATLAB, Octave and Julia store arrays column by
column, so that their axes are reversed in the file. That is undone where a file says who wrote it. Nothing is guessed
for other files, such as those of MATLAB's `h5write`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from cuista.checks import Array
from cuista.errors import FileError
from cuista.storage.entries import Entry, dense, kind_of
from cuista.storage.matlab import BYTES, OTHERS
from cuista.storage.records import UNWRITTEN, check_stored

# How files begin whose arrays are all stored column by column.
BY_COLUMN = (b"MATLAB", b"HDF5-based Julia Data Format", b"Julia data file")
# The names of the parts of complex numbers, as MATLAB, Octave, Julia, h5py and others write them (in lower case).
COMPLEX = {("real", "imag"), ("real", "imaginary"), ("re", "im"), ("r", "i")}
# The parts of a sparse matrix, by what stores it: values, indices and pointers. The last set is of Julia.
SPARSE = ({"data", "ir", "jc"}, {"data", "indices", "indptr"}, {"nzval", "rowval", "colptr"})
# Groups in which MATLAB and Julia keep what no variable is.
HIDDEN = ("#refs#", "#subsystem#", "_types", "_refs")


class ByColumn:
    """An array of an HDF5 file that is stored column by column, with its axes in the order that its writer meant."""

    def __init__(self, node: Any) -> None:
        self.node = node
        self.shape: tuple[int, ...] = node.shape[::-1]
        self.dtype, self.size = node.dtype, node.size

    def __getitem__(self, where: Any) -> Array:
        where = where if isinstance(where, tuple) else (where,)
        where += (slice(None),) * (len(self.shape) - len(where))
        return np.transpose(np.asarray(self.node[where[::-1]]))


class Complex:
    """An array of complex numbers that are stored as their two parts, for reading by slices."""

    def __init__(self, stored: Any) -> None:
        self.stored = stored
        self.shape: tuple[int, ...] = stored.shape
        self.dtype, self.size = complex_dtype(stored.dtype), stored.size

    def __getitem__(self, where: Any) -> Array:
        return as_complex(self.stored[where])


def entries_in(file: Any, path: str | os.PathLike[str], head: bytes) -> dict[str, Entry]:
    """What the open HDF5 file `path` holds, whose first bytes are `head`. Links are not followed, and nothing is read.

    Raises
    ------
    FileError
        If names are damaged, or if far more is declared than was ever written.
    """
    return _Visit(file, path, head.startswith(BY_COLUMN)).found


class _Visit:
    """One look at all groups and datasets of a file. Some groups are an array, whose members are then its parts."""

    def __init__(self, file: Any, path: str | os.PathLike[str], by_column: bool) -> None:
        self.path, self.by_column = path, by_column
        self.found: dict[str, Entry] = {}
        self.unwritten, self.counted = 0, set[str]()
        self.whole: set[str] = set()  # the groups that are an entry themselves
        self.octave: set[str] = set()
        file.visititems(self.visit)

    def visit(self, name: Any, node: Any) -> None:
        import h5py

        if not isinstance(name, str) or "\0" in name:
            raise FileError(f"{self.path} is damaged: it has an array whose name is {name!r}")
        outer = name.rpartition("/")[0]
        is_part = outer in self.whole
        if isinstance(node, h5py.Group):
            entry = self.group(name, node)
            if is_part:
                self.whole.add(name)
        elif isinstance(node, h5py.Dataset):
            entry = self.dataset(name, node, self.by_column or outer in self.octave)
        else:
            return
        if name.split("/")[0] not in HIDDEN:
            self.found[name] = replace(entry, is_part=entry.is_part or is_part)

    def group(self, name: str, node: Any) -> Entry:
        """The entry of a group."""
        members = set(node)
        if "OCTAVE_NEW_FORMAT" in node.attrs and {"type", "value"} <= members:
            self.whole.add(name)
            self.octave.add(name)
            return self.octave_variable(name, node)
        if "MATLAB_sparse" in node.attrs:
            self.whole.add(name)
            return self.sparse(name, node, ("data", "ir", "jc"), int(np.ravel(node.attrs["MATLAB_sparse"])[0]))
        if any(members >= parts for parts in SPARSE):
            self.whole.add(name)
            return Entry.other("a sparse matrix in parts", "Save it dense")
        if "pandas_type" in node.attrs:
            self.whole.add(name)
            values = {"frame": "block0_values", "series": "values"}.get(_text(node.attrs["pandas_type"]))
            if values not in members or "block1_values" in members:  # a block has the columns of one type
                return Entry.other("a table of pandas", "Save its to_numpy() with numpy.save")
            return self.dataset(f"{name}/{values}", node[values], False)
        if _text(node.attrs.get("MATLAB_class")) == "struct":
            return Entry.other("a struct", _advice(name, members))
        # Only somebody who asks for a group by its name is told what it is.
        return replace(Entry.other("a group", _advice(name, members)), is_part=True)

    def octave_variable(self, name: str, node: Any) -> Entry:
        """The entry of a variable of Octave: a group with its type and its value."""
        import h5py

        kind, value = node["type"], node["value"]
        stated = _text(kind[()]) if isinstance(kind, h5py.Dataset) and kind.shape == () else ""
        if "OCTAVE_EMPTY_MATRIX" in node.attrs:
            return Entry.other("empty")
        if "string" in stated:
            return Entry.other("text")
        if stated == "cell":
            return Entry.other("a cell array")
        if isinstance(value, h5py.Group) and {"nr", "ridx"} <= set(value):
            return self.sparse(name, value, ("data", "ridx", "cidx"), int(value["nr"][()]))
        if isinstance(value, h5py.Group):
            return Entry.other(f"a {stated}", _advice(f"{name}/value", value))
        if not stated.endswith(("matrix", "scalar", "bool")):
            return Entry.other(f"a {stated} of Octave")
        return self.dataset(f"{name}/value", value, True)

    def dataset(self, name: str, node: Any, by_column: bool) -> Entry:
        """The entry of a dataset. One that must not be read is refused when that is tried."""
        kind = _text(node.attrs.get("MATLAB_class"))
        what = _what(node, kind)
        if what:
            return Entry.other(what, OTHERS.get(kind, ("", ""))[1])
        try:
            unwritten = check_stored(self.path, node)
        except FileError as error:
            return Entry(partial(_refuse, error), node.shape)
        self.unwritten += 0 if name in self.counted else unwritten
        self.counted.add(name)
        if self.unwritten > UNWRITTEN:
            raise FileError(f"{self.path} is damaged: {self.unwritten} bytes of its arrays were never written")
        shown = ByColumn(node) if by_column or kind in BYTES else node
        shown = shown if node.dtype.names is None else Complex(shown)
        return Entry(lambda: np.asarray(shown[()]), shown.shape, sliced=lambda: shown, dtype=shown.dtype)

    def sparse(self, name: str, node: Any, parts: tuple[str, str, str], rows: int) -> Entry:
        """The entry of a sparse matrix, which is stored by columns: its values, their rows, and the columns' ends."""
        if parts[2] not in node:
            return Entry.other("a sparse matrix without its columns")
        shape = (rows, math.prod(node[parts[2]].shape) - 1)
        return Entry(partial(self.expand, name, node, parts, shape), shape)

    def expand(self, name: str, node: Any, parts: tuple[str, str, str], shape: tuple[int, int]) -> Array:
        """A sparse matrix as the dense one that it is."""
        from scipy.sparse import csc_array

        held = [node[part] for part in parts if part in node]  # without values, two are missing
        for part in held:
            check_stored(self.path, part)
        ends = np.ravel(held[-1][()]).astype(np.int64)
        values, rows = (np.ravel(part[()]) for part in held[:2]) if len(held) == 3 else (np.zeros(0), np.zeros(0))
        values = as_complex(values) if values.dtype.names else values
        return dense(self.path, name, csc_array((values, rows.astype(np.int64), ends), shape=shape))


def _what(node: Any, kind: str) -> str:
    """What a dataset is, in words, if it is no array of numbers; `kind` is MATLAB's name of its class."""
    import h5py

    try:
        dtype, shape = node.dtype, node.shape
    except TypeError as error:
        return f"of a type that cannot be read ({error})"
    if shape is None or "MATLAB_empty" in node.attrs:
        return "empty"
    if kind and kind not in BYTES:
        return OTHERS.get(kind, (f"a {kind} of MATLAB",))[0]
    if h5py.check_string_dtype(dtype) is not None:
        return "text"
    if h5py.check_ref_dtype(dtype) is not None:
        return "a list of references"
    if h5py.check_vlen_dtype(dtype) is not None:
        return "a list of arrays"
    return "" if has_parts(dtype) else kind_of(dtype)[0]


def _advice(name: str, members: Iterable[str]) -> str:
    """How to get an array out of a group."""
    return next((f"Name an array in it, such as {name}/{member}" for member in sorted(members)), "")


def _text(value: Any) -> str:
    """An attribute or a dataset that is one text; empty if it is something else."""
    if isinstance(value, bytes):
        return value.decode("latin-1").strip("\0")
    return value if isinstance(value, str) else ""


def has_parts(dtype: Any) -> bool:
    """Whether values of a dtype are complex numbers that are stored as their parts."""
    names = dtype.names or ()
    parts = [dtype[name] for name in names]
    return tuple(name.lower().strip("_") for name in names) in COMPLEX and all(part.kind in "fiu" for part in parts)


def complex_dtype(dtype: Any) -> np.dtype[Any]:
    """The dtype of complex numbers whose parts have those of this one."""
    single = all(dtype[name].itemsize == 4 and dtype[name].kind == "f" for name in dtype.names)
    return np.dtype(np.complex64 if single else np.complex128)


def as_complex(value: Any) -> Array:
    """Complex numbers that are stored as their parts."""
    found: Array = np.empty(value.shape, complex_dtype(value.dtype))
    found.real, found.imag = (value[name] for name in value.dtype.names)
    return found


def _refuse(error: FileError) -> None:
    raise error
