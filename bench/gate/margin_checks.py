"""The checks of a required comparison: its margin, and the floors of teacher and bundle."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from medfm_compress.bench.stats.power import reach
from medfm_compress.bench.types.evaluation import Comparison
from medfm_compress.bench.types.interval import Interval
from medfm_compress.bench.types.metric import LOWER_IS_BETTER, Metric
from medfm_compress.bench.types.policy import NonInferiority
from medfm_compress.bench.types.verdict import Check

POWER = 0.8
UNDEFINED: dict[Metric, str] = {
    "ppv": "undefined: teacher or bundle calls no case",
    "npv": "undefined: teacher or bundle calls every case",
    "f1": "undefined: no case has the finding, and none is called",
    "sensitivity": "undefined: no case has the finding",
    "specificity": "undefined: every case has the finding",
    "balanced_accuracy": "undefined: all cases are of one class",
    "auroc": "undefined: all cases are of one class",
    "auprc": "undefined: no case has the finding",
    "small_lesion_sensitivity": "undefined: no case has a small region of it",
    **dict.fromkeys(("pixel_auroc", "pro"), "undefined: no abnormal case has a mask, or a model gives no anomaly map"),
    **dict.fromkeys(
        ("dice", "iou", "surface_dice", "hd95", "lesion_sensitivity"), "undefined: no case shows the structure"
    ),
}
Key = tuple[str, str, str, str]


class Population(NamedTuple):
    """Cases that are judged together: all of them (``column`` and ``name`` empty), or a group of patients.

    Attributes:
        column: that the group is of.
        name: of the group.
        lacking: finding → why there are too few patients to judge it; empty where they suffice.
        optional: a group whose lack of patients is named and asks nothing.
        lacking_values: metric of masks and finding → likewise, since such a metric has cases of its own.
    """

    column: str
    name: str
    lacking: dict[str, str]
    optional: bool = False
    lacking_values: Mapping[tuple[Metric, str], str] = MappingProxyType({})

    def lacks(self, metric: Metric, finding: str) -> str:
        """Why there are too few patients to judge ``metric`` of ``finding``; empty where they suffice."""
        return self.lacking_values.get((metric, finding), self.lacking[finding])


class Required(NamedTuple):
    """One entry of the policy, spelt out for one finding and one population."""

    entry: NonInferiority
    finding: str
    population: Population

    @property
    def name(self) -> str:
        """As the check is called."""
        whose = f"{self.entry.metric} of {self.finding}" if self.finding else f"{self.entry.metric} over all labels"
        return f"{whose}, {self.population.name}" if self.population.name else whose

    @property
    def lacking(self) -> str:
        """Why there are too few patients to judge it; empty where they suffice."""
        return self.population.lacks(self.entry.metric, self.finding)

    def key(self, variant: str) -> Key:
        """Which comparison of ``variant`` answers it."""
        return (variant, self.entry.metric, self.finding, self.population.name)


def check_required(
    requirement: Required, comparison: Comparison | None, absent: str, p_worse: float, alpha: float
) -> list[Check]:
    """The comparison's own check, then its floors'; ``absent`` says why there may be none."""
    entry, name = requirement.entry, requirement.name
    floors = (("teacher", entry.teacher_floor), ("bundle", entry.bundle_floor))
    bound = "ceiling" if entry.metric in LOWER_IS_BETTER else "floor"
    names = {whose: f"{name}, {bound} of the {whose}" for whose, floor in floors if floor is not None}
    lacking = requirement.lacking
    incompatibility = f"too few cases: {lacking}" if lacking else absent
    if comparison is not None and not lacking:
        incompatibility = _incompatibility(comparison, entry.margin, alpha)
    if comparison is None or incompatibility:
        return [
            Check(name=check_name, outcome="inconclusive", reason=incompatibility)
            for check_name in (name, *names.values())
        ]
    values = {"teacher": comparison.teacher, "bundle": comparison.bundle}
    return [
        _check_margin(name, comparison, entry.margin, p_worse <= alpha),
        *(_check_floor(names[whose], values[whose], floor, bound) for whose, floor in floors if floor is not None),
    ]


def _incompatibility(comparison: Comparison, margin: float, alpha: float) -> str:
    """Why a comparison cannot be judged; empty where it can."""
    if comparison.too_few:
        return f"too few cases: {comparison.too_few}"
    difference = comparison.difference
    values = (comparison.teacher.estimate, comparison.bundle.estimate, difference.estimate)
    if not all(map(math.isfinite, (*values, difference.low, difference.high))):
        return "the interval is not finite"
    if comparison.margin != margin or not math.isclose(difference.level, 1 - 2 * alpha):
        return "computed under another policy; compare again under this one"
    return ""


def describe_difference(comparison: Comparison, margin: float) -> str:
    """``difference -0.0009, 95% interval -0.0100 to +0.0082, margin 0.02``."""
    difference = comparison.difference
    return (
        f"difference {difference.estimate:+.4f}, {100 * difference.level:.4g}% interval {difference.low:+.4f} to "
        f"{difference.high:+.4f}, margin {margin:.4g}"
    )


def _check_margin(name: str, comparison: Comparison, margin: float, worse: bool) -> Check:
    rise, loss = ("a rise", "rise") if comparison.metric in LOWER_IS_BETTER else ("a drop", "drop")
    figures = describe_difference(comparison, margin)
    lost = comparison.smallest_loss > 0
    if comparison.largest_loss < margin:
        doubt = "; worse beyond doubt, by less than the margin" if lost else ""
        return Check(name=name, outcome="pass", reason=f"{figures}: {rise} so large is ruled out{doubt}")
    if worse:
        return Check(name=name, outcome="fail", reason=f"{figures}: significantly worse than the margin allows")
    found = (
        f"worse beyond doubt, and {rise} so large is not ruled out"
        if lost
        else (f"{rise} so large is neither shown nor ruled out")
    )
    return Check(name=name, outcome="inconclusive", reason=f"{figures}: {found}; {_power(comparison, loss, margin)}")


def _power(comparison: Comparison, loss: str, margin: float) -> str:
    """What these cases could have shown at best: an inconclusive answer must say what would settle it."""
    alpha = (1 - comparison.difference.level) / 2
    error, least = comparison.difference.standard_error, comparison.least_loss
    reachable = reach(error, margin, alpha=alpha, power=POWER, least_loss=least)
    if reachable.smallest_margin is None or reachable.times_patients is None:
        return f"how many more patients it takes is not known: {reachable.reason}"
    if reachable.times_patients <= 1:
        return (
            f"these {comparison.patients} patients would rule it out in over {100 * POWER:.0f}% of studies were the "
            "two equal in truth, so the bundle is probably somewhat worse"
        )
    needed = comparison.patients * reachable.times_patients
    if least is not None and least >= margin:
        several = comparison.cases > comparison.patients
        fewer = ", of whom fewer count since some have several images," if several else ""
        return (
            f"{comparison.patients} such patients ({comparison.patients_with} with the finding){fewer} cannot rule out "
            f"a {loss} below {least:.3f} even where nobody is lost, and {margin:.4g} would take about {needed:,.0f}"
        )
    return (
        f"were the two equal in truth, {comparison.patients} such patients would rule out a {loss} of "
        f"{reachable.smallest_margin:.3f} in {100 * POWER:.0f}% of studies, and {margin:.4g} would take about "
        f"{needed:,.0f}"
    )


def _check_floor(name: str, value: Interval, floor: float, bound: str) -> Check:
    """Shown, excluded or neither, by the confidence bounds, as a margin is."""
    needed = f"at {'least' if bound == 'floor' else 'most'} {floor:.4g}"
    figures = f"{value.estimate:.4f}, {100 * value.level:.4g}% interval {value.low:.4f} to {value.high:.4f}: {needed}"
    if value.low >= floor if bound == "floor" else value.high <= floor:
        return Check(name=name, outcome="pass", reason=f"{figures} is shown")
    if value.high < floor if bound == "floor" else value.low > floor:
        return Check(name=name, outcome="fail", reason=f"{figures} is excluded")
    return Check(name=name, outcome="inconclusive", reason=f"{figures} is neither shown nor excluded")
