"""Audio encoders of Hugging Face: their pooled states, alone and in batches, saved and loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

from exvo.features.containers import AudioError
from exvo.features.encoders import AudioEncoder, load_encoder

from helpers.commands import ROOT
from helpers.encoders import KINDS, save_encoder

hf.utils.logging.set_verbosity_error()
hf.utils.logging.disable_progress_bar()

every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], AudioEncoder]:
    """Makes a small encoder of a kind, saves it and loads it, once each."""
    made: dict[str, AudioEncoder] = {}

    def make(kind: str) -> AudioEncoder:
        if kind not in made:
            folder = save_encoder(kind, tmp_path_factory.mktemp("encoders") / kind)
            made[kind] = load_encoder(str(folder), "cpu")
        return made[kind]

    return make


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)


CLIPS = [noise(samples, seed) for seed, samples in enumerate((16_000, 5_000, 16_001, 9_000, 30_000, 400))]


def by_hand(folder: str, clip: np.ndarray) -> np.ndarray:
    """The states of a clip by transformers' own way for one clip, pooled by NumPy: (layers, numbers)."""
    config = hf.AutoConfig.from_pretrained(folder)
    model = hf.AutoModel.from_pretrained(folder).eval()
    extractor = hf.AutoFeatureExtractor.from_pretrained(folder)
    inputs = extractor(clip, sampling_rate=16_000, return_tensors="pt")
    if config.model_type == "whisper":
        model = model.get_encoder()
        inputs = {"input_features": inputs["input_features"]}
    with torch.no_grad():
        hidden = torch.stack(model(**inputs, output_hidden_states=True).hidden_states)[:, 0].numpy()
    if config.model_type == "wav2vec2-bert":
        hidden = hidden[:, inputs["attention_mask"][0].bool().numpy()]
    if config.model_type == "whisper":
        hidden = hidden[:, : -(-len(clip) // 320)]
    if config.model_type == "audio-spectrogram-transformer":
        frames = 1 + (len(clip) - 400) // 160
        grid = hidden[:, 2:].reshape(len(hidden), 12, 101, -1)
        hidden = grid[:, :, [time for time in range(101) if 10 * time < frames]].reshape(
            len(hidden), -1, grid.shape[-1]
        )
    return np.concatenate([hidden.mean(axis=1), hidden.std(axis=1)], axis=1)


@every_kind
def test_states_are_those_of_transformers_pooled_by_hand(kind: str, encoder: Callable[[str], AudioEncoder]) -> None:
    one = encoder(kind)
    for clip in CLIPS[:2]:
        expected = by_hand(one.source, clip)
        assert expected.shape == one.features.shape == (4, 32)
        np.testing.assert_allclose(one.pooled([clip])[0], expected, atol=1e-5)
        (states,) = one.states([clip])
        assert isinstance(states, np.ndarray)
        assert one.features.fits(states)
        np.testing.assert_allclose(states, expected, atol=2e-3)


@every_kind
def test_a_clip_alone_equals_the_clip_in_every_batch(
    kind: str, encoder: Callable[[str], AudioEncoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = encoder(kind)
    clips = [clip for clip in CLIPS if len(clip) >= one._shortest]
    alone = [one.pooled([clip])[0] for clip in clips]
    sizes = []

    def pooled(batch: list[np.ndarray]) -> list[np.ndarray]:
        sizes.append(len(batch))
        found = AudioEncoder.pooled(one, batch)
        for clip, states in zip(batch, found, strict=True):
            (place,) = [at for at, other in enumerate(clips) if np.array_equal(clip, other)]
            np.testing.assert_allclose(states, alone[place], atol=1e-4)
        return found

    monkeypatch.setattr(one, "pooled", pooled)
    for chosen in (clips, clips[::-1], clips[1:3]):
        states = one.states(chosen)
        assert all(isinstance(each, np.ndarray) for each in states)
        for clip, each in zip(chosen, states, strict=True):
            (place,) = [at for at, other in enumerate(clips) if clip is other]
            np.testing.assert_allclose(each, alone[place], atol=2e-3)  # in the order given, rounded to float16
    assert max(sizes) > 1


def test_short_clips_are_repeated_and_too_long_ones_have_a_problem(encoder: Callable[[str], AudioEncoder]) -> None:
    short = noise(257)
    for kind, fewest in (("wavlm", 400), ("wav2vec2-bert", 560), ("audio-spectrogram-transformer", 400)):
        one = encoder(kind)
        expected = by_hand(one.source, np.tile(short, 3)[:fewest])
        np.testing.assert_allclose(one.states([short])[0], expected, atol=2e-3)
    for kind, most in (("whisper", 480_000), ("audio-spectrogram-transformer", 164_080)):
        one = encoder(kind)
        fits, longer = one.states([noise(most), noise(most + 1)])
        assert isinstance(fits, np.ndarray)
        assert isinstance(longer, AudioError)
        assert longer.problem == f"longer than the {most / 16_000:.1f} s that {kind} takes"


def test_states_that_float16_does_not_hold_are_a_problem_of_their_clip(
    encoder: Callable[[str], AudioEncoder], tmp_path: Path
) -> None:
    folder = tmp_path / "loud"
    encoder("wav2vec2-large").save(folder)
    weights = load_file(folder / "model.safetensors")
    weights["encoder.layers.2.feed_forward.output_dense.bias"][0] = 1e6
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    one = load_encoder(str(folder), "cpu")
    assert one.key != encoder("wav2vec2-large").key
    (problem,) = one.states([CLIPS[0]])
    assert isinstance(problem, AudioError)
    assert problem.problem == "its states in the encoder reach 1e+06, more than float16 holds"


@every_kind
def test_what_is_saved_is_the_same_encoder_without_heads(
    kind: str, encoder: Callable[[str], AudioEncoder], tmp_path: Path
) -> None:
    one = encoder(kind)
    one.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    names = load_file(tmp_path / "model.safetensors")
    assert not any(word in name for name in names for word in ("head", "decoder", "classifier", "quantizer", "adapter"))
    again = load_encoder(str(tmp_path), "cpu")
    assert again.key == one.key
    assert again.features == one.features
    np.testing.assert_array_equal(again.states(CLIPS[:1])[0], one.states(CLIPS[:1])[0])
    assert str(tmp_path.parent) not in (tmp_path / "config.json").read_text(encoding="utf-8")


def test_the_key_changes_with_weights_settings_and_preprocessing_only(
    encoder: Callable[[str], AudioEncoder], tmp_path: Path
) -> None:
    def key(file: str, name: str, value: object) -> str:
        encoder("hubert").save(tmp_path)
        content = json.loads((tmp_path / file).read_text(encoding="utf-8"))
        (tmp_path / file).write_text(json.dumps(content | {name: value}), encoding="utf-8")
        return load_encoder(str(tmp_path), "cpu").key

    same = encoder("hubert").key
    assert len(same) == 64
    assert key("config.json", "vocab_size", 99) == same
    assert key("config.json", "transformers_version", "9") == same
    assert key("config.json", "num_attention_heads", 4) != same
    assert key("config.json", "layer_norm_eps", 0.1) != same
    assert key("preprocessor_config.json", "processor_class", "Wav2Vec2Processor") == same
    assert key("preprocessor_config.json", "do_normalize", True) != same


OFFLINE = """
import sys
import numpy as np
from exvo.errors import InputError
from exvo.features.encoders import load_encoder
one = load_encoder(sys.argv[1], "cpu")
np.save(sys.argv[2], one.states([np.load(sys.argv[3])])[0])
print(one.key)
try:
    load_encoder("microsoft/wavlm-base@refs/pr/1", "cpu")
except InputError as error:
    print(error)
"""


def test_a_folder_needs_no_network_and_a_name_says_how_to_do_without(
    encoder: Callable[[str], AudioEncoder], tmp_path: Path
) -> None:
    one = encoder("wavlm")
    one.save(tmp_path / "wavlm")
    np.save(tmp_path / "clip.npy", CLIPS[0])
    nowhere = dict.fromkeys(("HF_ENDPOINT", "http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
    places = [str(tmp_path / name) for name in ("wavlm", "states.npy", "clip.npy")]
    command = [sys.executable, "-W", "error", "-c", OFFLINE, *places]
    environment = os.environ | nowhere | {"HF_HOME": str(tmp_path / "hub")}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    key, sentence = done.stdout.splitlines()
    assert key == one.key
    np.testing.assert_allclose(np.load(tmp_path / "states.npy"), one.states(CLIPS[:1])[0], atol=2e-3)
    assert done.stderr == ""
    assert sentence == (
        "features=microsoft/wavlm-base@refs/pr/1: there is no such folder, and the hub of Hugging Face doesn't give it "
        "(it is out of reach, and the files were never downloaded to this machine); correct the name or, where the hub "
        "is out of reach, run `hf download microsoft/wavlm-base --revision refs/pr/1 --local-dir <folder>` on a "
        "machine that reaches it and give the folder."
    )
