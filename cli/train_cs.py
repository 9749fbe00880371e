"""cuista train --task cs"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from cuista.cli import common
from cuista.cli.running import Run, network_recipe_options, run_options
from cuista.cli.spellings import NOT_FOR_PICTURES, Command
from cuista.cli.train_sc import DenseNetwork, network_options

from cuista.data.dictionary import Dictionary
from cuista.data.images import ImageSet
from cuista.data.sensing import Sensing
from cuista.errors import InputError
from cuista.storage import is_cuista, kind_of, load_array
from cuista.tasks.sensing import (
    CompressiveSensing,
    Reconstructor,
    check_learnable,
    check_patches,
    learn_deblocking,
    sensing_weight,
)
from cuista.tasks.whole_pictures import PICTURE_NETWORKS, PictureReconstructor, PictureSensing
from cuista.weights import Weight

# A network with an NMSE of 0 dB recovers nothing but the means.
USELESS_DB = -0.1


@dataclass
class Measured:
    """How blocks are measured, according to the options."""

    problem: Path | None
    sensing: Path | None
    dictionary: Path | None

    def load(self) -> Sensing:
        """Φ and the dictionary, from a problem or from a file each."""
        if self.problem is not None and self.sensing is None and self.dictionary is None:
            return Sensing.load(self.problem)
        if self.problem is not None or self.sensing is None or self.dictionary is None:
            raise click.UsageError(
                "give --problem (cuista gen-problem --task cs makes one), or --sensing and --dict in its place"
            )
        return Sensing(load_array(self.sensing, "Phi", "phi", "A"), Dictionary.load_atoms(self.dictionary))


@click.command("train", cls=Command, ignored=NOT_FOR_PICTURES)
@click.argument("examples", type=common.INPUT_FILE)
@common.bundled(
    "measured",
    Measured,
    click.option("--problem", type=common.INPUT_FILE, help="File of gen-problem --task cs."),
    click.option("--sensing", type=common.INPUT_FILE, help="Instead of --problem: file of Φ (key Phi or A)."),
    click.option("--dict", "dictionary", type=common.INPUT_FILE, help="Instead of --problem: file of the dictionary."),
)
@network_options("cs", "alista")
@click.option("--learn-sensing", is_flag=True, help="Learn Φ too, starting from the problem's.")
@click.option(
    "--deblock", type=common.INPUT_FILE, metavar="IMAGES", help="Then compute a map against seams from these."
)
@click.option("--crop", type=common.AT_LEAST_1, metavar="PIXELS", help="conv-csc: side of the crops. [about 128]")
@network_recipe_options(
    lambda net: (PictureSensing if net in PICTURE_NETWORKS else CompressiveSensing).recipes,
    steps="Steps of the joint stage [fast: 300; conv-csc: 0], or of each stage [paper: 200000].",
    rate="Learning rate. [0.02; conv-csc: 0.01; paper: 5e-4]",
    matrix_steps="fast: final steps with learned matrices. [1000; conv-csc: 3000]",
    batch="Examples a step. [256; conv-csc: 8; paper: 64]",
    validation="To validate. [4000; conv-csc: 16; paper: 1000]",
)
@run_options
def command(
    examples: Path,
    measured: Measured,
    network: DenseNetwork,
    learn_sensing: bool,
    deblock: Path | None,
    crop: int | None,
    recipe: Any,
    run: Run,
) -> None:
    """Train a network to recover pictures from the measurements of their blocks.

    EXAMPLES is a file of cuista prepare-images: of --patches for networks that recover one block at a time, or of
    pictures for conv-csc, which recovers all blocks together. Networks with learned matrices also learn the dictionary
    with which the last layer's code becomes a block, and with --learn-sensing Φ. With --deblock, the model gets a map
    that removes the seams between blocks. Options marked fast or paper belong to that recipe.
    """
    whole = network.net in PICTURE_NETWORKS
    held = kind_of(examples) if is_cuista(examples) else None
    if held == ("cuista-patches" if whole else "cuista-images"):
        found, advice = ("patches", "prepare pictures") if whole else ("pictures", "prepare patches with --patches")
        other = "" if whole else f", or train {PICTURE_NETWORKS[0]}"
        raise InputError(
            f"{examples} has {found}, on which {network.net} is not trained: {advice}{other}", option="net"
        )
    by_block = {"--learn-sensing": learn_sensing or None, "--deblock": deblock}
    if whole:
        given = [option for option in network.given if option not in ("-T", "--untied")]
        given += [option for option, value in by_block.items() if value is not None]
        if given:
            raise click.UsageError(f"{given[0]} is for networks that recover one block at a time: leave it out")
        _train_on_pictures(examples, measured.load(), network, crop, recipe, run)
        return
    if crop is not None:
        raise click.UsageError(f"--crop is for {' and '.join(PICTURE_NETWORKS)}: leave it out")
    network.check()
    recipe = network.suiting(recipe, CompressiveSensing)
    sensing, task, begun = measured.load(), CompressiveSensing(examples), run.begun(Reconstructor)
    net = network.net or "alista"
    check_patches(task.training, sensing)
    if learn_sensing:
        check_learnable(sensing, net)
    images = None if deblock is None else [ImageSet(deblock, split) for split in ("train", "validation")]
    form: dict[str, Any] = {"layers": network.layers, "percent": network.percent, "max_percent": network.max_percent}
    form = {name: value for name, value in form.items() if value is not None}
    if network.weight_file is not None:
        weight = Weight.load(network.weight_file, sensing.A)
    else:
        how: dict[str, Any] = {"ridge": network.ridge, "recipe": recipe, "begun": begun, "say": common.say}
        weight = sensing_weight(sensing, task, net, **how, ops=run.ops, **form)
    form |= {"untied": network.untied, "per_coordinate": network.coord, "ops": run.ops}
    form |= {"learn_sensing": learn_sensing}
    model = Reconstructor.new(sensing, weight, net, **form)
    run.train(model, recipe, task)
    if not model.training["validation_nmse_db"] < USELESS_DB:
        common.say("Note: the means of blocks alone are at least as good as what the network recovers. Try more steps.")
    if images is not None and model.training.get("deblocking", {}).get("images") != images[0].sha256:
        try:
            with common.ProgressLine() as line:
                gain = learn_deblocking(model, *images, progress=line.show)
        except KeyboardInterrupt:
            common.say(f"\nThe network is in {run.out}: the same command with --resume goes on with the seams.")
            raise
        model.save(run.out, overwrite=True)
        if gain > 0:
            common.say(f"Removing seams between blocks reduces the error of the validation pictures by {gain:.2f} dB.")
        else:
            common.say("Note: no map reduces the error of the validation pictures, so the model gets none.")


def _train_on_pictures(
    images: Path, sensing: Sensing, network: DenseNetwork, crop: int | None, recipe: Any, run: Run
) -> None:
    """Train a network that recovers all blocks of a picture together."""
    task = PictureSensing(images, crop)
    for pictures in task.pictures(sensing):
        common.note_left_out(pictures)
    form = {name: value for name in ("layers", "untied") if (value := getattr(network, name)) is not None}
    run.train(PictureReconstructor.new(sensing, net=network.net or "", ops=run.ops, **form), recipe, task)
