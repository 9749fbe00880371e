"""How good an answer is, as far as that can be known without the truth: residuals, supports, and usual signals.

Codes x̂ of measurements y are judged by five numbers for each sample. A network's answer is compared with its answers to
the signals that it was trained for, of which the truth is known; so each entry can be given an interval too, or a disc
of the complex plane.

Codes are (samples, N) and measurements (samples, M), or (samples, L, N) and (samples, L, M) with L snapshots. All
snapshots of a sample are judged together, and entries of several numbers are counted and compared by their magnitudes
(`cuista.ops.joint`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cuista import storage
from cuista.checks import Array, in_double
from cuista.data.problem import Problem
from cuista.errors import InputError
from cuista.ops import ReferenceOps
from cuista.ops.joint import squares
from cuista.storage import Record
from cuista.summary import counted
from cuista.weights.dense import Weight

# What is measured of each sample, in the order of the columns of `statistics`.
STATISTICS = ("relative_residual", "support_size", "energy", "spread", "peak")
# The share of the signals of training that are called unusual.
FALSE_ALARMS = 0.01
# The number of signals with which answers are compared.
SIGNALS = 2000
# The number of samples that are judged at a time.
ROWS = 4096
# With an operator, quantiles of errors are those of every so-manieth entry, so that fewer must be kept at a time.
EVERY = 7
# The probabilities whose quantiles of errors are kept.
_LEVELS = np.linspace(0, 1, 1001)


def statistics(problem: Problem, y: Array, x: Array, ops: ReferenceOps, fixed: bool = False) -> Array:
    """What can be known of codes x (samples, N) without the truth, from measurements y (samples, M).

    Returns
    -------
    statistics : (samples, 5), float32
        The relative residual ‖y − A x‖₂ / ‖y‖₂, the number of non-zeros, the energy ‖z‖₂ / ‖y‖₂, the spread
        ‖z‖₁ / ‖z‖₂, and the peak max|z| / ‖z‖₂, where z_i = x_i ‖a_i‖₂, and |z_i| is the magnitude of an entry of
        several numbers. With `fixed`, for networks that compute on measurements as they are, the energy is ‖y‖₂. For
        y = 0 and x = 0, all are 0.
    """
    found = np.zeros((len(y), len(STATISTICS)), np.float32)
    rows = min(ROWS, problem.few(len(y)))
    for first in range(0, len(y), rows):
        part = slice(first, first + rows)
        scale, target, z, r = _residuals(problem, y[part], x[part], ops)
        axes = tuple(range(1, z.ndim))
        norm, size, total = (np.sqrt(squares(np, each).sum(axis=axes)) for each in (target, z, r))
        m = problem.joint.magnitudes(np, z.reshape(-1, problem.N))
        some, present = np.where(norm > 0, norm, 1), np.where(size > 0, size, 1)
        energy = norm * scale.reshape(-1) if fixed else size / some
        residual = np.where(norm > 0, total / some, np.where(total > 0, np.inf, 0))
        columns = (residual, np.count_nonzero(m, axis=1), energy, m.sum(axis=1) / present)
        found[part] = np.stack([*columns, m.max(axis=1) / present], axis=1)
    return found


def _residuals(problem: Problem, y: Array, x: Array, ops: ReferenceOps) -> tuple[Array, Array, Array, Array]:
    """The largest |y_m| of each sample, and y, z and y − A z divided by it, in double precision and host memory.

    The first is (samples, 1), or (samples, 1, 1) with several snapshots.
    """
    y, dtype = in_double(y), problem.A.dtype
    scale = np.abs(y).max(axis=tuple(range(1, y.ndim)), keepdims=True)
    scale[scale == 0] = 1
    z, y = problem.to_unit(in_double(x)) / scale, y / scale
    with ops.computing():
        codes = ops.asarray(z, dtype).reshape(-1, problem.N)
        if problem.has_matrix:
            transposed = ops.kept(problem, dtype, lambda: ops.asarray(problem.A.T, dtype))
            image = ops.to_numpy(ops.sparse_matmul(codes, transposed))
        else:
            image = ops.to_numpy(problem.operator(ops).apply(codes))
    return scale, y, z, y - image.reshape(y.shape)


@dataclass(frozen=True)
class Reference:
    """A network's answers to signals like those that it was trained for.

    Attributes
    ----------
    statistics
        Their `statistics` (signals, 5), each column sorted.
    threshold
        The rank below which a sample is called unusual (see `_ranks`); of these signals, that is a share of 0.01.
    errors
        Quantiles (2, 1001) of |x̂_i + (Wᴴ(y − A x̂))_i − x_i| in units of ‖y − A x̂‖₂ ‖w_i‖₂ / √M (see `_debiased`), for
        the entries that are zero in x̂ and for the others. Each number of an entry of several is taken for itself.
    fixed
        Whether the network computes on measurements as they are, so that other units are unusual.
    """

    statistics: Array
    threshold: float
    errors: Array
    fixed: bool = False

    @classmethod
    def measured(
        cls,
        problem: Problem,
        weight: Weight,
        answered: Iterable[tuple[Array, Array, Array]],
        ops: ReferenceOps,
        fixed: bool = False,
    ) -> Reference:
        """Compare answers with the true codes.

        `answered` has parts of the signals: codes x (signals, N), their measurements y (signals, M), and answers
        (signals, N). `weight` is the analytic weight of `problem.A`. For `fixed`, see `statistics`.
        """
        found: list[Array] = []
        parts: tuple[list[Array], list[Array]] = ([], [])
        for x, y, answer in answered:
            found.append(statistics(problem, y, answer, ops, fixed))
            centre, scale = _debiased(problem, weight, y, answer, ops)
            ratio = np.abs(centre - problem.to_unit(in_double(x))) / np.where(scale > 0, scale, 1)
            spaced = slice(None, None, 1 if problem.has_matrix else EVERY)
            ratio, present = (array.reshape(-1)[spaced] for array in (ratio, answer != 0))
            parts[0].append(ratio[~present])
            parts[1].append(ratio[present])
        errors = [np.quantile(part, _LEVELS) if part.size else _LEVELS * 0 for part in map(np.concatenate, parts)]
        ordered = np.sort(np.concatenate(found), axis=0)
        threshold = float(np.quantile(_ranks(ordered, np.concatenate(found)), FALSE_ALARMS, method="lower"))
        return cls(ordered, threshold, np.stack(errors), fixed)

    def store(self, record: Record) -> None:
        """Add it to the record of a model's file."""
        record.arrays |= {"usual/statistics": self.statistics, "usual/errors": self.errors}
        record.attributes["usual_threshold"] = self.threshold

    @classmethod
    def stored(cls, record: Record) -> Reference | None:
        """What the record of a model's file holds; None for files without it, such as those of 0.1.0."""
        if "usual/statistics" not in record.arrays:
            return None
        threshold, fixed = float(record.attributes["usual_threshold"]), not record.attributes["unit"]
        return cls(record.arrays["usual/statistics"], threshold, record.arrays["usual/errors"], fixed)

    def unusual(self, found: Array) -> Array:
        """Whether samples with these statistics (samples, 5) are unusual. Zero measurements never are."""
        return np.asarray((_ranks(self.statistics, found) < self.threshold) & found.any(axis=1))

    def differing(self, found: Array) -> list[str]:
        """The statistics whose distribution over samples (samples, 5) is another than in training.

        Each is tested by the distance of Kolmogorov and Smirnov; together they find a difference in 1 % of the sets of
        usual signals.
        """
        n, m = len(self.statistics), len(found)
        limit = np.sqrt(-np.log(FALSE_ALARMS / len(STATISTICS) / 2) / 2 * (n + m) / (n * m))
        differing = []
        for name, usual, column in zip(STATISTICS, self.statistics.T, np.sort(found, axis=0).T, strict=True):
            values = np.concatenate([usual, column])
            shares = (np.searchsorted(each, values, side="right") / len(each) for each in (usual, column))
            if np.abs(np.subtract(*shares)).max() > limit:
                differing.append(name)
        return differing


def _ranks(usual: Array, found: Array) -> Array:
    """How far in a tail of the usual statistics each sample's most unusual one lies: 0 beyond all, up to 1.

    Small relative residuals are never unusual.
    """
    n, tails = len(usual), []
    for number, (values, column) in enumerate(zip(usual.T, found.T, strict=True)):
        above = 1 - np.searchsorted(values, column, side="left") / n
        below = np.searchsorted(values, column, side="right") / n
        tails.append(above if number == 0 else np.minimum(1, 2 * np.minimum(above, below)))
    return np.asarray(np.min(tails, axis=0))


def _debiased(problem: Problem, weight: Weight, y: Array, x: Array, ops: ReferenceOps) -> tuple[Array, Array]:
    """x̂ + Wᴴ(y − A x̂) for codes of `problem.A`, and the scale of its errors ‖y − A x̂‖₂ ‖w_i‖₂ / √M, (samples, N).

    Because w_iᴴa_i = 1, the error of an entry does not depend on the entry itself. Its noise has the variance
    σ² ‖w_i‖², and the residual estimates σ together with what other entries add, as in approximate message passing. If
    the problem has no negative entries, neither has the estimate, which brings it nearer to all of them. With L
    snapshots, both are (samples, L, N), and σ is that of all snapshots, ‖y − A x̂‖₂ / √(L M).
    Zhang, Zhang, J. R. Stat. Soc. B 2014; Javanmard, Montanari, JMLR 2014 (the debiased Lasso).

    With an operator, h_i^−½ takes the place of ‖w_i‖₂, to which it is proportional if A Aᴴ is a multiple of I.
    """
    size, _, z, r = _residuals(problem, y, x, ops)
    dtype, W = problem.A.dtype, weight.W
    with ops.computing():
        if W is not None:
            rows = ops.asarray(r.reshape(-1, problem.M), dtype)
            step = ops.to_numpy(ops.matmul(rows, ops.asarray(W.conj(), dtype)))
            norms = np.sqrt(squares(np, W).sum(axis=0))
        else:
            operator, ridge = problem.operator(ops), weight.report.ridge
            rows = ops.asarray(r.reshape(-1, problem.M), operator.measured_dtype)
            step = ops.to_numpy(operator.correction(rows, ridge))
            norms = 1 / np.sqrt(ops.to_numpy(operator.gains(ridge)))
    step = step.reshape(z.shape)
    sigma = np.sqrt(squares(np, r).mean(axis=tuple(range(1, r.ndim)), keepdims=True))
    estimate = np.maximum(z + step, 0) if problem.positive else z + step
    return estimate * size, np.broadcast_to(sigma * size * norms, z.shape)


def names_of_intervals(problem: Problem) -> tuple[str, str]:
    """What `intervals` returns for a problem: bounds for real numbers, discs for complex ones."""
    return ("centre", "radius") if problem.is_complex else ("lower", "upper")


def intervals(
    problem: Problem, weight: Weight, reference: Reference, y: Array, x: Array, level: float, ops: ReferenceOps
) -> tuple[Array, Array]:
    """Intervals that contain the entries of the true codes with the probability `level`; discs for complex entries.

    They are centred at x̂ + Wᴴ(y − A x̂), or at its positive part if the problem has no negative entries. Their half
    widths, or radii, are multiples of ‖y − A x̂‖₂ ‖w_i‖₂ / √M; of the errors on the reference's signals, the share
    `level` is below that, both among entries that are zero in x̂ and among the others (split conformal prediction: Lei
    et al., JASA 2018). So `level` is the coverage for signals like those, and for others there is no promise.

    For a complex number, it is the disc about the centre that contains the true number, so that it bounds the real and
    the imaginary part together. If noise dominates the error e, this is circular normal with the variance s², |e|² is
    exponential, and the radius is near s √(−ln(1 − level)). Of an entry of several numbers, each has an interval or a
    disc of its own, which holds that number with the probability `level`; all of them hold together less often.

    Parameters
    ----------
    weight
        The analytic weight of `problem.A`.
    y, x
        Measurements (samples, M), and the network's answer (samples, N); (samples, L, M) and (samples, L, N) with L
        snapshots.
    level
        The probability, more than 0 and less than 1.

    Returns
    -------
    lower, upper : shaped like x, float32
        In the user's units. Without negative entries, `lower` is at least 0.
    centre, radius : shaped like x, complex64 and float32
        In their place for a complex problem: see `names_of_intervals`.

    Raises
    ------
    InputError
        If the level is out of range.
    """
    if not 0 < level < 1:
        raise InputError(f"the level of intervals is {level}; expected more than 0 and less than 1", option="interval")
    centre, scale = _debiased(problem, weight, y, x, ops)
    absent, present = (float(np.interp(level, _LEVELS, errors)) for errors in reference.errors)
    half = scale * np.where(x != 0, present, absent)
    if problem.is_complex:
        return problem.to_given(centre).astype(np.complex64), problem.to_given(half).astype(np.float32)
    least = np.maximum(centre - half, 0) if problem.positive else centre - half
    lower, upper = (problem.to_given(bound).astype(np.float32) for bound in (least, centre + half))
    return lower, upper


@dataclass(frozen=True, repr=False)
class Quality:
    """What is known of the codes of a set of measurements without the truth.

    Attributes
    ----------
    statistics
        The `statistics` of the samples (samples, 5).
    reference
        What is usual for the network; None for a solver, which is trained for nothing.
    judged
        The `statistics` of the network's own answer, if that was changed afterwards.
    more
        What else is known of each sample (samples,), by name, such as the duality gaps of a solver.
    """

    statistics: Array
    reference: Reference | None = None
    judged: Array | None = None
    more: Mapping[str, Array] = field(default_factory=dict)

    @classmethod
    def joined(cls, parts: Sequence[Quality]) -> Quality:
        """The quality of several sets as one, or of no samples at all."""
        if not parts:
            return cls(np.zeros((0, len(STATISTICS)), np.float32))
        own = [part.judged for part in parts if part.judged is not None]
        return cls(
            np.concatenate([part.statistics for part in parts]),
            parts[0].reference,
            np.concatenate(own) if own else None,
            {name: np.concatenate([part.more[name] for part in parts]) for name in parts[0].more},
        )

    def __repr__(self) -> str:
        if not len(self.statistics):
            return "<Quality of 0 samples>"
        residual, support = np.median(self.relative_residual), np.median(self.support_size)
        unusual = "" if self.reference is None else f", {self.unusual.sum()} unusual"
        return (
            f"<Quality of {counted(len(self.statistics), 'sample')}: relative residual {residual:.3g} and "
            f"{support:g} non-zeros in the median{unusual}>"
        )

    @property
    def _own(self) -> Array:
        return self.statistics if self.judged is None else self.judged

    @property
    def zero(self) -> Array:
        """Whether the measurements of each sample (samples,) are zero, and so are its codes."""
        return np.asarray(~self._own.any(axis=1))

    @property
    def relative_residual(self) -> Array:
        """‖y − A x̂‖₂ / ‖y‖₂ of each sample (samples,)."""
        return np.asarray(self.statistics[:, 0])

    @property
    def support_size(self) -> Array:
        """The number of non-zero entries of each sample's codes (samples,); one of several numbers counts once."""
        return self.statistics[:, 1].astype(np.int64)

    @property
    def unusual(self) -> Array:
        """Whether each sample (samples,) does not look like the signals that the network was trained for.

        Of these signals themselves, 1 % are called unusual. A solver calls none unusual.
        """
        if self.reference is None:
            return np.zeros(len(self.statistics), bool)
        return self.reference.unusual(self._own)

    @property
    def too_many(self) -> bool:
        """Whether more samples are unusual than chance explains (with a probability of less than 0.001)."""
        if self.reference is None:
            return False
        expected = FALSE_ALARMS * len(self.statistics)
        # The share of usual signals beyond the threshold is not exactly 1 %, because it is set by finitely many.
        variance = expected * (1 + len(self.statistics) / len(self.reference.statistics))
        return bool(self.unusual.sum() > expected + 3.1 * np.sqrt(variance) + 1)

    @property
    def differing(self) -> dict[str, tuple[float, float]]:
        """The statistics that differ from those of training over the set, each with its median here and there."""
        if self.reference is None or not len(self.statistics):
            return {}
        usual = np.median(self.reference.statistics, axis=0)
        here = np.median(self._own, axis=0)
        at = {name: STATISTICS.index(name) for name in self.reference.differing(self._own)}
        return {name: (float(here[i]), float(usual[i])) for name, i in at.items()}

    def save(self, path: str | os.PathLike[str], attributes: dict[str, Any], *, overwrite: bool = False) -> None:
        """Write a `cuista-quality` file with the statistics of each sample, and whether it is unusual."""
        columns = zip(STATISTICS, self.statistics.T, strict=True)
        arrays = {name: np.ascontiguousarray(column) for name, column in columns}
        arrays |= {"support_size": self.support_size, **self.more}
        if self.reference is not None:
            arrays["unusual"] = self.unusual
            attributes = {**attributes, "false_alarm_rate": FALSE_ALARMS}
        storage.write(path, Record("cuista-quality", arrays, attributes), overwrite=overwrite)

    def summary(self) -> dict[str, Any]:
        """The numbers that describe the whole set, for `--json`."""
        if not len(self.statistics):
            return {"samples": 0}
        residual, support = self.relative_residual, self.support_size
        found: dict[str, Any] = {
            "samples": len(self.statistics),
            "relative_residual": {"median": float(np.median(residual)), "largest": float(residual.max())},
            "support_size": {
                "smallest": int(support.min()),
                "median": float(np.median(support)),
                "largest": int(support.max()),
            },
        }
        if "gap" in self.more:
            found["largest_gap"] = float(self.more["gap"].max())
        if "converged" in self.more:
            found["not_converged"] = int(np.count_nonzero(~self.more["converged"]))
        if self.reference is not None:
            found |= {
                "unusual": int(self.unusual.sum()),
                "false_alarm_rate": FALSE_ALARMS,
                "too_many_unusual": self.too_many,
                "differing": {name: {"here": a, "trained_for": b} for name, (a, b) in self.differing.items()},
            }
        return found
