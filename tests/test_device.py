"""Which devices can be used, what is said about those that cannot, and the command line on a GPU."""

from __future__ import annotations

import json
import pickle
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from conftest import kernels_on_the_cpu
from cuista.kernels import native
from shim.gpu import DeviceModule, launcher_on

import cuista
from cuista import PaperRecipe, device, ops
from cuista.errors import DeviceError, InputError
from cuista.messages import CuistaWarning
from cuista.ops import CpuOps, CudaOps, NativeOps

# The original, kept before the tests replace it.
WHY_NO_CUDA = device.why_no_cuda


def fake_cupy(*, gpus=1, driver=13000, error=None, trial=None):
    """A stand-in for CuPy that finds this many GPUs, or fails like CuPy where there is none."""
    cupy = ModuleType("cupy")

    def count():
        if error:
            raise error
        return gpus

    class Gpu:
        def __init__(self, index):
            pass

        def __enter__(self):
            if trial:
                raise trial

        def __exit__(self, *exception):
            pass

    def kernel(text, name):
        def run(grid, block, arguments):
            arguments[0][0] += 1

        return run

    cupy.cuda = SimpleNamespace(
        runtime=SimpleNamespace(
            getDeviceCount=count,
            driverGetVersion=lambda: driver,
            runtimeGetVersion=lambda: 13020,
            getDeviceProperties=lambda index: {"name": b"A GPU", "major": 9, "minor": 0},
            memGetInfo=lambda: (2**30, 2**31),
        ),
        nvrtc=SimpleNamespace(getVersion=lambda: (13, 2)),
        Device=Gpu,
    )
    cupy.ones, cupy.float32, cupy.RawKernel = np.ones, np.float32, kernel
    return cupy


@pytest.fixture
def machine(monkeypatch):
    """A function that makes this machine look like one with the given CuPy."""
    packages = ["cupy-cuda13x 14.0.0"]

    def machine(cupy=None, installed=packages):
        monkeypatch.setattr(device, "why_no_cuda", WHY_NO_CUDA)
        monkeypatch.setattr(device, "cupy_packages", lambda: installed)
        monkeypatch.setitem(sys.modules, "cupy", cupy)  # None makes the import fail
        device.why_no_cuda.cache_clear()
        device.why_not.cache_clear()

    yield machine
    device.why_no_cuda.cache_clear()
    device.why_not.cache_clear()


def test_a_gpu_that_works_is_chosen(machine):
    assert isinstance(cuista.engine("cpu"), CpuOps)
    machine(fake_cupy(gpus=2))
    assert str(device.parse_device("auto")) == "cuda:0"
    assert str(device.parse_device("cuda")) == "cuda:0"
    assert device.parse_device("cuda:1").index == 1
    assert device.parse_device("cpu").index is None


def test_the_processes_of_a_machine_take_its_gpus_in_turn(machine, monkeypatch):
    machine(fake_cupy(gpus=2))
    for variable in device.LOCAL_RANKS:
        for local, expected in (("0", "cuda:0"), ("1", "cuda:1"), ("2", "cuda:0"), ("five", "cuda:0")):
            with monkeypatch.context() as patch:
                patch.setenv(variable, local)
                assert str(device.parse_device("auto")) == str(device.parse_device("cuda")) == expected
                assert str(device.parse_device("cuda:1")) == "cuda:1"


def test_why_a_gpu_cannot_be_used_is_said(machine):
    insufficient = RuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient")
    for cupy, installed, reason in (
        (None, [], "CuPy is not installed"),
        (None, ["cupy-cuda12x 14.0.0"], "cannot be imported"),
        (fake_cupy(), ["cupy-cuda12x 14.0.0", "cupy-cuda13x 14.0.0"], "several CuPy packages"),
        (fake_cupy(error=insufficient, driver=0), ["cupy-cuda13x 14.0.0"], "no NVIDIA driver"),
        (fake_cupy(error=insufficient, driver=12040), ["cupy-cuda13x 14.0.0"], "is for CUDA 13.2, and the driver"),
        (fake_cupy(error=RuntimeError("unknown error")), ["cupy-cuda13x 14.0.0"], "unknown error"),
        (fake_cupy(gpus=0), ["cupy-cuda13x 14.0.0"], "there is no NVIDIA GPU"),
        (fake_cupy(error=RuntimeError("cudaErrorNoDevice: no")), ["cupy-cuda13x 14.0.0"], "there is no NVIDIA GPU"),
        (fake_cupy(trial=OSError("libnvrtc.so.13 not found")), ["cupy-cuda13x 14.0.0"], "libnvrtc.so.13 not found"),
    ):
        machine(cupy, installed)
        assert str(device.parse_device("auto")) == "cpu"
        with pytest.raises(DeviceError, match="cannot be used") as error:
            device.parse_device("cuda:0")
        assert reason in str(error.value)


def test_a_gpu_that_is_not_there_and_a_device_that_is_none_are_refused(machine):
    machine(fake_cupy(gpus=2))
    with pytest.raises(DeviceError, match="the last GPU is cuda:1"):
        device.parse_device("cuda:2")
    for text in ("gpu", "cuda:", "cuda:x", "cuda:00", "CPU", ""):
        with pytest.raises(DeviceError, match="expected auto, cpu or cuda:N"):
            device.parse_device(text)


def test_a_gpu_that_computes_wrongly_is_not_used(machine):
    cupy = fake_cupy()
    cupy.RawKernel = lambda text, name: lambda grid, block, arguments: None
    machine(cupy)
    with pytest.raises(DeviceError, match="which is wrong"):
        device.parse_device("cuda:0")


def test_the_doctor_tells(machine, run):
    machine(fake_cupy(gpus=2))
    out = run("doctor")
    assert "cuda:1  can be used: A GPU, compute capability 9.0, 1.0 of 2.0 GiB free" in out
    assert "driver 13.0, runtime 13.2, nvrtc 13.2" in out
    assert "--device auto selects cuda:0" in out
    report = json.loads(run("doctor", "--json"))
    assert [gpu["device"] for gpu in report["cuda"]["gpus"]] == ["cuda:0", "cuda:1"]
    busy = fake_cupy(trial=RuntimeError("cudaErrorDevicesUnavailable"))
    machine(busy)
    assert "cuda:0  cannot be used: RuntimeError: cudaErrorDevicesUnavailable (A GPU)" in run("doctor")
    machine(None, [])
    out = run("doctor")
    assert "cuda    cannot be used: CuPy is not installed" in out
    assert "--device auto selects cpu" in out


NO_LIBRARY = "the library was not compiled when cuista was installed"


@pytest.fixture
def without_the_library(monkeypatch):
    """Make it look as if no native library was compiled."""
    monkeypatch.setattr(native, "installed", lambda: None)
    native.why_not.cache_clear()
    yield
    native.why_not.cache_clear()


def test_the_cpu_computes_with_numpy_where_there_is_no_library_and_the_doctor_says_so(without_the_library, run):
    assert type(cuista.engine("cpu")) is CpuOps
    assert f"computes with the NumPy engine, because {NO_LIBRARY}" in run("doctor")
    report = json.loads(run("doctor", "--json"))["cpu"]
    assert report["engine"] == "numpy"
    assert NO_LIBRARY in report["why_not_native"]


def test_the_native_engine_is_not_replaced_silently_if_it_is_asked_for(without_the_library, run, monkeypatch):
    monkeypatch.setenv("CUISTA_ENGINE", "native")
    with pytest.raises(InputError, match=f"CUISTA_ENGINE is native, but {NO_LIBRARY}"):
        cuista.engine("cpu")
    run("doctor", fails=1)
    assert "CUISTA_ENGINE is native, but" in run.errors


def test_a_variable_chooses_the_engine_of_the_cpu(monkeypatch, run, small_problem, small_weight):
    if native.why_not():
        pytest.skip(native.why_not())
    assert type(cuista.engine("cpu")) is NativeOps
    assert f"computes with the native engine (vector width: {native.library().width})" in run("doctor")
    copied = pickle.loads(pickle.dumps(cuista.engine("cpu")))
    monkeypatch.setenv("CUISTA_ENGINE", "numpy")
    assert type(copied) is NativeOps
    assert type(pickle.loads(pickle.dumps(copied))) is CpuOps  # it goes by what is there when it is unpickled
    assert type(cuista.Model.new(small_problem, small_weight).network.ops) is CpuOps
    monkeypatch.setenv("CUISTA_ENGINE", "fast")
    with pytest.raises(InputError, match="CUISTA_ENGINE is 'fast'; expected native or numpy"):
        cuista.engine("cpu")


def test_a_library_of_another_version_is_refused(monkeypatch):
    if native.why_not():
        pytest.skip(native.why_not())
    monkeypatch.setattr("cuista.kernels.constants.INTERFACE", -1)
    native.why_not.cache_clear()
    assert "was compiled for another version of cuista" in native.why_not()
    native.why_not.cache_clear()


@pytest.fixture
def broken_library(tmp_path, monkeypatch):
    """Make it look as if the native library that was compiled cannot be loaded."""
    (tmp_path / "_native.so").write_text("no library")
    monkeypatch.setattr(native, "installed", lambda: tmp_path / "_native.so")
    for kept in (native.why_not, ops._warn_once):
        kept.cache_clear()
    yield
    for kept in (native.why_not, ops._warn_once):
        kept.cache_clear()


def test_a_library_that_cannot_be_loaded_is_said_once(broken_library):
    with pytest.warns(CuistaWarning, match="NumPy computes, more slowly .* the library cannot be loaded: .*_native.so"):
        assert type(cuista.engine("cpu")) is CpuOps
    assert type(cuista.engine("cpu")) is CpuOps  # a warning would be an error


def test_whoever_chooses_numpy_is_not_warned_about_the_library(broken_library, monkeypatch):
    monkeypatch.setenv("CUISTA_ENGINE", "numpy")
    assert type(cuista.engine("cpu")) is CpuOps


@pytest.mark.filterwarnings("default::cuista.messages.CuistaWarning")
def test_commands_that_compute_say_that_the_library_cannot_be_loaded(small_model, small_problem, broken_library, run):
    small_model.save("model.h5")
    np.save("y.npy", small_problem.sample(3)[1])
    run("recover", "model.h5", "y.npy", "--quiet")
    assert run.errors.count("Warning: NumPy computes, more slowly than the native engine: the library cannot be") == 1


def test_auto_says_why_a_gpu_that_seems_to_be_there_is_not_used(machine, run, small_model):
    small_model.save("model.h5")
    machine(fake_cupy(gpus=0))
    run("test", "model.h5", "--samples", 10)
    assert "Computing on cpu (--device auto). No GPU: there is no NVIDIA GPU" in run.errors
    machine(None, [])
    run("test", "model.h5", "--samples", 10)
    assert "No GPU" not in run.errors


@pytest.fixture(params=["executed on the CPU", pytest.param("on a GPU", marks=pytest.mark.gpu)])
def gpu(request, monkeypatch, machine):
    """The name of a device: a real GPU, or an emulated one whose kernels run on the CPU."""
    if request.param == "on a GPU":
        reason = WHY_NO_CUDA() or device.why_not(0)
        if reason:
            pytest.skip(f"no GPU can be used: {reason.partition(':')[0]}")
        return "cuda:0"
    machine(fake_cupy(gpus=2))
    launch = launcher_on(kernels_on_the_cpu(request.config))
    monkeypatch.setattr(CudaOps, "on", classmethod(lambda cls, chosen: cls(DeviceModule(), launch, chosen.name)))
    return "cuda:1"  # not the current device


@pytest.mark.filterwarnings("ignore:training has ended at")
def test_the_commands_run_on_a_gpu(gpu, run, monkeypatch):
    monkeypatch.setattr("cuista.tasks.sparse_coding.RIDGES", (1.0,))
    recipe = PaperRecipe(batch=8, validation_batch=8, max_steps=1)  # it fits no layers without derivatives
    monkeypatch.setattr("cuista.training.trainer.DIVERGED_DB", 100.0)  # such a run has no chance
    monkeypatch.setattr("cuista.tasks.sparse_coding.RIDGE_RECIPE", recipe)
    monkeypatch.setattr("cuista.training.trainer.FITTING_BATCH", 16)
    run("gen-problem", "--m", 20, "--n", 40, "--pnz", 0.05, "--snr", 40, "--device", "cuda:0")
    assert "--device cuda:0 is ignored" in run.errors
    run("solve-w", "problem.h5", "--ridge", "auto", "--device", gpu, "-o", "w.h5")
    small = ("--max-steps", 20, "--batch", 16, "--validation-batch", 20, "-T", 2)
    run("train", "problem.h5", "-W", "w.h5", *small)
    assert "Computing on cuda:0 (--device auto)" in run.errors
    run("train", "problem.h5", "-W", "w.h5", *small, "--recipe", "paper", "--device", gpu, "-o", "paper.h5")
    run("train", "problem.h5", "-W", "w.h5", *small, "--coord", "--device", gpu, "-o", "coord.h5")
    for model in ("model.h5", "paper.h5", "coord.h5"):
        on_gpu, on_cpu = (
            json.loads(run("test", model, "--samples", 100, "--baselines", "--json", "--device", name))["layers"]
            for name in (gpu, "cpu")
        )
        for net in ("alista", "ista", "fista"):
            for a, b in zip(on_gpu[net], on_cpu[net], strict=True):
                assert a["nmse_db"] == pytest.approx(b["nmse_db"], abs=1e-3)
    y = cuista.Problem.load("problem.h5").sample(70)[1]
    np.save("y.npy", y)
    run("recover", "model.h5", "y.npy", "--device", gpu, "-o", "gpu.npy")
    run("recover", "model.h5", "y.npy", "--device", "cpu", "-o", "cpu.npy")
    np.testing.assert_allclose(np.load("gpu.npy"), np.load("cpu.npy"), atol=1e-5)
