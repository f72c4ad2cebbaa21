"""Results that are kept beside docs/results.md: what each run heard in each test clip, its scores and its minutes.

For each run `docs/results/<corpus>/<row>-<seed>.json` has the command, the machine, minutes, validation UAR by epoch
and the scores of the test speakers; `.parquet` beside it the category that it gave each test clip, by enrolment, so
that anyone can compare another system with it, paired by clip and speaker.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from exvo.evaluation.calibration import ECE, LOG_LOSS
from exvo.evaluation.scoring import UAR, scorable, score
from exvo.tasks import task_of

SCORES = (UAR, "category_accuracy", ECE, LOG_LOSS)
ABOUT = ("file", "speaker", "truth")


@dataclass(frozen=True)
class Result:
    """A run that is trained and scored.

    Attributes:
        row: its name.
        seed: of the run.
        command: that trained it.
        recipe: of its system, the options of `System`; empty of an SVM.
        machine: the processor, its instructions and the precision.
        minutes: of training with validation.
        epochs: of each epoch the minutes until its end, and its validation UAR; empty of an SVM.
        scores: a record for each way to enrol: enrolment, `SCORES`, and the interval of UAR by speaker; empty where the
            test speakers are not scored.
        heard: a row a test clip: file, speaker, truth, and a column for each way to enrol, all of them categories.
    """

    row: str
    seed: int
    command: str
    recipe: Mapping[str, str | float | bool]
    machine: str
    minutes: float
    epochs: Sequence[tuple[float, float]] = ()
    scores: Sequence[Mapping[str, float | str | None]] = ()
    heard: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def best(self) -> float:
        """The best validation UAR."""
        return max(uar for _, uar in self.epochs)

    def is_of(self, command: str, recipe: Mapping[str, str | float | bool]) -> bool:
        """Whether it was made by this command and recipe; an option that one of the recipes does not know is passed."""
        shared = self.recipe.keys() & recipe.keys()
        return self.command == command and all(self.recipe[name] == recipe[name] for name in shared)

    def save(self, folder: Path) -> None:
        """Writes both files into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        about = asdict(self)
        del about["heard"]
        place = folder / f"{self.row}-{self.seed}"
        if len(self.heard):
            self.heard.astype("category").to_parquet(place.with_suffix(".parquet"), compression="zstd", index=False)
        place.with_suffix(".json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")

    def table(self, enrolment: str) -> pd.DataFrame | None:
        """What it heard as a predictions table, whose shares are 0 and 1; None where there is no such enrolment."""
        if enrolment not in self.heard:
            return None
        rows = self.heard[[*ABOUT, enrolment]].astype(str)
        columns = {"file": rows["file"], "split": "test", "speaker": rows["speaker"], "scored": True}
        names = sorted(rows["truth"].unique())
        for side, said in (("truth", rows["truth"]), ("prediction", rows[enrolment])):
            columns |= {f"{side}.{name}": (said == name).astype(float) for name in names} | {f"{side}.category": said}
        return pd.DataFrame(columns)


def load(folder: Path) -> Iterator[Result]:
    """The results of a folder."""
    for path in sorted(folder.glob("*.json")):
        table = path.with_suffix(".parquet")
        about = json.loads(path.read_text(encoding="utf-8"))
        yield Result(**about, heard=pd.read_parquet(table) if table.exists() else pd.DataFrame())


def scored(tables: Mapping[str, pd.DataFrame]) -> tuple[list[dict[str, float | str | None]], pd.DataFrame]:
    """The scores and what was heard, as `Result` has them.

    What answers by 0 and 1 alone, as an SVM, has no shares, and so neither log loss nor calibration error.

    Args:
        tables: predictions of the test speakers, by the way to enrol.
    """
    scores: list[dict[str, float | str | None]] = []
    heard = pd.DataFrame()
    for enrolment, table in tables.items():
        values = score(table, task_of(table)).set_index("metric")
        ends = {end: round(float(values[end][UAR]), 5) for end in ("lo_by_speaker", "hi_by_speaker")}
        numbers = {name: round(float(values["value"][name]), 5) if name in values.index else None for name in SCORES}
        if table.filter(regex="^prediction[.](?!category$)").isin([0, 1]).all(axis=None):
            numbers |= {ECE: None, LOG_LOSS: None}
        scores.append({"enrolment": enrolment, **numbers, **ends})
        rows = scorable(table)
        about = {"file": rows["file"], "speaker": rows["speaker"], "truth": rows["truth.category"]}
        if heard.empty:
            heard = pd.DataFrame(about)
        same = np.array_equal(heard[[*ABOUT]].to_numpy(str), pd.DataFrame(about).to_numpy(str))
        assert same, f"{enrolment} scores other clips than the enrolments before it"
        heard[enrolment] = rows["prediction.category"].to_numpy()
    return scores, heard
