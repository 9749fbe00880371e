"""The keys, streams and purposes of random numbers, in one list.

Every random number is a pure function of its seed, stream, step, purpose and index. Therefore no generator state is
needed to continue a run or to distribute its rows. If a constant below changed, runs could not be reproduced.
"""

from __future__ import annotations

from typing import NamedTuple


class Key(NamedTuple):
    """The key of a set of random numbers, which alone determines them, so that no generator state is ever saved."""

    seed: int
    stream: int
    step: int = 0


# The streams of a seed, one for each use of random numbers. PREPARING shuffles pictures and chooses patches, and
# JUDGING draws the signals with which answers are compared.
MATRIX, TRAINING, VALIDATION, TEST, FITTING, TUNING, PREPARING, JUDGING = range(8)
# The offset from a stream to the stream of its hard signals (see `Problem.sample_weighted`).
HARD_STREAM = 64

# The purposes within a stream. CODES and NOISE are the sparse codes and the measurement noise of signals. ENTRIES are
# added to perturbed matrices, LEVELS scale these entries, and MORE_NOISE is the measurement noise of `msigma`.
CODES, NOISE, ENTRIES, LEVELS, MORE_NOISE = range(5)
# The purpose of an encoder's random start, in the stream MATRIX.
START = 1
# The purposes of a sampling mask, and of the random signals that probe an operator, in the stream MATRIX.
MASK, PROBES = 2, 3
# The purpose of choosing pictures and places in them.
PLACES = 0
