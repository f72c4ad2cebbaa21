"""What an encoder's folder lacks or holds too much of, and what the hub does not give, each in a sentence."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import torch
import transformers as hf
from huggingface_hub.errors import RepositoryNotFoundError
from safetensors.torch import load_file, save_file

from exvo.errors import InputError
from exvo.features.encoders import load_encoder

from helpers.encoders import save_encoder


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Saves a small encoder of a kind, once."""
    folder = tmp_path_factory.mktemp("saved")

    def save(kind: str) -> Path:
        return folder / kind if (folder / kind).exists() else save_encoder(kind, folder / kind)

    return save


@pytest.fixture
def folder(saved: Callable[[str], Path], tmp_path: Path) -> Path:
    """An encoder's folder that the test may spoil."""
    return Path(shutil.copytree(saved("wavlm"), tmp_path / "spoilt"))


def refusal(source: object) -> str:
    with pytest.raises(InputError) as caught:
        load_encoder(str(source), "cpu")
    return str(caught.value)


def change(path: Path, **settings: object) -> None:
    """Gives a JSON file other settings; None removes one."""
    content = json.loads(path.read_text(encoding="utf-8")) | settings
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}), encoding="utf-8")


def test_what_is_no_audio_encoder(folder: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    hf.BertModel(hf.BertConfig(**sizes, vocab_size=10)).save_pretrained(folder)
    known = "wavlm, hubert, wav2vec2, data2vec-audio, wav2vec2-bert, whisper, audio-spectrogram-transformer"
    assert refusal(folder) == (
        f"{folder} holds no audio encoder that exvo knows: the model_type of its config.json is bert; known are "
        f"{known}."
    )
    change(folder / "config.json", model_type=None)
    assert "config.json is nothing that is named;" in refusal(folder)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_missing_and_damaged_settings(name: str, folder: Path) -> None:
    (folder / name).write_text("[1]", encoding="utf-8")
    assert refusal(folder) == f"{folder / name} holds no JSON object; copy it again."
    (folder / name).write_text('{"a', encoding="utf-8")
    assert refusal(folder).startswith(f"{folder / name} is damaged (")
    (folder / name).unlink()
    assert refusal(folder) == (
        f"{folder / name} can't be read (No such file or directory); an encoder's folder holds config.json, "
        "preprocessor_config.json and model.safetensors: copy the missing file from where the encoder comes from."
    )


def test_the_preprocessing_of_another_encoder(folder: Path, saved: Callable[[str], Path], tmp_path: Path) -> None:
    path = folder / "preprocessor_config.json"
    change(path, sampling_rate=24_000)
    assert refusal(folder) == (
        f"{path} wants audio at 24000 Hz, but exvo gives encoders 16000 Hz; take another encoder."
    )
    shutil.copy(saved("whisper") / path.name, path)
    assert refusal(folder) == (
        f"{path} is of a WhisperFeatureExtractor, but this encoder needs a Wav2Vec2FeatureExtractor; take its own."
    )
    whisper = Path(shutil.copytree(saved("whisper"), tmp_path / "whisper"))
    change(whisper / path.name, feature_size=128)
    assert refusal(whisper).startswith(f"{whisper}: preprocessor_config.json does not fit the encoder (")


def test_the_preprocessing_may_lie_in_the_file_of_a_processor(folder: Path) -> None:
    expected = load_encoder(str(folder), "cpu").key
    settings = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    processor = {"feature_extractor": settings, "processor_class": "Wav2Vec2Processor"}
    (folder / "processor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    (folder / "preprocessor_config.json").unlink()
    assert load_encoder(str(folder), "cpu").key == expected


def test_pickles_are_not_read(folder: Path) -> None:
    weights = folder / "model.safetensors"
    torch.save(load_file(weights), folder / "pytorch_model.bin")
    weights.unlink()
    advice = (
        "exvo reads safetensors alone: take a revision that has them (<owner>/<name>@<revision>), or see 'Pickles' in "
        "docs/how-to/encoders.md."
    )
    assert refusal(folder) == (
        f"{folder} lacks model.safetensors: it holds only pytorch_model.bin, which may run code when they are read; "
        f"{advice}"
    )
    (folder / "pytorch_model.bin").unlink()
    assert refusal(folder) == f"{folder} lacks model.safetensors: it holds no weights; {advice}"


def test_damaged_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    for damaged in (content[:-1], content[:100], b"", b"\xff" * 200):
        weights.write_bytes(damaged)
        assert refusal(folder).startswith(f"{weights} is truncated or damaged (")


def test_weights_in_several_files(saved: Callable[[str], Path], folder: Path) -> None:
    expected = load_encoder(str(folder), "cpu").key
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    parts = {"model-00001-of-00002.safetensors": names[:10], "model-00002-of-00002.safetensors": names[10:]}
    for file, part in parts.items():
        save_file({name: weights[name] for name in part}, folder / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, part in parts.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert load_encoder(str(folder), "cpu").key == expected
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert "lacks model-00002-of-00002.safetensors: it holds no weights" in refusal(folder)


@pytest.mark.parametrize("kind", ["wavlm", "whisper", "audio-spectrogram-transformer"])
def test_settings_that_do_not_fit_the_weights(kind: str, saved: Callable[[str], Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved(kind), tmp_path / kind))
    misfit = f"{folder}: config.json does not fit the weights"
    layers, size = ("encoder_layers", "d_model") if kind == "whisper" else ("num_hidden_layers", "hidden_size")
    change(folder / "config.json", **{layers: 2})
    assert refusal(folder).startswith(f"{misfit}, which hold ")
    change(folder / "config.json", **{layers: 4})
    assert refusal(folder).startswith(f"{misfit}, which lack ")
    change(folder / "config.json", **{layers: 3, size: 32})
    assert refusal(folder).startswith(f"{misfit} (")
    change(folder / "config.json", **{size: "wide"})
    assert refusal(folder).startswith(f"{misfit} (")


def test_a_missing_weight_of_the_encoder_is_not_made_up(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["wavlm.encoder.layers.1.layer_norm.weight"], weights["lm_head.bias"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert refusal(folder) == (
        f"{folder}: config.json does not fit the weights, which lack encoder.layers.1.layer_norm.weight; copy both "
        "from the same place."
    )


def test_a_name_on_the_hub_with_a_revision(
    saved: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []

    def snapshot(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision))
        assert not any(pattern.endswith((".bin", ".py", ".h5", "*")) for pattern in allow_patterns)
        return str(saved("wav2vec2"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    by_name = load_encoder("alkiskoudounas/voc2vec@refs/pr/1", "cpu")
    assert by_name.source == "alkiskoudounas/voc2vec@refs/pr/1"
    assert by_name.key == load_encoder(str(saved("wav2vec2")), "cpu").key
    load_encoder("microsoft/wavlm-base", "cpu")
    assert asked == [("alkiskoudounas/voc2vec", "refs/pr/1"), ("microsoft/wavlm-base", None)]

    def absent(*_: object, **__: object) -> str:
        raise RepositoryNotFoundError.__new__(RepositoryNotFoundError, "404")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", absent)
    assert "(it has no such repository, or only for those who are logged in (hf auth login))" in refusal("some/one")


@pytest.mark.parametrize("source", ["wavlm", "a/b/c", "a b/c", "@main", "a/b@", "../x", "/nowhere/at/all"])
def test_what_is_neither_a_folder_nor_a_name(source: str) -> None:
    assert refusal(source) == (
        f"features={source} is neither a folder nor a name on the hub of Hugging Face (<owner>/<name>[@<revision>]); "
        "correct it."
    )


def test_without_transformers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert refusal(folder).startswith(f"features={folder} needs transformers, which ")
    assert 'pip install "exvo[encoders]"' in refusal(folder)
