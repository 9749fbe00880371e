"""Sparse recovery with ALISTA: unrolled ISTA networks whose weight matrix is computed, not learned."""

from cuista.errors import CuistaError
from cuista.evaluation import Report, evaluate
from cuista.model import Model
from cuista.ops import Bernoulli, Normal, engine
from cuista.problem import Problem, normalize_columns, random_matrix
from cuista.training import FastRecipe, PaperRecipe, choose_ridge, train
from cuista.weights import Weight, solve_exact, solve_pgd

__version__ = "0.1.0"

__all__ = [
    "Bernoulli",
    "CuistaError",
    "FastRecipe",
    "Model",
    "Normal",
    "PaperRecipe",
    "Problem",
    "Report",
    "Weight",
    "choose_ridge",
    "engine",
    "evaluate",
    "normalize_columns",
    "random_matrix",
    "solve_exact",
    "solve_pgd",
    "train",
]
