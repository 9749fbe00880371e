"""Search for the parameters of a network with so few that no gradient is needed, such as the three of HyperLISTA."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar

import numpy as np

from cuista.checks import Array
from cuista.counter import FITTING, VALIDATION, Key
from cuista.errors import InputError
from cuista.messages import warn
from cuista.model import Trained
from cuista.training.recipes import Progress, Stage
from cuista.training.task import Source, uselessness


@dataclass(frozen=True)
class SearchRecipe:
    """A search over the network's `grid` on a few signals, and by Nelder-Mead on the logarithms with more signals."""

    name: ClassVar[str] = "search"
    by_gradients: ClassVar[bool] = False
    analytic: ClassVar[bool] = True
    hard: ClassVar[float] = 0.0
    weight_power: ClassVar[float] = 1.0
    grid_signals: int = 64
    signals: int = 512
    evaluations: int = 120
    validation_batch: int = 4000

    def stages(self, layers: int, more: bool = False) -> tuple[Stage, ...]:
        """No stages, because there is no gradient descent."""
        if min(self.grid_signals, self.signals, self.validation_batch) < 1 or self.evaluations < 0:
            raise InputError(
                f"{self} is out of range; expected at least one signal, and no negative number of evaluations"
            )
        return ()


def search(
    model: Trained,
    recipe: Any,
    source: Source,
    seed: int,
    identity: dict[str, Any],
    measure: str,
    progress: Callable[[Progress], None] | None = None,
) -> None:
    """Set the parameters of the model's network, in place, to those with the smallest error found.

    `identity` identifies the run in the model's `training`, and `measure` says what the source measures in dB.
    """
    from scipy.optimize import minimize

    recipe.stages(model.network.layers)
    began, network = time.monotonic(), model.network
    names, grid = zip(*network.grid.items(), strict=True)
    points = list(product(*grid))
    # The time of a forward pass is proportional to the number of signals.
    work = len(points) * recipe.grid_signals + recipe.evaluations * recipe.signals
    evaluations = len(points) + recipe.evaluations
    done, least = 0, np.inf
    history: list[tuple[float, ...]] = []

    def sample(signals: int, stream: int, validate: bool = False) -> Any:
        return source.sample(network.ops, network.dtype, signals, Key(seed, stream), validate)

    def set_parameters(point: Array) -> None:
        network.parameters = {name: np.array([value]) for name, value in zip(names, point, strict=True)}

    def error(point: Array, examples: Any) -> float:
        nonlocal done, least
        set_parameters(point)
        result = source.error_db(network, examples, network.layers)
        result = result if np.isfinite(result) else 1e3  # the iterates have overflowed
        history.append((*point, result))
        done, least = done + len(examples[0]), min(least, result)
        if progress:
            progress(Progress(min(done / work, 1.0), "search", 1, len(history), evaluations, least, measure))
        return result

    few = sample(recipe.grid_signals, FITTING)
    start = min(points, key=lambda point: error(np.array(point), few))
    least, more = np.inf, sample(recipe.signals, FITTING)
    simplex = np.log(start) + np.vstack([np.zeros(len(names)), 0.3 * np.eye(len(names))])
    options: Any = {"maxfev": max(recipe.evaluations, 1), "initial_simplex": simplex, "xatol": 1e-3, "fatol": 1e-2}

    def at_logarithms(point: Array) -> float:
        return error(np.exp(point), more)

    found = minimize(at_logarithms, simplex[0], method="Nelder-Mead", options=options)
    set_parameters(np.exp(found.x))
    examples = sample(recipe.validation_batch, VALIDATION, validate=True)
    validation = source.error_db(network, examples, network.layers)
    name = f"{measure.lower()}_db"
    model.history = dict(zip((*names, name), np.array(history).T, strict=True))
    useless = uselessness(network, source, examples, validation, measure) if measure == "NMSE" else ""
    if useless:
        warn(f"{useless}. {source.advice()}", stacklevel=3)
    model.training = {**identity, f"validation_{name}": validation, "steps": len(history)}
    model.training_seconds = time.monotonic() - began
