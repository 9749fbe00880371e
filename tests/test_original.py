"""The original's files and command lines: what it writes is read as it means it, and what it reads is written so."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import click
import numpy as np
import pytest
from cuista.cli import cli
from PIL import Image
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
        assert set(file) == {"AtoW/B_1:0", "AtoW/B_2:0", *decoder, *original.SCHEDULE}
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
    run("convert", "AtoW.npz", "lost.h5", *words[:2], "--net", "ALISTA", fails=1)
    assert "AtoW.npz holds B, which ALISTA does not have: name its network (--net)" in run.errors
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
    run("convert", "ALISTA_conv.npz", "lost.h5", "--net", "ALISTA_conv", fails=2)
    assert "name the file of its dictionary with --dict" in run.errors
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


# -- sparse coding ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("untied", [False, True])
def test_a_lamp_of_the_original_may_have_thresholds_for_each_coordinate(run, small_problem, rng, untied):
    small_problem.save("problem.h5")
    A, (M, N) = small_problem.A, small_problem.A.shape
    B = [(0.2 * A.T + 0.02 * rng.standard_normal((N, M))).astype(np.float32) for _ in range(1 + untied)]
    lam = [rng.uniform(-0.1, 1, (N, 1)).astype(np.float32) for _ in range(2)]
    variables = dict(zip(["L/B_1:0", "L/B_2:0"] if untied else ["L/B:0"], B, strict=True))
    variables |= {"L/lam_1:0": lam[0], "L/lam_2:0": lam[1]}
    np.savez("LAMP.npz", **variables, **STATE)
    run("convert", "LAMP.npz", "model.h5", "--problem", "problem.h5", "--net", "LAMP")
    model = cuista.Model.load("model.h5")
    _, y = small_problem.sample(6)
    x, v = np.zeros((N, 6)), np.zeros((M, 6))
    for matrix, factor in zip(B if untied else B * 2, lam, strict=True):
        v = y.T - A @ x + N / M * (x != 0).mean(axis=0) * v
        x = soft(x + matrix @ v, np.maximum(factor * np.linalg.norm(v, axis=0) / np.sqrt(M), 0))
    np.testing.assert_allclose(model.recover(y), x.T, atol=1e-5)
    run("convert", "model.h5", "again.npz", "--scope", "L")
    with np.load("again.npz") as again:
        assert set(again) == set(variables)
        for name, value in variables.items():
            np.testing.assert_array_equal(again[name], value)


def test_perturbed_matrices_are_named_and_shaped_as_the_original_reads_them(run):
    run("gen-problem", "--m", 6, "--n", 9)
    levels = [0.0, 0.00005, 0.005, 0.01, 0.025]
    words = [word for level in levels for word in ("--sigma", level)]
    run("gen-problem", "--perturbed", "--problem", "problem.h5", *words, "--count", 3, "--samples", 4)
    run("convert", "perturbed.h5", "robust_test_A.npz")
    with np.load("robust_test_A.npz") as test_As:
        # The original finds the matrices of a level by str() of the number, and feeds them one by one.
        found = sorted(float(key) for key in test_As)
        assert found == levels
        for sigma in found:
            assert [A.shape for A in test_As[str(sigma)]] == [(6, 9)] * 3


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
        assert set(again) == {*variables, *(original.SCHEDULE if net != "lista" else ())}
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


# -- command lines ----------------------------------------------------------------------------------------------------

# The options that most of its lines have.
PROBLEM = "--M 250 --N 500 --pnz 0.1 --SNR inf --con_num 0 --column_normalized True"
DEFINED = {"m": 250, "n": 500, "pnz": "0.1", "snr": np.inf, "con_num": 0, "normalize": True}
CPSS = f"--task_type sc -g 0 {PROBLEM} --net LISTA_cpss -T 16 -p 1.2 -maxp 13 --scope LISTA_cpss --exp_id 0"
TILISTA = f"--task_type sc -g 0 {PROBLEM} --net TiLISTA -T 16 -p 1.2 -maxp 13 --scope TiLISTA --exp_id 0"
ALISTA = f"--task_type sc -g 0 {PROBLEM} --net ALISTA -T 16 -p 1.2 -maxp 13 -W ./data/W.npy --better_wait 2000 "
ALISTA += "--scope ALISTA --exp_id 0"
ENCODER = f"--task_type encoder -g 0 {PROBLEM} --net AtoW_grad --eT 4 --Binit default --eta 1e-3 --loss rel2 --Abs 16 "
ENCODER += "--encoder_psigma 1e-2 --encoder_pre_lr 1e-4 --scope AtoW --exp_id 0"
ROBUST = f"--task_type robust -g 0 {PROBLEM} --net robust_ALISTA --eT 4 --Binit default --eta 1e-3 --loss rel2 "
ROBUST += "--encoder_scope AtoW --encoder_psigma 1e-2 --encoder_pre_lr 1e-4 --encoder_id 0 --dT 16 --lam 0.4 -p 1.2 "
ROBUST += "-maxp 13 -W .data/W.npy --decoder_scope ALISTA --decoder_id 0 --psigma_max 2e-2 --psteps 5 --msigma 0.0 "
ROBUST += "--encoder_lr 1e-9 --decoder_lr 1e-4 --Abs 4 --xbs 16 --maxit 50000 --exp_id 0"
AUGMENTED = f"--task_type robust -g 0 {PROBLEM} --net TiLISTA -T 16 --lam 0.4 -p 1.2 -maxp 13 --psigma_max 2e-2 "
AUGMENTED += "--psteps 5 --msigma 0.0 --decoder_lr 1e-4 --Abs 4 --xbs 16 --maxit 50000 --scope TiLISTA --exp_id 0"
DENOISE = "--task_type denoise -g 0 --net TiLISTA -T 5 --lam 0.1 --conv_alpha 0.1 --sigma 20 --height_crop 321 "
DENOISE += "--width_crop 321 --num_epochs -1 --tbs 4 --vbs 16 --data_folder data/denoise_tfrecords --train_file "
DENOISE += "training_tfrecords_filename --val_file validation_tfrecords_filename"
SELECTED = {"layers": 16, "percent": 1.2, "max_percent": 13}
UNDER_PERTURBATION = {"psigma_max": 0.02, "psteps": 5, "msigma": 0, "matrices": 4, "batch": 16, "max_steps": 50_000}


@dataclass
class Line:
    """A published command line, what is understood of it, and what it does with small numbers.

    `small` replaces and adds options so that the line takes no time; `more` are the words that cuista needs besides.
    The line says `said` and `also`, and fails if `refused` is not 0.
    """

    command: str
    text: str
    said: str
    parsed: dict[str, Any] = field(default_factory=dict)
    small: dict[str, str] = field(default_factory=dict)
    more: str = ""
    refused: int = 0
    also: str = ""


TASK_NAMES = ("sc", "denoise", "cs", "encoder", "robust")
SMALL = {"--M": "20", "--N": "40", "-T": "2", "--eT": "2", "--dT": "2", "--psteps": "2", "--maxit": "2"}
MISSING = "give the MODEL to test: a file of cuista train"
LINES = [
    Line("gen-problem", PROBLEM.replace("con_num 0", "con_num 0.0"), "Wrote problem.h5: 20×40", DEFINED),
    Line("train", CPSS, "Wrote LISTA_cpss_0.h5", {**SELECTED, "net": "lista-cpss", "out": "LISTA_cpss_0.h5"}),
    Line("test", f"{CPSS} -t", "Note: the model is LISTA_cpss_0.h5", {"snr": np.inf, "pnz": "0.1"}),
    Line("train", TILISTA, "Wrote TiLISTA_0.h5", {**SELECTED, "net": "tilista"}),
    Line("test", f"{TILISTA} -t", "Note: the model is TiLISTA_0.h5"),
    Line(
        "train",
        ALISTA,
        "Wrote ALISTA_0.h5",
        {**DEFINED, **SELECTED, "net": "alista", "weight_file": "data/W.npy", "better_wait": 2000, "name": "paper"},
    ),
    Line("test", f"{ALISTA} -t", "Note: the model is ALISTA_0.h5"),
    Line("train", ROBUST, "robust_ALISTA is trained together with its encoder: give --encoder exact", refused=2),
    Line(
        "train",
        ENCODER,
        "Wrote AtoW_0.h5",
        {"layers": 4, "start": "default", "eta": 1e-3, "loss": "rel2", "batch": 16, "sigma": 0.01},
        also="--encoder_pre_lr 1e-4 is ignored: the original code trains its encoder at --encoder_lr",
    ),
    Line("train", f"{ENCODER} --encoder_lr 1e-5", "Wrote e.h5", {"learning_rate": 1e-5}, more="-o e.h5"),
    Line("test", f"{ENCODER} -t", "Note: the model is AtoW_0.h5"),
    Line(
        "train",
        ROBUST,
        "Note: --encoder is AtoW_0.h5, after --encoder_scope and --encoder_id.",
        {**UNDER_PERTURBATION, "encoder_rate": 1e-9, "learning_rate": 1e-4, "layers": 16, "name": "paper"},
        also="Note: --decoder is ALISTA_0.h5, after --decoder_scope and --decoder_id.",
    ),
    Line("test", f"{ROBUST} -t", "give a test set with --perturbed", refused=2),
    Line("test", f"{ROBUST} -t", "Note: the model is robust_ALISTA_0.h5", more="--perturbed perturbed.h5"),
    Line(
        "train",
        AUGMENTED,
        "Wrote robust_TiLISTA_0.h5",
        {**UNDER_PERTURBATION, **SELECTED, "net": "tilista", "learning_rate": 1e-4},
    ),
    Line("test", f"{AUGMENTED} -t", "Note: the model is robust_TiLISTA_0.h5", more="--perturbed perturbed.h5"),
    Line(
        "prepare-images",
        "--task_type denoise --dataset_dir /path/to/your/train/folder --out_dir path/to/the/folder/to/store/tfrecords "
        "--out_file train.tfrecords --suffix jpg",
        "Wrote images.h5: pictures",
        {"folder": "/path/to/your/train/folder"},
        {"--dataset_dir": "pictures"},
    ),
    Line(
        "gen-problem --task denoise",
        "--conv_d 3 --conv_m 100 --conv_lam 0.05 --load_dict ./data/D3_M100_lam0.05.mat",
        "Note: --size and --filters are ignored: the filters in data/D.mat have their own.",
        {"size": (3, 3), "filters": 100, "load_dict": "data/D3_M100_lam0.05.mat"},
        {"--load_dict": "data/D.mat"},
    ),
    Line("train", DENOISE, "Missing argument 'IMAGES'", refused=2),
    Line("train", DENOISE, "needs a dictionary: give --dict FILE", more="images.h5 -o denoiser.h5", refused=2),
    Line(
        "train",
        DENOISE,
        "Wrote denoiser.h5",
        {"net": "conv-tilista", "sigma": 20, "crop": 321, "layers": 5, "batch": 4, "validation_batch": 16},
        {"--height_crop": "12", "--vbs": "2", "--maxit": "2"},
        "images.h5 --dict dictionary.h5 -o denoiser.h5",
    ),
    Line("test", f"{DENOISE} -t", MISSING, refused=2),
    Line("test", f"{DENOISE} -t", "conv-tilista dB", {"sigma": 20}, more="denoiser.h5 --images images.h5"),
]


def pictures(folder):
    """Fill a folder with twelve small pictures."""
    folder.mkdir()
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 40), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


def parsed(words):
    """The parameters that a command takes from these words."""
    name, *words = words
    parent = click.Context(cli, info_name="cuista", **cli.context_settings)
    context = cli.commands[name].make_context(name, words, parent)
    return {name: str(value) if hasattr(value, "suffix") else value for name, value in context.params.items()}


def shortened(words, small):
    """The words with other values of these options, if they have them."""
    return [small.get(before, word) for before, word in zip(["", *words], words, strict=False)]


@pytest.mark.filterwarnings("ignore:training has ended at")  # after a few steps
def test_every_published_command_line_does_what_it_says_or_says_what_to_type(run, quick_recipe, monkeypatch, tmp_path):
    monkeypatch.setattr("cuista.tasks.robust.FastRecipe", lambda: quick_recipe)
    pictures(tmp_path / "pictures")
    (tmp_path / "data").mkdir()
    cuista.storage.save_arrays("data/D.mat", {"D": random_dictionary((3, 3), 6)})
    for line in LINES:
        words = [*line.command.split(), *line.text.split(), *line.more.split()]
        if line.parsed:
            found = parsed(words)
            assert {name: found[name] for name in line.parsed} == line.parsed, line
        words = shortened(words, {**SMALL, **line.small})
        takes_steps = words[0] == "train" and "--maxit" not in words
        words += ["--maxit", "2"] if takes_steps else []
        words += ["--batch", "4", "--validation-batch", "8"] * (takes_steps and "--task_type sc" in line.text)
        out = run(*words, fails=line.refused)
        assert line.said in out + run.errors, line
        assert line.also in run.errors, line
        assert "No such option" not in run.errors
        if line.text == ROBUST and not line.refused:
            assert "-W and -T and -p and --max-percent are ignored: the file of --decoder defines them" in run.errors
            assert "_scope" not in run.errors.replace("after --encoder_scope", "").replace("after --decoder_scope", "")
        if line.refused:
            assert run.errors.rstrip().splitlines()[-1].startswith("Error: ")
        if line.command == "gen-problem":
            run("solve-w", "problem.h5", "-o", "data/weight.h5")
            run("convert", "data/weight.h5", "data/W.npy")
            made = ("--sigma", 0.01, "--count", 1, "--samples", 5)
            run("gen-problem", "--perturbed", "--problem", "problem.h5", *made)
    model = cuista.RobustModel.load("robust_ALISTA_0.h5")
    assert model.training["recipe"] == "paper"
    assert model.origin["decoder"] == cuista.RobustModel.new(cuista.Model.load("ALISTA_0.h5")).origin["decoder"]
    assert Denoiser.load("denoiser.h5").weight.dictionary.filters == 6
    assert cuista.Model.load("ALISTA_0.h5").weight.report.method == "imported"
    assert cuista.EncoderModel.load("AtoW_0.h5").training["learning_rate"] == 1e-6


def test_a_published_command_line_may_be_varied(run):
    run("gen-problem", "--M", 20, "--N", 40)
    run("solve-w", "problem.h5")
    run("convert", "weight.h5", "W.npy")
    published = (
        "train --task_type sc -g 0 --M 20 --N 40 --pnz 0.1 --SNR inf --con_num 0 --column_normalized True "
        "--net ALISTA -T 2 -p 1.2 -maxp 13 -W W.npy --better_wait 20 --scope ALISTA --exp_id 0 "
        "--maxit 20 --init_lr 5e-4 --lr_decay 0.2,0.02 --tbs 16 --vbs 50"
    )
    run(*published.split())
    assert "Note: the output is ALISTA_0.h5, after --scope and --exp_id" in run.errors
    assert "Note: the original's recipe is used, because of --better_wait, --maxit" in run.errors
    training = cuista.Model.load("ALISTA_0.h5").training
    assert (training["batch"], training["validation_batch"], training["max_steps"]) == (16, 50, 20)
    assert training["recipe"] == "paper"
    run(*published.replace("--exp_id 0", "--exp_id 1").split())
    run(*published.replace("--scope ALISTA --exp_id 0", "--exp_id 7").split(), "-mi", 1)
    assert "Note: the output is ALISTA_7.h5, after --net and --exp_id (-o gives it another name)" in run.errors
    run(*published.replace("--net ALISTA", "").replace("--scope ALISTA", "").split(), "-mi", 1)
    assert "Note: --exp_id 0 is ignored without --scope: name the output with -o" in run.errors
    run(*published.split(), "--recipe", "fast", "--force", fails=2)
    assert "only the paper recipe has it" in run.errors
    run(*published.split(), "-t", "--force", fails=2)
    assert "cuista test" in run.errors
    run(*published.replace("task_type sc", "task_type cs").split(), "--force", fails=2)
    run(*published.replace("--net ALISTA", "--net LISTA_cpss -u").split(), "-o", "model.h5", "--force")
    run("convert", "model.h5", "vars.npz")
    assert "LISTA_cpss/W_1:0" in np.load("vars.npz")
    assert cuista.Model.load("model.h5").network.parameters["weight"].shape == (2, 40, 20)
    run(*published.replace("--net ALISTA", "--net AtoW").split(), "--force", fails=2)
    assert "atow is for --task encoder" in run.errors
    np.save("A.npy", cuista.random_matrix(6, 9))
    run("gen-problem", "--load_A", "A.npy", "--col_normalized=False", "-o", "q.h5")
    assert not cuista.Problem.load("q.h5").normalized
    run("gen-problem", "--load_A", "A.npy", "--M", 7, "--N", 9, "-o", "r.h5")
    assert "Note: --m 7 is ignored: the matrix in A.npy is 6×9" in run.errors
    run("convert", "r.h5", "prob.npz")
    run("train", "prob.npz", "-T", 2, "--max-steps", 5, "-o", "from-npz.h5")
    assert "Reading prob.npz as a problem of the original code" in run.errors


def test_networks_for_pictures_have_the_originals_names_too(run, tmp_path):
    pictures(tmp_path / "pictures")
    run("prepare-images", "--dataset_dir", "pictures", "--out_dir", ".", "--suffix", "png", "--split", "6,2,2")
    assert "--suffix png is ignored: pictures of all formats that can be read are taken" in run.errors
    run("gen-problem", "--task", "denoise", "--conv_d", 3, "--conv_m", 8, "--conv_lam", 0.1)
    assert "Wrote dictionary.h5: 8 filters of 3×3" in run.errors
    words = "train --task_type denoise images.h5 --dict dictionary.h5 --ridge 0 --conv_lam 0.1 --conv_alpha 0.1 "
    words += (
        "--height_crop 24 --width_crop 24 --num_epochs -1 --data_folder data --train_file a --val_file b --maxit 2 "
    )
    words += "--tbs 2 --vbs 2 --layers 2 --scope S"
    for name, net in (("TiLISTA", "conv-tilista"), ("ALISTA_conv", "conv-alista"), ("LISTA_cp_conv", "conv-lista-cp")):
        run(*words.split(), "--net", name, "--exp_id", name)
        assert "crops are square, with the side --crop" in run.errors
        model = Denoiser.load(f"S_{name}.h5")
        assert (model.network.name, model.training["recipe"], model.training["crop"]) == (net, "paper", 24)


# All options of the original's four programs, with a value that each can have.
PROBLEM_OPTIONS = {"-M": 20, "--M": 20, "-N": 40, "--N": 40, "-P": 0.1, "--pnz": 0.1, "-S": "inf", "--SNR": "inf"}
PROBLEM_OPTIONS |= {"-C": 0, "--con_num": 0, "-CN": "True", "--col_normalized": "True", "-ef": "e", "--exp_folder": "e"}
FILE_OPTIONS = {"-L": 0, "--L": 0, "-pfn": "p", "--prob_file": "p"}
CONV_OPTIONS = {"-cd": 3, "--conv_d": 3, "-cm": 10, "--conv_m": 10, "-clam": 0.05, "--conv_lam": 0.05}
OPTIONS = {
    "problem": {
        **PROBLEM_OPTIONS,
        "-L": 0,
        "--L": 0,
        "-lA": "A.npy",
        "--load_A": "A.npy",
        "-pfn": "p",
        "--prob_file": "p",
    },
    "dictionary": {**PROBLEM_OPTIONS, **CONV_OPTIONS, "-L": 0, "--L": 0, "-ld": "D.mat", "--load_dict": "D.mat"},
    "pictures": {"--task_type": "cs", "--dataset_dir": "f", "--out_dir": "d", "--out_file": "t", "--suffix": "png"},
    "network": {**PROBLEM_OPTIONS, **CONV_OPTIONS},
}
OPTIONS["pictures"] |= {"--sensing": "p.npz", "--patch_size": 16, "--patches_per_img": 100}
OPTIONS["network"] |= {
    option: value
    for options, value in {
        "-T --T -eT --eT -dT --dT": 2,
        "-p --percent -maxp --max_percent": 1.2,
        "-l --lam -llam --lasso_lam -ca --conv_alpha": 0.2,
        "-u --untied -c --coord": None,
        "-W --W": "W.npy",
        "-eta --eta": 1e-3,
        "-Q --Q": "Q.npy",
        "-sc --scope -escope --encoder_scope -dscope --decoder_scope": "S",
        "-F --F -sr --sample_rate": 25,
        "-lr --init_lr -elr --encoder_lr -eplr --encoder_pre_lr -dlr --decoder_lr": 1e-4,
        "-tbs --tbs -vbs --vbs -Abs --Abs -xbs --xbs": 4,
        "-fixval --fixval -col --column -np --norm_patch": "True",
        "-supp_prob --supp_prob": 0.1,
        "-magdist --magdist": "normal",
        "-nmean --magnmean": 0.0,
        "-nstd --magnstd": 1.0,
        "-bp --magbp -bv0 --magbv0 -bv1 --magbv1": 0.5,
        "-sigma --sigma": 20,
        "-hc --height_crop -wc --width_crop": 32,
        "-epoch --num_epochs": -1,
        "-dr --decay_rate -ld --lr_decay": 0.3,
        "-vs --val_step -mi --maxit -bw --better_wait": 10,
        "-id --exp_id -eid --encoder_id -did --decoder_id": 0,
        "-rf --res_folder -pf --prob_folder --prob": "f",
        "-se --sensing -dc --dict -df --data_folder -tf --train_file -vf --val_file": "f",
        "-xt --xtest -td --test_dir": "x.npy",
        "-g --gpu": 0,
        "-ps_max --psigma_max -ms --msigma -eps --encoder_psigma": 0.01,
        "-psteps --psteps": 5,
        "-eb --encoder_Binit": "default",
        "-el --encoder_loss": "rel2",
    }.items()
    for option in options.split()
}
ACCEPTED = [
    ("gen-problem", "problem", ""),
    ("gen-problem --task_type denoise", "dictionary", ""),
    ("prepare-images", "pictures", "folder"),
    *[(f"{command} --task_type {task}", "network", "file") for command in ("train", "test") for task in TASK_NAMES],
]


def refusal(words):
    """What a command says about words that it does not take; empty if it takes them."""
    try:
        parsed(words)
    except click.UsageError as error:
        return error.message
    return ""


@pytest.mark.parametrize(("command", "program", "argument"), ACCEPTED, ids=[command for command, *_ in ACCEPTED])
def test_every_option_of_the_original_is_understood_or_answered(command, program, argument, capsys):
    for option, value in OPTIONS[program].items():
        words = [*command.split(), *argument.split() * (option != "--dataset_dir"), option]
        said = refusal(words if value is None else [*words, str(value)])
        assert said == "" or f"and the task here is {command.split()[-1]}: leave it out" in said, option
        if value is not None and option != "--task_type":
            assert re.search(r"needs a value|requires an argument|and the task here is", refusal(words)), option
    capsys.readouterr()


def test_an_option_without_its_value_does_not_take_the_next_one(run):
    run("gen-problem", "--m", 10, "--n", 20)
    for words, option in (
        (("--exp_id", "--scope", "A"), "--exp_id"),
        (("--scope",), "--scope"),
        (("--scope=",), "--scope"),
        (("-g", "-T", 2), "-g"),
        (("--column_normalized", "--lam", 1), "--column_normalized"),
        (("--lam", "-u"), "--lam"),
    ):
        run("train", "problem.h5", *words, fails=2)
        assert f"Error: {option} needs a value" in run.errors
    run("train", "problem.h5", "-T", 1, "--num_epochs", "-1", "--max-steps", 1, "--batch", 4, "--validation-batch", 8)
    assert "--num_epochs -1 is ignored" in run.errors


def test_the_originals_signals_are_columns(run, small_problem):
    cuista.Model.new(small_problem, layers=2).save("model.h5")
    x, _ = small_problem.sample(40)  # as many as a signal has entries, so that the shape does not tell
    np.save("rows.npy", x)
    np.save("columns.npy", x.T)
    tables = [run("test", "model.h5", *words) for words in (("--x", "rows.npy"), ("--xtest", "columns.npy"))]
    assert tables[0] == tables[1]
    assert tables[0] != run("test", "model.h5", "--x", "columns.npy")


def test_a_weight_without_its_problem_says_what_to_give(run):
    run("gen-problem", "--m", 10, "--n", 20, "--seed", 7)
    run("solve-w", "problem.h5")
    run("convert", "weight.h5", "W.npy")
    run("convert", "problem.h5", "prob.npz")
    words = ("--M", 10, "--N", 20, "--net", "ALISTA", "-T", 1, "-W", "W.npy", "--maxit", 1)
    run("train", *words, fails=2)
    assert "give the file of the weight's own problem as the argument (a prob.npz of the original" in run.errors
    run("train", "prob.npz", *words)
    run("test", *words, fails=2)
    assert f"Error: {MISSING}" in run.errors


def test_a_network_for_compressive_sensing_is_trained_as_there(run, tmp_path):
    pictures(tmp_path / "pictures")
    words = "--task_type cs --dataset_dir pictures --sensing prob.npz --patch_size 4 --patches_per_img 50 --suffix png"
    run("prepare-images", *words.split(), "--split", "8,4,0", "-o", "patches.h5")
    np.savez("prob.npz", A=np.random.default_rng(1).standard_normal((8, 16)) / np.sqrt(8), M=8, N=16)
    np.save("D.npy", sensed().dictionary.atoms)
    words = "--task_type cs -g 0 --net LISTA_cpss_cs -T 2 --lam 0.1 --lasso_lam 0.2 -p 1.2 -maxp 13 -F 16 --N 24 "
    words += "--sample_rate 50 --sensing prob.npz --dict D.npy --data_folder data --train_file train.tfrecords "
    words += "--val_file val.tfrecords --tbs 4 --vbs 8 --maxit 2 --scope CS --exp_id 3"
    run("train", *words.split(), fails=2)
    assert (
        "--train_file train.tfrecords, --val_file val.tfrecords are ignored: give the file of cuista prepare"
        in run.errors
    )
    assert "Missing argument 'EXAMPLES'" in run.errors
    run("train", *words.split(), "patches.h5")
    model = Reconstructor.load("CS_3.h5")
    assert (model.network.name, model.training["recipe"], model.sensing.M) == ("lista-cpss", "paper", 8)
    run("convert", "CS_3.h5", "vars.npz")
    assert "LISTA_cpss_cs/D:0" in np.load("vars.npz")
    run("prepare-images", "pictures", "--split", "0,0,2", "-o", "test.h5")
    table = run("test", *words.split(), "-t", "--images", "test.h5")
    assert "lista-cpss dB" in table
    assert "Note: the model is CS_3.h5, after --scope and --exp_id." in run.errors
    run("train", *words.replace("--dict D.npy", "").split(), "patches.h5", "-o", "x.h5", fails=2)
    assert "give --problem (cuista gen-problem --task cs makes one), or --sensing and --dict in its place" in run.errors


# -- what the original does not save ----------------------------------------------------------------------------------


def test_an_exported_network_brings_its_support_schedule_back(run):
    run("gen-problem", "--m", 20, "--n", 40)
    run("train", "problem.h5", "-T", 2, "--max-steps", 20)
    schedule = cuista.Model.load("model.h5").network.percent, cuista.Model.load("model.h5").network.max_percent
    assert schedule == (1.7, 17)
    run("convert", "model.h5", "own.npz")
    run("convert", "own.npz", "again.h5", "--problem", "problem.h5")
    assert "schedule" not in run.errors
    again = cuista.Model.load("again.h5").network
    assert (again.percent, again.max_percent) == schedule
    arrays = dict(np.load("own.npz"))
    np.savez("theirs.npz", **{name: arrays[name] for name in arrays if name.endswith(":0")})
    run("convert", "theirs.npz", "published.h5", "--problem", "problem.h5")
    assert "does not state the support schedule. 1.2 % more per layer up to 13 % was assumed" in run.errors
    run("convert", "theirs.npz", "given.h5", "--problem", "problem.h5", "-p", 1.7, "--max-percent", 17)
    assert "schedule" not in run.errors
    assert cuista.Model.load("given.h5").network.support == again.support


def test_the_original_has_no_networks_for_signals_without_negative_entries(run):
    for name, *more in (("both.h5",), ("positive.h5", "--positive")):
        run("gen-problem", "--m", 20, "--n", 40, *more, "-o", name)
        run("train", name, "-T", 2, "--max-steps", 5, "--validation-batch", 100, "-o", f"model-{name}")
    run("convert", "model-positive.h5", "own.npz", fails=1)
    assert "the network sets all negative entries to 0 (positive)" in run.errors
    run("convert", "model-positive.h5", "own.mat")
    assert "Note: the network thresholds one-sidedly (positive)" in run.errors
    assert cuista.storage.load_array("own.mat", "positive") == 1
    run("convert", "model-both.h5", "own.npz")
    run("convert", "own.npz", "again.h5", "--problem", "positive.h5", fails=1)
    assert "the network in own.npz keeps entries of both signs" in run.errors
    run("convert", "positive.h5", "prob.npz")
    run("convert", "prob.npz", "again.h5")
    assert cuista.Problem.load("again.h5").positive
    assert np.load("prob.npz")["x"].min() == 0


def test_a_sensing_matrix_goes_both_ways(run):
    from cuista.data.dictionary import Dictionary
    from cuista.data.sensing import Sensing, random_sensing

    atoms = np.random.default_rng(0).standard_normal((12, 20))
    sensing = Sensing(random_sensing((3, 4), 6), Dictionary.from_atoms(atoms - atoms.mean(axis=0), (3, 4)))
    sensing.save("sensing.h5")
    run("convert", "sensing.h5", "prob.npz")
    run("convert", "prob.npz", "again.h5")
    assert "6 measurements of each block of 3×4" in run.errors
    assert Sensing.load("again.h5").sha256 == sensing.sha256
