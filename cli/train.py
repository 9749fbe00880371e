"""cuista train"""

from __future__ import annotations

from pathlib import Path

from cuista.cli import train_cs, train_denoise, train_encoder, train_robust, train_sc
from cuista.cli.routing import Routed, task_of_net
from cuista.cli.running import run_option_list

from cuista.storage import is_cuista, kind_of


def _natural(words: list[str]) -> str | None:
    """The task of a file of patches or of Φ, or of the network that --net names; sparse coding for other arguments."""
    files = [word for word in words if not word.startswith("-")]
    of_cs = ("cuista-patches", "cuista-sensing")
    if any(is_cuista(word) and kind_of(word) in of_cs for word in files if not Path(word).is_dir()):
        return "cs"
    return task_of_net(words) or ("sc" if files else None)


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
