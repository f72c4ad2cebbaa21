"""Models on other features than log-mels: what their files say, and the encoder that they carry."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from exvo.config import FeatureConfig
from exvo.errors import InputError
from exvo.features.functionals import features_of_set
from exvo.features.log_mel import log_mel
from exvo.features.shards import Features
from exvo.networks.carried import ENCODER, carry, with_encoder
from exvo.networks.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from exvo.networks.header import features_section, read_keyed_features
from exvo.networks.inference import embed_clips
from exvo.networks.run_encoder import RunEncoder
from exvo.serving.prediction import as_clips
from exvo.serving.waveforms import features_of

from helpers.networks import TASK, make_network

EGEMAPS = features_of_set("egemaps", "2.6.0")


def trained(seed: int = 0, **options: object) -> Checkpoint:
    return Checkpoint(make_network(seed, **options).eval(), TASK, FeatureConfig(), "repeat", {})


def waveforms() -> list[np.ndarray]:
    return [np.random.default_rng(n).normal(0, 0.1, 2_000 + 3_000 * n).astype(np.float32) for n in range(3)]


@pytest.mark.parametrize(
    "features", [EGEMAPS, FeatureConfig(), Features("states", "0" * 64, "float16", (13, 1536), {})]
)
def test_a_model_file_says_what_its_features_are(features: FeatureConfig | Features) -> None:
    section = json.loads(json.dumps(features_section(features)))
    assert read_keyed_features(section) == features


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kind", "pickles"),
        ("kind", ["functionals"]),
        ("key", "../../etc"),
        ("dtype", "object"),
        ("shape", [1]),
        ("shape", [1, -88]),
        ("shape", [1, 10**9]),
        ("shape", None),
        ("settings", []),
    ],
)
def test_nothing_that_a_model_file_says_of_features_is_trusted(name: str, value: Any) -> None:
    section = json.loads(json.dumps(asdict(EGEMAPS))) | {name: value}
    with pytest.raises(InputError, match=rf"features\.{name}"):
        read_keyed_features(section)
    del section[name]
    with pytest.raises(InputError, match=rf"features\.{name} is (missing|None)"):
        read_keyed_features(section)


def test_a_model_for_features_of_another_size_is_refused(tmp_path: Path) -> None:
    network = make_network(encoder="frozen", inputs=(1, 99))
    save_checkpoint(tmp_path / "a.safetensors", network, network.state_dict(), TASK, EGEMAPS, "repeat", {})
    with pytest.raises(InputError) as caught:
        load_checkpoint(tmp_path / "a.safetensors")
    assert str(caught.value) == (
        f"{tmp_path / 'a.safetensors'} has a network for features of 1 x 99 numbers, but was trained on "
        f"functionals {EGEMAPS.key} (1 x 88)."
    )


@pytest.mark.parametrize("fusion", ["none", "conditioning"])
def test_a_run_gives_the_embeddings_of_its_network(fusion: str) -> None:
    checkpoint = trained(fusion=fusion, **({"enrolment": "cnn5"} if fusion != "none" else {}))
    encoder = RunEncoder(checkpoint, "cpu", "the run")
    log_mels = [log_mel(torch.from_numpy(clip), FeatureConfig()).numpy() for clip in waveforms()]
    nobody = [np.empty(0, np.int64)] * 3
    expected = embed_clips(checkpoint.network, as_clips(log_mels, checkpoint), "cpu", "main", nobody)
    states = encoder.states(waveforms())
    assert all(encoder.features.fits(state) for state in states)
    np.testing.assert_allclose(np.concatenate(states), expected, atol=1e-6)
    assert encoder.states([]) == []


def test_the_key_of_a_run_is_that_of_its_weights() -> None:
    first, again, other = (RunEncoder(trained(seed), "cpu", "a run").features for seed in (0, 0, 1))
    filled = RunEncoder(replace(trained(), fill="zero"), "cpu", "a run").features
    assert first == again
    assert len({first.key, other.key, filled.key}) == 3


def test_a_run_on_other_features_gives_none() -> None:
    with pytest.raises(InputError, match="a run was trained on functionals; only runs on log-mel"):
        RunEncoder(replace(trained(), features=EGEMAPS), "cpu", "a run")


def test_a_model_carries_its_encoder_and_refuses_another(tmp_path: Path) -> None:
    encoder = RunEncoder(trained(), "cpu", "the run")
    model = replace(trained(2), features=encoder.features)
    weights, kept = tmp_path / "runs" / "a" / "best.safetensors", tmp_path / "kept"
    for _ in range(2):  # as when a training goes on
        carry(encoder, kept, weights)
    folder = weights.parent / ENCODER
    assert [path.stat().st_nlink for path in folder.iterdir()] == [2]
    loaded = with_encoder(model, folder, "cpu")
    for clip in waveforms():
        np.testing.assert_allclose(features_of(clip, loaded), encoder.states([clip])[0], atol=1e-6)
    with pytest.raises(InputError, match="which was not loaded with it"):
        features_of(waveforms()[0], model)
    with pytest.raises(InputError, match="takes the embeddings of an encoder, which is not there"):
        with_encoder(model, tmp_path / "nowhere", "cpu")
    other = replace(model, features=RunEncoder(trained(1), "cpu", "another").features)
    with pytest.raises(InputError, match=r"gives embeddings \w+ .* and the model takes embeddings \w+"):
        with_encoder(other, folder, "cpu")
    assert with_encoder(trained(), tmp_path / "nowhere", "cpu").encoder is None
