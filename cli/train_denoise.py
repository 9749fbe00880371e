"""cuista train --task denoise"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from cuista.cli import common
from cuista.cli.routing import net_option
from cuista.cli.running import Run, network_recipe_options, run_options
from cuista.cli.spellings import IN_DENOISING, NOT_FOR_PICTURES, Command

from cuista.data.dictionary import Dictionary, cosine_dictionary
from cuista.networks import CONV_NETWORKS
from cuista.tasks.denoising import Denoiser, Denoising, denoising_weight
from cuista.weights import ConvWeight
from cuista.weights.conv import mean_eigenvalue


def noise_level(value: str) -> float | tuple[float, float]:
    """The option type of one standard deviation, like 25, or of a range, like 5,55."""
    try:
        found = [common.positive(part) for part in value.split(",")]
    except click.BadParameter:
        found = []
    if len(found) not in (1, 2):
        raise click.BadParameter(f"{value!r} is not a standard deviation, like 25, or a range of it, like 5,55")
    return found[0] if len(found) == 1 else (found[0], found[1])


@dataclass
class WeightSource:
    """Where a convolutional weight comes from, according to the options."""

    dictionary_file: Path | None
    weight_file: Path | None
    convention: Any
    ridge: Any
    stride: int | None
    size: tuple[int, int] | None
    filters: int | None

    def load(self, begun: Denoiser | None, learned: bool) -> ConvWeight | Dictionary:
        """The weight in the file or in the interrupted run, or else the dictionary for which to compute one.

        If the dictionary is `learned`, or a number or size of filters is given, it is one of cosines.
        """
        dictionary_convention, weight_convention = common.for_bare(
            self.convention, self.dictionary_file, self.weight_file
        )
        dictionary = (
            common.load_dictionary(self.dictionary_file, dictionary_convention) if self.dictionary_file else None
        )
        if self.weight_file is not None:
            if self.ridge is not None or self.stride is not None:
                option = "--ridge" if self.ridge is not None else "--stride"
                raise click.UsageError(
                    f"{option} is for a weight computed here, and -W gives one: leave one of them out"
                )
            return ConvWeight.load(self.weight_file, dictionary, convention=weight_convention)
        if begun is not None and (dictionary is None or begun.weight.dictionary.sha256 == dictionary.sha256):
            has = begun.weight
            if self.ridge in (None, "auto", has.report.ridge) and self.stride in (None, has.stride):
                return has
            dictionary = begun.weight.dictionary
        if dictionary is None and (learned or self.size or self.filters):
            size = self.size or (7, 7)
            return Dictionary(cosine_dictionary(size, self.filters or (32 if learned else math.prod(size))))
        if dictionary is None:
            raise click.UsageError(
                "a convolutional network needs a dictionary: give --dict FILE or -W FILE, or --size for cosines ("
                "cuista learn-dict learns a dictionary from pictures; cuista gen-problem --task denoise imports one)"
            )
        return dictionary


@click.command("train", cls=Command, ignored=NOT_FOR_PICTURES, renamed=IN_DENOISING)
@click.argument("images", type=common.INPUT_FILE)
@net_option("denoise", "conv-alista")
@common.bundled(
    "source",
    WeightSource,
    click.option("--dict", "dictionary_file", type=common.INPUT_FILE, help="Dictionary file, unless -W contains it."),
    click.option(
        "-W", "--weight", "weight_file", type=common.INPUT_FILE, help="Weight file. [the weight is computed here]"
    ),
    common.convention_option,
    click.option("--ridge", type=common.ridge, metavar="λ|auto", help="Ridge of a weight computed here. [auto]"),
    click.option("--stride", type=common.AT_LEAST_1, metavar="Q", help="Stride of the maps. [1; conv-csc: 2]"),
    click.option("--size", type=common.filter_size, metavar="S|SxS", help="Without --dict: size of cosines. [7]"),
    click.option(
        "--filters", type=common.AT_LEAST_1, metavar="N", help="Without --dict: how many cosines. [S·S; conv-csc: 32]"
    ),
)
@click.option(
    "--sigma", type=noise_level, default="20", metavar="σ|σ,σ", help="Noise std. deviation, of 255, or a range."
)
@click.option("--crop", type=common.AT_LEAST_1, metavar="PIXELS", help="Side of the crops. [fast: 128; paper: 321]")
@common.bundled(
    "network",
    dict,
    common.layers_option(None, " [5; conv-csc: 16]"),
    common.percent_options(" [1.2]", " [13]"),
    click.option(
        "--untied/--tied", default=None, help="Learn filters for each layer, or shared ones. [shared; conv-csc: each]"
    ),
    click.option(
        "--per-filter/--for-all",
        default=None,
        help="A threshold and a step size for each filter, or one for all. [one; conv-csc: each]",
    ),
)
@network_recipe_options(
    lambda net: Denoising.recipes_for(CONV_NETWORKS[net]),
    steps="Steps of the joint stage [fast: 300; conv-csc: 50], or of each stage [paper: 200000].",
    rate="Learning rate. [fast: 0.06; paper: 0.0005]",
    matrix_steps="fast: final steps with learned filters. [300; conv-csc: 16000]",
    batch="Crops per step. [4; conv-csc: 8]",
    validation="Validation crops. [16]",
)
@run_options
def command(
    images: Path,
    net: str,
    source: WeightSource,
    sigma: float | tuple[float, float],
    crop: int | None,
    network: dict[str, Any],
    recipe: Any,
    run: Run,
) -> None:
    """Train a convolutional network to denoise pictures.

    IMAGES is a file that cuista prepare-images has written. Options marked fast or paper belong to that recipe.
    """
    kind, network = CONV_NETWORKS[net], {name: value for name, value in network.items() if value is not None}
    if {"percent", "max_percent"} & set(network) and not kind.selects:
        common.say(f"Note: --percent and --max-percent are ignored: {kind.title} has no support schedule.")
    if network.get("untied") and not kind.can_untie:
        common.say(f"Note: --untied is ignored: {kind.title} has no filters that can differ between layers.")
        network["untied"] = False
    learned = "synthesis" in kind.matrices
    if (source.size or source.filters) and (source.dictionary_file or source.weight_file):
        raise click.UsageError("--size and --filters are for a dictionary of cosines: leave them out, or --dict and -W")
    weight, task = source.load(run.begun(Denoiser), learned), Denoising(images, crop)
    for pictures in task.pictures(recipe):
        common.note_left_out(pictures)
    if isinstance(weight, Dictionary):
        stride = source.stride or min(kind.usual_stride, *weight.shape)
        how: dict[str, Any] = {"sigma": sigma, "stride": stride, "ops": run.ops, **network}
        strength: Any = source.ridge
        if strength is None:  # where the weight is only a start, any will do
            strength = mean_eigenvalue(weight, stride) if learned else "auto"
        weight = denoising_weight(weight, task, ridge=strength, say=common.say, **how)
    run.train(Denoiser.new(weight, net, sigma=sigma, **network, ops=run.ops), recipe, task)
