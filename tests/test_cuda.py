"""The CUDA engine: training and recovery on it, and that nothing is read back meanwhile."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from conftest import float32_tolerance, kernels_on_the_cpu
from shim.gpu import DeviceArray, DeviceModule, Gpu, launcher_on

import cuista
import cuista.ops.cuda as cuda_module
from cuista import FastRecipe, PaperRecipe, train
from cuista.errors import DivergedError
from cuista.metrics import nmse_db
from cuista.networks import NETWORKS, Alista
from cuista.ops import CpuOps, CudaOps
from cuista.training import checkpoint_path

QUICK = FastRecipe(batch=8, validation_batch=20, layer_steps=4, max_steps=30)


@pytest.fixture(autouse=True)
def layers_fitted_on_few_signals(monkeypatch):
    """Fit layers on few signals, because the emulated device is slow."""
    monkeypatch.setattr("cuista.training.trainer.FITTING_BATCH", 16)


class StoppedError(Exception):
    """Raised in the middle of a run."""


# -- the engine -------------------------------------------------------------------------------------------------------


def trained(ops, problem, weight, recipe, dtype=np.float64, layers=2, **options):
    model = cuista.Model.new(problem, weight, layers=layers, ops=ops, dtype=dtype, **options)
    return train(model, recipe)


def parameters_of(model):
    return {name: model.network.ops.to_numpy(value) for name, value in model.network.parameters.items()}


def test_the_paper_recipe_gives_what_it_gives_on_the_cpu(cuda, small_problem, small_weight):
    recipe = PaperRecipe(batch=16, validation_batch=20, better_wait=40, max_steps=40)
    for dtype, tolerance in ((np.float64, 1e-10), (np.float32, float32_tolerance(cuda))):
        expected, model = (trained(ops, small_problem, small_weight, recipe, dtype) for ops in (CpuOps(), cuda))
        assert model.training["steps"] == expected.training["steps"]
        np.testing.assert_allclose(model.history["nmse_db"], expected.history["nmse_db"], atol=1e3 * tolerance)
        for name, value in parameters_of(model).items():
            np.testing.assert_allclose(value, expected.network.parameters[name], rtol=tolerance, atol=tolerance)


def test_a_run_that_diverges_is_not_saved_as_if_it_had_not(cuda, small_problem, small_weight, tmp_path):
    recipe = FastRecipe(learning_rate=1000.0, batch=8, validation_batch=50, layer_steps=3, max_steps=20)
    model = cuista.Model.new(small_problem, small_weight, layers=3, ops=cuda)
    with pytest.raises(DivergedError, match="diverged"):
        train(model, recipe, out=tmp_path / "model.h5")
    assert not (tmp_path / "model.h5").exists()
    assert cuista.Model.load(tmp_path / "model.h5.last-good.h5")


@pytest.mark.parametrize("coordinates", [False, True])
def test_the_fast_recipe_gives_what_it_gives_on_the_cpu(cuda, small_problem, small_weight, coordinates):
    options = {"per_coordinate": coordinates}
    expected, model = (trained(ops, small_problem, small_weight, QUICK, **options) for ops in (CpuOps(), cuda))
    # Nelder-Mead, at the beginning of every layer, compares errors, so a single bit can make it take another path.
    np.testing.assert_allclose(model.history["nmse_db"], expected.history["nmse_db"], atol=1e-3)
    for name, value in parameters_of(model).items():
        np.testing.assert_allclose(value, expected.network.parameters[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_every_network_is_on_the_engine_what_it_is_on_the_cpu(cuda, small_problem, small_weight, name):
    kind, rng = NETWORKS[name], np.random.default_rng(3)
    x, y = small_problem.sample(9, dtype=np.float64)
    for untied, coordinates in product((False, True)[: 1 + kind.can_untie], (False, True)[: 1 + kind.can_coordinate]):
        options = {"layers": 4, "untied": untied, "per_coordinate": coordinates, "dtype": np.float64}
        expected, model = (
            cuista.Model.new(small_problem, small_weight, name, **options, ops=ops).network for ops in (CpuOps(), cuda)
        )
        start = {key: value * rng.uniform(0.8, 1.2, value.shape) for key, value in expected.fast_start().items()}
        expected.parameters = model.parameters = start
        for ours, theirs in zip(model.iterates(y), expected.iterates(y), strict=True):
            np.testing.assert_allclose(cuda.to_numpy(ours), theirs, atol=1e-11)
        if not kind.has_gradients:
            continue
        loss, gradients = expected.loss_and_gradients(y, x, 4, window=0.3)
        ours = model.loss_and_gradients(*(cuda.asarray(array, np.float64) for array in (y, x)), 4, window=0.3)
        assert float(ours[0]) == pytest.approx(loss, rel=1e-11)
        for key, gradient in gradients.items():
            tolerance = 1e-10 * (1 + np.abs(gradient).max())
            np.testing.assert_allclose(cuda.to_numpy(ours[1][key]), gradient, atol=tolerance)


@pytest.fixture(params=["complex", "four snapshots", "complex groups in two snapshots"])
def joint_problem(request):
    """Problems of 20×40 whose entries are not single real numbers."""
    A = cuista.normalize_columns(cuista.random_matrix(20, 40, seed=1, dtype=complex if "c" in request.param else float))
    shape = {"four snapshots": (4, 1), "complex groups in two snapshots": (2, 2)}.get(request.param, (1, 1))
    return cuista.Problem(A, pnz=0.05, snapshots=shape[0], group=shape[1], seed=1)


def test_complex_and_joint_networks_are_on_the_engine_what_they_are_on_the_cpu(cuda, joint_problem):
    weight = cuista.solve_exact(joint_problem.A)
    for name in ("alista", "lista-cpss", "hyperlista", "alista-ebt"):
        expected, model = (
            cuista.Model.new(joint_problem, weight, name, layers=4, dtype=np.float64, ops=ops)
            for ops in (CpuOps(), cuda)
        )
        x, y = joint_problem.sample(9, dtype=np.float64)
        np.testing.assert_allclose(model.recover(y), expected.recover(y), atol=1e-11)
        if not NETWORKS[name].has_gradients:
            continue
        loss, gradients = expected.network.loss_and_gradients(y, x, 4, window=0.3)
        on_device = (cuda.asarray(array, array.dtype) for array in (y, x))
        ours = model.network.loss_and_gradients(*on_device, 4, window=0.3)
        assert float(ours[0]) == pytest.approx(loss, rel=1e-11)
        for key, gradient in gradients.items():
            tolerance = 1e-10 * (1 + np.abs(gradient).max())
            np.testing.assert_allclose(cuda.to_numpy(ours[1][key]), gradient, atol=tolerance)


def test_complex_and_joint_networks_train_on_the_engine_as_on_the_cpu(cuda, joint_problem, monkeypatch):
    weight = cuista.solve_exact(joint_problem.A)
    recipe = PaperRecipe(batch=8, validation_batch=10, max_steps=4)
    expected, fused = (trained(ops, joint_problem, weight, recipe) for ops in (CpuOps(), cuda))
    monkeypatch.setattr(Alista, "fuse", lambda self, signals: None)
    for model in (fused, trained(cuda, joint_problem, weight, recipe)):
        np.testing.assert_allclose(model.history["nmse_db"], expected.history["nmse_db"], atol=1e-7)
        for name, value in parameters_of(model).items():
            np.testing.assert_allclose(value, expected.network.parameters[name], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ["alista", "lamp", "liht", "hyperlista"])
def test_one_sided_networks_are_on_the_engine_what_they_are_on_the_cpu(cuda, small_problem, small_weight, name):
    problem = replace(small_problem, positive=True)
    expected, model = (
        cuista.Model.new(problem, small_weight, name, layers=4, dtype=np.float64, ops=ops).network
        for ops in (CpuOps(), cuda)
    )
    start = expected.fast_start()
    expected.parameters = model.parameters = {**start, "threshold": 0.2 * start["threshold"]}
    y = problem.sample(9, dtype=np.float64)[1]
    for ours, theirs in zip(model.iterates(y), expected.iterates(y), strict=True):
        np.testing.assert_allclose(cuda.to_numpy(ours), theirs, atol=1e-11)
        assert theirs.min() == 0 < theirs.max()


@pytest.mark.parametrize(
    ("name", "untied"), [("lista-cpss", True), ("lista", False), ("lamp", True), ("alista-at", False)]
)
def test_other_networks_train_on_the_engine_as_on_the_cpu(cuda, small_problem, small_weight, name, untied):
    options = {"net": name, "untied": untied}
    for recipe in (replace(QUICK, matrix_steps=10), PaperRecipe(batch=16, validation_batch=50, max_steps=20)):
        expected, model = (trained(ops, small_problem, small_weight, recipe, **options) for ops in (CpuOps(), cuda))
        np.testing.assert_allclose(model.history["nmse_db"], expected.history["nmse_db"], atol=1e-3)
        for key, value in parameters_of(model).items():
            np.testing.assert_allclose(value, expected.network.parameters[key], rtol=1e-3, atol=1e-4)


def test_nothing_is_read_back_between_validations(small_problem, small_weight, request, monkeypatch):
    ops, read_back = CudaOps(DeviceModule(), launcher_on(kernels_on_the_cpu(request.config))), {}

    def count(progress):
        step = progress.stage_number, progress.step
        validated = (
            progress.step % stages[progress.stage_number - 1].validate_every == 0 or progress.step == progress.steps
        )
        if progress.step > 1 and not validated:
            read_back[step] = DeviceArray.waits
        DeviceArray.waits = 0

    recipe = replace(QUICK, layer_steps=3, max_steps=8, matrix_steps=5)
    complex_problem = replace(small_problem.in_complex(), snapshots=2)
    complex_weight = cuista.solve_exact(complex_problem.A)
    more = ("not fused", "lista", "lamp", "alista-ebt") if request.config.getoption("--slow") else ()
    for net in ("alista", "complex", "lista-cpss", "alista-momentum", *more):
        problem, weight = (complex_problem, complex_weight) if net == "complex" else (small_problem, small_weight)
        if net == "not fused":
            monkeypatch.setattr(Alista, "fuse", lambda self, signals: None)
        net = net if net in NETWORKS else "alista"
        model = cuista.Model.new(problem, weight, net, layers=2, untied=NETWORKS[net].can_untie, ops=ops)
        stages = recipe.stages(2, more=True)
        read_back.clear()
        train(model, recipe, progress=count)
        assert len(read_back) > 5
        assert not any(read_back.values())


def test_an_engine_enters_its_device_and_leaves_the_threads_current_one_alone(small_problem, small_weight, request):
    ops = CudaOps(DeviceModule(), launcher_on(kernels_on_the_cpu(request.config)), "cuda:1")
    x, y = small_problem.sample(20)
    recipe = FastRecipe(batch=8, validation_batch=50, layer_steps=2, max_steps=4, matrix_steps=2)

    def work(net):
        model = cuista.Model.new(small_problem, small_weight, net, layers=2, ops=ops)
        train(model, recipe)
        small_problem.sample_weighted(5, 0.5, stream=1, ops=ops)
        assert len(cuista.evaluate(model, x, y).nmse_db) == 3
        return Gpu.current(), model.recover(y).shape

    with ThreadPoolExecutor(1) as other_thread:
        for net in ("alista", "lista"):
            assert work(net) == other_thread.submit(work, net).result() == (0, (20, 40))
    with pytest.raises(ValueError, match="device 0 is the current one"):
        ops.matmul(ops.asarray(x, np.float32), ops.asarray(y, np.float32))


def test_a_step_that_is_not_fused_gives_the_same(cuda, small_problem, small_weight, monkeypatch):
    fused = trained(cuda, small_problem, small_weight, QUICK)
    monkeypatch.setattr(Alista, "fuse", lambda self, signals: None)
    plain = trained(cuda, small_problem, small_weight, QUICK)
    np.testing.assert_allclose(plain.history["nmse_db"], fused.history["nmse_db"], atol=1e-3)


def test_a_run_on_the_engine_resumes_to_the_same_bits(cuda, small_problem, small_weight, tmp_path):
    whole = trained(cuda, small_problem, small_weight, QUICK)

    def interrupt(progress):
        if progress.stage_number == 3 and progress.step == 20:
            raise StoppedError

    def fresh():
        return cuista.Model.new(small_problem, small_weight, layers=2, ops=cuda, dtype=np.float64)

    out = tmp_path / "model.h5"
    with pytest.raises(StoppedError):
        train(fresh(), QUICK, out=out, checkpoint_seconds=0, progress=interrupt)
    assert checkpoint_path(out).exists()
    with pytest.raises(cuista.CuistaError, match="device"):
        train(cuista.Model.new(small_problem, small_weight, layers=2, dtype=np.float64), QUICK, out=out, resume=True)
    resumed = train(fresh(), QUICK, out=out, resume=True)
    for name, value in parameters_of(whole).items():
        np.testing.assert_array_equal(parameters_of(resumed)[name], value)
    assert cuista.Model.load(out).training == resumed.training


@pytest.mark.slow
def test_going_over_from_dense_steps_to_fused_ones_survives_an_interruption(
    cuda, small_problem, small_weight, tmp_path, monkeypatch
):
    monkeypatch.setattr("cuista.ops.cuda.FUSED_DENSE_ROWS", 1.2)  # for 8 signals, reached at a density of 0.15
    fused, call = [], cuda_module._Fused.__call__
    monkeypatch.setattr(cuda_module._Fused, "__call__", lambda self, *rest: fused.append(1) or call(self, *rest))
    recipe = PaperRecipe(learning_rate=0.02, decays=(1.0,), batch=8, validation_batch=50, better_wait=20, max_steps=40)
    whole = trained(cuda, small_problem, small_weight, recipe, layers=4)
    assert 0 < len(fused) < whole.training["steps"]
    out, steps = tmp_path / "model.h5", [0]

    def interrupt(progress):
        steps[0] += 1
        if steps[0] % 25 == 0:
            raise StoppedError

    while not out.exists():
        model = cuista.Model.new(small_problem, small_weight, layers=4, ops=cuda, dtype=np.float64)
        with contextlib.suppress(StoppedError):
            train(model, recipe, out=out, resume=True, checkpoint_seconds=0, progress=interrupt)
    assert steps[0] > 50
    for name, value in parameters_of(whole).items():
        np.testing.assert_array_equal(parameters_of(model)[name], value)


@pytest.mark.parametrize("shape", [(20, 40), (2, 33), (40, 1100)])
def test_recovery_and_reports_are_those_of_the_cpu(cuda, shape):
    problem = cuista.Problem(cuista.normalize_columns(cuista.random_matrix(*shape)), pnz=0.05, snr_db=30)
    weight = cuista.solve_exact(problem.A)
    x, y = problem.sample(50)
    plain, model = (cuista.Model.new(problem, weight, layers=3, ops=ops) for ops in (CpuOps(), cuda))
    codes = plain.recover(y)  # of 40×1100, an untrained network's codes are as large as 1000
    np.testing.assert_allclose(model.recover(y), codes, atol=max(1e-4, 1e-6 * np.abs(codes).max()))
    expected, report = cuista.evaluate(plain, x, y), cuista.evaluate(model, x, y)
    np.testing.assert_allclose(report.nmse_db, expected.nmse_db, atol=1e-3)
    np.testing.assert_allclose(report.support_size, expected.support_size, atol=2)
    drawn = problem.sample(50, ops=cuda)
    np.testing.assert_allclose(cuda.to_numpy(drawn[1]), y, atol=1e-4)
    assert nmse_db(model.network, *drawn, 3) == pytest.approx(nmse_db(plain.network, x, y, 3), abs=1e-3)
