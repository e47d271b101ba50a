"""Decisions that changed: fidelity, who was right, and the cases by number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from medfm_compress.bench.evaluate.prediction_flips import KINDS, Flip, find_flips
from medfm_compress.bench.render.format import counted, esc, number, percent
from medfm_compress.bench.render.plots.curves import Scatter, flip_mark, scatter_plot
from medfm_compress.bench.report import TEACHER, Report
from medfm_compress.bench.stats.mcnemar import mcnemar
from medfm_compress.bench.types.evaluation import Evaluation
from medfm_compress.bench.types.verdict import Verdict
from medfm_compress.runtime.activation import DEFAULT_THRESHOLD
from medfm_compress.runtime.task import OperatingPoint

MOST_LISTED = 24
MOST_DOTS = 500
_MOST_SCATTERS = 4


def flips_section(report: Report, _: Verdict) -> str:
    """Fidelity, flips by kind, scatter of the scores, and a list of the cases."""
    teacher = report.teacher.to_evaluation()
    others = [table.to_evaluation() for table in report.evaluations[1:]]
    prediction_flips = {other.name: find_flips(teacher, other) for other in others}
    lead = (
        '<p class="lead">Two models with the same AUROC may still decide differently on single patients. A change is '
        "<b>harmful</b> where the teacher alone was right, <b>beneficial</b> where the bundle alone was.</p>"
    )
    return "".join(
        (
            lead,
            _fidelity_table(report),
            _kind_table(report, prediction_flips),
            _scatters(report, teacher, others),
            *(_listed(other.name, prediction_flips[other.name]) for other in others if other.name in report.variants),
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


def _kind_table(report: Report, prediction_flips: dict[str, tuple[Flip, ...]]) -> str:
    kinds = list(KINDS) if report.task.kind != "multiclass" else []
    found = {flip.kind for several in prediction_flips.values() for flip in several}
    kinds += sorted(found - set(kinds))
    if not kinds:
        return '<p class="plain">No decision changed.</p>'
    head = "".join(f"<th>{esc(kind)}{_direction(kind)}</th>" for kind in kinds) + "<th>McNemar’s<br>p</th>"
    rows = []
    for name, several in prediction_flips.items():
        for finding in report.task.findings if report.task.kind == "multilabel" else ("",):
            mine = [flip for flip in several if not finding or flip.finding == finding]
            counts = Counter(flip.kind for flip in mine)
            label = f'<span class="sub">{esc(finding)}</span>' if finding else ""
            cells = "".join(f"<td>{counts[kind]:,}</td>" for kind in kinds) + f"<td>{_p_value(mine)}</td>"
            rows.append(f'<tr><th class="text">{esc(_called(report, name))}{label}</th>{cells}</tr>')
    return (
        f'<h3>What the changes mean</h3><table><thead><tr><th class="text">Cases</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
        '<p class="note">McNemar’s test (mid-p): small where harmful and beneficial changes are not equally '
        "frequent. It "
        "counts cases, so it is too small where patients have several; and a large p does not show that the models are "
        "alike.</p>"
    )


def _p_value(prediction_flips: Sequence[Flip]) -> str:
    directions = Counter(flip.direction for flip in prediction_flips)
    p = mcnemar(directions["beneficial"], directions["harmful"])
    return "&lt; 0.001" if p < 0.001 else number(p)


def _direction(kind: str) -> str:
    direction = KINDS.get(kind) or {"newly wrong": "harmful", "newly right": "beneficial"}.get(kind, "")
    return f'<span class="sub">{direction}</span>' if direction else ""


def _called(report: Report, name: str) -> str:
    return f"{name} (not in the bundle)" if name in report.external_models else name


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
    signs = (
        (flip_mark(7, 7, harmful=True), "harmful change"),
        (flip_mark(7, 7, harmful=False), "beneficial change"),
        ('<path class="cloud plus" d="M4 7h6M7 4v6"/>', "unchanged, with the finding"),
        ('<path class="cloud large" d="M7 7h0"/>', "unchanged, without it"),
    )
    items = "".join(
        f'<span><svg class="key" viewBox="0 0 14 14" aria-hidden="true">{sign}</svg>{name}</span>'
        for sign, name in signs
    )
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
        _threshold(points_of(report, TEACHER), finding),
        _threshold(points_of(report, other.name), finding),
    )
    both = (thresholds[0], thresholds[1]) if thresholds[0] is not None and thresholds[1] is not None else None
    return Scatter(**drawn, thresholds=both)


def points_of(report: Report, name: str) -> tuple[OperatingPoint, ...] | None:
    """Operating points that ``name`` decides by; None where it calls the most probable label."""
    points = report.task_of(name).operating_points
    if name == TEACHER and name not in report.tasks:
        points = report.teacher_operating_points
    return None if report.task.kind == "multiclass" and not points else points


def _threshold(points: Sequence[OperatingPoint] | None, finding: str) -> float | None:
    if points is None:
        return None
    return next((point.threshold for point in points if point.label == finding), DEFAULT_THRESHOLD)


def _listed(name: str, prediction_flips: Sequence[Flip]) -> str:
    if not prediction_flips:
        return f'<h3>Cases, {esc(name)}</h3><p class="plain">No decision changed.</p>'
    columns, several = list(prediction_flips[0].subgroups), len({flip.finding for flip in prediction_flips}) > 1
    heads = ["Case", "What changed", "Truth", "Teacher", "Bundle", *columns]
    head = "".join(f'<th class="text">{esc(title)}</th>' for title in heads)
    rows, direction = [], ""
    for flip in prediction_flips[:MOST_LISTED]:
        if flip.direction != direction:
            direction = flip.direction
            count = sum(other.direction == direction for other in prediction_flips)
            rows.append(f'<tr class="group"><th colspan="{len(heads)}">{_DIRECTIONS[direction]}: {count}</th></tr>')
        rows.append(_flip_row(flip, columns, several=several))
    rest = len(prediction_flips) - MOST_LISTED
    more = f" <b>{counted(rest, 'more change is', 'more changes are')} not listed.</b>" if rest > 0 else ""
    return (
        f'<h3>Cases, {esc(name)}</h3><div class="wide"><table class="tight"><thead><tr>{head}</tr></thead><tbody>'
        f'{"".join(rows)}</tbody></table></div><p class="note">Numbers count the rows of the tables in report.json '
        "from 1; they name no patient. Teacher and bundle: probability of the finding (of the true label, where "
        f"labels exclude each other). In each part the largest change of probability comes first.{more}</p>"
    )


def _flip_row(flip: Flip, columns: Sequence[str], *, several: bool) -> str:
    # Of a finding the kind of change tells both decisions; of labels that exclude each other only their names do.
    names = ("", "") if flip.finding else (f" {flip.teacher}", f" {flip.bundle}")
    cells = (
        f"{flip.kind}: {flip.finding}" if several else flip.kind,
        flip.truth,
        f"{number(flip.teacher_score)}{names[0]}",
        f"{number(flip.bundle_score)}{names[1]}",
        *(flip.subgroups[column] or "not recorded" for column in columns),
    )
    style = ' class="harm"' if flip.direction == "harmful" else ""
    text = "".join(f'<td class="text">{esc(cell)}</td>' for cell in cells)
    return f"<tr{style}><th>{flip.case + 1:,}</th>{text}</tr>"


_DIRECTIONS = {
    "harmful": "Harmful, the teacher alone is right",
    "neither": "Both are wrong, in different ways",
    "beneficial": "Beneficial, the bundle alone is right",
}
