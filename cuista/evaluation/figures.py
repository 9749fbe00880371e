"""Figures drawn with matplotlib: NMSE by layer or by perturbation, and the parameters of networks by layer."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from cuista import storage
from cuista.checks import library
from cuista.errors import InputError
from cuista.evaluation.comparison import Comparison
from cuista.evaluation.robustness import Robustness
from cuista.model import Trained, load
from cuista.networks import NETWORKS
from cuista.solvers.classical import SOLVERS

ENDINGS = (".pdf", ".png", ".svg")
# Colours that colour-blind readers can tell apart (Okabe, Ito), and markers, so that the curves differ in print too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX*"
STYLE: Any = {
    "font.size": 9,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "savefig.dpi": 200,
    "svg.hashsalt": "cuista",
}


def plot(files: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Draw a figure of the results in files.

    Parameters
    ----------
    files
        One `cuista-comparison` file, whose NMSE is drawn by layer; one `cuista-robustness` file, whose NMSE is drawn by
        level of perturbation; or the files of one or more models, whose parameters are drawn by layer.
    out
        The figure's file, which ends in .pdf, .png or .svg.
    overwrite
        Whether `out` may exist already.

    Raises
    ------
    MissingLibraryError
        If matplotlib is not installed.
    InputError
        If `out` has another ending, or if the files are anything else.
    FileError
        If a file cannot be read, or if `out` cannot be written.
    """
    out = Path(out)
    if out.suffix.lower() not in ENDINGS:
        raise InputError(f"{out} has no ending of a figure; expected a name ending in {', '.join(ENDINGS)}")
    storage.check_writable(out, overwrite=overwrite)
    kinds = [storage.kind_of(file) for file in files]
    with library("matplotlib", "plot", "figures are drawn with matplotlib").rc_context(STYLE):
        if kinds == ["cuista-comparison"]:
            figure = nmse_figure(Comparison.load(files[0]))
        elif kinds == ["cuista-robustness"]:
            figure = robustness_figure(Robustness.load(files[0]))
        elif set(kinds) <= set(Trained.kinds):
            stems = [Path(file).stem for file in files]
            names = stems if len(set(stems)) == len(stems) else [os.fspath(file) for file in files]
            figure = parameter_figure({name: load(file) for name, file in zip(names, files, strict=True)})
        else:
            found = ", ".join(f"{os.fspath(file)} is a {kind} file" for file, kind in zip(files, kinds, strict=True))
            raise InputError(f"{found}; expected one comparison, one report of a test on perturbed matrices, or models")
        # The date is left out so that the same results give the same file.
        metadata = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}.get(out.suffix.lower())
        with storage.replacing(out, overwrite=overwrite) as file:
            figure.savefig(file, format=out.suffix[1:].lower(), metadata=metadata)


def nmse_figure(comparison: Comparison) -> Any:
    """A figure of the NMSE by layer or iteration, with a panel for each SNR."""
    snrs = list(dict.fromkeys(result.snr_db for result in comparison.results))
    methods = list(dict.fromkeys(result.method for result in comparison.results))
    looks = dict(zip(methods, _looks(), strict=False))
    figure, panels = _panels(len(snrs))
    for panel, snr in zip(panels, snrs, strict=True):
        for result in comparison.results:
            if result.snr_db != snr:
                continue
            label = title(result.method)
            curve = np.maximum(result.nmse_db, -200)
            if result.has_iterates:
                style = "--" if result.method in SOLVERS else "-"
                panel.plot(np.arange(len(curve)), curve, style, label=label, **looks[result.method])
            else:
                look = {"color": looks[result.method]["color"], "linestyle": ":"}
                panel.axhline(curve[-1], label=label, **look)
        panel.set_xlabel("layer or iteration")
        panel.set_title("no noise" if np.isinf(snr) else f"SNR {snr:g} dB", fontsize=9)
        panel.xaxis.get_major_locator().set_params(integer=True)
    panels[0].set_ylabel("NMSE (dB)")
    _legend(figure, panels)
    return figure


def robustness_figure(robustness: Robustness) -> Any:
    """A figure of the NMSE by the level of perturbation."""
    figure, (panel,) = _panels(1, width=4.2)
    for result, look in zip(robustness.results, _looks(), strict=False):
        style = "--" if result.method.startswith("fista") else ":" if result.method.endswith("exact W") else "-"
        panel.plot(robustness.sigmas, np.maximum(result.mean_db, -200), style, label=result.method, **look)
    panel.set_xlabel("σ of the perturbation")
    panel.set_ylabel("NMSE (dB)")
    _legend(figure, [panel])
    return figure


def parameter_figure(models: Mapping[str, Trained]) -> Any:
    """A figure of the models' step sizes, thresholds and momentum by layer, with a panel for each.

    Of thresholds that differ by coordinate, the mean and the range are drawn.
    """
    stacks = {
        name: {key: model.network.ops.to_numpy(value) for key, value in model.network.parameters.items()}
        for name, model in models.items()
    }
    names = [
        name
        for name in ("step_size", "threshold", "momentum")
        if any(name in parameters and len(parameters[name]) > 1 for parameters in stacks.values())
    ]
    if not names:
        raise InputError("none of these models has parameters for each layer; expected at least one that has")
    looks = dict(zip(models, _looks(), strict=False))
    figure, panels = _panels(len(names))
    for panel, name in zip(panels, names, strict=True):
        for model, parameters in stacks.items():
            if name not in parameters or len(parameters[name]) == 1:
                continue
            rows = parameters[name].reshape(len(parameters[name]), -1)
            layers = np.arange(1, len(rows) + 1)
            panel.plot(layers, rows.mean(axis=1), label=model, **looks[model])
            if rows.shape[1] > 1:
                panel.fill_between(layers, rows.min(axis=1), rows.max(axis=1), color=looks[model]["color"], alpha=0.2)
        panel.set_xlabel("layer")
        panel.set_ylabel(name.replace("_", " "))
        panel.xaxis.get_major_locator().set_params(integer=True)
        low, high = panel.dataLim.intervaly
        if name == "threshold" and 0 < 10 * low < high:
            panel.set_yscale("log")
    _legend(figure, panels)
    return figure


def title(method: str) -> str:
    """The name of a method in a figure."""
    net, *forms = method.split(":")
    if net in NETWORKS:
        return " ".join([NETWORKS[net].title, *(f"({form})" for form in forms)])
    return method.upper() if method in SOLVERS else method.removesuffix(".h5")


def _panels(count: int, width: float = 2.8) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.6 + width * count, 2.8), layout="constrained")
    return figure, figure.subplots(1, count, squeeze=False)[0]


def _legend(figure: Any, panels: Any) -> None:
    """Draw one legend for all panels, beside them."""
    handles: dict[str, Any] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles.keys(), loc="outside right upper")


def _looks() -> Any:
    """The style of each curve in turn: colour, marker and sizes."""
    for i, colour in enumerate(cycle(COLOURS)):
        yield {"color": colour, "marker": MARKERS[i % len(MARKERS)], "markersize": 3, "linewidth": 1.2}
