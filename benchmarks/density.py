"""Time products with sparse rows in every way that the CPU's engines have, to see above which density dense ones win.

    pip install . && python benchmarks/density.py

`sparse` and `blas` are the ways of `NativeOps.sparse_matmul`, `scipy` and `blas` those of `CpuOps`, and `layer, sparse`
and `layer, dense` those of whole layers of ALISTA. Times are the least of many, in µs, on one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from itertools import product

import numpy as np
from common import save, side_by_side
from cuista.kernels import native

from cuista import parallel
from cuista.ops import CpuOps, NativeOps
from cuista.ops import cpu as cpu_module
from cuista.ops import native as native_module

DENSITIES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.8, 1.0)

# Both engines multiply what they are given as sparse.
cpu_module.SPARSE_DENSITY = native_module.SPARSE_DENSITY = 1.0
rng = np.random.default_rng(0)


def ways(library: native.Library, a: np.ndarray, b: np.ndarray) -> dict[str, Callable[[], object]]:
    """The ways to multiply a and b."""
    numpy, sparse, dense = CpuOps(), NativeOps(library, 1.0), NativeOps(library, 0.0)
    found = {
        "sparse": partial(sparse.sparse_matmul, a, b),
        "scipy": partial(numpy.sparse_matmul, a, b),
        "blas": partial(numpy.matmul, a, b),
    }
    if a.shape[1] == b.shape[1]:
        layer = (a, a, sparse.pack(b), np.ones(1), np.full(1, np.inf), (0,))
        found["layer, sparse"] = partial(sparse.analytic_layers, *layer)
        found["layer, dense"] = partial(dense.analytic_layers, *layer)
    return found


figures: dict[str, object] = {"densities": DENSITIES}
for width, dtype in product(native.library().widths, (np.float32, np.float64)):
    library = native.Library(native.installed(), width)
    figures[f"{width}, {dtype.__name__}, measured"] = NativeOps(library)._dense_from(np.dtype(dtype))
    for inner, columns in ((500, 500), (500, 250), (250, 500)):
        b = rng.standard_normal((inner, columns)).astype(dtype)
        values, place = rng.standard_normal((64, inner)).astype(dtype), rng.random((64, inner))
        found: dict[str, list[float]] = {}
        for density in DENSITIES:
            a = np.where(place < density, values, 0).astype(dtype)
            with parallel.one_blas_thread():
                times = side_by_side(ways(library, a, b), runs=20, clock=time.thread_time)
            for way, seconds in times.items():
                found.setdefault(way, []).append(round(1e6 * min(seconds)))
        figures[f"{width}, {dtype.__name__}, 64×{inner}×{columns}"] = found

save("density", figures, by_width=True)
