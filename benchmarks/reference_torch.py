"""ALISTA as one would write it in PyTorch. The benchmarks compare cuista with it."""

from __future__ import annotations

import torch


def forward(
    y: torch.Tensor,
    A: torch.Tensor,
    W: torch.Tensor,
    alpha: torch.Tensor,
    theta: torch.Tensor,
    support: tuple[int, ...],
    unit: float,
) -> torch.Tensor:
    """The last iterate for measurements y (batch, M), which are scaled to the norm `unit` first. All may be complex."""
    factor = y.norm(dim=1, keepdim=True).clamp_min(1e-30) / unit
    y, x, W = y / factor, None, W.conj()
    for t, k in enumerate(support):
        z = alpha[t] * (y @ W) if x is None else x + alpha[t] * ((y - x @ A.T) @ W)
        x = threshold(z, theta[t], k)
    assert x is not None
    return factor * x


def threshold(z: torch.Tensor, theta: torch.Tensor, k: int) -> torch.Tensor:
    """Soft thresholding of z (batch, N) that lets the k largest entries of each row pass unchanged."""
    magnitude = z.abs()
    cutoff = torch.topk(magnitude.detach(), k + 1, dim=1, sorted=False).values.amin(dim=1, keepdim=True)
    passed = (magnitude > theta) & (magnitude > cutoff)
    return torch.where(passed, z, torch.sgn(z) * torch.relu(magnitude - theta))
