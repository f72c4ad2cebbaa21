"""Tasks: labels, objectives against plain formulas, the predictions table."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from exvo.errors import InputError
from exvo.evaluation.metrics import ccc
from exvo.tasks import Task, make_task
from exvo.training.objectives import task_loss

CLIPS = pd.DataFrame(
    {
        "file": ["a.wav", "b.wav", "c.wav", "d.wav"],
        "split": ["train", "train", "val", "test"],
        "speaker": ["s1", "s2", "s3", "s4"],
        "age": [20.0, 30.0, 40.0, np.nan],
        "country": ["Kenya", "Chile", "Chile", ""],
        "Awe": [0.1, 0.8, 0.4, np.nan],
        "Fear": [0.9, 0.2, 0.3, np.nan],
    }
)


def multitask() -> Task:
    return make_task("multitask", CLIPS, ("Awe", "Fear"), "table", categories=False)


def test_multitask_outputs_and_labels() -> None:
    task = multitask()
    assert task.countries == ("Chile", "Kenya")
    assert task.outputs == 2 + 1 + 2
    expected = [[0.1, 0.9, 20, 1], [0.8, 0.2, 30, 0], [0.4, 0.3, 40, 0], [np.nan] * 4]
    np.testing.assert_array_equal(task.labels(CLIPS), expected)


def test_multitask_loss_is_the_mean_over_its_terms() -> None:
    task = multitask()
    labels = torch.from_numpy(task.labels(CLIPS)[:3]).float()
    outputs = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    o, y = outputs.double().numpy(), labels.double().numpy()
    terms = [1 - ccc(y[:, 0], o[:, 0]), 1 - ccc(y[:, 1], o[:, 1]), np.mean((o[:, 2] - y[:, 2]) ** 2)]
    logits = o[:, 3:] - np.log(np.exp(o[:, 3:]).sum(axis=1, keepdims=True))
    terms.append(-np.mean([logits[row, int(y[row, 3])] for row in range(3)]))
    assert task_loss(task, outputs, labels).item() == pytest.approx(np.mean(terms), rel=1e-5)


def test_fewshot_loss_is_over_all_emotions_at_once() -> None:
    task = make_task("fewshot", CLIPS, ("Awe", "Fear"), "table", categories=False)
    labels = torch.from_numpy(task.labels(CLIPS)[:3]).float()
    outputs = torch.randn(3, 2, generator=torch.Generator().manual_seed(1))
    pooled = 1 - ccc(labels.numpy().ravel(), outputs.numpy().ravel())
    assert task_loss(task, outputs, labels).item() == pytest.approx(pooled, rel=1e-5)
    mse = make_task("fewshot", CLIPS, ("Awe", "Fear"), "table", categories=False, objective="mse")
    assert task_loss(mse, outputs, labels).item() == pytest.approx(
        np.mean((outputs.numpy() - labels.numpy()) ** 2), rel=1e-5
    )


def test_predictions_table() -> None:
    outputs = np.array([[0.2, 0.3, 25.0, 1.0, 3.0]] * 4)
    table = multitask().table(CLIPS.set_index(pd.Index([7, 8, 9, 10])), outputs)
    assert list(table.columns[:4]) == ["file", "split", "speaker", "country"]
    assert table["file"].tolist() == CLIPS["file"].tolist()
    assert table["truth.Awe"].tolist()[:3] == [0.1, 0.8, 0.4]
    assert table.loc[0, ["prediction.Awe", "prediction.age", "prediction.country"]].tolist() == [0.2, 25.0, "Kenya"]


def test_categories_are_the_largest_prediction() -> None:
    task = Task("fewshot", ("Awe", "Fear"), categories=True)
    clips = CLIPS.assign(category="Fear")
    table = task.table(clips, np.array([[0.2, 0.3], [0.5, 0.1], [0.0, 0.1], [1.0, 0.0]]))
    assert table["prediction.category"].tolist() == ["Fear", "Awe", "Fear", "Awe"]
    assert table["truth.category"].tolist() == ["Fear"] * 4


@pytest.mark.parametrize(
    ("clips", "targets", "sentence"),
    [
        (CLIPS.drop(columns="age"), ("Awe",), "needs the column age"),
        (
            CLIPS.assign(country=["Kenya", "", "Chile", ""]),
            ("Awe",),
            "lacks it for 1 clips of train and val, the first being b.wav",
        ),
        (CLIPS.assign(country=["Kenya", "Kenya", "Chile", ""]), ("Awe",), "has countries that train lacks: Chile"),
        (CLIPS, ("Awe", "awe!"), "share a name"),
        (CLIPS, ("Awe", "a" * 201), "has 1 target names of more than 200 characters"),
    ],
)
def test_a_corpus_that_does_not_fit_is_refused(clips: pd.DataFrame, targets: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        make_task("multitask", clips, targets, "table", categories=False)
