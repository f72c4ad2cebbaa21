"""The option `devices` and torchrun: processes that train together, are killed, and go on in another number."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from exvo.experiments.process import RANKS

from helpers.commands import ROOT, SMALL, history, newest, run_here
from helpers.processes import Process, environment, started

OPTIONS = SMALL | {"model": "cnn10", "precision": "float32", "learning_rate": "0.01", "devices": "2"}


def rank_of(command: Process, number: int) -> psutil.Process:
    """One of the ranks that a command has started."""
    for child in psutil.Process(command.pid).children():
        if child.environ().get("RANK") == str(number) and RANKS in child.environ():
            return child
    raise AssertionError(f"there is no rank {number}")


@pytest.mark.slow
def test_a_rank_is_killed_and_one_device_goes_on(
    tiny_corpus: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = OPTIONS | {"data": str(tiny_corpus), "epochs": "300"}
    with started("train", options, store) as command:
        assert command.stdout is not None
        text = ""
        while not re.search(r"^epoch +2/", text, re.MULTILINE):
            line = command.stdout.readline()
            assert line, text
            text += line
        rank_of(command, 1).send_signal(signal.SIGKILL)
        killed = time.monotonic()
        rest, _ = command.communicate()
    assert command.returncode == 1
    assert time.monotonic() - killed < 60
    sentences = re.findall("^exvo: .*", rest, re.MULTILINE)
    assert sentences == [
        "exvo: Rank 1 of 0 to 1 was ended by SIGKILL, so the others were stopped; the same command goes on."
    ]
    assert "Traceback" not in rest
    assert "2 devices share out each batch; batch norm of each has the statistics of its own part alone" in text
    assert text.count("epoch   1/300") == 1  # the other rank prints nothing
    run = newest()
    assert run.data.params["devices"] == "2"
    last = max(step for step, _ in history(run)["epoch/loss"])

    from exvo.training import loop

    monkeypatch.setattr(loop, "stops_early", lambda best, number, config: number > last + 2)
    assert run_here("train", options | {"devices": "1"}, monkeypatch) == 0
    assert newest().info.run_id == run.info.run_id
    assert newest().info.status == "FINISHED"
    assert [step for step, _ in history(newest())["epoch/loss"]] == list(range(1, last + 3))


@pytest.mark.slow
def test_torchrun_and_what_it_refuses(tiny_corpus: Path, store: str) -> None:
    folder = Path(sys.executable).parent
    options = OPTIONS | {"data": str(tiny_corpus), "epochs": "1", "output": str(Path.cwd() / "output")}
    del options["devices"]
    words = [str(folder / "torchrun"), "--standalone", "--nproc-per-node", "2", "-m", "pipelines.train"]
    words += [word for name, value in options.items() for word in (f"--{name}", value)]
    variables = environment(store) | {"GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, env=variables, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch   1/1") == 1
    assert newest().data.params["devices"] == "2"
    assert newest().info.status == "FINISHED"


@pytest.mark.slow
def test_a_mistake_is_one_sentence_and_a_stop_another(tiny_corpus: Path, store: str) -> None:
    """What only the first rank finds out is printed once, with its status."""
    options = OPTIONS | {"data": str(tiny_corpus), "init": "runs:/none", "epochs": "2"}
    with started("train", options, store) as command:
        text, _ = command.communicate()
    assert command.returncode == 2, text
    assert len(re.findall("^exvo: ", text, re.MULTILINE)) == 1
    assert "Traceback" not in text
    with started("train", options | {"init": "", "epochs": "300"}, store) as command:
        assert command.stdout is not None
        while not command.stdout.readline().startswith("epoch   2"):
            assert command.poll() is None
        command.send_signal(signal.SIGTERM)
        text, _ = command.communicate()
    assert command.returncode == 143
    assert re.search(r"^exvo: Stopped; the same command goes on in the same run, from epoch \d+\.$", text, re.MULTILINE)
    assert len(re.findall("^exvo: ", text, re.MULTILINE)) == 1
    assert newest().info.status == "KILLED"


def test_what_devices_do_not_do(tiny_corpus: Path, store: str, monkeypatch: pytest.MonkeyPatch, capfd: object) -> None:
    options = OPTIONS | {"data": str(tiny_corpus)}
    assert run_here("tune", options, monkeypatch) == 2
    assert run_here("train", options | {"batch_size": "3"}, monkeypatch) == 2
    _, errors = capfd.readouterr()  # type: ignore[attr-defined]
    first, second = errors.splitlines()
    assert first.startswith("exvo: devices=2: a study shares out its trials, not their batches; leave devices out")
    assert second.startswith("exvo: batch_size=3 is too small for devices=2")
    assert RANKS not in os.environ
