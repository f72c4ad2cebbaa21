"""What reports and verdicts say: their first sentence, whether enrolment helps, and the clips to hear."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from exvo.evaluation import scoring
from exvo.evaluation.groups import Chance
from exvo.reports.groups import decile_sentence
from exvo.reports.listening import worst_and_best
from exvo.reports.names import explained_name, score_name
from exvo.reports.sentences import few_speakers_sentence
from exvo.tasks import Task

from helpers.reports import ABOUT, FEWSHOT, made, section, table, text_of


def test_no_identifier_is_shown() -> None:
    predictions = table(600, 30)
    noisy = predictions.assign(
        **{"prediction.Awe": predictions["prediction.Awe"].sample(frac=1, random_state=1).to_numpy()}
    )
    everyone = dict.fromkeys(("typical", "wrong", "permuted", "corrected"), noisy)
    categories = predictions.assign(**{"truth.category": "Awe", "prediction.category": "Fear"})
    categories.loc[::2, "truth.category"] = "Fear"
    epochs = ABOUT.epochs.assign(category_uar=0.5, category_log_loss=0.7)
    for page in (
        made(predictions, enrolled=everyone),
        made(categories, replace(FEWSHOT, categories=True), epochs=epochs),
    ):
        text = text_of(page.html())
        assert not re.findall(r"\b(?:emotion|category|country|speaker|age|awe|fear)_\w+", text)


def test_every_score_has_a_name() -> None:
    predictions = table()
    predictions["truth.category"], predictions["prediction.category"] = "Awe", "Fear"
    predictions["truth.age"], predictions["prediction.age"] = 30.0, 40.0
    predictions["truth.country"] = predictions["prediction.country"] = predictions["country"]
    predictions["truth.speaker"] = predictions["prediction.speaker"] = predictions["speaker"]
    shares = predictions["prediction.Awe"] / predictions[["prediction.Awe", "prediction.Fear"]].sum(axis=1)
    predictions["prediction.Awe"], predictions["prediction.Fear"] = shares, 1 - shares
    tasks = (
        replace(FEWSHOT, categories=True),
        Task("multitask", FEWSHOT.targets, ("Chile", "Kenya")),
        Task("speaker", (), speakers=("s0",)),
    )
    metrics = {metric for task in tasks for metric in scoring.score(predictions, task)["metric"]}
    assert {"category_ece", "s_mtl", "speaker_uar", "category_uar_speaker_std"} <= metrics
    assert {metric for metric in metrics if score_name(metric).startswith("CCC of ")} == {"awe_ccc", "fear_ccc"}
    assert not [metric for metric in metrics if "_" in explained_name(metric).replace("S_MTL", "")]


@pytest.mark.parametrize(
    ("categories", "different", "said"),
    [
        (True, {}, "cnn14 names the right one of 2 categories in {} of clips of 12 people that it has not heard ("),
        (False, {}, "2 emotions are in clips of 12 people that it has not heard with a CCC of {} (1 is perfect; "),
        (False, {"synthetic": True}, "in clips of 12 synthetic voices that it has not heard with"),
        (False, {"people": "clips it has not heard"}, "in clips that it has not heard, of 12 people with"),
        (False, {"people": "its own training clips"}, "in clips that it was trained on, of 12 people with"),
        (False, {"published": 0.6}, "; chance is 0; the published figure is 0.600."),
    ],
)  # fmt: skip
def test_the_page_begins_with_what_is_recognised_how_well(
    categories: bool, different: dict[str, Any], said: str
) -> None:
    predictions, task = table(), FEWSHOT
    if categories:
        predictions["truth.category"] = np.where(predictions.index % 2, "Awe", "Fear")
        predictions["prediction.category"] = np.where(predictions.index % 8 < 7, predictions["truth.category"], "Fear")
        task = replace(task, categories=True)
        said = said.format(f"{(0.75 + 1) / 2:.1%}")
    value = scoring.score_epoch(predictions, task)[scoring.headline(task)]
    page = made(predictions, task, **different)
    assert said.format(f"{value:.3f}") in page.lead
    assert page.html().index(page.lead[:40]) < page.html().index('class="tile"')
    assert page.lead.count(".") - len(re.findall(r"\d\.\d", page.lead)) == 1  # one sentence


def test_the_first_sentence_says_when_nothing_is_shown_to_be_learnt() -> None:
    predictions = table()
    for emotion in FEWSHOT.targets:
        predictions[f"prediction.{emotion}"] = np.random.default_rng(9).random(len(predictions))
    assert made(predictions).lead.endswith("), which is not shown to be better than chance, 0.")
    undefined = made(predictions.assign(**{"prediction.Awe": 0.5}))
    assert undefined.lead == (
        "How well cnn14 does on clips of 12 people that it has not heard is not known: its CCC is undefined."
    )


def test_the_worst_and_the_best_clips_can_be_heard() -> None:
    predictions = table(60)
    errors = sum(np.abs(predictions[f"truth.{one}"] - predictions[f"prediction.{one}"]) for one in FEWSHOT.targets)
    worst, best = predictions["file"][errors.nlargest(4).index], predictions["file"][errors.nsmallest(4).index]
    sounds = {file: f"mp3 of {file}".encode() for file in [*worst, *best]}
    shown = section(made(predictions, sounds=sounds), "Worst and best clips")
    assert [sound.mp3.decode() for sound in shown.sounds] == [f"mp3 of {file}" for file in [*worst, *best]]
    assert [sound.heading for sound in shown.sounds][3:5] == ["worst 4", "best 1"]
    html = made(predictions, sounds=sounds).html()
    addresses = re.findall(r'<audio controls preload="metadata" src="data:audio/mpeg;base64,([^"]+)">', html)
    assert [base64.b64decode(address) for address in addresses] == list(sounds.values())
    assert "Worst and best clips" not in [one.title for one in made(predictions).sections]


def test_of_categories_the_worst_clip_is_that_of_whose_category_least_is_said() -> None:
    rng = np.random.default_rng(4)
    predictions = table(40)
    predictions["truth.category"] = np.where(predictions.index % 2, "Awe", "Fear")
    predictions["prediction.Awe"] = rng.random(40)
    predictions["prediction.Fear"] = 1 - predictions["prediction.Awe"]
    predictions["prediction.category"] = np.where(predictions["prediction.Awe"] > 0.5, "Awe", "Fear")
    of_true = np.where(predictions.index % 2, predictions["prediction.Awe"], predictions["prediction.Fear"])
    worst, best = worst_and_best(predictions, replace(FEWSHOT, categories=True))
    assert (worst, best) == (np.argsort(of_true)[:4].tolist(), np.argsort(-of_true)[:4].tolist())
    few, others = worst_and_best(predictions.head(3), replace(FEWSHOT, categories=True))
    assert len(few) == len(others) == 1
    sounds = {predictions["file"][worst[0]]: b"mp3"}
    (sound,) = section(
        made(predictions, replace(FEWSHOT, categories=True), sounds=sounds), "Worst and best clips"
    ).sounds
    true, other = predictions["truth.category"][worst[0]], {"Awe": "Fear", "Fear": "Awe"}
    assert sound.said == f"{true}; heard as {other[true]} {1 - of_true[worst[0]]:.0%}, {true} {of_true[worst[0]]:.0%}"


@pytest.mark.parametrize(
    ("right", "none", "another", "told"),
    [
        (0.0, 0.3, 0.3, ("helps: ", "It is the speaker that helps: ")),
        (0.0, 0.3, 0.0, ("helps: ", "Nothing shows that it is the speaker: ")),
        (0.1, 0.4, 0.0, ("helps: ", "It is not the speaker that helps: ")),
        (0.1, 0.1, 0.4, ("is not shown to help: ", "The model does hear who speaks: ")),
        (0.1, 0.1, 0.1, ("is not shown to help: ", "Nothing shows that the model hears who speaks: ")),
        (0.4, 0.0, 0.0, ("harms: ", "Another speaker's clips do better: ")),
    ],
)
def test_enrolment_says_whether_it_helps_once(right: float, none: float, another: float, told: tuple[str, str]) -> None:
    rng = np.random.default_rng(5)
    tables = {}
    for name, noise in (("right", right), ("typical", none), ("wrong", another)):
        tables[name] = table(600, 30)
        for emotion in FEWSHOT.targets:
            tables[name][f"prediction.{emotion}"] += noise * rng.normal(size=600)
    own = tables.pop("right")
    page = made(own, enrolled=tables | {"wrong": tables["wrong"].sample(frac=1, random_state=0)})
    shown = section(page, "Enrolment")
    value = {name: scoring.score_epoch(one, FEWSHOT)["emotion_ccc"] for name, one in (tables | {"right": own}).items()}
    numbers = shown.numbers.set_index("enrolment")
    for name, one in value.items():
        assert numbers.loc[name, "value"] == pytest.approx(one)
        assert numbers.loc[name, "right_over_it"] == pytest.approx(value["right"] - one)
    gain, over_another = (f"{value['right'] - value[name]:+.3f} [" for name in ("typical", "wrong"))
    first, second = shown.text[0].split(". ")
    assert first.startswith(f"Enrolment with 2 clips {told[0]}CCC is {gain}")
    assert second.startswith(f"{told[1]}over another speaker's clips it is {over_another}")
    assert shown.text[1].startswith("The lowest tenth of the speakers has a CCC of ")
    assert page.tiles[1][:2] == ("CCC, enrolment over none", gain.rstrip(" ["))


def test_enrolment_shows_every_row_with_its_spread_over_speakers() -> None:
    right, rng = table(), np.random.default_rng(5)
    noisy = {}
    for name, noise in (("permuted", 0.4), ("typical", 0.2), ("wrong", 0.3), ("corrected", 0.05)):
        noisy[name] = right.copy()
        for emotion in FEWSHOT.targets:
            noisy[name][f"prediction.{emotion}"] += noise * rng.normal(size=len(right))
    shown = section(made(right, enrolled=noisy), "Enrolment")
    numbers = shown.numbers.set_index("enrolment")
    assert numbers.index.tolist() == ["right", "corrected", "typical", "wrong", "permuted"]
    assert set(numbers["metric"]) == {"emotion_ccc"}
    for name, predictions in (noisy | {"right": right}).items():
        of = [scoring.score_epoch(own, FEWSHOT)["emotion_ccc"] for _, own in predictions.groupby("speaker")]
        assert numbers.loc[name, "speaker_mean"] == pytest.approx(np.mean(of))
        assert numbers.loc[name, "speaker_std"] == pytest.approx(np.std(of))
        assert numbers.loc[name, "lowest_tenth"] == pytest.approx(np.mean(sorted(of)[: -(-len(of) // 10)]))
    assert "It does more than a correction of shares that needs no training: +0." in shown.text[0]
    assert shown.text[0].startswith("As far as 12 speakers can tell, enrolment with 2 clips helps: ")
    assert shown.text[0].endswith(few_speakers_sentence(12))
    assert [column.title for column in shown.table[-2:]] == ["mean over speakers", "standard deviation"]


def test_a_plain_systems_corrected_shares_stand_beside_its_own() -> None:
    right = table()
    shown = section(made(right, enrolled={"corrected": right}), "Enrolment")
    assert shown.text == [
        "The system takes no enrolment. What correcting its shares by 2 clips of the speaker, without training, adds "
        "to CCC is +0.000 [0.000, 0.000]."
    ]
    assert shown.table[0].cells == [
        "none (the system takes no enrolment)",
        "none, shares corrected by the speaker's clips",
    ]
    assert shown.numbers["right_over_it"].tolist() == [0, 0]


def test_the_decile_sentence() -> None:
    row = {"value": 0.1, "lo_by_speaker": 0.05, "hi_by_speaker": 0.2, "n": 2}
    worse, no_worse = (decile_sentence(row, "CCC", 20, Chance(0.2, low, 0.25)) for low in (0.15, 0.05))
    assert worse.endswith("some people are served worse than chance explains.")
    assert no_worse.endswith("no more than chance explains.")
