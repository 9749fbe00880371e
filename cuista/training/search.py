"""Finding the numbers of a network that has so few of them that no gradient is needed: HyperLISTA's three."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar

import numpy as np

from cuista.checks import Array
from cuista.counter import FITTING, VALIDATION
from cuista.errors import InputError
from cuista.metrics import nmse_db
from cuista.model import Model
from cuista.training.recipes import Progress

# c₁, c₂ and c₃ of the coarse grid: wider than the authors' (0.001 … 0.01, 0.001 … 0.01, 0.1 … 1), and log-spaced.
GRID = (np.geomspace(1e-3, 3e-2, 8), np.geomspace(1e-4, 1e-2, 5), np.geomspace(0.03, 1.0, 6))


@dataclass(frozen=True)
class SearchRecipe:
    """The best point of a grid on a few signals, and from there Nelder-Mead on the logarithms, on more signals."""

    name: ClassVar[str] = "search"
    analytic: ClassVar[bool] = True
    grid_signals: int = 64
    signals: int = 512
    evaluations: int = 120
    validation_batch: int = 4000


def search(
    model: Model,
    recipe: SearchRecipe,
    seed: int,
    identity: dict[str, Any],
    progress: Callable[[Progress], None] | None = None,
) -> None:
    """Set the parameters of the model's network, in place, to those of the least NMSE found.

    `identity` says which run this is, for the model's `training`.
    """
    from scipy.optimize import minimize

    if min(recipe.grid_signals, recipe.signals, recipe.validation_batch) < 1 or recipe.evaluations < 0:
        raise InputError(f"{recipe} cannot be: expected one signal or more, and no negative number of evaluations")
    began = time.monotonic()
    network, problem = model.network, model.problem
    names = tuple(network.shapes)
    points = list(product(*GRID))
    # A forward pass takes time in proportion to the signals.
    work = len(points) * recipe.grid_signals + recipe.evaluations * recipe.signals
    evaluations = len(points) + recipe.evaluations
    done, least = 0, np.inf
    history: list[tuple[float, ...]] = []

    def sample(signals: int, stream: int) -> tuple[Array, Array]:
        return problem.sample(signals, stream=stream, seed=seed, dtype=network.dtype, ops=network.ops)

    def set_parameters(point: Array) -> None:
        network.parameters = {name: np.array([value]) for name, value in zip(names, point, strict=True)}

    def error(point: Array, x: Array, y: Array) -> float:
        nonlocal done, least
        set_parameters(point)
        result = nmse_db(network, x, y, network.layers)
        result = result if np.isfinite(result) else 1e3  # so far off that the iterates overflowed
        history.append((*point, result))
        done, least = done + len(x), min(least, result)
        if progress:
            progress(Progress(min(done / work, 1.0), "search", 1, len(history), evaluations, least))
        return result

    few = sample(recipe.grid_signals, FITTING)
    with np.errstate(over="ignore", invalid="ignore"):
        start = min(points, key=lambda point: error(np.array(point), *few))
        least, more = np.inf, sample(recipe.signals, FITTING)
        simplex = np.log(start) + np.vstack([np.zeros(3), 0.3 * np.eye(3)])
        options: Any = {"maxfev": max(recipe.evaluations, 1), "initial_simplex": simplex, "xatol": 1e-3, "fatol": 1e-2}

        def of_logarithms(point: Array) -> float:
            return error(np.exp(point), *more)

        found = minimize(of_logarithms, simplex[0], method="Nelder-Mead", options=options)
    set_parameters(np.exp(found.x))
    x, y = sample(recipe.validation_batch, VALIDATION)
    columns = np.array(history).T
    model.history = {name: column for name, column in zip((*names, "nmse_db"), columns, strict=True)}
    model.training = {
        **identity,
        "validation_nmse_db": nmse_db(network, x, y, network.layers),
        "steps": len(history),
    }
    model.training_seconds = time.monotonic() - began
