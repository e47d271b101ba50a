"""Are the probabilities right? Reliability curves and calibration errors, before and after temperature scaling.

With the cases of one finding in bins b = 1 … B by their score, n_b cases in bin b, x̄_b their mean score and ȳ_b their
observed rate::

    ECE = Σ_b n_b / n · |ȳ_b − x̄_b|

Bins are of equal width, or (equal mass) hold equal numbers of cases. The ECE depends on the bins and is biased upwards
on few cases, so it is shown and never gated; the curve's intervals say what it rests on.

Sources: DeGroot, Fienberg, The Statistician 32 (1983) 12–22; Naeini, Cooper, Hauskrecht, AAAI 2015; Kumar, Liang, Ma,
Verified uncertainty calibration, NeurIPS 2019, for the bias.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.evaluate.evaluate import EvaluationTable, number_clusters
from medfm_compress.bench.stats.clustered_proportion import clustered_wilson
from medfm_compress.bench.stats.metrics import ECE_BINS, LOG_CLIP
from medfm_compress.bench.types.evaluation import Evaluation
from medfm_compress.bench.types.interval import Interval
from medfm_compress.runtime.activation import probabilities
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.task import Task

CURVE_BINS = 10
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class ReliabilityBin(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Cases with a score in one range.

    Attributes:
        low: lowest score of the range, in [0, 1].
        high: where it ends; a case with this very score is in the next bin, but for the last.
        cases: in it; a bin without any is left out of a curve.
        mean_score: of them, in [0, 1].
        observed: share of them with the finding, Wilson's interval (clustered by patient where that was given).
    """

    low: float
    high: float
    cases: int
    mean_score: float
    observed: Interval


class Reliability(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How well the scores of one finding are calibrated: the curve, the ECE in 15 bins, Brier score and log loss."""

    bins: tuple[ReliabilityBin, ...]
    ece: float
    brier: float
    log_loss: float


class Calibration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One finding of one evaluation.

    Attributes:
        finding: its name.
        before: with the network's own logits, at temperature 1.
        after: with the scores that the evaluation was made with.
        temperature: between the two, as the task says; 1 where nothing was scaled.
    """

    finding: str
    before: Reliability
    after: Reliability
    temperature: float


def reliability(
    scores: Floats,
    truth: Integers,
    bins: int = CURVE_BINS,
    *,
    equal_mass: bool = False,
    clusters: Integers | None = None,
) -> tuple[ReliabilityBin, ...]:
    """Reliability curve of one finding, from the lowest scores up; empty bins are left out.

    Args:
        scores: ``[n]`` in [0, 1].
        truth: ``[n]``, 0 or 1.
        bins: at most so many, >= 1. With equal mass, equal scores stay in one bin, so there may be fewer.
        equal_mass: bins of equal numbers of cases, in place of equal width.
        clusters: ``[n]``, equal numbers are one patient; each case its own where absent.

    Raises:
        InputError: no case, lengths that differ, or a value outside its range.
    """
    _check(scores, truth, bins)
    patients = np.arange(len(scores)) if clusters is None else clusters
    edges = np.unique(np.quantile(scores, np.linspace(0, 1, bins + 1))) if equal_mass else np.linspace(0, 1, bins + 1)
    numbers = np.clip(np.searchsorted(edges, scores, side="right") - 1, 0, max(len(edges) - 2, 0))
    return tuple(
        ReliabilityBin(
            low=float(edges[number]),
            high=float(edges[min(number + 1, len(edges) - 1)]),
            cases=int(held.sum()),
            mean_score=float(scores[held].mean()),
            observed=clustered_wilson(truth[held], patients[held]),
        )
        for number, held in ((number, numbers == number) for number in np.unique(numbers))
    )


def ece(scores: Floats, truth: Integers, bins: int = ECE_BINS) -> float:
    """Expected calibration error in bins of equal width, in [0, 1]; arguments and errors of :func:`reliability`."""
    parts = reliability(scores, truth, bins)
    return sum(part.cases * abs(part.mean_score - part.observed.estimate) for part in parts) / len(scores)


def calibrations(evaluation: Evaluation | EvaluationTable, task: Task) -> tuple[Calibration, ...]:
    """Calibration of every finding, before and after the temperature.

    Args:
        evaluation: of the bundle's variant, or of the teacher.
        task: that it was evaluated under (``manifest.task_of(variant)``).

    Raises:
        InputError: the evaluation was altered, or its logits do not fit the task.
    """
    if isinstance(evaluation, EvaluationTable):
        evaluation = evaluation.to_evaluation()
    raw = probabilities(evaluation.logits, msgspec.structs.replace(task, temperature=1.0))
    patients = number_clusters(evaluation.clusters)
    return tuple(
        Calibration(
            finding=finding,
            before=_reliability(raw[:, column], evaluation.truth[:, column], patients),
            after=_reliability(evaluation.scores[:, column], evaluation.truth[:, column], patients),
            temperature=task.temperature,
        )
        for column, finding in enumerate(evaluation.findings)
    )


def _reliability(scores: Floats, truth: Integers, patients: Integers) -> Reliability:
    kept = np.clip(scores, LOG_CLIP, 1 - LOG_CLIP)
    return Reliability(
        bins=reliability(scores, truth, clusters=patients),
        ece=ece(scores, truth),
        brier=float(((scores - truth) ** 2).mean()),
        log_loss=-float(np.where(truth == 1, np.log(kept), np.log1p(-kept)).mean()),
    )


def _check(scores: Floats, truth: Integers, bins: int) -> None:
    if bins < 1:
        raise InputError(f"{bins} bins; there must be at least 1")
    if scores.ndim != 1 or scores.shape != truth.shape or not len(scores):
        raise InputError(f"scores have shape {scores.shape} and truth {truth.shape}; both must be [n], n at least 1")
    if not ((scores >= 0) & (scores <= 1)).all() or not np.isin(truth, (0, 1)).all():
        raise InputError("scores must be in [0, 1] and truth 0 or 1")
