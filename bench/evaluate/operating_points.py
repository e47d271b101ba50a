"""Choose decision thresholds, on validation cases only; say afterwards what they held on other cases.

A threshold stands midway between two adjacent distinct scores, so that a tiny numerical change of the model flips no
validation case. Among all of them (and 0, which calls everything) a rule picks one:

- ``youden``: largest sensitivity + specificity − 1 (Youden, Cancer 3 (1950) 32–35); of equals the more sensitive.
- ``sensitivity>=0.95``: the highest threshold that reaches the sensitivity, hence the best specificity.
- ``specificity>=0.90``: the lowest threshold that reaches the specificity, hence the best sensitivity.
- ``false-alarm-rate<=0.05``: by cases without the finding alone, with a margin for their number (see
  `stats.conformal_threshold`): above s_(k), below whatever case scores next.

Another form of the same network (`follow_operating_point`) is not asked for Youden's index again. Its maximum is flat:
thresholds far apart have nearly the same index, and a small change of the scores picks another of them, so that cases
change sides although the network hardly changed. The other rules end at one score in order, which moves no further
than scores move, and keep what they promise only if they are applied again.

A multiclass task gets no operating points: its classes exclude each other and a case gets the most probable one, while
one-vs-rest thresholds would call several classes for one case, or none. Sensitivity and specificity of a class are then
those of the argmax, which promised nothing on validation cases.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.evaluate.evaluate import check_evaluation, number_clusters
from medfm_compress.bench.stats.clustered_proportion import clustered_wilson
from medfm_compress.bench.stats.conformal_threshold import conformal_score
from medfm_compress.bench.types.evaluation import Evaluation
from medfm_compress.bench.types.interval import Interval
from medfm_compress.bench.types.operating_rule import needs_positives, parse_rule
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.task import OperatingPoint

Floats = NDArray[np.float64]


class Held(NamedTuple):
    """What an operating point holds on other cases than it was chosen on.

    Attributes:
        sensitivity: at its threshold, Wilson's interval, clustered by patient where one has several cases with the
            finding; None without a case with it.
        specificity: likewise, without the finding.
        promised: the point, with its sensitivity and specificity on validation cases and their numbers.
    """

    sensitivity: Interval | None
    specificity: Interval | None
    promised: OperatingPoint


class Candidates(NamedTuple):
    """Thresholds from the lowest up, ``[k]`` each; sensitivity falls and specificity rises along them."""

    thresholds: Floats
    sensitivity: Floats
    specificity: Floats


def choose_operating_points(evaluation: Evaluation, *, rule: str) -> tuple[OperatingPoint, ...]:
    """Choose one threshold a finding on a validation evaluation.

    Args:
        evaluation: of validation cases, never of test cases.
        rule: ``youden``, ``sensitivity>=X`` or ``specificity>=X`` with X in (0, 1], or ``false-alarm-rate<=X``.

    Raises:
        InputError: an unknown rule, or a finding without positive or without negative cases, or with too few of them.
    """
    check_evaluation(evaluation)
    parse_rule(rule)
    columns = zip(evaluation.findings, evaluation.scores.T, evaluation.truth.T, strict=True)
    return tuple(choose_operating_point(finding, scores, truth, rule=rule) for finding, scores, truth in columns)


def choose_operating_point(finding: str, scores: Floats, truth: NDArray[np.int64], *, rule: str) -> OperatingPoint:
    """Choose the threshold of one finding from its ``scores`` ``[n]`` and ``truth`` 0/1 ``[n]``.

    Raises:
        InputError: as :func:`choose_operating_points`.
    """
    if not needs_positives(rule):
        return _by_normal_cases(finding, scores, truth, rule)
    positives, negatives = _check_outcomes(finding, truth)
    candidates = _candidates(scores, truth)
    chosen = _pick(candidates, rule)
    return OperatingPoint(
        label=finding,
        threshold=float(candidates.thresholds[chosen]),
        rule=rule,
        sensitivity=float(candidates.sensitivity[chosen]),
        specificity=float(candidates.specificity[chosen]),
        positives=positives,
        negatives=negatives,
    )


def follow_operating_point(
    point: OperatingPoint, scores: Floats, truth: NDArray[np.int64], *, called: int
) -> OperatingPoint:
    """The operating point of another form of the network that ``point`` was chosen for.

    By ``youden`` it calls as many cases as that network does, or as near to it as equal scores allow: ``point``'s own
    threshold if that does, else the next one, as far beyond the score between them as that score lies from ``point``'s
    threshold, at most midway to the score after it. Other rules are applied again.

    Args:
        point: of the network, chosen on these or other validation cases.
        scores: of the other form ``[n]``, in [0, 1].
        truth: 0/1 ``[n]``, of both outcomes where the rule needs them.
        called: of the same cases those that the network calls at ``point``, in [0, n].

    Raises:
        InputError: as :func:`choose_operating_points`.
    """
    if parse_rule(point.rule)[0] != "youden":
        return choose_operating_point(point.label, scores, truth, rule=point.rule)
    positives, negatives = _check_outcomes(point.label, truth)
    threshold = _calling(scores, called, near=point.threshold)
    return OperatingPoint(
        label=point.label,
        threshold=threshold,
        rule=point.rule,
        sensitivity=float(1 - (scores < threshold)[truth == 1].mean()),
        specificity=float((scores < threshold)[truth == 0].mean()),
        positives=positives,
        negatives=negatives,
    )


def _calling(scores: Floats, called: int, *, near: float) -> float:
    """The threshold that calls ``called`` of ``scores`` ``[n]``, or nearly as many, and lies nearest to ``near``."""
    if int((scores >= near).sum()) == called:
        return near
    edges = np.unique([0.0, *scores, 1.0])
    low, high = edges[:-1], edges[1:]  # a threshold in (low, high] calls the scores from high up
    counts = len(scores) - np.searchsorted(np.sort(scores), high, side="left")
    outside = np.maximum(np.maximum(low - near, near - high), 0.0)
    chosen = int(np.lexsort((low, outside, np.abs(counts - called)))[0])
    below, above = float(low[chosen]), float(high[chosen])
    if below < near <= above:
        return near
    widest = (above - below) / 2
    threshold = below + min(below - near, widest) if near <= below else above - min(near - above, widest)
    return threshold if below < threshold <= above else float(np.nextafter(below, 1))


def _by_normal_cases(finding: str, scores: Floats, truth: NDArray[np.int64], rule: str) -> OperatingPoint:
    """The threshold that cases without the finding give; those with it, if there are any, are only counted."""
    normal, other = scores[truth == 0], scores[truth == 1]
    reached = conformal_score(normal, parse_rule(rule)[1])
    if not reached < 1:
        raise InputError(
            f"{finding!r} scores 1 on normal validation cases, so that no threshold can lie above them; standardise "
            "the score by the normal validation cases"
        )
    above = normal[normal > reached]
    threshold = (reached + (float(above.min()) if len(above) else 1.0)) / 2
    threshold = threshold if threshold > reached else float(np.nextafter(reached, 2))
    return OperatingPoint(
        label=finding,
        threshold=threshold,
        rule=rule,
        sensitivity=float((other >= threshold).mean()) if len(other) else 0.0,
        specificity=float((normal < threshold).mean()),
        positives=len(other),
        negatives=len(normal),
    )


def held(point: OperatingPoint, evaluation: Evaluation) -> Held:
    """Hold ``point`` against an evaluation, usually of test cases, under the task that the point belongs to.

    Raises:
        InputError: the evaluation is not in order, lacks the point's finding, or decided it at another threshold.
    """
    check_evaluation(evaluation)
    if point.label not in evaluation.findings:
        raise InputError(f"evaluation {evaluation.name!r} is of {evaluation.findings}, not of {point.label!r}")
    column = evaluation.findings.index(point.label)
    truth, called = evaluation.truth[:, column], evaluation.scores[:, column] >= point.threshold
    if (called != evaluation.decisions[:, column]).any():
        raise InputError(
            f"evaluation {evaluation.name!r} did not decide {point.label!r} at {point.threshold:g}; hold it against "
            "the operating point of its own variant"
        )
    patients = number_clusters(evaluation.clusters)
    rates = [
        clustered_wilson((called == value)[truth == value].astype(np.int64), patients[truth == value])
        if (truth == value).any()
        else None
        for value in (1, 0)
    ]
    return Held(rates[0], rates[1], point)


def _check_outcomes(finding: str, truth: NDArray[np.int64]) -> tuple[int, int]:
    """How many cases have the finding, and how many have not; InputError where there are none of either."""
    positives, negatives = int(truth.sum()), int(len(truth) - truth.sum())
    if not positives or not negatives:
        raise InputError(
            f"finding {finding!r} has {positives} positive and {negatives} negative validation cases; an operating "
            "point needs both, so use a validation split that holds them"
        )
    return positives, negatives


def _candidates(scores: Floats, truth: NDArray[np.int64]) -> Candidates:
    values = np.unique(scores)
    middle = (values[:-1] + values[1:]) / 2
    # Between neighbouring doubles the middle rounds to one of them; the upper one separates them all the same.
    middle = np.where(middle > values[:-1], middle, values[1:])
    ends = [[values[-1] + (1 - values[-1]) / 2]] if values[-1] < 1 else []
    thresholds = np.concatenate([[0.0], middle, *ends])
    positive, negative = np.sort(scores[truth == 1]), np.sort(scores[truth == 0])
    return Candidates(
        thresholds,
        1 - np.searchsorted(positive, thresholds, side="left") / len(positive),
        np.searchsorted(negative, thresholds, side="left") / len(negative),
    )


def _pick(candidates: Candidates, rule: str) -> int:
    name, least = parse_rule(rule)
    if name == "youden":
        index = candidates.sensitivity + candidates.specificity
        return int(np.flatnonzero(index >= index.max() - 1e-12)[0])
    reached = np.flatnonzero(getattr(candidates, name) >= least - 1e-12)
    if not len(reached):
        raise InputError(f"no threshold below 1 reaches {rule}; every case scores 1, so choose another rule")
    return int(reached[-1] if name == "sensitivity" else reached[0])
