"""What worse signals cost: the scores of the same clips, clean and changed."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from exvo.evaluation.calibration import ECE
from exvo.evaluation.pairwise import paired, same_clips
from exvo.evaluation.scoring import headline, score
from exvo.tasks import Task

CLEAN = "clean"


def robustness_table(tables: Mapping[str, pd.DataFrame], task: Task) -> pd.DataFrame:
    """A row a signal, the clean one first.

    Args:
        tables: predictions of the same clips by signal; `CLEAN` is one of them.
        task: which columns they have.

    Returns:
        signal, metric (the headline), value, lo, hi, difference to clean (0 for that), difference_lo, difference_hi,
        ece (NaN where there are no shares), n. Intervals are over resampled speakers, where those are no units over
        clips.
    """
    metric, clean = headline(task), tables[CLEAN]
    rows = []
    for name, table in tables.items():
        scores = score(table, task).set_index("metric")
        own = scores.loc[metric]
        before, after = same_clips(clean, table)
        change = paired(before, after, task).set_index("metric").loc[metric]
        unit: str = "" if pd.isna(own["lo_by_speaker"]) else "_by_speaker"
        rows.append(
            {
                "signal": name,
                "metric": metric,
                "value": own["value"],
                "lo": own[f"lo{unit}"],
                "hi": own[f"hi{unit}"],
                "difference": change["value"],
                "difference_lo": change[f"lo{unit}"],
                "difference_hi": change[f"hi{unit}"],
                "ece": scores["value"].get(ECE),
                "n": int(scores["n"].to_dict()[metric]),
            }
        )
    return pd.DataFrame(rows)
