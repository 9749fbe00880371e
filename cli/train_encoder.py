"""cuista train --task encoder"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from cuista.cli.common import AT_LEAST_1, INPUT_FILE, engine_on, positive
from cuista.cli.problems import PROBLEM_OPTIONS, choose_problem, hidden_problem_options
from cuista.cli.routing import net_option
from cuista.cli.running import (
    Run,
    better_wait_option,
    choose_recipe,
    name_option,
    recipe_option,
    run_options,
    steps_option,
)
from cuista.cli.spellings import Command

from cuista.networks.encoder import LOSSES
from cuista.storage import load_array
from cuista.tasks import EncoderModel, Encoding

# The original's `default` is B_i = η A.
STARTS = ("analytic", "nominal", "default", "uniform", "normal")


@click.command("train", cls=Command)
@click.argument("problem_file", metavar="[PROBLEM]", type=INPUT_FILE, required=False)
@net_option("encoder", default="atow")
@click.option("-T", "--layers", type=AT_LEAST_1, default=4, show_default=True, metavar="N", help="Number of layers.")
@click.option("--loss", type=click.Choice(LOSSES), default="rel2", show_default=True, help="The loss of its weights.")
@click.option("--loss-weights", type=INPUT_FILE, help="Q (N, N) of l1, l2, expl1 or expl2, from a file (key Q).")
@click.option("--start", type=click.Choice(STARTS), help="First step matrices. [fast: analytic if the loss has it]")
@click.option("--eta", type=positive, default=1e-3, show_default=True, metavar="η", help="Factor of the nominal start.")
@recipe_option("sigma", "sigma", "Standard deviation of the perturbation. [0.01]", metavar="σ")
@name_option
@steps_option("How many steps. [fast: 300; paper: 200000 at most]")
@recipe_option("learning-rate", "learning_rate", "Adam's; fast: relative. [fast: 0.001; paper: 0.0001]")
@recipe_option("matrices", "batch", "Matrices in a step. [fast: 8; paper: 16]", AT_LEAST_1, "N")
@recipe_option("validation-batch", "validation_batch", "Matrices for validation. [16]", AT_LEAST_1, "N")
@better_wait_option
@run_options
@hidden_problem_options
def command(
    problem_file: Path | None,
    net: str,
    layers: int,
    loss: str,
    loss_weights: Path | None,
    start: str | None,
    eta: float,
    name: str | None,
    seed: int,
    device: str,
    out: Path,
    checkpoint_every: float,
    resume: bool,
    force: bool,
    **given: Any,
) -> None:
    """Train an encoder, which maps a perturbed matrix of a PROBLEM to a weight for it.

    Without that file, the options of gen-problem make a problem; with it, they must agree with it.
    """
    run = Run(seed, device, out, checkpoint_every, resume, force)
    problem = choose_problem(problem_file, seed, {option: given.pop(option) for option in PROBLEM_OPTIONS})
    recipe = choose_recipe(Encoding.recipes, name, given, paper=("better_wait",))
    Q = None if loss_weights is None else load_array(loss_weights, "Q")
    if run.is_due(EncoderModel):
        start = "nominal" if start == "default" else start
        options: dict[str, Any] = {"layers": layers, "loss": loss, "start": start, "eta": eta, "seed": seed}
        run.train(EncoderModel.new(problem, Q=Q, **options, ops=engine_on(device)), recipe)
