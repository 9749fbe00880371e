"""Denoising pictures of one's own: the convolutional networks beside FISTA and non-local means, all options at default.

    pip install '.[images]' scikit-image && python benchmarks/denoise.py FOLDER DICTIONARY [DICTIONARY …]

Two thirds of the pictures are for training, a sixth each for validation and test; σ = 20 of 255.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from common import save

from cuista.data.dictionary import Dictionary
from cuista.data.images import ImageSet, NoisyCrops, prepare_images, tuning_pairs
from cuista.denoiser import Denoiser
from cuista.metrics import evaluate_denoising
from cuista.solvers.conv import ConvFista, non_local_means
from cuista.training import choose_conv_ridge, train
from cuista.weights import solve_conv

SIGMA = 20.0
# Networks, whether untied, and the ridge of their weight; None for what suits the pictures.
NETS = [
    *(("conv-alista", False, None), ("conv-alista", False, 0.0), ("conv-tilista", False, None)),
    *(("conv-lista-cp", False, None), ("conv-lista-cp", True, None), ("conv-lista-cpss", True, None)),
]

folder, *dictionaries = sys.argv[1:]
images = Path(tempfile.mkdtemp()) / "images.h5"
counts = prepare_images(folder, images, split=(4000, 1000, 1000)).counts  # of fewer pictures, their shares
figures: dict[str, object] = {"sigma": SIGMA, "pictures": counts, "layers": 5}
pairs = tuning_pairs(images, SIGMA)

for name in dictionaries:
    dictionary = Dictionary.load(name)
    methods, learned = {}, {}
    for iterations in (5, 100):
        solver = ConvFista(dictionary, iterations)
        solver.tune(pairs)
        methods[f"fista {iterations}"] = solver.denoise
    means = non_local_means(SIGMA / 255)
    assert means is not None, "pip install scikit-image"
    methods["nl-means"] = means
    with NoisyCrops(images, 128, SIGMA) as crops:
        weights = {None: choose_conv_ridge(dictionary, crops), 0.0: solve_conv(dictionary)}
    for net, untied, ridge in NETS:
        denoiser = Denoiser.new(weights[ridge], net, sigma=SIGMA, untied=untied)
        with NoisyCrops(images, 128, SIGMA) as crops:
            train(denoiser, crops=crops)
        label = f"{net}{' untied' * untied}{' ridge 0' * (ridge is not None)}"
        methods[label] = lambda noisy, denoiser=denoiser: denoiser.denoise(noisy, mean=0.0)
        learned[label] = sum(value.size for value in denoiser.network.parameters.values())
    results = list(evaluate_denoising(methods, ImageSet(images, "test").pictures(), SIGMA))
    rows, columns, filters = dictionary.D.shape
    unit = float(np.square(dictionary.D).sum())
    figures[f"{rows}x{columns}x{filters}"] = {
        "ridge found, of the squared filters": round(weights[None].report.ridge / unit, 3),
        **{
            method: {
                "psnr_db": float(np.mean([result.psnr_db[method] for result in results])),
                "ssim": float(np.mean([result.ssim[method] for result in results])),
                "learned": learned.get(method, 0),
            }
            for method in results[0].psnr_db
        },
    }
    save("denoise", figures)
