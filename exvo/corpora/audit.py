"""The audit: what a corpus holds and what is wrong with it, before anything is trained on it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from exvo.config import CNN14_FRAMES, SPLITS, FeatureConfig
from exvo.corpora.base import Corpus
from exvo.text import NO_SPEAKERS, listing, look_alikes

FILL_SECONDS = FeatureConfig().seconds(CNN14_FRAMES)
"""The length below which CNN14 fills a clip: 0.32 s."""

SHORT = {
    "log-mel": "which CNN14 fills (CNN10 those under 0.16 s, resnet under 0.08 s)",
    "functionals": "which openSMILE takes as they are; those under 0.06 s are repeated up to there",
    "states": "which the encoder takes as they are; those shorter than its first frame (25 ms, of w2v-BERT 35 ms) are "
    "repeated up to there",
    "embeddings": "which the run's network fills as in its training, where it is CNN14 (CNN10 those under 0.16 s, "
    "resnet under 0.08 s)",
}
"""What becomes of clips under `FILL_SECONDS`, by the kind of the features."""

MOST_COUNTS = 50
"""Categories whose numbers of clips the audit lists; all are in its summary."""

UNEQUAL = 3
"""How many times the clips of the rarest category the most frequent one of train has, from which on it is warned of."""

_TEXT = ("file", "split", "speaker", "country", "category", "corpus")


@dataclass(frozen=True)
class Audit:
    """Facts about a corpus.

    Attributes:
        summary: all counts and lists, as they are logged in JSON.
        warnings: what is wrong, in sentences.
        digest: SHA-256, in hexadecimal, of the whole content in order: all columns of the table and each clip's audio
            bytes. It depends neither on where the folder lies nor on splits that exvo has assigned.
    """

    summary: dict[str, Any]
    warnings: list[str]
    digest: str

    def text(self, kind: str = "log-mel") -> str:
        """The audit for a terminal; `kind` is that of the features, by which short clips are treated."""
        overview = _overview(self.summary, SHORT[kind])
        return "\n".join([*overview, f"digest     {self.digest}", *_tables(self.summary), *self._notes()])

    def _notes(self) -> list[str]:
        return ["", *(f"warning: {sentence}" for sentence in self.warnings)] if self.warnings else []


def audit(corpus: Corpus, audio: pd.DataFrame) -> Audit:
    """The audit of a corpus. Hours, rates and short clips count the clips without a problem.

    Args:
        corpus: the corpus.
        audio: one row a row of `corpus.clips`, in the same order: `file`, `content` (SHA-256 of the bytes, '' for an
            unreadable file), `seconds`, `rate` (Hz), `problem` ('' where there is none), and where they are known
            `decoded` (equal for equal samples in whatever file) and `note` (what of the file is lost); other columns
            are not read.

    Raises:
        ValueError: `audio` is not of this corpus.
    """
    if audio["file"].tolist() != corpus.clips["file"].tolist():
        raise ValueError(f"the audio table is not of these clips of {corpus.folder}: extract the corpus again")
    facts = audio[["content", "seconds", "rate", "problem"]].reset_index(drop=True)
    facts["note"] = audio["note"].to_numpy() if "note" in audio else ""
    facts["samples"] = recordings(audio).to_numpy()
    clips = pd.concat([corpus.clips.reset_index(drop=True), facts.add_prefix("audio_")], axis=1)
    summary = _summary(corpus, clips)
    warnings = _warnings(corpus, clips, summary)
    undecoded = int((audio["decoded"][audio["problem"] == ""] == "").sum()) if "decoded" in audio else 0
    if undecoded:
        warnings.append(
            f"{undecoded} clips were extracted by an earlier version, so copies of them are recognised only in equal "
            "files, not in another format or with other tags: delete the folder of the features to extract them anew."
        )
    return Audit(summary, warnings, _digest(corpus, facts["content"]))


def recordings(audio: pd.DataFrame) -> pd.Series:
    """A text for each row that is equal for equal samples: `decoded` where it is known, else `content`.

    Args:
        audio: as for `audit`.
    """
    if "decoded" not in audio:
        return audio["content"]
    has_decoded = audio["decoded"] != ""
    samples = dict(zip(audio["content"][has_decoded], audio["decoded"][has_decoded], strict=True))
    return audio["content"].map(lambda content: samples.get(content, content))


def _summary(corpus: Corpus, clips: pd.DataFrame) -> dict[str, Any]:
    fine = clips[clips["audio_problem"] == ""]
    broken = clips[clips["audio_problem"] != ""]
    short = fine["file"][fine["audio_seconds"] < FILL_SECONDS].tolist()
    per_speaker = clips[clips["speaker"] != ""].groupby("speaker")["split"].nunique()
    rates = fine["audio_rate"].astype(int).value_counts().sort_index()
    copies = clips[clips["audio_samples"] != ""].groupby("audio_samples", sort=False)["file"].agg(list)
    noted = fine[fine["audio_note"] != ""]
    return {
        "corpus": corpus.name,
        "synthetic": corpus.synthetic,
        "reading": list(corpus.notes),
        "selected": list(corpus.selected),
        **_counts(corpus, clips),
        "assigned_splits": _assigned_splits(corpus),
        "splits": {split: _counts(corpus, clips[clips["split"] == split]) for split in _splits(corpus)},
        "sample_rates": {str(rate): int(count) for rate, count in rates.items()},
        "categories": _tally(clips["category"]) if corpus.categories else None,
        "trained_categories": _tally(clips["category"][clips["split"] == "train"]) if corpus.categories else None,
        "labels": {target: _range(clips[target]) for target in corpus.targets},
        "ages": _range(clips["age"]) if "age" in clips else None,
        "countries": _tally(clips["country"]) if "country" in clips else None,
        "corpora": _tally(clips["corpus"]) if corpus.roots else None,
        "unreadable": [
            {"file": file, "problem": problem}
            for file, problem in zip(broken["file"], broken["audio_problem"], strict=True)
        ],
        "notes": [{"file": file, "note": note} for file, note in zip(noted["file"], noted["audio_note"], strict=True)],
        "filled": {"count": len(short), "files": short},
        "duplicates": [files for files in copies if len(files) > 1],
        "in_several_corpora": _in_several(clips, copies) if corpus.roots else [],
        "speakers_in_several_splits": sorted(per_speaker.index[per_speaker > 1]),
        "look_alikes": _look_alikes(corpus),
    }


def _in_several(clips: pd.DataFrame, copies: pd.Series) -> list[str]:
    """The groups of files with equal audio that are of several tables, as `a/1.wav = b/1.wav`."""
    corpus = dict(zip(clips["file"], clips["corpus"], strict=True))
    groups = [files for files in copies if len({corpus[file] for file in files}) > 1]
    return [" = ".join(files[:4]) + " = ..." * (len(files) > 4) for files in groups]


def _splits(corpus: Corpus) -> list[str]:
    """The names of the splits, or of the folds, in their order."""
    folds = [name for name in corpus.clips["split"].unique() if name not in ("", *SPLITS)]
    return sorted(folds, key=lambda name: (len(name), name)) or list(SPLITS)


def _assigned_splits(corpus: Corpus) -> str | None:
    """How exvo has assigned the splits, in words; None where they are the corpus' own."""
    if not corpus.assigned:
        return None
    own = "its own splits are set aside" if corpus.own_splits else "the corpus has none of its own"
    nowhere = int((corpus.clips["split"] == "").sum())
    left = f"; {_count(nowhere, 'clip')} without a speaker or a label in none" if nowhere else ""
    return f"{corpus.assigned} ({own}{left})"


def _look_alikes(corpus: Corpus) -> dict[str, list[list[str]]]:
    """Kind of name (speaker, country, label) -> groups of names that differ only by case, spaces or width."""
    kinds = {name: sorted(corpus.clips[name].unique()) for name in ("speaker", "country") if name in corpus.clips}
    groups = {kind: look_alikes(names) for kind, names in (kinds | {"label": list(corpus.targets)}).items()}
    return {kind: spellings for kind, spellings in groups.items() if spellings}


def _counts(corpus: Corpus, clips: pd.DataFrame) -> dict[str, Any]:
    """The numbers of clips, of clips with labels and of named speakers, and the hours of clips without a problem."""
    return {
        "clips": len(clips),
        "labelled": int(clips[list(corpus.targets)].notna().all(axis=1).sum()),
        "speakers": int(clips["speaker"][clips["speaker"] != ""].nunique()),
        "hours": float(clips["audio_seconds"][clips["audio_problem"] == ""].sum() / 3600),
    }


def _range(values: pd.Series) -> dict[str, float | int | None]:
    """Minimum, mean and maximum of the values (None where there are none), and how many are missing."""
    numbers = values.dropna()
    figures = {name: float(numbers.agg(name)) if len(numbers) else None for name in ("min", "mean", "max")}
    return {**figures, "missing": int(values.isna().sum())}


def _tally(values: pd.Series) -> dict[str, int]:
    """The number of clips with each value, in alphabetical order; '' counts the clips without one."""
    return {str(value): int(count) for value, count in values.value_counts().sort_index().items()}


def _warnings(corpus: Corpus, clips: pd.DataFrame, summary: dict[str, Any]) -> list[str]:
    split = dict(zip(clips["file"], clips["split"], strict=True))
    warnings = [] if corpus.has_speakers else [NO_SPEAKERS]
    if summary["unreadable"]:
        items = listing(f"{item['file']} ({item['problem']})" for item in summary["unreadable"])
        warnings.append(f"{len(summary['unreadable'])} of {len(clips)} clips can't be used: {items}.")
    if summary["notes"]:
        items = listing(f"{item['file']} ({item['note']})" for item in summary["notes"])
        warnings.append(f"a part of the audio is lost in {_count(len(summary['notes']), 'clip')}: {items}.")
    crossing: list[str] = []
    within: list[str] = []
    for files in summary["duplicates"]:
        equal = " = ".join(f"{file} ({split[file]})" for file in files[:4]) + (" = ..." if len(files) > 4 else "")
        (crossing if len({split[file] for file in files}) > 1 else within).append(equal)
    if crossing:
        count = _count(len(crossing), "group")
        warnings.append(f"equal audio in several splits, so scores are too good ({count}): {listing(crossing)}.")
    if within:
        warnings.append(f"equal audio within a split ({_count(len(within), 'group')}): {listing(within)}.")
    if summary["in_several_corpora"]:
        groups = summary["in_several_corpora"]
        warnings.append(f"equal audio in several of the tables ({_count(len(groups), 'group')}): {listing(groups)}.")
    if summary["speakers_in_several_splits"]:
        speakers = listing(summary["speakers_in_several_splits"])
        warnings.append(f"speakers are in several splits, so scores say nothing about new speakers: {speakers}.")
    for kind, groups in summary["look_alikes"].items():
        equal = listing(" = ".join(map(repr, group[:4])) + " = ..." * (len(group) > 4) for group in groups)
        warnings.append(
            f"{kind} names that look alike count as different ones: {equal}; if they are one, correct them."
        )
    if is_unequal(summary):
        counts = summary["trained_categories"]
        rare, frequent = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
        warnings.append(
            f"the categories of train are of {counts[rare]} ({rare}) to {counts[frequent]} ({frequent}) clips: rare "
            "ones are recognised less often; balance=weights or sampler makes each count alike."
        )
    for name in ("train", "val"):
        part = clips[clips["split"] == name]
        constant = [target for target in corpus.targets if part[target].nunique() == 1]
        if constant:
            warnings.append(f"the same label in all {name} clips, so its CCC means nothing: {listing(constant)}.")
        for column in ("age", "country"):
            missing = int((part[column].isna() | (part[column] == "")).sum()) if column in part else 0
            if missing:
                warnings.append(f"{missing} of {len(part)} {name} clips have no {column}.")
    return warnings


def is_unequal(summary: dict[str, Any]) -> bool:
    """Whether train has `UNEQUAL` times as many clips of one category as of another."""
    counts = (summary.get("trained_categories") or {}).values()
    return bool(counts) and max(counts) >= UNEQUAL * min(counts)


def _count(number: int, noun: str) -> str:
    """A number with its noun, as `1 clip` or `2 clips`."""
    return f"{number} {noun}{'s' * (number != 1)}"


def _digest(corpus: Corpus, content: pd.Series) -> str:
    """The SHA-256 of the column names and of each row as JSON; numbers in single precision, in which networks train."""
    clips = corpus.clips
    if corpus.assigned:
        clips = clips.assign(split=corpus.own_splits) if corpus.own_splits else clips.drop(columns="split")
    columns = [clips[name].astype(str) if name in _TEXT else _numbers(clips[name]) for name in clips.columns]
    digest = hashlib.sha256(json.dumps([list(clips.columns), corpus.targets]).encode())
    for row in zip(*columns, content, strict=True):
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()


def _numbers(column: pd.Series) -> list[float | None]:
    """Numbers in one form, whatever their dtype: NaN as None, -0 as 0."""
    numbers = column.to_numpy(np.float32).astype(np.float64) + 0.0
    cells = numbers.astype(object)
    cells[np.isnan(numbers)] = None
    listed: list[float | None] = cells.tolist()
    return listed


def _overview(summary: dict[str, Any], treated: str) -> list[str]:
    kind = "SYNTHETIC, made by a program" if summary["synthetic"] else "recorded"
    rates = ", ".join(f"{rate} Hz ({count})" for rate, count in summary["sample_rates"].items())
    lines = [f"corpus     {summary['corpus']} ({kind})", f"rates      {rates or 'none'}"]
    if summary["reading"]:
        lines.insert(1, f"table      read with {', '.join(summary['reading'])}")
    lines += [f"selected   {phrase}" for phrase in summary["selected"]]
    if summary["assigned_splits"]:
        lines.append(f"splits     {summary['assigned_splits']}")
    if summary["corpora"] is not None:
        lines.append(f"corpora    {', '.join(f'{name} ({count})' for name, count in summary['corpora'].items())}")
    if summary["countries"] is not None:
        countries = ", ".join(f"{name or 'unknown'} ({count})" for name, count in summary["countries"].items())
        lines.append(f"countries  {countries}")
    if summary["categories"] is not None:
        counts = summary["categories"].values()
        spread = str(min(counts)) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
        lines.append(f"categories {len(counts)}, of {spread} clips each")
    short, groups = summary["filled"], summary["duplicates"]
    fate = f", {treated}{_list(short['files'])}" if short["count"] else ""
    lines.append(f"short      {_count(short['count'], 'clip')} under {FILL_SECONDS} s{fate}")
    lines.append(f"duplicates {_count(len(groups), 'group')} of clips with equal audio")
    lines.append(f"unusable   {_count(len(summary['unreadable']), 'clip')}")
    return lines


def _list(files: list[str]) -> str:
    return f": {listing(files)}" if files else ""


def _tables(summary: dict[str, Any]) -> list[str]:
    """The splits and the labels as two aligned tables."""
    parts = {**{split: part for split, part in summary["splits"].items() if part["clips"]}, "all": summary}
    lines = ["", f"{'split':<8}{'clips':>8}{'labelled':>10}{'speakers':>10}{'hours':>9}"]
    for name, part in parts.items():
        lines.append(f"{name:<8}{part['clips']:>8}{part['labelled']:>10}{part['speakers']:>10}{part['hours']:>9.3f}")
    if is_unequal(summary):
        counts = sorted(summary["trained_categories"].items(), key=lambda item: -item[1])
        width = max(len(name) for name, _ in counts[:MOST_COUNTS]) + 2
        lines += ["", f"{'category':<{max(width, 10)}}{'train':>8}"]
        lines += [f"{name:<{max(width, 10)}}{count:>8}" for name, count in counts[:MOST_COUNTS]]
        lines += [f"and {len(counts) - MOST_COUNTS} more, with fewer"] if len(counts) > MOST_COUNTS else []
    labels = {} if summary["categories"] else summary["labels"]
    ranges = {**labels, **({"age (years)": summary["ages"]} if summary["ages"] else {})}
    if not ranges:
        return lines
    width = max(len(name) for name in [*ranges, "label"]) + 2
    lines += ["", f"{'label':<{width}}{'min':>9}{'mean':>9}{'max':>9}{'missing':>9}"]
    for name, values in ranges.items():
        figures = ["-" if values[key] is None else f"{values[key]:.3f}" for key in ("min", "mean", "max")]
        lines.append(f"{name:<{width}}{''.join(f'{figure:>9}' for figure in figures)}{values['missing']:>9}")
    return lines
