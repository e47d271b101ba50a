"""Decisions that changed: fidelity, who was right, and the cases by number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from medfm_compress.bench.flips import KINDS, Flip, find_flips
from medfm_compress.bench.html_text import counted, esc, number, percent
from medfm_compress.bench.plots_curves import Scatter, flip_mark, scatter_plot
from medfm_compress.bench.report import Report
from medfm_compress.bench.types import Evaluation, Verdict
from medfm_compress.runtime.activation import DEFAULT_THRESHOLD
from medfm_compress.runtime.task import OperatingPoint

MOST_LISTED = 24
MOST_DOTS = 500
_MOST_SCATTERS = 4


def flips_section(report: Report, _: Verdict) -> str:
    """Fidelity, flips by kind, scatter of the scores, and a list of the cases."""
    teacher = report.teacher.to_evaluation()
    others = [table.to_evaluation() for table in report.evaluations[1:]]
    flips = {other.name: find_flips(teacher, other) for other in others}
    lead = (
        '<p class="lead">Two models with the same AUROC may still decide differently on single patients. A change is '
        "<b>harmful</b> where the teacher alone was right, <b>beneficial</b> where the bundle alone was.</p>"
    )
    return "".join(
        (
            lead,
            _fidelity_table(report),
            _kind_table(report, flips),
            _scatters(report, teacher, others),
            *(_listed(other.name, flips[other.name]) for other in others if other.name in report.variants),
        )
    )


def _fidelity_table(report: Report) -> str:
    if not report.fidelity:
        return ""
    head = (
        '<tr><th class="text">Model</th><th>Patients decided<br>as the teacher does</th><th>Cases '
        "decided<br>otherwise</th>"
        "<th>Relative<br>logit error</th><th>Largest change<br>of a probability</th></tr>"
    )
    rows = "".join(
        f'<tr><th class="text">{esc(_called(report, found.variant))}</th><td>{percent(found.agreement.estimate)}'
        f'<span class="sub">{percent(found.agreement.low)} to {percent(found.agreement.high)}</span></td>'
        f'<td>{found.flipped_cases:,}<span class="sub">of {found.cases:,}</span></td>'
        f"<td>{number(found.relative_logit_error)}</td><td>{number(found.largest_change)}</td></tr>"
        for found in report.fidelity
    )
    note = (
        '<p class="note">Relative logit error: the size of the change of all outputs over the spread of the '
        "teacher’s. It is "
        "small for a quantized teacher; a student of another architecture has its own outputs, and a large error says "
        "nothing against it.</p>"
    )
    return f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>{note}"


def _kind_table(report: Report, flips: dict[str, tuple[Flip, ...]]) -> str:
    kinds = list(KINDS) if report.task.kind != "multiclass" else []
    found = {flip.kind for several in flips.values() for flip in several}
    kinds += sorted(found - set(kinds))
    if not kinds:
        return '<p class="plain">No decision changed.</p>'
    head = "".join(f"<th>{esc(kind)}{_direction(kind)}</th>" for kind in kinds)
    rows = []
    for name, several in flips.items():
        findings = dict.fromkeys(flip.finding for flip in several) if report.task.kind == "multilabel" else {"": None}
        for finding in findings or {"": None}:
            counts = Counter(flip.kind for flip in several if not finding or flip.finding == finding)
            label = f'<span class="sub">{esc(finding)}</span>' if finding else ""
            cells = "".join(f"<td>{counts[kind]:,}</td>" for kind in kinds)
            rows.append(f'<tr><th class="text">{esc(_called(report, name))}{label}</th>{cells}</tr>')
    return (
        f'<h3>What the changes mean</h3><table><thead><tr><th class="text">Cases</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _direction(kind: str) -> str:
    direction = KINDS.get(kind) or {"newly wrong": "harmful", "newly right": "beneficial"}.get(kind, "")
    return f'<span class="sub">{direction}</span>' if direction else ""


def _called(report: Report, name: str) -> str:
    return f"{name} (not in the bundle)" if name in report.opponents else name


def _scatters(report: Report, teacher: Evaluation, others: Sequence[Evaluation]) -> str:
    figures = []
    variants = [other for other in others if other.name in report.variants]
    findings = teacher.findings[:_MOST_SCATTERS]
    for other in variants:
        for column, finding in enumerate(findings):
            cloud = _cloud(report, teacher, other, column)
            caption = f"{other.name}: {finding}" if len(teacher.findings) > 1 else other.name
            plot = scatter_plot(cloud, title=f"Scores of {other.name} over the teacher's, {finding}")
            figures.append(f"<figure><figcaption>{esc(caption)}</figcaption>{plot}</figure>")
    hidden = len(teacher.findings) - len(findings)
    more = f" Drawn for the first {len(findings)} of {len(teacher.findings)} findings." if hidden else ""
    note = (
        '<p class="note">Each mark is a case. Dashed lines are the two thresholds: upper left and lower right of their '
        "crossing, the models decide differently. On the diagonal both give the same probability. At most "
        f"{MOST_DOTS:,} cases that did not change are drawn.{more}</p>"
    )
    heading = "<h3>Teacher’s and bundle’s probabilities, case by case</h3>"
    return f'{heading}{_legend()}<div class="pair">{"".join(figures)}</div>{note}'


def _legend() -> str:
    harm, benefit = (
        f'<svg class="key" viewBox="0 0 14 14" aria-hidden="true">{flip_mark(7, 7, harmful=harmful)}</svg>'
        for harmful in (True, False)
    )
    dot = '<svg class="key" viewBox="0 0 14 14" aria-hidden="true"><path class="cloud" d="M7 7h0"/></svg>'
    plus = '<svg class="key" viewBox="0 0 14 14" aria-hidden="true"><path class="cloud plus" d="M4 7h6M7 4v6"/></svg>'
    names = ((harm, "harmful change"), (benefit, "beneficial change"), (plus, "unchanged, with the finding"))
    items = "".join(f"<span>{sign}{name}</span>" for sign, name in (*names, (dot, "unchanged, without it")))
    return f'<div class="legend">{items}</div>'


def _cloud(report: Report, teacher: Evaluation, other: Evaluation, column: int) -> Scatter:
    places = np.stack([teacher.scores[:, column], other.scores[:, column]], axis=1)
    truth = teacher.truth[:, column]
    first, second = teacher.decisions[:, column], other.decisions[:, column]
    same = np.flatnonzero(first == second)
    same = same[np.linspace(0, len(same) - 1, min(len(same), MOST_DOTS)).astype(np.int64)] if len(same) else same
    rows = {
        "negatives": same[truth[same] == 0],
        "positives": same[truth[same] == 1],
        "harmful": np.flatnonzero((first == truth) & (second != truth)),
        "beneficial": np.flatnonzero((first != truth) & (second == truth)),
    }
    drawn = {name: [(float(x), float(y)) for x, y in places[chosen]] for name, chosen in rows.items()}
    finding = teacher.findings[column]
    thresholds = (
        _threshold(report, report.teacher_operating_points, finding),
        _threshold(report, report.task.operating_points, finding),
    )
    both = (thresholds[0], thresholds[1]) if thresholds[0] is not None and thresholds[1] is not None else None
    return Scatter(**drawn, thresholds=both)


def _threshold(report: Report, points: Sequence[OperatingPoint], finding: str) -> float | None:
    """Where a finding is called; None where the most probable label is."""
    stored = next((point.threshold for point in points if point.label == finding), None)
    if stored is not None or report.task.kind == "multiclass":
        return stored
    return DEFAULT_THRESHOLD


def _listed(name: str, flips: Sequence[Flip]) -> str:
    if not flips:
        return f'<h3>Cases, {esc(name)}</h3><p class="plain">No decision changed.</p>'
    columns = list(flips[0].subgroups)
    several = len({flip.finding for flip in flips}) > 1
    head = "".join(
        f'<th class="{style}">{esc(title)}</th>'
        for title, style in (
            ("Case", ""),
            ("Change", "text"),
            *([("Finding", "text")] if several else []),
            ("Truth", "text"),
            ("Teacher", ""),
            ("Bundle", ""),
            *((column, "text") for column in columns),
        )
    )
    rows = "".join(_flip_row(flip, columns, several=several) for flip in flips[:MOST_LISTED])
    rest = len(flips) - MOST_LISTED
    more = f" And {counted(rest, 'more change')}, the less harmful ones." if rest > 0 else ""
    return (
        f'<h3>Cases, {esc(name)}</h3><div class="wide"><table class="tight"><thead><tr>{head}</tr></thead><tbody>{rows}'
        '</tbody></table></div><p class="note">Numbers count the rows of the tables in report.json from 1; they '
        "name no "
        f"patient. Harmful changes come first, in each kind the largest change of probability.{more}</p>"
    )


def _flip_row(flip: Flip, columns: Sequence[str], *, several: bool) -> str:
    finding = f'<td class="text">{esc(flip.finding)}</td>' if several else ""
    groups = "".join(f'<td class="text">{esc(flip.subgroups[column] or "not recorded")}</td>' for column in columns)
    style = ' class="harm"' if flip.direction == "harmful" else ""
    return (
        f'<tr{style}><th>{flip.case + 1:,}</th><td class="text">{esc(flip.kind)}<span '
        f'class="sub">{flip.direction}</span></td>'
        f'{finding}<td class="text">{esc(flip.truth)}</td><td>{number(flip.teacher_score)}'
        f'<span class="sub">{esc(flip.teacher)}</span></td><td>{number(flip.bundle_score)}'
        f'<span class="sub">{esc(flip.bundle)}</span></td>{groups}</tr>'
    )
