"""The enrolment curve: its draws, its numbers against single predictions, and its sentence."""

from __future__ import annotations

from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient

from exvo.batches.clips import Clips
from exvo.errors import InputError
from exvo.evaluation import scoring
from exvo.evaluation.bootstrap import bootstrap, interval
from exvo.evaluation.enrolment_curve import curve_clips, draw_others, enrolment_curve
from exvo.networks.inference import make_predictor, predict_clips, predict_enrolments
from exvo.networks.network import Network
from exvo.reports.enrolment_curve import curve_conclusion
from exvo.reports.sentences import few_speakers_sentence
from exvo.tasks import Task
from exvo.tracking.tags import EVALUATED_TAG

from helpers.commands import run_here

TASK = Task("fewshot", ("High", "Loud"))
FUSIONS = {"attention": "cnn10", "conditioning": "cnn5", "relative": "shared", "film": "shared"}


def make(fusion: str, speakers: int = 4, clips: int = 4) -> tuple[Network, Clips, pd.DataFrame]:
    """A network with random weights and typical profile, and noise as clips."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    network = Network("cnn10", 2, 0.05, enrolment=FUSIONS[fusion], fusion=fusion).eval()
    network.typical.normal_()
    if fusion == "film":
        torch.nn.init.normal_(network.film.scale_shift.weight)
    names = [f"s{i % speakers}" for i in range(speakers * clips)]
    features = {str(i): rng.normal(-50, 10, (40 + i % 3, 64)).astype(np.float32) for i in range(len(names))}
    labels = rng.random((len(names), 2))
    rows = pd.DataFrame({"file": list(features), "split": "val", "speaker": names, "High": labels[:, 0]})
    rows["Loud"] = labels[:, 1]
    return network, Clips(list(features), list(features), features, labels, "repeat", names), rows


def curve_of(
    network: Network, clips: Clips, rows: pd.DataFrame, draws: int = 1, protocol: str | None = None
) -> pd.DataFrame:
    """The curve over the clips that can be scored."""
    kept = curve_clips(np.array(clips.speakers), rows, TASK)
    clips, rows = clips.take(kept), rows.iloc[kept]
    return enrolment_curve(make_predictor(network, clips, "cpu", protocol), np.array(clips.speakers), rows, TASK, draws)


def test_draws_are_of_the_right_or_of_one_wrong_speaker_and_never_the_clip_itself() -> None:
    speakers = np.array(["a", "b", "a", "b", "c", "c", "a", "c", "a"])
    for seed in range(50):
        right = draw_others(speakers, 2, False, np.random.default_rng(seed))
        wrong = draw_others(speakers, 2, True, np.random.default_rng(seed))
        others: dict[str, set[str]] = {}
        for clip, speaker in enumerate(speakers):
            assert clip not in right[clip]
            assert set(speakers[right[clip]]) == {speaker}
            assert len(set(right[clip])) == len(right[clip]) == (1 if speaker == "b" else 2)
            assert len(set(speakers[wrong[clip]])) == 1
            others.setdefault(speaker, set()).update(speakers[wrong[clip]])
        assert all(len(found) == 1 and speaker not in found for speaker, found in others.items())


def test_draws_by_the_shares_of_categories() -> None:
    """Of the right and of a wrong speaker, never the clip itself, whose category is as frequent as the other."""
    speakers = np.repeat([f"s{number:02}" for number in range(40)], 12)
    categories = np.tile(["x", "x", "x", "y", "y", "y"], 80)
    for wrong in (False, True):
        drawn = draw_others(speakers, 2, wrong, np.random.default_rng(0), categories)
        index = np.stack(drawn)
        assert all(len(set(own)) == 2 for own in index.tolist())
        assert (index != np.arange(len(speakers))[:, None]).all()
        assert ((speakers[index] == speakers[:, None]).all(), (speakers[index] != speakers[:, None]).all()) == (
            not wrong,
            wrong,
        )
        own = (categories[index] == categories[:, None]).mean()
        assert own == pytest.approx(0.5, abs=0.065)  # four standard deviations of 960 draws


@pytest.mark.parametrize("protocol", ["strict", "published"])
@pytest.mark.parametrize("fusion", list(FUSIONS))
def test_kept_embeddings_give_the_numbers_of_predict(fusion: str, protocol: str) -> None:
    network, clips, _ = make(fusion)
    outputs = make_predictor(network, clips, "cpu", protocol)
    none = [np.zeros(0, np.int64)] * len(clips)
    for seed in (0, 1, 0):
        drawn = draw_others(np.array(clips.speakers), 2, False, np.random.default_rng(seed))
        expected = predict_clips(network, clips, "cpu", drawn, protocol=protocol)
        np.testing.assert_allclose(outputs(drawn), expected, atol=1e-5)
    other = predict_clips(network, clips, "cpu", drawn, protocol="published" if protocol == "strict" else "strict")
    assert np.abs(expected - other).max() > 1e-6  # its clips have different lengths
    np.testing.assert_allclose(outputs(none), predict_clips(network, clips, "cpu"), atol=1e-5)
    assert np.abs(outputs(drawn) - outputs(none)).max() > 1e-3
    each = predict_enrolments(network, clips, "cpu", [drawn, None])
    np.testing.assert_array_equal(each[0], predict_clips(network, clips, "cpu", drawn))
    np.testing.assert_array_equal(each[1], predict_clips(network, clips, "cpu"))


@pytest.mark.parametrize("protocol", ["strict", "published"])
def test_the_curve_against_its_own_draws_one_by_one(protocol: str) -> None:
    network, clips, rows = make("relative")
    curve = curve_of(network, clips, rows, 3, protocol)
    assert curve["n"].unique().tolist() == [16]
    speakers = np.array(clips.speakers)
    found, samples = {}, {}
    for wrong in (False, True):
        every = []
        for draw in range(3):
            drawn = draw_others(speakers, 2, wrong, np.random.default_rng([0, 2, draw, wrong]))
            table = TASK.table(rows, predict_clips(network, clips, "cpu", drawn, protocol=protocol))
            every.append(scoring.statistics(table, TASK))
        found[wrong] = np.mean([one.scores()["emotion_ccc"] for one in every])
        samples[wrong] = sum(bootstrap(one, groups=speakers)["emotion_ccc"] for one in every) / 3
    of = curve[(curve["metric"] == "emotion_ccc") & (curve["shots"] == 2)].set_index("enrolment")
    assert of.loc["right", "value"] == pytest.approx(found[False], abs=1e-5)
    assert of.loc["wrong", "value"] == pytest.approx(found[True], abs=1e-5)
    assert of.loc["right", "right_over_wrong"] == pytest.approx(found[False] - found[True], abs=1e-5)
    typical = scoring.score_epoch(TASK.table(rows, predict_clips(network, clips, "cpu")), TASK)["emotion_ccc"]
    assert of.loc["wrong", "gain"] == pytest.approx(found[True] - typical, abs=1e-5)
    bounds = interval((samples[False] - samples[True]).to_frame())
    expected = bounds[["ci_low", "ci_high"]].to_numpy()[0]
    found_bounds = of.loc["right", ["right_over_wrong_lo", "right_over_wrong_hi"]].astype(float)
    np.testing.assert_allclose(found_bounds, expected, atol=1e-4)


def test_speakers_with_a_single_clip_and_unknown_ones_are_left_out() -> None:
    network, clips, rows = make("film")
    names = ["lone", "", *clips.speakers[2:]]
    changed = Clips(clips.files, clips.contents, clips.features, clips.labels, clips.fill, names)
    curve = curve_of(network, changed, rows.assign(speaker=names))
    assert curve["n"].unique().tolist() == [14]
    assert curve["speakers"].unique().tolist() == [4]
    lone = Clips(clips.files, clips.contents, clips.features, clips.labels, clips.fill, [f"s{i}" for i in range(16)])
    with pytest.raises(InputError, match="needs two labelled speakers with two clips or more each"):
        curve_of(network, lone, rows)


def test_the_verdict_puts_the_gain_first_and_warns_of_few_speakers() -> None:
    row = {"metric": "emotion_ccc", "shots": 2, "enrolment": "right", "gain": 0.02, "gain_lo": 0.01, "gain_hi": 0.03}
    row |= {"right_over_wrong": 0.05, "right_over_wrong_lo": 0.04, "right_over_wrong_hi": 0.1, "speakers": 30}
    assert curve_conclusion(pd.DataFrame([row]), "emotion_ccc") == (
        "Enrolment with 2 clips helps: CCC is +0.020 [0.010, 0.030] over none. It is the speaker that helps: over "
        "another speaker's clips it is +0.050 [0.040, 0.100]."
    )
    few = curve_conclusion(pd.DataFrame([row | {"speakers": 29}]), "emotion_ccc")
    assert few.startswith("As far as 29 speakers can tell, enrolment with 2 clips helps: ")
    assert few.endswith(few_speakers_sentence(29))
    early = pd.DataFrame([row]).drop(columns="speakers")
    assert curve_conclusion(early, "emotion_ccc").startswith("Enrolment with 2 clips helps")


@pytest.mark.usefixtures("store")
def test_the_entry_point(
    tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"corpus": "table", "data": str(tiny_corpus), "epochs": "1", "width": "0.05"}
    assert run_here("train", options | {"model": "cnn10-relative"}, monkeypatch) == 0
    (trained,) = MlflowClient().search_runs(["0"])
    assert run_here("enrolment-curve", {"run_id": "cnn10-relative", "draws": "2"}, monkeypatch) == 0
    told = capsys.readouterr().out
    assert "speakers can tell, enrolment with 2 clips " in told
    assert "| enrolment clips | CCC " in told
    assert "emotion_ccc" not in told.partition("| enrolment clips")[2]
    run = MlflowClient().search_runs(["0"])[0]
    assert run.data.tags[EVALUATED_TAG] == trained.info.run_id
    curve = pd.read_csv(mlflow.artifacts.download_artifacts(f"{run.info.artifact_uri}/enrolment/curve.csv"))
    assert curve.groupby("enrolment")["shots"].unique().map(list).to_dict() == {
        "right": [1, 2, 4, 8],
        "typical": [0],
        "wrong": [1, 2, 4, 8],
    }
    history = MlflowClient().get_metric_history(run.info.run_id, "enrolment/right_emotion_ccc")
    assert [point.step for point in history] == [1, 2, 4, 8]
    html = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/enrolment.html")
    assert '<p class="lead">As far as ' in html
    assert "8 (wrong)" in html
    assert "emotion_ccc.png" in [
        Path(one.path).name for one in MlflowClient().list_artifacts(run.info.run_id, "enrolment")
    ]
    assert run_here("train", options | {"model": "cnn10"}, monkeypatch) == 0
    assert run_here("enrolment-curve", {"run_id": "cnn10"}, monkeypatch) == 2
    assert "trained cnn10, which takes no enrolment clips" in capsys.readouterr().err
