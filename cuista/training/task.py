"""The two protocols through which the trainer sees what it trains: a task, and a source of examples."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from numpy.typing import DTypeLike

from cuista.checks import Array
from cuista.counter import Key
from cuista.errors import InputError
from cuista.model import Trained
from cuista.ops import FusedStep, ReferenceOps
from cuista.training.recipes import Recipe, Stage

# Targets, inputs (in the form that the network takes), and the weights of the examples, or None.
Examples = tuple[Array, Any, "Array | None"]
AnyModel = TypeVar("AnyModel", bound=Trained)
# A network whose NMSE is no further than this below 0 dB is hardly better than the answer 0.
NEAR_DB = 3.0


class Baseline(NamedTuple):
    """An answer for which no network is needed: its error in dB, how far below a useful network is, and its name."""

    error_db: float
    margin_db: float
    name: str


class Source(ABC):
    """The source of the examples of a training run.

    Attributes
    ----------
    weight_power
        The power to which the weights of examples are raised in training.
    fall_db
        A run by the fast recipe goes back to its best parameters if a validation is worse than theirs by more than
        this.
    """

    weight_power: float = 1.0
    fall_db: float = math.inf

    @abstractmethod
    def sample(
        self,
        ops: ReferenceOps,
        dtype: DTypeLike,
        batch: int,
        key: Key,
        validate: bool = False,
        rows: slice = slice(None),
    ) -> Examples:
        """A batch of examples, or only these rows of it, as a pure function of the key and the stage.

        The rows are those by which `Unrolled.split` splits the batch. They have the bits that they have in the whole.
        """

    def examples(self, batch: int) -> int:
        """The number of examples by which a batch is split into shards (see `Unrolled.split`)."""
        return batch

    @abstractmethod
    def error_db(self, network: Any, validation: Examples, depth: int) -> float:
        """The error in dB after `depth` layers on examples from `sample`."""

    @abstractmethod
    def blank(self) -> InputError:
        """The error to raise if all examples of a set are zero."""

    def displayed(self, network: Any, validation: Examples, error_db: float) -> float:
        """What users are shown of an error of `error_db`: the task's `display` in dB."""
        return error_db

    def baseline(self, network: Any, validation: Examples) -> Baseline:
        """What a network must be better than to be of any use."""
        return Baseline(0.0, NEAR_DB, "the answer 0")

    def advice(self) -> str:
        """What to try if training has not led to a useful network."""
        return "Give it more layers or more steps, or use another recipe"

    def adapt(self, network: Any, seed: int) -> None:  # noqa: B027 (most networks start well for all examples)
        """Adapt a network's fast start, in place, to the examples of the run with this seed."""

    def enter(self, stage: Stage, network: Any) -> bool:
        """Enter a stage, in which a network is trained, and return whether the examples for validation change."""
        return False

    def fuse(self, network: Any) -> FusedStep | None:
        """The engine's kernel for a whole training step of the network on these examples, or None if it has none."""
        return None

    def close(self) -> None:  # noqa: B027 (most sources have nothing to release)
        """Release files and threads at the end of the run."""


def uselessness(network: Any, source: Source, validation: Examples, error_db: float, shown: str) -> str:
    """What is wrong with a network that has been trained to an error of `error_db`; empty if it is of use."""
    baseline = source.baseline(network, validation)
    if error_db <= baseline.error_db - baseline.margin_db:
        return ""
    result, other = (source.displayed(network, validation, error) for error in (error_db, baseline.error_db))
    how = "worse than" if error_db > baseline.error_db else "hardly better than"
    reached = f"training of {network.title} has ended at {'an' if shown == 'NMSE' else 'a'} {shown} of {result:.4g} dB"
    return f"{reached}, {how} that of {baseline.name} ({other:.4g} dB)"


class Task(ABC, Generic[AnyModel]):
    """What networks are trained for: it defines where examples come from and what is measured.

    Attributes
    ----------
    name
        The name of the task on the command line.
    measure
        What validations measure in dB, `NMSE` or `loss`.
    display
        What users are shown instead, if that tells them more: `PSNR` (see `Source.displayed`).
    models, kinds
        The classes of models and of recipes that the task accepts.
    recipes
        A function for each recipe by name, which makes the recipe from its options.
    """

    name: ClassVar[str]
    measure: ClassVar[str] = "NMSE"
    display: ClassVar[str] = ""
    models: ClassVar[tuple[type[Trained], ...]]
    kinds: ClassVar[tuple[type[Recipe], ...]]
    recipes: ClassVar[Mapping[str, Callable[..., Recipe]]]

    @property
    def shown(self) -> str:
        """What users are shown of validations."""
        return self.display or self.measure

    def recipe(self, model: AnyModel) -> Recipe:
        """The recipe for a model unless one is given."""
        return self.recipes["fast"]()

    def on(self, data: Any) -> Task[AnyModel]:
        """The same task, on data of the user's own.

        Raises
        ------
        InputError
            If the task has another source of examples, or the data are not acceptable.
        """
        raise InputError(f"the task {self.name!r} does not train on given signals: leave them out", option="data")

    @abstractmethod
    def source(self, model: AnyModel, recipe: Any) -> Source:
        """The source of examples for training a model by a recipe."""

    def check(self, model: AnyModel, recipe: Recipe) -> None:
        """Raise InputError if the task does not accept the model or the recipe."""
        if type(model) not in self.models:
            expected = " or ".join(kind.__name__ for kind in self.models)
            raise InputError(
                f"{model.network.title} in a {type(model).__name__} is not trained for the task {self.name!r}: "
                f"expected a model of the class {expected}, or another task",
                option="task",
            )
        suiting = [kind for kind in self.kinds if kind.by_gradients == model.network.has_gradients]
        if type(recipe) not in suiting:
            names = " or ".join(kind.__name__ for kind in suiting) or "none"
            raise InputError(
                f"{type(recipe).__name__} does not train {model.network.title} for the task {self.name!r}: "
                f"expected {names} (see {type(self).__name__}.recipes)",
                option="recipe",
            )

    def prepare(self, model: AnyModel, recipe: Any) -> None:
        """Decide what the model's options left to the recipe. Repeated calls change nothing."""

    def finish(self, model: AnyModel) -> None:
        """Make a model whose network has been trained what its file is to hold."""

    def identity(self, model: AnyModel, recipe: Any) -> dict[str, Any]:
        """The task's part of a run's identity, in addition to the model's identity and the recipe's numbers."""
        return {}
