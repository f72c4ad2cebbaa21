"""A training on several devices: starts a rank for each, and what the ranks do but for the training itself.

The command is the launcher, PyTorch's own as a library. Each rank is a process of the same command: the first does all
that a training on one device does, the others train along. Under `torchrun` they are there already.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from exvo import machine, progress, ranks
from exvo.errors import InputError, TrainingError
from exvo.experiments.process import EXIT_SECONDS, RANKS, Ranked
from exvo.features.extraction import cores
from exvo.settings import TrainSettings
from exvo.systems import SystemConfig
from exvo.text import default_text
from exvo.training.along import send, train_along

LOOPBACK = {"linux": "lo", "darwin": "lo0"}
"""The network interface over which the ranks of one machine speak."""


def run(
    entry_point: str, given: TrainSettings, settings: TrainSettings, system: SystemConfig, lead: Callable[[], None]
) -> None:
    """Runs a training on as many devices as its settings say.

    Args:
        entry_point: train or main.
        given: the options of the command.
        settings: the same without `auto`.
        system: that they train.
        lead: all that a training on one device does.

    Raises:
        InputError: the batches can't be shared out, or ranks disagree.
        TrainingError: a rank has ended.
    """
    if settings.devices == 1:
        lead()
        return
    require_shares(settings, system)
    if ranks.started() == 1:
        launch(entry_point, given, settings)
        return
    try:
        with ranks.joined(settings.device):
            if ranks.rank() == 0:
                require_same(settings)
                lead()
                send(None)
            else:
                with silent():
                    require_same(settings)
                    train_along()
    except ranks.RankLost:
        if RANKS in os.environ or os.environ["RANK"] != "0":  # the launcher says it, or the first rank
            raise SystemExit(1) from None
        raise


def require_shares(settings: TrainSettings, system: SystemConfig) -> None:
    """Refuses batches that are too small for each rank to compute a part of them.

    Raises:
        InputError: says how large they must be.
    """
    group, what = 2, "2 clips"
    if system.enrolment == "shared":
        group = system.people or settings.shots + 1
        what = f"the {group} clips of a person that enrol each other"
    assert settings.batch_size is not None
    if settings.batch_size < group * settings.devices:
        raise InputError(
            f"batch_size={settings.batch_size} is too small for devices={settings.devices}, each of which computes "
            f"{what} or more of a batch: give batch_size={group * settings.devices}, or fewer devices."
        )


def require_same(settings: TrainSettings) -> None:
    """Refuses ranks that were started with other options or other code than the first.

    Raises:
        InputError: names the first difference, on all ranks.
    """
    own = {name: default_text(value) for name, value in asdict(settings).items()}
    texts = [json.loads(text) for text in ranks.texts_of_all(json.dumps([own, machine.source_digest()]))]
    options, code = texts[0]
    for number, (others, other_code) in enumerate(texts):
        for name, value in others.items():
            if value != options[name]:
                raise InputError(
                    f"Rank {number} has {name}={value}, but the first rank has {name}={options[name]}; give all ranks "
                    "the same options, and where `auto` differs its value."
                )
        if other_code != code:
            raise InputError(f"Rank {number} runs other code of exvo than the first rank; install the same on all.")


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """What a rank that is not the first does differently: it prints nothing, for what it has to say the first says.

    When it is told to stop it first lets the first rank end its run.

    Raises:
        SystemExit: where a sentence would be printed.
    """

    def stop(number: int, _: object) -> None:
        timer = threading.Timer(EXIT_SECONDS, os._exit, [128 + number])
        timer.daemon = True
        timer.start()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    progress.hide()
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
        try:
            yield
        except InputError:
            raise SystemExit(2) from None
        except TrainingError:
            raise SystemExit(1) from None


def launch(entry_point: str, given: TrainSettings, settings: TrainSettings) -> None:
    """Starts the ranks on this machine, each as a process of the same command, and waits for them.

    Raises:
        SystemExit: a rank has ended with a sentence, which is printed.
        TrainingError: a rank was killed, or has failed without a sentence.
    """
    with tempfile.TemporaryDirectory() as folder:
        ranked = Ranked(asdict(given), folder)
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=settings.devices,
            run_id="exvo",
            rdzv_backend="static",
            rdzv_endpoint=f"127.0.0.1:{free_port()}",
            rdzv_configs={"rank": 0, "timeout": 900},
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
            signals_to_handle="SIGTERM,SIGINT",  # it outlives its terminal
        )
        with variables(environment(ranked, settings)), quiet_launcher():
            try:
                elastic_launch(config, sys.executable)("-m", "exvo", entry_point)
            except SignalException as stop:
                for sentence, status in ranked.left()[:1]:
                    raise ended(sentence, status) from None
                raise SystemExit(128 + stop.sigval) from None
            except ChildFailedError as error:
                for sentence, status in ranked.left():
                    if status in (1, 2):  # else the launcher has stopped it, because another rank has ended
                        raise ended(sentence, status) from None
                raise TrainingError(failure_text(error.failures, settings.devices)) from None


def environment(ranked: Ranked, settings: TrainSettings) -> dict[str, str]:
    """The variables that the ranks get besides those of this process: on CPUs each has its share of the cores."""
    values = {RANKS: json.dumps(asdict(ranked))}
    if settings.device == "cpu":
        threads = int(os.environ.get("OMP_NUM_THREADS") or cores())
        values["OMP_NUM_THREADS"] = str(max(1, threads // settings.devices))
    if sys.platform in LOOPBACK:
        values["GLOO_SOCKET_IFNAME"] = os.environ.get("GLOO_SOCKET_IFNAME", LOOPBACK[sys.platform])
    return values


def ended(sentence: str, status: int) -> SystemExit:
    """Prints the sentence with which a rank has ended; gives what ends this process in the same way."""
    print(f"exvo: {sentence}", file=sys.stderr, flush=True)
    return SystemExit(status)


def failure_text(failures: Mapping[int, ProcessFailure], count: int) -> str:
    """Which rank has ended, and how, in a sentence."""
    number, failure = next(
        ((number, failure) for number, failure in failures.items() if failure.exitcode < 0),
        next(iter(failures.items())),
    )
    how = f"has failed with status {failure.exitcode}"
    if failure.exitcode < 0:
        how = f"was ended by {signal.Signals(-failure.exitcode).name}"
    return f"Rank {number} of 0 to {count - 1} {how}, so the others were stopped; the same command goes on."


def free_port() -> int:
    """A port of this machine on which nobody listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextlib.contextmanager
def variables(values: Mapping[str, str]) -> Iterator[None]:
    """Sets variables of the environment, which child processes inherit."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def quiet_launcher() -> Iterator[None]:
    """Keeps PyTorch's launcher from printing what it does: a sentence says how the ranks have ended."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
