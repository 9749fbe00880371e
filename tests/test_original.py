"""The original's files and command lines: what it writes is read as it means it, and what it reads is written so."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import correlate2d

import cuista
from cuista import original
from cuista.data.dictionary import Dictionary, random_dictionary, rotate
from cuista.data.sensing import Sensing, random_sensing
from cuista.errors import FileError, InputError
from cuista.tasks.denoising import Denoiser
from cuista.tasks.sensing import Reconstructor

# What the original saves beside the variables of a network: the finished stages, and an empty log.
STATE = {"done": np.array(["T=1", "T=1 lr=0.0001"]), "log": np.array([])}


def soft(z, theta):
    return np.sign(z) * np.maximum(np.abs(z) - theta, 0)


def select(z, theta, percent):
    """Soft thresholding of columns, apart from the entries above both θ and the percentile of their column."""
    kept = (np.abs(z) > theta) & (np.abs(z) > np.percentile(np.abs(z), 100 - percent, axis=0, method="nearest"))
    return np.where(kept, z, soft(z, theta))


def assert_same_parameters(model, again):
    assert type(again) is type(model)
    assert set(again.network.parameters) == set(model.network.parameters)
    for name, value in model.network.parameters.items():
        np.testing.assert_allclose(again.network.parameters[name], value, rtol=1e-6, atol=1e-30)


# -- encoders and robust models ---------------------------------------------------------------------------------------


@pytest.fixture
def encoder_file(small_problem, rng, tmp_path):
    """An encoder of two layers as the original saves it with --scope AtoW, and its step matrices."""
    B = [0.02 * (small_problem.A + 0.3 * rng.standard_normal((20, 40))).astype(np.float32) for _ in range(2)]
    np.savez(tmp_path / "AtoW.npz", **{f"AtoW/B_{i + 1}:0": matrix for i, matrix in enumerate(B)}, **STATE)
    small_problem.save(tmp_path / "problem.h5")
    return B


def encoded(A, B, Q):
    """The weight of a matrix by the original's encoder with the loss ½‖(AᵀW − I) Q‖²."""
    W = A
    for matrix in B:
        W = W - matrix @ ((A.T @ W - np.eye(40)) * Q * Q)
    return W


@pytest.mark.parametrize("loss", ["rel2", "l2", "own Q"])
def test_an_encoder_of_the_original_computes_its_weights(run, small_problem, encoder_file, loss):
    Q = {"rel2": np.sqrt(1 + 38 * np.eye(40)), "l2": np.ones((40, 40))}.get(loss, 1 + np.eye(40) / 2)
    np.save("Q.npy", Q)
    words = ("--loss", "l2", "--loss-weights", "Q.npy") if loss == "own Q" else ("--loss", loss)
    run("convert", "AtoW.npz", "encoder.h5", "--problem", "problem.h5", "--net", "AtoW_grad", *words)
    assert "Wrote encoder.h5: AtoW, 2 layers" in run.errors
    model = cuista.EncoderModel.load("encoder.h5")
    expected = encoded(small_problem.A, encoder_file, Q)
    assert np.abs(expected - small_problem.A).max() > 0.01
    np.testing.assert_allclose(model.weights(small_problem.A[None])[0], expected, atol=1e-5)
    run("convert", "encoder.h5", "again.npz")
    with np.load("again.npz") as again:
        assert sorted(again) == ["AtoW/B_1:0", "AtoW/B_2:0"]
        np.testing.assert_array_equal(again["AtoW/B_2:0"], encoder_file[1])
        assert again["AtoW/B_1:0"].dtype == np.float32
    run("convert", "encoder.h5", "named.npz", "--scope", "E")
    assert list(np.load("named.npz")) == ["E/B_1:0", "E/B_2:0"]
    run("test", "encoder.h5", "--samples", 1)


def test_a_robust_model_of_the_original_is_two_files_or_one(run, small_problem, encoder_file):
    numbers = [(0.9, 0.05), (1.1, 0.03)]
    decoder = {
        f"ALISTA/{name}_{t + 1}:0": np.float32(value)
        for t, pair in enumerate(numbers)
        for name, value in zip(("alpha", "theta"), pair, strict=True)
    }
    np.savez("ALISTA.npz", **decoder, **STATE)
    words = ("--problem", "problem.h5", "--net", "robust_ALISTA")
    run("convert", "ALISTA.npz", "robust.h5", "--encoder", "AtoW.npz", *words)
    robust = cuista.RobustModel.load("robust.h5")
    A = cuista.normalize_columns(small_problem.A + 0.02 * np.random.default_rng(1).standard_normal((20, 40)))
    x, _ = small_problem.sample(5)
    W, found = encoded(A, encoder_file, np.sqrt(1 + 38 * np.eye(40))), np.zeros((40, 5))
    for t, (alpha, theta) in enumerate(numbers):
        found = select(found + alpha * W.T @ (A @ x.T - A @ found), theta, 1.2 * (t + 1))
    np.testing.assert_allclose(robust.model_for(A).recover(x @ A.T), found.T, atol=1e-5)
    run("convert", "robust.h5", "both.npz")
    with np.load("both.npz") as file:
        assert set(file) == {"AtoW/B_1:0", "AtoW/B_2:0", *decoder}
        assert all(file[name] == value for name, value in decoder.items())
    run("convert", "both.npz", "again.h5", *words)
    assert_same_parameters(robust, cuista.RobustModel.load("again.h5"))
    run("convert", "AtoW.npz", "encoder.h5", *words[:2])
    run("convert", "ALISTA.npz", "mixed.h5", "--encoder", "encoder.h5", *words[:2])
    assert_same_parameters(robust, cuista.RobustModel.load("mixed.h5"))
    run("convert", "both.npz", "only.h5", "--scope", "AtoW", *words[:2])
    assert_same_parameters(cuista.EncoderModel.load("encoder.h5"), cuista.EncoderModel.load("only.h5"))
    run("convert", "robust.h5", "named.npz", "--scope", "S", fails=1)
    assert "a robust model is exported in two scopes, AtoW and ALISTA: leave out 'S' (--scope)" in run.errors
    run("convert", "ALISTA.npz", "lost.h5", "--encoder", "ALISTA.npz", *words[:2], fails=1)
    assert "ALISTA.npz holds no encoder; expected variables B_1:0, B_2:0, … alone in a scope" in run.errors
    run("convert", "AtoW.npz", "lost.h5", fails=2)
    assert "name the file of its problem with --problem" in run.errors
    exact = cuista.RobustModel.new(cuista.Model.new(small_problem, layers=2))
    with pytest.raises(InputError, match="the original has no exact encoder"):
        original.write_model(exact)


def test_an_encoder_that_is_not_for_the_problem_is_refused(small_problem, rng):
    arrays = {"B_1:0": rng.standard_normal((10, 40))}
    with pytest.raises(FileError, match=r"B has the shape \(10, 40\); expected \(20, 40\)"):
        original.read_encoder(arrays, small_problem)
    arrays = {"B_1:0": np.full((20, 40), np.nan)}
    with pytest.raises(InputError, match="B in the file"):
        original.read_encoder(arrays, small_problem)


# -- denoisers --------------------------------------------------------------------------------------------------------


def denoised(picture, D, steps, thetas):
    """A picture by the original's convolutional network; steps map the padded residual to changes of the maps."""
    rows, columns, count = D.shape
    border = ((rows - 1,) * 2, (columns - 1,) * 2)
    maps = np.zeros((picture.shape[0] + rows - 1, picture.shape[1] + columns - 1, count))

    def synthesis():
        return sum(correlate2d(maps[..., m], D[..., m], "valid") for m in range(count))

    for W, theta in zip(steps, thetas, strict=True):
        residual = np.pad(picture - synthesis(), border, mode="reflect")
        maps = soft(maps + np.dstack([correlate2d(residual, W[..., m], "valid") for m in range(count)]), theta)
    return synthesis()


@pytest.mark.parametrize("untied", [False, True])
def test_a_denoiser_of_the_original_denoises_as_there(run, rng, untied):
    D = random_dictionary((3, 2), 5)
    np.savez("prob.npz", fs=D, ft=rotate(D), fh=3, fw=2, fn=5, pnz=0.001, SNR=np.inf, noise_var=1e-50)
    W = [(0.1 * (rotate(D) + 0.2 * rng.standard_normal(D.shape))).astype(np.float32) for _ in range(1 + untied)]
    thetas = [np.float32(0.02), np.float32(-0.001)]  # the original does not keep them from becoming negative
    names = ["W_1:0", "W_2:0"] if untied else ["W:0"]
    variables = {name: weight[:, :, None] for name, weight in zip(names, W, strict=True)}
    variables |= {"theta_1:0": thetas[0], "theta_2:0": thetas[1]}
    # Without a scope, the original saves the validation pictures too.
    pictures = {name: rng.random((2, 9, 9, 1)) for name in ("clean_val:0", "noisy_val:0")}
    np.savez("LISTA_cp_conv.npz", **variables, **pictures, **STATE)
    run("convert", "LISTA_cp_conv.npz", "denoiser.h5", "--dict", "prob.npz", "--sigma", 25)
    assert "Wrote denoiser.h5: Conv-LISTA-CP, 2 layers" in run.errors
    model = Denoiser.load("denoiser.h5")
    assert (model.sigma, model.network.untied) == (25, untied)
    picture = rng.standard_normal((9, 7))
    expected = denoised(picture, D, W if untied else W * 2, thetas)
    np.testing.assert_allclose(model.network.output(picture[None])[0], expected, atol=1e-5)
    run("convert", "denoiser.h5", "again.npz")
    with np.load("again.npz") as again:
        assert set(again) == set(variables)
        for name, value in variables.items():
            np.testing.assert_array_equal(again[name], value)
    run("convert", "LISTA_cp_conv.npz", "lost.h5", fails=2)
    assert "holds the variables of a convolutional network: name the file of its dictionary with --dict" in run.errors


def test_a_conv_alista_of_the_original_keeps_its_weight(run, rng):
    dictionary = Dictionary(random_dictionary((3, 3), 6))
    W = cuista.solve_conv(dictionary, ridge=0.5).W
    np.save("W.npy", rotate(W))  # the original correlates with the weight of this file
    np.savez("prob.npz", fs=dictionary.D)
    variables = {
        f"{name}_{t}:0": np.float32(value) for name, value in (("alpha", 0.1), ("theta", 0.01)) for t in (1, 2)
    }
    np.savez("ALISTA_conv.npz", **{f"C/{name}": value for name, value in variables.items()})
    run("convert", "ALISTA_conv.npz", "denoiser.h5", "--dict", "prob.npz", "-W", "W.npy", "--net", "ALISTA_conv")
    picture = rng.standard_normal((8, 8))
    expected = denoised(picture, dictionary.D, [0.1 * rotate(W)] * 2, [0.01] * 2)
    np.testing.assert_allclose(Denoiser.load("denoiser.h5").network.output(picture[None])[0], expected, atol=1e-5)
    run("convert", "denoiser.h5", "again.npz", "--scope", "C")
    assert {name.partition("/")[2]: value for name, value in np.load("again.npz").items()} == variables
    tilista = Denoiser.new(cuista.solve_conv(dictionary), "conv-tilista", layers=2)
    with pytest.raises(InputError, match=r"variables of conv-tilista in this task; expected one of .*ALISTA_conv"):
        original.write_model(tilista)


def test_a_convolutional_problem_of_the_original_goes_both_ways(run):
    dictionary = Dictionary(random_dictionary((3, 2), 4))
    np.savez("prob.npz", fs=dictionary.D, ft=rotate(dictionary.D), fh=3, fw=2, fn=4, pnz=0.001, SNR=np.inf)
    run("convert", "prob.npz", "dictionary.h5")
    np.testing.assert_array_equal(Dictionary.load("dictionary.h5").D, dictionary.D)
    run("gen-problem", "--task", "denoise", "--load-dict", "prob.npz", "-o", "made.h5")
    np.testing.assert_array_equal(Dictionary.load("made.h5").D, dictionary.D)
    for convention in ("correlation", "convolution"):  # it concerns D, which the original does not read
        run("convert", "dictionary.h5", "again.npz", "--convention", convention, "--force")
        with np.load("again.npz") as again:
            np.testing.assert_array_equal(again["fs"], dictionary.D)
            np.testing.assert_array_equal(again["ft"], rotate(dictionary.D))
            assert (again["fh"], again["fw"], again["fn"]) == (3, 2, 4)


# -- compressive sensing ----------------------------------------------------------------------------------------------


def sensed(M=5):
    D = np.random.default_rng(0).standard_normal((16, 24)) / 4
    return Sensing(random_sensing((4, 4), M), Dictionary.from_atoms(D - D.mean(axis=0), (4, 4)))


@pytest.mark.parametrize("coord", [False, True])
@pytest.mark.parametrize("untied", [False, True])
@pytest.mark.parametrize(("net", "theirs"), original.SENSING_NETS.items())
def test_a_network_for_compressive_sensing_recovers_as_there(run, rng, net, theirs, untied, coord):
    sensing = sensed()
    sensing.save("sensing.h5")
    A, atoms = sensing.A, sensing.dictionary.atoms
    M, N = A.shape

    def near(matrix):
        return (matrix + 0.05 * np.abs(matrix).max() * rng.standard_normal(matrix.shape)).astype(np.float32)

    step = 1 / (1.001 * np.linalg.norm(A, 2) ** 2)
    B, D = near(step * A.T), near(atoms)
    W = [near(step * A.T if net == "lista-cpss" else np.eye(N) - step * A.T @ A) for _ in range(1 + untied)]
    thetas = [np.float32(rng.uniform(0.01, 0.1, (N, 1) if coord else ())) for _ in range(2)]
    variables = {"D:0": D, "theta_1:0": thetas[0], "theta_2:0": thetas[1]}
    variables |= dict(zip(["W_1:0", "W_2:0"] if untied else ["W:0"], W, strict=True))
    variables |= {} if net == "lista-cpss" else {"B:0": B}
    variables = {f"{theirs}/{name}": value for name, value in variables.items()}
    np.savez("vars.npz", **variables, **STATE)
    schedule = ("-p", 10, "--max-percent", 15)
    run("convert", "vars.npz", "model.h5", "--problem", "sensing.h5", "--net", theirs, *schedule)
    model = Reconstructor.load("model.h5")
    y, x = rng.standard_normal((M, 7)), np.zeros((N, 7))
    for t, (weight, theta) in enumerate(zip(W if untied else W * 2, thetas, strict=True)):
        z = x + weight @ (y - A @ x) if net == "lista-cpss" else B @ y + weight @ x
        x = soft(z, theta) if net == "lista" else select(z, theta, min(10 * (t + 1), 15))
    np.testing.assert_allclose(model.network.output(y.T), (D @ x).T, atol=1e-5)
    run("convert", "model.h5", "again.npz")
    with np.load("again.npz") as again:
        assert set(again) == set(variables)
        for name, value in variables.items():
            np.testing.assert_array_equal(again[name], value)
    run("convert", "vars.npz", "lost.h5", "--problem", "sensing.h5", fails=2)
    assert "name its network with --net (LISTA_cs, LISTA_ss_cs, LISTA_cpss_cs)" in run.errors
    run("gen-problem", "--m", 4, "--n", 24)
    run("convert", "vars.npz", "lost.h5", "--problem", "problem.h5", fails=2)
    assert "holds a learned dictionary D, as networks for compressive sensing have" in run.errors


def test_a_sensing_matrix_for_the_original_leaves_out_the_means(run):
    sensing = sensed()
    sensing.save("sensing.h5")
    run("convert", "sensing.h5", "prob.npz")
    run("convert", "sensing.h5", "D.npy")
    Phi, D = np.load("prob.npz")["A"], np.load("D.npy")
    np.testing.assert_allclose(Phi @ D, sensing.A, atol=1e-12)
    np.testing.assert_allclose(Phi.sum(axis=1), 0, atol=1e-12)  # it measures nothing of the mean
    run("gen-problem", "--task", "cs", "--dict", "D.npy", "--sensing", "prob.npz", "-o", "again.h5")
    np.testing.assert_allclose(Sensing.load("again.h5").A, sensing.A, atol=1e-12)
    alista = Reconstructor.new(sensing, layers=2)
    with pytest.raises(InputError, match=r"variables of alista in this task; expected one of lista \(LISTA_cs\)"):
        original.write_model(alista)
