"""cuista convert"""

from __future__ import annotations

from pathlib import Path

import click
from cuista.cli.common import INPUT_FILE, force_option, key_option, output_file, say
from cuista.cli.spellings import Command, net

from cuista.errors import FileError, InputError


@click.command("convert", cls=Command)
@click.argument("source", type=INPUT_FILE)
@click.argument("target", type=output_file(".h5", ".npy", ".npz", ".mat"))
@key_option
@click.option(
    "--problem", "problem_file", type=INPUT_FILE, help="The problem that an imported weight or network is for."
)
@click.option(
    "-W", "--weight", "weight_file", type=INPUT_FILE, help="The weight of an imported network. [solved exactly]"
)
@click.option(
    "-p", "--percent", type=float, default=1.2, show_default=True, help="Support schedule of an imported network."
)
@click.option("--max-percent", type=float, default=13.0, show_default=True, help="… up to this.")
@click.option("--net", type=net, metavar="NAME", default="alista", show_default=True, help="The imported network.")
@click.option(
    "--scope", help="Variable scope of a network: which to import, or how to call the exported. [the network's name]"
)
@force_option
def command(
    source: Path,
    target: Path,
    key: str | None,
    problem_file: Path | None,
    weight_file: Path | None,
    percent: float,
    max_percent: float,
    net: str,
    scope: str | None,
    force: bool,
) -> None:
    """Import .npy, .npz and .mat, or export to them.

    Reads the original's prob.npz; its W.npy (give --problem); and the saved variables alpha_1:0, theta_1:0, W_1:0, …
    of a network (give --problem, --net, and -W, -p, --max-percent as they were). A problem is exported as such a
    prob.npz, a weight as W, a network as such variables (in .npz) or as step_size, threshold, weight, … (in .mat).
    """
    from cuista import original, storage
    from cuista.model import Model
    from cuista.problem import Problem
    from cuista.weights import Weight, solve_exact

    if not source.exists():
        raise FileError(f"{source} does not exist")
    storage.check_writable(target, overwrite=force)
    exporting = storage.is_cuista(source)
    if exporting == (target.suffix.lower() == ".h5"):
        ours = "one of cuista's files already" if exporting else "not one of cuista's files"
        expected = ".npy, .npz or .mat" if exporting else ".h5"
        raise InputError(f"{source} is {ours}; expected a target ending in {expected}")
    if exporting and key is not None:
        raise click.UsageError(f"--key names an array in a file of several, and {source} is one of cuista's")
    if exporting:
        record = storage.read(source, "cuista-problem", "cuista-weight", "cuista-model")
        if record.kind == "cuista-problem":
            arrays = original.write_problem(Problem.from_record(record, source))
            if target.suffix.lower() == ".npy":
                arrays = {"A": arrays["A"]}
        elif record.kind == "cuista-weight":
            arrays = {"W": record.arrays["W"]}
        elif target.suffix.lower() == ".npz":
            arrays = original.write_model(Model.from_record(record, source), scope)
        else:
            arrays = {
                name.removeprefix("parameters/"): array
                for name, array in record.arrays.items()
                if name.startswith("parameters/")
            }
        storage.save_arrays(target, arrays, overwrite=force)
        names = list(arrays)
        say(f"Wrote {target}: {', '.join(names if len(names) < 12 else [*names[:2], '…', names[-1]])}.")
        return

    arrays = storage.load_arrays(source)
    if key is not None:
        arrays = {key: storage.load_array(source, key=key)}
    if problem_file is None:
        if original.has_variables(arrays):
            raise click.UsageError(
                f"{source} holds the variables of a network: give the problem it is for with --problem"
            )
        problem = original.read_problem(arrays, str(source))
        problem.save(target, overwrite=force)
        say(f"Wrote {target}: a {problem.M}×{problem.N} problem, pnz {problem.sparsity:g}, SNR {problem.snr_db:g} dB.")
        return
    problem = Problem.load(problem_file)
    if not original.has_variables(arrays):
        weight = Weight.from_array(storage.load_array(source, "W", key=key), problem.A)
        weight.save(target, overwrite=force)
        say(f"Wrote {target}: a weight with objective {weight.report.objective:.8g}.")
        return
    weight = Weight.load(weight_file, problem.A) if weight_file else solve_exact(problem.A)
    model = original.read_model(
        arrays, problem, weight, net, percent=percent, max_percent=max_percent, scope=scope, source=str(source)
    )
    model.save(target, overwrite=force)
    say(f"Wrote {target}: {model.network.title}, {model.network.layers} layers.")
