"""Tasks: which labels a network learns, and which output is which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from exvo.errors import InputError
from exvo.text import slug

MAX_TARGET_NAME = 200
"""Characters of a target's name in the name of a metric, for which MLflow takes 250 in all."""

FURTHER_LABELS: dict[str, tuple[str, ...]] = {"fewshot": (), "multitask": ("age", "country"), "speaker": ("speaker",)}
"""The labels of each task beside the targets."""


def class_indices(labels: pd.Series[str], classes: tuple[str, ...]) -> np.ndarray:
    """The index of each label among the classes, (clips,); NaN where it is none of them."""
    codes = pd.Categorical(labels, categories=list(classes)).codes.astype(np.float64)
    return np.where(codes < 0, np.nan, codes)


class Level(NamedTuple):
    """How sure a model must be so that it is right as often as that, as measured on validation.

    Attributes:
        accuracy: the share of the answers that are right, at least; in whole percents.
        share: that the first category of a clip has at least, where the model is sure.
        coverage: the share of the validation clips in which it is sure.
    """

    accuracy: float
    share: float
    coverage: float


@dataclass(frozen=True)
class Task:
    """What a network learns: the meaning of its outputs.

    They are, in this order, one for each target (emotion), then for multitask one for the age and one for each country.
    A speaker recogniser has one output for each speaker instead.

    Attributes:
        name: fewshot (emotions), multitask (emotions, age and country) or speaker.
        targets: names of the emotions; empty for speaker.
        countries: names of the classes of country; empty for fewshot.
        categories: whether the targets are exclusive categories: the one with the largest prediction is recognised.
        objective: of the emotions: ccc, mse, or for exclusive categories cross-entropy (the outputs are then logits).
        speakers: names of the classes of speaker; empty but for speaker.
        limits: the lowest and the highest intensity in training, within which intensities are shown; None: not known,
            or the targets are categories.
    """

    name: str
    targets: tuple[str, ...]
    countries: tuple[str, ...] = ()
    categories: bool = False
    objective: str = "ccc"
    speakers: tuple[str, ...] = ()
    limits: tuple[float, float] | None = None

    @property
    def outputs(self) -> int:
        """The number of the network's outputs."""
        return len(self.targets) + len(self.speakers) + (1 + len(self.countries) if self.name == "multitask" else 0)

    def among(self, targets: Sequence[str]) -> Task:
        """The emotions alone, and of these the given ones, in the order of the task."""
        kept = tuple(target for target in self.targets if target in targets)
        return replace(self, name="fewshot", targets=kept, countries=())

    def labels(self, clips: pd.DataFrame) -> np.ndarray:
        """The labels of clips; NaN where one is missing, or where training has no such country or speaker.

        Returns:
            (clips, targets): emotions, 0-1; for multitask (clips, targets + 2), with the age in years and the index of
            the country; for speaker (clips, 1), the index of the speaker.
        """
        if self.name == "speaker":
            return class_indices(clips["speaker"], self.speakers)[:, None]
        columns = [clips[target].to_numpy(np.float64) for target in self.targets]
        if self.name == "multitask":
            columns += [clips["age"].to_numpy(np.float64), class_indices(clips["country"], self.countries)]
        return np.stack(columns, axis=1)

    def shares(self, outputs: np.ndarray, temperature: float | None = None) -> np.ndarray:
        """The outputs of a network as what they say of each target: shares where the objective is cross-entropy.

        Args:
            outputs: (clips, outputs), of the network.
            temperature: by which logits are divided before the softmax (arXiv 1706.04599); None: 1.

        Returns:
            (clips, outputs), float64: for cross-entropy shares, which sum to 1; otherwise the outputs as they are.
        """
        numbers = outputs.astype(np.float64)
        if self.objective != "cross-entropy":
            return numbers
        logits = numbers / (temperature or 1.0)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
        return shares

    def answers(self, outputs: np.ndarray, temperature: float | None = None, sure: Level | None = None) -> pd.DataFrame:
        """The outputs as people are shown them, a row for each clip: intensities within `limits`.

        Args:
            outputs: (clips, outputs), of the network.
            temperature: see `shares`.
            sure: what makes an answer sure; None: that is not asked.

        Returns:
            A column for each target, for multitask also `age` (years) and `country`; for speaker the one column
            `speaker`, the training speaker recognised. Where it is asked, also `sure`: whether the clip's first
            category has a share so large.
        """
        table, targets = self._columns(outputs, temperature), list(self.targets)
        if self.limits is not None:
            table[targets] = table[targets].clip(*self.limits)
        if sure is not None:
            table["sure"] = table[targets].to_numpy().max(axis=1) >= sure.share
        return table

    def _columns(self, outputs: np.ndarray, temperature: float | None) -> pd.DataFrame:
        """The columns of `answers`, as they are scored: intensities beyond `limits` stay."""
        if self.name == "speaker":
            return pd.DataFrame({"speaker": np.array(self.speakers)[outputs.argmax(axis=1)]})
        count = len(self.targets)
        table = pd.DataFrame(self.shares(outputs[:, :count], temperature), columns=list(self.targets))
        if self.name == "multitask":
            table["age"] = outputs[:, count].astype(np.float64)
            table["country"] = np.array(self.countries)[outputs[:, count + 1 :].argmax(axis=1)]
        return table

    def table(
        self,
        clips: pd.DataFrame,
        outputs: np.ndarray,
        scored: np.ndarray | None = None,
        temperature: float | None = None,
    ) -> pd.DataFrame:
        """The predictions table, which is scored: one row a clip, also intensities beyond `limits`.

        Args:
            clips: rows of the corpus' table.
            outputs: (clips, outputs), of the network.
            scored: (clips,), False for clips that enrol and so are not scored; None: all are scored.
            temperature: see `shares`.

        Returns:
            file, split, speaker, country and corpus (where there are some), scored, `truth.<label>` and
            `prediction.<label>`. The labels are the targets, for multitask also age (years) and country, for exclusive
            categories also the category; for speaker the speaker alone.
        """
        labels = [*self.targets, *FURTHER_LABELS[self.name]]
        answers = self._columns(outputs, temperature)
        if self.categories:
            labels.append("category")
            answers["category"] = np.array(self.targets)[outputs.argmax(axis=1)]
        columns = [name for name in ("file", "split", "speaker", "country", "corpus") if name in clips]
        descriptions = clips[columns].reset_index(drop=True)
        descriptions["scored"] = True if scored is None else scored
        truth = clips[labels].reset_index(drop=True).add_prefix("truth.")
        return pd.concat([descriptions, truth, answers.add_prefix("prediction.")], axis=1)


def task_of(predictions: pd.DataFrame, name: str = "") -> Task:
    """The task of a predictions table, as far as scoring needs it.

    Args:
        predictions: a row a clip, see `Task.table`.
        name: fewshot, multitask or speaker; empty: read off the columns.
    """
    texts = {
        column.removeprefix("truth."): not pd.api.types.is_numeric_dtype(predictions[column])
        for column in map(str, predictions.columns)
        if column.startswith("truth.")
    }
    if not name:
        multitask = texts.get("country") and texts.get("age") is False
        name = "speaker" if texts.get("speaker") else "multitask" if multitask else "fewshot"
    categories = texts.get("category", False)
    beside = {*FURTHER_LABELS[name], *(("category",) if categories else ())}
    return Task(name, tuple(label for label in texts if label not in beside), categories=categories)


def make_task(
    name: str, clips: pd.DataFrame, targets: tuple[str, ...], corpus: str, categories: bool, objective: str = "ccc"
) -> Task:
    """The task for a corpus; the classes of country, or of speaker, are those of the training split.

    Args:
        name: fewshot, multitask or speaker.
        clips: the corpus' table; for speaker the split train holds only the clips to train on, see `speaker_split`.
        targets: names of the emotions.
        corpus: its name, for sentences.
        categories: whether the targets are exclusive categories.
        objective: of the emotions: ccc, mse or cross-entropy.

    Raises:
        InputError: cross-entropy of what are no exclusive categories, or not for fewshot; multitask without age or
            country, an age or country missing in train or val, a country of val that train lacks, fewer than two
            speakers, two targets whose names differ only in punctuation, or a name too long for a metric.
    """
    slugs = pd.Series([slug(target) for target in targets], index=list(targets))
    if slugs.duplicated().any() or (slugs == "").any():
        clash = list(slugs.index[slugs.duplicated(keep=False) | (slugs == "")])
        raise InputError(f"The targets {clash} of the corpus {corpus} share a name without punctuation; rename them.")
    too_long = [target for target in targets if len(slug(target)) > MAX_TARGET_NAME]
    if too_long:
        raise InputError(
            f"Corpus {corpus} has {len(too_long)} target names of more than {MAX_TARGET_NAME} characters, too long for "
            f"metrics: shorten them, the first being {too_long[0][:50]}..."
        )
    if objective == "cross-entropy" and name != "speaker" and not (categories and name == "fewshot"):
        what = f"task={name} has other labels too" if categories else f"the labels of {corpus} are intensities"
        raise InputError(f"objective=cross-entropy is for exclusive categories alone, but {what}; give ccc or mse.")
    limits = None
    if not categories and name != "speaker":
        known = clips.loc[clips["split"] == "train", list(targets)].to_numpy(np.float64)
        limits = (float(np.nanmin(known)), float(np.nanmax(known)))
    if name == "fewshot":
        return Task(name, targets, categories=categories, objective=objective, limits=limits)
    if name == "speaker":
        return Task(name, (), speakers=speaker_classes(clips, corpus))
    train_and_val = clips[clips["split"].isin(["train", "val"])]
    for column in ("age", "country"):
        if column not in clips:
            raise InputError(
                f"task=multitask needs the column {column}, which the corpus {corpus} lacks; use task=fewshot."
            )
        is_missing = train_and_val[column].isna() | (train_and_val[column].astype(str) == "")
        missing = train_and_val["file"][is_missing]
        if len(missing):
            raise InputError(
                f"task=multitask needs the {column} of each clip; the corpus {corpus} lacks it for {len(missing)} "
                f"clips of train and val, the first being {missing.iloc[0]}."
            )
    countries = tuple(sorted(train_and_val["country"][train_and_val["split"] == "train"].unique()))
    unseen = sorted(set(train_and_val["country"]) - set(countries))
    if unseen:
        raise InputError(f"The val split of the corpus {corpus} has countries that train lacks: {', '.join(unseen)}.")
    return Task(name, targets, countries, categories, objective, limits=limits)


def speaker_classes(clips: pd.DataFrame, corpus: str) -> tuple[str, ...]:
    """The speakers of the training split, in sorted order.

    Raises:
        InputError: there are fewer than two.
    """
    speakers = tuple(sorted(clips["speaker"][clips["split"] == "train"].unique()))
    if len(speakers) < 2:
        raise InputError(
            f"task=speaker tells training speakers apart who have two or more readable clips; the corpus {corpus} has "
            f"{len(speakers)}, and needs two."
        )
    return speakers


def speaker_split(clips: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The training clips and the held-out clips of a speaker recogniser, which is validated on speakers it knows.

    Of each speaker's clips, in the order of the table, the 3rd, 8th, 13th and so on are held out, and the second of
    two. A speaker with a single clip is in neither part.

    Args:
        clips: readable rows of the corpus' train split.

    Returns:
        The rows to train on and the rows held out, each in the order of the table and with its index.
    """
    number = clips.groupby("speaker").cumcount()
    count = clips.groupby("speaker")["speaker"].transform("size")
    held_out = (number % 5 == 2) | ((count == 2) & (number == 1))
    return clips[~held_out & (count > 1)], clips[held_out]
