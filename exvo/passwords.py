"""Passwords in the addresses of servers and databases, and how every one of them is kept out of what is shown.

Imports nothing but the standard library, so that every module may use it.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import traceback
from types import TracebackType
from urllib.parse import unquote

VARIABLES = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
"""Variables with an address."""

SECRETS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "PGPASSWORD")
"""Variables that are passwords."""

SHORTEST = 4
"""Characters of a password that is hidden wherever it stands; a shorter one is hidden within its address alone."""

_KNOWN: set[str] = set()
_ADDRESS = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]*)://([^\s'\"<>`]*@)")
_SECRET_WORD = re.compile(r"(?i)([?&])[^=&?\s]*(?:password|passwd|pwd|secret|token)[^=&\s]*=[^&\s'\"]*(&?)")


def remember(address: str) -> None:
    """Keeps the password of an address out of everything that this process shows from now on."""
    _KNOWN.add(address)


def split(address: str) -> tuple[str, str, str, str]:
    """Scheme, user, password and the rest of an address, as its author meant them: the last @ ends the password.

    >>> split("postgresql://ada:p@s/s@db.example/runs")
    ('postgresql', 'ada', 'p@s/s', 'db.example/runs')
    """
    scheme, found, rest = address.partition("://")
    if not found or scheme.startswith(("sqlite", "file")):
        return "", "", "", address
    before, _, after = rest.partition("?")
    holder = before if "@" in before or "@" not in after else rest  # a question mark in a password, or in a query
    login, _, place = holder.rpartition("@")
    user, _, password = login.partition(":")
    return scheme, user, password, place + rest[len(holder) :]


def misread(address: str) -> str:
    """The characters of a password that end it too early for the libraries, unless they are written as %2F and so on.

    >>> misread("http://ada:pa/ss@host"), misread("postgresql://ada:pa/ss@host/runs"), misread("http://ada:pa%2Fss@host")
    ('/', '', '')
    """
    scheme, _, password, _ = split(address)
    return "".join(letter for letter in ("/?#[]" if scheme.startswith("http") else "@") if letter in password)


def has_password(address: str) -> bool:
    """Whether an address holds a password."""
    return "://" in address and bool(split(address)[2] or _SECRET_WORD.search(address))


def without_password(address: str) -> str:
    """An address without its password, and of a web server without its user, who may be a token.

    >>> without_password("http://ada:pa/ss@host:5000"), without_password("postgresql://ada:p@ss@db/runs?password=x")
    ('http://host:5000', 'postgresql://ada@db/runs')
    """
    scheme, user, password, rest = split(address)
    if not scheme or ("/" in user and not password):  # an @ in the path
        return address
    rest = _SECRET_WORD.sub(lambda found: found[1] if found[2] else "", rest)
    return f"{scheme}://{user}{'@' if user else ''}{rest}" if not scheme.startswith("http") else f"{scheme}://{rest}"


def hide(text: str) -> str:
    """A text for people without the passwords that this process knows, and without those of addresses within it.

    >>> hide("no answer from http://ada:pa/ss@host:5000/api")
    'no answer from http://host:5000/api'
    """
    addresses = _KNOWN | {os.environ[name] for name in VARIABLES if name in os.environ}
    words = {os.environ[name] for name in SECRETS if name in os.environ}
    for address in sorted((one for one in addresses if has_password(one)), key=len, reverse=True):
        text = text.replace(address, without_password(address))
        words |= {split(address)[2], unquote(split(address)[2])}
    text = _ADDRESS.sub(lambda found: without_password(found[0]), text)
    text = _SECRET_WORD.sub(lambda found: found[1] if found[2] else "", text)
    for word in sorted(words, key=len, reverse=True):
        text = text.replace(word, "***") if len(word) >= SHORTEST else text
    return text


def guard() -> None:
    """Hides passwords in tracebacks and in all log records of this process, those of libraries too."""
    sys.excepthook = _print_exception
    threading.excepthook = lambda found: _print_exception(found.exc_type, found.exc_value, found.exc_traceback)
    make = logging.LogRecord

    def record(*words: object, **named: object) -> logging.LogRecord:
        made = make(*words, **named)  # type: ignore[arg-type]
        made.msg, made.args = hide(made.getMessage()), ()
        if made.exc_info:
            made.exc_text = hide("".join(traceback.format_exception(*made.exc_info)).rstrip())
        return made

    logging.setLogRecordFactory(record)


def _print_exception(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    sys.stderr.write(hide("".join(traceback.format_exception(kind, error, trace))))
