"""Compressive sensing of pictures: each block of a picture is measured by the same matrix."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from cuista import storage
from cuista.checks import Array, as_real, check_finite
from cuista.counter import CODES, FITTING, MATRIX, Key
from cuista.data.dictionary import Dictionary
from cuista.data.form import Form
from cuista.data.images import PatchSet
from cuista.data.pictures import check_grey
from cuista.errors import FileError, InputError
from cuista.operators.blocks import DEPENDENT, blocks_of, pictures_of
from cuista.ops import CpuOps
from cuista.summary import Described, counted

# Up to this relative error, the mean follows from the measurements exactly. Matrices are often stored in float32.
EXACT = 1e-5
# What y is in error messages.
MEASUREMENTS = "the measurements"
# The number of patches whose principal components are computed, in parts of equal size.
PARTS, PART = 10, 5000


@dataclass(frozen=True, eq=False, repr=False)
class Sensing(Described, storage.Portable):
    """Blocks f of a picture are measured as y = Φ f, and apart from their means m are sparse: f = m + D x.

    Blocks have the size (s₁, s₂) of the dictionary's atoms, and P = s₁·s₂ pixels with values from 0 to 1. The mean m of
    a block follows from y exactly if 1 is in the row space of Φ. Otherwise it is estimated by generalised least squares
    with the covariance D Dᵀ, or that of white blocks without a dictionary. What y says about D x is `without_mean`,
    y − Φ1 m in coordinates that leave out the direction of y that gives the mean. The networks see A x, with A (M′, N)
    as `A`.

    Parameters
    ----------
    Phi
        The matrix Φ (M, P), kept in float64.
    within
        The dictionary, whose N atoms are D (P, N). For networks that need none, only the size (s₁, s₂) of a block.

    Raises
    ------
    InputError
        If Φ does not fit the size of a block, is not finite, has fewer than two rows or more rows than columns, or
        measures nothing of the mean.
    """

    kind: ClassVar[str] = "cuista-sensing"

    Phi: Array
    within: Dictionary | tuple[int, int]

    def __post_init__(self) -> None:
        Phi, (rows, columns) = as_real(self.Phi, "Φ"), self.block
        if Phi.ndim != 2 or Phi.shape[1] != self.P or not 2 <= len(Phi) <= self.P:
            raise InputError(
                f"Φ has shape {Phi.shape}; expected (M, {self.P}) with M from 2 to {self.P}, because a block has "
                f"{rows}×{columns} pixels",
                option=("sensing", "dictionary"),
            )
        check_finite(Phi, "Φ")
        if np.linalg.norm(Phi.sum(axis=1)) <= 1e-6 * np.linalg.norm(Phi):
            raise InputError(
                "every row of Φ has the sum 0, so that nothing of the mean of a block is measured; expected at least "
                "one row with another sum",
                option="sensing",
            )
        object.__setattr__(self, "Phi", np.ascontiguousarray(Phi, np.float64))

    def facts(self) -> dict[str, str]:
        rows, columns = self.block
        return {
            "measurements": f"{self.M} measurements of each block of {rows}×{columns} ({100 * self.rate:.3g} %)",
            "dictionary": counted(self.dictionary.filters, "atom") if self.has_dictionary else "",
        }

    @property
    def block(self) -> tuple[int, int]:
        """The size (s₁, s₂) of a block in pixels."""
        return self.within.shape if isinstance(self.within, Dictionary) else self.within

    @property
    def has_dictionary(self) -> bool:
        """Whether there is a dictionary."""
        return isinstance(self.within, Dictionary)

    @property
    def dictionary(self) -> Dictionary:
        """The dictionary.

        Raises
        ------
        InputError
            If there is none.
        """
        if not isinstance(self.within, Dictionary):
            raise InputError(
                "this problem has no dictionary, which only conv-csc does without: make one with a dictionary",
                option="problem",
            )
        return self.within

    @property
    def M(self) -> int:
        """The number of measurements of a block."""
        return int(self.Phi.shape[0])

    @property
    def P(self) -> int:
        """The number of pixels of a block."""
        return self.block[0] * self.block[1]

    @property
    def rate(self) -> float:
        """The number of measurements per pixel."""
        return self.M / self.P

    @cached_property
    def sha256(self) -> str:
        """The hash of Φ and the dictionary."""
        if not self.has_dictionary:
            return self.measuring_sha256
        return hashlib.sha256(f"{storage.sha256(self.Phi)} {self.dictionary.sha256}".encode()).hexdigest()

    @cached_property
    def measuring_sha256(self) -> str:
        """The hash of Φ and the size of a block, by which measurements know what measured them."""
        rows, columns = self.block
        return hashlib.sha256(f"{storage.sha256(self.Phi)} {rows}x{columns}".encode()).hexdigest()

    # -- the mean ---------------------------------------------------------------------------------------------------

    @cached_property
    def measures_means(self) -> bool:
        """Whether the mean of a block follows from its measurements exactly."""
        return bool(np.abs(self._mean_in_rows @ self.Phi * self.P - 1).max() < EXACT)

    @cached_property
    def _mean_in_rows(self) -> Array:
        """The c (M,) with the least ‖Φᵀc − 1/P‖."""
        return np.asarray(np.linalg.lstsq(self.Phi.T, np.full(self.P, 1 / self.P), rcond=1e-12)[0])

    @cached_property
    def mean_weights(self) -> Array:
        """The c (M,) with which the mean of a block is cᵀy."""
        if self.measures_means:
            return self._mean_in_rows
        of_ones = self.Phi.sum(axis=1)
        spread = self.Phi - of_ones[:, None] / self.P
        if self.has_dictionary:
            spread = self.Phi @ self.dictionary.atoms
        covariance = spread @ spread.T
        covariance += 1e-8 * np.trace(covariance) / self.M * np.eye(self.M)  # a direction may hardly see the atoms
        solution = np.linalg.solve(covariance, of_ones)
        return np.asarray(solution / (of_ones @ solution))

    @cached_property
    def reduction(self) -> Array:
        """The coordinates (M′, M) of measurements without their mean; M′ is M − 1 if they give the mean exactly.

        If c gives the mean, y − Φ1 m is orthogonal to c. A Householder reflection maps c to the first axis, which is
        left out. If the first row of Φ measures the mean, this leaves the other rows as they are.
        """
        if not self.measures_means:
            return np.eye(self.M)
        v = self.mean_weights / np.linalg.norm(self.mean_weights)
        # Of the two reflections, the one in which nothing cancels. Rounding must not choose: A depends on the choice.
        v[0] += -1 if v[0] < -1e-6 else 1
        return np.ascontiguousarray((np.eye(self.M) - 2 / (v @ v) * np.outer(v, v))[1:])

    @cached_property
    def reduced(self) -> Array:
        """Φ in these coordinates, (M′, P)."""
        return self.reduction @ self.Phi

    @cached_property
    def A(self) -> Array:
        """The matrix (M′, N) by which `without_mean` depends on the sparse code of a block."""
        return np.asarray(self.reduced @ self.dictionary.atoms)

    def means(self, y: Array) -> Array:
        """The means (blocks, 1) of blocks with measurements y (blocks, M)."""
        return np.asarray(y @ self.mean_weights)[:, None]

    def without_mean(self, y: Array) -> tuple[Array, Array]:
        """What measurements y (blocks, M) say about the blocks without their means, (blocks, M′), and the means."""
        means = self.means(y)
        return (y - means * self.Phi.sum(axis=1)) @ self.reduction.T, means

    # -- pictures ---------------------------------------------------------------------------------------------------

    def grid(self, shape: tuple[int, int]) -> tuple[int, int]:
        """The numbers of blocks along the two axes of a picture of this shape (H, W)."""
        (H, W), (s1, s2) = shape, self.block
        return -(-H // s1), -(-W // s2)

    def check_blocks(self, count: int, shape: tuple[int, int]) -> None:
        """Raise InputError unless a picture of this shape (H, W) has so many blocks."""
        if min(shape) < 1:
            raise InputError(f"the shape of the picture is {shape}; expected positive numbers", option="shape")
        n1, n2 = self.grid(shape)
        if count != n1 * n2:
            rows, columns = self.block
            raise InputError(
                f"there are measurements of {count} blocks; expected {n1}×{n2} = {n1 * n2}, because the picture has "
                f"{shape[0]}×{shape[1]} pixels and a block {rows}×{columns}",
                option="shape",
            )

    def blocks(self, picture: Array) -> Array:
        """The blocks (n, P) of a picture (H, W), row by row.

        A picture whose sides are not multiples of the block's is continued with the values of its last row and column.
        """
        (n1, n2), (s1, s2) = self.grid(picture.shape), self.block
        missing = ((0, n1 * s1 - picture.shape[0]), (0, n2 * s2 - picture.shape[1]))
        return np.ascontiguousarray(blocks_of(np.pad(picture, missing, mode="edge"), self.block))

    def picture(self, blocks: Array, shape: tuple[int, int]) -> Array:
        """The picture of this shape (H, W) that consists of blocks (n, P): the inverse of `blocks`."""
        whole = pictures_of(blocks, self.block, self.whole(shape))
        return np.ascontiguousarray(whole[: shape[0], : shape[1]])

    def whole(self, shape: tuple[int, int]) -> tuple[int, int]:
        """The shape of all blocks of a picture of this shape (H, W) together."""
        (n1, n2), (s1, s2) = self.grid(shape), self.block
        return n1 * s1, n2 * s2

    def measure(self, picture: Array) -> Array:
        """The measurements (n, M) of the blocks of a picture (H, W) with values from 0 to 1.

        Raises
        ------
        InputError
            If the picture is not grey or not finite.
        """
        return np.asarray(self.blocks(check_grey(picture, "the picture")) @ self.Phi.T)

    def least_norm(self, y: Array) -> Array:
        """Of all blocks with measurements y (n, M), those (n, P) with the least variance.

        If Φ has orthonormal rows and measures the mean, this is the zero-filled adjoint Φᵀy.
        """
        reduced, means = self.without_mean(y)
        return np.asarray(reduced @ self._spread_of.T + means)

    @cached_property
    def _spread_of(self) -> Array:
        """The matrix (P, M′) that makes of `without_mean` what deviates from the mean, which has no mean of its own."""
        deviating = self.reduced - self.reduced.mean(axis=1, keepdims=True)
        return np.asarray(np.linalg.pinv(deviating, rcond=DEPENDENT))

    # -- its file ---------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write a `cuista-sensing` file."""
        storage.write(path, self.to_record(), overwrite=overwrite)

    def to_record(self) -> storage.Record:
        record = storage.Record(self.kind)
        self.store(record)
        return record

    def store(self, record: storage.Record) -> None:
        """Add Φ and the dictionary to a file's record."""
        if self.has_dictionary:
            self.dictionary.store(record)
        else:
            record.attributes["block"] = list(self.block)
        record.arrays["Phi"] = self.Phi
        record.attributes["sensing_sha256"] = self.sha256

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Sensing:
        """Read a `cuista-sensing` file, or the file of a model that was trained for one.

        Raises
        ------
        FileError
            If the file is missing, damaged or of another kind.
        """
        models = ("cuista-reconstructor", "cuista-picture-reconstructor")
        return cls.from_record(storage.read(path, cls.kind, *models), path)

    @classmethod
    def from_record(cls, record: storage.Record, path: str | os.PathLike[str]) -> Sensing:
        """Φ and the dictionary in a file's record; error messages name `path`."""
        with storage.complete(path):
            rows, columns = record.attributes.get("block", (0, 0))
            within = (int(rows), int(columns)) if rows else Dictionary.from_record(record, path)
            sensing = cls(record.arrays["Phi"], within)
            if record.attributes["sensing_sha256"] != sensing.sha256:
                raise FileError(f"{path} is damaged: its Φ does not have the hash that the file states")
            return sensing


@dataclass(frozen=True, eq=False)
class Measurements:
    """The measurements of a picture.

    Attributes
    ----------
    y
        The measurements (channels, n, M) of the blocks, row by row, of each channel, where 0 is black and 1 is white.
    shape
        The shape (H, W) of the picture.
    form
        How the picture was stored in its file.
    sensing_sha256
        The `measuring_sha256` of the `Sensing` that measured.
    """

    y: Array
    shape: tuple[int, int]
    form: Form
    sensing_sha256: str

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write a `cuista-measurements` file."""
        attributes = {"shape": list(self.shape), "sensing_sha256": self.sensing_sha256}
        # A colour profile can be too large for an attribute.
        arrays = {"y": self.y, "form": np.frombuffer(self.form.to_json().encode(), np.uint8)}
        storage.write(path, storage.Record("cuista-measurements", arrays, attributes), overwrite=overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str], sensing: Sensing) -> Measurements:
        """Read a `cuista-measurements` file.

        Raises
        ------
        FileError
            If the file is missing, damaged or of another kind.
        InputError
            If it was measured by anything but `sensing`.
        """
        record = storage.read(path, "cuista-measurements")
        with storage.complete(path):
            attributes, (H, W) = record.attributes, record.attributes["shape"]
            form = Form.from_json(record.arrays["form"].tobytes().decode())
            found = cls(record.arrays["y"], (int(H), int(W)), form, attributes["sensing_sha256"])
        if found.sensing_sha256 != sensing.measuring_sha256:
            raise InputError(
                f"{path} was measured with another Φ: give the model or the problem with which it was measured, or "
                "measure the picture again with this one",
                option="model",
            )
        return found


def check_count(M: int, P: int) -> None:
    """Raise InputError unless M measurements of P pixels are neither too few nor too many."""
    if not 2 <= M <= P:
        raise InputError(f"{M} measurements of {P} pixels were asked for; expected 2 to {P}", option=("m", "rate"))


def random_sensing(block: tuple[int, int], M: int, *, seed: int = 0) -> Array:
    """Draw Φ (M, P) for blocks of this size: the first row measures the mean, and the others are Gaussian.

    Entries have variance 1/M. The first row is constant, and the means of the others are removed, so that they measure
    what the first does not.
    """
    P = block[0] * block[1]
    check_count(M, P)
    Phi: Array = CpuOps().normal(Key(seed, MATRIX), CODES, (M, P), np.float64) / np.sqrt(M)
    Phi -= Phi.mean(axis=1, keepdims=True)
    Phi[0] = 1 / np.sqrt(M)
    return Phi


def principal_sensing(patches: PatchSet, M: int, *, seed: int = 0) -> Array:
    """The Φ (M, P) from which patches with P pixels are known best if they are reconstructed linearly.

    The first row measures the mean. The others are the first M − 1 principal components of patches without their means,
    of which 50,000 are drawn at random. All rows are orthonormal.

    Raises
    ------
    InputError
        If M is not from 2 to P.
    """
    P = patches.shape[0] * patches.shape[1]
    check_count(M, P)
    covariance = np.zeros((P, P))
    for part in range(PARTS):  # not all at once, for large patches
        f = patches.draw(Key(seed, FITTING, part), PART).astype(np.float64)
        f -= f.mean(axis=1, keepdims=True)
        covariance += f.T @ f
    _, components = np.linalg.eigh(covariance)
    return np.vstack([np.full(P, 1 / np.sqrt(P)), components[:, ::-1].T[: M - 1]])
