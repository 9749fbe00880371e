"""Measure what it costs to share a training run out to ranks, and predict it for many.

    pip install '.[mpi]' && mpiexec -n 2 python benchmarks/ranks.py
    python benchmarks/ranks.py --predict

The first command compares, step by step of whole training runs, two ranks of one thread each with one rank of two
threads, and with two ranks of PyTorch's DistributedDataParallel (gloo) if torch is installed. The second one predicts
the efficiency for up to 1,024 GPUs from measured steps on one of them and from the assumptions below, and checks the
prediction by running cuista's own exchange on that many simulated ranks, whose clocks count latency and bytes. For
every network, it says how many bytes a message has, and how long a step must take for an efficiency of 90 %. Both
commands write to benchmarks/results/ranks.json, each its own part.
"""

# ruff: noqa: E402
from __future__ import annotations

import json
import os
import queue
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np
from common import RESULTS, save

import cuista
from cuista import parallel, ranks
from cuista.data.dictionary import Dictionary, cosine_dictionary, random_dictionary
from cuista.networks import CONV_NETWORKS, NETWORKS
from cuista.tasks.denoising import Denoiser
from cuista.weights import solve_conv

LAYERS, BATCH, STEPS, TURNS = 16, 128, 20, 3
# Assumed of a cluster: the time of a message, and the bytes per second that a rank sends through host memory.
LATENCY, BANDWIDTH = 5e-6, 10e9
SIZES = (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


def models() -> dict[str, Callable[[], Any]]:
    """Functions that make the models, untrained."""
    problem = cuista.Problem(cuista.normalize_columns(cuista.random_matrix(250, 500, seed=1)), seed=1)
    weight = cuista.solve_exact(problem.A)
    return {
        "alista": lambda: cuista.Model.new(problem, weight, layers=LAYERS),
        "lista-cpss untied": lambda: cuista.Model.new(problem, weight, "lista-cpss", layers=LAYERS, untied=True),
    }


def pictures(folder: str) -> str:
    """A file of pictures with smooth random content."""
    rng = np.random.default_rng(0)
    from PIL import Image

    for number in range(12):
        smooth = np.cumsum(np.cumsum(rng.standard_normal((200, 200)), axis=0), axis=1)
        grey = 255 * (smooth - smooth.min()) / np.ptp(smooth)
        Image.fromarray(grey.astype(np.uint8)).save(f"{folder}/{number}.png")
    out = f"{folder}/pictures.h5"
    cuista.prepare_images(folder, out, split=(9, 3, 0))
    return out


def step_seconds(train: Callable[[Callable[[Any], None]], Any]) -> list[float]:
    """The times of the steps of a training run, without the first two."""
    at = [time.perf_counter()]
    train(lambda progress: at.append(time.perf_counter()))
    return np.diff(at)[2:].tolist()


class Measured:
    """Messages that count bytes, and the time in them."""

    def __init__(self, messages: Any) -> None:
        self.messages, self.rank, self.size = messages, messages.rank, messages.size
        self.bytes, self.swaps, self.seconds = 0, 0, 0.0

    def swap(self, sent: Any, to: Any, source: Any = None, room: Any = None) -> None:
        start = time.perf_counter()
        self.messages.swap(sent, to, source, room)
        self.seconds += time.perf_counter() - start
        self.bytes, self.swaps = self.bytes + len(to) * sent.nbytes, self.swaps + len(to)

    def gather(self, part: bytes) -> list[bytes]:
        found: list[bytes] = self.messages.gather(part)
        return found


def measure() -> None:
    """Time training on two ranks; the first one writes the results."""
    with ranks.together() as job:
        assert job.size == 2, "start two ranks: mpiexec -n 2 python benchmarks/ranks.py"
        messages = Measured(job.messages)  # type: ignore[attr-defined]
        counted = ranks.Several(messages)
        works: dict[str, tuple[Callable[[], Any], Any, Any]] = {}
        recipe = cuista.FastRecipe(
            batch=BATCH, validation_batch=64, layerwise=False, max_steps=STEPS, matrix_steps=STEPS
        )
        for name, make in models().items():
            works[name] = make, recipe, None
        dictionary = solve_conv(Dictionary(random_dictionary((5, 5), 64)))
        from cuista.tasks.denoising import Denoising, PictureFastRecipe

        task = Denoising(job.agreed(lambda: pictures(tempfile.mkdtemp())), crop=96)
        few = PictureFastRecipe(batch=4, validation_batch=2, max_steps=STEPS, matrix_steps=STEPS)
        works["conv-lista-cp"] = (lambda: Denoiser.new(dictionary, "conv-lista-cp", layers=5)), few, task
        figures: dict[str, Any] = {}
        for name, (make, how, for_task) in works.items():

            def run(progress: Any, make: Any = make, how: Any = how, for_task: Any = for_task) -> None:
                cuista.train(make(), how, task=for_task, progress=progress)

            shared, alone, in_messages = [], [], 0.0
            for _ in range(TURNS):
                job.agreed(lambda: None)
                messages.bytes = messages.swaps = 0
                messages.seconds = 0.0
                with ranks.among(counted), parallel.workers(1):
                    shared.append(statistics.median(step_seconds(run)))
                in_messages = messages.seconds / messages.swaps  # a step sends one to the only other rank
                if job.first:
                    with ranks.among(ranks.Ranks()), parallel.workers(2):
                        alone.append(statistics.median(step_seconds(run)))
                job.agreed(lambda: None)  # the other rank sleeps meanwhile
            figures[name] = {
                "two_threads_over_two_ranks": statistics.median(
                    a / b for a, b in zip(alone, shared, strict=False)
                ) if alone else None,
                "share_of_step_in_messages": in_messages / statistics.median(shared),
                "mean_bytes_a_message": messages.bytes / max(messages.swaps, 1),
            }  # fmt: skip
        torch_figures = against_torch(job, counted)
        if job.first:
            earlier = read()
            work = "250x500, T = 16, batch 128; conv-lista-cp: 64 filters of 5x5, T = 5, 4 crops of 96x96; medians"
            save("ranks", {**earlier, "measured": {"work": work, **figures, **torch_figures}})


def against_torch(job: Any, counted: Any) -> dict[str, Any]:
    """Compare with DistributedDataParallel, for untied LISTA-CPSS on two ranks of one thread."""
    try:
        import torch
    except ImportError:
        return {}
    from reference_torch import threshold

    torch.set_num_threads(1)
    place = job.agreed(lambda: tempfile.mktemp())
    torch.distributed.init_process_group("gloo", init_method=f"file://{place}", rank=job.rank, world_size=job.size)
    model = models()["lista-cpss untied"]()
    network, problem = model.network, model.problem
    x, y = problem.sample(BATCH // job.size, step=job.rank)
    A, x_torch, y_torch = torch.tensor(problem.A, dtype=torch.float32), torch.from_numpy(x), torch.from_numpy(y)

    class Net(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            parts = torch.tensor(network.parameters["weight"], dtype=torch.float32)
            self.weights = torch.nn.ParameterList(part.clone() for part in parts)
            self.theta = torch.nn.Parameter(torch.tensor(network.parameters["threshold"], dtype=torch.float32))

        def forward(self, y: Any) -> Any:
            factor = y.norm(dim=1, keepdim=True) / network.unit
            scaled, estimate = y / factor, torch.zeros(len(y), problem.N)
            for t, k in enumerate(network.support):
                r = scaled if t == 0 else scaled - estimate @ A.T
                estimate = threshold(estimate + r @ self.weights[t].T, self.theta[t], k)
            return factor * estimate

    net = torch.nn.parallel.DistributedDataParallel(Net())
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-6, fused=True)

    def torch_step() -> None:
        optimizer.zero_grad()
        (0.5 * (net(y_torch) - x_torch).square().sum()).backward()
        optimizer.step()

    recipe = cuista.FastRecipe(batch=BATCH, validation_batch=64, layerwise=False, max_steps=0, matrix_steps=STEPS)
    ratios = []
    for _ in range(TURNS):
        job.agreed(lambda: None)
        times = []
        for _ in range(STEPS):
            start = time.perf_counter()
            torch_step()
            times.append(time.perf_counter() - start)
        job.agreed(lambda: None)
        with ranks.among(counted), parallel.workers(1):
            ours = step_seconds(lambda progress: cuista.train(
                models()["lista-cpss untied"](), recipe, progress=progress))  # fmt: skip
        ratios.append(statistics.median(times[2:]) / statistics.median(ours))
    torch.distributed.destroy_process_group()
    figures = {"torch": torch.__version__, "times_faster_than_ddp, lista-cpss untied": statistics.median(ratios)}
    return figures if job.first else {}


# -- prediction -------------------------------------------------------------------------------------------------------


class Simulated:
    """Messages between threads, each of which stands for a rank with a clock of its own."""

    def __init__(self, rank: int, size: int, boxes: dict[tuple[int, int], Any]) -> None:
        self.rank, self.size, self.boxes, self.clock = rank, size, boxes, 0.0

    def swap(self, sent: Any, to: Any, source: Any = None, room: Any = None) -> None:
        leaves = self.clock
        for other in to:
            leaves += LATENCY + sent.nbytes * SCALE / BANDWIDTH
            self.boxes[self.rank, other].put((leaves, sent.copy()))
        self.clock = max(self.clock, leaves)
        if source is not None:
            arrives, content = self.boxes[source, self.rank].get()
            room[...] = content
            self.clock = max(self.clock, arrives)


# Simulated messages have one byte for so many.
SCALE = 1


def simulated(size: int, numbers: dict[str, int]) -> float:
    """The time of the exchange on `size` simulated ranks, each with a shard, by cuista's own sum."""
    global SCALE
    SCALE = max(sum(numbers.values()) // 1024, 1)
    boxes: dict[tuple[int, int], Any] = Boxes()
    clocks, threads = [0.0] * size, []

    def run(rank: int) -> None:
        messages = Simulated(rank, size, boxes)
        ranks.Several(messages).sum([np.zeros(sum(numbers.values()) // SCALE, np.uint8)], size)  # type: ignore[arg-type]
        clocks[rank] = messages.clock

    for rank in range(size):
        threads.append(threading.Thread(target=run, args=(rank,)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    return max(clocks)


class Boxes(dict[tuple[int, int], Any]):
    """A queue for each pair of ranks that exchange messages."""

    def __init__(self) -> None:
        super().__init__()
        self.guard = threading.Lock()

    def __missing__(self, pair: tuple[int, int]) -> Any:
        with self.guard:
            return self.setdefault(pair, queue.SimpleQueue())


def predict() -> None:
    """Predict how efficient many GPUs are, with a step's share of the batch as large as it was measured on one."""
    results = json.loads((RESULTS / "gpu.json").read_text())
    gpu, pictures = results["training_step"], results["pictures"]
    # The time of a step on one GPU, and the bytes of its gradients and of the two numbers that go with them.
    alista = {"step_size": 8 * LAYERS, "threshold": 8 * LAYERS, "numbers": 16}
    steps = {
        f"alista, {state}": (1e-6 * gpu[state][f"{gpu[state]['chosen']}_us"], alista)
        for state in ("trained, batch 128", "trained, batch 2048", "untrained, batch 2048")
    }
    steps["conv-csc, 8 crops of 128x128"] = 1e-6 * pictures["cuista_us"], {"all": volumes()["conv-csc"]}
    predicted: dict[str, Any] = {}
    for name, (seconds, parts) in steps.items():
        volume, predicted[name] = sum(parts.values()), {}
        for size in SIZES:
            rounds = size.bit_length() - 1
            model = rounds * (LATENCY + volume / BANDWIDTH)
            assert abs(simulated(size, parts) / model - 1) < 1e-2, (name, size)
            predicted[name][str(size)] = round(seconds / (seconds + model), 3)
    about = {
        "efficiency": "time of a step on one GPU / time of a step of as many signals a GPU on many, by model",
        "latency_seconds": LATENCY,
        "bytes_per_second": BANDWIDTH,
        "messages_a_step": "log2 of the number of ranks",
    }
    networks = {
        name: {
            "bytes_a_message": volume,
            "step_ms_for_90_percent": {
                str(size): round(9e3 * (size.bit_length() - 1) * (LATENCY + volume / BANDWIDTH), 3)
                for size in (2, 32, 1024)
            },
        }
        for name, volume in volumes().items()
    }
    save("ranks", {**read(), "predicted": {**about, **predicted, "networks": networks}})


def volumes() -> dict[str, int]:
    """The bytes that a rank sends in a message of training, for every network: T = 16, or the defaults for pictures.

    They are the gradients, the loss, and whether a rank was interrupted.
    """
    problem = cuista.Problem(cuista.normalize_columns(cuista.random_matrix(250, 500, seed=1)), seed=1)
    weight = cuista.solve_exact(problem.A)
    made: dict[str, Any] = {}
    for name, net in NETWORKS.items():
        for untied in (False, True) if net.can_untie else (False,):
            if net.has_gradients:
                variant = f"{name}, untied" if untied else name
                made[variant] = cuista.Model.new(problem, weight, name, layers=LAYERS, untied=untied).network
    for name, conv in CONV_NETWORKS.items():
        stride, filters = conv.usual_stride, 32 if name == "conv-csc" else 49
        dictionary = Dictionary(cosine_dictionary((7, 7), filters))
        made[name] = Denoiser.new(solve_conv(dictionary, stride=stride), name).network
    made["encoder"] = cuista.EncoderModel.new(problem).network
    return {name: sum(value.nbytes for value in net.parameters.values()) + 16 for name, net in made.items()}


def read() -> dict[str, Any]:
    """The results in the file so far."""
    file: Path = RESULTS / "ranks.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return found


if __name__ == "__main__":
    predict() if "--predict" in sys.argv else measure()
