"""Decide a compressed variant anew: its own temperature and thresholds, where its validation cases can tell.

Quantizing moves scores a little, and a threshold that kept a promise at full precision may not keep it in 8 bits. So
the task's threshold is followed on the variant's own scores of validation cases (see `follow_operating_point`): a rule
that promises a rate is applied again, and by Youden's index the variant calls as many cases as FP32 does. The
temperature is the variant's own only where the task's is wrong for it beyond chance (see `bench.calibrate`).

A finding with too few patients keeps the task's threshold. That stands for scores at the task's temperature, so the
variant then keeps the temperature as well.
"""

from __future__ import annotations

import msgspec
import numpy as np

from medfm_compress.bench.evaluate.operating_points import follow_operating_point
from medfm_compress.bench.evaluate.temperature_scaling import MIN_OF_RARER_CLASS, calibrate, rescore
from medfm_compress.bench.types.evaluation import Evaluation
from medfm_compress.bench.types.operating_rule import needs_positives
from medfm_compress.runtime.bundle.manifest import Variant
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.task import OperatingPoint, Task


class FollowedThreshold(msgspec.Struct, frozen=True, kw_only=True):
    """What a variant calls for one finding, held against FP32 at the task's threshold on the same validation cases.

    Attributes:
        variant: its name.
        finding: the label.
        threshold: of the variant, in [0, 1], of its scores.
        fp32_threshold: the task's.
        changed: cases that the variant calls and FP32 does not, or the other way round.
        cases: on which both decided.
        reason: why the threshold is what it is.
    """

    variant: str
    finding: str
    threshold: float
    fp32_threshold: float
    changed: int
    cases: int
    reason: str

    @property
    def has_moved(self) -> bool:
        """The variant's threshold is another than the task's."""
        return self.threshold != self.fp32_threshold


class RecalibratedThresholds(msgspec.Struct, frozen=True, kw_only=True):
    """A variant with what is its own; why, for its temperature in one line, and of each finding with a threshold."""

    variant: Variant
    temperature_line: str
    findings: tuple[FollowedThreshold, ...]

    @property
    def lines(self) -> tuple[str, ...]:
        """For the provenance."""
        return (self.temperature_line, *map(_in_words, self.findings))


def recalibrate_thresholds(
    variant: Variant, evaluation: Evaluation, fp32: Evaluation, task: Task
) -> RecalibratedThresholds:
    """Give ``variant`` a temperature and operating points of its own.

    Args:
        variant: as yet without any.
        evaluation: of the variant on validation cases, never on test cases; only its logits and truth are used.
        fp32: of the network at full precision, on the same cases in the same order.
        task: of the bundle.

    Raises:
        InputError: the evaluations are not in order, are of different cases, or do not fit the task.
    """
    if fp32.images != evaluation.images:
        raise InputError("the variant and FP32 must be evaluated on the same cases in the same order")
    few = _too_few(evaluation, task)
    if task.kind == "anomaly":
        calibrated, line = task, "temperature stays 1: the score is no probability"
    elif few:
        calibrated, line = task, f"temperature stays {task.temperature:g}: a threshold that stays was chosen at it"
    else:
        calibrated_task = calibrate(evaluation, task)
        calibrated, line = calibrated_task.task, calibrated_task.line
    reference = rescore(fp32, task)
    try:
        points = _followed(rescore(evaluation, calibrated), reference, task, few)
        reasons = {point.label: few.get(point.label, "") or _why(point) for point in points}
    except InputError as exc:  # no threshold reaches the rule; any other would stand at another temperature
        calibrated, points, line = task, task.operating_points, f"decides as the task does: {exc}"
        reasons = {point.label: "it has no threshold of its own" for point in points}
    own: dict[str, object] = {} if calibrated == task else {"temperature": calibrated.temperature}
    if own or points != task.operating_points:
        own |= {"operating_points": points} if points else {}
    decided = msgspec.structs.replace(calibrated, operating_points=points)
    changed = (rescore(evaluation, decided).decisions != reference.decisions).sum(axis=0)
    findings = tuple(
        FollowedThreshold(
            variant=variant.name,
            finding=new.label,
            threshold=new.threshold,
            fp32_threshold=old.threshold,
            changed=int(changed[evaluation.findings.index(new.label)]),
            cases=len(evaluation.images),
            reason=reasons[new.label],
        )
        for old, new in zip(task.operating_points, points, strict=True)
    )
    variant = msgspec.structs.replace(variant, **own)
    return RecalibratedThresholds(variant=variant, temperature_line=line, findings=findings)


def _too_few(evaluation: Evaluation, task: Task) -> dict[str, str]:
    """Finding with a threshold → why its cases are too few to follow it; the others are left out."""
    patients, reasons = np.array(evaluation.clusters), {}
    for point in task.operating_points:
        if not needs_positives(point.rule):
            continue
        truth = evaluation.truth[:, evaluation.findings.index(point.label)]
        with_it, without = (len(set(patients[truth == value].tolist())) for value in (1, 0))
        if min(with_it, without) < MIN_OF_RARER_CLASS:
            needed = f"{MIN_OF_RARER_CLASS} patients of each are needed"
            reasons[point.label] = f"{with_it} with it and {without} without it in validation; {needed}"
    return reasons


def _followed(
    evaluation: Evaluation, reference: Evaluation, task: Task, few: dict[str, str]
) -> tuple[OperatingPoint, ...]:
    points = []
    for point in task.operating_points:
        column = evaluation.findings.index(point.label)
        scores, truth = evaluation.scores[:, column], evaluation.truth[:, column]
        called = int(reference.decisions[:, column].sum())
        stays = point.label in few
        points.append(point if stays else follow_operating_point(point, scores, truth, called=called))
    return tuple(points)


def _why(point: OperatingPoint) -> str:
    cases = f"{point.positives} + {point.negatives} validation cases"
    return f"calls as many of {cases} as FP32" if point.rule == "youden" else f"{point.rule} again on {cases}"


def _in_words(finding: FollowedThreshold) -> str:
    threshold = f"{finding.threshold:.4g}, the task's is {finding.fp32_threshold:.4g}"
    if not finding.has_moved:
        threshold = f"stays {finding.threshold:.4g}"
    changed = f"{finding.changed} of {finding.cases} decisions differ from FP32's"
    return f"threshold of {finding.finding} {threshold}: {finding.reason}; {changed}"
