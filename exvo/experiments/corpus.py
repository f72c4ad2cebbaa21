"""Makes a corpus ready for an experiment: reads, extracts, audits and logs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from exvo.batches.clips import Clips
from exvo.config import ELSEWHERE, SPLITS
from exvo.corpora import require_parts, splits
from exvo.corpora.audit import Audit, audit, recordings
from exvo.corpora.base import Corpus
from exvo.corpora.joined import of_table
from exvo.corpora.options import corpus_settings, folds_of, load_corpus
from exvo.corpora.selection import length_conditions, within_seconds
from exvo.devices import resolve_device
from exvo.enrolment import Enrolment, choose_enrolment
from exvo.errors import InputError
from exvo.experiments.features import extractor_of_run, open_extractor, record
from exvo.features import extraction
from exvo.features.conditions import Ranges, ranges_of
from exvo.features.extractors import Extractor
from exvo.features.store import Store
from exvo.files import write_atomically
from exvo.settings import ExtractSettings, RunSettings, SubmitSettings, TrainSettings
from exvo.tasks import Task, speaker_split
from exvo.text import listing
from exvo.tracking import runs
from exvo.tracking.artifacts import load_settings
from exvo.tracking.lookup import Run
from exvo.tracking.tags import DIGEST_TAG, FOLD_TAG, SPLITS_TAG, TABLE_TAG

RECORDING = 32
"""Characters of the key of a clip's samples that are kept with a run."""

SHOTS_OF = {"published": "a speaker", "strict": "a speaker", "independent": "for each clip"}
"""How each protocol counts the enrolment clips."""


@dataclass(frozen=True)
class Ready:
    """A corpus whose features are in the store.

    Attributes:
        corpus: all its clips.
        store: their features.
        extractor: what has computed these.
        audio: one row a clip, in the order of the corpus, as `extraction.extract` gives it.
        audit: of corpus and audio.
    """

    corpus: Corpus
    store: Store
    extractor: Extractor
    audio: pd.DataFrame
    audit: Audit

    @property
    def name(self) -> str:
        """The corpus' name, and whether it is synthetic."""
        return f"{self.corpus.name}{' (synthetic)' if self.corpus.synthetic else ''}"

    def fold(self, number: int, count: int) -> Ready:
        """The corpus of a cross-validation as one of its folds trains on it, see `splits.fold`."""
        return replace(self, corpus=splits.fold(self.corpus, number, count))

    def of_table(self, name: str) -> Ready:
        """One of several tables, or all but one, as a transfer trains on them, see `joined.of_table`."""
        return replace(self, corpus=of_table(self.corpus, name))

    def rows(self, split: str) -> pd.DataFrame:
        """The readable clips of a split."""
        clips = self.corpus.clips
        return clips[(clips["split"] == split) & (self.audio["problem"] == "").to_numpy()]

    def clips(self, split: str, task: Task, fill: str) -> Clips:
        """The readable clips of a split, ready for batches; `fill` is zero, floor or repeat."""
        rows = self.rows(split)
        contents = self.audio["content"].to_numpy()[rows.index]
        speakers = rows["speaker"].tolist()
        return Clips(rows["file"].tolist(), contents.tolist(), self.store, task.labels(rows), fill, speakers)

    def learnt(self) -> pd.DataFrame:
        """The readable clips that make a model, those of train and val: file, split, speaker and recording.

        `recording` is equal for equal samples: the first 32 characters of what `audit.recordings` gives.
        """
        rows = pd.concat([self.rows("train"), self.rows("val")])
        samples = recordings(self.audio).to_numpy()[rows.index]
        table = rows[["file", "split", "speaker"]].assign(recording=[text[:RECORDING] for text in samples])
        return table.reset_index(drop=True)

    def with_audio(self, predictions: pd.DataFrame, split: str) -> pd.DataFrame:
        """The predictions table of a split with each clip's length (`seconds`) and loudness (`rms_db`)."""
        audio = self.audio.iloc[self.rows(split).index]
        return predictions.assign(**{name: audio[name].to_numpy() for name in ("seconds", "rms_db")})

    def ranges(self) -> Ranges | None:
        """Within what the length, level and sampling rate of the readable training clips lie."""
        return ranges_of(self.audio.iloc[self.rows("train").index])

    def enrolment(self, split: str, protocol: str, shots: int) -> Enrolment:
        """Who enrols whom among the readable clips of a split."""
        rows = self.rows(split)
        return choose_enrolment(
            rows["speaker"].tolist(),
            protocol,
            shots,
            recordings(self.audio).to_numpy()[rows.index].tolist(),
            rows["file"].tolist(),
            rows["category"].tolist() if self.corpus.categories else None,
        )


def known_speakers(ready: Ready) -> Ready:
    """The corpus for a speaker recogniser: its train and val splits are the two parts of `speaker_split`."""
    rows = ready.rows("train")
    training, held_out = speaker_split(rows)
    clips = ready.corpus.clips.assign(split="")
    clips.loc[training.index, "split"] = "train"
    clips.loc[held_out.index, "split"] = "val"
    print(
        f"the val split has other people, so of each training speaker's clips the 3rd, 8th, 13th and so on (of two the "
        f"2nd) are held out: {len(training)} clips of {training['speaker'].nunique()} speakers to learn from, "
        f"{len(held_out)} held out"
    )
    lone = sorted(set(rows["speaker"]) - set(training["speaker"]))
    if lone:
        print(f"left out, because nothing can be held out, {len(lone)} speakers with a single clip: {listing(lone)}")
    return replace(ready, corpus=replace(ready.corpus, clips=clips))


def read_corpus(
    settings: ExtractSettings, extractor: Extractor | None = None, again: bool = False, scored_only: bool = False
) -> Ready:
    """Reads a corpus, extracts the features that the store lacks, and prints the audit, see `print_audit`.

    Args:
        settings: of the command.
        extractor: computes the features; None: what the settings name.
        again: whether to print the whole audit even if the output folder's commands have printed it before.
        scored_only: whether nothing is trained on it, see `corpora.load`.

    Raises:
        InputError: the corpus can't be read, or the features can't be computed.
    """
    if extractor is None:
        device = settings.device if isinstance(settings, TrainSettings) else "auto"
        extractor = open_extractor(settings.features, resolve_device(device))
    corpus = load_corpus(settings, scored_only)
    files, features = corpus.clips["file"].tolist(), Path(settings.output) / "features"
    places, workers = corpus.places(files), settings.workers or 0
    store, audio = extraction.extract(corpus.folder, places, features, extractor, workers, settings.cluster)
    audio = audio.assign(file=files)
    if length_conditions(settings.where):
        corpus, audio = within_seconds(corpus, audio, settings.where)
        if not (folds_of(settings) or scored_only):
            require_parts(corpus)
    audited = audit(corpus, audio)
    print_audit(audited, extractor.features.kind, Path(settings.output), again)
    if isinstance(settings, TrainSettings) and settings.protocol == "strict" and audited.summary["in_several_corpora"]:
        raise InputError(
            f"protocol=strict: equal audio in several of the tables: {listing(audited.summary['in_several_corpora'])}; "
            "leave the copies out (where=file!=...), or give another protocol."
        )
    return Ready(corpus, store, extractor, audio, audited)


def print_audit(audited: Audit, kind: str, output: Path, again: bool = False) -> None:
    """Prints the audit; where the output folder holds the same in `audits/<digest>.txt`, one line that says so.

    Args:
        audited: the audit.
        kind: of the features.
        output: the output folder.
        again: whether to print the whole in any case.
    """
    path, text = output / "audits" / f"{audited.digest[:12]}.txt", audited.text(kind)
    content = text.encode(errors="surrogateescape")
    if again or not path.exists() or path.read_bytes() != content:
        write_atomically(path, content)
        print(text)
        return
    count = len(audited.warnings)
    warnings = f"{count or 'no'} warning{'s' * (count != 1)}"
    clips, speakers = (f"{audited.summary[name]:,}" for name in ("clips", "speakers"))
    print(
        f"corpus {audited.summary['corpus']}: {clips} clips of {speakers} speakers, {warnings}, as audited before: the "
        f"run's artifact audit.json, or {path}"
    )


def require_usable_clips(ready: Ready, skip_unreadable: bool, parts: Sequence[str] = ("train", "val")) -> None:
    """Refuses a corpus with unreadable clips, unless they are to be left out and enough are left.

    Args:
        ready: the corpus.
        skip_unreadable: whether they are to be left out.
        parts: the splits, or the folds, that need clips.

    Raises:
        InputError: lists every unreadable clip, or names the split that has too few left.
    """
    extraction.require_readable(ready.audio, skip_unreadable)
    for split in parts:
        if len(ready.rows(split)) < 2:
            part = f"the {split} split" if split in SPLITS else split
            raise InputError(f"Of {part} {len(ready.rows(split))} readable clips are left; it needs at least two.")


def describe_enrolment(ready: Ready, split: str, protocol: str, shots: int) -> str:
    """The protocol of a split, and the speakers who can't enrol as it says; each line ends with a newline."""
    enrolment = ready.enrolment(split, protocol, shots)
    which = "other corpus" if split == ELSEWHERE else f"{split} split"
    lines = [f"{which}: {protocol} protocol, {shots} enrolment clips {SHOTS_OF[protocol]}"]
    speakers = [speaker for speaker in enrolment.short if speaker]
    if speakers:
        lines.append(f"{len(speakers)} speakers have too few clips and enrol with fewer: {listing(speakers)}")
    if "" in enrolment.short:
        lines.append("clips of unknown speakers are recognised with the typical speaker's profile")
    if enrolment.copies:
        lines.append(
            f"{enrolment.copies} clips are not scored: their audio is that of a clip that enrols their speaker"
        )
    if enrolment.only_ones:
        lines.append(
            f"{enrolment.only_ones} of {len(enrolment.clips)} clips are the only one of their category by their "
            "speaker, so the clips that enrol them are always of others: the draw is not independent there, and tells "
            "a little about the category"
        )
    if protocol == "independent" and not ready.corpus.categories:
        lines.append(
            "the labels are intensities, so enrolment clips are drawn from all other clips of the speaker, each with "
            "the same chance"
        )
    if protocol != "independent":
        clips = ready.corpus.clips[ready.corpus.clips["split"] == split]
        enrolling = choose_enrolment(clips["speaker"].tolist(), protocol, shots).clips  # if all were readable
        rows = clips.iloc[sorted({int(place) for places in enrolling for place in places})]
        unreadable = rows["file"][~rows.index.isin(ready.rows(split).index)]
        if len(unreadable):
            lines.append(f"unreadable enrolment clips, in whose place the speaker's next enrol: {listing(unreadable)}")
    return "".join(f"{line}\n" for line in lines)


def log_copies(enrolment: Enrolment, split: str) -> None:
    """Logs how many clips of a split are not scored because a copy of them enrols, if there are any."""
    if enrolment.copies:
        runs.log_metrics({f"copies_of_enrolment/{split}": enrolment.copies})


def log_corpus(ready: Ready) -> None:
    """Logs audit and dataset in the present run."""
    runs.log_json("audit.json", ready.audit.summary)
    runs.log_resolved({"workers": extraction.cores()})
    corpus = ready.corpus
    runs.log_dataset(corpus.clips, corpus.name, corpus.folder, ready.audit.digest)
    runs.set_tags({SPLITS_TAG: corpus.assigned or "of the corpus"})


def reopen(settings: RunSettings | SubmitSettings, source: Run, training: TrainSettings) -> Ready:
    """The corpus of a training run, as it was; logs it in the present run.

    Args:
        settings: this command's.
        source: the training run.
        training: its settings.

    Raises:
        InputError: the corpus has changed or can't be read.
    """
    extractor = extractor_of_run(source, training.features, resolve_device(settings.device))
    ready = as_trained(read_corpus(corpus_settings(settings, training), extractor), source, training)
    log_corpus(ready)
    require_same(ready, source)
    require_usable_clips(ready, training.skip_unreadable)
    return ready


def as_trained(ready: Ready, source: Run, training: TrainSettings) -> Ready:
    """The corpus with the splits of a training run: as it is, or as the run's fold or transfer has them."""
    number, table = source.data.tags.get(FOLD_TAG), source.data.tags.get(TABLE_TAG)
    if table:
        return ready.of_table(table)
    return ready.fold(int(number), splits.fold_count(ready.corpus)) if number else ready


def require_same(ready: Ready, source: Run) -> None:
    """Refuses a corpus or features on which a run was not trained.

    Raises:
        InputError: the digests or the features differ.
    """
    require_same_features(ready.extractor, source)
    trained_on = source.data.tags[DIGEST_TAG]
    if ready.audit.digest != trained_on:
        raise InputError(
            f"The corpus has the digest {ready.audit.digest[:12]}, but the run {source.info.run_name} was trained "
            f"on {trained_on[:12]}: labels, audio or order differ. Give the folder that it was trained on as data; "
            "evaluate scores it on another corpus with the option elsewhere."
        )


def require_same_features(extractor: Extractor, source: Run) -> None:
    """Refuses features on which a run was not trained.

    Raises:
        InputError: they differ.
    """
    trained_with, present = load_settings(source).get("features"), record(extractor)
    if trained_with is not None and trained_with != present:
        before = f"{trained_with.get('kind', 'log-mel')} {trained_with.get('key', 'of other settings')}"
        raise InputError(
            f"The run {source.info.run_name} was trained on other features, {before}, than its option gives here, "
            f"{extractor.features.text}: use the version of exvo, of openSMILE or of the encoder of that time."
        )
