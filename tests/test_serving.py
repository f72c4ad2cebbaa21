"""The served model in process: what it answers, what it refuses, and what it makes of MLflow's own errors."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from mlflow.exceptions import MlflowException

from exvo import systems
from exvo.batches.clips import Clips
from exvo.enrolment import EnrolmentSettings
from exvo.errors import InputError
from exvo.features.audio import audio_header, read_audio
from exvo.features.log_mel import log_mel
from exvo.networks.build import build_network
from exvo.networks.checkpoint import WEIGHTS, Checkpoint, save_checkpoint
from exvo.serving import decoding, model, request
from exvo.serving.model import BadRequest, VocalBurstModel, answer_body, answer_request, profile_extent
from exvo.tasks import Task
from fuzz.checks import check_sentence

from helpers.requests import BAD_ROWS, FEATURES, GOOD, TARGETS, TONES, evaluated, text, tone


def make(system: str, task: Task | None = None, protocol: str = "strict") -> Checkpoint:
    """An untrained network of a system, its typical profile not zero."""
    task = task or Task("fewshot", tuple(TARGETS))
    labels = np.random.default_rng(0).random((8, len(task.targets) + 1))
    clips = Clips([], [], {}, labels, speakers=["a", "b", "c"])
    network = build_network(systems.find(system), task, 0.05, 3, "", clips).eval()
    if network.fusion == "film":  # it starts as the identity
        torch.nn.init.normal_(network.film.scale_shift.weight, std=0.1)
    if network.personalised:
        network.typical.uniform_(generator=torch.Generator().manual_seed(1))
    return Checkpoint(network, task, FEATURES, "repeat", {}, EnrolmentSettings(protocol, 2))


@pytest.fixture(scope="module")
def relative() -> Checkpoint:
    return make("cnn10-relative")


def ask(checkpoint: Checkpoint, rows: list[dict[str, Any]], mode: str = "predict") -> pd.DataFrame:
    """The answer without its warnings."""
    return answer_request(checkpoint, pd.DataFrame(rows), mode).drop(columns="warnings", errors="ignore")


@pytest.mark.parametrize("protocol", ["strict", "published"])
@pytest.mark.parametrize(
    "system",
    ["cnn10-relative", "cnn10-film", "cnn14-random-init-personalisation", "cnn14-attention-cnn10-layernorm-full"],
)
def test_enrolment_clips_and_profiles_give_what_evaluate_gives(system: str, protocol: str) -> None:
    """Under `published` the shorter clip of a pair is filled with zeros, in another pair to another length."""
    checkpoint = make(system, protocol=protocol)
    pairs = [[6, 7], [5], [], [6, 5], [7, 5, 5], [6]]
    expected = evaluated(checkpoint, TONES, [*pairs, [], []])[:6]
    other = replace(checkpoint, enrolment=EnrolmentSettings("published" if protocol == "strict" else "strict", 2))
    differs = np.abs(expected - evaluated(other, TONES, [*pairs, [], []])[:6]).max(axis=1) > 1e-6
    assert differs.tolist() == [True, False, False, True, True, False]
    rows = [
        {"audio": text(clip), "enrolment": [text(TONES[other]) for other in own] or None}
        for clip, own in zip(TONES, pairs, strict=False)
    ]
    found = ask(checkpoint, rows)
    assert found.columns.tolist() == TARGETS
    np.testing.assert_allclose(found, expected, atol=1e-5)
    enrolled = ask(checkpoint, [{"enrolment": [text(TONES[6]), text(TONES[7])]}, {"enrolment": [TONES[5]]}], "enrol")
    profiles = json.loads(json.dumps(enrolled["profile"].tolist()))  # as over HTTP
    rows = [{"audio": TONES[0], "profile": profiles[0]}, {"audio": TONES[1], "profile": profiles[1]}]
    np.testing.assert_allclose(ask(checkpoint, [*rows, {"audio": TONES[2]}]), expected[:3], atol=1e-5)
    assert np.ptp(ask(checkpoint, [{"audio": TONES[0], "profile": one} for one in profiles]), axis=0).max() > 1e-4


def test_a_profile_is_the_mean_of_the_embeddings_in_full_precision(relative: Checkpoint) -> None:
    profile = ask(relative, [{"enrolment": TONES[:3]}], "enrol")["profile"][0]
    mels = [log_mel(torch.from_numpy(read_audio(clip, FEATURES).waveform), FEATURES)[None] for clip in TONES[:3]]
    with torch.inference_mode():
        naive = torch.stack([relative.network.embed_enrolment(mel)[0] for mel in mels]).mean(dim=0)
    np.testing.assert_allclose(profile, naive, atol=1e-5)
    assert np.array_equal(np.float32(profile), profile)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_any_format_as_bytes_or_base64_with_line_breaks(kind: str, relative: Checkpoint) -> None:
    clip = tone(300, 1.0, kind)
    found = ask(relative, [{"audio": clip}, {"audio": text(clip)}, {"audio": base64.encodebytes(clip).decode()}])
    np.testing.assert_allclose(found, np.repeat(evaluated(relative, [clip], [[]]), 3, axis=0), atol=1e-5)


def test_a_model_without_enrolment_ignores_it_and_has_no_profile() -> None:
    plain = make("cnn10")
    expected = ask(plain, [{"audio": TONES[0]}])
    pd.testing.assert_frame_equal(ask(plain, [{"audio": TONES[0], "enrolment": ["?"], "profile": "x"}]), expected)
    with pytest.raises(InputError, match="takes no enrolment"):
        ask(plain, [{"enrolment": [TONES[0]]}], "enrol")


def test_other_tasks_answer_too() -> None:
    multitask = make("cnn10", Task("multitask", tuple(TARGETS), ("Chile", "Kenya")))
    assert ask(multitask, [{"audio": TONES[0]}]).columns.tolist() == [*TARGETS, "age", "country"]
    speaker = make("cnn10", Task("speaker", (), speakers=("ann", "bob", "eve")))
    assert ask(speaker, [{"audio": TONES[0]}])["speaker"][0] in ("ann", "bob", "eve")


@pytest.mark.parametrize(("rows", "sentence"), BAD_ROWS, ids=[sentence[:60] for _, sentence in BAD_ROWS])
def test_a_bad_request_is_a_sentence(rows: list[dict[str, Any]], sentence: str, relative: Checkpoint) -> None:
    assert len(relative.network.typical) == 26
    with pytest.raises(InputError, match=sentence) as raised:
        ask(relative, rows)
    assert len(str(raised.value)) < 900


def test_bad_requests_to_enrol(relative: Checkpoint) -> None:
    for rows, sentence in [
        ([{"audio": GOOD}], "row 0: enrolment is missing; mode=enrol takes a list of clips"),
        ([{"enrolment": [GOOD, text(b"no")]}], "row 0: enrolment clip 2 can't be used: not audio"),
    ]:
        with pytest.raises(InputError, match=sentence):
            ask(relative, rows, "enrol")
    with pytest.raises(InputError, match="mode must be predict or enrol"):
        ask(relative, [{"audio": GOOD}], "learn")
    with pytest.raises(InputError, match="The request is no table"):
        answer_request(relative, {"audio": GOOD})


def test_limits_hold_before_anything_is_decoded(relative: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "read_audio", lambda *_: pytest.fail("decoded"))
    clips = [text(b"clip %d" % number) for number in range(66)]
    for rows in ([{"audio": one} for one in clips], [{"audio": GOOD, "enrolment": clips[:16]}] * 1000):
        with pytest.raises(InputError, match="rows: send 1 to 64"):
            ask(relative, rows)
    rows = [{"audio": GOOD, "enrolment": clips[start : start + 16]} for start in (0, 16, 32, 48)]
    with pytest.raises(InputError, match="holds 65 different clips: send at most 64"):
        ask(relative, rows)
    monkeypatch.setattr(request, "MAX_CLIP_BYTES", 2**20)
    for clip in (bytes(2**20 + 1), "A" * (2**20 * 3 // 2 + 1)):
        with pytest.raises(InputError, match="row 0: audio is larger than 1 MiB"):
            ask(relative, [{"audio": clip}])


def test_the_seconds_of_a_request_are_bounded(relative: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MAX_SECONDS", 1.0)
    ask(relative, [{"audio": TONES[0]}] * 10)  # the same clip counts once
    with pytest.raises(InputError, match="last longer than 1 s together: send fewer"):
        ask(relative, [{"audio": clip} for clip in TONES])


@pytest.mark.parametrize(
    ("kind", "options", "rate", "channels"),
    [
        ("FLAC", {}, 655_350, 8),
        ("WAV", {}, 48_000, 2),
        ("WAV", {"subtype": "IMA_ADPCM"}, 16_000, 2),
        ("OGG", {}, 48_000, 1),
        ("MP3", {}, 48_000, 2),
        ("RF64", {}, 1_000, 4),
    ],
)
def test_samples_times_channels_are_counted_before_anything_is_decoded(
    kind: str, options: dict[str, str], rate: int, channels: int, relative: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silent clips, none of which can be used: all of a request count, and the same one once."""
    clips = []
    for number in range(4):
        file = io.BytesIO()
        soundfile.write(file, np.zeros((rate // 2 * (10 + number) // 10, channels)), rate, format=kind, **options)
        clips.append(file.getvalue())
    sizes = [frames * wide for frames, wide, _ in map(audio_header, clips)]
    for clip, size in zip(clips, sizes, strict=True):
        assert audio_header(clip)[1:] == (channels, rate)
        assert rate * channels * 0.45 < size < rate * channels * 0.8
    monkeypatch.setattr(decoding, "MAX_SAMPLES", sum(sizes) - 1)
    with pytest.raises(InputError, match="silent"):
        ask(relative, [{"audio": clip} for clip in [*clips[:3], *clips[:3]]])
    monkeypatch.setattr(decoding, "read_audio", lambda *_: pytest.fail("decoded"))
    for rows in ([{"audio": clip} for clip in clips], [{"audio": text(clips[0]), "enrolment": clips[1:]}]):
        with pytest.raises(InputError, match=rf"hold {sum(sizes):,} samples over all channels, more than"):
            ask(relative, rows)


def test_the_samples_of_a_whole_request_are_those_of_five_minutes_of_stereo() -> None:
    assert decoding.MAX_SAMPLES == decoding.MAX_SECONDS * 2 * 48_000
    header = 59 * 655_350 * 8  # of one such clip: the sum need not be computed to refuse it
    assert header > 10 * decoding.MAX_SAMPLES


def test_a_clip_that_promises_too_much_is_named_and_the_others_are_not_counted_with_it(relative: Checkpoint) -> None:
    long = bytearray(tone(300, 1.0, "FLAC"))
    long[21:26] = (long[21] & 0xF0 | 0xF).to_bytes(1, "big") + b"\xff\xff\xff\xff"  # 2**36 - 1 samples
    with pytest.raises(InputError, match=r"^row 1: audio can't be used: longer than 60 s\.$"):
        ask(relative, [{"audio": GOOD}, {"audio": bytes(long)}])


@pytest.mark.parametrize("length", [0, 0x7FFFF000, 0xFFFFFFFF])
def test_the_samples_of_a_wav_that_was_written_into_a_pipe_are_counted(length: int) -> None:
    piped = bytearray(tone(300, 1.0))
    at = piped.index(b"data") + 4
    piped[at : at + 4] = length.to_bytes(4, "little")
    piped[4:8] = (0xFFFFFFFF).to_bytes(4, "little")
    assert audio_header(bytes(piped)) == audio_header(tone(300, 1.0)) != (0, 0, 0)


def test_a_header_that_promises_less_than_there_is_bounds_what_is_decoded(relative: Checkpoint) -> None:
    short = bytearray(tone(300, 30.0, "FLAC"))
    short[22:26] = (8_000).to_bytes(4, "big")
    assert audio_header(bytes(short)) == (8_000, 1, 16_000)
    assert len(read_audio(bytes(short), FEATURES).waveform) <= 8_000


@pytest.mark.parametrize(
    "system",
    ["cnn10-relative", "cnn10-film", "cnn14-random-init-personalisation", "cnn14-attention-cnn10-layernorm-full"],
)
def test_any_clip_gives_a_profile_that_is_taken_and_one_far_outside_is_not(system: str) -> None:
    """Faint, loud, short, noise, clicks; also of a network that has not learnt what speakers are like."""
    checkpoint, rng = make(system), np.random.default_rng(1)
    noise, click = rng.uniform(-90, 90, 8_000), np.eye(1, 6_000, 99)[0]
    odd = [1e-6 * noise, noise, click, np.sign(noise), np.full(6_000, 90.0)]
    clips = list(TONES)
    for samples in odd:
        file = io.BytesIO()
        soundfile.write(file, samples, 16_000, format="WAV", subtype="FLOAT")
        clips.append(file.getvalue())
    profiles = ask(checkpoint, [{"enrolment": [clip]} for clip in clips], "enrol")["profile"]
    assert len(ask(checkpoint, [{"audio": GOOD, "profile": one} for one in profiles])) == len(clips)
    largest = max(np.abs(one).max() for one in profiles)
    assert largest < 100 * profile_extent(checkpoint)
    for factor in (1e18, -1e18, 1e7):
        rows = [{"audio": GOOD}, {"audio": GOOD, "profile": [factor * (1 + largest)] * len(profiles[0])}]
        with pytest.raises(InputError, match=r"row 1: profile holds numbers up to .* send one that mode=enrol"):
            ask(checkpoint, rows)


def test_outputs_that_are_not_finite_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = make("cnn10-relative")
    monkeypatch.setattr(model, "MAX_PROFILE_RATIO", 1e38)
    with pytest.raises(InputError, match="The outputs for these clips are not finite"):
        ask(checkpoint, [{"audio": GOOD, "profile": [3e38] * 26}])


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """As the served model loads it."""
    path, made = tmp_path_factory.mktemp("loaded") / WEIGHTS, make("cnn14-random-init-personalisation")
    save_checkpoint(path, made.network, made.network.state_dict(), made.task, FEATURES, "repeat", {})
    model = VocalBurstModel()
    model.load_context(SimpleNamespace(artifacts={"weights": str(path)}))
    return model.checkpoint


def test_work_ends_at_the_next_clip_or_batch_when_nobody_wants_it(loaded: Checkpoint) -> None:
    """At each step of its own: as often as the answer asks, so many places there are to end."""
    rows = [{"audio": clip, "enrolment": TONES[6:]} for clip in TONES[:3]]
    asked = 0

    def count() -> None:
        nonlocal asked
        asked += 1
        if asked == last:
            raise request.GivenUp

    last = -1
    token = request.given_up_check.set(count)
    try:
        ask(loaded, rows)
        steps = asked
        assert steps >= 5 + 5 + 1 + 1  # headers, clips, enrolment, emotions
        for last in range(1, steps + 1):
            asked = 0
            with pytest.raises(request.GivenUp):
                ask(loaded, rows)
            assert asked == last
    finally:
        request.given_up_check.reset(token)


def test_a_reply_is_what_answer_gives(loaded: Checkpoint) -> None:
    expected = ask(loaded, [{"audio": GOOD}])
    split = {"columns": ["audio"], "index": ["é"], "data": [[GOOD]]}
    for body in ({"dataframe_records": [{"audio": GOOD}], "params": {"mode": "predict"}}, {"dataframe_split": split}):
        content = bytearray(json.dumps(body).encode())
        found = json.loads(answer_body(loaded, content))
        pd.testing.assert_frame_equal(pd.DataFrame(found["predictions"]), expected.assign(warnings=[[]]))
        assert len(content) == 0


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({}, "is no table"),
        ({"dataframe_records": [{"audio": GOOD}], "dataframe_split": {}}, "is no table"),
        ({"dataframe_records": [{"audio": GOOD}], "params": {"mode": 5}}, "mode must be predict or enrol"),
        ({"dataframe_records": [{"audio": GOOD}], "params": {"mode": None}}, "mode must be predict or enrol"),
        ({"dataframe_records": [{"audio": GOOD}], "params": {"mode": []}}, "mode must be predict or enrol"),
        ({"dataframe_records": [{"audio": GOOD}], "params": "predict"}, "params are no object"),
        ({"dataframe_records": 5}, "can't be read: Invalid input. Dataframe records format must be a list"),
        ({"dataframe_split": {"x": 5}}, "can't be read: Invalid input. Dataframe split format must have 'data'"),
    ],
)
def test_a_body_that_is_no_request_is_a_sentence(body: Any, sentence: str, loaded: Checkpoint) -> None:
    with pytest.raises(InputError, match=sentence) as caught:
        answer_body(loaded, bytearray(json.dumps(body).encode()))
    check_sentence(str(caught.value))
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("raised", "sentence"),
    [
        (RecursionError("deep"), "The request can't be read: deep."),
        (MlflowException("Invalid input.\nInput:\n" + "x" * 999), "The request can't be read: Invalid input. Input: x"),
    ],
)
def test_what_mlflow_raises_becomes_a_sentence(
    raised: Exception, sentence: str, loaded: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(tables: Any) -> None:
        raise raised

    monkeypatch.setattr(model.scoring_server, "infer_and_parse_data", fails)
    with pytest.raises(InputError, match=sentence) as caught:
        answer_body(loaded, bytearray(json.dumps({"dataframe_records": [{}]}).encode()))
    assert len(str(caught.value)) < 300


def test_a_refusal_in_python_has_mlflows_form(loaded: Checkpoint) -> None:
    model = VocalBurstModel()
    model.checkpoint = loaded
    with pytest.raises(BadRequest) as caught:
        model.predict(None, pd.DataFrame({"sound": [b""]}))
    assert caught.value.get_http_status_code() == 400
    told = json.loads(caught.value.serialize_as_json())
    assert told["error_code"] == "INVALID_PARAMETER_VALUE"
    assert "unknown columns (sound)" in told["message"]
