"""The model card of a registered run, in Markdown: purpose, data, scores, whom it serves worst, origin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from exvo.config import SPLITS
from exvo.evaluation.calibration import ECE
from exvo.evaluation.enrolment_curve import SHOTS
from exvo.evaluation.groups import FEWEST_LOWEST, group_scores
from exvo.evaluation.pairwise import Scored
from exvo.evaluation.prior import OverPrior
from exvo.evaluation.results import TRAINING
from exvo.evaluation.scoring import (
    MEAN_CCC,
    UAR,
    few_speakers,
    group_metric,
    headline,
    lowest_speakers,
    scorable,
    statistics,
    worst_country,
)
from exvo.reports.enrolment import verdict_of
from exvo.reports.enrolment_curve import curve_conclusion
from exvo.reports.names import explained_name
from exvo.reports.robustness import robustness_verdict
from exvo.reports.sentences import few_speakers_sentence, prior_text
from exvo.reports.tables import Column, interval_texts, markdown, number_texts
from exvo.text import NO_SPEAKERS, SYNTHETIC, default_text, listing, slug

LONGEST = 5_000
"""Characters that the registry keeps of a description (a server's database has no room for more)."""

LICENCES = {
    "sample": "made by this program, no person's data, Apache-2.0 as the program",
    "emogator": "Apache-2.0 (github.com/fredbuhl/EmoGator)",
    "hume-vb": "under licence from the organisers of ExVo 2022; clips and labels may not be passed on, and whether the "
    "model may is for that licence to say",
    "table": "your own corpus: its licence is for you to state",
}

LABELS = {
    "sample": "what a program drew for each clip (no person felt, meant or rated it)",
    "emogator": "what the speakers were asked to express",
    "hume-vb": "mean ratings of intensity by listeners",
    "table": "the labels of your own corpus",
}

LOWEST = (lowest_speakers(UAR), lowest_speakers(MEAN_CCC))

CARD_SCORES = (
    UAR,
    "category_accuracy",
    ECE,
    MEAN_CCC,
    "emotion_mae",
    *(name(metric) for metric in (UAR, MEAN_CCC) for name in (worst_country, lowest_speakers)),
)
"""The scores that a card shows."""

VERSION = "models:/exvo-fewshot/VERSION"
"""Stands for the address of the version, which has a number once it is registered, see `of_version`."""

_PLAIN = str.maketrans("<>[]`|", "()()'/")


@dataclass(frozen=True)
class CardFacts:
    """What a card says.

    Attributes:
        run: the training run's name and id.
        entry_point: which trained it: train, main or tune.
        lineage: as `registry.lineage` gives it.
        settings: the run's settings.json.
        audit: of its corpus.
        libraries: versions.
        best_epoch: whose weights these are.
        validation: its predictions of val.
        scores: by split, as `scoring.score` gives them; test where the run was evaluated on it.
        enrolment: the split and the table of what enrolment is worth (`reports.enrolment`), if there is one.
        curve: the same of the newest `enrolment-curve` (`evaluation.enrolment_curve`).
        robustness: the same of the newest `robustness` (`evaluation.robustness`).
        over_prior: how much better than the prior it is on val.
        forced: whether `gate=none` made it champion.
        tested_otherwise: whether test was scored, but only under another protocol or number of enrolment clips.
    """

    run: str
    entry_point: str
    lineage: Mapping[str, str]
    settings: Mapping[str, Any]
    audit: Mapping[str, Any]
    libraries: Mapping[str, str]
    best_epoch: float
    validation: Scored
    scores: Mapping[str, pd.DataFrame]
    enrolment: tuple[str, pd.DataFrame] | None
    curve: tuple[str, pd.DataFrame] | None = None
    robustness: tuple[str, pd.DataFrame] | None = None
    over_prior: OverPrior | None = None
    forced: bool = False
    tested_otherwise: bool = False


def card(facts: CardFacts) -> str:
    """The model card, of at most `LONGEST` characters however long the names are."""
    parts = [
        f"# Model card: {text(facts.settings['options']['model'])}",
        *purpose(facts),
        *data(facts),
        *scores(facts),
        *enrolment(facts),
        *use(facts),
        *origin(facts),
    ]
    return "\n\n".join(parts) + "\n"


def of_version(card: str, uri: str) -> str:
    """The card of a version with that address."""
    return card.replace(VERSION, uri)


def text(value: object, limit: int = 80) -> str:
    """A name from data, for Markdown: short, on one line, without markup.

    >>> text("a|b <script>"), text("x" * 100, limit=5)
    ('a/b (script)', 'xxxxx...')
    """
    plain = " ".join(str(value).translate(_PLAIN).split())
    return plain[:limit] + "..." * (len(plain) > limit)


def personalised(facts: CardFacts) -> bool:
    """Whether the system adapts to a speaker."""
    return bool(facts.settings["system"]["enrolment"] != "none")


def purpose(facts: CardFacts) -> list[str]:
    """What the model is for, and what it is not for."""
    corpus, targets = facts.validation.condition.corpus, facts.validation.task.targets
    shots = facts.validation.shots
    adapts = f" It adapts to a speaker from {shots} unlabelled clips." if personalised(facts) else ""
    synthetic = [f"**{SYNTHETIC}**"] if facts.audit["synthetic"] else []
    return [
        *synthetic,
        "## What it is for",
        "Research on vocal bursts (laughs, gasps, cries, sighs). It hears one clip and says how much it sounds like "
        f"each of {len(targets)} labels: {listing(text(target, 32) for target in targets)}.{adapts}",
        "## What it is not for",
        "- Decisions about people: work, school, health, insurance, police, borders, advertising.\n"
        f"- What a person feels. Its labels are {LABELS[corpus]}; to laugh and to be amused are two things.\n"
        "- Speech, song, infants, animals, or several voices at once.\n"
        "- People unlike those of the data, in age, culture, language or health: nothing was measured there.",
    ]


def data(facts: CardFacts) -> list[str]:
    """The corpus and its licence."""
    condition = facts.validation.condition
    parts = [(split, facts.audit["splits"][split]) for split in SPLITS if facts.audit["splits"][split]["clips"]]
    table = [
        Column("split", [split for split, _ in parts]),
        Column("clips", [f"{part['clips']:,}" for _, part in parts]),
        Column("speakers", [f"{part['speakers']:,}" for _, part in parts]),
        Column("hours", [f"{part['hours']:.2f}" for _, part in parts]),
    ]
    countries = [text(name, 32) for name in facts.audit["countries"] or {} if name]
    origins = f"Countries: {listing(countries)}." if countries else "Where the speakers come from is not known."
    ages = facts.audit["ages"]
    if ages and ages["min"] is not None:
        origins += f" Ages {ages['min']:.0f} to {ages['max']:.0f} years."
    selected = [text(phrase, 120) for phrase in facts.audit.get("selected", [])]
    part = f" A part of it: {listing(selected, 4, '; ')}." if selected else ""
    return [
        "## Data",
        markdown(spaced(table)),
        f"Corpus {condition.corpus}, digest `{condition.digest}`.{part} {origins} "
        f"Licence: {LICENCES[condition.corpus]}.",
    ]


def spaced(columns: list[Column]) -> list[Column]:
    """The columns with a space after each text: MLflow's page sets columns side by side without one."""
    space = "\N{NO-BREAK SPACE}"
    return [Column(f"{title}{space}", [f"{cell}{space}" for cell in cells]) for title, cells in columns]


def scores(facts: CardFacts) -> list[str]:
    """The scores with their intervals, and whom and what it serves worst."""
    rows = scorable(facts.validation.predictions)
    table = pd.concat([table.assign(split=split) for split, table in facts.scores.items()])
    table = table[table["metric"].isin(CARD_SCORES)]
    table = table[~(table["metric"].isin(LOWEST) & (table["n"] < FEWEST_LOWEST))]
    deciles = table["metric"].isin(LOWEST)
    by_clip = interval_texts(table["lo"], table["hi"], 3)
    columns = [
        Column("split", table["split"].tolist()),
        Column("score", table["metric"].map(explained_name).tolist()),
        Column("value", number_texts(table["value"], 3)),
        Column("95% by clip", ["" if decile else cell for decile, cell in zip(deciles, by_clip, strict=True)]),
        Column("95% by speaker", interval_texts(table["lo_by_speaker"], table["hi_by_speaker"], 3)),
        Column("n", [f"{n:,}" for n in table["n"]]),
    ]
    explanation = (
        "n: scored clips, or the speakers of the tenth. The validation split (val) chose this epoch and this run, so "
        "its scores are a little too good"
    )
    if "test" in facts.scores:
        explanation += "."
    elif facts.tested_otherwise:
        explanation += "; the test split has been scored only under another protocol or number of enrolment clips."
    else:
        explanation += "; the test split has not been scored: run `evaluate`, then `register`."
    speakers = rows["speaker"].nunique()
    few = [few_speakers_sentence(speakers)] if few_speakers(speakers) else []
    few = [f"**{NO_SPEAKERS}**"] if (rows["speaker"] == "").all() else few
    sentences = [explanation, *gate(facts), *worst(facts, rows), *worse_signals(facts), *few]
    return ["## Scores", markdown(spaced(columns)), " ".join(sentences)]


def worse_signals(facts: CardFacts) -> list[str]:
    """A sentence on noise and the like, if `robustness` has measured them."""
    if facts.robustness is None:
        return []
    split, table = facts.robustness
    return [f"Worse signals, {split} split: {robustness_verdict(table)}"]


def gate(facts: CardFacts) -> list[str]:
    """Sentences that say whether the model has learnt anything, and whether it is champion without having to."""
    over = facts.over_prior
    if over is None:
        return []
    verdict = "It is better than the prior" if over.better else "**It is not shown to be better than the prior**"
    forced = ["**gate=none made it champion, without any comparison.**"] if facts.forced else []
    return [f"{verdict} (the training labels alone) on val: {prior_text(over)}.", *forced]


def worst(facts: CardFacts, rows: pd.DataFrame) -> list[str]:
    """Sentences that name the worst country and the worst emotion on the validation split."""
    task = facts.validation.task
    sentences = []
    if "country" in rows and (rows["country"] != "").all():
        countries = group_scores(statistics(rows, task), rows["country"], group_metric(task))["value"].dropna()
        if len(countries):
            sentences.append(f"Worst country on val: {text(countries.index[0])} ({countries.iloc[0]:.3f}).")
    names = {f"{slug(target)}_ccc": target for target in task.targets}
    table = facts.scores["val"]
    emotions = table[table["metric"].isin(names)].dropna(subset="value").sort_values("value", kind="stable")
    if len(emotions):
        low, high = (emotions.iloc[index] for index in (0, -1))
        sentences.append(
            f"Worst label on val: {text(names[low['metric']])} ({low['value']:.3f}); best: "
            f"{text(names[high['metric']])} ({high['value']:.3f})."
        )
    return sentences


def enrolment(facts: CardFacts) -> list[str]:
    """Which clips enrol, and whether it is the speaker that helps."""
    protocol, shots = facts.validation.condition.protocol, facts.validation.shots
    metric = headline(facts.validation.task)
    rules = {
        "published": "a speaker's first clips in file order enrol and are scored too",
        "strict": "a speaker's first clips in file order enrol and are not scored; a clip never enrols itself",
        "independent": "for each clip others of its speaker are drawn, whatever its category is; all clips are scored",
    }
    if not personalised(facts):
        clips = f" ({shots} clips)" if protocol == "strict" else ""
        return ["## Enrolment", f"None: it ignores enrolment clips. Scored under the {protocol} protocol{clips}."]
    sentences = f"Protocol {protocol}, {shots} clips a speaker: {rules[protocol]}."
    if facts.enrolment is None and facts.curve is not None:
        split, table = facts.curve
        metric = headline(facts.validation.task)
        measured = shots if shots in set(table["shots"]) else SHOTS[1]
        sentences += f" On the {split} split, with clips drawn at random: {curve_conclusion(table, metric, measured)}"
    elif facts.enrolment is None:
        sentences += " Whether it is the speaker that helps has not been measured: run `evaluate`, then `register`."
    else:
        split, table = facts.enrolment
        sentences += f" On the {split} split: {verdict_of(table)}"
    return ["## Enrolment", sentences]


def use(facts: CardFacts) -> list[str]:
    """The lines that load, serve and ask the model."""
    adapts = personalised(facts)
    lines = [
        "```sh",
        f"exvo predict --model_uri {VERSION} --audio a.wav{' --enrolment b.wav,c.wav' if adapts else ''}",
        f"mlflow models serve -m {VERSION} --env-manager local -p 5001",
        """echo '{"dataframe_records": [{"audio": "'$(base64 -w0 a.wav)'"}]}' |""",
        "  curl localhost:5001/invocations -H 'Content-Type: application/json' -d @-",
        "```",
    ]
    more = ' `"enrolment": [clips]` beside `audio` adapts it to the speaker.' if adapts else ""
    python = f"In Python: `mlflow.pyfunc.load_model('{VERSION}')`; there clips are bytes."
    return ["## How to use it", "\n".join(lines), f"{python}{more}"]


def origin(facts: CardFacts) -> list[str]:
    """The run, study, trial and commit that it comes from, and how it was trained."""
    options, tags = facts.settings["options"], facts.lineage
    commit = tags.get("git.commit", "none")
    changes = {
        "true": " with uncommitted changes (the run's artifact uncommitted.diff.txt)",
        "unknown": f"; uncommitted changes are not known ({text(tags.get('git.problem', ''))})",
    }
    changed = changes.get(tags.get("git.dirty", ""), "")
    no_commit = text(tags.get("git.problem", "the code lay in no checkout"))
    items = [
        f"- Run: {facts.run}, made by `{facts.entry_point}`",
        f"- Commit: {f'none, {no_commit}' if commit == 'none' else f'`{commit}`{changed}'}",
        f"- System: {text(tags.get('exvo.system', options['model']))}; "
        + ", ".join(f"{name} {default_text(options[name])}" for name in (*TRAINING, "optimizer", "precision"))
        + f"; best epoch {facts.best_epoch:.0f}",
        f"- Libraries: {', '.join(f'{name} {number}' for name, number in facts.libraries.items())}",
    ]
    if "exvo.study" in tags:
        study = f"- Study: {text(tags['exvo.study'], 100)}, trial {text(tags.get('exvo.trial', 'unknown'))}"
        items.insert(1, study + (f", run {tags['exvo.study_run']}" if "exvo.study_run" in tags else ""))
    if "exvo.seeds_run" in tags:
        items.insert(1, f"- One of several seeds of the run {tags['exvo.seeds_run']}, which has their mean and range")
    return ["## Where it comes from", "\n".join(items)]
