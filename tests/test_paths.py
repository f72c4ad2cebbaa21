"""Options that name files: where they are looked for, lists, other Unicode forms, formats that are not read."""

from __future__ import annotations

import os
import shlex
import subprocess
import unicodedata
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pandas as pd
import pytest

from exvo import files
from exvo.config import FeatureConfig
from exvo.corpora import load
from exvo.errors import InputError
from exvo.features import extraction
from exvo.features.containers import AudioError
from exvo.networks.checkpoint import Checkpoint
from exvo.options import parse
from exvo.serving.prediction import read_features
from exvo.serving.recordings import find_audio, read_list, where_looked
from exvo.settings import ENTRY_POINTS

from helpers.corpora import write_table_corpus

DECOMPOSED = unicodedata.normalize("NFD", "é.wav")
ONE_FILE = [
    (entry_point, name)
    for entry_point, settings in ENTRY_POINTS.items()
    for name in ("data", "init", "check", "save", "output", "storage")
    if name in settings.__dataclass_fields__
]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder that is not the project's, which is the working folder."""
    (tmp_path / "user").mkdir()
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setattr(files, "launched_from", lambda: str(tmp_path / "user"))
    return tmp_path / "user"


def test_where_a_relative_path_was_looked_for() -> None:
    assert where_looked("a.wav") == "there"


def test_both_places_of_a_relative_path_are_named(elsewhere: Path) -> None:
    assert where_looked("a.wav") == f"in {elsewhere} or {elsewhere.parent / 'project'}"
    assert where_looked("/a.wav") == "there"


def touch(folder: Path, *names: str) -> list[Path]:
    files = [folder / name for name in names]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return files


@pytest.mark.parametrize(("entry_point", "option"), ONE_FILE)
def test_a_path_that_no_file_can_have_is_one_sentence(entry_point: str, option: str) -> None:
    for path in ("x" * 300, "a/" + "é" * 130, "y/" * 5_000, "null\0character"):
        with pytest.raises(InputError) as caught:
            parse(entry_point, [f"--{option}", path])
        sentence = str(caught.value)
        assert sentence.startswith(f"{option}=")
        assert sentence.endswith("; give another path.")
        assert len(sentence) < 300


@pytest.mark.parametrize(("entry_point", "option"), ONE_FILE)
def test_the_home_folder_and_a_leading_dash(
    entry_point: str, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "-x")
    assert getattr(parse(entry_point, [f"--{option}", "~/a"]), option) == str(tmp_path / "a")
    assert getattr(parse(entry_point, [f"--{option}", "-x"]), option) == "-x"
    assert getattr(parse(entry_point, [f"--{option}=-x"]), option) == "-x"
    with pytest.raises(InputError, match="expected one argument"):
        parse(entry_point, [f"--{option}", f"--{option}=a"])


def test_readers_refuse_long_names_by_themselves(tmp_path: Path) -> None:
    for corpus in ("table", "hume-vb", "emogator"):
        with pytest.raises(InputError, match="is not there"):
            load(corpus, tmp_path / ("x" * 300))


def test_a_relative_path_is_looked_for_where_the_user_is_then_in_the_project(elsewhere: Path) -> None:
    touch(elsewhere, "both/a", "theirs/a")
    touch(Path("."), "both/a", "own/a")
    options = ["--data", "theirs", "--output", "theirs"]
    settings = parse("evaluate", options)
    assert (settings.data, settings.output) == (str(elsewhere / "theirs"), "theirs")
    assert parse("train", ["--data", "both"]).data == str(elsewhere / "both")
    assert parse("train", ["--data", "own", "--init", "runs:/abc"]).init == "runs:/abc"
    assert parse("train", ["--data", "own"]).data == "own"
    assert parse("tune", ["--storage", "new.journal"]).storage == "new.journal"
    touch(elsewhere, "theirs.journal")
    assert parse("tune", ["--storage", "journal:theirs.journal"]).storage == f"journal:{elsewhere / 'theirs.journal'}"
    assert parse("tune", ["--storage", "postgresql://u@h/d"]).storage == "postgresql://u@h/d"
    assert parse("predict", ["--save", "new.csv"]).save == str(elsewhere / "new.csv")
    with pytest.raises(InputError) as caught:
        parse("submit", ["--check", "gone.csv"])
    assert f"neither in {elsewhere}, where the command was given, nor in {os.getcwd()}, the project's" in str(
        caught.value
    )


def test_audio_is_looked_for_where_the_user_is_too(elsewhere: Path) -> None:
    theirs = touch(elsewhere, "a.wav", "clips/b.wav", "clips/c.mp3")
    touch(Path("."), "clips2/d.wav")
    assert find_audio("a.wav,clips", "audio").files == theirs
    assert find_audio("clips/*.wav,clips2/*", "audio").files == [theirs[1], Path("clips2/d.wav")]
    (elsewhere / "list.txt").write_text("clips/b.wav\nclips2/d.wav\n")
    assert [path.name for path in find_audio("@list.txt", "audio").files] == ["b.wav", "d.wav"]
    assert find_audio("gone.wav", "audio").files == [Path("gone.wav")]


def test_commas_in_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "a,b.wav", "a", "c.wav", "d,e/f.wav", "@x.wav")
    assert find_audio("a,b.wav", "audio").files == [Path("a,b.wav")]
    assert find_audio("d,e", "audio").files == [Path("d,e/f.wav")]
    assert find_audio(r"a\,b.wav, c.wav", "audio").files == [Path("a,b.wav"), Path("c.wav")]
    assert find_audio("a,c.wav", "audio").files == [Path("a"), Path("c.wav")]
    assert find_audio("@x.wav", "audio").files == [Path("@x.wav")]


def test_hundreds_of_files_in_an_option_or_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = touch(tmp_path, *[f"clip-number-{number}.wav" for number in range(700)])
    names = [file.name for file in files]
    assert find_audio(",".join(names), "audio").files == list(map(Path, names))
    (tmp_path / "list.txt").write_text("\n".join(names))
    assert find_audio("@list.txt", "audio").files == list(map(Path, names))


@pytest.mark.parametrize("ending", ["txt", "utf-16.txt", "csv", "semicolons.csv", "parquet"])
def test_lists_of_each_kind(ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative to the list's folder first, then to the working folder; blank lines and repetitions don't count."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    beside = touch(tmp_path / "lists", "a.wav", "both.wav", "with, comma.wav", "é.wav")
    (own, _) = touch(tmp_path / "work", "own.wav", "both.wav")
    names = [*(file.name for file in beside[:3]), DECOMPOSED, str(own), "own.wav", "a.wav"]
    path = tmp_path / "lists" / f"list.{ending}"
    frame = pd.DataFrame({"file": names, "other": 1.5})
    if ending.endswith("txt"):
        path.write_text("\r\n\r\n".join(names), encoding="utf-16" if "utf-16" in ending else "utf-8-sig", newline="")
    elif ending.endswith("csv"):
        frame.to_csv(path, index=False, sep=";" if "semicolons" in ending else ",")
    else:
        frame.to_parquet(path)
    found = find_audio(f"@../lists/list.{ending}", "enrolment").files
    assert found == [*beside[:3], beside[3], own, *([Path("own.wav")])]


def test_a_list_holds_the_bytes_of_names(tmp_path: Path) -> None:
    (file,) = touch(tmp_path, os.fsdecode(b"\xe9.wav"))
    (tmp_path / "list").write_bytes(b"\xe9.wav\n")
    assert read_list(str(tmp_path / "list"), "audio") == [file]


def test_what_is_wrong_with_a_list_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "lists/a.wav")
    contents: dict[str, tuple[bytes, str]] = {
        "gone.txt": (b"a.wav\nb.wav\nc.wav\n", f"2 of 3 files are neither in {tmp_path}/lists nor in {tmp_path}: b"),
        "null.txt": (b"a.wav\0b.wav", "1 of 1 files are neither in"),
        "empty.txt": (b"\n\n", "names no files; write a path on each line."),
        "other.csv": (b"path,x\na.wav,1\n", "has no column file"),
        "book.xlsx": (b"PK\3\4", "the file of a spreadsheet program"),
        "long.txt": (b"x" * 5_000, "1 of 1 files are neither in"),
        "damaged.parquet": (b"PAR1", "can't be read as Parquet"),
    }  # fmt: skip
    for name, (content, part) in contents.items():
        (tmp_path / "lists" / name).write_bytes(content)
        with pytest.raises(InputError) as caught:
            find_audio(f"@lists/{name}", "audio")
        assert part in str(caught.value)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 1_000
    with pytest.raises(InputError, match="is a folder; give a file"):
        find_audio("@lists", "audio")
    for name in ("none.txt", "x" * 300, ""):
        with pytest.raises(InputError, match="is not there"):
            find_audio(f"@{name}", "audio")


def test_absurd_texts_name_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for text in ("x" * 300, "null\0character", "*/" * 3_000, "~nobody-of-that-name/a.wav"):
        assert find_audio(text, "audio").files == [Path(text)]
        with pytest.raises(AudioError, match=r"missing|File name too long|null character"):
            read_features(Path(text), cast(Checkpoint, SimpleNamespace(features=FeatureConfig())))


def test_hidden_files_and_other_formats_are_left_out_of_folders_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "my clips"
    kept = touch(folder, "a.wav", "b.AIFF", "deep/c.aif")
    touch(folder, "._a.wav", ".DS_Store", "__MACOSX/a.wav", ".git/x.wav", "notes.txt")
    touch(folder, "d.m4a", "deep/e.M4A", "f.webm", "g.wma")
    files, notes = find_audio(str(folder), "audio")
    assert files == kept
    assert notes[0] == f"left out of {folder}: 4 hidden files or folders (.DS_Store, ._a.wav, .git and 1 more)"
    assert notes[1].startswith(
        f"left out of {folder}: files of formats that are not read (2 .m4a, 1 .webm, 1 .wma); convert them: find "
    )
    ffmpeg = tmp_path / "bin" / "ffmpeg"
    ffmpeg.parent.mkdir()
    ffmpeg.write_text('#!/bin/sh\nfor last; do :; done\necho "$@" > "$last"\n')
    ffmpeg.chmod(0o755)
    monkeypatch.setenv("PATH", f"{ffmpeg.parent}:{os.environ['PATH']}")
    subprocess.run(notes[1].partition("convert them: ")[2], shell=True, check=True)
    made = [folder / name for name in ("d.m4a.wav", "deep/e.M4A.wav", "f.webm.wav", "g.wma.wav")]
    assert find_audio(str(folder), "audio").files == sorted(kept + made)
    assert made[0].read_text() == f"-nostdin -n -i {folder}/d.m4a -ac 1 -ar 16000 {folder}/d.m4a.wav\n"


def test_nothing_of_a_folder_is_left_out_without_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "clips"
    kept = touch(folder, "a.WAVE", "dir.wav/b.mp3", "e.mpga", "f.bwf")
    touch(folder, *[f"x.{ending}" for ending in ("m4p", "3ga", "dss", "ts", "rm", "dts", "f4a")], "private/c.wav")
    touch(tmp_path, "linked/d.wav")
    (folder / "c.mp3").symlink_to(folder / "nothing")
    (folder / "g.wav").symlink_to(folder / "g.wav")
    (folder / "linked").symlink_to(tmp_path / "linked")
    os.mkfifo(folder / "p.wav")
    scandir = os.scandir

    def locked(place: str) -> object:
        if os.path.basename(place) == "private":
            raise PermissionError(13, "Permission denied", place)
        return scandir(place)

    monkeypatch.setattr(os, "scandir", locked)
    files, notes = find_audio(str(folder), "audio")
    assert files == kept
    start = f"left out of {folder}: "
    assert set(notes[:-1]) == {
        f"{start}2 broken links (c.mp3, g.wav)",
        f"{start}1 links to folders, which are not followed (linked)",
        f"{start}1 pipes, devices or files that can't be looked at (p.wav)",
        f"{start}1 folders that can't be read (private)",
    }
    counts = "1 .3ga, 1 .dss, 1 .dts, 1 .f4a, 1 .m4p, 1 .rm, 1 .ts"
    assert notes[-1].startswith(f"{start}files of formats that are not read ({counts})")
    assert find_audio(f"{folder}/*.mp3", "audio").files == [folder / "c.mp3"]  # its reader says that it is missing


def test_a_folder_without_audio_says_what_it_holds(tmp_path: Path) -> None:
    touch(tmp_path, "a.3gp", "._b.wav")
    with pytest.raises(InputError, match=r"holds no audio \(.wav, .*\.aiff.*1 hidden files .*1 \.3gp.*ffmpeg"):
        find_audio(str(tmp_path), "audio")


def test_a_single_file_of_another_format_is_refused_with_the_command(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    table = write_table_corpus(corpus, speakers=4, clips=2)
    name = "it's.m4a"
    (corpus / name).write_bytes(b"\0\0\0\x18ftypM4A " + bytes(400))
    table.loc[0, "file"] = name
    table.to_csv(corpus / "clips.csv", index=False)
    _, audio = extraction.extract(corpus, table["file"].tolist(), tmp_path / "store", FeatureConfig(), 1)
    command = shlex.join(["ffmpeg", "-nostdin", "-n", "-i", str(corpus / name), "-ac", "1", "-ar", "16000"])
    assert audio["problem"][0].startswith("not audio (")
    assert f"; convert it: {command} " in audio["problem"][0]
    assert audio["problem"][1:].tolist() == [""] * 7


def test_a_file_under_the_other_form_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = tmp_path / unicodedata.normalize("NFD", "Köln")
    table = write_table_corpus(corpus, speakers=4, clips=2)
    (corpus / table["file"][0]).rename(corpus / DECOMPOSED)
    table.loc[0, "file"] = "é.wav"
    table.to_csv(corpus / "clips.csv", index=False)
    monkeypatch.chdir(tmp_path)
    folder = parse("extract", ["--corpus", "table", "--data", "Köln"]).data
    assert folder == corpus.name
    clips = load("table", Path(folder)).clips
    _, audio = extraction.extract(folder, clips["file"].tolist(), tmp_path / "store", FeatureConfig(), 1)
    assert audio["problem"].tolist() == [""] * 8
    assert audio["file"][0] == "é.wav"
    assert find_audio("Köln/é.wav", "audio").files == [Path(corpus.name, DECOMPOSED)]
    assert files.on_disk(tmp_path, "Köln/gone.wav") == str(tmp_path / "Köln/gone.wav")
