"""Fit the step size and threshold of a layer without derivatives."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cuista.checks import Array
from cuista.networks.base import Unrolled

# The parameters that are fitted.
FITTED = ("step_size", "threshold")


def fit_layer(network: Unrolled, t: int, x: Array, y: Array) -> None:
    """Set the step size and threshold of layer t to minimize the error on targets x, given measurements y (batch, M).

    Nelder-Mead searches over (α, log θ), or over log θ if the network has no step size. It starts from the values of
    the previous layer and from two guesses based on the error before this layer.
    """
    from scipy.optimize import minimize

    ops = network.ops
    y, factors = network.in_units(y)
    x, weights = network.by_row(*network.targets_in_units(x, None, factors))
    state, _ = network.begin(y)
    for layer in range(t):
        state, _ = network.layer(layer, state)
    propose, unit = network.propose(t, state)
    zero = ops.xp.zeros_like(x)
    tiny = float(np.finfo(float).tiny)
    energy = max(2 * float(ops.half_squared_error(zero, x, weights)[0]), tiny)
    steps = "step_size" in network.shapes

    def error(point: Array) -> float:
        after = network.read(propose(point[0] if steps else 1.0, np.exp(point[-1])), t + 1)
        return float(np.log(float(ops.half_squared_error(after, x, weights)[0]) / energy + tiny))

    before = network.read(state[0], t)
    mean_square = 2 * float(ops.half_squared_error(before, x)[0]) / x.size * math.prod(network.joint)
    spread = 0.5 * np.log(max(mean_square, tiny)) - np.log(unit)
    starts = [(1.0, spread + np.log(0.6)), (1.0, spread + np.log(0.2))]
    if t > 0:
        alpha, theta = (
            float(network.parameter(name, t - 1).mean()) if name in network.shapes else 1.0 for name in FITTED
        )
        starts.append((alpha, np.log(max(theta, tiny))))

    def fit(number: slice) -> Any:
        alpha, log_theta = starts[number.start]
        simplex = np.array([(alpha, log_theta), (alpha + 0.1, log_theta), (alpha, log_theta + 0.3)])
        simplex = simplex if steps else simplex[::2, 1:]
        options: Any = {"maxfev": 60, "initial_simplex": simplex}
        found = minimize(error, simplex[0], method="Nelder-Mead", options=options)
        return found.fun, *found.x

    _, *best = min(ops.shared_out((len(starts), 1), fit, 1), key=lambda found: float(found[0]))
    if steps:
        network.parameters["step_size"][t] = best[0]
    network.parameters["threshold"][t] = np.exp(best[-1])
