"""Runs CUDA sources on the CPU: compiled as C++ against `cuda.h`, in a worker process, under sanitizers.

The threads of a block are fibers of one thread of the worker. They run in a given order and switch only at barriers and
warp operations. What is undefined on a GPU is an error here, and the error says where it happened.

Data races are found by ThreadSanitizer, to which every fiber is a thread. As on a GPU, only __syncthreads, __syncwarp
and __threadfence order memory; a shuffle, for example, does not. Races between blocks are found, too, even though the
blocks run one after the other. Without ThreadSanitizer, a missing barrier can still show up in results that depend on
the order of threads.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

FOLDER = Path(__file__).parent
WEEK = 7 * 24 * 3600
KERNEL = re.compile(
    r'extern\s*"C"\s*__global__\s+(?:__launch_bounds__\s*\((?P<before>[^{;]*?)\)\s*)?void\s+'
    r"(?:__launch_bounds__\s*\((?P<after>[^{;]*?)\)\s*)?(?P<name>\w+)\s*\((?P<parameters>[^)]*)\)\s*{"
)
# Two of the sanitizers end with abort(), and the worker then adds where it was. ThreadSanitizer must not, because it
# would do so with locks held; its reports name the block and thread anyway.
OPTIONS = {
    "ASAN_OPTIONS": "abort_on_error=1:detect_leaks=0:detect_stack_use_after_return=0:print_legend=0",
    "UBSAN_OPTIONS": "abort_on_error=1:print_stacktrace=1",
}
OPTIONS_THREAD = {
    "TSAN_OPTIONS": "abort_on_error=0:halt_on_error=1:report_thread_leaks=0:report_signal_unsafe=0",
    "UBSAN_OPTIONS": "abort_on_error=0:print_stacktrace=1",
}


class KernelError(Exception):
    """A kernel did something that is not allowed, could not be compiled, or was called wrongly."""


@functools.cache
def compiler() -> str | None:
    """The C++ compiler: $CXX, or else the first of g++, clang++ and c++ that is installed."""
    for name in [os.environ.get("CXX"), "g++", "clang++", "c++"]:
        if name and (path := shutil.which(name)):
            return path
    return None


@functools.cache
def why_not(sanitize: str = "address,undefined") -> str:
    """Why kernels cannot run under these sanitizers here; empty if they can."""
    path = compiler()
    if path is None:
        return "there is no C++ compiler: install g++ or clang++, or name one in $CXX"
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "program")
        command = [path, "-x", "c++", "-", *([f"-fsanitize={sanitize}"] if sanitize else []), "-o", str(program)]
        done = subprocess.run(command, input=b"int main() {}", capture_output=True)
        if done.returncode or subprocess.run([*_without_aslr(), str(program)], capture_output=True).returncode:
            return f"programs that {path} makes with -fsanitize={sanitize} do not work here"
    return ""


@functools.cache
def _version(path: str | None) -> str:
    if path is None:
        return ""
    return subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout


@functools.cache
def _without_aslr() -> list[str]:
    """The beginning of a command line that switches off address randomisation; empty if that is not possible here.

    The sanitizers of a compiler older than the system can fail if addresses are very random.
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
        definitions: Sequence[str] = (),
        *,
        sanitize: str = "address,undefined",
        arch: int = 750,
        order: int = 0,
    ) -> None:
        """Take all kernels of the sources, with REAL defined as `real`. They are compiled at the first launch.

        `definitions` are additional compiler options such as -DNAME=VALUE.
        `sanitize` is what -fsanitize takes: "address,undefined", "thread", which finds data races, or "". `order` says
        how threads and blocks are ordered: ascending (0), descending (1), or shuffled with this seed (2 and up).
        """
        self.sources = [Path(source).resolve() for source in sources]
        self.cache = Path(cache)
        self.sanitize = sanitize
        self.order = order
        tools = sanitize.split(",") if sanitize else []
        self._worker_flags = [f"-DSHIM_{tool[0].upper()}SAN" for tool in tools]
        self._tools = [f"-fsanitize={tool}" for tool in tools]
        if tools:
            self._tools += ["-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
        if "address" in tools and "Free Software Foundation" in _version(compiler()):
            self._tools += ["-fsanitize-sections=cuda.shared.*"]  # otherwise gcc does not check variables in sections
        self._flags = [
            *("-std=c++17", "-g1", "-O1" if tools else "-O2", "-fno-strict-aliasing", "-ffp-contract=off"),
            *(f"-DREAL={real}", *definitions, f"-D__CUDA_ARCH__={arch}", "-include", str(FOLDER / "cuda.h")),
        ]
        self._end: weakref.finalize | None = None

    # ---- building

    def _compile(self, arguments: Sequence[object], output: Path | None = None) -> str:
        """Run the compiler and return what it prints. The output file appears complete or not at all."""
        path = compiler()
        if path is None:
            raise KernelError(why_not())
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
        """The worker's executable, taken from the cache if it was built from the same texts before."""
        folders = sorted({source.parent for source in self.sources})
        texts = [*self.sources, *(text for folder in folders for text in sorted(folder.glob("*.cuh")))]
        import fcntl  # which Windows lacks

        executable = self.cache / f"{self._hash((self._flags, self._tools), *texts)}.exe"
        self.cache.mkdir(parents=True, exist_ok=True)
        with executable.with_suffix(".lock").open("w") as lock:  # released when closed
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._make(executable, folders)
        return executable

    def _make(self, executable: Path, folders: list[Path]) -> None:
        if executable.exists():
            executable.touch()
            return
        for old in self.cache.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another process may do the same
                if old.stat().st_mtime < time.time() - WEEK:
                    old.unlink()

        worker = self.cache / f"{self._hash(self._worker_flags)}.o"  # for all kernels
        if not worker.exists():
            self._compile(["-std=c++17", "-g1", "-O2", *self._worker_flags, "-c", FOLDER / "worker.cpp"], worker)
        sources = "".join(f'#include "{source}"\n' for source in self.sources)
        with tempfile.TemporaryDirectory() as folder:
            main, kernels = Path(folder, "kernels.cpp"), Path(folder, "kernels.o")
            main.write_text(sources)
            flags = [*self._flags, *(f"-I{folder}" for folder in folders)]
            found = self._register(self._compile([*flags, "-DSHIM_FIND_KERNELS", "-E", "-P", main]))
            main.write_text(sources + found)
            self._compile([*flags, *self._tools, "-c", main], kernels)
            self._compile([*self._tools, kernels, worker], executable)

    def _hash(self, flags: object, *texts: Path) -> str:
        """A hash of these texts, the shim's own, and the way they are compiled."""
        hash_ = hashlib.sha256(repr((_version(compiler()), flags)).encode())
        for text in (*texts, *(FOLDER / name for name in ("__init__.py", "cuda.h", "worker.cpp"))):
            hash_.update(f"{text} {text.stat().st_size}\n".encode() + text.read_bytes())
        return hash_.hexdigest()[:20]

    def _register(self, text: str) -> str:
        """C++ code that tells the worker about the kernels in a preprocessed text, without comments and macros."""
        lines = []
        for match in KERNEL.finditer(text):
            name, bound = match["name"], match["before"] or match["after"] or "0"
            parameters = ",".join(re.findall(r"(\w+)\s*(?:,|$)", match["parameters"].strip()))
            call = f'shim::Call<{name}>::kernel("{name}", "{parameters}", shim::first({bound}))'
            lines.append(f"static shim::Kernel shim_{name} = {call};\n")
        if not lines:
            raise KernelError(f'no kernel (extern "C" __global__ void …) in {", ".join(map(str, self.sources))}')
        return "".join(lines)

    # ---- the worker

    def _start(self) -> None:
        executable = self._build()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed by _end)
        self._process = subprocess.Popen(
            [*_without_aslr(), str(executable)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={**os.environ, **(OPTIONS_THREAD if "thread" in self.sanitize else OPTIONS)},
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
                    for called, (pointer, constant, kind, item, size) in zip(names.split(","), split, strict=False)
                ],
            )
        if not self._kernels:
            raise self._died("the worker does not start")

    def _died(self, what: str) -> KernelError:
        """The error that ended the worker, in its own words: the worker's line, then the sanitizer's report."""
        status = self._process.wait()
        self._stderr.seek(0)
        said = self._stderr.read().decode(errors="replace").strip()
        self.close()
        report, line = re.match(r"(.*?)^(kernel \w+[,:].*)?\Z", f"{said}\n", re.DOTALL | re.MULTILINE).groups()
        if not line and not report.strip():
            how = signal.strsignal(-status) if status < 0 else f"exit status {status}"
            report = f"the worker ended without a word: {how}"
        return KernelError(f"{(line or f'{what}:').rstrip()}\n{_trimmed(report)}".rstrip())

    def close(self) -> None:
        """End the worker; the next launch starts a new one."""
        if self._end:
            self._end()
            self._end = None

    # ---- launches

    def __call__(
        self, kernel: str, grid: int, block: int, arguments: Sequence[np.ndarray | np.generic | None], shared: int = 0
    ) -> None:
        """Run a kernel on `grid` blocks of `block` threads, with `shared` bytes of dynamic shared memory.

        Arrays passed for pointers to non-const are changed in place.
        """
        if self._end is None:
            self._start()
        if kernel not in self._kernels:
            raise KernelError(f"no kernel {kernel}: there are {', '.join(sorted(self._kernels))}")
        bound, parameters = self._kernels[kernel]
        most, where = (bound, "its __launch_bounds__") if bound else (1024, "CUDA")
        if grid < 1 or not 1 <= block <= most:
            raise KernelError(
                f"kernel {kernel}: {grid} blocks of {block} threads, and {where} allows 1 to {most} threads"
            )
        if len(arguments) != len(parameters):
            names = ", ".join(parameter.name for parameter in parameters)
            raise KernelError(f"kernel {kernel} takes {len(parameters)} arguments ({names}), not {len(arguments)}")
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

        try:
            self._launch(f"{kernel} {grid} {block} {shared} {self.order}", arguments, parameters)
        except (BrokenPipeError, EOFError):
            raise self._died(f"kernel {kernel}") from None
        except BaseException:  # Ctrl-C: a worker in the middle of a launch cannot be used again
            self.close()
            raise

    def _launch(
        self, launch: str, arguments: Sequence[np.ndarray | np.generic | None], parameters: list[_Parameter]
    ) -> None:
        stdin, stdout = self._process.stdin, self._process.stdout
        sizes = [-1 if argument is None else argument.nbytes for argument in arguments]
        stdin.write(f"{launch} {' '.join(map(str, sizes))}\n".encode())
        for argument in arguments:
            if argument is not None:
                stdin.write(_bytes(argument))
        stdin.flush()
        if stdout.readline() != b"done\n":
            raise EOFError
        for argument, parameter in zip(arguments, parameters, strict=True):
            if isinstance(argument, np.ndarray) and not parameter.constant:
                to = _bytes(argument)
                if stdout.readinto(to) != len(to):
                    raise EOFError


def _bytes(argument: np.ndarray | np.generic) -> memoryview:
    """The bytes of an array, not copied, or of a scalar."""
    return memoryview(np.asarray(argument).reshape(-1).view(np.uint8))


def _unfit(argument: np.ndarray | np.generic | None, parameter: _Parameter) -> str:
    """Why an argument does not fit this parameter; empty if it does."""
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


def _trimmed(report: str) -> str:
    """A sanitizer's report without the lines that do not help, among them the shim's own frames."""
    for pattern in (
        r"^Shadow bytes around(.*\n)*?(?===\d+==ABORTING)",
        r"^==\d+==ABORTING\n",
        r"^ +#\d+ .*(/worker\.cpp:\d+|shim::Call|\bin __interceptor_malloc|malloc \.\.).*\n",
        r"^allocated by thread T0 here:\n",
        r"(?<=') \(tid=0, running\) created by .*",
    ):
        report = re.sub(pattern, "", report, flags=re.MULTILINE)
    return report


def _end(process: subprocess.Popen[bytes], stderr: IO[bytes]) -> None:
    """End a worker, even in the middle of a launch."""
    process.kill()
    process.wait()
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    process.stdout.close()
    stderr.close()
