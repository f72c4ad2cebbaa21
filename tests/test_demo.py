"""The page that listens, without a browser: its numbers, its sentences, visits, and the guard in front of Gradio."""

from __future__ import annotations

import asyncio
import io
import os
import re
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from mlflow import MlflowClient

from exvo import systems
from exvo.batches.clips import Clips
from exvo.demo import visits as visits_module
from exvo.demo import words
from exvo.demo.environment import settle
from exvo.demo.guard import API, Guard
from exvo.demo.listener import Heard, Listener, Recording
from exvo.demo.visits import PREFIX, Visits
from exvo.enrolment import EnrolmentSettings
from exvo.errors import InputError
from exvo.networks.build import build_network
from exvo.networks.checkpoint import Checkpoint
from exvo.serving.request import MAX_CLIP_BYTES
from exvo.serving.service import MAX_HELD
from exvo.tasks import Task

from helpers.commands import newest, run_here
from helpers.requests import FEATURES, TONES, evaluated, tone

INTENSITIES = Task("fewshot", ("High", "Loud"))
CATEGORIES = Task("fewshot", ("Awe", "Fear", "Joy <b>"), categories=True, objective="cross-entropy")


def listener(system: str = "cnn10-relative", task: Task = INTENSITIES) -> Listener:
    """An untrained network of a system."""
    labels = np.random.default_rng(0).random((8, len(task.targets)))
    network = build_network(systems.find(system), task, 0.05, 3, "", Clips([], [], {}, labels)).eval()
    return Listener(Checkpoint(network, task, FEATURES, "repeat", {}, EnrolmentSettings("independent", 2)))


@pytest.fixture(scope="module")
def relative() -> Listener:
    return listener()


def burst(content: bytes, file: str = "audio.wav") -> Recording:
    return Recording("Your burst", file, content)


@pytest.fixture
def visits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    one = Visits()
    yield one
    one.close()


def uploaded(visits: Visits, content: bytes, name: str = "audio.wav") -> str:
    """The path of a recording, as Gradio stores it."""
    path = visits.folder / f"{hash(content):x}" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return str(path)


def files(visits: Visits) -> list[Path]:
    return list(visits.folder.rglob("*"))


# What is heard


def test_bars_hold_what_evaluate_predicts_with_and_without_enrolment(relative: Listener) -> None:
    expected = evaluated(relative.checkpoint, TONES, [[6, 7], [], [], [], [], [], [], []])
    without = evaluated(relative.checkpoint, TONES, [[] for _ in TONES])
    profile = relative.enrol([burst(TONES[6]), burst(TONES[7])])
    heard = relative.hear(burst(TONES[0]), profile)
    assert heard.enrolled is not None
    np.testing.assert_allclose(heard.enrolled, expected[0], atol=1e-5)
    np.testing.assert_allclose(heard.typical, without[0], atol=1e-5)
    assert heard.typical.index.tolist() == ["High", "Loud"]
    assert np.abs(heard.enrolled - heard.typical).max() > 1e-4
    assert relative.hear(burst(TONES[0])).enrolled is None
    assert heard.log_mel.shape == (41, 64)
    assert heard.seconds == pytest.approx(0.4)
    assert heard.peak == pytest.approx(20 * np.log10(0.3), abs=0.1)


def test_categories_are_shares_and_stand_beside_chance() -> None:
    model = listener(task=CATEGORIES)
    heard = model.hear(burst(TONES[0]), model.enrol([burst(TONES[1])]))
    assert heard.enrolled is not None
    assert heard.typical.sum() == pytest.approx(1) == heard.enrolled.sum()
    page = str(words.result(heard, CATEGORIES, True))
    assert "chance (33.3%)" in page
    assert "Joy &lt;b&gt;" in page
    assert "<b>" not in page
    order = heard.enrolled.sort_values(ascending=False).index
    assert [page.index(f">{words.Markup.escape(name)}</div>") for name in order] == sorted(
        page.index(f">{words.Markup.escape(name)}</div>") for name in order
    )
    strongest = f"{words.Markup.escape(order[0])} ({heard.enrolled.max():.1%}) with your enrolment"
    assert strongest in page


def test_a_plain_model_shows_no_enrolment() -> None:
    heard = listener("cnn10").hear(burst(TONES[0]), np.zeros(3, np.float32))
    page = str(words.result(heard, INTENSITIES, False))
    assert heard.enrolled is None
    assert "enrol" not in page
    assert page.count("role=row>") == 2


def test_other_answers_are_shown_too() -> None:
    task = Task("multitask", ("High", "Loud"), ("Chile", "Kenya"))
    labels = np.column_stack([np.random.default_rng(0).random((8, 2)), np.full(8, 30.0), np.zeros(8)])
    network = build_network(systems.find("cnn10"), task, 0.05, 3, "", Clips([], [], {}, labels)).eval()
    heard = Listener(Checkpoint(network, task, FEATURES, "repeat", {})).hear(burst(TONES[0]))
    assert re.fullmatch(r"-?\d+", heard.others["age"])
    assert heard.others["country"] in task.countries


SILENCE = io.BytesIO()
soundfile.write(SILENCE, np.zeros(8_000), 16_000, format="WAV")


@pytest.mark.parametrize(
    ("content", "file", "sentence"),
    [
        (SILENCE.getvalue(), "audio.wav", "Your burst can't be used: nothing was heard: it is silent. Look whether"),
        (b"hello", "a.wav", r"Your burst can't be used: not audio \(.*\)\.$"),
        (b"hello", "my clip.m4a", r"not audio \(.*\); convert it: ffmpeg .* 'my clip.m4a' .*\.$"),
        (b"", "audio.wav", "Your burst can't be used: empty file"),
        (tone(300, 61), "audio.wav", "Your burst can't be used: longer than 60 s"),
        (tone(300, 0.01), "audio.wav", "Your burst can't be used: shorter than 0.016 s"),
        (bytes(MAX_CLIP_BYTES + 1), "audio.wav", "Your burst can't be used: it is larger than 32 MiB"),
    ],
)
def test_what_can_t_be_used_is_a_sentence(content: bytes, file: str, sentence: str, relative: Listener) -> None:
    for call in (lambda: relative.hear(burst(content, file)), lambda: relative.enrol([burst(content, file)])):
        with pytest.raises(InputError, match=sentence):
            call()


def test_what_was_hardly_heard_is_said(relative: Listener) -> None:
    quiet = io.BytesIO()
    soundfile.write(quiet, 0.003 * np.sin(np.arange(8_000) / 9), 16_000, format="WAV")
    heard = relative.hear(burst(quiet.getvalue()))
    assert heard.notes[0].startswith("Hardly anything was heard (peak -50 dB of full scale)")
    assert relative.hear(burst(TONES[0])).notes == []


def test_a_long_list_of_emotions_is_folded_up() -> None:
    task = Task("fewshot", tuple(f"Emotion {number}" for number in range(30)), categories=True)
    values = words.pd.Series(np.linspace(0, 1, 30), index=task.targets)
    page = str(words.result(Heard(values, None, {}, 1.0, -6.0, [], np.zeros((50, 64), np.float32)), task, True))
    assert "20 more" in page
    assert page.index("Emotion 29") < page.index("Emotion 20<") < page.index("20 more") < page.index("Emotion 19")
    assert "chance" not in page.partition("<div class=bars")[0].partition("legend")[2]  # no shares: no line of chance


# Visits


def test_recordings_go_with_the_visit(visits: Visits) -> None:
    assert visits.folder.stat().st_mode & 0o077 == 0
    mine = uploaded(visits, b"mine")
    assert visits.read("ann", "burst", mine) == b"mine"
    again = uploaded(visits, b"again")
    visits.hold("ann", "burst", again)
    assert not Path(mine).exists()
    visits.of("ann").profile = np.ones(3, np.float32)
    visits.end("ann")
    assert files(visits) == []
    assert visits.of("ann").profile is None


def test_visitors_do_not_mix(visits: Visits) -> None:
    """Also where two give the same file, which Gradio stores once."""
    same = uploaded(visits, b"same")
    for session in ("ann", "bob"):
        visits.hold(session, "burst", same)
    visits.of("ann").profile = np.ones(3, np.float32)
    assert visits.of("bob").profile is None
    visits.end("ann")
    assert visits.read("bob", "burst", same) == b"same"
    visits.end("bob")
    assert files(visits) == []


def test_what_no_visit_holds_is_swept(visits: Visits, monkeypatch: pytest.MonkeyPatch) -> None:
    left, held, young = (Path(uploaded(visits, name)) for name in (b"left", b"held", b"young"))
    visits.hold("ann", "burst", str(held))
    for path in (left, held, left.parent, held.parent):
        os.utime(path, (0, 0))
    visits.sweep()
    assert [path.exists() for path in (left, held, young)] == [False, True, True]
    monkeypatch.setattr(visits_module, "LONGEST", 0.0)
    visits.of("bob").connected = True
    visits.of("bob").profile = np.ones(3, np.float32)
    time.sleep(0.01)
    visits.sweep()
    assert not held.exists()
    assert visits.of("bob").profile is not None


def test_other_files_of_the_machine_are_none_of_its_business(visits: Visits, tmp_path: Path) -> None:
    secret = tmp_path / "secret.wav"
    secret.write_bytes(TONES[0])
    for path in (str(secret), f"{visits.folder}/../secret.wav", "/etc/passwd"):
        with pytest.raises(InputError, match="no recording of this page"):
            visits.read("ann", "burst", path)
    assert secret.exists()


def test_folders_of_killed_pages_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    killed, running, other = (tmp_path / f"{PREFIX}{name}" for name in (f"{2**22 + 1}-a", f"{os.getpid()}-b", "x-c"))
    for folder in (killed, running, other):
        folder.mkdir()
    Visits().close()
    assert [folder.exists() for folder in (killed, running, other)] == [False, True, True]


def test_gradio_tells_nobody_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"GRADIO_SHARE": "True", "GRADIO_ALLOWED_PATHS": "/", "PATH": "/bin"}
    monkeypatch.setattr(os, "environ", environment)
    settle(tmp_path)
    assert environment["GRADIO_ANALYTICS_ENABLED"] == environment["GRADIO_SHARE"] == "False"
    assert "GRADIO_ALLOWED_PATHS" not in environment
    assert environment["GRADIO_TEMP_DIR"] == str(tmp_path)
    assert environment["PATH"] == "/bin"


# The guard


class Behind:
    """In place of Gradio's app: it notes what gets through, and holds heartbeats until they are cancelled."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, bytes]] = []
        self.hold = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = (await receive()).get("body", b"") if scope["method"] == "POST" else b""
        self.asked.append((scope["path"], body))
        if "heartbeat" in scope["path"]:
            await self.hold.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"Cache-Control", b"public")]})
        await send({"type": "http.response.body", "body": b"fine"})


def ask(guard: Guard, path: str, body: bytes | None = None, **headers: str) -> tuple[int, dict[str, str], str]:
    """The status, headers and body of an answer."""
    return asyncio.run(asked(guard, path, body, **headers))


async def asked(guard: Guard, path: str, body: bytes | None = None, **headers: str) -> tuple[int, dict[str, str], str]:
    sent: list[Any] = []
    pairs = {"host": "127.0.0.1:7860", "content-length": str(len(body or b""))} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    scope: dict[str, Any] = {"type": "http", "path": path, "method": "GET" if body is None else "POST"}
    scope |= {"query_string": b"", "scheme": "http", "server": ("127.0.0.1", 7860), "client": ("127.0.0.1", 1)}
    scope["headers"] = [(name.encode(), value.encode()) for name, value in pairs.items()]

    async def receive() -> Any:
        return {"type": "http.request", "body": body or b""}

    async def send(message: Any) -> None:
        sent.append(message)

    await guard(scope, receive, send)
    answered = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], answered, b"".join(message.get("body", b"") for message in sent[1:]).decode()


def test_the_guard_lets_through_what_the_page_needs(visits: Visits) -> None:
    behind = Behind()
    guard = Guard(behind, visits, loopback=True)
    file = uploaded(visits, TONES[0])
    call = b'{"data": [{"path": "%s"}], "session_hash": "ann"}' % file.encode()
    needed = [("/", None), ("/assets/index.js", None), (f"{API}/file={file}", None), (f"{API}/queue/join", call)]
    needed.append((f"{API}/upload", b"form"))
    for path, body in needed:
        status, headers, text = ask(guard, path, body)
        assert (status, text) == (200, "fine"), path
        assert "default-src 'self'" in headers["content-security-policy"]
        assert headers["cache-control"] == ("no-store" if path.startswith(API) else "public")
    assert behind.asked == [(path, body or b"") for path, body in needed]


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "sentence"),
    [
        ("/docs", None, {}, 404, "no such page"),
        ("/monitoring", None, {}, 404, "no such page"),
        (f"{API}/proxy=https://a.hf.space/", None, {}, 404, "no such page"),
        (f"{API}/run-history/connect", b"{}", {}, 404, "no such page"),
        (f"{API}/call/hear", b"{}", {}, 404, "no such page"),
        (f"{API}/deep_link", None, {}, 404, "no such page"),
        (f"{API}/file=/etc/passwd", None, {}, 403, "no recording of this page"),
        (f"{API}/file=https://example.org/a.wav", None, {}, 403, "no recording of this page"),
        (f"{API}/queue/join", b'{"data": [{"path": "https://example.org/a.wav"}]}', {}, 403, "no recording"),
        (f"{API}/queue/join", b'{"data": [[{"a": {"path": "/etc/passwd"}}]]}', {}, 403, "no recording"),
        (f"{API}/queue/join", b'{"data": [{"path": null}]}', {}, 403, "no recording"),
        (f"{API}/queue/join", b"no JSON", {}, 400, "no JSON"),
        (f"{API}/queue/join", b"[" * 60_000, {}, 400, "no JSON"),
        (f"{API}/queue/join", b"[" * 600 + b"]" * 600, {}, 400, "too deep"),
        (f"{API}/queue/join", b" " * 70_000, {}, 413, "too large"),
        (f"{API}/upload", b"", {"content_length": str(MAX_CLIP_BYTES * 2)}, 413, "larger than 32 MiB"),
        (f"{API}/upload", b"", {"content_length": "-1"}, 411, "how long"),
        ("/", None, {"host": "evil.example:7860"}, 403, "for this machine alone"),
    ],
)
def test_the_guard_refuses_all_else(
    path: str, body: bytes | None, headers: dict[str, str], status: int, sentence: str, visits: Visits
) -> None:
    behind = Behind()
    found, _, text = ask(Guard(behind, visits, loopback=True), path, body, **headers)
    assert (found, behind.asked) == (status, [])
    assert sentence in text


def test_recordings_of_all_visits_have_a_limit(visits: Visits) -> None:
    with Path(uploaded(visits, b"large")).open("wb") as file:
        file.truncate(MAX_HELD - 3)
    assert ask(Guard(Behind(), visits, True), f"{API}/upload", b"form")[0] == 503
    assert ask(Guard(Behind(), visits, True), f"{API}/upload", b"for")[0] == 200


def test_a_visit_ends_when_its_connection_does(visits: Visits) -> None:
    async def visit() -> None:
        behind = Behind()
        guard = Guard(behind, visits, True)
        open_ones = [asyncio.create_task(asked(guard, f"{API}/heartbeat/{name}")) for name in ("ann", "bob")]
        await asyncio.sleep(0.05)
        for name in ("ann", "bob"):
            visits.hold(name, "burst", uploaded(visits, name.encode()))
        open_ones[0].cancel()  # as uvicorn does when the browser closes it
        await asyncio.gather(open_ones[0], return_exceptions=True)
        assert [path.read_bytes() for path in files(visits) if path.is_file()] == [b"bob"]
        behind.hold.set()
        await open_ones[1]

    asyncio.run(visit())
    assert files(visits) == []


def test_every_name_reaches_a_page_that_is_open_to_others(visits: Visits) -> None:
    assert ask(Guard(Behind(), visits, loopback=False), "/", host="listener.example")[0] == 200


# The page


def visitor(session: str) -> Any:
    return SimpleNamespace(session_hash=session)


def test_several_visitors_at_once_get_their_own_numbers(relative: Listener, visits: Visits) -> None:
    page = pytest.importorskip("exvo.demo.page").Page(relative, visits)

    def visit(number: int) -> str:
        """Enrols with a clip of one's own, then all give the same burst."""
        session = visitor(f"visitor{number}")
        own = uploaded(visits, TONES[number], f"{number}.wav")
        assert page.enrol(own, None, session)[:2] == (None, None)
        return str(page.hear(uploaded(visits, TONES[7], f"burst{number}.wav"), session))

    with ThreadPoolExecutor(4) as pool:
        pages = list(pool.map(visit, range(4)))
    expected = evaluated(relative.checkpoint, TONES, [[], [], [], [], [], [], [], []])[7]
    for number, text in enumerate(pages):
        enrolled = evaluated(relative.checkpoint, TONES, [[]] * 7 + [[number]])[7]
        found = [float(value) for value in re.findall(r"<div class=(?:typical|enrolled)>([-\d.]+)<", text)]
        pairs = [[expected[target], enrolled[target]] for target in np.argsort(-enrolled)]
        np.testing.assert_allclose(np.reshape(found, (2, 2)), pairs, atol=6e-4)
    assert len(set(pages)) == 4
    left = sorted(path.name for path in files(visits) if path.is_file())
    assert left == [f"burst{number}.wav" for number in range(4)]
    for number in range(4):
        visits.end(f"visitor{number}")
    assert files(visits) == []


def test_buttons_without_recordings_say_so(relative: Listener, visits: Visits) -> None:
    page = pytest.importorskip("exvo.demo.page").Page(relative, visits)
    assert "There is no burst yet" in page.hear(None, visitor("ann"))
    assert "There is no clip yet" in page.enrol(None, None, visitor("ann"))[2]
    silent = uploaded(visits, SILENCE.getvalue())
    assert "A clip of you can&#39;t be used: nothing was heard" in page.enrol(silent, None, visitor("ann"))[2]
    page.enrol(uploaded(visits, TONES[0]), None, visitor("ann"))
    assert visits.of("ann").profile is not None
    page.forget(visitor("ann"))
    assert visits.of("ann").profile is None


@pytest.mark.parametrize("system", ["cnn10", "cnn10-relative"])
def test_the_page_loads_nothing_from_elsewhere(system: str, visits: Visits) -> None:
    page = pytest.importorskip("exvo.demo.page")
    guard = page.app(listener(system), visits, "a <model>", "it reaches a CCC of 0.4", "# Card", True)
    status, _, text = ask(guard, "/")
    assert status == 200
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=\"?(https?:)?//", text)
    assert "a &lt;model&gt;" in text or "a \\u0026lt;model" in text or "a &amp;lt;model" in text
    assert "It reaches a CCC of 0.4." in text
    assert ("Your voice" in text) == (system == "cnn10-relative")
    styles = ask(guard, "/theme.css")[2]
    assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", styles)


# The command


def test_a_taken_port_is_a_sentence(store: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    pytest.importorskip("gradio")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run_here("demo", {"port": str(port)}, monkeypatch) == 2
    assert f"exvo: The page can't answer on host=127.0.0.1, port={port} (" in capsys.readouterr().err


def test_without_the_extra_a_sentence_names_it(store: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert run_here("demo", {}, monkeypatch) == 2
    assert 'exvo demo needs gradio, which is not installed: pip install "exvo[demo]"' in capsys.readouterr().err


def test_without_a_model_a_sentence_says_how_to_get_one(
    store: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    pytest.importorskip("gradio")
    assert run_here("demo", {"port": "17861"}, monkeypatch) == 2
    assert "register one with" in capsys.readouterr().err
    assert MlflowClient().search_runs(["0"]) == []


def test_the_page_shows_the_card_of_the_registered_model(
    tiny_corpus: Path, store: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """And says of a run that is not registered how to register it; the command makes no run."""
    page = pytest.importorskip("exvo.demo.page")
    given: list[Any] = []
    monkeypatch.setattr(page, "serve", lambda guard, opened: None)
    monkeypatch.setattr(page, "app", lambda *words: given.append(words))
    options = {"model": "cnn10-relative", "corpus": "table", "data": str(tiny_corpus), "epochs": "1", "width": "0.05"}
    assert run_here("train", options, monkeypatch) == 0
    trained = newest()
    demo = {"port": "17862", "model_uri": trained.info.run_id}
    for registered in (False, True):
        if registered:
            assert run_here("register", {"gate": "none", "run_id": trained.info.run_id}, monkeypatch) == 0
        before = len(MlflowClient().search_runs(["0"]))
        assert run_here("demo", demo if not registered else {"port": "17862"}, monkeypatch) == 0
        assert len(MlflowClient().search_runs(["0"])) == before
        card = given[-1][4]
        assert card.startswith("# Model card: cnn10-relative" if registered else "This model is not registered")
        assert ("register --run_id=" in card) != registered
    assert given[0][2] == f"cnn10-relative of run {trained.info.run_id}"
    assert "chance is 0" in given[0][3]
    said = capsys.readouterr().out
    assert "open http://127.0.0.1:17862" in said
    assert "The page has ended; all recordings are deleted." in said
    assert not given[0][1].folder.exists()
