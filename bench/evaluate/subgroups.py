"""Divide the cases of an evaluation into groups of patients, by columns of the study."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.types.evaluation import Evaluation
from medfm_compress.bench.types.policy import Policy, SubgroupRule
from medfm_compress.data.number_ranges import number_range
from medfm_compress.runtime.errors import InputError

Rows = NDArray[np.bool_]
_MOST_GROUPS = 40


class Group(NamedTuple):
    """Cases of one group.

    Attributes:
        column: of the rule.
        name: as people read it, e.g. ``age >= 70``, ``sex = female`` or ``age >= 70, sex = female``.
        rows: [n], which cases.
    """

    column: str
    name: str
    rows: Rows


class Division(NamedTuple):
    """All groups of one column, in the order of their values; empty ones too, where the cuts make them.

    Attributes:
        groups: of the column.
        unrecorded: cases in no group, because the column is empty there (with cuts: is no number).
    """

    groups: tuple[Group, ...]
    unrecorded: int


def divide(evaluation: Evaluation, rule: SubgroupRule, policy: Policy) -> Division:
    """Groups of ``evaluation`` under ``rule``, one of ``policy``'s.

    An intersection's are all combinations of the groups of its columns, also those in which there is nobody.

    Raises:
        InputError: the study has no such column, it is empty for every case, or it has too many values to be groups.
    """
    if len(rule.parts) > 1:
        return _intersect(
            rule, [divide(evaluation, part, policy) for part in policy.subgroups if part.column in rule.parts]
        )
    values = evaluation.subgroups.get(rule.column)
    if values is None:
        known = ", ".join(sorted(evaluation.subgroups)) or "none"
        raise InputError(
            f"the policy divides by {rule.column!r}, which is no column of the study or report; it has {known}; mend "
            "the policy, add the column, or bench again: a report keeps only the columns that its own policy names"
        )
    return divide_values(rule, values)


def _intersect(rule: SubgroupRule, divisions: list[Division]) -> Division:
    groups = tuple(
        Group(
            rule.column,
            ", ".join(group.name for group in combined),
            np.logical_and.reduce([group.rows for group in combined]),
        )
        for combined in itertools.product(*(division.groups for division in divisions))
    )
    recorded = np.logical_or.reduce([group.rows for group in groups])
    return Division(groups, int((~recorded).sum()))


def divide_values(rule: SubgroupRule, values: tuple[str, ...]) -> Division:
    """Groups of the cases whose column holds ``values``; raises like :func:`divide`."""
    groups, recorded = _by_cuts(rule, values) if rule.cuts else _by_value(rule, values)
    if not recorded.any():
        raise InputError(
            f"column {rule.column!r} of the study is {'no number' if rule.cuts else 'empty'} for all {len(values)} "
            "evaluated cases, so its groups cannot be judged; fill it in or take it out of the policy"
        )
    return Division(groups, int((~recorded).sum()))


def restrict(evaluation: Evaluation, rows: Rows) -> Evaluation:
    """The part of ``evaluation`` on ``rows`` ([n], bool), in the same order."""
    numbers = np.flatnonzero(rows)
    return msgspec.structs.replace(
        evaluation,
        images=tuple(evaluation.images[row] for row in numbers),
        logits=evaluation.logits[rows],
        scores=evaluation.scores[rows],
        truth=evaluation.truth[rows],
        decisions=evaluation.decisions[rows],
        clusters=tuple(evaluation.clusters[row] for row in numbers),
        subgroups={name: tuple(values[row] for row in numbers) for name, values in evaluation.subgroups.items()},
        case_metrics={metric: values[rows] for metric, values in evaluation.case_metrics.items()},
    )


def _by_value(rule: SubgroupRule, values: tuple[str, ...]) -> tuple[tuple[Group, ...], Rows]:
    column = np.array(values, dtype=object)
    distinct = sorted({value for value in values if value})
    if len(distinct) > _MOST_GROUPS:
        raise InputError(
            f"column {rule.column!r} has {len(distinct)} values, at most {_MOST_GROUPS} can be groups; give 'cuts' to "
            "divide a number"
        )
    groups = tuple(Group(rule.column, f"{rule.column} = {value}", column == value) for value in distinct)
    return groups, column != ""


def _by_cuts(rule: SubgroupRule, values: tuple[str, ...]) -> tuple[tuple[Group, ...], Rows]:
    ranges = np.array([number_range(value) for value in values])
    for cut in rule.cuts:
        split = np.flatnonzero((ranges[:, 0] < cut) & (cut <= ranges[:, 1]))
        if len(split):
            raise InputError(
                f"cut {cut:g} of {rule.column!r} falls inside the recorded range {values[split[0]]!r}; cut between "
                "ranges"
            )
    ends = (-math.inf, *rule.cuts, math.inf)
    groups = tuple(
        Group(rule.column, _range_name(rule.column, low, high), (ranges[:, 0] >= low) & (ranges[:, 0] < high))
        for low, high in itertools.pairwise(ends)
    )
    return groups, ~np.isnan(ranges[:, 0])


def _range_name(column: str, low: float, high: float) -> str:
    if math.isinf(low):
        return f"{column} < {high:g}"
    return f"{column} >= {low:g}" if math.isinf(high) else f"{low:g} <= {column} < {high:g}"
