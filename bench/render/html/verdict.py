"""The top of the report: reasons of the verdict, and four figures that say what was gained and what it cost."""

from __future__ import annotations

from typing import NamedTuple

from medfm_compress.bench.render.format import METRIC_NAMES, bounds, factor, megabytes, milliseconds, number, signed
from medfm_compress.bench.render.html.rendering import Tile
from medfm_compress.bench.report import TEACHER, Report
from medfm_compress.bench.types.evaluation import Comparison
from medfm_compress.bench.types.verdict import Check, Verdict


class Unmet(NamedTuple):
    """A check that did not pass, and whose it is."""

    check: Check
    variant: str


class VerdictView(NamedTuple):
    """Checks that did not pass, failed ones first; what must be known beside them; figures of the first variant."""

    unmet: list[Unmet]
    cautions: list[str]
    tiles: list[Tile]


def verdict_view(report: Report, verdict: Verdict) -> VerdictView:
    """What stands in the way of a pass, and what the first shipped variant gains and costs."""
    unmet = [
        Unmet(check, judged.variant)
        for outcome in ("fail", "inconclusive")
        for judged in verdict.variants
        for check in judged.checks
        if check.outcome == outcome
    ]
    tiles = _tiles(report, report.variants[0]) if report.variants else []
    return VerdictView(unmet, _cautions(report, verdict), tiles)


def _cautions(report: Report, verdict: Verdict) -> list[str]:
    """Notes, variants not judged, a verdict on something else."""
    lines = list(verdict.notes)
    if (verdict.model_digest, verdict.policy_sha256) != (report.model_digest, report.policy_sha256):
        lines.append("This verdict cites another model or policy than the report below: it is void.")
    missing = [name for name in report.shipped if name not in report.variants]
    if missing:
        lines.append(f"The bundle also ships {', '.join(missing)}, which this run did not evaluate.")
    return lines


def _tiles(report: Report, variant: str) -> list[Tile]:
    tiles = [_accuracy_tile(report, variant), _speed_tile(report, variant), *_cost_tiles(report, variant)]
    return [tile for tile in tiles if tile]


def _accuracy_tile(report: Report, variant: str) -> Tile | None:
    compared = [entry for entry in report.comparisons if entry.variant == variant and not entry.subgroup]
    required = [comparison for comparison in compared if comparison.margin is not None] or compared
    if not required:
        return None
    worst = min(required, key=_room)
    finding = f", {worst.finding}" if worst.finding and len(report.task.findings) > 1 else ""
    return Tile(
        METRIC_NAMES[worst.metric] + finding,
        number(worst.bundle.estimate),
        (
            f"teacher {number(worst.teacher.estimate)}",
            worst.too_few or f"difference {bounds(worst.difference, sign=True)}",
        ),
        change=signed(worst.difference.estimate),
    )


def _room(comparison: Comparison) -> float:
    """How far the largest loss that the interval leaves possible stays below the margin."""
    return (comparison.margin or 0.0) - comparison.largest_loss


def _speed_tile(report: Report, variant: str) -> Tile | None:
    ratio = next((speedup.ratio for speedup in report.speedups if speedup.name == variant), None)
    teacher, bundle = report.measurement(TEACHER), report.measurement(variant)
    if ratio is None or teacher is None or bundle is None:
        return None
    p50 = f"{milliseconds(teacher.quantile_ms(0.5))} → {milliseconds(bundle.quantile_ms(0.5))} ms"
    return Tile("Faster", factor(ratio.estimate), (f"{factor(ratio.low)} to {factor(ratio.high)}", f"median {p50}"))


def _cost_tiles(report: Report, variant: str) -> tuple[Tile | None, ...]:
    teacher, bundle = report.measurement(TEACHER), report.measurement(variant)
    if teacher is None or bundle is None:
        return ()
    sizes = _ratio_tile("Smaller on disk", teacher.size_bytes, bundle.size_bytes)
    return sizes, _ratio_tile("Less peak memory", teacher.peak_rss_bytes, bundle.peak_rss_bytes)


def _ratio_tile(label: str, before: int, after: int) -> Tile | None:
    if before <= 0 or after <= 0:
        return None
    return Tile(label, factor(before / after), (f"{megabytes(before)} →", megabytes(after)))
