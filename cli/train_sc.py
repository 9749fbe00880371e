"""cuista train --task sc"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from cuista.cli import common
from cuista.cli.problems import MAGNITUDE, Asked, codes_of_pictures, note_law, problem_argument
from cuista.cli.routing import net_option
from cuista.cli.running import Run, network_recipe_options, run_options
from cuista.cli.spellings import NOT_IN_TRAINING, Command

from cuista.data.problem import Problem
from cuista.data.signals import SignalSet
from cuista.errors import FileError, InputError
from cuista.networks import NETWORKS
from cuista.tasks.sparse_coding import Model, SparseCoding, analytic_weight
from cuista.training import FastRecipe
from cuista.training.task import Task
from cuista.weights import Weight

# The options of a problem that define the law of its signals.
LAW = ("pnz", *MAGNITUDE)


@dataclass
class DenseNetwork:
    """A dense network as the options define it."""

    net: str | None
    weight_file: Path | None
    ridge: Any
    layers: int | None
    percent: float | None
    max_percent: float | None
    untied: bool | None
    coord: bool
    fixed_units: bool = False

    @property
    def given(self) -> list[str]:
        """The names of the options that were given, apart from --net."""
        named = {"-W": self.weight_file, "--ridge": self.ridge, "-T": self.layers, "-p": self.percent}
        named |= {"--max-percent": self.max_percent, "--untied": self.untied or None, "--coord": self.coord or None}
        named |= {"--fixed-units": self.fixed_units or None}
        return [option for option, value in named.items() if value is not None]

    def check(self) -> None:
        """Raise UsageError if options contradict each other, and tell the user which ones the network ignores."""
        kind = NETWORKS[self.net or "alista"]
        if self.untied and not kind.can_untie:
            common.say(f"Note: --untied is ignored: {kind.title} has no matrix that can differ between layers.")
        if self.coord and not kind.can_coordinate:
            common.say(f"Note: --coord is ignored: {kind.title} has no threshold per coordinate.")
        if (self.percent, self.max_percent) != (None, None) and not kind.selects:
            common.say(f"Note: --percent and --max-percent are ignored: {kind.title} has no support schedule.")
        if self.ridge is not None and self.weight_file is not None:
            raise click.UsageError("--ridge is for a weight computed here, and -W gives one: leave one of them out")
        self.untied, self.coord = bool(self.untied) and kind.can_untie, self.coord and kind.can_coordinate

    def suiting(self, recipe: Any, task: type[Task[Any]]) -> Any:
        """The recipe, or None for a network without gradients, whose parameters are searched for."""
        kind = NETWORKS[self.net or "alista"]
        if kind.has_gradients:
            return recipe
        if recipe != task.recipes["fast"]():
            raise click.UsageError(
                f"{kind.title} has no gradients, so its parameters are searched for: leave out the options of a recipe"
            )
        return None

    def model(
        self,
        problem: Problem,
        recipe: Any,
        begun: Model | None,
        run: Run,
        *,
        drawn: bool = False,
        data: SignalSet | None = None,
    ) -> Model:
        """The untrained model. Its weight is the given one, the interrupted run's, or one computed now.

        `drawn` says that the problem's matrix was drawn because no file was given. `data` are the signals on which the
        network will be trained, if they are given.
        """
        net = self.net or "alista"
        options: dict[str, Any] = {"layers": self.layers or 16, "untied": self.untied, "ops": run.ops}
        options |= {"percent": self.percent, "max_percent": self.max_percent}
        if self.weight_file is not None:
            try:
                weight = Weight.load(self.weight_file, problem.A)
            except FileError as error:
                error.options = ()  # --key is for signals
                raise
            except InputError as error:
                if not drawn:
                    raise
                raise click.UsageError(
                    f"-W {self.weight_file}: {error}, which was drawn at random, or give the file of the weight's own "
                    "problem as the argument (a prob.npz of the original, for example)"
                ) from None
        else:
            weight = analytic_weight(
                problem, net, ridge=self.ridge, recipe=recipe, begun=begun, data=data, say=common.say, **options
            )
        return Model.new(
            problem, weight, net, per_coordinate=self.coord, unit=0.0 if self.fixed_units else None, **options
        )


def network_options(task: str, default: str | None) -> common.Decorator:
    """The options that define a dense network; train_robust has them for the decoder that it trains."""
    return common.bundled(
        "network",
        DenseNetwork,
        net_option(task, default),
        click.option(
            "-W", "--weight", "weight_file", type=common.INPUT_FILE, help="Weight file. [the weight is computed here]"
        ),
        click.option(
            "--ridge",
            type=common.ridge,
            metavar="λ|auto",
            help=f"Ridge of that weight. [auto{'' if task == 'cs' else ', but 0 without noise'}]",
        ),
        common.layers_option(None, " [16]"),
        common.percent_options(),
        click.option("--untied/--tied", default=None, help="Learn a matrix for each layer, or a shared one."),
        click.option("--coord", is_flag=True, help="Learn a threshold for each coordinate."),
        # Networks for pictures never scale: the values of pictures have no other units.
        *([click.option("--fixed-units", is_flag=True, help="Do not scale measurements.")] if task != "cs" else []),
    )


@dataclass
class Given:
    """The signals to train on, if the command line gives any."""

    codes: Path | None
    measured: Path | None
    key: str | None
    columns: bool
    pairs: bool
    held_out: float | None

    def check(self, asked: Asked) -> None:
        """Raise UsageError if options contradict each other or those that define the problem."""
        given = {"--y": self.measured, "--key": self.key, "--columns": self.columns or None}
        given |= {"--complex-pairs": self.pairs or None}
        for option, value in {**given, "--held-out": self.held_out}.items():
            if self.codes is None and value is not None:
                raise click.UsageError(f"{option} is for signals that are given with --signals: give them too")
        for option in LAW if self.measured is None else (*LAW, "snr"):
            if self.codes is not None and asked.options[option] is not None:
                raise click.UsageError(f"--{option} is for new signals, and --signals gives some: leave it out")

    def load(self, problem: Problem) -> SignalSet | None:
        """The signals, or None. Pictures are converted to their coefficients in the basis of the problem's operator."""
        if self.codes is None:
            return None
        keys = common.keys_of(self.key, self.measured is not None)
        held_out: dict[str, Any] = {} if self.held_out is None else {"held_out": self.held_out}
        codes: Any = codes_of_pictures(self.codes, problem, keys[0], self.columns, self.pairs)
        codes = self.codes if codes is None else codes
        about = {"keys": keys, "columns": self.columns, "name": f"{self.codes}", "pairs": self.pairs, **held_out}
        return SignalSet(codes, self.measured, **about)


given_option = common.bundled(
    "given",
    Given,
    click.option(
        "--signals", "--x", "codes", type=common.INPUT_FILE, help="Codes, or pictures, to train on. [new ones]"
    ),
    click.option("--y", "measured", type=common.INPUT_FILE, help="File of their measurements. [computed]"),
    common.keys_option,
    common.columns_option,
    common.pairs_option,
    click.option("--held-out", type=float, metavar="SHARE", help="Share of them used for validation only. [0.1]"),
)


def note_size(recipe: FastRecipe, problem: Problem) -> FastRecipe:
    """The recipe with numbers that suit the size of an operator's signals, of which the user is told."""
    context = click.get_current_context()
    given = {name for name in vars(recipe) if context.get_parameter_source(name) == ParameterSource.COMMANDLINE}
    sized = recipe.sized(math.prod(problem.shape_of_code), kept=given)
    numbers = {name: getattr(sized, name) for name in ("batch", "validation_batch", "max_steps")}
    changed = [f"{common.spelled(name)} {value}" for name, value in numbers.items() if value != getattr(recipe, name)]
    if sized.layer_steps != recipe.layer_steps:
        changed.append(f"{sized.layer_steps} steps for each layer before that")
    if sized.hard != recipe.hard:
        changed.append("no share of harder signals")
    if changed:
        common.say(f"For signals of {problem.N} entries by an operator, the defaults are {', '.join(changed)}.")
    return sized


@click.command("train", cls=Command, ignored=NOT_IN_TRAINING)
@problem_argument
@given_option
@network_options("sc", "alista")
@network_recipe_options(
    lambda net: SparseCoding.recipes,
    steps="Steps of the joint stage [fast: 1200], or of each stage [paper: 200000].",
    rate="Learning rate. [fast: 0.03; paper: 0.0005]",
    matrix_steps="fast: final steps with learned matrices. [600]",
    batch="Signals per step. [fast: 128; paper: 64]",
    validation="Validation signals. [fast: 4000; paper: 1000]",
)
@run_options
def command(problem: Asked, given: Given, network: DenseNetwork, recipe: Any, run: Run) -> None:
    """Train a network to recover sparse signals from measurements.

    PROBLEM is a file of gen-problem, or is defined by options of gen-problem, like --m and --n. Training draws new
    signals of its law, or takes those of --signals. Unless --percent and --max-percent are given, the recipe decides
    them: fast from the sparsity, paper as 1.2 and 13. Options marked fast or paper belong to that recipe.
    """
    network.check()
    given.check(problem)
    recipe = network.suiting(recipe, SparseCoding)
    begun = run.begun(Model)
    loaded = problem.load(run.seed)
    signals = given.load(loaded)
    if isinstance(recipe, FastRecipe) and not loaded.has_matrix:
        recipe = note_size(recipe, loaded)
    if signals is not None:
        loaded = note_law(loaded, signals)
        signals.check_batch(recipe)  # before the weight is computed
    model = network.model(loaded, recipe, begun, run, drawn=problem.file is None, data=signals)
    run.train(model, recipe, SparseCoding(signals))
