"""NNCF's post-training quantization in either of its backends: with its defaults, or with MINMAX for activations.

python nncf_default.py MODEL.onnx CALIBRATION.npz OUT.xml [minmax]     OpenVINO backend; an IR
python nncf_default.py MODEL.onnx CALIBRATION.npz OUT.onnx [minmax]    ONNX backend; Q/DQ for ONNX Runtime

``model_type=TRANSFORMER`` is what its documentation tells owners of transformers to set, and is set for graphs with a
softmax before their last nodes.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np


def main(model_path: str, calibration: str, out: str, ranges: str = "") -> None:
    """Quantize."""
    import nncf
    import onnx

    graph = onnx.load(model_path)
    attention = any(node.op_type in ("Softmax", "Attention", "MultiHeadAttention") for node in graph.graph.node)
    batch = graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    images = np.load(calibration)["image"]
    starts = range(0, len(images) - batch + 1, batch)
    dataset = nncf.Dataset([{"image": images[i : i + batch]} for i in starts])
    options: dict[str, Any] = {"model_type": nncf.ModelType.TRANSFORMER} if attention else {}
    if ranges == "minmax":
        options["advanced_parameters"] = minmax()
    if out.endswith(".xml"):
        import openvino

        quantized = nncf.quantize(openvino.Core().read_model(model_path), dataset, **options)
        openvino.save_model(quantized, out, compress_to_fp16=False)
    else:
        onnx.save(nncf.quantize(graph, dataset, **options), out)


def minmax() -> Any:
    """The smallest and the largest value seen, for activations."""
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    return AdvancedQuantizationParameters(activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX)


if __name__ == "__main__":
    main(*sys.argv[1:])
