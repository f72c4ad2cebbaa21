"""Encoders in the artifact store: once each, whole, found by their digest, on each kind of store."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import ViewType

from exvo.config import FeatureConfig
from exvo.errors import InputError
from exvo.networks.checkpoint import Checkpoint
from exvo.networks.run_encoder import RunEncoder
from exvo.tracking import encoders
from exvo.tracking.encoders import EXPERIMENT, fetch, keep, kept_runs, load_kept

from helpers.networks import TASK, make_network

CLIP = np.random.default_rng(0).normal(0, 0.1, 5_000).astype(np.float32)


def saved(folder: Path, seed: int = 0) -> RunEncoder:
    """An encoder, written into a folder."""
    encoder = RunEncoder(
        Checkpoint(make_network(seed).eval(), TASK, FeatureConfig(), "repeat", {}), "cpu", "the encoder"
    )
    folder.mkdir()
    encoder.save(folder)
    return encoder


def check_kept(folder: Path) -> None:
    """That an encoder is put once however often it is put, beside another one, and is the same as it comes back."""
    one, other = saved(folder / "one"), saved(folder / "other", seed=1)
    for _ in range(2):
        keep(one.features, folder / "one")
    keep(other.features, folder / "other")
    for encoder in (one, other):
        assert len(kept_runs(encoder.features)) == 1
        again = load_kept(encoder.features, "cpu")
        np.testing.assert_array_equal(again.states([CLIP])[0], encoder.states([CLIP])[0])
    (folder / "into").mkdir()
    fetch(one.features, folder / "into", "cpu")
    assert (folder / "into/encoder/best.safetensors").read_bytes() == (folder / "one/best.safetensors").read_bytes()


@pytest.mark.usefixtures("store")
def test_a_local_store(tmp_path: Path) -> None:
    MlflowClient().create_experiment(EXPERIMENT, artifact_location=(tmp_path / "kept ones").as_uri())
    check_kept(tmp_path)
    assert len(list((tmp_path / "kept ones").rglob("best.safetensors"))) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("server")
def test_a_server_through_which_the_artifacts_go(tmp_path: Path) -> None:
    check_kept(tmp_path)
    assert len(list((tmp_path / "kept").rglob("best.safetensors"))) == 2


@pytest.fixture
def local(store: str, tmp_path: Path) -> Path:
    """The folder of the encoders' artifacts on an embedded store."""
    MlflowClient().create_experiment(EXPERIMENT, artifact_location=str(tmp_path / "kept"))
    return tmp_path / "kept"


def test_of_two_that_put_at_once_one_stays(local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = saved(tmp_path / "one")
    both = threading.Barrier(2)
    true = encoders.kept_runs

    def together(features: object) -> object:
        found = true(features)  # type: ignore[arg-type]
        both.wait(60)
        return found

    monkeypatch.setattr(encoders, "kept_runs", together)  # both find none, and later each finds both
    threads = [threading.Thread(target=keep, args=(encoder.features, tmp_path / "one")) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    (kept,) = true(encoder.features)
    experiment = MlflowClient().get_experiment_by_name(EXPERIMENT)
    runs = MlflowClient().search_runs([experiment.experiment_id], run_view_type=ViewType.ALL)
    assert len(runs) == 2
    assert [path.parts[-4] for path in local.rglob("best.safetensors")] == [kept.info.run_id]


@pytest.mark.parametrize("times", [(1_000, 2_000), (2_000, 1_000), (1_000, 1_000)])
def test_of_two_that_overlap_one_stays_whatever_their_clocks_say(
    local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: tuple[int, int]
) -> None:
    encoder = saved(tmp_path / "one")
    true, end, ends = encoders.kept_runs, MlflowClient.set_terminated, iter(times)
    monkeypatch.setattr(MlflowClient, "set_terminated", lambda client, run: end(client, run, end_time=next(ends)))
    for _ in times:  # the second began before the first was whole, and ends after the first looked
        looks = iter([list])  # at its first look it finds none
        monkeypatch.setattr(encoders, "kept_runs", lambda features, looks=looks: next(looks, lambda: true(features))())
        keep(encoder.features, tmp_path / "one")
    (kept,) = true(encoder.features)
    assert kept.info.end_time == min(times)
    assert [path.parts[-4] for path in local.rglob("best.safetensors")] == [kept.info.run_id]


def test_a_copy_that_was_cut_short_is_never_found(local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = saved(tmp_path / "one")

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_tag", full)
        with pytest.raises(OSError, match="No space"):
            keep(encoder.features, tmp_path / "one")
    assert kept_runs(encoder.features) == []
    assert list(local.rglob("best.safetensors")) == []
    keep(encoder.features, tmp_path / "one")
    assert load_kept(encoder.features, "cpu").features == encoder.features


def test_a_truncated_or_changed_file_is_one_sentence(local: Path, tmp_path: Path) -> None:
    encoder = saved(tmp_path / "one")
    keep(encoder.features, tmp_path / "one")
    (run,) = kept_runs(encoder.features)
    (file,) = local.rglob("best.safetensors")
    whole = file.read_bytes()
    begins = (
        f"The encoder of {encoder.features.text}, which the run {run.info.run_id} of the experiment {EXPERIMENT} "
        "keeps, can't be used ("
    )
    ends = "): delete that run, and train again where the encoder is at hand, which puts it there anew."
    changed = bytearray(whole)
    changed[-4:] = np.float32(0.25).tobytes()
    for content, problem in (
        (whole[:-9], "encoder/best.safetensors is not a whole checkpoint of exvo ("),
        (bytes(changed), "The encoder in encoder gives embeddings "),
    ):
        file.write_bytes(content)
        with pytest.raises(InputError) as caught:
            load_kept(encoder.features, "cpu")
        assert str(caught.value).startswith(begins + problem)
        assert str(caught.value).endswith(ends)
        assert str(tmp_path) not in str(caught.value)
    file.unlink()
    with pytest.raises(InputError, match="can't be used"):
        load_kept(encoder.features, "cpu")
    MlflowClient().delete_run(run.info.run_id)
    keep(encoder.features, tmp_path / "one")
    assert load_kept(encoder.features, "cpu").features == encoder.features


def test_an_encoder_that_is_nowhere_is_one_sentence(local: Path, tmp_path: Path) -> None:
    features = replace(saved(tmp_path / "one").features, key="0" * 12)
    with pytest.raises(InputError) as caught:
        load_kept(features, "cpu")
    assert str(caught.value) == (
        f"The model takes {features.text} of an encoder, which the tracking server {mlflow.get_tracking_uri()} does "
        f"not keep in its experiment {EXPERIMENT}: set MLFLOW_TRACKING_URI to the server of the training run, train "
        "again where the encoder is at hand, or take a registered model, which carries its encoder."
    )


def test_the_experiment_comes_back_when_it_was_deleted(local: Path, tmp_path: Path) -> None:
    encoder = saved(tmp_path / "one")
    keep(encoder.features, tmp_path / "one")
    experiment = MlflowClient().get_experiment_by_name(EXPERIMENT).experiment_id
    MlflowClient().delete_experiment(experiment)
    assert kept_runs(encoder.features) == []
    keep(encoder.features, tmp_path / "one")
    (run, *_) = kept_runs(encoder.features)
    assert run.info.experiment_id == experiment
    assert Path(download_artifacts(f"{run.info.artifact_uri}/encoder/best.safetensors")).exists()
