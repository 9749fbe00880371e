"""Recovery of signals whose files may be larger than memory."""

from __future__ import annotations

import hashlib
import io
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from cuista import storage
from cuista.checks import Array, check_layout, check_samples, in_columns
from cuista.errors import FileError, NumericalError
from cuista.storage.files import check_written, reserve
from cuista.storage.records import new_hdf5
from cuista.storage.text import as_csv

# The number of samples that are read, recovered and written at a time.
ROWS = 4096


class Recoverer(Protocol):
    """Anything that recovers the signals of a problem: a model or a solver."""

    problem: Any

    def recover(self, y: Array) -> Array:
        """Recover the sparse codes (samples, N) of measurements (samples, M)."""


def recover_file(
    recoverer: Recoverer,
    measurements: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    key: str | None = None,
    columns: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
    inspect: Callable[[Array, Array], Mapping[str, Array]] = lambda y, x: {},
    more: Sequence[str] = (),
) -> int:
    """Recover the sparse codes of the measurements in a file, write them to another file, and return their number.

    Parameters
    ----------
    recoverer
        The model or solver that recovers the codes.
    measurements
        A file of measurements (samples, M), or (M,) or (M, 1) of one sample, in a format that `load_array` reads. Those
        in .npy and .h5 files are read piece by piece.
    out
        The .npy or .csv file to write, or the .h5 file, whose dataset is `x`. It is written piece by piece, and has a
        temporary name until it is complete. Its layout is that of the measurements: (N,) for one of shape (M,).
    key
        The name of the array in a file that holds several; `y` if None.
    columns
        Whether the samples are columns, in the input and in the output.
    overwrite
        Whether `out` may exist already.
    progress
        Called with the number of samples done and the number of all samples.
    inspect, more
        Called with measurements and their codes, batch by batch. It returns the arrays (samples, N) that are named in
        `more`, which an .h5 file is to hold beside the codes.

    Raises
    ------
    FileError
        If a file cannot be read or written.
    InputError
        If the measurements do not fit the problem, or are not finite.
    NumericalError
        If codes are not finite, as with measurements that are far too large.
    """
    storage.check_writable(out, overwrite=overwrite)
    if storage.is_cuista(measurements):
        raise FileError(f"{measurements} is one of cuista's own files; expected an array of measurements")
    M, N = recoverer.problem.M, recoverer.problem.N
    with storage.opened_array(measurements, "y", key=key) as stored:
        is_vector = len(stored.shape) == 1
        stored_shape = tuple(map(int, stored.shape))
        columns = in_columns(stored_shape, M, columns)
        samples = check_layout(stored_shape, M, f"{measurements}", columns=columns, signals=N)
        shape = (N,) if is_vector else (N, samples) if columns else (samples, N)
        ending, names = Path(out).suffix.lower(), ("x", *more)
        with (
            storage.replacing(out, overwrite=overwrite) as file,
            _appending(file, ending, names, shape, columns) as append,
        ):
            rows = min(ROWS, getattr(recoverer, "rows", ROWS))
            for first in range(0, samples, rows):
                part = slice(first, min(first + rows, samples))
                where = ... if is_vector else (slice(None), part) if columns else (part, slice(None))
                with storage.complete(measurements):
                    y = np.asarray(stored[where])
                y = y.reshape(1, M) if is_vector else y.T if columns else y
                check_samples(y, f"{measurements}", first=first)
                with np.errstate(all="ignore"):  # what overflows is refused below
                    codes = recoverer.recover(y).astype(np.float32, copy=False)
                unknown = np.flatnonzero(~np.isfinite(codes).all(axis=1))
                if unknown.size:
                    raise NumericalError(
                        f"{measurements}: the recovery of sample {first + unknown[0]} overflows; expected "
                        "measurements of the magnitude of the problem's own. Scale them down"
                    )
                append({"x": codes, **inspect(y, codes)})
                if progress:
                    progress(part.stop, samples)
    return samples


@contextmanager
def _appending(
    file: IO[bytes], ending: str, names: tuple[str, ...], shape: tuple[int, ...], columns: bool
) -> Iterator[Callable[[Mapping[str, Array]], object]]:
    """Create arrays of these names and this shape in a new file, and give a function that appends samples to them.

    Only an .h5 file holds more than x.
    """
    digest = hashlib.sha256()

    def write(data: Any) -> None:
        digest.update(data)
        file.write(data)

    if ending == ".h5":
        with new_hdf5(file) as hdf5:
            reserve(file, 4 * math.prod(shape) * len(names))
            datasets, done = {name: hdf5.create_dataset(name, shape, dtype=np.float32) for name in names}, 0

            def append(arrays: Mapping[str, Array]) -> None:
                nonlocal done
                part = slice(done, done + len(arrays["x"]))
                for name, dataset in datasets.items():
                    if len(shape) == 1:
                        dataset[...] = arrays[name][0]
                    else:
                        where = (slice(None), part) if columns else part
                        dataset[where] = arrays[name].T if columns else arrays[name]
                done = part.stop

            yield append
        return
    if ending == ".csv":
        kept: list[Array] = []  # the samples of a line, if they are columns
        by_line = not columns and len(shape) == 2
        yield lambda arrays: write(as_csv(arrays["x"])) if by_line else kept.append(arrays["x"])
        if kept:
            write(as_csv(np.concatenate(kept).T))
    else:
        # Samples that are columns lie one after the other in Fortran's order, so that both layouts are written in turn.
        reserve(file, 4 * math.prod(shape))
        begin = io.BytesIO()
        np.lib.format.write_array_header_1_0(begin, {"descr": "<f4", "fortran_order": columns, "shape": shape})
        write(begin.getvalue())
        yield lambda arrays: write(np.ascontiguousarray(arrays["x"], "<f4").data)
    check_written(file, digest)
