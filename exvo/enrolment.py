"""Which clips enrol a speaker: the protocols of evaluation, and the draws of training.

`published` (arXiv 2206.06680): the speaker's first clips in file order enrol, the shorter ones filled with zeros to the
length of the longest, and are scored too; in training the clip itself may be drawn. `strict`: clips that enrol are as
long as they are and never scored, and a clip never enrols itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class EnrolmentSettings:
    """How a model's speakers are enrolled: what its file says of it.

    Attributes:
        protocol: published or strict.
        shots: enrolment clips of a speaker when the model was validated.
    """

    protocol: str
    shots: int


@dataclass(frozen=True)
class Draw:
    """How training clips are given enrolment clips.

    Attributes:
        shots: enrolment clips.
        itself: whether a clip may enrol itself.
        shared: whether the clips of a batch enrol each other (a shared encoder then costs nothing more).
    """

    shots: int
    itself: bool
    shared: bool


@dataclass(frozen=True)
class Enrolment:
    """Who enrols whom in a split.

    Attributes:
        clips: for each clip the indices of the clips that enrol its speaker; empty where there are none.
        scored: (clips,), False for clips that enrol and so are not scored.
        short: speakers who enrol with fewer clips than asked for; '' stands for clips of unknown speakers.
        copies: clips that are not scored because one with the same samples enrols their speaker.
    """

    clips: list[np.ndarray]
    scored: np.ndarray
    short: list[str]
    copies: int = 0


def members(speakers: Sequence[str] | np.ndarray) -> dict[str, np.ndarray]:
    """The indices of each speaker's clips, in file order."""
    names, codes = np.unique(np.asarray(speakers, dtype=str), return_inverse=True)
    order = np.argsort(codes, kind="stable")
    return dict(zip(names.tolist(), np.split(order, np.cumsum(np.bincount(codes))[:-1]), strict=True))


def enrol(
    speakers: Sequence[str] | np.ndarray, protocol: str, shots: int, recordings: Sequence[str] | None = None
) -> Enrolment:
    """Each speaker's first `shots` clips enrol.

    Under `strict` at least one clip of a speaker is left to score: who has too few enrols with all but the last, and
    who has a single clip with none, as does an unknown speaker ('') under both: then the typical profile stands in.
    A copy of a clip that enrols its speaker is not scored either, even where no other is left.

    Args:
        speakers: (clips,), of a split in file order.
        protocol: published or strict.
        shots: enrolment clips.
        recordings: (clips,), equal for equal samples; None where it isn't known.
    """
    samples = recordings if recordings is not None else range(len(speakers))
    copies = 0
    clips = [np.zeros(0, np.int64)] * len(speakers)
    scored = np.ones(len(speakers), bool)
    short = []
    for speaker, own in members(speakers).items():
        count = 0 if speaker == "" else min(shots, len(own) - (protocol == "strict"))
        if count < shots:
            short.append(speaker)
        if protocol == "strict":
            scored[own[:count]] = False
            enrolling = {samples[clip] for clip in own[:count]}
            alike = [clip for clip in own[count:] if samples[clip] in enrolling]
            scored[alike] = False
            copies += len(alike)
        for clip in own:
            clips[clip] = own[:count] if protocol == "published" else own[:count][own[:count] != clip]
    return Enrolment(clips, scored, short, copies)


def swap(enrolment: Enrolment, speakers: Sequence[str] | np.ndarray) -> list[np.ndarray]:
    """Everyone enrolled by someone else: for each clip the clips that enrol the next speaker who enrols.

    Args:
        enrolment: of a split, in which two speakers or more enrol.
        speakers: (clips,), of the same split.

    Returns:
        For each clip the indices of those clips; empty where its own speaker does not enrol.
    """
    own = {name: enrolment.clips[clips[-1]] for name, clips in members(speakers).items()}
    enrolling = [name for name, clips in own.items() if len(clips)]
    other = dict(zip(enrolling, [*enrolling[1:], *enrolling[:1]], strict=True))
    return [own[other[name]] if name in other else np.zeros(0, np.int64) for name in map(str, speakers)]


@dataclass(frozen=True)
class Encodings:
    """What is encoded for speakers whose lists of enrolling clips are given: each clip once for each length.

    Attributes:
        clips: (encodings,), which clip.
        frames: (encodings,), the length that it is filled to with zeros.
        own: for each list its encodings, whose mean is the profile.
    """

    clips: np.ndarray
    frames: np.ndarray
    own: list[np.ndarray]


def encodings(lists: Sequence[np.ndarray], frames: np.ndarray, protocol: str | None) -> Encodings:
    """What is encoded for lists of enrolling clips. A clip's embedding depends on the clip and on its filled length.

    Args:
        lists: of the clips that enrol a speaker, their indices; a list may be empty.
        frames: (clips,), lengths of the clips.
        protocol: published (each clip is filled with zeros, 0 dB, to the longest of its list), strict, or None, as in
            model files that name none (both: clips stay as long as they are).

    >>> encodings([np.array([0, 1]), np.array([1])], np.array([3, 5]), "published").frames.tolist()
    [5, 5]
    """
    none = np.zeros(0, np.int64)
    clips = np.concatenate([none, *lists])
    ends = np.cumsum([len(own) for own in lists], dtype=np.int64)[:-1]
    filled = frames[clips] if len(clips) else none
    if protocol == "published":
        filled = np.concatenate([none, *(np.full(len(own), frames[own].max()) for own in lists if len(own))])
    pairs, own = np.unique(np.stack([clips, filled], axis=1), axis=0, return_inverse=True)
    return Encodings(pairs[:, 0], pairs[:, 1], np.split(own.ravel(), ends)[: len(lists)])


def draw_clips(speakers: Sequence[str] | np.ndarray, draw: Draw, generator: np.random.Generator) -> np.ndarray:
    """For each training clip `shots` clips of its speaker, at random without replacement: (clips, shots).

    Where the speaker has too few, they are drawn again in turn. Unless a clip may enrol itself, each speaker has two.
    """
    drawn = np.empty((len(speakers), draw.shots), np.int64)
    for own in members(speakers).values():
        assert draw.itself or len(own) > 1
        for clip in own:
            drawn[clip] = np.resize(generator.permutation(own if draw.itself else own[own != clip]), draw.shots)
    return drawn


def draw_groups(speakers: Sequence[str] | np.ndarray, size: int, generator: np.random.Generator) -> list[np.ndarray]:
    """All clips once, in random order, in groups of `size` or somewhat more clips of one speaker.

    Who has fewer clips makes one group.
    """
    groups = []
    for own in members(speakers).values():
        groups += np.array_split(generator.permutation(own), max(1, len(own) // size))
    return [groups[number] for number in generator.permutation(len(groups))]
