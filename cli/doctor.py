"""cuista doctor"""

from __future__ import annotations

import os
import platform
from typing import Any

import click
from cuista.cli import common
from cuista.cli.spellings import Command

from cuista.summary import counted
from cuista.version import __version__


@click.command("doctor", cls=Command)
@common.json_option
def command(as_json: bool) -> None:
    """Show which devices, which CPU engine and which MPI library can be used, and why others cannot."""
    report = examine()
    if as_json:
        common.print_json(report)
        return
    versions, cpu, cuda = report["versions"], report["cpu"], report["cuda"]
    common.out(", ".join(f"{name} {version}" for name, version in versions.items()))
    common.out(f"cpu     can be used: {counted(cpu['workers'], 'worker')}, because {cpu['why_workers']}")
    common.out(f"        {cpu['blas']}, with one thread for each worker")
    if cpu["engine"] == "native":
        common.out(f"        computes with the native engine (vector width: {cpu['width']})")
    else:
        common.out(f"        computes with the NumPy engine, because {cpu['why_not_native']}.")
        common.out("        The native engine recovers signals nearly four times as fast, and its training")
        common.out("        steps of ALISTA are up to three times as fast (see CUISTA_ENGINE).")
    if cuda["reason"]:
        common.out(f"cuda    cannot be used: {cuda['reason']}")
    for gpu in cuda["gpus"]:
        what = gpu.get("name", "unknown GPU")
        if "memory" in gpu:
            memory = f"{gpu['memory_free'] / 2**30:.1f} of {gpu['memory'] / 2**30:.1f} GiB free"
            what += f", compute capability {gpu['compute_capability']}, {memory}"
        verdict = f"cannot be used: {gpu['reason']} ({what})" if gpu["reason"] else f"can be used: {what}"
        common.out(f"{gpu['device']:7} {verdict}")
    if cuda["gpus"]:
        numbers = ", ".join(f"{name} {cuda[name]}" for name in ("driver", "runtime", "nvrtc"))
        common.out(f"        {', '.join(cuda['cupy'])}; CUDA: {numbers}")
    mpi = report["mpi"]
    if mpi["reason"]:
        common.out(f"mpi     cannot be used: {mpi['reason']} (pip install 'cuista[mpi]')")
    else:
        common.out(f"mpi     can be used: {mpi['library']}, by mpi4py {mpi['mpi4py']}")
    common.out(f"--device auto selects {report['auto']}.")


def examine() -> dict[str, Any]:
    """Everything that the command reports."""
    from importlib import metadata

    import numpy  # noqa: F401  (loads the BLAS that threadpool_info reports)
    from cuista.kernels import native
    from threadpoolctl import threadpool_info

    from cuista import device, parallel, ranks
    from cuista.ops import why_not_native

    packages = ("numpy", "scipy", "h5py", "click")
    blas = [f"{item['internal_api']} {item['version']}" for item in threadpool_info() if item["user_api"] == "blas"]
    why_not, allowed = why_not_native(), parallel.allowance()
    workers = {
        "workers": parallel.processors(),
        "why_workers": f"{parallel.WORKERS} says so" if os.environ.get(parallel.WORKERS) else str(allowed),
        "processors": allowed.processors,
    }
    engine = {
        "engine": "numpy" if why_not else "native",
        "why_not_native": why_not,
        "width": None if why_not else native.library().width,
    }
    return {
        "versions": {
            "cuista": __version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in packages},
        },
        "cpu": {**workers, "blas": "; ".join(blas) or "unknown BLAS", **engine},
        "cuda": device.describe_cuda(),
        "mpi": ranks.describe_mpi(),
        "auto": str(device.parse_device("auto")),
    }
