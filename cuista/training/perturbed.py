"""Where training under perturbation has its examples from."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from cuista.checks import Array
from cuista.counter import MORE_NOISE, Key
from cuista.data.perturbed import check_normalized, perturb, random_levels
from cuista.data.problem import Problem
from cuista.metrics import nmse_db
from cuista.networks import Encoder, RobustAlista
from cuista.networks.encoder import transposed
from cuista.ops import ReferenceOps
from cuista.training.recipes import RobustRecipe, Stage
from cuista.training.signals import Examples


class _Perturbed:
    """What the sources have in common: matrices perturbed as the stage says."""

    weight_power = 1.0
    measure = "NMSE"

    def __init__(self, problem: Problem) -> None:
        check_normalized(problem)
        self.problem, self.sigma = problem, 0.0
        self._nominal: Array | None = None

    def enter(self, stage: Stage) -> bool:
        """Perturb by the stage's σ from now on."""
        changed = stage.sigma != self.sigma
        self.sigma = stage.sigma
        return changed

    def matrices(self, ops: ReferenceOps, dtype: DTypeLike, levels: Array, key: Key) -> Array:
        """Perturbed matrices (n, M, N)."""
        if self._nominal is None:
            self._nominal = ops.asarray(self.problem.A, dtype)
        return perturb(self._nominal, key, levels, ops)

    def blank(self) -> str:
        """What to say if the examples are zero throughout."""
        return (
            f"pnz is {self.problem.sparsity:g}, so that whole sets of signals are zero: expected a few non-zeros. "
            "Give a larger --pnz, or a larger --batch"
        )

    def fuse(self, network: object) -> None:
        """No kernel has all of a step on these."""


class MatrixSource(_Perturbed):
    """Matrices alone, for an encoder: they are what it is given, and all that it is judged by."""

    measure = "loss"

    def sample(self, ops: ReferenceOps, dtype: DTypeLike, batch: int, key: Key, validate: bool = False) -> Examples:
        """Matrices Ã (batch, M, N), twice."""
        matrices = self.matrices(ops, dtype, np.full(batch, self.sigma), key)
        return matrices, matrices, None

    def nmse_db(self, network: Encoder, validation: Examples, depth: int) -> float:
        """The encoder's loss in dB, relative to that of W = Ã."""
        A, ops = validation[1], network.ops

        def losses(part: slice) -> tuple[float, float]:
            W = network.output(A[part], depth)
            found, at_first = (float(network.losses(A[part], weight)[0].sum()) for weight in (W, A[part]))
            return found, at_first

        found, at_first = np.sum(ops.in_batches(A.shape, losses, ops.at_a_time), axis=0)
        return float(10 * np.log10(found / at_first))


class PairSource(_Perturbed):
    """Signals that several perturbed matrices measure, for an encoder with its decoder.

    Measurements have noise of the problem's SNR, and of standard deviation `msigma`.
    """

    def __init__(self, problem: Problem, recipe: RobustRecipe) -> None:
        super().__init__(problem)
        self.recipe = recipe
        noiseless = problem.snr_db == np.inf and not recipe.msigma
        self.weight_power = recipe.weight_power if noiseless else 1.0

    def sample(self, ops: ReferenceOps, dtype: DTypeLike, batch: int, key: Key, validate: bool = False) -> Examples:
        """Signals (samples, N); matrices (n, M, N) with what each measured, (n, samples, M); the signals' weights."""
        recipe, M = self.recipe, self.problem.M
        samples = recipe.validation_batch if validate else recipe.batch
        count = recipe.validation_matrices if validate else recipe.matrices
        A = self.matrices(ops, dtype, random_levels(key, self.sigma, count, ops), key)
        where: Any = {"stream": key.stream, "step": key.step, "seed": key.seed, "dtype": dtype, "ops": ops}
        weights = None
        if recipe.hard:
            x, _, weights = self.problem.sample_weighted(samples, recipe.hard, **where)
        else:
            x, _ = self.problem.sample(samples, **where)
        clean = ops.matmul(x, transposed(ops.xp, A)).reshape(-1, M)
        y = self.problem.add_noise(clean, key, ops)
        if recipe.msigma:
            y = y + y.dtype.type(recipe.msigma) * ops.normal(key, MORE_NOISE, (len(y), M), y.dtype)
        return x, (A, y.reshape(count, samples, M)), weights

    def nmse_db(self, network: RobustAlista, validation: Examples, depth: int) -> float:
        """The NMSE in dB over all matrices and signals."""
        x, (A, y), weights = validation
        ops = network.ops

        def error(part: slice) -> float:
            pairs: Any = (A[part], y[part])
            estimate = network.output(pairs, depth)
            return float(network.loss((estimate,), x, weights)[0])

        energy = float(ops.half_squared_error(ops.xp.zeros_like(x), x, weights)[0])
        with np.errstate(divide="ignore"):
            return float(10 * np.log10(sum(ops.in_batches(A.shape, error, ops.at_a_time)) / (len(A) * energy)))


class AugmentedSource(PairSource):
    """The same for a decoder alone, which is not told the matrices."""

    def sample(self, ops: ReferenceOps, dtype: DTypeLike, batch: int, key: Key, validate: bool = False) -> Examples:
        """Signals (n·samples, N) and measurements (n·samples, M), of one matrix after the other, and weights."""
        x, (_, y), weights = super().sample(ops, dtype, batch, key, validate)
        count, _, M = y.shape
        tile = ops.xp.tile
        return tile(x, (count, 1)), y.reshape(-1, M), None if weights is None else tile(weights, count)

    def nmse_db(self, network: Any, validation: Examples, depth: int) -> float:
        """The NMSE in dB over all measurements."""
        x, y, weights = validation
        return nmse_db(network, x, y, depth, weights)
