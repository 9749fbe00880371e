"""Which random numbers are which: keys, streams and purposes, in one list.

Every random number is a pure function of (seed, stream, step, purpose, its place among those): so a run that goes on,
or shares its rows out, needs no generator's state. The numbers below are part of what makes a run reproducible.
"""

from __future__ import annotations

from typing import NamedTuple


class Key(NamedTuple):
    """Which random numbers: a pure function of these three, so that nothing about randomness is ever saved."""

    seed: int
    stream: int
    step: int = 0


# The streams that a seed opens. PREPARING shuffles pictures and chooses patches.
MATRIX, TRAINING, VALIDATION, TEST, FITTING, TUNING, PREPARING = range(7)
# What is added to a stream for its hard signals (see `Problem.sample_weighted`).
HARD_STREAM = 64

# The purposes within a stream: sparse codes and noise, for signals; what is added to a matrix, how much of it, and the
# noise of `msigma`, for perturbation.
CODES, NOISE, ENTRIES, LEVELS, MORE_NOISE = range(5)
# The purpose, in the stream of matrices, of an encoder's random start.
START = 1
# The purpose of places: which pictures, and where in them.
PLACES = 0
