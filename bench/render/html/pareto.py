"""The section on speed against accuracy: who is beaten by nobody."""

from __future__ import annotations

from medfm_compress.bench.render.format import counted, esc
from medfm_compress.bench.render.pareto_points import pareto_points
from medfm_compress.bench.render.plots.latency import pareto_plot
from medfm_compress.bench.report import Report
from medfm_compress.bench.stats.pareto_front import front
from medfm_compress.bench.types.verdict import Verdict

_MOST_PLOTS = 6


def tradeoff_section(report: Report, _: Verdict) -> str:
    """One drawing a finding: AUROC over median latency."""
    parts, placed = [], set()
    findings = report.teacher.findings
    for finding in findings[:_MOST_PLOTS]:
        found = pareto_points(report, finding)
        if len(found) < 2:
            continue
        placed |= {one.name for one in found}
        best = front([(one.latency_ms.estimate, one.auroc.estimate) for one in found])
        names = ", ".join(found[number].name for number in best)
        heading = f"<h3>{esc(finding)}</h3>" if len(findings) > 1 else ""
        plot = pareto_plot(found, title=f"AUROC of {finding} over median latency; unbeaten: {names}")
        parts.append(f'{heading}<figure>{plot}</figure><p class="plain">Beaten by nobody: <b>{esc(names)}</b>.</p>')
    if not parts:
        return '<p class="lead">Fewer than two models have both a latency and an AUROC with an interval.</p>'
    return f"{_LEAD}{''.join(parts)}{_note(report)}"


_LEAD = (
    '<p class="lead">Further up is more accurate, further left is faster. A model is beaten where another is at '
    "least as "
    "good in both and better in one.</p>"
)


def _note(report: Report) -> str:
    evaluated = {table.name for table in report.evaluations}
    elsewhere = [m.name for m in report.measurements if m.name not in evaluated and m.name.startswith("teacher in ")]
    rest = [m.name for m in report.measurements if m.name not in evaluated and m.name not in elsewhere]
    text = (
        "Lines through the marks are intervals; where they overlap, the order is open. The broad step line joins "
        "the models "
        "that nobody beats; a stroke through the mark and a grey name mean beaten."
    )
    if elsewhere:
        text += (
            f" Hollow marks ({', '.join(elsewhere)}) were timed and not evaluated: they stand at the teacher’s AUROC, "
            "which they keep within the parity that was checked when the teacher was exported."
        )
    if rest:
        text += f" Not placed, for want of an evaluation: {', '.join(rest)}."
    hidden = len(report.teacher.findings) - _MOST_PLOTS
    if hidden > 0:
        text += f" {counted(hidden, 'more finding')} not drawn."
    return f'<p class="note">{esc(text)}</p>'
