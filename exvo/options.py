"""The options of an entry point on its command line: parsed, and written as the command that a person can repeat.

Imports nothing but the standard library, so that `--help` is instant.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import math
import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from exvo.errors import InputError
from exvo.files import launched_from, locate, locate_each
from exvo.settings import ENTRY_POINTS
from exvo.text import default_text, nearest, reason

LAUNCHER = "EXVO_LAUNCHER"
"""The environment variable by which worker processes know that `mlflow run` started their command; else empty."""

LONGEST_LINES = 65_536
"""Bytes of a file whose lines are an option: a thousand categories need fewer."""

_run_of_launcher = ""


def note_launcher() -> None:
    """Notes the run that `mlflow run` has made for this command, and the folder in which it was given.

    It must be called first: MLflow removes the variable that names the run when the run begins.
    """
    global _run_of_launcher
    launched_from()
    _run_of_launcher = os.environ.get("MLFLOW_RUN_ID", "")


def launched_run() -> str:
    """The id of the run that `mlflow run` has made for this command; empty under another launcher."""
    return _run_of_launcher


def by_mlflow() -> bool:
    """Whether `mlflow run` has started this command, or the one whose worker this is."""
    return bool(_run_of_launcher or os.environ.get(LAUNCHER))


def program(name: str) -> str:
    """How to start a program of this environment from the present folder: `mlflow`, `exvo` or `python`.

    >>> program("python").endswith("python") or "python3" in program("python")
    True
    """
    folder = Path(sys.executable).parent
    for command in [name, *(["python3"] if name == "python" else [])]:
        if Path(shutil.which(command) or "").parent == folder:
            return command
    if name != "python" and not (folder / name).exists():
        return f"{program('python')} -m {name}"
    path = Path(sys.executable) if name == "python" else folder / name
    with contextlib.suppress(ValueError):
        return shlex.quote(str(path.relative_to(Path.cwd())))
    return shlex.quote(str(path))


def environment_manager() -> str:
    """The option of `mlflow run` for the kind of environment in which this process runs, with a space before it.

    It is empty for conda, MLflow's default. The environments that MLflow makes are called mlflow-<hash>.
    """
    folder = Path(sys.prefix)
    if not folder.name.startswith("mlflow-"):
        return " --env-manager local"
    if (folder / "conda-meta").is_dir():
        return ""
    with contextlib.suppress(OSError):
        if re.search(r"(?m)^uv *=", (folder / "pyvenv.cfg").read_text(encoding="utf-8")):
            return " --env-manager uv"
    return " --env-manager virtualenv"


def command_line(entry_point: str, options: Mapping[str, Any]) -> str:
    """The command that runs an entry point with these options; options with their default are left out.

    It starts the entry point in the way in which the present command was started: by `mlflow run`, or as `exvo`.

    >>> command_line("enrolment-curve", {"run_id": "my run", "draws": 5}).partition("exvo ")[2]
    "enrolment-curve '--run_id=my run' --draws=5"
    """
    fields = dataclasses.fields(ENTRY_POINTS[entry_point])
    defaults = {field.name: default_text(field.default) for field in fields}
    texts = {name: default_text(options[name]) for name in defaults if name in options}
    changed = [f"{name}={text}" for name, text in texts.items() if text != defaults[name]]
    if by_mlflow():
        project = shlex.quote(os.getcwd()) if launched_from() else "."
        words = [
            f"{program('mlflow')} run {project} -e {entry_point}",
            *(f"-P {shlex.quote(option)}" for option in changed),
        ]
        return " ".join(words) + environment_manager()
    return " ".join([program("exvo"), entry_point, *(shlex.quote(f"--{option}") for option in changed)])


def parse_value(field: dataclasses.Field[Any], text: str) -> Any:
    """The value of an option from its text.

    Args:
        field: the option, made by `exvo.settings.option`.
        text: as the command line has it.

    Raises:
        InputError: the text has the wrong type, is none of the choices, or is out of range.
    """
    limits, kind = field.metadata, str(field.type).removesuffix(" | None").removesuffix(" | str")
    if "auto" in limits and text == "auto":
        return None
    if text in limits.get("words", ()):
        return text
    if kind == "bool":
        if text not in ("true", "false"):
            raise InputError(f"{field.name}={text} is neither true nor false.")
        return text == "true"
    if kind == "str":
        if "choices" in limits and text not in limits["choices"]:
            raise InputError(f"{field.name}={text} is not known{nearest(text, limits['choices'])}")
        return text
    expected = "a whole number" if kind == "int" else "a number"
    expected += "".join(f" or {word}" for word in [*limits.get("words", ()), *(["auto"] if "auto" in limits else [])])
    try:
        value = int(text) if kind == "int" else float(text)
    except ValueError:
        raise InputError(f"{field.name}={text} is not {expected}.") from None
    low, high = limits.get("low", -math.inf), limits.get("high", math.inf)
    if not low <= value <= high:
        bounds = f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
        raise InputError(f"{field.name}={text} is out of range: it must be {bounds}.")
    return value


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are InputErrors."""

    def error(self, message: str) -> NoReturn:
        """Refuses the command line."""
        raise InputError(f"{message[:1].upper()}{message[1:]}; see --help.")


def parse(entry_point: str, arguments: Sequence[str] | None = None, description: str | None = None) -> Any:
    """The settings of an entry point from its command line. Options that name a file or folder become its path.

    Args:
        entry_point: its name in `ENTRY_POINTS`.
        arguments: the words of the command line; None: those of this process.
        description: the text with which `--help` begins.

    Raises:
        InputError: an option is unknown, lacks its value, has a value of the wrong type or out of range, or names a
            path that can't be (`exvo.files.locate`).
    """
    settings = ENTRY_POINTS[entry_point]
    fields = {field.name: field for field in dataclasses.fields(settings)}
    parser = _Parser(prog=f"exvo {entry_point}", description=description, allow_abbrev=False)
    for field in fields.values():
        default = default_text(field.default)
        auto = f"; auto: {field.metadata['auto']}" if "auto" in field.metadata else ""
        parser.add_argument(
            f"--{field.name}",
            metavar="|".join(field.metadata.get("choices", ())) or str(field.type).removesuffix(" | None").upper(),
            help=f"{field.metadata['help']}{auto} (default: {default or 'empty'})".replace("%", "%%"),
        )
    words = sys.argv[1:] if arguments is None else list(arguments)
    texts, unknown = parser.parse_known_args(with_values(words, list(fields)))
    if unknown:
        name = unknown[0].removeprefix("--").split("=")[0]
        raise InputError(f"{entry_point} has no option {unknown[0]}{nearest(name, list(fields))}")
    values = {name: parse_value(fields[name], text) for name, text in vars(texts).items() if text is not None}
    for name, value in values.items():
        if "path" in fields[name].metadata:
            kind = fields[name].metadata["path"]
            values[name] = locate_each(name, value) if kind == "inputs" else locate(name, value, kind)
        if "lines" in fields[name].metadata and value.startswith("@"):
            values[name] = joined_lines(name, value[1:], fields[name].metadata["lines"])
    return settings(**values)


def joined_lines(option: str, path: str, mark: str) -> str:
    """The lines of a file that an option names, joined by a mark, before which a line's own ones get a backslash.

    Args:
        option: its name, for sentences.
        path: of the file, as the user has typed it.
        mark: that joins the lines.

    Raises:
        InputError: the file is not there, is no text, or is too long for an option.
    """
    try:
        content = Path(locate(option, path, "input")).read_bytes()
        if len(content) > LONGEST_LINES:
            raise InputError(f"{option}=@{path} is longer than {LONGEST_LINES:,} bytes; shorten it.")
        lines = content.decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{option}=@{path} can't be read as a text in UTF-8 ({reason(error)}); correct it.") from None
    return mark.join(re.sub(rf"(?<!\\){mark}", rf"\\{mark}", line) for line in map(str.strip, lines) if line)


def with_values(words: Sequence[str], names: Sequence[str]) -> list[str]:
    """The words of a command line, each option joined with its value by `=`, so that a value may begin with a dash.

    A word that is itself an option is not taken for a value.

    >>> with_values(["--audio", "-laugh.wav", "--top", "--save", "a.csv"], ["audio", "top", "save"])
    ['--audio=-laugh.wav', '--top', '--save=a.csv']
    """
    options = {f"--{name}" for name in names}
    joined: list[str] = []
    for word in words:
        is_option = word.split("=")[0] in options or word in ("-h", "--help")
        if joined and joined[-1] in options and not is_option:
            joined[-1] = f"{joined[-1]}={word}"
        else:
            joined.append(word)
    return joined
