"""Learn a dictionary, with a small batch in each step: filters from crops of pictures, or atoms from patches.

Filters: Liu, Garcia-Cardona, Wohlberg, Yin, *First- and second-order methods for online convolutional dictionary
learning*, SIAM J. Imaging Sciences 2018; stochastic gradient descent, with the sparse codes computed anew in each step.
Atoms: Mairal, Bach, Ponce, Sapiro, *Online learning for matrix factorization and sparse coding*, J. Machine Learning
Research 2010.
"""

from __future__ import annotations

import json
import os
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cuista import storage
from cuista.checks import LARGEST, Array
from cuista.counter import NOISE, PREPARING, TRAINING, Key
from cuista.data.dictionary import Dictionary, cosine_dictionary, normalize_filters, random_dictionary, rotate
from cuista.data.images import ImageSet, PatchSet
from cuista.errors import FileError, InputError
from cuista.messages import showing
from cuista.operators import Dense
from cuista.operators.convolution import check_stride
from cuista.ops import ReferenceOps, engine
from cuista.ops.borders import pad_zeros
from cuista.parallel import one_blas_thread
from cuista.solvers.conv import ConvFista
from cuista.solvers.proximal import proximal_gradient
from cuista.training.checkpoint import check_replaceable, check_same_run, checkpoint_path, continued, replaced_by
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
        _check_positive(self)


@dataclass(frozen=True)
class AtomRecipe:
    """How the atoms of patches are learned.

    Attributes
    ----------
    lam
        λ in ½‖f − D x‖² + λ‖x‖₁, for patches f with values from 0 to 1.
    steps, batch
        The number of steps, and the patches per step.
    iterations
        How many iterations of FISTA compute the sparse codes of a step.
    """

    lam: float = 0.1
    steps: int = 400
    batch: int = 256
    iterations: int = 60

    def __post_init__(self) -> None:
        _check_positive(self)


def _check_positive(recipe: LearningRecipe | AtomRecipe) -> None:
    for name, value in vars(recipe).items():
        if not 0 < value <= LARGEST:
            raise InputError(f"{name} is {value}; expected a number greater than 0, up to {LARGEST:g}", option=name)


def learn_dictionary(
    images: ImageSet,
    shape: tuple[int, int],
    filters: int,
    recipe: LearningRecipe | None = None,
    *,
    stride: int = 1,
    **options: Any,
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
    stride
        The stride of the maps. With a stride, learning starts from cosines, otherwise from random filters.
    options
        As in `learn_atoms`, from `seed` on.

    Raises
    ------
    FileError, KeyboardInterrupt
        As `learn_atoms`.
    InputError
        If the size or number of filters, or the stride, is out of range.
    """
    recipe, stride = recipe or LearningRecipe(), check_stride(stride, shape)
    if min(shape) < 1 or filters < 1 or max(shape) > recipe.crop:
        raise InputError(
            f"{filters} filters of {shape[0]}×{shape[1]} were asked for; expected at least one, no larger than the "
            f"{recipe.crop}×{recipe.crop} crops: give smaller filters or larger crops",
            option="crop",
        )
    run: dict[str, Any] = {"size": list(shape), "filters": filters, "images": images.sha256}
    run |= {} if stride == 1 else {"stride": stride}
    return _learn(_Filters(images, shape, filters, recipe, stride), run, **options)


def learn_atoms(
    patches: PatchSet,
    atoms: int,
    recipe: AtomRecipe | None = None,
    *,
    constant: bool = False,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int, float], None] | bool | None = None,
) -> Dictionary:
    """Learn atoms of unit norm with which patches, after removal of their means, have sparse codes.

    This is online dictionary learning (Mairal and others, 2010). Each step computes the sparse codes x of a batch of
    random patches f by FISTA, and adds them to the statistics Σ x xᵀ and Σ f xᵀ, in which older steps fade. The atoms
    are then updated one after the other, each to the minimizer for these statistics, and projected onto ‖d_i‖ ≤ 1. An
    atom that no patch uses is replaced by the patch that the dictionary represents worst.

    Parameters
    ----------
    patches
        The patches to learn from.
    atoms
        The number of atoms.
    constant
        Whether the first atom is constant, and the others are learned. Compressive sensing keeps the means of blocks by
        itself, but as the filters of a convolutional network, atoms have to synthesise them too.
    seed
        The seed of the random numbers.
    out, resume, overwrite
        As in `train`.
    progress
        Called with the step, the number of steps, and the running mean of the objective per pixel; or True, as in
        `train`.

    Raises
    ------
    FileError
        If `out` cannot be written, or its checkpoint belongs to another run.
    InputError
        If the number of atoms to learn is less than 1.
    KeyboardInterrupt
        On SIGINT or SIGTERM, after the checkpoint was written.
    """
    if atoms < 1 + constant:
        raise InputError(f"the number of atoms is {atoms}; expected {1 + constant} or more", option="atoms")
    how: dict[str, Any] = {"seed": seed, "out": out, "resume": resume, "overwrite": overwrite, "progress": progress}
    learner = _Atoms(patches, atoms - constant, recipe or AtomRecipe(), constant)
    run = {"atoms": atoms, "patches": patches.sha256, **({"constant": True} if constant else {})}
    return _learn(learner, run, **how)


class _Learner(ABC):
    """What is learned step by step. Its state is a few arrays."""

    recipe: Any

    @abstractmethod
    def begin(self, seed: int) -> dict[str, Array]:
        """The state before the first step, in which D are the filters or atoms."""

    @abstractmethod
    def step(self, state: dict[str, Array], key: Key) -> float:
        """Make a step, in place, and return the objective per pixel before it."""

    @abstractmethod
    def result(self, D: Array) -> Dictionary:
        """The dictionary that was learned."""


def _learn(
    learner: _Learner,
    what: dict[str, Any],
    *,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int, float], None] | bool | None = None,
) -> Dictionary:
    """Make all steps of a learner, with checkpoints; `what` identifies the run, together with recipe and seed."""
    run, steps = {**vars(learner.recipe), **what, "seed": seed}, learner.recipe.steps
    shown = showing(progress, lambda step, last, value: (step / last, f"step {step}/{last}, objective {value:.4g}"))
    with storage.claimed(out), shown as tell:
        state, first, objective = learner.begin(seed), 0, 0.0
        replaces = None
        if out is not None:
            checkpoint, before = checkpoint_path(out), continued(out, resume, overwrite)
            if before is None:
                replaces = storage.identity_of(out)
            elif before != checkpoint:
                return _finished(before, run)
            else:
                replaces = replaced_by(checkpoint)
                state, first, objective = _load(checkpoint, run, state)

        def save(step: int) -> None:
            attributes = {"step": step, "objective": objective}
            named = {"run": json.dumps(run), "replaces": json.dumps(replaces)}
            storage.write(checkpoint, storage.Record(CHECKPOINT, state, {**attributes, **named}), overwrite=True)

        saved = time.monotonic()
        with deferred_signals() as interrupted, one_blas_thread():
            for step in range(first, steps):
                value = learner.step(state, Key(seed, TRAINING, step))
                objective = value if step == 0 else 0.95 * objective + 0.05 * value
                if tell:
                    tell(step + 1, steps, objective)
                if out is not None and (interrupted() or time.monotonic() - saved > 30):
                    save(step + 1)
                    saved = time.monotonic()
                if interrupted():
                    raise KeyboardInterrupt
        learned = learner.result(state["D"])
        if out is not None:
            try:
                check_replaceable(out, replaces)
            except FileError:
                save(steps)  # so that nothing is lost
                raise
            record = storage.Record("cuista-dictionary", attributes={"run": json.dumps(run)})
            learned.store(record)
            storage.write(out, record, overwrite=replaces is not None)
            storage.remove(checkpoint)
    return learned


class _Filters(_Learner):
    """The filters D (s₁, s₂, F) of a convolutional dictionary."""

    def __init__(
        self, images: ImageSet, shape: tuple[int, int], filters: int, recipe: LearningRecipe, stride: int
    ) -> None:
        self.images, self.shape, self.filters, self.recipe, self.ops = images, shape, filters, recipe, engine("cpu")
        self.stride = stride

    def begin(self, seed: int) -> dict[str, Array]:
        if self.stride > 1:
            return {"D": cosine_dictionary(self.shape, self.filters)}
        return {"D": random_dictionary(self.shape, self.filters, seed=seed)}

    def step(self, state: dict[str, Array], key: Key) -> float:
        recipe, D = self.recipe, state["D"]
        crops = self.images.crops(key, recipe.batch, recipe.crop)
        crops -= crops.mean(axis=(1, 2), keepdims=True)
        gradient, curvature, value = _descent(Dictionary(D), crops, recipe, self.ops, self.stride)
        length = float(np.square(gradient).sum()) / curvature if curvature else 0.0
        D = D - length * recipe.slowing / (recipe.slowing + key.step) * gradient
        state["D"] = D / np.maximum(np.linalg.norm(D, axis=(0, 1)), 1)
        return value

    def result(self, D: Array) -> Dictionary:
        return Dictionary(normalize_filters(D))


class _Atoms(_Learner):
    """The atoms D (P, N) of patches, with the statistics Σ x xᵀ (N, N) and Σ f xᵀ (P, N)."""

    # The number of patches whose codes are computed at a time.
    AT_A_TIME = 64

    def __init__(self, patches: PatchSet, atoms: int, recipe: AtomRecipe, constant: bool = False) -> None:
        self.patches, self.atoms, self.recipe, self.constant, self.ops = patches, atoms, recipe, constant, engine("cpu")

    def begin(self, seed: int) -> dict[str, Array]:
        """Random patches as atoms, and noise in place of patches of a single colour."""
        key = Key(seed, PREPARING)
        drawn = self._draw(key, self.atoms)
        flat = np.square(drawn).sum(axis=1) < 1e-6
        drawn[flat] = self.ops.normal(key, NOISE, drawn.shape, np.float32)[flat]
        D = np.ascontiguousarray(normalize_filters(drawn.T[None])[0])
        return {"D": D, "xx": np.zeros((self.atoms, self.atoms)), "fx": np.zeros_like(D)}

    def _draw(self, key: Key, batch: int) -> Array:
        """Random patches (batch, P) after removal of their means."""
        f: Array = self.patches.draw(key, batch)
        f -= f.mean(axis=1, keepdims=True)
        return f

    def step(self, state: dict[str, Array], key: Key) -> float:
        recipe, (D, xx, fx) = self.recipe, (state[name] for name in ("D", "xx", "fx"))
        f = self._draw(key, recipe.batch)
        operator = Dense(D, ops=self.ops)

        def codes(part: slice) -> Array:
            found = proximal_gradient(operator, f[part], recipe.lam, recipe.iterations, momentum=True)
            return np.array(deque(found, maxlen=1).pop()[0])

        x: Array = np.concatenate(self.ops.in_batches(f.shape, codes, self.AT_A_TIME))
        error = f - x @ operator.A.T.astype(np.float32)
        fading = (key.step / (key.step + 1)) ** 2
        for statistics, sums in ((xx, x.T @ x), (fx, f.T @ x)):
            statistics *= fading
            statistics += sums
        used = np.diagonal(xx) > 1e-6 * np.diagonal(xx).max()
        for i in np.flatnonzero(used):
            d = D[:, i] + (fx[:, i] - D @ xx[:, i]) / xx[i, i]
            D[:, i] = d / max(np.linalg.norm(d), 1)
        worst = np.argsort(-np.square(error).sum(axis=1), kind="stable")
        for i, patch in zip(np.flatnonzero(~used), worst[error[worst].any(axis=1)], strict=False):
            D[:, i] = f[patch] / np.linalg.norm(f[patch])
            xx[i], xx[:, i], fx[:, i] = 0, 0, 0
        objective = 0.5 * float(np.square(error).sum()) + recipe.lam * float(np.abs(x).sum())
        return float(objective / f.size)

    def result(self, D: Array) -> Dictionary:
        if self.constant:
            D = np.concatenate([np.ones((len(D), 1)), D], axis=1)
        return Dictionary.from_atoms(normalize_filters(D[None])[0], self.patches.shape)


def _descent(
    dictionary: Dictionary, crops: Array, recipe: LearningRecipe, ops: ReferenceOps, stride: int = 1
) -> tuple[Array, float, float]:
    """The gradient g (s₁, s₂, F) summed over the crops, its curvature ‖Σ g_m ⋆ x_m‖², and the objective per pixel."""
    solver = ConvFista(dictionary, recipe.iterations, recipe.lam, stride=stride, ops=ops)
    shape = dictionary.shape

    def gradient_on(part: slice) -> tuple[Array, Array, float]:
        (f,) = crops[part]
        x, picture = deque(solver.iterates(f), maxlen=1).pop()
        error = picture - f
        if stride > 1:  # see `ReferenceOps.conv_layer_backward`
            copies = ops.taps(pad_zeros(np, error, shape), shape, stride)
            g = rotate((copies @ x.reshape(len(x), -1).T).reshape(dictionary.D.shape))
        else:
            rows, columns = f.shape
            shifted = [x[:, i : i + rows, j : j + columns].reshape(len(x), -1) for i, j in np.ndindex(shape)]
            g = np.stack([maps @ error.ravel() for maps in shifted]).reshape(dictionary.D.shape)
        return x.copy(), g, 0.5 * float(np.vdot(error, error)) + recipe.lam * float(np.abs(x).sum())

    found = ops.in_batches(crops.shape, gradient_on, 1)
    gradient = np.asarray(np.sum([g for _, g, _ in found], axis=0, dtype=np.float64))
    size = crops.shape[1], crops.shape[2]
    moved = (ops.synthesize(x, gradient.astype(x.dtype), stride, size) for x, _, _ in found)
    curvature = float(sum(np.square(picture, dtype=np.float64).sum() for picture in moved))
    return gradient, curvature, sum(value for _, _, value in found) / crops.size


def _finished(path: Path, run: dict[str, Any]) -> Dictionary:
    """The dictionary that a finished run has learned; `run` identifies the run."""
    record = storage.read(path, "cuista-dictionary")
    with storage.complete(path):
        check_same_run(path, json.loads(record.attributes.get("run", "{}")), run)
    return Dictionary.from_record(record, path)


def _load(path: Path, run: dict[str, Any], first: dict[str, Array]) -> tuple[dict[str, Array], int, float]:
    """The state, the number of steps done, and the objective of an interrupted run, whose first state was `first`."""
    record = storage.read(path, CHECKPOINT)
    with storage.complete(path, "start afresh", "overwrite"):
        check_same_run(path, json.loads(record.attributes["run"]), run)
        state, step = record.arrays, int(record.attributes["step"])
        if {name: array.shape for name, array in state.items()} != {name: array.shape for name, array in first.items()}:
            raise ValueError("its arrays are not those of such a run")
        if not 0 <= step <= run["steps"]:
            raise ValueError(f"it is at step {step} of {run['steps']}")
        return state, step, float(record.attributes["objective"])
