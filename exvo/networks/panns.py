"""Published weights: the PANNs (Kong et al., arXiv 1912.10211), whose files are pickles. Nothing in one is executed."""

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

WEIGHTS = {
    "collections OrderedDict",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor_v2",
    "torch FloatStorage",
    "torch LongStorage",
}
"""What a file may name for its weights; of more that torch takes by itself, some reserve as much memory as is asked."""

SAMPLER = {
    "numpy.core.multiarray _reconstruct",
    "numpy._core.multiarray _reconstruct",
    "numpy ndarray",
    "numpy dtype",
}
"""What the published files name beside weights, for the state of their sampler: read as `Ignored`."""

ENCODE = "_codecs encode"
"""Which makes text to bytes, in the state of the sampler too; torch has it by itself."""

BYTES_TO_BYTES = {"base64", "bz2", "hex", "quopri", "uu", "zlib"}
"""Encodings whose output can be their input again, so that a short file could ask for bytes without end."""


class Refused(ValueError):
    """What a file holds, in words, that has no place among weights."""


class Ignored:
    """Stands for whatever a file holds beside weights."""

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def load_panns(encoder: PANN, path: Path) -> None:
    """Starts a CNN14 or CNN10 of width 1 from a file of PANNs weights, by name.

    All of the encoder's weights come from the file. Nothing in the file is executed: torch's `weights_only`, and before
    it a short list of what the file may name.

    Raises:
        InputError: the file is absent, is no file of weights, or its keys or shapes are not those of this network.
    """
    if not path.is_file():
        raise InputError(
            f"init={path} is not a file; download Cnn14_16k_mAP=0.438.pth from {PANNS_URL} and give its path as init."
        )
    given = read_weights(path)
    own = encoder.state_dict()
    missing, extra = sorted(set(own) - set(given)), sorted(map(str, set(given) - set(own) - LEFT_OVER))
    if missing or extra:
        raise InputError(
            f"init={path} holds other weights than this network's: it lacks {len(missing)} of {len(own)} "
            f"({', '.join(missing[:3]) or '-'}) and has {len(extra)} unknown ones "
            f"({', '.join(printable(name) for name in extra[:3]) or '-'})."
        )
    for key in sorted(own):
        if not isinstance(given[key], Tensor) or given[key].layout is not torch.strided:
            raise InputError(f"init={path}: {key} is no plain tensor; give a file of PANNs weights.")
        if given[key].shape != own[key].shape:
            found, needed = tuple(given[key].shape), tuple(own[key].shape)
            raise InputError(f"init={path}: {key} is {found}, this network needs {needed}; PANNs weights need width=1.")
    encoder.load_state_dict({key: given[key] for key in own})


def read_weights(path: Path) -> dict[Any, Any]:
    """What a file of weights holds by name, tensors on the CPU.

    Raises:
        InputError: it can't be read, or names what has no place in one.
    """
    allowed: list[Any] = [(Ignored, name.replace(" ", ".")) for name in SAMPLER]
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
    given = loaded.get("model", loaded) if isinstance(loaded, dict) else {}
    if not isinstance(given, dict) or not any(isinstance(value, Tensor) for value in given.values()):
        raise InputError(f"init={path} is no file of PANNs weights: it holds none; download one from {PANNS_URL}.")
    return given


def check_names(path: Path) -> None:
    """Reads the pickles of a file without doing what they say.

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
    strange = sorted(names - WEIGHTS - SAMPLER - {ENCODE})
    if strange:
        raise Refused(f"it names {printable(strange[0], 100)}, which is no weights")
    if ENCODE in names and any(encoding(text) in BYTES_TO_BYTES for text in texts):
        raise Refused("it encodes bytes again and again")


def encoding(text: str) -> str:
    """The standard name of an encoding."""
    name = normalize_encoding(text[:50]).lower() if text.isascii() else text
    return aliases.aliases.get(name, name).removesuffix("_codec")


def zipped_pickle(path: Path) -> Generator[tuple[str, Any]]:
    """The operations, with their arguments, of the pickle in a file of today's format.

    Raises:
        Refused: parts of the file are compressed, which torch never does.
    """
    with zipfile.ZipFile(path) as archive:
        if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
            raise Refused("it is compressed")
        for name in archive.namelist():
            if name.endswith("data.pkl"):
                with archive.open(name) as file:
                    yield from ((operation.name, argument) for operation, argument, _ in pickletools.genops(file))


def old_pickles(content: mmap.mmap) -> Generator[tuple[str, Any]]:
    """The same of the format before torch 1.6: a magic number, a version, the system, the weights, their keys."""
    for _ in range(5):  # a mapped file reads what there is, whatever length a pickle gives
        yield from ((operation.name, argument) for operation, argument, _ in pickletools.genops(content))  # type: ignore[arg-type]
