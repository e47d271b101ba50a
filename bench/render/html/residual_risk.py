"""Residual risk: what this report does not show, drawn from what is in it and what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from medfm_compress.bench.evaluate.prediction_flips import find_flips
from medfm_compress.bench.render.html.protocol import reuse_sentence
from medfm_compress.bench.render.html.subgroups import unjudged_groups
from medfm_compress.bench.report import Report


class HarmfulFlips(NamedTuple):
    """How many decisions a variant changed for the worse, and how many of them are missed findings."""

    variant: str
    cases: int
    missed: int


class LimitsView(NamedTuple):
    """What weighs beside the verdict.

    Attributes:
        harmful: of every variant that has any.
        unjudged: groups of patients too small to judge.
        reuse: how often the test cases were looked at, where that was not once.
        no_floor: whether the policy asks for no metric of the bundle itself.
        not_evaluated: shipped variants of which this report knows nothing.
    """

    harmful: list[HarmfulFlips]
    unjudged: list[str]
    reuse: str
    no_floor: bool
    not_evaluated: list[str]


def limits_view(report: Report) -> LimitsView:
    """Facts of the report; the requirements that are not met come from the verdict."""
    return LimitsView(
        list(_harmful_flips(report)),
        unjudged_groups(report.comparisons),
        reuse_sentence(report) if len(report.test_set_evaluations) != 1 else "",
        all(entry.bundle_floor is None for entry in report.policy.non_inferiority),
        [name for name in report.shipped if name not in report.variants],
    )


def _harmful_flips(report: Report) -> Iterator[HarmfulFlips]:
    teacher = report.teacher.to_evaluation()
    for table in report.evaluations[1:]:
        if table.name in report.variants:
            flips = [flip for flip in find_flips(teacher, table.to_evaluation()) if flip.direction == "harmful"]
            if flips:
                yield HarmfulFlips(table.name, len(flips), sum(flip.kind == "newly missed" for flip in flips))
