"""A bundle with one network in INT8 for both engines, each with the placement that it wants, from one calibration.

``openvino-cpu-int8-same-graph`` is ONNX Runtime's INT8 graph in OpenVINO, and ``-bf16`` the INT8 file with its float
part in bf16.

python difference_pair.py TIMM_NAME STUDY OUT.medfm [WEIGHTS.safetensors]

Without weights they are drawn with seed 0. The study must be binary, in colour, and have training cases. Nothing is
searched for: both variants are the default candidate, which is what `explain-difference` is tried on.
"""

from __future__ import annotations

import sys
from pathlib import Path

from medfm_compress.compress.networks.build import build_model
from medfm_compress.compress.quantization.build_candidate import GraphBuilder
from medfm_compress.compress.quantization.calibrate import calibrate
from medfm_compress.compress.quantization.methods import Method
from medfm_compress.data.open import open_study
from medfm_compress.export.build import bundle_files, make_variant, open_export
from medfm_compress.export.cases import network_inputs, sample_cases
from medfm_compress.export.onnx_export import export_onnx
from medfm_compress.export.openvino_ir import to_openvino_ir
from medfm_compress.runtime.bundle.bundle import utc_date, write_bundle
from medfm_compress.runtime.bundle.manifest import NOT_FOR_CLINICAL_USE, Manifest, Provenance, Tensor
from medfm_compress.runtime.task import Task

CASES = 32
SIZE_PX = 224


def main(name: str, study_path: str, out: str, weights: str = "") -> None:
    """Export, calibrate, quantize twice and write the bundle."""
    import torch

    torch.manual_seed(0)
    study = open_study(study_path)
    task = Task(kind=study.kind, labels=study.labels)
    model = build_model(name, task, size_px=SIZE_PX, colour="rgb", weights=Path(weights) if weights else None)
    onnx = export_onnx(model.module, model.spec, task).content
    inputs = network_inputs(study, sample_cases(study, "train", CASES, 0), model.spec)
    builder = GraphBuilder(onnx, calibrate(onnx, [inputs]), inputs)
    files = {backend: builder.build(backend, Method()) for backend in ("openvino", "onnxruntime")}
    int8 = make_variant("openvino", "int8")
    exports = [
        open_export(make_variant("openvino", "fp32"), tuple(to_openvino_ir(onnx))),
        open_export(make_variant("onnxruntime", "fp32"), (onnx,)),
        open_export(int8, files["openvino"]),
        open_export(make_variant("openvino", "int8-bf16", files=int8.files), files["openvino"]),
        open_export(
            make_variant("openvino", "int8", qualifier="same-graph"), tuple(to_openvino_ir(files["onnxruntime"][0]))
        ),
        open_export(make_variant("onnxruntime", "int8"), files["onnxruntime"]),
    ]
    manifest = Manifest(
        schema_version=0,
        name=name,
        task=task,
        image_spec=model.spec,
        inputs=(Tensor(name="image", role="image", shape=model.spec.shape),),
        outputs=(Tensor(name="logits", role="logits", shape=(1, len(task.labels))),),
        variants=tuple(export.variant for export in exports),
        members=(),
        provenance=Provenance(teacher=name, date=utc_date()),
        intended_use=NOT_FOR_CLINICAL_USE,
        model_digest="",
    )
    write_bundle(out, manifest, bundle_files(tuple(exports), model.spec))


if __name__ == "__main__":
    main(*sys.argv[1:])
