"""What networks are trained for: a file for each task, with its model, its recipes, the source of its examples."""

from cuista.tasks.denoising import Denoiser, Denoising, choose_conv_ridge, denoising_weight
from cuista.tasks.encoder import EncoderModel, EncoderRecipe, Encoding
from cuista.tasks.robust import Robust, RobustModel, RobustRecipe
from cuista.tasks.sparse_coding import Model, SparseCoding, analytic_weight, choose_ridge, evaluate

__all__ = [
    "Denoiser",
    "Denoising",
    "EncoderModel",
    "EncoderRecipe",
    "Encoding",
    "Model",
    "Robust",
    "RobustModel",
    "RobustRecipe",
    "SparseCoding",
    "analytic_weight",
    "choose_conv_ridge",
    "choose_ridge",
    "denoising_weight",
    "evaluate",
]
