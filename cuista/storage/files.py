"""Atomic writing of files, and the hash by which arrays are recognised."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cuista.checks import Array
from cuista.errors import FileError


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary path beside `path`; it is renamed to `path` if the block succeeds, and removed if it fails.

    Raises
    ------
    FileError
        If `path` exists and `overwrite` is false, if it is a folder, or if its folder is missing or not writable.
    """
    target = Path(path)
    check_writable(target, overwrite=overwrite)
    temporary = target.with_name(f".{target.name}.tmp")  # a fixed name, so that killed processes leave at most one file
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise FileError(f"cannot write {target}: {reason_of(error)}") from error
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Raise FileError if `path` cannot be written, so that long work does not fail at its end."""
    target = Path(path)
    if target.is_dir():
        raise FileError(f"cannot write {target}: it is a folder; give a file name")
    if target.exists() and not overwrite:
        raise FileError(f"{target} exists already: choose another name, or overwrite it", option="overwrite")
    folder = target.parent
    if not folder.is_dir():
        raise FileError(f"cannot write {target}: the folder {folder} does not exist; create it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise FileError(f"cannot write {target}: the folder {folder} is not writable")


@contextlib.contextmanager
def complete(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn errors in the block about missing or wrong entries of a file's record into FileError, which names `path`."""
    try:
        yield
    except KeyError as error:
        raise FileError(f"{path} is damaged: its entry {error.args[0]!r} is missing") from error
    except (TypeError, ValueError) as error:
        raise FileError(f"{path} is damaged: {error}") from error


def sha256(array: Array) -> str:
    """The hash by which an array is recognised. It covers the shape and the values as float64, row by row."""
    values = np.ascontiguousarray(array, dtype="<f8")
    return hashlib.sha256(repr(values.shape).encode() + values.tobytes()).hexdigest()


def reason_of(error: OSError) -> str:
    """The system's reason for an error, in one line, without the internal details in HDF5's messages."""
    return error.strerror or re.split(r" \((?:file write failed|unable to)", str(error).splitlines()[0])[0]
