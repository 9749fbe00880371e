"""Signals of the user's own: their split, their law, training on them, and tests on pairs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import warnings
from dataclasses import replace

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cuista
from cuista import SignalSet, train
from cuista.counter import TRAINING, Key
from cuista.data import signals as module
from cuista.errors import FileError, InputError
from cuista.ops import CpuOps
from cuista.training import SearchRecipe

QUICK = cuista.FastRecipe(batch=32, validation_batch=500, layer_steps=4, max_steps=40)
QUICK_OPTIONS = ("-T", 2, "--max-steps", 6, "--batch", 16, "--device", "cpu")


def laplacian(count, N=40, pnz=0.06, seed=0):
    """Codes (count, N) with Laplacian non-zeros, none of them zero."""
    rng = np.random.default_rng(seed)
    x = (rng.random((count, N)) < pnz) * rng.laplace(size=(count, N))
    x[:, 0] += ~x.any(axis=1)
    return x


@pytest.fixture(scope="module")
def codes():
    return laplacian(3000)


def training_and_validation(signals):
    return (signals.read(numbers)[0] for numbers in (signals.training, signals.validation))


# -- the split -------------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.integers(2, 200), st.floats(0.01, 0.99), st.integers(1, 5), st.integers(0, 100))
def test_every_signal_is_on_one_side_and_its_copies_with_it(count, held_out, copies, seed):
    different = laplacian(count, 8, seed=seed)
    different[:, 1] = np.arange(count)
    x = np.repeat(different, copies, axis=0)
    signals = SignalSet(x, held_out=held_out)
    assert sorted([*signals.training, *signals.validation]) == list(range(len(x)))
    trained, held = ({row.tobytes() for row in side} for side in training_and_validation(signals))
    assert trained
    assert held
    assert not trained & held
    assert signals.repeated == len(x) - len(np.unique(x, axis=0))
    assert len(signals.validation) <= max(held_out * len(x), copies)


def test_the_share_that_is_held_out_is_the_one_asked_for(codes):
    for share in (0.1, 0.5):
        assert len(SignalSet(codes, held_out=share).validation) / len(codes) == pytest.approx(share, abs=2e-3)


def test_many_blank_signals_do_not_keep_others_from_being_held_out(codes):
    x = np.concatenate([codes[:300], np.zeros((300, 40))])
    signals = SignalSet(x)
    assert 50 <= len(signals.validation) <= 60
    assert signals.read(signals.validation)[0].any(axis=1).all()


def test_the_split_and_the_hash_do_not_depend_on_how_numbers_are_stored(codes, tmp_path, monkeypatch):
    x = codes.astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "columns.npy", x.T)
    np.savez(tmp_path / "x.npz", other=np.ones(3), codes=x)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"], file["y"] = x, x[:, :20]
    expected = SignalSet(x)
    sets = [
        SignalSet(x.astype(np.float64)),
        SignalSet(np.where(x, x, -0.0)),
        SignalSet(x.T, columns=True),
        SignalSet(tmp_path / "x.npz", keys=("codes", None)),
    ]
    for limit in (2**30, 0):  # in memory, and read again for every batch
        monkeypatch.setattr(module, "IN_MEMORY", limit)
        sets += [SignalSet(tmp_path / "x.npy"), SignalSet(str(tmp_path / "x.h5"))]
        sets.append(SignalSet(tmp_path / "columns.npy", columns=True))
    drawn = expected.draw(Key(1, 2, 3), 50)
    for found in sets:
        assert found.sha256 == expected.sha256
        np.testing.assert_array_equal(found.validation, expected.validation)
        np.testing.assert_array_equal(found.read(drawn)[0], x[drawn])
    assert SignalSet(np.roll(x, 1, axis=1)).sha256 != expected.sha256
    assert SignalSet(x, held_out=0.2).sha256 != expected.sha256
    assert SignalSet(x, x[:, :20]).sha256 != expected.sha256


@pytest.mark.parametrize("dtype", [np.float16, np.int16, np.bool_])
def test_numbers_of_other_types_are_accepted(codes, dtype):
    x = np.rint(2 * codes).astype(dtype)
    assert SignalSet(x).sha256 == SignalSet(x.astype(np.float64)).sha256


def test_sparse_matrices_are_accepted(codes):
    from scipy.sparse import csr_array

    assert SignalSet(csr_array(codes)).sha256 == SignalSet(codes).sha256


def test_only_signals_for_training_are_drawn_each_row_by_its_key_alone(codes):
    signals = SignalSet(codes)
    drawn = signals.draw(Key(0, TRAINING, 7), 5000)
    assert set(drawn) <= set(signals.training)
    assert len(set(drawn)) > 0.8 * len(signals.training) * (1 - np.exp(-5000 / 2700))
    np.testing.assert_array_equal(signals.draw(Key(0, TRAINING, 7), 100), drawn[:100])
    assert not np.array_equal(signals.draw(Key(0, TRAINING, 8), 100), drawn[:100])


# -- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x * 0, "all signals of x are zero"),
        (lambda x: np.tile(x[:1], (50, 1)), "all the same"),
        (lambda x: x[0], r"x has shape \(40,\); expected \(samples, length\)"),
        (lambda x: x[:0], "at least one sample"),
        (lambda x: np.where(np.arange(len(x))[:, None] == 2990, np.nan, x), "entry 0 of sample 2990 is nan"),
        (lambda x: x * 1e20, "Change its unit"),
        (lambda x: (x, x[:-1]), "as many measurements as codes"),
        (lambda x: (x, x, x), "a tuple of 3"),
    ],
)
def test_signals_that_cannot_be_used_are_refused(codes, change, message):
    with pytest.raises(InputError, match=message):
        SignalSet.of(change(codes))


@pytest.mark.parametrize("share", [0, 1, 2, float("nan")])
def test_a_share_must_be_one(codes, share):
    with pytest.raises(InputError, match="expected a number between 0 and 1"):
        SignalSet(codes, held_out=share)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[:, :30], "have 30 entries, and the matrix is 20×40; expected 40$"),
        (lambda x: x[:30].T, "expected 40: its samples seem to be columns"),
        (lambda x: x[:, :20], "it seems to hold measurements"),
        (lambda x: (x, x), "have 40 measurements, and the matrix is 20×40; expected 20"),
    ],
)
def test_signals_must_fit_the_matrix(small_model, codes, change, message):
    with pytest.raises(InputError, match=message):
        small_model.problem.fitted(change(codes))
    with pytest.raises(InputError, match=message):
        train(small_model, QUICK, data=change(codes))


def test_a_file_that_changes_is_noticed(codes, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "IN_MEMORY", 0)
    np.save(tmp_path / "x.npy", codes)
    signals = SignalSet(tmp_path / "x.npy")
    np.save(tmp_path / "x.npy", codes[:-1])
    with pytest.raises(FileError, match="has changed since it was opened"):
        signals.read(signals.training[:3])


# -- the law ---------------------------------------------------------------------------------------------------------


def test_the_law_is_that_of_the_signals_for_training(small_problem, codes):
    scale = np.geomspace(0.1, 10, 40)
    problem = cuista.Problem(small_problem.A * scale, seed=1)
    signals = SignalSet(codes)
    fitted = problem.fitted(signals)
    x = codes[signals.training] * problem.norms
    assert fitted.pnz == pytest.approx(np.mean(x != 0))
    assert fitted.magnitude == pytest.approx((x[x != 0].mean(), x[x != 0].std()))
    assert (fitted.snr_db, fitted.sha256, fitted.seed) == (problem.snr_db, problem.sha256, problem.seed)
    np.testing.assert_array_equal(fitted.norms, problem.norms)
    norms = np.linalg.norm(codes @ problem.given.T, axis=1)
    assert fitted.unit == pytest.approx(np.sqrt(np.mean(norms**2)), rel=0.1)


def test_signals_that_are_not_sparse_are_told_and_counted_by_their_energy(small_problem):
    rng = np.random.default_rng(0)
    x = 1e-4 * rng.standard_normal((1000, 40))
    x[:, :4] += rng.choice([-1, 1], (1000, 4))
    with pytest.warns(UserWarning, match="100% of the signals in x have more non-zeros than zeros"):
        fitted = small_problem.fitted(x)
    assert fitted.pnz == pytest.approx(0.1)
    assert fitted.magnitude.std == pytest.approx(1, rel=1e-2)


@pytest.mark.parametrize("snr_db", [10.0, 40.0, float("inf")])
def test_pairs_say_their_noise_themselves(small_problem, codes, snr_db):
    noisy = replace(small_problem, snr_db=snr_db)
    fitted = replace(small_problem, snr_db=3.0).fitted((codes, noisy.measure(codes, Key(0, 1))))
    assert fitted.snr_db == pytest.approx(snr_db, abs=0.2)


def test_pairs_of_another_matrix_or_in_other_units_are_told(small_problem, codes):
    y = codes @ small_problem.A.T
    with pytest.warns(UserWarning, match=r"more than half of ‖y‖ \(.*\): the matrix may not be the one"):
        small_problem.fitted((codes, y[:, ::-1]))
    with pytest.warns(UserWarning, match=r"for 100% .* y is about 1000 A x, .* in different units"):
        small_problem.fitted((codes, 1000 * y))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small_problem.fitted((codes, y))


# -- training --------------------------------------------------------------------------------------------------------


def new(problem):
    return cuista.Model.new(problem, layers=2)


def test_training_on_signals_is_as_good_as_on_new_ones_of_their_law(small_problem, small_weight):
    x, tested = laplacian(20_000), laplacian(5000, seed=1)
    y = small_problem.measure(tested, Key(0, 1))
    recipe = replace(QUICK, batch=64, max_steps=80)
    problem = small_problem.fitted(x[:3000])
    models = [train(cuista.Model.new(problem, small_weight, layers=4), recipe, data=data) for data in (x[:3000], x)]
    few, many = (cuista.evaluate(model, tested, y).nmse_db[-1] for model in models)
    assert few < -12
    assert few < many + 0.5
    assert not models[0].quality(y[:500], models[0].recover(y[:500])).too_many  # such signals are usual


def test_what_is_held_out_is_never_trained_on_and_alone_validates(small_problem, codes):
    signals = SignalSet(codes, held_out=0.2)
    problem = small_problem.fitted(signals)
    task = cuista.SparseCoding(signals)
    source = task.source(new(problem), QUICK)
    ops = CpuOps()
    held = {row.tobytes() for row in codes[signals.validation].astype(np.float32)}
    for stream in range(6):
        x, y, weights = source.sample(ops, np.float32, 500, Key(0, stream))
        assert weights.shape == (500,)
        assert not {row.tobytes() for row in x} & held
        np.testing.assert_allclose(y, x @ small_problem.A.T, atol=1e-5)
    x, y, _ = source.sample(ops, np.float32, 4000, Key(0, 0), validate=True)
    assert {row.tobytes() for row in x} == held
    assert len(x) == len(signals.validation)
    assert len(source.sample(ops, np.float32, 100, Key(0, 0), validate=True)[0]) == 100


@pytest.mark.parametrize("spread", [0.0, 0.05, 0.3])
def test_half_of_a_batch_is_denser_and_weights_compensate_for_it(spread):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4000, 40)) * (rng.random((4000, 40)) < rng.uniform(0.2 - spread, 0.2 + spread, (4000, 1)))
    signals = SignalSet(x)
    present = np.count_nonzero(x, axis=1)
    mean = present[signals.training].mean()
    numbers, weights = signals.draw_weighted(Key(0, TRAINING, 3), 40_000, 0.5)
    assert set(numbers) <= set(signals.training)
    assert (weights > 0).all()
    assert weights.max() <= 2
    assert weights.mean() == pytest.approx(1, abs=0.02)
    assert (weights * present[numbers]).mean() == pytest.approx(mean, rel=0.02)
    np.testing.assert_array_equal(numbers[::2], signals.draw(Key(0, TRAINING, 3), 40_000)[::2])
    denser = min(1.4 * mean, (mean + present[signals.training].max()) / 2)
    assert present[numbers[1::2]].mean() == pytest.approx(denser, rel=0.02)


def test_signals_that_are_all_equally_dense_are_drawn_alike(codes):
    signals = SignalSet(np.where(np.arange(40) < 3, 1 + codes, 0.0))
    numbers, weights = signals.draw_weighted(Key(0, TRAINING), 100, 0.5)
    np.testing.assert_allclose(weights, 1)
    assert len(set(numbers)) > 90


def test_measurements_are_noisy_anew_or_those_given(small_problem, codes):
    problem, ops = replace(small_problem, snr_db=20.0), CpuOps()
    model = cuista.Model.new(problem, cuista.solve_exact(problem.A), layers=1)
    y = problem.measure(codes, Key(9, 9))

    def draw(data, step, dtype=np.float32):
        return cuista.SparseCoding(SignalSet.of(data)).source(model, QUICK).sample(ops, dtype, 500, Key(0, 1, step))

    (x, first, _), (_, again, _), (_, other, _) = (draw(codes, step) for step in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    clean = x @ problem.A.T
    found = 10 * np.log10(clean.var(axis=1).sum() / np.square(first - clean).mean(axis=1).sum())
    assert found == pytest.approx(20, abs=0.2)
    x, measured, _ = draw((codes, y), 1, np.float64)
    of = {row.tobytes(): number for number, row in enumerate(codes)}
    np.testing.assert_array_equal(measured, y[[of[row.tobytes()] for row in x]])


def test_a_network_for_another_law_is_told(small_problem, codes):
    model = new(replace(small_problem, pnz=0.2))
    with pytest.warns(UserWarning, match="6.* % of the entries of x are non-zero, and the model is made for 20 %"):
        train(model, replace(QUICK, max_steps=1), data=codes)


def test_too_few_signals_are_refused_or_told(small_problem, codes):
    problem = small_problem.fitted(codes)
    with pytest.raises(InputError, match="20 signals, 18 of which are for training: fewer than the 32 of a batch"):
        train(new(problem), QUICK, data=codes[:20])
    with pytest.warns(UserWarning, match="few signals of x are held out, 5"):
        train(new(small_problem.fitted(codes[:50])), replace(QUICK, max_steps=1), data=codes[:50])


def test_other_tasks_have_their_own_examples(small_model, codes):
    with pytest.raises(InputError, match="'robust' does not train on given signals"):
        train(small_model, data=codes, task=cuista.Robust())


@pytest.mark.parametrize("paired", [False, True])
def test_a_run_resumes_to_the_same_bits_and_not_on_other_signals(small_problem, codes, tmp_path, paired):
    problem = replace(small_problem, snr_db=30.0)
    data = (codes, problem.measure(codes, Key(5, 5))) if paired else codes
    problem, weight = problem.fitted(data), cuista.solve_exact(problem.A)

    def fresh():
        return cuista.Model.new(problem, weight, layers=2)

    expected, out, steps = train(fresh(), QUICK, seed=3, data=data), tmp_path / "model.h5", 0

    def interrupt(progress):
        nonlocal steps
        steps += 1
        if steps in (5, 20):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(fresh(), QUICK, seed=3, data=data, out=out, progress=interrupt)
    other = (codes[::-1], data[1][::-1]) if paired else codes[::-1]
    for changed in (other, None):
        with pytest.raises(FileError, match="differs in signals "):
            train(fresh(), QUICK, seed=3, data=changed, out=out, resume=True)
    while not out.exists():
        with contextlib.suppress(KeyboardInterrupt):
            train(fresh(), QUICK, seed=3, data=data, out=out, resume=True, progress=interrupt)
    model = cuista.Model.load(out)
    for name, value in expected.network.parameters.items():
        np.testing.assert_array_equal(model.network.parameters[name], value)
    assert model.training == expected.training
    assert model.training["trained_on"] == {
        "name": "x",
        "pairs": paired,
        "training": 2700,
        "validation": 300,
        "copies": len(codes) - len(np.unique(codes, axis=0)),
    }


@pytest.mark.filterwarnings("ignore:300 signals are held out, too few")
@pytest.mark.parametrize("net", ["hyperlista", "lamp"])
def test_other_networks_and_recipes_train_on_signals_too(small_problem, codes, net):
    problem = small_problem.fitted(codes)
    recipes = [cuista.PaperRecipe(batch=16, validation_batch=50, better_wait=40, max_steps=20)]
    recipes.append(replace(QUICK, max_steps=40, matrix_steps=20))
    for recipe in (
        [SearchRecipe(grid_signals=16, signals=64, evaluations=10, validation_batch=100)]
        if net == "hyperlista"
        else recipes
    ):
        model = train(cuista.Model.new(problem, net=net, layers=3), recipe, data=codes)
        assert model.training["validation_nmse_db"] < -1
        assert model.training["signals"] == SignalSet(codes).sha256


def test_the_ridge_is_chosen_on_the_signals(small_problem, codes, monkeypatch):
    problem, used = replace(small_problem, snr_db=20.0).fitted(codes), []
    monkeypatch.setattr("cuista.tasks.sparse_coding.RIDGES", (0.0, 1.0))
    draw = SignalSet.draw_weighted
    monkeypatch.setattr(SignalSet, "draw_weighted", lambda self, *key: used.append(key) or draw(self, *key))
    said = []
    cuista.analytic_weight(problem, data=codes, layers=2, say=said.append)
    assert said[-1].endswith("is best.")
    assert len(used) > 20


def test_the_cuda_engine_trains_on_signals_as_the_cpu_does(cuda, small_problem, small_weight, codes):
    problem = replace(small_problem, norms=np.geomspace(0.5, 2, 40)).fitted(codes)
    recipe = cuista.FastRecipe(batch=16, validation_batch=50, layerwise=False, max_steps=5)
    models = [
        train(cuista.Model.new(problem, small_weight, layers=2, ops=ops), recipe, data=codes)
        for ops in (CpuOps(), cuda)
    ]
    cpu, gpu = (model.history["nmse_db"] for model in models)
    np.testing.assert_allclose(gpu, cpu, atol=1e-2)


# -- the command line ------------------------------------------------------------------------------------------------


@pytest.fixture
def files(run, codes, tmp_path):
    """A problem with columns of other norms, codes, and their measurements with noise of 40 dB."""
    A = cuista.random_matrix(20, 40, seed=1) * 3
    problem = cuista.Problem(A)
    y = replace(problem, snr_db=40.0).measure(codes, Key(0, 1))
    problem.save("problem.h5")
    np.save("x.npy", codes)
    np.save("y.npy", y)
    np.savez("pairs.npz", codes=codes.T, data=y.T)
    return tmp_path


def test_train_on_codes_says_what_it_took(run, files):
    run("train", "problem.h5", "--signals", "x.npy", *QUICK_OPTIONS)
    assert "x.npy: 3000 signals" in run.errors
    assert "2700 for training and 300 held out for validation" in run.errors
    assert "Their law is estimated: 6." in run.errors
    held = json.loads(run("info", "model.h5", "--json"))["attributes"]["training"]["trained_on"]
    assert (held["name"], held["training"], held["validation"]) == ("x.npy", 2700, 300)
    run("train", "problem.h5", "--x", "x.npy", *QUICK_OPTIONS, "--resume")
    assert "model.h5 is complete" in run.errors
    run("train", "problem.h5", "--x", "x.npy", "--held-out", 0.2, *QUICK_OPTIONS, "--resume", fails=1)
    assert "differs in" in run.errors
    assert "signals (then" in run.errors


def test_the_command_and_the_library_train_the_same_network(run, files):
    run("train", "problem.h5", "--signals", "x.npy", *QUICK_OPTIONS, "--seed", 4)
    problem = cuista.Problem.load("problem.h5").fitted("x.npy")
    model = cuista.Model.new(problem, layers=2)
    train(model, cuista.FastRecipe(max_steps=6, batch=16), data="x.npy", seed=4)
    written = cuista.Model.load("model.h5")
    np.testing.assert_array_equal(model.network.parameters["threshold"], written.network.parameters["threshold"])
    assert model.training == written.training


def test_train_and_test_on_pairs(run, files):
    pairs = ("--x", "pairs.npz", "--y", "pairs.npz", "--key", "codes,data", "--columns")
    run("train", "problem.h5", *pairs, *QUICK_OPTIONS, "--ridge", 0)
    assert "The SNR of their measurements is 40" in run.errors
    found = [
        json.loads(run("test", "model.h5", *words, "--json"))["layers"]["alista"][-1]["nmse_db"]
        for words in (pairs, ("--x", "x.npy", "--y", "y.npy"), ("--x", "x.npy", "--snr", 40))
    ]
    assert found[0] == found[1] == pytest.approx(found[2], abs=0.2)
    assert found[0] < -5
    run("test", "model.h5", "--json")
    assert "was trained on the signals of pairs.npz" in run.errors
    np.save("mirrored.npy", np.load("y.npy")[:, ::-1])
    with pytest.warns(UserWarning, match="the matrix may not be the one that measured them"):
        run("test", "model.h5", "--x", "x.npy", "--y", "mirrored.npy")


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("--y", "y.npy"), 2, "--y is for signals that are given with --signals"),
        (("--held-out", 0.2), 2, "--held-out is for signals"),
        (("--signals", "x.npy", "--pnz", 0.2), 2, "--pnz is for new signals"),
        (("--x", "x.npy", "--y", "y.npy", "--snr", 10), 2, "--snr is for new signals"),
        (("--x", "pairs.npz", "--y", "pairs.npz", "--key", "codes"), 2, "expected two names"),
        (("--x", "y.npy"), 1, "it seems to hold measurements"),
        (("--x", "x.npy", "--y", "x.npy"), 1, "expected 20"),
        (("--x", "x.npy", "--held-out", 1.5), 1, "expected a number between 0 and 1, like 0.1 (--held-out)"),
        (("--x", "pairs.npz", "--key", "codes"), 1, "its samples seem to be columns (--columns)"),
        (("--x", "none.npy"), 1, "none.npy"),
        (("--x", "x.npy", "--batch", 5000), 1, "fewer than the 5000 of a batch"),
    ],
)
def test_signals_that_do_not_suit_are_one_clear_error(run, files, words, status, message):
    run("train", "problem.h5", *words, fails=status)
    assert message in run.errors
    assert not (files / "model.h5").exists()
