"""The analytic weight of a matrix: what defines it, and what happens for matrices that are not well-behaved."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest

from cuista import normalize_columns, random_matrix, solve_exact, solve_pgd
from cuista.data.problem import with_condition_number
from cuista.errors import InputError, NumericalError
from cuista.weights import Weight

A = normalize_columns(random_matrix(30, 60, seed=2))


def objective(W, A, ridge=0.0):
    return np.sum((W.T @ A) ** 2) + ridge * np.sum(W**2)


@pytest.mark.parametrize("ridge", [0.0, 0.7])
@pytest.mark.parametrize(
    "matrix", [A, random_matrix(30, 60, seed=2) * np.linspace(0.1, 9, 60)], ids=["unit", "any norm"]
)
def test_the_closed_form_is_feasible_and_no_feasible_neighbour_is_better(ridge, matrix, rng):
    W = solve_exact(matrix, ridge=ridge).W
    np.testing.assert_allclose(np.einsum("mn,mn->n", W, matrix), 1, rtol=1e-12)
    for _ in range(20):
        step = 1e-3 * rng.standard_normal(W.shape) * np.abs(W).max(axis=0)
        step -= matrix * np.einsum("mn,mn->n", step, matrix) / np.einsum("mn,mn->n", matrix, matrix)
        assert objective(W + step, matrix, ridge) > objective(W, matrix, ridge)


def test_the_report_is_what_a_plain_computation_gives():
    report = solve_exact(A).report
    W = solve_exact(A).W
    cross = W.T @ A
    off = cross - np.diag(np.diag(cross))
    gram = A.T @ A - np.eye(60)
    assert report.objective == pytest.approx(np.sum(off**2))
    assert report.coherence == pytest.approx(np.abs(off).max())
    assert report.matrix_coherence == pytest.approx(np.abs(gram).max())
    assert report.coherence < report.matrix_coherence
    assert report.constraint_residual < 1e-12


def test_projected_gradient_converges_to_the_closed_form_from_above():
    seen = []
    exact, pgd = solve_exact(A), solve_pgd(A, progress=lambda step, cap, value: seen.append(value))
    assert "converged" in pgd.report.note
    assert exact.report.objective <= pgd.report.objective * (1 + 1e-12)
    np.testing.assert_allclose(pgd.W, exact.W, atol=1e-4)
    assert all(later <= earlier * (1 + 1e-9) for earlier, later in pairwise(seen))


def test_projected_gradient_is_the_original_loop_step_by_step():
    W = A.copy()
    for _ in range(4):
        W = W - 0.1 * A @ (A.T @ W - np.eye(60))
        W = W + A * (1 - np.diag(A.T @ W))
    np.testing.assert_allclose(solve_pgd(A, max_steps=4).W, W, atol=1e-12)


def test_projected_gradient_says_when_it_hits_its_cap():
    assert "cap of 3 steps" in solve_pgd(A, max_steps=3).report.note


def test_projected_gradient_reports_divergence_and_unnormalised_columns():
    clusters = np.repeat(np.eye(30)[:, :2], 30, axis=1)
    with pytest.raises(NumericalError, match=r"diverged.*λmax"):
        solve_pgd(normalize_columns(clusters + 0.01 * A))
    with pytest.raises(InputError, match="norms from"):
        solve_pgd(2 * A)


def test_an_infinite_ridge_gives_the_matrix_itself():
    unit = solve_exact(3 * A, ridge=1e9).W
    np.testing.assert_allclose(unit, A / 3, atol=1e-6)


@pytest.mark.parametrize(
    ("matrix", "says"),
    [
        (np.vstack([A, A[:5]]), "rows depend"),
        (A.T.copy(), "tall"),
        (with_condition_number(A, 1e7), "ill-conditioned"),
        (np.ones((4, 7)), "rows depend"),
    ],
    ids=["dependent rows", "tall", "ill-conditioned", "rank one"],
)
def test_a_singular_matrix_gets_the_least_norm_solution_and_a_note(matrix, says):
    weight = solve_exact(matrix)
    assert says in weight.report.note
    assert np.isfinite(weight.W).all()
    # The weight from the pseudo-inverse of A Aᵀ is optimal, so the solution must reach its objective.
    G = np.linalg.pinv(matrix @ matrix.T, rcond=1e-20 if "ill" in says else 1e-12, hermitian=True)
    expected = G @ matrix
    expected = expected / np.einsum("mn,mn->n", matrix, expected)
    assert weight.report.constraint_residual < 1e-6
    assert weight.report.objective <= np.sum((expected.T @ matrix) ** 2) * (1 + 1e-6)


def test_a_tall_matrix_of_full_rank_has_a_weight_without_any_coherence():
    assert solve_exact(A.T.copy()).report.objective < 1e-20


def test_what_has_no_weight_is_refused():
    broken = A.copy()
    broken[3, 4] = np.nan
    with pytest.raises(InputError, match=r"NaN.*\(3, 4\)"):
        solve_exact(broken)
    broken = A.copy()
    broken[:, 7] = 0
    with pytest.raises(InputError, match="column 7 of the matrix is zero"):
        solve_exact(broken)
    with pytest.raises(InputError, match="ridge"):
        solve_exact(A, ridge=-1)
    with pytest.raises(InputError, match="shape"):
        solve_exact(A[0])


@pytest.mark.parametrize("solve", [solve_exact, lambda A: solve_pgd(A, max_steps=2)], ids=["exact", "pgd"])
def test_no_n_by_n_matrix_is_formed(solve):
    wide = normalize_columns(random_matrix(160, 4000))
    tracemalloc.start()
    solve(wide)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.5 * 4000 * 4000 * 8


def test_a_weight_from_elsewhere_must_fit_its_matrix(tmp_path):
    weight = solve_exact(A)
    assert Weight.from_array(weight.W.astype(np.float32), A).report.method == "imported"
    with pytest.raises(InputError, match="transposed"):
        Weight.from_array(weight.W.T, A)
    other = normalize_columns(random_matrix(30, 60, seed=9))
    with pytest.raises(InputError, match="does not belong to this matrix"):
        Weight.from_array(weight.W, other)
    weight.save(tmp_path / "w.h5")
    again = Weight.load(tmp_path / "w.h5", A)
    np.testing.assert_array_equal(again.W, weight.W)
    assert again.report == weight.report
    with pytest.raises(InputError, match="another matrix"):
        Weight.load(tmp_path / "w.h5", other)
