"""The model that NNCF gets of an ONNX graph, and the files of what it gives back; OpenVINO's or ONNX's own."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfm_compress.compress.quantization.unsigned_activations import make_unsigned
from medfm_compress.compress.quantization.weights import add_initializer, constant
from medfm_compress.export import openvino_ir
from medfm_compress.export.passes.read import parse_onnx
from medfm_compress.runtime.bundle.manifest import Backend
from medfm_compress.runtime.errors import ModelError

_PRODUCTS = ("MatMul", "Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData")

_WITHOUT_BIAS = "/WithoutBiases"


def read_model(onnx: bytes, backend: Backend) -> Any:
    """An ``openvino.Model`` or an ``onnx.ModelProto``.

    As OpenVINO reads a graph, biases lie behind reshapes, where NNCF's bias correction finds none: they are folded.
    OpenVINO's converter would also fuse attention, whose inputs NNCF then quantizes in a way that its kernel does not
    compute.
    """
    if backend != "openvino":
        return parse_onnx(onnx)
    from openvino.passes import ConstantFolding, Manager

    model = openvino_ir.read_onnx(onnx)
    folding = Manager()
    folding.register_pass(ConstantFolding())
    folding.run_passes(model)
    return model


def write_model(model: Any) -> tuple[bytes, ...]:
    """The contents of an IR's two files, or of one ``.onnx``; the same bytes for the same model."""
    if hasattr(model, "get_ordered_ops"):
        return tuple(openvino_ir.serialise(model))
    import onnx_ir as ir
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    named = ir.from_proto(model)
    named.metadata_props.clear()
    make_unsigned(named)
    flatten_scales(named)
    RemoveUnusedNodesPass()(named)
    content: bytes = ir.serde.to_proto(named).SerializeToString(deterministic=True)
    return (content,)


def flatten_scales(model: Any) -> None:
    """Give every DequantizeLinear of one scale a channel scales of one axis, in place; NNCF's of a Conv have more."""
    for node in model.graph:
        if node.op_type != "DequantizeLinear" or "block_size" in node.attributes:
            continue
        for slot, value in enumerate(node.inputs[1:], start=1):
            array = None if value is None else constant(value)
            if array is not None and array.ndim > 1 and array.size == max(array.shape):
                node.replace_input_with(slot, add_initializer(model.graph, f"{value.name}_flat", array.reshape(-1)))


def dataset(inputs: NDArray[np.float32], model: Any) -> Any:
    """An ``nncf.Dataset`` of ``inputs`` ``[n, C, H, W]``, in pieces of the model's own batch."""
    import nncf

    name, batch = _input(model)
    starts = range(0, len(inputs) - batch + 1, batch)
    return nncf.Dataset([{name: inputs[start : start + batch]} for start in starts])


def layer_names(model: Any, names: Collection[str]) -> list[str]:
    """What NNCF calls the layers that ONNX calls ``names``.

    OpenVINO names an operator after its ONNX node, or, where a bias is added by another one, with a suffix.

    Raises:
        ModelError: one of them is not in the model.
    """
    present = {name.removesuffix(_WITHOUT_BIAS): name for name, _ in _nodes(model)}
    missing = [name for name in names if name not in present]
    if missing:
        raise ModelError(f"layer {missing[0]!r} cannot be left in float: NNCF's graph has no such node")
    return [present[name] for name in names]


def products_of_activations(model: Any) -> list[str]:
    """Names of the matrix products without a constant operand."""
    return [name for name, constant in _nodes(model) if not constant]


def _is_openvino(model: Any) -> bool:
    return hasattr(model, "get_ordered_ops")


def _input(model: Any) -> tuple[str, int]:
    """Name of the one input, and its batch; 1 where that is free."""
    if _is_openvino(model):
        port = model.input(0)
        return port.get_any_name(), port.partial_shape[0].get_length() if port.partial_shape[0].is_static else 1
    constants = {tensor.name for tensor in model.graph.initializer}
    value = next(value for value in model.graph.input if value.name not in constants)
    return value.name, value.type.tensor_type.shape.dim[0].dim_value or 1


def _nodes(model: Any) -> Iterator[tuple[str, bool]]:
    """Name of each layer and product, and whether an operand is constant."""
    if _is_openvino(model):
        for operator in model.get_ordered_ops():
            if operator.get_type_name() in _PRODUCTS:
                yield operator.get_friendly_name(), any(_is_constant(operator, slot) for slot in range(2))
        return
    constants = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("MatMul", "Gemm", "Conv", "ConvTranspose"):
            yield node.name, any(name in constants for name in node.input[:2])


def _is_constant(operator: Any, slot: int) -> bool:
    node = operator.input_value(slot).get_node()
    while node.get_type_name() in ("Convert", "Reshape", "Transpose"):
        node = node.input_value(0).get_node()
    return bool(node.get_type_name() == "Constant")
