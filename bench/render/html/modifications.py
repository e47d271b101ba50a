"""Description of modifications: what the bundle changed of the teacher, and what was tried and did not ship."""

from __future__ import annotations

from typing import NamedTuple

from medfm_compress.bench.render.format import date_name, megabytes, short_digest, target_name, versions
from medfm_compress.bench.report import TEACHER, Report
from medfm_compress.bench.types.quantization_step import RefusedCandidate, refused_candidate


class Model(NamedTuple):
    """Teacher or variant: what it is and runs on."""

    role: str
    network: str
    engine: str
    size: str


class ChangeView(NamedTuple):
    """Teacher and variants side by side, and how the ones were made of the other; ``refused`` counts what was not."""

    models: list[Model]
    steps: list[str]
    refused: int
    facts: dict[str, str]


def change_view(report: Report) -> ChangeView:
    """Teacher first, then the variants."""
    origin = report.provenance
    models = [_model(report, TEACHER, "Teacher, the reference", origin.teacher or report.teacher_name)]
    models += [_model(report, name, f"Variant {name}", origin.student or "not recorded") for name in report.variants]
    facts = {
        "Made": date_name(origin.date) if origin.date else "",
        "Made with": versions(origin.libraries),
        "Teacher's licence": origin.teacher_licence,
        "Unchanged": f"The labels ({', '.join(report.task.labels)}) and their meaning.",
    }
    steps = [step for step in origin.steps if refused_candidate(step) is None]
    return ChangeView(models, steps, len(origin.steps) - len(steps), facts)


def candidates_view(report: Report) -> list[RefusedCandidate]:
    """What was tried and does not ship, in the order tried."""
    return [refused for step in report.provenance.steps if (refused := refused_candidate(step))]


def _model(report: Report, name: str, role: str, identity: str) -> Model:
    architecture, _, digest = identity.partition("@")
    network = f"{architecture} @ {short_digest(digest)}" if digest else architecture
    measurement = report.measurement(name)
    if measurement is None:
        return Model(role, network, "not measured", "–")
    return Model(role, network, target_name(measurement.target), megabytes(measurement.size_bytes))
