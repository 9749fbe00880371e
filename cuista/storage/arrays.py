"""Arrays read from files of many formats, and written to .npy, .npz, .mat and .h5. Nothing is ever unpickled."""

from __future__ import annotations

import contextlib
import io
import math
import os
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from cuista.checks import Array, as_numbers, check_numbers
from cuista.errors import FileError
from cuista.storage import foreign, matlab, text
from cuista.storage.entries import UNNAMED, Entry, arrays_of, chosen, dense, kind_of, listed, named
from cuista.storage.files import check_claim, complete, open_input, replacing, write_checked
from cuista.storage.records import is_hdf5, new_hdf5, open_hdf5
from cuista.storage.trial import DEFLATED

# The entries of a .npz file in which SciPy saves a sparse matrix.
SPARSE = {"format", "shape", "data"}


def load_array(path: str | os.PathLike[str], *names: str, key: str | None = None, pairs: bool = False) -> Array:
    """Load one array of numbers from a .npy, .npz, .mat, .h5, .csv or .txt file. Sparse matrices become dense.

    It may be complex, and is returned as `as_numbers` does. Where it must be real, `as_real` comes next.

    Parameters
    ----------
    path
        The file. Its content decides the format, except that text is recognised by its name.
    names
        The names to look for, in this order, in a file that holds several arrays. A single array may have any name.
    key
        The name that the array must have; `names` are then ignored.
    pairs
        Whether neighbouring columns of a real matrix are the real and the imaginary parts of complex numbers, or
        neighbouring numbers along the last axis of any other array. A text file whose columns have such names, and one
        with numbers like 1+2i, needs no asking.

    Raises
    ------
    FileError
        If the file is missing, damaged or of another format, or has no such array; the message lists what it has.
    InputError
        If the array does not hold numbers, or has no pairs of columns and is to have them.
    """
    with _entries_in(path, pairs) as entries:
        name = chosen(path, entries, names, key)
        with complete(path):
            array = entries[name].read()
    array = as_numbers(array, named(path, name))
    return text.paired(array, named(path, name)) if pairs else array


@contextlib.contextmanager
def opened_array(
    path: str | os.PathLike[str], *names: str, key: str | None = None, pairs: bool = False
) -> Iterator[Any]:
    """Open one array of a file like `load_array`, but for reading by slices if the format allows it (.npy, .h5).

    An array with pairs of columns is read as a whole.

    Raises
    ------
    FileError, InputError
        As `load_array` does.
    """
    with _entries_in(path, pairs) as entries:
        name = chosen(path, entries, names, key)
        with complete(path):
            sliced = None if pairs else entries[name].sliced
            array = (sliced or entries[name].read)()
        check_numbers(array.dtype, named(path, name))
        yield text.paired(as_numbers(array, named(path, name)), named(path, name)) if pairs else array


def load_arrays(path: str | os.PathLike[str]) -> dict[str, Array]:
    """Load all arrays of numbers in a file, by name. The only array of a format without names is called `array`.

    Raises
    ------
    FileError
        If the file is missing, damaged or of another format, or holds no array of numbers; the message says what else.
    """
    with _entries_in(path) as entries:
        arrays = arrays_of(entries)
        if entries and not arrays:
            raise FileError(f"{path} holds {listed(entries)}; expected arrays of numbers")
        with complete(path):
            return {name: np.asarray(entry.read()) for name, entry in arrays.items()}


def described(path: str | os.PathLike[str], *, whole: bool = False) -> str:
    """What a file of arrays holds, in words. With `whole`, all is read.

    These are names, shapes, which arrays are complex, and what is no array of numbers.

    Raises
    ------
    FileError
        If the file is missing, damaged or of another format.
    """
    with _entries_in(path) as entries:
        if whole:
            with complete(path):
                for entry in arrays_of(entries).values():
                    entry.read()
        return listed({name: _with_dtype(path, entry) for name, entry in entries.items()})


def _with_dtype(path: str | os.PathLike[str], entry: Entry) -> Entry:
    """The entry with its dtype. An array that cannot be read is left as it is."""
    if entry.what or entry.dtype is not None:
        return entry
    try:
        with complete(path):
            return replace(entry, dtype=np.asarray(entry.read()).dtype)
    except FileError:
        return entry


@contextlib.contextmanager
def _entries_in(path: str | os.PathLike[str], pairs: bool = False) -> Iterator[Mapping[str, Entry]]:
    """What a file holds, by name. In formats that allow it, each array is read when it is asked for."""
    with contextlib.ExitStack() as stack:
        with complete(path):
            entries = _found(path, stack, pairs)
        yield entries


def _found(path: str | os.PathLike[str], stack: contextlib.ExitStack, pairs: bool) -> Mapping[str, Entry]:
    """What a file holds, by name. What must be closed after the entries were read is added to the stack."""
    head = _head(path)
    if is_hdf5(path):
        return foreign.entries_in(stack.enter_context(open_hdf5(path)), path, head)
    if head.startswith(b"\x93NUMPY"):
        return {UNNAMED: _npy_entry(path)}
    file = stack.enter_context(open_input(path))
    if head.startswith(b"PK"):
        return _npz_entries(path, file)
    if matlab.is_matlab_5(head):
        return matlab.entries_5(path, file)
    if matlab.is_matlab_4(head):
        return matlab.entries_4(path, file)
    matlab.refuse_octave(path, head)
    if head.startswith(b"\x1f\x8b"):
        raise FileError(f"{path} is compressed by gzip; decompress it first")
    if _is_text(path):
        array = text.read_text(path, pairs=pairs)
        return {UNNAMED: Entry(lambda: array, array.shape, dtype=array.dtype)}
    raise FileError(f"{path} is not a .npy, .npz, .mat or .h5 file by its content, nor a .csv or .txt file by its name")


def has_arrays(path: str | os.PathLike[str]) -> bool:
    """Whether a file is one of arrays, by its content or its name. Raises FileError if it cannot be read."""
    head = _head(path)
    signed = head.startswith((b"\x93NUMPY", b"PK", *matlab.OCTAVE)) or is_hdf5(path)
    return signed or matlab.is_matlab_5(head) or matlab.is_matlab_4(head) or _is_text(path)


def _is_text(path: str | os.PathLike[str]) -> bool:
    return Path(path).suffix.lower() in text.ENDINGS


def _head(path: str | os.PathLike[str]) -> bytes:
    """The first bytes of a file, which say what it is."""
    with open_input(path) as file:
        return file.read(512)


def _npy_entry(path: str | os.PathLike[str]) -> Entry:
    """The array of a .npy file, after a check that it is not larger than the file."""
    with open_input(path) as file:
        shape, dtype = _header(path, file, os.fstat(file.fileno()).st_size)
    in_parts = foreign.has_parts(dtype)
    if kind_of(dtype)[0] and not in_parts:
        return Entry.other(*kind_of(dtype))

    def read() -> Any:
        with open_input(path) as file:
            array = np.load(file, allow_pickle=False)
        return foreign.as_complex(array) if in_parts else array

    if in_parts:
        return Entry(read, shape, dtype=foreign.complex_dtype(dtype))

    return Entry(read, shape, sliced=lambda: np.load(path, mmap_mode="r", allow_pickle=False), dtype=dtype)


def _npz_entries(path: str | os.PathLike[str], file: IO[bytes]) -> dict[str, Entry]:
    """The arrays of a .npz file. One that is too large to try is refused when it is read."""
    archive = zipfile.ZipFile(file)
    found: dict[str, Entry] = {}
    whole = os.fstat(file.fileno()).st_size
    for item in archive.infolist():
        archive.open(item).close()  # its name is checked, which may be damaged
        name, ending = os.path.splitext(item.filename)
        if ending != ".npy":
            continue
        stored = min(item.compress_size, whole)
        if item.file_size > DEFLATED * stored:
            raise FileError(f"{path} is damaged: {item.filename} claims {item.file_size} bytes")
        read = partial(_read_member, path, archive, item, stored)
        try:
            check_claim(path, name, item.file_size, stored)
        except FileError:
            found[name] = Entry(read)
            continue
        with archive.open(item) as member:
            shape, dtype = _header(path, member, item.file_size)
        if foreign.has_parts(dtype):
            found[name] = Entry(read, shape, dtype=foreign.complex_dtype(dtype))
        else:
            found[name] = Entry.other(*kind_of(dtype)) if kind_of(dtype)[0] else Entry(read, shape, dtype=dtype)
    if not found:
        raise FileError(f"{path} is a zip file without arrays (.npy); save a table of a spreadsheet as .csv")
    if found.keys() >= SPARSE and found["format"].what == "text" and found["shape"].shape == (2,):
        rows, columns = map(int, found["shape"].read())
        return {UNNAMED: Entry(partial(_sparse, path, file, archive), (rows, columns), dtype=found["data"].dtype)}
    return found


def _read_member(path: str | os.PathLike[str], archive: zipfile.ZipFile, item: zipfile.ZipInfo, stored: int) -> Array:
    """An array in a .npz file."""
    check_claim(path, os.path.splitext(item.filename)[0], item.file_size, stored)
    with archive.open(item) as member:
        _header(path, member, item.file_size)
    with archive.open(item) as member:
        array: Array = np.lib.format.read_array(member, allow_pickle=False)
        if member.read(1):  # at the end, the checksum is checked
            raise FileError(f"{path} is damaged: {item.filename} is longer than its array")
    return foreign.as_complex(array) if foreign.has_parts(array.dtype) else array


def _sparse(path: str | os.PathLike[str], file: IO[bytes], archive: zipfile.ZipFile) -> Array:
    """The sparse matrix in a .npz file of SciPy, as the dense one that it is."""
    from scipy.sparse import load_npz

    for item in archive.infolist():
        check_claim(path, item.filename, item.file_size, min(item.compress_size, os.fstat(file.fileno()).st_size))
    if archive.testzip() is not None:
        raise FileError(f"{path} is damaged: the checksum of {archive.testzip()} is another")
    file.seek(0)
    return dense(path, UNNAMED, load_npz(file))


def _header(path: str | os.PathLike[str], file: IO[bytes], size: int) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """The shape and the dtype of the array in a .npy file of this size.

    Raises
    ------
    FileError
        If the array is declared to have more bytes.
    """
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    declared = math.prod(shape) * dtype.itemsize
    if declared > size and not dtype.hasobject:
        raise FileError(f"{path} is damaged: an array of shape {shape} takes {declared} bytes, and there are {size}")
    return shape, dtype


def save_arrays(path: str | os.PathLike[str], arrays: Mapping[str, Array], *, overwrite: bool = False) -> None:
    """Write arrays atomically to a .npy (one array only), .npz, .mat or .h5 file, by the name's ending.

    Raises
    ------
    FileError
        As `replacing` does; also if the ending is another one, or if several arrays are to go to a .npy file.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (".npy", ".npz", ".mat", ".h5"):
        raise FileError(f"{path} has no known ending; expected a name ending in .npy, .npz, .mat or .h5")
    if suffix == ".npy" and len(arrays) != 1:
        raise FileError(f"{path}: a .npy file holds one array, and there are {', '.join(arrays)}; write .npz or .mat")
    with replacing(path, overwrite=overwrite) as file:
        if suffix == ".h5":
            with new_hdf5(file) as hdf5:
                for name, array in arrays.items():
                    hdf5[name] = array
            return
        encoded = io.BytesIO()
        if suffix == ".npy":
            np.save(encoded, next(iter(arrays.values())), allow_pickle=False)
        elif suffix == ".npz":
            np.savez(encoded, allow_pickle=False, **arrays)
        else:
            from scipy.io import savemat

            savemat(encoded, dict(arrays), oned_as="column")  # type: ignore[arg-type]
        write_checked(file, encoded.getbuffer())
