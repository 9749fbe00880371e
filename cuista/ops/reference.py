"""Every primitive defined in plain NumPy. An engine that computes faster must give these results.

Samples are rows: x is (batch, N), y and residuals are (batch, M), the measurement matrix A and an analytic weight
W are (M, N).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cuista.checks import Array
from cuista.counter import CODES, Key
from cuista.errors import NumericalError
from cuista.kernels.constants import BETA1, BETA2, EPSILON, KIND, NEAR, OFF, PASSED, SHRUNK_DOWN, SHRUNK_UP
from cuista.ops import joint as entries
from cuista.ops.borders import (
    Shape,
    fold_reflected,
    gather,
    map_shape,
    pad_reflected,
    pad_zeros,
    picture_shape,
    spread,
    taps,
)
from cuista.ops.joint import ALONE, Joint, is_plain, real_of
from cuista.ranks import ranks

Result = TypeVar("Result")
# A number, or an engine's array that holds just one: reading it may have to wait for a GPU.
Scalar = Any
# A number, or an array of several; see each function for the shapes that it takes.
Scalars = Any

NOT_POSITIVE = "a matrix has rows that depend on the others, so that A Aᵀ is singular: give a ridge of more than 0"


class Normal(NamedTuple):
    """Non-zero entries drawn from N(mean, std²)."""

    mean: float = 0.0
    std: float = 1.0


class Bernoulli(NamedTuple):
    """Non-zero entries equal to v0 with probability q, else to v1."""

    q: float = 0.5
    v0: float = 1.0
    v1: float = 1.0


Law = Normal | Bernoulli


class Descent(NamedTuple):
    """How `ReferenceOps.adam` updates a parameter.

    Attributes
    ----------
    rate
        The learning rate, including the bias correction of the moments.
    factors, scale
        (T,) float64, one factor per layer, and a number. The gradient is first multiplied by both.
    logarithmic
        Whether the parameter's logarithm is updated instead of the parameter.
    """

    rate: float
    factors: Array
    scale: Scalar
    logarithmic: bool


class OuterSum(NamedTuple):
    """A matrix's gradient, not formed yet: Σ_i a_i ⊗ b_i = aᵀ b over a batch, with a (batch, P) and b (batch, Q)."""

    a: Array
    b: Array


# The gradients of matrices (T, P, Q), not formed yet: for each matrix, the terms whose sum its gradient is.
OuterSums = list[list[OuterSum]]


class Signals(NamedTuple):
    """The distribution of training signals: see `Problem.sample_weighted`.

    Attributes
    ----------
    A
        (M, N).
    probability, hard_probability
        (N,) each: the probability that an entry is non-zero in ordinary and in hard signals. The random stream of hard
        signals is the ordinary stream plus `HARD_STREAM`.
    log_ratio
        (N/G + 1,) for groups of G entries: if ordinary signals have the density f and hard signals the density g, then
        log(g / f) of a signal is the sum of these values over its non-zero groups, plus the last value.
    magnitude
        The law of the non-zero entries.
    noise
        10^(−SNR/20), or 0 without noise.
    hard
        The share of hard signals in a batch, rounded down to whole signals.
    unit
        The norm to which measurements are scaled, and signals with them; 0 to leave them as they are. See
        `Unrolled.unit`.
    positive
        Whether the non-zero entries are the absolute values of what the law gives.

    Row i of a batch is hard if `hard_before` increases from i to i + 1, which spreads hard signals evenly over the
    batch. Hard and ordinary rows each take the next random numbers of their own stream.
    """

    A: Array
    probability: Array
    hard_probability: Array
    log_ratio: Array
    magnitude: Law
    noise: float
    hard: float
    unit: float = 0.0
    positive: bool = False

    def hard_before(self, row: int) -> int:
        """How many of the rows before this one are hard."""
        return int(self.hard * row)


class FusedStep(Protocol):
    """An engine's kernel for a training step except Adam: signals, forward pass, loss and backward pass.

    Attributes
    ----------
    shard
        How many signals are a shard: see `Unrolled.shard`.
    """

    shard: int

    def suits(self, batch: int, density: float) -> bool:
        """Whether it is likely to be faster than separate launches, given the share of non-zeros in the iterates."""

    def __call__(
        self,
        parameters: dict[str, Array],
        support: tuple[int, ...],
        key: Key,
        batch: int,
        depth: int,
        window: float,
        weight_power: float,
        rows: slice | None = None,
    ) -> tuple[Scalar, dict[str, Array]]:
        """Return the loss and gradients that `Problem.sample_weighted` and `Network.loss_and_gradients` give.

        They are those of these rows of the batch, which are whole shards, or of all.
        """


class ReferenceOps:
    """The definition of every primitive.

    Attributes
    ----------
    name
        The device's name.
    engine
        What computes on it: `numpy`, `native` or `cuda`.
    xp
        The engine's array module, with NumPy's functions.
    """

    name = "cpu"
    engine = "numpy"
    xp: Any = np
    # How many samples, perturbed matrices and pictures are a shard of a training batch: see `Unrolled.shard`.
    shard, matrices, pictures = 64, 2, 1
    # Whether `proximal_iterations` is faster than iterations with products with A and Aᵀ, if N ≤ 2M.
    iterates_by_gram = False

    def __init__(self) -> None:
        self._kept: WeakKeyDictionary[Any, dict[Any, Array]] = WeakKeyDictionary()
        self._guard = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()  # what it keeps can be made again

    def computing(self) -> AbstractContextManager[Any]:
        """A context for computing with this engine's arrays in this thread.

        On the CPU, numbers within it may become infinite or NaN without a warning, as they do on a GPU. On a GPU, it
        makes the engine's GPU CuPy's current device. `asarray` and `in_batches` need no such context around them.
        """
        return np.errstate(over="ignore", divide="ignore", invalid="ignore")

    def kept(self, owner: Any, name: Any, make: Callable[[], Array]) -> Array:
        """The array that `make` returns, kept under `name` while both the engine and `owner` exist.

        It is made once, or once by each of the threads that ask for it at the same time, which all get the same one.
        """
        with self._guard:
            arrays = self._kept.setdefault(owner, {})
        kept = arrays.get(name)
        return arrays.setdefault(name, make()) if kept is None else kept

    # -- arrays -------------------------------------------------------------------------------------------------

    def asarray(self, array: Any, dtype: DTypeLike) -> Array:
        """The array on this engine's device, contiguous and of this dtype; itself if it already is all of that."""
        return np.asarray(array, dtype=dtype, order="C")

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """An uninitialised array of this engine."""
        array: Array = self.xp.empty(shape, dtype)
        return array

    def to_numpy(self, array: Array) -> Array:
        """The array in host memory."""
        return np.asarray(array)

    def in_batches(
        self, shape: tuple[int, ...], work: Callable[[slice], Result], batch: int | None = None
    ) -> list[Result]:
        """Call `work` on consecutive slices of the rows of an array of this shape, and return the results in order.

        A slice has `batch` rows, or as many as suit the engine.
        """
        batch = batch or self.rows_at_a_time(shape)
        return [work(slice(first, min(first + batch, shape[0]))) for first in range(0, shape[0], batch)]

    def rows_at_a_time(self, shape: tuple[int, ...]) -> int:
        """How many rows of an array of this shape suit the engine: the same whoever computes them."""
        return max(shape[0], 1)

    def shared_out(self, shape: tuple[int, ...], work: Callable[[slice], Any], batch: int | None = None) -> list[Any]:
        """`in_batches`, with the slices shared out to all ranks, each of which gets all results.

        The results are arrays, numbers or tuples of numbers. All ranks must call this with the same arguments.
        """
        rows, size = shape[0], batch or self.rows_at_a_time(shape)

        def part(numbers: range) -> list[Any]:
            first, last = numbers.start * size, min(numbers.stop * size, rows)
            if last <= first:
                return []
            return self.in_batches(
                (last - first, *shape[1:]), lambda each: work(slice(first + each.start, first + each.stop)), size
            )

        return ranks().gathered(-(-rows // size), part)

    def apply(
        self,
        work: Callable[[Array], Array],
        rows: Array,
        shape: int | tuple[int, ...],
        dtype: DTypeLike,
        batch: int | None = None,
    ) -> Array:
        """Apply `work` to rows (samples, …) in batches, and return its results (samples, …), each of this shape.

        The rows and the results are in host memory. A batch has `batch` rows, or as many as suit the engine. Ranks
        share the batches out, and each gets all results.
        """
        results = np.empty((len(rows), *((shape,) if isinstance(shape, int) else shape)), dtype)

        def on(part: slice) -> Array:
            results[part] = self.to_numpy(work(rows[part]))
            return results[part]

        parts = self.shared_out(results.shape, on, batch)
        if ranks().size > 1 and parts:
            np.concatenate(parts, out=results)
        return results

    # -- products -----------------------------------------------------------------------------------------------

    def matmul(self, a: Array, b: Array, out: Array | None = None) -> Array:
        """The product a b, or the products of stacks (…, P, Q) and (…, Q, R), written to `out` if it is given."""
        product: Array = self.xp.matmul(a, b, out=out)
        return product

    def sparse_matmul(self, a: Array, b: Array) -> Array:
        """The product a b, where the rows of a are mostly zeros. An engine may make use of that."""
        return self.matmul(a, b)

    def matmul_where(self, a: Array, b: Array, transposed: Array, where: Array) -> Array:
        """The product a b (P, R) in the entries where `where`, (P, R) int8, is not 0. The others are right, too, or 0.

        An engine uses either b (Q, R) or its transpose (R, Q), whichever is faster. Both are contiguous.
        """
        return self.matmul(a, b)

    def matmul_by_rows(self, a: Array, b: Array, density: float) -> Array:
        """The product a b, in which the bits of a row do not depend on the other rows of a.

        `density` is the expected share of non-zeros in a; an engine may make use of it.
        """
        return self.matmul(a[:, None], b)[:, 0]

    def form_outer(self, sums: OuterSums, out: Array) -> Array:
        """Write matrices (T, P, Q) that are given as sums to `out`, and return it; where there are no terms, 0."""
        for matrix, terms in zip(out, sums, strict=True):
            if not terms:
                matrix[...] = 0
            for i, (a, b) in enumerate(terms):
                if i == 0:
                    self.matmul(a.T, b, out=matrix)
                else:
                    matrix += self.matmul(a.T, b)
        return out

    def solve_positive(self, G: Array, B: Array) -> Array:
        """G⁻¹B for stacks of Hermitian positive definite G (n, M, M) and of B (n, M, K), in double precision.

        Raises
        ------
        NumericalError
            If a G is singular, where the engine can tell.
        """
        try:
            solutions: Array = self.xp.linalg.solve(G, B)
        except np.linalg.LinAlgError as error:
            raise NumericalError(NOT_POSITIVE) from error
        return solutions

    # -- thresholding with support selection --------------------------------------------------------------------

    def shrink_select(
        self,
        x: Array,
        u: Array,
        step_size: Scalar,
        threshold: Scalars,
        k: int | Array,
        window: float = 0.0,
        one_sided: bool = False,
        joint: Joint = ALONE,
    ) -> tuple[Array, Array]:
        """One proximal step: soft thresholding of z = x + α u that lets the largest entries pass unshrunk.

        With τ the (k+1)-th largest |z| of a row, an entry passes unchanged if |z| > θ and |z| > τ (both strict, so
        that on ties fewer than k pass); every other entry becomes sign(z)·max(|z| − θ, 0), with sign(0) = 0. A
        negative θ moves unselected entries outwards. Where entries are complex or `joint`, their magnitudes take the
        place of |z|, and their directions that of sign(z): see `cuista.ops.joint`.

        Parameters
        ----------
        x, u
            (batch, N): the iterate and its correction Wᵀ(y − A x).
        step_size
            α.
        threshold
            θ: a number, (N,) with one per coordinate, (batch, 1) with one per sample, or (batch, N).
        joint
            Which numbers are thresholded together. With L snapshots in groups of G, x and u are (batch·L, N), and N/G
            takes the place of N everywhere else.
        k
            How many entries may pass, 0 or more: a number, or (batch,) with one per sample. At most N − 1 pass, so the
            smallest never does.
        window
            Mark as NEAR the entries among the k largest whose |z| is within `window`·θ of θ (none if 0).
        one_sided
            Threshold max(z, 0) in place of z. Every entry with z ≤ 0 is then OFF, whatever θ is, and is never among the
            largest, so that the backward pass is the same function of the codes. Only for entries that are single real
            numbers.

        Returns
        -------
        x_next : (batch, N)
        code : (batch, N) int8
            OFF, PASSED, SHRUNK_UP (z > 0) or SHRUNK_DOWN (z < 0), plus NEAR. Where entries are complex or joint, all
            shrunk ones are SHRUNK_UP.

        References
        ----------
        Chen, Liu, Wang, Yin, NeurIPS 2018: support selection.
        """
        xp, real = self.xp, real_of(x.dtype)
        theta, z = self.asarray(threshold, real), x + self.asarray(step_size, real) * u
        z = xp.maximum(z, 0) if one_sided else z
        magnitude = joint.magnitudes(xp, z)
        last = magnitude.shape[1] - 1
        cutoff: Any = np.inf  # if no entry may pass: no magnitude exceeds it
        if isinstance(k, int) and k > 0:
            rank = max(last - k, 0)
            cutoff = xp.partition(magnitude, rank, axis=1)[:, rank, None]
        elif not isinstance(k, int):
            rank = xp.maximum(last - k, 0)[:, None]
            cutoff = xp.take_along_axis(xp.sort(magnitude, axis=1), rank, axis=1)
        if not is_plain(x, joint):
            return entries.shrink(xp, z, theta, cutoff, window, joint)
        among_largest = magnitude > cutoff
        above = magnitude > theta
        passed = above & among_largest
        x_next = xp.where(passed, z, xp.sign(z) * xp.maximum(magnitude - theta, 0))
        shrunk = above & ~passed & (z != 0)
        code = xp.where(passed, PASSED, xp.where(shrunk, xp.where(z > 0, SHRUNK_UP, SHRUNK_DOWN), OFF))
        if window:
            code |= xp.where(among_largest & (xp.abs(magnitude - theta) < window * theta), NEAR, 0)
        return x_next, code.astype(np.int8)

    def hard_threshold(
        self, z: Array, threshold: Scalar | Array, window: float = 0.0, one_sided: bool = False, joint: Joint = ALONE
    ) -> tuple[Array, Array]:
        """Hard thresholding of z (batch, N): z where |z| > θ, else 0; and the codes for `shrink_select_backward`.

        See Blumensath, Davies, Appl. Comput. Harmon. Anal. 2009. The derivative with respect to θ is 0 almost
        everywhere, so θ gets a gradient only from a `window`. Everything else is as in `shrink_select`.
        """
        xp, theta = self.xp, self.asarray(threshold, real_of(z.dtype))
        magnitude = joint.magnitudes(xp, z)
        possible = z > 0 if one_sided else True
        passed = (magnitude > theta) & possible
        code = xp.where(passed, PASSED, OFF)
        if window:
            code |= xp.where((xp.abs(magnitude - theta) < window * theta) & possible, NEAR, 0)
        return xp.where(joint.spread(xp, passed, z), z, xp.zeros_like(z)), code.astype(np.int8)

    def shrink_select_backward(
        self,
        delta: Array,
        code: Array,
        x: Array,
        u: Array,
        step_size: Scalar,
        threshold: Scalars,
        window: float = 0.0,
        joint: Joint = ALONE,
    ) -> tuple[Array, Scalar, Scalars]:
        """The backward pass of `shrink_select`, from δ = ∂L/∂x_next.

        With the selection held fixed, ∂x_next/∂z is 1 where an entry passed or was shrunk and 0 where it is off,
        and ∂x_next/∂θ is −sign(z) where it was shrunk. Hence d_z is δ where an entry passed or was shrunk and 0 where
        it is off, ∂L/∂α = Σ d_z u, and ∂L/∂θ = −Σ sign(z) δ over the shrunk entries.

        That derivative does not see that an entry among the k largest *jumps* from 0 to z when |z| rises past θ,
        though the expected loss, in which |z| has a density at θ, depends on it. A `window` h > 0 replaces the jump by
        a ramp: NEAR entries, whose |z| is within h θ of θ, add δ |z| / (2 h θ) to d_z and −δ z / (2 h θ) to ∂L/∂θ.

        For complex and joint entries, see `cuista.ops.joint.shrink_backward`; ∂L/∂α = Re Σ d̄_z u.

        Parameters
        ----------
        delta
            (batch, N).
        code, x, u, step_size, threshold, window, joint
            The arguments of `shrink_select`, and the code that it returned.

        Returns
        -------
        d_z : (batch, N)
            ∂L/∂z, which is also this step's contribution to ∂L/∂x.
        d_step_size : number, float64
        d_threshold : shaped like the threshold, float64
        """
        xp, real = self.xp, real_of(x.dtype)
        alpha, theta = self.asarray(step_size, real), self.asarray(threshold, real)
        if is_plain(x, joint):
            d_z, d_theta = self._plain_backward(delta, code, x + alpha * u if window else None, theta, window)
        else:
            d_z, d_theta = entries.shrink_backward(xp, delta, code, x + alpha * u, theta, window, joint)
        if theta.ndim < 2:
            d_threshold = d_theta.sum(axis=0) if theta.ndim else d_theta.sum()
        else:
            d_threshold = d_theta if theta.shape == d_theta.shape else d_theta.sum(axis=1, keepdims=True)
        return d_z, self.inner(d_z, u), d_threshold

    def _plain_backward(
        self, delta: Array, code: Array, z: Array | None, theta: Array, window: float
    ) -> tuple[Array, Array]:
        """∂L/∂z and each entry's ∂L/∂θ for real entries; z is needed only if there is a window."""
        xp, kind = self.xp, code & KIND
        d_z = xp.where(kind != OFF, delta, xp.zeros_like(delta))
        sign = (kind == SHRUNK_UP).astype(delta.dtype) - (kind == SHRUNK_DOWN).astype(delta.dtype)
        d_theta = (-sign * delta).astype(np.float64)
        if z is not None:
            # No entry is near a threshold of 0 or less.
            width = xp.where(theta > 0, 2 * window * theta, xp.ones_like(theta))
            slope = xp.where(code & NEAR, delta / width, xp.zeros_like(delta)).astype(z.dtype)
            d_z += slope * xp.abs(z)
            d_theta -= slope * z
        return d_z, d_theta

    def inner(self, a: Array, b: Array) -> Scalar:
        """Re Σ ā b, in float64."""
        xp = self.xp
        if a.dtype.kind != "c":
            return xp.sum(a * b, dtype=np.float64)
        return xp.sum(a.real * b.real + a.imag * b.imag, dtype=np.float64)

    # -- layers with an analytic weight -----------------------------------------------------------------------------

    def pack(self, matrix: Array) -> Array:
        """The matrix (N, N) as `analytic_layers` takes it, which may be in another layout."""
        return matrix

    def analytic_layers(
        self,
        x: Array | None,
        Wy: Array,
        packed: Array,
        step_size: Array,
        threshold: Array,
        support: tuple[int, ...],
        one_sided: bool = False,
        joint: Joint = ALONE,
    ) -> Array:
        """Several layers with one analytic weight, x ← η(x + α_t (Wᴴy − WᴴA x); θ_t, k_t), without a backward pass.

        Parameters
        ----------
        x
            (batch, N), the iterate before these layers; None means 0.
        Wy
            (batch, N), Wᴴy.
        packed
            −AᵀW̄ (N, N), from `pack`.
        step_size, threshold, support
            α, (layers,); θ, (layers,) or (layers, N); and k, one for each layer.
        one_sided, joint
            As in `shrink_select`: with L snapshots in groups of G, x and Wy are (batch·L, N), and θ has N/G entries
            in place of N.

        Returns
        -------
        x : (batch, N)
            The iterate after these layers.
        """
        for t, k in enumerate(support):
            u = Wy
            if x is not None:
                u = self.sparse_matmul(x, packed)
                u += Wy
            before = self.xp.zeros_like(Wy) if x is None else x
            x, _ = self.shrink_select(before, u, step_size[t], threshold[t], k, 0.0, one_sided, joint)
        assert x is not None  # there is at least one layer
        return x

    # -- iterations with a Gram matrix ------------------------------------------------------------------------------

    def proximal_iterations(
        self,
        x: Array,
        ahead: Array,
        t: Array,
        Ay: Array,
        packed: Array,
        step_size: float,
        threshold: Scalars,
        count: int,
        momentum: bool,
        restart: bool = False,
        one_sided: bool = False,
    ) -> tuple[Array, Array, Array]:
        """Iterations of ISTA or FISTA for a real matrix, x ← η(a + α (Aᵀy − AᵀA a); θ) and a ← x + β (x − x₋).

        β = (t₋ − 1) / t, where t = (1 + √(1 + 4 t₋²)) / 2 begins with 1: Beck, Teboulle, SIAM J. Imaging Sciences 2009.

        Parameters
        ----------
        x, ahead
            x and a, (batch, N).
        t
            (batch, 1), float64.
        Ay
            Aᵀy, (batch, N).
        packed
            −AᵀA (N, N), from `pack`.
        step_size, threshold
            The step size α, and the threshold θ ≥ 0: a number, (N,), (batch, 1) or (batch, N).
        count
            The number of iterations.
        momentum
            Whether there is momentum; if not, β = 0.
        restart
            Whether t becomes 1 before it is used where ⟨a − x, x − x₋⟩ > 0.
        one_sided
            Whether negative entries become 0, too.

        Returns
        -------
        x, ahead, t
            The three after these iterations. Those given stay as they are.
        """
        xp, dtype = self.xp, x.dtype
        theta, alpha = self.asarray(threshold, dtype), self.asarray(step_size, dtype)
        for _ in range(count):
            z = ahead + alpha * (self.sparse_matmul(ahead, packed) + Ay)
            x_next = xp.maximum(z - theta, 0) if one_sided else z - xp.clip(z, -theta, theta)
            change = x_next - x
            if restart:
                against = xp.sum((ahead - x_next) * change, axis=1, keepdims=True, dtype=np.float64) > 0
                t = xp.where(against, 1.0, t)
            t_next = (1 + xp.sqrt(1 + 4 * t * t)) / 2
            beta = (t - 1) / t_next if momentum else xp.zeros_like(t)
            x, ahead, t = x_next, x_next + beta.astype(dtype) * change, t_next
        return x, ahead, t

    # -- layers of convolutional networks ---------------------------------------------------------------------------

    def conv_layer(
        self,
        x: Array | None,
        padded: Array,
        W: Array,
        D: Array,
        step_size: Scalar,
        threshold: Scalars,
        k: int = 0,
        stride: int = 1,
    ) -> tuple[Array, Array, Any]:
        """One proximal step on a picture's maps: z = x + α W ⋆ r, thresholded, and the picture that results from it.

        All products are valid correlations: the analysis of the padded residual is (W ⋆ r)_m = w_m ⋆ r, and the
        synthesis is Σ_m d_m ⋆ x_m. Thresholding is as in `shrink_select`, with all maps together as one row. With a
        stride q, maps have entries in every q-th row and column only, from the first on. The result is that of a
        stride of 1 whose maps are 0 elsewhere.

        Parameters
        ----------
        x
            Maps (F, h, w) with h = ⌈(H + s₁ − 1)/q⌉ and w = ⌈(W + s₂ − 1)/q⌉; None means 0.
        padded
            The residual r with its borders, (H + 2(s₁ − 1), W + 2(s₂ − 1)).
        W, D
            The filters of the analysis and of the synthesis, (s₁, s₂, F).
        step_size, threshold, k
            α, θ and how many entries may pass unshrunk. θ may be a number, or (F,) with one for each filter.
        stride
            The stride q.

        Returns
        -------
        x_next : (F, h, w)
        picture : (H, W)
            The synthesis of x_next.
        record
            What `conv_layer_backward` needs.
        """
        xp, (s1, s2, filters) = self.xp, D.shape
        picture = padded.shape[0] - 2 * (s1 - 1), padded.shape[1] - 2 * (s2 - 1)
        shape = (filters, *map_shape(picture, (s1, s2), stride))
        rows = (1, -1) if k else (filters, -1)  # without selection, entries are independent
        u = self.matmul(_by_filter(W), self.taps(padded, (s1, s2), stride)).reshape(rows)
        before = xp.zeros_like(u) if x is None else x.reshape(rows)
        theta = self.asarray(threshold, np.float64)
        if theta.ndim:
            theta = theta[:, None] if not k else xp.repeat(theta, shape[1] * shape[2])
        x_next, code = self.shrink_select(before, u, step_size, theta, k)
        x_next = x_next.reshape(shape)
        record = (code, before, u, x_next, padded, W, D, step_size, theta, stride)
        return x_next, self.synthesize(x_next, D, stride, picture), record

    def conv_layer_backward(
        self,
        d_x: Array | None,
        d_picture: Array,
        record: Any,
        wants_weight: bool = True,
        wants_dictionary: bool = False,
    ) -> tuple[Array, Array, Scalar, Scalars, Array | None, Array | None]:
        """The backward pass of `conv_layer`, from ∂L/∂x_next (None for 0) and ∂L/∂picture.

        δ = ∂L/∂x_next + Σᵀ ∂L/∂picture. The adjoint Σᵀ of the synthesis correlates the picture, padded with zeros, with
        the filters rotated by 180°. Then d_z, ∂L/∂α = Σ d_z u and ∂L/∂θ are as in `shrink_select_backward`; ∂L/∂r is α
        times the adjoint of the analysis applied to d_z; and ∂L/∂w_m is the valid correlation of the padded residual
        with α (d_z)_m. At the tap (i, j), ∂L/∂d_m is Σ_p ∂L/∂picture(p) x_m(p + (i, j)): the correlation of the padded
        ∂L/∂picture with x_m, rotated by 180°.

        Parameters
        ----------
        d_x
            (F, h, w); it may be overwritten.
        d_picture
            (H, W).
        record
            From `conv_layer`.
        wants_weight, wants_dictionary
            Whether to compute ∂L/∂W, and ∂L/∂D.

        Returns
        -------
        d_z : (F, h, w)
            This layer's contribution to ∂L/∂x.
        d_padded : (H + 2(s₁ − 1), W + 2(s₂ − 1))
        d_step_size : number, float64
        d_threshold : number or (F,), float64
        d_weight, d_dictionary : (s₁, s₂, F), or None
        """
        code, x, u, x_next, padded, W, D, step_size, threshold, stride = record
        xp, (s1, s2, filters) = self.xp, D.shape
        copies = self.taps(pad_zeros(xp, d_picture, (s1, s2)), (s1, s2), stride)
        delta = self.matmul(_by_filter(D[::-1, ::-1]), copies).reshape(x.shape)
        if d_x is not None:
            delta = delta + d_x.reshape(x.shape)
        d_z, d_step_size, d_threshold = self.shrink_select_backward(delta, code, x, u, step_size, threshold)
        if threshold.ndim:
            d_threshold = d_threshold.reshape(filters, -1).sum(axis=1)
        flat = d_z.reshape(filters, -1)
        alpha = self.asarray(step_size, x.dtype)
        back = alpha * self.matmul(_by_tap(W), flat).reshape(-1, *x_next.shape[1:])
        d_padded = self.spread(back, (s1, s2), (padded.shape[0], padded.shape[1]), stride)
        d_weight = d_dictionary = None
        if wants_weight:
            d_weight = (alpha * self.matmul(self.taps(padded, (s1, s2), stride), flat.T)).reshape(W.shape)
        if wants_dictionary:
            d_dictionary = self.matmul(copies, x_next.reshape(filters, -1).T).reshape(D.shape)[::-1, ::-1]
        return d_z.reshape(x_next.shape), d_padded, d_step_size, d_threshold, d_weight, d_dictionary

    def conv_step(
        self,
        x: Array | None,
        f: Array,
        picture: Array,
        W: Array,
        D: Array,
        step_size: Scalar,
        threshold: Scalars,
        k: int = 0,
        stride: int = 1,
    ) -> tuple[Array, Array, Any]:
        """A layer of a network that denoises f (H, W): `conv_layer` on the residual f − picture, padded by reflection.

        The other parameters and the result are those of `conv_layer`.
        """
        shape = (D.shape[0], D.shape[1])
        residual = pad_reflected(self.xp, f - picture, shape)
        x_next, picture, record = self.conv_layer(x, residual, W, D, step_size, threshold, k, stride)
        return x_next, picture, (record, shape)

    def conv_step_backward(
        self,
        d_x: Array | None,
        d_picture: Array,
        record: Any,
        wants_weight: bool = True,
        wants_dictionary: bool = False,
    ) -> tuple[Array, Array, Scalar, Scalars, Array | None, Array | None]:
        """The backward pass of `conv_step`, like `conv_layer_backward`, with ∂L/∂picture (H, W) in place of d_padded.

        As r = f − picture, ∂L/∂picture is −∂L/∂r after the borders are folded back.
        """
        of_layer, shape = record
        d_z, d_padded, *parts = self.conv_layer_backward(d_x, d_picture, of_layer, wants_weight, wants_dictionary)
        d_step_size, d_threshold, d_weight, d_dictionary = parts
        return d_z, -fold_reflected(d_padded, shape), d_step_size, d_threshold, d_weight, d_dictionary

    def conv_steps(
        self,
        maps: Any,
        f: Array,
        pictures: Array,
        W: Array,
        D: Array,
        step_size: Scalar,
        thresholds: Array,
        k: int = 0,
        stride: int = 1,
    ) -> tuple[Any, Array, Any]:
        """`conv_step` for each of several pictures f (B, H, W), whose current estimates are `pictures` (B, H, W).

        `thresholds` has a row for each picture, or a single one for all, with one threshold or (F,) of them. The maps,
        in `maps` (None for 0) and in the result, are arranged as suits the engine.
        """
        of_picture = [thresholds[b if len(thresholds) > 1 else 0] for b in range(len(f))]
        after = [
            self.conv_step(x, own, picture, W, D, step_size, theta, k, stride)
            for x, own, picture, theta in zip(maps or [None] * len(f), f, pictures, of_picture, strict=True)
        ]
        return [x for x, *_ in after], self._stacked([picture for _, picture, _ in after]), after

    def conv_steps_backward(
        self, d_maps: Any, d_pictures: Any, record: Any, wants_weight: bool = True, wants_dictionary: bool = False
    ) -> tuple[Any, Array, Scalar, Array, Array | None, Array | None]:
        """The backward pass of `conv_steps`, as `conv_step_backward` for each picture.

        ∂L/∂θ has a row for each picture; the gradients with respect to α, W and D are sums over the pictures.
        """
        back = [
            self.conv_step_backward(d_x, d_picture, of_picture, wants_weight, wants_dictionary)
            for d_x, d_picture, (_, _, of_picture) in zip(
                d_maps or [None] * len(record), d_pictures, record, strict=True
            )
        ]
        d_x, d_pictures, d_step_size, d_threshold, *d_filters = zip(*back, strict=True)
        rows: Array = self.xp.stack([self.asarray(row, np.float64) for row in d_threshold])
        d_weight, d_dictionary = (None if parts[0] is None else sum(parts) for parts in d_filters)
        return list(d_x), self._stacked(d_pictures), sum(d_step_size), rows, d_weight, d_dictionary

    def _stacked(self, pictures: Sequence[Array]) -> Array:
        """Pictures (B, H, W) of single ones (H, W), without a copy of a single one."""
        stacked: Array = pictures[0][None] if len(pictures) == 1 else self.xp.stack(pictures)
        return stacked

    def synthesize(self, x: Array, dictionary: Array, stride: int = 1, picture: Shape | None = None) -> Array:
        """The picture Σ_m d_m ⋆ x_m (H, W) of maps (F, h, w) with a stride, and filters (s₁, s₂, F).

        If `picture` does not say (H, W), it is the largest picture with such maps.
        """
        s1, s2, filters = dictionary.shape
        copies = self.matmul(_by_tap(dictionary), x.reshape(filters, -1))
        picture = picture or picture_shape((x.shape[1], x.shape[2]), (s1, s2), stride)
        return self.gather(copies.reshape(-1, *x.shape[1:]), (s1, s2), picture, stride)

    def taps(self, image: Array, filter_shape: Shape, stride: int = 1) -> Array:
        """The shifted copies (s₁s₂, ⌈H/q⌉·⌈W/q⌉) of an image (H + s₁ − 1, W + s₂ − 1): see `borders.taps`."""
        return taps(self.xp, image, filter_shape, stride=stride)

    def gather(self, copies: Array, filter_shape: Shape, shape: Shape, stride: int = 1) -> Array:
        """The image (H, W) of this shape that `borders.gather` makes of copies (s₁s₂, h, w)."""
        image: Array = self.xp.zeros(shape, copies.dtype)
        gather(copies, image, filter_shape, stride=stride)
        return image

    def spread(self, copies: Array, filter_shape: Shape, shape: Shape, stride: int = 1) -> Array:
        """The adjoint of `taps`: the image (H + s₁ − 1, W + s₂ − 1) of this shape of copies (s₁s₂, ⌈H/q⌉, ⌈W/q⌉)."""
        image: Array = self.xp.zeros(shape, copies.dtype)
        spread(copies, image, filter_shape, stride=stride)
        return image

    # -- measurements and loss --------------------------------------------------------------------------------------

    def in_units(self, y: Array, unit: float) -> tuple[Array, Array]:
        """Measurements y (…, M) scaled to norm `unit`, y / s, and the factors s = ‖y‖₂ / unit (…, 1); s = 1 for y = 0.

        The largest real or imaginary part is divided out first, so that no square overflows or vanishes.
        """
        xp, real = self.xp, real_of(y.dtype).type
        if y.dtype.kind == "c":
            scaled, factors = self.in_units(self.asarray(y, y.dtype).view(real), unit)
            return scaled.view(y.dtype), factors
        peak = xp.abs(y).max(axis=-1, keepdims=True)
        peak = xp.where(peak > 0, peak, xp.ones_like(peak))
        y = y / peak
        factor = xp.sqrt(xp.square(y).sum(axis=-1, keepdims=True)) / real(unit)
        factor = xp.where(factor > 0, factor, xp.ones_like(factor))
        return y / factor, factor * peak

    def half_squared_error(self, x: Array, target: Array, weights: Array | None = None) -> tuple[Scalar, Array]:
        """The loss ½ Σ_i w_i ‖x_i − x*_i‖² over the batch, and its derivative w_i (x_i − x*_i).

        `weights` is (batch,); None means 1 for every sample.
        """
        error = x - target
        delta: Array = error if weights is None else error * _per_sample(weights.astype(real_of(x.dtype)), x)
        return 0.5 * self.inner(error, delta), delta

    # -- descent ------------------------------------------------------------------------------------------------

    def track_loss(self, loss: Scalar, batch: int, mean_loss: Array) -> Scalar:
        """Update the running mean L̄ of the loss per sample L, in place, and return the scale of relative descent.

        The scale is 1 / (batch √(L L̄)). `mean_loss` is a zero-dimensional float64 array, 0 before the first loss.
        """
        per_sample = loss / batch
        mean_loss[...] = 0.99 * mean_loss + 0.01 * per_sample if mean_loss else per_sample
        return 1 / (batch * np.sqrt(max(float(per_sample * mean_loss), np.finfo(float).tiny)))

    def adam(self, parameter: Array, gradient: Array, mean: Array, square: Array, descent: Descent) -> None:
        """Adam's update of a parameter and of its moments, in place.

        Parameters
        ----------
        parameter, gradient, mean, square
            (T, …), or (1, …) if the layers share the parameter; all of one real dtype.
        descent
            How to update the parameter.
        """
        rate, factors, scale, logarithmic = descent
        layer_scales = (scale * factors[: len(gradient)]).astype(gradient.dtype)
        gradient = gradient * layer_scales.reshape(-1, *[1] * (gradient.ndim - 1))
        if logarithmic:
            gradient *= parameter
        mean += (1 - BETA1) * (gradient - mean)
        square += (1 - BETA2) * (gradient * gradient - square)
        change = rate * mean / (np.sqrt(square) + EPSILON)
        if logarithmic:
            parameter *= np.exp(-change)
        else:
            parameter -= change

    def adam_outer(self, parameter: Array, gradient: OuterSums, mean: Array, square: Array, descent: Descent) -> None:
        """`adam` for matrices (T, P, Q) whose gradient is not formed yet. An engine may do without forming it whole.

        They may be complex: their real and imaginary parts are updated on their own.
        """
        formed = self.form_outer(gradient, self.empty(parameter.shape, parameter.dtype))
        parameter, formed, mean, square = map(entries.as_pairs, (parameter, formed, mean, square))
        self.adam(parameter, formed, mean, square, descent)

    def fuse_alista(
        self, signals: Signals, W: Array, forward: Array, backward: Array, one_sided: bool = False, joint: Joint = ALONE
    ) -> FusedStep | None:
        """The engine's kernel for a training step of ALISTA, if it has one that can be used.

        Parameters
        ----------
        signals
            The distribution of the signals.
        W
            W̄ (M, N), an array of this engine.
        forward, backward
            −AᵀW̄ and its conjugate transpose, (N, N), from `pack`.
        one_sided, joint
            As in `shrink_select`.
        """
        return None

    # -- random numbers -----------------------------------------------------------------------------------------

    def random_words(self, key: Key, purpose: int, first: int = 0) -> Callable[[int], NDArray[np.uint64]]:
        """A source of the 64-bit words of Philox4x64-10 (Salmon et al., SC 2011), a counter-based generator.

        Its key is (seed, stream) and its counter is (block, 0, step, purpose), with blocks of four words numbered from
        1. The returned function takes a number n and returns the next n words, beginning with word `first`.
        """
        blocks, words = divmod(first, 4)
        generator = np.random.Philox(
            key=np.array([key.seed, key.stream], dtype=np.uint64),
            counter=np.array([blocks, 0, key.step, purpose], dtype=np.uint64),
        )
        generator.random_raw(words)
        return generator.random_raw

    def normal(self, key: Key, purpose: int, shape: tuple[int, int], dtype: DTypeLike, first_row: int = 0) -> Array:
        """Rows of standard normal numbers from row `first_row` on. Entry e, counted from row 0, comes from word e.

        Complex ones are circular, with E|z|² = 1.
        """
        draw = self.random_words(key, purpose, first_row * shape[1])
        numbers = np.empty(shape, dtype)
        for part in _blocks_of_rows(*shape):
            numbers[part] = self._box_muller(draw(numbers[part].size), dtype).reshape(-1, shape[1])
        return numbers

    def sparse_codes(
        self,
        key: Key,
        rows: int,
        probability: Array,
        magnitude: Law,
        dtype: DTypeLike,
        first_row: int = 0,
        joint: Joint = ALONE,
    ) -> Array:
        """Sparse codes x* (rows, N) from row `first_row` on, in which entry i is non-zero with probability p_i.

        Magnitudes follow the given law. Entry e = row · N + i uses word 2e for its support and word 2e + 1 for its
        magnitude. The numbers of a `joint` entry share a support, which is that of the first of them. The rows are
        then whole samples, (rows·L, N) in all, counted from row `first_row`·L on.

        Complex normal magnitudes are circular about their mean, with E|z − mean|² = std². Complex Bernoulli ones have
        random phases.
        """
        N, L, dtype = probability.shape[0], joint.snapshots, np.dtype(dtype)
        draw = self.random_words(key, CODES, 2 * first_row * L * N)
        codes = np.zeros((rows * L, N), dtype=dtype)
        limit = np.rint(np.asarray(probability, dtype=np.float64) * 2.0**53).astype(np.uint64)
        for part in _blocks_of_rows(rows, L * N):
            part = slice(part.start * L, part.stop * L)
            words = draw(2 * codes[part].size).reshape(-1, N, 2)
            support = (words[..., 0] >> np.uint64(11)) < limit
            support = joint.spread(np, joint.split(support)[:, 0, :, 0], support)
            drawn = words[..., 1][support]
            if isinstance(magnitude, Normal):
                codes[part][support] = magnitude.mean + magnitude.std * self._box_muller(drawn, dtype)
            elif dtype.kind == "c":
                codes[part][support] = self._random_phases(drawn, magnitude, dtype)
            else:
                first = (drawn >> np.uint64(11)) < np.uint64(round(magnitude.q * 2.0**53))
                codes[part][support] = np.where(first, magnitude.v0, magnitude.v1)
        return codes

    def _box_muller(self, words: NDArray[np.uint64], dtype: DTypeLike) -> Array:
        """A standard normal number from each word, √(−2 ln u)·cos 2πv, with its halves u in (0, 1] and v in [0, 1).

        A complex one is √(−ln u)·e^{2πiv}.
        """
        real = real_of(dtype)
        u = ((words >> np.uint64(32)).astype(real) + 1) * np.asarray(2.0**-32, real)
        if np.dtype(dtype).kind == "c":
            return np.asarray(np.sqrt(-np.log(u)) * self._phases(words, real))
        v = (words & np.uint64(0xFFFFFFFF)).astype(real) * np.asarray(2.0**-32, real)
        return np.asarray(np.sqrt(-2 * np.log(u)) * np.cos(np.asarray(2 * np.pi, real) * v))

    def _random_phases(self, words: NDArray[np.uint64], law: Bernoulli, dtype: np.dtype[Any]) -> Array:
        """Numbers v e^{2πiw}: the upper half of each word decides between v0 and v1, and w is its lower half."""
        first = (words >> np.uint64(32)) < np.uint64(round(law.q * 2.0**32))
        real = real_of(dtype)
        return np.asarray(np.where(first, law.v0, law.v1).astype(real) * self._phases(words, real))

    def _phases(self, words: NDArray[np.uint64], real: np.dtype[Any]) -> Array:
        """e^{2πiv}, where v is the lower half of each word."""
        angle = (words & np.uint64(0xFFFFFFFF)).astype(real) * np.asarray(2 * np.pi * 2.0**-32, real)
        phases = np.empty(words.shape, np.result_type(real, np.complex64))
        phases.real, phases.imag = np.cos(angle), np.sin(angle)
        return phases


def _per_sample(weights: Array, x: Array) -> Array:
    """Weights (batch,) in a shape that broadcasts to x (batch, …)."""
    return weights.reshape(-1, *[1] * (x.ndim - 1))


def _blocks_of_rows(rows: int, size: int) -> Iterator[slice]:
    """Slices of about a million entries, so that the random words of a large array need not all be in memory."""
    step = max(1, 2**20 // size)
    return (slice(first, first + step) for first in range(0, rows, step))


def _by_filter(weight: Array) -> Array:
    """Filters (s₁, s₂, F) as a matrix (F, s₁s₂)."""
    matrix: Array = _by_tap(weight).T
    return matrix


def _by_tap(weight: Array) -> Array:
    """Filters (s₁, s₂, F) as a matrix (s₁s₂, F)."""
    matrix: Array = weight.reshape(-1, weight.shape[2])
    return matrix
