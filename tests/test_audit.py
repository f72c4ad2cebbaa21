"""Facts, warnings and digest of a corpus, counted by hand."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from exvo.corpora import load
from exvo.corpora.audit import audit
from exvo.corpora.base import Corpus
from exvo.experiments.corpus import print_audit

CLIPS = pd.DataFrame(
    {
        "file": ["a.wav", "b.wav", "c.wav", "d.wav", "e.wav", "f.wav", "g.wav"],
        "split": ["train", "train", "train", "val", "val", "test", "test"],
        "speaker": ["s1", "s1", "s2", "s2", "s3", "s4", ""],
        "country": ["Peru", "Peru", "Chile", "Chile", "", "Peru", ""],
        "age": [30.0, 30.0, 40.0, 40.0, np.nan, 50.0, np.nan],
        "calm": [0.0, 0.5, 1.0, 0.25, 0.75, 0.125, np.nan],
        "loud": [0.1, 0.2, 0.6, 0.5, 0.5, 0.4, np.nan],
    }
)
AUDIO = pd.DataFrame(
    {
        "file": CLIPS["file"],
        "content": ["aa", "bb", "aa", "bb", "cc", "aa", ""],
        "seconds": [1.8, 3.6, 1.8, 0.32, 0.31, 0.32, np.nan],
        "rate": [16000, 48000, 16000, 16000, 48000, 16000, np.nan],
        "channels": [1, 1, 1, 1, 1, 1, np.nan],
        "problem": ["", "", "", "", "", "silent: all samples are zero", "missing"],
    }
)
CORPUS = Corpus("table", Path("somewhere"), CLIPS, ("calm", "loud"))


def test_summary() -> None:
    summary = audit(CORPUS, AUDIO).summary
    assert (summary["corpus"], summary["synthetic"]) == ("table", False)
    assert (summary["clips"], summary["labelled"], summary["speakers"]) == (7, 6, 4)
    assert summary["hours"] == pytest.approx((1.8 + 3.6 + 1.8 + 0.32 + 0.31) / 3600)
    assert summary["splits"]["train"] == {
        "clips": 3, "labelled": 3, "speakers": 2, "hours": pytest.approx(7.2 / 3600),
    }  # fmt: skip
    assert summary["splits"]["test"] == {"clips": 2, "labelled": 1, "speakers": 1, "hours": 0.0}
    assert summary["sample_rates"] == {"16000": 3, "48000": 2}
    assert summary["labels"]["calm"] == {"min": 0.0, "mean": 2.625 / 6, "max": 1.0, "missing": 1}
    assert summary["ages"] == {"min": 30.0, "mean": 38.0, "max": 50.0, "missing": 2}
    assert summary["countries"] == {"": 2, "Chile": 2, "Peru": 3}
    assert summary["unreadable"] == [
        {"file": "f.wav", "problem": "silent: all samples are zero"},
        {"file": "g.wav", "problem": "missing"},
    ]
    assert summary["filled"] == {"count": 1, "files": ["e.wav"]}
    assert summary["duplicates"] == [["a.wav", "c.wav", "f.wav"], ["b.wav", "d.wav"]]
    assert summary["speakers_in_several_splits"] == ["s2"]


def test_summary_is_strict_json_even_where_nothing_is_known() -> None:
    summary = audit(CORPUS, AUDIO).summary
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    broken = AUDIO.assign(content="", seconds=np.nan, rate=np.nan, problem="missing")
    clips = CLIPS.drop(columns=["country"]).assign(age=np.nan)
    summary = audit(replace(CORPUS, clips=clips), broken).summary
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["ages"] == {"min": None, "mean": None, "max": None, "missing": 7}
    assert summary["countries"] is None
    assert (summary["hours"], summary["sample_rates"], summary["duplicates"]) == (0.0, {}, [])
    assert len(summary["unreadable"]) == 7


def test_warnings() -> None:
    assert audit(CORPUS, AUDIO).warnings == [
        "2 of 7 clips can't be used: f.wav (silent: all samples are zero), g.wav (missing).",
        "equal audio in several splits, so scores are too good (2 groups): "
        "a.wav (train) = c.wav (train) = f.wav (test), b.wav (train) = d.wav (val).",
        "speakers are in several splits, so scores say nothing about new speakers: s2.",
        "the same label in all val clips, so its CCC means nothing: loud.",
        "1 of 2 val clips have no age.",
        "1 of 2 val clips have no country.",
    ]


def test_a_sound_corpus_has_no_warning_and_copies_within_a_split_have_one() -> None:
    clips = CLIPS[:5].assign(speaker=["s1", "s1", "s1", "s3", "s3"], age=30.0, country="Peru")
    clips["loud"] = clips["calm"]
    audio = AUDIO[:5].assign(content=list("abcde"))
    corpus = replace(CORPUS, clips=clips)
    sound = audit(corpus, audio)
    assert sound.warnings == []
    assert "warning" not in sound.text()
    twice = audit(corpus, audio.assign(content=list("aacde")))
    assert twice.warnings == ["equal audio within a split (1 group): a.wav (train) = b.wav (train)."]


def test_copies_in_other_files_and_what_is_lost() -> None:
    """`decoded` tells equal samples; where it is not known, the bytes do."""
    clips = CLIPS[:6].assign(speaker=["s1", "s1", "s2", "s3", "s3", "s4"], age=30.0, country="Peru")
    clips["loud"] = clips["calm"]
    corpus = replace(CORPUS, clips=clips)
    audio = AUDIO[:6].assign(content=list("abcdef"), problem="", decoded=["1", "2", "3", "1", "5", "6"], note="")
    audio.loc[1, "note"] = "mixing its 2 channels to one lost 40 dB"
    found = audit(corpus, audio)
    assert found.summary["duplicates"] == [["a.wav", "d.wav"]]
    assert found.summary["notes"] == [{"file": "b.wav", "note": "mixing its 2 channels to one lost 40 dB"}]
    assert found.warnings == [
        "a part of the audio is lost in 1 clip: b.wav (mixing its 2 channels to one lost 40 dB).",
        "equal audio in several splits, so scores are too good (1 group): a.wav (train) = d.wav (val).",
    ]
    assert found.digest == audit(corpus, AUDIO[:6].assign(content=list("abcdef"), problem="")).digest
    old = audit(corpus, audio.assign(content=list("abcdea"), decoded=["", "2", "3", "4", "5", ""], note=""))
    assert old.summary["duplicates"] == [["a.wav", "f.wav"]]
    assert old.warnings[-1].startswith(
        "2 clips were extracted by an earlier version, so copies of them are recognised only in"
    )


def test_text_names_everything() -> None:
    text = audit(CORPUS, AUDIO).text()
    for part in ("table (recorded)", "16000 Hz (3)", "Peru (3)", "unknown (2)", "e.wav", "g.wav (missing)", "0.438"):
        assert part in text
    rows = {match[1]: match[0] for match in re.finditer(r"^(\w+) .*$", text, flags=re.MULTILINE)}
    assert re.match(r"val +2 +2 +2 ", rows["val"])
    assert len({len(rows[name]) for name in ("split", "train", "val", "test", "all")}) == 1
    assert len({len(rows[name]) for name in ("label", "calm", "loud")}) == 1
    assert text.endswith("\n".join(f"warning: {sentence}" for sentence in audit(CORPUS, AUDIO).warnings))
    assert text.count("warning: ") == len(audit(CORPUS, AUDIO).warnings) == 6
    assert "SYNTHETIC" in audit(replace(CORPUS, synthetic=True), AUDIO).text()


def test_what_becomes_of_short_clips_depends_on_the_features() -> None:
    found = audit(CORPUS, AUDIO)
    begins = "short      1 clip under 0.32 s, "
    assert f"{begins}which CNN14 fills (CNN10 those under 0.16 s, resnet under 0.08 s): e.wav\n" in found.text()
    for kind, name in (("functionals", "openSMILE"), ("states", "the encoder"), ("embeddings", "the run's network")):
        (line,) = [line for line in found.text(kind).splitlines() if line.startswith("short ")]
        assert line.startswith(f"{begins}which {name} ")
        assert line.endswith(": e.wav")
        assert ("CNN14" in line) == (kind == "embeddings")
    none = audit(CORPUS, AUDIO.assign(seconds=1.0))
    assert "short      0 clips under 0.32 s\n" in none.text()


def test_digest_follows_the_content() -> None:
    digest = audit(CORPUS, AUDIO).digest
    assert len(digest) == 64
    swap = [1, 0, 2, 3, 4, 5, 6]
    altered = [
        *(replace(CORPUS, clips=CLIPS.assign(**{column: change(CLIPS[column])})) for column, change in CHANGES.items()),
        replace(CORPUS, clips=CLIPS.drop(columns="age")),
        replace(CORPUS, clips=CLIPS.rename(columns={"loud": "soft"}), targets=("calm", "soft")),
    ]
    digests = [audit(corpus, AUDIO.assign(file=corpus.clips["file"])).digest for corpus in altered]
    digests.append(audit(CORPUS, AUDIO.assign(content=["aa", "bb", "aa", "bb", "cc", "ab", ""])).digest)
    digests.append(audit(replace(CORPUS, clips=CLIPS.iloc[swap]), AUDIO.iloc[swap]).digest)
    digests.append(audit(replace(CORPUS, clips=CLIPS[:6]), AUDIO[:6]).digest)
    assert len({digest, *digests}) == len(digests) + 1


CHANGES = {
    "file": lambda column: column.replace("g.wav", "h.wav"),
    "split": lambda column: column.where(column.index != 2, "val"),
    "speaker": lambda column: column.replace("s3", "s1"),
    "country": lambda column: column.replace("", "Peru"),
    "age": lambda column: column.fillna(0.0),
    "calm": lambda column: column.where(column.index != 3, 0.25001),
    "loud": lambda column: column.where(column.index != 6, 0.0),
}


def test_digest_ignores_folder_dtype_and_index() -> None:
    digest = audit(CORPUS, AUDIO).digest
    single = {"calm": np.float32, "loud": np.float32, "age": np.float32}
    text = {"file": object, "split": "category", "speaker": object, "country": object}
    for corpus in (
        replace(CORPUS, folder=Path("/elsewhere")),
        replace(CORPUS, clips=CLIPS.astype(single)),
        replace(CORPUS, clips=CLIPS.astype(text)),
        replace(CORPUS, clips=CLIPS.set_index(np.arange(7)[::-1])),
    ):
        assert audit(corpus, AUDIO).digest == digest
    whole = CLIPS[:3].assign(calm=[0, 1, 1])
    other = whole.assign(calm=[-0.0, 1.0, 1.0])
    assert (
        audit(replace(CORPUS, clips=whole), AUDIO[:3]).digest == audit(replace(CORPUS, clips=other), AUDIO[:3]).digest
    )


def test_the_audio_of_another_corpus_is_refused() -> None:
    with pytest.raises(ValueError, match="somewhere"):
        audit(CORPUS, AUDIO.iloc[::-1])
    with pytest.raises(ValueError, match="somewhere"):
        audit(CORPUS, AUDIO[:3])


def test_categories_are_counted_in_one_line(emogator_mini: Path) -> None:
    corpus = load("emogator", emogator_mini)
    columns = {"content": "x", "seconds": 1.0, "rate": 48_000, "frames": 101, "problem": ""}
    found = audit(corpus, pd.DataFrame({"file": corpus.clips["file"], **columns}))
    assert found.summary["categories"] == dict.fromkeys(sorted(corpus.categories), 72)
    assert "categories 30, of 72 clips each" in found.text()
    assert "Adoration  " not in found.text()


def test_it_is_printed_once_a_digest_and_output_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = audit(CORPUS, AUDIO)
    print_audit(found, "log-mel", tmp_path)
    assert capsys.readouterr().out == f"{found.text()}\n"
    print_audit(found, "log-mel", tmp_path)
    (line,) = capsys.readouterr().out.splitlines()
    path = tmp_path / "audits" / f"{found.digest[:12]}.txt"
    assert line.startswith(f"corpus {CORPUS.name}: {len(AUDIO)} clips of ")
    assert line.endswith(f", 6 warnings, as audited before: the run's artifact audit.json, or {path}")
    assert path.read_text(encoding="utf-8") == found.text()
    for folder, again in ((tmp_path, True), (tmp_path / "other", False)):
        print_audit(found, "log-mel", folder, again)
        assert capsys.readouterr().out == f"{found.text()}\n"
    print_audit(audit(replace(CORPUS, synthetic=True), AUDIO), "log-mel", tmp_path)  # the same content, said otherwise
    assert "SYNTHETIC" in capsys.readouterr().out
