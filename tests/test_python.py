"""At home in Python: copies, other processes, threads, the log, progress, and what objects say they are."""

from __future__ import annotations

import copy
import dataclasses
import logging
import multiprocessing
import pickle
import re
import sys
import types
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest

import cuista
from cuista.data.dictionary import random_dictionary
from cuista.data.pictures import read_picture
from cuista.data.sensing import random_sensing
from cuista.errors import FileError, InputError
from cuista.messages import ProgressLine, TimeLeft, duration
from cuista.metrics import PictureReport
from cuista.ops import CpuOps, CudaOps
from cuista.parallel import one_blas_thread
from cuista.solvers import SOLVERS
from cuista.storage import unpacked
from cuista.tasks.sparse_coding import RIDGE_RECIPE


@pytest.fixture(scope="module")
def things(small_problem, small_weight):
    """One object of each kind that has a file, by name."""
    dictionary = cuista.Dictionary(random_dictionary((3, 3), 12))
    sensing = cuista.Sensing(random_sensing((3, 3), 5), dictionary)
    decoder = cuista.Model.new(small_problem, small_weight, layers=3)
    scaled = cuista.Problem(3 * cuista.random_matrix(6, 9), np.linspace(0, 0.3, 9), 30, cuista.Bernoulli(0.3, 1, 2))
    weight = cuista.solve_conv(dictionary)
    return {
        "problem": scaled,
        "weight": small_weight,
        "model": decoder,
        "double": cuista.Model.new(small_problem, small_weight, "lista", layers=2, untied=True, dtype=np.float64),
        "encoder": cuista.EncoderModel.new(small_problem, layers=2),
        "robust": cuista.RobustModel.new(decoder),
        "dictionary": dictionary,
        "conv-weight": weight,
        "denoiser": cuista.Denoiser.new(weight, layers=2),
        "sensing": sensing,
        "reconstructor": cuista.Reconstructor.new(sensing, layers=2),
        "perturbed": cuista.PerturbedSet.new(small_problem, [0.01], 1, 5),
    }


KINDS = (
    *("problem", "weight", "model", "double", "encoder", "robust", "dictionary", "conv-weight", "denoiser", "sensing"),
    *("reconstructor", "perturbed"),
)


def content(thing):
    """What defines an object, apart from when and by which command it was written."""
    record = thing.to_record()
    arrays = {name: array.tobytes() for name, array in record.arrays.items()}
    return {name: repr(value) for name, value in {**record.attributes, **arrays}.items()}


# -- copies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_pickles_and_copies_are_equal_to_the_last_bit_and_share_nothing(things, kind):
    thing = things[kind]
    for same in (pickle.loads(pickle.dumps(thing)), copy.deepcopy(thing), type(thing).from_bytes(thing.to_bytes())):
        if (
            kind == "double" and same.network.dtype != np.float64
        ):  # as `load`, from_bytes computes in float32 by default
            continue
        assert type(same) is type(thing)
        assert content(same) == content(thing)
        arrays, others = same.to_record().arrays, thing.to_record().arrays
        assert not any(np.shares_memory(arrays[name], others[name]) for name in arrays)


def test_a_pickle_is_the_file(things, tmp_path):
    model = things["model"]
    model.save(tmp_path / "model.h5")
    stored, pickled = cuista.load(tmp_path / "model.h5"), pickle.loads(pickle.dumps(model))
    assert content(stored) == content(pickled)
    assert unpacked(model.to_bytes()).kind == "cuista-model"


def test_bytes_are_checked_before_they_are_believed(things):
    data = pickle.dumps(things["problem"])
    with pytest.raises(FileError, match="the bytes are damaged: they are not what was written"):
        pickle.loads(data.replace(b"support_probability", b"support_probabilitY"))
    for wrong in (b"", b"cuista", things["problem"].to_bytes()[:-1]):
        with pytest.raises(FileError, match="the bytes are damaged"):
            cuista.Problem.from_bytes(wrong)
    with pytest.raises(FileError, match="the bytes is a cuista-weight file; expected cuista-problem"):
        cuista.Problem.from_bytes(things["weight"].to_bytes())


def test_a_copy_of_an_untrained_model_is_trained_to_the_same_bits(small_problem, small_weight, quick_recipe):
    quick = dataclasses.replace(quick_recipe, max_steps=4)
    for recipe in (quick, cuista.PaperRecipe(batch=8, validation_batch=50, max_steps=4)):
        model = cuista.Model.new(small_problem, small_weight, layers=2)
        copied = pickle.loads(pickle.dumps(model))
        for each in (model, copied):
            cuista.train(each, recipe)
        trained = pickle.loads(pickle.dumps(model))
        assert copied.training == trained.training == model.training
        for name, value in model.network.parameters.items():
            assert (value == copied.network.parameters[name]).all()
            assert (value == trained.network.parameters[name]).all()


def test_a_model_of_a_gpu_is_copied_on_it_and_comes_back_on_the_cpu_where_there_is_none(
    cuda, small_problem, small_weight
):
    model = cuista.Model.new(small_problem, small_weight, layers=2, ops=cuda)
    assert copy.deepcopy(model).network.ops is cuda
    if cuda.name == "cuda:0" and type(cuda.launch).__name__ == "CudaLauncher":
        assert isinstance(pickle.loads(pickle.dumps(model)).network.ops, CudaOps)
        return
    with pytest.warns(UserWarning, match="a model of cuda:0 will compute on the CPU here: device 'cuda:0' cannot be"):
        same = pickle.loads(pickle.dumps(model))
    assert isinstance(same.network.ops, CpuOps)
    assert content(same) == content(model)


# -- processes and threads ------------------------------------------------------------------------------------------


def recovered(model, y):
    """Work for another process."""
    return model.recover(y)


def test_models_and_solvers_cross_to_processes_that_share_nothing(things, small_problem):
    model, solver, y = things["model"], SOLVERS["fista"](small_problem, 20), small_problem.sample(30)[1]
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        for each in (model, solver):
            np.testing.assert_array_equal(pool.submit(recovered, each, y).result(), each.recover(y))


@pytest.mark.slow
def test_models_cross_by_joblib(things, small_problem):
    joblib = pytest.importorskip("joblib")
    model, y = things["model"], small_problem.sample(40)[1]
    parts = joblib.Parallel(2)(joblib.delayed(recovered)(model, part) for part in (y[:20], y[20:]))
    np.testing.assert_array_equal(np.concatenate(parts), np.concatenate([model.recover(y[:20]), model.recover(y[20:])]))


@pytest.fixture(scope="module")
def batches():
    """A problem large enough for BLAS to use several threads, and batches of several sizes."""
    problem = cuista.Problem(cuista.random_matrix(100, 200, seed=1), pnz=0.05)
    return problem, [problem.sample(size, seed=size)[1] for size in (1, 7, 64, 130, 255, 256, 300, 600)]


@pytest.mark.parametrize("net", ["alista", "lamp", "alista-ebt", "fista", "amp"])
def test_eight_threads_recover_what_one_recovers(batches, small_problem, net):
    problem, measured = batches
    if net in SOLVERS:
        problem, measured = small_problem, [small_problem.sample(len(y), seed=len(y))[1] for y in measured[:5]]
        serial = list(map(SOLVERS[net](problem, 8).recover, measured))
        recover = SOLVERS[net](problem, 8).recover  # whose λ is not known yet
    else:
        recover = cuista.Model.new(problem, cuista.solve_exact(problem.A), net, layers=4).recover
        serial = list(map(recover, measured))
    with ThreadPoolExecutor(8) as threads:
        for _ in range(2):
            for one, other in zip(serial, threads.map(recover, measured), strict=True):
                np.testing.assert_array_equal(one, other)


def test_eight_threads_denoise_and_reconstruct_what_one_does(things):
    pictures = [np.random.default_rng(size).random((size, size)) for size in (20, 31, 48, 64, 20, 31, 48, 64)]
    denoise, sensing = things["denoiser"].denoise, things["sensing"]

    def reconstruct(picture):
        return things["reconstructor"].reconstruct(sensing.measure(picture), picture.shape)

    for work in (denoise, reconstruct):
        serial = list(map(work, pictures))
        with ThreadPoolExecutor(8) as threads:
            for one, other in zip(serial, threads.map(work, pictures), strict=True):
                np.testing.assert_array_equal(one, other)


def test_threads_draw_the_same_signals_of_one_problem_and_engine(batches):
    problem, ops = cuista.Problem(batches[0].A, pnz=0.05), CpuOps()
    serial = [problem.sample(50, seed=seed, ops=CpuOps())[1] for seed in range(8)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda seed: problem.sample(50, seed=seed, ops=ops)[1], range(8)))
    for one, other in zip(serial, found, strict=True):
        np.testing.assert_array_equal(one, other)


def blas():
    """How many threads each BLAS library may use."""
    from threadpoolctl import threadpool_info

    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def test_the_limit_of_blas_holds_until_the_last_thread_is_done_whoever_set_it():
    before = blas()
    first, second = one_blas_thread(), one_blas_thread()
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as two:
        one.submit(first.__enter__).result()
        two.submit(second.__enter__).result()
        one.submit(first.__exit__, None, None, None).result()
        assert set(blas()) == {1}
        two.submit(second.__exit__, None, None, None).result()
    assert blas() == before


# -- messages -------------------------------------------------------------------------------------------------------


def test_nothing_is_printed_unless_somebody_asks(small_problem, quick_recipe, capfd):
    noisy = dataclasses.replace(small_problem, snr_db=20)
    quick = dataclasses.replace(quick_recipe, max_steps=4)
    cuista.train(cuista.Model.new(noisy, cuista.solve_exact(noisy.A), layers=2), quick)
    assert capfd.readouterr() == ("", "")


def test_the_log_tells_what_is_done_and_how_training_goes(small_problem, small_weight, quick_recipe, caplog):
    caplog.set_level(logging.DEBUG, "cuista")
    cuista.analytic_weight(small_problem)
    cuista.train(
        cuista.Model.new(small_problem, small_weight, layers=2), dataclasses.replace(quick_recipe, max_steps=4)
    )
    levels = {record.getMessage(): (record.name, record.levelname) for record in caplog.records}
    assert levels["Computing the analytic weight (ridge 0)."] == ("cuista", "INFO")
    ended = [text for text, (name, level) in levels.items() if name == "cuista.training" and level == "INFO"]
    assert len(ended) == 3
    assert all(re.search(r"^ALISTA: stage . of 3 .*: ended with NMSE -\d+\.\d\d dB$", text) for text in ended)
    assert any(level == "DEBUG" for _, level in levels.values())


def test_weights_that_are_only_tried_are_not_warned_about(small_problem, monkeypatch, caplog):
    monkeypatch.setattr("cuista.tasks.sparse_coding.RIDGES", (0.0, 1.0))
    caplog.set_level(logging.INFO, "cuista")
    hopeless = dataclasses.replace(small_problem, snr_db=-20)
    cuista.choose_ridge(hopeless, layers=1)
    assert [record.levelname for record in caplog.records] == ["INFO"] * 3
    with pytest.warns(
        UserWarning, match=r"(worse|hardly better) than that of the answer 0 \(0 dB\). At an SNR of -20 dB"
    ):
        cuista.train(cuista.Model.new(hopeless, cuista.solve_exact(hopeless.A), layers=1), RIDGE_RECIPE)
    assert caplog.records[-1].levelname == "WARNING"


def test_training_that_recovers_next_to_nothing_says_why(quick_recipe):
    dense = cuista.Problem(cuista.random_matrix(10, 40), pnz=0.6)
    model = cuista.Model.new(dense, cuista.solve_exact(dense.A), layers=1)
    said = (
        "training of ALISTA has ended at an NMSE of .*, hardly better than .*24 non-zeros on average .* 10 measurements"
    )
    with pytest.warns(UserWarning, match=said):
        cuista.train(model, dataclasses.replace(quick_recipe, max_steps=1))


def test_columns_that_cannot_be_told_apart_are_found(rng):
    A = rng.standard_normal((30, 700))
    A[:, 650], A[:, 9], A[:, 300] = -2 * A[:, 3], 1e-9 * A[:, 3], A[:, 5] + 1e-5 * A[:, 7]
    found = cuista.Problem(A).twins
    unit = A / np.linalg.norm(A, axis=0)
    alike = np.argwhere(np.triu(np.abs(unit.T @ unit) > 1 - 1e-6, 1))
    assert sorted(found.pairs) == [tuple(pair) for pair in alike.tolist()] == [(3, 9), (3, 650), (5, 300), (9, 650)]
    assert str(found).startswith("columns 3 and 9, 3 and 650, ")
    assert cuista.Problem(rng.standard_normal((30, 700))).twins.number == 0


@pytest.mark.parametrize("columns", [5, 300])
def test_many_equal_columns_are_counted_and_few_are_named(columns, rng):
    found = cuista.Problem(np.outer(rng.standard_normal(4), rng.uniform(1, 2, columns))).twins
    assert found.number == columns * (columns - 1) // 2
    assert found.pairs == [(0, 1), (0, 2), (0, 3), (0, 4), (1, 2) if columns == 5 else (0, 5)]
    assert f"(and {found.number - 5} more pairs)" in str(found)


def test_training_for_such_columns_warns(small_problem, quick_recipe):
    A = small_problem.A.copy()
    A[:, 4] = -A[:, 8]
    model = cuista.Model.new(cuista.Problem(A, pnz=0.05), cuista.solve_exact(A), layers=1)
    with pytest.warns(UserWarning, match="columns 4 and 8 of the matrix cannot be told apart"):
        cuista.train(model, dataclasses.replace(quick_recipe, max_steps=1))


# -- progress -------------------------------------------------------------------------------------------------------


class Clock:
    """A clock that is set by hand."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr("cuista.messages.time.monotonic", lambda: self.now)


def test_the_time_left_follows_the_rate_since_the_first_report(monkeypatch):
    clock, time = Clock(monkeypatch), TimeLeft()
    assert time.left(0.5) is None  # a run that is resumed
    clock.now = 10
    assert time.left(0.6) == pytest.approx(40)
    clock.now = 20
    assert time.left(0.1) is None  # new work has begun
    clock.now = 24
    assert time.left(0.3) == pytest.approx(14)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (99, "99 s"), (100, "2 min"), (3600, "60 min"), (7500, "2 h 5 min"), (1e6, "12 days")],
)
def test_durations_are_for_people(seconds, text):
    assert duration(seconds) == text


def test_progress_in_a_log_has_the_time_of_day_and_the_time_left(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    with ProgressLine() as line:
        for now, fraction in ((0, 0.0), (5, 0.25), (11, 0.5)):
            clock.now = now
            line.show(fraction, "work")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  50% work, 11 s left\n", capsys.readouterr().err)


def test_progress_on_a_terminal_is_one_line_that_is_erased(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    clock = Clock(monkeypatch)
    with ProgressLine() as line:
        for now, fraction in ((0, 0.0), (5, 0.25), (10, 0.5)):
            clock.now = now
            line.show(fraction, "work")
    bar = "\r\033[K[############............] work, 10 s left"
    assert capsys.readouterr().err.endswith(f"{bar}\r\033[K")


def test_training_shows_progress_in_a_notebook(monkeypatch, small_problem, small_weight, quick_recipe, capsys):
    shown = []

    class Handle:
        def update(self, content, raw):
            shown.append(content["text/plain"])

    def display(content, raw, display_id):
        shown.append(content["text/plain"])
        return Handle()

    shell = types.SimpleNamespace(kernel=object())
    ipython = types.SimpleNamespace(get_ipython=lambda: shell)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", types.SimpleNamespace(display=display))
    monkeypatch.setattr(ProgressLine, "OFTEN", 0)
    model = cuista.Model.new(small_problem, small_weight, layers=1)
    cuista.train(model, dataclasses.replace(quick_recipe, max_steps=2), progress=True)
    assert len(shown) == 8  # steps
    assert shown[-1].startswith("100% [########################] all layers, step 2/2, NMSE -")
    assert capsys.readouterr().err == ""


# -- what things say they are ---------------------------------------------------------------------------------------


def test_everything_says_what_it_is_in_one_line_and_in_a_table(things, small_problem):
    said = {kind: repr(thing) for kind, thing in things.items()}
    assert said["problem"].startswith(
        "<Problem: 6×9, pnz 0 to 0.3, magnitudes 1 (with probability 0.3) and 2, SNR 30 dB"
    )
    assert said["model"] == "<Model: ALISTA, 3 layers, 6 learned numbers, for 20×40, pnz 0.05, no noise, not trained>"
    assert said["robust"] == (
        "<RobustModel: robust ALISTA, 3 layers, 6 learned numbers, with the exact encoder, for 20×40, pnz 0.05, no "
        "noise, not trained>"
    )
    assert said["denoiser"].startswith("<Denoiser: Conv-ALISTA, 2 layers, 4 learned numbers, for noise of σ = 20, 12")
    assert said["dictionary"] == "<Dictionary: 12 filters of 3×3, of unit norm>"
    assert said["perturbed"].startswith("<PerturbedSet: 1 perturbed matrix of 20×40 for each level, 1 level (σ 0.01)")
    report = cuista.evaluate(things["model"], *small_problem.sample(50))
    for thing in (*things.values(), report):
        assert "\n" not in repr(thing)
        assert len(repr(thing)) < 250
        assert thing.summary in repr(thing)
        assert thing._repr_html_().startswith(f"<table><caption>{type(thing).__name__}</caption><tr>")


def test_training_is_part_of_what_a_model_is(small_problem, small_weight, quick_recipe):
    model = cuista.train(cuista.Model.new(small_problem, small_weight, layers=2), quick_recipe)
    assert re.search(r"no noise, validation NMSE -\d+\.\d\d dB>$", repr(model))


def test_names_from_outside_are_escaped():
    report = PictureReport(("a",), ("<b>\n&",), ((1, 1),), np.ones((1, 1)), np.ones((1, 1)), {}, {})
    assert "<b>\\n& 1.00 dB" in repr(report)
    assert "&lt;b&gt;\\n&amp;" in report._repr_html_()
    assert "<b>" not in report._repr_html_()


# -- data sets ------------------------------------------------------------------------------------------------------


def test_data_sets_depend_on_their_seed_only_and_are_what_they_say(tmp_path):
    from cuista import datasets

    pictures = datasets.pictures(3, 32, seed=1)
    assert pictures.shape == (3, 32, 32)
    assert pictures.min() >= 0
    assert pictures.max() <= 1
    assert (datasets.pictures(3, 32, seed=1) == pictures).all()
    assert (datasets.pictures(3, 32, seed=2) != pictures).any()
    folder = datasets.save_pictures(tmp_path / "pictures", 3, 32, seed=1)
    np.testing.assert_allclose(read_picture(folder / "01.png").grey(), pictures[1], atol=0.51 / 255)
    with pytest.raises(FileError, match="exists already"):
        datasets.save_pictures(folder, 3, 32)
    library, x, y = datasets.mixtures(20, 30, 60, present=2, seed=3)
    assert (library >= 0).all()
    assert (np.count_nonzero(x, axis=1) == 2).all()
    np.testing.assert_allclose(y, x @ library.T)
    noisy = datasets.mixtures(2000, 30, 60, snr_db=10, seed=3)
    noise = noisy.spectra - noisy.abundances @ noisy.library.T
    signal = noisy.abundances @ noisy.library.T
    ratio = np.log10(np.mean(noise.var(axis=1) / signal.var(axis=1)))
    assert ratio == pytest.approx(-1, abs=0.05)
    A = datasets.partial_cosines(20, 40)
    np.testing.assert_allclose(np.linalg.norm(A, axis=0), 1)
    full = datasets.partial_cosines(40, 40)
    np.testing.assert_allclose(full.T @ full, np.eye(40), atol=1e-12)
    for wrong in (
        lambda: datasets.pictures(0),
        lambda: datasets.mixtures(present=0),
        lambda: datasets.partial_cosines(9, 8),
    ):
        with pytest.raises(InputError, match="expected 1"):
            wrong()
