"""``medfm-compress export``: a model folder becomes a bundle, or one ONNX file that needs nothing of this project."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medfm_compress.cli import console
from medfm_compress.cli.arguments import STUDY_KINDS, Overwrite
from medfm_compress.cli.command import command
from medfm_compress.cli.model_summary import describe_colour_rule
from medfm_compress.cli.next_command import after_export, print_next
from medfm_compress.cli.outputs import check_file_out
from medfm_compress.export.self_contained.options import SelfContainedOptions
from medfm_compress.recipe import ExportStep
from medfm_compress.runtime.errors import InputError

if TYPE_CHECKING:
    from medfm_compress.export.self_contained.build import SelfContained
    from medfm_compress.runtime.bundle.manifest import Manifest

Source = Annotated[Path, typer.Argument(help="Model folder, or a .medfm file with --self-contained.", metavar="MODEL")]
StudyOfModel = Annotated[
    Path | None, typer.Option("--study", help=f"{STUDY_KINDS} Of a model folder.", metavar="STUDY")
]
Out = Annotated[
    Path, typer.Option("--out", help="The .medfm file to write, or .onnx if self-contained.", metavar="FILE")
]
IsSelfContained = Annotated[
    bool,
    typer.Option(
        "--self-contained", help="Write one .onnx from pixels to findings, for any host with an ONNX Runtime."
    ),
]


@command()
def export(
    model: Source,
    step: ExportStep,
    options: SelfContainedOptions,
    out: Out,
    study: StudyOfModel = None,
    self_contained: IsSelfContained = False,
    overwrite: Overwrite = False,
) -> None:
    """Export a model folder to a bundle, its parity with the model checked and recorded.

    Validation cases of the study give the operating points. With --self-contained the bundle, or a finished one,
    becomes one ONNX file that preprocesses, predicts and decides.
    """
    check_file_out(out, ".onnx" if self_contained else ".medfm", overwrite)
    if not self_contained:
        _check_plain(options)
        manifest = _export(model, study, step, out)
        console.emit(lambda: manifest, lambda: _print_manifest(manifest, out, study))
        return
    written = _export_self_contained(model, study, step, options, out)
    console.emit(lambda: written, lambda: _print_self_contained(written, out))


def _export(model: Path, study: Path | None, step: ExportStep, out: Path) -> Manifest:
    if model.is_file():
        raise InputError(f"{model} is a file; give a model folder, or export a bundle with --self-contained")
    if study is None:
        raise InputError("--study is missing; give the study whose validation cases decide the operating points")
    from medfm_compress import steps

    return steps.export(model, study, step, "", "", console.progress, out)


def _export_self_contained(
    model: Path, study: Path | None, step: ExportStep, options: SelfContainedOptions, out: Path
) -> SelfContained:
    from medfm_compress.export.self_contained.build import export_self_contained
    from medfm_compress.runtime.bundle.bundle import Bundle

    if not model.is_dir():
        if study is not None or step != ExportStep():
            raise InputError(
                f"{model} is a bundle, whose thresholds and words are decided; leave --study, --rule, "
                "--intended-use and --dicom-modality out"
            )
        return export_self_contained(Bundle.open(model), options, out, console.progress)
    with tempfile.TemporaryDirectory(prefix="medfm-export-") as scratch:
        bundle = Path(scratch, f"{model.resolve().name}.medfm")
        _export(model, study, step, bundle)
        return export_self_contained(Bundle.open(bundle), options, out, console.progress)


def _check_plain(options: SelfContainedOptions) -> None:
    """Options of the one file say nothing of a bundle."""
    if options != SelfContainedOptions():
        raise InputError("--variant, --pixels and --resize-with go with --self-contained; add it, or leave them out")


def _print_self_contained(written: SelfContained, out: Path) -> None:
    parity = written.parity
    console.say(
        f"{written.variant}: relative logit error {parity.relative_logit_error:.2g} against the engine on "
        f"{parity.cases} synthetic images, allowed is {parity.tolerance:g}"
    )
    if written.verdict != "pass":
        console.say("no verdict of the gate stands behind it, which its metadata says as well (medfm.verdict)")
    console.say(f"wrote {out} ({written.bytes / 1e6:.2f} MB)")


def _print_manifest(manifest: Manifest, out: Path, study: Path | None) -> None:
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
    if study is not None:
        print_next(after_export(out, study))
