"""cuista train --task robust"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from cuista.cli import common
from cuista.cli.problems import Asked, problem_argument
from cuista.cli.routing import JOINT
from cuista.cli.running import Run, recipe_option, recipe_options, resumable, run_options, show
from cuista.cli.spellings import IN_FILES, IN_ROBUST, Command
from cuista.cli.train_sc import DenseNetwork, network_options

from cuista.data.problem import Problem
from cuista.errors import FileError, InputError
from cuista.networks import ExactEncoder
from cuista.tasks.encoder import EncoderModel
from cuista.tasks.robust import Robust, RobustModel, check_encoder, decoder_path, train_decoder
from cuista.tasks.sparse_coding import Model
from cuista.training import checkpoint_path


@click.command("train", cls=Command, ignored=IN_FILES, renamed=IN_ROBUST, prefix="robust_")
@problem_argument
@click.option("--encoder", metavar="FILE|exact", help="Encoder file, or exact for the closed form.")
@click.option("--decoder", "decoder_file", type=common.INPUT_FILE, help="Trained network. [trained here on PROBLEM]")
@recipe_options(
    lambda net: Robust.recipes,
    recipe_option("psigma-max", "psigma_max", "Largest level of perturbation. [0.02]", float, "σ"),
    recipe_option("psteps", "psteps", "Number of levels with 0, which is skipped. [5]", int, "N"),
    recipe_option("msigma", "msigma", "Std. deviation of additional noise. [0]", float, "σ"),
    recipe_option("max-steps", "max_steps", "Steps per level. [fast: 150; paper: 50000]", common.AT_LEAST_0, "N"),
    recipe_option("matrices", "matrices", "Matrices per step. [4]", common.AT_LEAST_1, "N"),
    recipe_option("batch", "batch", "Signals that each matrix measures. [16]", common.AT_LEAST_1, "N"),
    recipe_option(
        "validation-batch", "validation_batch", "Signals per matrix in validation. [64]", common.AT_LEAST_1, "N"
    ),
    recipe_option("learning-rate", "learning_rate", "Learning rate. [fast: 0.003; paper: 0.0001]"),
    recipe_option("matrix-rate", "matrix_rate", "fast: factor on the matrices' learning rate. [1]"),
    recipe_option("encoder-rate", "encoder_rate", "paper: the encoder's learning rate. [1e-9]"),
    fast=("matrix_rate",),
    paper=("encoder_rate",),
)
@network_options("robust", None)
@run_options
def command(
    problem: Asked, encoder: str | None, decoder_file: Path | None, recipe: Any, network: DenseNetwork, run: Run
) -> None:
    """Train recovery that withstands perturbed matrices.

    With --encoder, an encoder computes a weight for each matrix and is trained together with its decoder, an ALISTA.
    Without it, a decoder of any kind is trained alone. The options from --net to --coord define a decoder that is first
    trained here on PROBLEM, by the fast recipe; --decoder replaces them. With --encoder exact, --ridge is the initial
    value of a learned ridge. Options marked fast or paper belong to that recipe.
    """
    joint = click.get_current_context().meta.get(JOINT, False)
    if joint and encoder is None:
        raise click.UsageError(
            "robust_ALISTA is trained together with its encoder: give --encoder exact, or the file of an encoder "
            "that cuista train --task encoder has made"
        )
    if joint and decoder_file is not None and network.given:
        common.say(f"Note: {' and '.join(network.given)} are ignored: the file of --decoder defines them.")
        network = DenseNetwork(network.net, None, None, None, None, None, False, False)
    exact, strength = encoder == "exact", None
    if encoder is not None and network.net not in (None, "alista"):
        raise click.UsageError(
            f"--net {network.net}: with --encoder the decoder is alista; leave one of the two options out"
        )
    if exact and network.ridge == "auto":
        raise click.UsageError(
            "--ridge auto: with --encoder exact, give a number, the initial value of a learned ridge"
        )
    if exact:
        network.ridge, strength = None, network.ridge
    if decoder_file is not None and network.given:
        option = network.given[0]
        raise click.UsageError(
            f"{option} is for a decoder trained here, and --decoder gives one: leave one of them out"
        )
    if recipe.encoder_rate != Robust.recipes["paper"]().encoder_rate and (encoder is None or exact):
        common.say("Note: --encoder-rate is ignored: it is for an encoder that has been trained.")
    network.check()
    kind: type[Model | RobustModel] = Model if encoder is None else RobustModel
    kept = decoder_path(run.out)
    if run.before == run.out and checkpoint_path(kept).exists():
        raise FileError(f"{run.out} is complete, but its decoder {kept} is not: start afresh", option="overwrite")
    if run.before == run.out and decoder_file is None and not kept.exists():
        kind.load(run.out)  # without its decoder it cannot be compared with the options
        common.say(f"{run.out} is complete: nothing to resume.")
        return
    learned = None if encoder is None or exact else EncoderModel.load(encoder, ops=run.ops)
    nominal = problem.load(run.seed) if problem.file or problem.given else None
    if decoder_file is not None:
        decoder = load_decoder(decoder_file, network.net, nominal, run)
    else:
        nominal = nominal or (learned.problem if learned else None)
        if nominal is None:
            raise click.UsageError("give a --decoder, or a PROBLEM to train one on (cuista gen-problem makes one)")
        check_encoder(nominal, learned, strength)
        if exact:  # fails now, not after the training, if there is no closed form
            ExactEncoder(nominal.A, ridge=strength or 0.0, learned=strength is not None, ops=run.ops)
        decoder = made_decoder(network, nominal, run)
    model: Any = decoder if encoder is None else RobustModel.new(decoder, learned, ridge=strength, ops=run.ops)
    run.train(model, recipe, Robust())


def load_decoder(path: Path, net: str | None, problem: Problem | None, run: Run) -> Model:
    """The decoder in a file, which must agree with the network and the problem that the options give."""
    decoder = Model.load(path, ops=run.ops)
    if net not in (None, decoder.network.name):
        raise InputError(
            f"{path} holds {decoder.network.title}, not {net}: leave {net} out, or give another decoder", option="net"
        )
    if problem is not None and problem.sha256 != decoder.problem.sha256:
        raise InputError(
            f"{path} is for another matrix than the problem: leave out the problem, or give another decoder"
        )
    return decoder


def made_decoder(network: DenseNetwork, problem: Problem, run: Run) -> Model:
    """Train the decoder, and show progress."""

    def make(begun: Model | None) -> Model:
        return network.model(problem, None, begun, run)

    with common.ProgressLine() as line, resumable(decoder_path(run.out)):
        return train_decoder(
            make, run.out, say=common.say, progress=lambda at: show(line, at, "decoder: "), **run.options
        )
