"""No entry point, no served model and no UI looks a name up or connects beyond this machine.

MLflow's telemetry switches itself off under pytest and in CI, so all of this runs in processes without their variables,
with a `sitecustomize` that notes every look-up and refuses it.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from exvo.settings import ENTRY_POINTS

from helpers.browser import wait_for
from helpers.commands import ROOT
from helpers.corpora import write_table_corpus
from helpers.encoders import save_encoder
from helpers.servers import free_port

CI = ("CI", "CIRCLECI", "CLOUD_RUN_EXECUTION", "CODEBUILD_BUILD_ARN", "JENKINS_URL", "TEAMCITY_VERSION", "TF_BUILD")
PREFIXES = ("PYTEST", "GITHUB", "GITLAB", "TRAVIS", "BITBUCKET", "BUILDKITE", "RUNBOT", "MLFLOW", "_MLFLOW", "EXVO")
PREFIXES += ("HF_",)

SPY = """
import os, socket, sys

def local(host):
    return host in (None, "", b"", "localhost", "::1") or str(host).startswith("127.")

def note(host):
    with open(os.environ["LOOKED_UP"], "a") as file:
        file.write(f"{host}\\n")

def watch(name, true):
    def watched(host, *words, **options):
        if not local(host):
            note(host)
            raise socket.gaierror(socket.EAI_NONAME, "no names in this test")
        return true(host, *words, **options)
    setattr(socket, name, watched)

for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr"):
    watch(name, getattr(socket, name))

def audit(event, words):
    if event == "socket.connect" and isinstance(words[1], tuple) and not local(words[1][0]):
        note(words[1][0])

sys.addaudithook(audit)
"""

IN_TURN = """
import json, os, sys, threading

from exvo.settings import ENTRY_POINTS  # as an entry point begins
from exvo.__main__ import command

import mlflow.telemetry

for name, options, variables in json.loads(sys.argv[1]):
    os.environ.update(variables)
    mlflow.telemetry.set_telemetry_client()  # which looks its host up once in a process, when it has something to tell
    words = [word for pair in options.items() for word in (f"--{pair[0]}", pair[1])]
    before, status = os.environ["LOOKED_UP"], 0
    try:
        command(name, words)
    except SystemExit as stop:
        status = stop.code
    for thread in threading.enumerate():
        if thread.name == "GetTelemetryConfig":
            thread.join(10)
    looked = open(before).read().split() if os.path.exists(before) else []
    print("\\nRESULT", json.dumps([name, status, looked]), flush=True)
    if looked:
        os.unlink(before)
"""

TRAIN = {"model": "cnn10-relative", "corpus": "table", "epochs": "1", "batch_size": "4", "width": "0.05"}


def environment(folder: Path, **variables: str) -> dict[str, str]:
    """Of a user at home: nothing of pytest or CI, an own store, and the spy."""
    (folder / "spy").mkdir(exist_ok=True)
    (folder / "spy" / "sitecustomize.py").write_text(SPY)
    kept = {name: value for name, value in os.environ.items() if name not in CI and not name.startswith(PREFIXES)}
    kept.pop("DO_NOT_TRACK", None)
    own = {"PYTHONPATH": f"{folder / 'spy'}{os.pathsep}{ROOT}", "LOOKED_UP": str(folder / "looked-up")}
    own |= {"HOME": str(folder), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    return kept | own | {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"} | variables


def looked_up(folder: Path) -> list[str]:
    path = folder / "looked-up"
    return path.read_text().split() if path.exists() else []


def commands(folder: Path) -> list[tuple[str, dict[str, str]]]:
    """Each entry point but `demo`, which does not end; `submit` is refused, because the corpus is no challenge's."""
    for name in ("corpus", "other"):
        write_table_corpus(folder / name, speakers=8)
    data, run = TRAIN | {"data": str(folder / "corpus")}, {"run_id": "cnn10-relative"}
    given: dict[str, dict[str, str]] = {
        "extract": {"corpus": "table", "data": data["data"]},
        "train": data,
        "main": data | {"model": "cnn10", "protocol": "strict"},
        "transfer": data | {"model": "cnn10", "data": f"{data['data']},{folder / 'other'}"},
        "tune": data | {"model": "cnn10", "trials": "1", "search": "dropout"},
        "evaluate": run,
        "embed": run | {"split": "val"},
        "enrolment-curve": run | {"draws": "1"},
        "robustness": run | {"split": "val"},
        "compare": {"a": "cnn10", "b": "cnn10-relative"},
        "register": run | {"gate": "none"},
        "predict": {"audio": str(folder / "corpus/s0-0.wav")},
        "reproduce": {"run": "cnn10-relative"},
        "submit": run | {"team": "us"},
        "sync": {},
    }
    assert given.keys() == ENTRY_POINTS.keys() - {"demo"}
    return list(given.items())


@pytest.mark.slow
def test_no_entry_point_looks_a_name_up(tmp_path: Path) -> None:
    """All in one process, and once more with MLflow's telemetry, which shows that the spy sees it."""
    steps = [(name, options, {}) for name, options in commands(tmp_path)]
    steps += [(name, options, {"MLFLOW_DISABLE_TELEMETRY": "false"}) for name, options, _ in steps if name == "extract"]
    done = subprocess.run(
        [sys.executable, "-c", IN_TURN, json.dumps(steps)],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    results = [
        json.loads(line.removeprefix("RESULT ")) for line in done.stdout.splitlines() if line.startswith("RESULT ")
    ]
    expected: list[object] = [[name, 2 if name == "submit" else 0, []] for name, *_ in steps]
    expected[-1] = ["extract", 0, ["config.mlflow-telemetry.io"]]
    assert results == expected, done.stdout + done.stderr


@pytest.mark.slow
def test_an_encoder_in_a_folder_looks_nothing_up_and_a_name_only_the_hub(tmp_path: Path) -> None:
    save_encoder("wavlm", tmp_path / "encoder")
    write_table_corpus(tmp_path / "corpus", speakers=8)
    train = {"model": "frozen", "features": "./encoder", "corpus": "table", "data": "corpus", "epochs": "1"}
    steps = [("train", train, {}), ("evaluate", {"run_id": "frozen"}, {})]
    steps.append(("predict", {"audio": "corpus/s0-0.wav", "model_uri": "frozen"}, {}))
    steps.append(("train", train | {"features": "microsoft/wavlm-base"}, {}))
    done = subprocess.run(
        [sys.executable, "-c", IN_TURN, json.dumps(steps)],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    results = [json.loads(line.removeprefix("RESULT ")) for line in done.stdout.splitlines() if "RESULT " in line]
    assert results[:3] == [[name, 0, []] for name, *_ in steps[:3]], done.stdout + done.stderr
    assert results[3][:2] == ["train", 2]
    assert set(results[3][2]) == {"huggingface.co"}


@pytest.mark.parametrize(
    ("variable", "value"), [("MLFLOW_DISABLE_TELEMETRY", "true"), ("HF_HUB_DISABLE_TELEMETRY", "1")]
)
def test_telemetry_is_off_unless_the_user_has_chosen(variable: str, value: str, tmp_path: Path) -> None:
    program = "import os, exvo; assert os.environ[os.environ['VARIABLE']] == os.environ['EXPECTED']"
    for variables in ({"EXPECTED": value}, {"EXPECTED": "false", variable: "false"}):
        chosen = environment(tmp_path, VARIABLE=variable, **variables)
        subprocess.run([sys.executable, "-c", program], env=chosen, check=True)


def test_the_hubs_client_sends_no_telemetry(tmp_path: Path) -> None:
    program = "import exvo; from huggingface_hub import constants; assert constants.HF_HUB_DISABLE_TELEMETRY"
    subprocess.run([sys.executable, "-c", program], env=environment(tmp_path), check=True)


def own_process(folder: Path, name: str, options: Mapping[str, str]) -> str:
    words = [word for option, value in options.items() for word in (f"--{option}", value)]
    done = subprocess.run(
        [sys.executable, "-m", "exvo", name, *words],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == (2 if name == "submit" else 0), done.stderr
    return done.stdout


def answer(url: str, body: bytes | None = None) -> str:
    """What a server says, once it answers."""
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    for _ in range(120):
        with suppress(OSError):
            return str(urllib.request.urlopen(request, timeout=10).read().decode())
        time.sleep(0.5)
    pytest.fail(f"{url} does not answer")


GRADIO = """
import threading, gradio

with gradio.Blocks(analytics_enabled=True):
    pass
for thread in threading.enumerate():
    if thread is not threading.main_thread():
        thread.join(20)
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_page_looks_no_name_up(tmp_path: Path) -> None:
    """A visit to `exvo demo`, whatever the user's variables say; Gradio by itself does look up, which the spy sees."""
    pytest.importorskip("gradio")
    write_table_corpus(tmp_path / "corpus", speakers=8)
    own_process(tmp_path, "train", TRAIN | {"data": str(tmp_path / "corpus")})
    port, variables = free_port(), {"GRADIO_ANALYTICS_ENABLED": "True", "GRADIO_SHARE": "True"}
    words = [sys.executable, "-m", "exvo", "demo", f"--port={port}", "--model_uri=cnn10-relative"]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(words, cwd=tmp_path, env=environment(tmp_path, **variables), stdout=log, stderr=log)
    try:
        wait_for(lambda: b"\nopen http" in (tmp_path / "log").read_bytes(), 200, "the page's address")
        assert "gradio" in answer(f"http://127.0.0.1:{port}/")
        for path in ("config", "theme.css", "gradio_api/info", "gradio_api/startup-events"):
            answer(f"http://127.0.0.1:{port}/{path}")
        time.sleep(2)
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
    assert looked_up(tmp_path) == []
    subprocess.run([sys.executable, "-c", GRADIO], env=environment(tmp_path, **variables), cwd=tmp_path, check=True)
    assert "api.gradio.app" in looked_up(tmp_path)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_no_process_looks_a_name_up(tmp_path: Path) -> None:
    """Each entry point, the UI that `make ui` starts, and the served model, in processes of their own."""
    for name, options in commands(tmp_path):
        own_process(tmp_path, name, options | ({"trials": "3", "workers": "2"} if name == "tune" else {}))
        assert looked_up(tmp_path) == [], name
    port = free_port()
    (tmp_path / "mlflow").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mlflow "$@" --port {port}\n')
    (tmp_path / "mlflow").chmod(0o755)
    ui = ["make", "-s", "-C", str(ROOT), "-o", ".venv/ready", "ui", f"BIN={tmp_path}"]
    serve = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/exvo-fewshot@champion"]
    serve += ["--env-manager", "local", "-p", str(port)]
    for words, path in ((ui, "/ajax-api/3.0/mlflow/ui-telemetry"), (serve, "/ping")):
        with (tmp_path / "log").open("ab") as log:
            server = subprocess.Popen(
                words, cwd=tmp_path, env=environment(tmp_path), stdout=log, stderr=log, start_new_session=True
            )
        try:
            answer(f"http://127.0.0.1:{port}{path}")
            if words is serve:
                clip = base64.b64encode((tmp_path / "corpus/s0-0.wav").read_bytes()).decode()
                request = {"dataframe_records": [{"audio": clip}]}
                assert "Loud" in answer(f"http://127.0.0.1:{port}/invocations", json.dumps(request).encode())
            time.sleep(2)
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait(30)
        assert looked_up(tmp_path) == [], words
