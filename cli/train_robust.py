"""What cuista train does under perturbation: encoders, robust models, and decoders alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import click
from cuista.cli.common import INPUT_FILE, Run, engine_on, refuse, say

from cuista.errors import FileError, InputError

if TYPE_CHECKING:
    from cuista.data.problem import Problem
    from cuista.model import Model
    from cuista.ops import ReferenceOps
    from cuista.robust import EncoderModel
    from cuista.training import EncoderRecipe, Recipe, RobustRecipe

F = TypeVar("F", bound=Callable[..., Any])
# From a problem, a recipe, what the run goes on from (None: nothing) and the engine to an untrained network.
MakeDecoder = Callable[["Problem", "Recipe", "Model | None", "ReferenceOps"], "Model"]

# The paper's B_i = η A is the original's default.
STARTS = ("analytic", "nominal", "default", "uniform", "normal")


def robust_options(function: F) -> F:
    """The options of encoders and of training under perturbation; None where not given."""
    positive = click.FloatRange(0, min_open=True)
    options = [
        click.option(
            "--loss",
            type=click.Choice(["l1", "l2", "rel1", "rel2", "expl1", "expl2"]),
            help="encoder: the loss of its weights. [rel2]",
        ),
        click.option("--loss-weights", type=INPUT_FILE, help="encoder: Q (N, N) of that loss, from a file (key Q)."),
        click.option(
            "--start",
            type=click.Choice(STARTS),
            help="encoder: its first step matrices. [fast: analytic, for l2 and rel2; else nominal]",
        ),
        click.option("--eta", type=positive, help="encoder: factor of the nominal start. [0.001]"),
        click.option("--matrices", type=click.IntRange(1), help="encoder, robust: matrices in a step. [8 or 16; 4]"),
        click.option(
            "--encoder", metavar="FILE|exact", help="robust: an encoder to train on, or the closed form of each matrix."
        ),
        click.option("--decoder", type=INPUT_FILE, help="robust: a trained network. Trained first if not given."),
        click.option("--psigma-max", type=float, help="robust: the largest level of perturbation. [0.02]"),
        click.option("--psteps", type=int, help="robust: how many levels, the first being 0 and left out. [5]"),
        click.option("--msigma", type=float, help="robust: standard deviation of noise in the measurements. [0]"),
        click.option("--encoder-rate", type=positive, help="robust, paper recipe: of the step matrices. [1e-9]"),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def train_encoder(
    problem: Problem, name: str | None, options: dict[str, Any], layers: int | None, sigma: float | None, run: Run
) -> None:
    """Train an encoder."""
    from cuista.robust import EncoderModel
    from cuista.storage import load_array
    from cuista.training import EncoderRecipe

    _refuse(options, "an encoder is trained", "matrix_steps", "matrix_rate", "lr_decay", "decay_rate")
    refuse({"--batch": options["batch"]}, "an encoder is trained on --matrices")
    paper = _is_paper(name, options, "better_wait")
    fields = {"batch": "matrices", **{field: field for field in ("validation_batch", "max_steps", "learning_rate")}}
    chosen = {field: options[option] for field, option in fields.items() if options[option] is not None}
    chosen |= {"sigma": sigma} if sigma is not None else {}
    chosen |= {"better_wait": options["better_wait"]} if options["better_wait"] is not None else {}
    recipe: EncoderRecipe = (EncoderRecipe.paper if paper else EncoderRecipe)(**chosen)
    recipe.stages(layers or 4)  # says now what is wrong with it
    start = options["start"] or ("nominal" if paper else None)
    Q = None if options["loss_weights"] is None else load_array(options["loss_weights"], "Q")
    if not run.is_due(EncoderModel):
        return
    model = EncoderModel.new(
        problem,
        Q=Q,
        layers=layers or 4,
        loss=options["loss"] or "rel2",
        start="nominal" if start == "default" else start,
        eta=1e-3 if options["eta"] is None else options["eta"],
        seed=run.seed,
        ops=engine_on(run.device),
    )
    run.train(model, recipe)


def train_robust(
    name: str | None,
    options: dict[str, Any],
    *,
    net: str | None,
    ridge: str | None,
    problem: Callable[[], Problem] | None,
    decoder_options: dict[str, Any],
    make_decoder: MakeDecoder,
    run: Run,
) -> None:
    """Train an encoder with its decoder, or a decoder alone, under perturbation.

    Parameters
    ----------
    net, ridge
        Those options.
    problem
        Gives the problem of the command line, if there is one.
    decoder_options
        The options of a decoder that is trained here, as they were given.
    make_decoder
        Makes one to train, as `cuista train` does otherwise.
    """
    from cuista.model import Model
    from cuista.networks import NETWORKS, ExactEncoder
    from cuista.robust import EncoderModel, RobustModel, check_encoder

    encoder_file, decoder_file = options["encoder"], options["decoder"]
    if net is not None and not NETWORKS[net].has_gradients:
        raise click.UsageError(f"--net {net}: {NETWORKS[net].title} is not trained by gradients; give another one")
    if encoder_file is not None and net not in (None, "alista"):
        raise click.UsageError(f"--net {net}: with an --encoder the decoder is alista; leave one of them out")
    if decoder_file is not None:
        for option, value in decoder_options.items():
            if value not in (None, False):
                raise click.UsageError(f"{option} is of a decoder trained here, and --decoder gives one: leave it out")
    if ridge is not None and encoder_file != "exact" and decoder_file is not None:
        raise click.UsageError("--ridge is of --encoder exact, or of a decoder trained here: leave it out")
    strength: float | None = None
    if encoder_file == "exact" and ridge is not None:
        try:
            strength = float(ridge)
        except ValueError:
            raise click.UsageError(f"--ridge {ridge}: give the number at which a learned ridge starts") from None
    _refuse(options, "this is training under perturbation", "matrix_steps", "better_wait", "lr_decay", "decay_rate")
    recipe = choose_robust_recipe(name, options)
    recipe.stages(1)  # says now what is wrong with it
    kind = Model if encoder_file is None else RobustModel
    if not run.is_due(kind):
        return
    ops = engine_on(run.device)
    encoder: EncoderModel | None = None
    if encoder_file not in (None, "exact"):
        encoder = EncoderModel.load(encoder_file, ops=ops)
    nominal = problem() if problem else None
    if decoder_file is not None:
        decoder = Model.load(decoder_file, ops=ops)
        if net not in (None, decoder.network.name):
            raise InputError(f"--net is {net}, but {decoder_file} holds {decoder.network.title}: leave it out")
        if nominal is not None and nominal.sha256 != decoder.problem.sha256:
            raise InputError(f"{decoder_file} is for another matrix than the problem: leave the problem out")
    else:
        nominal = nominal or (encoder.problem if encoder else None)
        if nominal is None:
            raise click.UsageError("give a --decoder, or a PROBLEM to train one for (cuista gen-problem makes one)")
        check_encoder(nominal, encoder, strength)
        if encoder_file == "exact":
            ExactEncoder(nominal.A, ridge=strength or 0.0, learned=strength is not None, ops=ops)
        decoder = _decoder(nominal, make_decoder, run, ops)
    model: Model | RobustModel = decoder
    if encoder_file is not None:
        model = RobustModel.new(decoder, encoder, ridge=strength, ops=ops)
    elif not model.network.has_gradients:
        raise InputError(f"{model.network.title} is not trained by gradients: give another decoder")
    run.train(model, recipe)


def _decoder(problem: Problem, make: MakeDecoder, run: Run, ops: ReferenceOps) -> Model:
    """The decoder that was trained for this run before it was interrupted, or one trained now."""
    from cuista.model import Model
    from cuista.training import FastRecipe, identity

    recipe, run = FastRecipe(), replace(run, out=run.out.with_name(f"{run.out.stem}.decoder.h5"))
    if run.is_due(Model):
        say(f"Training the decoder first, kept in {run.out}.")
        decoder = make(problem, recipe, run.begun(Model), ops)
        run.train(decoder, recipe)
        return decoder
    kept = Model.load(run.out, ops=ops)
    now = identity(make(problem, recipe, kept, ops), recipe, run.seed)
    then = kept.training
    differing = [f"{name} (then {then.get(name)}, now {now[name]})" for name in now if then.get(name) != now[name]]
    if differing:
        raise FileError(
            f"{run.out} is a decoder that was trained otherwise; it differs in {', '.join(differing)}. Give the "
            "options of then, or start afresh with --force"
        )
    return kept


def choose_robust_recipe(name: str | None, options: dict[str, Any]) -> RobustRecipe:
    """The recipe with the options given."""
    from cuista.training import RobustRecipe

    paper = _is_paper(name, options, "encoder_rate")
    if paper and options["matrix_rate"] is not None:
        raise click.UsageError("--matrix-rate: only the fast recipe has this; leave it out, or give --encoder-rate")
    sizes = ("psigma_max", "psteps", "msigma", "matrices", "batch", "validation_batch", "max_steps")
    fields = (*sizes, "learning_rate", "matrix_rate", "encoder_rate")
    chosen = {field: options[field] for field in fields if options[field] is not None}
    return (RobustRecipe.paper if paper else RobustRecipe)(**chosen)


def _is_paper(name: str | None, options: dict[str, Any], paper_only: str) -> bool:
    """Whether the paper recipe is meant: by name, or by an option that only it has."""
    if options[paper_only] is not None and name != "paper":
        option = "--" + paper_only.replace("_", "-")
        if name == "fast":
            raise click.UsageError(f"{option}: only the paper recipe has this; leave it out, or give --recipe paper")
        say(f"Note: {option} belongs to the paper recipe, so that is used.")
        return True
    return name == "paper"


def _refuse(options: dict[str, Any], reason: str, *names: str) -> None:
    refuse({f"--{name.replace('_', '-')}": options[name] for name in names}, reason)
