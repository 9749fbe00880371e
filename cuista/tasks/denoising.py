"""Denoising: a convolutional network removes Gaussian noise from pictures."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice, product
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from cuista import storage
from cuista.checks import LARGEST, Array
from cuista.counter import CODES, NOISE, TEST, TUNING, Key
from cuista.data.dictionary import Dictionary
from cuista.data.images import ImageSet
from cuista.data.perturbed import random_levels
from cuista.data.pictures import check_grey
from cuista.errors import InputError
from cuista.messages import say
from cuista.metrics import SSIM_WINDOW, PictureReport, report_on_pictures
from cuista.model import Trained
from cuista.networks import CONV_NETWORKS, ConvNetwork
from cuista.operators import Convolution
from cuista.ops import CpuOps, ReferenceOps
from cuista.ops.cpu import LINE
from cuista.solvers.conv import ConvFista, bm3d, non_local_means
from cuista.storage import Record
from cuista.tasks.crops import Crops
from cuista.tasks.sparse_coding import best_ridge
from cuista.training import FastRecipe, PaperRecipe, train
from cuista.training.recipes import Recipe
from cuista.training.task import Examples, Source, Task
from cuista.weights.conv import ConvWeight, ConvWeightReport, mean_eigenvalue, solve_conv

# The ridges that are tried, in units of Σ‖d_m‖², the mean eigenvalue of H.
RIDGES = (0.0, 0.3, 1.0, 3.0, 10.0, 30.0)
# The side of a crop in pixels, by recipe.
CROPS = {"fast": 128, "paper": 321}
# FISTA is tested with as many iterations as the network has layers, and with this many.
ITERATIONS = 100
# The largest number of validation pictures on which a baseline is tuned, and the largest side of each in pixels.
TUNED_ON, TUNED_SIZE = 4, 256
# The memory in bytes for the maps of all tiles in progress, and how many sets of maps a tile needs: those before and
# after a layer, and with support selection also the candidates, their magnitudes and those over the threshold.
TILE_BYTES = 2**28
# … for this many tiles. More workers than that take more memory.
AT_A_TIME = 4
MAPS, MAPS_SELECTING = 2, 5
# The smallest side of a tile in pixels, whatever memory it takes: smaller tiles would be mostly overlap.
LEAST_TILE = 64


class Span(NamedTuple):
    """A tile along one axis: the pixels that are computed, those that are kept, and the latter's place in the tile."""

    computed: slice
    kept: slice
    inside: slice


@dataclass(repr=False)
class Denoiser(Trained):
    """A convolutional network with its weight, its dictionary and its noise level, and how it was trained.

    Attributes
    ----------
    weight
        The analytic weight, which contains the dictionary.
    sigma
        Standard deviation of the noise to be removed, for grey values from 0 to 255; the middle of a range.
    """

    kind: ClassVar[str] = "cuista-denoiser"

    network: ConvNetwork
    weight: ConvWeight
    sigma: float

    @classmethod
    def new(
        cls,
        weight: ConvWeight,
        net: str = "conv-alista",
        *,
        sigma: float | tuple[float, float] = 20.0,
        ops: ReferenceOps | None = None,
        dtype: Any = np.float32,
        **options: Any,
    ) -> Denoiser:
        """Make an untrained network by its name `net`, a key of `CONV_NETWORKS`; `options` are as in `ConvNetwork`.

        If `sigma` is a range, the network is for noise of any σ in it, which it is told with a picture.

        Raises
        ------
        InputError
            If there is no such network, or `sigma` or an option is out of range.
        """
        if net not in CONV_NETWORKS:
            known = ", ".join(CONV_NETWORKS)
            raise InputError(f"{net!r} is not a convolutional network; expected one of {known}", option="net")
        low, high = sigma if isinstance(sigma, tuple) else (sigma, sigma)
        for each in (low, high):
            check_sigma(each)
        if isinstance(sigma, tuple):
            if low > high:
                raise InputError(f"σ is from {low:g} to {high:g}; expected the lower end first", option="sigma")
            options["noise"] = (low / 255, high / 255)
        operator = Convolution(weight.dictionary.D, stride=weight.stride, ops=ops, dtype=dtype)
        return cls(CONV_NETWORKS[net](operator, weight.W, **options), weight, float(low + high) / 2)

    @property
    def sigmas(self) -> tuple[float, float] | None:
        """The range of σ, for grey values from 0 to 255, for which the network is; None if it is for one σ."""
        noise = self.network.noise
        return None if noise is None else (round(255 * noise[0], 9), round(255 * noise[1], 9))

    def made_for(self) -> dict[str, str]:
        return {
            "noise": f"for noise of σ = {self.levels}",
            "dictionary": ", ".join(self.weight.dictionary.facts().values()),
            "stride": self.weight.facts()["stride"],
        }

    def task(self) -> Any:
        raise InputError("a denoiser is trained on pictures: give task=Denoising(images)", option="task")

    def identity(self) -> dict[str, Any]:
        weight, dictionary = self.weight, self.weight.dictionary
        made_from = {"dictionary": dictionary.sha256, "weight": storage.sha256(weight.W), "stride": weight.stride}
        return {**made_from, "per_filter": self.network.per_filter}

    def denoise(
        self,
        noisy: Array,
        *,
        sigma: float | None = None,
        mean: float | None = None,
        tile: int | None = None,
        shifts: int | None = None,
    ) -> Array:
        """Denoise a picture (H, W) of any size, with values from 0 to 1; the result is not clipped.

        The picture is processed in overlapping tiles. A pixel depends only on the pixels within the network's `reach`.
        Tiles overlap by this much, and the overlap is discarded, so there are no seams: up to rounding, the result is
        the same as for the whole picture. Only with support selection does it differ, because each tile selects its own
        share of entries.

        With a stride q, the maps are on a grid, which could be at q² places. The picture is denoised with the grid at
        each of them, or at some, and the results are averaged.

        Parameters
        ----------
        noisy
            The noisy picture.
        sigma
            Standard deviation of the noise, for grey values from 0 to 255, which a network for a range of σ needs. It
            may be outside of the range, but the result is then no better than at the range's end.
        mean
            The mean of the clean picture; the mean of the noisy one if None.
        tile
            The largest side of a tile in pixels, without its overlap; as large as memory allows if None.
        shifts
            The number of places of the grid, from 1 to q², spread evenly; all if None. The work is in proportion.

        Raises
        ------
        InputError
            If the picture is not grey, not finite or smaller than a filter; if `sigma`, `tile` or `shifts` is out of
            range; or if `sigma` is missing, or given to a network for one σ.
        """
        noisy = check_grey(noisy, "the picture")
        network, mean = self.network, noisy.mean() if mean is None else mean
        f, places, level = noisy - mean, grid_places(network.stride, shifts), self._level(sigma)
        result = np.zeros(noisy.shape, network.dtype)
        for first in range(0, len(places), AT_A_TIME):  # the sum has the same order on any number of workers
            some = places[first : first + AT_A_TIME]
            for (top, left), denoised in zip(some, self._at(some, f, level, tile), strict=True):
                result += denoised[top:, left:]
        result /= len(places)
        return np.asarray(result + mean)

    def denoise_at(self, noisy: Array, sigma: float, *, mean: float | None = None, **options: Any) -> Array:
        """Denoise a picture (H, W) with noise of any standard deviation σ, for grey values from 0 to 255.

        If the network is not for this σ, the picture is scaled so that its noise has the nearest one that it is for,
        and the result scaled back. Soft thresholding commutes with scaling, so that this is the network with all its
        thresholds scaled. The other parameters are those of `denoise`.
        """
        low, high = self.sigmas or (self.sigma, self.sigma)
        level = min(max(sigma, low), high)
        scale = level / sigma
        options |= {"mean": None if mean is None else scale * mean, "sigma": level if self.sigmas else None}
        return self.denoise(scale * noisy, **options) / scale

    def covers(self, sigma: float) -> bool:
        """Whether the network is for noise of this σ."""
        low, high = self.sigmas or (self.sigma, self.sigma)
        return low <= sigma <= high

    @property
    def levels(self) -> str:
        """The σ that the network is for, in words."""
        return f"{self.sigma:g}" if self.sigmas is None else f"{self.sigmas[0]:g} to {self.sigmas[1]:g}"

    def _level(self, sigma: float | None) -> Array | None:
        """σ as an input of the network, or None if it has no such input."""
        if (sigma is None) != (self.sigmas is None):
            told = "is for a range of σ: say which" if self.sigmas else "is for one σ only: leave out another"
            raise InputError(f"{self.network.title} {told}", option="sigma")
        if sigma is None or self.sigmas is None:
            return None
        check_sigma(sigma)
        level = min(max(sigma, self.sigmas[0]), self.sigmas[1]) / 255
        return self.network.ops.asarray([level], self.network.dtype)

    def _at(self, places: Sequence[tuple[int, int]], f: Array, level: Array | None, tile: int | None) -> list[Array]:
        """A picture (H, W) with so many reflected rows above it and columns on its left, denoised; for each place."""
        network = self.network
        shifted = [
            network.ops.asarray(np.pad(f, ((top, 0), (left, 0)), mode="reflect"), network.dtype) for top, left in places
        ]
        found = [np.empty(each.shape, network.dtype) for each in shifted]
        parts = [(n, *spans) for n, each in enumerate(shifted) for spans in self.tiles(each.shape, tile)]

        def work(part: slice) -> Array:
            ((n, rows, columns),) = parts[part]
            picture = shifted[n][rows.computed, columns.computed][None]
            denoised = network.ops.to_numpy(network.output(picture if level is None else (picture, level)))[0]
            kept: Array = denoised[rows.inside, columns.inside]
            return kept

        pieces = network.ops.shared_out((len(parts), 1), work, 1)
        for (n, rows, columns), piece in zip(parts, pieces, strict=True):
            found[n][rows.kept, columns.kept] = piece
        return found

    def tiles(self, shape: Sequence[int], tile: int | None = None) -> list[tuple[Span, Span]]:
        """The rows and columns of the tiles in which a picture of this shape (H, W) is denoised.

        All tiles have the same shape, so that arrays can be reused from tile to tile. Each begins on the grid of the
        picture's maps.
        """
        if tile is not None and tile < 1:
            raise InputError(f"tile is {tile} pixels; expected 1 or more, or None for as many as memory allows")
        side, network = tile or self._side(), self.network
        rows, columns = (
            _spans(length, side, reach, network.stride) for length, reach in zip(shape, network.reach, strict=True)
        )
        return list(product(rows, columns))

    def _side(self) -> int:
        """The side of tiles of which AT_A_TIME fit in TILE_BYTES, with all their maps.

        It does not depend on the number of workers, because what a tile selects depends on where it ends.
        """
        network = self.network
        maps = MAPS_SELECTING if network.selects else MAPS
        of_a_place = -(-network.filters * network.dtype.itemsize // LINE) * LINE  # as in the native engine
        bytes_per_place: int = maps * of_a_place * AT_A_TIME
        overlap = max(2 * reach + s - 1 for reach, s in zip(network.reach, network.filter_shape, strict=True))
        side: int = math.isqrt(TILE_BYTES * network.stride**2 // bytes_per_place) - overlap
        return max(side, LEAST_TILE)

    def store(self, record: Record) -> None:
        self.weight.store(record)
        record.attributes |= {"sigma": self.sigma, "weight": json.dumps(asdict(self.weight.report))}
        if self.sigmas is not None:
            record.attributes |= {"lowest_sigma": self.sigmas[0], "highest_sigma": self.sigmas[1]}

    @classmethod
    def restore(
        cls, record: Record, path: str | os.PathLike[str], options: dict[str, Any], place: dict[str, Any]
    ) -> Denoiser:
        attributes, dictionary = record.attributes, Dictionary.from_record(record, path)
        report = ConvWeightReport(**json.loads(attributes["weight"]))
        weight = ConvWeight.stored(record, dictionary, report, path)
        options["per_filter"] = record.arrays["parameters/threshold"].ndim == 2
        sigma: Any = attributes["sigma"]
        if "lowest_sigma" in attributes:
            sigma = (attributes["lowest_sigma"], attributes["highest_sigma"])
        return cls.new(weight, attributes["net"], sigma=sigma, **options, **place)


@dataclass(frozen=True)
class PictureFastRecipe(FastRecipe):
    """`FastRecipe` for pictures. A crop has over ten thousand pixels, so that few crops and few steps are enough.

    Without support selection no entry jumps at the threshold, and no crop is so rare and hard that it dominates the
    error. Training layer by layer would leave nothing for the last layers to do, at a cost of 0.3 dB. The learning rate
    is twice as large as in sparse coding, because the first layer's step size may grow to several times its start.
    """

    learning_rate: float = 0.06
    batch: int = 4
    validation_batch: int = 16
    max_steps: int = 300
    layerwise: bool = False
    window: float = 0.0
    hard: float = 0.0
    matrix_steps: int = 300


@dataclass(frozen=True)
class PicturePaperRecipe(PaperRecipe):
    """`PaperRecipe` for pictures, with 4 crops per step and 16 for validation."""

    batch: int = 4
    validation_batch: int = 16


class Denoising(Task[Denoiser]):
    """Training on random crops of pictures with Gaussian noise.

    Parameters
    ----------
    images
        A `cuista-images` file.
    crop
        The side of a crop in pixels. If None, the recipe decides: 128 for the fast one, 321 for the paper's.
    """

    name = "denoise"
    display = "PSNR"
    models = (Denoiser,)
    kinds = (PictureFastRecipe, PicturePaperRecipe)
    recipes: ClassVar[Any] = {"fast": PictureFastRecipe, "paper": PicturePaperRecipe}

    def __init__(self, images: str | os.PathLike[str], crop: int | None = None) -> None:
        self.images, self.crop = images, crop

    @classmethod
    def recipes_for(cls, network: type[ConvNetwork]) -> dict[str, Callable[..., Recipe]]:
        """`recipes` with the numbers of the fast one that suit the network."""
        return {**cls.recipes, "fast": partial(cls.recipes["fast"], **network.recipe)}

    def recipe(self, model: Denoiser) -> Recipe:
        return self.recipes_for(type(model.network))["fast"]()

    def crop_of(self, recipe: Any) -> int:
        """The side of the crops in pixels when training by a recipe."""
        return self.crop or CROPS[recipe.name]

    def pictures(self, recipe: Any) -> tuple[ImageSet, ImageSet]:
        """The pictures for training and for validation that are at least as large as a crop.

        Raises
        ------
        FileError, InputError
            As `ImageSet`.
        """
        crop = self.crop_of(recipe)
        return ImageSet(self.images, "train", crop), ImageSet(self.images, "validation", crop)

    def source(self, model: Denoiser, recipe: Any) -> Source:
        return NoisyCrops(*self.pictures(recipe), self.crop_of(recipe), model.sigmas or model.sigma)

    def identity(self, model: Denoiser, recipe: Any) -> dict[str, Any]:
        training, _ = self.pictures(recipe)
        sigma = model.sigma if model.sigmas is None else list(model.sigmas)
        return {"images": training.sha256, "crop": self.crop_of(recipe), "sigma": sigma}


class NoisyCrops(Crops):
    """Random crops of pictures with Gaussian noise, after removal of their means.

    Parameters
    ----------
    training, validation
        The pictures for each use.
    crop
        The side of the crops in pixels.
    sigma
        Standard deviation of the noise, for grey values from 0 to 255; or the range from which that of each crop is
        drawn uniformly.
    """

    baseline_name = "the noisy pictures"

    def __init__(self, training: ImageSet, validation: ImageSet, crop: int, sigma: float | tuple[float, float]) -> None:
        super().__init__(training, validation, crop)
        self.sigma = sigma

    def sample(
        self,
        ops: ReferenceOps,
        dtype: DTypeLike,
        batch: int,
        key: Key,
        validate: bool = False,
        rows: slice = slice(None),
    ) -> Examples:
        """Clean crops and their noisy versions, both (batch, crop, crop).

        They are without weights if σ is one for all. Otherwise, the noisy versions are a tuple with their σ (batch,).
        The weights are in proportion to 1/σ: squared errors grow about like σ, so that all σ then count alike in dB.
        """
        clean = self.clean(ops, dtype, batch, key, validate, rows)
        noise = ops.normal(key, NOISE, (len(clean), self.crop**2), dtype, rows.start or 0).reshape(clean.shape)
        if not isinstance(self.sigma, tuple):
            return clean, clean + noise.dtype.type(self.sigma / 255) * noise, None
        low, high = self.sigma
        sigmas = low + random_levels(key, high - low, batch, ops)[rows]
        levels = ops.asarray(sigmas / 255, dtype)
        return (
            clean,
            (clean + levels[:, None, None] * noise, levels),
            ops.asarray((low + high) / 2 / sigmas, np.float64),
        )

    def advice(self) -> str:
        return "Give it more steps, or a dictionary and pictures that are more alike"


def denoising_weight(
    dictionary: Dictionary,
    task: Denoising,
    *,
    ridge: float | Literal["auto"] = "auto",
    stride: int = 1,
    say: Callable[[str], None] = say,
    **options: Any,
) -> ConvWeight:
    """The exact weight of a dictionary with which to build a denoiser.

    Parameters
    ----------
    ridge
        λ of the noise-aware weight, or `auto` for the value that `choose_conv_ridge` finds.
    stride
        The stride of the maps.
    say
        Called with messages about what is being done.
    options
        Further arguments of `choose_conv_ridge`.
    """
    if ridge == "auto":
        say("Computing a noise-aware weight (ridge 0 gives the paper's weight).")
        return choose_conv_ridge(dictionary, task, stride=stride, say=say, **options)
    say(f"Computing the analytic weight (ridge {ridge:g}).")
    return solve_conv(dictionary, ridge=ridge, stride=stride)


def choose_conv_ridge(
    dictionary: Dictionary,
    task: Denoising,
    *,
    sigma: float | tuple[float, float] = 20.0,
    stride: int = 1,
    seed: int = 0,
    ops: ReferenceOps | None = None,
    say: Callable[[str], None] = say,
    **network: Any,
) -> ConvWeight:
    """The exact weight of a dictionary with the ridge λ that is best for denoising the task's pictures.

    Each of λ = 0, 0.3, 1, 3, 10 and 30 times the mean eigenvalue of H, which is Σ‖d_m‖² for a stride of 1, is tried in
    40 steps of the fast recipe on the same crops, and the weight whose Conv-ALISTA has the smallest validation NMSE is
    returned.

    Parameters
    ----------
    task
        The task, which has the pictures and the size of the crops.
    sigma
        Standard deviation of the noise to be removed, for grey values from 0 to 255, or a range.
    stride
        The stride of the maps.
    say
        Called with the result of each λ, and with the best λ.
    network
        Options of the Conv-ALISTA, such as `layers`.
    """
    recipe = PictureFastRecipe(max_steps=40)
    unit = mean_eigenvalue(dictionary, stride)

    def weigh(share: float) -> ConvWeight:
        return solve_conv(dictionary, ridge=share * unit, stride=stride)

    def error_of(weight: ConvWeight) -> float:
        denoiser = Denoiser.new(weight, sigma=sigma, ops=ops, **network)
        return float(train(denoiser, recipe, task=task, seed=seed).training["validation_nmse_db"])

    return best_ridge(RIDGES, weigh, error_of, say)


def test_pictures(images: str | os.PathLike[str]) -> ImageSet:
    """The test pictures of a `cuista-images` file that are large enough for SSIM.

    Raises
    ------
    FileError, InputError
        As `ImageSet`.
    """
    return ImageSet(images, "test", SSIM_WINDOW, "SSIM's window")


def tuning_pairs(path: str | os.PathLike[str], sigma: float, *, seed: int = 0) -> list[tuple[Array, Array]]:
    """Pairs of clean and noisy pictures (H, W) for tuning a baseline, from the centres of some validation pictures.

    As in a test, the mean of the whole picture is removed, so that the centre may have a mean other than 0.

    Parameters
    ----------
    path
        A `cuista-images` file.
    sigma
        Standard deviation of the noise, for grey values from 0 to 255.
    seed
        The seed of the noise.

    Raises
    ------
    FileError, InputError
        As `ImageSet`.
    """
    pairs = []
    for number, (_, picture) in enumerate(islice(ImageSet(path, "validation").pictures(), TUNED_ON)):
        rows, columns = (slice(max(size - TUNED_SIZE, 0) // 2, (size + TUNED_SIZE) // 2) for size in picture.shape)
        clean = (picture - picture.mean())[rows, columns]
        noise = CpuOps().normal(Key(seed, TUNING, number), NOISE, (clean.shape[0], clean.shape[1]), np.float64)
        pairs.append((clean, clean + sigma / 255 * noise))
    return pairs


def evaluate_denoisers(
    denoisers: Mapping[str, Denoiser],
    images: str | os.PathLike[str],
    *,
    sigma: float | None = None,
    shifts: int | None = None,
    baselines: bool = False,
    seed: int = 0,
    say: Callable[[str], None] = say,
    progress: Callable[[float, str], None] = lambda fraction, text: None,
) -> PictureReport:
    """Add noise to the test pictures of a file, denoise them, and measure the results.

    As in the paper, the mean of the clean picture is removed before denoising and added again afterwards. For a
    denoiser that was trained for another level of noise, the picture is scaled, so that its noise has that level.

    Parameters
    ----------
    denoisers
        One or more denoisers by name. With `baselines` they should share a dictionary and a number of layers.
    images
        A `cuista-images` file.
    sigma
        Standard deviation of the noise, for grey values from 0 to 255; the first denoiser's if None.
    shifts
        As in `Denoiser.denoise`.
    baselines
        Whether to test FISTA, non-local means and BM3D too. FISTA makes as many iterations as the first network has
        layers, and then `ITERATIONS`, each with the λ that is best on validation pictures; it is left out if the file
        has none of these. The others are left out if their libraries are not installed.
    seed
        The seed of the noise, which differs from picture to picture.
    say, progress
        Called with messages about what is being done, and with the share of pictures done and the current one.

    Raises
    ------
    FileError, InputError
        As `ImageSet`; also if `shifts` is out of range.
    """
    for denoiser in denoisers.values():
        grid_places(denoiser.network.stride, shifts)
    first = next(iter(denoisers.values()))
    sigma = first.sigma if sigma is None else sigma
    check_sigma(sigma)
    network, dictionary = first.network, first.weight.dictionary
    pictures = test_pictures(images)
    methods: dict[str, Callable[[Array], Array]] = {"noisy": lambda noisy: noisy}
    lambdas: dict[str, float] = {}
    if baselines:
        try:
            pairs = tuning_pairs(images, sigma, seed=seed)
        except InputError:
            say(f"FISTA is left out, because {images} has no validation pictures on which to find λ.")
            pairs = []
        for iterations in (network.layers, ITERATIONS) if pairs else ():
            solver = ConvFista(dictionary, iterations, stride=network.stride, ops=network.ops)
            name = f"fista {iterations}"
            say(f"Finding the best λ for {name}.")
            lambdas[name] = solver.tune(pairs)
            methods[name] = solver.denoise
        for name, make, package in (("nl-means", non_local_means, "scikit-image"), ("bm3d", bm3d, "bm3d")):
            method = make(sigma / 255)
            if method is None:
                say(f"{name} is left out, because {package} is not installed (pip install {package}).")
            else:
                methods[name] = method
    for name, denoiser in denoisers.items():
        methods[name] = partial(denoiser.denoise_at, sigma=sigma, mean=0.0, shifts=shifts)

    def prepare(number: int, clean: Array) -> Callable[[Callable[[Array], Array]], Array]:
        mean = clean.mean()
        noise = CpuOps().normal(Key(seed, TEST, number), CODES, (clean.shape[0], clean.shape[1]), np.float64)
        noisy = clean - mean + sigma / 255 * noise
        return lambda denoise: denoise(noisy) + mean

    about = {"sigma": sigma} if shifts is None else {"sigma": sigma, "shifts": shifts}
    return report_on_pictures(pictures, prepare, methods, lambdas, progress, **about)


def check_sigma(sigma: float) -> None:
    """Raise InputError unless σ can be the standard deviation of noise, in units of 1/255 of white."""
    if not 1 / LARGEST <= sigma <= LARGEST:
        raise InputError(
            f"σ is {sigma}; expected the noise's standard deviation (of 255), {1 / LARGEST:g} to {LARGEST:g}",
            option="sigma",
        )


def grid_places(stride: int, count: int | None = None) -> list[tuple[int, int]]:
    """So many of the q² places (0, 0), …, (q − 1, q − 1) of a grid with the stride q, spread evenly; all if None.

    Each place is as far as possible from those before it, on a grid that repeats. So the places for a smaller number
    are among those for a larger one.

    Raises
    ------
    InputError
        If the number is not from 1 to q².
    """
    count = stride**2 if count is None else count
    if not 1 <= count <= stride**2:
        expected = f"a number from 1 to {stride**2}, the square of the stride" if stride > 1 else "1, without a stride"
        raise InputError(f"shifts is {count}; expected {expected}", option="shifts")
    row, column = (index.ravel() for index in np.indices((stride, stride)))
    # A sum over the places so far that grows as one of them comes near decides between places equally far away.
    distance, nearness, places = np.full(stride**2, np.inf), np.zeros(stride**2), []
    for _ in range(count):
        far = np.flatnonzero(distance == distance.max())
        new = far[np.argmin(nearness[far])]
        places.append((int(row[new]), int(column[new])))
        apart = [np.minimum(shift := np.abs(index - index[new]), stride - shift) for index in (row, column)]
        from_new = np.square(apart[0]) + np.square(apart[1])
        distance, nearness = np.minimum(distance, from_new), nearness + 1 / np.maximum(from_new, 1e-3)
    return places


def _spans(length: int, side: int, reach: int, stride: int = 1) -> list[Span]:
    """Tiles of at most `side` pixels plus an overlap. All have one length: those at the ends are shifted inwards.

    The first pixel of each is a multiple of the stride.
    """
    side = math.ceil(length / math.ceil(length / side))
    whole = min(side + 2 * reach + stride - 1, length)
    last = (length - whole) // stride * stride
    whole, spans = length - last, []
    for start in range(0, length, side):
        first, stop = min(max(start - reach, 0) // stride * stride, last), min(start + side, length)
        spans.append(Span(slice(first, first + whole), slice(start, stop), slice(start - first, stop - first)))
    return spans
