"""The encoders by their names."""

from __future__ import annotations

from collections.abc import Sequence

from exvo.networks.cnn import CHANNELS, CNN5, PANN
from exvo.networks.frozen import Frozen, Prior
from exvo.networks.members import SameInput
from exvo.networks.resnet import ResNet
from exvo.systems import MANY

Encoder = PANN | CNN5 | ResNet | SameInput | Frozen | Prior

OURS = ("resnet", "frozen", "prior")
"""The encoders that are not published; their networks have dropout before the output too."""

ENCODERS = (*CHANNELS, *OURS)


def make_encoder(
    encoder: str, width: float, dropout: float, inputs: Sequence[int] | None = None, members: int = 1
) -> Encoder:
    """The encoder of that name, one of `ENCODERS`.

    Args:
        encoder: its name.
        width: multiplier of its channels.
        dropout: probability within it; `frozen` has one of its own.
        inputs: layers and numbers of a clip's features for `frozen`; the others take log-mels (`prior` anything).
        members: how many of it are side by side, of `MANY` alone; the others have one.
    """
    assert (inputs is not None) == (encoder == "frozen")
    assert members == 1 or encoder in MANY
    if inputs is not None:
        layers, numbers = inputs
        return Frozen((layers, numbers), width, members)
    if encoder == "prior":
        return Prior()
    if encoder == "resnet":
        return ResNet(width, dropout) if members == 1 else SameInput(ResNet(width, dropout) for _ in range(members))
    return CNN5(width, dropout) if encoder == "cnn5" else PANN(encoder, width, dropout)
