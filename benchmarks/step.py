"""Time the forward and backward pass of an ALISTA training step in cuista and in PyTorch, on one thread.

    pip install . torch==2.13.0 && python benchmarks/step.py

The matrix is 250×500, T is 16, and the batch size is 64. The results of both are compared first. The step is timed with
the parameters of a trained network, with which training spends most of its time, and with those of an untrained
network, in which nearly every entry survives the threshold.
"""

# ruff: noqa: E402
from __future__ import annotations

import os

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np
import torch
from common import ratio, save, side_by_side
from reference_torch import forward

import cuista

torch.set_num_threads(1)
problem = cuista.Problem(cuista.normalize_columns(cuista.random_matrix(250, 500)))
model = cuista.Model.new(problem, cuista.solve_exact(problem.A))
network = model.network
untrained = {name: value.copy() for name, value in network.parameters.items()}
cuista.train(model, cuista.FastRecipe(max_steps=100))
trained = {name: value.copy() for name, value in network.parameters.items()}

x, y = problem.sample(64)
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

    def torch_step(alpha: torch.Tensor = alpha, theta: torch.Tensor = theta) -> float:
        alpha.grad = theta.grad = None
        loss = 0.5 * (forward(y_torch, A, W, alpha, theta, network.support, network.unit) - x_torch).square().sum()
        loss.backward()
        return loss.item()

    loss, gradients = network.loss_and_gradients(y, x, 16)
    assert abs(torch_step() - loss) < 1e-3 * loss
    for name, tensor in (("step_size", alpha), ("threshold", theta)):
        assert tensor.grad is not None
        difference = np.abs(tensor.grad.numpy() - gradients[name]).max()
        assert difference < 1e-2 * np.abs(gradients[name]).max(), (state, name, difference)

    seconds = side_by_side({"cuista": lambda: network.loss_and_gradients(y, x, 16), "torch": torch_step}, runs=200)
    figures[state] = {"times_faster": ratio(seconds["torch"], seconds["cuista"])}
save("step", figures)
