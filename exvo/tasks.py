"""What a network learns: which labels become targets, and where its outputs lie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from exvo.errors import InputError
from exvo.text import slug

LONGEST = 200
"""Characters of a target's name in metrics: with what stands around it, MLflow takes 250."""

FURTHER_LABELS: dict[str, tuple[str, ...]] = {"fewshot": (), "multitask": ("age", "country"), "speaker": ("speaker",)}
"""The labels of each task beside the targets."""


def indices(labels: pd.Series[str], classes: tuple[str, ...]) -> np.ndarray:
    """The index of each label (clips,) among the classes; NaN where it is none of them."""
    codes = pd.Categorical(labels, categories=list(classes)).codes.astype(np.float64)
    return np.where(codes < 0, np.nan, codes)


@dataclass(frozen=True)
class Task:
    """The outputs of a network, in this order: one a target (emotion), then for multitask age and one a country.

    A speaker recogniser has one output a speaker instead.

    Attributes:
        name: fewshot (emotions), multitask (emotions, age and country) or speaker.
        targets: names of the emotions; empty for speaker.
        countries: names of the classes of country; empty for fewshot.
        categories: whether the targets are exclusive categories (the largest prediction is the recognised one).
        objective: of the emotions: ccc or mse.
        speakers: names of the classes of speaker; empty but for speaker.
    """

    name: str
    targets: tuple[str, ...]
    countries: tuple[str, ...] = ()
    categories: bool = False
    objective: str = "ccc"
    speakers: tuple[str, ...] = ()

    @property
    def outputs(self) -> int:
        """Numbers that the network puts out."""
        return len(self.targets) + len(self.speakers) + (1 + len(self.countries) if self.name == "multitask" else 0)

    def labels(self, clips: pd.DataFrame) -> np.ndarray:
        """The labels (clips, targets) or, for multitask, (clips, targets + 2): emotions, age in years, country's index.

        For speaker (clips, 1): the speaker's index. A country or speaker that training does not know, or an absent
        label, is NaN.
        """
        if self.name == "speaker":
            return indices(clips["speaker"], self.speakers)[:, None]
        columns = [clips[target].to_numpy(np.float64) for target in self.targets]
        if self.name == "multitask":
            columns += [clips["age"].to_numpy(np.float64), indices(clips["country"], self.countries)]
        return np.stack(columns, axis=1)

    def answers(self, outputs: np.ndarray) -> pd.DataFrame:
        """Outputs (clips, outputs) as a table with a column a target; for multitask also age (years) and country.

        For speaker the one column `speaker`: who of the training speakers it sounds like.
        """
        if self.name == "speaker":
            return pd.DataFrame({"speaker": np.array(self.speakers)[outputs.argmax(axis=1)]})
        count = len(self.targets)
        table = pd.DataFrame(outputs[:, :count].astype(np.float64), columns=list(self.targets))
        if self.name == "multitask":
            table["age"] = outputs[:, count].astype(np.float64)
            table["country"] = np.array(self.countries)[outputs[:, count + 1 :].argmax(axis=1)]
        return table

    def table(self, clips: pd.DataFrame, outputs: np.ndarray, scored: np.ndarray | None = None) -> pd.DataFrame:
        """The predictions table: one row a clip.

        Args:
            clips: rows of the corpus' table.
            outputs: (clips, outputs).
            scored: (clips,), False for clips that enrol and so are not scored; None: all are scored.

        Returns:
            file, speaker, split, country (where the corpus has it), scored, `truth.<target>` and `prediction.<target>`;
            for multitask also of age (years) and country; for exclusive categories also of the category; for speaker
            of the speaker alone.
        """
        labels = [*self.targets, *FURTHER_LABELS[self.name]]
        answers = self.answers(outputs)
        if self.categories:
            labels.append("category")
            answers["category"] = np.array(self.targets)[outputs.argmax(axis=1)]
        about = clips[[name for name in ("file", "split", "speaker", "country") if name in clips]].reset_index(
            drop=True
        )
        about["scored"] = True if scored is None else scored
        truth = clips[labels].reset_index(drop=True).add_prefix("truth.")
        return pd.concat([about, truth, answers.add_prefix("prediction.")], axis=1)


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
    """The task over a corpus' table; the classes of country, or of speaker, are those of the training split.

    For speaker `split` is as `speaker_split` has it: of the readable clips to train on it is train.

    Raises:
        InputError: multitask without age or country, an age or country missing in train or val, a country of val
            that train lacks, fewer than two speakers, two targets whose names differ only in punctuation, or a name too
            long for a metric.
    """
    slugs = pd.Series([slug(target) for target in targets], index=list(targets))
    if slugs.duplicated().any() or (slugs == "").any():
        clash = list(slugs.index[slugs.duplicated(keep=False) | (slugs == "")])
        raise InputError(f"The targets {clash} of the corpus {corpus} share a name without punctuation; rename them.")
    long = [target for target in targets if len(slug(target)) > LONGEST]
    if long:
        raise InputError(
            f"Corpus {corpus} has {len(long)} target names of more than {LONGEST} characters, too long for metrics: "
            f"shorten them, the first being {long[0][:50]}..."
        )
    if name == "fewshot":
        return Task(name, targets, categories=categories, objective=objective)
    if name == "speaker":
        return Task(name, (), speakers=speaker_classes(clips, corpus))
    learnt = clips[clips["split"].isin(["train", "val"])]
    for column in ("age", "country"):
        if column not in clips:
            raise InputError(
                f"task=multitask needs the column {column}, which the corpus {corpus} lacks; use task=fewshot."
            )
        absent = learnt["file"][learnt[column].isna() | (learnt[column].astype(str) == "")]
        if len(absent):
            raise InputError(
                f"task=multitask needs the {column} of each clip; the corpus {corpus} lacks it for {len(absent)} clips "
                f"of train and val, the first being {absent.iloc[0]}."
            )
    countries = tuple(sorted(learnt["country"][learnt["split"] == "train"].unique()))
    strange = sorted(set(learnt["country"]) - set(countries))
    if strange:
        raise InputError(f"The val split of the corpus {corpus} has countries that train lacks: {', '.join(strange)}.")
    return Task(name, targets, countries, categories, objective)


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

    Of each speaker's clips, in the order of the table, the 3rd, 8th, 13th and so on are held out; of two clips the
    second is. A speaker with a single clip is in neither part.

    Args:
        clips: readable rows of the corpus' train split.

    Returns:
        The rows to train on and the rows held out, each in the order of the table and with its index.
    """
    place = clips.groupby("speaker").cumcount()
    count = clips.groupby("speaker")["speaker"].transform("size")
    held_out = (place % 5 == 2) | ((count == 2) & (place == 1))
    return clips[~held_out & (count > 1)], clips[held_out]
