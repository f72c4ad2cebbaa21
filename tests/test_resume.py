"""Killed, stopped and damaged trainings go on where they were, and give what undisturbed ones give, bit for bit."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run
from safetensors.torch import load_file, save_file

from exvo import machine
from exvo.enrolment import Draw
from exvo.errors import InputError
from exvo.experiments import process
from exvo.experiments.evaluate import evaluate
from exvo.experiments.process import hold
from exvo.features import audio, extraction
from exvo.networks.network import Network
from exvo.training.augmentation import Augment
from exvo.training.config import TrainingConfig
from exvo.training.loop import Validation, fit
from exvo.training.states import Epoch, States

from helpers.commands import SMALL, at_epoch, check_equal, equal, history, newest, run_here, weights
from helpers.corpora import write_table_corpus
from helpers.networks import TASK, config, make_clips, make_network
from helpers.processes import started
from helpers.studies import new_study

SMALL |= {"learning_rate": "0.01", "precision": "float32"}

# The loop over epochs

SCORES = [0.1, 0.3, math.nan, 0.2, 0.2, 0.2, 0.2, 0.2, 0.4, 0.1]  # the step size falls after the eighth epoch


class Killed(Exception):
    """In place of a kill, which leaves the same files behind."""


def fitted(
    folder: Path, given: TrainingConfig, until: int = 99, at: str = "report", **options: object
) -> tuple[dict[str, torch.Tensor], list[tuple[float, ...]]]:
    """Trains on, until an epoch: weights at the end and what each epoch of this process gave."""
    told: list[str] = []
    states = States(folder / "best.safetensors", "settings", told.append)
    network = make_network(given.seed, **options)
    epochs: list[Epoch] = []

    def number() -> int:
        return states.epoch + 1

    def validate(network: Network) -> Validation:
        if number() == until and at == "validate":
            raise Killed
        return Validation(SCORES[number() - 1])

    def save_best(weights: Mapping[str, torch.Tensor], epoch: Epoch) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "new").unlink(missing_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / "new")
        (folder / "new").replace(folder / "best.safetensors")

    def on_epoch(epoch: Epoch) -> None:
        assert epoch.number == number()
        if number() == until:
            raise Killed
        epochs.append(epoch)

    with contextlib.suppress(Killed):
        fit(network, TASK, make_clips(6), given, validate, save_best, on_epoch, states)
    return network.state_dict(), [
        (epoch.number, epoch.loss, epoch.learning_rate, epoch.score, epoch.best) for epoch in epochs
    ]


@pytest.mark.parametrize(
    ("optimizer", "options", "draw"),
    [
        ("sgd", {}, None),
        ("adam", {}, None),
        ("adamw", {"enrolment": "cnn10", "fusion": "attention"}, Draw(2, itself=True, shared=False)),
        ("sgd", {"enrolment": "shared", "fusion": "relative"}, Draw(2, itself=False, shared=True)),
    ],
    ids=["sgd", "adam", "attention", "relative"],
)
def test_training_goes_on_bit_for_bit_from_every_epoch(
    optimizer: str, options: dict[str, object], draw: Draw | None, tmp_path: Path
) -> None:
    given = config(optimizer=optimizer, draw=draw, epochs=len(SCORES))
    whole, epochs = fitted(tmp_path / "whole", given, **options)
    assert epochs[-1][2] < epochs[0][2]  # the step size has fallen
    best = (tmp_path / "whole" / "best.safetensors").read_bytes()
    for at in ("report", "validate"):
        folder, gathered = tmp_path / at, []
        for until in range(1, len(SCORES) + 1):  # killed in every epoch, one after the other
            torch.rand(until)  # the state of the global generator must not matter
            gathered += fitted(folder, given, until, at, **options)[1]
        last, own = fitted(folder, given, **options)
        assert repr(gathered + own) == repr(epochs)  # one of the scores is not a number
        assert equal(last, whole)
        assert (folder / "best.safetensors").read_bytes() == best


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine", "constant"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_our_recipe_goes_on_bit_for_bit(schedule: str, optimizer: str, tmp_path: Path) -> None:
    """Step sizes that change with every step, momentum that does too, changed clips and groups of weights."""
    changes = {"augment": Augment(0.1, 0.2, 0.4), "clip_gradient": 1.0, "patience": 9, "weight_decay": 0.01}
    given = config(optimizer=optimizer, schedule=schedule, epochs=4, learning_rate=0.003, **changes)
    options = {"encoder": "resnet", "width": 0.1}
    whole, epochs = fitted(tmp_path / "whole", given, **options)
    assert (len({epoch[2] for epoch in epochs}) == 4) == (schedule != "constant")
    gathered = []
    for until in (2, 3, 4):
        gathered += fitted(tmp_path / "killed", given, until, **options)[1]
    last, own = fitted(tmp_path / "killed", given, **options)
    assert repr(gathered + own) == repr(epochs)
    assert equal(last, whole)


def kept(folder: Path) -> list[str]:
    return sorted(re.sub(r"-[0-9a-f]{64}", "", path.name) for path in folder.iterdir())


def test_the_last_two_states_are_kept_with_their_best_weights(tmp_path: Path) -> None:
    fitted(tmp_path, config(epochs=10), until=5)
    assert kept(tmp_path) == [f"{name}.safetensors" for name in ("best-000002", "best", "epoch-000003", "epoch-000004")]
    (tmp_path / ".epoch-000005.safetensors.1.tmp").touch()  # a killed process'
    fitted(tmp_path, config(epochs=10), until=10)
    names = ("best-000002", "best-000009", "best", "epoch-000008", "epoch-000009")
    assert kept(tmp_path) == [f"{name}.safetensors" for name in names]
    (tmp_path / "journal.jsonl").touch()  # not ours
    States(tmp_path / "best.safetensors", "settings").clear()
    assert kept(tmp_path) == ["best.safetensors", "journal.jsonl"]


@pytest.mark.parametrize("how", ["cut short", "a bit", "empty", "its best weights", "other settings", "all"])
def test_a_damaged_state_is_told_and_the_one_before_is_used(how: str, tmp_path: Path) -> None:
    given = config(epochs=10)
    whole, _ = fitted(tmp_path / "whole", given)
    folder = tmp_path / "run"
    fitted(folder, given, until=10)  # the ninth epoch was the best, the second before it
    one, other = sorted(folder.glob("epoch-*"))
    for path in (one, other) if how == "all" else (other,):
        content = bytearray(path.read_bytes())
        if how == "a bit":
            content[len(content) // 2] ^= 1
        path.write_bytes(content[: {"empty": 0, "cut short": 5000, "all": len(content) - 1}.get(how)])
    if how == "its best weights":
        (folder / "best-000009.safetensors").write_bytes(b"")
    told: list[str] = []
    states = States(folder / "best.safetensors", "others" if how == "other settings" else "settings", told.append)
    found = states.latest()
    if how in ("all", "other settings"):
        assert found is None
        assert [line.startswith(str(path)) for line, path in zip(told[:2], (other, one), strict=True)] == [True, True]
        assert told[2:] == ["no state of the run can be used, so it begins again with epoch 1"]
    else:
        assert found is not None
        assert (found.epoch, found.best.number, len(told)) == (8, 2, 2)
        assert told[0].startswith(f"{other} is not used, because it is damaged or of another training (")
        second = load_file(folder / "best-000002.safetensors")
        assert equal(load_file(folder / "best.safetensors"), second)
    if how != "other settings":
        assert equal(fitted(folder, given)[0], whole)
        assert (folder / "best.safetensors").read_bytes() == (tmp_path / "whole" / "best.safetensors").read_bytes()


# Which run goes on


def cut(options: dict[str, str], monkeypatch: pytest.MonkeyPatch, epoch: int = 3, entry_point: str = "train") -> Run:
    """Training that fails as an epoch begins; its run."""

    def fail() -> None:
        raise InputError("a cut")

    with monkeypatch.context() as patch:
        at_epoch(epoch, fail, patch)
        assert run_here(entry_point, options, monkeypatch) == 2
    run = newest()
    assert run.info.status == "FAILED"
    return run


@pytest.mark.usefixtures("store")
def test_the_same_command_goes_on_in_the_same_run_and_a_finished_run_never(
    tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = SMALL | {"data": str(tiny_corpus)}
    assert run_here("train", options | {"output": "whole"}, monkeypatch) == 0
    whole = newest()
    run = cut(options, monkeypatch)
    assert run.info.run_id != whole.info.run_id
    capsys.readouterr()
    assert run_here("train", options | {"workers": "1"}, monkeypatch) == 0
    said = capsys.readouterr().out
    assert f"goes on with the unfinished run {run.info.run_name} ({run.info.run_id}); resume=false begins anew" in said
    assert "training resumes after epoch 2" in said
    assert re.findall(r"^epoch +(\d)/4", said, flags=re.MULTILINE) == ["3", "4"]
    check_equal(MlflowClient().get_run(run.info.run_id), whole)
    assert run_here("train", options, monkeypatch) == 0  # the third run
    assert newest().info.run_id not in (run.info.run_id, whole.info.run_id)
    assert len(MlflowClient().search_runs(["0"])) == 3


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("what", ["resume", "options", "code", "corpus", "folder", "entry point"])
def test_what_differs_begins_a_new_run(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_table_corpus(tmp_path / "corpus", speakers=8)
    options = SMALL | {"data": "corpus", "model": "cnn10", "epochs": "2"}
    first = cut(options, monkeypatch, 2)
    capsys.readouterr()
    entry_point = "main" if what == "entry point" else "train"
    if what == "resume":
        options |= {"resume": "false"}
    elif what == "options":
        options |= {"seed": "1"}
    elif what == "code":
        monkeypatch.setattr(machine, "source_digest", lambda: "other")
    elif what == "corpus":
        shutil.copy(tmp_path / "corpus" / "s0-0.wav", tmp_path / "corpus" / "s0-1.wav")
    elif what == "folder":
        shutil.move("output", "another")
    assert run_here(entry_point, options, monkeypatch) == 0
    said = capsys.readouterr().out
    assert newest().info.run_id != first.info.run_id
    assert newest().info.status == "FINISHED"
    assert MlflowClient().get_run(first.info.run_id).info.status == "FAILED"
    name, commit = first.info.run_name, first.data.tags["git.commit"]
    code = f"the unfinished run {name} of this command was begun by other code; `git checkout {commit}` goes on with it"
    corpus = f"the corpus has changed since the unfinished run {name} of this command."
    assert [sentence in said for sentence in (code, corpus)] == [what == "code", what == "corpus"]


@pytest.mark.usefixtures("store")
def test_main_that_was_cut_in_its_evaluation_scores_the_test_split_once(
    tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = SMALL | {"data": str(tiny_corpus), "model": "cnn10"}
    assert run_here("main", options | {"output": "whole"}, monkeypatch) == 0
    whole = newest()

    def evaluated(*words: object) -> None:
        evaluate(*words)  # type: ignore[arg-type]
        raise InputError("a cut")

    with monkeypatch.context() as patch:
        patch.setattr("exvo.experiments.evaluate.evaluate", evaluated)
        assert run_here("main", options, monkeypatch) == 2
    run = newest()
    assert run_here("main", options, monkeypatch) == 0
    check_equal(MlflowClient().get_run(run.info.run_id), whole)


@pytest.mark.usefixtures("store")
def test_the_run_that_mlflow_made_is_tagged_with_the_training_that_goes_on(
    tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = SMALL | {"data": str(tiny_corpus), "model": "cnn10", "epochs": "2"}
    run = cut(options, monkeypatch, 2)
    made = MlflowClient().create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", made)
    assert run_here("train", options, monkeypatch) == 0
    assert MlflowClient().get_run(made).data.tags["exvo.continues"] == run.info.run_id
    assert MlflowClient().get_run(run.info.run_id).info.status == "FINISHED"


# One command at a time


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("entry_point", ["train", "main", "tune"])
def test_a_second_command_on_an_output_folder_is_refused(
    entry_point: str, tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"model": "cnn10", "corpus": "table", "data": str(tiny_corpus)}
    with hold("main", "output"):
        assert run_here(entry_point, options, monkeypatch) == 2
    said = capsys.readouterr().err
    assert f"The output folder output is in use by process {os.getpid()} on " in said
    assert re.search(r"\(exvo main, since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\S*\); wait until that has ended, or", said)
    assert MlflowClient().search_runs(["0"]) == []
    with hold("main", "output"):
        pass


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"])
def test_a_stopped_training_says_how_to_go_on(
    number: signal.Signals, status: int, store: str, tiny_corpus: Path
) -> None:
    options = SMALL | {"data": str(tiny_corpus), "epochs": "1000"}
    with started("train", options, store) as one:
        assert one.stdout is not None
        said = list(itertools.takewhile(lambda line: not line.startswith("epoch   2/"), one.stdout))
        began = time.monotonic()
        one.send_signal(number)
        one.send_signal(number)  # as `timeout` does
        rest = one.communicate(timeout=60)[0]
        assert time.monotonic() - began < 30
    assert one.returncode == status, (said, rest)
    (epoch,) = re.findall(r"^exvo: Stopped; the same command goes on in the same run, from epoch (\d+)\.$", rest, re.M)
    assert "Traceback" not in rest
    run = newest()
    assert run.info.status == "KILLED"
    states = Path("output/runs") / run.info.run_id
    assert len(list(states.glob(f"epoch-{int(epoch) - 1:06d}-*.safetensors"))) == 1
    assert not list(states.glob(".*"))


@pytest.mark.usefixtures("store")
def test_a_stopped_extraction_keeps_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_table_corpus(tmp_path / "corpus", speakers=32)
    options = SMALL | {"data": "corpus", "workers": "1"}
    true, count = audio.read_audio, itertools.count(1)

    def read_audio(*words: object) -> object:
        if next(count) == 60:
            os.kill(os.getpid(), signal.SIGTERM)
        return true(*words)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(extraction, "read_audio", read_audio)
        assert run_here("train", options, monkeypatch) == 143
    assert "exvo: Stopped; the same command goes on in the same run, from the beginning.\n" in capsys.readouterr().err
    run, done = newest(), next(count)
    assert run.info.status == "KILLED"
    assert 60 < done < 128
    assert list(Path("output/features").rglob("*.arrow"))


def test_a_second_signal_ends_a_command_that_does_not_end() -> None:
    program = (
        "import os, signal, time\nfrom exvo.experiments import process\nprocess.SAME_SIGNAL_SECONDS = 0.1\n"
        "with process.stoppable():\n    try:\n        os.kill(os.getpid(), signal.SIGINT)\n        time.sleep(60)\n"
        "    except KeyboardInterrupt:\n        time.sleep(0.2)\n        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        time.sleep(60)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=50, check=False).returncode == 143


def test_a_command_that_does_not_end_by_itself_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    monkeypatch.setattr(process, "EXIT_SECONDS", 0.1)
    monkeypatch.setattr(os, "_exit", lambda status: ended.set() if status == 130 else None)
    with process.stoppable():
        with pytest.raises(process.Stopped):
            os.kill(os.getpid(), signal.SIGINT)
        assert ended.wait(50)


# kill -9


def killed_until_done(options: dict[str, str], store: str, kills: int, draw: random.Random, tmp_path: Path) -> int:
    """Types `train` again and again, with so many kills at random moments; returns how many were in mid-training.

    A fifth of the moments are anywhere from the start of the process, the last three (or fewer, where one comes too
    late) after the last epoch, while scores and model are logged, and the others anywhere in the next epochs.
    """
    done, moments, last = 0, [], f"epoch {int(options['epochs']):3d}/"
    while True:
        at_end = len(moments) >= kills - 3
        with started("train", options, store) as one, (tmp_path / "said").open("a") as log:
            assert one.stdout is not None
            if len(moments) < kills:
                early = not at_end and draw.random() < 0.2
                lines = draw.randrange(3)
                wait = draw.uniform(0, 2) if early else draw.uniform(0, 1.5) if at_end else draw.expovariate(5)
                if not early:
                    for line in one.stdout:
                        log.write(line)
                        over = line.startswith((last, f"training resumes after epoch {options['epochs']}"))
                        assert at_end or not over, "give it more epochs"
                        lines -= line.startswith("epoch ") and not at_end
                        if over or (lines < 0 and not at_end):
                            break
                moments.append(f"{'start' if early else 'end' if at_end else 'epoch'} + {wait:.3f} s")
                time.sleep(wait)
                one.kill()
                one.communicate()
                done += one.returncode == -signal.SIGKILL
                if len(MlflowClient().search_runs(["0"], "attributes.status = 'FINISHED'")) == 2:
                    with started("sync", {}, store) as last:  # beside the undisturbed run: it was killed too late
                        assert "delivered: 0" in last.communicate(timeout=200)[0]
                    break
            else:
                said = one.communicate(timeout=200)[0]
                assert one.returncode == 0, said
                break
    print(f"{done} kills: {', '.join(moments)}")
    return done


def check_kills(kills: int, epochs: int, seed: int, store: str, corpus: Path, tmp_path: Path) -> None:
    options = SMALL | {"data": str(corpus), "epochs": str(epochs)}
    print(f"seed {seed}")
    with started("train", options | {"output": "whole"}, store) as one:
        said = one.communicate(timeout=200)[0]
        assert one.returncode == 0, said
    whole = newest()
    assert killed_until_done(options, store, kills, random.Random(seed), tmp_path) >= kills - 3
    runs = [run for run in MlflowClient().search_runs(["0"]) if run.info.run_id != whole.info.run_id]
    assert len(runs) == 1, (tmp_path / "said").read_text()
    check_equal(runs[0], whole)
    assert [step for step, _ in history(runs[0])["epoch/loss"]] == list(range(1, epochs + 1))
    assert {item.path for item in MlflowClient().list_artifacts(runs[0].info.run_id)} == {
        item.path for item in MlflowClient().list_artifacts(whole.info.run_id)
    }


@pytest.mark.slow
def test_a_training_killed_at_random_moments_gives_what_an_undisturbed_one_gives(
    store: str, tiny_corpus: Path, tmp_path: Path
) -> None:
    check_kills(5, 12, 1, store, tiny_corpus, tmp_path)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_training_killed_at_20_random_moments(store: str, tiny_corpus: Path, tmp_path: Path) -> None:
    seed = int(os.environ.get("EXVO_SEED", "0"))
    check_kills(23, 100, seed, store, tiny_corpus, tmp_path)


def check_study(kills: int, seed: int, store: str, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A study killed at random moments loses no finished trial, and each gives what `train` gives."""
    draw = random.Random(seed)
    options = SMALL | {"data": str(corpus), "epochs": "6", "trials": "4", "search": "dropout"}
    finished: dict[int, float] = {}
    for _ in range(kills):
        with started("tune", options, store) as one:
            assert one.stdout is not None
            lines = draw.randrange(8)
            for line in one.stdout:
                lines -= line.startswith("epoch ")
                if lines < 0:
                    break
            time.sleep(draw.uniform(0, 0.5))
            one.kill()
            one.communicate()
        now = {trial.number: trial.value for trial in new_study().trials if trial.state.name == "COMPLETE"}
        assert finished.items() <= now.items()
        finished = now
    with started("tune", options, store) as one:
        said = one.communicate(timeout=200)[0]
        assert one.returncode == 0, said
    trials = new_study().trials
    assert finished.items() <= {trial.number: trial.value for trial in trials}.items()
    good = [trial for trial in trials if trial.state.name in ("COMPLETE", "PRUNED")]
    assert len(good) == 4
    runs = {run.info.run_id: run for run in MlflowClient().search_runs(["0"])}
    assert {run.info.status for run in runs.values()} <= {"FINISHED", "KILLED"}
    assert len([run for run in runs.values() if run.data.tags["exvo.entry_point"] == "tune"]) == 1
    for trial in good:
        for points in history(runs[trial.user_attrs["run_id"]]).values():
            assert len({step for step, _ in points}) == len(points)
    trial = next(trial for trial in good if trial.state.name == "COMPLETE")
    run = runs[trial.user_attrs["run_id"]]
    again = options | {"output": "whole", "dropout": run.data.params["dropout"]}
    assert (
        run_here("train", {name: again[name] for name in again if name not in ("trials", "search")}, monkeypatch) == 0
    )
    assert history(newest()) == history(run)
    assert equal(weights(newest(), "whole"), weights(run))


@pytest.mark.slow
def test_a_study_killed_at_random_moments_loses_no_trial(
    store: str, tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_study(2, 1, store, tiny_corpus, monkeypatch)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_study_killed_at_eight_random_moments(store: str, tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_study(8, int(os.environ.get("EXVO_SEED", "0")), store, tiny_corpus, monkeypatch)


@pytest.mark.slow
@pytest.mark.usefixtures("store")
def test_a_trial_that_was_cut_is_tried_again_once_with_the_same_options(
    tiny_corpus: Path, tmp_path: Path, store: str
) -> None:
    options = SMALL | {"data": str(tiny_corpus), "epochs": "400", "trials": "1", "search": "dropout"}
    for _ in range(3):
        with started("tune", options, store) as one:
            assert one.stdout is not None
            next(line for line in one.stdout if line.startswith("epoch "))
            one.kill()
    first, second, third = (trial.params["dropout"] for trial in new_study().trials if trial.params)
    assert first == second == 0.2  # what was given is tried first
    assert third != first
