"""The networks of the GPU experiments as ONNX files: FP32, INT8 in TensorRT's form, and a ViT with outlier channels.

    python experiments/gpu/graphs.py OUT [--tiny]

Weights are seeded, not trained: the batch normalisations see a few images before they are frozen, and the stressed ViT
gets outlier channels by a transform that leaves its function alone (`outlier_stress`). So latency and build behaviour
are those of the real architectures; how faithful a precision is on trained weights is not shown by them.

For each network OUT receives ``NAME.fp32.onnx``, ``NAME.int8.onnx`` (constants are INT8 and stand directly before their
DequantizeLinear), ``NAME.int8-float-weights.onnx`` (the same numbers as float → Q → DQ, for parsers that take no INT8
constant), ``NAME.logits.npy`` (FP32 in ONNX Runtime on the CPU, the reference) and once ``cases.npy``. The batch is
dynamic and the opset 17, the newest that TensorRT 8.6 reads.
"""

from __future__ import annotations

import argparse
import io
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
from medfm_compress.export.passes.pipeline import simplify
from medfm_compress.runtime.golden_cases import make_goldens
from medfm_compress.runtime.image_spec import ImageSpec

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


def quantize(content: bytes, images: NDArray[np.float32]) -> bytes:
    """INT8 as TensorRT wants it: symmetric, per-channel weights, pairs on the inputs of every product."""
    statistics = calibrate(content, [images[number : number + 1] for number in range(len(images))])
    ranges = estimate_ranges(statistics, "minmax", symmetric=True)
    model = read(content)
    return write(write_qdq(model, placement_tensorrt.place(model), ranges))


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


def main() -> None:
    """Write everything; a network that is there already is left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tiny", action="store_true")
    request = parser.parse_args()
    request.out.mkdir(parents=True, exist_ok=True)
    images, calibration = cases(CASES, seed=2), cases(CASES, seed=3)
    np.save(request.out / "cases.npy", images)
    for name in TINY if request.tiny else NETWORKS:
        if (request.out / f"{name}.logits.npy").exists():
            continue
        start = time.monotonic()
        content = export(build(name))
        forms = {name: content}
        if name.startswith("vit"):
            forms[name + STRESSED] = write(stress(read(content)))
        for form, fp32 in forms.items():
            int8 = quantize(fp32, calibration)
            (request.out / f"{form}.fp32.onnx").write_bytes(fp32)
            (request.out / f"{form}.int8.onnx").write_bytes(int8)
            (request.out / f"{form}.int8-float-weights.onnx").write_bytes(with_float_weights(int8))
            np.save(request.out / f"{form}.int8-cpu.npy", logits(int8, images))
            np.save(request.out / f"{form}.logits.npy", logits(fp32, images))
        sys.stdout.write(f"{name}: {time.monotonic() - start:.0f} s\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
