"""Description of modifications: what the bundle changed of the teacher, as its provenance and the measurements say."""

from __future__ import annotations

from medfm_compress.bench.render.format import date_name, definitions, esc, megabytes, target_name, versions
from medfm_compress.bench.report import TEACHER, Report
from medfm_compress.bench.types.verdict import Verdict


def change_section(report: Report, _: Verdict) -> str:
    """Teacher and variants side by side, then the steps that lead from one to the others."""
    origin = report.provenance
    head = (
        "".join(f'<th class="text">{name}</th>' for name in ("", "Network", "Engine and precision")) + "<th>Size</th>"
    )
    rows = _row("Teacher, the reference", origin.teacher or report.teacher_name, report, TEACHER)
    rows += "".join(_row(f"Variant {name}", origin.student or "not recorded", report, name) for name in report.variants)
    steps = "".join(f"<li>{esc(step)}</li>" for step in origin.steps)
    facts = {
        "Made": date_name(origin.date) if origin.date else "",
        "Made with": versions(origin.libraries),
        "Teacher's licence": origin.teacher_licence,
        "Unchanged": _unchanged(report),
    }
    listed = f"<dt>Steps, in order</dt><dd><ol>{steps}</ol></dd>" if steps else ""
    return (
        '<p class="lead">The bundle replaces the teacher; its intended use stays the same. What follows compares '
        "the two on "
        "the same cases.</p>"
        f'<div class="wide keep"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
        f"<dl>{listed}{definitions(facts)}</dl>"
    )


def _row(role: str, network: str, report: Report, name: str) -> str:
    measured = report.measurement(name)
    engine = target_name(measured.target) if measured else "not measured"
    size = megabytes(measured.size_bytes) if measured else "–"
    return (
        f'<tr><th class="text">{esc(role)}</th><td class="text">{esc(network)}</td><td class="text">{esc(engine)}</td>'
        f"<td>{size}</td></tr>"
    )


def _unchanged(report: Report) -> str:
    labels = ", ".join(report.task.labels)
    return f"The labels ({labels}) and their meaning."
