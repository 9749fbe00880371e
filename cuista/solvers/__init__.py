"""Classical solvers: methods that need no training."""

from cuista.solvers.classical import SOLVERS, Solution, Solver
from cuista.solvers.conv import ConvFista, non_local_means

__all__ = ["SOLVERS", "ConvFista", "Solution", "Solver", "non_local_means"]
