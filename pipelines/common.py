"""What the entry points share: errors as sentences, and a corpus made ready."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exvo import passwords
from exvo.config import ExtractSettings, FeatureConfig, InputError
from exvo.options import launched_run, note_launcher, parse
from pipelines.process import end_with_parent, lasting_streams, stoppable, use_utf8

if TYPE_CHECKING:
    import pandas as pd

    from exvo.batches import Clips
    from exvo.corpora import Corpus
    from exvo.corpora.audit import Audit
    from exvo.enrolment import Enrolment
    from exvo.page import Page
    from exvo.store import Store
    from exvo.tasks import Task

FEATURES = FeatureConfig()


@dataclass(frozen=True)
class Ready:
    """A corpus whose log-mels are in the store.

    Attributes:
        corpus: all its clips.
        store: their log-mels.
        audio: one row a clip, in the order of the corpus: what extraction found.
        audit: of corpus and audio.
    """

    corpus: Corpus
    store: Store
    audio: pd.DataFrame
    audit: Audit

    @property
    def name(self) -> str:
        """The corpus' name, and whether it is synthetic."""
        return f"{self.corpus.name}{' (synthetic)' if self.corpus.synthetic else ''}"

    def rows(self, split: str) -> pd.DataFrame:
        """The readable clips of a split."""
        clips = self.corpus.clips
        return clips[(clips["split"] == split) & (self.audio["problem"] == "").to_numpy()]

    def clips(self, split: str, task: Task, fill: str) -> Clips:
        """The readable clips of a split, ready for batches; `fill` is zero, floor or repeat."""
        from exvo.batches import Clips

        rows = self.rows(split)
        contents = self.audio["content"].to_numpy()[rows.index]
        speakers = rows["speaker"].tolist()
        return Clips(rows["file"].tolist(), contents.tolist(), self.store, task.labels(rows), fill, speakers)

    def with_audio(self, predictions: pd.DataFrame, split: str) -> pd.DataFrame:
        """The predictions table of a split with each clip's length (`seconds`) and loudness (`rms_db`)."""
        audio = self.audio.iloc[self.rows(split).index]
        return predictions.assign(**{name: audio[name].to_numpy() for name in ("seconds", "rms_db")})

    def enrolment(self, split: str, protocol: str, shots: int) -> Enrolment:
        """Who enrols whom among the readable clips of a split."""
        from exvo.corpora.audit import recordings
        from exvo.enrolment import enrol

        rows = self.rows(split)
        return enrol(rows["speaker"].tolist(), protocol, shots, recordings(self.audio).to_numpy()[rows.index].tolist())


def command(entry_point: str, run: Callable[[Any], None]) -> None:
    """Runs an entry point from its command line: a user's mistake is one sentence and exit status 2.

    Ctrl-C and SIGTERM are one sentence, and status 130 or 143. The status tells how the work ended, not whether all
    that was printed has found a reader: it is logged too.
    """
    if run.__module__ == "__main__":
        use_utf8()
    passwords.guard()
    note_launcher()
    with lasting_streams():
        try:
            with stoppable():
                if launched_run():
                    end_with_parent()
                run(parse(entry_point, description=sys.modules[run.__module__].__doc__))
        except InputError as error:
            sys.exit(fail(str(error), 2))
        except KeyboardInterrupt as stop:
            sys.exit(fail(str(stop) or "Stopped.", getattr(stop, "status", 130)))
        except RuntimeError as error:
            from exvo.training import TrainingError

            if not isinstance(error, TrainingError):
                raise
            sys.exit(fail(str(error), 1))


def fail(sentence: str, status: int) -> int:
    """Prints the sentence to the terminal's error stream, and in the run of `mlflow run`; returns the status."""
    print(f"exvo: {passwords.hide(sentence)}", file=sys.stderr, flush=True)
    if launched_run():
        from exvo import tracking

        tracking.describe_failure(passwords.hide(sentence))
    return status


def load_corpus(settings: ExtractSettings) -> Corpus:
    """Reads the table of a corpus.

    Raises:
        InputError: the corpus can't be read.
    """
    from exvo import corpora

    if not settings.data and settings.corpus != "sample":
        raise InputError(
            f"corpus={settings.corpus} needs its folder: give data=<folder>; the README says how to get it."
        )
    return corpora.load(settings.corpus, Path(settings.data) if settings.data else Path(settings.output) / "sample")


def read_corpus(settings: ExtractSettings) -> Ready:
    """Reads a corpus, extracts the log-mels that the store lacks, and prints the audit.

    Raises:
        InputError: the corpus can't be read.
    """
    from exvo import extraction
    from exvo.corpora.audit import audit

    corpus = load_corpus(settings)
    files, features = corpus.clips["file"].tolist(), Path(settings.output) / "features"
    store, audio = extraction.extract(corpus.folder, files, features, FEATURES, settings.workers or 0)
    found = audit(corpus, audio)
    print(found.text())
    return Ready(corpus, store, audio, found)


def require_readable(ready: Ready, skip_unreadable: bool) -> None:
    """Refuses a corpus with unreadable clips, unless they are to be left out and enough are left.

    Raises:
        InputError: lists every unreadable clip, or names the split that has too few left.
    """
    from exvo import extraction

    extraction.check(ready.audio, skip_unreadable)
    for split in ("train", "val"):
        if len(ready.rows(split)) < 2:
            raise InputError(
                f"Of the {split} split {len(ready.rows(split))} readable clips are left; it needs at least two."
            )


def describe_enrolment(ready: Ready, split: str, protocol: str, shots: int) -> str:
    """Which protocol, and the speakers who can't enrol as it says; each line ends with a newline."""
    from exvo.corpora.base import named
    from exvo.enrolment import enrol

    enrolment = ready.enrolment(split, protocol, shots)
    lines = [f"{split} split: {protocol} protocol, {shots} enrolment clips a speaker"]
    known = [speaker for speaker in enrolment.short if speaker]
    if known:
        lines.append(f"{len(known)} speakers have too few clips and enrol with fewer: {named(known)}")
    if "" in enrolment.short:
        lines.append("clips of unknown speakers are recognised with the typical speaker's profile")
    if enrolment.copies:
        lines.append(
            f"{enrolment.copies} clips are not scored: their audio is that of a clip that enrols their speaker"
        )
    every = ready.corpus.clips[ready.corpus.clips["split"] == split]
    first = enrol(every["speaker"].tolist(), protocol, shots).clips
    enrolling = every.iloc[sorted({int(clip) for own in first for clip in own})]
    lost = enrolling["file"][~enrolling.index.isin(ready.rows(split).index)]
    if len(lost):
        lines.append(f"unreadable enrolment clips, in whose place the speaker's next enrol: {named(lost)}")
    return "".join(f"{line}\n" for line in lines)


def log_copies(enrolment: Enrolment, split: str) -> None:
    """Logs how many clips of a split are not scored because a copy of them enrols, if there are any."""
    from exvo import tracking

    if enrolment.copies:
        tracking.log_metrics({f"copies_of_enrolment/{split}": enrolment.copies})


def report(
    predictions: pd.DataFrame, task: Task, split: str, model: str, ready: Ready
) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """Logs the predictions of a split and its scores with their intervals, and prints the main one.

    A split without labels (HUME-VB's test split) is predicted, not scored.

    Returns:
        The predictions with each clip's length and loudness, and the scores; None where nothing was scored.
    """
    from exvo import evaluation, tracking

    predictions = ready.with_audio(predictions, split)
    tracking.log_table(predictions, f"predictions/{split}.parquet")
    rows = evaluation.scorable(predictions)
    where = "held-out clips of the train split" if task.name == "speaker" else f"{split} split"
    scored = f", {len(rows)} of them scored" if len(rows) < len(predictions) else ""
    print(f"\n{model} on {ready.name}, {where}, {len(predictions)} clips{scored}")
    if len(rows) < 2:
        print(f"no labels to score against; the predictions are the run's artifact predictions/{split}.parquet")
        return None
    scores = evaluation.score(predictions, task)
    tracking.log_table(scores, f"scores/{split}.csv")
    tracking.log_metrics(evaluation.as_metrics(scores, split))
    print(evaluation.sentence(scores, evaluation.headline(task)))
    return predictions, scores


def log_page(name: str, page: Page) -> None:
    """Logs a page as `<name>.html`, its pictures as PNG and its numbers as Parquet in the folder `<name>`."""
    from exvo import tracking

    tracking.log_text(f"{name}.html", page.html())
    for section in page.sections:
        for picture in section.pictures:
            tracking.log_figure(picture.figure, f"{name}/{picture.name}.png")
        if section.numbers is not None:
            tracking.log_table(section.numbers, f"{name}/{section.name}.parquet")


def log_corpus(ready: Ready) -> None:
    """Logs audit and dataset in the present run."""
    from exvo import tracking

    tracking.log_json("audit.json", ready.audit.summary)
    corpus = ready.corpus
    tracking.log_corpus(corpus.clips, corpus.name, corpus.folder, ready.audit.digest)
