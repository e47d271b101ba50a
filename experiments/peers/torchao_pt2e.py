"""TorchAO's static INT8 for x86 (PT2E, `X86InductorQuantizer`) with its defaults.

python torchao_pt2e.py MODULE CALIBRATION.npz OUT.pt2

MODULE is what `network_worker.load_module` takes. OUT is an exported program of its quantized form; `network_worker`
compiles it with Inductor, as its documentation asks.
"""

from __future__ import annotations

import sys

import numpy as np

from network_worker import load_module


def main(module: str, calibration: str, out: str) -> None:
    """Quantize."""
    import torch
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    images = torch.from_numpy(np.load(calibration)["image"])
    example = (images[:1].contiguous(),)
    with torch.no_grad():
        program = torch.export.export(load_module(module), example).module()
        quantizer = x86.X86InductorQuantizer()
        quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
        prepared = prepare_pt2e(program, quantizer)
        for start in range(len(images)):
            prepared(images[start : start + 1])
        converted = convert_pt2e(prepared)
        torch.export.save(torch.export.export(converted, example), out)


if __name__ == "__main__":
    main(*sys.argv[1:])
