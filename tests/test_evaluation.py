"""Reports, classical solvers, recovery from files, and files of the original code."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest

import cuista
from cuista import original, storage
from cuista.errors import FileError, InputError, NumericalError
from cuista.metrics import nmse_db, report_on
from cuista.solvers.classical import Amp, Fista, Ista, Lasso, Omp
from cuista.storage.streaming import recover_file


def test_a_report_counts_what_it_says():
    x = np.array([[1.0, 0, 2, 0], [0, 0, 3, 0]])
    estimate = np.array([[1.0, 1, 0, 0], [0, 0, 2, 0]])
    report = report_on(lambda y: iter([estimate[: len(y)]]), x, np.zeros((2, 3)))
    np.testing.assert_allclose(report.squared_error, [[5, 9], [5, 1]])
    np.testing.assert_allclose(report.nmse_db, [0, 10 * np.log10(6 / 14)])
    assert report.support_size.tolist() == [[0, 0], [2, 1]]
    assert report.false_positives.tolist() == [[0, 0], [1, 0]]
    assert report.false_negatives.tolist() == [[2, 1], [1, 0]]
    assert report.rows()[1]["support_size"] == 1.5


def test_nmse_is_the_same_in_and_out_of_training_and_across_batches(small_model):
    x, y = small_model.problem.sample(700)
    report = cuista.evaluate(small_model, x, y)
    for depth in (1, 4):
        assert nmse_db(small_model.network, x, y, depth) == pytest.approx(report.nmse_db[depth], abs=1e-4)
    weights = np.repeat([1.0, 0.0], 350)
    half = cuista.evaluate(small_model, x[:350], y[:350])
    assert nmse_db(small_model.network, x, y, 4, weights) == pytest.approx(half.nmse_db[-1], abs=1e-4)


def test_a_report_survives_its_file(small_model, tmp_path):
    from cuista import storage

    report = cuista.evaluate(small_model, *small_model.problem.sample(20))
    report.save(tmp_path / "r.h5", {"samples": 20})
    record = storage.read(tmp_path / "r.h5", "cuista-report")
    np.testing.assert_array_equal(record.arrays["false_negatives"], report.false_negatives)


@pytest.mark.parametrize("shape", [(3, 39), (39, 3), (40, 3)])
def test_signals_that_do_not_fit_are_refused(small_model, shape):
    with pytest.raises(InputError, match="looks transposed" if shape == (40, 3) else "expected"):
        cuista.evaluate(small_model, np.ones(shape), np.ones((3, 20)))


def test_recovery_agrees_with_the_iterates_and_refuses_nan(small_model):
    _, y = small_model.problem.sample(600)
    *_, last = small_model.iterates(y)
    np.testing.assert_allclose(small_model.recover(y), last, atol=1e-5)
    y[5, 3] = np.nan
    with pytest.raises(InputError, match="y: entry 3 of sample 5 is nan"):
        small_model.recover(y)


def test_recovery_from_several_threads_gives_the_same_numbers(small_model):
    _, y = small_model.problem.sample(300)
    expected = small_model.recover(y)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as executor:
            for result in executor.map(small_model.recover, [y] * 40):
                np.testing.assert_array_equal(result, expected)
    finally:
        sys.setswitchinterval(before)


# -- classical solvers ------------------------------------------------------------------------------------------------


def test_ista_and_fista_go_down_to_the_lasso_solution(small_problem):
    _, y = small_problem.sample(5, dtype=np.float64)
    A, lam = small_problem.A, 0.02

    def objective(x):
        return 0.5 * np.sum((y - x @ A.T) ** 2) + lam * np.abs(x).sum()

    values = [objective(x) for x in Ista(small_problem, 200, lam=lam, dtype=np.float64).iterates(y)]
    assert all(b <= a + 1e-12 for a, b in pairwise(values))
    *_, solution = Fista(small_problem, 5000, lam=lam, dtype=np.float64).iterates(y)
    assert objective(solution) <= values[-1]
    # The solution is optimal where |Aᵀr| ≤ λ, and Aᵀr = λ sign(x) on the support.
    residual = (y - solution @ A.T) @ A
    assert np.abs(residual).max() < lam * (1 + 1e-6)
    on = np.abs(solution) > 1e-8
    np.testing.assert_allclose(residual[on], lam * np.sign(solution[on]), rtol=1e-4)
    np.testing.assert_allclose(
        Lasso(small_problem, 10_000, lam=lam, dtype=np.float64).recover(y), solution, atol=1e-3 * np.abs(solution).max()
    )


def test_amp_is_the_recursion(small_problem):
    _, (y, *_) = small_problem.sample(1, dtype=np.float64)
    (M, N), A = small_problem.A.shape, small_problem.A
    x, v = np.zeros(N), np.zeros(M)
    for iterate in Amp(small_problem, 6, lam=1.3, dtype=np.float64).iterates(y[None]):
        v = y - A @ x + np.count_nonzero(x) / M * v
        z = x + A.T @ v
        x = np.sign(z) * np.maximum(np.abs(z) - 1.3 * np.linalg.norm(v) / np.sqrt(M), 0)
        np.testing.assert_allclose(iterate[0], x, atol=1e-12)


def test_omp_finds_what_is_sparse_enough_and_stops_at_the_noise():
    A = cuista.normalize_columns(cuista.random_matrix(40, 80, seed=4))
    x, y = cuista.Problem(A, pnz=0.03, seed=2).sample(20, dtype=np.float64)
    np.testing.assert_allclose(Omp(cuista.Problem(A), 30, dtype=np.float64).recover(y), x, atol=1e-5)
    noisy = cuista.Problem(A, pnz=0.03, snr_db=20, seed=2)
    x, y = noisy.sample(50, dtype=np.float64)
    found = Omp(noisy, 30, dtype=np.float64).recover(y)
    assert np.count_nonzero(found) < 2 * np.count_nonzero(x)  # it could choose 30 entries for each sample
    assert not Omp(noisy, 30).recover(np.zeros((2, 40))).any()


@pytest.mark.parametrize("kind", [Ista, Amp])
def test_the_tuned_parameter_is_best_of_its_neighbours(kind):
    problem = cuista.Problem(cuista.normalize_columns(cuista.random_matrix(50, 100, seed=1)), seed=1)
    lam = kind(problem, 16).tune()
    x, y = problem.sample(3000)

    def nmse(value):
        return report_on(kind(problem, 16, lam=value).iterates, x, y).nmse_db[-1]

    assert nmse(lam) < min(nmse(lam * 2), nmse(lam / 2))


def test_a_solver_that_diverges_says_so():
    A = cuista.normalize_columns(cuista.random_matrix(20, 40, seed=1) + 3)  # AMP is not meant for such a matrix
    problem = cuista.Problem(A)
    _, y = problem.sample(5)
    assert np.isfinite(Amp(problem, 200).recover(y)).all()  # the tuned λ is so large that it does not diverge
    with pytest.raises(NumericalError, match=r"diverges with λ = 0\.01"):
        Amp(problem, 500, lam=0.01).recover(y)


def test_a_solver_out_of_range_is_refused(small_problem):
    for options in ({"iterations": 0}, {"lam": -1.0}, {"lam": float("nan")}):
        with pytest.raises(InputError, match="expected"):
            Fista(small_problem, **options)
    with pytest.raises(InputError, match="omp has no λ"):
        Omp(small_problem, lam=0.1)


@pytest.mark.parametrize("suffix", [".npy", ".h5", ".csv"])
@pytest.mark.parametrize("columns", [False, True])
def test_files_are_recovered_piece_by_piece(small_model, tmp_path, suffix, columns, monkeypatch):
    from cuista import storage

    monkeypatch.setattr("cuista.storage.streaming.ROWS", 100)
    _, y = small_model.problem.sample(250)
    source, target = tmp_path / f"y{suffix}", tmp_path / f"x{suffix}"
    if suffix == ".csv":
        np.savetxt(source, y.T if columns else y, delimiter=",")
    else:
        storage.save_arrays(source, {"y": y.T if columns else y})
    seen = []
    count = recover_file(small_model, source, target, columns=columns, progress=lambda *a: seen.append(a))
    x = storage.load_array(target, "x")
    np.testing.assert_allclose(x.T if columns else x, small_model.recover(y), atol=1e-5)
    assert count == 250
    assert seen == [(100, 250), (200, 250), (250, 250)]


@pytest.mark.parametrize("suffix", [".npy", ".h5", ".csv"])
@pytest.mark.parametrize("columns", [False, True])
def test_one_measurement_may_be_a_vector_and_gives_a_vector(small_model, tmp_path, suffix, columns):
    from cuista import storage

    _, y = small_model.problem.sample(2)
    expected = small_model.recover(y)[0]
    assert small_model.recover(y[0]).shape == (40,)
    np.testing.assert_allclose(small_model.recover(y[0]), expected, atol=1e-6)
    solver = Ista(small_model.problem, 5, lam=0.1)
    np.testing.assert_allclose(solver.recover(y[0]), solver.recover(y)[0], atol=1e-6)
    np.save(tmp_path / "y.npy", y[0])
    assert recover_file(small_model, tmp_path / "y.npy", tmp_path / f"x{suffix}", columns=columns) == 1
    found = storage.load_array(tmp_path / f"x{suffix}")
    assert found.shape == (40,)
    np.testing.assert_array_equal(found.astype(np.float32), small_model.recover(y[0]))


def test_measurements_of_another_layout_are_refused_with_advice(small_model, tmp_path):
    path = tmp_path / "y.npy"
    for shape, columns, advice in (
        ((20, 3), False, r"expected \(samples, 20\), or \(20,\) for one sample; it looks transposed: .* be columns"),
        ((1, 20), True, r"expected \(20, samples\), .* looks transposed: its samples seem to be rows"),
        ((60,), False, r"3 samples one after the other, reshape it to \(-1, 20\)"),
        ((30,), False, r"\(30,\); expected \(samples, 20\), or \(20,\) for one sample$"),
        ((4, 3, 20), False, r"reshape it to \(-1, 20\)"),
        ((5, 40), False, "40 is the length of the signals: .* the matrix looks transposed"),
        ((40, 5), True, "40 is the length of the signals"),
        ((), False, r"\(\); expected"),
    ):
        np.save(path, np.ones(shape))
        with pytest.raises(InputError, match=advice) as error:
            recover_file(small_model, path, tmp_path / "x.npy", columns=columns)
        assert error.value.options == (("columns",) if "seem to be columns" in str(error.value) else ())
        assert not (tmp_path / "x.npy").exists()
    with pytest.raises(InputError, match=r"y: entry . of sample . is nan"):
        small_model.recover(np.where(np.arange(20) == 3, np.nan, 1))


@pytest.mark.parametrize("suffix", [".npy", ".h5", ".csv"])
def test_one_column_is_one_sample_as_matlab_keeps_a_vector(small_model, tmp_path, suffix):
    y = small_model.problem.sample(1)[1]
    np.save(tmp_path / "y.npy", y.T)
    assert recover_file(small_model, tmp_path / "y.npy", tmp_path / f"x{suffix}") == 1
    codes = storage.load_array(tmp_path / f"x{suffix}")
    np.testing.assert_array_equal(codes.reshape(40, 1).astype(np.float32), small_model.recover(y).T)


@pytest.mark.parametrize("suffix", [".npy", ".h5"])
def test_no_samples_give_no_codes(small_model, tmp_path, suffix):
    storage.save_arrays(tmp_path / f"y{suffix}", {"y": np.empty((0, 20))})
    assert recover_file(small_model, tmp_path / f"y{suffix}", tmp_path / f"x{suffix}") == 0
    assert storage.load_array(tmp_path / f"x{suffix}").shape == (0, 40)


def test_damaged_measurements_are_what_the_error_names(small_model, tmp_path):
    import h5py

    path = tmp_path / "y.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("y", data=np.random.default_rng(0).random((100, 20)), fletcher32=True)
    data = bytearray(path.read_bytes())
    data[-200] ^= 255
    path.write_bytes(data)
    with pytest.raises(FileError, match=r"y\.h5 is damaged"):
        recover_file(small_model, path, tmp_path / "x.npy")
    np.save(tmp_path / "scalar.npy", np.float64(3))
    with pytest.raises(InputError, match="has shape"):
        recover_file(small_model, tmp_path / "scalar.npy", tmp_path / "x.npy")
    with pytest.raises(FileError, match="expected 'nope'"):
        recover_file(small_model, path, tmp_path / "x.npy", key="nope")


def test_a_nan_in_a_file_leaves_no_output(small_model, tmp_path, monkeypatch):
    monkeypatch.setattr("cuista.storage.streaming.ROWS", 100)
    _, y = small_model.problem.sample(250)
    y[170, 2] = np.inf
    np.save(tmp_path / "y.npy", y)
    with pytest.raises(InputError, match="entry 2 of sample 170 is inf"):
        recover_file(small_model, tmp_path / "y.npy", tmp_path / "x.npy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["y.npy"]


@pytest.mark.parametrize("per_coordinate", [False, True])
def test_the_originals_variables_go_out_and_come_back(small_problem, small_weight, per_coordinate):
    model = cuista.Model.new(small_problem, small_weight, layers=3, per_coordinate=per_coordinate)
    model.network.parameters["step_size"][:] = [0.5, 1.5, 1.25]
    arrays = original.write_model(model, "ALISTA")
    variables = {f"ALISTA/{name}_{t}:0" for name in ("alpha", "theta") for t in (1, 2, 3)}
    assert set(arrays) == {*variables, "percent", "max_percent", "unit"}
    assert arrays["ALISTA/theta_2:0"].shape == ((40, 1) if per_coordinate else ())
    again = original.read_model(arrays, small_problem, small_weight, percent=1.2, max_percent=13)
    for name, value in model.network.parameters.items():
        np.testing.assert_allclose(again.network.parameters[name], value, rtol=1e-6)
    del arrays["ALISTA/theta_2:0"]
    with pytest.raises(FileError, match="theta_2"):
        original.read_model(arrays, small_problem, small_weight, percent=1.2, max_percent=13)
    arrays["other/alpha_1:0"] = np.ones(())
    with pytest.raises(FileError, match="say which one"):
        original.read_model(arrays, small_problem, small_weight, percent=1.2, max_percent=13)


def test_the_originals_problem_goes_out_and_comes_back(small_problem):
    arrays = original.write_problem(small_problem)
    assert arrays["x"].shape == (40, 1000)
    np.testing.assert_allclose(arrays["A"] @ arrays["x"], arrays["y"], atol=1e-5)
    again = original.read_problem(arrays, "prob.npz")
    np.testing.assert_array_equal(again.A, small_problem.A)
    assert (again.pnz, again.snr_db) == (0.05, float("inf"))
    with pytest.raises(FileError, match="expected a matrix A"):
        original.read_problem({"B": small_problem.A, "C": small_problem.A}, "prob.npz")
