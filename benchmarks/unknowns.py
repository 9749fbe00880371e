"""The memory and the error of an ALISTA without a matrix, by the number of unknowns.

    pip install '.[operators]' && python benchmarks/unknowns.py

Signals are sparse in a basis of wavelets (db4), and two fifths of their Fourier coefficients are measured, without
noise. Six layers are trained with batches of two signals, and then tested on two others. Each size has a process of its
own, by one thread. Results are written to benchmarks/results/unknowns.json.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from dataclasses import replace
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
from common import save

import cuista
from cuista import parallel
from cuista.metrics import nmse_db
from cuista.operators import Composition, Fourier, Wavelet, random_mask

SIDES, LAYERS = (256, 512, 1024), 6


def peak() -> float:
    """The peak of this process's memory in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def measured(side: int) -> dict[str, Any]:
    """The figures for pictures of side×side unknowns."""
    before, shape = peak(), (side, side)
    transform = Fourier(shape, random_mask(shape, 0.4, power=1.0), dtype=np.float32)
    problem = cuista.Problem(Composition(transform, Wavelet(shape, "db4", 4, dtype=np.float32)), pnz=0.03)
    model = cuista.Model.new(problem, layers=LAYERS)
    sized = cuista.FastRecipe().sized(problem.N)
    with parallel.workers(1):
        cuista.train(model, replace(sized, batch=2, validation_batch=8, layer_steps=4, max_steps=40))
        x, y = problem.sample(2)
        model.recover(y)
    error = float(nmse_db(model.network, x, y, LAYERS))
    return {"unknowns": problem.N, "nmse_db": round(error, 1), "before_mib": round(before), "peak_mib": round(peak())}


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measured(int(sys.argv[1]))))
    else:
        command = [sys.executable, __file__]
        runs = [subprocess.run([*command, str(side)], capture_output=True, check=True).stdout for side in SIDES]
        save("unknowns", {"layers": LAYERS, "batch": 2, "sizes": [json.loads(run) for run in runs]})
