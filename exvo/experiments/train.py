"""Trains a system, and keeps its best epoch.

The best epoch is chosen by the validation score; its model, scores and predictions are logged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from torch import Tensor

from exvo import ranks, systems
from exvo.batches.clips import Clips
from exvo.config import SAMPLE_EPOCHS, FeatureConfig
from exvo.corpora.base import Corpus
from exvo.devices import resolve_device, resolve_precision
from exvo.enrolment import Draw, Enrolment, EnrolmentSettings
from exvo.errors import InputError, TrainingError
from exvo.evaluation import scoring
from exvo.evaluation.prior import prior_of
from exvo.experiments import calibration, several
from exvo.experiments.augment import augmented
from exvo.experiments.balance import balanced, category_weights, training_clips
from exvo.experiments.corpus import (
    Ready,
    describe_enrolment,
    known_speakers,
    log_copies,
    log_corpus,
    read_corpus,
    require_usable_clips,
)
from exvo.experiments.evaluate import ScoredSplit, described, log_scores, people
from exvo.experiments.features import model_features, open_extractor, record, resolve_features
from exvo.experiments.resume import resumable
from exvo.experiments.weights import first_weights
from exvo.features.extractors import Encoder
from exvo.networks.carried import ENCODER, carry
from exvo.networks.checkpoint import WEIGHTS, load_checkpoint, save_checkpoint
from exvo.networks.header import Notes
from exvo.networks.inference import predict_clips
from exvo.networks.network import Network
from exvo.reports.names import score_name
from exvo.reports.training import training_text
from exvo.settings import TrainSettings
from exvo.systems import SystemConfig
from exvo.tasks import Task, make_task
from exvo.tracking import artifacts, experiments, runs
from exvo.tracking.tags import EPOCH
from exvo.training.along import Work, send
from exvo.training.augmentation import Augment
from exvo.training.config import TrainingConfig
from exvo.training.loop import Validation, fit
from exvo.training.states import Epoch, States

Watch = Callable[[Epoch], None]
"""Is given each epoch once it is logged; what it raises stops the training."""


def resolve(settings: TrainSettings) -> tuple[TrainSettings, SystemConfig]:
    """The settings with every `auto` decided, and the system that they train.

    Raises:
        InputError: a system that is not known, a device that is not there, or options that don't go together.
    """
    system = systems.find(settings.model)
    systems.require_trainable(settings.model, settings.task, settings.protocol, settings.features)
    device = resolve_device(settings.device)
    given = {name: getattr(settings, name) for name in systems.RECIPE}
    recipe = {name: getattr(system, name) if value in (None, "auto") else value for name, value in given.items()}
    recipe |= {name: 0.0 for name in systems.unfit(system, settings.task) if given[name] is None}
    if settings.epochs is None and settings.corpus == "sample" and system.encoder.startswith("cnn"):
        recipe["epochs"] = SAMPLE_EPOCHS
    fill = "zero" if settings.corpus == "hume-vb" else "repeat"
    resolved = replace(
        settings,
        features=resolve_features(settings.features),
        device=device,
        devices=ranks.resolve_devices(settings.devices, device),
        precision=resolve_precision(settings.precision, device),
        fill=fill if settings.fill == "auto" else settings.fill,
        **recipe,
    )
    system = replace(system, **recipe)
    systems.require_fitting(settings.model, system, settings.task)
    require_seeds(settings)
    return resolved, system


def require_seeds(settings: TrainSettings) -> None:
    """Refuses several seeds of what is several trainings already, and seeds that are too large.

    Raises:
        InputError: they can't be trained.
    """
    if settings.seeds > 1 and settings.folds:
        raise InputError(
            f"seeds={settings.seeds} with folds={settings.folds}: a cross-validation trains each fold once; leave "
            "one of the two out, or repeat the command with folds for each seed."
        )
    if settings.seed + settings.seeds > 2**31:
        raise InputError(
            f"seed={settings.seed} with seeds={settings.seeds}: the last seed would be over {2**31 - 1}; give a "
            "smaller seed."
        )


def run(given: TrainSettings) -> None:
    """Trains in a run of its own."""
    settings, system = resolve(given)
    several.run("train", given, settings, system, lambda: run_here(settings, system))


def run_here(settings: TrainSettings, system: SystemConfig) -> None:
    """Trains in a run of its own, as the only rank or the first of several."""
    if settings.folds:
        from exvo.experiments.folds import cross_validate  # which uses this module

        cross_validate("train", settings, system)
        return
    if settings.seeds > 1:
        from exvo.experiments.seeds import train_seeds  # which uses this module

        train_seeds("train", settings, system)
        return
    with resumable("train", settings, system) as begun:
        ready = start(settings, system, begun.ready)
        train(settings, system, ready, begun.run_id, states=begun.states)
        print(experiments.where_to_look(begun.run_id))


def start(settings: TrainSettings, system: SystemConfig, ready: Ready | None = None) -> Ready:
    """Logs the settings and the corpus, which it reads unless it is given."""
    extractor = ready.extractor if ready else open_extractor(settings.features, settings.device)
    runs.log_settings(asdict(settings), {"system": asdict(system), "features": record(extractor)})
    log_system(settings)
    ready = ready or read_corpus(settings)
    if not ready.corpus.has_speakers:
        systems.require_speakers(settings.model, system, settings.task)
    log_corpus(ready)
    require_usable_clips(ready, settings.skip_unreadable)
    return ready


def log_system(settings: TrainSettings) -> None:
    """Tags the present run with what is trained, and names it."""
    width = "" if settings.width == 1 else f"w{settings.width:g}-"
    balance = "" if settings.balance == "none" else f"{settings.balance}-"
    seeds = f"{settings.seed}" if settings.seeds == 1 else f"{settings.seed}to{settings.seed + settings.seeds - 1}"
    members = "" if settings.members == systems.find(settings.model).members else f"m{settings.members}-"
    details = f"{width}{members}{balance}e{settings.epochs}-s{seeds}"
    runs.log_system(systems.full_name(settings.model), settings.task, settings.protocol, details)


@dataclass(frozen=True, eq=False)
class HeldOut:
    """The validation clips, by which the best epoch is chosen.

    Attributes:
        settings: of the training.
        task: what is learnt.
        rows: of the corpus table.
        clips: the same clips, ready for batches.
        enrolment: who enrols whom among them.
    """

    settings: TrainSettings
    task: Task
    rows: pd.DataFrame
    clips: Clips
    enrolment: Enrolment

    def outputs(self, network: Network) -> np.ndarray:
        """The outputs of the network, (clips, outputs)."""
        device, protocol = self.settings.device, self.settings.protocol
        return predict_clips(network, self.clips, device, self.enrolment.clips, protocol=protocol)

    def validate(self, outputs: np.ndarray) -> Validation:
        """The scores of an epoch from the outputs of its network, (clips, outputs)."""
        predictions = self.task.table(self.rows, outputs, self.enrolment.scored)
        scores = {str(name): float(value) for name, value in scoring.score_epoch(predictions, self.task).items()}
        return Validation(scores[scoring.headline(self.task)], scores)


class Trained(NamedTuple):
    """What a training gives: its best epoch, and the scores of that on validation; None where nothing was scored."""

    best: Epoch
    validation: ScoredSplit | None


def train(
    settings: TrainSettings,
    system: SystemConfig,
    ready: Ready,
    run_id: str,
    watch: Watch = lambda epoch: None,
    states: States | None = None,
) -> Epoch:
    """As `train_and_validate`, whose best epoch it gives."""
    return train_and_validate(settings, system, ready, run_id, watch, states).best


def train_and_validate(
    settings: TrainSettings,
    system: SystemConfig,
    ready: Ready,
    run_id: str,
    watch: Watch = lambda epoch: None,
    states: States | None = None,
) -> Trained:
    """Trains, then scores the best epoch on the validation split and logs its model.

    Args:
        settings: without `auto`.
        system: that they train.
        ready: the corpus.
        run_id: of the present run.
        watch: see `Watch`.
        states: where a training goes on that was killed; None: it begins, and keeps no states.

    Raises:
        InputError: clips, weights or a state can't be used.
        TrainingError: a loss or an output is not finite.
    """
    if settings.task == "speaker":
        ready = known_speakers(ready)
    task = training_task(settings, system, ready.corpus)
    runs.log_resolved({"objective": task.objective})
    clips = balanced(settings, system, task, training_clips(ready, task, settings, system))
    clips = augmented(settings, ready, clips)
    enrolment = ready.enrolment("val", settings.protocol, settings.shots)
    held_out = HeldOut(settings, task, ready.rows("val"), ready.clips("val", task, settings.fill), enrolment)
    network = first_weights(settings, system, task, clips)
    best_file, features = Path(settings.output) / "runs" / run_id / WEIGHTS, model_features(ready.extractor)

    def save_best(weights: Mapping[str, Tensor], epoch: Epoch) -> None:
        notes: Notes = {"model": settings.model, "run_id": run_id, "epoch": epoch.number, "score": epoch.score}
        protocol = EnrolmentSettings(settings.protocol, settings.shots)
        save_checkpoint(best_file, network, weights, task, features, clips.fill, notes, protocol)

    def on_epoch(epoch: Epoch) -> None:
        log_epoch(epoch, settings.epochs, scoring.headline(task))
        watch(epoch)

    if network.personalised or settings.protocol == "strict":
        print(describe_enrolment(ready, "val", settings.protocol, settings.shots), end="")
    log_copies(enrolment, "val")
    weights = sum(parameter.numel() for parameter in network.parameters())
    print(training_text(settings, weights, len(clips), ready.corpus.synthetic), flush=True)
    runs.keep_run()
    runs.log_json("prior.json", prior_of(ready.rows("train"), task))
    runs.log_table(ready.learnt(), artifacts.LEARNT)
    if isinstance(ready.extractor, Encoder):
        carry(ready.extractor, ready.store.folder / ENCODER, best_file)
    config = training_config(settings, system, task, network, clips)
    work = Work(network, task, config, clips, held_out.clips, enrolment.clips, settings.protocol)
    send(work)
    try:
        best = fit(
            network, task, clips, config, lambda one: held_out.validate(work.outputs(one)), save_best, on_epoch, states
        )
    except TrainingError as error:
        kept = f" The best weights before it are in {best_file}." if best_file.exists() else ""
        raise TrainingError(f"{error}{kept}") from None
    runs.log_metrics({"best_epoch": best.number})
    return Trained(best, finish(best_file, held_out, settings.model, ready))


def finish(best_file: Path, held_out: HeldOut, model: str, ready: Ready) -> ScoredSplit | None:
    """Fits the temperature of the best epoch, scores its validation and logs its model."""
    task, rows, scored = held_out.task, held_out.rows, held_out.enrolment.scored
    outputs = held_out.outputs(load_checkpoint(best_file).network)
    checkpoint = calibration.finish(best_file, rows, outputs, scored, people(ready, "val"), ready.ranges())
    if checkpoint.temperature is not None:
        loss = calibration.log_loss_of(task.table(rows, outputs, scored), task)
        runs.log_metrics({"temperature": checkpoint.temperature, calibration.log_loss_metric("val"): loss})
    found = log_scores(task.table(rows, outputs, scored, checkpoint.temperature), task, "val", model, ready)
    if found is not None:
        runs.describe(described(found, task, "val", ready, held_out.settings))
    runs.log_checkpoint(best_file)
    return found


def training_task(settings: TrainSettings, system: SystemConfig, corpus: Corpus) -> Task:
    """What is learnt of a corpus, and by which objective."""
    categories, objective = bool(corpus.categories), system.objective
    if objective == "auto":
        objective = "cross-entropy" if categories and settings.task == "fewshot" else "ccc"
    return make_task(settings.task, corpus.clips, corpus.targets, corpus.name, categories, objective)


def log_epoch(epoch: Epoch, epochs: int | None, headline: str) -> None:
    """Logs an epoch's loss and scores, of each target's CCC only the mean, and prints a line about it."""
    kept = [name for name in epoch.scores if name == scoring.MEAN_CCC or not name.endswith("_ccc")]
    scores = {name: epoch.scores[name] for name in kept}
    times = {"seconds": epoch.seconds, "validation_seconds": epoch.validation_seconds}
    metrics = {"loss": epoch.loss, "learning_rate": epoch.learning_rate} | times | scores
    runs.log_metrics({f"{EPOCH}{name}": value for name, value in metrics.items()}, epoch.number)
    best = "   best" if epoch.best else ""
    loss = "" if math.isnan(epoch.loss) else f"loss {epoch.loss:.4f}   "
    line = f"{loss}val {score_name(headline)} {epoch.score:.4f}   {epoch.seconds:.1f} s{best}"
    print(f"epoch {epoch.number:3d}/{epochs}   {line}", flush=True)


def training_config(
    settings: TrainSettings, system: SystemConfig, task: Task, network: Network, clips: Clips
) -> TrainingConfig:
    """How to train, from options without `auto`; crops are as long as the system says, or whole features of clips.

    People's clips are drawn by the shares of the task's categories.
    """
    assert settings.epochs is not None
    assert settings.batch_size is not None
    assert settings.learning_rate is not None
    categories = len(task.targets) if task.categories else 0
    itself, shared = settings.protocol == "published", system.enrolment == "shared"
    draw = Draw(settings.shots, itself, shared, system.people, categories)
    inputs = network.arguments["inputs"]
    return TrainingConfig(
        settings.epochs,
        settings.batch_size,
        settings.learning_rate,
        settings.optimizer,
        settings.seed,
        settings.device,
        settings.precision,
        None if system.enrolment == "none" else draw,
        system.roles,
        settings.schedule,
        system.weight_decay,
        system.label_smoothing,
        Augment(system.warp, system.spec_augment, system.mixup),
        system.clip_gradient,
        system.patience,
        inputs[0] if inputs else round(system.crop_seconds * FeatureConfig.sample_rate / FeatureConfig.hop),
        category_weights(clips, categories) if settings.balance == "weights" else (),
    )
