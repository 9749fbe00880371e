"""Measures of how well signals and pictures are recovered: NMSE by layer, PSNR and SSIM."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, TypeVar

import numpy as np

from cuista import storage
from cuista.checks import Array, in_double
from cuista.data.images import ImageSet
from cuista.errors import InputError
from cuista.networks.base import Unrolled
from cuista.ops import ReferenceOps, engine
from cuista.ops.joint import Joint, squares
from cuista.ranks import ranks
from cuista.summary import Described, counted

# The side in pixels of the window in which the structural similarity is computed.
SSIM_WINDOW = 11

# Restores a picture from what `report_on_pictures` prepares.
Method = TypeVar("Method")


def decibels(error: Any, energy: Any) -> Any:
    """The ratio of two sums of squares in dB, 10·log10(error / energy); −inf where the error is 0.

    The sums are numbers, or NumPy arrays, whose entries are treated one by one. Every NMSE and PSNR is computed here.
    """
    with np.errstate(divide="ignore"):
        return 10 * np.log10(np.divide(error, energy))


@dataclass(frozen=True, repr=False)
class Report(Described):
    """The errors of the iterates x_0, …, x_T on a set of signals x*. The first axis of every array is t = 0, …, T.

    Attributes
    ----------
    nmse_db
        The NMSE in dB (T + 1,), 10·log10(Σ‖x_t − x*‖² / Σ‖x*‖²), where both sums run over the whole set.
    squared_error
        ‖x_t − x*‖² of each sample (T + 1, samples), over all of its snapshots.
    support_size
        The number of non-zero entries of x_t (T + 1, samples). An entry of several numbers, one for each snapshot and
        neighbour, counts once here and below.
    false_positives
        The number of entries that are zero in x* but not in x_t (T + 1, samples).
    false_negatives
        The number of entries that are zero in x_t but not in x* (T + 1, samples).
    """

    nmse_db: Array
    squared_error: Array
    support_size: Array
    false_positives: Array
    false_negatives: Array

    def facts(self) -> dict[str, str]:
        iterates, samples = self.squared_error.shape
        return {
            "signals": counted(samples, "signal"),
            "layers": counted(iterates - 1, "layer"),
            "result": f"NMSE {self.nmse_db[-1]:.2f} dB after the last",
            "support": f"{self.support_size[-1].mean():.1f} non-zeros on average",
        }

    def rows(self) -> list[dict[str, Any]]:
        """A dictionary for each iterate, in which the counts are means over the samples."""
        counts = ("support_size", "false_positives", "false_negatives")
        return [
            {"layer": t, "nmse_db": float(nmse), **{name: float(getattr(self, name)[t].mean()) for name in counts}}
            for t, nmse in enumerate(self.nmse_db)
        ]

    def save(self, path: str | os.PathLike[str], attributes: dict[str, Any], *, overwrite: bool = False) -> None:
        """Write a `cuista-report` file, which includes the counts of each sample."""
        storage.write(path, storage.Record("cuista-report", vars(self).copy(), attributes), overwrite=overwrite)


def report_on(
    iterates: Callable[[Array], Iterator[Array]],
    x: Array,
    y: Array,
    ops: ReferenceOps | None = None,
    group: int = 1,
    batch: int | None = None,
) -> Report:
    """Measure a method on signals x (samples, N) with measurements y (samples, M), which may be complex.

    Parameters
    ----------
    iterates
        Maps measurements (batch, M) to the method's iterates x_1, x_2, … (batch, N), which are arrays of `ops`.
    x, y
        The signals and their measurements. With L snapshots, they are (samples, L, N) and (samples, L, M).
    ops
        The engine; the CPU engine if None.
    group
        The number of neighbours that are one entry: see `Problem.group`.
    batch
        The number of samples at a time; None for as many as suit the engine.

    Raises
    ------
    InputError
        If there are no signals, if there are more or fewer measurements than signals, or if all signals are zero.
    """
    ops = ops or engine("cpu")
    if x.shape[0] != y.shape[0] or not len(x):
        raise InputError(f"there are {len(x)} signals and {len(y)} measurements; expected equal numbers of 1 or more")
    joint = Joint(math.prod(x.shape[1:-1]), group)
    if not x.any():
        raise InputError("all signals are zero, so that their NMSE has no meaning; expected a non-zero signal")

    def compare(part: slice) -> Array:
        truth = ops.asarray(x[part], x.dtype)
        support = joint.present(truth)
        estimates = chain([ops.xp.zeros_like(truth)], iterates(y[part]))
        compared = [_compare(ops.xp, estimate, truth, support, joint) for estimate in estimates]
        return ops.to_numpy(ops.xp.stack(compared, axis=1))

    parts = ops.shared_out((len(x), math.prod(x.shape[1:])), compare, batch)
    error, size, positives, negatives = np.concatenate(parts, axis=2)
    total = squares(np, in_double(x)).sum()
    return Report(
        decibels(error.sum(axis=1), total), error, *(counts.astype(np.int64) for counts in (size, positives, negatives))
    )


def estimate_nmse_db(estimate: Array, x: Array) -> float:
    """The NMSE in dB of estimates of signals x, both NumPy arrays of the same shape, real or complex."""
    return float(decibels(*(squares(np, in_double(array)).sum() for array in (estimate - x, x))))


def nmse_db(network: Unrolled, x: Array, y: Array, depth: int, weights: Array | None = None) -> float:
    """The NMSE in dB after `depth` layers on signals x (samples, N) with measurements y (samples, M).

    With L snapshots, they are (samples, L, N) and (samples, L, M). If `weights` (samples,) are given, they weight the
    samples in both sums of the ratio.
    """
    ops = network.ops

    def sums(part: slice) -> tuple[float, float]:
        weight = None if weights is None else weights[part]
        truth = ops.asarray(x[part], x.dtype)
        error, _ = ops.half_squared_error(network.output(y[part], depth), truth, weight)
        return float(error), float(ops.half_squared_error(ops.xp.zeros_like(truth), truth, weight)[0])

    parts = ops.shared_out((len(x), math.prod(x.shape[1:])), sums, network.samples_at_a_time)
    error, energy = map(sum, zip(*parts, strict=True))
    return float(decibels(error, energy))


def _compare(xp: Any, estimate: Array, truth: Array, support: Array, joint: Joint) -> Array:
    """The squared error, support size, false positives and false negatives of each sample: (4, batch), float64."""
    found = joint.present(estimate)
    counts = (found, found & ~support, support & ~found)
    error = squares(xp, estimate - truth).reshape(len(truth), -1).sum(axis=1, dtype=np.float64)
    stacked: Array = xp.stack([error, *(count.sum(axis=1).astype(np.float64) for count in counts)])
    return stacked


def psnr_db(estimate: Array, clean: Array) -> float:
    """The peak signal-to-noise ratio of a picture (H, W) from 0 to 1 in dB: −10·log10 of its mean squared error."""
    return -float(decibels(np.square(estimate - clean, dtype=np.float64).mean(), 1.0))


def clipped_psnr_db(estimate: Array, clean: Array) -> float:
    """The PSNR in dB of a picture (H, W) that is clipped to the range from 0 to 1, as it is when it is stored."""
    return psnr_db(np.clip(estimate, 0, 1), clean)


def ssim(estimate: Array, clean: Array) -> float:
    """The structural similarity of two pictures (H, W) from 0 to 1, with sides of at least 11 pixels; 1 if they agree.

    Wang, Bovik, Sheikh, Simoncelli, IEEE Trans. Image Processing 2004, with their Gaussian window of 11×11 pixels
    (σ = 1.5), K₁ = 0.01 and K₂ = 0.03. The borders, where the window does not fit, are left out.
    """
    from scipy.ndimage import gaussian_filter

    def mean(values: Array) -> Array:
        return np.asarray(gaussian_filter(values, 1.5, radius=5))

    a, b = estimate.astype(np.float64), clean.astype(np.float64)
    mean_a, mean_b = mean(a), mean(b)
    variances, covariance = mean(a * a) + mean(b * b) - mean_a**2 - mean_b**2, mean(a * b) - mean_a * mean_b
    similarity = (2 * mean_a * mean_b + 0.01**2) * (2 * covariance + 0.03**2)
    similarity /= (mean_a**2 + mean_b**2 + 0.01**2) * (variances + 0.03**2)
    return float(similarity[5:-5, 5:-5].mean())


@dataclass(frozen=True, repr=False)
class PictureReport(Described):
    """How well several methods restored pictures.

    Attributes
    ----------
    pictures, methods
        The names of the pictures and of the methods.
    shapes
        The shape (H, W) of each picture.
    psnr_db, ssim
        PSNR in dB and SSIM, as arrays (pictures, methods).
    lambdas
        The tuned λ of each method that has one.
    about
        Further numbers that describe the test, such as the noise level.
    clipped_db
        The PSNR in dB after clipping to the range from 0 to 1, as an array (pictures, methods), or None.
    """

    pictures: tuple[str, ...]
    methods: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    psnr_db: Array
    ssim: Array
    lambdas: dict[str, float]
    about: dict[str, float]
    clipped_db: Array | None = None

    def facts(self) -> dict[str, str]:
        means = zip(self.methods, self.psnr_db.mean(axis=0).tolist(), self.ssim.mean(axis=0).tolist(), strict=True)
        results = {name: f"{name} {psnr:.2f} dB (SSIM {ssim:.3f})" for name, psnr, ssim in means}
        return {"pictures": counted(len(self.pictures), "picture"), **results}

    def measures(self) -> dict[str, Array]:
        """The arrays (pictures, methods) by name; that of clipped pictures only if clipping changes any of them."""
        clipped, found = self.clipped_db, {"psnr_db": self.psnr_db, "ssim": self.ssim}
        differs = clipped is not None and not np.array_equal(clipped, self.psnr_db)
        return {**found, "psnr_clipped_db": clipped} if clipped is not None and differs else found

    def save(self, path: str | os.PathLike[str], attributes: dict[str, Any], *, overwrite: bool = False) -> None:
        """Write a `cuista-report` file."""
        named = {**self.about, "methods": list(self.methods), "pictures": list(self.pictures)}
        arrays = self.measures()
        storage.write(path, storage.Record("cuista-report", arrays, {**attributes, **named}), overwrite=overwrite)


def report_on_pictures(
    pictures: ImageSet,
    prepare: Callable[[int, Array], Callable[[Method], Array]],
    methods: Mapping[str, Method],
    lambdas: dict[str, float],
    progress: Callable[[float, str], None] = lambda fraction, text: None,
    **about: float,
) -> PictureReport:
    """Restore all pictures of a set by several methods, and measure the results. Ranks share the pictures out.

    Parameters
    ----------
    prepare
        Called with the number and the pixels (H, W) of each picture. It returns a function from a method to the picture
        that this method restores.
    methods
        The methods by name.
    lambdas, about
        As in `PictureReport`.
    progress
        Called with the share of pictures done, and with the name of the current one.
    """
    measures: tuple[Callable[[Array, Array], float], ...] = (psnr_db, clipped_psnr_db, ssim)

    def measured_on(number: int) -> tuple[str, tuple[int, ...], list[list[float]]]:
        name, clean = pictures.picture(number)
        restored = prepare(number, clean)
        results = [restored(method) for method in methods.values()]
        progress((number + 1) / len(pictures), f"{number + 1}/{len(pictures)} {name}")
        return name, clean.shape, [[float(measure(result, clean)) for result in results] for measure in measures]

    found = ranks().spread([partial(measured_on, number) for number in range(len(pictures))])
    names, shapes, measured = zip(*found, strict=True)
    psnrs, clipped, similarities = np.moveaxis(np.array(measured), 1, 0)
    return PictureReport(names, tuple(methods), tuple(map(tuple, shapes)), psnrs, similarities, lambdas, about, clipped)
