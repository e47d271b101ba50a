"""Sections on what stands around the figures: cases, provenance, machine."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np

from medfm_compress.bench.measure.machine import Machine
from medfm_compress.bench.render.format import find_hashes, megabytes, versions
from medfm_compress.bench.report import Report

_MOST_VALUES = 12


class FindingCount(NamedTuple):
    """Cases with a finding, and patients."""

    finding: str
    positives: int
    patients: int


class CasesView(NamedTuple):
    """How many cases and patients, how many with each finding, and who they are."""

    cases: int
    patients: int
    findings: list[FindingCount]
    subgroups: dict[str, str]


class ProvenanceView(NamedTuple):
    """Which files these are, and what measured them."""

    hashes: dict[str, str]
    machine: dict[str, str]


def cases_view(report: Report) -> CasesView:
    """Counts by finding and by column."""
    truth, clusters = np.array(report.teacher.truth, dtype=np.int64), np.array(report.teacher.clusters)
    findings = [
        FindingCount(finding, int(positive.sum()), len(np.unique(clusters[positive])))
        for finding, positive in zip(report.teacher.findings, truth.T == 1, strict=True)
    ]
    subgroups = {name: _values(values) for name, values in report.teacher.subgroups.items()}
    return CasesView(len(clusters), len(np.unique(clusters)), findings, subgroups)


def provenance_view(report: Report) -> ProvenanceView:
    """Hashes and machine."""
    origin, machine = report.provenance, report.machine
    hashes = {
        "Model digest": report.model_digest,
        "Study fingerprint": report.study_fingerprint,
        "Trained on study": origin.study_fingerprint,
        "Thresholds chosen on study": origin.calibration_fingerprint,
        "Teacher's weights": origin.teacher.partition("@")[2],
        "Deployed weights": origin.student.partition("@")[2],
        "Policy (sha256)": report.policy_sha256,
        "Recipe (sha256)": origin.recipe_sha256,
        "Machine fingerprint": machine.fingerprint,
        "Earlier bundle": ", ".join(dict.fromkeys(slower.baseline_digest for slower in report.slowdowns)),
    }
    others = [digest for digest in _named_elsewhere(report) if digest not in ", ".join(hashes.values())]
    hashes["Named in steps and looks"] = ", ".join(others)
    return ProvenanceView(hashes, _machine_facts(machine))


def _named_elsewhere(report: Report) -> list[str]:
    """Hashes that a step of the provenance or the log of evaluations names."""
    named = [digest for step in report.provenance.steps for digest in find_hashes(step)]
    for entry in report.test_set_evaluations:
        named += [entry.model_digest, entry.policy_sha256]
    return list(dict.fromkeys(named))


def _values(values: tuple[str, ...]) -> str:
    """A column in one line: its range where it is a quantity, else its commonest values."""
    numbers = _numbers(values)
    if numbers:
        missing = len(values) - len(numbers)
        span = f"from {min(numbers):g} to {max(numbers):g}, median {float(np.median(numbers)):g}"
        return span + (f"  ·  not recorded: {missing:,}" if missing else "")
    counts = Counter(values)
    shown = [f"{value or 'not recorded'}: {count:,}" for value, count in counts.most_common(_MOST_VALUES)]
    rest = len(counts) - _MOST_VALUES
    return "  ·  ".join(shown) + (f"  ·  and {rest} more values" if rest > 0 else "")


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
