"""A registered model through `mlflow.pyfunc`, and over HTTP from a server that is really started; a fuzzer on it."""

from __future__ import annotations

import base64
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from conftest import free_port
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from test_serving import BAD_ROWS, GOOD, TARGETS, TONES, text, tone

from exvo import request
from exvo.config import EvaluateSettings, TrainSettings
from pipelines import evaluate, train


@pytest.fixture(scope="module")
def registered(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, pd.DataFrame]]:
    """The tracking URI of a store with a registered model, and what `evaluate` predicted with it on the test split."""
    folder = tmp_path_factory.mktemp("serving")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
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
    np.testing.assert_allclose(model.predict(pd.DataFrame(rows)), truth(registered[1]), atol=1e-5)
    enrolment = pd.DataFrame({"enrolment": [row["enrolment"] for row in rows]})
    profiles = model.predict(enrolment, params={"mode": "enrol"})["profile"]
    clips = pd.DataFrame({"audio": [base64.b64decode(row["audio"]) for row in rows], "profile": profiles})
    np.testing.assert_allclose(model.predict(clips), truth(registered[1]), atol=1e-5)
    with pytest.raises(MlflowException, match="unknown columns") as raised:
        model.predict(pd.DataFrame({"sound": [b""]}))
    assert raised.value.error_code == "INVALID_PARAMETER_VALUE"
    assert [param.name for param in model.metadata.signature.params] == ["mode"]
    assert model.input_example is None or len(model.predict(model.input_example)) == 1


PACKAGED = """
import sys, mlflow
model = mlflow.pyfunc.load_model(sys.argv[1])
import exvo, exvo.training
print(exvo.__file__, [name for name in ("matplotlib", "optuna", "sklearn", "exvo.tracking") if name in sys.modules])
"""


def test_the_model_runs_the_code_that_lies_beside_it(registered: tuple[str, pd.DataFrame], tmp_path: Path) -> None:
    folder = mlflow.artifacts.download_artifacts("models:/exvo-fewshot@champion", dst_path=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", PACKAGED, folder], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(Path(folder) / "code" / "exvo" / "__init__.py"), "[]"]


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
    np.testing.assert_allclose(pd.concat(found), np.tile(expected, (4, 1)), atol=1e-5)


BAD_BODIES: list[tuple[Any, str]] = [
    (b"not JSON", "can't be read"),
    (b"", "can't be read"),
    (b"[1, 2]", "can't be read"),
    (b"\xff\xfe\x00", "can't be read"),
    (b"[" * 100_000, "can't be read"),
    (b'{"dataframe_records": [{"audio": 1' + b"0" * 5_000 + b"}]}", "can't be read"),
    ({"dataframe_records": [{"audio": "?"}], "params": {"mode": 5}}, "can't be read"),
    ({"dataframe_split": {"columns": [{"a": 1}], "data": [[1]]}}, "can't be read"),
    ({"rows": []}, "can't be read"),
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
    for content_type in (None, "", "text/plain", "application/json; charset=latin-1"):
        assert server.send({"dataframe_records": [{"audio": GOOD}]}, content_type)[0] == 415
    for content_type in ("text/csv", "application/vnd.apache.parquet"):
        status, told = server.send(b"", content_type)
        assert (status, "Traceback" in told) == (400, False)
    assert len(server.predict([{"audio": GOOD}])) == 1


class Fuzz:
    """Random and mutated requests, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        kinds = [("WAV", {}), ("FLAC", {}), ("OGG", {}), ("MP3", {}), ("OGG", {"subtype": "OPUS"})]
        self.clips = [tone(300, 0.5, kind, **options) for kind, options in kinds]

    def draw(self) -> tuple[bytes, str | None]:
        """A body and its content type."""
        body = self.random.choice([self.damaged_audio, self.odd_row, self.odd_request, self.damaged_text, self.noise])()
        return body, self.random.choices([*["application/json"] * 40, *CONTENT_TYPES])[0]

    def damaged_audio(self) -> bytes:
        """One to three rows, some of whose clips have bytes flipped, lost, doubled or zeroed, mostly in the header."""
        rows = []
        for _ in range(self.random.randint(1, 3)):
            row: dict[str, Any] = {"audio": text(self.damage(self.random.choice(self.clips)))}
            if self.random.random() < 0.3:
                row["enrolment"] = [text(self.damage(self.random.choice(self.clips))) for _ in range(2)]
            rows.append(row)
        return json.dumps({"dataframe_records": rows}).encode()

    def damage(self, content: bytes) -> bytes:
        changed = bytearray(content)
        for _ in range(self.random.randint(0, 4)):
            end = self.random.choice([12, 48, 200, max(1, len(changed))])
            place = self.random.randrange(max(1, min(end, len(changed))))
            way = self.random.randrange(6)
            if way < 3 and changed:
                changed[place] = self.random.choice([0, 1, 127, 128, 255, self.random.randrange(256)])
            elif way == 3:
                del changed[place:]
            elif way == 4:
                changed[place:place] = self.random.randbytes(self.random.randint(1, 8))
            else:
                changed[place : place + 4] = self.random.choice([b"\xff" * 4, bytes(4), b"\xff\xff\xff\x7f"])
        return bytes(changed)

    def odd_row(self) -> bytes:
        """A good row with values of the wrong type, absent or unknown columns, odd params."""
        row = {"audio": GOOD, "enrolment": [GOOD], "profile": [0.5] * 26}
        for name in self.random.sample(list(row), self.random.randint(0, 2)):
            del row[name]
        for _ in range(self.random.randint(0, 2)):
            row[self.random.choice([*request.COLUMNS, *request.COLUMNS, "index", "Audio", ""])] = self.value(3)
        body = {"dataframe_records": [row] * self.random.choice([1, 1, 1, 2, 65])}
        if self.random.random() < 0.5:
            body["params"] = self.random.choice([{"mode": "enrol"}, {"mode": self.value(2)}, {"x": 1}, self.value(2)])
        return json.dumps(body).encode()

    def odd_request(self) -> bytes:
        """JSON of some shape under the names that MLflow knows."""
        names = ["dataframe_records", "dataframe_split", "inputs", "instances", "params", "messages", "input", "x"]
        split = {"columns": self.value(2), "data": [[GOOD]], "index": self.value(1)}
        body = {name: self.random.choice([self.value(4), split]) for name in self.random.sample(names, 2)}
        return json.dumps(body).encode()

    def damaged_text(self) -> bytes:
        """A good request, bytes of whose text are changed."""
        body = json.dumps({"dataframe_records": [{"audio": GOOD, "enrolment": [GOOD]}], "params": {"mode": "predict"}})
        return self.damage(body.encode())

    def noise(self) -> bytes:
        """Bytes, deep nesting, long numbers and strings."""
        deep, size = self.random.choice([10, 900, 100_000]), self.random.choice([0, 10, 5_000, 200_000])
        return self.random.choice(
            [
                self.random.randbytes(size),
                b'{"dataframe_records": ' + b"[" * deep + b"]" * deep + b"}",
                b'{"dataframe_records": [' + b'{"audio": ' * deep + b"1" + b"}" * deep + b"]}",
                b'{"dataframe_records": [{"audio": ' + b"9" * size + b"}]}",
                b'{"dataframe_records": [{"audio": "' + b"A" * size + b'"}]}',
                b'{"inputs": ' + b"[" * deep + b"]" * deep + b"}",
                b"audio,profile\n" + b"A" * size + b',"[1, 2]"\n',
            ]
        )

    def value(self, depth: int) -> Any:
        """Any JSON value, no deeper than `depth`."""
        if depth and self.random.random() < 0.4:
            size = self.random.randint(0, 4)
            if self.random.random() < 0.5:
                return [self.value(depth - 1) for _ in range(size)]
            return {
                self.random.choice(["audio", "profile", "data", "columns", "é"]): self.value(depth - 1)
                for _ in range(size)
            }
        numbers = [0, -1, 1e308, float("nan"), float("inf"), 10**30, 2**63, 0.5]
        texts = ["", "audio", GOOD, GOOD[:99], "\ud800", "\0", "é" * 99, "=" * 8, "enrol"]
        return self.random.choice([*numbers, *texts, None, True, [0.5] * 26, [float("nan")] * 26, [GOOD, GOOD]])


CONTENT_TYPES = [
    None,
    "",
    "text/csv",
    "application/vnd.apache.parquet",
    "application/json; charset=utf-16",
    ";;=,",
    "x" * 99,
]


def test_2000_random_and_mutated_requests_never_fail_hang_or_kill_it(server: Server) -> None:
    fuzz, seen = Fuzz(20220), dict.fromkeys((200, 400, 415), 0)
    expected = server.predict([{"audio": GOOD}])
    for number in range(2_000):
        body, content_type = fuzz.draw()
        status, told = server.send(body, content_type)
        assert status in seen, (number, status, content_type, body[:500], told)
        assert status == 200 or ("Traceback" not in told and len(told) < 1_000), (number, told)
        seen[status] += 1
    assert min(seen.values()) > 50, seen
    assert server.process.poll() is None
    assert "mistake in exvo" not in server.log.read_text()
    pd.testing.assert_frame_equal(server.predict([{"audio": GOOD}]), expected)
