"""Settings: frozen dataclasses, the table of options, parsing. The only home of a default.

Imports nothing but the standard library, so that `--help` is instant.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import hashlib
import json
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

EMOTIONS = (
    "Awe",
    "Excitement",
    "Amusement",
    "Awkwardness",
    "Fear",
    "Horror",
    "Distress",
    "Triumph",
    "Sadness",
    "Surprise",
)
"""The ten emotions of ExVo 2022, in the order of the challenge's files."""

SPLITS = ("train", "val", "test")

TASKS = ("fewshot", "multitask", "speaker")
EMBEDDINGS = ("main", "enrolment")
CORPORA = ("sample", "hume-vb", "emogator", "table")
OPTIMIZERS = ("sgd", "adam", "adamw")
PROTOCOLS = ("published", "strict")

PROTOCOL_HELP = (
    "of enrolment: published (a speaker's first clips enrol and are scored too) or strict (clips that enrol are not "
    "scored, a clip never enrols itself); auto: {}"
)

CROP_FRAMES = 250
"""Frames of a training crop: 2.5 s (arXiv 2206.06680)."""

PUBLISHED_EPOCHS = 60
"""What `epochs=auto` means on a real corpus (arXiv 2206.06680)."""

SAMPLE_EPOCHS = 3
"""What `epochs=auto` means on the sample corpus: full-width CNN14 ends within five minutes on two cores."""


class InputError(ValueError):
    """A mistake in what the user gave: one sentence that names the file, row or option, what was found, what to do."""


@dataclass(frozen=True)
class FeatureConfig:
    """Log-mel settings: those of the 16 kHz PANNs (Kong et al., arXiv 1912.10211), as in arXiv 2206.06680."""

    sample_rate: int = 16_000  # Hz
    window: int = 512  # samples, Hann, also the FFT's length
    hop: int = 160  # samples: a frame each 10 ms
    bands: int = 64
    fmin: float = 50.0  # Hz
    fmax: float = 8_000.0  # Hz
    floor: float = 1e-10  # power below which a band counts as silent: -100 dB
    min_samples: int = 257  # a centred window with reflect padding needs more than window / 2
    max_seconds: float = 60.0  # a longer file is not a vocal burst

    @property
    def floor_db(self) -> float:
        """The floor in dB."""
        return 10.0 * math.log10(self.floor)

    def digest(self) -> str:
        """Twelve hexadecimal digits that change with any setting."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class SystemConfig:
    """A named system. The defaults are the plain CNN14; a system is this plus its differences (`exvo/systems.py`)."""

    encoder: str = "cnn14"  # cnn5, cnn10, cnn14
    start: str = "random"  # random; panns: `init` names the weights; or the system whose best run it continues
    batch_size: int = 32  # clips, where `batch_size` is auto
    enrolment: str = "none"  # encoder of the enrolment clips: none, cnn5, cnn10, or shared (the main one)
    fusion: str = "none"  # how the speaker's profile reaches the output: attention, conditioning, relative, film
    layer_norm: bool = False  # before and after the attention's product
    enrolment_emotion: str = "none"  # head on the enrolment clips: none, learn, forget
    enrolment_speaker: str = "none"  # head on the enrolment clips: none, learn, forget
    main_speaker: str = "none"  # head on the main embedding: none, learn, forget
    protocol: str = "published"  # of enrolment, where `protocol` is auto
    objective: str = "ccc"  # of the emotions: ccc (1 - CCC) or mse
    dropout: float = 0.2  # after each block

    @property
    def roles(self) -> dict[str, str]:
        """learn or forget for each head that the system has."""
        heads = ("enrolment_emotion", "enrolment_speaker", "main_speaker")
        return {head: getattr(self, head) for head in heads if getattr(self, head) != "none"}


def option(default: Any, help: str, **limits: Any) -> Any:
    """A dataclass field that is also a command-line option.

    `limits` may hold `choices` (of a text), `low` and `high` (of a number, inclusive) and `auto` (what `auto` means:
    the field is then None).
    """
    return dataclasses.field(default=default, metadata={"help": help, **limits})


@dataclass(frozen=True, kw_only=True)
class ExtractSettings:
    """Options of `extract`, and of all entry points that read a corpus."""

    corpus: str = option("sample", "the corpus to read", choices=CORPORA)
    data: str = option("", "the corpus' folder; empty for the sample corpus, which is synthesised")
    skip_unreadable: bool = option(False, "leave unreadable clips out instead of stopping")
    workers: int | None = option(None, "threads that decode audio", low=1, auto="all cores")
    output: str = option("output", "folder for features, checkpoints and the sample corpus")


@dataclass(frozen=True, kw_only=True)
class TrainSettings(ExtractSettings):
    """Options of `train` and `main`."""

    model: str = option("cnn14", "the system to train, by its name in exvo/systems.py")
    task: str = option(
        "fewshot",
        "what is learnt: emotions; emotions, age and country; or (cnn5, cnn10 and cnn14 alone) which of the training "
        "speakers it is",
        choices=TASKS,
    )
    epochs: int | None = option(
        None, "passes over the training clips", low=1, auto=f"{PUBLISHED_EPOCHS}, on the sample corpus {SAMPLE_EPOCHS}"
    )
    batch_size: int | None = option(None, "clips in a training batch", low=2, auto="the system's: 32 or 8")
    learning_rate: float = option(0.001, "the optimiser's first step size", low=1e-12, high=100.0)
    optimizer: str = option("sgd", "sgd (momentum 0.9), adam or adamw", choices=OPTIMIZERS)
    seed: int = option(0, "of weights, order, crops and dropout", low=0, high=2**31 - 1)
    device: str = option("auto", "where to compute; auto: cuda where there is one", choices=("auto", "cpu", "cuda"))
    precision: str = option(
        "auto",
        "of the training arithmetic; auto: bf16 where the processor has instructions for it",
        choices=("auto", "float32", "bf16"),
    )
    width: float = option(1.0, "multiplier of the channels; 1 is the paper's", low=0.01, high=4.0)
    init: str = option(
        "",
        "weights to start from: a file of PANNs weights, or runs:/<id>; empty: random ones, for a continued system the "
        "best run of the system that it continues",
    )
    protocol: str = option("auto", PROTOCOL_HELP.format("the system's"), choices=("auto", *PROTOCOLS))
    shots: int = option(2, "enrolment clips of a speaker", low=1, high=16)
    fill: str = option(
        "auto",
        "what fills a training crop after a short clip: zero (0 dB, as published), floor (-100 dB) or repeat (the clip "
        "again); auto: zero on hume-vb, else repeat",
        choices=("auto", "zero", "floor", "repeat"),
    )


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Options of all entry points that take a training run: the corpus and all else come from it."""

    run_id: str = option("", "the training run: its id or name, or a system, whose newest finished run it is then")
    split: str = option("val", "the split of its corpus", choices=SPLITS)
    data: str = option("", "the corpus' folder; empty: where the run found it")
    device: str = option("auto", "where to compute; auto: cuda where there is one", choices=("auto", "cpu", "cuda"))
    workers: int | None = option(None, "threads that decode audio", low=1, auto="all cores")
    output: str = option("output", "folder for features")


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(RunSettings):
    """Options of `evaluate`."""

    split: str = option("test", "the split of its corpus", choices=SPLITS)
    protocol: str = option("auto", PROTOCOL_HELP.format("the run's"), choices=("auto", *PROTOCOLS))
    shots: int | None = option(None, "enrolment clips of a speaker", low=1, high=16, auto="the run's")


@dataclass(frozen=True, kw_only=True)
class EmbedSettings(RunSettings):
    """Options of `embed`."""

    embedding: str = option("main", "of the main encoder, or of the encoder of enrolment clips", choices=EMBEDDINGS)


@dataclass(frozen=True, kw_only=True)
class CurveSettings(RunSettings):
    """Options of `enrolment-curve`."""

    draws: int = option(20, "random draws of which clips enrol, for each number of clips", low=1, high=1000)


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """Options of `compare`."""

    corpus: str = option("", "the corpus whose systems to list; empty: all")
    split: str = option("val", "the split whose scores to compare", choices=SPLITS)
    a: str = option("", "the run that b is compared with: id, name, or a system's newest; empty, as b: all systems")
    b: str = option("", "the run whose difference to a is tested")
    runs: str = option("", "runs to compare each with each: ids, names or systems, with commas; empty: as a says")


ENTRY_POINTS: dict[str, type[Any]] = {
    "main": TrainSettings,
    "extract": ExtractSettings,
    "train": TrainSettings,
    "evaluate": EvaluateSettings,
    "embed": EmbedSettings,
    "enrolment-curve": CurveSettings,
    "compare": CompareSettings,
}
"""The options of each MLflow entry point; the MLproject is tested against this table."""


def nearest(name: str, known: Sequence[str]) -> str:
    """'; did you mean a or b?', or '; known are ...' when nothing is near: the end of an error's sentence.

    >>> nearest("cnn41", ["cnn14", "cnn10"])
    '; did you mean cnn14 or cnn10?'
    """
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(near)}?" if near else f"; known are {', '.join(known)}."


def default_text(value: Any) -> str:
    """The text of a value as the command line, the MLproject and MLflow's params hold it.

    >>> [default_text(v) for v in (None, True, 1.0, 0.001, "cpu")]
    ['auto', 'true', '1', '0.001', 'cpu']
    """
    if value is None:
        return "auto"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def command_line(entry_point: str, options: Mapping[str, Any]) -> str:
    """The command that runs an entry point with these options, those left out that have their default.

    >>> command_line("train", {"model": "cnn14", "epochs": 5, "data": "my clips"})
    "mlflow run . -e train -P 'data=my clips' -P epochs=5"
    """
    fields = dataclasses.fields(ENTRY_POINTS[entry_point])
    given = {field.name: default_text(options[field.name]) for field in fields if field.name in options}
    changed = [
        f"{field.name}={given[field.name]}"
        for field in fields
        if given.get(field.name, default_text(field.default)) != default_text(field.default)
    ]
    return " ".join(["mlflow run . -e", entry_point, *(f"-P {shlex.quote(one)}" for one in changed)])


def parse_value(field: dataclasses.Field[Any], text: str) -> Any:
    """The value of an option's text.

    Raises:
        InputError: the text is of the wrong type, no choice of this option, or out of its range.
    """
    limits, kind = field.metadata, str(field.type).removesuffix(" | None")
    if "auto" in limits and text == "auto":
        return None
    if kind == "bool":
        if text not in ("true", "false"):
            raise InputError(f"{field.name}={text} is neither true nor false.")
        return text == "true"
    if kind == "str":
        if "choices" in limits and text not in limits["choices"]:
            raise InputError(f"{field.name}={text} is not known{nearest(text, limits['choices'])}")
        return text
    wanted = "a whole number" if kind == "int" else "a number"
    wanted += " or auto" if "auto" in limits else ""
    try:
        value = int(text) if kind == "int" else float(text)
    except ValueError:
        raise InputError(f"{field.name}={text} is not {wanted}.") from None
    low, high = limits.get("low", -math.inf), limits.get("high", math.inf)
    if not low <= value <= high:
        bounds = f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
        raise InputError(f"{field.name}={text} is out of range: it must be {bounds}.")
    return value


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message[:1].upper()}{message[1:]}; see --help.")


def parse(entry_point: str, arguments: Sequence[str] | None = None, description: str | None = None) -> Any:
    """The settings of an entry point from its command line (`sys.argv` when None); `--help` begins with `description`.

    Raises:
        InputError: an option is unknown, lacks its value, or its value is not of its type or range.
    """
    settings = ENTRY_POINTS[entry_point]
    fields = {field.name: field for field in dataclasses.fields(settings)}
    parser = _Parser(
        prog=f"python -m pipelines.{entry_point.replace('-', '_')}", description=description, allow_abbrev=False
    )
    for field in fields.values():
        default = default_text(field.default)
        auto = f"; auto: {field.metadata['auto']}" if "auto" in field.metadata else ""
        parser.add_argument(
            f"--{field.name}",
            metavar="|".join(field.metadata.get("choices", ())) or str(field.type).removesuffix(" | None").upper(),
            help=f"{field.metadata['help']}{auto} (default: {default or 'empty'})".replace("%", "%%"),
        )
    given, unknown = parser.parse_known_args(sys.argv[1:] if arguments is None else list(arguments))
    if unknown:
        name = unknown[0].removeprefix("--").split("=")[0]
        raise InputError(f"{entry_point} has no option {unknown[0]}{nearest(name, list(fields))}")
    values = {name: parse_value(fields[name], text) for name, text in vars(given).items() if text is not None}
    return settings(**values)
