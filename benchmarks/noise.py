"""Use a denoiser on noise that it was not trained for: other levels, colours, maps of levels, and cameras.

    pip install '.[images]' && python benchmarks/noise.py MODEL GREY_FOLDER COLOUR_FOLDER

Of colour pictures, corners of 256×256 pixels of the first 12 are taken, and for maps and cameras those of the first 7
grey ones.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from common import save

from cuista import CameraNoise, Denoiser, denoise_picture
from cuista.checks import Array
from cuista.data.images import files_in
from cuista.data.pictures import read_picture
from cuista.metrics import psnr_db

LEVELS = (2.0, 5.0, 15.0, 25.0, 50.0)
COLOURS = (15.0, 25.0, 50.0)
# The electrons at white, and the read noise in electrons.
CAMERAS = ((10, 1), (30, 3), (100, 3), (1000, 5))

model, *folders = sys.argv[1:]
denoiser = Denoiser.load(model)
grey, colour = ([read_picture(path).channels for path in files_in(Path(folder))] for folder in folders)
corners = [channels[:, :256, :256] for channels in grey[:7]]
Method = Callable[[Array], Array]


def means(
    pictures: list[Array], noisy: Callable[[Array, np.random.Generator], Array], **methods: Method
) -> dict[str, float]:
    """The mean PSNR of each method, and of doing nothing."""

    def measured() -> Iterator[list[float]]:
        for seed, clean in enumerate(pictures):
            picture = noisy(clean, np.random.default_rng(seed))
            yield [psnr_db(method(picture), clean) for method in (lambda found: found, *methods.values())]

    found = dict(zip(["noisy", *methods], np.mean(list(measured()), axis=0).round(3).tolist(), strict=True))
    print(found, flush=True)
    return found


def denoised(**noise: object) -> Method:
    """The method that denoises with what is said about the noise."""
    return lambda picture: denoise_picture(denoiser, picture, **noise).channels  # type: ignore[arg-type]


def gaussian(sigma: float | Array) -> Callable[[Array, np.random.Generator], Array]:
    return lambda clean, rng: clean + sigma / 255 * rng.standard_normal(clean.shape)


figures: dict[str, object] = {"network": denoiser.network.title, "trained for σ": denoiser.sigma}
figures["levels"] = {
    f"{sigma:g}": means(
        grey,
        gaussian(sigma),
        **{"as it is": lambda picture: denoiser.denoise(picture[0])[None]},
        **{"scaled, σ given": denoised(sigma=sigma), "scaled, σ estimated": denoised()},
    )
    for sigma in LEVELS
}
figures["colours"] = {
    f"{sigma:g}": means(
        [channels[:, :256, :256] for channels in colour[:12]],
        gaussian(sigma),
        **{"one by one": denoised(sigma=sigma, colour=False), "together": denoised(sigma=sigma)},
        **{"together, σ estimated": denoised()},
    )
    for sigma in COLOURS
}
ramp = np.tile(np.linspace(10, 50, 256), (256, 1))
step = np.where(np.arange(256) < 128, 10.0, 40.0) * np.ones((256, 1))
figures["maps"] = {
    name: means(
        corners,
        gaussian(level),
        **{"one level": denoised(sigma=float(np.sqrt(np.square(level).mean()))), "map": denoised(sigma=level)},
        divided=lambda picture, level=level: denoised(sigma=1.0)(picture / level) * level,
    )
    for name, level in (("10 to 50, left to right", ramp), ("10 left, 40 right", step))
}


def camera(peak: float, read_noise: float) -> dict[str, float]:
    def numbers(clean: Array, rng: np.random.Generator) -> Array:
        return (rng.poisson(peak * clean) + read_noise * rng.standard_normal(clean.shape)) / peak

    return means(corners, numbers, camera=denoised(camera=CameraNoise(peak, read_noise)), estimated=denoised())


figures["cameras"] = {f"{peak} electrons, read noise {noise}": camera(peak, noise) for peak, noise in CAMERAS}
save("noise", figures)
