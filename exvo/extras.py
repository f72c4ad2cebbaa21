"""Libraries that an extra of exvo brings: imported where they are needed, or a sentence with the command."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Literal

from exvo.errors import InputError
from exvo.text import first_line

Extra = Literal["encoders", "opensmile", "demo", "cluster", "server"]
"""The extras of pyproject.toml that an entry point can ask for."""


def command(extra: Extra) -> str:
    """What installs an extra; the environment of a checkout has all of them.

    >>> command("server")
    'pip install "exvo[server]" (in a checkout: make .venv/ready)'
    """
    return f'pip install "exvo[{extra}]" (in a checkout: make .venv/ready)'


def require(module: str, extra: Extra, purpose: str) -> ModuleType:
    """A module of a library that an extra brings, imported.

    Args:
        module: its full name.
        extra: what brings it.
        purpose: what needs it, in the user's words: 'features=egemaps'.

    Raises:
        InputError: it is not installed, or can't be imported.
    """
    library = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name == library
        problem = "is not installed" if absent else f"can't be imported ({first_line(error)})"
        raise InputError(f"{purpose} needs {library}, which {problem}: {command(extra)}.") from None
