"""The project's structure: which modules may import which, and what must not be imported at all."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LIBRARY = [*sorted((ROOT / "cuista").rglob("*.py")), *sorted((ROOT / "kernels").glob("*.py"))]
MAY_IMPORT_CUPY = ("cuista/device.py", "cuista/ranks.py", "cuista/ops/cuda.py", "kernels/__init__.py")

# From the ground up: a module may import only from those before it.
FLOORS = [
    "version",
    "errors",
    "messages",
    "checks",
    "summary",
    "counter",
    "device",
    "parallel",
    "ranks",
    "kernels",
    "ops",
    "storage",
    "operators",
    "data",
    "weights",
    "networks",
    "metrics",
    "quality",
    "solvers",
    "model",
    "training",
    "tasks",
    "evaluation",
    "original",
    "datasets",
    "sklearn",
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
