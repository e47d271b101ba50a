"""ONNX Runtime's `quantize_dynamic` with its defaults; it looks at no calibration case.

python ort_dynamic.py MODEL.onnx CALIBRATION.npz OUT.onnx
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path


def main(model: str, _calibration: str, out: str) -> None:
    """Quantize."""
    from onnxruntime.quantization import quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(model, prepared, skip_symbolic_shape=True)
        quantize_dynamic(prepared, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
