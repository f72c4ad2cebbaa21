"""The run of a command: a new one, or the unfinished one of the same command, which is continued."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from exvo import machine
from exvo.errors import InputError
from exvo.experiments.corpus import Ready, read_corpus
from exvo.experiments.features import open_extractor, record
from exvo.experiments.folder import copied_from, folder_id, renew, require_own
from exvo.experiments.process import hold, stopped
from exvo.networks.checkpoint import WEIGHTS
from exvo.settings import TrainSettings
from exvo.systems import SystemConfig
from exvo.tracking import experiments, lookup, names, runs, server
from exvo.tracking.delivery import deliver_journal
from exvo.tracking.lookup import Run
from exvo.tracking.tags import CODE_TAG, COMMAND_TAG, CONTINUES_TAG, DIGEST_TAG
from exvo.training.states import States

FREE = ("workers", "cluster", "devices", "resume", "output")
"""Options that may differ between a command and the one that goes on with its run; the folder is known by its id."""


@dataclass
class Begun:
    """A run that has begun, now or before.

    Attributes:
        run_id: on the tracking server.
        command: the digest of what it computes, see `command_digest`.
        states: of its training; of several folds or seeds those of the one that is being trained.
        ready: its corpus, where that had to be read to find the run.
        fold: the number of that fold, or of the table of a transfer; 0 where there is none.
        part: which of the two it is, fold or training.
        seed: that is being trained, of several; None where there are not several.
    """

    run_id: str
    command: str
    states: States
    ready: Ready | None
    fold: int = 0
    part: str = "fold"
    seed: int | None = None

    def place(self, epochs: int) -> str:
        """Where the same command goes on, in words."""
        part = f"in {self.part} {self.fold}, " if self.fold else "" if self.seed is None else f"with seed {self.seed}, "
        return f"{part}{resumes_at(self.states.epoch, epochs)}"


@contextlib.contextmanager
def resumable(entry_point: str, settings: TrainSettings, system: SystemConfig) -> Iterator[Begun]:
    """The run of a training: where the same command was killed, stopped or failed before, its run; else a new one.

    It is the same command if it has the same entry point, resolved options, system and features, in the same output
    folder, for the same corpus, tracking store and Python files of `exvo`.

    Args:
        entry_point: train or main.
        settings: without `auto`.
        system: that they train.

    Raises:
        InputError: the output folder is in use by another command, or the store can't be used.
    """
    experiment = experiments.of_training(settings)
    with hold(entry_point, settings.output):
        command = command_digest(entry_point, settings, system)
        tags = {COMMAND_TAG: command, CODE_TAG: machine.source_digest()}
        if settings.resume:
            deliver_journals(settings.output)
        unfinished_id, ready = unfinished(settings, tags) if settings.resume else ("", None)
        with continued_run(entry_point, unfinished_id, settings.output, tags, experiment) as run_id:
            states = States(Path(settings.output) / "runs" / run_id / WEIGHTS, command)
            begun = Begun(run_id, command, states, ready)
            try:
                yield begun
            except KeyboardInterrupt as interrupt:
                place = begun.place(settings.epochs or 0)
                raise stopped(interrupt, f"Stopped; the same command goes on in the same run, {place}.") from None
        if not (states.best_file.parent / "journal").exists():  # else the run has not ended on the server
            states.clear()


def resumes_at(kept: int, epochs: int) -> str:
    """Where a training goes on whose state was kept after that many of its epochs."""
    if kept == 0:
        return "from the beginning"
    return f"from epoch {kept + 1}" if kept < epochs else "after its epochs"


def command_digest(entry_point: str, settings: TrainSettings, system: SystemConfig) -> str:
    """A digest of what a command computes and where, by which its unfinished run is found.

    Raises:
        InputError: the features can't be computed; or the output folder is a copy, and an unfinished run or an
            undelivered journal is its original's.
    """
    output, features = Path(settings.output), record(open_extractor(settings.features, settings.device))

    def digest() -> str:
        options = {name: value for name, value in asdict(settings).items() if name not in FREE}
        computed = [entry_point, options, asdict(system), features, folder_id(output)]
        return hashlib.sha256(json.dumps(computed, sort_keys=True).encode()).hexdigest()

    if copied_from(output) is not None:
        if settings.resume:
            for run in unfinished_runs(digest())[:1]:
                theirs = f"unfinished run {run.info.run_name} goes on there"
                require_own(settings.output, theirs, "resume=false begins a new run here")
            require_delivered(settings.output)
        renew(output)
    return digest()


def unfinished_runs(command: str, deleted: bool = False) -> list[Run]:
    """The runs of a command that have not finished: killed, stopped or failed ones; the newest first.

    Args:
        command: its digest.
        deleted: finds deleted runs instead.

    Raises:
        InputError: the store can't be used.
    """
    server.quiet()
    server.check_store()
    return names.search(f"tags.`{COMMAND_TAG}` = '{command}' and attributes.status != 'FINISHED'", deleted)


def require_delivered(output: str) -> None:
    """Refuses a copy of an output folder with journals: its original has them too, and delivers them.

    Raises:
        InputError: the folder is such a copy.
    """
    if list(Path(output).glob("runs/*/journal")):
        require_own(output, "undelivered journals are in both", "resume=false of train or main puts them aside here")


def unfinished(settings: TrainSettings, tags: Mapping[str, str]) -> tuple[str, Ready | None]:
    """The id of the newest unfinished run of a command, or an empty text; and the corpus, if it was read for that."""
    command = tags[COMMAND_TAG]
    all_runs = unfinished_runs(command)
    same_code = [run for run in all_runs if run.data.tags.get(CODE_TAG) == tags[CODE_TAG]]
    if not same_code:
        for run in all_runs[:1]:
            print(
                f"A new run begins: the unfinished run {run.info.run_name} of this command was begun by other code; "
                f"`git checkout {run.data.tags.get('git.commit', '<its commit>')}` goes on with it."
            )
        deleted = [] if all_runs else unfinished_runs(command, deleted=True)
        if deleted:
            print(f"A new run begins: the unfinished run of this command is deleted. {names.deleted(deleted[:1])}")
        return "", None
    ready = read_corpus(settings)
    for run in same_code:
        if run.data.tags.get(DIGEST_TAG, ready.audit.digest) == ready.audit.digest:
            print(f"goes on with the unfinished run {run.info.run_name} ({run.info.run_id}); resume=false begins anew")
            return run.info.run_id, ready
    name = same_code[0].info.run_name
    print(f"A new run begins: the corpus has changed since the unfinished run {name} of this command.")
    return "", ready


@contextlib.contextmanager
def continued_run(
    entry_point: str, unfinished_id: str, output: str, tags: Mapping[str, str] | None = None, experiment: str = ""
) -> Iterator[str]:
    """The run that goes on, or a new one where `unfinished_id` is empty; gives its id.

    `mlflow run` has made a run for the command, which is then tagged with the one that goes on. A new run stands in
    `experiment`, see `runs.start_run`.
    """
    with contextlib.ExitStack() as stack:
        if unfinished_id and os.environ.get("MLFLOW_RUN_ID", unfinished_id) != unfinished_id:
            stack.enter_context(runs.start_run(entry_point, tags={CONTINUES_TAG: unfinished_id}, output=output))
            print(f"goes on in the run {unfinished_id}; the run that MLflow has just made is tagged with it")
        yield stack.enter_context(runs.start_run(entry_point, unfinished_id, "", tags, output, experiment))


def deliver_journals(output: str) -> list[str]:
    """Delivers what the tracking server did not take of the runs in an output folder.

    Also removes the states of runs that have finished: a kill may have come between the two.

    Returns:
        A sentence for each run of which something could not be delivered.

    Raises:
        InputError: the folder is a copy with journals.
    """
    require_delivered(output)
    problems = []
    for folder in sorted((Path(output) / "runs").glob("*/journal")):
        try:
            deliver_journal(folder)
        except InputError as error:
            problems.append(str(error))
    for folder in {state.parent for state in (Path(output) / "runs").glob("*/epoch-*.safetensors")}:
        if not (folder / "journal").exists() and lookup.has_finished(folder.name):
            States(folder / WEIGHTS, "").clear()
    return problems
