"""The options of each entry point, with all defaults: they live here alone.

Imports nothing but the standard library, so that `--help` is instant.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from exvo.config import (
    BALANCES,
    CORPORA,
    DEVICES,
    EMBEDDINGS,
    GATES,
    MAX_SHOTS,
    MOST_MEMBERS,
    OBJECTIVES,
    OPTIMIZERS,
    POOLED,
    PROTOCOLS,
    SAMPLE_EPOCHS,
    SCHEDULES,
    SEARCHED,
    SPEAKERS,
    SPLITS,
    TASKS,
)

RUN_HELP = "the training run: its id, its name, or a system (then it is the newest finished run of that system)"

COLUMNS_HELP = (
    "of a table whose columns have other names: ours:theirs with commas (file:FileName,category:EmoClass); other names "
    "than file, speaker, category, split, age and country are numeric targets"
)

SPLITS_HELP = "which words of a table's splits are which: train=A+B,val=C; C= leaves its clips out"

LABELS_HELP = (
    "categories under other names: new=old1+old2 merges or renames, old= leaves its clips out, with commas, or @<file> "
    "with one a line"
)

WHERE_HELP = (
    "which clips are used: column=value, value|value, !=, or of numbers >=, <=, >, <; several with commas; seconds is "
    "the length of a clip"
)

CLIPS_HELP = "the most clips of a speaker that are used; 0: all"

ROOT_HELP = "the folder below which the paths of the table are, where that is another one: {}"

CLUSTER_HELP = (
    "the address of a Dask cluster's scheduler (tcp://<host>:8786) whose workers {}; all see the same folders; empty: "
    "this machine"
)

PROTOCOL_HELP = (
    "protocol of enrolment: published (a speaker's first clips enrol and are scored too), strict (clips that enrol are "
    "not scored, a clip never enrols itself) or independent (clips drawn for each clip, whatever its category, never "
    "itself; all are scored); auto: {}"
)


def option(default: Any, help: str, **limits: Any) -> Any:
    """A dataclass field that is also a command-line option.

    Args:
        default: its value where it is not given; None stands for `auto`.
        help: what `--help` says of it.
        limits: any of `choices` (the values that a text may have), `low` and `high` (the range of a number, both
            included), `auto` (what `auto` means, for `--help`), `words` (texts that a number may be
            instead), `path` (of a text that names a file or folder: which kind, see `exvo.files.locate`; `inputs`:
            several with commas) and `lines` (of a text that may be @<file>: its lines, joined by this).
    """
    return dataclasses.field(default=default, metadata={"help": help, **limits})


@dataclass(frozen=True, kw_only=True)
class ExtractSettings:
    """Options of `extract`, and of all entry points that read a corpus."""

    corpus: str = option("sample", "the corpus to read", choices=CORPORA)
    data: str = option(
        "",
        "the corpus' folder, or your table itself, or several tables with commas; empty for the sample corpus, which "
        "is synthesised",
        path="inputs",
    )
    columns: str = option("", COLUMNS_HELP)
    root: str = option("", ROOT_HELP.format("of a table; empty: the table's folder"), path="input")
    splits: str = option("", SPLITS_HELP)
    labels: str = option("", LABELS_HELP, lines=",")
    where: str = option("", WHERE_HELP)
    clips_per_speaker: int = option(0, CLIPS_HELP, low=0, high=1_000_000)
    features: str = option(
        "log-mel",
        "what the network is given: log-mel; egemaps or compare2016 (openSMILE's functionals); an audio encoder of "
        "Hugging Face, by its name (<owner>/<name>[@<revision>]) or its folder; or a run of ours (its embeddings)",
    )
    skip_unreadable: bool = option(False, "leave unreadable clips out instead of stopping")
    workers: int | None = option(None, "processes that decode audio", low=1, auto="all cores")
    cluster: str = option("", CLUSTER_HELP.format("compute the features"))
    output: str = option("output", "folder for features, checkpoints and the sample corpus", path="output")


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
    objective: str = option(
        "auto",
        "loss of the emotions: ccc (1 - CCC), mse, or cross-entropy (exclusive categories alone); auto: the system's, "
        "which is ccc for the published ones, and for ours cross-entropy for categories and ccc for intensities",
        choices=("auto", *OBJECTIVES),
    )
    epochs: int | None = option(
        None,
        "passes over the training clips",
        low=1,
        auto=f"the system's; of a CNN on the sample corpus {SAMPLE_EPOCHS}",
    )
    batch_size: int | None = option(None, "clips in a training batch", low=2, auto="the system's")
    learning_rate: float | None = option(
        None, "the optimiser's first step size, of one-cycle the largest", low=1e-12, high=100.0, auto="the system's"
    )
    optimizer: str = option(
        "auto", "sgd (momentum 0.9), adam or adamw; auto: the system's", choices=("auto", *OPTIMIZERS)
    )
    schedule: str = option(
        "auto",
        "of the step size: constant; plateau (times 0.9 after five epochs without a better score); cosine (falls to "
        "0); one-cycle (rises for a fifth of the steps, then falls to 0); auto: the system's",
        choices=("auto", *SCHEDULES),
    )
    weight_decay: float | None = option(
        None, "of adamw, per step and learning rate", low=0.0, high=10.0, auto="the system's: 0.0001 where published"
    )
    label_smoothing: float | None = option(
        None, "share of cross-entropy's target spread over all categories", low=0.0, high=0.9, auto="the system's"
    )
    warp: float | None = option(
        None,
        "largest change of pace and of pitch (0.1: by a tenth) at which a clip is read in training; 0: none",
        low=0.0,
        high=0.5,
        auto="the system's",
    )
    spec_augment: float | None = option(
        None,
        "largest share of bands and of frames that each of SpecAugment's two and two masks hides; 0: none",
        low=0.0,
        high=0.5,
        auto="the system's",
    )
    augment: int = option(
        0,
        "copies of each training clip on worse signals (noise, babble, a telephone's band, coding, clipping, a room), "
        "which are computed once; each epoch hears the clip or one of them; 0: none",
        low=0,
        high=8,
    )
    balance: str = option(
        "none",
        "what is done about categories of unequal numbers of clips: none; weights (in the cross entropy each category "
        "counts alike) or sampler (each is drawn as often)",
        choices=BALANCES,
    )
    mixup: float | None = option(
        None,
        "parameter of the Beta distribution by which mixup mixes pairs of clips; 0: none",
        low=0.0,
        high=10.0,
        auto="the system's",
    )
    clip_gradient: float | None = option(
        None, "largest norm of the gradient; 0: any", low=0.0, high=1e6, auto="the system's"
    )
    patience: int | None = option(
        None,
        "epochs without a better score after which training stops; 0: never",
        low=0,
        high=10_000,
        auto="the system's",
    )
    seed: int = option(0, "seed of the weights, the order, the crops and the dropout", low=0, high=2**31 - 1)
    device: str = option("auto", "where to compute; auto: cuda where there is one", choices=DEVICES)
    devices: int = option(
        1, "devices of this machine that share out each batch, each in a process of its own", low=1, high=1024
    )
    precision: str = option(
        "auto",
        "arithmetic of the training; auto: bf16 where the processor has instructions for it",
        choices=("auto", "float32", "bf16"),
    )
    width: float = option(1.0, "multiplier of the channels; 1 is the paper's", low=0.01, high=4.0)
    dropout: float | None = option(
        None, "share of the channels dropped after each block", low=0.0, high=0.95, auto="the system's"
    )
    members: int | None = option(
        None,
        "networks side by side, trained each for itself, whose outputs are averaged: of resnet whole ones (so many "
        "times the work), of frozen heads",
        low=1,
        high=MOST_MEMBERS,
        auto="the system's: 5 of frozen, else 1",
    )
    init: str = option(
        "",
        "weights to start from: a file of PANNs weights, or runs:/<id>; empty: random ones, or for a continued system "
        "those of the best run of the system that it continues",
        path="input",
    )
    protocol: str = option("auto", PROTOCOL_HELP.format("the system's"), choices=("auto", *PROTOCOLS))
    shots: int = option(2, "enrolment clips of a speaker", low=1, high=MAX_SHOTS)
    fill: str = option(
        "auto",
        "what fills a training crop after a short clip: zero (0 dB, as published), floor (-100 dB) or repeat (the same "
        "clip); auto: zero on hume-vb, else repeat",
        choices=("auto", "zero", "floor", "repeat"),
    )
    seeds: int = option(
        1,
        "trainings that differ in nothing but the seed (seed, seed + 1, ...), each a run beneath the command's, which "
        "has their mean, range and each value; 1: one training",
        low=1,
        high=100,
    )
    folds: int | str = option(
        0,
        "cross-validation by speaker in so many folds, each tested once by a model that has not heard its speakers; "
        "speakers: a fold for each of them; 0: the corpus' splits",
        low=0,
        high=1_000,
        words=(SPEAKERS,),
    )
    experiment: str = option(
        "",
        "the MLflow experiment of the run, where exvo's own launcher makes it (`mlflow run` has --experiment-name); "
        "empty: the one that MLFLOW_EXPERIMENT_NAME names, else exvo/<corpus>/<task>",
    )
    resume: bool = option(
        True, "continue the unfinished run of the same command, where there is one; false: start a new run"
    )


@dataclass(frozen=True, kw_only=True)
class TuneSettings(TrainSettings):
    """Options of `tune`; those that are searched must be left out."""

    workers: int = option(1, "processes that run trials here; the cores are divided among them", low=1, high=64)
    trials: int = option(20, "finished and pruned trials that the study has in the end", low=1, high=100_000)
    search: str = option(
        "batch_size,learning_rate", f"the options to search, with commas: one or more of {', '.join(SEARCHED)}"
    )
    storage: str = option(
        "",
        "where the study is kept: a journal file (<name>.journal) or the URL of a database "
        "(postgresql://<user>@<host>/<database>); empty: studies.journal in the output folder",
        path="place",
    )


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Options of all entry points that take a training run: the corpus and all else come from it."""

    run_id: str = option("", RUN_HELP)
    split: str = option("val", "the split of its corpus", choices=SPLITS)
    data: str = option("", "the corpus' folder; empty: the one that the run read", path="inputs")
    root: str = option("", ROOT_HELP.format("empty: the one that the run read"), path="input")
    device: str = option("auto", "where to compute; auto: cuda where there is one", choices=DEVICES)
    workers: int | None = option(None, "processes that decode audio", low=1, auto="all cores")
    output: str = option("output", "folder for features", path="output")


@dataclass(frozen=True, kw_only=True)
class ReproduceSettings:
    """Options of `reproduce`: all else comes from the run."""

    run: str = option("", RUN_HELP)
    data: str = option("", "the corpus' folder; empty: the one that the run read", path="inputs")
    root: str = option("", ROOT_HELP.format("empty: the one that the run read"), path="input")
    workers: int | None = option(None, "processes that decode audio", low=1, auto="all cores")
    output: str = option("output", "folder for features, checkpoints and the sample corpus", path="output")


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(RunSettings):
    """Options of `evaluate`; the last five are of the corpus that `elsewhere` names."""

    split: str = option(
        "test", "the split of its corpus; elsewhere of a corpus that has splits, else all clips", choices=SPLITS
    )
    protocol: str = option("auto", PROTOCOL_HELP.format("the run's"), choices=("auto", *PROTOCOLS))
    shots: int | None = option(None, "enrolment clips of a speaker", low=1, high=MAX_SHOTS, auto="the run's")
    cluster: str = option("", CLUSTER_HELP.format("compute the features and predict"))
    elsewhere: str = option(
        "",
        "of which kind another corpus is, on which the run is scored; data and the options after this one are then of "
        "that corpus; empty: the run's own corpus",
        choices=("", *CORPORA),
    )
    columns: str = option("", f"elsewhere, {COLUMNS_HELP}")
    splits: str = option("", f"elsewhere, {SPLITS_HELP}")
    labels: str = option("", f"elsewhere, {LABELS_HELP}", lines=",")
    where: str = option("", f"elsewhere, {WHERE_HELP}")
    clips_per_speaker: int = option(0, f"elsewhere, {CLIPS_HELP}", low=0, high=1_000_000)


@dataclass(frozen=True, kw_only=True)
class EmbedSettings(RunSettings):
    """Options of `embed`."""

    embedding: str = option(
        "main", "whose embeddings: of the main encoder, or of the encoder of enrolment clips", choices=EMBEDDINGS
    )


@dataclass(frozen=True, kw_only=True)
class CurveSettings(RunSettings):
    """Options of `enrolment-curve`."""

    draws: int = option(20, "random draws of which clips enrol, for each number of clips", low=1, high=1000)


@dataclass(frozen=True, kw_only=True)
class RobustnessSettings(RunSettings):
    """Options of `robustness`."""


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """Options of `compare`."""

    corpus: str = option("", "the corpus whose systems to list; empty: all")
    split: str = option(
        "val",
        f"the split whose scores to compare; {POOLED}: the pooled test clips of cross-validations",
        choices=(*SPLITS, POOLED),
    )
    a: str = option(
        "", "the run with which b is compared: its id, its name, or a system; a and b empty: all systems are compared"
    )
    b: str = option("", "the run whose difference from a is tested")
    runs: str = option(
        "", "two or more runs, which are compared pair by pair: ids, names or systems, with commas; empty: see a"
    )


@dataclass(frozen=True, kw_only=True)
class RegisterSettings:
    """Options of `register`."""

    run_id: str = option(
        "",
        "the few-shot run to register: its id, its name, or a system (then it is the newest finished run of that "
        "system); empty: the one with the best validation score",
    )
    corpus: str = option(
        "",
        "the corpus among whose runs the best is chosen: its name, or the first digits of its digest; empty: the only "
        "one there is",
    )
    protocol: str = option(
        "auto",
        "the protocol of enrolment among whose runs the best is chosen; auto: the only one there is",
        choices=("auto", *PROTOCOLS),
    )
    gate: str = option(
        "not-worse",
        "when the alias champion moves to the new version: always (none); unless the 95% interval by speaker of its "
        "difference from the champion lies below 0 (not-worse); or only if that interval lies above 0 (better)",
        choices=GATES,
    )


@dataclass(frozen=True, kw_only=True)
class SubmitSettings:
    """Options of `submit`."""

    run_id: str = option("", RUN_HELP)
    team: str = option("", "the team's name in the file's name: letters, digits, - and _")
    number: int = option(1, "number of the submission in the file's name", low=0, high=99)
    check: str = option("", "a submission file to check against the run's corpus, instead of writing one", path="input")
    data: str = option("", "the corpus' folder; empty: the one that the run read", path="input")
    root: str = option("", ROOT_HELP.format("empty: the one that the run read"), path="input")
    device: str = option("auto", "where to compute; auto: cuda where there is one", choices=DEVICES)
    workers: int | None = option(None, "processes that decode audio", low=1, auto="all cores")
    output: str = option("output", "folder for features and, in submissions/, the file", path="output")


@dataclass(frozen=True, kw_only=True)
class PredictSettings:
    """Options of `predict`."""

    model_uri: str = option(
        "models:/exvo-fewshot@champion",
        "the model: models:/<name>@<alias> or models:/<name>/<version> of the registry, or a training run's id or name",
    )
    audio: str = option(
        "", "the clips: a file, a folder, a glob or @<list of files>, or several with commas (\\, is a comma in a name)"
    )
    enrolment: str = option(
        "", "clips of the one person who speaks in all of these, given in the same way; empty: the typical speaker"
    )
    top: int = option(3, "emotions shown for each clip on the screen", low=1, high=1000)
    sure: float = option(
        0.0,
        "says of each clip whether the answer is sure: its first category has so large a share that on validation it "
        "was right this often (0.8: in 80% of such clips); 0: does not say",
        low=0.0,
        high=1.0,
    )
    save: str = option("", "a file for the whole table, .csv or .parquet", path="save")
    device: str = option("auto", "where to compute; auto: cuda where there is one", choices=DEVICES)
    cluster: str = option("", CLUSTER_HELP.format("predict"))


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """Options of `demo`."""

    model_uri: str = option(
        "models:/exvo-fewshot@champion",
        "the model: models:/<name>@<alias> or models:/<name>/<version> of the registry, or a training run's id or name",
    )
    host: str = option(
        "127.0.0.1",
        "the address to answer on; 127.0.0.1: to this machine alone. Over another one browsers open no microphone "
        "unless a proxy in front speaks https",
    )
    port: int = option(7860, "the port to answer on", low=1, high=65_535)
    device: str = option("auto", "where to compute; auto: cuda where there is one", choices=DEVICES)


@dataclass(frozen=True, kw_only=True)
class SyncSettings:
    """Options of `sync`."""

    output: str = option("output", "the output folder of the runs", path="output")


def automatic(settings: type[Any]) -> list[str]:
    """The options that may be `auto`."""
    return [
        field.name
        for field in dataclasses.fields(settings)
        if "auto" in field.metadata or "auto" in field.metadata.get("choices", ())
    ]


ENTRY_POINTS: dict[str, type[Any]] = {
    "main": TrainSettings,
    "extract": ExtractSettings,
    "train": TrainSettings,
    "tune": TuneSettings,
    "transfer": TrainSettings,
    "reproduce": ReproduceSettings,
    "evaluate": EvaluateSettings,
    "embed": EmbedSettings,
    "enrolment-curve": CurveSettings,
    "robustness": RobustnessSettings,
    "compare": CompareSettings,
    "register": RegisterSettings,
    "predict": PredictSettings,
    "demo": DemoSettings,
    "submit": SubmitSettings,
    "sync": SyncSettings,
}
"""The options of each MLflow entry point; the MLproject is tested against this table."""
