"""The names of scores as people read them; metrics and tables of numbers hold the identifiers."""

from __future__ import annotations

from exvo.config import EMOTIONS
from exvo.corpora.emogator import CATEGORIES
from exvo.evaluation.calibration import ECE, LOG_LOSS
from exvo.evaluation.scoring import MEAN_CCC, UAR
from exvo.evaluation.selective import AURC
from exvo.text import slug

NAMES = {
    MEAN_CCC: "CCC",
    "emotion_mae": "mean absolute error",
    UAR: "UAR",
    "category_accuracy": "accuracy",
    "category_macro_f1": "macro F1",
    LOG_LOSS: "log loss",
    ECE: "calibration error",
    AURC: "risk-coverage area",
    "country_uar": "country UAR",
    "country_accuracy": "country accuracy",
    "country_macro_f1": "country macro F1",
    "age_mae": "age error",
    "s_mtl": "S_MTL",
    "speaker_uar": "UAR",
    "speaker_accuracy": "accuracy",
    "speaker_macro_f1": "macro F1",
}
"""Of the scores that are not of one emotion, nor over groups."""

EXPLANATIONS = {
    MEAN_CCC: "CCC, mean over the emotions",
    UAR: "UAR (unweighted average recall)",
    ECE: "expected calibration error",
    AURC: "area under the risk-coverage curve (AURC)",
    "age_mae": "age error (mean, years)",
}
"""What those say that are not clear by their name."""

GROUPS = {
    "country_mean": "mean over countries",
    "country_std": "standard deviation over countries",
    "speaker_mean": "mean over speakers",
    "speaker_std": "standard deviation over speakers",
    "worst_country": "worst country",
    "lowest_speaker_decile": "lowest tenth of speakers",
}
"""Of what a score is over, by the end of its identifier."""

_TARGETS = {slug(name): name for name in (*EMOTIONS, *CATEGORIES)}


def score_name(metric: str) -> str:
    """The name of a score.

    >>> score_name("category_uar"), score_name("emotion_ccc_worst_country"), score_name("surprise_negative_ccc")
    ('UAR', 'CCC, worst country', 'CCC of Surprise (Negative)')
    """
    if metric in NAMES:
        return NAMES[metric]
    for name, group in GROUPS.items():
        if metric.endswith(f"_{name}"):
            return f"{score_name(metric.removesuffix(f'_{name}'))}, {group}"
    score, of_corpus, corpus = metric.partition("_corpus_")
    return f"{score_name(score)}, corpus {corpus}" if of_corpus else f"CCC of {target_name(metric)}"


def explained_name(metric: str) -> str:
    """The name of a score for who may not know it.

    >>> explained_name("category_uar"), explained_name("category_accuracy")
    ('UAR (unweighted average recall)', 'accuracy')
    """
    return EXPLANATIONS.get(metric, score_name(metric))


def target_name(metric: str) -> str:
    """The emotion whose CCC a metric is; one of a corpus of one's own in the letters of the metric.

    >>> target_name("romantic_love_ccc"), target_name("mild_surprise_ccc")
    ('Romantic Love', 'mild surprise')
    """
    name = metric.removesuffix("_ccc")
    return _TARGETS.get(name, name.replace("_", " "))
