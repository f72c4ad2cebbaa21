"""Batches of people: who is in them, who enrols whom, and that categories say nothing about each other."""

from __future__ import annotations

from collections import Counter
from math import comb

import numpy as np
import pytest

from exvo.batches.clips import Clips
from exvo.batches.epoch import DrawnBatch, draw_epoch
from exvo.batches.people import draw_enrols, draw_people, fill_batches
from exvo.enrolment import Draw

PEOPLE = Draw(2, itself=False, shared=True, people=8)


def make_clips(counts: list[int], categories: int = 3) -> Clips:
    """Clips of so many speakers with so many clips each, whose labels are one-hot categories in turn."""
    speakers = [f"s{speaker:03}" for speaker, count in enumerate(counts) for _ in range(count)]
    np.random.default_rng(0).shuffle(speakers)
    labels = np.eye(categories)[np.arange(len(speakers)) % categories]
    names = [str(number) for number in range(len(speakers))]
    features = {name: np.zeros((5, 4), np.float32) for name in names}
    return Clips(names, names, features, labels, "repeat", speakers)


def epoch_of(clips: Clips, draw: Draw, batch_size: int = 64, seed: int = 0, number: int = 1) -> list[DrawnBatch]:
    return list(draw_epoch(clips, batch_size, seed, number, draw))


def test_people_by_hand() -> None:
    speakers = np.array(["a"] * 1 + ["b"] * 3 + ["c"] * 11 + ["d"] * 12 + ["e"] * 40)
    for categories, size_of_c in ((None, 11), (np.zeros(67, np.int64), 8)):
        groups = draw_people(speakers, categories, 8, np.random.default_rng(0))
        sizes: dict[str, list[int]] = {}
        for group in groups:
            (speaker,) = set(speakers[group])
            assert len(set(group)) == len(group)
            sizes.setdefault(speaker, []).append(len(group))
        d = [6, 6] if categories is None else [8, 8]
        assert sizes == {"a": [1], "b": [3], "c": [size_of_c], "d": d, "e": [8] * 5}
        if categories is None:
            assert sorted(np.concatenate(groups)) == list(range(67))
    order = [speakers[group[0]] for group in groups]
    assert order != sorted(order)


def test_the_clips_of_a_category_take_turns() -> None:
    """In ten groups of one clip no clip occurs more than once more often than another of its category."""
    categories = np.repeat([0, 1], 5)
    for seed in range(20):
        speakers = np.array(["a"] * 10)
        index = np.concatenate([*draw_people(speakers, categories, 1, np.random.default_rng(seed))])
        often = np.bincount(index, minlength=10)
        assert all(np.ptp(often[categories == category]) <= 1 for category in (0, 1))


def test_batches_are_filled_where_half_of_a_group_fits() -> None:
    def sizes(groups: list[int], batch_size: int) -> list[list[int]]:
        batches = fill_batches([np.zeros(size, np.int64) for size in groups], batch_size)
        return [[len(group) for group in batch] for batch in batches]

    assert sizes([8] * 5, 16) == [[8, 8], [8, 8], [8]]
    assert sizes([8, 5, 6, 8], 16) == [[8, 5, 6], [8]]
    assert sizes([8, 8, 1], 16) == [[8, 8, 1]]  # no batch has a single clip
    assert sizes([1, 8, 8], 2) == [[1, 8], [8]]
    assert sizes([1, 1, 1], 2) == [[1, 1, 1]]
    assert sizes([1], 2) == [[1]]


@pytest.mark.parametrize("categories", [0, 3])
def test_nobody_is_left_out_and_an_epoch_is_about_as_long_as_the_corpus(categories: int) -> None:
    clips = make_clips([1] * 30 + [2] * 20 + [5] * 10 + [24] * 10)
    draw = Draw(2, itself=False, shared=True, people=8, categories=categories)
    batches = epoch_of(clips, draw, 32)
    index = np.concatenate([batch.index for batch in batches])
    assert {clips.speakers[clip] for clip in index} == set(clips.speakers)
    assert len(index) == len(clips)  # here all groups of many clips are full
    assert all(len(batch.index) < 40 for batch in batches)
    assert np.mean([len(batch.index) for batch in batches[:-1]]) == pytest.approx(32, abs=2)
    if categories == 0:
        assert sorted(index) == list(range(len(clips)))


def test_who_enrols_whom_in_a_batch() -> None:
    clips = make_clips([1] * 5 + [3] * 10 + [40] * 10)
    for batch in epoch_of(clips, PEOPLE) + epoch_of(clips, PEOPLE, number=2):
        assert batch.enrols is not None
        assert (batch.enrols.dtype, batch.enrols.shape) == (np.float32, (len(batch.index),) * 2)
        for place, row in enumerate(batch.enrols):
            own = batch.index[row == 1]
            assert set(np.unique(row)) <= {0, 1}
            assert batch.index[place] not in own
            assert {clips.speakers[clip] for clip in own} <= {clips.speakers[batch.index[place]]}


def test_a_fifth_knows_nobody_and_each_other_number_is_as_frequent() -> None:
    enrols = draw_enrols([8] * 500, 8, np.random.default_rng(0))
    found = Counter(enrols.sum(axis=1).astype(int).tolist())
    assert found[0] / 4000 == pytest.approx(0.2, abs=0.025)  # four standard deviations
    assert all(found[number] / 4000 == pytest.approx(0.8 / 7, abs=0.02) for number in range(1, 8))
    first = enrols[:8, :8]
    assert (np.diag(first) == 0).all()
    often = sum(draw_enrols([8], 8, np.random.default_rng(seed)) for seed in range(2000)) / 2000
    np.testing.assert_allclose(often[~np.eye(8, dtype=bool)], 0.8 * 4 / 7, atol=0.05)  # each other clip as often
    small = Counter(draw_enrols([3] * 1000, 8, np.random.default_rng(0)).sum(axis=1).astype(int).tolist())
    assert small[2] / 3000 == pytest.approx(0.8 * 6 / 7, abs=0.03)  # all there are
    np.testing.assert_array_equal(draw_enrols([1, 2], 0, np.random.default_rng(0)), [[0, 0, 0], [0, 0, 1], [0, 1, 0]])


def test_draws_depend_on_seed_and_epoch_alone() -> None:
    clips = make_clips([1] * 5 + [3] * 10 + [40] * 10)
    draw = Draw(2, itself=False, shared=True, people=8, categories=3)

    def drawn(seed: int, number: int) -> tuple[list[int], list[float], list[float]]:
        batches = epoch_of(clips, draw, 64, seed, number)
        parts = [
            np.concatenate([part.ravel() for part in own])
            for own in zip(*((batch.index, batch.places, batch.enrols) for batch in batches), strict=True)
        ]
        return tuple(part.tolist() for part in parts)  # type: ignore[return-value]

    first = drawn(0, 1)
    np.random.random(3)  # noqa: NPY002 - the state of the global generator must not matter
    assert drawn(0, 1) == first
    for other in (drawn(1, 1), drawn(0, 2)):
        assert all(one != another for one, another in zip(first, other, strict=True))


def binomial_interval(n: int, p: float) -> tuple[float, float]:
    """Four standard deviations about the expected share."""
    spread = 4 * (p * (1 - p) / n) ** 0.5
    return p - spread, p + spread


def test_a_clips_category_says_nothing_about_those_that_enrol_it() -> None:
    """Where all categories are as frequent, among the others of a group the own one is as frequent as any."""
    categories, speakers = np.tile(np.repeat(np.arange(10), 3), 300), np.repeat(np.arange(300).astype(str), 30)
    pairs = same = 0
    for group in draw_people(speakers, categories, 4, np.random.default_rng(0)):
        alike = categories[group][:, None] == categories[group]
        same += (alike.sum() - len(group)) // 2
        pairs += comb(len(group), 2)
    low, high = binomial_interval(pairs, 1 / 10)
    assert low < same / pairs < high
    others = 2 / 29  # of the other clips of a person so many have the own category
    assert others < low
