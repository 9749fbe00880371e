"""Random crops of pictures, on which convolutional networks are trained and validated."""

from __future__ import annotations

from abc import abstractmethod
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

from cuista.checks import Array
from cuista.counter import TRAINING, Key
from cuista.data.images import ImageSet
from cuista.errors import InputError
from cuista.metrics import decibels
from cuista.networks.base import rows_of
from cuista.ops import ReferenceOps
from cuista.training.task import Baseline, Examples, Source


class Crops(Source):
    """A source of random crops, and of what a network is given of them. Crops are without their means.

    The crops of the next step are read while the current step is computed.

    Parameters
    ----------
    training, validation
        The pictures for each use.
    crop
        The side of the crops in pixels.

    Attributes
    ----------
    baseline_name
        What the pictures are that a network is given.
    """

    baseline_name: ClassVar[str]
    # The error varies little from one validation to the next, and a network that has fallen back takes long to return.
    fall_db = 1.0

    def __init__(self, training: ImageSet, validation: ImageSet, crop: int) -> None:
        self.training, self.validation, self.crop = training, validation, crop
        self._reader = ThreadPoolExecutor(1)
        self._ahead: dict[tuple[Key, int, int | None], Future[Array]] = {}

    def clean(
        self, ops: ReferenceOps, dtype: DTypeLike, batch: int, key: Key, validate: bool, rows: slice = slice(None)
    ) -> Array:
        """The crops (batch, crop, crop), or only these rows of them, as a pure function of the key."""
        images = self.validation if validate else self.training
        which = (batch, self.crop, rows)
        ahead = self._ahead.pop((key, batch, rows.start), None)
        crops = images.crops(key, *which) if ahead is None else ahead.result()
        if key.stream == TRAINING:
            following = key._replace(step=key.step + 1)
            self._ahead = {(following, batch, rows.start): self._reader.submit(images.crops, following, *which)}
        return ops.asarray(crops - crops.mean(axis=(1, 2), keepdims=True, dtype=np.float64), dtype)

    @abstractmethod
    def sample(
        self,
        ops: ReferenceOps,
        dtype: DTypeLike,
        batch: int,
        key: Key,
        validate: bool = False,
        rows: slice = slice(None),
    ) -> Examples:
        """Clean crops, and pictures of the same shape that a network is given, alone or first in a tuple."""

    def error_db(self, network: Any, validation: Examples, depth: int) -> float:
        """The NMSE in dB after `depth` layers, averaged over crops from `sample`.

        It falls by as much as the mean PSNR rises. The energy of a crop is taken to be at least 1/255² per pixel, for
        the sake of crops with a single colour.
        """
        clean, given, _ = validation
        ops = network.ops

        def error(part: slice) -> Array:
            return _squares(ops, network.output(rows_of(given, part), depth) - clean[part])

        errors = np.concatenate(ops.shared_out(clean.shape, error, network.shard))
        return float(decibels(errors, self._energy(network, clean)).mean())

    def _energy(self, network: Any, clean: Array) -> Array:
        """The energies of clean crops by which their errors are divided."""
        energy: Array = np.maximum(_squares(network.ops, clean), clean[0].size / 255**2)
        return energy

    def displayed(self, network: Any, validation: Examples, error_db: float) -> float:
        """The PSNR in dB, averaged over the crops. The two add up to the PSNR of an error as large as the picture."""
        clean = validation[0]
        return -float(decibels(self._energy(network, clean), clean[0].size).mean()) - error_db

    def baseline(self, network: Any, validation: Examples) -> Baseline:
        """The pictures that the network is given."""
        clean, given, _ = validation
        given = given[0] if isinstance(given, tuple) else given
        error = decibels(_squares(network.ops, given - clean), self._energy(network, clean)).mean()
        return Baseline(float(error), 0.0, self.baseline_name)

    def blank(self) -> InputError:
        return InputError("each crop of the pictures has a single colour; expected pictures with some content")

    def close(self) -> None:
        self._reader.shutdown(cancel_futures=True)


def _squares(ops: ReferenceOps, crops: Array) -> Array:
    """The sum of squares (batch,) of each crop, in host memory."""
    return ops.to_numpy(ops.xp.square(crops).reshape(len(crops), -1).sum(axis=1, dtype=np.float64))
