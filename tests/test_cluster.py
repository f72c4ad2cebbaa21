"""A Dask cluster's workers, in processes of their own, against the same work in this process."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import torch
from dask import config
from mlflow import MlflowClient

from exvo import cluster as on_cluster
from exvo.cluster import check_address, share_out
from exvo.config import FeatureConfig
from exvo.errors import InputError
from exvo.experiments import evaluate, predict, train
from exvo.features import extraction
from exvo.features.encoders import load_encoder
from exvo.features.extraction import extract
from exvo.features.extractors import Extractor
from exvo.features.functionals import Functionals
from exvo.features.shards import read_shard
from exvo.features.store import Store
from exvo.machine import Machine, source_digest
from exvo.networks import parts
from exvo.settings import EvaluateSettings, PredictSettings, TrainSettings

from helpers.cluster import Cluster
from helpers.commands import ROOT, run_here
from helpers.encoders import save_encoder
from helpers.features import CONFIG, write_clips
from helpers.networks import task_without_limits
from helpers.servers import free_port
from helpers.stores import clip

SECONDS = 60.0
"""What a cluster is given, on a busy machine, for what it does in one or two."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of two workers."""
    one = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        one.add_worker(2)
        yield one
    finally:
        one.stop()


@pytest.fixture
def lonely(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster without workers."""
    (tmp_path / "cluster").mkdir()
    one = Cluster(tmp_path / "cluster")
    try:
        yield one
    finally:
        one.stop()


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """This process computes with one thread, as Dask has its workers do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def wait_until(is_so: Callable[[], object]) -> None:
    until = time.monotonic() + SECONDS
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.02)


def equal(one: tuple[Store, pd.DataFrame], other: tuple[Store, pd.DataFrame]) -> bool:
    """Whether two extractions gave the same table, and stores with the same features to the bit."""
    pd.testing.assert_frame_equal(one[1], other[1])
    first, second = one[0], other[0]
    return set(first) == set(second) and all(first[key].tobytes() == second[key].tobytes() for key in first)


# What is the same


@pytest.mark.parametrize("kind", ["log-mel", "egemaps", pytest.param("encoder", marks=pytest.mark.slow)])
def test_features_are_those_of_one_machine(
    kind: str, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = write_clips(tmp_path / "corpus", 20)
    (tmp_path / "corpus" / "damaged.wav").write_bytes(b"no audio")
    (tmp_path / "corpus" / "copy.wav").write_bytes((tmp_path / "corpus" / files[0]).read_bytes())
    files = ["damaged.wav", *files, "absent.wav", "copy.wav"]
    monkeypatch.setattr(extraction, "SHARD_FILES", 5)
    extractor: Extractor | FeatureConfig = CONFIG
    if kind == "egemaps":
        extractor = Functionals("egemaps")
    if kind == "encoder":
        extractor = load_encoder(str(save_encoder("wavlm", tmp_path / "encoder")), "cpu")
    alone = extract(tmp_path / "corpus", files, tmp_path / "alone", extractor, 1)
    on_cluster._say.cache_clear()
    monkeypatch.chdir(tmp_path)  # the paths may be relative
    shared = extract("corpus", files, "shared", extractor, cluster=cluster.address)
    assert equal(alone, shared)
    assert set(shared[1].set_index("file")["problem"][["damaged.wav", "absent.wav"]]) != {""}
    assert len(list(shared[0].folder.glob("*.arrow"))) == 5
    assert capsys.readouterr().out == (
        f"cluster {cluster.address}: workers of this machine's processor, versions and threads: the result is this "
        "machine's, bit for bit\n"
    )
    assert [path for path in Path("shared").rglob("*") if path.suffix != ".arrow"] == [shared[0].folder]
    before = set(shared[0].folder.iterdir())
    assert equal(alone, extract("corpus", files, "shared", extractor, cluster=cluster.address))
    assert set(shared[0].folder.iterdir()) == before  # nothing is extracted twice


@pytest.mark.slow
def test_evaluation_and_prediction_are_those_of_one_machine(
    cluster: Cluster, tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("exvo.experiments.train.make_task", task_without_limits)
    monkeypatch.setattr(parts, "PART_CLIPS", 3)
    monkeypatch.setattr(predict, "PART_FILES", 3)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    options = {"corpus": "table", "data": str(tiny_corpus), "epochs": 1, "width": 0.05, "learning_rate": 0.01}
    train.run(TrainSettings(**options, model="cnn10-relative", cluster=cluster.address))
    (run,) = MlflowClient().search_runs(["0"])
    assert run.data.params["cluster"] == cluster.address

    def tables(address: str) -> list[pd.DataFrame]:
        evaluate.run(EvaluateSettings(run_id="cnn10-relative", split="test", cluster=address))
        scored = MlflowClient().search_runs(["0"])[0]
        paths = ["predictions/test.parquet", "enrolment/test-wrong.parquet", "enrolment/test-typical.parquet"]
        uris = [f"{scored.info.artifact_uri}/{path}" for path in paths]
        words = {"audio": f"{tiny_corpus},{tiny_corpus}/clips.csv", "enrolment": str(tiny_corpus / "s0-1.wav")}
        with pytest.raises(InputError, match=r"1 of 33 files can't be used, the others are predicted:\n.*clips.csv"):
            predict.run(PredictSettings(model_uri=run.info.run_id, save="p.parquet", cluster=address, **words))
        return [pd.read_parquet(mlflow.artifacts.download_artifacts(uri)) for uri in uris] + [
            pd.read_parquet("p.parquet")
        ]

    try:
        for one, other in zip(tables(""), tables(cluster.address), strict=True):
            pd.testing.assert_frame_equal(one, other, check_exact=True)
    finally:
        mlflow.set_tracking_uri(None)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates are made by openssl, which is not installed")
def test_over_tls_with_the_certificates_that_dask_s_settings_name(tmp_path: Path) -> None:
    words = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key -out certificate -days 2 -subj /CN=exvo"
    subprocess.run(words.split(), cwd=tmp_path, check=True, capture_output=True)
    paths = {name: str(tmp_path / name) for name in ("certificate", "key")}
    options = ["--tls-ca-file", paths["certificate"], "--tls-cert", paths["certificate"], "--tls-key", paths["key"]]
    one = Cluster(tmp_path, "tls", options)
    try:
        one.add_worker()
        with pytest.raises(InputError, match=r"no Dask scheduler answers .* settings must name the certificates"):
            check_in(one.address)
        own = {"ca-file": paths["certificate"], "client.cert": paths["certificate"], "client.key": paths["key"]}
        with config.set({f"distributed.comm.tls.{name}": path for name, path in own.items()}):
            assert check_in(one.address) == [2]
    finally:
        one.stop()


def check_in(address: str) -> list[int]:
    """What a cluster counts the letters of a word to."""
    return share_out(address, len, ["ab"], what="letters", done=lambda more: None, files=[])


# Workers that go and come


@pytest.mark.slow
def test_a_killed_worker_costs_its_parts_again_and_nothing_else(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write_clips(tmp_path / "corpus", 240, seconds=1.0)
    monkeypatch.setattr(extraction, "SHARD_FILES", 8)
    killed: list[int] = []

    def kill() -> None:
        wait_until(lambda: list((tmp_path / "shared").rglob("*.arrow")))
        killed.append(len(list((tmp_path / "shared").rglob("*.arrow"))))
        cluster.workers()[0].kill()

    thread = threading.Thread(target=kill)
    thread.start()
    shared = extract(tmp_path / "corpus", files, tmp_path / "shared", CONFIG, cluster=cluster.address)
    thread.join()
    assert killed[0] < 28
    assert equal(extract(tmp_path / "corpus", files, tmp_path / "alone", CONFIG, 1), shared)
    shards = [read_shard(path, shared[0].features) for path in shared[0].folder.glob("*.arrow")]
    assert len(shards) <= 31  # one part may have been written and its worker killed before it said so
    assert len({shard.contents.tobytes() for shard in shards}) == 30


@pytest.mark.slow
def test_a_worker_that_has_come_later_does_parts_and_those_of_a_killed_one(lonely: Cluster, tmp_path: Path) -> None:
    """The first worker stays in its second part; another one comes, does the others, and that one when it is killed."""

    def work(part: str) -> str:
        import os
        import time

        folder = str(tmp_path)
        done = [int(name.partition("-")[2]) for name in os.listdir(folder) if name.startswith("0-")]
        if done == [os.getpid()]:
            open(os.path.join(folder, "held"), "w").close()
            time.sleep(600)
        open(os.path.join(folder, f"{part}-{os.getpid()}"), "w").close()
        return part.upper()

    lonely.add_worker()
    letters, results, counted = "0bcdefghijklmnopqrst", list[str](), list[int]()
    options = {"what": "letters", "done": counted.append, "files": []}
    thread = threading.Thread(target=lambda: results.extend(share_out(lonely.address, work, letters, **options)))
    thread.start()
    wait_until((tmp_path / "held").exists)
    (first,) = lonely.workers()
    lonely.add_worker()
    wait_until(lambda: len(list(tmp_path.glob("*-*"))) >= 18)
    assert thread.is_alive()
    first.kill()
    thread.join(SECONDS)
    assert "".join(results) == letters.upper()
    assert counted == [1] * 20
    assert len({path.name.partition("-")[2] for path in tmp_path.glob("*-*")}) >= 2


@pytest.mark.slow
def test_a_lost_scheduler_is_said(lonely: Cluster, tmp_path: Path) -> None:
    lonely.add_worker()

    def nap(part: str) -> None:
        import time

        time.sleep(len(part))

    with pytest.raises(InputError, match=r"the scheduler is lost\. Start it and run again"):
        share_out(lonely.address, nap, ["", "x" * 30], what="naps", done=lambda more: lonely.stop(), files=[])


# What is refused


@pytest.mark.parametrize(
    "address", ["nonsense", "http://host:8786", "tcp://host", "tcp://:8786", "tcp://host:x", "tcp:"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(InputError, match=r"is not the address of a Dask scheduler; give .* tcp://<host>:8786 or tls"):
        check_address(address)
    check_address("tls://[::1]:8786")


@pytest.mark.usefixtures("store")
def test_refusals_are_sentences(
    tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(on_cluster, "SECONDS", 1)
    options = {"corpus": "table", "data": str(tiny_corpus)}
    silent = f"tcp://127.0.0.1:{free_port()}"
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        for address in (silent, f"tcp://127.0.0.1:{deaf.getsockname()[1]}"):
            assert run_here("extract", options | {"cluster": address}, monkeypatch) == 2
            said = capsys.readouterr().err
            assert f"cluster={address}: no Dask scheduler answers within 1 s" in said
            assert "Traceback" not in said
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert run_here("extract", options | {"cluster": silent}, monkeypatch) == 2
    assert 'needs distributed, which is not installed: pip install "exvo[cluster]"' in capsys.readouterr().err


@pytest.mark.slow
def test_workers_that_can_not_do_the_work_are_refused(
    lonely: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_cluster, "SECONDS", 1)
    files = write_clips(tmp_path / "corpus", 2)

    def refused() -> str:
        with pytest.raises(InputError) as raised:
            extract(tmp_path / "corpus", files, tmp_path / "features", CONFIG, cluster=lonely.address)
        return str(raised.value)

    assert "no worker has joined the scheduler within 1 s; start some with `dask worker tcp://" in refused()
    monkeypatch.setattr(on_cluster, "SECONDS", SECONDS)
    (tmp_path / "empty" / "exvo").mkdir(parents=True)
    absent = """raise ModuleNotFoundError("No module named 'exvo'")"""  # a file alone would not hide an editable one
    (tmp_path / "empty" / "exvo" / "__init__.py").write_text(absent)
    shutil.copytree(ROOT / "exvo", tmp_path / "other" / "exvo", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "other" / "exvo" / "text.py").open("a") as code:
        code.write("# changed\n")
    sentences = {"empty": "No module named 'exvo'"}
    sentences["other"] = f"and this machine {source_digest()[:12]}: install the same on both"
    for name, sentence in sentences.items():
        worker = lonely.add_worker(variables={"PYTHONPATH": str(tmp_path / name)})
        assert sentence in refused()
        worker.terminate()
        worker.wait(SECONDS)
    if os.geteuid() != 0:
        pytest.skip("to hide a folder from a worker takes a mount of its own")
    for hidden in ("features", "corpus"):
        mount = f'mount -t tmpfs none {tmp_path / hidden} && exec "$@"'
        worker = lonely.add_worker(before=["unshare", "--mount", "sh", "-c", mount, "sh"])
        assert {
            "features": f"can't use the folder {tmp_path}/features ([Errno 2] No such file",
            "corpus": f"does not see {tmp_path}/corpus/001.wav as this machine does",
        }[hidden] in refused()
        worker.terminate()
        worker.wait(SECONDS)


def test_other_machines_are_named() -> None:
    own = Machine("A", "AVX2", 2, (("numpy", "2"), ("torch", "3"), ("opensmile", "2.6")))
    other = own._replace(processor="B", threads=1, versions=(("numpy", "2"), ("torch", "4")))
    assert own.differences(own) == []
    assert own.differences(other) == ["processor B, here A", "threads 1, here 2", "torch 4, here 3"]
    assert on_cluster._comparison("tcp://a:1", own, [own, other], "by 0.001 dB") == (
        "cluster tcp://a:1: other machines than this one (processor B, here A, threads 1, here 2, torch 4, here 3): "
        "the result may differ by 0.001 dB"
    )


def test_a_file_that_only_workers_miss_is_named(tmp_path: Path) -> None:
    (tmp_path / "there.wav").touch()
    on_cluster.refuse_unseen({str(tmp_path / "absent.wav"): "missing"})
    with pytest.raises(InputError, match=r"can't read .*there\.wav \(missing\), which this machine can"):
        on_cluster.refuse_unseen({str(tmp_path / "there.wav"): "missing"})


def test_what_others_have_written_must_be_seen_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, elsewhere = Store(tmp_path, CONFIG), Store(tmp_path, CONFIG)
    elsewhere.add([clip(1)])
    store.wait_for([f"{1:064x}"])
    monkeypatch.setattr("exvo.features.store.UNSEEN", 0.0)
    with pytest.raises(InputError, match=r"1 clips that other machines have written are not in .* after 0 seconds"):
        store.wait_for([f"{1:064x}", f"{2:064x}"])


def test_without_a_cluster_parts_are_done_here() -> None:
    counted: list[int] = []
    results = share_out("", str.upper, ["ab", "c"], what="letters", done=counted.append, files=[])
    assert (results, counted) == (["AB", "C"], [2, 1])
