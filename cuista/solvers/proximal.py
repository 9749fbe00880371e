"""ISTA and FISTA for any operator: min_x ½‖y − A x‖² + λ‖x‖₁, starting from x = 0."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from cuista.checks import Array
from cuista.operators import Operator


def proximal_gradient(
    operator: Operator, y: Array, lam: float, iterations: int, momentum: bool = False
) -> Iterator[tuple[Array, Array]]:
    """Yield x_1, x_2, … for a batch of measurements y, each with its A x, by steps of size 1/(1.001‖A‖₂²) from x = 0.

    Without momentum this is ISTA, with momentum FISTA.
    """
    step = 1 / (1.001 * operator.norm_squared)
    real: Any = operator.dtype.type
    x = ahead = None
    image = image_ahead = operator.ops.xp.zeros_like(y)
    t = 1.0
    for _ in range(iterations):
        x_next, image_next = operator.proximal_step(ahead, y - image_ahead, step, step * lam)
        t_next = (1 + math.sqrt(1 + 4 * t * t)) / 2 if momentum else 1.0  # without momentum, β is 0
        beta = real((t - 1) / t_next)
        # Because A is linear, A of the point ahead follows from known products.
        ahead, image_ahead = x_next, image_next
        if x is not None and beta:
            ahead, image_ahead = x_next + beta * (x_next - x), image_next + beta * (image_next - image)
        x, image, t = x_next, image_next, t_next
        yield x, image
