"""`report.html`: one file that needs nothing else, no script, no font, no network; the verdict first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from medfm_compress.bench.evaluate.prediction_flips import FLIPS_CSV
from medfm_compress.bench.render.format import date_name, esc, short_digest
from medfm_compress.bench.render.html import accuracy as html_accuracy
from medfm_compress.bench.render.html import attribution as html_explanations
from medfm_compress.bench.render.html import calibration as html_calibration
from medfm_compress.bench.render.html import context as html_context
from medfm_compress.bench.render.html import curves as html_curves
from medfm_compress.bench.render.html import latency as html_speed
from medfm_compress.bench.render.html import modifications as html_change
from medfm_compress.bench.render.html import pareto as html_pareto
from medfm_compress.bench.render.html import prediction_flips as html_flips
from medfm_compress.bench.render.html import protocol as html_protocol
from medfm_compress.bench.render.html import residual_risk as html_limits
from medfm_compress.bench.render.html import subgroups as html_groups
from medfm_compress.bench.render.html.gallery import GALLERY_HTML
from medfm_compress.bench.render.html.outline import OUTLINE, Key, contents, number
from medfm_compress.bench.render.html.style import STYLE
from medfm_compress.bench.render.html.verdict import summary_tiles, verdict_panel
from medfm_compress.bench.report import Report
from medfm_compress.bench.types.verdict import Verdict
from medfm_compress.runtime.errors import InputError

LOCAL_FILES: Mapping[str, str] = {
    FLIPS_CSV: "every decision that changed, with the real image names, for an audit",
    GALLERY_HTML: "pictures of those cases as the network saw them",
}
_PATTERNS = (
    '<pattern id="hatch" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><line '
    'class="hatch-line" x1="0" y1="0" x2="0" y2="5"/></pattern>'
    '<pattern id="dotted" width="5" height="5" patternUnits="userSpaceOnUse"><circle class="ink" cx="2.5" cy="2.5" '
    'r="0.9"/></pattern>'
    '<pattern id="striped" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(-45)"><line '
    'class="paper-line" x1="0" y1="0" x2="0" y2="6"/></pattern>'
)
_DEFINITIONS = f'<svg width="0" height="0" style="position:absolute" aria-hidden="true"><defs>{_PATTERNS}</defs></svg>'
_DRAW: Mapping[Key, Callable[[Report, Verdict], str]] = {
    "change": html_change.change_section,
    "protocol": html_protocol.protocol_section,
    "cases": html_context.cases_section,
    "checks": html_accuracy.checks_section,
    "groups": html_groups.groups_section,
    "flips": html_flips.flips_section,
    "accuracy": html_accuracy.comparison_tables,
    "curves": html_curves.curve_section,
    "calibration": html_calibration.calibration_section,
    "explanations": html_explanations.explanations_section,
    "speed": html_speed.speed_section,
    "tradeoff": html_pareto.tradeoff_section,
    "limits": html_limits.limits_section,
    "provenance": html_context.provenance_section,
    "reading": html_context.reading_section,
}


def render_html(report: Report, verdict: Verdict, local_files: Sequence[str] = ()) -> str:
    """The report as a self-contained HTML page (UTF-8), light, printable on A4.

    Every string that comes from a file is escaped; nothing is fetched, nothing is executed.

    Args:
        report: what was found.
        verdict: on it.
        local_files: names out of `LOCAL_FILES` that were written beside the page, to be linked.

    Raises:
        InputError: a name that is none of them.
    """
    unknown = [name for name in local_files if name not in LOCAL_FILES]
    if unknown:
        raise InputError(f"the report links no file {unknown[0]!r}; it links {', '.join(LOCAL_FILES)}")
    title = f"{report.bundle_name}: verification report"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{esc(title)}</title><style>{STYLE}</style></head><body>{_DEFINITIONS}<main>"
        f"{_header(report)}{verdict_panel(report, verdict)}{summary_tiles(report)}{contents()}{_local(local_files)}"
        f"{_parts(report, verdict)}{_footer(report)}</main></body></html>\n"
    )


def _parts(report: Report, verdict: Verdict) -> str:
    drawn = []
    for part in OUTLINE:
        drawn.append(f'<div class="part"><p class="eyebrow">{part.name}</p><p>{part.question}</p></div>')
        drawn += [
            f'<section id="{key}"><h2><span class="no">{number(key)}</span>{title}</h2>{_DRAW[key](report, verdict)}'
            "</section>"
            for key, title in part.sections
        ]
    return "".join(drawn)


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


def _local(names: Sequence[str]) -> str:
    if not names:
        return ""
    links = "; ".join(f'<a href="{name}">{name}</a>, {LOCAL_FILES[name]}' for name in names)
    return (
        f'<p class="note">Beside this page, where it was made: {links}. They name cases or show patients: they stay in '
        "the hospital and are no part of this report.</p>"
    )


def _footer(report: Report) -> str:
    version = report.machine.libraries.get("medfm-compress", "")
    return (
        "<footer>Made by medfm-compress "
        f"{esc(version)}. This report is evidence for an assessment; it is not a clearance, and it holds for model "
        f"<code>{esc(short_digest(report.model_digest))}</code> on these cases and this machine only. Its parts "
        "follow the "
        "FDA’s guidance on predetermined change control plans (December 2024) so that it can be filed with one; it "
        "is no "
        "such plan itself. It names no case and no patient.</footer>"
    )
