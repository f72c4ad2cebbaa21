"""The network of a system: an encoder, a fusion with the speaker's profile, an output, and heads for training alone.

A speaker's *profile* is the mean of the embeddings of the clips that enrol them. How it reaches the output is the
fusion: attention and conditioning as in arXiv 2206.06680; relative and film (Perez et al., arXiv 1709.07871) are ours.

Training calls the network itself, `network(...)`: hooks and PyTorch's wrappers, such as DistributedDataParallel, see
nothing but `forward`. Inference calls `predict`, `embed` and `embed_enrolment`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from exvo.networks.cnn import PANN, make_encoder, make_linear
from exvo.networks.fusion import Attention, Film, Relative, ScaleGradient

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


class Network(nn.Module):
    """From log-mels to the outputs of a task; with a fusion, relative to a speaker's profile.

    Args:
        encoder: cnn5, cnn10 or cnn14.
        outputs: numbers of the linear output.
        width: multiplier of the channels; 1 is the paper's.
        dropout: probability after each block.
        enrolment: encoder of the enrolment clips: none, cnn5, cnn10, or shared (the main encoder).
        fusion: none, attention, conditioning, relative or film.
        layer_norm: whether attention normalises the embedding, and once more its product with the weights.
        heads: outputs of each head that trains beside the main output: enrolment_emotion and enrolment_speaker on the
            embeddings of the enrolment clips, main_speaker on the main embedding (normalised, where attention does so).
    """

    typical: Tensor
    """The typical speaker's profile, (profile,): a running mean over training. Networks without fusion have none."""

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
        )
        self.enrolment = enrolment
        self.encoder = make_encoder(encoder, width, dropout)
        separate = enrolment in ("cnn5", "cnn10")
        self.enrolment_encoder = make_encoder(enrolment, width, dropout) if separate else None
        size = self.encoder.channels[-1]
        profile = self.enrolment_encoder.channels[-1] if self.enrolment_encoder else size
        self.fusion = fusion
        if fusion == "attention":
            self.attention = Attention(size, profile, layer_norm)
        elif fusion == "conditioning":
            self.conditions = nn.ModuleList(nn.Linear(profile, count) for count in self.encoder.channels)
        elif fusion == "relative":
            self.relative = Relative(size)
        elif fusion == "film":
            self.film = Film(size, profile)
        if self.personalised:
            self.register_buffer("typical", torch.zeros(profile))
        self.output = make_linear(size, outputs)
        self.heads = nn.ModuleDict()
        for name, count in heads.items():
            inputs = size if name == "main_speaker" else profile
            self.heads[name] = nn.Sequential(nn.Linear(inputs, inputs), nn.ReLU(), nn.Linear(inputs, count))

    @property
    def personalised(self) -> bool:
        """Whether the outputs depend on the speaker's profile."""
        return self.fusion != "none"

    @property
    def min_frames(self) -> int:
        """Frames that the encoders need at least; a shorter clip is filled by the caller."""
        return max(self.encoder.min_frames, self.enrolment_encoder.min_frames if self.enrolment_encoder else 1)

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

    def embed_enrolment(self, log_mel: Tensor) -> Tensor:
        """The embeddings of enrolment clips; a speaker's profile is their mean.

        Args:
            log_mel: (batch, frames, bands), dB.

        Returns:
            (batch, profile).
        """
        embedding: Tensor = (self.enrolment_encoder or self.encoder)(log_mel)
        return embedding

    def profile(self, mean: Tensor, count: Tensor) -> Tensor:
        """The profiles of speakers: fewer clips, less trust, and of whom there is none the typical profile.

        (count x mean + t x typical) / (count + t), where the typical speaker counts for t clips (`typical_clips`).

        Args:
            mean: (speakers, profile), of the embeddings of the clips that enrol each; finite where there are none.
            count: (speakers,), of these clips.

        Returns:
            (speakers, profile).
        """
        typical_clips = float(dict(self.arguments).get("typical_clips", 0))  # type: ignore[arg-type]
        count = count.to(mean.dtype)[:, None]
        weighted = (count * mean + typical_clips * self.typical) / (count + typical_clips).clamp(min=1)
        return torch.where(count > 0, weighted, self.typical.to(mean.dtype))

    def fuse(self, embedding: Tensor, profile: Tensor | None) -> Tensor:
        """The input of the output layer.

        Args:
            embedding: (batch, embedding), from `embed`.
            profile: (batch, profile), of each clip's speaker; a network without fusion ignores it.

        Returns:
            (batch, embedding).
        """
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
            profile: (batch, profile), the mean of `embed_enrolment` over each speaker's enrolment clips; None: the
                typical speaker's. A network without fusion ignores it.
            embedding: (batch, embedding), the result of `embed` for these clips and profiles, if there is one already.

        Returns:
            (batch, outputs).
        """
        if self.personalised and profile is None:
            profile = self.typical.expand(len(log_mel), -1)
        embedding = self.embed(log_mel, profile) if embedding is None else embedding
        outputs: Tensor = self.output(self.fuse(embedding, profile))
        return outputs

    def forward(
        self, log_mel: Tensor, enrolment: Tensor | None, enrols: Tensor | None, factors: Mapping[str, float]
    ) -> dict[str, Tensor]:
        """The outputs of a training batch, and those of the heads. Moves the typical profile towards the batch's mean.

        Args:
            log_mel: (batch, frames, bands), dB.
            enrolment: (batch, shots, frames, bands), dB, clips drawn for each clip, where they have their own encoder.
            enrols: (batch, batch), see `Batch`, where the encoder is shared.
            factors: of each head's gradient into the encoder beneath it.

        Returns:
            main (batch, outputs); main_speaker (batch, speakers); enrolment_emotion (batch x shots, emotions) and
            enrolment_speaker (batch x shots, speakers).
        """
        profile = enrolment_embedding = None
        if enrolment is not None:
            enrolment_embedding = self.embed_enrolment(enrolment.flatten(0, 1))
            profile = enrolment_embedding.view(*enrolment.shape[:2], -1).mean(dim=1)
        embedding = self.embed(log_mel, profile)
        if enrols is not None:
            enrolment_embedding, count = embedding, enrols.sum(dim=1)
            profile = self.profile((enrols @ embedding.float()) / count.clamp(min=1)[:, None], count)
        if profile is not None and self.personalised:
            with torch.no_grad():
                self.typical.lerp_(profile.float().mean(dim=0), TYPICAL_MOMENTUM)
        outputs = {"main": self.output(self.fuse(embedding, profile))}
        for name, head in self.heads.items():
            head_input = enrolment_embedding
            if name == "main_speaker":
                head_input = self.attention.before(embedding) if self.fusion == "attention" else embedding
            outputs[name] = head(ScaleGradient.apply(head_input, factors[name]))  # type: ignore[no-untyped-call]
        return outputs
