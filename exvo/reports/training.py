"""What is about to be trained, for the terminal."""

from __future__ import annotations

from exvo.settings import TrainSettings


def weights_text(count: int) -> str:
    """A number of weights, as people say it.

    >>> weights_text(4_690_000), weights_text(412_345), weights_text(999_999), weights_text(31)
    ('4.7 million weights', '412 thousand weights', '1.0 million weights', '31 weights')
    """
    if count >= 999_500:
        return f"{count / 1e6:.1f} million weights"
    return f"{count / 1000:.0f} thousand weights" if count >= 1000 else f"{count} weights"


def training_text(settings: TrainSettings, weights: int, clips: int, synthetic: bool) -> str:
    """What is about to be trained, in one line, with a second one about a synthetic corpus.

    Args:
        settings: without `auto`.
        weights: of the network.
        clips: to train on.
        synthetic: whether a program made the corpus.
    """
    line = (
        f"training {settings.model} ({weights_text(weights)}) on {clips} clips: {settings.epochs} epochs, "
        f"batch {settings.batch_size}, {settings.precision} on {settings.device}"
    )
    if settings.devices > 1:
        own = "all of it" if settings.device == "cuda" else "its own part alone, because PyTorch has no other on CPUs"
        line += f"\n{settings.devices} devices share out each batch; batch norm of each has the statistics of {own}"
    if synthetic:
        line += "\nThe sample corpus is synthetic: its scores show that training works, not how well on real voices."
    return line
