"""``medfm-compress prune``: make a model faster on a target by making it smaller, and let it recover."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from medfm_compress.cli import console
from medfm_compress.cli import training_options as options
from medfm_compress.cli.parse_units import megabytes, milliseconds

if TYPE_CHECKING:
    from medfm_compress.compress.pruning.allocate import Search
    from medfm_compress.compress.pruning.goal import AllocationName
    from medfm_compress.compress.pruning.importance import Importance
    from medfm_compress.compress.pruning.record import PruningRecord


def prune(
    model: Annotated[Path, typer.Argument(help="Model folder to prune; it is not changed.")],
    study: Annotated[Path, typer.Option(help="Study to choose by and to recover on.")],
    out: Annotated[Path, typer.Option(help="Model folder to write.")],
    speedup: Annotated[float | None, typer.Option(help="Goal: times faster on the target, e.g. 2.")] = None,
    latency: Annotated[str, typer.Option(help="Goal: latency of one image on the target, e.g. 8ms.")] = "",
    macs: Annotated[float | None, typer.Option(help="Goal: fraction of the multiply-accumulates to keep.")] = None,
    size: Annotated[str, typer.Option(help="Goal: size of the target's files, e.g. 6MB.")] = "",
    target: Annotated[
        str, typer.Option(help="Where it will run and is measured, e.g. openvino:cpu:int8; empty with --macs for none.")
    ] = "openvino:cpu",
    threads: Annotated[int, typer.Option(help="Threads there.")] = 1,
    teacher: Annotated[
        list[str] | None, typer.Option(help="What it recovers from, see distill; the original by default.")
    ] = None,
    importance: Annotated[
        str, typer.Option(help="What ranks channels: taylor, hessian, activation (training cases) or magnitude.")
    ] = "taylor",
    allocation: Annotated[
        str, typer.Option(help="What ranks layers: measured (validation cases), global importance, or uniform.")
    ] = "measured",
    search: Annotated[str, typer.Option(help="knapsack, or evolution, which takes longer.")] = "knapsack",
    round_to: Annotated[int, typer.Option(help="Widths become multiples of it; 0 leaves it to the target.")] = 0,
    embedding: Annotated[bool, typer.Option(help="Let the width of a ViT's tokens shrink too.")] = True,
    depth: Annotated[bool, typer.Option(help="Let whole blocks be dropped too.")] = True,
    repair: Annotated[bool, typer.Option(help="Fit what is left of each layer to its former outputs.")] = True,
    merge_tokens: Annotated[int, typer.Option(help="Tokens that every block of a ViT merges.")] = 0,
    sparse: Annotated[bool, typer.Option("--sparse", help="Keep 2 of every 4 weights, for TensorRT.")] = False,
    steps: Annotated[int, typer.Option(help="Cuts to the goal, with a short recovery after each.")] = 1,
    step_epochs: Annotated[int, typer.Option(help="Of the short recoveries.")] = 1,
    epochs: Annotated[int, typer.Option(help="Of the recovery at the end; 0 only prunes.", min=0)] = 10,
    modality: options.Modality = "radiograph",
    batch_size: options.BatchSize = 32,
    micro_batch: options.MicroBatch = 0,
    learning_rate: options.LearningRate = 5e-4,
    precision: options.Precision = "auto",
    device: options.Device = "auto",
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Prune a model to a goal and distil the original into what is left. Resumes where it was interrupted.

    Give one goal: --speedup, --latency, --macs or --size.
    """
    from medfm_compress import steps as job
    from medfm_compress.compress.pruning.options import PruneOptions
    from medfm_compress.compress.teachers.source import TeacherSource
    from medfm_compress.compress.training.config import TrainingConfig

    config = TrainingConfig(
        epochs=epochs,
        batch_size=batch_size,
        micro_batch=micro_batch,
        learning_rate=learning_rate,
        precision=precision,
        device=device,
        modality=modality,
        seed=seed,
    )
    wanted = PruneOptions(
        speedup=speedup,
        latency_ms=milliseconds(latency, "--latency") if latency else None,
        macs=macs,
        size_mb=megabytes(size, "--size") if size else None,
        target=target,
        threads=threads,
        round_to=round_to,
        importance=cast("Importance", importance),
        allocation=cast("AllocationName", allocation),
        search=cast("Search", search),
        embedding=embedding,
        depth=depth,
        repair=repair,
        merge_tokens=merge_tokens,
        sparse=sparse,
        steps=steps,
        step_epochs=step_epochs,
        training=config,
    )
    sources = tuple(TeacherSource(source=name) for name in teacher or ())
    record = job.prune(study, sources, model, wanted, console.progress, out)
    if json:
        console.emit_json(_as_json(record, out))
    else:
        _tell(record, out)


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
        "latency_ms": {each.name: each.quantile_ms(0.5) for each in record.measurements},
        "speedup": record.speedup or None,
        "efficiency": _efficiency(record) or None,
        "groups": [
            {"name": group.name, "kind": group.kind, "before": group.before, "after": group.after}
            for group in last.groups
        ],
        "protected": [{"name": entry.name, "reason": entry.reason} for entry in last.protected],
        "sparse": list(record.sparse),
    }


def _efficiency(record: PruningRecord) -> float:
    """How much of the MACs removed became time saved: speed-up times the fraction of MACs kept; 1 is all."""
    return record.speedup * record.macs_after / record.macs_before


def _tell(record: PruningRecord, out: Path) -> None:
    rows = [
        (name, f"{before:,}", f"{after:,}", f"{after / before:.3f}")
        for name, before, after in (
            ("MACs an image", record.macs_before, record.macs_after),
            ("parameters", record.parameters_before, record.parameters_after),
        )
    ]
    if record.measurements:
        before, after = (each.quantile_ms(0.5) for each in record.measurements)
        rows.append((f"ms on {record.target}", f"{before:.3g}", f"{after:.3g}", f"{after / before:.3f}"))
        sizes = [each.size_bytes for each in record.measurements]
        rows.append(("bytes there", f"{sizes[0]:,}", f"{sizes[1]:,}", f"{sizes[1] / sizes[0]:.3f}"))
    console.table(("", "before", "after", "kept"), rows)
    last = record.steps[-1]
    if last.unit == "ms":
        off = last.predicted / last.measured - 1
        console.say(f"predicted {last.predicted:.3g} ms, measured while cutting {last.measured:.3g} ms ({off:+.1%})")
    if record.measurements:
        console.say(
            f"{record.speedup:.2f}× as fast with {record.macs_after / record.macs_before:.3f} of the MACs: "
            f"{_efficiency(record):.2f} of what was removed is saved"
        )
    groups = [group for step in record.steps for group in step.groups]
    blocks = sum(group.kind == "block" and group.after == 0 for group in groups)
    narrower = len({group.name for group in groups if group.kind != "block" and group.after < group.before})
    console.say(
        f"groups narrowed: {narrower}, blocks dropped: {blocks}, groups left whole: {len(last.protected)}; wrote {out}"
    )
