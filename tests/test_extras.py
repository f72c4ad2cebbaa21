"""A library that an extra brings and that is not there, or not whole, is one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from exvo.errors import InputError
from exvo.extras import require


def test_what_is_there_is_imported() -> None:
    assert require("json", "encoders", "this test") is json


def test_what_is_not_installed_is_said_with_the_command() -> None:
    for module in ("notinstalled", "notinstalled.within"):
        with pytest.raises(InputError) as raised:
            require(module, "opensmile", "features=egemaps")
        assert str(raised.value) == (
            "features=egemaps needs notinstalled, which is not installed: "
            'pip install "exvo[opensmile]" (in a checkout: make .venv/ready).'
        )


def test_what_is_not_whole_is_said_with_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "halfthere.py").write_text("import thatisnowhere")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"which can't be imported \(No module named 'thatisnowhere'\): pip install"):
        require("halfthere", "cluster", "this test")
