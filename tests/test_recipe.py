"""The recipe of training: step sizes, weight decay, label smoothing, changed clips, clipping, patience."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from exvo.batches.clips import Batch
from exvo.batches.epoch import training_batches
from exvo.config import FeatureConfig
from exvo.experiments.train import resolve
from exvo.features.log_mel import log_mel
from exvo.networks.network import Network
from exvo.settings import TrainSettings
from exvo.tasks import Task
from exvo.training import loop
from exvo.training.augmentation import BANDS_PER_E, Augment, Augmentation, draw_masks, warp
from exvo.training.loop import Validation, fit, train_step
from exvo.training.objectives import emotion_loss, objectives
from exvo.training.optimizers import Schedule, make_optimizer
from exvo.training.states import Epoch

from helpers.networks import TASK, config, make_clips, make_network

CATEGORIES = Task("fewshot", ("a", "b", "c"), categories=True, objective="cross-entropy")


def rates(schedule: str, epochs: int, steps: int, scores: list[float] | None = None) -> list[float]:
    """The step size of each step."""
    given = config(schedule=schedule, epochs=epochs, learning_rate=0.1)
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    made, found = Schedule(optimizer, given, steps), []
    for epoch in range(epochs):
        for _ in range(steps):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            made.after_step()
        made.after_epoch(scores[epoch] if scores else 0.0)
    return found


def test_constant_and_plateau() -> None:
    assert rates("constant", 3, 4) == [0.1] * 12
    scores = [0.1, 0.3, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.4]
    assert rates("plateau", 9, 2, scores) == pytest.approx([0.1] * 16 + [0.09] * 2)


def test_cosine_falls_to_0() -> None:
    expected = [0.05 * (1 + math.cos(math.pi * step / 20)) for step in range(20)]
    assert rates("cosine", 5, 4) == pytest.approx(expected)


def test_one_cycle_rises_for_a_fifth_and_falls_to_nearly_0() -> None:
    def between(start: float, end: float, share: float) -> float:
        return end + (start - end) / 2 * (1 + math.cos(math.pi * share))

    top = 0.2 * 50 - 1
    expected = [between(0.1 / 25, 0.1, step / top) for step in range(10)]
    expected += [between(0.1, 0.1 / 25 / 1e4, (step - top) / (49 - top)) for step in range(10, 50)]
    assert rates("one-cycle", 5, 10) == pytest.approx(expected)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_training_of_few_steps_ends_within_the_cycle(steps: int) -> None:
    found = rates("one-cycle", 2, steps)
    assert all(0 < rate <= 0.1 for rate in found)


@pytest.mark.parametrize("encoder", ["cnn10", "resnet"])
def test_weight_decay_by_dimension_for_ours_and_on_all_for_the_published(encoder: str) -> None:
    network = Network(encoder, 2, 0.05, enrolment="shared", fusion="relative", typical_clips=1)
    torch.nn.init.normal_(network.typical)
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    for weight in network.parameters():
        weight.grad = torch.zeros_like(weight)
    make_optimizer(network, config(optimizer="adamw", learning_rate=10.0, weight_decay=0.01)).step()
    for name, weight in network.named_parameters():
        decays = encoder == "cnn10" or weight.ndim > 1
        torch.testing.assert_close(weight, before[name] * (0.9 if decays else 1), rtol=1e-6, atol=0)


def test_label_smoothing_is_of_cross_entropy_alone() -> None:
    logits, labels = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 3.0]]), torch.eye(3)[[0, 1]]
    shares = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(axis=1, keepdims=True)
    target = 0.8 * labels.numpy() + 0.2 / 3
    expected = -(target * np.log(shares)).sum(axis=1).mean()
    assert emotion_loss(CATEGORIES, logits, labels, 0.2).item() == pytest.approx(expected, rel=1e-5)
    batch = Batch(torch.zeros(0), labels, np.arange(2))
    assert objectives({"main": logits}, CATEGORIES, batch, 0.2)["main"].item() == pytest.approx(expected, rel=1e-5)
    for objective in ("ccc", "mse"):
        task = Task("fewshot", ("a", "b", "c"), objective=objective)
        assert emotion_loss(task, logits, labels, 0.2) == emotion_loss(task, logits, labels)


def batch_of(clips: int, frames: int = 40, bands: int = 64) -> Batch:
    generator = torch.Generator().manual_seed(0)
    log_mel = 20 * torch.randn(clips, frames, bands, generator=generator) - torch.arange(bands)
    return Batch(log_mel, torch.rand(clips, 2, generator=generator), np.arange(clips))


def runs_of(hidden: np.ndarray) -> list[int]:
    """The lengths of the runs of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], hidden.astype(int), [0]])))
    return [int(stop - start) for start, stop in zip(edges[::2], edges[1::2], strict=True)]


def test_masks_hide_bands_and_frames_and_never_more() -> None:
    """At most two runs of whole bands and two of whole frames, each mean of its band; all else stays bit for bit."""
    augment, widths, places = Augmentation(Augment(spec_augment=0.125), 0, 1), set(), set()
    for _ in range(40):
        batch = batch_of(8)
        found = augment(batch).log_mel
        means = batch.log_mel.mean(dim=(0, 1))
        for clip, now in zip(batch.log_mel, found, strict=True):
            changed = (clip != now).numpy()
            frames, bands = changed.all(axis=1), changed.all(axis=0)
            assert (changed == (frames[:, None] | bands[None])).all()
            assert torch.equal(now[torch.from_numpy(changed)], means.expand(40, -1)[torch.from_numpy(changed)])
            assert len(runs_of(frames)) <= 2
            assert len(runs_of(bands)) <= 2
            assert frames.sum() <= 2 * 5  # an eighth of 40
            assert bands.sum() <= 2 * 8
            widths |= {*runs_of(frames)}
            places |= {*np.flatnonzero(bands)}
    assert {1, 2, 3, 4, 5} <= widths  # up to the widest
    assert places == set(range(64))  # anywhere


def test_masks_of_both_widths() -> None:
    masks = draw_masks(2000, 10, 3, np.random.default_rng(0)).numpy()
    assert masks.sum(axis=1).max() == 6
    assert masks.sum(axis=1).min() == 0
    assert draw_masks(5, 10, 0, np.random.default_rng(0)).sum() == 0  # a share of less than one band hides none
    assert draw_masks(50, 4, 4, np.random.default_rng(0)).all(dim=1).any()


def test_mixup_mixes_pairs_by_one_factor() -> None:
    batch = batch_of(16)
    found = Augmentation(Augment(mixup=0.4), 3, 2)(batch)
    generator = np.random.default_rng([3, 2, 101])
    factor, partners = generator.beta(0.4, 0.4), generator.permutation(16)
    for name in ("log_mel", "labels"):
        own = getattr(batch, name).numpy()
        expected = factor * own + (1 - factor) * own[partners]
        np.testing.assert_allclose(getattr(found, name), expected, rtol=1e-4, atol=1e-4)
    assert 0 < factor < 1


def test_mixups_loss_is_the_mixture_of_both_labels_losses() -> None:
    """For cross entropy, which is linear in its target."""
    logits, labels = torch.randn(6, 3), torch.eye(3)[[0, 1, 2, 2, 1, 0]]
    batch = replace(batch_of(6), labels=labels)
    mixed = Augmentation(Augment(mixup=1.0), 0, 1)(batch)
    generator = np.random.default_rng([0, 1, 101])
    factor, partners = generator.beta(1, 1), generator.permutation(6)
    parts = [emotion_loss(CATEGORIES, logits, each).item() for each in (labels, labels[partners])]
    found = emotion_loss(CATEGORIES, logits, mixed.labels).item()
    assert found == pytest.approx(factor * parts[0] + (1 - factor) * parts[1], rel=1e-5)


def of_people(clips: int, persons: list[int]) -> Batch:
    """A batch in which clips enrol each other, so that the speaker counts."""
    return replace(batch_of(clips), speakers=torch.tensor(persons), enrols=torch.zeros(clips, clips))


def test_in_a_batch_of_people_mixup_mixes_pairs_of_one_persons_clips() -> None:
    """Read from the mixtures themselves: clip n is 1 in band n alone; so is its label."""
    persons = np.array([4, 4, 4, 7, 7, 4, 9, 9, 9])
    unit = torch.eye(9)
    batch = replace(of_people(9, persons.tolist()), log_mel=unit[:, None, :].expand(-1, 4, -1), labels=unit)
    augment, pairs = Augmentation(Augment(mixup=1.0), 0, 1), set()
    for _ in range(8):
        changed = augment(batch)
        torch.testing.assert_close(changed.log_mel[:, 0], changed.labels)
        parts = [np.flatnonzero(row) for row in changed.labels.numpy() > 0]
        assert all(clip in own and len(set(persons[own])) == 1 for clip, own in enumerate(parts))
        assert all(np.array_equal(parts[other], own) for own in parts for other in own)  # a pair is mixed with itself
        assert [sum(len(parts[clip]) == 1 for clip in np.flatnonzero(persons == one)) for one in (4, 7, 9)] == [0, 2, 1]
        pairs |= {tuple(own) for own in parts[:3]}
    assert len(pairs) > 2  # others each time


@pytest.mark.parametrize("mixup", [0.3, 1.0, 100.0])
def test_no_mixture_enrols_one_that_has_a_clip_in_common_with_it(mixup: float) -> None:
    """Read from the mixtures themselves: clip n is 1 in band n alone."""
    index = np.array([0, 1, 2, 3, 4, 2, 6, 7, 8, 9])  # a clip may be in two groups of its person
    speakers = torch.tensor([5, 5, 5, 5, 5, 5, 1, 1, 1, 1])
    enrols = (speakers[:, None] == speakers).float().fill_diagonal_(0)
    batch = replace(batch_of(10), index=index, speakers=speakers, enrols=enrols)
    kept = 0
    for number in range(20):
        augment = Augmentation(Augment(mixup=mixup), 0, number)
        unit = torch.eye(10)[index][:, None, :].expand(-1, 4, -1)  # what a mixture is made of
        changed = augment(replace(batch, log_mel=unit))
        made_of = changed.log_mel[:, 0] > 0
        common = (made_of[:, None] & made_of[None]).any(dim=2)
        assert changed.enrols is not None
        assert not (changed.enrols.bool() & common).any()
        assert torch.equal(changed.enrols, enrols.masked_fill(common, 0))  # all others still enrol
        kept += int(changed.enrols.sum())
    assert kept > 0
    assert torch.equal(batch.enrols, enrols)  # the batch itself stays as it is


@pytest.mark.parametrize("clips", range(2, 9))
def test_a_person_keeps_clips_that_enrol_them_whatever_is_mixed(clips: int) -> None:
    enrols = torch.ones(clips, clips).fill_diagonal_(0)
    changed = Augmentation(Augment(mixup=1.0), 0, 1)(replace(of_people(clips, [3] * clips), enrols=enrols))
    assert changed.enrols is not None
    assert changed.enrols.sum(dim=1).min() >= max(1, clips - 2)


def test_warp_reads_a_clip_in_a_circle_at_another_pace_and_pitch() -> None:
    """Against NumPy's interpolation, clip by clip."""
    batch = batch_of(6, frames=50)
    changed = warp(batch.log_mel, 0.2, None, np.random.default_rng(7)).numpy()
    generator = np.random.default_rng(7)
    start, pace, pitch = generator.integers(0, 50, 6), generator.uniform(-0.2, 0.2, 6), generator.uniform(-0.2, 0.2, 6)
    for clip in range(6):
        places = (start[clip] + np.exp(pace[clip]) * np.arange(50)) % 50
        bands = np.arange(64) + BANDS_PER_E * pitch[clip]
        own = batch.log_mel[clip].numpy()
        in_time = np.stack([np.interp(places, np.arange(51), [*band, band[0]]) for band in own.T], axis=1)
        expected = np.stack([np.interp(bands, np.arange(64), frame) for frame in in_time])
        np.testing.assert_allclose(changed[clip], expected, atol=1e-2)


def test_pitch_moves_a_tone_as_its_frequency_says() -> None:
    """From 1 kHz on, against the log-mel of the other tone."""
    waves = [
        torch.sin(2 * math.pi * frequency * torch.arange(8000) / 16000) for frequency in (2000, 2000 * math.exp(0.1))
    ]
    bands = [int(log_mel(wave, FeatureConfig()).mean(dim=0).argmax()) for wave in waves]
    assert bands[1] - bands[0] == pytest.approx(0.1 * BANDS_PER_E, abs=1)


def test_a_persons_clips_keep_one_pitch() -> None:
    ramp = torch.arange(64.0).expand(4, 30, 64)  # a band's level is its number
    batch = replace(of_people(4, [3, 5, 3, 5]), log_mel=ramp)
    middle = Augmentation(Augment(warp=0.2), 0, 1)(batch).log_mel[:, 0, 32]
    assert middle[0] == middle[2]
    assert middle[1] == middle[3]
    assert middle[0] != middle[1]
    alone = Augmentation(Augment(warp=0.2), 0, 1)(replace(batch, enrols=None)).log_mel[:, 0, 32]
    assert len(set(alone.tolist())) == 4


def test_augmentation_is_a_function_of_seed_and_epoch() -> None:
    def epoch(seed: int, number: int) -> torch.Tensor:
        augment = Augmentation(Augment(0.1, 0.2, 0.3), seed, number)
        torch.rand(3)
        return torch.cat([augment(batch_of(4)).log_mel for _ in range(2)])

    assert torch.equal(epoch(0, 1), epoch(0, 1))
    assert not torch.equal(epoch(0, 1), epoch(0, 2))
    assert not torch.equal(epoch(0, 1), epoch(1, 1))
    assert not torch.equal(*epoch(0, 1).split(4))  # another draw for each batch


def test_the_loop_trains_on_the_changed_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """In an epoch: the batches as drawn, then changed one after the other; and whole features are not cut."""
    seen: list[torch.Tensor] = []
    step = train_step

    def watched(network, task, optimizer, batch, config, epoch, augment):  # type: ignore[no-untyped-def]
        def keep(batch: Batch) -> Batch:
            seen.append(augment(batch).log_mel)
            return replace(batch, log_mel=seen[-1])

        return step(network, task, optimizer, batch, config, epoch, keep)

    monkeypatch.setattr(loop, "train_step", watched)
    given = config(augment=Augment(spec_augment=0.2), crop_frames=30)
    network = make_network()
    loop.train_epoch(network, TASK, make_optimizer(network, given), make_clips(), given, 2)
    augment = Augmentation(Augment(spec_augment=0.2), 0, 2)
    expected = [augment(batch).log_mel for batch in training_batches(make_clips(), 4, 0, 2, None, 30)]
    assert all(torch.equal(one, other) for one, other in zip(seen, expected, strict=True))
    assert seen[0].shape == (4, 30, 64)


@pytest.mark.parametrize("limit", [0.0, 1e-3, 1e6])
def test_the_gradient_is_clipped(limit: float) -> None:
    """By its norm over all weights: a step of SGD without momentum's past is the learning rate times the gradient."""
    (batch,) = training_batches(make_clips(6), 6, 0, 1, frames=40)
    steps = []
    for clip_gradient in (0.0, limit):
        network, given = make_network(dropout=0.0).train(), config(learning_rate=1.0, clip_gradient=clip_gradient)
        before = torch.cat([weight.detach().flatten().clone() for weight in network.parameters()])
        train_step(network, TASK, make_optimizer(network, given), batch, given, 1)
        steps.append(torch.cat([weight.detach().flatten() for weight in network.parameters()]) - before)
    norm = steps[0].norm()
    factor = min(1.0, limit / float(norm)) if limit else 1.0
    torch.testing.assert_close(steps[1], factor * steps[0], rtol=1e-2, atol=1e-7)


def fitted(scores: list[float], capsys: pytest.CaptureFixture[str], **changes: object) -> tuple[list[Epoch], str]:
    epochs: list[Epoch] = []
    given, remaining = config(**({"epochs": len(scores)} | changes)), iter(scores)
    fit(
        make_network(),
        TASK,
        make_clips(4),
        given,
        lambda _: Validation(next(remaining)),
        lambda *_: None,
        epochs.append,
    )
    return epochs, capsys.readouterr().out


def test_patience_ends_training(capsys: pytest.CaptureFixture[str]) -> None:
    scores = [0.1, 0.3, math.nan, 0.2, 0.3, 0.5]
    epochs, said = fitted(scores, capsys, patience=3)
    assert [epoch.number for epoch in epochs] == [1, 2, 3, 4, 5]
    assert said == "stops after epoch 5: no better score in 3 epochs\n"
    assert len(fitted(scores, capsys, patience=4)[0]) == 6
    epochs, said = fitted(scores, capsys)
    assert (len(epochs), said) == (6, "")


def test_the_prior_is_scored_once_and_not_trained() -> None:
    network, epochs, saved = Network("prior", 2), [], []
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    best = fit(
        network,
        TASK,
        make_clips(4),
        config(epochs=3),
        lambda _: Validation(math.nan, {"mean_ccc": math.nan}),
        lambda weights, epoch: saved.append(epoch.number),
        epochs.append,
    )
    assert (best.number, len(epochs), saved) == (1, 1, [1])
    assert math.isnan(best.loss)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize(
    ("model", "task", "mixup"),
    [
        ("resnet", "fewshot", 0.3),
        ("resnet", "multitask", 0.0),
        ("resnet-relative", "fewshot", 0.3),
        ("cnn14", "fewshot", 0.0),
    ],
)
def test_auto_leaves_out_what_does_not_fit(model: str, task: str, mixup: float) -> None:
    settings, system = resolve(TrainSettings(model=model, task=task))
    assert settings.mixup == system.mixup == mixup
