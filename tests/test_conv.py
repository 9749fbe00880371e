"""Convolutional dictionaries, their weights and networks."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from conftest import FAST
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import correlate2d

from cuista.data.dictionary import Dictionary, normalize_filters, random_dictionary, rotate
from cuista.errors import InputError, NumericalError
from cuista.networks import CONV_NETWORKS
from cuista.networks.conv_alista import OneStepConvAlista
from cuista.operators import Convolution
from cuista.operators.blocks import BlockProjection
from cuista.ops import CpuOps, ReferenceOps, borders
from cuista.solvers.conv import ConvFista
from cuista.tasks.denoising import Denoiser, grid_places
from cuista.weights import ConvWeight, solve_conv, solve_conv_pgd
from cuista.weights.conv import gram

SMALL = Dictionary(random_dictionary((3, 2), 5))
WEIGHT = solve_conv(SMALL)


# -- weights --------------------------------------------------------------------------------------------------------


def test_the_closed_form_does_not_depend_on_the_period_from_2s_minus_1_on():
    dictionary = Dictionary(random_dictionary((7, 7), 64))
    exact = solve_conv(dictionary).W

    def distance(n):
        return np.linalg.norm(solve_conv(dictionary, period=(n, n)).W - exact) / np.linalg.norm(exact)

    assert max(distance(n) for n in (13, 15, 20)) < 1e-12
    assert min(distance(n) for n in (10, 11, 12)) > 1e-3


@pytest.mark.parametrize("shape", [(7, 7), (3, 5), (1, 4), (1, 1)])
@pytest.mark.parametrize("filters", [1, 6])
def test_the_closed_form_turns_with_its_filters_and_meets_its_constraint(shape, filters):
    D = 2 * random_dictionary(shape, filters)
    weight = solve_conv(Dictionary(D))
    np.testing.assert_allclose(solve_conv(Dictionary(rotate(D))).W, rotate(weight.W), atol=1e-12)
    assert weight.report.constraint_residual < 1e-12


def test_no_feasible_weight_has_a_smaller_objective(rng):
    def objective(W):
        pairs = ((W[..., m], SMALL.D[..., k]) for m in range(5) for k in range(5))
        return sum(np.square(correlate2d(w, d)).sum() for w, d in pairs)

    assert objective(WEIGHT.W) == pytest.approx(WEIGHT.report.objective)
    for _ in range(10):
        step = rng.standard_normal(WEIGHT.W.shape)
        step -= np.einsum("ijm,ijm->m", step, SMALL.D) * SMALL.D  # stays feasible, as the filters have unit norm
        assert objective(WEIGHT.W + 1e-3 * step) > WEIGHT.report.objective


@pytest.mark.parametrize(("shape", "stride"), [((5, 3), 2), ((4, 4), 4), ((5, 5), 3)])
def test_the_weight_of_a_stride_is_the_minimum_over_the_shifts_of_its_grid(shape, stride, rng):
    dictionary = Dictionary(random_dictionary(shape, 18))
    weight, D = solve_conv(dictionary, stride=stride), dictionary.D
    centre = np.array(shape) - 1

    def objective(W):
        values = (correlate2d(W[..., m], D[..., k], mode="full") for m in range(18) for k in range(18))
        return sum(np.square(v[centre[0] % stride :: stride, centre[1] % stride :: stride]).sum() for v in values)

    assert objective(weight.W) == pytest.approx(weight.report.objective)
    assert weight.report.constraint_residual < 1e-12
    for _ in range(10):
        step = rng.standard_normal(D.shape)
        step -= np.einsum("ijm,ijm->m", step, D) * D  # stays feasible, as the filters have unit norm
        assert objective(weight.W + 1e-3 * step) > weight.report.objective
    np.testing.assert_allclose(gram(D, 1), gram(D, 1, (9, 9)), atol=1e-12)
    with pytest.raises(InputError, match="expected a number from 1 to the size"):
        solve_conv(dictionary, stride=max(shape) + 1)


def test_projected_gradient_approaches_the_closed_form_from_above():
    seen = []
    weight = solve_conv_pgd(SMALL, progress=lambda step, steps, objective: seen.append(objective))
    assert len(seen) == 500
    assert seen[0] > seen[-1] > WEIGHT.report.objective
    assert solve_conv_pgd(SMALL, steps=20_000).report.objective == pytest.approx(WEIGHT.report.objective, rel=1e-9)
    assert "500 steps" in weight.report.note


def test_projected_gradient_says_when_it_cannot(rng):
    with pytest.raises(InputError, match="norms"):
        solve_conv_pgd(Dictionary(2 * SMALL.D))
    alike = np.ones((3, 3, 600)) * np.where(np.arange(600) % 2, 1, np.indices((3, 3)).sum(axis=0)[..., None] % 2 - 0.5)
    with pytest.raises(NumericalError, match="Solve exactly"):
        solve_conv_pgd(Dictionary(normalize_filters(alike + 0.1 * rng.standard_normal(alike.shape))))


@pytest.mark.parametrize("scale", [1e160, 1e300, 1e-170, 1e-300])
def test_filters_of_any_size_have_their_weight_or_are_refused(scale):
    huge = Dictionary(scale * SMALL.D)
    weight = solve_conv(huge)
    np.testing.assert_allclose(weight.W * scale, WEIGHT.W, rtol=1e-9)
    assert weight.report.objective == pytest.approx(WEIGHT.report.objective)
    assert weight.report.constraint_residual < 1e-12
    np.testing.assert_allclose(normalize_filters(huge.D), SMALL.D)
    with pytest.raises(InputError, match="Normalise the filters"):
        solve_conv_pgd(huge)
    if scale < 1:  # the ridge dominates, and the weight d/‖d‖² is out of reach from there
        with pytest.raises(NumericalError, match="give another ridge"):
            solve_conv(huge, ridge=1.0)
    else:
        np.testing.assert_array_equal(solve_conv(huge, ridge=1.0).W, weight.W)
    with pytest.raises(InputError, match="does not belong to this dictionary"):
        ConvWeight.from_array(weight.W * 1e200 if scale > 1 else weight.W / 1e200, SMALL)


def test_a_ridge_takes_the_weight_to_the_filters_themselves():
    np.testing.assert_allclose(solve_conv(SMALL, ridge=1e9).W, SMALL.D, atol=1e-6)
    with pytest.raises(InputError, match="ridge is -1"):
        solve_conv(SMALL, ridge=-1)


@pytest.mark.parametrize("damage", ["shape", "nan", "zero", "empty"])
def test_what_are_no_filters_is_refused(damage):
    D = SMALL.D.copy()
    D = {"shape": D[0, 0], "nan": D * np.nan, "zero": D * (np.arange(5) != 2), "empty": D[:, :, :0]}[damage]
    said = {"shape": "filters in the last axis", "nan": "NaN", "zero": "filter 2", "empty": "expected"}
    with pytest.raises(InputError, match=said[damage]):
        Dictionary(D)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_weight_file_has_its_dictionary_and_knows_another(stride, tmp_path):
    weight = solve_conv(SMALL, stride=stride)
    weight.save(tmp_path / "w.h5")
    loaded = ConvWeight.load(tmp_path / "w.h5")
    assert (loaded.W == weight.W).all()
    assert (loaded.report, loaded.stride) == (weight.report, stride)
    assert f"stride {stride}" in repr(loaded) or stride == 1
    assert Dictionary.load(tmp_path / "w.h5").sha256 == SMALL.sha256
    with pytest.raises(InputError, match="another dictionary"):
        ConvWeight.load(tmp_path / "w.h5", Dictionary(rotate(SMALL.D)))
    np.save(tmp_path / "w.npy", rotate(WEIGHT.W))  # for convolution, as the original's weights are
    assert ConvWeight.load(tmp_path / "w.npy", SMALL).report.method == "imported"
    with pytest.raises(InputError, match="It does if it is rotated: give the other convention"):
        ConvWeight.load(tmp_path / "w.npy", SMALL, convention="correlation")
    np.save(tmp_path / "w.npy", 2 * WEIGHT.W)
    with pytest.raises(InputError, match="does not belong to this dictionary"):
        ConvWeight.load(tmp_path / "w.npy", SMALL)


# -- primitives -----------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(*(st.integers(1, 4),) * 3, st.integers(4, 12), st.integers(4, 12), st.integers(0, 2**31))
def test_every_linear_map_has_its_adjoint(s1, s2, stride, height, width, seed):
    rng = np.random.default_rng(seed)
    shape = (s1, s2)
    image = rng.standard_normal((height, width))
    padded = borders.pad_reflected(np, image, shape)
    np.testing.assert_array_equal(padded, np.pad(image, ((s1 - 1,) * 2, (s2 - 1,) * 2), mode="reflect"))
    g = rng.standard_normal(padded.shape)
    assert np.vdot(borders.fold_reflected(g.copy(), shape), image) == pytest.approx(np.vdot(g, padded))
    assert np.vdot(borders.unpad(g, shape), image) == pytest.approx(np.vdot(g, borders.pad_zeros(np, image, shape)))

    copies = borders.taps(np, padded, shape, stride=stride)
    c, spread = rng.standard_normal(copies.shape), np.zeros_like(padded)
    size = borders.map_shape((height, width), shape, stride)
    borders.spread(c.reshape(len(c), *size), spread, shape, stride=stride)
    assert np.vdot(spread, padded) == pytest.approx(np.vdot(c, copies))

    ops, D = ReferenceOps(), rng.standard_normal((s1, s2, 3))
    x, everywhere = rng.standard_normal((3, *size)), np.zeros((3, height + s1 - 1, width + s2 - 1))
    everywhere[:, ::stride, ::stride] = x
    picture = ops.synthesize(x, D, stride, (height, width))
    expected = sum(correlate2d(everywhere[m], D[..., m], mode="valid") for m in range(3))
    np.testing.assert_allclose(picture, expected, atol=1e-12)
    zeros = borders.pad_zeros(np, image, shape)
    back = ops.conv_layer(None, zeros, D[::-1, ::-1], D, 1.0, 0.0, stride=stride)[0]
    assert np.vdot(back, x) == pytest.approx(np.vdot(image, picture))
    largest = borders.picture_shape(size, shape, stride)
    assert ops.synthesize(x, D, stride).shape == largest
    assert (
        borders.map_shape(largest, shape, stride) == size != borders.map_shape((largest[0] + 1, width), shape, stride)
    )


@pytest.mark.parametrize("k", [0, 40])
def test_a_strided_layer_is_a_layer_whose_maps_are_zero_elsewhere(k, rng):
    ops, (D, W), theta = ReferenceOps(), rng.standard_normal((2, 4, 3, 5)), rng.uniform(0.1, 0.3, 5)
    padded, mask = rng.standard_normal((19, 15)), np.zeros((16, 13))
    mask[::3, ::3] = 1
    x = mask * rng.standard_normal((5, 16, 13))
    strided, picture, _ = ops.conv_layer(x[:, ::3, ::3], padded, W, D, 0.3, theta, k, stride=3)
    u = np.stack([correlate2d(padded, W[..., m], mode="valid") for m in range(5)])
    z, theta = x + 0.3 * mask * u, theta[:, None, None]
    expected = np.sign(z) * np.maximum(np.abs(z) - theta, 0)
    if k:
        expected = np.where((np.abs(z) > np.sort(np.abs(z).ravel())[-k - 1]) & (np.abs(z) > theta), z, expected)
    np.testing.assert_allclose(strided, expected[:, ::3, ::3], atol=1e-12)
    np.testing.assert_allclose(picture, ops.synthesize(expected, D), atol=1e-12)


BY_FILTER = np.array([0.2, -0.1, 0.0, 0.3])


@pytest.mark.parametrize("threshold", [0.1, 0.0, -0.1, 3.0, np.abs(BY_FILTER), BY_FILTER])
@pytest.mark.parametrize("k", [0, 20, 10**6])
@pytest.mark.parametrize(("shape", "stride"), [((3, 3, 4), 1), ((1, 4, 4), 2), ((3, 2, 4), 1), ((3, 2, 4), 3)])
@pytest.mark.parametrize("first", [True, False])
def test_the_cpu_engines_give_what_is_defined(threshold, k, shape, stride, first, rng, monkeypatch):
    monkeypatch.setattr("cuista.ops.cpu.BAND_BYTES", 2000)  # several bands, of which the last is shorter
    for fast in FAST.values():
        compare_engines(fast, threshold, k, shape, stride, first, rng)


@pytest.mark.parametrize("threshold", [0.1, 2.0])
@pytest.mark.parametrize(("shape", "stride"), [((8, 8, 40), 4), ((5, 4, 17), 1), ((9, 9, 110), 2), ((9, 9, 1), 9)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_layers_of_many_filters_and_taps_are_what_is_defined(threshold, shape, stride, dtype, rng):
    for fast in FAST.values():
        compare_engines(fast, threshold, 0, shape, stride, False, rng, dtype)


@pytest.mark.parametrize("threshold", [0.1, -0.1, BY_FILTER])
@pytest.mark.parametrize("k", [0, 20])
@pytest.mark.parametrize("stride", [1, 3])
def test_the_cuda_engine_gives_what_is_defined(cuda, threshold, k, stride, rng):
    compare_engines(cuda, threshold, k, (3, 2, 4), stride, False, rng)


@pytest.mark.parametrize("per_picture", [False, True])
@pytest.mark.parametrize("by_filter", [False, True])
@pytest.mark.parametrize(
    ("shape", "size", "stride"), [((3, 2, 4), (13, 9), 1), ((5, 4, 3), (5, 11), 2), ((1, 7, 6), (8, 7), 3)]
)
@pytest.mark.parametrize("first", [False, True])
def test_the_cuda_engine_takes_pictures_together_as_one_by_one(
    cuda, per_picture, by_filter, shape, size, stride, first, rng
):
    count, filters = 3, shape[2]
    D, W = rng.standard_normal((2, *shape))
    f, picture, d_picture = rng.standard_normal((3, count, *size))
    x, d_x = rng.standard_normal((2, filters, count, *borders.map_shape(size, shape[:2], stride)))
    theta = np.abs(rng.standard_normal((count if per_picture else 1, *[filters] * by_filter)))

    def pictures(ops, to_maps, from_maps):
        def to(array):
            return ops.asarray(array, np.float64)

        step = (to(f), to(picture), to(W), to(D), to(0.3), to(theta), 0, stride)
        maps, found, record = ops.conv_steps(None if first else to_maps(to(x)), *step)
        back = ops.conv_steps_backward(None if first else to_maps(to(d_x)), to(d_picture), record, True, True)
        d_maps, d_pictures, *parts = back
        return [ops.to_numpy(a) for a in (from_maps(maps), found, from_maps(d_maps), d_pictures, *parts)]

    together = pictures(cuda, lambda maps: maps, lambda maps: maps)
    defined = pictures(ReferenceOps(), lambda maps: list(maps.swapaxes(0, 1)), lambda maps: np.stack(maps, axis=1))
    for found, expected in zip(together, defined, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-11)


def test_layers_with_and_without_selection_follow_each_other_on_the_cuda_engine(cuda, rng):
    D, W = rng.standard_normal((2, 3, 2, 4))
    f, start, d_picture = rng.standard_normal((3, 2, 8, 9))

    def through(ops):
        to, maps, pictures, records = partial(ops.asarray, dtype=np.float64), None, start, []
        for k in (0, 7, 0):
            step = (to(f), to(pictures), to(W), to(D), to(0.3), to([0.1]), k, 2)
            maps, pictures, record = ops.conv_steps(maps, *step)
            records.append(record)
        d_maps, d_pictures, found = None, d_picture, [pictures]
        for record in reversed(records):
            d_maps, d_pictures, *parts = ops.conv_steps_backward(d_maps, d_pictures, record, True, True)
            found += [d_pictures, *parts]
        return [ops.to_numpy(array) for array in found]

    for found, expected in zip(through(cuda), through(ReferenceOps()), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-11)


def compare_engines(ops, threshold, k, shape, stride, first, rng, dtype=np.float64):
    s1, s2, filters = shape
    D, W = rng.standard_normal((2, *shape))
    r, x = rng.standard_normal((13, 9)), rng.standard_normal((filters, *borders.map_shape((13, 9), (s1, s2), stride)))
    d_picture = rng.standard_normal(r.shape)

    def both(ops):
        def to(array):
            return ops.asarray(array, dtype)

        before = None if first else to(x)
        padded = borders.pad_reflected(ops.xp, to(r), (s1, s2))
        theta = to(threshold) if np.ndim(threshold) else threshold
        x_next, picture, record = ops.conv_layer(before, padded, to(W), to(D), 0.3, theta, k, stride)
        d_x = None if first else to(0.7 * x)
        back = ops.conv_layer_backward(d_x, to(d_picture), record, wants_dictionary=True)
        step = ops.conv_step(before, to(r), to(0.3 * d_picture), to(W), to(D), 0.3, theta, k, stride)
        d_x = None if first else to(0.7 * x)
        back_again = ops.conv_step_backward(d_x, to(d_picture), step[2], wants_dictionary=True)
        return [np.asarray(ops.to_numpy(array)) for array in (x_next, picture, *back, *step[:2], *back_again)]

    for found, defined in zip(both(ops), both(ReferenceOps()), strict=True):
        assert found.shape == defined.shape
        np.testing.assert_allclose(found, defined, rtol=0, atol=1e4 * np.finfo(dtype).eps * (1 + np.abs(defined).max()))


# -- networks -------------------------------------------------------------------------------------------------------


PHI = np.random.default_rng(5).standard_normal((12, 33))


def variants():
    kinds = {**CONV_NETWORKS, OneStepConvAlista.name: OneStepConvAlista}
    plain = [(kind, {"untied": untied}) for kind in kinds.values() for untied in (False, True)[: 1 + kind.can_untie]]
    strided = [(kinds[name], {"per_filter": True, "stride": 2}) for name in ("conv-alista", "conv-tilista", "conv-csc")]
    csc = {"per_filter": True, "stride": 2}
    sensed = [(kinds["conv-alista"], {"sensing": True}), (kinds["conv-csc"], {**csc, "sensing": True})]
    return [*plain, *strided, *sensed, (kinds["conv-csc"], {**csc, "noise": (0.1, 0.5)})]


def any_network(kind, form, ops=None, threshold=0.02, seed=3):
    """Three layers with parameters that differ."""
    rng, stride = np.random.default_rng(seed), form.get("stride", 1)
    operator = Convolution(SMALL.D, stride=stride, ops=ops, dtype=np.float64)
    options = {name: value for name, value in form.items() if name != "stride"}
    if form.get("sensing"):  # of blocks of which 9×11 pixels have three
        options["sensing"] = BlockProjection(PHI, (3, 11), ops=ops, dtype=np.float64)
    net = kind(operator, WEIGHT.W, layers=3, percent=3, **options)
    ranges = {
        "step_size": (0.1, 0.3),
        **dict.fromkeys(("threshold", "slope"), tuple(sorted((0.5 * threshold, 1.5 * threshold)))),
        **dict.fromkeys(("weight", "synthesis", "output"), (-0.3, 0.3)),
    }
    net.parameters = {name: rng.uniform(*ranges[name], shape) for name, shape in net.shapes.items()}
    return net


def inputs(net, y):
    """Pictures as the network takes them: it may have to know σ, or know only what is measured of them."""
    if net.sensing:
        return net.sensing(y)
    return (y, net.ops.asarray(np.linspace(0.2, 0.4, len(y)), np.float64)) if net.noise else y


@pytest.mark.parametrize("threshold", [0.02, -0.02])
@pytest.mark.parametrize(("kind", "form"), variants())
@pytest.mark.parametrize("engine", [ReferenceOps, CpuOps])
def test_gradients_are_those_of_central_differences(kind, form, threshold, engine, rng):
    net = any_network(kind, form, engine(), threshold)
    y, clean = rng.standard_normal((2, 2, 9, 11))
    y = inputs(net, y)
    base = {name: value.copy() for name, value in net.parameters.items()}
    for depth in (1, 3):
        loss, gradients = net.loss_and_gradients(y, clean, depth)
        gradients = {name: value.copy() for name, value in gradients.items()}
        assert loss == pytest.approx(0.5 * np.square(net.output(y, depth) - clean).sum())
        for name in base:
            closest = np.inf
            for _ in range(3):  # one direction may meet a kink
                direction = rng.standard_normal(base[name].shape)
                ends = []
                for step in (1e-7, -1e-7):
                    net.parameters = {**base, name: base[name] + step * direction}
                    ends.append(net.loss_and_gradients(y, clean, depth)[0])
                net.parameters = base
                expected = float((gradients[name] * direction).sum())
                scale = float(np.linalg.norm(gradients[name]) * np.linalg.norm(direction)) + 1e-9
                closest = min(closest, abs((ends[0] - ends[1]) / 2e-7 - expected) / scale)
            assert closest < 1e-6, (name, depth, closest)


@pytest.mark.parametrize(("kind", "form"), variants())
def test_layers_are_the_formula(kind, form, rng):
    net, mask = any_network(kind, form), np.zeros((5, 11, 12))
    mask[:, :: net.stride, :: net.stride] = 1
    f = rng.standard_normal((9, 11))
    p, x, picture = net.parameters, np.zeros((5, 11, 12)), np.zeros_like(f)
    seen = G if net.sensing else lambda picture: picture
    for t, found in enumerate(net.iterates(inputs(net, f[None]))):
        W = p["weight"][t if net.untied else 0] if "weight" in p else rotate(WEIGHT.W)
        alpha = p["step_size"][t if len(p["step_size"]) > 1 else 0] if "step_size" in p else np.ones(())
        D = p["synthesis"][t if net.untied else 0] if "synthesis" in p else SMALL.D
        D = p["output"][0] if "output" in p and t == 2 else D
        theta = p["threshold"][t] + (0.2 * p["slope"][t] if net.noise else 0)
        alpha, theta = alpha.reshape(-1, 1, 1), theta.reshape(-1, 1, 1)
        r = np.pad(seen(f - picture), ((2, 2), (1, 1)), mode="reflect")
        z = x + mask * alpha * np.stack([correlate2d(r, W[..., m], mode="valid") for m in range(5)])
        x = np.sign(z) * np.maximum(np.abs(z) - theta, 0)
        if net.selects:
            k = round((z.size - 1) * min((t + 1) * 3, 13) / 100)
            passed = (np.abs(z) > np.sort(np.abs(z).ravel())[-k - 1]) & (np.abs(z) > theta)
            x = np.where(passed, z, x)
        picture = sum(correlate2d(x[m], D[..., m], mode="valid") for m in range(5))
        np.testing.assert_allclose(found[0], picture + G(f - picture) if net.sensing else picture, atol=1e-12)


def G(picture):
    """What Φ tells of the three blocks of a picture, (9, 11)."""
    blocks = [picture[top : top + 3].ravel() for top in (0, 3, 6)]
    return np.concatenate([(np.linalg.pinv(PHI) @ PHI @ block).reshape(3, 11) for block in blocks])


@pytest.mark.parametrize(("kind", "form"), variants())
def test_the_cuda_engine_trains_the_same_network(cuda, kind, form, rng):
    y, clean = rng.standard_normal((2, 2, 9, 11))
    plain, net = any_network(kind, form), any_network(kind, form, cuda)
    loss, gradients = plain.loss_and_gradients(inputs(plain, y), clean, 3)
    on_device = inputs(net, cuda.asarray(y, np.float64))
    found, of_device = net.loss_and_gradients(on_device, cuda.asarray(clean, np.float64), 3)
    assert float(found) == pytest.approx(loss, rel=1e-10)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(cuda.to_numpy(of_device[name]), gradient, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(cuda.to_numpy(net.output(on_device)), plain.output(inputs(plain, y)), atol=1e-10)


def test_more_pictures_than_a_shard_are_summed_on_the_cuda_engine(cuda, rng):
    kind, form = variants()[-1]  # which knows σ
    y, clean = rng.standard_normal((2, cuda.pictures + 1, 5, 6))
    results = []
    for ops in (CpuOps(), cuda):
        net = any_network(kind, form, ops)
        known = inputs(net, ops.asarray(y, np.float64))
        loss, gradients = net.loss_and_gradients(known, ops.asarray(clean, np.float64), 3)
        results.append([ops.to_numpy(array) for array in (loss, *gradients.values(), net.output(known))])
    for found, expected in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    ("kind", "form"), [pair for pair in variants() if CONV_NETWORKS["conv-lista-cp"] in pair[0].mro()]
)
def test_a_learned_network_becomes_the_one_it_contains(kind, form, rng):
    net = any_network(kind, form)
    if net.selects:
        net.reschedule(0, 0)
    precursor = net.precursor()
    precursor.parameters = precursor.fast_start()
    net.adopt(precursor)
    y = inputs(net, rng.standard_normal((1, 9, 11)))
    np.testing.assert_allclose(net.output(y), precursor.output(y), atol=1e-12)


def test_a_network_starts_where_the_publication_starts():
    start = Denoiser.new(WEIGHT).network.parameters
    assert start["step_size"].tolist() == [0.1] * 5
    assert start["threshold"].tolist() == pytest.approx([0.01] * 5)
    start = Denoiser.new(WEIGHT, "conv-tilista").network.parameters
    np.testing.assert_allclose(start["weight"][0], 0.1 * rotate(SMALL.D), rtol=1e-6)
    assert start["step_size"].tolist() == [1.0] * 5


def test_a_picture_smaller_than_the_filters_is_refused():
    with pytest.raises(InputError, match="smaller than the filters"):
        Denoiser.new(WEIGHT).denoise(np.ones((2, 9)))


@pytest.mark.parametrize(("net", "stride"), [("conv-alista", 1), ("conv-tilista", 1), ("conv-csc", 2)])
@pytest.mark.parametrize("shape", [(70, 51), (16, 16), (3, 40)])
def test_tiles_leave_no_seam(net, stride, shape, rng):
    denoiser = Denoiser.new(solve_conv(SMALL, stride=stride), net, layers=2, dtype=np.float64)
    form = {"per_filter": net == "conv-csc", "stride": stride}
    parameters = any_network(CONV_NETWORKS[net], form).parameters
    denoiser.network.parameters = {name: value[:2] for name, value in parameters.items()}
    noisy = rng.random(shape)
    whole = denoiser.denoise(noisy, tile=1000)
    np.testing.assert_allclose(denoiser.denoise(noisy, tile=16), whole, atol=1e-12)
    assert np.abs(whole - noisy).max() > 0.01


def test_the_result_is_the_mean_over_the_places_of_the_grid(rng):
    denoiser = Denoiser.new(solve_conv(SMALL, stride=2), "conv-csc", layers=2, dtype=np.float64)
    noisy, results = rng.random((12, 9)), []
    for a, b in ((0, 0), (1, 1), (0, 1), (1, 0)):
        shifted = np.pad(noisy - noisy.mean(), ((a, 0), (b, 0)), mode="reflect")
        results.append(denoiser.network.output(shifted[None])[0, a:, b:] + noisy.mean())
    np.testing.assert_allclose(denoiser.denoise(noisy), np.mean(results, axis=0), atol=1e-12)
    np.testing.assert_allclose(denoiser.denoise(noisy, shifts=2), np.mean(results[:2], axis=0), atol=1e-12)
    assert grid_places(6, 4) == [(0, 0), (3, 3), (0, 3), (3, 0)]
    assert sorted(grid_places(5)) == sorted(np.ndindex(5, 5))
    for shifts in (0, 5):
        with pytest.raises(InputError, match="expected a number from 1 to 4, the square of the stride"):
            denoiser.denoise(noisy, shifts=shifts)


def test_a_denoiser_for_a_range_is_told_the_noise(tmp_path, rng):
    denoiser = Denoiser.new(solve_conv(SMALL, stride=2), "conv-csc", layers=2, sigma=(10, 50))
    denoiser.save(tmp_path / "m.h5")
    loaded, noisy = Denoiser.load(tmp_path / "m.h5"), rng.random((12, 9))
    assert (loaded.sigmas, loaded.sigma) == ((10, 50), 30)
    assert "σ = 10 to 50" in repr(loaded)
    found = {sigma: loaded.denoise(noisy, sigma=sigma) for sigma in (5, 10, 20, 50, 60)}
    assert (found[5] == found[10]).all()
    assert (found[50] == found[60]).all()
    rough = [np.abs(np.diff(found[sigma])).mean() for sigma in (10, 20, 50)]
    assert rough[0] > rough[1] > rough[2]
    with pytest.raises(InputError, match="is for a range of σ: say which"):
        loaded.denoise(noisy)
    with pytest.raises(InputError, match="is for one σ only"):
        Denoiser.new(WEIGHT).denoise(noisy, sigma=20)
    with pytest.raises(InputError, match="the lower end first"):
        Denoiser.new(WEIGHT, sigma=(50, 10))


def test_a_file_keeps_the_stride_and_the_numbers_for_each_filter(tmp_path, rng):
    for net, per_filter in (("conv-csc", True), ("conv-alista", True), ("conv-lista-cpss", False)):
        denoiser = Denoiser.new(solve_conv(SMALL, stride=2), net, per_filter=per_filter, layers=2)
        path = tmp_path / f"{net}.h5"
        denoiser.save(path)
        loaded, noisy = Denoiser.load(path), rng.random((9, 12))
        assert (loaded.weight.stride, loaded.network.per_filter) == (2, per_filter)
        assert (loaded.denoise(noisy) == denoiser.denoise(noisy)).all()
        assert "stride 2" in repr(loaded)


def test_a_pixel_is_seen_within_the_reach_and_no_further(rng):
    net = any_network(CONV_NETWORKS["conv-lista-cp"], {"untied": True}, threshold=1e-6)
    denoiser = Denoiser(net, WEIGHT, 20)
    assert net.reach == (3 * 2, 3 * 1)
    noisy = rng.random((40, 30))
    whole = denoiser.denoise(noisy, tile=1000)

    def error(*reach):
        net.reach = reach
        return np.abs(denoiser.denoise(noisy, tile=10) - whole).max()

    assert error(6, 3) < 1e-12
    assert min(error(5, 3), error(6, 2)) > 1e-6


def test_the_tiles_of_a_picture_have_one_shape_and_meet(monkeypatch):
    monkeypatch.setattr("cuista.tasks.denoising.TILE_BYTES", 0)  # the smallest tiles
    denoiser = Denoiser.new(WEIGHT, layers=2)
    for shape in ((200, 331), (64, 65), (5, 129)):
        tiles, seen = denoiser.tiles(shape), np.zeros(shape, int)
        for rows, columns in tiles:
            seen[rows.kept, columns.kept] += 1
        assert (seen == 1).all()
        assert len({seen[rows.computed, columns.computed].shape for rows, columns in tiles}) == 1
        assert len(tiles) > 1
    for tile in (0, -3):
        with pytest.raises(InputError, match="expected 1 or more"):
            denoiser.denoise(np.ones((9, 9)), tile=tile)


def test_support_selection_takes_the_share_of_the_whole_block():
    net = CONV_NETWORKS["conv-lista-cpss"](Convolution(SMALL.D), WEIGHT.W, percent=2, max_percent=3)
    assert [net.selected(t, np.ones((9, 11))) for t in range(3)] == [13, 20, 20]  # of 5·11·12 − 1 = 659


@pytest.mark.parametrize("sigma", [0.02, 0.5, 3])
def test_fista_is_tuned_to_the_best_of_all(sigma, rng):
    pairs = []
    for shape in ((16, 19), (21, 12)):
        clean = np.cumsum(rng.standard_normal(shape), axis=1) / 4
        pairs.append((clean, clean + sigma * rng.standard_normal(shape)))
    solver = ConvFista(SMALL, 20)
    found = solver.tune(pairs)

    def error(lam):
        solver.lam = lam
        return np.mean([np.log(np.square(solver.denoise(noisy) - clean).mean()) for clean, noisy in pairs])

    assert found == min(np.geomspace(1e-3, 1, 16).tolist(), key=error)


@pytest.mark.parametrize("shape", [(7, 7), (3, 3), (11, 5), (1, 1), (2, 9)])
@pytest.mark.parametrize("filters", [1, 3])
def test_the_gain_is_never_less_than_what_the_synthesis_does(shape, filters, rng):
    D = rng.standard_normal((*shape, filters))
    finest = np.square(np.abs(np.fft.rfft2(D, (2048, 2048), axes=(0, 1)))).sum(axis=2).max()
    assert finest * (1 - 1e-12) <= Dictionary(D).gain < 1.01 * finest


@pytest.mark.parametrize("shape", [(7, 7), (4, 6)])
@pytest.mark.parametrize("filters", [2, 20])
def test_the_gain_of_a_stride_is_never_less_than_what_the_synthesis_does(shape, filters, rng):
    D = rng.standard_normal((*shape, filters))
    operator = Convolution(D, (60, 60), stride=3, dtype=np.float64)
    gain, reached = operator.norm_squared, super(Convolution, operator)._largest()
    assert 0.9 * gain < reached / 1.053 < gain < 1.05 * operator.norm_squared
    assert gain < Dictionary(D).gain


# -- FISTA ----------------------------------------------------------------------------------------------------------


def test_fista_descends_to_the_minimum(rng):
    f = rng.standard_normal((9, 11))
    *_, (x, picture) = ConvFista(SMALL, 3000, lam=0.3, dtype=np.float64).iterates(f)
    np.testing.assert_allclose(picture, ReferenceOps().synthesize(x, SMALL.D), atol=1e-10)
    # At the minimum, the correlation with the residual is λ sign(x) where x ≠ 0, and elsewhere at most λ in magnitude.
    r = np.pad(f - picture, ((2, 2), (1, 1)))
    correlation = np.stack([correlate2d(r, rotate(SMALL.D[..., m]), mode="valid") for m in range(5)])
    assert np.abs(correlation).max() < 0.3 + 1e-4
    np.testing.assert_allclose(correlation[x != 0], 0.3 * np.sign(x[x != 0]), atol=1e-3)
