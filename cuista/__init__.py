"""Sparse recovery with ALISTA: unrolled ISTA networks whose weight matrix is computed, not learned."""

from cuista.data.dictionary import Dictionary
from cuista.data.images import ImageSet, NoisyCrops, prepare_images
from cuista.data.perturbed import PerturbedSet
from cuista.data.problem import Problem, normalize_columns, random_matrix
from cuista.denoiser import Denoiser
from cuista.errors import CuistaError
from cuista.evaluation.robustness import evaluate_robustness
from cuista.metrics import Report, evaluate
from cuista.model import Model
from cuista.ops import Bernoulli, Normal, engine
from cuista.robust import EncoderModel, RobustModel
from cuista.training import (
    EncoderRecipe,
    FastRecipe,
    PaperRecipe,
    RobustRecipe,
    choose_conv_ridge,
    choose_ridge,
    learn_dictionary,
    train,
)
from cuista.version import __version__
from cuista.weights import ConvWeight, Weight, solve_conv, solve_conv_pgd, solve_exact, solve_pgd

__all__ = [
    "Bernoulli",
    "ConvWeight",
    "CuistaError",
    "Denoiser",
    "Dictionary",
    "EncoderModel",
    "EncoderRecipe",
    "FastRecipe",
    "ImageSet",
    "Model",
    "NoisyCrops",
    "Normal",
    "PaperRecipe",
    "PerturbedSet",
    "Problem",
    "Report",
    "RobustModel",
    "RobustRecipe",
    "Weight",
    "__version__",
    "choose_conv_ridge",
    "choose_ridge",
    "engine",
    "evaluate",
    "evaluate_robustness",
    "learn_dictionary",
    "normalize_columns",
    "prepare_images",
    "random_matrix",
    "solve_conv",
    "solve_conv_pgd",
    "solve_exact",
    "solve_pgd",
    "train",
]
