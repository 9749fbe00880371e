"""cuista train --task robust"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from cuista.cli.common import AT_LEAST_1, INPUT_FILE, ProgressLine, engine_on, say
from cuista.cli.problems import PROBLEM_OPTIONS, choose_problem, hidden_problem_options
from cuista.cli.routing import net_option
from cuista.cli.running import (
    Run,
    choose_recipe,
    name_option,
    recipe_option,
    resumable,
    run_options,
    show,
    steps_option,
)
from cuista.cli.spellings import IN_FILES, Command
from cuista.cli.train_sc import DenseNetwork, network_options

from cuista.data.problem import Problem
from cuista.errors import InputError
from cuista.networks import ExactEncoder
from cuista.ops import ReferenceOps
from cuista.tasks import EncoderModel, Model, Robust, RobustModel
from cuista.tasks.robust import check_encoder, decoder_path, train_decoder


@click.command("train", cls=Command, ignored=IN_FILES)
@click.argument("problem_file", metavar="[PROBLEM]", type=INPUT_FILE, required=False)
@click.option("--encoder", metavar="FILE|exact", help="An encoder to train on, or the closed form of each matrix.")
@click.option("--decoder", "decoder_file", type=INPUT_FILE, help="A trained network. [trained here, from PROBLEM]")
@click.option("--psigma-max", "psigma_max", type=float, metavar="σ", help="Largest level of perturbation. [0.02]")
@click.option("--psteps", "psteps", type=int, metavar="N", help="Levels, the first being 0 and left out. [5]")
@click.option("--msigma", "msigma", type=float, metavar="σ", help="Of more noise in the measurements. [0]")
@name_option
@steps_option("Steps for each level. [fast: 150; paper: 50000]")
@recipe_option("matrices", "matrices", "Matrices in a step. [4]", AT_LEAST_1, "N")
@recipe_option("batch", "batch", "Signals that each of them measures. [16]", AT_LEAST_1, "N")
@recipe_option("validation-batch", "validation_batch", "… for validation. [64]", AT_LEAST_1, "N")
@recipe_option("learning-rate", "learning_rate", "Adam's. [fast: 0.003; paper: 0.0001]")
@recipe_option("matrix-rate", "matrix_rate", "fast: learning rate of matrices, as a factor. [1]")
@recipe_option("encoder-rate", "encoder_rate", "paper: learning rate of the step matrices. [1e-9]")
@net_option("robust")
@network_options
@run_options
@hidden_problem_options
def command(
    problem_file: Path | None,
    encoder: str | None,
    decoder_file: Path | None,
    net: str | None,
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
    """Train for perturbed matrices: an --encoder with its decoder, an ALISTA; or without one any network alone.

    --net and what follows it are for a decoder that is trained here. With --encoder exact, --ridge is where a learned
    ridge starts.
    """
    run = Run(seed, device, out, checkpoint_every, resume, force)
    asked = {option: given.pop(option) for option in PROBLEM_OPTIONS}
    exact = encoder == "exact"
    if encoder is not None and net not in (None, "alista"):
        raise click.UsageError(f"--net {net}: with an --encoder the decoder is alista; leave one of them out")
    made_here = {"-W": weight_file, "-T": layers, "-p": percent, "--max-percent": max_percent, "--ridge": ridge}
    made_here |= {"--untied": untied or None, "--coord": coord or None}
    for option, value in made_here.items():
        if decoder_file is not None and value is not None and not (exact and option == "--ridge"):
            raise click.UsageError(f"{option} is of a decoder trained here, and --decoder gives one: leave it out")
    if exact and ridge == "auto":
        raise click.UsageError("--ridge auto: give the number at which a learned ridge starts")
    strength = ridge if exact else None
    recipe = choose_recipe(Robust.recipes, name, given, fast=("matrix_rate",), paper=("encoder_rate",))
    kind: type[Model | RobustModel] = Model if encoder is None else RobustModel
    if not run.is_due(kind):
        return
    ops = engine_on(device)
    learned = None if encoder is None or exact else EncoderModel.load(encoder, ops=ops)
    has_problem = problem_file is not None or any(value is not None for value in asked.values())
    problem = choose_problem(problem_file, seed, asked) if has_problem else None
    if decoder_file is not None:
        decoder = load_decoder(decoder_file, net, problem, ops)
    else:
        problem = problem or (learned.problem if learned else None)
        if problem is None:
            raise click.UsageError("give a --decoder, or a PROBLEM to train one for (cuista gen-problem makes one)")
        check_encoder(problem, learned, strength)
        if exact:
            ExactEncoder(
                problem.A, ridge=strength or 0.0, learned=strength is not None, ops=ops
            )  # says if it cannot be
        of_weight = None if exact else ridge
        network = DenseNetwork.asked(
            net or "alista", weight_file, of_weight, layers, percent, max_percent, untied, coord
        )
        decoder = made_decoder(network, problem, run, ops)
    model: Any = decoder if encoder is None else RobustModel.new(decoder, learned, ridge=strength, ops=ops)
    run.train(model, recipe, Robust())


def load_decoder(path: Path, net: str | None, problem: Problem | None, ops: ReferenceOps) -> Model:
    """The decoder in a file, which must be what else the options say."""
    decoder = Model.load(path, ops=ops)
    if net not in (None, decoder.network.name):
        raise InputError(f"{path} holds {decoder.network.title}, not {net}: leave the network out", option="net")
    if problem is not None and problem.sha256 != decoder.problem.sha256:
        raise InputError(f"{path} is for another matrix than the problem: leave the problem out")
    return decoder


def made_decoder(network: DenseNetwork, problem: Problem, run: Run, ops: ReferenceOps) -> Model:
    """The decoder that is trained here, with progress."""

    def make(begun: Model | None) -> Model:
        return network.model(problem, None, begun, ops, run.seed)

    with ProgressLine() as line, resumable(decoder_path(run.out)):
        return train_decoder(make, run.out, say=say, progress=lambda at: show(line, at, "decoder: "), **run.options)
