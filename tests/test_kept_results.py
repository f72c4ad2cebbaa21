"""Results kept in docs: what is saved is loaded, the scores are those of what was heard, machines stay apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score

from benchmarks import machines
from benchmarks.kept import Result, load, scored
from benchmarks.page import differences, figures, targets, write_page
from benchmarks.rows import CORPORA, Row
from benchmarks.timing import row
from exvo.evaluation.calibration import ECE, LOG_LOSS
from exvo.evaluation.scoring import UAR

from helpers.commands import ROOT

KEPT = ROOT / "docs" / "results"
NAMES = ("gasp", "laugh", "sigh")


def predictions(seed: int) -> pd.DataFrame:
    """A predictions table of shares: 60 clips of 12 speakers."""
    generator = np.random.default_rng(seed)
    truth = np.arange(60) % 3
    shares = generator.dirichlet(np.ones(3), 60)
    about = {"file": [f"{number}.wav" for number in range(60)], "speaker": [f"s{number // 5}" for number in range(60)]}
    columns: dict[str, object] = {**about, "split": "test", "scored": True}
    columns |= {f"truth.{name}": (truth == number).astype(float) for number, name in enumerate(NAMES)}
    columns |= {"truth.category": np.array(NAMES)[truth]}
    columns |= {f"prediction.{name}": shares[:, number] for number, name in enumerate(NAMES)}
    columns |= {"prediction.category": np.array(NAMES)[shares.argmax(axis=1)]}
    return pd.DataFrame(columns)


def result(row: str, **tables: pd.DataFrame) -> Result:
    return Result(row, 0, "train", {"mixup": 0.3}, "a processor", 1.0, [(0.5, 0.2), (1.0, 0.3)], *scored(tables))


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    saved = result("plain", plain=predictions(0))
    saved.save(tmp_path)
    (loaded,) = load(tmp_path)
    table, read = saved.table("plain"), loaded.table("plain")
    assert table is not None
    assert read is not None
    pd.testing.assert_frame_equal(table, read)
    assert [list(pair) for pair in loaded.epochs] == [list(pair) for pair in saved.epochs]
    assert loaded.best == 0.3
    assert loaded.table("right-2") is None


def test_a_result_is_known_by_its_command_and_recipe() -> None:
    one = result("plain", plain=predictions(0))
    assert one.is_of("train", {"mixup": 0.3, "an option of later": 1.0})
    assert not one.is_of("train", {"mixup": 0.0})
    assert not one.is_of("train --seed 1", {"mixup": 0.3})


def test_what_answers_by_0_and_1_has_no_calibration_error() -> None:
    table = predictions(0)
    for name in NAMES:
        table[f"prediction.{name}"] = (table["prediction.category"] == name).astype(float)
    (shares,), _ = scored({"plain": predictions(0)})
    (certain,), _ = scored({"plain": table})
    assert shares[ECE] is not None
    assert (certain[UAR], certain[ECE], certain[LOG_LOSS]) == (shares[UAR], None, None)


def test_differences_are_paired_by_speaker() -> None:
    plain, personal = predictions(0), predictions(1)
    results = [result("plain", plain=plain), result("personal", **{"right-2": personal, "wrong-2": plain})]
    gains = differences(results, [Row("plain", "p"), Row("personal", "q", against="plain")]).set_index("what")
    uars = [
        balanced_accuracy_score(table["truth.category"], table["prediction.category"]) for table in (plain, personal)
    ]
    for what in ("right-2 - plain", "right-2 - wrong-2"):
        assert gains["value"][what] == pytest.approx(uars[1] - uars[0])
        assert gains["lo_by_speaker"][what] < gains["value"][what] < gains["hi_by_speaker"][what]


def test_a_page_without_results_says_what_is_not_trained_yet(tmp_path: Path) -> None:
    write_page(tmp_path / "page.md", {name: [] for name in CORPORA}, tmp_path / "none.csv")
    page = (tmp_path / "page.md").read_text()
    assert "**Not trained yet**: prior" in page
    assert "nan" not in page


def test_a_target_of_three_seeds_is_not_met_by_two_nor_in_more_minutes() -> None:
    def about(seeds: int, minutes: float) -> list[str]:
        right = predictions(0)
        right["prediction.category"] = right["truth.category"]
        for name in NAMES:
            right[f"prediction.{name}"] = right[f"truth.{name}"]
        runs = [replace(result("resnet-20", plain=right), seed=seed, minutes=minutes) for seed in range(seeds)]
        return next(targets(figures(runs), differences(runs, CORPORA["emogator"]), None))

    assert about(3, 19.0)[2:] == ["1.000 in 19 minutes", "met"]
    assert about(3, 96.0)[2:] == ["1.000 in 96 minutes", "missed"]
    assert about(2, 19.0)[2:] == ["", "not trained yet"]


@pytest.mark.parametrize("corpus", CORPORA)
def test_the_scores_in_the_project_are_those_of_what_was_heard(corpus: str) -> None:
    for one in load(KEPT / corpus):
        for scores in one.scores:
            heard = one.heard[str(scores["enrolment"])]
            assert balanced_accuracy_score(one.heard["truth"], heard) == pytest.approx(scores[UAR], abs=1e-5)


def test_the_benchmarks_of_a_machine_take_the_place_of_its_earlier_ones_alone(tmp_path: Path) -> None:
    for machine, ratio in (("old", 2.0), ("new", 3.0), ("old", 4.0)):
        page = machines.renew(tmp_path, {"machine": machine, "results": [row("a thing", "plainly", [ratio])]})
    assert (tmp_path / "benchmarks.md").read_text() == page
    assert page.index("## old") < page.index("| 4.00 |") < page.index("## new") < page.index("| 3.00 |")
    assert "| 2.00 |" not in page
