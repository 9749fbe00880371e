"""Orthonormal transforms along the axes of arrays, on any engine: Fourier, cosine and Walsh–Hadamard.

On the CPU, the first two are SciPy's, with as many threads as are free; on a GPU, they are those of the array module.
All keep the precision of their input.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cuista import parallel
from cuista.checks import Array
from cuista.ops import ReferenceOps
from cuista.ops.joint import real_of

Axes = tuple[int, ...]
# The largest Hadamard matrix by which rows are multiplied, a power of two.
LARGEST = 32
# A transform of fewer numbers gains nothing from a second thread.
SMALL = 2**18


def axes_of(shape: tuple[int, ...]) -> Axes:
    """The axes of a batch of signals of this shape, without the first."""
    return tuple(range(1, len(shape) + 1))


def dft(ops: ReferenceOps, x: Array) -> Array:
    """The unitary discrete Fourier transform of a batch of signals along all axes but the first.

    If they are real, the last axis has only the frequencies 0 … ⌊n/2⌋, from which the others follow.
    """
    fft, options = _fft(ops, x)
    name = "fftn" if x.dtype.kind == "c" else "rfftn"
    spectrum: Array = getattr(fft, name)(x, axes=axes_of(x.shape[1:]), norm="ortho", **options)
    return spectrum


def inverse_dft(ops: ReferenceOps, spectrum: Array, shape: tuple[int, ...], real: bool) -> Array:
    """The batch of signals of this shape, complex or `real`, with such a spectrum."""
    fft, options = _fft(ops, spectrum)
    if real:
        options["s"] = shape
    x: Array = getattr(fft, "irfftn" if real else "ifftn")(spectrum, axes=axes_of(shape), norm="ortho", **options)
    return x


def dct(ops: ReferenceOps, x: Array) -> Array:
    """The orthonormal cosine transform (DCT-II) of a batch of signals along all axes but the first."""
    if ops.xp is np:
        fft, options = _fft(ops, x)
        transformed: Array = fft.dctn(x, axes=axes_of(x.shape[1:]), norm="ortho", **options)
        return transformed
    for axis in axes_of(x.shape[1:]):
        x = ops.xp.moveaxis(_dct(ops, ops.xp.moveaxis(x, axis, -1)), -1, axis)
    return x


def inverse_dct(ops: ReferenceOps, x: Array) -> Array:
    """The inverse of `dct` (DCT-III)."""
    if ops.xp is np:
        fft, options = _fft(ops, x)
        transformed: Array = fft.idctn(x, axes=axes_of(x.shape[1:]), norm="ortho", **options)
        return transformed
    for axis in axes_of(x.shape[1:]):
        x = ops.xp.moveaxis(_inverse_dct(ops, ops.xp.moveaxis(x, axis, -1)), -1, axis)
    return x


def hadamard(ops: ReferenceOps, x: Array) -> Array:
    """The orthonormal Walsh–Hadamard transform of a batch along all axes but the first, in the order of Sylvester.

    It is its own inverse. The lengths of the axes must be powers of two.
    """
    shape, xp = x.shape, ops.xp
    x = ops.asarray(x, x.dtype)
    numbers = x.view(real_of(x.dtype)) if x.dtype.kind == "c" else x
    # The matrix of a length n = p q is the Kronecker product of those of p and q. So rows of any length, and several
    # axes at once, are multiplied by small matrices, one after the other.
    length, behind = math.prod(shape[1:]), numbers.size // max(x.size, 1)
    while length > 1:
        size = min(length, LARGEST)
        H = ops.asarray(_sylvester(size), numbers.dtype)
        if behind == 1:
            numbers = xp.matmul(numbers.reshape(-1, size), H)
        else:
            numbers = xp.matmul(H, numbers.reshape(-1, size, behind))
        length, behind = length // size, behind * size
    numbers = numbers.reshape(*shape[:-1], -1) if shape[1:] else numbers
    return numbers.view(x.dtype) if x.dtype.kind == "c" else numbers


def _sylvester(n: int) -> Array:
    """The orthonormal Hadamard matrix (n, n)."""
    bits = np.arange(n)[:, None] & np.arange(n)
    ones = sum((bits >> place) & 1 for place in range(max(n.bit_length(), 1)))
    return np.where(np.asarray(ones) % 2, -1.0, 1.0) / math.sqrt(n)


def _fft(ops: ReferenceOps, x: Array) -> tuple[Any, dict[str, Any]]:
    """The module with the engine's Fourier transforms, and options of its functions."""
    if ops.xp is not np:
        return ops.xp.fft, {}
    import scipy.fft

    return scipy.fft, {"workers": parallel.spare() if x.size >= SMALL else 1}


def _dct(ops: ReferenceOps, x: Array) -> Array:
    """The orthonormal DCT-II along the last axis, by a Fourier transform (Makhoul, IEEE Trans. ASSP 1980)."""
    if x.dtype.kind == "c":
        return _dct(ops, x.real) + 1j * _dct(ops, x.imag)
    xp, n = ops.xp, x.shape[-1]
    spectrum = xp.fft.fft(xp.concatenate([x[..., ::2], x[..., 1::2][..., ::-1]], axis=-1))
    return (spectrum * _twiddles(ops, n, x.dtype)).real  # type: ignore[no-any-return]


def _inverse_dct(ops: ReferenceOps, x: Array) -> Array:
    """The inverse of `_dct`."""
    if x.dtype.kind == "c":
        return _inverse_dct(ops, x.real) + 1j * _inverse_dct(ops, x.imag)
    xp, n = ops.xp, x.shape[-1]
    # `_dct` is T = Re(w ⊙ F P x), whose adjoint, and so its inverse, is Pᵀ Re(Fᴴ(w̄ ⊙ x)).
    even_first = (xp.fft.ifft(_twiddles(ops, n, x.dtype).conj() * x) * n).real
    found = xp.empty(x.shape, x.dtype)
    found[..., ::2] = even_first[..., : (n + 1) // 2]
    found[..., 1::2] = even_first[..., (n + 1) // 2 :][..., ::-1]
    return found  # type: ignore[no-any-return]


def _twiddles(ops: ReferenceOps, n: int, dtype: np.dtype[Any]) -> Array:
    """The factors (n,) between the Fourier transform and the orthonormal DCT-II."""
    k = np.arange(n)
    scale = np.where(k == 0, math.sqrt(1 / n), math.sqrt(2 / n))
    return ops.asarray(scale * np.exp(-0.5j * math.pi * k / n), np.result_type(dtype, np.complex64))
