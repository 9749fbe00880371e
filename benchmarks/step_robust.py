"""Time a joint training step of robust ALISTA, with Adam, in cuista and in PyTorch, on one thread.

    pip install . torch==2.13.0 && python benchmarks/step_robust.py

The step uses 4 matrices of 250×500 and 16 signals; the decoder has T = 16 layers, and the encoder 4. The results of
both are compared first. The decoder is trained, and the encoder is at its analytic start. The step with the exact
encoder, which has no direct counterpart in PyTorch, is timed relative to the step with the learned encoder.
"""

# ruff: noqa: E402
from __future__ import annotations

import os

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # otherwise all processors share the matrices

import numpy as np
import torch
from common import ratio, save, side_by_side
from reference_torch import threshold

import cuista
from cuista.counter import Key
from cuista.tasks.robust import PairSource
from cuista.training.adam import Adam

LAYERS, MATRICES, SIGNALS, ENCODER_LAYERS = 16, 4, 16, 4

torch.set_num_threads(1)
problem = cuista.Problem(cuista.normalize_columns(cuista.random_matrix(250, 500)))
decoder = cuista.Model.new(problem, cuista.solve_exact(problem.A))
cuista.train(decoder, cuista.FastRecipe(max_steps=100))
encoder = cuista.EncoderModel.new(problem, layers=ENCODER_LAYERS)
robust, exact = (cuista.RobustModel.new(decoder, which).network for which in (encoder, None))

source = PairSource(problem, cuista.RobustRecipe(hard=0.0))
source.sigma = 0.01
x, (matrices, y), _ = source.sample(robust.ops, np.float32, SIGNALS, Key(0, 1, 0))
x_torch, A, y_torch = map(torch.from_numpy, (x, matrices, y))
B, alpha, theta = (
    torch.tensor(robust.parameters[name], dtype=torch.float32, requires_grad=True)
    for name in ("step_matrix", "step_size", "threshold")
)
identity = torch.eye(problem.N)
Q_squared = 1 + (problem.N - 2) * identity


def torch_loss() -> torch.Tensor:
    W = A
    for step_matrix in B[0]:
        W = W - step_matrix @ ((A.transpose(1, 2) @ W - identity) * Q_squared)
    estimate = torch.zeros(MATRICES, SIGNALS, problem.N)
    for t, k in enumerate(robust.support):
        r = y_torch if t == 0 else y_torch - estimate @ A.transpose(1, 2)
        z = estimate + alpha[t] * (r @ W)
        estimate = threshold(z.reshape(-1, problem.N), theta[t], k).reshape(z.shape)
    return 0.5 * (estimate - x_torch).square().sum()


# The learning rate is too small to change the parameters, so all steps are timed at the same point.
optimizer = torch.optim.Adam([B, alpha, theta], lr=1e-30)


def torch_step() -> None:
    optimizer.zero_grad()
    torch_loss().backward()
    optimizer.step()


def stepping(network: object) -> object:
    adam = Adam()

    def step() -> None:
        _, gradients = network.loss_and_gradients((matrices, y), x, LAYERS)  # type: ignore[attr-defined]
        rates = dict.fromkeys(network.shapes, 1e-30)  # type: ignore[attr-defined]
        adam.step(network.ops, network.parameters, gradients, rates, np.ones(LAYERS))  # type: ignore[attr-defined]

    return step


loss, gradients = robust.loss_and_gradients((matrices, y), x, LAYERS)
expected = torch_loss()
expected.backward()
assert abs(expected.item() - loss) < 1e-3 * loss
for name, theirs in (("step_matrix", B), ("step_size", alpha), ("threshold", theta)):
    assert theirs.grad is not None
    difference = np.abs(gradients[name] - theirs.grad.numpy()).max()
    assert difference < 1e-2 * np.abs(gradients[name]).max(), (name, difference)

seconds = side_by_side({"cuista": stepping(robust), "torch": torch_step, "exact": stepping(exact)}, runs=40)
save(
    "step_robust",
    {
        "work": "joint training step with Adam, 4 matrices, 16 signals, T = 16, eT = 4, 250x500, float32, one thread",
        "torch": torch.__version__,
        "times_faster_than_torch": ratio(seconds["torch"], seconds["cuista"]),
        "exact_encoder_times_faster_than_learned": ratio(seconds["cuista"], seconds["exact"]),
    },
)
