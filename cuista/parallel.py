"""Work shared out: to the threads of this process, and to ranks."""

from __future__ import annotations

import contextlib
import contextvars
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Protocol, TypeVar

Result = TypeVar("Result")

# Rows at a time when a network is applied: enough to fill the matrix products, few enough to stay in cache.
BATCH = 256
# A product of fewer operations than this gains nothing from a second thread.
SMALL_PRODUCT = 5e8


class Ranks(Protocol):
    """The processes that share a training run: each computes with its rows of every batch."""

    def share(self, batch: int) -> slice:
        """The rows of a batch that are this rank's."""

    def sum(self, value: Result) -> Result:
        """The sum of the values that the ranks have, numbers or arrays: the same bits on every rank."""


class Alone:
    """The only rank."""

    def share(self, batch: int) -> slice:
        """All rows."""
        return slice(0, batch)

    def sum(self, value: Result) -> Result:
        """The value itself."""
        return value


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def blas_threads(operations: float) -> Iterator[None]:
    """One BLAS thread while products are small, as many as BLAS wants when they have `operations` or more.

    Threads that spin for work slow small products down, by several times when the machine has other work to do; and
    with one thread the bits of a result do not depend on how many processors there are.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1 if operations < SMALL_PRODUCT else None, user_api="blas"):
        yield


def in_batches(rows: int, work: Callable[[slice], Result], batch: int = BATCH) -> list[Result]:
    """The results of `work` on each slice of at most `batch` of the rows, in order, computed on all processors.

    Threads compute in the caller's context, of which NumPy's error state is a part.
    """
    slices = [slice(first, min(first + batch, rows)) for first in range(0, rows, batch)]
    if min(processors(), len(slices)) < 2 or getattr(_worker, "busy", False):
        return [work(part) for part in slices]
    contexts = [contextvars.copy_context() for _ in slices]
    with blas_threads(0):
        return list(_workers(processors()).map(lambda context, part: context.run(work, part), contexts, slices))


_worker = threading.local()


@cache
def _workers(threads: int) -> ThreadPoolExecutor:
    """Threads that stay, so that the arrays which they recycle do (see `CpuOps`)."""
    return ThreadPoolExecutor(threads, "cuista", initializer=lambda: setattr(_worker, "busy", True))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_workers.cache_clear)  # a child has none of its parent's threads
