"""One self-contained HTML page of text, tables and pictures, readable on a phone, in the dark and in print."""

from __future__ import annotations

import base64
import contextlib
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import matplotlib as mpl
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from exvo.reports.tables import Column
from exvo.text import slug

WIDE, SMALL = 4.6, 2.2
"""Widths of a picture in inches: one, or two, fit beside each other on a phone with their text still readable."""

INK, GRID, BLUE, ORANGE = "#222222", "#d9d9d9", "#0072b2", "#d55e00"
"""Colours of pictures (Okabe and Ito's blue and vermilion); on a dark screen the page shows lighter shades of them."""

_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "text.color": INK,
    "text.parse_math": False,  # names from data may hold a $
    "xtick.color": INK,
    "ytick.color": INK,
}
_SHADES = {INK: "var(--ink)", GRID: "var(--line)", BLUE: "var(--blue)", ORANGE: "var(--orange)"}
_NUMBER = re.compile(r"[-+]?[\d.,]+[%*]?|([-+]?[\d.]+ )?\[.*\]|undefined")


@dataclass(frozen=True)
class Picture:
    """A figure, the name of its PNG file (without its ending) and a sentence that says what it shows."""

    name: str
    caption: str
    figure: Figure


class Sound(NamedTuple):
    """A clip to play: its heading, what is said of it, where it comes from, and its MP3 file."""

    heading: str
    said: str
    source: str
    mp3: bytes

    @property
    def address(self) -> str:
        """The file as an address within the page."""
        return f"data:audio/mpeg;base64,{base64.b64encode(self.mp3).decode()}"


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        title: its heading; `name`, made of it, is that of the file of the numbers.
        text: paragraphs.
        warnings: sentences that must not be overlooked.
        pictures: in the order to show.
        table: its columns; the first names the rows.
        code: commands.
        sounds: clips to play.
        numbers: what pictures and table show, one row for each point, bar or row.
    """

    title: str
    text: Sequence[str] = ()
    warnings: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    table: Sequence[Column] = ()
    code: str = ""
    sounds: Sequence[Sound] = ()
    numbers: pd.DataFrame | None = None

    @property
    def name(self) -> str:
        """The title as part of a file's name or of an address within the page."""
        return slug(self.title)


class Tile(NamedTuple):
    """A main figure: what it is, its value in large type, and a line of detail."""

    what: str
    value: str
    detail: str


@dataclass(frozen=True)
class Page:
    """A report.

    Attributes:
        title: of the window and of the page.
        about: lines under the title.
        tiles: the main figures.
        sections: in the order to show.
        lead: what the page says, in a sentence or two; the first text under the title.
    """

    title: str
    about: Sequence[str]
    tiles: Sequence[Tile]
    sections: Sequence[Section]
    lead: str = ""

    def html(self) -> str:
        """The page as HTML. It loads nothing from elsewhere, and text from data is escaped."""
        environment = Environment(
            loader=PackageLoader("exvo.reports", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
        )
        environment.undefined = StrictUndefined
        environment.filters |= {"svg": svg, "rows": _rows, "numeric": _numeric}
        return environment.get_template("page.html").render(page=self)


@contextlib.contextmanager
def axes(width: float, height: float) -> Iterator[Axes]:
    """Axes of a new figure of width by height inches, to draw on in the style of the page."""
    with mpl.rc_context(_STYLE):
        yield Figure(figsize=(width, height), layout="constrained").subplots()


def legend(ax: Axes) -> None:
    """The legend of some axes, above them and from the picture's left edge on: browsers' letters may be wider."""
    handles, labels = ax.get_legend_handles_labels()
    figure = ax.get_figure(root=True)
    if handles and figure is not None:
        place: dict[str, Any] = {"loc": "outside upper left", "borderpad": 0.0, "borderaxespad": 0.2}
        spaces: dict[str, Any] = {"handletextpad": 0.4, "columnspacing": 1.0, "handlelength": 1.2}
        figure.legend(handles, labels, ncols=min(len(handles), 4), **place, **spaces)


def make_picture(name: str, caption: str, ax: Axes) -> Picture:
    """The figure of some axes as a picture."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    return Picture(name, caption, figure)


def svg(picture: Picture) -> Markup:
    """A picture as inline SVG, whose colours follow the page's."""
    buffer = io.StringIO()
    style: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": picture.name}
    with mpl.rc_context(style):
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        picture.figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    head, body = text.split(">", 1)
    text = re.sub(r' (xmlns(:xlink)?|width|height|version)="[^"]*"', "", head) + ">" + body
    for reference in ('id="', 'href="#', "url(#"):
        text = text.replace(reference, f"{reference}{slug(picture.name)}-")
    for colour, shade in _SHADES.items():
        text = text.replace(colour, shade)
    return Markup(text)  # matplotlib escapes the text in it


def _rows(table: Sequence[Column]) -> list[tuple[str, ...]]:
    """The cells of a table by row."""
    return list(zip(*(cells for _, cells in table), strict=True))


def _numeric(table: Sequence[Column]) -> list[bool]:
    """Which columns hold numbers or intervals alone: these are aligned right."""
    return [any(cells) and all(_NUMBER.fullmatch(cell) for cell in cells if cell) for _, cells in table]
