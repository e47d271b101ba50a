"""What a policy takes of a split before anything is trained or evaluated: patients of whom a loss must not be missed.

However alike bundle and teacher are, a margin Δ is excluded only by more than z² (1 − Δ) / Δ patients in whom the loss
could sit (see `stats.score_interval`): for sensitivity the ill, for AUROC the rarer of ill and healthy, for balanced
accuracy half as many of each, for a share that masks have (Dice) those with the structure. One healthy patient above
all m ill ones may cost average precision H(m) / m, H the harmonic numbers; it takes the m at which z² H(m) / m falls
below Δ. A floor F of a share takes as many as a margin of 1 − F: not even a perfect model's own interval begins above.
PPV, NPV and F1 depend on what will be called, small lesions on what is small, log loss, distances and counts have
no such bound; they are left out.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.evaluate.evaluate import number_clusters, tabulate
from medfm_compress.bench.evaluate.subgroups import divide, restrict
from medfm_compress.bench.stats.score_interval import smallest_count, smallest_count_of_precision
from medfm_compress.bench.types.evaluation import Evaluation
from medfm_compress.bench.types.metric import LOWER_IS_BETTER, Metric
from medfm_compress.bench.types.policy import NonInferiority, Policy
from medfm_compress.data.study import Study

_WHOSE: dict[Metric, tuple[int, ...]] = {
    "auroc": (1, 0),
    "auprc": (1,),
    "sensitivity": (1,),
    "specificity": (0,),
    "balanced_accuracy": (1, 0),
    "dice": (1,),
    "iou": (1,),
    "surface_dice": (1,),
    "lesion_sensitivity": (1,),
    "pixel_auroc": (1,),
    "pro": (1,),
}


class Need(NamedTuple):
    """What one requirement takes of one class of patients in one group.

    Attributes:
        requirement: e.g. ``auroc of pneumonia, age >= 70, margin 0.02``.
        whose: ``with it``, ``without it`` or ``in all``.
        needed: patients of one image each, at least.
        patients: in the split.
        present: of them, as many as count: their images by the most that one of them has, since one can carry a loss.
    """

    requirement: str
    whose: str
    needed: int
    patients: int
    present: int

    @property
    def met(self) -> bool:
        """Whether so many could exclude the margin at all."""
        return self.present >= self.needed


def patients_needed(study: Study, policy: Policy, split: str = "test") -> tuple[Need, ...]:
    """Needs of every requirement of ``policy``; empty groups are left out.

    Raises:
        StudyError: ``split`` has no labelled case.
        InputError: the study lacks a column or finding that the policy names.
    """
    task, cases = study.task, study.labelled_split(split)
    evaluation = tabulate(np.zeros((len(cases), len(study.labels))), study, cases, task, name=split)
    needs: list[Need] = []
    for entry in policy.non_inferiority:
        for group, part in _populations(evaluation, policy, entry):
            needs += _needs(part, policy, entry, group, f"margin {entry.margin:g}")
            needs += _needs_of_floor(part, policy, entry, group)
    for drop in policy.robustness:  # each perturbation takes the same
        alike = NonInferiority(metric=drop.metric, margin=drop.margin, finding=drop.finding)
        needs += _needs(evaluation, policy, alike, "", f"margin {drop.margin:g}, perturbed")
    return tuple(dict.fromkeys(needs))


def _populations(evaluation: Evaluation, policy: Policy, entry: NonInferiority) -> list[tuple[str, Evaluation]]:
    if not entry.subgroup:
        return [("", evaluation)]
    rule = next(rule for rule in policy.subgroups if rule.column == entry.subgroup)
    groups = divide(evaluation, rule, policy).groups
    return [(group.name, restrict(evaluation, group.rows)) for group in groups if group.rows.any()]


def _needs_of_floor(evaluation: Evaluation, policy: Policy, entry: NonInferiority, group: str) -> list[Need]:
    """Of the higher floor, where a share has one below 1."""
    floor = max(entry.teacher_floor or 0.0, entry.bundle_floor or 0.0)
    if not 0 < floor < 1 or entry.metric in LOWER_IS_BETTER:
        return []
    as_margin = msgspec.structs.replace(entry, margin=1 - floor, teacher_floor=None, bundle_floor=None)
    return _needs(evaluation, policy, as_margin, group, f"floor {floor:g}")


def _needs(evaluation: Evaluation, policy: Policy, entry: NonInferiority, group: str, asked: str) -> list[Need]:
    """Of what is ``asked``, in words, which is excluded as ``entry`` excludes its margin."""
    clusters = number_clusters(evaluation.clusters)
    margin = min(2 * entry.margin, 0.999) if entry.metric == "balanced_accuracy" else entry.margin
    if entry.metric == "auprc":
        needed = smallest_count_of_precision(margin, policy.alpha)
    else:
        needed = smallest_count(margin, policy.alpha)
    entry.check_finding(evaluation.findings)
    findings = [entry.finding] if entry.finding else list(evaluation.findings)
    if entry.metric in ("accuracy", "brier"):
        everybody = np.ones(len(clusters), np.bool_)
        name = f"{entry.metric}{f', {group}' if group else ''}, {asked}"
        return [Need(name, "in all", needed, *_present(clusters, everybody))]
    needs = []
    for finding in findings:
        positive = evaluation.truth[:, evaluation.findings.index(finding)]
        name = f"{entry.metric} of {finding}{f', {group}' if group else ''}, {asked}"
        for label in _WHOSE.get(entry.metric, ()):
            whose = "with it" if label else "without it"
            needs.append(Need(name, whose, needed, *_present(clusters, positive == label)))
    return needs


def _present(clusters: NDArray[np.int64], rows: NDArray[np.bool_]) -> tuple[int, int]:
    """Patients of ``rows``, and as many as if each had the images of the one with the most (see `patient_effects`)."""
    if not rows.any():
        return 0, 0
    sizes = np.unique(clusters[rows], return_counts=True)[1]
    return len(sizes), int(sizes.sum() / sizes.max())
