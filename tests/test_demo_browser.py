"""The page in a real Chromium whose microphone plays a real clip: recorded, enrolled, recognised, forgotten."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import soundfile
import soxr
from mlflow import MlflowClient

from exvo.experiments import train
from exvo.settings import TrainSettings

from helpers.browser import CHROMIUM, Browser, Tab, wait_for
from helpers.commands import ROOT, run_here
from helpers.networks import task_without_limits
from helpers.servers import free_port

pytest.importorskip("gradio")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium (or Chrome) is installed here"),
]


@dataclass(frozen=True)
class Demo:
    """The page, answering.

    Attributes:
        url: its address.
        run_id: the run of its model.
        temporary: the folder in which its private one lies.
    """

    url: str
    run_id: str
    temporary: Path

    def files(self) -> list[Path]:
        """All files that it keeps."""
        return [path for path in self.temporary.glob("exvo-demo-*/**/*") if path.is_file()]


@pytest.fixture(scope="module")
def demo(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """`exvo demo` in a process of its own, with a personalised model in a store of its own."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "temporary").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("exvo.experiments.train.make_task", task_without_limits)
        uri = f"sqlite:///{folder}/mlflow.db"
        mlflow.set_tracking_uri(uri)
        options = {"corpus": "table", "data": str(tiny_corpus), "epochs": 1, "width": 0.05, "learning_rate": 0.01}
        train.run(TrainSettings(**options, model="cnn10-relative"))
        (run,) = MlflowClient().search_runs(["0"])
        port = free_port()
        words = [sys.executable, "-m", "exvo", "demo", f"--port={port}", f"--model_uri={run.info.run_id}"]
        own = {"MLFLOW_TRACKING_URI": uri, "TMPDIR": str(folder / "temporary"), "PYTHONPATH": str(ROOT)}
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(words, env=os.environ | own, stdout=log, stderr=log)
        try:
            wait_for(lambda: b"\nopen http" in (folder / "log").read_bytes(), 120, "the page's address")
            yield Demo(f"http://127.0.0.1:{port}/", run.info.run_id, folder / "temporary")
        finally:
            process.send_signal(signal.SIGTERM)
            status = process.wait(60)
            mlflow.set_tracking_uri(None)
    said = (folder / "log").read_text()
    assert status == 0, said
    assert "Traceback" not in said
    assert list((folder / "temporary").glob("exvo-demo-*")) == []


@pytest.fixture(scope="module")
def microphone(emogator_mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the microphone plays: a real burst, again and again."""
    samples, rate = soundfile.read(min((emogator_mini / "data" / "mp3").glob("*.mp3")))
    mono = samples if samples.ndim == 1 else samples.mean(axis=1)
    file = tmp_path_factory.mktemp("microphone") / "burst.wav"
    soundfile.write(file, soxr.resample(mono / np.abs(mono).max() / 2, rate, 48_000), 48_000, subtype="PCM_16")
    return file


@pytest.fixture
def browser(microphone: Path, tmp_path: Path) -> Iterator[Browser]:
    with Browser(tmp_path / "profile", microphone) as one:
        yield one


def record(tab: Tab, place: str, seconds: float) -> None:
    """Records for a while, and waits until the recording has been sent."""
    tab.click(f"#{place} .record-button")
    tab.until(f"getComputedStyle(document.querySelector('#{place} .stop-button')).display != 'none'")
    time.sleep(seconds)
    tab.click(f"#{place} .stop-button")
    tab.until(f"!!document.querySelector('#{place} .play-pause-button')")


def shown(tab: Tab, kind: str) -> list[float]:
    """The numbers of the bars of a kind, in the order of the names."""
    rows = "[...document.querySelectorAll('#answer .row')]"
    value = f"row.querySelector('.value .{kind}')?.innerText ?? 'nan'"
    pairs = tab.js(f"{rows}.map(row => [row.querySelector('.name').innerText, {value}])")
    return [float(value) for _, value in sorted(pairs)]


def predicted(demo: Demo, folder: Path, audio: Path, enrolment: list[Path], patch: pytest.MonkeyPatch) -> list[float]:
    """What `predict` says of the same bytes."""
    options = {"model_uri": demo.run_id, "audio": str(audio), "save": str(folder / "answer.parquet")}
    options |= {"enrolment": ",".join(map(str, enrolment))} if enrolment else {}
    assert run_here("predict", options, patch) == 0
    table = pd.read_parquet(folder / "answer.parquet")
    return [float(table[name].iloc[0]) for name in sorted(table.columns.drop(["file", "warnings"]))]


def test_recorded_enrolled_recognised_and_forgotten(
    demo: Demo, browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tab = browser.open(demo.url)
    tab.until("!!document.querySelector('#hear')")
    assert "Nothing is stored" in tab.text()
    assert "chance is 0" in tab.text()
    assert tab.js("document.querySelector('#hear').disabled && document.querySelector('#enrol').disabled")
    record(tab, "one", 1.5)
    first = wait_for(demo.files, 20)
    record(tab, "two", 2.0)
    wait_for(lambda: len(demo.files()) == 2, 20)
    clips = [*first, *(path for path in demo.files() if path not in first)]
    kept = [shutil.copy(clip, tmp_path / f"clip{number}.wav") for number, clip in enumerate(clips)]
    tab.click("#enrol")
    tab.until("document.querySelector('#status').innerText.startsWith('You are enrolled from 2 clips')")
    wait_for(lambda: not demo.files(), 20, "the clips are deleted")

    record(tab, "burst", 1.5)
    (heard,) = wait_for(demo.files, 20)
    burst = Path(shutil.copy(heard, tmp_path / "burst.wav"))
    assert float(np.abs(soundfile.read(burst)[0]).max()) > 0.1  # the microphone as it is
    tab.click("#hear")
    tab.until("!!document.querySelector('#answer svg')")
    expected = [predicted(demo, tmp_path, burst, list(map(Path, clips)), monkeypatch) for clips in ([], kept)]
    assert np.abs(np.subtract(*expected)).max() > 1e-3
    np.testing.assert_allclose(shown(tab, "typical"), expected[0], atol=6e-4)
    np.testing.assert_allclose(shown(tab, "enrolled"), expected[1], atol=6e-4)
    assert "with your enrolment" in tab.text("#answer .verdict")

    tab.resize(390, 844)
    tab.until("window.innerWidth == 390")
    assert tab.js("document.documentElement.scrollWidth") <= 390
    tab.resize(1200, 900)
    other = browser.open(demo.url, dark=True)  # a second visitor, whom nobody has enrolled
    other.until("!!document.querySelector('#hear')")
    assert max(map(int, other.js("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3)"))) < 60
    assert other.text("#status") == "You are not enrolled."
    drop(other, burst)
    other.click("#hear")
    other.until("!!document.querySelector('#answer svg')")
    np.testing.assert_allclose(shown(other, "typical"), expected[0], atol=6e-4)
    assert np.isnan(shown(other, "enrolled")).all()

    for one in (tab, other):
        assert one.elsewhere() == []
        assert one.js("document.cookie + localStorage.length") in ("0", 0)
        one.close()
    wait_for(lambda: not demo.files(), 20, "the folder is empty once the page is closed")


def drop(tab: Tab, file: Path) -> None:
    """Gives a file in place of a burst."""
    tab.click("#burst [aria-label='Upload file']")
    tab.drop("#burst input[type=file]", file)


def test_a_file_in_place_of_a_recording(
    demo: Demo, browser: Browser, emogator_mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    clip = max((emogator_mini / "data" / "mp3").glob("*.mp3"))
    tab = browser.open(demo.url)
    tab.until("!!document.querySelector('#hear')")
    drop(tab, clip)
    tab.click("#hear")
    tab.until("!!document.querySelector('#answer svg')")
    np.testing.assert_allclose(shown(tab, "typical"), predicted(demo, tmp_path, clip, [], monkeypatch), atol=6e-4)


def test_a_silent_microphone_is_a_sentence(demo: Demo, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silence.wav", np.zeros(96_000), 48_000, subtype="PCM_16")
    with Browser(tmp_path / "profile", tmp_path / "silence.wav") as browser:
        tab = browser.open(demo.url)
        record(tab, "burst", 1.0)
        tab.click("#hear")
        tab.until("document.querySelector('#answer').innerText.includes('nothing was heard: it is silent')")


def test_a_refused_microphone_is_a_sentence(demo: Demo, tmp_path: Path) -> None:
    with Browser(tmp_path / "profile", None) as browser:
        tab = browser.open(demo.url)
        tab.click("#burst .record-button")
        tab.until("document.querySelector('#microphone').innerText.startsWith('The browser was not allowed')")
        assert tab.js("document.querySelector('#hear').disabled")
