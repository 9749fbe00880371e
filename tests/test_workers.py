"""How many threads compute, what decides that, and that results have the same bits for any number."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

import h5py
import numpy as np
import pytest

import cuista
from cuista import parallel
from cuista.errors import InputError
from cuista.ops.cpu import PART, product
from cuista.parallel import Allowance


@pytest.fixture
def machine(tmp_path):
    """A function that counts what a process may use on a machine with the given files, by their paths."""

    def machine(processors, **files):
        for path, text in files.items():
            path = tmp_path / path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")
        found = parallel._allowance.__wrapped__(frozenset(range(processors)), tmp_path)
        return found, found.workers, str(found)

    return machine


def siblings(*pairs):
    """The files that say which processors share a core."""
    folder = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    return {folder.format(number): pair for pair in pairs for number in pair.split(",")}


def test_threads_of_one_core_count_once(machine):
    files = siblings("0,4", "1,5", "2,6", "3,7")
    assert machine(8, **files) == (Allowance(8, 4), 4, "the process may use 8 processors on 4 cores")
    assert machine(5) == (Allowance(5, 4), 4, "the process may use 5 processors on 4 cores")
    assert machine(2) == (Allowance(2, 2), 2, "the process may use 2 processors")


def test_where_the_system_says_nothing_every_processor_counts(machine):
    assert machine(3) == (Allowance(3, 3), 3, "the process may use 3 processors")


GROUP = "sys/fs/cgroup"


@pytest.mark.parametrize(
    ("files", "quota", "workers"),
    [
        ({"proc/self/cgroup": "0::/", f"{GROUP}/cpu.max": "150000 100000"}, 1.5, 2),
        ({"proc/self/cgroup": "0::/a/b", f"{GROUP}/a/b/cpu.max": "max 100000"}, np.inf, 8),
        ({"proc/self/cgroup": "0::/a/b", f"{GROUP}/a/b/cpu.max": "max 100000", f"{GROUP}/a/cpu.max": "50 100"}, 0.5, 1),
        ({"proc/self/cgroup": "0::/", f"{GROUP}/cpu.max": "990000 100000"}, 9.9, 8),
        (
            {
                "proc/self/cgroup": "5:memory:/m\n3:cpu,cpuacct:/docker/c\n0::/",  # as on the host
                f"{GROUP}/cpu,cpuacct/cpu.cfs_quota_us": "250000",
                f"{GROUP}/cpu,cpuacct/cpu.cfs_period_us": "100000",
            },
            2.5,
            3,
        ),
        (
            {
                "proc/self/cgroup": "3:cpuacct,cpu:/job",
                f"{GROUP}/cpu/cpu.cfs_quota_us": "-1",
                f"{GROUP}/cpu/cpu.cfs_period_us": "100000",
                f"{GROUP}/cpu/job/cpu.cfs_quota_us": "100000",
                f"{GROUP}/cpu/job/cpu.cfs_period_us": "100000",
            },
            1,
            1,
        ),
    ],
)
def test_the_quota_of_control_groups_is_kept(machine, files, quota, workers):
    found, count, text = machine(8, **files)
    assert (found.quota, count) == (quota, workers)
    assert ("(cgroup)" in text) == np.isfinite(quota)


def test_the_affinity_of_the_process_counts():
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system has no affinity")
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert parallel.processors() == 1
    finally:
        os.sched_setaffinity(0, allowed)


def blas():
    """How many threads each BLAS library may use."""
    from threadpoolctl import threadpool_info

    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def test_a_variable_or_a_block_sets_the_number_of_workers(monkeypatch):
    monkeypatch.setenv("CUISTA_WORKERS", "3")
    assert parallel.processors() == 3
    with parallel.workers(2):
        assert parallel.processors() == 2
        with parallel.workers():
            assert parallel.processors() == 2
        assert blas() == {1}
    assert parallel.processors() == 3
    first, second = parallel.workers(1), parallel.workers(2)  # as threads enter and leave them
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert parallel.processors() == 2
    second.__exit__(None, None, None)
    assert parallel.processors() == 3
    for wrong in (0, -1, 1.5, "2"):
        with pytest.raises(InputError, match="the number of workers is"), parallel.workers(wrong):
            pass
    for wrong in ("0", "-1", "2.0", "two", "²"):
        monkeypatch.setenv("CUISTA_WORKERS", wrong)
        with pytest.raises(InputError, match=f"CUISTA_WORKERS is '{wrong}'; expected a whole number, 1 or greater"):
            parallel.processors()


def test_work_that_fails_ends_before_the_error_is_raised():
    running = []

    def work(part):
        if part.start == 0:
            raise ValueError("the first part fails")
        time.sleep(0.2)
        running.append(part.start)

    with parallel.workers(3), pytest.raises(ValueError, match="the first part fails"):
        parallel.in_batches(3, work, 1)
    ended = len(running)
    time.sleep(0.3)
    assert len(running) == ended
    assert parallel._limit.holders == 0


def test_the_calling_thread_takes_part_and_is_free_afterwards():
    together = threading.Barrier(3, timeout=20)

    def work(part):
        together.wait()  # three threads are at work at once
        return parallel.is_shared_out(), threading.current_thread()

    with parallel.workers(3):
        shared, threads = zip(*parallel.in_batches(3, work, 1), strict=True)
    assert all(shared)
    assert not parallel.is_shared_out()
    assert threading.current_thread() in threads


def test_an_error_is_raised_without_waiting_for_the_work_of_other_callers():
    begun, end = threading.Event(), threading.Event()

    def long_work(part):
        begun.set()
        assert end.wait(20)

    def work(part):
        raise ValueError("in vain")

    with parallel.workers(2), ThreadPoolExecutor(1) as other:
        busy = other.submit(copy_context().run, parallel.in_batches, 4, long_work, 1)  # it keeps the pool
        assert begun.wait(20)
        time.sleep(0.1)
        with pytest.raises(ValueError, match="in vain"):
            parallel.in_batches(4, work, 1)
        assert not busy.done()
        end.set()
        busy.result()


def test_the_option_is_checked_and_holds_for_its_command_only(run, small_model, monkeypatch):
    small_model.save("model.h5")
    for wrong in ("0", "two", "1.5"):
        run("recover", "model.h5", "y.npy", "--workers", wrong, fails=2)
        assert f"'--workers': '{wrong}' is not a whole number, 1 or greater" in run.errors
    counts, count = [], parallel.processors
    monkeypatch.setattr(parallel, "processors", lambda: counts.append(count()) or counts[-1])
    run("test", "model.h5", "--samples", 10, "--workers", 3)
    assert set(counts) == {3}
    assert not parallel._blocks
    monkeypatch.setenv("CUISTA_WORKERS", "many")
    run("test", "model.h5", "--samples", 10, fails=1)
    assert "Error: CUISTA_WORKERS is 'many'; expected a whole number, 1 or greater" in run.errors
    assert parallel._limit.holders == 0


def test_an_interruption_while_the_threads_start_does_not_keep_the_process_from_ending():
    code = """
import os, signal, threading, time
from cuista import parallel

start = threading.Thread.start

def start_and_interrupt(thread):
    start(thread)
    if thread.name == "cuista_0":
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)

threading.Thread.start = start_and_interrupt
with parallel.workers(2):
    try:
        parallel.in_batches(1000, lambda part: time.sleep(0.01), 10)
    except KeyboardInterrupt:
        print("interrupted")
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (process.returncode, process.stdout, process.stderr) == (0, "interrupted\n", "")


def test_the_doctor_says_how_many_workers_there_are_and_why(run, monkeypatch):
    monkeypatch.setattr(parallel, "allowance", lambda: Allowance(8, 4, 1.5))
    assert "2 workers, because the process may use 8 processors on 4 cores, and the time of 1.5 (cgroup)" in run(
        "doctor"
    )
    monkeypatch.setenv("CUISTA_WORKERS", "1")
    assert "can be used: 1 worker, because CUISTA_WORKERS says so" in run("doctor")


@pytest.mark.parametrize(("net", "recipe"), [("alista", "fast"), ("lista-cp", "paper")])
def test_commands_give_the_same_bits_on_any_number_of_workers(run, net, recipe):
    run("gen-problem", "--m", 60, "--n", 130, "--pnz", 0.1, "--snr", 30)
    run("simulate", "problem.h5", "--samples", 600, "-o", "signals.h5")
    steps = ("--recipe", recipe, "--batch", 70, "--validation-batch", 300, "--max-steps", 3)
    models, codes = [], []
    for workers in (1, 2, 3):
        model, x = f"{workers}.h5", f"{workers}.npy"
        train = ("train", "problem.h5", "--net", net, "--ridge", 0.01, "-T", 2, *steps, "-o", model)
        run(*train, "--workers", workers)
        run("recover", model, "signals.h5", "--workers", workers, "-o", x)
        with h5py.File(model) as file:
            models.append({name: np.array(value) for name, value in file["parameters"].items()})
            models[-1]["W"] = cuista.load(model).network.W
        codes.append(np.load(x))
    for found, recovered in zip(models[1:], codes[1:], strict=True):
        assert found.keys() == models[0].keys()
        for name, value in found.items():
            np.testing.assert_array_equal(value, models[0][name])
        np.testing.assert_array_equal(recovered, codes[0])


@pytest.mark.parametrize("shape", [(5 * PART + 3, 900, 500), (100, 1800, 12 * PART + 5)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_products_have_the_same_bits_on_any_number_of_workers(shape, dtype, rng):
    rows, inner, columns = shape
    assert 2.0 * rows * inner * columns > parallel.SMALL_PRODUCT
    a, b = rng.standard_normal((inner, rows)).astype(dtype).T, rng.standard_normal((inner, columns)).astype(dtype)
    found = []
    for count in (1, 2, 3):
        with parallel.workers(count):
            found.append(product(a, b))
    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_array_equal(found[2], found[0])
    np.testing.assert_allclose(found[0], a.astype(np.float64) @ b, atol=1e-3 if dtype == np.float32 else 1e-10)
