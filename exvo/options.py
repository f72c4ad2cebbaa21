"""The options of an entry point as its command line holds them.

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

from exvo.config import ENTRY_POINTS
from exvo.errors import InputError
from exvo.files import launched_from, locate
from exvo.text import default_text, nearest

LAUNCHER = "EXVO_LAUNCHER"
"""The variable that tells worker processes how their command was started: `mlflow run`, or empty."""


_run_of_launcher = ""


def note_launcher() -> None:
    """Notes the run that `mlflow run` has made for this command, and where; MLflow takes its mark away as it begins."""
    global _run_of_launcher
    launched_from()
    _run_of_launcher = os.environ.get("MLFLOW_RUN_ID", "")


def launched_run() -> str:
    """The id of the run that `mlflow run` has made for this command; an empty text under another launcher."""
    return _run_of_launcher


def by_mlflow() -> bool:
    """Whether `mlflow run` has started this command, or the one whose worker this is."""
    return bool(_run_of_launcher or os.environ.get(LAUNCHER))


def program(name: str) -> str:
    """How to start a program of this environment from the present folder: `mlflow`, `exvo` or `python`.

    >>> program("python").endswith("python") or "python3" in program("python")
    True
    """
    own = Path(sys.executable).parent
    names = [name, *(["python3"] if name == "python" else [])]
    for one in names:
        if Path(shutil.which(one) or "").parent == own:
            return one
    if name != "python" and not (own / name).exists():
        return f"{program('python')} -m {name}"
    path = Path(sys.executable) if name == "python" else own / name
    with contextlib.suppress(ValueError):
        return shlex.quote(str(path.relative_to(Path.cwd())))
    return shlex.quote(str(path))


def environment_manager() -> str:
    """The option of `mlflow run` that chooses the kind of environment that this process runs in, with a space before.

    MLflow's own environments are called mlflow-<hash>; conda needs no option.
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
    """The command that runs an entry point with these options, those left out that have their default.

    It starts the entry point as the present command was started: by `mlflow run`, or as `exvo`.

    >>> command_line("enrolment-curve", {"run_id": "my run", "draws": 5}).partition("exvo ")[2]
    "enrolment-curve '--run_id=my run' --draws=5"
    """
    fields = dataclasses.fields(ENTRY_POINTS[entry_point])
    given = {field.name: default_text(options[field.name]) for field in fields if field.name in options}
    changed = [
        f"{field.name}={given[field.name]}"
        for field in fields
        if given.get(field.name, default_text(field.default)) != default_text(field.default)
    ]
    if by_mlflow():
        project = shlex.quote(os.getcwd()) if launched_from() else "."
        words = [f"{program('mlflow')} run {project} -e {entry_point}", *(f"-P {shlex.quote(one)}" for one in changed)]
        return " ".join(words) + environment_manager()
    return " ".join([program("exvo"), entry_point, *(shlex.quote(f"--{one}") for one in changed)])


def parse_value(field: dataclasses.Field[Any], text: str) -> Any:
    """The value of an option's text.

    Raises:
        InputError: the text is of the wrong type, no choice of this option, or out of its range.
    """
    limits, kind = field.metadata, str(field.type).removesuffix(" | None")
    if "auto" in limits and text == "auto":
        return None
    if kind == "bool":
        if text not in ("true", "false"):
            raise InputError(f"{field.name}={text} is neither true nor false.")
        return text == "true"
    if kind == "str":
        if "choices" in limits and text not in limits["choices"]:
            raise InputError(f"{field.name}={text} is not known{nearest(text, limits['choices'])}")
        return text
    wanted = "a whole number" if kind == "int" else "a number"
    wanted += " or auto" if "auto" in limits else ""
    try:
        value = int(text) if kind == "int" else float(text)
    except ValueError:
        raise InputError(f"{field.name}={text} is not {wanted}.") from None
    low, high = limits.get("low", -math.inf), limits.get("high", math.inf)
    if not low <= value <= high:
        bounds = f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
        raise InputError(f"{field.name}={text} is out of range: it must be {bounds}.")
    return value


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message[:1].upper()}{message[1:]}; see --help.")


def parse(entry_point: str, arguments: Sequence[str] | None = None, description: str | None = None) -> Any:
    """The settings of an entry point from its command line (`sys.argv` when None); `--help` begins with `description`.

    Options that name one file or folder hold where it is (`paths.locate`).

    Raises:
        InputError: an option is unknown, lacks its value, is not of its type or range, or names no path.
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
    given, unknown = parser.parse_known_args(with_values(words, list(fields)))
    if unknown:
        name = unknown[0].removeprefix("--").split("=")[0]
        raise InputError(f"{entry_point} has no option {unknown[0]}{nearest(name, list(fields))}")
    values = {name: parse_value(fields[name], text) for name, text in vars(given).items() if text is not None}
    for name, value in values.items():
        if "path" in fields[name].metadata:
            values[name] = locate(name, value, fields[name].metadata["path"])
    return settings(**values)


def with_values(words: Sequence[str], names: Sequence[str]) -> list[str]:
    """The words of a command line, each option joined with its value, which may so begin with a dash.

    A word that is itself an option is no value.

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
