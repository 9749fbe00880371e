"""cuista train --task denoise"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from cuista.cli.common import (
    AT_LEAST_1,
    INPUT_FILE,
    bundled,
    convention_option,
    for_bare,
    layers_option,
    load_dictionary,
    note_left_out,
    percent_option,
    positive,
    ridge,
    say,
)
from cuista.cli.routing import net_option
from cuista.cli.running import Run, network_recipe_options, run_options
from cuista.cli.spellings import Command

from cuista.data.dictionary import Dictionary
from cuista.networks import CONV_NETWORKS
from cuista.tasks import Denoiser, Denoising, denoising_weight
from cuista.weights import ConvWeight


@dataclass
class WeightSource:
    """Where the options say that a convolutional weight comes from."""

    dictionary_file: Path | None
    weight_file: Path | None
    convention: Any
    ridge: Any

    def load(self, begun: Denoiser | None) -> ConvWeight | Dictionary:
        """The weight in the file or that of the run begun, or else the dictionary to solve one for."""
        dictionary_convention, weight_convention = for_bare(self.convention, self.dictionary_file, self.weight_file)
        dictionary = load_dictionary(self.dictionary_file, dictionary_convention) if self.dictionary_file else None
        if self.weight_file is not None:
            if self.ridge is not None:
                raise click.UsageError("--ridge is for a weight solved here, and -W gives one: leave one of them out")
            return ConvWeight.load(self.weight_file, dictionary, convention=weight_convention)
        if begun is not None and (dictionary is None or begun.weight.dictionary.sha256 == dictionary.sha256):
            weight: ConvWeight = begun.weight
            return weight
        if dictionary is None:
            raise click.UsageError(
                "a convolutional network needs a dictionary: give --dict FILE or -W FILE (cuista learn-dict learns one "
                "from pictures, cuista gen-problem --task denoise imports one)"
            )
        return dictionary


@click.command("train", cls=Command)
@click.argument("images", type=INPUT_FILE)
@net_option("denoise", "conv-alista")
@bundled(
    "source",
    WeightSource,
    click.option("--dict", "dictionary_file", type=INPUT_FILE, help="The dictionary, unless -W has it."),
    click.option("-W", "--weight", "weight_file", type=INPUT_FILE, help="Its weight. [solved here]"),
    convention_option,
    click.option("--ridge", type=ridge, metavar="λ|auto", help="Ridge of a weight solved here. [auto]"),
)
@click.option("--sigma", type=positive, default=20.0, help="Of the noise, of 255.", metavar="σ")
@click.option("--crop", type=AT_LEAST_1, metavar="PIXELS", help="Side of a crop. [fast: 128; paper: 321]")
@bundled(
    "network",
    dict,
    layers_option(5),
    percent_option(" [1.2]"),
    click.option("--max-percent", type=float, metavar="P", help="… and at most. [13]"),
    click.option("--untied/--tied", help="Learned filters for each layer, or the same for all."),
)
@network_recipe_options(
    Denoising,
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
    source: WeightSource,
    sigma: float,
    crop: int | None,
    network: dict[str, Any],
    recipe: Any,
    run: Run,
) -> None:
    """Train a convolutional network to denoise, on the pictures of IMAGES, a file of prepare-images."""
    kind, network = CONV_NETWORKS[net], {name: value for name, value in network.items() if value is not None}
    if {"percent", "max_percent"} & set(network) and not kind.selects:
        say(f"Note: --percent and --max-percent are ignored: {kind.title} has no support schedule.")
    if network["untied"] and not kind.can_untie:
        say(f"Note: --untied is ignored: {kind.title} has no filters that could differ from layer to layer.")
        network["untied"] = False
    if not run.is_due(Denoiser):
        return
    weight, task = source.load(run.begun(Denoiser)), Denoising(images, crop)
    for pictures in task.pictures(recipe):
        note_left_out(pictures)
    if isinstance(weight, Dictionary):
        how: dict[str, Any] = {"sigma": sigma, "layers": network["layers"], "seed": run.seed, "ops": run.ops}
        strength: Any = "auto" if source.ridge is None else source.ridge
        weight = denoising_weight(weight, task, ridge=strength, say=say, **how)
    run.train(Denoiser.new(weight, net, sigma=sigma, **network, ops=run.ops), recipe, task)
