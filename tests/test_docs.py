"""The documents: they cover commands, options, networks, names and file formats, and what they show works."""

from __future__ import annotations

import itertools
import json
import re
import shlex
from pathlib import Path

import click
import numpy as np
import pytest
from cuista.cli import cli
from cuista.cli.routing import Routed
from cuista.cli.spellings import (
    IGNORED,
    IGNORED_FLAGS,
    IN_DENOISING,
    IN_DICTIONARIES,
    IN_ENCODERS,
    IN_ROBUST,
    RENAMED,
    SWITCHES,
    TASKS,
    TESTING,
)
from PIL import Image

import cuista
from cuista.networks import CONV_NETWORKS, NETWORKS

OF_TASKS = {**IN_DICTIONARIES, **IN_DENOISING, **IN_ENCODERS, **IN_ROBUST}
ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = [README, *sorted(path for path in DOCS.rglob("*.md") if not {"_build", "gallery"} & set(path.parts))]
GUIDES = [path for path in PAGES if path.parent.name == "guide"]
COMMANDS, ORIGINAL, FILES, NETWORKS_PAGE, PYTHON = (
    (DOCS / "reference" / f"{name}.md").read_text() for name in ("commands", "original", "files", "networks", "python")
)


def name_of(path):
    return str(path.relative_to(ROOT))


def blocks(path, language=""):
    """The code blocks of a page in a language; blocks without a language are typed into a terminal."""
    fences = re.findall(r"^```(\S*)\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)
    return [body for kind, body in fences if kind == language]


def lines(path):
    """The arguments of each cuista command in a page."""
    for line in itertools.chain.from_iterable(body.splitlines() for body in blocks(path)):
        if line.startswith("cuista "):
            yield shlex.split(line, comments=True)[1:]


def tasks_of(command):
    """The commands that a command routes to, by task."""
    return command.tasks if isinstance(command, Routed) else {}


def all_commands():
    """Every command by its path, as `train --task denoise`."""
    for name, command in cli.commands.items():
        yield name, command
        for task, routed in tasks_of(command).items():
            yield f"{name} --task {task}", routed


def options(*commands):
    return {
        spelling
        for command in commands
        for parameter in command.params
        for spelling in (*parameter.opts, *parameter.secondary_opts)
        if spelling.startswith("-")
    } | {"-h", *(["--task"] if any(isinstance(command, Routed) for command in commands) else [])}


def visible(command):
    shown = (parameter for parameter in command.params if not getattr(parameter, "hidden", False))
    return {spelling for parameter in shown for spelling in parameter.opts}


# -- the reference --------------------------------------------------------------------------------------------------


def test_every_command_has_its_section_in_the_reference_and_no_other_has():
    paths = [path for path, _ in all_commands()]
    assert sorted(re.findall(r"^## cuista (.+)$", COMMANDS, re.MULTILINE)) == sorted(paths)
    assert sorted(re.findall(r"^\.\. command:: (.+)$", COMMANDS, re.MULTILINE)) == sorted(paths)


def test_every_option_says_what_it_does():
    in_reference = {option for _, command in all_commands() for option in visible(command)}
    for path, command in all_commands():
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{path} {parameter.opts[0]}"
                # A command may hide an option, to keep its help short, only if another command shows the option.
                assert not parameter.hidden or parameter.opts[0] in in_reference, f"{path} {parameter.opts[0]}"


def test_the_options_that_a_section_speaks_of_are_those_of_its_command():
    for section in re.split(r"^## cuista ", COMMANDS, flags=re.MULTILINE)[1:]:
        path = section.splitlines()[0]
        command = cli.commands[path.split()[0]]
        known = options(command, *tasks_of(command).values()) | set(re.findall(r"--[\w-]+", command.help))
        for option in re.findall(r"`(--?[a-zA-Z][\w-]*)", section):
            assert option in known, f"{path}: {option}"


def test_every_public_name_stands_in_the_python_reference():
    documented = re.findall(r"^\.\. auto\w+:: (\w+)$", PYTHON, re.MULTILINE)
    assert sorted(documented) == sorted(name for name in cuista.__all__ if name != "__version__")


def test_every_network_stands_in_the_table_of_networks():
    for name in (*NETWORKS, *CONV_NETWORKS):
        assert f"\n| `{name}` |" in NETWORKS_PAGE, name


def test_every_kind_of_file_stands_among_the_file_formats():
    sources = [*(ROOT / "cuista").rglob("*.py"), *(ROOT / "cli").glob("*.py")]
    kinds = {kind for path in sources for kind in re.findall(r'"(cuista-[a-z][a-z-]*[a-z])"', path.read_text())}
    assert {"cuista-problem", "cuista-model"} <= kinds
    for kind in kinds:
        assert f"`{kind}`" in FILES, kind


def test_every_room_of_the_house_stands_on_the_page_that_describes_it():
    page = (DOCS / "house.md").read_text()
    for path in (ROOT / "cuista").iterdir():
        if path.suffix == ".py" and not path.stem.startswith("__"):
            assert f"`{path.stem}`" in page, path.stem
        elif (path / "__init__.py").exists():
            assert f"`{path.name}/`" in page, path.name


def test_every_spelling_of_the_original_stands_in_its_page():
    for name in (*RENAMED, *OF_TASKS, *SWITCHES, *IGNORED, *IGNORED_FLAGS, *TASKS, *TESTING):
        assert f"`{name}`" in ORIGINAL, name


def test_every_spelling_leads_to_an_option_that_exists():
    assert {*RENAMED.values(), *OF_TASKS.values()} <= options(*(command for _, command in all_commands()))


# -- what the pages show --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_command_line_is_one_that_cuista_understands(path):
    for words in lines(path):
        command = cli.commands[words[0]]
        task = words[words.index("--task") + 1] if "--task" in words else None
        routed = [routed for name, routed in tasks_of(command).items() if task in (None, name)]
        for word in words[1:]:
            if re.match(r"--?[a-zA-Z]", word):
                assert word.partition("=")[0] in options(command, *routed), " ".join(words)


SMALL = {"250": "20", "500": "40", "1000": "30", "16": "4", "512": "24"}
FEWER = {
    "gen-problem --task robust": ("--count", 1, "--samples", 30, "--sigma", 0, "--sigma", 0.01),
    "train": ("-T", 2, "--max-steps", 3, "--batch", 8, "--validation-batch", 40),
    "train --task encoder": ("-T", 2, "--max-steps", 2, "--matrices", 2, "--validation-batch", 2),
    "train --task denoise": (
        "-T",
        2,
        "--max-steps",
        2,
        "--matrix-steps",
        2,
        "--batch",
        2,
        "--validation-batch",
        2,
        "--crop",
        24,
    ),
    "train --task cs": ("-T", 2, "--max-steps", 2, "--batch", 8, "--validation-batch", 40),
    "train --task cs --net conv-csc": ("-T", 2, "--matrix-steps", 2, "--batch", 2, "--crop", 24),
    "train --task robust": ("--max-steps", 2, "--batch", 2, "--matrices", 2, "--validation-batch", 2),
    "learn-dict images.h5": ("--steps", 2, "--crop", 24),
    "learn-dict patches.h5": ("--steps", 2, "--batch", 64),
    "compare": ("-T", 2, "--samples", 50),
    "prepare-images": ("--split", "6,2,2"),
}


def follow(run, path):
    """Type in everything that a page shows, with small sizes."""
    for words in lines(path):
        if words[0] == "quickstart":
            continue  # tests of the command line run it
        task, net = (f" {o} {words[words.index(o) + 1]}" if o in words else "" for o in ("--task", "--net"))
        keys = (words[0] + task + net, words[0] + task, " ".join(words[:2]))
        fewer = next((FEWER[key] for key in keys if key in FEWER), ())
        run(*(SMALL.get(word, word).replace("$SLURM_ARRAY_TASK_ID", "3") for word in words), *fewer)


def test_the_readme_can_be_followed_from_an_empty_folder(run):
    follow(run, README)
    assert np.load("x.npy").shape == np.load("fista.npy").shape == (30, 40)


@pytest.fixture
def belongings(tmp_path, monkeypatch):
    """The files of a reader of the guides: matrices, measurements, pictures, and the files of quickstart."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    A = cuista.normalize_columns(generator.standard_normal((20, 40)))
    np.save("A.npy", A)
    np.save("y.npy", generator.standard_normal((5, 20)))
    for name, rows, columns in (("A", 20, 40), ("y", 5, 20)):  # complex, in pairs of columns
        np.savetxt(f"{name}.csv", generator.standard_normal((rows, 2 * columns)), delimiter=",")
    Path("photos").mkdir()
    for number in range(10):
        ramp = np.add.outer(generator.uniform(0, 2, 48).cumsum(), generator.uniform(0, 2, 40).cumsum())
        Image.fromarray((ramp * 1.2 + 20).astype(np.uint8)).save(f"photos/{number}.png")
    Image.open("photos/0.png").save("in.png")
    Path("holiday").mkdir()
    Image.open("photos/1.png").save("holiday/1.png")
    Image.open("photos/2.png").save("frames.tif", save_all=True, append_images=[Image.open("photos/3.png")])
    np.save("Phi.npy", generator.standard_normal((5, 16)))
    np.save("measured.npy", generator.standard_normal((19200, 5)))
    for name, measured, count in (("codes", "measurements", 1000), ("other-codes", "other-measurements", 50)):
        codes = generator.standard_normal((count, 40)) * (generator.random((count, 40)) < 0.1)
        np.save(f"{name}.npy", codes)
        np.save(f"{measured}.npy", codes @ A.T)
    mask = {"kind": "fourier", "shape": [48, 40], "mask": {"kind": "random", "rate": 0.5}}
    basis = {"kind": "wavelet", "shape": [48, 40], "wavelet": "haar", "level": 2}
    description = {"kind": "composition", "signals": "real", "outer": mask, "inner": basis}
    Path("mri.json").write_text(json.dumps(description))
    Path("quickstart").mkdir()
    problem = cuista.Problem(A)
    cuista.Model.new(problem, cuista.solve_exact(problem.A), layers=2).save("quickstart/model.h5")


@pytest.mark.slow
@pytest.mark.parametrize("path", GUIDES, ids=name_of)
def test_every_guide_can_be_followed_from_an_empty_folder(run, belongings, path):
    if path.stem == "clusters":  # which begins where others end
        cuista.Problem(np.load("A.npy")).save("problem.h5")
    follow(run, path)


@pytest.mark.parametrize("path", [path for path in PAGES if blocks(path, "python")], ids=name_of)
def test_the_python_of_a_page_runs(path, belongings, monkeypatch):
    recipes = {
        "Model": cuista.FastRecipe(batch=16, validation_batch=100, layer_steps=2, max_steps=3, matrix_steps=2),
        "Denoiser": cuista.Denoising.recipes["fast"](batch=2, validation_batch=2, max_steps=2),
        "Reconstructor": cuista.CompressiveSensing.recipes["fast"](batch=8, validation_batch=40, max_steps=2),
        "PictureReconstructor": cuista.PictureSensing.recipes["fast"](batch=2, validation_batch=2, matrix_steps=2),
        "RobustModel": cuista.RobustRecipe(max_steps=2, validation_matrices=2),
        "EncoderModel": cuista.EncoderRecipe(max_steps=2),
    }
    train = cuista.train
    monkeypatch.setattr(cuista, "train", lambda model, **rest: train(model, recipes[type(model).__name__], **rest))
    code = "\n".join(blocks(path, "python"))
    sizes = {"250, 500": "20, 40", "(7, 7), 64": "(3, 3), 4", "Recipe()": "Recipe(steps=2, crop=24)"}
    sizes |= {
        "patches=16": "patches=4",
        "(16, 16), 64": "(4, 4), 5",
        ", 512)": ", 24, cuista.AtomRecipe(steps=2, batch=64))",
        "random_state=0": "layers=1, recipe=cuista.FastRecipe(batch=16, layerwise=False, max_steps=3)",
    }
    for full, small in {
        **sizes,
        "least=96": "least=24",
        'Denoising("pictures.h5"': 'Denoising("pictures.h5", 24',
        'PictureSensing("pictures.h5"': 'PictureSensing("pictures.h5", 24',
    }.items():
        code = code.replace(full, small)
    code = re.sub(r"cuista\.(Model\.new|choose_ridge|denoising_weight)\(([^)]*)\)", r"cuista.\1(\2, layers=2)", code)
    exec(code, {})


# -- links and pictures ---------------------------------------------------------------------------------------------


def anchors(path):
    """The names by which links refer to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.M | re.S), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"], ids=name_of)
def test_links_and_pictures_lead_somewhere(path):
    text = re.sub(r"^```.*?^```$|`[^`\n]*`", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith("https://"):
            file, _, anchor = target.partition("#")
            page = (path.parent / file).resolve() if file else path
            assert page.exists(), target
            assert not anchor or anchor in anchors(page), target


def test_the_readme_is_of_one_page_and_opens_with_the_two_commands():
    text = README.read_text()
    first, second, *_ = re.findall(r"^pip install .*$", text, re.MULTILINE)
    assert first == "pip install . && cuista quickstart"
    assert second == "pip install -e '.[test]' && pytest"
    assert len(text.splitlines()) <= 150
    assert "y = A x + ε" in "\n".join(text.splitlines()[:10])


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_no_placeholder_is_left(path):
    assert not re.search(r"@[A-Z][A-Z-]+@", path.read_text())
