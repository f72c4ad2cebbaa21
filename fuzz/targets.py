"""What is fuzzed: for each reader how an input is drawn, and what its answer must fulfil."""

from __future__ import annotations

import json
import math
import os
import shutil
import warnings
from dataclasses import asdict
from pathlib import Path
from random import Random

import numpy as np
import torch

from exvo import corpora
from exvo.config import PROTOCOLS, FeatureConfig
from exvo.errors import InputError
from exvo.evaluation import submission
from exvo.features.audio import read_audio
from exvo.features.log_mel import log_mel
from exvo.features.store import Store
from exvo.networks.checkpoint import load_checkpoint
from exvo.networks.cnn import PANN
from exvo.networks.panns import load_panns
from exvo.serving.recordings import find_audio
from exvo.tables import read_flat_parquet, validated_predictions
from fuzz import checkpoints, material, selections, tables
from fuzz.checks import check_corpus, check_sentence, clean, require
from fuzz.served import draw_exchange, draw_request

PARQUET = 3 * 2**30
"""Bytes of address space: a page of Parquet may ask for 2 GiB, which nothing but its own length tells."""

FEATURES = FeatureConfig()


class Target:
    """A reader under attack: `draw` writes an input into `folder`, `run` reads it.

    `run` says whether the input was accepted, and raises for whatever should not happen.
    """

    memory = 2**30
    """Bytes of address space that an input may add to what the process takes by itself."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def draw(self, random: Random) -> None:
        """Writes an input, the same for the same state of `random`."""
        raise NotImplementedError

    def run(self) -> bool:
        """Reads the input."""
        try:
            self.read()
        except InputError as error:
            check_sentence(str(error), self.named())
            return False
        return True

    def read(self) -> None:
        """Reads the input and checks what comes of it."""
        raise NotImplementedError

    def named(self) -> str:
        """The text that a sentence about a refused input must hold."""
        return str(self.folder)


class Audio(Target):
    """`read_audio`, half of the time on bytes, then the log-mel."""

    def draw(self, random: Random) -> None:
        """A real file, damaged; several in one; or bytes."""
        whole = random.choice(material.audio())
        way = random.random()
        if way < 0.02:
            content = whole
        elif way < 0.9:
            content = material.damage(random, whole)
        elif way < 0.95:
            content = material.damage(random, whole[:200] + random.choice(material.audio()))
        else:
            content = whole[: random.choice([0, 4, 12])] + random.randbytes(random.choice([0, 1, 50, 5_000]))
        (self.folder / "clip.audio").write_bytes(content)
        self.in_memory = random.random() < 0.5

    def read(self) -> None:
        """A log-mel of finite numbers."""
        path = self.folder / "clip.audio"
        audio = read_audio(path.read_bytes() if self.in_memory else path, FEATURES)
        decibels = log_mel(torch.from_numpy(audio.waveform), FEATURES)
        require(bool(decibels.isfinite().all()), "a log-mel that is not finite")
        require(audio.seconds <= FEATURES.max_seconds, "too long")

    def named(self) -> str:
        """The file, or that it came as bytes."""
        return "the audio" if self.in_memory else str(self.folder / "clip.audio")


class Corpora(Target):
    """The readers of `table`, `hume-vb` and `emogator`, then audit and task."""

    memory = PARQUET

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (folder.parent / "outside.wav").write_bytes(b"secret")

    def draw(self, random: Random) -> None:
        """A folder with its table, and odd things where files should be."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        self.name = random.choice(["table", "table", "table", "hume-vb", "hume-vb", "emogator"])
        draw = {"table": tables.draw_table, "hume-vb": tables.draw_hume, "emogator": tables.draw_emogator}
        draw[self.name](random, self.folder)

    def read(self) -> None:
        """A corpus that keeps all the rules of `Corpus`."""
        check_corpus(corpora.load(self.name, self.folder), self.folder)


class Selections(Target):
    """The options by which a table is read, on a table with another toolkit's columns."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        selections.write_table(folder)

    def draw(self, random: Random) -> None:
        """The options."""
        self.selection = selections.draw_selection(random)
        (self.folder / "options").write_text(repr(self.selection), encoding="utf-8", errors="surrogateescape")

    def read(self) -> None:
        """A corpus that keeps all the rules of `Corpus`."""
        corpus = corpora.load("table", self.folder, selection=self.selection)
        check_corpus(corpus, corpus.folder)

    def named(self) -> str:
        """Nothing: a sentence names the option or the table."""
        return ""


class Checkpoints(Target):
    """`networks.checkpoint.load_checkpoint`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.whole = checkpoints.write_whole(folder)

    def draw(self, random: Random) -> None:
        """A checkpoint whose header, weights or bytes are changed."""
        (self.folder / "best.safetensors").write_bytes(checkpoints.draw(random, random.choice(self.whole)))

    def read(self) -> None:
        """A network that can be asked."""
        checkpoint = load_checkpoint(self.folder / "best.safetensors")
        network = checkpoint.network
        require(checkpoint.protocol in (None, *PROTOCOLS), "another protocol")
        require(checkpoint.temperature is None or 0 < checkpoint.temperature < math.inf, "another temperature")
        require(all(0 <= number <= 1 for level in checkpoint.levels for number in level), "other levels")
        ranges = asdict(checkpoint.ranges).values() if checkpoint.ranges else ()
        require(all(low <= high < math.inf for low, high in ranges), "other ranges")
        clip = torch.zeros(1, network.min_frames, FEATURES.bands)
        with torch.inference_mode():
            require(network.predict(clip).shape == (1, checkpoint.task.outputs), "outputs of another shape")


class Panns(Target):
    """`load_panns`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        torch.manual_seed(0)
        self.encoder = PANN("cnn10", 0.02)
        self.whole = checkpoints.write_panns(folder, self.encoder)

    def draw(self, random: Random) -> None:
        """A file of weights in one of torch's formats, damaged, or a pickle that would do harm."""
        (self.folder / "executed").unlink(missing_ok=True)
        content = checkpoints.draw_panns(random, random.choice(self.whole), self.folder / "executed")
        (self.folder / "panns.pth").write_bytes(content)

    def read(self) -> None:
        """Weights; whatever the file says, nothing is executed."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's own, of old formats
                load_panns(self.encoder, self.folder / "panns.pth")
        finally:
            require(not (self.folder / "executed").exists(), "executed")


class Predictions(Target):
    """Predictions tables: Parquet, then the comparison with another and the scores."""

    memory = PARQUET

    def draw(self, random: Random) -> None:
        """A table with odd columns and values, or whose bytes are changed."""
        (self.folder / "test.parquet").write_bytes(tables.draw_predictions(random))

    def read(self) -> None:
        """Scores, from a table that keeps its rules."""
        path = self.folder / "test.parquet"
        table = validated_predictions(read_flat_parquet(path), str(path))
        tables.compare(table, str(path))


class Submissions(Target):
    """The check of submission files, against a plain one."""

    def draw(self, random: Random) -> None:
        """A right file, changed."""
        tables.draw_submission(random, self.folder / "ExVo-Few_team_1.csv")

    def read(self) -> None:
        """All problems in sentences; none where the file is right."""
        path = self.folder / "ExVo-Few_team_1.csv"
        checked = submission.check_file(path, tables.IDS)
        for sentence in [*checked.problems, *checked.notes]:
            check_sentence(sentence)
        right = not checked.problems
        require(not right or tables.plainly_right(path), "passed a file that is wrong")
        if not right:
            raise InputError(f"{self.folder} {checked.problems[0]}")


class Lists(Target):
    """What `audio=` and `enrolment=` name: files, globs, folders and lists."""

    memory = PARQUET

    def draw(self, random: Random) -> None:
        """A list of files, or a folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        self.option = tables.draw_list(random, self.folder)

    def read(self) -> None:
        """Paths, and sentences that are fit for a terminal."""
        files, notes = find_audio(self.option, "audio")
        require(len(set(files)) == len(files) > 0, "a file twice, or none")
        require(self.option[0] != "@" or all(map(os.path.isfile, files)), "a file of a list that is not there")
        for note in notes:
            require(clean(note) and "\n" not in note, "a note with controls")

    def named(self) -> str:
        """The option."""
        return "audio=" if self.option[0] != "@" else ""


class Stores(Target):
    """The feature store: shards that are damaged or of another make."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.shard = folder / f"log-mel-{FEATURES.digest()}" / "0.arrow"
        self.whole = checkpoints.write_shard(folder)

    def draw(self, random: Random) -> None:
        """A shard."""
        self.shard.unlink(missing_ok=True)  # a mapped file must not change
        self.shard.write_bytes(checkpoints.draw_shard(random, self.whole))

    def read(self) -> None:
        """Log-mels of whole frames, or a warning that names the shard."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            store = Store(self.folder, FEATURES)
            for content in list(store):
                require(store[content].ndim == 2, "a log-mel of another shape")
                np.isfinite(store[content]).all()
                store.intact(content)
            store.table()
        sentences = sorted({f"{warning.message}." for warning in caught})  # the same warning Python shows once
        require(len(sentences) <= 2, "a flood of warnings")
        if sentences:
            raise InputError(sentences[0])


class Served(Target):
    """The served model behind what answers its HTTP requests."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.service = checkpoints.serve(folder)

    def draw(self, random: Random) -> None:
        """A request: body, content type, and how it comes."""
        body, content_type = draw_request(random)
        self.exchange = draw_exchange(random, body, content_type)
        (self.folder / "body").write_bytes(body)

    def read(self) -> None:
        """An answer, or one sentence with a status that blames the request, and nothing that is kept."""
        exchange = self.exchange
        exchange.ask(self.service)
        require(self.service.held == self.service.requests == 0, "a request is kept")
        if exchange.goes and not exchange.status:
            raise InputError("The client went.")
        if exchange.status == 200:
            json.loads(exchange.body)
            return
        require(exchange.status in (400, 404, 405, 413, 415), f"status {exchange.status}: {exchange.body[:500]!r}")
        require(exchange.answer_headers[b"content-type"] == b"application/json", "no JSON")
        refusal = json.loads(exchange.body)
        require(set(refusal) == {"error_code", "message"}, "a refusal of another form")
        require(len(exchange.body) < 2_000, "a long answer")
        raise InputError(refusal["message"])

    def named(self) -> str:
        """Nothing: a request has no name."""
        return ""
