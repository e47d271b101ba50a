"""Latency percentiles, the stages of one prediction, energy, and the state of the warm-up."""

from __future__ import annotations

import numpy as np

from medfm_compress.bench.html_text import esc, megabytes, milliseconds
from medfm_compress.bench.plots_speed import Stages, stage_box, stage_plot
from medfm_compress.bench.report import TEACHER, Report
from medfm_compress.bench.types import Measurement

_QUANTILES = (0.5, 0.9, 0.99)
_STAGE_NAMES = {
    "read": "read and decode",
    "preprocess": "preprocess",
    "infer": "network",
    "postprocess": "decide",
}


def percentile_table(report: Report) -> str:
    """p50, p90 and p99 of session and file to finding, and what else one call costs."""
    head = (
        '<tr><th class="text" rowspan="2">Model and engine</th><th colspan="3" class="span">Session, ms</th>'
        '<th colspan="3" class="span">File to finding, ms</th><th rowspan="2">Energy<br>a call</th>'
        '<th rowspan="2">GPU<br>memory</th><th rowspan="2">Warm-up</th></tr>'
        f"<tr>{2 * ''.join(f'<th>p{100 * q:g}</th>' for q in _QUANTILES)}</tr>"
    )
    rows = "".join(_row(report, measurement) for measurement in report.measurements)
    return (
        f'<h3>Percentiles</h3><div class="wide"><table class="tight"><thead>{head}</thead><tbody>{rows}</tbody>'
        "</table></div>"
        '<p class="note">One call in ten is slower than p90, one in a hundred slower than '
        f"p99.{_energy_note(report)}</p>"
    )


def stage_drawing(report: Report) -> str:
    """Stacked medians of the stages; nothing where none were timed."""
    rows = [
        Stages(
            f"Teacher ({report.teacher_name})" if found.name == TEACHER else found.name,
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
    name = f"Teacher ({report.teacher_name})" if found.name == TEACHER else found.name
    energy = f"{found.energy_mj:,.1f} mJ" if found.energy_mj is not None else "–"
    style = ' class="required"' if found.name in report.variants else ""
    return (
        f'<tr{style}><th class="text">{esc(name)}</th>{_cells(found.session_ms)}{_cells(found.end_to_end_ms)}'
        f"<td>{energy}</td><td>{megabytes(found.peak_gpu_bytes)}</td>"
        f'<td>{found.warm_up_calls} calls<span class="sub">{_settled(found)}</span></td></tr>'
    )


def _settled(found: Measurement) -> str:
    if not found.warm_up_calls:
        return "not recorded"
    return "settled" if found.warm_up_stable else "<b>had not settled</b>"


def _cells(samples: tuple[float, ...]) -> str:
    if not samples:
        return len(_QUANTILES) * "<td>–</td>"
    return "".join(f"<td>{milliseconds(float(value))}</td>" for value in np.quantile(samples, _QUANTILES))


def _energy_note(report: Report) -> str:
    sources = {found.energy_source for found in report.measurements if found.energy_source}
    return f" Energy: {esc('; '.join(sorted(sources)))}." if sources else ""


def _shortened(name: str) -> str:
    return name if len(name) <= 26 else name[:25] + "…"
