"""Settings of the site that `make site` builds of these pages: Sphinx, MyST for Markdown and notebooks, and furo.

Two things are written at build: the options of `reference/options.md`, from the code, and `notebooks/`, from the
notebooks that `make notebooks` has executed; where it has not, they are shown without their outputs.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

import exvo
from exvo.__main__ import USES, about
from exvo.settings import ENTRY_POINTS
from exvo.text import default_text

ROOT = Path(__file__).resolve().parent.parent

project = "exvo"
author = project_copyright = "The exvo developers"
version = release = exvo.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}
myst_heading_anchors = 4
nb_execution_mode = "off"
nb_merge_streams = True
nb_output_stderr = "remove"

default_role = "literal"
napoleon_custom_sections = ["Returns"]  # sentences, not a type and a colon
autodoc_member_order = "bysource"
autodoc_type_aliases = {name: name for name in ("Clip", "Predictions", "Profile")}
nitpick_ignore_regex = [("py:.*", r"(Clip|Predictions|Profile|TypeAliasForwardRef|exvo\.networks.*)")]
nitpick_ignore_regex += [("py:.*", r"(os|pd|np|npt|pandas|numpy|collections|pathlib)\..*")]

html_theme = "furo"
html_title = "exvo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = html_show_sourcelink = html_copy_source = False

OPTIONS = "<!-- the options -->"
NOT_RUN = re.compile(r"^```(\w+) not-run$", re.MULTILINE)


def setup(app: Sphinx) -> None:
    """Fetches the notebooks, and has pages completed as they are read."""
    fetch_notebooks()
    app.connect("source-read", complete)


def fetch_notebooks() -> None:
    """Puts the notebooks beside these pages, executed where `make notebooks` has done so since they were changed."""
    place = ROOT / "docs" / "notebooks"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    for source in sorted((ROOT / "notebooks").glob("*.ipynb")):
        executed = ROOT / "output" / "notebooks" / source.name
        fresh = executed.is_file() and executed.stat().st_mtime >= source.stat().st_mtime
        shutil.copyfile(executed if fresh else source, place / source.name)


def complete(app: Sphinx, page: str, source: list[str]) -> None:
    """Writes the options into their page, marks blocks that CI does not run, and links the notebooks of the site."""
    text = NOT_RUN.sub(r"```{code-block} \1\n:class: not-run\n", source[0])
    text = text.replace("](../../notebooks/", "](../notebooks/")
    source[0] = text.replace(OPTIONS, options()) if OPTIONS in text else text


def options() -> str:
    """The options of all entry points in Markdown: those of `train` as what they have beyond `extract`, and so on."""
    names = [name for names in USES.values() for name in names]
    shared = {"train": ("main", "train", "transfer")}
    names = [name for name in sorted(names, key=lambda name: name != "extract") if name not in ("main", "transfer")]
    return "\n\n".join(section(shared.get(name, (name,))) for name in names)


def section(names: tuple[str, ...]) -> str:
    """The heading of entry points that have the same options, what each does, and the table of their options."""
    settings = ENTRY_POINTS[names[0]]
    base = next((name for name, other in ENTRY_POINTS.items() if other is settings.__base__), "")
    inherited = {field.name: field for field in dataclasses.fields(ENTRY_POINTS[base])} if base else {}
    lines = [f"## {', '.join(names)}", ""]
    for name in names:
        lines += [f"**`exvo {name}`** {plain(about(name))}", ""]
    if base:
        parent = "train" if base in ("main", "train") else base
        lines += [f"All options of [`{parent}`](#{'main-train-transfer' if parent == 'train' else parent}), and:", ""]
    lines += ["| option | default | what it is |", "|---|---|---|"]
    for field in dataclasses.fields(settings):
        known = inherited.get(field.name)
        if known is None or (known.default, known.metadata) != (field.default, field.metadata):
            default = default_text(field.default)
            lines.append(f"| `{field.name}` | {f'`{default}`' if default else 'empty'} | {meaning(field)} |")
    return "\n".join(lines)


def meaning(field: dataclasses.Field[Any]) -> str:
    """What an option is, what `auto` means, and the values that it may have."""
    limits = field.metadata
    text = limits["help"] + (f"; auto: {limits['auto']}" if "auto" in limits else "")
    if "choices" in limits:
        values = ", ".join(f"`{value}`" for value in limits["choices"])
        return f"{plain(text)}.<br>Values: {values}"
    kind = str(field.type).removesuffix(" | None")
    if kind in ("int", "float"):
        low, high = limits.get("low"), limits.get("high")
        word = "whole number" if kind == "int" else "number"
        bounds = f" from {low:g}" if low is not None else ""
        return f"{plain(text)}.<br>Values: {word}{bounds}{f' to {high:g}' if high is not None else ''}"
    return f"{plain(text)}.{'<br>Values: `true`, `false`' if kind == 'bool' else ''}"


def plain(text: str) -> str:
    """A text of `--help` in Markdown: in one line, its signs of Markdown and HTML taken as they are."""
    words = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(word if word.startswith("`") else re.sub(r"([<>|*_\[\]\\])", r"\\\1", word) for word in words)
