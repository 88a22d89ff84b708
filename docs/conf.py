"""How the documentation is built: `make docs` writes docs/_build/html."""

from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import typer
from typer.cli import get_docs_for_click

from nestscope.plugin.cli.app import app as verbs

project = "nestscope"
author = "the nestscope developers"
release = installed_version("nestscope")
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
]
html_theme = "furo"
html_title = f"nestscope {release}"
html_show_copyright = False
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
# Links to files of the repository that are no pages: traces, scripts, the README.
suppress_warnings = ["myst.xref_missing", "myst.header"]

autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True


def _tell_whole_sentences(command: Any) -> None:
    """Let lists of commands have the first sentence of each, which would be cut otherwise."""
    for one in getattr(command, "commands", {}).values():
        one.short_help = " ".join((one.help or "").split("\n\n")[0].split())
        _tell_whole_sentences(one)


def _write_commands() -> None:
    """Write the reference of the commands from their own help."""
    command = typer.main.get_command(verbs)
    _tell_whole_sentences(command)
    context = command.make_context("nestscope", ["--help"], resilient_parsing=True)
    text = get_docs_for_click(obj=command, ctx=context, name="nestscope", title="Commands")
    folder = Path(__file__).parent / "reference" / "generated"
    folder.mkdir(exist_ok=True)
    (folder / "commands.md").write_text(text, "utf-8")


_write_commands()
