"""Training: recipes say what is trained when, a task says on what, and the trainer does it."""

from cuista.training.checkpoint import checkpoint_path
from cuista.training.dictionary import LearningRecipe, learn_dictionary
from cuista.training.recipes import FastRecipe, PaperRecipe, Progress, Recipe, Stage
from cuista.training.search import SearchRecipe
from cuista.training.task import Examples, Source, Task
from cuista.training.trainer import identity, train

__all__ = [
    "Examples",
    "FastRecipe",
    "LearningRecipe",
    "PaperRecipe",
    "Progress",
    "Recipe",
    "SearchRecipe",
    "Source",
    "Stage",
    "Task",
    "checkpoint_path",
    "identity",
    "learn_dictionary",
    "train",
]
