"""Training: a recipe says what is trained when, a task says on which examples, and the trainer carries it out."""

from cuista.training.checkpoint import checkpoint_path
from cuista.training.dictionary import AtomRecipe, LearningRecipe, learn_atoms, learn_dictionary
from cuista.training.recipes import FastRecipe, PaperRecipe, Progress
from cuista.training.search import SearchRecipe
from cuista.training.trainer import train

__all__ = ["AtomRecipe", "FastRecipe", "LearningRecipe", "PaperRecipe", "Progress", "SearchRecipe", "checkpoint_path"]
__all__ += ["learn_atoms", "learn_dictionary", "train"]
