"""Robust recovery: signals are recovered although the measurement matrix is perturbed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from cuista.checks import Array, check_matrix, in_double
from cuista.counter import MORE_NOISE, Key
from cuista.data.perturbed import check_normalized, random_levels
from cuista.data.problem import Problem
from cuista.errors import InputError
from cuista.messages import say
from cuista.metrics import decibels, nmse_db
from cuista.model import Trained, parameters_sha256
from cuista.networks import Encoder, ExactEncoder, Network, RobustAlista
from cuista.networks.encoder import transposed
from cuista.ops import ReferenceOps
from cuista.storage import Record, remove
from cuista.tasks.encoder import EncoderModel, PerturbedSource, encoder_options, store_encoder
from cuista.tasks.sparse_coding import Model, made_for
from cuista.training import FastRecipe, Progress, checkpoint_path, train
from cuista.training.checkpoint import continued, load_continued
from cuista.training.recipes import Stage, check_positive, perturbed_stage
from cuista.training.task import Examples, Source, Task
from cuista.weights import Weight
from cuista.weights.dense import describe


@dataclass(repr=False)
class RobustModel(Trained):
    """An ALISTA whose weight an encoder computes for each matrix, and how the two were trained.

    Attributes
    ----------
    problem
        The problem with the nominal matrix and the distribution of the signals.
    origin
        The hashes of the parameters with which the decoder and the encoder began.
    """

    kind: ClassVar[str] = "cuista-robust"

    network: RobustAlista
    problem: Problem
    origin: dict[str, str]

    @classmethod
    def new(
        cls,
        decoder: Model,
        encoder: EncoderModel | None = None,
        *,
        ridge: float | None = None,
        ops: ReferenceOps | None = None,
        dtype: Any = None,
    ) -> RobustModel:
        """Combine an ALISTA with an encoder, which is either trained or exact.

        Parameters
        ----------
        decoder, encoder
            The trained ALISTA, and a trained encoder; without one, the exact encoder is used.
        ridge
            The initial value of the exact encoder's ridge, which is then learned. If None, the ridge of the decoder's
            weight is used and stays fixed.
        ops, dtype
            The engine, and the precision in which it computes; those of the decoder if None.

        Raises
        ------
        InputError
            If the decoder is not an ALISTA, or the two are for different matrices.
        """
        problem, network = decoder.problem, decoder.network
        if network.name != "alista":
            raise InputError(
                f"the decoder is {network.title}; expected ALISTA, whose weight can be computed for each matrix"
            )
        check_encoder(problem, encoder, ridge)
        ops, dtype = ops or network.ops, dtype or network.dtype
        inner: Encoder | ExactEncoder
        if encoder is None:
            strength = decoder.weight.report.ridge if ridge is None else ridge
            inner = ExactEncoder(problem.A, ridge=strength, learned=ridge is not None, ops=ops, dtype=dtype)
            encoder_parameters = inner.published_start()
        else:
            inner = _on(encoder.network, ops, dtype)
            encoder_parameters = {name: value[None] for name, value in encoder.network.parameters.items()}
        parts = {"decoder": network.parameters, "encoder": encoder_parameters}
        origin = {name: parameters_sha256(part, ops) for name, part in parts.items()}
        robust = RobustAlista(
            inner,
            problem.M,
            problem.N,
            **_form(network),
            positive=network.positive,
            joint=problem.joint,
            parameters={**network.parameters, **encoder_parameters},
            ops=ops,
            dtype=dtype,
        )
        robust.unit = network.unit
        return cls(robust, problem, origin)

    @property
    def trained(self) -> bool:
        return bool(self.training) or bool((self.network.parameters["step_size"] != 1).any())  # those of the decoder

    def made_for(self) -> dict[str, str]:
        encoder = "the exact encoder" if isinstance(self.network.encoder, ExactEncoder) else "a trained encoder"
        return {"encoder": f"with {encoder}", **made_for(self.problem)}

    def task(self) -> Task[Any]:
        return Robust()

    def identity(self) -> dict[str, Any]:
        encoder = self.network.encoder
        return {
            "unit": self.network.unit,
            "matrix": self.problem.sha256,
            "encoder": encoder.name,
            **({"ridge": encoder.ridge, "learned": encoder.learned} if isinstance(encoder, ExactEncoder) else {}),
            **{f"{name}_sha256": value for name, value in self.origin.items()},
        }

    def weights(self, matrices: Array) -> Array:
        """The weights (n, M, N) that the encoder computes for matrices (n, M, N)."""
        network, ops = self.network, self.network.ops
        A = ops.asarray(matrices, network.dtype)
        return ops.to_numpy(network.encoder.encode(A, network.parameters)[0])

    def model_for(self, matrix: ArrayLike) -> Model:
        """The ALISTA for a matrix (M, N) with columns of any norms, and the weight that the encoder computes for it.

        Raises
        ------
        InputError
            If the matrix has the wrong shape, or contains a NaN or an infinity.
        """
        A = check_matrix(matrix, "the matrix")
        if A.shape != self.problem.A.shape:
            hint = "; it looks transposed" if A.shape == self.problem.A.shape[::-1] else ""
            (M, N), (m, n) = self.problem.A.shape, A.shape
            raise InputError(f"the matrix is {m}×{n}, and the model for {M}×{N}; expected the same size{hint}")
        problem = replace(self.problem, A=A, norms=None)
        return self.with_weight(problem, in_double(self.weights(problem.A[None])[0]))

    def with_weight(self, problem: Problem, W: Array) -> Model:
        """The decoder as an ALISTA for the matrix of another problem, and a weight W (M, N) of its A."""
        network = self.network
        return Model.new(
            problem,
            Weight(W, problem.sha256, describe(W, problem.A, method=network.encoder.name)),
            **_form(network),
            unit=network.unit,
            parameters={name: network.parameters[name] for name in ("step_size", "threshold")},
            ops=network.ops,
            dtype=network.dtype,
        )

    def store(self, record: Record) -> None:
        encoder = self.network.encoder
        self.problem.store(record)
        record.attributes |= {"encoder": encoder.name, "origin": json.dumps(self.origin)}
        record.attributes["unit"] = self.network.unit
        record.attributes |= {"per_coordinate": self.network.per_coordinate, "matrix_sha256": self.problem.sha256}
        if isinstance(encoder, Encoder):
            store_encoder(record, encoder)
        else:
            record.attributes |= {"ridge": encoder.ridge, "learned": encoder.learned}

    @classmethod
    def restore(
        cls, record: Record, path: str | os.PathLike[str], options: dict[str, Any], place: dict[str, Any]
    ) -> RobustModel:
        attributes, problem = record.attributes, Problem.from_record(record, path)
        del options["untied"]
        encoder: Encoder | ExactEncoder
        if attributes["encoder"] == Encoder.name:
            layers = options["parameters"]["step_matrix"].shape[1]
            encoder = Encoder(problem.A, layers=layers, **encoder_options(record), **place)
        else:
            ridge = {"ridge": attributes["ridge"], "learned": bool(attributes["learned"])}
            encoder = ExactEncoder(problem.A, **ridge, **place)
        options["per_coordinate"] = bool(attributes["per_coordinate"])
        kind: dict[str, Any] = {"positive": problem.positive, "joint": problem.joint}
        network = RobustAlista(encoder, problem.M, problem.N, **kind, **options, **place)
        network.unit = float(attributes.get("unit", 0))  # 0.1.0 has none
        return cls(network, problem, json.loads(attributes["origin"]))


def check_encoder(problem: Problem, encoder: EncoderModel | None, ridge: float | None = None) -> None:
    """Raise InputError unless an encoder (None for the exact one) suits a problem's matrix and the given ridge."""
    check_normalized(problem)
    if encoder is None:
        return
    if encoder.problem.A.shape != problem.A.shape:
        (M, N), (m, n) = problem.A.shape, encoder.problem.A.shape
        raise InputError(
            f"the decoder is for matrices of {M}×{N}, and the encoder for {m}×{n}: train both for one matrix"
        )
    if encoder.problem.sha256 != problem.sha256:
        raise InputError(
            "the decoder and the encoder are for different matrices (their hashes are "
            f"{problem.sha256[:12]}… and {encoder.problem.sha256[:12]}…): train both for one matrix"
        )
    if ridge is not None:
        raise InputError(
            f"ridge is {ridge}, but only the exact encoder has a ridge, and a trained one is given: leave it out",
            option="ridge",
        )


def _form(decoder: Network | RobustAlista) -> dict[str, Any]:
    """The arguments that define an ALISTA, apart from its matrix, its weight and its parameters."""
    return {name: getattr(decoder, name) for name in ("layers", "percent", "max_percent", "per_coordinate")}


def _on(encoder: Encoder, ops: ReferenceOps, dtype: Any) -> Encoder:
    """A copy of an encoder on another engine, without its trained parameters."""
    same = {name: getattr(encoder, name) for name in ("layers", "Q", "start", "eta", "seed")}
    return Encoder(encoder.source, loss=encoder.loss_name, **same, ops=ops, dtype=dtype)


def decoder_path(out: str | os.PathLike[str]) -> Path:
    """The path of the decoder that is trained first in a run that writes a robust model to `out`."""
    return Path(out).with_name(f"{Path(out).stem}.decoder.h5")


def train_decoder(
    make: Callable[[Model | None], Model],
    out: str | os.PathLike[str],
    *,
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    checkpoint_seconds: float = 30.0,
    say: Callable[[str], None] = say,
    progress: Callable[[Progress], None] | None = None,
) -> Model:
    """Train the decoder for a robust run by the fast recipe, and keep it in `OUT.decoder.h5`.

    Parameters
    ----------
    make
        A function that makes the untrained decoder. It is called with the model of the run that is continued, or None.
    out
        The file to which the robust model will be written.
    seed, resume, overwrite, checkpoint_seconds, progress
        As in `train`. With `resume`, a decoder that is complete is used as it is.
    say
        Called with messages about what is being done.

    Raises
    ------
    FileError
        As in `train`.
    """
    path = decoder_path(out)
    before = continued(path, resume, overwrite)
    if before is None and overwrite:
        remove(checkpoint_path(out))  # an older run's, with another decoder
    if before != path:
        say(f"Training the decoder first; it is kept in {path}.")
    run: dict[str, Any] = {"seed": seed, "resume": resume, "overwrite": overwrite, "progress": progress}
    decoder = make(load_continued(Model, before))
    return train(decoder, FastRecipe(), out=path, checkpoint_seconds=checkpoint_seconds, **run)


@dataclass(frozen=True)
class RobustRecipe:
    """Training under perturbation, of an encoder and a decoder together or of a decoder alone.

    The recipe is a curriculum with a stage for each σ in linspace(0, psigma_max, psteps) except the first. In each step
    the same signals are measured by several matrices, each perturbed at its own level, drawn uniformly from 0 to σ. The
    loss is taken after the last layer, and Adam keeps its state from stage to stage.

    By default, training uses relative scales, the jump at the threshold and hard signals as in `FastRecipe`, and the
    learning rate falls along half a cosine in each stage. `paper()` is the original's recipe: 50,000 steps per stage,
    with learning rates that fall continuously, by a quarter in 5000 steps.

    Attributes
    ----------
    psigma_max, psteps
        The last level, and the number of levels including 0.
    matrices, batch
        The number of matrices in a step, and of signals that each of them measures.
    validation_matrices, validation_batch
        The same numbers for validation, where the levels are drawn up to the stage's σ.
    msigma
        Standard deviation of measurement noise that is added to the noise of the problem's SNR.
    learning_rate
        The learning rate of step sizes, thresholds and a ridge.
    matrix_rate
        In the default recipe, the rate of the encoder's or decoder's matrices, relative to `network.matrix_rate`.
    encoder_rate
        In `paper()`, the learning rate of the encoder's matrices. A decoder's have `learning_rate` there.
    """

    by_gradients: ClassVar[bool] = True
    analytic: ClassVar[bool] = False
    name: str = "fast"
    psigma_max: float = 2e-2
    psteps: int = 5
    max_steps: int = 150
    matrices: int = 4
    batch: int = 16
    validation_matrices: int = 32
    validation_batch: int = 64
    msigma: float = 0.0
    learning_rate: float = 3e-3
    matrix_rate: float = 1.0
    encoder_rate: float = 1e-9
    window: float = 0.3
    hard: float = 0.5
    weight_power: float = 0.8

    @classmethod
    def paper(cls, **options: Any) -> RobustRecipe:
        """The original's recipe, with `options` in place of its own values."""
        plain = {"learning_rate": 1e-4, "window": 0.0, "hard": 0.0, "weight_power": 1.0}
        return cls(**{"name": "paper", "max_steps": 50_000, **plain, **options})

    def stages(self, layers: int, more: bool = False) -> tuple[Stage, ...]:
        """One stage for each level except 0."""
        names = ("psigma_max", "matrices", "batch", "validation_matrices", "validation_batch", "learning_rate")
        check_positive(self, *names, "matrix_rate", "encoder_rate")
        if self.psteps < 2:
            raise InputError(
                f"psteps is {self.psteps}; expected 2 or more (the first is 0, and skipped)", option="psteps"
            )
        if not 0 <= self.msigma < float("inf"):
            raise InputError(f"msigma is {self.msigma}; expected a finite number, 0 or greater", option="msigma")
        paper = self.name == "paper"
        own: dict[str, Any] = {"batch": self.matrices * self.batch, "window": self.window, "keeps_moments": True}
        own |= {"matrix_rate": 1.0 if paper else self.matrix_rate}
        own |= {"rates": {"step_matrix": self.encoder_rate} if paper else {}}
        levels = np.linspace(0, self.psigma_max, self.psteps)[1:].tolist()
        return tuple(perturbed_stage(self, layers, f"σ = {sigma:g}", sigma, **own) for sigma in levels)


class Robust(Task[Any]):
    """Training under perturbation, of an encoder with its decoder or of a decoder without the matrices."""

    name = "robust"
    models = (RobustModel, Model)
    kinds = (RobustRecipe,)
    recipes: ClassVar[Any] = {"fast": RobustRecipe, "paper": RobustRecipe.paper}

    def source(self, model: Any, recipe: Any) -> Source:
        return (PairSource if isinstance(model, RobustModel) else AugmentedSource)(model.problem, recipe)

    def finish(self, model: Any) -> None:
        if isinstance(model, Model):
            model.judge_afresh()

    def identity(self, model: Any, recipe: Any) -> dict[str, Any]:
        if isinstance(model, RobustModel):
            return {}
        # The training of a decoder continues from its current parameters, which therefore identify the run.
        return {"began_with": parameters_sha256(model.network.parameters, model.network.ops)}


class PairSource(PerturbedSource):
    """Signals measured by several perturbed matrices, for an encoder with its decoder.

    The measurements have noise at the problem's SNR, and additional noise of standard deviation `msigma`.
    """

    def __init__(self, problem: Problem, recipe: RobustRecipe) -> None:
        super().__init__(problem)
        self.recipe = recipe
        noiseless = problem.snr_db == np.inf and not recipe.msigma
        self.weight_power = recipe.weight_power if noiseless else 1.0

    def sample(
        self,
        ops: ReferenceOps,
        dtype: DTypeLike,
        batch: int,
        key: Key,
        validate: bool = False,
        rows: slice = slice(None),
    ) -> Examples:
        """Signals (samples, N); matrices (n, M, N) and what each measured (n, samples, M); the signals' weights.

        Rows are those of matrices.

        With L snapshots, signals are (samples, L, N) and what was measured is (n, samples, L, M).
        """
        recipe, M, N = self.recipe, self.problem.M, self.problem.N
        samples = recipe.validation_batch if validate else recipe.batch
        count = recipe.validation_matrices if validate else recipe.matrices
        first = rows.start or 0
        A = self.matrices(ops, dtype, random_levels(key, self.sigma, count, ops)[rows], key, first)
        where: dict[str, Any] = {**key._asdict(), "dtype": dtype, "ops": ops}
        if recipe.hard:
            x, _, weights = self.problem.sample_weighted(samples, recipe.hard, **where)
        else:
            x, _, weights = *self.problem.sample(samples, **where), None
        clean = ops.matmul(x.reshape(-1, N), transposed(ops.xp, A)).reshape(-1, M)
        y = self.problem.add_noise(clean, key, ops, first * samples)
        if recipe.msigma:
            noise = ops.normal(key, MORE_NOISE, (len(y), M), y.dtype, first * samples * self.problem.snapshots)
            y = y + y.dtype.type(recipe.msigma) * noise
        return x, (A, y.reshape(len(A), *x.shape[:-1], M)), weights

    def examples(self, batch: int) -> int:
        """The number of matrices, by which a batch is split."""
        return self.recipe.matrices

    def error_db(self, network: Any, validation: Examples, depth: int) -> float:
        """The NMSE in dB over all matrices and signals."""
        x, (A, y), weights = validation
        ops = network.ops

        def error(part: slice) -> float:
            estimate = network.output((A[part], y[part]), depth)
            return float(network.loss((estimate,), x, weights, depth)[0])

        energy = float(ops.half_squared_error(ops.xp.zeros_like(x), x, weights)[0])
        return float(decibels(sum(ops.shared_out(A.shape, error, ops.matrices)), len(A) * energy))


class AugmentedSource(PairSource):
    """Signals measured by several perturbed matrices, for a decoder that does not know the matrices."""

    def sample(
        self,
        ops: ReferenceOps,
        dtype: DTypeLike,
        batch: int,
        key: Key,
        validate: bool = False,
        rows: slice = slice(None),
    ) -> Examples:
        """Signals (n·samples, N) and measurements (n·samples, M), matrix by matrix, and the signals' weights.

        With L snapshots, they are (n·samples, L, N) and (n·samples, L, M).
        """
        x, (_, y), weights = super().sample(ops, dtype, batch, key, validate)
        count, tile = len(y), ops.xp.tile
        every = tile(x, (count, *(1,) * (x.ndim - 1)))[rows]
        return every, y.reshape(-1, *y.shape[2:])[rows], None if weights is None else tile(weights, count)[rows]

    def examples(self, batch: int) -> int:
        return batch

    def error_db(self, network: Any, validation: Examples, depth: int) -> float:
        """The NMSE in dB over all measurements."""
        x, y, weights = validation
        return nmse_db(network, x, y, depth, weights)
