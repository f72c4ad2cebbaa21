"""What the option `features` names: a kind, a folder, a name on the hub, a run; and where a folder is looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from exvo import files
from exvo.errors import InputError
from exvo.experiments.features import is_encoder, resolve_features


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where `mlflow run` was typed; the working folder is the project's."""
    for folder in ("user/enc/wavlm", "user/wavlm", "project/enc/wavlm", "project/enc/hubert", "home/enc"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(files, "launched_from", lambda: str(tmp_path / "user"))
    return tmp_path / "user"


def test_a_folder_is_looked_for_where_the_user_is_then_in_the_project(places: Path) -> None:
    assert resolve_features("enc/wavlm") == str(places / "enc/wavlm")
    assert Path(resolve_features("./enc/wavlm")) == places / "enc/wavlm"
    assert resolve_features("enc/hubert") == "enc/hubert"
    assert resolve_features("~/enc") == str(places.parent / "home/enc")
    assert resolve_features(str(places / "wavlm")) == str(places / "wavlm")
    for found in ("./enc/wavlm", "enc/hubert", "~/enc"):
        assert is_encoder(resolve_features(found))


@pytest.mark.parametrize("name", ["microsoft/wavlm-base@refs/pr/1", "some/one", "log-mel", "egemaps"])
def test_names_of_the_hub_and_kinds_stay_as_they_are(name: str, places: Path) -> None:
    assert resolve_features(name) == name


@pytest.mark.usefixtures("store")
def test_a_folder_without_a_slash_is_told_how_to_be_written(tmp_path: Path) -> None:
    (tmp_path / "wavlm").mkdir()
    with pytest.raises(InputError) as caught:
        resolve_features("wavlm")
    assert str(caught.value) == (
        "features=wavlm is the name of no run, but of a folder; write features=./wavlm to take the encoder in it."
    )
    assert resolve_features("./wavlm") == "./wavlm"
    with pytest.raises(InputError, match="features=hubert is not a known kind"):
        resolve_features("hubert")
