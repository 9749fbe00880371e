"""Time recovery by a trained ALISTA, and its training steps, with the native engine and with NumPy's.

    pip install . && python benchmarks/native.py

It also times thresholding with selection, and its backward pass, which all networks share. A training step is all of it
except Adam, from the random numbers to the gradients. On a machine that others use too, the time of the processor tells
more than the time that passes.
"""

from __future__ import annotations

import functools
import os
import time

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # the threads are cuista's

import numpy as np
from common import ratio, save, side_by_side

import cuista
from cuista import parallel
from cuista.counter import TRAINING, Key
from cuista.ops import CpuOps, NativeOps

SAMPLES = 4096
HARD, WINDOW, LAYERS = 0.5, 0.1, 16  # as in the fast recipe

problem = cuista.Problem(cuista.normalize_columns(cuista.random_matrix(250, 500)))
trained = cuista.Model.new(problem, cuista.solve_exact(problem.A))
untrained = {name: value.copy() for name, value in trained.network.parameters.items()}
cuista.train(trained, cuista.FastRecipe(max_steps=200))
engines = {"numpy": CpuOps(), "native": NativeOps()}
models = {name: cuista.Model.from_bytes(trained.to_bytes(), ops=ops) for name, ops in engines.items()}
x, y = problem.sample(SAMPLES)
available = parallel.processors()


def recover(name: str, threads: int) -> np.ndarray:
    parallel.processors = lambda: threads
    return models[name].recover(y)


def nmse_db(estimate: np.ndarray) -> float:
    error = np.sum(np.square(estimate - x, dtype=np.float64))
    return float(10 * np.log10(error / np.sum(np.square(x, dtype=np.float64))))


def shrink(name: str, z: np.ndarray) -> None:
    engines[name].shrink_select(z, z, 0.5, 0.3, 65, 0.1)


def go_back(name: str, z: np.ndarray, code: np.ndarray) -> None:
    engines[name].shrink_select_backward(z, code, z, z, 0.5, 0.3, 0.1)


def step(name: str, batch: int, threads: int) -> None:
    parallel.processors = lambda: threads
    network, key = models[name].network, Key(0, TRAINING, 5)
    if fused[name]:
        fused[name](network.parameters, network.support, key, batch, LAYERS, WINDOW, 1.0)
        return
    x, y, weights = problem.sample_weighted(batch, HARD, **key._asdict(), ops=network.ops)
    network.loss_and_gradients(y, x, LAYERS, WINDOW, weights)


def times_faster(batch: int) -> dict[str, float]:
    """How many times faster the native training step is, in time that passes and in time of the processor."""
    works = {name: functools.partial(step, name, batch, 1) for name in engines}
    passed = side_by_side({**works, "two": functools.partial(step, "native", batch, 2)}, runs=50)
    spent = side_by_side(works, runs=50, clock=time.process_time)
    return {
        "microseconds_per_sample_numpy": 1e6 * float(np.median(spent["numpy"])) / batch,
        "microseconds_per_sample_native": 1e6 * float(np.median(spent["native"])) / batch,
        "times_faster_on_one_thread": ratio(passed["numpy"], passed["native"]),
        "times_faster_in_processor_time": ratio(spent["numpy"], spent["native"]),
        "times_faster_on_two_threads_than_on_one": ratio(passed["native"], passed["two"]),
    }


z = np.random.default_rng(0).standard_normal((64, 500)).astype(np.float32)
_, code = engines["numpy"].shrink_select(z, z, 0.5, 0.3, 65, 0.1)
one = side_by_side({name: functools.partial(recover, name, 1) for name in engines}, runs=9, warmup=1)
threads = side_by_side({str(n): functools.partial(recover, "native", n) for n in (1, 2)}, runs=9, warmup=1)
forward = side_by_side({name: functools.partial(shrink, name, z) for name in engines}, runs=200)
backward = side_by_side({name: functools.partial(go_back, name, z, code) for name in engines}, runs=200)
fused = {name: model.network.fuse(problem.signals(HARD)) for name, model in models.items()}
steps = {}
with engines["numpy"].computing(), parallel.one_blas_thread():
    for state, parameters in (("trained", trained.network.parameters), ("untrained", untrained)):
        for model in models.values():
            model.network.parameters = parameters
        steps |= {f"training_step_{state}_batch_{batch}": times_faster(batch) for batch in (64, 128)}
for model in models.values():
    model.network.parameters = trained.network.parameters
save(
    "native",
    {
        "work": f"recovery of {SAMPLES} samples, 250x500, T = 16, float32",
        "processors": available,
        "microseconds_per_sample_numpy": 1e6 * float(np.median(one["numpy"])) / SAMPLES,
        "microseconds_per_sample_native": 1e6 * float(np.median(one["native"])) / SAMPLES,
        "times_faster_on_one_thread": ratio(one["numpy"], one["native"]),
        "times_faster_on_two_threads_than_on_one": ratio(threads["1"], threads["2"]),
        **steps,
        "nmse_db": {name: nmse_db(recover(name, 1)) for name in engines},
        "shrink_select_64x500_times_faster": ratio(forward["numpy"], forward["native"]),
        "shrink_select_backward_64x500_times_faster": ratio(backward["numpy"], backward["native"]),
    },
    by_width=True,
)
