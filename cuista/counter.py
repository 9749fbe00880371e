"""The keys, streams and purposes of random numbers, in one list.

Every random number is a pure function of its seed, stream, step, purpose and index. So a run that is continued, or
whose rows are shared out, needs no generator's state. If a constant below changed, runs could not be reproduced.
"""

from __future__ import annotations

from typing import NamedTuple


class Key(NamedTuple):
    """The key of a set of random numbers, which alone determines them, so that no generator's state is ever saved."""

    seed: int
    stream: int
    step: int = 0


# The streams of a seed, one for each use of random numbers. PREPARING shuffles pictures and chooses patches.
MATRIX, TRAINING, VALIDATION, TEST, FITTING, TUNING, PREPARING = range(7)
# The offset from a stream to the stream of its hard signals (see `Problem.sample_weighted`).
HARD_STREAM = 64

# The purposes within a stream. For signals: sparse codes and measurement noise. For perturbed matrices: the entries
# that are added, the levels that scale them, and the measurement noise of `msigma`.
CODES, NOISE, ENTRIES, LEVELS, MORE_NOISE = range(5)
# The purpose of an encoder's random start, in the stream MATRIX.
START = 1
# The purpose of choosing pictures, and places in them.
PLACES = 0
