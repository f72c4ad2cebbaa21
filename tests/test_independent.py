"""The independent protocol, people-batches and the correction of shares through the entry points, on tiny audio."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import soundfile
from mlflow import MlflowClient
from mlflow.entities import Run

from exvo.corpora.emogator import CATEGORIES
from exvo.enrolment import choose_enrolment
from exvo.evaluation.correction import correct_shares, correction_power
from exvo.evaluation.scoring import score_epoch
from exvo.systems import SYSTEMS
from exvo.tasks import task_of

from helpers.commands import run_here

pytestmark = pytest.mark.usefixtures("store")

PEOPLE = replace(
    SYSTEMS["cnn10-relative"], people=4, protocol="independent", objective="auto", learning_rate=0.01, epochs=1
)
OPTIONS = {"corpus": "emogator", "width": "0.05", "shots": "2"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight people with three clips of each of three categories, one with two clips, and one with a single clip."""
    folder = tmp_path_factory.mktemp("categories")
    (folder / "data" / "mp3").mkdir(parents=True)
    rng = np.random.default_rng(0)
    people = dict.fromkeys((1, 2, 3, 4, 5, 9, 10, 14), 9) | {15: 2, 6: 1}
    for person, clips in people.items():
        for clip in range(clips):
            pitch = 150 + 200 * (clip % 3) + 10 * person
            time = np.arange(4800 + 160 * clip) / 16_000
            tone = 0.3 * np.sin(2 * np.pi * pitch * time) + rng.normal(0, 0.02, len(time))
            name = f"{person:06}-{1 + clip % 3:02}-{1 + clip // 3}.mp3"
            soundfile.write(folder / "data" / "mp3" / name, tone, 16_000, format="MP3")
    return folder


def newest(entry_point: str) -> Run:
    return MlflowClient().search_runs(["0"], f"tags.`exvo.entry_point` = '{entry_point}'")[0]


def artifact(run: Run, path: str) -> pd.DataFrame:
    return pd.read_parquet(mlflow.artifacts.download_artifacts(f"{run.info.artifact_uri}/{path}"))


def names_of(table: pd.DataFrame) -> list[str]:
    return [f"prediction.{category}" for category in CATEGORIES]


def test_a_personalised_system(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(SYSTEMS, "cnn10-people", PEOPLE)
    assert run_here("train", OPTIONS | {"data": str(corpus), "model": "cnn10-people"}, monkeypatch) == 0
    told = capsys.readouterr().out
    assert "left out of training" not in told
    assert "on 28 clips: 1 epochs" in told  # the single clip of one person too
    assert "val split: independent protocol, 2 enrolment clips for each clip\n" in told
    assert "val split, 27 clips\n" in told  # all are scored
    assert run_here("evaluate", {"run_id": "cnn10-people"}, monkeypatch) == 0
    told = capsys.readouterr().out
    assert "1 speakers have too few clips and enrol with fewer: 000015\n" in told
    assert "2 of 20 clips are the only one of their category by their speaker" in told
    run = newest("evaluate")
    right = artifact(run, "predictions/test.parquet")
    assert right["scored"].all()
    tables = {"right": right} | {
        name: artifact(run, f"enrolment/test-{name}.parquet") for name in ("corrected", "typical", "wrong", "permuted")
    }
    for one, other in (("right", "typical"), ("right", "wrong"), ("right", "permuted"), ("typical", "corrected")):
        difference = (tables[one][names_of(right)] - tables[other][names_of(right)]).abs().max(axis=None)
        assert difference > 1e-4, (one, other)

    enrolment = choose_enrolment(
        right["speaker"].tolist(), "independent", 2, None, right["file"].tolist(), right["truth.category"].tolist()
    )
    powers = [correction_power(len(own)) for own in enrolment.clips]
    expected = correct_shares(tables["typical"][names_of(right)].to_numpy(), enrolment.clips, powers)
    np.testing.assert_allclose(tables["corrected"][names_of(right)], expected, atol=1e-6)
    shown = artifact(run, "report/test/enrolment.parquet").set_index("enrolment")
    assert shown.index.tolist() == ["right", "corrected", "typical", "wrong", "permuted"]
    for name, table in tables.items():
        assert shown.loc[name, "value"] == pytest.approx(score_epoch(table, task_of(table))["category_uar"])
    html = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/report/test.html")
    assert "than a correction of shares that needs no training" in html
    assert "speakers can tell, enrolment with 2 clips " in html

    assert run_here("enrolment-curve", {"run_id": "cnn10-people", "draws": "1"}, monkeypatch) == 0
    assert "enrolment with 2 clips " in capsys.readouterr().out


def test_a_plain_system(corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    plain = replace(PEOPLE, enrolment="none", fusion="none", people=0)
    monkeypatch.setitem(SYSTEMS, "cnn10-plain", plain)
    assert run_here("train", OPTIONS | {"data": str(corpus), "model": "cnn10-plain"}, monkeypatch) == 0
    assert run_here("evaluate", {"run_id": "cnn10-plain", "split": "val"}, monkeypatch) == 0
    assert "val split: independent protocol, 2 enrolment clips for each clip\n" in capsys.readouterr().out
    run = newest("evaluate")
    shown = artifact(run, "report/val/enrolment.parquet").set_index("enrolment")
    assert shown.index.tolist() == ["right", "corrected"]
    right, corrected = (artifact(run, f"{name}.parquet") for name in ("predictions/val", "enrolment/val-corrected"))
    assert shown.loc["right", "value"] == score_epoch(right, task_of(right))["category_uar"]
    assert (right[names_of(right)] - corrected[names_of(right)]).abs().max(axis=None) > 1e-4
    assert "none (the system takes no enrolment)" in mlflow.artifacts.load_text(
        f"{run.info.artifact_uri}/report/val.html"
    )
