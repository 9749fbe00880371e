"""Which device computes, and why a GPU cannot."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import Any

from cuista.errors import DeviceError

INSTALL_CUPY = "pip install 'cupy-cuda13x[ctk]' (or, for a driver older than 580, 'cupy-cuda12x[ctk]')"


@dataclass(frozen=True)
class Device:
    """A place to compute: `Device("cpu")` or `Device("cuda:0")`."""

    name: str

    def __str__(self) -> str:
        return self.name

    @property
    def index(self) -> int | None:
        """Which GPU; None for the CPU."""
        return int(self.name[5:]) if self.name.startswith("cuda:") else None


def parse_device(text: str) -> Device:
    """The device that `auto`, `cpu`, `cuda` or `cuda:N` names. `auto` is cuda:0 if it can be used, else the CPU.

    Raises
    ------
    DeviceError
        If the text is none of these, or names a GPU that cannot be used; the message says why not.
    """
    if text == "cpu":
        return Device("cpu")
    if text == "auto":
        return Device("cpu" if why_no_cuda() or why_not(0) else "cuda:0")
    if not re.fullmatch(r"cuda(:(0|[1-9]\d*))?", text):
        raise DeviceError(f"unknown device {text!r}: expected auto, cpu or cuda:N")
    device = Device(text if ":" in text else "cuda:0")
    reason = why_no_cuda() or why_not(device.index or 0)
    if reason:
        raise DeviceError(
            f"device {text!r} cannot be used: {reason}. Compute on the CPU, or see cuista doctor", option="device"
        )
    return device


@cache
def why_no_cuda() -> str | None:
    """Why no GPU can be used; None if there is at least one to try."""
    packages = cupy_packages()
    if len(packages) > 1:
        return f"several CuPy packages are installed ({', '.join(packages)}), which exclude each other: keep one"
    try:
        import cupy
    except ImportError as error:
        if not packages:
            return f"CuPy is not installed: {INSTALL_CUPY}"
        return f"CuPy ({packages[0]}) cannot be imported: {_first_line(error)}"
    runtime = cupy.cuda.runtime
    try:
        if runtime.getDeviceCount():
            return None
    except Exception as error:  # whatever the driver or its absence makes CuPy raise
        if "NoDevice" in str(error):
            return "there is no NVIDIA GPU (or CUDA_VISIBLE_DEVICES hides it)"
        driver, needed = runtime.driverGetVersion(), runtime.runtimeGetVersion()
        if driver == 0:
            return "there is no NVIDIA driver"
        if driver // 1000 < needed // 1000:
            versions = f"{packages[0]} is for CUDA {_version(needed)}, and the driver is for {_version(driver)}"
            return f"{versions}: install a newer driver or another CuPy, {INSTALL_CUPY}"
        return f"the NVIDIA driver does not work: {_first_line(error)}"
    return "there is no NVIDIA GPU (or CUDA_VISIBLE_DEVICES hides it)"


@cache
def why_not(index: int) -> str | None:
    """Why this GPU cannot be used; None if it can, tried by compiling and running a kernel and a matrix product."""
    import cupy

    count = cupy.cuda.runtime.getDeviceCount()
    if index >= count:
        return f"there are {count} GPUs, the last one cuda:{count - 1}"
    trial = 'extern "C" __global__ void trial(float* a) { a[threadIdx.x] += 1; }'
    try:
        with cupy.cuda.Device(index):
            ones = cupy.ones((32, 32), cupy.float32)
            cupy.RawKernel(trial, "trial")((1,), (32,), (ones,))
            total = float((ones @ ones).sum())
    except Exception as error:  # NVRTC, cuBLAS or the driver; each has exceptions of its own
        return f"a trial failed, {_first_line(error)} (are NVRTC and cuBLAS there? {INSTALL_CUPY} brings them)"
    # The kernel made the first row's entries 2: columns sum up to 33, and rows to 33 on average.
    return None if total == 33 * 33 * 32 else f"a trial gave {total}, which is wrong"


def cupy_packages() -> list[str]:
    """The CuPy packages that are installed, with versions; there should be at most one."""
    found = ((item.metadata["Name"] or "", item.version) for item in metadata.distributions())
    return sorted({f"{name} {version}" for name, version in found if re.fullmatch(r"cupy(-cuda\d+x|-rocm.*)?", name)})


def describe_cuda() -> dict[str, Any]:
    """Versions, and for each GPU its name, memory in bytes, compute capability and why it cannot be used, if so."""
    reason = why_no_cuda()
    report: dict[str, Any] = {"cupy": cupy_packages(), "reason": reason, "gpus": []}
    if reason:
        return report
    import cupy

    runtime = cupy.cuda.runtime
    report["driver"] = _version(runtime.driverGetVersion())
    report["runtime"] = _version(runtime.runtimeGetVersion())
    try:
        report["nvrtc"] = ".".join(map(str, cupy.cuda.nvrtc.getVersion()))
    except Exception as error:  # it is loaded only now
        report["nvrtc"] = f"missing: {_first_line(error)}"
    for index in range(runtime.getDeviceCount()):
        gpu: dict[str, Any] = {"device": f"cuda:{index}"}
        report["gpus"].append(gpu)
        try:
            properties = runtime.getDeviceProperties(index)
            gpu["name"] = properties["name"].decode()
            gpu["compute_capability"] = f"{properties['major']}.{properties['minor']}"
            with cupy.cuda.Device(index):
                gpu["memory_free"], gpu["memory"] = runtime.memGetInfo()
        except Exception as error:  # busy in exclusive mode, say
            gpu["reason"] = _first_line(error)
        else:
            gpu["reason"] = why_not(index)
    return report


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
