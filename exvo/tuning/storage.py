"""Where a study is kept: Optuna's journal file, or a database."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, ProgrammingError, SQLAlchemyError

from exvo import passwords
from exvo.errors import InputError
from exvo.extras import require
from exvo.passwords import without_password
from exvo.text import first_line

POSTGRESQL = "postgresql+psycopg"
"""The driver that we use for PostgreSQL, as the URLs of SQLAlchemy name it."""

LOCK_SECONDS = 30
"""Seconds after which a lock on a journal file is taken over: its process was killed, since locks last milliseconds."""


def printable_storage(storage: str, output: Path) -> str:
    """The storage as it may be printed and logged: the journal's path, or the URL without its password.

    Args:
        storage: as the option of `tune` says.
        output: the folder for the journal file where `storage` is empty.

    Raises:
        InputError: it is neither a journal file nor a URL that can be read.
    """
    if "://" in storage:
        passwords.remember(storage)
        if passwords.misread(storage):
            raise InputError(
                f"storage={without_password(storage)}: its password holds an @, which ends it too early; write %40."
            )
        return without_password(_url(storage).render_as_string(hide_password=False))
    if storage and not storage.startswith("journal:") and not storage.endswith(".journal"):
        raise InputError(
            f"storage={storage} is neither a journal file (<name>.journal or journal:<file>) nor the URL of a "
            "database, such as postgresql://<user>@<host>/<database>."
        )
    return storage.removeprefix("journal:") or str(output / "studies.journal")


def _url(storage: str) -> URL:
    """The URL of a database, with the driver that we use for PostgreSQL.

    Raises:
        InputError: it is none.
    """
    try:
        url = make_url(storage)
    except (ArgumentError, ValueError):
        raise InputError("storage is no URL of a database, such as postgresql://<user>@<host>/<database>.") from None
    return url.set(drivername=POSTGRESQL) if url.drivername in ("postgres", "postgresql") else url


def open_storage(storage: str, output: Path) -> BaseStorage:
    """Optuna's journal file, or a database.

    Args:
        storage: as the option of `tune` says.
        output: the folder for the journal file where `storage` is empty.

    Raises:
        InputError: it can't be opened; the sentence holds no password.
    """
    name = printable_storage(storage, output)
    if "://" in storage and _url(storage).drivername == POSTGRESQL:
        require("psycopg", "server", f"storage={name}")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        if "://" not in storage:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            # Optuna's default lock, a link, waits for ever where a killed process left one to a relative path.
            return JournalStorage(JournalFileBackend(name, JournalFileOpenLock(name, LOCK_SECONDS)))
        url = _url(storage)
        seconds = {"connect_timeout": 10} if url.drivername.startswith("postgresql") else {}
        arguments: dict[str, Any] = {"pool_pre_ping": True, "connect_args": seconds}
        return _open_database(url.render_as_string(hide_password=False), arguments)
    except (OSError, ImportError, SQLAlchemyError, RuntimeError, ValueError) as error:
        if "table schema" in str(error):
            raise InputError(
                f"storage={name} holds the tables of another program, such as MLflow, or of another version of Optuna; "
                "give studies a database of their own."
            ) from None
        raise InputError(f"storage={name} can't be used: {first_line(error)}") from None


@contextlib.contextmanager
def naming_storage_errors(name: str) -> Iterator[None]:
    """Turns errors of a storage that is away or can't be written into a sentence.

    Args:
        name: as `printable_storage` gives it.

    Raises:
        InputError: in place of the storage's own errors.
    """
    try:
        yield
    except (StorageInternalError, SQLAlchemyError) as error:
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        raise InputError(
            f"storage={name} can't be used any more ({first_line(cause)}); when it is back, the same command goes "
            "on where this one was."
        ) from None


def _open_database(url: str, arguments: dict[str, Any]) -> RDBStorage:
    """Optuna's database, with new tables if it has none.

    Of two processes that make the tables at the same time one is refused; it finds them at its next attempt.
    """
    for _ in range(3):
        try:
            return RDBStorage(url, arguments)
        except (IntegrityError, ProgrammingError):
            time.sleep(1.0)
    return RDBStorage(url, arguments)
