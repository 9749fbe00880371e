"""cuista train --task encoder"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from cuista.cli.common import AT_LEAST_0, AT_LEAST_1, INPUT_FILE, bundled, layers_option, positive
from cuista.cli.problems import Asked, problem_argument
from cuista.cli.routing import net_option
from cuista.cli.running import Run, better_wait_option, recipe_option, recipe_options, run_options
from cuista.cli.spellings import Command

from cuista.networks.encoder import LOSSES
from cuista.storage import load_array
from cuista.tasks import EncoderModel, Encoding

# The original's `default` is B_i = η A.
STARTS = ("analytic", "nominal", "default", "uniform", "normal")


@click.command("train", cls=Command)
@problem_argument
@bundled(
    "encoder",
    dict,
    net_option("encoder", "atow"),
    layers_option(4),
    click.option("--loss", type=click.Choice(LOSSES), default="rel2", help="Loss of its weights."),
    click.option("--start", type=click.Choice(STARTS), help="First step matrices. [fast: analytic if the loss has it]"),
    click.option("--eta", type=positive, default=1e-3, metavar="η", help="Factor of that start."),
)
@click.option("--loss-weights", type=INPUT_FILE, help="Q (N, N) of l1, l2, expl1 or expl2, from a file (key Q).")
@recipe_options(
    Encoding,
    recipe_option("sigma", "sigma", "Standard deviation of the perturbation. [0.01]", metavar="σ"),
    recipe_option("max-steps", "max_steps", "How many steps. [fast: 300; paper: 200000 at most]", AT_LEAST_0, "N"),
    recipe_option("learning-rate", "learning_rate", "Adam's; fast: relative. [fast: 0.001; paper: 0.0001]"),
    recipe_option("matrices", "batch", "Matrices in a step. [fast: 8; paper: 16]", AT_LEAST_1, "N"),
    recipe_option("validation-batch", "validation_batch", "Matrices for validation. [16]", AT_LEAST_1, "N"),
    better_wait_option,
    paper=("better_wait",),
)
@run_options
def command(problem: Asked, encoder: dict[str, Any], loss_weights: Path | None, recipe: Any, run: Run) -> None:
    """Train an encoder, which maps a perturbed matrix of a PROBLEM to a weight for it.

    Without that file, the options of gen-problem make a problem; with it, they must agree with it.
    """
    del encoder["net"]  # there is one only
    encoder["start"] = {"default": "nominal"}.get(encoder["start"], encoder["start"])
    made = problem.load(run.seed)
    Q = None if loss_weights is None else load_array(loss_weights, "Q")
    if run.is_due(EncoderModel):
        run.train(EncoderModel.new(made, Q=Q, **encoder, seed=run.seed, ops=run.ops), recipe)
