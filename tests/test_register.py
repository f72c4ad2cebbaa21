"""The entry point `register` on runs made by hand in a store of the test's own, and once on a run that was trained."""

from __future__ import annotations

import functools
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from exvo.config import FeatureConfig
from exvo.errors import InputError
from exvo.evaluation import scoring
from exvo.evaluation.bootstrap import bootstrap, interval
from exvo.networks.checkpoint import save_checkpoint
from exvo.networks.network import Network
from exvo.tasks import Task
from exvo.tracking import runs
from exvo.tracking.tags import MODEL_TAG

from helpers.cards import AUDIT, ENROLLED, TASK, predictions
from helpers.cards import OPTIONS as TRAINED
from helpers.commands import run_by_hand, run_here

OPTIONS = TRAINED | {"split": "test"}
TAGS = {"entry_point": "train", "system": "cnn14-random-init", "task": "fewshot", "protocol": "published"}
TAGS |= {"corpus": "emogator", "corpus_digest": "a1" * 32}

pytestmark = pytest.mark.usefixtures("store")


@pytest.fixture(autouse=True)
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Artifacts in the test's own folder."""
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "elsewhere")


def log_scores(table: pd.DataFrame, split: str, task: Task = TASK) -> None:
    scores = scoring.score(table, task)
    runs.log_table(table, f"predictions/{split}.parquet")
    runs.log_table(scores, f"scores/{split}.csv")
    runs.log_metrics(scoring.as_metrics(scores, split))


@functools.cache
def weights() -> bytes:
    """A model file of a small network."""
    network = Network("cnn10", len(TASK.targets), 0.02)
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(Path(folder, "w"), network, network.state_dict(), TASK, FeatureConfig(), "repeat", {})
        return Path(folder, "w").read_bytes()


def make_run(name: str, noise: float = 0.3, model: bool = True, **different: Any) -> str:
    """A finished run as train logs it, with a logged model that has no file but weights; returns its id."""
    with run_by_hand(name) as active:
        mlflow.set_tags({f"exvo.{tag}": different.get(tag, value) for tag, value in TAGS.items()})
        system = {"enrolment": different.get("enrolment", "none")}
        options = {option: different.get(option, value) for option, value in OPTIONS.items()}
        runs.log_settings(options, {"system": system})
        runs.log_json("audit.json", AUDIT)
        runs.log_json("environment.json", {"libraries": {"torch": "2.11.0"}})
        runs.log_metrics({"best_epoch": 2})
        if different.get("predicts", True):
            log_scores(different.get("predictions", predictions(noise)), "val", different.get("scored_as", TASK))
        mlflow.set_tags(different.get("tags", {}))
        if model:
            logged = MlflowClient().create_logged_model(active.info.experiment_id, "model", active.info.run_id)
            MlflowClient().finalize_logged_model(logged.model_id, "READY")
            file = Path(logged.artifact_location.removeprefix("file://"), "artifacts", "best.safetensors")
            file.parent.mkdir(parents=True)
            file.write_bytes(weights())
            mlflow.set_tag(MODEL_TAG, f"models:/{logged.model_id}")
    return active.info.run_id


def evaluate(trained: str, noise: float, **tags: str) -> None:
    """An evaluation of a run on the test split, as evaluate logs it."""
    with run_by_hand():
        every = TAGS | {"entry_point": "evaluate", "evaluated_run": trained} | tags
        mlflow.set_tags({f"exvo.{tag}": value for tag, value in every.items()})
        runs.log_settings({"split": "test", "shots": 2}, {})
        log_scores(predictions(noise, seed=9), "test")


def register(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], **options: str) -> str:
    """What `register` prints."""
    assert run_here("register", options, monkeypatch) == 0
    return capsys.readouterr().out


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], **options: str) -> str:
    """The one sentence with which `register` ends with status 2."""
    assert run_here("register", options, monkeypatch) == 2
    assert versions() == []
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("exvo: ")]
    return line.removeprefix("exvo: ")


def versions() -> list[ModelVersion]:
    found = MlflowClient().search_model_versions("name = 'exvo-fewshot'")
    return sorted(found, key=lambda version: int(version.version))


def champion() -> str:
    return str(MlflowClient().get_model_version_by_alias("exvo-fewshot", "champion").version)


def description(version: str) -> str:
    return str(MlflowClient().get_model_version("exvo-fewshot", version).description)


def test_the_best_run_on_val_is_registered_and_becomes_champion(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run("worst", 0.9)
    best = make_run("best", 0.2)
    other = make_run("good on test", 0.4)
    evaluate(other, noise=0.01)
    make_run("undefined", predictions=predictions(0.1).assign(**{"prediction.High": 0.5}))
    told = register(monkeypatch, capsys)
    assert "the best validation score of emogator a1a1a1a1a1a1 under the published protocol\n" in told
    assert "decision    version 1 is champion now: there was no champion.\n" in told
    assert "load        models:/exvo-fewshot@champion\n" in told
    assert "#/models/exvo-fewshot/versions/1\n" in told
    (version,) = versions()
    assert version.run_id == best
    assert champion() == "1"


def test_a_registered_model_that_another_process_has_just_made(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """MLflow on PostgreSQL then gives the database's own error; where no model was made, the error is said."""
    true = MlflowClient.create_registered_model

    def duplicate(client: MlflowClient, *words: Any, **options: Any) -> None:
        raise MlflowException("duplicate key value violates unique constraint")

    def late(client: MlflowClient, *words: Any, **options: Any) -> None:
        true(client, *words, **options)
        duplicate(client)

    make_run("only")
    monkeypatch.setattr(MlflowClient, "create_registered_model", duplicate)
    assert "duplicate key value" in refused(monkeypatch, capsys)
    monkeypatch.setattr(MlflowClient, "create_registered_model", late)
    assert "version 1 is champion now" in register(monkeypatch, capsys)


def test_the_same_run_again_makes_no_version_but_renews_the_card(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run("only", enrolment="shared")
    register(monkeypatch, capsys)
    first = description("1")
    assert "the test split has not been scored: run `evaluate`" in first
    assert "Whether it is the speaker that helps has not been measured" in first
    evaluate(run, noise=0.4)
    told = register(monkeypatch, capsys)
    assert "exvo-fewshot version 1 (it was already; card renewed)" in told
    assert "version 1 stays champion: it is champion already." in told
    assert len(versions()) == 1
    value = scoring.score(predictions(0.4, seed=9), TASK).set_index("metric").loc["emotion_ccc", "value"]
    assert f"| {value:.3f}" in next(
        line for line in description("1").splitlines() if "CCC, mean" in line and "test" in line
    )
    assert versions()[0].tags["exvo.gate"] == "not-worse: became champion, because there was no champion"


@pytest.mark.parametrize(
    ("noise", "gate", "moves"),
    [
        (0.6, "not-worse", False),
        (0.6, "none", True),
        (0.1, "better", True),
        (0.3, "not-worse", True),
        (0.3, "better", False),
    ],
)
def test_the_alias_moves_only_through_the_gate(
    noise: float, gate: str, moves: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The champion has noise 0.3; another draw of the same noise is neither better nor worse."""
    make_run("champion")
    register(monkeypatch, capsys)
    table = predictions(noise, seed=5)
    make_run("challenger", predictions=table)
    told = register(monkeypatch, capsys, run_id="challenger", gate=gate)
    assert champion() == ("2" if moves else "1")
    assert [int(version.version) for version in versions()] == [1, 2]
    assert ("version 2 is champion now" in told) is moves
    assert ("version 2 does not become champion (gate=none would move the alias)" in told) is not moves
    assert f"load        models:/exvo-fewshot{'@champion' if moves else '/2'}\n" in told
    speakers = table["speaker"]
    samples = [bootstrap(scoring.statistics(one, TASK), groups=speakers) for one in (predictions(0.3), table)]
    low, high = interval(samples[1] - samples[0]).loc["emotion_ccc", ["ci_low", "ci_high"]]
    assert f"95% interval by speaker [{low:.4f}, {high:.4f}], over 80 clips of 8 speakers\n" in told
    assert "over fewer than 30 they are too narrow" in told
    assert versions()[1].tags["exvo.gate"].startswith(f"{gate}: {'became' if moves else 'not'} champion, because ")


def test_a_version_that_is_there_may_become_champion_later(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("first", "second"):
        make_run(name, 0.3 if name == "first" else 0.6)
        register(monkeypatch, capsys, run_id=name)
    assert champion() == "1"
    register(monkeypatch, capsys, run_id="second", gate="none")
    assert champion() == "2"
    told = register(monkeypatch, capsys)
    assert "exvo-fewshot version 1 (it was already; card renewed)" in told
    assert champion() == "1"
    assert len(versions()) == 2


@pytest.mark.parametrize(
    ("different", "told"),
    [
        (
            {"corpus_digest": "b2" * 32},
            "validated on emogator b2b2b2b2b2b2 under the published protocol, the champion on",
        ),
        ({"protocol": "strict"}, "under the strict protocol, 2 enrolment clips, the champion on emogator a1a1a1a1a1a1"),
        ({"predictions": predictions(0.1, clips=72)}, "these are scored by one alone: 72.wav"),
    ],
)
def test_what_can_not_be_compared_is_registered_but_not_champion(
    different: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run("champion")
    register(monkeypatch, capsys)
    make_run("other", 0.1, **different)
    said = register(monkeypatch, capsys, run_id="other")
    assert "version 2 does not become champion (gate=none would move the alias): they can't be compared: " in said
    assert told in said
    assert champion() == "1"
    assert len(versions()) == 2
    register(monkeypatch, capsys, run_id="other", gate="none")
    assert champion() == "2"


def of_categories(right: float) -> pd.DataFrame:
    """Clips of two categories, of which a share is recognised; the intensities of `cards.predictions` beside."""
    table, rng = predictions(0.3), np.random.default_rng(4)
    table["truth.category"] = rng.permutation(["High", "Loud"] * 40)
    other = table["truth.category"].map({"High": "Loud", "Loud": "High"})
    table["prediction.category"] = table["truth.category"].where(rng.random(80) < right, other)
    return table


CATEGORIES = replace(TASK, categories=True)


def log_prior(run: str, prior: dict[str, float | str]) -> None:
    with run_by_hand(run_id=run):
        runs.log_json("prior.json", prior)


@pytest.mark.parametrize("logged", [True, False])
def test_categories_are_chosen_by_uar_and_must_beat_the_prior(
    logged: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The prior of runs that have not logged theirs is that of the validation labels; its UAR is 1/2 in either case."""
    tables = {"guesses": of_categories(0.5), "hears": of_categories(0.9)}
    for name, table in tables.items():
        run = make_run(name, predictions=table, scored_as=CATEGORIES)
        if logged:
            log_prior(run, {"High": 0.6, "Loud": 0.4, "category": "High"})
    said = register(monkeypatch, capsys, run_id="guesses")
    assert (
        "does not become champion (gate=none would move the alias): its 95% interval by speaker over the prior" in said
    )
    assert "**It is not shown to be better than the prior**" in description("1")
    assert versions()[0].tags["exvo.gate"].startswith("not-worse: not champion, because its 95% interval by speaker")
    with pytest.raises(mlflow.exceptions.MlflowException):
        champion()
    said = register(monkeypatch, capsys)  # of the two the one with the higher UAR
    assert "candidate   hears" in said
    table = tables["hears"]
    value = scoring.score_epoch(table, CATEGORIES)["category_uar"]
    assert f"val UAR {value:.4f}\n" in said
    constant = table.assign(**{"prediction.category": "High"})
    samples = [bootstrap(scoring.statistics(one, CATEGORIES), groups=table["speaker"]) for one in (constant, table)]
    low, high = interval(samples[1] - samples[0]).loc["category_uar", ["ci_low", "ci_high"]]
    told = f"{value - 0.5:+.3f} UAR over the prior; 95% interval by speaker [{low:.3f}, {high:.3f}]"
    assert f"prior       {told}\n" in said
    assert champion() == "2"
    assert f"It is better than the prior (the training labels alone) on val: {told}." in description("2")
    assert versions()[1].tags["exvo.val_category_uar"] == f"{value:.6f}"
    register(monkeypatch, capsys, run_id="guesses", gate="none")
    assert champion() == "1"
    assert "**gate=none made it champion, without any comparison.**" in description("1")


def test_intensities_that_are_heard_by_chance_make_no_champion(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table, rng = predictions(0.3), np.random.default_rng(8)
    for target in TASK.targets:
        table[f"prediction.{target}"] = rng.random(len(table))
    make_run("chance", predictions=table)
    said = register(monkeypatch, capsys)
    assert "its 95% interval by speaker over the prior does not lie above zero." in said
    low, high = interval(bootstrap(scoring.statistics(table, TASK), groups=table["speaker"])).loc[
        "emotion_ccc", ["ci_low", "ci_high"]
    ]
    assert low < 0 < high
    assert f"CCC over the prior; 95% interval by speaker [{low:.3f}, {high:.3f}]" in said
    assert MlflowClient().get_registered_model("exvo-fewshot").aliases == {}


def test_an_undefined_interval_moves_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run("champion", predictions=predictions(0.3).assign(speaker=""))
    said = register(monkeypatch, capsys)
    assert "its difference to the prior or the 95% interval by speaker is undefined" in said
    register(monkeypatch, capsys, gate="none")
    make_run("other", predictions=predictions(0.1).assign(speaker=""))
    said = register(monkeypatch, capsys, run_id="other")
    assert "its difference to the prior or the 95% interval by speaker is undefined" in said
    assert champion() == "1"


def test_an_undefined_score_makes_no_first_champion(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run("constant", predictions=predictions(0.1).assign(**{"prediction.High": 0.5}))
    said = register(monkeypatch, capsys, run_id="constant")
    assert "val CCC undefined\n" in said
    assert "does not become champion (gate=none would move the alias): its validation score is undefined" in said
    assert MlflowClient().get_registered_model("exvo-fewshot").aliases == {}
    assert versions()[0].tags["exvo.val_emotion_ccc"] == "undefined"
    register(monkeypatch, capsys, run_id="constant", gate="none")
    assert champion() == "1"


def test_a_champion_whose_run_is_gone_keeps_the_alias_unless_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run("champion")
    register(monkeypatch, capsys)
    make_run("other", 0.1)
    monkeypatch.setattr("exvo.tracking.registry.run_of", gone)
    assert "they can't be compared: The run has been deleted" in register(monkeypatch, capsys, run_id="other")
    register(monkeypatch, capsys, run_id="other", gate="none")
    assert champion() == "2"


def gone(version: ModelVersion) -> None:
    raise InputError("The run has been deleted.")


def test_runs_of_several_corpora_or_protocols_need_a_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(monkeypatch, capsys).startswith("No finished few-shot run with a validation score and a model is")
    for name, different in (
        ("published", {}),
        ("strict", {"protocol": "strict"}),
        ("changed", {"corpus_digest": "b2" * 32}),
        ("sample", {"corpus": "sample", "corpus_digest": "c3" * 32}),
    ):
        make_run(name, **different)
    said = refused(monkeypatch, capsys)
    for part in (
        "give corpus (a name, or the first digits of a digest), protocol, or run_id: ",
        "emogator a1a1a1a1a1a1 under the published protocol",
        "emogator a1a1a1a1a1a1 under the strict protocol",
        "emogator b2b2b2b2b2b2 under the published protocol",
        "sample c3c3c3c3c3c3 under the published protocol",
    ):
        assert part in said
    assert "b2b2b2b2b2b2" in refused(monkeypatch, capsys, corpus="emogator", protocol="published")
    assert "that fits corpus and protocol" in refused(monkeypatch, capsys, corpus="hume-vb")
    assert "run_id is given beside corpus" in refused(monkeypatch, capsys, run_id="strict", protocol="strict")
    register(monkeypatch, capsys, corpus="b2b2")
    assert MlflowClient().get_run(versions()[0].run_id).info.run_name == "changed"
    register(monkeypatch, capsys, protocol="strict")
    assert MlflowClient().get_run(versions()[1].run_id).info.run_name == "strict"


def test_a_model_that_is_not_computed_any_more_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As those of networks that were mended since; here of a format that is not read any more."""
    current = weights()
    monkeypatch.setattr(sys.modules[__name__], "weights", lambda: current.replace(b"exvo-3", b"exvo-1"))
    old = make_run("best", noise=0.1)
    assert "has the format exvo-1" in refused(monkeypatch, capsys, run_id=old)
    assert run_here("register", {}, monkeypatch) == 2
    assert "No model of these runs can be used any more" in capsys.readouterr().err
    monkeypatch.setattr(sys.modules[__name__], "weights", lambda: current)
    make_run("second", noise=0.3)
    said = register(monkeypatch, capsys)
    assert f"left out    best ({old}): The model models:/" in said
    assert "candidate   second (" in said


def test_runs_that_are_no_few_shot_training_runs_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = make_run("trained", model=False)
    make_run("multi", task="multitask")
    make_run("silent", predicts=False)
    evaluate(trained, 0.3)
    evaluation_run = MlflowClient().search_runs(["1"])[0].info.run_id
    assert "trained for task=multitask" in refused(monkeypatch, capsys, run_id="multi")
    assert f"it looks at the run {trained}" in refused(monkeypatch, capsys, run_id=evaluation_run)
    assert "has logged no model" in refused(monkeypatch, capsys, run_id="trained")
    assert "has no predictions of the val split" in refused(monkeypatch, capsys, run_id="silent")
    assert "gate=best is not known" in refused(monkeypatch, capsys, gate="best")


def test_the_lineage_leads_from_the_version_to_trial_study_data_and_commit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = make_run("study", model=False)
    tags = {"exvo.study": "cnn14-abc", "exvo.trial": "3", "mlflow.parentRunId": study, "git.commit": "c" * 40}
    trial = make_run("trial", tags=tags)
    register(monkeypatch, capsys)
    version = MlflowClient().get_model_version_by_alias("exvo-fewshot", "champion")
    run = MlflowClient().get_run(version.run_id)
    assert run.info.run_id == trial
    assert MlflowClient().get_logged_model(version.source.rpartition("/")[2]).source_run_id == trial
    assert run.data.tags["mlflow.parentRunId"] == study
    assert version.tags["exvo.study"] == "cnn14-abc"
    assert version.tags["exvo.corpus_digest"] == run.data.tags["exvo.corpus_digest"] == "a1" * 32
    assert version.tags["git.commit"] == "c" * 40
    assert f"- Study: cnn14-abc, trial 3, run {study}\n" in version.description
    assert f"- Commit: `{'c' * 40}`\n" in version.description
    logged = MlflowClient().search_runs(["1"], "tags.`exvo.entry_point` = 'register'")[0]
    assert mlflow.artifacts.load_text(f"{logged.info.artifact_uri}/card.md") == version.description
    assert logged.data.tags["exvo.evaluated_run"] == trial


def test_the_card_takes_what_enrolment_is_worth_from_the_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run("best", enrolment="shared", protocol="strict")
    with run_by_hand(run_id=run):
        runs.log_table(ENROLLED, "report/val/enrolment.parquet")
    register(monkeypatch, capsys)
    assert "enrolment helps: CCC is +0.080 [0.020, 0.140] over none." in description("1")


def test_a_trained_run_is_loaded_by_its_alias(
    tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"model": "cnn10-relative", "corpus": "table", "data": str(tiny_corpus), "epochs": "1", "width": "0.05"}
    assert run_here("main", options, monkeypatch) == 0
    (trained,) = MlflowClient().search_runs(["1"])
    register(monkeypatch, capsys, gate="none")  # one epoch teaches nothing
    version = MlflowClient().get_model_version_by_alias("exvo-fewshot", "champion")
    assert version.run_id == trained.info.run_id
    assert version.source == trained.data.tags["exvo.model_uri"]
    assert "can tell, enrolment " in version.description
    assert f"best epoch 1\n- Libraries: mlflow {mlflow.__version__}, torch " in version.description
    loaded = [
        mlflow.pyfunc.load_model(uri).unwrap_python_model().checkpoint.notes["run_id"]
        for uri in ("models:/exvo-fewshot@champion", version.source)
    ]
    assert loaded == [trained.info.run_id] * 2


class Killed(BaseException):
    """In place of a kill: nothing after it is done."""


def true_at_every_moment() -> None:
    """That no version says that it became champion before the alias has moved to it, and that each has its card."""
    for version in versions():
        holder = MlflowClient().get_registered_model("exvo-fewshot").aliases.get("champion")
        assert version.description.startswith("# Model card: ")
        if "became champion" in version.tags["exvo.gate"]:
            assert int(version.version) <= int(holder or 0)
        if str(version.version) == str(holder):
            assert "not champion" not in version.tags["exvo.gate"]


@pytest.mark.slow
def test_the_version_tells_the_truth_wherever_register_is_killed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed before and after each of its requests to the registry, then typed again."""
    make_run("first")
    register(monkeypatch, capsys)
    writes = ("create_model_version", "set_model_version_tag", "update_model_version", "set_registered_model_alias")
    for number in range(99):
        made = make_run(f"better {number}", 0.2 / (number + 1))
        left = number
        with monkeypatch.context() as patch:
            for name in writes:
                true = getattr(MlflowClient, name)

                def write(*words: Any, true: Any = true, **named: Any) -> Any:
                    nonlocal left
                    done = true(*words, **named) if left else None
                    left -= 1
                    if left < 0:
                        raise Killed
                    return done

                patch.setattr(MlflowClient, name, write)
            try:
                register(patch, capsys, run_id=made)
                break
            except Killed:
                true_at_every_moment()
        register(monkeypatch, capsys, run_id=made)
        true_at_every_moment()
        assert [version.run_id for version in versions() if str(version.version) == champion()] == [made]
        (tag,) = [version.tags["exvo.gate"] for version in versions() if version.run_id == made]
        assert tag.startswith("not-worse: became champion, because ")
    assert number == 4  # create, its own address on the card, alias, tag


def test_a_curve_counts_as_measured_and_so_does_a_test_under_other_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run("best", enrolment="shared", protocol="strict")
    row = {"metric": "emotion_ccc", "enrolment": "right", "shots": 2, "right_over_wrong": 0.1}
    row |= {"right_over_wrong_lo": 0.05, "right_over_wrong_hi": 0.15, "gain": 0.0, "gain_lo": -0.1, "gain_hi": 0.1}
    curve = pd.DataFrame([row])
    with run_by_hand():
        tags = TAGS | {"entry_point": "enrolment-curve", "evaluated_run": run}
        mlflow.set_tags({f"exvo.{tag}": value for tag, value in tags.items()})
        runs.log_settings({"split": "test"}, {})
        runs.log_table(curve, "enrolment/curve.csv")
    evaluate(run, noise=0.4)  # under the published protocol
    register(monkeypatch, capsys)
    text = description("1")
    assert (
        "On the test split, with clips drawn at random: Enrolment with 2 clips is not shown to help: CCC is +0.000 "
        "[-0.100, 0.100] over none. The model does hear who speaks: over another speaker's clips it is +0.100" in text
    )
    assert "not been measured" not in text
    assert "the test split has been scored only under another protocol or number of enrolment clips." in text
