"""Fixtures that the tests share, and the --slow option."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shim
from cuista.cli import main
from cuista.kernels import Launcher, native
from cuista.kernels.constants import DEFINITIONS
from hypothesis import HealthCheck, settings
from shim.gpu import DeviceModule, launcher_on

import cuista
from cuista import kernels
from cuista.device import Device, why_no_cuda, why_not
from cuista.ops import CpuOps, CudaOps, NativeOps, ReferenceOps
from cuista.training import Progress

# A suite in the background or under nohup ignores these signals, and so would the runs that the tests interrupt.
for name, handler in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):  # Windows has only the first
    number = getattr(signal, name, None)
    if number is not None and signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, handler)

# The tests start hundreds of processes, each of which would compile cuista's modules if no bytecode might be written.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Hypothesis tries the same examples in every run, however slow the machine is.
settings.register_profile("cuista", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("cuista")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests that take minutes, too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="takes minutes: give --slow"))


@pytest.fixture(scope="session")
def small_problem() -> cuista.Problem:
    """A problem of 20×40 with two non-zeros on average."""
    return cuista.Problem(cuista.normalize_columns(cuista.random_matrix(20, 40, seed=1)), pnz=0.05, seed=1)


@pytest.fixture(scope="session")
def small_weight(small_problem: cuista.Problem) -> cuista.Weight:
    return cuista.solve_exact(small_problem.A)


@pytest.fixture
def small_model(small_problem: cuista.Problem, small_weight: cuista.Weight) -> cuista.Model:
    """An untrained ALISTA of four layers."""
    return cuista.Model.new(small_problem, small_weight, layers=4)


@pytest.fixture(scope="session")
def quick_recipe() -> cuista.FastRecipe:
    """A fast recipe that takes about a second."""
    return cuista.FastRecipe(batch=32, validation_batch=200, layer_steps=6, max_steps=60, matrix_steps=60)


class Cuista:
    """Runs the command line in this process, in a folder of its own."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *words: object, fails: int = 0) -> str:
        """Run a command, expect its exit status, and return stdout; stderr is left in `errors`."""
        with pytest.raises(SystemExit) as exit_:
            main([str(word) for word in words])
        out, self.errors = self.capsys.readouterr()
        assert exit_.value.code == fails, self.errors
        assert "Traceback" not in self.errors
        return out


@pytest.fixture
def run(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Cuista:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    return Cuista(capsys)


@pytest.fixture
def interrupt(run: Cuista, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run a training command, and press Ctrl-C at the first step for which `when` holds."""

    def interrupt(*words: object, when: Callable[[Progress, str], bool]) -> None:
        pressed: list[Progress] = []

        def show(line: object, at: Progress, name: str = "") -> None:
            if not pressed and when(at, name):
                pressed.append(at)
                os.kill(os.getpid(), signal.SIGINT)

        with monkeypatch.context() as during:
            for module in ("running", "train_robust", "compare"):
                during.setattr(f"cuista.cli.{module}.show", show)
            run(*words, fails=130)

    return interrupt


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a command in a process of its own, which does not outlive the test."""
    processes = []

    def start(*words: object) -> subprocess.Popen[str]:
        code = "from cuista.cli import main; main()"
        command = [sys.executable, "-c", code, *map(str, words)]
        pipe, environment = subprocess.PIPE, {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
        process = subprocess.Popen(command, cwd=tmp_path, stdout=pipe, stderr=pipe, text=True, env=environment)
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        with process:  # closes its pipes and waits
            pass


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


# -- the CPU's engines -------------------------------------------------------------------------------------------------


def native_engines() -> dict[str, NativeOps]:
    """The native engine for every vector width that this processor has; none if the library was not compiled."""
    path = native.installed()
    widths = () if path is None or native.why_not() else native.library().widths
    return {f"native, {width}": NativeOps(native.Library(path, width)) for width in widths}


# The engines that compute faster than the definition, on the CPU.
FAST: dict[str, CpuOps] = {"cpu": CpuOps(), **native_engines()}
on_fast_engines = pytest.mark.parametrize("fast", FAST.values(), ids=FAST)
on_all_engines = pytest.mark.parametrize("ops", [ReferenceOps(), *FAST.values()], ids=["reference", *FAST])


# -- the CUDA engine --------------------------------------------------------------------------------------------------


def kernels_on_the_cpu(config: pytest.Config, sanitize: str = "", arch: int = 900, **options: Any) -> Launcher:
    """A launcher that runs our kernels on the CPU under these sanitizers."""
    reason = shim.why_not(sanitize)
    if reason:
        pytest.skip(reason)
    sources = [kernels.FOLDER / f"{file}.cu" for file in kernels.KERNELS]
    cache = getattr(config, "cache", None)  # pytest has none with -p no:cacheprovider
    folder = Path(cache.mkdir("kernels") if cache else tempfile.mkdtemp())
    options = {"sanitize": sanitize, "arch": arch, **options}
    launchers = {real: shim.HostLauncher(sources, real, folder, DEFINITIONS, **options) for real in kernels.REALS}

    def launch(kernel: str, real: str, grid: int, block: int, arguments: Sequence[Any], shared: int = 0) -> None:
        launchers[real](kernel, grid, block, arguments, shared)

    return launch


@pytest.fixture(autouse=True)
def no_gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make tests compute on the CPU wherever they run, unless they are marked `gpu`."""
    if request.node.get_closest_marker("gpu") is None:
        monkeypatch.setattr("cuista.device.why_no_cuda", lambda: "this test is for the CPU")


def float32_tolerance(ops: ReferenceOps) -> float:
    """The tolerance of float32 results, larger on a GPU.

    A GPU's logarithm differs from the C library's in the last bit, which can decide whether an entry is above θ.
    """
    return 1e-5 if ops.xp is np or isinstance(ops.xp, DeviceModule) else 1e-2


WHERE = ["executed on the CPU", pytest.param("on a GPU", marks=pytest.mark.gpu)]


def on_gpu_or(launch: Callable[[], Launcher], where: str) -> CudaOps:
    """The CUDA engine on a GPU, or on NumPy with its kernels executed on the CPU by `launch`."""
    if where == "executed on the CPU":
        return CudaOps(DeviceModule(), launcher_on(launch()))
    reason = why_no_cuda() or why_not(0)
    if reason:
        pytest.skip(f"no GPU can be used: {reason.partition(':')[0]}")
    return CudaOps.on(Device("cuda:0"))


@pytest.fixture(scope="session", params=WHERE)
def cuda(request: pytest.FixtureRequest) -> CudaOps:
    """The CUDA engine, for tests of the results computed with it."""
    return on_gpu_or(lambda: kernels_on_the_cpu(request.config), request.param)


@pytest.fixture(scope="session", params=WHERE)
def watched_cuda(request: pytest.FixtureRequest) -> CudaOps:
    """The CUDA engine under sanitizers, for tests of single kernels. These take many times as long."""
    return on_gpu_or(lambda: kernels_on_the_cpu(request.config, "address,undefined", arch=750), request.param)
