"""Compare the CUDA engine with PyTorch on one GPU: kernels, the training step, recovery and whole training runs.

    pip install '.[cuda13]' torch && python benchmarks/gpu.py [--paper]

The matrix is 250×500, and the network has 16 layers in float32; the training step is timed in complex64, too. PyTorch
computes the same thing eagerly, compiled, and as a captured CUDA graph. The results of both are compared first. Each
time comes with a lower bound, its floor: the bytes that must move divided by the measured rate of a copy on the device,
or the operations divided by the measured rate of a matrix product, whichever is longer. --paper runs the paper recipe
to its end too, which takes minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cupy
import numpy as np
import torch
from common import conv_csc, ratio, save, smooth_crops
from reference_torch import denoised, forward

import cuista
from cuista.counter import TRAINING, Key
from cuista.device import describe_cuda, parse_device
from cuista.ops import engine
from cuista.training.adam import Adam

LAYERS, BATCH, RECOVERED = 16, 64, 131_072
LEARNED = ("step_size", "threshold")
COMPILE_MODES = ("default", "reduce-overhead")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def wait() -> None:
    """Wait until the GPU has finished all its work."""
    cupy.cuda.runtime.deviceSynchronize()


Works = dict[str, Callable[[], Any]]


def seconds(works: Works, *, runs: int, each: int = 1, warmup: int = 3) -> dict[str, list[float]]:
    """Time pieces of work in seconds, as means over `each` calls between two waits.

    They run in turn, so that a drift of the machine's speed affects all alike.
    """
    times: dict[str, list[float]] = {name: [] for name in works}
    for run in range(warmup + runs):
        for name, work in works.items():
            wait()
            start = time.perf_counter()
            for _ in range(each):
                work()
            try:
                wait()
            except Exception as error:
                raise RuntimeError(f"the GPU failed at {name}") from error
            if run >= warmup:
                times[name].append((time.perf_counter() - start) / each)
    return times


def micro(times: list[float]) -> float:
    """The median of times in seconds, in microseconds."""
    return round(statistics.median(times) * 1e6, 2)


def to_torch(array: Any) -> torch.Tensor:
    return torch.from_numpy(ops.to_numpy(array)).to(DEVICE)


# -- the machine ------------------------------------------------------------------------------------------------------


def rates() -> tuple[float, float]:
    """The rates of a device copy, in bytes read and written, and of a float32 product, in operations, per second."""
    source = cupy.empty(2**28, cupy.float32)
    target = cupy.empty_like(source)
    a = cupy.ones((8192, 8192), cupy.float32)
    b = cupy.ones_like(a)
    times = seconds(
        {"copy": lambda: cupy.copyto(target, source), "product": lambda: cupy.matmul(a, b)}, runs=10, each=20
    )
    return 2 * source.nbytes / statistics.median(times["copy"]), 2 * 8192**3 / statistics.median(times["product"])


# -- kernels 1 and 2 --------------------------------------------------------------------------------------------------


def kernels(model: cuista.Model, copy_rate: float) -> dict[str, Any]:
    """Time kernels 1 and 2 on the data of a trained network's layers, and relate them to the rate of a copy."""
    network, (_, y) = model.network, model.problem.sample(RECOVERED, ops=ops)
    state, _ = network.begin(network.in_units(y)[0])
    figures: dict[str, Any] = {}
    for t in range(LAYERS):
        step, _, _ = network.couple(t, state, partial(network.parameter, t=t))
        alpha, theta = network.parameters["step_size"][t], network.parameters["threshold"][t]
        arguments = (step.start, step.u, alpha, theta, network.support[t])
        if t in (0, 1, 4, 8, 15):
            _, code_of_training = ops.shrink_select(*arguments, 0.3)
            works = {
                "forward": lambda a=arguments: ops.shrink_select(*a),
                "forward_with_window": lambda a=arguments: ops.shrink_select(*a, 0.3),
                "backward": lambda a=arguments, c=code_of_training: ops.shrink_select_backward(a[1], c, *a[:4], 0.3),
            }
            times = seconds(works, runs=10, each=20)
            floor = {name: RECOVERED * network.N * 13 / copy_rate for name in works}
            figures[f"layer {t + 1}"] = {
                name: {"us": micro(times[name]), "share_of_copy": floor[name] / statistics.median(times[name])}
                for name in works
            }
        state, _ = network.layer(t, state)
    return figures


# -- the training step ------------------------------------------------------------------------------------------------


class TorchStep:
    """A training step as one would write it in PyTorch: signals, forward pass, loss, backward pass and Adam."""

    def __init__(self, model: cuista.Model, batch: int) -> None:
        problem, network = model.problem, model.network
        self.dtype = torch.complex64 if problem.is_complex else torch.float32
        self.A, self.W = (torch.tensor(m, dtype=self.dtype, device=DEVICE) for m in (problem.A, model.weight.W))
        self.parameters = [to_torch(network.parameters[name]).float() for name in LEARNED]
        for parameter in self.parameters:
            parameter.requires_grad_()
        self.support, self.unit, self.pnz = network.support, network.unit, problem.sparsity
        self.shape = (batch, problem.N)
        self.adam = torch.optim.Adam(self.parameters, lr=0.0, capturable=DEVICE.type == "cuda")

    def loss(self, x: torch.Tensor, layers: int = LAYERS) -> torch.Tensor:
        estimate = forward(x @ self.A.T, self.A, self.W, *self.parameters, self.support[:layers], self.unit)
        return 0.5 * (estimate - x).abs().square().sum()

    def signals(self) -> torch.Tensor:
        numbers = torch.randn(self.shape, dtype=self.dtype, device=DEVICE)
        return numbers * (torch.rand(self.shape, device=DEVICE) < self.pnz)

    def __call__(self, loss: Callable[[torch.Tensor], torch.Tensor] | None = None) -> None:
        self.adam.zero_grad()
        (loss or self.loss)(self.signals()).backward()
        self.adam.step()

    def compiled(self, mode: str) -> Callable[[], None]:
        loss = torch.compile(self.loss, mode=mode)

        def step() -> None:
            torch.compiler.cudagraph_mark_step_begin()
            self(loss)

        return step

    def captured(self) -> Callable[[], None]:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(5):
                self()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self()

        def replay(arrays: TorchStep = self) -> None:  # the graph does not keep what it reads alive
            graph.replay()

        return replay


class Step:
    """A training step as cuista's trainer makes it, fused or not."""

    def __init__(self, model: cuista.Model, batch: int, fused: bool) -> None:
        self.model, self.batch = model, batch
        network = model.network
        self.adam, self.step, self.rates = Adam(), 0, dict.fromkeys(network.parameters, 1e-30)
        self.mean_loss, self.one = ops.asarray(0.0, np.float64), ops.asarray(1.0, np.float64)
        self.factors = ops.asarray(np.ones(LAYERS), np.float64)
        self.fused = network.fuse(model.problem.signals()) if fused else None

    def gradients(self, layers: int = LAYERS) -> tuple[Any, dict[str, Any]]:
        network, self.step = self.model.network, self.step + 1
        if self.fused:
            key = Key(0, TRAINING, self.step)
            return self.fused(network.parameters, network.support, key, self.batch, layers, 0.0, 1.0)
        x, y = self.model.problem.sample(self.batch, stream=TRAINING, step=self.step, seed=0, ops=ops)
        return network.loss_and_gradients(y, x, layers)

    def __call__(self) -> None:
        loss, gradients = self.gradients()
        ops.track_loss(loss, self.batch, self.mean_loss)
        self.adam.step(ops, self.model.network.parameters, gradients, self.rates, self.factors, scale=self.one)


def agree(model: cuista.Model) -> None:
    """Check that PyTorch and cuista, fused and not fused, agree on the loss and the gradients of the same signals.

    The medians over batches must agree: rounding decides whether some entry passes a threshold, which changes the
    results of its batch. After all 16 layers of a trained network little more than rounding is left, so these are 8.
    """
    layers, theirs = LAYERS // 2, TorchStep(model, BATCH)
    steps = {fused: Step(model, BATCH, fused) for fused in (True, False)}
    differences: dict[tuple[bool, str], list[float]] = {
        (fused, name): [] for fused in steps for name in ("loss", *LEARNED)
    }
    for number in range(1, 10):
        x, _ = model.problem.sample(BATCH, stream=TRAINING, step=number, seed=0, ops=ops)
        theirs.adam.zero_grad()
        loss = theirs.loss(to_torch(x), layers)
        loss.backward()
        of_torch = {"loss": loss, **{name: p.grad[:layers] for name, p in zip(LEARNED, theirs.parameters, strict=True)}}
        for fused, step in steps.items():
            ours, gradients = step.gradients(layers)
            for name, value in {"loss": ours, **gradients}.items():
                expected = of_torch[name].detach().cpu().numpy()
                difference = np.abs(np.atleast_1d(ops.to_numpy(value))[: expected.size] - expected).max()
                differences[fused, name].append(float(difference / np.abs(expected).max()))
    for what, relative in differences.items():
        assert statistics.median(relative) < 1e-3, (what, relative)
    print({str(what): statistics.median(relative) for what, relative in differences.items()})


def training(models: dict[str, cuista.Model], compute_rate: float) -> dict[str, Any]:
    """Time the training step at several batch sizes, for each of the models."""
    figures: dict[str, Any] = {}
    for state, model in models.items():
        density = model.network.density(model.problem.sample(256, ops=ops)[1], LAYERS)
        for batch in (BATCH, 128, 512, 2048):
            fused = Step(model, batch, fused=True)
            works: Works = {"fused": fused, "dense": Step(model, batch, fused=False)}
            if batch == BATCH:
                works |= {"torch": TorchStep(model, batch)}
                if not model.problem.is_complex:  # the compiler generates no code for complex numbers, and may crash
                    works |= {f"torch.compile {mode}": TorchStep(model, batch).compiled(mode) for mode in COMPILE_MODES}
                if DEVICE.type == "cuda":
                    works["torch graph"] = TorchStep(model, batch).captured()
            times = seconds(works, runs=15, each=20)
            # Each non-zero costs a gathered row in the forward and in the backward pass. The rows come from the L2
            # cache, so the operations are the bound, not the rate of a copy.
            operations = 2 * 2 * batch * LAYERS * density * model.problem.N**2 * (4 if model.problem.is_complex else 1)
            chosen = "fused" if fused.fused and fused.fused.suits(batch, density) else "dense"
            figures[f"{state}, batch {batch}"] = {
                "density": density,
                "chosen": chosen,
                "floor_us": operations / compute_rate * 1e6,
                **{f"{name}_us": micro(times[name]) for name in works},
                **{f"faster_than_{name}": ratio(times[name], times[chosen]) for name in works if "torch" in name},
            }
    return figures


# -- pictures ---------------------------------------------------------------------------------------------------------


def pictures() -> dict[str, Any]:
    """Time the gradients of a Conv-CSC with its defaults, 16 layers of 32 filters of 7×7 and a stride of 2."""
    crops, side = 8, 128
    clean, noisy = smooth_crops(crops, side)
    network = conv_csc(7, 32, 2, LAYERS, ops)
    arrays = ops.asarray(noisy, np.float32), ops.asarray(clean, np.float32)
    learned = {name: to_torch(value).float().requires_grad_() for name, value in network.parameters.items()}
    noisy_torch, clean_torch = (torch.from_numpy(array).to(DEVICE) for array in (noisy, clean))

    def loss_of_torch() -> torch.Tensor:
        for value in learned.values():
            value.grad = None
        found = denoised(noisy_torch, learned["weight"], learned["synthesis"], learned["threshold"], 2)
        loss = 0.5 * (found - clean_torch).square().sum()
        loss.backward()
        return loss

    loss, gradients = network.loss_and_gradients(*arrays, LAYERS)
    assert abs(float(loss_of_torch()) - float(loss)) < 1e-3 * float(loss)
    for name, gradient in gradients.items():
        expected, found = learned[name].grad.cpu().numpy(), ops.to_numpy(gradient)
        assert np.abs(found - expected).max() < 1e-2 * np.abs(expected).max(), name
    works = {"cuista": lambda: network.loss_and_gradients(*arrays, LAYERS), "torch": loss_of_torch}
    times = seconds(works, runs=9)
    return {
        "work": f"{crops} crops of {side}x{side}",
        **{f"{name}_us": micro(times[name]) for name in works},
        "faster_than_torch": ratio(times["torch"], times["cuista"]),
    }


# -- recovery ---------------------------------------------------------------------------------------------------------


def recovery(model: cuista.Model, copy_rate: float, compute_rate: float) -> dict[str, Any]:
    x, y = model.problem.sample(RECOVERED, ops=ops)
    A, W = (torch.tensor(m, dtype=torch.float32, device=DEVICE) for m in (model.problem.A, model.weight.W))
    alpha, theta = (to_torch(model.network.parameters[name]).float() for name in LEARNED)
    y_torch = to_torch(y)

    def eager() -> torch.Tensor:
        with torch.inference_mode():
            return forward(y_torch, A, W, alpha, theta, model.network.support, model.network.unit)

    def compiled(mode: str) -> Callable[[], torch.Tensor]:
        compiled_forward = torch.compile(forward, mode=mode)

        def recover() -> torch.Tensor:
            with torch.inference_mode():
                return compiled_forward(y_torch, A, W, alpha, theta, model.network.support, model.network.unit)

        return recover

    # Medians over signals are compared, because rounding changes whether entries of a few signals pass a threshold, and
    # these signals would outweigh all others in a sum.
    truth = ops.to_numpy(x).astype(np.float64)
    errors = [np.square(e - truth).sum(axis=1) for e in (ops.to_numpy(model.network.output(y)), eager().cpu().numpy())]
    ours, theirs = (float(np.median(error)) for error in errors)
    assert 0.8 < ours / theirs < 1.25, (ours, theirs)
    works: Works = {"cuista": lambda: model.network.output(y), "torch": eager}
    works |= {f"torch.compile {mode}": compiled(mode) for mode in COMPILE_MODES}
    times = seconds(works, runs=10)
    N, M = model.problem.N, model.problem.M
    operations, moved = 2 * RECOVERED * N * (M + (LAYERS - 1) * N), RECOVERED * N * 13 * LAYERS
    return {
        "samples": RECOVERED,
        "nmse_db": float(10 * np.log10(errors[0].sum() / np.square(truth).sum())),
        "samples_per_second": RECOVERED / statistics.median(times["cuista"]),
        "floor_us": max(operations / compute_rate, moved / copy_rate) * 1e6,
        **{f"{name}_us": micro(times[name]) for name in times},
        **{f"faster_than_{name}": ratio(times[name], times["cuista"]) for name in works if name != "cuista"},
    }


# -- whole runs -------------------------------------------------------------------------------------------------------


def whole_runs(paper: bool) -> dict[str, Any]:
    """Time `cuista train` as a process, first without compiled kernels and then with them, and test the results."""
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:

        def run(*words: str) -> tuple[float, str]:
            command = [sys.executable, "-c", "from cuista.cli import main; main()", *words]
            environment = {**os.environ, "CUPY_CACHE_DIR": str(Path(folder) / "cache")}
            start = time.perf_counter()
            done = subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True)
            return time.perf_counter() - start, done.stdout

        run("gen-problem")
        device = ("--device", "cuda:0")
        trainings = {"fast, nothing compiled yet": "fast", "fast": "fast", **({"paper": "paper"} if paper else {})}
        for name, recipe in trainings.items():
            took, _ = run("train", "problem.h5", "--recipe", recipe, *device, "-o", f"{recipe}.h5", "--force")
            layers = json.loads(run("test", f"{recipe}.h5", "--json", *device)[1])["layers"]["alista"]
            model = cuista.Model.load(Path(folder) / f"{recipe}.h5")
            figures[name] = {"seconds": took, "steps": model.training["steps"], "nmse_db": layers[-1]["nmse_db"]}
    return figures


def table(figures: dict[str, Any]) -> str:
    """A table of the goals and of the figures reached."""
    step, recovered = figures["training_step"][f"trained, batch {BATCH}"], figures["recovery"]
    of_complex = figures["training_step"][f"complex, batch {BATCH}"]
    others = [step[name] for name in step if name.startswith("faster_than_torch") and name != "faster_than_torch"]
    compiled = [recovered[name] for name in recovered if name.startswith("faster_than_torch.compile")]
    shares = [layer["forward"]["share_of_copy"] for layer in figures["kernels"].values()]
    lines = [
        ("kernel 1, least share of a copy's bandwidth over the layers", f"{min(shares):.0%}", "70%"),
        (f"training step, batch {BATCH}: times PyTorch eager", f"{step['faster_than_torch']:.1f}", "10"),
        ("… its best other mode", f"{min(others):.1f}", "3"),
        (f"… its time and floor, µs: {step['fused_us']} and {step['floor_us']:.1f}", "", ""),
        ("… with complex numbers: times PyTorch eager", f"{of_complex['faster_than_torch']:.1f}", "2"),
        ("… its time over that with real ones", f"{of_complex['fused_us'] / step['fused_us']:.1f}", "4.2"),
        ("gradients of a Conv-CSC: times PyTorch eager", f"{figures['pictures']['faster_than_torch']:.1f}", "5"),
        (f"recovery of {RECOVERED}: times PyTorch eager", f"{recovered['faster_than_torch']:.1f}", "5"),
        ("… torch.compile, its best mode", f"{min(compiled):.1f}", "1.5"),
        (f"… its time and floor, µs: {recovered['cuista_us']} and {recovered['floor_us']:.1f}", "", ""),
    ]
    for name, run in figures["whole_runs"].items():
        goal = "300" if name == "paper" else "5"
        lines.append((f"train, {name}: {run['nmse_db']:.1f} dB, seconds", f"{run['seconds']:.1f}", goal))
    return "\n".join(f"{work:68} {reached:>8} {goal:>6}" for work, reached, goal in [("", "reached", "goal"), *lines])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paper", action="store_true", help="run the paper recipe to its end too")
    options = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    ops = engine(parse_device("cuda:0"))
    problem = cuista.Problem(cuista.normalize_columns(cuista.random_matrix(250, 500)))
    weight = cuista.solve_exact(problem.A)
    models = {state: cuista.Model.new(problem, weight, layers=LAYERS, ops=ops) for state in ("trained", "untrained")}
    complex_problem = cuista.Problem(cuista.normalize_columns(cuista.random_matrix(250, 500, dtype=complex)))
    complex_weight = cuista.solve_exact(complex_problem.A)
    models["complex"] = cuista.Model.new(complex_problem, complex_weight, layers=LAYERS, ops=ops)
    for state in ("trained", "complex"):
        cuista.train(models[state])
    copy_rate, compute_rate = rates()
    for model in models.values():
        agree(model)
    figures = {
        "work": "250x500, T = 16, float32; medians, microseconds",
        "gpu": describe_cuda()["gpus"][0]["name"],
        "cupy": cupy.__version__,
        "torch": torch.__version__,
        "copy_bytes_per_second": copy_rate,
        "product_operations_per_second": compute_rate,
    }
    for name, part in {
        "kernels": lambda: kernels(models["trained"], copy_rate),
        "training_step": lambda: training(models, compute_rate),
        "pictures": pictures,
        "recovery": lambda: recovery(models["trained"], copy_rate, compute_rate),
        "whole_runs": lambda: whole_runs(options.paper),
    }.items():
        figures[name] = part()
        save("gpu", figures)  # each time, because a part takes minutes
    print(table(figures))
