"""Figures: what is drawn of which file, that it can be read, and that nothing is left out without a word."""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from cuista.cli import common
from PIL import Image
from skimage.color import deltaE_ciede2000, rgb2lab

import cuista
from cuista.data.dictionary import Dictionary, random_dictionary
from cuista.errors import InputError
from cuista.evaluation import drawing
from cuista.evaluation.comparison import Comparison, Result
from cuista.evaluation.drawing import Curve
from cuista.evaluation.figures import in_a_row, plot
from cuista.evaluation.robustness import Robustness, RobustResult
from cuista.metrics import PictureReport

NETS = ["alista", "lista", "lista-cp", "lista-cpss", "tilista", "lamp", "liht", "alista-at", "hyperlista"]
METHODS = [*NETS, *(f"{net}:untied" for net in NETS[1:5]), "ista", "fista", "amp", "nets/a-model-with-a-long-name.h5"]


def comparison(methods=3, snrs=1, changed=()):
    """A made-up comparison, in which some curves may be replaced."""
    results = []
    for snr in [np.inf, *range(60, 0, -5)][:snrs]:
        for number, method in enumerate(METHODS[:methods]):
            curve = dict(changed).get(method, -(1.0 + number) * np.arange(17))
            results.append(Result(method, float(snr), curve, True, 3, 10, 1.0, 1e-5))
    results.append(Result("omp", np.inf, np.array([0.0, -30]), False, 0, 0, float("nan"), 1e-5))
    return Comparison(tuple(results), {})


def silent(text):
    raise AssertionError(f"unexpected note: {text}")


def texts_of(figure):
    """All texts of a figure that are drawn."""
    found = figure.findobj(matplotlib.text.Text)
    return [text for text in found if text.get_text().strip() and text.get_visible()]


def words_of(figure):
    return {text.get_text().replace("\n", " ") for text in texts_of(figure)}


# -- colours and curves -----------------------------------------------------------------------------------------------

# The matrices of Machado, Oliveira, Fernandes, "A physiologically-based model for simulation of color vision
# deficiency" (2009), for the complete lack of one kind of cone. They apply to linear red, green and blue.
SEEN = {
    "by all": np.eye(3),
    "without long-wave cones": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "without middle-wave cones": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "without short-wave cones": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def linear(colour):
    values = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def least_difference(colours, matrix):
    """The least difference of two of the colours in CIEDE2000, as someone sees them."""
    seen = np.clip([matrix @ linear(colour) for colour in colours], 0, 1)
    encoded = np.where(seen <= 0.0031308, seen * 12.92, 1.055 * seen ** (1 / 2.4) - 0.055)
    lab = rgb2lab(encoded[None])[0]
    return min(deltaE_ciede2000(a, b) for a, b in combinations(lab, 2))


@pytest.mark.parametrize("matrix", SEEN.values(), ids=SEEN)
def test_any_two_colours_can_be_told_apart_by_everybody(matrix):
    assert len(drawing.COLOURS) <= 8
    assert least_difference(drawing.COLOURS, np.array(matrix)) > 13


def test_the_usual_colours_of_matplotlib_would_not_do():
    usual = list(matplotlib.colors.TABLEAU_COLORS.values())
    assert min(least_difference(usual, np.array(matrix)) for matrix in SEEN.values()) < 5


def test_every_colour_stands_out_from_the_paper():
    for colour in drawing.COLOURS:
        assert 1.05 / (linear(colour) @ [0.2126, 0.7152, 0.0722] + 0.05) > 2.3


def test_no_two_curves_look_the_same():
    looks = [tuple(str(value) for value in drawing.look(number).values()) for number in range(64)]
    assert len(set(looks)) == 64
    assert len({look["color"] for look in map(drawing.look, range(8))}) == 8


@pytest.fixture
def panel():
    with drawing.styled():
        yield drawing.Sheet(1).panels[0]


def drawn(panel, *values, say=silent):
    x = np.arange(len(values[0]))
    curves = [Curve(f"curve {number}", x, np.asarray(y, float)) for number, y in enumerate(values)]
    drawing.draw_curves(panel, curves, drawing.looks_of([curve.name for curve in curves]), say)
    return panel.get_lines()


def test_curves_under_others_are_wider_and_have_their_markers_elsewhere(panel):
    falling = -np.arange(17.0)
    below, beside, above = drawn(panel, falling, 5 * falling, falling + 1e-3)
    assert below.get_linewidth() >= above.get_linewidth() + 1.5
    assert beside.get_linewidth() == above.get_linewidth() == drawing.WIDTH
    assert below.get_zorder() < above.get_zorder()
    assert not set(below.get_markevery()) & set(above.get_markevery())


def test_what_is_infinite_is_drawn_on_the_edge_and_said(panel):
    notes = []
    lines = drawn(panel, [0, -5, -np.inf, -np.inf], [0, np.inf, np.nan, -9], say=notes.append)
    assert notes == [
        "curve 0: 2 of 4 points are −∞ dB, and drawn as ▼ on the lower edge",
        "curve 1: 1 of 4 points are ∞ dB, and drawn as ▲ on the upper edge",
        "curve 1: 1 of 4 points are not numbers, and cannot be drawn",
    ]
    arrows = {line.get_marker(): line for line in lines if line.get_marker() in "v^" and line.get_linestyle() == "None"}
    assert arrows["v"].get_xdata().tolist() == [2, 3]
    assert set(arrows["v"].get_ydata()) == {0}
    assert arrows["^"].get_xdata().tolist() == [1]
    # A point that no line leads to has a marker.
    assert {0, 3} <= set(lines[2].get_markevery())


# -- files ------------------------------------------------------------------------------------------------------------


def test_a_pdf_holds_its_text_in_truetype_fonts(tmp_path):
    plot(comparison(), tmp_path / "a.pdf", say=silent)
    content = (tmp_path / "a.pdf").read_bytes()
    assert b"/Type3" not in content
    assert b"/CIDFontType2" in content  # which is TrueType
    assert b"/FontFile2" in content  # and embedded
    assert b"/ToUnicode" in content
    assert b"/CreationDate" not in content


def test_an_svg_holds_its_text_as_text(tmp_path):
    labels = ["_one", "$2 and $3", "λ & <é>", "four"]
    plot(comparison(), tmp_path / "a.svg", labels=labels, say=silent)
    found = re.findall(r"<text[^>]*>(.*?)</text>", (tmp_path / "a.svg").read_text())
    assert {"_one", "$2 and $3", "λ &amp; &lt;é&gt;", "four", "NMSE (dB)", "layer or iteration"} <= set(found)


def test_an_eps_holds_its_text_in_truetype_fonts_and_no_date(tmp_path):
    plot(comparison(1), tmp_path / "a.eps", size=(2, 2), say=silent)
    content = (tmp_path / "a.eps").read_bytes()
    assert set(re.findall(rb"/FontType \d+", content)) == {b"/FontType 42"}
    assert b"%%CreationDate" not in content


@pytest.mark.parametrize("ending", ["pdf", "svg", "png"])
def test_the_same_results_give_the_same_bytes_whatever_the_users_style(tmp_path, ending, monkeypatch):
    plot(comparison(1), tmp_path / f"a.{ending}", size=(2, 2))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    with matplotlib.rc_context({"font.size": 20, "lines.linewidth": 7, "axes.facecolor": "red"}):
        plot(comparison(1), tmp_path / f"b.{ending}", size=(2, 2))
    assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()


@pytest.mark.parametrize(
    ("methods", "snrs", "size"),
    [
        (1, 1, None),
        (17, 1, (3.3, 4)),
        (3, 3, (3.3, 2.4)),
        (4, 5, None),
        pytest.param(8, 12, (7, 6), marks=pytest.mark.slow),
    ],
)
def test_everything_can_be_read_at_its_size(methods, snrs, size):
    figure = plot(comparison(methods, snrs), size=size, say=silent)
    width, height = figure.get_size_inches()
    assert (width, height) == (size or (width, height))
    assert min(text.get_fontsize() for text in texts_of(figure)) >= 7
    figure.draw_without_rendering()
    whole = figure.bbox.padded(1)
    boxes = [panel.get_tightbbox() for panel in figure.axes]
    (legend,) = figure.legends
    for box in (*boxes, legend.get_window_extent(), *(text.get_window_extent() for text in figure.texts)):
        assert (whole.x0 <= box.x0) & (whole.y0 <= box.y0) & (box.x1 <= whole.x1) & (box.y1 <= whole.y1)
    for one, other in combinations([*boxes, legend.get_window_extent()], 2):
        assert not one.padded(-1).overlaps(other.padded(-1))
    assert len(legend.get_texts()) == methods + 1
    assert len({(*panel.get_xlim(), *panel.get_ylim()) for panel in figure.axes}) == 1


def test_a_size_that_is_too_small_is_refused_with_one_that_does():
    with pytest.raises(InputError, match=r"4 panels and their labels do not fit into 3.3×1 inches.*about") as refused:
        plot(comparison(3, 4), size=(3.3, 1))
    enough = re.search(r"about ([\d.]+)×([\d.]+)", str(refused.value))
    plot(comparison(3, 4), size=(float(enough[1]), float(enough[2])), say=silent)
    with pytest.raises(InputError, match=r"from 0\.5 to 100"):
        plot(comparison(), size=(0, 3))


# -- kinds of figures -------------------------------------------------------------------------------------------------


@pytest.fixture
def trained(small_model):
    """A model with a history of three stages."""
    small_model.history = {
        "stage": np.array([0, 0, 1, 1, 2, 2]),
        "step": np.array([0, 10, 0, 20, 0, 5]),
        "nmse_db": np.array([-1.0, -2, -3, -4, -5, -6]),
    }
    return small_model


def test_a_history_runs_on_from_stage_to_stage(trained, small_problem, tmp_path):
    trained.save(tmp_path / "m.h5")
    figure = plot(tmp_path / "m.h5", kind="history", say=silent)
    (panel,) = figure.axes
    steps = np.concatenate([line.get_xdata() for line in panel.get_lines()])
    assert steps.tolist() == [0, 10, 10, 30, 30, 35]
    assert {"validation NMSE (dB)", "training step", "stage", "1", "2", "3"} <= words_of(figure)
    untrained = cuista.Model.new(small_problem, layers=2)
    notes = []
    assert len(plot([trained, untrained], kind="history", say=notes.append).axes) == 1
    assert "without a history of training, and is left out" in notes[0]
    with pytest.raises(InputError, match="none of these files has a history"):
        plot(untrained, kind="history", say=notes.append)


def test_an_interrupted_run_shows_its_history(small_model, quick_recipe, tmp_path):
    seen = []

    def stop(at):
        seen.append(at)
        if at.stage_number == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cuista.train(small_model, quick_recipe, out=tmp_path / "m.h5", progress=stop, checkpoint_seconds=0)
    assert "training step" in words_of(plot(tmp_path / "m.h5.ckpt", say=silent))


def test_parameters_by_layer_have_panels_of_their_own_and_the_rest_is_said(small_model, small_problem):
    other = cuista.Model.new(small_problem, net="lista-cp", layers=3, per_coordinate=True)
    notes = []
    figure = plot([small_model, other], labels=["a", "b"], say=notes.append)
    assert notes == ["b: not drawn, because it is not a number for each layer: weight"]
    assert {"step size", "threshold", "layer", "a", "b"} <= words_of(figure)
    with pytest.raises(InputError, match="none of these models has parameters for each layer"):
        plot(cuista.Model.new(small_problem, net="hyperlista", layers=3), say=notes.append)


def test_codes_are_drawn_against_the_true_ones(rng, tmp_path):
    x = rng.standard_normal((30, 40)) * (rng.random((30, 40)) < 0.2)
    good, bad = x + 0.01 * (x != 0), np.roll(x, 1, axis=1)
    np.save(tmp_path / "good.npy", good)
    figure = plot([tmp_path / "good.npy", bad, x], labels=["good", "bad"], say=silent)
    first, second = figure.axes
    assert first.get_title().startswith("good: NMSE −")
    points = [line for line in second.get_lines() if len(line.get_xdata()) > 2]
    assert sum(len(line.get_xdata()) for line in points) == np.count_nonzero((x != 0) | (bad != 0))
    assert {"only recovered", "only true", "zero in both", "true value x"} <= words_of(figure)
    single = plot([good[:1], x[:1]], say=silent)
    assert {"entry", "value", "recovered"} <= words_of(single)
    turned = plot([x * np.exp(1j * rng.uniform(0, 6, x.shape)), x], say=silent)  # the moduli agree, the phases do not
    assert {"true modulus |x|", "recovered modulus"} <= words_of(turned)
    assert "NMSE −" not in turned.axes[0].get_title()
    assert {"entry", "modulus"} <= words_of(plot([1j * good[:1], 1j * x[:1]], say=silent))
    for wrong, said in (([good, x.T], "looks transposed"), ([x], "and then the file of the true ones")):
        with pytest.raises(InputError, match=said):
            plot(wrong)
    with pytest.raises(InputError, match="NaN"):
        plot([np.where(x == 0, np.nan, x), x])


def test_a_mosaic_shows_every_filter_as_it_is_stored(tmp_path):
    D = random_dictionary((3, 2), 5)
    Dictionary(D).save(tmp_path / "d.h5")
    np.save(tmp_path / "D.npy", D)
    for figure in (plot(tmp_path / "d.h5", say=silent), plot(tmp_path / "D.npy", kind="filters", say=silent)):
        (image,) = figure.axes[0].get_images()
        pixels = np.ma.filled(image.get_array(), np.nan)
        np.testing.assert_array_equal(pixels[:3, :2], D[..., 0])
        assert np.isfinite(pixels).sum() == D.size
        assert image.get_clim() == (-np.abs(D).max(), np.abs(D).max())


def test_reports_have_figures(small_model, tmp_path):
    x, y = small_model.problem.sample(20)
    cuista.evaluate(small_model, x, y).save(tmp_path / "sc.h5", {})
    figure = plot([tmp_path / "sc.h5", comparison(1)], labels=["mine", "other"], say=silent)
    assert {"mine", "ALISTA, other", "no noise"} <= words_of(figure)
    values = np.array([[20.0, 30], [21, np.inf]])
    pictures = PictureReport(("a/b.png", "c.png"), ("noisy", "net"), (), values, values / 40, {}, {})
    pictures.save(tmp_path / "p.h5", {})
    notes = []
    figure = plot(tmp_path / "p.h5", say=notes.append)
    assert {"PSNR (dB)", "SSIM", "b", "c", "noisy", "net"} <= words_of(figure)
    assert "net: 1 of 2 points are ∞ dB" in notes[0]
    levels = np.array([0, 0.01])
    robust = Robustness(
        levels, (RobustResult("alista", -np.ones((2, 3)), 4), RobustResult("fista 4", -levels[:, None], 4)), {}
    )
    assert {"ALISTA", "fista 4", "σ of the perturbation"} <= words_of(plot(robust, say=silent))


def test_what_cannot_be_drawn_is_refused(small_model, small_problem, tmp_path):
    small_problem.save(tmp_path / "p.h5")
    for files, options, said in (
        (tmp_path / "p.h5", {}, "is a cuista-problem file, of which there is no figure"),
        ([small_model, comparison()], {}, "they are drawn in different ways"),
        (small_model, {"kind": "filters"}, "no figure of filters; expected parameters or history"),
        (comparison(), {"kind": "history"}, "always the same"),
        (
            comparison(),
            {"labels": ["a"]},
            "number of labels is 1; expected 4, in the order of ALISTA, LISTA, LISTA-CP, OMP",
        ),
        ([], {}, "nothing to draw"),
        (small_model, {"out": tmp_path / "a.txt"}, "no ending of a figure"),
    ):
        with pytest.raises(InputError, match=re.escape(said)):
            plot(files, **options)


# -- the command line -------------------------------------------------------------------------------------------------


def test_plot_takes_labels_and_a_size(run):
    ended = [("alista", np.where(np.arange(17) > 9, -np.inf, -np.arange(17.0)))]
    comparison(2, 1, ended).save("c.h5")
    run("plot", "c.h5", "--label", "A", "--label", "B", "--label", "C", "--size", "8.4x6cm", "-o", "a.png")
    with Image.open("a.png") as image:
        np.testing.assert_allclose(image.size, (8.4 / 2.54 * 300, 6 / 2.54 * 300), atol=1)
    assert "Note: A (no noise): 7 of 17 points are −∞ dB, and drawn as ▼ on the lower edge.\nWrote a.png." in run.errors
    for size in ("3", "3.3x", "axb", "3.3cmx2in", "-3x2"):
        run("plot", "c.h5", "--size", size, "-o", "b.png", fails=2)
        assert "expected a width and a height" in run.errors
    run("plot", "c.h5", "--size", "1x1", "-o", "b.png", fails=1)
    assert "(--size)" in run.errors
    run("plot", "c.h5", "--label", "A", "-o", "b.png", fails=1)
    assert "(--label)" in run.errors
    assert not Path("b.png").exists()


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_table_fits_the_terminal_and_lacks_nothing(monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    names = [f"{method} 40 dB" for method in METHODS]
    rows = [[layer, *(float(100 * layer + number) for number in range(len(names)))] for layer in range(3)]
    table = common.table(["layer", *names], rows)
    assert max(map(len, table.splitlines())) <= width
    blocks = [block.splitlines() for block in table.split("\n\n")]
    assert len(blocks) == 1 or all("layer" in "".join(block) for block in blocks)
    assert "".join("".join(names).split()) in "".join("".join(columns(block[:-3])) for block in blocks).replace(
        "layer", ""
    )
    values = [float(value) for layer in range(3) for block in blocks for value in block[layer - 3].split()[1:]]
    assert values == [value for row in rows for value in row[1:]]


def columns(lines):
    """The texts of the columns of a heading, whose lines are read from top to bottom."""
    edges = [match.end() for match in re.finditer(r"\S+(?: \S+)*", lines[-1])]
    begin = 0
    for end in edges:
        yield "".join(line[begin:end].replace(" ", "") for line in lines)
        begin = end


# -- pictures in a row, and Python ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 60, 200), (1, 9, 7)])
def test_pictures_in_a_row_stay_as_they_are_under_their_captions(rng, shape):
    pictures = {"input": rng.random(shape), "4 times the difference": rng.random(shape)}
    row = in_a_row(pictures)
    above, below = row[:, : -shape[1]], row[:, -shape[1] :]
    at = 0
    for pixels in pictures.values():
        found = next(i for i in range(at, row.shape[2]) if (below[:, :, i : i + shape[2]] == pixels).all())
        assert (below[:, :, at:found] == 1).all()
        assert above[:, :, found : found + shape[2]].min() < 0.5
        at = found + shape[2]
    assert (below[:, :, at:] == 1).all()


def test_compare_and_plot_are_at_hand_in_python_and_imported_late(small_problem, quick_recipe, tmp_path):
    assert {"compare", "plot"} <= set(dir(cuista)) & set(cuista.__all__)
    code = "import sys, cuista; print([name for name in sys.modules if 'figures' in name or 'comparison' in name])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    found = cuista.compare(
        small_problem,
        ["alista"],
        solvers=["fista"],
        layers=2,
        samples=50,
        recipe=quick_recipe,
        folder=tmp_path / "nets",
    )
    assert [result.method for result in found.results] == ["alista", "fista"]
    assert (found.about["recipe"], found.about["samples"], found.about["device"]) == ("fast", 50, "cpu")
    found.save(tmp_path / "c.h5")
    assert {"ALISTA", "FISTA"} <= words_of(cuista.plot(tmp_path / "c.h5"))
    for wrong, said in (((), "nothing to compare"), ((["nonet"],), "no network 'nonet'")):
        with pytest.raises(InputError, match=said):
            cuista.compare(small_problem, *wrong)
    with pytest.raises(InputError, match="no solver 'best'"):
        cuista.compare(small_problem, solvers=["best"])
    with pytest.warns(UserWarning, match="not a number for each layer: weight"):
        cuista.plot(cuista.Model.new(small_problem, net="lista-cp", layers=2))
