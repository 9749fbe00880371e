"""The numerical primitives: one readable definition, and engines that must agree with it.

`ReferenceOps` defines every primitive in plain NumPy. `CpuOps` overrides what it can do faster, with the same
names, signatures and results; it is what training and recovery use.
"""

from cuista.ops.cpu import CpuOps
from cuista.ops.reference import Bernoulli, Key, Normal, ReferenceOps

__all__ = ["Bernoulli", "CpuOps", "Key", "Normal", "ReferenceOps"]
