"""Audio files that libsndfile would read in part: joined, cut short, followed by something; streams; what is lost.

Files are built here, by soundfile or byte by byte; what is expected of them follows from how they were made.
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import soundfile

from exvo.config import FeatureConfig
from exvo.features.audio import Audio, fingerprint, prepare, read_audio
from exvo.features.audio_tags import past_tags
from exvo.features.containers import AudioError
from exvo.features.extraction import extract
from exvo.features.streams import check_mp3_length, crc16_holds

CONFIG = FeatureConfig()
SECOND = np.sin(2 * np.pi * 300 * np.arange(16_000) / 16_000) * 0.3
NOISE = np.random.default_rng(0).normal(0, 0.1, 12_345)

FORMATS = [
    ("WAV", "PCM_16"),
    ("WAV", "PCM_24"),
    ("WAV", "FLOAT"),
    ("WAV", "IMA_ADPCM"),
    ("WAV", "ULAW"),
    ("WAVEX", "PCM_16"),
    ("RF64", "PCM_16"),
    ("W64", "PCM_16"),
    ("CAF", "PCM_16"),
    ("AIFF", "PCM_16"),
    ("AIFF", "FLOAT"),
    ("AU", "PCM_16"),
    ("FLAC", "PCM_16"),
    ("FLAC", "PCM_24"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("MP3", "MPEG_LAYER_III"),
]

ID3V1 = b"TAG" + b"a title".ljust(125, b"\0")
APE = b"APETAGEX" + struct.pack("<IIII8x", 2_000, 32 + 11, 1, 0xA0000000) + struct.pack("<II", 1, 0) + b"k\0v"
APE += b"APETAGEX" + struct.pack("<IIII8x", 2_000, 32 + 11, 1, 0x80000000)
LYRICS = b"LYRICSBEGIN" + b"IND0000211" + b"000021LYRICS200"
ID3V2 = b"ID3\x04\0\0\0\0\x01\x00" + bytes(128)

AFTER = [  # what may follow a recording
    b"\0",
    bytes(70_000),
    b"\r\n",
    ID3V1,
    APE + ID3V1,
    LYRICS + ID3V1,
    APE,
    ID3V2,
    bytes(9) + ID3V1,
    ID3V1 + bytes(9),
]


def encode(samples: np.ndarray, kind: str, subtype: str, rate: int = 16_000, **settings: object) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, subtype, format=kind, **settings)
    return file.getvalue()


def problem(content: bytes | Path) -> str:
    with pytest.raises(AudioError) as caught:
        read_audio(content, CONFIG)
    return caught.value.problem


def read(content: bytes) -> Audio:
    return read_audio(content, CONFIG)


WAV = encode(SECOND, "WAV", "PCM_16")
MP3 = encode(SECOND, "MP3", "MPEG_LAYER_III")
FLAC = encode(NOISE, "FLAC", "PCM_16")


@pytest.mark.parametrize(("kind", "subtype"), FORMATS)
def test_two_recordings_in_a_file_are_refused(kind: str, subtype: str, tmp_path: Path) -> None:
    first, second = encode(SECOND, kind, subtype), encode(NOISE, kind, subtype)
    assert read(first).seconds == pytest.approx(1.0, abs=0.02)
    expected = f"two recordings joined end to end (the second, {'WAV' if kind in ('RF64', 'WAVEX') else kind.title()}"
    path = tmp_path / "joined"
    for joined in (first + second, first * 2, first + bytes(1_000) + second):
        path.write_bytes(joined)
        for source in (joined, path):
            assert problem(source).lower().startswith(expected.lower())
    begins = len(first) + 1_000
    if kind != "MP3":  # the second begins with what only says how long it is
        assert f"begins at byte {begins:,})" in problem(first + bytes(1_000) + second)


@pytest.mark.parametrize(("kind", "subtype"), FORMATS)
def test_what_is_neither_tags_nor_padding_after_a_recording_is_refused(kind: str, subtype: str) -> None:
    whole = encode(SECOND, kind, subtype)
    for after in (b"hello world, " * 100, np.random.default_rng(1).bytes(20_000), b"\0" * 99 + b"words and words"):
        assert "neither tags nor padding" in problem(whole + after)
    other = encode(NOISE, "FLAC" if kind != "FLAC" else "WAV", "PCM_16")
    assert problem(whole + other).startswith("two recordings joined end to end (the second, ")


@pytest.mark.parametrize(("kind", "subtype"), FORMATS)
@pytest.mark.parametrize(
    "after",
    [b"\0", bytes(70_000), b"\r\n", ID3V1, APE + ID3V1, LYRICS + ID3V1, APE, ID3V2, bytes(9) + ID3V1],
)
def test_tags_and_padding_after_a_recording_change_nothing(kind: str, subtype: str, after: bytes) -> None:
    whole = encode(SECOND, kind, subtype)
    expected, audio = read(whole), read(whole + after)
    np.testing.assert_array_equal(audio.waveform, expected.waveform)
    assert (audio.seconds, audio.decoded, audio.note) == (expected.seconds, expected.decoded, "")


@pytest.mark.parametrize(("kind", "subtype"), [one for one in FORMATS if one[0] not in ("FLAC", "CAF")])
def test_a_file_that_is_cut_short_is_refused(kind: str, subtype: str) -> None:
    whole = encode(SECOND, kind, subtype)
    assert problem(whole[: len(whole) * 7 // 10]) == "truncated"


def chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def test_chunks_of_a_wav_after_its_samples_are_its_own() -> None:
    expected = read(WAV).waveform
    chunks = [
        chunk(b"LIST", b"INFOISFT\5\0\0\0Lavf\0\0"),
        chunk(b"id3 ", ID3V2),
        chunk(b"bext", bytes(603)),
        chunk(b"xyz1", b"12345"),
    ]
    for after in (*chunks, b"".join(chunks), chunks[0][:-7]):  # the last is cut short
        np.testing.assert_array_equal(read(WAV + after).waveform, expected)
    odd = encode(NOISE, "WAV", "PCM_U8")  # an odd number of bytes
    assert len(odd) % 2 == 0
    for samples in (odd, odd[:-1]):  # the byte that fills it up is sometimes left out
        np.testing.assert_array_equal(read(samples + chunks[0]).waveform, read(odd).waveform)
    assert problem(WAV + WAV[36:]) == "its samples are in several parts (the second at byte 32,044): convert it to WAV"


def test_a_header_that_says_too_little_is_refused() -> None:
    whole = encode(NOISE + 0.2, "WAV", "PCM_16")
    short = whole[:40] + struct.pack("<I", 16_000) + whole[44:]
    assert problem(short).startswith("after its samples, at byte 16,044, 8,690 bytes are neither tags nor padding")


@pytest.mark.parametrize(
    "length", [0, 0xFFFFFFFF, 0xFFFFFFDB, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0x7FFFFFFF - 44, 0x7FFFEFFC]
)
@pytest.mark.parametrize("riff", [0, 36, 0xFFFFFFFF, 0x7FFFF024, 0x7FFFFFFF])
def test_a_wav_that_was_written_into_a_pipe(length: int, riff: int, tmp_path: Path) -> None:
    samples = np.stack([NOISE, NOISE[::-1]], axis=1)
    for subtype, channels in (("PCM_16", 1), ("PCM_24", 2), ("FLOAT", 1)):
        whole = encode(samples[:, :channels], "WAV", subtype, 22_050)
        at = whole.index(b"data") + 4
        end = at + 4 + struct.unpack_from("<I", whole, at)[0]
        piped = whole[:4] + struct.pack("<I", riff) + whole[8:at] + struct.pack("<I", length) + whole[at + 4 : end]
        (tmp_path / "piped.wav").write_bytes(piped)
        for source in (piped, tmp_path / "piped.wav"):
            audio = read_audio(source, CONFIG)
            np.testing.assert_array_equal(audio.waveform, read(whole).waveform)
            assert audio.decoded == read(whole).decoded
        assert problem(piped + piped).startswith("two recordings joined end to end (the second, WAV, begins")
    empty = WAV[:40] + struct.pack("<I", length)
    assert problem(empty) == "no samples"


def headless(bitrate_mode: str, samples: np.ndarray, rate: int = 16_000) -> bytes:
    """MP3 frames without the one that says how many there are."""
    whole = encode(samples, "MP3", "MPEG_LAYER_III", rate, bitrate_mode=bitrate_mode, compression_level=0.3)
    return whole[whole.index(whole[:2], 4) :]


def piped(samples: bytes, layout: bytes = WAV[:40]) -> bytes:
    """A WAV of those bytes without a length."""
    return layout + b"\xff\xff\xff\xff" + samples


@pytest.mark.parametrize(
    ("kind", "second"),
    [
        ("FLAC", FLAC),
        ("Ogg", encode(NOISE, "OGG", "VORBIS")),
        ("Ogg", encode(NOISE, "OGG", "OPUS")),
        ("AIFF", encode(NOISE, "AIFF", "PCM_16")),
        ("W64", encode(NOISE, "W64", "PCM_16")),
        ("CAF", encode(NOISE, "CAF", "PCM_16")),
        ("AU", encode(NOISE, "AU", "PCM_16")),
        ("WAV", encode(NOISE, "RF64", "PCM_16")),
        ("MP3", MP3),
        ("MP3", ID3V2 + MP3),
        ("MP3", headless("CONSTANT", NOISE)),
        ("MP3", headless("VARIABLE", np.stack([NOISE] * 2, axis=1), 44_100)),
    ],
)
def test_a_piped_wav_with_another_recording_after_it_is_refused(kind: str, second: bytes) -> None:
    for samples in (WAV[44:], WAV[44:] + b"\0", b"\0\0"):
        for after in (b"", ID3V1):
            assert problem(piped(samples + second + after)) == (
                f"two recordings joined end to end (the second, {kind}, begins at byte {44 + len(samples):,}): "
                "split them"
            )


def test_tags_at_the_end_of_a_piped_wav_are_no_samples() -> None:
    expected = read(WAV)
    chunks = chunk(b"LIST", b"INFOISFT\5\0\0\0Lavf\0\0"), chunk(b"id3 ", ID3V2)
    dated = b"TAG" + b"a title".ljust(90, b"\0") + b"2024" + b" " * 28 + b"\0\7\xff"
    for after in (*chunks, b"".join(chunks), chunks[0][:-1] + b"\0", ID3V1, dated, chunks[0] + ID3V1, APE + ID3V1):
        audio = read(piped(WAV[44:] + after))
        np.testing.assert_array_equal(audio.waveform, expected.waveform)
        assert audio.decoded == expected.decoded
    aiff = encode(SECOND, "AIFF", "PCM_16")
    at = aiff.index(b"SSND") + 4
    after = b"ANNO" + struct.pack(">I", 6) + b"a note"
    streamed = aiff[:at] + b"\xff\xff\xff\xff" + aiff[at + 4 :] + after
    np.testing.assert_array_equal(read(streamed).waveform, expected.waveform)
    for no_tag in (chunks[0][:-2], b"TAG" + bytes(range(125)), chunks[0] + bytes(8)):  # they may be samples
        assert read(piped(WAV[44:] + no_tag)).seconds == (16_000 + len(no_tag) // 2) / 16_000


def test_noise_without_a_length_is_read_as_a_whole() -> None:
    random = np.random.default_rng(7)
    for _ in range(200):
        samples = random.bytes(2 * random.integers(2_000, 50_000))
        assert read(piped(samples)).seconds == len(samples) / 32_000
    sync = np.tile(np.frombuffer(b"\xff\xfb\x90\0\0\0", np.uint8), 20_000)  # what begins a frame, over and over
    assert read(piped(sync.tobytes())).seconds == len(sync) / 32_000
    period = b"\xff\xf3\x40\xc0\0\0" + bytes(range(138))  # MPEG 2, 16 kHz, 32 kbit/s: 144 bytes
    assert read(piped(period * 200)).seconds == 144 * 200 / 32_000


def test_other_streams_without_a_length() -> None:
    rf64 = encode(NOISE, "RF64", "PCM_16")
    assert rf64[12:16] == b"ds64"
    for length in (0, 2**64 - 1, 2**63 - 1):
        np.testing.assert_array_equal(
            read(rf64[:28] + struct.pack("<Q", length) + rf64[36:]).waveform, read(rf64).waveform
        )
    aiff = encode(NOISE, "AIFF", "PCM_16")
    at = aiff.index(b"SSND") + 4
    for length in (0x7F000008, 0xFFFFFFFF):
        piped = aiff[:at] + struct.pack(">I", length) + aiff[at + 4 :]
        np.testing.assert_array_equal(read(piped).waveform, read(aiff).waveform)
    empty = WAV[:40] + struct.pack("<I", 0) + chunk(b"LIST", b"INFOISFT\5\0\0\0Lavf\0\0")
    assert problem(empty) == "no samples"
    assert problem(WAV[:40] + struct.pack("<I", 0x7E000000) + WAV[44:]) == "truncated"  # no placeholder


def test_mp3_frames_that_no_header_counts_are_one_recording() -> None:
    one = headless("CONSTANT", SECOND)
    once = read(one).seconds
    for joined in (one + one, one + ID3V1 + one, one + ID3V1 + ID3V2 + one):
        assert read(joined).seconds == pytest.approx(2 * once, abs=0.1)
    assert "neither tags nor padding" in problem(one + b"hello world, " * 100 + one)


@pytest.mark.parametrize(
    ("rates", "channels"),
    [((48_000, 44_100), (1, 1)), ((44_100, 44_100), (1, 2)), ((44_100, 22_050), (2, 2)), ((16_000, 8_000), (1, 1))],
)
def test_mp3_whose_format_changes_is_two_recordings(
    rates: tuple[int, int], channels: tuple[int, int], tmp_path: Path
) -> None:
    parts = []
    for rate, count in zip(rates, channels, strict=True):
        tone = np.sin(2 * np.pi * 300 * np.arange(rate) / rate) * 0.3
        parts.append(headless("CONSTANT", np.stack([tone] * count, axis=1), rate))
    for first, second in (parts, parts[::-1]):
        for tags in (b"", ID3V1, ID3V1 + ID3V2):
            path = tmp_path / "joined.mp3"
            path.write_bytes(first + tags + second)
            place = len(first) + len(tags)
            for source in (path, path.read_bytes()):
                assert problem(source) == (
                    f"two recordings joined end to end (the second, MP3, begins at byte {place:,}): split them"
                )


def test_the_name_of_a_length_header_amid_a_frame_is_none() -> None:
    frames = headless("CONSTANT", SECOND)
    for place in (59, 61, 250):  # so that its flags are beyond what is looked at
        read(frames[:place] + b"Xing" + frames[place + 4 :])


def test_mp3_may_change_between_stereo_and_joint_stereo() -> None:
    frames = bytearray(headless("CONSTANT", np.random.default_rng(2).normal(0, 0.1, (48_000, 2)), 48_000))
    size = frames.index(frames[:3], 3)
    assert {mode >> 6 for mode in frames[3::size]} == {1}  # joint stereo
    for place in range(3, len(frames) // 2, 2 * size):
        frames[place] &= 0x3F  # stereo
    assert read(bytes(frames)).seconds == pytest.approx(1.0, abs=0.1)


def test_mp3_frames_that_are_not_decoded_are_missed(tmp_path: Path) -> None:
    frames = headless("CONSTANT", np.tile(SECOND, 2))
    assert read(frames[:-50]).seconds == pytest.approx(2.0, abs=0.15)  # the last frame is cut short
    (tmp_path / "clip.mp3").write_bytes(frames)
    decoded = soundfile.info(tmp_path / "clip.mp3").frames
    with (tmp_path / "clip.mp3").open("rb", buffering=0) as file:
        file.seek(0, io.SEEK_END)
        check_mp3_length(file, decoded, decoded - 1_000, 1_600)
        with pytest.raises(AudioError, match="of unknown length"):
            check_mp3_length(file, decoded, decoded - 1_600, 1_600)


def test_mp3_with_tags_before_it() -> None:
    np.testing.assert_array_equal(read(ID3V2 + MP3).waveform, read(MP3).waveform)
    assert problem(ID3V2 + MP3 + ID3V1 + ID3V2 + MP3).startswith("two recordings joined end to end (the second, MP3")
    np.testing.assert_array_equal(read(ID3V2 + FLAC).waveform, read(FLAC).waveform)
    assert "neither tags" in problem(ID3V2 + FLAC + b"hello world, " * 100)


def mp3_in_wav(frames: bytes, rate: int) -> bytes:
    layout = struct.pack("<HHIIHHHHIHHH", 0x55, 1, rate, 8_000, 1, 0, 12, 1, 2, 576, 1, 1393)
    chunks = chunk(b"fmt ", layout) + chunk(b"fact", struct.pack("<I", rate)) + chunk(b"data", frames)
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def test_mp3_in_a_wav() -> None:
    rate, seconds = 48_000, 2
    tone = 0.3 * np.sin(2 * np.pi * 300 * np.arange(seconds * rate) / rate)
    frames = headless("CONSTANT", tone, rate)
    wav = mp3_in_wav(frames, rate)
    sound = soundfile.SoundFile(io.BytesIO(wav))
    missing = (sound.frames - len(sound.read())) / rate
    assert 0 < missing < 0.1  # libsndfile's guess by the bitrate is too long
    audio = read(wav)
    assert audio.seconds == pytest.approx(seconds, abs=0.1)
    assert audio.note == f"its last {missing:.3f} s could not be decoded"
    whole = mp3_in_wav(encode(tone, "MP3", "MPEG_LAYER_III", rate), rate)
    assert (read(whole).seconds, read(whole).note) == (seconds, "")
    loud_then_silent = np.concatenate([NOISE, NOISE, np.zeros(4 * rate)])
    assert problem(mp3_in_wav(headless("VARIABLE", loud_then_silent, rate), rate)).startswith("of unknown length")
    silent_then_loud = np.concatenate([np.zeros(2 * rate), *[NOISE] * 8])
    assert problem(mp3_in_wav(headless("VARIABLE", silent_then_loud, rate), rate)) == "truncated"
    both = encode(tone, "MP3", "MPEG_LAYER_III", rate) * 2
    assert problem(mp3_in_wav(both, rate)).startswith("two recordings joined end to end")


def crc16(content: bytes) -> int:
    """FLAC's, bit by bit."""
    code = 0
    for byte in content:
        code ^= byte << 8
        for _ in range(8):
            code = (code << 1 ^ 0x8005 if code & 0x8000 else code << 1) & 0xFFFF
    return code


def test_crc_16_of_flac() -> None:
    random = np.random.default_rng(3)
    for length in (0, 1, 2, 3, 15, 16, 200, 1_001):
        content = random.bytes(length)
        whole = content + crc16(content).to_bytes(2, "big")
        assert crc16_holds(whole)
        assert crc16_holds(whole + bytes(50))
        for _ in range(20):
            damaged = bytearray(whole)
            damaged[random.integers(len(damaged))] ^= int(random.integers(1, 256))
            assert not crc16_holds(bytes(damaged))


def test_tags_are_measured() -> None:
    assert past_tags(b"") == (0, 0)
    assert past_tags(b"words") == (0, 5)
    assert past_tags(bytes(10) + b"words" + APE + ID3V1) == (10, 15)
    assert past_tags(ID3V2 + b"words" + LYRICS) == (len(ID3V2), len(ID3V2) + 5)
    for broken in (
        b"APETAGEX" + b"\xff" * 24,
        b"LYRICS200",
        b"000099LYRICS200",
        b"LYRICSEND",
        b"TAG",
        b"ID3" + b"\xff" * 7,
    ):
        first, end = past_tags(broken)
        assert 0 <= first <= end <= len(broken)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT", "ULAW", "IMA_ADPCM"])
@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (44_100, 2)])
def test_aiff(subtype: str, rate: int, channels: int, tmp_path: Path) -> None:
    if (subtype, channels) == ("IMA_ADPCM", 2):
        pytest.skip("libsndfile writes none")
    samples = np.stack([NOISE, NOISE[::-1]][:channels], axis=1)
    aiff = encode(samples, "AIFF", subtype, rate)
    assert aiff[:4] == b"FORM"
    (tmp_path / "clip.aiff").write_bytes(aiff)
    expected = prepare(soundfile.read(io.BytesIO(aiff), dtype="float32")[0], rate, CONFIG)
    for source in (aiff, tmp_path / "clip.aiff"):
        np.testing.assert_array_equal(read_audio(source, CONFIG).waveform, expected)
    _, table = extract(tmp_path, ["clip.aiff"], tmp_path / "store", CONFIG)
    assert list(table["problem"]) == [""]


def test_aiff_with_the_low_byte_first(tmp_path: Path) -> None:
    """AIFF-C `sowt`, as macOS writes it."""
    samples = (NOISE * 2**15).astype(np.int16)
    soundfile.write(tmp_path / "sowt.aifc", samples, 16_000, "PCM_16", "LITTLE", "AIFF")
    assert b"sowt" in (tmp_path / "sowt.aifc").read_bytes()[:60]
    assert read_audio(tmp_path / "sowt.aifc", CONFIG).decoded == read(encode(samples, "FLAC", "PCM_16")).decoded


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_equal_samples_are_told_in_whatever_file_they_are(subtype: str, channels: int, tmp_path: Path) -> None:
    samples = np.random.default_rng(5).integers(-(2**31), 2**31, (30_000, channels), np.int32) >> 3
    codes = set()
    for kind in ("WAV", "FLAC", "AIFF", "CAF", "RF64", "W64"):
        content = encode(samples, kind, subtype, 44_100)
        (tmp_path / kind).write_bytes(content)
        codes |= {read(content).decoded, read_audio(tmp_path / kind, CONFIG).decoded}
    if channels == 1:
        codes.add(read(encode(np.repeat(samples, 2, axis=1), "FLAC", subtype, 44_100)).decoded)
        if subtype == "PCM_16":
            codes.add(read(encode(samples >> 16 << 16, "FLAC", "PCM_24", 44_100)).decoded)
    assert len(codes) == 1
    assert read(encode(samples, "WAV", subtype, 48_000)).decoded not in codes
    for change in (samples[:-1], samples[::-1], np.roll(samples, len(samples) // 2, axis=0)):
        assert read(encode(change, "WAV", subtype, 44_100)).decoded not in codes


def test_a_fingerprint_by_hand() -> None:
    samples = np.array([0, 1, -32_768, 32_767, 5], np.int16)
    begin = zlib.crc32(struct.pack("<QI?", 5, 16_000, True))
    expected = zlib.crc32(samples[:2].tobytes(), begin) << 32 | zlib.crc32(samples[2:].tobytes(), begin)
    assert fingerprint(samples, 16_000) == fingerprint(samples.astype(np.float32) / 32_768, 16_000) == expected
    odd = np.array([0, 0.1, -0.5], np.float32)
    begin = zlib.crc32(struct.pack("<QI?", 3, 8_000, False))
    expected = zlib.crc32(odd[:1].tobytes(), begin) << 32 | zlib.crc32(odd[1:].tobytes(), begin)
    assert fingerprint(odd, 8_000) == expected


@pytest.mark.parametrize(
    ("kind", "subtype"), [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", "PCM_16"), ("AIFF", "PCM_24")]
)
def test_channels_that_cancel(kind: str, subtype: str) -> None:
    def stereo(left: np.ndarray, right: np.ndarray) -> bytes:
        return encode(np.stack([left, right], axis=1), kind, subtype)

    cancelled = "its 2 channels cancel each other: mixed to one, nothing is left"
    whole = np.round(NOISE * 2**15) / 2**15
    assert problem(stereo(whole, -whole)) == cancelled
    assert problem(stereo(whole * 0, whole * 0)) == "silent: all samples are zero"
    assert read(stereo(whole, -0.98 * whole)).note == "mixing its 2 channels to one lost 40 dB"
    assert read(stereo(whole, -0.5 * whole)).note == ""  # 10 dB: 10 log10(0.625 / 0.0625)
    assert read(stereo(whole, -0.65 * whole)).note == "mixing its 2 channels to one lost 14 dB"
    for other in (whole, whole * 0, whole[::-1]):
        assert read(stereo(whole, other)).note == ""
    with pytest.raises(AudioError, match="cancel each other"):
        prepare(np.stack([whole, -whole], axis=1), 16_000, CONFIG)


@pytest.mark.parametrize("offset", [0.01, 0.3, -0.6])
@pytest.mark.parametrize("seconds", [1, 40])  # in one block, in several
def test_channels_that_cancel_but_for_an_offset(offset: float, seconds: int) -> None:
    noise = np.tile(np.round(np.resize(NOISE, 16_000) * 2**14) / 2**15, seconds)
    offset = round(offset * 2**15) / 2**15

    def stereo(left: np.ndarray, right: np.ndarray) -> bytes:
        return encode(np.stack([left, right], axis=1) + offset, "FLAC", "PCM_16")

    assert problem(stereo(noise, -noise)) == "its 2 channels cancel each other: mixed to one, nothing is left"
    assert read(stereo(noise, -0.65 * noise)).note == "mixing its 2 channels to one lost 14 dB"
    for other in (noise, noise * 0, noise[::-1]):
        assert read(stereo(noise, other)).note == ""
    opposed = encode(np.stack([noise + offset, noise - offset], axis=1), "WAV", "PCM_16")
    assert read(opposed).note == ""  # what is lost is the offset
    assert read(stereo(noise * 0, noise * 0)).note == ""


def test_channels_that_cancel_in_faint_audio() -> None:
    faint = 1e-25 * NOISE
    assert problem(encode(np.stack([faint, -faint], axis=1), "WAV", "DOUBLE")).startswith("its 2 channels cancel")
    assert read(encode(np.stack([faint, -0.98 * faint], axis=1), "WAV", "FLOAT")).note.endswith("lost 40 dB")
