"""A trained convolutional network with all that it was made from, and denoising with it."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from cuista import storage, stored
from cuista.checks import Array
from cuista.device import processors
from cuista.dictionary import Dictionary
from cuista.errors import InputError
from cuista.networks import CONV_NETWORKS, ConvNetwork
from cuista.ops import ReferenceOps
from cuista.pictures import check_grey
from cuista.weights import ConvWeight, ConvWeightReport

# Bytes that the maps of all tiles in work may take.
TILE_BYTES = 2**28


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
    def new(cls, weight: ConvWeight, net: str = "conv-alista", *, sigma: float = 20.0, **options: Any) -> Denoiser:
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
        return cls(weight, CONV_NETWORKS[net](weight.dictionary.D, weight.W, **options), float(sigma))

    def identity(self) -> dict[str, Any]:
        """What it was made from, as in the identity of a training run."""
        return {"dictionary": self.weight.dictionary.sha256, "weight": storage.sha256(self.weight.W)}

    def denoise(self, noisy: Array, *, mean: float | None = None, tile: int | None = None) -> Array:
        """The denoised picture (H, W) of a noisy one, both from 0 to 1 (not clipped), of any size.

        It is computed by overlapping tiles. A pixel depends only on those within the network's `reach`, so that with
        so much overlap, thrown away, there are no seams: the result is that of the whole but for rounding. (With
        support selection a tile selects its own share of entries.)

        Parameters
        ----------
        noisy
            The picture.
        mean
            That of the clean picture; the noisy one's if None.
        tile
            Pixels along a side of a tile, its overlap not counted. As many as memory allows if None.

        Raises
        ------
        InputError
            If it is no finite grey picture, or smaller than a filter.
        """
        noisy = check_grey(noisy, "the picture")
        network, mean = self.network, noisy.mean() if mean is None else mean
        f = network.ops.asarray(noisy - mean, network.dtype)
        reach = network.reach
        side = tile or self._tile()
        corners = [(i, j) for i in range(0, f.shape[0], side) for j in range(0, f.shape[1], side)]
        result = np.empty(noisy.shape, network.dtype)

        def work(part: slice) -> None:
            ((i, j),) = corners[part]
            first = max(i - reach, 0), max(j - reach, 0)
            tile_of_f = f[first[0] : i + side + reach, first[1] : j + side + reach]
            denoised = network.ops.to_numpy(network.output(tile_of_f[None]))[0]
            inner = denoised[i - first[0] : i - first[0] + side, j - first[1] : j - first[1] + side]
            result[i : i + side, j : j + side] = inner

        network.ops.in_batches((len(corners), 1), work, 1)
        return np.asarray(result + mean)

    def _tile(self) -> int:
        """As many pixels as let the maps of two layers of the tiles in work, one a processor, take TILE_BYTES."""
        of_pixel: int = 2 * self.network.filters * self.network.dtype.itemsize * processors()
        side: int = math.isqrt(TILE_BYTES // of_pixel) - 2 * self.network.reach
        return max(side, 64)

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
