"""The library against the entry points and the served model, and the examples of its page."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from mlflow import MlflowClient
from mlflow.entities import Run

import exvo
from exvo.enrolment import EnrolmentSettings
from exvo.evaluation.scoring import as_metrics
from exvo.experiments import train
from exvo.networks.checkpoint import save_checkpoint
from exvo.networks.network import Network
from exvo.settings import TrainSettings
from exvo.tasks import Task

from helpers.commands import ROOT, run_here
from helpers.networks import task_without_limits
from helpers.requests import FEATURES, TONES, tone
from helpers.tables import predictions

pytestmark = pytest.mark.filterwarnings("ignore:The intervals by speaker resample")


@dataclass(frozen=True)
class Trained:
    """A personalised training run, in a store of its own.

    Attributes:
        run: on the tracking server, registered as `exvo-fewshot@champion`.
        file: its model file.
        table: the path of its predictions of val.
        scored, enrolling: the files of the clips of one speaker.
        expected: (scored clips, targets), what the run has logged for them.
    """

    run: Run
    file: Path
    table: Path
    scored: list[Path]
    enrolling: list[Path]
    expected: np.ndarray


@pytest.fixture(scope="module")
def trained(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    folder = tmp_path_factory.mktemp("api")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("exvo.experiments.train.make_task", task_without_limits)
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        options = {"corpus": "table", "data": str(tiny_corpus), "epochs": 1, "width": 0.05, "learning_rate": 0.01}
        train.run(TrainSettings(**options, model="cnn10-relative"))
        (run,) = MlflowClient().search_runs(["0"])
        version = mlflow.register_model(run.data.tags["exvo.model_uri"], "exvo-fewshot").version
        MlflowClient().set_registered_model_alias("exvo-fewshot", "champion", version)
        path = Path(mlflow.artifacts.download_artifacts(f"{run.info.artifact_uri}/predictions/val.parquet"))
        table = pd.read_parquet(path)
        own = table[table["speaker"] == table["speaker"].iloc[0]]
        yield Trained(
            run,
            folder / "output" / "runs" / run.info.run_id / "best.safetensors",
            path,
            [tiny_corpus / file for file in own["file"][own["scored"]]],
            [tiny_corpus / file for file in own["file"][~own["scored"]]],
            own[own["scored"]][["prediction.High", "prediction.Loud"]].to_numpy(),
        )
        mlflow.set_tracking_uri(None)


def model_file(folder: Path, task: Task, fusion: str = "none") -> Path:
    """The file of an untrained network."""
    torch.manual_seed(0)
    enrolment = "shared" if fusion == "relative" else "none"
    network = Network("cnn10", task.outputs, 0.05, enrolment=enrolment, fusion=fusion)
    path = folder / f"{task.name}-{fusion}.safetensors"
    settings = EnrolmentSettings("strict", 2)
    save_checkpoint(path, network, network.state_dict(), task, FEATURES, "repeat", {"model": "mine"}, settings)
    return path


FEWSHOT = Task("fewshot", ("High", "Loud"))


@pytest.fixture(scope="module")
def personalised(tmp_path_factory: pytest.TempPathFactory) -> exvo.Recogniser:
    return exvo.load(model_file(tmp_path_factory.mktemp("personalised"), FEWSHOT, "relative"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> exvo.Recogniser:
    return exvo.load(model_file(tmp_path_factory.mktemp("plain"), FEWSHOT))


@pytest.mark.parametrize("kind", ["file", "text of a file", "id", "name", "system", "champion", "version"])
def test_every_name_of_a_model_gives_the_numbers_that_its_run_has_logged(kind: str, trained: Trained) -> None:
    names = {"file": trained.file, "text of a file": str(trained.file), "id": trained.run.info.run_id}
    names |= {"name": trained.run.info.run_name, "system": "cnn10-relative"}
    names |= {"champion": "models:/exvo-fewshot@champion", "version": "models:/exvo-fewshot/1"}
    model = exvo.load(names[kind])
    assert (model.targets, model.personalised) == (("High", "Loud"), True)
    answers = model.predict(trained.scored, enrolment=trained.enrolling)
    assert answers.columns.tolist() == ["High", "Loud"]
    assert answers.index.tolist() == list(range(len(trained.scored)))
    np.testing.assert_allclose(answers, trained.expected, atol=1e-5)


def test_the_entry_point_and_the_served_model_give_the_same(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = exvo.load(trained.file)
    profile = model.enrol(trained.enrolling)
    answers = model.predict(trained.scored, enrolment=profile)

    saved = tmp_path / "emotions.parquet"
    lists = {"audio": trained.scored, "enrolment": trained.enrolling}
    options = {name: ",".join(map(str, paths)) for name, paths in lists.items()}
    assert run_here("predict", options | {"model_uri": trained.run.info.run_id, "save": str(saved)}, monkeypatch) == 0
    pd.testing.assert_frame_equal(pd.read_parquet(saved)[["High", "Loud"]], answers, check_exact=True)

    served = mlflow.pyfunc.load_model("models:/exvo-fewshot@champion")
    clips, enrolling = ([path.read_bytes() for path in paths] for paths in lists.values())
    enrolled = served.predict(pd.DataFrame({"enrolment": [enrolling]}), params={"mode": "enrol"})
    np.testing.assert_array_equal(np.float32(enrolled["profile"][0]), profile)
    rows = pd.DataFrame({"audio": clips, "profile": [profile.tolist()] * len(clips)})
    pd.testing.assert_frame_equal(served.predict(rows)[["High", "Loud"]], answers, check_exact=True)


def test_a_clip_is_a_path_bytes_or_a_waveform(personalised: exvo.Recogniser, tmp_path: Path) -> None:
    path = tmp_path / "tone.wav"
    path.write_bytes(TONES[0])
    waveform = soundfile.read(io.BytesIO(TONES[0]))
    stereo = (np.stack([waveform[0]] * 2, axis=1), waveform[1])
    kinds = [path, str(path), TONES[0], waveform, (waveform[0].tolist(), np.int64(16_000)), stereo]
    kinds.append((torch.from_numpy(waveform[0]), 16_000.0))
    together = personalised.predict(kinds)
    assert len(together) == len(kinds)
    for kind in kinds:
        alone = personalised.predict(kind)
        np.testing.assert_allclose(alone, together[:1], atol=1e-6)
        np.testing.assert_allclose(personalised.enrol(kind), personalised.enrol(path), atol=1e-6)
    np.testing.assert_allclose(together, np.repeat(together[:1], len(kinds), axis=0), atol=1e-6)
    two = personalised.predict((path, TONES[1]))  # a tuple of clips, an iterator, and a column of a table
    pd.testing.assert_frame_equal(personalised.predict(clip for clip in [path, TONES[1]]), two)
    pd.testing.assert_frame_equal(personalised.predict(pd.Series([str(path), TONES[1]])), two)


def test_enrolment_adapts_and_a_profile_does_the_same_as_its_clips(personalised: exvo.Recogniser) -> None:
    typical = personalised.predict(TONES[:3])
    adapted = personalised.predict(TONES[:3], enrolment=TONES[5:7])
    assert (typical - adapted).abs().to_numpy().max() > 1e-5
    profile = personalised.enrol(TONES[5:7])
    assert profile.dtype == np.float32
    pd.testing.assert_frame_equal(personalised.predict(TONES[:3], enrolment=profile), adapted)
    kept = np.array(profile.tolist())  # as JSON keeps it
    pd.testing.assert_frame_equal(personalised.predict(TONES[:3], enrolment=kept), adapted)


def test_a_model_without_enrolment_says_so(plain: exvo.Recogniser) -> None:
    with pytest.warns(UserWarning, match="takes no enrolment, so the enrolment clips are ignored"):
        ignored = plain.predict(TONES[0], enrolment=TONES[1])
    pd.testing.assert_frame_equal(ignored, plain.predict(TONES[0]))
    with pytest.raises(exvo.InputError, match="takes no enrolment, so it has no profile to give"):
        plain.enrol(TONES[1])
    assert repr(plain) == "<Recogniser: mine, 2 targets, not personalised, on cpu>"


def test_other_tasks_have_their_own_columns(tmp_path: Path) -> None:
    multitask = exvo.load(model_file(tmp_path, Task("multitask", ("High", "Loud"), ("Chile", "Kenya"))))
    answers = multitask.predict(TONES[:2])
    assert answers.columns.tolist() == ["High", "Loud", "age", "country"]
    assert set(answers["country"]) <= {"Chile", "Kenya"}
    speaker = exvo.load(model_file(tmp_path, Task("speaker", (), speakers=("ann", "bob"))))
    assert (speaker.targets, speaker.predict(TONES[0]).columns.tolist()) == ((), ["speaker"])


def test_what_mixing_loses_is_a_warning(plain: exvo.Recogniser, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000)
    soundfile.write(tmp_path / "a.wav", np.stack([noise, -0.98 * noise], axis=1), 16_000, "FLOAT")
    with pytest.warns(UserWarning, match=r"a\.wav: mixing its 2 channels to one lost 40 dB"):
        plain.predict(tmp_path / "a.wav")


SILENT, RATE = np.zeros(16_000), 16_000
BAD_CLIPS: list[tuple[object, str]] = [
    ("gone.wav", r"^gone\.wav can't be used: missing\. Repair or replace it"),
    (Path("folder"), r"^folder can't be used: a folder\."),
    (b"no audio", r"^clip 1 of 1 can't be used: not audio \("),
    (["gone.wav", TONES[0], b""], r"^2 of 3 clips can't be used: gone\.wav: missing; clip 3 of 3: empty file\.$"),
    ([b""] * 12, r"^12 of 12 clips can't be used: (clip \d+ of 12: empty file(; )?){10} and 2 more\.$"),
    ([], r"^audio has 0 clips; give at least one\.$"),
    (np.zeros(3), r"^audio: clip 1 of 3 is of type float64: give a path, .* as in \(samples, 16_000\)\.$"),
    (5, r"^audio: clip 1 of 1 is of type int: give a path"),
    ((RATE, SILENT), r"^audio: clip 1 of 2 is of type int: give a path"),
    ((SILENT, RATE), r"^clip 1 of 1 can't be used: silent"),
    ((SILENT.astype(int), RATE), "holds int64 numbers: give floats"),
    ((SILENT + 1, 0), r"^The sampling rate must be a positive number of Hz, found 0"),
    ((SILENT + 1, float("nan")), r"^The sampling rate must be a positive number of Hz"),
    (([[0.1], [0.1, 0.2]], RATE), "its samples are no array of numbers"),
    (("a.wav", RATE), "holds <U5 numbers"),
    ((np.full((2, RATE), 0.1), RATE), r"its shape is \(2, 16000\): give \(samples,\) or \(samples, channels\)"),
]


@pytest.mark.parametrize(("audio", "sentence"), BAD_CLIPS, ids=[sentence for _, sentence in BAD_CLIPS])
def test_bad_audio_is_one_sentence(
    audio: object, sentence: str, plain: exvo.Recogniser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    with pytest.raises(exvo.InputError, match=sentence):
        plain.predict(audio)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("enrolment", "sentence"),
    [
        ([], r"^enrolment has 0 clips; give at least one, at most 16\.$"),
        (TONES[:1] * 17, r"^enrolment has 17 clips; give at least one, at most 16\.$"),
        ([TONES[0], b""], r"^clip 2 of 2 can't be used: empty file"),
        (np.zeros(7, np.float32), r"^The enrolment is an array of float32 \(7,\), but a profile of this model has 26"),
        (np.full(26, np.nan), "26 finite numbers: give what enrol gave"),
        (np.zeros(26, int), r"array of int64 \(26,\)"),
    ],
)
def test_bad_enrolment_is_one_sentence(enrolment: object, sentence: str, personalised: exvo.Recogniser) -> None:
    with pytest.raises(exvo.InputError, match=sentence):
        personalised.predict(TONES[0], enrolment=enrolment)  # type: ignore[arg-type]


def test_outputs_that_are_not_finite_are_one_sentence(tmp_path: Path) -> None:
    model = exvo.load(model_file(tmp_path, FEWSHOT, "relative"))
    torch.nn.init.constant_(model._checkpoint.network.output.weight, 3e38)
    with pytest.raises(exvo.InputError, match="The outputs for these clips are not finite: the weights have diverged"):
        model.predict(TONES[0])


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("gone.safetensors", r"^gone\.safetensors is not a whole checkpoint of exvo \(No such file"),
        (Path("gone"), r"^gone is not a whole checkpoint of exvo \(No such file"),
        ("nobody", r"^model=nobody: the tracking server sqlite:.* has no run of that id or name"),
        ("models:/exvo-fewshot", r"^model=models:/exvo-fewshot lacks a version"),
        ("models:/exvo-fewshot/9", r"^model=models:/exvo-fewshot/9: sqlite:.* gives no model of exvo by that name"),
        ("", r"^model is empty; give the id or the name of a run"),
    ],
)
def test_a_model_that_is_not_there_is_one_sentence(model: str | Path, sentence: str, trained: Trained) -> None:
    with pytest.raises(exvo.InputError, match=sentence):
        exvo.load(model)


def test_devices(plain: exvo.Recogniser, trained: Trained) -> None:
    with pytest.raises(exvo.InputError, match=r"^device=cudo is not known; did you mean cuda or cpu or auto\?$"):
        exvo.load(trained.file, device="cudo")
    if not torch.cuda.is_available():
        with pytest.raises(exvo.InputError, match="device=cuda, but PyTorch finds no CUDA device here"):
            exvo.load(trained.file, device="cuda")
    exvo.load(trained.file, device="cpu").predict(TONES[0])


def test_scores_are_those_that_the_run_has_logged(trained: Trained) -> None:
    scores = exvo.scores(trained.table)
    logged = {name: value for name, value in trained.run.data.metrics.items() if name.startswith("val/")}
    metrics = as_metrics(scores, "val")
    assert set(metrics) == set(logged)
    np.testing.assert_allclose([metrics[name] for name in logged], list(logged.values()))
    table = pd.read_parquet(trained.table)
    assert scores["n"][0] == table["scored"].sum() < len(table)
    pd.testing.assert_frame_equal(exvo.scores(table), scores)
    pd.testing.assert_frame_equal(exvo.scores(str(trained.table)), scores)
    wrong = table.assign(**{"prediction.High": table["prediction.High"].where(table["scored"], 9.0)})
    pd.testing.assert_frame_equal(exvo.scores(wrong), scores)  # clips that enrol don't count


def run_program(program: str, *arguments: str | Path) -> str:
    """What a program in a process of its own prints."""
    words = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_to_import_exvo_takes_no_time() -> None:
    program = (
        "import sys, time\nbefore = time.perf_counter()\nimport exvo\nseconds = time.perf_counter() - before\n"
        "assert not {'numpy', 'pandas', 'torch', 'mlflow'} & set(sys.modules)\n"
        "assert set(exvo.__all__) <= set(dir(exvo))\nprint(seconds)"
    )
    assert min(float(run_program(program)) for _ in range(3)) < 0.2


def test_scores_and_compare_need_no_torch_and_a_model_file_no_mlflow(trained: Trained) -> None:
    program = (
        "import sys, warnings; warnings.simplefilter('ignore'); import exvo\n"
        "exvo.scores(sys.argv[1]); exvo.compare(sys.argv[1], sys.argv[1])\n"
        "assert not {'torch', 'mlflow'} & set(sys.modules)\n"
        "exvo.load(sys.argv[2]).predict(sys.argv[3])\n"
        "assert 'mlflow' not in sys.modules\nprint('done')"
    )
    assert run_program(program, trained.table, trained.file, trained.scored[0]) == "done\n"


def test_there_is_nothing_else_of_that_name() -> None:
    with pytest.raises(AttributeError, match="module 'exvo' has no attribute 'lod'"):
        exvo.lod  # type: ignore[attr-defined]  # noqa: B018


def test_the_examples_of_the_page_run(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["laugh.wav", "cry.wav", "one.wav", "two.wav"]
    for name, pitch in zip(names, (200, 300, 400, 500), strict=True):
        Path(name).write_bytes(tone(pitch))
    shutil.copy(trained.file, "best.safetensors")
    predictions(0.5, 2).to_parquet("plain.parquet")
    predictions(0.3, 3).to_parquet("adapted.parquet")
    page = (ROOT / "docs" / "how-to" / "python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert len(blocks) > 4
    namespace: dict[str, object] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        for block in blocks:
            exec(compile(block, "docs/how-to/python.md", "exec"), namespace)
