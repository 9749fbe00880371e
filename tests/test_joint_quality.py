"""What is said of complex and joint answers without the truth, and how their errors are counted."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
from scipy.special import erfinv

import cuista
from cuista import FastRecipe, Problem
from cuista.metrics import estimate_nmse_db, nmse_db, report_on
from cuista.ops import CpuOps
from cuista.quality import STATISTICS, Reference, statistics
from cuista.solvers.classical import Fista
from cuista.solvers.improve import Refined, refit

QUICK = FastRecipe(batch=32, validation_batch=200, layer_steps=8, max_steps=60)
# The numbers of entries: real or complex, how many snapshots, and how many neighbours.
FORMS = [(complex, 1, 1), (float, 3, 1), (float, 1, 2), (complex, 2, 2)]
on_forms = pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form[0].__name__}-{form[1]}-{form[2]}")


def joint_problem(form, M=30, N=60, columns=1.0, **law):
    dtype, snapshots, group = form
    A = cuista.normalize_columns(cuista.random_matrix(M, N, seed=1, dtype=dtype)) * columns
    return Problem(A, **{"pnz": 0.05, "seed": 1, **law}, snapshots=snapshots, group=group)


@pytest.fixture(scope="module", params=FORMS, ids=lambda form: f"{form[0].__name__}-{form[1]}-{form[2]}")
def model(request):
    problem = joint_problem(request.param, snr_db=20.0)
    return cuista.train(cuista.Model.new(problem, cuista.solve_exact(problem.A, ridge=0.1), layers=4), QUICK)


def magnitudes(x, group):
    """The magnitudes of the entries of codes (samples, N) or (samples, L, N): (samples, N/G)."""
    squares = np.square(np.abs(x)).reshape(len(x), -1, x.shape[-1] // group, group)
    return np.sqrt(squares.sum(axis=(1, 3)))


# -- errors -----------------------------------------------------------------------------------------------------------


def test_a_report_counts_entries_of_several_numbers_once():
    x = np.zeros((2, 3, 4), complex)
    x[0, 1, 0], x[0, :, 3], x[1, 2, 2] = 1j, 2, 3
    estimate = np.zeros((2, 3, 4), complex)
    estimate[0, 0, 1], estimate[1, 2, 2] = 1 + 1j, 3 + 2j
    expected = {1: ([1, 1], [1, 0], [2, 0]), 2: ([1, 1], [0, 0], [1, 0])}
    for group, (size, positives, negatives) in expected.items():
        report = report_on(lambda y: iter([estimate[: len(y)]]), x, np.zeros((2, 3, 5)), group=group)
        np.testing.assert_allclose(report.squared_error, [[13, 9], [15, 4]])
        np.testing.assert_allclose(report.nmse_db, [0, 10 * np.log10(19 / 22)])
        assert report.support_size[1].tolist() == size
        assert report.false_positives[1].tolist() == positives
        assert report.false_negatives[1].tolist() == negatives
    assert estimate_nmse_db(estimate, x) == pytest.approx(report.nmse_db[1])


def test_nmse_is_the_same_in_and_out_of_training(model):
    x, y = model.problem.sample(600)
    report = cuista.evaluate(model, x, y)
    assert report.nmse_db[-1] == pytest.approx(estimate_nmse_db(model.recover(y), x), abs=1e-4)
    for depth in (1, 4):
        assert nmse_db(model.network, x, y, depth) == pytest.approx(report.nmse_db[depth], abs=1e-4)
    weights = np.repeat([1.0, 0.0], 300)
    half = cuista.evaluate(model, x[:300], y[:300])
    assert nmse_db(model.network, x, y, 4, weights) == pytest.approx(half.nmse_db[-1], abs=1e-4)
    group = model.problem.group
    np.testing.assert_array_equal(report.false_negatives[0], np.count_nonzero(magnitudes(x, group), axis=1))


# -- what is measured -------------------------------------------------------------------------------------------------


@on_forms
def test_statistics_of_joint_codes_are_what_they_are_called(form):
    problem, ops = joint_problem(form, columns=np.geomspace(0.1, 10, 60)), CpuOps()
    x, y = problem.sample(20)
    wrong = np.where(np.arange(60) == 3, x + 0.1, x)
    found = dict(zip(STATISTICS, statistics(problem, y, wrong, ops).T, strict=True))
    m = magnitudes(problem.to_unit(wrong), form[2])
    r, norms = (np.linalg.norm(each.reshape(20, -1), axis=1) for each in (y - wrong @ problem.given.T, y))
    size = np.linalg.norm(m, axis=1)
    np.testing.assert_array_equal(found["support_size"], np.count_nonzero(m, axis=1))
    some = norms > 0
    np.testing.assert_allclose(found["relative_residual"][some] * norms[some], r[some], rtol=1e-4)
    np.testing.assert_allclose(found["energy"][some] * norms[some], size[some], rtol=1e-5)
    np.testing.assert_allclose(found["spread"] * size, m.sum(axis=1), rtol=1e-5)
    np.testing.assert_allclose(found["peak"] * size, m.max(axis=1), rtol=1e-5)
    np.testing.assert_allclose(statistics(problem, y, wrong, ops, fixed=True)[:, 2], norms, rtol=1e-5)
    for scale in (1e-30, 1e30):
        other = statistics(problem, scale * y.astype(problem.A.dtype), scale * wrong.astype(problem.A.dtype), ops)
        np.testing.assert_allclose(other[some], np.stack(list(found.values()), axis=1)[some], atol=1e-5)


def test_one_percent_of_the_usual_joint_signals_seem_unusual(model):
    _, y = model.problem.sample(4000, seed=5)
    quality = model.quality(y, model.recover(y))
    assert 0.004 < quality.unusual.mean() < 0.022
    assert not quality.too_many
    noise = np.random.default_rng(1).standard_normal(y[:200].shape)
    assert model.quality(noise, model.recover(noise)).too_many


# -- intervals and discs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_intervals_and_discs_cover_the_numbers_as_often_as_they_say(model, level):
    x, y = model.problem.sample(4000, seed=5)
    answer = model.recover(y)
    found = model.intervals(y, answer, level)
    assert all(bound.shape == x.shape for bound in found)
    if model.problem.is_complex:
        centre, radius = found
        assert (centre.dtype, radius.dtype) == (np.complex64, np.float32)
        covered = np.abs(x - centre) <= radius
    else:
        covered = (found[0] <= x) & (x <= found[1])
    assert covered.mean() == pytest.approx(level, abs=0.015)
    assert covered[answer != 0].mean() == pytest.approx(level, abs=0.03)


@pytest.mark.parametrize("dtype", [float, complex])
def test_errors_that_are_noise_have_its_distribution(dtype, rng):
    """If a complex e is circular normal, |e|² is exponential, and the disc for p has the radius s √(−ln(1 − p))."""
    problem, shape = joint_problem((dtype, 1, 1)), (2000, 30)
    noise = rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if dtype is complex else 0)
    zeros, weight = np.zeros((2000, 60), dtype), cuista.solve_exact(problem.A)
    reference = Reference.measured(problem, weight, [(zeros, noise, zeros)], CpuOps())
    levels = np.array([0.3, 0.5, 0.9, 0.95])
    expected = np.sqrt(-np.log1p(-levels)) if dtype is complex else np.sqrt(2) * erfinv(levels)
    found = np.interp(levels, np.linspace(0, 1, 1001), reference.errors[0])
    np.testing.assert_allclose(found, expected, rtol=0.03)


def test_discs_have_the_units_of_the_codes():
    problem, columns = joint_problem((complex, 1, 1)), np.geomspace(1e-3, 1e3, 60)
    model = cuista.Model.new(problem, layers=3)
    _, y = problem.sample(10, seed=5)
    answer = model.recover(y)
    found = model.intervals(y, answer)
    for bound, single in zip(found, model.intervals(y[0], answer[0]), strict=True):
        np.testing.assert_allclose(single, bound[0], atol=1e-5)
    for bound, scaled in zip(found, model.intervals(1e6 * y, 1e6 * answer), strict=True):
        np.testing.assert_allclose(scaled, 1e6 * bound, rtol=1e-3, atol=1)
    other = cuista.Model.new(Problem(problem.A * columns, pnz=0.05, seed=1), layers=3)
    other.network.parameters, other.reference = model.network.parameters, model.reference
    for bound, scaled in zip(found, other.intervals(y, other.recover(y)), strict=True):
        np.testing.assert_allclose(scaled * columns, bound, atol=1e-3)


# -- fits afterwards --------------------------------------------------------------------------------------------------


@on_forms
@pytest.mark.parametrize("scale", [1e-29, 1.0, 1e29])
def test_supports_of_joint_entries_are_fitted_by_least_squares(form, scale, rng):
    problem, G = joint_problem(form, columns=np.geomspace(1e-3, 1e3, 60), pnz=0.1), form[2]
    x, y = problem.sample(5, dtype=np.float64)
    y = y + 0.01 * rng.standard_normal(y.shape)
    start = np.where(np.arange(60) % G == 0, x, 0)  # one number stands for the others of its group
    found, done = refit(problem, scale * y, start)
    assert done.all()
    for code, truth, target in zip(found / scale, x, y, strict=True):
        support = np.repeat(magnitudes(truth[None], G)[0] > 0, G)
        expected = np.linalg.lstsq(problem.given[:, support], target.T, rcond=None)[0]
        np.testing.assert_allclose(code[..., support], expected.T, rtol=1e-8, atol=1e-12)
        assert not code[..., ~support].any()


def test_a_joint_support_that_does_not_determine_its_entries_is_left_as_it_is():
    A = cuista.normalize_columns(cuista.random_matrix(10, 30, seed=1, dtype=complex))
    A[:, 1] = 1j * A[:, 0]  # columns that differ by a phase
    x = np.zeros((3, 2, 30), complex)
    x[0, 0, 0] = x[0, 1, 1] = x[1, 0, :11] = x[2, 1, 2] = 1
    found, done = refit(Problem(A, snapshots=2), np.ones((3, 2, 10)), x)
    assert done.tolist() == [False, False, True]
    np.testing.assert_array_equal(found[:2], x[:2])


@on_forms
def test_refined_joint_codes_minimise_the_adaptive_lasso(form, rng):
    problem, G = joint_problem(form, M=15, N=24, pnz=0.15), form[2]
    start, y = problem.sample(4, dtype=np.float64)
    y = y + 0.05 * rng.standard_normal(y.shape)
    found = Fista(problem, 5000, dtype=np.float64).refine(y, start)
    assert found.gap.max() < 1e-6
    A, lam = problem.A, magnitudes((y - start @ problem.A.T) @ problem.A.conj(), G).max(axis=1, keepdims=True)
    weights = lam * (lam / (magnitudes(start, G) + lam)) ** 2
    correlations = (y - found.x @ A.T) @ A.conj()
    m, c = magnitudes(found.x, G), magnitudes(correlations, G)
    assert (c <= weights * (1 + 1e-2) + 1e-6).all()
    np.testing.assert_allclose(c[m > 1e-6], weights[m > 1e-6], rtol=1e-2, atol=1e-4)


def test_fits_and_steps_improve_a_networks_joint_codes(model):
    x, y = model.problem.sample(500, seed=5)
    before = model.recover(y)
    fitted, _ = refit(model.problem, y, before)
    refined = Refined(model, 50).recover(y)
    assert estimate_nmse_db(refined, x) < estimate_nmse_db(before, x) - 1
    assert statistics(model.problem, y, fitted, CpuOps())[:, 0].max() < 0.5


# -- the command line -------------------------------------------------------------------------------------------------


def test_recover_says_how_good_its_joint_answer_is(run, model):
    model.save("model.h5")
    x, y = model.problem.sample(300, seed=5)
    np.save("y.npy", y)
    names = ("centre", "radius") if model.problem.is_complex else ("lower", "upper")
    options = ("--interval", 0.9, "--report", "quality.h5", "--json")
    summary = json.loads(run("recover", "model.h5", "y.npy", "-o", "x.h5", *options))
    what = "Discs" if model.problem.is_complex else "Intervals"
    assert f"{what} ({', '.join(names)}) contain 90 % of the true entries" in run.errors
    with h5py.File("x.h5") as file, h5py.File("quality.h5") as report:
        codes, first, second = (file[name][()] for name in ("x", *names))
        inside = np.abs(x - first) <= second if model.problem.is_complex else (first <= x) & (x <= second)
        assert inside.mean() == pytest.approx(0.9, abs=0.02)
        sizes = np.count_nonzero(magnitudes(codes, model.problem.group), axis=1)
        np.testing.assert_array_equal(report["support_size"], sizes)
    assert summary["support_size"]["largest"] == sizes.max()
    for more in (("--debias",), ("--refine", 20)):
        after = json.loads(run("recover", "model.h5", "y.npy", "--json", "--force", *more))
        assert after["relative_residual"]["median"] < summary["relative_residual"]["median"]


@pytest.mark.parametrize("method", ["fista", "amp", "omp"])
def test_solve_recovers_joint_codes(run, model, method):
    model.problem.save("problem.h5")
    x, y = model.problem.sample(20, seed=5)
    np.save("y.npy", y)
    numbers = model.problem.snapshots * model.problem.group
    lam = {"fista": ("--lam", "5%"), "amp": ("--lam", 1.3 * np.sqrt(numbers)), "omp": ()}[method]
    run("solve", "problem.h5", "y.npy", "--method", method, *lam)
    assert estimate_nmse_db(np.load("x.npy"), x) < -10


def test_lasso_names_the_solver_that_takes_joint_entries(run, model):
    model.problem.save("problem.h5")
    np.save("y.npy", model.problem.sample(2)[1])
    run("solve", "problem.h5", "y.npy", "--method", "lasso", "--lam", 0.1, fails=1)
    assert "use fista" in run.errors
