"""Batches of people: a few clips of each, which enrol each other, none to all of them at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from exvo.enrolment import clips_by_speaker, draw_by_category

NOBODY = 0.2
"""Share of the clips that no clip enrols in training, so that knowing nobody costs nothing."""


def draw_people(
    speakers: Sequence[str] | np.ndarray,
    categories: np.ndarray | None,
    size: int,
    generator: np.random.Generator,
    balanced: bool = False,
) -> list[np.ndarray]:
    """Groups of one person's clips in random order, about as many clips as there are.

    A person gives as many groups as their clips fill, rounded, and at least one; who has no more clips than a group
    gives all of them.

    Args:
        speakers: (clips,).
        categories: (clips,), number of each clip's category: then each group is drawn anew, each clip by the shares of
            the categories among all clips, so that a clip's category says nothing about the others'; within a category
            a person's clips take turns. None: there are none, and all clips occur once; a group may have up to half as
            many again.
        size: clips in a group.
        generator: of random numbers.
        balanced: whether each category is drawn as often instead.

    Returns:
        For each group the indices of its clips.
    """
    shares = None if categories is None else np.bincount(categories) / len(categories)
    shares = (shares > 0) / (shares > 0).sum() if balanced and shares is not None else shares
    groups: list[np.ndarray] = []
    for members in clips_by_speaker(speakers).values():
        count, order = max(1, round(len(members) / size)), generator.permutation(members)
        if categories is None or shares is None:
            groups += np.array_split(order, count)
            continue
        for _ in range(count):
            group = draw_by_category(order, categories, shares, size, generator)
            order = np.concatenate([order[~np.isin(order, group)], group])
            groups.append(group)
    return [groups[number] for number in generator.permutation(len(groups))]


def fill_batches(groups: Sequence[np.ndarray], batch_size: int) -> list[list[np.ndarray]]:
    """The groups in their order in batches of about `batch_size` clips.

    A group goes into a batch where half of it fits. No batch has a single clip, whose CCC is undefined, unless there is
    only one.
    """
    batches: list[list[np.ndarray]] = []
    clips = 0  # of the last batch
    for group in groups:
        if batches and (clips + len(group) / 2 <= batch_size or clips < 2):
            batches[-1].append(group)
            clips += len(group)
        else:
            batches.append([group])
            clips = len(group)
    if len(batches) > 1 and clips < 2:
        last = batches.pop()
        batches[-1] += last
    return batches


def draw_enrols(sizes: Sequence[int], people: int, generator: np.random.Generator) -> np.ndarray:
    """Which clips of a batch enrol which, see `Batch`: others of the clip's own group.

    Args:
        sizes: of the groups, one after the other in the batch.
        people: a clip is enrolled by none in a fifth of all cases (`NOBODY`), else by 1 to `people` - 1 of the others,
            each number as often, or by all where there are fewer; 0: always by all others.
        generator: of random numbers.

    Returns:
        (batch, batch), float32.
    """
    enrols = np.zeros((sum(sizes), sum(sizes)), np.float32)
    first = 0
    for size in sizes:
        wanted = np.full(size, size - 1)
        if people:
            known = generator.random(size) >= NOBODY
            wanted = np.minimum(wanted, np.where(known, generator.integers(1, people, size), 0))
        keys = generator.random((size, size)) if people else np.zeros((size, size))
        np.fill_diagonal(keys, 2)  # a clip is the last that would enrol itself
        ranks = keys.argsort(axis=1).argsort(axis=1)
        enrols[first : first + size, first : first + size] = ranks < wanted[:, None]
        first += size
    return enrols
