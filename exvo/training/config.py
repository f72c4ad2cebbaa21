"""How to train."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from exvo.config import CROP_FRAMES
from exvo.enrolment import Draw
from exvo.training.augmentation import Augment


@dataclass(frozen=True)
class TrainingConfig:
    """How to train; where options have no value here, their defaults are in `exvo.systems`.

    Attributes:
        epochs: passes over the training clips.
        batch_size: clips in a batch.
        learning_rate: the first step size, of one-cycle the largest.
        optimizer: sgd (momentum 0.9), adam or adamw.
        seed: of order, crops, dropout and what changes the clips.
        device: cpu or cuda.
        precision: float32 or bf16 (autocast).
        draw: how enrolment clips are drawn; None: there are none.
        roles: learn or forget for each head of the network.
        schedule: of the step size: constant, plateau, cosine or one-cycle, see `exvo.training.optimizers.Schedule`.
        weight_decay: of adamw.
        label_smoothing: share of cross entropy's target that is spread over all categories.
        augment: how strongly the clips are changed at random.
        clip_gradient: largest norm of the gradient; 0: any.
        patience: epochs without a better score after which training stops; 0: never.
        crop_frames: frames of a training crop; for features of a fixed shape their layers.
        category_weights: by which cross entropy's terms of each category are multiplied; empty: by 1.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    optimizer: str
    seed: int
    device: str
    precision: str
    draw: Draw | None = None
    roles: Mapping[str, str] = field(default_factory=dict)
    schedule: str = "plateau"
    weight_decay: float = 0.0001
    label_smoothing: float = 0.0
    augment: Augment = Augment()  # noqa: RUF009 - frozen
    clip_gradient: float = 0.0
    patience: int = 0
    crop_frames: int = CROP_FRAMES
    category_weights: tuple[float, ...] = ()
