"""Published weights of the PANNs (Kong et al., arXiv 1912.10211). Files are pickles; nothing in one is executed."""

from __future__ import annotations

import mmap
import pickletools
import zipfile
from collections.abc import Generator
from contextlib import closing
from encodings import aliases, normalize_encoding
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from exvo.errors import InputError
from exvo.networks.cnn import PANN
from exvo.text import printable, reason

PANNS_URL = "https://zenodo.org/records/3987831"

LEFT_OVER = {
    "spectrogram_extractor.stft.conv_real.weight",
    "spectrogram_extractor.stft.conv_imag.weight",
    "logmel_extractor.melW",
    "fc_audioset.weight",
    "fc_audioset.bias",
}
"""In the files, but not in our encoders: the waveform front end and AudioSet's output layer."""

WEIGHT_NAMES = {
    "collections OrderedDict",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor_v2",
    "torch FloatStorage",
    "torch LongStorage",
}
"""What a file may name for its weights. PyTorch itself allows more, which could reserve any amount of memory."""

SAMPLER_NAMES = {
    "numpy.core.multiarray _reconstruct",
    "numpy._core.multiarray _reconstruct",
    "numpy ndarray",
    "numpy dtype",
}
"""What the published files name besides, for the state of their sampler: read as `Ignored`."""

ENCODE = "_codecs encode"
"""Turns text into bytes, in the state of the sampler too; PyTorch allows it by itself."""

BYTES_TO_BYTES = {"base64", "bz2", "hex", "quopri", "uu", "zlib"}
"""Encodings from bytes to bytes: repeated, they would let a short file ask for any number of bytes."""


class Refused(ValueError):
    """A file holds something that has no place among weights; the message says what."""


class Ignored:
    """Stands for whatever a file holds beside weights."""

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def load_panns(encoder: PANN, path: Path) -> None:
    """Starts a CNN14 or CNN10 of width 1 from a file of PANNs weights, by name.

    All of the encoder's weights come from the file. Nothing in the file is executed: a short list says what it may
    name, and PyTorch reads it with `weights_only`.

    Raises:
        InputError: the file is absent, is no file of weights, or its keys or shapes are not those of this network.
    """
    if not path.is_file():
        raise InputError(
            f"init={path} is not a file; download Cnn14_16k_mAP=0.438.pth from {PANNS_URL} and give its path as init."
        )
    weights = read_weights(path)
    wanted = encoder.state_dict()
    missing, extra = sorted(set(wanted) - set(weights)), sorted(map(str, set(weights) - set(wanted) - LEFT_OVER))
    if missing or extra:
        raise InputError(
            f"init={path} holds other weights than this network's: it lacks {len(missing)} of {len(wanted)} "
            f"({', '.join(missing[:3]) or '-'}) and has {len(extra)} unknown ones "
            f"({', '.join(printable(name) for name in extra[:3]) or '-'})."
        )
    for key in sorted(wanted):
        weight, shape = weights[key], tuple(wanted[key].shape)
        if not isinstance(weight, Tensor) or weight.layout is not torch.strided:
            raise InputError(f"init={path}: {key} is no plain tensor; give a file of PANNs weights.")
        if tuple(weight.shape) != shape:
            raise InputError(
                f"init={path}: {key} is {tuple(weight.shape)}, this network needs {shape}; PANNs weights need width=1."
            )
    encoder.load_state_dict({key: weights[key] for key in wanted})


def read_weights(path: Path) -> dict[Any, Any]:
    """The values of a file of weights by name, tensors on the CPU.

    Raises:
        InputError: the file can't be read, or names something that has no place among weights.
    """
    allowed: list[Any] = [(Ignored, name.replace(" ", ".")) for name in SAMPLER_NAMES]
    try:
        path.open("rb").close()
    except OSError as error:
        raise InputError(f"init={path} is not readable ({error.strerror}); look at its permissions.") from None
    try:
        check_names(path)
        with torch.serialization.safe_globals([*allowed, Ignored]):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a file of unknown content makes the unpickler raise
        cut = str(error).startswith("expected ")  # ... bytes, but only so many remain
        why = f" ({reason(error)})" if cut or isinstance(error, Refused) else ""
        raise InputError(
            f"init={path} can't be read as a file of weights: it is no file of PANNs weights, or a damaged one{why}; "
            f"download one from {PANNS_URL}."
        ) from None
    weights = loaded.get("model", loaded) if isinstance(loaded, dict) else {}
    if not isinstance(weights, dict) or not any(isinstance(value, Tensor) for value in weights.values()):
        raise InputError(f"init={path} is no file of PANNs weights: it holds none; download one from {PANNS_URL}.")
    return weights


def check_names(path: Path) -> None:
    """Reads the pickles of a file without executing them, and refuses what has no place among weights.

    Raises:
        Refused: they name something other than weights and the state of a sampler.
    """
    if not path.stat().st_size:
        raise Refused("an empty file")
    texts, names = set(), set()
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        closing(zipped_pickle(path) if zipfile.is_zipfile(path) else old_pickles(content)) as operations,
    ):
        for operation, argument in operations:
            if operation == "GLOBAL":
                names.add(argument)
            elif operation in ("STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4"):
                raise Refused(f"its pickle uses {operation}")
            elif isinstance(argument, str):
                texts.add(argument)
    unknown = sorted(names - WEIGHT_NAMES - SAMPLER_NAMES - {ENCODE})
    if unknown:
        raise Refused(f"it names {printable(unknown[0], 100)}, which is no weights")
    if ENCODE in names and any(standard_encoding(text) in BYTES_TO_BYTES for text in texts):
        raise Refused("it encodes bytes again and again")


def standard_encoding(text: str) -> str:
    """The standard name of an encoding."""
    name = normalize_encoding(text[:50]).lower() if text.isascii() else text
    return aliases.aliases.get(name, name).removesuffix("_codec")


def zipped_pickle(path: Path) -> Generator[tuple[str, Any]]:
    """The operations, with their arguments, of the pickle in a file of today's format.

    Raises:
        Refused: parts of the file are compressed, which PyTorch never does.
    """
    with zipfile.ZipFile(path) as archive:
        if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
            raise Refused("it is compressed")
        for name in archive.namelist():
            if name.endswith("data.pkl"):
                with archive.open(name) as file:
                    yield from ((operation.name, argument) for operation, argument, _ in pickletools.genops(file))


def old_pickles(content: mmap.mmap) -> Generator[tuple[str, Any]]:
    """The operations, with their arguments, of the pickles in a file of the format before PyTorch 1.6.

    There are five: a magic number, a version, the system, the weights, their keys.
    """
    for _ in range(5):  # a mapped file reads what there is, whatever length a pickle gives
        yield from ((operation.name, argument) for operation, argument, _ in pickletools.genops(content))  # type: ignore[arg-type]
