"""ONNX Runtime's `quantize_static` with its defaults.

python ort_static.py MODEL.onnx CALIBRATION.npz OUT.onnx

The graph goes through ``quant_pre_process`` first, as its documentation asks.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np


class Reader:
    """Calibration cases, ``batch`` at a time, until None."""

    def __init__(self, path: str, model: Any) -> None:
        images = np.load(path)["image"]
        batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value
        starts = range(0, len(images) - batch + 1, batch)
        self._cases: Iterator[dict[str, Any]] = iter([{"image": images[i : i + batch]} for i in starts])

    def get_next(self) -> dict[str, Any] | None:
        """The next input."""
        return next(self._cases, None)


def main(model_path: str, calibration: str, out: str) -> None:
    """Quantize."""
    import onnx
    from onnxruntime.quantization import quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(model_path, prepared, skip_symbolic_shape=True)
        quantize_static(prepared, out, Reader(calibration, onnx.load(prepared)))


if __name__ == "__main__":
    main(*sys.argv[1:])
