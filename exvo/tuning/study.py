"""Studies: who runs which trial, and what became of it.

Any number of processes on any number of machines may work on a study: what they know of each other is what they read in
its storage.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import platform
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import optuna
import pandas as pd
import psutil
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from exvo.tuning.space import SPACE, options


def best(trials: pd.DataFrame) -> pd.Series | None:
    """The finished trial with the highest score, the first of equals; None where none has finished."""
    finished = trials[trials["state"] == "finished"]
    return None if finished.empty else finished.iloc[int(finished["score"].to_numpy(float).argmax())]


def counts(trials: pd.DataFrame) -> dict[str, int]:
    """How many trials are in each state; finished and pruned are always there."""
    found = trials["state"].value_counts()
    return {"finished": 0, "pruned": 0} | {str(state): int(number) for state, number in found.items()}


RANDOM_TRIALS = 5
"""Trials drawn at random before TPE begins: a quarter of the default 20."""

UNPRUNED = 4
"""Finished trials before any is pruned."""

HEARTBEAT, DEAD_AFTER = 30.0, 300.0
"""Seconds between a trial's signs of life, and without one until a trial of another machine counts as killed.

The machines' clocks must agree to a minute or two, and their host names must differ."""

LIVE = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)
STATES = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned", TrialState.RUNNING: "running"}


class Pruned(Exception):
    """The trial has fallen behind the others."""


class Lost(Exception):
    """Another worker took the trial for dead and has given its place to another."""


class Sampler(optuna.samplers.TPESampler):
    """TPE whose draws depend on the seed and the trial's number, not on which process asks, or when it was started."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed=seed, n_startup_trials=RANDOM_TRIALS)
        self.seed = seed

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Seeds the draws of this trial."""
        own = hashlib.sha256(f"{self.seed} {trial.number}".encode()).digest()
        super().__init__(seed=int.from_bytes(own[:4], "big"), n_startup_trials=RANDOM_TRIALS)


@dataclass(frozen=True)
class Buried:
    """A trial whose worker is gone: its number, and its run on the tracking server."""

    number: int
    run_id: str


class Trial:
    """A trial that this process runs.

    Attributes:
        number: 0 is the study's first.
        options: the training options that it tries.
    """

    def __init__(self, study: optuna.Study, trial: optuna.Trial, epochs: int) -> None:
        self.number, self.options = trial.number, options(trial.params)
        self._study, self._trial, self._epochs = study, trial, epochs

    def note(self, run_id: str) -> None:
        """Keeps the id of its run on the tracking server."""
        with _told_lost():
            self._trial.set_user_attr("run_id", run_id)

    @contextlib.contextmanager
    def alive(self) -> Iterator[None]:
        """Gives a sign of life every `HEARTBEAT` seconds."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(HEARTBEAT):
                with contextlib.suppress(Exception):  # a storage that is away for a while; training goes on
                    self._trial.set_user_attr("alive", time.time())

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def report(self, epoch: int, score: float) -> None:
        """Tells the score of an epoch, 1 the first; an undefined one (NaN) is not told.

        Raises:
            Pruned: the best score so far is below the median of the finished trials' at this epoch.
            Lost: the trial counts as killed.
        """
        if math.isnan(score):
            return
        with _told_lost():
            self._trial.report(score, epoch)
        if epoch < self._epochs and self._trial.should_prune():
            raise Pruned

    def finish(self, score: float) -> None:
        """Ends with the score of its best epoch. Raises Lost as `report` does."""
        with _told_lost():
            self._study.tell(self._trial, score)

    def end(self, state: Literal["pruned", "failed", "killed"], problem: str = "") -> None:
        """Ends in another way; `problem` is a sentence."""
        with contextlib.suppress(UpdateFinishedTrialError, ValueError):  # another worker has ended it
            _end(self._study, self._trial, state, problem)


@contextlib.contextmanager
def _told_lost() -> Iterator[None]:
    """Raises Lost where the storage says that the trial has ended."""
    try:
        yield
    except (UpdateFinishedTrialError, ValueError):  # Optuna's `tell` raises the latter
        raise Lost("Another worker took this trial for dead and has given its place to another.") from None


def _end(study: optuna.Study, trial: optuna.Trial | FrozenTrial, state: str, problem: str) -> None:
    if state != "pruned":  # Optuna knows one kind of failure
        for name, text in (("state", state), ("problem", problem)):
            study._storage.set_trial_user_attr(trial._trial_id, name, text)
    study.tell(trial.number, state=TrialState.PRUNED if state == "pruned" else TrialState.FAIL)
    cut = study._storage.get_trial(trial._trial_id)
    wanted = cut.system_attrs.get("fixed_params") or cut.params
    if state == "killed" and wanted and not cut.user_attrs.get("again"):  # once: they may be what kills the process
        study.enqueue_trial(wanted, user_attrs={"again": True})


class Study:
    """A study of any number of processes.

    Attributes:
        name: of the study.
        created: whether this process has made it.
        search: the options that are searched.
    """

    def __init__(self, storage: BaseStorage, name: str, search: Sequence[str], epochs: int, seed: int) -> None:
        self.name, self.search, self._epochs = name, tuple(search), epochs
        self._space = dict(SPACE[option] for option in search)
        warmup = max(2, math.ceil(epochs / 4))  # the scores of the first epochs say little
        made: dict[str, Any] = {
            "storage": storage,
            "sampler": Sampler(seed),
            "pruner": optuna.pruners.MedianPruner(n_startup_trials=UNPRUNED, n_warmup_steps=warmup),
        }
        try:
            self._study = optuna.create_study(study_name=name, direction="maximize", **made)
            self.created = True
        except DuplicatedStudyError:
            self._study = optuna.load_study(study_name=name, **made)
            self.created = False

    @property
    def run_id(self) -> str:
        """The study's run on the tracking server; empty until there is one."""
        return str(self._study.user_attrs.get("run_id", ""))

    def note(self, run_id: str) -> None:
        """Keeps the id of the study's run on the tracking server."""
        self._study.set_user_attr("run_id", run_id)

    def try_first(self, given: Mapping[str, Any]) -> None:
        """Has the first trial try these options, so that no study ends worse than what it set out to improve."""
        wanted = {name: given[name] for name in self.search}
        if "batch_size" in wanted:
            wanted["batch_size"] = int(math.log2(wanted["batch_size"]))
        self._study.enqueue_trial({SPACE[name][0]: value for name, value in wanted.items()})

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def count(self, *states: str) -> int:
        """How many trials are in one of the states."""
        return sum(_state(trial) in states for trial in self._trials())

    def begin(self, total: int) -> Trial | None:
        """A new trial, unless `total` are running, pruned or finished already.

        Of two processes that ask at the same time for the last one, that with the higher number steps back.
        """
        if self.count("running", "pruned", "finished") >= total:
            return None
        asked = self._study.ask()
        asked.set_user_attr("worker", _this_worker())
        before = [one for one in self._trials() if one.number < asked.number and one.state in LIVE]
        if len(before) >= total:
            _end(self._study, asked, "killed", "Not begun: another worker had taken the last trial.")
            return None
        for name, distribution in self._space.items():
            _suggest(asked, name, distribution)
        return Trial(self._study, asked, self._epochs)

    def bury(self) -> list[Buried]:
        """Ends the running trials whose worker is gone, so that others can take their place."""
        buried = []
        for trial in self._trials():
            if trial.state == TrialState.RUNNING and _is_dead(trial):
                with contextlib.suppress(UpdateFinishedTrialError, ValueError):  # another process was faster
                    _end(self._study, trial, "killed", "Its worker was killed or lost.")
                    buried.append(Buried(trial.number, str(trial.user_attrs.get("run_id", ""))))
        return buried

    def table(self) -> pd.DataFrame:
        """The trials in the order of their numbers.

        Returns:
            number, state (running, finished, pruned, failed, killed), score (of the best epoch; of a pruned one the
            best until then; NaN where there is none), epochs (told), seconds, the searched options, run_id, problem.
        """
        rows = []
        for trial in self._trials():
            if trial.state == TrialState.WAITING:
                continue
            scores = list(trial.intermediate_values.values())
            score = trial.value if trial.state == TrialState.COMPLETE else max(scores, default=math.nan)
            end = trial.datetime_complete or datetime.now()
            seconds = (end - trial.datetime_start).total_seconds() if trial.datetime_start else math.nan
            tried = options(trial.params)
            rows.append(
                {
                    "number": trial.number,
                    "state": _state(trial),
                    "score": score,
                    "epochs": max(trial.intermediate_values, default=0),
                    "seconds": round(seconds, 1),
                    **{name: tried.get(name) for name in self.search},
                    "run_id": str(trial.user_attrs.get("run_id", "")),
                    "problem": str(trial.user_attrs.get("problem", "")),
                }
            )
        columns = ["number", "state", "score", "epochs", "seconds", *self.search, "run_id", "problem"]
        return pd.DataFrame(rows, columns=columns)

    def importances(self, seed: int) -> dict[str, float]:
        """The share of the scores' variance that each searched option explains, the most important first (fANOVA).

        Hutter et al., 2014. Empty where fewer than four trials have finished, or all with the same score.
        """
        scores = [trial.value for trial in self._trials() if trial.state == TrialState.COMPLETE]
        if len(scores) < 4 or len(set(scores)) == 1:
            return {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed)
            found = optuna.importance.get_param_importances(self._study, evaluator=evaluator)
        names = {key: name for name, (key, _) in SPACE.items()}
        return {names[key]: float(value) for key, value in found.items()}


def _suggest(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> None:
    """Has Optuna draw a value."""
    if isinstance(distribution, CategoricalDistribution):
        trial.suggest_categorical(name, distribution.choices)
    elif isinstance(distribution, IntDistribution):
        trial.suggest_int(name, distribution.low, distribution.high)
    elif isinstance(distribution, FloatDistribution):
        trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log)


def _state(trial: FrozenTrial) -> str:
    """running, finished, pruned, failed, killed, or waiting."""
    if trial.state == TrialState.WAITING:
        return "waiting"
    return STATES.get(trial.state) or str(trial.user_attrs.get("state", "failed"))


def _this_worker() -> dict[str, Any]:
    """This process, as others can recognise it."""
    return {"host": platform.node(), "pid": os.getpid(), "began": _since_boot(psutil.Process())}


def _since_boot(process: psutil.Process) -> float:
    """Seconds from the machine's start to the process': setting the clock changes neither."""
    return process.create_time() - psutil.boot_time()


def _is_dead(trial: FrozenTrial) -> bool:
    """Whether the process of a running trial is gone: on this machine looked up, elsewhere by its signs of life."""
    worker = trial.user_attrs.get("worker")
    if worker is not None and worker["host"] == platform.node():
        try:
            process = psutil.Process(worker["pid"])
            return process.status() == psutil.STATUS_ZOMBIE or abs(_since_boot(process) - worker["began"]) > 1.0
        except psutil.NoSuchProcess:
            return True
    began = trial.datetime_start.timestamp() if trial.datetime_start else time.time()
    return time.time() - float(trial.user_attrs.get("alive", began)) > DEAD_AFTER
