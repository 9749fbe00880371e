"""Thresholding of joint entries: complex numbers, and vectors over the snapshots of a sample or over neighbours.

An entry z is a vector of L·G real or complex numbers, one for each of L snapshots and G neighbouring coordinates. Its
magnitude is m = ‖z‖₂ and its direction is e = z/m. Selection and thresholding compare magnitudes. For a single real
number, e is its sign, and all this is what `ReferenceOps.shrink_select` says.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from cuista.checks import Array
from cuista.kernels.constants import KIND, NEAR, OFF, PASSED, SHRUNK_UP


class Joint(NamedTuple):
    """Which numbers are thresholded together.

    Attributes
    ----------
    snapshots
        The number L of rows of a sample, which follow one another: a sample's iterate is (L, N).
    group
        The number G of neighbouring coordinates, which divides N.
    """

    snapshots: int = 1
    group: int = 1

    def split(self, x: Array) -> Array:
        """An iterate (batch·L, N) as (batch, L, N/G, G), whose entries lie along the axes 1 and 3."""
        view: Array = x.reshape(-1, self.snapshots, x.shape[1] // self.group, self.group)
        return view

    def magnitudes(self, xp: Any, x: Array) -> Array:
        """The magnitudes ‖z‖₂ of an iterate's entries, (batch, N/G), in its precision.

        Unless entries are single real numbers, they are roots of sums of squares, which are exact where squares are, so
        that ties are ties. Squares have a range: in single precision, entries below 1e-22 count as 0, and those above
        1e19 as infinitely large; in double precision, those below 1e-162 and above 1e154.
        """
        if is_plain(x, self):
            return xp.abs(x)  # type: ignore[no-any-return]
        sums = squares(xp, x) if self == ALONE else squares(xp, self.split(x)).sum(axis=(1, 3))
        return xp.sqrt(sums)  # type: ignore[no-any-return]

    def present(self, x: Array) -> Array:
        """Whether the entries of signals (batch, N) or (batch, L, N) are not zero, (batch, N/G)."""
        if self == ALONE:
            found: Array = x != 0
            return found
        present: Array = (self.split(x.reshape(-1, x.shape[-1])) != 0).any(axis=(1, 3))
        return present

    def directions(self, xp: Any, x: Array) -> Array:
        """The directions e = z/‖z‖₂ of an iterate's entries, 0 where z is, (batch·L, N)."""
        if is_plain(x, self):
            return xp.sign(x)  # type: ignore[no-any-return]
        m = self.magnitudes(xp, x)
        directions: Array = x / self.spread(xp, xp.where(m > 0, m, xp.ones_like(m)), x)
        return directions

    def inner(self, a: Array, b: Array) -> Array:
        """Re⟨a_i, b_i⟩ of each entry of two iterates, (batch, N/G)."""
        products: Array = (a.conj() * b).real
        if self != ALONE:
            products = self.split(products).sum(axis=(1, 3))
        return products

    def samples(self, x: Array) -> Array:
        """Rows (batch·L, P) as one row for each sample, (batch, L·P)."""
        return x.reshape(-1, self.snapshots * x.shape[1])

    def repeat(self, xp: Any, values: Array) -> Array:
        """Values (batch, …), one for each sample, repeated for each of its rows, (batch·L, …)."""
        if self.snapshots == 1:
            return values
        repeated: Array = xp.repeat(values, self.snapshots, axis=0)
        return repeated

    def spread(self, xp: Any, values: Array, x: Array) -> Array:
        """Values (batch, N/G), one for each entry, repeated for each number of an iterate (batch·L, N)."""
        if self == ALONE:
            return values
        spread: Array = xp.broadcast_to(values[:, None, :, None], self.split(x).shape).reshape(x.shape)
        return spread


# Each number is an entry of its own.
ALONE = Joint()


def is_plain(x: Array, joint: Joint) -> bool:
    """Whether the entries of an iterate are real numbers."""
    return joint == ALONE and x.dtype.kind != "c"


def squares(xp: Any, x: Array) -> Array:
    """|x|² of each number."""
    if x.dtype.kind != "c":
        return xp.square(x)  # type: ignore[no-any-return]
    found: Array = xp.square(x.real)
    found += xp.square(x.imag)
    return found


def as_real(x: Array) -> Array:
    """A view of numbers (…, N) as real ones: complex ones become pairs, (…, 2N). A copy if they are not contiguous."""
    return np.ascontiguousarray(x).view(real_of(x.dtype))


def as_pairs(array: Array) -> Array:
    """A view of contiguous complex numbers (…) as real ones (…, 2); real arrays as they are."""
    return array.view(real_of(array.dtype)).reshape(*array.shape, 2) if array.dtype.kind == "c" else array


def dtype_for(array: Array, dtype: Any) -> np.dtype[Any]:
    """The dtype in which to compute with an array: the given one, made complex in its precision if the array is."""
    return np.result_type(dtype, np.complex64) if array.dtype.kind == "c" else np.dtype(dtype)


def real_of(dtype: Any) -> np.dtype[Any]:
    """The dtype of the real part of numbers of this dtype."""
    real: np.dtype[Any] = np.finfo(dtype).dtype
    return real


def shrink(xp: Any, z: Array, theta: Array, cutoff: Array, window: float, joint: Joint) -> tuple[Array, Array]:
    """Shrink the entries of z whose magnitude is no more than the cutoff, by θ.

    An entry passes if m > θ and m > cutoff. Every other one becomes (1 − θ/m) z if m > θ, for θ < 0 too, and 0 if not,
    or if m = 0. A NaN of z or θ is passed on.

    Parameters
    ----------
    z
        (batch·L, N).
    theta, cutoff
        They broadcast to (batch, N/G).
    window
        As in `ReferenceOps.shrink_select`.

    Returns
    -------
    x_next : shaped like z
    code : (batch, N/G) int8
        OFF, PASSED or SHRUNK_UP, plus NEAR.
    """
    m = joint.magnitudes(xp, z)
    among_largest, above = m > cutoff, m > theta
    passed = above & among_largest
    shrunk = above & ~passed & (m > 0)
    factor = xp.where(shrunk, 1 - theta / xp.where(m > 0, m, 1), passed.astype(m.dtype))
    factor = xp.where(theta == theta, factor, theta).astype(m.dtype)
    x_next = (factor[:, None, :, None] * joint.split(z)).reshape(z.shape)
    code = xp.where(passed, PASSED, xp.where(shrunk, SHRUNK_UP, OFF))
    if window:
        code |= xp.where(among_largest & (xp.abs(m - theta) < window * theta), NEAR, 0)
    return x_next, code.astype(np.int8)


def shrink_backward(
    xp: Any, delta: Array, code: Array, z: Array, theta: Array, window: float, joint: Joint
) -> tuple[Array, Array]:
    """∂L/∂z and each entry's ∂L/∂θ (batch, N/G), float64, from δ = ∂L/∂x_next.

    A gradient of a real L is g = ∂L/∂Re + i ∂L/∂Im, so that dL = Re⟨g, dx⟩. Let c = Re⟨e, δ⟩.

    - Where an entry passed, d_z = δ.
    - Where it was shrunk, x = z − θ e. Since de = (dz − e Re⟨e, dz⟩)/m, d_z = δ − (θ/m)(δ − c e), and ∂L/∂θ = −c.
    - Where it is off, both are 0.
    - The ramp of a window h in place of the jump (`ReferenceOps.shrink_select_backward`) adds e Re⟨z, δ⟩/(2hθ) to d_z
      and −Re⟨z, δ⟩/(2hθ) to ∂L/∂θ, where Re⟨z, δ⟩ = m c.
    """
    m, kind = joint.magnitudes(xp, z), code & KIND
    m_safe = xp.where(m > 0, m, 1).astype(m.dtype)
    shape, z, delta = z.shape, joint.split(z), joint.split(delta)
    along = (z.conj() * delta).real.sum(axis=(1, 3)) / m_safe  # c
    shrunk = kind == SHRUNK_UP
    share = xp.where(shrunk, theta / m_safe, 0)
    radial = share * along  # what is added to d_z along e
    d_theta = xp.where(shrunk, -along, 0).astype(np.float64)
    if window:
        # No entry is near a threshold of 0 or less.
        width = xp.where(theta > 0, 2 * window * theta, xp.ones_like(theta))
        ramp = xp.where(code & NEAR, m * along / width, 0)
        radial = radial + ramp
        d_theta -= ramp
    kept = ((kind != OFF) - share).astype(m.dtype)
    d_z = kept[:, None, :, None] * delta + (radial / m_safe).astype(m.dtype)[:, None, :, None] * z
    return d_z.reshape(shape), d_theta
