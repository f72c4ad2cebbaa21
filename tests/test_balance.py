"""Categories of unequal numbers of clips: weights by hand, draws counted, and what is refused."""

from __future__ import annotations

from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch

from exvo.batches.clips import Clips
from exvo.batches.epoch import draw_epoch
from exvo.config import BALANCES
from exvo.corpora import load
from exvo.corpora.audit import audit
from exvo.enrolment import Draw
from exvo.experiments.balance import category_weights
from exvo.tasks import Task
from exvo.training.objectives import emotion_loss

from helpers.commands import newest, run_here
from helpers.corpora import write_category_corpus, write_table_corpus

CATEGORIES = Task("fewshot", ("a", "b", "c"), categories=True, objective="cross-entropy")
COUNTS = (70, 20, 10)


def unequal(balanced: int = 0, copies: int = 1) -> Clips:
    """100 clips of five speakers, 70, 20 and 10 of the three categories."""
    codes = np.repeat(np.arange(3), COUNTS).repeat(copies)
    names = [str(number) for number in range(len(codes))]
    speakers = [f"s{number % 5}" for number in range(len(codes))]
    features = {name: np.zeros((5, 4), np.float32) for name in names}
    return Clips(names, names, features, np.eye(3)[codes], "repeat", speakers, balanced)


def test_weights_make_each_category_count_alike() -> None:
    """By hand: clips / (categories * clips of the category); over the clips their mean is 1."""
    weights = category_weights(unequal(), 3)
    np.testing.assert_allclose(weights, [100 / 3 / count for count in COUNTS])
    assert sum(np.array(weights) * COUNTS) == pytest.approx(100)
    assert category_weights(unequal().take(np.arange(90)), 3)[2] == 0  # no clip is of the third
    logits, labels = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 3.0]]), torch.eye(3)[[0, 2]]
    shares = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(axis=1, keepdims=True)
    expected = -(weights[0] * np.log(shares[0, 0]) + weights[2] * np.log(shares[1, 2])) / 2
    assert emotion_loss(CATEGORIES, logits, labels, 0.0, torch.tensor(weights)).item() == pytest.approx(expected)


def test_the_sampler_draws_each_category_as_often() -> None:
    clips = unequal(balanced=3, copies=30)
    drawn = np.concatenate([batch.index for batch in draw_epoch(clips, 32, 0, 1, None)])
    assert len(drawn) == 3000
    shares = np.bincount(clips.labels[drawn].argmax(axis=1)) / len(drawn)
    assert np.abs(shares - 1 / 3).max() < 4 * np.sqrt(2 / 9 / 3000)  # four standard errors
    other = np.concatenate([batch.index for batch in draw_epoch(clips, 32, 0, 2, None)])
    assert not np.array_equal(drawn, other)
    once = np.concatenate([batch.index for batch in draw_epoch(unequal(), 32, 0, 1, None)])
    assert sorted(once) == list(range(100))


def test_the_sampler_draws_people_by_equal_shares() -> None:
    people = Draw(2, itself=False, shared=True, people=8, categories=3)
    for balanced, expected in ((0, np.array(COUNTS) / 100), (3, np.full(3, 1 / 3))):
        clips, codes = unequal(balanced, copies=30), []
        for number in range(3):
            batches = draw_epoch(clips, 64, 0, number, people)
            codes += [clips.labels[batch.index].argmax(axis=1) for batch in batches]
        np.testing.assert_allclose(np.bincount(np.concatenate(codes)) / sum(map(len, codes)), expected, atol=0.02)


def make_unequal(folder: Path) -> pd.DataFrame:
    """Of each speaker's clips eight are of one category, two of another and one of the third."""
    table = write_category_corpus(folder, 4, 11)
    table["category"] = [("joy",) * 8 + ("fear",) * 2 + ("awe",)][0] * 4
    table.to_csv(folder / "clips.csv", index=False)
    return table


def test_the_audit_counts_and_warns(tmp_path: Path) -> None:
    make_unequal(tmp_path)
    corpus = load("table", tmp_path)
    audio = pd.DataFrame({"file": corpus.clips["file"], "content": corpus.clips["file"], "seconds": 1.0, "rate": 1.0})
    found = audit(corpus, audio.assign(problem=""))
    counts = corpus.clips["category"][corpus.clips["split"] == "train"].value_counts().to_dict()
    assert found.summary["trained_categories"] == counts
    said = f"the categories of train are of {counts['awe']} (awe) to {counts['joy']} (joy) clips"
    assert [sentence for sentence in found.warnings if sentence.startswith(said)]
    lines = [line.split() for line in found.text().splitlines()]
    assert ["joy", str(counts["joy"])] in lines
    equal = write_category_corpus(tmp_path / "equal", 8, 6)
    assert equal["category"].value_counts().nunique() == 1
    corpus = load("table", tmp_path / "equal")
    audio = pd.DataFrame({"file": corpus.clips["file"], "content": corpus.clips["file"], "seconds": 1.0, "rate": 1.0})
    assert audit(corpus, audio.assign(problem="")).warnings == []


TINY = {"model": "cnn10", "corpus": "table", "epochs": "1", "batch_size": "8", "width": "0.05"}
TINY |= {"precision": "float32"}


@pytest.mark.usefixtures("store")
def test_each_balance_trains_and_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_unequal(tmp_path / "unequal")
    losses = set()
    for balance in BALANCES:
        options = TINY | {"data": str(tmp_path / "unequal"), "objective": "cross-entropy", "balance": balance}
        assert run_here("train", options, monkeypatch) == 0
        run = newest()
        assert (balance == "none") != (f"-{balance}-" in run.info.run_name)
        losses.add(run.data.metrics["epoch/loss"])
        assert mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/settings.json")["options"]["balance"] == balance
    assert len(losses) == 3


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"balance": "weights"}, "balance=weights weighs the terms of cross entropy, but the objective is ccc"),
        ({"balance": "sampler", "model": "cnn10-film"}, "balance=sampler draws clips one by one, but model=cnn10-film"),
        ({"balance": "both"}, "balance=both is not known"),
    ],
)
def test_balances_that_are_refused(
    tmp_path: Path,
    options: dict[str, str],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_category_corpus(tmp_path / "some")
    assert run_here("train", TINY | {"data": str(tmp_path / "some")} | options, monkeypatch) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.usefixtures("store")
def test_intensities_have_no_balance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_table_corpus(tmp_path / "some")
    assert run_here("train", TINY | {"data": str(tmp_path / "some"), "balance": "sampler"}, monkeypatch) == 2
    assert "balance=sampler is for exclusive categories" in capsys.readouterr().err
