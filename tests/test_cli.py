"""The command line through its real entry point: what works, and what it says about every mistake."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from click.shell_completion import ShellComplete
from cuista.cli import cli
from cuista.cli.common import talking
from test_pictures import save, scene

import cuista
from cuista import original, storage
from cuista.data.perturbed import PerturbedSet
from cuista.evaluation.comparison import Comparison
from cuista.messages import CuistaWarning, warn
from cuista.networks import NETWORKS
from cuista.solvers import SOLVERS

FAST = ("--batch", 32, "--validation-batch", 200, "--max-steps", 30)


@pytest.fixture
def problem(run):
    run("gen-problem", "--m", 20, "--n", 40, "--pnz", 0.05)
    return "problem.h5"


@pytest.fixture
def model(run, problem):
    run("train", problem, "-T", 3, *FAST)
    return "model.h5"


# -- problems -------------------------------------------------------------------------------------------------------


def test_gen_problem_makes_what_it_is_asked_for(run):
    run("gen-problem", "--m", 20, "--n", 40, "--pnz", 0.2, "--snr", 30, "--con-num", 5, "--seed", 7, "-o", "p.h5")
    problem = cuista.Problem.load("p.h5")
    assert (problem.M, problem.N, problem.pnz, problem.snr_db, problem.seed) == (20, 40, 0.2, 30, 7)
    assert problem.normalized
    assert 3 < problem.condition_number < 8
    assert "condition number" in run.errors


def test_gen_problem_takes_probabilities_from_a_file_and_bernoulli_magnitudes(run):
    np.save("pnz.npy", np.linspace(0, 0.2, 40))
    run("gen-problem", "--m", 20, "--n", 40, "--pnz", "pnz.npy", "--magnitude", "bernoulli", "--q", 0.1, "--v1", 4)
    problem = cuista.Problem.load("problem.h5")
    np.testing.assert_allclose(problem.pnz, np.linspace(0, 0.2, 40))
    assert problem.magnitude == cuista.Bernoulli(0.1, 1.0, 4.0)


@pytest.mark.parametrize("words", [("test", "absent.h5", "--images", "p.h5"), ("train", "absent.h5", "--sigma", 25)])
def test_a_file_that_is_absent_and_would_have_told_the_task_is_named(run, words):
    run(*words, fails=1)
    assert "absent.h5 does not exist" in run.errors


def test_codes_of_ones_own_are_measured_at_the_snr_of_the_problem(run, rng):
    run("gen-problem", "--m", 20, "--n", 40, "--no-normalize", "-o", "p.h5")
    x = rng.standard_normal((500, 40))
    np.savez("codes.npz", codes=x.T, other=x)
    words = ("simulate", "p.h5", "--signals", "codes.npz", "--key", "codes", "--columns")
    run(*words, "-o", "exact.h5")
    exact, A = cuista.storage.load_array("exact.h5", "y"), cuista.Problem.load("p.h5").given
    np.testing.assert_allclose(exact, x @ A.T)
    run(*words, "--snr", 20, "-o", "noisy.h5")
    noise = cuista.storage.load_array("noisy.h5", "y") - exact
    assert 10 * np.log10((exact**2).sum() / (noise**2).sum()) == pytest.approx(20, abs=0.5)


def test_codes_without_negative_entries_are_asked_for_in_the_problem(run):
    shape = ("--m", 20, "--n", 40, "--pnz", 0.05)
    run("gen-problem", *shape, "--positive", "-o", "p.h5")
    run("gen-problem", *shape, "-o", "both.h5")
    run("simulate", "p.h5", "--samples", 100, "-o", "s.h5")
    assert cuista.storage.load_array("s.h5", "x").min() == 0
    run("train", "p.h5", "--positive", "-T", 2, *FAST, "-o", "m.h5")
    run("train", *shape, "--positive", "--net", "liht", "-T", 2, *FAST, "-o", "liht.h5")
    run("train", "p.h5", "--task", "robust", "--decoder", "m.h5", "--max-steps", 2, "-o", "r.h5")
    for name, positive in (("p.h5", True), ("both.h5", False), ("m.h5", True), ("liht.h5", True), ("r.h5", True)):
        assert json.loads(run("info", name, "--json"))["attributes"]["positive"] == positive
    for model in ("m.h5", "liht.h5", "r.h5"):
        run("recover", model, "s.h5", "-o", "x.npy", "--force")
        assert np.load("x.npy").min() == 0 < np.load("x.npy").max()
    run("compare", "p.h5", "--classical", "ista", "-T", 2, "--samples", 100)
    run("train", "both.h5", "--positive", "-o", "n.h5", fails=1)
    assert "--positive is True, but both.h5 has False" in run.errors
    run("compare", "both.h5", "--classical", "ista", "-T", 2, "--samples", 100, "--resume", fails=1)
    assert "which differs in magnitude (then |Normal(mean=0.0, std=1.0)|, now Normal" in run.errors
    for task in ("denoise", "cs"):  # their codes have both signs
        run("train", "pictures.h5", "--task", task, "--positive", fails=2)
        assert f"--positive is for --task sc or encoder or robust, and the task here is {task}" in run.errors


@pytest.mark.parametrize(
    ("file", "key"), [("a.npy", None), ("a.npz", "A"), ("a.mat", "D"), ("a.h5", "A"), ("b.npz", "mine")]
)
@pytest.mark.parametrize("normalize", ["--normalize", "--no-normalize"])
def test_gen_problem_loads_a_matrix(run, file, key, normalize):
    A = 3 * cuista.random_matrix(6, 9)
    storage.save_arrays(file, {key or "A": A} if file != "b.npz" else {"other": A + 1, "mine": A})
    run("gen-problem", "--load-a", file, normalize, *(["--key", key] if key == "mine" else []))
    loaded = cuista.Problem.load("problem.h5").A
    np.testing.assert_allclose(loaded, A / np.linalg.norm(A, axis=0) if normalize == "--normalize" else A)


def test_matrix_and_measurements_may_have_any_names_in_one_file(run, model):
    problem = cuista.load(model).problem
    _, y = problem.sample(3)
    storage.save_arrays("both.npz", {"Phi": problem.A, "taken": y})
    for command in (("solve", "both.npz", "both.npz", "--method", "omp"), ("recover", model, "both.npz")):
        matrix = ("--matrix", "both.npz") if command[0] == "recover" else ()
        run(*command, *matrix, "--key", "Phi,taken", "--force")
        together = np.load("x.npy")
        np.save("A.npy", problem.A)
        np.save("y.npy", y)
        apart = [{"both.npz": "y.npy"}.get(word, word) for word in command]
        apart[1] = "A.npy" if command[0] == "solve" else model
        run(*apart, *(("--matrix", "A.npy") if matrix else ()), "--force")
        np.testing.assert_array_equal(np.load("x.npy"), together)
        run(*command, *matrix, "--key", "Phi,nope", "--force", fails=1)
        assert "expected 'nope'" in run.errors


@pytest.mark.parametrize(
    "text",
    [
        "1.5 2 -30  # the first\n4 5 6 % another, 7\n",
        "1.5,2,-30 # the first\n4,5,6\n",
        "1,5;2;-30;# a\n4,0;5;6;# b\n",
        " 1.5D+00 2.D0 -3d1\n 4 .5D1 6\n",
    ],
)
def test_texts_of_other_programs_are_read(run, text):
    Path("a.txt").write_text(text)
    np.testing.assert_array_equal(storage.load_array("a.txt"), [[1.5, 2, -30], [4, 5, 6]])


# -- weights --------------------------------------------------------------------------------------------------------


def test_solve_w_prints_its_report_and_writes_the_weight(run, problem):
    out = run("solve-w", problem, "--json")
    report = json.loads(out)
    assert {"objective", "coherence", "matrix_coherence", "constraint_residual", "seconds"} <= set(report)
    assert report["constraint_residual"] < 1e-12
    A = cuista.Problem.load(problem).A
    assert cuista.Weight.load("weight.h5", A).report.objective == report["objective"]
    table = run("solve-w", problem, "--method", "pgd", "--force")
    assert "mutual coherence W" in table
    assert "converged after" in table or "cap" in table


def test_solve_w_takes_a_bare_matrix_and_a_ridge(run):
    np.save("A.npy", cuista.random_matrix(6, 9))
    assert json.loads(run("solve-w", "A.npy", "--ridge", 0.5, "--json"))["ridge"] == 0.5
    run("solve-w", "A.npy", "--ridge", "auto", "--force", fails=1)
    assert "problem file" in run.errors


def test_solve_w_finds_a_ridge_for_a_noisy_problem(run, monkeypatch):
    monkeypatch.setattr("cuista.tasks.sparse_coding.RIDGES", (0.0, 1.0))
    recipe = cuista.FastRecipe(layer_steps=4, max_steps=0, validation_batch=500)
    monkeypatch.setattr("cuista.tasks.sparse_coding.RIDGE_RECIPE", recipe)
    run("gen-problem", "--m", 20, "--n", 40, "--pnz", 0.05, "--snr", 15)
    assert json.loads(run("solve-w", "problem.h5", "--ridge", "auto", "--json"))["ridge"] > 0


# -- training -------------------------------------------------------------------------------------------------------


def test_train_test_and_recover_in_a_row(run, problem):
    run("solve-w", problem)
    run("train", problem, "--net", "alista", "-W", "weight.h5", "-T", 3, "-p", 2, "--max-percent", 8, *FAST)
    assert "validation NMSE" in run.errors
    trained = cuista.Model.load("model.h5")
    assert (trained.network.layers, trained.network.percent, trained.network.max_percent) == (3, 2, 8)
    assert not os.path.exists("model.h5.ckpt")
    layers = json.loads(run("test", "model.h5", "--samples", 300, "--json"))["layers"]["alista"]
    assert [row["layer"] for row in layers] == [0, 1, 2, 3]
    assert layers[3]["nmse_db"] < layers[1]["nmse_db"] < 0
    _, y = trained.problem.sample(50)
    np.save("y.npy", y)
    run("recover", "model.h5", "y.npy")
    np.testing.assert_allclose(np.load("x.npy"), trained.recover(y), atol=1e-6)


def test_python_and_the_command_line_choose_the_same_ridge_whatever_the_seed(run, monkeypatch):
    recipe = cuista.FastRecipe(layer_steps=4, max_steps=0, validation_batch=300)
    monkeypatch.setattr("cuista.tasks.sparse_coding.RIDGE_RECIPE", recipe)
    run("gen-problem", "--m", 20, "--n", 40, "--pnz", 0.05, "--snr", 20)
    run("train", "problem.h5", "-T", 2, "--max-steps", 1, "--seed", 5)
    run("train", "problem.h5", "-T", 2, "--max-steps", 1, "--recipe", "paper", "-o", "paper.h5")
    expected = cuista.Model.new(cuista.Problem.load("problem.h5"), layers=2).weight
    for model in ("model.h5", "paper.h5"):
        assert (cuista.Model.load(model).weight.W == expected.W).all()


def test_training_says_that_it_solves_the_weight_and_uses_a_ridge_on_noise(run, problem):
    run("train", problem, "-T", 2, *FAST)
    assert "Computing the analytic weight" in run.errors
    run("gen-problem", "--m", 20, "--n", 40, "--pnz", 0.05, "--snr", 15, "-o", "noisy.h5")
    run("train", "noisy.h5", "-T", 2, *FAST, "-o", "noisy-model.h5")
    assert "noise-aware" in run.errors
    assert "  ridge 0.4:" in run.errors


def test_an_option_of_the_paper_recipe_asks_for_it(run, problem):
    words = ("train", problem, "-T", 1, "--max-steps", 20, "--validation-batch", 50)
    run(*words, "--better-wait", 10, "--lr-decay", "0.5", "--decay-rate", 0.1, "--learning-rate", 0.01)
    assert "paper recipe" in run.errors
    training = cuista.Model.load("model.h5").training
    assert (training["recipe"], training["better_wait"], training["decays"]) == ("paper", 10, [0.5])
    assert cuista.Model.load("model.h5").network.percent == 1.2
    run(*words, "--recipe", "fast", "--better-wait", 10, fails=2)


def test_problem_options_must_agree_with_the_problem_file(run, problem):
    run("train", problem, "--M", 21, fails=1)
    assert "--m is 21, but problem.h5 has 20" in run.errors
    run("train", fails=2)
    assert "PROBLEM" in run.errors


@pytest.mark.parametrize(
    "number",
    [signal.SIGKILL, *(pytest.param(each, marks=pytest.mark.slow) for each in (signal.SIGINT, signal.SIGTERM))],
)
def test_a_killed_run_resumes_to_the_same_bits(run, start, problem, number):
    words = ("train", problem, "-T", 3, "--batch", 32, "--validation-batch", 200, "--max-steps", 400)
    run(*words, "-o", "whole.h5")
    process = start(*words, "-o", "cut.h5", "--checkpoint-every", 0)
    while not os.path.exists("cut.h5.ckpt"):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    assert number == signal.SIGKILL or "--resume (not --force) continues it" in errors
    run(*words, "-o", "cut.h5", fails=1)
    assert "--resume" in run.errors
    run(*words, "-o", "cut.h5", "--resume")
    whole, cut = cuista.Model.load("whole.h5"), cuista.Model.load("cut.h5")
    for name, value in whole.network.parameters.items():
        np.testing.assert_array_equal(cut.network.parameters[name], value)
    np.testing.assert_array_equal(cut.history["nmse_db"], whole.history["nmse_db"])
    run(*words, "-o", "cut.h5", "--resume")
    assert "nothing to resume" in run.errors
    run(*words, "-o", "cut.h5", "--resume", "--seed", 3, fails=1)
    assert "cut.h5 is from another run, which differs in seed (then 0, now 3)" in run.errors
    run("gen-problem", "--m", 20, "--n", 40, "--pnz", 0.05, "--std", 2, "-o", "loud.h5")
    run("train", "loud.h5", *words[2:], "-o", "cut.h5", "--resume", fails=1)
    assert "magnitude (then Normal(mean=0.0, std=1.0), now Normal(mean=0.0, std=2.0))" in run.errors
    run(*words, "-o", "cut.h5", "--resume", "--ridge", 3, fails=1)
    assert "cut.h5 is from another run, which differs in weight (then " in run.errors


def test_a_forced_run_over_an_old_model_resumes_too(run, start, model):
    old = cuista.Model.load(model)
    words = ("train", "problem.h5", "-T", 3, "--batch", 32, "--validation-batch", 200, "--max-steps", 400)
    process = start(*words, "-o", model, "--checkpoint-every", 0, "--force")
    while not os.path.exists(f"{model}.ckpt"):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert cuista.Model.load(model).training == old.training
    run(*words, "-o", model, "--resume")
    assert cuista.Model.load(model).training["max_steps"] == 400
    assert not os.path.exists(f"{model}.ckpt")


def test_a_run_does_not_touch_what_another_has_left_unless_forced(run, interrupt, problem):
    checkpoint = Path("model.h5.ckpt")
    interrupt("train", problem, "-T", 2, *FAST, when=lambda at, name: at.step == 3)
    left = checkpoint.read_bytes()
    run("train", problem, "--net", "hyperlista", "--resume", fails=1)
    assert "model.h5.ckpt is from another run, not from a search: start afresh (--force)" in run.errors
    assert checkpoint.read_bytes() == left
    interrupt("train", problem, "-T", 3, *FAST, "--force", when=lambda at, name: at.step == 3)
    run("train", problem, "-T", 3, *FAST, "--resume")
    assert cuista.Model.load("model.h5").network.layers == 3


def test_a_problem_file_and_options_that_differ_from_it_are_refused(run, problem):
    np.save("pnz.npy", np.full(40, 0.05))
    for words, message in (
        (("--pnz", 0.2), "--pnz is 0.2"),
        (("--pnz", "pnz.npy"), "--pnz is"),
        (("--con-num", 50), "--con-num is 50"),
        (("--no-normalize",), "--normalize is False"),
        (("--magnitude", "bernoulli"), "--magnitude is Bernoulli"),
    ):
        run("train", problem, *words, fails=1)
        assert message in run.errors
    run("gen-problem", "--m", 20, "--n", 40, "--pnz", "pnz.npy", "-o", "vector.h5")
    run("train", "vector.h5", "--pnz", 0.1, fails=1)
    run("train", "vector.h5", "--pnz", "pnz.npy", "-T", 1, *FAST)


@pytest.mark.slow
def test_a_run_resumes_with_another_number_of_threads(run, start, problem, monkeypatch):
    words = ("train", problem, "-T", 3, "--batch", 32, "--validation-batch", 200, "--max-steps", 400)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    run(*words, "-o", "whole.h5")
    process = start(*words, "-o", "cut.h5", "--checkpoint-every", 0)
    while not os.path.exists("cut.h5.ckpt"):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    process = start(*words, "-o", "cut.h5", "--resume")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    whole, cut = cuista.Model.load("whole.h5"), cuista.Model.load("cut.h5")
    np.testing.assert_array_equal(cut.network.parameters["threshold"], whole.network.parameters["threshold"])


def test_signals_that_are_never_there_are_refused(run):
    run("gen-problem", "--m", 20, "--n", 40, "--pnz", 1e-9)
    run("train", "problem.h5", fails=1)
    assert "Give a larger one (--pnz)" in run.errors


def test_resuming_nothing_starts_afresh_and_says_so(run, problem):
    run("train", problem, "-T", 1, *FAST, "--resume")
    assert "There is no checkpoint model.h5.ckpt to continue from." in run.errors
    run("train", problem, "-T", 1, *FAST, "--resume", "--force", fails=2)


# -- testing, recovering, converting --------------------------------------------------------------------------------


def test_test_takes_signals_from_a_file_and_baselines_beside(run, model):
    x, _ = cuista.Problem.load(model).sample(30)
    np.save("x.npy", x.T)
    result = json.loads(run("test", model, "--x", "x.npy", "--columns", "--baselines", "--json", "-o", "report.h5"))
    assert result["samples"] == 30
    assert set(result["layers"]) == {"alista", "ista", "fista"}
    assert storage.read("report.h5", "cuista-report").arrays["support_size"].shape == (4, 30)
    table = run("test", model, "--samples", 50, "--baselines")
    assert "ALISTA dB  ISTA dB  FISTA dB" in table
    assert len(table.splitlines()) == 5


def test_compare_trains_tests_and_goes_on_where_it_was(run, interrupt, problem, model, quick_recipe, monkeypatch):
    monkeypatch.setattr("cuista.cli.compare.FastRecipe", lambda: quick_recipe)
    words = ("compare", problem, "-T", 3, "--samples", 200, "--net", "alista", "--net", "lista_cpss:untied")
    words = (*words, "--classical", "fista", "--classical", "omp", "--model", model, "--snr", "inf", "--snr", 30)
    words = (*words, "--ridge", 0)
    interrupt(*words, when=lambda at, name: name.startswith("lista-cpss"))
    assert "continues from there" in run.errors
    trained = Path("comparison.h5.models/alista-infdB.h5").read_bytes()
    run(*words, fails=1)
    assert "in an earlier comparison: continue that, or start afresh (--resume, --force)" in run.errors
    table = run(*words, "--resume")
    assert "alista at inf dB: taken from" in run.errors
    assert Path("comparison.h5.models/alista-infdB.h5").read_bytes() == trained
    assert "lista-cpss:untied 30 dB" in table
    compared = Comparison.load("comparison.h5")
    assert [r.method for r in compared.results] == 2 * ["alista", "lista-cpss:untied", model, "fista", "omp"]
    assert [len(r.nmse_db) for r in compared.results] == 2 * [4, 4, 4, 4, 2]
    assert compared.results[1].parameters == 3 * 40 * 20 + 3
    assert all(r.training_seconds > 0 for r in compared.results if r.steps)
    # `cuista compare` tests the same model on the same signals as `cuista test`.
    layers = json.loads(run("test", model, "--samples", 200, "--json"))["layers"]["alista"]
    assert compared.results[2].nmse_db[-1] == pytest.approx(layers[-1]["nmse_db"])
    run(*words, fails=1)
    assert "--force" in run.errors
    Path("comparison.h5").unlink()
    run(*words, "--seed", 5, "--resume", fails=1)
    assert "alista-infdB.h5 is from another run, which differs in seed (then 0, now 5)" in run.errors
    run("compare", problem, "-T", 3, "--samples", 200, "--net", "alista", "--seed", 5, "--ridge", 7, "--force")
    run("compare", problem, "-T", 3, "--samples", 100, "--classical", "ista", "--seed", 5, "--resume", fails=1)
    assert "is from another run, which differs in samples (then 200, now 100)" in run.errors
    assert cuista.Model.load("comparison.h5.models/alista-infdB.h5").weight.report.ridge == 7
    results = json.loads(run("compare", problem, "--classical", "ista", "-o", "ista.json", "--json"))["results"]
    assert json.loads(Path("ista.json").read_text())["results"] == results
    compared.save("comparison.h5", overwrite=True)
    for file, figure in ((("comparison.h5",), "nmse.svg"), ((model, model), "parameters.png")):
        run("plot", *file, "-o", figure)
        assert Path(figure).stat().st_size > 1000
    drawn = Path("nmse.svg").read_bytes()
    run("plot", "comparison.h5", "-o", "nmse.svg", "--force")
    assert Path("nmse.svg").read_bytes() == drawn
    run("gen-problem", "--m", 20, "--n", 40, "--seed", 9, "-o", "p9.h5")
    run("train", "p9.h5", "-T", 2, *FAST, "-o", "other.h5")
    for wrong, said in (
        (("compare", problem), "nothing to compare"),
        (("compare", problem, "--net", "alista:untied", "-o", "n.h5"), "no form 'untied'"),
        (("compare", problem, "--net", "nonet", "-o", "n.h5"), "there is no network 'nonet'"),
        (("compare", problem, "--net", "alista", "--model", "other.h5", "-o", "n.h5"), "for another matrix"),
        (("plot", problem, "-o", "n.pdf"), "is a cuista-problem"),
        (("plot", "comparison.h5", model, "-o", "n.pdf"), "drawn in different ways"),
        (("plot", "comparison.h5", "-o", "n.txt"), ".pdf"),
    ):
        run(*wrong, fails=2 if said in ("nothing to compare", ".pdf") else 1)
        assert said in run.errors
    assert not Path("n.h5.models/alista-infdB.h5").exists()


def test_a_figure_without_matplotlib_says_how_to_get_it(run, model, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    run("plot", model, fails=1)
    assert "pip install 'cuista[plot]'" in run.errors


@pytest.mark.parametrize("method", list(SOLVERS))
def test_solve_recovers_by_a_classical_solver(run, problem, method):
    x, y = cuista.Problem.load(problem).sample(30)
    np.save("y.npy", y)
    run("solve", problem, "y.npy", "--method", method, "--iterations", 60)
    assert ("λ =" in run.errors) == (method != "omp")
    found = np.load("x.npy")
    assert np.sum((found - x) ** 2) < 0.5 * np.sum(x**2)
    run("solve", problem, "y.npy", "--method", method, fails=1)
    assert "--force" in run.errors
    if method != "omp":
        run("solve", problem, "y.npy", "--method", method, "--iterations", 60, "--lam", 100, "--force")
        assert np.sum((np.load("x.npy") - x) ** 2) >= 0.9 * np.sum(x**2)


def test_solve_says_what_it_does_with_lambda_and_how_well_it_converged(run, problem):
    _, y = cuista.Problem.load(problem).sample(5)
    np.save("y.npy", y)
    for method in ("lasso", "fista"):
        run("solve", problem, "y.npy", "--method", method, "-o", f"{method}.npy")
        assert ("Finding the λ" in run.errors) == (method == "lasso")  # the second time it is kept
        assert ("found earlier for this problem and kept in" in run.errors) == (method == "fista")
        assert "The largest relative duality gap is" in run.errors
        assert "Warning" not in run.errors
    np.testing.assert_allclose(np.load("fista.npy"), np.load("lasso.npy"), atol=0.02)
    run("solve", problem, "y.npy", "--iterations", 3, "--lam", "5%", "--force")
    assert "5 of 5 samples have not converged: they ended with a relative duality gap above 1e-07." in run.errors
    run("solve", problem, "y.npy", "--method", "omp", "--iterations", 1, "--force")
    assert "they ended with a residual above" in run.errors
    run("solve", problem, "y.npy", "--method", "lasso", "--noise-level", 0.01, "--lam", 0.1, "-o", "no.npy", fails=2)
    assert "leave one out" in run.errors
    for wrong in ("0%", "five", "-1"):
        run("solve", problem, "y.npy", "--lam", wrong, "-o", "no.npy", fails=2)
    run("solve", problem, "y.npy", "--method", "amp", "--lam", "5%", "-o", "no.npy", fails=1)
    assert "expected no percentage" in run.errors


def test_solve_reaches_a_noise_level_with_codes_that_are_not_negative(run, problem):
    loaded = cuista.Problem.load(problem)
    x = np.abs(loaded.sample(8)[0])
    np.save("y.npy", x @ loaded.A.T + 0.01)
    for method in ("lasso", "fista", "ista", "omp"):
        run("solve", problem, "y.npy", "--method", method, "--noise-level", 0.01, "--positive", "--force")
        found = np.load("x.npy")
        assert found.min() >= 0
        assert np.linalg.norm(x @ loaded.A.T + 0.01 - found @ loaded.A.T, axis=1).max() <= 0.01001 * np.sqrt(loaded.M)


def test_recover_takes_columns_and_says_when_they_are_the_matter(run, model):
    _, y = cuista.Problem.load(model).sample(30)
    np.savez("y.npz", y=y.T)
    run("recover", model, "y.npz", fails=1)
    assert "its samples seem to be columns (--columns)" in run.errors
    run("recover", model, "y.npz", "--columns", "-o", "x.h5")
    assert storage.load_array("x.h5", "x").shape == (40, 30)


def test_measurements_and_codes_may_be_text(run, model):
    _, y = cuista.Problem.load(model).sample(3)
    rows = "\n".join(";".join(f"{value:.9g}".replace(".", ",") for value in row) for row in y.tolist())
    Path("y.csv").write_text(";".join(f"sensor {i}" for i in range(20)) + "\n" + rows)
    with pytest.warns(UserWarning, match="y.csv: line 1 is skipped as names: 'sensor 0;"):
        run("recover", model, "y.csv", "-o", "x.csv")
    np.testing.assert_allclose(np.loadtxt("x.csv", delimiter=","), cuista.load(model).recover(y), atol=1e-6)
    np.savetxt("one.txt", y[0])
    run("recover", model, "one.txt", "-o", "one.csv")
    assert "Wrote one.csv: 1 sample." in run.errors
    np.testing.assert_allclose(np.loadtxt("one.csv"), np.loadtxt("x.csv", delimiter=",")[0], atol=1e-6)
    Path("bad.csv").write_text(rows.replace(";", ";a", 1))
    run("recover", model, "bad.csv", "-o", "bad_x.csv", fails=1)
    assert "Error: bad.csv, line 1, column 2 is 'a" in run.errors
    np.savetxt("A.txt", cuista.Problem.load(model).A)
    run("gen-problem", "--load-a", "A.txt", "-o", "again.h5")
    np.testing.assert_allclose(cuista.Problem.load("again.h5").A, cuista.Problem.load(model).A, rtol=1e-12)
    assert not Path("bad_x.csv").exists()


def test_info_and_check_say_what_arrays_a_file_holds(run):
    np.savez("a.npz", A=np.ones((2, 3)), units="volt", meta=np.array({}, dtype=object))
    assert run("info", "a.npz") == "a.npz holds A (2, 3), units (text), meta (pickled Python objects)\n"
    assert json.loads(run("info", "a.npz", "--json"))["holds"].startswith("A (2, 3)")
    assert run("check", "a.npz").startswith("good  a.npz is a file with A (2, 3), units (text)")


def test_info_describes_every_kind_of_file(run, model):
    run("solve-w", "problem.h5")
    run("test", model, "--samples", 20, "-o", "report.h5")
    for file in ("problem.h5", "weight.h5", model, "report.h5"):
        assert "cuista_version" in run("info", file)
        described = json.loads(run("info", file, "--json"))
        assert described["attributes"]["format"].startswith("cuista-")
        assert described["arrays"]
    assert json.loads(run("info", model, "--json"))["attributes"]["training"]["recipe"] == "fast"


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".mat"])
def test_problems_and_weights_survive_conversion(run, problem, suffix):
    run("solve-w", problem)
    run("convert", problem, f"prob{suffix}")
    run("convert", f"prob{suffix}", "again.h5")
    np.testing.assert_array_equal(cuista.Problem.load("again.h5").A, cuista.Problem.load(problem).A)
    run("convert", "weight.h5", f"W{suffix}")
    run("convert", f"W{suffix}", "weight2.h5", "--problem", problem)
    assert "objective" in run.errors


@pytest.mark.parametrize("net", original.NETS)
def test_every_network_of_the_original_survives_conversion(run, problem, net):
    quick = ("--layers", 3, "--recipe", "paper", "--max-steps", 5, "--validation-batch", 20, "--batch", 4)
    for untied in (("--untied",), ())[1 - NETWORKS[net].can_untie :]:
        run("train", problem, "--net", net, *untied, *quick, "-o", "trained.h5", "--force")
        run("convert", "trained.h5", "vars.npz", "--scope", "", "--force")
        trained = cuista.Model.load("trained.h5")
        schedule = ("-p", trained.network.percent, "--max-percent", trained.network.max_percent)
        run("convert", "vars.npz", "again.h5", "--net", net, "--problem", "problem.h5", *schedule, "--force")
        again = cuista.Model.load("again.h5").network
        assert again.untied == bool(untied)
        for name, value in trained.network.parameters.items():
            np.testing.assert_allclose(again.parameters[name], value, rtol=1e-6)
        if trained.network.matrices:
            run("convert", "vars.npz", "wrong.h5", "--problem", "problem.h5", fails=1)
            assert "name its network (--net)" in run.errors
        run("convert", "trained.h5", "parameters.mat", "--force")
        assert set(storage.load_arrays("parameters.mat")) == set(trained.network.parameters)


def test_complex_and_joint_problems_and_their_networks_survive_conversion(run):
    run("gen-problem", "--complex", "--m", 12, "--n", 24, "--snapshots", 2, "--group", 3, "-o", "p.h5")
    run("convert", "p.h5", "p.npz")
    run("convert", "p.npz", "again.h5")
    problems = [cuista.Problem.load(file) for file in ("p.h5", "again.h5")]
    assert [(p.snapshots, p.group, p.is_complex) for p in problems] == 2 * [(2, 3, True)]
    few = ("-T", 2, "--max-steps", 2, "--matrix-steps", 2, "--batch", 8, "--validation-batch", 50)
    run("train", "p.h5", "--net", "lista-cpss", *few, "-o", "m.h5")
    run("convert", "m.h5", "m.npz")
    run("convert", "m.npz", "m2.h5", "--problem", "again.h5", "--net", "lista-cpss")
    found, expected = (cuista.Model.load(file).network.parameters["weight"] for file in ("m2.h5", "m.h5"))
    assert np.abs(expected.imag).max() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    run("gen-problem", "--task", "robust", "--problem", "p.h5", "--count", 2, "--samples", 5, "-o", "r.h5")
    run("convert", "r.h5", "r.npz")
    run("convert", "r.npz", "r2.h5", "--problem", "p.h5")
    np.testing.assert_allclose(PerturbedSet.load("r2.h5").matrices, PerturbedSet.load("r.h5").matrices)
    run("convert", "m.h5", "m.mat")
    run("convert", "m.mat", "n.h5", "--problem", "p.h5", fails=1)
    assert "not read back: export the model to .npz" in run.errors


def test_networks_survive_conversion_to_the_originals_variables(run, model):
    run("convert", model, "vars.npz", "--scope", "net")
    assert "net/alpha_1:0" in np.load("vars.npz")
    trained = cuista.Model.load(model)
    schedule = ("-p", trained.network.percent, "--max-percent", trained.network.max_percent)
    run("convert", "vars.npz", "again.h5", "--problem", "problem.h5", *schedule)
    layers = [json.loads(run("test", file, "--samples", 100, "--json"))["layers"] for file in (model, "again.h5")]
    assert layers[1]["alista"][3]["nmse_db"] == pytest.approx(layers[0]["alista"][3]["nmse_db"], abs=1e-3)
    run("convert", "vars.npz", "lost.h5", fails=2)
    assert "--problem" in run.errors
    run("convert", model, "model2.h5", fails=1)
    run("convert", model, "step.mat")
    assert set(storage.load_arrays("step.mat")) == {"step_size", "threshold", "unit"}
    assert "Note: the network scales the measurements of each sample to the norm" in run.errors


def test_perturbed_matrices_of_the_original_go_both_ways(run, problem):
    run("gen-problem", "--perturbed", "--problem", problem, "--sigma", 0.01, "--sigma", 0.005, "--count", 2)
    run("convert", "perturbed.h5", "robust_test_A.npz")
    with np.load("robust_test_A.npz") as file:
        arrays = dict(file)
    assert {name: arrays[name].shape for name in arrays} == {"0.01": (2, 20, 40), "0.005": (2, 20, 40)}
    run("convert", "robust_test_A.npz", "again.h5", "--problem", problem)
    assert "2 matrices for each σ of 0.01, 0.005, and 1000 new signals" in run.errors
    made, again = cuista.PerturbedSet.load("perturbed.h5"), cuista.PerturbedSet.load("again.h5")
    np.testing.assert_array_equal(again.sigmas, [0.005, 0.01])
    np.testing.assert_array_equal(again.matrices, made.matrices[::-1])
    run("convert", "robust_test_A.npz", "lost.h5", fails=2)
    assert "name the nominal problem with --problem" in run.errors
    run("gen-problem", "--m", 10, "--n", 40, "-o", "small.h5")
    run("convert", "robust_test_A.npz", "lost.h5", "--problem", "small.h5", fails=1)
    assert "expected (count, 10, 40), the same for all" in run.errors


# -- mistakes -------------------------------------------------------------------------------------------------------


def test_only_a_positional_model_decides_what_is_tested(run, model):
    run("test", model, "--samples", 20, "-o", model, "--force")  # the report replaces the model
    run("info", model)


def test_measurements_may_be_in_any_units_unless_units_are_fixed(run, problem):
    words = ("train", problem, "-T", 2, "--max-steps", 20)
    run(*words)
    run(*words, "--fixed-units", "-o", "fixed.h5")
    run(*words, "--recipe", "paper", "-o", "paper.h5")
    y = cuista.Problem.load(problem).sample(50)[1]
    np.save("y.npy", y)
    np.save("millivolts.npy", 1000 * y)
    for model, scales in (("model.h5", True), ("fixed.h5", False), ("paper.h5", False)):
        assert bool(json.loads(run("info", model, "--json"))["attributes"]["unit"]) == scales
        run("recover", model, "y.npy", "--force")
        volts = np.load("x.npy")
        run("recover", model, "millivolts.npy", "--force")
        assert ("convert them, if they are in other units" in run.errors) != scales
        equal = np.allclose(np.load("x.npy"), 1000 * volts, rtol=1e-3, atol=1e-2)
        assert equal == scales
    for method in ("ista", "fista", "amp", "omp"):
        run("solve", problem, "y.npy", "--method", method, "--force")
        volts = np.load("x.npy")
        run("solve", problem, "millivolts.npy", "--method", method, "--force")
        np.testing.assert_allclose(np.load("x.npy"), 1000 * volts, rtol=1e-3, atol=0.1)


def test_columns_may_be_in_any_units(run):
    A = cuista.normalize_columns(cuista.random_matrix(20, 40, seed=1))
    scales = 10 ** np.random.default_rng(1).uniform(-3, 3, 40)
    np.save("plain.npy", A)
    np.save("scaled.npy", A * scales)
    errors = {}
    codes = {"plain": [], "scaled": []}
    for name in codes:
        run("gen-problem", "--load-a", f"{name}.npy", "--pnz", 0.05, "-o", f"{name}.h5")
        assert ("columns of scaled.npy have norms from" in run.errors) == (name == "scaled")
        run("simulate", f"{name}.h5", "--samples", 30, "-o", f"{name}-signals.h5")
        run("train", f"{name}.h5", "-T", 2, "--max-steps", 20, "-o", f"{name}-model.h5")
        found = json.loads(run("test", f"{name}-model.h5", "--samples", 200, "--baselines", "--json"))
        errors[name] = [row["nmse_db"] for net in ("alista", "fista") for row in found["layers"][net]]
        compared = ("--model", f"{name}-model.h5", "--classical", "fista", "-T", 3, "--samples", 200)
        run("compare", f"{name}.h5", *compared, "-o", f"{name}-compared.h5")
        units = scales if name == "scaled" else 1
        for words in (
            ("recover", f"{name}-model.h5"),
            ("recover", f"{name}-model.h5", "--matrix", f"{name}.npy"),
            ("solve", f"{name}.h5"),
            ("solve", f"{name}.npy", "--method", "omp"),
        ):
            run(*words[:2], f"{name}-signals.h5", *words[2:], "--force")
            codes[name].append(np.load("x.npy") * units)
    np.testing.assert_allclose(errors["scaled"], errors["plain"], atol=0.01)
    for plain, scaled in zip(*codes.values(), strict=True):
        np.testing.assert_allclose(scaled, plain, atol=1e-4)
    plain, scaled = (Comparison.load(f"{name}-compared.h5") for name in codes)
    for before, after in zip(plain.results, scaled.results, strict=True):
        np.testing.assert_allclose(after.nmse_db, before.nmse_db, atol=0.01)


def test_a_problem_with_scaled_columns_is_exported_as_it_was_given(run):
    A = 5 * cuista.random_matrix(20, 40, seed=1)
    np.save("a.npy", A)
    run("gen-problem", "--load-a", "a.npy")
    assert "norms" in run("info", "problem.h5")
    _, y = cuista.Problem.load("problem.h5").sample(5)
    np.save("y.npy", y)
    for file in ("prob.npz", "prob.mat"):
        run("convert", "problem.h5", file)
        exported = storage.load_arrays(file)
        np.testing.assert_allclose(exported["A"], A)
        np.testing.assert_allclose(exported["A"] @ exported["x"], exported["y"], atol=1e-4)
        run("convert", file, "back.h5", "--force")
        back = cuista.Problem.load("back.h5")
        assert back.rescaled
        np.testing.assert_allclose(back.given, A)
        for source in ("back.h5", file):  # the latter is a matrix among other arrays
            run("solve", source, "y.npy", "--method", "omp", "--force")
            np.testing.assert_allclose(np.load("x.npy") @ A.T, y, atol=1e-4)
    run("convert", "a.npy", "again.h5")
    np.testing.assert_allclose(cuista.Problem.load("again.h5").given, A)


def test_check_reads_files_to_their_end_and_says_which_are_damaged(run, model):
    np.savez("arrays.npz", A=np.ones((3, 4)), b=np.ones(5))
    save("picture.png", scene((30, 40)))
    said = run("check", "problem.h5", model, "arrays.npz", "picture.png").splitlines()
    assert said == [
        "good  problem.h5 is a cuista-problem file, which is as it was written",
        f"good  {model} is a cuista-model file, which is as it was written",
        "good  arrays.npz is a file with A (3, 4), b (5,)",
        "good  picture.png is a picture of 30×40 pixels",
    ]
    for file in ("problem.h5", "arrays.npz", "picture.png"):
        data = bytearray(Path(file).read_bytes())
        data[-20] ^= 1
        Path(file).write_bytes(data)
    found = json.loads(run("check", "problem.h5", model, "arrays.npz", "picture.png", "gone", "--json", fails=1))
    assert [one["good"] for one in found] == [False, True, False, False, False]
    assert all(one["file"] in one["found"] for one in found)


def test_every_wrong_input_gets_one_clear_error(run, model, tmp_path):
    _, y = cuista.Problem.load(model).sample(3)
    y[1, 2] = np.nan
    np.save("nan.npy", y)
    np.save("wrong.npy", np.ones((3, 21)))
    np.save("huge.npy", np.ones((3, 20)) * np.array([[1], [1e38], [1]]))
    (tmp_path / "text.npy").write_text("hello")
    (tmp_path / "cut.h5").write_bytes((tmp_path / model).read_bytes()[:3000])
    np.save("other.npy", cuista.random_matrix(20, 40, seed=99))
    np.save("far.npy", 1e300 * cuista.random_matrix(20, 40))
    np.save("y.npy", np.ones((3, 20)))
    for words, message in (
        (("test", "missing.h5"), "missing.h5 does not exist"),
        (("test", "problem.h5"), "problem.h5 is a cuista-problem file; expected cuista-model"),
        (("test", "text.npy"), "not an HDF5 file"),
        (("test", "cut.h5"), "damaged"),
        (("info", "."), "cannot read"),
        (("recover", model, "nan.npy"), "entry 2 of sample 1 is nan"),
        (("recover", model, "wrong.npy"), "expected (samples, 20)"),
        (("recover", model, "text.npy"), "is not a .npy"),
        (("recover", model, "gone.npy"), "does not exist"),
        (("recover", model, "problem.h5"), "one of cuista's own files"),
        (("gen-problem",), "problem.h5 exists already"),
        (("gen-problem", "-o", "no/p.h5"), "folder no does not exist"),
        (("gen-problem", "-o", "p.h5", "--pnz", "some"), "neither a number nor a file"),
        (("gen-problem", "-o", "p.h5", "--pnz", 2), "0 to 1"),
        (("gen-problem", "-o", "p.h5", "--snr", -1e9), "snr is -1e+09; expected a number of dB from -200 on"),
        (("gen-problem", "-o", "p.h5", "--std", 1e-30), "the law of magnitudes is Normal(mean=0.0, std=1e-30)"),
        (("gen-problem", "-o", "p.h5", "--load-a", "far.npy"), "the largest entry of the matrix in far.npy is "),
        (("gen-problem", "--task", "robust", "--sigma", 1e300, "-o", "p.h5"), "expected one or more numbers from 0"),
        (("solve-w", "far.npy", "-o", "p.h5"), "the largest entry of the matrix is "),
        (("solve", "far.npy", "y.npy", "--method", "omp"), "the largest entry of the measurement matrix is "),
        (("gen-problem", "-o", "p.h5", "--con-num", 0.5), "condition number"),
        (("solve-w", "nan.npy"), "NaN or infinite"),
        (("train", "problem.h5", "-W", "other.npy", "-o", "m.h5"), "does not belong to this matrix"),
        (("train", "problem.h5", "-o", "m.h5", "--device", "cuda:0"), "cannot be used"),
        (
            ("recover", model, "huge.npy"),
            "huge.npy: the largest entry of sample 1 is 1e+38 in magnitude; expected 1e-33 to 1e+33",
        ),
    ):
        run(*words, fails=1)
        assert message in run.errors, words
        assert run.errors.count("Error:") == 1
    for words in (
        ("gen-problem", "--snr", "loud"),
        ("gen-problem", "-o", "p.npy"),
        ("solve-w", "problem.h5", "--method", "pgd", "--ridge", 1),
        ("solve-w", "problem.h5", "--ridge", "much", "-o", "w.h5"),
        ("train", "problem.h5", "--lr-decay", "a,b", "-o", "m.h5"),
        ("train", "problem.h5", "--seed", -1),
        ("train", "problem.h5", "-p", -1),
        ("train", "problem.h5", "--max-percent", 101),
        ("train", "--task"),
        ("train", "problem.h5", "-o", "m.h5", "--learning-rate", 0),
        ("test", model, "--samples", 5, "--x", "other.npy"),
        ("test", model, "--columns"),
        ("gen-problem", "-o", "p.h5", "--mean", 1, "--magnitude", "bernoulli"),
        ("gen-problem", "-o", "p.h5", "--key", "A"),
        ("test",),
        ("tset", model),
        ("recover", model, "nan.npy", "-o", "x.txt"),
    ):
        run(*words, fails=2)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {
        "problem.h5",
        model,
        "nan.npy",
        "wrong.npy",
        "huge.npy",
        "text.npy",
        "cut.h5",
        "other.npy",
        "far.npy",
        "y.npy",
    }


def test_an_error_names_the_options_of_its_command_only(run, model):
    np.savez("two.npz", B=np.ones((3, 20)), C=np.ones((3, 20)))
    run("recover", model, "two.npz", fails=1)
    assert "Choose one of them, or rename it (--key)" in run.errors
    run("train", "problem.h5", "-W", "two.npz", "-o", "new.h5", fails=1)
    assert run.errors.endswith("Choose one of them, or rename it\n")


def help_screens():
    """The words of every command that has a help screen, the commands of single tasks included."""
    for name, command in cli.commands.items():
        yield (name,)
        yield from ((name, "--task", task) for task in getattr(command, "tasks", ()))


@pytest.mark.parametrize("words", [(), *help_screens()], ids=" ".join)
def test_every_help_fits_on_a_screen(run, words, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = run(*words, "-h").splitlines()
    assert lines[0].startswith(f"Usage: {' '.join(('cuista', *words))} [OPTIONS]")
    assert len(lines) <= 50
    assert max(map(len, lines)) <= 80


def test_the_package_runs_as_a_module(tmp_path):
    def module(*words):
        return subprocess.run([sys.executable, "-m", "cuista", *words], cwd=tmp_path, capture_output=True, text=True)

    assert module("--version").stdout == f"cuista, version {cuista.__version__}\n"
    wrong = module("train", "--task", "nonsense")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("Usage: cuista train ")
    assert (
        "--task nonsense is not a task of this command; expected one of sc, denoise, cs, encoder, robust"
        in wrong.stderr
    )


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder_is_said_before_any_work(run, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    run("gen-problem", "-o", "locked/p.h5", fails=1)
    assert "not writable" in run.errors


def test_debug_shows_the_traceback(start):
    process = start("info", "missing.h5", "--debug")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" in errors


def test_quickstart_runs_the_commands_it_shows(run, monkeypatch, tmp_path):
    import click
    import cuista.cli.quickstart as quickstart

    shown = []
    monkeypatch.setattr(quickstart.common, "say", lambda text: shown.append(text.strip()))

    ran = []
    monkeypatch.setattr(cli, "main", lambda words, *a, **k: ran.append(words))
    click.Context(quickstart.command).invoke(quickstart.command, folder=tmp_path / "q", force=False)
    assert [line for line in shown if line.startswith("$ cuista")][:4] == [
        "$ cuista " + " ".join(words) for words in ran
    ]


@pytest.mark.slow
def test_quickstart_reaches_seventy_db_in_ninety_seconds(run):
    start = time.monotonic()
    table = run("quickstart")
    assert time.monotonic() - start < 90
    last = table.splitlines()[-1].split()
    assert last[0] == "16"
    assert float(last[1]) <= -70
    run("quickstart", fails=1)
    assert "--force" in run.errors


def test_the_shell_completes_the_names_of_networks_and_never_fails():
    def completions(*words):
        completer = ShellComplete(cli, {}, "cuista", "_CUISTA_COMPLETE")
        return {item.value for item in completer.get_completions(list(words[:-1]), words[-1])}

    assert completions("compare", "p.h5", "--net", "alista") == {name for name in NETWORKS if name.startswith("alista")}
    assert completions("train", "p.h5", "--net", "li") == {name for name in NETWORKS if name.startswith("li")}
    assert "conv-alista" in completions("train", "--task", "denoise", "i.h5", "--net", "")
    assert "--net" in completions("train", "--task", "unknown", "--n")


def test_a_flag_that_names_the_task_agrees_with_the_task(run):
    run("gen-problem", "--task", "denoise", "--conv", "--size", 3, "--filters", 4)
    run("gen-problem", "--task", "sc", "--conv", fails=2)
    assert "--conv is for --task denoise" in run.errors


# -- messages -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [False, True])
def test_quiet_leaves_warnings_errors_and_data(run, after):
    def quiet(*words, fails=0):
        return run(*words, "--quiet", fails=fails) if after else run("--quiet", *words, fails=fails)

    assert quiet("gen-problem", "--m", 20, "--n", 40) == run.errors == ""
    A = np.load("A.npy") if os.path.exists("A.npy") else cuista.random_matrix(6, 9)
    A[:, 1] = -A[:, 3]
    np.save("twins.npy", A)
    quiet("gen-problem", "--load-a", "twins.npy", "-o", "twins.h5")
    assert run.errors == (
        "Warning: columns 1 and 3 of the matrix cannot be told apart, because they are equal or opposite up to scale: "
        "no method can decide between them. Keep one of each pair.\n"
    )
    assert "Problem: 20×40" in quiet("info", "problem.h5")
    quiet("info", "none.h5", fails=1)
    assert run.errors == "Error: none.h5 does not exist\n"


def test_verbose_tells_how_training_goes(run, problem):
    run("train", problem, "-T", 2, "--verbose", *FAST)
    assert "ALISTA: stage 1 of 3 (layer 1/2), step 40: ended with NMSE -" in run.errors
    run("train", problem, "-T", 2, "--force", *FAST)
    assert "stage 1 of 3" not in run.errors


def test_each_message_is_one_line_of_json(run, problem, monkeypatch):
    run("--log-json", "train", problem, "-T", 2, *FAST)
    messages = [json.loads(line) for line in run.errors.splitlines()]
    assert all({"time", "level", "message"} <= set(message) for message in messages)
    assert {message["level"] for message in messages} == {"info"}
    (progress,) = (message for message in messages if "fraction" in message)
    assert 0 < progress["fraction"] < 1
    assert progress["seconds_left"] is None
    assert messages[-1]["message"].startswith("Wrote model.h5: validation NMSE -")
    run("info", "none.h5", "--log-json", fails=1)
    assert {**json.loads(run.errors), "time": ""} == {"time": "", "level": "error", "message": "none.h5 does not exist"}
    run("info", "--log-json", "--nope", fails=2)
    assert "No such option" in json.loads(run.errors)["message"]
    monkeypatch.setattr("cuista.cli.common.ProgressLine.SELDOM", 0)
    run("--log-json", "train", problem, "-T", 2, "--force", *FAST)
    shown = [json.loads(line) for line in run.errors.splitlines() if "fraction" in line]
    assert shown[-1]["fraction"] == 1
    assert [message["fraction"] for message in shown] == sorted(message["fraction"] for message in shown)


def test_warnings_of_other_libraries_are_messages_too_and_those_of_cuista_appear_once(capsys):
    with talking(logging.WARNING):
        assert warnings.formatwarning("something is odd", UserWarning, "file.py", 1) == ""
        assert capsys.readouterr().err == "Warning: something is odd.\n"
        with pytest.warns(CuistaWarning):
            warn("something is wrong")
        assert warnings.formatwarning("something is wrong", CuistaWarning, "file.py", 1) == ""
        assert capsys.readouterr().err == "Warning: something is wrong.\n"
    assert warnings.formatwarning("odd", UserWarning, "file.py", 1) != ""


def test_quiet_and_verbose_exclude_each_other_and_words_after_two_dashes_are_files(run):
    run("--quiet", "doctor", "--verbose", fails=2)
    assert "give one of them" in run.errors
    run("info", "--", "--quiet", fails=1)
    assert run.errors == "Error: --quiet does not exist\n"
    help_text = run("-h")
    for option in ("--quiet", "--verbose", "--log-json", "--debug"):
        assert option in help_text


def test_untrained_models_are_tested_with_a_warning_and_trained_ones_without(run, problem):
    small = cuista.Problem.load(problem)
    cuista.Model.new(small, cuista.solve_exact(small.A), layers=2).save("new.h5")
    np.save("y.npy", small.sample(3)[1])
    for words in (("test", "new.h5", "--samples", 50), ("recover", "new.h5", "y.npy")):
        run(*words)
        assert "Warning: new.h5 has never been trained, so do not expect much of it: train it first." in run.errors
    run("train", problem, "-T", 2, *FAST)
    run("test", "model.h5", "--samples", 50)
    assert "Warning" not in run.errors


def test_a_test_with_another_law_names_the_law_of_training(run, model):
    run("test", model, "--samples", 50)
    assert "was trained for" not in run.errors
    run("test", model, "--samples", 50, "--snr", 40, "--pnz", 0.06)
    said = "model.h5 was trained for pnz 0.05 and an SNR of inf dB, and is tested with pnz 0.06 and an SNR of 40 dB"
    assert f"Warning: {said}: a model trained for these will do better." in run.errors
    run("test", model, "--samples", 50, "--pnz", 0.06)
    assert f"Note: {said.replace('40', 'inf')}." in run.errors


def test_info_begins_with_what_the_object_says_of_itself(run, model):
    run("solve-w", "problem.h5")
    for file, thing in (
        ("problem.h5", cuista.Problem.load("problem.h5")),
        ("model.h5", cuista.load("model.h5")),
        ("weight.h5", cuista.Weight.load("weight.h5", cuista.Problem.load("problem.h5").A)),
    ):
        first = run("info", file).splitlines()[0]
        assert f"<{first}>" == repr(thing)
        assert json.loads(run("info", file, "--json"))["summary"] == first
    assert "validation NMSE -" in run("info", "model.h5").splitlines()[0]
    run("test", "model.h5", "--samples", 50, "-o", "report.h5")
    assert run("info", "report.h5").splitlines()[0].startswith("Report: false_negatives 4×50, ")
