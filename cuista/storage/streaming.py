"""Recovery of signals whose files may be larger than memory."""

from __future__ import annotations

import hashlib
import io
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from cuista import storage
from cuista.checks import Array, check_layout, check_samples, in_columns
from cuista.errors import FileError, InputError, NumericalError
from cuista.ranks import ranks
from cuista.storage.files import check_written, reserve
from cuista.storage.records import new_hdf5
from cuista.storage.text import as_csv

# The number of samples that are read, recovered and written at a time.
ROWS = 4096
SINGLE = np.dtype(np.float32)


class Recoverer(Protocol):
    """Anything that recovers the signals of a problem: a model or a solver.

    The problem has M and N, and the number of `snapshots` of a sample if that is not 1.
    """

    problem: Any

    def recover(self, y: Array) -> Array:
        """Recover the sparse codes (samples, N) of measurements (samples, M), or (samples, L, N) of (samples, L, M)."""


def recover_file(
    recoverer: Recoverer,
    measurements: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    key: str | None = None,
    columns: bool = False,
    pairs: bool = False,
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
        in .npy and .h5 files are read piece by piece. For a problem with several snapshots L, they are (samples, L, M),
        or (L, M) of one sample.
    out
        The .npy or .csv file to write, or the .h5 file, whose dataset is `x`. It is written piece by piece, and has a
        temporary name until it is complete. Its layout is that of the measurements: (N,) for one of shape (M,). Codes
        are in single precision; complex ones look like 1.5-2j in a .csv file.
    key
        The name of the array in a file that holds several; `y` if None.
    columns
        Whether the samples are columns, in the input and in the output. With several snapshots, both have their axes
        reversed: (M, L, samples) and (N, L, samples).
    pairs
        Whether neighbouring columns of the file are real and imaginary parts, as in `load_array`.
    overwrite
        Whether `out` may exist already.
    progress
        Called with the number of samples done and the number of all samples.
    inspect, more
        Called with measurements and their codes, batch by batch. It returns the arrays, one for each sample, that are
        named in `more`, which an .h5 file is to hold beside the codes.

    Raises
    ------
    FileError
        If a file cannot be read or written.
    InputError
        If the measurements do not fit the problem, or are not finite, or if the codes are to go to a .csv file and have
        three axes.
    NumericalError
        If codes are not finite, as with measurements that are far too large.
    """
    storage.check_writable(out, overwrite=overwrite)
    if storage.is_cuista(measurements):
        raise FileError(f"{measurements} is one of cuista's own files; expected an array of measurements")
    M, N = recoverer.problem.M, recoverer.problem.N
    snapshots = getattr(recoverer.problem, "snapshots", 1)
    with storage.opened_array(measurements, "y", key=key, pairs=pairs) as stored:
        stored_shape = tuple(map(int, stored.shape))
        columns = in_columns(stored_shape, M, columns)
        parts = getattr(recoverer.problem, "is_complex", False) and stored.dtype.kind != "c"
        layout: dict[str, Any] = {"columns": columns, "signals": N, "snapshots": snapshots, "parts": parts}
        samples = check_layout(stored_shape, M, f"{measurements}", **layout)
        each = (M,) if snapshots == 1 else (snapshots, M)  # the shape of one sample
        is_single = len(stored_shape) == len(each)
        shape = (*(() if is_single else (samples,)), *each[:-1], N)
        ending, names = Path(out).suffix.lower(), ("x", *more)
        if ending == ".csv" and len(shape) > 2:
            raise InputError(
                f"the codes have the shape {shape}, and {out} has lines and columns only; choose a name that ends in "
                ".npy or .h5",
                option="out",
            )
        with storage.replacing(out, overwrite=overwrite) as file, ExitStack() as stack:
            append = None
            rows = min(ROWS, getattr(recoverer, "rows", ROWS))
            for first in range(0, samples, rows):
                part = slice(first, min(first + rows, samples))
                with storage.complete(measurements):
                    y = _samples_in(stored, None if is_single else part, columns)
                check_samples(y, f"{measurements}", first=first)
                with np.errstate(all="ignore"):  # what overflows is refused below
                    codes = _single(recoverer.recover(y))
                unknown = np.flatnonzero(~np.isfinite(codes).all(axis=tuple(range(1, codes.ndim))))
                if unknown.size:
                    raise NumericalError(
                        f"{measurements}: the recovery of sample {first + unknown[0]} overflows; expected "
                        "measurements of the magnitude of the problem's own. Scale them down"
                    )
                found = {"x": codes, **inspect(y, codes)}
                found = {name: _single(found[name][0] if is_single else found[name]) for name in names}
                if append is None and ranks().first:
                    append = stack.enter_context(_appending(file, ending, found, shape, columns, is_single))
                if append is not None:
                    append(found)
                if progress:
                    progress(part.stop, samples)
            if not samples:
                like = dict.fromkeys(names, np.zeros(shape, SINGLE))
                stack.enter_context(_appending(file, ending, like, shape, columns, is_single))
    return samples


def _samples_in(stored: Any, part: slice | None, columns: bool) -> Array:
    """A part of the stored samples (samples, M) or (samples, L, M), or the only sample, which is the whole array."""
    if part is None:
        array = np.asarray(stored[...])
        return (array.T if columns else array)[None]
    if not columns:
        return np.asarray(stored[part])
    where = (*(slice(None),) * (len(stored.shape) - 1), part)
    return np.transpose(np.asarray(stored[where]))


def _single(array: Array) -> Array:
    """Real or complex numbers in single precision."""
    return array.astype(np.complex64 if np.iscomplexobj(array) else SINGLE, copy=False)


@contextmanager
def _appending(
    file: IO[bytes], ending: str, like: Mapping[str, Array], shape: tuple[int, ...], columns: bool, is_single: bool
) -> Iterator[Callable[[Mapping[str, Array]], object]]:
    """Create arrays in a new file, and give a function that appends samples to them, which are like the given ones.

    The codes x have this shape. The first axis of all is that of the samples, unless there is a single one. With
    `columns`, the file has their axes reversed. Only an .h5 file holds more than x.
    """
    digest = hashlib.sha256()
    stored_shape = shape[::-1] if columns else shape
    shapes = {name: array.shape if is_single else (shape[0], *array.shape[1:]) for name, array in like.items()}

    def write(data: Any) -> None:
        digest.update(data)
        file.write(data)

    if ending == ".h5":
        with new_hdf5(file) as hdf5:
            reserve(file, sum(math.prod(shapes[name]) * array.itemsize for name, array in like.items()))
            datasets, done = {}, 0
            for name, array in like.items():
                stored = shapes[name][::-1] if columns else shapes[name]
                datasets[name] = hdf5.create_dataset(name, stored, dtype=array.dtype)

            def append(arrays: Mapping[str, Array]) -> None:
                nonlocal done
                part = slice(done, done + len(arrays["x"]))
                where = ... if is_single else (..., part) if columns else part
                for name, dataset in datasets.items():
                    dataset[where] = arrays[name].T if columns else arrays[name]
                done = part.stop

            yield append
        return
    if ending == ".csv":
        kept: list[Array] = []  # the samples, if they are columns of the file
        by_line = is_single or not columns
        yield lambda arrays: write(as_csv(_lines(arrays["x"], columns))) if by_line else kept.append(arrays["x"])
        if kept:
            write(as_csv(np.concatenate(kept).T))
    else:
        # Samples that are columns lie one after the other in Fortran's order, so that both layouts are written in turn.
        dtype = like["x"].dtype.newbyteorder("<")
        reserve(file, math.prod(shape) * dtype.itemsize)
        begin = io.BytesIO()
        header = {"descr": dtype.str, "fortran_order": columns, "shape": stored_shape}
        np.lib.format.write_array_header_1_0(begin, header)
        write(begin.getvalue())
        yield lambda arrays: write(np.ascontiguousarray(arrays["x"], dtype).data)
    check_written(file, digest)


def _lines(codes: Array, columns: bool) -> Array:
    """The lines of a file with these codes, those of samples (samples, N) or of one sample: (N,) or (L, N)."""
    if codes.ndim == 1:
        return codes[:, None]
    return codes.T if columns else codes
