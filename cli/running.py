"""What all training commands share: the options for recipes and runs, and the run itself."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import click
from cuista.cli import common

from cuista.model import AnyTrained, Trained
from cuista.ops import ReferenceOps
from cuista.ranks import ranks
from cuista.storage import claimed
from cuista.training import Progress, checkpoint_path, train
from cuista.training.checkpoint import continued, load_continued
from cuista.training.recipes import Recipe
from cuista.training.task import Task

# The recipes by name for the network of --net, or for any if it is None.
Recipes = Callable[[Any], Mapping[str, Callable[..., Recipe]]]

resume_option = click.option("--resume", is_flag=True, help="Continue an interrupted run, bit for bit.")


def recipe_option(
    name: str, field: str, text: str, type: Any = common.positive, metavar: str = "NUMBER"
) -> common.Decorator:
    """An option that sets the given field of the recipe."""
    return click.option(f"--{name}", field, type=type, metavar=metavar, help=text)


def numbers(text: str) -> tuple[float, ...]:
    """The option type of numbers separated by commas."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a list of numbers separated by commas, like 0.2,0.02") from None


def network_recipe_options(
    recipes: Recipes, *, steps: str, rate: str, matrix_steps: str, batch: str, validation: str
) -> common.Decorator:
    """The options for the recipes of networks; the help texts state the defaults."""
    return recipe_options(
        recipes,
        recipe_option("max-steps", "max_steps", steps, common.AT_LEAST_0, "N"),
        recipe_option("learning-rate", "learning_rate", rate),
        recipe_option("matrix-steps", "matrix_steps", matrix_steps, common.AT_LEAST_0, "N"),
        recipe_option("matrix-rate", "matrix_rate", "fast: factor on the matrices' learning rate. [1]"),
        recipe_option("batch", "batch", batch, common.AT_LEAST_1, "N"),
        recipe_option("validation-batch", "validation_batch", validation, common.AT_LEAST_1, "N"),
        recipe_option(
            "better-wait", "better_wait", "paper: steps to wait for improvement. [4000]", common.AT_LEAST_1, "N"
        ),
        recipe_option("lr-decay", "decays", "paper: joint stages' rate factors. [0.2,0.02]", numbers, "D,D…"),
        recipe_option("decay-rate", "factor", "paper: gradient factor per later layer. [0.3]"),
        fast=("matrix_steps", "matrix_rate"),
        paper=("better_wait", "decays", "factor"),
    )


def recipe_options(
    recipes: Recipes, *decorators: common.Decorator, fast: tuple[str, ...] = (), paper: tuple[str, ...] = ()
) -> common.Decorator:
    """The options that define a recipe; `fast` and `paper` name the fields that only that recipe has."""
    text = "Recipe. [fast, or paper if an option needs it]"
    name = click.option("--recipe", "name", type=click.Choice(["fast", "paper"]), help=text)

    def make(name: str | None, **given: Any) -> Recipe:
        net = click.get_current_context().params.get("net")
        return choose_recipe(recipes(net), name, given, fast, paper)

    return common.bundled("recipe", make, name, *decorators)


def choose_recipe(
    recipes: Mapping[str, Callable[..., Recipe]],
    name: str | None,
    given: dict[str, Any],
    fast: tuple[str, ...],
    paper: tuple[str, ...],
) -> Recipe:
    """The recipe with this name and these fields. Without a name, a field that only paper has selects that recipe."""
    given = {field: value for field, value in given.items() if value is not None}
    others = [common.spelled(field) for field in given if field in paper]
    if others and "paper" not in recipes:
        raise click.UsageError(f"{others[0]} is for the paper recipe, which this network does not have: leave it out")
    if others and name is None:
        common.say(f"Note: the paper recipe is used, because only it has {' and '.join(others)}.")
        name = "paper"
    name = name or "fast"
    if name not in recipes:
        raise click.UsageError(f"this network has no {name} recipe: leave --recipe out")
    for field in given:
        if field in (paper if name == "fast" else fast):
            other = "paper" if name == "fast" else "fast"
            option = common.spelled(field)
            raise click.UsageError(f"{option}: only the {other} recipe has it; leave it out, or give --recipe {other}")
    recipe = recipes[name](**given)
    recipe.stages(1)  # reports a wrong number before any work is done
    return recipe


@dataclass
class Run:
    """The options of a run that every training command has."""

    seed: int
    device: str
    out: Path
    checkpoint_every: float
    resume: bool
    force: bool

    @cached_property
    def before(self) -> Path | None:
        """The file from which the run continues, `out` itself if that is complete; None if the run starts afresh."""
        return check_resume(self.out, self.resume, self.force)

    @cached_property
    def ops(self) -> ReferenceOps:
        """The engine."""
        return common.engine_on(self.device)

    def begun(self, kind: type[AnyTrained]) -> AnyTrained | None:
        """The model in that file, or None."""
        return load_continued(kind, self.before)

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of `cuista.train` about resuming, overwriting and checkpoints."""
        kept = {"seed": self.seed, "resume": self.resume, "overwrite": self.force}
        return {**kept, "checkpoint_seconds": self.checkpoint_every}

    def train(self, model: Trained, recipe: Recipe, task: Task[Any] | None = None) -> None:
        """Train, show progress, and report the result."""
        task, is_complete = task or model.task(), self.before == self.out
        with common.ProgressLine() as line, resumable(self.out):
            train(model, recipe, task=task, out=self.out, progress=lambda at: show(line, at), **self.options)
        if is_complete:
            common.say(f"{self.out} is complete: nothing to resume.")
            return
        result, steps = model.training[f"validation_{task.shown.lower()}_db"], model.training["steps"]
        common.say(f"Wrote {self.out}: validation {task.shown} {result:.2f} dB after {steps} steps.")


run_option_list = (
    common.seed_option,
    common.device_option,
    click.option("-o", "--out", type=common.CONVERTIBLE_FILE, default="model.h5", help="Model file."),
    click.option(
        "--checkpoint-every",
        type=common.not_negative,
        default=30.0,
        metavar="SECONDS",
        help="Time between saves in OUT.ckpt.",
    ),
    resume_option,
    click.option("--force", is_flag=True, help="Start afresh and overwrite the output file."),
)


run_options = common.bundled("run", Run, *run_option_list)


def show(line: common.ProgressLine, at: Progress, name: str = "") -> None:
    """Show the progress of training."""
    line.show(at.fraction, f"{name}{at}")


def check_resume(out: Path, resume: bool, force: bool) -> Path | None:
    """The file from which a run that writes `out` continues (see `continued`). The user is told if there is none."""
    if resume and force:
        raise click.UsageError("--resume continues a run, and --force starts it afresh: give only one of them")
    before, context = continued(out, resume, force), click.get_current_context()
    ranks().agreed(lambda: context.with_resource(claimed(out)))
    if resume and before is None:
        common.say(f"There is no checkpoint {checkpoint_path(out)} to continue from.")
    return before


@contextlib.contextmanager
def resumable(out: Path) -> Iterator[None]:
    """Tell the user how to continue if the block, which writes `out`, is interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        checkpoint = checkpoint_path(out)
        if checkpoint.exists():
            common.say(
                f"\nThe run is saved in {checkpoint}: the same command with --resume (not --force) continues it."
            )
        raise
