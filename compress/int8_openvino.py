"""INT8 for OpenVINO: NNCF post-training quantization of the FP32 ONNX graph, written as IR with int8 weights.

OpenVINO wants quantized inputs at each operator, which is what NNCF writes. Activations are asymmetric (preset
``mixed``): half of the range is lost otherwise wherever SiLU or GELU leave a short negative tail. NNCF's own range
estimator (averages of extremes) clips; the min–max one does not. Neither is better everywhere, so both are offered.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfm_compress.compress.quiet_nncf import import_nncf, silent
from medfm_compress.export.onnx_export import INPUT
from medfm_compress.export.openvino_ir import read_onnx, serialise

ESTIMATORS = MappingProxyType({"nncf-default": "", "nncf-minmax": "MINMAX"})


def quantize_openvino(
    onnx: bytes, calibration: NDArray[np.float32], estimator: str, *, attention: bool
) -> tuple[bytes, bytes]:
    """Quantize a serialized FP32 ONNX model for OpenVINO.

    Args:
        onnx: the model, with input ``image``.
        calibration: normalised inputs ``[n, C, H, W]``; all of them are used.
        estimator: a key of `ESTIMATORS`.
        attention: the graph has attention; NNCF then keeps its sensitive operators in float and applies SmoothQuant.

    Returns:
        The IR's ``.xml`` and ``.bin``.

    Raises:
        MissingDependency: OpenVINO or NNCF is not installed.
        ModelError: OpenVINO cannot read the model.
    """
    model = read_onnx(onnx)
    nncf = import_nncf()
    dataset = nncf.Dataset([{INPUT: calibration[i : i + 1]} for i in range(len(calibration))])
    with silent():
        quantized = nncf.quantize(
            model,
            dataset,
            preset=nncf.QuantizationPreset.MIXED,
            target_device=nncf.TargetDevice.CPU,
            subset_size=len(calibration),
            model_type=nncf.ModelType.TRANSFORMER if attention else None,
            advanced_parameters=_parameters(nncf, ESTIMATORS[estimator]),
        )
        return tuple(serialise(quantized))  # type: ignore[return-value]


def _parameters(nncf: Any, estimator: str) -> Any:
    if not estimator:
        return None
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    ranges = getattr(RangeEstimatorParametersSet, estimator)
    return nncf.AdvancedQuantizationParameters(activations_range_estimator_params=ranges)
