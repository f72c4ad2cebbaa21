"""Keeps passwords, which stand in addresses of servers and databases or in variables, out of all text for people.

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
from typing import NamedTuple
from urllib.parse import unquote

VARIABLES = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
"""Environment variables that hold an address."""

SECRETS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "PGPASSWORD")
"""Environment variables that hold a password."""

MIN_HIDDEN = 4
"""Characters from which on a password is hidden wherever it stands; a shorter one is hidden only within its address."""

_REMEMBERED: set[str] = set()
_ADDRESS = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]*)://([^\s'\"<>`]*@)")
_SECRET_WORD = re.compile(r"(?i)([?&])[^=&?\s]*(?:password|passwd|pwd|secret|token)[^=&\s]*=[^&\s'\"]*(&?)")


def remember(address: str) -> None:
    """Has `hide` remove the password of this address, wherever it stands, from now on."""
    _REMEMBERED.add(address)


class Address(NamedTuple):
    """The parts of an address; scheme, user and password are empty where it has none."""

    scheme: str
    user: str
    password: str
    location: str  # host, port, path and query


def split(address: str) -> Address:
    """The parts of an address, as its author meant them: the last @ ends the password.

    >>> tuple(split("postgresql://ada:p@s/s@db.example/runs"))
    ('postgresql', 'ada', 'p@s/s', 'db.example/runs')
    """
    scheme, separator, after_scheme = address.partition("://")
    if not separator or scheme.startswith(("sqlite", "file")):
        return Address("", "", "", address)
    path, _, query = after_scheme.partition("?")
    question_mark_in_password = "@" not in path and "@" in query
    authority = after_scheme if question_mark_in_password else path  # with the path
    login, _, location = authority.rpartition("@")
    user, _, password = login.partition(":")
    return Address(scheme, user, password, location + after_scheme[len(authority) :])


def misread(address: str) -> str:
    """The characters of a password that libraries take for its end; they must be written as %2F and the like.

    >>> misread("http://ada:pa/ss@host"), misread("postgresql://ada:pa/ss@host/runs"), misread("http://ada:pa%2Fss@host")
    ('/', '', '')
    """
    parts = split(address)
    ends = "/?#[]" if parts.scheme.startswith("http") else "@"
    return "".join(letter for letter in ends if letter in parts.password)


def has_password(address: str) -> bool:
    """Whether an address holds a password."""
    return "://" in address and bool(split(address).password or _SECRET_WORD.search(address))


def without_password(address: str) -> str:
    """An address without its password, and of a web server without its user, who may be a token.

    >>> without_password("http://ada:pa/ss@host:5000"), without_password("postgresql://ada:p@ss@db/runs?password=x")
    ('http://host:5000', 'postgresql://ada@db/runs')
    """
    scheme, user, password, location = split(address)
    if not scheme or ("/" in user and not password):  # an @ in the path
        return address
    location = _without_secret_words(location)
    return f"{scheme}://{location}" if scheme.startswith("http") or not user else f"{scheme}://{user}@{location}"


def _without_secret_words(text: str) -> str:
    """A text without the parameters of queries that hold a secret, as `?password=x`."""
    return _SECRET_WORD.sub(lambda match: match[1] if match[2] else "", text)


def hide(text: str) -> str:
    """A text for people, without the passwords that this process knows and those of addresses in the text.

    >>> hide("no answer from http://ada:pa/ss@host:5000/api")
    'no answer from http://host:5000/api'
    """
    addresses = _REMEMBERED | {os.environ[name] for name in VARIABLES if name in os.environ}
    words = {os.environ[name] for name in SECRETS if name in os.environ}
    for address in sorted(filter(has_password, addresses), key=len, reverse=True):
        text = text.replace(address, without_password(address))
        password = split(address).password
        words |= {password, unquote(password)}
    text = _without_secret_words(_ADDRESS.sub(lambda match: without_password(match[0]), text))
    for word in sorted(words, key=len, reverse=True):
        text = text.replace(word, "***") if len(word) >= MIN_HIDDEN else text
    return text


def guard() -> None:
    """Hides passwords in all tracebacks and log records of this process, also in those of libraries."""
    sys.excepthook = _print_exception
    threading.excepthook = lambda hook: _print_exception(hook.exc_type, hook.exc_value, hook.exc_traceback)

    def without_passwords(*arguments: object, **keywords: object) -> logging.LogRecord:
        record = logging.LogRecord(*arguments, **keywords)  # type: ignore[arg-type]
        record.msg, record.args = hide(record.getMessage()), ()
        if record.exc_info:
            record.exc_text = hide("".join(traceback.format_exception(*record.exc_info)).rstrip())
        return record

    logging.setLogRecordFactory(without_passwords)


def _print_exception(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    sys.stderr.write(hide("".join(traceback.format_exception(kind, error, trace))))
