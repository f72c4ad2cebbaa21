"""The network before training: its first weights, or those of the run that it continues."""

from __future__ import annotations

from dataclasses import asdict, fields

from exvo import systems
from exvo.batches.clips import Clips
from exvo.errors import InputError
from exvo.evaluation import scoring
from exvo.networks.build import build_network
from exvo.networks.checkpoint import load_parent
from exvo.networks.network import Network
from exvo.options import command_line
from exvo.settings import TrainSettings
from exvo.systems import SystemConfig
from exvo.tasks import Task
from exvo.tracking import lookup, models, runs


def first_weights(settings: TrainSettings, system: SystemConfig, task: Task, clips: Clips) -> Network:
    """The network before training: with random weights, the PANNs', or those of the run that it continues.

    Raises:
        InputError: there is no such run, or its weights don't fit.
    """
    from_run = settings.init.startswith("runs:/")
    init = "" if from_run else settings.init
    network = build_network(system, task, settings.width, settings.seed, init, clips)
    parent = None
    if from_run:
        parent = lookup.find_run(settings.init.removeprefix("runs:/"))
    elif system.start in systems.SYSTEMS and not init:
        parent = lookup.parent_run(system.start, settings.width, scoring.headline(task), runs.present_run().tags)
        if parent is None:
            raise InputError(
                f"model={settings.model} continues {system.start}, of which the tracking server has no finished run on "
                f"this corpus with task={settings.task}, width={settings.width:g} and protocol={settings.protocol}; "
                f"first run `{parents_command(settings, system.start)}`, or give init=runs:/<id>."
            )
    if parent is not None:
        runs.log_parent(parent)
        try:
            checkpoint = models.checkpoint_of(parent)
        except InputError as error:
            chosen = "" if from_run else f" It is the best run of {system.start}; init=runs:/<id> chooses another."
            raise InputError(f"{error}{chosen}") from None
        load_parent(network, checkpoint.network, f"the run {parent.info.run_name}")
        print(f"continues the run {parent.info.run_name} ({parent.info.run_id})")
    return network


def parents_command(settings: TrainSettings, parent: str) -> str:
    """The command that trains the system that one continues, with the same options where they are not its own."""
    own, defaults = systems.find(parent), {field.name: field.default for field in fields(TrainSettings)}
    same = {name: defaults[name] for name in systems.RECIPE if getattr(settings, name) == getattr(own, name)}
    return command_line("train", asdict(settings) | {"model": parent} | same)
