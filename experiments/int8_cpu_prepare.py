"""What everybody starts from: plain FP32 graphs of batch 1 and 8, the stressed graph, and the inputs.

python int8_cpu_prepare.py MODEL_FOLDER STUDY.csv WORK CALIBRATION_CASES VALIDATION_CASES

The plain graphs are what torch's exporter writes, with none of the passes of `export`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

OPSET = 20
BATCHES = (1, 8)
FEW = 16


def plain_graph(module: Any, shape: tuple[int, ...], path: Path) -> None:
    """Export ``module`` as torch does it by itself, weights inside."""
    import onnx
    import torch

    program = torch.onnx.export(
        module, (torch.zeros(shape),), dynamo=True, input_names=["image"], output_names=["logits"],
        opset_version=OPSET, verbose=False, optimize=True,
    )  # fmt: skip
    proto = program.model_proto  # type: ignore[union-attr]
    del proto.metadata_props[:]
    for node in proto.graph.node:
        del node.metadata_props[:]
    onnx.save(proto, path)


def stress_graph(source: Path, out: Path) -> str:
    """Write the same function with outlier channels; the reason where the network has no place for them."""
    import onnx_ir as ir

    from medfm_compress.compress.quantization.outlier_stress import stress
    from medfm_compress.runtime.errors import InputError

    try:
        stressed = stress(ir.load(source))
    except InputError as exc:
        return str(exc)
    ir.save(stressed, out)
    return ""


def main(folder: str, study_path: str, work: str, calibration: str, validation: str) -> None:
    """Write whatever is not there yet."""
    import torch

    from medfm_compress.compress.networks.model import load_model
    from medfm_compress.data.open import open_study
    from medfm_compress.export.cases import network_inputs, sample_cases

    out = Path(work)
    out.mkdir(parents=True, exist_ok=True)
    model, study = load_model(folder), open_study(Path(study_path))
    with torch.no_grad():
        for batch in BATCHES:
            path = out / f"plain-b{batch}.onnx"
            if not path.is_file():
                plain_graph(model.module, (batch, *model.spec.shape[1:]), path)
    if not (out / "validation.npy").is_file():
        images = network_inputs(study, sample_cases(study, "train", int(calibration), 0), model.spec)
        np.savez(out / "calibration.npz", image=images)
        np.savez(out / "calibration-few.npz", image=images[:FEW])
        for batch in BATCHES:
            np.save(out / f"image-b{batch}.npy", images[:batch])
        np.save(
            out / "validation.npy", network_inputs(study, sample_cases(study, "val", int(validation), 0), model.spec)
        )
    if not (out / "stress-b1.onnx").is_file() and not (out / "stress.txt").is_file():
        reason = stress_graph(out / "plain-b1.onnx", out / "stress-b1.onnx")
        if reason:
            (out / "stress.txt").write_text(reason)


if __name__ == "__main__":
    main(*sys.argv[1:])
