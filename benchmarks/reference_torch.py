"""Networks as one would write them in PyTorch. The benchmarks compare cuista with them."""

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


def denoised(noisy: torch.Tensor, W: torch.Tensor, D: torch.Tensor, theta: torch.Tensor, stride: int) -> torch.Tensor:
    """Pictures (batch, side, side) denoised by a Conv-CSC with filters (T, s, s, F) and thresholds (T, F)."""
    functional = torch.nn.functional
    analysis, synthesis = (filters.permute(0, 3, 1, 2)[:, :, None] for filters in (W, D))
    p, side = W.shape[1] - 1, noisy.shape[1]
    f, x, picture = noisy[:, None], torch.zeros((), device=noisy.device), torch.zeros_like(noisy[:, None])
    for t, of_layer in enumerate(theta):
        r = functional.pad(f - picture, (p, p, p, p), mode="reflect")
        z = x + functional.conv2d(r, analysis[t], stride=stride)
        x = torch.sign(z) * torch.relu(z.abs() - of_layer[:, None, None])
        filters = synthesis[t].flip(2, 3)  # a transposed convolution adds the filters rotated by 180°
        picture = functional.conv_transpose2d(x, filters, stride=stride)[:, :, p : p + side, p : p + side]
    return picture[:, 0]
