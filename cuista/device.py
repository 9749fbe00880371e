"""Devices: which one computes, and why a GPU cannot be used."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

from cuista.errors import DeviceError

# Where Open MPI, MPICH and Intel MPI, MVAPICH, Slurm and torchrun say which of a machine's processes this is.
LOCAL_RANKS = (
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "MPI_LOCALRANKID",
    "MV2_COMM_WORLD_LOCAL_RANK",
    "SLURM_LOCALID",
    "LOCAL_RANK",
)
INSTALL_CUPY = "pip install 'cupy-cuda13x[ctk]' (or, for a driver older than 580, 'cupy-cuda12x[ctk]')"


@dataclass(frozen=True)
class Device:
    """A device that computes: `Device("cpu")` or `Device("cuda:0")`."""

    name: str

    def __str__(self) -> str:
        return self.name

    @property
    def index(self) -> int | None:
        """The number of the GPU; None for the CPU."""
        return int(self.name[5:]) if self.name.startswith("cuda:") else None


def parse_device(text: str) -> Device:
    """The device that a text names: `auto`, `cpu`, `cuda` or `cuda:N`.

    `cuda` stands for `cuda:0`, or where several processes of a job run on one machine, for one of its GPUs in turn.
    `auto` stands for the same GPU if that can be used, and for the CPU otherwise.

    Raises
    ------
    DeviceError
        If the text is none of these, or if it names a GPU that cannot be used; the message says why not.
    """
    if text == "cpu":
        return Device("cpu")
    if text == "auto":
        return Device("cpu" if why_no_cuda() or why_not(own_gpu()) else f"cuda:{own_gpu()}")
    if not re.fullmatch(r"cuda(:(0|[1-9]\d*))?", text):
        raise DeviceError(f"there is no device {text!r}; expected auto, cpu or cuda:N", option="device")
    reason = why_no_cuda()
    device = Device(text if reason or ":" in text else f"cuda:{own_gpu()}")
    reason = reason or why_not(device.index or 0)
    if reason:
        raise DeviceError(
            f"device {text!r} cannot be used: {reason}. See cuista doctor, or compute on the CPU", option="device"
        )
    return device


def own_gpu() -> int:
    """The number of the GPU for this process: the jobs' processes on a machine take its visible GPUs in turn."""
    import cupy

    numbers = (os.environ.get(name, "") for name in LOCAL_RANKS)
    local = next((int(number) for number in numbers if number.isascii() and number.isdigit()), 0)
    return int(local % max(cupy.cuda.runtime.getDeviceCount(), 1))


@cache
def why_no_cuda() -> str | None:
    """The reason why no GPU can be used; None if there is at least one to try."""
    packages = cupy_packages()
    if len(packages) > 1:
        return f"several CuPy packages are installed ({', '.join(packages)}), which get in each other's way: keep one"
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
    except Exception as error:  # a faulty or missing driver makes CuPy raise many kinds of exception
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
    """The reason why this GPU cannot be used; None if it can.

    A kernel is compiled and run, and a matrix product is computed, because CuPy may be installed without the CUDA
    libraries that these need.
    """
    import cupy

    count = cupy.cuda.runtime.getDeviceCount()
    if index >= count:
        return f"the last GPU is cuda:{count - 1}"
    trial = 'extern "C" __global__ void trial(float* a) { a[threadIdx.x] += 1; }'
    try:
        with cupy.cuda.Device(index):
            ones = cupy.ones((32, 32), cupy.float32)
            cupy.RawKernel(trial, "trial")((1,), (32,), (ones,))
            total = float((ones @ ones).sum())
    except Exception as error:  # NVRTC, cuBLAS and the driver have exceptions of their own
        return f"a trial failed, {_first_line(error)} (are NVRTC and cuBLAS installed? {INSTALL_CUPY} brings them)"
    # The kernel raises the entries of the first row to 2, so that columns sum to 33, and rows to 33 on average.
    return None if total == 33 * 33 * 32 else f"a trial gave {total}, which is wrong; expected {33 * 33 * 32}"


def cupy_packages() -> list[str]:
    """The installed CuPy packages, with their versions. There should be at most one."""
    if "cupy" not in sys.modules and find_spec("cupy") is None:
        return []  # to read what is known of all packages takes longer than most commands need to start
    from importlib import metadata

    found = ((item.metadata["Name"] or "", item.version) for item in metadata.distributions())
    return sorted({f"{name} {version}" for name, version in found if re.fullmatch(r"cupy(-cuda\d+x|-rocm.*)?", name)})


def describe_cuda() -> dict[str, Any]:
    """Describe the CUDA installation: versions, and the GPUs.

    Each GPU has its name, memory in bytes and compute capability, and the reason why it cannot be used, or None.
    """
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
    except Exception as error:  # NVRTC is loaded only now, and may be missing
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
        except Exception as error:  # for example because another process uses the GPU exclusively
            gpu["reason"] = _first_line(error)
        else:
            gpu["reason"] = why_not(index)
    return report


def _version(number: int) -> str:
    """CUDA's version number as text: 12040 is 12.4."""
    return f"{number // 1000}.{number % 1000 // 10}"


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
