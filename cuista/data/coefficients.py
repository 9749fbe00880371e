"""Signals as their coefficients in the orthonormal basis of an operator, such as pictures in a basis of wavelets."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from cuista import storage
from cuista.checks import LARGEST, Array, check_samples
from cuista.data.images import files_in, grey_of
from cuista.data.pictures import FORMATS, Pictures
from cuista.errors import FileError, InputError
from cuista.messages import say
from cuista.operators import Operator


def coefficients(
    signals: ArrayLike | str | os.PathLike[str], basis: Operator, *, key: str | None = None, pairs: bool = False
) -> Array:
    """The codes (samples, N) of signals, Ψᴴf for each signal f, where Ψ is an orthonormal basis (`Problem.basis`).

    Parameters
    ----------
    signals
        An array (samples, …) of signals in the basis' shape; the path of a file that holds one, as `x`; or the path of
        a picture, or of a folder of pictures, whose luminances from 0 to 1 are the signals.
    basis
        The basis.
    key, pairs
        As in `load_array`.

    Raises
    ------
    FileError
        If a file cannot be read, or a picture has another size than the basis.
    InputError
        If an array has another shape, or contains anything but finite numbers.
    """
    shape, name = basis.shape[0], "the array of signals"
    if isinstance(signals, str | os.PathLike) and holds_pictures(signals):
        rows = np.stack([_sized(grey, path, shape) for path, grey in _pictures(Path(signals))])
    else:
        if isinstance(signals, str | os.PathLike):
            name = os.fspath(signals)
            signals = storage.load_array(signals, "x", key=key, pairs=pairs)
        rows = np.asarray(signals)
    if rows.shape[1:] != shape or not len(rows):
        raise InputError(f"{name} has shape {rows.shape}; expected (samples, {', '.join(map(str, shape))})")
    if rows.dtype.kind == "c" and basis.dtype.kind != "c":
        raise InputError(f"{name} is complex, and the signals of the operator are real: describe it with complex ones")
    check_samples(rows.reshape(len(rows), -1), name, LARGEST)
    # One at a time, in little memory.
    codes = np.concatenate([basis.adjoint(basis.ops.asarray(row[None], basis.dtype)) for row in rows])
    found: Array = codes.reshape(len(rows), -1)
    return found


def holds_pictures(path: str | os.PathLike[str]) -> bool:
    """Whether a path is that of a folder, or of a picture by its ending."""
    return Path(path).is_dir() or Path(path).suffix.lower() in FORMATS


def _pictures(path: Path) -> list[tuple[Path, Array]]:
    found = []
    for file in files_in(path) if path.is_dir() else [path]:
        pictures = Pictures(file)
        found += [(file, grey_of(picture, file)) for picture in pictures]
        for note in pictures.notes:
            say(f"Note: {note.text}.")
    return found


def _sized(grey: Array, path: Path, shape: tuple[int, ...]) -> Array:
    if grey.shape != shape:
        raise FileError(
            f"{path} has {'×'.join(map(str, grey.shape))} pixels, and the operator is for {'×'.join(map(str, shape))}: "
            "cut it to this size, or describe an operator of its size"
        )
    return grey
