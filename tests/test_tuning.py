"""Studies without training: what is searched, where it is kept, who runs which trial, and the page."""

from __future__ import annotations

import math
import os
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
from optuna.trial import TrialState

from exvo.errors import InputError
from exvo.passwords import has_password
from exvo.reports.study import StudyFacts, study_page
from exvo.tuning import storage as storage_module
from exvo.tuning import study as study_module
from exvo.tuning.processes import this_process
from exvo.tuning.space import SPACE, parse_search, study_name, training_options
from exvo.tuning.storage import open_storage, printable_storage
from exvo.tuning.study import Pruned, Replaced, Study, best

from helpers.servers import free_port
from helpers.studies import SEARCH, begin, memory_study


def optuna_trials(folder: Path) -> list[optuna.trial.FrozenTrial]:
    """As Optuna's own reader sees them."""
    return optuna.load_study(study_name="tried", storage=open_storage("", folder)).trials


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "search is empty; give some of batch_size, learning_rate, width, dropout, optimizer"),
        ("batch_size,learnin_rate", "learnin_rate can't be searched; did you mean learning_rate?"),
        ("seed", "search=seed: seed can't be searched"),
    ],
)
def test_what_can_not_be_searched_is_said(text: str, sentence: str) -> None:
    with pytest.raises(InputError, match="search") as raised:
        parse_search(text)
    assert sentence in str(raised.value)


def test_every_draw_is_within_its_range_and_repeats_from_its_printed_text(tmp_path: Path) -> None:
    every = memory_study(tmp_path, search=tuple(SPACE))
    for _ in range(30):
        trial = begin(every)
        tried = trial.options
        trial.end("failed", "none")
        assert tried["batch_size"] in (4, 8, 16, 32, 64)
        assert 1e-4 <= tried["learning_rate"] <= 1e-1
        assert 0.1 <= tried["width"] <= 1.0
        assert 0.0 <= tried["dropout"] <= 0.5
        assert tried["optimizer"] in ("sgd", "adam", "adamw")
        assert tried["schedule"] in ("constant", "plateau", "cosine", "one-cycle")
        assert 1e-5 <= tried["weight_decay"] <= 1e-1
        assert 0.0 <= tried["label_smoothing"] <= 0.3
        assert 0.0 <= tried["warp"] <= 0.3
        assert 0.0 <= tried["spec_augment"] <= 0.3
        assert 0.0 <= tried["mixup"] <= 1.0
        assert tried["clip_gradient"] in (0.0, 0.5, 1.0, 5.0)
        for name in ("learning_rate", "width", "dropout", "weight_decay", "label_smoothing", "spec_augment", "mixup"):
            assert float(f"{tried[name]:.3g}") == tried[name]


def test_postgresql_without_its_driver_is_refused_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(InputError) as raised:
        open_storage("postgresql://ada:s3cret@db.example/studies", tmp_path)
    assert str(raised.value) == (
        "storage=postgresql+psycopg://ada@db.example/studies needs psycopg, which is not installed: "
        'pip install "exvo[server]" (in a checkout: make .venv/ready).'
    )


def test_the_name_follows_from_what_must_be_equal() -> None:
    equal = {"epochs": 5, "digest": "ab", "seed": 0}
    name = study_name(["cnn14", "fewshot"], equal, SEARCH)
    assert name.startswith("cnn14-fewshot-")
    assert len(name.rsplit("-", 1)[1]) == 8
    assert study_name(["cnn14", "fewshot"], dict(reversed(equal.items())), SEARCH) == name
    others = [equal | {"epochs": 6}, equal | {"digest": "cd"}, equal | {"seed": 1}]
    names = {study_name(["cnn14", "fewshot"], other, SEARCH) for other in others}
    names.add(study_name(["cnn14", "fewshot"], equal, ("batch_size",)))
    assert len(names | {name}) == 5


def test_storages_by_their_text(tmp_path: Path) -> None:
    assert printable_storage("", tmp_path) == str(tmp_path / "studies.journal")
    assert printable_storage("mine.journal", tmp_path) == "mine.journal"
    assert printable_storage("journal:any/file", tmp_path) == "any/file"
    shown = printable_storage("postgresql://ada:s3cret@db.example:5433/studies", tmp_path)
    assert shown == "postgresql+psycopg://ada@db.example:5433/studies"
    shown = printable_storage("postgresql://ada@db.example/studies?sslmode=require&password=s3cret", tmp_path)
    assert shown == "postgresql+psycopg://ada@db.example/studies?sslmode=require"
    assert has_password("postgresql://ada:s3cret@db.example/studies")
    assert has_password("postgresql://ada@db.example/studies?password=s3cret")
    assert not has_password("postgresql://ada@db.example/studies")
    assert not has_password("a:b@c.journal")
    open_storage("journal:" + str(tmp_path / "new" / "file"), tmp_path)
    assert (tmp_path / "new" / "file").is_file()


@pytest.mark.slow
def test_a_killed_process_lock_on_the_journal_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Optuna leaves it when it is killed between taking the lock and letting go of it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(storage_module, "LOCK_SECONDS", 3)
    Path("output").mkdir()
    Path("output/studies.journal").touch()
    Path("output/studies.journal.lock").touch()
    storage = open_storage("", Path("output"))
    optuna.create_study(study_name="one", storage=storage)
    assert [study.study_name for study in storage.get_all_studies()] == ["one"]
    assert not Path("output/studies.journal.lock").exists()


@pytest.mark.parametrize(
    "storage", ["studies.db", "postgresql://ada:s3cret@127.0.0.1:{}/studies", "nosql://a:s3cret@b"]
)
def test_a_storage_that_can_not_be_used_is_said_without_its_password(storage: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as raised:
        open_storage(storage.format(free_port()), tmp_path)
    assert str(raised.value).startswith("storage=")
    assert "s3cret" not in str(raised.value)


def test_a_database_of_mlflow_is_refused_in_words(empty_store: Path, tmp_path: Path) -> None:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    with pytest.raises(InputError, match=r"mlflow\.db holds the tables of another program, such as MLflow, or of"):
        open_storage(f"sqlite:///{tmp_path}/mlflow.db", tmp_path)


def test_draws_follow_from_the_number_not_from_the_process(tmp_path: Path) -> None:
    whole = memory_study(tmp_path / "whole")
    drawn = [begin(whole).options for _ in range(5)]
    resumed = [begin(memory_study(tmp_path / "resumed")).options for _ in range(5)]  # a new process each time
    assert resumed == drawn
    assert len({tuple(one.items()) for one in drawn}) == 5
    other = memory_study(tmp_path / "other", seed=1)
    assert [begin(other).options for _ in range(5)] != drawn


def test_the_first_trial_is_what_the_study_set_out_to_improve(tmp_path: Path) -> None:
    first = memory_study(tmp_path)
    first.try_first({"batch_size": 32, "learning_rate": 0.001, "epochs": 8})
    assert first.count("running", "finished", "pruned") == 0
    assert begin(first).options == {"batch_size": 32, "learning_rate": 0.001}
    assert begin(first).options != {"batch_size": 32, "learning_rate": 0.001}
    assert (first.created, memory_study(tmp_path).created) == (True, False)


def test_no_more_than_the_total_whoever_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = memory_study(tmp_path), memory_study(tmp_path)
    begin(one, 3).finish(0.1)
    begin(two, 3).end("failed", "diverged")  # counts for nothing
    begin(one, 3)
    last = begin(two, 3)
    assert one.begin(3) is None
    with monkeypatch.context() as patch:  # both looked before either asked
        patch.setattr(Study, "count", lambda self, *states: 0)
        assert one.begin(3) is None
    assert [trial.state for trial in optuna_trials(tmp_path)] == [
        TrialState.COMPLETE,
        TrialState.FAIL,
        TrialState.RUNNING,
        TrialState.RUNNING,
        TrialState.FAIL,
    ]
    assert one.table()["state"].tolist() == ["finished", "failed", "running", "running", "killed"]
    last.end("failed", "diverged")
    begin(one, 3)


def test_a_trial_that_falls_behind_is_pruned_but_not_in_its_last_epoch(tmp_path: Path) -> None:
    pruning = memory_study(tmp_path, epochs=4)
    for _ in range(4):
        trial = begin(pruning)
        for epoch in range(1, 5):
            trial.report(epoch, 0.5)
        trial.finish(0.5)
    trial = begin(pruning)
    trial.report(1, 0.1)  # early scores say little
    with pytest.raises(Pruned):
        trial.report(2, 0.1)
    trial.end("pruned")
    trial = begin(pruning)
    trial.report(3, math.nan)  # undefined: no reason to stop, and nothing to tell
    trial.report(4, 0.1)
    trial.finish(0.1)
    trial = begin(pruning)
    trial.report(1, 0.6)
    trial.report(2, 0.1)  # its best so far is not behind
    states = [one.state for one in optuna_trials(tmp_path)]
    assert states == [TrialState.COMPLETE] * 4 + [TrialState.PRUNED, TrialState.COMPLETE, TrialState.RUNNING]
    table = pruning.table()
    assert table["score"].tolist() == [0.5, 0.5, 0.5, 0.5, 0.1, 0.1, 0.6]
    assert table["epochs"].tolist() == [4, 4, 4, 4, 2, 4, 2]


def test_trials_of_dead_workers_are_ended_those_of_living_ones_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = memory_study(tmp_path)
    here, now = this_process(), time.time()
    gone = os.posix_spawn("/bin/true", ["true"], os.environ)
    os.waitpid(gone, 0)
    zombie = os.posix_spawn("/bin/true", ["true"], os.environ)
    time.sleep(0.3)
    workers = [
        (here, None, False),
        (replace(here, pid=gone), None, True),
        (replace(here, pid=zombie, began=now), None, True),
        (replace(here, began=here.began - 100), None, True),  # another process has that number now
        (replace(here, host="elsewhere"), now - 60, False),
        (replace(here, host="elsewhere"), now - 1000, True),
        (replace(here, host="elsewhere"), None, False),  # just begun
    ]
    trials = []
    for worker, alive, _ in workers:
        monkeypatch.setattr(study_module, "this_process", lambda worker=worker: worker)
        trials.append(begin(study))
        trials[-1].note(f"run{trials[-1].number}")
        if alive is not None:
            trials[-1]._trial.set_user_attr("alive", alive)
    found = memory_study(tmp_path).end_dead_trials()
    os.waitpid(zombie, 0)
    assert [(one.number, one.run_id) for one in found] == [
        (number, f"run{number}") for number, (_, _, dead) in enumerate(workers) if dead
    ]
    assert memory_study(tmp_path).end_dead_trials() == []
    with pytest.raises(Replaced, match="took this trial for dead"):
        trials[5].report(1, 0.5)
    with pytest.raises(Replaced):
        trials[5].finish(0.5)
    trials[5].end("failed", "too late")
    trials[0].report(1, 0.5)
    table = study.table()
    assert table["state"].tolist() == ["killed" if dead else "running" for _, _, dead in workers]
    assert table["problem"][5] == "Its worker was killed or lost."


def test_a_running_trial_gives_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_module, "HEARTBEAT", 0.05)
    living = memory_study(tmp_path)
    with begin(living).alive():
        time.sleep(0.5)
    first = optuna_trials(tmp_path)[0].user_attrs["alive"]
    assert abs(time.time() - first) < 5
    time.sleep(0.2)
    assert optuna_trials(tmp_path)[0].user_attrs["alive"] == first


def test_importances_find_the_option_that_matters(tmp_path: Path) -> None:
    weighed = memory_study(tmp_path)
    assert weighed.importances(0) == {}
    for number in range(16):
        trial = begin(weighed)
        trial.finish(-abs(math.log10(trial.options["learning_rate"]) + 2))
        assert (number < 3) == (weighed.importances(0) == {})
    found = weighed.importances(0)
    assert list(found) == ["learning_rate", "batch_size"]
    assert sum(found.values()) == pytest.approx(1)
    assert found["learning_rate"] > 0.7


TRIALS = pd.DataFrame(
    {
        "number": [0, 1, 2, 3, 4],
        "state": ["finished", "pruned", "failed", "finished", "running"],
        "score": [0.2, 0.9, math.nan, 0.3, math.nan],
        "epochs": [3, 2, 0, 3, 0],
        "seconds": [10.0, 5.0, 1.0, 11.0, 2.0],
        "batch_size": [32, 16, 8, 4, 64],
        "learning_rate": [0.001, 0.01, 0.1, 0.02, 0.003],
        "run_id": ["a", "b", "c", "d", "e"],
        "problem": ["", "", "<b>diverged</b>", "", ""],
    }
)
ABOUT = StudyFacts(
    "study-1",
    "studies.journal",
    "cnn14",
    "mine",
    True,
    "emotion_ccc",
    {"batch_size": "4 to 64", "learning_rate": "0.0001 to 0.1, log"},
    20,
    3,
    "TRAIN COMMAND",
    "TUNE COMMAND",
    "optuna-dashboard studies.journal",
    {"learning_rate": 0.7, "batch_size": 0.3},
)


def test_the_page_shows_the_best_finished_trial_and_why_others_ended() -> None:
    top = best(TRIALS)
    assert top is not None
    assert top["number"] == 3  # the pruned one's higher score is no result
    page = study_page(TRIALS, ABOUT)
    assert [section.title for section in page.sections] == [
        "Best trial",
        "History",
        "Options one by one",
        "Importances",
        "All options at once",
        "Trials",
        "Continue or watch the study",
    ]
    assert page.tiles == [
        ("best val CCC", "0.3000", "trial 3"),
        ("trials", "3 of 20", "2 finished, 1 pruned, 1 failed, 1 running"),
    ]
    assert page.lead.startswith(
        "The best of 2 finished trials, number 3, reaches a CCC of 0.3000 on the validation split"
    )
    html = page.html()
    assert "emotion_ccc" not in html
    assert "&lt;b&gt;diverged" in html
    assert "SYNTHETIC" in html
    assert all(text in html for text in ("TRAIN COMMAND", "TUNE COMMAND", "optuna-dashboard studies.journal"))
    pictures = [picture.name for section in page.sections for picture in section.pictures]
    assert pictures == ["history", "slice-batch_size", "slice-learning_rate", "importances", "parallel-coordinates"]
    trials = page.sections[5]
    assert trials.table[0] == ("trial", ["1", "3", "0", "2", "4"])
    assert trials.numbers is TRIALS


def test_the_history_holds_every_score_and_the_best_so_far() -> None:
    figure = study_page(TRIALS, ABOUT).sections[1].pictures[0].figure
    lines = {str(line.get_label()): line for line in figure.axes[0].lines}
    assert list(np.asarray(lines["finished"].get_ydata())) == [0.2, 0.3]
    assert list(np.asarray(lines["pruned"].get_ydata())) == [0.9]
    steps = next(line for line in figure.axes[0].lines if line.get_drawstyle() == "steps-post")
    assert list(np.asarray(steps.get_ydata())) == [0.2, 0.3, 0.3]


@pytest.mark.parametrize("states", [["failed"], ["finished"], ["running"], ["pruned", "finished"]])
def test_few_trials_make_a_page_too(states: list[str]) -> None:
    rows = TRIALS.head(len(states)).assign(state=states)
    rows.loc[~rows["state"].isin(["finished", "pruned"]), "score"] = math.nan
    page = study_page(rows, StudyFacts(**{**ABOUT.__dict__, "importances": {}}))
    assert "Importances" not in [section.title for section in page.sections]
    html = page.html()
    assert ("No trial has finished yet." in html) == ("finished" not in states)


@pytest.mark.parametrize("name", ["width", "dropout", "optimizer"])
def test_every_option_can_be_drawn(name: str) -> None:
    values = ["sgd", "adam", "adamw", "sgd", "adam"] if name == "optimizer" else [0.1, 0.25, 0.5, 0.4, 0.33]
    rows = TRIALS.drop(columns="batch_size").assign(**{name: values})
    about = StudyFacts(**{**ABOUT.__dict__, "space": {name: "some", "learning_rate": "some"}})
    assert f"Score against {name}" in study_page(rows, about).html()


def test_options_that_are_not_searched_stay_away() -> None:
    assert training_options({"width": 0.12345}) == {"width": 0.123}
