"""The part of pictures that a matrix Φ measures block by block: their orthogonal projection to its row space."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from cuista.checks import Array
from cuista.ops import ReferenceOps, engine

# Rows of Φ whose singular values are below this share of the largest one are taken to depend on the others.
DEPENDENT = 1e-10


def blocks_of(pictures: Array, block: tuple[int, int]) -> Array:
    """The blocks (…, n, P) of pictures (…, H, W), row by row, where a block of (s₁, s₂) has P = s₁·s₂ pixels."""
    *batch, H, W = pictures.shape
    s1, s2 = block
    tiles = pictures.reshape(*batch, H // s1, s1, W // s2, s2).swapaxes(-3, -2)
    blocks: Array = tiles.reshape(*batch, -1, s1 * s2)
    return blocks


def pictures_of(blocks: Array, block: tuple[int, int], shape: tuple[int, int]) -> Array:
    """The pictures (…, H, W) of this shape that consist of blocks (…, n, P): the inverse of `blocks_of`."""
    batch, (s1, s2), (H, W) = blocks.shape[:-2], block, shape
    tiles = blocks.reshape(*batch, H // s1, W // s2, s1, s2).swapaxes(-3, -2)
    pictures: Array = tiles.reshape(*batch, H, W)
    return pictures


class BlockProjection:
    """G = Φ⁺Φ on each block of pictures: the part of them that Φ (M, P) measures.

    G is its own adjoint and G G = G, so that a function is all there is to it.

    Parameters
    ----------
    Phi
        The matrix Φ.
    block
        The size (s₁, s₂) of a block in pixels, with s₁·s₂ = P.
    ops, dtype
        The engine (the CPU engine if None), and the precision in which it computes.
    """

    def __init__(
        self, Phi: Array, block: tuple[int, int], *, ops: ReferenceOps | None = None, dtype: DTypeLike = np.float32
    ) -> None:
        self.ops, self.block = ops or engine("cpu"), block
        _, scales, rows = np.linalg.svd(Phi, full_matrices=False)
        rows = rows[scales > DEPENDENT * scales[0]]
        # Both are kept because products of arrays in C order are the fastest.
        self._rows, self._columns = (self.ops.asarray(each, dtype) for each in (rows, rows.T))

    def __call__(self, pictures: Array) -> Array:
        """G on the blocks of pictures (batch, H, W), whose sides are multiples of the block's."""
        seen = self.ops.matmul(self.ops.matmul(blocks_of(pictures, self.block), self._columns), self._rows)
        return self.ops.asarray(pictures_of(seen, self.block, pictures.shape[1:]), seen.dtype)
