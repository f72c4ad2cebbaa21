"""`predict` on files, folders and globs, against the predictions of `evaluate`."""

from __future__ import annotations

import errno
import io
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import soundfile
from mlflow import MlflowClient
from mlflow.entities import Run

from exvo.errors import InputError
from exvo.experiments import evaluate, train
from exvo.reports.prediction import chart
from exvo.serving.recordings import find_audio
from exvo.settings import EvaluateSettings, TrainSettings
from exvo.tracking import models

from helpers.commands import run_here
from helpers.networks import task_without_limits

Expected = tuple[Run, pd.DataFrame]


@pytest.fixture(scope="module")
def trained(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Expected]:
    """A personalised run in a store of its own, and what `evaluate` predicted with it on the test split."""
    folder = tmp_path_factory.mktemp("predict")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("exvo.experiments.train.make_task", task_without_limits)
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        options = {"corpus": "table", "data": str(tiny_corpus), "epochs": 1, "width": 0.05, "learning_rate": 0.01}
        train.run(TrainSettings(**options, model="cnn10-relative"))
        evaluate.run(EvaluateSettings(run_id="cnn10-relative", split="test"))
        train.run(TrainSettings(**options, model="cnn10"))
        _, scored, run = MlflowClient().search_runs(["0"])
        version = mlflow.register_model(run.data.tags["exvo.model_uri"], "exvo-fewshot").version
        MlflowClient().set_registered_model_alias("exvo-fewshot", "champion", version)
        path = mlflow.artifacts.download_artifacts(f"{scored.info.artifact_uri}/predictions/test.parquet")
        yield run, pd.read_parquet(path)
        mlflow.set_tracking_uri(None)


def newest() -> Run:
    (run,) = MlflowClient().search_runs(["0"], "tags.`exvo.entry_point` = 'predict'", max_results=1)
    return run


def logged(run: Run) -> pd.DataFrame:
    return pd.read_csv(mlflow.artifacts.download_artifacts(f"{run.info.artifact_uri}/predictions/audio.csv"))


def speaker(predictions: pd.DataFrame, corpus: Path) -> tuple[list[Path], list[Path], np.ndarray]:
    """The scored clips of the first speaker, the clips that enrolled them, and what was predicted (clips, targets)."""
    own = predictions[predictions["speaker"] == predictions["speaker"].iloc[0]]
    scored, enrolling = own[own["scored"]], own[~own["scored"]]
    expected = scored[["prediction.High", "prediction.Loud"]].to_numpy()
    return [corpus / file for file in scored["file"]], [corpus / file for file in enrolling["file"]], expected


@pytest.mark.parametrize("kind", ["champion", "version", "logged model", "id", "uri", "name", "system"])
def test_every_name_of_a_model_gives_the_numbers_of_evaluate(
    kind: str, trained: Expected, tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, predictions = trained
    names = {
        "version": "models:/exvo-fewshot/1",
        "logged model": run.data.tags["exvo.model_uri"],
        "id": run.info.run_id,
    }
    names |= {"uri": f"runs:/{run.info.run_id}", "name": run.info.run_name, "system": "cnn10-relative"}
    clips, enrolling, expected = speaker(predictions, tiny_corpus)
    saved = tmp_path / "emotions.parquet"
    options = {"audio": ",".join(map(str, clips)), "enrolment": ",".join(map(str, enrolling)), "save": str(saved)}
    options |= {"model_uri": names[kind]} if kind in names else {}
    assert run_here("predict", options, monkeypatch) == 0
    for table in (pd.read_parquet(saved), logged(newest())):
        assert table.columns.tolist() == ["file", "High", "Loud", "warnings"]
        assert table["file"].tolist() == [str(clip) for clip in clips]
        np.testing.assert_allclose(table[["High", "Loud"]], expected, atol=1e-5)


def test_answers_are_kept_until_the_table_is_saved(
    trained: Expected, tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips, _, _ = speaker(trained[1], tiny_corpus)
    saved, parts = tmp_path / "emotions.csv", tmp_path / "emotions.csv.parts"
    options = {"audio": ",".join(map(str, clips)), "save": str(saved)}
    assert run_here("predict", options, monkeypatch) == 0
    whole = saved.read_bytes()
    kept: list[Path] = []
    monkeypatch.setattr("exvo.experiments.predict.BLOCK_FILES", 1)

    def full_disk(table: pd.DataFrame, path: Path) -> None:
        kept.extend(parts.iterdir())
        raise InputError("The disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr("exvo.experiments.predict.save", full_disk)
        assert run_here("predict", options, monkeypatch) == 2
    assert len(kept) == len(clips) == len(list(parts.iterdir()))
    assert run_here("predict", options, monkeypatch) == 0
    assert saved.read_bytes() == whole
    assert not parts.exists()


def test_the_screen_shows_the_strongest_emotions_and_the_speaker(
    trained: Expected, tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clips, enrolling, expected = speaker(trained[1], tiny_corpus)
    enrolment = ",".join(map(str, enrolling))
    assert run_here("predict", {"audio": str(clips[0]), "enrolment": enrolment, "top": "1"}, monkeypatch) == 0
    told = capsys.readouterr().out
    assert told.startswith(
        f"cnn10-relative of run {trained[0].info.run_id}, adapted to the speaker of 2 enrolment clips"
    )
    strongest = ("High", "Loud")[expected[0].argmax()]
    (line,) = [line for line in told.splitlines() if line.startswith(clips[0].name)]
    assert re.match(rf"{re.escape(clips[0].name)} +{strongest} +{expected[0].max():.3f}\b", line)
    assert f"run    {newest().info.run_name}" in told
    assert run_here("predict", {"audio": str(clips[0])}, monkeypatch) == 0
    assert "; without enrolment=<files of the speaker> it takes the typical speaker's" in capsys.readouterr().out
    plain = {"audio": str(clips[0]), "model_uri": "cnn10", "enrolment": enrolment}
    assert run_here("predict", plain, monkeypatch) == 0
    assert "it takes no enrolment, so those clips are ignored" in capsys.readouterr().out


def test_unreadable_files_are_listed_and_the_others_predicted(
    trained: Expected,
    tiny_corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    soundfile.write(tmp_path / "silent.wav", np.zeros(16_000), 16_000)
    (tmp_path / "noise.mp3").write_bytes(b"no music")
    (tmp_path / "notes.txt").write_text("not looked at in a folder")
    saved = tmp_path / "emotions.csv"
    options = {"audio": f"{tmp_path}, {tiny_corpus}/s2-*.wav, gone.wav", "save": str(saved)}
    assert run_here("predict", options, monkeypatch) == 2
    told = capsys.readouterr().err
    assert "exvo: 3 of 7 files can't be used, the others are predicted:\n" in told
    assert f"\n  {tmp_path}/noise.mp3: not audio (" in told
    assert f"\n  {tmp_path}/silent.wav: silent: all samples are zero\n" in told
    assert told.endswith("\n  gone.wav: missing\n")
    assert pd.read_csv(saved)["file"].tolist() == [f"{tiny_corpus}/s2-{clip}.wav" for clip in range(4)]
    pd.testing.assert_frame_equal(logged(newest()), pd.read_csv(saved))
    assert run_here("predict", {"audio": "gone.wav"}, monkeypatch) == 2
    assert capsys.readouterr().err == "exvo: 1 of 1 files can't be used:\n  gone.wav: missing\n"


def test_aiff_is_read_and_what_mixing_loses_is_said(
    trained: Expected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000)
    formats = {"iff": "AIFF", "aif": "AIFF", "wav": "WAV"}
    for name, right in (("one.aiff", -0.98 * noise), ("two.aif", noise), ("three.wav", -noise)):
        soundfile.write(tmp_path / name, np.stack([noise, right], axis=1), 16_000, "FLOAT", format=formats[name[-3:]])
    assert run_here("predict", {"audio": str(tmp_path)}, monkeypatch) == 2
    told = capsys.readouterr()
    assert f"warning: {tmp_path}/one.aiff: mixing its 2 channels to one lost 40 dB\n" in told.out
    assert told.out.count("warning: ") == 1
    assert f"{tmp_path}/three.wav: its 2 channels cancel each other: mixed to one, nothing is left" in told.err
    assert logged(newest())["file"].tolist() == [f"{tmp_path}/one.aiff", f"{tmp_path}/two.aif"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "audio is empty; give an audio file, a folder or a glob"),
        ({"audio": "none/*.wav"}, "audio=none/*.wav holds no audio (.wav,"),
        ({"audio": "a.wav", "save": "table.xlsx"}, "save=table.xlsx: the name must end in .csv or .parquet."),
        ({"audio": "a.wav", "save": "none/table.csv"}, "save=none/table.csv: the folder is not there; make it first."),
        ({"audio": "a.wav", "enrolment": "gone.wav"}, "gone.wav can't be used: missing."),
        ({"audio": "a.wav", "enrolment": ",".join(f"{n}.wav" for n in range(17))}, "names 17 clips; give at most 16."),
        (
            {"audio": "a.wav", "model_uri": "models:/exvo-fewshot@best"},
            "gives no model of exvo by that name (Registered",
        ),
        (
            {"audio": "a.wav", "model_uri": "models:/exvo-fewshot/9"},
            "gives no model of exvo by that name (Model Version",
        ),
        ({"audio": "a.wav", "model_uri": "models:/exvo-fewshot"}, "lacks a version: give models:/<name>@<alias>"),
        ({"audio": "a.wav", "model_uri": "nobody"}, "model_uri=nobody: the tracking server"),
    ],
)
def test_a_users_mistake_is_one_sentence(
    options: dict[str, str],
    sentence: str,
    trained: Expected,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_here("predict", options, monkeypatch) == 2
    assert sentence in capsys.readouterr().err


def test_a_model_of_another_make_is_refused(trained: Expected) -> None:
    class Other(mlflow.pyfunc.PythonModel):
        def predict(self, model_input: pd.DataFrame) -> pd.DataFrame:
            return model_input

    with mlflow.start_run():
        info = mlflow.pyfunc.log_model(name="model", python_model=Other(), pip_requirements=[])
    with pytest.raises(InputError, match="gives no model of exvo"):
        models.load_model(info.model_uri)


def test_find_audio_takes_files_folders_and_globs_once(tmp_path: Path) -> None:
    for name in ("b.wav", "a.MP3", "c,d.flac", "deep/e.opus", "[f].wav", "g.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = ["[f].wav", "a.MP3", "b.wav", "c,d.flac", "deep/e.opus"]
    assert find_audio(str(tmp_path), "audio").files == [tmp_path / name for name in names]
    assert find_audio(f"{tmp_path}/*.wav,{tmp_path}/b.wav", "audio").files == [tmp_path / "[f].wav", tmp_path / "b.wav"]
    assert find_audio(f"{tmp_path}/**/*.opus", "audio").files == [tmp_path / "deep/e.opus"]
    assert find_audio(f"{tmp_path}/c,d.flac", "audio").files == [tmp_path / "c,d.flac"]
    assert find_audio(f"{tmp_path}/[f].wav", "audio").files == [tmp_path / "[f].wav"]
    assert find_audio("g.txt", "audio").files == [Path("g.txt")]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"enrolment=.*empty holds no audio"):
        find_audio(f"{tmp_path}/empty", "enrolment")


def test_bars_are_scaled_to_one_or_the_largest_shown_and_negative_ones_empty() -> None:
    answers = pd.DataFrame({"file": ["x/a.wav", "x/y/b.wav"], "Awe": [0.5, -1.0], "Fear": [4.0, 1.0]})
    bars = r"a\.wav +Fear +4\.000 +#{24} *\n +Awe +0\.500 +#{3} *\ny/b\.wav +Fear +1\.000 +#{6} *\n +Awe +-1\.000 *"
    assert re.fullmatch(bars, chart(answers, ["Awe", "Fear"], 2, "#").rstrip("\n"))
    many = pd.concat([answers] * 40)
    mixed = many.head(2).assign(file=[str(Path("clips/a.wav").absolute()), "clips/more/b.wav"])
    assert [line.split()[0] for line in chart(mixed, ["Awe", "Fear"], 1).splitlines()] == ["a.wav", "more/b.wav"]
    assert chart(many, ["Awe", "Fear"], 1).endswith("\nand 30 more clips, in the run's artifact predictions/audio.csv")


def test_a_terminal_without_blocks_gets_number_signs(
    trained: Expected, tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for encoding, full in (("ascii", b"#"), ("utf-8", "█".encode())):
        written = io.BytesIO()
        with monkeypatch.context() as patch:
            screen = io.TextIOWrapper(written, encoding=encoding, write_through=True)
            patch.setattr(sys, "stdout", screen)
            patch.setattr("exvo.experiments.predict.chart", lambda *_, **__: "s2-0.wav █")
            assert run_here("predict", {"audio": f"{tiny_corpus}/s2-*.wav", "model_uri": "cnn10"}, patch) == 0
        assert b"s2-0.wav " + full in written.getvalue()


def test_more_files_than_a_param_can_hold(
    trained: Expected, tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(100):
        (tmp_path / f"a-rather-long-name-for-a-file-so-that-a-hundred-fill-the-option-{number}.wav").symlink_to(
            tiny_corpus / "s2-0.wav"
        )
    names = sorted(path.name for path in tmp_path.glob("*.wav"))
    (tmp_path / "list.txt").write_text("\n".join(names))
    tables = []
    for given in (",".join(names), "@list.txt"):
        assert run_here("predict", {"audio": given}, monkeypatch) == 0
        tables.append(logged(newest()))
        assert given.startswith(newest().data.params["audio"].removesuffix("..."))
    assert tables[0]["file"].tolist() == names
    pd.testing.assert_frame_equal(*tables)


def test_enrolment_takes_a_list_and_folders_say_what_they_leave_out(
    trained: Expected,
    tiny_corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copy(tiny_corpus / "s2-0.wav", tmp_path / "a.wav")
    (tmp_path / "._a.wav").touch()
    (tmp_path / "b.m4a").write_bytes(b"no audio that is read")
    pd.DataFrame({"file": [str(tiny_corpus / "s2-1.wav"), str(tiny_corpus / "s2-2.wav")]}).to_csv(tmp_path / "list.csv")
    (tmp_path / "list.csv").write_text((tmp_path / "list.csv").read_text().replace(",file", "number,file"))
    options = {"audio": str(tmp_path), "enrolment": f"@{tmp_path}/list.csv"}
    assert run_here("predict", options, monkeypatch) == 0
    told = capsys.readouterr()
    assert "adapted to the speaker of 2 enrolment clips" in told.out
    assert f"left out of {tmp_path}: 1 hidden files or folders (._a.wav)\n" in told.out
    assert f"left out of {tmp_path}: files of formats that are not read (1 .m4a); convert them: find " in told.out
    assert run_here("predict", {"audio": str(tmp_path / "b.m4a")}, monkeypatch) == 2
    told = capsys.readouterr()
    assert "b.m4a: not audio (" in told.err
    assert "; convert it: ffmpeg " in told.err


def test_a_place_that_cannot_be_saved_to_is_refused_before_and_loses_nothing_after(
    trained: Expected,
    tiny_corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "folder.csv").mkdir()
    clip = str(tiny_corpus / "s2-0.wav")
    before = newest().info.run_id
    for name, part in (
        ("folder.csv", "is a folder; give the name of a file."),
        ("x" * 300 + ".csv", "has a name that is too long for a file"),
        ("x" * 250 + ".csv", "the name is too long for a file"),
        ("none/a.csv", "the folder is not there; make it first."),
    ):
        assert run_here("predict", {"audio": clip, "save": str(tmp_path / name)}, monkeypatch) == 2
        assert part in capsys.readouterr().err
    monkeypatch.setattr(tempfile, "TemporaryFile", raising(OSError(errno.EROFS, "Read-only file system")))
    assert run_here("predict", {"audio": clip, "save": str(tmp_path / "a.csv")}, monkeypatch) == 2
    assert f"{tmp_path} can't be written to (Read-only file system)" in capsys.readouterr().err
    monkeypatch.undo()
    assert newest().info.run_id == before

    monkeypatch.setattr(
        "exvo.experiments.predict.write_atomically", raising(InputError("a.csv can't be written (disk full)."))
    )
    assert run_here("predict", {"audio": clip, "save": str(tmp_path / "a.csv")}, monkeypatch) == 2
    told = capsys.readouterr()
    assert (
        told.err == "exvo: a.csv can't be written (disk full). The table is the run's artifact predictions/audio.csv.\n"
    )
    assert "s2-0.wav  " in told.out
    assert logged(newest())["file"].tolist() == [clip]


def raising(error: Exception) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail
