"""cuista test"""

from __future__ import annotations

from cuista.cli import common, testing_cs, testing_denoise, testing_encoder, testing_robust, testing_sc
from cuista.cli.routing import Routed
from cuista.cli.spellings import positional

from cuista.storage import is_cuista, kind_of
from cuista.tasks.denoising import Denoiser
from cuista.tasks.encoder import EncoderModel
from cuista.tasks.robust import RobustModel
from cuista.tasks.sensing import Reconstructor
from cuista.tasks.sparse_coding import Model
from cuista.tasks.whole_pictures import PictureReconstructor

TASK_OF_KIND = {Model.kind: "sc", Denoiser.kind: "denoise", Reconstructor.kind: "cs"}
TASK_OF_KIND |= {PictureReconstructor.kind: "cs", EncoderModel.kind: "encoder", RobustModel.kind: "robust"}


TASKS = {
    "sc": testing_sc.command,
    "denoise": testing_denoise.command,
    "cs": testing_cs.command,
    "encoder": testing_encoder.command,
    "robust": testing_robust.command,
}


def _natural(words: list[str]) -> str | None:
    """The task of the model files among the arguments or of their test set, or None if there are none."""
    if any(word.startswith("--perturbed") for word in words):
        return "robust"
    files = positional(words, TASKS.values())
    tasks = [TASK_OF_KIND[kind] for kind in map(kind_of, filter(is_cuista, files)) if kind in TASK_OF_KIND]
    measuring = "cs" in tasks or any(word.startswith("--problem") for word in words)
    if tasks and measuring and set(tasks) <= {"cs", "denoise"}:  # denoisers recover pictures from measurements, too
        return "cs"
    if len(tasks) > 1:  # only a test on perturbed matrices takes several models
        return "robust"
    return tasks[0] if tasks else ("sc" if files else None)


command = Routed(
    "test",
    TASKS,
    _natural,
    *common.report_option_list,
    help="""Test a trained model on new examples.

    Usage is `cuista test MODEL …`: the task is that of the model file and need not be given. All tasks share these
    options:
    """,
)
