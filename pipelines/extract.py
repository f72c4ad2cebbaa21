"""Reads a corpus, computes the log-mels that the feature store lacks, and audits what it found."""

from __future__ import annotations

from exvo.config import ExtractSettings
from pipelines.common import command, log_corpus, read_corpus, require_readable


def run(settings: ExtractSettings) -> None:
    """Extracts in a run of its own."""
    from dataclasses import asdict

    from exvo import tracking

    with tracking.run("extract", output=settings.output) as run_id:
        tracking.log_settings(asdict(settings), {})
        ready = read_corpus(settings)
        log_corpus(ready)
        require_readable(ready, settings.skip_unreadable)
        print(tracking.where_to_look(run_id))


if __name__ == "__main__":
    command("extract", run)
