"""Text that comes from data: what may be a name, and how any text is repeated to people."""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

from exvo.passwords import hide

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


def shown(text: str, limit: int = 40) -> str:
    """Text from a file, safe for a terminal: cut, and nothing in it that does not print.

    >>> shown("a\\x1b[2Jb"), shown("x" * 50, 5)
    ('a?[2Jb', 'xxxxx...')
    """
    cut = text[:limit] + "..." * (len(text) > limit)
    return "".join(letter if letter.isprintable() else "?" for letter in cut)


def reason(error: Exception) -> str:
    """What an error of a library says, on one line and no longer than a sentence.

    >>> reason(ValueError("two\\nlines."))
    'two lines'
    """
    return shown(" ".join(hide(str(error)).split()), 200).rstrip(".") or type(error).__name__


def first_line(error: Exception) -> str:
    """The first line of an error's message, without passwords."""
    return hide((str(error).strip() or type(error).__name__).splitlines()[0])
