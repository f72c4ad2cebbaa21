"""The network of a system: an encoder, a fusion with the speaker's profile, an output, and heads for training alone.

A speaker's *profile* is the mean of the embeddings of the clips that enrol them, in our newer systems drawn towards the
typical speaker's, see `Network.profile`. How it reaches the output is the fusion: attention and conditioning as in
arXiv 2206.06680; relative and film (Perez et al., arXiv 1709.07871) are ours.

Training calls the network itself, `network(...)`: hooks and PyTorch's wrappers, such as DistributedDataParallel, see
nothing but `forward`. Inference calls `predict`, `embed` and `embed_enrolment`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from exvo import ranks
from exvo.networks.chain import Chain
from exvo.networks.cnn import PANN, make_linear
from exvo.networks.encoders import OURS, make_encoder
from exvo.networks.frozen import Prior
from exvo.networks.fusion import Attention, Film, Relative, ScaleGradient, mean_of_enrolling
from exvo.networks.members import average, side_by_side

CONDITIONING_DROPOUT = 0.2  # of whole channels (arXiv 2206.06680)
TYPICAL_MOMENTUM = 0.1  # of the running mean of profiles, as that of batch norm


class NetworkArguments(TypedDict):
    """The arguments of `Network`, as model files hold them."""

    encoder: str
    outputs: int
    width: float
    dropout: float
    enrolment: str
    fusion: str
    layer_norm: bool
    heads: dict[str, int]
    head: str
    typical_clips: int
    inputs: list[int] | None
    members: int


class Network(nn.Module):
    """From the features of clips to the outputs of a task; with a fusion, relative to a speaker's profile.

    Features are log-mels, (batch, frames, bands) in dB, or for the encoder `frozen` (batch, layers, numbers).

    Args:
        encoder: cnn5, cnn10 or cnn14; ours are resnet, frozen and prior.
        outputs: numbers of the output.
        width: multiplier of the channels; 1 is the paper's.
        dropout: probability after each block; in ours before the embedding (resnet) and before the output.
        enrolment: encoder of the enrolment clips: none, cnn5, cnn10, or shared (the main encoder).
        fusion: none, attention, conditioning, relative or film.
        layer_norm: whether attention normalises the embedding, and once more its product with the weights.
        heads: outputs of each head that trains beside the main output: enrolment_emotion and enrolment_speaker on the
            embeddings of the enrolment clips, main_speaker on the main embedding (normalised, where attention does so).
        head: of the output: linear, or chain (`exvo.networks.chain`).
        typical_clips: how many clips the typical speaker counts for in a profile.
        inputs: layers and numbers of a clip's features, for the encoder `frozen` alone.
        members: of the encoders resnet and frozen, see `exvo.networks.members`; 1 for all others.
    """

    typical: Tensor
    """The typical speaker's profile, (profile,): learnt where it counts for clips, else a running mean over training.

    Networks without fusion have none."""

    def __init__(
        self,
        encoder: str,
        outputs: int,
        width: float = 1.0,
        dropout: float = 0.2,
        enrolment: str = "none",
        fusion: str = "none",
        layer_norm: bool = False,
        heads: Mapping[str, int] | None = None,
        head: str = "linear",
        typical_clips: int = 0,
        inputs: Sequence[int] | None = None,
        members: int = 1,
    ) -> None:
        super().__init__()
        heads = dict(heads or {})
        self.arguments = NetworkArguments(
            encoder=encoder,
            outputs=outputs,
            width=width,
            dropout=dropout,
            enrolment=enrolment,
            fusion=fusion,
            layer_norm=layer_norm,
            heads=heads,
            head=head,
            typical_clips=typical_clips,
            inputs=None if inputs is None else list(inputs),
            members=members,
        )
        self.ours = encoder in OURS
        self.dropout = dropout if self.ours else 0.0
        self.enrolment, self.typical_clips = enrolment, typical_clips
        self.members = members
        self.encoder = make_encoder(encoder, width, dropout, inputs, members)
        separate = enrolment in ("cnn5", "cnn10")
        self.enrolment_encoder = make_encoder(enrolment, width, dropout) if separate else None
        size = self.encoder.size
        profile = self.enrolment_encoder.size if self.enrolment_encoder else size
        each = size // members
        self.fusion = fusion
        if fusion == "attention":
            self.attention = Attention(size, profile, layer_norm)
        elif fusion == "conditioning":
            assert isinstance(self.encoder, PANN)
            self.conditions = nn.ModuleList(nn.Linear(profile, count) for count in self.encoder.channels)
        elif fusion == "relative":
            self.relative = side_by_side(members, lambda: Relative(each))
        elif fusion == "film":
            self.film = side_by_side(members, lambda: Film(each, profile // members))
        if self.personalised and typical_clips:
            self.typical = nn.Parameter(torch.zeros(profile))
        elif self.personalised:
            self.register_buffer("typical", torch.zeros(profile))
        make_output = Chain if head == "chain" else make_linear
        self.output = side_by_side(members, lambda: make_output(each, outputs))
        self.heads = nn.ModuleDict()
        for name, count in heads.items():
            below = size if name == "main_speaker" else profile
            self.heads[name] = nn.Sequential(nn.Linear(below, below), nn.ReLU(), nn.Linear(below, count))

    @property
    def personalised(self) -> bool:
        """Whether the outputs depend on the speaker's profile."""
        return self.fusion != "none"

    @property
    def trainable(self) -> bool:
        """Whether there is anything to train: the prior follows from the labels."""
        return not isinstance(self.encoder, Prior)

    @property
    def min_frames(self) -> int:
        """Frames that the encoders need at least; a shorter clip is filled by the caller."""
        return max(self.encoder.min_frames, self.enrolment_encoder.min_frames if self.enrolment_encoder else 1)

    @property
    def frame_step(self) -> int:
        """Frames that the encoder takes at a time: fewer at a clip's end change nothing."""
        return self.encoder.frame_step

    def embed(self, log_mel: Tensor, profile: Tensor | None = None) -> Tensor:
        """The main embeddings of whole clips of equal length.

        Args:
            log_mel: (batch, frames, bands), dB.
            profile: (batch, profile), of each clip's speaker; only conditioning needs it.

        Returns:
            (batch, embedding).
        """
        if self.fusion != "conditioning":
            embedding: Tensor = self.encoder(log_mel)
            return embedding
        assert profile is not None

        def condition(block: int, x: Tensor) -> Tensor:
            conditioned = x + functional.relu(self.conditions[block](profile))[:, :, None, None]
            return functional.dropout2d(conditioned, CONDITIONING_DROPOUT, self.training)

        assert isinstance(self.encoder, PANN)
        conditioned: Tensor = self.encoder(log_mel, condition)
        return conditioned

    def profile(self, mean: Tensor, count: Tensor) -> Tensor:
        """The profiles of speakers: (k * mean + t * typical) / (k + t), for k clips and t `typical_clips`.

        With t = 0 the mean itself, or without clips the typical profile.

        Args:
            mean: (speakers, profile), of the embeddings of the clips that enrol each; finite where there are none.
            count: (speakers,), k.

        Returns:
            (speakers, profile).
        """
        count = count[:, None]
        if not self.typical_clips:
            return torch.where(count > 0, mean, self.typical.to(mean.dtype))
        return (count * mean + self.typical_clips * self.typical) / (count + self.typical_clips)

    def embed_enrolment(self, log_mel: Tensor) -> Tensor:
        """The embeddings of enrolment clips; a speaker's profile comes from their mean, see `profile`.

        Args:
            log_mel: (batch, frames, bands), dB.

        Returns:
            (batch, profile).
        """
        embedding: Tensor = (self.enrolment_encoder or self.encoder)(log_mel)
        return embedding

    def fuse(self, embedding: Tensor, profile: Tensor | None) -> Tensor:
        """The input of the output layer, in training of our encoders with dropout.

        Args:
            embedding: (batch, embedding), from `embed`.
            profile: (batch, profile), of each clip's speaker; a network without fusion ignores it.

        Returns:
            (batch, embedding).
        """
        fused = self._fuse(embedding, profile)
        return functional.dropout(fused, self.dropout, self.training) if self.dropout else fused

    def _fuse(self, embedding: Tensor, profile: Tensor | None) -> Tensor:
        if self.fusion in ("attention", "conditioning"):
            assert isinstance(self.encoder, PANN)
            return self.encoder.refine(self.attention(embedding, profile) if self.fusion == "attention" else embedding)
        if self.fusion == "relative":
            fused: Tensor = self.relative(embedding, profile)
            return fused
        return self.film(embedding, profile) if self.fusion == "film" else embedding

    def predict(self, log_mel: Tensor, profile: Tensor | None = None, embedding: Tensor | None = None) -> Tensor:
        """The outputs of whole clips of equal length, for a network in evaluation mode.

        Args:
            log_mel: (batch, frames, bands), dB.
            profile: (batch, profile), from `profile` with the mean of `embed_enrolment` over each speaker's clips;
                None: the typical speaker's. A network without fusion ignores it.
            embedding: (batch, embedding), the result of `embed` for these clips and profiles, if there is one already.

        Returns:
            (batch, outputs).
        """
        if self.personalised and profile is None:
            profile = self.typical.expand(len(log_mel), -1)
        embedding = self.embed(log_mel, profile) if embedding is None else embedding
        return average(self.output(self.fuse(embedding, profile)), self.members)

    def forward(
        self, log_mel: Tensor, enrolment: Tensor | None, enrols: Tensor | None, factors: Mapping[str, float]
    ) -> dict[str, Tensor]:
        """The outputs of a training batch, and those of the heads.

        Moves the typical profile towards the mean of the batch, of all ranks' parts of it, unless it is learnt.

        Args:
            log_mel: (batch, frames, bands), dB.
            enrolment: (batch, shots, frames, bands), dB, clips drawn for each clip, where they have their own encoder.
            enrols: (batch, batch), see `Batch`, where the encoder is shared.
            factors: of each head's gradient into the encoder beneath it.

        Returns:
            main (batch, members x outputs); main_speaker (batch, speakers); enrolment_emotion (batch x shots, emotions)
            and enrolment_speaker (batch x shots, speakers).
        """
        profile = enrolment_embedding = None
        if enrolment is not None:
            enrolment_embedding = self.embed_enrolment(enrolment.flatten(0, 1))
            mean = enrolment_embedding.view(*enrolment.shape[:2], -1).mean(dim=1)
            profile = self.profile(mean, torch.full_like(mean[:, 0], enrolment.shape[1]))
        embedding = self.embed(log_mel, profile)
        if enrols is not None:
            enrolment_embedding, profile = embedding, self.profile(*mean_of_enrolling(embedding, enrols))
        if profile is not None and self.personalised and not self.typical_clips:
            with torch.no_grad():
                self.typical.lerp_(ranks.mean_of_rows(profile.float()), TYPICAL_MOMENTUM)
        outputs = {"main": self.output(self.fuse(embedding, profile))}
        for name, head in self.heads.items():
            head_input = enrolment_embedding
            if name == "main_speaker":
                head_input = self.attention.before(embedding) if self.fusion == "attention" else embedding
            outputs[name] = head(ScaleGradient.apply(head_input, factors[name]))  # type: ignore[no-untyped-call]
        return outputs
