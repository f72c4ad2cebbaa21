"""Enrolment: the protocols of evaluation and the draws of training, against tables by hand and plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from exvo.enrolment import (
    Draw,
    Enrolment,
    choose_enrolment,
    clips_by_speaker,
    draw_by_category,
    draw_clips,
    draw_groups,
    enrol_wrong_speakers,
    permute_enrolment,
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


def independent(
    speakers: list[str], shots: int, categories: list[str] | None, recordings: list[str] | None = None
) -> Enrolment:
    files = [f"{number}.wav" for number in range(len(speakers))]
    return choose_enrolment(speakers, "independent", shots, recordings, files, categories)


def test_independent_protocol_by_its_rules() -> None:
    speakers = [*SPEAKERS, *["d"] * 30]
    categories = [*"xyxyxyxyx", *["x", "y", "z"] * 10]
    found = independent(speakers, 4, categories)
    assert found.scored.all()
    assert (found.short, found.copies, found.protocol) == (["", "a", "b", "c"], 0, "independent")
    for clip, own in enumerate(found.clips):
        there = 0 if speakers[clip] == "" else speakers.count(speakers[clip]) - 1
        assert len(set(own.tolist())) == len(own) == min(4, there)
        assert clip not in own
        assert all(speakers[other] == speakers[clip] for other in own)
    # of a's clips 0, 2, 5, 7 the first two are x, of b's 1 and 4 one is y and one x
    assert found.only_ones == 2
    fewer = independent(speakers, 2, categories)  # with fewer clips the first of them
    assert all(own[:2].tolist() == few.tolist() for own, few in zip(found.clips, fewer.clips, strict=True))
    without = independent(speakers, 4, None)
    assert without.only_ones == 0
    assert [len(own) for own in without.clips] == [len(own) for own in found.clips]


def test_a_copy_does_not_enrol_its_clip_under_independent() -> None:
    found = independent(["a", "a", "a", "b", "b"], 8, None, ["1", "1", "2", "3", "3"])
    assert [own.tolist() for own in found.clips[:2]] == [[2], [2]]
    assert sorted(found.clips[2].tolist()) == [0, 1]
    assert [own.tolist() for own in found.clips[3:]] == [[], []]
    assert found.short == ["a", "b"]


def test_independent_draws_depend_neither_on_other_speakers_nor_on_the_order() -> None:
    rng = np.random.default_rng(0)
    table = [(f"{number:03}.wav", f"s{number % 7}", "xyz"[number // 7 % 3]) for number in range(105)]

    def drawn(rows: list[tuple[str, str, str]]) -> dict[str, list[str]]:
        files, speakers, categories = map(list, zip(*rows, strict=True))
        found = choose_enrolment(speakers, "independent", 3, None, files, categories)
        return {file: [files[clip] for clip in own] for file, own in zip(files, found.clips, strict=True)}

    every = drawn(table)
    assert drawn([table[number] for number in rng.permutation(105)]) == every
    some = drawn([row for row in table if row[1] in ("s1", "s4")])
    assert some == {file: every[file] for file in some}
    assert len({tuple(own) for own in every.values()}) > 90  # each clip has a draw of its own


def test_under_independent_the_own_category_is_as_frequent_as_any() -> None:
    """Over 400 speakers with three clips of each of ten categories; the clips that are left have it less often."""
    speakers = np.repeat([f"s{number:03}" for number in range(400)], 30).tolist()
    categories = [str(number // 3 % 10) for number in range(len(speakers))]
    files = [f"{number}.wav" for number in range(len(speakers))]
    rng = np.random.default_rng(0)
    others = np.stack([rng.choice(np.delete(np.arange(30), clip % 30), 2, replace=False) for clip in range(12_000)])
    drawn = np.stack(choose_enrolment(speakers, "independent", 2, None, files, categories).clips)
    numbers = np.array(categories)
    own = (numbers[drawn] == numbers[:, None]).mean()
    spread = (0.1 * 0.9 / drawn.size) ** 0.5
    assert abs(own - 0.1) < 4 * spread  # standard deviations of a binomial share
    left = (numbers[others + np.arange(12_000)[:, None] // 30 * 30] == numbers[:, None]).mean()
    assert left < 0.1 - 8 * spread  # 2 of 29
    shares = np.bincount(numbers[drawn].ravel().astype(int)) / drawn.size
    np.testing.assert_allclose(shares, 0.1, atol=4 * spread)


def test_clips_are_drawn_by_the_shares_of_their_categories() -> None:
    categories = np.array([0] * 6 + [1] * 2 + [2])
    shares = np.array([0.5, 0.2, 0.1, 0.2])  # the person has no clip of the last
    candidates = np.arange(9)
    rng = np.random.default_rng(0)
    first = np.concatenate(
        [draw_by_category(rng.permutation(candidates), categories, shares, 1, rng) for _ in range(4000)]
    )
    found = np.bincount(categories[first]) / len(first)
    np.testing.assert_allclose(found, [5 / 8, 2 / 8, 1 / 8], atol=0.03)  # four standard deviations
    np.testing.assert_allclose(np.bincount(first)[:6] / len(first), 5 / 8 / 6, atol=0.02)
    every = draw_by_category(candidates, categories, shares, 20, rng)
    assert sorted(every) == list(range(9))
    assert [clip for clip in every.tolist() if clip < 6] == list(range(6))  # in their order
    assert len(draw_by_category(candidates[:0], categories, shares, 3, rng)) == 0


def test_wrong_speakers_and_permuted_clips_under_independent() -> None:
    speakers = [*["a"] * 5, "b", *["c"] * 3, "", *["d"] * 4]
    found = independent(speakers, 2, None)
    wrong = enrol_wrong_speakers(found, speakers)
    others = {"a": "c", "c": "d", "d": "a"}
    for clip, own in enumerate(wrong):
        assert {speakers[other] for other in own} == ({others[speakers[clip]]} if speakers[clip] in others else set())
    assert [own.tolist() for own in wrong[:5]] == [found.clips[clip].tolist() for clip in (6, 7, 8, 6, 7)]
    permuted = permute_enrolment(found)
    assert all(clip not in own for clip, own in enumerate(permuted))
    given = sorted(tuple(own.tolist()) for own in found.clips if len(own))
    assert sum(len(own) > 0 for own in permuted) == len(given)
    whole = [tuple(own.tolist()) for own in permuted if len(own) == 2]
    assert set(whole) <= set(given)
    assert len(whole) >= len(given) - 4
    assert any(own.tolist() != mine.tolist() for own, mine in zip(permuted, found.clips, strict=True))
    none = independent(["a", "b"], 2, None)
    assert [own.tolist() for own in permute_enrolment(none)] == [[], []]
