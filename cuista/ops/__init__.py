"""The numerical primitives: one readable definition, and engines that must agree with it.

`ReferenceOps` defines every primitive in plain NumPy. `CpuOps` and `CudaOps` override what they can do faster, with the
same names, signatures and results.
"""

from __future__ import annotations

from cuista.device import Device, parse_device
from cuista.ops.cpu import CpuOps
from cuista.ops.cuda import CudaOps
from cuista.ops.reference import Bernoulli, FusedStep, Normal, ReferenceOps, Scalar, Signals

__all__ = ["Bernoulli", "CpuOps", "CudaOps", "FusedStep", "Normal", "ReferenceOps", "Scalar", "Signals", "engine"]


def engine(device: Device | str = "auto") -> ReferenceOps:
    """The engine that computes on a device: `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises
    ------
    DeviceError
        If the device cannot be used; the message says why.
    """
    if isinstance(device, str):
        device = parse_device(device)
    return CpuOps() if device.index is None else CudaOps.on(device)
