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
# The least number of rows at a time where products are larger than that: fewer would read the matrix too often.
LEAST_BATCH = 64


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


class _Limit:
    """The limit of BLAS to one thread, which holds while any thread of this process wants it.

    The limit belongs to the whole process. If each thread set and restored it by itself, one would lift it while
    another still computes, and might later restore the limit that it had found.
    """

    def __init__(self) -> None:
        self.guard, self.holders = threading.Lock(), 0
        self.limited: list[Any] = []
        self.limiters: list[Any] = []

    def hold(self) -> None:
        """Limit the BLAS libraries that are loaded; those that were loaded since the first holder came, too."""
        with self.guard:
            self.holders += 1
            libraries = _blas_libraries("scipy.linalg" in sys.modules, "scipy.sparse" in sys.modules)
            if not any(libraries is each for each in self.limited):
                _take_control()
                self.limited.append(libraries)
                self.limiters.append(libraries.limit(limits=1, user_api="blas"))

    def release(self) -> None:
        """Lift the limit if nobody else wants it."""
        with self.guard:
            self.holders -= 1
            if self.holders == 0:
                self.limited.clear()
                _take_control()
                while self.limiters:
                    self.limiters.pop().restore_original_limits()
                _take_control()


def _take_control() -> None:
    """Let any thread set the number of BLAS's threads next.

    From version 3.8 on, threadpoolctl lets only the thread do so that was the first to do it, and silently ignores the
    others. Here, the last holder lifts the limit that the first one has set.
    """
    import threadpoolctl

    controller: Any = getattr(threadpoolctl, "OpenBLASController", None)
    clear = getattr(controller, "clear_controlling_thread", None)
    if clear is not None:
        clear(force=True)


_limit = _Limit()


@contextlib.contextmanager
def blas_threads(operations: float) -> Iterator[None]:
    """Let BLAS use one thread in the block if its products have few `operations`, and otherwise as many as it wants.

    Threads that spin while they wait for work make small products slower, by several times on a busy machine. Moreover,
    with one thread the bits of a result do not depend on the number of processors.
    """
    if operations >= SMALL_PRODUCT:
        yield
        return
    _limit.hold()
    try:
        yield
    finally:
        _limit.release()


@cache
def _blas_libraries(*loaded: bool) -> Any:
    """The BLAS libraries of the process, which are looked for anew when modules are `loaded` that bring one.

    They are looked for as seldom as possible: an interruption that arrives meanwhile is lost, because it would have to
    pass through a callback from C.
    """
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def batch_for(length: int) -> int:
    """The number of rows at a time for results of this length, from products with matrices up to length × length."""
    return max(LEAST_BATCH, min(BATCH, int(SMALL_PRODUCT / (2 * max(length, 1) ** 2))))


def in_batches(rows: int, work: Callable[[slice], Result], batch: int = BATCH) -> list[Result]:
    """Cut `rows` rows into slices of at most `batch`, and return the results of `work` on them, in order.

    The work is done on all processors, except when this is called from within such work. The threads compute in the
    caller's context, which includes NumPy's error state. BLAS uses one thread for each slice, so that the bits of the
    results depend neither on the number of processors nor on what other threads of the process compute meanwhile.
    """
    slices = [slice(first, min(first + batch, rows)) for first in range(0, rows, batch)]
    if getattr(_worker, "busy", False):
        return [work(part) for part in slices]
    with blas_threads(0):
        if min(processors(), len(slices)) < 2:
            return [work(part) for part in slices]
        contexts = [contextvars.copy_context() for _ in slices]
        return list(_workers(processors()).map(lambda context, part: context.run(work, part), contexts, slices))


_worker = threading.local()


@cache
def _workers(threads: int) -> ThreadPoolExecutor:
    """A pool of threads that is kept, because the threads keep the arrays that they recycle (see `CpuOps`)."""
    return ThreadPoolExecutor(threads, "cuista", initializer=lambda: setattr(_worker, "busy", True))


def _after_fork() -> None:
    """Forget what belongs to threads, which do not survive a fork; one of them may have held the guard."""
    _workers.cache_clear()
    _limit.guard = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
