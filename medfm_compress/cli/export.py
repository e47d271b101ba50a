"""``medfm-compress export``: a model folder becomes a bundle, or one ONNX file that needs nothing of this project."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from medfm_compress.cli import console
from medfm_compress.cli.arguments import STUDY_KINDS, Images, Overwrite
from medfm_compress.cli.command import command
from medfm_compress.cli.model_summary import describe_accepted, describe_colour_rule, print_unlabelled
from medfm_compress.cli.next_command import after_export, print_next
from medfm_compress.cli.outputs import check_file_out
from medfm_compress.cli.teacher_options import TeacherLabels, TeacherOutputs, TeacherSpec, onnx_source
from medfm_compress.export.self_contained.options import SelfContainedOptions
from medfm_compress.onnx_model import CaseSource, export_onnx_model
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.scratch_folder import scratch_folder
from medfm_compress.step_settings import ExportStep

if TYPE_CHECKING:
    from medfm_compress.compress.teachers.source import TeacherSource
    from medfm_compress.export.self_contained.build import SelfContained
    from medfm_compress.runtime.bundle.manifest import Manifest

Source = Annotated[
    Path,
    typer.Argument(help="Model folder, an .onnx file, or a .medfm file with --self-contained.", metavar="MODEL"),
]
StudyOfModel = Annotated[
    Path | None, typer.Option("--study", help=f"{STUDY_KINDS} Of a model folder or an .onnx file.", metavar="STUDY")
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
    images: Images = None,
    teacher_spec: TeacherSpec = None,
    teacher_labels: TeacherLabels = None,
    teacher_outputs: TeacherOutputs = None,
    self_contained: IsSelfContained = False,
    overwrite: Overwrite = False,
) -> None:
    """Export a model folder or an ONNX file to a bundle, its parity with the model checked and recorded.

    Validation cases of the study give the operating points. With --self-contained the bundle, or a finished one,
    becomes one ONNX file that preprocesses, predicts and decides.
    """
    check_file_out(out, ".onnx" if self_contained else ".medfm", overwrite)
    source = onnx_source(model, teacher_spec, teacher_labels, teacher_outputs)
    request = _Request(model, CaseSource(study, images), step, source)
    if not self_contained:
        _check_plain(options)
        manifest = _export(request, out)
        console.emit(lambda: manifest, lambda: _print_manifest(manifest, out, study, images))
        return
    written = _export_self_contained(request, options, out)
    console.emit(lambda: written, lambda: _print_self_contained(written, out))


class _Request(NamedTuple):
    """What is exported, with which cases, how, and what was said of an ONNX file."""

    model: Path
    cases: CaseSource
    step: ExportStep
    source: TeacherSource | None


def _export(request: _Request, out: Path) -> Manifest:
    from medfm_compress import steps

    model, cases, step, source = request
    if source is not None:
        return export_onnx_model(source, cases, step, console.progress, out)
    if cases.images is not None:
        raise InputError("--images goes with an .onnx file; give the study of a model folder with --study")
    if model.is_file():
        raise InputError(
            f"{model} is a file; give a model folder or an .onnx file, or export a bundle with --self-contained"
        )
    if cases.study is None:
        raise InputError("--study is missing; give the study whose validation cases decide the operating points")
    return steps.export(model, cases.study, step, "", "", console.progress, out)


def _export_self_contained(request: _Request, options: SelfContainedOptions, out: Path) -> SelfContained:
    from medfm_compress.export.self_contained.build import export_self_contained
    from medfm_compress.runtime.bundle.bundle import Bundle

    model = request.model
    if not model.is_dir() and request.source is None:
        if request.cases.study or request.cases.images or request.step != ExportStep():
            raise InputError(
                f"{model} is a bundle, whose thresholds and words are decided; leave --study, --rule, --images, "
                "--intended-use, --dicom-modality and the like out"
            )
        return export_self_contained(Bundle.open(model), options, out, console.progress)
    with scratch_folder("medfm-export-") as scratch:
        bundle = Path(scratch, f"{model.resolve().stem}.medfm")
        _export(request, bundle)
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


def _print_manifest(manifest: Manifest, out: Path, study: Path | None, images: Path | None) -> None:
    sizes = {member.path: member.bytes for member in manifest.members}
    rows = [[v.name, f"{sum(sizes[name] for name in v.files) / 1e6:.2f} MB"] for v in manifest.variants]
    console.table(["variant", "size"], rows)
    console.say(f"temperature {manifest.task.temperature:g}")
    for point in manifest.task.operating_points:
        console.say(f"{point.label}: threshold {point.threshold:.3f} by {point.rule} ({point.rates})")
    console.say(describe_accepted(manifest.image_spec))
    console.say(describe_colour_rule(manifest.image_spec))
    print_unlabelled(manifest)
    console.say(f"wrote {out}")
    if study is not None or images is not None:
        print_next(after_export(out, study, images))
