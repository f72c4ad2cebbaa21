"""Scores a personalised run with 0 to 8 enrolment clips.

They are 0, 1, 2, 4 and 8 clips, drawn at random (of a run under the independent protocol by the shares of their
categories): the speaker's, and another speaker's.
"""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np

from exvo.devices import resolve_device
from exvo.errors import InputError
from exvo.evaluation import scoring
from exvo.evaluation.enrolment_curve import curve_clips, enrolment_curve
from exvo.experiments.corpus import reopen
from exvo.networks.inference import make_predictor
from exvo.reports.enrolment_curve import curve_columns, curve_conclusion, curve_page
from exvo.reports.tables import markdown
from exvo.settings import CurveSettings
from exvo.tracking import artifacts, experiments, lookup, models, runs


def run(settings: CurveSettings) -> None:
    """Scores in a run of its own."""
    settings = replace(settings, device=resolve_device(settings.device))
    source = lookup.find_run(settings.run_id)
    training = artifacts.require_training(source)
    checkpoint = models.checkpoint_of(source)
    task = checkpoint.task
    if not checkpoint.network.personalised:
        raise InputError(
            f"The run {source.info.run_name} trained {training.model}, which takes no enrolment clips; choose a run "
            "of a personalised system, such as cnn14-relative."
        )
    with runs.start_run("enrolment-curve", output=settings.output, beside=source.info.run_id) as run_id:
        runs.log_settings(asdict(settings), {"evaluated_run": source.info.run_id})
        runs.log_evaluated(source, training.protocol)
        ready = reopen(settings, source, training)
        clips, rows = ready.clips(settings.split, task, training.fill), ready.rows(settings.split)
        places = curve_clips(np.asarray(clips.speakers, dtype=str), rows, task)
        clips, rows = clips.take(places), rows.iloc[places]
        outputs = make_predictor(checkpoint.network, clips, settings.device, checkpoint.protocol)
        speakers = np.asarray(clips.speakers, dtype=str)
        independent = training.protocol == "independent" and task.categories
        categories = rows["category"].tolist() if independent else None
        temperature = checkpoint.temperature
        table = enrolment_curve(outputs, speakers, rows, task, settings.draws, 0, categories, temperature)
        runs.log_table(table, "enrolment/curve.csv")
        metrics = [scoring.headline(task), *(["category_accuracy"] if task.categories else [])]
        title = f"{training.model} on {ready.name}, {settings.split} split"
        clip_count = table["n"].iloc[0]
        print(f"\n{title}, {clip_count} clips")
        for metric in metrics:
            rows_of_metric = table[table["metric"] == metric]
            for row in rows_of_metric.to_dict("records"):
                runs.log_metrics({f"enrolment/{row['enrolment']}_{metric}": row["value"]}, row["shots"])
            print(f"\n{markdown(curve_columns(table, metric))}\n\n{curve_conclusion(table, metric)}")
        subtitle = f"run {source.info.run_name} ({source.info.run_id}); {clip_count:,} clips, {settings.draws} draws"
        runs.log_page("enrolment", curve_page(table, metrics, f"Enrolment: {title}", subtitle))
        print(experiments.where_to_look(run_id))
