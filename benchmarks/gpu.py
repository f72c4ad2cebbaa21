"""Training on a GPU, measured: how many clips a second, which batches keep the score, and a whole run with its scores.

NOT MEASURED ON A GPU YET: it was written where there is none, and its tests run it on the CPU, small.

    python -m benchmarks.gpu <folder> --export emogator --data <its folder>   # where the audio is
    python -m benchmarks.gpu <folder>                                         # on the GPU; the folder is all it needs

`<folder>` holds `features` (a feature store) and `labels.parquet` (file, content, split, speaker, one column a target).
Neither audio nor its libraries, MLflow or Optuna are needed there. Results go to `<folder>/gpu.json`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from benchmarks.gpu_speed import SHOTS, SYSTEMS, Setting, speed
from exvo.config import FeatureConfig
from exvo.devices import resolve_device, resolve_precision
from exvo.enrolment import enrol
from exvo.evaluation import scoring
from exvo.evaluation.bootstrap import bootstrap, interval
from exvo.networks.inference import predict
from exvo.training.loop import fit


def run(setting: Setting, name: str, size: int, epochs: int) -> tuple[dict[str, pd.DataFrame], float]:
    """Trains as `exvo.training.loop` does; the best epoch's predictions of val and test, and how long it took, s."""
    network, config = setting.make(name, size, resolve_precision("auto", setting.device), epochs)
    best: dict[str, torch.Tensor] = {}

    def predictions(split: str) -> pd.DataFrame:
        rows, clips = setting.rows(split), setting.clips(split)
        enrolment = enrol(clips.speakers, "published", SHOTS)
        outputs = predict(network, clips, setting.device, enrolment.clips, protocol="published")
        return scoring.scorable(setting.task.table(rows, outputs, enrolment.scored))

    began = time.perf_counter()
    fit(
        network,
        setting.task,
        setting.clips("train"),
        config,
        lambda _: float(scoring.score_epoch(predictions("val"), setting.task)["emotion_ccc"]),
        lambda weights, _: best.update({key: tensor.clone() for key, tensor in weights.items()}),
        lambda epoch: print(f"  {epoch.number}: loss {epoch.loss:.3f}, score {epoch.score:.3f}, {epoch.seconds:.1f} s"),
    )
    network.load_state_dict(best)
    return {split: predictions(split) for split in ("val", "test")}, time.perf_counter() - began


def batches_that_keep_the_score(setting: Setting, sizes: Sequence[int], epochs: int) -> list[dict[str, object]]:
    """The val CCC of batches, with the interval by speaker of its difference to the first one's on the same resamples.

    With the same learning rate; a batch keeps the score where the interval does not lie below zero.
    """
    tables = {size: run(setting, "cnn14", size, epochs)[0]["val"] for size in sizes}
    samples, rows = {}, list[dict[str, object]]()
    for size, table in tables.items():
        per_clip = scoring.statistics(table, setting.task)
        samples[size] = bootstrap(per_clip, groups=table["speaker"].to_numpy())[["emotion_ccc"]]
        lo, hi = interval(samples[size] - samples[sizes[0]]).loc["emotion_ccc", ["ci_low", "ci_high"]].to_numpy(float)
        ccc = float(per_clip.scores()["emotion_ccc"])
        rows.append({"batch": size, "ccc": ccc, "lo": float(lo), "hi": float(hi), "kept": bool(hi >= 0)})
    return rows


def export(folder: Path, corpus_name: str, data: Path) -> None:
    """Writes features and labels of a corpus into the folder, from its audio."""
    from exvo import corpora  # which decode audio: the GPU machine needs no library for that
    from exvo.features import extraction

    corpus = corpora.load(corpus_name, data)
    _, audio = extraction.extract(corpus.folder, corpus.clips["file"].tolist(), folder / "features", FeatureConfig())
    table = corpus.clips[["file", "split", "speaker", *corpus.targets]].assign(content=audio["content"].to_numpy())
    table[(audio["problem"] == "").to_numpy()].to_parquet(folder / "labels.parquet")


def write_files(setting: Setting) -> None:
    """The training clips as one `.npy` each, for the plain loop."""
    (setting.folder / "npy").mkdir(exist_ok=True)
    clips = setting.clips("train")
    for content in set(clips.contents):
        np.save(setting.folder / "npy" / f"{content}.npy", clips.features[content])


def main() -> None:
    """Exports, or measures everything."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--export", metavar="CORPUS", help="write the folder, from the audio in --data")
    parser.add_argument("--data", type=Path, help="folder of the corpus")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--epochs", type=int, default=60, help="of the run with scores")
    parser.add_argument("--quick", action="store_true", help="tiny, to see that it runs: its figures mean nothing")
    options = parser.parse_args()
    if options.export:
        return export(options.folder, options.export, options.data)
    labels, device = pd.read_parquet(options.folder / "labels.parquet"), resolve_device(options.device)
    setting = Setting(options.folder, labels, device, 1.0, 20, 50, 5, (8, 32, 256))
    sizes, short, epochs = [32, 64, 128, 256, 512], 15, options.epochs
    if options.quick:
        setting = replace(setting, width=0.05, warm=1, steps=2, repeats=2, batches=(4,))
        sizes, short, epochs = [4, 8], 1, 1
    write_files(setting)
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    figures: dict[str, object] = {"device": name, "torch": torch.__version__, "quick": options.quick}
    for system in SYSTEMS:
        for size in setting.batches:
            figures[f"speed, {system}, batch {size}"] = row = speed(setting, system, size)
            print(json.dumps(row, indent=1), flush=True)
    figures["batches"] = batches_that_keep_the_score(setting, sizes, short)
    tables, seconds = run(setting, "cnn14", sizes[0], epochs)
    scores = {
        split: json.loads(scoring.score(table, setting.task).to_json(orient="records"))
        for split, table in tables.items()
    }
    figures["run"] = {"epochs": epochs, "minutes": seconds / 60, "scores": scores}
    content = json.dumps(figures, indent=1)
    (options.folder / "gpu.json").write_text(f"{content}\n", encoding="utf-8")
    print(content)
    return None


if __name__ == "__main__":
    main()
