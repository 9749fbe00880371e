"""Complex numbers, several snapshots and groups, from the primitives to the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import FAST
from hypothesis import given
from hypothesis import strategies as st

import cuista
from cuista.checks import Array, in_double
from cuista.data.problem import normalize_columns, random_matrix
from cuista.errors import InputError
from cuista.evaluation import robustness
from cuista.networks import NETWORKS, Encoder, ExactEncoder, RobustAlista
from cuista.operators import Dense, dot_test
from cuista.ops import Bernoulli, CpuOps, Normal, ReferenceOps
from cuista.ops.joint import Joint
from cuista.storage import save_arrays

FORMS = [Joint(1, 1), Joint(3, 1), Joint(1, 2), Joint(2, 3)]
KINDS = [np.float64, np.complex128]
QUICK = ("--batch", 32, "--validation-batch", 200, "--max-steps", 30)


def numbers(rng: np.random.Generator, shape: tuple[int, ...], dtype: type) -> Array:
    real = rng.standard_normal(shape)
    return real + 1j * rng.standard_normal(shape) if np.dtype(dtype).kind == "c" else real


def inner(a: Array, b: Array) -> float:
    """Re⟨a, b⟩."""
    return float((np.conj(a) * b).real.sum())


# -- thresholding -----------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.sampled_from(FORMS), st.sampled_from(KINDS), st.integers(0, 5))
def test_thresholding_compares_norms_and_keeps_directions(seed, joint, dtype, k):
    rng = np.random.default_rng(seed)
    batch, N = 4, 12
    x, u = (numbers(rng, (batch * joint.snapshots, N), dtype) for _ in range(2))
    theta = float(rng.uniform(-0.5, 2))
    x_next, code = ReferenceOps().shrink_select(x, u, 0.7, theta, k, joint=joint)
    z = x + 0.7 * u
    before, after = (joint.split(each) for each in (z, x_next))
    for sample in range(batch):
        norms = np.linalg.norm(before[sample], axis=(0, 2))
        for entry, norm in enumerate(norms):
            passed = norm > theta and np.count_nonzero(norms > norm) < min(k, len(norms) - 1)
            scale = 1.0 if passed else max(norm - theta, 0) / norm
            np.testing.assert_allclose(after[sample, :, entry], scale * before[sample, :, entry], atol=1e-12)
            assert (code[sample, entry] != 0) == (scale != 0)


def test_a_real_number_given_as_a_complex_one_is_thresholded_alike(rng):
    x, u = rng.standard_normal((2, 5, 20))
    delta = rng.standard_normal((5, 20))
    ops = ReferenceOps()
    real, code = ops.shrink_select(x, u, 0.7, 0.5, 3, 0.2)
    same, same_code = ops.shrink_select(x + 0j, u + 0j, 0.7, 0.5, 3, 0.2)
    np.testing.assert_allclose(same, real, atol=1e-14)
    back = ops.shrink_select_backward(delta, code, x, u, 0.7, 0.5, 0.2)
    same_back = ops.shrink_select_backward(delta + 0j, same_code, x + 0j, u + 0j, 0.7, 0.5, 0.2)
    for a, b in zip(back, same_back, strict=True):
        np.testing.assert_allclose(b, a, atol=1e-12)


@pytest.mark.parametrize("joint", FORMS)
@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("thresholds", ["number", "negative", "coordinate", "sample", "both"])
def test_the_backward_pass_of_thresholding_matches_central_differences(joint, dtype, thresholds, rng):
    batch, N = 3, 12
    entries = N // joint.group
    theta: Array = {
        "number": np.asarray(0.9),
        "negative": np.asarray(-0.3),
        "coordinate": rng.uniform(0.3, 1.5, entries),
        "sample": rng.uniform(0.3, 1.5, (batch, 1)),
        "both": rng.uniform(0.3, 1.5, (batch, entries)),
    }[thresholds]
    x, u, delta, d_x = (numbers(rng, (batch * joint.snapshots, N), dtype) for _ in range(4))
    d_theta, ops, h = rng.standard_normal(theta.shape), ReferenceOps(), 1e-6

    def loss(x: Array, alpha: float, theta: Array) -> float:
        return inner(delta, ops.shrink_select(x, u, alpha, theta, 1, joint=joint)[0])

    _, code = ops.shrink_select(x, u, 0.7, theta, 1, joint=joint)
    d_z, d_alpha, d_threshold = ops.shrink_select_backward(delta, code, x, u, 0.7, theta, joint=joint)
    pairs = [
        (inner(d_z, d_x), [loss(x + sign * h * d_x, 0.7, theta) for sign in (1, -1)]),
        (float(d_alpha), [loss(x, 0.7 + sign * h, theta) for sign in (1, -1)]),
        (float((d_threshold * d_theta).sum()), [loss(x, 0.7, theta + sign * h * d_theta) for sign in (1, -1)]),
    ]
    assert d_threshold.shape == theta.shape
    for analytic, (above, below) in pairs:
        assert analytic == pytest.approx((above - below) / (2 * h), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("joint", FORMS)
def test_the_ramp_of_a_window_is_the_derivative_of_the_expected_jump(dtype, joint, rng):
    """Averaged over thresholds, the backward pass with a window is the derivative of the averaged loss."""
    z, delta = (numbers(rng, (joint.snapshots, joint.group * 2), dtype) for _ in range(2))
    z[:, joint.group :] *= 0.1 * np.linalg.norm(z[:, : joint.group]) / np.linalg.norm(z[:, joint.group :])
    norms, ops = joint.magnitudes(np, z)[0], ReferenceOps()
    theta = float(norms.max())  # the larger entry passes or is 0
    window = 0.05
    offsets = theta * window * np.linspace(-1, 1, 4001)[1:-1:2]  # θ uniform over a window's width around |z|
    zero = np.zeros_like(z)

    def mean_loss(shift: float) -> float:
        losses = [inner(delta, ops.shrink_select(z, zero, 1.0, theta + shift + o, 1, joint=joint)[0]) for o in offsets]
        return float(np.mean(losses))

    h = theta * window / 4
    numeric = (mean_loss(h) - mean_loss(-h)) / (2 * h)
    _, code = ops.shrink_select(z, zero, 1.0, theta * (1 - 1e-9), 1, window, joint=joint)
    _, _, analytic = ops.shrink_select_backward(delta, code, z, zero, 1.0, theta * (1 - 1e-9), window, joint=joint)
    assert float(analytic) == pytest.approx(numeric, rel=1e-2, abs=1e-3)


@pytest.mark.parametrize("joint", FORMS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
@pytest.mark.parametrize("window", [0.0, 0.2])
def test_engines_agree_on_joint_entries(joint, dtype, window, rng):
    batch, N = 5, 18
    x, u, delta = (numbers(rng, (batch * joint.snapshots, N), dtype).astype(dtype) for _ in range(3))
    entries, precision = N // joint.group, 1e-5 if np.finfo(dtype).eps > 1e-10 else 1e-12
    for theta in (0.8, -0.2, rng.uniform(0.3, 1.5, entries), rng.uniform(0.3, 1.5, (batch, 1))):
        for k in (0, 2, rng.integers(0, 5, batch)):
            expected, code = ReferenceOps().shrink_select(x, u, 0.7, theta, k, window, joint=joint)
            back = ReferenceOps().shrink_select_backward(delta, code, x, u, 0.7, theta, window, joint)
            for ops in FAST.values():
                found, same = ops.shrink_select(x, u, 0.7, theta, k, window, joint=joint)
                np.testing.assert_array_equal(same, code)
                np.testing.assert_allclose(found, expected, atol=precision)
                again = ops.shrink_select_backward(delta, same, x, u, 0.7, theta, window, joint)
                for a, b in zip(again, back, strict=True):
                    np.testing.assert_allclose(a, b, atol=100 * precision)


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
@pytest.mark.parametrize("level", [0.1, 1.5, 3.0, 9.0])
@pytest.mark.parametrize("k", [0, 40, 10**6])
def test_long_rows_of_complex_numbers_are_those_of_the_definition(dtype, level, k, rng):
    x, u, delta = (numbers(rng, (2, 1301), dtype).astype(dtype) for _ in range(3))
    close = {"rtol": 2e4 * np.finfo(dtype).eps, "atol": 2e4 * np.finfo(dtype).eps}
    for theta in (level, level * rng.uniform(0.8, 1.2, 1301), level * rng.uniform(0.8, 1.2, (2, 1))):
        for window in (0.0, 0.1):
            step = (x, u, 0.7, theta, k, window)
            defined = ReferenceOps().shrink_select(*step)
            for fast in FAST.values():
                found = fast.shrink_select(*step)
                np.testing.assert_allclose(found[0], defined[0], **close)
                np.testing.assert_array_equal(found[1], defined[1])
                for then in (window, 0.0):
                    arguments = (delta, defined[1], *step[:4], then)
                    back = ReferenceOps().shrink_select_backward(*arguments)
                    for mine, expected in zip(fast.shrink_select_backward(*arguments), back, strict=True):
                        np.testing.assert_allclose(mine, expected, rtol=close["rtol"], atol=100 * close["atol"])


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_a_complex_zero_and_a_nan_are_handed_on(dtype):
    z = np.array([[0, np.nan + 1j, 3j]], dtype)
    for ops in (ReferenceOps(), *FAST.values()):
        x, code = ops.shrink_select(z, np.zeros_like(z), 1.0, 0.5, 1)
        assert x[0, 0] == 0
        assert code[0, 0] == 0
        assert np.isnan(x[0, 1]) or code[0, 1] == 0
        assert x[0, 2] != 0


# -- operators and networks -------------------------------------------------------------------------------------------


def problem_of(joint: Joint, dtype: type, M: int = 8, N: int = 18, **law) -> cuista.Problem:
    kind = complex if np.dtype(dtype).kind == "c" else float
    A = normalize_columns(random_matrix(M, N, seed=3, dtype=kind))
    return cuista.Problem(A, pnz=0.2, snapshots=joint.snapshots, group=joint.group, **law)


def test_the_adjoint_of_a_complex_matrix_is_its_conjugate_transpose():
    operator = Dense(random_matrix(8, 18, dtype=complex), dtype=np.float64)
    assert operator.dtype == np.complex128
    assert dot_test(operator) < 1e-14
    r = operator.apply(np.eye(18, dtype=complex))
    np.testing.assert_allclose(operator.adjoint(r), r @ operator.A.conj())
    G = operator.A @ operator.A.conj().T + 0.3 * np.eye(8)
    np.testing.assert_allclose(operator.solve_gram(r, 0.3), np.linalg.solve(G, r.T).T, atol=1e-12)


VARIANTS = [
    (name, options)
    for name, kind in NETWORKS.items()
    for options in ({}, {"untied": True}, {"per_coordinate": True})
    if (kind.can_untie or "untied" not in options) and (kind.can_coordinate or "per_coordinate" not in options)
]


@pytest.mark.parametrize("joint", FORMS)
@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=str)
def test_gradients_match_central_differences(joint, dtype, name, options, rng):
    problem = problem_of(joint, dtype)
    W = cuista.solve_exact(problem.A).W
    ops = CpuOps()
    net = NETWORKS[name](
        Dense(problem.A, ops=ops, dtype=np.float64), W, layers=3, percent=12, max_percent=30, joint=joint, **options
    )
    net.unit = 1.7
    start = net.fast_start()
    net.parameters = {
        key: 0.3 * rng.standard_normal(value.shape) if key == "momentum" else value * rng.uniform(0.9, 1.1, value.shape)
        for key, value in start.items()
    }
    x, y = problem.sample(4, dtype=np.float64)
    weights = rng.uniform(0.5, 1.5, 4)
    last = list(net.iterates(y))[-1]
    assert last.shape == x.shape
    np.testing.assert_allclose(net.output(3 * y), 3 * last, atol=1e-12)
    if not net.has_gradients:
        return
    loss, gradients = net.loss_and_gradients(y, x, 3, weights=weights)
    squares = np.square(np.abs(last - x)).reshape(4, -1).sum(axis=1)
    assert loss == pytest.approx(0.5 * (weights * squares).sum())
    parameters = {key: value.copy() for key, value in net.parameters.items()}
    for key, value in parameters.items():
        if name == "liht" and key == "threshold":
            continue  # its derivative is 0
        direction, h = numbers(rng, value.shape, value.dtype), 1e-7
        both = []
        for sign in (1, -1):
            net.parameters = {**parameters, key: value + sign * h * direction}
            both.append(net.loss_and_gradients(y, x, 3, weights=weights)[0])
        net.parameters = parameters
        numeric = (both[0] - both[1]) / (2 * h)
        assert inner(gradients[key], direction) == pytest.approx(numeric, rel=1e-6, abs=1e-6), key


@pytest.mark.parametrize("loss", ["l1", "l2", "rel1", "rel2", "expl1", "expl2"])
def test_gradients_of_a_complex_encoder_match_central_differences(loss, rng):
    A = normalize_columns(random_matrix(5, 8, dtype=complex))
    matrices = A + 0.1 * numbers(rng, (3, 5, 8), complex)
    matrices /= np.linalg.norm(matrices, axis=1, keepdims=True)
    net = Encoder(A, loss=loss, layers=3, ops=CpuOps(), dtype=np.float64, start="nominal")
    B = 0.02 * numbers(rng, (3, 5, 8), complex)
    direction, both = numbers(rng, B.shape, complex), []
    for sign in (1, -1):
        net.parameters = {"step_matrix": B + sign * 1e-6 * direction}
        both.append(net.loss_and_gradients(matrices, matrices, 3)[0])
    net.parameters = {"step_matrix": B}
    R = np.swapaxes(matrices, 1, 2).conj() @ net.output(matrices) - np.eye(8)
    Q = np.where(np.eye(8), np.sqrt(7), 1) if loss.startswith("rel") else 1
    size = np.abs(R)
    expected = {
        "l1": size * Q,
        "l2": 0.5 * size**2 * Q**2,
        "expl1": np.exp(size) * Q,
        "expl2": 0.5 * np.exp(size**2) * Q,
    }[loss.replace("rel", "l")]
    found, gradients = net.loss_and_gradients(matrices, matrices, 3)
    assert found == pytest.approx(expected.sum(), rel=1e-12)
    assert inner(gradients["step_matrix"], direction) == pytest.approx((both[0] - both[1]) / 2e-6, rel=1e-5)


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("joint", [Joint(1, 1), Joint(2, 2)])
@pytest.mark.parametrize("exact", [True, False])
def test_gradients_of_a_robust_network_match_central_differences(exact, joint, dtype, rng):
    A = normalize_columns(random_matrix(5, 8, dtype=dtype))
    matrices = A + 0.1 * numbers(rng, (3, 5, 8), dtype)
    matrices /= np.linalg.norm(matrices, axis=1, keepdims=True)
    encoder = (
        ExactEncoder(A, ridge=0.3, learned=True, ops=CpuOps(), dtype=np.float64)
        if exact
        else Encoder(A, layers=2, ops=CpuOps(), dtype=np.float64)
    )
    start = {key: value if exact else value[None] for key, value in encoder.published_start().items()}
    start |= {"step_size": np.ones(3), "threshold": np.full(3, 0.1)}
    options = {"layers": 3, "percent": 10.0, "ops": CpuOps(), "dtype": encoder.dtype}
    net = RobustAlista(encoder, 5, 8, parameters=start, joint=joint, **options)
    net.unit = 1.3
    shape = (4, 8) if joint.snapshots == 1 else (4, joint.snapshots, 8)
    x, weights = numbers(rng, shape, dtype) * (rng.random(shape) < 0.4), rng.random(4)
    given = (matrices, np.stack([x @ matrix.T for matrix in matrices]))
    loss, gradients = net.loss_and_gradients(given, x, 3, weights=weights)
    errors = np.abs(net.output(given) - x) ** 2
    assert loss == pytest.approx(0.5 * np.sum(weights * errors.reshape(3, 4, -1).sum(axis=2)), rel=1e-10)
    parameters = {key: value.copy() for key, value in net.parameters.items()}
    for key, value in parameters.items():
        direction, both = numbers(rng, value.shape, value.dtype), []
        for sign in (1, -1):
            net.parameters = {**parameters, key: value + sign * 1e-6 * direction}
            both.append(net.loss_and_gradients(given, x, 3, weights=weights)[0])
        assert inner(gradients[key], direction) == pytest.approx((both[0] - both[1]) / 2e-6, rel=1e-6, abs=1e-8), key


# -- problems and weights ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("joint", FORMS)
@pytest.mark.parametrize("law", [Normal(), Normal(1, 0.5), Bernoulli(0.3, 1, 2)], ids=str)
def test_signals_follow_their_law(dtype, joint, law):
    problem = problem_of(joint, dtype, magnitude=law, snr_db=20.0)
    x, y = problem.sample(20_000)
    each = joint.split(x.reshape(-1, problem.N))
    present = (each != 0).any(axis=(1, 3))
    assert present.mean() == pytest.approx(0.2, abs=0.01)
    if isinstance(law, Normal):
        assert ((each != 0) == present[:, None, :, None]).all()  # a support that all numbers of an entry share
    values = x[x != 0]
    energy = law.mean**2 + law.std**2 if isinstance(law, Normal) else 0.3 * 1 + 0.7 * 4
    assert np.mean(np.abs(values) ** 2) == pytest.approx(energy, rel=0.02)
    if np.iscomplexobj(x):
        mean = law.mean if isinstance(law, Normal) else 0
        assert np.mean(values) == pytest.approx(mean, abs=0.02)
        assert np.mean((values - mean) ** 2) == pytest.approx(0, abs=0.03)  # circular
    clean = x @ problem.A.T
    noise, spread = (np.abs(y - clean) ** 2).mean(), clean.reshape(len(clean), -1).var(axis=1).mean()
    assert noise == pytest.approx(0.01 * spread, rel=0.05)
    quiet = cuista.Problem(problem.A, 0.2, magnitude=law, snapshots=joint.snapshots, group=joint.group)
    norms = (np.abs(quiet.sample(20_000)[1]) ** 2).sum() / 20_000
    assert norms == pytest.approx(quiet.unit**2, rel=0.03)


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("joint", FORMS)
def test_hard_signals_are_weighted_without_bias(dtype, joint):
    problem = problem_of(joint, dtype)
    _, y, weights = problem.sample_weighted(20_000, 0.5, stream=0)
    energies = (np.abs(y) ** 2).reshape(len(y), -1).sum(axis=1)
    assert (weights * energies).mean() == pytest.approx(problem.unit**2, rel=0.03)
    assert weights.mean() == pytest.approx(1, rel=0.02)
    assert weights.max() <= 2


@pytest.mark.parametrize("joint", FORMS)
def test_rows_of_a_batch_have_the_bits_that_they_have_in_it(joint):
    problem = problem_of(joint, complex, snr_db=20.0)
    x, y = problem.sample(7)
    for part in (slice(0, 3), slice(3, 7)):
        for whole, some in zip((x, y), problem.sample(7, rows=part), strict=True):
            np.testing.assert_array_equal(whole[part], some)


@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_a_complex_weight_is_the_minimum(ridge, rng):
    A = normalize_columns(random_matrix(8, 18, dtype=complex))
    W = cuista.solve_exact(A, ridge=ridge).W
    np.testing.assert_allclose(np.einsum("mn,mn->n", W.conj(), A), 1)
    G = A @ A.conj().T + ridge * np.eye(8)

    def objective(W: Array) -> float:
        return float(np.einsum("mn,mk,kn->", W.conj(), G, W).real)

    for _ in range(5):  # directions that keep w_iᴴa_i = 1
        D = numbers(rng, A.shape, complex)
        D -= A * (np.einsum("mn,mn->n", A.conj(), D) / np.einsum("mn,mn->n", A.conj(), A))
        assert objective(W) < objective(W + 1e-3 * D)


def test_projected_gradient_finds_the_same_complex_weight():
    A = normalize_columns(random_matrix(12, 24, dtype=complex))
    exact, pgd = cuista.solve_exact(A), cuista.solve_pgd(A)
    assert pgd.report.objective == pytest.approx(exact.report.objective, rel=1e-8)
    products = exact.W.conj().T @ A
    np.fill_diagonal(products, 0)
    assert exact.report.objective == pytest.approx((np.abs(products) ** 2).sum())
    assert exact.report.coherence == pytest.approx(np.abs(products).max())


def test_columns_that_differ_by_a_phase_are_twins():
    A = random_matrix(8, 18, dtype=complex)
    A[:, 11] = 2j * A[:, 4]
    assert cuista.Problem(A).twins.pairs == [(4, 11)]


# -- training and files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("joint", FORMS)
@pytest.mark.parametrize("net", ["alista", "lista-cpss"])
def test_training_reduces_the_error_and_resumes_from_its_file(joint, net, tmp_path):
    problem = problem_of(joint, complex, 24, 48)
    model = cuista.Model.new(problem, cuista.solve_exact(problem.A), net, layers=4)
    before = model.network.output(problem.sample(200)[1])
    recipe = cuista.FastRecipe(batch=32, validation_batch=200, layer_steps=10, max_steps=30, matrix_steps=30)
    cuista.train(model, recipe)
    x, y = problem.sample(200)
    after = model.recover(y)
    assert after.shape == x.shape
    assert np.linalg.norm(after - x) < 0.5 * np.linalg.norm(before - x)
    model.save(tmp_path / "m.h5")
    again = cuista.Model.load(tmp_path / "m.h5")
    np.testing.assert_array_equal(again.recover(y), after)
    np.testing.assert_allclose(again.recover(y[3]), after[3], atol=1e-5)


def test_more_snapshots_recover_better():
    def nmse(snapshots: int) -> float:
        A = normalize_columns(random_matrix(20, 48, dtype=complex))
        problem = cuista.Problem(A, pnz=0.1, snapshots=snapshots)
        model = cuista.train(
            cuista.Model.new(problem, cuista.solve_exact(problem.A), layers=6),
            cuista.FastRecipe(max_steps=60, batch=32, layer_steps=10, validation_batch=1000),
        )
        return float(model.training["validation_nmse_db"])

    assert nmse(4) < nmse(1) - 2


def test_own_complex_signals_train_a_network():
    problem = problem_of(Joint(2), complex, 24, 48)
    x, y = problem.sample(3000)
    fitted = problem.fitted((x, y))
    assert fitted.sparsity == pytest.approx(0.2, abs=0.01)
    assert fitted.magnitude.std == pytest.approx(1, abs=0.05)
    assert fitted.snr_db == np.inf
    model = cuista.Model.new(fitted, cuista.solve_exact(fitted.A), layers=4)
    cuista.train(model, cuista.FastRecipe(max_steps=20, batch=32, layer_steps=10, validation_batch=500), data=(x, y))
    assert model.training["validation_nmse_db"] < -8


def test_complex_measurements_of_a_real_problem_are_refused():
    problem = cuista.Problem(random_matrix(8, 18))
    model = cuista.Model.new(problem)
    with pytest.raises(InputError, match="complex, and the measurement matrix is real"):
        model.recover(np.ones(8, complex))
    with pytest.raises(InputError, match="complex, and the matrix is real"):
        problem.fitted(np.eye(18, dtype=complex))


# -- the command line -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [("--complex",), ("--snapshots", 3), ("--complex", "--snapshots", 2, "--group", 4)])
def test_the_commands_take_a_problem_from_its_making_to_its_codes(run, options):
    run("gen-problem", "--m", 20, "--n", 40, "--pnz", 0.05, *options)
    run("train", "problem.h5", "-T", 4, *QUICK)
    run("simulate", "problem.h5", "--samples", 30)
    run("recover", "model.h5", "signals.h5", "-o", "x.h5")
    tested = json.loads(run("test", "model.h5", "--samples", 100, "--json"))
    assert tested["layers"]["alista"][-1]["nmse_db"] < -5
    x, found = cuista.storage.load_array("signals.h5", "x"), cuista.storage.load_array("x.h5", "x")
    assert found.shape == x.shape
    assert np.iscomplexobj(found) == ("--complex" in options)
    assert np.linalg.norm(found - x) < 0.5 * np.linalg.norm(x)
    text = run("info", "problem.h5")
    assert ("complex" in text) == ("--complex" in options)


def test_real_measurements_for_a_complex_matrix_are_taken_as_such_with_a_note(run):
    run("gen-problem", "--complex", "--m", 4, "--n", 6, "-o", "p.h5")
    Path("real.csv").write_text("1,2,3,4\n")
    run("solve", "p.h5", "real.csv", "--lam", 0.1, "-o", "x.npy")
    assert "real.csv is real, and was taken as complex with imaginary parts of zero" in run.errors
    Path("pairs.csv").write_text("re,im,re,im,re,im,re,im\n1,2,3,4,5,6,7,8\n")
    with pytest.warns(UserWarning, match="pairs of columns"):
        run("solve", "p.h5", "pairs.csv", "--lam", 0.1, "-o", "x2.npy")
    assert run.errors.count("pairs of columns are read as complex numbers") == 1
    assert "is real" not in run.errors


def test_a_complex_matrix_from_a_file_makes_a_complex_problem(run):
    save_arrays("A.mat", {"A": random_matrix(20, 40, dtype=complex)})
    run("gen-problem", "--load-a", "A.mat", "--pnz", 0.05)
    assert cuista.Problem.load("problem.h5").is_complex


def test_options_that_contradict_each_other_are_refused(run):
    run("gen-problem", "--m", 20, "--n", 40, "--complex", "--positive", fails=1)
    assert "no sign" in run.errors
    run("gen-problem", "--m", 20, "--n", 40, "--group", 7, fails=1)
    assert "divides" in run.errors
    run("gen-problem", "--m", 20, "--n", 40, "--snapshots", 2)
    save_arrays("y.npy", {"y": np.ones((5, 20))})
    run("train", "problem.h5", "-T", 2, *QUICK)
    run("recover", "model.h5", "y.npy", fails=1)
    assert "expected (samples, 2, 20)" in run.errors


def test_perturbed_matrices_measure_all_numbers_of_an_entry(run, monkeypatch):
    monkeypatch.setattr(robustness, "MOST_ITERATIONS", 250)
    monkeypatch.setattr(robustness, "RELATIVE_LAMBDAS", np.array([1e-3, 1e-2]))
    run("gen-problem", "--complex", "--m", 20, "--n", 40, "--pnz", 0.05, "--snapshots", 2, "--group", 2)
    run("train", "problem.h5", "-T", 4, *QUICK)
    run("gen-problem", "--perturbed", "--problem", "problem.h5", "--sigma", 0.05, "--count", 2, "--samples", 50)
    perturbed = cuista.PerturbedSet.load("perturbed.h5")
    assert (perturbed.x.shape, perturbed.x.dtype) == ((50, 2, 40), np.complex64)
    assert "complex, 2 snapshots of each signal, groups of 2 entries" in str(perturbed)
    few = ("--max-steps", 5, "--psteps", 2, "--matrices", 2, "--batch", 8, "--validation-batch", 16)
    run("train", "--task", "robust", "--decoder", "model.h5", "--encoder", "exact", *few, "-o", "robust.h5")
    run("train", "--task", "robust", "--decoder", "model.h5", *few, "-o", "alone.h5")
    robust = cuista.load("robust.h5")
    assert robust.network.joint == Joint(2, 2)
    A = in_double(perturbed.matrices[0, 0])
    y = (perturbed.x @ A.T).astype(np.complex64)
    by_network = robust.network.output((A[None], y[None]))[0]
    found = robust.model_for(A).recover(y)
    assert np.linalg.norm(found - by_network) < 1e-3 * np.linalg.norm(found)
    files = ("model.h5", "robust.h5", "alone.h5")
    tested = json.loads(run("test", "--task", "robust", *files, "--perturbed", "perturbed.h5", "--json"))
    errors = {each["method"]: each["nmse_db"][0] for each in tested["results"]}
    assert errors["robust"] < errors["model"] < -5
    assert errors["fista, to its end"] < -20


def test_a_complex_encoder_is_set_beside_the_exact_weight():
    problem = cuista.Problem(normalize_columns(random_matrix(10, 16, dtype=complex)), snapshots=2)
    (found,) = robustness.evaluate_encoder(cuista.EncoderModel.new(problem, layers=3), 0.01, 1)
    assert found.exact_objective < found.objective < 1.1 * found.exact_objective
    assert found.exact_loss < found.loss < 1.1 * found.exact_loss


def as_pairs(path, array):
    """Write complex numbers as pairs of columns without names."""
    np.savetxt(path, np.ascontiguousarray(array).view(np.float64), delimiter=",")


def test_pairs_of_columns_go_from_a_matrix_to_codes(run):
    A, rng = random_matrix(8, 12, dtype=complex), np.random.default_rng(0)
    x = np.zeros((2000, 12), complex)
    x[np.arange(2000), np.arange(2000) % 12] = numbers(rng, 2000, complex)
    for name, array in {"A": A, "x": x, "y": x @ A.T}.items():
        as_pairs(f"{name}.csv", array)
    run("gen-problem", "--load-a", "A.csv", "--complex-pairs", "--pnz", 0.08)
    np.testing.assert_allclose(cuista.Problem.load("problem.h5").given, A)
    run("solve-w", "A.csv", "--complex-pairs", "-o", "weight.h5")
    assert np.iscomplexobj(cuista.storage.load_array("weight.h5", "W"))
    given = ("--y", "y.csv", "--complex-pairs")
    run("train", "problem.h5", "--signals", "x.csv", *given, "-T", 2, *QUICK)
    assert json.loads(run("test", "model.h5", "--x", "x.csv", *given, "--json"))["samples"] == 2000
    run("recover", "model.h5", "y.csv", "--complex-pairs", "-o", "by-model.npy")
    run("solve", "problem.h5", "y.csv", "--complex-pairs", "--lam", "0.1%", "-o", "solved.npy")
    np.testing.assert_allclose(np.load("solved.npy"), x, atol=0.01)
    assert np.load("by-model.npy").shape == (2000, 12)
    np.save("y.npy", np.stack([(x @ A.T).real, (x @ A.T).imag], axis=-1))  # as PyTorch's view_as_real
    run("solve", "problem.h5", "y.npy", "--complex-pairs", "--lam", "0.1%", "-o", "same.npy")
    np.testing.assert_array_equal(np.load("same.npy"), np.load("solved.npy"))


def test_pairs_that_are_none_are_refused(run):
    run("gen-problem", "--complex", "--m", 4, "--n", 6)
    np.savetxt("odd.csv", np.ones((3, 7)), delimiter=",")
    run("solve", "problem.h5", "odd.csv", "--complex-pairs", "--lam", 1, fails=1)
    assert "odd.csv has shape (3, 7); expected an even number of columns" in run.errors
    np.savetxt("y.csv", np.ones((3, 8)), delimiter=",")
    run("solve", "problem.h5", "y.csv", "--lam", 1, fails=1)
    assert "if neighbouring columns are real and imaginary parts, ask for complex pairs (--complex-pairs)" in run.errors
    np.save("y.npy", np.ones((3, 4), np.complex64))
    run("solve", "problem.h5", "y.npy", "--complex-pairs", "--lam", 1, fails=1)
    assert "y.npy is complex as it is, so do not ask for pairs (--complex-pairs)" in run.errors
    assert "array (3, 4) complex" in run("info", "y.npy")
    for words in (("gen-problem", "-o", "new.h5"), ("solve-w", "problem.h5"), ("train", "problem.h5", "-o", "new.h5")):
        run(*words, "--complex-pairs", fails=2)
        assert "--complex-pairs" in run.errors
