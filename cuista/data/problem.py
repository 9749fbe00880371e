"""Sparse recovery problems: a measurement matrix, and the law that its signals and their noise follow."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from cuista import storage
from cuista.checks import LARGEST, LARGEST_MEASUREMENT, Array, check_matrix, check_rows, in_double, is_extreme
from cuista.counter import CODES, HARD_STREAM, MATRIX, NOISE, PROBES, TEST, Key
from cuista.data.signals import HARDER, SignalSet
from cuista.data.twins import Twins, twins
from cuista.errors import FileError, InputError
from cuista.messages import warn
from cuista.operators import Composition, Dense, Operator, from_description
from cuista.operators.base import NUMBERS
from cuista.operators.description import external_of
from cuista.operators.unformed import Unformed
from cuista.ops import Bernoulli, CpuOps, Normal, ReferenceOps, Signals, joint
from cuista.ops.joint import ALONE, Joint, dtype_for
from cuista.summary import Described, size_of, span

# How far a norm may be from 1 in columns of unit norm, such as those that were rounded to single precision.
UNIT = 1e-5

# Below this SNR in dB, numbers would overflow.
LOWEST_SNR = -200.0
# From this SNR in dB on, given measurements differ from A x by no more than the rounding of single precision.
EXACT_SNR = 120.0
_LAWS = {"normal": Normal, "bernoulli": Bernoulli}


@dataclass(frozen=True, eq=False, repr=False)
class Problem(Described, storage.Portable):
    """The problem of recovering sparse codes x* from measurements y = A x* + ε.

    Parameters
    ----------
    A
        The measurement matrix (M, N), whose columns may have any norms. It is kept in double precision, with columns of
        unit norm, unless `norms` is given. If it is complex, signals and measurements are complex, too.

        It may also be an operator of `cuista.operators`, or a `scipy.sparse.linalg.LinearOperator`, of which no matrix
        is formed. Measurements are then (batch, M) and signals (batch, N), also where the operator has more axes, and
        its columns keep the norms that they have.
    pnz
        The probability that an entry of x* is non-zero: one number, or (N,) with a probability for each entry, which is
        the same in a group.
    snr_db
        The signal-to-noise ratio of the measurements in dB; `inf` means no noise. The noise of a sample is Gaussian
        with standard deviation std(A x*)·10^(−SNR/20), where std is the population standard deviation over the sample's
        M entries.
    magnitude
        The law of the non-zero entries: `Normal(mean, std)` or `Bernoulli(q, v0, v1)`. Complex normal ones are circular
        about their mean, with E|z − mean|² = std², and complex Bernoulli ones have random phases. Complex noise is
        circular, with the same standard deviation.
    seed
        The seed of every random number that the problem draws.
    norms
        The numbers (N,) by which the columns of the user's matrix were divided to get A. If None, they are the norms of
        its columns, which are then scaled to unit norm. With 1, A is kept as it is.
    positive
        Whether no entry of x* is negative: the non-zero entries are then the absolute values of what `magnitude` gives.
        Networks for such a problem threshold one-sidedly, so that their entries are not negative either.
    snapshots
        The number L of snapshots of each signal. With L > 1, signals are (L, N) and measurements are (L, M). The
        snapshots share a support, their values are independent, and the noise of a sample refers to all of them.
    group
        The number G of neighbouring entries that are zero or non-zero together; it divides N.

    Raises
    ------
    InputError
        If a value is out of range, or if A is not a finite matrix without zero columns.

    Notes
    -----
    `A`, `pnz` and `magnitude` are about the codes of the matrix with columns of unit norm, x_i ‖a_i‖, so that the units
    of columns do not matter. Networks and solvers compute with these. What is drawn, and what is recovered, are codes
    of the user's matrix: see `to_given` and `to_unit`.
    """

    kind: ClassVar[str] = "cuista-problem"

    A: Any
    pnz: float | Array = 0.1
    snr_db: float = float("inf")
    magnitude: Normal | Bernoulli = field(default_factory=Normal)
    seed: int = 0
    norms: float | Array | None = None
    positive: bool = False
    snapshots: int = 1
    group: int = 1

    def __post_init__(self) -> None:
        A, norms = self._checked_matrix()
        object.__setattr__(self, "A", A)
        object.__setattr__(self, "norms", norms if norms.ndim and np.any(norms != 1) else 1.0)
        probability = np.asarray(self.pnz, dtype=np.float64)
        if probability.ndim and probability.shape != (self.N,):
            raise InputError(
                f"pnz has shape {probability.shape}; expected one number, or one for each column of A", option="pnz"
            )
        if not np.all((probability >= 0) & (probability <= 1)) or not probability.any():
            raise InputError(f"pnz is {self.pnz}; expected probabilities from 0 to 1, not all 0", option="pnz")
        object.__setattr__(self, "pnz", probability if probability.ndim else float(probability))
        self._check_joint(probability)
        if not self.snr_db >= LOWEST_SNR:
            message = f"snr is {self.snr_db:g}; expected a number of dB from {LOWEST_SNR:g} on, or inf for no noise"
            raise InputError(message, option="snr")
        if not np.all(np.isfinite(self.magnitude)):
            raise InputError(f"the law of magnitudes is {self.magnitude}; expected finite numbers", option="magnitude")
        typical = max(abs(number) for name, number in self.magnitude._asdict().items() if name != "q")
        if typical and not 1 / LARGEST <= typical <= LARGEST:
            raise InputError(
                f"the law of magnitudes is {self.magnitude}; expected numbers from {1 / LARGEST:g} to {LARGEST:g}",
                option="magnitude",
            )
        if isinstance(self.magnitude, Normal) and (self.magnitude.std < 0 or self.magnitude == (0, 0)):
            raise InputError(f"the standard deviation of the magnitudes is {self.magnitude.std}; expected more than 0")
        if isinstance(self.magnitude, Bernoulli) and not 0 <= self.magnitude.q <= 1:
            raise InputError(f"the probability of the magnitude v0 is {self.magnitude.q}; expected 0 to 1", option="q")
        if isinstance(self.magnitude, Bernoulli) and 0 in (self.magnitude.v0, self.magnitude.v1):
            raise InputError(f"{self.magnitude} has a magnitude of 0; expected others: pnz makes entries zero")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"seed is {self.seed}; expected a whole number from 0 to 2^63 − 1", option="seed")

    def _checked_matrix(self) -> tuple[Any, Array]:
        """The matrix with which to compute, or what stands for it, and the norms by which its columns were divided."""
        A = self.A.A if isinstance(self.A, Dense) else self.A
        if isinstance(A, Operator | Unformed) or hasattr(A, "matvec"):
            if self.norms is not None and (np.ndim(self.norms) or self.norms != 1):
                raise InputError("the columns of an operator keep the norms that they have: leave norms out")
            return A if isinstance(A, Unformed) else Unformed(A), np.ones(())
        A = np.ascontiguousarray(in_double(check_matrix(A, "the measurement matrix")))
        if self.norms is None:
            norms = column_norms(A)
            norms = norms if np.any(np.abs(norms - 1) > UNIT) else np.ones(())
            return A / norms, norms
        norms = np.asarray(self.norms, np.float64)
        if norms.shape not in ((), A.shape[1:]) or not np.all(norms > 0) or is_extreme(norms).any():
            raise InputError(
                f"norms are {norms}; expected 1, or a number from {1 / LARGEST:g} to {LARGEST:g} for each column"
            )
        return A, norms

    def _check_joint(self, probability: Array) -> None:
        """Raise InputError unless the snapshots and groups are possible."""
        if self.snapshots < 1:
            message = f"the number of snapshots is {self.snapshots}; expected 1 or more"
            raise InputError(message, option="snapshots")
        if self.group < 1 or self.N % self.group:
            raise InputError(
                f"groups have {self.group} entries; expected a number that divides the {self.N} columns of the matrix",
                option="group",
            )
        if probability.ndim and np.ptp(probability.reshape(-1, self.group), axis=1).any():
            raise InputError(
                f"pnz differs within groups of {self.group} entries; expected the same probability for all of a group",
                option=("pnz", "group"),
            )
        if self.positive and (self.is_complex or self.joint != ALONE):
            what = "complex numbers have no sign" if self.is_complex else "entries of several numbers have no sign"
            raise InputError(f"{what}: leave positive out", option="positive")

    def facts(self) -> dict[str, str]:
        law = self.magnitude
        if isinstance(law, Normal):
            kind = f"normal magnitudes (mean {law.mean:g}, std {law.std:g})"
        else:
            kind = f"magnitudes {law.v0:g} (with probability {law.q:g}) and {law.v1:g}"
        columns = "columns of unit norm"
        if not self.has_matrix:
            columns = f"operator {self.A.title}"
        elif self.rescaled or not self.normalized:
            given = np.linalg.norm(self.given, axis=0)
            columns = f"columns with norms {span(given)}{' that are 1 inside' if self.rescaled else ''}"
        return {
            "size": size_of(self.A),
            "numbers": "complex" if self.is_complex else "",
            "snapshots": f"{self.snapshots} snapshots of each signal" if self.snapshots > 1 else "",
            "groups": f"groups of {self.group} entries" if self.group > 1 else "",
            "sparsity": f"pnz {span(self.pnz)}",
            "magnitudes": kind,
            "signs": "no negative entries" if self.positive else "",
            "noise": "no noise" if self.snr_db == np.inf else f"SNR {self.snr_db:g} dB",
            "columns": columns,
        }

    @property
    def M(self) -> int:
        """The number of measurements of each signal."""
        return int(self.A.shape[0])

    @property
    def N(self) -> int:
        """The length of a sparse code."""
        return int(self.A.shape[1])

    @property
    def has_matrix(self) -> bool:
        """Whether there is a matrix, and not an operator."""
        return not isinstance(self.A, Unformed)

    def need_matrix(self, what: str) -> None:
        """Raise InputError, which says what needs a matrix, if the problem has an operator."""
        if not self.has_matrix:
            raise InputError(f"{what} needs a measurement matrix, and the problem's operator is not formed as one")

    def operator(self, ops: ReferenceOps | None = None, dtype: DTypeLike = np.float64) -> Operator:
        """The operator with matrix A on an engine (NumPy's if None), in the precision of `dtype`.

        It maps signals (batch, N) to measurements (batch, M).
        """
        if self.has_matrix:
            return Dense(self.A, ops=ops or CpuOps(), dtype=dtype)
        made: Operator = self.A.on(ops, dtype)
        return made

    @property
    def basis(self) -> Operator | None:
        """The orthonormal basis in whose coefficients signals are given, or None: that of an operator after it."""
        operator = None if self.has_matrix else self.A.operator
        if not isinstance(operator, Composition) or not operator.inner.is_unitary:
            return None
        return operator.inner if operator.inner.rows_norm_squared == 1 else None

    def signals_of(self, codes: ArrayLike) -> Array:
        """The signals (samples, …) with these codes (samples, N), which are their coefficients in the `basis`.

        With several snapshots, they are (samples, L, …) and (samples, L, N). The precision is that of the codes.

        Raises
        ------
        InputError
            If there is no basis.
        """
        codes, basis = np.asarray(codes), self.basis
        if basis is None:
            raise InputError("the operator of the problem has no orthonormal basis, so that codes are the signals")
        rows = codes.astype(basis.dtype).reshape(-1, *basis.shape[1])
        signals = np.concatenate([basis.apply(row[None]) for row in rows])
        return signals.reshape(*codes.shape[:-1], *basis.shape[0]).astype(codes.dtype)

    @property
    def is_complex(self) -> bool:
        """Whether signals are complex, and so the matrix."""
        return bool(self.A.dtype.kind == "c")

    @property
    def measures_complex(self) -> bool:
        """Whether measurements are complex. With an operator, they may be so although signals are real."""
        return self.is_complex or (not self.has_matrix and self.A.measured_dtype.kind == "c")

    def in_complex(self) -> Problem:
        """The same problem for complex signals, for which a real matrix is a complex one.

        Raises
        ------
        InputError
            If the problem is positive, because complex numbers have no sign, or has an operator for real signals.
        """
        return self if self.is_complex else replace(self, A=self.A.astype(np.complex128))

    @property
    def joint(self) -> Joint:
        """Which numbers of a signal are zero or non-zero together."""
        return Joint(self.snapshots, self.group)

    def checked(
        self, array: ArrayLike, length: int, name: str, largest: float = LARGEST_MEASUREMENT, codes: bool | None = None
    ) -> Array:
        """Samples (samples, length), or (samples, L, length) with several snapshots, after `check_rows` has seen them.

        `codes` says whether they are codes, and not measurements. If it is None, those with the name x are.

        Raises
        ------
        InputError
            As `check_rows` does; also if they are complex, and the problem is not.
        """
        rows = check_rows(array, length, name, largest, snapshots=self.snapshots)
        self.check_kind(rows.dtype, name, codes=name == "x" if codes is None else codes)
        return rows

    def check_kind(self, dtype: Any, name: str, codes: bool = False) -> None:
        """Raise InputError if measurements, or codes, of this dtype are complex, and those of the problem are not."""
        if np.dtype(dtype).kind == "c" and not (self.is_complex if codes else self.measures_complex):
            raise InputError(
                f"{name} is complex, and the measurement matrix is real, so that codes would be real: make a problem "
                "with a complex matrix (cuista gen-problem --complex)"
            )

    @property
    def shape_of_code(self) -> tuple[int, ...]:
        """The shape of a code, (N,), or (L, N) with several snapshots."""
        return (self.N,) if self.snapshots == 1 else (self.snapshots, self.N)

    @cached_property
    def sha256(self) -> str:
        """The hash of A, or of an operator's description, by which weights and models recognise what they are for."""
        return storage.sha256(self.A) if self.has_matrix else self.A.sha256

    @cached_property
    def twins(self) -> Twins:
        """The pairs of columns that cannot be told apart; none for an operator, whose columns are not looked at."""
        return twins(self.A) if self.has_matrix else Twins([], 0)

    @cached_property
    def condition_number(self) -> float:
        """The ratio of A's largest singular value to its smallest; `inf` if A does not have full rank."""
        A = self.A if self.M <= self.N else self.A.T
        # Eigenvalues are many times faster to compute than singular values, and precise enough for most matrices.
        squares = np.linalg.eigvalsh(A @ A.conj().T)
        if squares[0] > 1e-8 * squares[-1]:
            return float(np.sqrt(squares[-1] / squares[0]))
        s = np.linalg.svd(A, compute_uv=False)
        return float(s[0] / s[-1]) if s[-1] > s[0] * np.finfo(s.dtype).eps * max(self.A.shape) else float("inf")

    @cached_property
    def unit(self) -> float:
        """√(E‖y‖²) without noise, over all snapshots of a sample, if entries are independent.

        For one snapshot, E‖y‖² = Σ_i p_i E|x_i|² ‖a_i‖² + Σ_{i≠j} p_i p_j m² Re a_iᴴa_j, where m is the mean of the
        non-zero entries. The second sum is m² (‖A p‖² − Σ_i p_i² ‖a_i‖²). In groups, whose entries are non-zero
        together, p_i takes the place of p_i p_j: with b the sums of the columns of each group, the second sum is then
        m² (‖A p‖² + Σ_g (p_g − p_g²) ‖b_g‖² − Σ_i p_i ‖a_i‖²). With an operator, sums of squared norms are estimated.
        """
        mean, energy = self._moments
        if not self.has_matrix:
            p, G = self._probability, self.group
            alone = energy * self._energy(p)
            apart = self._energy(p**2) if G == 1 else self._energy(p) - self._energy(p - p**2, G)
            image = joint.squares(np, self._images(p[None].astype(self.A.dtype), CpuOps())).sum()
            together = mean**2 * (image - apart) if mean else 0.0
            return float(np.sqrt(max(self.snapshots * (alone + together), 0)))
        p, squares = self._probability, joint.squares(np, self.A).sum(axis=0)
        alone = energy * (p * squares).sum()
        if self.group == 1:
            apart = (p**2 * squares).sum()
        else:
            b = joint.squares(np, self.A.reshape(self.M, -1, self.group).sum(axis=2)).sum(axis=0)
            apart = (p * squares).sum() - ((p - p**2)[:: self.group] * b).sum()
        together = mean**2 * (joint.squares(np, self.A @ p).sum() - apart)
        return float(np.sqrt(max(self.snapshots * (alone + together), 0)))

    def _energy(self, weights: Array, group: int = 1) -> float:
        """Σ_i w_i ‖a_i‖² for an operator, or Σ_g w_g ‖b_g‖² for groups with column sums b_g, from 64 random probes.

        If z has random signs, the mean of ‖A (√w ⊙ z)‖² is this sum (Hutchinson, Commun. Stat. Simul. 1989).
        """
        count = self.few(64)
        words = CpuOps().random_words(Key(0, MATRIX, 2), PROBES)(count * (self.N // group))
        signs = np.where(words >> np.uint64(63), -1.0, 1.0).reshape(count, -1).repeat(group, axis=1)
        images = self._images((np.sqrt(weights) * signs).astype(self.A.dtype), CpuOps())
        return float(joint.squares(np, images).sum()) / count

    @property
    def _moments(self) -> tuple[float, float]:
        """The mean of the non-zero entries, and that of their squares."""
        law = self.magnitude
        if isinstance(law, Bernoulli):
            if self.is_complex:  # of random phases
                return 0.0, law.q * law.v0**2 + (1 - law.q) * law.v1**2
            v0, v1 = (abs(law.v0), abs(law.v1)) if self.positive else (law.v0, law.v1)
            return law.q * v0 + (1 - law.q) * v1, law.q * law.v0**2 + (1 - law.q) * law.v1**2
        mean = law.mean
        if self.positive:  # of the folded normal distribution
            ratio = law.mean / (law.std * math.sqrt(2)) if law.std else math.copysign(math.inf, law.mean)
            mean = law.std * math.sqrt(2 / math.pi) * math.exp(-ratio * ratio) + law.mean * math.erf(ratio)
        return mean, law.mean**2 + law.std**2

    @property
    def law(self) -> str:
        """The law of the non-zero entries, in a form that can be compared."""
        return f"|{self.magnitude}|" if self.positive else repr(self.magnitude)

    @property
    def normalized(self) -> bool:
        """Whether the columns of A have unit ℓ2 norm; False for an operator, whose columns are not looked at."""
        return self.has_matrix and bool(np.all(np.abs(np.linalg.norm(self.A, axis=0) - 1) <= UNIT))

    @property
    def rescaled(self) -> bool:
        """Whether the columns of the user's matrix have other norms than those of A."""
        return not isinstance(self.norms, float)

    @cached_property
    def standard(self) -> Problem:
        """The problem as it is for A, whose codes are not converted to those of the user's matrix."""
        return replace(self, norms=1.0) if self.rescaled else self

    @property
    def given(self) -> Array:
        """The user's matrix (M, N)."""
        return np.asarray(self.A * self.norms)

    def to_given(self, codes: Array, ops: ReferenceOps | None = None) -> Array:
        """Codes (…, N) of A as codes of the user's matrix: each entry is divided by the norm of its column.

        The codes are an array of `ops` (NumPy's if None), whose precision they keep. Entries that are too large for it
        become infinite.
        """
        if not self.rescaled:
            return codes
        with np.errstate(over="ignore"):
            given: Array = (codes / (ops or CpuOps()).asarray(self.norms, np.float64)).astype(codes.dtype)
        return given

    def to_unit(self, codes: Array) -> Array:
        """The inverse of `to_given` for NumPy arrays."""
        return (codes * self.norms).astype(codes.dtype) if self.rescaled else codes

    @property
    def sparsity(self) -> float:
        """The expected share of non-zero entries in a sparse code."""
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
        """Draw signals. The result depends on the arguments only, not on what was drawn before.

        Parameters
        ----------
        batch
            The number of signals.
        rows
            Those of the batch that are drawn, all by default. They have the bits that they have in the whole batch, and
            the others cost nothing.
        stream, step, seed
            The key of the random numbers; `seed` is the problem's own if None.
        dtype
            The precision of the signals. They are complex if the matrix is.
        ops
            The engine whose arrays are returned; the CPU engine if None.

        Returns
        -------
        x : (rows, N), or (rows, L, N) with several snapshots
            The sparse codes, for the user's matrix.
        y : (rows, M), or (rows, L, M)
            Their measurements.
        """
        ops, key = ops or CpuOps(), Key(self.seed if seed is None else seed, stream, step)
        with ops.computing():
            x, y = self._draw(_rows(batch, rows), key, self._probability, dtype, ops)
            return self.to_given(x, ops), y

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
        """Draw signals some of which are harder, with the weights that make weighted means over them unbiased.

        A share `hard` of the batch, spread evenly over it, is drawn with probabilities of non-zero entries that are 1.4
        times larger. This is importance sampling: where f is the density of the problem's signals and g that of the
        harder ones, a signal has the weight f / ((1 − hard) f + hard g), which is at most 1 / (1 − hard). Rare dense
        signals dominate the NMSE, because their errors can be 10⁵ times those of others. Here they are met often, and
        still count correctly.

        The other parameters are those of `sample`.

        Returns
        -------
        x : (rows, N), or (rows, L, N) with several snapshots
            The sparse codes, for the user's matrix.
        y : (rows, M), or (rows, L, M)
            Their measurements.
        weights : (rows,), float64
            The weights of the signals.
        """
        ops, seed = ops or CpuOps(), self.seed if seed is None else seed
        xp, signals, drawn = ops.xp, self.signals(hard), _rows(batch, rows)
        hard_rows = range(signals.hard_before(drawn.start), signals.hard_before(drawn.stop))
        easy_rows = range(drawn.start - hard_rows.start, drawn.stop - hard_rows.stop)
        with ops.computing():
            parts = (
                self._draw(easy_rows, Key(seed, stream, step), signals.probability, dtype, ops),
                self._draw(hard_rows, Key(seed, stream + HARD_STREAM, step), signals.hard_probability, dtype, ops),
            )
            # The place of each row among the easy ones followed by the hard ones, as `Signals.hard_before` has it.
            before = np.floor(hard * np.arange(drawn.start, drawn.stop + 1)) - hard_rows.start
            is_hard, before = before[1:] > before[:-1], before[:-1]
            place = ops.asarray(np.where(is_hard, len(easy_rows) + before, np.arange(len(drawn)) - before), np.int64)
            x, y = (xp.take(xp.concatenate(arrays), place, axis=0) for arrays in zip(*parts, strict=True))
            per_entry, constant = ops.asarray(signals.log_ratio[:-1], np.float64), float(signals.log_ratio[-1])
            log_ratio = xp.where(self.joint.present(x), per_entry, 0.0).sum(axis=1) + constant
            share = signals.hard_before(batch) / batch
            return self.to_given(x, ops), y, 1 / (1 - share + share * xp.exp(log_ratio))

    def signals(self, hard: float = 0.0) -> Signals:
        """The laws that `sample_weighted` draws from."""
        p = self._probability[:: self.group]
        p_hard = np.where(p < 1, np.minimum(p * HARDER, (1 + p) / 2), p)
        with np.errstate(divide="ignore", invalid="ignore"):
            present = np.where(p > 0, np.log(p_hard / p), 0)
            absent = np.where(p < 1, np.log((1 - p_hard) / (1 - p)), 0)
        noise = 10 ** (-self.snr_db / 20)
        log_ratio = np.append(present - absent, absent.sum())
        p, p_hard = (np.repeat(each, self.group) for each in (p, p_hard))
        return Signals(self.A, p, p_hard, log_ratio, self.magnitude, noise, hard, positive=self.positive)

    def fitted(self, signals: Any) -> Problem:
        """The same problem with the law of signals of the user's own, as it is estimated from those for training.

        pnz becomes the share of non-zeros, and the magnitudes become normal with the mean and the standard deviation of
        the non-zeros. If there are measurements too, the SNR becomes that of the measurements y of codes x, where noise
        is what differs from A x.

        Parameters
        ----------
        signals
            A `SignalSet`, or what `SignalSet.of` makes one from.

        Raises
        ------
        FileError, InputError
            As `SignalSet` does, or if the signals do not fit the matrix.

        Warns
        -----
        UserWarning
            If most signals are not sparse, or most measurements differ from A x by more than half of their norm.
        """
        signals = SignalSet.of(signals)
        signals.check_for(self.M, self.N, self.snapshots, self.is_complex, self.measures_complex)
        law = signals.law(np.asarray(self.norms), self.joint)
        if self.positive and law.negative:
            raise InputError(
                f"{signals.name} has negative entries, which the problem excludes: make one that is not positive",
                option="positive",
            )
        if law.dense > 0.5 and self.basis is None:  # coefficients in a basis are small, but hardly ever zero
            warn(
                f"{law.dense:.0%} of the signals in {signals.name} have more non-zeros than zeros, and networks "
                f"recover sparse codes. The {100 * law.pnz:.3g} % of the entries that hold 99 % of their energy are "
                "taken as the non-zeros. If small values stand for zero, set them to zero",
                stacklevel=2,
            )
        snr_db = self.snr_db if signals.M is None else self._snr_of(signals)
        return replace(self, pnz=law.pnz, magnitude=law.magnitude, snr_db=snr_db)

    def check_pairs(self, x: Array, y: Array, name: str) -> tuple[Array, Array]:
        """The energies (samples,) of A x and of y − A x for codes and measurements in the user's units.

        The first is M·var(A x), to which SNRs refer. It warns if most y differ from A x by more than half of their norm
        ‖y‖; `name` is what the warning calls the pairs.
        """
        clean, measured = self._images(self.to_unit(in_double(x)).reshape(-1, self.N), CpuOps()), in_double(y)
        clean, measured = (array.reshape(len(x), -1) for array in (clean, measured))
        errors, energies = (joint.squares(np, array).sum(axis=1) for array in (measured - clean, measured))
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = np.nan_to_num(np.sqrt(errors / energies), posinf=np.inf)
        if np.median(ratios) > 0.5:
            scale = np.vdot(clean, measured) / max(np.sum(joint.squares(np, clean)), np.finfo(float).tiny)
            is_scaled = np.sum(joint.squares(np, measured - scale * clean)) < 0.01 * errors.sum()
            reason = "the matrix may not be the one that measured them, or they are in another order"
            if is_scaled:
                reason = f"y is about {scale:.4g} A x, so that codes and measurements seem to be in different units"
            warn(
                f"for {np.mean(ratios > 0.5):.0%} of the pairs in {name}, ‖y − A x‖ is more than half of ‖y‖ (the "
                f"median is {np.median(ratios):.3g} ‖y‖): {reason}",
                stacklevel=3,
            )
        return clean.shape[1] * clean.var(axis=1), errors

    def _snr_of(self, signals: SignalSet) -> float:
        """The SNR of measurements in dB: 10·log10(Σ M·var(A x) / Σ‖y − A x‖²), or inf from 120 dB on."""
        x, y = (np.concatenate(arrays) for arrays in zip(*signals.parts(10_000), strict=True))
        power, noise = (float(energies.sum()) for energies in self.check_pairs(x, y, signals.name))
        found = 10 * np.log10(power / noise) if power and noise else np.inf
        return float(max(found, LOWEST_SNR)) if found < EXACT_SNR else float("inf")

    @cached_property
    def _probability(self) -> Array:
        return np.broadcast_to(np.asarray(self.pnz), (self.N,))

    def _draw(
        self, rows: range, key: Key, probability: Array, dtype: DTypeLike, ops: ReferenceOps
    ) -> tuple[Array, Array]:
        form = (dtype_for(self.A, dtype), rows.start, self.joint)
        x = ops.sparse_codes(key, len(rows), probability, self.magnitude, *form)
        x = ops.xp.abs(x, out=x) if self.positive else x
        return self._by_sample(x), self._by_sample(self._measure(x, key, ops, rows.start))

    def _by_sample(self, rows: Array) -> Array:
        """Rows (samples·L, P) as arrays of samples, (samples, L, P), if there are L > 1 snapshots."""
        return rows if self.snapshots == 1 else rows.reshape(-1, self.snapshots, rows.shape[1])

    def measure(self, x: Array, key: Key, ops: ReferenceOps | None = None, first_row: int = 0) -> Array:
        """The measurements y (rows, M) of sparse codes x (rows, N) by the user's matrix, at the problem's SNR.

        With several snapshots, they are (rows, L, M) and (rows, L, N).

        The codes are an array of `ops` (NumPy's if None) if the problem is `standard`, and otherwise of NumPy. Their
        noise is that of the samples from `first_row` on of a batch.
        """
        return self._by_sample(self._measure(self.to_unit(x).reshape(-1, self.N), key, ops or CpuOps(), first_row))

    def _measure(self, x: Array, key: Key, ops: ReferenceOps, first_row: int) -> Array:
        """The measurements A x + ε (rows·L, M) of codes of A, (rows·L, N).

        They are the rows from `first_row` on of a batch with this noise, and have the bits that they have in it.
        """
        return self.add_noise(self._images(x, ops), key, ops, first_row)

    def _images(self, x: Array, ops: ReferenceOps) -> Array:
        """A x (rows, M) for codes of A (rows, N), in the precision of x. Each row has the same bits in every batch."""
        if self.has_matrix:
            transposed = ops.kept(self, x.dtype, lambda: ops.asarray(self.A.T, x.dtype))
            return ops.matmul_by_rows(x, transposed, self.sparsity)
        operator, size = self.operator(ops, x.dtype), self.few(len(x), NUMBERS)
        parts = [operator.apply(x[first : first + size]) for first in range(0, len(x), size)]
        images: Array = ops.xp.concatenate(parts)
        return images

    def few(self, number: int, numbers: int = NUMBERS) -> int:
        """A number of samples, or fewer if their codes by an operator had more than so many numbers, but at least 1."""
        return number if self.has_matrix else max(min(number, numbers // math.prod(self.shape_of_code)), 1)

    def add_noise(self, y: Array, key: Key, ops: ReferenceOps, first_row: int = 0) -> Array:
        """Add noise to measurements y (rows·L, M), those of the samples from `first_row` on, at the problem's SNR."""
        if self.snr_db < np.inf:
            L = self.snapshots
            noise = ops.normal(key, NOISE, (y.shape[0], self.M), y.dtype, first_row * L)
            levels = self.joint.samples(y).std(axis=1, keepdims=True)
            levels = levels if L == 1 else ops.xp.repeat(levels, L, axis=0)
            noise *= levels * levels.dtype.type(10 ** (-self.snr_db / 20))
            y = y + noise
        return y

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write a `cuista-problem` file."""
        record = self.to_record()
        if self.has_matrix:
            record.attributes["con_num"] = self.condition_number
        storage.write(path, record, overwrite=overwrite)

    def to_record(self) -> storage.Record:
        record = storage.Record(self.kind)
        self.store(record)
        return record

    def store(self, record: storage.Record) -> None:
        """Add the whole problem to a file's record."""
        if self.has_matrix:
            record.arrays["A"] = self.A
        else:
            record.attributes["operator"] = json.dumps(self.A.description)
            record.arrays |= {f"operator/{name}": array for name, array in self.A.arrays.items()}
        if self.rescaled:
            record.arrays["column_norms"] = np.asarray(self.norms)
            record.attributes["columns"] = "A has columns of unit norm; codes are for A · diag(column_norms), as given"
        if isinstance(self.pnz, float):
            record.attributes["pnz"] = self.pnz
        else:
            record.arrays["support_probability"] = self.pnz
        record.attributes.update(
            snr_db=self.snr_db,
            normalized=self.normalized,
            magnitude=type(self.magnitude).__name__.lower(),
            seed=self.seed,
            positive=self.positive,
            snapshots=self.snapshots,
            group=self.group,
            **{f"magnitude_{name}": value for name, value in self.magnitude._asdict().items()},
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, operator: Any = None) -> Problem:
        """Read a problem from a `cuista-problem` file, or from a `cuista-model` file, which carries its problem.

        Files have no more than a description of an operator of SciPy or PyLops, which must be given as `operator`.
        """
        return cls.from_record(storage.read(path, "cuista-problem", "cuista-model"), path, operator)

    @classmethod
    def from_record(cls, record: storage.Record, path: str | os.PathLike[str], operator: Any = None) -> Problem:
        """The problem in a file's record; error messages name `path`. For `operator`, see `load`."""
        arrays, attributes = record.arrays, record.attributes
        with storage.complete(path):
            law: Any = _LAWS[attributes["magnitude"]]
            magnitude = law(**{name: attributes[f"magnitude_{name}"] for name in law._fields})
            pnz = arrays["support_probability"] if "support_probability" in arrays else attributes["pnz"]
            norms = arrays.get("column_norms", 1.0)
            positive = bool(attributes.get("positive", False))  # absent in files of 0.1.0, as the next two are
            joint = {name: int(attributes.get(name, 1)) for name in ("snapshots", "group")}
            numbers = {"snr_db": attributes["snr_db"], "seed": attributes["seed"], "positive": positive, **joint}
            if operator is not None and '"external"' not in attributes.get("operator", ""):
                raise FileError(f"{path} has all that it needs: give no operator")
            if "operator" not in attributes:
                return cls(arrays["A"], pnz, magnitude=magnitude, norms=norms, **numbers)
            parts = {name.removeprefix("operator/"): array for name, array in arrays.items()}
            made = from_description(json.loads(attributes["operator"]), parts, external=external_of(operator))
            return cls(made, pnz, magnitude=magnitude, **numbers)


def _rows(batch: int, rows: slice) -> range:
    """The numbers of these rows of a batch."""
    if batch < 1:
        raise InputError(f"the number of samples is {batch}; expected 1 or more", option="samples")
    drawn = range(batch)[rows]
    if drawn.step != 1:
        raise InputError(f"the rows to draw are {rows}; expected consecutive ones")
    return drawn


def random_matrix(
    M: int, N: int, *, con_num: float = 0.0, seed: int = 0, dtype: type[float] | type[complex] = float
) -> Array:
    """Draw a Gaussian measurement matrix (M, N) with entries N(0, 1/M), or complex ones CN(0, 1/M).

    A condition number `con_num` κ > 0 replaces the singular values by `logspace(0, log10(1/κ), min(M, N))`, scaled so
    that their squares sum to N. The columns are not normalised: see `normalize_columns`.
    """
    if M < 1 or N < 1:
        raise InputError(f"a matrix of {M}×{N} was asked for; expected 1 or more rows and columns", option=("m", "n"))
    A = CpuOps().normal(Key(seed, MATRIX), CODES, (M, N), dtype) / np.sqrt(M)
    return with_condition_number(A, con_num) if con_num else A


def with_condition_number(A: Array, con_num: float) -> Array:
    """Replace a matrix's singular values by log-spaced ones; the largest is `con_num` ≥ 1 times the smallest."""
    if not 1 <= con_num < np.inf:
        raise InputError(
            f"the condition number is {con_num}; expected 1 or more (or 0 to leave the matrix as it is)",
            option="con_num",
        )
    U, _, Vt = np.linalg.svd(A, full_matrices=False)
    s = np.logspace(0, np.log10(1 / con_num), min(A.shape))
    return np.asarray((U * (s * np.sqrt(A.shape[1]) / np.linalg.norm(s))) @ Vt)


def column_norms(A: Array) -> Array:
    """The ℓ2 norms (N,) of a matrix's columns; 1 where they are 1 up to rounding.

    Raises
    ------
    InputError
        If a norm is extreme, which the message calls the norm of the measurement matrix's column.
    """
    peaks = np.abs(A).max(axis=0)  # divided out, so that no square overflows or vanishes
    norms = peaks * np.linalg.norm(A / peaks, axis=0)
    for column in np.flatnonzero(is_extreme(norms)):
        raise InputError(
            f"column {column} of the measurement matrix has the norm {norms[column]:.3g}; expected {1 / LARGEST:g} to "
            f"{LARGEST:g}. Change its unit"
        )
    return np.where(np.abs(norms - 1) < 1e-12, 1, norms)


def normalize_columns(A: Array) -> Array:
    """Scale every column to unit ℓ2 norm. Columns that have it already, up to rounding, keep their bits."""
    A = check_matrix(A, "the matrix")
    return np.asarray(A / column_norms(A))
