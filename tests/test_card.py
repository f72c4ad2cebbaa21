"""The model card: its figures against the score table, and that it stays short and plain whatever the names are."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import pytest

from exvo.evaluation import scoring
from exvo.evaluation.pairwise import Scored
from exvo.evaluation.results import Condition
from exvo.reports import card
from exvo.systems import SYSTEMS
from exvo.tasks import Task

from helpers.cards import AUDIT, ENROLLED, OPTIONS, PART, TASK, predictions


def facts(
    table: pd.DataFrame, task: Task = TASK, corpus: str = "emogator", encoder: str = "none", **different: Any
) -> card.CardFacts:
    """What is known of a run on a corpus, under the strict protocol."""
    about = Scored("run", Condition(corpus, "a1" * 32, "fewshot", "strict", "val"), 2, table)
    settings = {"options": OPTIONS, "system": {"enrolment": encoder}}
    lineage = {"exvo.system": "cnn14-random-init", "git.commit": "c" * 40}
    scores = {"val": scoring.score(table, task)}
    every = card.CardFacts("run (id)", "train", lineage, settings, AUDIT, {"torch": "2.11.0"}, 2, about, scores, None)
    return dataclasses.replace(every, **different)


def test_the_figures_are_those_of_the_score_table() -> None:
    """The worst country is scored here from its own clips alone."""
    table = predictions(0.2, clips=240, speakers=24)
    kenya = table["country"] == "Kenya"
    table.loc[kenya, "prediction.Loud"] = 0.5 + 0.5 * np.random.default_rng(3).normal(size=int(kenya.sum()))
    text = card.card(facts(table)).replace("\N{NO-BREAK SPACE}", "")
    scores = scoring.score(table, TASK).set_index("metric")
    cells = {
        tuple(cell.strip() for cell in line.strip("|").split("|")) for line in text.splitlines() if line.startswith("|")
    }
    titles = {
        "emotion_ccc": "CCC, mean over the emotions",
        "emotion_mae": "mean absolute error",
        "emotion_ccc_worst_country": "CCC, worst country",
        "emotion_ccc_lowest_speaker_decile": "CCC, lowest tenth of speakers",
    }
    for metric, title in titles.items():
        row = scores.loc[metric]
        by_clip = "" if metric.endswith("_decile") else f"[{row['lo']:.3f}, {row['hi']:.3f}]"
        by_speaker = f"[{row['lo_by_speaker']:.3f}, {row['hi_by_speaker']:.3f}]"
        assert ("val", title, f"{row['value']:.3f}", by_clip, by_speaker, f"{row['n']:.0f}") in cells
    assert ("val", "1,234", "8", "0.01") in cells
    worst = scoring.score(table[kenya], TASK).set_index("metric").loc["emotion_ccc", "value"]
    assert f"Worst country on val: Kenya ({worst:.3f})." in text
    low, high = (scores.loc[f"{name}_ccc", "value"] for name in ("loud", "high"))
    assert f"Worst label on val: Loud ({low:.3f}); best: High ({high:.3f})." in text
    assert "The intervals by speaker resample 24 speakers; over fewer than 30 they are too narrow" in text
    assert "the test split has not been scored" in text
    assert "emotion_ccc" not in text
    assert "lowest tenth" not in card.card(facts(predictions(0.2)))  # one of eight people


def test_test_scores_stand_beside_those_of_val() -> None:
    of_test = scoring.score(predictions(0.4, seed=9), TASK)
    every = facts(predictions(0.2))
    text = card.card(dataclasses.replace(every, scores=dict(every.scores) | {"test": of_test}))
    (line,) = [line for line in text.splitlines() if line.startswith("| test") and "CCC, mean" in line]
    assert f"{of_test.set_index('metric').loc['emotion_ccc', 'value']:.3f}" in line
    assert "has not been scored" not in text


@pytest.mark.parametrize(
    ("corpus", "synthetic", "told"),
    [
        ("sample", True, "**The corpus is SYNTHETIC: a program makes its voices"),
        ("emogator", False, "Licence: Apache-2.0 (github.com/fredbuhl/EmoGator)."),
        ("hume-vb", False, "clips and labels may not be passed on"),
        ("table", False, "its licence is for you to state"),
    ],
)
def test_each_corpus_has_its_licence_and_the_synthetic_one_says_so(corpus: str, synthetic: bool, told: str) -> None:
    text = card.card(facts(predictions(0.3), corpus=corpus, audit=AUDIT | {"synthetic": synthetic}))
    assert told in text
    assert ("SYNTHETIC" in text) is synthetic


def test_enrolment_is_said_as_far_as_it_was_measured() -> None:
    table = predictions(0.3)
    assert "None: it ignores enrolment clips. Scored under the strict protocol (2 clips)." in card.card(facts(table))
    text = card.card(facts(table, encoder="shared"))
    assert "Protocol strict, 2 clips a speaker" in text
    assert "It adapts to a speaker from 2 unlabelled clips." in text
    assert "Whether it is the speaker that helps has not been measured" in text
    text = card.card(facts(table, encoder="shared", enrolment=("test", ENROLLED)))
    told = (
        "On the test split: As far as 8 speakers can tell, enrolment helps: CCC is +0.080 [0.020, 0.140] over none. "
        "It is the speaker that helps: over another speaker's clips it is +0.100 [0.050, 0.150]. The intervals by "
        "speaker resample 8 speakers;"
    )
    assert told in text
    early = ENROLLED.drop(columns=["metric", "speakers"])
    assert "split: Enrolment helps: CCC is +0.080" in card.card(
        facts(table, encoder="shared", enrolment=("test", early))
    )


def test_unknown_countries_and_undefined_scores_are_said() -> None:
    table = predictions(0.3).assign(country="")
    table["prediction.High"] = 0.5
    text = card.card(facts(table))
    assert "Where the speakers come from is not known." in text
    assert "Worst country" not in text
    (line,) = [line for line in text.splitlines() if "CCC, mean" in line]
    assert line.count("undefined") == 3


def test_the_longest_name_of_a_system_is_said_whole() -> None:
    longest = max(SYSTEMS, key=len)
    assert f"- System: {longest}; width 0.25" in card.card(facts(predictions(0.3), lineage={"exvo.system": longest}))


def test_no_commit_is_said_and_so_are_uncommitted_changes() -> None:
    table = predictions(0.3)
    assert "- Commit: none, the code lay in no checkout\n" in card.card(facts(table, lineage={"git.commit": "none"}))
    text = card.card(facts(table, lineage={"git.commit": "c" * 40, "git.dirty": "true"}))
    assert f"- Commit: `{'c' * 40}` with uncommitted changes" in text


def test_it_fits_the_registry_and_holds_no_markup_of_others() -> None:
    odd = "<script>alert(1)</script>|`x`\n# [a](b) "
    task = Task("fewshot", tuple(f"{odd}{number} {'long ' * 100}" for number in range(40)))
    table = predictions(0.3, task=task)
    table["country"] = [f"{odd}{'C' * 300}{clip % 2}" for clip in range(len(table))]
    countries = {f"{odd}{'C' * 300}{number}": 10 for number in range(50)}
    splits = {"splits": dict.fromkeys(("train", "val", "test"), PART)}
    audit = AUDIT | splits | {"countries": countries, "ages": {"min": 18.0, "max": 90.0}}
    lineage = {"exvo.study": odd + "s" * 5000, "exvo.trial": "1", "exvo.study_run": "f" * 32, "git.dirty": "true"}
    lineage |= {"exvo.system": odd + "y" * 500, "git.commit": "c" * 40}
    every = facts(
        table, task, "hume-vb", "shared", audit=audit, lineage=lineage, run=f"{card.text(odd * 9)} ({'f' * 32})"
    )
    both = {"val": every.scores["val"], "test": every.scores["val"]}
    text = card.card(dataclasses.replace(every, scores=both, enrolment=("test", ENROLLED)))
    assert 3_000 < len(text) <= card.LONGEST, len(text)
    assert "script" in text
    assert not set("<>") & set(text)
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "# Model card: cnn14",
        "## What it is for",
        "## What it is not for",
        "## Data",
        "## Scores",
        "## Enrolment",
        "## How to use it",
        "## Where it comes from",
    ]
