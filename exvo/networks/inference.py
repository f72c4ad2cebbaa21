"""What a trained network says of whole clips: outputs, embeddings, speakers' profiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from exvo.batches.clips import Clips, evaluation_batches
from exvo.enrolment import encodings
from exvo.errors import InputError, TrainingError
from exvo.networks.network import Network


def clip_names(clips: Clips, index: Sequence[int] | np.ndarray) -> str:
    """The clips' files, for a sentence."""
    return ", ".join(clips.files[clip] for clip in index)


@torch.inference_mode()
def apply(
    function: Callable[[Tensor, np.ndarray], Tensor],
    clips: Clips,
    min_frames: int,
    device: str,
    batch_size: int | None = None,
    progress: str = "",
    frames: np.ndarray | None = None,
) -> np.ndarray:
    """What a network's function gives for whole clips, in float32.

    Clips of equal length share a batch, so that nothing is padded and what a clip gives does not depend on the others.

    Args:
        function: given (batch, frames, bands) on the device and the indices (batch,) of the clips.
        clips: of one split.
        min_frames: a shorter clip is filled to that.
        device: cpu or cuda.
        batch_size: clips in a batch at most; None: 4 on the CPU, whose caches hold no more, 64 on CUDA.
        progress: what the progress bar says; empty: no bar.
        frames: (clips,), the length that each clip is filled to with zeros; None: its own.

    Returns:
        (clips, numbers), in the order of `clips`.

    Raises:
        TrainingError: a number is not finite; names the clips.
    """
    batch_size = batch_size or (64 if device == "cuda" else 4)
    found: np.ndarray | None = None
    with tqdm(total=len(clips), desc=progress, unit="clip", leave=False, disable=None if progress else True) as bar:
        for batch in evaluation_batches(clips, batch_size, min_frames, frames):
            numbers = function(batch.log_mel.to(device), batch.index).float().cpu().numpy()
            if not np.isfinite(numbers).all():
                bad = batch.index[~np.isfinite(numbers).all(axis=1)]
                raise TrainingError(
                    f"The network's output is not finite for {clip_names(clips, bad)}; the weights have diverged."
                )
            found = np.empty((len(clips), numbers.shape[1]), np.float32) if found is None else found
            found[batch.index] = numbers
            bar.update(len(batch.index))
    assert found is not None
    return found


def profiles(
    network: Network,
    clips: Clips,
    device: str,
    enrolment: Sequence[np.ndarray],
    protocol: str | None,
    batch_size: int | None = None,
) -> Tensor:
    """The profile of each speaker, on the device: (speakers, profile).

    Args:
        network: with a fusion, in evaluation mode.
        clips: that enrol, and maybe others.
        device: cpu or cuda.
        enrolment: for each speaker the indices of the clips that enrol them; where empty, the typical profile.
        protocol: how these are filled, see `encodings`.
        batch_size: as for `apply`.
    """
    wanted = encodings(enrolment, clips.frames(), protocol)
    found = np.tile(network.typical.float().cpu().numpy(), (len(enrolment), 1))
    if len(wanted.clips):
        embeddings = apply(
            lambda log_mel, _: network.enrol(log_mel),
            clips.take(wanted.clips),
            network.min_frames,
            device,
            batch_size,
            frames=wanted.frames,
        )
        for speaker, own in enumerate(wanted.own):
            if len(own):
                found[speaker] = embeddings[own].mean(axis=0)
    return torch.from_numpy(found).to(device)


def predict(
    network: Network,
    clips: Clips,
    device: str,
    enrolment: Sequence[np.ndarray] | None = None,
    batch_size: int | None = None,
    progress: str = "",
    protocol: str | None = None,
) -> np.ndarray:
    """The network's outputs for whole clips, in float32 and in evaluation mode; see `apply`.

    Args:
        network: with its weights.
        clips: of one split.
        device: cpu or cuda.
        enrolment: for each clip the indices of the clips that enrol its speaker; None: the typical profile for all.
            A network without fusion needs none.
        batch_size: as for `apply`.
        progress: what the progress bar says; empty: no bar.
        protocol: how enrolling clips are filled, see `encodings`.

    Returns:
        (clips, outputs), in the order of `clips`.

    Raises:
        TrainingError: an output is not finite; names the clips.
    """
    return predict_each(network, clips, device, [enrolment], batch_size, progress, protocol)[0]


def predict_each(
    network: Network,
    clips: Clips,
    device: str,
    enrolments: Sequence[Sequence[np.ndarray] | None],
    batch_size: int | None = None,
    progress: str = "",
    protocol: str | None = None,
) -> list[np.ndarray]:
    """The outputs of `predict` under each of several enrolments, in one pass over the clips.

    Only conditioning, which reaches into the encoder, takes a forward pass for each of them.
    """
    network.eval().to(device)
    known = [
        profiles(network, clips, device, one, protocol, batch_size)
        if network.personalised and one is not None
        else None
        for one in enrolments
    ]

    def answer(log_mel: Tensor, index: np.ndarray) -> Tensor:
        embedding = None if network.fusion == "conditioning" else network.embed(log_mel)
        return torch.cat([network(log_mel, None if one is None else one[index], embedding) for one in known], dim=1)

    return np.split(apply(answer, clips, network.min_frames, device, batch_size, progress), len(known), axis=1)


def predictor(
    network: Network, clips: Clips, device: str, protocol: str | None
) -> Callable[[list[np.ndarray]], np.ndarray]:
    """The outputs (clips, outputs) as a function of who enrols whom; each clip goes through the main encoder only once.

    Through the encoder of enrolment clips it goes once for each length that it is filled to. Conditioning reaches into
    the main encoder: there each call is a pass over all clips.
    """
    network.eval().to(device)
    if network.fusion == "conditioning":
        return lambda drawn: predict(network, clips, device, drawn, protocol=protocol)
    embeddings = apply(lambda x, _: network.embed(x), clips, network.min_frames, device, progress="clips")
    main, frames = torch.from_numpy(embeddings).to(device), clips.frames()
    known: dict[tuple[int, int], np.ndarray] = {}  # of a clip and its filled length
    if network.enrolment_encoder is None:  # shared
        known = dict(zip(enumerate(frames.tolist()), embeddings, strict=True))
    typical = network.typical.float().cpu().numpy()

    @torch.inference_mode()
    def outputs(drawn: list[np.ndarray]) -> np.ndarray:
        wanted = encodings(drawn, frames, protocol)
        pairs = list(zip(wanted.clips.tolist(), wanted.frames.tolist(), strict=True))
        new = [number for number, pair in enumerate(pairs) if pair not in known]
        if new:
            own, filled = clips.take(wanted.clips[new]), wanted.frames[new]
            added = apply(lambda x, _: network.enrol(x), own, network.min_frames, device, None, "enrolment", filled)
            known.update(zip((pairs[number] for number in new), added, strict=True))
        every = np.stack([known[pair] for pair in pairs]) if pairs else np.zeros((0, len(typical)), np.float32)
        profiles = np.stack([every[own].mean(axis=0) if len(own) else typical for own in wanted.own])
        seen = network.fuse(main, torch.from_numpy(profiles).to(device))
        found: np.ndarray = network.output(seen).float().cpu().numpy()
        return found

    return outputs


def check_embedding(network: Network, embedding: str) -> None:
    """Refuses the embeddings of enrolment clips where a network takes none.

    Raises:
        InputError: it does not.
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
            (`Network.enrol`; where the encoder is shared, both are the same).
        enrolment: for each clip the indices of the clips that enrol its speaker; where empty, the typical profile.
        progress: what the progress bar says; empty: no bar.
        protocol: how the clips of a speaker's list are filled, see `encodings`; the embeddings of enrolment clips are
            those of each clip alone.

    Returns:
        (clips, embedding), in the order of `clips`.

    Raises:
        InputError: the network has no such embeddings.
        TrainingError: an embedding is not finite; names the clips.
    """
    check_embedding(network, embedding)
    network.eval().to(device)
    if embedding == "enrolment":
        return apply(lambda log_mel, _: network.enrol(log_mel), clips, network.min_frames, device, progress=progress)
    known = profiles(network, clips, device, enrolment, protocol) if network.fusion == "conditioning" else None
    return apply(
        lambda log_mel, index: network.embed(log_mel, None if known is None else known[index]),
        clips,
        network.min_frames,
        device,
        progress=progress,
    )
