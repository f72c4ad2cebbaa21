"""What `deploy/` starts: versions are those of requirements.lock, options those that MLflow takes."""

from __future__ import annotations

import configparser
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from conda_pins import pins
from mlflow.cli import server
from mlflow.server.auth.permissions import ALL_PERMISSIONS

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
PAGE = (ROOT / "docs" / "how-to" / "team-server.md").read_text(encoding="utf-8")


def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8")))


def installed(text: str) -> set[str]:
    """The pins that a `pip install` names."""
    (line,) = re.findall(r"pip install (.*)", text)
    return {word for word in shlex.split(line.rstrip("\\ ")) if "==" in word}


@pytest.mark.parametrize("place", ["deploy/Dockerfile", "docs/how-to/team-server.md"])
def test_versions_are_those_of_the_lock(place: str) -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    locked = {pin.partition(" ")[0].lower() for pin in pins(lock)}
    named = installed((ROOT / place).read_text(encoding="utf-8"))
    assert {re.sub(r"\[.*\]", "", pin).lower() for pin in named} <= locked
    assert {pin.partition("==")[0] for pin in named} == {"mlflow", "psycopg[binary]", "boto3", "Flask-WTF"}
    (mlflow,) = [pin for pin in named if pin.startswith("mlflow==")]
    assert compose()["services"]["mlflow"]["image"] == f"exvo-{mlflow.replace('==', ':')}"


def test_every_image_is_pinned_and_every_service_that_stays_is_looked_after() -> None:
    described = compose()
    images = [service["image"] for service in described["services"].values()]
    images += re.findall(r"^FROM (.*)", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert [image for image in images if not re.fullmatch(r"[\w./-]+:\d+\.\d+[\w.-]*", image)] == []
    staying = {name for name, service in described["services"].items() if service.get("restart") == "unless-stopped"}
    assert staying == described["services"].keys() - {"bucket"} == {"database", "store", "mlflow"}
    assert all("healthcheck" in described["services"][name] for name in staying)
    volumes = [volume for name in staying for volume in described["services"][name].get("volumes", [])]
    mounted = [volume.partition(":")[0] for volume in volumes]
    assert sorted(mounted) == sorted(described["volumes"]) == ["database", "store"]
    assert {f"exvo_{volume}" for volume in mounted} <= set(re.findall(r"exvo_\w+", PAGE))


def test_secrets_are_those_that_the_page_makes() -> None:
    required = set(re.findall(r"\$\{(\w+):\?", (DEPLOY / "compose.yaml").read_text(encoding="utf-8")))
    (made,) = re.findall(r"for name in ([\w ]*); do", PAGE)
    assert required == set(made.split())


def test_mlflow_takes_the_options_of_every_command() -> None:
    known = {name for option in server.params for name in option.opts}
    unit = (DEPLOY / "exvo-mlflow.service").read_text(encoding="utf-8").replace("\\\n", " ")
    commands = [compose()["services"]["mlflow"]["command"]]
    commands += re.findall(r"^ExecStart=\S*(mlflow server .*)", unit, flags=re.MULTILINE)
    commands += re.findall(r"^mlflow server .*", PAGE.replace("\\\n", " "), flags=re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        assert {word for word in command.split() if word.startswith("--")} <= known
        assert "--app-name basic-auth" in command


def test_variables_of_the_unit_are_in_its_file() -> None:
    unit = (DEPLOY / "exvo-mlflow.service").read_text(encoding="utf-8")
    variables = re.findall(r"^(\w+)=", (DEPLOY / "server.env").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert set(re.findall(r"\$\{(\w+)\}", unit)) <= set(variables)
    assert {"PGPASSWORD", "MLFLOW_AUTH_CONFIG_PATH", "MLFLOW_FLASK_SERVER_SECRET_KEY"} <= set(variables)


def test_everybody_may_edit_and_nobody_deletes_what_others_have_made() -> None:
    config = configparser.ConfigParser()
    config.read(DEPLOY / "basic_auth.ini")
    permission = ALL_PERMISSIONS[config["mlflow"]["default_permission"]]
    assert (permission.can_read, permission.can_update, permission.can_delete) == (True, True, False)
    assert "admin_password" not in config["mlflow"]  # which would lie in git
