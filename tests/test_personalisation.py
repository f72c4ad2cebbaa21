"""Personalised and continued systems through the entry points, on tiny audio."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from mlflow import MlflowClient
from mlflow.entities import Run
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn import functional

from exvo.config import FeatureConfig
from exvo.enrolment import EncodingPlan, EnrolmentSettings, choose_enrolment, plan_encodings
from exvo.features.audio import read_audio
from exvo.features.log_mel import log_mel
from exvo.networks.network import Network
from exvo.tracking import models
from exvo.tracking.tags import EVALUATED_TAG, PARENT_TAG, PROTOCOL_TAG, SYSTEM_TAG

from helpers.commands import run_here
from helpers.corpora import write_table_corpus
from helpers.networks import task_without_limits

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
    assert trained.data.tags[SYSTEM_TAG] == "cnn10-relative"
    table = predictions(trained, "val")
    assert table.groupby("speaker")["scored"].agg(list).tolist() == [[False, False, True, True]] * 3
    assert run_here("evaluate", {"run_id": trained.info.run_id, "split": "val", "shots": "3"}, monkeypatch) == 0
    (evaluated,) = runs("evaluate")
    assert re.fullmatch(r"cnn10-relative-w0.05-e1-s0-[0-9a-f]{4}", trained.info.run_name)
    assert re.fullmatch(r"evaluate-cnn10-relative-[0-9a-f]{4}", evaluated.info.run_name)
    assert evaluated.data.tags[EVALUATED_TAG] == trained.info.run_id
    assert predictions(evaluated, "val")["scored"].sum() == 3
    assert run_here("evaluate", {"run_id": trained.info.run_id, "protocol": "published"}, monkeypatch) == 0
    newest = runs("evaluate")[0]
    assert newest.data.tags[PROTOCOL_TAG] == "published"
    assert predictions(newest, "test")["scored"].all()


def test_copies_of_enrolment_clips_are_not_scored(
    tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In another format, with other bytes: they would be scored with their own samples as enrolment."""
    folder = tmp_path / "corpus"
    shutil.copytree(tiny_corpus, folder)
    table = pd.read_csv(folder / "clips.csv")
    own = table.index[table["speaker"] == table.loc[table["split"] == "val", "speaker"].iloc[0]]
    samples, rate = soundfile.read(folder / table.loc[own[0], "file"], dtype="int16")
    copy = table.loc[own[3], "file"].replace(".wav", ".flac")
    soundfile.write(folder / copy, samples, rate)
    table.loc[own[3], "file"] = copy
    table.to_csv(folder / "clips.csv", index=False)
    options = OPTIONS | {"data": str(folder), "model": "cnn10-relative"}
    assert run_here("train", options, monkeypatch) == 0
    told = capsys.readouterr().out
    assert f"equal audio within a split (1 group): {table.loc[own[0], 'file']} (val) = {copy} (val)." in told
    assert "1 clips are not scored: their audio is that of a clip that enrols their speaker\n" in told
    assert "val split, 12 clips, 5 of them scored" in told
    (trained,) = runs()
    assert trained.data.metrics["copies_of_enrolment/val"] == 1
    scored = predictions(trained, "val").set_index("file")["scored"]
    assert scored[table.loc[own, "file"]].tolist() == [False, False, True, False]
    assert run_here("evaluate", {"run_id": trained.info.run_id, "split": "val"}, monkeypatch) == 0
    assert "1 clips are not scored: their audio" in capsys.readouterr().out
    (evaluated,) = runs("evaluate")
    assert evaluated.data.metrics["copies_of_enrolment/val"] == 1
    assert run_here("evaluate", {"run_id": trained.info.run_id, "split": "test"}, monkeypatch) == 0
    assert "are not scored" not in capsys.readouterr().out


def log_mels(folder: Path, files: list[str]) -> list[torch.Tensor]:
    features = FeatureConfig()
    audio = (read_audio((folder / file).read_bytes(), features).waveform for file in files)
    return [log_mel(torch.from_numpy(samples), features) for samples in audio]


def by_hand(network: Network, mels: list[torch.Tensor], who: list[np.ndarray], zero_fill: bool) -> np.ndarray:
    """The prediction of each clip alone; with zeros after the shorter of the clips that enrol its speaker, or not."""
    found = []
    with torch.inference_mode():
        for mel, own in zip(mels, who, strict=True):
            longest = max(len(mels[clip]) for clip in own)
            assert any(len(mels[clip]) < longest for clip in own) or len(own) == 1
            ends = [longest - len(mels[clip]) if zero_fill else 0 for clip in own]
            filled = [functional.pad(mels[clip], (0, 0, 0, end)) for clip, end in zip(own, ends, strict=True)]
            profile = torch.stack([network.embed_enrolment(clip[None])[0] for clip in filled]).mean(dim=0)
            found.append(network.predict(mel[None], profile[None])[0].numpy())
    return np.stack(found)


def numbers(table: pd.DataFrame) -> np.ndarray:
    return table[["prediction.High", "prediction.Loud"]].to_numpy()


@pytest.mark.parametrize("model", ["cnn14-attention-cnn10-layernorm-auxil-learn", "cnn14-random-init-personalisation"])
def test_predictions_are_the_networks_with_the_speakers_profile(
    model: str, tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every number of the predictions tables once more, from the logged weights; then served, and from `predict`."""
    monkeypatch.setattr("exvo.experiments.train.make_task", task_without_limits)
    assert run_here("train", OPTIONS | {"data": str(tiny_corpus), "model": model}, monkeypatch) == 0
    (trained,) = runs()
    assert (trained.data.params["protocol"], trained.data.params["batch_size"]) == ("published", "8")
    checkpoint = models.checkpoint_of(trained)
    assert checkpoint.enrolment == EnrolmentSettings("published", 2)
    table = predictions(trained, "val")
    assert table["scored"].all()
    files, mels = table["file"].tolist(), log_mels(tiny_corpus, table["file"].tolist())
    published = choose_enrolment(table["speaker"].tolist(), "published", 2).clips
    np.testing.assert_allclose(numbers(table), by_hand(checkpoint.network, mels, published, True), atol=1e-5)

    content = [(tiny_corpus / file).read_bytes() for file in files]
    rows = [{"audio": content[clip], "enrolment": [content[one] for one in own]} for clip, own in enumerate(published)]
    served = mlflow.pyfunc.load_model(trained.data.tags["exvo.model_uri"]).predict(pd.DataFrame(rows))
    np.testing.assert_allclose(served.drop(columns="warnings"), numbers(table), atol=1e-5)
    first = [str(tiny_corpus / files[clip]) for clip in published[0]]
    given = {"audio": str(tiny_corpus / files[0]), "enrolment": ",".join(first), "save": "one.parquet"}
    assert run_here("predict", given | {"model_uri": trained.info.run_id}, monkeypatch) == 0
    told = pd.read_parquet(tmp_path / "one.parquet")[["High", "Loud"]]
    np.testing.assert_allclose(told, numbers(table)[:1], atol=1e-5)

    for protocol in ("strict", "published"):
        chosen = {"run_id": trained.info.run_id, "split": "val", "protocol": protocol, "shots": "3"}
        assert run_here("evaluate", chosen, monkeypatch) == 0
        who = choose_enrolment(table["speaker"].tolist(), protocol, 3).clips
        filled, unfilled = (by_hand(checkpoint.network, mels, who, fill) for fill in (True, False))
        expected = filled if protocol == "published" else unfilled
        np.testing.assert_allclose(numbers(predictions(runs("evaluate")[0], "val")), expected, atol=1e-5)


def test_every_entry_point_fills_enrolment_clips_under_the_runs_protocol(
    tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What each gives to `encodings`, whose numbers other tests check."""
    given: list[str | None] = []

    def record(lists: list[np.ndarray], frames: np.ndarray, protocol: str | None) -> EncodingPlan:
        given.append(protocol)
        return plan_encodings(lists, frames, protocol)

    monkeypatch.setattr("exvo.networks.inference.plan_encodings", record)
    options = OPTIONS | {"data": str(tiny_corpus), "model": "cnn14-random-init-personalisation", "width": "0.02"}
    for protocol in ("published", "strict"):
        assert run_here("train", options | {"protocol": protocol}, monkeypatch) == 0
        run_id = runs()[0].info.run_id
        clips = {"audio": str(tiny_corpus / "s0-0.wav"), "enrolment": str(tiny_corpus / "s0-1.wav")}
        for entry_point, more in (
            ("evaluate", {"run_id": run_id}),
            ("embed", {"run_id": run_id, "split": "val"}),
            ("enrolment-curve", {"run_id": run_id, "draws": "1"}),
            ("predict", {"model_uri": run_id} | clips),
        ):
            given.clear()
            assert run_here(entry_point, more, monkeypatch) == 0
            assert set(given) == {protocol}, entry_point


def make_former(trained: Run) -> None:
    """Gives the file of a run's model the header of the format before."""
    model = MlflowClient().get_logged_model(trained.data.tags["exvo.model_uri"].removeprefix("models:/"))
    (file,) = Path(model.artifact_location.removeprefix("file://")).rglob("best.safetensors")
    with safe_open(file, framework="pt") as opened:
        about = json.loads(opened.metadata()["exvo"])
        weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    former = {name: about[name] for name in ("network", "task", "fill", "notes")} | {"format": "exvo-2"}
    save_file(weights, file, {"exvo": json.dumps(former | {"features": about["features"]["settings"]})})


def test_a_run_whose_file_names_no_protocol(tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers as before: nothing is filled, unless a protocol is asked for."""
    options = OPTIONS | {"data": str(tiny_corpus), "model": "cnn10-relative", "protocol": "published"}
    assert run_here("train", options, monkeypatch) == 0
    (trained,) = runs()
    make_former(trained)
    network = models.checkpoint_of(trained).network
    for protocol in ("auto", "published"):
        chosen = {"run_id": trained.info.run_id, "split": "val", "protocol": protocol}
        assert run_here("evaluate", chosen, monkeypatch) == 0
        table = predictions(runs("evaluate")[0], "val")
        mels, who = (
            log_mels(tiny_corpus, table["file"].tolist()),
            choose_enrolment(table["speaker"].tolist(), "published", 2),
        )
        filled, unfilled = (by_hand(network, mels, who.clips, fill) for fill in (True, False))
        assert np.abs(filled - unfilled).max() > 1e-3
        np.testing.assert_allclose(numbers(table), unfilled if protocol == "auto" else filled, atol=1e-5)


def test_a_former_run_of_a_network_that_has_changed(
    tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = OPTIONS | {"data": str(tiny_corpus), "model": "cnn14-attention-cnn10-layernorm-full"}
    assert run_here("train", options, monkeypatch) == 0
    (trained,) = runs()
    uri = trained.data.tags["exvo.model_uri"]
    make_former(trained)
    clip = str(tiny_corpus / "s0-0.wav")
    for entry_point, given in (
        ("evaluate", {"run_id": trained.info.run_id}),
        ("predict", {"model_uri": uri, "audio": clip}),
        ("enrolment-curve", {"run_id": trained.info.run_id}),
        ("embed", {"run_id": trained.info.run_id}),
        ("train", options | {"init": f"runs:/{trained.info.run_id}"}),
    ):
        assert run_here(entry_point, given, monkeypatch) == 2, entry_point
        sentence = capsys.readouterr().err
        assert f"exvo: The model {uri} was trained before its network was mended: " in sentence
        assert sentence.endswith(" so train it again.\n")


def test_a_system_whose_best_parent_is_a_former_run(
    tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = OPTIONS | {"data": str(tiny_corpus), "model": "cnn14-random-init-personalisation", "width": "0.02"}
    assert run_here("train", options, monkeypatch) == 0
    make_former(runs()[0])
    assert run_here("train", options | {"model": f"{options['model']}-continued"}, monkeypatch) == 2
    hint = f"It is the best run of {options['model']}; init=runs:/<id> chooses another.\n"
    assert capsys.readouterr().err.endswith(f" so train it again. {hint}")


def test_continued_systems_start_from_the_best_run_of_their_parent(
    tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = OPTIONS | {"data": str(tiny_corpus), "batch_size": "8"}
    child = options | {"model": "cnn14-random-init-continued"}
    assert run_here("train", child, monkeypatch) == 2
    told = capsys.readouterr().err
    assert "continues cnn14-random-init, of which the tracking server has no finished run" in told
    assert "exvo train --corpus=table " in told
    assert " --model=cnn14-random-init " in told
    for seed in ("1", "2"):
        assert run_here("train", options | {"model": "cnn14", "seed": seed}, monkeypatch) == 0
    assert run_here("train", options | {"model": "cnn14", "width": "0.06"}, monkeypatch) == 0  # of another width
    best = max(runs()[1:], key=lambda run: run.data.metrics["val/emotion_ccc"])
    assert run_here("train", child | {"learning_rate": "1e-12"}, monkeypatch) == 0
    continued = runs()[0]
    assert continued.data.tags[PARENT_TAG] == best.info.run_id
    before, after = (models.checkpoint_of(run).network for run in (best, continued))
    torch.testing.assert_close(before.output.weight, after.output.weight, rtol=0, atol=1e-9)
    other = min(runs()[2:], key=lambda run: run.data.metrics["val/emotion_ccc"])
    assert run_here("train", child | {"init": f"runs:/{other.info.run_id}"}, monkeypatch) == 0
    assert runs()[0].data.tags[PARENT_TAG] == other.info.run_id
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
