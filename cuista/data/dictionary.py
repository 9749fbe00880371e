"""A convolutional dictionary: filters whose valid correlations with sparse maps add up to a picture."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from cuista import storage
from cuista.checks import Array, check_filters
from cuista.counter import CODES, MATRIX, Key
from cuista.errors import FileError, InputError
from cuista.operators import Convolution
from cuista.operators.convolution import scaled
from cuista.ops import CpuOps

Convention = Literal["correlation", "convolution"]


@dataclass(frozen=True, eq=False)
class Dictionary:
    """Filters d_1, …, d_F, of a picture f = Σ_m d_m ⋆ x_m with valid correlations ⋆.

    Parameters
    ----------
    D
        (s₁, s₂, F). Maps of a picture H×W are (F, H + s₁ − 1, W + s₂ − 1).

    Raises
    ------
    InputError
        If it is not such an array of finite numbers, or a filter is zero.
    """

    D: Array

    def __post_init__(self) -> None:
        object.__setattr__(self, "D", np.ascontiguousarray(check_filters(self.D, "the dictionary"), np.float64))

    @property
    def shape(self) -> tuple[int, int]:
        """The size of a filter."""
        rows, columns, _ = self.D.shape
        return rows, columns

    @property
    def filters(self) -> int:
        """How many there are."""
        return int(self.D.shape[2])

    @cached_property
    def sha256(self) -> str:
        """The hash by which it is recognised."""
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
        record = storage.Record("cuista-dictionary")
        self.store(record)
        storage.write(path, record, overwrite=overwrite)

    def store(self, record: storage.Record) -> None:
        """Put it into a file's record."""
        record.arrays["D"] = self.D
        record.attributes.update(dictionary_sha256=self.sha256, convention="correlation")

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, convention: Convention | None = None, key: str | None = None
    ) -> Dictionary:
        """Read filters from any of cuista's files that carry some, or from a bare array (key `D`).

        Parameters
        ----------
        path
            A `cuista-dictionary`, `cuista-conv-weight` or `cuista-denoiser` file; or .npy, .npz, .mat or .h5.
        convention
            For which operation a bare array was made: filters for `convolution` are rotated by 180° here. By default
            those of a .mat file are, as learned dictionaries are published so.

        Raises
        ------
        FileError, InputError
            As `storage.load_array`; if the array is no dictionary, or something is asked of a file of ours.
        """
        if storage.is_cuista(path):
            if convention or key:
                raise InputError(f"{path} is one of cuista's files: leave these out", option=("key", "convention"))
            record = storage.read(path, "cuista-dictionary", "cuista-conv-weight", "cuista-denoiser")
            return cls.from_record(record, path)
        D = check_filters(storage.load_array(path, "D", "d", key=key), f"the dictionary in {path}")
        if (convention or default_convention(path)) == "convolution":
            D = rotate(D)
        return cls(D)

    @classmethod
    def from_record(cls, record: storage.Record, path: str | os.PathLike[str]) -> Dictionary:
        """The dictionary in a file's record; `path` is for the error message."""
        if "D" not in record.arrays:
            raise FileError(f"{path} is damaged: 'D' is missing")
        dictionary = cls(record.arrays["D"])
        if record.attributes.get("dictionary_sha256") != dictionary.sha256:
            raise FileError(f"{path} is damaged: its dictionary is not the one it was made with")
        return dictionary


def default_convention(path: str | os.PathLike[str]) -> Convention:
    """What a bare array in such a file is taken for: MATLAB's `conv2` convolves."""
    return "convolution" if os.fspath(path).lower().endswith(".mat") else "correlation"


def rotate(D: Array) -> Array:
    """The filters (s₁, s₂, …) rotated by 180°."""
    return D[::-1, ::-1]


def random_dictionary(shape: tuple[int, int], filters: int, *, seed: int = 0) -> Array:
    """Gaussian filters (s₁, s₂, F) of unit norm."""
    rows, columns = shape
    D = CpuOps().normal(Key(seed, MATRIX), CODES, (rows * columns, filters), np.float64)
    return normalize_filters(D.reshape(rows, columns, filters))


def normalize_filters(D: Array) -> Array:
    """The filters (s₁, s₂, F), each scaled to unit norm."""
    small, exponents = scaled(check_filters(D, "the dictionary").astype(np.float64), axis=(0, 1))
    norms = np.linalg.norm(small, axis=(0, 1))
    with np.errstate(over="ignore"):
        normalized = np.abs(np.ldexp(norms, exponents) - 1) < 1e-12
    return np.asarray(np.where(normalized, D, small / norms))
