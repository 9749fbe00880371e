"""Files: the HDF5 schema of cuista, and arrays from and to .npy, .npz, .mat and .h5.

Every file of ours has the root attributes `format`, `format_version`, `cuista_version`, `created` (UTC) and
`command`, holds its arrays by name (`A`, `parameters/step_size`, …) each with a Fletcher-32 checksum, and is
complete in itself. Nothing is ever unpickled. A file is written under a temporary name in its own folder and
renamed when complete, so that no reader and no crash ever meets half of one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import sys
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from cuista.checks import Array, as_real
from cuista.errors import FileError, InputError

FORMAT_VERSION = 1


@dataclass
class Record:
    """What one file of ours holds: its kind (`cuista-problem`, …), arrays by name, and attributes."""

    kind: str
    arrays: dict[str, Array] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary path beside `path` that becomes `path` if the block succeeds, and is removed if it does not.

    Raises
    ------
    FileError
        If `path` exists and `overwrite` is false, is a folder, or its folder is missing or not writable.
    """
    target = Path(path)
    check_writable(target, overwrite=overwrite)
    temporary = target.with_name(f".{target.name}.tmp")  # always the same, so that a killed process leaves one at most
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise FileError(f"cannot write {target}: {_reason(error)}") from error
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Raise FileError now if `path` could not be written later: long work should not end in that."""
    target = Path(path)
    if target.is_dir():
        raise FileError(f"cannot write {target}: it is a folder; give a file name")
    if target.exists() and not overwrite:
        raise FileError(f"{target} exists already: choose another name, or overwrite it with --force")
    folder = target.parent
    if not folder.is_dir():
        raise FileError(f"cannot write {target}: the folder {folder} does not exist; create it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise FileError(f"cannot write {target}: the folder {folder} is not writable")


def write(path: str | os.PathLike[str], record: Record, *, overwrite: bool = False) -> None:
    """Write a file of ours, atomically. Numbers, strings and flat lists can be attributes.

    Raises
    ------
    FileError
        As `replacing`.
    """
    with creating(path, record.kind, overwrite=overwrite) as file:
        for name, value in record.attributes.items():
            file.attrs[name] = printable(value) if isinstance(value, str) else value
        for name, array in record.arrays.items():
            checksum = bool(array.ndim and array.size)  # HDF5 checks chunks, and these have none
            file.create_dataset(name, data=array, fletcher32=checksum)


@contextlib.contextmanager
def creating(path: str | os.PathLike[str], kind: str, *, overwrite: bool = False) -> Iterator[Any]:
    """A file of ours of this kind, an `h5py.File` to fill; it is there, under its name, when the block has ended well.

    Raises
    ------
    FileError
        As `replacing`.
    """
    import h5py

    from cuista import __version__

    provenance = {
        "format": kind,
        "format_version": FORMAT_VERSION,
        "cuista_version": __version__,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": printable(shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])),
    }
    with replacing(path, overwrite=overwrite) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update(provenance)
        yield file


def read(path: str | os.PathLike[str], *kinds: str) -> Record:
    """Read a file of ours, checksums verified.

    Raises
    ------
    FileError
        As `opened`.
    """
    import h5py

    with opened(path, *kinds) as file:
        record = Record(file.attrs["format"], attributes={name: _plain(value) for name, value in file.attrs.items()})

        def visit(name: str, node: Any) -> None:
            if isinstance(node, h5py.Dataset):
                record.arrays[name] = node[()]

        file.visititems(visit)
    return record


def contents(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, tuple[tuple[int, ...], str]]]:
    """The attributes of a file of ours, and shape and dtype of each of its arrays, none of which is read.

    Raises
    ------
    FileError
        As `opened`.
    """
    import h5py

    arrays: dict[str, tuple[tuple[int, ...], str]] = {}

    def visit(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset):
            arrays[name] = node.shape, node.dtype.name

    with opened(path) as file:
        file.visititems(visit)
        return {name: _plain(value) for name, value in file.attrs.items()}, arrays


@contextlib.contextmanager
def opened(path: str | os.PathLike[str], *kinds: str) -> Iterator[Any]:
    """A file of ours, an `h5py.File` to read from.

    Raises
    ------
    FileError
        If the file is missing, damaged, not ours, of a kind not in `kinds` (when any are given), or written by
        a later format than this version knows. An OSError in the block is taken for damage.
    """
    with _open_hdf5(path) as file:
        kind = file.attrs.get("format")
        if not isinstance(kind, str) or not kind.startswith("cuista-"):
            raise FileError(f"{path} is an HDF5 file, but not one of cuista's: it has no 'format' attribute")
        version = file.attrs.get("format_version")
        if not isinstance(version, np.integer):
            raise FileError(f"{path} is damaged: its format version is {version!r}")
        if version > FORMAT_VERSION:
            raise FileError(
                f"{path} has format version {version}, and this cuista reads up to {FORMAT_VERSION}: update cuista"
            )
        if kinds and kind not in kinds:
            raise FileError(f"{path} is a {kind} file; expected {' or '.join(kinds)}")
        try:
            yield file
        except OSError as error:
            raise FileError(f"{path} is damaged: {_reason(error)}") from error


def printable(text: str) -> str:
    """The text as a file can keep it: what is not UTF-8 in the name of another file stands escaped, as \\udcff."""
    return text.encode(errors="backslashreplace").decode()


def is_hdf5(path: str | os.PathLike[str]) -> bool:
    """Whether the file starts as an HDF5 file does."""
    try:
        with open(path, "rb") as file:
            return file.read(8) == b"\x89HDF\r\n\x1a\n"
    except OSError:
        return False


def is_cuista(path: str | os.PathLike[str]) -> bool:
    """Whether the file is one of ours (or claims to be: `read` checks the rest)."""
    if not is_hdf5(path):
        return False
    with _open_hdf5(path) as file:
        return str(file.attrs.get("format", "")).startswith("cuista-")


def kind_of(path: str | os.PathLike[str]) -> str:
    """Which kind of our files this is; FileError, as `opened`, if it is none."""
    with opened(path) as file:
        return str(file.attrs["format"])


def sha256(array: Array) -> str:
    """The hash by which a matrix is recognised: of its shape and its float64 values, rows first."""
    values = np.ascontiguousarray(array, dtype="<f8")
    return hashlib.sha256(repr(values.shape).encode() + values.tobytes()).hexdigest()


def load_array(path: str | os.PathLike[str], *names: str, key: str | None = None) -> Array:
    """One array of numbers from .npy, .npz, .mat or .h5.

    Parameters
    ----------
    path
        The file; its content, not its name, says what it is.
    names
        The names to look for, in order, in a file that holds several arrays. A file with one array needs none.
    key
        The name that the array must have; the others are then not looked for.

    Raises
    ------
    FileError
        If the file is missing, damaged, of another kind, or has no such array (the message lists what it has).
    InputError
        If the array does not hold real numbers.
    """
    arrays = load_arrays(path)
    found = _chosen(path, {name: value.shape for name, value in arrays.items()}, names, key)
    return as_real(arrays[found], f"{path} ({found})")


@contextlib.contextmanager
def opened_array(path: str | os.PathLike[str], *names: str, key: str | None = None) -> Iterator[Any]:
    """One array of a file, as `load_array`, but read by slices where the format allows it (.npy, .h5).

    Raises
    ------
    FileError, InputError
        As `load_array`.
    """
    with contextlib.ExitStack() as stack:
        array: Any
        if is_hdf5(path):
            import h5py

            file = stack.enter_context(_open_hdf5(path))
            shapes: dict[str, tuple[int, ...]] = {}

            def visit(name: str, node: Any) -> None:
                if isinstance(node, h5py.Dataset):
                    shapes[name] = node.shape

            file.visititems(visit)
            array = file[_chosen(path, shapes, names, key)]
        elif Path(path).suffix.lower() == ".npy" and key is None:
            try:
                array = np.load(path, mmap_mode="r", allow_pickle=False)
            except (ValueError, OSError, EOFError):
                array = load_array(path, *names)  # says what is wrong with it
        else:
            array = load_array(path, *names, key=key)
        if array.dtype.kind not in "fiub":
            raise InputError(f"{path} has dtype {array.dtype}; expected real numbers")
        yield array


def load_arrays(path: str | os.PathLike[str]) -> dict[str, Array]:
    """All arrays of a .npy, .npz, .mat or .h5 file by name; that of a .npy file is called `array`.

    Raises
    ------
    FileError
        As `load_array`.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        raise FileError(f"{path} does not exist") from None
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror}") from error
    try:
        if head.startswith((b"\x93NUMPY", b"PK")):
            with open(path, "rb") as file:
                loaded = np.load(file, allow_pickle=False)
                return {"array": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
        if head.startswith(b"MATLAB 5.0"):
            from scipy.io import loadmat

            return {name: value for name, value in loadmat(path).items() if not name.startswith("__")}
        if is_hdf5(path) or head.startswith(b"MATLAB 7.3"):
            return _load_hdf5_arrays(path, transpose=head.startswith(b"MATLAB 7.3"))
    except FileError:
        raise
    except ValueError as error:
        if "allow_pickle" in str(error) or "Object arrays" in str(error):
            raise FileError(
                f"{path} holds pickled Python objects, which could run any code: cuista never loads them. "
                "Save plain arrays of numbers instead"
            ) from error
        raise FileError(f"{path} is damaged: {error}") from error
    except (OSError, EOFError, zipfile.BadZipFile, TypeError, KeyError, NotImplementedError) as error:
        raise FileError(f"{path} is damaged: {error}") from error
    raise FileError(f"{path} is not a .npy, .npz, .mat or .h5 file")


def save_arrays(path: str | os.PathLike[str], arrays: Mapping[str, Array], *, overwrite: bool = False) -> None:
    """Write arrays as .npy (one array), .npz, .mat or .h5, by the ending of the name, atomically.

    Raises
    ------
    FileError
        As `replacing`; or if the ending is none of these, or .npy is to hold several arrays.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (".npy", ".npz", ".mat", ".h5"):
        raise FileError(f"cannot tell what to write to {path}: expected a name ending in .npy, .npz, .mat or .h5")
    if suffix == ".npy" and len(arrays) != 1:
        raise FileError(f"{path}: a .npy file holds one array, and there are {_listed(arrays)}; write .npz or .mat")
    with replacing(path, overwrite=overwrite) as temporary:
        if suffix == ".h5":
            import h5py

            with h5py.File(temporary, "w") as hdf5:
                for name, array in arrays.items():
                    hdf5[name] = array
            return
        with open(temporary, "wb") as file:
            if suffix == ".npy":
                np.save(file, next(iter(arrays.values())), allow_pickle=False)
            elif suffix == ".npz":
                np.savez(file, allow_pickle=False, **arrays)
            else:
                from scipy.io import savemat

                savemat(file, dict(arrays), oned_as="column")  # type: ignore[arg-type]


def _open_hdf5(path: str | os.PathLike[str]) -> Any:
    import h5py

    if not Path(path).exists():
        raise FileError(f"{path} does not exist")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        if is_hdf5(path):
            raise FileError(f"{path} is damaged or cut short: {error}") from error
        if not os.access(path, os.R_OK) or Path(path).is_dir():
            raise FileError(f"cannot read {path}: {error}") from error
        raise FileError(f"{path} is not an HDF5 file, so not one of cuista's") from error


def _load_hdf5_arrays(path: str | os.PathLike[str], transpose: bool) -> dict[str, Array]:
    import h5py

    with _open_hdf5(path) as file:
        arrays = {}

        def visit(name: str, node: Any) -> None:
            if isinstance(node, h5py.Dataset):
                arrays[name] = node[()].T if transpose else node[()]  # MATLAB stores columns first

        file.visititems(visit)
    return arrays


def _plain(value: Any) -> Any:
    """An attribute as Python's own type."""
    return value.item() if isinstance(value, np.generic) else value.tolist() if isinstance(value, np.ndarray) else value


def _listed(arrays: Mapping[str, Array]) -> str:
    return ", ".join(f"{name} {value.shape}" for name, value in arrays.items()) or "no arrays"


def _chosen(
    path: str | os.PathLike[str], shapes: Mapping[str, tuple[int, ...]], names: tuple[str, ...], key: str | None
) -> str:
    """Which of a file's arrays is meant."""
    found = next((name for name in ((key,) if key else names) if name in shapes), None)
    if found is None and len(shapes) == 1 and key is None:
        (found,) = shapes
    if found is None:
        held = ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "no arrays"
        wanted = " or ".join(map(repr, (key,) if key else names)) or "a single array"
        raise FileError(f"{path} holds {held}; expected {wanted}. Name the array with --key")
    return found


def _reason(error: OSError) -> str:
    """What the system says, in one line: HDF5 says much more than anybody wants to read."""
    return error.strerror or re.split(r" \((?:file write failed|unable to)", str(error).splitlines()[0])[0]
