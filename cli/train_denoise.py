"""cuista train --task denoise"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from cuista.cli.common import (
    AT_LEAST_1,
    INPUT_FILE,
    convention_option,
    engine_on,
    for_bare,
    load_dictionary,
    note_left_out,
    positive,
    ridge,
    say,
)
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

from cuista.data.dictionary import Dictionary
from cuista.networks import CONV_NETWORKS
from cuista.tasks import Denoiser, Denoising, denoising_weight
from cuista.weights import ConvWeight


@click.command("train", cls=Command)
@click.argument("images", type=INPUT_FILE)
@net_option("denoise", default="conv-alista")
@click.option("--dict", "dictionary_file", type=INPUT_FILE, help="The dictionary, unless -W has it.")
@click.option("-W", "--weight", "weight_file", type=INPUT_FILE, help="Its weight. [solved here]")
@convention_option
@click.option("--ridge", type=ridge, metavar="λ|auto", help="Ridge of a weight solved here. [auto]")
@click.option("--sigma", type=positive, default=20.0, show_default=True, help="Of the noise, of 255.", metavar="σ")
@click.option("--crop", type=AT_LEAST_1, metavar="PIXELS", help="Side of a crop. [fast: 128; paper: 321]")
@click.option("-T", "--layers", type=AT_LEAST_1, default=5, show_default=True, metavar="N", help="Number of layers.")
@click.option("-p", "--percent", type=float, metavar="P", help="Percent to pass unshrunk, for each layer so far. [1.2]")
@click.option("--max-percent", type=float, metavar="P", help="… and at most. [13]")
@click.option("--untied/--tied", help="Learned filters for each layer, or the same for all. [--tied]")
@network_recipe_options(
    steps="Joint steps (fast: 300), or of a stage (paper: 200000).",
    rate="Adam's. [fast: 0.06; paper: 0.0005]",
    matrix_steps="fast: steps that train learned filters too. [300]",
    batch="Crops in a step. [4]",
    validation="Crops for validation. [16]",
)
@run_options
def command(
    images: Path,
    net: str,
    dictionary_file: Path | None,
    weight_file: Path | None,
    convention: Any,
    ridge: Any,
    sigma: float,
    crop: int | None,
    layers: int,
    percent: float | None,
    max_percent: float | None,
    untied: bool,
    name: str | None,
    seed: int,
    device: str,
    out: Path,
    checkpoint_every: float,
    resume: bool,
    force: bool,
    **given: Any,
) -> None:
    """Train a convolutional network to denoise, on the pictures of IMAGES, a file of prepare-images."""
    run = Run(seed, device, out, checkpoint_every, resume, force)
    recipe = choose_recipe(Denoising.recipes, name, given, FAST_FIELDS, PAPER_FIELDS)
    kind = CONV_NETWORKS[net]
    schedule = {
        name: value for name, value in (("percent", percent), ("max_percent", max_percent)) if value is not None
    }
    if schedule and not kind.selects:
        say(f"Note: --percent and --max-percent are ignored: {kind.title} has no support schedule.")
    if untied and not kind.can_untie:
        say(f"Note: --untied is ignored: {kind.title} has no filters that could differ from layer to layer.")
    if not run.is_due(Denoiser):
        return
    source = choose_source(weight_file, dictionary_file, convention, ridge, run.begun(Denoiser))
    ops, task = engine_on(device), Denoising(images, crop)
    for pictures in task.pictures(recipe):
        note_left_out(pictures)
    if isinstance(source, Dictionary):
        how: dict[str, Any] = {
            "ridge": "auto" if ridge is None else ridge,
            "sigma": sigma,
            "layers": layers,
            "seed": seed,
            "ops": ops,
        }
        source = denoising_weight(source, task, say=say, **how)
    options = {"layers": layers, "untied": untied and kind.can_untie, **schedule}
    run.train(Denoiser.new(source, net, sigma=sigma, **options, ops=ops), recipe, task)


def choose_source(
    weight_file: Path | None, dictionary_file: Path | None, convention: Any, ridge: Any, begun: Denoiser | None
) -> ConvWeight | Dictionary:
    """The weight in the file or that of the run begun, or else the dictionary to solve one for."""
    of_dictionary, of_weight = for_bare(convention, dictionary_file, weight_file)
    dictionary = load_dictionary(dictionary_file, of_dictionary) if dictionary_file else None
    if weight_file is not None:
        if ridge is not None:
            raise click.UsageError("--ridge is for a weight solved here, and -W gives one: leave one of them out")
        return ConvWeight.load(weight_file, dictionary, convention=of_weight)
    if begun is not None and (dictionary is None or begun.weight.dictionary.sha256 == dictionary.sha256):
        return begun.weight
    if dictionary is None:
        raise click.UsageError(
            "a convolutional network needs a dictionary: give --dict FILE or -W FILE (cuista learn-dict learns one "
            "from pictures, cuista gen-problem --task denoise imports one)"
        )
    return dictionary
