"""Weights in 8 or 4 bits by NNCF, activations in float: AWQ, scale estimation and GPTQ look at data, the rest does not.

- AWQ (Lin et al. 2023): channels of the input that are large get larger weights before rounding, and are divided by
  as much.
- scale estimation: a block's scale is searched so that the layer's output, and not its weight, is near.
- GPTQ (Frantar et al. 2022): columns are rounded one after the other, and what one loses the next ones make up for.

INT4 has one FP16 scale for each block of 64 weights, or less where 64 does not divide the axis; what has no such axis,
every Conv, and the last layer are in 8 bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfm_compress.compress.quantization.nncf_job import NncfJob
from medfm_compress.compress.quantization.nncf_models import dataset, read_model, write_model

_BLOCK = 64
_LEAST_BLOCK = 16


def compress_weights(onnx: bytes, inputs: NDArray[np.float32], job: NncfJob) -> tuple[bytes, ...]:
    """The contents of the compressed model's files.

    Args:
        onnx: the float graph.
        inputs: ``[n, C, H, W]``, for the roundings that look at data.
        job: what to do.
    """
    import nncf

    model = read_model(onnx, job.backend)
    if job.weight_bits == 8:
        return write_model(nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM))
    return write_model(nncf.compress_weights(model, **_four_bits(job), **_data(inputs, model, job)))


def _four_bits(job: NncfJob) -> dict[str, Any]:
    import nncf

    return {
        "mode": nncf.CompressWeightsMode.INT4_SYM,
        "group_size": _BLOCK,
        "ratio": 1.0,
        "advanced_parameters": nncf.AdvancedCompressionParameters(
            group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST, min_adjusted_group_size=_LEAST_BLOCK
        ),
    }


def _data(inputs: NDArray[np.float32], model: Any, job: NncfJob) -> dict[str, Any]:
    rounding = job.settings.rounding
    if not rounding:
        return {}
    cases = dataset(inputs, model)
    switches = {"gptq": True} if rounding == "gptq" else {"awq": True, "scale_estimation": True}
    return {"dataset": cases, "subset_size": cases.get_length(), **switches}
