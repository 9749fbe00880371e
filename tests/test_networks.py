"""The networks: their layers against the formulas, their gradients against central differences."""

from __future__ import annotations

import tracemalloc
from functools import partial

import numpy as np
import pytest
from conftest import on_fast_engines

from cuista.data.problem import normalize_columns, random_matrix
from cuista.errors import InputError
from cuista.networks import NETWORKS
from cuista.networks.alista import Alista
from cuista.networks.base import support_schedule
from cuista.networks.couplings import Analytic, FixedOnsager, Learned, Onsager, Recurrent, without_means
from cuista.networks.groups import Groups
from cuista.networks.proximal import Network
from cuista.networks.shrinkages import Adaptive, Clamped, ErrorBased, Hard, NoiseScaled, Soft
from cuista.operators import Composition, Cosine, Dense, External, Fourier, Operator, Wavelet, random_mask
from cuista.ops import CpuOps, ReferenceOps
from cuista.ops.joint import Joint
from cuista.weights import solve_exact

A = normalize_columns(random_matrix(15, 30, seed=3))
W = solve_exact(A).W
# A dictionary of patches of 12 pixels, for networks that return patches.
D = np.random.default_rng(9).standard_normal((12, 30)) / 4


def make(name, ops=None, dtype=np.float32, **options):
    """A network for A and W."""
    return NETWORKS[name](Dense(A, ops=ops, dtype=dtype), W, **options)


def signals(matrix=A, batch=7):
    rng = np.random.default_rng(6)
    x = rng.standard_normal((batch, matrix.shape[1])) * (rng.random((batch, matrix.shape[1])) < 0.2)
    return x, x @ matrix.T


def test_the_support_schedule_is_the_papers():
    assert support_schedule(500, 16, 1.2, 13) == (6, 12, 18, 24, 30, 36, 42, 48, 54, 60, *[65] * 6)
    assert support_schedule(2, 2, 50, 100) == (0, 1)  # 0.5 rounds to even, and the smallest entry is never selected


def test_it_starts_where_the_paper_starts():
    net = make("alista")
    assert net.parameters["step_size"].tolist() == [1.0] * 16
    np.testing.assert_allclose(net.parameters["threshold"], 0.4 / (1.001 * np.linalg.norm(A, 2) ** 2))


@pytest.mark.parametrize("shape", [(15, 30), (4, 40)], ids=["gram", "factored"])
def test_the_linear_maps_of_a_layer_are_adjoint(shape, rng):
    matrix = normalize_columns(random_matrix(*shape, seed=1))
    weight = solve_exact(matrix).W
    couple = Analytic(Dense(matrix, dtype=np.float64), weight)
    assert couple.formed == (shape == (15, 30))
    x, d = rng.standard_normal((2, 3, shape[1]))
    forward, backward = couple.forward(x), couple.backward(d)
    assert np.vdot(forward, d) == pytest.approx(np.vdot(x, backward), rel=1e-12)
    np.testing.assert_allclose(forward, -x @ matrix.T @ weight, atol=1e-12)


# -- all of them ------------------------------------------------------------------------------------------------------


def variants(gradients=None):
    """All variants of all networks, or only of those with gradients, or of those without."""
    return [
        pytest.param(
            (name, untied, per_coordinate), id="-".join([name, *["untied"] * untied, *["coord"] * per_coordinate])
        )
        for name, kind in NETWORKS.items()
        if gradients is None or kind.has_gradients == gradients
        for untied in (False, True)[: 1 + kind.can_untie]
        for per_coordinate in (False, True)[: 1 + kind.can_coordinate]
    ]


def any_network(variant, ops=None, dtype=np.float64, thresholds=(0.05, 0.2), **more):
    """Five layers of a variant, with parameters that differ from layer to layer."""
    name, untied, per_coordinate = variant
    rng = np.random.default_rng(5)
    options = {"percent": 6, "max_percent": 20, "untied": untied, "per_coordinate": per_coordinate, **more}
    net = make(name, ops, np.float64, layers=5, **options)
    parameters = net.fast_start()
    if name == "hyperlista":
        return net
    ranges = {"threshold": thresholds, "step_size": (0.7, 1.3), "momentum": (-0.3, 0.3)}
    if name == "alista-ebt":
        ranges["threshold"] = tuple(30 * np.array(thresholds))
    for key, value in parameters.items():
        low, high = ranges.get(key, (-0.02, 0.02))
        parameters[key] = rng.uniform(low, high, value.shape) + (0 if key in ranges else value)
    return make(name, ops, dtype, layers=5, **options, parameters=parameters)


def soft(z, theta, k, positive=False):
    """η of one sample, written as it is defined."""
    if positive:
        return np.where(z > 0, soft(np.maximum(z, 0), theta, k), 0)
    order = np.sort(np.abs(z))[::-1]
    largest = np.abs(z) > order[min(k, z.size - 1)]
    return np.where((np.abs(z) > theta) & largest, z, np.sign(z) * np.maximum(np.abs(z) - theta, 0))


def formula(net, y):
    """The iterates of one sample in column vectors, written as in the publications."""
    (N, M), p, eta = (net.N, net.M), net.parameters, partial(soft, positive=net.positive)
    x, v, iterates = np.zeros(N), np.zeros(M), []
    for t in range(net.layers):
        theta = p["threshold"][t if len(p["threshold"]) > 1 else 0]
        matrix = p["weight"][t if net.untied else 0] if "weight" in p else None
        before, r = iterates[t - 2] if t > 1 else np.zeros(N), y - A @ x
        if net.name in ("lista", "lista-ss"):
            theta = np.maximum(theta, 0) if net.name == "lista" else theta
            x = eta(p["input_weight"][0] @ y + matrix @ x, theta, net.support[t])
        elif net.name == "liht":
            z = p["input_weight"][0] @ y + matrix @ x
            x = z * ((z if net.positive else np.abs(z)) > np.maximum(theta, 0))
        elif net.name in ("lista-cp", "lista-cpss"):
            x = eta(x + matrix @ (y - A @ x), theta, net.support[t])
        elif net.name == "tilista":
            x = eta(x + p["step_size"][t] * matrix @ (y - A @ x), theta, net.support[t])
        elif net.name == "alista":
            x = eta(x + p["step_size"][t] * W.T @ (y - A @ x), theta, net.support[t])
        elif net.name == "lamp":
            v = y - A @ x + N / M * np.mean(x != 0) * v
            x = eta(x + matrix @ v, np.maximum(theta * np.linalg.norm(v) / np.sqrt(M), 0), 0)
        elif net.name == "alista-at":
            x = eta(x + p["step_size"][t] * W.T @ r, theta / (np.abs(x) / 0.1 + 1), net.support[t])
        elif net.name == "alista-ebt":
            x = eta(x + p["step_size"][t] * W.T @ r, theta * np.linalg.norm(W.T @ r) / 50, net.support[t])
        elif net.name == "alista-momentum":
            z = x + p["step_size"][t] * W.T @ r + p["momentum"][t] * (x - before)
            x = eta(z, theta, net.support[t])
        elif net.name == "hyperlista":
            inverse = np.linalg.pinv(A)
            error = np.abs(inverse @ r).sum()
            share = np.clip(p["support"][0] * np.log(np.abs(inverse @ y).sum() / error), 0, 1)
            z = x + W.T @ r + p["momentum"][0] * np.count_nonzero(x) * (x - before)
            x = eta(z, p["threshold"][0] * error, int(np.rint((N - 1) * share)))
        else:
            raise AssertionError(f"no formula for {net.name}")
        iterates.append(x)
    return iterates


@pytest.mark.parametrize("variant", variants())
@pytest.mark.parametrize("thresholds", [(0.05, 0.2), (-0.1, -0.02)], ids=["positive", "negative"])
@pytest.mark.parametrize("positive", [False, True], ids=["both-signs", "one-sided"])
def test_iterates_follow_the_formula(variant, thresholds, positive):
    net = any_network(variant, thresholds=thresholds, positive=positive)
    _, y = signals()
    expected = [formula(net, sample) for sample in y]
    for t, iterate in enumerate(net.iterates(y)):
        np.testing.assert_allclose(iterate, [iterates[t] for iterates in expected], atol=1e-11)
        assert iterate.any()
        assert (iterate.min() >= 0) == positive


def assert_gradients_match(net, x, y, depth):
    """Compare a network's gradients with central differences along random directions in each parameter's space."""
    sample_weights = np.linspace(0.5, 1.5, len(x))
    _, gradients = net.loss_and_gradients(y, x, depth, weights=sample_weights)
    rng = np.random.default_rng(7)
    for name, gradient in gradients.items():
        if len(gradient) > 1:
            assert not gradient[depth:].any()
        for _ in range(3):
            direction = rng.standard_normal(gradient.shape)
            direction /= np.linalg.norm(direction)
            numeric, h = 0.0, 1e-6
            for sign in (1, -1):
                net.parameters[name] += sign * h * direction
                numeric += sign * net.loss_and_gradients(y, x, depth, weights=sample_weights)[0] / (2 * h)
                net.parameters[name] -= sign * h * direction
            tolerance = 1e-6 * (1e-3 + np.linalg.norm(gradient))
            assert np.vdot(gradient, direction) == pytest.approx(numeric, rel=0, abs=tolerance)


@pytest.mark.parametrize("ops", [ReferenceOps(), CpuOps()], ids=["reference", "cpu"])
@pytest.mark.parametrize("variant", variants(gradients=True))
@pytest.mark.parametrize("thresholds", [(0.05, 0.2), (-0.1, -0.02)], ids=["positive", "negative"])
@pytest.mark.parametrize("depth", [1, 3, 5])
def test_gradients_match_central_differences(ops, variant, thresholds, depth):
    assert_gradients_match(any_network(variant, ops, thresholds=thresholds), *signals(), depth)


@pytest.mark.parametrize("variant", variants(gradients=True))
@pytest.mark.parametrize("thresholds", [(0.05, 0.2), (-0.1, -0.02)], ids=["positive", "negative"])
def test_gradients_of_one_sided_networks_match_central_differences(variant, thresholds):
    x, _ = signals()
    x = np.abs(x)
    assert_gradients_match(any_network(variant, thresholds=thresholds, positive=True), x, x @ A.T, 5)


# -- units ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", variants())
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_network_with_a_unit_recovers_in_the_units_of_its_measurements(variant, dtype):
    _, y = signals()
    plain, net = any_network(variant, dtype=dtype), any_network(variant, dtype=dtype)
    net.unit = 2.0
    y = np.vstack([2 * y / np.linalg.norm(y, axis=1, keepdims=True), np.zeros_like(y[:1])]).astype(dtype)
    expected = np.stack(list(plain.iterates(y)))
    tight = {"rtol": 2e-4 if dtype == np.float32 else 1e-9}
    for factor in (1.0, -3.0, 2.0**90, 1e-30, 1e30):
        found = np.stack(list(net.iterates((factor * y).astype(dtype)))) / dtype(factor)
        if factor > 0:
            np.testing.assert_allclose(found, expected, **tight, atol=tight["rtol"] * np.abs(expected).max())
        np.testing.assert_allclose(net.output((factor * y).astype(dtype)) / dtype(factor), found[-1], **tight)
    assert not net.output(np.zeros_like(y)).any()


@pytest.mark.parametrize("variant", variants(gradients=True))
@pytest.mark.parametrize("depth", [1, 5])
def test_gradients_of_a_network_with_a_unit_match_central_differences(variant, depth):
    net = any_network(variant)
    net.unit = 0.7
    x, y = signals()
    assert_gradients_match(net, x, y * np.linspace(0.2, 5, len(y))[:, None], depth)
    # The loss is that of what the network returns, in the user's units.
    *_, last = net.iterates(y)
    assert net.loss_and_gradients(y, x, 5)[0] == pytest.approx(0.5 * np.square(last - x).sum(), rel=1e-10)


# -- with a dictionary ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", variants(gradients=True))
@pytest.mark.parametrize("depth", [3, 5])
def test_gradients_with_a_dictionary_match_central_differences(variant, depth):
    net = any_network(variant, dictionary=D, penalty=0.2)
    x, y = signals()
    assert_gradients_match(net, x @ D.T, y, depth)


@pytest.mark.parametrize("variant", variants())
def test_a_network_with_a_dictionary_returns_patches(variant):
    net, plain = any_network(variant, dictionary=D), any_network(variant)
    _, y = signals()
    learned = net.parameters["dictionary"][0] if net.matrices else D
    if net.matrices:
        assert net.last == ("dictionary",)
        assert not np.array_equal(learned, D)
    *_, x_4, x_5 = net.iterates(y)
    np.testing.assert_allclose(net.output(y), x_5 @ learned.T, atol=1e-12)
    np.testing.assert_allclose(net.output(y, 4), x_4 @ D.T, atol=1e-12)
    if not net.matrices:
        np.testing.assert_array_equal(x_5, plain.output(y))


def test_the_loss_of_patches_has_a_penalty():
    net, (x, y) = any_network(("lista-cpss", True, False), dictionary=D, penalty=0.2), signals()
    *_, last = net.iterates(y)
    loss, gradients = net.loss_and_gradients(y, x @ D.T, 5)
    expected = 0.5 * np.square(net.output(y) - x @ D.T).sum() + 0.2 * np.abs(last).sum()
    assert loss == pytest.approx(expected, rel=1e-12)
    assert gradients["dictionary"].shape == (1, *D.shape)
    assert not net.loss_and_gradients(y, x @ D.T, 4)[1]["dictionary"].any()


PHI = np.random.default_rng(10).standard_normal((8, 12)) / 3


def learning_sensing(variant, ops=None):
    """Five layers of a variant that learns Φ, with parameters that differ from layer to layer."""
    name, untied, per_coordinate = variant
    rng, matrix = np.random.default_rng(5), without_means(PHI) @ D
    options = {"percent": 6, "max_percent": 20, "untied": untied, "per_coordinate": per_coordinate, "layers": 5}
    options |= {"dictionary": D, "penalty": 0.2, "sensing": PHI}
    net = NETWORKS[name](Dense(matrix, ops=ops, dtype=np.float64), 0.2 * solve_exact(matrix).W, **options)
    for key, value in net.fast_start().items():
        low, high = {"threshold": (0.02, 0.1), "step_size": (0.7, 1.3)}.get(key, (-0.02, 0.02))
        net.parameters[key] = rng.uniform(low, high, value.shape) + (0 if key in ("threshold", "step_size") else value)
    return net


LEARNING_SENSING = pytest.mark.parametrize(
    "variant", [param for param in variants() if NETWORKS[param.values[0][0]].can_learn_sensing()]
)


@LEARNING_SENSING
@pytest.mark.parametrize("depth", [1, 3, 5])
def test_gradients_with_a_learned_sensing_matrix_match_central_differences(variant, depth):
    net, f = learning_sensing(variant), np.random.default_rng(6).standard_normal((7, 12))
    assert_gradients_match(net, f, f, depth)
    assert net.loss_and_gradients(f, f, depth)[1]["sensing"].any()


@LEARNING_SENSING
def test_a_network_that_learns_the_sensing_matrix_measures_by_it(variant):
    name, untied, per_coordinate = variant
    net, f = learning_sensing(variant), np.random.default_rng(6).standard_normal((7, 12))
    Phi = without_means(net.parameters["sensing"][0])
    plain = NETWORKS[name](
        Dense(Phi @ D, dtype=np.float64), net.W, layers=5, percent=6, max_percent=20, untied=untied,
        per_coordinate=per_coordinate, dictionary=D,
    )  # fmt: skip
    plain.parameters = {key: value for key, value in net.parameters.items() if key != "sensing"}
    np.testing.assert_allclose(net.output(f), plain.output(f @ Phi.T), atol=1e-12)
    np.testing.assert_allclose(net.output(f + 3), net.output(f), atol=1e-12)  # the mean is not seen


def test_only_networks_with_learned_steps_learn_the_sensing_matrix():
    matrix = PHI @ D
    for name in ("alista", "lista", "lamp"):
        assert not NETWORKS[name].can_learn_sensing()
        with pytest.raises(InputError, match="cannot learn Φ"):
            NETWORKS[name](Dense(matrix), solve_exact(matrix).W, dictionary=D, sensing=PHI)


COMBINATIONS = [
    (coupling, shrinkage, momentum, steps)
    for coupling in (Analytic, Learned, Onsager, FixedOnsager, Recurrent)
    for shrinkage in (Soft, Clamped, Hard, Adaptive, ErrorBased, NoiseScaled)
    for momentum in (False, True)
    for steps in (False, True)
    if shrinkage is not NoiseScaled or coupling in (Learned, Onsager, FixedOnsager)  # it needs a residual
]


@pytest.mark.parametrize(
    "combination", COMBINATIONS, ids=lambda c: f"{c[0].__name__}-{c[1].__name__}{'-momentum' * c[2]}{'-steps' * c[3]}"
)
def test_any_coupling_goes_with_any_shrinkage(combination):
    class Combined(Network):
        name = title = "combined"
        coupling, shrinkage, momentum, step_sizes = combination

    rng = np.random.default_rng(5)
    net = Combined(Dense(A, dtype=np.float64), W, layers=4, percent=6, max_percent=20)
    ranges = {"threshold": (0.05, 0.2), "step_size": (0.7, 1.3), "momentum": (-0.3, 0.3)}
    if combination[1] is ErrorBased:
        ranges["threshold"] = (1.5, 6)
    for key, value in net.fast_start().items():
        low, high = ranges.get(key, (-0.02, 0.02))
        net.parameters[key] = rng.uniform(low, high, value.shape) + (0 if key in ranges else value)
    assert set(net.shapes) >= {"threshold", *["momentum"] * combination[2], *["step_size"] * combination[3]}
    assert_gradients_match(net, *signals(), 4)


def precursor_of(name, untied, dictionary=None, positive=False):
    """A network of four layers, and its precursor, if it has one, with parameters that differ from layer to layer."""
    form = {"layers": 4, "percent": 6, "max_percent": 20, "dictionary": dictionary, "positive": positive}
    net = make(name, dtype=np.float64, untied=untied, **form)
    precursor, rng = net.precursor(), np.random.default_rng(8)
    if precursor is not None:
        ranges = {"step_size": (0.7, 1.3), "threshold": (0.05, 0.2)}
        precursor.parameters = {key: rng.uniform(*ranges[key], shape) for key, shape in precursor.shapes.items()}
    return net, precursor


PRECURSORS = pytest.mark.parametrize(
    ("name", "untied"),
    [
        (name, untied)
        for name, kind in NETWORKS.items()
        for untied in (False, True)[: 1 + kind.can_untie]
        if precursor_of(name, untied)[1]
    ],
)


@PRECURSORS
def test_gradients_of_precursors_match_central_differences(name, untied):
    assert_gradients_match(precursor_of(name, untied)[1], *signals(), 4)


@on_fast_engines
@pytest.mark.parametrize("variant", variants(gradients=True))
def test_engines_and_precisions_agree_on_loss_and_gradients(fast, variant):
    x, y = signals()
    expected_loss, expected = any_network(variant, ReferenceOps()).loss_and_gradients(y, x, 5, window=0.3)
    for dtype, tolerance in ((np.float64, 1e-12), (np.float32, 2e-4)):
        net = any_network(variant, fast, dtype)
        loss, gradients = net.loss_and_gradients(y.astype(dtype), x.astype(dtype), 5, window=0.3)
        assert loss == pytest.approx(expected_loss, rel=tolerance)
        for name in expected:
            scale = np.abs(expected[name]).max()
            np.testing.assert_allclose(gradients[name], expected[name], rtol=0, atol=tolerance * scale)


@on_fast_engines
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("variant", variants())
def test_engines_agree_on_iterates_and_the_output_is_the_last(fast, variant, positive):
    _, y = signals(batch=40)
    expected = any_network(variant, ReferenceOps(), positive=positive)
    net = any_network(variant, fast, positive=positive)
    iterates = list(net.iterates(y))
    for x, expected_x in zip(iterates, expected.iterates(y), strict=True):
        np.testing.assert_allclose(x, expected_x, atol=1e-10)
    np.testing.assert_array_equal(net.output(y), iterates[-1])
    np.testing.assert_array_equal(net.output(y, 2), iterates[1])


@PRECURSORS
@pytest.mark.parametrize("dictionary", [None, D], ids=["codes", "patches"])
@pytest.mark.parametrize("positive", [False, True])
def test_a_network_does_what_the_precursor_does_that_it_adopts(name, untied, dictionary, positive):
    net, precursor = precursor_of(name, untied, dictionary, positive)
    net.adopt(precursor)
    _, y = signals()
    np.testing.assert_allclose(net.output(y), precursor.output(y), atol=1e-12)
    assert precursor.positive == positive


@pytest.mark.parametrize("variant", variants())
def test_parameters_have_the_shapes_that_are_said(variant):
    name, untied, per_coordinate = variant
    for layers in (1, 3):
        net = make(name, layers=layers, untied=untied, per_coordinate=per_coordinate)
        for start in (net.published_start(), net.fast_start(), net.parameters):
            assert {key: value.shape for key, value in start.items()} == net.shapes
        dtypes = {key: np.float32 if key in net.matrices else np.float64 for key in net.shapes}
        assert {key: value.dtype for key, value in net.parameters.items()} == dtypes


def test_a_variant_that_does_not_exist_is_refused():
    for name, option in (("alista", "untied"), ("tilista", "untied"), ("alista-ebt", "per_coordinate")):
        with pytest.raises(InputError, match="leave"):
            make(name, **{option: True})


def test_a_schedule_out_of_range_is_refused():
    for options in ({"layers": 0}, {"percent": -1}, {"max_percent": 101}, {"percent": float("nan")}):
        with pytest.raises(InputError, match="expected"):
            make("alista", **options)
    for percents in ((-1, 13), (1.2, 101), (float("nan"), 13)):
        with pytest.raises(InputError, match="expected"):
            make("alista").reschedule(*percents)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_a_network_rescheduled_is_one_made_with_that_schedule(name):
    net, made = make(name, layers=4), make(name, layers=4, percent=7, max_percent=15)
    net.reschedule(7, 15)
    assert (net.percent, net.max_percent, net.support) == (made.percent, made.max_percent, made.support)
    assert any(net.support) == net.selects


@pytest.mark.parametrize("variant", variants(gradients=True))
def test_a_gradient_of_no_parameter_is_an_error(variant):
    net, (x, y) = any_network(variant), signals()
    with pytest.raises(ValueError, match="no parameter 'weigth'"):
        net.loss_and_gradients(y, x, 5, wanted=["threshold", "weigth"])
    layer, wrong = net.layer, "thresold"

    def misspelt(t, state, window=0.0):
        state, backprop = layer(t, state, window)

        def renamed(d_state):
            d_before, gradients = backprop(d_state)
            return d_before, {wrong if name == "threshold" else name: value for name, value in gradients.items()}

        return state, renamed

    net.layer = misspelt
    with pytest.raises(ValueError, match="no parameter 'thresold'"):
        net.loss_and_gradients(y, x, 5, wanted=["threshold"])


@pytest.mark.parametrize("variant", variants(gradients=True))
def test_wanted_gradients_are_those_of_all(variant):
    net, (x, y) = any_network(variant), signals()
    _, every = net.loss_and_gradients(y, x, 4)
    for name, value in every.items():
        _, one = net.loss_and_gradients(y, x, 4, wanted=[name])
        assert list(one) == [name]
        np.testing.assert_array_equal(one[name], value)


def test_gradients_that_stay_sums_are_never_formed(rng):
    matrix = normalize_columns(rng.standard_normal((60, 120)))
    operator = Dense(matrix, ops=ReferenceOps(), dtype=np.float64)
    net, (x, y) = NETWORKS["lista-cpss"](operator, matrix, untied=True), signals(matrix, batch=1)

    def peak(formed):
        tracemalloc.start()
        net.loss_and_gradients(y, x, 16, formed=formed)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(formed=True) > net.parameters["weight"].nbytes > 2 * peak(formed=False)


# -- without a matrix -------------------------------------------------------------------------------------------------


def plane(dtype=np.float64, ops=None):
    """A sampled Fourier transform of wavelets, for complex signals if the dtype is complex."""
    place = {"dtype": dtype, "ops": ops}
    return Composition(Fourier((8, 8), random_mask((8, 8), 0.4, seed=2), **place), Wavelet((8, 8), "db2", 2, **place))


def line(dtype=np.float64, ops=None):
    place = {"dtype": dtype, "ops": ops}
    return Composition(Cosine(32, random_mask((32,), 0.5, seed=2), **place), Wavelet(32, "haar", 2, **place))


class Solved(Operator):
    """An operator of which nothing is known but how it is applied, so that everything is solved for."""

    shape = None

    def __init__(self, operator):
        super().__init__(operator.ops, operator.dtype)
        self.operator, self.shape = operator, operator.shape

    def apply(self, x):
        return self.operator.apply(x)

    def adjoint(self, y):
        return self.operator.adjoint(y)


OPERATORS = {
    "complex fourier": lambda precision=np.float64: plane(np.result_type(precision, np.complex64)),
    "real fourier": plane,
    "cosine": line,
    "dense": lambda precision=np.float64: Dense(A, dtype=precision),
    "complex dense": lambda precision=np.float64: Dense(A + 1j * A[:, ::-1], dtype=precision),
    "solved": lambda precision=np.float64: Solved(line(precision)),
}
MATRIX_FREE = ("alista", "alista-at", "alista-momentum", "alista-ebt", "hyperlista")


def measured(operator, batch=7):
    """Sparse signals (batch, N) and their measurements (batch, M)."""
    rng = np.random.default_rng(6)
    x = rng.standard_normal((batch, operator.N)) * (rng.random((batch, operator.N)) < 0.2)
    x = (x * np.exp(1j * rng.uniform(0, 6, x.shape)) if operator.dtype.kind == "c" else x).astype(operator.dtype)
    return x, operator.apply(x.reshape(-1, *operator.shape[1])).reshape(batch, -1)


def matrix_free(name, operator, **options):
    """Five layers without a matrix, with parameters that differ from layer to layer."""
    net = NETWORKS[name](operator, layers=5, **{"percent": 6, "max_percent": 20, **options})
    rng, ranges = np.random.default_rng(5), {"step_size": (0.7, 1.3), "momentum": (-0.3, 0.3)}
    ranges["threshold"] = (1.5, 6) if name == "alista-ebt" else (0.05, 0.2)
    if name != "hyperlista":
        net.parameters = {key: rng.uniform(*ranges[key], shape) for key, shape in net.shapes.items()}
    return net


def as_dense(operator, ridge=0.0):
    """The matrix of an operator in double precision, and its analytic weight."""
    units = np.eye(operator.N, dtype=operator.dtype).reshape(-1, *operator.shape[1])
    matrix = operator.apply(units).reshape(operator.N, -1).T
    if operator.measured_dtype != operator.dtype:  # the real and the imaginary parts, of which some are redundant
        matrix = np.vstack([matrix.real, matrix.imag])
    solved = np.linalg.pinv(matrix @ matrix.conj().T + ridge * np.eye(len(matrix)), rcond=1e-9) @ matrix
    return matrix, solved / (matrix.conj() * solved).sum(axis=0).real


@pytest.mark.parametrize("name", MATRIX_FREE)
@pytest.mark.parametrize("which", list(OPERATORS))
@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_a_network_without_a_matrix_is_the_one_with_a_matrix(name, which, ridge):
    matrix, W = as_dense(OPERATORS[which](), ridge)
    for precision, tolerance in ((np.float64, 1e-9 if which == "solved" else 1e-10), (np.float32, 1e-5)):
        operator = OPERATORS[which](precision)
        free = matrix_free(name, operator, ridge=ridge)
        dense = NETWORKS[name](Dense(matrix, dtype=precision), W, layers=5, percent=6, max_percent=20)
        dense.parameters = free.parameters
        x, y = measured(operator)
        rows = y if operator.measured_dtype == operator.dtype else np.hstack([y.real, y.imag])
        for found, expected in zip(free.iterates(y), dense.iterates(rows), strict=True):
            assert found.dtype == operator.dtype
            np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * max(np.abs(expected).max(), 1))
        np.testing.assert_array_equal(free.output(y), found)
        if not free.has_gradients:
            continue
        loss, gradients = free.loss_and_gradients(y, x, 5)
        expected_loss, expected = dense.loss_and_gradients(rows, x, 5)
        assert loss == pytest.approx(expected_loss, rel=10 * tolerance)
        for key, gradient in expected.items():
            np.testing.assert_allclose(gradients[key], gradient, rtol=0, atol=30 * tolerance * np.abs(gradient).max())


@pytest.mark.parametrize("name", [name for name in MATRIX_FREE if NETWORKS[name].has_gradients])
@pytest.mark.parametrize("which", ["complex fourier", "real fourier", "cosine"])
@pytest.mark.parametrize("grouped", [False, True], ids=["one", "groups"])
@pytest.mark.parametrize("unit", [0.0, 0.7])
def test_gradients_without_a_matrix_match_central_differences(name, which, grouped, unit):
    operator = OPERATORS[which]()
    net = matrix_free(name, operator, ridge=0.1, groups=operator.groups if grouped else None)
    net.unit = unit
    x, y = measured(operator)
    assert_gradients_match(net, x, y, 5)


def test_gradients_of_joint_entries_without_a_matrix_match_central_differences():
    operator = OPERATORS["complex fourier"]()
    net = matrix_free("alista", operator, joint=Joint(2, 4), groups=np.arange(64) // 4 % 3)
    x, y = measured(operator, 8)
    assert_gradients_match(net, x.reshape(4, 2, -1), y.reshape(4, 2, -1), 5)


@pytest.mark.parametrize("name", ["alista", "alista-momentum"])
def test_a_network_without_a_matrix_is_the_same_on_the_cuda_engine(name, cuda):
    nets = []
    for ops in (None, cuda):
        place = {"ops": ops, "dtype": np.float64}
        mask = random_mask((8, 8), 0.4, seed=2)
        operator = Composition(Fourier((8, 8), mask, **place), Wavelet((8, 8), "haar", 2, **place))
        nets.append(matrix_free(name, operator, groups=operator.groups))
    x, y = measured(nets[0].operator)
    expected_loss, expected = nets[0].loss_and_gradients(y, x, 5)
    with cuda.computing():
        on_device = cuda.asarray(y, np.complex128), cuda.asarray(x, np.float64)
        np.testing.assert_allclose(cuda.to_numpy(nets[1].output(y)), nets[0].output(y), atol=1e-12)
        loss, gradients = nets[1].loss_and_gradients(*on_device, 5)
        assert float(loss) == pytest.approx(expected_loss, rel=1e-10)
        for key, gradient in expected.items():
            np.testing.assert_allclose(cuda.to_numpy(gradients[key]), gradient, atol=1e-10)


def test_a_network_that_needs_a_matrix_says_so():
    for name in set(NETWORKS) - set(MATRIX_FREE):
        with pytest.raises(InputError, match="name another network"):
            NETWORKS[name](line())
    with pytest.raises(InputError, match="a weight belongs to a measurement matrix"):
        Alista(line(), np.ones((16, 32)))


def test_any_linear_operator_has_networks():
    from scipy.sparse.linalg import aslinearoperator

    net = Alista(External(aslinearoperator(A), dtype=np.float64), layers=3)
    expected = Alista(Dense(A, dtype=np.float64), W, layers=3)
    expected.parameters = net.parameters
    _, y = signals()
    np.testing.assert_allclose(net.output(y), expected.output(y), atol=1e-8)


@pytest.mark.parametrize("name", MATRIX_FREE)
def test_a_few_samples_at_a_time_are_as_good_as_all(name, monkeypatch):
    operator = OPERATORS["complex fourier"]()
    net = matrix_free(name, operator)
    net.unit = 1.3
    (x, y), weights = measured(operator, 11), np.linspace(0.5, 2, 11)
    found = net.output(y)
    whole = net.loss_and_gradients(y, x, 5, weights=weights) if net.has_gradients else (0, {})
    monkeypatch.setattr("cuista.networks.proximal.AT_A_TIME", 64 * 4)
    assert net.at_a_time == 4
    np.testing.assert_allclose(net.output(y), found, atol=1e-12)
    if net.has_gradients:
        loss, gradients = net.loss_and_gradients(y, x, 5, weights=weights)
        assert loss == pytest.approx(whole[0], rel=1e-12)
        for key, gradient in whole[1].items():
            np.testing.assert_allclose(gradients[key], gradient, rtol=1e-9, atol=1e-12)


def test_a_million_coordinates_take_memory_in_proportion():
    N = 2**20
    operator = Composition(Cosine(N, random_mask((N,), 0.3)), Wavelet(N, "haar", 6))
    operator._gains[0.0] = np.full(N, np.float32(0.3))  # it would take a minute to estimate them
    net = Alista(operator, layers=2, groups=operator.groups)
    x, y = measured(operator, 1)
    tracemalloc.start()
    net.loss_and_gradients(y, x, 2)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 30 * N * 4


# -- groups -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in MATRIX_FREE if NETWORKS[name].can_group])
@pytest.mark.parametrize("weight", [None, W], ids=["without a matrix", "with a matrix"])
def test_each_group_has_a_step_size_and_a_threshold(name, weight):
    operator, groups = Dense(A, dtype=np.float64), np.arange(30) % 3
    form = {"layers": 5, "percent": 6, "max_percent": 20}
    net, plain = NETWORKS[name](operator, weight, groups=groups, **form), NETWORKS[name](operator, weight, **form)
    assert {key: value.shape for key, value in net.fast_start().items()} == net.shapes
    assert net.shapes["threshold"] == net.shapes["step_size"] == (5, 3)
    # With the same numbers for all groups, it is the network without groups.
    x, y = signals()
    for key, value in matrix_free(name, operator).parameters.items():
        plain.parameters[key] = value
        net.parameters[key] = np.repeat(value[:, None], 3, axis=1) if net.shapes[key] == (5, 3) else value
    np.testing.assert_allclose(list(net.iterates(y)), list(plain.iterates(y)), atol=1e-12)
    _, whole = plain.loss_and_gradients(y, x, 5)
    _, parts = net.loss_and_gradients(y, x, 5)
    for key in ("threshold", "step_size"):
        np.testing.assert_allclose(parts[key].sum(axis=1), whole[key], rtol=1e-9, atol=1e-12)
    # A group's step size is that of its coordinates.
    net.parameters["step_size"][0, 1] = 0
    first = next(net.iterates(y))
    assert not first[:, groups == 1].any()
    assert first[:, groups == 2].any()


def test_sums_of_groups_are_the_same_on_the_cuda_engine(cuda, rng):
    numbers, values = rng.integers(0, 5, 300), rng.standard_normal(300)
    expected = [values[numbers == group].sum() for group in range(5)]
    for ops in (CpuOps(), cuda):
        groups = Groups(numbers, ops)
        np.testing.assert_allclose(ops.to_numpy(groups.sum(ops.asarray(values, np.float64))), expected)
        spread = groups.spread(ops.asarray(np.arange(5.0), np.float64))
        np.testing.assert_array_equal(ops.to_numpy(spread), numbers)


def test_groups_that_are_not_such_are_refused():
    operator, zeros = Dense(A), np.zeros(30, int)
    for groups in (np.arange(29), np.zeros(30), zeros + 1, zeros - 1, zeros[:, None]):
        with pytest.raises(InputError, match="groups"):
            Alista(operator, W, groups=groups)
    for name in ("hyperlista", "tilista"):
        with pytest.raises(InputError, match="no threshold for each group"):
            make(name, groups=zeros)
    with pytest.raises(InputError, match="leave out one"):
        make("alista", groups=zeros, per_coordinate=True)
    with pytest.raises(InputError, match="thresholded together"):
        make("alista", groups=np.arange(30) % 2, joint=Joint(1, 2))
