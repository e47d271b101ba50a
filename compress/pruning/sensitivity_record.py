"""The sensitivity report of one cut: what was tried of every group, and what was chosen."""

from __future__ import annotations

from medfm_compress.bench.render.sensitivity_report import SensitivityCurve, SensitivityPoint, SensitivityReport
from medfm_compress.compress.pruning.record import Group, Step
from medfm_compress.compress.pruning.sensitivity import ValidationSet

_METRIC = (
    "Relative logit error against the whole model, and AUROC, on validation cases; each group is cut alone, what reads "
    "it is repaired, and nothing has recovered yet"
)


def sensitivity_of(step: Step, model: str, target: str, validation: ValidationSet) -> SensitivityReport:
    """The report of ``step``, whose groups were tried on ``validation``.

    Args:
        step: what was tried and chosen.
        model: name of the model that was cut.
        target: where it was measured; empty where it was not.
        validation: the cases.
    """
    whole = next((group.trials[0] for group in step.groups if group.trials), None)
    return SensitivityReport(
        model=model,
        target=target,
        metric=_METRIC,
        cases=sum(len(images) for images, _ in validation.batches),
        curves=tuple(_curve(group) for group in step.groups if len(group.trials) > 1),
        allocation=step.goal,
        auroc=whole.auroc if whole else None,
        cost=step.unit,
        cost_before=step.before,
        cost_after=step.measured,
    )


def _curve(group: Group) -> SensitivityCurve:
    points = tuple(
        SensitivityPoint(kept=trial.kept, error=trial.error, auroc=trial.auroc) for trial in group.trials[1:]
    )
    return SensitivityCurve(name=group.name, kind=group.kind, width=group.before, points=points, chosen=group.after)
