"""Studies: which process runs which trial, and how each trial ended.

Any number of processes, on any number of machines, may work on a study. They know of each other only what is in its
storage.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import platform
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

import optuna
import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from exvo.tuning.processes import Process, runs_here, this_process
from exvo.tuning.space import SPACE, training_options

RANDOM_TRIALS = 5
"""Trials drawn at random before TPE begins: a quarter of the default 20."""

UNPRUNED = 4
"""Trials that must finish before any is pruned."""

HEARTBEAT, DEAD_AFTER = 30.0, 300.0
"""Seconds between a trial's signs of life, and seconds without one after which another machine takes it for killed.

The machines' clocks must agree to a minute or two, and their host names must differ."""

COUNTED = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)
"""States of the trials that count towards a study's total."""

STATES = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned", TrialState.RUNNING: "running"}


def best(trials: pd.DataFrame) -> pd.Series | None:
    """The finished trial with the highest score, the first of equals; None where none has finished."""
    finished = trials[trials["state"] == "finished"]
    return None if finished.empty else finished.iloc[int(finished["score"].to_numpy(float).argmax())]


def counts(trials: pd.DataFrame) -> dict[str, int]:
    """How many trials are in each state, `finished` and `pruned` also where there are none."""
    numbers = trials["state"].value_counts()
    return {"finished": 0, "pruned": 0} | {str(state): int(number) for state, number in numbers.items()}


class Pruned(Exception):
    """The trial is stopped early: its scores are lower than those of other trials."""


class Replaced(Exception):
    """Another worker took the trial for dead and has ended it, so that another trial takes its place."""


class Sampler(optuna.samplers.TPESampler):
    """TPE whose draws depend on the seed and the trial's number, not on which process asks or when it started."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed=seed, n_startup_trials=RANDOM_TRIALS)
        self.seed = seed

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Seeds the draws of this trial."""
        digest = hashlib.sha256(f"{self.seed} {trial.number}".encode()).digest()
        super().__init__(seed=int.from_bytes(digest[:4], "big"), n_startup_trials=RANDOM_TRIALS)


@dataclass(frozen=True)
class DeadTrial:
    """A trial whose worker is gone.

    Attributes:
        number: of the trial.
        run_id: its run on the tracking server; empty where it has none.
    """

    number: int
    run_id: str


class Trial:
    """A trial that this process runs.

    Attributes:
        number: 0 is the study's first.
        options: the training options that it tries.
    """

    def __init__(self, study: optuna.Study, trial: optuna.Trial, epochs: int) -> None:
        self.number, self.options = trial.number, training_options(trial.params)
        self._study, self._trial, self._epochs = study, trial, epochs

    def note(self, run_id: str) -> None:
        """Keeps the id of its run on the tracking server.

        Raises:
            Replaced: another worker has ended the trial.
        """
        with _raising_replaced():
            self._trial.set_user_attr("run_id", run_id)

    @contextlib.contextmanager
    def alive(self) -> Iterator[None]:
        """Writes a sign of life into the storage every `HEARTBEAT` seconds."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(HEARTBEAT):
                with contextlib.suppress(Exception):  # the storage may be away for a while; training goes on
                    self._trial.set_user_attr("alive", time.time())

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def report(self, epoch: int, score: float) -> None:
        """Reports the score of an epoch, unless it is undefined.

        Args:
            epoch: 1 is the first.
            score: on the validation split; NaN where it is undefined.

        Raises:
            Pruned: the best score so far is below the median of the finished trials' at this epoch.
            Replaced: another worker has ended the trial.
        """
        if math.isnan(score):
            return
        with _raising_replaced():
            self._trial.report(score, epoch)
        if epoch < self._epochs and self._trial.should_prune():
            raise Pruned

    def finish(self, score: float) -> None:
        """Ends the trial as finished, with the score of its best epoch.

        Raises:
            Replaced: another worker has ended the trial.
        """
        with _raising_replaced():
            self._study.tell(self._trial, score)

    def end(self, state: Literal["pruned", "failed", "killed"], problem: str = "") -> None:
        """Ends the trial otherwise; does nothing if another worker has ended it.

        Args:
            state: in which it ends.
            problem: why, in a sentence.
        """
        with contextlib.suppress(UpdateFinishedTrialError, ValueError):
            _end(self._study, self._trial, state, problem)


@contextlib.contextmanager
def _raising_replaced() -> Iterator[None]:
    """Turns Optuna's errors about a trial that has ended already into `Replaced`."""
    try:
        yield
    except (UpdateFinishedTrialError, ValueError):  # Optuna's `tell` raises the latter
        raise Replaced("Another worker took this trial for dead, and another trial takes its place.") from None


def _end(study: optuna.Study, trial: optuna.Trial | FrozenTrial, state: str, problem: str) -> None:
    """Ends a trial. The options of a killed one are tried once more: they may be what kills the process."""
    if state != "pruned":  # Optuna has one state for failed and killed
        for name, text in (("state", state), ("problem", problem)):
            study._storage.set_trial_user_attr(trial._trial_id, name, text)
    study.tell(trial.number, state=TrialState.PRUNED if state == "pruned" else TrialState.FAIL)
    ended = study._storage.get_trial(trial._trial_id)
    params = ended.system_attrs.get("fixed_params") or ended.params
    if state == "killed" and params and not ended.user_attrs.get("again"):
        study.enqueue_trial(params, user_attrs={"again": True})


class Study:
    """A study that any number of processes may share.

    Attributes:
        name: of the study.
        created: whether this process has made it.
        search: the options that are searched.
    """

    def __init__(self, storage: BaseStorage, name: str, search: Sequence[str], epochs: int, seed: int) -> None:
        self.name, self.search, self._epochs = name, tuple(search), epochs
        self._space = dict(SPACE[option] for option in search)
        warmup = max(2, math.ceil(epochs / 4))  # the scores of the first epochs say little
        sampler = Sampler(seed)
        pruner = optuna.pruners.MedianPruner(n_startup_trials=UNPRUNED, n_warmup_steps=warmup)
        try:
            self._study = optuna.create_study(
                study_name=name, storage=storage, sampler=sampler, pruner=pruner, direction="maximize"
            )
            self.created = True
        except DuplicatedStudyError:
            self._study = optuna.load_study(study_name=name, storage=storage, sampler=sampler, pruner=pruner)
            self.created = False

    @property
    def run_id(self) -> str:
        """The study's run on the tracking server; empty until there is one."""
        return str(self._study.user_attrs.get("run_id", ""))

    def note(self, run_id: str) -> None:
        """Keeps the id of the study's run on the tracking server."""
        self._study.set_user_attr("run_id", run_id)

    def try_first(self, options: Mapping[str, Any]) -> None:
        """Makes the first trial try these training options, so that the best trial is not worse than they are."""
        values = {name: options[name] for name in self.search}
        if "batch_size" in values:
            values["batch_size"] = int(math.log2(values["batch_size"]))
        self._study.enqueue_trial({SPACE[name][0]: value for name, value in values.items()})

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def count(self, *states: str) -> int:
        """How many trials are in one of the states."""
        return sum(_state(trial) in states for trial in self._trials())

    def begin(self, total: int) -> Trial | None:
        """A new trial, unless `total` are running, pruned or finished already.

        Of two processes that ask for the last trial at the same time, the one that got the higher number gives it up.
        """
        if self.count("running", "pruned", "finished") >= total:
            return None
        trial = self._study.ask()
        trial.set_user_attr("worker", asdict(this_process()))
        earlier = [other for other in self._trials() if other.number < trial.number and other.state in COUNTED]
        if len(earlier) >= total:
            _end(self._study, trial, "killed", "Not begun: another worker had taken the last trial.")
            return None
        for name, distribution in self._space.items():
            _suggest(trial, name, distribution)
        return Trial(self._study, trial, self._epochs)

    def end_dead_trials(self) -> list[DeadTrial]:
        """Ends the running trials whose worker is gone, so that others can take their place."""
        dead = []
        for trial in self._trials():
            if trial.state == TrialState.RUNNING and _is_dead(trial):
                with contextlib.suppress(UpdateFinishedTrialError, ValueError):  # another process was faster
                    _end(self._study, trial, "killed", "Its worker was killed or lost.")
                    dead.append(DeadTrial(trial.number, str(trial.user_attrs.get("run_id", ""))))
        return dead

    def table(self) -> pd.DataFrame:
        """The trials in the order of their numbers.

        Returns:
            number, state (running, finished, pruned, failed, killed), score (of the best epoch, of a pruned one the
            best until then; NaN where there is none), epochs (reported), seconds, searched options, run_id, problem.
        """
        rows = []
        for trial in self._trials():
            if trial.state == TrialState.WAITING:
                continue
            scores = list(trial.intermediate_values.values())
            score = trial.value if trial.state == TrialState.COMPLETE else max(scores, default=math.nan)
            end = trial.datetime_complete or datetime.now()
            seconds = (end - trial.datetime_start).total_seconds() if trial.datetime_start else math.nan
            tried = training_options(trial.params)
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
        """The share of the scores' variance that each searched option explains, the largest first.

        Computed by fANOVA (Hutter et al., ICML 2014). Empty where fewer than four trials have finished, or all with the
        same score.

        Args:
            seed: of the random forest.
        """
        scores = [trial.value for trial in self._trials() if trial.state == TrialState.COMPLETE]
        if len(scores) < 4 or len(set(scores)) == 1:
            return {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed)
            shares = optuna.importance.get_param_importances(self._study, evaluator=evaluator)
        names = {key: name for name, (key, _) in SPACE.items()}
        return {names[key]: float(share) for key, share in shares.items()}


def _suggest(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> None:
    """Makes Optuna choose a value for a trial."""
    if isinstance(distribution, CategoricalDistribution):
        trial.suggest_categorical(name, distribution.choices)
    elif isinstance(distribution, IntDistribution):
        trial.suggest_int(name, distribution.low, distribution.high)
    elif isinstance(distribution, FloatDistribution):
        trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log)


def _state(trial: FrozenTrial) -> str:
    """The state in our words: running, finished, pruned, failed, killed or waiting."""
    if trial.state == TrialState.WAITING:
        return "waiting"
    return STATES.get(trial.state) or str(trial.user_attrs.get("state", "failed"))


def _is_dead(trial: FrozenTrial) -> bool:
    """Whether the process of a running trial is gone: by its pid on this machine, by its signs of life on others."""
    worker = Process(**trial.user_attrs["worker"]) if "worker" in trial.user_attrs else None
    if worker is not None and worker.host == platform.node():
        return not runs_here(worker)
    began = trial.datetime_start.timestamp() if trial.datetime_start else time.time()
    return time.time() - float(trial.user_attrs.get("alive", began)) > DEAD_AFTER
