"""The sensitivity picture of a network: one page of HTML without scripts, and the same figures as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from medfm_compress.bench.render.format import counted, number, percent
from medfm_compress.bench.render.html.rendering import Tile, drawing, render
from medfm_compress.bench.render.plots.sensitivity import CLASSES, LOSSES, panel_plots, strip_plot
from medfm_compress.bench.types.sensitivity import SensitivityCurve, SensitivityReport
from medfm_compress.runtime.atomic_write import replacing
from medfm_compress.runtime.strict_json import encode

SENSITIVITY_HTML = "sensitivity.html"
SENSITIVITY_JSON = "sensitivity.json"
_PER_FIGURE, _PANELS = 45, 9
_KINDS = {"channels": "Channels", "heads": "Attention heads", "embedding": "Token width", "block": "Whole blocks"}


class SensitivityView(NamedTuple):
    """What the page shows beside the report's own figures.

    Attributes:
        tiles: at its top.
        facts: under them.
        worst: name and plot of the groups that hurt most.
        worst_have_score: whether those plots show it.
        has_score: whether the loss of the score is known.
        error_classes: what the shades of the errors mean, lightest first.
        loss_classes: likewise, of the loss of the score.
        strips: title and drawing of all groups, kind by kind in the order of the network.
        ranked: all groups, worst first.
        kinds: how people call them.
        is_timed: whether it is known what narrowing saves.
    """

    tiles: list[Tile]
    facts: dict[str, str]
    worst: list[tuple[str, Markup]]
    worst_have_score: bool
    has_score: bool
    error_classes: list[str]
    loss_classes: list[str]
    strips: list[tuple[str, Markup]]
    ranked: list[SensitivityCurve]
    kinds: dict[str, str]
    is_timed: bool


def write_sensitivity(report: SensitivityReport, folder: Path) -> tuple[Path, Path]:
    """Write page and JSON into ``folder``; returns their paths."""
    page, data = folder / SENSITIVITY_HTML, folder / SENSITIVITY_JSON
    for path, content in ((page, render_sensitivity(report).encode()), (data, encode(report))):
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    return page, data


def render_sensitivity(report: SensitivityReport) -> str:
    """The page as self-contained HTML; every string of the report is escaped."""
    return render("sensitivity.html.j2", {"report": report, "view": _view(report)})


def _view(report: SensitivityReport) -> SensitivityView:
    ranked = report.ranked()
    shown, points = ranked[:_PANELS], [point for curve in report.curves for point in curve.points]
    has_score = report.score is not None and any(point.score is not None for point in points)
    return SensitivityView(
        tiles=_tiles(report),
        facts={
            "Target": report.target,
            "Accuracy": report.metric,
            "Cases": f"{report.cases:,}",
            "Chosen widths": report.allocation,
        },
        worst=[
            (curve.name, drawing(plot)) for curve, plot in zip(shown, panel_plots(shown, report.score), strict=True)
        ],
        worst_have_score=any(point.score is not None for curve in shown for point in curve.points),
        has_score=has_score,
        error_classes=_classes(CLASSES),
        loss_classes=_classes(LOSSES),
        strips=_strips(report, report.score if has_score else None),
        ranked=ranked,
        kinds=_KINDS,
        is_timed=any(point.removed_ms is not None for point in points),
    )


def _tiles(report: SensitivityReport) -> list[Tile]:
    narrowed = sum(curve.chosen < curve.width for curve in report.curves)
    worst = report.ranked()[0]
    safe = sum(curve.half.error < CLASSES[1] for curve in report.curves)
    tiles = [
        Tile("Groups", f"{len(report.curves):,}", (f"{counted(narrowed, 'group')} narrowed by the chosen widths",)),
        Tile("Hurts most", number(worst.half.error, 2), (worst.name,)),
        Tile("Nearly free", f"{safe:,}", (f"groups with an error below {CLASSES[1]:g} at about half",)),
    ]
    if report.cost and report.cost_before > 0:
        left = f"{_amount(report.cost_before)} → {_amount(report.cost_after)} {report.cost}"
        tiles.append(Tile("Cost left", percent(report.cost_after / report.cost_before), (left,)))
    return tiles


def _amount(value: float) -> str:
    """``12.3``, ``410 M``."""
    return f"{value / 1e6:,.0f} M" if value >= 1e7 else f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"


def _classes(edges: Sequence[float]) -> list[str]:
    between = [f"{low:g} to {high:g}" for low, high in pairwise(edges)]
    return [f"below {edges[0]:g}", *between, f"{edges[-1]:g} and more"]


def _strips(report: SensitivityReport, score: float | None) -> list[tuple[str, Markup]]:
    ranks = {curve.name: rank for rank, curve in enumerate(report.ranked(), 1)}
    strips = []
    for kind, title in _KINDS.items():
        curves = [curve for curve in report.curves if curve.kind == kind]
        for start in range(0, len(curves), _PER_FIGURE):
            drawn = strip_plot(curves[start : start + _PER_FIGURE], ranks, score, report.score_name)
            strips.append((title + (", continued" if start else ""), drawing(drawn)))
    return strips
