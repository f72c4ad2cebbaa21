"""The speaker recogniser: who is held out, its objective and scores against plain formulas, and the whole way."""

from __future__ import annotations

import math
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from sklearn.metrics import f1_score, recall_score

from exvo import systems
from exvo.batches.clips import Clips
from exvo.config import FeatureConfig
from exvo.errors import InputError
from exvo.evaluation.scoring import every_score, headline, score, score_epoch
from exvo.networks.build import build_network
from exvo.networks.checkpoint import load_checkpoint, save_checkpoint
from exvo.networks.inference import predict_clips
from exvo.networks.network import Network
from exvo.tasks import Task, make_task, speaker_split
from exvo.training.config import TrainingConfig
from exvo.training.loop import Validation, fit
from exvo.training.objectives import task_loss

from helpers.commands import run_here
from helpers.corpora import write_table_corpus

TASK = Task("speaker", (), speakers=("ada", "bo", "cy"))


def clips_of(speakers: list[str]) -> pd.DataFrame:
    files = [f"{place}.wav" for place in range(len(speakers))]
    return pd.DataFrame({"file": files, "split": "train", "speaker": speakers})


def test_the_third_eighth_and_so_on_clip_of_each_speaker_is_held_out() -> None:
    """The clips of two speakers in turn, one of whom stops early; then one with two clips and one with one."""
    clips = clips_of(["a", "b"] * 4 + ["a"] * 5 + ["pair", "lone", "pair"])
    clips.index += 100
    training, held_out = speaker_split(clips)
    a, b = list(clips.index[clips["speaker"] == "a"]), list(clips.index[clips["speaker"] == "b"])
    assert list(held_out.index) == sorted([a[2], a[7], b[2], 115])
    assert list(training.index) == sorted([*np.delete(a, [2, 7]), *np.delete(b, 2), 113])
    assert training.columns.equals(clips.columns)


def test_every_speaker_kept_has_clips_on_both_sides() -> None:
    speakers = [name for count in range(1, 40) for name in [f"s{count}"] * count]
    training, held_out = speaker_split(clips_of(speakers))
    assert set(training["speaker"]) == set(held_out["speaker"]) == {f"s{count}" for count in range(2, 40)}
    assert not set(training.index) & set(held_out.index)
    assert len(training) + len(held_out) == len(speakers) - 1


def test_classes_labels_and_objective() -> None:
    clips = pd.DataFrame({"file": list("wxyz"), "split": ["train", "train", "val", "train"]})
    clips["speaker"] = ["cy", "ada", "new", "bo"]
    assert make_task("speaker", clips, ("Awe",), "table", categories=True) == TASK
    assert TASK.outputs == 3
    np.testing.assert_array_equal(TASK.labels(clips), [[2], [0], [math.nan], [1]])
    outputs = np.random.default_rng(0).normal(size=(3, 3))
    chances = np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True)
    expected = -np.mean(np.log(chances[[0, 1, 2], [2, 0, 1]]))
    labels = torch.from_numpy(TASK.labels(clips)[[0, 1, 3]]).float()
    assert task_loss(TASK, torch.from_numpy(outputs), labels).item() == pytest.approx(expected, rel=1e-6)


def test_fewer_than_two_speakers_are_refused() -> None:
    with pytest.raises(InputError, match="the corpus table has 1, and needs two"):
        make_task("speaker", clips_of(["a", "a"]), (), "table", categories=False)


def test_predictions_name_the_speaker() -> None:
    clips = clips_of(["bo", "new"])
    table = TASK.table(clips, np.array([[0.1, 0.2, 0.9], [3.0, 1.0, 2.0]]))
    assert list(table.columns) == ["file", "split", "speaker", "scored", "truth.speaker", "prediction.speaker"]
    assert table["truth.speaker"].tolist() == ["bo", "new"]
    assert table["prediction.speaker"].tolist() == ["cy", "ada"]


def test_scores_and_intervals() -> None:
    rng = np.random.default_rng(0)
    clips = clips_of(rng.choice(["ada", "ada", "bo", "cy"], 80).tolist())
    outputs = rng.normal(size=(80, 3)) + 1.5 * (clips["speaker"].to_numpy()[:, None] == np.array(TASK.speakers))
    table = TASK.table(clips, outputs)
    truth, found = table["truth.speaker"], table["prediction.speaker"]
    expected = {
        "speaker_uar": recall_score(truth, found, average="macro"),
        "speaker_accuracy": float(np.mean(truth == found)),
        "speaker_macro_f1": f1_score(truth, found, average="macro"),
    }
    scores = score(table, TASK).set_index("metric")
    assert headline(TASK) == "speaker_uar"
    assert list(scores.index) == list(expected)
    for name, value in expected.items():
        assert scores.loc[name, "value"] == pytest.approx(value, abs=1e-12)
        assert score_epoch(table, TASK)[name] == pytest.approx(value, abs=1e-12)
        assert scores.loc[name, "lo"] < value < scores.loc[name, "hi"]
    assert scores[["lo_by_speaker", "hi_by_speaker"]].isna().all(axis=None)
    assert set(every_score(score(table, TASK), "val")) == {
        f"val/{name}{end}" for name in expected for end in ("", "_lo", "_hi")
    }


@pytest.mark.parametrize("name", systems.RECOGNISERS)
def test_each_system_and_its_checkpoint(name: str, tmp_path: Path) -> None:
    systems.require_trainable(name, "speaker", "auto")
    network = build_network(systems.find(name), TASK, 0.05, 0, "", Clips([], [], {}, np.zeros((4, 1)))).eval()
    save_checkpoint(tmp_path / "best.safetensors", network, network.state_dict(), TASK, FeatureConfig(), "repeat", {})
    checkpoint = load_checkpoint(tmp_path / "best.safetensors")
    assert checkpoint.task == TASK
    log_mel = torch.randn(2, 40, 64, generator=torch.Generator().manual_seed(0))
    assert network.predict(log_mel).shape == (2, 3)
    assert torch.equal(checkpoint.network.predict(log_mel), network.predict(log_mel))


@pytest.mark.parametrize("name", sorted(set(systems.SYSTEMS) - set(systems.RECOGNISERS)))
def test_other_systems_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"trains cnn5, cnn10 or cnn14, not model={name};"):
        systems.require_trainable(name, "speaker", "auto")
    features = "egemaps" if name.startswith("frozen") else "log-mel"
    systems.require_trainable(name, "fewshot", "strict", features)


def test_it_learns_who_speaks() -> None:
    """Four speakers, each loud in other bands: held-out clips are recognised far above one in four."""
    rng = np.random.default_rng(0)
    names = [f"s{place % 4}" for place in range(48)]
    features = {}
    for place, name in enumerate(names):
        level = np.full(64, -60.0)
        level[16 * int(name[1]) : 16 * int(name[1]) + 16] = -20
        features[f"{place}.wav"] = (level + rng.normal(0, 8, (int(rng.integers(30, 60)), 64))).astype(np.float32)
    training, held_out = speaker_split(clips_of(names))
    task = make_task("speaker", training, (), "table", categories=False)
    mine, others = (
        Clips(rows["file"].tolist(), rows["file"].tolist(), features, task.labels(rows), "repeat")
        for rows in (training, held_out)
    )
    network = build_network(systems.find("cnn10"), task, 0.1, 0, "", mine)

    def validate(network: Network) -> Validation:
        scores = score_epoch(task.table(held_out, predict_clips(network, others, "cpu")), task)
        return Validation(float(scores["speaker_uar"]))

    config = TrainingConfig(6, 6, 0.02, "sgd", 0, "cpu", "float32", crop_frames=48)
    best = fit(network, task, mine, config, validate, lambda weights, epoch: None, lambda epoch: None)
    assert best.score > 0.7


SMALL = {"model": "cnn10", "corpus": "table", "task": "speaker", "epochs": "1", "batch_size": "4", "width": "0.05"}


@pytest.mark.usefixtures("store")
def test_the_entry_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Speaker 0 trains with a single clip, speaker 1 with an unreadable one among its four."""
    folder = tmp_path / "corpus"
    table = write_table_corpus(folder, speakers=8)
    table = table[~table["file"].isin(["s0-1.wav", "s0-2.wav", "s0-3.wav"])]
    table.to_csv(folder / "clips.csv", index=False)
    (folder / "s1-1.wav").unlink()
    options = SMALL | {"data": str(folder), "skip_unreadable": "true"}
    assert run_here("main", options, monkeypatch) == 0
    told = capsys.readouterr().out
    assert "5 clips of 2 speakers to learn from, 2 held out" in told
    assert "1 speakers with a single clip: speaker0" in told
    assert "cnn10 on table, held-out clips of the train split, 2 clips" in told
    assert "The test split has other people than a speaker recogniser knows" in told
    (run,) = MlflowClient().search_runs(["0"])
    assert {"val/speaker_uar", "val/speaker_uar_lo", "val/speaker_accuracy", "val/speaker_macro_f1"} <= set(
        run.data.metrics
    )
    assert run.data.tags["exvo.task"] == "speaker"
    artifacts = run.info.artifact_uri
    found = pd.read_parquet(mlflow.artifacts.download_artifacts(f"{artifacts}/predictions/val.parquet"))
    assert found["file"].tolist() == ["s1-3.wav", "s6-2.wav"]
    assert set(found["prediction.speaker"]) <= {"speaker1", "speaker6"}
    model = mlflow.pyfunc.load_model(run.data.tags["exvo.model_uri"])
    answer = model.predict(pd.DataFrame({"audio": [(folder / "s7-0.wav").read_bytes()]}))
    assert list(answer.columns) == ["speaker", "warnings"]
    assert answer["speaker"][0] in {"speaker1", "speaker6"}
    assert run_here("evaluate", {"run_id": run.info.run_id}, monkeypatch) == 2
    assert "is a speaker recogniser: the other splits have people that it does not know" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"model": "cnn14-bs8"}, "task=speaker trains cnn5, cnn10 or cnn14, not model=cnn14-bs8; choose one of"),
        ({"protocol": "strict"}, "task=speaker has no enrolment clips, so protocol=strict has no meaning;"),
    ],
)
def test_what_does_not_go_together_is_one_sentence(
    options: dict[str, str], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here("train", SMALL | options, monkeypatch) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert sentence in line
