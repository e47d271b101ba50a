"""The model card: intended use, data, figures by group and limits, from the manifest and the report.

Sections follow Mitchell et al., Model Cards for Model Reporting, FAT* 2019. What only its maker can know (what the
training data were, where it must not be used) is his own text, and where he gave none the card says so.
"""

from __future__ import annotations

from collections.abc import Iterator

from medfm_compress.bench.gate.decision import Decision
from medfm_compress.bench.render.format import bounds, number, signed
from medfm_compress.bench.render.markdown import escape, table
from medfm_compress.bench.types.evaluation import Comparison
from medfm_compress.runtime.bundle.manifest import Manifest

_NO_LIMITS = (
    "The maker states none beyond the above: what the training data were, and where it must not be used, is open."
)
_HEADERS = ("Metric", "Variant", "Group", "Patients", "Teacher", "Bundle", "Difference", "Interval")


def model_card(decision: Decision, manifest: Manifest, limits: str) -> str:
    """The card, Markdown; ``limits`` is the maker's own text, taken as it is."""
    report, origin = decision.report, manifest.provenance
    everybody = [c for c in report.comparisons if not c.subgroup]
    groups = [c for c in report.comparisons if c.subgroup]
    parts = [
        f"# Model card: {escape(manifest.name)}",
        f"Model `{manifest.model_digest}`, release {manifest.release_number or 'none'}, made {escape(origin.date)}. "
        f"Verdict under policy `{decision.verdict.policy_sha256[:12]}`: **{decision.verdict.outcome}**.",
        "## Intended use",
        escape(manifest.intended_use),
        _task(manifest),
        *_columns(manifest),
        "## Training data",
        f"Study `{origin.study_fingerprint or 'not recorded'}`; temperature and thresholds from study "
        f"`{origin.calibration_fingerprint or 'not recorded'}`. Teacher: {escape(origin.teacher or 'not recorded')}, "
        f"licence {escape(origin.teacher_licence or 'not recorded')}.",
        "## Evaluation data",
        f"Split {escape(report.split)} of study `{report.study_fingerprint}`: {len(report.teacher.clusters)} cases of "
        f"{len(set(report.teacher.clusters))} patients. {_prevalence(decision)}",
        "## Figures",
        table(_HEADERS, _rows(everybody)),
        "## Subgroups",
        table(_HEADERS, _rows(groups)) if groups else "The policy names no subgroups: nothing is known of any.",
        "## Limits",
        "\n".join(f"- {escape(note)}" for note in decision.verdict.notes) or "Nothing was noted by the gate.",
        limits.strip() or _NO_LIMITS,
    ]
    return "\n\n".join(parts) + "\n"


def _task(manifest: Manifest) -> str:
    task = manifest.task
    points = [
        f"- {escape(point.label)} is called from {point.threshold:.4g} ({escape(point.rule)}; {point.rates})"
        for point in task.operating_points
    ]
    labels = ", ".join(escape(label) for label in task.labels)
    what = f"Task: {task.kind} classification of {labels}, temperature {task.temperature:g}."
    if task.normal_labels:
        normal = ", ".join(escape(label) for label in task.normal_labels)
        what = f"Task: score of how unlike {normal} an image is; it orders images and is no probability of disease."
    return "\n".join([what, *points])


def _columns(manifest: Manifest) -> Iterator[str]:
    """What the network is given beside the image; nothing of most."""
    absent = {"refuse": "no answer without it", "impute": "imputed", "category": "may be missing"}
    if manifest.told:
        lines = [
            f"- {escape(column.name)}: {escape(column.allowed)}{f', from {column.dicom}' if column.dicom else ''}; "
            f"{absent[column.missing]}"
            for column in manifest.told
        ]
        yield "\n".join(["Beside the image it is given:", *lines])


def _prevalence(decision: Decision) -> str:
    table_of = decision.report.teacher
    counts = [sum(row[column] for row in table_of.truth) for column in range(len(table_of.findings))]
    named = [f"{escape(name)} {count}" for name, count in zip(table_of.findings, counts, strict=True)]
    return f"Cases with the finding: {', '.join(named)}."


def _rows(comparisons: list[Comparison]) -> Iterator[tuple[str, ...]]:
    for entry in comparisons:
        name = f"{entry.metric} of {entry.finding}" if entry.finding else f"{entry.metric} over all labels"
        head = (escape(name), escape(entry.variant), escape(entry.subgroup or "all"), str(entry.patients))
        if entry.too_few:
            yield (*head, "", "", "", escape(f"too few: {entry.too_few}"))
        else:
            yield (
                *head,
                number(entry.teacher.estimate),
                number(entry.bundle.estimate),
                signed(entry.difference.estimate),
                bounds(entry.difference, sign=True),
            )
