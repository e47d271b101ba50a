"""The sensitivity picture: what each group of channels, heads or blocks costs in accuracy as more of it is removed.

    e(g, f) = |z' - z|_F / |z - mean z|_F

is the relative logit error with the fraction f of group g removed and all else kept, over cases and outputs: 0 is the
same answer, 1 is as far off as one answer for all cases. Groups are ranked by the error at the measured width nearest
to half. One page of HTML without scripts, and the same figures as JSON; both hold aggregates only, nothing of a case or
a patient.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from medfm_compress.bench.render.format import counted, definitions, esc, milliseconds, number, percent, signed
from medfm_compress.bench.render.html.style import STYLE
from medfm_compress.bench.render.plots.svg import Axis, line, log_ticks, svg, text
from medfm_compress.bench.types.sensitivity import SensitivityCurve, SensitivityReport
from medfm_compress.runtime.atomic_write import replacing
from medfm_compress.runtime.strict_json import encode

SENSITIVITY_HTML = "sensitivity.html"
SENSITIVITY_JSON = "sensitivity.json"
CLASSES = (0.05, 0.1, 0.2, 0.5, 1.0)
LOSSES = (0.002, 0.005, 0.01, 0.02, 0.05)

_ROW, _PER_FIGURE, _PANELS, _NAME, _LONGEST = 17, 45, 9, 232, 32
_KINDS = {"channels": "Channels", "heads": "Attention heads", "embedding": "Token width", "block": "Whole blocks"}
_STYLE = """
.h0 { fill: #eef2f5; } .h1 { fill: #fbe3c0; } .h2 { fill: #f5b971; } .h3 { fill: #e27f3f; } .h4 { fill: #b8402b; }
.h5 { fill: #6d1120; } .a1 { fill: #d3e5f2; } .a2 { fill: #9cc6e3; } .a3 { fill: #5b9dcb; } .a4 { fill: #21699f; }
.a5 { fill: #0b3a63; } .cell { stroke: #fff; stroke-width: 1; } svg.strip { width: 100%; height: auto; }
.strip text.row-name { font-size: 11.5px; } .chosen { stroke: #000; stroke-width: 1.2; }
.chosen { fill: #fff; } .chosen.whole { fill: none; stroke: #8793a0; }
.strip text.hot, .panel text.hot { font-weight: 600; fill: var(--ink); }
.panel .point { fill: var(--s1); } .panel .path { fill: none; stroke: var(--s1); stroke-width: 2; }
.panel .path.auroc { stroke: var(--s2); stroke-dasharray: 6 3; } .panel .point.auroc { fill: var(--s2); }
.panel .pick { stroke: var(--ink); stroke-dasharray: 3 3; } svg.panel { width: 100%; height: auto; }
.legend svg.swatch { width: 18px; } figcaption { overflow-wrap: anywhere; }
"""


def write_sensitivity(report: SensitivityReport, folder: Path) -> tuple[Path, Path]:
    """Write page and JSON into ``folder``; returns their paths."""
    page, data = folder / SENSITIVITY_HTML, folder / SENSITIVITY_JSON
    for path, content in ((page, render_sensitivity(report).encode()), (data, encode(report))):
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    return page, data


def render_sensitivity(report: SensitivityReport) -> str:
    """The page as self-contained HTML; every string of the report is escaped."""
    title = f"{report.model}: pruning sensitivity"
    sections = (
        ("The groups that hurt most", _worst(report)),
        ("Every group", _strips(report)),
        ("The figures", _table(report)),
    )
    parts = "".join(
        f'<section><h2><span class="no">{place}</span>{name}</h2>{body}</section>'
        for place, (name, body) in enumerate(sections, 1)
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{esc(title)}</title><style>{STYLE}{_STYLE}</style></head><body><main>{_header(report)}{parts}"
        "<footer>Made by medfm-compress. Groups were narrowed one at a time: errors of several do not simply add up. "
        "It names no case and no patient.</footer></main></body></html>\n"
    )


def _header(report: SensitivityReport) -> str:
    facts = {
        "Target": report.target,
        "Accuracy": report.metric,
        "Cases": f"{report.cases:,}",
        "Chosen widths": report.allocation,
    }
    return (
        f'<header><div class="eyebrow"><span>Pruning sensitivity</span></div><h1>{esc(report.model)}</h1></header>'
        f'<div class="tiles">{"".join(_tiles(report))}</div><dl>{definitions(facts)}</dl>'
    )


def _tiles(report: SensitivityReport) -> list[str]:
    narrowed = sum(curve.chosen < curve.width for curve in report.curves)
    worst = report.ranked()[0]
    safe = sum(curve.half.error < CLASSES[1] for curve in report.curves)
    tiles = [
        ("Groups", f"{len(report.curves):,}", f"{counted(narrowed, 'group')} narrowed by the chosen widths"),
        ("Hurts most", number(worst.half.error, 2), esc(worst.name)),
        ("Nearly free", f"{safe:,}", f"groups with an error below {CLASSES[1]:g} at about half"),
    ]
    if report.cost and report.cost_before > 0:
        left = f"{_amount(report.cost_before)} → {_amount(report.cost_after)} {esc(report.cost)}"
        tiles.append(("Cost left", percent(report.cost_after / report.cost_before), left))
    return [
        f'<div class="tile"><div class="label">{label}</div><div class="figure">{figure}</div><div class="detail">'
        f"{detail}</div></div>"
        for label, figure, detail in tiles
    ]


def _amount(value: float) -> str:
    """``12.3``, ``410 M``."""
    return f"{value / 1e6:,.0f} M" if value >= 1e7 else f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"


def _worst(report: SensitivityReport) -> str:
    shown = report.ranked()[:_PANELS]
    errors = [point.error for curve in shown for point in curve.points]
    low = min(max(min(errors) / 1.3, 1e-4), 0.05)
    y = Axis(low, max(max(errors) * 1.3, 1.2), 128, 8, log=True)
    areas = [point.auroc for curve in shown for point in curve.points if point.auroc is not None]
    z = Axis(min([*areas, report.auroc or 1.0]) - 0.01, max([*areas, report.auroc or 0.0]) + 0.005, 222, 162)
    figures = "".join(
        f"<figure><figcaption>{rank}. {esc(curve.name)}</figcaption>{_panel(curve, y, z if areas else None)}</figure>"
        for rank, curve in enumerate(shown, 1)
    )
    second = "; the dashed line below is AUROC" if areas else ""
    return (
        '<p class="lead">Relative logit error (logarithmic) over the fraction removed, worst group first. At 1 the '
        f"answers carry nothing of the original any more{second}. The dashed upright line is the chosen width.</p>"
        f'<div class="thirds">{figures}</div>'
    )


def _panel(curve: SensitivityCurve, y: Axis, z: Axis | None) -> str:
    x, foot = Axis(0, 1, 40, 272), 222 if z else 128
    marks = [value for value in log_ticks(y.low, y.high) if f"{value:e}"[0] == "1"]
    parts = [line(x.start, y.at(v), x.stop, y.at(v), "reference" if v == 1 else "grid") for v in marks]
    parts += [text(x.start - 6, y.at(v) + 4, f"{v:g}", "tick end") for v in marks]
    parts += [text(x.at(v), foot + 15, f"{v:.0%}", "tick middle") for v in (0, 0.5, 1)]
    points = sorted(curve.points, key=lambda point: -point.kept)
    parts.append(_path([(x.at(curve.removed(p.kept)), y.at(p.error)) for p in points], ""))
    if z:
        parts += [line(x.start, v, x.stop, v, "grid") for v in (z.start, z.stop)]
        parts += [text(x.start - 6, z.at(v) + 4, f"{v:.2f}", "tick end") for v in (z.low, z.high)]
        parts.append(
            _path([(x.at(curve.removed(p.kept)), z.at(p.auroc)) for p in points if p.auroc is not None], "auroc")
        )
    place = x.at(curve.removed(curve.chosen))
    parts.append(line(place, y.stop, place, foot, "pick"))
    label = f"Error of {curve.name}: {number(curve.half.error)} with {curve.half.kept} of {curve.width} kept"
    return svg(292, foot + 22, label, "".join(parts), "panel")


def _path(places: Sequence[tuple[float, float]], style: str) -> str:
    drawn = " ".join(f"{x:g},{y:g}" for x, y in places)
    dots = "".join(f'<circle class="point {style}" cx="{x:g}" cy="{y:g}" r="3"/>' for x, y in places)
    return f'<polyline class="path {style}" points="{drawn}"/>{dots}'


def _strips(report: SensitivityReport) -> str:
    ranks = {curve.name: rank for rank, curve in enumerate(report.ranked(), 1)}
    parts = [
        '<p class="lead">In the order of the network. Left is whole, right is removed; the darker, the more it hurts. '
        "A diamond marks the chosen width, an empty one a group that stays whole. The number after a name is its rank "
        "from the worst; the ten worst are in bold.</p>",
        _legend("Relative logit error", "h", CLASSES),
    ]
    losses = report.auroc is not None and any(p.auroc is not None for curve in report.curves for p in curve.points)
    if losses:
        parts.append(_legend("Loss of AUROC", "a", LOSSES))
    for kind, heading in _KINDS.items():
        mine = [curve for curve in report.curves if curve.kind == kind]
        for start in range(0, len(mine), _PER_FIGURE):
            drawn = _strip(mine[start : start + _PER_FIGURE], ranks, report.auroc if losses else None)
            parts.append(f"<h3>{heading}{', continued' if start else ''}</h3><figure>{drawn}</figure>")
    return "".join(parts)


def _legend(title: str, style: str, edges: Sequence[float]) -> str:
    words = [f"below {edges[0]:g}", *(f"{low:g} to {high:g}" for low, high in pairwise(edges))]
    words.append(f"{edges[-1]:g} and more")
    swatches = "".join(
        f'<span><svg class="swatch" viewBox="0 0 18 14" aria-hidden="true"><rect class="{_shade(style, place)}" '
        f'width="18" height="14"/></svg>{word}</span>'
        for place, word in enumerate(words)
    )
    return f'<div class="legend"><b>{title}</b>{swatches}</div>'


def _shade(style: str, place: int) -> str:
    return f"{style}{place}" if place else "h0"


def _strip(curves: Sequence[SensitivityCurve], ranks: dict[str, int], auroc: float | None) -> str:
    top, end = 20, 900 - 16
    bottom = top + _ROW * len(curves)
    axes = [Axis(0, 1, _NAME + 34, end)] if auroc is None else [Axis(0, 1, _NAME + 34, 552), Axis(0, 1, 602, end)]
    parts = []
    for axis, words in zip(axes, ("fraction removed: error", "fraction removed: loss of AUROC"), strict=False):
        parts += [text(axis.at(v), top - 6, f"{v:.0%}", "tick middle") for v in (0, 0.25, 0.5, 0.75, 1)]
        parts.append(text((axis.start + axis.stop) / 2, bottom + 16, words, "axis middle"))
    for place, curve in enumerate(curves):
        y, rank = top + _ROW * place, ranks[curve.name]
        hot = " hot" if rank <= 10 else ""
        name = curve.name if len(curve.name) <= _LONGEST else f"…{curve.name[1 - _LONGEST :]}"
        parts.append(text(_NAME, y + 12, name, f"row-name end{hot}"))
        parts.append(text(_NAME + 26, y + 12, str(rank), f"tick end{hot}"))
        parts.append(_cells(curve, axes[0], y, None))
        if auroc is not None:
            parts.append(_cells(curve, axes[1], y, auroc))
    return svg(900, bottom + 24, f"Sensitivity of {counted(len(curves), 'group')}", "".join(parts), "strip")


def _cells(curve: SensitivityCurve, axis: Axis, y: float, auroc: float | None) -> str:
    """One cell a width that was tried, as far as halfway to its neighbours; the whole group is the first."""
    tried: list[tuple[float, float]] = [(0.0, 0.0)]
    for point in sorted(curve.points, key=lambda point: -point.kept):
        if auroc is None:
            tried.append((curve.removed(point.kept), point.error))
        elif point.auroc is not None:
            tried.append((curve.removed(point.kept), auroc - point.auroc))
    middles = [(one + other) / 2 for (one, _), (other, _) in pairwise(tried)]
    last = min(1.0, tried[-1][0] + (tried[-1][0] - middles[-1] if middles else 0.0))
    style, edges = ("h", CLASSES) if auroc is None else ("a", LOSSES)
    parts = []
    for (_, value), left, right in zip(tried, [0.0, *middles], [*middles, last], strict=True):
        shade = _shade(style, sum(value >= edge for edge in edges))
        width = axis.at(right) - axis.at(left)
        parts.append(
            f'<rect class="cell {shade}" x="{axis.at(left):g}" y="{y + 1}" width="{width:.2f}" height="{_ROW - 2}"/>'
        )
    place, middle = axis.at(curve.removed(curve.chosen)), y + _ROW / 2
    whole = " whole" if curve.chosen == curve.width else ""
    parts.append(f'<path class="chosen{whole}" d="M{place:g} {middle - 5:g}l5 5l-5 5l-5 -5z"/>')
    return "".join(parts)


def _table(report: SensitivityReport) -> str:
    timed = any(point.removed_ms is not None for curve in report.curves for point in curve.points)
    heads = ["Rank", "Width", "Chosen", "Removed", "Error at chosen", "Error at about half", "AUROC at about half"]
    heads += ["Saves at chosen, ms"] if timed else []
    head = f'<tr><th class="text">Group</th>{"".join(f"<th>{name}</th>" for name in heads)}</tr>'
    rows = "".join(
        _row(curve, [str(rank), *_cells_of(curve, report.auroc), *([_saved(curve)] if timed else [])])
        for rank, curve in enumerate(report.ranked(), 1)
    )
    return (
        '<p class="lead">Worst first. A dash stands where a group stays whole or a value was not measured.</p>'
        f'<div class="wide"><table class="tight"><thead>{head}</thead><tbody>{rows}</tbody></table></div>'
    )


def _cells_of(curve: SensitivityCurve, auroc: float | None) -> tuple[str, ...]:
    chosen, half = curve.at(curve.chosen), curve.half
    change = f'<span class="sub">{signed(half.auroc - auroc)}</span>' if half.auroc is not None and auroc else ""
    return (
        f"{curve.width:,}",
        f"{curve.chosen:,}",
        percent(curve.removed(curve.chosen)) if curve.chosen < curve.width else "–",
        number(chosen.error) if chosen else "–",
        f'{number(half.error)}<span class="sub">{half.kept:,} kept</span>',
        f"{number(half.auroc)}{change}" if half.auroc is not None else "–",
    )


def _saved(curve: SensitivityCurve) -> str:
    chosen = curve.at(curve.chosen)
    return milliseconds(chosen.removed_ms) if chosen and chosen.removed_ms is not None else "–"


def _row(curve: SensitivityCurve, cells: Sequence[str]) -> str:
    name = f'{esc(curve.name)}<span class="sub">{_KINDS[curve.kind].lower()}</span>'
    return f'<tr><th class="text">{name}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
