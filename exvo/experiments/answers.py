"""The answers that `predict` has so far, beside the table that it will save: the same command goes on with them."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from exvo.files import write_atomically
from exvo.machine import source_digest
from exvo.serving.prediction import FileAnswer, FilePredictor

BLOCK_FILES = 1024
"""Files whose answers are kept together; of fewer in all none are."""

NAME = re.compile("[0-9a-f]{32}")
"""Of a block's file, without its ending."""

TEXTS = ("warnings", "note", "problem")


class KeptAnswers:
    """Answers in a folder beside the table, a Parquet file for each block of files.

    A block's file is known by a digest of the model with its ranges, of the speaker's profile, of exvo's code, and of
    the names, sizes and times of the block's files; so what has changed since is predicted anew.

    Args:
        table: the file that will hold the table.
        predictor: what gives the answers.
    """

    def __init__(self, table: Path, predictor: FilePredictor) -> None:
        self.folder = table.with_name(f"{table.name}.parts")
        self._digest = hashlib.sha256(source_digest().encode())
        for name, tensor in sorted(predictor.checkpoint.network.state_dict().items()):
            self._digest.update(name.encode())
            self._digest.update(tensor.cpu().contiguous().numpy().tobytes())
        profile = None if predictor.profile is None else predictor.profile.tolist()
        checkpoint = predictor.checkpoint
        about = [
            checkpoint.network.arguments,
            repr(checkpoint.features),
            checkpoint.fill,
            repr(checkpoint.ranges),
            profile,
        ]
        self._digest.update(json.dumps(about).encode())

    def read(self, files: Sequence[Path]) -> list[FileAnswer] | None:
        """The answers to a block; None where they are not there, or not whole."""
        try:
            table = pq.read_table(self._place(files))
            rows = zip(table["outputs"], *(table[name].to_pylist() for name in TEXTS), strict=True)
            answers = [
                FileAnswer(None if row.values is None else row.values.to_numpy(), json.loads(warnings), note, problem)
                for row, warnings, note, problem in rows
            ]
        except (OSError, pa.ArrowException, KeyError, ValueError):
            return None
        return answers if len(answers) == len(files) else None

    def write(self, files: Sequence[Path], answers: Sequence[FileAnswer]) -> None:
        """Keeps the answers to a block.

        Raises:
            InputError: they can't be written.
        """
        kinds = {answer.outputs.dtype for answer in answers if answer.outputs is not None}
        kind = pa.list_(pa.from_numpy_dtype(kinds.pop() if kinds else np.dtype("float32")))
        columns = {
            "outputs": pa.array([answer.outputs for answer in answers], kind),
            "warnings": [json.dumps(answer.warnings) for answer in answers],
            "note": [answer.note for answer in answers],
            "problem": [answer.problem for answer in answers],
        }
        content = io.BytesIO()
        pq.write_table(pa.table(columns), content)
        write_atomically(self._place(files), content.getvalue())

    def remove(self) -> None:
        """Deletes what is kept, once the table is saved."""
        for path in self.folder.glob("*.parquet"):
            if NAME.fullmatch(path.stem):
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it is not there, or somebody has put something into it
            self.folder.rmdir()

    def _place(self, files: Sequence[Path]) -> Path:
        """The file of a block."""
        digest = self._digest.copy()
        for file in files:
            digest.update(os.fsencode(os.path.abspath(file)) + b"\0")
            with contextlib.suppress(OSError, ValueError):  # the answer will say why
                status = os.stat(file)
                digest.update(f"{status.st_size} {status.st_mtime_ns}".encode())
        return self.folder / f"{digest.hexdigest()[:32]}.parquet"
