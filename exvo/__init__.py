"""exvo: few-shot recognition of emotion in vocal bursts, as an experiment-tracked project.

To import it turns MLflow's telemetry off, here and in the processes that this one starts, unless the variable is set.
"""

import os
from pathlib import Path

__version__ = "0.1.0"

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
__path__.append(str(Path(__file__).with_name("former")))
