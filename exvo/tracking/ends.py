"""Ends runs from outside: those of refused input, and those of trials whose process is gone."""

from __future__ import annotations

from contextlib import suppress

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from exvo.errors import InputError
from exvo.options import launched_run
from exvo.text import writable
from exvo.tracking import lookup, server
from exvo.tracking.tags import COMMAND_TAG, FAILURE, NOTE, TRIAL_STATE_TAG


def remove(run_id: str) -> None:
    """Deletes a run whose input was refused; it is not taken for an unfinished one."""
    with suppress(MlflowException):
        MlflowClient().delete_tag(run_id, COMMAND_TAG)
    with suppress(MlflowException):
        MlflowClient().delete_run(run_id)


def describe_failure(sentence: str) -> None:
    """Ends the run that `mlflow run` has made for this command as failed, with the reason as its description."""
    run_id = launched_run()
    if not run_id or server.has_failed():
        return
    server.quiet()
    with suppress(MlflowException, InputError):
        server.check_store()
        client = MlflowClient()
        client.set_tag(run_id, NOTE, writable(f"{FAILURE}{sentence}")[:5000])
        if client.get_run(run_id).info.status == "RUNNING":
            client.set_terminated(run_id, "FAILED")


def end_run_of_dead_trial(run_id: str) -> None:
    """Ends as killed the run of a trial whose process is gone, where this server has it and it has not ended."""
    client = MlflowClient()
    with suppress(MlflowException):
        if lookup.run_exists(run_id) and client.get_run(run_id).info.status == "RUNNING":
            client.set_tag(run_id, TRIAL_STATE_TAG, "killed")
            client.set_terminated(run_id, "KILLED")
