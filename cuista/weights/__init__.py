"""Analytic weights: computed from a measurement matrix or a dictionary instead of learned."""

from cuista.weights.conv import ConvWeight, solve_conv, solve_conv_pgd
from cuista.weights.dense import Weight, solve_exact, solve_pgd

__all__ = ["ConvWeight", "Weight", "solve_conv", "solve_conv_pgd", "solve_exact", "solve_pgd"]
