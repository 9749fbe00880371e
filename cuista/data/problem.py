"""A sparse recovery problem: the measurement matrix, and the law of its signals and of their noise."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from cuista import storage
from cuista.checks import Array, check_matrix
from cuista.counter import CODES, HARD_STREAM, MATRIX, NOISE, TEST, Key
from cuista.errors import FileError, InputError
from cuista.ops import Bernoulli, CpuOps, Normal, ReferenceOps, Signals

# How much denser hard signals are than ordinary ones.
_HARDER = 1.4

_LAWS = {"normal": Normal, "bernoulli": Bernoulli}


@dataclass(frozen=True, eq=False)
class Problem:
    """Recover sparse codes x* from measurements y = A x* + ε.

    Parameters
    ----------
    A
        Measurement matrix (M, N), float64.
    pnz
        Probability that an entry of x* is non-zero: a number, or (N,) with one for each entry.
    snr_db
        Signal-to-noise ratio of the measurements in dB; `inf` for none. The noise of a sample is Gaussian with
        standard deviation std(A x*)·10^(−SNR/20), std being the population standard deviation over its M entries.
    magnitude
        Law of the non-zero entries: `Normal(mean, std)` or `Bernoulli(q, v0, v1)`.
    seed
        Of every random number the problem gives.

    Raises
    ------
    InputError
        If a value is out of range, or A has a zero column, a NaN or the wrong number of axes.
    """

    A: Array
    pnz: float | Array = 0.1
    snr_db: float = float("inf")
    magnitude: Normal | Bernoulli = field(default_factory=Normal)
    seed: int = 0

    def __post_init__(self) -> None:
        A = check_matrix(self.A, "the measurement matrix")
        object.__setattr__(self, "A", np.ascontiguousarray(A, dtype=np.float64))
        probability = np.asarray(self.pnz, dtype=np.float64)
        if probability.ndim and probability.shape != (self.N,):
            raise InputError(f"pnz has shape {probability.shape}; expected a number or ({self.N},), one a column of A")
        if not np.all((probability >= 0) & (probability <= 1)) or not probability.any():
            raise InputError(f"pnz is {self.pnz}; expected probabilities from 0 to 1, not all 0")
        object.__setattr__(self, "pnz", probability if probability.ndim else float(probability))
        if np.isnan(self.snr_db) or self.snr_db == -np.inf:
            raise InputError(f"snr is {self.snr_db}; expected a number of dB, or inf for no noise")
        if not np.all(np.isfinite(self.magnitude)):
            raise InputError(f"the law of magnitudes is {self.magnitude}; expected finite numbers")
        if isinstance(self.magnitude, Normal) and (self.magnitude.std < 0 or self.magnitude == (0, 0)):
            raise InputError(f"the standard deviation of the magnitudes is {self.magnitude.std}; expected more than 0")
        if isinstance(self.magnitude, Bernoulli) and not 0 <= self.magnitude.q <= 1:
            raise InputError(f"the probability of the magnitude v0 is {self.magnitude.q}; expected 0 to 1")
        if isinstance(self.magnitude, Bernoulli) and 0 in (self.magnitude.v0, self.magnitude.v1):
            raise InputError("a Bernoulli magnitude is 0; expected other numbers, for pnz is what makes entries zero")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"seed is {self.seed}; expected a whole number from 0 to 2^63 − 1")

    @property
    def M(self) -> int:
        """Number of measurements of a signal."""
        return int(self.A.shape[0])

    @property
    def N(self) -> int:
        """Length of a sparse code."""
        return int(self.A.shape[1])

    @cached_property
    def sha256(self) -> str:
        """The hash of A, by which weights and models know the matrix they are for."""
        return storage.sha256(self.A)

    @cached_property
    def condition_number(self) -> float:
        """Largest over smallest singular value of A, as it is; `inf` if A has not full rank."""
        A = self.A if self.M <= self.N else self.A.T
        squares = np.linalg.eigvalsh(A @ A.T)  # many times faster than the singular values, and precise enough …
        if squares[0] > 1e-8 * squares[-1]:
            return float(np.sqrt(squares[-1] / squares[0]))
        s = np.linalg.svd(A, compute_uv=False)  # … unless the matrix is ill-conditioned
        return float(s[0] / s[-1]) if s[-1] > s[0] * np.finfo(s.dtype).eps * max(self.A.shape) else float("inf")

    @property
    def normalized(self) -> bool:
        """Whether the columns of A have unit ℓ2 norm."""
        return bool(np.allclose(np.einsum("mn,mn->n", self.A, self.A), 1, rtol=1e-5))

    @property
    def sparsity(self) -> float:
        """Expected share of non-zero entries."""
        return float(np.mean(self.pnz))

    def sample(
        self,
        batch: int,
        *,
        rows: slice = slice(None),
        stream: int = TEST,
        step: int = 0,
        seed: int | None = None,
        dtype: DTypeLike = np.float32,
        ops: ReferenceOps | None = None,
    ) -> tuple[Array, Array]:
        """Draw signals: a pure function of (seed, stream, step), whatever was drawn before.

        `rows` are those of the batch to draw, all by default. They have the bits that they have in the whole batch, and
        the others cost nothing.

        Returns
        -------
        x : (rows, N)
        y : (rows, M)
        """
        ops, key = ops or CpuOps(), Key(self.seed if seed is None else seed, stream, step)
        with ops.computing():
            return self._draw(_rows(batch, rows), key, self._probability, dtype, ops)

    def sample_weighted(
        self,
        batch: int,
        hard: float,
        *,
        rows: slice = slice(None),
        stream: int,
        step: int = 0,
        seed: int | None = None,
        dtype: DTypeLike = np.float32,
        ops: ReferenceOps | None = None,
    ) -> tuple[Array, Array, Array]:
        """Draw signals of which a share is harder, with the weights that make means over them unbiased.

        A share `hard` of the batch, spread evenly over it, has its probabilities multiplied by 1.4. This is importance
        sampling: with f the problem's law and g that of the harder ones, a signal has weight
        f / ((1 − hard) f + hard g), at most 1 / (1 − hard). So rare dense signals, whose errors can be 10⁵ times the
        others' and rule the NMSE, are met often and count for what they are. `rows` are those of the batch to draw, as
        in `sample`.

        Returns
        -------
        x : (rows, N)
        y : (rows, M)
        weights : (rows,), float64
        """
        ops, seed = ops or CpuOps(), self.seed if seed is None else seed
        xp, signals, drawn = ops.xp, self.signals(hard), _rows(batch, rows)
        of_hard = range(signals.hard_before(drawn.start), signals.hard_before(drawn.stop))
        of_easy = range(drawn.start - of_hard.start, drawn.stop - of_hard.stop)
        with ops.computing():
            parts = (
                self._draw(of_easy, Key(seed, stream, step), signals.probability, dtype, ops),
                self._draw(of_hard, Key(seed, stream + HARD_STREAM, step), signals.hard_probability, dtype, ops),
            )
            # Where each row is among the easy ones followed by the hard ones, as `Signals.hard_before` has it.
            before = xp.floor(hard * xp.arange(drawn.start, drawn.stop + 1)) - of_hard.start
            is_hard, before = before[1:] > before[:-1], before[:-1]
            place = xp.where(is_hard, len(of_easy) + before, xp.arange(len(drawn)) - before).astype(np.int64)
            x, y = (xp.take(xp.concatenate(arrays), place, axis=0) for arrays in zip(*parts, strict=True))
            of_entry, of_none = ops.asarray(signals.log_ratio[:-1], np.float64), float(signals.log_ratio[-1])
            log_ratio = xp.where(x != 0, of_entry, 0.0).sum(axis=1) + of_none
            share = signals.hard_before(batch) / batch
            return x, y, 1 / (1 - share + share * xp.exp(log_ratio))

    def signals(self, hard: float = 0.0) -> Signals:
        """What `sample_weighted` draws from."""
        p = self._probability
        p_hard = np.where(p < 1, np.minimum(p * _HARDER, (1 + p) / 2), p)
        with np.errstate(divide="ignore", invalid="ignore"):
            present = np.where(p > 0, np.log(p_hard / p), 0)
            absent = np.where(p < 1, np.log((1 - p_hard) / (1 - p)), 0)
        noise = 10 ** (-self.snr_db / 20)
        return Signals(self.A, p, p_hard, np.append(present - absent, absent.sum()), self.magnitude, noise, hard)

    @cached_property
    def _probability(self) -> Array:
        return np.broadcast_to(np.asarray(self.pnz), (self.N,))

    def _draw(
        self, rows: range, key: Key, probability: Array, dtype: DTypeLike, ops: ReferenceOps
    ) -> tuple[Array, Array]:
        x = ops.sparse_codes(key, len(rows), probability, self.magnitude, dtype, rows.start)
        return x, self.measure(x, key, ops, rows.start)

    def measure(self, x: Array, key: Key, ops: ReferenceOps | None = None, first_row: int = 0) -> Array:
        """The measurements y (rows, M) = A x + ε of sparse codes x (rows, N), at the problem's SNR.

        They are the rows from `first_row` on of a batch with this noise, and have the bits that they have in it.
        """
        ops = ops or CpuOps()
        transposed = ops.kept(self, x.dtype, lambda: ops.asarray(self.A.T, x.dtype))
        return self.add_noise(ops.matmul_by_rows(x, transposed, self.sparsity), key, ops, first_row)

    def add_noise(self, y: Array, key: Key, ops: ReferenceOps, first_row: int = 0) -> Array:
        """Measurements y (rows, M), those from `first_row` on, with noise at the problem's SNR."""
        if self.snr_db < np.inf:
            noise = ops.normal(key, NOISE, (y.shape[0], self.M), y.dtype, first_row)
            noise *= y.std(axis=1, keepdims=True) * y.dtype.type(10 ** (-self.snr_db / 20))
            y = y + noise
        return y

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write a `cuista-problem` file."""
        record = storage.Record("cuista-problem")
        self.store(record)
        record.attributes["con_num"] = self.condition_number
        storage.write(path, record, overwrite=overwrite)

    def store(self, record: storage.Record) -> None:
        """Put all that makes this problem into a file's record."""
        record.arrays["A"] = self.A
        if isinstance(self.pnz, float):
            record.attributes["pnz"] = self.pnz
        else:
            record.arrays["support_probability"] = self.pnz
        record.attributes.update(
            snr_db=self.snr_db,
            normalized=self.normalized,
            magnitude=type(self.magnitude).__name__.lower(),
            seed=self.seed,
            **{f"magnitude_{name}": value for name, value in self.magnitude._asdict().items()},
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Problem:
        """Read a problem from a `cuista-problem` file, or the one that a `cuista-model` file carries."""
        return cls.from_record(storage.read(path, "cuista-problem", "cuista-model"), path)

    @classmethod
    def from_record(cls, record: storage.Record, path: str | os.PathLike[str]) -> Problem:
        """The problem in a file's record; `path` is for the error message."""
        attributes = record.attributes
        try:
            law: Any = _LAWS[attributes["magnitude"]]
            return cls(
                A=record.arrays["A"],
                pnz=record.arrays["support_probability"]
                if "support_probability" in record.arrays
                else attributes["pnz"],
                snr_db=attributes["snr_db"],
                magnitude=law(**{name: attributes[f"magnitude_{name}"] for name in law._fields}),
                seed=attributes["seed"],
            )
        except KeyError as error:
            raise FileError(f"{path} is damaged: {error.args[0]!r} is missing") from error


def _rows(batch: int, rows: slice) -> range:
    """The numbers of these rows of a batch."""
    if batch < 1:
        raise InputError(f"the number of samples is {batch}; expected 1 or more")
    drawn = range(batch)[rows]
    if drawn.step != 1:
        raise InputError(f"the rows to draw are {rows}; expected consecutive ones")
    return drawn


def random_matrix(M: int, N: int, *, con_num: float = 0.0, seed: int = 0) -> Array:
    """A Gaussian measurement matrix (M, N) with entries N(0, 1/M).

    With `con_num` κ > 0 its singular values are replaced by `logspace(0, log10(1/κ), min(M, N))`, scaled so that
    their squares sum to N. The columns are not normalised: see `normalize_columns`.
    """
    if M < 1 or N < 1:
        raise InputError(f"the matrix is to be {M}×{N}; expected 1 or more rows and columns")
    A = CpuOps().normal(Key(seed, MATRIX), CODES, (M, N), np.float64) / np.sqrt(M)
    return with_condition_number(A, con_num) if con_num else A


def with_condition_number(A: Array, con_num: float) -> Array:
    """The matrix with its singular values replaced by log-spaced ones of ratio `con_num` ≥ 1."""
    if not 1 <= con_num < np.inf:
        raise InputError(f"the condition number is {con_num}; expected 1 or more (or 0 to leave the matrix as it is)")
    U, _, Vt = np.linalg.svd(A, full_matrices=False)
    s = np.logspace(0, np.log10(1 / con_num), min(A.shape))
    return np.asarray((U * (s * np.sqrt(A.shape[1]) / np.linalg.norm(s))) @ Vt)


def normalize_columns(A: Array) -> Array:
    """The matrix with every column scaled to unit ℓ2 norm. A column that has it, but for rounding, stays as it is."""
    norms = np.linalg.norm(check_matrix(A, "the matrix"), axis=0)
    return np.asarray(A / np.where(np.abs(norms - 1) < 1e-12, 1, norms))
