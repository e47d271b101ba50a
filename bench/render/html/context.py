"""Sections on what stands around the figures: cases, provenance, machine, how to read."""

from __future__ import annotations

from collections import Counter

import numpy as np

from medfm_compress.bench.measure.machine import Machine
from medfm_compress.bench.render.format import definitions, esc, megabytes, versions
from medfm_compress.bench.report import Report
from medfm_compress.bench.types.verdict import Verdict

_MOST_VALUES = 12
_READING = (
    ("AUROC", "The probability that a case with the finding scores higher than one without it; 0.5 is chance."),
    ("AUPRC", "Average precision over all thresholds; it depends on how common the finding is among these cases."),
    ("Sensitivity", "Of the cases with the finding, the share that is called."),
    ("Specificity", "Of the cases without the finding, the share that is not called."),
    ("PPV", "Of the called cases, the share that has the finding; it depends on how common the finding is."),
    ("NPV", "Of the cases that are not called, the share that does not have the finding; likewise."),
    ("F1 score", "The harmonic mean of PPV and sensitivity."),
    ("Balanced accuracy", "The mean of sensitivity and specificity."),
    ("Accuracy", "The share of cases that is decided correctly."),
    ("Brier score", "The mean squared error of the probability; 0 is perfect."),
    ("Log loss", "The mean of −ln of the probability given to the truth; confident errors weigh most."),
    ("ECE", "Expected calibration error: mean gap between probability and share, by bins; too large on few cases."),
    ("Interval", "The values that these cases leave plausible; an interval that includes the margin proves nothing."),
    ("Non-inferior", "The bundle may be worse than the teacher by less than the margin, and by no more."),
    ("Inconclusive", "The cases are too few, or the interval too wide, to say; it does not count as a pass."),
)


def cases_section(report: Report, _: Verdict) -> str:
    """How many cases and patients, how many with each finding, and who they are."""
    truth, clusters = np.array(report.teacher.truth, dtype=np.int64), np.array(report.teacher.clusters)
    rows = []
    for column, finding in enumerate(report.teacher.findings):
        positive = truth[:, column] == 1
        rows.append(
            f'<tr><th class="text">{esc(finding)}</th><td>{positive.sum():,}</td><td>{(~positive).sum():,}</td>'
            f"<td>{100 * positive.mean():.1f}%</td><td>{len(np.unique(clusters[positive])):,}</td></tr>"
        )
    head = (
        '<tr><th class="text">Finding</th><th>Cases with it</th><th>without</th><th>Share</th>'
        "<th>Patients with it</th></tr>"
    )
    lead = (
        f'<p class="lead">{len(clusters):,} cases of {len(np.unique(clusters)):,} patients (a case without a patient '
        f"key counts as its own patient), split “{esc(report.split)}”. Thresholds and stopping "
        "points are chosen on validation cases, never on these.</p>"
    )
    notes = "".join(f'<p class="caution">{esc(note)}</p>' for note in report.notes)
    return f"{lead}<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>{_subgroups(report)}{notes}"


def provenance_section(report: Report, _: Verdict) -> str:
    """Which files these are, and what measured them."""
    origin, machine = report.provenance, report.machine
    hashes = {
        "Model digest": report.model_digest,
        "Study fingerprint": report.study_fingerprint,
        "Trained on study": origin.study_fingerprint,
        "Policy (sha256)": report.policy_sha256,
        "Recipe (sha256)": origin.recipe_sha256,
        "Machine fingerprint": machine.fingerprint,
    }
    return (
        f"<h3>Identities</h3><dl>{definitions(hashes, code=True)}</dl>"
        f"<h3>Machine</h3><dl>{definitions(_machine_facts(machine))}</dl>"
    )


def reading_section(_: Report, __: Verdict) -> str:
    """One sentence a term."""
    return f"<dl>{definitions(dict(_READING))}</dl>"


def _subgroups(report: Report) -> str:
    facts = {}
    for name, values in report.teacher.subgroups.items():
        numbers = _numbers(values)
        if numbers:
            facts[name] = f"from {min(numbers):g} to {max(numbers):g}, median {float(np.median(numbers)):g}"
            missing = len(values) - len(numbers)
            facts[name] += f"  ·  not recorded: {missing:,}" if missing else ""
            continue
        counts = Counter(values)
        shown = [f"{value or 'not recorded'}: {count:,}" for value, count in counts.most_common(_MOST_VALUES)]
        rest = len(counts) - _MOST_VALUES
        facts[name] = "  ·  ".join(shown) + (f"  ·  and {rest} more values" if rest > 0 else "")
    return f"<h3>Who they are</h3><dl>{definitions(facts)}</dl>" if facts else ""


def _numbers(values: tuple[str, ...]) -> list[float]:
    """The recorded values of a column that is a quantity; none where it has few values or some are no numbers."""
    recorded = [value for value in values if value]
    if len(set(recorded)) <= _MOST_VALUES:
        return []
    try:
        return [float(value) for value in recorded]
    except ValueError:
        return []


def _machine_facts(machine: Machine) -> dict[str, str]:
    load = f"{machine.load_average:.2f} when the measurement began" if machine.load_average >= 0 else ""
    return {
        "Processor": machine.cpu_model,
        "Instruction sets": ", ".join(flag for flag in machine.cpu_flags if flag != "hypervisor"),
        "Virtual machine": "yes" if "hypervisor" in machine.cpu_flags else "",
        "CPUs": f"{machine.allowed_cpus} of {machine.logical_cpus} usable",
        "Frequency governor": machine.governor or "not told by the system",
        "Memory": megabytes(machine.memory_bytes),
        "GPU": ", ".join(machine.gpus) or "none",
        "System": machine.system,
        "Load": load,
        "Software": versions({"Python": machine.python, **machine.libraries}),
    }
