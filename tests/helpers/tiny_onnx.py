"""ONNX files of a tiny classifier in the forms that users have: built by hand, so that they cost nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.strict_json import encode

SIDE = 16
SPEC = ImageSpec(height_px=SIDE, width_px=SIDE, colour="rgb", mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))


def make(
    *,
    ending: Sequence[str] = (),
    outputs: int = 3,
    batch: int | str = "n",
    sides: tuple[int | str, int | str] = (SIDE, SIDE),
    nhwc: bool = False,
    dtype: int = TensorProto.FLOAT,
    opset: int = 17,
    before: Sequence[onnx.NodeProto] = (),
    image: str = "x",
    first: str = "",
) -> onnx.ModelProto:
    """Convolution, ReLU, mean and a linear layer; ``first`` is what the convolution reads, made by ``before``."""
    random = np.random.default_rng(0)
    kind = {TensorProto.FLOAT: np.float32, TensorProto.FLOAT16: np.float16, TensorProto.DOUBLE: np.float64}[dtype]
    weights = {
        "w0": random.normal(0, 0.3, (8, 3, 3, 3)),
        "b0": random.normal(0, 0.3, 8),
        "w1": random.normal(0, 1, (8, outputs)),
    }
    read = first or image
    nodes = [*before]
    if nhwc:
        nodes.append(helper.make_node("Transpose", [read], ["nchw"], perm=[0, 3, 1, 2]))
        read = "nchw"
    nodes += [
        helper.make_node("Conv", [read, "w0", "b0"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("MatMul", ["f", "w1"], ["z0"], "head"),
    ]
    nodes += [helper.make_node(kind, [f"z{i}"], [f"z{i + 1}"]) for i, kind in enumerate(ending)]
    shape = [batch, *sides, 3] if nhwc else [batch, 3, *sides]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(image, dtype, shape)],
        [helper.make_tensor_value_info(f"z{len(ending)}", dtype, [batch, outputs])],
        [numpy_helper.from_array(value.astype(kind), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9, producer_name="hand")


def write(path: Path, model: onnx.ModelProto | None = None, spec: ImageSpec | None = SPEC) -> str:
    """Save a model, and beside it ``….spec.json`` unless there is no ``spec``; the path of the model."""
    onnx.save(model or make(), path)
    if spec is not None:
        path.with_suffix(".spec.json").write_bytes(encode(spec))
    return str(path)


def draw_images(folder: Path, count: int, *, grey: bool = False) -> Path:
    """PNG files of noise of different brightness."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(1)
    for number in range(count):
        shape = (40, 40) if grey else (40, 40, 3)
        pixels = (random.integers(0, 100, shape) + 12 * (number % 12)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    return folder
