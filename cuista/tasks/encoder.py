"""Encoders: networks that map a perturbed matrix to a weight for it, trained on matrices alone."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from cuista import storage
from cuista.checks import Array, as_real, check_finite
from cuista.counter import Key
from cuista.data.perturbed import check_normalized, perturb
from cuista.data.problem import Problem
from cuista.errors import FileError, InputError
from cuista.metrics import decibels
from cuista.model import Trained
from cuista.networks import Encoder
from cuista.ops import ReferenceOps
from cuista.storage import Record
from cuista.training.recipes import Stage, check_positive, perturbed_stage
from cuista.training.task import Examples, Source, Task


@dataclass
class EncoderModel(Trained):
    """An encoder, the problem whose matrix it is for, and how it was trained.

    Attributes
    ----------
    problem
        What it was made from.
    start
        The start of its step matrices as it was asked for; None to leave it to the recipe.
    """

    kind: ClassVar[str] = "cuista-encoder"

    network: Encoder
    problem: Problem
    start: str | None = None

    @classmethod
    def new(
        cls, problem: Problem, *, Q: ArrayLike | None = None, start: str | None = None, **options: Any
    ) -> EncoderModel:
        """An untrained encoder.

        Parameters
        ----------
        start
            What the step matrices are at first. If None the recipe decides: the fast one begins with the analytic
            start where the loss has it, the paper's with the nominal one.
        Q, options
            Those of `Encoder`.

        Raises
        ------
        InputError
            If the problem's matrix is not normalised, or an option is out of range.
        """
        check_normalized(problem)
        if Q is not None:
            Q = as_real(Q, "Q")
            check_finite(Q, "Q")
        return cls(Encoder(problem.A, Q=Q, start=start, **options), problem, start)

    def task(self) -> Task[EncoderModel]:
        return Encoding()

    def identity(self) -> dict[str, Any]:
        network = self.network
        return {
            "matrix": self.problem.sha256,
            "loss": network.loss_name,
            "Q": None if network.Q is None else storage.sha256(network.Q),
            "start": network.start,
            "eta": network.eta,
            "start_seed": network.seed,
        }

    def weights(self, matrices: Array) -> Array:
        """The weights (n, M, N) of perturbed matrices (n, M, N)."""
        network, ops = self.network, self.network.ops
        return ops.to_numpy(network.output(ops.asarray(matrices, network.dtype)))

    def store(self, record: Record) -> None:
        self.problem.store(record)
        store_encoder(record, self.network)
        record.attributes["matrix_sha256"] = self.problem.sha256

    @classmethod
    def restore(
        cls, record: Record, path: str | os.PathLike[str], options: dict[str, Any], place: dict[str, Any]
    ) -> EncoderModel:
        problem = Problem.from_record(record, path)
        if record.attributes["net"] != Encoder.name:
            raise FileError(f"{path} holds the net {record.attributes['net']!r}; expected {Encoder.name!r}")
        kept = {name: options[name] for name in ("layers", "parameters")}
        return cls.new(problem, **encoder_options(record), **kept, **place)


def store_encoder(record: Record, encoder: Encoder) -> None:
    """Put what an encoder is, but for its parameters, into a file's record."""
    record.attributes |= {"loss": encoder.loss_name, "start": encoder.start, "eta": encoder.eta}
    record.attributes["start_seed"] = encoder.seed
    if encoder.Q is not None:
        record.arrays["Q"] = encoder.Q


def encoder_options(record: Record) -> dict[str, Any]:
    """What `store_encoder` stored, as the options of `Encoder`."""
    stored = {name: record.attributes[name] for name in ("loss", "start", "eta")}
    return {**stored, "Q": record.arrays.get("Q"), "seed": int(record.attributes["start_seed"])}


@dataclass(frozen=True)
class EncoderRecipe:
    """How an encoder is trained: on its own loss, with fresh perturbed matrices in each step.

    By default in a few hundred steps of a learning rate that is relative to the step matrices' size, and falls along
    half a cosine: the analytic start (see `Encoder`) is near the end already. `paper()` is the original's: to 200,000
    steps with a learning rate that falls by a quarter every 5000.

    Attributes
    ----------
    sigma
        Standard deviation of what is added to the entries of the matrix.
    batch, validation_batch
        Matrices.
    better_wait
        As in `PaperRecipe`; None to make all steps.
    """

    by_gradients: ClassVar[bool] = True
    analytic: ClassVar[bool] = False
    name: str = "fast"
    sigma: float = 1e-2
    learning_rate: float = 1e-3
    batch: int = 8
    validation_batch: int = 16
    max_steps: int = 300
    better_wait: int | None = None

    @classmethod
    def paper(cls, **options: Any) -> EncoderRecipe:
        """The original's."""
        sizes = {"learning_rate": 1e-4, "batch": 16, "max_steps": 200_000, "better_wait": 4000}
        return cls(**{"name": "paper", **sizes, **options})

    def stages(self, layers: int, more: bool = False) -> tuple[Stage, ...]:
        """One stage."""
        check_positive(self, "learning_rate", "batch", "validation_batch", "sigma")
        rate = 1.0 if self.name == "paper" else self.learning_rate
        own = {"batch": self.batch, "matrix_rate": rate, "patience": self.better_wait, "staircase": True}
        return (perturbed_stage(self, layers, "encoder", self.sigma, **own),)


class Encoding(Task[EncoderModel]):
    """Training of an encoder on perturbed matrices, by the loss of its weights."""

    name = "encoder"
    measure = "loss"
    models = (EncoderModel,)
    kinds = (EncoderRecipe,)
    recipes: ClassVar[Any] = {"fast": EncoderRecipe, "paper": EncoderRecipe.paper}

    def source(self, model: EncoderModel, recipe: Any) -> Source:
        return MatrixSource(model.problem)

    def prepare(self, model: EncoderModel, recipe: Any) -> None:
        network = model.network
        if recipe.name == "paper" and model.start is None and not model.training and network.start != "nominal":
            network.start = "nominal"
            network.parameters = network.published_start()


class PerturbedSource(Source):
    """What sources under perturbation have in common: matrices perturbed as the stage says."""

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

    def blank(self) -> InputError:
        return InputError(
            f"pnz is {self.problem.sparsity:g}, so that whole sets of signals are zero: expected a few non-zeros. "
            "Give a larger one, or more signals in a step",
            option="pnz",
        )


class MatrixSource(PerturbedSource):
    """Matrices alone, for an encoder: they are what it is given, and all that it is judged by."""

    def sample(self, ops: ReferenceOps, dtype: DTypeLike, batch: int, key: Key, validate: bool = False) -> Examples:
        """Matrices Ã (batch, M, N), twice."""
        matrices = self.matrices(ops, dtype, np.full(batch, self.sigma), key)
        return matrices, matrices, None

    def error_db(self, network: Any, validation: Examples, depth: int) -> float:
        """The encoder's loss in dB, relative to that of W = Ã."""
        A, ops = validation[1], network.ops

        def losses(part: slice) -> tuple[float, float]:
            W = network.output(A[part], depth)
            found, at_first = (float(network.losses(A[part], weight)[0].sum()) for weight in (W, A[part]))
            return found, at_first

        return float(decibels(*np.sum(ops.in_batches(A.shape, losses, ops.at_a_time), axis=0)))
