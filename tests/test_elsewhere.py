"""A run scored on another corpus than its own: what is in common, what is left out, and where the scores stand."""

from __future__ import annotations

import json
import re
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import soundfile
from mlflow import MlflowClient
from mlflow.entities import Run
from sklearn.metrics import recall_score

import exvo
from exvo.corpora import Corpus, Selection, load
from exvo.corpora.common import in_common
from exvo.errors import InputError
from exvo.evaluation.prior import prior_of
from exvo.experiments.elsewhere import prior_among
from exvo.tasks import Task
from exvo.tracking import artifacts, lookup, scored

from helpers.commands import newest, run_here
from helpers.corpora import write_category_corpus, write_table_corpus
from helpers.reports import text_of

TINY = {"model": "cnn10", "corpus": "table", "epochs": "1", "batch_size": "8", "width": "0.05"}
TINY |= {"precision": "float32", "objective": "cross-entropy"}
NAMES = ("Joy", "fear", "boredom", "pain")


def write_other(folder: Path, speakers: int = 5, clips: int = 8, named: str = "other") -> pd.DataFrame:
    """Another corpus, without splits: its categories are `NAMES` in turn."""
    table = write_table_corpus(folder, speakers, clips, seconds=0.35).drop(columns=["split", "High", "Loud"])
    table["category"] = [NAMES[number % 4] for number in range(len(table))]
    table["speaker"] = table["speaker"].str.replace("speaker", named)
    table.to_csv(folder / "clips.csv", index=False)
    return table


def other(folder: Path, **options: str) -> Corpus:
    write_other(folder)
    return load("table", folder, selection=Selection(**options), scored_only=True)


def text_artifact(run: Run, name: str) -> str:
    return str(mlflow.artifacts.load_text(f"{run.info.artifact_uri}/{name}"))


def predictions(run: Run) -> pd.DataFrame:
    table = artifacts.load_table(run.info.run_id, "predictions/elsewhere.parquet")
    assert table is not None
    return table


# What is in common


def test_categories_in_common_have_the_models_names_and_order_and_the_rest_is_counted(tmp_path: Path) -> None:
    common = in_common(other(tmp_path), ("awe", "fear", "joy"), True, "test")
    assert dict(common.targets) == {"fear": "fear", "joy": "Joy"}
    assert common.corpus.categories == common.corpus.targets == ("fear", "joy")
    assert (dict(common.clips), common.lacking, common.split) == ({"fear": 10, "joy": 10}, ("awe",), "")
    assert (dict(common.left_out), common.left_out_clips) == ({"boredom": 10, "pain": 10}, 20)
    clips = common.corpus.clips
    scored_clips = clips[clips["split"] == "elsewhere"]
    assert scored_clips["category"].value_counts().to_dict() == {"fear": 10, "joy": 10}
    assert (scored_clips[["fear", "joy"]].idxmax(axis=1) == scored_clips["category"]).all()
    assert len(clips) == 40  # the audio table of the corpus stands beside it, row by row
    said = " ".join(common.sentences())
    assert (
        "all clips, as it has no splits: 20 clips of 2 categories that the model knows: fear (10 clips), Joy as" in said
    )
    assert "20 clips of 2 categories that the model does not know: boredom (10 clips), pain (10 clips)" in said
    assert "the model's 3 categories these clips lack 1 (awe); shares are scaled to sum to 1 over the 2 in comm" in said


def test_labels_give_the_corpus_the_models_names(tmp_path: Path) -> None:
    common = in_common(other(tmp_path, labels="awe=boredom+pain"), ("awe", "fear", "joy"), True, "test")
    assert dict(common.clips) == {"awe": 20, "fear": 10, "joy": 10}
    assert (common.left_out_clips, common.lacking) == (0, ())


def test_a_split_of_the_other_corpus_is_scored_where_it_has_some(tmp_path: Path) -> None:
    table = write_other(tmp_path)
    table["split"] = np.where(table["speaker"] == "other0", "Dev", "Test1")
    table.to_csv(tmp_path / "clips.csv", index=False)
    corpus = load("table", tmp_path, scored_only=True)
    assert dict(in_common(corpus, ("fear", "joy"), True, "val").clips) == {"fear": 2, "joy": 2}
    assert dict(in_common(corpus, ("fear", "joy"), True, "test").clips) == {"fear": 8, "joy": 8}
    with pytest.raises(InputError, match="has no clips in its train split; give split=, of test, val"):
        in_common(corpus, ("fear", "joy"), True, "train")


@pytest.mark.parametrize(
    ("targets", "categories", "sentence"),
    [
        (("a", "b"), True, "model and corpus have no categories in common (the model's: a, b; the corpus': Joy, bored"),
        (("a", "joy"), True, "no categories in common but joy, and to recognise one takes two"),
        (("fear", "joy"), False, "the model recognises intensities, and the labels of this corpus are categories"),
    ],
)
def test_too_little_in_common_is_one_sentence(
    targets: tuple[str, ...], categories: bool, sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        in_common(other(tmp_path), targets, categories, "test")
    assert sentence in str(caught.value)


def test_intensities_in_common(tmp_path: Path) -> None:
    table = write_table_corpus(tmp_path, 4).drop(columns=["split", "age", "country"])
    table.rename(columns={"High": "high"}).to_csv(tmp_path / "clips.csv", index=False)
    corpus = load("table", tmp_path, scored_only=True)
    common = in_common(corpus, ("Low", "High"), False, "test")
    assert (common.corpus.targets, common.lacking, dict(common.left_out)) == (("High",), ("Low",), {"Loud": 16})
    assert common.corpus.clips["High"].tolist() == corpus.clips["high"].tolist()
    assert "Loud (16 clips)" in " ".join(common.sentences())
    with pytest.raises(InputError, match="no intensities in common"):
        in_common(corpus, ("Awe",), False, "test")


def test_a_corpus_on_which_nothing_is_trained_needs_neither_splits_nor_three_speakers(tmp_path: Path) -> None:
    write_other(tmp_path, speakers=2)
    with pytest.raises(InputError, match="three speakers or more"):
        load("table", tmp_path)
    corpus = load("table", tmp_path, scored_only=True)
    assert set(corpus.clips["split"]) == {"test"}
    assert "all clips are scored" in corpus.assigned


def test_the_prior_is_that_of_training_over_what_is_in_common() -> None:
    clips = pd.DataFrame({"category": ["awe"] * 5 + ["joy"] * 3 + ["fear"]})
    clips = clips.join(pd.get_dummies(clips["category"]).astype(float))
    prior = prior_of(clips, Task("fewshot", ("awe", "fear", "joy"), categories=True))
    among = prior_among(prior, ("fear", "joy"), True)
    assert among == {"fear": pytest.approx(1 / 4), "joy": pytest.approx(3 / 4), "category": "joy"}
    assert prior_among({"High": 0.2, "Low": 0.3}, ("High",), False) == {"High": 0.2}
    assert prior_among({}, ("High",), False) == {}


# The command


@pytest.mark.usefixtures("store")
def test_a_run_is_scored_on_another_corpus_and_its_own_tables_stay_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_category_corpus(tmp_path / "own", 8, 8)
    write_other(tmp_path / "other")
    assert run_here("main", TINY | {"data": str(tmp_path / "own"), "protocol": "published"}, monkeypatch) == 0
    trained = newest()
    before, tables = dict(trained.data.metrics), lookup.newest_runs("test")["run_id"].tolist()
    options = {"run_id": trained.info.run_id, "data": str(tmp_path / "other")}
    capsys.readouterr()
    assert run_here("evaluate", options, monkeypatch) == 2
    assert "evaluate scores it on another corpus with the option elsewhere" in capsys.readouterr().err
    assert run_here("evaluate", options | {"labels": "awe=pain"}, monkeypatch) == 2
    assert "give elsewhere too, as elsewhere=table, or leave labels out" in capsys.readouterr().err
    assert run_here("evaluate", options | {"elsewhere": "table"}, monkeypatch) == 0
    said = capsys.readouterr().out
    assert "20 clips of 2 categories that the model knows" in said
    assert "warning: " not in said.partition("Of the other corpus")[2]
    run = newest()

    # its scores are those of the model's shares over what is in common
    table = predictions(run).set_index("file")
    assert (set(table["truth.category"]), set(table["split"])) == ({"fear", "joy"}, {"test"})
    answers = exvo.load(trained.info.run_id).predict([tmp_path / "other" / file for file in table.index])
    pair = pd.DataFrame(answers)[["fear", "joy"]].to_numpy(float)
    shares = pair / pair.sum(axis=1, keepdims=True)
    assert np.allclose(table[["prediction.fear", "prediction.joy"]], shares, atol=1e-5)
    uar = recall_score(table["truth.category"], table["prediction.category"], average="macro")
    assert run.data.metrics["elsewhere/category_uar"] == pytest.approx(uar)

    # report, description and facts say what it is about
    report = " ".join(text_of(text_artifact(run, "report/elsewhere.html")).split())
    assert "names the right one of 2 categories in" in report
    assert "of clips of another corpus, of 5 people" in report
    assert re.search("chance(, | is )50.0%", report)
    assert "20 clips of 2 categories that the model does not know: boredom (10 clips), pain (10 clips)" in report
    assert "--elsewhere=table" in report
    assert run.data.tags["mlflow.note.content"].startswith("**Another corpus: UAR ")
    facts = json.loads(text_artifact(run, "elsewhere.json"))
    assert (facts["clips"], facts["split"], facts["left_out_clips"], facts["lacking"]) == (20, "all", 20, ["awe"])
    assert (facts["learnt_clips"], facts["speakers_of_the_same_name"]) == ([], [])

    # and no table or metric of its own corpus has changed
    tags = run.data.tags
    assert (tags["exvo.elsewhere"], tags["exvo.protocol"]) == ("table", "elsewhere-published")
    again = MlflowClient().get_run(trained.info.run_id)
    assert dict(again.data.metrics) == before
    assert again.data.tags["mlflow.note.content"] == trained.data.tags["mlflow.note.content"]
    assert not [name for name in run.data.metrics if name.startswith(("test/", "val/"))]
    assert [lookup.newest_runs(split)["run_id"].tolist() for split in ("test", "elsewhere")] == [tables, []]
    assert [one.info.run_id for one in scored.evaluations(trained, "test")] == [trained.info.run_id]
    assert run_here("compare", {"split": "test"}, monkeypatch) == 0
    assert "elsewhere-published" not in capsys.readouterr().out
    assert run_here("evaluate", {"run_id": run.info.run_id}, monkeypatch) == 2
    own = {"run_id": trained.info.run_id, "data": str(tmp_path / "own"), "elsewhere": "table"}
    capsys.readouterr()
    assert run_here("evaluate", own, monkeypatch) == 2
    assert "this is the corpus that the run" in capsys.readouterr().err


@pytest.mark.usefixtures("store")
def test_speakers_enrol_elsewhere_as_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_category_corpus(tmp_path / "own", 8, 8)
    write_other(tmp_path / "other")
    options = TINY | {"data": str(tmp_path / "own"), "model": "cnn10-relative", "protocol": "strict"}
    assert run_here("train", options, monkeypatch) == 0
    trained = newest()
    options = {"run_id": trained.info.run_id, "data": str(tmp_path / "other"), "elsewhere": "table"}
    assert run_here("evaluate", options | {"shots": "1"}, monkeypatch) == 0
    run = newest()
    table = predictions(run)
    first = table.groupby("speaker")["file"].transform("first") == table["file"]
    assert (table["scored"] == ~first).all()  # of each speaker the first clip of what is in common enrols
    wrong = artifacts.load_table(run.info.run_id, "enrolment/elsewhere-wrong.parquet")
    assert wrong is not None
    assert not np.allclose(wrong["prediction.joy"], table["prediction.joy"])
    model = exvo.load(trained.info.run_id)
    speaker = table[table["speaker"] == "other2"]
    paths = [tmp_path / "other" / file for file in speaker["file"]]
    answers = pd.DataFrame(model.predict(paths[1:], enrolment=paths[:1]))[["fear", "joy"]].to_numpy(float)
    shares = answers / answers.sum(axis=1, keepdims=True)
    assert np.allclose(speaker[["prediction.fear", "prediction.joy"]].to_numpy()[1:], shares, atol=1e-5)
    report = text_of(text_artifact(run, "report/elsewhere.html"))
    assert "Enrolment" in report
    assert "another speaker" in report


@pytest.mark.usefixtures("store")
def test_clips_that_made_the_model_are_named_and_refused_under_strict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = write_category_corpus(tmp_path / "own", 8, 8)
    assert run_here("train", TINY | {"data": str(tmp_path / "own"), "protocol": "published"}, monkeypatch) == 0
    run_id = newest().info.run_id
    learnt = artifacts.load_table(run_id, artifacts.LEARNT)
    assert learnt is not None
    assert set(learnt["split"]) == {"train", "val"}
    known = own[(own["category"] == "joy") & own["file"].isin(learnt["file"])]["file"].iloc[0]
    table = write_other(tmp_path / "other", named="speaker")
    samples, rate = soundfile.read(tmp_path / "own" / known, dtype="int16")
    soundfile.write(tmp_path / "other" / "copy.flac", samples, rate)  # another file of the same samples
    table.loc[0, "file"] = "copy.flac"
    table.to_csv(tmp_path / "other" / "clips.csv", index=False)
    options = {"run_id": run_id, "data": str(tmp_path / "other"), "elsewhere": "table"}
    capsys.readouterr()
    assert run_here("evaluate", options, monkeypatch) == 0
    said = capsys.readouterr().out
    split = learnt.set_index("file").loc[known, "split"]
    assert f"and 1 of these are among them: copy.flac = {known} ({split})" in said
    assert "the same name and count as different people: speaker0" in said
    assert f"copy.flac = {known}" in text_of(text_artifact(newest(), "report/elsewhere.html"))
    assert json.loads(text_artifact(newest(), "elsewhere.json"))["learnt_clips"] == [
        ["copy.flac", f"{known} ({split})"]
    ]
    assert run_here("evaluate", options | {"protocol": "strict"}, monkeypatch) == 2
    assert f"copy.flac = {known} ({split}); leave them out (where=file!=copy.flac)" in capsys.readouterr().err
    strict = options | {"protocol": "strict", "where": "file!=copy.flac"}
    assert run_here("evaluate", strict, monkeypatch) == 0
    assert "are among them" not in capsys.readouterr().out


@pytest.mark.usefixtures("store")
def test_intensities_are_scored_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_table_corpus(tmp_path / "own", 8)
    write_table_corpus(tmp_path / "made", 4, seconds=0.5)
    table = pd.read_csv(tmp_path / "made" / "clips.csv").drop(columns=["split", "Loud", "speaker"])
    table.rename(columns={"High": "high"}).to_csv(tmp_path / "made" / "clips.csv", index=False)
    options = TINY | {"data": str(tmp_path / "own"), "objective": "auto", "task": "multitask"}
    assert run_here("train", options, monkeypatch) == 0
    options = {"run_id": newest().info.run_id, "data": str(tmp_path / "made"), "elsewhere": "table"}
    assert run_here("evaluate", options, monkeypatch) == 0
    run = newest()
    rows = predictions(run)
    x, y = rows["truth.High"].to_numpy(), rows["prediction.High"].to_numpy()
    ccc = 2 * np.mean((x - x.mean()) * (y - y.mean())) / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)
    assert run.data.metrics["elsewhere/emotion_ccc"] == pytest.approx(ccc, abs=1e-6)
    assert "prediction.Loud" not in rows
    assert "prediction.age" not in rows
