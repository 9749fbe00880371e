"""The CUDA kernels: their sources, one idea per file, and the small loader that compiles and launches them.

No function of this module is needed without a GPU. Kernels are always launched through a `Launcher`: on a GPU this is
`CudaLauncher`, and the tests have another one, which runs the same sources on the CPU.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from cuista.kernels.constants import DEFINITIONS

FOLDER = Path(__file__).parent

# How kernels are named for entries that are not single real numbers: single complex ones, and joint ones.
# A kernel without a version for single complex numbers takes them as joint entries.
JOINT = ("joint", "complex_joint")
KINDS = ("complex", *JOINT)
# The kernels that each file defines.
KERNELS = {
    "shrink": (*(f"shrink_rows_{items}_{width}" for items in (4, 8, 16, 32) for width in (1, 4)), "shrink_long_rows"),
    "shrink_joint": (
        *(f"shrink_complex_{items}" for items in (4, 8, 16, 32)),
        *(f"{name}_{kind}" for name in ("shrink_samples", "shrink_long_samples") for kind in JOINT),
    ),
    "long_rows": (
        *("select_digit", "shrink_parts"),
        *(f"{name}_{kind}" for name in ("select_digit", "shrink_parts") for kind in JOINT),
    ),
    "taps": ("taps", "sum_taps"),
    "maps": ("shrink_maps", "shrink_maps_backward"),
    "backward": (
        *("backward_rows_1", "backward_rows_4", "backward_columns", "sum_rows"),
        *(f"{name}_{kind}" for name in ("backward", "backward_columns") for kind in KINDS),
    ),
    "units": ("in_units",),
    "loss": ("half_squared_error",),
    "sample": ("sparse_codes", *(f"sparse_codes_{kind}" for kind in JOINT), "normal", "normal_complex"),
    "product": ("matmul_by_rows", "matmul_by_rows_complex"),
    "adam": ("track_loss", "adam"),
    "step": ("alista_step",),
    "step_joint": tuple(f"alista_step_{kind}" for kind in JOINT),
}
REALS = ("float", "double")


class Launcher(Protocol):
    """Runs a kernel."""

    def __call__(
        self, kernel: str, real: str, grid: int, block: int, arguments: Sequence[Any], shared: int = 0
    ) -> None:
        """Run `kernel`, compiled for `real` ("float" or "double"), on `grid` blocks of `block` threads.

        Arguments are contiguous arrays of the device and NumPy scalars, of exactly the types that the kernel declares;
        `shared` is the size of its dynamic shared memory in bytes.
        """


def source(file: str) -> str:
    """The text of a .cu file with its includes expanded, so that it compiles without a search path."""
    included: set[str] = set()

    def text(name: str) -> str:
        if name in included:
            return ""
        included.add(name)
        raw = (FOLDER / name).read_text(encoding="utf-8").replace("#pragma once\n", "")
        return re.sub(r'^#include "(.+)"\n', lambda match: text(match[1]), raw, flags=re.MULTILINE)

    return text(f"{file}.cu")


def options(real: str, architecture: str) -> tuple[str, ...]:
    """NVRTC's options: no contraction and no flushing of denormals, so that results have the bits of the definition.

    `architecture` is, for example, sm_90, or compute_90 for PTX.
    """
    constants = (f"-DREAL={real}", *DEFINITIONS)
    return (*constants, f"--gpu-architecture={architecture}", "--std=c++17", "--fmad=false", "--ftz=false")


class CudaLauncher:
    """Compiles kernels with NVRTC when they are first needed, and launches them on CuPy's current stream.

    The kernels belong to the GPU with this index, which must be CuPy's current device at every launch. Binaries are
    kept in CuPy's kernel cache (CUPY_CACHE_DIR, by default ~/.cupy/kernel_cache), so that they are compiled only once
    on a machine. CuPy's own compilation is not used because it flushes denormals.
    """

    def __init__(self, index: int) -> None:
        import cupy

        self._runtime = cupy.cuda.runtime
        self._device = cupy.cuda.Device(index)
        self._functions: dict[tuple[str, str], Any] = {}

    def __call__(
        self, kernel: str, real: str, grid: int, block: int, arguments: Sequence[Any], shared: int = 0
    ) -> None:
        if self._runtime.getDevice() != self._device.id:
            raise RuntimeError(
                f"this engine computes on cuda:{self._device.id}, but this thread's current device is "
                f"cuda:{self._runtime.getDevice()}: compute `with ops.computing():`"
            )
        function = self._functions.get((kernel, real))
        if function is None:
            file = next(file for file, kernels in KERNELS.items() if kernel in kernels)
            self._load(file, real)
            function = self._functions[kernel, real]
        function((grid,), (block,), tuple(arguments), shared)

    def _load(self, file: str, real: str) -> None:
        import cupy
        from cupy.cuda import nvrtc

        capability = self._device.compute_capability
        architecture = choose_architecture(capability, nvrtc.getSupportedArchs())
        text, flags = source(file), options(real, architecture)
        key = hashlib.sha256(repr((text, flags, nvrtc.getVersion())).encode()).hexdigest()[:32]
        folder = Path(os.environ.get("CUPY_CACHE_DIR") or Path.home() / ".cupy" / "kernel_cache")
        path = folder / f"cuista-{file}-{key}"
        module = cupy.cuda.Module()
        try:
            module.load(path.read_bytes())
        except (OSError, cupy.cuda.driver.CUDADriverError):  # missing or damaged
            binary = compile_source(nvrtc, text, file, flags, machine_code=architecture.startswith("sm_"))
            module.load(binary)
            _keep(binary, path)
        for kernel in KERNELS[file]:
            self._functions[kernel, real] = module.get_function(kernel)


def choose_architecture(capability: str, known: Sequence[int]) -> str:
    """Choose what to compile to: a GPU's own machine code or, if NVRTC does not know it, PTX for its driver to compile.

    `capability` is, for example, "90", and `known` lists the architectures that NVRTC knows.
    """
    if int(capability) in known:
        return f"sm_{capability}"
    older = [architecture for architecture in known if architecture < int(capability)]
    if not older:
        raise RuntimeError(f"NVRTC compiles for compute capability {min(known)} and up, and the GPU has {capability}")
    return f"compute_{max(older)}"


def compile_source(nvrtc: Any, text: str, file: str, flags: tuple[str, ...], *, machine_code: bool) -> bytes:
    """Compile to machine code or PTX with `nvrtc`, CuPy's NVRTC binding.

    Raises
    ------
    RuntimeError
        If the text does not compile, with the compiler's messages.
    """
    program = nvrtc.createProgram(text, f"{file}.cu", (), ())
    try:
        nvrtc.compileProgram(program, flags)
        binary = nvrtc.getCUBIN(program) if machine_code else nvrtc.getPTX(program)
    except nvrtc.NVRTCError as error:
        raise RuntimeError(f"kernels/{file}.cu does not compile: {error}\n{nvrtc.getProgramLog(program)}") from error
    finally:
        nvrtc.destroyProgram(program)
    return binary if isinstance(binary, bytes) else binary.encode()


def _keep(binary: bytes, path: Path) -> None:
    """Put a binary into the cache. If that fails (in a read-only home, say), every process compiles for itself."""
    part = path.with_name(f"{path.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(binary)
        part.replace(path)
