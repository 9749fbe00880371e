"""Small data sets for examples, generated from a seed: pictures, matrices and spectra. Nothing is downloaded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cuista.checks import Array
from cuista.data.pictures import Picture, write_picture
from cuista.data.problem import normalize_columns
from cuista.errors import InputError


def pictures(count: int = 12, size: int = 128, *, seed: int = 0) -> Array:
    """Grey pictures (count, size, size) with values from 0 to 1: overlapping discs, some of them striped."""
    _check("the number of pictures", count, "count")
    _check("the side of the pictures", size, "size")
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:size, 0:size] / size
    found = np.empty((count, size, size))
    for picture in found:
        picture[...] = generator.uniform(0.2, 0.8)
        for _ in range(12):
            row, column, angle, radius = generator.uniform([0, 0, 0, 0.1], [1, 1, 6, 0.25])
            distance = np.cos(angle) * (rows - row) + np.sin(angle) * (columns - column)
            where = np.hypot(rows - row, columns - column) < radius
            stripes = 0.15 * np.sin(2 * np.pi * generator.integers(0, 2) * size / 8 * distance)
            picture[where] = (generator.uniform(0.1, 0.9) + stripes)[where]
    return found.clip(0, 1)


def save_pictures(
    folder: str | os.PathLike[str], count: int = 12, size: int = 128, *, seed: int = 0, overwrite: bool = False
) -> Path:
    """Write `pictures` to a folder, which is made if it does not exist, as 00.png, 01.png, …, and return the folder.

    Raises
    ------
    FileError
        If a file exists and `overwrite` is false, or cannot be written.
    MissingLibraryError
        If Pillow is not installed.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(pictures(count, size, seed=seed)):
        write_picture(Path(folder) / f"{number:02}.png", Picture(picture[None]), overwrite=overwrite)
    return Path(folder)


class Mixtures(NamedTuple):
    """Spectra y = A x + ε of mixtures of a few substances each.

    Attributes
    ----------
    library
        The spectra A (bands, substances) of the pure substances.
    abundances
        The amounts x (samples, substances) of each substance, none of them negative, most of them 0.
    spectra
        The spectra y (samples, bands) of the mixtures.
    """

    library: Array
    abundances: Array
    spectra: Array


def spectral_library(bands: int = 64, substances: int = 128, *, seed: int = 0) -> Array:
    """Spectra (bands, substances) of made-up substances, none negative: a few Gaussian bands on a sloping background.

    As in real libraries, spectra are far more alike than the columns of a random matrix.
    """
    _check("the number of bands", bands, "bands")
    _check("the number of substances", substances, "substances")
    generator = np.random.default_rng(seed)
    at = np.linspace(0, 1, bands)[:, None]
    library = generator.uniform(0.02, 0.1, substances) + generator.uniform(0, 0.2, substances) * at
    for _ in range(5):
        centre, width = generator.uniform(0, 1, substances), generator.uniform(0.01, 0.05, substances)
        library = library + generator.uniform(0, 1, substances) * np.exp(-(((at - centre) / width) ** 2) / 2)
    return np.asarray(library)


def mixtures(
    samples: int = 100,
    bands: int = 64,
    substances: int = 128,
    *,
    present: int = 3,
    snr_db: float = float("inf"),
    seed: int = 0,
) -> Mixtures:
    """Spectra of mixtures of `present` substances, in amounts from 0.2 to 1, measured with noise at this SNR in dB."""
    _check("the number of samples", samples, "samples")
    library = spectral_library(bands, substances, seed=seed)
    if not 1 <= present <= substances:
        raise InputError(
            f"{present} substances are to be in each mixture; expected 1 to {substances}", option="present"
        )
    generator = np.random.default_rng((seed, 1))
    order = np.argsort(generator.random((samples, substances)), axis=1)[:, :present]
    x = np.zeros((samples, substances))
    np.put_along_axis(x, order, generator.uniform(0.2, 1, (samples, present)), axis=1)
    y = x @ library.T
    noise = generator.standard_normal(y.shape) * y.std(axis=1, keepdims=True)
    return Mixtures(library, x, y + noise * 10 ** (-snr_db / 20))


def partial_cosines(M: int = 64, N: int = 128, *, seed: int = 0) -> Array:
    """A matrix (M, N) that measures M random samples of a signal that is sparse in cosines, with columns of unit norm.

    It consists of M rows of the inverse discrete cosine transform of length N.
    """
    if not 1 <= M <= N:
        raise InputError(f"{M} of {N} samples were asked for; expected 1 to {N}", option=("m", "n"))
    rows = np.sort(np.random.default_rng(seed).permutation(N)[:M])[:, None]
    return normalize_columns(np.cos(np.pi * (2 * rows + 1) * np.arange(N) / (2 * N)))


def _check(what: str, number: int, option: str) -> None:
    if number < 1:
        raise InputError(f"{what} is {number}; expected 1 or more", option=option)
