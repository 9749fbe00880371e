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

import numpy as np
from numpy.typing import ArrayLike

from cuista.checks import Array, as_real, check_rows
from cuista.data.sensing import MEASUREMENTS, Sensing
from cuista.errors import InputError
from cuista.messages import warn
from cuista.networks import ConvNetwork
from cuista.operators.blocks import BlockProjection
from cuista.tasks.denoising import Denoiser

# The number of iterations, and the first and the last σ, for grey values from 0 to 255. These numbers and the next were
# chosen on validation pictures.
ITERATIONS, FIRST, LAST = 40, 40.0, 1.5
# ρ, by which the iteration goes further than to a picture with the measurements y, which is 1.
RELAXATION = 1.8
# If the last picture is so many times as far from the measurements as the nearest one, users are told.
AMPLIFIED = 1.5


@dataclass(frozen=True)
class PlugAndPlay:
    """Recovers pictures from the measurements of their blocks by a denoiser.

    Attributes
    ----------
    denoiser
        The denoiser. One that was trained for a range of σ down to about 1 is the best.
    sensing
        How blocks are measured. If it has a dictionary, no use is made of it.
    """

    denoiser: Denoiser
    sensing: Sensing

    @property
    def network(self) -> ConvNetwork:
        """The denoiser's network."""
        return self.denoiser.network

    def reconstruct(
        self,
        y: ArrayLike,
        shape: tuple[int, int],
        *,
        iterations: int = ITERATIONS,
        progress: Callable[[float, str], None] = lambda fraction, text: None,
    ) -> Array:
        """The picture (H, W), not clipped, from the measurements y (n, M) of its blocks, row by row.

        The channels of a picture can be given together, (channels, n, M), for the result (channels, H, W).

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
        found = []
        for number, channel in enumerate(channels):

            def show(done: int, before: int = number) -> None:
                share = (before + done / iterations) / len(channels)
                progress(share, f"channel {before + 1} of {len(channels)}" if len(channels) > 1 else "iterations")

            found.append(self._recovered(channel, shape, iterations, show))
        return np.stack(found) if y.ndim == 3 else found[0]

    def _recovered(self, y: Array, shape: tuple[int, int], iterations: int, show: Callable[[int], None]) -> Array:
        """One channel."""
        sensing = self.sensing
        y = check_rows(y, sensing.M, MEASUREMENTS)
        sensing.check_blocks(len(y), shape)
        measured = BlockProjection(sensing.Phi, sensing.block, dtype=np.float64)
        x = sensing.picture(sensing.least_norm(y), sensing.whole(shape))
        known = measured(x[None])[0]
        best, misfit, least, reached = x, np.inf, np.inf, 0
        for k, sigma in enumerate(np.geomspace(FIRST, LAST, iterations).tolist()):
            # A network treats a picture and its mirror images a little differently. With another of the eight each
            # time, its errors do not add up. For the same reason, one place of the grid is enough.
            denoised = turned_back(self.denoiser.denoise_at(turned(x, k), sigma, shifts=1), k).astype(np.float64)
            missing = known - measured(np.ascontiguousarray(denoised)[None])[0]
            misfit = float(np.linalg.norm(missing))
            if misfit < least:
                best, least, reached = denoised + missing, misfit, k + 1
            x = denoised + RELAXATION * missing
            show(k + 1)
        if misfit > AMPLIFIED * least:
            warn(
                f"from iteration {reached} of {iterations} on, denoised pictures depart from the measurements: "
                f"{self.network.title} amplifies some of what it should remove. The result is that of iteration "
                f"{reached}, and may be poor; a denoiser for a range of σ is usually better"
            )
        return np.ascontiguousarray(best[: shape[0], : shape[1]])


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
