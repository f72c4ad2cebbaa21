"""Several tables as one corpus: names that keep them apart, splits, the digest, copies, and scores for each."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import recall_score

from exvo.corpora import Corpus, Selection, load
from exvo.corpora.audit import Audit, audit
from exvo.errors import InputError
from exvo.files import listed
from exvo.options import parse
from exvo.reports.names import score_name
from exvo.tracking import artifacts

from helpers.commands import newest, run_here
from helpers.corpora import write_category_corpus, write_table_corpus
from helpers.reports import text_of

TINY = {"model": "cnn10", "corpus": "table", "epochs": "1", "batch_size": "8", "width": "0.05"}
TINY |= {"precision": "float32", "objective": "cross-entropy", "protocol": "published"}


def write_both(folder: Path) -> str:
    """Two tables, `near/clips.csv` and `apart/far.csv`, of speakers with the same names; the option that names both."""
    write_category_corpus(folder / "near", 8, 6)
    table = write_table_corpus(folder / "apart", 6, 6, seconds=0.45).drop(columns=["split", "High", "Loud", "country"])
    table["category"] = [("joy", "fear", "pain")[number % 3] for number in range(len(table))]
    table.to_csv(folder / "apart" / "far.csv", index=False)
    (folder / "apart" / "clips.csv").unlink()
    return f"{folder / 'near'},{folder / 'apart' / 'far.csv'}"


def read(data: str, scored_only: bool = False, **options: str | int) -> Corpus:
    return load("table", Path(data), selection=Selection(**options), scored_only=scored_only)  # type: ignore[arg-type]


def audited(corpus: Corpus) -> Audit:
    """The audit, the file's bytes being its content."""
    places = corpus.places(corpus.clips["file"].tolist())
    contents = [(corpus.folder / place).read_bytes().hex() for place in places]
    audio = pd.DataFrame({"file": corpus.clips["file"], "content": contents, "seconds": 1.0, "rate": 1.0})
    return audit(corpus, audio.assign(problem=""))


def test_speakers_of_one_name_stay_apart_and_each_table_is_split_as_it_would_be_alone(tmp_path: Path) -> None:
    corpus = read(write_both(tmp_path))
    clips = corpus.clips
    assert clips["corpus"].value_counts().to_dict() == {"near": 48, "far": 36}
    assert clips["speaker"].nunique() == 8 + 6
    assert (clips["speaker"].str.partition("/")[0] == clips["corpus"]).all()
    assert corpus.categories == ("awe", "fear", "joy", "pain")
    assert all((corpus.folder / place).is_file() for place in corpus.places(clips["file"].tolist()))
    for name, data in (("near", tmp_path / "near"), ("far", tmp_path / "apart" / "far.csv")):
        alone = read(str(data)).clips
        assert clips[clips["corpus"] == name]["split"].tolist() == alone["split"].tolist()
    assert set(clips[clips["corpus"] == "far"]["country"]) == {""}


def test_options_are_of_all_tables_together(tmp_path: Path) -> None:
    data = write_both(tmp_path)
    assert set(read(data, where="corpus=far").clips["speaker"]) == {f"far/speaker{number}" for number in range(6)}
    merged = read(data, labels="fear=fear+pain", clips_per_speaker=3)
    assert merged.categories == ("awe", "fear", "joy")
    assert (merged.clips["speaker"].value_counts() == 3).all()


def test_the_digest_covers_all_and_not_where_they_lie(tmp_path: Path) -> None:
    data = write_both(tmp_path / "here")
    found = audited(read(data))
    shutil.copytree(tmp_path / "here" / "near", tmp_path / "there" / "deep" / "near")
    shutil.copytree(tmp_path / "here" / "apart", tmp_path / "there" / "other")
    moved = f"{tmp_path / 'there' / 'deep' / 'near'},{tmp_path / 'there' / 'other' / 'far.csv'}"
    assert audited(read(moved)).digest == found.digest
    (tmp_path / "there" / "other" / "s1-1.wav").write_bytes(b"other audio")
    assert audited(read(moved)).digest != found.digest
    assert audited(read(str(tmp_path / "here" / "near"))).digest != found.digest
    assert "corpora    far (36), near (48)" in found.text()


def test_one_root_may_hold_the_clips_of_all(tmp_path: Path) -> None:
    table = write_category_corpus(tmp_path / "audio", 8, 6)
    for name, rows in (("one", table[:24]), ("two", table[24:])):
        rows.to_csv(tmp_path / f"{name}.csv", index=False)
    corpus = read(f"{tmp_path / 'one.csv'}, {tmp_path / 'two.csv'}", root=str(tmp_path / "audio"))
    assert corpus.places(["one/s0-0.wav", "two/s7-1.wav"]) == ["s0-0.wav", "s7-1.wav"]


def test_a_clip_in_two_tables_is_named(tmp_path: Path) -> None:
    data = write_both(tmp_path)
    shutil.copy(tmp_path / "near" / "s2-1.wav", tmp_path / "apart" / "s3-0.wav")
    found = audited(read(data))
    assert found.summary["in_several_corpora"] == ["near/s2-1.wav = far/s3-0.wav"]
    assert "equal audio in several of the tables (1 group): near/s2-1.wav = far/s3-0.wav." in found.warnings


def test_mistakes_are_one_sentence(tmp_path: Path) -> None:
    data = write_both(tmp_path)
    far = tmp_path / "apart" / "far.csv"
    table = pd.read_csv(far)

    def refused(sentence: str, data: str = data) -> None:
        with pytest.raises(InputError) as caught:
            read(data)
        assert sentence in str(caught.value)
        assert str(caught.value).count("\n") == 0

    refused("2 tables are called far, far, by which their speakers are told apart; rename far", f"{far},{far}")
    refused(f"the folder {tmp_path / 'no.csv'} of corpus table is not there", f"{far},{tmp_path / 'no.csv'}")
    table.assign(split="train").to_csv(far, index=False)
    refused("far has the column split and near has none; give it to all or to none (columns=split:)")
    table.drop(columns="category").assign(High=0.5).to_csv(far, index=False)
    refused("near has the column category and far has none; give it to all")
    table.assign(category=["x" if number else "" for number in range(36)]).to_csv(far, index=False)
    refused("clips of train or val without a category: far: line 2")
    table.assign(file=["../near/s0-0.wav", *table["file"][1:]]).to_csv(far, index=False)
    refused("far.csv: file is not a relative path with /: line 2")
    table.to_csv(far, index=False)
    (tmp_path / "apart" / "s0-0.wav").unlink()
    (tmp_path / "apart" / "s0-0.wav").symlink_to(tmp_path / "near" / "s0-0.wav")
    refused("links that leave the corpus folder: line 2 (s0-0.wav is")
    for name, target in (("a", "High"), ("b", "Low")):
        write_table_corpus(tmp_path / name).rename(columns={"High": target}).to_csv(tmp_path / name / "clips.csv")
    for name in ("a", "b"):
        rows = pd.read_csv(tmp_path / name / "clips.csv", index_col=0)
        rows.to_csv(tmp_path / name / "clips.csv", index=False)
    refused("numeric targets that only some of the tables have: High, Low; say", f"{tmp_path / 'a'},{tmp_path / 'b'}")


def test_several_paths_in_one_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert listed("a.csv,b.csv") == ["a.csv", "b.csv"]
    assert listed(r"a\,1.csv, b.csv") == ["a,1.csv", "b.csv"]
    (tmp_path / "a.csv,b.csv").mkdir()
    assert listed("a.csv,b.csv") == ["a.csv,b.csv"]
    assert parse("train", ["--data", r"~/a,x\,y"]).data == rf"{Path.home()}/a,x\,y"


def test_the_name_of_the_score_of_a_corpus() -> None:
    assert score_name("category_uar_corpus_near") == "UAR, corpus near"


@pytest.mark.usefixtures("store")
def test_a_run_on_two_tables_has_scores_for_each_and_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_both(tmp_path)
    assert run_here("main", TINY | {"data": data}, monkeypatch) == 0
    run = newest()
    predictions = artifacts.load_table(run.info.run_id, "predictions/test.parquet")
    scores = artifacts.scores(run, "test")
    assert predictions is not None
    assert scores is not None
    values = scores.set_index("metric")
    for name, rows in [("", predictions), *predictions.groupby("corpus")]:
        with np.errstate(all="ignore"):
            uar = recall_score(
                rows["truth.category"],
                rows["prediction.category"],
                labels=sorted(set(rows["truth.category"])),
                average="macro",
            )
        row = values.loc[f"category_uar_corpus_{name}" if name else "category_uar"]
        assert row["value"] == pytest.approx(uar)
        assert row["n"] == len(rows)
    report = text_of(str(mlflow.artifacts.load_text(f"{run.info.artifact_uri}/report/test.html")))
    assert "Corpora" in report
    assert "UAR, corpus near" in report
    # evaluated from the run, wherever the tables lie now
    (tmp_path / "moved").mkdir()
    for name in ("near", "apart"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    moved = f"{tmp_path / 'moved' / 'near'},{tmp_path / 'moved' / 'apart' / 'far.csv'}"
    assert run_here("evaluate", {"run_id": run.info.run_id, "data": moved}, monkeypatch) == 0
    assert newest().data.metrics["test/category_uar"] == run.data.metrics["test/category_uar"]
    # and scored elsewhere on one of them, whose clips it has learnt from
    options = {"run_id": run.info.run_id, "elsewhere": "table", "data": str(tmp_path / "moved" / "near")}
    assert run_here("evaluate", options, monkeypatch) == 0
    facts = json.loads(mlflow.artifacts.load_text(f"{newest().info.artifact_uri}/elsewhere.json"))
    assert all(own == f"near/{file} (train)" or own == f"near/{file} (val)" for file, own in facts["learnt_clips"])
    assert len(facts["learnt_clips"]) >= 30
    # the same clip in both is refused under strict
    shutil.copy(tmp_path / "moved" / "near" / "s2-1.wav", tmp_path / "moved" / "apart" / "s3-0.wav")
    capsys.readouterr()
    assert run_here("train", TINY | {"data": moved}, monkeypatch) == 0
    assert "warning: equal audio in several of the tables (1 group)" in capsys.readouterr().out
    assert run_here("train", TINY | {"data": moved, "protocol": "strict"}, monkeypatch) == 2
    refused = capsys.readouterr().err
    assert "protocol=strict: equal audio in several of the tables: near/s2-1.wav = far/s3-0.wav" in refused
