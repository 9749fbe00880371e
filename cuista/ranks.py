"""Work that is distributed over the processes of an MPI job, its ranks.

All ranks run the same program on the same inputs. They share out what takes long: the shards of a training batch, the
parts of a validation, the runs of a comparison. Every rank receives all results, so that all take the same decisions.
The first rank alone writes files and talks. Results have the same bits for any number of ranks, because the shards are
the same and are summed along the same tree, whoever computes them; MPI's own sums promise no order and are not used.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol, TypeVar, cast

import numpy as np

from cuista import parallel
from cuista.checks import Array
from cuista.errors import FileError, InputError, MissingLibraryError, NumericalError

Result = TypeVar("Result")

# How long a rank that has failed waits for the others to fail too, before it ends them all, in seconds.
GRACE = 5.0
# How long a rank waits for another before it asks the system to run something else, and before it sleeps, in seconds.
AWAKE, NAP = 0.002, 0.0002


class Messages(Protocol):
    """What carries messages between ranks: MPI, or in tests the threads of a process.

    Attributes
    ----------
    rank, size
        The number of this rank, and how many there are.
    """

    rank: int
    size: int

    def swap(self, sent: Array, to: Sequence[int], source: int | None = None, room: Array | None = None) -> None:
        """Send bytes to these ranks, and meanwhile fill the room with as many from the source, if there is one."""

    def gather(self, part: bytes) -> list[bytes]:
        """The bytes that each rank has given, in the order of the ranks; all ranks call this together."""

    def end(self, status: int) -> list[int] | None:
        """The exit statuses of all ranks, each of which calls this at its end.

        A rank that has failed waits for the others for `GRACE` seconds only, and returns None if they do not come:
        they wait for what this rank does not send any more.
        """

    def abort(self, status: int) -> None:
        """End all ranks at once."""


class Ranks:
    """The ranks among which work is shared out; this class is that of a process that works alone.

    Attributes
    ----------
    rank, size
        The number of this rank from 0 on, and how many there are.
    """

    rank, size = 0, 1

    @property
    def first(self) -> bool:
        """Whether this rank writes files and talks."""
        return self.rank == 0

    def share(self, shards: int) -> range:
        """The shards of a step, out of so many, that this rank computes; there may be none."""
        return range(shards)

    def sum(self, arrays: list[Array], shards: int, xp: Any = np) -> None:
        """Add up what the ranks have computed of the shards, in place. All ranks get the same bits.

        `arrays` are those that this rank has for its share, summed along the tree. A rank without a share gives arrays
        of the same shapes and dtypes, whose values do not matter. `xp` is their module. Those on GPUs are exchanged by
        NCCL if each rank has a GPU of its own, and otherwise through host memory.
        """

    def gathered(self, parts: int, work: Callable[[range], list[Result]]) -> list[Result]:
        """The results of `work` on parts 0 … `parts` − 1, in order, where each rank has done its share of them.

        A result is an array, a number or a tuple of numbers; from several ranks come arrays.
        """
        return work(range(parts))

    def agreed(self, value: Callable[[], Result]) -> Result:
        """What the function returns in the first rank, which alone calls it: anything that JSON can express."""
        return value()

    def spread(self, jobs: Sequence[Callable[[], Result]]) -> list[Result]:
        """The results of jobs, each of which one rank does alone: anything that JSON can express.

        A rank that does one is not among others meanwhile: it may write files of its own.
        """
        return [job() for job in jobs]

    def compare(self, digest: str, what: str) -> None:
        """Raise NumericalError if this digest of `what` is not the same in all ranks."""

    def end(self, status: int) -> list[int] | None:
        """The exit statuses of all ranks, each of which calls this at its end: see `Messages.end`."""
        return [status]

    def abort(self, status: int) -> None:
        """End all ranks at once with this exit status."""


class Several(Ranks):
    """Ranks that exchange messages."""

    def __init__(self, messages: Messages) -> None:
        self.messages, self.rank, self.size = messages, messages.rank, messages.size
        self._nccl: list[Nccl | None] = []  # once that is known

    def share(self, shards: int) -> range:
        node = _Node(0, shards, 0, self.size)
        while node.halves:
            node = next(half for half in node.halves if half.first <= self.rank < half.last)
        return range(node.begin, node.end) if self.rank == node.first else range(0)

    def sum(self, arrays: list[Array], shards: int, xp: Any = np) -> None:
        if xp is not np and not self._nccl:
            self._nccl.append(_nccl_for(self))
        messages: Any = self.messages if xp is np else self._nccl[0]
        if messages is None:
            hosted = [each.get() for each in cast(Any, arrays)]
            self.sum(hosted, shards)
            for array, host in zip(arrays, hosted, strict=True):
                cast(Any, array).set(host)
            return
        path = [_Node(0, shards, 0, self.size)]
        while path[-1].halves:
            path.append(next(half for half in path[-1].halves if half.first <= self.rank < half.last))
        # A GPU reads numbers of 8 bytes only at multiples of 8: they come first in messages.
        arrays = sorted(arrays, key=lambda each: -each.dtype.itemsize)
        room = xp.empty(sum(each.nbytes for each in arrays), np.uint8)
        leaf = path.pop()
        if leaf.last - leaf.first > 1:  # the first of these ranks has computed, and the others have not
            self._copy_from(messages, leaf, arrays, room, xp)
        for node in reversed(path):
            self._add_across(messages, node, arrays, room, xp)

    def _copy_from(self, messages: Any, leaf: _Node, arrays: list[Array], room: Array, xp: Any) -> None:
        """Give the arrays of a leaf's first rank to its other ranks."""
        others = range(leaf.first + 1, leaf.last)
        if self.rank == leaf.first:
            messages.swap(_joined(xp, arrays), others)
            return
        messages.swap(room, [], leaf.first, room)
        for array, found in zip(arrays, _parted(room, arrays), strict=True):
            array[...] = found

    def _add_across(self, messages: Any, node: _Node, arrays: list[Array], room: Array, xp: Any) -> None:
        """Add the sums of a node's two halves, which all ranks of each half have.

        Ranks are paired. If one half has more of them, a rank of the other half answers several. Both partners compute
        the same bits, because a + b = b + a.
        """
        left, right = node.halves
        own, other = (left, right) if self.rank < left.last else (right, left)
        size, others = own.last - own.first, other.last - other.first
        place = self.rank - own.first
        to = [other.first + each for each in range(others) if each % size == place]
        messages.swap(_joined(xp, arrays), to, other.first + place % others, room)
        for array, found in zip(arrays, _parted(room, arrays), strict=True):
            array += found

    def gathered(self, parts: int, work: Callable[[range], list[Result]]) -> list[Result]:
        bounds = [parts * rank // self.size for rank in range(self.size + 1)]
        found = [np.asarray(result) for result in work(range(bounds[self.rank], bounds[self.rank + 1]))]
        about = json.dumps([(each.dtype.str, each.shape) for each in found]).encode()
        message = len(about).to_bytes(8, "little") + about + b"".join(each.tobytes() for each in found)
        results: list[Any] = []
        for content in self.messages.gather(message):
            length = 8 + int.from_bytes(content[:8], "little")
            place = length
            for dtype, shape in json.loads(content[8:length]):
                count = int(np.prod(shape))
                array = np.frombuffer(content, dtype, count, place).reshape(shape)
                results.append(array.copy())
                place += array.nbytes
        return results

    def agreed(self, value: Callable[[], Result]) -> Result:
        try:
            found = json.dumps(value()).encode() if self.first else b""
        except BaseException:
            self.messages.gather(b"")
            raise
        decided = self.messages.gather(found)[0]
        if not decided:
            raise FileError("the first rank has failed")  # and says why
        agreed: Result = json.loads(decided)
        return agreed

    def spread(self, jobs: Sequence[Callable[[], Result]]) -> list[Result]:
        with among(_ALONE):
            own = [job() for job in jobs[self.rank :: self.size]]
        found = [json.loads(each) for each in self.messages.gather(json.dumps(own).encode())]
        return [found[number % self.size][number // self.size] for number in range(len(jobs))]

    def end(self, status: int) -> list[int] | None:
        return self.messages.end(status)

    def abort(self, status: int) -> None:
        self.messages.abort(status)

    def compare(self, digest: str, what: str) -> None:
        found = [each.decode() for each in self.messages.gather(digest.encode())]
        usual = max(found, key=found.count)
        others = [str(rank) for rank, each in enumerate(found) if each != usual]
        if others:
            raise NumericalError(
                f"{what} of {'rank' if len(others) == 1 else 'ranks'} {', '.join(others)} of {self.size} are not those "
                "of the others, although all compute the same: use the same kind of processor and the same libraries "
                "everywhere, and test the memory of these machines"
            )


class _Node(NamedTuple):
    """Shards `begin` … `end` − 1, which are computed by the ranks `first` … `last` − 1."""

    begin: int
    end: int
    first: int
    last: int

    @property
    def halves(self) -> tuple[_Node, ...]:
        """The two nodes whose sum this is, with the ranks shared out to them; none for a single shard or rank."""
        shards, ranks = self.end - self.begin, self.last - self.first
        if shards < 2 or ranks < 2:
            return ()
        most = 1 << (shards - 1).bit_length() - 1  # the largest power of two below
        left = min(max(round(ranks * most / shards), 1), ranks - 1)
        middle = self.begin + most, self.first + left
        return _Node(self.begin, middle[0], self.first, middle[1]), _Node(middle[0], self.end, middle[1], self.last)


def _joined(xp: Any, arrays: list[Array]) -> Array:
    """The bytes of several arrays in one message."""
    joined: Array = xp.concatenate([xp.ascontiguousarray(each).reshape(-1).view(np.uint8) for each in arrays])
    return joined


def _parted(room: Array, arrays: list[Array]) -> Iterator[Array]:
    """The arrays in a message, which have the shapes and dtypes of the given ones."""
    place = 0
    for each in arrays:
        yield room[place : place + each.nbytes].view(each.dtype).reshape(each.shape)
        place += each.nbytes


# -- MPI --------------------------------------------------------------------------------------------------------------

# The environment variables in which what starts MPI jobs says the number of a rank, and how many there are: Open MPI,
# MPICH and Intel MPI, MVAPICH, and Slurm's srun. A Slurm job that is no step of srun's has not the last one.
VARIABLES = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
)


def started() -> tuple[int, int]:
    """The number of this process in its MPI job, and how many it has, as the environment says; 0 and 1 if alone."""
    for rank, size in VARIABLES:
        values = os.environ.get(rank, ""), os.environ.get(size, "")
        if all(value.isascii() and value.isdigit() for value in values) and int(values[1]) > 1:
            return int(values[0]), int(values[1])
    return 0, 1


class Mpi:
    """Messages of MPI, through mpi4py. Waiting lets other processes of the same core run, and Python handle signals."""

    def __init__(self, communicator: Any) -> None:
        # A rank that fails says so by the second one, whatever the others wait for by the first one.
        self.communicator, self.last = communicator.Dup(), communicator.Dup()
        self.rank, self.size = communicator.Get_rank(), communicator.Get_size()

    def swap(self, sent: Array, to: Sequence[int], source: int | None = None, room: Array | None = None) -> None:
        requests = [] if source is None else [self.communicator.Irecv(room, source)]
        requests += [self.communicator.Isend(sent, other) for other in to]
        for request in requests:
            self.wait(request)

    def gather(self, part: bytes) -> list[bytes]:
        own, sizes = np.array([len(part)], np.int64), np.empty(self.size, np.int64)
        self.wait(self.communicator.Iallgather(own, sizes))
        room = np.empty(int(sizes.sum()), np.uint8)
        self.wait(self.communicator.Iallgatherv(np.frombuffer(part, np.uint8), [room, sizes.tolist()]))
        ends = np.cumsum(sizes).tolist()
        return [room[end - size : end].tobytes() for end, size in zip(ends, sizes.tolist(), strict=True)]

    def end(self, status: int) -> list[int] | None:
        found = np.empty(self.size, np.int64)
        request = self.last.Iallgather(np.array([status], np.int64), found)
        return found.tolist() if self.wait(request, GRACE if status else np.inf) else None

    def abort(self, status: int) -> None:
        self.communicator.Abort(status)

    def wait(self, request: Any, seconds: float = np.inf) -> bool:
        """Wait for a request at most so long, and return whether it is complete."""
        begun = time.monotonic()
        while not request.Test():
            waited = time.monotonic() - begun
            if waited > seconds:
                return False
            time.sleep(0 if waited < AWAKE else NAP)
        return True


def describe_mpi() -> dict[str, Any]:
    """Which MPI library mpi4py would use, or the `reason` why there is none. MPI is not started for that."""
    try:
        import mpi4py  # type: ignore[import-not-found, unused-ignore]

        before, mpi4py.rc.initialize = mpi4py.rc.initialize, False
        try:
            from mpi4py import MPI  # type: ignore[import-not-found, unused-ignore]
        finally:
            mpi4py.rc.initialize = before
    except (ImportError, RuntimeError) as error:
        return {"reason": " ".join(str(error).split())}
    library = " ".join(MPI.Get_library_version().replace("\0", "").splitlines()[0].split())
    return {"reason": None, "mpi4py": mpi4py.__version__, "library": library}


def of_job() -> Ranks:
    """The ranks of the MPI job that this process belongs to; itself alone if it belongs to none.

    Raises
    ------
    MissingLibraryError
        If several processes were started, and mpi4py or an MPI library for it is not installed.
    InputError
        If mpi4py uses an MPI library other than that of what has started them.
    """
    _, size = started()
    if size == 1:
        return _ALONE
    try:
        from mpi4py import MPI  # type: ignore[import-not-found, unused-ignore]
    except (ImportError, RuntimeError) as error:  # there is no mpi4py, or it finds no MPI library
        reason = " ".join(str(error).split())
        raise MissingLibraryError(
            f"{size} processes were started as one MPI job, and MPI cannot be used: {reason}. Install cuista[mpi] and "
            "the MPI library of your cluster, or start a single process"
        ) from None
    found = MPI.COMM_WORLD.Get_size()
    if found != size:
        raise InputError(
            f"{size} processes were started as one MPI job, and the MPI library of mpi4py sees {found}: "
            f"{MPI.Get_library_version().splitlines()[0].strip()}. Start them with the mpiexec of this library; with "
            "srun, try --mpi=pmix or --mpi=pmi2"
        )
    return Several(Mpi(MPI.COMM_WORLD))


def workers_of(job: Ranks) -> int | None:
    """How many threads this rank should compute with: its part of what its ranks of this machine may use together.

    None leaves the number as it is: for a process that works alone, or if CUISTA_WORKERS sets it.
    """
    if job.size == 1 or os.environ.get(parallel.WORKERS):
        return None
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    own = json.dumps([socket.gethostname(), allowed]).encode()
    places = cast(Several, job).messages.gather(own)
    return max(parallel.allowance().workers // places.count(own), 1)


# -- NCCL -------------------------------------------------------------------------------------------------------------


class Nccl:
    """Messages from GPU to GPU by NCCL, in the order of the current stream. Nothing waits for them but that stream.

    `nccl` is CuPy's module, and `communicator` one of its communicators.
    """

    def __init__(self, nccl: Any, communicator: Any, stream: Callable[[], Any]) -> None:
        self.nccl, self.communicator, self.stream = nccl, communicator, stream

    def swap(self, sent: Any, to: Sequence[int], source: int | None = None, room: Any = None) -> None:
        kind, stream = self.nccl.NCCL_UINT8, self.stream().ptr
        self.nccl.groupStart()
        for other in to:
            self.communicator.send(sent.data.ptr, sent.size, kind, other, stream)
        if source is not None:
            self.communicator.recv(room.data.ptr, room.size, kind, source, stream)
        self.nccl.groupEnd()


def _nccl_for(job: Several) -> Nccl | None:
    """NCCL between the ranks' current GPUs; None unless all ranks have it, and each has a GPU of its own."""
    try:
        import cupy
        from cupy.cuda import nccl

        where = f"{socket.gethostname()} {cupy.cuda.Device().pci_bus_id}" if nccl.available else ""
    except (ImportError, AttributeError):  # CuPy was built without it
        where = ""
    places = job.messages.gather(where.encode())
    if b"" in places or len(set(places)) < job.size:
        return None
    number = nccl.get_unique_id()  # a tuple or bytes, as the versions of CuPy have it
    shared = job.agreed(lambda: list(number))
    communicator = nccl.NcclCommunicator(job.size, type(number)(shared), job.rank)
    return Nccl(nccl, communicator, cupy.cuda.get_current_stream)


# -- the ranks of this process ----------------------------------------------------------------------------------------

_ALONE = Ranks()
# It belongs to a context, which work that is shared out to threads inherits.
_ranks: ContextVar[Ranks] = ContextVar("ranks", default=_ALONE)


def ranks() -> Ranks:
    """The ranks among which this process shares out its work now: itself alone, or those of the last block.

    Work that is shared out to threads already is not shared out to ranks, because threads send no messages.
    """
    return _ALONE if parallel.is_shared_out() else _ranks.get()


@contextlib.contextmanager
def together() -> Iterator[Ranks]:
    """Share work out in the block among the processes of the MPI job that this one belongs to, if it belongs to one.

    All of them must do the same in the block, with the same arguments. Each computes with its part of the machine's
    cores, unless CUISTA_WORKERS sets a number.

    Raises
    ------
    MissingLibraryError, InputError
        As `of_job`.
    """
    job = of_job()
    with parallel.workers(workers_of(job)), among(job):
        yield job


@contextlib.contextmanager
def among(others: Ranks) -> Iterator[None]:
    """Share work out among these ranks in the block."""
    token = _ranks.set(others)
    try:
        yield
    finally:
        _ranks.reset(token)
