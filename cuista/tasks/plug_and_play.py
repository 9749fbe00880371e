"""Compressive sensing with a denoiser, which need not be trained for Φ: it is plugged into a classical iteration.

The method is called plug and play (Venkatakrishnan, Bouman, Wohlberg, GlobalSIP 2013). The iteration is iterative
denoising and backward projection (IDBP: Tirer, Giryes, IEEE Trans. Image Process. 2019),

    d_k = denoiser(x_k; σ_k),    x_{k+1} = d_k + ρ Φ⁺(y − Φ d_k),

on each block, with the least-norm solution as x_0. The denoiser removes what is no picture in the part that is not
measured, as if it were noise of a level σ_k that decreases geometrically. The result is d_k + Φ⁺(y − Φ d_k) for the d_k
that comes closest to the measurements, which is nearly always the last one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from cuista.checks import Array, as_real, check_rows
from cuista.data.sensing import MEASUREMENTS, Sensing
from cuista.errors import InputError
from cuista.messages import warn
from cuista.networks import ConvNetwork
from cuista.operators.blocks import BlockProjection
from cuista.tasks.denoising import Denoiser
from cuista.tasks.whole_pictures import check_size

# The number of iterations, and the first and the last σ, for grey values from 0 to 255. These numbers and the next were
# chosen on validation pictures.
ITERATIONS, FIRST, LAST = 40, 40.0, 1.5
# ρ, by which the iteration goes further than to a picture with the measurements y, which is 1.
RELAXATION = 1.8
# If the last picture is so many times as far from the measurements as the nearest one, users are told. One that is so
# many times as far is the last.
AMPLIFIED, HOPELESS = 1.5, 10.0


@dataclass(frozen=True)
class PlugAndPlay:
    """Recovers pictures from the measurements of their blocks by a denoiser.

    Attributes
    ----------
    denoiser
        The denoiser. It should be for a range of σ from about 1; another one is used at other levels than its own.
    sensing
        How blocks are measured. If it has a dictionary, no use is made of it.
    """

    denoiser: Denoiser
    sensing: Sensing

    @property
    def network(self) -> ConvNetwork:
        """The denoiser's network."""
        return self.denoiser.network

    @cached_property
    def measured(self) -> BlockProjection:
        """Φ⁺Φ on the blocks of pictures."""
        return BlockProjection(self.sensing.Phi, self.sensing.block, dtype=np.float64)

    def reconstruct(
        self,
        y: ArrayLike,
        shape: tuple[int, int],
        *,
        iterations: int = ITERATIONS,
        progress: Callable[[float, str], None] = lambda fraction, text: None,
    ) -> Array:
        """The picture (H, W), not clipped, from the measurements y (n, M) of its blocks, row by row.

        The channels of a picture can be given together, (channels, n, M), for the result (channels, H, W). A warning
        says if the denoiser leads away from the measurements.

        Parameters
        ----------
        iterations
            The number of iterations.
        progress
            Called with the share of iterations done, and a text.

        Raises
        ------
        InputError
            If y has another shape, or a NaN or infinite entry, if the picture is smaller than a filter, or if there is
            no iteration.
        """
        if iterations < 1:
            raise InputError(f"there are {iterations} iterations; expected 1 or more", option="iterations")
        y = as_real(y, MEASUREMENTS)
        channels = y if y.ndim == 3 else y[None]
        if not len(channels):
            raise InputError(f"{MEASUREMENTS} have shape {y.shape}; expected at least one channel")
        found, ends = [], []
        for number, channel in enumerate(channels, 1):
            which = f"channel {number} of {len(channels)}" if len(channels) > 1 else ""
            before = (number - 1) / len(channels)

            def show(done: int, before: float = before, which: str = which) -> None:
                progress(before + done / iterations / len(channels), which or f"iteration {done} of {iterations}")

            picture, reached, amplified = self._recovered(channel, shape, iterations, show)
            found.append(picture)
            ends += [f"iteration {reached}{which and f' for {which}'}"] if amplified else []
        if ends:
            advice = "" if self.denoiser.sigmas else ". A denoiser for a range of σ from about 1 is usually better"
            warn(
                f"{self.network.title} amplifies some of what it should remove, so that pictures depart from the "
                f"measurements. The result is that of {', '.join(ends)} instead of {iterations}: it may be poor{advice}"
            )
        return np.stack(found) if y.ndim == 3 else found[0]

    def _recovered(
        self, y: Array, shape: tuple[int, int], iterations: int, show: Callable[[int], None]
    ) -> tuple[Array, int, bool]:
        """One channel, the number of the iteration that it is from, and whether later ones depart from y."""
        sensing, measured = self.sensing, self.measured
        y = check_rows(y, sensing.M, MEASUREMENTS)
        sensing.check_blocks(len(y), shape)
        check_size(self.network, sensing, shape)
        x = sensing.picture(sensing.least_norm(y), sensing.whole(shape))
        known = measured(x[None])[0]
        best, least, misfit, reached = x, np.inf, 0.0, 0
        for k, sigma in enumerate(np.geomspace(FIRST, LAST, iterations).tolist()):
            # A network treats a picture and its mirror images a little differently. With another of the eight each
            # time, its errors do not add up. For the same reason, one place of the grid is enough.
            denoised = turned_back(self.denoiser.denoise_at(turned(x, k), sigma, shifts=1), k).astype(np.float64)
            missing = known - measured(np.ascontiguousarray(denoised)[None])[0]
            misfit = float(np.linalg.norm(missing))
            show(k + 1)
            if misfit < least:
                best, least, reached = denoised + missing, misfit, k + 1
            elif not misfit < HOPELESS * least:
                break
            x = denoised + RELAXATION * missing
        return np.ascontiguousarray(best[: shape[0], : shape[1]]), reached, not misfit <= AMPLIFIED * least


def turned(picture: Array, k: int) -> Array:
    """The k-th of the eight symmetries of a square, applied to a picture (H, W); k is taken modulo 8."""
    picture = picture[::-1] if k & 1 else picture
    picture = picture[:, ::-1] if k & 2 else picture
    return picture.T if k & 4 else picture


def turned_back(picture: Array, k: int) -> Array:
    """The inverse of `turned`."""
    picture = picture.T if k & 4 else picture
    picture = picture[:, ::-1] if k & 2 else picture
    return picture[::-1] if k & 1 else picture
