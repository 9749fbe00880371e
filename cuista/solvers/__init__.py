"""Classical solvers: methods that need no training."""

from cuista.solvers.classical import SOLVERS, Amp, Fista, Ista, Lasso, Omp, Solution, Solver
from cuista.solvers.conv import ConvFista, bm3d, non_local_means

__all__ = [
    "SOLVERS",
    "Amp",
    "ConvFista",
    "Fista",
    "Ista",
    "Lasso",
    "Omp",
    "Solution",
    "Solver",
    "bm3d",
    "non_local_means",
]
