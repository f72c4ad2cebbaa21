"""The tracking server: its address, whether it can be used, and what to say where it can't."""

from __future__ import annotations

import logging
import os
import re
import shlex
import sqlite3
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import mlflow
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.tracking.registry import UnsupportedModelRegistryStoreURIException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.exc import NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from exvo import extras, passwords
from exvo.errors import InputError
from exvo.options import program
from exvo.text import first_line, writable
from exvo.tracking.provenance import PROJECT

DATABASES = ("postgres", "mysql", "mssql")
"""How the addresses of MLflow's databases begin, but for SQLite."""

DATABASE_SECONDS = 4.0
"""Seconds that a database has to answer when a command begins."""

SERVER_SECONDS = 8.0
"""The same of a server."""

START_ADVICE = ". Start it, or set MLFLOW_TRACKING_URI to one that runs"

UNKNOWN = "no such kind of address is known; give one that begins with http:, https:, sqlite: or postgresql:"

DENIED = "PERMISSION_DENIED"
"""How a server with accounts says that a user may not do something."""

NOT_THERE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", DENIED)
"""How MLflow says that there is no such thing: the second one where the name could not be one, the last one, to those
who are not its admin, a server with accounts."""

REFUSALS = {
    401: "it does not take this user name and password; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
    403: "your account lacks the permission for it (EDIT), or it is not there",
}
"""What a server with accounts means by its status."""

ERRORS = "it answers with errors, as it does while its database or artifact store is away or full; its log says more"
"""What a server means that runs and does not do what it is asked."""

DELETED = "must be in the 'active' state"
"""How MLflow says that a run or its experiment is deleted."""

_usable: set[str] = set()
_failed: set[str] = set()


def quiet() -> None:
    """Has MLflow and its database say nothing below warnings, and draw no progress bars of single downloads."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in (
        "mlflow.system_metrics",
        "mlflow.store.db.utils",
        "sqlalchemy",  # it prints a traceback where Ctrl-C comes in the middle of a query
        "urllib3.connectionpool",
    ):  # we say ourselves what fails
        logging.getLogger(name).setLevel(logging.CRITICAL)
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # `runs.log_code` says that git is missing
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # `experiments.where_to_look` prints ours
    warnings.filterwarnings("ignore", "The specified dataset source can be interpreted in multiple ways")


def check_store() -> None:
    """Refuses a tracking store or registry that can't be used; each is asked once a process.

    Raises:
        InputError: it is away, no database, of no known kind, or holds runs of an old file store in ./mlruns; or the
            folder's name is not UTF-8.
    """
    if mlflow.get_tracking_uri().startswith("sqlite") and any(Path("mlruns").glob("*/meta.yaml")):
        raise InputError(
            "The folder mlruns holds runs of MLflow's old file store, which MLflow 3 no longer reads; move them with "
            "`mlflow migrate-filestore`, or move the folder away."
        )
    folder = os.getcwd()
    if mlflow.get_tracking_uri().startswith("sqlite") and writable(folder) != folder:
        raise InputError(
            f"The folder {writable(folder)} has a name that is not UTF-8, which MLflow's database can't hold; rename "
            "it, or work in another folder."
        )
    _require_usable("tracking server", tracking_uri())
    _require_usable("model registry", str(mlflow.get_registry_uri()))  # the same, where no other is set


def _require_usable(kind: str, uri: str) -> None:
    if uri in _usable:
        return
    passwords.remember(uri)
    problem = _problem(uri)
    (_failed if problem else _usable).add(uri)
    if problem:
        if kind == "model registry":
            problem = problem.replace("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
        raise InputError(f"The {kind} {passwords.without_password(uri)} can't be used: {problem}.")


def has_failed() -> bool:
    """Whether this process has found the tracking store unusable."""
    return tracking_uri() in _failed - _usable


def _problem(uri: str) -> str:
    """Why a store can't be used, without a full stop; an empty text where it can."""
    scheme = uri.partition(":")[0]
    letters = passwords.misread(uri)
    if letters:
        escapes = ", ".join(f"%{ord(letter):02X} for {letter}" for letter in letters)
        return f"its password holds what ends it too early; write {escapes}"
    try:
        if scheme.startswith("sqlite"):
            _open_sqlite(make_url(uri).database or "")
        elif scheme.startswith(DATABASES):
            _in_time(DATABASE_SECONDS, lambda: create_engine(uri, poolclass=NullPool).connect().close())
        elif scheme in ("http", "https"):
            _in_time(SERVER_SECONDS, lambda: _ask_health(uri))
        elif _is_folder(uri) and os.environ.get("MLFLOW_ALLOW_FILE_STORE", "") != "true":
            return "it names a folder, and MLflow 3 keeps runs in a database; give its file, as in sqlite:///mlflow.db"
        if not scheme:
            return UNKNOWN
        MlflowClient()
    except ImportError as error:
        ours = scheme.startswith("postgresql") and make_url(uri).get_dialect().driver == "psycopg"
        advice = f": {extras.command('server')}" if ours else ""
        return f"the database's driver is not installed ({first_line(error)}){advice}"
    except (UnsupportedModelRegistryStoreURIException, NoSuchModuleError):
        return UNKNOWN
    except ValueError as error:
        return f"the address can't be read ({why(error)})"
    except (MlflowException, SQLAlchemyError, OSError, sqlite3.Error) as error:
        advice = START_ADVICE if scheme in ("http", "https") else ""
        return why(error) + advice
    return ""


def _is_folder(uri: str) -> bool:
    """Whether an address is a path, which MLflow takes for a folder."""
    scheme, has_host = uri.partition(":")[0], "://" in uri
    return scheme == "file" or not (has_host or scheme in ("databricks", "databricks-uc", "uc"))


def _open_sqlite(name: str) -> None:
    """Reads an SQLite database where there is one, and checks that it may be written to.

    Raises:
        OSError: the file is no database, or may not be written to.
    """
    path = Path(name).absolute()
    if name in ("", ":memory:") or name.startswith("file:"):
        return
    if path.is_dir():
        raise OSError(f"{name} is a folder; give the database's file, as in sqlite:///{name.rstrip('/')}/mlflow.db")
    if not path.exists():
        parent = next(folder for folder in path.parents if folder.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            raise OSError(f"{parent} is no folder that may be written to")
        return
    if not path.is_file():
        raise OSError(f"{name} is no file")
    if not os.access(path, os.R_OK | os.W_OK):
        raise OSError(f"{name} may not be written to by this user")
    try:
        connection = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=1.0)
        try:
            connection.execute("SELECT name FROM sqlite_master LIMIT 1")
        finally:
            connection.close()
    except sqlite3.OperationalError:  # locked: MLflow waits for that
        pass
    except sqlite3.DatabaseError as error:
        raise OSError(f"{name} is no database of MLflow, or damaged ({error})") from None


def _ask_health(uri: str) -> None:
    """Asks a server for any answer; of an error that it holds MLflow tells later."""
    http_request(
        get_default_host_creds(uri), "/health", "GET", max_retries=0, timeout=SERVER_SECONDS, raise_on_status=False
    )


def _in_time(seconds: float, action: Callable[[], object]) -> None:
    """Does something that may hang: drivers have no common option for a time limit.

    Raises:
        TimeoutError: it takes longer.
    """
    errors: list[Exception] = []

    def act() -> None:
        try:
            action()
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"it has not answered for {seconds:.0f} seconds")
    if errors:
        raise errors[0]


def unusable(error: MlflowException) -> InputError:
    """What to raise where the tracking server fails."""
    away = tracking_uri().startswith("http") and status(error) >= 500 and not answers_with_errors(error)
    return InputError(f"The tracking server {shown_uri()} can't be used: {why(error)}{START_ADVICE if away else ''}.")


class StoreAway(InputError):
    """Artifacts can't be read or written now; what a run has logged is not to blame."""


def require_artifacts(error: Exception) -> None:
    """Tells an artifact store that is away from an artifact that is not there.

    Args:
        error: that reading an artifact has raised.

    Raises:
        StoreAway: the store, or the server before it, is away, or does not know this account.
    """
    if answers_with_errors(error) or status(error) == 401 or "Max retries exceeded" in str(error):
        raise StoreAway(f"The artifact store of {shown_uri()} can't be used: {why(error)}.") from None


def why(error: Exception) -> str:
    """The reason in the long message of a database, a connection or MLflow, without a full stop."""
    text = passwords.hide(str(error))
    if DELETED in text:
        return "the run is deleted"
    if status(error) in REFUSALS:
        return REFUSALS[status(error)]
    if answers_with_errors(error):
        return ERRORS
    reason = re.search(
        r"\((?:sqlite3|psycopg\d?)\.[\w.]+\) (.+)|\[Errno -?\d+\] ([\w -]+)|(timed out)|Error\(\d+, '([\w ]+)'\)", text
    )
    return next(filter(None, reason.groups())) if reason else first_line(error)[:200].rstrip(".")


def status(error: Exception) -> int:
    """The HTTP status that a server has answered with; 0 where that is not known."""
    if isinstance(error, MlflowException):
        return int(error.get_http_status_code())
    return int(getattr(getattr(error, "response", None), "status_code", None) or 0)


def answers_with_errors(error: Exception) -> bool:
    """Whether a server is there and has met an error of its own, which MLflow asks again until it gives up."""
    is_from_server = isinstance(error, requests.HTTPError) and status(error) >= 500
    return is_from_server or re.search(r"too many 5\d\d error responses", str(error)) is not None


def shown_uri() -> str:
    """The address of the tracking server, without a password that it may hold."""
    return passwords.without_password(tracking_uri())


def page(place: str) -> str:
    """How to open a page of the UI: its address, or for a database the command that shows it first."""
    uri = tracking_uri()
    if uri.startswith("http"):
        return f"{shown_uri().rstrip('/')}/{place}"
    command = "make ui"
    if not uri.startswith("sqlite") or Path(make_url(uri).database or "").absolute() != PROJECT / "mlflow.db":
        command = f"{program('mlflow')} ui --backend-store-uri {shlex.quote(shown_uri())}"
    return f"`{command}`, then http://127.0.0.1:5000/{place}"


def answers() -> bool:
    """Whether the tracking server answers."""
    quiet()
    try:
        MlflowClient().search_experiments(max_results=1)
    except MlflowException as error:
        return bool(error.get_http_status_code() < 500)
    return True


def tracking_uri() -> str:
    """The address of the tracking server."""
    return str(mlflow.get_tracking_uri())
