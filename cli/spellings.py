"""The original code's spellings, so that published command lines carry over: one table in one place."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import click


def _by_spelling(table: dict[str, str]) -> dict[str, str]:
    """Each of the spellings, which stand in the values with spaces between, and what it stands for."""
    return {spelling: meaning for meaning, spellings in table.items() for spelling in spellings.split()}


# The original's option → ours, for every command that has ours.
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
        "--learning-rate": "--init_lr -lr --encoder_pre_lr -eplr --decoder_lr -dlr",
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
    }
)

# What the original's command for training under perturbation says of the encoder, whose file says it here.
IN_FILES = _by_spelling(
    {
        "the file of --encoder has it": "--eT -eT --Binit -eb --encoder_Binit --eta --loss -el --encoder_loss "
        "--encoder_psigma -eps --encoder_pre_lr -eplr"
    }
)

# Options whose value decides what they become here.
SWITCHES = {
    option: {"true": "--normalize", "1": "--normalize", "false": "--no-normalize", "0": "--no-normalize"}
    for option in ("--col_normalized", "--column_normalized", "-CN")
}

# Options that have a value and no meaning here: they are named on stderr and left out.
IGNORED = _by_spelling(
    {
        "name the output with -o": "--scope -sc --exp_id -id --exp_folder -ef --res_folder -rf -pfn --prob_file",
        "give the problem file as the argument": "--prob_folder -pf --prob",
        "the validation set is drawn when training": "--L -L",
        "the validation set is always fixed": "--fixval -fixval",
        "validation is every 10 steps in the paper recipe": "--val_step -vs",
        "the file of --decoder has it": "--dT",
        "give the encoder's file with --encoder": "--encoder_scope -escope --encoder_id -eid",
        "give the decoder's file with --decoder": "--decoder_scope -dscope --decoder_id -did",
        "the first thresholds are the published ones, of λ = 0.4": "-l --lam",
        "it is an option of cuista test": "-xt --xtest",
        "choose a GPU with --device": "-g --gpu",
        "this command computes nothing that a GPU would be faster at": "--device",
    }
)

# The same without a value.
IGNORED_FLAGS = {
    "-u": "it is an option of networks with learned matrices",
    "--untied": "it is an option of networks with learned matrices",
}

TASKS = ("--task_type", "-task")
TESTING = ("-t", "--test")


class Command(click.Command):
    """A command that understands the original's spellings as well as its own.

    Parameters
    ----------
    ignored
        More options of the original's that have a value and no meaning here, and why.
    """

    def __init__(self, *arguments: Any, ignored: Mapping[str, str] = MappingProxyType({}), **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.ignored = ignored

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        known = {name for parameter in self.params for name in (*parameter.opts, *parameter.secondary_opts)}
        return super().parse_args(ctx, translate(args, known, self.ignored))


def translate(arguments: list[str], known: set[str], ignored: Mapping[str, str]) -> list[str]:
    """The arguments in our spelling. An option in `known`, the command's own, is never touched unless it is `ignored`.

    Raises
    ------
    click.UsageError
        If the original's option asks for something that is another command's business, or not in this version.
    """
    translated: list[str] = []
    rest = iter(arguments)
    for word in rest:
        if word == "--":
            return [*translated, word, *rest]
        option, equals, value = word.partition("=")
        reason = ignored.get(option)
        if reason is None and (option in known or not option.startswith("-")):
            translated.append(word)
        elif reason is None and RENAMED.get(option) in known:
            translated.append(RENAMED[option] + equals + value)
        elif option in SWITCHES and "--normalize" in known:
            choice = value if equals else next(rest, "")
            if choice.lower() not in SWITCHES[option]:
                raise click.UsageError(f"{option} is {choice!r}; expected True or False")
            translated.append(SWITCHES[option][choice.lower()])
        elif option in TASKS:  # a command that is not routed is the same for all of them
            if not equals:
                next(rest, "")
        elif reason or option in IGNORED:
            value = value if equals else next(rest, "")
            click.echo(f"Note: {option} {value} is ignored: {reason or IGNORED[option]}.", err=True)
        elif option in IGNORED_FLAGS:
            click.echo(f"Note: {option} is ignored: {IGNORED_FLAGS[option]}.", err=True)
        elif option in TESTING:
            raise click.UsageError(f"{option}: to test a model, use cuista test MODEL")
        else:
            translated.append(word)
    return translated
