"""Classification: AUROC of every finding, and which label or findings are called.

changed decisions = share of cases with another most probable label (exclusive labels),
or of cases and findings on the other side of probability 0.5 (independent findings)
"""

from __future__ import annotations

import sys

import numpy as np

from medfm_compress.bench.evaluate.evaluate import tabulate
from medfm_compress.bench.stats.auroc import auroc
from medfm_compress.compress.quantization.kinds.validation_set import Logits, ValidationSet
from medfm_compress.compress.quantization.options import QuantizeOptions
from medfm_compress.data.study import Case, Study
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.task import Task


class ClassificationJudge:
    """See `Judge`."""

    metric = "AUROC"
    chooses_thresholds = True

    def wanted_cases(self, options: QuantizeOptions) -> int:
        """``validation_samples``."""
        return options.validation_samples

    def error_limit(self, options: QuantizeOptions) -> float:
        """``error_limit``."""
        return options.error_limit

    def limit(self, options: QuantizeOptions) -> float:
        """``auroc_limit``."""
        return options.auroc_limit

    def most_cases(self, task: Task, spec: ImageSpec) -> int:
        """As many as are asked for."""
        return sys.maxsize

    def truth(self, study: Study, cases: tuple[Case, ...], spec: ImageSpec) -> object:
        """Nothing: the targets say it."""
        return None

    def scores(self, logits: Logits, validation: ValidationSet) -> list[float]:
        """AUROC of each finding that has both outcomes among the labelled cases, of logits ``[n, labels]``."""
        cases = validation.labelled_cases
        if not cases:
            return []
        chosen = logits[validation.are_labelled]
        table = tabulate(chosen, validation.study, cases, validation.task, name="candidate")
        columns = range(len(table.findings))
        return [auroc(table.scores[:, i], table.truth[:, i]) for i in columns if len(np.unique(table.truth[:, i])) == 2]

    def least_change(self, cases: int) -> float:
        """One case."""
        return 1 / cases

    def decision_limit(self, options: QuantizeOptions, validation: ValidationSet) -> float:
        """Any where accuracy can be told; else ``decision_limit``, one case at least."""
        return 1.0 if validation.labelled else max(options.decision_limit, self.least_change(len(validation.cases)))

    def changed(self, logits: Logits, fp32_logits: Logits, task: Task) -> float:
        """Share of decisions that differ between logits ``[n, labels]`` (see above)."""
        if task.independent:
            return float(((logits > 0) != (fp32_logits > 0)).mean())
        return float((logits.argmax(1) != fp32_logits.argmax(1)).mean())

    def changed_of(self, logits: Logits, fp32_logits: Logits, validation: ValidationSet) -> float:
        """`changed`."""
        return self.changed(logits, fp32_logits, validation.task)

    def remarks(self, logits: Logits, fp32_logits: Logits, validation: ValidationSet) -> str:
        """Nothing: shares say enough."""
        return ""
