"""Inference on whole clips: outputs, embeddings and speakers' profiles of a trained network."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from exvo.batches.clips import Clips, evaluation_batches
from exvo.enrolment import plan_encodings
from exvo.errors import InputError, TrainingError
from exvo.networks.network import Network
from exvo.networks.parts import ClipsPart, apply_on_cluster
from exvo.progress import counting


def clip_names(clips: Clips, index: Sequence[int] | np.ndarray) -> str:
    """The clips' files, for a sentence."""
    return ", ".join(clips.files[clip] for clip in index)


@torch.inference_mode()
def apply_to_clips(
    function: Callable[[Tensor, np.ndarray], Tensor],
    clips: Clips,
    min_frames: int,
    device: str,
    batch_size: int | None = None,
    progress: str = "",
    frames: np.ndarray | None = None,
    step: int = 1,
    cluster: str = "",
) -> np.ndarray:
    """The results of a network's function for whole clips, in float32.

    Clips of equal length share a batch, so that nothing is padded and the result of a clip does not depend on the
    others.

    Args:
        function: from (batch, frames, bands) in dB on the device, and the indices (batch,) of the clips, to
            (batch, numbers).
        clips: of one split.
        min_frames: a shorter clip is filled to that.
        device: cpu or cuda.
        batch_size: clips in a batch at most; None: 4 on the CPU, whose caches hold no more log-mels, 64 on CUDA.
        progress: label of the progress bar; empty: no bar.
        frames: (clips,), the length to which each clip is filled with zeros (0 dB); None: its own.
        step: see `Network.frame_step`.
        cluster: address of the Dask scheduler whose workers compute the same batches; empty: this process does.

    Returns:
        (clips, numbers), in the order of `clips`.

    Raises:
        TrainingError: a number is not finite; names the clips.
        InputError: the cluster can't be used.
    """
    batch_size = batch_size or (64 if device == "cuda" else 4)
    if cluster:
        part = ClipsPart(apply_to_clips, function, clips, min_frames, device, batch_size, frames, step)
        return apply_on_cluster(cluster, part, progress)
    results: np.ndarray | None = None
    with counting(progress, len(clips), "clip") as done:
        for batch in evaluation_batches(clips, batch_size, min_frames, frames, step):
            numbers = function(batch.log_mel.to(device), batch.index).float().cpu().numpy()
            if not np.isfinite(numbers).all():
                diverged = batch.index[~np.isfinite(numbers).all(axis=1)]
                raise TrainingError(
                    f"The network's output is not finite for {clip_names(clips, diverged)}; the weights have diverged."
                )
            results = np.empty((len(clips), numbers.shape[1]), np.float32) if results is None else results
            results[batch.index] = numbers
            done(len(batch.index))
    assert results is not None
    return results


def speaker_profiles(
    network: Network,
    clips: Clips,
    device: str,
    enrolment: Sequence[np.ndarray],
    protocol: str | None,
    batch_size: int | None = None,
    cluster: str = "",
) -> Tensor:
    """The profile of each speaker, on the device.

    Args:
        network: with a fusion, in evaluation mode.
        clips: the clips that enrol, and maybe others.
        device: cpu or cuda.
        enrolment: for each speaker the indices of the clips that enrol them; where empty, the typical profile.
        protocol: how these are filled, see `plan_encodings`.
        batch_size: as for `apply_to_clips`.
        cluster: as for `apply_to_clips`.

    Returns:
        (speakers, profile).

    Raises:
        TrainingError: an embedding is not finite; names the clips.
    """
    plan = plan_encodings(enrolment, clips.frames(), protocol)
    embeddings = np.zeros((0, len(network.typical)), np.float32)
    if len(plan.clips):
        embeddings = apply_to_clips(
            lambda log_mel, _: network.embed_enrolment(log_mel),
            clips.take(plan.clips),
            network.min_frames,
            device,
            batch_size,
            frames=plan.frames,
            step=network.frame_step,
            cluster=cluster,
        )
    return profiles_of(network, embeddings, plan.rows, device)


@torch.inference_mode()
def profiles_of(network: Network, embeddings: np.ndarray, lists: Sequence[np.ndarray], device: str) -> Tensor:
    """The profile of each speaker from the embeddings of the clips that enrol, on the device.

    Args:
        network: with a fusion, on the device.
        embeddings: (encodings, profile), of the clips that enrol.
        lists: for each speaker the indices of their embeddings; where empty, the typical profile.
        device: cpu or cuda.

    Returns:
        (speakers, profile).
    """
    mean = np.zeros((len(lists), embeddings.shape[1]), np.float32)
    for speaker, rows in enumerate(lists):
        if len(rows):
            mean[speaker] = embeddings[rows].mean(axis=0)
    count = torch.tensor([float(len(rows)) for rows in lists], device=device)
    return network.profile(torch.from_numpy(mean).to(device), count)


def predict_clips(
    network: Network,
    clips: Clips,
    device: str,
    enrolment: Sequence[np.ndarray] | None = None,
    batch_size: int | None = None,
    progress: str = "",
    protocol: str | None = None,
    rows: np.ndarray | None = None,
) -> np.ndarray:
    """The network's outputs for whole clips, in float32 and in evaluation mode; see `apply_to_clips`.

    Args:
        network: with its weights.
        clips: of one split.
        device: cpu or cuda.
        enrolment: for each clip the indices of the clips that enrol its speaker; None: the typical profile for all.
            A network without fusion needs none.
        batch_size: as for `apply_to_clips`.
        progress: label of the progress bar; empty: no bar.
        protocol: how the clips that enrol are filled, see `plan_encodings`.
        rows: (rows,), indices of the clips whose outputs are wanted; None: of all.

    Returns:
        (rows, outputs), in the order of `rows` or `clips`.

    Raises:
        TrainingError: an output is not finite; names the clips.
    """
    return predict_enrolments(network, clips, device, [enrolment], batch_size, progress, protocol, rows)[0]


def predict_enrolments(
    network: Network,
    clips: Clips,
    device: str,
    enrolments: Sequence[Sequence[np.ndarray] | None],
    batch_size: int | None = None,
    progress: str = "",
    protocol: str | None = None,
    rows: np.ndarray | None = None,
    cluster: str = "",
) -> list[np.ndarray]:
    """The outputs of `predict_clips` under each of several enrolments, in one pass over the clips.

    Each clip goes through the encoder once; under conditioning, which reaches into the encoder, once an enrolment.

    Args:
        network: see `predict_clips`, as for the arguments that are not here.
        enrolments: several arguments `enrolment` of `predict_clips`.
        cluster: as for `apply_to_clips`.

    Returns:
        For each enrolment (rows, outputs).

    Raises:
        TrainingError: an output is not finite; names the clips.
    """
    network.eval().to(device)
    predicted = clips
    if rows is not None:
        predicted = clips.take(rows)
        enrolments = [None if each is None else [each[row] for row in rows] for each in enrolments]
    profiles = [
        speaker_profiles(network, clips, device, enrolment, protocol, batch_size, cluster)
        if network.personalised and enrolment is not None
        else None
        for enrolment in enrolments
    ]

    def predict(log_mel: Tensor, index: np.ndarray) -> Tensor:
        embedding = None if network.fusion == "conditioning" else network.embed(log_mel)
        outputs = [network.predict(log_mel, None if each is None else each[index], embedding) for each in profiles]
        return torch.cat(outputs, dim=1)

    step = network.frame_step
    outputs = apply_to_clips(
        predict, predicted, network.min_frames, device, batch_size, progress, step=step, cluster=cluster
    )
    return np.split(outputs, len(profiles), axis=1)


def make_predictor(
    network: Network, clips: Clips, device: str, protocol: str | None
) -> Callable[[list[np.ndarray]], np.ndarray]:
    """The outputs (clips, outputs) as a function of who enrols whom, for many enrolments one after the other.

    Each clip goes through the main encoder only once, and through the encoder of enrolment clips once for each length
    that it is filled to. Conditioning reaches into the main encoder: there each call is a pass over all clips.

    Args:
        network: personalised, with its weights.
        clips: of one split.
        device: cpu or cuda.
        protocol: how the clips that enrol are filled, see `plan_encodings`.
    """
    network.eval().to(device)
    if network.fusion == "conditioning":
        return lambda enrolment: predict_clips(network, clips, device, enrolment, protocol=protocol)
    embeddings = apply_to_clips(
        lambda log_mel, _: network.embed(log_mel),
        clips,
        network.min_frames,
        device,
        progress="clips",
        step=network.frame_step,
    )
    main, frames = torch.from_numpy(embeddings).to(device), clips.frames()
    encoded: dict[tuple[int, int], np.ndarray] = {}  # (clip, filled length) -> embedding of the enrolment clip
    if network.enrolment_encoder is None:  # shared
        encoded = dict(zip(enumerate(frames.tolist()), embeddings, strict=True))

    def encode(index: np.ndarray, filled: np.ndarray) -> np.ndarray:
        return apply_to_clips(
            lambda log_mel, _: network.embed_enrolment(log_mel),
            clips.take(index),
            network.min_frames,
            device,
            progress="enrolment",
            frames=filled,
            step=network.frame_step,
        )

    @torch.inference_mode()
    def predict(enrolment: list[np.ndarray]) -> np.ndarray:
        plan = plan_encodings(enrolment, frames, protocol)
        keys = list(zip(plan.clips.tolist(), plan.frames.tolist(), strict=True))
        missing = [row for row, key in enumerate(keys) if key not in encoded]
        if missing:
            new = encode(plan.clips[missing], plan.frames[missing])
            encoded.update(zip((keys[row] for row in missing), new, strict=True))
        size = len(network.typical)
        encodings = np.stack([encoded[key] for key in keys]) if keys else np.zeros((0, size), np.float32)
        fused = network.fuse(main, profiles_of(network, encodings, plan.rows, device))
        outputs: np.ndarray = network.output(fused).float().cpu().numpy()
        return outputs

    return predict


def check_embedding(network: Network, embedding: str) -> None:
    """Refuses the embeddings of enrolment clips for a network that takes no enrolment.

    Args:
        network: any.
        embedding: main or enrolment.

    Raises:
        InputError: the network has no such embeddings.
    """
    if embedding == "enrolment" and not network.personalised:
        raise InputError(
            "embedding=enrolment: the network of this run takes no enrolment clips, so they have no embeddings; use "
            "embedding=main, or a run of a personalised system."
        )


def embed_clips(
    network: Network,
    clips: Clips,
    device: str,
    embedding: str,
    enrolment: Sequence[np.ndarray],
    progress: str = "",
    protocol: str | None = None,
) -> np.ndarray:
    """The embeddings of whole clips, in float32 and in evaluation mode.

    Args:
        network: with its weights.
        clips: of one split.
        device: cpu or cuda.
        embedding: main (`Network.embed`; where the encoder is conditioned, on the speaker's profile) or enrolment
            (`Network.embed_enrolment`; where the encoder is shared, both are the same).
        enrolment: for each clip the indices of the clips that enrol its speaker; where empty, the typical profile.
        progress: label of the progress bar; empty: no bar.
        protocol: how the clips of a speaker's list are filled, see `plan_encodings`; the embeddings of enrolment clips
            are those of each clip alone.

    Returns:
        (clips, embedding), in the order of `clips`.

    Raises:
        InputError: the network has no such embeddings.
        TrainingError: an embedding is not finite; names the clips.
    """
    check_embedding(network, embedding)
    network.eval().to(device)
    if embedding == "enrolment":
        return apply_to_clips(
            lambda log_mel, _: network.embed_enrolment(log_mel),
            clips,
            network.min_frames,
            device,
            progress=progress,
            step=network.frame_step,
        )
    conditioned = network.fusion == "conditioning"
    profiles = speaker_profiles(network, clips, device, enrolment, protocol) if conditioned else None
    return apply_to_clips(
        lambda log_mel, index: network.embed(log_mel, None if profiles is None else profiles[index]),
        clips,
        network.min_frames,
        device,
        progress=progress,
        step=network.frame_step,
    )
