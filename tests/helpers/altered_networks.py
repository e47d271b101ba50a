"""A small quantized network with layers of many kinds, and copies of it in which one thing is altered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tiny_bundle as tiny
from msgspec.structs import replace
from onnx import TensorProto, helper, load_model_from_string, numpy_helper

from medfm_compress.runtime import golden_cases as goldens
from medfm_compress.runtime.bundle.manifest import Variant
from medfm_compress.runtime.sessions.onnxruntime import holds_integers
from medfm_compress.runtime.sessions.table import open_session_from_bytes

CHANNELS = 16


def network() -> bytes:
    """Conv, quantized Conv, Relu, Resize, LayerNormalization, a sum that is rounded, and a classifier.

    Its weights keep to ±64, so that every CPU multiplies them alike (see `runtime.sessions.instruction_sets`).
    """
    random = np.random.default_rng(0)
    constants = {
        "stem.weight": random.normal(size=(CHANNELS, 1, 3, 3)).astype(np.float32),
        "v_scale": np.float32(0.1),
        "v_zero": np.uint8(120),
        "v_zero_back": np.uint8(120),
        "block.conv.weight_quantized": random.integers(-64, 64, (CHANNELS, CHANNELS, 3, 3)).astype(np.int8),
        "block.conv.weight_scale": np.float32(0.002),
        "block.conv.weight_zero": np.int8(0),
        "block.conv.bias": random.normal(size=CHANNELS).astype(np.float32),
        "block.norm.weight": np.ones(64, np.float32),
        "block.norm.bias": np.zeros(64, np.float32),
        "scales": np.array([1, 1, 2, 2], np.float32),
        "s_scale": np.float32(0.2),
        "s_zero": np.uint8(128),
        "fc.weight": random.normal(size=(CHANNELS, 2)).astype(np.float32),
    }
    same = {"auto_pad": "SAME_UPPER"}
    nodes = [
        helper.make_node("Conv", ["image", "stem.weight"], ["v"], "stem", **same),
        helper.make_node("QuantizeLinear", ["v", "v_scale", "v_zero"], ["v_quantized"], "v_Q"),
        helper.make_node("DequantizeLinear", ["v_quantized", "v_scale", "v_zero_back"], ["v_dequantized"], "v_DQ"),
        helper.make_node(
            "DequantizeLinear",
            [f"block.conv.weight_{part}" for part in ("quantized", "scale", "zero")],
            ["block.conv.weight_dequantized"],
            "weight_DQ",
        ),
        helper.make_node(
            "Conv", ["v_dequantized", "block.conv.weight_dequantized", "block.conv.bias"], ["c"], "conv", **same
        ),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node(
            "Resize",
            ["r", "", "scales"],
            ["u"],
            "resize",
            mode="linear",
            coordinate_transformation_mode="half_pixel",
        ),
        helper.make_node(
            "LayerNormalization", ["u", "block.norm.weight", "block.norm.bias"], ["n"], "norm", axis=-1, epsilon=1e-5
        ),
        helper.make_node("Add", ["u", "n"], ["s"], "sum"),
        helper.make_node("QuantizeLinear", ["s", "s_scale", "s_zero"], ["s_quantized"], "s_Q"),
        helper.make_node("DequantizeLinear", ["s_quantized", "s_scale", "s_zero"], ["s_dequantized"], "s_DQ"),
        helper.make_node("GlobalAveragePool", ["s_dequantized"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("MatMul", ["f", "fc.weight"], ["logits"], "fc"),
    ]
    graph = helper.make_graph(
        nodes,
        "altered",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, tiny.SPEC.shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 2])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 19)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


def with_constant(content: bytes, name: str, change) -> bytes:
    """A copy in which the constant ``name`` is ``change`` of itself."""
    model = load_model_from_string(content)
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(change(numpy_helper.to_array(tensor))), name))
    return model.SerializeToString()


def with_attribute(content: bytes, node: str, name: str, value) -> bytes:
    """A copy in which one attribute of a node is ``value``."""
    model = load_model_from_string(content)
    (altered,) = [each for each in model.graph.node if each.name == node]
    kept = [attribute for attribute in altered.attribute if attribute.name != name]
    del altered.attribute[:]
    altered.attribute.extend([*kept, helper.make_attribute(name, value)])
    return model.SerializeToString()


def without_rounding(content: bytes, value: str) -> bytes:
    """A copy in which readers of ``value`` get it before it is rounded."""
    model = load_model_from_string(content)
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name == f"{value}_dequantized":
                node.input[place] = value
    kept = [node for node in model.graph.node if node.name not in (f"{value}_Q", f"{value}_DQ")]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model.SerializeToString()


def with_rounded_image(content: bytes) -> bytes:
    """A copy whose first layer gets the image in steps of 0.02."""
    model = load_model_from_string(content)
    model.graph.node[0].input[0] = "image_dequantized"
    ends = ["image_scale", "image_zero"]
    pair = [
        helper.make_node("QuantizeLinear", ["image", *ends], ["image_quantized"], "image_Q"),
        helper.make_node("DequantizeLinear", ["image_quantized", *ends], ["image_dequantized"], "image_DQ"),
    ]
    nodes = [*pair, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    for name, value in (("image_scale", np.float32(0.02)), ("image_zero", np.uint8(127))):
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return model.SerializeToString()


def renamed(content: bytes) -> bytes:
    """A copy in which no value but input and output has its name."""
    model = load_model_from_string(content)
    for node in model.graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name not in ("", "image", "logits"):
                    names[place] = f"other_{name}"
    for tensor in model.graph.initializer:
        tensor.name = f"other_{tensor.name}"
    return model.SerializeToString()


def variant(name: str, backend: str, files: tuple[str, ...], precision: str = "int8") -> Variant:
    """A variant that tolerates what is altered in it."""
    return replace(tiny.ORT, name=name, backend=backend, files=files, precision=precision, golden_tolerance=0.25)  # type: ignore[arg-type]


def write(path: Path, a: tuple[str, tuple[bytes, ...]], b: tuple[str, tuple[bytes, ...]]) -> Path:
    """A bundle with variants ``a`` and ``b``, each given as its backend and the contents of its files."""
    inputs = goldens.make_goldens(tiny.SPEC, count=2)
    members, logits, variants = {}, {}, []
    for name, (backend, contents) in (("a", a), ("b", b)):
        files = tuple(f"{name}{number}.bin" for number in range(len(contents)))
        precision = "int8" if len(contents) > 1 or holds_integers(contents[0]) else "fp32"
        variants.append(variant(name, backend, files, precision))
        members |= dict(zip(files, contents, strict=True))
        session = open_session_from_bytes(backend, list(contents), 1, precision)
        logits[name] = goldens.run_goldens(session, inputs)
    tiny.write(path, tuple(variants), members | goldens.golden_files(inputs, logits, tiny.SPEC))
    return path
