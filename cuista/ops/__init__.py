"""The numerical primitives: one readable definition, and engines that must agree with it.

`ReferenceOps` defines every primitive in plain NumPy. `CpuOps`, `NativeOps` and `CudaOps` override what they can do
faster, with the same names, signatures and results.
"""

from __future__ import annotations

import os
from functools import cache

from cuista.device import Device, parse_device
from cuista.errors import InputError
from cuista.kernels import native as library
from cuista.messages import warn
from cuista.ops.cpu import CpuOps
from cuista.ops.cuda import CudaOps
from cuista.ops.native import NativeOps
from cuista.ops.reference import Bernoulli, FusedStep, Normal, OuterSum, OuterSums, ReferenceOps, Scalar, Signals

__all__ = [
    "Bernoulli",
    "CpuOps",
    "CudaOps",
    "FusedStep",
    "NativeOps",
    "Normal",
    "OuterSum",
    "OuterSums",
    "ReferenceOps",
    "Scalar",
    "Signals",
    "engine",
    "why_not_native",
]

# Why NumPy computes if the user has chosen it.
NUMPY_CHOSEN = "CUISTA_ENGINE is numpy"


def engine(device: Device | str = "auto") -> ReferenceOps:
    """The engine that computes on a device: `auto`, `cpu`, `cuda` or `cuda:N`.

    On the CPU, it is `NativeOps` if the native library can be used, and otherwise `CpuOps`, which computes with NumPy
    and SciPy. The environment variable CUISTA_ENGINE chooses: `native` or `numpy`.

    Raises
    ------
    DeviceError
        If the device cannot be used; the message says why.
    InputError
        If CUISTA_ENGINE names no engine, or the native one, which cannot be used.

    Warns
    -----
    UserWarning
        Once, if the native library was compiled but cannot be used, and CUISTA_ENGINE does not choose NumPy.
    """
    if isinstance(device, str):
        device = parse_device(device)
    if device.index is not None:
        return CudaOps.on(device)
    reason = why_not_native()
    if reason is None:
        return NativeOps()
    if reason != NUMPY_CHOSEN and library.installed():
        _warn_once(reason)
    return CpuOps()


@cache
def _warn_once(reason: str) -> None:
    """Warn that NumPy computes although a native library was compiled."""
    warn(
        f"NumPy computes, more slowly than the native engine: {reason}. CUISTA_ENGINE=numpy chooses NumPy without this "
        "warning",
        stacklevel=3,
    )


def why_not_native() -> str | None:
    """The reason why the CPU computes with NumPy's engine; None if it computes with the native one."""
    chosen = os.environ.get("CUISTA_ENGINE", "")
    if chosen not in ("", "native", "numpy"):
        raise InputError(f"CUISTA_ENGINE is {chosen!r}; expected native or numpy, or leave it unset")
    if chosen == "numpy":
        return NUMPY_CHOSEN
    reason = library.why_not()
    if reason and chosen == "native":
        raise InputError(f"CUISTA_ENGINE is native, but {reason}. Unset it to compute with NumPy, more slowly")
    return reason
