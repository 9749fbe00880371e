"""The original code's spellings, so that published command lines carry over: one table in one place."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import click

# The original's option → ours, for every command that has ours.
RENAMED = {
    "--M": "--m",
    "-M": "--m",
    "--N": "--n",
    "-N": "--n",
    "-P": "--pnz",
    "--SNR": "--snr",
    "-S": "--snr",
    "--con_num": "--con-num",
    "-C": "--con-num",
    "--load_A": "--load-a",
    "-lA": "--load-a",
    "--magdist": "--magnitude",
    "-magdist": "--magnitude",
    "--magnmean": "--mean",
    "-nmean": "--mean",
    "--magnstd": "--std",
    "-nstd": "--std",
    "--magbp": "--q",
    "-bp": "--q",
    "--magbv0": "--v0",
    "-bv0": "--v0",
    "--magbv1": "--v1",
    "-bv1": "--v1",
    "--supp_prob": "--pnz",
    "-supp_prob": "--pnz",
    "-n": "--net",
    "--T": "--layers",
    "--W": "--weight",
    "-maxp": "--max-percent",
    "--max_percent": "--max-percent",
    "-c": "--coord",
    "--better_wait": "--better-wait",
    "-bw": "--better-wait",
    "--maxit": "--max-steps",
    "-mi": "--max-steps",
    "--init_lr": "--learning-rate",
    "-lr": "--learning-rate",
    "--lr_decay": "--lr-decay",
    "-ld": "--lr-decay",
    "--decay_rate": "--decay-rate",
    "-dr": "--decay-rate",
    "--tbs": "--batch",
    "-tbs": "--batch",
    "--vbs": "--validation-batch",
    "-vbs": "--validation-batch",
    "--xtest": "--x",
    "-xt": "--x",
    "-u": "--untied",
    "--eT": "--layers",
    "-eT": "--layers",
    "--Binit": "--start",
    "--encoder_Binit": "--start",
    "-eb": "--start",
    "--encoder_loss": "--loss",
    "-el": "--loss",
    "--Abs": "--matrices",
    "-Abs": "--matrices",
    "--xbs": "--batch",
    "-xbs": "--batch",
    "--psigma_max": "--psigma-max",
    "-ps_max": "--psigma-max",
    "-psteps": "--psteps",
    "-ms": "--msigma",
    "--encoder_lr": "--encoder-rate",
    "-elr": "--encoder-rate",
    "--encoder_pre_lr": "--learning-rate",
    "-eplr": "--learning-rate",
    "--decoder_lr": "--learning-rate",
    "-dlr": "--learning-rate",
    "--encoder_psigma": "--sigma",
    "-eps": "--sigma",
}

# What the original's command for training under perturbation says of the encoder, whose file says it here.
IN_FILES = {
    **dict.fromkeys(("--eT", "-eT", "--Binit", "-eb", "--encoder_Binit", "--eta"), "the file of --encoder has it"),
    **dict.fromkeys(("--loss", "-el", "--encoder_loss"), "the file of --encoder has it"),
    **dict.fromkeys(("--encoder_psigma", "-eps", "--encoder_pre_lr", "-eplr"), "the file of --encoder has it"),
}

# Options whose value decides what they become here.
SWITCHES = {
    option: {"true": "--normalize", "1": "--normalize", "false": "--no-normalize", "0": "--no-normalize"}
    for option in ("--col_normalized", "--column_normalized", "-CN")
}

# Options that have a value and no meaning here: they are named on stderr and left out.
IGNORED = {
    "--scope": "name the output with -o",
    "-sc": "name the output with -o",
    "--exp_id": "name the output with -o",
    "-id": "name the output with -o",
    "--exp_folder": "name the output with -o",
    "-ef": "name the output with -o",
    "--res_folder": "name the output with -o",
    "-rf": "name the output with -o",
    "--prob_folder": "give the problem file as the argument",
    "-pf": "give the problem file as the argument",
    "--prob": "give the problem file as the argument",
    "--L": "the validation set is drawn when training",
    "-L": "the validation set is drawn when training",
    "--fixval": "the validation set is always fixed",
    "-fixval": "the validation set is always fixed",
    "--val_step": "validation is every 10 steps in the paper recipe",
    "-vs": "validation is every 10 steps in the paper recipe",
    "--dT": "the file of --decoder has it",
    "--encoder_scope": "give the encoder's file with --encoder",
    "-escope": "give the encoder's file with --encoder",
    "--encoder_id": "give the encoder's file with --encoder",
    "-eid": "give the encoder's file with --encoder",
    "--decoder_scope": "give the decoder's file with --decoder",
    "-dscope": "give the decoder's file with --decoder",
    "--decoder_id": "give the decoder's file with --decoder",
    "-did": "give the decoder's file with --decoder",
    "-pfn": "name the output with -o",
    "--prob_file": "name the output with -o",
    "-l": "the first thresholds are the published ones, of λ = 0.4",
    "--lam": "the first thresholds are the published ones, of λ = 0.4",
    "-xt": "it is an option of cuista test",
    "--xtest": "it is an option of cuista test",
    "-g": "choose a GPU with --device",
    "--gpu": "choose a GPU with --device",
    "--device": "this command computes nothing that a GPU would be faster at",
}

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
