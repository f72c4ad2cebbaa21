"""What a model may not have heard: narrow bandwidth, clipping, level and length, and where people are told of it."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import soundfile
from mlflow import MlflowClient
from scipy import signal

import exvo
from exvo.config import FeatureConfig
from exvo.demo.listener import Listener, Recording
from exvo.demo.words import result
from exvo.features.audio import read_audio
from exvo.features.conditions import Ranges, find_warnings, is_clipped, is_narrowband, level_db, ranges_of
from exvo.features.signals import SIGNALS
from exvo.networks.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from exvo.networks.network import Network
from exvo.reports.prediction import chart, with_warnings
from exvo.serving.model import answer_body, answer_request
from exvo.tasks import Task
from exvo.tracking import models

from helpers.commands import run_here
from helpers.requests import GOOD, text

RATE = 16_000
RANGES = Ranges((0.5, 2.0), (-40.0, -10.0), (16_000.0, 48_000.0))
SEED = np.random.default_rng(5).integers(2**32)


def voice(seconds: float = 1.0, rate: int = RATE, tilt: float = -9.0, noise: float = 1e-3) -> np.ndarray:
    """A voice as harmonics of a wavering pitch that fall by so many dB an octave, and a microphone's white noise."""
    random = np.random.default_rng(SEED)
    time = np.arange(int(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(180 + 30 * np.sin(2 * np.pi * 3 * time)) / rate
    count = int(rate / 2 / 220)
    tones = sum(10 ** (tilt * np.log2(k) / 20) * np.sin(k * phase + random.uniform(0, 6)) for k in range(1, count))
    loudness = np.sin(np.pi * time / seconds) ** 2
    sound = np.asarray(tones) * loudness * (1 + 0.2 * np.sin(2 * np.pi * 7 * time))
    together: np.ndarray = 0.5 * sound / np.abs(sound).max() + noise * random.standard_normal(len(time))
    return together


def whisper() -> np.ndarray:
    """Noise through the resonances of a dark vowel; nothing of it is louder than -50 dB above 4 kHz."""
    random = np.random.default_rng(SEED)
    sound = random.standard_normal(RATE)
    for formant in (500, 900):
        sound = signal.lfilter(*signal.iirpeak(formant, 3, fs=RATE), sound)
    quiet: np.ndarray = 0.05 * sound / np.abs(sound).max() + 1e-4 * random.standard_normal(RATE)
    return quiet


def wav(samples: np.ndarray, rate: int = RATE) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


def resampled(sound: np.ndarray) -> np.ndarray:
    """At 8 kHz and back, by SciPy."""
    narrow: np.ndarray = signal.resample_poly(signal.resample_poly(sound, 1, 2), 2, 1)
    return narrow


def band(sound: np.ndarray) -> np.ndarray:
    """A telephone's band: Chebyshev's filter falls by 40 dB within 600 Hz."""
    filtered: np.ndarray = signal.sosfilt(signal.cheby2(10, 40, (200, 4_000), "bandpass", fs=RATE, output="sos"), sound)
    return filtered


@pytest.mark.parametrize("tilt", [-6.0, -12.0])
def test_what_a_telephone_transmits_is_narrowband(tilt: float) -> None:
    for sound in (resampled(voice(tilt=tilt)), band(voice(tilt=tilt)), resampled(voice(tilt=tilt)).round(4)):
        assert is_narrowband(sound, RATE)
    assert not is_narrowband(voice(tilt=tilt), RATE)


def test_dark_and_odd_sounds_are_not_narrowband() -> None:
    time = np.arange(RATE) / RATE
    random = np.random.default_rng(SEED)
    sounds = {
        "a hum": voice(tilt=-24.0),
        "a whisper": whisper(),
        "noise": random.standard_normal(RATE) / 10,
        "red noise": np.cumsum(random.standard_normal(RATE)) / 1_000,
        "a tone": 0.5 * np.sin(2 * np.pi * 440 * time),
        "silence": np.zeros(RATE),
        "one sample": np.eye(1, RATE)[0],
        "next to silence": 1e-5 * resampled(voice()),
        "a blink": resampled(voice())[:400],
    }
    assert [name for name, sound in sounds.items() if is_narrowband(sound, RATE)] == []
    assert not is_narrowband(voice(rate=8_000), 8_000)  # of this its file's rate tells


@pytest.mark.parametrize("rate", [8_000, 16_000, 48_000])
def test_what_is_cut_off_is_clipped(rate: int) -> None:
    sine = np.sin(2 * np.pi * 180 * np.arange(rate) / rate)
    for sound in (sine, voice(rate=rate)):
        loud = sound / np.abs(sound).max()
        whole, cut = wav(0.9 * loud, rate), wav(np.clip(2 * loud, -1, 1), rate)
        assert not is_clipped(loud)
        assert not read_audio(whole, FeatureConfig()).clipped
        assert read_audio(cut, FeatureConfig()).clipped
        assert is_clipped(np.minimum(loud, 0.5))  # one side
        assert is_clipped(0.01 * np.maximum(loud, -0.5))  # made quieter since
    for odd in (np.zeros(rate), np.ones(rate), np.eye(1, rate)[0], np.round(5 * sine) / 128, sine[:3]):
        assert not is_clipped(odd)
    assert not is_clipped(np.round(voice(rate=rate) * 20) / 128)  # 8 bits, of which it uses few


def test_levels_and_lengths_beyond_the_margin() -> None:
    sound = np.float32(voice(1.0))
    level = level_db(sound, float(np.abs(sound).max()))
    assert level == pytest.approx(10 * np.log10(np.mean(np.float64(sound) ** 2)), abs=1e-4)

    def words(change: float, seconds: float, ranges: Ranges | None = RANGES) -> list[str]:
        changed = np.float32(sound * 10 ** ((change - level) / 20))
        return list(find_warnings(changed, RATE, 48_000, seconds, False, ranges))

    assert words(-20, 1.0) == []
    assert words(-42.9, 2.19) == words(-7.1, 0.46) == []
    assert words(-43.1, 2.21) == ["quiet", "long"]
    assert words(-6.9, 0.45) == ["loud", "short"]
    assert words(-80, 60, None) == []
    found = find_warnings(sound, RATE, 8_000, 9.0, True, RANGES)
    assert list(found) == ["narrowband", "clipped", "long"]
    assert found["long"] == "it lasts 9.00 s, where the training clips last 0.50 to 2.00 s"
    heard = replace(RANGES, rate=(8_000.0, 48_000.0))
    assert list(find_warnings(sound, RATE, 8_000, 1.0, False, heard)) == []
    assert list(find_warnings(np.float32(resampled(sound)), RATE, 16_000, 1.0, False, heard)) == []
    assert list(find_warnings(np.float32(resampled(sound)), RATE, 16_000, 1.0, False, RANGES)) == ["narrowband"]


def test_the_ranges_hold_99_percent_of_many_clips_and_all_of_few() -> None:
    clips = pd.DataFrame({"seconds": np.arange(1, 1001) / 100, "rms_db": -np.arange(1000.0), "rate": 16_000})
    ranges = ranges_of(clips.sample(frac=1, random_state=1))
    assert ranges is not None
    inside = clips["seconds"].between(*ranges.seconds) & clips["rms_db"].between(*ranges.rms_db)
    assert 990 <= inside.sum() <= 992
    assert ranges.rate == (16_000, 16_000)
    few = ranges_of(clips[:150])
    assert few is not None
    assert (few.seconds, few.rms_db) == ((0.01, 1.5), (-149, 0))
    assert ranges_of(clips[:0]) is None


def test_the_worse_signals_of_robustness_are_told_apart() -> None:
    random, sound = np.random.default_rng(1), voice(tilt=-6.0)
    found = {
        one.name: (is_narrowband(changed, RATE), is_clipped(changed))
        for one in SIGNALS
        for changed in [one.change(sound, random, [voice(0.7)])]
    }
    assert [name for name, (narrow, _) in found.items() if narrow] == ["telephone band", "8 kHz"]
    assert [name for name, (_, clipped) in found.items() if clipped] == ["clipping"]


TASK = Task("fewshot", ("Awe", "Fear", "Joy"), categories=True, objective="cross-entropy")


def write_model(path: Path, ranges: Ranges | None = RANGES) -> Checkpoint:
    network = Network("cnn5", outputs=3, width=0.1).eval()
    save_checkpoint(path, network, network.state_dict(), TASK, FeatureConfig(), "repeat", {}, ranges=ranges)
    return load_checkpoint(path)


def test_the_service_python_and_the_page_say_it(tmp_path: Path) -> None:
    checkpoint = write_model(tmp_path / "model.safetensors")
    assert checkpoint.ranges == RANGES
    worse = wav(np.clip(4 * voice(3.0, 8_000), -0.3, 0.3), 8_000)
    rows = [{"audio": GOOD}, {"audio": text(worse)}]
    answers = answer_request(checkpoint, pd.DataFrame(rows))
    assert answers["warnings"].tolist() == [["short"], ["narrowband", "clipped", "long"]]
    body = bytearray(json.dumps({"dataframe_records": rows}).encode())
    assert [answer["warnings"] for answer in json.loads(answer_body(checkpoint, body))["predictions"]] == [
        ["short"],
        ["narrowband", "clipped", "long"],
    ]
    unknown = answer_request(write_model(tmp_path / "old.safetensors", None), pd.DataFrame(rows))
    assert unknown["warnings"].tolist() == [[], ["narrowband", "clipped"]]

    model = exvo.load(tmp_path / "model.safetensors", device="cpu")
    waveform = soundfile.read(io.BytesIO(worse))
    stereo = np.stack([waveform[0]] * 2, axis=1)
    for clip in (worse, waveform, (stereo, waveform[1])):
        said = r"clip 1 of 1: narrowband \(it holds no sound above 4 kHz, .*\), clipped \(.*\), long \(it lasts 3\.00 s"
        with pytest.warns(UserWarning, match=said):
            table = model.predict(clip)
        assert list(table) == list(TASK.targets)

    heard = Listener(checkpoint).hear(Recording("Your burst", "a.wav", worse))
    (note,) = heard.notes
    assert note.startswith("Trust these numbers less, for the model may not have heard such a recording: it holds no")
    assert note in result(heard, TASK, personalised=False)
    faint = Listener(checkpoint).hear(Recording("Your burst", "a.wav", wav(0.003 * voice(1.0))))
    assert [sentence[:12] for sentence in faint.notes] == ["Hardly anyth"]


def test_a_label_called_warnings_keeps_its_column() -> None:
    answers = pd.DataFrame({"warnings": [0.25], "Joy": [0.75]})
    assert with_warnings(answers, [["short"]]).equals(answers)
    shown = answers.assign(file="a.wav")
    assert chart(shown, ["warnings", "Joy"], 2, "#", ["short (it lasts 0.10 s)"]).splitlines()[-1] == (
        "       warning   short (it lasts 0.10 s)"
    )


@pytest.mark.usefixtures("store")
def test_predict_prints_and_keeps_the_warnings_of_a_trained_run(
    tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"corpus": "table", "data": str(tiny_corpus), "model": "cnn10-relative", "epochs": "1", "width": "0.05"}
    assert run_here("train", options, monkeypatch) == 0
    (run,) = MlflowClient().search_runs(["0"])
    ranges = models.checkpoint_of(run).ranges
    assert ranges is not None
    table = pd.read_csv(tiny_corpus / "clips.csv")
    files = [tiny_corpus / file for file in table["file"][table["split"] == "train"]]
    sounds = [soundfile.read(file) for file in files]
    lengths = [len(samples) / rate for samples, rate in sounds]
    levels = [10 * np.log10(np.mean(samples**2)) for samples, _ in sounds]
    assert ranges.seconds == pytest.approx((min(lengths), max(lengths)))
    assert ranges.rms_db == pytest.approx((min(levels), max(levels)), abs=0.1)

    soundfile.write(tmp_path / "phone.wav", resampled(voice(0.9 * max(lengths)))[::2], 8_000)
    (usual, *_), saved = files, tmp_path / "emotions.parquet"
    predict = {"audio": f"{usual},{tmp_path / 'phone.wav'}", "enrolment": str(tmp_path / "phone.wav")}
    predict |= {"model_uri": run.info.run_id, "device": "cpu", "save": str(saved)}
    capsys.readouterr()
    assert run_here("predict", predict, monkeypatch) == 0
    told = capsys.readouterr().out.splitlines()
    assert sum("warning: " in line and "phone.wav: narrowband (it holds no" in line for line in told) == 1
    (line,) = [line for line in told if line.lstrip().startswith("warning ")]
    assert line.split()[1] == "narrowband"
    found = pd.read_parquet(saved)["warnings"].str.split(", ").str[0]
    assert found.tolist() == ["", "narrowband"]
    (predicted,) = MlflowClient().search_runs(["0"], "tags.`exvo.entry_point` = 'predict'")
    logged = pd.read_csv(mlflow.artifacts.download_artifacts(f"{predicted.info.artifact_uri}/predictions/audio.csv"))
    assert logged["warnings"].fillna("").str.startswith("narrowband").tolist() == [False, True]
