"""Time products with sparse rows in every way that the CPU's engines have, to see above which density dense ones win.

    pip install . && python benchmarks/density.py

`sparse` and `blas` are the ways of `NativeOps.sparse_matmul`, `scipy` and `blas` those of `CpuOps`, and `layer, sparse`
and `layer, dense` those of whole layers of ALISTA. `NativeOps.matmul_where` computes the wanted entries `one by one`,
or all of them by `blas`; the density is the share that is wanted. `NativeOps.adam_outer` forms the gradients of 16
layers `by rows`, a few at a time, or `whole`. Times are the least of many, in µs, on one thread. `… is faster than …
below` is the density at which both are equally fast, by interpolation.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product

import numpy as np
from common import save, side_by_side
from cuista.kernels import native

from cuista import parallel
from cuista.ops import CpuOps, NativeOps, OuterSum, ReferenceOps
from cuista.ops import cpu as cpu_module
from cuista.ops import native as native_module
from cuista.ops.reference import Descent

DENSITIES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.8, 1.0)
BATCH, LAYERS, RUNS = 64, 16, 20
PAIRS = (("sparse", "blas"), ("scipy", "blas"), ("layer, sparse", "layer, dense"))
PAIRS += (("one by one", "blas"), ("by rows", "whole"))

# Both engines take whatever they are given as sparse.
cpu_module.SPARSE_DENSITY = native_module.SPARSE_DENSITY = 1.0
native_module.WANTED_DENSITY = native_module.OUTER_DENSITY = 1.0
rng = np.random.default_rng(0)
Ways = dict[str, Callable[[], object]]


def products(library: native.Library, a: np.ndarray, b: np.ndarray) -> Ways:
    """The ways to multiply a, which is sparse, and b."""
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


def products_where(library: native.Library, a: np.ndarray, b: np.ndarray, where: np.ndarray) -> Ways:
    """The ways to compute some entries of the product of a and b."""
    ops, transposed = NativeOps(library), np.ascontiguousarray(b.T)
    return {"one by one": partial(ops.matmul_where, a, b, transposed, where), "blas": partial(ops.matmul, a, b)}


def descents(library: native.Library, a: np.ndarray, b: np.ndarray) -> Ways:
    """The ways of Adam's update of matrices by the gradients aᵀ b, where a is sparse."""
    ops, (parameter, mean, square) = NativeOps(library), np.ones((3, LAYERS, a.shape[1], b.shape[1]), a.dtype)
    update = (parameter, [[OuterSum(a, b)]] * LAYERS, mean, square, Descent(0.0, np.ones(LAYERS), 1.0, False))
    return {"by rows": partial(ops.adam_outer, *update), "whole": partial(ReferenceOps.adam_outer, ops, *update)}


def works(library: native.Library, dtype: type) -> Iterator[tuple[str, Callable[[float], Ways]]]:
    """The pieces of work, and their ways as functions of the density."""

    def sparse(inner: int) -> Callable[[float], np.ndarray]:
        values, place = rng.standard_normal((BATCH, inner)), rng.random((BATCH, inner))
        return lambda density: np.where(place < density, values, 0).astype(dtype)

    for inner, columns in ((500, 500), (500, 250), (250, 500)):
        a, b = sparse(inner), rng.standard_normal((inner, columns)).astype(dtype)
        yield f"{BATCH}×{inner}×{columns}", lambda density, a=a, b=b: products(library, a(density), b)
    a, where, dense = sparse(500), sparse(500), rng.standard_normal((BATCH, 250)).astype(dtype)
    b = rng.standard_normal((250, 500)).astype(dtype)
    yield (
        f"matmul_where {BATCH}×250×500",
        lambda density: products_where(library, dense, b, (where(density) != 0).astype(np.int8)),
    )
    yield f"adam_outer {LAYERS}×500×{BATCH}×250", lambda density: descents(library, a(density), dense)


def crossing(first: list[float], second: list[float]) -> float:
    """The density below which the first of two ways is faster."""
    gain = np.log(second) - np.log(first)
    if (gain > 0).all() or (gain < 0).all():
        return float(gain[0] > 0)
    last = int(np.flatnonzero(gain > 0)[-1])  # the gain falls with the density
    return round(float(np.interp(0, -gain[last : last + 2], DENSITIES[last : last + 2])), 3)


figures: dict[str, object] = {"densities": DENSITIES}
for width, dtype in product(native.library().widths, (np.float32, np.float64)):
    library = native.Library(native.installed(), width)
    figures[f"{width}, {dtype.__name__}, measured"] = NativeOps(library)._dense_from(np.dtype(dtype))
    for name, ways in works(library, dtype):
        times: dict[str, list[float]] = {}
        with parallel.workers(1):
            for density in DENSITIES:
                for way, seconds in side_by_side(ways(density), runs=RUNS, clock=time.thread_time).items():
                    times.setdefault(way, []).append(1e6 * min(seconds))
        figures[f"{width}, {dtype.__name__}, {name}"] = {
            **{way: [round(each) for each in values] for way, values in times.items()},
            **{f"{a} is faster than {b} below": crossing(times[a], times[b]) for a, b in PAIRS if {a, b} <= {*times}},
        }

save("density", figures, by_width=True)
