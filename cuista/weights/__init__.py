"""Analytic weights: computed from the measurement matrix, not learned."""

from cuista.weights.dense import Weight, WeightReport, solve_exact, solve_pgd

__all__ = ["Weight", "WeightReport", "solve_exact", "solve_pgd"]
