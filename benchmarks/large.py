"""Time recovery by ALISTA with a matrix of 2,500×10,000, whose −AᵀW takes 400 MB, with the native engine and NumPy's.

    pip install . && python benchmarks/large.py

NumPy's engine is timed with SciPy's sparse products and with BLAS's dense ones, and so are BLAS's products with 128
samples at a time alone, one for each layer. Thresholds are such that a tenth of the
entries of each iterate are not zero, about as in a trained network; and those that the publications start from, with
which nearly all are. Times are the least of a few, per sample. Each engine's peak of memory is that of a process of its
own, which is given A = W.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # the threads are cuista's

import numpy as np
from common import save, side_by_side

import cuista
from cuista import parallel
from cuista.networks.alista import Alista
from cuista.operators import Dense
from cuista.ops import CpuOps, NativeOps, ReferenceOps
from cuista.ops import cpu as cpu_module

M, N, LAYERS, SAMPLES, RUNS = 2500, 10_000, 16, 256, 3
DENSITY = 0.1
ENGINES: dict[str, type[ReferenceOps]] = {"numpy": CpuOps, "native": NativeOps}


def recover(network: Alista, y: np.ndarray, workers: int = 1, scipy: bool = False) -> np.ndarray:
    """The network's results; NumPy's engine uses SciPy or BLAS."""
    cpu_module.SPARSE_DENSITY = float(scipy)
    with parallel.workers(workers):
        return network.ops.apply(network.output, y, N, np.float32)


def thresholds_for(network: Alista, y: np.ndarray) -> np.ndarray:
    """The θ with which the share DENSITY of the entries of each iterate is not zero."""
    found = np.zeros(LAYERS)
    state, _ = network.begin(y)
    for t in range(LAYERS):
        z = network.propose(t, state)[0](1.0, 0.0)
        found[t] = np.quantile(np.abs(z), 1 - DENSITY)
        network.parameters["threshold"][t] = found[t]
        state = network.advance(state, range(t, t + 1))
    return found


def products() -> None:
    """The products of all layers, of samples that are all dense."""
    for rows in (dense[:128], dense[128:]):
        for _ in range(LAYERS):
            np.matmul(rows, square, out=room)


A = cuista.normalize_columns(cuista.random_matrix(M, N))
y = np.random.default_rng(0).standard_normal((SAMPLES, M)).astype(np.float32)
if sys.argv[1:]:  # a process that measures memory
    network = Alista(Dense(A, ops=ENGINES[sys.argv[1]]()), A, layers=LAYERS)
    recover(network, y, workers=2)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    sys.exit()

peaks = {
    name: int(subprocess.run([sys.executable, __file__, name], capture_output=True, check=True).stdout) / 2**10
    for name in ENGINES
}
_, y = cuista.Problem(A, pnz=0.05).sample(SAMPLES)
W = cuista.solve_exact(A).W
networks = {name: Alista(Dense(A, ops=kind()), W, layers=LAYERS) for name, kind in ENGINES.items()}
square, dense = networks["numpy"].couple.factor, np.ones((SAMPLES, N), np.float32)
room = np.empty((128, N), np.float32)
untrained = networks["native"].parameters["threshold"].copy()
with parallel.workers(1), networks["native"].ops.computing():
    sparse = thresholds_for(networks["native"], y)

figures: dict[str, object] = {"work": f"recovery of {SAMPLES} samples, {M}x{N}, T = {LAYERS}, float32"}
for state, theta in (("sparse", sparse), ("untrained", untrained)):
    for network in networks.values():
        network.parameters["threshold"][:] = theta
    found = {name: recover(network, y, scipy=state == "sparse") for name, network in networks.items()}
    difference = np.linalg.norm(found["native"] - found["numpy"]) / np.linalg.norm(found["numpy"])
    works = {
        f"{name}, {workers} {'worker' if workers == 1 else 'workers'}": (
            lambda name=name, workers=workers: recover(
                networks[name.split()[0]], y, workers, scipy=name.endswith("SciPy")
            )
        )
        for name in ("native", "numpy with BLAS", *["numpy with SciPy"][: state == "sparse"])
        for workers in (1, 2)
    }
    works["products by BLAS"] = products
    seconds = {name: min(times) for name, times in side_by_side(works, runs=RUNS, warmup=1).items()}
    figures[state] = {
        "density": networks["native"].density(y[:32], LAYERS),
        "relative_difference": float(difference),
        "milliseconds_per_sample": {name: 1e3 * each / SAMPLES for name, each in seconds.items()},
        **{
            f"times_faster_than_the_best_of_numpy_on_{workers}": min(
                each for name, each in seconds.items() if "numpy" in name and f" {workers} " in name
            )
            / next(each for name, each in seconds.items() if "native" in name and f" {workers} " in name)
            for workers in (1, 2)
        },
        "times_faster_than_products_by_blas": seconds["products by BLAS"] / seconds["native, 1 worker"],
    }
figures["peak_mib_of_a_process"] = peaks
figures["mib_of_one_matrix"] = 4 * N * N / 2**20
save("large", figures, by_width=True)
