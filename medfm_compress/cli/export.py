"""``medfm-compress export``: a model folder becomes a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medfm_compress.cli import console
from medfm_compress.cli.arguments import BundleOut, ModelFolder, Overwrite, Study
from medfm_compress.cli.command import command
from medfm_compress.cli.model_summary import describe_colour_rule
from medfm_compress.cli.next_command import after_export, print_next
from medfm_compress.cli.outputs import check_file_out
from medfm_compress.recipe import ExportStep

if TYPE_CHECKING:
    from medfm_compress.runtime.bundle.manifest import Manifest


@command()
def export(model: ModelFolder, step: ExportStep, study: Study, out: BundleOut, overwrite: Overwrite = False) -> None:
    """Export a model folder to a bundle, its parity with the model checked and recorded.

    Validation cases of the study give the operating points.
    """
    check_file_out(out, ".medfm", overwrite)
    from medfm_compress import steps

    manifest = steps.export(model, study, step, "", "", console.progress, out)
    console.emit(lambda: manifest, lambda: _print_manifest(manifest, out, study))


def _print_manifest(manifest: Manifest, out: Path, study: Path) -> None:
    sizes = {member.path: member.bytes for member in manifest.members}
    rows = [[v.name, f"{sum(sizes[name] for name in v.files) / 1e6:.2f} MB"] for v in manifest.variants]
    console.table(["variant", "size"], rows)
    console.say(f"temperature {manifest.task.temperature:g}")
    for point in manifest.task.operating_points:
        console.say(
            f"{point.label}: threshold {point.threshold:.3f} by {point.rule} (validation sensitivity "
            f"{point.sensitivity:.3f} of {point.positives}, specificity {point.specificity:.3f} of {point.negatives})"
        )
    accepted = ", ".join(manifest.image_spec.dicom.modalities)
    console.say(
        f"DICOM files of modality {accepted} are accepted, and no others"
        if accepted
        else "DICOM files of every modality are accepted; name those that it was made for: --dicom-modality DX"
    )
    console.say(describe_colour_rule(manifest.image_spec))
    console.say(f"wrote {out}")
    print_next(after_export(out, study))
