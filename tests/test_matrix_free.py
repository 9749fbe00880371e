"""Problems that measure by an operator of which no matrix is formed: signals, training, files, and the command line."""

from __future__ import annotations

import copy
import json
import os
import pickle

import numpy as np
import pytest
from scipy.sparse.linalg import LinearOperator

from cuista import Bernoulli, Normal, Problem, SignalSet
from cuista.data.coefficients import coefficients
from cuista.data.pictures import Picture, write_picture
from cuista.errors import FileError, InputError
from cuista.evaluation.integrity import check_file, describe_file
from cuista.operators import (
    Circular,
    Composition,
    Convolution,
    Cosine,
    Dense,
    External,
    Fourier,
    Hadamard,
    Scaled,
    Stack,
    Wavelet,
    from_description,
    radial_mask,
    random_mask,
)
from cuista.operators.description import describe
from cuista.operators.masks import MASKS
from cuista.solvers import SOLVERS
from cuista.storage import load_array
from cuista.tasks.sparse_coding import RIDGES, Model, analytic_weight, choose_ridge, evaluate
from cuista.training import FastRecipe, train

SHAPE = (16, 16)
QUICK = FastRecipe(batch=16, validation_batch=64, layer_steps=2, max_steps=4)
MRI = {
    "kind": "composition",
    "signals": "real",
    "outer": {"kind": "fourier", "shape": list(SHAPE), "mask": {"kind": "radial", "rate": 0.5}},
    "inner": {"kind": "wavelet", "shape": list(SHAPE), "wavelet": "haar", "level": 2},
}


def mri(dtype=np.float32):
    return Composition(Fourier(SHAPE, radial_mask(SHAPE, 0.5), dtype=dtype), Wavelet(SHAPE, "haar", 2, dtype=dtype))


def cosine():
    return Cosine(64, random_mask((64,), 0.5, seed=1))


def matrix_of(operator):
    return (
        operator.apply(np.eye(operator.N, dtype=operator.dtype).reshape(-1, *operator.shape[1]))
        .reshape(operator.N, -1)
        .T
    )


def linear_operator(A):
    return LinearOperator(A.shape, matvec=lambda x: A @ x, rmatvec=lambda y: A.conj().T @ y, dtype=A.dtype)


@pytest.fixture(scope="module")
def trained():
    return train(Model.new(Problem(mri(), pnz=0.05), layers=4), QUICK)


def test_what_it_draws_is_what_the_matrix_of_the_operator_measures():
    operator = cosine()
    free, dense = (Problem(A, 0.1, 30.0, Bernoulli(0.5, 1, -2)) for A in (operator, matrix_of(operator)))
    x, y = free.sample(50, dtype=np.float64)
    codes, _ = dense.sample(50, dtype=np.float64)
    # The law is about codes of unit columns, which those of an operator are not.
    np.testing.assert_allclose(x, codes * dense.norms, rtol=1e-6, atol=1e-12)
    noise = y - x @ matrix_of(operator).T
    assert 28 < 10 * np.log10((y**2).sum() / (noise**2).sum()) < 32
    np.testing.assert_allclose(free.unit, np.sqrt((free.sample(4000)[1] ** 2).sum(axis=1).mean()), rtol=0.1)
    assert (free.M, free.N, free.is_complex, free.measures_complex) == (32, 64, False, False)


def test_rows_of_a_batch_have_the_bits_that_they_have_in_the_whole():
    problem = Problem(mri(), 0.1, 20.0)
    whole = problem.sample(40)
    for array, part in zip(whole, problem.sample(40, rows=slice(13, 29)), strict=True):
        np.testing.assert_array_equal(array[13:29], part)


@pytest.mark.parametrize("net", ["alista", "alista-momentum", "hyperlista", "alista-at"])
def test_networks_recover_what_they_recover_with_the_matrix(net):
    operator = cosine()
    dense = Problem(matrix_of(operator), norms=1.0)
    free, with_matrix = (Model.new(each, net=net, layers=5, unit=0.7) for each in (Problem(operator), dense))
    with_matrix.network.parameters = free.network.parameters
    y = dense.sample(20)[1]
    np.testing.assert_allclose(free.recover(y), with_matrix.recover(y), atol=1e-5 * np.abs(y).max())


@pytest.mark.parametrize("method", ["ista", "fista", "amp"])
@pytest.mark.parametrize("iterations", [12, None])
def test_solvers_find_what_they_find_with_the_matrix(method, iterations):
    operator = Scaled(Hadamard(64, random_mask((64,), 0.5)), 2**0.5)  # whose columns have unit norm
    free, dense = Problem(operator), Problem(matrix_of(operator))
    y, lam = dense.sample(6, dtype=np.float64)[1], 2.0 if method == "amp" else 0.05

    def objective(x):
        return 0.5 * ((y - x @ matrix_of(operator).T) ** 2).sum(axis=1) + lam * np.abs(x).sum(axis=1)

    found, expected = (SOLVERS[method](each, iterations, lam=lam, dtype=np.float64).solve(y) for each in (free, dense))
    if iterations or method == "amp":
        np.testing.assert_allclose(found.x, expected.x, atol=1e-5)
    else:  # the minimum is one, while more than one x may have it
        np.testing.assert_allclose(*(objective(s.x) for s in (found, expected)), rtol=1e-6)
        assert found.converged.all()


@pytest.mark.parametrize("method", ["omp", "lasso"])
def test_what_needs_a_matrix_says_so(method):
    with pytest.raises(InputError, match=f"{method} needs a measurement matrix.*fista"):
        SOLVERS[method](Problem(mri()))
    for use in (lambda A: A @ np.ones(A.shape[1]), np.asarray, lambda A: np.ones((1, A.shape[0])) @ A, lambda A: A.T):
        with pytest.raises(InputError, match="needs a measurement matrix"):
            use(Problem(mri()).A)
    with pytest.raises(InputError, match="LISTA learns matrices"):
        Model.new(Problem(mri()), net="lista")


def test_training_improves_and_gives_each_subband_its_own_numbers(trained):
    network, problem = trained.network, trained.problem
    assert network.shapes == {"threshold": (4, 7), "step_size": (4, 7)}
    x, y = problem.sample(100)
    nmse = evaluate(trained, x, y).nmse_db
    assert (np.diff(nmse) < 0).all()
    assert nmse[-1] < -10
    lower, upper = trained.intervals(y, trained.recover(y), 0.9)
    assert 0.87 < np.mean((lower <= x) & (x <= upper)) < 0.93
    assert not trained.quality(y, trained.recover(y)).too_many


def test_a_ridge_is_kept_unless_it_makes_no_difference(tmp_path, rng):
    said: list[str] = []
    problem = Problem(linear_operator(rng.standard_normal((20, 40))), 0.05, 20.0)
    assert analytic_weight(problem, ridge=0.5, say=said.append).report.ridge == 0.5
    assert analytic_weight(Problem(mri(), 0.05, 20.0), ridge=0.5, say=said.append).report.ridge == 0
    assert "makes no difference" in said[-1]
    problem = Problem(Circular(np.array([1.0, 0.5]), 64), 0.05, 20.0)
    few = SignalSet(problem.sample(40)[0])
    weight = choose_ridge(problem, layers=1, data=few)
    assert weight.report.ridge in RIDGES
    model = Model.new(problem, weight, layers=2)
    model.save(tmp_path / "m.h5")
    assert Model.load(tmp_path / "m.h5").network.ridge == weight.report.ridge


def test_complex_measurements_of_real_codes_train_as_computed_ones_do(trained):
    x, y = trained.problem.sample(300)
    kept, given = (train(Model.new(trained.problem, layers=2), QUICK, data=each) for each in (x, (x, y)))
    for name, value in kept.network.parameters.items():
        np.testing.assert_allclose(given.network.parameters[name], value, rtol=1e-4)


@pytest.mark.parametrize(("snapshots", "group", "mean"), [(1, 1, 0), (2, 1, 1.5), (1, 4, 1.5)])
def test_its_unit_is_nearly_that_of_the_matrix(snapshots, group, mean):
    operator = cosine()
    law = {"magnitude": Normal(mean, 1), "snapshots": snapshots, "group": group}
    free, dense = (Problem(A, 1e-3, **law, norms=1) for A in (operator, matrix_of(operator)))
    assert free.unit == pytest.approx(dense.unit, rel=0.15)


def test_options_of_the_recipe_are_kept_and_others_suit_the_size():
    recipe = FastRecipe().sized(2**16)
    assert (recipe.batch, recipe.validation_batch, recipe.max_steps) == (8, 128, 200)
    assert FastRecipe(batch=128).sized(2**16, kept={"batch"}).batch == 128
    assert FastRecipe().sized(64) == FastRecipe()


def test_files_keep_the_description_and_give_the_same_answers(trained, tmp_path):
    trained.save(tmp_path / "m.h5")
    trained.problem.save(tmp_path / "p.h5")
    y = trained.problem.sample(3)[1]
    again = Model.load(tmp_path / "m.h5")
    for other in (again, copy.deepcopy(trained), pickle.loads(pickle.dumps(trained))):
        np.testing.assert_array_equal(other.recover(y), trained.recover(y))
        assert other.problem.sha256 == trained.problem.sha256 == Problem.load(tmp_path / "p.h5").sha256
    assert Problem(mri(np.float64)).sha256 == trained.problem.sha256
    assert "operator fourier of wavelet" in repr(again.problem)


def test_operators_of_scipy_are_recognised_and_must_be_given_again(tmp_path, rng):
    A = rng.standard_normal((30, 60)) / np.sqrt(30)
    given = linear_operator(A)
    problem = Problem(given, pnz=0.05)
    model = train(Model.new(problem, layers=3), QUICK, out=tmp_path / "m.h5")
    y = problem.sample(4)[1]
    with pytest.raises(FileError, match="give the operator itself"):
        Model.load(tmp_path / "m.h5")
    with pytest.raises(FileError, match="is another one"):
        Model.load(tmp_path / "m.h5", operator=linear_operator(2 * A))
    for again in (Model.load(tmp_path / "m.h5", operator=given), copy.deepcopy(model)):
        np.testing.assert_array_equal(again.recover(y), model.recover(y))
    train(model, QUICK, out=tmp_path / "m.h5", resume=True)
    assert "which a file cannot hold" in describe_file(tmp_path / "m.h5")
    assert "is as it was written" in check_file(tmp_path / "m.h5")
    inside = Problem(Composition(External(given, dtype=np.float64), Dense(np.eye(60), dtype=np.float64)))
    inside.save(tmp_path / "p.h5")
    assert Problem.load(tmp_path / "p.h5", operator=given).sha256 == inside.sha256


def test_files_of_masks_and_operators_that_differ_are_refused(trained, tmp_path, monkeypatch):
    trained.problem.save(tmp_path / "p.h5")
    with pytest.raises(FileError, match="give no operator"):
        Problem.load(tmp_path / "p.h5", operator=linear_operator(np.eye(3)))
    monkeypatch.setitem(MASKS, "radial", lambda **how: random_mask(how["shape"], 0.5))
    with pytest.raises(FileError, match=r"the radial mask .* is another one here"):
        Problem.load(tmp_path / "p.h5")
    twice = Stack([External(linear_operator(np.eye(3))), External(linear_operator(2 * np.eye(3)))])
    with pytest.raises(InputError, match="several of SciPy or PyLops"):
        Problem(twice)


@pytest.mark.parametrize(
    "change",
    [
        {"shape": "8x8"},
        {"shape": None},
        {"shape": [8.7, 8]},
        {"level": "2"},
        {"level": 2.5},
        {"wavelet": 3},
        {"mask": 7},
    ],
)
def test_values_of_a_wrong_kind_in_a_description_are_named(change):
    inner, outer = ({**MRI[name], **{k: v for k, v in change.items() if k in MRI[name]}} for name in ("inner", "outer"))
    with pytest.raises(InputError, match=r"operator|mask|shape|wavelet"):
        from_description({**MRI, "inner": inner, "outer": outer})


def test_an_operator_that_is_a_matrix_is_one():
    A = np.arange(1.0, 13).reshape(3, 4)
    assert Problem(Dense(A)).sha256 == Problem(A).sha256
    assert Problem(Dense(A)).has_matrix


def test_pictures_become_the_coefficients_of_the_basis(tmp_path, rng):
    problem, pictures = Problem(mri()), rng.random((3, 1, *SHAPE))
    for number, channels in enumerate(pictures):
        write_picture(tmp_path / f"{number}.tif", Picture(channels))
    found = coefficients(tmp_path, problem.basis)
    np.testing.assert_allclose(found, coefficients(pictures[:, 0], problem.basis), atol=1e-2)
    back = problem.basis.apply(coefficients(pictures[:, 0], problem.basis).reshape(-1, *SHAPE))
    np.testing.assert_allclose(back, pictures[:, 0], atol=1e-12)
    write_picture(tmp_path / "wide.png", Picture(rng.random((1, 16, 20))))
    with pytest.raises(FileError, match=r"wide\.png has 16×20 pixels, and the operator is for 16×16"):
        coefficients(tmp_path, problem.basis)
    with pytest.raises(InputError, match=r"has shape \(3, 256\); expected \(samples, 16, 16\)"):
        coefficients(found, problem.basis)


def test_the_command_line_from_pictures_to_pictures(tmp_path, rng, run):
    (tmp_path / "mri.json").write_text(json.dumps(MRI))
    pictures = np.zeros((220, *SHAPE), np.float32)
    for picture in pictures:  # boxes, which are sparse in the basis
        for row, column in 4 * rng.integers(0, 4, (3, 2)):
            picture[row : row + 8, column : column + 4] += 0.3
    np.save("pictures.npy", pictures)
    words = ("--signals", "pictures.npy", "--held-out", 0.5, "--max-steps", 20, "--batch", 8, "-T", 4)
    run("train", "--operator", "mri.json", *words, "-o", "model.h5")
    assert "220 signals of pictures.npy are converted to their coefficients in the basis" in run.errors
    run("test", "model.h5", "--x", "pictures.npy")
    assert "are converted to their coefficients" in run.errors
    run("gen-problem", "--operator", "mri.json", "-o", "problem.h5")
    assert "operator fourier of wavelet" in run("info", "problem.h5")
    assert "coherence: unknown" in run("info", "model.h5")
    problem = Problem.load("model.h5")
    codes = coefficients(pictures, problem.basis)
    y = problem.operator(dtype=np.float32).apply(codes.astype(np.float32))
    np.save("y.npy", y)
    run("simulate", "problem.h5", "--signals", "pictures.npy", "-o", "signals.h5")
    np.testing.assert_allclose(load_array("signals.h5", "y"), y, atol=1e-5)
    run("recover", "model.h5", "y.npy", "-o", "x.h5")
    assert "coefficients in the basis" in run.errors
    error = load_array("x.h5", "signal") - pictures
    zero_filled = problem.operator().adjoint(y.astype(np.complex128)) - codes
    assert (error**2).sum() < 0.5 * (zero_filled**2).sum()
    run("solve", "problem.h5", "y.npy", "--method", "fista", "--iterations", 30, "--lam", "1%", "-o", "f.npy")
    assert np.load("f.npy").shape == (220, 256)
    run("recover", "model.h5", "y.npy", "--refine", 3, "-o", "r.npy")


def test_a_comparison_that_fails_leaves_no_empty_folder(run):
    Problem(mri(), pnz=0.05).save("problem.h5")
    run("compare", "problem.h5", "--net", "lista", "-T", 2, "--samples", 20, "-o", "c.h5", fails=1)
    assert os.listdir() == ["problem.h5"]


@pytest.mark.slow
def test_networks_and_solvers_are_compared(run):
    Problem(mri(), pnz=0.05).save("problem.h5")
    words = ("--net", "alista", "--classical", "fista", "-T", 2, "--samples", 20)
    run("compare", "problem.h5", *words, "-o", "c.h5")


def test_a_solver_without_lambda_goes_on_until_every_sample_has_converged():
    problem = Problem(cosine(), pnz=0.05)
    solver = SOLVERS["fista"](problem)
    x, y = problem.sample(12, dtype=np.float64)
    found = solver.recover(y)
    assert solver.solution.converged.all()
    assert ((found - x) ** 2).sum() < 0.1 * (x**2).sum()


@pytest.mark.parametrize(
    ("words", "fails", "message"),
    [
        (("gen-problem", "--operator", "mri.json", "--m", 4), 2, "--m is about a matrix"),
        (("gen-problem", "--operator", "mri.json", "--load-a", "a.npy"), 2, "--load-a gives a matrix"),
        (("gen-problem", "--operator", "no.json"), 1, "no.json does not exist"),
        (("gen-problem", "--operator", "complex.json"), 1, "the circular is complex"),
        (
            ("gen-problem", "--operator", "mask.json"),
            1,
            "the mask has values from 0.25 to 0.5; expected zeros and ones",
        ),
        (("simulate", "problem.h5", "--signals", "one.npy"), 1, "of a single picture; expected (samples, 16, 16)"),
        (
            ("gen-problem", "--operator", "several.json"),
            1,
            '"mask": {"file": "several.npz", "key": NAME} with one of these names',
        ),
        (("gen-problem", "--operator", "bad.json"), 1, "'radon' is not a kind of operator"),
        (("train", "--operator", "cosine.json", "--signals", "."), 1, "holds pictures, and codes are needed"),
        (("solve-w", "problem.h5"), 1, "needs a measurement matrix"),
        (("solve", "problem.h5", "y.npy", "--method", "omp"), 1, "omp needs a measurement matrix"),
        (("train", "problem.h5", "--operator", "cosine.json"), 1, "describes another operator than that of problem.h5"),
        (("simulate", "problem.h5", "--signals", "a.npy"), 1, "a.npy has shape (2, 3)"),
        (("simulate", "problem.h5", "--signals", "a.npy", "--samples", 3), 2, "--signals gives some"),
        (("simulate", "problem.h5", "--columns"), 2, "give that file too"),
    ],
)
def test_a_wrong_use_is_explained(words, fails, message, tmp_path, run):
    (tmp_path / "mri.json").write_text(json.dumps(MRI))
    (tmp_path / "bad.json").write_text('{"kind": "radon"}')
    (tmp_path / "cosine.json").write_text('{"kind": "cosine", "shape": 64, "mask": {"kind": "random", "rate": 0.5}}')
    Problem(mri()).save("problem.h5")
    np.save("y.npy", np.ones((1, Problem(mri()).M)))
    np.save("a.npy", np.ones((2, 3)))
    np.save("one.npy", np.ones((16, 16)))
    np.save("kernel.npy", np.array([1, 1j]))
    np.save("density.npy", np.linspace(0.25, 0.5, 64))
    (tmp_path / "complex.json").write_text(
        '{"kind": "circular", "signals": "real", "kernel": "kernel.npy", "shape": 8}'
    )
    (tmp_path / "mask.json").write_text('{"kind": "cosine", "shape": 64, "mask": "density.npy"}')
    np.savez("several.npz", a=np.ones(64), b=np.arange(64) < 30)
    (tmp_path / "several.json").write_text('{"kind": "cosine", "shape": 64, "mask": "several.npz"}')
    run(*words, "-o", "out.npy" if words[0] == "solve" else "out.h5", fails=fails)
    assert message in run.errors


def test_an_array_of_a_description_is_chosen_by_its_name_in_a_file_of_several(tmp_path, run):
    np.savez("several.npz", a=np.ones(64), b=np.arange(64) < 30)
    (tmp_path / "b.json").write_text('{"kind": "cosine", "shape": 64, "mask": {"file": "several.npz", "key": "b"}}')
    run("gen-problem", "--operator", "b.json", "-o", "p.h5")
    assert Problem.load("p.h5").M == 30


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("rate", "0.5", '"rate" in the description of the operator is "0.5"; expected a number'),
        ("seed", 1.5, '"seed" in the description of the operator is 1.5; expected a whole number'),
        ("seed", -1, "expected a whole number from 0 to 2⁶⁴ − 1"),
        ("shape", [64, "64"], '"shape" in the description of the operator is \\[64, "64"\\]; expected a whole number'),
    ],
)
def test_a_number_in_a_description_that_is_none_or_out_of_range_is_named(part, value, message):
    mask = {"kind": "random", "rate": 0.5, part: value}
    with pytest.raises(InputError, match=message) as error:
        from_description({"kind": "cosine", "shape": 64, "mask": mask})
    assert error.value.options == ("operator",)


def test_numbers_of_numpy_are_numbers_in_a_description():
    mask = MASKS["random"](np.array([8, 8]), np.float32(0.5), np.int64(3))
    fourier, picture = Fourier(np.array([8, 8]), mask), (np.int64(9), 9)
    for operator in (
        fourier,
        Scaled(fourier, np.float32(2)),
        Convolution(np.ones((3, 3, 2)), picture, stride=np.int8(2)),
    ):
        arrays = {}
        text = json.dumps(describe(operator, arrays))
        assert describe(from_description(json.loads(text), arrays)) == json.loads(text)
