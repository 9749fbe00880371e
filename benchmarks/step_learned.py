"""Time a training step of untied LISTA-CPSS, with Adam, in cuista and in PyTorch, on one thread.

    pip install . torch==2.13.0 && python benchmarks/step_learned.py

The matrix is 250×500, T is 16, and the batch size is 64. The results of both are compared first. The step is timed with
the parameters of a trained network, with which training spends most of its time, and with those that the publications
start from, with which nearly every entry survives the threshold.
"""

# ruff: noqa: E402
from __future__ import annotations

import os

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUISTA_WORKERS"):
    os.environ[variable] = "1"

import numpy as np
import torch
from common import ratio, save, side_by_side
from reference_torch import threshold

import cuista
from cuista.training.adam import Adam

LAYERS, BATCH = 16, 64

torch.set_num_threads(1)
problem = cuista.Problem(cuista.normalize_columns(cuista.random_matrix(250, 500)))
model = cuista.Model.new(problem, cuista.solve_exact(problem.A), "lista-cpss", untied=True)
network = model.network
published = {name: value.copy() for name, value in network.parameters.items()}
cuista.train(model, cuista.FastRecipe(max_steps=100, matrix_steps=0))
trained = {name: value.copy() for name, value in network.parameters.items()}

x, y = problem.sample(BATCH)
A = torch.tensor(problem.A, dtype=torch.float32)
x_torch, y_torch = torch.from_numpy(x), torch.from_numpy(y)
figures: dict[str, object] = {
    "work": "training step of untied LISTA-CPSS with Adam, T = 16, batch 64, 250x500, float32, one thread",
    "torch": torch.__version__,
}

for state, parameters in (("trained", trained), ("untrained", published)):
    network.parameters = parameters
    weight, theta = (
        torch.tensor(parameters[name], dtype=torch.float32, requires_grad=True) for name in ("weight", "threshold")
    )
    # Each layer has its own tensor, as is usual in PyTorch, so that PyTorch's Adam finds each of them in the cache.
    weights = [torch.nn.Parameter(part.clone()) for part in weight.detach()]
    # The learning rate is too small to change the parameters, so all steps are timed at the same point.
    optimizers = {
        name: torch.optim.Adam([*weights, theta], lr=1e-30, **options)
        for name, options in {"torch": {}, "torch, fused Adam": {"fused": True}}.items()
    }

    def torch_loss(weights: list[torch.nn.Parameter] = weights, theta: torch.Tensor = theta) -> torch.Tensor:
        factor = y_torch.norm(dim=1, keepdim=True) / network.unit
        scaled, estimate = y_torch / factor, torch.zeros_like(x_torch)
        for t, k in enumerate(network.support):
            r = scaled if t == 0 else scaled - estimate @ A.T
            estimate = threshold(estimate + r @ weights[t].T, theta[t], k)
        return 0.5 * (factor * estimate - x_torch).square().sum()

    def torch_step(optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        torch_loss().backward()
        optimizer.step()

    def step(adam: Adam = Adam()) -> None:  # noqa: B008
        _, gradients = network.loss_and_gradients(y, x, LAYERS, formed=False)
        rates = dict.fromkeys(network.shapes, 1e-30)
        adam.step(network.ops, network.parameters, gradients, rates, np.ones(LAYERS))

    loss, gradients = network.loss_and_gradients(y, x, LAYERS)
    expected = torch_loss()
    expected.backward()
    assert abs(expected.item() - loss) < 1e-3 * loss
    assert theta.grad is not None
    for ours, theirs in (
        (gradients["weight"], np.stack([part.grad.numpy() for part in weights if part.grad is not None])),
        (gradients["threshold"], theta.grad.numpy()),
    ):
        assert np.abs(ours - theirs).max() < 1e-2 * np.abs(ours).max(), state

    works = {name: (lambda o=optimizer: torch_step(o)) for name, optimizer in optimizers.items()}
    seconds = side_by_side({"cuista": step, **works}, runs=60)
    figures[state] = {f"times_faster_than_{name}": ratio(seconds[name], seconds["cuista"]) for name in works}
save("step_learned", figures, by_width=True)
