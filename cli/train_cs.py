"""cuista train --task cs"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from cuista.cli import common
from cuista.cli.running import Run, network_recipe_options, run_options
from cuista.cli.spellings import Command
from cuista.cli.train_sc import DenseNetwork, network_options

from cuista.data.sensing import Sensing
from cuista.tasks.sensing import CompressiveSensing, Reconstructor, check_patches, sensing_weight
from cuista.weights import Weight

# A network with an NMSE of 0 dB recovers nothing but the means.
USELESS_DB = -0.1


@click.command("train", cls=Command)
@click.argument("patches", type=common.INPUT_FILE)
@click.option("--problem", "problem_file", type=common.INPUT_FILE, required=True, help="File of gen-problem --task cs.")
@network_options("cs", "alista")
@click.option("--learn-sensing", is_flag=True, help="Learn Φ too, from the problem's on.")
@network_recipe_options(
    CompressiveSensing,
    steps="Steps of the joint stage [fast: 300], or of each stage [paper: 200000].",
    rate="Learning rate. [fast: 0.02; paper: 0.0005]",
    matrix_steps="fast: final steps with learned matrices. [1000]",
    batch="Patches per step. [fast: 256; paper: 64]",
    validation="Validation patches. [fast: 4000; paper: 1000]",
)
@run_options
def command(
    patches: Path, problem_file: Path, network: DenseNetwork, learn_sensing: bool, recipe: Any, run: Run
) -> None:
    """Train a network to recover the blocks of pictures from their measurements.

    PATCHES is a file that cuista prepare-images --patches has written. Networks with learned matrices also learn the
    dictionary with which the last layer's code becomes a block, and with --learn-sensing they learn Φ. Options marked
    fast or paper belong to that recipe.
    """
    network.check()
    recipe = network.suiting(recipe, CompressiveSensing)
    sensing, task, begun = Sensing.load(problem_file), CompressiveSensing(patches), run.begun(Reconstructor)
    check_patches(task.training, sensing)
    form: dict[str, Any] = {"layers": network.layers, "percent": network.percent, "max_percent": network.max_percent}
    form = {name: value for name, value in form.items() if value is not None}
    net = network.net or "alista"
    if network.weight_file is not None:
        weight = Weight.load(network.weight_file, sensing.A)
    else:
        how: dict[str, Any] = {"ridge": network.ridge, "recipe": recipe, "begun": begun, "say": common.say}
        weight = sensing_weight(sensing, task, net, **how, ops=run.ops, **form)
    form |= {"untied": network.untied, "per_coordinate": network.coord, "ops": run.ops}
    form |= {"learn_sensing": learn_sensing}
    model = Reconstructor.new(sensing, weight, net, **form)
    run.train(model, recipe, task)
    if not model.training["validation_nmse_db"] < USELESS_DB:
        common.say("Note: the network recovers no more than the means of blocks. Try more steps, or --ridge 1.")
