"""Entry points run within this process, and what they leave on the tracking server and in the output folder."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import mlflow
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run
from safetensors.torch import load_file

from exvo.__main__ import command
from exvo.tracking import runs
from exvo.tracking.delivery import RunLog
from exvo.training import loop

ROOT = Path(__file__).resolve().parent.parent.parent


def run_here(entry_point: str, options: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Runs an entry point as its command does; its exit status."""
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    try:
        command(entry_point, words)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@contextlib.contextmanager
def run_by_hand(name: str | None = None, run_id: str | None = None) -> Iterator[mlflow.ActiveRun]:
    """A run that a test logs with the functions of `tracking`, without what an entry point logs of its own."""
    with contextlib.ExitStack() as stack:
        active = stack.enter_context(mlflow.start_run(run_name=name, run_id=run_id))
        log = RunLog(active, Path("output") / "runs" / active.info.run_id / "journal")
        stack.enter_context(runs.logging_to(log))
        yield active


def artifacts(run: Run, folder: str | None = None) -> set[str]:
    """The paths of all files that a run has logged."""
    found = MlflowClient().list_artifacts(run.info.run_id, folder)
    below = [artifacts(run, item.path) for item in found if item.is_dir]
    return {item.path for item in found if not item.is_dir}.union(*below)


def newest() -> Run:
    """The run that began last in the default experiment."""
    return MlflowClient().search_runs(["0"], order_by=["attributes.start_time DESC"])[0]


def at_epoch(number: int, event: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Has something happen as an epoch of training begins."""
    true = loop.train_epoch

    def train_epoch(*words: object) -> float:
        if words[5] == number:
            event()
        return true(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "train_epoch", train_epoch)


SMALL = {"model": "cnn10-relative", "corpus": "table", "epochs": "4", "batch_size": "4", "width": "0.1"}
"""Options of a training that takes a second."""


def equal(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> bool:
    """Whether two networks' weights have the same names and values."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def history(run: Run, seconds: bool = False) -> dict[str, list[tuple[int, float]]]:
    """The points of every metric, but for those that depend on the time."""
    client = MlflowClient()
    names = [name for name in run.data.metrics if not name.startswith("system/") and not name.endswith("seconds")]
    names += ["epoch/seconds"] if seconds else []
    return {
        name: [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]
        for name in names
    }


def weights(run: Run, output: str | Path = "output") -> dict[str, torch.Tensor]:
    """The best weights of a run, from its output folder."""
    return load_file(Path(output) / "runs" / run.info.run_id / "best.safetensors")


def models(run: Run) -> list[str]:
    """The addresses of all models that a run has logged."""
    logged = MlflowClient().search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'")
    return [model.model_uri for model in logged]


def check_equal(run: Run, whole: Run, outputs: tuple[str | Path, str | Path] = ("output", "whole")) -> None:
    """That a run that was cut gave what an undisturbed one gave, and logged it once."""
    assert run.info.status == whole.info.status == "FINISHED"
    assert history(run) == history(whole)
    assert [step for step, _ in history(run, seconds=True)["epoch/seconds"]] == [
        step for step, _ in history(whole, seconds=True)["epoch/seconds"]
    ]
    assert equal(weights(run, outputs[0]), weights(whole, outputs[1]))
    assert len(run.inputs.dataset_inputs) == 1
    assert models(run) == [run.data.tags["exvo.model_uri"]]
    left = {path.name for path in (Path(outputs[0]) / "runs" / run.info.run_id).iterdir()}
    assert left - {"journal.jsonl"} == {"best.safetensors"}
