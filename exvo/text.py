"""Text for people: names and lists in sentences, text from outside made safe to print, errors of libraries."""

from __future__ import annotations

import codecs
import difflib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from exvo.passwords import hide


def nearest(name: str, names: Sequence[str]) -> str:
    """The end of a sentence about an unknown name: '; did you mean a or b?', or all names where none is near.

    >>> nearest("cnn41", ["cnn14", "cnn10"])
    '; did you mean cnn14 or cnn10?'
    """
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(near)}?" if near else f"; known are {', '.join(names)}."


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
"""Characters that exvo itself writes, and what stands for them in an encoding that lacks them."""

WRITABLE = "exvo.writable"
"""The name of an error handler for `str.encode` that never fails; see `writable`."""

LONGEST_NAME = 1_000
"""The most characters of a speaker, a country, a target or a path; file systems take 255 for each part of a path."""

_CONTROL = re.compile("[\0-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, line ends, marks that change the direction of writing, and surrogates."""


def _plain(error: UnicodeError) -> tuple[str, int]:
    """The error handler that `writable` uses: what replaces the characters, and where to go on."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    escapes = [f"\\x{ord(letter) - 0xDC00:02x}" if "\udc80" <= letter <= "\udcff" else "" for letter in letters]
    plain = [PLAIN.get(letter) or letter.encode("ascii", "backslashreplace").decode() for letter in letters]
    return "".join(escape or other for escape, other in zip(escapes, plain, strict=True)), error.end


codecs.register_error(WRITABLE, _plain)


def writable(text: str, encoding: str = "utf-8") -> str:
    """A text with the characters that an encoding lacks replaced by plain ones or by backslash escapes.

    UTF-8 lacks only surrogates, which Python uses for the bytes of a file's name that is not UTF-8 itself.

    >>> writable("caf\\udce9.wav"), writable("José ± 0.1 █", "ascii")
    ('caf\\\\xe9.wav', 'Jos\\\\xe9 +- 0.1 #')
    """
    return text.encode(encoding, WRITABLE).decode(encoding)


def all_writable(value: Any) -> Any:
    """A JSON value with all its texts, those of nested lists and dicts too, made `writable` in UTF-8."""
    if isinstance(value, dict):
        return {all_writable(name): all_writable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [all_writable(item) for item in value]
    return writable(value) if isinstance(value, str) else value


def is_name(text: str) -> bool:
    """Whether a text can be a name: it is on one line, moves no cursor of a terminal, and is not too long.

    >>> is_name("Müller (2)"), is_name("a\\x1b[2Jb"), is_name("two\\nlines")
    (True, False, False)
    """
    return len(text) <= LONGEST_NAME and not _CONTROL.search(text)


def normal(text: str) -> str:
    """A name or a path in Unicode's composed form (NFC), so that each has one spelling.

    A text too long for a name stays as it is: `is_name` refuses it, and composing takes time with its length squared.

    >>> normal("Jose\\u0301") == "Jos\\u00e9"
    True
    """
    return text if text.isascii() or len(text) > LONGEST_NAME else unicodedata.normalize("NFC", text)


def look_alikes(names: Iterable[str]) -> list[list[str]]:
    """Groups of names that differ only by case, spaces, width or invisible characters, in the order of the names.

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
    """Text from outside, safe for a terminal: cut, and with `?` for characters that can't be printed.

    Args:
        text: of a file, a request, a command line.
        limit: the most characters that are kept.

    >>> printable("a\\x1b[2Jb"), printable("x" * 50, 5)
    ('a?[2Jb', 'xxxxx...')
    """
    cut = text[:limit] + "..." * (len(text) > limit)
    return "".join(letter if letter.isprintable() else "?" for letter in cut)


shown = printable  # the name by which models that MLflow logged before import it


def reason(error: Exception) -> str:
    """The message of a library's error on one line, no longer than a sentence, without passwords.

    >>> reason(ValueError("two\\nlines."))
    'two lines'
    """
    return printable(" ".join(hide(str(error)).split()), 200).rstrip(".") or type(error).__name__


def first_line(error: Exception) -> str:
    """The first line of an error's message, without passwords."""
    return hide((str(error).strip() or type(error).__name__).splitlines()[0])


def listing(items: Iterable[object], limit: int = 10, separator: str = ", ") -> str:
    """Items in a sentence: the first `limit` of them, and how many more there are.

    >>> listing(["a", "b"]), listing(range(5), limit=2)
    ('a, b', '0, 1 and 3 more')
    """
    texts = [str(item) for item in items]
    more = f" and {len(texts) - limit} more" if len(texts) > limit else ""
    return separator.join(texts[:limit]) + more


SYNTHETIC = "The corpus is SYNTHETIC: a program makes its voices, so these scores say nothing about people."
"""What stands beside all scores on the sample corpus."""

NO_SPEAKERS = (
    "Who speaks is not known: the same people may be in training and in test, so nothing is claimed for strangers, and "
    "there are no intervals by speaker."
)
"""What stands beside all scores on clips without speakers."""


def slug(name: str) -> str:
    """The name of a target as it stands in names of metrics.

    >>> slug("Surprise (Negative)")
    'surprise_negative'
    """
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
