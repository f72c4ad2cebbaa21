"""The tags of runs and versions, by which they are found."""

from __future__ import annotations

EPOCH = "epoch/"
"""How the names of metrics of an epoch begin."""

LOGGED_URI = r"models:/(m-[0-9a-f]+)"
"""The URI of a logged model."""

MODEL_TAG = "exvo.model_uri"
ENCODER_TAG = "exvo.encoder"
"""Of a run that keeps an encoder: kind and digest of its features."""

DIGEST_TAG = "exvo.corpus_digest"
ENTRY_TAG = "exvo.entry_point"
SYSTEM_TAG = "exvo.system"
TASK_TAG = "exvo.task"
PROTOCOL_TAG = "exvo.protocol"
CORPUS_TAG = "exvo.corpus"
EVALUATED_TAG = "exvo.evaluated_run"
CONDITION = (CORPUS_TAG, DIGEST_TAG, TASK_TAG, PROTOCOL_TAG)
"""What the runs of one system that can stand for each other have in common."""

DONE = f"tags.`{MODEL_TAG}` LIKE '%' and attributes.status = 'FINISHED'"
PARENT_TAG = "exvo.parent_run"
STUDY_TAG = "exvo.study"
TRIAL_TAG = "exvo.trial"
TRIAL_STATE_TAG = "exvo.trial_state"
SPLITS_TAG = "exvo.splits"
FOLDS_TAG = "exvo.folds"
"""Of a cross-validation: how many folds it has."""

FOLD_TAG = "exvo.fold"
"""Of a run beneath it: the number of the fold that it tests."""

TABLE_TAG = "exvo.trained_on"
"""Of a run beneath a transfer: the one of several tables that it has learnt from, or all but which one."""

SEEDS_TAG = "exvo.seeds"
"""Of a run of several seeds: how many."""

SEED_TAG = "exvo.seed"
"""Of a run beneath it: its seed."""

BEST_SEED_TAG = "exvo.best_seed_run"
"""Of a run of several seeds: the id of the run beneath it with the best validation score."""

TUNED_TAG = "exvo.tuned"
"""Of a run of several seeds beneath a study: the trial whose options it trains, and the seeds."""

NO_FOLD = f"tags.`{FOLD_TAG}` IS NULL and tags.`{TABLE_TAG}` IS NULL"
ON_ITS_OWN = f"tags.`{TRIAL_TAG}` IS NULL and {NO_FOLD} and tags.`{SEED_TAG}` IS NULL"
"""Of runs that are neither the trial of a study, nor a fold of a cross-validation or a transfer, nor one of several
seeds."""
OTHER_SHOTS_TAG = "exvo.other_shots"
"""Of an evaluation with another number of enrolment clips than the training run's: the number."""

ELSEWHERE_TAG = "exvo.elsewhere"
"""Of an evaluation on another corpus than the training run's: the kind of that corpus. It has a protocol of its own."""

AS_TRAINED = f"tags.`{OTHER_SHOTS_TAG}` IS NULL and tags.`{ELSEWHERE_TAG}` IS NULL"
"""Of what stands in tables of results."""

CONTINUES_TAG = "exvo.continues"
COMMAND_TAG = "exvo.command"
CODE_TAG = "exvo.code"
REPEATS_TAG = "exvo.repeats"
EQUAL_TAG = "exvo.equal"
RESULT_TAGS = {
    "system": SYSTEM_TAG,
    "corpus": CORPUS_TAG,
    "digest": DIGEST_TAG,
    "task": TASK_TAG,
    "protocol": PROTOCOL_TAG,
    "evaluated_run": EVALUATED_TAG,
}
GATE_TAG = "exvo.gate"

NOTE = "mlflow.note.content"
"""MLflow's tag of a run's description."""

FAILURE = "exvo: "
"""How the description of a run that has failed begins."""
