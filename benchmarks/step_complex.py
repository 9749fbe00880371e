"""Time ALISTA's training step for complex numbers and for four snapshots, in cuista and in PyTorch, on one thread.

    pip install . torch==2.13.0 && python benchmarks/step_complex.py

The matrix is 250×500, T is 16, and a batch has 64 signals, each with all its snapshots. A step is what it is in
benchmarks/step.py. It is timed with the parameters of a trained and of an untrained network, and the results of cuista
and PyTorch are compared first. `times_the_real_step` is how much longer cuista takes than for single real numbers,
`times_faster_than_torch` compares it with PyTorch's autograd, and `times_faster_than_layers` compares the fused step
with that which goes layer by layer. All are medians of ratios within a run in which all steps take turns.
"""

# ruff: noqa: E402
from __future__ import annotations

import os

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from common import ratio, save, side_by_side

import cuista
from cuista import parallel
from cuista.counter import TRAINING, Key
from cuista.training import trainer

BATCH, LAYERS, RUNS = 64, 16, 15
# Whether numbers are complex, and the number of snapshots.
KINDS = {
    "real": (False, 1),
    "complex": (True, 1),
    "real, four snapshots": (False, 4),
    "complex, four snapshots": (True, 4),
}

torch.set_num_threads(1)


def forward(
    y: torch.Tensor, A: torch.Tensor, W: torch.Tensor, alpha: torch.Tensor, theta: torch.Tensor, network: Any
) -> torch.Tensor:
    """The last iterate for measurements y (batch, L, M). W is the conjugate of the weight, which the network keeps."""
    factor = y.flatten(1).norm(dim=1)[:, None, None] / network.unit
    y, x = y / factor, None
    for t, k in enumerate(network.support):
        z = alpha[t] * (y @ W) if x is None else x + alpha[t] * ((y - x @ A.T) @ W)
        x = threshold(z, theta[t], k)
    assert x is not None
    return factor * x


def threshold(z: torch.Tensor, theta: torch.Tensor, k: int) -> torch.Tensor:
    """Soft thresholding of z (batch, L, N) by the norm over snapshots, which lets the k largest entries pass."""
    magnitude = z.abs()[:, 0] if z.shape[1] == 1 else torch.linalg.vector_norm(z, dim=1)
    cutoff = torch.topk(magnitude.detach(), k + 1, dim=1, sorted=False).values.amin(dim=1, keepdim=True)
    passed = (magnitude > theta) & (magnitude > cutoff)
    shrunk = torch.relu(magnitude - theta) / magnitude.clamp_min(1e-30)
    return torch.where(passed, torch.ones_like(shrunk), shrunk)[:, None] * z


def steps_for(network: Any, problem: cuista.Problem, parameters: dict[str, np.ndarray]) -> dict[str, Callable[[], Any]]:
    """The step of cuista, the same layer by layer, and PyTorch's; all draw their signals."""
    shape = (BATCH, problem.snapshots, problem.N)
    dtype = torch.complex64 if problem.is_complex else torch.float32
    A, W = (torch.from_numpy(array.astype(network.dtype)) for array in (problem.A, network.couple.W))
    alpha, theta = (
        torch.tensor(parameters[name], dtype=torch.float32, requires_grad=True) for name in ("step_size", "threshold")
    )
    fused = network.fuse(problem.signals())

    def torch_step(x: torch.Tensor, y: torch.Tensor) -> float:
        alpha.grad = theta.grad = None
        error = torch.view_as_real(e) if (e := forward(y, A, W, alpha, theta, network) - x).is_complex() else e
        loss = 0.5 * error.square().sum()
        loss.backward()
        return loss.item()

    def torch_step_with_signals() -> float:
        present = torch.rand(shape[0], 1, shape[2]) < problem.sparsity
        x = torch.randn(shape, dtype=dtype) * present
        return torch_step(x, x @ A.T)

    def cuista_step() -> float:
        key = Key(0, TRAINING, 1)
        return float(fused(parameters, network.support, key, BATCH, LAYERS, 0.0, 1.0)[0])

    def layer_by_layer() -> float:
        network.parameters = parameters
        x, y = problem.sample(BATCH, stream=TRAINING, step=1, seed=0)
        return float(network.loss_and_gradients(y, x, LAYERS)[0])

    network.parameters = parameters
    x, y = problem.sample(BATCH, stream=TRAINING, step=1, seed=0)
    loss, gradients = network.loss_and_gradients(y, x, LAYERS)
    given = [torch.from_numpy(np.ascontiguousarray(each.reshape(BATCH, problem.snapshots, -1))) for each in (x, y)]
    energy = 0.5 * float(np.vdot(x, x).real)  # of which 1e-9, −90 dB, is what rounding may change
    for found in (torch_step(*given), cuista_step()):
        assert abs(found - loss) < 1e-3 * loss + 1e-9 * energy, (found, loss)
    for name, tensor in (("step_size", alpha), ("threshold", theta)):
        assert tensor.grad is not None
        difference = np.abs(tensor.grad.numpy() - gradients[name]).max()
        assert difference < 1e-2 * np.abs(gradients[name]).max() + 1e-6 * energy, (name, difference)
    return {"fused": cuista_step, "layers": layer_by_layer, "torch": torch_step_with_signals}


def prepared(is_complex: bool, snapshots: int) -> tuple[Any, cuista.Problem, dict[str, dict[str, np.ndarray]]]:
    """A network and its problem, with the parameters of a trained and of an untrained network."""
    A = cuista.normalize_columns(cuista.random_matrix(250, 500, dtype=complex if is_complex else float))
    problem = cuista.Problem(A, snapshots=snapshots)
    model = cuista.Model.new(problem, cuista.solve_exact(problem.A))
    untrained = {name: value.copy() for name, value in model.network.parameters.items()}
    trainer.FITTING_BATCH = 64  # a network for which iterates are sparse is trained enough
    cuista.train(model, cuista.FastRecipe(batch=32, validation_batch=100, layer_steps=10, max_steps=50))
    trained = {name: value.copy() for name, value in model.network.parameters.items()}
    return model.network, problem, {"trained": trained, "untrained": untrained}


figures: dict[str, Any] = {
    "work": "training step, T = 16, batch 64, 250x500, single precision, one thread",
    "torch": torch.__version__,
}
with parallel.workers(1):
    kinds = {kind: prepared(*entries) for kind, entries in KINDS.items()}
    for state in ("trained", "untrained"):
        works: dict[str, Callable[[], Any]] = {}
        for kind, (network, problem, parameters) in kinds.items():
            steps = steps_for(network, problem, parameters[state])
            works |= {f"{kind}: {way}": step for way, step in steps.items()}
        seconds = side_by_side(works, runs=RUNS)
        figures[state] = {
            kind: {
                "times_the_real_step": ratio(seconds[f"{kind}: fused"], seconds["real: fused"]),
                "times_faster_than_torch": ratio(seconds[f"{kind}: torch"], seconds[f"{kind}: fused"]),
                "times_faster_than_layers": ratio(seconds[f"{kind}: layers"], seconds[f"{kind}: fused"]),
            }
            for kind in KINDS
        }
save("step_complex", figures, by_width=True)
