"""Time a training step of ALISTA in cuista and in PyTorch, on one thread: signals, forward pass, loss, backward pass.

    pip install . torch==2.13.0 && python benchmarks/step.py

The matrix is 250×500, T is 16, and the batch size is 64. The results of both are compared first. The step is timed with
the parameters of a trained network, with which training spends most of its time, and with those of an untrained
network, in which nearly every entry survives the threshold. Adam is left out, because it has 32 numbers to update.
"""

# ruff: noqa: E402
from __future__ import annotations

import functools
import os
from collections.abc import Callable

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np
import torch
from common import ratio, save, side_by_side
from reference_torch import forward

import cuista
from cuista import parallel
from cuista.counter import TRAINING, Key
from cuista.ops import FusedStep

BATCH, LAYERS = 64, 16

torch.set_num_threads(1)
problem = cuista.Problem(cuista.normalize_columns(cuista.random_matrix(250, 500)))
model = cuista.Model.new(problem, cuista.solve_exact(problem.A))
network = model.network
untrained = {name: value.copy() for name, value in network.parameters.items()}
cuista.train(model, cuista.FastRecipe(max_steps=100))
trained = {name: value.copy() for name, value in network.parameters.items()}

x, y = problem.sample(BATCH)
A, W = (torch.tensor(matrix, dtype=torch.float32) for matrix in (problem.A, model.weight.W))
x_torch, y_torch = torch.from_numpy(x), torch.from_numpy(y)
figures: dict[str, object] = {
    "work": "training step, T = 16, batch 64, 250x500, float32, one thread",
    "torch": torch.__version__,
}

for state, parameters in (("trained", trained), ("untrained", untrained)):
    network.parameters = parameters
    alpha, theta = (
        torch.tensor(parameters[name], dtype=torch.float32, requires_grad=True) for name in ("step_size", "threshold")
    )

    def torch_step(x: torch.Tensor, y: torch.Tensor, alpha: torch.Tensor = alpha, theta: torch.Tensor = theta) -> float:
        alpha.grad = theta.grad = None
        loss = 0.5 * (forward(y, A, W, alpha, theta, network.support, network.unit) - x).square().sum()
        loss.backward()
        return loss.item()

    def torch_step_with_signals(step: Callable[..., float] = torch_step) -> float:
        x = torch.randn(BATCH, problem.N) * (torch.rand(BATCH, problem.N) < problem.sparsity)
        return step(x, x @ A.T)

    def step_with_signals(fused: FusedStep | None = network.fuse(problem.signals())) -> float:  # noqa: B008
        assert fused is not None
        return float(fused(network.parameters, network.support, Key(0, TRAINING, 1), BATCH, LAYERS, 0.0, 1.0)[0])

    loss, gradients = network.loss_and_gradients(y, x, LAYERS)
    assert abs(torch_step(x_torch, y_torch) - loss) < 1e-3 * loss
    for name, tensor in (("step_size", alpha), ("threshold", theta)):
        assert tensor.grad is not None
        difference = np.abs(tensor.grad.numpy() - gradients[name]).max()
        assert difference < 1e-2 * np.abs(gradients[name]).max(), (state, name, difference)

    with parallel.workers(1):
        seconds = side_by_side(
            {
                "cuista": step_with_signals,
                "torch": torch_step_with_signals,
                "cuista on given signals": lambda: network.loss_and_gradients(y, x, LAYERS),
                "torch on given signals": functools.partial(torch_step, x_torch, y_torch),
            },
            runs=100,
        )
    figures[state] = {
        "times_faster": ratio(seconds["torch"], seconds["cuista"]),
        "times_faster_on_given_signals": ratio(seconds["torch on given signals"], seconds["cuista on given signals"]),
    }
save("step", figures, by_width=True)
