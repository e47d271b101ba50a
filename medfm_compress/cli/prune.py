"""``medfm-compress prune``: make a model faster on a target by making it smaller, and let it recover."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medfm_compress.cli import console
from medfm_compress.cli.arguments import ModelFolder, ModelOut, Overwrite, Study
from medfm_compress.cli.command import command
from medfm_compress.cli.model_summary import is_of_processor
from medfm_compress.cli.next_command import after_distill, print_next
from medfm_compress.cli.outputs import check_place
from medfm_compress.cli.teacher_options import (
    TeacherLabels,
    TeacherOutputs,
    TeacherSpec,
    TeacherWeights,
    teacher_sources,
    with_weights,
)
from medfm_compress.compress.pruning.options import PruneOptions

if TYPE_CHECKING:
    from medfm_compress.bench.types.interval import Interval
    from medfm_compress.compress.pruning.int8_student import Int8Student
    from medfm_compress.compress.pruning.record import PruningRecord


@command(skip=("training.freeze_backbone",))
def prune(
    model: ModelFolder,
    options: PruneOptions,
    study: Study,
    out: ModelOut,
    overwrite: Overwrite = False,
    teacher: Annotated[
        list[str] | None, typer.Option(help="What it recovers from, see distill; the original by default.")
    ] = None,
    teacher_weights: TeacherWeights = None,
    teacher_spec: TeacherSpec = None,
    teacher_labels: TeacherLabels = None,
    teacher_outputs: TeacherOutputs = None,
) -> None:
    """Prune a model to a goal and distil the original into what is left. Resumes where it was interrupted.

    Give one goal: --min-speedup, --max-latency, --max-macs or --max-size.
    """
    check_place(out)
    from medfm_compress import steps

    named = teacher_sources(teacher or [], teacher_spec, teacher_labels, teacher_outputs)
    sources = with_weights(named, teacher_weights)
    record = steps.prune(study, sources, model, options, console.progress, out, overwrite=overwrite)
    following = after_distill(out, study)

    def describe() -> None:
        _print_record(record, out)
        print_next(following)

    console.emit(lambda: _as_json(record, out) | {"next": following}, describe)


def _as_json(record: PruningRecord, out: Path) -> dict[str, Any]:
    last = record.steps[-1]
    return {
        "model": str(out),
        "goal": record.goal,
        "target": record.target,
        "macs_before": record.macs_before,
        "macs_after": record.macs_after,
        "parameters_before": record.parameters_before,
        "parameters_after": record.parameters_after,
        "predicted": {"value": last.predicted, "unit": last.unit},
        "measured": {"value": last.measured, "unit": last.unit},
        "latency_ms": {measurement.name: measurement.quantile_ms(0.5) for measurement in record.measurements},
        "speedup": record.speedup and record.speedup.estimate,
        "efficiency": record.speedup and _efficiency(record, record.speedup),
        "groups": [
            {"name": group.name, "kind": group.kind, "before": group.before, "after": group.after}
            for group in last.groups
        ],
        "protected": [{"name": entry.name, "reason": entry.reason} for entry in last.protected],
        "sparse": list(record.sparse),
        "int8": record.int8,
    }


def _efficiency(record: PruningRecord, speedup: Interval) -> float:
    """How much of the MACs removed became time saved: speed-up times the fraction of MACs kept; 1 is all."""
    return speedup.estimate * record.macs_after / record.macs_before


def _print_record(record: PruningRecord, out: Path) -> None:
    rows = [
        (name, f"{before:,}", f"{after:,}", f"{after / before:.3f}")
        for name, before, after in (
            ("MACs an image", record.macs_before, record.macs_after),
            ("parameters", record.parameters_before, record.parameters_after),
        )
    ]
    if record.measurements:
        before, after = (measurement.quantile_ms(0.5) for measurement in record.measurements)
        rows.append((f"ms on {record.target}", f"{before:.3g}", f"{after:.3g}", f"{after / before:.3f}"))
        sizes = [measurement.size_bytes for measurement in record.measurements]
        rows.append(("bytes there", f"{sizes[0]:,}", f"{sizes[1]:,}", f"{sizes[1] / sizes[0]:.3f}"))
    console.table(("", "before", "after", "kept"), rows)
    last = record.steps[-1]
    if last.unit == "ms":
        off = last.predicted / last.measured - 1
        console.say(f"predicted {last.predicted:.3g} ms, measured while cutting {last.measured:.3g} ms ({off:+.1%})")
    if record.speedup is not None:
        ratio, by = record.speedup, ", processor time" * is_of_processor(record.speedup)
        console.say(
            f"{ratio.estimate:.2f}× as fast ({ratio.low:.2f} to {ratio.high:.2f}{by}) with "
            f"{record.macs_after / record.macs_before:.3f} of the MACs: {_efficiency(record, ratio):.2f} of what was "
            "removed is saved"
        )
    if record.int8 is not None:
        _print_int8(record.int8)
    groups = [group for step in record.steps for group in step.groups]
    blocks = sum(group.kind == "block" and group.after == 0 for group in groups)
    narrower = len({group.name for group in groups if group.kind != "block" and group.after < group.before})
    console.say(
        f"groups narrowed: {narrower}, blocks dropped: {blocks}, groups left whole: {len(last.protected)}; wrote {out}"
    )


def _print_int8(student: Int8Student) -> None:
    """What INT8 does to the pruned network, beside FP32 and the original."""
    if not student.method:
        console.say(f"in INT8 it does not run, and FP32 takes longer than what was measured: {student.reason}")
        return
    scores = (student.score_original, student.score_fp32, student.score_int8)
    shown = ", ".join(
        f"{name} {'unknown' if score is None else f'{score:.3f}'}"
        for name, score in zip(("original", "pruned in FP32", "pruned in INT8"), scores, strict=True)
    )
    console.say(f"{student.score_name} on {student.judged_on} validation cases: {shown}")
    console.say(
        f"INT8 beside its own FP32: relative logit error {student.relative_logit_error:.4f}, "
        f"{student.changed_decisions:.1%} of decisions change ({student.method})"
    )
    if student.reason:
        console.say(
            f"not fit to ship in INT8 as it is: {student.reason}; 'quantize' searches further, and "
            "'distill --qat' trains for it"
        )
