"""Outlier stress: the same function, with channels that are 30 times larger than the rest.

Large pre-trained transformers have such channels and small networks trained on few images do not, so an INT8 recipe
that was tried on the latter only is not known to hold. Some channels of every activation that can be rescaled
(`rescaling`) are multiplied, in the LayerNorm or layer that makes them, and the weights that read them divided.
Logits stay the same up to rounding; quantization with one scale an activation suffers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medfm_compress.compress.quantization.channel_rescaling import finish, groups, rescale
from medfm_compress.runtime.errors import InputError

if TYPE_CHECKING:
    import onnx_ir as ir

FACTOR = 30.0
SHARE = 0.02


def stress(model: ir.Model, factor: float = FACTOR, share: float = SHARE, seed: int = 0) -> ir.Model:
    """A new model that computes the same, with outlier channels; ``model`` is left as it is.

    Args:
        model: a float graph.
        factor: by how much the chosen channels grow, > 0.
        share: of the channels of each activation, in (0, 1]; at least one is chosen.
        seed: of the choice.

    Raises:
        InputError: a factor or share out of range, or a graph in which nothing can be rescaled.
    """
    if not (factor > 0 and 0 < share <= 1):
        raise InputError(f"factor {factor} and share {share} of channels; give factor > 0 and share in (0, 1]")
    new = model.clone()
    random = np.random.Generator(np.random.PCG64(seed))
    candidates = list(groups(new.graph))
    if not candidates:
        raise InputError("no activation of this graph can be rescaled: no layer reads a LayerNorm, or a layer by ReLU")
    for group in candidates:
        factors = np.ones(group.channels)
        chosen = random.permutation(group.channels)[: max(1, round(share * group.channels))]
        factors[chosen] = 1 / factor
        rescale(group, factors)
    finish(new)
    return new
