"""cuista train"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from cuista.cli.common import (
    INPUT_FILE,
    PROBLEM_OPTIONS,
    Run,
    convention_option,
    device_option,
    engine_on,
    force_option,
    magnitude_law,
    make_problem,
    output_file,
    positive,
    probability,
    problem_options,
    refuse,
    resume_option,
    say,
    seed_option,
)
from cuista.cli.solve_w import find_ridge, parse_ridge
from cuista.cli.spellings import Command, net
from cuista.cli.train_denoiser import train_denoiser
from cuista.cli.train_robust import robust_options, train_encoder, train_robust

from cuista.errors import InputError

if TYPE_CHECKING:
    from cuista.data.problem import Problem
    from cuista.model import Model
    from cuista.networks import Unrolled
    from cuista.ops import ReferenceOps
    from cuista.training import Recipe, SearchRecipe
    from cuista.weights import Weight

MODEL_FILE = output_file(".h5", advice="cuista convert writes networks for sparse coding in other formats")
# Options of one recipe: click's name → the recipe's field.
PAPER_ONLY = {"better_wait": "better_wait", "lr_decay": "decays", "decay_rate": "factor"}
FAST_ONLY = ("matrix_steps", "matrix_rate")
BOTH = ("learning_rate", "batch", "validation_batch", "max_steps")


@click.command("train", cls=Command)
@click.argument("problem_file", metavar="[PROBLEM|IMAGES]", type=INPUT_FILE, required=False)
@click.option("--net", type=net, metavar="NAME", help="The network. [alista; encoder: atow]")
@click.option(
    "-W",
    "--weight",
    "weight_file",
    type=INPUT_FILE,
    help="Its analytic weight: a file from solve-w, or a bare array. Solved if not given.",
)
@click.option(
    "--ridge",
    metavar="λ|auto",
    help="Ridge of a weight solved here. [0; auto if the problem is noisy, and for denoising]",
)
@click.option("-T", "--layers", type=click.IntRange(1), help="Number of layers. [16; denoise: 5; encoder: 4]")
@click.option(
    "-p",
    "--percent",
    type=float,
    help="Percent of entries that may pass unshrunk, more in each layer. [fast: 17 × sparsity; paper: 1.2]",
)
@click.option("--max-percent", type=float, help="… up to this. [fast: 170 × sparsity; paper: 13]")
@click.option("--untied/--tied", help="A learned matrix for each layer, or one for all. [--tied]")
@click.option("--coord", is_flag=True, help="A threshold per coordinate instead of one per layer.")
@click.option(
    "--recipe",
    type=click.Choice(["fast", "paper"]),
    help="How to train. [fast, unless an option of the paper recipe is given]",
)
@click.option(
    "--max-steps",
    type=click.IntRange(0),
    help="Steps of the joint stage (fast: 1200), or of each stage at most (paper: 200000).",
)
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True), help="Adam's. [fast: 0.03; paper: 0.0005]")
@click.option("--matrix-steps", type=click.IntRange(0), help="Fast recipe: steps that train learned matrices. [600]")
@click.option(
    "--matrix-rate", type=click.FloatRange(0, min_open=True), help="Fast recipe: their rate, as a factor. [1]"
)
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
@click.option(
    "--decay-rate",
    type=click.FloatRange(0, min_open=True),
    help="Paper recipe: gradient factor of a layer for each layer since. [0.3]",
)
@seed_option
@device_option
@click.option("-o", "--out", type=MODEL_FILE, default="model.h5", show_default=True, help="The model file.")
@click.option(
    "--checkpoint-every",
    type=click.FloatRange(0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How often the run's state is saved, in OUT.ckpt.",
)
@resume_option
@force_option
@click.option(
    "--task",
    type=click.Choice(["sc", "denoise", "encoder", "robust"]),
    help="Sparse coding, denoising, an encoder of matrices, training under perturbation. [the network's]",
)
@click.option("--dict", "dictionary_file", type=INPUT_FILE, help="denoise: the dictionary, unless -W has it.")
@convention_option
@click.option(
    "--sigma",
    type=positive,
    metavar="FLOAT",
    help="denoise: standard deviation of the noise, of 255. [20] encoder: of the perturbation. [0.01]",
)
@click.option("--crop", type=click.IntRange(1), help="denoise: pixels along a side of a crop. [fast: 128; paper: 321]")
@robust_options
@problem_options
def command(
    problem_file: Path | None,
    net: str | None,
    weight_file: Path | None,
    ridge: str | None,
    layers: int | None,
    percent: float | None,
    max_percent: float | None,
    untied: bool,
    coord: bool,
    recipe: str | None,
    task: str | None,
    dictionary_file: Path | None,
    convention: str | None,
    sigma: float | None,
    crop: int | None,
    seed: int,
    device: str,
    out: Path,
    checkpoint_every: float,
    resume: bool,
    force: bool,
    **options: Any,
) -> None:
    """Train a network for a problem, or one that denoises on pictures.

    Without a PROBLEM file, the options of gen-problem make one; with one, they must agree with it. A convolutional
    network is trained on IMAGES, a file of prepare-images. For recovery by other matrices than the problem's, train an
    encoder (--task encoder), and then it and a decoder together (--task robust).
    """
    from cuista.model import Model
    from cuista.networks import CONV_NETWORKS, NETWORKS
    from cuista.training import SearchRecipe

    task = choose_task(task, net)
    check_of_task(task, {"dict": dictionary_file, "convention": convention, "sigma": sigma, "crop": crop, **options})
    run = Run(seed, device, out, checkpoint_every, resume, force)
    of_decoder = {"-W": weight_file, "-p": percent, "--max-percent": max_percent}
    of_decoder |= {"--untied": untied or None, "--coord": coord or None}
    if task == "encoder":
        refuse({**of_decoder, "--ridge": ridge}, "an encoder has no such option")
        train_encoder(choose_problem(problem_file, seed, options), recipe, options, layers, sigma, run)
        return
    kind: type[Unrolled] = {**NETWORKS, **CONV_NETWORKS}[net or ("conv-alista" if task == "denoise" else "alista")]
    if untied and not kind.can_untie:
        say(f"Note: --untied is ignored: {kind.title} has no matrix that could differ from layer to layer.")
        untied = False
    if coord and not kind.can_coordinate:
        say(f"Note: --coord is ignored: {kind.title} has no threshold per coordinate.")
        coord = False
    if (percent, max_percent) != (None, None) and not kind.selects:
        say(f"Note: --percent and --max-percent are ignored: {kind.title} has no support schedule.")
    schedule: dict[str, Any] = {"layers": layers, "percent": percent, "max_percent": max_percent}
    dense = DenseNetwork(kind, weight_file, ridge, schedule, coord, untied)
    if task == "robust":
        has_problem = problem_file is not None or any(options[name] is not None for name in PROBLEM_OPTIONS)

        def nominal() -> Problem:
            return choose_problem(problem_file, seed, options)

        train_robust(
            recipe,
            options,
            net=net,
            ridge=ridge,
            problem=nominal if has_problem else None,
            decoder_options={**of_decoder, "-T": layers},
            make_decoder=partial(dense.model, seed=seed),
            run=run,
        )
        return
    chosen = choose_recipe(kind, recipe, options)
    if not isinstance(chosen, SearchRecipe):
        chosen.stages(layers or 16)  # says now what is wrong with it
    if task == "denoise":
        given = [name for name in PROBLEM_OPTIONS if options[name] is not None]
        if given:
            raise click.UsageError(f"--{given[0].replace('_', '-')} is of sparse coding, and {kind.title} denoises")
        if problem_file is None:
            raise click.UsageError(f"{kind.title} is trained on pictures: give a file of cuista prepare-images")
        assert not isinstance(chosen, SearchRecipe)
        train_denoiser(
            problem_file,
            kind.name,
            chosen,
            weight_file=weight_file,
            dictionary_file=dictionary_file,
            convention=convention,
            ridge=ridge,
            sigma=20.0 if sigma is None else sigma,
            crop=crop,
            schedule={"untied": untied, **{name: value for name, value in schedule.items() if value is not None}},
            run=run,
        )
        return
    if not run.is_due(Model):
        return
    ops = engine_on(device)
    run.train(dense.model(choose_problem(problem_file, seed, options), chosen, run.begun(Model), ops, seed), chosen)


@dataclass(frozen=True)
class DenseNetwork:
    """A network for the signals of a problem, as the options ask for it; None where they say nothing."""

    kind: type[Unrolled]
    weight_file: Path | None
    ridge: str | None
    schedule: dict[str, Any]
    per_coordinate: bool
    untied: bool

    def model(
        self, problem: Problem, recipe: Recipe | SearchRecipe, begun: Model | None, ops: ReferenceOps, seed: int
    ) -> Model:
        """It, untrained, with the weight given, that of the run begun, or one solved now."""
        from cuista.model import Model

        ridge, schedule = self.ridge, {**self.schedule, "layers": self.schedule["layers"] or 16}
        if recipe.name == "paper":
            published = {"percent": 1.2, "max_percent": 13.0}
            schedule |= {name: value for name, value in published.items() if schedule[name] is None}
        if (ridge, self.weight_file) == (None, None) and not recipe.analytic and self.kind.matrices:
            ridge = "0"  # the paper recipe starts learned matrices elsewhere
        search = {"net": self.kind.name, "untied": self.untied, "seed": seed, "ops": ops, **schedule}
        weight = choose_weight(problem, self.weight_file, ridge, begun, **search)
        options = {**schedule, "per_coordinate": self.per_coordinate, "untied": self.untied, "ops": ops}
        return Model.new(problem, weight, self.kind.name, **options)


# The options that are of some tasks only: click's name → those tasks.
OF_TASKS = {
    **dict.fromkeys(("dict", "convention", "crop"), ("denoise",)),
    "sigma": ("denoise", "encoder"),
    **dict.fromkeys(("loss", "loss_weights", "start", "eta"), ("encoder",)),
    "matrices": ("encoder", "robust"),
    **dict.fromkeys(("encoder", "decoder", "psigma_max", "psteps", "msigma", "encoder_rate"), ("robust",)),
}


def choose_task(task: str | None, net: str | None) -> str:
    """What is trained for: as --task says, or as the network does."""
    from cuista.networks import CONV_NETWORKS, NETWORKS, Encoder

    suiting = {
        "sc": list(NETWORKS),
        "denoise": list(CONV_NETWORKS),
        "encoder": [Encoder.name],
        "robust": list(NETWORKS),
    }
    natural = next((name for name, nets in suiting.items() if net in nets), "sc")
    if task is not None and net is not None and net not in suiting[task]:
        listed = ", ".join(suiting[task])
        raise click.UsageError(f"--task {task} is not what {net} does: give it another --net, of {listed}")
    return task or natural


def check_of_task(task: str, options: dict[str, Any]) -> None:
    """Raise UsageError if an option of another task is given."""
    for name, tasks in OF_TASKS.items():
        if task not in tasks and options[name] is not None:
            raise click.UsageError(
                f"--{name.replace('_', '-')} is of --task {' or '.join(tasks)}, and this is {task}: leave it out, or "
                "give the task"
            )


def choose_recipe(net: type[Unrolled], name: str | None, options: dict[str, Any]) -> Recipe | SearchRecipe:
    """The recipe with the options given; one that only the paper recipe has asks for it."""
    from cuista.networks import ConvNetwork
    from cuista.training import FastRecipe, PaperRecipe, SearchRecipe

    if not net.has_gradients:
        given = [option for option in (*BOTH, *FAST_ONLY, *PAPER_ONLY) if options[option] is not None]
        if name or given:
            what = "--recipe" if name else "--" + given[0].replace("_", "-")
            raise click.UsageError(f"{what}: {net.title} is not trained, its numbers are searched for; leave it out")
        return SearchRecipe()
    given = [option for option in PAPER_ONLY if options[option] is not None]
    spelled = ", ".join("--" + option.replace("_", "-") for option in given)
    if given and name == "fast":
        raise click.UsageError(f"{spelled}: only the paper recipe has this; leave it out, or give --recipe paper")
    if given and name is None:
        say(f"Note: {spelled} belongs to the paper recipe, so that is used.")
    chosen = {option: options[option] for option in BOTH if options[option] is not None}
    of_fast = {option: options[option] for option in FAST_ONLY if options[option] is not None}
    convolutional = issubclass(net, ConvNetwork)
    if name != "paper" and not given:
        return (FastRecipe.for_pictures if convolutional else FastRecipe)(**chosen, **of_fast)
    for option in of_fast:
        raise click.UsageError(f"--{option.replace('_', '-')}: only the fast recipe has this; leave it out")
    for option in given:
        value = options[option]
        chosen[PAPER_ONLY[option]] = parse_decays(value) if option == "lr_decay" else value
    return (PaperRecipe.for_pictures if convolutional else PaperRecipe)(**chosen)


def parse_decays(text: str) -> tuple[float, ...]:
    """The value of --lr-decay: numbers with commas between."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a list of numbers like 0.2,0.02", param_hint="--lr-decay") from None


def choose_problem(path: Path | None, seed: int, options: dict[str, Any]) -> Problem:
    """The problem in the file, which the problem options must then agree with; or the one that they make."""
    import numpy as np

    from cuista.data.problem import Problem

    asked = {name: options[name] for name in PROBLEM_OPTIONS}
    if path is None:
        if all(value is None for value in asked.values()):
            raise click.UsageError("give a PROBLEM file (cuista gen-problem makes one), or --m, --n, … to make it here")
        return make_problem(asked, seed)
    problem = Problem.load(path)
    if asked["pnz"] is not None:
        asked["pnz"] = probability(asked["pnz"])
    law = magnitude_law(asked) if any(asked[name] is not None for name in PROBLEM_OPTIONS[6:]) else None
    found = {"m": problem.M, "n": problem.N, "pnz": problem.pnz, "snr": problem.snr_db, "normalize": problem.normalized}
    pairs = [(name, asked[name], value) for name, value in found.items()]
    for name, value, actual in [*pairs, ("magnitude", law, problem.magnitude)]:
        if value is not None and not np.array_equal(value, actual):
            raise InputError(f"--{name} is {value}, but {path} has {actual}: leave it out, or make another problem")
    kappa = asked["con_num"]
    if kappa and not 0.9 < problem.condition_number / kappa < 1.1:  # normalising the columns moves it a little
        has = f"{path} has {problem.condition_number:.4g}"
        raise InputError(f"--con-num is {kappa:g}, but {has}: leave it out, or make another problem")
    return problem


def choose_weight(problem: Problem, path: Path | None, ridge: str | None, begun: Model | None, **search: Any) -> Weight:
    """The weight in the file, that of the run begun, or one solved now: noise-aware if the problem is noisy."""
    from cuista.weights import Weight, solve_exact

    if path is not None:
        if ridge is not None:
            raise click.UsageError("--ridge is for a weight solved here, and -W gives one: leave one of them out")
        return Weight.load(path, problem.A)
    if begun is not None and begun.problem.sha256 == problem.sha256:
        return begun.weight  # solved anew it might differ in its last bits
    strength = (None if problem.snr_db < float("inf") else 0.0) if ridge is None else parse_ridge(ridge)
    if strength is None:
        say(f"Solving a noise-aware weight for {problem.snr_db:g} dB SNR (--ridge auto; --ridge 0 for the paper's).")
        return find_ridge(problem, **search)
    say(f"Solving the analytic weight (ridge {strength:g}).")
    return solve_exact(problem.A, ridge=strength)
