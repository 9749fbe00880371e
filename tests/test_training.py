"""Training: recipes, the optimizer, and runs that are interrupted, resumed or diverge."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import replace

import numpy as np
import pytest

import cuista
from cuista import FastRecipe, PaperRecipe, train
from cuista.counter import VALIDATION
from cuista.errors import DivergedError, FileError, InputError
from cuista.messages import CuistaWarning
from cuista.metrics import nmse_db
from cuista.networks import NETWORKS
from cuista.ops import CpuOps
from cuista.tasks.sparse_coding import SignalSource
from cuista.training import SearchRecipe, checkpoint_path
from cuista.training.adam import Adam

QUICK_PAPER = PaperRecipe(batch=16, validation_batch=50, better_wait=40, max_steps=150)


def same(model, other):
    """Whether two models agree bit for bit, including their histories."""
    parameters = [(model.network.parameters[name], other.network.parameters[name]) for name in model.network.parameters]
    history = [(model.history[name], other.history[name]) for name in model.history]
    return all(np.array_equal(a, b) for a, b in parameters + history) and model.training == other.training


def fresh(small_model):
    return cuista.Model.new(small_model.problem, small_model.weight, layers=4)


def test_adam_is_tensorflows():
    adam, ops, factors, parameters, m, v = Adam(), CpuOps(), np.ones(1), {"p": np.zeros(1)}, 0.0, 0.0
    for t in range(1, 30):
        gradient, before = np.sin(t) * 1e-7, parameters["p"][0]  # so small that ε matters
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        expected = 0.01 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(v) + 1e-8)
        adam.step(ops, parameters, {"p": np.array([gradient])}, {"p": 0.01}, factors)
        assert before - parameters["p"][0] == pytest.approx(expected, rel=1e-9)


def test_a_parameter_with_no_gradient_stays():
    parameters = {"p": np.array([1.0, 2.0])}
    Adam().step(CpuOps(), parameters, {"p": np.array([1.0, 0.0])}, {"p": 0.1}, np.ones(2))
    assert parameters["p"][1] == 2


def test_a_logarithmic_parameter_moves_by_a_factor():
    parameters, gradient = {"p": np.array([[2.0, 4.0]])}, np.array([[1.0, -3.0]])
    Adam().step(CpuOps(), parameters, {"p": gradient}, {"p": 0.1}, np.ones(1), scale=5.0, logarithmic=("p",))
    np.testing.assert_allclose(parameters["p"], np.array([[2.0, 4.0]]) * np.exp([[-0.1, 0.1]]), rtol=1e-6)


def test_the_paper_recipe_is_the_papers():
    stages = PaperRecipe().stages(16)
    assert len(stages) == 48
    first, second, third = stages[6:9]  # layer 3
    assert [stage.depth for stage in (first, second, third)] == [3, 3, 3]
    np.testing.assert_allclose([s.learning_rate for s in (first, second, third)], [5e-4, 1e-4, 1e-5])
    assert first.factors == (0, 0, 1)
    assert second.factors == third.factors == pytest.approx((0.09, 0.3, 1))
    assert {(s.batch, s.validate_every, s.patience, s.steps, s.window) for s in stages} == {(64, 10, 4000, 200_000, 0)}
    assert not any(s.cosine or s.relative or s.fit for s in stages)


def test_the_paper_recipe_moves_only_what_a_stage_trains(small_model):
    ends = {}

    def progress(p):
        ends[p.stage_number] = small_model.network.parameters["step_size"].copy()

    train(small_model, QUICK_PAPER, progress=progress)
    assert (ends[4] != ends[3]).tolist() == [False, True, False, False]  # only layer 2
    assert (ends[5] != ends[4]).tolist() == [True, True, False, False]  # layer 2 and the layer before it


@pytest.mark.slow
def test_a_paper_stage_ends_when_its_best_validation_is_old(small_model):
    recipe = PaperRecipe(batch=16, validation_batch=50, better_wait=40, max_steps=350)
    last_step = {}
    train(small_model, recipe, progress=lambda p: last_step.update({p.stage_number: p.step}))
    stage, step, nmse = (small_model.history[name] for name in ("stage", "step", "nmse_db"))
    for number, last in last_step.items():
        in_stage = stage == number - 1

        def age(at, in_stage=in_stage):
            so_far = in_stage & (step <= at)
            return at - step[so_far][np.argmin(nmse[so_far])]

        expected = next((at for at in (100, 200, 300) if age(at) > 40), 350) if last >= 100 else None
        assert last == expected
    assert len(set(last_step.values())) > 1  # some stages ended early and some did not


def test_the_model_is_the_best_by_validation_of_the_last_stage(small_model):
    train(small_model, PaperRecipe(learning_rate=0.05, decays=(1.0,), batch=4, validation_batch=50, better_wait=50))
    last = small_model.history["stage"] == small_model.history["stage"].max()
    best = small_model.history["nmse_db"][last].min()
    assert small_model.history["nmse_db"][last][-1] > best  # the last parameters are not the best
    assert small_model.training["validation_nmse_db"] == best
    x, y = small_model.problem.sample(50, stream=VALIDATION, seed=0)
    assert nmse_db(small_model.network, x, y, 4) == best  # the best ones are kept


def test_fast_training_recovers_what_it_was_trained_for(small_model, quick_recipe):
    x, y = small_model.problem.sample(2000)
    before = cuista.evaluate(small_model, x, y).nmse_db[-1]
    train(small_model, quick_recipe)
    after = cuista.evaluate(small_model, x, y).nmse_db[-1]
    assert after < min(before, -7) - 3


def test_a_threshold_per_coordinate_trains_too(small_problem, small_weight, quick_recipe):
    model = cuista.Model.new(small_problem, small_weight, layers=3, per_coordinate=True)
    train(model, quick_recipe)
    threshold = model.network.parameters["threshold"]
    assert threshold.shape == (3, 40)
    assert np.ptp(threshold, axis=1).all()
    train(cuista.Model.new(small_problem, small_weight, layers=2, per_coordinate=True), QUICK_PAPER)


def test_a_seed_gives_the_same_bits_and_another_does_not(small_model, quick_recipe):
    models = [train(fresh(small_model), quick_recipe, seed=seed) for seed in (7, 7, 8)]
    assert same(models[0], models[1])
    assert not same(models[0], models[2])


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
@pytest.mark.parametrize("recipe", ["fast", "paper"])
def test_an_interrupted_run_resumes_to_the_same_bits(small_model, tmp_path, recipe, number, quick_recipe):
    recipe = quick_recipe if recipe == "fast" else QUICK_PAPER
    expected = train(fresh(small_model), recipe, seed=3)
    out = tmp_path / "model.h5"
    done, interruptions = 0, 0

    def interrupt(progress):
        nonlocal done
        done += 1
        if done in (1, 40, 75, 130):  # the first step, and steps within and at the end of stages
            os.kill(os.getpid(), number)

    while not out.exists():
        model = fresh(small_model)
        try:
            train(model, recipe, seed=3, out=out, resume=True, progress=interrupt)
        except KeyboardInterrupt:
            interruptions += 1
            assert checkpoint_path(out).exists()
    assert interruptions >= 2
    assert not checkpoint_path(out).exists()
    assert same(model, expected)
    assert same(cuista.Model.load(out), expected)


def test_a_checkpoint_of_another_run_is_refused_and_says_why(small_model, tmp_path, quick_recipe):
    out = tmp_path / "model.h5"

    def interrupt(progress):
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(fresh(small_model), quick_recipe, seed=3, out=out, progress=interrupt)
    with pytest.raises(FileError, match=r"seed \(then 3, now 4\)"):
        train(fresh(small_model), quick_recipe, seed=4, out=out, resume=True)
    data = checkpoint_path(out).read_bytes()
    checkpoint_path(out).write_bytes(data[: len(data) // 2])
    with pytest.raises(FileError, match="damaged"):
        train(fresh(small_model), quick_recipe, seed=3, out=out, resume=True)


def test_divergence_stops_with_the_last_good_parameters_saved(small_model, tmp_path):
    out = tmp_path / "model.h5"
    with pytest.raises(DivergedError, match=r"diverged.*learning rate.*last-good"):
        train(small_model, PaperRecipe(learning_rate=1e4, validation_batch=50), out=out)
    assert not out.exists()
    good = cuista.Model.load(tmp_path / "model.h5.last-good.h5")
    x, y = good.problem.sample(100)
    assert cuista.evaluate(good, x, y).nmse_db[-1] < 30


@pytest.mark.parametrize("net", ["alista", "lista", "lamp"])
def test_nothing_is_warned_of_before_divergence(small_problem, small_weight, net):  # warnings are errors here
    recipe = FastRecipe(learning_rate=1e4, batch=16, validation_batch=50, layer_steps=3, max_steps=60, matrix_steps=30)
    with pytest.raises(DivergedError, match="diverged"):
        train(cuista.Model.new(small_problem, small_weight, net, layers=6), recipe)


def test_nan_in_training_is_divergence(small_model):
    small_model.network.parameters["step_size"][0] = np.nan
    with pytest.raises(DivergedError, match="nan"):
        train(small_model, QUICK_PAPER)


def test_a_run_that_diverges_goes_on_from_its_best_parameters_with_half_the_rate(
    small_model, tmp_path, caplog, monkeypatch
):
    step, rates = Adam.step, []

    def spoil(self, ops, parameters, gradients, given, *rest, **options):
        rates.append(given["threshold"])
        if len(rates) == 120:
            gradients = {name: np.nan * value for name, value in gradients.items()}
        return step(self, ops, parameters, gradients, given, *rest, **options)

    def interrupt(progress):
        if progress.step in (130, 160, 210):
            os.kill(os.getpid(), signal.SIGINT)

    caplog.set_level("INFO", "cuista")
    monkeypatch.setattr(Adam, "step", spoil)
    recipe, trained, out = (
        FastRecipe(batch=16, validation_batch=100, layerwise=False, max_steps=250),
        [],
        tmp_path / "m.h5",
    )
    for how in ({}, {"out": out, "resume": True, "progress": interrupt}):
        rates.clear()
        model, done = fresh(small_model), False
        while not done:
            with contextlib.suppress(KeyboardInterrupt):
                train(model, recipe, seed=3, **how)
                done = True
            model = model if done else fresh(small_model)
        trained.append(model)
        (stage,) = recipe.stages(4)
        expected = [0.03 * stage.rate_at(t) * (0.5 if t >= 150 else 1) for t in range(250)]
        np.testing.assert_allclose(rates, expected)
    assert same(*trained)
    assert trained[0].history["nmse_db"][-1] < trained[0].history["nmse_db"][0] - 3
    assert caplog.text.count("It goes on from the best parameters with half the learning rate.") == 2


def test_a_network_that_falls_back_goes_on_from_its_best_parameters_three_times(small_model, caplog, monkeypatch):
    errors = iter([-20.0, -18.5, -18.0, -17.5, -17.0, -16.5])  # of the start, and of a validation after every 50 steps
    monkeypatch.setattr(SignalSource, "fall_db", 1.0)
    monkeypatch.setattr(SignalSource, "error_db", lambda *_: next(errors))
    caplog.set_level("INFO", "cuista")
    recipe = FastRecipe(batch=16, validation_batch=100, layerwise=False, max_steps=250)
    with pytest.warns(CuistaWarning, match=r"no step of the last stage was better .* Lower the learning rate"):
        model = train(fresh(small_model), recipe)
    assert caplog.text.count("training fell back after step") == 3
    assert list(model.history["nmse_db"]) == [-20, -17, -16.5]  # the fourth fall is no reason to go back any more


def test_recipes_that_cannot_be_are_refused(small_model):
    for recipe in (FastRecipe(learning_rate=0), FastRecipe(batch=0), PaperRecipe(decays=(0.2, -1))):
        with pytest.raises(InputError, match="greater than 0"):
            train(fresh(small_model), recipe)


def test_the_weight_must_be_the_matrixs(small_problem):
    other = cuista.solve_exact(cuista.normalize_columns(cuista.random_matrix(20, 40, seed=5)))
    with pytest.raises(InputError, match="not one of this problem"):
        cuista.Model.new(small_problem, other)


def test_a_noisy_problem_gets_a_ridge_and_a_clean_one_none():
    A = cuista.normalize_columns(cuista.random_matrix(50, 100))
    said = []
    clean = cuista.choose_ridge(cuista.Problem(A), layers=4, say=said.append)
    assert clean.report.ridge == 0
    assert [float(line.split()[1].rstrip(":")) for line in said[:-1]] == [0, 0.1, 0.4, 1, 3, 10]
    assert said[-1] == "Ridge 0 is best."
    assert cuista.choose_ridge(cuista.Problem(A, snr_db=10), layers=4).report.ridge > 0


# -- the other networks -----------------------------------------------------------------------------------------------

TRAINED = [name for name, kind in NETWORKS.items() if kind.has_gradients]


@pytest.mark.parametrize(
    ("net", "untied"),
    [
        pytest.param(net, untied, marks=pytest.mark.slow if untied and net not in ("lista-cpss", "lamp") else ())
        for net in TRAINED
        for untied in [False, True][: 1 + NETWORKS[net].can_untie]
    ],
)
def test_every_network_trains_by_both_recipes_and_resumes_to_the_same_bits(
    small_problem, small_weight, quick_recipe, tmp_path, net, untied
):
    x, y = small_problem.sample(1000)

    def new():
        return cuista.Model.new(small_problem, small_weight, net, layers=2, untied=untied)

    for recipe in (replace(quick_recipe, max_steps=40, matrix_steps=20), replace(QUICK_PAPER, max_steps=40)):
        expected = train(new(), recipe, seed=3)
        out, steps = tmp_path / f"{recipe.name}.h5", 0

        def interrupt(progress):
            nonlocal steps
            steps += 1
            if steps in (10, 30, 45):
                os.kill(os.getpid(), signal.SIGINT)

        while not out.exists():
            with contextlib.suppress(KeyboardInterrupt):
                train(new(), recipe, seed=3, out=out, resume=True, progress=interrupt)
        assert steps > 45
        model = cuista.Model.load(out)
        assert same(model, expected)
        assert cuista.evaluate(model, x, y).nmse_db[-1] < -1
        np.testing.assert_allclose(model.recover(y), expected.recover(y), atol=1e-6)


@pytest.fixture(scope="module")
def alista(small_problem, small_weight, quick_recipe):
    return train(cuista.Model.new(small_problem, small_weight, layers=3), quick_recipe)


@pytest.mark.parametrize("net", ["lista-cpss", "lista-ss", "tilista", "alista-momentum"])
def test_a_network_that_contains_alista_never_ends_worse(alista, small_problem, small_weight, quick_recipe, net):
    options = {"layers": 3, "untied": NETWORKS[net].can_untie}
    other = train(cuista.Model.new(small_problem, small_weight, net, **options), quick_recipe)
    assert other.training["validation_nmse_db"] <= alista.training["validation_nmse_db"] + 1e-3


def test_the_few_numbers_of_hyperlista_are_found_without_training(small_problem, small_weight):
    model = cuista.Model.new(small_problem, small_weight, "hyperlista", layers=6)
    x, y = small_problem.sample(1000)
    before = cuista.evaluate(model, x, y).nmse_db[-1]
    recipe = SearchRecipe(grid_signals=32, signals=100, evaluations=40, validation_batch=500)
    shown = []
    train(model, recipe, progress=lambda at: shown.append(at.fraction))
    assert cuista.evaluate(model, x, y).nmse_db[-1] < before - 3
    assert shown == sorted(shown)
    assert same(train(cuista.Model.new(small_problem, small_weight, "hyperlista", layers=6), recipe), model)


def test_a_recipe_that_is_not_for_a_network_is_refused(small_problem, small_weight):
    for net, recipe in (("hyperlista", FastRecipe()), ("alista", SearchRecipe())):
        with pytest.raises(InputError, match="expected"):
            train(cuista.Model.new(small_problem, small_weight, net), recipe)


@pytest.mark.slow
@pytest.mark.parametrize(("snr", "goal"), [(float("inf"), -75), (40, -43.5), (30, -33), (20, -22.7)])
def test_the_published_problem_is_solved_to_the_goal(snr, goal):
    problem = cuista.Problem(cuista.normalize_columns(cuista.random_matrix(250, 500, seed=11)), snr_db=snr, seed=11)
    weight = cuista.solve_exact(problem.A) if snr == float("inf") else cuista.choose_ridge(problem)
    model = train(cuista.Model.new(problem, weight))
    x, y = problem.sample(10_000)
    assert cuista.evaluate(model, x, y).nmse_db[-1] < goal
