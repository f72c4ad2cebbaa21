"""What a network learns: which labels become targets, where its outputs lie, and the objective over them."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from exvo.config import InputError
from exvo.losses import ccc_loss


def slug(name: str) -> str:
    """A target's name in metrics.

    >>> slug("Surprise (Negative)")
    'surprise_negative'
    """
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


@dataclass(frozen=True)
class Task:
    """The outputs of a network, in this order: one a target (emotion), then for multitask age and one a country.

    Attributes:
        name: fewshot (emotions) or multitask (emotions, age and country).
        targets: names of the emotions.
        countries: names of the classes of country; empty for fewshot.
        categories: whether the targets are exclusive categories (the largest prediction is the recognised one).
        objective: of the emotions: ccc or mse.
    """

    name: str
    targets: tuple[str, ...]
    countries: tuple[str, ...] = ()
    categories: bool = False
    objective: str = "ccc"

    @property
    def outputs(self) -> int:
        """Numbers that the network puts out."""
        return len(self.targets) + (1 + len(self.countries) if self.name == "multitask" else 0)

    def labels(self, clips: pd.DataFrame) -> np.ndarray:
        """The labels (clips, targets) or, for multitask, (clips, targets + 2): emotions, age in years, country's index.

        A country that the training split does not know, or an absent label, is NaN.
        """
        columns = [clips[target].to_numpy(np.float64) for target in self.targets]
        if self.name == "multitask":
            country = pd.Categorical(clips["country"], categories=list(self.countries)).codes.astype(np.float64)
            columns += [clips["age"].to_numpy(np.float64), np.where(country < 0, np.nan, country)]
        return np.stack(columns, axis=1)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The objective of a batch (arXiv 2206.06680).

        Few-shot: 1 - CCC over the batch's values of all emotions at once. Multitask: the mean over a term for each
        emotion (1 - CCC), age (squared error, years²) and country (cross entropy).

        Args:
            outputs: (batch, outputs).
            labels: (batch, targets) or (batch, targets + 2), as `labels` gives them.
        """
        count = len(self.targets)
        if self.name == "fewshot":
            if self.objective == "mse":
                return functional.mse_loss(outputs, labels)
            return ccc_loss(labels.reshape(-1, 1), outputs.reshape(-1, 1)).mean()
        if self.objective == "mse":
            emotions = (outputs[:, :count] - labels[:, :count]).square().mean(dim=0)
        else:
            emotions = ccc_loss(labels[:, :count], outputs[:, :count])
        age = functional.mse_loss(outputs[:, count], labels[:, count])
        country = functional.cross_entropy(outputs[:, count + 1 :], labels[:, count + 1].long())
        return torch.cat([emotions, age[None], country[None]]).mean()

    def answers(self, outputs: np.ndarray) -> pd.DataFrame:
        """Outputs (clips, outputs) as a table with a column a target; for multitask also age (years) and country."""
        count = len(self.targets)
        table = pd.DataFrame(outputs[:, :count].astype(np.float64), columns=list(self.targets))
        if self.name == "multitask":
            table["age"] = outputs[:, count].astype(np.float64)
            table["country"] = np.array(self.countries)[outputs[:, count + 1 :].argmax(axis=1)]
        return table

    def table(self, clips: pd.DataFrame, outputs: np.ndarray) -> pd.DataFrame:
        """The predictions table: one row a clip.

        Args:
            clips: rows of the corpus' table.
            outputs: (clips, outputs).

        Returns:
            file, speaker, split, country (where the corpus has it), then `truth.<target>` and `prediction.<target>`;
            for multitask also of age (years) and country; for exclusive categories also of the category.
        """
        labels = [*self.targets, *(("age", "country") if self.name == "multitask" else ())]
        answers = self.answers(outputs)
        if self.categories:
            labels.append("category")
            answers["category"] = np.array(self.targets)[outputs.argmax(axis=1)]
        about = clips[[name for name in ("file", "split", "speaker", "country") if name in clips]].reset_index(
            drop=True
        )
        truth = clips[labels].reset_index(drop=True).add_prefix("truth.")
        return pd.concat([about, truth, answers.add_prefix("prediction.")], axis=1)


def make_task(
    name: str, clips: pd.DataFrame, targets: tuple[str, ...], corpus: str, categories: bool, objective: str = "ccc"
) -> Task:
    """The task over a corpus' table; the classes of country are those of the training split.

    Raises:
        InputError: multitask without age or country, an age or country missing in train or val, a country of val
            that train lacks, or two targets whose names differ only in punctuation.
    """
    slugs = pd.Series([slug(target) for target in targets], index=list(targets))
    if slugs.duplicated().any() or (slugs == "").any():
        clash = list(slugs.index[slugs.duplicated(keep=False) | (slugs == "")])
        raise InputError(f"The targets {clash} of the corpus {corpus} share a name without punctuation; rename them.")
    if name == "fewshot":
        return Task(name, targets, categories=categories, objective=objective)
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
