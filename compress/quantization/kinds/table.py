"""Kind of task → how a candidate's answers are judged. What differs between kinds is asked for here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from medfm_compress.compress.quantization.kinds.anomaly import AnomalyJudge
from medfm_compress.compress.quantization.kinds.classification import ClassificationJudge
from medfm_compress.compress.quantization.kinds.segmentation import SegmentationJudge
from medfm_compress.compress.quantization.kinds.validation_set import Logits, ValidationSet
from medfm_compress.compress.quantization.options import QuantizeOptions
from medfm_compress.data.study import Case, Study
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.task import Task, TaskKind, by_kind


class Judge(Protocol):
    """How answers of one kind of task are judged."""

    metric: str
    """What falls where accuracy falls, in words."""
    chooses_thresholds: bool
    """Whether a candidate that is kept gets thresholds of its own."""

    def wanted_cases(self, options: QuantizeOptions) -> int:
        """How many validation cases shall judge, if there is memory for them."""
        ...

    def error_limit(self, options: QuantizeOptions) -> float:
        """The largest relative logit error that is kept."""
        ...

    def limit(self, options: QuantizeOptions) -> float:
        """The largest fall of the metric that is kept."""
        ...

    def most_cases(self, task: Task, spec: ImageSpec) -> int:
        """How many validation cases may judge, so that their inputs and logits stay in memory."""
        ...

    def truth(self, study: Study, cases: tuple[Case, ...], spec: ImageSpec) -> object:
        """What is known of the cases beyond their targets, in a form of the kind's own."""
        ...

    def scores(self, logits: Logits, validation: ValidationSet) -> list[float]:
        """The metric of each finding that the labelled cases can tell of."""
        ...

    def least_change(self, cases: int) -> float:
        """The share of decisions that may change in any case, of so many cases without labels."""
        ...

    def decision_limit(self, options: QuantizeOptions, validation: ValidationSet) -> float:
        """The largest share of decisions that may change."""
        ...

    def changed(self, logits: Logits, fp32_logits: Logits, task: Task) -> float:
        """Share of decisions, in [0, 1], that differ."""
        ...

    def changed_of(self, logits: Logits, fp32_logits: Logits, validation: ValidationSet) -> float:
        """Share of decisions of the validation cases, in [0, 1], that differ."""
        ...

    def remarks(self, logits: Logits, fp32_logits: Logits, validation: ValidationSet) -> str:
        """Which cases differ, for the console alone, behind a candidate's name; empty where nothing is to be said."""
        ...


_JUDGES: Mapping[TaskKind, Judge] = by_kind(ClassificationJudge(), SegmentationJudge(), AnomalyJudge())


def judge_of(task: Task) -> Judge:
    """Who judges answers to ``task``."""
    return _JUDGES[task.kind]
