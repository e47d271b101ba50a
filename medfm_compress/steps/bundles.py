"""Steps that write a bundle: FP32 of a model folder, INT8 of a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medfm_compress.onnx_model import CaseSource, export_onnx_model
from medfm_compress.runtime.atomic_write import replacing
from medfm_compress.runtime.progress import Progress, no_progress
from medfm_compress.runtime.scratch_folder import scratch_folder
from medfm_compress.step_settings import ExportStep
from medfm_compress.steps.studies import open_cases_of

if TYPE_CHECKING:
    from medfm_compress.compress.networks.model import Model
    from medfm_compress.compress.quantization.options import QuantizeOptions
    from medfm_compress.compress.quantization.quantize_bundle import Quantized
    from medfm_compress.compress.teachers.open import TeacherSource
    from medfm_compress.runtime.bundle.manifest import Manifest


def export(
    model: Path, study: Path, step: ExportStep, name: str, recipe_sha256: str, progress: Progress, out: Path
) -> Manifest:
    """Write the FP32 bundle of a model folder, its parity with the module checked."""
    from medfm_compress.compress.anomaly.nearest_cases import load_nearest_cases
    from medfm_compress.compress.networks.heads import check_answers
    from medfm_compress.compress.networks.model import load_model
    from medfm_compress.compress.pruning.exported_sparsity import check_exported_sparsity
    from medfm_compress.compress.qat.ranges_file import load_ranges
    from medfm_compress.device_spec import device_spec
    from medfm_compress.export.build import BundleDraft, build_bundle
    from medfm_compress.runtime.bundle.manifest import Provenance

    loaded = load_model(model)
    check_answers(loaded.module, str(model))
    own = f"{loaded.name}@{loaded.weights_sha256()}"
    provenance = Provenance(
        teacher=loaded.provenance.teacher or own,
        teacher_licence=loaded.licence,
        student=own,
        study_fingerprint=loaded.provenance.study_fingerprint,
        steps=(*loaded.provenance.steps, *_intention(loaded)),
        recipe_sha256=recipe_sha256,
    )
    cases = open_cases_of(loaded.task, study, progress, loaded.spec.dicom)
    draft = BundleDraft(
        name=name or loaded.name,
        spec=device_spec(loaded.spec, step, cases, progress),
        task=loaded.task,
        provenance=provenance,
        intended_use=step.intended_use,
        false_refusal_rate=step.false_refusal_rate,
        heat_map=step.heat_map,
        columns=loaded.columns,
        nearest=load_nearest_cases(model),
    )
    with replacing(out) as temporary:
        manifest = build_bundle(
            loaded.module,
            draft,
            temporary,
            study=cases,
            rule=step.rule,
            progress=progress,
            ranges=load_ranges(model),
        )
        if sparse := check_exported_sparsity(model, temporary):
            progress(f"{len(sparse)} layers are 2:4 sparse, in the exported file as well")
    return manifest


def _intention(model: Model) -> tuple[str, ...]:
    """What the publisher of the teacher's weights says they are for, as a line of the bundle's provenance."""
    return (f"teacher's intended use: {model.intended_use}",) if model.intended_use else ()


def check_quantization(options: QuantizeOptions) -> None:
    """Raises InputError, before any work, where ``options`` ask for what no machine, or not this one, can be asked."""
    from medfm_compress.compress.quantization.targets import for_engines

    for_engines(options)


def quantize(
    cases: CaseSource,
    bundle: Path,
    options: QuantizeOptions,
    progress: Progress,
    out: Path,
    source: TeacherSource | None = None,
) -> Quantized:
    """Write a copy of a bundle with INT8 variants where they are faithful and faster.

    Args:
        cases: that calibrate and judge.
        bundle: or an ONNX file, of which an FP32 bundle is made first.
        options: see `QuantizeOptions`.
        progress: told what begins.
        out: the bundle to write.
        source: what was said of an ONNX file.
    """
    cases.check()
    from medfm_compress.compress.quantization.quantize_bundle import quantize_bundle
    from medfm_compress.compress.quantization.targets import for_engines
    from medfm_compress.runtime.bundle.bundle import Bundle

    engines = for_engines(options)  # refuses before any work what no machine, or not this one, can be asked
    with scratch_folder("medfm-onnx-") as scratch:
        if source is not None:
            bundle = Path(scratch, f"{bundle.stem}.medfm")
            export_onnx_model(source, cases, ExportStep(), progress, bundle)
        manifest = Bundle.open(bundle).manifest
        # Of an ONNX file they were opened before, and what is said of them was said then.
        study = cases.open(manifest.task, manifest.image_spec, progress if source is None else no_progress)
        return quantize_bundle(bundle, study, out, engines, progress)
