"""Compressive sensing with a convolutional network, which recovers a whole picture from its blocks' measurements."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from cuista import storage
from cuista.checks import Array, as_real, check_rows
from cuista.counter import Key
from cuista.data.dictionary import Dictionary, cosine_dictionary
from cuista.data.images import ImageSet
from cuista.data.sensing import MEASUREMENTS, Sensing
from cuista.errors import InputError
from cuista.model import Trained, group
from cuista.networks import CONV_NETWORKS, ConvNetwork
from cuista.operators import Convolution
from cuista.operators.blocks import BlockProjection
from cuista.ops import ReferenceOps
from cuista.storage import Record
from cuista.tasks.crops import Crops
from cuista.training import FastRecipe
from cuista.training.recipes import Stage
from cuista.training.task import Examples, Source, Task
from cuista.weights.conv import ConvWeight, mean_eigenvalue, solve_conv

# The networks for this task. Others, which do not learn with which filters pictures are synthesised, were not tried.
PICTURE_NETWORKS = ("conv-csc",)
# The side of crops in pixels, as nearly as blocks allow.
CROP = 128
# The size and the number of the filters from which training starts.
SIZE, FILTERS = (7, 7), 32


def check_size(network: ConvNetwork, sensing: Sensing, shape: tuple[int, int]) -> None:
    """Raise InputError if the blocks of a picture of this shape (H, W) are together smaller than a filter."""
    (rows, columns), whole = network.filter_shape, sensing.whole(shape)
    if whole[0] < rows or whole[1] < columns:
        raise InputError(
            f"the picture has {shape[0]}×{shape[1]} pixels, and its blocks together {whole[0]}×{whole[1]}; "
            f"{network.title} needs at least the {rows}×{columns} of its filters"
        )


@dataclass(repr=False)
class PictureReconstructor(Trained):
    """A convolutional network that recovers pictures from the measurements of their blocks, and its training.

    Attributes
    ----------
    sensing
        How blocks are measured. If it has a dictionary, the network makes no use of it.
    weight
        The analytic weight of the convolutional dictionary from which training starts, which it contains.
    """

    kind: ClassVar[str] = "cuista-picture-reconstructor"

    network: ConvNetwork
    sensing: Sensing
    weight: ConvWeight

    @classmethod
    def new(
        cls,
        sensing: Sensing,
        weight: ConvWeight | None = None,
        net: str = "conv-csc",
        *,
        layers: int = 16,
        per_filter: bool = True,
        untied: bool = True,
        parameters: dict[str, Array] | None = None,
        ops: ReferenceOps | None = None,
        dtype: Any = np.float32,
    ) -> PictureReconstructor:
        """An untrained network for a sensing matrix.

        Parameters
        ----------
        weight
            The analytic weight of a convolutional dictionary; if None, that of 32 cosines of 7×7 pixels.
        net
            The network's name, one of `PICTURE_NETWORKS`.
        layers, per_filter, untied, parameters, ops, dtype
            As in `ConvNetwork`.

        Raises
        ------
        InputError
            If an option is out of range, or there is no such network.
        """
        if net not in PICTURE_NETWORKS:
            known = ", ".join(PICTURE_NETWORKS)
            raise InputError(f"{net!r} is not a network for whole pictures; expected one of {known}", option="net")
        kind = CONV_NETWORKS[net]
        if weight is None:
            dictionary, stride = Dictionary(cosine_dictionary(SIZE, FILTERS)), kind.usual_stride
            weight = solve_conv(dictionary, ridge=mean_eigenvalue(dictionary, stride), stride=stride)
        operator = Convolution(weight.dictionary.D, stride=weight.stride, ops=ops, dtype=dtype)
        projection = BlockProjection(sensing.Phi, sensing.block, ops=operator.ops, dtype=dtype)
        form: dict[str, Any] = {"layers": layers, "per_filter": per_filter, "untied": untied, "parameters": parameters}
        return cls(kind(operator, weight.W, sensing=projection, **form), sensing, weight)

    def made_for(self) -> dict[str, str]:
        return {"measurements": f"for {self.sensing.facts()['measurements']}"}

    def task(self) -> Any:
        raise InputError("this network is trained on pictures: give task=PictureSensing(images)", option="task")

    def identity(self) -> dict[str, Any]:
        return {
            "sensing": self.sensing.measuring_sha256,
            "dictionary": self.weight.dictionary.sha256,
            "weight": storage.sha256(self.weight.W),
            "stride": self.weight.stride,
            "per_filter": self.network.per_filter,
        }

    def reconstruct(self, y: ArrayLike, shape: tuple[int, int]) -> Array:
        """The picture (H, W), not clipped, from the measurements y (n, M) of its blocks, row by row.

        The channels of a picture can be given together, (channels, n, M), for the result (channels, H, W).

        Raises
        ------
        InputError
            If y has another shape, or a NaN or infinite entry, or if the picture is smaller than a filter.
        """
        y, network = as_real(y, MEASUREMENTS), self.network
        check_size(network, self.sensing, shape)
        known, means = zip(*map(partial(self._known, shape=shape), y if y.ndim == 3 else [y]), strict=True)
        found = network.ops.to_numpy(network.output(self.sensed(network.ops.asarray(np.stack(known), network.dtype))))
        pictures: Array = found[:, : shape[0], : shape[1]] + np.array(means)[:, None, None]
        return pictures if y.ndim == 3 else pictures[0]

    def _known(self, y: Array, shape: tuple[int, int]) -> tuple[Array, float]:
        """The least-norm solution for all blocks of a picture of this shape, without its mean, and the mean."""
        y, sensing = check_rows(y, self.sensing.M, MEASUREMENTS), self.sensing
        sensing.check_blocks(len(y), shape)
        mean = float(sensing.means(y).mean())
        return sensing.picture(sensing.least_norm(y), sensing.whole(shape)) - mean, mean

    def sensed(self, pictures: Array) -> Array:
        """The part of pictures (batch, H, W) that Φ measures, as pictures of this shape: the inputs of the network."""
        network, project = self.network, self.network.sensing
        assert project is not None
        # Shard by shard, so that the bits are the same whoever computes them.
        parts = network.ops.in_batches(pictures.shape, lambda part: project(pictures[part]), network.shard)
        sensed: Array = network.ops.xp.concatenate(parts)
        return sensed

    def store(self, record: Record) -> None:
        self.sensing.store(record)
        weight = self.weight.to_record()
        record.arrays |= {f"weight/{name}": array for name, array in weight.arrays.items()}
        record.attributes["weight"] = json.dumps(weight.attributes)

    @classmethod
    def restore(
        cls, record: Record, path: str | os.PathLike[str], options: dict[str, Any], place: dict[str, Any]
    ) -> PictureReconstructor:
        held = Record(ConvWeight.kind, group(record, "weight/"), json.loads(record.attributes["weight"]))
        weight = ConvWeight.from_record(held, path)
        options["per_filter"] = record.arrays["parameters/threshold"].ndim == 2
        options = {name: options[name] for name in ("layers", "untied", "parameters", "per_filter")}
        return cls.new(Sensing.from_record(record, path), weight, record.attributes["net"], **options, **place)


@dataclass(frozen=True)
class WholePictureRecipe(FastRecipe):
    """`FastRecipe` for whole pictures, in which everything is learned from the start.

    A Conv-ALISTA is not trained first, as in denoising: the beginning of a run was worse by 0.5 dB then. At 20 %, 4000
    steps instead of 500 gave 0.6 dB more on validation crops, of which the last 1000 gave nothing. With thresholds
    trained at 0.02, a run diverged. The rates of the filters are in proportion to `learning_rate`.
    """

    learning_rate: float = 0.01
    batch: int = 8
    validation_batch: int = 16
    max_steps: int = 0
    layerwise: bool = False
    window: float = 0.0
    hard: float = 0.0
    matrix_steps: int = 3000

    def stages(self, layers: int, more: bool = False) -> tuple[Stage, ...]:
        """One stage for the Conv-ALISTA that the network contains, of no steps by default, and one for everything."""
        factor = self.matrix_rate * self.learning_rate / type(self).learning_rate
        first, everything = super().stages(layers, more=True)
        return first, replace(everything, learning_rate=self.learning_rate, matrix_rate=factor)


class PictureSensing(Task[PictureReconstructor]):
    """Training on random crops of pictures, which consist of blocks that are measured.

    Parameters
    ----------
    images
        A `cuista-images` file.
    crop
        The side of a crop in pixels, a common multiple of the sides of a block; the one nearest to 128 if None.
    """

    name = "cs"
    display = "PSNR"
    models = (PictureReconstructor,)
    kinds = (WholePictureRecipe,)
    recipes: ClassVar[Any] = {"fast": WholePictureRecipe}

    def __init__(self, images: str | os.PathLike[str], crop: int | None = None) -> None:
        self.images, self.crop = images, crop

    def crop_of(self, sensing: Sensing) -> int:
        """The side of the crops in pixels.

        Raises
        ------
        InputError
            If it is not a multiple of the sides of a block.
        """
        of_blocks = math.lcm(*sensing.block)
        crop = max(round(CROP / of_blocks), 1) * of_blocks if self.crop is None else self.crop
        if crop % of_blocks or crop < 1:
            rows, columns = sensing.block
            raise InputError(
                f"the crop has a side of {crop} pixels; expected a multiple of {of_blocks}, because a block has "
                f"{rows}×{columns}",
                option="crop",
            )
        return crop

    def pictures(self, sensing: Sensing) -> tuple[ImageSet, ImageSet]:
        """The pictures for training and for validation that are at least as large as a crop.

        Raises
        ------
        FileError, InputError
            As `ImageSet` and `crop_of`.
        """
        crop, of_blocks = self.crop_of(sensing), math.lcm(*sensing.block)
        splits = (ImageSet(self.images, split, crop, multiple=of_blocks) for split in ("train", "validation"))
        return next(splits), next(splits)

    def source(self, model: PictureReconstructor, recipe: Any) -> Source:
        crop, filters = self.crop_of(model.sensing), model.network.filter_shape
        if crop < max(filters):
            raise InputError(
                f"the crop has a side of {crop} pixels; expected at least {max(filters)}, the size of the filters",
                option="crop",
            )
        return SensedCrops(*self.pictures(model.sensing), crop, model)

    def identity(self, model: PictureReconstructor, recipe: Any) -> dict[str, Any]:
        return {"images": self.pictures(model.sensing)[0].sha256, "crop": self.crop_of(model.sensing)}


class SensedCrops(Crops):
    """Random crops of pictures, and the part of them that is measured.

    Their mean is always taken to be known, although `PictureReconstructor.reconstruct` has to estimate it if Φ does not
    measure it.
    """

    baseline_name = "the least-norm solution"

    def __init__(self, training: ImageSet, validation: ImageSet, crop: int, model: PictureReconstructor) -> None:
        super().__init__(training, validation, crop)
        self.model = model

    def sample(
        self,
        ops: ReferenceOps,
        dtype: DTypeLike,
        batch: int,
        key: Key,
        validate: bool = False,
        rows: slice = slice(None),
    ) -> Examples:
        clean = self.clean(ops, dtype, batch, key, validate, rows)
        return clean, self.model.sensed(clean), None

    def advice(self) -> str:
        return "Give it more steps, or more pictures"
