"""Encoders, robust ALISTA and decoders trained under perturbation: their gradients, training and files."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import kernels_on_the_cpu
from shim.gpu import DeviceArray, DeviceModule, launcher_on

import cuista
from cuista import EncoderRecipe, Encoding, Robust, RobustRecipe, storage, train
from cuista.counter import TRAINING, Key
from cuista.data.perturbed import PerturbedSet, perturb, random_levels
from cuista.errors import FileError, InputError, NumericalError
from cuista.evaluation.robustness import Robustness, RobustResult, evaluate_encoder, evaluate_robustness
from cuista.networks import Encoder, ExactEncoder, RobustAlista
from cuista.networks.encoder import LOSSES
from cuista.operators import Dense
from cuista.ops import CpuOps, CudaOps, ReferenceOps
from cuista.tasks.encoder import MatrixSource
from cuista.tasks.robust import AugmentedSource, PairSource
from cuista.training import checkpoint_path

M, N = 8, 14
A = cuista.normalize_columns(cuista.random_matrix(M, N, seed=3))
ENGINES = pytest.mark.parametrize("ops", [ReferenceOps(), CpuOps()], ids=["reference", "cpu"])
WEIGHTED = [*((loss, False) for loss in LOSSES), ("l1", True), ("l2", True), ("expl1", True), ("expl2", True)]
LOSS = pytest.mark.parametrize(("loss", "own_Q"), WEIGHTED, ids=[f"{loss}{'-Q' * own}" for loss, own in WEIGHTED])


def matrices(levels=(0.1, 0.2, 0.05), dtype=np.float64):
    return perturb(A.astype(dtype), Key(1, TRAINING), np.array(levels), CpuOps())


def loss_weights(own_Q):
    return np.random.default_rng(2).uniform(0.5, 2, (N, N)) if own_Q else None


def encoder(loss="rel2", own_Q=False, ops=None, layers=3, dtype=np.float64, **options):
    """An encoder whose step matrices have no special form."""
    options = {"start": "normal", **options}
    return Encoder(A, layers=layers, loss=loss, Q=loss_weights(own_Q), ops=ops, dtype=dtype, **options)


def assert_gradient_matches(net, gradients, loss, directions=3, step=1e-6):
    """Compare gradients with central differences of the loss along random directions of each parameter."""
    rng = np.random.default_rng(7)
    for name, gradient in gradients.items():
        for _ in range(directions):
            direction = rng.standard_normal(gradient.shape)
            direction /= np.linalg.norm(direction)
            numeric = 0.0
            for sign in (1, -1):
                net.parameters[name] += sign * step * direction
                numeric += sign * loss() / (2 * step)
                net.parameters[name] -= sign * step * direction
            tolerance = 1e-6 * (1e-3 + np.linalg.norm(gradient))
            assert np.vdot(gradient, direction) == pytest.approx(numeric, rel=0, abs=tolerance), name


# -- the encoder ------------------------------------------------------------------------------------------------------


def formula(net, matrix):
    """W and the loss for one matrix, by their definitions."""
    Q = np.ones((N, N)) if net.Q is None else net.Q
    if net.loss_name.startswith("rel"):
        Q = np.sqrt(1 + (N - 2) * np.eye(N))

    def g(R):
        return {
            "l2": R * Q**2,
            "l1": np.sign(R) * Q,
            "expl1": np.sign(R) * np.exp(np.abs(R)) * Q,
            "expl2": R * np.exp(R**2) * Q,
        }[net.loss_name.replace("rel", "l")]

    W = matrix
    for B in net.parameters["step_matrix"]:
        R = matrix.T @ W - np.eye(N)
        R[np.abs(R) < 1e-14] = 0  # rounding errors should have no sign
        W = W - B @ g(R)
    R = matrix.T @ W - np.eye(N)
    loss = {
        "l2": 0.5 * np.sum((R * Q) ** 2),
        "l1": np.sum(np.abs(R) * Q),
        "expl1": np.sum(np.exp(np.abs(R)) * Q),
        "expl2": 0.5 * np.sum(np.exp(R**2) * Q),
    }[net.loss_name.replace("rel", "l")]
    return W, loss


@ENGINES
@LOSS
def test_an_encoder_follows_the_formula(ops, loss, own_Q):
    net, A_perturbed = encoder(loss, own_Q, ops), matrices()
    W = net.output(A_perturbed)
    losses, _ = net.losses(A_perturbed, W)
    for found, found_loss, matrix in zip(W, losses, A_perturbed, strict=True):
        expected, expected_loss = formula(net, matrix)
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11)
        assert found_loss == pytest.approx(expected_loss, rel=1e-12)


@ENGINES
@LOSS
@pytest.mark.parametrize("depth", [1, 3])
def test_an_encoders_gradients_match_central_differences(ops, loss, own_Q, depth):
    net, A_perturbed = encoder(loss, own_Q, ops), matrices()
    _, gradients = net.loss_and_gradients(A_perturbed, A_perturbed, depth)
    assert not gradients["step_matrix"][depth:].any()
    assert_gradient_matches(net, gradients, lambda: net.loss_and_gradients(A_perturbed, A_perturbed, depth)[0])


@LOSS
def test_the_derivative_of_an_encoders_loss_matches_central_differences(loss, own_Q, rng):
    net, A_perturbed = encoder(loss, own_Q), matrices()
    W = rng.standard_normal(A_perturbed.shape)
    _, d_W = net.losses(A_perturbed, W)
    direction = rng.standard_normal(W.shape) / W.size**0.5
    numeric = sum(sign * net.losses(A_perturbed, W + sign * 1e-6 * direction)[0].sum() / 2e-6 for sign in (1, -1))
    assert np.vdot(d_W, direction) == pytest.approx(numeric, rel=1e-6)


@ENGINES
@pytest.mark.parametrize("loss", ["l2", "rel2"])
def test_a_linear_layer_and_its_backward_pass_are_adjoint(ops, loss, rng):
    net, A_perturbed = encoder(loss, ops=ops), matrices()
    B = net.parameters["step_matrix"][0]
    W, change, d_W = rng.standard_normal((3, *A_perturbed.shape))
    base, back = net.step(B, W, A_perturbed)
    base = base.copy()
    forward = net.step(B, W + change, A_perturbed)[0] - base
    assert np.vdot(forward, d_W) == pytest.approx(np.vdot(change, back(d_W)[0]), rel=1e-11)


@pytest.mark.parametrize("loss", ["l2", "rel2"])
def test_without_entrywise_products_a_linear_layer_is_the_same(loss):
    linear, entrywise = encoder(loss), encoder(loss)
    entrywise.linear = False
    if loss == "rel2":
        entrywise.weights = np.sqrt(1 + (N - 2) * np.eye(N))
    A_perturbed = matrices()
    (loss_1, gradients_1), (loss_2, gradients_2) = (
        net.loss_and_gradients(A_perturbed, A_perturbed, 3) for net in (linear, entrywise)
    )
    assert loss_1 == pytest.approx(loss_2, rel=1e-12)
    np.testing.assert_allclose(gradients_1["step_matrix"], gradients_2["step_matrix"], rtol=1e-10, atol=1e-10)


def test_an_encoder_starts_where_it_is_told():
    B = {start: encoder(start=start, eta=0.01).parameters["step_matrix"] for start in ("nominal", "uniform", "normal")}
    np.testing.assert_allclose(B["nominal"], np.broadcast_to(0.01 * A, (3, M, N)), rtol=1e-12)
    assert np.abs(B["uniform"]).max() <= 0.01 < 2 * np.abs(B["uniform"]).max()
    assert B["normal"].std() == pytest.approx(0.01, rel=0.1)
    assert not np.allclose(B["normal"][0], B["normal"][1])


def test_the_analytic_start_is_nearly_the_exact_weight_of_the_nominal_matrix():
    big = cuista.normalize_columns(cuista.random_matrix(50, 100, seed=3))
    exact = cuista.solve_exact(big).W
    W = Encoder(big, dtype=np.float64).output(big[None])[0]
    started = np.linalg.norm(big - exact) / np.linalg.norm(exact)
    assert np.linalg.norm(W - exact) / np.linalg.norm(exact) < 0.2 < started


def test_an_encoder_that_cannot_be_is_refused():
    for options, message in (
        ({"loss": "l3"}, "l3"),
        ({"start": "zero"}, "zero"),
        ({"eta": 0.0}, "η"),
        ({"loss": "rel2", "Q": np.ones((N, N))}, "weights of its own"),
        ({"loss": "l2", "Q": np.ones((N, M))}, "expected"),
        ({"loss": "l2", "Q": -np.ones((N, N))}, "0 or more"),
        ({"loss": "l1", "start": "analytic"}, "analytic start"),
    ):
        with pytest.raises(InputError, match=message):
            Encoder(A, **options)


# -- the exact encoder ------------------------------------------------------------------------------------------------


@ENGINES
@pytest.mark.parametrize(("ridge", "learned"), [(0.0, False), (0.3, False), (0.3, True)])
def test_the_exact_encoder_gives_the_analytic_weight(ops, ridge, learned):
    net = ExactEncoder(A, ridge=ridge, learned=learned, ops=ops, dtype=np.float64)
    W, _ = net.encode(matrices(), net.published_start())
    for found, matrix in zip(W, matrices(), strict=True):
        np.testing.assert_allclose(found, cuista.solve_exact(matrix, ridge=ridge).W, rtol=1e-9, atol=1e-9)


def test_a_matrix_with_dependent_rows_needs_a_ridge():
    singular = matrices()
    singular[:, 1] = singular[:, 0]
    for ops in (ReferenceOps(), CpuOps()):
        with pytest.raises(NumericalError, match="ridge"):
            ExactEncoder(A, ops=ops).encode(np.zeros_like(singular), {})
    W, _ = ExactEncoder(A, ridge=0.1, ops=CpuOps()).encode(singular, {})
    assert np.isfinite(W).all()
    with pytest.raises(InputError, match="tall"):
        ExactEncoder(A.T, ops=CpuOps())


# -- the whole chain --------------------------------------------------------------------------------------------------


def robust(inner, ops=None, per_coordinate=False, thresholds=(0.05, 0.2), dtype=np.float64, positive=False):
    """A robust ALISTA of four layers with different parameters, and with the parameters of an encoder."""
    rng, ops = np.random.default_rng(5), ops or CpuOps()
    parameters = {
        "step_size": rng.uniform(0.7, 1.3, 4),
        "threshold": rng.uniform(*thresholds, (4, N) if per_coordinate else 4),
    }
    if isinstance(inner, Encoder):
        parameters["step_matrix"] = inner.parameters["step_matrix"][None]
    elif inner.learned:
        parameters["ridge"] = np.array([inner.ridge])
    options = {"layers": 4, "percent": 6, "max_percent": 20, "per_coordinate": per_coordinate, "positive": positive}
    return RobustAlista(inner, M, N, parameters=parameters, **options, ops=ops, dtype=dtype)


def pairs(dtype=np.float64):
    """Signals, matrices, and the measurements that each matrix takes."""
    rng = np.random.default_rng(6)
    x = rng.standard_normal((5, N)) * (rng.random((5, N)) < 0.25)
    A_perturbed = matrices()
    y = np.matmul(x, A_perturbed.swapaxes(1, 2))
    return x.astype(dtype), (A_perturbed.astype(dtype), y.astype(dtype))


INNER = {
    **{loss: (lambda ops, loss=loss: encoder(loss, ops=ops)) for loss in LOSSES},
    "exact": lambda ops: ExactEncoder(A, ops=ops, dtype=np.float64),
    "exact-ridge": lambda ops: ExactEncoder(A, ridge=0.3, learned=True, ops=ops, dtype=np.float64),
    "exact-fixed": lambda ops: ExactEncoder(A, ridge=0.3, ops=ops, dtype=np.float64),
}


@ENGINES
@pytest.mark.parametrize("inner", list(INNER))
@pytest.mark.parametrize("thresholds", [(0.05, 0.2), (-0.1, -0.02)], ids=["positive", "negative"])
def test_the_gradients_of_the_whole_chain_match_central_differences(ops, inner, thresholds):
    net = robust(INNER[inner](ops), ops, per_coordinate=inner == "l2", thresholds=thresholds)
    x, y = pairs()
    weights = np.linspace(0.5, 1.5, len(x))
    _, gradients = net.loss_and_gradients(y, x, 4, weights=weights)
    assert set(gradients) == set(net.shapes)
    assert_gradient_matches(net, gradients, lambda: net.loss_and_gradients(y, x, 4, weights=weights)[0])


@pytest.mark.parametrize("inner", ["rel2", "exact-ridge"])
def test_the_gradients_of_the_whole_chain_match_central_differences_for_signals_without_negative_entries(inner):
    net = robust(INNER[inner](CpuOps()), positive=True)
    x, (perturbed, _) = pairs()
    x = np.abs(x)
    y = perturbed, np.matmul(x, perturbed.swapaxes(1, 2))
    assert net.output(y).min() == 0
    _, gradients = net.loss_and_gradients(y, x, 4)
    assert_gradient_matches(net, gradients, lambda: net.loss_and_gradients(y, x, 4)[0])


@pytest.mark.parametrize("inner", ["rel2", "exact"])
@pytest.mark.parametrize("positive", [False, True])
def test_each_matrix_is_recovered_by_as_an_alista_with_its_weight(inner, positive):
    net = robust(INNER[inner](CpuOps()), positive=positive)
    _, (A_perturbed, y) = pairs()
    W, _ = net.encoder.encode(A_perturbed, net.parameters)
    for estimate, matrix, weight, measured in zip(net.output((A_perturbed, y)), A_perturbed, W, y, strict=True):
        parameters = {name: net.parameters[name] for name in ("step_size", "threshold")}
        options = {"layers": 4, "percent": 6, "max_percent": 20, "parameters": parameters, "positive": positive}
        alista = cuista.networks.Alista(Dense(matrix, dtype=np.float64), weight, **options)
        np.testing.assert_allclose(estimate, alista.output(measured), atol=1e-11)


@ENGINES
@pytest.mark.parametrize("inner", ["rel2", "exact-ridge"])
def test_the_gradients_of_the_whole_chain_with_a_unit_match_central_differences(ops, inner):
    net = robust(INNER[inner](ops), ops)
    net.unit = 0.7
    x, y = pairs()
    weights = np.linspace(0.5, 1.5, len(x))
    _, gradients = net.loss_and_gradients(y, x, 4, weights=weights)
    assert_gradient_matches(net, gradients, lambda: net.loss_and_gradients(y, x, 4, weights=weights)[0])


@pytest.mark.parametrize("unit", [0.0, 0.7])
def test_the_loss_is_the_sum_over_matrices_and_signals(unit):
    net = robust(encoder())
    net.unit = unit
    x, y = pairs()
    loss, _ = net.loss_and_gradients(y, x, 4)
    assert loss == pytest.approx(0.5 * np.square(net.output(y) - x).sum(), rel=1e-12)


@pytest.mark.parametrize("inner", ["rel2", "expl1", "exact", "exact-ridge"])
def test_the_cuda_engine_agrees_and_reads_nothing_back(cuda, inner, monkeypatch):
    x, y = pairs()
    expected_loss, expected = robust(INNER[inner](ReferenceOps()), ReferenceOps()).loss_and_gradients(y, x, 4)
    net = robust(INNER[inner](cuda), cuda)
    on_device = tuple(cuda.asarray(array, np.float64) for array in y)
    x = cuda.asarray(x, np.float64)
    monkeypatch.setattr(DeviceArray, "waits", 0)
    loss, gradients = net.loss_and_gradients(on_device, x, 4)
    assert DeviceArray.waits == 0
    assert float(loss) == pytest.approx(expected_loss, rel=1e-10)
    for name, value in expected.items():
        np.testing.assert_allclose(cuda.to_numpy(gradients[name]), value, atol=1e-9 * np.abs(value).max())


@pytest.mark.parametrize("kind", ["encoder", "robust", "exact", "alista"])
def test_training_on_the_cuda_engine_is_that_on_the_cpu_and_reads_nothing_back(
    small_problem, small_weight, request, kind, monkeypatch
):
    cuda = CudaOps(DeviceModule(), launcher_on(kernels_on_the_cpu(request.config)))
    read_back = {}

    def new(ops):
        decoder = cuista.Model.new(small_problem, small_weight, layers=4, ops=ops, dtype=np.float64)
        encoder = cuista.EncoderModel.new(small_problem, layers=3, ops=ops, dtype=np.float64)
        robust = {"ops": ops, "dtype": np.float64}
        return {
            "encoder": lambda: encoder,
            "robust": lambda: cuista.RobustModel.new(decoder, encoder, **robust),
            "exact": lambda: cuista.RobustModel.new(decoder, ridge=0.1, **robust),
            "alista": lambda: decoder,
        }[kind]()

    def count(progress):
        if 1 < progress.step < progress.steps:
            read_back[progress.stage_number, progress.step] = DeviceArray.waits
        DeviceArray.waits = 0

    recipe = SMALL_ENCODER if kind == "encoder" else SMALL_ROBUST
    task = Encoding() if kind == "encoder" else Robust()
    expected = train(new(CpuOps()), recipe, task=task)
    model = train(new(cuda), recipe, task=task, progress=count)
    assert len(read_back) >= 20
    assert not any(read_back.values())
    measured = "loss_db" if kind == "encoder" else "nmse_db"
    np.testing.assert_allclose(model.history[measured], expected.history[measured], atol=1e-6)
    for name, value in expected.network.parameters.items():
        np.testing.assert_allclose(cuda.to_numpy(model.network.parameters[name]), value, rtol=1e-6, atol=1e-8)


# -- perturbation -----------------------------------------------------------------------------------------------------


def test_perturbed_matrices_have_unit_columns_and_the_level_asked_for():
    big = cuista.normalize_columns(cuista.random_matrix(250, 500))
    A_perturbed = perturb(big, Key(0, TRAINING), np.array([0.0, 0.01]), CpuOps())
    np.testing.assert_allclose(np.linalg.norm(A_perturbed, axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(A_perturbed[0], big, rtol=1e-12)
    # Before they are normalized again, columns of norm 1 get the norm √(1 + 250·0.01²).
    assert (A_perturbed[1] * np.sqrt(1.025) - big).std() == pytest.approx(0.01, rel=0.05)
    again = perturb(big, Key(0, TRAINING), np.array([0.0, 0.01]), CpuOps())
    assert (again == A_perturbed).all()


def test_levels_are_uniform_up_to_the_stages():
    levels = random_levels(Key(0, TRAINING), 0.02, 10_000, CpuOps())
    assert 0 <= levels.min() < 1e-4
    assert 0.0199 < levels.max() < 0.02
    assert levels.mean() == pytest.approx(0.01, rel=0.02)


def test_a_test_set_is_reproducible_and_survives_its_file(small_problem, tmp_path):
    made = [PerturbedSet.new(small_problem, [0.01, 0.02], 3, 50, seed=seed) for seed in (4, 4, 5)]
    assert (made[0].matrices == made[1].matrices).all()
    assert not (made[0].matrices == made[2].matrices).any()
    made[0].save(tmp_path / "set.h5")
    loaded = PerturbedSet.load(tmp_path / "set.h5")
    for name in ("sigmas", "matrices", "x"):
        assert (getattr(loaded, name) == getattr(made[0], name)).all()
    assert loaded.problem.sha256 == small_problem.sha256
    data = (tmp_path / "set.h5").read_bytes()
    (tmp_path / "cut.h5").write_bytes(data[: len(data) // 2])
    with pytest.raises(FileError, match="damaged"):
        PerturbedSet.load(tmp_path / "cut.h5")


@pytest.mark.parametrize("sigmas", [[], [-0.01], [float("nan")], [0.01, float("inf")]])
def test_levels_that_cannot_be_are_refused(small_problem, sigmas):
    with pytest.raises(InputError, match="expected one or more numbers from 0 to"):
        PerturbedSet.new(small_problem, sigmas)


def test_a_matrix_that_is_not_normalised_is_refused(small_problem):
    other = replace(small_problem, A=2 * small_problem.A)
    for make in (
        lambda: PerturbedSet.new(other, [0.01]),
        lambda: cuista.EncoderModel.new(other),
        lambda: cuista.RobustModel.new(cuista.Model.new(other, cuista.solve_exact(other.A))),
        lambda: train(cuista.Model.new(other, cuista.solve_exact(other.A)), task=Robust()),
    ):
        with pytest.raises(InputError, match="unit norm"):
            make()


# -- training ---------------------------------------------------------------------------------------------------------

QUICK_FAST = cuista.FastRecipe(batch=32, validation_batch=200, layer_steps=6, max_steps=60, matrix_steps=10)
SMALL_ENCODER = EncoderRecipe(max_steps=40, batch=3, validation_batch=4, sigma=0.05)
SMALL_ROBUST = RobustRecipe(
    max_steps=12, matrices=3, batch=8, validation_matrices=4, validation_batch=40, psigma_max=0.08, psteps=3
)
PAPER_ROBUST = RobustRecipe.paper(
    max_steps=12, matrices=3, batch=8, validation_matrices=4, validation_batch=40, encoder_rate=1e-6
)


@pytest.fixture(scope="module")
def decoder(small_problem, small_weight, quick_recipe):
    return train(cuista.Model.new(small_problem, small_weight, layers=4), quick_recipe)


@pytest.fixture(scope="module")
def trained_encoder(small_problem):
    return train(cuista.EncoderModel.new(small_problem, layers=3), SMALL_ENCODER)


def test_the_papers_curriculum_and_decay_are_its_own():
    stages = RobustRecipe.paper().stages(16)
    assert [stage.sigma for stage in stages] == pytest.approx([0.005, 0.01, 0.015, 0.02])
    assert [stage.steps for stage in stages] == [50_000] * 4
    assert stages[0].keeps_moments
    assert stages[0].depth == 16
    assert (stages[0].learning_rate, stages[0].rates) == (1e-4, {"step_matrix": 1e-9})
    assert stages[0].rate_at(0) == stages[0].rate_at(49_999) == 1  # in the published code, the decay has no effect
    (stage,) = EncoderRecipe.paper().stages(4)
    assert (stage.learning_rate, stage.steps, stage.batch, stage.patience) == (1e-6, 200_000, 16, None)
    assert [stage.rate_at(step) for step in (0, 4999, 5000, 12_000)] == [1, 1, 0.75, 0.75**2]  # a staircase


@pytest.mark.parametrize(
    "options",
    [
        {"psigma_max": 0.0},
        {"psigma_max": -0.01},
        {"psigma_max": float("nan")},
        {"psteps": 1},
        {"msigma": -1.0},
        {"matrices": 0},
        {"matrix_rate": 0.0},
    ],
    ids=lambda options: "-".join(map(str, *options.items())),
)
def test_recipes_that_cannot_be_are_refused(decoder, options):
    (name,) = options
    with pytest.raises(InputError, match=name):
        train(cuista.RobustModel.new(decoder), replace(SMALL_ROBUST, **options))


def test_in_the_papers_recipe_an_encoder_has_a_rate_of_its_own_and_a_decoders_matrix_the_decoders(
    decoder, trained_encoder, small_problem, small_weight
):
    # Adam's first steps are as long as its learning rate.
    recipe = replace(PAPER_ROBUST, max_steps=1, psteps=2, learning_rate=1e-3, encoder_rate=1e-5)
    for model, name, rate in (
        (cuista.RobustModel.new(decoder, trained_encoder), "step_matrix", 1e-5),
        (cuista.Model.new(small_problem, small_weight, "tilista", layers=4), "weight", 1e-3),
    ):
        before = model.network.parameters[name].copy()
        train(model, recipe, task=Robust())
        assert np.median(np.abs(model.network.parameters[name] - before)) == pytest.approx(rate, rel=0.1)


def test_moments_go_on_from_stage_to_stage(decoder, monkeypatch):
    updates = []
    step = cuista.training.adam.Adam.step
    monkeypatch.setattr(
        cuista.training.adam.Adam, "step", lambda adam, *a, **k: (step(adam, *a, **k), updates.append(adam.updates))
    )
    train(cuista.RobustModel.new(decoder), SMALL_ROBUST)
    assert updates == list(range(1, 25))


def test_training_examples_are_what_the_recipe_says(small_problem):
    recipe = replace(SMALL_ROBUST, hard=0.0)
    source = PairSource(small_problem, recipe)
    stage = recipe.stages(4)[1]
    assert source.enter(stage, None)
    assert not source.enter(stage, None)
    key = Key(3, TRAINING, 5)
    x, (A_perturbed, y), weights = source.sample(CpuOps(), np.float64, 0, key)
    assert (x.shape, A_perturbed.shape, y.shape, weights) == ((8, 40), (3, 20, 40), (3, 8, 20), None)
    np.testing.assert_allclose(y, np.matmul(x, A_perturbed.swapaxes(1, 2)), atol=1e-12)
    levels = random_levels(key, 0.08, 3, CpuOps())
    np.testing.assert_allclose(A_perturbed, perturb(small_problem.A, key, levels, CpuOps()))
    noisy = PairSource(small_problem, replace(recipe, msigma=0.1))
    assert (source.weight_power, noisy.weight_power) == (recipe.weight_power, 1.0)
    noisy.enter(stage, None)
    _, (same, with_noise), _ = noisy.sample(CpuOps(), np.float64, 0, key)
    assert (same == A_perturbed).all()
    assert (with_noise - y).std() == pytest.approx(0.1, rel=0.1)
    flat = AugmentedSource(small_problem, recipe)
    flat.enter(stage, None)
    repeated, measured, _ = flat.sample(CpuOps(), np.float64, 0, key)
    np.testing.assert_allclose(measured, y.reshape(-1, 20))
    np.testing.assert_allclose(repeated, np.concatenate([x] * 3))
    source = MatrixSource(small_problem)
    source.enter(SMALL_ENCODER.stages(3)[0], None)
    target, given, _ = source.sample(CpuOps(), np.float64, 4, key)
    assert target is given
    np.testing.assert_allclose(given, perturb(small_problem.A, key, np.full(4, 0.05), CpuOps()))


def test_an_encoder_learns(small_problem):
    model = cuista.EncoderModel.new(small_problem, layers=3, start="nominal", loss="l2")
    recipe = EncoderRecipe.paper(max_steps=150, batch=3, validation_batch=4, learning_rate=1e-3, sigma=0.05)
    train(model, recipe)
    first, *_, last = model.history["loss_db"]
    assert last < first - 0.3


def test_rates_are_relative_to_what_is_trained(small_problem, small_weight, decoder, monkeypatch):
    rates = []
    step = cuista.training.adam.Adam.step

    def record(adam, ops, parameters, gradients, step_rates, *rest, **options):
        rates.append(step_rates)
        return step(adam, ops, parameters, gradients, step_rates, *rest, **options)

    monkeypatch.setattr(cuista.training.adam.Adam, "step", record)
    encoder = cuista.EncoderModel.new(small_problem, layers=3)
    sizes = np.sqrt(np.square(encoder.network.parameters["step_matrix"]).mean(axis=(1, 2)))
    train(encoder, replace(SMALL_ENCODER, max_steps=1))
    np.testing.assert_allclose(rates[-1]["step_matrix"], 0.5 * 1e-3 * sizes, rtol=1e-5)  # halfway down the cosine
    train(cuista.RobustModel.new(decoder, encoder), replace(SMALL_ROBUST, max_steps=1, psteps=2))
    sizes = np.sqrt(np.square(encoder.network.parameters["step_matrix"]).mean(axis=(1, 2)))
    np.testing.assert_allclose(rates[-1]["step_matrix"], 0.5 * 1e-3 * sizes, rtol=1e-5)
    assert rates[-1]["threshold"] == pytest.approx(0.5 * SMALL_ROBUST.learning_rate)
    # The better LISTA already is, the more slowly its matrices are trained, from the first stage on.
    lista = train(cuista.Model.new(small_problem, small_weight, "lista", layers=3), QUICK_FAST)
    train(lista, replace(SMALL_ROBUST, max_steps=1, psteps=2), task=Robust())
    begun = lista.history["nmse_db"][0]
    assert rates[-1]["weight"] == pytest.approx(0.5 * lista.network.matrix_rate(begun), rel=1e-6)


def test_joint_training_helps_under_perturbation(decoder, trained_encoder):
    recipe = replace(SMALL_ROBUST, max_steps=60)
    model = train(cuista.RobustModel.new(decoder, trained_encoder), recipe)
    last_stage = model.history["nmse_db"][model.history["stage"] == 1]
    assert model.training["validation_nmse_db"] == last_stage.min() <= last_stage[0]
    assert np.abs(model.network.parameters["step_matrix"] - trained_encoder.network.parameters["step_matrix"]).max() > 0


def test_a_learned_ridge_moves(decoder):
    model = train(cuista.RobustModel.new(decoder, ridge=0.05), replace(SMALL_ROBUST, msigma=0.05))
    assert model.network.parameters["ridge"][0] != 0.05
    assert model.network.parameters["ridge"][0] > 0


def kinds(decoder, trained_encoder, small_problem, small_weight):
    """Functions that make each kind of untrained model that can be trained under perturbation."""

    def copy(model):
        parameters = {name: value.copy() for name, value in model.network.parameters.items()}
        return cuista.Model.new(small_problem, small_weight, layers=4, parameters=parameters)

    return {
        "encoder": lambda: cuista.EncoderModel.new(small_problem, layers=3),
        "robust": lambda: cuista.RobustModel.new(decoder, trained_encoder),
        "exact": lambda: cuista.RobustModel.new(decoder, ridge=0.1),
        "alista": lambda: copy(decoder),
        "tilista": lambda: cuista.Model.new(small_problem, small_weight, "tilista", layers=4),
        "lista-cpss": lambda: cuista.Model.new(small_problem, small_weight, "lista-cpss", layers=4, untied=True),
    }


@pytest.mark.parametrize("recipe", ["fast", "paper"])
@pytest.mark.parametrize("kind", ["encoder", "robust", "exact", "alista", "tilista", "lista-cpss"])
def test_a_run_interrupted_within_a_stage_resumes_to_the_same_bits(
    decoder, trained_encoder, small_problem, small_weight, tmp_path, kind, recipe
):
    new = kinds(decoder, trained_encoder, small_problem, small_weight)[kind]
    chosen = {"fast": SMALL_ROBUST, "paper": PAPER_ROBUST}[recipe]
    if kind == "encoder":
        chosen = SMALL_ENCODER if recipe == "fast" else EncoderRecipe.paper(max_steps=30, batch=2, validation_batch=3)
    task = Encoding() if kind == "encoder" else Robust()
    expected = train(new(), chosen, task=task, seed=3)
    out, steps = tmp_path / "out.h5", 0

    def interrupt(progress):
        nonlocal steps
        steps += 1
        if steps in (5, 17):  # in the first stage and in the second
            os.kill(os.getpid(), signal.SIGINT)

    interruptions = 0
    while not out.exists():
        model = new()
        try:
            train(model, chosen, task=task, seed=3, out=out, resume=True, progress=interrupt)
        except KeyboardInterrupt:
            interruptions += 1
            assert checkpoint_path(out).exists()
    assert interruptions == 2
    loaded = type(model).load(out)
    for name, value in expected.network.parameters.items():
        assert (model.network.parameters[name] == value).all()
        assert (loaded.network.parameters[name] == value).all()
    for name, column in expected.history.items():
        assert (loaded.history[name] == column).all()


def test_a_run_goes_on_from_the_decoder_it_began_with_only(decoder, small_problem, small_weight, tmp_path):
    out = tmp_path / "out.h5"

    def interrupt(progress):
        os.kill(os.getpid(), signal.SIGINT)

    with contextlib.suppress(KeyboardInterrupt):
        train(cuista.RobustModel.new(decoder), SMALL_ROBUST, out=out, progress=interrupt)
    assert checkpoint_path(out).exists()
    other = cuista.Model.new(small_problem, small_weight, layers=4)
    with pytest.raises(FileError, match="decoder_sha256"):
        train(cuista.RobustModel.new(other), SMALL_ROBUST, out=out, resume=True)


def test_recipes_are_for_what_they_are_for(decoder, trained_encoder):
    for model, recipe in (
        (trained_encoder, SMALL_ROBUST),
        (cuista.RobustModel.new(decoder), cuista.FastRecipe()),
        (decoder, SMALL_ENCODER),
    ):
        with pytest.raises(InputError, match=f"{type(recipe).__name__} does not train"):
            train(model, recipe)
    with pytest.raises(InputError, match="not trained for the task 'robust'"):
        train(trained_encoder, task=Robust())


# -- models -----------------------------------------------------------------------------------------------------------


def test_a_robust_model_computes_where_and_as_precisely_as_its_decoder(small_problem, small_weight):
    ops = ReferenceOps()
    model = cuista.RobustModel.new(cuista.Model.new(small_problem, small_weight, layers=2, ops=ops, dtype=np.float64))
    assert (model.network.ops, model.network.dtype) == (ops, np.float64)
    given = cuista.RobustModel.new(cuista.Model.new(small_problem, small_weight, layers=2), ops=ops, dtype=np.float64)
    assert (given.network.ops, given.network.dtype) == (ops, np.float64)


def test_a_decoder_and_an_encoder_of_different_matrices_are_refused(decoder, small_problem):
    other = cuista.normalize_columns(cuista.random_matrix(20, 40, seed=9))
    with pytest.raises(InputError, match="different matrices"):
        cuista.RobustModel.new(decoder, cuista.EncoderModel.new(cuista.Problem(other)))
    with pytest.raises(InputError, match="20×40, and the encoder for 10×40"):
        cuista.RobustModel.new(decoder, cuista.EncoderModel.new(cuista.Problem(cuista.normalize_columns(other[:10]))))
    tilista = cuista.Model.new(small_problem, cuista.solve_exact(small_problem.A), "tilista")
    with pytest.raises(InputError, match="expected ALISTA"):
        cuista.RobustModel.new(tilista)


@pytest.mark.parametrize("kind", ["learned", "weighted", "exact", "ridge"])
def test_a_robust_model_survives_its_file(decoder, trained_encoder, small_problem, tmp_path, kind):
    Q = np.random.default_rng(0).uniform(1, 2, (40, 40))
    inner = {"learned": trained_encoder, "weighted": cuista.EncoderModel.new(small_problem, loss="expl2", Q=Q)}.get(
        kind
    )
    model = cuista.RobustModel.new(decoder, inner, ridge=0.2 if kind == "ridge" else None)
    model.save(tmp_path / "robust.h5")
    loaded = cuista.RobustModel.load(tmp_path / "robust.h5")
    A_perturbed = perturb(small_problem.A, Key(0, 1), np.array([0.02]), CpuOps())[0]
    x, _ = small_problem.sample(20)
    y = x @ A_perturbed.T
    first, second = (each.model_for(A_perturbed).recover(y) for each in (model, loaded))
    assert (first == second).all()
    assert loaded.origin == model.origin
    if inner is not None:
        inner.save(tmp_path / "encoder.h5")
        again = cuista.EncoderModel.load(tmp_path / "encoder.h5")
        assert (again.weights(A_perturbed[None]) == inner.weights(A_perturbed[None])).all()


def test_a_robust_model_for_signals_without_negative_entries_finds_none(small_problem, small_weight, tmp_path):
    problem = replace(small_problem, positive=True)
    model = cuista.RobustModel.new(train(cuista.Model.new(problem, small_weight, layers=4), QUICK_FAST))
    model.save(tmp_path / "robust.h5")
    matrix = perturb(problem.A, Key(0, 1), np.array([0.01]), CpuOps())[0]
    for each in (model, cuista.RobustModel.load(tmp_path / "robust.h5")):
        found = each.model_for(matrix)
        assert found.problem.positive
        x = found.recover(found.problem.sample(50)[1])
        assert x.min() == 0 < x.max()


def test_a_damaged_robust_model_is_said_to_be_damaged(decoder, trained_encoder, tmp_path):
    path = tmp_path / "robust.h5"
    model = cuista.RobustModel.new(decoder, trained_encoder)
    for change in (
        lambda record: record.arrays.pop("parameters/step_matrix"),
        lambda record: record.attributes.pop("encoder"),
        lambda record: record.arrays["parameters/step_matrix"].__setitem__((0, 0, 0, 0), np.nan),
    ):
        record = model.record("cuista-robust")
        record.arrays = {name: value.copy() for name, value in record.arrays.items()}
        change(record)
        storage.write(path, record, overwrite=True)
        with pytest.raises(FileError, match="damaged"):
            cuista.RobustModel.load(path)


def test_a_matrix_that_does_not_fit_is_refused(decoder):
    model = cuista.RobustModel.new(decoder)
    for matrix, message in ((np.ones((40, 20)), "transposed"), (np.full((20, 40), np.nan), "NaN")):
        with pytest.raises(InputError, match=message):
            model.model_for(matrix)


def test_the_exact_encoder_has_the_ridge_of_the_decoders_weight(small_problem):
    noisy = replace(small_problem, snr_db=20.0)
    decoder = train(cuista.Model.new(noisy, cuista.solve_exact(noisy.A, ridge=3.0), layers=4), QUICK_FAST)
    _, y = noisy.sample(50)
    again = cuista.RobustModel.new(decoder).model_for(noisy.A)
    np.testing.assert_allclose(again.recover(y), decoder.recover(y), atol=1e-5)
    assert cuista.RobustModel.new(decoder).network.shapes.keys() == {"step_size", "threshold"}


# -- evaluation -------------------------------------------------------------------------------------------------------


def test_an_exact_weight_survives_perturbation_and_a_fixed_one_does_not(
    decoder, trained_encoder, small_problem, monkeypatch
):
    monkeypatch.setattr("cuista.evaluation.robustness.MOST_ITERATIONS", 1000)
    perturbed = PerturbedSet.new(small_problem, [0.0, 0.05], 2, 200)
    models = {"plain": decoder, "robust": cuista.RobustModel.new(decoder, trained_encoder)}
    results = {result.method: result for result in evaluate_robustness(perturbed, models)}
    assert list(results) == ["plain", "plain + exact W", "robust", "robust + exact W", "fista 4", "fista, to its end"]
    assert results["plain"].mean_db[0] == pytest.approx(results["plain + exact W"].mean_db[0], abs=1e-3)
    assert results["plain"].mean_db[1] > results["plain + exact W"].mean_db[1] + 3
    assert results["fista, to its end"].mean_db[1] < results["fista 4"].mean_db[1]
    for name, result in results.items():
        assert np.isfinite(result.seconds_per_matrix) == (name not in ("plain", "fista 4", "fista, to its end"))


@pytest.mark.slow
def test_fista_runs_on_over_plateaus_to_its_end(monkeypatch):
    monkeypatch.setattr("cuista.evaluation.robustness.RELATIVE_LAMBDAS", np.geomspace(1e-6, 1e-4, 3))
    A = cuista.normalize_columns(cuista.random_matrix(50, 100, seed=3))
    perturbed = PerturbedSet.new(cuista.Problem(A, pnz=0.04), [0.0, 0.02], 1, 40)
    (result,) = evaluate_robustness(perturbed, {})
    assert result.method == "fista, to its end"
    # Without noise, signals this sparse are recovered exactly as λ approaches 0, which takes thousands of iterations.
    assert (result.nmse_db < -90).all()
    assert result.iterations > 3000


def test_the_nmse_of_a_level_is_the_mean_in_db():
    result = RobustResult("method", np.array([[-10.0, -30.0]]), 16)
    assert result.mean_db.tolist() == [-20.0]


def test_without_an_exact_weight_the_rest_is_tested(quick_recipe, monkeypatch):
    monkeypatch.setattr("cuista.evaluation.robustness.MOST_ITERATIONS", 500)
    tall = cuista.Problem(cuista.normalize_columns(cuista.random_matrix(50, 40)), pnz=0.1)
    model = train(cuista.Model.new(tall, cuista.solve_exact(tall.A), layers=2), quick_recipe)
    said = []
    perturbed = PerturbedSet.new(tall, [0.01], 1, 20)
    methods = [result.method for result in evaluate_robustness(perturbed, {"tall": model}, say=said.append)]
    assert methods == ["tall", "fista 2", "fista, to its end"]
    assert "tall + exact W is left out: the matrix is tall" in said[0]


def test_an_encoder_is_set_beside_the_exact_weight(small_problem):
    model = cuista.EncoderModel.new(small_problem)
    for result in evaluate_encoder(model, 0.02, 3):
        assert result.exact_objective <= result.objective * (1 + 1e-6)
        # The loss of the exact weight is half of its objective, up to the rounding of float32.
        assert result.exact_loss == pytest.approx(result.exact_objective / 2, rel=1e-4)


# -- the command line -------------------------------------------------------------------------------------------------

PROBLEM = ("--m", 20, "--n", 40, "--pnz", 0.05, "--seed", 1)
QUICK = ("--max-steps", 6, "--matrices", 2, "--batch", 4, "--validation-batch", 20)


@pytest.fixture
def files(run, decoder, trained_encoder, quick_recipe, monkeypatch):
    monkeypatch.setattr("cuista.tasks.robust.FastRecipe", lambda: quick_recipe)  # for decoders trained in a run
    decoder.save("alista.h5")
    trained_encoder.save("encoder.h5")
    decoder.problem.save("problem.h5")
    return run


@pytest.mark.slow
def test_from_an_encoder_to_a_figure(files, monkeypatch):
    monkeypatch.setattr("cuista.evaluation.robustness.MOST_ITERATIONS", 500)
    run = files
    short = ("--max-steps", 5, "--matrices", 2, "--validation-batch", 2, "-o", "e.h5")
    run("train", "problem.h5", "--task", "encoder", "--net", "atow", "--layers", 2, "--loss", "rel2", *short)
    assert "validation loss" in run.errors
    rows = run("test", "e.h5", "--samples", 2).splitlines()
    assert rows[-1].split()[0] == "mean"
    assert len(rows) == 4
    assert json.loads(run("test", "e.h5", "--samples", 2, "--sigma", 0.03, "--json"))["sigma"] == 0.03
    run("train", "--task", "robust", "--encoder", "e.h5", "--decoder", "alista.h5", *QUICK, "-o", "robust.h5")
    run("train", "--task", "robust", "--encoder", "exact", "--decoder", "alista.h5", *QUICK, "-o", "exact.h5")
    run("train", "problem.h5", "--task", "robust", "--net", "tilista", "-T", 2, *QUICK, "-o", "aug.h5")
    assert "Training the decoder first; it is kept in aug.decoder.h5" in run.errors
    made = ("--sigma", 0.01, "--sigma", 0.04, "--count", 2, "--samples", 30)
    run("gen-problem", "--perturbed", "--problem", "problem.h5", *made, "-o", "set.h5")
    command = ("test", "robust.h5", "exact.h5", "aug.h5", "alista.h5", "--perturbed", "set.h5")
    table = run(*command)
    for method in ("robust", "robust + exact W", "exact", "aug", "alista", "alista + exact W", "fista 4", "to its end"):
        assert method in table
    report = json.loads(run(*command, "--json", "-o", "report.h5"))
    assert report["sigmas"] == [0.01, 0.04]
    assert [len(row["nmse_db"]) for row in report["results"]] == [2] * 9
    run("plot", "report.h5", "-o", "robust.png")
    assert len(Robustness.load("report.h5").results) == 9
    run("info", "robust.h5")
    run("plot", "robust.h5", "-o", "parameters.png")


def test_the_same_test_set_from_a_problem_and_from_its_options(files):
    files("gen-problem", "--perturbed", "--problem", "problem.h5", "--sigma", 0.02, "--count", 1, "-o", "a.h5")
    files("gen-problem", "--perturbed", *PROBLEM, "--sigma", 0.02, "--count", 1, "-o", "b.h5")
    first, second = map(PerturbedSet.load, ("a.h5", "b.h5"))
    assert first.problem.sha256 == second.problem.sha256
    assert first.matrices.shape == (1, 1, 20, 40)


def test_measurements_of_another_matrix_are_recovered(files, small_problem):
    run = files
    A_perturbed = perturb(small_problem.A, Key(0, 1), np.array([0.05]), CpuOps())[0]
    x, _ = small_problem.sample(300)
    np.save("y.npy", x @ A_perturbed.T.astype(np.float32))
    np.save("A.npy", A_perturbed)
    run("train", "--task", "robust", "--encoder", "encoder.h5", "--decoder", "alista.h5", *QUICK, "-o", "robust.h5")

    def error(*words):
        run("recover", *words, "--force")
        return np.square(np.load("x.npy") - x).sum() / np.square(x).sum()

    assert error("alista.h5", "y.npy", "--matrix", "A.npy") < 0.5 * error("alista.h5", "y.npy")
    assert error("robust.h5", "y.npy", "--matrix", "A.npy") < 0.7 * error("robust.h5", "y.npy")


def test_the_originals_name_for_robust_alista_names_its_task(files):
    files("train", "problem.h5", "-n", "robust_ALISTA", "--encoder", "exact", "--psteps", 1, fails=1)
    assert "psteps is 1; expected 2 or more" in files.errors


def test_an_interrupted_curriculum_is_continued_by_the_same_command(files, start, tmp_path):
    words = ("train", "--task", "robust", "--encoder", "encoder.h5", "--decoder", "alista.h5", "--max-steps", 4000)
    process = start(*words, "-o", "r.h5", "--checkpoint-every", 0)
    checkpoint = tmp_path / "r.h5.ckpt"
    while not checkpoint.exists():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in errors
    files(*words, "-o", "r.h5", fails=1)
    assert "--resume" in files.errors
    files(*words[:-1], 5, "-o", "r.h5", "--resume", fails=1)
    assert "max_steps (then 4000, now 5)" in files.errors


@pytest.mark.slow
def test_a_run_interrupted_while_its_decoder_trains_goes_on_there(files, interrupt, tmp_path):
    words = ("train", "problem.h5", "--task", "robust", "--net", "tilista", "-T", 4, *QUICK, "-o", "r.h5")
    interrupt(*words, when=lambda at, name: name == "decoder: " and at.stage_number == 2)
    checkpoint = tmp_path / "r.decoder.h5.ckpt"
    assert checkpoint.exists()
    assert "--resume" in files.errors
    files(*words, fails=1)
    assert "r.decoder.h5.ckpt holds an unfinished run" in files.errors
    files(*words, "--resume")
    assert not checkpoint.exists()
    files(*words[:-1], "whole.h5")
    resumed, whole = (cuista.Model.load(name).network.parameters for name in ("r.h5", "whole.h5"))
    assert all((resumed[name] == value).all() for name, value in whole.items())


def test_a_decoder_of_another_run_is_not_taken_for_this_ones(files):
    words = ("train", "problem.h5", "--task", "robust", *QUICK, "-o", "r.h5")
    files(*words, "-T", 2)
    os.remove("r.h5")
    files(*words, "-T", 2, fails=1)
    assert "r.decoder.h5 exists already" in files.errors
    assert "Computing the analytic" not in files.errors
    files(*words, "-T", 3, "--seed", 4, "--resume", fails=1)
    assert "seed (then 0, now 4)" in files.errors
    assert "layers (then 2, now 3)" in files.errors
    files(*words, "-T", 2, "--resume")
    assert cuista.Model.load("r.h5").network.layers == 2
    files(*words, "-T", 2, "--resume")
    assert "r.h5 is complete: nothing to resume." in files.errors
    Path("r.h5").rename("r.h5.ckpt")
    files(*words, "-T", 2, "--resume", fails=1)  # r.h5.ckpt is no checkpoint, but it is not deleted
    Path("r.h5.ckpt").rename("r.h5")
    files(*words, "-T", 2, "--psteps", 3, "--resume", fails=1)
    assert "r.h5 is from another run, which differs in psteps (then 5, now 3)" in files.errors


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ("train problem.h5 --task encoder --net alista", 2, "expected atow; alista is for --task sc"),
        ("train problem.h5 --task sc --net atow", 2, "--task sc"),
        ("train problem.h5 --psigma-max 0.1", 2, "--psigma-max is for --task robust"),
        ("train problem.h5 --loss l1", 2, "--loss is for --task encoder"),
        ("train problem.h5 --task encoder --untied", 2, "--untied"),
        ("train problem.h5 --task encoder --lr-decay 0.1", 2, "--lr-decay"),
        ("train problem.h5 --task encoder --batch 4", 2, "--batch is for --task sc"),
        ("train other-problem.h5 --task robust --encoder encoder.h5", 1, "different matrices"),
        ("train tall.h5 --task robust --encoder exact", 1, "the matrix is tall (50×40)"),
        ("train problem.h5 --task robust --encoder exact --ridge 0", 1, "ridge is 0"),
        ("train --task robust --net hyperlista --decoder alista.h5", 2, "hyperlista is for --task sc"),
        ("train problem.h5 --task encoder --loss rel2 --loss-weights Q.npy", 1, "weights of its own"),
        ("train problem.h5 --task encoder --loss l2 --loss-weights bad.npy", 1, "expected (40, 40)"),
        ("train problem.h5 --task encoder --loss l2 --loss-weights nan.npy", 1, "NaN"),
        ("train missing.h5 --task encoder", 1, "missing.h5 does not exist"),
        ("train --task robust --encoder encoder.h5 --decoder alista.h5 --psigma-max 0", 1, "psigma_max is 0"),
        ("train --task robust --encoder encoder.h5 --decoder alista.h5 --psigma-max -1", 1, "psigma_max is -1"),
        ("train --task robust --encoder encoder.h5 --decoder alista.h5 --psigma-max nan", 1, "psigma_max is nan"),
        ("train --task robust --encoder encoder.h5 --decoder alista.h5 --psteps 1", 1, "psteps is 1"),
        ("train --task robust --encoder encoder.h5 --decoder alista.h5 -T 3", 2, "-T is for a decoder trained here"),
        ("train --task robust --encoder encoder.h5 --net tilista", 2, "the decoder is alista"),
        ("train --task robust --encoder alista.h5 --decoder alista.h5", 1, "expected cuista-encoder"),
        ("train --task robust --encoder missing.h5 --decoder alista.h5", 1, "does not exist"),
        ("train --task robust --encoder cut.h5 --decoder alista.h5", 1, "damaged"),
        ("train --task robust --encoder encoder.h5 --decoder other.h5", 1, "different matrices"),
        ("train other-problem.h5 --task robust --encoder encoder.h5 --decoder alista.h5", 1, "another matrix"),
        ("train --task robust --encoder exact --decoder alista.h5 --ridge auto", 2, "--ridge auto"),
        ("train --task robust --decoder alista.h5 --ridge 1", 2, "--ridge is for a decoder trained here"),
        ("train --task robust --decoder alista.h5 --encoder-rate 1e-9 --recipe fast", 2, "only the paper recipe"),
        ("train --task robust --decoder alista.h5 --recipe paper --matrix-rate 1", 2, "only the fast recipe"),
        ("train --task robust", 2, "give a --decoder, or a PROBLEM to train one on"),
        ("gen-problem --sigma 0.1", 2, "--sigma is for --task robust"),
        ("gen-problem --perturbed --conv", 2, "give one of them"),
        ("gen-problem --perturbed --problem problem.h5 --m 3", 2, "the file of --problem has its own"),
        ("gen-problem --perturbed --sigma nan --m 20 --n 40", 1, "expected one or more numbers"),
        ("gen-problem --perturbed --no-normalize --m 20 --n 40", 1, "unit norm"),
        ("gen-problem --perturbed --problem problem.h5 -o problem.h5", 1, "--force"),
        ("test robust.h5", 2, "--perturbed"),
        ("test alista.h5 encoder.h5", 2, "--perturbed"),
        ("test alista.h5 --perturbed problem.h5", 1, "expected cuista-perturbed"),
        ("test encoder.h5 --perturbed set.h5", 1, "expected cuista-model or cuista-robust"),
        ("test other.h5 --perturbed set.h5", 1, "another matrix"),
        ("test alista.h5 --perturbed set.h5 --samples 3", 2, "--samples is for --task sc"),
        ("test encoder.h5 --x y.npy", 2, "--x is for --task sc"),
        ("recover alista.h5 y.npy --matrix Q.npy", 1, "the model for 20×40"),
        ("recover tilista.h5 y.npy --matrix A.npy", 1, "expected ALISTA"),
        ("plot set.h5", 1, "expected"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(files, decoder, small_problem, small_weight, words, status, said):
    rng = np.random.default_rng(0)
    other = cuista.Problem(cuista.normalize_columns(rng.standard_normal((20, 40))))
    other.save("other-problem.h5")
    cuista.Problem(cuista.normalize_columns(rng.standard_normal((50, 40)))).save("tall.h5")
    cuista.Model.new(other, cuista.solve_exact(other.A), layers=2).save("other.h5")
    cuista.Model.new(small_problem, small_weight, "tilista", layers=2).save("tilista.h5")
    cuista.RobustModel.new(decoder).save("robust.h5")
    PerturbedSet.new(small_problem, [0.01], 1, 5).save("set.h5")
    np.save("Q.npy", np.ones((40, 40)))
    np.save("bad.npy", np.ones((40, 20)))
    np.save("nan.npy", np.full((40, 40), np.nan))
    np.save("y.npy", np.ones((3, 20)))
    np.save("A.npy", small_problem.A)
    with open("encoder.h5", "rb") as whole, open("cut.h5", "wb") as cut:
        cut.write(whole.read()[:4000])
    before = sorted(os.listdir())
    files(*words.split(), fails=status)
    assert said in files.errors
    assert sorted(os.listdir()) == before
