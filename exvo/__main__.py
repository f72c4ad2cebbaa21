"""The command: `exvo <entry point> --<option> <value>`. `python -m exvo` is the same.

Imports nothing but the standard library until an entry point is run, so that `--help` is instant.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from exvo import passwords
from exvo.errors import InputError, TrainingError
from exvo.experiments.process import Ranked, Stopped, end_with_parent, lasting_streams, stoppable, use_utf8
from exvo.options import launched_run, note_launcher, parse
from exvo.settings import ENTRY_POINTS
from exvo.text import nearest

USES = {
    "Train": ("main", "extract", "train", "tune", "transfer", "reproduce"),
    "Look at runs": ("evaluate", "compare", "enrolment-curve", "robustness", "embed"),
    "Use a model": ("register", "predict", "demo", "submit"),
    "After the tracking server was away": ("sync",),
}
"""The entry points, by what they are used for."""

MAX_WIDTH = 100
"""Columns of the overview, on a terminal that has as many."""


def main() -> None:
    """Runs the command line of this process: an entry point, or `--help`."""
    use_utf8()
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help", "--version"):
        with lasting_streams():
            print(version() if words[:1] == ["--version"] else overview())
        return
    command(words[0], words[1:])


def launch(entry_point: str) -> None:
    """Runs an entry point with the options of this process, as a file of `pipelines/` does."""
    use_utf8()
    command(entry_point, sys.argv[1:])


def command(entry_point: str, words: Sequence[str]) -> None:
    """Runs an entry point: a user's mistake is one sentence and exit status 2.

    Ctrl-C and SIGTERM are one sentence, and status 130 or 143. The status tells how the work ended, not whether all
    that was printed has found a reader: it is logged too.

    Args:
        entry_point: a name of `ENTRY_POINTS`.
        words: its options, as on the command line.
    """
    passwords.guard()
    note_launcher()
    with lasting_streams():
        try:
            with stoppable():
                ranked = Ranked.of_environment()
                if launched_run() or ranked:
                    end_with_parent()
                if entry_point not in ENTRY_POINTS:
                    raise InputError(f"exvo has no entry point {entry_point}{nearest(entry_point, list(ENTRY_POINTS))}")
                settings = parse(entry_point, words, about(entry_point))
                settings = type(settings)(**ranked.settings) if ranked else settings
                body(entry_point)(settings)
        except InputError as error:
            sys.exit(fail(str(error), 2))
        except KeyboardInterrupt as interrupt:  # Python's own, where it comes before `stoppable` or after it
            stop = interrupt if isinstance(interrupt, Stopped) else Stopped()
            sys.exit(fail(stop.sentence, stop.status))
        except TrainingError as error:
            sys.exit(fail(str(error), 1))


def fail(sentence: str, status: int) -> int:
    """Prints the sentence to the terminal's error stream, and in the run of `mlflow run`; returns the status.

    A rank leaves its printing to the command that has started it.
    """
    ranked = Ranked.of_environment()
    if ranked:
        ranked.leave(passwords.hide(sentence), status)
    else:
        print(f"exvo: {passwords.hide(sentence)}", file=sys.stderr, flush=True)
    if launched_run():
        from exvo.tracking import ends

        ends.describe_failure(passwords.hide(sentence))
    return status


def module_name(entry_point: str) -> str:
    """The module that holds an entry point's body."""
    return f"exvo.experiments.{entry_point.replace('-', '_')}"


def body(entry_point: str) -> Callable[[Any], None]:
    """What runs an entry point, given its settings. Imports what it needs."""
    run: Callable[[Any], None] = importlib.import_module(module_name(entry_point)).run
    return run


def about(entry_point: str) -> str:
    """What an entry point does: its module's docstring, read without importing the module."""
    module = importlib.util.find_spec(module_name(entry_point))
    assert module is not None
    assert module.origin is not None
    return ast.get_docstring(ast.parse(Path(module.origin).read_text(encoding="utf-8"))) or ""


def overview() -> str:
    """What `exvo --help` says: each entry point with the first sentence about it."""
    width = min(MAX_WIDTH, shutil.get_terminal_size().columns)
    lines = ["usage: exvo <entry point> [--<option> <value> ...]", ""]
    for use, names in USES.items():
        lines += [f"{use}:", *(described(name, width) for name in names), ""]
    return "\n".join([*lines, "exvo <entry point> --help explains its options."])


def described(entry_point: str, width: int) -> str:
    """The lines of the overview about an entry point, at most so many columns wide."""
    sentence = about(entry_point).partition("\n\n")[0]
    return textwrap.fill(sentence, width, initial_indent=f"  {entry_point:16}", subsequent_indent=" " * 18)


def version() -> str:
    """The version of exvo."""
    from exvo import __version__

    return f"exvo {__version__}"


if __name__ == "__main__":
    main()
