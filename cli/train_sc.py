"""cuista train --task sc"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from cuista.cli.common import AT_LEAST_1, INPUT_FILE, engine_on, options, ridge, say
from cuista.cli.problems import PROBLEM_OPTIONS, choose_problem, hidden_problem_options
from cuista.cli.routing import net_option
from cuista.cli.running import (
    FAST_FIELDS,
    PAPER_FIELDS,
    Run,
    choose_recipe,
    network_recipe_options,
    run_options,
)
from cuista.cli.spellings import Command

from cuista.data.problem import Problem
from cuista.networks import NETWORKS
from cuista.ops import ReferenceOps
from cuista.tasks import Model, SparseCoding, analytic_weight
from cuista.weights import Weight

# What a network is made of: train_robust has these too, for the decoder that it trains.
network_options = options(
    click.option("-W", "--weight", "weight_file", type=INPUT_FILE, help="Its weight. [solved here]"),
    click.option("--ridge", type=ridge, metavar="λ|auto", help="… with this ridge. [0; auto if the problem is noisy]"),
    click.option("-T", "--layers", type=AT_LEAST_1, metavar="N", help="Number of layers. [16]"),
    click.option("-p", "--percent", type=float, metavar="P", help="Percent to pass unshrunk, for each layer so far."),
    click.option("--max-percent", type=float, metavar="P", help="… and at most. [as --recipe has both]"),
    click.option("--untied/--tied", help="A learned matrix for each layer, or one for all. [--tied]"),
    click.option("--coord", is_flag=True, help="A threshold per coordinate, not per layer."),
)


@click.command("train", cls=Command)
@click.argument("problem_file", metavar="[PROBLEM]", type=INPUT_FILE, required=False)
@net_option("sc", default="alista")
@network_options
@network_recipe_options(
    steps="Joint steps (fast: 1200), or of a stage (paper: 200000).",
    rate="Adam's. [fast: 0.03; paper: 0.0005]",
    matrix_steps="fast: steps that train learned matrices too. [600]",
    batch="Signals in a step. [fast: 128; paper: 64]",
    validation="Signals for validation. [fast: 4000; paper: 1000]",
)
@run_options
@hidden_problem_options
def command(
    problem_file: Path | None,
    net: str,
    weight_file: Path | None,
    ridge: Any,
    layers: int | None,
    percent: float | None,
    max_percent: float | None,
    untied: bool,
    coord: bool,
    name: str | None,
    seed: int,
    device: str,
    out: Path,
    checkpoint_every: float,
    resume: bool,
    force: bool,
    **given: Any,
) -> None:
    """Train a network to recover the signals of a PROBLEM.

    Without that file, the options of gen-problem make a problem; with it, they must agree with it.
    """
    run = Run(seed, device, out, checkpoint_every, resume, force)
    asked = {option: given.pop(option) for option in PROBLEM_OPTIONS}
    network = DenseNetwork.asked(net, weight_file, ridge, layers, percent, max_percent, untied, coord)
    recipe: Any = None
    if NETWORKS[net].has_gradients:
        recipe = choose_recipe(SparseCoding.recipes, name, given, FAST_FIELDS, PAPER_FIELDS)
    elif name or any(value is not None for value in given.values()):
        title = NETWORKS[net].title
        raise click.UsageError(f"{title} is not trained, its numbers are searched for: leave out options of recipes")
    if run.is_due(Model):
        ops = engine_on(device)
        model = network.model(choose_problem(problem_file, seed, asked), recipe, run.begun(Model), ops, seed)
        run.train(model, recipe)


class DenseNetwork:
    """A dense network as the options ask for it.

    Parameters
    ----------
    net
        Its name.
    weight_file, ridge
        Where its weight is, or with which ridge it is solved.
    options
        Those of `Model.new`.
    """

    def __init__(self, net: str, weight_file: Path | None, ridge: Any, options: dict[str, Any]) -> None:
        self.net, self.weight_file, self.ridge, self.options = net, weight_file, ridge, options

    @classmethod
    def asked(
        cls,
        net: str,
        weight_file: Path | None,
        ridge: Any,
        layers: int | None,
        percent: float | None,
        max_percent: float | None,
        untied: bool,
        coord: bool,
    ) -> DenseNetwork:
        """What the options ask for, without those that the network does not have, of which is told."""
        kind = NETWORKS[net]
        if untied and not kind.can_untie:
            say(f"Note: --untied is ignored: {kind.title} has no matrix that could differ from layer to layer.")
        if coord and not kind.can_coordinate:
            say(f"Note: --coord is ignored: {kind.title} has no threshold per coordinate.")
        if (percent, max_percent) != (None, None) and not kind.selects:
            say(f"Note: --percent and --max-percent are ignored: {kind.title} has no support schedule.")
        if ridge is not None and weight_file is not None:
            raise click.UsageError("--ridge is for a weight solved here, and -W gives one: leave one of them out")
        variants = {"per_coordinate": coord and kind.can_coordinate, "untied": untied and kind.can_untie}
        schedule = {"layers": layers or 16, "percent": percent, "max_percent": max_percent}
        return cls(net, weight_file, ridge, {**schedule, **variants})

    def model(self, problem: Problem, recipe: Any, begun: Model | None, ops: ReferenceOps, seed: int) -> Model:
        """The untrained model, with the given weight, the interrupted run's, or one solved now."""
        options = {**self.options, "ops": ops}
        if self.weight_file is not None:
            weight = Weight.load(self.weight_file, problem.A)
        else:
            search = {name: value for name, value in options.items() if name != "per_coordinate"}
            how = {"ridge": self.ridge, "recipe": recipe, "begun": begun, "seed": seed, "say": say}
            weight = analytic_weight(problem, self.net, **how, **search)
        return Model.new(problem, weight, self.net, **options)
