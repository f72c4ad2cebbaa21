"""Embeddings of a split: clip by clip what the network gives, in the table and in the pictures."""

from __future__ import annotations

from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex
from mlflow import MlflowClient

from exvo.batches.clips import Clips, fill_frames
from exvo.errors import InputError
from exvo.networks.inference import check_embedding, embed_clips
from exvo.networks.network import Network
from exvo.reports import tsne
from exvo.reports.tsne import colours, draw, embedding_table, project, tsne_figures

from helpers.commands import run_here
from helpers.corpora import write_table_corpus

PLAIN = {"encoder": "cnn10"}
ATTENTION = {"encoder": "cnn14", "enrolment": "cnn10", "fusion": "attention"}
CONDITIONING = {"encoder": "cnn10", "enrolment": "cnn5", "fusion": "conditioning"}
SHARED = {"encoder": "cnn10", "enrolment": "shared", "fusion": "film"}
ENROLMENT = [np.array([0, 1])] * 3 + [np.array([3])] * 2 + [np.zeros(0, np.int64)]
"""Clips 0 to 2 are one speaker's, 3 and 4 another's; 5 is of an unknown one."""


def make_clips() -> Clips:
    rng = np.random.default_rng(0)
    names = [f"{place}.wav" for place in range(6)]
    features = {
        name: rng.normal(-50, 15, (frames, 64)).astype(np.float32)
        for name, frames in zip(names, (40, 55, 40, 70, 10, 55), strict=True)
    }
    return Clips(names, names, features, np.zeros((6, 1)), "repeat")


def make_network(**arguments: str) -> Network:
    torch.manual_seed(0)
    network = Network(outputs=1, width=0.05, **arguments)  # type: ignore[arg-type]
    if network.personalised:
        network.typical.copy_(torch.rand(len(network.typical)))
    return network.eval()


def alone(clips: Clips, clip: int, frames: int) -> torch.Tensor:
    """One clip as a batch, filled to `frames` where shorter."""
    log_mel = clips.features[clips.contents[clip]]
    return torch.from_numpy(fill_frames(log_mel, max(frames, len(log_mel)), "repeat"))[None]


@pytest.mark.parametrize("arguments", [PLAIN, ATTENTION, SHARED])
def test_main_embeddings_are_the_networks_clip_by_clip(arguments: dict[str, str]) -> None:
    network, clips = make_network(**arguments), make_clips()
    found = embed_clips(network, clips, "cpu", "main", ENROLMENT)
    assert found.shape == (6, network.encoder.channels[-1])
    with torch.no_grad():
        for clip in range(6):
            expected = network.encoder(alone(clips, clip, network.min_frames))[0]
            np.testing.assert_allclose(found[clip], expected, atol=1e-5)


@pytest.mark.parametrize("arguments", [ATTENTION, CONDITIONING, SHARED])
def test_enrolment_embeddings_are_those_of_their_encoder(arguments: dict[str, str]) -> None:
    network, clips = make_network(**arguments), make_clips()
    found = embed_clips(network, clips, "cpu", "enrolment", ENROLMENT)
    encoder = network.enrolment_encoder or network.encoder
    with torch.no_grad():
        for clip in range(6):
            expected = encoder(alone(clips, clip, network.min_frames))[0]
            np.testing.assert_allclose(found[clip], expected, atol=1e-5)
    if arguments is SHARED:
        np.testing.assert_array_equal(found, embed_clips(network, clips, "cpu", "main", ENROLMENT))


def test_a_conditioned_encoder_hears_the_speakers_profile() -> None:
    """The mean over the clips that enrol; of the unknown speaker the typical profile."""
    network, clips = make_network(**CONDITIONING), make_clips()
    found = embed_clips(network, clips, "cpu", "main", ENROLMENT)
    with torch.no_grad():
        first, second, fourth = (network.embed_enrolment(alone(clips, clip, network.min_frames)) for clip in (0, 1, 3))
        known = [(first + second) / 2] * 3 + [fourth] * 2 + [network.typical[None]]
        for clip, profile in enumerate(known):
            expected = network.embed(alone(clips, clip, network.min_frames), profile)[0]
            np.testing.assert_allclose(found[clip], expected, atol=1e-5)
        other = network.embed(alone(clips, 0, network.min_frames), fourth)[0]
    assert np.abs(found[0] - other.numpy()).max() > 1e-3


def test_a_plain_network_has_no_enrolment_embeddings() -> None:
    with pytest.raises(InputError, match="embedding=enrolment: the network of this run takes no enrolment clips"):
        embed_clips(make_network(**PLAIN), make_clips(), "cpu", "enrolment", ENROLMENT)
    check_embedding(make_network(**PLAIN), "main")


def test_the_table_has_a_column_a_number() -> None:
    rows = pd.DataFrame({"file": ["a", "b"], "split": "val", "speaker": ["x", "y"], "Awe": 0.5}, index=[7, 9])
    numbers = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    table = embedding_table(rows, numbers)
    assert list(table.columns) == ["file", "speaker", "e0", "e1", "e2"]
    assert table.loc[1].tolist() == ["b", "y", 4, 5, 6]
    assert table["e0"].dtype == np.float32
    assert list(embedding_table(rows.assign(country="Chile"), numbers).columns[:3]) == ["file", "speaker", "country"]


def blobs(count: int) -> np.ndarray:
    """Two groups of clips in 8 dimensions, the even and the odd, far apart."""
    numbers = np.random.default_rng(0).normal(size=(count, 8)).astype(np.float32)
    numbers[1::2] += 30
    return numbers


@pytest.mark.parametrize("count", [4, 40])
def test_tsne_keeps_neighbours_together_and_repeats_itself(count: int) -> None:
    points = project(blobs(count))
    assert points.shape == (count, 2)
    apart = np.linalg.norm(points[:, None] - points[None], axis=2) + 1e9 * np.eye(count)
    if count > 4:
        assert ((apart.argmin(axis=1) - np.arange(count)) % 2 == 0).all()
    np.testing.assert_array_equal(points, project(blobs(count)))


def test_what_tsne_can_not_draw_is_one_sentence() -> None:
    with pytest.raises(InputError, match="t-SNE needs at least 4 clips, not 3"):
        project(blobs(3))
    with pytest.raises(InputError, match="The embeddings of all 5 clips are the same"):
        project(np.ones((5, 8), np.float32))


@pytest.mark.parametrize("count", [1, 7, 8, 12, 600])
def test_each_name_has_a_colour_of_its_own(count: int) -> None:
    found = colours([f"s{number:03d}" for number in range(count)] + [""])
    assert list(found)[-1] == ""
    assert len(set(found.values())) == count + 1


def test_a_dot_has_the_colour_that_the_legend_gives_its_group() -> None:
    points = np.arange(10.0).reshape(5, 2)
    groups = pd.Series(["Kenya", "", "Chile", "Kenya", "Kenya"], name="country")
    figure = draw(points, groups, "a title")
    (dots,) = figure.axes[0].collections
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["Chile (1)", "Kenya (3)", "unknown (1)"]
    of_name = {name.split(" (")[0]: line.get_color() for name, line in zip(names, legend.get_lines(), strict=True)}
    drawn = {
        tuple(point): to_hex(colour) for point, colour in zip(dots.get_offsets(), dots.get_facecolors(), strict=True)
    }
    for point, group in zip(points, groups, strict=True):
        assert drawn[tuple(point)] == of_name[group or "unknown"]


def test_pictures_by_country_and_speaker(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = pd.DataFrame({"file": [f"{place}.wav" for place in range(40)], "country": ["Chile", "Kenya"] * 20})
    rows["speaker"] = [f"s{place % 20}" for place in range(40)]
    table = embedding_table(rows, blobs(40))
    monkeypatch.setattr(tsne, "project", lambda numbers, seed: numbers[:, :2])
    found = tsne_figures(table, "cnn14", "table, val split", "main")
    assert list(found) == ["country", "speaker"]
    assert [len(figure.legends) for figure in found.values()] == [1, 0]  # twenty speakers are too many to name
    title = found["speaker"].axes[0].get_title()
    assert title == "cnn14\ntable, val split, 40 clips\nt-SNE of the main embeddings, colour: speaker (20 of them)"
    assert list(tsne_figures(table.drop(columns="country"), "", "", "main")) == ["speaker"]
    assert list(tsne_figures(table.assign(country=""), "", "", "main")) == ["speaker"]
    monkeypatch.setattr(tsne, "MOST_DRAWN", 10)
    fewer = tsne_figures(table, "cnn14", "table, val split", "main")["country"]
    assert len(fewer.axes[0].collections[0].get_offsets()) == 10
    assert "10 of 40 clips, at random\n" in fewer.axes[0].get_title()


SMALL = {"corpus": "table", "epochs": "1", "batch_size": "4", "width": "0.05", "shots": "1"}


@pytest.mark.usefixtures("store")
def test_the_entry_point(
    tiny_corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = SMALL | {"data": str(tiny_corpus), "model": "cnn14-attention-cnn10-layernorm-full"}
    assert run_here("train", options, monkeypatch) == 0
    (trained,) = MlflowClient().search_runs(["0"])
    for embedding, size in (("main", 102), ("enrolment", 26)):
        assert run_here("embed", {"run_id": trained.info.run_id, "embedding": embedding}, monkeypatch) == 0
        told = capsys.readouterr().out
        assert f"12 embeddings of {size} numbers" in told
        run = MlflowClient().search_runs(["0"])[0]
        assert (run.data.tags["exvo.entry_point"], run.info.status) == ("embed", "FINISHED")
        assert run.data.tags["exvo.evaluated_run"] == trained.info.run_id
        names = [f"embeddings/val-{embedding}{end}" for end in ("-by-country.png", "-by-speaker.png", ".parquet")]
        listed = {file.path: file.file_size for file in MlflowClient().list_artifacts(run.info.run_id, "embeddings")}
        assert sorted(listed) == sorted(names)
        assert all(name in told for name in names)
        for name in names[:2]:
            picture = Path(mlflow.artifacts.download_artifacts(f"{run.info.artifact_uri}/{name}"))
            assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        table = pd.read_parquet(mlflow.artifacts.download_artifacts(f"{run.info.artifact_uri}/{names[2]}"))
        assert list(table.columns) == ["file", "speaker", "country", *(f"e{place}" for place in range(size))]
        assert set(table["speaker"]) == {"speaker2", "speaker4", "speaker7"}
        assert table.loc[:, "e0":].std().max() > 0


@pytest.mark.usefixtures("store")
def test_mistakes_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The test split has three clips only, and a plain network no enrolment embeddings."""
    folder = tmp_path / "corpus"
    table = write_table_corpus(folder, speakers=4)
    table.drop(table.index[table["split"] == "test"][0]).to_csv(folder / "clips.csv", index=False)
    assert run_here("train", SMALL | {"data": str(folder), "model": "cnn10"}, monkeypatch) == 0
    (trained,) = MlflowClient().search_runs(["0"])
    for options, sentence in (
        ({"embedding": "enrolment"}, "takes no enrolment clips"),
        ({"split": "test"}, "has 3 readable clips in its test split; t-SNE needs at least 4."),
    ):
        capsys.readouterr()
        assert run_here("embed", {"run_id": trained.info.run_id} | options, monkeypatch) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("exvo: ")]
        assert sentence in line
