"""What the page shows, as HTML: the notice, bars with and without enrolment, sentences. Text from data is escaped."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import pandas as pd
from markupsafe import Markup

from exvo.demo.listener import Heard, Recording
from exvo.evaluation.prior import chance
from exvo.reports.page import svg
from exvo.reports.pictures import spectrogram
from exvo.tasks import Task

FIRST = 10
"""Emotions shown at once, the strongest; the others are folded up."""

NOTICE = (
    "Research. It hears how a clip sounds, not what a person feels, and is often wrong; no decision about a person "
    "may rest on it. Recordings go to the machine that runs this page and no further. They lie in a private folder "
    "until they are replaced or you close the page; your profile is kept in memory as long. Nothing is stored."
)

_drawing = threading.Lock()
"""matplotlib's settings are the whole process', so one picture is drawn at a time."""


def header(model: str, reaches: str) -> Markup:
    """The top of the page: what it is, which model listens, how good it is and what chance is."""
    line = Markup("<p class=reaches>{}{}.</p>").format(reaches[:1].upper(), reaches[1:]) if reaches else Markup("")
    return Markup(
        "<header class=exvo><h1>Vocal bursts</h1><p>A laugh, a gasp, a sigh: what does it sound like?</p>"
        "<p class=notice>{}</p><p class=model>Model: {}</p>{}<p id=microphone role=alert hidden></p></header>"
    ).format(NOTICE, model, line)


def sentence(text: str, kind: str = "note") -> Markup:
    """A paragraph: a note or a warning."""
    role = "alert" if kind == "warning" else "status"
    return Markup("<p class='exvo {}' role={}>{}</p>").format(kind, role, text)


def numbers(task: Task, value: float) -> str:
    """A share of exclusive categories in per cent, an intensity with three digits."""
    return f"{value:.1%}" if task.categories and task.objective == "cross-entropy" else f"{value:.3f}"


def result(heard: Heard, task: Task, personalised: bool) -> Markup:
    """What was heard: a sentence, bars, the log-mel."""
    about = f"Heard {heard.seconds:.2f} s, peak {heard.peak:.0f} dB of full scale."
    parts = [
        Markup("<p class=verdict>{}</p>").format(verdict(heard, task)),
        *(sentence(note, "warning") for note in heard.notes),
        *([bars(heard, task, personalised)] if len(heard.typical) else []),
        *(Markup("<p>{}: {}</p>").format(name, value) for name, value in heard.others.items()),
        picture(heard),
        Markup("<p class=note>{}</p>").format(about),
    ]
    return Markup("<section class=exvo>{}</section>").format(Markup("").join(parts))


def verdict(heard: Heard, task: Task) -> str:
    """The strongest emotion, without and with enrolment, and what chance is where there is a chance."""
    if not len(heard.typical):
        return listing_of(heard.others)
    what = "Most like" if task.categories else "Strongest"

    def strongest(values: pd.Series[float]) -> str:
        return f"{values.idxmax()} ({numbers(task, float(values.max()))})"

    end = f" Chance is {chance(task):.1%}." if task.categories else ""
    if heard.enrolled is None:
        return f"{what}: {strongest(heard.typical)}.{end}"
    return f"{what}: {strongest(heard.enrolled)} with your enrolment, {strongest(heard.typical)} without.{end}"


def listing_of(values: Mapping[str, str]) -> str:
    """Names with their values, for a sentence."""
    return ", ".join(f"{name}: {value}" for name, value in values.items())


def bars(heard: Heard, task: Task, personalised: bool) -> Markup:
    """A row for each emotion, the strongest first: its name, a bar without and one with enrolment, the numbers."""
    rows = [("typical", heard.typical), *([] if heard.enrolled is None else [("enrolled", heard.enrolled)])]
    last = rows[-1][1]
    order = last.sort_values(ascending=False, kind="stable").index.tolist()
    largest = max(float(values.max()) for _, values in rows)
    shares = task.categories and task.objective == "cross-entropy"
    scale = largest if shares else max(1.0, largest)
    by_chance = 100 * chance(task) / scale if shares else None
    lines = [
        line(name, [(kind, float(values[name])) for kind, values in rows], scale, by_chance, task) for name in order
    ]
    table = Markup("<div class=bars role=table>{}</div>")
    shown = table.format(Markup("").join(lines[:FIRST]))
    if len(lines) > FIRST:
        more = table.format(Markup("").join(lines[FIRST:]))
        shown += Markup("<details><summary>{} more</summary>{}</details>").format(len(lines) - FIRST, more)
    return legend(rows, personalised, by_chance, task) + shown


def legend(rows: Sequence[tuple[str, object]], personalised: bool, by_chance: float | None, task: Task) -> Markup:
    """What the bars are."""
    without = "without enrolment" if personalised else "this model"
    names = {"typical": without, "enrolled": "with your enrolment"}
    keys = [Markup("<span class='key {}'></span>{}").format(kind, names[kind]) for kind, _ in rows]
    if by_chance is not None:
        keys.append(Markup("<span class='key chance'></span>chance ({})").format(f"{chance(task):.1%}"))
    elif not task.categories:
        keys.append(Markup("intensities, 0 to 1"))
    return Markup("<p class=legend>{}</p>").format(Markup(" ").join(Markup("<span>{}</span>").format(k) for k in keys))


def line(name: str, values: Sequence[tuple[str, float]], scale: float, by_chance: float | None, task: Task) -> Markup:
    """The row of an emotion."""
    drawn = Markup("").join(
        Markup("<div class='bar {}' style='width:{}%'></div>").format(kind, f"{100 * max(value, 0.0) / scale:.2f}")
        for kind, value in values
    )
    if by_chance is not None:
        drawn += Markup("<div class=chance style='left:{}%'></div>").format(f"{min(by_chance, 100.0):.2f}")
    texts = Markup("").join(Markup("<div class={}>{}</div>").format(kind, numbers(task, v)) for kind, v in values)
    return Markup(
        "<div class=row role=row><div class=name role=rowheader>{}</div><div class=track role=presentation>{}</div>"
        "<div class=value role=cell>{}</div></div>"
    ).format(name, drawn, texts)


def picture(heard: Heard) -> Markup:
    """The log-mel of what was heard."""
    with _drawing:
        drawn = svg(spectrogram("log-mel", "The log-mel spectrogram of what was heard", heard.log_mel))
    return Markup("<figure>{}<figcaption>The log-mel of what was heard</figcaption></figure>").format(drawn)


def enrolled(recordings: Sequence[Recording], size: int) -> Markup:
    """That the visitor is enrolled."""
    clips = f"{len(recordings)} clip{'s' if len(recordings) > 1 else ''}"
    return sentence(
        f"You are enrolled from {clips}: a profile of {size:,} numbers, kept in memory until you close the page. The "
        "recordings are deleted."
    )
