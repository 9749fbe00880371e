"""The native library: long rows, threads, and the sanitizers. test_ops.py compares it with the definition."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import numpy as np
import pytest
import shim
from conftest import native_engines, on_fast_engines
from cuista.kernels import native
from cuista.kernels.constants import DEFINITIONS

import cuista
from cuista import parallel
from cuista.counter import Key
from cuista.messages import CuistaWarning
from cuista.networks.alista import Alista
from cuista.operators import Dense
from cuista.ops import CpuOps, NativeOps, OuterSum, ReferenceOps
from cuista.ops import native as native_module
from cuista.ops.reference import Descent
from cuista.solvers.classical import Fista, Ista

on_native_engines = pytest.mark.parametrize("native_ops", native_engines().values(), ids=native_engines())


@on_fast_engines
@pytest.mark.parametrize("size", [1, 2, 255, 1000, 10_000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_of_any_length_are_those_of_the_definition(fast, size, dtype, rng):
    x = rng.standard_normal((3, size)).astype(dtype)
    x[1] = np.round(x[1], 1)  # with ties
    x[2] *= np.finfo(dtype).smallest_normal  # with denormals
    u, theta = np.round(rng.standard_normal(x.shape), 2).astype(dtype) * np.abs(x).max(axis=1, keepdims=True), x[:, :1]
    for k in (0, 1, size // 10, size - 1, size + 3):
        for threshold in (0.3, np.abs(theta), rng.uniform(0, 1, size)):
            step = (x, u, 0.7, threshold, k, 0.2)
            for found, expected in zip(fast.shrink_select(*step), ReferenceOps().shrink_select(*step), strict=True):
                np.testing.assert_array_equal(found, expected)


@on_fast_engines
def test_recovery_has_the_same_bits_on_any_number_of_threads(fast, small_problem, small_weight, monkeypatch):
    model = cuista.Model.new(small_problem, small_weight, layers=4, ops=fast)
    _, y = small_problem.sample(1000)
    found = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(parallel, "processors", lambda threads=threads: threads)
        found.append(model.recover(y))
    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_array_equal(found[2], found[0])


QUICK = cuista.FastRecipe(batch=70, validation_batch=200, layer_steps=20, max_steps=100)


@on_native_engines
def test_training_has_the_same_bits_on_any_number_of_threads(native_ops, small_problem, small_weight, monkeypatch):
    noisy, found = replace(small_problem, snr_db=30.0), []
    for threads in (1, 2, 5):
        monkeypatch.setattr(parallel, "processors", lambda threads=threads: threads)
        model = cuista.Model.new(noisy, small_weight, layers=3, ops=native_ops)
        cuista.train(model, replace(QUICK, max_steps=10))
        found.append(model.network.parameters)
    for name, expected in found[0].items():
        np.testing.assert_array_equal(found[1][name], expected)
        np.testing.assert_array_equal(found[2][name], expected)


@on_native_engines
@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
def test_descent_has_the_same_bits_on_any_number_of_threads(native_ops, dtype, monkeypatch, rng):
    shape, found, parts = (3, 300, 200), [], np.dtype(dtype).itemsize // 4
    start = rng.uniform(0.5, 2, (3, *shape, parts)).astype(np.float32)
    gradient = rng.standard_normal((*shape, parts)).astype(np.float32)
    a, b = (rng.standard_normal((20, size * parts)).astype(np.float32).view(dtype) for size in shape[1:])
    sums = [[OuterSum(a * (np.abs(a) > 1.5), b)]] * 3
    for threads in (1, 2, 5):
        monkeypatch.setattr(parallel, "processors", lambda threads=threads: threads)
        arrays = start.copy()
        native_ops.adam(arrays[0], gradient, *arrays[1:], Descent(0.01, np.ones(3), 1.0, False))
        matrices = arrays.view(dtype)[..., 0]
        native_ops.adam_outer(matrices[0], sums, *matrices[1:], Descent(0.01, np.ones(3), 1.0, False))
        found.append(arrays)
    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_array_equal(found[2], found[0])


@on_native_engines
def test_training_by_the_fused_step_ends_where_training_layer_by_layer_does(
    native_ops, small_problem, small_weight, monkeypatch
):
    def trained():
        model = cuista.Model.new(small_problem, small_weight, layers=4, ops=native_ops)
        return cuista.train(model, QUICK).history["nmse_db"]

    steps, call = [], native_module._Fused.__call__
    monkeypatch.setattr(native_module._Fused, "__call__", lambda self, *rest: steps.append(1) or call(self, *rest))
    fused, fused_steps = trained(), len(steps)
    monkeypatch.setattr(Alista, "fuse", lambda self, signals: None)
    np.testing.assert_allclose(trained(), fused, atol=0.05)
    assert fused_steps == len(steps) > 100


@on_native_engines
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("positive", [False, True])
def test_whether_iterates_are_multiplied_as_dense_ones_decides_no_bit(native_ops, dtype, positive, rng):
    A = cuista.normalize_columns(rng.standard_normal((33, 71)))
    problem = cuista.Problem(A, pnz=0.3, snr_db=20.0, positive=positive)
    parameters = {"step_size": np.full(5, 0.7), "threshold": np.full(5, 0.05)}
    y = problem.sample(45, dtype=dtype)[1]
    found = []
    for dense in (0.0, 0.3, 1.0):
        ops = NativeOps(native_ops._library, dense)
        operator = Dense(A, ops=ops, dtype=dtype)
        network = Alista(operator, A, layers=5, parameters=parameters, positive=positive)
        loss, gradients = network.fuse(problem.signals(0.5))(parameters, network.support, Key(3, 1, 2), 45, 5, 0.2, 1.0)
        found.append([network.output(y), loss, *gradients.values()])
    assert 0.3 < np.count_nonzero(found[0][0]) / found[0][0].size < 1
    for others in found[1:]:
        for other, expected in zip(others, found[0], strict=True):
            np.testing.assert_array_equal(other, expected)


@on_native_engines
def test_the_share_above_which_iterates_count_as_dense_is_measured_once(native_ops, monkeypatch):
    share = native_ops._dense_from(np.dtype(np.float32))
    assert 0 < share < 1
    monkeypatch.setattr(native_module, "SHARD", None)  # it could not be measured again
    assert native_ops._dense_from(np.dtype(np.float32)) == share


@on_native_engines
def test_threads_that_ask_at_once_for_that_share_wait_for_one_measurement(native_ops, monkeypatch):
    started, layers = Barrier(4), []
    native_module._measured_dense.cache_clear()
    monkeypatch.setattr(
        NativeOps, "pack", lambda self, matrix, pack=NativeOps.pack: layers.append(0) or pack(self, matrix)
    )

    def ask(_):
        started.wait()
        return native_ops._dense_from(np.dtype(np.float32))

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(ask, range(4)))) == 1
    assert len(layers) == 1


@pytest.mark.parametrize("batch", [1, 31, 32, 33, 97])
def test_shards_are_added_in_pairs(batch):
    parts = [np.array([10.0**-i]) for i in range(batch)]

    def total(i, j):  # as MATH has it: the left part has the largest power of two that is less than all
        if j - i == 1:
            return parts[i]
        k = i + 2 ** ((j - i - 1).bit_length() - 1)
        return total(i, k) + total(k, j)

    np.testing.assert_array_equal(parallel.summed(parts, np.add), total(0, batch))


def test_a_run_that_goes_on_with_another_engine_says_so(small_problem, small_weight, quick_recipe, tmp_path):
    class StoppedError(Exception):
        pass

    def stop(progress):
        if progress.stage_number == 2 and progress.step == 3:
            raise StoppedError

    out, engines = tmp_path / "model.h5", (CpuOps(), next(iter(native_engines().values()), None))
    if engines[1] is None:
        pytest.skip(native.why_not())
    new, continuing = (cuista.Model.new(small_problem, small_weight, layers=3, ops=ops) for ops in engines)
    with pytest.raises(StoppedError):
        cuista.train(new, quick_recipe, out=out, checkpoint_seconds=0, progress=stop)
    with pytest.warns(CuistaWarning, match="with the numpy engine, and the run goes on with the native engine"):
        cuista.train(continuing, quick_recipe, out=out, resume=True)
    expected = cuista.train(cuista.Model.new(small_problem, small_weight, layers=3, ops=engines[0]), quick_recipe)
    np.testing.assert_allclose(continuing.history["nmse_db"], expected.history["nmse_db"], atol=0.05)


def zeros(*shapes, dtype=float):
    return [np.zeros(shape, dtype) for shape in shapes]


# Three samples of five entries, and stacks of two matrices.
X, MATRIX, TRANSPOSE, SQUARE, PACKED, STACK = zeros((3, 5), (5, 4), (4, 5), (5, 5), (40,), (2, 4, 5))
CODE, WHERE = zeros((3, 5), (3, 4), dtype=np.int8)
# Four filters of 3×2 taps, and their maps of a picture of 5×5 pixels.
FILTERS, MAPS, PICTURE, BORDERED = zeros((3, 2, 4), (4, 7, 6), (5, 5), (9, 7))
ONES, SUMS = np.ones(2), [[OuterSum(X[:, :4], X)], []]
DESCENT, SHORT = (Descent(0.1, np.ones(layers), 1.0, False) for layers in (2, 1))


@on_native_engines
@pytest.mark.parametrize(
    ("name", "arguments", "wrong"),
    [
        (
            "shrink_select",
            (X, X, 1.0, 0.1, 1),
            {3: zeros((1, 5), (7, 1), (4,), (1,), (3, 5, 1)), 4: zeros((2,), (1,), (3, 1))},
        ),
        (
            "shrink_select_backward",
            (X, CODE, X, X, 1.0, 0.1),
            {1: zeros((3, 4), (2, 5), (15,)), 5: zeros((1, 5), (7, 1), (4,), (3, 5, 1))},
        ),
        ("sparse_matmul", (X, SQUARE), {1: zeros((4, 5), (6, 5))}),
        (
            "matmul_where",
            (X, MATRIX, TRANSPOSE, WHERE),
            {2: zeros((5, 4), (4, 4)), 3: zeros((3, 5), (2, 4), (12,), dtype=np.int8)},
        ),
        (
            "analytic_layers",
            (X, X, PACKED, ONES, ONES, (1, 2)),
            {2: [*zeros((5, 5), (39,)), PACKED.astype(np.float32)], 3: zeros((1,), (2, 5)), 4: zeros((1,), (2, 4))},
        ),
        (
            "proximal_iterations",
            (X, X, np.ones((3, 1)), X, PACKED, 0.5, 0.1, 2, True),
            {
                1: zeros((3, 4), (2, 5)),
                2: zeros((3,), (2, 1)),
                3: zeros((2, 5), (15,)),
                4: zeros((39,), (5, 5)),
                6: zeros((1, 5), (7, 1), (4,), (3, 5, 1)),
            },
        ),
        (
            "conv_layer",
            (MAPS, BORDERED, FILTERS, FILTERS, 1.0, np.ones(4)),
            {0: zeros((4, 7, 5), (4, 6, 6), (3, 7, 6), (168,)), 2: zeros((3, 2, 5), (2, 3, 4)), 5: zeros((3,), (4, 1))},
        ),
        (
            "conv_step",
            (MAPS, PICTURE, PICTURE, FILTERS, FILTERS, 1.0, np.ones(4)),
            {
                0: zeros((4, 7, 5), (3, 7, 6), (168,)),
                2: zeros((5, 4), (25,)),
                3: zeros((3, 2, 5)),
                6: zeros((3,), (4, 1)),
            },
        ),
        (
            "adam",
            (STACK, STACK, STACK, STACK, DESCENT),
            {1: zeros((2, 4, 4), (1, 4, 5)), 2: zeros((2, 20)), 3: zeros((1, 4, 5)), 4: [SHORT]},
        ),
        (
            "adam_outer",
            (STACK, SUMS, STACK, STACK, DESCENT),
            {1: [SUMS[:1], [[OuterSum(X, X)], []]], 2: zeros((1, 4, 5)), 3: zeros((2, 5, 4)), 4: [SHORT]},
        ),
    ],
)
def test_arrays_that_the_library_would_read_beyond_their_end_are_refused(native_ops, name, arguments, wrong):
    function = getattr(native_ops, name)
    function(*arguments)
    for place, values in wrong.items():
        for value in values:
            with pytest.raises(ValueError, match=r"expected"):
                function(*arguments[:place], value, *arguments[place + 1 :])


@on_native_engines
@pytest.mark.parametrize("shape", [(5, 7, 6), (16, 7, 6), (33, 300, 100)])
def test_maps_are_copied_only_if_they_lie_in_memory_in_another_order(native_ops, shape):
    dtype = np.dtype(np.float32)
    maps, memory = native_ops._new_maps(shape, dtype)
    assert maps.shape == shape
    assert native_ops._by_place(maps, shape, dtype) is memory
    maps[...] = np.random.default_rng(0).random(shape)
    for other in (np.ascontiguousarray(maps), maps[:, ::-1]):
        copy = native_ops._by_place(other, shape, dtype)
        assert not np.shares_memory(copy, other)
        np.testing.assert_array_equal(copy[:, :, : shape[0]].transpose(2, 0, 1), other)
        assert not copy[:, :, shape[0] :].any()


@on_native_engines
def test_a_layer_on_a_picture_refuses_what_does_not_fit_it(native_ops):
    with pytest.raises(ValueError, match="expected at least that of the filters, 3×2"):
        native_ops.conv_step(None, PICTURE[:2], PICTURE[:2], FILTERS, FILTERS, 1.0, 0.1)
    thresholds = np.zeros((4, 2))[:, 0]  # not contiguous
    _, _, record = native_ops.conv_step(MAPS, PICTURE, PICTURE, FILTERS, FILTERS, 1.0, thresholds)
    native_ops.conv_step_backward(MAPS, PICTURE, record, True, True)
    for wrong in zeros((4, 7, 5), (3, 7, 6), (168,)):
        with pytest.raises(ValueError, match="expected"):
            native_ops.conv_step_backward(wrong, PICTURE, record)
    for wrong in zeros((5, 4), (7, 6)):
        with pytest.raises(ValueError, match="expected"):
            native_ops.conv_step_backward(None, wrong, record)


@on_native_engines
def test_the_fused_step_refuses_what_the_library_would_read_beyond_its_end(native_ops, small_problem, rng):
    A, signals = small_problem.A, small_problem.signals()
    packed, parameters = native_ops.pack(rng.standard_normal((40, 40))), {"step_size": ONES, "threshold": ONES}
    arguments = (signals, A, packed, packed)
    step = native_ops.fuse_alista(*arguments)
    step(parameters, (1, 2), Key(0, 1, 1), 3, 2, 0.0, 1.0)
    for place, value in enumerate((signals._replace(log_ratio=np.zeros(40)), A[:, :39], packed[:-1], packed[:-1])):
        with pytest.raises(ValueError, match="expected"):
            native_ops.fuse_alista(*arguments[:place], value, *arguments[place + 1 :])
    for others in (({**parameters, "threshold": np.ones(1)}, (1, 2), 2), (parameters, (1, 2), 3)):
        with pytest.raises(ValueError, match="expected"):
            step(*others[:2], Key(0, 1, 1), 3, others[2], 0.0, 1.0)


@on_native_engines
@pytest.mark.parametrize("density", [0.0005, 0.1, 0.6])
def test_layers_of_a_large_matrix_are_those_of_the_definition(native_ops, density, rng):
    size = 1100  # a matrix that is fetched part by part, and more samples than are computed together
    matrix = rng.standard_normal((size, size), np.float32) / size
    x, Wy = rng.standard_normal((2, 150, size)).astype(np.float32)
    x *= rng.random(x.shape) < density
    layer = (np.ones(1), np.full(1, -1.0), (5,))  # the threshold lets all entries live
    expected = ReferenceOps().analytic_layers(x, Wy, matrix, *layer)
    packed, found = native_ops.pack(matrix), []
    for dense in (0.0, 1.0):
        ops = NativeOps(native_ops._library, dense)
        found.append(ops.analytic_layers(x, Wy, packed, *layer).copy())
        np.testing.assert_array_equal(ops.analytic_layers(x[100:], Wy[100:], packed, *layer), found[-1][100:])
    np.testing.assert_array_equal(found[1], found[0])
    assert np.mean(~np.isclose(found[0], expected, atol=1e-5)) < 1e-4  # rounding can decide an entry's sign


@on_native_engines
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("solver", [Ista, Fista])
def test_iterations_by_the_gram_matrix_are_those_by_the_matrix(native_ops, solver, positive, small_problem, rng):
    y, options = small_problem.sample(70)[1], {"positive": positive, "dtype": np.float64}
    by_matrix, by_gram = (solver(small_problem, 60, lam=0.01, ops=ops, **options) for ops in (CpuOps(), native_ops))
    for found, expected in zip(by_gram.iterates(y), by_matrix.iterates(y), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_array_equal(by_gram.recover(y), found)  # several iterations at a time
    ended = [solver(small_problem, lam="5%", ops=ops, positive=positive).solve(y) for ops in (CpuOps(), native_ops)]
    assert all(each.converged.all() for each in ended)
    np.testing.assert_allclose(ended[1].x, ended[0].x, atol=1e-4 * np.abs(ended[0].x).max())


@on_native_engines
def test_iterations_have_the_same_bits_for_any_rows_and_whatever_counts_as_dense(native_ops, rng):
    x, Ay, theta = rng.standard_normal((3, 150, 40)).astype(np.float32)
    x, theta, t = np.where(np.abs(x) > 1, x, 0), np.abs(theta), np.ones((150, 1))
    packed, found = native_ops.pack(-np.eye(40, dtype=np.float32)), []
    for dense in (0.0, 1.0):
        ops = NativeOps(native_ops._library, dense)
        for part in (slice(0, 150), slice(100, 150)):
            rows = (each[part] for each in (x, x, t, Ay))
            state = ops.proximal_iterations(*rows, packed, 0.3, theta[part], 5, True, True)
            found.append(state[0][-50:].copy())
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


@on_native_engines
def test_a_packed_matrix_replaces_the_one_it_was_packed_from(native_ops, small_problem, small_weight, rng):
    couple = cuista.Model.new(small_problem, small_weight, ops=native_ops).network.couple
    expected, x = couple.factor.copy(), rng.standard_normal((3, 40)).astype(np.float32)
    forward, backward = couple.forward(x).copy(), couple.backward(x).copy()
    assert couple.packed is couple.packed
    assert couple.packed_adjoint is couple.packed_adjoint
    assert couple._factor is None
    assert couple._adjoint is None
    np.testing.assert_array_equal(couple.factor, expected)  # formed again
    np.testing.assert_array_equal(couple.forward(x), forward)
    np.testing.assert_array_equal(couple.backward(x), backward)


def test_several_layers_may_not_pass_on_what_is_not_a_number(small_model):
    y = np.zeros((1, small_model.problem.M))
    y[0, 3] = np.nan
    assert np.isnan(small_model.network.output(y)).any()


CHECK = """
import sys
from pathlib import Path
import numpy as np
import cuista
from cuista.counter import Key
from cuista.kernels.native import Library
from cuista.networks.alista import Alista
from cuista.operators import Dense
from cuista.ops import CpuOps, NativeOps, OuterSum, ReferenceOps
from cuista.ops.reference import Descent

path, reference, rng = Path(sys.argv[1]), ReferenceOps(), np.random.default_rng(0)
for width in Library(path).widths:
    ops = NativeOps(Library(path, width))
    for size in (*range(1, 40), 63, 64, 65, 200, 1000):
        for dtype in (np.float32, np.float64):
            x, u, delta = rng.standard_normal((3, 35, size)).astype(dtype)
            x *= rng.random(x.shape) < 0.2
            for threshold in (0.3, rng.uniform(0, 1, size), rng.uniform(0, 1, (35, 1))):
                step = (x, u, 0.7, threshold, size // 5, 0.2)
                found, expected = ops.shrink_select(*step), reference.shrink_select(*step)
                assert all(map(np.array_equal, found, expected)), (width, size, dtype)
                arguments = (delta, found[1], x, u, 0.7, threshold, 0.2)
                back, right = ops.shrink_select_backward(*arguments), reference.shrink_select_backward(*arguments)
                assert all(np.allclose(a, b, rtol=1e-3, atol=1e-3) for a, b in zip(back, right)), (width, size, dtype)
            wanted = (rng.random(x.shape) < 0.15).astype(np.int8)
            for inner in (1, 13, 16, 35):
                a, b = u[:, :inner].copy(), delta[: min(inner, size)]
                found = ops.matmul_where(a, b, b.T.copy(), wanted) * wanted
                assert np.allclose(found, (a @ b) * wanted, atol=1e-4), (width, size, dtype)
            for logarithmic in (False, True):
                sums = [[OuterSum(x, delta)], [], [OuterSum(x, u), OuterSum(x, delta)]]
                starts = [rng.uniform(0.5, 1, (3, size, size)).astype(dtype) for _ in range(3)]
                descent = Descent(0.01, np.array([1.0, 0.5, 0.0]), 2.0, logarithmic)
                found, expected = ([array.copy() for array in starts] for _ in range(2))
                ops.adam_outer(found[0], sums, *found[1:], descent)
                reference.adam_outer(expected[0], sums, *expected[1:], descent)
                close = [np.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(found, expected)]
                assert all(close), (width, size, dtype)
            z, of_z = ((x + 1j * each).astype(np.result_type(dtype, 1j)) for each in (x, u))
            for inner in (1, 13, 16, 35):
                a, b = of_z[:, :inner].copy(), z[: min(inner, size)]
                found = ops.matmul_where(a, b, b.T.copy(), wanted) * wanted
                assert np.allclose(found, (a @ b) * wanted, atol=1e-4), (width, size, dtype)
            sums = [[OuterSum(z, of_z)], [], [OuterSum(z, z), OuterSum(z, of_z)]]
            starts = [(each * (1 + 1j)).astype(z.dtype) for each in starts]
            found, expected = ([array.copy() for array in starts] for _ in range(2))
            ops.adam_outer(found[0], sums, *found[1:], descent)
            reference.adam_outer(expected[0], sums, *expected[1:], descent)
            assert all(np.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(found, expected)), (width, size, dtype)
            matrix = (rng.standard_normal((size, size)) / size).astype(dtype)
            assert np.allclose(ops.sparse_matmul(x, matrix), x @ matrix, atol=1e-5), (width, size, dtype)
            steps = (x, x, np.ones((35, 1)), u, ops.pack(-matrix), 0.7, threshold, 3, True, True)
            expected = reference.proximal_iterations(*steps[:4], -matrix, *steps[5:])
            found = ops.proximal_iterations(*steps)
            close = [np.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in zip(found, expected)]
            assert all(close), (width, size, dtype)
            layers = (np.full(2, 0.7), np.full(2, 0.3), (size // 9, size // 5))
            found = ops.analytic_layers(x, u, ops.pack(matrix), *layers)
            assert np.allclose(found, reference.analytic_layers(x, u, matrix, *layers), atol=1e-4), (width, size, dtype)
    for taps, filters, stride in (((1, 1), 1, 1), ((2, 3), 5, 1), ((8, 8), 17, 4), ((9, 9), 110, 3)):
        dtype = np.float64 if filters % 5 == 0 else np.float32
        D, W = rng.standard_normal((2, *taps, filters)).astype(dtype) / 9
        padded = rng.standard_normal((13 + 2 * taps[0] - 2, 9 + 2 * taps[1] - 2)).astype(dtype)
        for threshold in (0.1, np.full(filters, 0.8)):
            passes = []
            for engine in (ops, reference):
                x, picture, _ = engine.conv_layer(None, padded, W, D, 0.7, threshold, stride=stride)
                f = np.sin(picture)
                x_next, after, record = engine.conv_step(x, f, picture, W, D, 0.7, threshold, stride=stride)
                back = engine.conv_step_backward(x.copy(), after.copy(), record, True, True)
                passes.append((x, picture, x_next, after, *back))
            close = [np.allclose(a, b, rtol=1e-3, atol=1e-2) for a, b in zip(*passes)]
            assert all(close), (width, taps, filters, dtype)
    for m, n in ((1, 1), (3, 7), (7, 33), (40, 64), (33, 200)):
        A = cuista.normalize_columns(rng.standard_normal((m, n)))
        for noise, dtype, start in ((np.inf, np.float32, 0.4), (20.0, np.float64, -0.05)):
            problem = cuista.Problem(A, pnz=0.3, snr_db=noise)
            parameters = {"step_size": np.full(3, 0.7), "threshold": np.full(3, start)}
            options = {"layers": 3, "parameters": parameters}
            plain, network = (Alista(Dense(A, ops=engine, dtype=dtype), A, **options) for engine in (CpuOps(), ops))
            plain.unit = network.unit = 0.0 if noise == 20 else 2.0
            x, y, weights = problem.sample_weighted(35, 0.5, stream=1, step=2, seed=3, dtype=dtype)
            loss, gradients = plain.loss_and_gradients(y, x, 3, 0.2, weights)
            step = network.fuse(problem.signals(0.5))
            found, back = step(parameters, network.support, Key(3, 1, 2), 35, 3, 0.2, 1.0)
            assert np.isclose(found, loss, rtol=1e-3), (width, m, n, dtype)
            assert all(np.allclose(back[name], gradients[name], rtol=1e-2, atol=1e-2 * loss) for name in back)
    print(width)
"""


def compiled(folder, *options):
    """The library for the widths that this processor has, compiled with these options, too."""
    flags = [*native.FLAGS, *DEFINITIONS, "-O1", "-g1", "-fPIC", *options]  # -O3 takes many minutes with checks

    def compile_one(name):
        command = [shim.compiler(), *flags, "-c", native.FOLDER / f"{name}.cpp", "-o", folder / f"{name}.o"]
        subprocess.run(command, check=True)
        return folder / f"{name}.o"

    names = ["native", *(f"cpu_{width}" for width in native.library().widths)]
    with ThreadPoolExecutor() as pool:
        objects = list(pool.map(compile_one, names))
    library = folder / "library.so"
    subprocess.run([shim.compiler(), *options, "-shared", *objects, "-o", library], check=True)
    return library


def under(sanitizer, code, *arguments, **options):
    """Execute Python code in a process of its own, in which the sanitizer's runtime is loaded first."""
    find = [shim.compiler(), f"-print-file-name=lib{sanitizer}.so"]
    runtime = subprocess.run(find, capture_output=True, text=True, check=True).stdout.strip()
    if not os.path.isabs(runtime):
        pytest.skip(f"{shim.compiler()} has no lib{sanitizer}.so")
    environment = {**os.environ, **options, "LD_PRELOAD": runtime}
    command = [*shim._without_aslr(), sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_the_library_reads_and_writes_only_what_it_may(tmp_path):
    if reason := shim.why_not() or native.why_not():
        pytest.skip(reason)
    library = compiled(tmp_path, "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    done = under("asan", CHECK, library, **shim.OPTIONS)
    assert done.returncode == 0, done.stderr
    assert tuple(done.stdout.split()) == native.library().widths


THREADS = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import numpy as np
import cuista
from cuista.kernels.native import Library
from cuista.ops import NativeOps

path = Path(sys.argv[1])
problem = cuista.Problem(cuista.normalize_columns(cuista.random_matrix(20, 40, seed=1)), pnz=0.1, snr_db=30.0)
weight, (_, y) = cuista.solve_exact(problem.A), problem.sample(2000)
recipe = cuista.FastRecipe(batch=200, validation_batch=200, layer_steps=5, max_steps=20, matrix_steps=20)
if sys.argv[2:] == ["shared"]:
    pack = NativeOps(Library(path))._library("pack", np.dtype(float))
    matrix, packed = np.ones((100, 400)), np.empty((100, 400))
    list(ThreadPoolExecutor(4).map(lambda _: pack(matrix, 1, 100, 400, packed), range(100)))
    sys.exit()
for width in Library(path).widths:
    ops = NativeOps(Library(path, width))
    for net in ("alista", "lista-cpss"):
        model = cuista.Model.new(problem, weight, net, layers=4, ops=ops)
        cuista.train(model, recipe)
        model.recover(y)
    print(width, flush=True)
"""


@pytest.mark.slow
def test_threads_share_nothing_that_one_of_them_writes(tmp_path):
    if reason := shim.why_not("thread") or native.why_not():
        pytest.skip(reason)
    library = compiled(tmp_path, "-fsanitize=thread")
    # Python, NumPy and BLAS are not compiled for the sanitizer. It knows their locks, but not what they read and write.
    options = {"TSAN_OPTIONS": "ignore_noninstrumented_modules=1:report_signal_unsafe=0", "CUISTA_WORKERS": "4"}
    done = under("tsan", THREADS, library, **options)
    assert done.returncode == 0, done.stderr
    assert tuple(done.stdout.split()) == native.library().widths
    done = under("tsan", THREADS, library, "shared", **options)  # it would have seen a race
    assert done.returncode != 0
    assert "data race" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_compilers_find_nothing_to_warn_of(compiler, tmp_path):
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    flags = [*native.FLAGS, *DEFINITIONS, "-Wall", "-Wextra", "-Werror", "-c"]
    for source in native.SOURCES:
        subprocess.run([compiler, *flags, native.FOLDER / f"{source}.cpp", "-o", tmp_path / "object"], check=True)
