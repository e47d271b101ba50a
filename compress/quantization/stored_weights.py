"""How many bits the stored weights of a quantized file really use, read from the file and not from what made it.

A weight is an integer constant behind a dequantization, ``w = s · (q − z)``. U8 × S8 products are summed in pairs in 16
bits on CPUs without VNNI: ``2 · 255 · |q − z| < 2¹⁵`` holds up to 64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfm_compress.export.passes.read import parse_onnx
from medfm_compress.runtime.sessions.openvino import import_openvino

REDUCED_LIMIT = 64

_LAYERS = ("MatMul", "Gemm", "Conv", "ConvTranspose")
_OPERATORS = ("MatMul", "Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData")
_VIEWS = ("Reshape", "Transpose", "Convert")


def largest_weight(contents: Sequence[bytes]) -> float:
    """The largest ``|q − z|`` of an ONNX file's or an IR's quantized layers.

    ``inf`` where a quantized layer has no stored integers, so that nothing can be said; 0 where no layer is quantized.

    Args:
        contents: one ``.onnx``, or ``.xml`` and ``.bin``.
    """
    sizes = _of_onnx(contents[0]) if len(contents) == 1 else _of_ir(contents)
    return max(sizes, default=0.0)


def _size(stored: NDArray[Any], zero_point: NDArray[Any] | None) -> float:
    values = stored.astype(np.int64)
    return float(np.abs(values if zero_point is None else values - zero_point.astype(np.int64)).max(initial=0))


def _of_onnx(content: bytes) -> Iterator[float]:
    from onnx import numpy_helper

    graph = parse_onnx(content).graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type not in _LAYERS or node.domain not in ("", "ai.onnx"):
            continue
        operands = [makers.get(name) for name in node.input[:2]]
        quantized = [maker for maker in operands if maker is not None and maker.op_type == "DequantizeLinear"]
        if len(quantized) < 2:
            continue  # it computes in float
        weights = [maker for maker in quantized if maker.input[0] in constants]
        if not weights:
            yield math.inf
        for maker in weights:
            stored = numpy_helper.to_array(constants[maker.input[0]])
            point = maker.input[2] if len(maker.input) > 2 else ""
            zero_point = numpy_helper.to_array(constants[point]) if point in constants else None
            yield _size(stored, _along(zero_point, stored, maker))


def _along(zero_point: NDArray[Any] | None, stored: NDArray[Any], maker: Any) -> NDArray[Any] | None:
    """A zero point a channel, with the axes of ``stored``."""
    if zero_point is None or zero_point.ndim != 1 or zero_point.size == 1:
        return zero_point
    axis = next((attribute.i for attribute in maker.attribute if attribute.name == "axis"), 1) % stored.ndim
    return zero_point.reshape([-1 if number == axis else 1 for number in range(stored.ndim)])


def _of_ir(contents: Sequence[bytes]) -> Iterator[float]:
    model = import_openvino().Core().read_model(*contents)
    for operator in model.get_ordered_ops():
        if operator.get_type_name() not in _OPERATORS:
            continue
        operands = [operator.input_value(slot).get_node() for slot in range(2)]
        kinds = [_kind(node) for node in operands]
        if "float" in kinds:
            continue  # it computes in float
        weights = [node for node, kind in zip(operands, kinds, strict=True) if kind == "weight"]
        if not weights:
            yield math.inf
        yield from map(_stored_size, weights)


def _kind(node: Any) -> str:
    """What an operand is: ``activation`` behind a FakeQuantize, ``weight`` of stored integers, or ``float``."""
    while node.get_type_name() in _VIEWS:
        node = node.input_value(0).get_node()
    if node.get_type_name() == "FakeQuantize":
        return "activation"
    return "weight" if node.get_type_name() == "Multiply" and _integers(node) is not None else "float"


def _stored_size(node: Any) -> float:
    while node.get_type_name() in _VIEWS:
        node = node.input_value(0).get_node()
    integers = _integers(node)
    return math.inf if integers is None else _size(*integers)


def _integers(multiply: Any) -> tuple[NDArray[Any], NDArray[Any] | None] | None:
    """The integers and zero points behind ``s · (convert(q) − z)``; None where there are none."""
    node, zero_point = multiply.input_value(0).get_node(), None
    if node.get_type_name() == "Subtract":
        point = node.input_value(1).get_node()
        point = point.input_value(0).get_node() if point.get_type_name() == "Convert" else point
        if point.get_type_name() != "Constant":
            return None
        node, zero_point = node.input_value(0).get_node(), point.data
    source = node.input_value(0).get_node() if node.get_type_name() == "Convert" else None
    if source is None or source.get_type_name() != "Constant" or source.data.dtype.kind not in "iu":
        return None
    return source.data, zero_point
