"""Convolutional dictionaries: filters whose valid correlations with sparse maps add up to a picture."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np

from cuista import storage
from cuista.checks import Array, as_real, check_filters
from cuista.counter import CODES, MATRIX, Key
from cuista.errors import FileError, InputError
from cuista.operators import Convolution
from cuista.operators.convolution import scaled
from cuista.ops import CpuOps
from cuista.summary import Described, counted, span

Convention = Literal["correlation", "convolution"]


@dataclass(frozen=True, eq=False, repr=False)
class Dictionary(Described, storage.Portable):
    """Filters d_1, …, d_F that model a picture as f = Σ_m d_m ⋆ x_m, where ⋆ is the valid correlation.

    Parameters
    ----------
    D
        The filters (s₁, s₂, F). The maps x of an H×W picture have the shape (F, H + s₁ − 1, W + s₂ − 1).

    Raises
    ------
    InputError
        If D has another shape, an entry is not finite, or a filter is zero.
    """

    kind: ClassVar[str] = "cuista-dictionary"

    D: Array

    def __post_init__(self) -> None:
        object.__setattr__(self, "D", np.ascontiguousarray(check_filters(self.D, "the dictionary"), np.float64))

    def facts(self) -> dict[str, str]:
        norms = "of unit norm" if self.normalized else f"with norms {span(np.linalg.norm(self.D, axis=(0, 1)))}"
        rows, columns = self.shape
        return {"size": f"{counted(self.filters, 'filter')} of {rows}×{columns}", "norms": norms}

    @property
    def shape(self) -> tuple[int, int]:
        """The size (s₁, s₂) of every filter in pixels."""
        rows, columns, _ = self.D.shape
        return rows, columns

    @property
    def filters(self) -> int:
        """The number F of filters."""
        return int(self.D.shape[2])

    @classmethod
    def from_atoms(cls, atoms: Array, shape: tuple[int, int]) -> Dictionary:
        """The dictionary whose atoms are the columns of a matrix (s₁·s₂, F): see `atoms`."""
        return cls(rotate(atoms.reshape(*shape, -1)))

    @cached_property
    def atoms(self) -> Array:
        """The atoms of single patches (s₁, s₂) as the columns of a matrix (s₁·s₂, F).

        A single entry 1 in the maps adds its filter to the picture, rotated by 180°, which is the atom.
        """
        return np.ascontiguousarray(rotate(self.D)).reshape(-1, self.filters)

    @cached_property
    def sha256(self) -> str:
        """The hash by which files recognise this dictionary."""
        return storage.sha256(self.D)

    @cached_property
    def gain(self) -> float:
        """‖x ↦ Σ d_m ⋆ x_m‖₂², on pictures of any size: see `Convolution.norm_squared`."""
        return Convolution(self.D).norm_squared

    @property
    def normalized(self) -> bool:
        """Whether every filter has unit norm."""
        return bool(np.allclose(np.linalg.norm(self.D, axis=(0, 1)), 1, rtol=1e-6))

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write a `cuista-dictionary` file."""
        storage.write(path, self.to_record(), overwrite=overwrite)

    def to_record(self) -> storage.Record:
        record = storage.Record(self.kind)
        self.store(record)
        return record

    def store(self, record: storage.Record) -> None:
        """Add the dictionary to a file's record."""
        record.arrays["D"] = self.D
        record.attributes.update(dictionary_sha256=self.sha256, convention="correlation")

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, convention: Convention | None = None, key: str | None = None
    ) -> Dictionary:
        """Read a dictionary from one of cuista's files that carry one, or from a bare array.

        Parameters
        ----------
        path
            A `cuista-dictionary`, `cuista-conv-weight` or `cuista-denoiser` file, or an array in a .npy, .npz, .mat or
            .h5 file.
        convention
            The operation that a bare array's filters were made for. Filters for `convolution` are rotated by 180°. The
            default is `convolution` for .mat files, because learned dictionaries are published that way, and
            `correlation` for all others.
        key
            The name of the array in a file that holds several; by default `D` or `d`, or `fs` as in the original code's
            convolutional `prob.npz`.

        Raises
        ------
        FileError, InputError
            As `storage.load_array` does; also if the array is not a dictionary, or if `convention` or `key` is given
            for one of cuista's own files.
        """
        if not is_bare(path, convention, key):
            record = storage.read(path, "cuista-dictionary", "cuista-conv-weight", "cuista-denoiser")
            return cls.from_record(record, path)
        D = check_filters(storage.load_array(path, "D", "d", "fs", key=key), f"the dictionary in {path}")
        return cls(rotate(D) if (convention or default_convention(path)) == "convolution" else D)

    @classmethod
    def load_atoms(cls, path: str | os.PathLike[str], *, key: str | None = None) -> Dictionary:
        """Read a dictionary for patches from one of cuista's files, as `load` does, or from a bare array of atoms.

        A bare array holds atoms as they appear in a picture, (s₁, s₂, N), or as columns for square patches, (s², N).

        Raises
        ------
        FileError, InputError
            As `load` does.
        """
        if not is_bare(path, None, key):
            return cls.load(path)
        atoms = as_real(storage.load_array(path, "D", "d", key=key), f"the dictionary in {path}")
        shape = atoms.shape[:2]
        if atoms.ndim == 2:
            side = math.isqrt(len(atoms))
            shape = (side, side)
        if atoms.ndim not in (2, 3) or shape[0] * shape[1] * atoms.shape[-1] != atoms.size:
            raise InputError(
                f"the dictionary in {path} has shape {atoms.shape}; expected (P, N), with atoms of P pixels as "
                "columns, or (s₁, s₂, N)",
                option="dictionary",
            )
        return cls.from_atoms(atoms, (shape[0], shape[1]))

    @classmethod
    def from_record(cls, record: storage.Record, path: str | os.PathLike[str]) -> Dictionary:
        """The dictionary in a file's record; error messages name `path`."""
        with storage.complete(path):
            dictionary = cls(record.arrays["D"])
        if record.attributes.get("dictionary_sha256") != dictionary.sha256:
            raise FileError(f"{path} is damaged: its dictionary does not have the hash that the file states")
        return dictionary


def is_bare(path: str | os.PathLike[str], convention: Convention | None, key: str | None) -> bool:
    """Whether a file holds bare arrays. Raises InputError if a file of cuista's own is given a convention or a key."""
    if not storage.is_cuista(path):
        return True
    if convention or key:
        raise InputError(
            f"{path} is one of cuista's own files, which say how to read them; a key and a convention are for bare "
            "arrays: leave them out",
            option=("key", "convention"),
        )
    return False


def default_convention(path: str | os.PathLike[str], weight: bool = False) -> Convention:
    """The convention assumed for bare filters: convolution in a .mat file and for a `weight`, otherwise correlation.

    MATLAB's `conv2` convolves, and the original code's weights are published for convolution in any format.
    """
    return "convolution" if weight or os.fspath(path).lower().endswith(".mat") else "correlation"


def rotate(D: Array) -> Array:
    """Rotate filters (s₁, s₂, …) by 180°."""
    return D[::-1, ::-1]


def random_dictionary(shape: tuple[int, int], filters: int, *, seed: int = 0) -> Array:
    """Draw Gaussian filters (s₁, s₂, F) and scale each to unit norm."""
    rows, columns = shape
    D = CpuOps().normal(Key(seed, MATRIX), CODES, (rows * columns, filters), np.float64)
    return normalize_filters(D.reshape(rows, columns, filters))


def cosine_dictionary(shape: tuple[int, int], filters: int) -> Array:
    """The first F filters (s₁, s₂, F), by the sum of their frequencies, of an overcomplete DCT, each with unit norm.

    Each is the product of two cosines cos(π k (2i + 1) / 2n) with n = ⌈√F⌉ frequencies k, without their means if k > 0
    (Elad, Aharon, IEEE Trans. Image Process. 2006).
    """
    n = math.ceil(math.sqrt(filters))
    waves = [np.cos(np.pi * np.outer(2 * np.arange(size) + 1, np.arange(n)) / (2 * n)) for size in shape]
    for wave in waves:
        wave[:, 1:] -= wave[:, 1:].mean(axis=0)
    frequencies = sorted(np.ndindex(n, n), key=lambda pair: (sum(pair), pair))[:filters]
    return normalize_filters(np.stack([np.outer(waves[0][:, k], waves[1][:, m]) for k, m in frequencies], axis=-1))


def normalize_filters(D: Array) -> Array:
    """Scale each of the filters (s₁, s₂, F) to unit norm; filters that have it already keep their bits."""
    small, exponents = scaled(check_filters(D, "the dictionary").astype(np.float64), axis=(0, 1))
    norms = np.linalg.norm(small, axis=(0, 1))
    with np.errstate(over="ignore"):
        normalized = np.abs(np.ldexp(norms, exponents) - 1) < 1e-12
    return np.asarray(np.where(normalized, D, small / norms))
