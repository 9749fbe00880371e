"""cuista train"""

from __future__ import annotations

from cuista.cli import train_cs, train_denoise, train_encoder, train_robust, train_sc
from cuista.cli.routing import Routed, task_of_net
from cuista.cli.running import run_option_list


def _natural(words: list[str]) -> str | None:
    """The task of the network that --net names; sparse coding if there is none but a positional argument."""
    return task_of_net(words) or ("sc" if any(not word.startswith("-") for word in words) else None)


command = Routed(
    "train",
    {
        "sc": train_sc.command,
        "denoise": train_denoise.command,
        "cs": train_cs.command,
        "encoder": train_encoder.command,
        "robust": train_robust.command,
    },
    _natural,
    *run_option_list,
    help="""Train a network and write a model file.

    Usage is `cuista train PROBLEM …`, or for example `cuista train --task denoise IMAGES …`. Without --task, the task
    is that of the network (--net), or else sparse coding. Ctrl-C is safe: it saves the run, and the same command with
    --resume continues it. All tasks share these options:
    """,
)
