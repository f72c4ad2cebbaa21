"""Several seeds: their runs, their mean, and comparisons in which the same seeds are paired; independent answers."""

from __future__ import annotations

import io
import math
import os
import signal
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from sklearn.metrics import recall_score

from exvo.errors import InputError
from exvo.evaluation import pairwise, scoring, seeds
from exvo.evaluation.matrix import difference_matrix
from exvo.evaluation.pairwise import Scored
from exvo.evaluation.results import Condition, results_table
from exvo.reports.tables import results_text
from exvo.settings import TrainSettings
from exvo.tasks import Task
from exvo.tracking import artifacts, lookup, models, registry

from helpers.commands import at_epoch, equal, history, run_here, weights
from helpers.corpora import write_category_corpus

OPTIONS = {"model": "cnn10", "corpus": "table", "epochs": "2", "batch_size": "8", "width": "0.05"}
OPTIONS |= {"learning_rate": "0.01", "precision": "float32"}
TARGETS = ("Awe", "Fear", "Joy")
TASK = Task("fewshot", TARGETS, categories=True)
CONDITION = Condition("table", "d" * 64, "fewshot", "strict", "val")


def predictions(skill: float, seed: int, clips: int = 240, speakers: int = 12) -> pd.DataFrame:
    """Clips that are the same for all seeds; a share `skill` of them is recognised, the others at random."""
    truth = np.random.default_rng(0).choice(TARGETS, clips)
    rng = np.random.default_rng(seed + 1)
    said = np.where(rng.random(clips) < skill, truth, rng.choice(TARGETS, clips))
    rows = pd.DataFrame({"file": [f"{clip}.wav" for clip in range(clips)], "split": "val"})
    rows["speaker"], rows["scored"] = [f"s{clip % speakers}" for clip in range(clips)], True
    for target in TARGETS:
        rows[f"truth.{target}"] = (truth == target).astype(float)
        rows[f"prediction.{target}"] = (said == target) * 0.7 + 0.1
    rows["truth.category"], rows["prediction.category"] = truth, said
    return rows


def several(name: str, skill: float, numbers: range, offset: int = 0) -> Scored:
    tables = {number: predictions(skill, number + offset) for number in numbers}
    return Scored(name, CONDITION, 2, next(iter(tables.values())), tables)


def uar(rows: pd.DataFrame) -> float:
    return float(recall_score(rows["truth.category"], rows["prediction.category"], average="macro", zero_division=0))


def test_the_mean_over_seeds_has_intervals_over_shared_resamples() -> None:
    """Against resampled speakers whose clips are scored by another library, seed by seed."""
    tables = [predictions(0.4, seed) for seed in range(3)]
    row = seeds.mean_scores(tables, TASK).set_index("metric").loc["category_uar"]
    each = [uar(table) for table in tables]
    assert row["value"] == pytest.approx(np.mean(each))
    assert (row["lowest"], row["highest"], row["n"]) == (pytest.approx(min(each)), pytest.approx(max(each)), 240)
    rng = np.random.default_rng(9)
    names = tables[0]["speaker"].unique()
    places = {name: np.flatnonzero(tables[0]["speaker"] == name) for name in names}
    drawn = []
    for _ in range(300):
        clips = np.concatenate([places[name] for name in rng.choice(names, len(names))])
        drawn.append(np.mean([uar(table.iloc[clips]) for table in tables]))
    low, high = np.percentile(drawn, [2.5, 97.5])
    assert row["lo_by_speaker"] == pytest.approx(low, abs=0.015)
    assert row["hi_by_speaker"] == pytest.approx(high, abs=0.015)
    single = scoring.score(tables[0], TASK).set_index("metric")
    alone = seeds.mean_scores(tables[:1], TASK).set_index("metric")
    shared = [name for name in alone.index if name in single.index]
    columns = ["value", "lo", "hi", "lo_by_speaker", "hi_by_speaker"]
    pd.testing.assert_frame_equal(alone.loc[shared, columns], single.loc[shared, columns])
    with pytest.raises(InputError, match="scored by one alone"):
        seeds.mean_scores([tables[0], tables[1].iloc[:-1]], TASK)


def test_the_same_seeds_are_paired_and_what_they_add_is_said() -> None:
    a, b = several("a", 0.4, range(3)), several("b", 0.5, range(1, 5), offset=50)
    pairs = seeds.pair_seeds(a, b)
    assert list(pairs) == [1, 2]
    table = pairwise.paired_means(list(pairs.values())).set_index("metric")
    differences = [uar(b.seeds[seed]) - uar(a.seeds[seed]) for seed in (1, 2)]
    assert table.loc["category_uar", "value"] == pytest.approx(np.mean(differences))
    assert table.loc["category_uar", "a"] == pytest.approx(np.mean([uar(a.seeds[seed]) for seed in (1, 2)]))
    spread = seeds.seed_spread(pairs)
    assert spread.table["value"].tolist() == pytest.approx(differences)
    assert spread.deviation == pytest.approx(np.std(differences, ddof=1))
    assert spread.whole_error**2 == pytest.approx(spread.error**2 + np.var(differences, ddof=1) / 2)
    low, high = table.loc["category_uar", ["lo_by_speaker", "hi_by_speaker"]].tolist()
    assert high - low == pytest.approx(2 * 1.96 * spread.error, rel=0.15)
    one = seeds.seed_spread({1: pairs[1]})
    alone = pairwise.paired(pairs[1].a, pairs[1].b, TASK).set_index("metric").loc["category_uar"]
    assert one.table["value"].tolist() == pytest.approx([alone["value"]])
    unknown = [replace(run, seeds={n: t.assign(speaker="") for n, t in run.seeds.items()}) for run in (a, b)]
    unknown = [replace(run, predictions=next(iter(run.seeds.values()))) for run in unknown]
    assert math.isnan(seeds.seed_spread(seeds.pair_seeds(*unknown)).error)


def test_seeds_that_can_not_be_paired_are_refused() -> None:
    a = several("a", 0.4, range(3))
    with pytest.raises(InputError, match=r"a is 3 seeds, b a single training; .* with seeds=3\.$"):
        seeds.pair_seeds(a, replace(a, run="b", seeds={}))
    with pytest.raises(InputError, match="their seeds are 0, 1, 2 and 2, 3; train both with the same"):
        seeds.pair_seeds(a, several("b", 0.4, range(2, 4)))
    with pytest.raises(InputError, match="their protocols differ"):
        seeds.pair_seeds(a, replace(a, run="b", condition=replace(CONDITION, protocol="published")))


def test_the_matrix_compares_means_over_seeds() -> None:
    a, b = several("a", 0.4, range(3)), several("b", 0.6, range(3), offset=50)
    matrix = difference_matrix([a, b])
    table = pairwise.paired_means(list(seeds.pair_seeds(a, b).values())).iloc[0]
    assert matrix.runs == ["b", "a"]
    assert matrix.values[0, 1] == pytest.approx(table["value"])
    assert matrix.pairs.loc[0, ["lo", "hi"]].tolist() == pytest.approx([table["lo_by_speaker"], table["hi_by_speaker"]])


def test_a_table_of_results_has_the_mean_the_range_and_each() -> None:
    metrics = {"category_uar": 0.42, "category_uar_seed_0": 0.4, "category_uar_seed_1": 0.44}
    each = pd.Series([metrics, {"category_uar": 0.5}])
    rows = pd.DataFrame({"system": ["cnn10", "cnn14"], "run": ["r", "s"], "evaluation": "", "metrics": each})
    training = TrainSettings()
    for name in ("width", "epochs", "batch_size", "learning_rate", "seed", "shots"):
        rows[name] = getattr(training, name)
    table = results_table(CONDITION, rows)
    assert table["seeds"].tolist() == ["0.4 0.44", ""]
    assert "0.4000 to 0.4400 (0.4000, 0.4400)" in results_text(CONDITION, table)
    assert "seeds" not in results_table(CONDITION, rows.iloc[1:].reset_index(drop=True))


@pytest.mark.parametrize("number", ["0", "-1", "101", "1.5", "many"])
def test_a_number_of_seeds_that_can_not_be_is_refused(
    number: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here("train", OPTIONS | {"seeds": number}, monkeypatch) == 2
    assert f"seeds={number} is" in capsys.readouterr().err


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("categories")
    write_category_corpus(folder)
    return folder


def of_seeds() -> list[Run]:
    """The runs of the commands with several seeds, the first one first."""
    found = MlflowClient().search_runs(["0"], order_by=["attributes.start_time"])
    return [run for run in found if "exvo.seeds" in run.data.tags]


def beneath(parent: Run) -> list[Run]:
    found = MlflowClient().search_runs(["0"], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    return sorted(found, key=lambda run: int(run.data.tags["exvo.seed"]))


def check_seeds(parent: Run, alone: Run) -> None:
    """That the run has what its seeds reached, and the second of them is what a command of its own gives."""
    children = beneath(parent)
    assert [run.info.status for run in [parent, *children]] == ["FINISHED"] * 4
    assert [run.data.params["seed"] for run in children] == ["3", "4", "5"]
    assert history(children[1]) == history(alone)
    for split in ("val", "test"):
        each = [run.data.metrics[f"{split}/category_uar"] for run in children]
        assert parent.data.metrics[f"{split}/category_uar"] == pytest.approx(np.mean(each))
        assert [parent.data.metrics[f"{split}/category_uar_seed_{seed}"] for seed in (3, 4, 5)] == pytest.approx(each)
        scores = artifacts.scores(parent, split)
        assert scores is not None
        scores = scores.set_index("metric")
        row = scores.loc["category_uar"]
        assert [row["lowest"], row["highest"]] == pytest.approx([min(each), max(each)])
    table = pd.read_csv(io.StringIO(mlflow.artifacts.load_text(f"{parent.info.artifact_uri}/seeds.csv")))
    assert table["run_id"].tolist() == [run.info.run_id for run in children]
    validated = [run.data.metrics["val/category_uar"] for run in children]
    assert parent.data.tags["exvo.best_seed_run"] == children[int(np.argmax(validated))].info.run_id
    assert "exvo.model_uri" not in parent.data.tags
    assert "mean of 3 seeds, test" in parent.data.tags["mlflow.note.content"]
    page = mlflow.artifacts.load_text(f"{parent.info.artifact_uri}/report/seeds.html")
    assert "What one training" not in page
    said = (
        f", on average over 3 seeds, names the right one of 3 categories in {scores['value']['category_uar']:.1%} of "
    )
    assert said in page


@pytest.mark.usefixtures("store")
def test_seeds_that_were_cut_go_on_and_are_compared_and_registered(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = OPTIONS | {"data": str(corpus), "seed": "3", "seeds": "3"}
    assert run_here("main", options | {"seed": "4", "seeds": "1", "output": "alone"}, monkeypatch) == 0
    alone = MlflowClient().search_runs(["0"])[0]
    began: list[int] = []

    def cut() -> None:
        began.append(1)
        if len(began) == 2:  # the second seed
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        at_epoch(2, cut, patch)
        assert run_here("main", options, monkeypatch) == 130
    assert "the same command goes on in the same run, with seed 4, from epoch 2." in capsys.readouterr().err
    assert run_here("main", options, monkeypatch) == 0
    output = capsys.readouterr().out
    assert "seed 3 is done" in output
    assert [line[:9] for line in output.splitlines() if line.startswith("epoch ")] == [
        "epoch   2",
        "epoch   1",
        "epoch   2",
    ]
    (parent,) = of_seeds()
    check_seeds(parent, alone)
    children = beneath(parent)
    assert equal(weights(children[1]), weights(alone, "alone"))
    assert not [path for path in Path("output/runs").iterdir() if list(path.glob("seeds/*"))]
    best = parent.data.tags["exvo.best_seed_run"]
    assert lookup.find_run("cnn10").info.run_id == best  # the newest run of the system is the one of three seeds
    assert lookup.find_run("cnn10", whole=True).info.run_id == parent.info.run_id
    assert models.checkpoint_of(lookup.find_run(parent.info.run_id)).notes["run_id"] == best
    monkeypatch.setenv("COLUMNS", "80")
    capsys.readouterr()
    assert run_here("register", {"run_id": parent.info.run_id, "gate": "none"}, monkeypatch) == 0
    champion = registry.champion()
    assert champion is not None
    assert champion.run_id == best
    assert champion.tags["exvo.seeds_run"] == parent.info.run_id
    compare_seeds(parent, options, monkeypatch, capsys)


def compare_seeds(
    parent: Run, options: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Compares them with the seeds of another system, whose mean they also meet in the table of all systems."""
    assert run_here("train", options | {"model": "cnn5", "seeds": "2", "resume": "false"}, monkeypatch) == 0
    other = of_seeds()[1]
    capsys.readouterr()
    assert run_here("compare", {"a": parent.info.run_id, "b": other.info.run_id}, monkeypatch) == 0
    output = capsys.readouterr().out
    each = [
        b.data.metrics["val/category_uar"] - a.data.metrics["val/category_uar"]
        for a, b in zip(beneath(parent), beneath(other), strict=False)
    ]
    assert f"Over 2 seeds b - a is {min(each):.4f} to {max(each):.4f} ({each[0]:.4f}, {each[1]:.4f}) UAR" in output
    assert f"b - a is {np.mean(each):.4f} UAR" in output or f"by {abs(np.mean(each)):.4f} UAR" in output
    assert run_here("compare", {"a": parent.info.run_id, "b": beneath(other)[0].info.run_id}, monkeypatch) == 2
    assert "is 3 seeds, " in capsys.readouterr().err
    assert run_here("compare", {"a": parent.info.run_id, "b": other.info.run_id, "split": "test"}, monkeypatch) == 2
    assert "has no predictions of the test split: `main` with seeds has" in capsys.readouterr().err
    assert run_here("compare", {}, monkeypatch) == 0
    output = capsys.readouterr().out
    values = [run.data.metrics["val/category_uar"] for run in beneath(parent)]
    assert f"{min(values):.4f} to {max(values):.4f} ({', '.join(f'{value:.4f}' for value in values)})" in output
    assert sum(line.startswith("| ") and "cnn10" in line and "e2" in line for line in output.splitlines()) >= 1
    assert run_here("train", options | {"folds": "3"}, monkeypatch) == 2
    assert "seeds=3 with folds=3: a cross-validation trains each fold once" in capsys.readouterr().err
    assert run_here("train", options | {"seed": str(2**31 - 2)}, monkeypatch) == 2
    assert "the last seed would be over 2147483647" in capsys.readouterr().err
