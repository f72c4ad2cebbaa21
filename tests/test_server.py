"""A registered model through `mlflow.pyfunc`, and over HTTP from a server that is really started; a fuzzer on it."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import psutil
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from exvo.experiments import evaluate, train
from exvo.serving.request import MAX_BODY
from exvo.settings import EvaluateSettings, TrainSettings
from fuzz import attack
from fuzz.served import draw_request

from helpers.networks import task_without_limits
from helpers.requests import BAD_ROWS, GOOD, TARGETS, TONES, text
from helpers.servers import free_port


@pytest.fixture(scope="module")
def registered(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, pd.DataFrame]]:
    """The tracking URI of a store with a registered model, and what `evaluate` predicted with it on the test split."""
    folder = tmp_path_factory.mktemp("serving")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("exvo.experiments.train.make_task", task_without_limits)
        uri = f"sqlite:///{folder}/mlflow.db"
        mlflow.set_tracking_uri(uri)
        options = {"model": "cnn10-relative", "corpus": "table", "data": str(tiny_corpus), "epochs": 1, "width": 0.05}
        train.run(TrainSettings(**options, learning_rate=0.01))
        evaluate.run(EvaluateSettings(run_id="cnn10-relative", split="test"))
        scored, trained = MlflowClient().search_runs(["0"])
        version = mlflow.register_model(trained.data.tags["exvo.model_uri"], "exvo-fewshot").version
        MlflowClient().set_registered_model_alias("exvo-fewshot", "champion", version)
        path = mlflow.artifacts.download_artifacts(f"{scored.info.artifact_uri}/predictions/test.parquet")
        yield uri, pd.read_parquet(path)
        mlflow.set_tracking_uri(None)


def requests(predictions: pd.DataFrame, corpus: Path) -> list[dict[str, Any]]:
    """The scored clips of an evaluation, each with the files that enrolled its speaker."""
    rows = []
    for row in predictions[predictions["scored"]].to_dict("records"):
        same = predictions[(predictions["speaker"] == row["speaker"]) & ~predictions["scored"]]
        enrolment = [text((corpus / file).read_bytes()) for file in same["file"]]
        assert len(enrolment) == 2
        rows.append({"audio": text((corpus / row["file"]).read_bytes()), "enrolment": enrolment})
    return rows


def truth(predictions: pd.DataFrame) -> np.ndarray:
    columns = [f"prediction.{target}" for target in TARGETS]
    return predictions.loc[predictions["scored"], columns].to_numpy()


def test_load_model_gives_the_numbers_of_evaluate(registered: tuple[str, pd.DataFrame], tiny_corpus: Path) -> None:
    model = mlflow.pyfunc.load_model("models:/exvo-fewshot@champion")
    rows = requests(registered[1], tiny_corpus)
    np.testing.assert_allclose(model.predict(pd.DataFrame(rows))[TARGETS], truth(registered[1]), atol=1e-5)
    enrolment = pd.DataFrame({"enrolment": [row["enrolment"] for row in rows]})
    profiles = model.predict(enrolment, params={"mode": "enrol"})["profile"]
    clips = pd.DataFrame({"audio": [base64.b64decode(row["audio"]) for row in rows], "profile": profiles})
    np.testing.assert_allclose(model.predict(clips)[TARGETS], truth(registered[1]), atol=1e-5)
    with pytest.raises(MlflowException, match="unknown columns") as raised:
        model.predict(pd.DataFrame({"sound": [b""]}))
    assert raised.value.error_code == "INVALID_PARAMETER_VALUE"
    assert [param.name for param in model.metadata.signature.params] == ["mode", "sure"]
    assert model.input_example is None or len(model.predict(model.input_example)) == 1


TABLES = ("text/csv", "application/vnd.apache.parquet")


class Server:
    """`mlflow models serve` on a free port; ask it with `send`."""

    def __init__(self, tracking_uri: str, folder: Path) -> None:
        self.port = free_port()
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        words = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/exvo-fewshot@champion"]
        words += ["--env-manager", "local", "-h", "127.0.0.1", "-p", str(self.port)]
        self.log = folder / "server.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                words,
                cwd=folder,
                env=os.environ | {"PATH": path, "MLFLOW_TRACKING_URI": tracking_uri},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait(self) -> None:
        for _ in range(600):
            assert self.process.poll() is None, self.log.read_text()
            try:
                if self.send(None, path="/ping", method="GET")[0] == 200:
                    return
            except OSError:
                time.sleep(0.1)
        pytest.fail(f"the server did not start: {self.log.read_text()}")

    def send(
        self, body: Any, content_type: str | None = "application/json", path: str = "/invocations", method: str = "POST"
    ) -> tuple[int, str]:
        """Status and body of the answer; TimeoutError after ten seconds."""
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request(method, path, body, {} if content_type is None else {"Content-Type": content_type})
        response = connection.getresponse()
        try:
            return response.status, response.read().decode()
        finally:
            connection.close()

    def predict(self, rows: list[dict[str, Any]], **params: str) -> pd.DataFrame:
        status, told = self.send({"dataframe_records": rows} | ({"params": params} if params else {}))
        assert status == 200, told
        return pd.DataFrame(json.loads(told)["predictions"])

    def stop(self) -> None:
        os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait(20)


@pytest.fixture(scope="module")
def server(registered: tuple[str, pd.DataFrame], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(registered[0], tmp_path_factory.mktemp("server"))
    try:
        started.wait()
        yield started
    finally:
        started.stop()


def test_the_server_gives_the_numbers_of_evaluate(
    server: Server, registered: tuple[str, pd.DataFrame], tiny_corpus: Path
) -> None:
    """Enrolled with each request, and enrolled once and predicted with the profile."""
    rows = requests(registered[1], tiny_corpus)
    np.testing.assert_allclose(server.predict(rows)[TARGETS], truth(registered[1]), atol=1e-5)
    enrolled = server.predict([{"enrolment": row["enrolment"]} for row in rows], mode="enrol")
    again = [
        {"audio": row["audio"], "profile": profile} for row, profile in zip(rows, enrolled["profile"], strict=True)
    ]
    np.testing.assert_allclose(server.predict(again)[TARGETS], truth(registered[1]), atol=1e-5)


def test_requests_at_the_same_time_get_their_own_answers(server: Server) -> None:
    rows = [{"audio": text(clip), "enrolment": [text(TONES[number - 1])]} for number, clip in enumerate(TONES)]
    expected = server.predict(rows)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(server.predict, [[row] for row in rows * 4]))
    np.testing.assert_allclose(pd.concat(found)[TARGETS], np.tile(expected[TARGETS], (4, 1)), atol=1e-5)


BAD_BODIES: list[tuple[Any, str]] = [
    (b"not JSON", "can't be read"),
    (b"", "can't be read"),
    (b"[1, 2]", "can't be read"),
    (b"\xff\xfe\x00", "can't be read"),
    (b"[" * 500, "can't be read"),
    (b"[" * 100_000, "has 100,000 lists and objects and 0 commas: send at most 512"),
    (b'{"dataframe_records": [{"audio": 1' + b"0" * 5_000 + b"}]}", "can't be read"),
    ({"dataframe_records": [{"audio": "?"}], "params": {"mode": 5}}, "The param mode must be predict or enrol."),
    ({"dataframe_split": {"columns": [{"a": 1}], "data": [[1]]}}, "unknown columns ({'a': 1})"),
    ({"rows": []}, "The request is no table: send"),
    (b'{"dataframe_records": [{"audio": "", "audio": ""}]}', "holds audio twice in an object"),
    ({"inputs": [{"audio": GOOD}]}, "The request is no table: send"),
    ({"messages": []}, "The request is no table: send"),
    *(({"dataframe_records": rows}, "") for rows, sentence in BAD_ROWS if "outputs" not in sentence),
]


def test_a_bad_request_gets_400_with_a_sentence_and_no_traceback(server: Server) -> None:
    for body, sentence in BAD_BODIES:
        status, told = server.send(body)
        assert status == 400, told
        answered = json.loads(told)
        assert set(answered) == {"error_code", "message"}
        assert sentence in answered["message"]
        assert len(told) < 1_000
    for content_type in (None, "", "text/plain", "application/json; charset=latin-1", *TABLES):
        status, told = server.send({"dataframe_records": [{"audio": GOOD}]}, content_type)
        assert status == 415
        assert "send" in json.loads(told)["message"]
    for content_type in ('Application/JSON; Charset="UTF-8"', "application/json;charset=utf-8"):
        assert server.send({"dataframe_records": [{"audio": GOOD}]}, content_type)[0] == 200
    assert len(server.predict([{"audio": GOOD}])) == 1


def test_only_the_pages_of_the_service_are_open(server: Server) -> None:
    for path in ("/docs", "/redoc", "/openapi.json", "/", "/nothing"):
        status, told = server.send(None, None, path, "GET")
        assert status == 404
        assert json.loads(told)["message"] == "There is no such page: send a POST to /invocations, or a GET to /ping."
    for path in ("/ping", "/health", "/version"):
        assert server.send(None, None, path, "GET")[0] == 200
        assert server.send(None, None, path, "HEAD") == (200, "")
    for method in ("GET", "PUT", "DELETE"):
        status, told = server.send(b"{}", method=method)
        assert (status, json.loads(told)["message"]) == (405, f"This page takes POST, not {method}.")


def test_a_body_in_chunks_and_one_that_is_broken_off(server: Server) -> None:
    content = json.dumps({"dataframe_records": [{"audio": GOOD}]}).encode()
    for parts, status in ((iter([content[:999], content[999:]]), 200), (iter([b"x"] * 999), 400)):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        headers = {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}
        connection.request("POST", "/invocations", parts, headers, encode_chunked=True)
        assert connection.getresponse().status == status
        connection.close()
    before = attack.Watch(server.port, server.process.pid).memory()
    for _ in range(4):
        attack.abort(server.port, 50 * 2**20)
    assert len(server.predict([{"audio": GOOD}])) == 1
    assert attack.Watch(server.port, server.process.pid).memory() < before + 100  # MiB; it kept 200
    assert "Traceback" not in server.log.read_text()


def test_a_refused_upload_gets_its_answer(server: Server) -> None:
    """Though the server does not keep what is still sent."""
    assert server.send(b"x" * 2**25, "text/csv")[0] == 415


def test_a_body_that_is_too_long_is_not_read(server: Server) -> None:
    """By its header alone, and where it has none after so many bytes."""
    for length in (str(10 * 2**30), "9" * 5_000, "1e3"):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        connection.putrequest("POST", "/invocations")
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", length)
        connection.endheaders()
        response = connection.getresponse()
        assert response.status in ((413,) if length == str(10 * 2**30) else (400, 413))
        if response.status == 413:
            assert "larger than 192 MiB: send fewer clips." in response.read().decode()
        connection.close()
    assert MAX_BODY == 192 * 2**20
    assert len(server.predict([{"audio": GOOD}])) == 1


@pytest.mark.parametrize("count", [300, pytest.param(2_000, marks=pytest.mark.slow)])
def test_random_and_mutated_requests_never_fail_hang_or_kill_it(count: int, server: Server) -> None:
    drawn, seen = Random(20220), dict.fromkeys((200, 400, 415), 0)
    expected = server.predict([{"audio": GOOD}])
    for number in range(count):
        body, content_type = draw_request(drawn)
        status, told = server.send(body, content_type)
        assert status in seen, (number, status, content_type, body[:500], told)
        assert status == 200 or ("Traceback" not in told and len(told) < 1_000), (number, told)
        seen[status] += 1
    assert min(seen.values()) > count / 40, seen
    assert server.process.poll() is None
    assert "mistake in exvo" not in server.log.read_text()
    pd.testing.assert_frame_equal(server.predict([{"audio": GOOD}]), expected)


SLOWEST = 5.0  # seconds of a /ping: 2 where the machine does nothing else


@pytest.mark.long
def test_attacks_cost_little_and_are_over_when_they_are_over(
    registered: tuple[str, pd.DataFrame], tmp_path: Path
) -> None:
    """Those of docs/explanation/reliability.md, on a server of their own: at most some minutes."""
    started = Server(registered[0], tmp_path)
    try:
        started.wait()
        watch = attack.Watch(started.port, started.process.pid)

        def post(body: bytes, times: int = 1) -> list[int]:
            with ThreadPoolExecutor(times) as pool:
                asked = [pool.submit(watch.ask, "POST", "/invocations", body) for _ in range(times)]
                return [one.result()[0] for one in asked]

        silent, busy = attack.silent_request(), attack.busy_request()
        assert post(attack.GOOD) == post(busy) == [200]
        usual = watch.memory()
        with watch.watched():
            for _ in range(20):
                attack.abort(watch.port)
        assert watch.memory() < usual + 150
        for name, body in attack.structures().items():
            with watch.watched():
                assert post(body) == [400], name
            assert watch.most < usual + 150 + 4 * len(body) / 2**20, name
            assert watch.slowest < SLOWEST, name
        for _ in range(2):
            with watch.watched():
                assert post(attack.largest_request()) == [200]
            assert watch.most < usual + 300 + 4 * len(attack.largest_request()) / 2**20
            time.sleep(2)
            assert watch.memory() < usual + 200
        with watch.watched():
            began = time.monotonic()
            assert post(silent, 8) == [400] * 8
            assert time.monotonic() - began < 10
        for _ in range(20):
            attack.leave(watch.port, busy)
        assert post(attack.GOOD) == [200]
        with watch.watched():
            assert set(post(busy, 50)) == {200, 503}
        assert watch.slowest < SLOWEST
        assert set(watch.pings) == {200}
        with ThreadPoolExecutor(40) as pool:
            for body in [busy, silent] * 20:
                pool.submit(watch.ask, "POST", "/invocations", body)
            time.sleep(2)
            processes = [watch.process, *watch.process.children(recursive=True)]
            watch.process.terminate()
            assert psutil.wait_procs(processes, timeout=20)[1] == []
        assert "Traceback" not in started.log.read_text()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.process.pid, signal.SIGKILL)
