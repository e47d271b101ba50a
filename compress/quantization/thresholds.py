"""Decide a compressed variant anew: its own temperature and thresholds, where its validation cases can tell.

Quantizing moves scores a little, and a threshold that kept a promise at full precision may not keep it in 8 bits. So
the rule by which the task's threshold was chosen is applied again, to the variant's own scores on validation cases. The
temperature is the variant's own only where the task's is wrong for it beyond chance (see `bench.calibrate`).

A finding with too few patients keeps the task's threshold. That stands for scores at the task's temperature, so the
variant then keeps the temperature as well.
"""

from __future__ import annotations

import msgspec
import numpy as np

from medfm_compress.bench.evaluate.operating_points import choose_operating_point
from medfm_compress.bench.evaluate.temperature_scaling import MIN_OF_RARER_CLASS, calibrate, rescore
from medfm_compress.bench.types.evaluation import Evaluation
from medfm_compress.bench.types.operating_rule import needs_positives
from medfm_compress.runtime.bundle.manifest import Variant
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.task import OperatingPoint, Task


class RecalibratedThresholds(msgspec.Struct, frozen=True, kw_only=True):
    """A variant with what is its own, and one line for the provenance on each thing that was decided or left."""

    variant: Variant
    lines: tuple[str, ...]


def recalibrate_thresholds(variant: Variant, evaluation: Evaluation, task: Task) -> RecalibratedThresholds:
    """Give ``variant`` a temperature and operating points of its own.

    Args:
        variant: as yet without any.
        evaluation: of the variant on validation cases, never on test cases; only its logits and truth are used.
        task: of the bundle.

    Raises:
        InputError: the evaluation is not in order, or does not fit the task.
    """
    few = _too_few(evaluation, task)
    if task.kind == "anomaly":
        calibrated, lines = task, []  # whose scores are no probabilities
    elif few:
        calibrated, lines = task, [f"temperature stays {task.temperature:g}: a threshold that stays was chosen at it"]
    else:
        calibrated_task = calibrate(evaluation, task)
        calibrated, lines = calibrated_task.task, [calibrated_task.line]
    scored = rescore(evaluation, calibrated)
    points = []
    for point in task.operating_points:
        try:
            points.append(point if point.label in few else _chosen_again(point, scored))
        except InputError as exc:  # no threshold reaches the rule; any other would stand at another temperature
            return RecalibratedThresholds(variant=variant, lines=(f"decides as the task does: {exc}",))
        lines.append(_in_words(point, points[-1], few.get(point.label, "")))
    own: dict[str, object] = {} if calibrated == task else {"temperature": calibrated.temperature}
    if own or tuple(points) != task.operating_points:
        own |= {"operating_points": tuple(points)} if points else {}
    return RecalibratedThresholds(variant=msgspec.structs.replace(variant, **own), lines=tuple(lines))


def _too_few(evaluation: Evaluation, task: Task) -> dict[str, str]:
    """Finding with a threshold → why its cases are too few to choose it again; the others are left out."""
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


def _chosen_again(point: OperatingPoint, evaluation: Evaluation) -> OperatingPoint:
    column = evaluation.findings.index(point.label)
    scores, truth = evaluation.scores[:, column], evaluation.truth[:, column]
    return choose_operating_point(point.label, scores, truth, rule=point.rule)


def _in_words(old: OperatingPoint, new: OperatingPoint, few: str) -> str:
    if few:
        return f"threshold of {old.label} stays {old.threshold:.4g}: {few}"
    return (
        f"threshold of {old.label} {new.threshold:.4g}, the task's is {old.threshold:.4g}: {new.rule} again on "
        f"{new.positives} + {new.negatives} validation cases"
    )
