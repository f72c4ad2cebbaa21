"""The network of a system: an encoder, what it knows of the speaker, an output, and heads that only train.

A speaker's *profile* is the mean of the embeddings of the clips that enrol them. How it reaches the output is the
fusion: attention and conditioning as in arXiv 2206.06680; relative and film (Perez et al., arXiv 1709.07871) are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from exvo.networks.cnn import PANN, make_encoder, make_linear
from exvo.networks.fusion import Attention, Film, Relative, ScaleGradient, mean_of_others

CONDITIONING_DROPOUT = 0.2  # of whole channels (arXiv 2206.06680)
TYPICAL_MOMENTUM = 0.1  # of the running mean of profiles, as that of batch norm


class Network(nn.Module):
    """Log-mels in, the outputs of a task out; with a fusion, relative to a speaker's profile.

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
        self.arguments: dict[str, Any] = {"encoder": encoder, "outputs": outputs, "width": width, "dropout": dropout}
        self.arguments |= {"enrolment": enrolment, "fusion": fusion, "layer_norm": layer_norm, "heads": heads}
        self.enrolment = enrolment
        self.encoder = make_encoder(encoder, width, dropout)
        own = enrolment in ("cnn5", "cnn10")
        self.enrolment_encoder = make_encoder(enrolment, width, dropout) if own else None
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
        """Frames that the encoders need; a shorter clip is filled by the caller."""
        needs = [self.encoder.min_frames, self.enrolment_encoder.min_frames if self.enrolment_encoder else 1]
        return max(needs)

    def embed(self, log_mel: Tensor, profile: Tensor | None = None) -> Tensor:
        """The main embedding: (batch, frames, bands) in dB -> (batch, embedding)."""
        if self.fusion != "conditioning":
            embedding: Tensor = self.encoder(log_mel)
            return embedding
        assert profile is not None

        def condition(number: int, x: Tensor) -> Tensor:
            added = x + functional.relu(self.conditions[number](profile))[:, :, None, None]
            return functional.dropout2d(added, CONDITIONING_DROPOUT, self.training)

        assert isinstance(self.encoder, PANN)
        conditioned: Tensor = self.encoder(log_mel, condition)
        return conditioned

    def enrol(self, log_mel: Tensor) -> Tensor:
        """The embeddings of enrolment clips, whose mean is a profile: (batch, frames, bands) -> (batch, profile)."""
        embedding: Tensor = (self.enrolment_encoder or self.encoder)(log_mel)
        return embedding

    def fuse(self, embedding: Tensor, profile: Tensor | None) -> Tensor:
        """What the output layer sees, from (batch, embedding) and (batch, profile)."""
        if self.fusion in ("attention", "conditioning"):
            assert isinstance(self.encoder, PANN)
            return self.encoder.refine(self.attention(embedding, profile) if self.fusion == "attention" else embedding)
        if self.fusion == "relative":
            seen: Tensor = self.relative(embedding, profile)
            return seen
        return self.film(embedding, profile) if self.fusion == "film" else embedding

    def forward(self, log_mel: Tensor, profile: Tensor | None = None, embedding: Tensor | None = None) -> Tensor:
        """The outputs of whole clips of equal length.

        Args:
            log_mel: (batch, frames, bands), dB.
            profile: (batch, profile), the mean of `enrol` over each speaker's enrolment clips; None: the typical
                speaker's, a running mean over training. A network without fusion ignores it.
            embedding: (batch, embedding), what `embed` gave for these clips and this profile, where it is known.

        Returns:
            (batch, outputs).
        """
        if self.personalised and profile is None:
            profile = self.typical.expand(len(log_mel), -1)
        embedding = self.embed(log_mel, profile) if embedding is None else embedding
        outputs: Tensor = self.output(self.fuse(embedding, profile))
        return outputs

    def training_outputs(
        self, log_mel: Tensor, enrolment: Tensor | None, groups: Tensor | None, factors: Mapping[str, float]
    ) -> dict[str, Tensor]:
        """The outputs of a training batch, and those of the heads.

        Args:
            log_mel: (batch, frames, bands), dB.
            enrolment: (batch, shots, frames, bands), clips drawn for each clip, where they have an encoder.
            groups: (batch,), see `mean_of_others`, where the encoder is shared.
            factors: of each head's gradient into the encoder beneath it.

        Returns:
            main (batch, outputs); main_speaker (batch, speakers); enrolment_emotion (batch x shots, emotions) and
            enrolment_speaker (batch x shots, speakers).
        """
        profile = clips = None
        if enrolment is not None:
            clips = self.enrol(enrolment.flatten(0, 1))
            profile = clips.view(*enrolment.shape[:2], -1).mean(dim=1)
        embedding = self.embed(log_mel, profile)
        if groups is not None:
            clips, profile = embedding, mean_of_others(embedding, groups)
        if profile is not None and self.personalised:
            with torch.no_grad():
                self.typical.lerp_(profile.float().mean(dim=0), TYPICAL_MOMENTUM)
        found = {"main": self.output(self.fuse(embedding, profile))}
        for name, head in self.heads.items():
            beneath = clips
            if name == "main_speaker":
                beneath = self.attention.before(embedding) if self.fusion == "attention" else embedding
            found[name] = head(ScaleGradient.apply(beneath, factors[name]))  # type: ignore[no-untyped-call]
        return found
