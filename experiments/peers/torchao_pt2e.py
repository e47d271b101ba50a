"""TorchAO's static INT8 for x86 (PT2E, `X86InductorQuantizer`) with its defaults.

python torchao_pt2e.py MODEL_FOLDER CALIBRATION.npz OUT.pt2 [BATCH]

OUT is an exported program of its quantized form; `torch_worker` compiles it with Inductor, as its documentation asks.
"""

from __future__ import annotations

import sys

import numpy as np

from torch_worker import load_module


def main(folder: str, calibration: str, out: str, batch: str = "1") -> None:
    """Quantize."""
    import torch
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    size = int(batch)
    images = torch.from_numpy(np.load(calibration)["image"])
    example = (images[:size].contiguous(),)
    with torch.no_grad():
        program = torch.export.export(load_module(folder), example).module()
        quantizer = x86.X86InductorQuantizer()
        quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
        prepared = prepare_pt2e(program, quantizer)
        for start in range(0, len(images) - size + 1, size):
            prepared(images[start : start + size])
        converted = convert_pt2e(prepared)
        torch.export.save(torch.export.export(converted, example), out)


if __name__ == "__main__":
    main(*sys.argv[1:])
