"""Where an audio encoder comes from, a folder or the hub of Hugging Face, and what it must hold to be loaded.

Weights are read from safetensors alone, and no code of a repository is run: each type of encoder has its class in
transformers, and no other is loaded.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch

from exvo.errors import InputError
from exvo.extras import require
from exvo.files import expand
from exvo.text import LONGEST_NAME, listing, printable, reason

CONFIG, PREPROCESSING, WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"  # where the weights are divided into several files
DOWNLOADED = (CONFIG, PREPROCESSING, "processor_config.json", WEIGHTS, INDEX, "model-*-of-*.safetensors")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
NAME = re.compile(r"(?P<name>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w.][\w./-]*))?")


class Family(NamedTuple):
    """The classes of transformers that belong to a type of encoder."""

    model: str
    extractor: str  # what prepares the waveform


FAMILIES = {
    "wavlm": Family("WavLMModel", "Wav2Vec2FeatureExtractor"),
    "hubert": Family("HubertModel", "Wav2Vec2FeatureExtractor"),
    "wav2vec2": Family("Wav2Vec2Model", "Wav2Vec2FeatureExtractor"),
    "data2vec-audio": Family("Data2VecAudioModel", "Wav2Vec2FeatureExtractor"),
    "wav2vec2-bert": Family("Wav2Vec2BertModel", "SeamlessM4TFeatureExtractor"),
    "whisper": Family("models.whisper.modeling_whisper.WhisperEncoder", "WhisperFeatureExtractor"),
    "audio-spectrogram-transformer": Family("ASTModel", "ASTFeatureExtractor"),
}
"""By `model_type` of config.json."""

_WHISPER_NAMES = {r"^(model\.)?encoder\.": ""}  # of the encoder's weights in a whole Whisper -> in the encoder

_SETTINGS = (
    "activation_function",
    "conv_depthwise_kernel_size",
    "conv_pos_batch_norm",
    "conv_stride",
    "do_stable_layer_norm",
    "encoder_attention_heads",
    "feat_extract_activation",
    "feat_extract_norm",
    "feat_proj_layer_norm",
    "frequency_stride",
    "hidden_act",
    "layer_norm_eps",
    "left_max_position_embeddings",
    "max_bucket_distance",
    "model_type",
    "num_attention_heads",
    "position_embeddings_type",
    "right_max_position_embeddings",
    "rotary_embedding_base",
    "scale_embedding",
    "time_stride",
)
"""Settings of config.json that change an encoder's numbers though its weights, and their shapes, are the same."""

_NAMES = ("feature_extractor_type", "processor_class")  # in preprocessor_config.json: they change no number


class Loaded(NamedTuple):
    """An encoder's parts, on the CPU, in float32."""

    model: Any  # of the family's class, in evaluation mode
    extractor: Any
    kind: str  # `model_type`


def folder_of(source: str) -> Path:
    """The folder with an encoder's files: the one that is named, or that into which the hub's client has put them.

    Args:
        source: a folder, or a name on the hub, `<owner>/<name>[@<revision>]`.

    Raises:
        InputError: it is neither, or the hub can't give it.
    """
    folder = Path(expand(source))
    if folder.is_dir():
        return folder
    shown = printable(source, LONGEST_NAME)
    match = NAME.fullmatch(source)
    if not match:
        raise InputError(
            f"features={shown} is neither a folder nor a name on the hub of Hugging Face "
            "(<owner>/<name>[@<revision>]); correct it."
        )
    name, revision = match["name"], match["revision"]
    hub = require("huggingface_hub", "encoders", f"features={shown}")
    try:
        return Path(hub.snapshot_download(name, revision=revision, allow_patterns=list(DOWNLOADED)))
    except Exception as error:  # each part of the client's transport has errors of its own
        command = f"hf download {name}{f' --revision {revision}' if revision else ''} --local-dir <folder>"
        raise InputError(
            f"features={shown}: there is no such folder, and the hub of Hugging Face doesn't give it "
            f"({_hub_problem(error)}); correct the name or, where the hub is out of reach, run `{command}` on a "
            "machine that reaches it and give the folder."
        ) from None


def _hub_problem(error: Exception) -> str:
    """Why the hub does not give a repository."""
    known = {
        "RepositoryNotFoundError": "it has no such repository, or only for those who are logged in (hf auth login)",
        "GatedRepoError": "its owner's terms must be accepted on its page, then log in (hf auth login)",
        "RevisionNotFoundError": "the repository has no such revision",
        "LocalEntryNotFoundError": "it is out of reach, and the files were never downloaded to this machine",
    }
    return known.get(type(error).__name__) or reason(error)


def load(folder: Path) -> Loaded:
    """Loads an encoder's weights and preprocessing.

    Raises:
        InputError: the folder holds no audio encoder, lacks a file, holds pickles only or damaged weights, or its
            weights don't fit its settings.
    """
    transformers = require("transformers", "encoders", f"features={folder}")
    kind = str(_json(folder, CONFIG).get("model_type", "nothing that is named"))
    if kind not in FAMILIES:
        raise InputError(
            f"{folder} holds no audio encoder that exvo knows: the model_type of its {CONFIG} is {printable(kind)}; "
            f"known are {', '.join(FAMILIES)}."
        )
    extractor = _extractor(transformers, folder, FAMILIES[kind].extractor)
    _check_weights(folder)
    return Loaded(_model(transformers, folder, kind), extractor, kind)


def _json(folder: Path, name: str) -> dict[str, Any]:
    """The content of a JSON file.

    Raises:
        InputError: it is missing, or holds no JSON object.
    """
    try:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{folder / name} can't be read ({error.strerror}); an encoder's folder holds {CONFIG}, {PREPROCESSING} "
            f"and {WEIGHTS}: copy the missing file from where the encoder comes from."
        ) from None
    except ValueError as error:
        raise InputError(f"{folder / name} is damaged ({reason(error)}); copy it again.") from None
    if not isinstance(content, dict):
        raise InputError(f"{folder / name} holds no JSON object; copy it again.")
    return content


def _extractor(transformers: ModuleType, folder: Path, expected: str) -> Any:
    """What prepares a waveform for the encoder.

    Raises:
        InputError: its file is missing, is of another kind of encoder, or wants another sampling rate.
    """
    processor = folder / "processor_config.json"  # of transformers 5, with the preprocessing in it
    if (folder / PREPROCESSING).exists() or not processor.exists():
        path, settings = folder / PREPROCESSING, _json(folder, PREPROCESSING)
    else:
        path, settings = processor, _json(folder, processor.name).get("feature_extractor") or {}
    found = settings.get("feature_extractor_type", expected)
    if found != expected:
        raise InputError(f"{path} is of a {printable(str(found))}, but this encoder needs a {expected}; take its own.")
    try:
        extractor = getattr(transformers, expected)(**{k: v for k, v in settings.items() if k not in _NAMES})
    except Exception as error:  # settings of others fail in any way
        raise InputError(f"{path} can't be used ({reason(error)}); copy it again.") from None
    if extractor.sampling_rate != 16_000:
        raise InputError(
            f"{path} wants audio at {extractor.sampling_rate} Hz, but exvo gives encoders 16000 Hz; take another "
            "encoder."
        )
    return extractor


def _check_weights(folder: Path) -> None:
    """Refuses a folder without whole safetensors.

    Raises:
        InputError: they are missing (maybe there are pickles instead), truncated or damaged.
    """
    safetensors = require("safetensors", "encoders", f"features={folder}")
    indexed = (folder / INDEX).exists() and not (folder / WEIGHTS).exists()
    names = sorted(set(_json(folder, INDEX).get("weight_map", {}).values())) if indexed else [WEIGHTS]
    for name in map(str, names):
        path = folder / name
        if not path.is_file():
            pickles = [other.name for other in sorted(folder.iterdir()) if other.suffix in PICKLES]
            instead = f"only {listing(pickles)}, which may run code when they are read" if pickles else "no weights"
            raise InputError(
                f"{folder} lacks {printable(name)}: it holds {instead}; exvo reads safetensors alone: take a revision "
                "that has them (<owner>/<name>@<revision>), or see 'Pickles' in docs/how-to/encoders.md."
            )
        try:
            with safetensors.safe_open(path, "pt") as file:
                file.keys()
        except (OSError, safetensors.SafetensorError) as error:
            raise InputError(f"{path} is truncated or damaged ({reason(error)}); copy it again.") from None


def _model(transformers: ModuleType, folder: Path, kind: str) -> Any:
    """The encoder with its weights, without the heads and the decoder that may lie beside them.

    Raises:
        InputError: its settings can't be used, or don't fit its weights.
    """
    model_class = attrgetter(FAMILIES[kind].model)(transformers)
    misfit = f"{folder}: {CONFIG} does not fit the weights"
    advice = "copy both from the same place"
    try:
        with _quiet(transformers):
            config = model_class.config_class.from_pretrained(folder, local_files_only=True)
            config.mask_time_prob = config.mask_feature_prob = 0.0  # which would add a vector for training alone
            config.add_adapter = False  # which comes after the last hidden state
            model, found = model_class.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                key_mapping=_WHISPER_NAMES if kind == "whisper" else None,
            )
    except Exception as error:  # settings of others fail in any way
        raise InputError(f"{misfit} ({reason(error)}); {advice}.") from None
    if absent := sorted(found["missing_keys"]):
        raise InputError(f"{misfit}, which lack {listing(absent, 3)}; {advice}.")
    own = {name for name, _ in model.named_children()} | {"encoder"}
    prefix = r"(model\.)?(encoder\.)?" if kind == "whisper" else rf"({model.base_model_prefix}\.)?"
    beyond = sorted(name for name in found["unexpected_keys"] if re.sub(f"^{prefix}", "", name).split(".")[0] in own)
    if beyond:
        raise InputError(f"{misfit}, which hold {listing(beyond, 3)} besides; {advice}.")
    return model.eval().requires_grad_(False)


@contextmanager
def _quiet(transformers: ModuleType) -> Iterator[None]:
    """Without transformers' progress bars and its reports of weights of heads, which are left out on purpose."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def digest(loaded: Loaded, pooling: int) -> str:
    """SHA-256 of all that an encoder's numbers depend on: weights, settings, preprocessing, and our pooling's version.

    Settings of the preprocessing count where they differ from what transformers takes by default, so that a setting
    that a later version adds changes nothing.
    """
    model, extractor, _ = loaded
    standard = type(extractor)().to_dict()
    given = {
        name: value for name, value in extractor.to_dict().items() if name not in _NAMES and value != standard.get(name)
    }
    settings = {name: getattr(model.config, name, None) for name in _SETTINGS}
    sha = hashlib.sha256(json.dumps([pooling, settings, given], sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha.update(tensor.cpu().contiguous().numpy().data)
    return sha.hexdigest()
