"""Classical solvers: they solve what they say they solve, in the user's units, and say how well."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import cuista
from cuista.errors import InputError
from cuista.solvers.classical import GAP, SOLVERS, Amp, Fista, Ista, Lasso, Omp
from cuista.solvers.tuning import keep, kept, kept_in

SCALES = 10 ** np.random.default_rng(5).uniform(-6, 6, 40)


def bumps(rows, columns, width):
    """Columns that are nearly alike: Gaussian bumps side by side."""
    places, centres = np.linspace(0, 1, rows)[:, None], np.linspace(0, 1, columns)
    return np.exp(-0.5 * ((places - centres) / width) ** 2)


def random_matrix(kind, rng):
    A = rng.standard_normal((30, 60))
    twins = np.hstack([A[:, :20], A[:, :20], A[:, :20] + 1e-9 * rng.standard_normal((30, 20))])
    scaled, tall = A * 10 ** rng.uniform(-6, 6, 60), rng.standard_normal((60, 40)) + 3
    return {"gaussian": A, "badly scaled": scaled, "bumps": bumps(30, 60, 0.08), "twins": twins, "tall": tall}[kind]


def measured(A, rng, noise=0.01):
    x = rng.standard_normal(A.shape[1]) * (rng.random(A.shape[1]) < 0.1) / np.linalg.norm(A, axis=0)
    y = A @ x + 1e-3
    return y + noise * y.std() * rng.standard_normal(len(y))


def objective(A, y, x, lam):
    return 0.5 * np.sum((y - A @ x) ** 2) + lam * np.abs(x).sum()


@pytest.mark.parametrize("kind", ["gaussian", "badly scaled", "bumps", "twins", "tall"])
def test_the_lasso_is_solved_for_the_matrix_and_the_measurements_as_they_are(kind):
    from sklearn.linear_model import Lasso as OfScikitLearn

    for number, share in enumerate((0.1, 0.001)):
        rng = np.random.default_rng([number, len(kind)])
        A = random_matrix(kind, rng)
        y = measured(A, rng)
        most = np.abs(A.T @ y).max()
        lam = share * most
        theirs = OfScikitLearn(lam / len(y), fit_intercept=False, tol=1e-8, max_iter=3000, precompute=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it may not converge
            reached = objective(A, y, theirs.fit(A, y).coef_, lam)
        for solver in (Lasso, Fista):
            for problem in (cuista.Problem(A), cuista.Problem(A, norms=1.0)):
                found = solver(problem, lam=lam).solve(y[None])
                x, least = found.x[0], objective(A, y, found.x[0], lam)
                assert least <= reached * (1 + 1e-6)
                assert found.gap[0] <= GAP
                assert found.converged.all()
                # The dual objective at a feasible multiple of the residual is a lower bound of the minimum.
                r = y - A @ x
                r *= min(1, lam / np.abs(A.T @ r).max())
                assert least - (r @ y - 0.5 * r @ r) <= 1e-6 * least
                assert found.residual[0] == pytest.approx(np.linalg.norm(y - A @ x) / np.linalg.norm(y), rel=1e-6)


def test_the_gap_bounds_what_is_missing(small_problem):
    _, y = small_problem.sample(20, dtype=np.float64)
    exact = Lasso(small_problem, lam=0.05).recover(y)
    least = np.array([objective(small_problem.A, *pair, 0.05) for pair in zip(y, exact, strict=True)])
    for iterations in (3, 30, 300):
        for solver in (Ista, Fista):
            found = solver(small_problem, iterations, lam=0.05, dtype=np.float64).solve(y)
            reached = np.array([objective(small_problem.A, *pair, 0.05) for pair in zip(y, found.x, strict=True)])
            assert np.all(reached - least <= found.gap * reached * (1 + 1e-9) + 1e-14)
            np.testing.assert_array_equal(found.converged, found.gap <= GAP)
    assert not Ista(small_problem, 3, lam=0.05).solve(y).converged.all()


def test_ista_goes_on_until_it_has_converged(small_problem):
    _, y = small_problem.sample(20)
    expected = Lasso(small_problem, lam="10%").recover(y)
    solver = Ista(small_problem, lam="10%")
    np.testing.assert_allclose(solver.recover(y), expected, atol=1e-2 * np.abs(expected).max())
    assert solver.solution.converged.all()


@pytest.mark.parametrize("name", list(SOLVERS))
def test_solvers_are_free_of_the_units_of_measurements_and_columns(name):
    kind, A = SOLVERS[name], cuista.normalize_columns(cuista.random_matrix(20, 40, seed=1))
    problem, other = cuista.Problem(A, pnz=0.05, seed=1), cuista.Problem(A * SCALES, pnz=0.05, seed=1)
    x, y = problem.sample(4, dtype=np.float64)
    solvers = [kind(problem), *([kind(problem, lam="2%")] if kind not in (Omp, Amp) else [])]
    for solver in solvers:
        expected = solver.recover(y)
        assert np.square(expected - x).sum() < 0.1 * np.square(x).sum()
        assert not solver.recover(0 * y).any()
        for scale in (1e-29, 1e29):
            np.testing.assert_allclose(solver.recover(scale * y) / scale, expected, rtol=1e-6, atol=1e-9)
    # Percentages are for the user's matrix, and so depend on its columns. A λ that is tuned does not.
    if kind.has_lam:
        assert kind(other).tune() == pytest.approx(solvers[0].lam)
    scaled = kind(other)
    scaled.lam = solvers[0].lam
    np.testing.assert_allclose(scaled.recover(y) * SCALES, solvers[0].recover(y), rtol=1e-6, atol=1e-9)


def test_a_percentage_is_a_share_of_the_lambda_from_which_on_the_solution_is_zero(small_problem):
    A = small_problem.A * SCALES[:40]
    _, y = small_problem.sample(8, dtype=np.float64)
    y = y[np.abs(y).max(axis=1) > 0]
    for solver in (Lasso, Fista):
        assert not solver(cuista.Problem(A), lam="100.001%").recover(y).any()
        assert solver(cuista.Problem(A), lam="99.9%").recover(y).any(axis=1).all()
    most = np.abs(y @ A).max(axis=1)
    each = [Lasso(cuista.Problem(A), lam=0.1 * top).recover(row[None])[0] for row, top in zip(y, most, strict=True)]
    np.testing.assert_allclose(Lasso(cuista.Problem(A), lam="10%").recover(y), each, rtol=1e-9)


@pytest.mark.parametrize("kind", [Lasso, Fista])
@pytest.mark.parametrize("positive", [False, True])
def test_a_noise_level_gives_the_least_norm_among_codes_with_such_a_residual(kind, positive):
    problem = cuista.Problem(3 * cuista.random_matrix(20, 40, seed=3), pnz=0.1, seed=1)
    A, rng, sigma = problem.given, np.random.default_rng(0), 0.01
    x, y = problem.sample(6, dtype=np.float64)
    x[:, 3] = 1
    y = (np.abs(x) if positive else x) @ A.T + sigma * rng.standard_normal(y.shape)
    y[0] = 0
    y[1] = 1e-3 * y[2]  # less than the noise
    found = kind(problem, noise_level=sigma, positive=positive).solve(y)
    assert found.converged.all()
    assert not found.x[:2].any()
    for code, measurement in zip(found.x[2:], y[2:], strict=True):
        r = measurement - A @ code
        assert np.linalg.norm(r) == pytest.approx(sigma * np.sqrt(20), rel=2e-6)
        correlations, on = A.T @ r, code != 0
        lam = np.abs(correlations).max() if not positive else correlations.max()
        # The multiplier of the constraint: Aᵀr is λ sign(x) on the support, and within λ elsewhere.
        on &= np.abs(code) > 1e-3 * np.abs(code).max()
        np.testing.assert_allclose(correlations[on], lam * np.sign(code[on]), rtol=1e-3)
        assert not positive or code.min() >= 0


def test_a_noise_level_that_no_code_reaches_is_told():
    rng = np.random.default_rng(0)
    problem, y = cuista.Problem(rng.standard_normal((30, 5))), rng.standard_normal((3, 30))
    for kind in (Lasso, Fista, Omp):
        assert not kind(problem, noise_level=0.01).solve(y).converged.any()
        assert kind(problem, noise_level=2.0).solve(y).converged.all()


@pytest.mark.parametrize("name", list(SOLVERS))
def test_positive_codes(name):
    problem = cuista.Problem(cuista.normalize_columns(cuista.random_matrix(40, 80, seed=2)), pnz=0.05, seed=1)
    x, _ = problem.sample(10, dtype=np.float64)
    x = np.abs(x)
    lam = {"amp": {"lam": 1.2}, "omp": {}}.get(name, {"lam": 1e-3})
    found = SOLVERS[name](problem, positive=True, **lam).recover(x @ problem.A.T)
    assert found.min() >= 0
    np.testing.assert_allclose(found, x, atol=0.02)
    free = SOLVERS[name](problem, **lam).recover(-x @ problem.A.T)
    assert free.min() < 0


def test_positive_pursuit_fits_by_non_negative_least_squares():
    from scipy.optimize import nnls

    rng = np.random.default_rng(4)
    A, y = rng.standard_normal((20, 12)), rng.standard_normal(20)
    found = Omp(cuista.Problem(A), positive=True, noise_level=1e-6).recover(y[None])[0]
    np.testing.assert_allclose(found, nnls(A, y)[0], atol=1e-9)


def careful_pursuit(A, y, most):
    """Orthogonal matching pursuit with a fit by singular values in every step."""
    U, chosen, r = A / np.linalg.norm(A, axis=0), [], y
    while len(chosen) < most and np.linalg.norm(r) > 1e-6 * np.linalg.norm(y):
        alike = np.abs(U.T @ r)
        alike[chosen] = 0
        chosen.append(int(np.argmax(alike)))
        z = np.linalg.lstsq(U[:, chosen], y, rcond=None)[0]
        r = y - U[:, chosen] @ z
    x = np.zeros(A.shape[1])
    x[chosen] = z / np.linalg.norm(A, axis=0)[chosen]
    return x


def test_pursuit_among_columns_that_are_nearly_alike_is_as_precise_as_a_careful_one():
    rng = np.random.default_rng(2)
    for A in (bumps(60, 120, 0.03), bumps(60, 120, 0.03) * 10 ** rng.uniform(-3, 3, 120)):
        Y = np.array([A @ (rng.standard_normal(120) * (rng.random(120) < 0.05)) for _ in range(10)])
        for problem in (cuista.Problem(A), cuista.Problem(A, norms=1.0)):
            found = Omp(problem, 12).recover(Y)
            for y, x in zip(Y, found, strict=True):
                expected = careful_pursuit(A, y, 12)
                np.testing.assert_array_equal(np.flatnonzero(x), np.flatnonzero(expected))
                np.testing.assert_allclose(x, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


def test_pursuit_says_when_its_entries_do_not_suffice(small_problem):
    x, y = small_problem.sample(20, dtype=np.float64)
    few = Omp(small_problem, 1).solve(y)
    np.testing.assert_array_equal(few.converged, np.count_nonzero(x, axis=1) <= 1)
    np.testing.assert_allclose(few.residual[few.converged], 0, atol=1e-6)
    assert few.residual[~few.converged].min() > 1e-3


def test_message_passing_ends_where_it_no_longer_changes():
    problem = cuista.Problem(cuista.normalize_columns(cuista.random_matrix(100, 200, seed=1)), pnz=0.05, seed=1)
    x, y = problem.sample(5, dtype=np.float64)
    found = Amp(problem, lam=1.3).solve(y)
    assert found.converged.all()
    np.testing.assert_allclose(found.x, x, atol=1e-5)
    assert not Amp(problem, 3, lam=1.3).solve(y).converged.any()


def test_what_excludes_each_other_is_refused(small_problem):
    for kind, how, said in (
        (Lasso, {"lam": 0.1, "noise_level": 0.1}, "leave one out"),
        (Lasso, {"noise_level": -1.0}, "noise level is -1"),
        (Lasso, {"lam": "x%"}, "such as 0.1 or 5%"),
        (Lasso, {"lam": "5"}, "such as 0.1 or 5%"),
        (Amp, {"lam": "5%"}, "expected no percentage"),
        (Amp, {"noise_level": 0.1}, "leave it out"),
    ):
        with pytest.raises(InputError, match=said):
            kind(small_problem, **how)


def test_a_tuned_lambda_is_kept_for_what_it_was_tuned_for(small_problem, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    one, other = Fista(small_problem, 10).tuned_for, Fista(small_problem, 11).tuned_for
    assert Fista(small_problem).tuned_for == Lasso(small_problem).tuned_for != one
    path = kept_in(one)
    assert path != kept_in(other)
    assert kept(path, one) is None
    assert keep(path, one, 0.25)
    assert kept(path, one) == 0.25
    assert kept(path, other) is None
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    for damaged in ("", "[]", '{"lambda": "x"}', path.read_text().replace("0.25", "-1")):
        path.write_text(damaged)
        assert kept(path, one) is None


def test_a_folder_that_cannot_be_written_keeps_nothing(small_problem, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    tuned_for = Fista(small_problem, 10).tuned_for
    assert not keep(kept_in(tuned_for), tuned_for, 0.25)
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pathlib.Path.home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert kept_in(tuned_for) is None
    assert kept(None, tuned_for) is None
    assert not keep(None, tuned_for, 0.25)


@pytest.mark.parametrize("kind", [Ista, Fista, Amp])
@pytest.mark.parametrize("how", [{}, {"positive": True}, {"lam": "5%"}, {"noise_level": 0.01}, {"iterations": 20}])
def test_solvers_on_a_gpu_agree_with_those_on_the_cpu(kind, how, cuda, small_problem):
    if kind is Amp and {"lam", "noise_level"} & set(how):
        return
    _, y = small_problem.sample(7, dtype=np.float64)
    found = []
    for ops in (None, cuda):
        solver = kind(small_problem, ops=ops, **how)
        if solver.tunes:
            solver.lam = 0.05 if kind is not Amp else 1.5
        found.append(solver.solve(y))
    for expected, actual in zip(*found, strict=True):
        np.testing.assert_allclose(actual, expected, atol=1e-4)
