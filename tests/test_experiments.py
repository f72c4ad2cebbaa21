"""Where runs stand, and by what they are known there: experiments, names, descriptions, resolved options, scores."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException

from exvo import options
from exvo.errors import InputError
from exvo.settings import ENTRY_POINTS, TrainSettings, automatic
from exvo.tracking import experiments, labels, lookup, names, scored
from exvo.tracking.tags import NOTE

from helpers.commands import run_here

SMALL = {"model": "cnn10-film", "corpus": "table", "epochs": "1", "batch_size": "4", "width": "0.1"}


@pytest.fixture(autouse=True)
def no_experiment_is_chosen(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a user has it, but that what experiments keep lies in the test's own folder."""
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    default = str(Path("mlruns").absolute() / "0")
    true = MlflowClient.get_experiment

    def get_experiment(client: MlflowClient, experiment_id: str) -> object:
        found = true(client, experiment_id)
        if experiment_id == "0":
            found._artifact_location = default
        return found

    monkeypatch.setattr(MlflowClient, "get_experiment", get_experiment)


def all_runs(view: int = ViewType.ACTIVE_ONLY) -> list[Run]:
    """The runs of all experiments, the oldest first."""
    client = MlflowClient()
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(ids, "", view, order_by=["attributes.start_time ASC"]))


def where(run: Run) -> str:
    """The name of a run's experiment."""
    return str(MlflowClient().get_experiment(run.info.experiment_id).name)


def train(tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch, **options: str) -> Run:
    assert run_here("train", SMALL | {"data": str(tiny_corpus)} | options, monkeypatch) == 0
    return all_runs()[-1]


def test_each_kind_of_run_has_its_place(
    tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = train(tiny_corpus, monkeypatch)
    assert where(trained) == "exvo/table/fewshot"
    assert f"run    {trained.info.run_name} ({trained.info.run_id}) in exvo/table/fewshot\n" in capsys.readouterr().out
    assert (
        trained.info.artifact_uri
        == str(Path("mlruns/exvo/table/fewshot").absolute()) + f"/{trained.info.run_id}/artifacts"
    )
    clip = str(next(tiny_corpus.glob("*.wav")))
    name = {"run_id": trained.info.run_name}
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "elsewhere")
    assert run_here("evaluate", name, monkeypatch) == 0
    assert run_here("enrolment-curve", name | {"draws": "1"}, monkeypatch) == 0
    assert run_here("predict", {"model_uri": trained.info.run_name, "audio": clip}, monkeypatch) == 0
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    assert run_here("compare", {}, monkeypatch) == 0
    assert run_here("extract", {"corpus": "table", "data": str(tiny_corpus)}, monkeypatch) == 0
    assert run_here("register", name, monkeypatch) == 0
    assert [(run.data.tags["exvo.entry_point"], where(run)) for run in all_runs()[1:]] == [
        ("evaluate", "exvo/table/fewshot"),
        ("enrolment-curve", "exvo/table/fewshot"),
        ("predict", "elsewhere"),
        ("compare", "exvo/utilities"),
        ("extract", "exvo/utilities"),
        ("register", "exvo/utilities"),
    ]
    multitask = train(tiny_corpus, monkeypatch, task="multitask", experiment="my tests")
    assert where(multitask) == "my tests"
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "elsewhere")
    assert where(train(tiny_corpus, monkeypatch, seed="1")) == "elsewhere"
    assert where(train(tiny_corpus, monkeypatch, seed="2", experiment="my tests")) == "my tests"  # the option wins
    found = lookup.newest_runs("val")  # of whichever experiment
    assert set(found["task"]) == {"fewshot", "multitask"}


def test_what_evaluate_writes_on_the_training_run(tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = train(tiny_corpus, monkeypatch, protocol="strict")
    run_id, client = trained.info.run_id, MlflowClient()
    assert trained.data.tags[NOTE].startswith("**Validation: CCC ")
    for other in ({"protocol": "published"}, {"shots": "1"}, {"split": "val"}):
        assert run_here("evaluate", {"run_id": run_id} | other, monkeypatch) == 0
    assert not [name for name in client.get_run(run_id).data.metrics if name.startswith("test/")]
    assert run_here("evaluate", {"run_id": run_id}, monkeypatch) == 0
    evaluation, now = all_runs()[-1], client.get_run(run_id)
    written = {name: value for name, value in now.data.metrics.items() if name.startswith("test/")}
    assert written == {name: value for name, value in evaluation.data.metrics.items() if name.startswith("test/")}
    assert {"test/emotion_ccc", "test/emotion_ccc_lo_by_speaker", "test/emotion_mae"} <= set(written)
    assert now.info.status == "FINISHED"
    note = now.data.tags[NOTE]
    assert note.startswith(f"**Test: CCC {written['test/emotion_ccc']:.3f}**, 95% interval by speaker [")
    assert "; chance is 0.\n" in note
    assert "cnn10-film on table, 4 clips of 2 speakers; strict protocol, 2 enrolment clips." in note
    page = f"#/experiments/{evaluation.info.experiment_id}/runs/{evaluation.info.run_id}/artifacts/report/test.html"
    assert note.endswith(f"[Report]({page}?workflowType=machine_learning)")
    assert evaluation.data.tags[NOTE] == note
    assert run_here("evaluate", {"run_id": run_id, "shots": "1"}, monkeypatch) == 0
    assert "test/emotion_ccc" in all_runs()[-1].data.metrics
    assert lookup.newest_runs("test")["run_id"].tolist() != [
        all_runs()[-1].info.run_id
    ]  # with as many clips as trained
    assert scored.scored_run(now, "a", "test")[1].run_id == evaluation.info.run_id
    client.set_tag(run_id, NOTE, "My best one.")
    assert run_here("evaluate", {"run_id": run_id}, monkeypatch) == 0
    assert client.get_run(run_id).data.tags[NOTE] == "My best one."


def test_options_that_can_be_auto_are_logged_as_resolved_by_both_launchers(
    tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = train(tiny_corpus, monkeypatch)
    made = MlflowClient().create_run("0")
    for name in automatic(TrainSettings):
        MlflowClient().log_param(made.info.run_id, name, "auto")  # as MLflow's launcher does
    monkeypatch.setenv("MLFLOW_RUN_ID", made.info.run_id)
    given = {name: text for name, text in SMALL.items() if name not in ("epochs", "batch_size")}
    given |= {"data": str(tiny_corpus), "epochs": "1"}
    capsys.readouterr()
    assert run_here("train", given | {"batch_size": "4"}, monkeypatch) == 0
    theirs = MlflowClient().get_run(made.info.run_id)
    each = [
        {name: text for name, text in run.data.params.items() if name.startswith("resolved.")} for run in (ours, theirs)
    ]
    assert each[0] == each[1]
    assert set(each[0]) == {f"resolved.{name}" for name in automatic(TrainSettings)}
    assert (each[0]["resolved.objective"], each[0]["resolved.protocol"], each[0]["resolved.fill"]) == (
        "ccc",
        "strict",
        "repeat",
    )
    assert "auto" not in each[0].values()
    assert capsys.readouterr().out.splitlines()[-1] == (
        "It went to MLflow's experiment Default; `mlflow run` with --experiment-name exvo/table/fewshot chooses one."
    )


def test_the_option_is_refused_where_mlflow_has_made_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = MlflowClient().create_run("0")
    monkeypatch.setenv("MLFLOW_RUN_ID", made.info.run_id)
    options.note_launcher()
    assert run_here("train", {"experiment": "mine"}, monkeypatch) == 2
    assert "give --experiment-name mine to `mlflow run`." in capsys.readouterr().err


@pytest.mark.usefixtures("store")
def test_refused_input_leaves_no_run(tmp_path: Path, tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(tiny_corpus, tmp_path / "damaged")
    (tmp_path / "damaged" / "s0-0.wav").write_bytes(b"")
    for entry_point in ("train", "extract"):
        given = {"corpus": "table", "data": str(tmp_path / "damaged")}
        assert run_here(entry_point, given, monkeypatch) == 2
    assert all_runs() == []


@pytest.mark.parametrize("refused", ["by the server", "by its database"])
def test_two_processes_make_the_same_experiment(refused: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one makes it between our look and our attempt."""
    true, answers = MlflowClient.get_experiment_by_name, [None]
    made = MlflowClient().create_experiment("both")

    def late(client: MlflowClient, name: str) -> object:
        return answers.pop() if answers else true(client, name)

    def duplicate(client: MlflowClient, *words: object) -> str:
        raise MlflowException('duplicate key value violates unique constraint "uq_experiments_workspace_name"')

    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", late)
    with monkeypatch.context() as patch:
        if refused == "by its database":
            patch.setattr(MlflowClient, "create_experiment", duplicate)
        assert experiments.id_of("both") == made
        answers.append(None)
        patch.setenv("MLFLOW_EXPERIMENT_NAME", "both")
        assert experiments.place("", "") == made
    answers.append(None)
    with pytest.raises(MlflowException):
        experiments.id_of("x" * 600)


def test_a_deleted_experiment_is_said_with_the_command_that_restores_it(
    tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    MlflowClient().delete_experiment(experiments.id_of("exvo/table/fewshot"))
    assert run_here("train", SMALL | {"data": str(tiny_corpus)}, monkeypatch) == 2
    assert "New runs can't begin. The experiment exvo/table/fewshot is deleted; " in capsys.readouterr().err


def test_names_say_what_runs_do(tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = train(tiny_corpus, monkeypatch)
    assert trained.info.run_name == f"cnn10-film-w0.1-e1-s0-{trained.info.run_id[:4]}"
    assert run_here("evaluate", {"run_id": trained.info.run_name}, monkeypatch) == 0
    evaluation = all_runs()[-1]
    assert evaluation.info.run_name == f"evaluate-cnn10-film-{evaluation.info.run_id[:4]}"
    MlflowClient().update_run(evaluation.info.run_id, name=trained.info.run_name)
    with pytest.raises(InputError, match="is the name of 2 runs; give the id of one: "):
        lookup.find_run(trained.info.run_name)


def test_whose_description_may_be_replaced() -> None:
    assert labels.may_describe("")
    assert labels.may_describe("exvo: The corpus has no clips.")
    assert labels.may_describe("**Validation: UAR 0.312**, 95% interval by speaker [0.290, 0.335]")
    assert not labels.may_describe("Validation of an idea")


def test_the_newest_run_of_each_combination() -> None:
    client, expected = MlflowClient(), {}
    for number in range(40):
        tags = {"a": str(number % 2), "b": f"it's {number % 3}"}
        run = client.create_run("0", start_time=number, tags=tags | ({"c": ""} if number % 5 else {}))
        if number % 5:
            expected[tags["a"], tags["b"]] = run.info.run_id
    found = names.newest_of_each("tags.c LIKE '%'", ["tags.`a`", "tags.`b`"])
    assert {(run.data.tags["a"], run.data.tags["b"]): run.info.run_id for run in found} == expected
    assert [run.info.start_time for run in found] == sorted((run.info.start_time for run in found), reverse=True)
    assert names.newest_of_each("tags.c = 'none'", ["tags.`a`"]) == []


def test_automatic_options_are_those_that_help_calls_so() -> None:
    assert automatic(ENTRY_POINTS["register"]) == ["protocol"]
    assert automatic(ENTRY_POINTS["compare"]) == []
    assert {"epochs", "precision", "fill", "workers"} <= set(automatic(ENTRY_POINTS["train"]))
    assert "workers" not in automatic(ENTRY_POINTS["tune"])
