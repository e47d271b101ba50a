"""INT8 for ONNX Runtime: its own static Q/DQ for convolutions, dynamic INT8 for the matrix products of transformers.

ONNX Runtime fuses DQ→Conv→Q only, so a Q must follow each operator: NNCF's graph, which quantizes inputs, leaves Conv
in float wherever something else stands between. Activations are U8 and weights S8 per channel; the other signs are
slower. In transformers only products with constant weights are quantized: attention itself, softmax, GELU and
LayerNorm stay in float. Without VNNI, U8×S8 saturates in 16 bits, so the variant must declare that it needs it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfm_compress.compress.quiet_nncf import silent
from medfm_compress.export.onnx_export import INPUT

ESTIMATORS = MappingProxyType({"qdq-minmax": False, "qdq-mean-minmax": True})
DYNAMIC = "dynamic"

_QUANTIZED = ["Conv", "Gemm", "MatMul", "Add", "Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool"]
_MEAN_WEIGHT = 0.05  # of the newest case in the moving mean of extremes


def has_attention(onnx: bytes) -> bool:
    """Whether the graph multiplies the result of a softmax, or holds a fused attention operator."""
    import onnx as onnx_library

    graph = onnx_library.load_model_from_string(onnx).graph
    softmax = {output for node in graph.node if node.op_type == "Softmax" for output in node.output}
    return any(
        node.op_type in ("Attention", "MultiHeadAttention")
        or (node.op_type in ("MatMul", "Einsum") and softmax & set(node.input))
        for node in graph.node
    )


def candidates(*, attention: bool) -> tuple[str, ...]:
    """The ways to quantize that are worth trying: dynamic ones are several times slower for convolutions."""
    return (DYNAMIC, *ESTIMATORS) if attention else tuple(ESTIMATORS)


def quantize_onnxruntime(onnx: bytes, calibration: NDArray[np.float32], method: str) -> bytes:
    """Quantize a serialized FP32 ONNX model for ONNX Runtime.

    Args:
        onnx: the model, with input ``image``.
        calibration: normalised inputs ``[n, C, H, W]``; ``dynamic`` does not look at them.
        method: one of `candidates`.

    Returns:
        The serialized INT8 model; its weights are int8 initializers.
    """
    import onnx as onnx_library

    model = onnx_library.shape_inference.infer_shapes(onnx_library.load_model_from_string(onnx))
    with silent(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        if method == DYNAMIC:
            _dynamic(model, path)
        else:
            _static(model, path, calibration, moving_mean=ESTIMATORS[method])
        quantized = onnx_library.load(path)
    del quantized.metadata_props[:]
    del quantized.graph.value_info[:]
    content: bytes = quantized.SerializeToString(deterministic=True)
    return content


def _static(model: Any, path: Path, calibration: NDArray[np.float32], *, moving_mean: bool) -> None:
    from onnxruntime import quantization

    quantization.quantize_static(
        model,
        path,
        _Reader(calibration),
        quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=_QUANTIZED,
        nodes_to_exclude=_products_of_activations(model),
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        calibrate_method=quantization.CalibrationMethod.MinMax,
        extra_options={"CalibMovingAverage": moving_mean, "CalibMovingAverageConstant": _MEAN_WEIGHT},
    )


def _dynamic(model: Any, path: Path) -> None:
    from onnxruntime import quantization

    quantization.quantize_dynamic(
        model,
        path,
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=True,
        weight_type=quantization.QuantType.QInt8,
        nodes_to_exclude=_products_of_activations(model),
        extra_options={"MatMulConstBOnly": True},
    )


def _products_of_activations(model: Any) -> list[str]:
    """Names of the matrix products in which neither side is a weight (QKᵀ and PV)."""
    weights = {initializer.name for initializer in model.graph.initializer}
    weights |= {output for node in model.graph.node if node.op_type == "Constant" for output in node.output}
    return [node.name for node in model.graph.node if node.op_type == "MatMul" and not weights & set(node.input)]


class _Reader:
    """What ONNX Runtime's calibrators read from: ``get_next`` until None. They check the type by duck only."""

    def __init__(self, calibration: NDArray[np.float32]) -> None:
        self._cases: Iterator[dict[str, NDArray[np.float32]]] = iter(
            [{INPUT: calibration[i : i + 1]} for i in range(len(calibration))]
        )

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return next(self._cases, None)
