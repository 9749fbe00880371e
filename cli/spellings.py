"""The spellings of the original code, so that published command lines keep working: all in one place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click
from cuista.cli.common import spelled

from cuista.errors import CuistaError


def _by_spelling(table: dict[str, str]) -> dict[str, str]:
    """Map each spelling to its meaning; the table lists all spellings of a meaning in one string."""
    return {spelling: meaning for meaning, spellings in table.items() for spelling in spellings.split()}


# The original's options and ours, for every command that has ours.
RENAMED = _by_spelling(
    {
        "--m": "--M -M",
        "--n": "--N -N",
        "--pnz": "-P --supp_prob -supp_prob",
        "--snr": "--SNR -S",
        "--con-num": "--con_num -C",
        "--load-a": "--load_A -lA",
        "--magnitude": "--magdist -magdist",
        "--mean": "--magnmean -nmean",
        "--std": "--magnstd -nstd",
        "--q": "--magbp -bp",
        "--v0": "--magbv0 -bv0",
        "--v1": "--magbv1 -bv1",
        "--net": "-n",
        "--layers": "--T --eT -eT",
        "--weight": "--W",
        "--max-percent": "-maxp --max_percent",
        "--coord": "-c",
        "--better-wait": "--better_wait -bw",
        "--max-steps": "--maxit -mi",
        "--learning-rate": "--init_lr -lr --decoder_lr -dlr",
        "--lr-decay": "--lr_decay -ld",
        "--decay-rate": "--decay_rate -dr",
        "--batch": "--tbs -tbs --xbs -xbs",
        "--validation-batch": "--vbs -vbs",
        "--x": "--xtest -xt",
        "--untied": "-u",
        "--start": "--Binit --encoder_Binit -eb",
        "--loss": "--encoder_loss -el",
        "--matrices": "--Abs -Abs",
        "--psigma-max": "--psigma_max -ps_max",
        "--psteps": "-psteps",
        "--msigma": "-ms",
        "--encoder-rate": "--encoder_lr -elr",
        "--sigma": "--encoder_psigma -eps",
        "--size": "--conv_d",
        "--filters": "--conv_m",
        "--crop": "--height_crop",
    }
)

# The original's options that define how it trains. They mean its own recipe, unless --recipe says otherwise.
RECIPE = (
    *("--maxit", "-mi", "--init_lr", "-lr", "--lr_decay", "-ld", "--decay_rate", "-dr", "--better_wait", "-bw"),
    *("--tbs", "-tbs", "--vbs", "-vbs", "--encoder_lr", "-elr", "--decoder_lr", "-dlr"),
)
# The original names files after these two.
SCOPE, NUMBER = ("--scope", "-sc"), ("--exp_id", "-id")

# Options of the original's robust training that describe the encoder; here the encoder's file describes it.
IN_FILES = _by_spelling(
    {
        "the file of --encoder defines it": "--eT -eT --Binit -eb --encoder_Binit --eta --loss -el --encoder_loss "
        "--encoder_psigma -eps --encoder_pre_lr -eplr"
    }
)

# Options of the original that become one of two flags here, depending on their value.
SWITCHES = {
    option: {"true": "--normalize", "1": "--normalize", "false": "--no-normalize", "0": "--no-normalize"}
    for option in ("--col_normalized", "--column_normalized", "-CN")
}

# Options with a value that have no meaning here, and why: a note on stderr names them, and they are left out.
IGNORED = _by_spelling(
    {
        "files are named here by the arguments and by -o": "--scope -sc --exp_id -id --exp_folder -ef --res_folder -rf "
        "-pfn --prob_file",
        "give the problem file as the argument": "--prob_folder -pf --prob",
        "the validation set is drawn when training starts": "--L -L",
        "the validation set is always fixed": "--fixval -fixval",
        "the paper recipe validates every 10 steps": "--val_step -vs",
        "the file of --decoder defines it": "--dT",
        "name the encoder's file with --encoder": "--encoder_scope -escope --encoder_id -eid",
        "name the decoder's file with --decoder": "--decoder_scope -dscope --decoder_id -did",
        "the initial thresholds are the published ones": "-l --lam",
        "it is an option of cuista test": "-xt --xtest",
        "the original code trains its encoder at --encoder_lr": "--encoder_pre_lr -eplr",
        "choose a GPU with --device": "-g --gpu",
        "the initial λ and step sizes are the published ones": "--conv_lam --conv_alpha",
        "crops are square, with the side --crop": "--width_crop",
        "--max-steps limits the training": "--num_epochs",
        "give the file of cuista prepare-images as the argument": "--data_folder --train_file --val_file",
        "name the picture file with -o": "--out_dir --out_file",
        "pictures of all formats that can be read are taken": "--suffix",
        "this command has no use for a GPU": "--device",
    }
)

# The same for flags, which have no value.
IGNORED_FLAGS = {"-u": "it is an option of networks with learned matrices"}

# The original's option for what is the argument here.
ARGUMENT = "--dataset_dir"

TASKS = ("--task_type", "-task")
TESTING = ("-t", "--test")


class Command(click.Command):
    """A command that accepts the original's spellings as well as its own, and whose errors name only its own options.

    Parameters
    ----------
    ignored
        Further options of the original that have a value but no meaning here, and why.
    renamed
        Options of the original that mean something else here than in other commands, and what they mean.
    """

    def __init__(
        self,
        *arguments: Any,
        ignored: Mapping[str, str] = MappingProxyType({}),
        renamed: Mapping[str, str] = MappingProxyType({}),
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self.ignored, self.renamed = ignored, {**RENAMED, **renamed}

    @property
    def known(self) -> set[str]:
        """The names of the command's options."""
        return {name for parameter in self.params for name in (*parameter.opts, *parameter.secondary_opts)}

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, translate(args, self.known, self.ignored, self.renamed))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CuistaError as error:
            error.options = tuple(option for option in error.options if spelled(option) in self.known)
            raise


def translate(
    arguments: list[str], known: set[str], ignored: Mapping[str, str], renamed: Mapping[str, str] = RENAMED
) -> list[str]:
    """Rewrite arguments in our spelling. The command's own options (`known`) stay as they are unless `ignored`.

    Raises
    ------
    click.UsageError
        If an option of the original asks for what another command does, or has a wrong value.
    """
    translated: list[str] = []
    names: dict[tuple[str, str], str] = {}
    chosen: list[str] = []
    rest = iter(arguments)
    for word in rest:
        if word == "--":
            translated += [word, *rest]
            break
        option, equals, value = word.partition("=")
        reason = ignored.get(option)
        if option in RECIPE and renamed.get(option) in known and reason is None:
            chosen.append(option)
        if reason is None and (option in known or not option.startswith("-")):
            translated.append(word)
        elif reason is None and renamed.get(option) in known:
            translated.append(renamed[option] + equals + value)
        elif option in SWITCHES and "--normalize" in known:
            choice = value if equals else next(rest, "")
            if choice.lower() not in SWITCHES[option]:
                raise click.UsageError(f"{option} is {choice!r}; expected True or False")
            translated.append(SWITCHES[option][choice.lower()])
        elif option == ARGUMENT and "--per-image" in known:  # only prepare-images has it
            translated.append(value if equals else next(rest, word))
        elif option in TASKS:  # a command that is not routed does the same for every task
            if not equals:
                next(rest, "")
        elif reason or option in IGNORED:
            value = value if equals else next(rest, "")
            names |= {own: value for own in (SCOPE, NUMBER) if option in own}
            if option not in (*SCOPE, *NUMBER) or not _trains(known) or {"-o", "--out"} & set(arguments):
                click.echo(f"Note: {option} {value} is ignored: {reason or IGNORED[option]}.", err=True)
        elif option in IGNORED_FLAGS:
            click.echo(f"Note: {option} is ignored: {IGNORED_FLAGS[option]}.", err=True)
        elif option in TESTING:
            raise click.UsageError(f"{option}: use cuista test MODEL to test a model")
        else:
            translated.append(word)
    return [*_defaults(arguments, known, names, chosen), *translated]


def _trains(known: set[str]) -> bool:
    """Whether a command with these options trains a network."""
    return {"--recipe", "--checkpoint-every"} <= known


def _defaults(
    arguments: list[str], known: set[str], names: Mapping[tuple[str, str], str], chosen: list[str]
) -> list[str]:
    """What the original's options imply: its recipe, and an output file that is named after its scope and number."""
    given = {word.partition("=")[0] for word in arguments}
    implied: list[str] = []
    if chosen and "--recipe" in known - given:
        implied += ["--recipe", "paper"]
        click.echo(
            f"Note: the original's recipe is used, because of {', '.join(dict.fromkeys(chosen))} (the same as --recipe "
            "paper; --recipe fast takes minutes).",
            err=True,
        )
    if not _trains(known) or {"-o", "--out"} & given:
        return implied
    if NUMBER in names and SCOPE not in names:
        click.echo(
            f"Note: {NUMBER[0]} {names[NUMBER]} is ignored without {SCOPE[0]}: name the output with -o.", err=True
        )
    if SCOPE in names:
        name = "_".join(Path(names[own]).name for own in (SCOPE, NUMBER) if own in names) + ".h5"
        implied += ["--out", name]
        click.echo(f"Note: the output is {name}, after --scope and --exp_id (-o gives it another name).", err=True)
    return implied
