"""Ranks: what they share out, that their sums have the same bits for any number, and MPI jobs from the command line."""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import cuista
from cuista import parallel, ranks
from cuista.counter import TRAINING, Key
from cuista.data.dictionary import Dictionary, random_dictionary
from cuista.data.sensing import random_sensing
from cuista.errors import FileError, InputError, NumericalError
from cuista.messages import warn
from cuista.tasks.denoising import PictureFastRecipe
from cuista.tasks.robust import Robust, RobustRecipe
from cuista.tasks.sparse_coding import SparseCoding
from cuista.weights import solve_conv


class Threads:
    """Messages between the threads of this process, each of which stands for a rank."""

    def __init__(self, rank, size, boxes):
        self.rank, self.size, self.boxes = rank, size, boxes

    def swap(self, sent, to, source=None, room=None):
        for other in to:
            self.boxes[self.rank, other].put(sent.copy())
        if source is not None:
            room[...] = self.boxes[source, self.rank].get(timeout=60)

    def gather(self, part):
        for other in range(self.size):
            self.boxes[self.rank, other].put(part)
        return [self.boxes[other, self.rank].get(timeout=60) for other in range(self.size)]


def on_ranks(size, work):
    """The results of `work` on several ranks, which are threads."""
    boxes = {(a, b): queue.Queue() for a in range(size) for b in range(size)}

    def run(rank):
        with ranks.among(ranks.Several(Threads(rank, size, boxes))):
            return work()

    with ThreadPoolExecutor(size) as pool:
        return [each.result() for each in [pool.submit(copy_context().run, run, rank) for rank in range(size)]]


@pytest.mark.parametrize("shards", [1, 2, 3, 5, 7, 8, 12, 33])
def test_a_sum_over_ranks_has_the_bits_of_a_sum_over_shards(shards):
    rng = np.random.default_rng(shards)
    parts = [(rng.standard_normal(3) * 10.0 ** rng.integers(-8, 8, 3), rng.random((2, 4), np.float32))
             for _ in range(shards)]  # fmt: skip

    def add(a, b):
        return tuple(x + y for x, y in zip(a, b, strict=True))

    expected = parallel.summed(parts, add)

    def work():
        own = ranks.ranks().share(shards)
        found = parallel.summed([parts[i] for i in own], add) if own else map(np.ones_like, parts[0])
        arrays = [each.copy() for each in found]
        ranks.ranks().sum(arrays, shards)
        return own, arrays

    for size in range(1, 10):
        shares, sums = zip(*on_ranks(size, work), strict=True)
        assert sorted(i for own in shares for i in own) == list(range(shards))
        for arrays in sums:
            for found, wanted in zip(arrays, expected, strict=True):
                np.testing.assert_array_equal(found, wanted)


class FakeNccl:
    """CuPy's NCCL module with a communicator between threads: what is sent or received when a group of calls ends."""

    NCCL_UINT8 = 1

    def __init__(self, messages):
        self.messages, self.calls = messages, None

    def groupStart(self):
        self.calls = []

    def groupEnd(self):
        calls, self.calls = self.calls, None
        for kind, array, size, other in sorted(calls, key=lambda call: call[0] == "recv"):
            assert array.size == size
            if kind == "send":
                self.messages.boxes[self.messages.rank, other].put(array.copy())
            else:
                array[...] = self.messages.boxes[other, self.messages.rank].get(timeout=60)

    def send(self, pointer, size, kind, other, stream):
        assert (kind, stream) == (self.NCCL_UINT8, "stream")
        self.calls.append(("send", pointer, size, other))

    def recv(self, pointer, size, kind, other, stream):
        assert (kind, stream) == (self.NCCL_UINT8, "stream")
        self.calls.append(("recv", pointer, size, other))


class OnDevice(np.ndarray):
    """An array that stands for one of a GPU's: its pointer is the array itself."""

    @property
    def data(self):
        return SimpleNamespace(ptr=self)


@pytest.mark.parametrize("size", [2, 3, 4, 7])
def test_sums_between_gpus_have_the_bits_of_those_through_host_memory(size):
    rng = np.random.default_rng(size)
    parts = [[rng.standard_normal(5).astype(np.float32), rng.standard_normal(3)] for _ in range(6)]
    device = SimpleNamespace(
        empty=lambda count, dtype: np.empty(count, dtype).view(OnDevice),
        concatenate=lambda arrays: np.concatenate(arrays).view(OnDevice),
        ascontiguousarray=np.ascontiguousarray,
    )

    def work(xp):
        several = ranks.ranks()
        nccl = FakeNccl(several.messages)
        several._nccl = [ranks.Nccl(nccl, nccl, lambda: SimpleNamespace(ptr="stream"))]
        own = several.share(6)
        found = parallel.summed([parts[i] for i in own], lambda a, b: [x + y for x, y in zip(a, b, strict=True)])\
            if own else parts[0]  # fmt: skip
        arrays = [each.copy() for each in found]
        several.sum(arrays, 6, xp)
        return arrays

    for a, b in zip(on_ranks(size, lambda: work(device)), on_ranks(size, lambda: work(np)), strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("parts", [1, 2, 7])
def test_results_are_gathered_in_order_in_every_rank(size, parts):
    results = on_ranks(size, lambda: ranks.ranks().gathered(parts, lambda own: [(i, 0.1 * i) for i in own]))
    for found in results:
        np.testing.assert_array_equal(np.array(found), [(i, 0.1 * i) for i in range(parts)])


def test_all_ranks_take_the_decision_of_the_first():
    decided = iter(["one"])
    assert on_ranks(3, lambda: ranks.ranks().agreed(lambda: next(decided))) == ["one"] * 3


def test_if_the_first_rank_cannot_decide_all_give_up():
    def work():
        with pytest.raises(FileError, match="^it is there$" if ranks.ranks().first else "^rank 0: it is there$"):
            ranks.ranks().agreed(fail)

    def fail():
        raise FileError("it is there")

    on_ranks(3, work)


def test_an_error_of_one_rank_is_raised_in_all():
    def work(own):
        if 2 in own:
            raise NumericalError("it overflows", option="ridge")
        return list(own)

    def run():
        with pytest.raises(
            NumericalError, match="^it overflows$" if ranks.ranks().rank == 2 else "^rank 2: it overflows$"
        ) as error:
            ranks.ranks().gathered(4, work)
        assert error.value.options == ("ridge",)
        return ranks.ranks().gathered(2, list)  # they go on together

    assert on_ranks(3, run) == [[0, 1]] * 3


def test_ranks_that_take_different_turns_are_told_so():
    def work():
        several = ranks.ranks()
        with pytest.raises(NumericalError, match="all ranks must do the same"):
            several.any(False) if several.first else several.gathered(2, list)

    on_ranks(2, work)


@pytest.mark.filterwarnings("ignore:job")
def test_warnings_of_all_jobs_are_issued_by_the_first_rank(caplog):
    def job(number):
        warn(f"job {number}")
        return number

    def work():
        return ranks.ranks().spread([partial(job, number) for number in range(5)])

    assert on_ranks(3, work) == [list(range(5))] * 3
    assert sorted(caplog.messages) == [f"job {number}" for number in range(5)]


def test_work_of_a_rank_is_not_shared_out_again():
    def work(own):
        assert ranks.ranks().size == 1
        return list(own)

    on_ranks(2, lambda: ranks.ranks().gathered(2, work))


@pytest.mark.parametrize("flagged", [None, 0, 2])
def test_a_flag_of_any_rank_is_seen_by_all(flagged):
    assert on_ranks(3, lambda: ranks.ranks().any(ranks.ranks().rank == flagged)) == [flagged is not None] * 3


def test_all_ranks_have_a_share_if_there_are_enough_shards():
    for size in range(1, 30):
        for shards in range(size, 70):
            shares = [ranks.Several(Threads(rank, size, {})).share(shards) for rank in range(size)]
            assert all(shares)


def test_a_rank_that_computes_something_else_is_named():
    def work():
        with pytest.raises(NumericalError, match="see those of rank 2 of 4"):
            ranks.ranks().compare("bad" if ranks.ranks().rank == 2 else "good", "the parameters")

    on_ranks(4, work)


def test_ranks_that_are_given_something_else_are_named(small_problem):
    def work():
        seed = 4 if ranks.ranks().rank == 1 else 3
        with pytest.raises(InputError, match=r"rank 1 was .* seed is 4 there, and 3 here"):
            cuista.train(cuista.Model.new(small_problem, layers=1), seed=seed)

    on_ranks(3, work)


def trained(make, recipe, task=None):
    """The parameters of a network that is trained in the current context."""
    model = make()
    cuista.train(model, recipe, task=task)
    return {name: value.copy() for name, value in model.network.parameters.items()} | {"history": model.history}


@pytest.mark.parametrize(
    ("net", "options"),
    [("alista", {}), ("lista-cpss", {"untied": True}), ("tilista", {}), ("alista-at", {"per_coordinate": True})],
)
def test_training_has_the_same_bits_on_any_number_of_ranks(small_problem, small_weight, quick_recipe, net, options):
    recipe = replace(quick_recipe, batch=200, max_steps=12, matrix_steps=6, layer_steps=2, validation_batch=300)

    def make():
        return cuista.Model.new(small_problem, small_weight, net, layers=3, **options)

    expected = trained(make, recipe)
    for size in (2, 3, 5):
        for found in on_ranks(size, lambda: trained(make, recipe)):
            for name, value in expected.items():
                np.testing.assert_equal(found[name], value)


def sources(small_problem, tmp_path):
    """A source of each kind, with the number of examples of a batch, and the network's way to split it."""
    noisy = replace(small_problem, snr_db=20.0, snapshots=2)
    model = cuista.Model.new(noisy, layers=2)
    recipe = cuista.FastRecipe(batch=9)
    x, y = small_problem.sample(2000)
    plain = cuista.Model.new(small_problem, layers=2)
    robust = cuista.RobustModel.new(plain)
    few = RobustRecipe(matrices=3, batch=4, msigma=0.1)
    (tmp_path / "photos").mkdir()
    pictures(tmp_path / "photos")
    cuista.prepare_images(tmp_path / "photos", tmp_path / "pictures.h5")
    weight = solve_conv(Dictionary(random_dictionary((3, 3), 4)))
    denoiser = cuista.Denoiser.new(weight, layers=2)
    yield model, SparseCoding().source(model, recipe), 9
    yield plain, SparseCoding(cuista.SignalSet(x, y)).source(plain, recipe), 9
    yield plain, SparseCoding(cuista.SignalSet(x)).source(plain, recipe), 9
    yield robust, Robust().source(robust, few), 3
    yield plain, Robust().source(plain, few), 12
    cuista.prepare_images(tmp_path / "photos", tmp_path / "patches.h5", patches=8, per_image=40)
    sensing = cuista.Sensing(random_sensing((8, 8), 24), Dictionary(random_dictionary((8, 8), 80)))
    reconstructor = cuista.Reconstructor.new(sensing, layers=2)
    yield reconstructor, cuista.CompressiveSensing(tmp_path / "patches.h5").source(reconstructor, recipe), 200
    yield denoiser, cuista.Denoising(tmp_path / "pictures.h5", crop=20).source(denoiser, PictureFastRecipe()), 5


def pictures(folder):
    """Make files of pictures with random content."""
    Image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    for number in range(8):
        Image.fromarray(rng.integers(0, 255, (40, 30), np.uint8)).save(folder / f"{number}.png")


def test_some_rows_of_a_batch_have_the_bits_that_they_have_in_all(small_problem, tmp_path):
    for model, source, batch in sources(small_problem, tmp_path):
        network, key = model.network, Key(3, TRAINING, 5)
        if hasattr(source, "sigma"):
            source.sigma = source.sigma or 0.1
        where = (network.ops, network.dtype, batch, key)
        target, inputs, weights = source.sample(*where)
        split = network.split(inputs, target, weights)
        assert split.examples == source.examples(batch) == batch
        rows = slice(1, batch - 1)
        target, inputs, weights = source.sample(*where, rows=rows)
        for found, expected in zip((inputs, target, weights), split.part(rows), strict=True):
            for a, b in zip(*(each if isinstance(each, tuple) else (each,) for each in (found, expected)), strict=True):
                np.testing.assert_array_equal(a, b)
        source.close()


def test_ranks_share_out_the_ridges_that_are_compared(small_problem):
    def choose():
        told = []
        return cuista.choose_ridge(replace(small_problem, snr_db=20.0), layers=2, say=told.append), told

    alone, told = choose()
    assert len(told) == 7
    for size in (2, 3, 8):
        for weight, same in on_ranks(size, choose):
            np.testing.assert_array_equal(weight.W, alone.W)
            assert same == told


def test_a_weight_has_the_same_bits_on_any_number_of_ranks(monkeypatch):
    monkeypatch.setattr("cuista.weights.dense.BLOCK", 32)
    monkeypatch.setattr("cuista.weights.dense.SMALL_PRODUCT", 0)
    A = cuista.random_matrix(60, 150, seed=1)
    expected = cuista.solve_exact(A)
    for size in (2, 3):
        for weight in on_ranks(size, lambda: cuista.solve_exact(A)):
            np.testing.assert_array_equal(weight.W, expected.W)
            assert replace(weight.report, seconds=0) == replace(expected.report, seconds=0)


# -- jobs of MPI ------------------------------------------------------------------------------------------------------

slow = pytest.mark.slow
MPIEXEC = shutil.which("mpiexec", path=os.path.dirname(sys.executable) + os.pathsep + os.environ.get("PATH", ""))
TRAIN = ("train", "--m", 20, "--n", 40, "--layers", 3, "--max-steps", 30, "--seed", 3)


def has_mpi():
    try:
        import mpi4py.MPI  # noqa: F401
    except (ImportError, RuntimeError):
        return False
    return MPIEXEC is not None


with_mpi = pytest.mark.skipif("not has_mpi()", reason="mpi4py and mpiexec are not installed")


def job(size, *words, **options):
    """The command that runs cuista on several ranks, with the options of subprocess."""
    command = [MPIEXEC, "-n", str(size), sys.executable, "-m", "cuista", *map(str, words)]
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    more = {"PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe", "CUISTA_WORKERS": "1"}
    return {"args": command, "env": {**os.environ, **root, **more}, "text": True, **options}


def parameters(path):
    return {name: value.tobytes() for name, value in cuista.Model.load(path).network.parameters.items()}


@with_mpi
def test_mpiexec_trains_one_model_with_the_bits_of_one_process(run, tmp_path):
    run(*TRAIN, "-o", "one.h5")
    for size in (2, 3):
        out = f"{size}.h5"
        ended = subprocess.run(**job(size, *TRAIN, "-o", out), capture_output=True, cwd=tmp_path, timeout=120)
        assert ended.returncode == 0, ended.stderr
        assert ended.stderr.count(f"Wrote {out}") == 1
        assert parameters(tmp_path / out) == parameters(tmp_path / "one.h5")
    assert {path.name for path in tmp_path.iterdir()} == {"one.h5", "2.h5", "3.h5"}


@with_mpi
def test_an_error_of_all_ranks_is_told_once(tmp_path):
    (tmp_path / "model.h5").write_bytes(b"")
    ended = subprocess.run(**job(3, *TRAIN), capture_output=True, cwd=tmp_path, timeout=120)
    assert ended.returncode != 0
    assert ended.stderr.count("model.h5 exists already") == 1
    ended = subprocess.run(**job(3, "train", "--pnz", 2, "-o", "a.h5"), capture_output=True, cwd=tmp_path, timeout=120)
    assert ended.returncode != 0
    assert ended.stderr.count("pnz is 2") == 1


@with_mpi
@pytest.mark.parametrize(
    ("to", "batch"), [("the last", 128), pytest.param("all", 128, marks=slow), pytest.param("the last", 32, marks=slow)]
)
def test_a_signal_to_any_rank_stops_all_and_another_number_of_ranks_goes_on(run, tmp_path, to, batch):
    long = (*TRAIN, "--max-steps", 300, "--batch", batch, "-o", "stopped.h5")
    process = subprocess.Popen(**job(3, *long, "--checkpoint-every", 0), stderr=subprocess.PIPE, cwd=tmp_path)
    of_ranks = started_and_saved(process, tmp_path / "stopped.h5.ckpt")
    for number in of_ranks if to == "all" else of_ranks[-1:]:
        os.kill(number, signal.SIGUSR2)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode != 0
    assert errors.count("The run is saved in") == 1, errors
    ended = subprocess.run(**job(2, *long, "--resume"), capture_output=True, cwd=tmp_path, timeout=120)
    assert ended.returncode == 0, ended.stderr
    run(*long[:-1], "whole.h5")
    assert parameters(tmp_path / "stopped.h5") == parameters(tmp_path / "whole.h5")


@slow
@with_mpi
def test_a_rank_that_is_killed_ends_all_and_nothing_is_lost(run, tmp_path):
    long = (*TRAIN, "--max-steps", 300, "-o", "killed.h5")
    process = subprocess.Popen(**job(3, *long, "--checkpoint-every", 0), stderr=subprocess.PIPE, cwd=tmp_path)
    os.kill(started_and_saved(process, tmp_path / "killed.h5.ckpt")[-1], signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode != 0
    run(*long, "--resume")
    run(*long[:-1], "whole.h5")
    assert parameters(tmp_path / "killed.h5") == parameters(tmp_path / "whole.h5")


def started_and_saved(process, checkpoint):
    """The numbers of the processes of a job's ranks, once it has written a checkpoint."""
    end = time.monotonic() + 60
    while not checkpoint.exists():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)
    found = subprocess.run(["pgrep", "-f", f"^{sys.executable} -m cuista train"], capture_output=True, text=True)
    numbers = [int(each) for each in found.stdout.split() if os.readlink(f"/proc/{each}/cwd") == str(checkpoint.parent)]
    assert len(numbers) == 3
    return numbers


@pytest.mark.parametrize("why", ["", "there is no mpi4py"])
def test_the_doctor_says_whether_there_is_mpi(tmp_path, why):
    package = tmp_path / "mpi4py"
    package.mkdir()
    text = f"raise ImportError({why!r})" if why else "class rc: initialize = True\n__version__ = '4.1'"
    (package / "__init__.py").write_text(text)
    (package / "MPI.py").write_text("Get_library_version = lambda: 'Some MPI  1.2\\nof some date'")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "cuista", "doctor"]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60).stdout
    found = f"mpi     cannot be used: {why} (" if why else "mpi     can be used: Some MPI 1.2, by mpi4py 4.1\n"
    assert found in said


def test_a_job_without_mpi4py_is_told_so_by_its_first_process(tmp_path):
    (tmp_path / "mpi4py").mkdir()
    (tmp_path / "mpi4py" / "__init__.py").write_text("raise ImportError('there is no mpi4py')")
    said = []
    for rank in range(2):
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PMI_RANK": str(rank), "PMI_SIZE": "2"}
        command = [sys.executable, "-m", "cuista", *map(str, TRAIN)]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path, timeout=60)
        assert ended.returncode == 1
        said.append(ended.stderr)
    assert "Install cuista[mpi]" in said[0]
    assert said[0].count("\n") == 1
    assert not said[1]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4"}, (3, 4)),
        ({"PMI_RANK": "0", "PMI_SIZE": "2"}, (0, 2)),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2"}, (1, 2)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "2"}, (0, 1)),  # a batch script, which has not called srun
        ({"PMI_RANK": "0", "PMI_SIZE": "1"}, (0, 1)),
        ({}, (0, 1)),
    ],
)
def test_the_environment_says_which_rank_this_is(monkeypatch, variables, expected):
    for names in ranks.VARIABLES:
        for name in names:
            monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert ranks.started() == expected


@with_mpi
def test_recovery_and_comparisons_are_shared_out_too(run, tmp_path):
    run("gen-problem", "--m", 20, "--n", 40, "-o", "problem.h5")
    run("train", "problem.h5", "--layers", 3, "--max-steps", 30, "-o", "model.h5")
    run("simulate", "problem.h5", "--samples", 700, "-o", "signals.h5")
    recover = ("recover", "model.h5", "signals.h5", "--key", "y", "-o")
    comparison = ("compare", "problem.h5", "--net", "alista", "--net", "lista-cp", "--classical", "omp", "--layers", 2)
    comparison = (*comparison, "--samples", 300, "-o")
    for words, one, two in ((recover, "one.npy", "two.npy"), (comparison, "one.json", "two.json")):
        run(*words, one)
        ended = subprocess.run(**job(2, *words, two), capture_output=True, cwd=tmp_path, timeout=200)
        assert ended.returncode == 0, ended.stderr
        assert ended.stderr.count(f"Wrote {two}") == 1
    np.testing.assert_array_equal(np.load("one.npy"), np.load("two.npy"))
    first, second = (json.loads(Path(name).read_text())["results"] for name in ("one.json", "two.json"))
    for a, b in zip(first, second, strict=True):
        assert (a["method"], a["nmse_db"], a["steps"]) == (b["method"], b["nmse_db"], b["steps"])
