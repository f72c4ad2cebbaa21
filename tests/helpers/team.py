"""A tracking server that a team shares: accounts with passwords, PostgreSQL, and an object store."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
from mlflow.server import get_app_client
from mlflow.server.auth.client import AuthServiceClient

from helpers.commands import ROOT
from helpers.servers import Database, ObjectStore, Server

PASSWORDS = {name: "-".join((name, "has", "twelve", "signs")) for name in ("admin", "ada", "ben")}
BUCKET = "exvo"


class Team:
    """The servers with `deploy/basic_auth.ini`, and accounts for ada and ben.

    Attributes:
        database: of the runs and the accounts.
        store: of the artifacts; None where they lie in a folder.
        server: the tracking server.
    """

    def __init__(self, folder: Path, artifacts: Path | None = None, data: Path | None = None) -> None:
        """Prepares them.

        Args:
            folder: for their files.
            artifacts: the folder for artifacts; None: an object store.
            data: the folder for the database, into which every user may go; None: a temporary one.
        """
        self._temporary = None if data else tempfile.mkdtemp(prefix="exvo-team-")
        self.database = Database(data or Path(str(self._temporary)), PASSWORDS["admin"])
        self.store = None if artifacts else ObjectStore(folder)
        self.variables = {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.database.port),
            "PGUSER": "ada",
            "PGPASSWORD": PASSWORDS["admin"],
            "PGDATABASE": "postgres",
        }
        keys = {"MLFLOW_S3_ENDPOINT_URL": self.store.uri, **ObjectStore.KEYS} if self.store else {}
        self.server = Server(
            folder,
            [
                "--app-name=basic-auth",
                "--backend-store-uri=postgresql+psycopg://",
                f"--artifacts-destination={artifacts or f's3://{BUCKET}'}",
            ],
            {
                "MLFLOW_AUTH_CONFIG_PATH": str(ROOT / "deploy" / "basic_auth.ini"),
                "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORDS["admin"],
                "MLFLOW_FLASK_SERVER_SECRET_KEY": PASSWORDS["admin"],
                **self.variables,
                **keys,
            },
        )

    def start(self) -> None:
        """Starts all, and makes the bucket and the accounts."""
        self.database.start()
        if self.store:
            self.store.make_bucket(BUCKET)
        self.server.start()
        for name in ("ada", "ben"):
            self.as_admin(lambda client, name=name: client.create_user(name, PASSWORDS[name]))
        mlflow.set_tracking_uri(self.server.uri)

    def as_admin(self, action: Callable[[AuthServiceClient], object]) -> None:
        """Does something to accounts and permissions."""
        with pytest.MonkeyPatch.context() as patch:
            sign_in("admin", patch)
            action(get_app_client("basic-auth", tracking_uri=self.server.uri))

    def stop(self) -> None:
        """Ends all."""
        mlflow.set_tracking_uri(None)
        self.server.stop()
        if self.store:
            self.store.stop()
        self.database.stop()
        if self._temporary:
            shutil.rmtree(self._temporary)


def sign_in(name: str, patch: pytest.MonkeyPatch) -> None:
    """Has this process, and those that it starts, ask as that person."""
    patch.setenv("MLFLOW_TRACKING_USERNAME", name)
    patch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORDS[name])
