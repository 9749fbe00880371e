"""Files of ours: the HDF5 schema of cuista.

Every file of ours has the root attributes `format`, `format_version`, `cuista_version`, `created` (UTC) and
`command`, holds its arrays by name (`A`, `parameters/step_size`, …) each with a Fletcher-32 checksum, and is
complete in itself. A file is written under a temporary name in its own folder and renamed when complete, so that no
reader and no crash ever meets half of one.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from cuista.checks import Array
from cuista.errors import FileError
from cuista.storage.files import reason_of, replacing
from cuista.version import __version__

FORMAT_VERSION = 1


@dataclass
class Record:
    """What one file of ours holds: its kind (`cuista-problem`, …), arrays by name, and attributes."""

    kind: str
    arrays: dict[str, Array] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)


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
    with open_hdf5(path) as file:
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
            raise FileError(f"{path} is damaged: {reason_of(error)}") from error


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
    with open_hdf5(path) as file:
        return str(file.attrs.get("format", "")).startswith("cuista-")


def kind_of(path: str | os.PathLike[str]) -> str:
    """Which kind of our files this is; FileError, as `opened`, if it is none."""
    with opened(path) as file:
        return str(file.attrs["format"])


def open_hdf5(path: str | os.PathLike[str]) -> Any:
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


def _plain(value: Any) -> Any:
    """An attribute as Python's own type."""
    return value.item() if isinstance(value, np.generic) else value.tolist() if isinstance(value, np.ndarray) else value
