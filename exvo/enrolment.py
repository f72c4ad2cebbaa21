"""Which clips enrol a speaker: by the protocols in evaluation, by random draws in training.

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
    """How a model's speakers are enrolled, as its file says.

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
        copies: number of clips that are not scored because one with the same samples enrols their speaker.
    """

    clips: list[np.ndarray]
    scored: np.ndarray
    short: list[str]
    copies: int = 0


def clips_by_speaker(speakers: Sequence[str] | np.ndarray) -> dict[str, np.ndarray]:
    """The indices of each speaker's clips, in file order; `speakers` is (clips,)."""
    names, codes = np.unique(np.asarray(speakers, dtype=str), return_inverse=True)
    order = np.argsort(codes, kind="stable")
    return dict(zip(names.tolist(), np.split(order, np.cumsum(np.bincount(codes))[:-1]), strict=True))


def choose_enrolment(
    speakers: Sequence[str] | np.ndarray, protocol: str, shots: int, recordings: Sequence[str] | None = None
) -> Enrolment:
    """The enrolment of a split: each speaker's first `shots` clips enrol.

    Under `strict` at least one clip of a speaker is left to score: a speaker with too few clips enrols with all but the
    last, and one with a single clip with none. Unknown speakers ('') enrol with none under both protocols. Where none
    enrols, the typical profile is used. Under `strict` a copy of a clip that enrols its speaker is not scored either,
    even if it is the last one left.

    Args:
        speakers: (clips,), of a split in file order.
        protocol: published or strict.
        shots: enrolment clips.
        recordings: (clips,), keys that are equal for clips with equal samples; None: no two clips are equal.
    """
    samples = recordings if recordings is not None else range(len(speakers))
    copies = 0
    clips = [np.zeros(0, np.int64)] * len(speakers)
    scored = np.ones(len(speakers), bool)
    short = []
    for speaker, members in clips_by_speaker(speakers).items():
        count = 0 if speaker == "" else min(shots, len(members) - (protocol == "strict"))
        enrolling = members[:count]
        if count < shots:
            short.append(speaker)
        if protocol == "strict":
            scored[enrolling] = False
            enrolling_samples = {samples[clip] for clip in enrolling}
            equal = [clip for clip in members[count:] if samples[clip] in enrolling_samples]
            scored[equal] = False
            copies += len(equal)
        for clip in members:
            clips[clip] = enrolling if protocol == "published" else enrolling[enrolling != clip]
    return Enrolment(clips, scored, short, copies)


def enrol_wrong_speakers(enrolment: Enrolment, speakers: Sequence[str] | np.ndarray) -> list[np.ndarray]:
    """For each clip the clips that enrol another speaker: the next of those who enrol.

    Args:
        enrolment: of a split, in which two speakers or more enrol.
        speakers: (clips,), of the same split.

    Returns:
        For each clip the indices of those clips; empty where its own speaker does not enrol.
    """
    enrolling = {name: enrolment.clips[clips[-1]] for name, clips in clips_by_speaker(speakers).items()}
    names = [name for name, clips in enrolling.items() if len(clips)]
    others = dict(zip(names, [*names[1:], *names[:1]], strict=True))
    return [enrolling[others[name]] if name in others else np.zeros(0, np.int64) for name in map(str, speakers)]


@dataclass(frozen=True)
class EncodingPlan:
    """Which clips must be encoded for speakers' profiles, and at which length: each pair once.

    Attributes:
        clips: (encodings,), index of the clip.
        frames: (encodings,), the length to which the clip is filled with zeros.
        rows: for each speaker the indices of their encodings, whose mean is the profile.
    """

    clips: np.ndarray
    frames: np.ndarray
    rows: list[np.ndarray]


def plan_encodings(lists: Sequence[np.ndarray], frames: np.ndarray, protocol: str | None) -> EncodingPlan:
    """The plan for speakers whose enrolling clips are given: an embedding depends on the clip and its filled length.

    Args:
        lists: for each speaker the indices of the clips that enrol them; a list may be empty.
        frames: (clips,), lengths of the clips.
        protocol: published: each clip is filled with zeros, 0 dB, to the longest of its list. strict, or None for model
            files that name none: clips stay as long as they are.

    >>> plan_encodings([np.array([0, 1]), np.array([1])], np.array([3, 5]), "published").frames.tolist()
    [5, 5]
    """
    none = np.zeros(0, np.int64)
    clips = np.concatenate([none, *lists])
    ends = np.cumsum([len(enrolling) for enrolling in lists], dtype=np.int64)[:-1]
    filled = frames[clips] if len(clips) else none
    if protocol == "published":
        longest = [np.full(len(enrolling), frames[enrolling].max()) for enrolling in lists if len(enrolling)]
        filled = np.concatenate([none, *longest])
    pairs, rows = np.unique(np.stack([clips, filled], axis=1), axis=0, return_inverse=True)
    return EncodingPlan(pairs[:, 0], pairs[:, 1], np.split(rows.ravel(), ends)[: len(lists)])


def draw_clips(speakers: Sequence[str] | np.ndarray, draw: Draw, generator: np.random.Generator) -> np.ndarray:
    """For each training clip the indices of clips of its speaker, at random without replacement.

    A speaker with too few clips gives the same ones again, in the same order.

    Args:
        speakers: (clips,); each has two clips or more, unless a clip may enrol itself.
        draw: how many clips are drawn, and from which.
        generator: of random numbers.

    Returns:
        (clips, shots).
    """
    index = np.empty((len(speakers), draw.shots), np.int64)
    for members in clips_by_speaker(speakers).values():
        assert draw.itself or len(members) > 1
        for clip in members:
            candidates = members if draw.itself else members[members != clip]
            index[clip] = np.resize(generator.permutation(candidates), draw.shots)
    return index


def draw_groups(speakers: Sequence[str] | np.ndarray, size: int, generator: np.random.Generator) -> list[np.ndarray]:
    """All clips once, in random order, in groups of one speaker's clips.

    Args:
        speakers: (clips,).
        size: clips in a group; a group has some more where the speaker's clips can't be divided evenly, and fewer where
            the speaker has fewer.
        generator: of random numbers.

    Returns:
        For each group the indices of its clips.
    """
    groups = []
    for members in clips_by_speaker(speakers).values():
        groups += np.array_split(generator.permutation(members), max(1, len(members) // size))
    return [groups[number] for number in generator.permutation(len(groups))]
