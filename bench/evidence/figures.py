"""Every figure of a report, computed again from what is beneath it in the same file.

Comparisons and fidelity follow from the per-case scores, speed-ups and slowdowns from the raw times. Bootstraps have
seeds, so that another machine differs by rounding only; figures that differ by more were edited.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from medfm_compress.bench.evaluate.robustness import compare_drops
from medfm_compress.bench.gate.consistent_scores import check_consistent
from medfm_compress.bench.gate.gate import gather
from medfm_compress.bench.measure.latency_regression import geometric_mean_ratio
from medfm_compress.bench.measure.speedup import speedup
from medfm_compress.bench.report import Report
from medfm_compress.bench.types.evaluation import Comparison
from medfm_compress.bench.types.robustness import DropComparison
from medfm_compress.runtime.errors import InputError

TOLERANCE = 1e-6


def differing_figures(report: Report) -> Iterator[str]:
    """What differs, one phrase a figure, found lazily; nothing where every figure follows."""
    for table in report.evaluations:
        try:
            check_consistent(table.to_evaluation(), report.task_of(table.name))
        except InputError as exc:
            yield str(exc)
            return
    others = [table.to_evaluation() for table in report.evaluations[1:]]
    found = gather(report.teacher.to_evaluation(), others, report.policy, report.task)
    yield from _differences({_key(c): c for c in report.comparisons}, {_key(c): c for c in found.comparisons})
    yield from _differences(
        {f"fidelity of {entry.variant}": entry for entry in report.fidelity},
        {f"fidelity of {entry.variant}": entry for entry in found.fidelity},
    )
    teacher, judged = report.teacher.to_evaluation(), [other for other in others if other.name in report.variants]
    drops = compare_drops([teacher, *judged], report.perturbed, report.policy)
    yield from _differences({_drop(d): d for d in report.drops}, {_drop(d): d for d in drops})
    yield from _speeds(report)


def not_derived(report: Report) -> tuple[str, ...]:
    """What stands in the report and cannot be computed again from it."""
    made = [f"{len(report.measurements)} measurements (raw times, sizes and memory are taken as they stand)"]
    if report.scenarios:
        made.append(f"{len(report.scenarios)} load scenarios")
    if report.explanations:
        made.append(f"{len(report.explanations)} agreements of attribution maps")
    return tuple(made)


def count_figures(report: Report) -> int:
    """How many comparisons, fidelities, drops and ratios are computed again."""
    parts = (report.comparisons, report.fidelity, report.drops, report.speedups, report.slowdowns)
    return sum(map(len, parts))


def _speeds(report: Report) -> Iterator[str]:
    for entry in report.speedups:
        base, own = report.measurement(entry.baseline), report.measurement(entry.name)
        if base is None or own is None:
            yield f"speed-up of {entry.name}: it or its baseline was not measured"
            continue
        yield from _unequal(f"speed-up of {entry.name}", entry.ratio, speedup(base, own))
    for slower in report.slowdowns:
        again = geometric_mean_ratio(slower.baseline_p50_ms, slower.p50_ms)
        yield from _unequal(f"slowdown of {slower.variant}", slower.ratio, again)


def _differences(recorded: Mapping[str, msgspec.Struct], found: Mapping[str, msgspec.Struct]) -> Iterator[str]:
    for name in [*found, *(name for name in recorded if name not in found)]:
        if name not in recorded or name not in found:
            where = (
                "computed from its scores and not in it" if name in found else "in it and not computed from its scores"
            )
            yield f"{name} is {where}"
        else:
            yield from _unequal(name, recorded[name], found[name])


def _unequal(name: str, recorded: msgspec.Struct, found: msgspec.Struct) -> Iterator[str]:
    """Fields of two structs that are not equal, floats within `TOLERANCE`."""
    for field in recorded.__struct_fields__:
        was, now = getattr(recorded, field), getattr(found, field)
        if isinstance(was, msgspec.Struct) and isinstance(now, msgspec.Struct):
            yield from _unequal(f"{name}, {field}", was, now)
        elif not _equal(was, now):
            yield f"{name}, {field} is {_short(was)} in the report and {_short(now)} from its scores"


def _equal(was: object, now: object) -> bool:
    if isinstance(was, float) or isinstance(now, float):
        numbers = [value for value in (was, now) if isinstance(value, int | float)]
        return len(numbers) == 2 and _close(numbers)
    if isinstance(was, tuple) and isinstance(now, tuple):
        return len(was) == len(now) and all(map(_equal, was, now))
    return was == now


def _close(numbers: Sequence[float]) -> bool:
    was, now = numbers
    return (
        was == now or (math.isnan(was) and math.isnan(now)) or math.isclose(was, now, rel_tol=TOLERANCE, abs_tol=1e-9)
    )


def _short(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)[:80]


def _drop(comparison: DropComparison) -> str:
    return f"loss on perturbed images ({', '.join(map(str, comparison.key))})"


def _key(comparison: Comparison) -> str:
    whose = f"{comparison.metric} of {comparison.finding or 'all labels'}"
    return f"{whose}{f', {comparison.subgroup}' * bool(comparison.subgroup)} ({comparison.variant})"
