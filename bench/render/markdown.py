"""A verdict as Markdown: the comment on a pull request that says what happened without the log being opened.

GitHub's dialect. Names and reasons come from files of whoever opened the pull request, so all of it is escaped: no
markup, no links, no mention of a person, no reference to an issue.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from medfm_compress.bench.gate.baseline_report import BaselineComparison
from medfm_compress.bench.gate.decision import Decision
from medfm_compress.bench.render.format import bounds, factor, megabytes, milliseconds, number, printable, signed
from medfm_compress.bench.types.evaluation import Comparison
from medfm_compress.bench.types.measurement import Measurement
from medfm_compress.bench.types.verdict import Check
from medfm_compress.runtime.atomic_write import write_atomically
from medfm_compress.runtime.bundle.manifest import Outcome

MARKER = "<!-- medfm-compress gate -->"
"""First line, by which a later run finds its own comment and replaces it."""
SIGNS: dict[Outcome, str] = {"pass": "✅", "fail": "❌", "inconclusive": "⚠️"}
_MEANS: dict[Outcome, str] = {
    "pass": "Every variant keeps within every margin, floor and budget of the policy.",
    "fail": "At least one variant breaks a limit of the policy, or is significantly worse than its margin allows. It "
    "must not ship.",
    "inconclusive": "Nothing was shown to be broken, and not everything required was shown to hold. This is not a "
    "pass: more cases, or a better model, are needed.",
}
_SHOWN_REASONS = 10
_OPEN_ROWS = 12
_SHOWN_ROWS = 60
_LONGEST = 600
_NAME = 120
_LONGEST_TABLES = 40_000  # a comment on GitHub has room for 65,536 characters


def render_markdown(decision: Decision) -> str:
    """The comment."""
    verdict, report = decision.verdict, decision.report
    head = [
        MARKER,
        f"## {SIGNS[verdict.outcome]} {verdict.outcome.capitalize()}: {escape(report.bundle_name, _NAME)}",
        _MEANS[verdict.outcome],
        _reasons(decision),
        *(f"> **Note:** {escape(note)}" for note in verdict.notes),
    ]
    tables = [_checks(decision), _costs(decision), _earlier(decision.earlier) if decision.earlier else ""]
    if sum(map(len, tables)) > _LONGEST_TABLES:
        tables = ["The tables do not fit into a comment; the JUnit file has every check."]
    return "\n\n".join(part for part in (*head, *tables, _origin(decision)) if part) + "\n"


def save_markdown(decision: Decision, path: str | Path) -> None:
    """Write the comment to ``path``, atomically."""
    write_atomically(path, render_markdown(decision).encode())


def escape(text: object, longest: int = _LONGEST) -> str:
    """``text`` on one line of at most ``longest`` characters, as GitHub shows it and not as it reads it."""
    line = " ".join(str(text).split())
    kept = printable(line)
    kept = kept if len(kept) <= longest else f"{kept[:longest]}…"
    kept = html.escape(re.sub(r"([\\`*_{}\[\]|~$!#])", r"\\\1", kept), quote=False)
    # A zero-width space ends what GitHub would take for a mention, an issue or an address.
    return re.sub(r"(@|\\#|:(?=//)|www(?=\.)|GH(?=-))", "\\1\u200b", kept)


def _reasons(decision: Decision) -> str:
    """The checks in the way of a pass, failed ones first."""
    lines = [
        f"- {SIGNS[outcome]} **{escape(check.name, _NAME)}** ({outcome}, {escape(judged.variant, _NAME)}): "
        f"{_values(decision.comparison(judged.variant, check))}{escape(check.reason)}."
        for outcome in ("fail", "inconclusive")
        for judged in decision.verdict.variants
        for check in judged.checks
        if check.outcome == outcome
    ]
    if len(lines) > _SHOWN_REASONS:
        rest = len(lines) - _SHOWN_REASONS
        lines = [*lines[:_SHOWN_REASONS], f"- and {rest} more in the table below"]
    return "\n".join(lines)


def _values(comparison: Comparison | None) -> str:
    if comparison is None:
        return ""
    return f"{number(comparison.bundle.estimate)} against the teacher's {number(comparison.teacher.estimate)}; "


def _checks(decision: Decision) -> str:
    rows = [_row(decision, judged.variant, check) for judged in decision.verdict.variants for check in judged.checks]
    headers = ("", "Check", "Variant", "Teacher", "Bundle", "Difference", "Interval", "Allowed")
    shown = table(headers, rows[:_SHOWN_ROWS])
    if len(rows) > _SHOWN_ROWS:
        shown += f"\n\n{len(rows) - _SHOWN_ROWS} more rows are in the JUnit file."
    if len(rows) <= _OPEN_ROWS:
        return shown
    return f"<details><summary>All {len(rows)} checks</summary>\n\n{shown}\n\n</details>"


def _row(decision: Decision, variant: str, check: Check) -> tuple[str, ...]:
    head = (SIGNS[check.outcome], escape(check.name, _NAME), escape(variant, _NAME))
    comparison = decision.comparison(variant, check)
    if comparison is None:
        return (*head, "", "", "", "", escape(check.reason))
    return (
        *head,
        number(comparison.teacher.estimate),
        number(comparison.bundle.estimate),
        signed(comparison.difference.estimate),
        bounds(comparison.difference, sign=True),
        f"loss below {comparison.margin:.4g}",
    )


def _costs(decision: Decision) -> str:
    report = decision.report
    ratios = {speedup.name: speedup.ratio.estimate for speedup in report.speedups}
    measured = [
        measurement
        for measurement in report.measurements
        if measurement.session_ms and measurement.name not in report.external_models
    ]
    rows = [_cost(measurement, ratios.get(measurement.name)) for measurement in measured]
    noise = "; ".join(report.noise)
    caution = f"\n\n> **Noisy timings:** {escape(noise)}." if noise else ""
    return table(("Model", "p50 ms", "p99 ms", "Faster", "Size"), rows) + caution if rows else ""


def _cost(measurement: Measurement, ratio: float | None) -> tuple[str, ...]:
    p50, p99 = (milliseconds(measurement.quantile_ms(q)) for q in (0.5, 0.99))
    return escape(measurement.name, _NAME), p50, p99, factor(ratio) if ratio else "–", megabytes(measurement.size_bytes)


def _earlier(earlier: BaselineComparison) -> str:
    rows = [
        (escape(change.name, _NAME), escape(change.variant, _NAME), number(change.before), number(change.now),
         signed(change.now - change.before))
        for change in earlier.estimates
    ]  # fmt: skip
    rows += [
        (f"{change.name}, ms", escape(change.variant, _NAME), milliseconds(change.before), milliseconds(change.now),
         signed(change.now - change.before))
        for change in earlier.medians_ms
    ]  # fmt: skip
    untimed = f"\n\nTimings: {earlier.untimed}." if earlier.untimed else ""
    title = (
        f"Against the report of {escape(earlier.created, _NAME)} (model `{_digest(earlier.model_digest)}`), not judged:"
    )
    return f"{title}\n\n{table(('Figure', 'Variant', 'Then', 'Now', 'Change'), rows)}{untimed}"


def _origin(decision: Decision) -> str:
    verdict, report = decision.verdict, decision.report
    level = 100 * (1 - 2 * decision.policy.alpha)
    return (
        f"<sub>Difference: bundle − teacher on the same {len(report.teacher.clusters)} cases of split "
        f"{escape(report.split, _NAME)}, {level:.4g}% intervals, computed again from the report's scores. "
        f"Model {_digest(verdict.model_digest)} · policy {_digest(verdict.policy_sha256)} · "
        f"study {_digest(report.study_fingerprint)} · report of {escape(report.created, _NAME)}.</sub>"
    )


def _digest(text: str) -> str:
    return re.sub(r"[^0-9A-Za-z]", "", text)[:12] or "–"


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are escaped already."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
