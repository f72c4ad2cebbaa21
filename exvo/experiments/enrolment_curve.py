"""Scores a personalised run with 0 to 8 enrolment clips.

They are 0, 1, 2, 4 and 8 clips, drawn at random: the speaker's, and another speaker's.
"""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np

from exvo.config import CurveSettings
from exvo.devices import resolve_device
from exvo.errors import InputError
from exvo.evaluation import scoring
from exvo.evaluation.enrolment_curve import curve_clips, enrolment_curve
from exvo.experiments.corpus import reopen
from exvo.networks.inference import predictor
from exvo.reports.enrolment_curve import conclusion, page
from exvo.tracking import artifacts, lookup, models, runs
from exvo.tracking.runs import log_page


def run(settings: CurveSettings) -> None:
    """Scores in a run of its own."""
    settings = replace(settings, device=resolve_device(settings.device))
    source = lookup.find_run(settings.run_id)
    options = artifacts.training_options(source)
    checkpoint = models.checkpoint_of(source)
    task = checkpoint.task
    if not checkpoint.network.personalised:
        raise InputError(
            f"The run {source.info.run_name} trained {options['model']}, which takes no enrolment clips; choose a run "
            "of a personalised system, such as cnn14-relative."
        )
    with runs.start_run("enrolment-curve", output=settings.output) as run_id:
        runs.log_settings(asdict(settings), {"evaluated_run": source.info.run_id})
        runs.log_evaluated(source, options["protocol"])
        ready = reopen(settings, source, options)
        clips, rows = ready.clips(settings.split, task, options["fill"]), ready.rows(settings.split)
        kept = curve_clips(np.asarray(clips.speakers, dtype=str), rows, task)
        clips, rows = clips.take(kept), rows.iloc[kept]
        outputs = predictor(checkpoint.network, clips, settings.device, checkpoint.protocol)
        speakers = np.asarray(clips.speakers, dtype=str)
        found = enrolment_curve(outputs, speakers, rows, task, settings.draws)
        runs.log_table(found, "enrolment/curve.csv")
        metric = scoring.headline(task)
        metrics = [metric, "category_accuracy"] if task.categories else [metric]
        title = f"{options['model']} on {ready.name}, {settings.split} split"
        print(f"\n{title}, {found['n'].iloc[0]} clips")
        for name in metrics:
            shown = found[found["metric"] == name]
            for row in shown.to_dict("records"):
                runs.log_metrics({f"enrolment/{row['enrolment']}_{name}": row["value"]}, row["shots"])
            print(f"\n{shown.drop(columns=['metric', 'n']).round(3).to_string(index=False, na_rep='')}")
            print(conclusion(found, name))
        about = (
            f"run {source.info.run_name} ({source.info.run_id}); {found['n'].iloc[0]:,} clips, {settings.draws} draws"
        )
        log_page("enrolment", page(found, metrics, f"Enrolment: {title}", about))
        print(runs.where_to_look(run_id))
