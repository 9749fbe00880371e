"""Denoise your own pictures: compare the convolutional networks with FISTA and non-local means.

    pip install '.[images]' scikit-image && python benchmarks/denoise.py FOLDER DICTIONARY [DICTIONARY …]

Two thirds of the pictures are for training, and a sixth each for validation and test. The noise has σ = 20 on the scale
of 0 to 255. All options have their defaults.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from common import save

from cuista import choose_conv_ridge, train
from cuista.data.dictionary import Dictionary
from cuista.data.images import prepare_images
from cuista.tasks.denoising import Denoiser, Denoising, evaluate_denoisers
from cuista.weights import solve_conv

SIGMA = 20.0
# The networks, whether each is untied, and the ridge of its weight, which is found on the pictures if None.
NETS = [
    *(("conv-alista", False, None), ("conv-alista", False, 0.0), ("conv-tilista", False, None)),
    *(("conv-lista-cp", False, None), ("conv-lista-cp", True, None), ("conv-lista-cpss", True, None)),
]

folder, *dictionaries = sys.argv[1:]
images = Path(tempfile.mkdtemp()) / "images.h5"
counts = prepare_images(folder, images, split=(4000, 1000, 1000)).counts  # with fewer pictures, these are shares
figures: dict[str, object] = {"sigma": SIGMA, "pictures": counts, "layers": 5}

for name in dictionaries:
    dictionary, task = Dictionary.load(name), Denoising(images)
    weights = {None: choose_conv_ridge(dictionary, task, sigma=SIGMA), 0.0: solve_conv(dictionary)}
    denoisers = {}
    for net, untied, ridge in NETS:
        denoiser = Denoiser.new(weights[ridge], net, sigma=SIGMA, untied=untied)
        denoisers[f"{net}{' untied' * untied}{' ridge 0' * (ridge is not None)}"] = train(denoiser, task=task)
    report = evaluate_denoisers(denoisers, images, baselines=True)
    assert "nl-means" in report.methods, "pip install scikit-image"
    learned = {
        label: sum(value.size for value in denoiser.network.parameters.values())
        for label, denoiser in denoisers.items()
    }
    means = zip(report.methods, report.psnr_db.mean(axis=0), report.ssim.mean(axis=0), strict=True)
    rows, columns, filters = dictionary.D.shape
    unit = float(np.square(dictionary.D).sum())
    figures[f"{rows}x{columns}x{filters}"] = {
        "ridge found, of the squared filters": round(weights[None].report.ridge / unit, 3),
        **{
            method: {"psnr_db": float(psnr), "ssim": float(ssim), "learned": learned.get(method, 0)}
            for method, psnr, ssim in means
        },
    }
save("denoise", figures)
