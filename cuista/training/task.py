"""What the trainer knows of what it trains: a task, and the source of its examples. It knows none of them by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Generic, TypeVar

from numpy.typing import DTypeLike

from cuista.checks import Array
from cuista.counter import Key
from cuista.errors import InputError
from cuista.model import Trained
from cuista.ops import FusedStep, ReferenceOps
from cuista.training.recipes import Recipe, Stage

# Targets, inputs (of whatever kind the network takes), and the examples' weights if they have some.
Examples = tuple[Array, Any, "Array | None"]
AnyModel = TypeVar("AnyModel", bound=Trained)


class Source(ABC):
    """Where a training run gets its examples.

    Attributes
    ----------
    weight_power
        The power to which examples' weights are taken in training.
    """

    weight_power: float = 1.0

    @abstractmethod
    def sample(self, ops: ReferenceOps, dtype: DTypeLike, batch: int, key: Key, validate: bool = False) -> Examples:
        """A batch of examples, a pure function of the key (and of the stage)."""

    @abstractmethod
    def error_db(self, network: Any, validation: Examples, depth: int) -> float:
        """The error in dB after `depth` layers on what `sample` gave."""

    @abstractmethod
    def blank(self) -> InputError:
        """The error to raise if whole sets of examples are zero."""

    def enter(self, stage: Stage) -> bool:
        """Go on to a stage; return whether the examples for validation change with it."""
        return False

    def fuse(self, network: Any) -> FusedStep | None:
        """The engine's kernel for a whole training step of the network on these examples, if there is one."""
        return None

    def close(self) -> None:  # noqa: B027 (most sources have nothing to let go of)
        """Let go of files and threads, for the run has ended."""


class Task(ABC, Generic[AnyModel]):
    """What networks are trained for: where the examples come from, and what is measured.

    Attributes
    ----------
    name
        What it is called on the command line.
    measure
        What validations measure, in dB: `NMSE` or `loss`.
    models, kinds
        The classes of models that are trained for it, and of recipes that it has.
    recipes
        The recipes by name; each takes the recipe's own options.
    """

    name: ClassVar[str]
    measure: ClassVar[str] = "NMSE"
    models: ClassVar[tuple[type[Trained], ...]]
    kinds: ClassVar[tuple[type[Recipe], ...]]
    recipes: ClassVar[Mapping[str, Callable[..., Recipe]]]

    def recipe(self, model: AnyModel) -> Recipe:
        """The recipe for a model if none is given."""
        return self.recipes["fast"]()

    @abstractmethod
    def source(self, model: AnyModel, recipe: Any) -> Source:
        """The source of examples for a model trained by a recipe."""

    def check(self, model: AnyModel, recipe: Recipe) -> None:
        """Raise InputError if the model or the recipe is not one of this task."""
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
                f"expected {names}",
                option="recipe",
            )

    def prepare(self, model: AnyModel, recipe: Any) -> None:
        """Decide what was left to the recipe when the model was made. Doing so twice changes nothing."""

    def identity(self, model: AnyModel, recipe: Any) -> dict[str, Any]:
        """What of the task makes two runs the same, beside the model's own identity and the recipe's numbers."""
        return {}
