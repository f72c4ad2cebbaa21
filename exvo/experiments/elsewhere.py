"""Scores a trained run on another corpus than the one that it has learnt from, by what both have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from exvo.config import ELSEWHERE
from exvo.corpora.audit import recordings
from exvo.corpora.common import Common, in_common
from exvo.corpora.options import other_corpus
from exvo.devices import resolve_device
from exvo.errors import InputError
from exvo.evaluation.prior import Prior
from exvo.experiments.corpus import RECORDING, Ready, log_corpus, read_corpus, require_same_features
from exvo.experiments.evaluate import log_report, log_scores
from exvo.experiments.features import extractor_of_run
from exvo.experiments.prediction import predictions_of
from exvo.networks.checkpoint import Checkpoint
from exvo.reports.page import Section
from exvo.settings import EvaluateSettings, TrainSettings
from exvo.text import listing, printable
from exvo.tracking import artifacts, runs, scored
from exvo.tracking.lookup import Run
from exvo.tracking.tags import CORPUS_TAG, DIGEST_TAG

LEAK = "Scores on clips that a model has learnt from are too good"


@dataclass(frozen=True)
class Shared:
    """What another corpus shares with the clips that have made a model.

    Attributes:
        known: whether the run says of which clips it was made; runs of early versions don't.
        clips: pairs of equal samples: the other corpus' file, and that of the model with its split.
        speakers: names of speakers that are in both.
    """

    known: bool
    clips: tuple[tuple[str, str], ...] = ()
    speakers: tuple[str, ...] = ()

    def sentences(self) -> list[str]:
        """What must not be overlooked."""
        if not self.known:
            return [
                "The run is of a version that did not note its clips, so whether some of them are in the other corpus "
                "too is not known."
            ]
        said = []
        if self.clips:
            said.append(f"{LEAK}, and {len(self.clips):,} of these are among them: {self.pairs()}.")
        if self.speakers:
            said.append(
                f"Speakers of both corpora have the same name and count as different people: "
                f"{listing(map(printable, self.speakers))}; if they are the same, these are not strangers."
            )
        return said

    def pairs(self) -> str:
        """The pairs of clips in a sentence."""
        return listing(f"{printable(file)} = {printable(own)}" for file, own in self.clips)


def evaluate_elsewhere(
    checkpoint: Checkpoint, settings: EvaluateSettings, source: Run, training: TrainSettings
) -> None:
    """Predicts and scores another corpus in the present run; logs predictions, scores and the report.

    Args:
        checkpoint: of the training run; enrolment clips are filled under its protocol.
        settings: of the command, without `auto`.
        source: the training run.
        training: its settings; device, protocol and shots are those of the evaluation.

    Raises:
        InputError: it is the run's own corpus or can't be used, there is too little in common, or under `strict` clips
            that have made the model are in it.
    """
    extractor = extractor_of_run(source, training.features, resolve_device(settings.device))
    ready = read_corpus(other_corpus(settings, training), extractor, scored_only=True)
    log_corpus(ready)
    require_same_features(extractor, source)
    if ready.audit.digest == source.data.tags[DIGEST_TAG]:
        raise InputError(
            f"elsewhere={settings.elsewhere}: this is the corpus that the run {source.info.run_name} was trained on; "
            "leave elsewhere out."
        )
    readable = ready.corpus.clips["split"].where((ready.audio["problem"] == "").to_numpy(), "")
    corpus = replace(ready.corpus, clips=ready.corpus.clips.assign(split=readable))
    common = in_common(corpus, checkpoint.task.targets, checkpoint.task.categories, settings.split)
    ready = replace(ready, corpus=common.corpus)
    shared = shared_clips(ready, source)
    if shared.clips and settings.protocol == "strict":
        files = "|".join(printable(file) for file, _ in shared.clips[:3])
        raise InputError(
            f"protocol=strict: {LEAK}, and {len(shared.clips)} of this corpus are among them: {shared.pairs()}; leave "
            f"them out (where=file!={files}), or give another protocol."
        )
    said, warnings = common.sentences(), shared.sentences()
    print("\n".join(["", *said, *(f"warning: {sentence}" for sentence in warnings)]))
    runs.log_json(f"{ELSEWHERE}.json", facts(common, shared, source))
    task = checkpoint.task.among(list(common.targets))
    tables = predictions_of(checkpoint, ready, ELSEWHERE, training, task, settings.cluster)
    tables = {name: table.assign(split=common.split or "test") for name, table in tables.items()}
    result = log_scores(tables.pop("right"), task, ELSEWHERE, training.model, ready)
    if result is not None:
        section = Section("Another corpus", [learnt_from(source), *said], warnings)
        prior = prior_among(scored.prior_of_run(source), task.targets, task.categories)
        log_report(
            result, tables, task, ELSEWHERE, ready, training, artifacts.trained(source), settings, [section],
            replace(checkpoint, levels=()), prior,
        )  # fmt: skip


def shared_clips(ready: Ready, source: Run) -> Shared:
    """What the clips that are scored share with those that have made the model."""
    learnt = artifacts.load_table(source.info.run_id, artifacts.LEARNT)
    if learnt is None:
        return Shared(known=False)
    own = {
        recording: f"{file} ({split})"
        for file, split, recording in learnt[["file", "split", "recording"]].itertuples(index=False)
    }
    rows = ready.rows(ELSEWHERE)
    keys = [text[:RECORDING] for text in recordings(ready.audio).to_numpy()[rows.index]]
    pairs = [(file, own[key]) for file, key in zip(rows["file"], keys, strict=True) if key in own]
    names = sorted((set(rows["speaker"]) & set(learnt["speaker"])) - {""})
    return Shared(True, tuple(pairs), tuple(names))


def facts(common: Common, shared: Shared, source: Run) -> dict[str, object]:
    """What is scored and what is left out, as it is logged in JSON."""
    return {
        "learnt_from": {"corpus": source.data.tags[CORPUS_TAG], "digest": source.data.tags[DIGEST_TAG]},
        "split": common.split or "all",
        "clips": int((common.corpus.clips["split"] == ELSEWHERE).sum()),
        "in_common": dict(common.targets),
        "clips_in_common": dict(common.clips),
        "left_out": dict(common.left_out),
        "left_out_clips": common.left_out_clips,
        "lacking": list(common.lacking),
        "learnt_clips": [list(pair) for pair in shared.clips] if shared.known else None,
        "speakers_of_the_same_name": list(shared.speakers) if shared.known else None,
    }


def learnt_from(source: Run) -> str:
    """A sentence about the corpus of a training run."""
    tags = source.data.tags
    return (
        f"The model has learnt from the corpus {tags[CORPUS_TAG]} (digest {tags[DIGEST_TAG][:12]}), and nothing from "
        "this one. These scores are set beside none on its own corpus."
    )


def prior_among(prior: Prior, targets: Sequence[str], categories: bool) -> dict[str, float | str]:
    """The prior of training labels over some of the targets; empty where that of all is not known.

    Args:
        prior: of the labels of training, see `prior_of`.
        targets: those that are scored.
        categories: whether they are exclusive, so that their shares are scaled to sum to 1.
    """
    shares = {name: float(prior[name]) for name in targets if name in prior}
    if len(shares) < len(targets):
        return {}
    if not categories:
        return dict(shares)
    total = sum(shares.values())
    return {name: share / total for name, share in shares.items()} | {"category": max(shares, key=shares.__getitem__)}
