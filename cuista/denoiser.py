"""A trained convolutional network with all that it was made from, and denoising with it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from cuista import storage, stored
from cuista.checks import Array
from cuista.data.dictionary import Dictionary
from cuista.data.pictures import check_grey
from cuista.errors import InputError
from cuista.networks import CONV_NETWORKS, ConvNetwork
from cuista.operators import Convolution
from cuista.ops import ReferenceOps
from cuista.parallel import processors
from cuista.weights import ConvWeight, ConvWeightReport

# Bytes that the maps of all tiles in work may take, and how many of them a tile in work has: those before a layer and
# after it; with support selection also what is selected from, the magnitudes and those over the threshold.
TILE_BYTES = 2**28
MAPS, MAPS_SELECTING = 2, 5
# Pixels along a side of a tile at least, whatever memory that takes: of less most would be overlap.
LEAST_TILE = 64


class Span(NamedTuple):
    """What a tile is along an axis: the pixels that are computed, those kept, and where in the tile these are."""

    computed: slice
    kept: slice
    inside: slice


@dataclass
class Denoiser:
    """A network, the weight and the dictionary it is for, the noise it is for, and how it was trained.

    Attributes
    ----------
    weight, network
        What it consists of; the weight has the dictionary.
    sigma
        Standard deviation of the noise that it is for, of 255.
    training, history, training_seconds
        As those of `Model`.
    """

    weight: ConvWeight
    network: ConvNetwork
    sigma: float
    training: dict[str, Any] = field(default_factory=dict)
    history: dict[str, Array] = field(default_factory=dict)
    training_seconds: float = float("nan")

    @classmethod
    def new(
        cls,
        weight: ConvWeight,
        net: str = "conv-alista",
        *,
        sigma: float = 20.0,
        ops: ReferenceOps | None = None,
        dtype: Any = np.float32,
        **options: Any,
    ) -> Denoiser:
        """An untrained network; `net` is its name, a key of `CONV_NETWORKS`, and `options` are those of `ConvNetwork`.

        Raises
        ------
        InputError
            If there is no such network, or σ or an option is out of range.
        """
        if net not in CONV_NETWORKS:
            raise InputError(f"{net!r} is not a convolutional network of cuista, which has: {', '.join(CONV_NETWORKS)}")
        if not 0 < sigma < np.inf:
            raise InputError(f"σ is {sigma}; expected the standard deviation of the noise, of 255, more than 0")
        operator = Convolution(weight.dictionary.D, ops=ops, dtype=dtype)
        return cls(weight, CONV_NETWORKS[net](operator, weight.W, **options), float(sigma))

    def identity(self) -> dict[str, Any]:
        """What it was made from, as in the identity of a training run."""
        return {"dictionary": self.weight.dictionary.sha256, "weight": storage.sha256(self.weight.W)}

    def denoise(self, noisy: Array, *, mean: float | None = None, tile: int | None = None) -> Array:
        """The denoised picture (H, W) of a noisy one, both from 0 to 1 (not clipped), of any size.

        It is computed by overlapping tiles. A pixel depends only on those within the network's `reach`, so that with
        so much overlap, thrown away, there are no seams: the result is that of the whole but for rounding. Only with
        support selection it is another, for each tile selects its own share of entries.

        Parameters
        ----------
        noisy
            The picture.
        mean
            That of the clean picture; the noisy one's if None.
        tile
            Pixels along a side of a tile at most, its overlap not counted. As many as memory allows if None.

        Raises
        ------
        InputError
            If it is no finite grey picture, or smaller than a filter, or a tile has no pixel.
        """
        noisy = check_grey(noisy, "the picture")
        network, mean = self.network, noisy.mean() if mean is None else mean
        f = network.ops.asarray(noisy - mean, network.dtype)
        tiles = self.tiles(noisy.shape, tile)
        result = np.empty(noisy.shape, network.dtype)

        def work(part: slice) -> None:
            ((rows, columns),) = tiles[part]
            denoised = network.ops.to_numpy(network.output(f[rows.computed, columns.computed][None]))[0]
            result[rows.kept, columns.kept] = denoised[rows.inside, columns.inside]

        network.ops.in_batches((len(tiles), 1), work, 1)
        return np.asarray(result + mean)

    def tiles(self, shape: Sequence[int], tile: int | None = None) -> list[tuple[Span, Span]]:
        """The rows and columns of the tiles by which a picture of this shape (H, W) is denoised.

        All have one shape, so that arrays are used again from tile to tile.
        """
        if tile is not None and tile < 1:
            raise InputError(f"a tile is {tile} pixels wide; expected 1 or more, or None for as many as memory allows")
        side = tile or self._side()
        rows, columns = (_spans(length, side, reach) for length, reach in zip(shape, self.network.reach, strict=True))
        return list(product(rows, columns))

    def _side(self) -> int:
        """As many pixels as let the maps of the tiles in work, one a processor, take TILE_BYTES."""
        network = self.network
        maps = MAPS_SELECTING if network.selects else MAPS
        of_pixel: int = maps * network.filters * network.dtype.itemsize * processors()
        overlap = max(2 * reach + s - 1 for reach, s in zip(network.reach, network.filter_shape, strict=True))
        side: int = math.isqrt(TILE_BYTES // of_pixel) - overlap
        return max(side, LEAST_TILE)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write a `cuista-denoiser` file."""
        storage.write(path, self.record("cuista-denoiser"), overwrite=overwrite)

    def record(self, kind: str) -> storage.Record:
        """All of it, as the record of a file."""
        record = storage.Record(kind, {"W": self.weight.W})
        self.weight.dictionary.store(record)
        stored.store(record, self)
        record.attributes.update(sigma=self.sigma, weight=json.dumps(asdict(self.weight.report)))
        return record

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        kind: str = "cuista-denoiser",
        ops: ReferenceOps | None = None,
        dtype: Any = np.float32,
    ) -> Denoiser:
        """Read a file of this kind: a `cuista-denoiser`, or the denoiser in a `cuista-checkpoint`.

        Raises
        ------
        FileError
            If it is not one, or damaged.
        """
        record = storage.read(path, kind)
        attributes, dictionary = record.attributes, Dictionary.from_record(record, path)
        with stored.reading(path):
            report = ConvWeightReport(**json.loads(attributes["weight"]))
            weight = ConvWeight.stored(record, dictionary, report, path)
            options = {**stored.network_options(record), "ops": ops, "dtype": dtype}
            denoiser = cls.new(weight, attributes["net"], sigma=attributes["sigma"], **options)
            stored.restore(record, denoiser, path)
        return denoiser


def _spans(length: int, side: int, reach: int) -> list[Span]:
    """Tiles of at most `side` pixels and an overlap, all of one length: those at an end are shifted back inside."""
    side = math.ceil(length / math.ceil(length / side))
    whole = min(side + 2 * reach, length)
    spans = []
    for start in range(0, length, side):
        first, stop = min(max(start - reach, 0), length - whole), min(start + side, length)
        spans.append(Span(slice(first, first + whole), slice(start, stop), slice(start - first, stop - first)))
    return spans
