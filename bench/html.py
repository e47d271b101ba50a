"""`report.html`: one file that needs nothing else, no script, no font, no network; the verdict first."""

from __future__ import annotations

from collections.abc import Callable

from medfm_compress.bench import html_accuracy, html_context, html_speed
from medfm_compress.bench.html_style import STYLE
from medfm_compress.bench.html_text import date_name, esc, short_digest
from medfm_compress.bench.html_verdict import summary_tiles, verdict_panel
from medfm_compress.bench.report import Report
from medfm_compress.bench.types import Verdict

_HATCH = (
    '<svg width="0" height="0" style="position:absolute" aria-hidden="true"><defs><pattern id="hatch" width="5" '
    'height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><line class="hatch-line" x1="0" y1="0" '
    'x2="0" y2="5"/></pattern></defs></svg>'
)
_SECTIONS: tuple[tuple[str, Callable[[Report, Verdict], str]], ...] = (
    ("What was required, and what was found", html_accuracy.requirements),
    ("Accuracy against the teacher", html_accuracy.comparison_tables),
    ("Speed, memory and size", html_speed.speed_section),
    ("Discrimination", html_accuracy.curve_section),
    ("Decisions", html_accuracy.matrix_section),
    ("The cases", html_context.cases_section),
    ("Provenance", html_context.provenance_section),
    ("How to read this report", html_context.reading_section),
)


def render_html(report: Report, verdict: Verdict) -> str:
    """The report as a self-contained HTML page (UTF-8), light, printable on A4.

    Every string that comes from a file is escaped; nothing is fetched, nothing is executed.
    """
    sections = [
        f'<section><h2><span class="no">{number}</span>{title}</h2>{draw(report, verdict)}</section>'
        for number, (title, draw) in enumerate(_SECTIONS, start=1)
    ]
    title = f"{report.bundle_name}: verification report"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{esc(title)}</title><style>{STYLE}</style></head><body>{_HATCH}<main>"
        f"{_header(report)}{verdict_panel(report, verdict)}{summary_tiles(report)}"
        f"{''.join(sections)}{_footer(report)}</main></body></html>\n"
    )


def _header(report: Report) -> str:
    ids = (
        ("Model", short_digest(report.model_digest)),
        ("Study", short_digest(report.study_fingerprint)),
        ("Policy", short_digest(report.policy_sha256)),
        ("Split", report.split),
    )
    cells = "".join(f"<span>{name} <b>{esc(value)}</b></span>" for name, value in ids)
    use = f'<p class="use">{esc(report.intended_use)}</p>' if report.intended_use else ""
    return (
        f'<header><div class="eyebrow"><span>Verification report</span><span>{esc(date_name(report.created))}</span>'
        f'</div><h1>{esc(report.bundle_name)}</h1>{use}<div class="ids">{cells}</div></header>'
    )


def _footer(report: Report) -> str:
    version = report.machine.libraries.get("medfm-compress", "")
    return (
        "<footer>Made by medfm-compress "
        f"{esc(version)}. This report is evidence for an assessment; it is not a clearance, and it holds for model "
        f"<code>{esc(short_digest(report.model_digest))}</code> on these cases and this machine only. It names no case "
        "and no patient.</footer>"
    )
