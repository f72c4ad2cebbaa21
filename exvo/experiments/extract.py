"""Audits a corpus, and computes the features that are missing.

Those that the feature store holds are not computed again.
"""

from __future__ import annotations

from dataclasses import asdict

from exvo.experiments.corpus import log_corpus, read_corpus, require_usable_clips
from exvo.settings import ExtractSettings
from exvo.tracking import experiments, runs


def run(settings: ExtractSettings) -> None:
    """Extracts in a run of its own."""
    with runs.start_run("extract", output=settings.output) as run_id:
        runs.log_settings(asdict(settings), {})
        ready = read_corpus(settings, again=True)
        log_corpus(ready)
        require_usable_clips(ready, settings.skip_unreadable)
        print(experiments.where_to_look(run_id, to_see=False))
