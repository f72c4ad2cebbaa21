"""Features, against a log-mel computed apart in float64 with NumPy, and bad audio of every kind."""

from __future__ import annotations

import dataclasses
import io
import math
import os
import pickle
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from scipy.signal import resample_poly

from exvo.config import FeatureConfig
from exvo.errors import InputError
from exvo.features.audio import prepare, read_audio
from exvo.features.containers import AudioError, read_plain
from exvo.features.log_mel import log_mel, mel_filterbank

CONFIG = FeatureConfig()
FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}


def burst(samples: int, rate: int = 16_000, seed: int = 0) -> np.ndarray:
    """A decaying glide with harmonics over faint noise: float32 (samples,)."""
    time = np.arange(samples) / rate
    voice = sum(np.sin(2 * np.pi * harmonic * (220 * time + 60 * time**2)) / harmonic for harmonic in range(1, 8))
    noise = np.random.default_rng(seed).normal(0, 1e-4, samples)
    return (0.2 * np.exp(-2 * time) * voice + noise).astype(np.float32)


def encode(samples: np.ndarray, rate: int, kind: str = "wav", subtype: str | None = None, **settings: object) -> bytes:
    file = io.BytesIO()
    container, codec = FORMATS[kind]
    soundfile.write(file, samples, rate, subtype or codec, format=container, **settings)
    return file.getvalue()


def slaney_mel(hertz: float) -> float:
    return 3 * hertz / 200 if hertz < 1000 else 15 + 27 * math.log(hertz / 1000) / math.log(6.4)


def slaney_hertz(mel: float) -> float:
    return mel * 200 / 3 if mel < 15 else 1000 * math.exp(math.log(6.4) * (mel - 15) / 27)


def reference_filterbank() -> np.ndarray:
    """The Slaney filterbank, one weight at a time: (257 bins, 64 bands)."""
    low, high = slaney_mel(50), slaney_mel(8000)
    edges = [slaney_hertz(low + (high - low) * i / 65) for i in range(66)]
    weights = np.zeros((257, 64))
    for band, (left, centre, right) in enumerate(zip(edges, edges[1:], edges[2:], strict=False)):
        for index in range(257):
            hertz = index * 16_000 / 512
            if left < hertz < right:
                slope = (hertz - left) / (centre - left) if hertz <= centre else (right - hertz) / (right - centre)
                weights[index, band] = slope * 2 / (right - left)
    return weights


def reference_log_mel(waveform: np.ndarray) -> np.ndarray:
    """Frame by frame, in float64: (frames, 64) in dB."""
    samples = waveform.astype(np.float64)
    samples = np.concatenate([samples[256:0:-1], samples, samples[-2:-258:-1]])
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)
    frames = [samples[start : start + 512] * hann for start in range(0, len(samples) - 511, 160)]
    power = np.abs(np.fft.rfft(frames)) ** 2
    return 10 * np.log10(np.maximum(power @ reference_filterbank(), 1e-10))


def tensor_log_mel(waveform: np.ndarray) -> np.ndarray:
    return log_mel(torch.from_numpy(waveform), CONFIG).numpy()


def problem(source: str | Path | bytes) -> str:
    with pytest.raises(AudioError) as caught:
        read_audio(source, CONFIG)
    assert caught.value.problem in str(caught.value)
    return caught.value.problem


@pytest.mark.parametrize("samples", [257, 258, 319, 320, 511, 512, 513, 1601, 15_999, 16_000, 31_337])
def test_log_mel_of_odd_lengths(samples: int) -> None:
    waveform = burst(samples)
    decibels = tensor_log_mel(waveform)
    assert decibels.shape == (1 + samples // 160, 64)
    assert decibels.dtype == np.float32
    np.testing.assert_allclose(decibels, reference_log_mel(waveform), rtol=0, atol=1e-3)


def test_log_mel_far_below_the_loudest_band() -> None:
    """A full-scale tone over noise at -130 dB: float32 would be off by decibels here."""
    time = np.arange(16_000) / 16_000
    faint = np.random.default_rng(1).normal(0, 3e-7, 16_000)
    waveform = (np.sin(2 * np.pi * 3000 * time) * np.hanning(16_000) + faint).astype(np.float32)
    decibels = tensor_log_mel(waveform)
    assert np.ptp(decibels[50]) > 100
    np.testing.assert_allclose(decibels, reference_log_mel(waveform), rtol=0, atol=1e-3)


def test_log_mel_of_digital_silence_is_the_floor() -> None:
    waveform = burst(16_000)
    waveform[4_000:12_000] = 0
    decibels = tensor_log_mel(waveform)
    np.testing.assert_allclose(decibels, reference_log_mel(waveform), rtol=0, atol=1e-3)
    assert (decibels[30:70] == CONFIG.floor_db).all()
    assert decibels.min() == CONFIG.floor_db == -100.0


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_log_mel_after_mixing_and_resampling(rate: int, channels: int) -> None:
    samples = np.stack([burst(rate // 2, rate, seed) * (1 + seed) / channels for seed in range(channels)], axis=1)
    waveform = prepare(samples, rate, CONFIG)
    assert waveform.dtype == np.float32
    assert len(waveform) == pytest.approx(8_000, abs=1)
    np.testing.assert_allclose(tensor_log_mel(waveform), reference_log_mel(waveform), rtol=0, atol=1e-3)


def test_resampling_agrees_with_scipy() -> None:
    samples = burst(24_000, 48_000).astype(np.float64)
    expected = resample_poly(samples, 1, 3, window=("kaiser", 12.0))
    inner = slice(200, -200)
    np.testing.assert_allclose(prepare(samples, 48_000, CONFIG)[inner], expected[inner], rtol=0, atol=1e-3)


def test_log_mel_of_real_clips(emogator_mini: Path) -> None:
    for path in sorted((emogator_mini / "data" / "mp3").iterdir())[::120]:
        waveform = read_audio(path, CONFIG).waveform
        np.testing.assert_allclose(tensor_log_mel(waveform), reference_log_mel(waveform), rtol=0, atol=1e-3)


def test_log_mel_of_a_batch_is_that_of_its_clips() -> None:
    batch = torch.from_numpy(np.stack([burst(5_000, seed=seed) for seed in range(3)]))
    decibels = log_mel(batch, CONFIG)
    assert decibels.shape == (3, 32, 64)
    for clip, alone in zip(decibels, batch, strict=True):
        torch.testing.assert_close(clip, log_mel(alone, CONFIG), rtol=0, atol=1e-4)


def test_log_mel_keeps_its_precision_under_autocast() -> None:
    waveform = torch.from_numpy(burst(8_000))
    expected = log_mel(waveform, CONFIG)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(log_mel(waveform, CONFIG), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_log_mel_on_a_gpu() -> None:
    waveform = burst(31_337)
    decibels = log_mel(torch.from_numpy(waveform).cuda(), CONFIG)
    assert decibels.device.type == "cuda"
    np.testing.assert_allclose(decibels.cpu(), reference_log_mel(waveform), rtol=0, atol=1e-3)


def test_log_mel_refuses_what_reflect_padding_cannot_fill() -> None:
    with pytest.raises(AudioError, match=r"shorter than 0\.016 s"):
        log_mel(torch.zeros(256), CONFIG)


def test_filterbank() -> None:
    np.testing.assert_allclose(mel_filterbank(CONFIG), reference_filterbank(), rtol=1e-9, atol=1e-15)


def test_other_settings_change_the_log_mel() -> None:
    waveform = torch.from_numpy(burst(16_000))
    other = dataclasses.replace(CONFIG, window=400, hop=100, bands=40, fmin=0.0, fmax=4_000.0, floor=1e-3)
    decibels = log_mel(waveform, other)
    assert decibels.shape == (161, 40)
    assert decibels.min() == pytest.approx(-30.0)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (48_000, 2)])
def test_formats(tmp_path: Path, kind: str, rate: int, channels: int) -> None:
    samples = burst(rate * 3 // 2, rate)
    encoded = encode(np.stack([samples] * channels, axis=1), rate, kind)
    path = tmp_path / f"clip.{kind}"
    path.write_bytes(encoded)
    audio = read_audio(path, CONFIG)
    assert (audio.rate, audio.channels) == (rate, channels)
    assert audio.seconds == pytest.approx(1.5, abs=1e-9)
    assert audio.waveform.shape == (24_000,)
    original = prepare(samples, rate, CONFIG)
    assert np.corrcoef(audio.waveform, original)[0, 1] > 0.98
    np.testing.assert_array_equal(read_audio(encoded, CONFIG).waveform, audio.waveform)


def test_wav_at_16_khz_is_read_to_the_bit(tmp_path: Path) -> None:
    samples = burst(4_000)
    path = tmp_path / "cl\N{LATIN SMALL LETTER I WITH DIAERESIS}p.raw"  # the name doesn't matter
    path.write_bytes(encode(samples, 16_000, subtype="FLOAT"))
    np.testing.assert_array_equal(read_audio(path, CONFIG).waveform, samples)


def with_chunk(wav: bytes, chunk: bytes, place: int = 36) -> bytes:
    """A WAV with another chunk at that byte: 36 is before the data."""
    return wav[:place] + chunk + wav[place:]


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_plain_wav_is_read_as_libsndfile_reads_it(channels: int, rate: int) -> None:
    full = np.random.default_rng(0).integers(-32_768, 32_768, (5_000, channels), np.int16)
    wav = encode(full, rate)
    tagged = with_chunk(wav, b"LIST" + struct.pack("<I", 5) + b"INFOx\0")
    for content in (wav, tagged):
        samples, found = read_plain(content) or pytest.fail("not plain")
        assert found == rate
        np.testing.assert_array_equal(samples, full)
        expected = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)[0]
        np.testing.assert_array_equal(read_audio(content, CONFIG).waveform, prepare(expected, rate, CONFIG))


def test_other_wavs_are_left_to_libsndfile() -> None:
    wav = encode(burst(4_000), 16_000)
    others = [
        *(encode(burst(4_000), 16_000, subtype=subtype) for subtype in ("PCM_24", "FLOAT", "ULAW")),
        encode(np.stack([burst(4_000)] * 3, axis=1), 16_000),
        *(encode(burst(4_000), 16_000, kind) for kind in ("flac", "mp3")),
        wav[:-2],
        wav + b"LIST\0\0\0\0",
        with_chunk(wav, b"junk\4\0\0\0\0\0\0\0"),
        *(wav[:cut] for cut in (0, 8, 12, 20, 30, 40, 44)),
        wav[:20] + b"\3\0" + wav[22:],  # floats, it says
        wav[:32] + b"\4\0" + wav[34:],  # four bytes a frame
    ]
    assert all(read_plain(content) is None for content in others)


def test_stereo_is_the_mean_of_its_channels() -> None:
    left, right = burst(4_000, seed=1), burst(4_000, seed=2)[::-1]
    audio = read_audio(encode(np.stack([left, right], axis=1), 16_000, subtype="FLOAT"), CONFIG)
    np.testing.assert_allclose(audio.waveform, (left + right) / 2, rtol=0, atol=1e-7)


def test_long_audio_is_decoded_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = burst(20_000)
    encoded = encode(samples, 16_000, subtype="FLOAT")
    monkeypatch.setattr("exvo.features.audio.BLOCK", 999)
    np.testing.assert_array_equal(read_audio(encoded, CONFIG).waveform, samples)


def test_sixty_seconds_are_not_too_long() -> None:
    silence_and_click = np.zeros(60 * 8_000, np.float32)
    silence_and_click[9] = 0.5
    assert read_audio(encode(silence_and_click, 8_000), CONFIG).seconds == 60.0
    assert problem(encode(np.append(silence_and_click, [0.0]), 8_000)) == "longer than 60 s"


def test_streamed_wav_without_a_length() -> None:
    samples = burst(4_000)
    encoded = encode(samples, 16_000)
    assert len(read_audio(encoded[:40] + b"\xff" * 4 + encoded[44:], CONFIG).waveform) == 4_000


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    assert problem(tmp_path / "nothing.wav") == "missing"
    assert problem(tmp_path) == "a folder"
    (tmp_path / "empty.wav").touch()
    assert problem(tmp_path / "empty.wav") == "empty file"
    assert problem(tmp_path / "empty.wav" / "below.wav") == "missing"
    (tmp_path / "dangling.wav").symlink_to("nothing.wav")
    assert problem(tmp_path / "dangling.wav") == "missing"
    os.mkfifo(tmp_path / "pipe.wav")
    assert problem(tmp_path / "pipe.wav") == "not readable (not a regular file)"


def test_the_message_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"laugh\.wav can't be used: missing\. Repair or replace it"):
        read_audio(tmp_path / "laugh.wav", CONFIG)
    error = pickle.loads(pickle.dumps(AudioError("truncated", "laugh.wav")))
    assert (error.problem, str(error)) == ("truncated", str(AudioError("truncated", "laugh.wav")))


@pytest.mark.parametrize(
    "content",
    [b"", b"\0", b"hello world " * 100, b"<html></html>", bytes(5_000), b"ID3" + bytes(3_000), b"RIFF", b"fLaC"],
)
def test_not_audio(content: bytes) -> None:
    assert problem(content).startswith("not audio (" if content else "empty file")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("kept", [0.3, 0.5, 0.97])
def test_truncated(kind: str, kept: float) -> None:
    encoded = encode(burst(96_000, 48_000), 48_000, kind)
    found = problem(encoded[: int(len(encoded) * kept)])
    assert found == ("truncated or damaged (flac decoder lost sync)" if kind == "flac" else "truncated")


def test_headers_that_promise_gigabytes_allocate_nothing() -> None:
    wav = bytearray(encode(burst(4_000), 16_000))
    wav[40:44] = struct.pack("<I", 4_000_000_000)
    rf64 = bytearray(100)
    rf64[:80] = struct.pack("<4sI4s4sIQQQI", b"RF64", 2**32 - 1, b"WAVE", b"ds64", 28, 10**10, 10**10, 5 * 10**9, 0) + (
        struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 16_000, 32_000, 2, 16) + struct.pack("<4sI", b"data", 2**32 - 1)
    )
    flac = bytearray(encode(burst(4_000), 16_000, "flac"))
    flac[18:26] = struct.pack(">Q", struct.unpack(">Q", flac[18:26])[0] | 2**36 - 1)
    tracemalloc.start()
    try:
        assert problem(bytes(wav)) == "truncated"
        assert problem(bytes(rf64)) == "truncated"
        assert problem(bytes(flac)) == "longer than 60 s"
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()


def test_mp3_of_varying_bitrate_without_a_length() -> None:
    """libsndfile would stop after the share of it that the first frame's bitrate suggests."""
    loud_then_silent = np.concatenate([burst(48_000, 48_000), np.zeros(96_000, np.float32)])
    encoded = encode(loud_then_silent, 48_000, "mp3", bitrate_mode="VARIABLE", compression_level=0.3)
    assert read_audio(encoded, CONFIG).seconds == 3.0
    headless = encoded[encoded.index(b"\xff\xfb", 4) :]
    assert problem(headless) == "of unknown length (its header holds none): convert it to WAV"


def test_mp3_of_constant_bitrate_without_a_length() -> None:
    encoded = encode(burst(48_000, 48_000), 48_000, "mp3", bitrate_mode="CONSTANT", compression_level=0.3)
    headless = encoded[encoded.index(b"\xff\xfb", 4) :]
    assert read_audio(headless, CONFIG).seconds == pytest.approx(1.0, abs=0.05)  # the decoder keeps its padding
    assert read_audio(b"ID3\x04\0\0\0\0\x01\x00" + bytes(128) + encoded, CONFIG).seconds == 1.0


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (np.zeros(4_000), "silent: all samples are zero"),
        (np.zeros((4_000, 2)), "silent: all samples are zero"),
        (np.where(np.arange(4_000) == 99, np.nan, 0.1), "holds NaN or infinity"),
        (np.where(np.arange(4_000) == 3_999, -np.inf, 0.1), "holds NaN or infinity"),
        (np.zeros(0), "no samples"),
        (burst(256), "shorter than 0.016 s"),
        (burst(16_000) * 32_767, "samples up to "),
    ],
)
def test_bad_samples(samples: np.ndarray, expected: str) -> None:
    assert problem(encode(samples, 16_000, subtype="DOUBLE")).startswith(expected)
    with pytest.raises(AudioError, match=expected):
        prepare(samples, 16_000, CONFIG)


@pytest.mark.parametrize("rate", [8_000, 16_000, 48_000])
def test_shortest_clip_after_resampling(rate: int) -> None:
    enough = math.ceil(257 * rate / 16_000)
    assert len(prepare(burst(enough), rate, CONFIG)) == 257 or rate == 8_000
    with pytest.raises(AudioError, match=r"shorter than 0\.016 s"):
        prepare(burst(enough - max(1, rate // 16_000)), rate, CONFIG)


def test_absurd_rates() -> None:
    wav = bytearray(encode(burst(16_000), 16_000))
    fast = "its sampling rate is 2,147,483,647 Hz, more than 1,000,000"
    for rate, expected in [(1, "longer than 60 s"), (2**31 - 1, fast), (0, "not audio (")]:
        wav[24:28] = struct.pack("<I", rate)
        assert problem(bytes(wav)).startswith(expected)
    for rate in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="must be a positive number of Hz"):
            prepare(burst(16_000), rate, CONFIG)


@pytest.mark.parametrize(
    ("waveform", "expected"),
    [
        (np.ones(16_000, np.int16), "holds int16 numbers: give floats from -1 to 1"),
        (burst(16_000)[None], r"its shape is \(1, 16000\)"),
        (burst(16_000)[None, None], r"its shape is \(1, 1, 16000\)"),
        (np.float32(0.5), r"its shape is \(\)"),
        (burst(61 * 16_000), "longer than 60 s"),
    ],
)
def test_bad_waveforms_in_memory(waveform: np.ndarray, expected: str) -> None:
    with pytest.raises(AudioError, match=expected):
        prepare(waveform, 16_000, CONFIG)
