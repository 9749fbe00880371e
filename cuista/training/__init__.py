"""Training: recipes say what is trained when, the trainer does it."""

from cuista.training.recipes import FastRecipe, PaperRecipe, Recipe, Stage
from cuista.training.ridge import choose_ridge
from cuista.training.trainer import Progress, checkpoint_path, train

__all__ = ["FastRecipe", "PaperRecipe", "Progress", "Recipe", "Stage", "checkpoint_path", "choose_ridge", "train"]
