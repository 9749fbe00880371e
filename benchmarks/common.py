"""Tools that the benchmarks share: timing side by side, and saving results as JSON."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from cuista.kernels import native

from cuista.data.dictionary import Dictionary, random_dictionary
from cuista.metrics import PictureReport
from cuista.ops import ReferenceOps
from cuista.tasks.denoising import Denoiser
from cuista.weights import solve_conv

RESULTS = Path(__file__).parent / "results"


def side_by_side(
    works: dict[str, Callable[[], Any]], *, runs: int, warmup: int = 3, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Time pieces of work in seconds. They run in turn, so that a drift of the machine's speed affects all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for run in range(warmup + runs):
        for name, work in works.items():
            start = clock()
            work()
            if run >= warmup:
                seconds[name].append(clock() - start)
    return seconds


def ratio(slow: list[float], fast: list[float]) -> float:
    """How many times faster `fast` is than `slow`: the median over the runs of the ratio of their times."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def of_size(report: PictureReport, side: int) -> dict[str, float]:
    """The mean PSNR in dB by method over the pictures of side×side pixels."""
    chosen = [shape == (side, side) for shape in report.shapes]
    return dict(zip(report.methods, report.psnr_db[chosen].mean(axis=0).round(2).tolist(), strict=True))


def smooth_crops(count: int, side: int, sigma: float = 25 / 255) -> tuple[np.ndarray, np.ndarray]:
    """Crops that are smooth as pictures are, (count, side, side) in float32, and the same with noise."""
    rng = np.random.default_rng(0)
    clean = rng.random((count, side, side)).astype(np.float32)
    clean = np.cumsum(np.cumsum(clean - clean.mean(axis=(1, 2), keepdims=True), axis=1), axis=2)
    clean *= 0.2 / clean.std()
    return clean, clean + np.float32(sigma) * rng.standard_normal(clean.shape).astype(np.float32)


def conv_csc(size: int, filters: int, stride: int, layers: int, ops: ReferenceOps | None = None) -> Any:
    """A Conv-CSC that computes what the Conv-ALISTA does with which its training begins."""
    weight = solve_conv(Dictionary(random_dictionary((size, size), filters)), stride=stride)
    network = Denoiser.new(weight, "conv-csc", layers=layers, ops=ops).network
    precursor = network.precursor()
    precursor.parameters = precursor.fast_start()
    network.adopt(precursor)
    return network


def save(name: str, figures: dict[str, Any], *, by_width: bool = False) -> None:
    """Print the results and write them to results/NAME.json, together with the machine and the versions used.

    With `by_width`, the file has results for each vector width that was measured, by name (`avx2`, `avx512`, …), and
    only those for this machine's width are replaced.
    """
    machine = {"machine": platform.machine(), "python": platform.python_version(), "numpy": np.__version__}
    print(json.dumps({**figures, **machine}, indent=2))
    file, results = RESULTS / f"{name}.json", {**figures, **machine}
    if by_width:
        others = json.loads(file.read_text()) if file.exists() else {}
        results = dict(sorted({**others, native.library().width: results}.items()))
    RESULTS.mkdir(exist_ok=True)
    file.write_text(json.dumps(results, indent=2) + "\n")
