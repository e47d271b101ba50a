"""Residual risk: what this report does not show, drawn from what is in it and what is missing."""

from __future__ import annotations

from collections.abc import Iterator

from medfm_compress.bench.evaluate.prediction_flips import find_flips
from medfm_compress.bench.render.format import counted, esc
from medfm_compress.bench.render.html.outline import section
from medfm_compress.bench.render.html.protocol import reuse_sentence
from medfm_compress.bench.render.html.subgroups import has_interval
from medfm_compress.bench.report import Report
from medfm_compress.bench.types.verdict import Verdict


def limits_section(report: Report, verdict: Verdict) -> str:
    """A list, the gravest first; every line is escaped but for its link."""
    lines = [*_of_verdict(verdict), *_of_flips(report), *_of_groups(report), *_of_policy(report), *_of_run(report)]
    items = "".join(f"<li>{line}</li>" for line in lines)
    return (
        '<p class="lead">What a reader must weigh beside the verdict. The list is made from the report itself; '
        "risks that "
        "need knowledge of the device and its use are not in it.</p>"
        f'<ol class="limits">{items}</ol>'
    )


def _of_verdict(verdict: Verdict) -> Iterator[str]:
    for outcome, words in (("fail", "broken"), ("inconclusive", "open, neither shown to hold nor shown to fail")):
        names = [
            f"{check.name} ({judged.variant})"
            for judged in verdict.variants
            for check in judged.checks
            if check.outcome == outcome
        ]
        if names:
            plural = "requirement is" if len(names) == 1 else "requirements are"
            shown = ", ".join(names[:6]) + (" and others" if len(names) > 6 else "")
            yield f"<b>{len(names)} {plural} {words}</b>: {esc(shown)}; see {section('checks')}."


def _of_flips(report: Report) -> Iterator[str]:
    teacher = report.teacher.to_evaluation()
    for table in report.evaluations[1:]:
        if table.name in report.variants:
            harmful = [flip for flip in find_flips(teacher, table.to_evaluation()) if flip.direction == "harmful"]
            missed = sum(flip.kind == "newly missed" for flip in harmful)
            if harmful:
                text = f", {missed} of them a finding that the teacher called and this variant misses" if missed else ""
                yield (
                    f"<b>{esc(table.name)} decides {counted(len(harmful), 'case')} wrongly that the teacher decides "
                    f"rightly</b>{text}; see {section('flips')}."
                )


def _of_groups(report: Report) -> Iterator[str]:
    small = dict.fromkeys(found.subgroup for found in report.comparisons if found.subgroup and not has_interval(found))
    if small:
        names = esc(", ".join(small))
        yield f"<b>Nothing is known of {counted(len(small), 'group')} of patients</b>, too small to judge: {names}."
    if not report.policy.subgroups:
        yield "<b>No group of patients was compared</b>: a loss in one of them may hide in the mean."
    for note in report.notes:
        yield esc(note)


def _of_policy(report: Report) -> Iterator[str]:
    if len(report.looks) != 1:
        yield f"<b>{esc(reuse_sentence(report))}</b> See {section('protocol')}."
    unbound = [entry for entry in report.policy.non_inferiority if entry.bundle_floor is None]
    if len(unbound) == len(report.policy.non_inferiority):
        yield (
            "No metric has a floor of its own in the policy: the bundle is held to its teacher only, and is no "
            "better than "
            "its teacher allows."
        )
    missing = [name for name in report.shipped if name not in report.variants]
    if missing:
        yield f"<b>Shipped and not evaluated</b>: {esc(', '.join(missing))}."


def _of_run(report: Report) -> Iterator[str]:
    if report.noise:
        yield f"The machine was noisy, so the timings are not to be cited; see {section('speed')}."
    yield (
        f"The cases are those of one study ({len(report.teacher.clusters):,} of them). Other sites, devices, "
        "protocols and "
        "populations may score differently; thresholds must be checked where the device will stand."
    )
    yield "Timings hold for the machine in the appendix only."
    yield "Non-inferior is not the same: a loss smaller than the margin is compatible with every pass."
