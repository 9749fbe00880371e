"""Operators: their adjoints, and what they know about A Aᵀ, compared with matrices."""

from __future__ import annotations

import contextlib
import json
import sys
import warnings

import numpy as np
import pytest
from scipy.signal import correlate2d
from scipy.sparse.linalg import aslinearoperator

from cuista.data.dictionary import random_dictionary
from cuista.data.problem import random_matrix
from cuista.errors import FileError, InputError, MissingLibraryError, NumericalError
from cuista.messages import CuistaWarning
from cuista.operators import (
    Circular,
    Composition,
    Convolution,
    Cosine,
    Dense,
    External,
    Fourier,
    Hadamard,
    Operator,
    Scaled,
    Stack,
    Wavelet,
    base,
    cartesian_mask,
    describe,
    description_sha256,
    dot_test,
    from_description,
    radial_mask,
    random_mask,
)
from cuista.operators.base import PROBING
from cuista.operators.masks import as_mask
from cuista.ops import CpuOps, ReferenceOps
from cuista.weights import solve_exact

PLANE, LINE = random_mask((8, 12), 0.4, seed=2), random_mask((16,), 0.5, seed=3)
KERNEL = np.array([[1.0, 0.5, 0.2], [0.3, -0.1, 0.0]])


def complex_matrix(M, N):
    return random_matrix(M, N, seed=3) + 1j * random_matrix(M, N, seed=4)


def in_both(dtype):
    """The dtype of the same precision for complex numbers."""
    return np.result_type(dtype, np.complex64)


def fourier(shape, mask, *, dtype=np.float32, **options):
    return Fourier(shape, mask, dtype=in_both(dtype), **options)


def waves(shape=(8, 12), wavelet="db2", level=2, *, dtype=np.float32, **options):
    """A basis of complex signals."""
    return Wavelet(shape, wavelet, level, dtype=in_both(dtype), **options)


def stacked(**options):
    first, second = (Fourier((16,), random_mask((16,), 0.3, seed=seed), **options) for seed in (1, 9))
    return Stack([Scaled(first, 0.5), second])


def linear_operator(ops=None, dtype=np.float32):
    return External(aslinearoperator(random_matrix(9, 20, seed=3)), ops=ops, dtype=dtype)


MAKE = {
    "wide": lambda **options: Dense(random_matrix(12, 30, seed=3), **options),
    "tall": lambda **options: Dense(random_matrix(9, 4, seed=3), **options),
    "complex": lambda **options: Dense(complex_matrix(9, 20), **options),
    "filters": lambda **options: Convolution(random_dictionary((3, 2), 4), (5, 6), **options),
    "one filter": lambda **options: Convolution(random_dictionary((1, 4), 1), (4, 7), **options),
    "strided filters": lambda **options: Convolution(random_dictionary((3, 2), 4), (5, 6), stride=2, **options),
    "pixels": lambda **options: Convolution(random_dictionary((1, 1), 3), (3, 3), **options),
    "fourier": lambda **options: fourier((8, 12), PLANE, **options),
    "fourier of a line": lambda **options: fourier(15, None, **options),
    "cosine": lambda **options: Cosine((8, 12), PLANE, **options),
    "cosine of a line": lambda **options: Cosine(15, random_mask((15,), 0.4, seed=1), **options),
    "hadamard": lambda **options: Hadamard((8, 4), random_mask((8, 4), 0.4), **options),
    "hadamard of a line": lambda dtype=np.float32, **options: Hadamard(128, None, dtype=in_both(dtype), **options),
    "circular": lambda **options: Circular(KERNEL, (5, 6), **options),
    "circular of a line": lambda **options: Circular(np.array([1, 0.4j, 0.2]), 9, **options),
    "wavelets": lambda **options: Wavelet((8, 12), "db3", 2, **options),
    "wavelets of a line": lambda **options: waves((24,), "sym4", 3, **options),
    "fourier of wavelets": lambda **options: Composition(fourier((8, 12), PLANE, **options), waves(**options)),
    "fourier of wavelets of a line": lambda **options: Composition(
        fourier(16, LINE, **options), waves((16,), "db4", 3, **options)
    ),
    "cosine of wavelets": lambda **options: Composition(Cosine((8, 12), PLANE, **options), Wavelet((8, 12), **options)),
    "blurred wavelets": lambda **options: Composition(
        Circular(KERNEL, (8, 4), **options), Wavelet((8, 4), "haar", 2, **options)
    ),
    "dense of a transform": lambda **options: Composition(
        Dense(random_matrix(6, 16, seed=2), **options), Cosine(16, **options)
    ),
    "dense of a circular": lambda **options: Composition(
        Scaled(Cosine(9, np.arange(9) % 2, **options), 3), Circular([1, 0.5], 9, **options)
    ),
    "circular of a fourier": lambda **options: Composition(
        Circular([1, 0.4j], 16, **options), fourier(16, None, **options)
    ),
    "stacked": lambda dtype=np.float32, **options: stacked(dtype=in_both(dtype), **options),
    "scaled": lambda dtype=np.float32, **options: Scaled(fourier(16, LINE, dtype=dtype, **options), 2 - 1j),
    "scipy": linear_operator,
}
# A Aᴴ is singular.
SINGULAR = ("tall", "stacked")
# Signals are real, and measurements are complex.
REAL_FOURIER = {
    "real fourier": lambda **options: Fourier((7, 8), random_mask((7, 8), 0.4, seed=5), **options),
    "odd real fourier": lambda **options: Fourier((6, 9), random_mask((6, 9), 0.5, seed=5), **options),
    "real fourier of a line": lambda **options: Fourier(16, LINE, **options),
    "real fourier of lines": lambda **options: Fourier((8, 8), radial_mask((8, 8), 0.4), **options),
    "real fourier of wavelets": lambda **options: Composition(
        Fourier((8, 12), PLANE, **options), Wavelet((8, 12), "db2", 2, **options)
    ),
    "real fourier of odd wavelets": lambda **options: Composition(
        Fourier((6, 10), random_mask((6, 10), 0.4), **options), Wavelet((6, 10), "db2", 1, **options)
    ),
}
EVERY = pytest.mark.parametrize("name", list(MAKE))
ENGINES = pytest.mark.parametrize("ops", [ReferenceOps(), CpuOps()], ids=["reference", "cpu"])


def matrix_of(operator):
    """The operator as a matrix, found by applying it to the unit vectors."""
    measured, signal = (int(np.prod(shape)) for shape in operator.shape)
    units = np.eye(signal, dtype=operator.dtype).reshape(-1, *operator.shape[1])
    return operator.apply(units).reshape(signal, measured).T


def samples(rng, shape, dtype, count=3):
    """Random samples of this shape and dtype."""
    numbers = rng.standard_normal((2, count, *shape))
    return (numbers[0] + 1j * numbers[1] if np.dtype(dtype).kind == "c" else numbers[0]).astype(dtype)


@pytest.mark.parametrize("name", [*MAKE, *REAL_FOURIER])
@ENGINES
def test_the_adjoint_is_the_adjoint(name, ops):
    for dtype, least in ((np.float64, 1e-14), (np.float32, 1e-6)):
        assert dot_test({**MAKE, **REAL_FOURIER}[name](ops=ops, dtype=dtype)) < least


@EVERY
def test_an_operator_is_that_of_its_matrix_in_its_precision(name, rng):
    for dtype, tolerance in ((np.float64, 1e-12), (np.float32, 1e-5)):
        operator = MAKE[name](dtype=dtype)
        A, (measured, signal) = matrix_of(operator), operator.shape
        assert (operator.M, operator.N) == A.shape == (np.prod(measured), np.prod(signal))
        x, y = samples(rng, signal, operator.dtype), samples(rng, measured, operator.measured_dtype)
        forward, back = operator.apply(x), operator.adjoint(y)
        assert (forward.dtype, back.dtype) == (operator.measured_dtype, operator.dtype)
        assert np.finfo(operator.dtype).eps == np.finfo(dtype).eps
        np.testing.assert_allclose(forward.reshape(3, -1), x.reshape(3, -1) @ A.T, atol=tolerance * 10)
        np.testing.assert_allclose(back.reshape(3, -1), y.reshape(3, -1) @ A.conj(), atol=tolerance * 10)


def test_the_adjoint_is_the_adjoint_on_the_cuda_engine(cuda):
    for name in ("wide", "filters", "cosine", "cosine of a line", "hadamard", "circular", "fourier of wavelets"):
        assert dot_test(MAKE[name](ops=cuda, dtype=np.float64)) < 1e-14, name
    assert dot_test(REAL_FOURIER["real fourier of wavelets"](ops=cuda, dtype=np.float64)) < 1e-14


@pytest.mark.parametrize("name", ["cosine", "cosine of a line", "hadamard of a line", "fourier of wavelets"])
def test_transforms_are_the_same_on_the_cuda_engine(name, cuda, rng):
    operator, expected = MAKE[name](ops=cuda, dtype=np.float64), MAKE[name](dtype=np.float64)
    x = samples(rng, expected.shape[1], expected.dtype)
    found = cuda.to_numpy(operator.apply(cuda.asarray(x, operator.dtype)))
    np.testing.assert_allclose(found, expected.apply(x), atol=1e-12)
    np.testing.assert_allclose(cuda.to_numpy(operator.gains()), expected.gains(), atol=1e-12)


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
    ridge = ridge or float(name in SINGULAR)
    A, (measured, _) = matrix_of(operator), operator.shape
    G = A @ A.conj().T + ridge * np.eye(len(A))
    r = samples(rng, measured, operator.measured_dtype)
    expected = np.linalg.solve(G, r.reshape(3, -1).T).T
    np.testing.assert_allclose(operator.solve_gram(r, ridge).reshape(3, -1), expected, rtol=1e-8, atol=1e-8)
    h = np.einsum("mn,mn->n", A.conj(), np.linalg.solve(G, A)).real
    np.testing.assert_allclose(operator.gains(ridge).ravel(), h, rtol=1e-8, atol=1e-10)
    assert operator.gains_error(ridge) == 0
    W = np.linalg.solve(G, A) / h
    corrected = operator.correction(r, ridge).reshape(3, -1)
    np.testing.assert_allclose(corrected, r.reshape(3, -1) @ W.conj(), rtol=1e-7, atol=1e-7)
    if operator.dtype == np.float64:
        np.testing.assert_allclose(W, solve_exact(A, ridge=ridge).W, rtol=1e-7, atol=1e-7)


@EVERY
def test_conjugate_gradients_solve_what_is_known_in_closed_form(name, rng, monkeypatch):
    operator = MAKE[name](dtype=np.float64)
    ridge, r = float(name in SINGULAR), samples(rng, operator.shape[0], operator.measured_dtype)
    known = operator.solve_gram(r, ridge)
    monkeypatch.setattr(type(operator), "rows_norm_squared", None)
    monkeypatch.setattr(base, "FORMED", 0)
    np.testing.assert_allclose(Operator.solve_gram(operator, r, ridge), known, rtol=1e-8, atol=1e-8)


@EVERY
def test_what_is_known_about_an_operator_is_true(name):
    operator = MAKE[name](dtype=np.float64)
    A = matrix_of(operator)
    c, G = operator.rows_norm_squared, A @ A.conj().T
    if c is not None:
        np.testing.assert_allclose(G, c * np.eye(len(A)), atol=1e-12)
    if operator.alike is not None:
        gains = operator.gains(0.1).ravel()
        h = np.einsum("mn,mn->n", A.conj(), np.linalg.solve(G + 0.1 * np.eye(len(A)), A)).real
        np.testing.assert_allclose(gains, h, rtol=1e-10)


@pytest.mark.parametrize("name", list(REAL_FOURIER))
@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_a_fourier_transform_of_real_signals_is_a_real_matrix(name, ridge, rng):
    operator = REAL_FOURIER[name](dtype=np.float64)
    assert (operator.dtype, operator.measured_dtype) == (np.float64, np.complex128)
    A, (measured, signal) = matrix_of(operator), operator.shape
    A = np.vstack([A.real, A.imag])
    y, x = samples(rng, measured, np.complex128), samples(rng, signal, np.float64)
    parts = np.hstack([y.real, y.imag])
    np.testing.assert_allclose(operator.adjoint(y).reshape(3, -1), parts @ A, atol=1e-12)
    # Only what a real signal can have is solved for; the rest is without effect.
    inverse = np.linalg.pinv(A @ A.T + ridge * np.eye(len(A)), rcond=1e-9)
    h = np.einsum("mn,mn->n", A, inverse @ A)
    np.testing.assert_allclose(operator.gains(ridge).ravel(), h, atol=1e-10)
    u = operator.correction(y, ridge).reshape(3, -1)
    np.testing.assert_allclose(u, parts @ inverse.T @ A / h, atol=1e-9)
    possible = operator.apply(x)
    solved = operator.solve_gram(possible, ridge)
    np.testing.assert_allclose(operator.apply(operator.adjoint(solved)) + ridge * solved, possible, atol=1e-12)
    assert operator.norm_squared == pytest.approx(np.linalg.norm(A, 2) ** 2, rel=1e-12)
    c = operator.rows_norm_squared
    assert (c is None) == ("lines" not in name)
    if c is not None:
        np.testing.assert_allclose(operator.apply(operator.adjoint(possible)), c * possible, atol=1e-12)


def test_gains_of_many_coordinates_are_estimated_with_the_error_that_is_stated(monkeypatch):
    mask = random_mask((32, 32), 0.4, seed=5)
    exact = Composition(Cosine((32, 32), mask, dtype=np.float64), Wavelet((32, 32), dtype=np.float64))
    estimated = Composition(exact.outer, exact.inner)
    expected = exact.gains()
    monkeypatch.setattr("cuista.operators.base.EXACT", 100)
    monkeypatch.setattr("cuista.operators.base.NUMBERS", 2**15)  # so that there are several parts
    found, error = estimated.gains(), estimated.gains_error()
    assert found.min() > 0
    spread = np.sqrt(np.square(found - expected).mean()) / expected.mean()
    assert 0.5 * error < spread < 1.05 * error < 1.3 / np.sqrt(PROBING)
    np.testing.assert_array_equal(Composition(exact.outer, exact.inner).gains(), found)


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


def test_a_singular_gram_matrix_is_refused_where_there_is_a_matrix(rng):
    A = random_matrix(4, 8, seed=1)
    A[3] = 0
    with pytest.raises(NumericalError, match="singular"):
        Dense(A, dtype=np.float64).solve_gram(rng.standard_normal((2, 4)))


def dependent(dtype, where):
    """An operator with 30 measurements of rank 20, and its matrix."""
    if where == "own":
        masks = [np.arange(40) < 15, (np.arange(40) >= 5) & (np.arange(40) < 20)]
        operator = Stack([Cosine(40, mask, dtype=dtype) for mask in masks])
        return operator, operator.apply(np.eye(40, dtype=dtype)).T.astype(np.float64)
    A = random_matrix(30, 60, seed=1)
    A[20:] = np.random.default_rng(0).standard_normal((10, 20)) @ A[:20]
    A = A.astype(np.float32 if where == "SciPy's in single precision" else np.float64)
    return External(aslinearoperator(A), dtype=dtype), A.astype(np.float64)


@pytest.mark.parametrize(
    ("dtype", "where"),
    [
        *((dtype, where) for dtype in (np.float32, np.float64) for where in ("own", "SciPy's")),
        (np.float32, "SciPy's in single precision"),
    ],
)
def test_measurements_that_depend_on_each_other_give_the_solution_of_least_norm(dtype, where, rng):
    operator, A = dependent(dtype, where)
    r = rng.standard_normal((2, 30)) * np.array([[1], [100]])
    r[1] -= r[1] @ A @ np.linalg.pinv(A, rcond=1e-5) * (1 - 1e-3)  # nearly all of it contradicts itself
    is_formed = where == "own"
    with pytest.warns(CuistaWarning, match="rank is 20") if is_formed else contextlib.nullcontext():
        found = operator.adjoint(operator.solve_gram(r.astype(dtype)))
    expected = r @ np.linalg.pinv(A, rcond=1e-5).T
    # What contradicts itself is rounded, too, and the rounding errors are parts of it.
    sizes = np.linalg.norm(r, axis=1) / np.linalg.norm(r[0])
    for x, wanted, size in zip(found, expected, sizes, strict=True):
        np.testing.assert_allclose(x, wanted, atol=size * (1e-4 if dtype == np.float32 else 1e-10))
    assert operator.solve_gram(r.astype(dtype)).shape == r.shape  # without another warning


def test_conjugate_gradients_end_where_nothing_is_gained(rng, monkeypatch):
    monkeypatch.setattr("cuista.operators.base.FORMED", 5)
    A, calls = random_matrix(400, 800, con_num=1e7, seed=1), []
    operator = External(aslinearoperator(A), dtype=np.float64)
    apply = operator.apply
    assert operator.norm_squared  # computed before applications are counted
    monkeypatch.setattr(operator, "apply", lambda x: calls.append(1) or apply(x))
    with pytest.raises(NumericalError, match="nearly depend on each other: give a ridge"):
        operator.solve_gram(rng.standard_normal((2, 400)))
    assert len(calls) < 10 * 400


def test_more_measurements_than_are_formed_may_depend_on_each_other(rng, monkeypatch):
    monkeypatch.setattr("cuista.operators.base.FORMED", 5)
    for kind in (np.complex128, np.float64):  # real signals: linear over ℝ only, and frequencies f and −f are the same
        operator = Stack([Fourier(24, dtype=kind), Fourier(24, np.arange(24) < 15, dtype=kind)])
        x = rng.standard_normal((3, 24)).astype(kind)
        y = operator.apply(x)
        np.testing.assert_allclose(operator.adjoint(operator.solve_gram(y)), x, atol=1e-10)
        noise = rng.standard_normal(y.shape)
        noise = noise + 0j - operator.apply(operator.adjoint(operator.solve_gram(noise + 0j)))
        np.testing.assert_allclose(operator.adjoint(operator.solve_gram(y + noise)), x, atol=1e-10)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-2), (np.float64, 1e-6)])
def test_small_eigenvalues_are_not_taken_for_zero(dtype, tolerance, rng):
    """Where rounding would hide a small eigenvalue of G, conjugate gradients solve instead."""
    A = random_matrix(30, 60, con_num=3000.0, seed=1)
    x = A.T @ rng.standard_normal((30, 2))  # the solution of least norm for A x
    operator = External(aslinearoperator(A), dtype=dtype)
    found = operator.adjoint(operator.solve_gram((A @ x).T.astype(dtype)))
    np.testing.assert_allclose(found, x.T, atol=tolerance * np.abs(x).max())


def test_what_follows_a_transform_of_real_signals_has_the_weight_of_its_matrix(rng):
    B = rng.standard_normal((20, 64)) + 1j * rng.standard_normal((20, 64))
    operator = Composition(Dense(B, dtype=np.complex128), Fourier(64, dtype=np.float64))
    columns = operator.apply(np.eye(64)).T
    A, r = (
        np.concatenate([columns.real, columns.imag]),
        rng.standard_normal((3, 20)) + 1j * rng.standard_normal((3, 20)),
    )
    W = solve_exact(A)
    expected = np.concatenate([r.real, r.imag], axis=1) @ W.W
    np.testing.assert_allclose(operator.correction(r), expected, rtol=1e-6, atol=1e-9)
    assert np.linalg.norm(A, 2) ** 2 <= operator.norm_squared <= 1.06 * np.linalg.norm(A, 2) ** 2


@pytest.mark.parametrize("picture", [(0, 6), (6.5, 6), (6, 6, 6), 5])
def test_pictures_of_a_convolution_have_two_sides(picture):
    with pytest.raises(InputError, match="expected two positive whole numbers"):
        Convolution(random_dictionary((3, 3), 4), picture)


def test_a_coordinate_that_is_not_measured_is_refused(rng):
    A = rng.standard_normal((5, 9))
    A[:, 4] = 0
    for unmeasured in (
        linear_operator_of(A),
        Composition(fourier((8, 8), as_mask(corner(), (8, 8))), waves((8, 8), "haar")),
    ):
        with pytest.raises(InputError, match="does not measure coordinate"):
            unmeasured.gains()


def corner():
    """A mask of the zero frequency alone."""
    mask = np.zeros((8, 8))
    mask[0, 0] = 1
    return mask


@EVERY
def test_the_norm_is_that_of_the_matrix_or_a_little_more(name):
    operator = MAKE[name](dtype=np.float64)
    norm = np.linalg.norm(matrix_of(operator), 2) ** 2
    if name in ("dense of a circular", "stacked", "scipy"):  # a bound that is very likely one
        assert norm * (1 - 1e-9) <= operator.norm_squared <= norm / 0.95 * (1 + 1e-9)
    elif not isinstance(operator, Convolution):
        assert operator.norm_squared == pytest.approx(norm, rel=1e-12)
    else:  # a bound for pictures of any size
        assert norm * (1 - 1e-12) <= operator.norm_squared < 2 * norm


@EVERY
@ENGINES
@pytest.mark.parametrize("first", [True, False])
def test_a_proximal_step_is_a_gradient_step_and_soft_thresholding(name, ops, first, rng):
    operator = MAKE[name](ops=ops, dtype=np.float64)
    measured, signal = operator.shape
    r = samples(rng, measured, operator.measured_dtype, 2)
    x = None if first else samples(rng, signal, operator.dtype, 2)
    z = (0 if first else x) + 0.3 * operator.adjoint(r)
    expected = np.sign(z) * np.maximum(np.abs(z) - 0.2, 0)
    x_next, measured = operator.proximal_step(x, r, 0.3, 0.2)
    np.testing.assert_allclose(x_next, expected, atol=1e-12)
    np.testing.assert_allclose(measured, operator.apply(expected), atol=1e-12)


def test_a_convolution_for_any_picture_has_no_shape():
    with pytest.raises(InputError, match="any size"):
        Convolution(random_dictionary((3, 3), 2)).shape  # noqa: B018


def test_transforms_are_those_of_scipy_and_pywavelets(rng):
    import scipy.fft
    import scipy.linalg

    pywt = pytest.importorskip("pywt")
    x = rng.standard_normal((8, 4))
    one, mask = x[None], np.arange(32).reshape(8, 4) % 3 == 0
    np.testing.assert_allclose(Cosine((8, 4), mask, dtype=float).apply(one)[0], scipy.fft.dctn(x, norm="ortho")[mask])
    unitary = np.fft.fft2(x, norm="ortho")[mask]
    np.testing.assert_allclose(Fourier((8, 4), mask, dtype=float).apply(one)[0], unitary, atol=1e-14)
    both = scipy.linalg.hadamard(8) @ x @ scipy.linalg.hadamard(4) / np.sqrt(32)
    np.testing.assert_allclose(Hadamard((8, 4), mask, dtype=float).apply(one)[0], both[mask])
    expected = [sum(KERNEL[a, b] * np.roll(x, (a, b), (0, 1)) for a in range(2) for b in range(3))]
    np.testing.assert_allclose(Circular(KERNEL, (8, 4), dtype=float).apply(one), expected)
    for wavelet, shape, level in (("haar", (8, 4), 2), ("db4", (16, 24), 3), ("sym5", (40,), 2), ("coif1", (6, 10), 1)):
        x = rng.standard_normal(shape)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # there are more levels than usual
            coefficients = pywt.wavedecn(x, wavelet, "periodization", level)
        laid_out, slices = pywt.coeffs_to_array(coefficients)
        operator = Wavelet(shape, wavelet, level, dtype=float)
        np.testing.assert_allclose(operator.adjoint(x[None])[0], laid_out, atol=1e-10)
        # Each subband of PyWavelets is a group.
        groups = operator.groups.reshape(shape)
        parts = [slices[0], *(part for each in slices[1:] for part in each.values())]
        assert sorted(int(groups[part].max()) for part in parts) == list(range(len(parts)))
        assert all(np.ptp(groups[part]) == 0 for part in parts)


def test_masks_are_drawn_from_their_seed():
    for make, shape in ((random_mask, (64, 48)), (radial_mask, (64, 48)), (cartesian_mask, (64, 48))):
        for rate in (0.1, 0.33):
            mask = make(shape, rate, seed=4)
            np.testing.assert_array_equal(mask.sampled, make(shape, rate, seed=4).sampled)
            assert (mask.sampled != make(shape, rate, seed=5).sampled).any()
            assert mask.size / 3072 == pytest.approx(rate, abs=0.03 if make is radial_mask else 0.01)
    assert random_mask((64, 48), 0.33).size == round(0.33 * 3072)


def test_a_mask_has_the_structure_that_it_is_named_after():
    radial = radial_mask((64, 48), 0.2, seed=1).sampled
    np.testing.assert_array_equal(radial, np.roll(radial[::-1, ::-1], 1, (0, 1)))  # the opposite frequency
    centre = np.fft.fftshift(radial)[28:37, 20:29]
    assert centre.mean() > 0.8 > 0.4 > radial.mean()
    lines = cartesian_mask((64, 48), 0.25, seed=1, centre=0.1).sampled
    assert np.array_equal(lines.all(axis=1), lines.any(axis=1))
    assert lines[[0, 1, 2, 3, -1, -2], 0].all()
    assert lines[:, 0].sum() == 16
    dense = [np.fft.fftshift(random_mask((64, 64), 0.2, seed=1, power=p).sampled)[24:40, 24:40].mean() for p in (0, 4)]
    assert dense[0] < 0.3 < 0.5 < dense[1]


def test_masks_out_of_range_are_refused():
    for make, arguments in (
        (random_mask, ((8, 8), 0)), (random_mask, ((8, 8), 1.1)), (random_mask, ((), 0.5)),
        (random_mask, ((8,), 0.5, -1)), (random_mask, ((8,), 0.5, 0, -1.0)), (radial_mask, ((8,), 0.5)),
        (cartesian_mask, ((8, 8), 0.2, 0, 0.3)),
    ):  # fmt: skip
        with pytest.raises(InputError, match="expected"):
            make(*arguments)
    with pytest.raises(InputError, match="shape"):
        as_mask(np.ones((3, 3)), (3, 4))
    with pytest.raises(InputError, match="nothing"):
        Fourier(4, np.zeros(4))


def test_operators_that_cannot_be_are_refused(monkeypatch):
    for make in (
        lambda: Hadamard((8, 12)), lambda: Fourier((2, 3, 4)), lambda: Cosine(0), lambda: Wavelet((8, 9)),
        lambda: Wavelet(8, level=4), lambda: Circular(np.zeros(3), 5), lambda: Circular(np.ones(6), 5),
        lambda: Wavelet(8, "nothing"), lambda: Scaled(Cosine(4), 0), lambda: Scaled(Cosine(4), 1j),
        lambda: Stack([]), lambda: Stack([Cosine(4), Cosine(5)]), lambda: Composition(Cosine(4), Cosine(5)),
        lambda: Composition(Fourier(8), Wavelet(8)), lambda: External(np.eye(3)),
    ):  # fmt: skip
        with pytest.raises(InputError):
            make()
    with pytest.raises(InputError, match="not orthonormal"):
        Wavelet(8, "bior2.2")
    with pytest.raises(NumericalError, match="ridge"):
        Circular([1, -1], 4).solve_gram(np.ones((1, 4), np.float32))
    monkeypatch.setitem(sys.modules, "pywt", None)
    Wavelet(8, "haar")
    with pytest.raises(MissingLibraryError, match=r"cuista\[operators\]"):
        Wavelet(8, "db4")


# -- operators of SciPy and PyLops ------------------------------------------------------------------------------------


class Differences:
    """A linear operator that is not from SciPy: the complex differences of neighbours."""

    shape, dtype = (7, 8), np.dtype(np.complex128)

    def matmat(self, x):
        return 1j * (x[1:] - x[:-1])

    def rmatmat(self, y):
        x = np.zeros((8, y.shape[1]), y.dtype)
        x[1:] -= 1j * y
        x[:-1] += 1j * y
        return x


def test_any_linear_operator_is_an_operator(rng):
    operator = External(Differences(), dtype=np.float64)
    assert operator.dtype == np.complex128
    x = samples(rng, (8,), np.complex128)
    np.testing.assert_allclose(operator.apply(x), 1j * np.diff(x), atol=1e-12)
    assert operator.norm_squared == pytest.approx(np.linalg.norm(matrix_of(operator), 2) ** 2, rel=0.06)


def test_a_linear_operator_with_a_wrong_adjoint_is_refused():
    from scipy.sparse.linalg import LinearOperator, aslinearoperator

    class Wrong(Differences):
        def rmatmat(self, y):
            return -super().rmatmat(y)

    with pytest.raises(InputError, match="adjoint of the linear operator is not its adjoint"):
        External(Wrong())
    with pytest.raises(InputError, match="no adjoint"):
        External(LinearOperator((3, 3), matvec=lambda x: x, dtype=float))
    assert External(aslinearoperator(np.eye(3, dtype=np.complex64))).dtype == np.complex64


def test_a_linear_operator_that_measures_nothing_or_has_results_of_a_wrong_shape_is_refused(rng):
    from scipy.sparse.linalg import LinearOperator, aslinearoperator

    A = rng.standard_normal((3, 5))
    for empty in (0 * A, np.nan * A):
        with pytest.raises(InputError, match="into zeros, or into numbers that are not"):
            External(aslinearoperator(empty))
    wrong = LinearOperator((3, 5), matvec=lambda x: 1e30 * (A @ x), rmatvec=lambda y: -1e30 * (A.T @ y), dtype=float)
    with pytest.raises(InputError, match="not its adjoint"):
        External(wrong)
    assert External(aslinearoperator(1e-30 * A)).M == 3
    with pytest.raises(InputError, match="Its matvec must return 3 numbers, and its rmatvec 5"):
        External(LinearOperator((3, 5), matvec=lambda x: A @ x, rmatvec=lambda y: y, dtype=float))
    short = LinearOperator(
        (3, 5), matmat=lambda x: A[:2] @ x, matvec=lambda x: A @ x, rmatvec=lambda y: A.T @ y, dtype=float
    )
    with pytest.raises(InputError, match=r"matmat of the linear operator of shape 3×5 .* \(2, 2\); expected \(3, 2\)"):
        External(short)


def test_operators_of_pylops_are_operators(rng):
    pylops = pytest.importorskip("pylops")
    real = External(pylops.signalprocessing.FFT(16, real=True, dtype=np.float64), dtype=np.float64)
    assert (real.dtype, real.measured_dtype) == (np.float64, np.complex128)
    for operator in (real, External(pylops.Smoothing1D(3, 12, dtype=np.float64), dtype=np.float64)):
        assert dot_test(operator) < 1e-14
        r = operator.apply(samples(rng, operator.shape[1], np.float64))
        solved = operator.solve_gram(r, 0.1)
        np.testing.assert_allclose(operator.apply(operator.adjoint(solved)) + 0.1 * solved, r, atol=1e-9)


# -- descriptions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*MAKE, *REAL_FOURIER])
def test_an_operator_is_made_again_from_its_description(name, tmp_path, rng):
    operator, arrays = {**MAKE, **REAL_FOURIER}[name](dtype=np.float64), {}
    description = json.loads(json.dumps(describe(operator, arrays)))
    for key, array in arrays.items():
        np.save(tmp_path / f"{key}.npy", array.astype(np.float64) if array.dtype == np.bool_ else array)
    sources = [arrays] if any(array.dtype.kind == "c" for array in arrays.values()) else [arrays, tmp_path]
    x = samples(rng, operator.shape[1], operator.dtype)
    for source in sources:
        given = operator if name == "scipy" else None
        again = from_description(description, source, external=given, dtype=np.float64)
        assert type(again) is type(operator)
        assert again.dtype == operator.dtype
        np.testing.assert_array_equal(again.apply(x), operator.apply(x))
        assert description_sha256(describe(again)) == description_sha256(description)
    assert len(json.dumps(description)) < 500


def test_descriptions_differ_where_operators_do():
    masks = [random_mask((8, 8), 0.3), random_mask((8, 8), 0.3, seed=1), radial_mask((8, 8), 0.3), np.eye(8)]
    operators = [Fourier((8, 8), mask) for mask in masks] + [Fourier((8, 8), masks[0], dtype=float), Cosine((8, 8))]
    assert len({description_sha256(describe(operator)) for operator in operators}) == len(operators)


def test_a_description_may_be_written_by_hand(tmp_path, rng):
    np.save(tmp_path / "mask.npy", np.eye(8))
    wavelet = {"kind": "wavelet", "shape": [8, 8], "wavelet": "haar"}
    for mask, expected in (("mask.npy", np.eye(8)), ({"kind": "radial", "rate": 0.3}, radial_mask((8, 8), 0.3))):
        fourier = {"kind": "fourier", "shape": [8, 8], "mask": mask}
        made = from_description({"kind": "composition", "outer": fourier, "inner": wavelet}, tmp_path)
        operator = Composition(Fourier((8, 8), expected), Wavelet((8, 8), "haar", dtype=np.complex64))
        x = samples(rng, (8, 8), np.complex64)
        np.testing.assert_array_equal(made.apply(x), operator.apply(x))
    real = from_description({"signals": "real", "kind": "fourier", "shape": 8})
    assert (real.dtype, real.measured_dtype) == (np.float32, np.complex64)
    assert from_description({"kind": "cosine", "shape": 8}, dtype=np.float64).dtype == np.float64


def test_a_description_that_is_not_one_is_refused(tmp_path):
    for description, message in (
        ({"kind": "nothing"}, "not a kind of operator"),
        ({"kind": "fourier"}, "expected shape"),
        ({"kind": "fourier", "shape": 8, "seed": 1}, "expected shape"),
        ({"kind": "fourier", "shape": 8, "mask": {"kind": "spiral"}}, "not a kind of mask"),
        ({"kind": "fourier", "shape": 8, "mask": {"kind": "random"}}, "description of a random mask"),
        ({"kind": "fourier", "shape": 8, "signals": "quaternions"}, "real or complex"),
        ({"kind": "composition", "outer": "fourier", "inner": "wavelet"}, "not a kind"),
    ):
        with pytest.raises(InputError, match=message):
            from_description(description)
    arrays = {}
    description = describe(Fourier(8, np.eye(8)[0]), arrays)
    with pytest.raises(FileError, match="missing"):
        from_description(description, {})
    with pytest.raises(FileError):
        from_description(description, tmp_path)
    with pytest.raises(FileError, match="another one"):
        from_description(description, {key: 1 - array for key, array in arrays.items()})


def test_a_linear_operator_can_be_recognised_but_not_made(rng):
    operator = linear_operator()
    description = json.loads(json.dumps(describe(operator)))
    assert from_description(description, external=operator).operator is operator.operator
    with pytest.raises(FileError, match="give the operator itself"):
        from_description(description)
    for other in (External(Differences()), Scaled(operator, 2), linear_operator_of(rng.standard_normal((9, 20)))):
        with pytest.raises(FileError, match=r"give the operator itself|another one"):
            from_description(description, external=other)


def linear_operator_of(matrix):
    return External(aslinearoperator(matrix))
