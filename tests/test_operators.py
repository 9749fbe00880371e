"""Operators: their adjoints, and what they know about A Aᵀ, compared with matrices."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import correlate2d

from cuista.data.dictionary import random_dictionary
from cuista.data.problem import random_matrix
from cuista.errors import InputError, NumericalError
from cuista.operators import Convolution, Dense, Operator, dot_test
from cuista.ops import CpuOps, ReferenceOps
from cuista.weights import solve_exact

MAKE = {
    "wide": lambda **options: Dense(random_matrix(12, 30, seed=3), **options),
    "tall": lambda **options: Dense(random_matrix(9, 4, seed=3), **options),
    "filters": lambda **options: Convolution(random_dictionary((3, 2), 4), (5, 6), **options),
    "one filter": lambda **options: Convolution(random_dictionary((1, 4), 1), (4, 7), **options),
    "pixels": lambda **options: Convolution(random_dictionary((1, 1), 3), (3, 3), **options),
}
EVERY = pytest.mark.parametrize("name", list(MAKE))
ENGINES = pytest.mark.parametrize("ops", [ReferenceOps(), CpuOps()], ids=["reference", "cpu"])


def matrix_of(operator):
    """The operator as a matrix, found by applying it to the unit vectors."""
    measured, signal = (int(np.prod(shape)) for shape in operator.shape)
    units = np.eye(signal, dtype=operator.dtype).reshape(-1, *operator.shape[1])
    return operator.apply(units).reshape(signal, measured).T


@EVERY
@ENGINES
def test_the_adjoint_is_the_adjoint(name, ops):
    assert dot_test(MAKE[name](ops=ops, dtype=np.float64)) < 1e-14
    assert dot_test(MAKE[name](ops=ops)) < 1e-6


@EVERY
def test_the_adjoint_is_the_adjoint_on_the_cuda_engine(cuda, name):
    assert dot_test(MAKE[name](ops=cuda, dtype=np.float64)) < 1e-14


def test_the_dot_test_finds_an_adjoint_that_is_not_one():
    class Wrong(Convolution):
        def adjoint(self, y):
            return super().adjoint(y)[:, ::-1]

    class Scaled(Dense):
        def adjoint(self, y):
            return 1.001 * super().adjoint(y)

    assert dot_test(Wrong(random_dictionary((3, 2), 4), (5, 6), dtype=np.float64)) > 1e-3
    assert dot_test(Scaled(random_matrix(12, 30), dtype=np.float64)) > 1e-5


def test_operators_do_what_they_stand_for(rng):
    A, D = random_matrix(12, 30, seed=3), random_dictionary((3, 2), 4)
    np.testing.assert_array_equal(matrix_of(Dense(A, dtype=np.float64)), A)
    x = rng.standard_normal((2, 4, 7, 7))
    expected = [sum(correlate2d(maps[m], D[..., m], mode="valid") for m in range(4)) for maps in x]
    np.testing.assert_allclose(Convolution(D, dtype=np.float64).apply(x), expected, atol=1e-12)


@EVERY
@ENGINES
@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_the_gram_matrix_is_solved_and_the_gains_follow(name, ops, ridge, rng):
    operator = MAKE[name](ops=ops, dtype=np.float64)
    ridge = ridge or float(name == "tall")  # its A Aᵀ is singular
    A, (measured, signal) = matrix_of(operator), operator.shape
    G = A @ A.T + ridge * np.eye(len(A))
    r = rng.standard_normal((3, *measured))
    expected = np.linalg.solve(G, r.reshape(3, -1).T).T
    for solve in (operator.solve_gram, lambda r, ridge: Operator.solve_gram(operator, r, ridge)):
        np.testing.assert_allclose(solve(r, ridge).reshape(3, -1), expected, rtol=1e-8, atol=1e-8)
    h = np.einsum("mn,mn->n", A, np.linalg.solve(G, A))
    np.testing.assert_allclose(operator.gains(ridge), h.reshape(signal), rtol=1e-8)
    W = solve_exact(A, ridge=ridge).W
    np.testing.assert_allclose(operator.correction(r, ridge).reshape(3, -1), r.reshape(3, -1) @ W, rtol=1e-7, atol=1e-7)


def test_gains_are_computed_block_by_block(monkeypatch):
    expected = MAKE["wide"](dtype=np.float64).gains()
    monkeypatch.setattr("cuista.operators.base.BLOCK", 7)
    np.testing.assert_allclose(MAKE["wide"](dtype=np.float64).gains(), expected, rtol=1e-12)


def test_conjugate_gradients_solve_each_sample_to_the_precision_of_the_type(rng):
    operator = MAKE["filters"]()
    r = rng.standard_normal((4, 5, 6)).astype(np.float32) * np.float32([1, 1e-6, 1e6, 0])[:, None, None]
    solution = operator.solve_gram(r, 0.1)
    assert solution.dtype == np.float32
    left = operator.apply(operator.adjoint(solution)) + np.float32(0.1) * solution - r
    assert (np.linalg.norm(left, axis=(1, 2)) <= 1e-4 * np.linalg.norm(r, axis=(1, 2))).all()
    assert not solution[3].any()


def test_a_singular_gram_matrix_is_refused(rng):
    A = random_matrix(4, 8, seed=1)
    A[3] = 0
    for solve in (Dense.solve_gram, Operator.solve_gram):
        with pytest.raises(NumericalError, match="singular"):
            solve(Dense(A, dtype=np.float64), rng.standard_normal((2, 4)))


@EVERY
def test_the_norm_is_that_of_the_matrix_or_a_little_more(name):
    operator = MAKE[name](dtype=np.float64)
    norm = np.linalg.norm(matrix_of(operator), 2) ** 2
    if isinstance(operator, Dense):
        assert operator.norm_squared == pytest.approx(norm, rel=1e-12)
    else:  # a bound for pictures of any size
        assert norm * (1 - 1e-12) <= operator.norm_squared < 2 * norm


@EVERY
@ENGINES
@pytest.mark.parametrize("first", [True, False])
def test_a_proximal_step_is_a_gradient_step_and_soft_thresholding(name, ops, first, rng):
    operator = MAKE[name](ops=ops, dtype=np.float64)
    measured, signal = operator.shape
    x, r = (None if first else rng.standard_normal((2, *signal))), rng.standard_normal((2, *measured))
    z = (0 if first else x) + 0.3 * operator.adjoint(r)
    expected = np.sign(z) * np.maximum(np.abs(z) - 0.2, 0)
    x_next, measured = operator.proximal_step(x, r, 0.3, 0.2)
    np.testing.assert_allclose(x_next, expected, atol=1e-12)
    np.testing.assert_allclose(measured, operator.apply(expected), atol=1e-12)


def test_a_convolution_for_any_picture_has_no_shape():
    with pytest.raises(InputError, match="any size"):
        Convolution(random_dictionary((3, 3), 2)).shape  # noqa: B018
