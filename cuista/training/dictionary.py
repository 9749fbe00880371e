"""Learn a convolutional dictionary from pictures, with a small batch of crops in each step.

Liu, Garcia-Cardona, Wohlberg, Yin, *First- and second-order methods for online convolutional dictionary learning*, SIAM
J. Imaging Sciences 2018: stochastic gradient descent on the filters, with the sparse codes computed anew in each step.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cuista import storage
from cuista.checks import Array
from cuista.counter import TRAINING, Key
from cuista.data.dictionary import Dictionary, normalize_filters, random_dictionary
from cuista.data.images import ImageSet
from cuista.errors import FileError, InputError
from cuista.ops import CpuOps
from cuista.parallel import blas_threads
from cuista.solvers.conv import ConvFista
from cuista.training.checkpoint import check_same_run, checkpoint_path, continued
from cuista.training.interruption import deferred_signals

CHECKPOINT = "cuista-dictionary-checkpoint"


@dataclass(frozen=True)
class LearningRecipe:
    """How a dictionary is learned.

    Attributes
    ----------
    lam
        λ in ½‖f − Σ d_m ⋆ x_m‖² + λ Σ‖x_m‖₁, for pictures f with values from 0 to 1.
    steps, batch, crop
        The number of steps, the crops per step, and the side of a crop in pixels.
    iterations
        How many iterations of FISTA compute the sparse codes of a step.
    slowing
        The number of steps after which the step length is halved: each step has slowing / (slowing + step) of the
        length that would be best for its own crops.
    """

    lam: float = 0.05
    steps: int = 300
    batch: int = 4
    crop: int = 96
    iterations: int = 60
    slowing: float = 50.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 < value < np.inf:
                raise InputError(f"{name} is {value}; expected a number greater than 0", option=name)


def learn_dictionary(
    images: ImageSet,
    shape: tuple[int, int],
    filters: int,
    recipe: LearningRecipe | None = None,
    *,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int, float], None] | None = None,
) -> Dictionary:
    """Learn filters of unit norm with which pictures, after removal of their means, have sparse codes.

    Each step computes the sparse codes x of a few random crops f with the current filters, by FISTA. It then moves the
    filters against the gradient g of ½ Σ‖f − Σ d_m ⋆ x_m‖² and projects them onto ‖d_m‖ ≤ 1. With the error
    e = Σ d_m ⋆ x_m − f, the gradient at tap q is Σ_p e(p) x_m(p + q). The objective is quadratic in the filters, so
    the best step length is known: ‖g‖² / ‖Σ g_m ⋆ x_m‖².

    Parameters
    ----------
    images
        The pictures to learn from, which must be at least as large as the recipe's crop.
    shape, filters
        The size (s₁, s₂) of the filters, and their number F.
    out, resume, overwrite
        As in `train`. A dictionary that is complete is not compared with the arguments.
    progress
        Called with the step, the number of steps, and the running mean of the objective per pixel.

    Raises
    ------
    FileError
        If `out` cannot be written, or its checkpoint belongs to another run.
    InputError
        If the size or number of filters is out of range.
    KeyboardInterrupt
        On SIGINT or SIGTERM, after the checkpoint was written.
    """
    recipe, ops = recipe or LearningRecipe(), CpuOps()
    if min(shape) < 1 or filters < 1 or max(shape) > recipe.crop:
        raise InputError(
            f"{filters} filters of {shape[0]}×{shape[1]} were asked for; expected at least one, no larger than the "
            f"{recipe.crop}×{recipe.crop} crops: give smaller filters or larger crops",
            option="crop",
        )
    run = {**vars(recipe), "size": list(shape), "filters": filters, "seed": seed, "images": images.sha256}
    D, first, objective = random_dictionary(shape, filters, seed=seed), 0, 0.0
    if out is not None:
        checkpoint, before = checkpoint_path(out), continued(out, resume, overwrite)
        if before is not None:
            if before != checkpoint:
                return Dictionary.load(before)
            D, first, objective = _load(checkpoint, run)
    saved = time.monotonic()
    with deferred_signals() as interrupted, blas_threads(0):
        for step in range(first, recipe.steps):
            crops = images.crops(Key(seed, TRAINING, step), recipe.batch, recipe.crop)
            crops -= crops.mean(axis=(1, 2), keepdims=True)
            gradient, curvature, value = _descent(Dictionary(D), crops, recipe, ops)
            length = float(np.square(gradient).sum()) / curvature if curvature else 0.0
            D = D - length * recipe.slowing / (recipe.slowing + step) * gradient
            D = D / np.maximum(np.linalg.norm(D, axis=(0, 1)), 1)
            objective = value if step == 0 else 0.95 * objective + 0.05 * value
            if progress:
                progress(step + 1, recipe.steps, objective)
            if out is not None and (interrupted() or time.monotonic() - saved > 30):
                arrays, attributes = {"D": D}, {"step": step + 1, "objective": objective, "run": json.dumps(run)}
                storage.write(checkpoint, storage.Record(CHECKPOINT, arrays, attributes), overwrite=True)
                saved = time.monotonic()
            if interrupted():
                raise KeyboardInterrupt
    learned = Dictionary(normalize_filters(D))
    if out is not None:
        learned.save(out, overwrite=overwrite or before is not None)
        checkpoint.unlink(missing_ok=True)
    return learned


def _descent(dictionary: Dictionary, crops: Array, recipe: LearningRecipe, ops: CpuOps) -> tuple[Array, float, float]:
    """The gradient g (s₁, s₂, F) summed over the crops, its curvature ‖Σ g_m ⋆ x_m‖², and the objective per pixel."""
    solver = ConvFista(dictionary, recipe.iterations, recipe.lam, ops=ops)

    def gradient_on(part: slice) -> tuple[Array, Array, float]:
        (f,) = crops[part]
        x, picture = deque(solver.iterates(f), maxlen=1).pop()
        error = picture - f
        rows, columns = f.shape
        shifted = [x[:, i : i + rows, j : j + columns].reshape(len(x), -1) for i, j in np.ndindex(dictionary.shape)]
        g = np.stack([maps @ error.ravel() for maps in shifted]).reshape(dictionary.D.shape)
        return x.copy(), g, 0.5 * float(np.vdot(error, error)) + recipe.lam * float(np.abs(x).sum())

    found = ops.in_batches(crops.shape, gradient_on, 1)
    gradient = np.asarray(np.sum([g for _, g, _ in found], axis=0, dtype=np.float64))
    moved = (ops.synthesize(x, gradient.astype(x.dtype)) for x, _, _ in found)
    curvature = float(sum(np.square(picture, dtype=np.float64).sum() for picture in moved))
    return gradient, curvature, sum(value for _, _, value in found) / crops.size


def _load(path: Path, run: dict[str, Any]) -> tuple[Array, int, float]:
    """The filters, the number of steps done, and the objective of an interrupted run."""
    record = storage.read(path, CHECKPOINT)
    try:
        check_same_run(path, json.loads(record.attributes["run"]), run)
        return record.arrays["D"], int(record.attributes["step"]), float(record.attributes["objective"])
    except (KeyError, TypeError, ValueError) as error:
        raise FileError(f"{path} is damaged: {error}; start afresh", option="overwrite") from error
