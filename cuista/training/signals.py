"""Where the training of a network has its examples from."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike

from cuista.checks import Array
from cuista.counter import Key
from cuista.data.problem import Problem
from cuista.metrics import nmse_db
from cuista.networks import Unrolled
from cuista.ops import FusedStep, ReferenceOps
from cuista.training.recipes import FastRecipe, PaperRecipe, Stage

# Targets, inputs (of whatever kind the network takes), and the examples' weights if they have some.
Examples = tuple[Array, Any, "Array | None"]


class Source(Protocol):
    """Where examples come from.

    Attributes
    ----------
    weight_power
        To which power weights are taken in training.
    measure
        What `nmse_db` measures.
    """

    weight_power: float
    measure: str

    def enter(self, stage: Stage) -> bool:
        """Go on to a stage; whether the examples for validation are others then."""

    def sample(self, ops: ReferenceOps, dtype: DTypeLike, batch: int, key: Key, validate: bool = False) -> Examples:
        """A batch of examples, a pure function of the key (and of the stage)."""

    def nmse_db(self, network: Any, validation: Examples, depth: int) -> float:
        """The error in dB after `depth` layers on what `sample` gave."""

    def blank(self) -> str:
        """What to say if the examples are zero throughout."""

    def fuse(self, network: Any) -> FusedStep | None:
        """The engine's kernel for a whole training step of the network on these, if there is one."""


class SignalSource:
    """Signals of a problem, a share of them hard if the recipe wants that."""

    measure = "NMSE"

    def __init__(self, problem: Problem, recipe: FastRecipe | PaperRecipe) -> None:
        self.problem, self.hard = problem, recipe.hard
        self.weight_power = recipe.weight_power if problem.snr_db == np.inf else 1.0

    def enter(self, stage: object) -> bool:
        """Nothing changes from stage to stage."""
        return False

    def sample(self, ops: ReferenceOps, dtype: DTypeLike, batch: int, key: Key, validate: bool = False) -> Examples:
        """Signals (batch, N), measurements (batch, M), and the signals' weights (batch,) if a share of them is hard.

        Those for validation are like those for training, but for their key.
        """
        where: Any = {"stream": key.stream, "step": key.step, "seed": key.seed}
        if self.hard:
            return self.problem.sample_weighted(batch, self.hard, **where, dtype=dtype, ops=ops)
        x, y = self.problem.sample(batch, **where, dtype=dtype, ops=ops)
        return x, y, None

    def nmse_db(self, network: Unrolled, validation: Examples, depth: int) -> float:
        """The NMSE in dB after `depth` layers on what `sample` gave."""
        x, y, weights = validation
        return nmse_db(network, x, y, depth, weights)

    def blank(self) -> str:
        """What to say if the examples are zero throughout."""
        return (
            f"pnz is {self.problem.sparsity:g}, so that whole sets of signals are zero: expected a few non-zeros "
            "in hundreds of signals. Give a larger --pnz"
        )

    def fuse(self, network: Unrolled) -> FusedStep | None:
        """The engine's kernel for a whole training step of the network on these, if there is one."""
        return network.fuse(self.problem.signals(self.hard))
