"""Rule of an `ImageSpec` → how its stain is normalised; by training, bench and device alike."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.errors import ImageRefused
from medfm_compress.runtime.image_spec import MacenkoStain, StainRule
from medfm_compress.runtime.stain import macenko, reinhard


def normalise_stain(planes: NDArray[np.float32], rule: StainRule) -> NDArray[np.float32]:
    """``planes`` ``[3, H, W]`` in [0, 1] in the colours of the rule's reference, likewise float32.

    An image whose own stains cannot be told (blank, grey, of other dyes) is given back as it is, or refused where the
    rule says so.

    Raises:
        ImageRefused: see above.
    """
    pixels = planes.reshape(3, -1).T.astype(np.float64)
    normalised = macenko.normalise(pixels, rule) if isinstance(rule, MacenkoStain) else reinhard.normalise(pixels, rule)
    if normalised is not None:
        return np.ascontiguousarray(normalised.T, np.float32).reshape(planes.shape)
    if rule.others == "refuse":
        raise ImageRefused(
            "the image shows too little tissue, or none in the stains that the network was made for; give a region of "
            "tissue in these stains"
        )
    return planes
