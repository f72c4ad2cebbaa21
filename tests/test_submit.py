"""The entry point `submit` on runs that were trained on tiny audio with the ten emotions."""

from __future__ import annotations

from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from exvo.config import EMOTIONS
from exvo.corpora import hume_vb
from exvo.errors import InputError

from helpers.commands import run_here
from helpers.corpora import write_table_corpus

pytestmark = pytest.mark.usefixtures("store")

SMALL = {"model": "cnn10", "corpus": "table", "epochs": "1", "batch_size": "4", "width": "0.05"}


@pytest.fixture(scope="module")
def ten_emotions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight speakers with four clips each and random labels of the ten emotions."""
    folder = tmp_path_factory.mktemp("ten")
    table = write_table_corpus(folder, speakers=8).drop(columns=["High", "Loud"])
    rng = np.random.default_rng(0)
    for emotion in reversed(EMOTIONS):
        table[emotion] = rng.random(len(table))
    table.to_csv(folder / "clips.csv", index=False)
    return folder


def train(corpus: Path, monkeypatch: pytest.MonkeyPatch, entry_point: str = "train", **options: str) -> Run:
    assert run_here(entry_point, SMALL | {"data": str(corpus)} | options, monkeypatch) == 0
    return MlflowClient().search_runs(["0"])[0]


def submit(monkeypatch: pytest.MonkeyPatch, run: Run, **options: str) -> int:
    return run_here("submit", {"run_id": run.info.run_id} | options, monkeypatch)


def predictions(run: Run) -> pd.DataFrame:
    return pd.read_parquet(mlflow.artifacts.download_artifacts(f"{run.info.artifact_uri}/predictions/test.parquet"))


def refused(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.partition("exvo: ")[2]


def test_the_file_holds_the_logged_predictions_and_damaged_copies_are_refused(
    ten_emotions: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A strict run: its enrolment clips are not scored, but handed in."""
    trained = train(ten_emotions, monkeypatch, "main", model="cnn10-relative")
    capsys.readouterr()
    assert submit(monkeypatch, trained, team="our-team", number="3") == 0
    told = capsys.readouterr().out
    assert f"predictions of the run {trained.info.run_name} " in told
    assert "ExVo-Few_our-team_3.csv, which passes the check: 8 clips, ExVo-Few\n" in told
    path = Path("output/submissions/ExVo-Few_our-team_3.csv")
    table, logged = pd.read_csv(path), predictions(trained)
    corpus = pd.read_csv(ten_emotions / "clips.csv").query("split == 'test'")
    assert table["File_ID"].tolist() == [f"[{Path(file).stem}]" for file in corpus["file"]]
    assert list(table.columns) == ["File_ID", *EMOTIONS]
    for emotion in EMOTIONS:
        np.testing.assert_allclose(table[emotion], logged[f"prediction.{emotion}"], atol=1e-6)
    run = MlflowClient().search_runs(["0"], "tags.`exvo.entry_point` = 'submit'")[0]
    assert run.data.tags["exvo.evaluated_run"] == trained.info.run_id
    assert mlflow.artifacts.load_text(f"{run.info.artifact_uri}/submission/{path.name}") == path.read_text()
    count = len(MlflowClient().search_runs(["0"]))
    assert submit(monkeypatch, trained, check=str(path)) == 0
    assert f"{path.name} passes the check: 8 clips, ExVo-Few\n" in capsys.readouterr().out
    lines = path.read_text().splitlines()
    (tmp_path / "theirs.csv").write_text("\n".join([*lines[:3], *lines[4:], lines[1].replace("[", "[x")]))
    assert submit(monkeypatch, trained, check=str(tmp_path / "theirs.csv")) == 2
    said = capsys.readouterr()
    assert "note: The challenge wants the name ExVo-Few_<team>_<number>.csv" in said.out
    assert said.err.startswith("exvo: theirs.csv is wrong:\n")
    assert "  1 clip missing: " in said.err
    assert len(MlflowClient().search_runs(["0"])) == count


def test_a_run_without_test_predictions_predicts_what_evaluate_would(
    ten_emotions: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = train(ten_emotions, monkeypatch, task="multitask")
    assert submit(monkeypatch, trained, team="t") == 0
    assert "predictions made now, published protocol\n" in capsys.readouterr().out
    table = pd.read_csv("output/submissions/ExVo-Multi_t_1.csv")
    assert submit(monkeypatch, trained, check="output/submissions/ExVo-Multi_t_1.csv") == 0
    assert run_here("evaluate", {"run_id": trained.info.run_id}, monkeypatch) == 0
    evaluated = MlflowClient().search_runs(["0"], "tags.`exvo.entry_point` = 'evaluate'")[0]
    logged = predictions(evaluated)
    np.testing.assert_allclose(table["Awe"], logged["prediction.Awe"], atol=2e-5)
    np.testing.assert_allclose(table["Age"], logged["prediction.age"], atol=1e-3)
    assert table["Country"].tolist() == [["Chile", "Kenya"].index(name) for name in logged["prediction.country"]]
    assert run_here("evaluate", {"run_id": trained.info.run_id, "protocol": "strict"}, monkeypatch) == 0
    capsys.readouterr()
    assert submit(monkeypatch, trained, team="t", number="2") == 0
    assert f"predictions of the run {evaluated.info.run_name} " in capsys.readouterr().out


def test_a_personalised_run_enrols_as_evaluate_does(ten_emotions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The two clips that enrol have different lengths, so `published` fills the shorter."""
    trained = train(ten_emotions, monkeypatch, model="cnn14-random-init-personalisation", width="0.02")
    assert submit(monkeypatch, trained, team="t") == 0
    assert run_here("evaluate", {"run_id": trained.info.run_id}, monkeypatch) == 0
    logged = predictions(MlflowClient().search_runs(["0"], "tags.`exvo.entry_point` = 'evaluate'")[0])
    table = pd.read_csv("output/submissions/ExVo-Few_t_1.csv")
    np.testing.assert_allclose(table[list(EMOTIONS)], logged[[f"prediction.{name}" for name in EMOTIONS]], atol=2e-6)


def test_clips_that_training_left_out_are_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ten_emotions: Path
) -> None:
    folder = tmp_path / "gap"
    folder.mkdir()
    for file in ten_emotions.iterdir():
        (folder / file.name).write_bytes(file.read_bytes() if file.name != "s3-0.wav" else b"")
    trained = train(folder, monkeypatch, skip_unreadable="true")
    assert submit(monkeypatch, trained, team="t") == 2
    assert "1 of the 8 test clips have no prediction" in (said := refused(capsys))
    assert "s3-0.wav" in said
    assert not Path("output/submissions").exists()


def test_what_can_not_be_handed_in_is_refused_before_anything_is_done(
    tiny_corpus: Path, ten_emotions: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    two = train(tiny_corpus, monkeypatch)
    speaker = train(ten_emotions, monkeypatch, task="speaker")
    capsys.readouterr()
    for run, options, sentence in (
        (two, {"team": "t"}, "The run does not predict Awe, Excitement, Amusement"),
        (two, {}, "team='' is no team's name"),
        (two, {"team": "../t"}, "team='../t' is no team's name"),
        (two, {"team": "t", "number": "100"}, "number=100 is out of range"),
        (speaker, {"team": "t"}, "was trained for task=speaker; the challenge has no such task"),
    ):
        assert submit(monkeypatch, run, **options) == 2
        assert sentence in refused(capsys)
    assert len(MlflowClient().search_runs(["0"])) == 2
    assert not Path("output/submissions").exists()


def test_a_corpus_that_has_changed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ten_emotions: Path
) -> None:
    trained = train(ten_emotions, monkeypatch)
    table = write_table_corpus(tmp_path / "other", speakers=8, seconds=0.5).drop(columns=["High", "Loud"])
    table.assign(**dict.fromkeys(EMOTIONS, 0.5)).to_csv(tmp_path / "other" / "clips.csv", index=False)
    assert submit(monkeypatch, trained, team="t", data=str(tmp_path / "other")) == 2
    assert "was trained on" in refused(capsys)
    assert not Path("output/submissions").exists()


def write_hume(folder: Path, pairs: list[tuple[str, str]]) -> Path:
    pd.DataFrame(pairs, columns=["Country_string", "Country"]).to_csv(folder / "data_info.csv", index=False)
    return folder


def test_hume_vb_numbers_its_countries_itself(tmp_path: Path) -> None:
    pairs = [("Venezuela", "0"), ("China", "3"), ("Venezuela", "0"), ("", ""), ("China", "3")]
    assert hume_vb.country_codes(write_hume(tmp_path, pairs)) == {"Venezuela": 0, "China": 3}
    floats = [("Venezuela", "0.0"), ("China", "3.0"), ("", "")]
    assert hume_vb.country_codes(write_hume(tmp_path, floats)) == {"Venezuela": 0, "China": 3}
    for bad in ([("China", "0"), ("China", "1")], [("China", "")], [("China", "one")], [("China", "1.5")]):
        with pytest.raises(InputError, match="Country is not one number for each Country_string: China"):
            hume_vb.country_codes(write_hume(tmp_path, bad))
