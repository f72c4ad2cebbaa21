"""exvo: few-shot recognition of emotion in vocal bursts, as an experiment-tracked project."""
