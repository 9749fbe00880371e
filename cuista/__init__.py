"""Sparse recovery with ALISTA and its family: unrolled ISTA networks whose weight matrix is computed, not learned."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cuista import datasets as datasets
from cuista.data.camera import CameraNoise
from cuista.data.dictionary import Dictionary
from cuista.data.images import ImageSet, PatchSet, prepare_images
from cuista.data.perturbed import PerturbedSet
from cuista.data.problem import Problem, normalize_columns, random_matrix
from cuista.data.sensing import Sensing
from cuista.data.signals import SignalSet
from cuista.errors import CuistaError
from cuista.evaluation.robustness import evaluate_robustness
from cuista.metrics import Report
from cuista.model import load
from cuista.ops import Bernoulli, Normal, engine
from cuista.tasks.denoising import Denoiser, Denoising, choose_conv_ridge, denoising_weight
from cuista.tasks.encoder import EncoderModel, EncoderRecipe, Encoding
from cuista.tasks.photographs import denoise_picture
from cuista.tasks.plug_and_play import PlugAndPlay
from cuista.tasks.robust import Robust, RobustModel, RobustRecipe
from cuista.tasks.sensing import CompressiveSensing, Reconstructor, learn_deblocking, sensing_weight
from cuista.tasks.sparse_coding import Model, SparseCoding, analytic_weight, choose_ridge, evaluate
from cuista.tasks.whole_pictures import PictureReconstructor, PictureSensing
from cuista.training import (
    AtomRecipe,
    FastRecipe,
    LearningRecipe,
    PaperRecipe,
    SearchRecipe,
    learn_atoms,
    learn_dictionary,
    train,
)
from cuista.version import __version__
from cuista.weights import ConvWeight, Weight, solve_conv, solve_conv_pgd, solve_exact, solve_pgd

if TYPE_CHECKING:
    from cuista.evaluation.comparison import compare
    from cuista.evaluation.figures import plot

__all__ = [
    "AtomRecipe",
    "Bernoulli",
    "CameraNoise",
    "CompressiveSensing",
    "ConvWeight",
    "CuistaError",
    "Denoiser",
    "Denoising",
    "Dictionary",
    "EncoderModel",
    "EncoderRecipe",
    "Encoding",
    "FastRecipe",
    "ImageSet",
    "LearningRecipe",
    "Model",
    "Normal",
    "PaperRecipe",
    "PatchSet",
    "PerturbedSet",
    "PictureReconstructor",
    "PictureSensing",
    "PlugAndPlay",
    "Problem",
    "Reconstructor",
    "Report",
    "Robust",
    "RobustModel",
    "RobustRecipe",
    "SearchRecipe",
    "Sensing",
    "SignalSet",
    "SparseCoding",
    "Weight",
    "__version__",
    "analytic_weight",
    "choose_conv_ridge",
    "choose_ridge",
    "compare",
    "denoise_picture",
    "denoising_weight",
    "engine",
    "evaluate",
    "evaluate_robustness",
    "learn_atoms",
    "learn_deblocking",
    "learn_dictionary",
    "load",
    "normalize_columns",
    "plot",
    "prepare_images",
    "random_matrix",
    "sensing_weight",
    "solve_conv",
    "solve_conv_pgd",
    "solve_exact",
    "solve_pgd",
    "train",
]

# What is imported when it is first asked for, so that `import cuista` stays fast.
_LATER = {"compare": "cuista.evaluation.comparison", "plot": "cuista.evaluation.figures"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'cuista' has no attribute {name!r}")
    globals()[name] = getattr(import_module(_LATER[name]), name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
