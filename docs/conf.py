"""How the documentation is built: `sphinx-build -W docs docs/_build/html`, with the extra `[docs]` installed."""

from __future__ import annotations

import re
from typing import Any

import click
from cuista.cli import cli
from cuista.cli.routing import Routed
from docutils import nodes
from sphinx.application import Sphinx
from sphinx_click.ext import ClickDirective

from cuista.version import __version__

project = "cuista"
author = "The cuista authors"
copyright = "2026, the cuista authors"
release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_click",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "examples"]
default_role = "py:obj"
smartquotes = False  # -- is of options
myst_heading_anchors = 3

autodoc_member_order = "bysource"
# What the rooms of the house call on each other, which is no business of a user.
INTERNAL = "identity, record, store, stored, from_record, signals, sample_weighted, add_noise"
autodoc_default_options = {"members": True, "exclude-members": INTERNAL}
autodoc_type_aliases = {name: name for name in ("Array", "ArrayLike", "DTypeLike", "NDArray")}
toc_object_entries = False
napoleon_numpy_docstring = True
napoleon_google_docstring = False
napoleon_use_rtype = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 90

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "capture_repr": (),
    "download_all_examples": False,
    "show_signature": False,
    "write_computation_times": False,
    "remove_config_comments": True,
}

html_theme = "furo"
html_title = f"cuista {release}"
html_static_path = ["_static"]
html_css_files = ["cuista.css"]
html_show_sphinx = False
html_copy_source = False


def find_command(words: str) -> click.Command:
    """The command with this path on the command line, as `gen-problem` or `train --task denoise`."""
    name, _, task = words.partition(" --task ")
    command = cli.commands[name]
    return command.tasks[task] if task and isinstance(command, Routed) else command


class CommandDirective(ClickDirective):  # type: ignore[misc]
    """Usage and options of a command of cuista, under a heading that the page gives it."""

    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        self.options = {"prog": f"cuista {self.arguments[0]}", "nested": "none"}
        (section,) = super().run()
        return list(section.children[1:])

    def _load_module(self, module_path: str) -> click.Command:
        return find_command(module_path)


def plain(_app: Sphinx, *arguments: Any) -> None:
    """Keep reStructuredText from reading |x| as a substitution, x* as emphasis and W_ as a link."""
    lines = arguments[-1]
    lines[:] = [re.sub(r"(\||\*|_(?!\w))", r"\\\1", line) for line in lines]


def short_signature(_app: Sphinx, *arguments: Any) -> tuple[str | None, ...]:
    """The signature with type aliases by their plain names."""
    return tuple(text and re.sub(r"TypeAliasForwardRef\('(\w+)'\)", r"\1", text) for text in arguments[-2:])


def short_options(_app: Sphinx, _context: click.Context, lines: list[str]) -> None:
    """Defaults and choices as sentences, not as lists of fields."""
    for field, words in (("default", "Default"), ("options", "One of")):
        lines[:] = [re.sub(rf"^( *):{field}: (``)?'?(.*?)'?(``)?$", rf"\1{words}: ``\3``", line) for line in lines]


def dashes(_app: Sphinx, document: nodes.document, _name: str) -> None:
    """Put a dash between a parameter and its description, which without smart quotes is two hyphens."""
    for text in [text for text in document.findall(nodes.Text) if text == " -- "]:
        text.parent.replace(text, nodes.Text(" – "))


def skip(_app: Sphinx, _what: str, _name: str, member: Any, *_: Any) -> bool | None:
    """Leave out what Python itself says of a named tuple's fields; None leaves the decision to others."""
    return True if str(getattr(member, "__doc__", "")).startswith("Alias for field number") else None


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.add_directive("command", CommandDirective)
    # The pages describe the commands more fully than -h has room for.
    app.connect("sphinx-click-process-description", lambda _app, _context, lines: lines.clear())
    app.connect("sphinx-click-process-options", short_options)
    app.connect("autodoc-process-docstring", plain, priority=1)
    app.connect("autodoc-process-signature", short_signature)
    app.connect("autodoc-skip-member", skip)
    app.connect("doctree-resolved", dashes)
