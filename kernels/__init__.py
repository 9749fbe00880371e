"""The CUDA kernels: sources, one idea a file, and the small loader that compiles and launches them.

Nothing here is needed without a GPU. Whoever launches kernels does it through a `Launcher`; on a GPU that is
`CudaLauncher`, and the tests have another one, which runs the same sources on the CPU.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

FOLDER = Path(__file__).parent

# Which kernels each file has.
KERNELS = {
    "shrink": (
        *(f"shrink_rows_{items}_{width}" for items in (4, 8, 16, 32) for width in (1, 4)),
        "shrink_long_rows",
    ),
    "backward": ("backward_rows", "backward_columns", "sum_rows"),
    "sample": ("sparse_codes", "normal"),
    "adam": ("track_loss", "adam"),
    "step": ("alista_step",),
}
REALS = ("float", "double")


class Launcher(Protocol):
    """Runs a kernel."""

    def __call__(
        self, kernel: str, real: str, grid: int, block: int, arguments: Sequence[Any], shared: int = 0
    ) -> None:
        """Run `kernel`, compiled for `real` ("float" or "double"), on `grid` blocks of `block` threads.

        Arguments are contiguous arrays of the device and NumPy scalars, of just the types that the kernel declares;
        `shared` is its dynamic shared memory in bytes.
        """


def source(file: str) -> str:
    """The text of a .cu file, with the files it includes in their place, so that it compiles without a search path."""
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

    `architecture` is like sm_90, or like compute_90 for PTX.
    """
    return (f"-DREAL={real}", f"--gpu-architecture={architecture}", "--std=c++17", "--fmad=false", "--ftz=false")


class CudaLauncher:
    """Compiles kernels with NVRTC when they are first needed, and launches them on CuPy's current device and stream.

    Binaries are kept in CuPy's kernel cache (CUPY_CACHE_DIR, ~/.cupy/kernel_cache), so that this happens once on a
    machine. CuPy's own way of compiling is not used: it flushes denormals.
    """

    def __init__(self) -> None:
        import cupy

        self._device = cupy.cuda.Device()
        self._functions: dict[tuple[str, str], Any] = {}

    def __call__(
        self, kernel: str, real: str, grid: int, block: int, arguments: Sequence[Any], shared: int = 0
    ) -> None:
        function = self._functions.get((kernel, real))
        if function is None:
            file = next(file for file, kernels in KERNELS.items() if kernel in kernels)
            self._load(file, real)
            function = self._functions[kernel, real]
        function((grid,), (block,), tuple(arguments), shared_mem=shared)

    def _load(self, file: str, real: str) -> None:
        import cupy
        from cupy.cuda import nvrtc

        capability = self._device.compute_capability
        known = nvrtc.getSupportedArchs()
        # A GPU newer than NVRTC gets PTX, which its driver compiles.
        architecture = f"sm_{capability}" if int(capability) in known else f"compute_{max(known)}"
        text, flags = source(file), options(real, architecture)
        key = hashlib.sha256(repr((text, flags, nvrtc.getVersion())).encode()).hexdigest()[:32]
        ending = "cubin" if architecture.startswith("sm_") else "ptx"
        folder = Path(os.environ.get("CUPY_CACHE_DIR") or Path.home() / ".cupy" / "kernel_cache")
        path = folder / f"cuista-{file}-{key}.{ending}"
        if path.exists():
            module = cupy.RawModule(path=str(path))
        else:
            binary = compile_source(nvrtc, text, file, flags)
            with tempfile.NamedTemporaryFile(suffix=f".{ending}", delete=False) as temporary:
                temporary.write(binary)
            module = cupy.RawModule(path=temporary.name)
            module.get_function(KERNELS[file][0])  # loads it
            _keep(Path(temporary.name), path)
        for kernel in KERNELS[file]:
            self._functions[kernel, real] = module.get_function(kernel)


def compile_source(nvrtc: Any, text: str, file: str, flags: tuple[str, ...]) -> bytes:
    """Compile with `nvrtc`, CuPy's binding of it.

    Raises
    ------
    RuntimeError
        With the compiler's messages.
    """
    program = nvrtc.createProgram(text, f"{file}.cu", (), ())
    try:
        nvrtc.compileProgram(program, flags)
        binary = nvrtc.getCUBIN(program) if "=sm_" in flags[1] else nvrtc.getPTX(program)
    except nvrtc.NVRTCError as error:
        raise RuntimeError(f"kernels/{file}.cu does not compile: {error}\n{nvrtc.getProgramLog(program)}") from error
    finally:
        nvrtc.destroyProgram(program)
    return binary if isinstance(binary, bytes) else binary.encode()


def _keep(temporary: Path, path: Path) -> None:
    """Move a binary into the cache; without one (a read-only home, say) every process compiles for itself."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{os.getpid()}")
        part.write_bytes(temporary.read_bytes())
        part.replace(path)
    except OSError:
        pass
    temporary.unlink()
