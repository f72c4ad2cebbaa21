"""The paired difference of two runs, against a plain loop over the same draws; and what is refused."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from exvo.errors import InputError
from exvo.evaluation.metrics import ccc, mae, s_mtl, uar
from exvo.evaluation.pairwise import Scored, comparable, doubts, paired
from exvo.evaluation.results import TRAINING
from exvo.evaluation.scoring import FEW_SPEAKERS
from exvo.reports.comparison import comparison_conclusion, comparison_text
from exvo.reports.sentences import doubt_sentences, few_speakers_sentence
from exvo.tasks import Task
from exvo.text import NO_SPEAKERS

from helpers.tables import CONDITION, predictions


def naive(table: pd.DataFrame) -> dict[str, float]:
    scores = {}
    for target in ("High", "Loud"):
        scores[f"{target.lower()}_ccc"] = ccc(table[f"truth.{target}"], table[f"prediction.{target}"])
    scores["emotion_ccc"] = (scores["high_ccc"] + scores["loud_ccc"]) / 2
    if "truth.age" in table:
        scores["country_uar"] = uar(table["truth.country"], table["prediction.country"])
        scores["age_mae"] = mae(table["truth.age"], table["prediction.age"])
        scores["s_mtl"] = s_mtl(scores["emotion_ccc"], scores["country_uar"], scores["age_mae"])
    return scores  # type: ignore[return-value]


def resamples(table: pd.DataFrame, by_speaker: bool) -> list[np.ndarray]:
    """The rows of each of the 1,000 resamples."""
    units = [np.array([clip]) for clip in range(len(table))]
    if by_speaker:
        units = [np.flatnonzero(table["speaker"] == speaker) for speaker in sorted(set(table["speaker"]))]
    draws = np.random.default_rng(0).integers(len(units), size=(1000, len(units)))
    return [np.concatenate([units[unit] for unit in draw]) for draw in draws]


def test_a_numeric_target_called_category_is_a_target() -> None:
    table = predictions(0.5, 2)
    task = Scored("r", CONDITION, 2, table.rename(columns=lambda name: name.replace("Loud", "category"))).task
    assert (task.targets, task.categories) == (("High", "category"), False)
    named = table.assign(**{"truth.category": "High", "prediction.category": "Loud"})
    task = Scored("r", CONDITION, 2, named).task
    assert (task.targets, task.categories) == (("High", "Loud"), True)


@pytest.mark.parametrize("multitask", [False, True])
def test_paired_is_the_plain_loop(multitask: bool) -> None:
    a, b = predictions(0.5, 2, multitask), predictions(0.3, 3, multitask)
    table = paired(a, b, Task("multitask" if multitask else "fewshot", ("High", "Loud"))).set_index("metric")
    assert table.index[0] == ("s_mtl" if multitask else "emotion_ccc")
    assert {"emotion_ccc", "high_ccc", "loud_ccc"} <= set(table.index)
    for by_speaker, end in ((False, ""), (True, "_by_speaker")):
        pairs = [(naive(a.iloc[rows]), naive(b.iloc[rows])) for rows in resamples(a, by_speaker)]
        for score, value in naive(a).items():
            found = table.loc[score]
            differences = np.array([second[score] - first[score] for first, second in pairs])
            assert found["a"] == pytest.approx(value)
            assert found["b"] == pytest.approx(naive(b)[score])
            assert found["value"] == pytest.approx(naive(b)[score] - value)
            assert found[f"lo{end}"] == pytest.approx(np.percentile(differences, 2.5))
            assert found[f"hi{end}"] == pytest.approx(np.percentile(differences, 97.5))
            wins = np.mean(differences < 0) if score == "age_mae" else np.mean(differences > 0)
            assert found[f"wins{end}"] == pytest.approx(wins)
    if multitask:
        assert table.loc["age_mae", "value"] < 0
        assert table.loc["age_mae", "wins"] > 0.5


def test_a_run_compared_with_itself_shows_nothing() -> None:
    table = paired(predictions(0.4, 2), predictions(0.4, 2), Task("fewshot", ("High", "Loud")))
    assert (table[["value", "lo", "hi", "wins", "lo_by_speaker", "wins_by_speaker"]] == 0).all(axis=None)
    assert "includes zero: no difference is shown" in comparison_conclusion(table)


def test_an_undefined_score_is_undefined_and_the_others_are_not() -> None:
    """A constant truth and a constant prediction have no CCC."""
    a, b = predictions(0.4, 2), predictions(0.3, 3)
    for table in (a, b):
        table["truth.Loud"] = 0.5
    a["prediction.Loud"] = 0.25
    table = paired(a, b, Task("fewshot", ("High", "Loud"))).set_index("metric")
    assert table.loc[["loud_ccc", "emotion_ccc"], ["value", "lo", "hi", "wins", "lo_by_speaker"]].isna().all(axis=None)
    assert table.loc["high_ccc"].notna().all()
    assert comparison_conclusion(table.reset_index()) == "The difference of CCC is undefined: no difference is shown."


def test_constant_predictions_have_no_difference() -> None:
    a, b = predictions(0.4, 2), predictions(0.3, 3)
    b["prediction.Loud"] = 0.25
    task = Task("fewshot", ("High", "Loud"))
    table = paired(a, b, task)
    rows = table.set_index("metric")
    assert rows.loc[["loud_ccc", "emotion_ccc"], ["b", "value", "lo", "hi", "wins"]].isna().all(axis=None)
    assert rows.loc["high_ccc"].notna().all()
    few, constant = doubt_sentences(doubts([("a", a), ("b", b)], task))
    assert few == few_speakers_sentence(10)
    assert constant.startswith("b predicts the same for every clip in Loud: the CCC is undefined there")
    runs = pd.DataFrame([dict.fromkeys((*TRAINING, "system", "run"), "x") | {"evaluation": ""}] * 2)
    text = comparison_text(CONDITION, runs, table, a, [few, constant])
    (line,) = [line for line in text.splitlines() if line.startswith("| CCC  ")]
    assert re.fullmatch(r"\| CCC +(\| undefined +){5}\| [^|]+\| undefined +\|", line)
    assert text.endswith(f"The difference of CCC is undefined: no difference is shown.\n\n{few}\n\n{constant}\n")


def test_enough_speakers_raise_no_doubt() -> None:
    table = predictions(0.4, 2)
    table["speaker"] = [f"s{clip % FEW_SPEAKERS}" for clip in range(60)]
    task = Task("fewshot", ("High", "Loud"))
    assert doubt_sentences(doubts([("a", table)], task)) == []
    assert len(doubt_sentences(doubts([("a", table.assign(speaker=table["speaker"].replace("s0", "s1")))], task))) == 1
    unknown = table.assign(speaker="")
    assert doubt_sentences(doubts([("a", unknown)], task)) == [NO_SPEAKERS]  # nothing is resampled by speaker


def test_unknown_speakers_leave_out_what_is_by_speaker() -> None:
    a, b = predictions(0.4, 2), predictions(0.3, 3)
    a.loc[5, "speaker"] = b.loc[5, "speaker"] = ""
    table = paired(a, b, Task("fewshot", ("High", "Loud")))
    assert table["lo"].notna().all()
    assert table[["lo_by_speaker", "hi_by_speaker", "wins_by_speaker"]].isna().all(axis=None)
    assert comparison_conclusion(table).endswith("its 95% interval by speaker is undefined: no difference is shown.")


def test_a_speaker_recogniser_is_compared_by_clip() -> None:
    rng = np.random.default_rng(4)
    a = predictions(0.4, 2)[["file", "split", "speaker", "scored"]]
    a["truth.speaker"] = a["speaker"]
    b = a.assign(**{"prediction.speaker": np.where(rng.random(60) < 0.9, a["speaker"], "s0")})
    a["prediction.speaker"] = np.where(rng.random(60) < 0.3, a["speaker"], "s0")
    condition = replace(CONDITION, task="speaker")
    table = paired(*comparable(Scored("one", condition, 2, a), Scored("two", condition, 2, b)))
    assert comparison_conclusion(table).startswith("b beats a by 0.")
    assert "95% interval by clip [" in comparison_conclusion(table)
    assert table["lo_by_speaker"].isna().all()


def scored(**different: object) -> Scored:
    """A run under `CONDITION`, unless `different` says otherwise."""
    fields = {name: value for name, value in different.items() if name not in ("run", "shots", "predictions")}
    rest = {"run": "one", "shots": 2, "predictions": predictions(0.4, 2)} | different
    return Scored(rest["run"], replace(CONDITION, **fields), rest["shots"], rest["predictions"])  # type: ignore[arg-type]


def test_tables_are_aligned_by_file_and_enrolment_clips_left_out() -> None:
    a, b = predictions(0.4, 2), predictions(0.3, 3)
    a.loc[[3, 4], "scored"] = b.loc[[3, 4], "scored"] = False
    shuffled = b.sample(frac=1, random_state=5)
    first, second, task = comparable(scored(predictions=a), scored(run="two", predictions=shuffled))
    assert (
        first["file"].tolist() == second["file"].tolist() == [f"{clip}.wav" for clip in range(60) if clip not in (3, 4)]
    )
    pd.testing.assert_frame_equal(second[b.columns], b.drop([3, 4]).reset_index(drop=True))
    assert task == Task("fewshot", ("High", "Loud"))


@pytest.mark.parametrize(
    ("different", "sentence"),
    [
        (
            {"digest": "b" * 64},
            "their corpora differ, table aaaaaaaaaaaa and table bbbbbbbbbbbb; train both on one corpus.",
        ),
        ({"task": "multitask"}, "their tasks differ, fewshot and multitask; train both for one task."),
        ({"protocol": "published"}, "their protocols differ, strict and published; evaluate one of them again"),
        ({"shots": 4}, "their shots differ, 2 and 4; evaluate one of them again"),
        (
            {"predictions": predictions(0.4, 2).rename(columns=lambda name: name.replace("Loud", "Calm"))},
            "their targets differ, High, Loud and High, Calm;",
        ),
        (
            {"predictions": predictions(0.4, 2)[2:]},
            "they score 60 and 58 clips, of which these are scored by one alone: 0.wav, 1.wav;",
        ),
    ],
)
def test_what_can_not_be_compared_is_refused(different: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError) as error:
        comparable(scored(), scored(run="two", **different))
    assert str(error.value).startswith(f"The runs one and two can't be compared: {sentence}")


def test_shots_may_differ_where_all_clips_are_scored() -> None:
    first, _, _ = comparable(scored(protocol="published"), scored(protocol="published", run="two", shots=8))
    assert len(first) == 60


def test_a_split_without_labels_is_refused() -> None:
    table = predictions(0.4, 2)
    table[["truth.High", "truth.Loud"]] = np.nan
    with pytest.raises(InputError, match="0 clips of the val split are scored and have labels; it takes two"):
        comparable(scored(predictions=table), scored(run="two", predictions=table))


def test_the_conclusion_names_the_better_run() -> None:
    poor, good = predictions(1.0, 2), predictions(0.05, 3)
    task = Task("fewshot", ("High", "Loud"))
    row = paired(poor, good, task).iloc[0]
    said = f"{row['value']:.4f} CCC, 95% interval by speaker "
    assert comparison_conclusion(paired(poor, good, task)) == (
        f"b beats a by {said}[{row['lo_by_speaker']:.4f}, {row['hi_by_speaker']:.4f}], which excludes zero."
    )
    assert comparison_conclusion(paired(good, poor, task)) == comparison_conclusion(paired(poor, good, task)).replace(
        "b beats a", "a beats b"
    )
