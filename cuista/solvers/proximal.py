"""ISTA and FISTA for any operator: min_x ½‖y − A x‖² + λ‖x‖₁, starting from x = 0.

‖x‖₁ is the sum of the magnitudes of x's entries, which may be complex or consist of several numbers
(`cuista.ops.joint`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from cuista.checks import Array
from cuista.operators import Dense, Operator
from cuista.ops.joint import ALONE, Joint, real_of

# The largest N for which AᵀA is formed, because it is N×N and takes N²M operations.
LARGEST_GRAM = 2048


def proximal_gradient(
    operator: Operator,
    y: Array,
    lam: float | Array,
    iterations: int,
    momentum: bool = False,
    *,
    positive: bool = False,
    restart: bool = False,
    start: tuple[Array, Array] | None = None,
    joint: Joint = ALONE,
    every: int = 1,
) -> Iterator[tuple[Array, Array]]:
    """Yield x_1, x_2, … for a batch of measurements y, each with its A x, by steps of size 1/(1.001‖A‖₂²).

    Without momentum this is ISTA, with momentum FISTA.

    Parameters
    ----------
    lam
        λ: a number, or an array that broadcasts to the signals, or to the magnitudes of joint entries.
    positive
        Whether x ≥ 0 is required.
    restart
        Whether a sample's momentum is lost where the step goes against it (O'Donoghue, Candès, Foundations of
        Computational Mathematics 2015). Signals must be (batch, N).
    start
        Where to start, x and A x; 0 if None.
    joint
        Which numbers are one entry. With L snapshots, signals are (batch·L, N) and measurements (batch·L, M), and
        restarts are those of all snapshots of a sample.
    every
        Yield only each iterate whose number is a multiple of this, and the last.
    """
    step, xp, real = 1 / (1.001 * operator.norm_squared), operator.ops.xp, real_of(operator.dtype)
    if isinstance(operator, Dense) and joint == ALONE and _has_gram(operator):
        how = (iterations, momentum, restart, positive)
        yield from _by_gram(operator, y, step, step * lam, start and start[0], every, *how)
        return
    x, image = start or (None, xp.zeros_like(y))
    ahead, image_ahead = x, image
    t: Any = xp.ones((len(y) // joint.snapshots, 1)) if restart else 1.0
    for number in range(1, iterations + 1):
        x_next, image_next = operator.proximal_step(ahead, y - image_ahead, step, step * lam, positive, joint)
        if restart and ahead is not None:
            against = joint.samples(((ahead - x_next).conj() * (x_next - x)).real).sum(axis=1, keepdims=True) > 0
            t = xp.where(against, 1.0, t)
        t_next = (1 + (xp.sqrt if restart else math.sqrt)(1 + 4 * t * t)) / 2
        # Because A is linear, A of the point ahead follows from known products.
        ahead, image_ahead = x_next, image_next
        if momentum and x is not None:
            beta = joint.repeat(xp, ((t - 1) / t_next).astype(real)) if restart else real.type((t - 1) / t_next)
            ahead, image_ahead = x_next + beta * (x_next - x), image_next + beta * (image_next - image)
        x, image, t = x_next, image_next, t_next
        if number % every == 0 or number == iterations:
            yield x, image


def _by_gram(
    operator: Dense,
    y: Array,
    step: float,
    theta: float | Array,
    start: Array | None,
    every: int,
    iterations: int,
    momentum: bool,
    restart: bool,
    positive: bool,
) -> Iterator[tuple[Array, Array]]:
    """The same by AᵀA, for a real matrix."""
    ops, Ay = operator.ops, operator.adjoint(y)
    x = ops.xp.zeros_like(Ay) if start is None else start
    ahead, t = x, ops.xp.ones((len(y), 1))
    for first in range(0, iterations, every):
        given = (Ay, operator.packed_gram, step, theta, min(every, iterations - first))
        x, ahead, t = ops.proximal_iterations(x, ahead, t, *given, momentum, restart, positive)
        yield x, operator.apply(x)


def _has_gram(operator: Dense) -> bool:
    """Whether iterations by the Gram matrix are faster, for iterates of any density."""
    fits = min(2 * operator.M, LARGEST_GRAM) >= operator.N
    return operator.ops.iterates_by_gram and operator.dtype.kind != "c" and fits
