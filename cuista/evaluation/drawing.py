"""How figures look: colours, panels with shared axes, curves that stay visible under others, and one legend beneath.

The text of a figure is 7 to 8 points high at the size at which the figure is drawn, which is the size in print.
"""

from __future__ import annotations

import contextlib
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cuista.checks import Array, library
from cuista.errors import InputError

# Seven of the ten colours of Petroff, "Accessible color sequences for data visualization" (2021), and black. Also with
# protanopia, deuteranopia or tritanopia, any two of them differ by more than 13 in CIEDE2000.
COLOURS = ("#3f90da", "#bd1f01", "#000000", "#e76300", "#832db6", "#94a4a2", "#a96b59", "#717581")
MARKERS = "osD^vPX*"
# The lines of the first eight curves, of the next eight, and so on.
LINES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (5, 1, 1, 1)), (0, (2, 1)))
DOTTED = (0, (1, 1.5))
WIDTH, MARKER = 1.2, 3.4  # of lines and markers, in points
# Curves are taken to lie under one another if they differ by less than this share of the panel's height.
CLOSE = 0.01
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.linewidth": 0.6,
    "grid.color": "0.88",
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "lines.linewidth": WIDTH,
    "lines.markersize": MARKER,
    "savefig.dpi": 300,
    # Text stays text, in TrueType fonts that are embedded. No name is taken for a formula.
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "cuista",
    "text.parse_math": False,
}
# With more points than this, a scatter is drawn as an image.
MANY_POINTS = 2000
# The least width and height of a panel without its labels, and the width with them that one has at least, and that is
# planned for if the size is free; in inches.
LEAST_PANEL, NARROWEST, PLANNED_WIDTH = (0.6, 0.6), 1.05, 1.65
# The widths of a column and of a page of a journal, in inches.
COLUMN, PAGE = 3.5, 7.0

Say = Callable[[str], None]


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Draw in this style, whatever the user's own settings of matplotlib, so that the same results look the same."""
    matplotlib = library("matplotlib", "plot", "figures are drawn with matplotlib")
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


@dataclass(frozen=True)
class Curve:
    """A curve of a panel.

    Attributes
    ----------
    name
        Its name in the legend.
    x, y
        Its points. Infinite ones are drawn as arrows on the edge of the panel, and a note says so.
    low, high
        The range of the values of which y is the mean, if there is one.
    dotted
        Whether y is a single value, which is the same for all x.
    """

    name: str
    x: Array
    y: Array
    low: Array | None = None
    high: Array | None = None
    dotted: bool = False


def look(number: int) -> dict[str, Any]:
    """The colour, marker and line of a curve; no two of the first 64 curves look the same."""
    turn, place = divmod(number, len(COLOURS))
    colour = COLOURS[place]
    return {
        "color": colour,
        "marker": MARKERS[(place + 3 * turn) % len(MARKERS)],
        "linestyle": LINES[turn % len(LINES)],
        "markerfacecolor": "white" if turn % 2 else colour,
    }


def looks_of(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """A look for each different name, in their order."""
    return {name: look(number) for number, name in enumerate(dict.fromkeys(names))}


def draw_curves(
    panel: Any, curves: Sequence[Curve], looks: Mapping[str, Mapping[str, Any]], say: Say, stride: int | None = None
) -> None:
    """Draw curves so that none is hidden.

    A curve that lies under others is wider than they are. Where there are many curves, or some lie under others, the
    markers of neighbouring ones are at different points: each curve has one at every point of `stride`, by default as
    many as leave about six.
    """
    depths = _depths(curves)
    infinite = sum(bool(np.isinf(curve.y).any()) for curve in curves)
    for number, (curve, depth) in enumerate(zip(curves, depths, strict=True)):
        style = dict(looks[curve.name])
        wider = depth * min(1.7, 6 / max(depths)) if depth else 0.0
        style |= {"linewidth": WIDTH + wider, "markersize": MARKER + wider, "zorder": 2 + number / len(curves)}
        few = len(curves) <= 3 and not any(depths)
        every = stride or (1 if few else max(1, min(len(curves), -(-len(curve.x) // 6))))
        known = np.isfinite(np.concatenate([[np.nan], curve.y, [np.nan]]))
        alone = known[1:-1] & ~known[:-2] & ~known[2:]  # no line leads to such a point
        style["markevery"] = sorted({*range(number % every, len(curve.x), every), *np.flatnonzero(alone).tolist()})
        if curve.dotted:
            style |= {"linestyle": DOTTED, "markevery": [-1]}
        panel.plot(curve.x, np.where(np.isfinite(curve.y), curve.y, np.nan), **style)
        for edge in (curve.low, curve.high):
            if edge is not None:
                panel.plot(curve.x, edge, color=style["color"], linewidth=0.5, linestyle=style["linestyle"])
        if np.isinf(curve.y).any():
            infinite -= 1  # each is smaller than those beneath it
        _draw_infinite(panel, curve, MARKER + 1 + min(1.5 * infinite, 6), style, say)


def _depths(curves: Sequence[Curve]) -> list[int]:
    """How many curves lie over each curve, of those that are drawn after it."""
    values = np.concatenate([curve.y[np.isfinite(curve.y)] for curve in curves] or [np.zeros(0)])
    near = CLOSE * float(np.ptp(values)) if values.size else 0.0
    depths = [0] * len(curves)
    for i in reversed(range(len(curves))):
        over = [depths[j] + 1 for j in range(i + 1, len(curves)) if _meet(curves[i], curves[j], near)]
        depths[i] = max(over, default=0)
    return depths


def _meet(a: Curve, b: Curve, near: float) -> bool:
    """Whether two curves lie on each other over more than half of the points that they share."""
    common = min(len(a.x), len(b.x))
    with np.errstate(invalid="ignore"):
        close = np.abs(a.y[:common] - b.y[:common]) <= near
    return 2 * int(close.sum()) > common


def _draw_infinite(panel: Any, curve: Curve, size: float, style: Mapping[str, Any], say: Say) -> None:
    """Draw the infinite points of a curve on the edges of the panel, and say so; NaN cannot be drawn."""
    title = panel.get_title().replace("\n", " ")
    where = f"{curve.name}{title and f' ({title})'}"
    own = {"color": style["color"], "zorder": 2 + style["zorder"], "markersize": size, "linestyle": "none"}
    for infinity, edge, marker, arrow in ((-np.inf, 0, "v", "▼ on the lower"), (np.inf, 1, "^", "▲ on the upper")):
        chosen = curve.y == infinity
        if not chosen.any():
            continue
        at = curve.x[-1:] if curve.dotted else curve.x[chosen]
        of = "its value is" if curve.dotted else f"{len(at)} of {len(curve.y)} points are"
        say(f"{where}: {of} {'−' if edge == 0 else ''}∞ dB, and drawn as {arrow} edge")
        panel.plot(
            at, np.full(len(at), edge), marker=marker, clip_on=False, transform=panel.get_xaxis_transform(), **own
        )
    missing = int(np.isnan(curve.y).sum())
    if missing:
        say(f"{where}: {missing} of {len(curve.y)} points are not numbers, and cannot be drawn")


class Sheet:
    """A figure of several panels, which are wrapped into rows and share their axes, over one legend.

    Parameters
    ----------
    count
        The number of panels.
    size
        The width and height in inches; if None, they follow from the panels and the legend.
    same_y, same_x
        Whether all panels share the axis.
    aspect
        The height of a panel relative to its width.
    """

    def __init__(
        self,
        count: int,
        size: tuple[float, float] | None = None,
        *,
        same_y: bool = True,
        same_x: bool = True,
        aspect: float = 0.75,
    ) -> None:
        from matplotlib.figure import Figure

        self.size = size
        self.width = size[0] if size else COLUMN if count == 1 else PAGE
        most = min(count, max(1, int(self.width / (NARROWEST if size and same_y else PLANNED_WIDTH))))
        choices = range(1, most + 1) if size else [most]

        def misfit(columns: int) -> float:
            """How far the panels are from the aspect, with about as much taken off as their labels take."""
            if size is None:
                return 0.0
            width, height = size[0] / columns - (0.35 if same_y else 0.65), (size[1] - 0.9) / -(-count // columns) - 0.3
            if width < LEAST_PANEL[0] or height < LEAST_PANEL[1]:
                return 100.0 - height
            return abs(float(np.log(height / width / aspect)))

        self.rows = -(-count // min(choices, key=misfit))
        self.columns = -(-count // self.rows)
        self.panel_height = min(max(aspect * self.width / self.columns, 1.3), 3.2)
        self.figure = Figure(figsize=size or (self.width, self.rows * self.panel_height), layout="constrained")
        grid = self.figure.subplots(self.rows, self.columns, sharex=same_x, sharey=same_y, squeeze=False)
        self.panels = list(grid.ravel()[:count])
        for spare in grid.ravel()[count:]:
            spare.remove()
        for panel in self.panels if same_y else ():
            panel.label_outer()
        for panel in self.panels[-self.columns :] if same_x else ():
            panel.tick_params(axis="x", labelbottom=True)

    def title(self, panel: Any, text: str) -> None:
        """Give a panel its title."""
        panel.set_title(self._folded(text))

    def _folded(self, text: str) -> str:
        """A text on as many lines as it takes to be no wider than a panel; letters are about 5 points wide."""
        return folded(text, max(int(72 * (self.width / self.columns - 0.3) / 5), 8))

    def finish(self, x: str, y: str, handles: Sequence[tuple[Any, str]], say: Say, beneath: float = 0.0) -> Any:
        """Label the axes, draw the legend, and return the figure.

        `y` is empty if the panels have labels of their own. What was drawn beneath the panels takes `beneath` inches.

        Raises
        ------
        InputError
            If the panels and the legend do not fit into the size.
        """
        for panel in self.panels[-self.columns :]:  # in the last row, or above a place that is empty
            panel.set_xlabel(self._folded(x))
        if len(self.panels) == 1:
            self.panels[0].set_ylabel(y or self.panels[0].get_ylabel())
        elif y:
            self.figure.supylabel(y, fontsize=8)
        beneath += self._legend(handles) if handles else 0.0
        # Each row has a title, and the last one labels of the x axis.
        if self.size is None:
            self.figure.set_size_inches(self.width, self.rows * (self.panel_height + 0.2) + 0.35 + beneath)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self.figure.draw_without_rendering()
        texts = list(dict.fromkeys(str(warning.message) for warning in caught))
        width, height = self.figure.get_size_inches()
        boxes = [panel.get_position() for panel in self.panels]
        if any("collapsed" in text for text in texts):
            missing = LEAST_PANEL  # of a panel that has no room at all
        else:
            missing = (
                LEAST_PANEL[0] - min(box.width for box in boxes) * width,
                LEAST_PANEL[1] - min(box.height for box in boxes) * height,
            )
        if max(missing) > 0:
            what = "The panel and its" if len(self.panels) == 1 else f"{len(self.panels)} panels and their"
            wider, higher = (self.columns * max(missing[0], 0), self.rows * max(missing[1], 0))
            least = np.ceil(10 * np.array([width + wider, max(height, beneath) + higher])) / 10
            raise InputError(
                f"{what} labels do not fit into {width:.3g}×{height:.3g} inches with text of 7 points; expected a size "
                f"of about {least[0]:g}×{least[1]:g}",
                option="size",
            )
        for text in texts:
            say(text)
        self.figure.set_layout_engine("none")  # writing the file would arrange it all over again
        return self.figure

    def _legend(self, handles: Sequence[tuple[Any, str]]) -> float:
        """Draw the legend beneath the panels, in as many columns as fit, and return its height in inches."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        canvas: Any = FigureCanvasAgg(self.figure)
        renderer, dpi = canvas.get_renderer(), self.figure.dpi
        lines = [handle for handle, _ in handles]
        for columns, length in [
            *((columns, 60) for columns in range(min(len(lines), 6), 0, -1)),
            (1, 40),
            (1, 25),
            (1, 12),
        ]:
            columns = -(-len(lines) // -(-len(lines) // columns))
            # Labels are set afterwards, because matplotlib leaves out those that begin with an underscore.
            legend = self.figure.legend(lines, ["x"] * len(lines), ncols=columns, loc="outside lower center")
            for text, (_, name) in zip(legend.get_texts(), handles, strict=True):
                text.set_text(folded(name, length))
            extent = legend.get_window_extent(renderer)
            if extent.width <= dpi * self.width:
                break
            legend.remove()
        return float(extent.height / dpi) + 0.1


def handles_of(looks: Mapping[str, Mapping[str, Any]], dotted: Sequence[str] = ()) -> list[tuple[Any, str]]:
    """The entries of a legend for these looks; the curves named in `dotted` have dotted lines."""
    from matplotlib.lines import Line2D

    return [
        (Line2D([], [], **{**style, **({"linestyle": DOTTED} if name in dotted else {})}), name)
        for name, style in looks.items()
    ]


def folded(text: str, length: int) -> str:
    """A text on lines of at most `length` characters."""
    lines = textwrap.wrap(text, length, break_on_hyphens=True) or [text]
    return "\n".join(lines)


# -- other panels -----------------------------------------------------------------------------------------------------


def logarithmic(axis: Any) -> None:
    """Make an axis logarithmic, with plain numbers as high as those of other axes."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis._set_axes_scale("log")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def draw_stages(panel: Any, name: str, stage: Array, step: Array, error: Array, say: Say) -> None:
    """Draw errors by step, each stage from its own first step on, with every other stage shaded and numbered above."""
    from matplotlib.ticker import FixedLocator

    stages, offset, middles = list(dict.fromkeys(stage.tolist())), 0.0, []
    xs = np.zeros(len(step))
    for number, one in enumerate(stages):
        own = stage == one
        xs[own] = offset + step[own]
        end = float(xs[own].max())
        if number % 2:
            panel.axvspan(offset, end, facecolor="0.93", edgecolor="none", zorder=0)
        middles.append((offset + end) / 2)
        offset = end
    finite = np.isfinite(error)
    for one in stages:
        own = (stage == one) & finite
        marker = "o" if own.sum() < 40 else ""
        panel.plot(xs[own], error[own], color=COLOURS[0], linewidth=1.0, marker=marker, markersize=1.8)
    _draw_infinite(panel, Curve(name, xs, error), MARKER + 1, {"color": COLOURS[0], "zorder": 2}, say)
    if len(stages) > 1:
        every = -(-len(stages) // 8)
        top = panel.secondary_xaxis("top")
        top.xaxis.set_major_locator(FixedLocator(middles[::every]))
        top.set_xticklabels([f"{int(one) + 1}" for one in stages[::every]])
        top.tick_params(length=0, pad=1)
        top.set_xlabel("stage", fontsize=7, labelpad=2)


def draw_scatter(panel: Any, estimate: Array, x: Array) -> list[tuple[Any, str]]:
    """Draw recovered entries against the true ones, and return the entries of the legend."""
    both, missed, false = (x != 0) & (estimate != 0), (x != 0) & (estimate == 0), (x == 0) & (estimate != 0)
    most = max(float(np.abs(x).max()), float(np.abs(estimate).max())) or 1.0
    panel.plot([-most, most], [-most, most], color="0.6", linewidth=0.6, zorder=1)
    handles = []
    names = {"non-zero in both": (both, 0, "o"), "only recovered": (false, 1, "x"), "only true": (missed, 2, "+")}
    for name, (chosen, colour, marker) in names.items():
        size = 3.0 if chosen.sum() < 500 else 1.5
        style = {"linestyle": "none", "marker": marker, "color": COLOURS[colour], "markeredgewidth": 0.6}
        # Each of many points would make the file large, so that they become an image.
        many = bool(chosen.sum() > MANY_POINTS)
        panel.plot(x[chosen], estimate[chosen], markersize=size, rasterized=many, **style)
        (handle,) = panel.plot([], [], markersize=3.5, **style)
        handles.append((handle, name))
    if ((x == 0) & (estimate == 0)).any():
        (handle,) = panel.plot(0, 0, linestyle="none", marker="s", color="0.5", markersize=3)
        handles.append((handle, "zero in both"))
    return handles


def draw_stems(panel: Any, estimate: Array, x: Array) -> list[tuple[Any, str]]:
    """Draw the entries of one recovered code and of the true one, and return the entries of the legend."""
    entries = np.arange(len(x))
    panel.axhline(0, color="0.6", linewidth=0.6, zorder=1)
    panel.vlines(entries[x != 0], 0, x[x != 0], color=COLOURS[0], linewidth=0.8)
    style = {"linestyle": "none", "markeredgewidth": 0.8}
    shown = {"markerfacecolor": "white", "color": COLOURS[0], "marker": "o", "markersize": 4}
    (true,) = panel.plot(entries[x != 0], x[x != 0], **style, **shown)
    on = estimate != 0
    (found,) = panel.plot(entries[on], estimate[on], color=COLOURS[1], marker="x", markersize=3.5, **style)
    return [(true, "true (zeros are not marked)"), (found, "recovered")]


def draw_mosaic(panel: Any, D: Array, largest: float) -> Any:
    """Draw filters (s₁, s₂, F) row by row, with white gaps, in grey from −largest to largest; return the image."""
    rows, columns, count = D.shape
    across = max(1, round((count * rows / columns) ** 0.5))
    down = -(-count // across)
    gap = 1
    mosaic = np.full((down * (rows + gap) - gap, across * (columns + gap) - gap), np.nan)
    for number in range(count):
        i, j = divmod(number, across)
        i, j = i * (rows + gap), j * (columns + gap)
        mosaic[i : i + rows, j : j + columns] = D[..., number]
    panel.set_axis_off()
    return panel.imshow(mosaic, cmap="gray", vmin=-largest, vmax=largest, interpolation="nearest")
