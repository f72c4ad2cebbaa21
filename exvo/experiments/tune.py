"""Searches a system's options in trials that train it.

Trials that fall behind are stopped early. The study is kept: the same command goes on where it stopped, and typed on
several machines with one storage they share the trials.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from exvo import systems
from exvo.corpora import Selection
from exvo.errors import InputError
from exvo.evaluation import scoring
from exvo.experiments.corpus import Ready, log_corpus, read_corpus, require_usable_clips
from exvo.experiments.features import record
from exvo.experiments.folder import folder_id, require_own
from exvo.experiments.process import hold, stopped
from exvo.experiments.resume import continued_run, deliver_journals
from exvo.experiments.seeds import train_beneath
from exvo.experiments.train import require_seeds, resolve, training_task
from exvo.experiments.trials import POLL, WORKER, Work, Worker, do_trials
from exvo.experiments.workers import run_trials
from exvo.options import command_line
from exvo.passwords import has_password
from exvo.reports.names import score_name
from exvo.reports.study import StudyFacts, seeds_line, states_text, study_page
from exvo.settings import TrainSettings, TuneSettings
from exvo.systems import SystemConfig
from exvo.text import default_text
from exvo.tracking import experiments, lookup, runs
from exvo.tracking.tags import STUDY_TAG
from exvo.tuning.space import parse_search, study_name, values_text
from exvo.tuning.storage import naming_storage_errors, open_storage, printable_storage
from exvo.tuning.study import Study, best, counts


def run(given: TuneSettings) -> None:
    """Runs the study, or in a worker process its trials alone."""
    worker = Worker(**json.loads(os.environ[WORKER])) if WORKER in os.environ else None
    given = TuneSettings(**worker.settings) if worker else given
    base, search = settings_and_search(given)
    settings, system = resolve(base)
    shown = printable_storage(given.storage, Path(given.output))
    with contextlib.nullcontext() if worker else hold("tune", given.output), naming_storage_errors(shown):
        if not worker:
            deliver_journals(given.output)
            folder_id(Path(given.output))
        ready = read_corpus(settings)
        require_usable_clips(ready, settings.skip_unreadable)
        study = open_study(given, settings, system, search, ready.audit.digest)
        if not (worker or given.storage or study.created):
            require_own(given.output, f"study {study.name} goes on there", "storage=<name>.journal begins a new one")
        if worker:
            do_trials(Work(given, base, ready, study, worker))
        else:
            tune(given, base, ready, study, shown)


def tune(given: TuneSettings, base: TrainSettings, ready: Ready, study: Study, shown: str) -> None:
    """Runs the trials that the study lacks beneath its run, then logs what they show.

    Args:
        given: the command's settings.
        base: what all trials share.
        ready: the corpus.
        study: in its storage.
        shown: the storage, without a password.
    """
    settings, system = resolve(base)
    with study_run(study, given) as run_id:
        log_start(given, settings, system, ready, study, shown)
        work = Work(given, base, ready, study, Worker(asdict(given), run_id, len(study.table()), os.getpid()))
        try:
            run_trials(work)
            conclude(work, settings, system, shown)
        except KeyboardInterrupt as interrupt:
            raise stopped(interrupt, "Stopped; the same command goes on where this one was.") from None
        print(experiments.where_to_look(run_id))


def settings_and_search(given: TuneSettings) -> tuple[TrainSettings, tuple[str, ...]]:
    """The settings that all trials share, and the options that are searched.

    Raises:
        InputError: an option is searched and given, can't be searched for this system, or holds a password that MLflow
            has logged.
    """
    if not given.resume:
        raise InputError("resume=false: a study always goes on; another seed, or another storage, begins a new one.")
    if given.folds:
        raise InputError(
            f"folds={given.folds}: a study compares its trials on one validation split; leave folds out, and give the "
            "options that it finds to `train` with folds."
        )
    if given.devices > 1:
        raise InputError(
            f"devices={given.devices}: a study shares out its trials, not their batches; leave devices out, and give "
            "workers=<number>, or start the same command on several machines with one storage."
        )
    search = parse_search(given.search)
    options = {field.name: getattr(given, field.name) for field in fields(TrainSettings)}
    defaults = {field.name: field.default for field in fields(TrainSettings)}
    repeated = [f"{name}={default_text(options[name])}" for name in search if options[name] != defaults[name]]
    if repeated:
        raise InputError(
            f"{', '.join(repeated)}: what is searched can't be given too; leave it out, or take it out of "
            f"search={given.search}."
        )
    system = systems.find(given.model)
    continues = given.init.startswith("runs:/") or (system.start in systems.SYSTEMS and not given.init)
    fixed = ["width"] if given.init or system.start != "random" else []
    unsearchable = [name for name in [*fixed, *(["dropout"] if continues else [])] if name in search]
    if unsearchable:
        raise InputError(
            f"search={given.search}: {' and '.join(unsearchable)} can't be searched where training starts from other "
            f"weights (model={given.model}{f', init={given.init}' if given.init else ''}), which fix it."
        )
    require_searchable(given, search)
    if has_password(given.storage) and "MLFLOW_RUN_ID" in os.environ:
        raise InputError(
            "storage holds a password, which `mlflow run` has just logged as a param of its run "
            f"{os.environ['MLFLOW_RUN_ID']}: delete that run (`mlflow gc`), leave the password out and give it as "
            "PGPASSWORD or in ~/.pgpass, or start `exvo tune`, which logs none."
        )
    base = TrainSettings(**{**options, "workers": None, "seeds": 1})
    require_seeds(other_seeds(base, given.seeds))
    return base, search


def other_seeds(settings: TrainSettings, count: int) -> TrainSettings:
    """The settings with so many seeds after that of the trials, whose scores chose the best one.

    One is none: `seeds=1` asks for no more than the trials.
    """
    return settings if count == 1 else replace(settings, seed=settings.seed + 1, seeds=count)


def require_searchable(given: TuneSettings, search: Sequence[str]) -> None:
    """Refuses to search what would change nothing.

    Raises:
        InputError: names the first such option.
    """
    settings, system = resolve(
        TrainSettings(**{field.name: getattr(given, field.name) for field in fields(TrainSettings)})
    )
    reasons = systems.unfit(system, settings.task)
    if system.encoder == "prior":
        reasons = dict.fromkeys(search, "nothing of it is trained")
    if system.objective in ("ccc", "mse"):
        reasons["label_smoothing"] = f"objective={system.objective} has none, only cross-entropy has"
    if system.optimizer != "adamw" and "optimizer" not in search:
        reasons["weight_decay"] = f"optimizer={system.optimizer} has none, only adamw has"
    for option, reason in reasons.items():
        if option in search:
            raise InputError(f"search={given.search}: {option} can't be searched for model={given.model}: {reason}.")


def open_study(
    given: TuneSettings, settings: TrainSettings, system: SystemConfig, search: Sequence[str], digest: str
) -> Study:
    """The study of all commands with the same system, task, corpus, budget and search; made if there is none.

    Raises:
        InputError: the storage can't be used.
    """
    name = systems.full_name(settings.model)
    elsewhere = {
        "data",
        "workers",
        "cluster",
        "output",
        "device",
        "experiment",
        "resume",
        "seeds",
        *search,
    }  # may differ by machine
    elsewhere |= {field.name for field in fields(Selection)}  # what they choose is in the digest
    equal = {option: value for option, value in asdict(settings).items() if option not in elsewhere}
    init = settings.init if settings.init.startswith("runs:/") else Path(settings.init).name
    equal |= {"model": name, "digest": digest, "precision": given.precision, "init": init, "system": asdict(system)}
    equal["system"] |= {option: equal.get(option) for option in systems.RECIPE}
    assert settings.epochs is not None
    full_name = study_name([name, settings.task, settings.corpus], equal, search)
    study = Study(open_storage(given.storage, Path(given.output)), full_name, search, settings.epochs, settings.seed)
    if study.created:
        study.try_first(asdict(settings))
    return study


@contextlib.contextmanager
def study_run(study: Study, given: TuneSettings) -> Iterator[str]:
    """The study's run on the tracking server, the same in all commands; gives its id."""
    until = time.monotonic() + 30  # seconds: the command that has made the study is about to make its run
    while not study.created and not study.run_id and time.monotonic() < until:
        time.sleep(POLL)
    study_run_id = study.run_id if lookup.run_exists(study.run_id) else ""
    experiment = experiments.of_training(given)
    with continued_run("tune", study_run_id, given.output, experiment=experiment) as run_id:
        if not study_run_id:
            study.note(run_id)
        yield run_id


def log_start(
    given: TuneSettings, settings: TrainSettings, system: SystemConfig, ready: Ready, study: Study, shown: str
) -> None:
    """Logs what is searched and what all trials share in the study's run."""
    space = {name: values_text(name) for name in study.search}
    options = asdict(given) | {**asdict(settings), "workers": given.workers, "seeds": given.seeds}
    options |= space | {"storage": shown}
    runs.log_settings(options, {"study": study.name, "system": asdict(system), "features": record(ready.extractor)})
    runs.log_system(systems.full_name(settings.model), settings.task, settings.protocol)
    runs.log_resolved({"objective": training_task(settings, system, ready.corpus).objective})
    runs.set_tags({STUDY_TAG: study.name, "exvo.storage": shown})
    log_corpus(ready)
    searched = ", ".join(f"{name} ({values})" for name, values in space.items())
    print(f"study {study.name} in {shown}", flush=True)
    print(f"searches {searched}; {given.trials} trials of {settings.epochs} epochs", flush=True)


def conclude(work: Work, settings: TrainSettings, system: SystemConfig, shown: str) -> None:
    """Logs counts, trials and page in the study's run, and prints the command that repeats the best trial."""
    given, corpus, study = work.given, work.ready.corpus, work.study
    trials = study.table()
    top = best(trials)
    options = {name: value for name, value in asdict(work.base).items() if name != "workers"}
    best_options = {} if top is None else {name: top[name] for name in study.search}
    repeat = "" if top is None else command_line("train", options | best_options)
    assert settings.epochs is not None
    about = StudyFacts(
        study=study.name,
        storage=shown,
        model=settings.model,
        corpus=corpus.name,
        synthetic=corpus.synthetic,
        metric=scoring.headline(training_task(settings, system, corpus)),
        space={name: values_text(name) for name in study.search},
        total=given.trials,
        epochs=settings.epochs,
        train=repeat,
        tune=command_line("tune", asdict(given) | ({"storage": shown} if given.storage else {})),
        dashboard=f"optuna-dashboard {shown}",
        importances=study.importances(settings.seed),
    )
    numbers = counts(trials)
    runs.log_metrics({f"study/{state}": number for state, number in numbers.items()})
    runs.log_table(trials, "study/trials.csv")
    runs.log_page("study", study_page(trials, about))
    print(f"\n{states_text(numbers)}; live: {about.dashboard}")
    if top is None:
        print("no trial has finished, so there is no best one")
        return
    runs.log_metrics({f"study/best_{about.metric}": top["score"]})
    runs.set_tags({"exvo.best_trial": top["number"], "exvo.best_run": top["run_id"], "exvo.best_command": repeat})
    best_score = f"{score_name(about.metric)} {top['score']:.4f}"
    print(f"best   val {best_score}, trial {top['number']}, run {top['run_id']}\nagain  {repeat}")
    if given.seeds > 1:
        number = int(top["number"])
        about = replace(about, seeds=train_best(work, number, best_options))
        values = list(about.seeds.values())
        runs.log_metrics({f"study/seeds_{about.metric}": float(np.mean(values))})
        runs.log_page("study", study_page(trials, about))
        print(f"\ntrial {number} with {len(values)} other seeds: {seeds_line(values, about.metric)}")


def train_best(work: Work, number: int, best_options: Mapping[str, Any]) -> dict[int, float]:
    """Trains the options of the best trial with other seeds; gives the headline score of each on validation.

    Args:
        work: of the study, whose run is the present one.
        number: of the trial.
        best_options: those that the study has searched.
    """
    plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in best_options.items()}
    settings, system = resolve(replace(other_seeds(work.base, work.given.seeds), **plain))
    what = f"trial {number}, seeds {settings.seed} to {settings.seed + settings.seeds - 1}"
    print(f"\n{what}", flush=True)
    scores, run_id = train_beneath(work.worker.parent, what, settings, system, work.ready)
    runs.set_tags({"exvo.seeds_run": run_id})
    return scores
