"""cuista train --task encoder"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from cuista.cli import common
from cuista.cli.problems import Asked, problem_argument
from cuista.cli.routing import net_option
from cuista.cli.running import Run, recipe_option, recipe_options, run_options
from cuista.cli.spellings import IN_ENCODERS, NOT_IN_ENCODERS, Command

from cuista.networks.encoder import LOSSES
from cuista.storage import load_array
from cuista.tasks.encoder import EncoderModel, Encoding

# The original calls the nominal start, B_i = η A, `default`.
STARTS = ("analytic", "uniform", "normal", "nominal", "default")
_LOSS = f"Loss: {', '.join(LOSSES)}."
_START = (
    f"Initial step matrices: {', '.join(STARTS)} (= nominal). [fast: analytic for l2 and rel2, else nominal; paper: "
    "nominal]"
)


@click.command("train", cls=Command, ignored=NOT_IN_ENCODERS, renamed=IN_ENCODERS)
@problem_argument
@common.bundled(
    "encoder",
    dict,
    net_option("encoder", "atow"),
    common.layers_option(4),
    click.option("--loss", type=click.Choice(LOSSES), default="rel2", metavar="NAME", help=_LOSS),
    click.option("--start", type=click.Choice(STARTS), metavar="NAME", help=_START),
    click.option("--eta", type=common.positive, default=1e-3, metavar="η", help="Scale of any start but analytic."),
)
@click.option("--loss-weights", type=common.INPUT_FILE, help="Matrix Q (N, N) for l1, l2, expl1 or expl2.")
@recipe_options(
    lambda net: Encoding.recipes,
    recipe_option("sigma", "sigma", "Level of perturbation. [0.01]", metavar="σ"),
    recipe_option("max-steps", "max_steps", "Number of steps. [fast: 300; paper: 200000]", common.AT_LEAST_0, "N"),
    recipe_option("learning-rate", "learning_rate", "Learning rate. [fast: 0.001; paper: 0.000001]"),
    recipe_option("matrices", "batch", "Matrices per step. [fast: 8; paper: 16]", common.AT_LEAST_1, "N"),
    recipe_option("validation-batch", "validation_batch", "Validation matrices. [16]", common.AT_LEAST_1, "N"),
    recipe_option("better-wait", "better_wait", "paper: steps to wait for improvement.", common.AT_LEAST_1, "N"),
    paper=("better_wait",),
)
@run_options
def command(problem: Asked, encoder: dict[str, Any], loss_weights: Path | None, recipe: Any, run: Run) -> None:
    """Train an encoder, which maps a perturbed matrix to a weight for it.

    PROBLEM is the file of the nominal problem. Options of gen-problem, like --m and --n, can define it instead; given
    together, they must agree. Options marked fast or paper belong to that recipe.
    """
    del encoder["net"]  # there is only one
    encoder["start"] = {"default": "nominal"}.get(encoder["start"], encoder["start"])
    made = problem.load(run.seed)
    Q = None if loss_weights is None else load_array(loss_weights, "Q")
    run.train(EncoderModel.new(made, Q=Q, **encoder, seed=run.seed, ops=run.ops), recipe)
