"""Figures of results, models, dictionaries and codes, and captioned pictures in a row."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cuista import storage
from cuista.checks import Array, as_numbers, as_real, check_finite, in_double, library
from cuista.data.dictionary import Dictionary
from cuista.data.sensing import Sensing
from cuista.errors import InputError
from cuista.evaluation import drawing
from cuista.evaluation.comparison import Comparison
from cuista.evaluation.drawing import Curve, Say, Sheet
from cuista.evaluation.robustness import Robustness
from cuista.messages import warn
from cuista.metrics import PictureReport, Report, estimate_nmse_db
from cuista.model import Trained, load
from cuista.networks import NETWORKS
from cuista.solvers.classical import SOLVERS
from cuista.training.checkpoint import CHECKPOINT
from cuista.weights import ConvWeight

ENDINGS = (".pdf", ".svg", ".png", ".eps")
KINDS = ("parameters", "history", "filters")
Kind = Literal["parameters", "history", "filters"]
# Validation errors of this many dB stand for iterates that have overflowed.
OVERFLOWN = 1e3
# With more pictures than this, the axis counts them instead of naming them.
MANY_NAMES = 24


@dataclass(frozen=True)
class History:
    """The validations of a training run, as `Trained.history` has them."""

    columns: dict[str, Array]


Size = tuple[float, float] | None
# Draws what was given, in a size, and says what could not be drawn as it is.
Drawing = Callable[[Sequence["Given"], Size, Say], Any]


@dataclass(frozen=True)
class Given:
    """One of the things to draw.

    Attributes
    ----------
    name
        Its name in the figure.
    content
        What it is: results, a model, a dictionary, an array; None if nothing can be drawn of it.
    what
        A clause that says what it is, for messages.
    is_named
        Whether the user chose its name.
    methods
        The names that the user chose for its methods; empty if none.
    """

    name: str
    content: Any
    what: str
    is_named: bool = False
    methods: dict[str, str] = field(default_factory=dict)


def _warn(text: str) -> None:
    warn(text, stacklevel=3)


def plot(
    files: Any,
    out: str | os.PathLike[str] | None = None,
    *,
    kind: Kind | None = None,
    labels: Sequence[str] = (),
    size: tuple[float, float] | None = None,
    overwrite: bool = False,
    say: Say = _warn,
) -> Any:
    """Draw a figure of results, models, dictionaries or codes.

    What is drawn depends on the files, which must all be of one of these kinds:

    - comparisons and reports of `cuista test` for sparse coding: the NMSE by layer, with a panel for each SNR;
    - reports on perturbed matrices: the NMSE by the level of perturbation;
    - reports on pictures: the PSNR and SSIM of each picture;
    - models: their step sizes, thresholds and momentum by layer, or what `kind` says;
    - checkpoints: the history of the training;
    - dictionaries, convolutional weights, and problems of compressive sensing: a mosaic of the filters;
    - arrays of recovered codes, the last of which holds the true ones: x̂ against x, or both by entry if there is one
      sample only.

    Parameters
    ----------
    files
        A file or a sequence of them. In their place may stand what they hold: a `Model`, an array, and so on.
    out
        The figure's file, which ends in .pdf, .svg, .png or .eps; if None, the figure is only returned. The same
        results give the same bytes.
    kind
        What to draw of models: `parameters`, `history` (the validation error by step and stage), or `filters`; the
        last also for bare arrays of filters (s₁, s₂, F) or (P, F).
    labels
        The names in the figure: one for each file, or one for each name in the legend.
    size
        The width and height in inches. By default the figure is as wide as a column of a journal if it has one panel,
        as wide as a page if it has more, and as high as it takes.
    overwrite
        Whether `out` may exist already.
    say
        Called with each note about what cannot be drawn as it is; by default, it becomes a warning.

    Returns
    -------
    The `matplotlib.figure.Figure`.

    Raises
    ------
    MissingLibraryError
        If matplotlib is not installed.
    InputError
        If `out` has another ending, if the files are of different kinds or cannot be drawn, if the number of labels is
        wrong, or if the panels do not fit into the size.
    FileError
        If a file cannot be read, or if `out` cannot be written.
    """
    ending = "" if out is None else Path(out).suffix.lower()
    if out is not None:
        if ending not in ENDINGS:
            raise InputError(f"{out} has no ending of a figure; expected a name ending in {', '.join(ENDINGS)}")
        storage.check_writable(out, overwrite=overwrite)
    if size is not None and not all(0.5 <= side <= 100 for side in size):
        raise InputError(
            f"the size is {size[0]:g}×{size[1]:g} inches; expected a width and a height from 0.5 to 100", option="size"
        )
    is_one = isinstance(files, str | os.PathLike) or not isinstance(files, Sequence)
    with drawing.styled():
        given = _opened([files] if is_one else files, kind)
        figure = _drawing_for(given, kind)(_labelled(given, labels), size, say)
        if out is not None:
            with storage.replacing(out, overwrite=overwrite) as file:
                storage.write_checked(file, _encoded(figure, ending))
    return figure


def _encoded(figure: Any, ending: str) -> bytes:
    """The bytes of a figure's file, without a date, so that the same results give the same bytes."""
    encoded = io.BytesIO()
    metadata = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}.get(ending)
    figure.savefig(encoded, format=ending[1:], metadata=metadata)
    if ending == ".eps":
        return re.sub(rb"%%CreationDate: .*\n", b"", encoded.getvalue(), count=1)
    return encoded.getvalue()


# -- what is drawn of what --------------------------------------------------------------------------------------------


def _opened(files: Sequence[Any], kind: Kind | None) -> list[Given]:
    """What the files hold, named after the files; by whole paths where two files have the same name."""
    if not files:
        raise InputError("there is nothing to draw; expected at least one file")
    given = []
    for number, file in enumerate(files, 1):
        if isinstance(file, np.ndarray):
            given.append(
                Given(f"array {number}", as_numbers(file, f"array {number}"), f"an array of shape {file.shape}")
            )
        elif not isinstance(file, str | os.PathLike):
            given.append(Given(f"{type(file).__name__} {number}", file, f"a {type(file).__name__}"))
        elif storage.is_cuista(file):
            found = storage.kind_of(file)
            content = _read(file, found)
            on_encoder = content is None and found == "cuista-report"
            what = "a report on an encoder" if on_encoder else f"a {found} file"
            given.append(Given(os.fspath(file), content, what))
        else:
            names = ("D", "d", "fs") if kind == "filters" else ("x",)
            array = as_numbers(storage.load_array(file, *names), os.fspath(file))
            given.append(Given(os.fspath(file), array, "a file of arrays"))
    given = [replace(each, what=f"{each.name} is {each.what}") for each in given]
    stems = _short([each.name for each in given])
    return [replace(each, name=stem) for each, stem in zip(given, stems, strict=True)]


def _read(path: str | os.PathLike[str], kind: str) -> Any:
    """What one of cuista's files holds, or None if nothing can be drawn of it."""
    readers: dict[str, Callable[[Any], Any]] = {
        "cuista-comparison": Comparison.load,
        "cuista-robustness": Robustness.load,
        "cuista-report": _report,
        "cuista-dictionary": Dictionary.load,
        "cuista-conv-weight": ConvWeight.load,
        "cuista-sensing": Sensing.load,
        CHECKPOINT: _checkpoint,
        **dict.fromkeys(Trained.kinds, load),
    }
    return readers[kind](path) if kind in readers else None


def _report(path: str | os.PathLike[str]) -> Report | PictureReport | None:
    """The report in a file, or None if it is one on an encoder, of which there is no figure."""
    record = storage.read(path, "cuista-report")
    arrays, attributes = record.arrays, record.attributes
    with storage.complete(path):
        if "nmse_db" in arrays:
            return Report(**{name: arrays[name] for name in Report.__dataclass_fields__})
        if "ssim" in arrays:
            pictures, methods = (tuple(map(str, attributes[name])) for name in ("pictures", "methods"))
            return PictureReport(pictures, methods, (), arrays["psnr_db"], arrays["ssim"], {}, {})
    return None


def _checkpoint(path: str | os.PathLike[str]) -> History:
    """The history so far of an interrupted run. Its file does not say what was measured."""
    record = storage.read(path, CHECKPOINT)
    with storage.complete(path):
        stage, step, error = record.arrays["state/history"].T
    return History({"stage": stage, "step": step, "error_db": error})


def _drawing_for(given: Sequence[Given], kind: Kind | None) -> Drawing:
    """The function that draws all of these.

    Raises
    ------
    InputError
        If they are to be drawn in different ways, or one of them not at all.
    """
    found = []
    for each in given:
        drawings = _drawings_of(each.content)
        if kind not in drawings:
            if not drawings:
                raise InputError(
                    f"{each.what}, of which there is no figure; expected comparisons, reports, models, dictionaries or "
                    "codes"
                )
            possible = " or ".join(name for name in drawings if name)
            raise InputError(
                f"{each.what}, of which there is no figure of {kind}; expected "
                f"{possible or 'no kind, because what is drawn of it is always the same'}",
                option="kind",
            )
        found.append(drawings[kind])
    if len(set(found)) > 1:
        raise InputError(
            f"{', '.join(each.what for each in given)}; they are drawn in different ways: draw a figure of each kind"
        )
    return found[0]


def _drawings_of(content: Any) -> dict[Kind | None, Drawing]:
    """The functions that can draw this, by kind; the one for None is the default."""
    if isinstance(content, Trained):
        filters: dict[Kind | None, Drawing] = {"filters": _filters} if _filters_in(content) else {}
        return {None: _parameters, "parameters": _parameters, "history": _history, **filters}
    if isinstance(content, History):
        return {None: _history, "history": _history}
    if _filters_in(content):
        return {None: _filters, "filters": _filters}
    if isinstance(content, np.ndarray):
        return {None: _codes, "filters": _filters}
    drawings: dict[type, Drawing] = {
        Comparison: _nmse,
        Report: _nmse,
        Robustness: _robustness,
        PictureReport: _picture_reports,
    }
    return {None: drawings[type(content)]} if type(content) in drawings else {}


# -- names ------------------------------------------------------------------------------------------------------------


def _labelled(given: Sequence[Given], labels: Sequence[str]) -> list[Given]:
    """The things to draw, with the labels as their names, or as the names of the methods of a single one."""
    if not labels:
        return list(given)
    methods = _methods_of(given[0].content) if len(given) == 1 else []
    wanted, taken = [each.name for each in given], len(given)
    if isinstance(given[-1].content, np.ndarray) and len(given) > 1 and given[-1].content.ndim < 3:
        wanted, taken = wanted[:-1], taken - 1  # the truth, which is the last, has no name in the figure
    if methods:
        wanted = [title(method) for method in methods]
    if len(labels) != len(wanted):
        raise InputError(
            f"the number of labels is {len(labels)}; expected {len(wanted)}, in the order of {', '.join(wanted)}",
            option="labels",
        )
    if methods:
        return [replace(given[0], methods=dict(zip(methods, labels, strict=True)))]
    renamed = [replace(each, name=label, is_named=True) for each, label in zip(given, labels, strict=False)]
    return [*renamed, *given[taken:]]


def _methods_of(content: Any) -> list[str]:
    """The different methods of which something holds results."""
    if isinstance(content, Comparison | Robustness):
        return list(dict.fromkeys(result.method for result in content.results))
    return list(content.methods) if isinstance(content, PictureReport) else []


def _names_of(each: Given, given: Sequence[Given]) -> dict[str, str]:
    """The name in the legend of each method of one of the given things."""
    methods = _methods_of(each.content)
    if len(given) == 1:
        return each.methods or dict(zip(methods, _short(list(map(title, methods))), strict=True))
    if each.is_named and len(methods) == 1:
        return {methods[0]: each.name}
    return {method: f"{title(method)}, {each.name}" for method in methods}


def _short(names: Sequence[str]) -> list[str]:
    """File names without their folders and endings, if these still differ; other names as they are."""
    stems = [
        Path(name).stem if Path(name).suffix in (".h5", ".npy", ".npz", ".mat", ".ckpt") else name for name in names
    ]
    return stems if len(set(stems)) == len(stems) else list(names)


def title(method: str) -> str:
    """The name of a method in a figure."""
    net, *forms = method.split(":")
    if net in NETWORKS:
        return " ".join([NETWORKS[net].title, *(f"({form})" for form in forms)])
    return method.upper() if method in SOLVERS else method


# -- curves -----------------------------------------------------------------------------------------------------------


def _nmse(given: Sequence[Given], size: Size, say: Say) -> Any:
    """The NMSE by layer or iteration, with a panel for each SNR."""
    by_snr: dict[float | None, list[Curve]] = {}
    lengths = [
        len(result.nmse_db)
        for each in given
        for result in (each.content.results if isinstance(each.content, Comparison) else [each.content])
    ]
    for each in given:
        if isinstance(each.content, Report):
            nmse = each.content.nmse_db
            by_snr.setdefault(None, []).append(Curve(each.name, np.arange(len(nmse)), nmse))
            continue
        names = _names_of(each, given)
        for result in each.content.results:
            nmse = result.nmse_db if result.has_iterates else np.full(max(lengths), result.nmse_db[-1])
            curve = Curve(names[result.method], np.arange(len(nmse)), nmse, dotted=not result.has_iterates)
            by_snr.setdefault(result.snr_db, []).append(curve)
    titles = ["" if snr is None else _snr(snr) for snr in by_snr]
    return _curves(list(by_snr.values()), titles, size, say, "layer or iteration", "NMSE (dB)")


def _snr(snr_db: float) -> str:
    return "no noise" if np.isinf(snr_db) else f"SNR {snr_db:g} dB"


def _curves(panels: Sequence[Sequence[Curve]], titles: Sequence[str], size: Size, say: Say, x: str, y: str) -> Any:
    """Panels of curves against whole numbers, with the same axes."""
    curves = [curve for panel in panels for curve in panel]
    looks = drawing.looks_of([curve.name for curve in curves])
    sheet = Sheet(len(panels), size)
    for panel, own, text in zip(sheet.panels, panels, titles, strict=True):
        sheet.title(panel, text)
        drawing.draw_curves(panel, own, looks, say)
        panel.xaxis.get_major_locator().set_params(integer=True)
    return sheet.finish(x, y, drawing.handles_of(looks, [curve.name for curve in curves if curve.dotted]), say)


def _robustness(given: Sequence[Given], size: Size, say: Say) -> Any:
    """The NMSE by the level of perturbation, its mean over the matrices."""
    sheet, curves = Sheet(1, size), []
    for each in given:
        names = _names_of(each, given)
        for result in each.content.results:
            curves.append(Curve(names[result.method], each.content.sigmas, result.mean_db))
    looks = drawing.looks_of([curve.name for curve in curves])
    drawing.draw_curves(sheet.panels[0], curves, looks, say)
    return sheet.finish("σ of the perturbation", "mean NMSE (dB)", drawing.handles_of(looks), say)


def _picture_reports(given: Sequence[Given], size: Size, say: Say) -> Any:
    """The PSNR and the SSIM of each picture by each method."""
    pictures = given[0].content.pictures
    curves: dict[str, list[Curve]] = {"PSNR (dB)": [], "SSIM": []}
    at = np.arange(1, len(pictures) + 1)
    for each in given:
        if each.content.pictures != pictures:
            raise InputError(f"{each.what} on other pictures than the first; expected reports on the same pictures")
        names = _names_of(each, given)
        for number, method in enumerate(each.content.methods):
            curves["PSNR (dB)"].append(Curve(names[method], at, each.content.psnr_db[:, number]))
            curves["SSIM"].append(Curve(names[method], at, each.content.ssim[:, number]))
    looks = drawing.looks_of([curve.name for curve in curves["SSIM"]])
    sheet = Sheet(2, size, same_y=False)
    for panel, (quantity, own) in zip(sheet.panels, curves.items(), strict=True):
        drawing.draw_curves(panel, own, {name: {**style, "linestyle": "none"} for name, style in looks.items()}, say, 1)
        panel.set_ylabel(quantity)
        if len(pictures) <= MANY_NAMES:
            panel.set_xticks(at, [drawing.folded(Path(name).stem, 18) for name in pictures], rotation=90)
        else:
            panel.xaxis.get_major_locator().set_params(integer=True)
    handles = drawing.handles_of({name: {**style, "linestyle": "none"} for name, style in looks.items()})
    return sheet.finish("picture", "", handles, say)


def _parameters(given: Sequence[Given], size: Size, say: Say) -> Any:
    """The parameters of models by layer, with a panel for each.

    Of parameters that differ by coordinate or filter, the mean is drawn, and thin lines for the least and the greatest.
    """
    panels: dict[str, list[Curve]] = {}
    for each in given:
        network = each.content.network
        left_out = []
        for name, value in network.parameters.items():
            rows = network.ops.to_numpy(value).reshape(len(value), -1)
            if len(value) != network.layers or np.ndim(value) > 2:
                left_out.append(name.replace("_", " "))
                continue
            edges = (rows.min(axis=1), rows.max(axis=1)) if rows.shape[1] > 1 else (None, None)
            curve = Curve(each.name, np.arange(1, len(rows) + 1), rows.mean(axis=1), *edges)
            panels.setdefault(name.replace("_", " "), []).append(curve)
        if left_out:
            say(f"{each.name}: not drawn, because it is not a number for each layer: {', '.join(sorted(left_out))}")
    if not panels:
        raise InputError(
            "none of these models has parameters for each layer; expected at least one that has, or another kind of "
            "figure, such as history",
            option="kind",
        )
    looks = drawing.looks_of([each.name for each in given])
    sheet = Sheet(len(panels), size, same_y=False)
    for panel, (name, curves) in zip(sheet.panels, panels.items(), strict=True):
        drawing.draw_curves(panel, curves, looks, say)
        panel.set_ylabel(name)
        panel.xaxis.get_major_locator().set_params(integer=True)
        low, high = panel.dataLim.intervaly
        if name == "threshold" and 0 < 10 * low < high:
            drawing.logarithmic(panel.yaxis)
    drawn = {curve.name for curves in panels.values() for curve in curves}
    handles = drawing.handles_of({name: style for name, style in looks.items() if name in drawn})
    return sheet.finish("layer", "", handles, say)


def _history(given: Sequence[Given], size: Size, say: Say) -> Any:
    """The validation error by training step, with a panel for each run, whose stages are shaded by turns."""
    runs = []
    for each in given:
        columns = each.content.columns if isinstance(each.content, History) else each.content.history
        if not columns or not len(next(iter(columns.values()))):
            say(f"{each.what} without a history of training, and is left out")
        else:
            runs.append((each, columns))
    if not runs:
        raise InputError("none of these files has a history of training; expected a model that was trained here")
    measures = {name: name.removesuffix("_db") for _, columns in runs for name in columns if name.endswith("_db")}
    words = [word if word in ("loss", "error") else word.upper() for word in dict.fromkeys(measures.values())]
    searched = ["step" not in columns for _, columns in runs]
    sheet = Sheet(len(runs), size)
    for panel, (each, columns) in zip(sheet.panels, runs, strict=True):
        (error,) = (column for name, column in columns.items() if name in measures)
        error = np.where(error >= OVERFLOWN, np.inf, error)
        # A search has no stages; its steps are its evaluations.
        stage = np.asarray(columns.get("stage", np.zeros(len(error))))
        step = np.asarray(columns.get("step", np.arange(1, len(error) + 1)))
        drawing.draw_stages(panel, each.name, stage, step, error, say)
        sheet.title(panel, each.name if len(given) > 1 or each.is_named else "")
    x = "evaluation" if all(searched) else "training step, or evaluation" if any(searched) else "training step"
    return sheet.finish(x, f"validation {' or '.join(words)} (dB)", [], say)


# -- codes and filters ------------------------------------------------------------------------------------------------


def _codes(given: Sequence[Given], size: Size, say: Say) -> Any:
    """Recovered codes against the true ones, which are the last: by value, or by entry if there is one sample only.

    Of complex codes, the moduli are drawn. The NMSE above them counts errors of the phase, too.
    """
    *estimates, truth = given
    if not estimates:
        raise InputError(
            f"{truth.what} alone; expected files of recovered codes, and then the file of the true ones. An array of "
            "filters is drawn as such only if that is asked for",
            option="kind",
        )
    x = in_double(truth.content)
    for each in given:
        if each.content.shape != x.shape:
            turned = "; it looks transposed" if each.content.shape == x.shape[::-1] else ""
            raise InputError(f"{each.what} of shape {each.content.shape}; expected {x.shape}, as the truth has{turned}")
        if not each.content.size:
            raise InputError(f"{each.what} without entries; expected codes")
        check_finite(each.content, each.name)
    is_single = x.size in x.shape
    are_complex = any(np.iscomplexobj(each.content) for each in given)
    sheet = Sheet(len(estimates), size, aspect=0.75 if is_single else 0.95)
    handles: list[tuple[Any, str]] = []
    for panel, each in zip(sheet.panels, estimates, strict=True):
        estimate = in_double(each.content)
        nmse = f"NMSE {estimate_nmse_db(estimate, x):.1f} dB".replace("-", "−") if x.any() else "the truth is zero"
        sheet.title(panel, f"{each.name}: {nmse}")
        draw = drawing.draw_stems if is_single else drawing.draw_scatter
        values = (np.abs(codes) if are_complex else codes for codes in (estimate, x))
        handles = draw(panel, *(each.ravel() for each in values)) or handles
    if is_single:
        return sheet.finish("entry", "modulus" if are_complex else "value", handles, say)
    if are_complex:
        return sheet.finish("true modulus |x|", "recovered modulus", handles, say)
    return sheet.finish("true value x", "recovered value", handles, say)


def _filters_in(content: Any) -> dict[str, Array]:
    """The filters (s₁, s₂, F) that something holds, as they are stored, by what they are; empty if it holds none."""
    if isinstance(content, Dictionary):
        return {"": content.D}
    sensing = content if isinstance(content, Sensing) else getattr(content, "sensing", None)
    weight = content if isinstance(content, ConvWeight) else getattr(content, "weight", None)
    if isinstance(weight, ConvWeight):
        return {"dictionary": weight.dictionary.D, "weight": weight.W}
    return {"": sensing.dictionary.D} if isinstance(sensing, Sensing) and sensing.has_dictionary else {}


def _filters(given: Sequence[Given], size: Size, say: Say) -> Any:
    """Mosaics of filters, on one scale of grey whose middle is 0."""
    mosaics = {}
    for each in given:
        held = {"": _bare_filters(each)} if isinstance(each.content, np.ndarray) else _filters_in(each.content)
        for part, D in held.items():
            named = each.name if len(given) > 1 or each.is_named else ""
            mosaics[", ".join(filter(None, (named, part)))] = D
    sheet = Sheet(len(mosaics), size, aspect=1.0, same_y=False, same_x=False)
    largest = max(float(np.abs(D).max()) for D in mosaics.values())
    for panel, (name, D) in zip(sheet.panels, mosaics.items(), strict=True):
        sheet.title(panel, name)
        image = drawing.draw_mosaic(panel, D, largest)
    bar = sheet.figure.colorbar(image, ax=sheet.panels, location="bottom", shrink=0.6, aspect=30)
    bar.set_label("value of a filter's pixel")
    return sheet.finish("", "", [], say, beneath=0.5)


def _bare_filters(each: Given) -> Array:
    """The filters in an array (s₁, s₂, F), or (P, F) with the square filters as columns."""
    D = as_real(each.content, f"the array of {each.name}")
    side = round(len(D) ** 0.5) if D.ndim else 0
    if D.ndim == 2 and side * side == len(D):
        D = D.reshape(side, side, -1)
    if D.ndim != 3 or not D.size:
        raise InputError(
            f"{each.what} of shape {D.shape}; expected filters (s₁, s₂, F), or square ones as the columns of (P, F)"
        )
    check_finite(D, each.name)
    return D


# -- pictures ---------------------------------------------------------------------------------------------------------


def in_a_row(pictures: Mapping[str, Array]) -> Array:
    """Pictures (channels, H, W) with values from 0 to 1 in a row, each under its caption.

    The pixels of the pictures stay as they are. If a caption is wider than its picture, the picture gets a white margin
    on its right.

    Returns
    -------
    The picture (channels, H′, W′), whose last H rows are those of the pictures.
    """
    image, draw, font_of = (
        library(f"PIL.{module}", "images", "captions are drawn with Pillow")
        for module in ("Image", "ImageDraw", "ImageFont")
    )
    first = next(iter(pictures.values()))
    font = font_of.load_default(size=min(max(11, max(first.shape[1:]) // 18), 48))
    boxes = [font.getbbox(caption) for caption in pictures]
    height = max(bottom for *_, bottom in boxes) + 6
    strips = []
    for (caption, pixels), (*_, right, _) in zip(pictures.items(), boxes, strict=True):
        width = max(pixels.shape[2], right + 6)
        strip = image.new("L", (width, height), 255)
        draw.Draw(strip).text((max((width - right) // 2, 3), 2), caption, font=font, fill=0)
        above = np.broadcast_to(np.asarray(strip) / 255, (len(pixels), height, width))
        margin = ((0, 0), (0, 0), (0, width - pixels.shape[2]))
        strips.append(np.concatenate([above, np.pad(pixels, margin, constant_values=1.0)], axis=1))
    return np.concatenate(strips, axis=2)
