"""Time a training step of a convolutional network in cuista and in PyTorch, on one thread.

    pip install . torch==2.13.0 && python benchmarks/step_conv.py

The step uses 4 crops of 321×321, 100 filters of 3×3 and T = 5. The networks are Conv-ALISTA, and Conv-TiLISTA, which
learns its filters too. The results of both libraries are compared first. Peak memory is measured in a process of its
own that makes one step, as the increase over the memory before the step. Also, the closed form of the weight of a
7×7×64 dictionary is compared with projected gradient.
"""

# ruff: noqa: E402
from __future__ import annotations

import os
import subprocess
import sys

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import numpy as np
import torch
from common import ratio, save, side_by_side

from cuista.data.dictionary import Dictionary, random_dictionary
from cuista.tasks.denoising import Denoiser
from cuista.weights import solve_conv, solve_conv_pgd

torch.set_num_threads(1)


def peak() -> float:
    """The peak memory of this process in MiB."""
    with open("/proc/self/status") as status:
        return int(status.read().split("VmHWM:")[1].split()[0]) / 1024


rng = np.random.default_rng(0)
clean = rng.random((4, 321, 321)).astype(np.float32)
clean = np.cumsum(np.cumsum(clean - clean.mean(axis=(1, 2), keepdims=True), axis=1), axis=2)  # smooth, as pictures are
clean *= 0.2 / clean.std()
noisy = clean + np.float32(20 / 255) * rng.standard_normal(clean.shape).astype(np.float32)
dictionary = Dictionary(random_dictionary((3, 3), 100))
weight = solve_conv(dictionary)
networks = {}
for net in ("conv-alista", "conv-tilista"):
    network = networks[net] = Denoiser.new(weight, net).network
    alista = Denoiser.new(weight).network
    alista.parameters = alista.fast_start()
    if net == "conv-alista":
        network.parameters = alista.parameters
    else:
        network.adopt(alista)

D = torch.tensor(dictionary.D.transpose(2, 0, 1)[None], dtype=torch.float32)
clean_torch, noisy_torch = torch.from_numpy(clean), torch.from_numpy(noisy)


def torch_step(net: str) -> tuple[float, dict[str, np.ndarray]]:
    """Autograd's loss and gradients."""
    parameters = {
        name: torch.tensor(value, dtype=torch.float32, requires_grad=True)
        for name, value in networks[net].parameters.items()
    }
    fixed = torch.tensor(weight.W[::-1, ::-1].copy(), dtype=torch.float32)
    filters = (parameters["weight"][0] if "weight" in parameters else fixed).permute(2, 0, 1)[:, None]
    f, picture, x = noisy_torch[:, None], torch.zeros_like(noisy_torch[:, None]), torch.zeros(())
    for alpha, theta in zip(parameters["step_size"], parameters["threshold"], strict=True):
        r = torch.nn.functional.pad(f - picture, (2, 2, 2, 2), mode="reflect")
        z = x + alpha * torch.nn.functional.conv2d(r, filters)
        x = torch.sign(z) * torch.relu(z.abs() - theta)
        picture = torch.nn.functional.conv2d(x, D)
    loss = 0.5 * (picture[:, 0] - clean_torch).square().sum()
    loss.backward()
    return loss.item(), {name: value.grad.numpy() for name, value in parameters.items()}  # type: ignore[union-attr]


if len(sys.argv) > 1:  # this is the process whose memory is measured
    before = peak()
    if sys.argv[1] == "torch":
        torch_step(sys.argv[2])
    else:
        networks[sys.argv[2]].loss_and_gradients(noisy, clean, 5)
    print(peak() - before)
    sys.exit()

figures: dict[str, object] = {
    "work": "training step, T = 5, 4 crops of 321x321, 100 filters of 3x3, float32, one thread",
    "torch": torch.__version__,
}
for net, network in networks.items():
    loss, gradients = network.loss_and_gradients(noisy, clean, 5)
    loss_torch, gradients_torch = torch_step(net)
    assert abs(loss_torch - loss) < 1e-3 * loss
    for name, gradient in gradients.items():
        difference = np.abs(gradients_torch[name] - gradient).max()
        assert difference < 1e-2 * np.abs(gradient).max(), (net, name, difference)
    works = {
        "cuista": lambda network=network: network.loss_and_gradients(noisy, clean, 5),
        "torch": lambda net=net: torch_step(net),
    }
    seconds = side_by_side(works, runs=5, warmup=1)
    memory = {
        library: float(subprocess.run([sys.executable, __file__, library, net], capture_output=True, check=True).stdout)
        for library in works
    }
    figures[net] = {"times_faster": ratio(seconds["torch"], seconds["cuista"]), "peak_mib": memory}

own: dict[str, list[float]] = {"exact": [], "pgd": []}
large = Dictionary(random_dictionary((7, 7), 64))
for _ in range(15):
    exact, pgd = solve_conv(large).report, solve_conv_pgd(large).report
    own["exact"].append(exact.seconds)
    own["pgd"].append(pgd.seconds)
figures["weight 7x7x64"] = {
    "times_faster": ratio(own["pgd"], own["exact"]),
    "objective": {"exact": exact.objective, "pgd": pgd.objective},
}
save("step_conv", figures)
