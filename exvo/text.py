"""Text made safe and written for people: names, numbers, lists, and what a library's error says."""

from __future__ import annotations

import codecs
import difflib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from exvo.passwords import hide


def nearest(name: str, known: Sequence[str]) -> str:
    """'; did you mean a or b?', or '; known are ...' when nothing is near: the end of an error's sentence.

    >>> nearest("cnn41", ["cnn14", "cnn10"])
    '; did you mean cnn14 or cnn10?'
    """
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(near)}?" if near else f"; known are {', '.join(known)}."


def default_text(value: Any) -> str:
    """The text of a value as the command line, the MLproject and MLflow's params hold it.

    >>> [default_text(v) for v in (None, True, 1.0, 0.001, "cpu")]
    ['auto', 'true', '1', '0.001', 'cpu']
    """
    if value is None:
        return "auto"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.10g}" if isinstance(value, float) else str(value)


PLAIN = {"█": "#", "±": "+-", "–": "-", "−": "-", "×": "x", "→": "->"}
"""What is written for our own characters where an encoding lacks them."""

WRITABLE = "exvo.writable"
"""Error handler of `str.encode` that never fails; `writable` says how it writes what an encoding lacks."""

LONGEST_NAME = 1_000
"""Characters of a speaker, a country, a target or a path; file systems take 255 for each part of a path."""

_CONTROL = re.compile("[\0-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, line ends, what changes the direction of writing, and halves of characters."""


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    escapes = [f"\\x{ord(letter) - 0xDC00:02x}" if "\udc80" <= letter <= "\udcff" else "" for letter in letters]
    plain = [PLAIN.get(letter) or letter.encode("ascii", "backslashreplace").decode() for letter in letters]
    return "".join(escape or other for escape, other in zip(escapes, plain, strict=True)), error.end


codecs.register_error(WRITABLE, _plain)


def writable(text: str, encoding: str = "utf-8") -> str:
    """Text as an encoding can write it: what it lacks becomes a plain character or a backslash escape.

    UTF-8 lacks nothing but the bytes of a file's name that is not UTF-8 itself, which Python holds as half characters.

    >>> writable("caf\\udce9.wav"), writable("José ± 0.1 █", "ascii")
    ('caf\\\\xe9.wav', 'Jos\\\\xe9 +- 0.1 #')
    """
    return text.encode(encoding, WRITABLE).decode(encoding)


def all_writable(value: Any) -> Any:
    """The same for all texts of lists and dicts, which UTF-8 can then write."""
    if isinstance(value, dict):
        return {all_writable(name): all_writable(own) for name, own in value.items()}
    if isinstance(value, list | tuple):
        return [all_writable(own) for own in value]
    return writable(value) if isinstance(value, str) else value


def is_name(text: str) -> bool:
    """Whether a text can be a name: on one line, nothing in it that moves the cursor of a terminal, not too long.

    >>> is_name("Müller (2)"), is_name("a\\x1b[2Jb"), is_name("two\\nlines")
    (True, False, False)
    """
    return len(text) <= LONGEST_NAME and not _CONTROL.search(text)


def normal(text: str) -> str:
    """A name or a path in Unicode's composed form (NFC), so that each has one spelling.

    A text too long for a name stays as it is: `is_name` refuses it, and composing takes the square of its length.

    >>> normal("Jose\\u0301") == "Jos\\u00e9"
    True
    """
    return text if text.isascii() or len(text) > LONGEST_NAME else unicodedata.normalize("NFC", text)


def look_alikes(names: Iterable[str]) -> list[list[str]]:
    """Groups of different names that differ only by case, spaces, width or letters that nobody sees, in their order.

    >>> look_alikes(["Anna", "Ben", "anna ", "\\uff21nna", "Ben"])
    [['Anna', 'anna ', '\uff21nna']]
    """
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        if len(name) <= LONGEST_NAME:
            folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
            key = "".join(letter for letter in folded if not letter.isspace() and unicodedata.category(letter) != "Cf")
            groups.setdefault(key, []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def printable(text: str, limit: int = 40) -> str:
    """Text from a file, safe for a terminal: cut, and nothing in it that does not print.

    >>> printable("a\\x1b[2Jb"), printable("x" * 50, 5)
    ('a?[2Jb', 'xxxxx...')
    """
    cut = text[:limit] + "..." * (len(text) > limit)
    return "".join(letter if letter.isprintable() else "?" for letter in cut)


shown = printable  # the name by which models that MLflow logged before import it


def reason(error: Exception) -> str:
    """What an error of a library says, on one line and no longer than a sentence.

    >>> reason(ValueError("two\\nlines."))
    'two lines'
    """
    return printable(" ".join(hide(str(error)).split()), 200).rstrip(".") or type(error).__name__


def first_line(error: Exception) -> str:
    """The first line of an error's message, without passwords."""
    return hide((str(error).strip() or type(error).__name__).splitlines()[0])


def listing(items: Iterable[object], limit: int = 10) -> str:
    """Items in a sentence, at most `limit` of them by name.

    >>> listing(["a", "b"]), listing(range(5), limit=2)
    ('a, b', '0, 1 and 3 more')
    """
    texts = [str(item) for item in items]
    more = f" and {len(texts) - limit} more" if len(texts) > limit else ""
    return ", ".join(texts[:limit]) + more


SYNTHETIC = "The corpus is SYNTHETIC: a program makes its voices, so these scores say nothing about people."


def slug(name: str) -> str:
    """A target's name in metrics.

    >>> slug("Surprise (Negative)")
    'surprise_negative'
    """
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
