"""Anomalies: the same score and the same decision as FP32 on every validation case.

Validation cases are normal, all or nearly all, so that no AUROC can be told of them: what moves a score, or calls a
case otherwise by the bundle's own threshold, is what is judged. See `export.agreement` for how far a score may move.

changed decisions = share of cases that do not agree

Thresholds are not chosen again for a candidate: one that needs another does not agree.
"""

from __future__ import annotations

import sys

from medfm_compress.compress.quantization.kinds.classification import ClassificationJudge
from medfm_compress.compress.quantization.kinds.validation_set import Logits, ValidationSet
from medfm_compress.compress.quantization.options import QuantizeOptions
from medfm_compress.export.agreement import by_name, differences
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.task import Task

_MOST_VALUES = 2**27  # of the inputs: 512 MiB; 2,700 cases of 128 px in colour
_PRECISION = "int8"  # whose tolerance is the widest of those that are tried


class AnomalyJudge(ClassificationJudge):
    """See `Judge`; AUROC as of a finding, where validation has abnormal cases too."""

    chooses_thresholds = False

    def wanted_cases(self, options: QuantizeOptions) -> int:
        """All: each of them must agree."""
        return sys.maxsize

    def most_cases(self, task: Task, spec: ImageSpec) -> int:
        """As many as `_MOST_VALUES` hold."""
        return max(1, _MOST_VALUES // (spec.channels * spec.height_px * spec.width_px))

    def decision_limit(self, options: QuantizeOptions, validation: ValidationSet) -> float:
        """None may change."""
        return 0.0

    def changed(self, logits: Logits, fp32_logits: Logits, task: Task) -> float:
        """Share of cases that do not agree, of logits ``[n, 1]``."""
        return len(differences(fp32_logits, logits, (task, task), _PRECISION)) / len(logits)

    def remarks(self, logits: Logits, fp32_logits: Logits, validation: ValidationSet) -> str:
        """The cases that do not agree, by number and image."""
        task = validation.task
        found = differences(fp32_logits, logits, (task, task), _PRECISION)
        return f"does not agree with FP32 on {by_name(found, validation.cases)}" if found else ""
