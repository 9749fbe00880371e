"""Removing the seams between blocks that were recovered one by one, with a linear map that is computed, not learned.

A block is corrected by what lies around it. The map is the linear estimate of the block's error with the least mean
squared error (Wiener), by ridge regression on pictures. No further measurements are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from cuista.checks import Array
from cuista.data.sensing import Sensing
from cuista.metrics import decibels
from cuista.solvers.tuning import tune

# How far a window reaches beyond its block, in pixels.
MARGIN = 4
# The ridges that are tried, in units of the mean eigenvalue of the windows' second moments.
RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)

Pairs = Iterable[tuple[Array, Array]]


def window_size(sensing: Sensing) -> tuple[int, int]:
    """The size of a window in pixels."""
    s1, s2 = sensing.block
    return s1 + 2 * MARGIN, s2 + 2 * MARGIN


def windows(sensing: Sensing, picture: Array) -> Array:
    """The blocks (n, W) of a picture with all that is up to `MARGIN` pixels away, without the means of these windows.

    Beyond its borders, the picture is continued with the values of its last row and column.
    """
    (n1, n2), (s1, s2) = sensing.grid(picture.shape), sensing.block
    (H, W), size = picture.shape, window_size(sensing)
    padded = np.pad(picture, ((MARGIN, n1 * s1 - H + MARGIN), (MARGIN, n2 * s2 - W + MARGIN)), mode="edge")
    around = np.lib.stride_tricks.sliding_window_view(padded, size)[::s1, ::s2].reshape(n1 * n2, -1)
    return np.asarray(around - around.mean(axis=1, keepdims=True))


def deblocked(sensing: Sensing, B: Array, picture: Array) -> Array:
    """The picture (H, W) with each block corrected by Bᵀw from its window w, with a map B (W, P)."""
    corrected = sensing.blocks(picture) + windows(sensing, picture) @ B
    return sensing.picture(corrected, picture.shape)


def fit_deblocking(
    sensing: Sensing, training: Pairs, validation: Pairs, each: Callable[[], None] = lambda: None
) -> tuple[Array, float]:
    """The map B (W, P) for `deblocked`, and by how many dB it reduces the error of the pictures for validation.

    Parameters
    ----------
    training, validation
        Pairs of a recovered picture and the original. The ridge is the one with the least error for validation. If the
        error does not fall, the map is 0.
    each
        Called after each picture.
    """

    def moments(pairs: Pairs) -> tuple[Array, Array, float]:
        """Σ w ⊗ w, Σ w ⊗ e and Σ ‖e‖² over the windows w and the errors e of all blocks."""
        G, H, energy = 0.0, 0.0, 0.0
        for recovered, original in pairs:
            w, e = windows(sensing, recovered), sensing.blocks(original) - sensing.blocks(recovered)
            G, H, energy = G + w.T @ w, H + w.T @ e, energy + float(np.square(e).sum())
            each()
        return np.asarray(G), np.asarray(H), energy

    (G, H, _), (G_val, H_val, before) = moments(training), moments(validation)
    scales, U = np.linalg.eigh(G)
    projected, unit = U.T @ H, float(np.trace(G)) / len(G)

    def map_for(ridge: float) -> Array:
        return np.asarray(U @ (projected / (np.maximum(scales, 0) + ridge * unit)[:, None]))

    def error(ridge: float) -> float:
        # Σ ‖e − Bᵀw‖² over the validation pictures
        B = map_for(ridge)
        return before - 2 * float(np.vdot(B, H_val)) + float(np.vdot(B, G_val @ B))

    if not (unit > 0 and before > 0):
        return np.zeros_like(H), 0.0
    ridge, least = tune(error, RIDGES)
    if least >= before:
        return np.zeros_like(H), 0.0
    return map_for(ridge), float(decibels(before, least))
