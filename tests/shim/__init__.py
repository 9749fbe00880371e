"""CUDA sources run on the CPU: compiled as C++ against `cuda.h`, in a worker process, under sanitizers.

The threads of a block are fibers of one thread of the worker, which run in a given order and change only at barriers
and warp operations. What a GPU leaves undefined is an error here, and says where.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

FOLDER = Path(__file__).parent
KERNEL = re.compile(
    r'extern\s*"C"\s*__global__\s+(?:__launch_bounds__\s*\((?P<bound>[^{;]*?)\)\s*)?void\s+'
    r"(?:__launch_bounds__\s*\((?P<bound2>[^{;]*?)\)\s*)?(?P<name>\w+)\s*\((?P<parameters>[^)]*)\)\s*{"
)
# Two tools end with abort(), which the worker uses to add where it was. ThreadSanitizer must not: it would do so with
# locks held. Its reports name blocks and threads anyway.
OPTIONS = {
    "ASAN_OPTIONS": "abort_on_error=1:detect_leaks=0:detect_stack_use_after_return=0:print_legend=0",
    "UBSAN_OPTIONS": "abort_on_error=1:print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1:report_thread_leaks=0:report_signal_unsafe=0",
}


class KernelError(Exception):
    """A kernel did what it must not, could not be compiled, or was called wrongly."""


@functools.cache
def compiler() -> str | None:
    """The C++ compiler: $CXX, or the first of g++, clang++ and c++ that there is."""
    for name in [os.environ.get("CXX"), "g++", "clang++", "c++"]:
        if name and (path := shutil.which(name)):
            return path
    return None


@functools.cache
def _version(path: str) -> str:
    return subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout


@functools.cache
def _without_aslr() -> list[str]:
    """The beginning of a command line that switches address randomisation off, if that is possible here.

    Sanitizers of a compiler older than the system can fail where addresses are very random.
    """
    command = ["setarch", os.uname().machine, "-R"]
    able = shutil.which("setarch") and subprocess.run([*command, "true"], capture_output=True).returncode == 0
    return command if able else []


class _Parameter(NamedTuple):
    name: str
    pointer: bool
    constant: bool
    kind: str
    item: int
    size: int

    @property
    def expected(self) -> str:
        kind = {"f": "floats", "i": "integers", "V": "structs", "v": "anything"}[self.kind]
        return f"{'an array' if self.pointer else 'a scalar'} of {kind} of {self.item} bytes"


class _Kernel(NamedTuple):
    bound: int
    parameters: list[_Parameter]


class HostLauncher:
    """Runs kernels on the CPU."""

    def __init__(
        self,
        sources: Sequence[Path],
        real: str,
        cache: Path,
        *,
        sanitize: str = "address,undefined",
        arch: int = 750,
        order: int = 0,
    ) -> None:
        """Take all kernels of the sources, with REAL defined as `real`; they are compiled for the first launch.

        `sanitize` is what -fsanitize takes: "address,undefined", "thread", which finds data races, or "". Threads, and
        blocks, run in ascending `order` (0), descending (1), or shuffled by a seed (2 and up).
        """
        self.sources = [Path(source).resolve() for source in sources]
        self.cache = Path(cache)
        self.sanitize = sanitize
        self.order = order
        tools = sanitize.split(",") if sanitize else []
        self._flags = ["-std=c++17", "-g1", "-O1" if tools else "-O2"]
        self._defines = [f"-DREAL={real}", f"-D__CUDA_ARCH__={arch}"]
        self._tools = [f"-fsanitize={tool}" for tool in tools]
        self._worker_defines = [f"-DSHIM_{tool[0].upper()}SAN" for tool in tools]
        self._end: weakref.finalize | None = None

    # ---- building

    def _compile(self, arguments: Sequence[object], output: Path | None = None) -> str:
        """Run the compiler and return what it prints; its output appears complete or not at all."""
        path = compiler()
        if path is None:
            raise KernelError("there is no C++ compiler: install g++ or clang++, or name one in $CXX")
        temporary = output and output.with_name(f"{output.name}.{os.getpid()}.tmp")
        done = subprocess.run(
            [path, *map(str, arguments), *(["-o", str(temporary)] if temporary else [])],
            capture_output=True,
            text=True,
            errors="replace",
        )
        if done.returncode:
            raise KernelError(f"{', '.join(source.name for source in self.sources)} cannot be compiled:\n{done.stderr}")
        if output and temporary:
            temporary.replace(output)
        return done.stdout

    def _build(self) -> Path:
        """The worker's executable, from the cache if it was built of the same texts before."""
        path = compiler()
        folders = sorted({source.parent for source in self.sources})
        texts = [*self.sources, *(text for folder in folders for text in sorted(folder.glob("*.cuh")))]
        texts += [FOLDER / name for name in ("__init__.py", "cuda.h", "worker.cpp")]
        hash_ = hashlib.sha256(repr((path and _version(path), self._flags, self._defines, self._tools)).encode())
        for text in texts:
            hash_.update(f"{text} {text.stat().st_size}\n".encode() + text.read_bytes())
        name = hash_.hexdigest()[:20]
        executable = self.cache / f"{name}.exe"
        if executable.exists():
            return executable
        self.cache.mkdir(parents=True, exist_ok=True)

        main = self.cache / f"{name}.{os.getpid()}.cpp"
        sources = "".join(f'#include "{source}"\n' for source in self.sources)
        kernel_flags = [
            *self._flags,
            *self._defines,
            *(f"-I{folder}" for folder in folders),
            *("-fno-strict-aliasing", "-ffp-contract=off", "-include", FOLDER / "cuda.h"),
        ]
        # The preprocessor leaves those that are compiled for this architecture, without comments and macros.
        main.write_text(sources)
        text = self._compile([*kernel_flags, "-DSHIM_FIND_KERNELS", "-E", "-P", main])
        register = []
        for match in KERNEL.finditer(text):
            names = ",".join(re.findall(r"(\w+)\s*(?:,|$)", match["parameters"].strip()))
            bound = match["bound"] or match["bound2"] or "0"
            register.append(
                f"static shim::Kernel shim_{match['name']} = shim::Call<{match['name']}>::kernel("
                f'"{match["name"]}", "{names}", shim::first({bound}));\n'
            )
        if not register:
            raise KernelError(f'no kernel (extern "C" __global__ void …) in {", ".join(map(str, self.sources))}')
        main.write_text(sources + "".join(register))

        sanitizers = [*self._tools]
        if self._tools:
            sanitizers += ["-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
        if "-fsanitize=address" in self._tools and "Free Software Foundation" in _version(str(path)):
            sanitizers += ["-fsanitize-sections=cuda.shared.*"]  # gcc leaves variables in sections alone unless told
        kernels, worker = (self.cache / f"{name}.{os.getpid()}.{part}.o" for part in ("kernels", "worker"))
        try:
            self._compile([*kernel_flags, *sanitizers, "-c", main], kernels)
            self._compile([*self._flags, "-O2", *self._worker_defines, "-c", FOLDER / "worker.cpp"], worker)
            self._compile([*self._tools, kernels, worker], executable)
        finally:
            for leftover in (main, kernels, worker):
                leftover.unlink(missing_ok=True)
        return executable

    # ---- the worker

    def _start(self) -> None:
        executable = self._build()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed by _end)
        self._process = subprocess.Popen(
            [*_without_aslr(), str(executable)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={**os.environ, **OPTIONS},
        )
        self._end = weakref.finalize(self, _end, self._process, self._stderr)
        self._kernels: dict[str, _Kernel] = {}
        while line := self._process.stdout.readline().decode().rstrip("\n"):
            name, names, bound, *parameters = line.split("\t")
            split = [words.split() for words in parameters]
            self._kernels[name] = _Kernel(
                int(bound),
                [
                    _Parameter(called, pointer == "1", constant == "1", kind, int(item), int(size))
                    for called, (pointer, constant, kind, item, size) in zip(
                        names.split(","), split, strict=bool(split)
                    )
                ],
            )
        if not self._kernels:
            raise self._died("the worker does not start")

    def _died(self, what: str) -> KernelError:
        """The error that ended the worker, in its own words."""
        status = self._process.wait()
        self._stderr.seek(0)
        said = self._stderr.read().decode(errors="replace").strip()
        self.close()
        # AddressSanitizer's map of the memory says nothing to a human.
        said = re.sub(r"\nShadow bytes around.*?\n==\d+==ABORTING", "", said, flags=re.DOTALL)
        report, last = re.match(r"(.*?)^(kernel \w+[,:].*)?\Z", f"{said}\n", re.DOTALL | re.MULTILINE).groups()
        first = last or f"{what}: {'' if report.strip() else f'the worker ended with status {status}, without a word'}"
        return KernelError(f"{first.rstrip()}\n{report}".rstrip())

    def close(self) -> None:
        """End the worker; the next launch starts a new one."""
        if self._end:
            self._end()
            self._end = None

    # ---- launches

    def __call__(
        self,
        kernel: str,
        grid: int,
        block: int,
        arguments: Sequence[np.ndarray | np.generic | None],
        shared: int = 0,
    ) -> None:
        """Run a kernel with so many blocks, threads in a block and bytes of dynamic shared memory.

        Arrays behind pointers that are not const are changed in place.
        """
        if self._end is None:
            self._start()
        if kernel not in self._kernels:
            raise KernelError(f"no kernel {kernel}: there are {', '.join(sorted(self._kernels))}")
        bound, parameters = self._kernels[kernel]
        if not (grid >= 1 and 1 <= block <= (bound or 1024)):
            raise KernelError(f"kernel {kernel}: {grid} blocks of {block} threads; at most {bound or 1024} threads")
        if len(arguments) != len(parameters):
            raise KernelError(f"kernel {kernel} takes {len(parameters)} arguments, not {len(arguments)}")
        for index, (argument, parameter) in enumerate(zip(arguments, parameters, strict=True)):
            if problem := _unfit(argument, parameter):
                raise KernelError(f"kernel {kernel}, argument {index} ({parameter.name}): {problem}")
        pairs = zip(arguments, parameters, strict=True)
        arrays = [(argument, parameter) for argument, parameter in pairs if isinstance(argument, np.ndarray)]
        for index, (array, parameter) in enumerate(arrays):
            for other, of_other in arrays[:index]:
                read_only = parameter.constant and of_other.constant
                if not read_only and np.may_share_memory(array, other):
                    names = f"{of_other.name} and {parameter.name}"
                    raise KernelError(f"kernel {kernel}: {names} share memory, and the kernel writes to it")

        sizes = [-1 if argument is None else argument.nbytes for argument in arguments]
        stdin, stdout = self._process.stdin, self._process.stdout
        try:
            stdin.write(f"{kernel} {grid} {block} {shared} {self.order} {' '.join(map(str, sizes))}\n".encode())
            for argument in arguments:
                if isinstance(argument, np.ndarray):
                    stdin.write(_bytes(argument))
                elif argument is not None:
                    stdin.write(argument.tobytes())
            stdin.flush()
        except BrokenPipeError:
            raise self._died(f"kernel {kernel}") from None
        if stdout.readline() != b"done\n":
            raise self._died(f"kernel {kernel}")
        for argument, parameter in zip(arguments, parameters, strict=True):
            if isinstance(argument, np.ndarray) and not parameter.constant:
                to = _bytes(argument)
                if stdout.readinto(to) != len(to):
                    raise self._died(f"kernel {kernel}")


def _bytes(array: np.ndarray) -> memoryview:
    """What an array holds, not a copy."""
    return memoryview(array.reshape(-1).view(np.uint8))


def _unfit(argument: np.ndarray | np.generic | None, parameter: _Parameter) -> str:
    """Why an argument is not for this parameter; empty if it is."""
    if argument is None:
        return "" if parameter.pointer else f"None for {parameter.expected}"
    if not isinstance(argument, np.ndarray if parameter.pointer else np.generic):
        hint = "" if isinstance(argument, (np.ndarray, np.generic)) else ", as numpy.int32(3) rather than 3"
        return f"{type(argument).__name__} for {parameter.expected} (NumPy's{hint})"
    kind = {"f": "f", "i": "i", "u": "i", "b": "i"}.get(argument.dtype.kind, argument.dtype.kind)
    if parameter.kind != "v" and (kind, argument.dtype.itemsize) != (parameter.kind, parameter.item):
        return f"{argument.dtype} for {parameter.expected}"
    if isinstance(argument, np.ndarray):
        if not argument.flags.c_contiguous:
            return "the array is not C-contiguous"
        if not parameter.constant and not argument.flags.writeable:
            return "the array is read-only, but the pointer is not to const"
    if argument.nbytes % parameter.size:
        return f"{argument.nbytes} bytes are no multiple of {parameter.size}, the size of an element"
    return ""


def _end(process: subprocess.Popen[bytes], stderr: tempfile._TemporaryFileWrapper[bytes]) -> None:
    """End a worker by closing its input."""
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()
    stderr.close()
