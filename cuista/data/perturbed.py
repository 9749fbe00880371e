"""Perturbed measurement matrices: Ã = A + σN, whose columns are scaled back to unit norm."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from cuista import storage
from cuista.checks import LARGEST, Array, in_double
from cuista.counter import ENTRIES, LEVELS, TEST, Key
from cuista.data.problem import Problem
from cuista.errors import FileError, InputError
from cuista.ops import CpuOps, ReferenceOps
from cuista.ops.joint import dtype_for, real_of, squares
from cuista.summary import Described, counted, span


def perturb(A: Array, key: Key, levels: Array, ops: ReferenceOps, first: int = 0) -> Array:
    """Perturbed matrices Ã_i = A + σ_i N_i (n, M, N), where N_i is standard normal, with columns scaled to unit norm.

    If A is complex, then N_i is circular with E|N_i|² = 1.

    Liu, Chen, Wang, Yin, ICLR 2019, section 4.3. The result depends on the arguments only.

    Parameters
    ----------
    A
        The nominal matrix (M, N), an array of the engine; its dtype is the precision of the result.
    key
        The key of the random entries.
    levels
        The standard deviations σ_i (n,).
    first
        The number of the first of these matrices in its batch.
    """
    (M, N), n = A.shape, len(levels)
    noise = ops.normal(key, ENTRIES, (n * M, N), A.dtype, first * M).reshape(n, M, N)
    matrices = A + ops.asarray(levels, real_of(A.dtype))[:, None, None] * noise
    norms: Any = ops.xp.sqrt(ops.xp.sum(squares(ops.xp, matrices), axis=1, keepdims=True))
    perturbed: Array = matrices / norms
    return perturbed


def random_levels(key: Key, sigma: float, count: int, ops: ReferenceOps) -> Array:
    """Draw perturbation levels (count,), uniform between 0 and σ."""
    words = ops.random_words(key, LEVELS)(count)
    return np.asarray(sigma * ((words >> np.uint64(11)) * 2.0**-53))


def check_normalized(problem: Problem) -> None:
    """Raise InputError unless the columns of the problem's matrix have unit norm, as those of perturbed ones have."""
    problem.need_matrix("a perturbation")
    if not problem.normalized:
        raise InputError(
            "the columns of the measurement matrix do not have unit norm, which perturbed matrices always have: make a "
            "problem with normalised columns"
        )


@dataclass(frozen=True, repr=False)
class PerturbedSet(Described, storage.Portable):
    """A test set: several perturbed matrices for each level, and signals that all of them measure without noise.

    Attributes
    ----------
    problem
        The problem whose matrix is perturbed and whose law the signals follow.
    sigmas
        The levels σ (S,).
    matrices
        The perturbed matrices (S, count, M, N), float32 or complex64.
    x
        The sparse codes (samples, N), or (samples, L, N) with L snapshots, float32 or complex64.
    seed
        The seed that the matrices and the signals were drawn with.
    """

    kind: ClassVar[str] = "cuista-perturbed"

    problem: Problem
    sigmas: Array
    matrices: Array
    x: Array
    seed: int

    @classmethod
    def new(
        cls, problem: Problem, sigmas: Sequence[float], count: int = 10, samples: int = 1000, seed: int = 0
    ) -> PerturbedSet:
        """Draw `count` matrices for each level σ, and `samples` signals. The set depends on the arguments only.

        Raises
        ------
        InputError
            If there is no level, a level is negative or not finite, `count` or `samples` is less than 1, or the columns
            of the problem's matrix do not have unit norm.
        """
        check_normalized(problem)
        if not sigmas or not all(0 <= sigma <= LARGEST for sigma in sigmas):
            message = f"σ is {list(sigmas)}; expected one or more numbers from 0 to {LARGEST:g}"
            raise InputError(message, option="sigma")
        if count < 1:
            raise InputError(f"the number of matrices for each σ is {count}; expected 1 or more", option="count")
        ops = CpuOps()
        matrices = np.empty((len(sigmas), count, *problem.A.shape), dtype_for(problem.A, np.float32))
        for i, sigma in enumerate(sigmas):
            for j in range(count):
                matrices[i, j] = perturb(problem.A, Key(seed, TEST, i * count + j), np.array([sigma]), ops)[0]
        x, _ = problem.standard.sample(samples, stream=TEST, seed=seed)
        return cls(problem.standard, np.array(sigmas, np.float64), matrices, x, seed)

    def facts(self) -> dict[str, str]:
        levels, count, M, N = self.matrices.shape
        return {
            "matrices": f"{count} perturbed {'matrix' if count == 1 else 'matrices'} of {M}×{N} for each level",
            "levels": f"{counted(levels, 'level')} (σ {span(self.sigmas)})",
            "signals": counted(len(self.x), "signal"),
            **{name: fact for name, fact in self.problem.facts().items() if name in ("numbers", "snapshots", "groups")},
        }

    def __iter__(self) -> Iterator[tuple[float, list[Array]]]:
        """Iterate over the levels, each with the list of its matrices (M, N) in double precision."""
        for sigma, matrices in zip(self.sigmas, self.matrices, strict=True):
            yield float(sigma), list(in_double(matrices))

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write a `cuista-perturbed` file."""
        storage.write(path, self.to_record(), overwrite=overwrite)

    def to_record(self) -> storage.Record:
        record = storage.Record(self.kind)
        self.problem.store(record)
        record.arrays |= {"sigmas": self.sigmas, "matrices": self.matrices, "x": self.x}
        record.attributes |= {"matrix_sha256": self.problem.sha256, "test_seed": self.seed}
        return record

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PerturbedSet:
        """Read a `cuista-perturbed` file.

        Raises
        ------
        FileError
            If the file is damaged, or is not a `cuista-perturbed` file.
        """
        return cls.from_record(storage.read(path, cls.kind), path)

    @classmethod
    def from_record(cls, record: storage.Record, path: str | os.PathLike[str]) -> PerturbedSet:
        """The test set in a file's record; error messages name `path`."""
        problem = Problem.from_record(record, path)
        with storage.complete(path):
            sigmas, matrices, x = (record.arrays[name] for name in ("sigmas", "matrices", "x"))
            shapes = (matrices.ndim, matrices.shape[0], matrices.shape[2:], x.shape[1:])
            if shapes != (4, len(sigmas), problem.A.shape, problem.shape_of_code) or not np.isfinite(matrices).all():
                raise FileError(f"{path} is damaged: its matrices are {matrices.shape}, or not all finite")
            return cls(problem, sigmas, matrices, x, int(record.attributes["test_seed"]))
