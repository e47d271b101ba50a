"""Slides as cases: what their tiles' probabilities say of each slide, and how that is chosen on validation slides.

Every slide is one row of an `Evaluation`, of the patient that its study names, so that bench's paired comparison,
clustered by patient, and the gate take slides as they take images. A slide's "logit" is the log-odds of its
probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.evaluate.evaluate import check_cases, check_evaluation
from medfm_compress.bench.evaluate.operating_points import choose_operating_point
from medfm_compress.bench.stats.auroc import clustered_areas
from medfm_compress.bench.types.evaluation import Evaluation
from medfm_compress.data.study import Case, Study
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.slides.aggregation import aggregate
from medfm_compress.runtime.slides.settings import Aggregation, SlideSettings
from medfm_compress.runtime.task import Task

TileScores = NDArray[np.float32]
"""Probabilities ``[tiles, findings]`` of the answered tiles of one slide."""
_CLIP = 1e-7
CANDIDATES: tuple[tuple[Aggregation, int], ...] = (
    ("max", 1),
    *(("mean-top", top) for top in (3, 10, 30, 100, 300)),
    ("noisy-or", 1),
)
"""Aggregations that are tried, and their k; of equals the earlier is taken."""


class Candidate(NamedTuple):
    """An aggregation, its k, and its mean AUROC over the findings on the validation slides."""

    aggregation: Aggregation
    top: int
    auroc: float


class ChosenAggregation(NamedTuple):
    """Settings with the aggregation and the thresholds that validation slides chose, and all that were tried."""

    settings: SlideSettings
    candidates: tuple[Candidate, ...]


def slide_evaluation(
    tiles: Sequence[TileScores],
    study: Study,
    cases: tuple[Case, ...],
    task: Task,
    settings: SlideSettings,
    *,
    name: str,
) -> Evaluation:
    """One row a slide.

    Args:
        tiles: of each of ``cases``, in their order.
        study: whose images are slides.
        cases: labelled slides of it.
        task: of the bundle.
        settings: aggregation, and a threshold a finding (0.5 without).
        name: ``teacher`` or a variant's name.

    Raises:
        InputError: no slides, an unlabelled one, other labels than the task's, or a slide without an answered tile.
    """
    check_cases(study, cases, task)
    scores = np.stack([_of_slide(rows, case, settings) for rows, case in zip(tiles, cases, strict=True)])
    thresholds = np.array([settings.thresholds.get(finding, 0.5) for finding in task.findings])
    clipped = np.clip(scores, _CLIP, 1 - _CLIP)
    evaluation = Evaluation(
        name=name,
        images=tuple(case.image for case in cases),
        logits=np.log(clipped) - np.log1p(-clipped),
        scores=scores,
        truth=_truth(study, cases, task),
        decisions=(scores >= thresholds).astype(np.int64),
        clusters=tuple(case.cluster for case in cases),
        findings=task.findings,
        subgroups={
            column: tuple(case.subgroups.get(column, "") for case in cases) for column in study.subgroup_names()
        },
    )
    check_evaluation(evaluation)
    return evaluation


def choose_aggregation(
    tiles: Sequence[TileScores], study: Study, cases: tuple[Case, ...], task: Task, settings: SlideSettings, rule: str
) -> ChosenAggregation:
    """The aggregation of the largest mean AUROC over the findings, and a threshold a finding by ``rule``.

    Args:
        tiles: of each of ``cases``, in their order.
        study: whose images are slides.
        cases: validation slides, never those that are judged.
        task: of the bundle.
        settings: everything else stays as it is there.
        rule: as of `operating_points`.

    Raises:
        InputError: as :func:`slide_evaluation`, or a finding that every slide has, or none.
    """
    tried = []
    for aggregation, top in CANDIDATES:
        candidate = msgspec.structs.replace(settings, aggregation=aggregation, top=top, thresholds={})
        tried.append((candidate, slide_evaluation(tiles, study, cases, task, candidate, name="validation")))
    areas = [_mean_auroc(evaluation) for _, evaluation in tried]
    best = max(range(len(tried)), key=lambda number: (round(areas[number], 9), -number))
    chosen, evaluation = tried[best]
    points = [
        choose_operating_point(finding, scores, truth, rule=rule)
        for finding, scores, truth in zip(evaluation.findings, evaluation.scores.T, evaluation.truth.T, strict=True)
    ]
    settings = msgspec.structs.replace(chosen, thresholds={point.label: point.threshold for point in points})
    return ChosenAggregation(
        settings,
        tuple(Candidate(*candidate, area) for candidate, area in zip(CANDIDATES, areas, strict=True)),
    )


def _of_slide(rows: TileScores, case: Case, settings: SlideSettings) -> NDArray[np.float64]:
    if not len(rows):
        raise InputError(f"slide {case.image!r} has no tile that was answered; leave it out of the study")
    return aggregate(rows, settings.aggregation, settings.top)


def _truth(study: Study, cases: tuple[Case, ...], task: Task) -> NDArray[np.int64]:
    """0/1 ``[slides, findings]``."""
    targets = study.targets(cases)
    if task.independent:
        return targets
    one_hot: NDArray[np.int64] = (targets == np.arange(len(task.labels))).astype(np.int64)
    return one_hot[:, -len(task.findings) :]


def _mean_auroc(evaluation: Evaluation) -> float:
    """Over the findings.

    Raises:
        InputError: a finding that all slides have, or none.
    """
    areas = []
    for finding, scores, truth in zip(evaluation.findings, evaluation.scores.T, evaluation.truth.T, strict=True):
        if truth.min() == truth.max():
            raise InputError(
                f"{int(truth.sum())} of {len(truth)} validation slides have {finding!r}; choosing an aggregation needs "
                "slides with it and without"
            )
        areas.append(float(clustered_areas(scores[None], truth, np.arange(len(truth))).values[0]))
    return float(np.mean(areas))
