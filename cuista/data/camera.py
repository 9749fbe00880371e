"""The noise of cameras: photons arrive at random, and reading the pixels adds to it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from cuista.checks import LARGEST, Array
from cuista.errors import InputError


@dataclass(frozen=True)
class CameraNoise:
    """The noise of a camera, in the units of its data sheet or of a FITS header.

    A pixel that receives e electrons on average has the number z = offset + (Poisson(e) + N(0, read_noise²)) / gain.
    Numbers must be proportional to the light, as in raw files and in the files of scientific cameras.

    Parameters
    ----------
    gain
        Electrons for each step of the numbers, in e⁻/ADU. Some call its inverse the gain.
    read_noise
        Standard deviation of the noise of reading a pixel, in electrons.
    offset
        The number of a pixel without light (bias, pedestal, black level).

    Raises
    ------
    InputError
        If a number is out of range.
    """

    gain: float
    read_noise: float = 0.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        if not 1 / LARGEST <= self.gain <= LARGEST:
            raise InputError(
                f"the gain is {self.gain}; expected electrons per number, {1 / LARGEST:g} to {LARGEST:g}", option="gain"
            )
        if not 0 <= self.read_noise <= LARGEST:
            raise InputError(
                f"the read noise is {self.read_noise}; expected electrons, 0 to {LARGEST:g}", option="read_noise"
            )
        if not abs(self.offset) <= LARGEST:
            raise InputError(f"the offset is {self.offset}; expected the number without light", option="offset")

    def stabilised(self, numbers: Array) -> Array:
        """The generalised Anscombe transform of numbers: their noise has a standard deviation of about 1 everywhere.

        f = 2 √(e + 3/8 + read_noise²), where e = gain (z − offset). Murtagh, Starck, Bijaoui, Astronomy & Astrophysics
        Supplement 112, 1995. With fewer than about three electrons and little read noise, the deviation is below 1.
        """
        electrons = self.gain * (numbers - self.offset)
        return np.asarray(2 * np.sqrt(np.maximum(electrons + 3 / 8 + self.read_noise**2, 0)))

    def restored(self, stabilised: Array) -> Array:
        """The numbers without noise whose transforms have these means, by the exact unbiased inverse.

        The inverse of the formula above would be too dark, because the mean of a root is smaller than the root of the
        mean. This is the closed form that agrees with the exact inverse up to 0.05 electrons. Mäkitalo, Foi, IEEE
        Trans. Image Processing 22, 2013, "Optimal inversion of the generalized Anscombe transformation for
        Poisson–Gaussian noise". The darkest result is `offset`.
        """
        least, root = 2 * math.sqrt(3 / 8), math.sqrt(3 / 2)  # the formula is 0 at the least, and useless below
        D = np.maximum(stabilised, least)
        electrons = D**2 / 4 + root / (4 * D) - 11 / (8 * D**2) + 5 * root / (8 * D**3) - 1 / 8 - self.read_noise**2
        return np.asarray(np.maximum(electrons, 0) / self.gain + self.offset)
