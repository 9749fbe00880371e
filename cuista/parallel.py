"""Work that is distributed over the threads of this process, and over ranks."""

from __future__ import annotations

import contextlib
import contextvars
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, Protocol, TypeVar

Result = TypeVar("Result")

# The number of rows that a network is applied to at a time: enough for fast matrix products, few enough for the cache.
BATCH = 256
# A matrix product of fewer operations than this gains nothing from a second thread.
SMALL_PRODUCT = 5e8


class Ranks(Protocol):
    """The processes that share a training run. Each computes its rows of every batch, and the results are summed."""

    def share(self, batch: int) -> slice:
        """The rows of a batch that this rank computes."""

    def sum(self, value: Result) -> Result:
        """The result of a step (a loss, and gradients by name), summed over all ranks; each gets the same bits."""


class Alone:
    """The ranks of a run in a single process, which computes all rows itself."""

    def share(self, batch: int) -> slice:
        """All rows of the batch."""
        return slice(0, batch)

    def sum(self, value: Result) -> Result:
        """The value itself, because there is no other rank to add."""
        return value


def processors() -> int:
    """The number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def blas_threads(operations: float) -> Iterator[None]:
    """Let BLAS use one thread in the block if its products have few `operations`, and otherwise as many as it wants.

    Threads that spin while they wait for work make small products slower, by several times on a busy machine. Moreover,
    with one thread the bits of a result do not depend on the number of processors.
    """
    libraries = _blas_libraries("scipy.linalg" in sys.modules, "scipy.sparse" in sys.modules)
    with libraries.limit(limits=1 if operations < SMALL_PRODUCT else None, user_api="blas"):
        yield


@cache
def _blas_libraries(*loaded: bool) -> Any:
    """The BLAS libraries of the process, which are looked for anew when modules are `loaded` that bring one.

    They are looked for as seldom as possible: an interruption that arrives meanwhile is lost, because it would have to
    pass through a callback from C.
    """
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def in_batches(rows: int, work: Callable[[slice], Result], batch: int = BATCH) -> list[Result]:
    """Cut `rows` rows into slices of at most `batch`, and return the results of `work` on them, in order.

    The work is done on all processors, except when this is called from within such work. The threads compute in the
    caller's context, which includes NumPy's error state.
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
    """A pool of threads that is kept, because the threads keep the arrays that they recycle (see `CpuOps`)."""
    return ThreadPoolExecutor(threads, "cuista", initializer=lambda: setattr(_worker, "busy", True))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_workers.cache_clear)  # threads do not survive a fork
