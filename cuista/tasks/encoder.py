"""Encoders: networks that map a perturbed matrix to a weight for it. They are trained on matrices alone."""

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
from cuista.summary import size_of
from cuista.training.recipes import Stage, check_positive, perturbed_stage
from cuista.training.task import Examples, Source, Task


@dataclass(repr=False)
class EncoderModel(Trained):
    """An encoder, its nominal problem, and how it was trained.

    Attributes
    ----------
    problem
        The problem whose matrix, perturbed, is the encoder's input.
    start
        The initial step matrices as requested; None leaves them to the recipe.
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
            The initial step matrices. If None, the recipe decides: the fast one uses the analytic start if the loss
            allows it, and the paper's recipe uses the nominal start.
        Q, options
            As in `Encoder`.

        Raises
        ------
        InputError
            If the columns of the problem's matrix do not have unit norm, or an option is out of range.
        """
        check_normalized(problem)
        if Q is not None:
            Q = as_real(Q, "Q")
            check_finite(Q, "Q")
        return cls(Encoder(problem.A, Q=Q, start=start, **options), problem, start)

    def made_for(self) -> dict[str, str]:
        return {"matrix": f"for matrices near one of {size_of(self.problem.A)}"}

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
        """The weights (n, M, N) for perturbed matrices (n, M, N)."""
        network, ops = self.network, self.network.ops
        return ops.to_numpy(network.output(ops.asarray(matrices, network.dtype)))

    def store(self, record: Record) -> None:
        self.problem.store(record)
        store_encoder(record, self.network)
        record.attributes |= {"matrix_sha256": self.problem.sha256, "asked_start": self.start or ""}

    @classmethod
    def restore(
        cls, record: Record, path: str | os.PathLike[str], options: dict[str, Any], place: dict[str, Any]
    ) -> EncoderModel:
        problem = Problem.from_record(record, path)
        if record.attributes["net"] != Encoder.name:
            raise FileError(f"{path} holds the net {record.attributes['net']!r}; expected {Encoder.name!r}")
        kept = {name: options[name] for name in ("layers", "parameters")}
        model = cls.new(problem, **encoder_options(record), **kept, **place)
        model.start = str(record.attributes.get("asked_start", model.start)) or None
        return model


def store_encoder(record: Record, encoder: Encoder) -> None:
    """Store what defines an encoder, except for its parameters, in the record of a file."""
    record.attributes |= {"loss": encoder.loss_name, "start": encoder.start, "eta": encoder.eta}
    record.attributes["start_seed"] = encoder.seed
    if encoder.Q is not None:
        record.arrays["Q"] = encoder.Q


def encoder_options(record: Record) -> dict[str, Any]:
    """The arguments of `Encoder` that `store_encoder` has stored."""
    stored = {name: record.attributes[name] for name in ("loss", "start", "eta")}
    return {**stored, "Q": record.arrays.get("Q"), "seed": int(record.attributes["start_seed"])}


@dataclass(frozen=True)
class EncoderRecipe:
    """Training of an encoder by its own loss, with newly perturbed matrices in each step.

    By default, training takes a few hundred steps, because the analytic start (see `Encoder`) is already close to the
    optimum. The learning rate is relative to the size of the step matrices and falls along half a cosine. `paper()` is
    the original's recipe: 200,000 steps, with a learning rate that falls by a quarter every 5000 steps. Its learning
    rate is the one at which the published code trains, not the 1e-4 of the paper.

    Attributes
    ----------
    sigma
        Standard deviation of the perturbation of each matrix entry.
    batch, validation_batch
        The number of matrices in a step, and for validation.
    better_wait
        As in `PaperRecipe`; if None, all steps are made.
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
        """The original's recipe, with `options` in place of its own values."""
        sizes = {"learning_rate": 1e-6, "batch": 16, "max_steps": 200_000}
        return cls(**{"name": "paper", **sizes, **options})

    def stages(self, layers: int, more: bool = False) -> tuple[Stage, ...]:
        """The only stage."""
        check_positive(self, "learning_rate", "batch", "validation_batch", "sigma")
        rate = 1.0 if self.name == "paper" else self.learning_rate
        own: dict[str, Any] = {"batch": self.batch, "matrix_rate": rate, "patience": self.better_wait}
        own |= {"decay": 0.75, "decay_steps": 5000}
        return (perturbed_stage(self, layers, "encoder", self.sigma, **own),)


class Encoding(Task[EncoderModel]):
    """Training of an encoder on perturbed matrices, by a loss of the weights that it computes."""

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
    """The base of sources under perturbation: it perturbs matrices at the level of the stage."""

    def __init__(self, problem: Problem) -> None:
        check_normalized(problem)
        self.problem, self.sigma = problem.standard, 0.0
        self._nominal: Array | None = None

    def enter(self, stage: Stage, network: Any) -> bool:
        """Perturb at the stage's σ from now on."""
        changed = stage.sigma != self.sigma
        self.sigma = stage.sigma
        return changed

    def matrices(self, ops: ReferenceOps, dtype: DTypeLike, levels: Array, key: Key, first: int = 0) -> Array:
        """Perturbed matrices (n, M, N), one for each of the n levels: those from number `first` on of a batch."""
        if self._nominal is None:
            self._nominal = ops.asarray(self.problem.A, dtype)
        return perturb(self._nominal, key, levels, ops, first)

    def blank(self) -> InputError:
        return InputError(
            f"pnz is {self.problem.sparsity:g}, so that whole sets of signals are zero; expected at least a few "
            "non-zeros. Give a larger one, or more signals per step",
            option="pnz",
        )


class MatrixSource(PerturbedSource):
    """Matrices alone, for an encoder: they are both its inputs and its targets."""

    def sample(
        self,
        ops: ReferenceOps,
        dtype: DTypeLike,
        batch: int,
        key: Key,
        validate: bool = False,
        rows: slice = slice(None),
    ) -> Examples:
        """Perturbed matrices Ã (batch, M, N), as targets and as inputs, without weights."""
        levels = np.full(batch, self.sigma)[rows]
        matrices = self.matrices(ops, dtype, levels, key, rows.start or 0)
        return matrices, matrices, None

    def error_db(self, network: Any, validation: Examples, depth: int) -> float:
        """The encoder's loss in dB, relative to the loss of W = Ã."""
        A, ops = validation[1], network.ops

        def losses(part: slice) -> tuple[float, float]:
            W = network.output(A[part], depth)
            found, at_first = (float(network.losses(A[part], weight)[0].sum()) for weight in (W, A[part]))
            return found, at_first

        return float(decibels(*np.sum(ops.shared_out(A.shape, losses, ops.matrices), axis=0)))
