"""cuista convert"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from cuista.cli import common
from cuista.cli.problems import load_problem, note_norms
from cuista.cli.routing import NetworkName
from cuista.cli.spellings import Command

from cuista import model, original, storage
from cuista.checks import Array
from cuista.data.dictionary import Dictionary, default_convention, rotate
from cuista.data.perturbed import PerturbedSet
from cuista.data.problem import Problem
from cuista.data.sensing import Sensing
from cuista.errors import FileError, InputError
from cuista.networks import Encoder
from cuista.networks.encoder import LOSSES
from cuista.storage import Record
from cuista.summary import counted
from cuista.tasks.denoising import Denoiser
from cuista.tasks.encoder import EncoderModel
from cuista.tasks.robust import RobustModel
from cuista.tasks.sensing import Reconstructor
from cuista.tasks.whole_pictures import PictureReconstructor
from cuista.weights import ConvWeight, Weight, solve_conv, solve_exact

FILTERS = ("cuista-dictionary", "cuista-conv-weight")
SENSED = ("cuista-sensing", Reconstructor.kind, PictureReconstructor.kind)
BARE = ("cuista-problem", "cuista-weight", "cuista-perturbed", "cuista-sensing", *FILTERS)


@dataclass
class Importing:
    """What a file with the variables of a trained network does not say, according to the options."""

    weight_file: Path | None
    encoder_file: Path | None
    net: str | None
    scope: str | None
    percent: float | None
    max_percent: float | None
    loss: str
    loss_weights: Path | None
    sigma: float

    def read(
        self, source: Path, arrays: dict[str, Array], problem: Path | None, dictionary: Path | None, convention: Any
    ) -> Any:
        """The trained network in a file of variables, for this problem or dictionary."""
        about: dict[str, Any] = {"scope": self.scope, "source": str(source)}
        filters = any(array.ndim == 4 for array in variables_of(arrays).values())
        if dictionary is not None or filters or self.net in original.CONV_NETS:
            return self._denoiser(arrays, dictionary, convention, about)
        if convention is not None:
            raise click.UsageError(f"--convention is for filters (s, s, F), and {source} holds none: leave it out")
        if problem is None:
            raise click.UsageError(f"{source} holds a network's variables: name the file of its problem with --problem")
        about_schedule = {**about, "percent": self.percent, "max_percent": self.max_percent}
        if storage.is_cuista(problem) and storage.kind_of(problem) in SENSED:
            if self.net is None:
                nets = ", ".join(original.SENSING_NETS.values())
                raise click.UsageError(f"{source}: name its network with --net ({nets})")
            sensing = Sensing.load(problem)
            weight = Weight.load(self.weight_file, sensing.A) if self.weight_file else None
            return original.read_reconstructor(arrays, sensing, self.net, weight, **about_schedule)
        if any(re.fullmatch(r"(.*/)?D:0", name) for name in arrays):
            raise click.UsageError(
                f"{source} holds a learned dictionary D, as networks for compressive sensing have: name a file of "
                "cuista gen-problem --task cs with --problem"
            )
        nominal, encoders = load_problem(problem), original.encoder_scopes(arrays)
        scopes = {name.rpartition("/")[0] for name in variables_of(arrays)}
        alone = self.net in (None, Encoder.name) and (scopes == encoders or self.scope in encoders)
        if self.encoder_file is None and encoders and alone:
            return self._encoder(arrays, nominal, **about)
        weight = Weight.load(self.weight_file, nominal.A) if self.weight_file else solve_exact(nominal.A)
        decoder = original.read_model(arrays, nominal, weight, self.net or "alista", **about_schedule)
        if self.encoder_file is not None and storage.is_cuista(self.encoder_file):
            return RobustModel.new(decoder, EncoderModel.load(self.encoder_file))
        if self.encoder_file is not None:
            arrays = storage.load_arrays(self.encoder_file)
            return RobustModel.new(decoder, self._encoder(arrays, nominal, source=str(self.encoder_file)))
        if encoders:
            return RobustModel.new(decoder, self._encoder(arrays, nominal, source=str(source)))
        return decoder

    def note_schedule(self, network: Any, arrays: dict[str, Array]) -> None:
        """Tell the user which support schedule was assumed, if it was."""
        if network.selects and not original.states_schedule(arrays) and None in (self.percent, self.max_percent):
            common.say(
                f"Note: the file does not state the support schedule. {network.percent:g} % more per layer up to "
                f"{network.max_percent:g} % was assumed; if the network was trained with another, give -p and "
                "--max-percent."
            )

    def _encoder(self, arrays: dict[str, Array], problem: Problem, **about: Any) -> EncoderModel:
        Q = None if self.loss_weights is None else storage.load_array(self.loss_weights, "Q")
        return original.read_encoder(arrays, problem, loss=self.loss, Q=Q, **about)

    def _denoiser(
        self, arrays: dict[str, Array], dictionary_file: Path | None, convention: Any, about: dict[str, Any]
    ) -> Denoiser:
        if dictionary_file is None and not (self.weight_file and storage.is_cuista(self.weight_file)):
            raise click.UsageError(
                f"{about['source']} holds the variables of a convolutional network: name the file of its dictionary "
                "with --dict"
            )
        for_dictionary, for_weight = common.for_bare(convention, dictionary_file, self.weight_file)
        dictionary = common.load_dictionary(dictionary_file, for_dictionary) if dictionary_file else None
        if self.weight_file:
            weight = ConvWeight.load(self.weight_file, dictionary, convention=for_weight)
        else:
            assert dictionary is not None
            weight = solve_conv(dictionary)
        return original.read_denoiser(arrays, weight, self.net, sigma=self.sigma, **about)


def variables_of(arrays: dict[str, Array]) -> dict[str, Array]:
    """The arrays that have the name of a network's saved variable."""
    return {name: array for name, array in arrays.items() if original.VARIABLE.fullmatch(name)}


def holds_filters(arrays: dict[str, Array]) -> bool:
    """Whether arrays are filters (s, s, F). The samples beside a matrix A may have three axes, too."""
    has_matrix = "A" in arrays and arrays["A"].ndim == 2
    return not has_matrix and any(array.ndim == 3 for array in arrays.values())


@click.command("convert", cls=Command)
@click.argument("source", type=common.INPUT_FILE)
@click.argument("target", type=common.output_file(".h5", ".npy", ".npz", ".mat"))
@common.key_option
@click.option("--problem", "problem_file", type=common.INPUT_FILE, help="The problem of an imported weight or network.")
@click.option(
    "--dict",
    "dictionary_file",
    type=common.INPUT_FILE,
    help="Import filters as the weight of this dictionary, or a denoiser for it.",
)
@common.convention_option
@common.bundled(
    "trained",
    Importing,
    click.option(
        "-W",
        "--weight",
        "weight_file",
        type=common.INPUT_FILE,
        help="The weight of an imported network. [computed here]",
    ),
    click.option("--encoder", "encoder_file", type=common.INPUT_FILE, help="Import a decoder with this encoder."),
    click.option("--net", type=NetworkName(), metavar="NAME", help="Imported network. [alista, or by its variables]"),
    click.option("--scope", metavar="NAME", help="Scope of the network's variables in the .npz file. [its name]"),
    click.option("-p", "--percent", type=float, metavar="P", help="Imported network: see train. [1.2; cs: 0.4]"),
    click.option("--max-percent", type=float, metavar="P", help="Imported network: see train. [13]"),
    click.option(
        "--loss", type=click.Choice(LOSSES), default="rel2", metavar="NAME", help="Imported encoder: see train."
    ),
    click.option("--loss-weights", type=common.INPUT_FILE, metavar="FILE", help="Imported encoder: see train."),
    click.option("--sigma", type=common.positive, default=20.0, metavar="σ", help="Imported denoiser: see train."),
)
@common.force_option
def command(
    source: Path,
    target: Path,
    key: str | None,
    problem_file: Path | None,
    dictionary_file: Path | None,
    convention: Any,
    force: bool,
    trained: Importing,
) -> None:
    """Import .npy, .npz and .mat files, or export to them.

    Files of the original ALISTA code can be imported: a prob.npz; a weight W.npy, with --problem; perturbed matrices
    (robust_test_A.npz), with --problem; and a network's saved variables alpha_1:0, theta_1:0, W_1:0, …, with --problem
    (or --dict for a denoiser) and the --net, -W, -p and --max-percent that it was trained with. A problem is exported
    as a prob.npz, a weight as W, and a network as these variables (.npz) or as step_size, threshold, weight, … (.mat).

    An array of filters (s, s, F) is imported as a convolutional dictionary, or as the weight of one if --dict names it
    or the same file also holds it as D.
    """
    if not source.exists():
        raise FileError(f"{source} does not exist")
    common.claim(target, force)
    exporting = storage.is_cuista(source)
    if exporting == (target.suffix.lower() == ".h5"):
        ours = "a cuista file" if exporting else "not a cuista file"
        expected = ".npy, .npz or .mat to export to" if exporting else ".h5 to import to"
        raise InputError(f"{source} is {ours}, and the target is {target}; expected a target ending in {expected}")
    if exporting and key is not None:
        raise click.UsageError(f"--key is for a file from other software, and {source} is a cuista file: leave it out")
    if exporting and dictionary_file is not None:
        raise click.UsageError(
            f"--dict is for filters from other software, and {source} is a cuista file: leave it out"
        )
    if exporting:
        arrays = exported(source, target, convention, trained.scope)
        storage.save_arrays(target, arrays, overwrite=force)
        names = list(arrays)
        common.say(f"Wrote {target}: {', '.join(names if len(names) < 12 else [*names[:2], '…', names[-1]])}.")
        return

    arrays = storage.load_arrays(source)
    if key is not None:
        arrays = {key: storage.load_array(source, key=key)}
    made: Any
    if original.has_levels(arrays):
        if problem_file is None:
            raise click.UsageError(f"{source} holds perturbed matrices: name the nominal problem with --problem")
        made = original.read_perturbed(arrays, load_problem(problem_file))
        counts = f"{made.matrices.shape[1]} matrices for each σ of {', '.join(arrays)}"
        what = f"{counts}, and {len(made.x)} new signals"
    elif original.has_variables(arrays):
        made = trained.read(source, arrays, problem_file, dictionary_file, convention)
        what = f"{made.network.title}, {counted(made.network.layers, 'layer')}"
        trained.note_schedule(made.network, arrays)
    elif (made := original.read_sensing(arrays)) is not None:
        what = f"{made.M} measurements of each block of {made.block[0]}×{made.block[1]}"
    elif "threshold" in arrays and {"step_size", "weight", "input_weight"} & arrays.keys() and "A" not in arrays:
        raise FileError(
            f"{source} holds a network in the form that cuista exports for other software, which is not read back: "
            "export the model to .npz"
        )
    elif dictionary_file is not None or holds_filters(arrays):
        if problem_file is not None:
            raise click.UsageError(f"--problem is for matrices and networks, and {source} holds filters: leave it out")
        made, what = filters_in(source, list(arrays), dictionary_file, convention, key)
    elif convention is not None:
        raise click.UsageError(f"--convention is for filters (s, s, F), and {source} holds none: leave it out")
    elif problem_file is None:
        made = original.read_problem(arrays, str(source))
        what = f"a {made.M}×{made.N} problem, pnz {made.sparsity:g}, SNR {made.snr_db:g} dB"
        note_norms(made, source)
    else:
        made = Weight.from_array(storage.load_array(source, "W", key=key), load_problem(problem_file).A)
        what = f"a weight with objective {made.report.objective:.8g}"
    made.save(target, overwrite=force)
    common.say(f"Wrote {target}: {what}.")


def exported(source: Path, target: Path, convention: Any, scope: str | None) -> dict[str, Array]:
    """The arrays of one of cuista's files for a file of the target's format."""
    record = storage.read(source, *BARE, *model.Trained.kinds)
    if convention is not None and record.kind not in FILTERS:
        raise click.UsageError(f"--convention is for filters, and {source} is a {record.kind} file: leave it out")
    bare = target.suffix.lower() == ".npy"
    if record.kind in FILTERS:
        return filters_of(record, target, convention)
    if record.kind == "cuista-problem":
        arrays = original.write_problem(Problem.from_record(record, source))
        return {"A": arrays["A"]} if bare else arrays
    if record.kind == "cuista-perturbed":
        return original.write_perturbed(PerturbedSet.load(source))
    if record.kind == "cuista-weight":
        return {"W": record.arrays["W"]}
    if record.kind == "cuista-sensing":
        arrays = original.write_sensing(Sensing.from_record(record, source))
        return {"D": arrays["D"]} if bare else arrays
    if "deblocking" in record.arrays:
        common.say("Note: the map against seams between blocks is not exported.")
    if "column_norms" in record.arrays:
        common.say(
            "Note: the network computes with columns of unit norm, A / column_norms, and its codes have to be divided "
            "by column_norms, too."
        )
    unit = float(record.attributes.get("unit", 0))
    if unit:
        common.say(
            f"Note: the network scales the measurements of each sample to the norm {unit:.6g} (unit), and its result "
            "back. The original does not: scale them before, or train with --fixed-units."
        )
    positive = bool(record.attributes.get("positive", False)) and record.kind != EncoderModel.kind
    if target.suffix.lower() == ".npz":
        return original.write_model(model.Trained.kinds[record.kind].from_record(record, source), scope)
    if positive:
        common.say("Note: the network thresholds one-sidedly (positive): it shrinks max(z, 0) where others shrink z.")
    more = {"Phi": record.arrays["Phi"]} if record.kind in SENSED else {}
    more |= {"unit": np.array(unit)} if unit else {}
    return {**model.group(record, "parameters/"), **more, **({"positive": np.array(True)} if positive else {})}


def filters_of(record: Record, target: Path, convention: Any) -> dict[str, Array]:
    """The filters of a dictionary or its weight for export, in the convention that users of the format expect."""
    names = ("D",) if record.kind == "cuista-dictionary" else ("W",) if target.suffix.lower() == ".npy" else ("W", "D")
    convention = convention or default_convention(target, weight="W" in names)
    common.say(f"Writing the filters for {convention} (--convention changes that).")
    arrays = {
        name: rotate(record.arrays[name]) if convention == "convolution" else record.arrays[name] for name in names
    }
    if record.kind == "cuista-dictionary" and target.suffix.lower() == ".npz":
        arrays |= original.write_dictionary(Dictionary.from_record(record, target))
    return arrays


def filters_in(
    source: Path, names: list[str], dictionary_file: Path | None, convention: Any, key: str | None
) -> tuple[Any, str]:
    """A file of bare filters as a dictionary, or as the weight of one; and what that is, for the user."""
    with_dictionary = key is None and "W" in names and "D" in names
    if dictionary_file is None and not with_dictionary:
        if "W" in names and len(names) == 1:
            raise click.UsageError(f"{source} holds a weight W: name the file of its dictionary with --dict")
        dictionary = common.load_dictionary(source, convention, key)
        return dictionary, f"a dictionary of {counted(dictionary.filters, 'filter')}"
    if with_dictionary and dictionary_file is None:  # written together, they have one convention
        convention = convention or default_convention(source, weight=True)
    dictionary_convention, _ = common.for_bare(convention, dictionary_file or source, source)
    dictionary = common.load_dictionary(
        dictionary_file or source, dictionary_convention, None if dictionary_file else "D"
    )
    weight = ConvWeight.load(source, dictionary, convention=convention, key=key)
    return weight, f"a convolutional weight with objective {weight.report.objective:.8g}"
