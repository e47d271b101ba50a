"""The section on what the models cost: latency, memory, size, start-up."""

from __future__ import annotations

import numpy as np

from medfm_compress.bench.render.format import esc, factor, megabytes, milliseconds, target_name
from medfm_compress.bench.render.html.load import scenario_table, slowdown_table
from medfm_compress.bench.render.html.stages import cost_table, percentile_table, stage_drawing
from medfm_compress.bench.render.pareto_points import is_teacher_elsewhere
from medfm_compress.bench.render.plots.latency import Samples, latency_plot
from medfm_compress.bench.render.plots.svg import SERIES, key
from medfm_compress.bench.report import TEACHER, Report
from medfm_compress.bench.types.measurement import Measurement
from medfm_compress.bench.types.verdict import Verdict

_HEADS = (
    ("Model and engine", "text"),
    ("Session,<br>ms", ""),
    ("File to<br>finding, ms", ""),
    ("Per<br>second", ""),
    ("Faster than<br>the teacher", ""),
    ("First<br>prediction", ""),
    ("Peak<br>memory", ""),
    ("Size", ""),
)


def speed_section(report: Report, _: Verdict) -> str:
    """Table and latency drawing of everything measured."""
    if not report.measurements:
        return '<p class="lead">Nothing was measured.</p>'
    head = "".join(f'<th class="{style}">{name}</th>' for name, style in _HEADS)
    rows = "".join(_row(report, measurement) for measurement in report.measurements)
    plot = latency_plot(
        [Samples(_short(m.name), m.session_ms, _series(report, m.name)) for m in report.measurements],
        title="Session latency of every model",
    )
    return (
        f'{_lead(report)}{_caution(report)}<div class="wide keep"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{_NOTE}<h3>Latency, call by call</h3><figure>{plot}</figure>{_PLOT_NOTE}"
        f"{percentile_table(report)}{stage_drawing(report)}{cost_table(report)}"
        f"{scenario_table(report)}{slowdown_table(report)}"
    )


_NOTE = (
    '<p class="note">Large figures are medians: half of all calls are faster; one in a hundred is slower than p99. '
    "<i>Session</i> is the network alone; <i>file to finding</i> adds reading, decoding, preprocessing and the "
    "decision. <i>First prediction</i> counts from the start of a fresh process, <i>peak memory</i> is that process's "
    "resident maximum with everything it loaded. The interval of a ratio is a bootstrap over rounds.</p>"
)
_PLOT_NOTE = (
    '<p class="note">Dots are single calls; the box holds the middle half of them, the thick bar is the median, the '
    "line reaches from the 5th to the 95th percentile, the diamond is the 99th.</p>"
)


def _lead(report: Report) -> str:
    measurement = report.measurements[0]
    rounds = len(measurement.session_ms) // measurement.calls_per_round if measurement.calls_per_round else 1
    processor = esc(report.machine.cpu_model or "an unnamed CPU")
    return (
        '<p class="lead">Batch 1, each model in a fresh process on fixed CPUs, after a warm-up, in '
        f"{rounds} interleaved rounds (each model in turn, then again), on {processor}.</p>"
    )


def _caution(report: Report) -> str:
    if not report.noise:
        return ""
    return f'<p class="caution"><b>Noisy machine.</b> {esc("; ".join(report.noise))}. Do not cite these timings.</p>'


def _row(report: Report, measurement: Measurement) -> str:
    ratio = next((s.ratio for s in report.speedups if s.name == measurement.name), None)
    faster = "<td>1<span class=sub>reference</span></td>" if measurement.name == TEACHER else "<td>–</td>"
    if ratio:
        faster = (
            f'<td>{factor(ratio.estimate)}<span class="sub">{factor(ratio.low)} to {factor(ratio.high)}</span></td>'
        )
    required = ' class="required"' if measurement.name in report.variants else ""
    return (
        f'<tr{required}><th class="text">{_key(report, measurement)}{esc(_long(report, measurement.name))}'
        f'<span class="sub">{esc(target_name(measurement.target))}</span></th>'
        f"{_quantiles(measurement.session_ms)}{_quantiles(measurement.end_to_end_ms)}"
        f"<td>{1000 / float(np.mean(measurement.session_ms)):,.0f}</td>{faster}"
        f"<td>{_seconds(measurement.first_prediction_ms)}</td><td>{megabytes(measurement.peak_rss_bytes)}</td>"
        f"<td>{megabytes(measurement.size_bytes)}</td></tr>"
    )


def _key(report: Report, measurement: Measurement) -> str:
    if is_teacher_elsewhere(report, measurement):
        return key(0, hollow=True)
    return key(_series(report, measurement.name))


def _quantiles(samples: tuple[float, ...]) -> str:
    if not samples:
        return '<td>–<span class="sub">not measured</span></td>'
    p50, p99 = np.quantile(samples, [0.5, 0.99])
    return f'<td>{milliseconds(float(p50))}<span class="sub">p99 {milliseconds(float(p99))}</span></td>'


def _seconds(value_ms: float) -> str:
    return f"{value_ms / 1000:.2f} s" if value_ms > 0 else "–"


def _series(report: Report, name: str) -> int:
    """The colour of the model's curves; the last one for engines that are there for comparison only."""
    names = [table.name for table in report.evaluations]
    return names.index(name) if name in names else SERIES - 1


def _long(report: Report, name: str) -> str:
    return f"Teacher ({report.teacher_name})" if name == TEACHER else name


def _short(name: str) -> str:
    return name if len(name) <= 24 else name[:23] + "…"
