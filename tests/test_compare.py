"""The entry point `compare` on runs made by hand in a store of the test's own, and once on runs that were trained."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from exvo.evaluation import scoring
from exvo.evaluation.bootstrap import bootstrap, interval
from exvo.reports.sentences import few_speakers_sentence
from exvo.tasks import Task
from exvo.tracking import runs

from helpers.commands import run_by_hand, run_here

SYNTHETIC = "(SYNTHETIC: a program makes its voices, so its scores say nothing about people)"
TASK = Task("fewshot", ("High", "Loud"))
OPTIONS = {"width": 0.25, "epochs": 3, "batch_size": 32, "learning_rate": 0.001, "seed": 0, "shots": 2}


@pytest.fixture(autouse=True)
def kept(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store of the test's own, with its artifacts."""
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "elsewhere")


def predictions(noise: float, seed: int, clips: int = 40) -> pd.DataFrame:
    truth, rng = np.random.default_rng(1), np.random.default_rng(seed)
    table = pd.DataFrame({"file": [f"{clip}.wav" for clip in range(clips)], "split": "val"})
    table["speaker"] = [f"s{clip % 8}" for clip in range(clips)]
    table["scored"] = True
    for target in TASK.targets:
        table[f"truth.{target}"] = truth.random(clips)
        table[f"prediction.{target}"] = table[f"truth.{target}"] + noise * rng.normal(size=clips)
    return table


def make_run(name: str, noise: float = 0.3, seed: int = 2, split: str = "val", **different: Any) -> str:
    """Logs a finished run as train or evaluate do, and returns its id.

    `different`: tags, options, `table` (changes the table of scores), and `early` for a run of an early version, which
    has logged no such table but every score as a metric.
    """
    tags = {"entry_point": "train", "system": "cnn14-random-init", "task": "fewshot", "protocol": "published"}
    tags |= {"corpus": "sample", "corpus_digest": "a1" * 32}
    tags |= {tag: value for tag, value in different.items() if tag in tags or tag == "evaluated_run"}
    options = {option: different.get(option, value) for option, value in OPTIONS.items()}
    if tags["entry_point"] == "evaluate":
        options = {"shots": options["shots"], "split": split}
    table = different.get("predictions", predictions(noise, seed))
    with run_by_hand(name) as active:
        mlflow.set_tags({f"exvo.{tag}": value for tag, value in tags.items()})
        runs.log_settings(options, {})
        runs.log_table(table, f"predictions/{split}.parquet")
        scores = different.get("table", lambda scores: scores)(scoring.score(table, TASK))
        if different.get("early"):
            runs.log_metrics(scoring.every_score(scores, split))
        else:
            runs.log_table(scores, f"scores/{split}.csv")
            runs.log_metrics(scoring.as_metrics(scores, split))
    return active.info.run_id


def compare(monkeypatch: pytest.MonkeyPatch, **options: str) -> int:
    return run_here("compare", options, monkeypatch)


def newest() -> Run:
    return MlflowClient().search_runs(["1"])[0]


def artifact(name: str) -> Path:
    return Path(mlflow.artifacts.download_artifacts(f"{newest().info.artifact_uri}/{name}"))


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], **options: str) -> str:
    """The one sentence with which `compare` ends with status 2."""
    assert compare(monkeypatch, **options) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("exvo: ")]
    return line.removeprefix("exvo: ")


@pytest.mark.parametrize("early", [False, True])
def test_systems_are_listed_with_their_newest_runs(
    early: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def undefined(scores: pd.DataFrame) -> pd.DataFrame:
        return scores.assign(value=scores["value"].where(scores["metric"] != "emotion_ccc_speaker_std"))

    make_run("film", system="cnn14-film", early=early)
    make_run("older", noise=0.9)
    make_run("newer", noise=0.2, batch_size=8, table=undefined, early=early)
    make_run("tuned", noise=0.1, protocol="strict")
    make_run("real", corpus="emogator", corpus_digest="b2" * 32)
    assert compare(monkeypatch) == 0
    told = capsys.readouterr().out
    sample = f"sample {SYNTHETIC}, digest a1a1a1a1a1a1, val split, task fewshot"
    assert [line.removeprefix("## ") for line in told.splitlines() if line.startswith("##")] == [
        "emogator, digest b2b2b2b2b2b2, val split, task fewshot, published protocol",
        f"{sample}, published protocol",
        f"{sample}, strict protocol",
    ]
    assert "older" not in told
    assert "undefined" in told
    compared = newest()
    assert compared.data.tags["exvo.entry_point"] == "compare"
    assert compared.info.status == "FINISHED"
    table = pd.read_csv(artifact("results/sample-a1a1a1a1-fewshot-published-val.csv"))
    assert table["system"].tolist() == ["cnn14-random-init", "cnn14-film"]
    assert table["run"].tolist() == ["newer", "film"]
    assert table["batch_size"].tolist() == [8, 32]
    scores = scoring.score(predictions(0.2, 2), TASK).set_index("metric")
    for metric in ("emotion_ccc", "high_ccc", "emotion_ccc_speaker_mean"):
        assert table.loc[0, metric] == pytest.approx(scores.loc[metric, "value"])
    assert table.loc[0, "emotion_ccc_hi_by_speaker"] == pytest.approx(scores.loc["emotion_ccc", "hi_by_speaker"])
    assert math.isnan(table.loc[0, "emotion_ccc_speaker_std"])
    assert artifact("results/sample-a1a1a1a1-fewshot-strict-val.md").read_text(encoding="utf-8") in told
    assert compare(monkeypatch, corpus="emogator") == 0
    assert capsys.readouterr().out.count("##") == 1


def test_hume_vb_stands_beside_the_paper(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    make_run("real", corpus="hume-vb", system="cnn14-attention-cnn10-multitask")
    assert compare(monkeypatch) == 0
    assert "| 0.6572 [0.6518, 0.6621] |" in capsys.readouterr().out
    table = pd.read_csv(artifact("results/hume-vb-a1a1a1a1-fewshot-published-val.csv"))
    assert table["published_emotion_ccc_country_std"].tolist() == [0.0136]


def test_the_test_split_lists_evaluations_with_the_options_of_training(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = make_run("trained", width=0.5, shots=2)
    make_run("scored", entry_point="evaluate", evaluated_run=trained, split="test", shots=4)
    make_run("main", entry_point="main", system="cnn10-random-init", split="test")
    assert compare(monkeypatch, split="test") == 0
    table = pd.read_csv(artifact("results/sample-a1a1a1a1-fewshot-published-test.csv"))
    assert table[["run", "evaluation", "width", "shots"]].fillna("").to_numpy().tolist() == [
        ["trained", "scored", 0.5, 4],
        ["main", "", 0.25, 2],
    ]
    assert "| evaluation |" in capsys.readouterr().out


def test_without_runs_it_says_what_to_run_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(monkeypatch, capsys)
    assert said.startswith("No finished run has scores of the val split; `")
    assert said.endswith("exvo train` makes one.")
    assert MlflowClient().search_runs(["1"]) == []
    make_run("trained")
    said = refused(monkeypatch, capsys, corpus="emogater")
    assert said.startswith("No finished run has scores of the val split of corpus=emogater; `")
    said = refused(monkeypatch, capsys, split="test")
    assert said.endswith("exvo evaluate` makes one, with run_id=<a training run> and split=test.")


def test_runs_of_other_programs_and_unfinished_ones_are_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with mlflow.start_run():
        mlflow.log_metric("val/emotion_ccc", 0.9)
    MlflowClient().set_terminated(make_run("broken"), "FAILED")
    assert "No finished run has scores" in refused(monkeypatch, capsys)


def test_two_runs_are_compared_on_the_same_clips(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = predictions(0.6, 2), predictions(0.2, 3)
    make_run("plain", predictions=a)
    identity = make_run("personal", predictions=b.sample(frac=1, random_state=0), system="cnn14-film", epochs=6)
    assert compare(monkeypatch, a="plain", b=identity) == 0
    told = capsys.readouterr().out
    first, second = (bootstrap(scoring.statistics(table, TASK), groups=table["speaker"]) for table in (a, b))
    low, high, _ = interval(second - first).loc["emotion_ccc"]
    difference = scoring.score_epoch(b, TASK)["emotion_ccc"] - scoring.score_epoch(a, TASK)["emotion_ccc"]
    assert f"b beats a by {difference:.4f} CCC, 95% interval by speaker [{low:.4f}, {high:.4f}]" in told
    assert "Paired over 40 clips of 8 speakers" in told
    (about_b,) = [line for line in told.splitlines() if line.startswith("| b ")]
    assert about_b.replace("|", "").split() == ["b", "cnn14-film", "personal", "0.25", "6", "32", "0.001", "0", "2"]
    metrics = newest().data.metrics
    assert metrics["difference/emotion_ccc"] == pytest.approx(difference)
    assert metrics["difference/emotion_ccc_lo_by_speaker"] == pytest.approx(low)
    assert not [name for name in metrics if "high_ccc" in name or "loud_ccc" in name]  # the table has them
    table = pd.read_csv(artifact("results/comparison.csv"))
    assert table["metric"].tolist() == ["emotion_ccc", "high_ccc", "loud_ccc", "emotion_mae"]
    assert table.loc[0, "wins"] == 1.0
    assert artifact("results/comparison.md").read_text(encoding="utf-8") in told
    assert few_speakers_sentence(8) in told
    pd.testing.assert_frame_equal(pd.read_parquet(artifact("results/comparison/scores.parquet")), table)
    assert artifact("results/comparison/emotion_ccc.png").stat().st_size > 1000
    html = artifact("results/comparison.html").read_text(encoding="utf-8")
    assert f"b beats a by {difference:.4f} CCC" in html
    assert f"--b={identity}" in html


def test_predictions_of_another_split_come_from_the_newest_evaluation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = make_run("trained")
    make_run("early", entry_point="evaluate", evaluated_run=trained, split="test", noise=0.9)
    make_run("late", entry_point="evaluate", evaluated_run=trained, split="test", noise=0.1)
    make_run("main", entry_point="main", system="cnn14-film", split="test", noise=0.1)
    assert compare(monkeypatch, a="trained", b="main", split="test") == 0
    assert newest().data.metrics["difference/emotion_ccc"] == 0.0
    assert "includes zero: no difference is shown" in capsys.readouterr().out
    same = refused(monkeypatch, capsys, a="trained", b="late", split="test")
    assert same == "a=trained and b=late are the same run, late; give two runs."
    assert compare(monkeypatch, a="early", b="late", split="test") == 0
    assert "b beats a by" in capsys.readouterr().out
    said = refused(monkeypatch, capsys, a="main", b="trained")
    assert said.startswith("The run main (a=main) has no predictions of the val split; write them with `")
    said = refused(monkeypatch, capsys, a="late", b="trained")
    assert said.endswith(f"exvo evaluate --run_id={trained} --split=val`.")


def test_runs_that_can_not_be_compared_are_refused_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run("one")
    make_run("other", corpus_digest="b2" * 32)
    said = refused(monkeypatch, capsys, a="one", b="other")
    assert said.startswith(
        "The runs one and other can't be compared: their corpora differ, sample a1a1a1a1a1a1 and sample b2"
    )
    make_run("strict", protocol="strict")
    assert "their protocols differ, published and strict" in refused(monkeypatch, capsys, a="one", b="strict")
    assert refused(monkeypatch, capsys, a="one") == (
        "b is empty; give both a and b to compare two runs, or neither to list all systems."
    )
    assert refused(monkeypatch, capsys, a="nobody", b="one").startswith("a=nobody: the tracking server sqlite:")
    running = make_run("running")
    MlflowClient().update_run(running, status="RUNNING")
    said = refused(monkeypatch, capsys, a="one", b="running")
    assert said == "The run running (b=running) is running; give a run that has finished."
    for status, said in (("FAILED", "has failed"), ("KILLED", "was stopped")):
        MlflowClient().set_terminated(make_run(status), status)
        sentence = f"The run {status} (a={status}) {said}; give a run that has finished."
        assert refused(monkeypatch, capsys, a=status, b="one") == sentence
    assert refused(monkeypatch, capsys, a="one", b="one") == "a=one and b=one are the same run, one; give two runs."
    with mlflow.start_run(run_name="bare"):
        pass
    said = refused(monkeypatch, capsys, a="bare", b="one")
    assert said.startswith("The run bare (a=bare) names no system; give a run that train, main or evaluate")
    assert newest().info.run_name == "bare"  # a refusal leaves no run


def test_listed_systems_are_compared_each_with_each(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = [make_run("poor", noise=0.9, protocol="strict")]
    ids.append(make_run("good", noise=0.1, seed=3, protocol="strict", system="cnn10-random-init"))
    make_run("odd", protocol="strict", system="cnn14-film", shots=4)
    bare = make_run("bare", protocol="strict", system="cnn5")
    (path,) = Path("artifacts").glob(f"{bare}/artifacts/predictions/val.parquet")
    path.unlink()
    assert compare(monkeypatch) == 0
    told = capsys.readouterr().out
    assert "1 comparison of CCC, corrected for by Holm's method; none is marked, because p values over 8" in told
    assert "- The run bare has no predictions of the val split; write them with `" in told
    assert f"exvo evaluate --run_id={bare} --split=val`." in told
    assert "- The runs poor and odd can't be compared: their shots differ, 2 and 4;" in told
    name = "results/sample-a1a1a1a1-fewshot-strict-val"
    table = pd.read_csv(artifact(f"{name}.csv")).set_index("run")
    assert table["place"].fillna(0).to_dict() == {"poor": 2, "good": 1, "odd": 0, "bare": 0}
    pairs = pd.read_csv(artifact(f"{name}-differences.csv"))
    assert list(pairs.columns) == ["a", "b", "place_a", "place_b", "value", "lo", "hi", "p", "p_holm", "wins"]
    assert pairs[["a", "b"]].to_numpy().tolist() == [["poor", "good"]]
    pd.testing.assert_frame_equal(pd.read_parquet(artifact(f"{name}/differences.parquet")), pairs)
    assert len(pd.read_parquet(artifact(f"{name}/results.parquet"))) == 4
    assert artifact(f"{name}/matrix.png").stat().st_size > 1000
    html = artifact(f"{name}.html").read_text(encoding="utf-8")
    assert f"exvo compare --runs={ids[0]},{ids[1]}" in html.replace("\n", "")
    assert "The run bare has no predictions" in html


def test_chosen_runs_are_compared_or_all_reasons_are_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(3):
        make_run(f"seed{seed}", noise=0.3, seed=seed + 5)
    assert compare(monkeypatch, runs="seed2, seed0,seed1") == 0
    told = capsys.readouterr().out
    assert "3 comparisons of CCC" in told
    table = pd.read_csv(artifact("results/sample-a1a1a1a1-fewshot-published-val.csv"))
    assert table["run"].tolist() == ["seed2", "seed0", "seed1"]
    assert table.sort_values("place")["emotion_ccc"].is_monotonic_decreasing
    assert refused(monkeypatch, capsys, runs="seed0,seed1", a="seed0").startswith("runs is given beside a or b;")
    assert refused(monkeypatch, capsys, runs="seed0").startswith("runs=seed0 names 1 run; give two or more")
    said = refused(monkeypatch, capsys, runs="seed0,cnn14,seed2,nobody,nothing")
    assert said.count("has no run of that id or name") == 3  # cnn14: none of these runs has a model
    again = refused(monkeypatch, capsys, runs="seed0,seed1,seed0")
    assert again == "runs names the run seed0 twice; name each run once."
    make_run("strict", protocol="strict")
    make_run("other", corpus_digest="b2" * 32)
    said = refused(monkeypatch, capsys, runs="seed0,strict,seed1,other")
    assert "The runs seed0 and strict can't be compared: their protocols differ, published and strict" in said
    assert "The runs seed0 and other can't be compared: their corpora differ" in said
    assert newest().info.run_name == "other"  # a refusal leaves no run


def test_constant_predictions_are_undefined_everywhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = predictions(0.3, 2)
    table["prediction.Loud"] = 0.5
    make_run("constant", predictions=table)
    make_run("varied", system="cnn5")
    assert compare(monkeypatch, a="constant", b="varied") == 0
    assert "The difference of CCC is undefined: no difference is shown." in capsys.readouterr().out
    assert "difference/emotion_ccc_lo" not in newest().data.metrics
    assert artifact("results/comparison.html").read_text(encoding="utf-8").count("undefined") > 4
    assert compare(monkeypatch) == 0
    told = capsys.readouterr().out
    assert "No difference of CCC has a 95% interval by speaker: none is shown." in told
    assert "constant predicts the same for every clip in Loud" in told


def test_trained_runs_are_listed_and_compared(
    tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"corpus": "table", "data": str(tiny_corpus), "epochs": "1", "width": "0.05", "protocol": "strict"}
    names = []
    for model, entry_point in (("cnn5", "main"), ("cnn10-film", "train")):
        assert run_here(entry_point, options | {"model": model, "batch_size": "4"}, monkeypatch) == 0
        names.append(newest().info.run_name)
    assert run_here("evaluate", {"run_id": names[1]}, monkeypatch) == 0
    capsys.readouterr()
    for split in ("val", "test"):
        assert compare(monkeypatch, split=split) == 0
        told = capsys.readouterr().out
        assert told.count("## table, digest") == 1
        assert told.index("| cnn10-film ") < told.index("| cnn5 ")
        assert compare(monkeypatch, a=names[0], b=names[1], split=split) == 0
        runs = {run.info.run_name: run for run in MlflowClient().search_runs(["1"])}
        film, plain = (runs[name].data.metrics[f"{split}/emotion_ccc"] for name in names[::-1])
        difference = film - plain
        assert newest().data.metrics["difference/emotion_ccc"] == pytest.approx(difference)
        assert f"of {'3' if split == 'val' else '2'} speakers" in capsys.readouterr().out
