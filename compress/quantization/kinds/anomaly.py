"""Anomalies: the same score and the same decision as FP32 on every validation case.

Validation cases are normal, all or nearly all, so that no AUROC can be told of them: what moves a score, or calls a
case otherwise, is what is judged. See `export.agreement` for how far a score may move.

changed decisions = share of cases that do not agree

A candidate decides by a threshold of its own, as the variant will that it may become: chosen by the rule of the
bundle's threshold on its own scores of the same cases.
"""

from __future__ import annotations

import sys

import msgspec
import numpy as np

from medfm_compress.bench.evaluate.evaluate import tabulate
from medfm_compress.bench.evaluate.operating_points import choose_operating_point
from medfm_compress.compress.quantization.kinds.classification import ClassificationJudge
from medfm_compress.compress.quantization.kinds.validation_set import Logits, ValidationSet
from medfm_compress.compress.quantization.options import QuantizeOptions
from medfm_compress.export.agreement import Difference, by_name, differences, in_numbers
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.task import Task

_SHOWN = 2
_MOST_VALUES = 2**27  # of the inputs: 512 MiB; 2,700 cases of 128 px in colour
_PRECISION = "int8"  # whose tolerance is the widest of those that are tried


class AnomalyJudge(ClassificationJudge):
    """See `Judge`; AUROC as of a finding, where validation has abnormal cases too."""

    def error_limit(self, options: QuantizeOptions) -> float:
        """``score_error_limit``."""
        return options.score_error_limit

    def wanted_cases(self, options: QuantizeOptions) -> int:
        """All: each of them must agree."""
        return sys.maxsize

    def most_cases(self, task: Task, spec: ImageSpec) -> int:
        """As many as `_MOST_VALUES` hold."""
        return max(1, _MOST_VALUES // (spec.channels * spec.height_px * spec.width_px))

    def decision_limit(self, options: QuantizeOptions, validation: ValidationSet) -> float:
        """None may change."""
        return 0.0

    def changed_of(self, logits: Logits, fp32_logits: Logits, validation: ValidationSet) -> float:
        """Share of cases that do not agree, of logits ``[n, 1]``."""
        return len(self._differences(logits, fp32_logits, validation)) / len(logits)

    def remarks(self, logits: Logits, fp32_logits: Logits, validation: ValidationSet) -> str:
        """How many cases do not agree, and the first of them by number and image."""
        found = self._differences(logits, fp32_logits, validation)
        if not found:
            return ""
        counted = in_numbers(found, len(logits))
        return f"does not agree with FP32 on {counted}: {by_name(found, validation.cases, _SHOWN)}"

    def _differences(self, logits: Logits, fp32_logits: Logits, validation: ValidationSet) -> tuple[Difference, ...]:
        tasks = validation.task, own_decisions(logits, validation)
        return differences(fp32_logits, logits, tasks, _PRECISION)


def own_decisions(logits: Logits, validation: ValidationSet) -> Task:
    """The task with thresholds that ``logits`` give by its rules; its own where they give none."""
    task, cases = validation.task, validation.labelled_cases
    if not cases or not np.isfinite(logits).all():
        return task
    table = tabulate(logits[validation.are_labelled], validation.study, cases, task, name="candidate")
    try:
        points = tuple(
            choose_operating_point(point.label, table.scores[:, 0], table.truth[:, 0], rule=point.rule)
            for point in task.operating_points
        )
    except InputError:  # too few cases
        return task
    return msgspec.structs.replace(task, operating_points=points)
