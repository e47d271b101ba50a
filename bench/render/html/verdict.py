"""The top of the report: what the policy requires and what was found, then what was gained and what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from medfm_compress.bench.gate.gate import noise_notes
from medfm_compress.bench.render.format import METRIC_NAMES, bounds, factor, megabytes, milliseconds, number, signed
from medfm_compress.bench.render.html.rendering import Tile
from medfm_compress.bench.render.html.requirements import Card, cards
from medfm_compress.bench.report import TEACHER, Report
from medfm_compress.bench.types.evaluation import Comparison
from medfm_compress.bench.types.metric import Metric
from medfm_compress.bench.types.verdict import Check, Verdict
from medfm_compress.runtime.task import TaskKind, by_kind

_USUAL: Mapping[TaskKind, tuple[Metric, ...]] = by_kind(
    ("auroc", "sensitivity", "specificity"),
    ("dice", "lesion_sensitivity", "false_positives_per_image"),
    ("auroc", "sensitivity", "specificity", "pro"),
)


class Unmet(NamedTuple):
    """A check that did not pass, and whose it is."""

    check: Check
    variant: str


class VerdictView(NamedTuple):
    """What a reader sees first.

    Attributes:
        unmet: checks that did not pass, failed ones first.
        cards: what the policy requires of each variant.
        cautions: what must be known beside the verdict.
        tiles: figures of the first variant: its speed and size, and accuracy that the policy has no margin for.
    """

    unmet: list[Unmet]
    cards: list[Card]
    cautions: list[str]
    tiles: list[Tile]


def verdict_view(report: Report, verdict: Verdict) -> VerdictView:
    """The requirements of every judged variant, and what the first shipped one gains and costs beside them."""
    unmet = [
        Unmet(check, judged.variant)
        for outcome in ("fail", "inconclusive")
        for judged in verdict.variants
        for check in judged.checks
        if check.outcome == outcome
    ]
    tiles = _tiles(report, report.variants[0]) if report.variants else []
    return VerdictView(unmet, cards(report, verdict), _cautions(report, verdict), tiles)


def _cautions(report: Report, verdict: Verdict) -> list[str]:
    """Notes (that on noise is written with its section), variants not judged, a verdict on something else."""
    lines = [note for note in verdict.notes if note not in noise_notes(report.noise)]
    if (verdict.model_digest, verdict.policy_sha256) != (report.model_digest, report.policy_sha256):
        lines.append("This verdict cites another model or policy than the report below: it is void.")
    missing = [name for name in report.shipped if name not in report.variants]
    if missing:
        lines.append(f"The bundle also ships {', '.join(missing)}, which this run did not evaluate.")
    return lines


def _tiles(report: Report, variant: str) -> list[Tile]:
    tiles = [*_metric_tiles(report, variant), _speed_tile(report, variant), *_cost_tiles(report, variant)]
    return [tile for tile in tiles if tile]


def _metric_tiles(report: Report, variant: str) -> list[Tile]:
    """Of the metrics that a clinician looks for first, those that are not required of all cases already."""
    compared = [entry for entry in report.comparisons if entry.variant == variant and not entry.subgroup]
    required = {entry.metric for entry in compared if entry.margin is not None}
    usual = _USUAL[report.task.kind]
    free = [[entry for entry in compared if entry.metric == metric] for metric in usual if metric not in required]
    return [_metric_tile(report, max(entries, key=lambda entry: entry.largest_loss)) for entries in free if entries]


def _metric_tile(report: Report, worst: Comparison) -> Tile:
    finding = f", {worst.finding}" if worst.finding and len(report.task.findings) > 1 else ""
    details = [
        f"teacher {number(worst.teacher.estimate)}",
        "too few cases for an interval" if worst.too_few else f"difference {bounds(worst.difference, sign=True)}",
    ]
    if not worst.too_few and worst.smallest_loss > 0:
        details.append("worse beyond doubt; the policy has no margin for it")
    change = signed(worst.difference.estimate)
    return Tile(METRIC_NAMES[worst.metric] + finding, number(worst.bundle.estimate), tuple(details), change=change)


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
