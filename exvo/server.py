"""The tracking server: its address, whether it can be used, and what to say where it can't."""

from __future__ import annotations

import logging
import os
import re
import warnings
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from exvo.config import InputError
from exvo.text import first_line, writable


def quiet() -> None:
    """MLflow's and its database's own messages only from warnings on, and no bars of single downloads."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("mlflow.system_metrics", "mlflow.store.db.utils", "urllib3.connectionpool"):  # what fails, we tell
        logging.getLogger(name).setLevel(logging.CRITICAL)
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")  # a git that is missing is told by `tracking.log_code`
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # `tracking.where_to_look` is ours
    warnings.filterwarnings("ignore", "The specified dataset source can be interpreted in multiple ways")


def check_store() -> None:
    """Refuses a folder in which MLflow's default store can't work.

    Raises:
        InputError: runs of an old file store lie in ./mlruns, or the folder's name is not UTF-8.
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


def unusable(error: MlflowException) -> InputError:
    """What to raise where the tracking server fails."""
    advice = ". Start it, or set MLFLOW_TRACKING_URI to one that runs." if tracking_uri().startswith("http") else ""
    return InputError(f"The tracking server {shown_uri()} can't be used: {why(error)}{advice}")


def why(error: Exception) -> str:
    """The reason in the long message of a database, a connection or MLflow, without a full stop."""
    text = str(error)
    own = re.search(r"\((?:sqlite3|psycopg)\.[\w.]+\) (.+)|\[Errno -?\d+\] ([\w -]+)|(timed out)", text)
    return next(filter(None, own.groups())) if own else first_line(error)[:200].rstrip(".")


def shown_uri() -> str:
    """The address of the tracking server, without a password that it may hold."""
    return re.sub(r"(?<=://)[^/@]*@", "", mlflow.get_tracking_uri())


def answers() -> bool:
    """Whether the tracking server does."""
    quiet()
    try:
        MlflowClient().search_experiments(max_results=1)
    except MlflowException as error:
        return bool(error.get_http_status_code() < 500)
    return True


def tracking_uri() -> str:
    """The address of the tracking server."""
    return str(mlflow.get_tracking_uri())
