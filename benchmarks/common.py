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


def save(name: str, figures: dict[str, Any]) -> None:
    """Print the results and write them to results/NAME.json, together with the machine and the versions used."""
    RESULTS.mkdir(exist_ok=True)
    machine = {"machine": platform.machine(), "python": platform.python_version(), "numpy": np.__version__}
    text = json.dumps({**figures, **machine}, indent=2)
    (RESULTS / f"{name}.json").write_text(text + "\n")
    print(text)
