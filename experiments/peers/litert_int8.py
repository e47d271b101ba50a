"""LiteRT's static INT8 (`ai_edge_quantizer`, recipe ``static_wi8_ai8``) of what `litert_torch` converts.

python litert_int8.py MODULE CALIBRATION.npz OUT.tflite

MODULE is what `network_worker.load_module` takes; the network has a batch of one, and float32 in NCHW at its ends.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from network_worker import load_module


def main(module: str, calibration: str, out: str) -> None:
    """Convert and quantize."""
    import litert_torch
    import torch
    from ai_edge_quantizer import algorithm_manager, qtyping, quantizer, recipe

    images = np.load(calibration)["image"]
    with tempfile.TemporaryDirectory() as folder:
        floats = Path(folder) / "float.tflite"
        litert_torch.convert(load_module(module), (torch.from_numpy(images[:1]),)).export(str(floats))
        work = quantizer.Quantizer(str(floats), recipe.static_wi8_ai8())
        for end in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
            work.update_quantization_recipe(".*", end, algorithm_key=algorithm_manager.AlgorithmName.NO_QUANTIZE)
        name = input_name(floats)
        ranges = work.calibrate({"serving_default": [{name: image[None]} for image in images]})
        work.quantize(ranges).export_model(out)


def input_name(path: Path) -> str:
    """Of the one input of the network's signature."""
    from ai_edge_litert.interpreter import Interpreter

    return str(Interpreter(model_path=str(path)).get_signature_list()["serving_default"]["inputs"][0])


if __name__ == "__main__":
    main(*sys.argv[1:])
