"""Hostile input: a sample of what `make fuzz` sends, and properties over any text, bytes and JSON."""

from __future__ import annotations

import base64
import functools
import json
import os
import resource
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exvo import corpora
from exvo.config import EMOTIONS, FeatureConfig
from exvo.errors import InputError
from exvo.evaluation.submission import check_file, file_ids
from exvo.features.audio import read_audio
from exvo.features.containers import MAX_PARTS, AudioError
from exvo.networks.header import FORMAT, read_header
from exvo.serving import decoding, model, request
from exvo.serving.model import answer_body
from exvo.tables import MAX_CSV, read_flat_parquet, validated_predictions
from exvo.text import is_name
from fuzz import __main__ as fuzzer
from fuzz import targets
from fuzz.attack import structures
from fuzz.checks import check_sentence
from fuzz.child import seed_of
from fuzz.lies import lies

ROOT = Path(__file__).resolve().parent.parent
CODE = sorted(path for folder in ("exvo", "pipelines") for path in (ROOT / folder).rglob("*.py"))
FEATURES = FeatureConfig()
SAMPLE = 300

few = functools.partial(
    settings, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.parametrize("name", list(fuzzer.TARGETS))
def test_a_sample_of_the_fuzzer(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    target = getattr(targets, fuzzer.TARGETS[name])(folder)
    outcomes = []
    for number in range(SAMPLE):
        target.draw(seed_of(f"sample {name}", 0, number))
        outcomes.append(target.run())
    assert 0 < sum(outcomes) < SAMPLE / 2


def test_inputs_are_the_same_for_the_same_seed(tmp_path: Path) -> None:
    target = targets.Audio(tmp_path)
    drawn = []
    for seed in (3, 3, 4):
        target.draw(seed_of("audio", seed, 5))
        drawn.append((tmp_path / "clip.audio").read_bytes())
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        ("Raises", "KeyError: 'surprise'"),
        ("Crashes", "the process ended with status -11"),
        ("Hangs", "takes more than 5 s"),
        ("Greedy", "MemoryError"),
        ("Prints", "UserWarning: warning 99"),
    ],
)
def test_the_fuzzer_sees_what_is_wrong(
    harm: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fuzzer, "KEPT", tmp_path / "kept")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
    monkeypatch.setenv("EXVO_FUZZ_SECONDS", "5")
    counts, _ = fuzzer.attack(f"helpers.attackers:{harm}", harm, 7, range(5), 1)
    assert counts == {"accepted": 4, "failed": 1}
    kept = tmp_path / "kept" / f"{harm}-7-2"
    assert (kept / "input").read_text() == "x"
    assert told in (kept / "why.txt").read_text()
    assert f"{harm} input 2, kept in {kept}" in capfd.readouterr().out


LIARS = """
import resource, sys
from pathlib import Path
from exvo.config import FeatureConfig, InputError
from exvo.features.audio import read_audio
from exvo.networks import load
space = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (space + 2**26, space + 2**26))
for path in sorted(Path(sys.argv[1]).iterdir()):
    for source in (path, path.read_bytes()):
        try:
            load(path) if path.name.endswith("safetensors") else read_audio(source, FeatureConfig())
            print(path.name, "accepted")
        except InputError as error:
            print(path.name, "refused:", error)
"""


def test_a_header_that_promises_ten_gigabytes_allocates_nothing(tmp_path: Path) -> None:
    """With 64 MiB beside what the process takes anyway; each file from its path and from its bytes."""
    for name, content in lies().items():
        assert len(content) < 300 or name.startswith(("flac", "w64"))
        (tmp_path / name).write_bytes(content)
    header = {"x": {"dtype": "F32", "shape": [10 * 2**28], "data_offsets": [0, 10 * 2**30]}}
    header["__metadata__"] = {"exvo": json.dumps({"format": FORMAT})}  # type: ignore[dict-item]
    text = json.dumps(header).encode()
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(100))
    (tmp_path / "b.safetensors").write_bytes(struct.pack("<Q", 10 * 2**30) + text + bytes(100))
    done = subprocess.run(
        [sys.executable, "-c", LIARS, tmp_path], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert len(done) == 2 * (len(lies()) + 2)
    assert all(" refused: " in line for line in done), done


def test_a_parquet_file_that_grows_is_refused_in_parts(tmp_path: Path) -> None:
    """A megabyte of text a million times is a megabyte on disk and a terabyte in memory."""
    long = pa.DictionaryArray.from_arrays(pa.array(np.zeros(1_000_000, np.int32)), pa.array(["x" * 2**20]))
    pq.write_table(pa.table({"file": long}), tmp_path / "clips.parquet")
    assert (tmp_path / "clips.parquet").stat().st_size < 2 * 2**20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match="takes more than 256 MiB in memory; make it smaller"):
        read_flat_parquet(tmp_path / "clips.parquet")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


def test_limits_of_a_corpus_table(tmp_path: Path) -> None:
    """Columns and bytes; a column more than allowed, and a file (with holes) of a byte more."""
    path = tmp_path / "clips.csv"
    path.write_text(",".join(f"t{number}" for number in range(1_001)))
    with pytest.raises(InputError, match="has 1,001 columns, more than 1,000; leave some out"):
        corpora.load("table", tmp_path)
    os.truncate(path, MAX_CSV + 1)
    with pytest.raises(InputError, match="is larger than 64 MiB"):
        corpora.load("table", tmp_path)


def test_audio_of_many_empty_parts_is_refused() -> None:
    wav = b"RIFF\0\0\0\0WAVE" + b"junk\0\0\0\0" * (MAX_PARTS + 1)
    ogg = (b"OggS" + bytes(23)) * (MAX_PARTS + 1)
    for content in (wav, ogg):
        with pytest.raises(AudioError, match="it has more than 100,000 parts"):
            read_audio(content, FEATURES)


@few(max_examples=200)
@given(st.binary(max_size=400), st.sampled_from([b"", b"RIFF", b"OggS", b"fLaC", b"ID3\4", b"\xff\xfb", b"caff"]))
def test_any_bytes_are_audio_or_a_sentence(content: bytes, magic: bytes) -> None:
    try:
        assert np.isfinite(read_audio(magic + content, FEATURES).waveform).all()
    except AudioError as error:
        check_sentence(str(error), "the audio")


CELL = st.one_of(
    st.text(max_size=20), st.sampled_from(["train", "val", "test", "0.5", "a.wav", "../a.wav", "=1+1", ""])
)
TABLE = st.lists(st.lists(CELL, min_size=4, max_size=4), max_size=8)


@few(max_examples=150)
@given(TABLE, st.lists(st.text(max_size=10), max_size=2))
def test_any_text_is_a_corpus_or_a_sentence(tmp_path_factory: pytest.TempPathFactory, rows: Any, names: Any) -> None:
    folder = tmp_path_factory.mktemp("corpus")
    good = [(f"{number}.wav", split, "s", "0.5") for number, split in enumerate(["train", "val"] * 2)]
    table = pd.DataFrame([*good, *rows], columns=["file", "split", "speaker", "calm"])
    table.assign(**dict.fromkeys(names, "1")).to_csv(folder / "clips.csv", index=False)
    try:
        clips = corpora.load("table", folder).clips
    except InputError as error:
        check_sentence(str(error), str(folder))
        return
    assert clips["file"].is_unique
    assert all(is_name(name) and ".." not in Path(name).parts for name in clips["file"])
    assert np.isfinite(clips["calm"][clips["split"] != "test"]).all()


@few(max_examples=150)
@given(st.lists(st.text(max_size=12), min_size=10, max_size=10), st.integers(0, 2))
def test_any_cell_of_a_submission_is_right_or_told(
    tmp_path_factory: pytest.TempPathFactory, cells: list[str], row: int
) -> None:
    ids = file_ids(["1.wav", "2.wav", "3.wav"])
    table = pd.DataFrame([[one, *["0.5"] * 10] for one in ids], columns=["File_ID", *EMOTIONS])
    table.iloc[row, 1:] = cells
    path = tmp_path_factory.mktemp("submission") / "ExVo-Few_team_1.csv"
    table.to_csv(path, index=False)
    checked = check_file(path, ids)
    for sentence in [*checked.problems, *checked.notes]:
        check_sentence(sentence)
    if not checked.problems:
        assert np.isfinite([float(cell) for cell in cells]).all()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
PARTS = (
    "network",
    "task",
    "features",
    "fill",
    "notes",
    "format",
    "revision",
    "enrolment",
    "temperature",
    "levels",
    "ranges",
    "x",
)


@few(max_examples=200)
@given(st.dictionaries(st.sampled_from(PARTS), JSON, max_size=5) | JSON)
def test_any_header_of_a_checkpoint_is_refused_in_a_sentence(about: Any) -> None:
    if isinstance(about, dict):
        about = {"format": FORMAT} | about
    with pytest.raises(InputError) as caught:
        read_header(json.dumps(about))
    check_sentence(f"{caught.value}.")


@few(max_examples=200)
@given(st.dictionaries(st.sampled_from(["dataframe_records", "dataframe_split", "inputs", "params"]), JSON, max_size=3))
def test_any_request_is_let_through_or_refused_in_a_sentence(body: Any) -> None:
    try:
        request.check_body(json.dumps(body))
    except InputError as error:
        check_sentence(str(error))


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"dataframe_records": [{}] * 65}, "has 65 rows"),
        ({"dataframe_records": [{f"{place} {number}": 0 for number in range(9)} for place in range(9)]}, "9 columns"),
        ({"dataframe_split": {"columns": list(range(5_000)), "data": [[]] * 60}}, "5,000 columns"),
        ({"dataframe_split": {"columns": ["audio"], "data": [[1]] * 65}}, "65 rows"),
        ({"inputs": [[0] * 9] * 99}, "is no table"),
        ({"instances": [[0] * 9] * 99}, "is no table"),
        ({"dataframe_records": [{}], "params": {"mode": "predict", "x" * 9_999: 1}}, r"unknown params \(x{40}\.\.\.\)"),
    ],
)
def test_requests_that_would_grow_are_refused_before_pandas_sees_them(
    body: Any, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=sentence):
        request.check_body(json.dumps(body))
    monkeypatch.setattr(model.scoring_server, "infer_and_parse_data", lambda *_: pytest.fail("read"))
    with pytest.raises(InputError, match=sentence):
        answer_body(SimpleNamespace(), bytearray(json.dumps(body).encode()))  # type: ignore[arg-type]


def test_words_of_base64_take_no_more_memory_than_one_word() -> None:
    words = "AA " * 2**20
    tracemalloc.start()
    assert decoding.from_base64(words) == bytes(2**20 * 3 // 2)
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert taken < 4 * len(words)


@pytest.mark.parametrize("name", [name for name in structures(9) if "words" not in name])
def test_structure_is_refused_before_it_is_parsed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request.json, "loads", lambda *_, **__: pytest.fail("parsed"))
    body = structures(2**20)[name]
    with pytest.raises(InputError, match=r"lists and objects and|is not ASCII and larger than 1 MiB") as caught:
        request.check_body(body)
    check_sentence(str(caught.value))


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b'{"dataframe_records": [{"audio": "", "audio": ""}]}', "holds audio twice in an object"),
        (b'{"dataframe_records": [], "dataframe_records": []}', "holds dataframe_records twice"),
        (b'{"x": ' + b"[" * 511 + b"]" * 511 + b"}", ""),
        (b'{"x": ' + b"[" * 512 + b"]" * 512 + b"}", "513 lists and objects"),
        (b"\xff\xfe{\0}\0", "malformed JSON"),
        (b'{"x": 1' + b"0" * 5_000 + b"}", "malformed JSON"),
        (b"[]", "can't be read: the request is no table"),
        (b'\xef\xbb\xbf{"x": "\\ud800", "y": NaN, "z": -Infinity, "u": 1e999}', ""),
    ],
)
def test_odd_json(body: bytes, sentence: str) -> None:
    if not sentence:
        assert request.check_body(body)
        return
    with pytest.raises(InputError, match=sentence):
        request.check_body(body)


def test_predictions_that_are_no_predictions_are_refused(tmp_path: Path) -> None:
    good = {
        "file": ["a", "b"],
        "split": ["test", "test"],
        "speaker": ["s", "s"],
        "scored": [True, True],
        "truth.calm": [0.5, None],
        "prediction.calm": [0.5, 0.1],
    }
    assert len(validated_predictions(pa.table(good), "p")) == 2
    for changes, told in [
        ({"scored": None}, "no column scored"),
        ({"prediction.calm": None}, "no column prediction.calm"),
        ({"prediction.x": [1, 2]}, "no column truth.x"),
        ({"file": ["a", "a"]}, "row 2 has the same file as an earlier row"),
        ({"split": ["test", "x"]}, "row 2 has an unknown split"),
        ({"prediction.calm": ["a", "b"]}, "truth and prediction of calm are of double and string"),
        ({"prediction.calm": [0.5, float("nan")]}, "prediction.calm holds numbers that are not finite"),
        ({"truth.calm": [0.5, float("inf")]}, "truth.calm holds numbers that are not finite"),
        ({"speaker": ["s", None]}, "column speaker has gaps"),
        ({"scored": [1, 0]}, "column scored has gaps or is of int64"),
    ]:
        table = {name: column for name, column in (good | changes).items() if column is not None}
        with pytest.raises(InputError, match=told) as caught:
            validated_predictions(pa.table(table), "p")
        check_sentence(str(caught.value))
    (tmp_path / "p.parquet").write_bytes(b"PAR1" + base64.b64encode(Random(1).randbytes(99)) + b"PAR1")
    with pytest.raises(InputError, match="can't be read as Parquet"):
        read_flat_parquet(tmp_path / "p.parquet")
