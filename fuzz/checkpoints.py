"""Files of weights, shards of the feature store, and the served model."""

from __future__ import annotations

import functools
import io
import json
import pickle
import struct
import zipfile
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from exvo import systems
from exvo.batches.clips import Clips
from exvo.config import FeatureConfig
from exvo.enrolment import EnrolmentSettings
from exvo.features.shards import COLUMNS, COLUMNS_1, HEADER, SETTINGS_1, Clip, Features
from exvo.features.store import Store
from exvo.networks.build import build_network
from exvo.networks.checkpoint import load_checkpoint, save_checkpoint
from exvo.networks.cnn import PANN
from exvo.networks.header import Notes
from exvo.networks.panns import load_panns
from exvo.serving.model import answer_body, signature
from exvo.serving.service import Service
from exvo.tasks import Task
from exvo.tracking.models import LOGGED_MODEL
from fuzz.material import HUGE, damage, value
from fuzz.tables import damage_ends

FEWSHOT = Task("fewshot", ("High", "Loud"))
MULTITASK = Task("multitask", ("High", "Loud"), ("Chile", "Kenya"))
MADE = [("cnn10-relative", FEWSHOT), ("cnn14-random-init-personalisation", FEWSHOT), ("cnn10", MULTITASK)]


def write_whole(folder: Path) -> list[bytes]:
    """The bytes of checkpoints of several systems, and of one in the former format; checks that they load."""
    contents = []
    for name, task in MADE:
        clips = Clips([], [], {}, np.random.default_rng(0).random((8, 4)), speakers=["a", "b", "c"])
        network = build_network(systems.find(name), task, 0.02, 3, "", clips)
        path = folder / "best.safetensors"
        notes: Notes = {"model": name, "run_id": "0" * 32, "epoch": 3, "score": 0.25}
        enrolled = EnrolmentSettings("published", 2)
        save_checkpoint(path, network, network.state_dict(), task, FeatureConfig(), "repeat", notes, enrolled)
        load_checkpoint(path)
        contents.append(path.read_bytes())
    path.write_bytes(former(contents[0]))
    load_checkpoint(path)
    return [*contents, path.read_bytes()]


def split(whole: bytes) -> tuple[dict[str, Any], bytes]:
    """The header of a safetensors file, and its weights."""
    length = struct.unpack("<Q", whole[:8])[0]
    return json.loads(whole[8 : 8 + length]), whole[8 + length :]


def joined(header: dict[str, Any], weights: bytes) -> bytes:
    """A safetensors file."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + weights


def former(whole: bytes) -> bytes:
    """A checkpoint with the header of the former format, exvo-2."""
    header, weights = split(whole)
    about = json.loads(header["__metadata__"]["exvo"])
    kept = {name: about[name] for name in ("network", "task", "fill", "notes")}
    kept |= {"format": "exvo-2", "features": about["features"]["settings"]}
    header["__metadata__"]["exvo"] = json.dumps(kept)
    return joined(header, weights)


def draw(random: Random, whole: bytes) -> bytes:
    """A checkpoint whose header, metadata, length or bytes are changed."""
    way = random.random()
    if way < 0.25:
        return damage(random, whole)
    if way < 0.3:
        return struct.pack("<Q", random.choice(HUGE)) + whole[8:]
    header, weights = split(whole)
    if way < 0.6:
        about = json.loads(header["__metadata__"]["exvo"])
        if random.random() < 0.3:
            about["temperature"] = random.choice([1, 1.5, 0, -1, 1e308, None, True, "1", *HUGE])
        if random.random() < 0.3:
            about["levels"] = [[random.choice([0, 0.5, 1, -1, None, "1", *HUGE]) for _ in range(3)]] * random.choice(
                [0, 1, 2]
            )
        if random.random() < 0.3:
            about["ranges"] = {name: [-30, random.choice([-1, 0, *HUGE])] for name in ("seconds", "rms_db", "rate")}
        for _ in range(random.choice([0, 1, 1, 2])):
            change(random, about)
        text = json.dumps(about)
        header["__metadata__"]["exvo"] = random.choice([text] * 9 + [text[:99], "[" * 99_999, "1" * 9_999])
    else:
        for _ in range(random.choice([1, 1, 3])):
            change(random, header)
    return joined(header, weights)


def change(random: Random, tree: Any) -> None:
    """Changes a part of a JSON value in place: puts in another value, a huge number, a name; or takes the part out."""
    while True:
        keys: list[Any] = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
        if not keys:
            return
        key = random.choice(keys)
        if isinstance(tree[key], (dict, list)) and tree[key] and random.random() < 0.8:
            tree = tree[key]
            continue
        way = random.randrange(5)
        if way == 0:
            del tree[key]
        elif way == 1:
            tree[key] = random.choice([*HUGE, 1e9, 1e300, -1, 0.5])
        elif way == 2 and isinstance(tree, dict):
            tree[random.choice(["x", "", "width", "__class__", "\u202e", "k" * 5_000])] = tree.pop(key)
        elif way == 3 and isinstance(tree[key], str):
            tree[key] = random.choice(
                ["BF16", "F64", "I8", "cnn14", "cnn5", "attention", "multitask", "none", "\x1b[2J", "exvo-2", "strict"]
            )
        else:
            tree[key] = value(random, 2)
        return


def write_panns(folder: Path, encoder: PANN) -> list[bytes]:
    """Files of weights in torch's two formats, with the state of a sampler; checks that they load."""
    state = {"model": encoder.state_dict(), "sampler": {"indexes": np.arange(5), "pointer": 3}}
    contents = []
    for zipped in (True, False):
        path = folder / "panns.pth"
        torch.save(state, path, _use_new_zipfile_serialization=zipped)
        load_panns(encoder, path)
        contents.append(path.read_bytes())
    return contents


class Call:
    """An object whose pickle has its reader call a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.arguments


def hexadecimal(times: int) -> Any:
    """A call that doubles 64 bytes `times` times."""
    import _codecs

    doubled: Any = b"x" * 64
    for _ in range(times):
        doubled = Call(_codecs.encode, doubled, "hex")
    return doubled


def draw_panns(random: Random, whole: bytes, executed: Path) -> bytes:
    """A file of weights, damaged; or one that asks to execute something or for all memory."""
    way = random.random()
    if way < 0.5:
        return damage(random, whole)
    if way < 0.6:  # anywhere in it
        cut = random.randrange(len(whole))
        return whole[:cut] + damage(random, whole[cut:])
    calls: list[Any] = [
        Call(open, str(executed), "w"),
        Call(eval, f"open({str(executed)!r}, 'w')"),
        Call(__import__("os").system, f"touch '{executed}'"),
        Call(bytearray, 10 * 2**30),
        Call(torch.UntypedStorage, 10 * 2**30),
        Call(np.ndarray, (10 * 2**30,)),
        Call(torch.Tensor, 2**30, 10),
        Call(getattr, torch.nn.Module, "load"),
        Call(nn.Linear, 2**20, 2**20),
        hexadecimal(40),
        value(random, 3),
    ]
    state = {"model": {"fc1.weight": torch.zeros(2)}, "x": random.choice(calls)}
    file = io.BytesIO()
    if random.random() < 0.3:
        pickle.dump(state["x"], file, protocol=random.choice([0, 1, 2, 3, 4, 5]))
    else:
        torch.save(state, file, _use_new_zipfile_serialization=random.random() < 0.5)
    content = file.getvalue()
    if random.random() < 0.2 and zipfile.is_zipfile(io.BytesIO(content)):
        content = compressed(content)
    return damage(random, content) if random.random() < 0.3 else content


def compressed(content: bytes) -> bytes:
    """A zip file with the same parts, compressed, and one of a megabyte of zeros."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as target:
        for part in source.infolist():
            target.writestr(part.filename, source.read(part))
        target.writestr("archive/data/9", bytes(2**20))
    return file.getvalue()


def write_shard(folder: Path) -> bytes:
    """The bytes of a shard of four clips."""
    store = Store(folder, FeatureConfig())
    clips = [Clip(f"{number:064x}", np.full((9, 64), -40, np.float32), 0.1, 16_000, 1, 0.3, -20) for number in range(4)]
    store.add(clips)
    (path,) = store.folder.glob("*.arrow")
    content = path.read_bytes()
    path.unlink()
    return content


def draw_shard(random: Random, whole: bytes) -> bytes:
    """A shard, damaged, or an Arrow file of other columns, or of version 1."""
    if random.random() < 0.7:
        return damage_ends(random, whole)
    features = Features.of_log_mel(FeatureConfig())
    settings = json.dumps(features.settings, sort_keys=True).encode()
    old = random.random() < 0.5
    names = COLUMNS_1 if old else {**COLUMNS, "values": features.schema.field("values").type}
    fields = [(name, random.choice([kind] * 9 + [pa.string(), pa.null()])) for name, kind in names.items()]
    metadata = {SETTINGS_1: settings} if old else {HEADER: features.header}
    schema = pa.schema(random.sample(fields, random.choice([len(fields)] * 3 + [1])), metadata)
    file = pa.BufferOutputStream()
    compression = random.choice([None, None, "lz4", "zstd"])
    with pa.ipc.new_file(file, schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        for _ in range(random.choice([0, 1, 1, 2])):
            writer.write_batch(pa.RecordBatch.from_pylist([{}] * random.choice([0, 3]), schema))
    content = bytes(file.getvalue())
    return damage_ends(random, content) if random.random() < 0.5 else content


def serve(folder: Path) -> Service:
    """A model of a small network, saved and loaded by MLflow, behind what its server does with a request."""
    import mlflow

    network = build_network(systems.find("cnn10-relative"), FEWSHOT, 0.05, 3, "", Clips([], [], {}, np.zeros((8, 3))))
    path = folder / "best.safetensors"
    save_checkpoint(path, network, network.state_dict(), FEWSHOT, FeatureConfig(), "repeat", {})
    mlflow.pyfunc.save_model(
        path=str(folder / "model"),
        python_model=str(LOGGED_MODEL),
        artifacts={"weights": str(path)},
        signature=signature(FEWSHOT),
        pip_requirements=[],
    )
    model = mlflow.pyfunc.load_model(str(folder / "model")).unwrap_python_model()
    return Service(own_pages, functools.partial(answer_body, model.checkpoint), 60.0)


async def own_pages(scope: Any, receive: Any, send: Any) -> None:
    """What MLflow's app answers at /ping and its like."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}", "more_body": False})
