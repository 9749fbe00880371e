"""The constants that the kernels share with Python: compilers are given them as definitions."""

from __future__ import annotations

from cuista.counter import CODES, HARD_STREAM, NOISE

# What became of an entry in `shrink_select`: the low two bits of its code …
OFF, PASSED, SHRUNK_UP, SHRUNK_DOWN = range(4)
KIND = 3
# … and a flag: among the k largest, and so close to the threshold that a small change of it decides its fate.
NEAR = 4

# Adam's constants.
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8

# How many rows of a matrix the fused step gathers before it waits for one.
AT_ONCE = 8
# How many bits of a key are found at a time in long rows.
DIGIT = 11

_CODES = {"OFF": OFF, "PASSED": PASSED, "SHRUNK_UP": SHRUNK_UP, "SHRUNK_DOWN": SHRUNK_DOWN}
_FLAGS = {"KIND": KIND, "NEAR": NEAR}
_DRAWN = {"CODES": CODES, "NOISE": NOISE, "HARD_STREAM": HARD_STREAM}
_STEPS = {"BETA1": BETA1, "BETA2": BETA2, "EPSILON": EPSILON, "AT_ONCE": AT_ONCE, "DIGIT": DIGIT}
# All of them as options of a compiler.
DEFINITIONS = tuple(f"-D{name}={value}" for name, value in {**_CODES, **_FLAGS, **_DRAWN, **_STEPS}.items())
