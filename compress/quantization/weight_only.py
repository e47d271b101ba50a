"""Weights in INT8 or INT4, activations in float: for size on disk and in memory, not for speed.

INT8 has one scale an output channel. INT4 has one scale for each block of 32 weights along the summed axis of a MatMul
or Gemm, ``q = round(w / scale)`` in [-7, 7] with ``scale = max|w| / 7``; what has no such axis, or one that is no
multiple of 32, and every Conv, is INT8. OpenVINO keeps weights behind a DequantizeLinear compressed in memory; ONNX
Runtime does so for the INT4 ones, as ``com.microsoft::MatMulNBits``, and expands the others when it runs.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.compress.quantization.qdq import Placement, write_qdq
from medfm_compress.compress.quantization.weights import Layer, add_initializer, attribute, constant, layers, take_place
from medfm_compress.runtime.bundle.manifest import Backend
from medfm_compress.runtime.errors import InputError

if TYPE_CHECKING:
    import onnx_ir as ir

BLOCK = 32
BITS = (4, 8)
DOMAIN = "com.microsoft"
_LIMIT = 7
_OFFSET = 8  # MatMulNBits stores q + 8 in four bits, unless told otherwise
_OPSET_OF_BLOCKS = 21


class Blocks(NamedTuple):
    """``values``: int8 in [-7, 7], ``[rows, columns]``; ``scales``: float32, positive, ``[rows / 32, columns]``."""

    values: NDArray[np.int8]
    scales: NDArray[np.float32]


def weight_only(model: ir.Model, bits: int, backend: Backend, exclude: Collection[str] = ()) -> ir.Model:
    """A new model whose layers keep their weights in ``bits`` bits.

    Args:
        model: float32.
        bits: 8 or 4.
        backend: whose form INT4 weights take.
        exclude: names of layers that stay in float.

    Raises:
        InputError: other bits.
    """
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    if bits not in BITS:
        raise InputError(f"weights of {bits} bits cannot be written: allowed are {BITS}")
    compressed = model.clone()
    if bits == 4:
        every = [layer for layer in layers(compressed.graph) if layer.name not in exclude]
        blocked = [layer for layer in every if _has_blocks(layer)]
        for layer in blocked:
            (_as_matmul_nbits if backend == "onnxruntime" else _behind_dequantize)(compressed.graph, layer)
        if blocked:
            _declare(compressed, backend)
        RemoveUnusedNodesPass()(compressed)
    rest = tuple(layer.name for layer in layers(compressed.graph) if layer.name not in exclude)
    return write_qdq(compressed, Placement(layers=rest), {})


def quantize_blocks(weight: NDArray[np.float32]) -> Blocks:
    """INT4 blocks of 32 rows of ``weight``, float32 ``[rows, columns]`` with rows a multiple of 32."""
    blocks = weight.reshape(-1, BLOCK, weight.shape[1])
    scales = (np.abs(blocks).max(axis=1) / _LIMIT).astype(np.float32)
    scales = np.where(scales > np.finfo(np.float32).tiny, scales, np.float32(1.0))
    values = np.clip(np.rint(blocks / scales[:, None]), -_LIMIT, _LIMIT).astype(np.int8)
    return Blocks(values.reshape(weight.shape), scales)


def _has_blocks(layer: Layer) -> bool:
    """Whether the layer is a plain product whose summed axis consists of whole blocks."""
    shape = layer.weight.shape
    if layer.node.op_type not in ("MatMul", "Gemm") or shape is None or len(shape) != 2:
        return False
    plain = attribute(layer.node, "alpha", 1.0) == 1.0 and attribute(layer.node, "beta", 1.0) == 1.0
    added = layer.node.op_type == "MatMul" or len(layer.node.inputs) < 3 or layer.bias is not None
    return bool(plain and added and int(shape[1 - layer.axis]) % BLOCK == 0)


def _rows(layer: Layer) -> NDArray[np.float32]:
    """The weight as ``[summed, channels]``."""
    array = constant(layer.weight)
    assert array is not None  # noqa: S101 - a layer has a constant weight
    rows: NDArray[np.float32] = np.ascontiguousarray(array if layer.axis == 1 else array.T)
    return rows


def _behind_dequantize(graph: ir.Graph, layer: Layer) -> None:
    import ml_dtypes
    import onnx_ir as ir

    blocks, name = quantize_blocks(_rows(layer)), f"{layer.name}_weight"
    turned = layer.axis == 0
    values, scales = (blocks.values.T, blocks.scales.T) if turned else blocks
    stored: NDArray[Any] = np.ascontiguousarray(values).astype(ml_dtypes.int4)
    constants = [
        add_initializer(graph, f"{name}_quantized", stored),
        add_initializer(graph, f"{name}_scale", np.ascontiguousarray(scales)),
    ]
    node = ir.node("DequantizeLinear", constants, {"axis": 1 - layer.axis, "block_size": BLOCK}, name=f"{name}_DQ")
    node.outputs[0].shape, node.outputs[0].type = layer.weight.shape, layer.weight.type
    graph.insert_before(layer.node, node)
    layer.node.replace_input_with(1, node.outputs[0])


def _as_matmul_nbits(graph: ir.Graph, layer: Layer) -> None:
    import onnx_ir as ir

    rows, name = _rows(layer), f"{layer.name}_weight"
    blocks = quantize_blocks(rows)
    summed, channels = rows.shape
    nibbles = (blocks.values.T + _OFFSET).astype(np.uint8).reshape(channels, summed // BLOCK, BLOCK)
    packed = nibbles[..., 0::2] | (nibbles[..., 1::2] << 4)
    inputs: list[ir.Value | None] = [
        layer.input,
        add_initializer(graph, f"{name}_quantized", np.ascontiguousarray(packed)),
        add_initializer(graph, f"{name}_scale", np.ascontiguousarray(blocks.scales.T).reshape(-1)),
    ]
    bias = layer.bias
    last = layer.node if bias is None else bias.node
    if bias is not None:
        inputs += [None, None, bias.node.inputs[bias.slot]]
    sizes = {"K": summed, "N": channels, "bits": 4, "block_size": BLOCK}
    node = ir.node("MatMulNBits", inputs, sizes, domain=DOMAIN, name=layer.name)
    take_place(graph, last, node)
    for old in dict.fromkeys((last, layer.node)):
        graph.remove(old, safe=True)


def _declare(model: ir.Model, backend: str) -> None:
    """Name the operator sets that the new nodes need."""
    from onnxscript import version_converter

    if backend == "onnxruntime":
        model.opset_imports[DOMAIN] = 1
    elif model.opset_imports.get("", 0) < _OPSET_OF_BLOCKS:
        version_converter.convert_version(model, _OPSET_OF_BLOCKS)
        model.ir_version = max(model.ir_version, 10)
