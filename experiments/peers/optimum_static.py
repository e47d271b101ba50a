"""Optimum's static INT8 for a CPU with AVX-512 VNNI, with its defaults.

python optimum_static.py MODEL.onnx CALIBRATION.npz OUT.onnx
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np


def main(model: str, calibration: str, out: str) -> None:
    """Quantize."""
    import onnx
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoCalibrationConfig, AutoQuantizationConfig

    batch = onnx.load(model, load_external_data=False).graph.input[0].type.tensor_type.shape.dim[0].dim_value
    images = np.load(calibration)["image"]
    cases = _Cases([{"image": image} for image in images[: len(images) // batch * batch]])
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(model, Path(folder) / "model.onnx")
        quantizer = ORTQuantizer.from_pretrained(Path(folder))
        config = AutoQuantizationConfig.avx512_vnni(is_static=True)
        ranges = quantizer.fit(
            dataset=cases,
            calibration_config=AutoCalibrationConfig.minmax(cases),
            onnx_augmented_model_name=str(Path(folder) / "augmented.onnx"),
            operators_to_quantize=config.operators_to_quantize,
            batch_size=batch,
        )
        quantizer.quantize(quantization_config=config, save_dir=folder, calibration_tensors_range=ranges)
        shutil.copy(Path(folder) / "model_quantized.onnx", out)


class _Cases(list):  # type: ignore[type-arg]
    """What Optimum reads of a `datasets.Dataset`: its rows, and what it is called."""

    info = type("Info", (), {"builder_name": "cases", "config_name": ""})
    split, num_rows = "train", 0


if __name__ == "__main__":
    main(*sys.argv[1:])
