"""The constants that the kernels share with Python. Compilers receive them as definitions."""

from __future__ import annotations

from cuista.counter import CODES, HARD_STREAM, NOISE

# What became of an entry in `shrink_select`: the low two bits of its code …
OFF, PASSED, SHRUNK_UP, SHRUNK_DOWN = range(4)
KIND = 3
# … and a flag: it is among the k largest, and so close to the threshold that a small change decides whether it passes.
NEAR = 4

# Adam's constants.
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8

# How many rows of a matrix a product with a sparse vector (list.cuh) gathers before it waits for one.
AT_ONCE = 8
# How many bits of a key each launch of select_digit finds in long rows.
DIGIT = 11

# How many samples the native code takes through all layers together, so that each reads a part of the matrix that the
# others have brought into the cache.
SHARD = 32
# The same where no sum over samples depends on it. A large matrix is read from memory once for so many samples.
LARGE_SHARD = 128
# The most places of a convolutional network's maps that the native code takes together, and the pixels after the end of
# an image to which it may add 0.
MOST_ABREAST, SPARE_PIXELS = 4, 4
# The number of the native library's interface, which changes whenever the arguments of a function do.
INTERFACE = 11

_CODES = {"OFF": OFF, "PASSED": PASSED, "SHRUNK_UP": SHRUNK_UP, "SHRUNK_DOWN": SHRUNK_DOWN}
_FLAGS = {"KIND": KIND, "NEAR": NEAR}
_DRAWN = {"CODES": CODES, "NOISE": NOISE, "HARD_STREAM": HARD_STREAM}
_STEPS = {"BETA1": BETA1, "BETA2": BETA2, "EPSILON": EPSILON, "AT_ONCE": AT_ONCE, "DIGIT": DIGIT}
_NATIVE = {"SHARD": SHARD, "LARGE_SHARD": LARGE_SHARD, "INTERFACE": INTERFACE}
_NATIVE |= {"MOST_ABREAST": MOST_ABREAST, "SPARE_PIXELS": SPARE_PIXELS}
# All of them as compiler options.
DEFINITIONS = tuple(f"-D{name}={value}" for name, value in {**_CODES, **_FLAGS, **_DRAWN, **_STEPS, **_NATIVE}.items())
