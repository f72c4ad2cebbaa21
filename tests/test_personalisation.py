"""Personalised and continued systems through the entry points, on tiny audio."""

from __future__ import annotations

import re
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from conftest import run_here, write_table_corpus
from mlflow import MlflowClient
from mlflow.entities import Run

from exvo import lookup
from exvo.config import FeatureConfig
from exvo.enrolment import enrol
from exvo.features import log_mel, read_audio

pytestmark = pytest.mark.usefixtures("store")

OPTIONS = {"corpus": "table", "epochs": "1", "width": "0.05", "learning_rate": "0.01"}


def runs(entry_point: str = "train") -> list[Run]:
    """The finished runs of an entry point, newest first."""
    wanted = f"tags.`exvo.entry_point` = '{entry_point}' and attributes.status = 'FINISHED'"
    return list(MlflowClient().search_runs(["0"], wanted))


def predictions(run: Run, split: str) -> pd.DataFrame:
    return pd.read_parquet(mlflow.artifacts.download_artifacts(f"{run.info.artifact_uri}/predictions/{split}.parquet"))


def test_strict_enrols_with_clips_that_are_not_scored(
    tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = OPTIONS | {"data": str(tiny_corpus), "model": "cnn10-relative"}
    assert run_here("train", options, monkeypatch) == 0
    told = capsys.readouterr().out
    assert "val split: strict protocol, 2 enrolment clips a speaker\n" in told
    assert "val split, 12 clips, 6 of them scored" in told
    (trained,) = runs()
    assert trained.data.params["protocol"] == "strict"
    assert trained.data.tags[lookup.SYSTEM_TAG] == "cnn10-relative"
    table = predictions(trained, "val")
    assert table.groupby("speaker")["scored"].agg(list).tolist() == [[False, False, True, True]] * 3
    assert run_here("evaluate", {"run_id": trained.info.run_id, "split": "val", "shots": "3"}, monkeypatch) == 0
    (evaluated,) = runs("evaluate")
    assert re.fullmatch(r"cnn10-relative-[a-z]+-[a-z]+-\d+", trained.info.run_name)
    assert re.fullmatch(r"evaluate-cnn10-relative-[a-z]+-[a-z]+-\d+", evaluated.info.run_name)
    assert evaluated.data.tags[lookup.EVALUATED_TAG] == trained.info.run_id
    assert predictions(evaluated, "val")["scored"].sum() == 3
    assert run_here("evaluate", {"run_id": trained.info.run_id, "protocol": "published"}, monkeypatch) == 0
    newest = runs("evaluate")[0]
    assert newest.data.tags[lookup.PROTOCOL_TAG] == "published"
    assert predictions(newest, "test")["scored"].all()


def test_predictions_are_the_networks_with_the_speakers_profile(
    tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every number of the predictions table once more, from the logged weights, one clip at a time."""
    options = OPTIONS | {"data": str(tiny_corpus), "model": "cnn14-attention-cnn10-layernorm-auxil-learn"}
    assert run_here("train", options, monkeypatch) == 0
    (trained,) = runs()
    assert (trained.data.params["protocol"], trained.data.params["batch_size"]) == ("published", "8")
    table = predictions(trained, "val")
    assert table["scored"].all()
    network = lookup.load_checkpoint(trained).network
    features = FeatureConfig()
    audio = (read_audio((tiny_corpus / file).read_bytes(), features).waveform for file in table["file"])
    mels = [log_mel(torch.from_numpy(samples), features)[None] for samples in audio]
    who = enrol(table["speaker"].tolist(), "published", 2).clips
    with torch.inference_mode():
        for clip, row in enumerate(table.to_dict("records")):
            profile = torch.stack([network.enrol(mels[other])[0] for other in who[clip]]).mean(dim=0)
            found = network(mels[clip], profile[None])[0]
            np.testing.assert_allclose(found, [row["prediction.High"], row["prediction.Loud"]], atol=1e-5)


def test_continued_systems_start_from_the_best_run_of_their_parent(
    tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = OPTIONS | {"data": str(tiny_corpus), "batch_size": "8"}
    child = options | {"model": "cnn14-random-init-continued"}
    assert run_here("train", child, monkeypatch) == 2
    told = capsys.readouterr().err
    assert "continues cnn14-random-init, of which the tracking server has no finished run" in told
    assert "-m pipelines.train --corpus=table " in told
    assert " --model=cnn14-random-init " in told
    for seed in ("1", "2"):
        assert run_here("train", options | {"model": "cnn14", "seed": seed}, monkeypatch) == 0
    assert run_here("train", options | {"model": "cnn14", "width": "0.06"}, monkeypatch) == 0  # of another width
    best = max(runs()[1:], key=lambda run: run.data.metrics["val/emotion_ccc"])
    assert run_here("train", child | {"learning_rate": "1e-12"}, monkeypatch) == 0
    continued = runs()[0]
    assert continued.data.tags[lookup.PARENT_TAG] == best.info.run_id
    before, after = (lookup.load_checkpoint(run).network for run in (best, continued))
    torch.testing.assert_close(before.output.weight, after.output.weight, rtol=0, atol=1e-9)
    other = min(runs()[2:], key=lambda run: run.data.metrics["val/emotion_ccc"])
    assert run_here("train", child | {"init": f"runs:/{other.info.run_id}"}, monkeypatch) == 0
    assert runs()[0].data.tags[lookup.PARENT_TAG] == other.info.run_id
    capsys.readouterr()
    assert run_here("train", child | {"init": f"runs:/{other.info.run_id}", "width": "0.06"}, monkeypatch) == 2
    assert "don't fit this network: its width is 0.05, not 0.06." in capsys.readouterr().err


@pytest.fixture
def uneven_corpus(tmp_path: Path) -> Path:
    """The tiny corpus with a speaker of one clip and one of two in val, and one of one clip in train."""
    folder = tmp_path / "uneven"
    table = write_table_corpus(folder, speakers=8)
    counts = {"speaker2": 1, "speaker4": 2, "speaker0": 1}
    kept = table.groupby("speaker").cumcount() < table["speaker"].map(counts).fillna(4)
    table[kept].to_csv(folder / "clips.csv", index=False)
    return folder


def test_speakers_with_too_few_clips_are_listed(
    uneven_corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = OPTIONS | {"data": str(uneven_corpus), "model": "cnn10-film"}
    assert run_here("train", options, monkeypatch) == 0
    told = capsys.readouterr().out
    assert "2 speakers have too few clips and enrol with fewer: speaker2, speaker4\n" in told
    assert "1 speakers with a single clip: speaker0" in told
    table = predictions(runs()[0], "val")
    assert table.groupby("speaker")["scored"].sum().to_dict() == {"speaker2": 1, "speaker4": 1, "speaker7": 2}


def test_an_unreadable_enrolment_clip_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "damaged"
    write_table_corpus(folder, speakers=8)
    soundfile.write(folder / "s2-0.wav", np.zeros(16_000), 16_000)
    options = OPTIONS | {"data": str(folder), "model": "cnn10-relative"}
    assert run_here("train", options, monkeypatch) == 2
    assert "s2-0.wav" in capsys.readouterr().err
    assert run_here("train", options | {"skip_unreadable": "true"}, monkeypatch) == 0
    assert "unreadable enrolment clips, in whose place the speaker's next enrol: s2-0.wav\n" in capsys.readouterr().out


def test_a_corpus_where_nobody_can_be_enrolled_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "single"
    write_table_corpus(folder, speakers=12, clips=1)
    options = OPTIONS | {"data": str(folder), "model": "cnn10-relative"}
    assert run_here("train", options, monkeypatch) == 2
    assert "no speaker of the train split has two; train a plain system" in capsys.readouterr().err
