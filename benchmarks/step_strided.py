"""Time a training step of Conv-CSC, a convolutional network with a stride, in cuista and in PyTorch, on one thread.

    pip install . torch==2.13.0 && python benchmarks/step_strided.py

The step uses 8 crops of 128×128, 32 filters of 7×7 with a stride of 2, and T = 16. Everything is learned: the filters
of analysis and synthesis of each layer, and a threshold for each of them. The results of both libraries are
compared first. Times are those of the processor, as no other work should count.
"""

# ruff: noqa: E402
from __future__ import annotations

import os
import time

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import numpy as np
import torch
from common import ratio, save, side_by_side

from cuista.data.dictionary import Dictionary, random_dictionary
from cuista.tasks.denoising import Denoiser
from cuista.weights import solve_conv

torch.set_num_threads(1)
SIZE, STRIDE, FILTERS, LAYERS, CROPS, SIDE = 7, 2, 32, 16, 8, 128

rng = np.random.default_rng(0)
clean = rng.random((CROPS, SIDE, SIDE)).astype(np.float32)
clean = np.cumsum(np.cumsum(clean - clean.mean(axis=(1, 2), keepdims=True), axis=1), axis=2)  # smooth, as pictures are
clean *= 0.2 / clean.std()
noisy = clean + np.float32(25 / 255) * rng.standard_normal(clean.shape).astype(np.float32)
weight = solve_conv(Dictionary(random_dictionary((SIZE, SIZE), FILTERS)), stride=STRIDE)
network = Denoiser.new(weight, "conv-csc", layers=LAYERS).network
precursor = network.precursor()
precursor.parameters = precursor.fast_start()
network.adopt(precursor)
clean_torch, noisy_torch = torch.from_numpy(clean), torch.from_numpy(noisy)


def torch_step() -> tuple[float, dict[str, np.ndarray]]:
    """Autograd's loss and gradients."""
    functional = torch.nn.functional
    parameters = {
        name: torch.tensor(value, dtype=torch.float32, requires_grad=True) for name, value in network.parameters.items()
    }
    W, D = (parameters[name].permute(0, 3, 1, 2)[:, :, None] for name in ("weight", "synthesis"))
    p = SIZE - 1
    f, x, picture = noisy_torch[:, None], torch.zeros(()), torch.zeros_like(noisy_torch[:, None])
    for t, theta in enumerate(parameters["threshold"]):
        r = functional.pad(f - picture, (p, p, p, p), mode="reflect")
        z = x + functional.conv2d(r, W[t], stride=STRIDE)
        x = torch.sign(z) * torch.relu(z.abs() - theta[:, None, None])
        filters = D[t].flip(2, 3)  # a transposed convolution adds the filters rotated by 180°
        picture = functional.conv_transpose2d(x, filters, stride=STRIDE)[:, :, p : p + SIDE, p : p + SIDE]
    loss = 0.5 * (picture[:, 0] - clean_torch).square().sum()
    loss.backward()
    return loss.item(), {name: value.grad.numpy() for name, value in parameters.items()}  # type: ignore[union-attr]


loss, gradients = network.loss_and_gradients(noisy, clean, LAYERS)
loss_torch, gradients_torch = torch_step()
assert abs(loss_torch - loss) < 1e-3 * loss
for name, gradient in gradients.items():
    difference = np.abs(gradients_torch[name] - gradient).max()
    assert difference < 1e-2 * np.abs(gradient).max(), (name, difference)
works = {"cuista": lambda: network.loss_and_gradients(noisy, clean, LAYERS), "torch": torch_step}
seconds = side_by_side(works, runs=9, warmup=2, clock=time.process_time)
size = f"{CROPS} crops of {SIDE}x{SIDE}, {FILTERS} filters of {SIZE}x{SIZE}, stride {STRIDE}"
figures = {
    "work": f"training step, T = {LAYERS}, {size}, float32, one thread",
    "torch": torch.__version__,
    "times_faster": ratio(seconds["torch"], seconds["cuista"]),
}
save("step_strided", figures)
