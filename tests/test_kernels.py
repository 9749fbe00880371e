"""The CUDA kernels: compiled for every architecture, and executed, on the CPU and where there is one on a GPU.

The CPU runs the same sources under the address and undefined-behaviour sanitizers, as for a GPU of compute capability
7.5; a last few tests look for data races, with the instructions of 8.0 and later.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import replace
from itertools import product

import numpy as np
import nvrtc
import pytest
from conftest import kernels_on_the_cpu
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from shim.gpu import DeviceArray, DeviceModule, launcher_on

import cuista
import cuista.ops.cuda as cuda_module
from cuista import FastRecipe, PaperRecipe, kernels, train
from cuista.counter import Key
from cuista.errors import DivergedError
from cuista.metrics import nmse_db
from cuista.networks import NETWORKS, Alista
from cuista.operators import Dense
from cuista.ops import Bernoulli, CpuOps, CudaOps, Normal, ReferenceOps
from cuista.training import checkpoint_path

REFERENCE = ReferenceOps()
DENORMAL = {np.float32: 1e-40, np.float64: 5e-324}
QUICK = FastRecipe(batch=8, validation_batch=100, layer_steps=4, max_steps=60)
many = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60, derandomize=True)


# -- compiled ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("real", kernels.REALS)
@pytest.mark.parametrize("file", kernels.KERNELS)
def test_every_kernel_compiles_for_every_architecture_and_keeps_to_its_registers(file, real):
    if nvrtc.library() is None:
        pytest.skip("NVRTC is not installed (pip install nvidia-cuda-nvrtc-cu12)")
    for architecture in ("sm_75", "sm_80", "sm_90", "sm_120"):
        options = (*kernels.options(real, architecture), "--ptxas-options=-v")
        worked, log = nvrtc.compile_cubin(kernels.source(file), f"{file}.cu", options)
        assert worked, log
        assert set(re.findall(r"Compiling entry function '(\w+)'", log)) == set(kernels.KERNELS[file])
        frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log)
        assert len(frames) >= len(kernels.KERNELS[file])
        assert set(frames) == {("0", "0", "0")}, f"{architecture}: {log}"


def test_a_gpu_that_nvrtc_does_not_know_gets_ptx_it_can_run():
    known = (75, 80, 90, 100, 120)
    assert kernels.choose_architecture("90", known) == "sm_90"
    assert kernels.choose_architecture("103", known) == "compute_100"
    assert kernels.choose_architecture("130", known) == "compute_120"
    with pytest.raises(RuntimeError, match="75 and up"):
        kernels.choose_architecture("70", known)


def test_no_kernel_adds_floating_point_numbers_atomically():
    for file in kernels.KERNELS:
        for call in re.findall(r"atomic\w+\([^;]*", kernels.source(file)):
            assert "arrived" in call


# -- one by one -------------------------------------------------------------------------------------------------------


@st.composite
def rows(draw: st.DrawFn) -> dict[str, object]:
    """The arguments of a shrink_select step: sizes about every limit of the kernels, ties, zeros and denormals."""
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    limits = [1, 2, 31, 32, 33, 127, 128, 129, 255, 256, 257, 500, 512, 513, 1023, 1024, 1025, 1500, 4097, 12_500]
    N = draw(st.sampled_from(limits) | st.integers(1, 3000))
    batch = 1 if N > 2000 else draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x, u = rng.standard_normal((2, batch, N))
    kind = draw(st.sampled_from(["normal", "sparse", "ties", "equal", "tiny", "zero", "huge"]))
    if kind == "sparse":
        x *= rng.random(x.shape) < 0.1
        u *= rng.random(x.shape) < 0.1
    elif kind == "ties":
        x, u = np.rint(2 * x) / 2, np.rint(2 * u) / 2
    elif kind == "equal":
        x, u = np.full_like(x, 0.75), np.zeros_like(u)
    elif kind == "tiny":
        x, u = DENORMAL[dtype] * np.rint(3 * x), np.zeros_like(u)
    elif kind == "zero":
        x, u = np.zeros_like(x), np.zeros_like(u)
    elif kind == "huge":
        x = np.sign(x) * 10.0 ** np.minimum(20 * np.abs(u), 37)
    theta: object = draw(st.sampled_from([0.0, 0.5, 0.75, 2.0, -0.5, DENORMAL[dtype], np.inf, np.nan]))
    if draw(st.booleans()):
        theta = rng.choice([0.0, 0.25, 0.5, 2.0, -0.25, np.nan], draw(st.sampled_from([(N,), (batch, 1), (batch, N)])))
    return {
        "x": x.astype(dtype),
        "u": u.astype(dtype),
        "step_size": draw(st.sampled_from([1.0, 0.5, -1.0, 0.0, 1.7])),
        "threshold": theta,
        "k": draw(st.sampled_from([0, N - 1, N, N + 5, (N - 1) // 2, min(3, N - 1), N // 10])),
        "window": draw(st.sampled_from([0.0, 0.3, 1.5])),
    }


def float32_tolerance(cuda):
    """A GPU's logarithm differs from the C library's in the last bit, on which an entry's fate at θ may depend."""
    return 1e-5 if isinstance(cuda.xp, DeviceModule) else 1e-2


def on(ops, step):
    """The step's arrays as the engine's."""
    return {
        name: ops.asarray(value, value.dtype) if isinstance(value, np.ndarray) else value
        for name, value in step.items()
    }


@given(step=rows())
@settings(many, max_examples=300)
def test_the_kernels_shrink_to_the_bit_as_the_definition_does(cuda, step):
    expected, expected_code = REFERENCE.shrink_select(**step)
    x_next, code = map(cuda.to_numpy, cuda.shrink_select(**on(cuda, step)))
    np.testing.assert_array_equal(x_next, expected)
    np.testing.assert_array_equal(code, expected_code)
    assert x_next.dtype == expected.dtype
    assert code.dtype == np.int8


@given(step=rows(), seed=st.integers(0, 2**32))
@settings(many, max_examples=150)
def test_the_kernels_go_back_as_the_definition_does(cuda, step, seed):
    step["threshold"] = np.nan_to_num(step["threshold"], nan=0.5, posinf=0.5)  # whose gradients nobody needs
    if step["window"] and np.array_equal(step["threshold"], DENORMAL[step["x"].dtype.type]):
        step["threshold"] = 0.5  # its ramp would be infinitely steep
    _, code = REFERENCE.shrink_select(**step)
    delta = np.random.default_rng(seed).standard_normal(code.shape).astype(step["x"].dtype)
    arguments = {name: step[name] for name in ("x", "u", "step_size", "threshold", "window")}
    dz, d_step, d_threshold = REFERENCE.shrink_select_backward(delta, code, **arguments)
    results = cuda.shrink_select_backward(
        cuda.asarray(delta, delta.dtype), cuda.asarray(code, np.int8), **on(cuda, arguments)
    )
    dz_cuda, d_step_cuda, d_threshold_cuda = map(cuda.to_numpy, results)
    tolerance = 1e-6 if delta.dtype == np.float32 else 1e-14
    np.testing.assert_allclose(dz_cuda, dz, rtol=tolerance)
    moved = np.abs(dz * step["u"].astype(np.float64)).sum()
    np.testing.assert_allclose(d_step_cuda, d_step, atol=tolerance * (1 + moved))
    spread = np.sum(np.abs(dz) * (1 + np.abs(step["x"].astype(np.float64)) + 2 * np.abs(step["u"])))
    np.testing.assert_allclose(d_threshold_cuda, d_threshold, atol=tolerance * (1 + spread))
    assert d_threshold_cuda.shape == np.shape(step["threshold"])


def test_no_signals_are_no_work(cuda):
    none = cuda.xp.zeros((0, 1500), np.float32)
    x_next, code = cuda.shrink_select(none, none, 1.0, 0.1, 3)
    assert x_next.shape == code.shape == (0, 1500)


def test_arrays_that_are_not_aligned_are_read_one_by_one(cuda):
    flat = cuda.asarray(np.random.default_rng(0).standard_normal(1 + 3 * 40), np.float32)
    x, u = flat[1:].reshape(3, 40), cuda.asarray(np.ones((3, 40)), np.float32)
    x_next, code = cuda.shrink_select(x, u, 1.0, 0.5, 7)
    expected, expected_code = REFERENCE.shrink_select(cuda.to_numpy(x), cuda.to_numpy(u), 1.0, 0.5, 7)
    np.testing.assert_array_equal(cuda.to_numpy(x_next), expected)
    np.testing.assert_array_equal(cuda.to_numpy(code), expected_code)
    dz, *_ = cuda.shrink_select_backward(x, code, x, u, 1.0, 0.5)
    np.testing.assert_array_equal(cuda.to_numpy(dz), np.where(expected_code != 0, cuda.to_numpy(x), 0))


def test_the_kernels_pass_nan_on(cuda):
    for N in (5, 64, 2000):
        x = np.full((2, N), np.nan, np.float32)
        x_next, code = cuda.shrink_select(cuda.asarray(x, x.dtype), cuda.asarray(x, x.dtype), 1.0, 0.1, N // 2)
        assert np.isnan(cuda.to_numpy(x_next)).all()
        assert not cuda.to_numpy(code).any()


laws = st.sampled_from([Normal(), Normal(2.0, 0.5), Bernoulli(0.3, 1.5, -2.0), Bernoulli(1.0, 3.0, 1.0)])


@given(
    batch=st.integers(1, 40),
    N=st.integers(1, 70),
    p=st.sampled_from([0.0, 1e-9, 0.2, 1.0]),
    law=laws,
    seed=st.integers(0, 2**63 - 1),
    dtype=st.sampled_from([np.float32, np.float64]),
)
@many
def test_the_kernels_draw_the_numbers_of_the_definition(cuda, batch, N, p, law, seed, dtype):
    key, probability = Key(seed, 65, 2**40), np.linspace(p, 1, N)
    expected = REFERENCE.sparse_codes(key, batch, probability, law, dtype)
    codes = cuda.to_numpy(cuda.sparse_codes(key, batch, probability, law, dtype))
    np.testing.assert_array_equal(codes != 0, expected != 0)
    tolerance = 2e-6 if dtype == np.float32 else 1e-14
    np.testing.assert_allclose(codes, expected, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(
        cuda.to_numpy(cuda.normal(key, 1, (batch, N), dtype)),
        REFERENCE.normal(key, 1, (batch, N), dtype),
        rtol=tolerance,
        atol=tolerance,
    )


@given(shape=st.sampled_from([(1,), (16,), (5, 70)]), steps=st.integers(1, 5), logarithmic=st.booleans())
@many
def test_the_kernels_descend_as_the_definition_does(cuda, shape, steps, logarithmic):
    rng = np.random.default_rng(0)
    start = [1 + rng.random(shape), np.zeros(shape), np.zeros(shape), np.zeros(())]  # parameter, moments, mean loss
    states = {ops: [ops.asarray(array, np.float64) for array in start] for ops in (CpuOps(), cuda)}
    for states_of, (parameter, mean, square, mean_loss) in states.items():
        draw = np.random.default_rng(1)
        factors = states_of.asarray(0.3 ** np.arange(shape[0]), np.float64)
        for step in range(steps):
            gradient = states_of.asarray(draw.standard_normal(shape), np.float64)
            scale = states_of.track_loss(states_of.asarray(draw.random(), np.float64), 64, mean_loss)
            states_of.adam(parameter, gradient, mean, square, 0.1 / (step + 1), factors, scale, logarithmic)
    expected, result = ([ops.to_numpy(array) for array in arrays] for ops, arrays in states.items())
    for a, b in zip(result, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


# -- the whole step in one launch -------------------------------------------------------------------------------------


@given(
    shape=st.sampled_from([(1, 1), (1, 7), (5, 32), (20, 40), (33, 65), (33, 200), (100, 700)]),
    batch=st.integers(1, 12),
    depth=st.integers(1, 4),
    hard=st.sampled_from([0.0, 0.5]),
    snr=st.sampled_from([np.inf, 20.0]),
    law=laws,
    window=st.sampled_from([0.0, 0.3]),
    threshold=st.sampled_from([0.1, 0.4, -0.05, 0.0]),
    dtype=st.sampled_from([np.float32, np.float64]),
)
@settings(many, max_examples=150)
def test_the_fused_step_is_the_step(cuda, shape, batch, depth, hard, snr, law, window, threshold, dtype):
    assume(dtype == np.float64 or threshold != 0)  # one bit of a z near 0 would decide between δ and 0
    rng = np.random.default_rng(7)
    A = cuista.normalize_columns(rng.standard_normal(shape))
    problem = cuista.Problem(A, pnz=0.2, snr_db=snr, magnitude=law)
    W, key, power = A + 0.1 * rng.standard_normal(A.shape), Key(3, 1, 9), 0.8
    parameters = {"step_size": 0.5 + rng.random(4), "threshold": threshold * (1 + rng.random(4))}
    options = {"layers": 4, "percent": 5.0, "max_percent": 15.0, "parameters": parameters}
    plain, network = (Alista(Dense(A, ops=ops, dtype=dtype), W, **options) for ops in (CpuOps(), cuda))
    x, y, weights = problem.sample_weighted(batch, hard, stream=1, step=9, seed=3, dtype=dtype)
    loss, gradients = plain.loss_and_gradients(y, x, depth, window, weights**power)

    step = network.fuse(problem.signals(hard))
    runs = []
    for _ in range(2):
        result, of_step = step(network.parameters, network.support, key, batch, depth, window, power)
        runs.append((float(result), {name: cuda.to_numpy(value) for name, value in of_step.items()}))
    tolerance = 1e-12 if dtype == np.float64 else float32_tolerance(cuda)
    scale = sum(np.abs(gradient).max() for gradient in gradients.values()) + float(np.sum(x * x)) + float(loss)
    (loss_fused, of_fused), (loss_again, of_again) = runs
    assert loss_fused == pytest.approx(float(loss), rel=tolerance, abs=tolerance * scale)
    assert loss_fused == loss_again
    for name, gradient in gradients.items():
        np.testing.assert_allclose(of_fused[name], gradient, atol=tolerance * scale, rtol=tolerance)
        np.testing.assert_array_equal(of_fused[name], of_again[name])  # two runs, the same bits


def test_a_step_is_fused_only_where_it_is_right_and_faster(cuda, small_problem, small_weight):
    signals = small_problem.signals()
    network = cuista.Model.new(small_problem, small_weight, ops=cuda).network
    step = network.fuse(signals)
    assert step.suits(64, density=1.0)
    assert step.suits(1024, density=0.1)
    assert not step.suits(1024, density=1.0)
    assert cuista.Model.new(small_problem, small_weight).network.fuse(signals) is None
    assert cuista.Model.new(small_problem, small_weight, ops=cuda, per_coordinate=True).network.fuse(signals) is None
    for shape in ((4, 33), (2000, 4000)):  # WᵀA is not formed, too large for shared memory
        A = np.ones(shape)
        assert Alista(Dense(A, ops=cuda), A, layers=1, parameters=network.parameters).fuse(signals) is None


class StoppedError(Exception):
    """Raised in the middle of a run."""


# -- the engine -------------------------------------------------------------------------------------------------------


def trained(ops, problem, weight, recipe, dtype=np.float64, **options):
    model = cuista.Model.new(problem, weight, layers=4, ops=ops, dtype=dtype, **options)
    return train(model, recipe)


def parameters_of(model):
    return {name: model.network.ops.to_numpy(value) for name, value in model.network.parameters.items()}


def test_the_paper_recipe_gives_what_it_gives_on_the_cpu(cuda, small_problem, small_weight):
    recipe = PaperRecipe(batch=16, validation_batch=50, better_wait=40, max_steps=100)
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
    # Nelder-Mead, in the beginning of every layer, compares errors and so can take another path for one bit's sake.
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

    recipe = replace(QUICK, matrix_steps=60)
    for net in ("alista", "not fused", "lista-cpss", "lista", "lamp", "alista-ebt", "alista-momentum"):
        if net == "not fused":
            monkeypatch.setattr(Alista, "fuse", lambda self, signals: None)
            net = "alista"
        model = cuista.Model.new(small_problem, small_weight, net, layers=4, untied=NETWORKS[net].can_untie, ops=ops)
        stages = recipe.stages(4, more=True)
        read_back.clear()
        train(model, recipe, progress=count)
        assert len(read_back) > 50
        assert not any(read_back.values())


def test_a_step_that_is_not_fused_gives_the_same(cuda, small_problem, small_weight, monkeypatch):
    fused = trained(cuda, small_problem, small_weight, QUICK)
    monkeypatch.setattr(Alista, "fuse", lambda self, signals: None)
    plain = trained(cuda, small_problem, small_weight, QUICK)
    np.testing.assert_allclose(plain.history["nmse_db"], fused.history["nmse_db"], atol=1e-3)


def test_a_run_on_the_engine_resumes_to_the_same_bits(cuda, small_problem, small_weight, tmp_path):
    whole = trained(cuda, small_problem, small_weight, QUICK)

    def interrupt(progress):
        if progress.stage_number == 5 and progress.step == 20:
            raise StoppedError

    def fresh():
        return cuista.Model.new(small_problem, small_weight, layers=4, ops=cuda, dtype=np.float64)

    out = tmp_path / "model.h5"
    with pytest.raises(StoppedError):
        train(fresh(), QUICK, out=out, checkpoint_seconds=0, progress=interrupt)
    assert checkpoint_path(out).exists()
    with pytest.raises(cuista.CuistaError, match="device"):
        train(
            cuista.Model.new(small_problem, small_weight, layers=4, dtype=np.float64),
            QUICK,
            out=out,
            resume=True,
        )
    resumed = train(fresh(), QUICK, out=out, resume=True)
    for name, value in parameters_of(whole).items():
        np.testing.assert_array_equal(parameters_of(resumed)[name], value)
    assert cuista.Model.load(out).training == resumed.training


def test_going_over_from_dense_steps_to_fused_ones_survives_an_interruption(
    cuda, small_problem, small_weight, tmp_path, monkeypatch
):
    monkeypatch.setattr("cuista.ops.cuda.FUSED_DENSE_ROWS", 1.2)  # of 8 signals: at a density of 0.15
    fused, call = [], cuda_module._Fused.__call__
    monkeypatch.setattr(cuda_module._Fused, "__call__", lambda self, *rest: fused.append(1) or call(self, *rest))
    recipe = PaperRecipe(learning_rate=0.02, decays=(1.0,), batch=8, validation_batch=50, better_wait=20, max_steps=40)
    whole = trained(cuda, small_problem, small_weight, recipe)
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
    np.testing.assert_allclose(model.recover(y), plain.recover(y), atol=1e-4)
    expected, report = cuista.evaluate(plain, x, y), cuista.evaluate(model, x, y)
    np.testing.assert_allclose(report.nmse_db, expected.nmse_db, atol=1e-3)
    np.testing.assert_allclose(report.support_size, expected.support_size, atol=2)
    drawn = problem.sample(50, ops=cuda)
    np.testing.assert_allclose(cuda.to_numpy(drawn[1]), y, atol=1e-4)
    assert nmse_db(model.network, *drawn, 3) == pytest.approx(nmse_db(plain.network, x, y, 3), abs=1e-3)


# -- races ------------------------------------------------------------------------------------------------------------


def work(ops):
    """Every kernel, once: a warp and a block for a row, sums, and the fused step."""
    rng = np.random.default_rng(0)
    results = []
    for N, theta in ((70, 0.3), (1100, 0.3), (70, np.full(70, 0.3))):
        x, u, delta = rng.standard_normal((3, 3, N)).astype(np.float32)
        x_next, code = ops.shrink_select(x, u, 1.0, theta, N // 10, 0.3)
        results += [x_next, code, *ops.shrink_select_backward(delta, code, x, u, 1.0, theta, 0.3)]
    problem = cuista.Problem(cuista.normalize_columns(rng.standard_normal((40, 150))), snr_db=20)
    network = Alista(Dense(problem.A, ops=ops), problem.A, layers=3)
    loss, gradients = network.fuse(problem.signals(0.5))(network.parameters, network.support, Key(0, 1), 3, 3, 0.3, 1.0)
    return [*results, loss, *gradients.values(), problem.sample(3, ops=ops)[1]]


def test_the_order_in_which_threads_run_makes_no_difference(request):
    expected, *others = (work(CudaOps(np, kernels_on_the_cpu(request.config, order=order))) for order in range(4))
    for other in others:
        for a, b in zip(other, expected, strict=True):
            np.testing.assert_array_equal(a, b)


def test_no_kernel_has_a_data_race(request):
    expected = work(CudaOps(np, kernels_on_the_cpu(request.config)))
    result = work(CudaOps(np, kernels_on_the_cpu(request.config, sanitize="thread", arch=900)))
    for a, b in zip(result, expected, strict=True):
        np.testing.assert_array_equal(a, b)
