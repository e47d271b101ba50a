"""FP16 with islands in FP32: naive, ModelOpt AutoCast, ours, on networks with and without outlier channels.

    python experiments/float32_islands.py OUT.json --autocast ENVIRONMENTS/modelopt/bin/python

FP16 is emulated on the CPU with products that accumulate in FP32 (`float16_emulation`). Networks are seeded, at 128 px;
outlier channels come from a transform that leaves the function alone (`outlier_stress`). Islands are chosen on
`CALIBRATION` cases and judged on `CASES` others; AutoCast gets the same calibration cases. Rows in OUT stay.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import timm
import torch
from numpy.typing import NDArray
from torch import nn

from acceptance.accept import Accepted, NotInstalled, accept
from medfm_compress.compress.quantization.float16_emulation import emulated, run
from medfm_compress.compress.quantization.float32_islands import LIMIT, find_islands
from medfm_compress.compress.quantization.outlier_stress import stress
from medfm_compress.export.onnx_export import export_onnx
from medfm_compress.export.passes.half_precision import float_nodes, to_half
from medfm_compress.export.passes.read import read_graph
from medfm_compress.runtime.golden_cases import make_goldens, relative_logit_error
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.task import Task

SIDE_PX = 128
TASK = Task(kind="multilabel", labels=tuple(f"finding {number}" for number in range(14)))
SPEC = ImageSpec(height_px=SIDE_PX, width_px=SIDE_PX, colour="rgb", mean=(0.5,) * 3, std=(0.25,) * 3)
NETWORKS: dict[str, dict[str, Any]] = {
    "vit_small_patch16_224": {"img_size": SIDE_PX},
    "deit_small_distilled_patch16_224": {"img_size": SIDE_PX},
    "swin_tiny_patch4_window7_224": {"img_size": SIDE_PX, "window_size": 4},
    "convnext_tiny": {},
    "densenet121": {},
}
FACTORS = (30_000.0, 3_000.0, 30.0, 1.0)  # of the outlier channels; the first leaves FP16
CALIBRATION, CASES = 4, 16


def build(name: str) -> nn.Module:
    """A seeded network in eval mode whose batch normalisations have seen images, and whose head is not zero."""
    torch.manual_seed(0)
    module = timm.create_model(name, num_classes=len(TASK.labels), **NETWORKS[name])
    heads = module.get_classifier()
    for head in heads if isinstance(heads, tuple) else (heads,):
        nn.init.normal_(head.weight, std=0.05)
    module.train()
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.momentum = None
    with torch.no_grad():
        module(torch.from_numpy(make_goldens(SPEC, 16, 1).astype(np.float32)))
    frozen: nn.Module = module.eval()
    return frozen


def serialise(model: ir.Model) -> bytes:
    """The ONNX file's content."""
    return bytes(ir.to_proto(model).SerializeToString())


def judged(content: bytes, images: NDArray[np.float32], reference: NDArray[np.float32]) -> dict[str, Any]:
    """Error of an FP16 file in emulation, its float nodes in FP32, its casts, and TensorRT's verdict."""
    model = read_graph(content)
    half = ir.DataType.FLOAT16
    computing = [node for node in model.graph if node.op_type not in ("Cast", "Constant")]
    in_half = [node for node in computing if any(value.dtype == half for value in node.outputs)]
    in_single = [node for node in computing if any(value.dtype == ir.DataType.FLOAT for value in node.outputs)]
    error = relative_logit_error(run(emulated(model), images), reference, TASK)
    casts = sum(node.op_type == "Cast" for node in model.graph)
    return {"relative_logit_error": error if np.isfinite(error) else "inf", "fp16_nodes": len(in_half),
            "fp32_nodes": len(in_single), "casts": casts, "tensorrt": verdict(content)}  # fmt: skip


def verdict(content: bytes) -> str:
    """Whether TensorRT-RTX builds it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        path.write_bytes(content)
        try:
            outcome = accept(path)
        except NotInstalled:
            return "not asked"
    return "accepted" if isinstance(outcome, Accepted) else f"refused: {outcome.sentence}"


def autocast(python: str, content: bytes, images: NDArray[np.float32]) -> bytes:
    """What AutoCast makes of the FP32 file."""
    script = Path(__file__).with_name("peers") / "modelopt_autocast.py"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.onnx").write_bytes(content)
        np.savez(folder / "calibration.npz", image=images)
        paths = [str(folder / file) for file in ("model.onnx", "calibration.npz", "out.onnx")]
        subprocess.run([python, "-W", "ignore", str(script), *paths], check=True, capture_output=True, text=True)
        return (folder / "out.onnx").read_bytes()


def row(name: str, factor: float, peer: str | None) -> dict[str, Any]:
    """All forms of one network."""
    content = export_onnx(build(name), SPEC, TASK).content
    model = read_graph(content)
    if factor != 1:
        model = read_graph(serialise(stress(model, factor)))
    content = serialise(model)
    calibration, images = (
        make_goldens(SPEC, count, seed).astype(np.float32) for count, seed in ((CALIBRATION, 2), (CASES, 3))
    )
    reference = run(model, images)
    line: dict[str, Any] = {
        "network": name,
        "factor": factor,
        "limit": LIMIT,
        "float_nodes": len(float_nodes(model.graph)),
    }
    line["naive"] = judged(serialise(to_half(model, "fp16")[0]), images, reference)
    if peer:
        start = time.monotonic()
        try:
            line["autocast"] = judged(autocast(peer, content, calibration), images, reference)
        except subprocess.CalledProcessError as exc:
            line["autocast"] = {"failed": exc.stderr.strip().splitlines()[-1][:300]}
        line["autocast"]["seconds"] = round(time.monotonic() - start, 1)
    start = time.monotonic()
    islands = find_islands(model, calibration, TASK)
    seconds = round(time.monotonic() - start, 1)
    written, _ = to_half(model, "fp16", islands.keep)
    line["ours"] = {**judged(serialise(written), images, reference), "runs": islands.runs, "seconds": seconds,
                    "kept": len(islands.keep), "overflowing": len(islands.overflowing), "limit": islands.limit,
                    "operators": _operators(model, islands.keep)}  # fmt: skip
    return line


def _operators(model: ir.Model, keep: tuple[str, ...]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for node in model.graph:
        if node.name in keep:
            counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return counts


def main() -> None:
    """Add the rows that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--autocast", help="the Python of ModelOpt's environment")
    request = parser.parse_args()
    known = json.loads(request.out.read_text()) if request.out.exists() else {"rows": []}
    for factor in FACTORS:
        for name in NETWORKS:
            if any((line["network"], line["factor"]) == (name, factor) for line in known["rows"]):
                continue
            known["rows"].append(row(name, factor, request.autocast))
            request.out.write_text(json.dumps(known, indent=1) + "\n")
            sys.stdout.write(json.dumps(known["rows"][-1])[:900] + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
