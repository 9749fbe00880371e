"""Recovery of signals whose files may be larger than memory."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from cuista import storage
from cuista.checks import LARGEST_MEASUREMENT, Array, extreme, is_extreme
from cuista.errors import FileError, InputError, NumericalError
from cuista.storage.files import check_written, reserve
from cuista.storage.records import new_hdf5

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
        A .npy, .h5, .npz or .mat file of measurements (samples, M). The first two formats are read piece by piece.
    out
        The .npy file to write, or the .h5 file, whose dataset is `x`. It is written piece by piece, and has a temporary
        name until it is complete.
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
        if len(stored.shape) != 2 or stored.shape[0 if columns else 1] != M:
            axes = f"({M}, samples)" if columns else f"(samples, {M})"
            fits = len(stored.shape) == 2 and stored.shape[1 if columns else 0] == M
            hint = f"; its samples seem to be {'rows' if columns else 'columns'}" if fits else ""
            message = f"{measurements} has shape {tuple(stored.shape)}; expected {axes}{hint}"
            raise InputError(message, option="columns" if fits else ())
        samples = int(stored.shape[1 if columns else 0])
        shape = (N, samples) if columns else (samples, N)
        is_hdf5 = Path(out).suffix.lower() == ".h5"
        names = ("x", *more)
        with (
            storage.replacing(out, overwrite=overwrite) as file,
            _appending(file, is_hdf5, names, shape, columns) as append,
        ):
            reserve(file, 4 * N * samples * len(names))
            for first in range(0, samples, ROWS):
                part = slice(first, min(first + ROWS, samples))
                where = (slice(None), part) if columns else (part, slice(None))
                with storage.complete(measurements):
                    y = np.asarray(stored[where])
                y = y.T if columns else y
                bad = np.argwhere(~np.isfinite(y))
                if len(bad):
                    sample, entry = bad[0] + (first, 0)
                    raise InputError(f"{measurements}: entry {entry} of sample {sample} is {y[tuple(bad[0])]}")
                peaks = np.abs(y).max(axis=1, initial=0)
                for sample in np.flatnonzero(is_extreme(peaks, LARGEST_MEASUREMENT)):
                    largest = extreme(peaks[sample], LARGEST_MEASUREMENT)
                    raise InputError(f"{measurements}: the largest entry of sample {first + sample} is {largest}")
                with np.errstate(all="ignore"):  # what overflows is refused below
                    codes = recoverer.recover(y)
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
    file: IO[bytes], is_hdf5: bool, names: tuple[str, ...], shape: tuple[int, int], columns: bool
) -> Iterator[Callable[[Mapping[str, Array]], object]]:
    """Create arrays of these names and this shape in a new file, and give a function that appends samples to them.

    A .npy file holds only x.
    """
    if is_hdf5:
        with new_hdf5(file) as hdf5:
            datasets, done = {name: hdf5.create_dataset(name, shape, dtype=np.float32) for name in names}, 0

            def append(arrays: Mapping[str, Array]) -> None:
                nonlocal done
                part = slice(done, done + len(arrays["x"]))
                for name, dataset in datasets.items():
                    dataset[(slice(None), part) if columns else part] = arrays[name].T if columns else arrays[name]
                done = part.stop

            yield append
    else:
        # Samples that are columns lie one after the other in Fortran's order, so that both layouts are written in turn.
        header = {"descr": "<f4", "fortran_order": columns, "shape": shape}
        digest = hashlib.sha256()

        def write(data: Any) -> None:
            digest.update(data)
            file.write(data)

        begin = io.BytesIO()
        np.lib.format.write_array_header_1_0(begin, header)
        write(begin.getvalue())
        yield lambda arrays: write(np.ascontiguousarray(arrays["x"], "<f4").data)
        check_written(file, digest)
