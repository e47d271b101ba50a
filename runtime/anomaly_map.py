"""`AnomalyMap`: where an image is unlike normal ones; laid on the image when it is asked for, since that takes time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.image_spec import ImageSpec


class AnomalyMap:
    """How unlike normal images an image is at each of the network's places; never changed.

    Attributes:
        places: float32 ``[h, w]``, the logit of the score at each; read-only.
        height: of the image, px.
        width: likewise.
    """

    def __init__(self, places: NDArray[np.float32], spec: ImageSpec, height: int, width: int) -> None:
        """``spec`` is of the network's input."""
        self.places = places.copy()
        self.places.setflags(write=False)
        self.height, self.width = height, width
        self._spec = spec

    def on_image(self) -> NDArray[np.float32]:
        """The map at the image's own size, ``[height, width]``; NaN where the network did not see the image."""
        from medfm_compress.runtime.class_activation import score_on_image

        return score_on_image(self.places, self._spec, self.height, self.width)
