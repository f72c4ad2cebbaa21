"""What another corpus has in common with a model: the clips of it whose labels the model knows, under its names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from exvo.config import ELSEWHERE
from exvo.corpora.base import Corpus
from exvo.corpora.categories import one_hot
from exvo.corpora.splits import ALL_SCORED
from exvo.errors import InputError
from exvo.text import listing, printable, slug


@dataclass(frozen=True)
class Common:
    """The part of a corpus on which a model of another one is scored.

    Attributes:
        corpus: with all its clips and the model's names of what is in common; the split of the clips that are scored is
            `ELSEWHERE`, that of the others empty.
        split: which clips these are: train, val or test; empty: all, as the corpus has no splits.
        targets: what is in common by the model's name, with the corpus' name, in the model's order.
        clips: of exclusive categories the clips of each in common, by the model's name; of intensities empty.
        left_out: what the model does not know, by the corpus' name, with its clips; of intensities those that have it.
        left_out_clips: clips of the split that are of categories that the model does not know.
        lacking: the targets of the model that the clips lack.
    """

    corpus: Corpus
    split: str
    targets: Mapping[str, str]
    clips: Mapping[str, int]
    left_out: Mapping[str, int]
    left_out_clips: int
    lacking: tuple[str, ...]

    def sentences(self) -> list[str]:
        """What is scored and what is left out."""
        kind = "categories" if self.corpus.categories else "intensities"
        clips = self.corpus.clips["split"] == ELSEWHERE
        which = f"the {self.split} split" if self.split else "all clips, as it has no splits"
        count = len(self.targets)
        names = [_named(ours, theirs) for ours, theirs in self.targets.items()]
        if self.clips:
            names = [f"{name} ({number:,} clips)" for name, number in zip(names, self.clips.values(), strict=True)]
        scored = f"Of the other corpus {which}: {int(clips.sum()):,} clips of"
        said = [f"{scored} {count} {kind} that the model knows: {listing(names, 30)}."]
        if self.left_out:
            unknown = listing(f"{printable(name)} ({number:,} clips)" for name, number in self.left_out.items())
            number = len(self.left_out)
            what = kind if number > 1 else "category" if self.clips else "intensity"
            of_clips = f"{self.left_out_clips:,} clips of " if self.clips else ""
            said.append(f"Left out, {of_clips}{number} {what} that the model does not know: {unknown}.")
        if self.lacking:
            lacking = listing(map(printable, self.lacking))
            scaled = f"; shares are scaled to sum to 1 over the {count} in common, and chance is 1/{count}"
            said.append(
                f"Of the model's {count + len(self.lacking)} {kind} these clips lack {len(self.lacking)} ({lacking})"
                f"{scaled if self.clips else ''}."
            )
        return said


def in_common(corpus: Corpus, targets: Sequence[str], categories: bool, split: str) -> Common:
    """The part of another corpus whose labels a model knows, by names with the same letters and digits.

    Args:
        corpus: the other one; clips whose split is empty are left out.
        targets: of the model.
        categories: whether these are exclusive categories.
        split: of the corpus that is scored; where it has no splits, all its clips are.

    Raises:
        InputError: the one has categories and the other intensities, the split has no clips, or too little is in
            common to score.
    """
    kind, other = ("categories", "intensities") if categories else ("intensities", "categories")
    if categories != bool(corpus.categories):
        remedy = ", or give the column of its categories (columns=category:<column>)" if categories else ""
        raise InputError(
            f"{corpus.folder}: the model recognises {kind}, and the labels of this corpus are {other}, which can't be "
            f"compared; give another corpus{remedy}."
        )
    whole = corpus.assigned == ALL_SCORED
    chosen = corpus.clips["split"] != "" if whole else corpus.clips["split"] == split
    rows = corpus.clips[chosen]
    if rows.empty:
        present = listing(sorted(set(corpus.clips["split"]) - {""}))
        raise InputError(f"{corpus.folder} has no clips in its {split} split; give split=, of {present}.")
    counts = {name: int(rows[name].notna().sum()) for name in corpus.targets}
    if categories:
        clips = rows["category"].value_counts()
        counts = {name: int(clips[name]) for name in corpus.categories if name in clips}
    shared = _pairs(targets, list(counts))
    if len(shared) < (2 if categories else 1):
        one = f" but {printable(next(iter(shared)))}, and to recognise one takes two" if shared else ""
        names = (listing(map(printable, present), 5) for present in (targets, counts))
        remedy = "give labels=new=old+old, new being the model's names" if categories else "name the columns alike"
        raise InputError(
            f"{corpus.folder}: model and corpus have no {kind} in common{one} (the model's: {next(names)}; the "
            f"corpus': {next(names)}); {remedy}{'' if categories else ' (columns=<name>:<column>)'}."
        )
    ours_of = {theirs: ours for ours, theirs in shared.items()}
    left_out = {name: number for name, number in counts.items() if name not in ours_of}
    return Common(
        corpus=_renamed(corpus, ours_of, chosen & ~corpus.clips["category"].isin(left_out) if categories else chosen),
        split="" if whole else split,
        targets=shared,
        clips={ours: counts[theirs] for ours, theirs in shared.items()} if categories else {},
        left_out=left_out,
        left_out_clips=sum(left_out.values()) if categories else 0,
        lacking=tuple(name for name in targets if name not in shared),
    )


def _pairs(targets: Sequence[str], present: Sequence[str]) -> dict[str, str]:
    """The model's name of each target that is there -> the corpus' name: the same, else of the same letters and digits.

    >>> _pairs(["Joy", "Fear", "Awe"], ["awe", "Joy", "joy!"])
    {'Joy': 'Joy', 'Awe': 'awe'}
    """
    alike = {slug(name): name for name in reversed(present) if slug(name)}
    names = {name: name if name in present else alike.get(slug(name)) for name in targets}
    return {ours: theirs for ours, theirs in names.items() if theirs is not None}


def _renamed(corpus: Corpus, ours_of: Mapping[str, str], scored: object) -> Corpus:
    """The corpus under the model's names of its targets, with the split `ELSEWHERE` of the clips that are scored."""
    clips = corpus.clips
    numbers = clips[list(ours_of)].rename(columns=dict(ours_of))
    clips = clips.drop(columns=list(corpus.targets)).assign(split="")
    clips.loc[scored, "split"] = ELSEWHERE
    if corpus.categories:
        clips["category"] = clips["category"].map(lambda name: ours_of.get(name, ""))
        numbers = one_hot(clips["category"], list(numbers.columns))
    names = tuple(map(str, numbers.columns))
    return replace(
        corpus,
        clips=clips.join(numbers),
        targets=names,
        categories=names if corpus.categories else (),
    )


def _named(ours: str, theirs: str) -> str:
    return printable(ours) if ours == theirs else f"{printable(theirs)} as {printable(ours)}"
