"""Kind of task → how its models are evaluated and what of them is compared: what differs stands behind this table.

classification      one row of logits a case                       metrics of scores and decisions
segmentation        maps, each laid on its image and held          metrics of masks, and of whether the image
against its mask, case by case                 shows the structure at all
anomaly             one score a case, and where the network     metrics of scores and decisions but for those of
                    gives one, a map held against the mask      probabilities, and of places
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.evaluate.anomaly_evaluation import tabulate_anomalies
from medfm_compress.bench.evaluate.evaluate import tabulate
from medfm_compress.bench.evaluate.mask_evaluation import MaskOptions, tabulate_masks
from medfm_compress.bench.types.evaluation import Evaluation
from medfm_compress.bench.types.metric import MASK_METRICS, METRICS, PLACE_METRICS, Metric
from medfm_compress.bench.types.perturbation import MOVING, PERTURBATIONS
from medfm_compress.bench.types.policy import ExplanationLimits, Policy, check_finding
from medfm_compress.data.masks import label_map
from medfm_compress.data.study import Case, Study
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.segmentation.segment import Segmented, of_logits, segment
from medfm_compress.runtime.task import Task, TaskKind, by_kind

Logits = NDArray[Any]
PRESENCE_METRICS: tuple[Metric, ...] = ("auroc", "sensitivity", "specificity")
"""Of whether an image shows a structure; the others describe probabilities, which a highest pixel's is not."""


SCORE_METRICS: tuple[Metric, ...] = tuple(name for name in METRICS if name not in ("brier", "log_loss", "ece"))
"""Of a score that is no probability."""


class Answers(Protocol):
    """A model that answers, wherever it runs."""

    def of_cases(self) -> Iterator[Logits]:
        """Logits ``[k, …]`` of the cases in order, some at a time."""
        ...

    def with_maps(self) -> Iterator[tuple[Logits, NDArray[np.float32] | None]]:
        """Likewise, each with the anomaly maps ``[k, h, w]`` of the same cases; None of a model without."""
        ...

    def of_input(self, values: NDArray[np.float32]) -> Logits:
        """Logits ``[1, …]`` of one network input ``[1, C, H, W]``."""
        ...


class Subject(NamedTuple):
    """What is evaluated on what."""

    study: Study
    cases: tuple[Case, ...]
    spec: ImageSpec
    task: Task
    name: str
    options: MaskOptions


Evaluator = Callable[[Answers, Subject], Evaluation]


class KindOfTask(NamedTuple):
    """What the bench asks of one kind.

    Attributes:
        evaluate: the per-case table from answers.
        metrics: that are compared, in the order of reports.
        headline: the one that every group of patients shows.
    """

    evaluate: Evaluator
    metrics: tuple[Metric, ...]
    headline: Metric


def _rows(answers: Answers, subject: Subject) -> Evaluation:
    logits = np.concatenate(list(answers.of_cases()))
    return tabulate(logits, subject.study, subject.cases, subject.task, name=subject.name)


def _scores(answers: Answers, subject: Subject) -> Evaluation:
    study, cases, spec, task, name, options = subject
    chunks = list(answers.with_maps())
    logits = np.concatenate([part for part, _ in chunks])
    maps = [part for _, part in chunks if part is not None]
    found = np.concatenate(maps) if len(maps) == len(chunks) and options.fit else None
    return tabulate_anomalies(logits, found, study, cases, task, spec, name)


def _maps(answers: Answers, subject: Subject) -> Evaluation:
    segmented = _by_tiles(answers, subject) if subject.spec.tiles else _as_a_whole(answers, subject)
    study, cases, _, task, name, options = subject
    return tabulate_masks(segmented, study, cases, task, name=name, options=options)


def _as_a_whole(answers: Answers, subject: Subject) -> Iterator[Segmented]:
    cases = iter(subject.cases)
    for chunk in answers.of_cases():
        bad = int((~np.isfinite(chunk)).reshape(len(chunk), -1).any(axis=1).sum())
        if bad:
            raise InputError(f"{subject.name!r} gives logits that are not finite; run it in a higher precision")
        for logits in chunk:
            height, width = label_map(subject.study, next(cases)).shape
            yield of_logits(logits[None], subject.task, subject.spec, height, width)


def _by_tiles(answers: Answers, subject: Subject) -> Iterator[Segmented]:
    for case in subject.cases:
        pixels = subject.study.source.read(case.image)
        yield segment(answers.of_input, pixels, subject.task, subject.spec)


_KINDS: Mapping[TaskKind, KindOfTask] = by_kind(
    KindOfTask(_rows, METRICS, "auroc"),
    KindOfTask(_maps, (*MASK_METRICS, *PRESENCE_METRICS), "dice"),
    KindOfTask(_scores, (*SCORE_METRICS, *PLACE_METRICS), "auroc"),
)


def kind_of(task: Task) -> KindOfTask:
    """What differs for ``task``."""
    return _KINDS[task.kind]


def kind_of_evaluation(evaluation: Evaluation) -> KindOfTask:
    """Likewise for a table, which knows no task: its metrics of cases tell what it is of."""
    if set(evaluation.case_metrics) == set(PLACE_METRICS):
        return _KINDS["anomaly"]
    return _KINDS["segmentation" if evaluation.case_metrics else "multilabel"]


def check_policy(policy: Policy, task: Task) -> None:
    """Check that ``policy`` asks for nothing that ``task`` does not have.

    Raises:
        InputError: a metric of another kind of task, a perturbation that moves the image and not its mask, a finding
            of ``robustness`` that the task lacks, or ``explanations`` of a task that `explain` does not explain.
    """
    if policy.explanations != ExplanationLimits() and (task.is_dense or not task.gives_probabilities):
        raise InputError(
            "the policy limits explanations, which compare where classifiers look, and this is a task of kind "
            f"{task.kind}; leave 'explanations' out: its maps are compared by its metrics"
        )
    for entry in policy.robustness:
        check_finding(entry.finding, task.findings)
        held_by_masks = task.is_dense or entry.metric in PLACE_METRICS
        moving = sorted(MOVING.intersection(entry.perturbations)) if held_by_masks else ()
        if moving:
            still = ", ".join(name for name in PERTURBATIONS if name not in MOVING)
            raise InputError(
                f"robustness under {' and '.join(moving)} would move the images away from their masks; name others in "
                f"'perturbations': {still}"
            )
    allowed = kind_of(task).metrics
    required = [*(entry.metric for entry in policy.non_inferiority), *(entry.metric for entry in policy.robustness)]
    for metric in required:
        if metric not in allowed:
            what = "a segmentation" if task.is_dense else f"a task of kind {task.kind}"
            raise InputError(f"the policy requires {metric}, which {what} does not have; it has {', '.join(allowed)}")
