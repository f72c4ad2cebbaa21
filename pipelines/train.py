"""Trains a system, keeps its best epoch by the validation score, and logs model, scores and predictions."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from exvo.config import PUBLISHED_EPOCHS, SAMPLE_EPOCHS, SystemConfig, TrainSettings
from pipelines.common import FEATURES, Ready, command, log_corpus, read_corpus, report, require_readable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from exvo.training import Epoch


def resolve(settings: TrainSettings, system: SystemConfig) -> TrainSettings:
    """The settings with every `auto` decided.

    Raises:
        InputError: a device that is not there.
    """
    from exvo.training import resolve_device, resolve_precision

    device = resolve_device(settings.device)
    epochs = SAMPLE_EPOCHS if settings.corpus == "sample" else PUBLISHED_EPOCHS
    fill = "zero" if settings.corpus == "hume-vb" else "repeat"
    return replace(
        settings,
        epochs=settings.epochs or epochs,
        batch_size=settings.batch_size or system.batch_size,
        device=device,
        precision=resolve_precision(settings.precision, device),
        fill=fill if settings.fill == "auto" else settings.fill,
    )


def run(given: TrainSettings) -> None:
    """Trains in a run of its own."""
    from exvo import systems, tracking

    system = systems.find(given.model)
    settings = resolve(given, system)
    with tracking.run("train") as run_id:
        ready = start(settings, system)
        train(settings, system, ready, run_id)
        print(tracking.where_to_look(run_id))


def start(settings: TrainSettings, system: SystemConfig) -> Ready:
    """Logs the settings and makes the corpus ready."""
    from exvo import tracking

    tracking.log_settings(asdict(settings), {"system": asdict(system), "features": asdict(FEATURES)})
    ready = read_corpus(settings)
    log_corpus(ready)
    require_readable(ready, settings.skip_unreadable)
    return ready


def train(settings: TrainSettings, system: SystemConfig, ready: Ready, run_id: str) -> None:
    """Trains, then scores the best epoch on the validation split and logs its model; prints the score."""
    from exvo import evaluation, networks, serving, systems, tracking
    from exvo.tasks import make_task
    from exvo.training import TrainingConfig, TrainingError, fit, predict

    assert settings.epochs is not None
    assert settings.batch_size is not None
    corpus = ready.corpus
    objective, categories = system.objective, bool(corpus.categories)
    task = make_task(settings.task, corpus.clips, corpus.targets, corpus.name, categories, objective)
    clips, held_out = (ready.clips(split, task, settings.fill) for split in ("train", "val"))
    network = systems.build(system, task, settings.width, settings.seed, settings.init, clips.labels)
    best_file = Path(settings.output) / "runs" / run_id / serving.WEIGHTS
    scores: dict[str, float] = {}

    def validate(network: nn.Module) -> float:
        outputs = predict(network, held_out, settings.device, progress="validation")
        scores.update(evaluation.score_epoch(task.table(ready.rows("val"), outputs), task))
        return scores[evaluation.headline(task)]

    def save_best(weights: Mapping[str, Tensor], epoch: Epoch) -> None:
        notes = {"model": settings.model, "run_id": run_id, "epoch": epoch.number, "score": epoch.score}
        networks.save(best_file, network, weights, task, FEATURES, clips.fill, notes)

    def on_epoch(epoch: Epoch) -> None:
        told = {"loss": epoch.loss, "learning_rate": epoch.learning_rate, "seconds": epoch.seconds}
        kept = {name: value for name, value in scores.items() if not name.endswith("_ccc") or name == "emotion_ccc"}
        tracking.log_metrics({f"epoch/{name}": value for name, value in {**told, **kept}.items()}, epoch.number)
        print(
            f"epoch {epoch.number:3d}/{settings.epochs}   loss {epoch.loss:.4f}   "
            f"val {evaluation.headline(task)} {epoch.score:.4f}   {epoch.seconds:.1f} s"
            f"{'   best' if epoch.best else ''}",
            flush=True,
        )

    print(describe(settings, network, len(clips), corpus.synthetic), flush=True)
    config = TrainingConfig(
        settings.epochs,
        settings.batch_size,
        settings.learning_rate,
        settings.optimizer,
        settings.seed,
        settings.device,
        settings.precision,
    )
    try:
        best = fit(network, task, clips, config, validate, save_best, on_epoch)
    except TrainingError as error:
        kept = f" The best weights before it are in {best_file}." if best_file.exists() else ""
        raise TrainingError(f"{error}{kept}") from None
    tracking.log_metrics({"best_epoch": best.number})
    checkpoint = networks.load(best_file)
    predictions = task.table(ready.rows("val"), predict(checkpoint.network, held_out, settings.device))
    report(predictions, task, "val", settings.model, ready)
    tracking.log_checkpoint(best_file, checkpoint, serving.example())


def describe(settings: TrainSettings, network: nn.Module, clips: int, synthetic: bool) -> str:
    """What is about to be trained, in a line or two."""
    weights = sum(parameter.numel() for parameter in network.parameters())
    line = (
        f"training {settings.model} ({weights / 1e6:.1f} million weights) on {clips} clips: {settings.epochs} epochs, "
        f"batch {settings.batch_size}, {settings.precision} on {settings.device}"
    )
    if synthetic:
        line += "\nThe sample corpus is synthetic and its few epochs show the way, not what the system can do."
    return line


if __name__ == "__main__":
    command("train", run)
