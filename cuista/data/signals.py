"""Signals of the user's own to train on: sparse codes, or pairs of codes and measurements, in memory or in files."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from cuista import storage
from cuista.checks import LARGEST, Array, check_numbers, check_samples, in_double
from cuista.counter import PLACES, Key
from cuista.errors import FileError, InputError
from cuista.ops import CpuOps, Normal
from cuista.ops.joint import ALONE, Joint

# An array, or the path of a file that holds one.
Data = ArrayLike | str | os.PathLike[str]

# The number of signals that are read and checked at a time, and the number from which a law is estimated at most.
ROWS, ENOUGH = 4096, 100_000
# The largest size in bytes of an array that is kept in memory instead of being read again for every batch.
IN_MEMORY = 2**30
# How much denser hard signals are than ordinary ones.
HARDER = 1.4
# The bytes of a signal's hash.
HASH = 16
# In signals that have more non-zeros than zeros, the entries that hold this share of the energy count as non-zeros.
MOST_ENERGY = 0.99


class Law(NamedTuple):
    """The law of signals, as far as it can be estimated.

    Attributes
    ----------
    pnz
        The share of non-zeros among all entries.
    magnitude
        The mean and the standard deviation of the non-zeros; of complex ones, the real part of the mean.
    negative
        Whether an entry is negative.
    dense
        The share of signals with more non-zeros than zeros. Of their entries only the largest count as non-zeros, those
        that hold 99 % of the energy.
    """

    pnz: float
    magnitude: Normal
    negative: bool
    dense: float


class SignalSet:
    """Signals of the user's own, of which a share is held out for validation.

    They are sparse codes, or pairs of codes and measurements, real or complex. With several snapshots L, they are
    (samples, L, N) and (samples, L, M). The split depends on the signals alone: it is by a hash
    of each code, so that copies of a signal are never on both sides. Arrays in files of more than 1 GiB are read when
    they are needed if the format allows it (.npy, .h5).

    Parameters
    ----------
    x
        The codes (samples, N): an array, a sparse matrix of SciPy, or the path of a file.
    y
        Their measurements (samples, M); None if they are to be computed from the codes.
    keys
        The names of the arrays in files that hold several; `x` and `y` if None.
    columns
        Whether the samples are columns, in both arrays: (N, samples), or (N, L, samples) with several snapshots.
    held_out
        The share of the signals that is held out.
    name
        What messages call codes that come in an array.
    pairs
        Whether neighbouring columns in files are real and imaginary parts, in both arrays.

    Attributes
    ----------
    name
        What messages call the codes: the path of their file, or this name.
    N, M
        The number of entries of a code, and of measurements of a signal; M is None without measurements.
    snapshots
        The number of snapshots of a signal.
    is_complex
        Whether an array is complex.
    training, validation
        The numbers of the signals on each side. Those for validation are in an order that is as good as random.
    repeated
        The number of signals that are copies of others.
    sha256
        The hash of all signals and of how they are split.

    Raises
    ------
    FileError
        If a file cannot be read, or has no such array.
    InputError
        If an array has the wrong shape or contains anything but finite numbers, if x and y have different numbers of
        samples or snapshots, if all codes are zero or the same, or if `held_out` is not between 0 and 1.
    """

    def __init__(
        self,
        x: Data,
        y: Data | None = None,
        *,
        keys: tuple[str | None, str | None] = (None, None),
        columns: bool = False,
        held_out: float = 0.1,
        name: str = "x",
        pairs: bool = False,
    ) -> None:
        if not 0 < held_out < 1:
            message = f"the share held out is {held_out:g}; expected a number between 0 and 1, like 0.1"
            raise InputError(message, option="held_out")
        self._x = _Rows(x, "x", keys[0], columns, pairs, name)
        self._y = None if y is None else _Rows(y, "y", keys[1], columns, pairs)
        self._laws: dict[bytes, Law] = {}
        self.name, self.N, self.held_out = self._x.name, self._x.length, held_out
        self.M = None if self._y is None else self._y.length
        self.snapshots = self._x.snapshots
        self.is_complex = any(rows.is_complex for rows in (self._x, self._y) if rows is not None)
        if self._y is not None and len(self._y) != len(self._x):
            raise InputError(
                f"{self._x.name} has {len(self._x)} samples, and {self._y.name} has {len(self._y)}; expected as many "
                "measurements as codes"
            )
        if self._y is not None and self._y.snapshots != self._x.snapshots:
            raise InputError(
                f"{self._x.name} has {self._x.snapshots} snapshots, and {self._y.name} has {self._y.snapshots}; "
                "expected as many measurements as codes"
            )
        words, present, digest = self._hashed()
        if not present.any():
            raise InputError(f"all signals of {self.name} are zero, so that nothing can be learned from them")
        self.training, self.validation, self.repeated = _split(words, held_out, self.name)
        self._denser = _denser(present[self.training])
        self._denser_upto = np.cumsum(self._denser)
        self.sha256 = hashlib.sha256(f"{digest} {held_out!r}".encode()).hexdigest()

    @classmethod
    def of(cls, data: Any) -> SignalSet:
        """The signals in an array or a file of codes, or in a tuple (x, y) of codes and measurements."""
        if isinstance(data, cls):
            return data
        if isinstance(data, tuple):
            if len(data) != 2:
                raise InputError(
                    f"data is a tuple of {len(data)}; expected codes, or a tuple of codes and measurements"
                )
            return cls(*data)
        return cls(data)

    def __len__(self) -> int:
        return len(self._x)

    def __repr__(self) -> str:
        measured = f", and {self.M} measurements of each" if self.M else ""
        return f"<SignalSet {self.name}: {self.summary}; {self.N} entries{measured}>"

    @property
    def summary(self) -> str:
        """How many signals there are, and how they are split."""
        copies = f" ({self.repeated} of them copies)" if self.repeated else ""
        sides = f"{len(self.training)} for training and {len(self.validation)} held out for validation"
        return f"{len(self)} signals{copies}, {sides}"

    @property
    def about(self) -> dict[str, Any]:
        """What a model's file says about the signals that it was trained on, in addition to their hash."""
        counts = {"training": len(self.training), "validation": len(self.validation), "copies": self.repeated}
        return {"name": self.name, "pairs": self._y is not None, **counts}

    def check_for(
        self, M: int, N: int, snapshots: int = 1, is_complex: bool = False, measures_complex: bool = False
    ) -> None:
        """Raise InputError unless the signals suit a matrix of this size, with this number of snapshots."""
        measured = self._y is not None and self._y.is_complex and not (is_complex or measures_complex)
        if measured or (self._x.is_complex and not is_complex):
            raise InputError(
                f"the signals in {self.name} are complex, and the matrix is real: make a problem with a complex matrix"
            )
        if self.snapshots != snapshots:
            raise InputError(
                f"the signals in {self.name} have {self.snapshots} snapshots, and the problem has {snapshots}; "
                "expected the same number",
                option="snapshots",
            )
        for rows, length, what in ((self._x, N, "entries"), (self._y, M, "measurements")):
            if rows is None or rows.length == length:
                continue
            hint, option = "", ""
            if len(rows) == length:
                hint, option = f": its samples seem to be {'rows' if rows.columns else 'columns'}", "columns"
            elif rows is self._x and rows.length == M:
                hint = ": it seems to hold measurements, and sparse codes are needed, alone or with measurements"
            raise InputError(
                f"the signals in {rows.name} have {rows.length} {what}, and the matrix is {M}×{N}; expected {length}"
                f"{hint}",
                option=option or (),
            )

    def check_batch(self, recipe: Any) -> None:
        """Raise InputError unless there are enough signals for a batch of the recipe."""
        count, batch = len(self.training), getattr(recipe, "batch", 1)
        if count < batch:
            raise InputError(
                f"{self.name} has {len(self)} signals, {count} of which are for training: fewer than the {batch} of a "
                "batch. Give more signals, or use smaller batches",
                option="batch",
            )

    def read(self, numbers: Array) -> tuple[Array, Array | None]:
        """The codes and the measurements (None if there are none) of the signals with these numbers, as stored."""
        return self._x.read(numbers), None if self._y is None else self._y.read(numbers)

    def draw(self, key: Key, batch: int) -> Array:
        """The numbers of random signals for training, which depend on the key only, row by row."""
        words = CpuOps().random_words(key, PLACES)(batch)
        drawn: Array = self.training[(words % np.uint64(len(self.training))).astype(np.int64)]
        return drawn

    def draw_weighted(self, key: Key, batch: int, hard: float) -> tuple[Array, Array]:
        """The numbers of random signals for training, some of them denser, and the weights that compensate for it.

        A share `hard` of the batch is drawn with probabilities that grow exponentially with the number of non-zeros, as
        `Problem.sample_weighted` does for signals that are drawn by a law. Means with these weights (batch,) estimate
        plain means over the set.
        """
        words, row, count = CpuOps().random_words(key, PLACES)(batch), np.arange(batch), len(self.training)
        is_hard = np.floor(hard * (row + 1)) > np.floor(hard * row)
        upto = self._denser_upto
        denser = np.searchsorted(upto, words.astype(np.float64) * (upto[-1] / 2.0**64))
        place = np.where(is_hard, np.minimum(denser, count - 1), (words % np.uint64(count)).astype(np.int64))
        share = is_hard.mean()
        return self.training[place], 1 / (1 - share + share * count * self._denser[place])

    def parts(self, most: int = ENOUGH) -> Iterator[tuple[Array, Array | None]]:
        """Codes and measurements of up to `most` signals for training, evenly spaced, in parts, in double precision."""
        spaced = self.training[:: -(-len(self.training) // most)]
        for first in range(0, len(spaced), ROWS):
            x, y = self.read(spaced[first : first + ROWS])
            yield in_double(x), None if y is None else in_double(y)

    def law(self, norms: float | Array = 1.0, joint: Joint = ALONE) -> Law:
        """The law of the signals for training, each entry multiplied by the norm of its column.

        `joint` says which numbers are one entry, which is non-zero if one of them is.
        """
        key = np.asarray([*joint, *np.ravel(norms)], np.float64).tobytes()
        if key not in self._laws:
            self._laws[key] = self._law(norms, joint)
        return self._laws[key]

    def _law(self, norms: float | Array, joint: Joint) -> Law:
        count, total, squares = 0, 0.0, 0.0
        signals = dense = 0
        negative = False
        entries = self.N // joint.group
        for x, _ in self.parts():
            x = (x * norms).reshape(-1, self.N)
            energies = np.square(joint.magnitudes(np, x))
            present = energies != 0
            is_dense = present.sum(axis=1) > entries / 2
            ordered = np.sort(energies[is_dense], axis=1)
            # An entry counts unless it and all smaller ones hold no more than the rest of the energy.
            left = np.cumsum(ordered, axis=1) <= (1 - MOST_ENERGY) * ordered.sum(axis=1, keepdims=True)
            least = np.take_along_axis(ordered, left.sum(axis=1, keepdims=True), axis=1)
            present[is_dense] &= energies[is_dense] >= least
            negative = negative or bool((x.real < 0).any() and not self.is_complex)
            found = x[joint.spread(np, present, x)]
            count, total = count + found.size, total + found.real.sum()
            squares = squares + np.square(np.abs(found)).sum()
            signals, dense = signals + len(present), dense + int(is_dense.sum())
        if not count:
            raise InputError(f"the signals of {self.name} that are for training are all zero: give more signals")
        mean = total / count
        law = Normal(float(mean), float(np.sqrt(max(squares / count - mean**2, 0.0))))
        return Law(count / (signals * self.N * joint.snapshots), law, negative, dense / signals)

    def _hashed(self) -> tuple[Array, Array, str]:
        """64 bits of the hash of each code, its number of non-zeros, and the hash of all codes and measurements.

        Everything is read and checked on the way. The hashes do not depend on how the numbers are stored.
        """
        words, present = np.empty(len(self._x), "<u8"), np.empty(len(self._x), np.int64)
        digest = hashlib.sha256(f"{self.N} {self.M}".encode())
        for first in range(0, len(self._x), ROWS):
            part = slice(first, min(first + ROWS, len(self._x)))
            for rows in filter(None, (self._x, self._y)):
                array = rows.checked(part)
                hashes = b"".join(hashlib.blake2b(row, digest_size=HASH).digest() for row in array)
                digest.update(hashes)
                if rows is self._x:
                    words[part] = np.frombuffer(hashes, "<u8")[:: HASH // 8]
                    present[part] = np.count_nonzero(array.reshape(len(array), -1), axis=1)
        return words, present, digest.hexdigest()


class _Rows:
    """The rows of an array, which is in memory, or in a file from which rows are read when they are needed."""

    def __init__(self, source: Any, name: str, key: str | None, columns: bool, pairs: bool, called: str = "") -> None:
        self.columns, self._key, self._pairs, self._array = columns, key, pairs, None
        self._path: str | os.PathLike[str] | None = None
        if isinstance(source, str | os.PathLike):
            self._path, self._names, self.name = source, (name,), os.fspath(source)
            self._identity = storage.identity_of(source)
            with self._opened() as stored:
                shape, dtype = tuple(stored.shape), stored.dtype
                in_memory = isinstance(stored, np.ndarray) and not isinstance(stored, np.memmap)
                if in_memory or stored.size * stored.dtype.itemsize <= IN_MEMORY:
                    with storage.complete(source):
                        self._array = np.array(stored[()])
        else:
            self._array = source.toarray() if hasattr(source, "toarray") else np.asarray(source)
            shape, self.name = self._array.shape, called or name
            check_numbers(self._array.dtype, self.name)
            dtype = self._array.dtype
        self.is_complex = dtype.kind == "c"
        if len(shape) not in (2, 3) or 0 in shape:
            axes = "(length, samples)" if columns else "(samples, length)"
            raise InputError(
                f"{self.name} has shape {shape}; expected {axes}, with at least one sample, and with the snapshots as "
                "an axis in between if there are several"
            )
        self._count, *snapshots, self.length = shape[::-1] if columns else shape
        self.snapshots = math.prod(snapshots)
        self._single = self.snapshots == 1 and bool(snapshots)  # an axis of snapshots that is left out

    def __len__(self) -> int:
        return int(self._count)

    def _opened(self) -> AbstractContextManager[Any]:
        assert self._path is not None
        return storage.opened_array(self._path, *self._names, key=self._key, pairs=self._pairs)

    def read(self, rows: Array | slice) -> Array:
        """These rows as they are stored.

        Raises
        ------
        FileError
            If they are in a file that has changed since it was opened, or that cannot be read.
        """
        if self._array is not None:
            return self._without_axis(self._array[..., rows].T if self.columns else self._array[rows])
        assert self._path is not None
        if storage.identity_of(self._path) != self._identity:
            raise FileError(f"{self.name} has changed since it was opened: start again")
        with self._opened() as stored, storage.complete(self._path):
            if isinstance(rows, slice):
                found = np.asarray(stored[..., rows]).T if self.columns else np.asarray(stored[rows])
            else:
                found = np.stack([np.asarray(stored[..., row].T if self.columns else stored[row]) for row in rows])
        return self._without_axis(found)

    def _without_axis(self, found: Array) -> Array:
        """Rows without the axis of a single snapshot."""
        return found[:, 0] if self._single else found

    def checked(self, part: slice) -> Array:
        """Consecutive rows, contiguous in double precision, without negative zeros, if all numbers are acceptable."""
        dtype = np.complex128 if self.is_complex else np.float64
        array = np.add(self.read(part), 0.0, dtype=dtype, order="C")
        return check_samples(array, self.name, LARGEST, part.start)


def _denser(present: Array) -> Array:
    """The probabilities of denser signals, which are proportional to e^(θ·present) for numbers `present` of non-zeros.

    Here θ makes the mean number larger by a factor of `HARDER`, which is what `Problem.sample_weighted` does to
    independent non-zeros, or brings it half of the way to the largest number, if that is less: the same few signals are
    not to be drawn all the time.
    """
    from scipy.optimize import brentq

    above = present - present.mean()
    spread = above.std()
    if not spread:
        return np.full(len(above), 1 / len(above))
    target = min((HARDER - 1) * present.mean(), above.max() / 2)

    def tilted(theta: float) -> Array:
        powers = np.exp(theta * (above - above.max()))
        return np.asarray(powers / powers.sum())

    theta = brentq(lambda theta: tilted(theta) @ above - target, 0.0, 50 / spread, xtol=1e-12 / spread)
    return tilted(theta)


def _split(words: Array, held_out: float, name: str) -> tuple[Array, Array, int]:
    """The numbers of the signals for training and for validation, and how many signals are copies of others.

    Groups of equal signals, which have equal words, are held out in the order of their words until the share is
    reached. A group that would exceed it by itself is for training.
    """
    found, group, counts = np.unique(words, return_inverse=True, return_counts=True)
    if len(found) < 2:
        raise InputError(
            f"{name} holds {len(words)} signals that are all the same; expected different ones, of which some can be "
            "held out for validation"
        )
    wanted = held_out * len(words)
    small = counts <= wanted
    held = small & (np.cumsum(counts * small) <= wanted)
    if not held.any():
        held[np.argmin(counts)] = True
    order = np.argsort(words, kind="stable")
    is_held = held[group]
    return np.flatnonzero(~is_held), order[is_held[order]], len(words) - len(found)
