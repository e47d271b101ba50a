"""The networks of the GPU experiments as ONNX files: FP32, INT8 in TensorRT's form, and a ViT with outlier channels.

    python experiments/gpu/graphs.py OUT REPORT.json [--tiny]

Weights are seeded, not trained: the batch normalisations see a few images before they are frozen, and the stressed ViT
gets outlier channels by a transform that leaves its function alone (`outlier_stress`). So latency and build behaviour
are those of the real architectures; how faithful a precision is on trained weights is not shown by them.

For each network OUT receives ``NAME.fp32.onnx``, ``NAME.int8.onnx`` (constants are INT8 and stand directly before their
DequantizeLinear), ``NAME.int8-smooth.onnx`` (SmoothQuant before), both also as ``…-float-weights.onnx`` (the same
numbers as float → Q → DQ, for parsers that take no INT8 constant), ``NAME.logits.npy`` (FP32 in ONNX Runtime on the
CPU, the reference) and once ``cases.npy``. The batch is dynamic and the opset 17, the newest that TensorRT 8.6 reads.
REPORT.json has how far the INT8 forms are from FP32 on this CPU, which an engine should come close to.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import timm
import torch
from numpy.typing import NDArray
from torch import nn

from medfm_compress.compress.quantization import placement_tensorrt
from medfm_compress.compress.quantization.calibrate import calibrate
from medfm_compress.compress.quantization.outlier_stress import stress
from medfm_compress.compress.quantization.qdq import write_qdq
from medfm_compress.compress.quantization.range_estimators import estimate_ranges
from medfm_compress.compress.quantization.smoothquant import smooth
from medfm_compress.export.passes.pipeline import simplify
from medfm_compress.runtime.golden_cases import make_goldens
from medfm_compress.runtime.image_spec import ImageSpec
from trt_run import relative_error

NETWORKS = ("vit_small_patch16_224", "resnet50", "densenet121")
TINY = ("vit_tiny_patch16_224", "resnet10t")
OPSET = 17
LABELS = 14
CASES = 64
STRESSED = "-stressed"


def build(name: str) -> nn.Module:
    """A seeded network in eval mode whose batch normalisations have seen images."""
    torch.manual_seed(0)
    timm.layers.set_fused_attn(False)
    module = timm.create_model(name, num_classes=LABELS)
    nn.init.normal_(module.get_classifier().weight, std=0.05)  # timm's ViT starts with a head of zeros
    module.train()
    images = torch.from_numpy(cases(16, seed=1))
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.momentum = None  # a plain average
        module(images)
    frozen: nn.Module = module.eval()
    return frozen


def cases(count: int, seed: int) -> NDArray[np.float32]:
    """Normalised images ``[count, 3, 224, 224]`` of band-limited noise."""
    spec = ImageSpec(height_px=224, width_px=224, colour="rgb", mean=(0.5,) * 3, std=(0.25,) * 3)
    return make_goldens(spec, count, seed)


def export(module: nn.Module) -> bytes:
    """ONNX with a dynamic batch, opset 17, from the TorchScript exporter, after the portable passes."""
    buffer = io.BytesIO()
    axes = {"image": {0: "batch"}, "logits": {0: "batch"}}
    names: dict[str, Any] = {"input_names": ["image"], "output_names": ["logits"], "dynamic_axes": axes}
    example = (torch.zeros(1, 3, 224, 224),)
    torch.onnx.export(module, example, buffer, dynamo=False, opset_version=OPSET, **names)  # type: ignore[arg-type]
    model = read(buffer.getvalue())
    simplify(model)
    return write(model)


def read(content: bytes) -> ir.Model:
    """The graph of a serialized model."""
    import onnx

    return ir.from_proto(onnx.load_model_from_string(content))


def write(model: ir.Model) -> bytes:
    """The serialized form of a graph."""
    return bytes(ir.to_proto(model).SerializeToString())


def quantize(content: bytes, images: NDArray[np.float32]) -> dict[str, bytes]:
    """INT8 as TensorRT wants it: symmetric, per-channel weights, pairs on the inputs of every product.

    Returns:
        ``int8`` with the extremes as ranges, and ``int8-smooth`` with outlier channels moved into weights before.
    """
    statistics = calibrate(content, [images[number : number + 1] for number in range(len(images))])
    smoothed = smooth(read(content), statistics, inputs=images[:16])
    forms = {"int8": (read(content), statistics), "int8-smooth": (smoothed.model, smoothed.statistics)}
    return {
        form: write(write_qdq(model, placement_tensorrt.place(model), estimate_ranges(known, "minmax", symmetric=True)))
        for form, (model, known) in forms.items()
    }


def with_float_weights(content: bytes) -> bytes:
    """The same numbers with every INT8 constant as float → QuantizeLinear → DequantizeLinear."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load_model_from_string(content)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in constants:
            values, scale = (numpy_helper.to_array(constants[name]) for name in node.input[:2])
            if values.dtype == np.int8:
                axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
                shape = [-1 if number == axis else 1 for number in range(values.ndim)] if scale.ndim else []
                floats = (values * scale.reshape(shape)).astype(np.float32)
                name = f"{node.input[0]}_float"
                model.graph.initializer.append(numpy_helper.from_array(floats, name))
                before = helper.make_node("QuantizeLinear", [name, *node.input[1:]], [f"{name}_q"], name=f"{name}_q")
                before.attribute.extend(node.attribute)
                nodes.append(before)
                node.input[0] = f"{name}_q"
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return bytes(model.SerializeToString())


def logits(content: bytes, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """What ONNX Runtime on the CPU makes of ``images``, ``[n, labels]``."""
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"image": images[start : start + 8]})[0] for start in range(0, CASES, 8)])


def write_forms(out: Path, name: str, fp32: bytes, calibration: NDArray[np.float32]) -> list[dict[str, Any]]:
    """Every form of one network into ``out``; a row for each INT8 form on the CPU."""
    images = np.load(out / "cases.npy")
    reference, rows = logits(fp32, images), []
    (out / f"{name}.fp32.onnx").write_bytes(fp32)
    for form, int8 in quantize(fp32, calibration).items():
        (out / f"{name}.{form}.onnx").write_bytes(int8)
        (out / f"{name}.{form}-float-weights.onnx").write_bytes(with_float_weights(int8))
        actual = logits(int8, images)
        row = {"network": name, "form": form, "fp32_bytes": len(fp32), "int8_bytes": len(int8)}
        row["relative_logit_error"] = relative_error(actual, reference)
        row["same_argmax"] = float((actual.argmax(1) == reference.argmax(1)).mean())
        rows.append({**row, "same_decisions": float(((actual > 0) == (reference > 0)).mean())})
    np.save(out / f"{name}.logits.npy", reference)
    return rows


def main() -> None:
    """Write everything; a network that is there already is left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("report", type=Path)
    parser.add_argument("--tiny", action="store_true")
    request = parser.parse_args()
    request.out.mkdir(parents=True, exist_ok=True)
    np.save(request.out / "cases.npy", cases(CASES, seed=2))
    calibration = cases(CASES, seed=3)
    rows: list[dict[str, Any]] = json.loads(request.report.read_text())["rows"] if request.report.exists() else []
    for name in TINY if request.tiny else NETWORKS:
        last = name + STRESSED if name.startswith("vit") else name
        if (request.out / f"{last}.logits.npy").exists():
            continue
        start = time.monotonic()
        fp32 = export(build(name))
        rows += write_forms(request.out, name, fp32, calibration)
        if last != name:
            rows += write_forms(request.out, last, write(stress(read(fp32))), calibration)
        request.report.write_text(json.dumps({"onnxruntime": onnxruntime.__version__, "rows": rows}, indent=1))
        sys.stdout.write(f"{name}: {time.monotonic() - start:.0f} s\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
