"""Enrolment: the protocols of evaluation and the draws of training, against tables by hand and plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from exvo.enrolment import (
    Draw,
    choose_enrolment,
    clips_by_speaker,
    draw_clips,
    draw_groups,
    enrol_wrong_speakers,
    plan_encodings,
)

SPEAKERS = ["a", "b", "a", "c", "b", "a", "", "a", ""]  # four clips, two, one, and two of unknown speakers


def told(speakers: list[str], protocol: str, shots: int) -> tuple[list[list[int]], list[bool], list[str]]:
    found = choose_enrolment(speakers, protocol, shots)
    return [own.tolist() for own in found.clips], found.scored.tolist(), found.short


def test_members_are_in_file_order() -> None:
    assert {name: own.tolist() for name, own in clips_by_speaker(SPEAKERS).items()} == {
        "": [6, 8],
        "a": [0, 2, 5, 7],
        "b": [1, 4],
        "c": [3],
    }


def test_published_protocol_by_hand() -> None:
    clips, scored, short = told(SPEAKERS, "published", 2)
    a, b, c = [0, 2], [1, 4], [3]
    assert clips == [a, b, a, c, b, a, [], a, []]
    assert scored == [True] * 9
    assert short == ["", "c"]


def test_strict_protocol_by_hand() -> None:
    clips, scored, short = told(SPEAKERS, "strict", 2)
    assert clips == [[2], [], [0], [], [1], [0, 2], [], [0, 2], []]  # a clip that enrols does not enrol itself
    assert scored == [False, False, False, True, True, True, True, True, True]
    assert short == ["", "b", "c"]
    clips, scored, short = told(["a", "a", "a"], "strict", 16)
    assert (clips, scored, short) == ([[1], [0], [0, 1]], [False, False, True], ["a"])


def test_copies_of_clips_that_enrol_are_not_scored_under_strict() -> None:
    speakers = ["a", "b", "a", "a", "b", "a", "", ""]
    recordings = ["1", "2", "3", "1", "1", "4", "1", "1"]  # b's second clip is a copy of one that enrols a, not b
    found = choose_enrolment(speakers, "strict", 2, recordings)
    assert found.scored.tolist() == [False, False, False, False, True, True, True, True]
    assert found.copies == 1
    assert [own.tolist() for own in found.clips] == told(speakers, "strict", 2)[0]
    published = choose_enrolment(speakers, "published", 2, recordings)
    assert (published.scored.all(), published.copies) == (True, 0)
    alone = choose_enrolment(["a", "a"], "strict", 2, ["1", "1"])
    assert (alone.scored.tolist(), alone.copies) == ([False, False], 1)


@pytest.mark.parametrize("shots", range(1, 17))
@pytest.mark.parametrize("protocol", ["published", "strict"])
def test_protocols_against_a_plain_loop(protocol: str, shots: int) -> None:
    counts = {"": 4} | {f"s{count:02d}": count for count in range(1, 21)}
    speakers = [name for name, count in counts.items() for _ in range(count)]
    np.random.default_rng(shots).shuffle(speakers)
    found = choose_enrolment(np.array(speakers), protocol, shots)
    for clip, speaker in enumerate(speakers):
        file_order = [other for other in range(len(speakers)) if speakers[other] == speaker]
        first = file_order[:shots] if speaker else []
        if protocol == "strict":
            first = [other for other in first if other != file_order[-1]]  # the last clip is always scored
            assert clip not in found.clips[clip]
            assert found.scored[clip] == (clip not in first)
            first = [other for other in first if other != clip]
        assert found.clips[clip].tolist() == first
    assert protocol == "strict" or found.scored.all()
    needed = shots + (protocol == "strict")
    assert found.short == [name for name, count in sorted(counts.items()) if not name or count < needed]
    assert {speakers[clip] for clip in np.flatnonzero(found.scored)} == set(counts)  # each speaker is scored


@pytest.mark.parametrize("itself", [True, False])
@pytest.mark.parametrize("shots", [1, 2, 3, 16])
def test_drawn_clips_are_others_of_the_speaker(shots: int, itself: bool) -> None:
    speakers = np.array(["a"] * 4 + ["b"] * 2 + ["c"] * 20)
    np.random.default_rng(0).shuffle(speakers)
    seen = np.zeros((len(speakers), len(speakers)), bool)
    rng = np.random.default_rng(1)
    for _ in range(400):
        drawn = draw_clips(speakers, Draw(shots, itself, shared=False), rng)
        assert drawn.shape == (len(speakers), shots)
        for clip, row in enumerate(drawn):
            seen[clip, row] = True
            there = np.sum(speakers == speakers[clip]) - (not itself)
            counts = np.bincount(row)
            assert len(np.unique(row)) == min(shots, there)  # without replacement, as far as there are clips
            assert counts.max() == -(-shots // there)  # and then again in turn
    allowed = speakers[:, None] == speakers[None, :]  # over many draws every clip that may enrol does, and no other
    np.testing.assert_array_equal(seen, allowed if itself else allowed & ~np.eye(len(speakers), dtype=bool))


def test_draws_are_even() -> None:
    draws = np.stack([draw_clips(["a"] * 5, Draw(2, True, False), np.random.default_rng(i)) for i in range(4000)])
    share = np.stack([(draws == clip).any(axis=2).mean(axis=0) for clip in range(5)])
    np.testing.assert_allclose(share, 0.4, atol=0.04)  # two of five; five standard deviations
    assert not np.array_equal(draws[0], draws[1])


def test_a_single_clip_of_a_published_speaker_enrols_itself() -> None:
    drawn = draw_clips(["a", "b"], Draw(2, True, False), np.random.default_rng(0))
    assert drawn.tolist() == [[0, 0], [1, 1]]
    with pytest.raises(AssertionError):
        draw_clips(["a", "b"], Draw(2, False, False), np.random.default_rng(0))


@pytest.mark.parametrize("size", [2, 3, 5])
def test_groups_hold_every_clip_once_and_one_speaker_each(size: int) -> None:
    speakers = np.array([name for name, count in (("a", 1), ("b", 2), ("c", 7), ("d", 24)) for _ in range(count)])
    np.random.default_rng(0).shuffle(speakers)
    groups = draw_groups(speakers, size, np.random.default_rng(3))
    np.testing.assert_array_equal(np.sort(np.concatenate(groups)), np.arange(34))
    for group in groups:
        (speaker,) = np.unique(speakers[group])
        count = int(np.sum(speakers == speaker))
        assert min(count, size) <= len(group) < 2 * size
    assert sum(speakers[group[0]] == "d" for group in groups) == 24 // size
    again, other = (draw_groups(speakers, size, np.random.default_rng(seed)) for seed in (3, 4))
    assert [group.tolist() for group in again] == [group.tolist() for group in groups]
    assert [group.tolist() for group in other] != [group.tolist() for group in groups]
    order = [speakers[group[0]] for group in groups]
    assert order != sorted(order)  # the groups are in random order, not speaker by speaker


@pytest.mark.parametrize("protocol", ["published", "strict"])
def test_swap_gives_everyone_the_clips_of_the_next_speaker_who_enrols(protocol: str) -> None:
    speakers = [*SPEAKERS, "d", "d", "d"]
    found = [own.tolist() for own in enrol_wrong_speakers(choose_enrolment(speakers, protocol, 2), speakers)]
    a, b, c, d = [0, 2], [1, 4] if protocol == "published" else [1], [3], [9, 10]
    after_b = c if protocol == "published" else d
    after_c = d if protocol == "published" else []
    assert found == [b, after_b, b, after_c, after_b, b, [], b, [], a, a, a]


def test_encodings_by_hand() -> None:
    """Under `published` a clip is as long as the longest of its list; a pair of clip and length occurs once."""
    frames = np.array([3, 9, 5, 9])
    lists = [np.array(own, np.int64) for own in ([0, 1], [], [2, 0], [1, 0], [3])]
    for protocol, pairs, own in (
        ("published", [(0, 5), (0, 9), (1, 9), (2, 5), (3, 9)], [[1, 2], [], [3, 0], [2, 1], [4]]),
        ("strict", [(0, 3), (1, 9), (2, 5), (3, 9)], [[0, 1], [], [2, 0], [1, 0], [3]]),
        (None, [(0, 3), (1, 9), (2, 5), (3, 9)], [[0, 1], [], [2, 0], [1, 0], [3]]),
    ):
        found = plan_encodings(lists, frames, protocol)
        assert list(zip(found.clips.tolist(), found.frames.tolist(), strict=True)) == pairs
        assert [one.tolist() for one in found.rows] == own
    nobody = plan_encodings([np.zeros(0, np.int64)] * 2, np.zeros(0), "published")
    assert (len(nobody.clips), [one.tolist() for one in nobody.rows]) == (0, [[], []])
    assert plan_encodings([], frames, "published").rows == []
