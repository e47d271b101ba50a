"""The sensitivity report of one cut: what was tried of every group, and what was chosen."""

from __future__ import annotations

from medfm_compress.bench.types.sensitivity import SensitivityCurve, SensitivityReport
from medfm_compress.compress.pruning.record import Group, Step
from medfm_compress.compress.pruning.sensitivity import ValidationSet

_METRIC = (
    "Relative logit error against the whole model, and {score}, on validation cases; each group is cut alone, what "
    "reads it is repaired, and nothing has recovered yet"
)


def sensitivity_of(step: Step, model: str, target: str, validation: ValidationSet) -> SensitivityReport:
    """The report of ``step``, whose groups were tried on ``validation``.

    Args:
        step: what was tried and chosen.
        model: name of the model that was cut.
        target: where it was measured; empty where it was not.
        validation: the cases.
    """
    whole = next((group.points[0] for group in step.groups if group.points), None)
    return SensitivityReport(
        model=model,
        target=target,
        metric=_METRIC.format(score=validation.score_name),
        cases=sum(len(images) for images, _ in validation.batches),
        curves=tuple(_curve(group) for group in step.groups if len(group.points) > 1),
        allocation=step.goal,
        score=whole.score if whole else None,
        score_name=validation.score_name,
        cost=step.unit,
        cost_before=step.before,
        cost_after=step.measured,
    )


def _curve(group: Group) -> SensitivityCurve:
    return SensitivityCurve(
        name=group.name, kind=group.kind, width=group.before, points=group.points[1:], chosen=group.after
    )
