"""``medfm-compress export``: a model folder becomes a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medfm_compress.cli import console
from medfm_compress.runtime.bundle.manifest import NOT_FOR_CLINICAL_USE

if TYPE_CHECKING:
    from medfm_compress.runtime.bundle.manifest import Manifest


def export(
    model_folder: Annotated[Path, typer.Argument(help="Folder with model.json and model.safetensors.")],
    study: Annotated[Path, typer.Option(help="Study whose validation cases give the operating points.")],
    out: Annotated[Path, typer.Option(help="The .medfm file to write.")],
    intended_use: Annotated[str, typer.Option(help="What the bundle is for, in one sentence.")] = NOT_FOR_CLINICAL_USE,
    rule: Annotated[
        str, typer.Option(help="Operating points: youden, sensitivity>=0.95 or specificity>=0.90.")
    ] = "youden",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Export a model folder to a bundle, its parity with the model checked and recorded."""
    from medfm_compress import steps
    from medfm_compress.recipe import ExportStep

    step = ExportStep(rule=rule, intended_use=intended_use)
    manifest = steps.export(model_folder, study, step, "", "", console.progress, out)
    if json:
        console.emit_json(manifest)
    else:
        _tell(manifest, out)


def _tell(manifest: Manifest, out: Path) -> None:
    sizes = {member.path: member.bytes for member in manifest.members}
    rows = [[v.name, f"{sum(sizes[name] for name in v.files) / 1e6:.2f} MB"] for v in manifest.variants]
    console.table(["variant", "size"], rows)
    console.say(f"temperature {manifest.task.temperature:g}")
    for point in manifest.task.operating_points:
        console.say(
            f"{point.label}: threshold {point.threshold:.3f} by {point.rule} (validation sensitivity "
            f"{point.sensitivity:.3f} of {point.positives}, specificity {point.specificity:.3f} of {point.negatives})"
        )
    console.say(f"wrote {out}")
