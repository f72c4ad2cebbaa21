"""Text that comes from data: what may be a name, and how any text is repeated to people."""

from __future__ import annotations

import re

from exvo.passwords import hide

LONGEST_NAME = 1_000
"""Characters of a speaker, a country, a target or a path; file systems take 255 for each part of a path."""

_CONTROL = re.compile("[\0-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, line ends, what changes the direction of writing, and halves of characters."""


def is_name(text: str) -> bool:
    """Whether a text can be a name: on one line, nothing in it that moves the cursor of a terminal, not too long.

    >>> is_name("Müller (2)"), is_name("a\\x1b[2Jb"), is_name("two\\nlines")
    (True, False, False)
    """
    return len(text) <= LONGEST_NAME and not _CONTROL.search(text)


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
