"""A command that serves several tasks: it passes its arguments on to the command of the task that they name."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

import click
from click.shell_completion import CompletionItem
from cuista.cli import common
from cuista.cli.spellings import TASKS as SPELLED_TASK
from cuista.cli.spellings import Command, positional

from cuista.errors import FileError
from cuista.networks import CONV_NETWORKS, NETWORKS, Encoder
from cuista.tasks.sensing import SENSING_NETWORKS
from cuista.tasks.whole_pictures import PICTURE_NETWORKS

# The tasks as the help of a routed command describes them.
TASKS = {
    "sc": "Sparse coding: recover signals from measurements.",
    "denoise": "Remove noise from pictures by a convolutional network.",
    "cs": "Compressive sensing: recover pictures from few measurements.",
    "encoder": "Map a perturbed matrix to a weight for it.",
    "robust": "Recover signals although the matrix is perturbed.",
}


class Routed(Command):
    """A command that stands for a different command in each task.

    Parameters
    ----------
    tasks
        The command of each task.
    natural
        Infers the task from the arguments if none is named; returns None if it cannot.
    shared
        The options that all these commands have.
    """

    def __init__(
        self,
        name: str,
        tasks: Mapping[str, Command],
        natural: Callable[[list[str]], str | None],
        *shared: Callable[..., Any],
        help: str,
    ) -> None:
        super().__init__(name, params=common.parameters(*shared), help=help)
        self.tasks, self.natural = tasks, natural

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        task, words = _named_task(list(args))
        if task is not None and task not in self.tasks and not extra.get("resilient_parsing"):
            ctx, tasks = click.Context(self, parent, info_name), ", ".join(self.tasks)
            what = "needs a value" if task.startswith("-") or not task else f"{task} is not a task of this command"
            raise click.UsageError(f"--task {what}; expected one of {tasks}", ctx)
        named, task = task, task or self.natural(words)
        if task is None and {"-h", "--help"} & set(words):
            return super().make_context(info_name, words, parent, **extra)
        if task is None or task not in self.tasks:
            task = next(iter(self.tasks))
        try:
            return self.tasks[task].make_context(f"{info_name} --task {task}", words, parent, **extra)
        except click.NoSuchOption as error:
            others = [other for other, command in self.tasks.items() if error.option_name in command.known]
            if not others:
                raise
            absent = [file for file in positional(words, self.tasks.values()) if not os.path.exists(file)]
            if absent and not named:  # it would have told the task
                raise FileError(f"{absent[0]} does not exist") from None
            raise click.UsageError(
                f"{error.option_name} is for --task {' or '.join(others)}, and the task here is {task}: leave it out, "
                "or give another --task",
                error.ctx,
            ) from None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_options(ctx, formatter)
        with formatter.section("Tasks (add -h to see the options of one)"):
            formatter.write_dl([(f"--task {task}", TASKS[task]) for task in self.tasks])


def value_of(words: list[str], *options: str) -> str | None:
    """The value of an option with these names among the arguments (the last counts), or None if it is absent."""
    value = None
    for i, word in enumerate(words):
        name, equals, rest = word.partition("=")
        if name in options:
            value = rest if equals else words[i + 1] if i + 1 < len(words) else ""
    return value


def _named_task(words: list[str]) -> tuple[str | None, list[str]]:
    """The task that the arguments name, in our spelling or the original's, and the remaining arguments."""
    rest: list[str] = []
    task, i = None, 0
    while i < len(words):
        name, equals, value = words[i].partition("=")
        if words[i] == "--":
            return task, rest + words[i:]
        if name in ("--task", *SPELLED_TASK):
            if not equals:
                i += 1
                value = words[i] if i < len(words) else ""
            task = value
        else:
            rest.append(words[i])
        i += 1
    return task, rest


# The original's name for robust ALISTA, whose network here is `alista`.
ROBUST = "robust-alista"
# Where the context of a command notes that this name was given.
JOINT = "cuista.joint"

# The ending of the original's names of networks for compressive sensing, LISTA_cs and others.
SENSING = "-cs"

# The networks of each task.
NETWORKS_OF = {
    "sc": [*NETWORKS],
    "denoise": [*CONV_NETWORKS],
    "cs": [*SENSING_NETWORKS, *PICTURE_NETWORKS],
    "encoder": [Encoder.name],
    "robust": [name for name, kind in NETWORKS.items() if kind.has_gradients],
}


def net_option(task: str, default: str | None = None) -> common.Decorator:
    """The --net option of a task; its help lists the task's networks."""
    text = f"Network: {', '.join(NETWORKS_OF[task])}."
    return click.option("--net", type=NetworkName(task), default=default, metavar="NAME", help=text)


class NetworkName(click.ParamType[str]):
    """The option type of a task's networks by name, in any case and with - or _; the shell can complete it.

    Without a task, it is that of all networks.
    """

    name = "network"

    def __init__(self, task: str | None = None) -> None:
        self.task = task
        self.names = NETWORKS_OF[task] if task else [*dict.fromkeys(chain(*NETWORKS_OF.values()))]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        name = net_name(value)
        if self.task == "denoise" and f"conv-{name}" in CONV_NETWORKS:  # the original names the task and not the form
            name = f"conv-{name}"
        if self.task in ("cs", None) and name.endswith(SENSING):
            name = name.removesuffix(SENSING)
        if ctx is not None and is_joint(value):
            ctx.meta[JOINT] = True
        if name in self.names:
            return name
        others = [task for task, names in NETWORKS_OF.items() if name in names]
        hint = f"; {name} is for --task {others[0]}" if others else ""
        of_task = " of this task" * (self.task is not None)
        self.fail(f"{value!r} is not a network{of_task}; expected {', '.join(self.names)}{hint}", param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(name) for name in self.names if name.startswith(net_name(incomplete))]


def net_name(value: str) -> str:
    """A network's name in our spelling, from which the original's sometimes differs."""
    name = value.lower().replace("_", "-")
    if name.endswith("-conv"):
        name = f"conv-{name.removesuffix('-conv')}"
    return {"atow-grad": Encoder.name, ROBUST: "alista"}.get(name, name)


def is_joint(value: str) -> bool:
    """Whether this is the original's name for an ALISTA that is trained together with its encoder."""
    return value.lower().replace("_", "-") == ROBUST


def task_of_net(words: list[str]) -> str | None:
    """The task of the network that --net names among the arguments, or None."""
    net = value_of(words, "--net", "-n")
    if net and is_joint(net):
        return "robust"
    if net and net_name(net).endswith(SENSING):
        return "cs"
    return net and next((task for task, names in NETWORKS_OF.items() if net_name(net) in names), None)
