"""Tables of results: which runs they list, their numbers, and the published figures beside them."""

from __future__ import annotations

import csv
import math
import re
from typing import Any

import pandas as pd
import pytest

from exvo.config import EMOTIONS
from exvo.evaluation.results import PUBLISHED, TRAINING, Condition, newest, published, results_table
from exvo.reports.tables import results_text
from exvo.systems import PUBLISHED as PUBLISHED_SYSTEMS

HUME = Condition("hume-vb", "a" * 64, "fewshot", "published", "val")
OPTIONS = {"width": 0.25, "epochs": 3, "batch_size": 32, "learning_rate": 0.001, "seed": 0, "shots": 2}


def runs(*different: dict[str, Any]) -> pd.DataFrame:
    """Finished runs, each later than the one before, of one system unless they say otherwise."""
    default = {"system": "cnn14-random-init", "corpus": "sample", "digest": "d1", "task": "fewshot"}
    default |= {"protocol": "published", "evaluated_run": "", "metrics": {"val/emotion_ccc": 0.5}}
    rows = [
        {"run_id": f"id{place}", "run": f"run{place}", "start": place} | default | one
        for place, one in enumerate(different)
    ]
    return pd.DataFrame(rows).iloc[::-1]


def rows(*scored: tuple[str, dict[str, float]]) -> pd.DataFrame:
    """Rows of a table of results."""
    return pd.DataFrame(
        [
            {"system": system, "run": f"run{place}", "evaluation": "", "metrics": metrics} | OPTIONS
            for place, (system, metrics) in enumerate(scored)
        ],
        index=range(7, 7 + len(scored)),
    )


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def tables(text: str) -> list[list[list[str]]]:
    """The cells of each table in a text, row by row, the titles first; all lines of a table are equally long."""
    found = []
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        if lines:
            assert len({len(line) for line in lines}) == 1
            found.append([cells(line) for line in lines if not re.fullmatch(r"[| :-]+", line)])
    return found


def test_the_newest_run_of_a_system_in_the_order_of_systems() -> None:
    every = runs(
        {"system": "cnn5"}, {}, {"metrics": {"val/emotion_ccc": 0.6, "test/emotion_ccc": 0.1}}, {"system": "unknown"}
    )
    found = newest(every, "val")
    assert found["run"].tolist() == ["run2", "run0", "run3"]
    assert found["metrics"].tolist()[0] == {"emotion_ccc": 0.6}
    assert newest(every, "test")["run"].tolist() == ["run2"]
    assert newest(every, "train").empty
    assert newest(every[:0], "val").empty


@pytest.mark.parametrize("key", ["corpus", "digest", "task", "protocol"])
def test_no_table_mixes(key: str) -> None:
    found = newest(runs({}, {key: "other"}, {"system": "cnn5"}), "val")
    keys = ["corpus", "digest", "task", "protocol"]
    assert sorted(sorted(group["run"]) for _, group in found.groupby(keys)) == [["run0", "run2"], ["run1"]]


def test_runs_without_scores_or_tags_are_left_out() -> None:
    found = newest(runs({"metrics": {"val/seconds": 1.0}}, {"protocol": ""}, {"digest": ""}), "val")
    assert found.empty
    recogniser = newest(runs({"task": "speaker", "metrics": {"val/speaker_uar": 0.2}}), "val")
    assert len(recogniser) == 1


def test_the_published_figures_are_the_papers() -> None:
    with PUBLISHED.open(encoding="utf-8") as stream:
        figures = list(csv.DictReader(stream))
    assert len(figures) == 157
    assert {figure["system"] for figure in figures} == set(PUBLISHED_SYSTEMS)
    table = published(HUME)
    for figure in figures:
        if figure["task"] == "fewshot":
            for end, column in (("", "value"), ("_lo", "ci_low"), ("_hi", "ci_high")):
                found = table.loc[figure["system"], f"published_{figure['metric']}{end}"]
                assert math.isnan(found) if figure[column] == "" else found == float(figure[column])
    multitask = published(Condition("hume-vb", "a", "multitask", "published", "val"))
    assert multitask.loc["cnn10-random-init", "published_s_mtl"] == 0.3756
    assert len(multitask) == 3


@pytest.mark.parametrize(
    "other", [("sample", "published", "val"), ("hume-vb", "strict", "val"), ("hume-vb", "published", "test")]
)
def test_published_figures_stand_beside_their_like_alone(other: tuple[str, str, str]) -> None:
    corpus, protocol, split = other
    condition = Condition(corpus, "a" * 64, "fewshot", protocol, split)
    table = results_table(condition, rows(("cnn14-bs8", {"emotion_ccc": 0.6, "awe_ccc": 0.7})))
    assert not [column for column in table if "published" in column]
    assert "published" not in str(tables(results_text(condition, table)))


def test_a_few_shot_table() -> None:
    scores = {"emotion_ccc": 0.61234, "emotion_ccc_lo": 0.6, "emotion_ccc_hi": 0.62, "emotion_ccc_lo_by_speaker": 0.55}
    scores |= {"emotion_ccc_hi_by_speaker": 0.67, "emotion_ccc_country_mean": 0.6111, "emotion_ccc_country_std": 0.01}
    scores |= {"emotion_ccc_speaker_mean": 0.58, "emotion_ccc_speaker_std": 0.15, "emotion_mae": 0.2}
    scores |= {f"{emotion.lower()}_ccc": 0.5 + place / 100 for place, emotion in enumerate(sorted(EMOTIONS))}
    undefined = {"emotion_ccc": math.nan, "emotion_ccc_country_mean": math.nan, "awe_ccc": math.nan}
    table = results_table(HUME, rows(("cnn14-random-init", scores), ("cnn14-bs8", undefined)))
    assert table.loc[0, "emotion_ccc_hi_by_speaker"] == 0.67
    assert table.loc[0, "published_emotion_ccc_lo"] == 0.6339
    assert table.loc[0, "published_emotion_ccc_speaker_std"] == 0.1646
    assert table.loc[1, "published_awe_ccc"] == 0.759
    assert "emotion_mae" not in table
    assert all(
        dtype.kind in "if" for name, dtype in table.dtypes.items() if name not in ("system", "run", "evaluation")
    )
    text = results_text(HUME, table)
    assert text.startswith(f"## hume-vb, digest {'a' * 12}, val split, task fewshot, published protocol\n")
    (titles, first, second), (targets, *per_target) = tables(text)
    shown = ["system", "CCC", "95% by clip", "95% by speaker", "published"]
    figures = ("mean", "standard deviation")
    spread = [f"CCC, {figure} over {groups}" for groups in ("countries", "speakers") for figure in figures]
    assert titles == [*shown, *(cell for one in spread for cell in (one, "published")), "run", *TRAINING]
    ours = ["cnn14-random-init", "0.6123", "[0.6000, 0.6200]", "[0.5500, 0.6700]", "0.6393 [0.6339, 0.6438]"]
    trained = ["0.25", "3", "32", "0.001", "0", "2"]
    beside = ["0.6111", "0.6377", "0.0100", "0.0112", "0.5800", "0.5866", "0.1500", "0.1646"]
    assert first == [*ours, *beside, "run0", *trained]
    nothing = ["undefined"] * 3
    assert second == ["cnn14-bs8", *nothing, "0.6454", *["undefined", ""] * 4, "run1", *trained]
    assert "\nCCC of each target\n" in text
    assert targets == ["system", *EMOTIONS]
    assert per_target[0][:3] == ["cnn14-random-init", "0.510", "0.540"]
    assert per_target[1][:2] == ["cnn14-bs8", "undefined"]
    assert per_target[2][:3] == ["published", "0.759", "0.621"]
    assert len(per_target) == 3


def test_a_multitask_table() -> None:
    condition = Condition("hume-vb", "b" * 64, "multitask", "published", "val")
    scores = {}
    for score, value in (("emotion_ccc", 0.5), ("country_uar", 0.4), ("age_mae", 4.0), ("s_mtl", math.nan)):
        scores |= {score: value, f"{score}_lo": value - 0.1, f"{score}_hi": value + 0.1}
    text = results_text(condition, results_table(condition, rows(("cnn14-audioset", scores))))
    ((titles, row),) = tables(text)
    each = [
        cell for title in ("CCC", "country UAR", "age error", "S_MTL") for cell in (title, "95% by clip", "published")
    ]
    assert titles == ["system", *each, "run", *TRAINING]
    assert row[1:4] == ["0.5000", "[0.4000, 0.6000]", "0.4028"]
    assert row[7:13] == ["4.0000", "[3.9000, 4.1000]", "4.0206", "undefined", "undefined", "0.3418"]
    assert "each target" not in text


def test_a_speaker_table_on_the_synthetic_corpus() -> None:
    condition = Condition("sample", "c" * 64, "speaker", "published", "val")
    scores = {"speaker_uar": 0.3, "speaker_uar_lo": 0.2, "speaker_uar_hi": 0.4, "speaker_accuracy": 0.35}
    scores |= {"speaker_accuracy_lo": 0.3, "speaker_accuracy_hi": 0.4, "speaker_macro_f1": 0.1}
    row = rows(("cnn5", scores)).assign(evaluation="later|run")
    text = results_text(condition, results_table(condition, row))
    assert text.startswith("## sample (SYNTHETIC: a program makes its voices")
    titles = tables(text)[0][0]
    assert titles[:7] == ["system", "UAR", "95% by clip", "accuracy", "95% by clip", "run", "evaluation"]
    assert "| 0.3000 | [0.2000, 0.4000] | 0.3500   | [0.3000, 0.4000] | run0 | later\\|run |" in text


def test_targets_of_other_corpora_are_listed_by_name() -> None:
    condition = Condition("table", "d" * 64, "fewshot", "strict", "val")
    table = results_table(
        condition, rows(("cnn5", {"emotion_ccc": 0.1, "loud_ccc": 0.2, "awe_ccc": 0.4, "high_ccc": 0.3}))
    )
    _, (targets, *_) = tables(results_text(condition, table))
    assert targets == ["system", "Awe", "high", "loud"]
    assert condition.name == "table-dddddddd-fewshot-strict-val"
