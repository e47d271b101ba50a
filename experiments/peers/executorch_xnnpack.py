"""ExecuTorch's static INT8 for XNNPACK (PT2E, `XNNPACKQuantizer`), per channel as its documentation shows.

python executorch_xnnpack.py MODULE CALIBRATION.npz OUT.pte

MODULE is what `network_worker.load_module` takes; the program has a batch of one.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from network_worker import load_module


def main(module: str, calibration: str, out: str) -> None:
    """Quantize and lower."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from executorch.exir import to_edge_transform_and_lower
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    images = torch.from_numpy(np.load(calibration)["image"])
    example = (images[:1].contiguous(),)
    with torch.no_grad():
        program = torch.export.export(load_module(module), example).module()
        quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
        prepared = prepare_pt2e(program, quantizer)
        for start in range(len(images)):
            prepared(images[start : start + 1])
        converted = torch.export.export(convert_pt2e(prepared), example)
        lowered = to_edge_transform_and_lower(converted, partitioner=[XnnpackPartitioner()])
    Path(out).write_bytes(lowered.to_executorch().buffer)


if __name__ == "__main__":
    main(*sys.argv[1:])
