"""The CUDA kernels, compiled for every architecture, and executed on the CPU and, where there is one, on a GPU.

The CPU runs the same sources. Single kernels run under the address and undefined-behaviour sanitizers, as for a GPU of
compute capability 7.5. The last few tests look for data races, with the instructions of 8.0 and later.
"""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product

import numpy as np
import nvrtc
import pytest
from conftest import float32_tolerance, kernels_on_the_cpu, native_engines
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from shim.gpu import DeviceModule, launcher_on

import cuista
from cuista import kernels
from cuista.counter import Key
from cuista.networks import Alista
from cuista.operators import Dense
from cuista.ops import Bernoulli, CpuOps, CudaOps, Normal, ReferenceOps
from cuista.ops.joint import ALONE, Joint, real_of
from cuista.ops.reference import Descent

REFERENCE = ReferenceOps()
DENORMAL = {np.float32: 1e-40, np.float64: 5e-324}
# Kinds of entries that are not single real numbers.
KINDS_OF_ENTRIES = [
    *((dtype, ALONE) for dtype in (np.complex64, np.complex128)),
    *((np.float32, joint) for joint in (Joint(3, 1), Joint(1, 4))),
    *((np.complex64, Joint(2, 1)), (np.complex128, Joint(2, 3)), (np.float64, Joint(2, 2))),
]
many = settings(max_examples=25)
slow = pytest.mark.slow


@pytest.fixture(scope="session")
def cuda(watched_cuda: CudaOps) -> CudaOps:
    """The CUDA engine whose kernels run under sanitizers."""
    return watched_cuda


# -- compiled ---------------------------------------------------------------------------------------------------------


COMPILED = [
    pytest.param(file, f"sm_{n}", real, marks=() if (n, real) == (90, "float") else slow)
    for file in kernels.KERNELS
    for n in (75, 80, 90, 120)
    for real in kernels.REALS
]


@pytest.mark.parametrize(("file", "architecture", "real"), COMPILED)
def test_every_kernel_compiles_for_every_architecture_and_keeps_to_its_registers(file, architecture, real):
    if nvrtc.library() is None:
        pytest.skip("NVRTC is not installed (pip install nvidia-cuda-nvrtc-cu12)")
    options = (*kernels.options(real, architecture), "--ptxas-options=-v")
    worked, log = nvrtc.compile_cubin(kernels.source(file), f"{file}.cu", options)
    assert worked, log
    assert set(re.findall(r"Compiling entry function '(\w+)'", log)) == set(kernels.KERNELS[file])
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log)
    assert len(frames) >= len(kernels.KERNELS[file])
    assert set(frames) == {("0", "0", "0")}, log


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
            assert "arrived" in call or "ended" in call or "count" in call


# -- one by one -------------------------------------------------------------------------------------------------------


@st.composite
def rows(draw: st.DrawFn) -> dict[str, object]:
    """The arguments of a shrink_select step: sizes around every limit of the kernels, ties, zeros and denormals."""
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
        "one_sided": draw(st.booleans()),
    }


def on(ops, step):
    """The step with its arrays moved to the engine."""
    return {
        name: ops.asarray(value, value.dtype) if isinstance(value, np.ndarray) else value
        for name, value in step.items()
    }


@given(step=rows())
@settings(many, max_examples=40)
def test_the_kernels_shrink_to_the_bit_as_the_definition_does(cuda, step):
    expected, expected_code = REFERENCE.shrink_select(**step)
    x_next, code = map(cuda.to_numpy, cuda.shrink_select(**on(cuda, step)))
    np.testing.assert_array_equal(x_next, expected)
    np.testing.assert_array_equal(code, expected_code)
    assert x_next.dtype == expected.dtype
    assert code.dtype == np.int8


@given(step=rows(), seed=st.integers(0, 2**32))
@settings(many, max_examples=15)
def test_the_kernels_go_back_as_the_definition_does(cuda, step, seed):
    step["threshold"] = np.nan_to_num(step["threshold"], nan=0.5, posinf=0.5)  # nobody needs the gradients of these
    if step["window"] and np.array_equal(step["threshold"], DENORMAL[step["x"].dtype.type]):
        step["threshold"] = 0.5  # its ramp would be infinitely steep
    _, code = REFERENCE.shrink_select(**step)
    delta = np.random.default_rng(seed).standard_normal(code.shape).astype(step["x"].dtype)
    arguments = {name: step[name] for name in ("x", "u", "step_size", "threshold", "window")}
    d_z, d_step, d_threshold = REFERENCE.shrink_select_backward(delta, code, **arguments)
    results = cuda.shrink_select_backward(
        cuda.asarray(delta, delta.dtype), cuda.asarray(code, np.int8), **on(cuda, arguments)
    )
    d_z_cuda, d_step_cuda, d_threshold_cuda = map(cuda.to_numpy, results)
    tolerance = 1e-6 if delta.dtype == np.float32 else 1e-14
    np.testing.assert_allclose(d_z_cuda, d_z, rtol=tolerance)
    moved = np.abs(d_z * step["u"].astype(np.float64)).sum()
    np.testing.assert_allclose(d_step_cuda, d_step, atol=tolerance * (1 + moved))
    spread = np.sum(np.abs(d_z) * (1 + np.abs(step["x"].astype(np.float64)) + 2 * np.abs(step["u"])))
    np.testing.assert_allclose(d_threshold_cuda, d_threshold, atol=tolerance * (1 + spread))
    assert d_threshold_cuda.shape == np.shape(step["threshold"])


@pytest.mark.parametrize("kind", ["normal", "ties", "equal", "tiny", "zero", "nan"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_that_many_blocks_share_are_those_of_the_definition(cuda, kind, dtype, monkeypatch):
    monkeypatch.setattr("cuista.ops.cuda.SHARED_BYTES", 0)
    monkeypatch.setattr("cuista.ops.cuda.PART", 400)
    monkeypatch.setattr("cuista.ops.cuda.LENGTH", 100)
    rng = np.random.default_rng(0)
    x, u, delta = rng.standard_normal((3, 2, 850)).astype(dtype)
    if kind == "ties":
        x, u = np.rint(2 * x) / 2, np.rint(2 * u) / 2
    elif kind == "nan":
        x[1, ::3] = np.nan
    elif kind != "normal":
        x, u = {"equal": 0.75, "tiny": DENORMAL[dtype], "zero": 0}[kind] * np.rint(3 * np.abs(x)), np.zeros_like(u)
    thetas = (0.5, -0.1, np.full(850, 0.5), np.full((2, 1), 0.5))
    for count, (k, theta) in enumerate(product((0, 1, 100, 849), thetas)):
        one_sided = (count + count // 4) % 2 == 1  # with every k, and with every θ
        step = {"x": x, "u": u, "step_size": 0.7, "threshold": theta, "k": k, "window": 0.3, "one_sided": one_sided}
        expected, expected_code = REFERENCE.shrink_select(**step)
        x_next, code = cuda.shrink_select(**on(cuda, step))
        np.testing.assert_array_equal(cuda.to_numpy(x_next), expected)
        np.testing.assert_array_equal(cuda.to_numpy(code), expected_code)
        if kind != "nan" and np.ndim(theta) < 2:
            del step["k"], step["one_sided"]
            defined = REFERENCE.shrink_select_backward(delta, expected_code, **step)
            found = cuda.shrink_select_backward(cuda.asarray(delta, dtype), code, **on(cuda, step))
            for a, b in zip(found, defined, strict=True):
                np.testing.assert_allclose(cuda.to_numpy(a), b, rtol=1e-4 if dtype == np.float32 else 1e-10)


@st.composite
def joint_rows(draw: st.DrawFn) -> dict[str, object]:
    """The arguments of a shrink_select step for complex and joint entries."""
    dtype, joint = draw(st.sampled_from(KINDS_OF_ENTRIES))
    count = draw(st.sampled_from([1, 2, 33, 127, 129, 500, 513, 1024, 1025]) | st.integers(1, 300))
    batch, N = draw(st.integers(1, 1 if count > 1000 else 5)), count * joint.group
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x, u = (numbers(rng, (batch * joint.snapshots, N), dtype) for _ in range(2))
    kind = draw(st.sampled_from(["normal", "sparse", "ties", "zero"]))
    if kind == "sparse":
        x *= np.repeat(rng.random((len(x), count)) < 0.1, joint.group, axis=1)
        u *= 0.1
    elif kind == "ties":
        x, u = np.round(2 * x) / 2, np.round(2 * u) / 2
    elif kind == "zero":
        x, u = np.zeros_like(x), np.zeros_like(u)
    theta: object = draw(st.sampled_from([0.0, 0.5, 2.0, -0.5, np.inf, np.nan]))
    if draw(st.booleans()):
        shape = draw(st.sampled_from([(count,), (batch, 1), (batch, count)]))
        theta = rng.choice([0.0, 0.25, 0.5, 2.0, -0.25], shape)
    return {
        "x": x.astype(dtype),
        "u": u.astype(dtype),
        "step_size": draw(st.sampled_from([1.0, 0.5, -1.0])),
        "threshold": theta,
        "k": draw(st.sampled_from([0, count, (count - 1) // 2, count // 10])),
        "window": draw(st.sampled_from([0.0, 0.3])),
        "joint": joint,
    }


def numbers(rng, shape, dtype):
    real = rng.standard_normal(shape)
    return (real + 1j * rng.standard_normal(shape) if np.dtype(dtype).kind == "c" else real).astype(dtype)


def assert_the_kernels_shrink_as_the_definition_does(cuda, step, delta):
    """Forward and back; the numbers of a joint entry may be added in another order."""
    dtype, joint = step["x"].dtype, step["joint"]
    expected, expected_code = REFERENCE.shrink_select(**step)
    x_next, code = map(cuda.to_numpy, cuda.shrink_select(**on(cuda, step)))
    tolerance = 1e-5 if real_of(dtype) == np.float32 else 1e-13
    np.testing.assert_array_equal(code, expected_code)
    np.testing.assert_allclose(x_next, expected, rtol=tolerance, atol=tolerance)
    if joint == ALONE:
        np.testing.assert_array_equal(x_next, expected)
    assert x_next.dtype == dtype
    if not np.all(np.isfinite(step["threshold"])):
        return
    arguments = {name: step[name] for name in ("x", "u", "step_size", "threshold", "window", "joint")}
    d_z, *sums = REFERENCE.shrink_select_backward(delta, code, **arguments)
    back = cuda.shrink_select_backward(cuda.asarray(delta, dtype), cuda.asarray(code, np.int8), **on(cuda, arguments))
    d_z_cuda, *sums_cuda = map(cuda.to_numpy, back)
    np.testing.assert_allclose(d_z_cuda, d_z, rtol=tolerance, atol=tolerance * (1 + np.abs(d_z).max(initial=0)))
    for found, one in zip(sums_cuda, sums, strict=True):
        np.testing.assert_allclose(found, one, atol=tolerance * (1 + np.abs(d_z).sum() * (1 + np.abs(step["u"]).max())))
        assert found.shape == np.shape(one)


@given(step=joint_rows(), seed=st.integers(0, 2**32))
@settings(many, max_examples=40)
def test_the_kernels_shrink_complex_and_joint_entries_as_the_definition_does(cuda, step, seed):
    delta = numbers(np.random.default_rng(seed), step["x"].shape, step["x"].dtype)
    assert_the_kernels_shrink_as_the_definition_does(cuda, step, delta)


@pytest.mark.parametrize(("dtype", "joint"), KINDS_OF_ENTRIES)
def test_samples_that_many_blocks_share_are_those_of_the_definition(cuda, dtype, joint, monkeypatch, rng):
    monkeypatch.setattr("cuista.ops.cuda.SHARED_BYTES", 0)
    monkeypatch.setattr("cuista.ops.cuda.PART", 400)
    monkeypatch.setattr("cuista.ops.cuda.LENGTH", 100)
    count = 1050
    x, u, delta = (numbers(rng, (2 * joint.snapshots, count * joint.group), dtype) for _ in range(3))
    for k, theta in ((0, 0.5), (100, np.full(count, 0.5)), (1049, np.full((2, 1), -0.1))):
        step = {"x": x, "u": u, "step_size": 0.7, "threshold": theta, "k": k, "window": 0.3, "joint": joint}
        assert_the_kernels_shrink_as_the_definition_does(cuda, step, delta)


@given(
    s1=st.integers(1, 4),
    s2=st.integers(1, 4),
    stride=st.integers(1, 5),
    height=st.integers(1, 30),
    width=st.integers(1, 30),
    dtype=st.sampled_from([np.float32, np.float64]),
)
@many
def test_the_kernels_shift_by_taps_and_sum_to_the_bit_as_the_definition_does(
    cuda, s1, s2, stride, height, width, dtype
):
    rng, shape = np.random.default_rng(0), (s1, s2)
    image = rng.standard_normal((height + s1 - 1, width + s2 - 1)).astype(dtype)
    copies = REFERENCE.taps(image, shape, stride)
    np.testing.assert_array_equal(cuda.to_numpy(cuda.taps(cuda.asarray(image, dtype), shape, stride)), copies)
    for name, size in (("spread", image.shape), ("gather", (height, width))):
        positions = (height, width) if name == "spread" else image.shape
        copies = rng.standard_normal((s1 * s2, *(-(-n // stride) for n in positions))).astype(dtype)
        found = getattr(cuda, name)(cuda.asarray(copies, dtype), shape, size, stride)
        np.testing.assert_array_equal(cuda.to_numpy(found), getattr(REFERENCE, name)(copies, shape, size, stride))


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
    d_z, *_ = cuda.shrink_select_backward(x, code, x, u, 1.0, 0.5)
    np.testing.assert_array_equal(cuda.to_numpy(d_z), np.where(expected_code != 0, cuda.to_numpy(x), 0))


def test_the_kernels_pass_nan_on(cuda):
    for N in (5, 64, 2000):
        x = np.full((2, N), np.nan, np.float32)
        for one_sided in (False, True):
            arrays = cuda.asarray(x, x.dtype), cuda.asarray(x, x.dtype)
            x_next, code = cuda.shrink_select(*arrays, 1.0, 0.1, N // 2, one_sided=one_sided)
            assert np.isnan(cuda.to_numpy(x_next)).all()
            assert not cuda.to_numpy(code).any()


laws = st.sampled_from([Normal(), Normal(2.0, 0.5), Bernoulli(0.3, 1.5, -2.0), Bernoulli(1.0, 3.0, 1.0)])


@given(
    rows=st.integers(1, 40),
    first=st.integers(0, 40),
    N=st.integers(1, 70),
    p=st.sampled_from([0.0, 1e-9, 0.2, 1.0]),
    law=laws,
    seed=st.integers(0, 2**63 - 1),
    kind=st.sampled_from([(np.float32, ALONE), (np.float64, ALONE), *KINDS_OF_ENTRIES]),
)
@many
def test_the_kernels_draw_the_numbers_of_the_definition(cuda, rows, first, N, p, law, seed, kind):
    (dtype, joint), key, probability = kind, Key(seed, 65, 2**40), np.linspace(p, 1, N)
    drawn = (key, rows, np.repeat(probability, joint.group), law, dtype, first, joint)
    expected, codes = REFERENCE.sparse_codes(*drawn), cuda.to_numpy(cuda.sparse_codes(*drawn))
    np.testing.assert_array_equal(codes != 0, expected != 0)
    tolerance = 2e-6 if real_of(dtype) == np.float32 else 1e-14
    np.testing.assert_allclose(codes, expected, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(
        cuda.to_numpy(cuda.normal(key, 1, (rows, N), dtype, first)),
        REFERENCE.normal(key, 1, (rows, N), dtype, first),
        rtol=tolerance,
        atol=tolerance,
    )


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 40, 25), (2, 1030, 300), (5, 2500, 3)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64])
@pytest.mark.parametrize("density", [0.0, 0.1, 1.0])
def test_a_row_of_the_kernels_product_by_rows_does_not_depend_on_the_others(cuda, shape, dtype, density):
    rng, (rows, N, M) = np.random.default_rng(0), shape
    a, b = numbers(rng, (rows, N), dtype) * (rng.random((rows, N)) < density), numbers(rng, (N, M), dtype)
    a, b = (cuda.asarray(array, dtype) for array in (a, b))
    product = cuda.to_numpy(cuda.matmul_by_rows(a, b, density))
    expected = cuda.to_numpy(a) @ cuda.to_numpy(b)
    np.testing.assert_allclose(product, expected, atol=1e-10 if dtype == np.float64 else 1e-3)
    np.testing.assert_array_equal(cuda.to_numpy(cuda.matmul_by_rows(a[-1:], b, density)), product[-1:])


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
            descent = Descent(0.1 / (step + 1), factors, scale, logarithmic)
            states_of.adam(parameter, gradient, mean, square, descent)
    expected, result = ([ops.to_numpy(array) for array in arrays] for ops, arrays in states.items())
    for a, b in zip(result, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


@given(
    shape=st.sampled_from([(1, 1), (1, 3000), (3, 31), (5, 33), (7, 2048), (2, 2049), (1200, 3), (0, 5)]),
    dtype=st.sampled_from([np.float32, np.float64, np.complex64]),
    weighted=st.booleans(),
    seed=st.integers(0, 2**32),
)
@settings(many)
def test_the_kernels_compute_the_loss_as_the_definition_does(cuda, shape, dtype, weighted, seed):
    rng = np.random.default_rng(seed)
    x, target = (numbers(rng, shape, dtype) for _ in range(2))
    weights = rng.random(shape[0]) if weighted else None
    expected, expected_delta = REFERENCE.half_squared_error(x, target, weights)
    on_device = [None if array is None else cuda.asarray(array, array.dtype) for array in (x, target, weights)]
    loss, delta = cuda.half_squared_error(*on_device)
    np.testing.assert_array_equal(cuda.to_numpy(delta), expected_delta)
    np.testing.assert_allclose(float(loss), expected, rtol=1e-13 if dtype == np.float64 else 1e-6)


@given(
    shape=st.sampled_from([(1, 1), (3, 31), (5, 250), (9, 1000), (0, 5)]),
    dtype=st.sampled_from([np.float32, np.float64]),
    unit=st.sampled_from([1.0, 7.0]),
    kind=st.sampled_from(["normal", "zero", "tiny", "huge", "one NaN"]),
    seed=st.integers(0, 2**32),
)
@settings(many)
def test_the_kernels_scale_measurements_as_the_definition_does(cuda, shape, dtype, unit, kind, seed):
    y = np.random.default_rng(seed).standard_normal(shape).astype(dtype)
    limits = np.finfo(dtype)
    y *= {"zero": 0, "tiny": limits.smallest_normal, "huge": limits.max / 1e3}.get(kind, 1)
    if kind == "one NaN":
        y[:1, :1] = np.nan
    expected, expected_factors = REFERENCE.in_units(y, unit)
    scaled, factors = (cuda.to_numpy(array) for array in cuda.in_units(cuda.asarray(y, dtype), unit))
    tolerance = 1e-5 if dtype == np.float32 else 1e-13
    np.testing.assert_allclose(scaled, expected, rtol=tolerance)
    np.testing.assert_allclose(factors, expected_factors, rtol=tolerance)
    assert factors.shape == expected_factors.shape


@given(
    N=st.sampled_from([1, 5, 32, 100, 129, 500, 1025]),
    dtype=st.sampled_from([np.float32, np.float64]),
    per_coordinate=st.booleans(),
    from_zero=st.booleans(),
    one_sided=st.booleans(),
    seed=st.integers(0, 2**32),
)
@settings(many, max_examples=15)
def test_the_kernels_take_layers_as_the_definition_does(cuda, N, dtype, per_coordinate, from_zero, one_sided, seed):
    rng = np.random.default_rng(seed)
    x, Wy = rng.standard_normal((2, 3, N)).astype(dtype)
    packed = (0.3 * rng.standard_normal((N, N)) / np.sqrt(N)).astype(dtype)
    step_size, threshold = 0.5 + rng.random(3), rng.random((3, N) if per_coordinate else 3)
    layers = (step_size, threshold, (0, N // 3, N), one_sided)
    expected = REFERENCE.analytic_layers(None if from_zero else x, Wy, packed, *layers)
    on_device = [cuda.asarray(array, dtype) for array in (x, Wy, packed)]
    found = cuda.analytic_layers(None if from_zero else on_device[0], *on_device[1:], *layers)
    difference = np.abs(cuda.to_numpy(found) - expected)
    # Rounding may decide whether an entry is among the largest, which moves it by its threshold.
    assert np.mean(difference > (1e-4 if dtype == np.float32 else 1e-12)) < 0.02


# -- the whole step in one launch, or in the native library -----------------------------------------------------------


@given(
    shape=st.sampled_from([(1, 1), (1, 7), (5, 32), (20, 40), (40, 20), (33, 65), (40, 128), (33, 200), (100, 700)]),
    batch=st.integers(1, 12),
    depth=st.integers(1, 4),
    hard=st.sampled_from([0.0, 0.5]),
    snr=st.sampled_from([np.inf, 20.0]),
    law=laws,
    window=st.sampled_from([0.0, 0.3]),
    threshold=st.sampled_from([0.1, 0.4, -0.05, 0.0]),
    dtype=st.sampled_from([np.float32, np.float64]),
    positive=st.booleans(),
    one_sided=st.booleans(),
    unit=st.sampled_from([0.0, 2.0]),
)
@settings(many, max_examples=40)
def test_the_fused_step_is_the_step(
    cuda, shape, batch, depth, hard, snr, law, window, threshold, dtype, positive, one_sided, unit
):
    # Otherwise a single bit of a z near 0, and with one measurement often of an exact 0, decides what happens to it.
    assume(threshold > 0 or (dtype == np.float64 and shape[0] > 1))
    law_of_signals = {"snr_db": snr, "magnitude": law, "positive": positive}
    assert_the_fused_step_is_the_step(
        cuda, shape, dtype, batch, depth, hard, window, threshold, unit, one_sided, **law_of_signals
    )


@given(
    shape=st.sampled_from([(5, 12), (40, 24), (60, 128), (40, 204)]),
    batch=st.integers(1, 5),
    hard=st.sampled_from([0.0, 0.5]),
    snr=st.sampled_from([np.inf, 20.0]),
    law=laws,
    window=st.sampled_from([0.0, 0.3]),
    threshold=st.sampled_from([0.4, -0.05]),
    kind=st.sampled_from(KINDS_OF_ENTRIES),
    unit=st.sampled_from([0.0, 2.0]),
)
@settings(many, max_examples=15)
def test_the_fused_step_is_the_step_for_complex_and_joint_entries(
    cuda, shape, batch, hard, snr, law, window, threshold, kind, unit
):
    dtype, joint = kind
    assume(shape[1] % joint.group == 0)
    assume(threshold > 0 or real_of(dtype) == np.float64)
    law_of_signals = {"snr_db": snr, "magnitude": law, "snapshots": joint.snapshots, "group": joint.group}
    assert_the_fused_step_is_the_step(
        cuda, shape, dtype, batch, 4, hard, window, threshold, unit, False, **law_of_signals
    )


def assert_the_fused_step_is_the_step(
    cuda, shape, dtype, batch, depth, hard, window, threshold, unit, one_sided, **law_of_signals
):
    rng = np.random.default_rng(7)
    in_double = np.complex128 if np.dtype(dtype).kind == "c" else np.float64
    A = cuista.normalize_columns(numbers(rng, shape, in_double))
    problem = cuista.Problem(A, pnz=0.2, **law_of_signals)
    W, key, power = A + 0.1 * numbers(rng, shape, in_double), Key(3, 1, 9), 0.8
    parameters = {"step_size": 0.5 + rng.random(4), "threshold": threshold * (1 + rng.random(4))}
    options = {"layers": 4, "percent": 5.0, "max_percent": 15.0, "parameters": parameters, "positive": one_sided}
    options["joint"] = problem.joint
    plain = Alista(Dense(A, ops=CpuOps(), dtype=dtype), W, **options)
    plain.unit = unit
    x, y, weights = problem.sample_weighted(batch, hard, stream=1, step=9, seed=3, dtype=real_of(dtype))
    loss, gradients = plain.loss_and_gradients(y, x, depth, window, weights**power)

    scale = sum(np.abs(gradient).max() for gradient in gradients.values()) + float(np.sum(np.abs(x) ** 2)) + float(loss)
    for engine in (cuda, *native_engines().values()):
        network = Alista(Dense(A, ops=engine, dtype=dtype), W, **options)
        network.unit = unit
        step = network.fuse(problem.signals(hard))
        runs = []
        for _ in range(2):
            result, of_step = step(network.parameters, network.support, key, batch, depth, window, power)
            runs.append((float(result), {name: engine.to_numpy(value) for name, value in of_step.items()}))
        tolerance = 1e-12 if real_of(dtype) == np.float64 else float32_tolerance(engine)
        (loss_fused, of_fused), (loss_again, of_again) = runs
        assert loss_fused == pytest.approx(float(loss), rel=tolerance, abs=tolerance * scale)
        assert loss_fused == loss_again
        for name, gradient in gradients.items():
            np.testing.assert_allclose(of_fused[name], gradient, atol=tolerance * scale, rtol=tolerance)
            np.testing.assert_array_equal(of_fused[name], of_again[name])  # two runs give the same bits


@pytest.mark.parametrize("batch", [33, 70])
def test_shards_of_a_fused_step_add_up_to_the_bits_of_the_whole(cuda, small_problem, small_weight, batch):
    for engine in (cuda, *native_engines().values()):
        network = cuista.Model.new(small_problem, small_weight, layers=3, ops=engine).network
        step = network.fuse(small_problem.signals(0.5))
        arguments = (network.parameters, network.support, Key(3, 1, 2), batch, 3, 0.2, 0.8)

        def on(shards, step=step, arguments=arguments, engine=engine):
            rows = slice(shards.start * step.shard, min(shards.stop * step.shard, arguments[3]))
            loss, gradients = step(*arguments, rows)
            return [np.float64(loss), *(engine.to_numpy(value).copy() for value in gradients.values())]

        count = -(-batch // step.shard)
        whole = on(range(count))
        half = 1 << (count - 1).bit_length() - 1
        for a, b, expected in zip(on(range(half)), on(range(half, count)), whole, strict=True):
            np.testing.assert_array_equal(a + b, expected)


def test_a_step_is_fused_only_where_it_is_right_and_faster(cuda, small_problem, small_weight):
    signals = small_problem.signals()
    network = cuista.Model.new(small_problem, small_weight, ops=cuda).network
    step = network.fuse(signals)
    assert step.suits(64, density=1.0)
    assert step.suits(2048, density=0.4)
    assert not step.suits(2048, density=1.0)
    assert cuista.Model.new(small_problem, small_weight, ops=CpuOps()).network.fuse(signals) is None
    assert cuista.Model.new(small_problem, small_weight, ops=cuda, per_coordinate=True).network.fuse(signals) is None
    for shape in ((4, 33), (2000, 4000)):  # WᵀA is not formed, or is too large for shared memory
        A = np.ones(shape)
        assert Alista(Dense(A, ops=cuda), A, layers=1, parameters=network.parameters).fuse(signals) is None
    complex_problem = cuista.Problem(cuista.normalize_columns(numbers(np.random.default_rng(0), (250, 500), complex)))
    for snapshots, fits in ((1, True), (2, True), (3, False)):  # in shared memory
        problem = replace(complex_problem, snapshots=snapshots)
        network = Alista(Dense(problem.A, ops=cuda), problem.A, layers=1, joint=problem.joint)
        step = network.fuse(problem.signals())
        assert (step is not None) == fits
        assert not fits or step.suits(128 // snapshots, 1.0) > step.suits(2048, 1.0)


# -- races ------------------------------------------------------------------------------------------------------------


def work(ops):
    """Run every kernel once: a warp, a block and many blocks per row, sums, taps and the fused step, with its teams."""
    rng = np.random.default_rng(0)
    results = []
    for N, theta in ((70, 0.3), (70, np.full(70, 0.3)), (1100, 0.3)):
        x, u, delta = ops.asarray(rng.standard_normal((3, 3, N)), np.float32)
        theta = ops.asarray(theta, np.float64)
        x_next, code = ops.shrink_select(x, u, 1.0, theta, N // 10, 0.3)
        results += [x_next, code, *ops.shrink_select_backward(delta, code, x, u, 1.0, theta, 0.3)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cuista.ops.cuda.SHARED_BYTES", 0)
        patch.setattr("cuista.ops.cuda.PART", 400)
        results += [*ops.shrink_select(x, u, 1.0, 0.3, 60, 0.3), *ops.shrink_select(x, u, 1.0, 0.3, 60, 0.3, True)]
    results += joint_work(ops, rng)
    copies = ops.taps(x, (2, 3))
    copies_of = copies.reshape(6, 2, -1)
    results += [copies, ops.spread(copies_of, (2, 3), x.shape), ops.gather(copies_of, (2, 3), (1, x.shape[1] - 4))]
    pictures, weight = (
        ops.asarray(rng.standard_normal((3, 2, 9, 8)), np.float32),
        ops.asarray(np.ones((3, 2, 4)), x.dtype),
    )
    step = (*pictures[:2], weight, weight, 1.0, ops.asarray(rng.random((2, 4)), np.float64), 0, 2)
    maps, found, record = ops.conv_steps(None, *step)
    results += [maps, found, *ops.conv_steps_backward(maps, pictures[2], record, True, True)]
    scaled, factors = ops.in_units(delta, 2.0)
    results += [scaled, factors, *ops.half_squared_error(x, delta, ops.asarray([0.5, 1, 2], np.float64))]
    for shape, unit in (((40, 150), 0.0), ((33, 200), 3.0)):  # products of all threads for each column, and of teams
        problem = cuista.Problem(cuista.normalize_columns(rng.standard_normal(shape)), snr_db=20)
        network = Alista(Dense(problem.A, ops=ops), problem.A, layers=3)
        network.unit = unit
        step = network.fuse(problem.signals(0.5))
        loss, gradients = step(network.parameters, network.support, Key(0, 1), 3, 3, 0.3, 1.0)
        results += [loss, *gradients.values(), network.output(problem.sample(3, ops=ops)[1])]
    results += problem.sample_weighted(7, 0.3, stream=1, rows=slice(2, 7), ops=ops)
    return list(map(ops.to_numpy, results))


def joint_work(ops, rng):
    """Run the kernels for complex and joint entries once."""
    results = []
    for dtype, joint in KINDS_OF_ENTRIES[:5:2]:
        for count, theta, shared in ((70, 0.3, 2**15), (1030, np.full(1030, 0.3), 2**15), (1030, 0.3, 0)):
            arrays = (numbers(rng, (2 * joint.snapshots, count * joint.group), dtype) for _ in range(3))
            x, u, delta = (ops.asarray(array, dtype) for array in arrays)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("cuista.ops.cuda.SHARED_BYTES", shared)
                patch.setattr("cuista.ops.cuda.PART", 400)
                given = ops.asarray(theta, np.float64)
                x_next, code = ops.shrink_select(x, u, 1.0, given, count // 10, 0.3, joint=joint)
            results += [x_next, code, *ops.shrink_select_backward(delta, code, x, u, 1.0, given, 0.3, joint)]
        A = cuista.normalize_columns(numbers(rng, (40, 128), np.result_type(dtype, np.float64)))
        problem = cuista.Problem(A, pnz=0.1, snr_db=20, snapshots=joint.snapshots, group=joint.group)
        network = Alista(Dense(A, ops=ops), A, layers=3, joint=joint)
        network.unit = 3.0
        loss, gradients = network.fuse(problem.signals(0.5))(
            network.parameters, network.support, Key(0, 1), 3, 3, 0.3, 1.0
        )
        results += [loss, *gradients.values(), *problem.sample_weighted(3, 0.3, stream=1, ops=ops)]
    return results


def on_the_cpu(request, *sanitize, **options):
    return CudaOps(DeviceModule(), launcher_on(kernels_on_the_cpu(request.config, *sanitize, **options)))


def test_the_order_in_which_threads_run_makes_no_difference(request):
    expected, *others = (work(on_the_cpu(request, order=order)) for order in range(4))
    for other in others:
        for a, b in zip(other, expected, strict=True):
            np.testing.assert_array_equal(a, b)


@slow
def test_no_kernel_has_a_data_race(request):
    for a, b in zip(work(on_the_cpu(request, "thread")), work(on_the_cpu(request)), strict=True):
        np.testing.assert_array_equal(a, b)
