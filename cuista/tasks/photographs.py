"""Denoising pictures as they come in files: in colour, with noise of any level, and with the noise of a camera."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import numpy as np

from cuista.checks import Array, as_real, check_finite, library
from cuista.data.camera import CameraNoise
from cuista.data.form import Form
from cuista.data.pictures import Picture, Pictures, check_format, write_pictures
from cuista.errors import FileError, InputError
from cuista.tasks.denoising import Denoiser, check_sigma

# The sum of red, green and blue, and two differences of them; the rows are orthonormal. Independent noise of one level
# in the colours is independent noise of the same level here, and the differences hold little else.
OPPONENT = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])
# A level of noise with which a picture is returned as it is, as a share of the range of its values.
NOISELESS = 1e-4
# How much higher the thresholds are for the differences of colours, which change less from pixel to pixel.
CHROMA = 1.5
# The side in pixels of the blocks in which noise is estimated, and the share of blocks with a lower estimate.
BLOCK, LOWER = 64, 0.25
# The side in pixels of the windows in which the network is held to the level of the noise. This number and the next
# were chosen on validation pictures of denoisers.
WINDOW = 13
# The factor c by which the mean square of noise in a window may exceed its expected value: one standard deviation.
FLUCTUATION = 1 + 2**0.5 / WINDOW
# How far apart the levels are, as a ratio, at which a picture is denoised for a map of them.
STEP = 1.25


class Denoised(NamedTuple):
    """A picture without its noise.

    Attributes
    ----------
    channels
        The channels (C, H, W), in the units of the noisy picture.
    sigmas
        The standard deviation of the noise that was removed from each channel, for grey values from 0 to 255. For a
        colour picture, these are the channels in which it was denoised: the sum of its colours, and two differences.
    """

    channels: Array
    sigmas: tuple[float, ...]


def estimate_sigma(picture: Array) -> float:
    """Estimate the standard deviation of Gaussian noise in a picture (H, W), in its units.

    In blocks of 64×64 pixels, the median magnitude of the finest diagonal wavelet coefficients is divided by that of a
    standard normal variable (Donoho, Johnstone, Biometrika 1994; scikit-image's `estimate_sigma`). The result is the
    lower quartile of the blocks, because texture adds to the noise in some of them. A picture that is textured all over
    seems noisier than it is, and one that was smoothed or compressed less noisy.

    Raises
    ------
    InputError
        If the picture is too small.
    MissingLibraryError
        If scikit-image or PyWavelets is not installed.
    """
    use = "the noise of a picture is estimated with scikit-image and PyWavelets"
    library("pywt", "images", use)
    if min(picture.shape) < 4:
        raise InputError(
            f"the picture has {picture.shape[0]}×{picture.shape[1]} pixels, too few to estimate its noise: give it",
            option="sigma",
        )
    estimate = library("skimage.restoration", "images", use).estimate_sigma
    rows, columns = (range(0, max(size - BLOCK, 0) + 1, BLOCK) for size in picture.shape)
    blocks = (picture[row : row + BLOCK, column : column + BLOCK] for row in rows for column in columns)
    return float(np.quantile([estimate(block) for block in blocks], LOWER))


def denoise_picture(
    denoiser: Denoiser,
    channels: Array,
    *,
    sigma: float | Array | None = None,
    camera: CameraNoise | None = None,
    colour: bool | None = None,
    shifts: int | None = None,
) -> Denoised:
    """Denoise a picture of any size and any number of channels; the result is not clipped.

    Red, green and blue are denoised as their sum and two differences (an orthonormal opponent colour space), the latter
    with 1.5 times higher thresholds, and other channels one by one. A picture whose noise is not of the level that the
    network was trained for is scaled to that level, and its result scaled back.

    Parameters
    ----------
    denoiser
        The network.
    channels
        The noisy channels (C, H, W). 0 is black and 1 is white; with `camera`, they are the camera's numbers.
    sigma
        Standard deviation of the noise, for grey values from 0 to 255, or an array (H, W) with that of each pixel, in
        which it should change slowly. If None, it is estimated in each channel.
    camera
        The noise of the camera, instead of `sigma`. The numbers are transformed so that their noise is the same
        everywhere, denoised, and transformed back.
    colour
        Whether the first three channels are red, green and blue; if None, they are if there are just three.
    shifts
        As in `Denoiser.denoise`.

    Raises
    ------
    InputError
        If the picture is not of shape (C, H, W), not finite or smaller than a filter, if `sigma` is out of range or has
        another shape than the picture, if both `sigma` and `camera` are given, or if `shifts` is out of range.
    MissingLibraryError
        As `estimate_sigma`.
    """
    channels = as_real(channels, "the picture").astype(np.float64)
    if channels.ndim != 3 or 0 in channels.shape:
        raise InputError(f"the picture has shape {channels.shape}; expected (C, H, W)")
    check_finite(channels, "the picture")
    if sigma is not None and camera is not None:
        raise InputError("both a level of noise and a camera's noise were given: give one of them", option="sigma")
    level = None if sigma is None else _checked_level(sigma, channels.shape[1:])
    colour = len(channels) == 3 if colour is None else colour and len(channels) >= 3
    if len(channels) == 3 and colour and (channels == channels[0]).all():  # grey, with the same noise in each colour
        grey = denoise_picture(denoiser, channels[:1], sigma=sigma, camera=camera, shifts=shifts)
        return Denoised(np.repeat(grey.channels, 3, axis=0), grey.sigmas)
    if camera is not None:
        channels, level = camera.stabilised(channels) / 255, 1.0
    if colour:
        channels = _turned(OPPONENT, channels)
    results, sigmas = [], []
    for number, channel in enumerate(channels):
        found = 255 * estimate_sigma(channel) if level is None else level
        strength = CHROMA if colour and number in (1, 2) else 1.0
        results.append(_at_level(partial(denoiser.denoise_at, shifts=shifts), channel, found, strength))
        sigmas.append(found if isinstance(found, float) else float(np.sqrt(np.square(found).mean())))
    denoised = np.stack(results)
    if colour:
        denoised = _turned(OPPONENT.T, denoised)
    if camera is not None:
        denoised = camera.restored(255 * denoised)
    return Denoised(denoised, tuple(sigmas))


def _checked_level(sigma: float | Array, shape: tuple[int, ...]) -> float | Array:
    """The level of noise, after a check that it is a number or a map (H, W) of numbers for a picture of this shape.

    Raises
    ------
    InputError
        If it is anything else, or out of range.
    """
    if np.ndim(sigma) == 0:
        check_sigma(float(sigma))
        return float(sigma)
    level = as_real(sigma, "the map of σ").astype(np.float64)
    if level.shape != shape:
        raise InputError(
            f"the map of σ has shape {level.shape}, and the picture {shape}; expected the same", option="sigma"
        )
    check_finite(level, "the map of σ")
    if level.min() < 0:
        raise InputError(f"the map of σ has a value of {level.min():g}; expected 0 or more", option="sigma")
    if level.any():
        check_sigma(float(level.max()))
    return level


def _turned(rotation: Array, channels: Array) -> Array:
    """The channels (C, H, W) after a rotation (3, 3) of the first three."""
    return np.concatenate([np.tensordot(rotation, channels[:3], 1), channels[3:]])


def _at_level(denoise: Callable[[Array, float], Array], channel: Array, sigma: float | Array, strength: float) -> Array:
    """Denoise a channel (H, W) with noise of a level, or of a map (H, W) of levels, for values from 0 to 255.

    Thresholds are those for this level times `strength`.

    Dividing by a map would turn its structure into structure of the picture. Instead the whole picture is denoised for
    several levels, and each pixel is interpolated between the results for the two levels next to its own.
    """
    least = 255 * NOISELESS * float(np.ptp(channel))
    if not isinstance(sigma, np.ndarray):
        if sigma <= least:
            return channel
        return _held(channel, denoise(channel, strength * sigma), sigma / 255)
    is_noisy = sigma > least
    if not is_noisy.any():
        return channel
    low, high = float(sigma[is_noisy].min()), float(sigma.max())
    levels = np.geomspace(low, high, 1 + int(np.ceil(np.log(high / low) / np.log(STEP))))
    place = np.interp(np.log(np.maximum(sigma, low)), np.log(levels), np.arange(len(levels)))
    result = np.zeros_like(channel)
    for number, level in enumerate(levels.tolist()):
        share = np.maximum(1 - np.abs(place - number), 0)
        if share.any():
            result += share * _at_level(denoise, channel, level, strength)
    return np.asarray(np.where(is_noisy, result, channel))


def _held(noisy: Array, denoised: Array, sigma: float) -> Array:
    """The denoised picture, with less taken away wherever the network has taken more than noise of this level.

    A network of few layers loses details that are far above the noise if there is little noise. In windows where the
    mean square m of what it takes is above c σ², which leaves room for chance, it takes the share c σ²/m, as Wiener's
    filter would if its own error explains the rest. At the levels for which networks are made, this changes little.
    """
    from scipy.ndimage import uniform_filter

    taken = noisy - denoised
    energy = np.maximum(uniform_filter(np.square(taken), WINDOW) / FLUCTUATION, sigma**2)
    return np.asarray(noisy - sigma**2 / energy * taken)


@dataclass
class FileReport:
    """What was found while the pictures of a file were denoised.

    Attributes
    ----------
    form
        The form of the first picture.
    sigmas
        The standard deviations of the noise of all channels of all pictures, for grey values from 0 to 255.
    """

    form: Form
    sigmas: list[float] = field(default_factory=list)


def denoise_file(
    denoiser: Denoiser,
    pictures: Pictures,
    out: str | os.PathLike[str],
    *,
    sigma: float | Array | None = None,
    camera: CameraNoise | None = None,
    shifts: int | None = None,
    overwrite: bool = False,
    progress: Callable[[int], None] = lambda number: None,
    seen: Callable[[Picture, Picture], None] = lambda noisy, denoised: None,
) -> FileReport:
    """Denoise all pictures of a file, and write them with the form that they have.

    Parameters
    ----------
    denoiser
        The network.
    pictures
        The pictures.
    out
        The file to write. Its name's ending says in which format.
    sigma, camera
        The noise, as in `denoise_picture`. A camera's numbers are those in the file.
    shifts
        As in `Denoiser.denoise`.
    overwrite
        Whether a file of this name is replaced.
    progress
        Called with the number of pictures done, from 0.
    seen
        Called with each picture, noisy and denoised.

    Raises
    ------
    FileError
        As `Pictures` and `write_pictures`; that the format does not suit is found before any work is done. With
        `camera`, if 0 is white in the file.
    InputError
        As `denoise_picture`; the message begins with the name of the file.
    """
    first = next(iter(pictures))
    check_format(out, first, pictures.count)
    report = FileReport(first.form)

    def denoised() -> Iterator[Picture]:
        for number, picture in enumerate(pictures):
            progress(number)
            form, unit = picture.form, 1.0 if camera is None else picture.form.brightest
            if camera is not None and form.white_is_zero:
                raise FileError(f"0 is white in {pictures.path}; expected numbers that grow with the light of a camera")
            try:
                found = denoise_picture(
                    denoiser, unit * picture.channels, sigma=sigma, camera=camera, colour=form.colour, shifts=shifts
                )
            except InputError as error:
                raise InputError(f"{pictures.path}: {error}", option=error.options) from error
            report.sigmas.extend(found.sigmas)
            result = replace(picture, channels=found.channels / unit)
            seen(picture, result)
            yield result

    write_pictures(out, denoised(), overwrite=overwrite)
    return report
