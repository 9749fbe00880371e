"""The original's files and command lines: what it writes is read as it means it, and what it reads is written so."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

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
    The line says `said`, and fails if `refused` is not 0.
    """

    command: str
    text: str
    said: str
    parsed: dict[str, Any] = field(default_factory=dict)
    small: dict[str, str] = field(default_factory=dict)
    more: str = ""
    refused: int = 0


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
    Line(
        "train",
        ENCODER,
        "Wrote AtoW_0.h5",
        {"layers": 4, "start": "default", "eta": 1e-3, "loss": "rel2", "batch": 16, "sigma": 0.01},
    ),
    Line(
        "train",
        ROBUST,
        "Note: --encoder is AtoW_0.h5, after --encoder_scope and --encoder_id.",
        {**UNDER_PERTURBATION, "encoder_rate": 1e-9, "learning_rate": 1e-4, "layers": 16, "name": "paper"},
    ),
    Line("test", f"{ROBUST} -t", MISSING, refused=2),
    Line("test", f"{ROBUST} -t", "give a test set with --perturbed", more="model.h5", refused=2),
    Line("test", f"{ROBUST} -t", "The NMSE is the mean over 1 matrices", more="model.h5 --perturbed perturbed.h5"),
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


def parsed(words):
    """The parameters that a command takes from these words."""
    name, *words = words
    context = cli.commands[name].make_context(name, words)
    return {name: str(value) if hasattr(value, "suffix") else value for name, value in context.params.items()}


def shortened(words, small):
    """The words with other values of these options, if they have them."""
    return [small.get(before, word) for before, word in zip(["", *words], words, strict=False)]


def test_every_published_command_line_does_what_it_says_or_says_what_to_type(run, quick_recipe, monkeypatch, tmp_path):
    monkeypatch.setattr("cuista.tasks.robust.FastRecipe", lambda: quick_recipe)
    for name in ("pictures", "data"):
        (tmp_path / name).mkdir()
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 256, (24, 30), np.uint8)
        Image.fromarray(pixels).save(f"pictures/{number}.png")
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
        assert "No such option" not in run.errors
        if line.refused:
            assert run.errors.rstrip().splitlines()[-1].startswith("Error: ")
        if line.command == "gen-problem":
            run("solve-w", "problem.h5", "-o", "data/weight.h5")
            run("convert", "data/weight.h5", "data/W.npy")
            made = ("--sigma", 0.01, "--count", 1, "--samples", 5)
            run("gen-problem", "--perturbed", "--problem", "problem.h5", *made)
    model = cuista.RobustModel.load("model.h5")
    assert model.training["recipe"] == "paper"
    assert model.origin["decoder"] == cuista.RobustModel.new(cuista.Model.load("ALISTA_0.h5")).origin["decoder"]
    assert Denoiser.load("denoiser.h5").weight.dictionary.filters == 6
    assert cuista.Model.load("ALISTA_0.h5").weight.report.method == "imported"
    assert cuista.EncoderModel.load("AtoW_0.h5").training["learning_rate"] == 1e-6
