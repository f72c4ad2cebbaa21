"""The benchmark of training on a GPU: on the CPU, tiny, and without what a bare node lacks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.gpu import export
from exvo.config import FeatureConfig
from exvo.features.shards import Clip
from exvo.features.store import Store

from helpers.corpora import write_table_corpus

ROOT = Path(__file__).resolve().parent.parent
LACKING = ("mlflow", "optuna", "soundfile", "soxr", "torchaudio")
PROGRAM = (
    f"import runpy, sys; sys.modules.update(dict.fromkeys({LACKING}))\n"
    "runpy.run_module('benchmarks.gpu', run_name='__main__', alter_sys=True)"
)


def bare(*arguments: str) -> str:
    """What the benchmark prints where those libraries are not installed."""
    command = [sys.executable, "-c", PROGRAM, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def write_folder(folder: Path) -> None:
    """Features of noise and labels: 16 clips to train on, 8 each to validate and test, of four speakers a split."""
    rng, rows, clips = np.random.default_rng(0), [], []
    for number in range(32):
        log_mel = rng.normal(-50, 15, (int(rng.integers(40, 90)), 64)).astype(np.float32)
        clips.append(Clip(f"{number:064x}", log_mel, 1.0, 16_000, 1, 1.0, -20.0))
        split = "train" if number < 16 else "val" if number < 24 else "test"
        about = {"file": f"{number}.wav", "content": clips[-1].content, "split": split}
        rows.append(about | {"speaker": f"{split} {number % 4}", "Awe": rng.random(), "Fear": rng.random()})
    Store(folder / "features", FeatureConfig()).add(clips)
    pd.DataFrame(rows).to_parquet(folder / "labels.parquet")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_it_runs_on_the_cpu_without_audio_tracking_and_tuning(tmp_path: Path) -> None:
    write_folder(tmp_path)
    bare(str(tmp_path), "--device", "cpu", "--quick")
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["quick"]
    for system in ("cnn14", "cnn14-attention-cnn10-layernorm-full"):
        row = found[f"speed, {system}, batch 4"]
        assert row["failed"] == {}
        ways = ["plain", "bare eager", "ours eager", "bare compiled", "ours compiled"]
        assert list(row["clips a second"]) == ways
        assert all(rate > 0 for rate in row["clips a second"].values())
        for way in ("ours eager", "ours compiled"):
            for other in ("plain", way.replace("ours", "bare")):
                median, lowest, highest = row[f"{way} over {other}"]
                assert 0 < lowest <= median <= highest
    assert [row["batch"] for row in found["batches"]] == [4, 8]
    first, second = found["batches"]
    assert (first["lo"], first["hi"], first["kept"]) == (0, 0, True)
    assert second["lo"] < second["hi"]
    assert second["kept"] == (second["hi"] >= 0)
    for split in ("val", "test"):
        scores = {row["metric"]: row for row in found["run"]["scores"][split]}
        assert scores["emotion_ccc"]["n"] == 8
        assert scores["emotion_ccc"]["lo"] <= scores["emotion_ccc"]["value"] <= scores["emotion_ccc"]["hi"]


def test_the_folder_comes_from_a_corpus(tmp_path: Path) -> None:
    table = write_table_corpus(tmp_path / "corpus")
    (tmp_path / "corpus" / table["file"][1]).write_bytes(b"no audio")
    export(tmp_path / "bench", "table", tmp_path / "corpus")
    labels = pd.read_parquet(tmp_path / "bench" / "labels.parquet")
    assert labels["file"].tolist() == table["file"].drop(1).tolist()
    assert set(labels) == {"content", *table.columns} - {"country", "age"}
    store = Store(tmp_path / "bench" / "features", FeatureConfig())
    assert all(content in store for content in labels["content"])
