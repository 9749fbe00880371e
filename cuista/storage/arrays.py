"""Arrays read from and written to .npy, .npz, .mat and .h5 files. Nothing is ever unpickled."""

from __future__ import annotations

import contextlib
import io
import math
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from cuista.checks import Array, as_real
from cuista.errors import FileError, InputError
from cuista.storage.files import check_claim, complete, open_input, replacing, write_checked
from cuista.storage.records import datasets, is_hdf5, new_hdf5, open_hdf5
from cuista.storage.trial import DEFLATED

# The bytes of a number by MATLAB's name of its class; classes that are not listed have 8, or are no numbers.
BYTES = {"single": 4, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4, "logical": 1, "char": 4}


def load_array(path: str | os.PathLike[str], *names: str, key: str | None = None) -> Array:
    """Load one array of numbers from a .npy, .npz, .mat or .h5 file.

    Parameters
    ----------
    path
        The file. Its content decides the format, not its name.
    names
        The names to look for, in this order, in a file that holds several arrays. A single array may have any name.
    key
        The name that the array must have; `names` are then ignored.

    Raises
    ------
    FileError
        If the file is missing, damaged or of another format, or has no such array; the message lists what it has.
    InputError
        If the array does not hold real numbers.
    """
    with _arrays_in(path) as arrays:
        found = _chosen(path, arrays, names, key)
        array = arrays[found]
    return as_real(array, f"{path} ({found})")


@contextlib.contextmanager
def opened_array(path: str | os.PathLike[str], *names: str, key: str | None = None) -> Iterator[Any]:
    """Open one array of a file like `load_array`, but for reading by slices if the format allows it (.npy, .h5).

    Raises
    ------
    FileError, InputError
        As `load_array` does.
    """
    with contextlib.ExitStack() as stack:
        array: Any
        if is_hdf5(path):
            file = stack.enter_context(open_hdf5(path))
            with complete(path):
                held = datasets(file, path)
                array = held[_chosen(path, held, names, key)]
        elif Path(path).suffix.lower() == ".npy" and key is None:
            try:
                array = np.load(path, mmap_mode="r", allow_pickle=False)
            except Exception:
                array = load_array(path, *names)  # raises the error that says what is wrong with the file
        else:
            array = load_array(path, *names, key=key)
        if array.dtype.kind not in "fiub":
            raise InputError(f"the array in {path} has dtype {array.dtype}; expected real numbers")
        yield array


def load_arrays(path: str | os.PathLike[str]) -> dict[str, Array]:
    """Load all arrays of a .npy, .npz, .mat or .h5 file, by name. The single array of a .npy file is called `array`.

    Raises
    ------
    FileError
        If the file is missing, damaged or of another format, or holds pickled objects.
    """
    with _arrays_in(path) as arrays:
        return {name: arrays[name] for name in arrays}


@contextlib.contextmanager
def _arrays_in(path: str | os.PathLike[str]) -> Iterator[Mapping[str, Any]]:
    """The arrays of a file by name. In formats that allow it, each is read when it is asked for."""
    head = _head(path)
    is_matlab = head.startswith(b"MATLAB 7.3")
    with contextlib.ExitStack() as stack:
        stack.enter_context(complete(path))
        if head.startswith((b"\x93NUMPY", b"PK")):
            file = stack.enter_context(open_input(path))
            _check_sizes(path, file)
            loaded = np.load(file, allow_pickle=False)
            yield {"array": loaded} if isinstance(loaded, np.ndarray) else loaded
        elif head.startswith(b"MATLAB 5.0"):
            from scipy.io import loadmat, whosmat

            stored = os.path.getsize(path)
            for name, shape, kind in whosmat(path):
                check_claim(path, name, math.prod(shape) * BYTES.get(kind, 8), stored)
            yield {name: value for name, value in loadmat(path).items() if not name.startswith("__")}
        elif is_hdf5(path) or is_matlab:
            yield _Stored(datasets(stack.enter_context(open_hdf5(path)), path), is_matlab)
        else:
            raise FileError(f"{path} is not a .npy, .npz, .mat or .h5 file by its content")


class _Stored(Mapping[str, Any]):
    """The arrays of an open HDF5 file, which are read when they are asked for. MATLAB stores them column by column."""

    def __init__(self, nodes: dict[str, Any], turned: bool) -> None:
        self.nodes, self.turned = nodes, turned

    def __getitem__(self, name: str) -> Any:
        value = self.nodes[name][()]
        return value.T if self.turned and isinstance(value, np.ndarray) else value

    def __iter__(self) -> Iterator[str]:
        return iter(self.nodes)

    def __len__(self) -> int:
        return len(self.nodes)


def has_arrays(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a .npy, .npz, .mat or .h5 file by its content. Raises FileError if it cannot be read."""
    return _head(path).startswith((b"\x93NUMPY", b"PK", b"MATLAB ")) or is_hdf5(path)


def _head(path: str | os.PathLike[str]) -> bytes:
    """The first bytes of a file, which say what it is."""
    with open_input(path) as file:
        return file.read(512)


def _check_sizes(path: str | os.PathLike[str], file: IO[bytes]) -> None:
    """Raise FileError if an array of a .npy or .npz file claims more bytes than there are, before memory is taken.

    The position in the file stays at its beginning.
    """
    if file.read(2) == b"PK":
        with zipfile.ZipFile(file) as archive:
            whole = os.fstat(file.fileno()).st_size
            for entry in archive.infolist():
                if entry.file_size > DEFLATED * min(entry.compress_size, whole):
                    raise FileError(f"{path} is damaged: {entry.filename} claims {entry.file_size} bytes")
                check_claim(path, entry.filename, entry.file_size, min(entry.compress_size, whole))
                with archive.open(entry) as member:
                    is_array = member.read(6) == b"\x93NUMPY"
                if is_array:
                    with archive.open(entry) as member:
                        _check_header(path, member, entry.file_size)
    else:
        file.seek(0)
        _check_header(path, file, os.fstat(file.fileno()).st_size)
    file.seek(0)


def _check_header(path: str | os.PathLike[str], file: IO[bytes], size: int) -> None:
    """Raise FileError if a .npy file of this size declares an array of more bytes."""
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    if dtype.hasobject:
        raise FileError(
            f"{path} holds pickled Python objects, which cuista never loads, because they could run any code. Save "
            "plain arrays of numbers instead"
        )
    declared = math.prod(shape) * dtype.itemsize
    if declared > size:
        raise FileError(f"{path} is damaged: an array of shape {shape} takes {declared} bytes, and there are {size}")


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
        raise FileError(f"{path}: a .npy file holds one array, and there are {listed(arrays)}; write .npz or .mat")
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


def listed(arrays: Mapping[str, Any]) -> str:
    """The names and shapes of arrays, for messages."""
    arrays = getattr(arrays, "nodes", arrays)  # no need to read them
    return ", ".join(f"{name} {np.shape(value)}" for name, value in arrays.items()) or "no arrays"


def _chosen(path: str | os.PathLike[str], arrays: Mapping[str, Any], names: tuple[str, ...], key: str | None) -> str:
    """The name of the requested array among those that a file holds; see `load_array`."""
    found = next((name for name in ((key,) if key else names) if name in arrays), None)
    if found is None and len(arrays) == 1 and key is None:
        (found,) = arrays
    if found is None:
        wanted = " or ".join(map(repr, (key,) if key else names)) or "a single array"
        raise FileError(
            f"{path} holds {listed(arrays)}; expected {wanted}. Choose one of them, or rename it", option="key"
        )
    return found
