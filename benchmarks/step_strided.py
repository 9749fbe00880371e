"""Time a training step of Conv-CSC, a convolutional network with a stride, in cuista and in PyTorch, on one thread.

    pip install . torch==2.13.0 && python benchmarks/step_strided.py

Two networks make steps on 8 crops of 128×128: the default, with 16 layers of 32 filters of 7×7 and a stride of 2, and
one with 8 layers of 96 filters of 8×8 and a stride of 4. Everything is learned: the filters of analysis and synthesis
of each layer, and a threshold for each of them. The results of both libraries are compared first. Times are those of
the processor, as no other work should count.
"""

# ruff: noqa: E402
from __future__ import annotations

import os
import time
from typing import Any

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import numpy as np
import torch
from common import conv_csc, ratio, save, side_by_side, smooth_crops
from reference_torch import denoised

torch.set_num_threads(1)
CROPS, SIDE = 8, 128
# The size of the filters, their number, their stride, and the number of layers.
NETWORKS = ((7, 32, 2, 16), (8, 96, 4, 8))

clean, noisy = smooth_crops(CROPS, SIDE)
clean_torch, noisy_torch = torch.from_numpy(clean), torch.from_numpy(noisy)


def torch_step(network: Any) -> tuple[float, dict[str, np.ndarray]]:
    """Autograd's loss and gradients."""
    parameters = {
        name: torch.tensor(value, dtype=torch.float32, requires_grad=True) for name, value in network.parameters.items()
    }
    filters = parameters["weight"], parameters["synthesis"]
    loss = 0.5 * (denoised(noisy_torch, *filters, parameters["threshold"], network.stride) - clean_torch).square().sum()
    loss.backward()
    return loss.item(), {name: value.grad.numpy() for name, value in parameters.items()}  # type: ignore[union-attr]


figures: dict[str, Any] = {
    "work": f"training step, {CROPS} crops of {SIDE}x{SIDE}, float32, one thread",
    "torch": torch.__version__,
}
for size, filters, stride, layers in NETWORKS:
    network = conv_csc(size, filters, stride, layers)
    loss, gradients = network.loss_and_gradients(noisy, clean, layers)
    loss_torch, gradients_torch = torch_step(network)
    assert abs(loss_torch - loss) < 1e-3 * loss
    for name, gradient in gradients.items():
        difference = np.abs(gradients_torch[name] - gradient).max()
        assert difference < 1e-2 * np.abs(gradient).max(), (name, difference)
    works = {
        "cuista": lambda network=network, layers=layers: network.loss_and_gradients(noisy, clean, layers),
        "torch": lambda network=network: torch_step(network),
    }
    seconds = side_by_side(works, runs=9, warmup=2, clock=time.process_time)
    name = f"{filters} filters of {size}x{size}, stride {stride}, T = {layers}"
    figures[name] = {"times_faster": ratio(seconds["torch"], seconds["cuista"])}
save("step_strided", figures)
