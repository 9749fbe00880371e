"""Which device computes, and with how many threads.

This version has the NumPy engine alone. A request for a GPU is answered with the reason, never by a silent
fallback: `parse_device("cuda:0")` raises, and `parse_device("auto")` is the CPU.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from cuista.errors import DeviceError

Result = TypeVar("Result")

# Rows at a time when a network is applied: enough to fill the matrix products, few enough to stay in cache.
BATCH = 256
# A product of fewer operations than this gains nothing from a second thread.
SMALL_PRODUCT = 5e8


@dataclass(frozen=True)
class Device:
    """A place to compute: `Device("cpu")`."""

    name: str

    def __str__(self) -> str:
        return self.name


def parse_device(text: str) -> Device:
    """The device that `auto`, `cpu` or `cuda:N` names.

    Raises
    ------
    DeviceError
        If the text is none of these, or names a device that this version cannot use.
    """
    if text in ("auto", "cpu"):
        return Device("cpu")
    if re.fullmatch(r"cuda(:\d+)?", text):
        raise DeviceError(
            f"device {text!r} cannot be used: this version of cuista has no CUDA engine yet. "
            "Use --device cpu (or auto)."
        )
    raise DeviceError(f"unknown device {text!r}: expected auto, cpu or cuda:N")


@contextlib.contextmanager
def blas_threads(operations: float) -> Iterator[None]:
    """One BLAS thread while products are small, as many as BLAS wants when they have `operations` or more.

    Threads that spin for work slow small products down, by several times when the machine has other work to do; and
    with one thread the bits of a result do not depend on how many processors there are.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1 if operations < SMALL_PRODUCT else None, user_api="blas"):
        yield


def in_batches(rows: int, work: Callable[[slice], Result]) -> list[Result]:
    """The results of `work` on each slice of at most BATCH of the rows, in order, computed on all processors."""
    slices = [slice(first, min(first + BATCH, rows)) for first in range(0, rows, BATCH)]
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if min(processors, len(slices)) < 2:
        return [work(part) for part in slices]
    with blas_threads(0), ThreadPoolExecutor(min(processors, len(slices))) as executor:
        return list(executor.map(work, slices))
