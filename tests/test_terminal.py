"""What is printed stops nothing: no reader, a closed stream, a full disk, a terminal that has gone or lacks letters."""

from __future__ import annotations

import os
import pty
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from exvo.text import PLAIN, writable

from helpers.commands import ROOT
from helpers.processes import Process

SPEAK = """
import os, sys
from exvo.experiments.process import lasting_streams

with lasting_streams():
    from tqdm import tqdm

    for number in tqdm(range(3000)):
        print(number, "█ ± José \\udce9", flush=number % 2 == 0)
    print("an error", file=sys.stderr)
    with open("result", "w") as file:
        assert file.fileno() > 2
        file.write("all of it")
"""

LAST = "2999 █ ± José \\xe9"
SMALL = {"model": "cnn10", "corpus": "table", "batch_size": "4", "width": "0.05", "workers": "1"}


def shell(line: str, code: str = SPEAK, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """What bash does with a line in which `$PY` is Python, with the code."""
    environment = {name: value for name, value in os.environ.items() if name not in ("LC_ALL", "PYTHONUTF8")}
    environment |= {"PY": sys.executable, "CODE": code, "PYTHONPATH": str(ROOT)} | variables
    return subprocess.run(["bash", "-c", line], env=environment, capture_output=True, timeout=250, check=False)


@pytest.mark.parametrize("buffered", ["", "-u"])
@pytest.mark.parametrize(
    ("streams", "said"),
    [
        (">&-", ""),
        ("2>&-", ""),
        (">&- 2>&- <&-", ""),
        ("</dev/null 1<&0", ""),
        (">/dev/full", "What was printed is not complete (No space left on device)."),
        (">/dev/full 2>/dev/full", ""),
        ("2>/dev/full", ""),
    ],
)
def test_streams_that_take_nothing(
    streams: str, said: str, buffered: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = shell(f'$PY {buffered} -c "$CODE" {streams}')
    assert done.returncode == 0, done.stderr
    assert Path("result").read_text() == "all of it"
    assert b"Traceback" not in done.stderr
    assert said in done.stderr.decode()
    if streams.startswith("2>"):
        assert LAST in done.stdout.decode().splitlines()
    elif "2>" not in streams and "1<" not in streams:
        assert b"an error\n" in done.stderr


@pytest.mark.parametrize("streams", ["", "2>&1"])
def test_a_reader_that_goes(streams: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = shell(f'$PY -c "$CODE" {streams} | head -1; exit ${{PIPESTATUS[0]}}')
    assert done.returncode == 0
    assert done.stdout.count(b"\n") == 1
    assert Path("result").read_text() == "all of it"
    assert b"Traceback" not in done.stderr
    assert b"exvo: " not in done.stderr  # it went on purpose


def test_a_pipe_that_does_not_wait_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = "import os\nos.set_blocking(1, False)\n" + SPEAK
    done = shell('$PY -c "$CODE" | (sleep 0.5; cat)', code)
    assert LAST in done.stdout.decode().splitlines()
    assert done.stdout.count(b"\n") == 3000


@pytest.mark.parametrize(
    ("encoding", "line"),
    [("ascii", rb"2999 # +- Jos\xe9 \xe9"), ("latin-1", b"2999 # \xb1 Jos\xe9 \\xe9"), ("utf-8", LAST.encode())],
)
def test_a_terminal_that_lacks_letters(
    encoding: str, line: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = shell('$PY -c "$CODE"', PYTHONIOENCODING=encoding)
    assert done.returncode == 0
    assert line in done.stdout.splitlines()


def test_our_own_characters_have_plain_ones() -> None:
    assert writable("".join(PLAIN), "ascii") == "".join(PLAIN.values())
    assert writable("".join(PLAIN)) == "".join(PLAIN)


@pytest.mark.parametrize("options", ["", "-X utf8=0"])
def test_names_of_files_are_utf8_wherever_the_terminal_is_from(options: str) -> None:
    code = "import sys; from exvo.experiments.process import use_utf8; use_utf8()\n"
    code += "print(sys.getfilesystemencoding(), end=' ')"
    code += "\nprint(sys.stdout.encoding, sys.argv[1:] == ['caf\\xe9'])"
    done = shell(
        f"$PY {options} -c \"$CODE\" 'café'", code, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", LANG="C"
    )
    expected = b"ascii ascii False\n" if options else b"utf-8 ascii True\n"  # who asks Python twice gets it
    assert done.stdout.lower().replace(b"ansi_x3.4-1968", b"ascii").replace(b"us-ascii", b"ascii") == expected.lower()


def test_a_hangup_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = "import os, signal\nfrom exvo.experiments.process import stoppable\nwith stoppable():\n"
    code += "    os.kill(os.getpid(), signal.SIGHUP)\n    open('result', 'w').write('on')\n"
    assert shell('$PY -c "$CODE"', code).returncode == 0
    assert Path("result").read_text() == "on"


def words(entry_point: str, options: dict[str, str]) -> list[str]:
    given = [word for name, value in options.items() for word in (f"--{name}", value)]
    return [sys.executable, "-m", "exvo", entry_point, *given]


@pytest.mark.slow
def test_a_training_outlives_its_terminal(store: str, tiny_corpus: Path) -> None:
    """A real terminal, with its bars, that is closed after the first epoch."""
    master, slave = pty.openpty()
    options = SMALL | {"data": str(tiny_corpus), "epochs": "30"}
    process = Process("train", options, store, terminal=slave)
    os.close(slave)
    seen = b""
    while b"epoch   1/30" not in seen:
        seen += os.read(master, 1000)
    os.close(master)
    for _ in range(1200):
        (run,) = MlflowClient().search_runs(["0"])
        if run.info.status != "RUNNING":
            break
        time.sleep(0.1)
    assert run.info.status == "FINISHED"
    assert len(MlflowClient().get_metric_history(run.info.run_id, "epoch/loss")) == 30
    assert process.wait(30) == 0


@pytest.mark.long
@pytest.mark.timeout(900)
def test_real_commands_with_their_workers(store: str, tiny_corpus: Path) -> None:
    """Extraction and tuning in processes, and the entry points that print most, each with another trouble."""
    options = SMALL | {"data": str(tiny_corpus), "epochs": "1"}
    tune = options | {"workers": "2", "trials": "3", "search": "dropout"}
    lines = [
        (f"{shlex.join(words('train', options | {'workers': '2'}))} >&- 2>&-", ""),
        (f"{shlex.join(words('tune', tune))} >/dev/full 2>/dev/full <&-", ""),
        (f"{shlex.join(words('evaluate', {'run_id': 'cnn10'}))} | head -1", ""),
        (shlex.join(words("compare", {})), "ascii"),
        (f"{shlex.join(words('predict', {'model_uri': 'cnn10', 'audio': str(tiny_corpus)}))} 2>&-", "ascii"),
    ]
    for line, encoding in lines:
        variables = {"MLFLOW_TRACKING_URI": store} | ({"PYTHONIOENCODING": encoding} if encoding else {})
        done = shell(f"set -o pipefail; {line}", **variables)
        assert done.returncode == 0, line
        assert b"Traceback" not in done.stdout + done.stderr, line
    assert {run.info.status for run in MlflowClient().search_runs(["0"])} <= {"FINISHED", "KILLED"}
