"""Newton's method for ½‖y − A x‖² + Σ λ_i |x_i| over the support of an iterate, for entries that are complex or joint.

|x_i| is the magnitude of an entry (`cuista.ops.joint`), so that the objective is smooth as long as no entry becomes 0.
Where columns are nearly alike, FISTA finds the support long before the values, and a few steps of Newton's method find
these (Wen, Yin, Goldfarb, Zhang, SIAM J. Scientific Computing 2010, for real numbers).
"""

from __future__ import annotations

import numpy as np

from cuista.checks import Array
from cuista.ops.joint import Joint, squares

# The most steps.
STEPS = 20
# What is added to the diagonal of the Hessian, which may be singular; columns have norms near 1.
_DAMPING = 1e-11
# The decrease that a step must have, as a share of what its slope promises, and the shortest step.
_SHARE, _SHORTEST = 1e-4, 2.0**-20
# Where steps promise a decrease by less than this share of the objective, they end.
_ENOUGH = 1e-15


def polish(columns: Array, y: Array, lam: Array, start: Array, joint: Joint) -> Array:
    """Codes (L, N) of one sample whose objective is not above that of `start`, and whose support is no larger.

    Each step goes at most to the first entry that it takes through 0, which then leaves the support.

    Parameters
    ----------
    columns
        The columns (N, M) of A, contiguous, in double precision.
    y, lam, start
        Measurements (L, M), λ (N/G,), and codes (L, N).
    joint
        Which numbers are one entry.
    """
    L, N = start.shape
    x = np.ascontiguousarray(start.T).reshape(N // joint.group, joint.group, L)
    support = np.flatnonzero(x.any(axis=(1, 2)))
    z, r = x[support], y.T - columns.T @ start.T
    groups, lam = columns.reshape(*x.shape[:2], -1)[support], lam[support]
    objective = _objective(z, r, lam)
    for _ in range(STEPS):
        if not len(z):
            break
        flat, m = groups.reshape(-1, groups.shape[2]), _magnitudes(z)
        e = z / m[:, None, None]
        gradient = lam[:, None, None] * e - (flat.conj() @ r).reshape(z.shape)
        p = _direction(flat, e, lam / m, gradient)
        slope, image = float((gradient.conj() * p).real.sum()), flat.T @ p.reshape(-1, L)
        if not slope < -_ENOUGH * objective:
            break
        radial = (e.conj() * p).real.sum(axis=(1, 2))
        lengths = np.where(radial < 0, m / np.where(radial < 0, -radial, 1), np.inf)
        first, length = int(np.argmin(lengths)), min(1.0, float(lengths.min()))
        if lengths[first] <= 1:
            # To the point where one entry is nearest to 0, and without it.
            z_next = z + length * p
            r_next = r - length * image + groups[first].T @ z_next[first]
            z_next[first] = 0
            after = _objective(z_next, r_next, lam)
            if after <= objective:
                stay = np.arange(len(z)) != first
                z, r, objective = z_next[stay], r_next, after
                groups, lam, support = groups[stay], lam[stay], support[stay]
                continue
            length /= 2
        shortest = _SHORTEST * length
        while length >= shortest:
            z_next, r_next = z + length * p, r - length * image
            after = _objective(z_next, r_next, lam)
            if after <= objective + _SHARE * length * slope:
                break
            length /= 2
        else:
            break
        z, r, objective = z_next, r_next, after
    x[...] = 0
    x[support] = z
    return np.ascontiguousarray(x.reshape(N, L).T)


def _direction(columns: Array, e: Array, curvature: Array, gradient: Array) -> Array:
    """−H⁻¹g (n, G, L) for n entries with the directions e, and with λ_i/m_i as their curvature across these.

    H = K − U C Uᵀ with C = diag(λ_i/m_i) and K = A_SᴴA_S + C, where U w has the entries w_i e_i for real w_i. Since K
    acts on all snapshots alike, H⁻¹ = K⁻¹ + K⁻¹U (C⁻¹ − UᵀK⁻¹U)⁻¹ UᵀK⁻¹ takes matrices (nG, nG) and (n, n) only,
    however many snapshots there are.
    """
    from scipy.linalg import cho_factor, cho_solve

    n, G, L = e.shape
    K = columns.conj() @ columns.T
    K[np.diag_indices(n * G)] += np.repeat(curvature, G) + _DAMPING
    inverse = cho_solve(cho_factor(K, lower=True), np.eye(n * G))
    flat = e.reshape(n * G, L)
    # UᵀK⁻¹U has the entries Re⟨e_i, (K⁻¹)_ij e_j⟩.
    inner = (inverse * (flat.conj() @ flat.T)).real.reshape(n, G, n, G).sum(axis=(1, 3))
    plain = (inverse @ gradient.reshape(n * G, L)).reshape(e.shape)
    along = np.linalg.solve(np.diag(1 / curvature) - inner, (e.conj() * plain).real.sum(axis=(1, 2)))
    more = (inverse @ (along[:, None, None] * e).reshape(n * G, L)).reshape(e.shape)
    return np.asarray(-(plain + more))


def _objective(z: Array, r: Array, lam: Array) -> float:
    return float(0.5 * squares(np, r).sum() + lam @ _magnitudes(z))


def _magnitudes(z: Array) -> Array:
    """The magnitudes (n,) of entries (n, G, L)."""
    return np.asarray(np.sqrt(squares(np, z).sum(axis=(1, 2))))
