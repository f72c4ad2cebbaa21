"""The named systems, each as its differences from the plain CNN14: a new one is one line.

`PUBLISHED` holds those of arXiv 2206.06680. In ours the enrolment clips go through the main encoder, in the training
batch, so that a personalised system takes hardly more time than the plain CNN.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from exvo.config import CROP_SECONDS
from exvo.errors import InputError
from exvo.text import nearest


@dataclass(frozen=True)
class SystemConfig:
    """A named system, as its differences from the plain published CNN14, whose values are the defaults.

    Each field that is also an option of `train` holds what `auto` means there.
    """

    encoder: str = "cnn14"  # cnn5, cnn10, cnn14; ours: resnet, frozen (on features of whole clips), prior
    start: str = (
        "random"  # random; panns (`init` names the weights); or the name of the system whose best run it continues
    )
    head: str = "linear"  # the output: linear, or chain (each emotion is given those before it)
    enrolment: str = "none"  # encoder of the enrolment clips: none, cnn5, cnn10, or shared (the main encoder)
    fusion: str = "none"  # how the speaker's profile reaches the output: attention, conditioning, relative, film
    layer_norm: bool = False  # before and after the attention's product
    enrolment_emotion: str = "none"  # head on the enrolment clips: none, learn, forget
    enrolment_speaker: str = "none"  # head on the enrolment clips: none, learn, forget
    main_speaker: str = "none"  # head on the main embedding: none, learn, forget
    people: int = 0  # clips of a person in a training batch, who enrol each other 0 to all at a time; 0: always `shots`
    members: int = 1  # networks side by side whose outputs are averaged: of resnet whole ones, of frozen heads
    typical_clips: int = 0  # how many clips the typical speaker counts for in a profile: fewer clips, less trust
    protocol: str = "published"  # of enrolment
    objective: str = "ccc"  # of the emotions: ccc (1 - CCC), mse, cross-entropy; auto: cross-entropy for categories
    epochs: int = 60
    batch_size: int = 32  # clips
    learning_rate: float = 0.001
    optimizer: str = "sgd"
    schedule: str = "plateau"
    weight_decay: float = 0.0001  # of adamw alone
    label_smoothing: float = 0.0
    warp: float = 0.0  # largest change of pace and pitch
    spec_augment: float = 0.0  # largest share of a mask
    mixup: float = 0.0
    clip_gradient: float = 0.0  # 0: not clipped
    patience: int = 0  # epochs; 0: training never stops early
    dropout: float = 0.2
    crop_seconds: float = CROP_SECONDS  # of a training crop

    @property
    def roles(self) -> dict[str, str]:
        """The heads that the system has, each with `learn` or `forget`."""
        heads = ("enrolment_emotion", "enrolment_speaker", "main_speaker")
        return {head: getattr(self, head) for head in heads if getattr(self, head) != "none"}


RECIPE = (
    "members",
    "protocol",
    "objective",
    "epochs",
    "batch_size",
    "learning_rate",
    "optimizer",
    "schedule",
    "weight_decay",
    "label_smoothing",
    "warp",
    "spec_augment",
    "mixup",
    "clip_gradient",
    "patience",
    "dropout",
)
"""The fields of a system that are options of `train` too."""


def _conditioning(**differences: str) -> SystemConfig:
    return SystemConfig(enrolment="cnn5", fusion="conditioning", batch_size=8, **differences)  # type: ignore[arg-type]


def _attention(layer_norm: bool = False, **differences: str) -> SystemConfig:
    return SystemConfig(enrolment="cnn10", fusion="attention", layer_norm=layer_norm, batch_size=8, **differences)  # type: ignore[arg-type]


def _ours(fusion: str, encoder: str = "cnn14", **differences: str) -> SystemConfig:
    return SystemConfig(encoder=encoder, enrolment="shared", fusion=fusion, protocol="strict", **differences)  # type: ignore[arg-type]


def _personal(plain: SystemConfig, fusion: str) -> SystemConfig:
    """A system of ours that adapts to the speaker, by batches of eight people with eight clips each."""
    return replace(plain, enrolment="shared", fusion=fusion, people=8, typical_clips=1)


_RESNET = SystemConfig(
    encoder="resnet",
    protocol="independent",
    objective="auto",
    epochs=30,
    batch_size=64,
    learning_rate=0.003,
    optimizer="adamw",
    schedule="one-cycle",
    weight_decay=0.01,
    label_smoothing=0.1,
    spec_augment=0.125,
    mixup=0.3,
    dropout=0.3,
    crop_seconds=2.0,
)
_FROZEN = replace(_RESNET, encoder="frozen", members=5, learning_rate=0.0003, dropout=0.5, spec_augment=0.0, mixup=0.0)

PERSONALISATION = "cnn14-random-init-personalisation"
ATTENTION = "cnn14-attention-cnn10"

PUBLISHED: dict[str, SystemConfig] = {
    "cnn14-random-init": SystemConfig(),
    "cnn10-random-init": SystemConfig(encoder="cnn10"),
    "cnn14-audioset": SystemConfig(start="panns"),
    "cnn14-random-init-continued": SystemConfig(start="cnn14-random-init"),
    "cnn14-bs8": SystemConfig(batch_size=8),
    PERSONALISATION: _conditioning(),
    f"{PERSONALISATION}-continued": _conditioning(start=PERSONALISATION),
    f"{PERSONALISATION}-multitasking": _conditioning(enrolment_emotion="learn"),
    f"{PERSONALISATION}-multitasking-continued": _conditioning(
        start=f"{PERSONALISATION}-multitasking", enrolment_emotion="learn"
    ),
    f"{ATTENTION}-multitask": _attention(enrolment_emotion="learn"),
    f"{ATTENTION}-multitask-adversarial": _attention(enrolment_emotion="forget"),
    f"{ATTENTION}-learn-auxil": _attention(enrolment_emotion="learn", enrolment_speaker="learn"),
    f"{ATTENTION}-learn-auxil-forget-main": _attention(
        enrolment_emotion="learn", enrolment_speaker="learn", main_speaker="forget"
    ),
    f"{ATTENTION}-layernorm-full": _attention(True),
    f"{ATTENTION}-layernorm-auxil-learn": _attention(True, enrolment_speaker="learn"),
    f"{ATTENTION}-layernorm-multitask-adversarial": _attention(True, enrolment_emotion="forget"),
    f"{ATTENTION}-layernorm-auxil-learn-multitask-adversarial": _attention(
        True, enrolment_speaker="learn", enrolment_emotion="forget"
    ),
    f"{ATTENTION}-layernorm-auxil-learn-multitask-adversarial-forget-main": _attention(
        True, enrolment_speaker="learn", enrolment_emotion="forget", main_speaker="forget"
    ),
    "cnn14-speaker-multitasking": SystemConfig(batch_size=8, main_speaker="learn"),
    "cnn14-speaker-invariant": SystemConfig(batch_size=8, main_speaker="forget"),
}
"""The systems of arXiv 2206.06680: the first three are published for both tasks, the others for few-shot: 23 rows."""

SYSTEMS: dict[str, SystemConfig] = PUBLISHED | {
    "cnn14-relative": _ours("relative"),
    "cnn14-film": _ours("film"),
    "cnn10-relative": _ours("relative", encoder="cnn10"),
    "cnn10-film": _ours("film", encoder="cnn10"),
    "cnn5": SystemConfig(encoder="cnn5"),
    "resnet": _RESNET,
    "resnet-relative": _personal(_RESNET, "relative"),
    "resnet-film": _personal(_RESNET, "film"),
    "frozen": _FROZEN,
    "frozen-relative": _personal(_FROZEN, "relative"),
    "frozen-film": _personal(_FROZEN, "film"),
    "frozen-chain": replace(_FROZEN, head="chain"),
    "prior": SystemConfig(encoder="prior", objective="auto", protocol="independent", epochs=1),
}

SHORT_NAMES = {"cnn14": "cnn14-random-init", "cnn10": "cnn10-random-init"}

LOG_MEL = "log-mel"
"""The value of the option `features` that all systems take but `frozen` and its kin, which take all others."""

MANY = ("resnet", "frozen")
"""The encoders of which a network may have several, see the option `members`."""

RECOGNISERS = ("cnn5", "cnn10-random-init", "cnn14-random-init")
"""The systems that `task=speaker` can train (arXiv 2206.06680): those of an encoder and an output, and no more."""


def full_name(name: str) -> str:
    """The full name of a system.

    Args:
        name: its full or short name.

    Raises:
        InputError: there is no such system; names the nearest ones.
    """
    full = SHORT_NAMES.get(name, name)
    if full not in SYSTEMS:
        raise InputError(f"model={name} is not a known system{nearest(name, [*SHORT_NAMES, *SYSTEMS])}")
    return full


def find(name: str) -> SystemConfig:
    """A system by its full or short name.

    Raises:
        InputError: there is no such system; names the nearest ones.
    """
    return SYSTEMS[full_name(name)]


def require_trainable(name: str, task: str, protocol: str, features: str = LOG_MEL) -> None:
    """Refuses systems, protocols and features that don't go together.

    Raises:
        InputError: the system doesn't take these features; or with `task=speaker` it is not one of `RECOGNISERS`, or
            the protocol is not `published`.
    """
    encoder = find(name).encoder
    if task == "speaker" and full_name(name) not in RECOGNISERS:
        raise InputError(f"task=speaker trains cnn5, cnn10 or cnn14, not model={name}; choose one of the three.")
    if task == "speaker" and protocol not in ("auto", "published"):
        raise InputError(
            f"task=speaker has no enrolment clips, so protocol={protocol} has no meaning; leave protocol=auto."
        )
    if encoder == "frozen" and features == LOG_MEL:
        raise InputError(
            f"model={name} learns from features of whole clips, not from log-mels: give features=egemaps, compare2016, "
            "an audio encoder or a run, or choose a system with an encoder of its own, such as resnet."
        )
    if encoder not in ("frozen", "prior") and features != LOG_MEL:
        raise InputError(
            f"model={name} hears log-mels, and features={features} are of whole clips: choose frozen, frozen-relative, "
            f"frozen-film or frozen-chain, or leave features={LOG_MEL}."
        )


def require_speakers(name: str, system: SystemConfig, task: str) -> None:
    """Refuses a system that learns from who speaks, for a corpus that does not say it.

    Raises:
        InputError: says why, and what takes no speakers.
    """
    learns = "it adapts to a speaker from other clips of theirs" if system.enrolment != "none" else ""
    learns = learns or ("it tells training speakers apart" if system.roles or task == "speaker" else "")
    if learns:
        what = "task=speaker" if task == "speaker" else f"model={name}"
        raise InputError(
            f"{what} needs to know who speaks ({learns}), and the corpus does not say it: name the column of the "
            "speakers, or train a plain system on emotions, such as resnet or cnn14."
        )


def unfit(system: SystemConfig, task: str) -> dict[str, str]:
    """The options of the recipe that have no meaning for a system, each with why."""
    reasons: dict[str, str] = {}
    if system.encoder in ("frozen", "prior"):
        reasons |= dict.fromkeys(("warp", "spec_augment"), "it has no log-mels to change")
    if system.enrolment in ("cnn5", "cnn10") or system.roles:
        reasons["mixup"] = "a mixture of two people's clips has no speaker"
    elif task != "fewshot":
        reasons["mixup"] = f"task={task} has classes among its labels, which can't be mixed"
    return reasons


def require_fitting(name: str, system: SystemConfig, task: str) -> None:
    """Refuses a recipe that a system can't be trained by.

    Args:
        name: of the system, for a sentence.
        system: with the options of the run.
        task: of the run.

    Raises:
        InputError: an option is not 0 and must be, or there are members where there can be none.
    """
    if system.members > 1 and system.encoder not in MANY:
        raise InputError(
            f"members={system.members} does not fit model={name}: only {' and '.join(MANY)} and their kin can have "
            "several networks side by side; leave it out."
        )
    for option, reason in unfit(system, task).items():
        if getattr(system, option):
            raise InputError(f"{option}={getattr(system, option):g} does not fit model={name}: {reason}; leave it out.")
