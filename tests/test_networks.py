"""ALISTA: its layers against the formula, its gradients against central differences."""

from __future__ import annotations

import numpy as np
import pytest

from cuista.errors import InputError
from cuista.networks import Alista, support_schedule
from cuista.ops import CpuOps, ReferenceOps
from cuista.problem import normalize_columns, random_matrix
from cuista.weights import solve_exact

A = normalize_columns(random_matrix(15, 30, seed=3))
W = solve_exact(A).W


def network(ops=None, per_coordinate=False, dtype=np.float64, matrices=(A, W), **options):
    """Five layers with parameters that differ."""
    rng = np.random.default_rng(5)
    result = Alista(*matrices, layers=5, percent=6, max_percent=20, per_coordinate=per_coordinate, ops=ops, dtype=dtype)
    for name, (low, high) in {"step_size": (0.7, 1.3), "threshold": (0.05, 0.2), **options}.items():
        result.parameters[name] = rng.uniform(low, high, result.parameters[name].shape)
    return result


def signals(matrix=A, batch=7):
    rng = np.random.default_rng(6)
    x = rng.standard_normal((batch, matrix.shape[1])) * (rng.random((batch, matrix.shape[1])) < 0.2)
    return x, x @ matrix.T


def test_the_support_schedule_is_the_papers():
    assert support_schedule(500, 16, 1.2, 13) == (6, 12, 18, 24, 30, 36, 42, 48, 54, 60, *[65] * 6)
    assert support_schedule(2, 2, 50, 100) == (0, 1)  # 0.5 rounds to even, and the smallest entry is never selected


def test_it_starts_where_the_paper_starts():
    net = Alista(A, W)
    assert net.parameters["step_size"].tolist() == [1.0] * 16
    np.testing.assert_allclose(net.parameters["threshold"], 0.4 / (1.001 * np.linalg.norm(A, 2) ** 2))


def test_iterates_follow_the_formula():
    net = network()
    _, y = signals()
    x = np.zeros((7, 30))
    for t, iterate in enumerate(net.iterates(y)):
        z = x + net.parameters["step_size"][t] * (y - x @ A.T) @ W
        x, _ = ReferenceOps().shrink_select(z, np.zeros_like(z), 1.0, net.parameters["threshold"][t], net.support[t])
        np.testing.assert_allclose(iterate, x, atol=1e-12)


@pytest.mark.parametrize("ops", [ReferenceOps(), CpuOps()], ids=["reference", "cpu"])
@pytest.mark.parametrize("per_coordinate", [False, True])
@pytest.mark.parametrize("thresholds", [(0.05, 0.2), (-0.1, -0.02)], ids=["positive", "negative"])
@pytest.mark.parametrize("depth", [1, 3, 5])
def test_gradients_match_central_differences(ops, per_coordinate, thresholds, depth):
    net = network(ops, per_coordinate, threshold=thresholds)
    x, y = signals()
    sample_weights = np.linspace(0.5, 1.5, len(x))
    _, gradients = net.loss_and_gradients(y, x, depth, weights=sample_weights)
    rng = np.random.default_rng(7)
    for name, gradient in gradients.items():
        assert not gradient[depth:].any()
        for _ in range(4):  # along random directions in the parameter's own space
            direction = rng.standard_normal(gradient.shape)
            direction /= np.linalg.norm(direction)
            numeric, h = 0.0, 1e-6
            for sign in (1, -1):
                net.parameters[name] += sign * h * direction
                numeric += sign * net.loss_and_gradients(y, x, depth, weights=sample_weights)[0] / (2 * h)
                net.parameters[name] -= sign * h * direction
            assert np.vdot(gradient, direction) == pytest.approx(numeric, rel=0, abs=1e-6 * np.linalg.norm(gradient))


@pytest.mark.parametrize("shape", [(15, 30), (4, 40)], ids=["gram", "factored"])
def test_the_linear_maps_of_a_layer_are_adjoint(shape, rng):
    matrix = normalize_columns(random_matrix(*shape, seed=1))
    net = network(matrices=(matrix, solve_exact(matrix).W))
    assert len(net._forward) == (1 if shape == (15, 30) else 2)
    x, d = rng.standard_normal((2, 3, shape[1]))
    forward, backward = net._through(net._forward, x), net._through(net._backward, d)
    assert np.vdot(forward, d) == pytest.approx(np.vdot(x, backward), rel=1e-12)
    np.testing.assert_allclose(forward, -x @ matrix.T @ net.W, atol=1e-12)


def test_engines_and_precisions_agree_on_loss_and_gradients():
    x, y = signals()
    expected_loss, expected = network(ReferenceOps()).loss_and_gradients(y, x, 5, window=0.3)
    for dtype, tolerance in ((np.float64, 1e-12), (np.float32, 1e-4)):
        net = network(CpuOps(), dtype=dtype)
        loss, gradients = net.loss_and_gradients(y.astype(dtype), x.astype(dtype), 5, window=0.3)
        assert loss == pytest.approx(expected_loss, rel=tolerance)
        for name in expected:
            np.testing.assert_allclose(gradients[name], expected[name], rtol=tolerance, atol=tolerance)


def test_a_schedule_out_of_range_is_refused():
    for options in ({"layers": 0}, {"percent": -1}, {"max_percent": 101}, {"percent": float("nan")}):
        with pytest.raises(InputError, match="expected"):
            Alista(A, W, **options)
