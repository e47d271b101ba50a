"""Modification protocol: what was required beforehand, how it is judged, and how often the cases had been looked at."""

from __future__ import annotations

from medfm_compress.bench.evaluate.test_set_log import LoggedEvaluation
from medfm_compress.bench.render.format import (
    METRIC_NAMES,
    counted,
    date_name,
    definitions,
    esc,
    margin_text,
    megabytes,
    milliseconds,
    short_digest,
)
from medfm_compress.bench.report import Report
from medfm_compress.bench.types.metric import LOWER_IS_BETTER
from medfm_compress.bench.types.policy import Budget, FidelityLimits, NonInferiority, SubgroupRule
from medfm_compress.bench.types.verdict import Verdict

_MOST_LOOKS = 12


def protocol_section(report: Report, _: Verdict) -> str:
    """Policy, statistics, looks."""
    head = "".join(
        f'<th class="{style}">{name}</th>'
        for name, style in (
            ("Metric", "text"),
            ("Finding", "text"),
            ("Patients", "text"),
            ("Margin", ""),
            ("Teacher<br>must reach", ""),
            ("Bundle<br>must reach", ""),
        )
    )
    rows = "".join(_required_row(entry) for entry in report.policy.non_inferiority)
    return (
        '<p class="lead">The policy was written down before the cases were evaluated; its hash was logged then, '
        "and every "
        f"line of it must hold for every variant. Policy {esc(short_digest(report.policy_sha256))}:</p>"
        f'<div class="wide keep"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
        f"<dl>{definitions(_limits(report))}</dl><h3>How it is judged</h3><dl>{definitions(_statistics(report))}</dl>"
        f"<h3>Looks at the test cases</h3>{_looks(report)}"
    )


def reuse_sentence(report: Report) -> str:
    """How often this split has been looked at, plainly."""
    looks = report.looks
    if not looks:
        return "No log of evaluations is part of this report: how often this split has been looked at is not known."
    times = "once, for this report" if len(looks) == 1 else f"{len(looks)} times, this report included"
    log = " That is what the log in this report's folder knows; looks that were logged elsewhere are not in it."
    models, policies = {look.model_digest for look in looks}, {look.policy_sha256 for look in looks}
    which = ""
    if len(looks) > 1:
        which = f" It saw {counted(len(models), 'model')} under {counted(len(policies), 'policy', 'policies')}."
    return f"This {report.split} split has been looked at {times}.{which}{log}"


def _required_row(entry: NonInferiority) -> str:
    bound = "at most {}" if entry.metric in LOWER_IS_BETTER else "at least {}"
    floors = "".join(
        f"<td>{'–' if floor is None else bound.format(f'{floor:g}')}</td>"
        for floor in (entry.teacher_floor, entry.bundle_floor)
    )
    patients = f"every group by {entry.subgroup}" if entry.subgroup else "all"
    return (
        f'<tr><th class="text">{METRIC_NAMES[entry.metric]}</th><td '
        f'class="text">{esc(entry.finding or "every finding")}</td>'
        f'<td class="text">{esc(patients)}</td><td>{margin_text(entry.metric, entry.margin)}</td>{floors}</tr>'
    )


def _limits(report: Report) -> dict[str, str]:
    policy = report.policy
    return {
        "Cost at most": _budget(policy.budget),
        "Case by case": _fidelity(policy.fidelity),
        "Groups of patients": "; ".join(_rule(rule) for rule in policy.subgroups) or "none declared",
        "Least number of patients": f"{policy.min_positives} with the finding, {policy.min_negatives} without, "
        f"{policy.min_clusters} in all; fewer are inconclusive before any interval is computed",
    }


def _budget(budget: Budget) -> str:
    written = {
        "median {} ms": budget.p50_ms,
        "99th percentile {} ms": budget.p99_ms,
        "file to finding, median {} ms": budget.end_to_end_p50_ms,
        "file to finding, 99th percentile {} ms": budget.end_to_end_p99_ms,
        "first prediction after {} ms": budget.first_prediction_ms,
    }
    lines = [words.format(milliseconds(value)) for words, value in written.items() if value is not None]
    sizes = {
        "{} on disk": budget.size_bytes,
        "{} of memory": budget.peak_rss_bytes,
        "{} of GPU memory": budget.peak_gpu_bytes,
    }
    lines += [words.format(megabytes(value)) for words, value in sizes.items() if value is not None]
    others = {
        "{:g} mJ a call": budget.energy_mj,
        "{:g}× as slow as the bundle before": budget.max_slowdown,
        "and at least {:g}× as fast as the teacher": budget.min_speedup,
        "and at least {:g}× smaller than the teacher": budget.min_compression,
    }
    return (
        "; ".join(lines + [words.format(value) for words, value in others.items() if value is not None]) or "no limit"
    )


def _fidelity(limits: FidelityLimits) -> str:
    lines = []
    if limits.max_relative_logit_error is not None:
        lines.append(f"relative logit error at most {limits.max_relative_logit_error:g}")
    if limits.min_agreement is not None:
        lines.append(f"agreement of decisions at least {100 * limits.min_agreement:g}%")
    return "; ".join(lines) or "no limit"


def _rule(rule: SubgroupRule) -> str:
    cuts = f", cut at {', '.join(f'{cut:g}' for cut in rule.cuts)}" if rule.cuts else ""
    small = "named only" if rule.when_too_few == "named" else "inconclusive"
    return f"{rule.column}{cuts} (a group that is too small: {small})"


def _statistics(report: Report) -> dict[str, str]:
    policy = report.policy
    methods: dict[str, list[str]] = {}
    for found in report.comparisons:
        if not found.too_few and found.difference.method:
            methods.setdefault(found.difference.method.partition(", t(")[0], []).append(METRIC_NAMES[found.metric])
    used = "; ".join(f"{method} ({', '.join(dict.fromkeys(names))})" for method, names in methods.items())
    return {
        "Difference": "Bundle minus teacher on the same cases, paired; patients, not images, are the independent unit.",
        "Pass": f"The {100 * (1 - 2 * policy.alpha):g}% interval of every required difference excludes its margin "
        f"(one-sided α = {policy.alpha:g} each; since all must hold, no correction is needed), and every limit holds.",
        "Fail": "A limit is broken, or a difference is significantly beyond its margin after Holm's correction.",
        "Inconclusive": "Everything else. It is not a pass.",
        "Intervals": f"{used}; {policy.resamples:,} resamples where a bootstrap is used, seed {policy.seed}"
        if used
        else "",
        "Inference": "Each case on its own (batch 1), in the engine and precision that the variant ships with.",
    }


def _looks(report: Report) -> str:
    shown = report.looks[-_MOST_LOOKS:]
    text = f'<p class="{"caution" if len(report.looks) != 1 else "plain"}"><b>{esc(reuse_sentence(report))}</b>'
    if len(report.looks) > 1:
        text += " Each further look makes a pass by chance likelier than α; choose nothing by what was seen."
    rows = "".join(_look_row(report, look) for look in shown)
    head = '<tr><th class="text">Date</th><th>Cases</th><th class="text">Model</th><th class="text">Policy</th></tr>'
    hidden = len(report.looks) - len(shown)
    more = f'<p class="note">And {hidden} earlier.</p>' if hidden else ""
    table = f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>{more}" if len(shown) > 1 else ""
    return f"{text}</p>{table}"


def _look_row(report: Report, look: LoggedEvaluation) -> str:
    same = " (this one)" if look.model_digest == report.model_digest else ""
    policy = " (this one)" if look.policy_sha256 == report.policy_sha256 else ""
    return (
        f'<tr><th class="text">{esc(date_name(look.date))}</th><td>{look.cases:,}</td>'
        f'<td class="text"><code>{esc(short_digest(look.model_digest))}</code>{same}</td>'
        f'<td class="text"><code>{esc(short_digest(look.policy_sha256))}</code>{policy}</td></tr>'
    )
