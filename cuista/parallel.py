"""Work that is distributed over the threads of this process."""

from __future__ import annotations

import contextlib
import contextvars
import math
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from cuista.errors import InputError
from cuista.summary import counted

Result = TypeVar("Result")

# The number of rows that a network is applied to at a time: enough for fast matrix products, few enough for the cache.
BATCH = 256
# A matrix product of fewer operations than this gains nothing from a second thread.
SMALL_PRODUCT = 5e8
# The environment variable with the number of workers.
WORKERS = "CUISTA_WORKERS"
# The least number of rows at a time where products are larger than that: fewer would read the matrix too often.
LEAST_BATCH = 128


# -- how many threads compute -----------------------------------------------------------------------------------------


def processors() -> int:
    """The number of threads that compute: that of the last block of `workers`, CUISTA_WORKERS, or what is allowed.

    Raises
    ------
    InputError
        If CUISTA_WORKERS is not a whole number of 1 or more.
    """
    if _blocks:
        return _blocks[-1][0]
    given = os.environ.get(WORKERS, "")
    if not given:
        return allowance().workers
    if not given.isascii() or not given.isdigit() or int(given) < 1:
        raise InputError(f"{WORKERS} is {given!r}; expected a whole number, 1 or greater, or leave it unset")
    return int(given)


# The numbers of the blocks of `workers` that have not ended, the last to be entered at the end.
_blocks: list[list[int]] = []


@contextlib.contextmanager
def workers(count: int | None = None) -> Iterator[None]:
    """Compute with this many threads in the block, with one thread in BLAS; None leaves the number as it is.

    The number holds for the whole process. Among blocks of several threads, that which was entered last decides.
    Results have the same bits for any number.

    Raises
    ------
    InputError
        If the number, or CUISTA_WORKERS where that decides, is not a whole number of 1 or more.
    """
    if count is not None and (not hasattr(count, "__index__") or count < 1):
        raise InputError(f"the number of workers is {count!r}; expected a whole number, 1 or greater", option="workers")
    block = [processors() if count is None else int(count)]
    if count is not None:
        _blocks.append(block)
    try:
        with one_blas_thread():
            yield
    finally:
        if count is not None:
            _blocks[:] = [other for other in _blocks if other is not block]


@dataclass(frozen=True)
class Allowance:
    """What this process may use of the machine.

    Attributes
    ----------
    processors
        The number of processors that it may run on.
    cores
        The number of physical cores that these belong to.
    quota
        The number of processors whose time its control groups allow it to use; infinite without a limit.
    """

    processors: int
    cores: int
    quota: float = math.inf

    @property
    def workers(self) -> int:
        """One thread for each core, or for each processor that the quota allows, rounded up, if these are fewer."""
        return self.cores if self.quota >= self.cores else max(math.ceil(self.quota), 1)

    def __str__(self) -> str:
        """What decides the number of workers."""
        text = f"the process may use {counted(self.processors, 'processor')}"
        if self.cores < self.processors:
            text += f" on {counted(self.cores, 'core')}"
        return text if math.isinf(self.quota) else f"{text}, and the time of {self.quota:g} (cgroup)"


def allowance() -> Allowance:
    """What this process may use of the machine. Limits other than its affinity are looked up once."""
    if not hasattr(os, "sched_getaffinity"):  # macOS and Windows do not tell which processors share a core
        count: int = getattr(os, "process_cpu_count", os.cpu_count)() or 1
        return Allowance(count, count)
    return _allowance(frozenset(os.sched_getaffinity(0)))


@cache
def _allowance(allowed: frozenset[int], system: Path = Path("/")) -> Allowance:
    """What Linux allows to a process with this affinity. `system` is the root of its files."""
    topology = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    cores = {_text(system / topology.format(number)) or number for number in allowed}
    return Allowance(len(allowed), len(cores), min(_quotas(system), default=math.inf))


def _quotas(system: Path) -> Iterator[float]:
    """The limits of the control groups that this process belongs to, in processors.

    A line of /proc/self/cgroup is NUMBER:CONTROLLERS:PATH; for version 2 of control groups, it is 0::PATH. The limits
    of all groups around a group hold, too. In a container, the path may be one that only the host has; then the limits
    of the container are at the top.
    """
    top = system / "sys/fs/cgroup"
    for line in _text(system / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        for mounted in {"cpu", controllers} if controllers else ("",):
            group = Path(os.path.normpath(f"{top / mounted}/{path}"))
            for folder in (group, *group.parents):
                if not folder.is_relative_to(top / mounted):
                    break
                quota, period = (
                    (_text(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
                    if controllers
                    else (_text(folder / "cpu.max").split() or ("", ""))
                )
                if quota.isdigit() and period.isdigit():  # otherwise max, −1 or nothing: there is no limit
                    yield int(quota) / int(period)


def _text(path: Path) -> str:
    """The text of a file of the system without the end of its line; empty if it cannot be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


# -- BLAS -------------------------------------------------------------------------------------------------------------


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
            libraries = _blas_libraries("scipy.linalg" in sys.modules, "scipy.sparse" in sys.modules)
            if not any(libraries is each for each in self.limited):
                _take_control()
                self.limited.append(libraries)
                self.limiters.append(libraries.limit(limits=1, user_api="blas"))
            self.holders += 1

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
def one_blas_thread() -> Iterator[None]:
    """Let BLAS use one thread in the block, so that the bits of a result do not depend on the number of processors.

    Moreover, threads that spin while they wait for work make small products slower, by several times on a busy machine.
    Large products are shared out in parts (`cuista.ops.cpu.product`).
    """
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


# -- work that is shared out ------------------------------------------------------------------------------------------


def batch_for(length: int) -> int:
    """The number of rows at a time for results of this length, from products with matrices up to length × length."""
    return max(LEAST_BATCH, min(BATCH, int(SMALL_PRODUCT / (2 * max(length, 1) ** 2))))


def in_batches(rows: int, work: Callable[[slice], Result], batch: int = BATCH) -> list[Result]:
    """Cut `rows` rows into slices of at most `batch`, and return the results of `work` on them, in order.

    The work is done on all processors, except when this is called from within such work. The calling thread takes part,
    for to wake up another one takes about as long as a small slice. All compute in the caller's context, which includes
    NumPy's error state. BLAS uses one thread for each slice, so that the bits of the results depend neither on the
    number of processors nor on what other threads of the process compute meanwhile.
    """
    slices = [slice(first, min(first + batch, rows)) for first in range(0, rows, batch)]
    if is_shared_out():
        return [work(part) for part in slices]
    count, waiting, results = processors(), [*enumerate(slices)][::-1], dict[int, Result]()

    def take_turns() -> None:
        while True:
            try:
                number, part = waiting.pop()
            except IndexError:
                return
            try:
                results[number] = work(part)
            except BaseException:
                waiting.clear()  # the others need not go on
                raise

    with one_blas_thread():
        helpers: list[Future[None]] = []
        others = min(count, len(slices)) - 1
        try:
            for _ in range(others):
                helpers.append(_workers(count - 1).submit(contextvars.copy_context().run, take_turns))
            _worker.busy = others > 0
            take_turns()
            for helper in helpers:
                if not helper.cancel():  # one that has not begun, for other callers keep it waiting, has nothing to do
                    helper.result()
        except BaseException:  # nobody may change the arrays that are still read or written, or lift BLAS's limit
            waiting.clear()
            wait([helper for helper in helpers if not helper.cancel()])
            raise
        finally:
            _worker.busy = False
    return [results[number] for number in range(len(slices))]


def summed(parts: list[Result], add: Callable[[Result, Result], Result]) -> Result:
    """The sum of one or more parts along a binary tree, so that its bits depend on their order alone.

    The sum of parts i … j − 1 is that of i … k − 1 plus that of k … j − 1, where k − i is the largest power of two
    below j − i. `add` may change its first argument. See `cuista.ranks` for the sum over several processes.
    """
    while len(parts) > 1:
        pairs = zip(parts[::2], parts[1::2], strict=False)
        parts = [add(a, b) for a, b in pairs] + (parts[-1:] if len(parts) % 2 else [])
    return parts[0]


def is_shared_out() -> bool:
    """Whether this is called from within work that is already shared out to threads."""
    return bool(getattr(_worker, "busy", False))


def spare() -> int:
    """How many threads a library may use that is called here: one within work that is already shared out."""
    return 1 if is_shared_out() else processors()


_worker = threading.local()


@cache
def _workers(threads: int) -> ThreadPoolExecutor:
    """A pool of threads that work beside the calling one, kept because they keep arrays to recycle (see `CpuOps`).

    A thread that no signal interrupts starts them all. An interruption between the start of a thread and its entry in
    Python's list of those that are to end with the process would leave a process that never ends.
    """
    pool = ThreadPoolExecutor(threads, "cuista", initializer=lambda: setattr(_worker, "busy", True))
    together = threading.Barrier(threads)

    def start_all() -> None:
        try:
            wait([pool.submit(together.wait) for _ in range(threads)])
        except RuntimeError:  # the process is about to end, or has no room for so many threads
            together.abort()

    starter = threading.Thread(target=start_all)
    starter.start()
    starter.join()
    return pool


def _after_fork() -> None:
    """Forget what belongs to threads, which do not survive a fork; one of them may have held the guard."""
    _workers.cache_clear()
    _limit.guard = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
