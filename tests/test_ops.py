"""The primitives: the definition is compared with the words of the paper, and the engine with the definition."""

from __future__ import annotations

import inspect
import itertools

import numpy as np
import pytest
from conftest import FAST, on_all_engines, on_fast_engines
from cuista.kernels.constants import NEAR, OFF, PASSED, SHRUNK_DOWN, SHRUNK_UP
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cuista.counter import Key
from cuista.ops import Bernoulli, CpuOps, NativeOps, Normal, OuterSum, ReferenceOps
from cuista.ops.cpu import _Pool
from cuista.ops.joint import real_of
from cuista.ops.reference import Descent

REFERENCE, CPU = ReferenceOps(), CpuOps()
DENORMAL = 1e-40

# A few values, so that there are ties, among them zeros, denormals and large numbers.
FEW = np.array([0.0, -0.0, 0.5, -0.5, 0.25, 1.0, -1.0, 3.0, -7.5, DENORMAL, -DENORMAL, 1e20])


@st.composite
def steps(draw: st.DrawFn) -> dict[str, object]:
    """The arguments of a shrink_select step, with all edge cases."""
    batch, size = draw(st.integers(1, 4)), draw(st.integers(1, 70))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    share = draw(st.sampled_from([0.0, 0.3, 1.0]))  # of entries that are among the few values

    def array() -> np.ndarray:
        few, others = rng.choice(FEW, (batch, size)), rng.uniform(-4, 4, (batch, size))
        return np.where(rng.random((batch, size)) < share, few, others).astype(dtype)

    theta: object = draw(st.sampled_from([0.0, 0.25, 0.5, 1.0, -0.5, 1e-3]))
    if draw(st.booleans()):
        shape = draw(st.sampled_from([(size,), (batch, 1), (batch, size)]))
        theta = draw(hnp.arrays(np.float64, shape, elements=st.sampled_from([0.0, 0.25, 0.5, 2.0, -0.25])))
    counts = st.sampled_from([0, size - 1, size, size + 5, (size - 1) // 2, min(3, size - 1)])
    return {
        "x": array(),
        "u": array(),
        "step_size": draw(st.sampled_from([1.0, 0.5, -1.0, 0.0, 1.7])),
        "threshold": theta,
        "k": draw(counts | st.lists(counts, min_size=batch, max_size=batch).map(np.array)),
        "window": draw(st.sampled_from([0.0, 0.3, 1.5])),
        "one_sided": draw(st.booleans()),
    }


@given(steps())
@settings(max_examples=300)
def test_shrink_select_is_what_the_paper_says(step):
    x_next, code = REFERENCE.shrink_select(**step)
    z = step["x"] + step["x"].dtype.type(step["step_size"]) * step["u"]
    theta = np.broadcast_to(np.asarray(step["threshold"], z.dtype), z.shape)
    for row, k in zip(range(z.shape[0]), np.broadcast_to(step["k"], z.shape[0]), strict=True):
        size = z[row] if step["one_sided"] else np.abs(z[row])
        tau = sorted(size, reverse=True)[min(k, z.shape[1] - 1)]  # the (k + 1)-th largest
        passed = 0
        for value, threshold, result, what in zip(z[row], theta[row], x_next[row], code[row] & ~NEAR, strict=True):
            if step["one_sided"] and value <= 0:
                assert result == 0
                assert what == OFF
            elif abs(value) > threshold and abs(value) > tau:
                passed += 1
                assert result == value
                assert what == PASSED
            else:
                assert result == np.sign(value) * max(abs(value) - threshold, 0)
                shrunk = abs(value) > threshold and value != 0
                assert what == ((SHRUNK_UP if value > 0 else SHRUNK_DOWN) if shrunk else OFF)
        assert passed <= k


@given(steps())
@settings(max_examples=300)
def test_the_engines_shrink_as_the_definition_does(step):
    expected, expected_code = REFERENCE.shrink_select(**step)
    for name, fast in FAST.items():
        x_next, code = fast.shrink_select(**step)
        np.testing.assert_array_equal(x_next, expected, name)
        np.testing.assert_array_equal(code, expected_code, name)
        assert x_next.dtype == expected.dtype
        assert code.dtype == expected_code.dtype == np.int8


@given(steps(), st.integers(0, 2**32))
@settings(max_examples=300)
def test_the_engines_go_back_as_the_definition_does(step, seed):
    _, code = REFERENCE.shrink_select(**step)
    delta = np.random.default_rng(seed).standard_normal(code.shape).astype(step["x"].dtype)
    arguments = {name: step[name] for name in ("x", "u", "step_size", "threshold", "window")}
    d_z, d_step, d_threshold = REFERENCE.shrink_select_backward(delta, code, **arguments)
    tolerance = 1e-5 if delta.dtype == np.float32 else 1e-12
    largest = float(np.abs(d_z * step["u"].astype(np.float64)).sum())
    spread = float(np.abs(d_z * (1 + np.abs(step["x"].astype(np.float64)) + np.abs(step["u"]))).sum())
    for name, fast in FAST.items():
        d_z_fast, d_step_fast, d_threshold_fast = fast.shrink_select_backward(delta, code, **arguments)
        np.testing.assert_allclose(d_z_fast, d_z, tolerance, tolerance, err_msg=name)
        np.testing.assert_allclose(d_step_fast, d_step, atol=tolerance * (1 + largest), err_msg=name)
        np.testing.assert_allclose(d_threshold_fast, d_threshold, atol=tolerance * (1 + spread) * 1e2, err_msg=name)
        assert np.shape(d_threshold_fast) == np.shape(step["threshold"])


def test_ties_let_fewer_than_k_pass():
    x = np.array([[2.0, 2.0, 2.0, 1.0]])
    x_next, code = REFERENCE.shrink_select(x, np.zeros_like(x), 1.0, 0.5, 2)
    np.testing.assert_array_equal(code, [[SHRUNK_UP] * 4])
    np.testing.assert_array_equal(x_next, x - 0.5)


def test_one_sided_thresholding_has_no_negative_entries_and_selects_by_z():
    x = np.array([[3.0, -9.0, 1.0, -0.1, 0.0, 0.2]])
    zero = np.zeros_like(x)
    x_next, code = REFERENCE.shrink_select(x, zero, 1.0, 0.5, 1, window=1.5, one_sided=True)
    np.testing.assert_array_equal(x_next, [[3.0, 0.0, 0.5, 0.0, 0.0, 0.0]])
    np.testing.assert_array_equal(code, [[PASSED, OFF, SHRUNK_UP, OFF, OFF, OFF]])
    x_next, code = REFERENCE.shrink_select(x, zero, 1.0, -0.5, 1, one_sided=True)  # outwards, but zeros stay
    np.testing.assert_array_equal(x_next, [[3.0, 0.0, 1.5, 0.0, 0.0, 0.7]])
    np.testing.assert_array_equal(code, [[PASSED, OFF, SHRUNK_UP, OFF, OFF, SHRUNK_UP]])


def test_a_negative_threshold_moves_unselected_entries_outwards_and_leaves_zeros():
    x = np.array([[3.0, -1.0, 0.0]])
    x_next, code = REFERENCE.shrink_select(x, np.zeros_like(x), 1.0, -0.5, 1)
    np.testing.assert_array_equal(x_next, [[3.0, -1.5, 0.0]])
    np.testing.assert_array_equal(code, [[PASSED, SHRUNK_DOWN, OFF]])


@on_all_engines
def test_nan_is_passed_on_and_never_hidden(ops):
    x = np.full((1, 5), np.nan, np.float32)
    for one_sided in (False, True):
        assert np.isnan(ops.shrink_select(x, np.ones_like(x), 1.0, 0.1, 2, one_sided=one_sided)[0]).all()


@on_all_engines
@pytest.mark.parametrize("theta", [0.3, -0.2, np.linspace(0.1, 0.5, 12)])
@pytest.mark.parametrize("one_sided", [False, True])
def test_the_step_gradient_matches_central_differences(ops, theta, one_sided, rng):
    x, u, weights = rng.standard_normal((3, 5, 12))
    alpha, k, h = 0.8, 4, 1e-6

    def loss(x, alpha, theta):
        return float(np.sum(weights * ops.shrink_select(x, u, alpha, theta, k, one_sided=one_sided)[0]))

    _, code = ops.shrink_select(x, u, alpha, theta, k, one_sided=one_sided)
    d_z, d_alpha, d_theta = ops.shrink_select_backward(weights, code, x, u, alpha, theta)
    assert d_alpha == pytest.approx((loss(x, alpha + h, theta) - loss(x, alpha - h, theta)) / (2 * h), rel=1e-6)
    numeric = (loss(x, alpha, theta + h) - loss(x, alpha, theta - h)) / (2 * h)
    assert np.sum(d_theta) == pytest.approx(numeric, rel=1e-6)
    bump = np.zeros_like(x)
    for index in np.ndindex(*x.shape):
        bump[index] = h
        assert d_z[index] == pytest.approx(
            (loss(x + bump, alpha, theta) - loss(x - bump, alpha, theta)) / (2 * h), abs=1e-6
        )
        bump[index] = 0


def test_the_window_gives_the_derivative_of_an_expected_loss_that_the_fixed_selection_misses(rng):
    # z ~ N(0, 1) and x* = z + noise: E[½(x_next − x*)²] depends on θ only through the jump, as all but one may pass.
    z = rng.standard_normal((20_000, 20))
    target = z + 0.5 * rng.standard_normal(z.shape)
    zero, theta, k, h = np.zeros_like(z), 0.7, 19, 0.02

    def loss(theta):
        return REFERENCE.half_squared_error(REFERENCE.shrink_select(zero, z, 1.0, theta, k)[0], target)[0]

    def gradient(window):
        x_next, code = REFERENCE.shrink_select(zero, z, 1.0, theta, k, window)
        return REFERENCE.shrink_select_backward(x_next - target, code, zero, z, 1.0, theta, window)[2]

    numeric = (loss(theta + h) - loss(theta - h)) / (2 * h)
    assert gradient(0.05) == pytest.approx(numeric, rel=0.08)  # its bias is of the order of the window
    assert abs(gradient(0.0)) < 0.05 * abs(numeric)


@on_fast_engines
@pytest.mark.parametrize("density", [0.0, 0.05, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("columns", [1, 3, 16, 41, 300])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sparse_products_are_products(fast, density, columns, dtype, rng):
    a = (rng.standard_normal((33, 70)) * (rng.random((33, 70)) < density)).astype(dtype)
    b = rng.standard_normal((70, columns)).astype(dtype)
    result = fast.sparse_matmul(a, b)
    np.testing.assert_allclose(result, a @ b, rtol=1e-4, atol=1e-4 if dtype == np.float32 else 1e-12)
    assert result.dtype == dtype


@st.composite
def layers(draw: st.DrawFn) -> dict[str, object]:
    """The arguments of `analytic_layers`, but with the matrix in place of the packed one."""
    batch, size, depth = draw(st.integers(1, 70)), draw(st.integers(1, 200)), draw(st.integers(1, 3))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    start = draw(st.sampled_from([None, 0.0, 0.2, 1.0]))  # None, or the share of non-zeros
    shape = (depth, size) if draw(st.booleans()) else (depth,)
    counts = st.sampled_from([0, size - 1, (size - 1) // 2, min(3, size - 1)])
    x = rng.standard_normal((batch, size)) * (rng.random((batch, size)) < (start or 0))
    return {
        "x": None if start is None else x.astype(dtype),
        "Wy": rng.standard_normal((batch, size)).astype(dtype),
        "matrix": (rng.standard_normal((size, size)) / size).astype(dtype),
        "step_size": rng.uniform(0.5, 1.5, depth),
        "threshold": rng.uniform(-0.1, 1.5, shape),
        "support": tuple(draw(st.lists(counts, min_size=depth, max_size=depth))),
        "one_sided": draw(st.booleans()),
    }


@given(layers())
@settings(max_examples=100)
def test_several_layers_at_once_are_those_of_the_definition(arguments):
    # In float32, rounding can decide whether an entry passes, though seldom.
    matrix, single = arguments.pop("matrix"), arguments["Wy"].dtype == np.float32
    expected = REFERENCE.analytic_layers(packed=REFERENCE.pack(matrix), **arguments)
    tolerance = 1e-4 if single else 1e-10
    for name, fast in FAST.items():
        found = fast.analytic_layers(packed=fast.pack(matrix), **arguments)
        assert found.dtype == expected.dtype
        near = np.isclose(found, expected, rtol=tolerance, atol=tolerance)
        assert np.count_nonzero(~near.all(axis=1)) <= (0.05 * len(near) if single else 0), name


@on_fast_engines
def test_the_rows_of_several_layers_do_not_depend_on_each_other(fast, rng):
    Wy, matrix = rng.standard_normal((70, 50)), rng.standard_normal((50, 50)) / 50
    packed, parameters = fast.pack(matrix), (np.full(3, 0.9), np.full(3, 0.3), (2, 4, 6))
    whole = fast.analytic_layers(None, Wy, packed, *parameters).copy()
    if isinstance(fast, NativeOps):  # BLAS's products depend on the number of rows
        for part in (slice(0, 1), slice(3, 40), slice(32, 70)):
            np.testing.assert_array_equal(fast.analytic_layers(None, Wy[part], packed, *parameters), whole[part])
    one_by_one = None
    for t in range(3):
        layer = ([0.9], [0.3], parameters[2][t : t + 1])
        one_by_one = fast.analytic_layers(one_by_one, Wy, packed, *map(np.array, layer[:2]), layer[2])
    np.testing.assert_array_equal(one_by_one, whole)


@on_fast_engines
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 7, 70])
@pytest.mark.parametrize("momentum", [False, True])
@pytest.mark.parametrize("restart", [False, True])
def test_proximal_iterations_are_those_of_the_definition(fast, dtype, size, momentum, restart, rng):
    batch = 3 if size < 70 else 140
    A = rng.standard_normal((size, size)) / np.sqrt(size)
    gram, (x, Ay) = (-(A.T @ A)).astype(dtype), rng.standard_normal((2, batch, size)).astype(dtype)
    x *= rng.random(x.shape) < 0.3
    ahead, t = x + dtype(0.1) * np.sign(x), rng.uniform(1, 4, (batch, 1))
    tolerance = 1e-4 if dtype == np.float32 else 1e-10
    thresholds = (0.05, *map(rng.random, (size, (batch, 1), (batch, size))))
    for one_sided, theta in itertools.product((False, True), thresholds):
        state, how = (x.copy(), ahead.copy(), t.copy()), (0.2, theta, 4, momentum, restart, one_sided)
        expected = REFERENCE.proximal_iterations(*state, Ay, REFERENCE.pack(gram), *how)
        found = fast.proximal_iterations(*state, Ay, fast.pack(gram), *how)
        for one, other, now, before in zip(found, expected, state, (x, ahead, t), strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)
            np.testing.assert_array_equal(now, before)


@on_fast_engines
def test_an_iteration_passes_on_what_is_not_a_number(fast):
    x, Ay, t = np.zeros((2, 5)), np.zeros((2, 5)), np.ones((2, 1))
    Ay[0, 3] = np.nan
    for one_sided in (False, True):
        found = fast.proximal_iterations(x, x, t, Ay, fast.pack(-np.eye(5)), 0.5, 0.1, 1, True, True, one_sided)
        assert np.isnan(found[0]).tolist() == np.isnan(Ay).tolist()


@on_all_engines
@pytest.mark.parametrize("density", [0.05, 1.0])
def test_a_row_of_a_product_by_rows_does_not_depend_on_the_others(ops, density, rng):
    a = rng.standard_normal((33, 70)) * (rng.random((33, 70)) < density)
    b = rng.standard_normal((70, 41))
    whole = ops.matmul_by_rows(a, b, density).copy()
    np.testing.assert_allclose(whole, a @ b, atol=1e-12)
    for part in (slice(0, 1), slice(3, 20), slice(32, 33), slice(5, 5)):
        np.testing.assert_array_equal(ops.matmul_by_rows(a[part], b, density), whole[part])


def test_hard_thresholding_keeps_or_drops_and_its_window_is_a_ramp(rng):
    z = rng.standard_normal((5, 40))
    kept, code = CPU.hard_threshold(z, 0.8, window=0.25)
    np.testing.assert_array_equal(kept, np.where(np.abs(z) > 0.8, z, 0))
    delta, zero = rng.standard_normal(z.shape), np.zeros_like(z)
    d_z, _, d_theta = CPU.shrink_select_backward(delta, code, z, zero, 1.0, 0.8, 0.25)
    # The derivative of the ramp z·clip((|z| − 0.6) / 0.4, 0, 1), but with the clip replaced by 1 or 0 (kept or
    # dropped).
    near = np.abs(np.abs(z) - 0.8) < 0.2
    np.testing.assert_allclose(d_z, delta * ((np.abs(z) > 0.8) + near * np.abs(z) / 0.4))
    assert d_theta == pytest.approx(-np.sum(delta * z * near) / 0.4)


@pytest.mark.parametrize("theta", [0.8, 0.0, -0.3])
@pytest.mark.parametrize("window", [0.0, 0.25, 1.5])
def test_one_sided_hard_thresholding_is_that_of_positive_entries_and_drops_the_others(theta, window, rng):
    z = np.append(rng.standard_normal((5, 40)), np.zeros((5, 1)), axis=1)
    kept, code = CPU.hard_threshold(z, theta, window, one_sided=True)
    both, code_of_both = CPU.hard_threshold(z, theta, window)
    np.testing.assert_array_equal(kept, np.where(z > 0, both, 0))
    np.testing.assert_array_equal(code, np.where(z > 0, code_of_both, OFF))


NUMBERS = (np.float32, np.float64, np.complex64, np.complex128)


def numbers(rng, shape, dtype):
    """Normal numbers, real or complex."""
    real = rng.standard_normal(shape)
    return (real if dtype in NUMBERS[:2] else real + 1j * rng.standard_normal(shape)).astype(dtype)


def rounding_of(dtype):
    return 1e-6 if real_of(dtype) == np.float32 else 1e-14


@given(
    shape=st.sampled_from(
        [(1, 1, 1), (3, 7, 5), (4, 16, 33), (5, 70, 40), (64, 250, 500), (2, 1030, 3), (2, 3, 10_000)]
    ),
    density=st.sampled_from([0.0, 0.1, 0.19, 1.0]),
    dtype=st.sampled_from(NUMBERS),
)
@settings(max_examples=50)
def test_the_engines_multiply_where_it_is_asked_for_as_the_definition_does(shape, density, dtype):
    (rows, inner, columns), rng = shape, np.random.default_rng(0)
    a, b = (numbers(rng, size, dtype) for size in ((rows, inner), (inner, columns)))
    where = (rng.random((rows, columns)) < density).astype(np.int8) * NEAR
    expected = a.astype(np.result_type(dtype, np.float64)) @ b
    rounding = rounding_of(dtype) * (1 + np.abs(a) @ np.abs(b))
    for name, ops in {"reference": REFERENCE, **FAST}.items():
        found = ops.matmul_where(a, b, np.ascontiguousarray(b.T), where)
        right = np.abs(found - expected) <= rounding
        assert (right | (where == 0) & (found == 0)).all(), name


def moments_of(shape, dtype, rng):
    """A parameter, and moments of its gradient."""
    return [rng.uniform(*range_, shape).astype(dtype) for range_ in ((0.5, 2), (-1, 1), (0.1, 1))]


def descent_for(layers, logarithmic=False):
    return Descent(0.01, 0.3 ** np.arange(layers), np.float64(1.7), logarithmic)


@given(
    shape=st.sampled_from([(1,), (16,), (5, 70), (3, 7, 33), (2, 1, 1), (1, 40, 3), (3, 300, 201), (1, 10_000)]),
    dtype=st.sampled_from([np.float32, np.float64]),
    logarithmic=st.booleans(),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=60)
def test_the_engines_descend_as_the_definition_does(shape, dtype, logarithmic, seed):
    rng = np.random.default_rng(seed)
    gradient, start = rng.standard_normal(shape).astype(dtype), moments_of(shape, dtype, rng)
    expected = [array.copy() for array in start]
    REFERENCE.adam(expected[0], gradient, *expected[1:], descent_for(shape[0], logarithmic))
    for name, fast in FAST.items():
        found, unchanged = [array.copy() for array in start], gradient.copy()
        fast.adam(found[0], gradient, *found[1:], descent_for(shape[0], logarithmic))
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6 if dtype == np.float32 else 1e-13, err_msg=name)
        np.testing.assert_array_equal(gradient, unchanged)


@given(
    shape=st.sampled_from(
        [(1, 1, 1), (2, 7, 3), (3, 33, 5), (4, 31, 40), (1, 500, 250), (2, 70, 1030), (2, 3, 10_000)]
    ),
    terms=st.lists(st.integers(0, 3), min_size=4, max_size=4),
    batch=st.sampled_from([1, 5, 64, 130]),
    density=st.sampled_from([0.0, 0.1, 0.3, 1.0]),
    dtype=st.sampled_from(NUMBERS),
    logarithmic=st.booleans(),
)
@settings(max_examples=70)
def test_the_engines_descend_by_sums_of_outer_products_as_the_definition_does(
    shape, terms, batch, density, dtype, logarithmic
):
    (layers, P, Q), rng = shape, np.random.default_rng(0)

    def term():
        a = numbers(rng, (batch, P), dtype) * (rng.random((batch, P)) < density)
        return OuterSum(a, numbers(rng, (batch, Q), dtype))

    sums, double = [[term() for _ in range(n)] for n in terms[:layers]], np.result_type(dtype, np.float64)
    pairs = shape if dtype in NUMBERS[:2] else (*shape, 2)  # the parts of complex numbers are updated on their own
    start = [array.reshape(*shape, -1).view(dtype)[..., 0] for array in moments_of(pairs, real_of(dtype), rng)]
    gradient, size = np.zeros(shape, double), np.zeros(shape)
    for t, of_layer in enumerate(sums):
        for a, b in of_layer:
            gradient[t] += a.T.astype(double) @ b
            size[t] += np.abs(a.T).astype(np.float64) @ np.abs(b)
    expected = [array.astype(double) for array in start]
    every = (expected[0], gradient, *expected[1:])
    REFERENCE.adam(*(each.view(float).reshape(pairs) for each in every), descent_for(layers, logarithmic))
    for name, fast in {"reference": REFERENCE, **FAST}.items():
        found = [array.copy() for array in start]
        fast.adam_outer(found[0], sums, *found[1:], descent_for(layers, logarithmic))
        rounding = rounding_of(dtype) * (1 + size)
        for a, b, error in zip(found, expected, (rounding, rounding, rounding * (1 + size)), strict=True):
            assert (np.abs(a - b) <= error * (1 + np.abs(b))).all(), name


def test_weights_count_samples_in_the_loss(rng):
    x, target = rng.standard_normal((2, 4, 6))
    weights = np.array([1.0, 0.0, 2.0, 0.5])
    for ops in (REFERENCE, CPU):
        loss, delta = ops.half_squared_error(x, target, weights)
        assert loss == pytest.approx(0.5 * np.sum(weights * np.sum((x - target) ** 2, axis=1)))
        np.testing.assert_allclose(delta, weights[:, None] * (x - target))


@given(
    shape=st.sampled_from([(1, 1), (3, 7), (33, 250)]),
    dtype=st.sampled_from(NUMBERS),
    size=st.sampled_from([-30, 0, 30]),
)
@settings(max_examples=20)
def test_the_engines_scale_measurements_to_a_norm_as_the_definition_does(shape, dtype, size):
    y = numbers(np.random.default_rng(0), shape, dtype) * real_of(dtype).type(10.0**size)
    y[-1] = 0
    norms = np.linalg.norm(y.astype(np.result_type(dtype, np.float64)), axis=1, keepdims=True)
    for name, ops in {"reference": REFERENCE, **FAST}.items():
        scaled, factors = ops.in_units(y, 2.0)
        assert factors.dtype == real_of(dtype), name
        np.testing.assert_allclose(factors, np.where(norms > 0, norms / 2, 1), rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(scaled * factors, y, rtol=1e-5, atol=0, err_msg=name)


def test_the_engines_have_the_same_names_and_signatures():
    for engine in (CpuOps, NativeOps):
        for name, function in inspect.getmembers(ReferenceOps, inspect.isfunction):
            if not name.startswith("_"):
                assert inspect.signature(getattr(engine, name)) == inspect.signature(function), name
        public = {name for name in dir(engine) if not name.startswith("_")}
        assert public == {name for name in dir(ReferenceOps) if not name.startswith("_")}


def test_the_pool_never_hands_out_an_array_that_somebody_holds():
    pool = _Pool()
    held = pool.empty((3, 4), np.float32)
    view = pool.empty((3, 4), np.float32)[1:]
    address = held.ctypes.data
    others = [pool.empty((3, 4), np.float32) for _ in range(3)]
    assert all(not np.shares_memory(held, other) and not np.shares_memory(view, other) for other in others)
    del held
    assert pool.empty((3, 4), np.float32).ctypes.data == address


@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 5), (2, 2**21)])
@pytest.mark.parametrize("dtype", [np.int8, np.float32, np.complex128])
def test_arrays_of_the_pool_begin_with_a_cache_line_unless_they_are_large(shape, dtype):
    array = _Pool().empty(shape, dtype)
    assert (array.shape, array.dtype) == (shape, dtype)
    assert array.flags.writeable
    assert array.flags.c_contiguous
    assert array[None].base is array  # its reference count tells that it is held
    assert array.ctypes.data % 64 == 0 or array.nbytes >= 2**22


def test_the_pool_forgets_shapes_of_long_ago():
    pool = _Pool()
    for size in range(1, 500):
        pool.empty((size, 3), np.float32)
    assert len(pool._arrays) <= _Pool.KINDS + 1


@pytest.mark.parametrize("counts", [lambda array: 5, None, "tracer"], ids=["constant", "none", "tracer"])
def test_where_reference_counts_tell_nothing_arrays_are_new_ones_and_results_the_same(counts, monkeypatch, rng):
    x, u = rng.standard_normal((2, 3, 40))
    expected = CPU.shrink_select(x, u, 1.0, 0.5, 7, 0.3)
    if counts is None:
        monkeypatch.delattr("sys.getrefcount")
    elif counts == "tracer":
        monkeypatch.setattr("sys.gettrace", lambda: print)
    else:
        monkeypatch.setattr("sys.getrefcount", counts)
    plain = CpuOps()
    for a, b in zip(plain.shrink_select(x, u, 1.0, 0.5, 7, 0.3), expected, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not plain._pool._arrays


def test_the_pool_forgets_arrays_that_are_all_held():
    pool = _Pool()
    held = [pool.empty((3, 4), np.float32) for _ in range(3 * _Pool.OF_A_KIND)]
    assert len(pool._arrays[(3, 4), np.dtype(np.float32)]) <= _Pool.OF_A_KIND
    assert len({array.ctypes.data for array in held}) == len(held)


# -- random numbers -------------------------------------------------------------------------------------------------


def philox_block(counter, key):
    """Philox4x64-10 as its authors define it."""
    mask = 2**64 - 1
    for _ in range(10):
        high0, low0 = divmod(counter[0] * 0xD2E7470EE14C6C93, 2**64)
        high1, low1 = divmod(counter[2] * 0xCA5A826395121157, 2**64)
        counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0]
        key = [(key[0] + 0x9E3779B97F4A7C15) & mask, (key[1] + 0xBB67AE8584CAA73B) & mask]
    return counter


def test_random_words_are_philox_of_the_counter():
    words = REFERENCE.random_words(Key(seed=12345, stream=3, step=7), purpose=1)(12)
    expected = [word for block in (1, 2, 3) for word in philox_block([block, 0, 7, 1], [12345, 3])]
    assert words.tolist() == expected


def test_sparse_codes_are_a_pure_function_and_a_longer_batch_begins_like_a_shorter_one():
    p = np.full(50, 0.2)
    key = Key(1, 2, 3)
    codes = REFERENCE.sparse_codes(key, 8, p, Normal(), np.float32)
    np.testing.assert_array_equal(codes, CPU.sparse_codes(key, 8, p, Normal(), np.float32))
    np.testing.assert_array_equal(codes[:3], REFERENCE.sparse_codes(key, 3, p, Normal(), np.float32))
    for other in (Key(2, 2, 3), Key(1, 3, 3), Key(1, 2, 4)):
        assert not np.array_equal(codes, REFERENCE.sparse_codes(other, 8, p, Normal(), np.float32))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("law", [Normal(), Bernoulli(0.3, 1.5, -2.0)])
@pytest.mark.parametrize("size", [1, 7, 50, 2**19 + 1])  # with the last, a block is a single row
def test_rows_drawn_on_their_own_have_the_bits_that_they_have_among_all(dtype, law, size):
    key, rows = Key(1, 2, 3), 40 if size < 100 else 4
    p = np.linspace(0.1, 0.9, size)
    codes, normal = REFERENCE.sparse_codes(key, rows, p, law, dtype), REFERENCE.normal(key, 1, (rows, size), dtype)
    for first, last in ((0, rows), (0, 1), (1, 4), (rows - 1, rows), (2, 2)):
        part = slice(first, last)
        np.testing.assert_array_equal(REFERENCE.sparse_codes(key, last - first, p, law, dtype, first), codes[part])
        np.testing.assert_array_equal(REFERENCE.normal(key, 1, (last - first, size), dtype, first), normal[part])


def test_sparse_codes_follow_their_law():
    p = np.linspace(0, 1, 20)
    codes = REFERENCE.sparse_codes(Key(0, 0), 40_000, p, Normal(2.0, 0.5), np.float64)
    np.testing.assert_allclose((codes != 0).mean(axis=0), p, atol=0.01)
    values = codes[codes != 0]
    assert values.mean() == pytest.approx(2.0, abs=0.01)
    assert values.std() == pytest.approx(0.5, abs=0.01)
    codes = REFERENCE.sparse_codes(Key(0, 0), 40_000, p, Bernoulli(0.3, 1.5, -2.0), np.float64)
    values = codes[codes != 0]
    assert set(values) == {1.5, -2.0}
    assert (values == 1.5).mean() == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_normal_numbers_are_normal(dtype):
    from scipy.stats import kstest

    numbers = REFERENCE.normal(Key(5, 6), 0, (1000, 100), dtype).ravel()
    assert numbers.dtype == dtype
    assert kstest(numbers, "norm").pvalue > 0.01
