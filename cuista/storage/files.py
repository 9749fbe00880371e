"""Files written whole or not at all, and the hash by which arrays are recognised."""

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
        raise FileError(f"cannot write {target}: {reason_of(error)}") from error
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Raise FileError now if `path` could not be written later: long work should not end in that."""
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


def sha256(array: Array) -> str:
    """The hash by which a matrix is recognised: of its shape and its float64 values, rows first."""
    values = np.ascontiguousarray(array, dtype="<f8")
    return hashlib.sha256(repr(values.shape).encode() + values.tobytes()).hexdigest()


def reason_of(error: OSError) -> str:
    """What the system says, in one line: HDF5 says much more than anybody wants to read."""
    return error.strerror or re.split(r" \((?:file write failed|unable to)", str(error).splitlines()[0])[0]
