"""Which ridge a noise-aware weight should have, found by trying."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cuista.data.dictionary import Dictionary
from cuista.data.images import NoisyCrops
from cuista.data.problem import Problem
from cuista.denoiser import Denoiser
from cuista.model import Model
from cuista.networks import NETWORKS
from cuista.ops import ReferenceOps
from cuista.training.recipes import FastRecipe
from cuista.training.trainer import train
from cuista.weights import ConvWeight, Weight, solve_conv, solve_exact

RIDGES = (0.0, 0.1, 0.4, 1.0, 3.0, 10.0)
# Those of a convolutional weight, in units of the mean eigenvalue of H, which is Σ‖d_m‖².
CONV_RIDGES = (0.0, 0.3, 1.0, 3.0, 10.0, 30.0)


def choose_ridge(
    problem: Problem,
    net: str = "alista",
    *,
    layers: int = 16,
    percent: float | None = None,
    max_percent: float | None = None,
    untied: bool = False,
    seed: int = 0,
    ops: ReferenceOps | None = None,
    progress: Callable[[float, float], None] | None = None,
) -> Weight:
    """The exact weight with the ridge λ that serves the problem's SNR and sparsity best.

    Of λ = 0, 0.1, 0.4, 1, 3, 10 it is the one whose weight has the least validation NMSE after a short fit (the fast
    recipe with 10 steps a layer and no joint stages), all on the same signals.

    Parameters
    ----------
    problem, net, layers, percent, max_percent, untied, ops
        As for `Model.new`. For a network that has no gradients the weight is that of ALISTA.
    progress
        Called with (λ, validation NMSE in dB) for each.
    """
    recipe = FastRecipe(layer_steps=10, max_steps=0, matrix_steps=0, validation_batch=2000)
    net = net if NETWORKS[net].has_gradients else "alista"
    schedule: dict[str, Any] = {"layers": layers, "percent": percent, "max_percent": max_percent}
    fits = []
    for ridge in RIDGES:
        weight = solve_exact(problem.A, ridge=ridge)
        model = Model.new(problem, weight, net, **schedule, untied=untied, ops=ops)
        nmse = train(model, recipe, seed=seed).training["validation_nmse_db"]
        if progress:
            progress(ridge, nmse)
        fits.append((nmse, ridge, weight))
    return min(fits, key=lambda fit: fit[:2])[2]


def choose_conv_ridge(
    dictionary: Dictionary,
    crops: NoisyCrops,
    *,
    layers: int = 5,
    seed: int = 0,
    ops: ReferenceOps | None = None,
    progress: Callable[[float, float], None] | None = None,
) -> ConvWeight:
    """The exact weight of a dictionary with the ridge λ that serves the denoising of such crops best.

    Of λ = 0, 0.3, 1, 3, 10 and 30 times Σ‖d_m‖² it is the one whose Conv-ALISTA has the least validation NMSE after 40
    steps of the fast recipe, all on the same crops.

    Parameters
    ----------
    crops
        Of pictures, with the noise that the weight is for.
    progress
        Called with (λ, validation NMSE in dB) for each.
    """
    recipe = FastRecipe.for_pictures(max_steps=40)
    unit = float(np.square(dictionary.D).sum())
    fits = []
    for share in CONV_RIDGES:
        weight = solve_conv(dictionary, ridge=share * unit)
        denoiser = Denoiser.new(weight, sigma=crops.sigma, layers=layers, ops=ops)
        nmse = train(denoiser, recipe, crops=crops, seed=seed).training["validation_nmse_db"]
        if progress:
            progress(weight.report.ridge, nmse)
        fits.append((nmse, share, weight))
    return min(fits, key=lambda fit: fit[:2])[2]
