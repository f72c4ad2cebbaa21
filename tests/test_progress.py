"""What long work says: a bar on a terminal, elsewhere a line a minute, and nothing about short work."""

from __future__ import annotations

import io
import sys

import pytest

from exvo import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, as a list of one number that a test sets."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_line_each_minute_where_there_is_no_terminal(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress.counting("epoch 3/60", 30_000, "clip") as done:
        for _ in range(15):
            clock[0] += 20
            done(2_000)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "epoch 3/60: 6,000 of 30,000 clips, about 4 min left",
        "epoch 3/60: 12,000 of 30,000 clips, about 3 min left",
        "epoch 3/60: 18,000 of 30,000 clips, about 2 min left",
        "epoch 3/60: 24,000 of 30,000 clips, about 60 s left",
    ]  # at the end the work says itself what it has done


def test_short_work_says_nothing(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    for item in progress.followed(["a", "b"], "reading", "clip"):
        clock[0] += 29
        assert item in "ab"
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(progress.followed([1, 2, 3], "reading", "clip")) == [1, 2, 3]
    assert "reading: 100%" in terminal.getvalue() or "reading:   0%" in terminal.getvalue()


@pytest.mark.parametrize("stream", [None, io.StringIO()])
def test_without_a_name_or_a_stream_it_is_silent(stream: io.StringIO | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    with progress.counting("", 2, "clip") as done:
        done(1)
    with progress.counting("work", 2, "clip") as done:
        done(1)
    assert stream is None or stream.getvalue() == ""
