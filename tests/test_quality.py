"""What is said of an answer without the truth: residuals, usual and unusual samples, intervals, and fits afterwards."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import h5py
import numpy as np
import pytest

import cuista
from cuista import FastRecipe, Problem, storage
from cuista.errors import InputError
from cuista.ops import CpuOps
from cuista.quality import STATISTICS, Quality, statistics
from cuista.solvers import SOLVERS
from cuista.solvers.classical import Fista
from cuista.solvers.improve import Refined, refit

RECIPE = FastRecipe(batch=64, validation_batch=500, layer_steps=30, max_steps=300)
QUICK = FastRecipe(batch=32, validation_batch=200, layer_steps=6, max_steps=30)


@pytest.fixture(scope="module")
def model():
    problem = Problem(cuista.random_matrix(30, 60, seed=1), pnz=0.05, seed=1)
    return cuista.train(cuista.Model.new(problem, layers=8), RECIPE)


def drawn(problem, count=1000, **law):
    return replace(problem, **law).sample(count, seed=5)


def judged(model, y):
    return model.quality(y, model.recover(y))


# -- what is measured -------------------------------------------------------------------------------------------------


def test_statistics_are_what_they_are_called(model):
    problem, ops = model.problem, CpuOps()
    x, y = drawn(problem, 20)
    wrong = np.where(np.arange(60) == 3, x + 0.1, x)
    found = dict(zip(STATISTICS, statistics(problem, y, wrong, ops).T, strict=True))
    np.testing.assert_allclose(found["support_size"], np.count_nonzero(wrong, axis=1))
    with np.errstate(divide="ignore"):
        residual = np.linalg.norm(y - wrong @ problem.given.T, axis=1) / np.linalg.norm(y, axis=1)
    np.testing.assert_allclose(found["relative_residual"], residual, rtol=1e-4)
    size = np.linalg.norm(problem.to_unit(wrong), axis=1)
    some = np.linalg.norm(y, axis=1) > 0
    np.testing.assert_allclose(found["energy"][some], size[some] / np.linalg.norm(y[some], axis=1), rtol=1e-5)
    np.testing.assert_allclose(found["peak"] * size, np.abs(problem.to_unit(wrong)).max(axis=1), rtol=1e-5)
    np.testing.assert_allclose(
        statistics(problem, y, wrong, ops, fixed=True)[:, 2], np.linalg.norm(y, axis=1), rtol=1e-5
    )


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e30])
def test_statistics_do_not_depend_on_units(model, scale):
    problem, ops = model.problem, CpuOps()
    x, y = drawn(problem, 20)
    expected = statistics(problem, y, x, ops)
    np.testing.assert_allclose(statistics(problem, y * scale, x * scale, ops), expected, atol=1e-6)
    columns = np.geomspace(1e-3, 1e3, 60)
    other = Problem(problem.given * columns, pnz=0.05)
    np.testing.assert_allclose(statistics(other, y, x / columns, ops), expected, atol=1e-5)


def test_zero_measurements_are_recovered_as_zeros_and_are_not_unusual(model):
    quality = judged(model, np.zeros((3, 30)))
    assert not quality.statistics.any()
    assert not quality.unusual.any()
    assert quality.zero.all()
    assert repr(quality) == "<Quality of 3 samples: relative residual 0 and 0 non-zeros in the median, 0 unusual>"


def test_one_percent_of_the_usual_signals_seem_unusual(model):
    _, y = drawn(model.problem, 10_000)
    quality = judged(model, y)
    assert 0.005 < quality.unusual.mean() < 0.02
    assert not quality.too_many
    assert not judged(model, y[:500]).differing


@pytest.mark.parametrize(
    "law",
    [{"pnz": 0.03}, {"pnz": 0.08}, {"snr_db": 15.0}, {"magnitude": cuista.Bernoulli(0.5, 1.0, -1.0)}],
    ids=["sparser", "denser", "noisy", "equal"],
)
def test_signals_of_another_law_are_told_apart(model, law):
    _, y = drawn(model.problem, 500, **law)
    assert judged(model, y).differing


def test_too_many_unusual_samples_are_more_than_chance_explains(model):
    _, y = drawn(model.problem, 200, snr_db=0.0)
    quality = judged(model, y)
    assert quality.too_many
    assert quality.summary()["differing"]["relative_residual"]["here"] > 0.1
    usual = np.repeat(np.median(model.reference.statistics, axis=0)[None], 100, axis=0)
    worst = np.array([1.0, 60, 9.0, 9.0, 1.0], np.float32)
    for count, too_many in ((1, False), (4, False), (10, True)):
        found = np.concatenate([usual[count:], np.tile(worst, (count, 1))])
        assert Quality(found, model.reference).unusual.sum() == count
        assert Quality(found, model.reference).too_many == too_many


def test_other_units_are_unusual_only_for_a_network_that_depends_on_them(model):
    _, y = drawn(model.problem, 200)
    assert not judged(model, 1000 * y).too_many
    fixed = cuista.Model.new(model.problem, model.weight, layers=8, unit=0, parameters=model.network.parameters)
    assert judged(fixed, 1000 * y).too_many


def test_a_decoder_that_is_trained_further_is_judged_by_its_new_answers(model):
    further = copy.deepcopy(model)
    recipe = cuista.RobustRecipe(max_steps=3, psteps=2, batch=8, matrices=2, validation_batch=20, validation_matrices=2)
    cuista.train(further, recipe, task=cuista.Robust())
    again = cuista.Model.new(
        model.problem, model.weight, layers=8, unit=further.network.unit, parameters=further.network.parameters
    )
    again.network.reschedule(further.network.percent, further.network.max_percent)
    np.testing.assert_array_equal(further.reference.statistics, again.usual().statistics)


def test_what_is_usual_is_kept_in_the_file_of_a_model(model, tmp_path):
    model.save(tmp_path / "m.h5")
    kept = cuista.Model.load(tmp_path / "m.h5").reference
    np.testing.assert_array_equal(kept.statistics, model.reference.statistics)
    np.testing.assert_array_equal(kept.errors, model.reference.errors)
    assert kept.threshold == model.reference.threshold
    older = storage.read(tmp_path / "m.h5", "cuista-model")
    for name in ("usual/statistics", "usual/errors"):
        del older.arrays[name]
    again = cuista.Model.from_record(older, "m.h5")
    assert again.reference is None
    np.testing.assert_array_equal(again.usual().statistics, kept.statistics)


# -- intervals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_intervals_cover_the_entries_as_often_as_they_say(model, level):
    x, y = drawn(model.problem, 4000)
    answer = model.recover(y)
    lower, upper = model.intervals(y, answer, level)
    covered = (lower <= x) & (x <= upper)
    assert covered.mean() == pytest.approx(level, abs=0.01)
    assert covered[answer != 0].mean() == pytest.approx(level, abs=0.025)


def test_intervals_of_codes_without_negative_entries_have_none_and_cover_them(model):
    positive = cuista.train(cuista.Model.new(replace(model.problem, positive=True), layers=3), QUICK)
    x, y = drawn(positive.problem, 4000)
    lower, upper = positive.intervals(y, positive.recover(y), 0.9)
    assert lower.min() == 0
    assert ((lower <= x) & (x <= upper)).mean() == pytest.approx(0.9, abs=0.01)


def test_intervals_have_the_units_of_the_codes(model):
    _, y = drawn(model.problem, 10)
    answer, columns = model.recover(y), np.geomspace(1e-3, 1e3, 60)
    lower, upper = model.intervals(y, answer)
    for bound, single in zip((lower, upper), model.intervals(y[0], answer[0]), strict=True):
        np.testing.assert_allclose(single, bound[0], atol=1e-5)
    for bound, scaled in zip((lower, upper), model.intervals(1e6 * y, 1e6 * answer), strict=True):
        np.testing.assert_allclose(scaled, 1e6 * bound, rtol=1e-3, atol=1)
    other = Problem(model.problem.given * columns, pnz=0.05, seed=1)
    weight = replace(model.weight, matrix_sha256=other.sha256)
    scaled = cuista.Model.new(other, weight, layers=8, parameters=model.network.parameters)
    scaled.reference = model.reference
    for bound, found in zip((lower, upper), scaled.intervals(y, scaled.recover(y)), strict=True):
        np.testing.assert_allclose(found * columns, bound, atol=1e-4)


@pytest.mark.parametrize("level", [0, 1, 95, np.nan])
def test_the_level_of_intervals_is_a_probability(model, level):
    with pytest.raises(InputError, match="more than 0 and less than 1"):
        model.intervals(np.ones((1, 30)), np.ones((1, 60)), level)


# -- fits afterwards --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-29, 1.0, 1e29])
@pytest.mark.parametrize("norms", [None, 1.0], ids=["unit columns", "columns as they are"])
def test_a_support_is_fitted_by_least_squares(scale, norms):
    rng = np.random.default_rng(2)
    A = rng.standard_normal((30, 60)) * np.geomspace(1e-3, 1e3, 60)
    problem = Problem(A, norms=norms)
    x = np.where(rng.random((5, 60)) < 0.1, rng.standard_normal((5, 60)), 0) / np.geomspace(1e-3, 1e3, 60)
    y = x @ A.T + 0.1 * rng.standard_normal((5, 30))
    found, done = refit(problem, scale * y, np.sign(x))
    assert done.all()
    for code, truth, target in zip(found / scale, x, y, strict=True):
        support = truth != 0
        expected = np.linalg.lstsq(A[:, support], target, rcond=None)[0]
        np.testing.assert_allclose(code[support], expected, rtol=1e-9)
        assert not code[~support].any()


def test_a_fit_without_negative_entries_is_the_best_of_those(rng):
    problem = Problem(rng.standard_normal((10, 30)), positive=True)
    x = np.where(rng.random((20, 30)) < 0.15, 1.0, 0)
    y = rng.standard_normal((20, 10))
    found, done = refit(problem, y, x)
    assert done.all()
    assert found.min() == 0
    # The residual grows with entries of the support that are 0, and no others can lower it (Karush, Kuhn, Tucker).
    slope = (found @ problem.given.T - y) @ problem.given
    np.testing.assert_allclose(slope[found > 0], 0, atol=1e-9)
    assert slope[(x > 0) & (found == 0)].min() > 0


def test_a_support_that_does_not_determine_its_entries_is_left_as_it_is():
    A = cuista.normalize_columns(np.random.default_rng(1).standard_normal((10, 30)))
    A[:, 1] = A[:, 0]
    x = np.zeros((4, 30))
    x[0, :2] = 1  # two equal columns
    x[1, :20] = 1  # more entries than measurements
    x[2, 2:5] = 1
    found, done = refit(Problem(A), np.ones((4, 10)), x)
    assert done.tolist() == [False, False, True, True]
    np.testing.assert_array_equal(found[[0, 1, 3]], x[[0, 1, 3]])


def test_a_fit_makes_up_for_thresholding(model):
    x, y = drawn(model.problem)
    before = model.recover(y)
    after, _ = refit(model.problem, y, before)
    assert cuista.metrics.estimate_nmse_db(after, x) < cuista.metrics.estimate_nmse_db(before, x) - 3


def test_refined_codes_minimise_the_adaptive_lasso():
    rng = np.random.default_rng(3)
    A = cuista.normalize_columns(rng.standard_normal((15, 25)))
    start = np.where(rng.random((4, 25)) < 0.2, rng.standard_normal((4, 25)), 0)
    y = start @ A.T + 0.05 * rng.standard_normal((4, 15))
    found = Fista(Problem(A), 20_000, dtype=np.float64).refine(y, start)
    assert (found.gap < 1e-6).all()
    lam = np.abs((y - start @ A.T) @ A).max(axis=1, keepdims=True)
    weights = lam * (lam / (np.abs(start) + lam)) ** 2
    correlations, present = (y - found.x @ A.T) @ A, found.x != 0
    assert (np.abs(correlations) <= weights * (1 + 1e-3) + 1e-6).all()
    np.testing.assert_allclose(correlations[present], (weights * np.sign(found.x))[present], atol=1e-4)


def test_refined_codes_have_the_units_of_the_problem():
    rng, columns = np.random.default_rng(3), np.geomspace(1e-3, 1e3, 25)
    A = cuista.normalize_columns(rng.standard_normal((15, 25)))
    x, y = rng.standard_normal((2, 3, 25)) * (rng.random((3, 25)) < 0.2), rng.standard_normal((3, 15))
    expected = Fista(Problem(A), 30, dtype=np.float64).refine(y, x[0]).x
    for norms in (None, 1.0):
        problem = Problem(A * columns, norms=norms)
        found = Fista(problem, 30, dtype=np.float64).refine(1e20 * y, 1e20 * x[0] / columns).x
        np.testing.assert_allclose(found * columns, 1e20 * expected, rtol=1e-6, atol=1e12)
    assert not Fista(Problem(A), 30).refine(np.zeros((1, 15)), np.zeros((1, 25))).x.any()


@pytest.mark.parametrize("law", [{}, {"snr_db": 25.0}, {"pnz": 0.08}], ids=["usual", "noisy", "denser"])
def test_steps_of_fista_improve_a_networks_codes(model, law):
    x, y = drawn(model.problem, **law)
    before, after = model.recover(y), Refined(model, 50).recover(y)
    assert cuista.metrics.estimate_nmse_db(after, x) < cuista.metrics.estimate_nmse_db(before, x) - 0.1


# -- the command line -------------------------------------------------------------------------------------------------


def test_recover_says_how_good_its_answer_is(run, model):
    model.save("model.h5")
    x, y = drawn(model.problem, 300)
    np.save("y.npy", y)
    options = ("--interval", 0.9, "--report", "quality.h5", "--json")
    summary = json.loads(run("recover", "model.h5", "y.npy", "-o", "x.h5", *options))
    assert "Relative residual" in run.errors
    assert "of 300 samples look unusual for the model; 1 % is expected" in run.errors
    with h5py.File("x.h5") as file, h5py.File("quality.h5") as report:
        codes, lower, upper = (file[name][()] for name in ("x", "lower", "upper"))
        assert ((lower <= x) & (x <= upper)).mean() == pytest.approx(0.9, abs=0.02)
        residual, size = (np.linalg.norm(each, axis=1) for each in (y - codes @ model.problem.given.T, y))
        np.testing.assert_allclose(report["relative_residual"] * size, residual, rtol=1e-2)
        np.testing.assert_array_equal(report["support_size"], np.count_nonzero(codes, axis=1))
        assert report["unusual"][()].sum() == summary["unusual"]
        largest = report["relative_residual"][()].max()
    assert summary["relative_residual"]["largest"] == pytest.approx(largest, rel=1e-6)
    run("info", "quality.h5")
    run("check", "quality.h5")


def test_recover_warns_of_measurements_that_it_was_not_trained_for(run, model):
    model.save("model.h5")
    np.save("y.npy", np.random.default_rng(1).standard_normal((100, 30)))
    summary = json.loads(run("recover", "model.h5", "y.npy", "--json"))
    assert summary["too_many_unusual"]
    assert "do not look like the signals that the model was trained for" in run.errors


@pytest.mark.parametrize("command", ["recover", "solve"])
def test_debias_fits_the_answer_again(run, model, command):
    model.save("model.h5")
    _, y = drawn(model.problem, 50)
    np.save("y.npy", y)
    reported = [
        json.loads(run(command, "model.h5", "y.npy", "--json", "--force", *more)) for more in ((), ("--debias",))
    ]
    plain, fitted = (found["relative_residual"]["median"] for found in reported)
    assert fitted < plain / 10


@pytest.mark.parametrize("command", ["recover", "solve"])
def test_no_samples_give_no_codes_and_nothing_to_say(run, model, command):
    model.save("model.h5")
    np.save("y.npy", np.zeros((0, 30)))
    assert json.loads(run(command, "model.h5", "y.npy", "--json", "--report", "q.h5")) == {"samples": 0}
    assert np.load("x.npy").shape == (0, 60)


def test_refine_says_how_far_it_has_come(run, model):
    model.save("model.h5")
    x, y = drawn(model.problem, 50)
    np.save("y.npy", y)
    plain = json.loads(run("recover", "model.h5", "y.npy", "--json"))
    found = json.loads(run("recover", "model.h5", "y.npy", "--refine", 30, "--json", "--report", "q.h5", "--force"))
    assert "The largest relative duality gap of the adaptive Lasso is" in run.errors
    assert found["relative_residual"]["median"] < plain["relative_residual"]["median"]
    assert found["unusual"] == plain["unusual"]  # which is judged by the network's own answer
    with h5py.File("q.h5") as report:
        assert report["gap"][()].max() == pytest.approx(found["largest_gap"])
    assert cuista.metrics.estimate_nmse_db(np.load("x.npy"), x) < -30


def test_solve_reports_residuals_and_supports(run, model):
    model.save("model.h5")
    _, y = drawn(model.problem, 20)
    np.save("y.npy", y)
    summary = json.loads(run("solve", "model.h5", "y.npy", "--method", "omp", "--json", "--report", "quality.h5"))
    assert summary["relative_residual"]["median"] < 1e-5
    assert "unusual" not in summary
    with h5py.File("quality.h5") as report:
        assert report["support_size"].shape == (20,)
    assert {SOLVERS["omp"](model.problem).quality(y, np.zeros((20, 60))).relative_residual.max()} == {1.0}


def test_codes_that_fit_any_measurements_are_told(run, model):
    A, rng = model.problem.given, np.random.default_rng(0)
    _, y = drawn(model.problem, 30)
    np.save("A.npy", A)
    np.save("clean.npy", y)
    np.save("noisy.npy", y + 0.05 * y.std() * rng.standard_normal(y.shape))
    run("solve", "A.npy", "clean.npy", "--method", "omp")
    assert "A.npy is a matrix alone, so that omp goes on as if there were no noise" in run.errors
    assert "determine nothing" not in run.errors
    for lam, how in (("", ("omp",)), (" or a larger λ", ("lasso", "--lam", 1e-6))):
        run("solve", "A.npy", "noisy.npy", "--method", *how, "--force")
        assert "30 of 30 codes have about as many non-zeros as there are measurements, 30" in run.errors
        assert f"give --noise-level{lam}. If the samples are columns, give --columns." in run.errors
    run("solve", "A.npy", "noisy.npy", "--method", "omp", "--noise-level", 0.05 * y.std(), "--force")
    assert "determine nothing" not in run.errors
    np.save("zero.npy", 0 * y)
    run("solve", "A.npy", "zero.npy", "--method", "omp", "--force")
    assert "Note: 30 of 30 samples are zero, and so are the codes." in run.errors


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_extreme_units_are_recovered_and_judged(run, model, scale):
    model.save("model.h5")
    _, y = drawn(model.problem, 20)
    y = y / np.abs(y).max(axis=1, keepdims=True, initial=1e-3, where=True)
    np.save("y.npy", y * scale)
    for command in ("recover", "solve"):
        found = json.loads(run(command, "model.h5", "y.npy", "--json", "--debias", "--force"))
        assert found["relative_residual"]["median"] < 1e-2


def test_a_file_without_a_network_is_told_from_one_that_is_missing(run, model):
    np.save("y.npy", np.ones((2, 30)))
    model.problem.save("problem.h5")
    for file, message in (
        ("missing.h5", "missing.h5 does not exist"),
        ("problem.h5", "holds no network"),
        ("y.npy", "cuista solve"),
    ):
        run("recover", file, "y.npy", fails=1)
        assert message in run.errors


def test_options_of_quality_that_make_no_sense_are_refused(run, model):
    model.save("model.h5")
    np.save("y.npy", np.ones((2, 30)))
    for options, message in (
        (("--interval", 0.9), "name an .h5 file"),
        (("--interval", 95, "-o", "x.h5"), "less than 1"),
        (("--interval", 0.9, "--debias", "-o", "x.h5"), "give one of them"),
        (("--interval", 0.9, "--refine", 5, "-o", "x.h5"), "give one of them"),
        (("--refine", 0), "1 or greater"),
    ):
        run("recover", "model.h5", "y.npy", *options, fails=2)
        assert message in run.errors
    run("recover", "model.h5", "y.npy", "-o", "x.h5", "--report", "./x.h5", fails=2)
    assert "name the same file" in run.errors
    run("recover", "model.h5", "y.npy", "--report", "model.h5", fails=1)
    assert "model.h5 exists" in run.errors
