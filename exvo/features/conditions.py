"""What of a recording a model is not used to: narrow bandwidth, clipping, an unusual level or length.

The thresholds were chosen on the 2,160 clips of 24 people of EmoGator and on worse versions of them (`signals`). Of the
clips as they are 0.5% are called narrowband and none clipped; with the ranges of 14 of the people, of the clips of the
others 0.4% quiet, 1.0% short, and next to none loud or long; 1.9% have a warning. Of clips that are resampled to 8 kHz
and back all are found, also after MP3 and G.711, of those filtered to a telephone's band by 24 dB an octave 81%. Of WAV
files that are clipped 12, 6 and 3 dB below their peak 99.7%, 98% and 79% are found, but after a lossy codec or another
sampling rate, which smooth what was cut off, hardly any.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

FAINT = 1e-6
"""Peak below which samples are scaled up before they are squared: the squares would be 0 in float32."""

MIDDLE = (0.005, 0.995)
"""Between which quantiles of the training clips a recording is usual. A single odd clip among many does not stretch the
range, as it would from the lowest to the highest."""

LEVEL_MARGIN = 3.0
"""dB beyond the range that are still usual."""

LENGTH_MARGIN = 1.1
"""How many times the longest, and so for the shortest, that is still usual."""

TELEPHONE_RATE = 8_000
"""Hz: what is sampled so has nothing above 4 kHz."""

VOICED, ABOVE = (2_000.0, 3_500.0), (4_500.0, 7_500.0)
"""Hz: bands whose power is compared, the first within what a telephone transmits, the second beyond it."""

STEP = 22.0
"""dB by which the band above must lie below the other, per Hz, in almost all frames."""

ALMOST_ALL = 0.9
"""The share of the frames. A whisper or a hum is dark too, but breath and the room's noise reach higher in some."""

AUDIBLE = 1e-10
"""Power of a bin (31 Hz wide, full scale is 1) from which on a frame counts: -100 dB, over the rounding to 16 bits."""

FEWEST_FRAMES = 4

WINDOW, HOP = 512, 256
"""Samples of a frame and from one to the next."""

EDGE = 0.01
"""Samples within this share of the highest are at it, those within four times as much shortly below. A smooth peak has
about as many of both, what is cut off has many more of the former."""

SPIKE = 2.0
"""How many times as many."""

CLIPPED_SHARE = 0.001
"""Of all samples at least."""

CLIPPED_SAMPLES = 16
"""At least."""


@dataclass(frozen=True)
class Ranges:
    """Within which 99% of the training clips lie, each from the lower to the upper end.

    Attributes:
        seconds: lengths.
        rms_db: levels, dB to full scale.
        rate: sampling rates of the files, Hz.
    """

    seconds: tuple[float, float]
    rms_db: tuple[float, float]
    rate: tuple[float, float]


def ranges_of(clips: pd.DataFrame) -> Ranges | None:
    """The ranges of the training clips; of fewer than 200 from the lowest to the highest. None without clips.

    Args:
        clips: a row each, with `seconds`, `rms_db` and `rate`, as `extraction.extract` gives them.
    """
    if clips.empty:
        return None
    low, high = MIDDLE
    return Ranges(
        **{
            name: (
                float(np.quantile(clips[name].to_numpy(np.float64), low, method="lower")),
                float(np.quantile(clips[name].to_numpy(np.float64), high, method="higher")),
            )
            for name in ("seconds", "rms_db", "rate")
        }
    )


def level_db(waveform: npt.NDArray[np.float32], peak: float) -> float:
    """The root mean square of samples that are not all zero, dB to full scale.

    Args:
        waveform: (samples,), float32.
        peak: its largest magnitude.
    """
    scale = peak if peak < FAINT else 1.0
    scaled = waveform if scale == 1.0 else waveform / scale
    return 20.0 * math.log10(scale) + 10.0 * math.log10(float(np.dot(scaled, scaled)) / len(scaled))


def is_narrowband(waveform: npt.NDArray[np.floating], rate: float) -> bool:
    """Whether a recording holds nothing above about 4 kHz, though its sampling rate would allow it.

    It does if in almost all frames the power per Hz falls steeply from `VOICED` to `ABOVE`. Frames in which the former
    is next to silent say nothing, and where fewer than `FEWEST_FRAMES` are left the answer is no.

    Args:
        waveform: (samples,), full scale is 1.
        rate: of these samples, Hz; under 15 kHz the answer is no.
    """
    if rate < 2 * ABOVE[1] or len(waveform) < WINDOW:
        return False
    window = np.hanning(WINDOW)
    frames = np.lib.stride_tricks.sliding_window_view(waveform, WINDOW)[::HOP] * window
    power = np.abs(np.fft.rfft(frames)) ** 2 * (2 / (WINDOW * np.square(window).sum()))  # (frames, bins)
    frequencies = np.fft.rfftfreq(WINDOW, 1 / rate)
    below, above = (power[:, (frequencies >= low) & (frequencies < high)].mean(axis=1) for low, high in (VOICED, ABOVE))
    audible = below > AUDIBLE
    if np.count_nonzero(audible) < FEWEST_FRAMES:
        return False
    return bool(np.quantile(above[audible] / below[audible], ALMOST_ALL) < 10 ** (-STEP / 10))


def is_clipped(samples: npt.NDArray[np.floating]) -> bool:
    """Whether many samples lie at the highest or at the lowest value, where a recorder has cut off what exceeds it.

    Args:
        samples: (samples,), at the sampling rate of the file: resampling smooths what was cut off.
    """
    return _cut_off(samples, float(samples.max())) or _cut_off(-samples, -float(samples.min()))


def _cut_off(samples: npt.NDArray[np.floating], highest: float) -> bool:
    edge = highest * (1 - EDGE)
    at = np.count_nonzero(samples >= edge)
    if highest <= 0 or at < max(CLIPPED_SAMPLES, CLIPPED_SHARE * len(samples)):
        return False
    lower = samples[samples < edge]
    if not len(lower):
        return False
    shortly_below = min(highest * (1 - 4 * EDGE), float(lower.max()))  # at least the next value of coarse samples
    return bool(at > SPIKE * np.count_nonzero(lower >= shortly_below))


def find_warnings(
    waveform: npt.NDArray[np.float32],
    rate: float,
    source_rate: float,
    seconds: float,
    clipped: bool,
    ranges: Ranges | None,
) -> dict[str, str]:
    """What of a recording a model may not have heard in training.

    Args:
        waveform: (samples,), float32, not silent.
        rate: of these samples, Hz.
        source_rate: of the file, Hz.
        seconds: length.
        clipped: whether the file's samples are, see `is_clipped`.
        ranges: of the model's training clips; None: not known, so nothing is said of level and length.

    Returns:
        A clause for each word that applies: narrowband (unless training had files of `TELEPHONE_RATE`), clipped, quiet
        or loud, short or long.
    """
    found = {}
    heard_narrowband = ranges is not None and ranges.rate[0] <= TELEPHONE_RATE
    if not heard_narrowband and (source_rate <= TELEPHONE_RATE or is_narrowband(waveform, rate)):
        found["narrowband"] = "it holds no sound above 4 kHz, as over a telephone"
    if clipped:
        found["clipped"] = "its loudest parts are cut off, as by too much gain"
    if ranges is not None:
        level = level_db(waveform, float(np.abs(waveform).max()))
        low, high = ranges.rms_db
        if not low - LEVEL_MARGIN <= level <= high + LEVEL_MARGIN:
            word = "quiet" if level < low else "loud"
            found[word] = f"its level is {level:.0f} dB, where the training clips have {low:.0f} to {high:.0f} dB"
        low, high = ranges.seconds
        if not low / LENGTH_MARGIN <= seconds <= high * LENGTH_MARGIN:
            word = "short" if seconds < low else "long"
            found[word] = f"it lasts {seconds:.2f} s, where the training clips last {low:.2f} to {high:.2f} s"
    return found
