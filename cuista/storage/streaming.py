"""Recovery from files larger than memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cuista import storage
from cuista.checks import Array
from cuista.errors import FileError, InputError

# Rows at a time from a file to a file.
ROWS = 4096


class Recoverer(Protocol):
    """What recovers the signals of a problem of M measurements and N entries: a model, or a solver."""

    problem: Any

    def recover(self, y: Array) -> Array:
        """The sparse codes (samples, N) of measurements (samples, M)."""


def recover_file(
    recoverer: Recoverer,
    measurements: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    key: str | None = None,
    columns: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Recover the sparse codes of the measurements in a file, and write them to another. Returns how many.

    Parameters
    ----------
    measurements
        .npy, .h5, .npz or .mat, (samples, M); the first two are read piece by piece.
    out
        .npy, or .h5 with dataset `x`; written piece by piece, under a temporary name until complete.
    key
        Name of the array in a file that holds several; `y` if None.
    columns
        Samples are columns, in the input and in the output.
    progress
        Called with (samples done, samples in all).

    Raises
    ------
    FileError, InputError
        If a file is not what it must be, or the measurements do not fit the problem or are not finite.
    """
    storage.check_writable(out, overwrite=overwrite)
    if storage.is_cuista(measurements):
        raise FileError(f"{measurements} is one of cuista's own files; expected a file of measurements")
    M, N = recoverer.problem.M, recoverer.problem.N
    with storage.opened_array(measurements, "y", key=key) as stored:
        if len(stored.shape) != 2 or stored.shape[0 if columns else 1] != M:
            axes = f"({M}, samples)" if columns else f"(samples, {M})"
            fits = len(stored.shape) == 2 and stored.shape[1 if columns else 0] == M
            hint = f"; samples seem to be its {'rows' if columns else 'columns'}" if fits else ""
            message = f"{measurements} has shape {tuple(stored.shape)}; expected {axes}{hint}"
            raise InputError(message, option="columns" if fits else ())
        samples = int(stored.shape[1 if columns else 0])
        shape = (N, samples) if columns else (samples, N)
        with storage.replacing(out, overwrite=overwrite) as temporary, _created(temporary, Path(out), shape) as x:
            for first in range(0, samples, ROWS):
                part = slice(first, min(first + ROWS, samples))
                where = (slice(None), part) if columns else (part, slice(None))
                try:
                    y = np.asarray(stored[where])
                except OSError as error:
                    raise FileError(f"{measurements} is damaged: samples from {first} on cannot be read") from error
                y = y.T if columns else y
                bad = np.argwhere(~np.isfinite(y))
                if len(bad):
                    sample, entry = bad[0] + (first, 0)
                    raise InputError(f"{measurements}: entry {entry} of sample {sample} is {y[tuple(bad[0])]}")
                codes = recoverer.recover(y)
                x[where] = codes.T if columns else codes
                if progress:
                    progress(part.stop, samples)
    return samples


@contextmanager
def _created(temporary: Path, target: Path, shape: tuple[int, int]) -> Iterator[Any]:
    """An array on disk to write into by slices."""
    if target.suffix.lower() == ".h5":
        import h5py

        with h5py.File(temporary, "w") as file:
            yield file.create_dataset("x", shape, dtype=np.float32)
    else:
        x = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=shape)
        yield x
        x.flush()
