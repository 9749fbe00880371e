"""The spellings of the original code, so that published command lines keep working: all in one place."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click
from cuista.cli.common import say, spelled

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
        "--learning-rate": "--init_lr -lr",
        "--lr-decay": "--lr_decay -ld",
        "--decay-rate": "--decay_rate -dr",
        "--batch": "--tbs -tbs",
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
        "--eta": "-eta",
        "--loss-weights": "--Q -Q",
        "--size": "--conv_d -cd",
        "--filters": "--conv_m -cm",
        "--load-dict": "--load_dict",
        "--crop": "--height_crop -hc",
        "--sensing": "-se",
        "--dict": "-dc",
        "--patches": "--patch_size",
        "--per-image": "--patches_per_img",
    }
)

# The original's options that define how it trains. They mean its own recipe, unless --recipe says otherwise.
RECIPE = (
    *("--maxit", "-mi", "--init_lr", "-lr", "--lr_decay", "-ld", "--decay_rate", "-dr", "--better_wait", "-bw"),
    *("--tbs", "-tbs", "--vbs", "-vbs", "--encoder_lr", "-elr", "--decoder_lr", "-dlr"),
)
# The original names files after a scope and a number, here those of the output.
SCOPE, NUMBER = ("--scope", "-sc"), ("--exp_id", "-id")
# The same for files that a command reads, by the option that names such a file here.
READ = {
    "--encoder": (("--encoder_scope", "-escope"), ("--encoder_id", "-eid")),
    "--decoder": (("--decoder_scope", "-dscope"), ("--decoder_id", "-did")),
}

# Options of the original that become one of two flags here, depending on their value.
SWITCHES = {
    option: {"true": "--normalize", "1": "--normalize", "false": "--no-normalize", "0": "--no-normalize"}
    for option in ("--col_normalized", "--column_normalized", "-CN")
}

# What some options mean in the command of one task only.
IN_DICTIONARIES = {"-ld": "--load-dict"}
IN_DENOISING = {"-sigma": "--sigma"}
IN_ENCODERS = _by_spelling({"--sigma": "--encoder_psigma -eps", "--learning-rate": "--encoder_lr -elr"})
IN_ROBUST = _by_spelling({"--batch": "--xbs -xbs", "--learning-rate": "--decoder_lr -dlr", "--layers": "--T --dT -dT"})

# Options that have no meaning in the command of one task, and why.
IN_FILES = _by_spelling(
    {
        "the file of --encoder has its own": "--eT -eT --Binit -eb --encoder_Binit --eta -eta --loss -el "
        "--encoder_loss --encoder_psigma -eps --encoder_pre_lr -eplr --Q -Q",
        "not used in --task robust": "--tbs -tbs --init_lr -lr --lr_decay -ld --decay_rate -dr --better_wait -bw",
    }
)
NOT_IN_ENCODERS = _by_spelling(
    {"not used in --task encoder": "--tbs -tbs --init_lr -lr --lr_decay -ld --decay_rate -dr"}
)
NOT_FOR_PICTURES = _by_spelling(
    {"not used for pictures": "--M -M --N -N --SNR -S --con_num -C --col_normalized --column_normalized -CN"}
)
NOT_IN_DICTIONARIES = {option: reason for option, reason in NOT_FOR_PICTURES.items() if option not in SWITCHES}
NOT_IN_TRAINING = _by_spelling({"used by cuista test only": "-xt --xtest"})
IN_PREPARATION = {"--sensing": "patches are measured when a network is trained"}
IN_MODEL = _by_spelling(
    {
        "the model file has its own": "--pnz -P --supp_prob -supp_prob --SNR -S --M -M --m --N -N --n --con_num -C "
        "--load_A -lA --col_normalized --column_normalized -CN --magdist -magdist --magnmean -nmean --magnstd -nstd "
        "--magbp -bp --magbv0 -bv0 --magbv1 -bv1 --net -n --T -T --eT -eT --dT -dT --W -W -p --percent -maxp "
        "--max_percent -u --untied -c --coord --Binit --encoder_Binit -eb --loss --encoder_loss -el --eta -eta --Q -Q "
        "--sensing -se --dict -dc --conv_d -cd --conv_m -cm",
        "used in training only": "--better_wait -bw --maxit -mi --init_lr -lr --lr_decay -ld --decay_rate -dr --tbs "
        "-tbs --vbs -vbs --Abs -Abs --xbs -xbs --psigma_max -ps_max --psteps -psteps --msigma -ms --encoder_lr -elr "
        "--decoder_lr -dlr --encoder_psigma -eps --height_crop -hc",
    }
)

# Options with a value that have no meaning here, and why: a note on stderr names them, and they are left out.
IGNORED = _by_spelling(
    {
        "files are named here by the arguments and by -o": "--scope -sc --exp_id -id --exp_folder -ef --res_folder -rf "
        "-pfn --prob_file",
        "give the problem file as the argument": "--prob_folder -pf --prob",
        "the validation set is drawn when training starts": "--L -L",
        "the validation set is always fixed": "--fixval -fixval",
        "the paper recipe validates every 10 steps": "--val_step -vs",
        "used in --task robust only": "--dT -dT --xbs -xbs --decoder_lr -dlr",
        "used in --task encoder only": "--encoder_psigma -eps",
        "used in --task denoise only": "-sigma",
        "name the encoder's file with --encoder": "--encoder_scope -escope --encoder_id -eid",
        "name the decoder's file with --decoder": "--decoder_scope -dscope --decoder_id -did",
        "the initial thresholds are the published ones": "-l --lam",
        "used by cuista test only": "-xt --xtest",
        "the original code trains its encoder at --encoder_lr": "--encoder_pre_lr -eplr",
        "choose a GPU with --device": "-g --gpu",
        "the initial λ and step sizes are the published ones": "--conv_lam -clam --conv_alpha -ca",
        "crops are square, with the side --crop": "--width_crop -wc",
        "--max-steps limits the training": "--num_epochs -epoch",
        "give the file of cuista prepare-images as the argument": "--data_folder -df --train_file -tf --val_file -vf",
        "give the file of cuista prepare-images with --images": "--test_dir -td",
        "blocks have the size of the dictionary's atoms": "--F -F",
        "the dictionary file has its own filters": "--conv_d -cd --conv_m -cm",
        "the rate is that of Φ, or of gen-problem --rate (0.25 for 25 %)": "--sample_rate -sr",
        "the weight of Σ|x| in the loss is the published 0.2": "--lasso_lam -llam",
        "no network uses it": "--column -col",
        "patches have values from 0 to 1": "--norm_patch -np",
        "name the picture file with -o": "--out_dir --out_file",
        "pictures of all formats that can be read are taken": "--suffix",
        "this command has no use for a GPU": "--device",
    }
)

# The same for flags, which have no value.
IGNORED_FLAGS = {"-u": "used by networks with learned matrices only", "-c": "used by networks for a matrix only"}
FLAGS = {*IGNORED_FLAGS, "--untied", "--coord"}

# The option for a file of signals. The original's files hold them as columns.
SIGNALS = "--x"

# The original's option for what is the argument here.
ARGUMENT = "--dataset_dir"

TASKS = ("--task_type", "-task")
TESTING = ("-t", "--test")


class Command(click.Command):
    """A command that accepts the original's spellings as well as its own, and whose errors name only its own options.

    Parameters
    ----------
    ignored
        Further options of the original that have no meaning here, and why.
    renamed
        Options of the original that mean something else here than in other commands, and what they mean.
    prefix
        What the name of the file that is named after --scope and --exp_id begins with.
    tests
        Whether the command tests a MODEL. Its file is then also found by --scope and --exp_id, and defines all that the
        original's options say about the network.
    """

    def __init__(
        self,
        *arguments: Any,
        ignored: Mapping[str, str] = MappingProxyType({}),
        renamed: Mapping[str, str] = MappingProxyType({}),
        prefix: str = "",
        tests: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self.prefix, self.tests, self.renamed = prefix, tests, {**RENAMED, **renamed}
        if tests:
            taken = {name for name in IN_MODEL if {name, self.renamed.get(name)} & self.known}
            ignored = {**{name: reason for name, reason in IN_MODEL.items() if name not in taken}, **ignored}
        self.ignored = ignored

    @property
    def known(self) -> set[str]:
        """The names of the command's options."""
        return {name for parameter in self.params for name in (*parameter.opts, *parameter.secondary_opts)}

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args if ctx.resilient_parsing else Translation(self, args).words)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CuistaError as error:
            error.options = tuple(option for option in error.options if spelled(option) in self.known)
            raise


class Translation:
    """Arguments in our spelling, as `words`; notes on stderr name what is ignored or implied.

    A command's own options stay as they are, unless the command ignores them.

    Raises
    ------
    click.UsageError
        If an option of the original lacks its value or has a wrong one, or asks for what another command does.
    """

    def __init__(self, command: Command, arguments: list[str]) -> None:
        self.command, self.known = command, command.known
        self.rest, self.words = list(arguments), list[str]()
        self.names: dict[tuple[str, str], str] = {}
        self.chosen: list[str] = []
        self.left_out: dict[str, list[str]] = {}
        while self.rest:
            word = self.rest.pop(0)
            if word == "--":
                self.words += [word, *self.rest]
                break
            self._translate(word, *word.partition("="))
        given = {word.partition("=")[0] for word in arguments}
        net = re.search(r"--net[= ](\S+)", " ".join(arguments))
        if NUMBER in self.names and SCOPE not in self.names and net:
            self.names[SCOPE] = net[1]  # as in the original, whose model files are named after both
        self._read(given)
        for reason, options in self.left_out.items():
            are = "is" if len(options) == 1 else "are"
            say(f"Note: {', '.join(options)} {are} ignored: {reason}.")
        self._imply(given)

    def _translate(self, word: str, option: str, equals: str, value: str) -> None:
        known, renamed, reason = self.known, self.command.renamed.get(option), self.command.ignored.get(option)
        if option in RECIPE and renamed in known and reason is None:
            self.chosen.append(option)
        if reason is None and (option in known or not option.startswith("-")):
            self.words.append(word)
        elif reason is None and renamed in known:
            self.words.append(f"{renamed}{equals}{value}")
            if renamed == SIGNALS and "--columns" in known:
                self.words.insert(0, "--columns")
        elif option in SWITCHES and "--normalize" in known:
            choice = self._value(option, equals, value)
            if choice.lower() not in SWITCHES[option]:
                raise click.UsageError(f"{option} is {choice!r}; expected True or False")
            self.words.append(SWITCHES[option][choice.lower()])
        elif option == ARGUMENT and "--per-image" in known:  # only prepare-images has it
            self.words.append(self._value(option, equals, value))
        elif option in TASKS:  # a command that is not routed does the same for every task
            self._value(option, equals, value)
        elif option in FLAGS and (reason or option in IGNORED_FLAGS):
            self.left_out.setdefault(reason or IGNORED_FLAGS[option], []).append(option)
        elif reason or option in IGNORED:
            self._leave_out(option, self._value(option, equals, value), reason or IGNORED[option])
        elif option in TESTING and self.command.tests:
            pass
        elif option in TESTING:
            raise click.UsageError(f"{option}: cuista test tests a model, with the same options but for {option}")
        else:  # Click's message about an unknown option names ours
            self.words.append(f"{renamed}{equals}{value}" if renamed else word)

    def _value(self, option: str, equals: str, value: str) -> str:
        """The value of an option, which is the next word unless it follows an equals sign."""
        if not equals and self.rest and not re.match("--?[A-Za-z]", self.rest[0]):
            value = self.rest.pop(0)
        if not value:
            raise click.UsageError(f"{option} needs a value")
        return value

    def _leave_out(self, option: str, value: str, reason: str) -> None:
        own = next((own for own in (SCOPE, NUMBER, *chain(*READ.values())) if option in own), None)
        if own is not None:
            self.names[own] = value
        if own not in (SCOPE, NUMBER) or not (self._trains or self.command.tests):
            self.left_out.setdefault(reason, []).append(f"{option} {value}")

    @property
    def _trains(self) -> bool:
        """Whether the command trains a network."""
        return {"--recipe", "--checkpoint-every"} <= self.known

    def _named(self, scope: tuple[str, str] = SCOPE, number: tuple[str, str] = NUMBER) -> str:
        """The file that is named after a scope and a number of the original."""
        name = "_".join(Path(self.names[own]).name for own in (scope, number) if own in self.names) + ".h5"
        return name if scope != SCOPE or name.startswith(self.command.prefix) else self.command.prefix + name

    def _read(self, given: set[str]) -> None:
        """Add the files that the command reads and that are named after a scope and a number, if they exist."""
        for option, (scope, number) in READ.items():
            file = self._named(scope, number)
            if option in self.known - given and scope in self.names and Path(file).exists():
                self.words += [option, file]
                self.left_out.pop(IGNORED[scope[0]], None)
                say(f"Note: {option} is {file}, after {scope[0]} and {number[0]}.")

    def _namers(self, given: set[str]) -> str:
        """The options after which a file is named."""
        named = [own for own in (SCOPE, NUMBER) if own in self.names]
        return " and ".join(own[0] if own != SCOPE or {*own} & given else "--net" for own in named)

    def _imply(self, given: set[str]) -> None:
        """Add what the original's options imply: its recipe, and the file that is named after its scope and number."""
        if self.chosen and "--recipe" in self.known - given:
            self.words[:0] = ["--recipe", "paper"]
            say(
                f"Note: the original's recipe is used, because of {', '.join(dict.fromkeys(self.chosen))} (the same as "
                "--recipe paper; --recipe fast takes minutes)."
            )
        if self.command.tests and not {"-h", "--help"} & given and not positional(self.words, [self.command]):
            if SCOPE not in self.names:
                raise click.UsageError(
                    "give the MODEL to test: a file of cuista train, or of cuista convert for variables of the original"
                )
            self.words.append(self._named())
            say(f"Note: the model is {self._named()}, after {self._namers(given)}.")
        if not self._trains or not {SCOPE, NUMBER} & set(self.names):
            return
        found = [f"{own[0]} {self.names[own]}" for own in (SCOPE, NUMBER) if own in self.names and {*own} & given]
        options = ", ".join(found)
        if {"-o", "--out"} & given:
            are = "is" if len(found) == 1 else "are"
            note = f"{options} {are} ignored: -o names the output"
        elif SCOPE in self.names:
            self.words[:0] = ["--out", self._named()]
            note = f"the output is {self._named()}, after {self._namers(given)} (-o gives it another name)"
        else:
            note = f"{options} is ignored without {SCOPE[0]}: name the output with -o"
        say(f"Note: {note}.")


def positional(words: list[str], commands: Iterable[click.Command]) -> list[str]:
    """The arguments that are neither options of these commands nor the values of such options."""
    options = [parameter for command in commands for parameter in command.params if isinstance(parameter, click.Option)]
    valued = {name for option in options if not (option.is_flag or option.count) for name in option.opts}
    found: list[str] = []
    rest = iter(words)
    for word in rest:
        if word in valued:
            next(rest, None)
        elif word == "--":
            found += rest
        elif not word.startswith("-"):
            found.append(word)
    return found
