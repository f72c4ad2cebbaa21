"""openSMILE's functionals, fixed statistics of a clip: eGeMAPS (doi 10.1109/TAFFC.2015.2457417) and ComParE 2016.

openSMILE fails at random in threads. So extraction computes them in its worker processes, with `Functionals`; all that
may run in threads, as the served model does, gives the waveforms to a process of its own, with `FunctionalsProcess`.
`Functionals` does so too where it is called in a thread, as workers of a Dask cluster call it.
"""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import sys
import threading
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

import numpy as np

from exvo.config import FeatureConfig
from exvo.errors import InputError
from exvo.extras import require
from exvo.features.containers import AudioError
from exvo.features.shards import Features

KIND = "functionals"
SETS = {"egemaps": ("eGeMAPSv02", 88), "compare2016": ("ComParE_2016", 6373)}
"""The sets by their names as option: openSMILE's own name, and how many numbers it has."""

MIN_SAMPLES = 960
"""Samples at 16 kHz, 60 ms: openSMILE's longest window. With fewer it has no frame and gives NaN."""

LOUDEST = np.float32(1 - 2.0**-15)
"""The largest sample that openSMILE's 16 bits hold; 1 would turn into -1."""

SIZE = struct.Struct("<q")
"""How a pipe announces what follows: the number of samples of a waveform or of numbers of its answer; -1: a problem."""


def installed() -> str:
    """The version of openSMILE.

    Raises:
        InputError: it is not installed.
    """
    try:
        return version("opensmile")
    except PackageNotFoundError:
        require("opensmile", "opensmile", "features=egemaps or compare2016")
        raise


def features_of_set(name: str, opensmile: str) -> Features:
    """What the store and model files call the functionals of a set.

    Args:
        name: of the set, one of `SETS`.
        opensmile: the version that computes them.
    """
    config, (own_name, numbers) = FeatureConfig(), SETS[name]
    settings = {
        "set": own_name,
        "opensmile": opensmile,
        "sample_rate": config.sample_rate,
        "min_samples": MIN_SAMPLES,
    }
    return Features.of_clips(KIND, "float32", (1, numbers), settings)


def set_of(features: Features) -> str:
    """The set that features are of, one of `SETS`.

    Raises:
        InputError: the installed openSMILE computes others, or none at all.
    """
    present = installed()
    for name, (own_name, _) in SETS.items():
        if own_name == features.settings.get("set"):
            if features_of_set(name, present) == features:
                return name
            raise InputError(
                f"The model takes {own_name} of openSMILE {features.settings.get('opensmile')} as its version of exvo "
                f"computed it, and {present} is installed: pip install opensmile=={features.settings.get('opensmile')}."
            )
    raise InputError(f"The model takes functionals that this version of exvo does not know, {features.text}.")


class Functionals:
    """The functionals of one clip after the other: in the main thread of a process there, else in one of its own."""

    def __init__(self, name: str) -> None:
        """Takes a set, one of `SETS`.

        Raises:
            InputError: openSMILE is not installed.
        """
        self.name, self.config = name, FeatureConfig()
        self.features = features_of_set(name, installed())
        self.most = SETS[name][1]
        self._smile: Any = None  # made in the process that uses it
        self._process: FunctionalsProcess | None = None

    def __reduce__(self) -> tuple[type[Functionals], tuple[str]]:
        """How they are pickled: as the name of the set."""
        return Functionals, (self.name,)

    def shape(self, samples: int) -> tuple[int, int]:
        """(1, numbers), however many samples a clip has."""
        return 1, self.most

    def __call__(self, waveform: np.ndarray, values: np.ndarray) -> None:
        """Computes the functionals of a clip into an array.

        A clip of less than 60 ms is repeated up to that, as short clips are in training. openSMILE works on 16 bits:
        samples beyond full scale, which MP3 has, are cut off there.

        Args:
            waveform: float32 (samples,) at 16 kHz, as `read_audio` gives it.
            values: float32 (1, numbers), which is overwritten.

        Raises:
            AudioError: openSMILE gives numbers that are not finite.
        """
        if threading.current_thread() is not threading.main_thread():
            self._process = self._process or FunctionalsProcess(self.name)
            values[:] = self._process(waveform)
            return
        if self._smile is None:
            opensmile = require("opensmile", "opensmile", f"features={self.name}")
            own_name = getattr(opensmile.FeatureSet, SETS[self.name][0])
            self._smile = opensmile.Smile(own_name, opensmile.FeatureLevel.Functionals)
        clip = waveform if len(waveform) >= MIN_SAMPLES else np.resize(waveform, MIN_SAMPLES)
        values[:] = self._smile(np.clip(clip, -1, LOUDEST), self.config.sample_rate).reshape(1, -1)
        if not np.isfinite(values).all():
            raise AudioError("openSMILE gives numbers for it that are not finite")


class FunctionalsProcess:
    """The functionals of one clip at a time, in a process of its own, which lives as long as this object or process.

    It may be called from several threads, which wait for each other.
    """

    def __init__(self, name: str) -> None:
        """Takes a set, one of `SETS`.

        Raises:
            InputError: openSMILE is not installed.
        """
        self.name, self.numbers = name, SETS[name][1]
        installed()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self, waveform: np.ndarray) -> np.ndarray:
        """The functionals of a clip, float32 (1, numbers).

        Args:
            waveform: float32 (samples,) at 16 kHz, as `read_audio` gives it.

        Raises:
            AudioError: openSMILE gives numbers that are not finite.
            InputError: the process has died twice.
        """
        with self._lock:
            for _ in range(2):
                try:
                    return self._ask(waveform)
                except (BrokenPipeError, EOFError):  # killed: by whoever is short of memory
                    self.close()
        raise InputError("The process that computes openSMILE's functionals has died twice: is memory short?")

    def _ask(self, waveform: np.ndarray) -> np.ndarray:
        if self._process is None:
            self._process = self._start()
        to, back = self._process.stdin, self._process.stdout
        assert to is not None
        assert back is not None
        to.write(SIZE.pack(len(waveform)) + waveform.astype("<f4").tobytes())
        to.flush()
        count = SIZE.unpack(read(back, SIZE.size))[0]
        if count < 0:
            problem = read(back, -count).decode()
            raise AudioError(problem)
        return np.frombuffer(read(back, 4 * count), "<f4").astype(np.float32).reshape(1, -1)

    def _start(self) -> subprocess.Popen[bytes]:
        package = str(Path(__file__).resolve().parent.parent.parent)  # a logged model brings its own exvo
        paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
        return subprocess.Popen(
            [sys.executable, "-m", __name__, self.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,  # Ctrl-C is this process' to answer; the other ends with its pipe
        )

    def close(self) -> None:
        """Ends the process; the next call starts another one."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    pipe and pipe.close()

    def __del__(self) -> None:
        if getattr(self, "_process", None) is not None:
            self.close()


def read(pipe: IO[bytes], count: int) -> bytes:
    """So many bytes of a pipe.

    Raises:
        EOFError: it ends before.
    """
    content = pipe.read(count)
    if len(content) < count:
        raise EOFError
    return content


def serve(name: str) -> None:
    """Answers waveforms from standard input with functionals to standard output, until the input ends."""
    source, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints
    functionals = Functionals(name)
    values = np.empty((1, functionals.most), np.float32)
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            count = SIZE.unpack(read(source, SIZE.size))[0]
            waveform = np.frombuffer(read(source, 4 * count), "<f4").astype(np.float32)
            try:
                functionals(waveform, values)
                answer = SIZE.pack(values.size) + values.astype("<f4").tobytes()
            except AudioError as error:
                text = error.problem.encode()
                answer = SIZE.pack(-len(text)) + text
            answers.write(answer)
            answers.flush()


if __name__ == "__main__":
    serve(sys.argv[1])
