"""cuista train"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from cuista.cli.common import (
    H5_FILE,
    INPUT_FILE,
    ProgressLine,
    device_option,
    force_option,
    make_problem,
    probability,
    problem_options,
    say,
    seed_option,
)
from cuista.cli.solve_w import find_ridge, parse_ridge
from cuista.cli.spellings import Command, net

from cuista.errors import FileError, InputError

if TYPE_CHECKING:
    from cuista.problem import Problem
    from cuista.training import Progress, Recipe
    from cuista.weights import Weight

# Options of one recipe: click's name → the recipe's field.
PAPER_ONLY = {"better_wait": "better_wait", "lr_decay": "decays", "decay_rate": "factor"}
BOTH = ("learning_rate", "batch", "validation_batch", "max_steps")


@click.command("train", cls=Command)
@click.argument("problem_file", metavar="[PROBLEM]", type=INPUT_FILE, required=False)
@click.option("--net", type=net, metavar="NAME", default="alista", show_default=True, help="The network.")
@click.option(
    "-W",
    "--weight",
    "weight_file",
    type=INPUT_FILE,
    help="Its analytic weight: a file from solve-w, or a bare array. Solved if not given.",
)
@click.option("--ridge", metavar="λ|auto", help="Ridge of a weight solved here. [0; auto if the problem is noisy]")
@click.option("-T", "--layers", type=click.IntRange(1), default=16, show_default=True, help="Number of layers.")
@click.option(
    "-p",
    "--percent",
    type=float,
    help="Percent of entries that may pass unshrunk, more in each layer. [fast: 17 × sparsity; paper: 1.2]",
)
@click.option("--max-percent", type=float, help="… up to this. [fast: 170 × sparsity; paper: 13]")
@click.option("--coord", is_flag=True, help="A threshold per coordinate instead of one per layer.")
@click.option(
    "--recipe",
    type=click.Choice(["fast", "paper"]),
    help="How to train. [fast, unless an option of the paper recipe is given]",
)
@click.option(
    "--max-steps",
    type=click.IntRange(0),
    help="Steps of the joint stage (fast: 600), or of each stage at most (paper: 200000).",
)
@click.option("--learning-rate", type=float, help="Adam's. [fast: 0.03; paper: 0.0005]")
@click.option("--batch", type=click.IntRange(1), help="Signals in a step. [fast: 128; paper: 64]")
@click.option(
    "--validation-batch", type=click.IntRange(1), help="Signals in the validation set. [fast: 4000; paper: 1000]"
)
@click.option(
    "--better-wait", type=click.IntRange(1), help="Paper recipe: steps to wait for a better validation. [4000]"
)
@click.option(
    "--lr-decay", metavar="D,D…", help="Paper recipe: learning rates of the joint stages, relative. [0.2,0.02]"
)
@click.option("--decay-rate", type=float, help="Paper recipe: gradient factor of a layer for each layer since. [0.3]")
@seed_option
@device_option
@click.option("-o", "--out", type=H5_FILE, default="model.h5", show_default=True, help="The model file.")
@click.option(
    "--checkpoint-every",
    type=click.FloatRange(0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How often the run's state is saved, in OUT.ckpt.",
)
@click.option("--resume", is_flag=True, help="Continue an interrupted run, to the bit-identical result.")
@force_option
@problem_options
def command(
    problem_file: Path | None,
    weight_file: Path | None,
    ridge: str | None,
    layers: int,
    percent: float | None,
    max_percent: float | None,
    coord: bool,
    recipe: str | None,
    seed: int,
    out: Path,
    checkpoint_every: float,
    resume: bool,
    force: bool,
    **options: Any,
) -> None:
    """Train a network for a problem.

    Without a PROBLEM file, the options --m, --n, --pnz, --snr, --con-num and --normalize make one.
    """
    from cuista.model import Model
    from cuista.training import checkpoint_path, train

    if resume and force:
        raise click.UsageError("--resume continues a run and --force starts it afresh: give one of them")
    checkpoint = checkpoint_path(out)
    if resume and out.exists():
        Model.load(out)
        say(f"{out} is complete: nothing to resume.")
        return
    if resume and not checkpoint.exists():
        say(f"No checkpoint {checkpoint}: starting afresh.")
    if checkpoint.exists() and not (resume or force):
        raise FileError(
            f"{checkpoint} holds an unfinished run: continue it with --resume, or start afresh with --force"
        )

    chosen = choose_recipe(recipe, options)
    problem = choose_problem(problem_file, seed, options)
    if chosen.name == "paper":
        percent = 1.2 if percent is None else percent
        max_percent = 13.0 if max_percent is None else max_percent
    weight = choose_weight(
        problem, weight_file, ridge, layers=layers, percent=percent, max_percent=max_percent, seed=seed
    )
    model = Model.new(problem, weight, layers=layers, percent=percent, max_percent=max_percent, per_coordinate=coord)
    with ProgressLine() as line:
        try:
            train(
                model,
                chosen,
                seed=seed,
                out=out,
                resume=resume,
                overwrite=force,
                checkpoint_seconds=checkpoint_every,
                progress=lambda progress: line.show(*describe(progress)),
            )
        except KeyboardInterrupt:
            say(f"\nInterrupted. The run is saved in {checkpoint}: the same command with --resume continues it.")
            raise
    nmse, steps = model.training["validation_nmse_db"], model.training["steps"]
    say(f"Wrote {out}: validation NMSE {nmse:.2f} dB after {steps} steps.")


def choose_recipe(name: str | None, options: dict[str, Any]) -> Recipe:
    """The recipe with the options given; one that only the paper recipe has asks for it."""
    from cuista.training import FastRecipe, PaperRecipe

    given = [option for option in PAPER_ONLY if options[option] is not None]
    spelled = ", ".join("--" + option.replace("_", "-") for option in given)
    if given and name == "fast":
        raise click.UsageError(f"{spelled}: only the paper recipe has this; leave it out, or give --recipe paper")
    if given and name is None:
        say(f"Note: {spelled} belongs to the paper recipe, so that is used.")
    chosen = {option: options[option] for option in BOTH if options[option] is not None}
    if name != "paper" and not given:
        return FastRecipe(**chosen)
    for option in given:
        value = options[option]
        chosen[PAPER_ONLY[option]] = parse_decays(value) if option == "lr_decay" else value
    return PaperRecipe(**chosen)


def parse_decays(text: str) -> tuple[float, ...]:
    """The value of --lr-decay: numbers with commas between."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a list of numbers like 0.2,0.02", param_hint="--lr-decay") from None


def choose_problem(path: Path | None, seed: int, options: dict[str, Any]) -> Problem:
    """The problem in the file, which the problem options must then agree with; or the one that they make."""
    from cuista.problem import Problem

    names = ("m", "n", "pnz", "snr", "con_num", "normalize")
    asked = {name: options[name] for name in names}
    if path is None:
        if all(value is None for value in asked.values()):
            raise click.UsageError("give a PROBLEM file (cuista gen-problem makes one), or --m, --n, … to make it here")
        return make_problem(seed=seed, **asked)
    problem = Problem.load(path)
    pnz = None if asked["pnz"] is None else probability(asked["pnz"])
    for name, value, found in (
        ("m", asked["m"], problem.M),
        ("n", asked["n"], problem.N),
        ("snr", asked["snr"], problem.snr_db),
        ("pnz", pnz if isinstance(pnz, float) else None, problem.pnz),
    ):
        if value is not None and value != found:
            raise InputError(
                f"--{name} is {value}, but {path} has {found}: leave the option out, or make another problem"
            )
    return problem


def choose_weight(problem: Problem, path: Path | None, ridge: str | None, **search: Any) -> Weight:
    """The weight in the file, or one solved now: noise-aware if the problem is noisy."""
    from cuista.weights import Weight, solve_exact

    if path is not None:
        if ridge is not None:
            raise click.UsageError("--ridge is for a weight solved here, and -W gives one: leave one of them out")
        return Weight.load(path, problem.A)
    strength = (None if problem.snr_db < float("inf") else 0.0) if ridge is None else parse_ridge(ridge)
    if strength is None:
        say(f"Solving a noise-aware weight for {problem.snr_db:g} dB SNR (--ridge auto; --ridge 0 for the paper's).")
        return find_ridge(problem, **search)
    say(f"Solving the analytic weight (ridge {strength:g}).")
    return solve_exact(problem.A, ridge=strength)


def describe(progress: Progress) -> tuple[float, str]:
    """How far training is, and in which words."""
    stage = progress.stage
    nmse = "" if progress.nmse_db is None else f", NMSE {progress.nmse_db:.2f} dB"
    return progress.fraction, f"{stage.title}, step {progress.step}/{stage.steps}{nmse}"
