"""Compressive sensing of pictures: a dense network recovers the blocks of a picture from their measurements."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from cuista import storage
from cuista.checks import Array, as_real, check_rows
from cuista.counter import FITTING, TUNING, Key
from cuista.data.images import ImageSet, PatchSet
from cuista.data.sensing import MEASUREMENTS, Sensing
from cuista.errors import FileError, InputError
from cuista.messages import say
from cuista.metrics import SSIM_WINDOW, PictureReport, nmse_db, report_on_pictures
from cuista.model import NUMBERS, Trained
from cuista.networks import NETWORKS, Network
from cuista.networks.base import rms_of
from cuista.networks.couplings import without_means
from cuista.operators import Dense
from cuista.ops import ReferenceOps
from cuista.parallel import in_batches
from cuista.solvers.proximal import proximal_gradient
from cuista.solvers.tuning import tune_unimodal
from cuista.storage import Record
from cuista.tasks.deblocking import deblocked, fit_deblocking, window_size
from cuista.tasks.sparse_coding import best_ridge
from cuista.training import FastRecipe, PaperRecipe, SearchRecipe, train
from cuista.training.recipes import Recipe, Stage
from cuista.training.task import Examples, Source, Task
from cuista.weights.dense import Weight, WeightReport, solve_exact

# The ridges that are tried, in units of the mean eigenvalue of A Aᵀ.
RIDGES = (0.0, 0.1, 1.0)
# The number of patches that are measured at a time in training, a divisor of all networks' shards.
AT_A_TIME = 64
# FISTA is tested with as many iterations as the network has layers, and with this many, after which nothing changes.
ITERATIONS = 1000
# The number of patches on which FISTA's λ is tuned, and of the values from which it is chosen.
TUNED_ON, TRIED = 1000, 16
# LAMP is left out: it is made for random matrices, and does not converge for ΦD, whose columns are very much alike.
SENSING_NETWORKS = tuple(name for name in NETWORKS if name != "lamp")
# The thresholds of the first and of the last layer at the start of the fast recipe: see `PatchSource.adapt`.
START = 2.0, 0.2
# Recovers a picture of a shape from measurements.
Recover = Callable[[Array, tuple[int, int]], Array]
# The publication's support schedule.
PERCENT, MAX_PERCENT = 0.4, 13.0


@dataclass(repr=False)
class Reconstructor(Trained):
    """A dense network that recovers the blocks of pictures, with Φ, the dictionary and the weight, and its training.

    Attributes
    ----------
    sensing
        How blocks are measured, and the dictionary in which they are sparse.
    weight
        The analytic weight of `sensing.A`.
    deblocking
        The map (W, P) that removes the seams between blocks, if there is one: see `learn_deblocking`.
    """

    kind: ClassVar[str] = "cuista-reconstructor"

    network: Network
    sensing: Sensing
    weight: Weight
    deblocking: Array | None = None

    @classmethod
    def new(
        cls,
        sensing: Sensing,
        weight: Weight | None = None,
        net: str = "alista",
        *,
        layers: int = 16,
        percent: float = PERCENT,
        max_percent: float = MAX_PERCENT,
        per_coordinate: bool = False,
        untied: bool = False,
        learn_sensing: bool = False,
        parameters: dict[str, Array] | None = None,
        ops: ReferenceOps | None = None,
        dtype: Any = np.float32,
    ) -> Reconstructor:
        """An untrained network for a sensing matrix and a dictionary.

        The dictionary's atoms are far more alike than the columns of a random matrix, so that steps of 1 with the
        analytic weight would diverge. The network is therefore given the weight divided by the spectral radius of A Wᵀ.

        Parameters
        ----------
        weight
            The analytic weight of `sensing.A`; if None, the exact one without a ridge.
        net
            The network's name, one of `SENSING_NETWORKS`.
        learn_sensing
            Whether training changes Φ too. The trained network's Φ is then `sensing.Phi` like any other.
        layers, percent, max_percent, per_coordinate, untied, parameters, ops, dtype
            As in `Network`.

        Raises
        ------
        InputError
            If the weight is for another matrix, an option is out of range, there is no such network, or Φ is to be
            learned and the means of blocks do not follow from it exactly.
        """
        if net not in SENSING_NETWORKS:
            known = ", ".join(SENSING_NETWORKS)
            raise InputError(f"{net!r} is not a network for this task; expected one of {known}", option="net")
        if learn_sensing:
            check_learnable(sensing, net)
        A = sensing.A
        weight = weight or solve_exact(A)
        if weight.matrix_sha256 != storage.sha256(A):
            raise InputError("the weight is not one of this Φ and dictionary: compute one for them", option="weight")
        network = NETWORKS[net](
            Dense(A, ops=ops, dtype=dtype),
            weight.W / np.abs(np.linalg.eigvals(A @ weight.W.T)).max(),
            layers=layers,
            percent=percent,
            max_percent=max_percent,
            per_coordinate=per_coordinate,
            untied=untied,
            parameters=parameters,
            dictionary=sensing.dictionary.atoms,
            sensing=sensing.reduced if learn_sensing else None,
        )
        return cls(network, sensing, weight)

    def made_for(self) -> dict[str, str]:
        return {"measurements": f"for {', '.join(self.sensing.facts().values())}"}

    def task(self) -> Any:
        raise InputError("a reconstructor is trained on patches: give task=CompressiveSensing(patches)", option="task")

    def identity(self) -> dict[str, Any]:
        return {
            "per_coordinate": self.network.per_coordinate,
            "learn_sensing": self.learns_sensing,
            "sensing": self.sensing.sha256,
            "weight": storage.sha256(self.weight.W),
        }

    @property
    def learns_sensing(self) -> bool:
        """Whether Φ is still being learned, as a parameter of the network."""
        return "sensing" in self.network.parameters

    def settle(self) -> None:
        """Take a Φ that was learned out of the network's parameters, and make it the Φ of `sensing`.

        Its first row measures the mean. The weight is replaced by the one for the new A, with the same ridge.
        """
        network = self.network
        parameters = {name: network.ops.to_numpy(value) for name, value in network.parameters.items()}
        Phi = without_means(parameters.pop("sensing")[0].astype(np.float64))
        self.sensing = Sensing(np.vstack([np.full(Phi.shape[1], rms_of(Phi)), Phi]), self.sensing.dictionary)
        self.weight = solve_exact(self.sensing.A, ridge=self.weight.report.ridge)
        form = {name: getattr(network, name) for name in (*NUMBERS, "per_coordinate", "ops", "dtype")}
        settled = Reconstructor.new(self.sensing, self.weight, network.name, parameters=parameters, **form)
        self.network = settled.network

    def recover_blocks(self, y: ArrayLike) -> Array:
        """The blocks (n, P), not clipped, of measurements y (n, M).

        Raises
        ------
        InputError
            If y has another shape, or a NaN or infinite entry, or if Φ is still being learned.
        """
        if self.learns_sensing:
            raise InputError("Φ is still being learned: train the model first")
        network, name = self.network, MEASUREMENTS
        reduced, means = self.sensing.without_mean(check_rows(as_real(y, name), self.sensing.M, name))
        found = network.ops.apply(network.output, reduced.astype(network.dtype), self.sensing.P, network.dtype)
        return np.asarray(found + means)

    def reconstruct(self, y: ArrayLike, shape: tuple[int, int]) -> Array:
        """The picture (H, W), not clipped, from the measurements y (n, M) of its blocks, row by row.

        The channels of a picture can be given together, (channels, n, M), for the result (channels, H, W).

        Raises
        ------
        InputError
            As `recover_blocks`; also if there are more or fewer blocks than a picture of this shape has.
        """
        if np.ndim(y) == 3:
            return np.stack([self.reconstruct(channel, shape) for channel in np.asarray(y)])
        blocks = self.recover_blocks(y)
        self.sensing.check_blocks(len(blocks), shape)
        picture = self.sensing.picture(blocks, shape)
        return picture if self.deblocking is None else deblocked(self.sensing, self.deblocking, picture)

    def store(self, record: Record) -> None:
        self.sensing.store(record)
        record.arrays["W"] = self.weight.W
        if self.deblocking is not None:
            record.arrays["deblocking"] = self.deblocking
        record.attributes["weight"] = json.dumps(asdict(self.weight.report))

    @classmethod
    def restore(
        cls, record: Record, path: str | os.PathLike[str], options: dict[str, Any], place: dict[str, Any]
    ) -> Reconstructor:
        sensing = Sensing.from_record(record, path)
        weight = Weight.stored(record, sensing.A, WeightReport(**json.loads(record.attributes["weight"])), path)
        options["per_coordinate"] = record.arrays["parameters/threshold"].ndim == 2
        options["learn_sensing"] = "sensing" in options["parameters"]  # in a checkpoint
        model = cls.new(sensing, weight, record.attributes["net"], **options, **place)
        model.deblocking = record.arrays.get("deblocking")
        rows, columns = window_size(sensing)
        if model.deblocking is not None and model.deblocking.shape != (rows * columns, sensing.P):
            raise FileError(f"{path} is damaged: its deblocking has shape {model.deblocking.shape}")
        return model


@dataclass(frozen=True)
class PatchFastRecipe(FastRecipe):
    """`FastRecipe` for patches of pictures.

    Their codes are not exactly sparse, so that the error stays far from 0: no entry jumps at a threshold that hardly
    any entry is near, no patch is so rare and hard that it dominates the error, and all layers can be trained from the
    start.
    """

    learning_rate: float = 0.02
    batch: int = 256
    validation_batch: int = 4000
    max_steps: int = 300
    layerwise: bool = False
    window: float = 0.0
    hard: float = 0.0
    matrix_steps: int = 1000
    penalty: ClassVar[float] = 0.0


@dataclass(frozen=True)
class PatchPaperRecipe(PaperRecipe):
    """`PaperRecipe` for patches of pictures, whose loss has the additional term `penalty` · Σ|x|."""

    penalty: ClassVar[float] = 0.2


class CompressiveSensing(Task[Reconstructor]):
    """Training on random patches of pictures.

    Parameters
    ----------
    patches
        A `cuista-patches` file, whose patches have the size of a block.
    """

    name = "cs"
    models = (Reconstructor,)
    kinds = (PatchFastRecipe, PatchPaperRecipe, SearchRecipe)
    recipes: ClassVar[Any] = {"fast": PatchFastRecipe, "paper": PatchPaperRecipe}

    def __init__(self, patches: str | os.PathLike[str]) -> None:
        self.training, self.validation = PatchSet(patches, "train"), PatchSet(patches, "validation")

    def recipe(self, model: Reconstructor) -> Recipe:
        return PatchFastRecipe() if model.network.has_gradients else SearchRecipe()

    def source(self, model: Reconstructor, recipe: Any) -> Source:
        check_patches(self.training, model.sensing)
        return PatchSource(self.training, self.validation, model.sensing)

    def prepare(self, model: Reconstructor, recipe: Any) -> None:
        model.network.penalty = getattr(recipe, "penalty", 0.0)

    def finish(self, model: Reconstructor) -> None:
        model.deblocking = None  # that of the network before this training
        if model.learns_sensing:
            model.settle()

    def identity(self, model: Reconstructor, recipe: Any) -> dict[str, Any]:
        return {"patches": self.training.sha256}


def check_patches(patches: PatchSet, sensing: Sensing) -> None:
    """Raise InputError unless patches have the size of the blocks that are measured."""
    if patches.shape != sensing.block:
        (p1, p2), (s1, s2) = patches.shape, sensing.block
        raise InputError(
            f"{patches.path} has patches of {p1}×{p2} pixels, but blocks of {s1}×{s2} are measured: prepare patches of "
            "that size, or make a problem for blocks of this size",
            option="problem",
        )


def check_learnable(sensing: Sensing, net: str) -> None:
    """Raise InputError unless a network of this name can learn Φ, starting from that of `sensing`."""
    able = [name for name in SENSING_NETWORKS if NETWORKS[name].can_learn_sensing()]
    if net not in able:
        raise InputError(f"{net} cannot learn Φ; expected one of {', '.join(able)}", option=("net", "learn_sensing"))
    if not sensing.measures_means:
        raise InputError(
            "the means of blocks do not follow from this Φ exactly: start from another, such as a random one",
            option="learn_sensing",
        )


class PatchSource(Source):
    """Patches without their means, with what their measurements say about them."""

    def __init__(self, training: PatchSet, validation: PatchSet, sensing: Sensing) -> None:
        self.training, self.validation, self.sensing = training, validation, sensing
        # Whether networks measure the patches themselves, because they learn Φ. Their precursors never do.
        self.measured_by_network = False

    def sample(
        self,
        ops: ReferenceOps,
        dtype: DTypeLike,
        batch: int,
        key: Key,
        validate: bool = False,
        rows: slice = slice(None),
    ) -> Examples:
        """Patches (batch, P) without their means, what is measured of them (batch, M′), and no weights.

        A network that measures the patches itself gets them instead of their measurements.
        """
        f = (self.validation if validate else self.training).draw(key, batch, rows)
        if self.measured_by_network:  # by a Φ from which the means follow exactly
            f = ops.asarray(f - f.mean(axis=1, keepdims=True, dtype=np.float64), dtype)
            return f, f, None
        # A few at a time, so that the bits do not depend on how many of them this rank has.
        measured = in_batches(len(f), lambda part: self.sensing.without_mean(f[part] @ self.sensing.Phi.T), AT_A_TIME)
        reduced, means = (np.concatenate(each) for each in zip(*measured, strict=True))
        return ops.asarray(f - means, dtype), ops.asarray(reduced, dtype), None

    def adapt(self, network: Network, seed: int) -> None:
        """Set the thresholds to shares of the root mean square of the first layer's z that fall from layer to layer."""
        self.measured_by_network = "sensing" in network.parameters
        _, y, _ = self.sample(network.ops, network.dtype, 512, Key(seed, FITTING))
        state, _ = network.begin(y)
        propose, unit = network.propose(0, state)
        z = rms_of(network.ops.to_numpy(propose(1.0, 0.0)))
        theta = z / unit * np.geomspace(*START, network.layers)
        network.parameters["threshold"][:] = network.ops.asarray(
            theta.reshape(-1, *[1] * (len(network.threshold_shape) - 1)), np.float64
        )

    def enter(self, stage: Stage, network: Network) -> bool:
        before, self.measured_by_network = self.measured_by_network, "sensing" in network.parameters
        return before != self.measured_by_network

    def error_db(self, network: Any, validation: Examples, depth: int) -> float:
        """The NMSE in dB after `depth` layers on patches from `sample`."""
        patches, y, _ = validation
        return nmse_db(network, patches, y, depth)

    def blank(self) -> InputError:
        return InputError("each patch has a single colour; expected pictures with some content")


def sensing_weight(
    sensing: Sensing,
    task: CompressiveSensing,
    net: str = "alista",
    *,
    ridge: float | Literal["auto"] | None = None,
    recipe: Any = None,
    begun: Reconstructor | None = None,
    say: Callable[[str], None] = say,
    **options: Any,
) -> Weight:
    """The exact weight of a sensing matrix and a dictionary with which to build a reconstructor.

    Parameters
    ----------
    ridge
        λ of the noise-aware weight, or `auto` for the best of 0, 0.1 and 1 times the mean eigenvalue of A Aᵀ. Each is
        tried in 40 steps of the fast recipe on the same patches, and the weight whose ALISTA has the smallest
        validation NMSE is returned. None means `auto`, or 0 if the recipe does not start learned matrices from the
        weight, which then makes no difference.
    recipe
        The recipe that will train the network `net`; the fast one if None.
    begun
        The model of an interrupted run, whose weight or ridge is used again if `ridge` allows it.
    say
        Called with messages about what is being done.
    options
        The options `layers`, `percent`, `max_percent` and `ops` of `Reconstructor.new`, and the `seed` of the patches.
    """
    A = sensing.A
    if begun and ridge in (None, "auto", begun.weight.report.ridge):
        if begun.sensing.sha256 == sensing.sha256:
            return begun.weight
        ridge = begun.weight.report.ridge  # the Φ of a finished run that has learned one is another
    if ridge is None:
        ridge = 0.0 if recipe and not recipe.analytic and NETWORKS[net].matrices else "auto"
    if ridge != "auto":
        say(f"Computing the analytic weight (ridge {ridge:g}).")
        return solve_exact(A, ridge=ridge)
    say("Computing a noise-aware weight (ridge 0 gives the paper's weight).")
    seed, unit = options.pop("seed", 0), float(np.square(A).sum()) / len(A)

    def error_of(weight: Weight) -> float:
        model = Reconstructor.new(sensing, weight, **options)
        trained = train(model, PatchFastRecipe(max_steps=40), task=task, seed=seed)
        return float(trained.training["validation_nmse_db"])

    return best_ridge(RIDGES, lambda share: solve_exact(A, ridge=share * unit), error_of, say)


def learn_deblocking(
    model: Reconstructor,
    training: ImageSet,
    validation: ImageSet,
    *,
    progress: Callable[[float, str], None] = lambda fraction, text: None,
) -> float:
    """Give a trained reconstructor the map that best removes the seams between the blocks of pictures.

    Parameters
    ----------
    training, validation
        The pictures from which the map is computed, and those that choose its ridge.
    progress
        Called with the share of pictures done, and with a text.

    Returns
    -------
    gain
        By how many dB the map reduces the error of the pictures for validation. If it is 0, the model gets no map.
    """
    sensing, model.deblocking, done = model.sensing, None, 0

    def pairs(pictures: ImageSet) -> Iterator[tuple[Array, Array]]:
        return ((model.reconstruct(sensing.measure(clean), clean.shape), clean) for _, clean in pictures.pictures())

    def count() -> None:
        nonlocal done
        done += 1
        total = len(training) + len(validation)
        progress(done / total, f"seams between blocks, picture {done}/{total}")

    B, gain = fit_deblocking(sensing, pairs(training), pairs(validation), count)
    model.deblocking = B.astype(np.float32) if gain > 0 else None
    model.training["deblocking"] = {"images": training.sha256, "gain_db": gain}
    return gain


class BlockFista:
    """Recover the blocks of pictures by FISTA: min_x ½‖y − A x‖² + λ‖x‖₁, where y and A are without the mean.

    Beck, Teboulle, SIAM J. Imaging Sciences 2009. An iteration costs as much as a layer of a network.
    """

    def __init__(self, sensing: Sensing, iterations: int, *, ops: ReferenceOps | None = None) -> None:
        self.sensing, self.iterations, self.lam = sensing, iterations, 0.05
        self.operator = Dense(sensing.A, ops=ops)

    def recover_blocks(self, y: Array) -> Array:
        """The blocks (n, P), not clipped, of measurements y (n, M)."""
        reduced, means = self.sensing.without_mean(y)
        operator, atoms = self.operator, self.sensing.dictionary.atoms.T
        atoms = operator.ops.asarray(atoms, operator.dtype)

        def recovered(part: Array) -> Array:
            found = proximal_gradient(operator, part, self.lam, self.iterations, momentum=True)
            return operator.ops.sparse_matmul(deque(found, maxlen=1).pop()[0], atoms)

        return operator.ops.apply(recovered, reduced.astype(operator.dtype), self.sensing.P, operator.dtype) + means

    def tune(self, blocks: Array) -> float:
        """Set λ to the best of 16 values from 1e-4 to 1 by the error on blocks (n, P), and return it."""
        y = blocks @ self.sensing.Phi.T

        def error(lam: float) -> float:
            self.lam = lam
            return float(np.square(self.recover_blocks(y) - blocks).sum())

        self.lam = tune_unimodal(error, np.geomspace(1e-4, 1, TRIED).tolist())
        return self.lam


class Reconstructs(Protocol):
    """A model that reconstructs pictures from the measurements of their blocks."""

    sensing: Sensing

    @property
    def network(self) -> Any: ...

    def reconstruct(self, y: ArrayLike, shape: tuple[int, int]) -> Array:
        """The picture of this shape (H, W), not clipped, from measurements y (n, M)."""


def evaluate_reconstructors(
    reconstructors: Mapping[str, Reconstructs],
    images: str | os.PathLike[str],
    *,
    baselines: PatchSet | None = None,
    seed: int = 0,
    say: Callable[[str], None] = say,
    progress: Callable[[float, str], None] = lambda fraction, text: None,
) -> PictureReport:
    """Measure the test pictures of a file, reconstruct them, and measure the errors of the clipped results.

    The first method is `least norm`: see `Sensing.least_norm`.

    Parameters
    ----------
    reconstructors
        One or more reconstructors by name, for the same Φ.
    images
        A `cuista-images` file.
    baselines
        Patches on which to tune FISTA, if it is to be tested too: with as many iterations as the first network has
        layers, and with `ITERATIONS`.
    seed
        The seed for drawing those patches.
    say, progress
        Called with messages about what is being done, and with the share of pictures done and the current one.

    Raises
    ------
    FileError, InputError
        As `ImageSet`; InputError also if the reconstructors are for different Φ, or if FISTA is to be tested and none
        has a dictionary.
    """
    models = list(reconstructors.values())
    first = next((model for model in models if model.sensing.has_dictionary), models[0])  # of which FISTA has need
    sensing = first.sensing
    others = [
        name for name, each in reconstructors.items() if each.sensing.measuring_sha256 != sensing.measuring_sha256
    ]
    if others:
        raise InputError(f"{', '.join(others)} and the other models are for different Φ: test them one by one")
    pictures = ImageSet(images, "test", SSIM_WINDOW, "SSIM's window")

    def by_blocks(recover: Callable[[Array], Array]) -> Recover:
        return lambda y, shape: sensing.picture(recover(y), shape)

    methods: dict[str, Recover] = {"least norm": by_blocks(sensing.least_norm)}
    lambdas: dict[str, float] = {}
    if baselines is not None:
        check_patches(baselines, sensing)
        patches = baselines.draw(Key(seed, TUNING), TUNED_ON).astype(np.float64)
        for iterations in (first.network.layers, ITERATIONS):
            solver, name = BlockFista(sensing, iterations, ops=first.network.ops), f"fista {iterations}"
            say(f"Finding the best λ for {name}.")
            lambdas[name] = solver.tune(patches)
            methods[name] = by_blocks(solver.recover_blocks)
    methods |= {name: each.reconstruct for name, each in reconstructors.items()}

    def prepare(number: int, clean: Array) -> Callable[[Recover], Array]:
        y = sensing.measure(clean)
        return lambda recover: np.clip(recover(y, clean.shape), 0, 1)

    return report_on_pictures(pictures, prepare, methods, lambdas, progress, rate=sensing.rate)
