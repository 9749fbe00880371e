"""At home in Python: copies, other processes, threads, the log, progress, and what objects say they are."""

from __future__ import annotations

import copy
import dataclasses
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest

import cuista
from cuista.data.dictionary import random_dictionary
from cuista.data.sensing import random_sensing
from cuista.errors import FileError
from cuista.ops import CpuOps, CudaOps
from cuista.parallel import blas_threads
from cuista.solvers import SOLVERS
from cuista.storage import unpacked


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


@pytest.mark.parametrize("net", ["alista", "lista", "lamp", "alista-ebt", "fista", "amp"])
def test_eight_threads_recover_what_one_recovers(batches, small_problem, net):
    problem, measured = batches
    if net in SOLVERS:
        problem, measured = small_problem, [small_problem.sample(len(y), seed=len(y))[1] for y in measured]
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
    first, second = blas_threads(0), blas_threads(0)
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as two:
        one.submit(first.__enter__).result()
        two.submit(second.__enter__).result()
        one.submit(first.__exit__, None, None, None).result()
        assert set(blas()) == {1}
        two.submit(second.__exit__, None, None, None).result()
    assert blas() == before
    with blas_threads(1e12):
        assert blas() == before
