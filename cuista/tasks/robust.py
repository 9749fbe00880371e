"""Robust recovery: by measurement matrices other than the one that was trained for."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from cuista import storage
from cuista.checks import Array, check_matrix
from cuista.counter import MORE_NOISE, Key
from cuista.data.perturbed import check_normalized, random_levels
from cuista.data.problem import Problem, normalize_columns
from cuista.errors import FileError, InputError
from cuista.metrics import decibels, nmse_db
from cuista.model import Trained, parameters_sha256
from cuista.networks import Encoder, ExactEncoder, Network, RobustAlista
from cuista.networks.encoder import transposed
from cuista.ops import CpuOps, ReferenceOps
from cuista.storage import Record
from cuista.tasks.encoder import EncoderModel, PerturbedSource, encoder_options, store_encoder
from cuista.tasks.sparse_coding import Model
from cuista.training import FastRecipe, Progress, checkpoint_path, train
from cuista.training.checkpoint import CHECKPOINT
from cuista.training.recipes import Stage, check_positive, perturbed_stage
from cuista.training.task import Examples, Source, Task
from cuista.training.trainer import identity
from cuista.weights import Weight
from cuista.weights.dense import describe


@dataclass
class RobustModel(Trained):
    """ALISTA whose weight is made for each matrix by an encoder, and how the two were trained.

    Attributes
    ----------
    problem
        The nominal matrix, and the law of the signals.
    origin
        The hashes of the decoder's and the encoder's parameters that it began with.
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
        dtype: Any = np.float32,
    ) -> RobustModel:
        """An ALISTA with an encoder, or with the exact one.

        Parameters
        ----------
        decoder, encoder
            Trained ones; without an encoder it is the exact one.
        ridge
            Where the exact encoder's ridge starts, which is then learned. If None it is that of the decoder's weight.

        Raises
        ------
        InputError
            If the decoder is another network, or the two are for different matrices.
        """
        problem, network = decoder.problem, decoder.network
        if network.name != "alista":
            raise InputError(f"the decoder is {network.title}; expected ALISTA, which takes a weight made for a matrix")
        check_encoder(problem, encoder, ridge)
        ops = ops or CpuOps()
        inner: Encoder | ExactEncoder
        if encoder is None:
            strength = decoder.weight.report.ridge if ridge is None else ridge
            inner = ExactEncoder(problem.A, ridge=strength, learned=ridge is not None, ops=ops, dtype=dtype)
            of_inner = inner.published_start()
        else:
            inner = _on(encoder.network, ops, dtype)
            of_inner = {name: value[None] for name, value in encoder.network.parameters.items()}
        parts = {"decoder": network.parameters, "encoder": of_inner}
        origin = {name: parameters_sha256(part, ops) for name, part in parts.items()}
        robust = RobustAlista(
            inner,
            problem.M,
            problem.N,
            **_form(network),
            parameters={**network.parameters, **of_inner},
            ops=ops,
            dtype=dtype,
        )
        return cls(robust, problem, origin)

    def task(self) -> Task[Any]:
        return Robust()

    def identity(self) -> dict[str, Any]:
        encoder = self.network.encoder
        return {
            "matrix": self.problem.sha256,
            "encoder": encoder.name,
            **({"ridge": encoder.ridge, "learned": encoder.learned} if isinstance(encoder, ExactEncoder) else {}),
            **{f"{name}_sha256": value for name, value in self.origin.items()},
        }

    def weights(self, matrices: Array) -> Array:
        """The weights (n, M, N) that the encoder makes for matrices (n, M, N)."""
        network, ops = self.network, self.network.ops
        A = ops.asarray(matrices, network.dtype)
        return ops.to_numpy(network.encoder.encode(A, network.parameters)[0])

    def model_for(self, matrix: ArrayLike) -> Model:
        """An ALISTA for a matrix (M, N), with the weight that the encoder makes for it.

        Raises
        ------
        InputError
            If the matrix has another shape, a NaN or an infinity, or its columns have not unit norm.
        """
        A = check_matrix(matrix, "the matrix").astype(np.float64)
        if A.shape != self.problem.A.shape:
            hint = "; it looks transposed" if A.shape == self.problem.A.shape[::-1] else ""
            (M, N), (m, n) = self.problem.A.shape, A.shape
            raise InputError(f"the matrix is {m}×{n}, and the model for {M}×{N}{hint}")
        if not np.allclose(np.linalg.norm(A, axis=0), 1, rtol=1e-3):
            raise InputError(
                "the columns of the matrix have not unit norm, for which the model was trained: divide them by their "
                "norms, and afterwards the recovered entries, too"
            )
        return self.with_weight(A, self.weights(normalize_columns(A)[None])[0].astype(np.float64))

    def with_weight(self, A: Array, W: Array) -> Model:
        """The decoder as an ALISTA for a matrix A (M, N) and a weight W (M, N)."""
        problem = Problem(A, self.problem.pnz, self.problem.snr_db, self.problem.magnitude, self.problem.seed)
        network = self.network
        return Model.new(
            problem,
            Weight(W, problem.sha256, describe(W, A, method=network.encoder.name)),
            **_form(network),
            parameters={name: network.parameters[name] for name in ("step_size", "threshold")},
            ops=network.ops,
            dtype=network.dtype,
        )

    def store(self, record: Record) -> None:
        encoder = self.network.encoder
        self.problem.store(record)
        record.attributes |= {"encoder": encoder.name, "origin": json.dumps(self.origin)}
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
        network = RobustAlista(encoder, problem.M, problem.N, **options, **place)
        return cls(network, problem, json.loads(attributes["origin"]))


def check_encoder(problem: Problem, encoder: EncoderModel | None, ridge: float | None = None) -> None:
    """Raise InputError if an encoder (None: the exact one) is not for a problem's matrix, or has no such ridge."""
    check_normalized(problem)
    if encoder is None:
        return
    if encoder.problem.A.shape != problem.A.shape:
        (M, N), (m, n) = problem.A.shape, encoder.problem.A.shape
        raise InputError(f"the decoder is for matrices of {M}×{N}, and the encoder for {m}×{n}")
    if encoder.problem.sha256 != problem.sha256:
        raise InputError(
            "the decoder and the encoder are for different matrices (their hashes are "
            f"{problem.sha256[:12]}… and {encoder.problem.sha256[:12]}…): train both for one"
        )
    if ridge is not None:
        raise InputError(f"ridge is {ridge}, but a trained encoder has none: it is for the exact one", option="ridge")


def _form(decoder: Network | RobustAlista) -> dict[str, Any]:
    """What makes an ALISTA for a matrix, but for its parameters."""
    return {name: getattr(decoder, name) for name in ("layers", "percent", "max_percent", "per_coordinate")}


def _on(encoder: Encoder, ops: ReferenceOps, dtype: Any) -> Encoder:
    """The same encoder on another engine."""
    same = {name: getattr(encoder, name) for name in ("layers", "Q", "start", "eta", "seed")}
    return Encoder(encoder.source, loss=encoder.loss_name, **same, ops=ops, dtype=dtype)


def decoder_path(out: str | os.PathLike[str]) -> Path:
    """Where a run that writes a robust model to `out` keeps the decoder that it trained first."""
    return Path(out).with_name(f"{Path(out).stem}.decoder.h5")


def train_decoder(
    make: Callable[[Model | None], Model],
    out: str | os.PathLike[str],
    *,
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    checkpoint_seconds: float = 30.0,
    say: Callable[[str], None] = lambda text: None,
    progress: Callable[[Progress], None] | None = None,
) -> Model:
    """The decoder of a robust run that is given none: trained by the fast recipe, and kept in `OUT.decoder.h5`.

    Parameters
    ----------
    make
        Makes the untrained decoder; it is called with the model of the interrupted run, or None.
    out
        Where the robust model is to be written.
    seed, resume, overwrite, checkpoint_seconds, progress
        As in `train`. To resume takes a decoder that is complete as it is.
    say
        Called with what is done.

    Raises
    ------
    FileError
        If such a decoder is there and neither `resume` nor `overwrite` is given, or it was trained otherwise.
    """
    path, recipe = decoder_path(out), FastRecipe()
    begun = checkpoint_path(path).exists()
    if begun and not (resume or overwrite):
        raise FileError(
            f"{checkpoint_path(path)} holds an unfinished run: continue it, or start afresh",
            option=("resume", "overwrite"),
        )
    storage.check_writable(path, overwrite=overwrite or resume)
    if resume and path.exists() and not begun:
        kept = Model.load(path)
        untrained = make(kept)
        now, then = identity(untrained, recipe, seed), kept.training
        differing = [f"{name} (then {then.get(name)}, now {now[name]})" for name in now if then.get(name) != now[name]]
        if differing:
            raise FileError(
                f"{path} is a decoder that was trained otherwise; it differs in {', '.join(differing)}. Give the "
                "options of then, or start afresh",
                option="overwrite",
            )
        return Model.load(path, ops=untrained.network.ops, dtype=untrained.network.dtype)
    say(f"Training the decoder first, kept in {path}.")
    decoder = make(Model.load(checkpoint_path(path), kind=CHECKPOINT) if resume and begun else None)
    run: dict[str, Any] = {"seed": seed, "resume": resume, "overwrite": overwrite, "progress": progress}
    return train(decoder, recipe, out=path, checkpoint_seconds=checkpoint_seconds, **run)


@dataclass(frozen=True)
class RobustRecipe:
    """Training under perturbation, of an encoder and a decoder together or of a decoder alone.

    A curriculum: a stage for each σ of linspace(0, psigma_max, psteps) but the first. In each step some matrices, each
    perturbed at a level of its own, uniform from 0 to σ, measure the same signals. The loss is that after the last
    layer, and Adam's state goes on from stage to stage.

    By default on relative scales, with the jump at the threshold and hard signals as in `FastRecipe`, and a learning
    rate that falls along half a cosine in each stage. `paper()` is the original's: 50,000 steps a stage, the learning
    rates falling continuously, by a quarter every 5000 steps of a stage.

    Attributes
    ----------
    psigma_max, psteps
        The last level, and how many there are with 0.
    matrices, batch
        Of a step: matrices, and the signals that each of them measures.
    validation_matrices, validation_batch
        The same for validation, at levels up to the stage's.
    msigma
        Standard deviation of noise in the measurements, beside that of the problem's SNR.
    learning_rate
        Of step sizes, thresholds and a ridge.
    matrix_rate
        Of learned matrices, the encoder's or the decoder's, as a factor of the network's own (`matrix_rate`).
    encoder_rate
        The same of `paper()`, as it is.
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
        """The original's."""
        plain = {"learning_rate": 1e-4, "window": 0.0, "hard": 0.0, "weight_power": 1.0}
        return cls(**{"name": "paper", "max_steps": 50_000, **plain, **options})

    def stages(self, layers: int, more: bool = False) -> tuple[Stage, ...]:
        """One stage for each level but 0."""
        names = ("psigma_max", "matrices", "batch", "validation_matrices", "validation_batch", "learning_rate")
        check_positive(self, *names, "matrix_rate", "encoder_rate")
        if self.psteps < 2:
            raise InputError(f"psteps is {self.psteps}; expected 2 or more, for the first level is 0 and left out")
        if not 0 <= self.msigma < float("inf"):
            raise InputError(f"msigma is {self.msigma}; expected a number of 0 or more")
        rate = self.encoder_rate / self.learning_rate if self.name == "paper" else self.matrix_rate
        own = {"batch": self.matrices * self.batch, "matrix_rate": rate, "window": self.window, "keeps_moments": True}
        levels = np.linspace(0, self.psigma_max, self.psteps)[1:].tolist()
        return tuple(perturbed_stage(self, layers, f"σ = {sigma:g}", sigma, **own) for sigma in levels)


class Robust(Task[Any]):
    """Training under perturbation: of an encoder with its decoder, or of a decoder that is not told the matrices."""

    name = "robust"
    models = (RobustModel, Model)
    kinds = (RobustRecipe,)
    recipes: ClassVar[Any] = {"fast": RobustRecipe, "paper": RobustRecipe.paper}

    def source(self, model: Any, recipe: Any) -> Source:
        return (PairSource if isinstance(model, RobustModel) else AugmentedSource)(model.problem, recipe)

    def identity(self, model: Any, recipe: Any) -> dict[str, Any]:
        if isinstance(model, RobustModel):
            return {}
        # A decoder's training goes on from where it is.
        return {"began_with": parameters_sha256(model.network.parameters, model.network.ops)}


class PairSource(PerturbedSource):
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
        where: dict[str, Any] = {**key._asdict(), "dtype": dtype, "ops": ops}
        if recipe.hard:
            x, _, weights = self.problem.sample_weighted(samples, recipe.hard, **where)
        else:
            x, _, weights = *self.problem.sample(samples, **where), None
        clean = ops.matmul(x, transposed(ops.xp, A)).reshape(-1, M)
        y = self.problem.add_noise(clean, key, ops)
        if recipe.msigma:
            y = y + y.dtype.type(recipe.msigma) * ops.normal(key, MORE_NOISE, (len(y), M), y.dtype)
        return x, (A, y.reshape(count, samples, M)), weights

    def error_db(self, network: Any, validation: Examples, depth: int) -> float:
        """The NMSE in dB over all matrices and signals."""
        x, (A, y), weights = validation
        ops = network.ops

        def error(part: slice) -> float:
            estimate = network.output((A[part], y[part]), depth)
            return float(network.loss((estimate,), x, weights)[0])

        energy = float(ops.half_squared_error(ops.xp.zeros_like(x), x, weights)[0])
        return float(decibels(sum(ops.in_batches(A.shape, error, ops.at_a_time)), len(A) * energy))


class AugmentedSource(PairSource):
    """The same for a decoder alone, which is not told the matrices."""

    def sample(self, ops: ReferenceOps, dtype: DTypeLike, batch: int, key: Key, validate: bool = False) -> Examples:
        """Signals (n·samples, N) and measurements (n·samples, M), of one matrix after the other, and weights."""
        x, (_, y), weights = super().sample(ops, dtype, batch, key, validate)
        count, _, M = y.shape
        tile = ops.xp.tile
        return tile(x, (count, 1)), y.reshape(-1, M), None if weights is None else tile(weights, count)

    def error_db(self, network: Any, validation: Examples, depth: int) -> float:
        """The NMSE in dB over all measurements."""
        x, y, weights = validation
        return nmse_db(network, x, y, depth, weights)
