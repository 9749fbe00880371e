"""Training: recipes say what is trained when, the trainer does it."""

from cuista.training.dictionary import LearningRecipe, learn_dictionary
from cuista.training.recipes import EncoderRecipe, FastRecipe, PaperRecipe, Progress, Recipe, RobustRecipe, Stage
from cuista.training.ridge import choose_conv_ridge, choose_ridge
from cuista.training.search import SearchRecipe
from cuista.training.trainer import checkpoint_path, identity, train

__all__ = [
    "EncoderRecipe",
    "FastRecipe",
    "LearningRecipe",
    "PaperRecipe",
    "Progress",
    "Recipe",
    "RobustRecipe",
    "SearchRecipe",
    "Stage",
    "checkpoint_path",
    "choose_conv_ridge",
    "choose_ridge",
    "identity",
    "learn_dictionary",
    "train",
]
