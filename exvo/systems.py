"""The named systems, each as its differences from the plain CNN14: a new one is one line.

`PUBLISHED` holds those of arXiv 2206.06680. In ours the enrolment clips go through the main encoder, in the training
batch, so that a personalised system takes hardly more time than the plain CNN.
"""

from __future__ import annotations

from exvo.config import SystemConfig
from exvo.errors import InputError
from exvo.text import nearest


def _conditioning(**differences: str) -> SystemConfig:
    return SystemConfig(enrolment="cnn5", fusion="conditioning", batch_size=8, **differences)  # type: ignore[arg-type]


def _attention(layer_norm: bool = False, **differences: str) -> SystemConfig:
    return SystemConfig(enrolment="cnn10", fusion="attention", layer_norm=layer_norm, batch_size=8, **differences)  # type: ignore[arg-type]


def _ours(fusion: str, encoder: str = "cnn14", **differences: str) -> SystemConfig:
    return SystemConfig(encoder=encoder, enrolment="shared", fusion=fusion, protocol="strict", **differences)  # type: ignore[arg-type]


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
}

SHORT_NAMES = {"cnn14": "cnn14-random-init", "cnn10": "cnn10-random-init"}

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


def require_trainable(name: str, task: str, protocol: str) -> None:
    """Refuses systems and protocols that `task=speaker` can't train.

    Raises:
        InputError: with `task=speaker` the system is not one of `RECOGNISERS`, or the protocol is `strict`.
    """
    if task == "speaker" and full_name(name) not in RECOGNISERS:
        raise InputError(f"task=speaker trains cnn5, cnn10 or cnn14, not model={name}; choose one of the three.")
    if task == "speaker" and protocol == "strict":
        raise InputError("task=speaker has no enrolment clips, so protocol=strict has no meaning; leave protocol=auto.")
