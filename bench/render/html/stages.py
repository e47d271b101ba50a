"""Latency percentiles, the stages of one prediction, energy, and the state of the warm-up."""

from __future__ import annotations

import math

import numpy as np

from medfm_compress.bench.measure.percentile_bounds import percentile_bounds, samples_for_upper_bound
from medfm_compress.bench.render.format import counted, esc, megabytes, milliseconds
from medfm_compress.bench.render.plots.latency import Stages, stage_box, stage_plot
from medfm_compress.bench.report import TEACHER, Report
from medfm_compress.bench.types.interval import Interval
from medfm_compress.bench.types.measurement import Measurement

_QUANTILES = (0.5, 0.9, 0.99)
_STAGE_NAMES = {
    "read": "read and decode",
    "preprocess": "preprocess",
    "infer": "network",
    "postprocess": "decide",
}


def percentile_table(report: Report) -> str:
    """p50, p90 and p99 of session and file to finding, with their intervals."""
    head = (
        '<tr><th class="text" rowspan="2">Model and engine</th><th colspan="3" class="span">Session, ms</th>'
        '<th colspan="3" class="span">File to finding, ms</th></tr>'
        f"<tr>{2 * ''.join(f'<th>p{100 * q:g}</th>' for q in _QUANTILES)}</tr>"
    )
    rows = "".join(_row(report, measurement) for measurement in report.measurements)
    return (
        f'<div class="keep"><h3>Percentiles</h3><div class="wide"><table class="tight"><thead>{head}</thead>'
        f"<tbody>{rows}</tbody>"
        "</table></div>"
        '<p class="note">One call in ten is slower than p90, one in a hundred slower than p99. Under each stands '
        "its 95% "
        f"interval from order statistics; p99 has an upper end from {samples_for_upper_bound(0.99)} calls on.</p></div>"
    )


def stage_drawing(report: Report) -> str:
    """Stacked medians of the stages; nothing where none were timed."""
    rows = [
        Stages(
            _called(report, found.name),
            {stage: float(np.median(values)) for stage, values in found.stages_ms.items() if values},
        )
        for found in report.measurements
    ]
    rows = [Stages(_shortened(row.name), row.medians_ms) for row in rows if row.medians_ms]
    if not rows:
        return ""
    stages = list(dict.fromkeys(stage for row in rows for stage in row.medians_ms))
    items = "".join(
        '<span><svg class="swatch" viewBox="0 0 26 14" aria-hidden="true">'
        f"{stage_box(index, 0.5, 0.5, 25, 13)}</svg>{esc(_STAGE_NAMES.get(stage, stage))}</span>"
        for index, stage in enumerate(stages)
    )
    return (
        "<h3>Where the time goes, from file to finding</h3>"
        f'<div class="legend">{items}</div>'
        f"<figure>{stage_plot(rows, title='Median time of each stage of one prediction')}"
        '</figure><p class="note">Medians of the stages; their sum may differ slightly from the median of the '
        "whole. Reading "
        "and preparing the image costs the same for every model: where it dominates, a faster network gains little "
        "more.</p>"
    )


def _row(report: Report, found: Measurement) -> str:
    name = _called(report, found.name)
    style = ' class="required"' if found.name in report.variants else ""
    return f'<tr{style}><th class="text">{esc(name)}</th>{_cells(found.session_ms)}{_cells(found.end_to_end_ms)}</tr>'


def cost_table(report: Report) -> str:
    """Energy, GPU memory and the state of the warm-up."""
    head = (
        '<tr><th class="text">Model and engine</th><th>Energy of a call</th><th class="text">from</th>'
        '<th>GPU memory</th><th class="text">Warm-up</th></tr>'
    )
    rows = "".join(_cost_row(report, measurement) for measurement in report.measurements)
    return (
        f'<div class="keep"><h3>Energy, GPU memory, warm-up</h3><table class="tight"><thead>{head}</thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _cost_row(report: Report, found: Measurement) -> str:
    energy = f"{found.energy_mj:,.1f} mJ" if found.energy_mj is not None else "–"
    settled = "settled" if found.warm_up_stable else "<b>had not settled</b>"
    warm_up = f"{counted(found.warm_up_calls, 'call')}, {settled}" if found.warm_up_calls else "not recorded"
    return (
        f'<tr><th class="text">{esc(_called(report, found.name))}</th><td>{energy}</td>'
        f'<td class="text">{esc(found.energy_source or "not measured")}</td><td>{megabytes(found.peak_gpu_bytes)}</td>'
        f'<td class="text">{warm_up}</td></tr>'
    )


def _called(report: Report, name: str) -> str:
    return f"Teacher ({report.teacher_name})" if name == TEACHER else name


def _cells(samples: tuple[float, ...]) -> str:
    if not samples:
        return len(_QUANTILES) * "<td>–</td>"
    return "".join(_bounded(percentile_bounds(samples, q)) for q in _QUANTILES)


def _bounded(found: Interval) -> str:
    bounds = f"{milliseconds(found.low)} to {milliseconds(found.high)}"
    if math.isinf(found.high):
        bounds = f"above {milliseconds(found.low)}"
    return f'<td>{milliseconds(found.estimate)}<span class="sub">{bounds}</span></td>'


def _shortened(name: str) -> str:
    return name if len(name) <= 26 else name[:25] + "…"
