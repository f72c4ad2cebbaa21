"""Which clips enrol a speaker: by the protocols in evaluation, by random draws in training.

`published` (arXiv 2206.06680): the speaker's first clips in file order enrol, the shorter ones filled with zeros to the
length of the longest, and are scored too; in training the clip itself may be drawn. `strict`: clips that enrol are as
long as they are and never scored, and a clip never enrols itself. `independent`: for each clip other clips of its
speaker are drawn, whatever the clip's own category is; all clips are scored.

Why independent: where people recorded each category equally often, a person's other clips have the clip's own category
less often than chance would have it, which gives the answer away a little.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

ENROLMENT_SEED = 0
"""Of the draws of `independent`: the same for all runs, so that their figures compare."""


@dataclass(frozen=True)
class EnrolmentSettings:
    """How a model's speakers are enrolled, as its file says.

    Attributes:
        protocol: published, strict or independent.
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
        people: clips of a person in a batch, where a random number of them enrols each; 0: `shots` + 1, all of them.
        categories: the first labels of a clip that are exclusive categories, by whose shares a person's clips are drawn
            where `people` is not 0; 0: there are none.
    """

    shots: int
    itself: bool
    shared: bool
    people: int = 0
    categories: int = 0


@dataclass(frozen=True)
class Enrolment:
    """Who enrols whom in a split.

    Attributes:
        clips: for each clip the indices of the clips that enrol its speaker; empty where there are none.
        scored: (clips,), False for clips that enrol and so are not scored.
        short: speakers who enrol with fewer clips than asked for; '' stands for clips of unknown speakers.
        copies: number of clips that are not scored because one with the same samples enrols their speaker.
        protocol: by which they were chosen.
        only_ones: under `independent` the number of clips that are the only one of their category by their speaker: of
            them no clip of their own category enrols, which still tells a little about it.
    """

    clips: list[np.ndarray]
    scored: np.ndarray
    short: list[str]
    copies: int = 0
    protocol: str = "strict"
    only_ones: int = 0


def clips_by_speaker(speakers: Sequence[str] | np.ndarray) -> dict[str, np.ndarray]:
    """The indices of each speaker's clips, in file order; `speakers` is (clips,)."""
    names, codes = np.unique(np.asarray(speakers, dtype=str), return_inverse=True)
    order = np.argsort(codes, kind="stable")
    return dict(zip(names.tolist(), np.split(order, np.cumsum(np.bincount(codes))[:-1]), strict=True))


def choose_enrolment(
    speakers: Sequence[str] | np.ndarray,
    protocol: str,
    shots: int,
    recordings: Sequence[str] | None = None,
    files: Sequence[str] | None = None,
    categories: Sequence[str] | None = None,
) -> Enrolment:
    """The enrolment of a split: each speaker's first `shots` clips, or under `independent` clips drawn for each clip.

    Under `strict` at least one clip of a speaker is left to score: a speaker with too few clips enrols with all but the
    last, and one with a single clip with none. Unknown speakers ('') enrol with none under all protocols. Where none
    enrols, the typical profile is used. Under `strict` a copy of a clip that enrols its speaker is not scored either,
    even if it is the last one left; under `independent` a clip and its copies don't enrol it.

    Args:
        speakers: (clips,), of a split in file order.
        protocol: published, strict or independent.
        shots: enrolment clips.
        recordings: (clips,), keys that are equal for clips with equal samples; None: no two clips are equal.
        files: (clips,), their names, by which `independent` draws; None: their numbers.
        categories: (clips,), by whose shares `independent` draws; None: there are none.
    """
    samples = recordings if recordings is not None else range(len(speakers))
    if protocol == "independent":
        names = files if files is not None else [str(number) for number in range(len(speakers))]
        return _draw_enrolment(speakers, shots, samples, names, categories)
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
    return Enrolment(clips, scored, short, copies, protocol)


def _draw_enrolment(
    speakers: Sequence[str] | np.ndarray,
    shots: int,
    samples: Sequence[str] | range,
    files: Sequence[str],
    categories: Sequence[str] | None,
) -> Enrolment:
    """The enrolment under `independent`; the arguments are those of `choose_enrolment`.

    The draw for a clip depends on its speaker's clips, its name and the split's shares of categories, and on no order.
    """
    numbers, shares = category_shares(categories if categories is not None else [""] * len(speakers))
    clips = [np.zeros(0, np.int64)] * len(speakers)
    short, only_ones = [], 0
    for speaker, members in clips_by_speaker(speakers).items():
        by_name = np.array(sorted(members.tolist(), key=lambda clip: files[clip]), np.int64)
        for clip in [] if speaker == "" else members.tolist():
            others = by_name[[samples[other] != samples[clip] for other in by_name]]
            text = f"{ENROLMENT_SEED}\0{speaker}\0{files[clip]}".encode("utf-8", "surrogateescape")
            seed = int.from_bytes(hashlib.sha256(text).digest()[:8])
            generator = np.random.default_rng(seed)
            clips[clip] = draw_by_category(generator.permutation(others), numbers, shares, shots, generator)
            only_ones += len(others) > 0 and not (numbers[others] == numbers[clip]).any()
        if min(len(clips[clip]) for clip in members) < shots:
            short.append(speaker)
    scored = np.ones(len(speakers), bool)
    return Enrolment(clips, scored, short, protocol="independent", only_ones=only_ones if categories is not None else 0)


def category_shares(categories: Sequence[str] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The number of each clip's category, (clips,), and each category's share of the clips, (categories,)."""
    _, numbers, counts = np.unique(np.asarray(categories), return_inverse=True, return_counts=True)
    return numbers, counts / max(1, len(numbers))


def draw_by_category(
    candidates: np.ndarray, categories: np.ndarray, shares: np.ndarray, count: int, generator: np.random.Generator
) -> np.ndarray:
    """Some of a person's clips, none twice: each time first a category by its share, at random, then its next clip.

    A category of which the person has no clip, or none left, is passed over; the others keep their proportions.

    Args:
        candidates: (candidates,), indices of the clips to draw from, in an order that is random within a category.
        categories: (clips,), number of each clip's category, see `category_shares`.
        shares: (categories,), that decide how often a category is drawn.
        count: clips to draw; where there are fewer, all are drawn.
        generator: of random numbers.

    Returns:
        (count,) or fewer, in the order in which they were drawn: with a smaller `count` the first of them.
    """
    pools: dict[int, list[int]] = {}
    for clip, category in zip(candidates.tolist(), categories[candidates].tolist(), strict=True):
        pools.setdefault(category, []).append(clip)
    names, drawn = sorted(pools), []
    ends = list(accumulate(shares[names].tolist())) if names else []
    for share in generator.random(min(count, len(candidates))).tolist():
        place = min(bisect_right(ends, share * ends[-1]), len(ends) - 1)
        pool = pools[names[place]]
        drawn.append(pool.pop(0))
        if not pool:
            names.pop(place)
            ends = list(accumulate(shares[names].tolist()))
    return np.array(drawn, np.int64)


def enrol_wrong_speakers(enrolment: Enrolment, speakers: Sequence[str] | np.ndarray) -> list[np.ndarray]:
    """For each clip the clips that enrol another speaker: the next of those who enrol, one for all clips of a speaker.

    Under `independent`, where each clip has enrolment clips of its own, a speaker's first clip is enrolled as the other
    speaker's first is, the second as the second, and so on in turn.

    Args:
        enrolment: of a split, in which two speakers or more enrol.
        speakers: (clips,), of the same split.

    Returns:
        For each clip the indices of those clips; empty where its own speaker does not enrol.
    """
    members = clips_by_speaker(speakers)
    drawn = enrolment.protocol == "independent"
    lists = {name: [enrolment.clips[clip] for clip in (own if drawn else own[-1:])] for name, own in members.items()}
    lists = {name: [one for one in own if len(one)] for name, own in lists.items()}
    names = [name for name, own in lists.items() if own]
    wrong = [np.zeros(0, np.int64)] * len(speakers)
    for name, other in zip(names, [*names[1:], *names[:1]], strict=True):
        for number, clip in enumerate(members[name]):
            wrong[clip] = lists[other][number % len(lists[other])]
    return wrong


def permute_enrolment(enrolment: Enrolment) -> list[np.ndarray]:
    """For each clip the clips that enrol another clip, at random: the profiles are permuted among all clips.

    Most are of other persons.
    What a system gains by them it does not owe to who speaks.

    Returns:
        For each clip the indices of those clips, but for the clip itself; empty where its own speaker does not enrol.
    """
    enrolled = np.array([clip for clip, own in enumerate(enrolment.clips) if len(own)], np.int64)
    order = np.random.default_rng(ENROLMENT_SEED).permutation(enrolled)
    permuted = [np.zeros(0, np.int64)] * len(enrolment.clips)
    for clip, other in zip(order.tolist(), np.roll(order, 1).tolist(), strict=True):
        permuted[clip] = enrolment.clips[other][enrolment.clips[other] != clip]
    return permuted


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
        protocol: published: each clip is filled with zeros, 0 dB, to the longest of its list. Another, or None for
            model files that name none: clips stay as long as they are.

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
