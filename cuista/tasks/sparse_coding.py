"""Sparse coding: a dense network recovers the signals of a problem from their measurements."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from cuista import storage
from cuista.checks import Array
from cuista.counter import FITTING, JUDGING, Key
from cuista.data.problem import Problem
from cuista.data.signals import SignalSet
from cuista.errors import FileError, InputError
from cuista.messages import say, trying, warn
from cuista.metrics import Report, nmse_db, report_on
from cuista.model import Trained
from cuista.networks import NETWORKS, Network
from cuista.ops import FusedStep, ReferenceOps, engine
from cuista.ops.joint import ALONE
from cuista.quality import ROWS, SIGNALS, Quality, Reference, intervals, statistics
from cuista.ranks import ranks
from cuista.storage import Record
from cuista.training import FastRecipe, PaperRecipe, SearchRecipe, train
from cuista.training.recipes import Recipe
from cuista.training.task import Examples, Source, Task
from cuista.weights.conv import ConvWeight
from cuista.weights.dense import Weight, WeightReport, solve_exact

AnyWeight = TypeVar("AnyWeight", Weight, ConvWeight)

# With fewer signals held out than this, the validation is not precise.
FEW = 100
# With fewer answers than this, it is not known which are usual.
FEWEST = 500
# The most numbers in the codes to which answers of an operator's network are compared.
MOST_JUDGED = 2**26
# What the summary of a model says of its problem, besides its size.
KEPT = ("numbers", "snapshots", "groups", "sparsity", "signs", "noise")
RIDGES = (0.0, 0.1, 0.4, 1.0, 3.0, 10.0)
# Below this SNR in dB, the noise is the reason if little is recovered.
LOW_SNR = 6.0
# How a network is trained to compare ridges: long enough to tell them apart.
RIDGE_RECIPE = FastRecipe(layer_steps=10, max_steps=0, matrix_steps=0, validation_batch=2000)


@dataclass(repr=False)
class Model(Trained):
    """A dense network with its problem and its weight, and how it was trained.

    Attributes
    ----------
    problem, weight
        The problem that the network solves, and the analytic weight that it was made from.
    schedule
        `percent` and `max_percent` as requested; None leaves a value to the recipe.
    reference
        The network's answers to signals like those that it was trained for; None if they are not measured yet.
    """

    kind: ClassVar[str] = "cuista-model"

    network: Network
    problem: Problem
    weight: Weight
    schedule: tuple[float | None, float | None] = (None, None)
    reference: Reference | None = None

    @classmethod
    def new(
        cls,
        problem: Problem,
        weight: Weight | None = None,
        net: str = "alista",
        *,
        layers: int = 16,
        percent: float | None = None,
        max_percent: float | None = None,
        per_coordinate: bool = False,
        untied: bool = False,
        unit: float | None = None,
        parameters: dict[str, Array] | None = None,
        ops: ReferenceOps | None = None,
        dtype: Any = np.float32,
    ) -> Model:
        """An untrained network for a problem.

        Parameters
        ----------
        weight
            The analytic weight; if None, the one that `analytic_weight` finds.
        net
            The network's name, a key of `NETWORKS`.
        percent, max_percent
            The support schedule. The recipe decides a value that is None: the fast recipe by the problem's sparsity s,
            with 17·s percent per layer up to 170·s percent, and the paper's recipe as 1.2 and 13.
        unit
            The norm to which the measurements of each sample are scaled, so that any units may be used: see `Unrolled`.
            None stands for that of the problem, and 0 leaves measurements as they are, which is what the paper's recipe
            trains.
        layers, per_coordinate, untied, parameters, ops, dtype
            As in `Network`.

        Raises
        ------
        InputError
            If the weight is for another matrix, the schedule is out of range, or there is no such network.
        """
        if net not in NETWORKS:
            known = ", ".join(NETWORKS)
            raise InputError(f"{net!r} is not a network; expected one of {known}", option="net")
        if weight is None:
            numbers: dict[str, Any] = {"layers": layers, "untied": untied, "ops": ops}
            weight = analytic_weight(problem, net, percent=percent, max_percent=max_percent, **numbers)
        if weight.matrix_sha256 != problem.sha256:
            raise InputError(
                "the weight is not one of this problem's matrix: compute one for this matrix", option="weight"
            )
        schedule = percent, max_percent
        decided: dict[str, Any] = _decided(schedule, FastRecipe(), problem)
        operator, kind = problem.operator(ops or engine("cpu"), dtype), NETWORKS[net]
        # Subbands differ in how large and how sparse they are, so that each has thresholds and step sizes of its own.
        grouped = not problem.has_matrix and kind.can_group and not per_coordinate
        network = kind(
            operator,
            weight.W,
            layers=layers,
            **decided,
            per_coordinate=per_coordinate,
            untied=untied,
            positive=problem.positive,
            joint=problem.joint,
            ridge=0.0 if problem.has_matrix else weight.report.ridge,
            groups=operator.groups if grouped else None,
            parameters=parameters,
        )
        network.unit = problem.unit if unit is None else unit
        model = cls(network, problem, weight, schedule)
        if parameters is None:
            model.calibrate()
        return model

    def calibrate(self) -> None:
        """Adjust the published start of an untrained network to the problem, if it depends on it."""
        if self.network.starts_relative:
            with self.network.ops.computing():
                self.network.calibrate(self.problem.sample(self.problem.few(256), stream=FITTING)[1])

    def made_for(self) -> dict[str, str]:
        return made_for(self.problem)

    def task(self) -> Task[Model]:
        return SparseCoding()

    @property
    def rows(self) -> int:
        """The number of samples that suit a call of `recover`."""
        return self.problem.few(ROWS)

    @property
    def external(self) -> Any:
        return None if self.problem.has_matrix else self.problem.A.external

    def identity(self) -> dict[str, Any]:
        problem = self.problem
        return {
            "per_coordinate": self.network.per_coordinate,
            "unit": self.network.unit,
            "matrix": problem.sha256,
            **({"norms": storage.sha256(np.asarray(problem.norms))} if problem.rescaled else {}),
            "weight": storage.sha256(self.weight.W) if problem.has_matrix else self.weight.report.ridge,
            "pnz": problem.pnz if isinstance(problem.pnz, float) else storage.sha256(problem.pnz),
            "snr_db": problem.snr_db,
            "magnitude": problem.law,
            **({} if problem.joint == ALONE else problem.joint._asdict()),
        }

    def iterates(self, y: ArrayLike) -> Iterator[Array]:
        """The network's iterates x_1, …, x_T for measurements y (samples, M), one at a time, for the user's matrix."""
        iterates = self.network.iterates(self.problem.checked(y, self.problem.M, "y"))
        return (self.problem.to_given(x, self.network.ops) for x in iterates)

    def recover(self, y: ArrayLike) -> Array:
        """Recover the sparse codes (samples, N) of measurements y (samples, M), in batches, for the user's matrix.

        With several snapshots, they are (samples, L, N) and (samples, L, M). For one sample, y has no axis of samples,
        and neither has the result.

        Raises
        ------
        InputError
            If y has the wrong shape or contains a NaN or an infinity.
        """
        network, problem = self.network, self.problem
        rows = problem.checked(y, problem.M, "y")
        x = network.ops.apply(network.output, rows, problem.shape_of_code, network.dtype, network.samples_at_a_time)
        x = problem.to_given(x)
        return x[0] if np.ndim(y) < rows.ndim else x

    def usual(self) -> Reference:
        """The network's answers to usual signals, which are measured on signals of the problem if they are not yet."""
        return self.reference or self.judge_afresh()

    def judge_afresh(self) -> Reference:
        """Measure the answers to signals of the problem, as for a network that has just been trained."""
        problem = self.problem
        count, size = problem.few(SIGNALS, MOST_JUDGED), problem.few(SIGNALS)
        slices = (slice(first, min(first + size, count)) for first in range(0, count, size))
        return self.judge_by(problem.sample(count, rows=rows, stream=JUDGING) for rows in slices)

    def judge_by(self, signals: Iterable[tuple[Array, Array]]) -> Reference:
        """Compare answers from now on with those to signals: parts of codes (signals, N) and measurements."""
        network, fixed = self.network, not self.network.unit
        answered = ((x, y, self.recover(y)) for x, y in signals)
        found = Reference.measured(self.problem, self.weight, answered, network.ops, fixed)
        self.reference = found
        return found

    def quality(self, y: ArrayLike, x: ArrayLike) -> Quality:
        """How good the codes x (samples, N) of measurements y (samples, M) are, without the truth."""
        (y, x), usual = self._checked(y, x), self.usual()
        return Quality(statistics(self.problem, y, x, self.network.ops, not self.network.unit), usual)

    def _checked(self, y: ArrayLike, x: ArrayLike) -> tuple[Array, Array]:
        """Measurements and the codes that were recovered from them, after a check."""
        problem = self.problem
        return problem.checked(y, problem.M, "y"), problem.checked(x, problem.N, "x", np.inf)

    def intervals(self, y: ArrayLike, x: ArrayLike, level: float = 0.95) -> tuple[Array, Array]:
        """Intervals that contain the true codes, given this network's codes x (samples, N) of y (samples, M).

        Returns the lower and the upper bounds, in the shape of x. See `cuista.quality.intervals`.
        """
        shape = np.shape(x)
        y, x = self._checked(y, x)
        lower, upper = intervals(self.problem, self.weight, self.usual(), y, x, level, self.network.ops)
        return lower.reshape(shape), upper.reshape(shape)

    def store(self, record: Record) -> None:
        self.problem.store(record)
        if self.weight.W is not None:
            record.arrays["W"] = self.weight.W
            record.attributes["weight_sha256"] = storage.sha256(self.weight.W)
        if self.reference is not None:
            self.reference.store(record)
        record.attributes |= {
            "support_schedule": list(self.network.support),
            "unit": self.network.unit,
            "asked_schedule": json.dumps(self.schedule),
            "matrix_sha256": self.problem.sha256,
            "weight": json.dumps(asdict(self.weight.report)),
        }

    @classmethod
    def restore(
        cls, record: Record, path: str | os.PathLike[str], options: dict[str, Any], place: dict[str, Any]
    ) -> Model:
        attributes = record.attributes
        problem = Problem.from_record(record, path, place.pop("operator", None))
        if attributes["net"] not in NETWORKS:
            raise FileError(f"{path} holds the net {attributes['net']!r}, which this version of cuista does not have")
        report = WeightReport(**json.loads(attributes["weight"]))
        if problem.has_matrix:
            weight = Weight.stored(record, problem.A, report, path)
            if attributes["weight_sha256"] != storage.sha256(weight.W):
                raise FileError(f"{path} is damaged: its weight is not the one with which it was made")
        else:
            weight = Weight(None, problem.sha256, report)
        shape = record.arrays["parameters/threshold"].shape
        options["per_coordinate"] = len(shape) == 2 and shape[1] == problem.N // problem.group
        unit = float(attributes.get("unit", 0))  # 0.1.0 has none
        model = cls.new(problem, weight, attributes["net"], unit=unit, **options, **place)
        model.reference = Reference.stored(record)
        if "asked_schedule" in attributes:
            percent, max_percent = json.loads(attributes["asked_schedule"])
            model.schedule = percent, max_percent
        return model


def made_for(problem: Problem) -> dict[str, str]:
    """What a problem is, as a part of what a model for it is."""
    facts = problem.facts()
    return {"problem": f"for {facts['size']}", **{name: facts[name] for name in KEPT}}


class SparseCoding(Task[Model]):
    """Training on new signals of the model's own problem, or on given ones.

    Parameters
    ----------
    signals
        The signals of the user's own; None for new ones.
    """

    name = "sc"
    models = (Model,)
    kinds = (FastRecipe, PaperRecipe, SearchRecipe)
    recipes: ClassVar[Any] = {"fast": FastRecipe, "paper": PaperRecipe}

    def __init__(self, signals: SignalSet | None = None) -> None:
        self.signals = signals

    def on(self, data: Any) -> SparseCoding:
        return SparseCoding(SignalSet.of(data))

    def check(self, model: Model, recipe: Recipe) -> None:
        super().check(model, recipe)
        if self.signals is not None:
            problem = model.problem
            kinds = problem.is_complex, problem.measures_complex
            self.signals.check_for(problem.M, problem.N, problem.snapshots, *kinds)

    def recipe(self, model: Model) -> Recipe:
        if not model.network.has_gradients:
            return SearchRecipe()
        problem = model.problem
        return FastRecipe() if problem.has_matrix else FastRecipe().sized(math.prod(problem.shape_of_code))

    def source(self, model: Model, recipe: Any) -> Source:
        if model.problem.twins.number:
            warn(str(model.problem.twins), stacklevel=3)
        if self.signals is not None:
            return GivenSource(model.problem, self.signals, recipe)
        return SignalSource(model.problem.standard, recipe)

    def identity(self, model: Model, recipe: Any) -> dict[str, Any]:
        return {} if self.signals is None else {"signals": self.signals.sha256}

    def finish(self, model: Model) -> None:
        if self.signals is None:
            model.judge_afresh()
        else:
            model.training["trained_on"] = self.signals.about
            most, key = model.problem.few(SIGNALS, MOST_JUDGED), Key(model.problem.seed, JUDGING)
            numbers = self.signals.validation[:most]
            if not model.network.matrices:  # a few numbers fit signals for training no better than others
                numbers = np.append(numbers, self.signals.draw(key, most - len(numbers)))
            if model.problem.has_matrix and len(numbers) < FEWEST:
                warn(
                    f"{len(numbers)} signals are held out, too few to tell what is usual: answers are judged by those "
                    "to signals of the estimated law"
                )
                model.judge_afresh()
                return
            problem, network, size = model.problem, model.network, model.problem.few(SIGNALS)
            read = self.signals.read

            def part(first: int) -> tuple[Array, Array]:
                codes, measured = read(numbers[first : first + size])
                x = codes.astype(network.dtype)
                new = key._replace(step=first)  # the noise of each part is its own
                return x, problem.measure(x, new) if measured is None else measured.astype(network.input_dtype)

            model.judge_by(part(first) for first in range(0, len(numbers), size))

    def prepare(self, model: Model, recipe: Any) -> None:
        if recipe.by_gradients and not model.training:
            model.network.reschedule(**_decided(model.schedule, recipe, model.problem))
            if not recipe.analytic and model.network.unit:  # as published
                model.network.unit = 0.0
                if model.network.starts_relative:
                    model.network.parameters = model.network.published_start()
                    model.calibrate()


class SignalSource(Source):
    """Signals of a problem, some of them harder than the rest if the recipe asks for that."""

    def __init__(self, problem: Problem, recipe: Any) -> None:
        self.problem, self.hard = problem, recipe.hard
        self.weight_power = recipe.weight_power if problem.snr_db == np.inf else 1.0

    def sample(
        self,
        ops: ReferenceOps,
        dtype: DTypeLike,
        batch: int,
        key: Key,
        validate: bool = False,
        rows: slice = slice(None),
    ) -> Examples:
        """Signals (batch, N), measurements (batch, M), and the signals' weights (batch,), or None without hard signals.

        Signals for validation and for training differ only in their keys.
        """
        where: dict[str, Any] = {**key._asdict(), "dtype": dtype, "ops": ops}
        if self.hard:
            return self.problem.sample_weighted(batch, self.hard, rows=rows, **where)
        return *self.problem.sample(batch, rows=rows, **where), None

    def error_db(self, network: Any, validation: Examples, depth: int) -> float:
        """The NMSE in dB after `depth` layers on signals from `sample`."""
        x, y, weights = validation
        return nmse_db(network, x, y, depth, weights)

    def advice(self) -> str:
        problem = self.problem
        present = problem.sparsity * problem.N
        if 3 * present > problem.M:
            return (
                f"Signals with {present:.3g} non-zeros on average are hard to recover from {problem.M} measurements: "
                "measure more, or sparser signals"
            )
        if problem.snr_db < LOW_SNR:
            return f"At an SNR of {problem.snr_db:g} dB little can be recovered: measure with less noise"
        return super().advice()

    def blank(self) -> InputError:
        return InputError(
            f"pnz is {self.problem.sparsity:g}, so that whole sets of signals are zero; expected at least a few "
            "non-zeros in hundreds of signals. Give a larger one",
            option="pnz",
        )

    def fuse(self, network: Any) -> FusedStep | None:
        fused: FusedStep | None = network.fuse(self.problem.signals(self.hard))
        return fused


class GivenSource(SignalSource):
    """Signals of the user's own, which are drawn from those for training, and validated on those held out."""

    def __init__(self, problem: Problem, signals: SignalSet, recipe: Any) -> None:
        super().__init__(problem.standard, recipe)
        self.signals, self.norms = signals, np.asarray(problem.norms, np.float64)
        signals.check_batch(recipe)
        pnz = signals.law(self.norms, problem.joint).pnz
        if not 2 / 3 <= pnz / problem.sparsity <= 3 / 2:
            warn(
                f"{100 * pnz:.3g} % of the entries of {signals.name} are non-zero, and the model is made for "
                f"{100 * problem.sparsity:.3g} %: make it for problem.fitted(signals), whose law is theirs",
                stacklevel=3,
            )
        # Entries of a picture are many signals in one.
        if len(signals.validation) * (1 if problem.has_matrix else problem.N // 10) < FEW:
            warn(
                f"few signals of {signals.name} are held out, {len(signals.validation)}, so that the validation is not "
                "precise: give more signals, or hold out a larger share",
                stacklevel=3,
            )

    def sample(
        self,
        ops: ReferenceOps,
        dtype: DTypeLike,
        batch: int,
        key: Key,
        validate: bool = False,
        rows: slice = slice(None),
    ) -> Examples:
        """Signals (batch, N), measurements (batch, M), and weights (batch,) or None, as in `SignalSource`.

        For validation, they are all that are held out, or `batch` of them. Measurements that are not given are
        computed, with new noise for each key.
        """
        signals, weights = self.signals, None
        if validate:
            numbers = signals.validation[:batch]
        elif self.hard:
            numbers, weights = signals.draw_weighted(key, batch, self.hard)
            weights = ops.asarray(weights[rows], np.float64)
        else:
            numbers = signals.draw(key, batch)
        codes, measured = signals.read(numbers[rows])
        x = ops.asarray((codes * self.norms).astype(dtype), dtype)
        with ops.computing():
            if measured is None:
                y = self.problem.measure(x, key, ops, rows.start or 0)
            else:  # they may be complex where codes are real
                own = np.result_type(dtype, np.complex64) if self.problem.measures_complex else dtype
                y = ops.asarray(measured, own)
        return x, y, weights

    def blank(self) -> InputError:
        return InputError(
            f"too few of the signals in {self.signals.name} have non-zeros: the ones drawn or held out are all zero. "
            "Leave signals that are zero out"
        )

    def fuse(self, network: Any) -> FusedStep | None:
        return None


def analytic_weight(
    problem: Problem,
    net: str = "alista",
    *,
    ridge: float | Literal["auto"] | None = None,
    recipe: Any = None,
    begun: Model | None = None,
    say: Callable[[str], None] = say,
    **options: Any,
) -> Weight:
    """The exact weight with which to build a network for a problem.

    Parameters
    ----------
    ridge
        λ of the noise-aware weight, or `auto` for the value that `choose_ridge` finds. None means `auto` with
        measurement noise and 0 without.
    recipe
        The recipe that will train the network; the fast one if None. If it does not start learned matrices from the
        weight, a ridge of None is 0, because the weight makes no difference then.
    begun
        The model of an interrupted run. Its weight is reused if it is for this problem and has the requested ridge: a
        newly computed one might differ in its last bits, and the run could not be continued with it.
    say
        Called with messages about what is being done.
    options
        Further arguments of `choose_ridge`.
    """
    same = begun is not None and begun.problem.sha256 == problem.sha256
    if begun and same and ridge in (None, "auto", begun.weight.report.ridge):
        return begun.weight
    if not problem.has_matrix and problem.operator().rows_norm_squared is not None:
        if ridge not in (None, 0):
            say("A ridge makes no difference, because A Aᴴ is a multiple of the identity: it is 0.")
        return Weight.of_operator(problem.sha256)
    recipe = recipe or FastRecipe()
    starts_elsewhere = not recipe.analytic and NETWORKS[net].matrices
    if ridge is None:
        ridge = 0.0 if problem.snr_db == np.inf or starts_elsewhere else "auto"
    if ridge == "auto":
        say(f"Computing a noise-aware weight for an SNR of {problem.snr_db:g} dB (ridge 0 gives the paper's weight).")
        return choose_ridge(problem, net, say=say, **options)
    if not problem.has_matrix:
        return Weight.of_operator(problem.sha256, ridge)
    say(f"Computing the analytic weight (ridge {ridge:g}).")
    return solve_exact(problem.A, ridge=ridge)


def choose_ridge(
    problem: Problem,
    net: str = "alista",
    *,
    layers: int = 16,
    percent: float | None = None,
    max_percent: float | None = None,
    untied: bool = False,
    seed: int = 0,
    data: Any = None,
    ops: ReferenceOps | None = None,
    say: Callable[[str], None] = say,
) -> Weight:
    """The exact weight with the ridge λ that is best for the problem's SNR and sparsity.

    Each of λ = 0, 0.1, 0.4, 1, 3, 10 is tried in a short training (the fast recipe with 10 steps per layer and no joint
    stages) on the same signals, and the weight with the smallest validation NMSE is returned. The result does not
    depend on how the network is trained afterwards.

    Parameters
    ----------
    problem, net, layers, percent, max_percent, untied, ops
        As in `Model.new`. A network without gradients gets the weight that is best for ALISTA.
    data
        The signals on which the ridges are compared, as in `train`; if None, they are drawn by the problem's law.
    say
        Called with the result of each λ, and with the best λ.
    """
    net = net if NETWORKS[net].has_gradients else "alista"
    schedule: dict[str, Any] = {"layers": layers, "percent": percent, "max_percent": max_percent}
    signals = None if data is None else SignalSet.of(data)
    recipe = RIDGE_RECIPE if problem.has_matrix else RIDGE_RECIPE.sized(math.prod(problem.shape_of_code))
    if signals is not None:
        recipe = replace(recipe, batch=min(recipe.batch, len(signals.training)))

    def weigh(ridge: float) -> Weight:
        if problem.has_matrix:
            return solve_exact(problem.A, ridge=ridge)
        return Weight.of_operator(problem.sha256, ridge)

    def error_of(weight: Weight) -> float:
        model = Model.new(problem, weight, net, **schedule, untied=untied, ops=ops)
        return float(train(model, recipe, data=signals, seed=seed).training["validation_nmse_db"])

    return best_ridge(RIDGES, weigh, error_of, say)


def best_ridge(
    ridges: tuple[float, ...],
    weigh: Callable[[float], AnyWeight],
    error_of: Callable[[AnyWeight], float],
    say: Callable[[str], None],
) -> AnyWeight:
    """The best of several ridges' weights. `weigh` makes the weight of a ridge, and `error_of` returns its error in dB.

    If there are several ranks, each does some of the ridges alone.
    """
    several, weights = ranks().size > 1, {}

    def tried(ridge: float) -> tuple[float, str]:
        weight = weigh(ridge)
        with trying():
            error = error_of(weight)
        result = f"  ridge {weight.report.ridge:g}: {error:.2f} dB"
        if not several:
            weights[ridge] = weight
            say(result)
        return error, result

    found = ranks().spread([partial(tried, ridge) for ridge in ridges])
    if several:
        for _, result in found:
            say(result)
    best = min(zip(found, ridges, strict=True), key=lambda one: (one[0][0], one[1]))[1]
    weight = weigh(best) if several else weights[best]
    say(f"Ridge {weight.report.ridge:g} is best.")
    return weight


def evaluate(model: Model, x: Array, y: Array) -> Report:
    """Recover signals x (samples, N) from their measurements y (samples, M), and report on every layer of a model.

    If the columns of the matrix have other norms than 1, each error x̂_i − x_i is multiplied by the norm of its column,
    so that the NMSE does not depend on the units of the columns.

    Raises
    ------
    InputError
        If x and y do not fit the model or each other, or x is all zero.
    """
    problem = model.problem
    x, y = problem.checked(x, problem.N, "x"), problem.checked(y, problem.M, "y")
    network = model.network
    how = network.ops, problem.group, network.samples_at_a_time
    return report_on(network.iterates, problem.to_unit(x), y, *how)


def _decided(asked: tuple[float | None, float | None], recipe: Any, problem: Problem) -> dict[str, float]:
    """The support schedule: the requested values, with the recipe's in place of None."""
    decided = recipe.schedule(problem.sparsity)
    return {name: d if a is None else a for name, a, d in zip(("percent", "max_percent"), asked, decided, strict=True)}
