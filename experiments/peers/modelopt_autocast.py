"""NVIDIA ModelOpt AutoCast: FP16 written into the graph, with the nodes in FP32 that its rules choose; its defaults.

python modelopt_autocast.py MODEL.onnx CALIBRATION.npz OUT.onnx

CALIBRATION holds ``image`` ``[n, C, H, W]``; AutoCast looks at each case's activations, one at a time. Inputs and
outputs stay FP32.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np


def main(model: str, calibration: str, out: str) -> None:
    """Convert."""
    import onnx
    from modelopt.onnx.autocast import convert_to_mixed_precision

    images = np.load(calibration)["image"]
    with tempfile.TemporaryDirectory() as folder:
        for number, image in enumerate(images):
            np.savez(Path(folder) / f"{number:04}.npz", image=image[None])
        converted = convert_to_mixed_precision(
            model, low_precision_type="fp16", keep_io_types=True, calibration_data=folder
        )
    onnx.save(converted, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
