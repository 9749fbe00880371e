"""The project's structure: which modules may import which, and whether the README describes everything."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cuista.cli import cli
from cuista.cli.spellings import IGNORED, IGNORED_FLAGS, RENAMED, SWITCHES, TASKS, TESTING

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
LIBRARY = [*sorted((ROOT / "cuista").rglob("*.py")), ROOT / "kernels" / "__init__.py"]
MAY_IMPORT_CUPY = ("cuista/device.py", "cuista/ops/cuda.py", "kernels/__init__.py")

# From the ground up: a module may import only from those before it.
FLOORS = [
    "kernels",
    "version",
    "errors",
    "checks",
    "counter",
    "device",
    "parallel",
    "ops",
    "storage",
    "data",
    "weights",
    "networks",
    "metrics",
    "solvers",
    "model",
    "training",
    "tasks",
    "evaluation",
    "original",
]


def imports(path):
    """Every module that a file imports, at its top or within functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, path
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from names if node.module == "cuista" else [node.module]


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_downwards_and_only_the_command_line_talks(path):
    place = str(path.relative_to(ROOT))
    room = place.removeprefix("cuista/").split("/")[0].removesuffix(".py")
    for name in imports(path):
        top, *rest = name.split(".")
        assert top not in ("click", "torch", "tensorflow", "jax"), name
        assert top != "cupy" or place in MAY_IMPORT_CUPY, name
        if top == "cuista" and room not in ("__init__", "__main__") and rest[0] != room:
            assert FLOORS.index(rest[0]) < FLOORS.index(room), f"{room} imports {name}"
    calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    assert not any(isinstance(call.func, ast.Name) and call.func.id == "print" for call in calls)


def test_importing_cuista_leaves_heavy_libraries_alone():
    heavy = {"scipy", "h5py", "matplotlib", "PIL", "skimage"}
    code = f"import sys, cuista, cuista.cli; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_no_pickle_can_be_loaded():
    for path in LIBRARY:
        text = path.read_text()
        assert "import pickle" not in text
        assert "allow_pickle=True" not in text
        assert all("allow_pickle=False" in call for call in re.findall(r"np\.load\([^)]*\)", text))


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_every_command_and_option_stands_in_the_readme(command):
    section = re.search(rf"^### `cuista {command}[ `].*?(?=^##)", README, re.MULTILINE | re.DOTALL)
    assert section, f"no section for {command}"
    for parameter in cli.commands[command].params:
        for name in (*parameter.opts, *parameter.secondary_opts):
            if name.startswith("-"):
                assert re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", section[0]), f"{command} {name}"


def test_every_spelling_of_the_original_stands_in_the_readme():
    for name in (*RENAMED, *SWITCHES, *IGNORED, *IGNORED_FLAGS, *TASKS, *TESTING):
        assert f"`{name}`" in README, name


def test_every_spelling_leads_to_an_option_that_exists():
    options = {name for command in cli.commands.values() for parameter in command.params for name in parameter.opts}
    assert set(RENAMED.values()) <= options


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    small = code.replace("random_matrix(250, 500)", "random_matrix(20, 40)").replace(
        "cuista.train(model", "cuista.train(model, cuista.FastRecipe(batch=16, layer_steps=2, max_steps=5)"
    )
    assert small != code
    exec(small, {})


def test_the_readme_is_complete_and_its_pictures_exist():
    assert not re.search(r"@[A-Z]+@", README)
    for target in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README):
        assert (ROOT / target).is_file()


def test_the_readme_opens_with_the_two_commands():
    first, second = re.findall(r"^pip install .*$", README, re.MULTILINE)[:2]
    assert first == "pip install . && cuista quickstart"
    assert second == "pip install -e '.[test]' && pytest"
