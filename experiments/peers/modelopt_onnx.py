"""NVIDIA ModelOpt's INT8 Q/DQ, calibrated on the CPU; what is not quantized stays in FP32 (its default is FP16).

python modelopt_onnx.py MODEL.onnx CALIBRATION.npz OUT.onnx
"""

from __future__ import annotations

import sys

import numpy as np


def main(model: str, calibration: str, out: str) -> None:
    """Quantize."""
    import onnx
    from modelopt.onnx.quantization import quantize

    batch = onnx.load(model, load_external_data=False).graph.input[0].type.tensor_type.shape.dim[0].dim_value
    images = np.load(calibration)["image"]
    whole = len(images) // batch * batch
    quantize(
        model,
        quantize_mode="int8",
        calibration_data={"image": images[:whole]},
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=out,
        log_level="WARNING",
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
