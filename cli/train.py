"""cuista train"""

from __future__ import annotations

from cuista.cli import train_denoise, train_encoder, train_robust, train_sc
from cuista.cli.routing import Routed, task_of_net
from cuista.cli.running import run_option_list


def _natural(words: list[str]) -> str | None:
    """The task of the network; sparse coding if a problem is given and no network."""
    return task_of_net(words) or ("sc" if any(not word.startswith("-") for word in words) else None)


command = Routed(
    "train",
    {
        "sc": train_sc.command,
        "denoise": train_denoise.command,
        "encoder": train_encoder.command,
        "robust": train_robust.command,
    },
    _natural,
    *run_option_list,
    help="""Train a network, and write a model file.

    Ctrl-C is safe: the run is saved, and the same command with --resume continues it. The task follows from --net if it
    is not given, and is sparse coding if there is neither. All tasks have these options:
    """,
)
