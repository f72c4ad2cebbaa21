"""The report: what it says of tables written by hand, and that its page stands alone."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

from exvo.config import EMOTIONS
from exvo.evaluation import scoring
from exvo.evaluation.calibration import bins_of
from exvo.reports.page import WIDE, Page, Section, axes, make_picture
from exvo.reports.run import means
from exvo.tasks import Task

from helpers.commands import run_here
from helpers.corpora import write_table_corpus
from helpers.reports import ABOUT, FEWSHOT, made, section, table


class Reader(HTMLParser):
    """Collects the tags' attributes and the text of a page, and checks that tags close."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, str, str]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [(tag, name, value or "") for name, value in attrs]
        if tag not in ("meta", "br", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text += data


def test_the_page_stands_alone_and_has_every_part() -> None:
    page = made(table())
    html = page.html()
    read = Reader(html)
    bare = re.sub(r"data:image/png;base64,[\w+/=\s]+", "", html)
    assert not re.search(r"https?:|//\w|@import|<script|<link|data:", bare)
    for _, name, value in read.found:
        if name in ("src", "href", "xlink:href"):
            assert value.startswith(("#", "data:image/png;base64,"))
    ids = [value for _, name, value in read.found if name == "id"]
    links = [value[1:] for _, name, value in read.found if name in ("href", "xlink:href") and value.startswith("#")]
    assert set(links) <= set(ids)
    titles = [one.title for one in page.sections]
    assert titles == [
        "Scores",
        "Emotions",
        "Prediction against truth",
        "Countries",
        "Speakers",
        "Length and loudness",
        "Training",
        "Corpus",
        "Settings",
    ]
    for said in (*titles, "2 of 60 clips can't be used.", "d1" * 32, ABOUT.commands, "quiet-owl-1 (abc)"):
        assert said in read.text
    assert "undefined" not in read.text
    for part in ("prefers-color-scheme: dark", "@media print", 'name="viewport"'):
        assert part in html
    names = [shown.name for one in page.sections for shown in one.pictures]
    assert len(names) == len(set(names)) == 8
    assert len(set(ids)) == len(ids)


def test_the_figures_are_those_of_the_score_table() -> None:
    predictions = table(600, 30)
    scores = scoring.score(predictions, FEWSHOT).set_index("metric")
    page = made(predictions)
    emotions = section(page, "Emotions").numbers.set_index("emotion")
    for emotion in FEWSHOT.targets:
        for column in ("value", "lo", "hi", "lo_by_speaker", "hi_by_speaker", "n"):
            assert emotions.loc[emotion, column] == scores.loc[f"{emotion.lower()}_ccc", column]
    countries = section(page, "Countries").numbers.set_index("country")
    worst = countries["value"].idxmin()
    assert countries.loc[worst, "value"] == scores.loc["emotion_ccc_worst_country", "value"]
    assert countries.loc[worst, "lo_by_speaker"] == scores.loc["emotion_ccc_worst_country", "lo_by_speaker"]
    speakers = section(page, "Speakers")
    assert len(speakers.table[0][1]) == 10
    assert speakers.numbers["value"].is_monotonic_increasing
    assert speakers.table[0][1] == speakers.numbers["speaker"].head(10).tolist()
    tile = {what: value for what, value, _ in page.tiles}
    assert tile["CCC"] == f"{scores.loc['emotion_ccc', 'value']:.3f}"
    assert tile["CCC, lowest tenth of speakers"] == f"{speakers.numbers['value'].head(3).mean():.3f}"
    assert [picture.name for picture in speakers.pictures] == ["speakers"]
    assert speakers.text[0].startswith("The lowest tenth of the speakers (3 of 30) has a mean CCC of ")


def test_a_country_with_one_clip_is_named_not_scored() -> None:
    predictions = table()
    predictions.loc[0, "country"] = "Peru"
    predictions.loc[[1, 2], "speaker"] = "stranger"
    page = made(predictions)
    countries = section(page, "Countries")
    assert countries.table[0][1] == countries.numbers["country"].head(2).tolist()
    assert countries.text == [
        "Not scored, because there are fewer than 5 scored clips (their number in brackets): Peru (1)."
    ]
    assert any("stranger (2)" in sentence for sentence in section(page, "Speakers").text)
    assert scoring.score(predictions, FEWSHOT).set_index("metric").loc["emotion_ccc_worst_country", "n"] > 100
    alone = predictions.assign(country=[f"c{i}" for i in range(len(predictions))])
    assert section(made(alone), "Countries").pictures == []
    assert "emotion_ccc_worst_country" not in set(scoring.score(alone, FEWSHOT)["metric"])


def test_constant_predictions_are_said_to_have_no_ccc() -> None:
    predictions = table().assign(**{"prediction.Awe": 0.5})
    page = made(predictions)
    assert page.tiles[0][1] == "undefined"
    (warned, _) = section(page, "Scores").warnings
    assert warned.startswith("The predictions of Awe are the same for all clips: the CCC is undefined there, and so is")
    cells = dict(zip(*(cells for _, cells in section(page, "Emotions").table[:2]), strict=True))
    assert cells["Awe"] == "undefined"
    assert cells["Fear"] != "undefined"
    assert " undefined" in page.html()


def test_few_speakers_and_a_synthetic_corpus_are_warned_of() -> None:
    warnings = section(made(table(), synthetic=True), "Scores").warnings
    assert warnings[0].startswith("The corpus is SYNTHETIC")
    assert warnings[1].startswith("The intervals by speaker resample 12 speakers")
    assert section(made(table(600, 30)), "Scores").warnings == []


def test_what_is_not_known_is_left_out() -> None:
    predictions = table().drop(columns=["country", "seconds", "rms_db"])
    predictions.loc[3, "speaker"] = ""
    page = made(predictions, epochs=ABOUT.epochs.head(1))
    assert [one.title for one in page.sections] == [
        "Scores",
        "Emotions",
        "Prediction against truth",
        "Corpus",
        "Settings",
    ]
    assert "by speaker" not in " ".join(detail for *_, detail in page.tiles)
    assert "95% interval " in page.lead


def test_a_tenth_of_one_or_two_people_is_not_shown() -> None:
    page = made(table(240, 12))
    assert "CCC, lowest tenth of speakers" not in [what for what, *_ in page.tiles]
    assert "CCC, lowest tenth of speakers" not in section(page, "Scores").table[0].cells
    assert section(page, "Speakers").pictures == []
    few = section(made(table(240, 4)), "Speakers")
    assert few.text == ["All 4 speakers, each with an interval over the speaker's own clips:"]


def test_bins_hold_equal_numbers_and_keep_equals_together() -> None:
    x = np.random.default_rng(0).permutation(np.arange(100.0))
    assert np.bincount(bins_of(x, 10)).tolist() == [10] * 10
    assert (x[bins_of(x, 10) == 0] < 10).all()
    assert np.bincount(bins_of(x, 3)).tolist() == [33, 33, 34]
    tied = np.array([1.0] * 4 + [2.0] * 36)
    assert sorted(set(bins_of(tied, 10).tolist())) == [0, 9]
    found = means(np.array([1.0, 3, 5]), np.array([0.1, 0.3, 0.9]), np.array([0, 0, 1]))
    np.testing.assert_allclose(found.to_numpy(), [[2, 0.2, 2], [5, 0.9, 1]])


def test_error_against_length_is_the_mean_of_each_bin() -> None:
    predictions = table()
    numbers = section(made(predictions), "Length and loudness").numbers
    first = numbers[(numbers["over"] == "seconds") & (numbers["bin"] == 0)].iloc[0]
    shortest = predictions.nsmallest(24, "seconds")
    errors = sum(np.abs(shortest[f"truth.{one}"] - shortest[f"prediction.{one}"]) for one in FEWSHOT.targets) / 2
    assert first["y"] == pytest.approx(errors.mean())
    assert first["x"] == pytest.approx(shortest["seconds"].mean())
    assert first["lo"] < first["y"] < first["hi"]


def test_exclusive_categories_are_shown_as_what_is_taken_for_what() -> None:
    rng = np.random.default_rng(1)
    predictions = table()
    predictions["truth.category"] = rng.choice(["Awe", "Fear"], 240)
    taken = rng.random(240) < 0.25
    predictions["prediction.category"] = np.where(taken, "Fear", predictions["truth.category"])
    shown = section(made(predictions, replace(FEWSHOT, categories=True)), "Prediction against truth")
    of_awe = taken[predictions["truth.category"] == "Awe"].mean()
    assert [cells[1] for _, cells in shown.table[:3]] == ["Awe", f"{1 - of_awe:.0%}", f"Fear {of_awe:.0%}"]
    share = shown.numbers.set_index(["truth", "prediction"])["share"]
    assert share["Awe", "Fear"] == pytest.approx(of_awe)


@pytest.mark.filterwarnings("ignore::pandas.errors.PerformanceWarning")
def test_hundreds_of_categories_make_a_page_of_moderate_size() -> None:
    rng = np.random.default_rng(1)
    names = tuple(f"kind {number:03d}" for number in range(200))
    predictions = table(800, targets=names)
    predictions["truth.category"] = [names[number % 200] for number in range(800)]
    predictions["prediction.category"] = rng.choice(names, 800)
    task = Task("fewshot", names, categories=True)
    page = made(predictions, task)
    shown = section(page, "Prediction against truth")
    assert "(the 60 categories of 200 with the most clips)" in shown.pictures[0].caption
    assert [len(column.cells) for column in shown.table] == [200] * 4
    for name, taken in list(zip(shown.table[0].cells, shown.table[2].cells, strict=True))[:20]:
        given = predictions["prediction.category"][predictions["truth.category"] == name]
        wrong = given[given != name].value_counts()
        assert taken in [f"{other} {wrong.max() / 4:.0%}" for other in wrong.index[wrong == wrong.max()]]
    assert len(page.html()) < 1_000_000
    whole, one = scoring.statistics(predictions, task), scoring.statistics_of(predictions, task, scoring.UAR)
    assert whole.scores()[scoring.UAR] == one.scores()[scoring.UAR]


def test_names_from_data_are_text_in_page_and_picture() -> None:
    evil = '--><b>$x^2$</b> & "é" {{ 7 * 7 }}'
    with axes(WIDE, 1) as shown:
        shown.barh([evil], [1])
    page = Page(
        evil, [evil], [], [Section(evil, [evil], [evil], [make_picture("p", evil, shown)], [(evil, [evil])], evil)]
    )
    read = Reader(page.html())
    assert read.text.count(evil) == 11  # one of them in the picture, one its caption
    assert "49" not in read.text


def test_multitask_and_ten_emotions_make_a_page_of_moderate_size() -> None:
    predictions = table(targets=EMOTIONS)
    rng = np.random.default_rng(2)
    predictions["truth.age"] = rng.integers(20, 60, len(predictions)).astype(float)
    predictions["prediction.age"] = predictions["truth.age"] + rng.normal(0, 4, len(predictions))
    predictions["truth.country"] = predictions["country"]
    predictions["prediction.country"] = rng.permutation(predictions["country"])
    page = made(predictions, Task("multitask", EMOTIONS, ("Chile", "Kenya")))
    assert len(section(page, "Prediction against truth").pictures) == 11
    assert page.tiles[0][0] == "S_MTL"
    assert re.search(
        r"the country in \d+\.\d% \(chance is 50.0%\) and the age to within \d\.\d years: S_MTL ", page.lead
    )
    assert len(page.html()) < 1_000_000


@pytest.mark.usefixtures("store")
def test_evaluate_logs_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_table_corpus(tmp_path / "corpus", speakers=8, clips=8)
    options = {"corpus": "table", "data": str(tmp_path / "corpus"), "epochs": "2", "width": "0.05", "seed": "3"}
    assert run_here("train", options | {"model": "cnn10-relative"}, monkeypatch) == 0
    (trained,) = MlflowClient().search_runs(["0"])
    assert run_here("evaluate", {"run_id": trained.info.run_id, "split": "val"}, monkeypatch) == 0
    assert "report of the run: the artifact report/val.html" in capsys.readouterr().out
    uri = MlflowClient().search_runs(["0"])[0].info.artifact_uri
    page = mlflow.artifacts.load_text(f"{uri}/report/val.html")
    assert "data:audio" not in page  # a table's licence is not known
    html = Reader(page).text
    assert "--model=cnn10-relative" in html
    assert "--seed=3" in html
    assert f"exvo evaluate --run_id={trained.info.run_id} --split=val --protocol=strict" in html
    assert "another speaker's" in html
    folder = Path(mlflow.artifacts.download_artifacts(f"{uri}/report/val"))
    found = {path.name for path in folder.iterdir()}
    assert {"emotions.png", "emotions.parquet", "truth-high.png", "speakers.parquet", "epochs-loss.png"} <= found
    assert {"seconds", "rms_db"} <= set(
        pd.read_parquet(mlflow.artifacts.download_artifacts(f"{uri}/predictions/val.parquet"))
    )
    assert pd.read_parquet(folder / "training.parquet")["epoch"].tolist() == [1, 2]
    enrolment = pd.read_parquet(folder / "enrolment.parquet").set_index("enrolment")["value"]
    logged = pd.read_csv(mlflow.artifacts.download_artifacts(f"{uri}/scores/val.csv")).set_index("metric")["value"]
    assert enrolment["right"] == pytest.approx(logged["emotion_ccc"])
    monkeypatch.setattr("exvo.reports.listening.MAY_BE_PASSED_ON", ("table",))
    assert run_here("evaluate", {"run_id": trained.info.run_id, "split": "val"}, monkeypatch) == 0
    uri = MlflowClient().search_runs(["0"])[0].info.artifact_uri
    page = mlflow.artifacts.load_text(f"{uri}/report/val.html")
    assert page.count('src="data:audio/mpeg;base64,') == 8
