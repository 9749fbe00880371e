"""Problems: their matrices, and signals that are a pure function of seed, stream and step."""

from __future__ import annotations

import gc
import pickle

import numpy as np
import pytest

import cuista
from cuista import Bernoulli, Normal, Problem, normalize_columns, random_matrix
from cuista.counter import HARD_STREAM, TEST, TRAINING, Key
from cuista.data.problem import with_condition_number
from cuista.errors import FileError, InputError
from cuista.ops import CpuOps

A = normalize_columns(random_matrix(50, 100, seed=4))


def test_a_random_matrix_is_gaussian_with_variance_one_over_m():
    matrix = random_matrix(200, 300, seed=1)
    assert matrix.std() == pytest.approx(1 / np.sqrt(200), rel=0.01)
    np.testing.assert_array_equal(matrix, random_matrix(200, 300, seed=1))
    assert not np.array_equal(matrix, random_matrix(200, 300, seed=2))


@pytest.mark.parametrize("kappa", [5.0, 50.0])
def test_the_condition_number_is_set_by_log_spaced_singular_values(kappa):
    s = np.linalg.svd(random_matrix(60, 100, con_num=kappa), compute_uv=False)
    assert s[0] / s[-1] == pytest.approx(kappa)
    np.testing.assert_allclose(np.diff(np.log(s)), np.diff(np.log(s))[0])
    assert np.sum(s**2) == pytest.approx(100)


def test_normalising_moves_the_condition_number_a_little_as_published():
    problem = Problem(normalize_columns(random_matrix(250, 500, con_num=30)))
    assert problem.condition_number == pytest.approx(29.5, abs=0.3)
    assert problem.normalized


def test_signals_depend_on_seed_stream_and_step_and_on_nothing_else():
    problem = Problem(A, snr_db=20, seed=3)
    x, y = problem.sample(6, stream=TRAINING, step=5)
    problem.sample(9)
    again, y_again = Problem(A, snr_db=20, seed=3).sample(6, stream=TRAINING, step=5)
    np.testing.assert_array_equal(x, again)
    np.testing.assert_array_equal(y, y_again)
    assert not np.array_equal(x, problem.sample(6, stream=TRAINING, step=6)[0])


@pytest.mark.parametrize("snr", [0.0, 20.0, 40.0])
def test_noise_has_the_snr_asked_for_sample_by_sample(snr):
    x, y = Problem(A, snr_db=snr).sample(2000, dtype=np.float64)
    clean = x @ A.T
    ratio = 10 * np.log10(np.var(clean, axis=1) / np.mean((y - clean) ** 2, axis=1))
    assert ratio.mean() == pytest.approx(snr, abs=0.2)
    assert np.abs(ratio - snr).max() < 4  # a sample has only 50 noise values, so its own ratio varies


def test_without_noise_measurements_are_exact():
    x, y = Problem(A).sample(10, dtype=np.float64)
    np.testing.assert_allclose(y, x @ A.T, atol=1e-12)


def test_hard_signals_leave_weighted_means_what_they_are():
    problem = Problem(A, pnz=np.linspace(0.05, 0.15, 100))
    x, _, weights = problem.sample_weighted(40_000, 0.5, stream=TRAINING)
    assert weights.max() <= 2
    size = (x != 0).sum(axis=1)
    assert weights.mean() == pytest.approx(1, abs=0.02)
    assert np.average(size, weights=weights) == pytest.approx(10, rel=0.02)
    plain = (problem.sample(40_000)[0] != 0).sum(axis=1)
    dense = plain > 17
    assert np.mean(weights * (size > 17)) == pytest.approx(dense.mean(), rel=0.15)
    assert (size > 17).mean() > 3 * dense.mean()


@pytest.mark.parametrize("hard", [0.0, 0.1, 0.3, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("batch", [1, 10, 64, 1000])
def test_hard_signals_are_spread_evenly_and_are_those_of_their_stream(hard, batch):
    problem = Problem(A, pnz=0.1, snr_db=20)
    x, y, _ = problem.sample_weighted(batch, hard, stream=TRAINING)
    is_hard = np.array([int(hard * (i + 1)) > int(hard * i) for i in range(batch)])
    assert is_hard.sum() == int(hard * batch)
    easy = problem.sample(batch, stream=TRAINING)
    np.testing.assert_array_equal(x[~is_hard], easy[0][: batch - is_hard.sum()])
    np.testing.assert_array_equal(y[~is_hard], easy[1][: batch - is_hard.sum()])
    harder = Problem(A, pnz=1.4 * 0.1, snr_db=20).sample(batch, stream=TRAINING + HARD_STREAM)
    np.testing.assert_array_equal(x[is_hard], harder[0][: is_hard.sum()])
    for share in (1, 2, 8, 32):  # in aligned blocks of rows
        counts = np.add.reduceat(is_hard, range(0, batch, share))
        assert batch < share or np.ptp(counts[: batch // share]) <= 1


@pytest.mark.parametrize("pnz", [0.05, 0.4])  # one uses the sparse product with A, the other the dense one
def test_rows_drawn_on_their_own_have_the_bits_that_they_have_in_the_batch(pnz):
    problem = Problem(A, pnz=pnz, snr_db=20)
    for hard, batch in ((None, 40), (0.5, 64), (0.3, 40), (1.0, 5)):

        def draw(rows=slice(None), hard=hard, batch=batch):
            if hard is None:
                return problem.sample(batch, rows=rows, step=3)
            return problem.sample_weighted(batch, hard, rows=rows, stream=TRAINING, step=3)

        whole = draw()
        for rows in (slice(0, 1), slice(1, 4), slice(4, None), slice(-1, None), slice(2, 2)):
            for part, array in zip(draw(rows), whole, strict=True):
                np.testing.assert_array_equal(part, array[rows])


@pytest.mark.parametrize("law", [Normal(), Normal(-1, 2), Bernoulli(0.3, 1.5, -2)])
def test_signals_without_negative_entries_are_the_absolute_values_of_the_others(law):
    both, positive = (Problem(A, snr_db=20, magnitude=law, positive=positive) for positive in (False, True))
    x, _ = both.sample(30)
    found, y = positive.sample(30)
    assert x.min() < 0
    np.testing.assert_array_equal(found, np.abs(x))
    clean = found.astype(np.float64) @ A.T
    ratio = 10 * np.log10(np.var(clean, axis=1) / np.mean((y - clean) ** 2, axis=1))
    assert ratio.mean() == pytest.approx(20, abs=1)
    x, _, weights = both.sample_weighted(30, 0.5, stream=TRAINING)
    found, _, same_weights = positive.sample_weighted(30, 0.5, stream=TRAINING)
    np.testing.assert_array_equal(found, np.abs(x))
    np.testing.assert_array_equal(same_weights, weights)


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize(
    "law", [Normal(), Normal(2, 0.5), Normal(-1, 1), Normal(-3, 0), Normal(1, 1e-300), Bernoulli(0.3, 1.5, -2)]
)
def test_the_unit_is_the_root_mean_square_norm_of_measurements(law, positive, rng):
    matrix = rng.uniform(0, 1, (8, 20))  # columns that are alike, so that the means of entries add up
    for pnz in (0.1, rng.uniform(0, 0.5, 20)):
        problem = Problem(matrix, pnz=pnz, magnitude=law, positive=positive)
        _, y = problem.sample(10_000, dtype=np.float64)
        assert problem.unit == pytest.approx(np.sqrt(np.square(y).sum(axis=1).mean()), rel=0.03)


def test_the_unit_of_measurements_that_are_always_0_is_0():
    assert Problem(np.array([[0.6, -0.6], [0.8, -0.8]]), pnz=1.0, magnitude=Bernoulli()).unit == 0


def test_the_arrays_of_a_problem_on_an_engine_go_with_the_problem():
    ops, problem = CpuOps(), Problem(A)
    problem.sample(3, ops=ops)
    assert len(ops._kept) == 1
    del problem
    gc.collect()
    assert not len(ops._kept)


def test_a_problem_that_was_sampled_can_be_sent_to_another_process():
    problem = Problem(A)
    x, _ = problem.sample(3, ops=CpuOps())
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(problem)).sample(3)[0], x)


def test_hard_signals_of_certain_or_impossible_entries_have_finite_weights():
    p = np.array([0.0, 1.0, *[0.5] * 98])
    _, _, weights = Problem(A, pnz=p).sample_weighted(100, 0.5, stream=TRAINING)
    assert np.isfinite(weights).all()


@pytest.mark.parametrize(
    "problem",
    [
        Problem(A, pnz=0.2, snr_db=30, seed=9),
        Problem(A, pnz=np.linspace(0, 1, 100), magnitude=Normal(1, 2)),
        Problem(A, magnitude=Bernoulli(0.2, 3, -1)),
        Problem(A, positive=True),
    ],
)
def test_a_problem_survives_its_file(problem, tmp_path):
    problem.save(tmp_path / "p.h5")
    again = Problem.load(tmp_path / "p.h5")
    for name in ("A", "pnz", "snr_db", "magnitude", "seed", "positive", "snapshots", "group"):
        np.testing.assert_array_equal(getattr(again, name), getattr(problem, name))
    with pytest.raises(FileError, match="exists already"):
        problem.save(tmp_path / "p.h5")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pnz": 1.5}, "0 to 1"),
        ({"pnz": 0.0}, "not all 0"),
        ({"pnz": float("nan")}, "0 to 1"),
        ({"pnz": np.ones(7)}, "shape"),
        ({"snr_db": float("nan")}, "snr"),
        ({"snr_db": float("-inf")}, "snr"),
        ({"magnitude": Normal(0, -1)}, "standard deviation"),
        ({"magnitude": Normal(0, float("inf"))}, "finite"),
        ({"magnitude": Bernoulli(2, 1, 1)}, "0 to 1"),
        ({"seed": -1}, "seed"),
        ({"A": np.zeros((3, 4))}, "column 0"),
        ({"A": np.ones(4)}, "shape"),
        ({"A": np.ones((2, 2), dtype=complex), "positive": True}, "no sign"),
        ({"snapshots": 0}, "snapshots"),
        ({"group": 0}, "divides"),
        ({"group": 7}, "divides"),
        ({"group": 2, "pnz": np.linspace(0.1, 0.2, 100)}, "within groups"),
        ({"snapshots": 2, "positive": True}, "no sign"),
        ({"A": np.array([["a"]])}, "real"),
    ],
)
def test_a_problem_that_cannot_be_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        Problem(**{"A": A, **options})


def test_matrices_that_cannot_be_are_refused():
    for call in (
        lambda: random_matrix(0, 4),
        lambda: with_condition_number(A, 0.5),
        lambda: Problem(A).sample(0),
        lambda: Problem(A).sample(9, rows=slice(0, 9, 2)),
    ):
        with pytest.raises(cuista.CuistaError, match="expected"):
            call()


def test_normalised_columns_stay_to_the_bit():
    A = normalize_columns(random_matrix(30, 50, seed=2))
    np.testing.assert_array_equal(normalize_columns(A), A)


# -- the units of columns ---------------------------------------------------------------------------------------------

SCALES = 10 ** np.random.default_rng(5).uniform(-6, 6, 100)


def test_columns_of_any_norms_are_scaled_inside_and_codes_are_for_the_matrix_as_given():
    plain, other = Problem(A, pnz=0.1, seed=3), Problem(A * SCALES, pnz=0.1, seed=3)
    np.testing.assert_allclose(other.A, A, rtol=1e-14)
    np.testing.assert_allclose(other.given, A * SCALES, rtol=1e-14)
    (x, y), (same, measured) = plain.sample(20, dtype=np.float64), other.sample(20, dtype=np.float64)
    np.testing.assert_allclose(measured, y, rtol=1e-12)
    np.testing.assert_allclose(same * SCALES, x, rtol=1e-12)
    np.testing.assert_allclose(same @ (A * SCALES).T, y, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(other.measure(same, Key(3, TEST)), y, rtol=1e-9, atol=1e-12)
    assert other.unit == pytest.approx(plain.unit)


def test_a_problem_keeps_the_norms_of_its_columns_in_its_file(tmp_path):
    problem = Problem(A * SCALES)
    problem.save(tmp_path / "p.h5")
    again = Problem.load(tmp_path / "p.h5")
    np.testing.assert_array_equal(again.norms, problem.norms)
    assert again.sha256 == problem.sha256 == again.standard.sha256
    assert not again.standard.rescaled


def test_a_matrix_with_columns_of_unit_norm_keeps_its_bits():
    single = A.astype(np.float32)
    np.testing.assert_array_equal(Problem(single).A, single)
    assert not Problem(single).rescaled


def test_a_matrix_is_kept_as_it_is_if_that_is_asked_for():
    problem = Problem(A * SCALES, norms=1.0)
    np.testing.assert_array_equal(problem.A, A * SCALES)
    x, y = problem.sample(5, dtype=np.float64)
    np.testing.assert_allclose(x @ (A * SCALES).T, y, rtol=1e-9)


def test_columns_of_extreme_norms_are_refused():
    with pytest.raises(InputError, match="column 7 of the measurement matrix has the norm 1e-20"):
        Problem(A * np.where(np.arange(100) == 7, 1e-20, 1))
