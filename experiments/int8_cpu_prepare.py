"""What everybody starts from: plain FP32 graphs of batch 1 and 8, and the inputs.

python int8_cpu_prepare.py FOLDER STUDY.csv WORK CALIBRATION_CASES VALIDATION_CASES

FOLDER is a model folder, or one of `real_weights`, which brings its own graphs and cases. A model folder's graphs are
what torch's exporter writes, with none of the passes of `export`.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from int8_cpu_network import FILE, MOST_MEASURED, REAL, TRAINED_BRIEFLY, Network

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


def main(folder: str, study_path: str, work: str, calibration: str, validation: str) -> None:
    """Write whatever is not there yet."""
    out = Path(work)
    out.mkdir(parents=True, exist_ok=True)
    if (out / FILE).is_file():
        return
    if (Path(folder) / REAL).is_file():
        about = from_real_weights(Path(folder), out)
    else:
        about = from_model_folder(Path(folder), Path(study_path), out, (int(calibration), int(validation)))
    (out / FILE).write_bytes(msgspec.json.encode(about))


def from_model_folder(folder: Path, study_path: Path, out: Path, counts: tuple[int, int]) -> Network:
    """A network that `int8_cpu_models.sh` trained: exported here, with so many cases of each side of its study."""
    import torch

    from medfm_compress.compress.networks.model import load_model
    from medfm_compress.data.open import open_study
    from medfm_compress.export.cases import network_inputs, sample_cases

    model, study = load_model(str(folder)), open_study(study_path)
    with torch.no_grad():
        for batch in BATCHES:
            plain_graph(model.module, (batch, *model.spec.shape[1:]), out / f"plain-b{batch}.onnx")
    sides = [
        network_inputs(study, sample_cases(study, split, count, 0), model.spec)
        for split, count in zip(("train", "val"), counts, strict=True)
    ]
    shape, outputs = model.spec.shape[1:], write_inputs(out, *sides)
    return Network(
        name=folder.name, kind=model.task.kind, shape=shape, outputs=outputs, module=str(folder),
        weights=TRAINED_BRIEFLY,
    )  # fmt: skip


def from_real_weights(folder: Path, out: Path) -> Network:
    """A network of `real_weights`, which has its graphs and its cases already."""
    about = json.loads((folder / REAL).read_text())
    for batch in BATCHES:
        shutil.copy(folder / ("model.onnx" if batch == 1 else f"model-b{batch}.onnx"), out / f"plain-b{batch}.onnx")
    cases = np.load(folder / "cases.npz")
    outputs = write_inputs(out, cases["calibration"], cases["validation"])
    module = folder / "eager.pt2"
    return Network(
        name=folder.name, kind=about["kind"], shape=cases["validation"].shape[1:], outputs=outputs,
        module=str(module) if module.is_file() else "", weights=about["package"],
        agreement=about["agreement"],
    )  # fmt: skip


def write_inputs(out: Path, calibration: NDArray[np.float32], validation: NDArray[np.float32]) -> int:
    """Write what calibrates, judges and is timed; how many logits one case has."""
    import onnxruntime

    session = onnxruntime.InferenceSession(out / "plain-b1.onnx", providers=["CPUExecutionProvider"])
    outputs = int(session.run(None, {"image": validation[:1]})[0].size)
    np.savez(out / "calibration.npz", image=calibration)
    np.savez(out / "calibration-few.npz", image=calibration[:FEW])
    for batch in BATCHES:
        np.save(out / f"image-b{batch}.npy", calibration[:batch])
    np.save(out / "validation.npy", validation[: MOST_MEASURED // outputs])
    return outputs


if __name__ == "__main__":
    main(*sys.argv[1:])
