"""Nothing executes what it reads: malicious weights, what the code may call, and hostile names up to the pages."""

from __future__ import annotations

import ast
import html.parser
import io
import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from mlflow import MlflowClient
from optuna.storages.journal import JournalFileBackend

from exvo.errors import InputError
from exvo.networks.checkpoint import load_checkpoint
from exvo.networks.cnn import PANN
from exvo.networks.panns import load_panns
from fuzz.checks import check_sentence

from helpers.commands import run_here

ROOT = Path(__file__).resolve().parent.parent
CODE = sorted(path for folder in ("exvo", "pipelines") for path in (ROOT / folder).rglob("*.py"))


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.system, (f"touch '{self.path}'",)


def evil_files(folder: Path, executed: Path) -> list[Path]:
    """A malicious pickle as itself, in both of torch's formats, and as NumPy writes it."""
    paths = [folder / name for name in ("bare.pth", "new.pth", "old.pth", "array.pth")]
    paths[0].write_bytes(pickle.dumps(Evil(executed)))
    torch.save({"model": {}, "x": Evil(executed)}, paths[1])
    torch.save({"model": {}, "x": Evil(executed)}, paths[2], _use_new_zipfile_serialization=False)
    with paths[3].open("wb") as file:
        np.save(file, np.array([Evil(executed)], object), allow_pickle=True)
    return paths


def test_a_malicious_checkpoint_is_refused_and_nothing_runs(tmp_path: Path) -> None:
    executed = tmp_path / "executed"
    pickle.loads(pickle.dumps(Evil(executed)))  # it is malicious
    assert executed.exists()
    executed.unlink()
    for path in evil_files(tmp_path, executed):
        with pytest.raises(InputError, match="can't be read as a file of weights") as caught:
            load_panns(PANN("cnn14", 0.05), path)
        check_sentence(str(caught.value), str(path))
        with pytest.raises(InputError, match="is not a whole checkpoint of exvo") as caught:
            load_checkpoint(path)
        check_sentence(str(caught.value), str(path))
        assert not executed.exists()


def test_train_refuses_a_malicious_init(
    tiny_corpus: Path, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (_, new, old, _) = evil_files(tmp_path, tmp_path / "executed")
    for path in (new, old):
        options = {"model": "cnn14-audioset", "init": str(path), "corpus": "table", "data": str(tiny_corpus)}
        assert run_here("train", options, monkeypatch) == 2
        assert "can't be read as a file of weights" in capsys.readouterr().err
    assert not (tmp_path / "executed").exists()
    assert MlflowClient().search_runs(["0"]) == []  # a refused input leaves no run


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (pickle.dumps(bytearray(9), 2), "it names __builtin__ bytearray"),
        (b"\x80\x02ctorch\nUntypedStorage\nJ\xff\xff\xff\x7f\x85R.", "it names torch UntypedStorage"),
        (b"\x80\x02X\xff\xff\xff\xff.", "expected 4294967295 bytes"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "its pickle uses STACK_GLOBAL"),
        (b"\x80\x02c_codecs\nencode\nX\x03\x00\x00\x00abcX\x09\x00\x00\x00hex_codec\x86R.", "encodes bytes again"),
        (b"\x80\x02c_codecs\nencode\nX\x03\x00\x00\x00abcX\x03\x00\x00\x00bz2\x86R.", "encodes bytes again"),
        (b"", "empty file"),
    ],
)
def test_what_a_file_of_weights_may_not_name(tmp_path: Path, content: bytes, told: str) -> None:
    """Names that torch itself allows and that reserve as much memory as they are asked for."""
    head = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    old = b"".join(head) + content + pickle.dumps([], 2)
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3")
    for whole in [content] if not content else [old, zipped.getvalue()]:
        (tmp_path / "init.pth").write_bytes(whole)
        with pytest.raises(InputError, match=told):
            load_panns(PANN("cnn14", 0.05), tmp_path / "init.pth")


def test_compressed_weights_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "init.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, 2))
        archive.writestr("archive/data/0", bytes(2**24))
    with pytest.raises(InputError, match="it is compressed"):
        load_panns(PANN("cnn14", 0.05), tmp_path / "init.pth")


FORBIDDEN_IMPORTS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "code", "pty"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "system", "popen", "spawnl", "spawnv", "read_pickle"}
FORBIDDEN_CALLS |= {"to_pickle", "unsafe_load", "full_load", "load_all", "read_hdf", "execfile", "getoutput"}


def wrongs(source: str) -> list[str]:
    """What in a module could execute what it reads."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names if name.name.split(".")[0] in FORBIDDEN_IMPORTS]
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FORBIDDEN_IMPORTS:
            found.append(str(node.module))
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        last = called.rsplit(".", 1)[-1]
        own_method = last in ("eval", "compile") and called != last and not called.startswith(("pd.", "builtins."))
        if (last in FORBIDDEN_CALLS and not own_method) or options.get("shell", "False") != "False":
            found.append(called)
        if called == "torch.load" and options.get("weights_only") != "True":
            found.append(called)
        if called in ("np.load", "numpy.load") or options.get("allow_pickle", "False") != "False":
            found.append(called)
        if called == "yaml.load" and options.get("Loader") != "yaml.SafeLoader":
            found.append(called)
    return found


@pytest.mark.parametrize("path", CODE, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_module_executes_what_it_reads(path: Path) -> None:
    assert wrongs(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "eval(x)",
        "exec('1')",
        "os.system('ls')",
        "subprocess.run(x, shell=True)",
        "torch.load(x)",
        "torch.load(x, weights_only=False)",
        "np.load(x)",
        "f(allow_pickle=True)",
        "yaml.load(x)",
        "yaml.load(x, Loader=yaml.Loader)",
        "pd.read_pickle(x)",
        "pd.eval(x)",
        "re.compile(x); compile(x, 'a', 'exec')",
    ],
)
def test_the_search_for_what_executes_finds_it(source: str) -> None:
    assert len(wrongs(source)) == 1


def test_the_studies_file_is_not_pickled() -> None:
    """Optuna's journal pickles for backends that keep snapshots; the one for files keeps none."""
    assert not hasattr(JournalFileBackend, "save_snapshot")


HOSTILE = {
    "emotions": ["<script>alert(1)</script>", "../../../up", "=cmd|' /C calc'!A0", "{{7*7}} $x^2$ %s"],
    "speakers": ["<b>ann</b>", "../../bob", "$(touch executed)", "=1+1", "; touch executed;", "a' OR '1'='1"],
    "countries": ['"><img src=x onerror=alert(1)>', "/etc/passwd"],
}


def hostile_corpus(folder: Path) -> None:
    """Tones in the `table` layout under names that attack pages, shells, paths and spreadsheets."""
    rng = np.random.default_rng(3)
    rows = []
    for number in range(24):
        speaker = number // 4
        name = f"{HOSTILE['speakers'][speaker]}-{number}.wav".replace("/", "_").replace("\\", "_")
        name = f"$(touch executed)/{name}" if number % 2 else f"=cmd {name}"
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        time = np.arange(4_000 + 400 * number) / 16_000
        soundfile.write(path, 0.3 * np.sin(2 * np.pi * (200 + 20 * number) * time), 16_000)
        split = ("train", "train", "val", "val", "test", "test")[speaker]
        country = HOSTILE["countries"][speaker % 2]
        rows.append([name, split, HOSTILE["speakers"][speaker], country, *rng.random(4)])
    columns = ["file", "split", "speaker", "country", *HOSTILE["emotions"]]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "clips.csv", index=False)


class Tags(html.parser.HTMLParser):
    """The tags of a page, and attributes that would run something or fetch something."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.active: list[tuple[str, str | None]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.active += [(name, text) for name, text in attrs if name.startswith("on") or name == "src"]
        links = [text or "" for name, text in attrs if name in ("href", "xlink:href")]
        self.active += [("href", link) for link in links if not link.startswith(("#", "data:image/png;base64,"))]


def test_a_corpus_of_hostile_names_from_training_to_pages(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file outside the working folder, no markup from names, nothing executed, no formula for a spreadsheet."""
    data, work = tmp_path / "data", tmp_path / "a" / "b" / "c" / "work"
    hostile_corpus(data)
    work.mkdir(parents=True)
    monkeypatch.chdir(work)
    shutil.rmtree(tmp_path / "artifacts", ignore_errors=True)
    MlflowClient().create_experiment("here", artifact_location=str(work / "artifacts"))
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "here")
    before = outside(tmp_path, work)
    options = {"corpus": "table", "data": str(data), "epochs": "1", "width": "0.05", "output": str(work / "output")}
    assert run_here("train", options | {"model": "cnn10-relative"}, monkeypatch) == 0
    assert run_here("evaluate", {"run_id": "cnn10-relative", "output": str(work / "output")}, monkeypatch) == 0
    audio = {"audio": str(data), "model_uri": "cnn10-relative", "save": str(work / "found.csv")}
    assert run_here("predict", audio, monkeypatch) == 0
    assert outside(tmp_path, work) == before
    assert not list(tmp_path.rglob("executed"))
    pages = [path for path in (work / "artifacts").rglob("*.html") if "code" not in path.parts]  # not the template
    assert pages
    for page in pages:
        text = page.read_text(encoding="utf-8")
        found = Tags(text)
        assert "alert(1)" in text  # the name is there, as text
        assert not found.tags & {"script", "img", "iframe", "object", "embed", "form", "foreignobject"}
        assert "<b>ann" not in text
        assert found.active == []
    assert not [path for path in (work / "artifacts").rglob("*") if path.suffix in (".pkl", ".pickle", ".pt", ".pth")]
    for table in [work / "found.csv", *(work / "artifacts").rglob("audio.csv")]:
        cells = pd.read_csv(table, header=None, dtype=str, keep_default_na=False).to_numpy().ravel()
        assert len(cells) > 24
        assert not [cell for cell in cells if cell.startswith(("=", "@", "+")) or cell[:2] in ("-=", "-@")]


def outside(folder: Path, work: Path) -> set[Path]:
    """All paths beneath a folder but those of the working folder and of the store."""
    return {path for path in folder.rglob("*") if work not in (path, *path.parents) and "mlflow.db" not in path.name}
