"""Calibrate a task on validation cases: fit its temperature, and use it only where that is measurably better.

The temperature stays where the cases cannot tell: too few patients, too few with the rarer class, a fit at its bound,
or a temperature in use that is not wrong beyond chance (5%, see `stats.temperature`). Binary and multilabel scores keep
their order either way, so their AUROC does not change; probabilities, Brier score and log loss do.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.evaluate.calibration_error import ece
from medfm_compress.bench.evaluate.evaluate import check_evaluation, number_clusters
from medfm_compress.bench.stats.temperature import fit_temperature, negative_log_likelihood
from medfm_compress.bench.types.evaluation import Evaluation
from medfm_compress.runtime.activation import decisions, probabilities
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.task import Task

MIN_PATIENTS = 50
MIN_OF_RARER_CLASS = 10
ALPHA = 0.05

Integers = NDArray[np.int64]


class Calibrated(msgspec.Struct, frozen=True, kw_only=True):
    """A task with the temperature that the validation cases give.

    Attributes:
        task: with the fitted temperature, or as it was.
        evaluation: the validation cases, scored and decided under ``task``.
        applied: the temperature was fitted and is in use.
        line: what was done, with n, NLL and ECE, for the provenance.
    """

    task: Task
    evaluation: Evaluation
    applied: bool
    line: str


def calibrate(evaluation: Evaluation, task: Task) -> Calibrated:
    """Fit the temperature of ``task`` on a validation evaluation.

    Args:
        evaluation: of validation cases, never of test cases; only its logits and truth are used.
        task: whose temperature is held against the fit.

    Raises:
        InputError: the evaluation is not in order, or does not fit the task.
    """
    check_evaluation(evaluation)
    if evaluation.findings != task.findings:
        raise InputError(f"the evaluation is of {evaluation.findings}, the task of {task.findings}; they must agree")
    if not task.gives_probabilities:
        return _kept(evaluation, task, "the score is no probability")
    truth, patients = all_labels(evaluation, task), number_clusters(evaluation.clusters)
    few = _too_few(truth, patients, task)
    if few:
        return _kept(evaluation, task, few)
    exclusive = not task.independent
    fit = fit_temperature(
        evaluation.logits, truth, exclusive=exclusive, clusters=patients, held_against=task.temperature
    )
    if fit.at_bound:
        return _kept(evaluation, task, f"the cases do not determine it, the fit ends at its bound {fit.temperature:g}")
    if not (fit.p_value < ALPHA and fit.nll_after < fit.nll_before):
        return _kept(evaluation, task, f"not wrong beyond chance on {_counted(patients)} (p = {fit.p_value:.2g})")
    chosen = msgspec.structs.replace(task, temperature=float(f"{fit.temperature:.4g}"))
    after = negative_log_likelihood(evaluation.logits, truth, exclusive=exclusive, temperature=chosen.temperature)
    rescored = rescore(evaluation, chosen)
    line = (
        f"temperature {chosen.temperature:g} fitted on {_counted(patients)}: NLL {fit.nll_before:.4f} to {after:.4f}, "
        f"ECE {_mean_ece(rescore(evaluation, task)):.4f} to {_mean_ece(rescored):.4f}"
    )
    return Calibrated(task=chosen, evaluation=rescored, applied=True, line=line)


def rescore(evaluation: Evaluation, task: Task) -> Evaluation:
    """The same cases and logits with the scores and decisions that ``task`` gives."""
    scores = probabilities(evaluation.logits, task)
    return msgspec.structs.replace(evaluation, scores=scores, decisions=decisions(scores, task))


def all_labels(evaluation: Evaluation, task: Task) -> Integers:
    """Truth 0/1 ``[n, labels]``: a binary task's first label is what its finding is not."""
    truth = evaluation.truth
    return np.concatenate([1 - truth, truth], axis=1) if task.kind == "binary" else truth


def _too_few(truth: Integers, patients: Integers, task: Task) -> str:
    """Why the sample is too small; empty where it is not.

    The rarer class counts all labels together, because they share one temperature: of a multiclass task it is every
    label but the commonest, of a multilabel task the present or the absent findings.
    """
    total = int(patients.max()) + 1
    if total < MIN_PATIENTS:
        return f"{_counted(patients)} are too few, {MIN_PATIENTS} patients are needed"
    if task.independent:
        classes = [truth.any(axis=1), ~truth.all(axis=1)]
    else:
        commonest = truth[:, truth.sum(axis=0).argmax()] == 1
        classes = [commonest, ~commonest]
    rarer = min(len(np.unique(patients[held])) for held in classes)
    if rarer < MIN_OF_RARER_CLASS:
        return f"the rarer class has {rarer} of {_counted(patients)}, {MIN_OF_RARER_CLASS} patients are needed"
    return ""


def _kept(evaluation: Evaluation, task: Task, reason: str) -> Calibrated:
    line = f"temperature stays {task.temperature:g}: {reason}"
    return Calibrated(task=task, evaluation=rescore(evaluation, task), applied=False, line=line)


def _counted(patients: Integers) -> str:
    total = int(patients.max()) + 1
    of = "" if total == len(patients) else f" of {total} patients"
    return f"{len(patients)} validation cases{of}"


def _mean_ece(evaluation: Evaluation) -> float:
    columns = zip(evaluation.scores.T, evaluation.truth.T, strict=True)
    return float(np.mean([ece(scores, truth) for scores, truth in columns]))
